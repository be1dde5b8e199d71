/* loop.h - one turn of the scheduler: take messages, end what must end, admit, compose a step.
 *
 * No call here waits, so that a test can turn the loop itself, run each step on its own thread and
 * look at everything in between; scheduler.c turns it on the scheduler thread.
 *
 * One step is in flight at a time: the next one needs the tokens of this one, and on a device that
 * serves all sequences at once there is nothing to gain from dividing them.  While it runs the loop
 * takes messages, ends what waits, and admits; what a step holds is left alone. */
#ifndef SCH_LOOP_H
#define SCH_LOOP_H

#include "scheduler/batch.h"
#include "scheduler/queue.h"
#include "scheduler/stats.h"

/* A stream that the main thread has to be told of. */
struct sch_news {
    struct sch_stream *stream;
    struct sch_request *request; /* NULL: it is over, let go of the stream */
};

struct sch_loop {
    struct sch_options options;
    const struct eng_text *text;
    struct kv_layout layout;
    uint32_t vocab;
    struct sch_limits limits;

    struct kv_cache *cache;
    struct sch_step *step; /* the scheduler's while !is_step_running */
    bool is_step_running;

    struct fm_mailbox *inbox;    /* to this loop */
    struct fm_mailbox *released; /* slots, back to the main thread */
    struct sch_gate gate;
    struct sch_board board;

    struct sch_request *slots;
    uint32_t slot_count;
    struct sch_queue queue;
    struct sch_request **active; /* RUNNING, PARKED and FLUSHING, in the order of admission */
    uint32_t active_count;
    struct sch_request **stepped; /* [seqs_max]: whose step is being taken in */
    struct sch_news *news;        /* [slot_count] */
    uint32_t news_count;

    struct sch_stats stats;
    double rows_per_s, answer_tokens; /* moving averages; 0: nothing was measured */
};

/* What the loop takes at start: cache, step, slots, mailboxes.  `info` describes the engine. */
enum fm_status sch_loop_new(const struct eng_info *info, const struct eng_text *text,
                            const struct sch_options *options, struct sch_loop **ret_loop,
                            struct fm_err *err) FM_MUST_CHECK;
/* No request is left.  NULL is allowed. */
void sch_loop_free(struct sch_loop *loop);

/* One message of the inbox. */
void sch_loop_receive(struct sch_loop *loop, struct fm_link *link);

/* Everything else.  Returns a step to run, or NULL; it comes back through the inbox.
 * *ret_wake_ns: when to turn again if no message comes. */
struct sch_step *sch_loop_turn(struct sch_loop *loop, uint64_t *ret_wake_ns);

/* Tell the main thread of streams with news: after the step was handed over, so that it starts as
 * early as it can. */
void sch_loop_post(struct sch_loop *loop);

/* Stopping, and nothing is left. */
bool sch_loop_is_over(const struct sch_loop *loop);

/* The invariants that hold between turns.  Slow: for tests and FM_ASSERT_SLOW. */
bool sch_loop_sane(const struct sch_loop *loop);

#endif
