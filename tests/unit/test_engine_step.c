/* test_engine_step.c - what a plan becomes, field by field, and what is refused. */
#include <stdlib.h>
#include <string.h>

#include "engine/step.h"
#include "tests/support/support.h"

enum { PAGE = 128 };

static const struct be_limits limits = {
    .rows_max = 300, .seqs_max = 3, .logit_rows_max = 8, .pages_max = 40};
static const struct eng_sampling sampling = {.temperature = 0.5f, .top_p = 1, .seed = 9};
static const struct eng_draw draws[8] = {{.sampling = &sampling}, {.sampling = &sampling},
                                         {.sampling = &sampling}, {.sampling = &sampling},
                                         {.sampling = &sampling}, {.sampling = &sampling},
                                         {.sampling = &sampling}, {.sampling = &sampling}};
static uint32_t tokens[400];
static kv_page_id pages[] = {11, 12, 13, 14, 15, 16};

static struct eng_span span_of(uint32_t length, uint32_t count, uint32_t logits)
{
    uint32_t last = (length + count - 1) / PAGE;
    struct kv_view view = {.length = length,
                           .reserved = count,
                           .tail_slot = 5,
                           .g_pages = pages,
                           .g_count = last + 1,
                           .s_pages = pages,
                           .s_count = last - be_step_s_page_first(length, PAGE) + 1};
    return (struct eng_span){.view = view,
                             .tokens = tokens,
                             .token_count = count,
                             .logit_first = count - logits,
                             .draws = draws,
                             .draws_per_row = 1};
}

static enum fm_status build(const struct eng_span *spans, uint32_t count, struct be_step *block,
                            size_t bytes, struct fm_err *err)
{
    struct eng_plan plan = {.spans = spans, .span_count = count};
    uint32_t logit_count;
    return eng_step_build(&plan, &limits, PAGE, 77, block, bytes, &logit_count, err);
}

START_TEST(spans_become_rows_sequences_and_pages_in_order)
{
    for (uint32_t i = 0; i < 400; i++)
        tokens[i] = 1000 + i;
    struct eng_span spans[2] = {span_of(130, 1, 1), span_of(0, 200, 2)};
    spans[0].is_decode = true;
    size_t bytes = eng_step_bytes_max(&limits);
    struct be_step *block = malloc(bytes);
    struct fm_err err = {0};
    ck_assert_int_eq(build(spans, 2, block, bytes, &err), FM_OK);

    ck_assert_uint_eq(block->number, 77);
    ck_assert_uint_eq(block->row_count, 201);
    ck_assert_uint_eq(block->logit_count, 3);
    ck_assert_uint_eq(block->page_count, 2 + 2 + 2 + 2);
    ck_assert_uint_eq(block->bytes, be_step_bytes(201, 2, 3, 8));
    const struct be_row *rows = be_step_rows(block);
    ck_assert_uint_eq(rows[0].kind, BE_ROW_DECODE);
    ck_assert_uint_eq(rows[0].position, 130);
    ck_assert_uint_eq(rows[0].logit, 0);
    ck_assert_uint_eq(rows[1].position, 0);
    ck_assert_uint_eq(rows[1].seq, 1);
    ck_assert_int_eq(rows[200].token, 1199);
    ck_assert_uint_eq(rows[198].logit, BE_NO_LOGIT);
    ck_assert_uint_eq(rows[199].logit, 1);
    ck_assert_uint_eq(rows[200].logit, 2);
    const struct be_seq *seqs = be_step_seqs(block);
    ck_assert_uint_eq(seqs[1].row_first, 1);
    ck_assert_uint_eq(seqs[1].row_count, 200);
    ck_assert_uint_eq(seqs[1].g_first, 4);
    ck_assert_uint_eq(seqs[1].s_first, 6);
    ck_assert_uint_eq(be_step_pages(block)[7], 12);
    ck_assert(be_step_logits(block)[2].seed == 9);

    uint32_t crc = block->crc;
    be_step_seal(block);
    ck_assert_uint_eq(block->crc, crc);
    free(block);
}
END_TEST

START_TEST(what_exceeds_a_limit_is_refused_with_value_and_bound)
{
    size_t bytes = eng_step_bytes_max(&limits);
    struct be_step *block = malloc(bytes);
    struct fm_err err = {0};
    struct eng_span rows[2] = {span_of(0, 200, 0), span_of(0, 101, 0)};
    ck_assert_int_eq(build(rows, 2, block, bytes, &err), FM_LIMIT);
    ck_assert_str_eq(err.text, "step has 301 rows, at most 300");
    struct eng_span logits[2] = {span_of(0, 10, 5), span_of(0, 10, 4)};
    ck_assert_int_eq(build(logits, 2, block, bytes, &err), FM_LIMIT);
    ck_assert_str_eq(err.text, "step has 9 logit rows, at most 8");
    struct eng_span many[4] = {span_of(0, 1, 1), span_of(0, 1, 1), span_of(0, 1, 1),
                               span_of(0, 1, 1)};
    ck_assert_int_eq(build(many, 4, block, bytes, &err), FM_LIMIT);
    ck_assert_str_eq(err.text, "step has 4 sequences, at most 3");
    free(block);
}
END_TEST

START_TEST(pages_that_do_not_cover_the_rows_are_refused)
{
    size_t bytes = eng_step_bytes_max(&limits);
    struct be_step *block = malloc(bytes);
    struct fm_err err = {0};
    struct eng_span span = span_of(100, 100, 1);
    span.view.g_count--;
    ck_assert_int_eq(build(&span, 1, block, bytes, &err), FM_INVALID);
    span = span_of(100, 100, 1);
    span.view.s_count--;
    ck_assert_int_eq(build(&span, 1, block, bytes, &err), FM_INVALID);
    span = span_of(100, 100, 1);
    span.view.reserved--;
    ck_assert_int_eq(build(&span, 1, block, bytes, &err), FM_INVALID);
    free(block);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/step");
    TCase *tcase = tcase_create("step");
    tcase_add_test(tcase, spans_become_rows_sequences_and_pages_in_order);
    tcase_add_test(tcase, what_exceeds_a_limit_is_refused_with_value_and_bound);
    tcase_add_test(tcase, pages_that_do_not_cover_the_rows_are_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}
