/* EMBED, HC_COLLAPSE, HC_EXPAND, TAP, HEAD and MTP_JOIN of every level against engine/ref. */
#include <string.h>

#include "backends/base/numeric.h"
#include "engine/ref/head.h"
#include "engine/ref/hyper.h"
#include "engine/ref/mtp.h"
#include "engine/ref/norm.h"
#include "tests/support/op_case.h"
#include "tests/support/support.h"

static be_value_id streams(struct op_case *c, uint32_t flags)
{
    return op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, c->shape.streams, c->shape.dim, flags);
}

static struct eng_ref_hyper hyper_of(const struct op_case *c)
{
    return (struct eng_ref_hyper){
        .fn = (const float *)(const void *)c->weight_data[c->op.weight[0]],
        .base = (const float *)(const void *)c->weight_data[c->op.weight[1]],
        .scale = (const float *)(const void *)c->weight_data[c->op.weight[2]],
        .streams = c->shape.streams,
        .dim = c->shape.dim,
        .sinkhorn_iters = c->shape.hc_iterations,
        .hc_eps = c->shape.hc_eps,
        .norm_eps = c->shape.norm_eps,
    };
}

static void embed_expect(struct op_case *c)
{
    for (uint32_t r = 0; r < c->block->row_count; r++)
        eng_ref_embed(c->weight_data[c->op.weight[0]], (uint32_t)op_rows(c)[r].token,
                      c->shape.streams, c->shape.dim, op_bf16(c, c->op.out[0], r));
}

START_TEST(embed_repeats_the_row_of_the_token)
{
    struct be_shape shape = op_shape_tiny();
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_EMBED;
    c->op.weight[0] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, shape.vocab, shape.dim);
    c->op.out[0] = streams(c, BE_VALUE_OUTPUT);
    c->expect = embed_expect;
    op_case_run(c);
}
END_TEST

static void collapse_expect(struct op_case *c)
{
    struct eng_ref_hyper hyper = hyper_of(c);
    uint16_t y[1024];
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        uint16_t *x = op_bf16(c, c->op.out[0], r);
        eng_ref_hc_collapse(&hyper, op_bf16(c, c->op.in[0], r), y, op_f32(c, c->op.out[2], r),
                            op_f32(c, c->op.out[3], r));
        eng_ref_rmsnorm(y, (const uint16_t *)(const void *)c->weight_data[c->op.weight[3]], 1,
                        c->shape.dim, c->shape.norm_eps, x);
        if (c->op.out[1] != 0)
            op_act_write(c, c->op.out[1], r, x);
    }
}

static void collapse_case(const struct be_shape *shape, bool has_act)
{
    struct op_case *c = op_case_new(shape, test_seed());
    uint32_t n = shape->streams, mixes = (2 + n) * n;
    c->op.kind = BE_OP_HC_COLLAPSE;
    c->op.weight[0] = op_weight(c, BE_FORMAT_F32, BE_SCALE_NONE, mixes, n * shape->dim);
    c->op.weight[1] = op_weight(c, BE_FORMAT_F32, BE_SCALE_NONE, 1, mixes);
    c->op.weight[2] = op_weight(c, BE_FORMAT_F32, BE_SCALE_NONE, 1, 3);
    c->op.weight[3] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, shape->dim);
    c->op.in[0] = streams(c, BE_VALUE_INPUT);
    c->op.out[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape->dim, BE_VALUE_OUTPUT);
    if (has_act)
        c->op.out[1] = op_value(c, BE_ELEM_ACT, BE_LEAD_ROWS, 1, shape->dim, BE_VALUE_OUTPUT);
    c->op.out[2] = op_value(c, BE_ELEM_F32, BE_LEAD_ROWS, 1, n, BE_VALUE_OUTPUT);
    c->op.out[3] = op_value(c, BE_ELEM_F32, BE_LEAD_ROWS, n, n, BE_VALUE_OUTPUT);
    c->expect = collapse_expect;
    op_case_run(c);
}

START_TEST(collapse_gives_the_normed_row_its_codes_and_the_weights_of_the_way_back)
{
    struct be_shape shape = op_shape_tiny();
    collapse_case(&shape, true);
    shape.dim = 256;
    collapse_case(&shape, false);
}
END_TEST

START_TEST(collapse_of_two_or_three_streams)
{
    struct be_shape shape = op_shape_tiny();
    shape.streams = 2;
    collapse_case(&shape, true);
    shape.streams = 3;
    shape.hc_iterations = 1;
    collapse_case(&shape, true);
}
END_TEST

static void expand_expect(struct op_case *c)
{
    for (uint32_t r = 0; r < c->block->row_count; r++)
        eng_ref_hc_expand(op_bf16(c, c->op.in[0], r), op_bf16(c, c->op.in[1], r),
                          op_f32(c, c->op.in[2], r), op_f32(c, c->op.in[3], r), c->shape.streams,
                          c->shape.dim, op_bf16(c, c->op.out[0], r));
}

static void expand_case(uint32_t n, uint32_t dim)
{
    struct be_shape shape = op_shape_tiny();
    shape.streams = n;
    shape.dim = dim;
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_HC_EXPAND;
    c->op.in[0] = streams(c, BE_VALUE_INPUT);
    c->op.in[1] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, dim, BE_VALUE_INPUT);
    c->op.in[2] = op_value(c, BE_ELEM_F32, BE_LEAD_ROWS, 1, n, BE_VALUE_INPUT);
    c->op.in[3] = op_value(c, BE_ELEM_F32, BE_LEAD_ROWS, n, n, BE_VALUE_INPUT);
    c->op.out[0] = streams(c, BE_VALUE_OUTPUT);
    c->expect = expand_expect;
    op_case_run(c);
}

