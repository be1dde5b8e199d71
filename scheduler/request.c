/* request.c - the slot of a request and its states; see request.h. */
#include "scheduler/request.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "backends/base/thread.h"

enum {
    ARENA_BYTES_MAX = 256 << 20,  /* prompt, bias, masks; far above what a context needs */
    BACKLOG_BYTES_MAX = 64 << 20, /* a parser gives 4 MiB at once at most; a chunk with log
                                   * probabilities 256 bytes a row */
};

static const uint8_t allowed_moves[SCH_STATE_COUNT] = {
    [SCH_STATE_FREE] = 1u << SCH_STATE_QUEUED,
    [SCH_STATE_QUEUED] = 1u << SCH_STATE_RUNNING | 1u << SCH_STATE_DONE,
    [SCH_STATE_RUNNING] = 1u << SCH_STATE_PARKED | 1u << SCH_STATE_FLUSHING | 1u << SCH_STATE_DONE,
    [SCH_STATE_PARKED] = 1u << SCH_STATE_RUNNING | 1u << SCH_STATE_DONE,
    [SCH_STATE_FLUSHING] = 1u << SCH_STATE_DONE,
    [SCH_STATE_DONE] = 1u << SCH_STATE_FREE,
};

void sch_request_move(struct sch_request *req, enum sch_state to)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_SCHEDULER));
    FM_ASSERT((allowed_moves[req->state] & (1u << to)) != 0);
    FM_ASSERT(to != SCH_STATE_DONE || req->span_count == 0);
    req->state = to;
}

/* A copy of `count` elements in the request's arena; an empty array is a valid pointer. */
static void *array_copy(struct sch_request *req, const void *source, size_t count, size_t bytes)
{
    void *copy = fm_arena_take_array(&req->arena, count, bytes);
    if (copy != NULL && count != 0)
        memcpy(copy, source, count * bytes);
    return copy;
}

static enum fm_status bad_words_copy(struct sch_request *req, const struct sch_spec *spec)
{
    struct sch_bad_word *words =
        array_copy(req, spec->bad_words, spec->bad_word_count, sizeof *words);
    if (words == NULL)
        return FM_NOMEM;
    for (uint32_t i = 0; i < spec->bad_word_count; i++) {
        words[i].tokens =
            array_copy(req, words[i].tokens, words[i].token_count, sizeof *words[i].tokens);
        if (words[i].tokens == NULL)
            return FM_NOMEM;
    }
    req->bad_words = words;
    req->bad_word_count = spec->bad_word_count;
    return FM_OK;
}

static enum fm_status sampling_copy(struct sch_request *req, const struct sch_spec *spec,
                                    uint32_t vocab)
{
    req->sampling = spec->sampling;
    if (spec->sampling.allowed != NULL) {
        req->sampling.allowed = array_copy(req, spec->sampling.allowed, fm_div_ceil(vocab, 64),
                                           sizeof *spec->sampling.allowed);
        if (req->sampling.allowed == NULL)
            return FM_NOMEM;
    }
    req->sampling.bias = array_copy(req, spec->sampling.bias, spec->sampling.bias_count,
                                    sizeof *spec->sampling.bias);
    req->prompt_sampling = (struct eng_sampling){
        .top_p = 1,
        .repetition_penalty = 1,
        .wants_logprob = true,
        .logprob_count = spec->sampling.logprob_count,
    };
    return req->sampling.bias != NULL ? FM_OK : FM_NOMEM;
}

static enum fm_status spec_copy(struct sch_request *req, const struct sch_spec *spec,
                                uint32_t vocab)
{
    req->number = spec->request_number;
    req->prompt_count = spec->prompt_count;
    req->prompt = array_copy(req, spec->prompt, spec->prompt_count, sizeof *spec->prompt);
    req->tokens_max = spec->tokens_max;
    req->tokens_min = spec->tokens_min;
    req->stop_token_count = spec->stop_token_count;
    req->stop_tokens =
        array_copy(req, spec->stop_tokens, spec->stop_token_count, sizeof *spec->stop_tokens);
    req->ignores_eos = spec->ignore_eos;
    req->bounds_reasoning = spec->bounds_reasoning;
    req->reasoning_max = spec->reasoning_max;
    req->wants_prompt_logprobs = spec->wants_prompt_logprobs;
    req->deadline_ns = spec->deadline_ns;
    req->choice_count = spec->choice_count;
    req->choices = fm_arena_take_array(&req->arena, spec->choice_count, sizeof *req->choices);
    req->copies = fm_arena_take_array(&req->arena, (size_t)spec->choice_count * KV_FORK_COPIES_MAX,
                                      sizeof *req->copies);
    if (req->prompt == NULL || req->stop_tokens == NULL || req->choices == NULL ||
        req->copies == NULL)
        return FM_NOMEM;
    enum fm_status status = sampling_copy(req, spec, vocab);
    return status == FM_OK ? bad_words_copy(req, spec) : status;
}

