/* SPARK_CONTEXT and SPARK_PROPOSE of every level against engine/ref. */
#include <string.h>

#include "engine/ref/attn.h"
#include "engine/ref/dspark.h"
#include "engine/ref/norm.h"
#include "engine/ref/rope.h"
#include "tests/support/op_case.h"
#include "tests/support/support.h"

enum { STAGES = 3 };

static const uint16_t *norm_of(const struct op_case *c, uint32_t slot)
{
    return (const uint16_t *)(const void *)c->weight_data[c->op.weight[slot]];
}

static void context_expect(struct op_case *c)
{
    uint32_t dim = c->shape.dim, kv_dim = c->shape.head_dim;
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        uint16_t hidden[1024], m[1024], kv[1024];
        const struct be_seq *seq = &op_seqs(c)[op_rows(c)[r].seq];
        uint32_t position = op_rows(c)[r].position;
        for (uint32_t t = 0; t < 3; t++)
            memcpy(hidden + t * dim, op_bf16(c, c->op.in[t], r), dim * 2);
        op_linear_of(c, c->op.weight[0], hidden, m);
        eng_ref_rmsnorm(m, norm_of(c, 1), 1, dim, c->shape.norm_eps, m);
        for (uint32_t i = 0; i < STAGES; i++) {
            uint8_t *row = op_window_row(c, c->op.state[i], seq, position);
            if (row == NULL)
                continue;
            op_linear_of(c, c->op.weight[2 + 2 * i], m, kv);
            eng_ref_rmsnorm(kv, norm_of(c, 3 + 2 * i), 1, kv_dim, c->shape.norm_eps, kv);
            eng_ref_rope(kv, 1, kv_dim, c->shape.rope_dim, position, c->shape.inv_freq_plain,
                         false);
            op_kv_pack(c, kv, row);
        }
    }
}

static void context_case(enum be_format format, enum be_scale_format scale)
{
    struct be_shape shape = op_shape_tiny();
    shape.stage_count = STAGES;
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_SPARK_CONTEXT;
    c->op.weight[0] = op_weight(c, format, scale, shape.dim, 3 * shape.dim);
    c->op.weight[1] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, shape.dim);
    for (uint32_t i = 0; i < STAGES; i++) {
        c->op.weight[2 + 2 * i] = op_weight(c, format, scale, shape.head_dim, shape.dim);
        c->op.weight[3 + 2 * i] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, shape.head_dim);
        c->op.layer = (uint16_t)(shape.layer_count + i);
        c->op.state[i] = op_state(c, BE_CLASS_WINDOW, 0);
        c->op.access[i] = BE_ACCESS_WRITE;
        c->op.in[i] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.dim, BE_VALUE_INPUT);
    }
    c->op.layer = (uint16_t)shape.layer_count;
    c->expect = context_expect;
    op_case_run(c);
}

START_TEST(spark_context_writes_the_window_of_every_stage)
{
    context_case(BE_FORMAT_FP8, BE_SCALE_UE8M0);
    context_case(BE_FORMAT_BF16, BE_SCALE_NONE);
}
END_TEST

/* The reference takes the block's logits and hidden rows one after the other. */
static void propose_expect(struct op_case *c)
{
    uint32_t block = c->shape.spark_block, vocab = c->shape.vocab, dim = c->shape.dim;
    for (uint32_t s = 0; s < c->block->seq_count; s++) {
        float base[4 * 512], logits[4 * 512], scratch[1024];
        uint16_t hidden[4 * 128];
        const struct be_seq *seq = &op_seqs(c)[s];
        for (uint32_t i = 0; i < block; i++) {
            uint32_t logit = op_rows(c)[seq->row_first + i].logit;
            memcpy(base + i * vocab, op_f32(c, c->op.in[0], logit), vocab * sizeof *base);
            memcpy(hidden + i * dim, op_bf16(c, c->op.in[1], logit), dim * sizeof *hidden);
        }
        struct eng_ref_propose propose = {.markov_w1 = op_ref_weight(c, c->op.weight[0]),
                                          .markov_w2 = op_ref_weight(c, c->op.weight[1]),
                                          .confidence = op_ref_weight(c, c->op.weight[2]),
                                          .block = block,
                                          .dim = dim,
                                          .base = base,
                                          .hidden = hidden};
        eng_ref_propose(&propose, (uint32_t)op_rows(c)[seq->row_first].token, scratch,
                        (uint32_t *)(void *)op_i32(c, c->op.out[0], s), op_f32(c, c->op.out[1], s),
                        logits);
        for (uint32_t i = 0; i < block; i++)
            memcpy(op_f32(c, c->op.out[2], op_rows(c)[seq->row_first + i].logit),
                   logits + i * vocab, vocab * sizeof *logits);
    }
}

START_TEST(spark_propose_goes_token_by_token)
{
    struct be_shape shape = op_shape_tiny();
    shape.stage_count = 1;
    shape.spark_block = 4;
    shape.spark_rank = _i == 0 ? 32 : 40; /* a short block at the end */
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_SPARK_PROPOSE;
    c->op.layer = (uint16_t)shape.layer_count;
    c->op.weight[0] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, shape.vocab, shape.spark_rank);
    c->op.weight[1] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, shape.vocab, shape.spark_rank);
    c->op.weight[2] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, shape.dim + shape.spark_rank);
    c->op.in[0] = op_value(c, BE_ELEM_F32, BE_LEAD_LOGIT_ROWS, 1, shape.vocab, BE_VALUE_INPUT);
    c->op.in[1] = op_value(c, BE_ELEM_BF16, BE_LEAD_LOGIT_ROWS, 1, shape.dim, BE_VALUE_INPUT);
    c->op.out[0] = op_value(c, BE_ELEM_I32, BE_LEAD_SEQS, 1, shape.spark_block, BE_VALUE_OUTPUT);
    c->op.out[1] = op_value(c, BE_ELEM_F32, BE_LEAD_SEQS, 1, shape.spark_block, BE_VALUE_OUTPUT);
    c->op.out[2] = op_value(c, BE_ELEM_F32, BE_LEAD_LOGIT_ROWS, 1, shape.vocab, BE_VALUE_OUTPUT);
    c->seq_rows = shape.spark_block;
    c->all_logits = true;
    c->expect = propose_expect;
    op_case_run(c);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backend/draft");
    TCase *tcase = tcase_create("draft");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, spark_context_writes_the_window_of_every_stage);
    tcase_add_loop_test(tcase, spark_propose_goes_token_by_token, 0, 2);
    suite_add_tcase(suite, tcase);
    return suite;
}
