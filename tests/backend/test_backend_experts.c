/* ROUTE, SHARED_EXPERT and EXPERTS of every level against engine/ref. */
#include <string.h>

#include "backends/base/numeric.h"
#include "engine/ref/moe.h"
#include "tests/support/op_case.h"
#include "tests/support/support.h"

static void route_expect(struct op_case *c)
{
    const struct be_shape *shape = &c->shape;
    struct eng_ref_weight gate = op_ref_weight(c, c->op.weight[0]);
    struct eng_ref_route route = {.expert_count = shape->expert_count,
                                  .used = shape->experts_per_token,
                                  .route_scale = shape->route_scale};
    if (c->op.weight[1] != 0)
        route.bias = (const float *)(const void *)c->weight_data[c->op.weight[1]];
    if (c->op.weight[2] != 0)
        route.tid2eid = (const int64_t *)(const void *)c->weight_data[c->op.weight[2]];
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        float x[1024], logits[512], scratch[512];
        struct eng_ref_input input = {.values = x, .stride = shape->dim};
        eng_ref_widen(op_bf16(c, c->op.in[0], r), shape->dim, x);
        eng_ref_linear(&gate, &input, 1, logits);
        eng_ref_route(&route, logits, (uint32_t)op_rows(c)[r].token, scratch,
                      (uint32_t *)(void *)op_i32(c, c->op.out[0], r), op_f32(c, c->op.out[1], r));
    }
}

static void route_case(uint32_t experts, uint32_t used, bool is_hashed)
{
    struct be_shape shape = op_shape_tiny();
    shape.expert_count = experts;
    shape.experts_per_token = used;
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_ROUTE;
    c->op.weight[0] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, experts, shape.dim);
    if (is_hashed)
        c->op.weight[2] = op_weight(c, BE_FORMAT_I64, BE_SCALE_NONE, shape.vocab, used);
    else
        c->op.weight[1] = op_weight(c, BE_FORMAT_F32, BE_SCALE_NONE, 1, experts);
    /* experts 1 and 2 are the same: the lower number must win */
    uint64_t row = shape.dim * 2;
    memcpy(c->weight_data[1] + 2 * row, c->weight_data[1] + row, row);
    if (!is_hashed)
        memcpy(c->weight_data[2] + 8, c->weight_data[2] + 4, 4);
    c->op.in[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.dim, BE_VALUE_INPUT);
    c->op.out[0] = op_value(c, BE_ELEM_I32, BE_LEAD_ROWS, 1, used, BE_VALUE_OUTPUT);
    c->op.out[1] = op_value(c, BE_ELEM_F32, BE_LEAD_ROWS, 1, used, BE_VALUE_OUTPUT);
    c->expect = route_expect;
    op_case_run(c);
}

START_TEST(route_by_score_and_by_table)
{
    route_case(8, 2, false);
    route_case(8, 8, false);
    route_case(90, 6, false);
    route_case(8, 2, true);
}
END_TEST

/* One expert on one token: `first` is its w1. */
static void expert(const struct op_case *c, be_weight_id first, uint32_t row, const float *weight,
                   uint16_t *ret_y)
{
    uint16_t g[1024], u[1024];
    op_linear(c, first, c->op.in[0], c->op.in[1], row, g);
    op_linear(c, first + 1, c->op.in[0], c->op.in[1], row, u);
    eng_ref_swiglu(g, u, c->shape.expert_dim, c->shape.swiglu_limit, weight, g);
    op_linear_of(c, first + 2, g, ret_y);
}

static void input_of(struct op_case *c, enum be_format format)
{
    if (format == BE_FORMAT_BF16)
        c->op.in[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, c->shape.dim, BE_VALUE_INPUT);
    else
        c->op.in[1] = op_value(c, BE_ELEM_ACT, BE_LEAD_ROWS, 1, c->shape.dim, BE_VALUE_INPUT);
}

static be_weight_id expert_weights(struct op_case *c, enum be_format format,
                                   enum be_scale_format scale)
{
    be_weight_id first = op_weight(c, format, scale, c->shape.expert_dim, c->shape.dim);
    (void)op_weight(c, format, scale, c->shape.expert_dim, c->shape.dim);
    (void)op_weight(c, format, scale, c->shape.dim, c->shape.expert_dim);
    return first;
}