static enum fm_status choices_make(struct sch_request *req, const struct sch_spec *spec,
                                   struct fm_err *err)
{
    size_t banned_max = (size_t)req->bad_word_count + req->stop_token_count;
    for (uint32_t i = 0; i < req->choice_count; i++) {
        struct sch_choice *choice = &req->choices[i];
        choice->request = req;
        choice->index = (uint16_t)i;
        choice->generated = req->generated + (size_t)i * req->tokens_max;
        choice->stop_string = choice->stop_token = SCH_NO_STOP;
        choice->banned = fm_arena_take_array(&req->arena, banned_max, sizeof *choice->banned);
        if (choice->banned == NULL)
            return FM_FAIL(err, FM_NOMEM, "no memory for a request");
        enum fm_status status = eng_parser_new(spec->parser, &choice->parser, err);
        if (status != FM_OK)
            return status;
    }
    return FM_OK;
}

enum fm_status sch_request_fill(struct sch_request *req, const struct sch_spec *spec,
                                uint32_t vocab, struct fm_err *err)
{
    FM_ASSERT(req->state == SCH_STATE_FREE);
    FM_ASSERT(spec->choice_count >= 1 && spec->choice_count <= UINT16_MAX);
    fm_arena_init(&req->arena, ARENA_BYTES_MAX);
    fm_buf_init(&req->backlog, BACKLOG_BYTES_MAX);
    req->backlog_taken = 0;
    req->copy_count = 0;
    req->span_count = 0;
    req->needs_reset = false;
    req->is_end_wanted = false;
    req->is_in_news = false;
    req->progress_ns = 0;

    /* Pages of this block are touched only as tokens come. */
    enum fm_status status;
    size_t generated_max;
    bool fits = fm_mul_size(spec->choice_count, spec->tokens_max, &generated_max);
    req->generated = fits ? fm_alloc_array(generated_max, sizeof *req->generated) : NULL;
    if (req->generated == NULL || spec_copy(req, spec, vocab) != FM_OK)
        status = FM_FAIL(err, FM_NOMEM, "no memory for a request of %u + %u tokens",
                         spec->prompt_count, spec->tokens_max);
    else
        status = choices_make(req, spec, err);
    if (status != FM_OK)
        sch_request_clear(req);
    return status;
}

void sch_request_clear(struct sch_request *req)
{
    if (req->choices != NULL) {
        for (uint32_t i = 0; i < req->choice_count; i++) {
            struct sch_choice *choice = &req->choices[i];
            FM_ASSERT(choice->seq == NULL);
            eng_parser_free(choice->parser);
            if (choice->generated_count != 0)
                fm_wipe(choice->generated, choice->generated_count * sizeof *choice->generated);
        }
    }
    fm_free(req->generated);
    fm_buf_done(&req->backlog);
    fm_arena_done(&req->arena);
    req->generated = NULL;
    req->choices = NULL;
    req->prompt = NULL;
    req->copies = NULL;
    req->stop_tokens = NULL;
    req->bad_words = NULL;
    req->choice_count = req->prompt_count = 0;
}

uint32_t sch_request_prompt_target(const struct sch_request *req)
{
    if (req->tokens_max != 0)
        return req->prompt_count;
    return req->wants_prompt_logprobs ? req->prompt_count - 1 : 0;
}

void sch_request_close_seqs(struct sch_request *req)
{
    FM_ASSERT(req->span_count == 0);
    for (uint32_t i = 0; i < req->choice_count; i++) {
        kv_seq_close(req->choices[i].seq);
        req->choices[i].seq = NULL;
    }
    req->copy_count = 0;
}
