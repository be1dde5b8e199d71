/* linear.c - one output at a time, one block at a time. */
#include "engine/ref/linear.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/numeric.h"

struct eng_ref_weight eng_ref_weight_rows(const struct eng_ref_weight *weight, uint32_t first,
                                          uint32_t count)
{
    FM_ASSERT(first <= weight->rows && count <= weight->rows - first);
    struct eng_ref_weight part = *weight;
    part.row_first += first;
    part.rows = count;
    return part;
}

void eng_ref_act_quant(const uint16_t *x, uint32_t token_count, uint32_t dim, float *ret_values,
                       uint8_t *ret_scales)
{
    FM_ASSERT(dim % FM_ACT_BLOCK == 0);
    uint64_t block_count = (uint64_t)token_count * (dim / FM_ACT_BLOCK);
    for (uint64_t b = 0; b < block_count; b++) {
        uint8_t codes[FM_ACT_BLOCK];
        ret_scales[b] = fm_act_quant(x + b * FM_ACT_BLOCK, FM_ACT_BLOCK, codes);
        for (uint32_t i = 0; i < FM_ACT_BLOCK; i++)
            ret_values[b * FM_ACT_BLOCK + i] = fm_e4m3_table[codes[i]];
    }
}

void eng_ref_widen(const uint16_t *x, uint64_t count, float *ret_values)
{
    for (uint64_t i = 0; i < count; i++)
        ret_values[i] = fm_bf16_value(x[i]);
}

/* The scale s of the block that holds column `col` of row `row` (of the whole tensor). */
static float block_scale(const struct eng_ref_weight *weight, uint64_t row, uint32_t col,
                         uint8_t act)
{
    if (weight->format == ENG_FORMAT_FP4) {
        const uint8_t *bytes = weight->scale;
        return fm_ue8m0_product(bytes[row * (weight->cols / FM_FP4_BLOCK) + col / FM_FP4_BLOCK],
                                act);
    }
    uint64_t tiles = (weight->cols + FM_FP8_BLOCK - 1) / FM_FP8_BLOCK;
    uint64_t at = row / FM_FP8_BLOCK * tiles + col / FM_FP8_BLOCK;
    if (!weight->scale_is_f32)
        return fm_ue8m0_product(((const uint8_t *)weight->scale)[at], act);
    float scale;
    memcpy(&scale, (const uint8_t *)weight->scale + at * sizeof scale, sizeof scale);
    return scale * fm_ue8m0_value(act);
}

static float dot_fp4(const struct eng_ref_weight *weight, uint64_t row, const float *x,
                     const uint8_t *scales)
{
    const uint8_t *codes = (const uint8_t *)weight->data + row * (weight->cols / 2);
    float acc = 0.0f;
    for (uint32_t col = 0; col < weight->cols; col += FM_FP4_BLOCK) {
        float t = fm_dot_fp4_block(codes + col / 2, x + col);
        acc = fm_fma(t, block_scale(weight, row, col, scales[col / FM_ACT_BLOCK]), acc);
    }
    return acc;
}

static float dot_fp8(const struct eng_ref_weight *weight, uint64_t row, const float *x,
                     const uint8_t *scales)
{
    const uint8_t *codes = (const uint8_t *)weight->data + row * weight->cols;
    float acc = 0.0f;
    for (uint32_t col = 0; col < weight->cols; col += FM_FP8_BLOCK) {
        float t = fm_dot_fp8_block(codes + col, x + col);
        uint8_t act = scales != NULL ? scales[col / FM_ACT_BLOCK] : 127;
        acc = fm_fma(t, block_scale(weight, row, col, act), acc);
    }
    return acc;
}

static float dot_bf16(const struct eng_ref_weight *weight, uint64_t row, const float *x)
{
    const uint8_t *bytes = (const uint8_t *)weight->data + row * weight->cols * sizeof(uint16_t);
    float acc = 0.0f;
    for (uint32_t col = 0; col < weight->cols; col += 32) {
        uint16_t block[32];
        uint32_t count = weight->cols - col < 32 ? weight->cols - col : 32;
        memcpy(block, bytes + col * sizeof block[0], count * sizeof block[0]);
        acc = acc + fm_dot_bf16_block(block, x + col, count);
    }
    return acc;
}

void eng_ref_linear(const struct eng_ref_weight *weight, const struct eng_ref_input *input,
                    uint32_t token_count, float *ret_y)
{
    FM_ASSERT(weight->format != ENG_FORMAT_FP4 || input->scales != NULL);
    FM_ASSERT(weight->format != ENG_FORMAT_BF16 || input->scales == NULL);
    FM_ASSERT(weight->format == ENG_FORMAT_BF16 ? weight->cols % 2 == 0 : weight->cols % 128 == 0);

    for (uint32_t r = 0; r < weight->rows; r++) {
        uint64_t row = (uint64_t)weight->row_first + r;
        for (uint32_t t = 0; t < token_count; t++) {
            const float *x = input->values + (uint64_t)t * input->stride;
            const uint8_t *scales = NULL;
            if (input->scales != NULL)
                scales = input->scales + (uint64_t)t * input->scale_stride;
            float y = 0.0f;
            switch (weight->format) {
            case ENG_FORMAT_FP4: y = dot_fp4(weight, row, x, scales); break;
            case ENG_FORMAT_FP8: y = dot_fp8(weight, row, x, scales); break;
            case ENG_FORMAT_BF16: y = dot_bf16(weight, row, x); break;
            }
            ret_y[(uint64_t)t * weight->rows + r] = y;
        }
    }
}

void eng_ref_linear_bf16(const struct eng_ref_weight *weight, const struct eng_ref_input *input,
                         uint32_t token_count, uint16_t *ret_y)
{
    for (uint32_t r = 0; r < weight->rows; r++) {
        struct eng_ref_weight row = eng_ref_weight_rows(weight, r, 1);
        for (uint32_t t = 0; t < token_count; t++) {
            struct eng_ref_input one = *input;
            one.values += (uint64_t)t * input->stride;
            if (one.scales != NULL)
                one.scales += (uint64_t)t * input->scale_stride;
            float y;
            eng_ref_linear(&row, &one, 1, &y);
            ret_y[(uint64_t)t * weight->rows + r] = fm_bf16(y);
        }
    }
}

float eng_ref_weight_value(const struct eng_ref_weight *weight, uint32_t row, uint32_t col)
{
    FM_ASSERT(row < weight->rows && col < weight->cols);
    uint64_t at = ((uint64_t)weight->row_first + row) * weight->cols + col;
    const uint8_t *bytes = weight->data;
    uint16_t bits = 0;
    switch (weight->format) {
    case ENG_FORMAT_FP4:
        return fm_e2m1_table[bytes[at / 2] >> (at % 2 * 4) & 15] *
               block_scale(weight, weight->row_first + row, col, 127);
    case ENG_FORMAT_FP8:
        return fm_e4m3_table[bytes[at]] * block_scale(weight, weight->row_first + row, col, 127);
    case ENG_FORMAT_BF16: memcpy(&bits, bytes + at * sizeof bits, sizeof bits); break;
    }
    return fm_bf16_value(bits);
}