START_TEST(expand_adds_the_output_to_every_stream)
{
    expand_case(4, 128);
    expand_case(4, 384);
    expand_case(2, 256);
}
END_TEST

static void tap_expect(struct op_case *c)
{
    for (uint32_t r = 0; r < c->block->row_count; r++)
        eng_ref_tap(op_bf16(c, c->op.in[0], r), c->shape.streams, c->shape.dim,
                    op_bf16(c, c->op.out[0], r));
}

START_TEST(tap_is_the_mean_of_the_streams)
{
    struct be_shape shape = op_shape_tiny();
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_TAP;
    c->op.in[0] = streams(c, BE_VALUE_INPUT);
    c->op.out[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.dim, BE_VALUE_OUTPUT);
    c->expect = tap_expect;
    op_case_run(c);
}
END_TEST

static void head_expect(struct op_case *c)
{
    struct eng_ref_hyper hyper = hyper_of(c);
    struct eng_ref_weight head = op_ref_weight(c, c->op.weight[4]);
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        float scratch[2048];
        uint16_t h[1024];
        uint32_t logit = op_rows(c)[r].logit;
        if (logit == BE_NO_LOGIT)
            continue;
        eng_ref_logits(&hyper, (const uint16_t *)(const void *)c->weight_data[c->op.weight[3]],
                       &head, op_bf16(c, c->op.in[0], r), scratch, h,
                       op_f32(c, c->op.out[0], logit));
        if (c->op.out[1] != 0)
            memcpy(op_bf16(c, c->op.out[1], logit), h, c->shape.dim * 2);
    }
}

static void head_case(bool has_hidden)
{
    struct be_shape shape = op_shape_tiny();
    struct op_case *c = op_case_new(&shape, test_seed());
    uint32_t n = shape.streams;
    c->op.kind = BE_OP_HEAD;
    c->op.weight[0] = op_weight(c, BE_FORMAT_F32, BE_SCALE_NONE, n, n * shape.dim);
    c->op.weight[1] = op_weight(c, BE_FORMAT_F32, BE_SCALE_NONE, 1, n);
    c->op.weight[2] = op_weight(c, BE_FORMAT_F32, BE_SCALE_NONE, 1, 1);
    c->op.weight[3] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, shape.dim);
    c->op.weight[4] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, shape.vocab, shape.dim);
    c->op.in[0] = streams(c, BE_VALUE_INPUT);
    c->op.out[0] = op_value(c, BE_ELEM_F32, BE_LEAD_LOGIT_ROWS, 1, shape.vocab, BE_VALUE_OUTPUT);
    if (has_hidden)
        c->op.out[1] = op_value(c, BE_ELEM_BF16, BE_LEAD_LOGIT_ROWS, 1, shape.dim, BE_VALUE_OUTPUT);
    c->expect = head_expect;
    op_case_run(c);
}

START_TEST(head_computes_the_logit_rows_and_no_others)
{
    head_case(true);
    head_case(false);
}
END_TEST

static void join_expect(struct op_case *c)
{
    uint32_t dim = c->shape.dim, n = c->shape.streams;
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        uint16_t e[1024], x[1024], h[4096];
        memcpy(x, c->weight_data[c->op.weight[0]] + (uint64_t)op_rows(c)[r].token * dim * 2,
               dim * 2);
        eng_ref_rmsnorm(x, (const uint16_t *)(const void *)c->weight_data[c->op.weight[1]], 1, dim,
                        c->shape.norm_eps, x);
        op_linear_of(c, c->op.weight[2], x, e);
        for (uint32_t s = 0; s < n; s++) {
            eng_ref_rmsnorm(op_bf16(c, c->op.in[0], r) + s * dim,
                            (const uint16_t *)(const void *)c->weight_data[c->op.weight[3]], 1, dim,
                            c->shape.norm_eps, x);
            op_linear_of(c, c->op.weight[4], x, h + s * dim);
        }
        eng_ref_mtp_join(e, h, n, dim, op_bf16(c, c->op.out[0], r));
    }
}

static void join_case(enum be_format format, enum be_scale_format scale)
{
    struct be_shape shape = op_shape_tiny();
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_MTP_JOIN;
    c->op.weight[0] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, shape.vocab, shape.dim);
    c->op.weight[1] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, shape.dim);
    c->op.weight[2] = op_weight(c, format, scale, shape.dim, shape.dim);
    c->op.weight[3] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, shape.dim);
    c->op.weight[4] = op_weight(c, format, scale, shape.dim, shape.dim);
    c->op.in[0] = streams(c, BE_VALUE_INPUT);
    c->op.out[0] = streams(c, BE_VALUE_OUTPUT);
    c->expect = join_expect;
    op_case_run(c);
}

START_TEST(join_projects_the_embedding_and_every_stream)
{
    join_case(BE_FORMAT_FP8, BE_SCALE_UE8M0);
    join_case(BE_FORMAT_BF16, BE_SCALE_NONE);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backend/hyper");
    TCase *tcase = tcase_create("hyper");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, embed_repeats_the_row_of_the_token);
    tcase_add_test(tcase, collapse_gives_the_normed_row_its_codes_and_the_weights_of_the_way_back);
    tcase_add_test(tcase, collapse_of_two_or_three_streams);
    tcase_add_test(tcase, expand_adds_the_output_to_every_stream);
    tcase_add_test(tcase, tap_is_the_mean_of_the_streams);
    tcase_add_test(tcase, head_computes_the_logit_rows_and_no_others);
    tcase_add_test(tcase, join_projects_the_embedding_and_every_stream);
    suite_add_tcase(suite, tcase);
    return suite;
}
