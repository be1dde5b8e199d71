/* ATTEND, SPARK_ATTEND, COMPRESS, COMPRESS_INDEX, INDEX_QUERY and INDEX_SELECT of every level
 * against engine/ref. */
#include <math.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "engine/ref/attn.h"
#include "engine/ref/compress.h"
#include "engine/ref/indexer.h"
#include "engine/ref/norm.h"
#include "engine/ref/rope.h"
#include "tests/support/op_case.h"
#include "tests/support/support.h"

enum { ROWS_SEEN_MAX = 8192 };

static const float *inverse_of(const struct op_case *c)
{
    return c->op.ratio == 0 ? c->shape.inv_freq_plain : c->shape.inv_freq_yarn;
}

static struct eng_ref_attn attn_of(const struct op_case *c)
{
    return (struct eng_ref_attn){.heads = c->shape.head_count,
                                 .dim = c->shape.head_dim,
                                 .rope_dim = c->shape.rope_dim,
                                 .norm_eps = c->shape.norm_eps,
                                 .inverse = inverse_of(c)};
}

/* ---- ATTEND -------------------------------------------------------------------------------- */

/* Rows of the step are values of this step, older ones those of the page. */
static void seen_position(const struct op_case *c, const struct be_seq *seq, uint32_t position,
                          uint16_t *ret_row)
{
    uint32_t dim = c->shape.head_dim;
    if (position >= seq->length_before) {
        memcpy(ret_row, op_bf16(c, c->op.in[1], seq->row_first + position - seq->length_before),
               dim * 2);
        return;
    }
    const uint8_t *row = op_window_row(c, c->op.state[0], seq, position);
    if (row != NULL)
        op_kv_unpack(c, row, ret_row);
    else
        memset(ret_row, 0, dim * 2);
}

static void attend_expect(struct op_case *c)
{
    struct eng_ref_attn attn = attn_of(c);
    const float *sink = (const float *)(const void *)c->weight_data[c->op.weight[0]];
    uint32_t dim = c->shape.head_dim;
    uint16_t *rows = fm_alloc_array(ROWS_SEEN_MAX, dim * sizeof *rows);
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        const struct be_seq *seq = &op_seqs(c)[op_rows(c)[r].seq];
        uint32_t position = op_rows(c)[r].position, count = 0;
        bool is_spark = c->op.kind == BE_OP_SPARK_ATTEND;
        uint32_t end = is_spark ? seq->length_before : position + 1;
        for (uint32_t t = end - fm_min_u32(end, c->shape.window); t < end; t++)
            seen_position(c, seq, t, rows + (uint64_t)count++ * dim);
        for (uint32_t b = 0; is_spark && b < seq->row_count; b++)
            memcpy(rows + (uint64_t)count++ * dim, op_bf16(c, c->op.in[1], seq->row_first + b),
                   dim * 2);
        uint32_t entries = 0;
        if (c->op.in[2] != 0)
            entries = (uint32_t)*op_i32(c, c->op.in[3], r);
        else if (c->op.state[1] != 0)
            entries = (position + 1) / c->op.ratio;
        for (uint32_t j = 0; j < entries; j++) {
            uint32_t entry = c->op.in[2] != 0 ? (uint32_t)op_i32(c, c->op.in[2], r)[j] : j;
            op_kv_unpack(c, op_entry_row(c, c->op.state[1], seq, entry),
                         rows + (uint64_t)count++ * dim);
        }
        eng_ref_attend(&attn, op_bf16(c, c->op.in[0], r), rows, count, sink, position,
                       op_bf16(c, c->op.out[0], r));
    }
    fm_free(rows);
}

/* Entries that the step itself completes stand in the pages before ATTEND runs: fill them in, and
 * choose entries for a layer with an indexer. */
static void attend_prepare(struct op_case *c)
{
    uint16_t kv[1024];
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        const struct be_seq *seq = &op_seqs(c)[op_rows(c)[r].seq];
        uint32_t position = op_rows(c)[r].position, ratio = c->op.ratio;
        if (c->op.state[1] != 0 && (position + 1) % ratio == 0) {
            for (uint32_t i = 0; i < c->shape.head_dim; i++)
                kv[i] = fm_bf16(op_normal(c));
            op_kv_pack(c, kv, op_entry_row(c, c->op.state[1], seq, position / ratio));
        }
        if (c->op.in[2] == 0)
            continue;
        uint32_t visible = (position + 1) / ratio, chosen = 0;
        int32_t *selected = op_i32(c, c->op.in[2], r);
        for (uint32_t j = 0; j < visible && chosen < c->shape.index_topk; j++)
            if (visible - j <= c->shape.index_topk - chosen || op_unit(c) < 0.3)
                selected[chosen++] = (int32_t)j;
        *op_i32(c, c->op.in[3], r) = (int32_t)chosen;
        while (chosen < c->shape.index_topk)
            selected[chosen++] = -1;
    }
}

