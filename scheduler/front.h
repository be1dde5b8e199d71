/* front.h - the main thread's side: slots, limits, submit and cancel; and the struct behind it.
 *
 * Slots travel in a circle: the main thread takes one from its free list, fills it and puts it into
 * the scheduler's inbox; when the request is over the scheduler puts it into `released`, where the
 * main thread finds it.  At every moment one thread owns a slot; the other one may only touch its
 * two atomics. */
#ifndef SCH_FRONT_H
#define SCH_FRONT_H

#include "scheduler/loop.h"

struct fm_thread;
struct sch_worker;

struct sch_scheduler {
    struct sch_loop *loop;
    struct sch_worker *worker; /* NULL where a test turns the loop itself */
    struct fm_thread *thread;
    uint32_t context_max;
    struct sch_request **free_slots; /* the main thread's, [loop->slot_count] */
    uint32_t free_count;
};

/* Everything but the threads.  A failure leaves nothing behind. */
enum fm_status sch_front_init(struct sch_scheduler *scheduler, const struct eng_info *info,
                              const struct eng_text *text, const struct sch_options *options,
                              struct fm_err *err) FM_MUST_CHECK;
/* No request is left. */
void sch_front_done(struct sch_scheduler *scheduler);

#endif
