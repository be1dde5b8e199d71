/* prep.c - the preparation pool; see prep.h.
 *
 * A call that is in the pool belongs to the pool: the main thread touches nothing of it but
 * is_canceled, until srv_prep_take gives it back. */
#include "daemon/prep.h"

#include <stdio.h>

#include "backends/base/assert.h"
#include "backends/base/mailbox.h"
#include "backends/base/mem.h"
#include "backends/base/thread.h"
#include "daemon/call.h"
#include "daemon/route.h"

struct worker {
    struct fm_thread *thread;
    struct fm_mailbox *inbox;
    struct fm_mailbox *outbox; /* the pool's */
    uint64_t load;             /* main thread: bytes and calls before a new one */
};

struct srv_prep {
    struct fm_mailbox *outbox;
    uint32_t count; /* main thread: calls in the pool */
    uint32_t worker_count;
    struct worker workers[];
};

/* Rendering and tokenizing cost by the byte; a call costs something even when it is empty. */
static uint64_t load_of(const struct srv_call *call)
{
    return call->body.length + 1024;
}

static void *worker_main(void *arg)
{
    struct worker *worker = arg;
    for (;;) {
        fm_thread_idle(true);
        struct fm_link *link = fm_mailbox_take(worker->inbox);
        fm_thread_idle(false);
        fm_thread_beat();
        if (link == NULL)
            return NULL;
        struct srv_call *call = FM_CONTAINER(link, struct srv_call, link);
        FM_ASSERT(call->phase == SRV_CALL_PREPARE);
        if (!atomic_load_explicit(&call->is_canceled, memory_order_relaxed))
            call->route->handler->prepare(call);
        fm_mailbox_put(worker->outbox, link);
    }
}

enum fm_status srv_prep_start(uint32_t threads, struct srv_prep **ret_prep, struct fm_err *err)
{
    FM_ASSERT(threads > 0);
    struct srv_prep *prep = fm_alloc(sizeof *prep + threads * sizeof prep->workers[0]);
    if (prep == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u preparation threads", threads);
    enum fm_status status = fm_mailbox_new(true, &prep->outbox, err);
    for (uint32_t i = 0; i < threads && status == FM_OK; i++) {
        struct worker *worker = &prep->workers[i];
        char name[FM_THREAD_NAME_BYTES];
        (void)snprintf(name, sizeof name, "prep/%u", i);
        worker->outbox = prep->outbox;
        status = fm_mailbox_new(false, &worker->inbox, err);
        if (status != FM_OK)
            break;
        prep->worker_count++;
        status = fm_thread_start(name, FM_THREAD_PREP, worker_main, worker, &worker->thread, err);
    }
    if (status != FM_OK) {
        srv_prep_stop(prep);
        return status;
    }
    *ret_prep = prep;
    return FM_OK;
}

void srv_prep_stop(struct srv_prep *prep)
{
    if (prep == NULL)
        return;
    for (uint32_t i = 0; i < prep->worker_count; i++)
        fm_mailbox_close(prep->workers[i].inbox);
    for (uint32_t i = 0; i < prep->worker_count; i++) {
        fm_thread_join(prep->workers[i].thread);
        fm_mailbox_free(prep->workers[i].inbox);
    }
    FM_ASSERT(prep->count == 0);
    fm_mailbox_free(prep->outbox);
    fm_free(prep);
}

void srv_prep_put(struct srv_prep *prep, struct srv_call *call)
{
    FM_ASSERT(call->phase == SRV_CALL_PREPARE);
    FM_ASSERT(call->route->handler->prepare != NULL);
    uint32_t best = 0;
    for (uint32_t i = 1; i < prep->worker_count; i++)
        if (prep->workers[i].load < prep->workers[best].load)
            best = i;
    call->worker = best;
    prep->workers[best].load += load_of(call);
    prep->count++;
    fm_mailbox_put(prep->workers[best].inbox, &call->link);
}

struct srv_call *srv_prep_take(struct srv_prep *prep)
{
    struct fm_link *link = fm_mailbox_poll(prep->outbox);
    if (link == NULL)
        return NULL;
    struct srv_call *call = FM_CONTAINER(link, struct srv_call, link);
    FM_ASSERT(prep->count > 0 && prep->workers[call->worker].load >= load_of(call));
    prep->workers[call->worker].load -= load_of(call);
    prep->count--;
    return call;
}

int srv_prep_fd(const struct srv_prep *prep)
{
    return fm_mailbox_fd(prep->outbox);
}

uint32_t srv_prep_count(const struct srv_prep *prep)
{
    return prep->count;
}