static void attend_case(const struct be_shape *from, enum be_op_kind kind, uint32_t ratio,
                        uint32_t seq_rows)
{
    struct be_shape shape = *from;
    shape.softmax_scale = (float)(1.0 / sqrt((double)shape.head_dim));
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = kind;
    c->op.layer = (uint16_t)(kind == BE_OP_SPARK_ATTEND ? shape.layer_count : 0);
    c->op.ratio = (uint16_t)ratio;
    c->op.weight[0] = op_weight(c, BE_FORMAT_F32, BE_SCALE_NONE, 1, shape.head_count);
    c->op.in[0] =
        op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, shape.head_count, shape.head_dim, BE_VALUE_INPUT);
    c->op.in[1] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.head_dim, BE_VALUE_INPUT);
    c->op.out[0] =
        op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, shape.head_count, shape.head_dim, BE_VALUE_OUTPUT);
    c->op.state[0] = op_state(c, BE_CLASS_WINDOW, 0);
    c->op.access[0] = BE_ACCESS_READ;
    if (ratio != 0) {
        c->op.state[1] = op_state(c, BE_CLASS_COMP, ratio);
        c->op.access[1] = BE_ACCESS_READ;
    }
    if (ratio == 4) {
        c->op.in[2] = op_value(c, BE_ELEM_I32, BE_LEAD_ROWS, 1, shape.index_topk, BE_VALUE_INPUT);
        c->op.in[3] = op_value(c, BE_ELEM_I32, BE_LEAD_ROWS, 1, 1, BE_VALUE_INPUT);
    }
    c->seq_rows = seq_rows;
    c->all_logits = kind == BE_OP_SPARK_ATTEND;
    c->needs_window = kind == BE_OP_SPARK_ATTEND;
    c->prepare = attend_prepare;
    c->expect = attend_expect;
    op_case_run(c);
}

START_TEST(attend_over_the_window_alone)
{
    struct be_shape shape = op_shape_tiny();
    attend_case(&shape, BE_OP_ATTEND, 0, 0);
    shape.window = 128; /* a whole page */
    shape.head_dim = 128;
    attend_case(&shape, BE_OP_ATTEND, 0, 0);
}
END_TEST

START_TEST(attend_over_chosen_entries)
{
    struct be_shape shape = op_shape_tiny();
    attend_case(&shape, BE_OP_ATTEND, 4, 0);
    shape.window = 128;
    shape.head_dim = 128;
    shape.index_topk = 600; /* two splits */
    attend_case(&shape, BE_OP_ATTEND, 4, 0);
}
END_TEST

START_TEST(attend_over_all_visible_entries)
{
    struct be_shape shape = op_shape_tiny();
    attend_case(&shape, BE_OP_ATTEND, 128, 0);
    shape.head_dim = 128;
    shape.head_count = 20; /* not a multiple of 16 */
    attend_case(&shape, BE_OP_ATTEND, 128, 0);
    shape.head_count = 2;
    attend_case(&shape, BE_OP_ATTEND, 8, 0); /* 640 entries: two splits */
}
END_TEST

START_TEST(attend_with_more_heads_than_a_tile_has_lanes)
{
    struct be_shape shape = op_shape_tiny();
    shape.head_dim = 128;
    shape.head_count = 82;
    attend_case(&shape, BE_OP_ATTEND, 0, 0);
}
END_TEST

START_TEST(spark_attend_sees_the_window_and_the_whole_block)
{
    struct be_shape shape = op_shape_tiny();
    shape.spark_block = 3;
    shape.stage_count = 1;
    attend_case(&shape, BE_OP_SPARK_ATTEND, 0, 3);
}
END_TEST

/* ---- COMPRESS ------------------------------------------------------------------------------ */

