/* Q_DOWN, KV_STORE, Q_UP, OUT_GROUPED and OUT_PROJECT of every level against engine/ref. */
#include <string.h>

#include "engine/ref/attn.h"
#include "engine/ref/norm.h"
#include "engine/ref/rope.h"
#include "tests/support/op_case.h"
#include "tests/support/support.h"

struct form {
    enum be_format format;
    enum be_scale_format scale;
};

static const struct form forms[] = {{BE_FORMAT_FP8, BE_SCALE_UE8M0},
                                    {BE_FORMAT_FP8, BE_SCALE_F32},
                                    {BE_FORMAT_FP4, BE_SCALE_UE8M0},
                                    {BE_FORMAT_BF16, BE_SCALE_NONE}};
enum { FORM_COUNT = 4 };

/* The two inputs of a linear over `cols`: only the one that the format takes. */
static void inputs(struct op_case *c, struct form form, uint32_t slot, uint32_t cols)
{
    if (form.format == BE_FORMAT_BF16)
        c->op.in[slot] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, cols, BE_VALUE_INPUT);
    else
        c->op.in[slot + 1] = op_value(c, BE_ELEM_ACT, BE_LEAD_ROWS, 1, cols, BE_VALUE_INPUT);
}

static const uint16_t *norm_of(const struct op_case *c, uint32_t slot)
{
    return (const uint16_t *)(const void *)c->weight_data[c->op.weight[slot]];
}

static void q_down_expect(struct op_case *c)
{
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        uint16_t *qr = op_bf16(c, c->op.out[0], r);
        op_linear(c, c->op.weight[0], c->op.in[0], c->op.in[1], r, qr);
        eng_ref_rmsnorm(qr, norm_of(c, 1), 1, c->shape.q_rank, c->shape.norm_eps, qr);
        if (c->op.out[1] != 0)
            op_act_write(c, c->op.out[1], r, qr);
    }
}

START_TEST(q_down_in_every_format)
{
    struct be_shape shape = op_shape_tiny();
    shape.q_rank = _i == 0 ? 256 : 128;
    shape.dim = _i == 1 ? 384 : 128;
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_Q_DOWN;
    c->op.weight[0] = op_weight(c, forms[_i].format, forms[_i].scale, shape.q_rank, shape.dim);
    c->op.weight[1] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, shape.q_rank);
    inputs(c, forms[_i], 0, shape.dim);
    c->op.out[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.q_rank, BE_VALUE_OUTPUT);
    if (_i != 3)
        c->op.out[1] = op_value(c, BE_ELEM_ACT, BE_LEAD_ROWS, 1, shape.q_rank, BE_VALUE_OUTPUT);
    c->expect = q_down_expect;
    op_case_run(c);
}
END_TEST

static struct eng_ref_attn attn_of(const struct op_case *c)
{
    return (struct eng_ref_attn){
        .heads = c->shape.head_count,
        .dim = c->shape.head_dim,
        .rope_dim = c->shape.rope_dim,
        .norm_eps = c->shape.norm_eps,
        .inverse = c->op.ratio == 0 ? c->shape.inv_freq_plain : c->shape.inv_freq_yarn,
    };
}

static void kv_store_expect(struct op_case *c)
{
    struct eng_ref_attn attn = attn_of(c);
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        uint16_t *kv = op_bf16(c, c->op.out[0], r), normed[1024];
        uint32_t position = op_rows(c)[r].position;
        op_linear(c, c->op.weight[0], c->op.in[0], c->op.in[1], r, kv);
        eng_ref_rmsnorm(kv, norm_of(c, 1), 1, attn.dim, attn.norm_eps, normed);
        eng_ref_rope(normed, 1, attn.dim, attn.rope_dim, position, attn.inverse, false);
        eng_ref_kv_finish(&attn, norm_of(c, 1), position, kv);
        if (c->op.state[0] == 0)
            continue;
        uint8_t *row = op_window_row(c, c->op.state[0], &op_seqs(c)[op_rows(c)[r].seq], position);
        if (row != NULL)
            op_kv_pack(c, normed, row);
    }
}

static void kv_store_case(const struct be_shape *shape, struct form form, uint32_t ratio,
                          bool has_state)
{
    struct op_case *c = op_case_new(shape, test_seed());
    c->op.kind = BE_OP_KV_STORE;
    c->op.ratio = (uint16_t)ratio;
    c->op.weight[0] = op_weight(c, form.format, form.scale, shape->head_dim, shape->dim);
    c->op.weight[1] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, shape->head_dim);
    inputs(c, form, 0, shape->dim);
    c->op.out[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape->head_dim, BE_VALUE_OUTPUT);
    (void)op_state(c, BE_CLASS_COMP, 128); /* so that rows do not begin at a page's start */
    if (has_state) {
        c->op.state[0] = op_state(c, BE_CLASS_WINDOW, 0);
        c->op.access[0] = BE_ACCESS_WRITE;
    }
    c->expect = kv_store_expect;
    op_case_run(c);
}

