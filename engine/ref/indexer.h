/* indexer.h - which compressed entries a query of a CSA layer attends to. */
#ifndef ENG_REF_INDEXER_H
#define ENG_REF_INDEXER_H

#include <stdint.h>

struct eng_ref_indexer {
    uint32_t heads;    /* Hi */
    uint32_t dim;      /* di, a power of two, a multiple of 32 */
    uint32_t rope_dim; /* R */
    uint32_t topk;
    const float *inverse; /* [R / 2], the layer's yarn table */
};

/* Tail of INDEX_QUERY, one token: qi [Hi, di] bf16 (= bf(indexer.wq_b qrq), the same qr as the
 * main query, no head norm), in place: eng_ref_rope at `position`, then per head fm_hadamard and
 * fm_fp4_sim over di.
 *   scratch   [di] floats */
void eng_ref_index_query(const struct eng_ref_indexer *indexer, uint32_t position, float *scratch,
                         uint16_t *qi);

/* The head weights, one token: iw[h] = fl32(bf(w[h])) * fl32((di * Hi)^-1/2), one fp32 product.
 *   weights   [Hi] fp32: weights_proj x, unrounded
 *   ret_iw    [Hi] fp32; may be weights */
void eng_ref_index_weights(const struct eng_ref_indexer *indexer, const float *weights,
                           float *ret_iw);

/* Scores of `count` keys, one token:
 *
 *   dot(h, s) = chain over the blocks of 32 dims, ascending, from +0:  acc = acc + t,
 *               t = the block's dot product, which is exact (both sides are fp4 on a grid), so any
 *               way to compute it gives these bits: acc = F((float)isum, sq * sk / 4, acc) with the
 *               integer sum of doubled codes is the same
 *   score     = chain over h ascending from +0 of F(iw[h], max(dot, +0), score)
 *   ret       = bf(score)
 *
 * max(dot, +0) is +0 for dot = -0.
 *   qi [Hi, di], keys [count, di] bf16;  ret_scores [count] bf16 */
void eng_ref_index_scores(const struct eng_ref_indexer *indexer, const uint16_t *qi,
                          const float *iw, const uint16_t *keys, uint32_t count,
                          uint16_t *ret_scores);

/* INDEX_SELECT, one token: the min(topk, count) best of scores[0 .. count), ascending by index.
 * A larger score wins, among equal ones (-0 equals +0: fm_bf16_key) the smaller index.  With
 * count <= topk that is all of them, and scores are not read (may be NULL).
 * Returns how many; ret_selected has room for topk. */
uint32_t eng_ref_index_select(const struct eng_ref_indexer *indexer, const uint16_t *scores,
                              uint32_t count, uint32_t *ret_selected);

#endif