static struct eng_ref_compress compress_of(const struct op_case *c)
{
    bool is_index = c->op.kind == BE_OP_COMPRESS_INDEX;
    return (struct eng_ref_compress){
        .ratio = c->op.ratio,
        .width = is_index ? c->shape.index_dim : c->shape.head_dim,
        .rope_dim = c->shape.rope_dim,
        .is_overlap = c->op.ratio == 4,
        .is_index = is_index,
        .norm_eps = c->shape.norm_eps,
        .inverse = inverse_of(c),
        .wkv = op_ref_weight(c, c->op.weight[0]),
        .wgate = op_ref_weight(c, c->op.weight[1]),
        .ape = (const float *)(const void *)c->weight_data[c->op.weight[2]],
        .norm = (const uint16_t *)(const void *)c->weight_data[c->op.weight[3]],
    };
}

/* The entry as a canonical row.  The reference gives it simulated, from which the scale that was
 * chosen cannot always be told: so its steps before that are repeated here. */
static void entry_pack(const struct op_case *c, const struct eng_ref_compress *compress,
                       const float *k, const float *g, uint32_t index, uint8_t *ret_row)
{
    uint16_t simulated[1024], unpacked[1024], entry[1024];
    float scratch[1024];
    uint32_t width = compress->width, ratio = compress->ratio, columns = compress->wkv.rows;
    eng_ref_compress_entry(compress, k, g, index, scratch, simulated);
    for (uint32_t col = 0; col < width; col++) {
        uint32_t slots = compress->is_overlap ? 2 * ratio : ratio;
        float top = -INFINITY, l = 0.0f, a = 0.0f;
        for (uint32_t s = 0; s < slots; s++)
            top = fm_max_f32(g[s * columns + (s >= ratio ? width : 0) + col], top);
        for (uint32_t s = 0; s < slots; s++) {
            uint32_t at = s * columns + (s >= ratio ? width : 0) + col;
            float p = fm_exp(g[at] - top);
            l = l + p;
            a = fm_fma(p, k[at], a);
        }
        entry[col] = fm_bf16(a / l);
    }
    eng_ref_rmsnorm(entry, compress->norm, 1, width, compress->norm_eps, entry);
    eng_ref_rope(entry, 1, width, compress->rope_dim, index * ratio, compress->inverse, false);
    if (compress->is_index) {
        fm_hadamard(entry, width, scratch);
        op_key_pack(c, entry, ret_row);
        op_key_unpack(c, ret_row, unpacked);
    } else {
        op_kv_pack(c, entry, ret_row);
        op_kv_unpack(c, ret_row, unpacked);
    }
    if (memcmp(unpacked, simulated, width * 2) != 0)
        ck_abort_msg("this test's entry is not the reference's");
}

static void compress_expect(struct op_case *c)
{
    struct eng_ref_compress compress = compress_of(c);
    uint32_t ratio = compress.ratio, columns = compress.wkv.rows;
    uint32_t slots = compress.is_overlap ? 2 * ratio : ratio;
    float x[1024];
    float *k = fm_alloc_array(slots, columns * sizeof *k);
    float *g = fm_alloc_array(slots, columns * sizeof *g);
    for (uint32_t s = 0; s < c->block->seq_count; s++) {
        const struct be_seq *seq = &op_seqs(c)[s];
        uint32_t length = seq->length_before;
        for (uint32_t r = 0; r < seq->row_count; r++) {
            /* the ring as the tail slot has it, row by row: what an entry needs is never gone */
            float *row = op_tail_row(c, c->op.state[1], seq, length + r);
            eng_ref_widen(op_bf16(c, c->op.in[0], seq->row_first + r), c->shape.dim, x);
            eng_ref_compress_row(&compress, x, length + r, row, row + columns);
            uint32_t end = length + r + 1;
            if (end % ratio != 0)
                continue;
            for (uint32_t i = 0; i < slots; i++) {
                if (end + i < slots) {
                    for (uint32_t j = 0; j < columns; j++) {
                        k[i * columns + j] = 0.0f;
                        g[i * columns + j] = -INFINITY;
                    }
                    continue;
                }
                row = op_tail_row(c, c->op.state[1], seq, end + i - slots);
                memcpy(k + i * columns, row, columns * sizeof *k);
                memcpy(g + i * columns, row + columns, columns * sizeof *g);
            }
            uint32_t index = end / ratio - 1;
            entry_pack(c, &compress, k, g, index, op_entry_row(c, c->op.state[0], seq, index));
        }
    }
    fm_free(k);
    fm_free(g);
}

