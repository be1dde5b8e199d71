/* attn.h - query and key-value rows, attention with a sink, output projection.
 *
 * Operations Q_DOWN, Q_UP, KV_STORE, ATTEND, SPARK_ATTEND, OUT_GROUPED, OUT_PROJECT.  All heads
 * share one row per position, which is key and value.  rotation: `inverse` as in rope.h. */
#ifndef ENG_REF_ATTN_H
#define ENG_REF_ATTN_H

#include <stdint.h>

#include "engine/ref/linear.h"

enum { ENG_REF_HEAD_DIM_MAX = 1024 };

struct eng_ref_attn {
    uint32_t heads;    /* H */
    uint32_t dim;      /* d, even, at most ENG_REF_HEAD_DIM_MAX */
    uint32_t rope_dim; /* R */
    float norm_eps;
    const float *inverse; /* [R / 2] */
};

/* Tail of Q_DOWN, per token: qr = eng_ref_rmsnorm(bf(wq_a xq), q_norm); nothing else.
 *
 * Tail of Q_UP, one token: q [H, d] bf16 (= bf(wq_b qrq)), in place: per head
 * eng_ref_rmsnorm without weight over d, then eng_ref_rope at `position`. */
void eng_ref_q_finish(const struct eng_ref_attn *attn, uint32_t position, uint16_t *q);

/* Tail of KV_STORE and SPARK_CONTEXT, one token: kv [d] bf16 (= bf(wkv xq)), in place:
 * eng_ref_rmsnorm with kv_norm, eng_ref_rope at `position`, fm_fp8_sim of dims [0, d - R). */
void eng_ref_kv_finish(const struct eng_ref_attn *attn, const uint16_t *kv_norm, uint32_t position,
                       uint16_t *kv);

/* ATTEND, one token.  rows [row_count, d] bf16 in this order: window rows by ascending position,
 * then compressed entries by ascending index (SPARK_ATTEND: ring rows by ascending position, then
 * the block's rows ascending).  row_count >= 1.
 *
 * Rows are cut into splits of 512 and these into tiles of 64, both from row 0; the last ones may be
 * shorter.  Nothing else decides the cuts.  Per head:
 *
 *   each split:  m = sink[h], l = 1 for split 0;  m = -infinity, l = 0 for others;  O[c] = +0
 *     each tile, ascending:
 *       z[i]  = dot(q, row i) * fl32(d^-1/2)    dot: pair steps over c ascending from +0, the
 *                                               weight side of F is the row, the other side q
 *       top   = max(m, z[0], z[1], ...)
 *       alpha = exp(m - top)
 *       p[i]  = exp(z[i] - top)
 *       l     = l * alpha;  then l = l + p[i], i ascending          (p in fp32, unrounded)
 *       O[c]  = O[c] * alpha;  then for row pairs (2n, 2n + 1) of the tile, ascending:
 *                 O[c] = F(v[2n+1][c], b[2n+1], O[c]);  O[c] = F(v[2n][c], b[2n], O[c])
 *               b[i] = bf(p[i]);  in a tile of odd length the missing row counts as v = b = +0 and
 *               its fma is done
 *       m     = top
 *   one split:   o[c] = bf( O[c] / l )
 *   several:     top = max over splits of m;  f_s = exp(m_s - top)
 *                L = chain over s ascending from +0 of F(l_s, f_s, L)
 *                A[c] = chain over s ascending from +0 of F(O_s[c], f_s, A[c])
 *                o[c] = bf( A[c] / L )
 *   then eng_ref_rope of o at `position`, inverse.
 *
 *   q       [H, d] bf16
 *   sink    [H] fp32
 *   ret_o   [H, d] bf16 */
void eng_ref_attend(const struct eng_ref_attn *attn, const uint16_t *q, const uint16_t *rows,
                    uint32_t row_count, const float *sink, uint32_t position, uint16_t *ret_o);

/* OUT_GROUPED, one token: group g owns heads [g H/G, (g+1) H/G), flattened to cols values; its
 * outputs are rows [g * out_rank, (g + 1) * out_rank) of wo_a [G * out_rank, H d / G].  The input
 * is NOT quantised.  u = bf(wo_a o) per eng_ref_linear.
 *   o_values   [H * d] floats: o widened
 *   ret_u      [G * out_rank] bf16
 *
 * OUT_PROJECT is eng_ref_linear_bf16 of wo_b over act_quant(u). */
void eng_ref_out_grouped(const struct eng_ref_weight *wo_a, const float *o_values, uint32_t groups,
                         uint16_t *ret_u);

#endif