static void shared_expect(struct op_case *c)
{
    for (uint32_t r = 0; r < c->block->row_count; r++)
        expert(c, c->op.weight[0], r, NULL, op_bf16(c, c->op.out[0], r));
}

START_TEST(shared_expert_in_every_format)
{
    static const enum be_format formats[] = {BE_FORMAT_FP8, BE_FORMAT_FP8, BE_FORMAT_BF16};
    static const enum be_scale_format scales[] = {BE_SCALE_UE8M0, BE_SCALE_F32, BE_SCALE_NONE};
    struct be_shape shape = op_shape_tiny();
    shape.expert_dim = _i == 0 ? 256 : 128;
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_SHARED_EXPERT;
    c->op.weight[0] = expert_weights(c, formats[_i], scales[_i]);
    c->op.weight[1] = c->op.weight[0] + 1;
    c->op.weight[2] = c->op.weight[0] + 2;
    input_of(c, formats[_i]);
    c->op.out[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.dim, BE_VALUE_OUTPUT);
    c->expect = shared_expect;
    op_case_run(c);
}
END_TEST

/* Distinct experts in any order, and weights; most rows agree on expert 0, so that one list is
 * longer than a tile. */
static void experts_prepare(struct op_case *c)
{
    uint32_t used = c->shape.experts_per_token, count = c->shape.expert_count;
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        int32_t *experts = op_i32(c, c->op.in[2], r);
        uint32_t first = op_unit(c) < 0.8 ? 0 : (uint32_t)(op_unit(c) * count);
        for (uint32_t i = 0; i < used; i++) {
            experts[i] = (int32_t)((first + 3 * i) % count);
            op_f32(c, c->op.in[3], r)[i] = 0.5f + (float)op_unit(c);
        }
        if (op_unit(c) < 0.5) {
            int32_t last = experts[used - 1];
            experts[used - 1] = experts[0];
            experts[0] = last;
        }
    }
}

static void experts_expect(struct op_case *c)
{
    uint32_t used = c->shape.experts_per_token, dim = c->shape.dim;
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        uint16_t y[8 * 1024];
        const int32_t *experts = op_i32(c, c->op.in[2], r);
        for (uint32_t i = 0; i < used; i++)
            expert(c, c->op.weight[0] + 3 * (uint32_t)experts[i], r, &op_f32(c, c->op.in[3], r)[i],
                   y + i * dim);
        eng_ref_expert_sum((const uint32_t *)(const void *)experts, used, y,
                           op_bf16(c, c->op.in[4], r), dim, op_bf16(c, c->op.out[0], r));
    }
}

static void experts_case(enum be_format format, enum be_scale_format scale, uint32_t used)
{
    struct be_shape shape = op_shape_tiny();
    shape.experts_per_token = used;
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_EXPERTS;
    for (uint32_t e = 0; e < shape.expert_count; e++) {
        be_weight_id first = expert_weights(c, format, scale);
        if (e == 0)
            c->op.weight[0] = first;
    }
    input_of(c, format);
    c->op.in[2] = op_value(c, BE_ELEM_I32, BE_LEAD_ROWS, 1, used, BE_VALUE_INPUT);
    c->op.in[3] = op_value(c, BE_ELEM_F32, BE_LEAD_ROWS, 1, used, BE_VALUE_INPUT);
    c->op.in[4] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.dim, BE_VALUE_INPUT);
    c->op.out[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.dim, BE_VALUE_OUTPUT);
    c->prepare = experts_prepare;
    c->expect = experts_expect;
    op_case_run(c);
}

START_TEST(experts_in_every_format)
{
    experts_case(BE_FORMAT_FP4, BE_SCALE_UE8M0, 2);
    experts_case(BE_FORMAT_FP4, BE_SCALE_UE8M0, 5);
    experts_case(BE_FORMAT_FP8, BE_SCALE_F32, 2);
    experts_case(BE_FORMAT_BF16, BE_SCALE_NONE, 1);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backend/experts");
    TCase *tcase = tcase_create("experts");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, route_by_score_and_by_table);
    tcase_add_loop_test(tcase, shared_expert_in_every_format, 0, 3);
    tcase_add_test(tcase, experts_in_every_format);
    suite_add_tcase(suite, tcase);
    return suite;
}