static void compress_case(const struct be_shape *shape, bool is_index, uint32_t ratio)
{
    struct op_case *c = op_case_new(shape, test_seed());
    uint32_t width = is_index ? shape->index_dim : shape->head_dim;
    uint32_t columns = (ratio == 4 ? 2 : 1) * width;
    c->op.kind = is_index ? BE_OP_COMPRESS_INDEX : BE_OP_COMPRESS;
    c->op.ratio = (uint16_t)ratio;
    c->op.weight[0] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, columns, shape->dim);
    c->op.weight[1] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, columns, shape->dim);
    c->op.weight[2] = op_weight(c, BE_FORMAT_F32, BE_SCALE_NONE, ratio, columns);
    c->op.weight[3] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, 1, width);
    c->op.in[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape->dim, BE_VALUE_INPUT);
    c->op.state[0] = op_state(c, is_index ? BE_CLASS_INDEX : BE_CLASS_COMP, ratio);
    c->op.access[0] = BE_ACCESS_WRITE;
    c->op.state[1] = op_state(c, is_index ? BE_CLASS_INDEX_TAIL : BE_CLASS_TAIL, ratio);
    c->op.access[1] = BE_ACCESS_READ | BE_ACCESS_WRITE;
    c->expect = compress_expect;
    op_case_run(c);
}

START_TEST(compress_emits_entries_and_keeps_the_tail)
{
    struct be_shape shape = op_shape_tiny();
    compress_case(&shape, false, 4);
    shape.head_dim = 128;
    compress_case(&shape, false, 128);
    compress_case(&shape, false, 16);
}
END_TEST

START_TEST(compress_index_emits_keys)
{
    struct be_shape shape = op_shape_tiny();
    compress_case(&shape, true, 4);
}
END_TEST

/* ---- the indexer --------------------------------------------------------------------------- */

static struct eng_ref_indexer indexer_of(const struct op_case *c)
{
    return (struct eng_ref_indexer){.heads = c->shape.index_heads,
                                    .dim = c->shape.index_dim,
                                    .rope_dim = c->shape.rope_dim,
                                    .topk = c->shape.index_topk,
                                    .inverse = c->shape.inv_freq_yarn};
}

static void query_expect(struct op_case *c)
{
    struct eng_ref_indexer indexer = indexer_of(c);
    struct eng_ref_weight proj = op_ref_weight(c, c->op.weight[1]);
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        float scratch[1024], x[1024], weights[64];
        struct eng_ref_input input = {.values = x, .stride = c->shape.dim};
        uint16_t *qi = op_bf16(c, c->op.out[0], r);
        op_linear(c, c->op.weight[0], c->op.in[1], c->op.in[2], r, qi);
        eng_ref_index_query(&indexer, op_rows(c)[r].position, scratch, qi);
        eng_ref_widen(op_bf16(c, c->op.in[0], r), c->shape.dim, x);
        eng_ref_linear(&proj, &input, 1, weights);
        eng_ref_index_weights(&indexer, weights, op_f32(c, c->op.out[1], r));
    }
}

static void query_case(enum be_format format, enum be_scale_format scale, uint32_t heads)
{
    struct be_shape shape = op_shape_tiny();
    shape.index_heads = heads;
    shape.index_scale = (float)(1.0 / sqrt((double)shape.index_dim * (double)heads));
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_INDEX_QUERY;
    c->op.ratio = 4;
    c->op.weight[0] = op_weight(c, format, scale, heads * shape.index_dim, shape.q_rank);
    c->op.weight[1] = op_weight(c, BE_FORMAT_BF16, BE_SCALE_NONE, heads, shape.dim);
    c->op.in[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.dim, BE_VALUE_INPUT);
    if (format == BE_FORMAT_BF16)
        c->op.in[1] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, 1, shape.q_rank, BE_VALUE_INPUT);
    else
        c->op.in[2] = op_value(c, BE_ELEM_ACT, BE_LEAD_ROWS, 1, shape.q_rank, BE_VALUE_INPUT);
    c->op.out[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, heads, shape.index_dim, BE_VALUE_OUTPUT);
    c->op.out[1] = op_value(c, BE_ELEM_F32, BE_LEAD_ROWS, 1, heads, BE_VALUE_OUTPUT);
    c->expect = query_expect;
    op_case_run(c);
}

START_TEST(index_query_rotates_transforms_and_rounds)
{
    query_case(BE_FORMAT_FP8, BE_SCALE_UE8M0, 4);
    query_case(BE_FORMAT_BF16, BE_SCALE_NONE, 10);
}
END_TEST

/* Queries as INDEX_QUERY leaves them, and keys of the entries that the step completes.  A third of
 * the keys repeats the one before, so that scores are equal at the cut. */
