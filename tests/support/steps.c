/* steps.c - step blocks for tests. */
#include "tests/support/steps.h"

#include <string.h>

#include "backends/base/mem.h"
#include "tests/support/support.h"

static struct be_step *step_alloc(uint64_t number, const struct test_span *spans,
                                  uint32_t span_count)
{
    struct be_step header = {.number = number, .seq_count = span_count};
    for (uint32_t i = 0; i < span_count; i++) {
        header.row_count += spans[i].row_count;
        header.logit_count += spans[i].row_count - spans[i].logit_first;
        header.page_count += spans[i].g_count + spans[i].s_count;
    }
    struct be_step *step = fm_alloc(
        be_step_bytes(header.row_count, header.seq_count, header.logit_count, header.page_count));
    ck_assert_ptr_nonnull(step);
    *step = header;
    return step;
}

struct be_step *test_step_new(uint64_t number, const struct test_span *spans, uint32_t span_count)
{
    struct be_step *step = step_alloc(number, spans, span_count);
    struct be_row *rows = (struct be_row *)(uintptr_t)be_step_rows(step);
    struct be_seq *seqs = (struct be_seq *)(uintptr_t)be_step_seqs(step);
    struct be_logit *logits = (struct be_logit *)(uintptr_t)be_step_logits(step);
    uint32_t *pages = (uint32_t *)(uintptr_t)be_step_pages(step);
    uint32_t row_index = 0;
    uint32_t logit = 0;
    uint32_t page = 0;

    for (uint32_t i = 0; i < span_count; i++) {
        const struct test_span *span = &spans[i];
        seqs[i] = (struct be_seq){
            .row_first = row_index,
            .row_count = span->row_count,
            .length_before = span->length_before,
            .tail_slot = span->tail_slot,
            .g_first = page,
            .g_count = span->g_count,
            .s_first = page + span->g_count,
            .s_count = span->s_count,
        };
        for (uint32_t j = 0; j < span->g_count; j++)
            pages[page++] = span->g_pages[j];
        for (uint32_t j = 0; j < span->s_count; j++)
            pages[page++] = span->s_pages[j];
        for (uint32_t j = 0; j < span->row_count; j++) {
            bool has_logit = j >= span->logit_first;
            rows[row_index++] = (struct be_row){
                .token = (int32_t)span->tokens[j],
                .position = span->length_before + j,
                .seq = i,
                .logit = has_logit ? (uint16_t)logit : (uint16_t)BE_NO_LOGIT,
                .kind = span->row_count == 1 ? BE_ROW_DECODE : BE_ROW_PREFILL,
            };
            if (has_logit)
                logits[logit++] = (struct be_logit){.top_p = 1};
        }
    }
    be_step_seal(step);
    return step;
}
