/* gate.h - what the main thread and the scheduler thread both see: the bell and a few numbers.
 *
 * The main thread rings the bell whenever it changed a flag (a cancel mark, a reader that made
 * room, drain, stop); the scheduler clears it before it looks at the flags, so that a flag that
 * changes afterwards rings again.  One message stands for any number of rings.
 *
 * The numbers say how much waits.  Only the main thread adds to them and only the scheduler takes
 * away, so that a limit checked before an addition holds. */
#ifndef SCH_GATE_H
#define SCH_GATE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "backends/base/mailbox.h"

enum sch_message_kind {
    SCH_MESSAGE_BELL,   /* sch_gate.message */
    SCH_MESSAGE_SUBMIT, /* sch_request.message */
    SCH_MESSAGE_STEP,   /* sch_step.message */
};

/* First member of everything that travels through the scheduler's inbox. */
struct sch_message {
    struct fm_link link;
    enum sch_message_kind kind;
};

struct sch_gate {
    struct fm_mailbox *inbox; /* of the scheduler thread; immutable */
    struct sch_message message;
    atomic_bool is_rung;

    atomic_bool is_draining, is_stopping; /* set by main */
    atomic_bool is_broken;                /* set by the scheduler: the device was lost */

    atomic_uint_fast64_t queued_count, queued_tokens; /* requests and prompt tokens that wait */
    atomic_uint_fast64_t live_count;                  /* requests from submit to release */
    atomic_uint_fast64_t refused_count;               /* main alone */

    /* Measured by the scheduler, 0 before anything was: rows of a busy second, and generated
     * tokens of a request. */
    atomic_uint_fast64_t rows_per_s, answer_tokens;
};

void sch_gate_init(struct sch_gate *gate, struct fm_mailbox *inbox);

/* Main thread: some flag has changed. */
void sch_gate_ring(struct sch_gate *gate);
/* Scheduler thread, on SCH_MESSAGE_BELL, before it looks at the flags. */
void sch_gate_clear(struct sch_gate *gate);

/* Main thread: count a request in if fewer than count_max wait, and no more than tokens_max prompt
 * tokens with it (a single request may be longer).  false: it has to come back later. */
bool sch_gate_enter(struct sch_gate *gate, uint32_t prompt_tokens, uint64_t count_max,
                    uint64_t tokens_max);
/* Scheduler thread: the request waits no more. */
void sch_gate_leave(struct sch_gate *gate, uint32_t prompt_tokens);

/* Seconds in which all that waits is worked off at the measured speed, 1 .. 60. */
uint32_t sch_gate_retry_s(const struct sch_gate *gate);

#endif
