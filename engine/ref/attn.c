/* attn.c - query and key-value rows, attention with a sink, output projection. */
#include "engine/ref/attn.h"

#include <math.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/numeric.h"
#include "engine/ref/norm.h"
#include "engine/ref/rope.h"

enum { TILE_ROWS = 64, SPLIT_ROWS = 512 };

void eng_ref_q_finish(const struct eng_ref_attn *attn, uint32_t position, uint16_t *q)
{
    eng_ref_rmsnorm(q, NULL, attn->heads, attn->dim, attn->norm_eps, q);
    eng_ref_rope(q, attn->heads, attn->dim, attn->rope_dim, position, attn->inverse, false);
}

void eng_ref_kv_finish(const struct eng_ref_attn *attn, const uint16_t *kv_norm, uint32_t position,
                       uint16_t *kv)
{
    eng_ref_rmsnorm(kv, kv_norm, 1, attn->dim, attn->norm_eps, kv);
    eng_ref_rope(kv, 1, attn->dim, attn->rope_dim, position, attn->inverse, false);
    fm_fp8_sim(kv, attn->dim - attn->rope_dim);
}

static float dot(const uint16_t *row, const uint16_t *q, uint32_t dim)
{
    float t = 0.0f;
    for (uint32_t c = 0; c < dim; c += 2)
        t = fm_pair(t, fm_bf16_value(row[c]), fm_bf16_value(q[c]), fm_bf16_value(row[c + 1]),
                    fm_bf16_value(q[c + 1]));
    return t;
}

/* The running softmax of one head over the rows seen so far, relative to m. */
struct partial {
    float m, l;
};

/* One tile: at most TILE_ROWS rows; o [dim] is updated. */
static void attend_tile(uint32_t dim, const uint16_t *q, const uint16_t *rows, uint32_t row_count,
                        struct partial *part, float *o)
{
    float p[TILE_ROWS + 1] = {0}; /* one more: the missing row of an odd tile */
    float scale = (float)(1.0 / sqrt((double)dim)), top = part->m;
    for (uint32_t i = 0; i < row_count; i++) {
        p[i] = dot(rows + (uint64_t)i * dim, q, dim) * scale;
        top = fm_max_f32(top, p[i]);
    }
    float alpha = fm_exp(part->m - top);
    part->m = top;
    part->l = part->l * alpha;
    for (uint32_t i = 0; i < row_count; i++) {
        p[i] = fm_exp(p[i] - top);
        part->l = part->l + p[i];
        p[i] = fm_bf16_round(p[i]);
    }
    for (uint32_t c = 0; c < dim; c++) {
        float t = o[c] * alpha;
        for (uint32_t i = 0; i < row_count; i += 2) {
            const uint16_t *v = rows + (uint64_t)i * dim + c;
            float odd = i + 1 < row_count ? fm_bf16_value(v[dim]) : 0.0f;
            t = fm_pair(t, fm_bf16_value(v[0]), p[i], odd, p[i + 1]);
        }
        o[c] = t;
    }
}

/* One head: o [dim] gets the sum over split `split`; answers its m and l. */
static struct partial attend_split(uint32_t dim, const uint16_t *q, const uint16_t *rows,
                                   uint32_t row_count, uint32_t split, float sink, float *o)
{
    struct partial part = {.m = split == 0 ? sink : -INFINITY, .l = split == 0 ? 1.0f : 0.0f};
    uint32_t first = split * SPLIT_ROWS, end = fm_min_u32(row_count, first + SPLIT_ROWS);
    for (uint32_t c = 0; c < dim; c++)
        o[c] = 0.0f;
    for (uint32_t at = first; at < end; at += TILE_ROWS)
        attend_tile(dim, q, rows + (uint64_t)at * dim, fm_min_u32(TILE_ROWS, end - at), &part, o);
    return part;
}

/* One head.  The splits are computed twice, once for the common maximum and once for their sums,
 * so that nothing need be stored per split. */
static void attend_head(uint32_t dim, const uint16_t *q, const uint16_t *rows, uint32_t row_count,
                        float sink, uint16_t *ret_o)
{
    uint32_t split_count = (row_count + SPLIT_ROWS - 1) / SPLIT_ROWS;
    float o[ENG_REF_HEAD_DIM_MAX], sum[ENG_REF_HEAD_DIM_MAX] = {0};
    struct partial part = attend_split(dim, q, rows, row_count, 0, sink, o);
    if (split_count == 1) {
        for (uint32_t c = 0; c < dim; c++)
            ret_o[c] = fm_bf16(o[c] / part.l);
        return;
    }
    float top = part.m, total = 0.0f;
    for (uint32_t s = 1; s < split_count; s++)
        top = fm_max_f32(top, attend_split(dim, q, rows, row_count, s, sink, o).m);
    for (uint32_t s = 0; s < split_count; s++) {
        part = attend_split(dim, q, rows, row_count, s, sink, o);
        float f = fm_exp(part.m - top);
        total = fm_fma(part.l, f, total);
        for (uint32_t c = 0; c < dim; c++)
            sum[c] = fm_fma(o[c], f, sum[c]);
    }
    for (uint32_t c = 0; c < dim; c++)
        ret_o[c] = fm_bf16(sum[c] / total);
}

void eng_ref_attend(const struct eng_ref_attn *attn, const uint16_t *q, const uint16_t *rows,
                    uint32_t row_count, const float *sink, uint32_t position, uint16_t *ret_o)
{
    uint32_t dim = attn->dim;
    FM_ASSERT(row_count > 0);
    FM_ASSERT(dim % 2 == 0 && dim <= ENG_REF_HEAD_DIM_MAX);
    for (uint32_t h = 0; h < attn->heads; h++)
        attend_head(dim, q + (uint64_t)h * dim, rows, row_count, sink[h],
                    ret_o + (uint64_t)h * dim);
    eng_ref_rope(ret_o, attn->heads, dim, attn->rope_dim, position, attn->inverse, true);
}

void eng_ref_out_grouped(const struct eng_ref_weight *wo_a, const float *o_values, uint32_t groups,
                         uint16_t *ret_u)
{
    FM_ASSERT(wo_a->rows % groups == 0);
    uint32_t rank = wo_a->rows / groups;
    for (uint32_t g = 0; g < groups; g++) {
        struct eng_ref_weight part = eng_ref_weight_rows(wo_a, g * rank, rank);
        struct eng_ref_input input = {.values = o_values + (uint64_t)g * wo_a->cols,
                                      .stride = wo_a->cols};
        eng_ref_linear_bf16(&part, &input, 1, ret_u + (uint64_t)g * rank);
    }
}
