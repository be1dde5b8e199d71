/* compress.h - compressed entries: a gated pooling over a group of r tokens.
 *
 * Operations COMPRESS (main entries of CSA and HCA layers) and COMPRESS_INDEX (indexer keys).
 * Let w be the entry width and cf = 2 with overlap (r = 4), else 1.  Every token leaves a raw row
 * of cf * w values k and as many g.  With overlap, columns [0, w) belong to the NEXT group's
 * entry, columns [w, 2w) to the token's own. */
#ifndef ENG_REF_COMPRESS_H
#define ENG_REF_COMPRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "engine/ref/linear.h"

struct eng_ref_compress {
    uint32_t ratio;    /* r */
    uint32_t width;    /* w: head_dim, or index_dim */
    uint32_t rope_dim; /* R */
    bool is_overlap;   /* r == 4 */
    bool is_index;     /* Hadamard and fp4 instead of fp8 */
    float norm_eps;
    const float *inverse;             /* [R / 2], the layer's: rope.h */
    struct eng_ref_weight wkv, wgate; /* BF16 [cf * w, D] */
    const float *ape;                 /* [r, cf * w] */
    const uint16_t *norm;             /* [w] bf16 */
};

/* The raw row of one token: k = wkv x, g = (wgate x) + ape[position mod r], both fp32, never
 * rounded to bf16; the sum is one fp32 addition after the finished linear.
 *   x              [D] floats: the attention's normed input, widened
 *   ret_k, ret_g   [cf * w] */
void eng_ref_compress_row(const struct eng_ref_compress *compress, const float *x,
                          uint32_t position, float *ret_k, float *ret_g);

/* Entry `index`, from the raw rows of its tokens, oldest first: with overlap 2r rows at positions
 * [(index-1) r, (index+1) r), else r rows at [index r, (index+1) r).  Rows before position 0 (only
 * with overlap, index 0) are k = 0, g = -infinity.  k and g are [rows, cf * w].  Per channel c,
 * slot s taking column c in the first r rows of an overlap, column w + c in its last r rows, column
 * c without overlap:
 *
 *   top = max of g over the slots
 *   l, a = +0;  for each slot ascending:  p = exp(g - top);  l = l + p;  a = F(p, k, a)
 *   e[c] = bf( a / l )
 *
 * then eng_ref_rmsnorm with `norm` over w, eng_ref_rope at position index * r (forward), and
 *   main:   fm_fp8_sim of dims [0, w - R)
 *   index:  fm_hadamard over w, then fm_fp4_sim over w
 *
 *   ret_entry   [w] bf16
 *   scratch     [w] floats */
void eng_ref_compress_entry(const struct eng_ref_compress *compress, const float *k, const float *g,
                            uint32_t index, float *scratch, uint16_t *ret_entry);

/* Entries that a query at `position` sees: those whose last token is not after it. */
uint32_t eng_ref_compress_visible(uint32_t position, uint32_t ratio);

#endif