static void select_prepare(struct op_case *c)
{
    struct eng_ref_indexer indexer = indexer_of(c);
    float scratch[1024];
    for (uint32_t r = 0; r < c->block->row_count; r++)
        eng_ref_index_query(&indexer, op_rows(c)[r].position, scratch, op_bf16(c, c->op.in[0], r));
    for (uint32_t s = 0; s < c->block->seq_count; s++) {
        const struct be_seq *seq = &op_seqs(c)[s];
        uint32_t entries = (seq->length_before + seq->row_count) / c->op.ratio;
        for (uint32_t j = 0; j < entries; j++) {
            uint16_t key[256];
            uint8_t *row = op_entry_row(c, c->op.state[0], seq, j);
            for (uint32_t i = 0; i < c->shape.index_dim; i++)
                key[i] = fm_bf16(op_normal(c));
            if (j > 0 && op_unit(c) < 0.33)
                memcpy(row, op_entry_row(c, c->op.state[0], seq, j - 1), c->states[1].row_bytes);
            else
                op_key_pack(c, key, row);
        }
    }
}

static void select_expect(struct op_case *c)
{
    struct eng_ref_indexer indexer = indexer_of(c);
    uint16_t *keys = fm_alloc_array(ROWS_SEEN_MAX, indexer.dim * sizeof *keys);
    uint16_t *scores = fm_alloc_array(ROWS_SEEN_MAX, sizeof *scores);
    for (uint32_t r = 0; r < c->block->row_count; r++) {
        const struct be_seq *seq = &op_seqs(c)[op_rows(c)[r].seq];
        uint32_t visible = (op_rows(c)[r].position + 1) / c->op.ratio;
        int32_t *selected = op_i32(c, c->op.out[0], r);
        for (uint32_t j = 0; j < visible; j++)
            op_key_unpack(c, op_entry_row(c, c->op.state[0], seq, j),
                          keys + (uint64_t)j * indexer.dim);
        eng_ref_index_scores(&indexer, op_bf16(c, c->op.in[0], r), op_f32(c, c->op.in[1], r), keys,
                             visible, scores);
        for (uint32_t i = 0; i < c->shape.index_topk; i++)
            selected[i] = -1;
        *op_i32(c, c->op.out[1], r) =
            (int32_t)eng_ref_index_select(&indexer, scores, visible, (uint32_t *)(void *)selected);
    }
    fm_free(keys);
    fm_free(scores);
}

static void select_case(uint32_t heads, uint32_t topk)
{
    struct be_shape shape = op_shape_tiny();
    shape.index_heads = heads;
    shape.index_topk = topk;
    struct op_case *c = op_case_new(&shape, test_seed());
    c->op.kind = BE_OP_INDEX_SELECT;
    c->op.ratio = 4;
    c->op.in[0] = op_value(c, BE_ELEM_BF16, BE_LEAD_ROWS, heads, shape.index_dim, BE_VALUE_INPUT);
    c->op.in[1] = op_value(c, BE_ELEM_F32, BE_LEAD_ROWS, 1, heads, BE_VALUE_INPUT);
    c->op.out[0] = op_value(c, BE_ELEM_I32, BE_LEAD_ROWS, 1, topk, BE_VALUE_OUTPUT);
    c->op.out[1] = op_value(c, BE_ELEM_I32, BE_LEAD_ROWS, 1, 1, BE_VALUE_OUTPUT);
    c->op.state[0] = op_state(c, BE_CLASS_INDEX, 4);
    c->op.access[0] = BE_ACCESS_READ;
    c->prepare = select_prepare;
    c->expect = select_expect;
    op_case_run(c);
}

START_TEST(index_select_takes_the_best_and_the_earlier_of_equals)
{
    select_case(4, 8);
    select_case(11, 40);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backend/attend");
    TCase *tcase = tcase_create("attend");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, attend_over_the_window_alone);
    tcase_add_test(tcase, attend_over_chosen_entries);
    tcase_add_test(tcase, attend_over_all_visible_entries);
    tcase_add_test(tcase, attend_with_more_heads_than_a_tile_has_lanes);
    tcase_add_test(tcase, spark_attend_sees_the_window_and_the_whole_block);
    tcase_add_test(tcase, compress_emits_entries_and_keeps_the_tail);
    tcase_add_test(tcase, compress_index_emits_keys);
    tcase_add_test(tcase, index_query_rotates_transforms_and_rounds);
    tcase_add_test(tcase, index_select_takes_the_best_and_the_earlier_of_equals);
    suite_add_tcase(suite, tcase);
    return suite;
}