START_TEST(kv_store_writes_the_rows_that_are_kept)
{
    struct be_shape shape = op_shape_tiny();
    kv_store_case(&shape, forms[0], 0, true);
    kv_store_case(&shape, forms[3], 4, true);
    shape.head_dim = 128;
    kv_store_case(&shape, forms[1], 128, true);
    kv_store_case(&shape, forms[2], 0, false);
}
END_TEST

static void q_up_expect(struct op_case *c)
{
    struct eng_ref_attn attn = attn_of(c);
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        uint16_t *q = op_bf16(c, c->op.out[0], r);
        op_linear(c, c->op.weight[0], c->op.in[0], c->op.in[1], r, q);
        eng_ref_q_finish(&attn, op_rows(c)[r].position, q);
    }
}

START_TEST(q_up_norms_and_rotates_every_head)
{
    struct be_shape shape = op_shape_tiny();
    shape.head_count = _i == 1 ? 5 : 4;
    shape.head_dim = _i == 1 ? 80 : 256; /* 400 rows: a panel of one group at the end */
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_Q_UP;
    c->op.ratio = _i % 2 == 0 ? 4 : 0;
    c->op.weight[0] = op_weight(c, forms[_i].format, forms[_i].scale,
                                shape.head_count * shape.head_dim, shape.q_rank);
    inputs(c, forms[_i], 0, shape.q_rank);
    c->op.out[0] =
        op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, shape.head_count, shape.head_dim, BE_VALUE_OUTPUT);
    c->expect = q_up_expect;
    op_case_run(c);
}
END_TEST

static void out_grouped_expect(struct op_case *c)
{
    struct eng_ref_weight wo_a = op_ref_weight(c, c->op.weight[0]);
    uint32_t cols = c->shape.head_count * c->shape.head_dim;
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        float values[4096];
        uint16_t *u = op_bf16(c, c->op.out[0], r);
        eng_ref_widen(op_bf16(c, c->op.in[0], r), cols, values);
        eng_ref_out_grouped(&wo_a, values, c->shape.out_groups, u);
        if (c->op.out[1] != 0)
            op_act_write(c, c->op.out[1], r, u);
    }
}

static void out_grouped_case(const struct be_shape *shape, struct form form, bool has_act)
{
    struct op_case *c = op_case_new(shape, test_seed());
    uint32_t rows = shape->out_groups * shape->out_rank;
    c->op.kind = BE_OP_OUT_GROUPED;
    c->op.weight[0] = op_weight(c, form.format, form.scale, rows,
                                shape->head_count * shape->head_dim / shape->out_groups);
    c->op.in[0] =
        op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, shape->head_count, shape->head_dim, BE_VALUE_INPUT);
    c->op.out[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, rows, BE_VALUE_OUTPUT);
    if (has_act)
        c->op.out[1] = op_value(c, BE_ELEM_ACT, BE_LEAD_ROWS, 1, rows, BE_VALUE_OUTPUT);
    c->expect = out_grouped_expect;
    op_case_run(c);
}

START_TEST(out_grouped_gives_each_group_its_heads)
{
    struct be_shape shape = op_shape_tiny();
    out_grouped_case(&shape, forms[0], true);
    out_grouped_case(&shape, forms[1], false);
    out_grouped_case(&shape, forms[3], true);
    shape.out_groups = 4;
    shape.out_rank = 32; /* two groups share a panel */
    out_grouped_case(&shape, forms[0], true);
}
END_TEST

static void out_project_expect(struct op_case *c)
{
    for (uint32_t r = 0; r < c->block->row_count; r++)
        op_linear(c, c->op.weight[0], c->op.in[0], c->op.in[1], r, op_bf16(c, c->op.out[0], r));
}

START_TEST(out_project_in_every_format)
{
    struct be_shape shape = op_shape_tiny();
    shape.out_rank = _i == 2 ? 192 : 64; /* 384 columns */
    struct op_case *c = op_case_new(&shape, test_seed());
    uint32_t cols = shape.out_groups * shape.out_rank;
    c->op.kind = BE_OP_OUT_PROJECT;
    c->op.weight[0] = op_weight(c, forms[_i].format, forms[_i].scale, shape.dim, cols);
    inputs(c, forms[_i], 0, cols);
    c->op.out[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.dim, BE_VALUE_OUTPUT);
    c->expect = out_project_expect;
    op_case_run(c);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backend/project");
    TCase *tcase = tcase_create("project");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, q_down_in_every_format, 0, FORM_COUNT);
    tcase_add_test(tcase, kv_store_writes_the_rows_that_are_kept);
    tcase_add_loop_test(tcase, q_up_norms_and_rotates_every_head, 0, FORM_COUNT);
    tcase_add_test(tcase, out_grouped_gives_each_group_its_heads);
    tcase_add_loop_test(tcase, out_project_in_every_format, 0, FORM_COUNT);
    suite_add_tcase(suite, tcase);
    return suite;
}
