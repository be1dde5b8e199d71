/* request.h - one request: what it asks for, what it holds, and the state it is in.
 *
 *               admitted           ring full
 *    QUEUED -------------> RUNNING ---------> PARKED
 *      |                    |  | ^               | |
 *      |                    |  | '---------------' |
 *      |   all choices end, |  |    reader took    |
 *      |   reader is behind |  |                   |
 *      |                    v  | all choices end,  |
 *      |             FLUSHING  | all is in the     |
 *      |                    |  | ring              |
 *      v                    v  v                   v
 *    DONE <----------------------------------------' cancel, deadline, reader too slow
 *
 *   from      to        made by            when
 *   FREE      QUEUED    loop: receive      the submit message arrived
 *   QUEUED    RUNNING   loop: admit        its whole need of pages is promised
 *   QUEUED    DONE      loop: abort        cancel, queue timeout, deadline, drain, stop
 *   RUNNING   PARKED    loop: settle       a piece did not fit the ring
 *   PARKED    RUNNING   loop: settle       the reader took what waited
 *   RUNNING   FLUSHING  loop: settle       every choice has ended and pieces still wait
 *   RUNNING   DONE      loop: settle       every choice has ended and the ring has all
 *   RUNNING   DONE      loop: abort        cancel, deadline, failed step, stop; not within a step
 *   PARKED    DONE      loop: abort        the same, or the reader took too long
 *   FLUSHING  DONE      loop: settle or abort
 *   DONE      FREE      loop: release      at once: the slot goes back to the main thread
 *
 *   QUEUED    holds its copy of the spec and a stream, no unit of the cache
 *   RUNNING   holds promised units and sequences; takes part in steps
 *   PARKED    holds the same; takes part in none; time-limited
 *   FLUSHING  holds no unit; pieces wait for the reader; time-limited
 *
 * Whether a running request computes its prompt or its answer is no state: it is the length of its
 * sequence.  An end that is wanted while the request is within a step waits for the step's end.
 *
 * Owner: the main thread while FREE (it fills the slot), then the scheduler thread. */
#ifndef SCH_REQUEST_H
#define SCH_REQUEST_H

#include <stdatomic.h>

#include "backends/base/arena.h"
#include "backends/base/buf.h"
#include "kvcache/kvcache.h"
#include "scheduler/gate.h"
#include "scheduler/scheduler.h"

enum sch_state {
    SCH_STATE_FREE,
    SCH_STATE_QUEUED,
    SCH_STATE_RUNNING,
    SCH_STATE_PARKED,
    SCH_STATE_FLUSHING,
    SCH_STATE_DONE,
    SCH_STATE_COUNT,
};

struct sch_request;

/* One of n answers. */
struct sch_choice {
    struct sch_request *request;
    uint16_t index;
    struct kv_seq *seq; /* NULL: not forked yet, or over */
    struct eng_parser *parser;
    uint32_t *generated; /* [tokens_max] */
    uint32_t generated_count;
    uint32_t *banned;  /* room for all stop tokens and one token of each bad word */
    uint64_t token_ns; /* when the last token came; 0: none yet */

    bool is_ended;
    bool is_end_delivered; /* END is in the ring */
    enum sch_end end;      /* and what follows: of END, once is_ended */
    uint32_t stop_string, stop_token;
};

struct sch_request {
    struct sch_message message; /* to the scheduler, and back to the main thread */
    uint32_t slot;
    uint32_t generation; /* written by main while FREE; never 0 */
    enum sch_state state;
    struct sch_request *next; /* in the queue */

    /* Written by the main thread, read by the scheduler when the bell rings. */
    atomic_uint cancel_generation;
    atomic_uint_fast64_t cancel_ns;

    /* The copied spec; immutable from submit to release. */
    struct fm_arena arena; /* of all arrays but `generated` */
    uint64_t number;
    const uint32_t *prompt;
    uint32_t prompt_count;
    uint32_t tokens_max, tokens_min;
    struct eng_sampling sampling;
    struct eng_sampling prompt_sampling; /* for the log probabilities of the prompt */
    const uint32_t *stop_tokens;
    uint32_t stop_token_count;
    const struct sch_bad_word *bad_words;
    uint32_t bad_word_count;
    bool ignores_eos;
    bool bounds_reasoning;
    uint32_t reasoning_max;
    bool wants_prompt_logprobs;
    uint64_t deadline_ns;
    uint64_t submit_ns;

    struct sch_choice *choices;
    uint32_t choice_count;
    uint32_t *generated; /* [choice_count * tokens_max] */
    struct sch_stream *stream;

    /* The scheduler thread's. */
    uint32_t need[BE_POOL_COUNT]; /* promised units while RUNNING or PARKED */
    bool needs_reset;             /* of the first choice's T slot, with its first rows */
    struct be_copy *copies;       /* of a fork, for the next step */
    uint32_t copy_count;
    uint32_t span_count; /* in the step that runs now */
    bool is_end_wanted;  /* end it as wanted_end when the step is over */
    enum sch_end wanted_end;
    uint64_t progress_ns;  /* when the reader last took something; while pieces wait */
    struct fm_buf backlog; /* records that did not fit the ring */
    size_t backlog_taken;  /* bytes of it that are in the ring now */
    bool is_in_news;       /* the stream has records that the reader was not told of */
};

/* Main thread: copy the spec, which was checked, into a FREE slot, and make its parsers.  FM_NOMEM,
 * or what eng_parser_new refuses; the slot is as it was then. */
enum fm_status sch_request_fill(struct sch_request *req, const struct sch_spec *spec,
                                uint32_t vocab, struct fm_err *err) FM_MUST_CHECK;

/* Wipe and free what fill took, but the stream.  Sequences must be closed. */
void sch_request_clear(struct sch_request *req);

/* The one place that changes a state. */
void sch_request_move(struct sch_request *req, enum sch_state to);

/* Tokens of the prompt that must be computed: all, or all but the last when nothing is generated;
 * 0 when there is nothing to do at all. */
uint32_t sch_request_prompt_target(const struct sch_request *req);

/* Close the sequences of all choices. */
void sch_request_close_seqs(struct sch_request *req);

static inline bool sch_request_is_active(const struct sch_request *req)
{
    return req->state == SCH_STATE_RUNNING || req->state == SCH_STATE_PARKED;
}

#endif
