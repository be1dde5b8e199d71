/* scheduler.c - the scheduler thread and the life of everything; see scheduler.h. */
#include "scheduler/scheduler.h"

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "backends/base/thread.h"
#include "scheduler/front.h"
#include "scheduler/worker.h"

/* ---- the scheduler thread ------------------------------------------------------------------ */

static void *scheduler_main(void *arg)
{
    struct sch_scheduler *scheduler = arg;
    struct sch_loop *loop = scheduler->loop;
    uint64_t wake_ns = 0;
    while (!sch_loop_is_over(loop)) {
        fm_thread_idle(true);
        struct fm_link *link = fm_mailbox_take_until(loop->inbox, wake_ns);
        fm_thread_idle(false);
        fm_thread_beat();
        /* A bounded number of messages: one for each slot, the bell and the step. */
        for (uint32_t i = 0; i < loop->slot_count + 2 && link != NULL; i++) {
            sch_loop_receive(loop, link);
            link = i + 1 < loop->slot_count + 2 ? fm_mailbox_poll(loop->inbox) : NULL;
        }
        struct sch_step *step = sch_loop_turn(loop, &wake_ns);
        if (step != NULL)
            sch_worker_give(scheduler->worker, step);
        sch_loop_post(loop);
    }
    return NULL;
}

/* ---- life ---------------------------------------------------------------------------------- */

enum fm_status sch_start(struct eng_engine *engine, const struct eng_text *text,
                         const struct sch_options *options, struct sch_scheduler **ret_scheduler,
                         struct fm_err *err)
{
    struct sch_scheduler *scheduler = fm_alloc(sizeof *scheduler);
    if (scheduler == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the scheduler");
    enum fm_status status = sch_front_init(scheduler, eng_info(engine), text, options, err);
    if (status != FM_OK)
        goto out_free;
    status = sch_worker_start(engine, scheduler->loop->inbox, &scheduler->worker, err);
    if (status != FM_OK)
        goto out_front;
    status = fm_thread_start("scheduler", FM_THREAD_SCHEDULER, scheduler_main, scheduler,
                             &scheduler->thread, err);
    if (status != FM_OK)
        goto out_worker;
    *ret_scheduler = scheduler;
    return FM_OK;

out_worker:
    sch_worker_stop(scheduler->worker);
out_front:
    sch_front_done(scheduler);
out_free:
    fm_free(scheduler);
    return status;
}

void sch_stop(struct sch_scheduler *scheduler)
{
    if (scheduler == NULL)
        return;
    struct sch_gate *gate = &scheduler->loop->gate;
    atomic_store_explicit(&gate->is_draining, true, memory_order_relaxed);
    atomic_store_explicit(&gate->is_stopping, true, memory_order_release);
    sch_gate_ring(gate);
    fm_thread_join(scheduler->thread);
    sch_worker_stop(scheduler->worker);
    sch_front_done(scheduler);
    fm_free(scheduler);
}
