/* batch.h - what one step holds.
 *
 * First a row for every choice that decodes, then prefill chunks in the order of admission until
 * the budget of rows is full.  A chunk ends on a page border when more than that is left, so that
 * pages fill at chunk ends.  Numbered rules, which tests check:
 *   1. Rows <= step_tokens_max; logit rows <= logit_rows_max; one span for each sequence.
 *   2. Every decoding choice of a RUNNING request is in every step.
 *   3. With a RUNNING request that has work, the step has at least one row of it or of another.
 *   4. Pages of every row are reserved: a composed step cannot run out of cache.
 *
 * A step is filled by the scheduler thread, given to the worker, and comes back; everything that it
 * points to stays unchanged meanwhile.  Its arrays are taken once, at start. */
#ifndef SCH_BATCH_H
#define SCH_BATCH_H

#include "engine/engine.h"
#include "scheduler/request.h"

struct sch_limits {
    uint32_t step_tokens_max;
    uint32_t chunk_tokens_max;
    uint32_t logit_rows_max;
    uint32_t seqs_max;
    uint32_t page_tokens;
};

/* Whose rows a span holds. */
struct sch_share {
    struct sch_request *request;
    struct sch_choice *choice;
    bool is_prompt;        /* rows of the prompt; else one row of the answer */
    uint32_t prompt_first; /* is_prompt: position of the first row */
    uint32_t drawn_first;  /* in sch_step.drawn */
    uint32_t drawn_count;
};

struct sch_step {
    struct sch_message message;
    struct eng_plan plan;     /* points into the arrays below */
    struct eng_span *spans;   /* [seqs_max] */
    struct sch_share *shares; /* [seqs_max], one for each span */
    struct eng_draw *draws;   /* [draws_max] */
    struct eng_drawn *drawn;  /* [draws_max] */
    struct be_copy *copies;   /* [seqs_max * KV_FORK_COPIES_MAX] */
    uint32_t *tail_resets;    /* [seqs_max] */
    uint32_t draws_max;
    uint32_t draw_count, logit_count;
    uint32_t prefill_rows, decode_rows;

    /* Written by the worker. */
    enum fm_status status;
    struct fm_err err;
    uint64_t start_ns, end_ns;
};

enum fm_status sch_step_new(const struct sch_limits *limits, struct sch_step **ret_step,
                            struct fm_err *err) FM_MUST_CHECK;
void sch_step_free(struct sch_step *step); /* NULL is allowed */

/* Fill the step from the RUNNING ones among active[0 .. active_count), in their order.  Each
 * request with a span has span_count > 0 from then on.  true: there is something to run. */
bool sch_batch_compose(struct sch_step *step, struct sch_request *const *active,
                       uint32_t active_count, const struct eng_text *text,
                       const struct sch_limits *limits);

/* How many rows of a prompt of which [length, target) is missing come next, within the budget. */
uint32_t sch_batch_chunk(uint32_t length, uint32_t target, uint32_t budget, uint32_t page_tokens);

#endif
