/* batch.c - decode rows first, then prefill chunks; see batch.h. */
#include "scheduler/batch.h"

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"

enum fm_status sch_step_new(const struct sch_limits *limits, struct sch_step **ret_step,
                            struct fm_err *err)
{
    struct sch_step *step = fm_alloc(sizeof *step);
    if (step == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a step");
    step->message.kind = SCH_MESSAGE_STEP;
    /* A row that is forked has a draw for each choice; together they are no more than the
     * sequences that may run. */
    step->draws_max = limits->logit_rows_max + limits->seqs_max;
    step->spans = fm_alloc_array(limits->seqs_max, sizeof *step->spans);
    step->shares = fm_alloc_array(limits->seqs_max, sizeof *step->shares);
    step->draws = fm_alloc_array(step->draws_max, sizeof *step->draws);
    step->drawn = fm_alloc_array(step->draws_max, sizeof *step->drawn);
    step->copies =
        fm_alloc_array((size_t)limits->seqs_max * KV_FORK_COPIES_MAX, sizeof *step->copies);
    step->tail_resets = fm_alloc_array(limits->seqs_max, sizeof *step->tail_resets);
    if (step->spans == NULL || step->shares == NULL || step->draws == NULL || step->drawn == NULL ||
        step->copies == NULL || step->tail_resets == NULL) {
        sch_step_free(step);
        return FM_FAIL(err, FM_NOMEM, "no memory for a step of %u sequences", limits->seqs_max);
    }
    *ret_step = step;
    return FM_OK;
}

void sch_step_free(struct sch_step *step)
{
    if (step == NULL)
        return;
    if (step->drawn != NULL)
        fm_wipe(step->drawn, step->draws_max * sizeof *step->drawn);
    fm_free(step->spans);
    fm_free(step->shares);
    fm_free(step->draws);
    fm_free(step->drawn);
    fm_free(step->copies);
    fm_free(step->tail_resets);
    fm_free(step);
}

/* ---- draws --------------------------------------------------------------------------------- */

/* The generated tokens end in all tokens of the bad word but its last. */
static bool bad_word_threatens(const struct sch_choice *choice, const struct sch_bad_word *word)
{
    uint32_t before = word->token_count - 1;
    if (before > choice->generated_count)
        return false;
    const uint32_t *tail = choice->generated + (choice->generated_count - before);
    for (uint32_t i = 0; i < before; i++)
        if (tail[i] != word->tokens[i])
            return false;
    return true;
}

/* Fill choice->banned; its room is every stop token and the last token of every bad word. */
static uint32_t banned_fill(struct sch_choice *choice)
{
    const struct sch_request *req = choice->request;
    uint32_t count = 0;
    if (choice->generated_count < req->tokens_min)
        for (uint32_t i = 0; i < req->stop_token_count; i++)
            choice->banned[count++] = req->stop_tokens[i];
    for (uint32_t i = 0; i < req->bad_word_count; i++) {
        const struct sch_bad_word *word = &req->bad_words[i];
        if (bad_word_threatens(choice, word))
            choice->banned[count++] = word->tokens[word->token_count - 1];
    }
    return count;
}

/* How the next token of the choice is drawn, by what its parser is in. */
static struct eng_draw draw_of(struct sch_choice *choice, const struct eng_text *text)
{
    const struct sch_request *req = choice->request;
    unsigned class = eng_parser_mask_class(choice->parser);
    /* Where </think> may come, all tokens until now are reasoning. */
    bool is_cut = req->bounds_reasoning && (class & ENG_MASK_THINK_END) != 0 &&
                  choice->generated_count >= req->reasoning_max;
    if (req->ignores_eos || choice->generated_count < req->tokens_min)
        class &= ~(unsigned)ENG_MASK_EOS;
    return (struct eng_draw){
        .sampling = &req->sampling,
        .mask = eng_text_mask(text, class),
        .banned = choice->banned,
        .banned_count = banned_fill(choice),
        .choice = choice->index,
        .position = choice->generated_count,
        .prompt = req->prompt,
        .prompt_count = req->prompt_count,
        .generated = choice->generated,
        .generated_count = choice->generated_count,
        .forced = is_cut ? (int64_t)eng_text_info(text)->think_end : -1,
    };
}

/* The log probability of the prompt token behind `position`. */
static struct eng_draw prompt_draw(const struct sch_request *req, uint32_t position)
{
    return (struct eng_draw){
        .sampling = &req->prompt_sampling,
        .prompt = req->prompt,
        .prompt_count = position + 1,
        .generated = req->prompt,
        .forced = (int64_t)req->prompt[position + 1],
    };
}

/* ---- spans --------------------------------------------------------------------------------- */

/* A span of `count` reserved tokens of the choice's sequence; the caller adds draws. */
static struct eng_span *span_add(struct sch_step *step, struct sch_choice *choice,
                                 const uint32_t *tokens, uint32_t count)
{
    struct sch_request *req = choice->request;
    enum fm_status status = kv_seq_reserve(choice->seq, count);
    FM_ASSERT(status == FM_OK); /* the units were promised at admission */
    if (req->span_count == 0 && req->needs_reset) {
        step->tail_resets[step->plan.tail_reset_count++] = kv_seq_view(choice->seq).tail_slot;
        req->needs_reset = false;
    }
    if (req->span_count == 0) {
        for (uint32_t i = 0; i < req->copy_count; i++)
            step->copies[step->plan.copy_count++] = req->copies[i];
        req->copy_count = 0;
    }
    req->span_count++;

    uint32_t index = step->plan.span_count++;
    struct eng_span *span = &step->spans[index];
    *span = (struct eng_span){
        .view = kv_seq_view(choice->seq),
        .tokens = tokens,
        .token_count = count,
        .logit_first = count,
        .draws = step->draws + step->draw_count,
        .draws_per_row = 1,
    };
    step->shares[index] =
        (struct sch_share){.request = req, .choice = choice, .drawn_first = step->draw_count};
    return span;
}

static void draw_add(struct sch_step *step, struct eng_draw draw)
{
    FM_ASSERT(step->draw_count < step->draws_max);
    step->draws[step->draw_count++] = draw;
    step->shares[step->plan.span_count - 1].drawn_count++;
}

static void decode_add(struct sch_step *step, struct sch_choice *choice,
                       const struct eng_text *text)
{
    FM_ASSERT(choice->generated_count >= 1);
    const uint32_t *last = choice->generated + (choice->generated_count - 1);
    struct eng_span *span = span_add(step, choice, last, 1);
    span->is_decode = true;
    span->logit_first = 0;
    draw_add(step, draw_of(choice, text));
    step->logit_count++;
    step->decode_rows++;
}

uint32_t sch_batch_chunk(uint32_t length, uint32_t target, uint32_t budget, uint32_t page_tokens)
{
    FM_ASSERT(length < target);
    uint32_t left = target - length;
    if (budget >= left)
        return left;
    uint32_t border = (length + budget) / page_tokens * page_tokens;
    return border > length ? border - length : budget;
}

/* Rows of the request's prompt, if the budgets leave any. */
static void prefill_add(struct sch_step *step, struct sch_request *req, const struct eng_text *text,
                        const struct sch_limits *limits)
{
    struct sch_choice *choice = &req->choices[0];
    uint32_t length = kv_seq_length(choice->seq);
    uint32_t target = sch_request_prompt_target(req);
    uint32_t budget = fm_min_u32(limits->step_tokens_max - step->prefill_rows - step->decode_rows,
                                 limits->chunk_tokens_max);
    uint32_t logits_left = limits->logit_rows_max - step->logit_count;

    /* Every row but the prompt's last gives the log probability of the token behind it; the last
     * one stands alone, because it has another number of draws. */
    bool is_scored = req->wants_prompt_logprobs && length + 1 < req->prompt_count;
    if (is_scored) {
        target = req->prompt_count - 1;
        budget = fm_min_u32(budget, logits_left);
    }
    if (budget == 0)
        return;
    uint32_t count = sch_batch_chunk(length, target, budget, limits->page_tokens);
    bool is_last = length + count == req->prompt_count;
    if (is_last && logits_left == 0)
        return; /* prompts that are scored took them all; in the next step */

    struct eng_span *span = span_add(step, choice, req->prompt + length, count);
    struct sch_share *share = &step->shares[step->plan.span_count - 1];
    share->is_prompt = true;
    share->prompt_first = length;
    step->prefill_rows += count;
    if (is_scored) {
        span->logit_first = 0;
        for (uint32_t i = 0; i < count; i++)
            draw_add(step, prompt_draw(req, length + i));
        step->logit_count += count;
    } else if (is_last) {
        span->logit_first = count - 1;
        span->draws_per_row = req->choice_count;
        for (uint32_t i = 0; i < req->choice_count; i++)
            draw_add(step, draw_of(&req->choices[i], text));
        step->logit_count++;
    }
}

static bool is_in_prompt(const struct sch_request *req)
{
    return req->choices[0].seq != NULL && !req->choices[0].is_ended &&
           req->choices[0].generated_count == 0;
}

bool sch_batch_compose(struct sch_step *step, struct sch_request *const *active,
                       uint32_t active_count, const struct eng_text *text,
                       const struct sch_limits *limits)
{
    step->plan = (struct eng_plan){
        .copies = step->copies, .tail_resets = step->tail_resets, .spans = step->spans};
    step->draw_count = step->logit_count = 0;
    step->prefill_rows = step->decode_rows = 0;

    for (uint32_t i = 0; i < active_count; i++) {
        struct sch_request *req = active[i];
        if (req->state != SCH_STATE_RUNNING || is_in_prompt(req))
            continue;
        for (uint32_t c = 0; c < req->choice_count; c++)
            if (!req->choices[c].is_ended)
                decode_add(step, &req->choices[c], text);
    }
    for (uint32_t i = 0; i < active_count; i++) {
        struct sch_request *req = active[i];
        if (req->state == SCH_STATE_RUNNING && is_in_prompt(req))
            prefill_add(step, req, text, limits);
    }
    FM_ASSERT(step->prefill_rows + step->decode_rows <= limits->step_tokens_max);
    FM_ASSERT(step->logit_count <= limits->logit_rows_max);
    return step->plan.span_count != 0;
}
