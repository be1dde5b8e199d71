/* step.c - spans become rows, sequences, logit rows and page numbers; see step.h.
 *
 * The block's arrays have sizes that must be known before the first is written, so a plan is walked
 * twice: once to count, against the limits, and once to write. */
#include "engine/step.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"

struct counts {
    uint64_t rows, logits, pages;
};

size_t eng_step_bytes_max(const struct be_limits *limits)
{
    return be_step_bytes(limits->rows_max, limits->seqs_max, limits->logit_rows_max,
                         limits->pages_max);
}

static uint32_t logit_rows(const struct eng_span *span)
{
    return span->token_count - span->logit_first;
}

/* The pages that a span's tables must have: up to the page of its last row. */
static enum fm_status span_check(const struct eng_span *span, uint32_t page_tokens, uint32_t index,
                                 struct fm_err *err)
{
    FM_ASSERT(span->token_count > 0);
    FM_ASSERT(span->logit_first <= span->token_count);
    FM_ASSERT(span->draws_per_row > 0 || logit_rows(span) == 0);
    const struct kv_view *view = &span->view;
    uint32_t last_page = (view->length + span->token_count - 1) / page_tokens;
    uint32_t s_needed = last_page - be_step_s_page_first(view->length, page_tokens) + 1;

    if (span->token_count > view->reserved)
        return FM_FAIL(err, FM_INVALID, "span %u has %u tokens, %u are reserved", index,
                       span->token_count, view->reserved);
    if (view->g_count <= last_page || view->s_count < s_needed)
        return FM_FAIL(err, FM_INVALID, "span %u has %u G and %u S pages, %u and %u are needed",
                       index, view->g_count, view->s_count, last_page + 1, s_needed);
    return FM_OK;
}

static enum fm_status plan_count(const struct eng_plan *plan, const struct be_limits *limits,
                                 uint32_t page_tokens, struct counts *counts, struct fm_err *err)
{
    if (plan->span_count > limits->seqs_max)
        return FM_FAIL(err, FM_LIMIT, "step has %u sequences, at most %u", plan->span_count,
                       limits->seqs_max);
    for (uint32_t i = 0; i < plan->span_count; i++) {
        const struct eng_span *span = &plan->spans[i];
        enum fm_status status = span_check(span, page_tokens, i, err);
        if (status != FM_OK)
            return status;
        counts->rows += span->token_count;
        counts->logits += logit_rows(span);
        counts->pages += (uint64_t)span->view.g_count + span->view.s_count;
    }
    if (counts->rows > limits->rows_max)
        return FM_FAIL(err, FM_LIMIT, "step has %llu rows, at most %u",
                       (unsigned long long)counts->rows, limits->rows_max);
    if (counts->logits > limits->logit_rows_max)
        return FM_FAIL(err, FM_LIMIT, "step has %llu logit rows, at most %u",
                       (unsigned long long)counts->logits, limits->logit_rows_max);
    if (counts->pages > limits->pages_max)
        return FM_FAIL(err, FM_LIMIT, "step has %llu pages, at most %u",
                       (unsigned long long)counts->pages, limits->pages_max);
    return FM_OK;
}

static void rows_write(const struct eng_span *span, uint32_t seq, uint32_t *logit,
                       struct be_row *rows)
{
    for (uint32_t i = 0; i < span->token_count; i++) {
        bool has_logit = i >= span->logit_first;
        rows[i] = (struct be_row){
            .token = (int32_t)span->tokens[i],
            .position = span->view.length + i,
            .seq = seq,
            .logit = has_logit ? (uint16_t)(*logit)++ : BE_NO_LOGIT,
            .kind = span->is_decode ? BE_ROW_DECODE : BE_ROW_PREFILL,
        };
    }
}

static void logits_write(const struct eng_span *span, struct be_logit *logits)
{
    for (uint32_t i = 0; i < logit_rows(span); i++) {
        const struct eng_sampling *how = span->draws[i * span->draws_per_row].sampling;
        logits[i] = (struct be_logit){.temperature = how->temperature,
                                      .top_p = how->top_p,
                                      .min_p = how->min_p,
                                      .top_k = how->top_k,
                                      .seed = how->seed};
    }
}

static uint32_t pages_write(const struct kv_view *view, uint32_t at, uint32_t *pages)
{
    memcpy(pages + at, view->g_pages, view->g_count * sizeof *pages);
    memcpy(pages + at + view->g_count, view->s_pages, view->s_count * sizeof *pages);
    return at + view->g_count + view->s_count;
}

enum fm_status eng_step_build(const struct eng_plan *plan, const struct be_limits *limits,
                              uint32_t page_tokens, uint64_t number, struct be_step *block,
                              size_t bytes_max, uint32_t *ret_logit_count, struct fm_err *err)
{
    FM_ASSERT(plan->span_count > 0);
    FM_ASSERT(limits->logit_rows_max < BE_NO_LOGIT);
    struct counts counts = {0};
    enum fm_status status = plan_count(plan, limits, page_tokens, &counts, err);
    if (status != FM_OK)
        return status;

    uint32_t row_count = fm_u32(counts.rows), logit_count = fm_u32(counts.logits);
    uint32_t page_count = fm_u32(counts.pages);
    FM_ASSERT(be_step_bytes(row_count, plan->span_count, logit_count, page_count) <= bytes_max);
    *block = (struct be_step){.number = number,
                              .row_count = row_count,
                              .seq_count = plan->span_count,
                              .logit_count = logit_count,
                              .page_count = page_count};
    struct be_row *rows = (struct be_row *)(void *)(block + 1);
    struct be_seq *seqs = (struct be_seq *)(void *)(rows + row_count);
    struct be_logit *logits = (struct be_logit *)(void *)(seqs + plan->span_count);
    uint32_t *pages = (uint32_t *)(void *)(logits + logit_count);

    uint32_t row = 0, logit = 0, page = 0;
    for (uint32_t i = 0; i < plan->span_count; i++) {
        const struct eng_span *span = &plan->spans[i];
        const struct kv_view *view = &span->view;
        seqs[i] = (struct be_seq){.row_first = row,
                                  .row_count = span->token_count,
                                  .length_before = view->length,
                                  .tail_slot = view->tail_slot,
                                  .g_first = page,
                                  .g_count = view->g_count,
                                  .s_first = page + view->g_count,
                                  .s_count = view->s_count};
        logits_write(span, logits + logit);
        rows_write(span, i, &logit, rows + row);
        row += span->token_count;
        page = pages_write(view, page, pages);
    }
    FM_ASSERT(row == row_count && logit == logit_count && page == page_count);
    be_step_seal(block);
    *ret_logit_count = logit_count;
    return FM_OK;
}
