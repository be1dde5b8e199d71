/* worker.h - the thread that runs steps on a device.
 *
 * It owns a step between take and put, and touches no request, no page table and no stream but
 * through the step, which stays unchanged meanwhile. */
#ifndef SCH_WORKER_H
#define SCH_WORKER_H

#include "scheduler/batch.h"

struct sch_worker; /* opaque: worker.c */

/* Start the thread.  Finished steps go to outbox; engine and outbox outlive the worker. */
enum fm_status sch_worker_start(struct eng_engine *engine, struct fm_mailbox *outbox,
                                struct sch_worker **ret_worker, struct fm_err *err) FM_MUST_CHECK;

/* Hand over a step.  Any thread; does not wait. */
void sch_worker_give(struct sch_worker *worker, struct sch_step *step);

/* End the thread once it has run what it was given, and free.  NULL is allowed. */
void sch_worker_stop(struct sch_worker *worker);

/* Run the step on the calling thread and write status, err and times into it. */
void sch_step_run(struct sch_step *step, struct eng_engine *engine);

#endif
