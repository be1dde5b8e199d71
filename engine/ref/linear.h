/* linear.h - y = W x for every format of a checkpoint, in the class E order.
 *
 * A weight element enters unscaled (e2m1, e4m3 or bf16 value), and so does an input element (e4m3
 * code value of act_quant, or bf16); scales multiply block sums.  One output is computed alone, as
 *
 *     acc = +0
 *     for each block of the row, ascending:
 *         t = +0
 *         for each pair (2p, 2p + 1) of the block, ascending p:
 *             t = F(w[2p+1], x[2p+1], t);  t = F(w[2p], x[2p], t)
 *         acc = F(t, s, acc)      where the block has a scale s
 *         acc = acc + t           where it has none
 *
 *   weight, input                 block   s
 *   FP4 [r, c], act_quant         32      2^(scale[r, c/32] + act[c/128]): fm_ue8m0_product
 *   FP8 [r, c], act_quant         128     scale[r/128, c/128] times act[c/128], as above
 *   FP8 [r, c], bf16 (wo_a)       128     scale[r/128, c/128]: fm_ue8m0_product(scale, 127)
 *   BF16 [r, c], bf16             32      none; the last block may be shorter (cols is even)
 *
 * An FP8 scale may be stored as fp32 (base checkpoints): then s = scale * fm_ue8m0_value(act), one
 * exact product, or the scale itself.  r in the scale index is the row of the whole tensor, also
 * where a range of rows is used.  Nothing depends on how many tokens or rows are computed together.
 *
 * Pure; nothing allocates; the caller has called fm_numeric_enter.  Any thread. */
#ifndef ENG_REF_LINEAR_H
#define ENG_REF_LINEAR_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/hparams.h"

/* A view of checkpoint bytes (any alignment): rows [row_first, row_first + rows) of the tensor. */
struct eng_ref_weight {
    enum eng_format format;
    bool scale_is_f32; /* FP8 only; else ue8m0 bytes */
    uint32_t row_first, rows, cols;
    const void *data;  /* of row 0: BF16 [., cols] u16; FP8 [., cols] bytes; FP4 [., cols / 2] */
    const void *scale; /* of row 0: FP8 [ceil(. / 128), ceil(cols / 128)]; FP4 [., cols / 32] */
};

/* The input of a linear, unscaled and widened: [token_count] rows of `cols` floats, `stride` apart.
 *   scales   [token_count, scale_stride] ue8m0 bytes, one per 128 inputs; NULL: bf16 values */
struct eng_ref_input {
    const float *values;
    const uint8_t *scales;
    uint32_t stride, scale_stride;
};

/* Rows [first, first + count) of a weight. */
struct eng_ref_weight eng_ref_weight_rows(const struct eng_ref_weight *weight, uint32_t first,
                                          uint32_t count);

/* act_quant with block 128: x [token_count, dim] bf16 to values (the e4m3 grid, unscaled) and
 * scales [token_count, dim / 128]; dim is a multiple of 128. */
void eng_ref_act_quant(const uint16_t *x, uint32_t token_count, uint32_t dim, float *ret_values,
                       uint8_t *ret_scales);

/* bf16 to float, count values. */
void eng_ref_widen(const uint16_t *x, uint64_t count, float *ret_values);

/* ret_y [token_count, weight->rows] fp32, not rounded.  FP4 needs input scales; BF16 must have
 * none (a BF16 linear's input is not quantised). */
void eng_ref_linear(const struct eng_ref_weight *weight, const struct eng_ref_input *input,
                    uint32_t token_count, float *ret_y);

/* The same with every output rounded to bf16 once. */
void eng_ref_linear_bf16(const struct eng_ref_weight *weight, const struct eng_ref_input *input,
                         uint32_t token_count, uint16_t *ret_y);

/* The dequantised weight element [row, col] (row counted from row_first): exact in fp32. */
float eng_ref_weight_value(const struct eng_ref_weight *weight, uint32_t row, uint32_t col);

#endif
