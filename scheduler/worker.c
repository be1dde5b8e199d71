/* worker.c - take a step, run it, put it back; see worker.h. */
#include "scheduler/worker.h"

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "backends/base/thread.h"

struct sch_worker {
    struct eng_engine *engine;
    struct fm_mailbox *inbox, *outbox;
    struct fm_thread *thread;
};

void sch_step_run(struct sch_step *step, struct eng_engine *engine)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_WORKER));
    step->start_ns = fm_clock_ns();
    step->status = eng_run(engine, &step->plan, step->drawn, &step->err);
    step->end_ns = fm_clock_ns();
}

/* Ends when the inbox is closed and empty. */
static void *worker_main(void *arg)
{
    struct sch_worker *worker = arg;
    for (;;) {
        fm_thread_idle(true);
        struct fm_link *link = fm_mailbox_take(worker->inbox);
        fm_thread_idle(false);
        fm_thread_beat();
        if (link == NULL)
            return NULL;
        struct sch_step *step = FM_CONTAINER(link, struct sch_step, message.link);
        sch_step_run(step, worker->engine);
        fm_mailbox_put(worker->outbox, &step->message.link);
    }
}

enum fm_status sch_worker_start(struct eng_engine *engine, struct fm_mailbox *outbox,
                                struct sch_worker **ret_worker, struct fm_err *err)
{
    struct sch_worker *worker = fm_alloc(sizeof *worker);
    if (worker == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a worker");
    worker->engine = engine;
    worker->outbox = outbox;
    enum fm_status status = fm_mailbox_new(false, &worker->inbox, err);
    if (status != FM_OK)
        goto out_free;
    status = fm_thread_start("worker", FM_THREAD_WORKER, worker_main, worker, &worker->thread, err);
    if (status != FM_OK)
        goto out_mailbox;
    *ret_worker = worker;
    return FM_OK;

out_mailbox:
    fm_mailbox_free(worker->inbox);
out_free:
    fm_free(worker);
    return status;
}

void sch_worker_give(struct sch_worker *worker, struct sch_step *step)
{
    fm_mailbox_put(worker->inbox, &step->message.link);
}

void sch_worker_stop(struct sch_worker *worker)
{
    if (worker == NULL)
        return;
    fm_mailbox_close(worker->inbox);
    fm_thread_join(worker->thread);
    fm_mailbox_free(worker->inbox);
    fm_free(worker);
}
