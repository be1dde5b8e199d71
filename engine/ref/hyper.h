/* hyper.h - hyper-connections: N residual streams, collapsed before and expanded after a sublayer.
 *
 * X is [N, D] bf16 per token; flattened x[s * D + c] = X[s][c], K = N * D values. */
#ifndef ENG_REF_HYPER_H
#define ENG_REF_HYPER_H

#include <stdint.h>

struct eng_ref_hyper {
    const float *fn;    /* [rows, N * D]: rows = (2 + N) * N for a sublayer, N for the head */
    const float *base;  /* [rows] */
    const float *scale; /* [3] for a sublayer, [1] for the head */
    uint32_t streams;   /* N */
    uint32_t dim;       /* D */
    uint32_t sinkhorn_iters;
    float hc_eps, norm_eps;
};

/* EMBED: the row of the table, N times.  table [V, D] bf16 at any alignment. */
void eng_ref_embed(const void *table, uint32_t id, uint32_t streams, uint32_t dim, uint16_t *ret_x);

/* The mixes of one token, `rows` of them:
 *
 *   K is cut into 16 equal chunks (K / 16 elements each, for every number of threads).
 *   d[o] = sum over the chunks, ascending, of part(o, chunk): d = part(o, 0); d += part(o, 1) ...
 *   part(o, chunk): element i of the chunk by one fma F(fn, x, p) to partial i mod 16, ascending
 *          from +0; then the tree 8, 4, 2, 1                                   (fm_dot_lanes16)
 *   ss   = sum of x^2 over the same chunks, partials, tree and order
 *   m[o] = d[o] * rs,  rs = 1 / sqrt(ss / K + norm_eps)                        (fm_rms_scale) */
void eng_ref_hyper_mixes(const struct eng_ref_hyper *hyper, uint32_t rows, const uint16_t *x,
                         float *ret_mixes);

/* HC_COLLAPSE without its norm, one token (N streams; m the (2 + N) N mixes):
 *
 *   pre[j]  = sigmoid( F(m[j], scale[0], base[j]) ) + hc_eps
 *   post[j] = 2 * sigmoid( F(m[N + j], scale[1], base[N + j]) )
 *   C[j][k] = F(m[2N + jN + k], scale[2], base[2N + jN + k])
 *   row softmax, j ascending:  top = max over k; e[k] = exp(C[j][k] - top); s = e[0] + e[1] + ...
 *             ascending from e[0];  C[j][k] = e[k] / s + hc_eps
 *   column step, k ascending:  s = C[0][k] + C[1][k] + ... ascending from C[0][k]; s = s + hc_eps;
 *             C[j][k] = C[j][k] / s
 *   sinkhorn_iters - 1 times:  row step (s over k of C[j][k], the same way), then column step
 *   y[c]    = bf( chain over j ascending from +0 of F(pre[j], X[j][c], t) )
 *
 *   ret_y      [D] bf16: the sublayer's input before its RMSNorm
 *   ret_post   [N];  ret_comb   [N, N], C[j][k] at j * N + k */
void eng_ref_hc_collapse(const struct eng_ref_hyper *hyper, const uint16_t *x, uint16_t *ret_y,
                         float *ret_post, float *ret_comb);

/* The Sinkhorn part alone: m of one token to pre [N], post [N], comb [N, N]. */
void eng_ref_hc_split(const struct eng_ref_hyper *hyper, const float *mixes, float *ret_pre,
                      float *ret_post, float *ret_comb);

/* HC_EXPAND, one token; the sum goes over the FIRST index of comb:
 *
 *   X'[k][c] = bf( t ),  t = F(post[k], f[c], +0), then t = F(C[j][k], X[j][c], t), j ascending
 *
 *   f       [D] bf16, the sublayer's output
 *   ret_x   [N, D], must not be x */
void eng_ref_hc_expand(const uint16_t *x, const uint16_t *f, const float *post, const float *comb,
                       uint32_t streams, uint32_t dim, uint16_t *ret_x);

/* The collapse in front of the head, one token: rows = N mixes,
 *   p[j] = sigmoid( F(m[j], scale[0], base[j]) ) + hc_eps
 *   h[c] = bf( chain over j ascending from +0 of F(p[j], X[j][c], t) ) */
void eng_ref_hc_head(const struct eng_ref_hyper *hyper, const uint16_t *x, uint16_t *ret_h);

/* TAP, one token: bf( (X[0][c] + X[1][c] + ... ascending from X[0][c]) / N ). */
void eng_ref_tap(const uint16_t *x, uint32_t streams, uint32_t dim, uint16_t *ret_tap);

#endif
