/* hyper.c - hyper-connections. */
#include "engine/ref/hyper.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/numeric.h"
#include "engine/hparams.h"

enum { CHUNK_COUNT = 16, MIXES_MAX = (2 + ENG_STREAMS_MAX) * ENG_STREAMS_MAX };

void eng_ref_embed(const void *table, uint32_t id, uint32_t streams, uint32_t dim, uint16_t *ret_x)
{
    size_t row_bytes = (size_t)dim * sizeof *ret_x;
    for (uint32_t s = 0; s < streams; s++)
        memcpy(ret_x + (size_t)s * dim, (const uint8_t *)table + id * row_bytes, row_bytes);
}

void eng_ref_hyper_mixes(const struct eng_ref_hyper *hyper, uint32_t rows, const uint16_t *x,
                         float *ret_mixes)
{
    uint32_t all = hyper->streams * hyper->dim, chunk = all / CHUNK_COUNT;
    FM_ASSERT(all % CHUNK_COUNT == 0);

    float squares = fm_sum_squares_bf16(x, chunk);
    for (uint32_t k = 1; k < CHUNK_COUNT; k++)
        squares = squares + fm_sum_squares_bf16(x + k * chunk, chunk);
    float rs = fm_rms_scale(squares, all, hyper->norm_eps);

    for (uint32_t o = 0; o < rows; o++) {
        const float *fn = hyper->fn + (uint64_t)o * all;
        float d = fm_dot_lanes16(fn, x, chunk);
        for (uint32_t k = 1; k < CHUNK_COUNT; k++)
            d = d + fm_dot_lanes16(fn + k * chunk, x + k * chunk, chunk);
        ret_mixes[o] = d * rs;
    }
}

/* comb[j][k] / (sum over k or over j + eps): `across` is the distance of the summed elements. */
static void normalise(float *comb, uint32_t n, uint32_t line, uint32_t across, float eps)
{
    for (uint32_t a = 0; a < n; a++) {
        float *first = comb + a * line;
        float sum = first[0];
        for (uint32_t b = 1; b < n; b++)
            sum = sum + first[b * across];
        sum = sum + eps;
        for (uint32_t b = 0; b < n; b++)
            first[b * across] = first[b * across] / sum;
    }
}

static void softmax_row(float *row, uint32_t n, float eps)
{
    float top = row[0];
    for (uint32_t k = 1; k < n; k++)
        top = fm_max_f32(top, row[k]);
    row[0] = fm_exp(row[0] - top);
    float sum = row[0];
    for (uint32_t k = 1; k < n; k++) {
        row[k] = fm_exp(row[k] - top);
        sum = sum + row[k];
    }
    for (uint32_t k = 0; k < n; k++)
        row[k] = row[k] / sum + eps;
}

void eng_ref_hc_split(const struct eng_ref_hyper *hyper, const float *mixes, float *ret_pre,
                      float *ret_post, float *ret_comb)
{
    uint32_t n = hyper->streams;
    const float *scale = hyper->scale, *base = hyper->base;
    for (uint32_t j = 0; j < n; j++) {
        ret_pre[j] = fm_sigmoid(fm_fma(mixes[j], scale[0], base[j])) + hyper->hc_eps;
        ret_post[j] = 2.0f * fm_sigmoid(fm_fma(mixes[n + j], scale[1], base[n + j]));
    }
    for (uint32_t i = 0; i < n * n; i++)
        ret_comb[i] = fm_fma(mixes[2 * n + i], scale[2], base[2 * n + i]);

    for (uint32_t j = 0; j < n; j++)
        softmax_row(ret_comb + j * n, n, hyper->hc_eps);
    normalise(ret_comb, n, 1, n, hyper->hc_eps); /* columns */
    for (uint32_t i = 1; i < hyper->sinkhorn_iters; i++) {
        normalise(ret_comb, n, n, 1, hyper->hc_eps); /* rows */
        normalise(ret_comb, n, 1, n, hyper->hc_eps);
    }
}

/* bf( sum over j of weight[j] * X[j][c] ), a chain from +0. */
static void collapse(const float *weight, const uint16_t *x, uint32_t streams, uint32_t dim,
                     uint16_t *ret_y)
{
    for (uint32_t c = 0; c < dim; c++) {
        float t = 0.0f;
        for (uint32_t j = 0; j < streams; j++)
            t = fm_fma(weight[j], fm_bf16_value(x[(uint64_t)j * dim + c]), t);
        ret_y[c] = fm_bf16(t);
    }
}

void eng_ref_hc_collapse(const struct eng_ref_hyper *hyper, const uint16_t *x, uint16_t *ret_y,
                         float *ret_post, float *ret_comb)
{
    uint32_t n = hyper->streams;
    float mixes[MIXES_MAX], pre[ENG_STREAMS_MAX];
    FM_ASSERT(n <= ENG_STREAMS_MAX);
    eng_ref_hyper_mixes(hyper, (2 + n) * n, x, mixes);
    eng_ref_hc_split(hyper, mixes, pre, ret_post, ret_comb);
    collapse(pre, x, n, hyper->dim, ret_y);
}

void eng_ref_hc_expand(const uint16_t *x, const uint16_t *f, const float *post, const float *comb,
                       uint32_t streams, uint32_t dim, uint16_t *ret_x)
{
    for (uint32_t k = 0; k < streams; k++)
        for (uint32_t c = 0; c < dim; c++) {
            float t = fm_fma(post[k], fm_bf16_value(f[c]), 0.0f);
            for (uint32_t j = 0; j < streams; j++)
                t = fm_fma(comb[j * streams + k], fm_bf16_value(x[(uint64_t)j * dim + c]), t);
            ret_x[(uint64_t)k * dim + c] = fm_bf16(t);
        }
}

void eng_ref_hc_head(const struct eng_ref_hyper *hyper, const uint16_t *x, uint16_t *ret_h)
{
    float mixes[ENG_STREAMS_MAX];
    FM_ASSERT(hyper->streams <= ENG_STREAMS_MAX);
    eng_ref_hyper_mixes(hyper, hyper->streams, x, mixes);
    for (uint32_t j = 0; j < hyper->streams; j++)
        mixes[j] = fm_sigmoid(fm_fma(mixes[j], hyper->scale[0], hyper->base[j])) + hyper->hc_eps;
    collapse(mixes, x, hyper->streams, hyper->dim, ret_h);
}

void eng_ref_tap(const uint16_t *x, uint32_t streams, uint32_t dim, uint16_t *ret_tap)
{
    for (uint32_t c = 0; c < dim; c++) {
        float sum = fm_bf16_value(x[c]);
        for (uint32_t s = 1; s < streams; s++)
            sum = sum + fm_bf16_value(x[(uint64_t)s * dim + c]);
        ret_tap[c] = fm_bf16(sum / (float)streams);
    }
}
