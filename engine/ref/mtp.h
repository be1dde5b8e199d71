/* mtp.h - the join in front of the MTP block. */
#ifndef ENG_REF_MTP_H
#define ENG_REF_MTP_H

#include <stdint.h>

/* MTP_JOIN at position p, from the main streams of p after the last layer and the token at p + 1:
 *
 *   e     = bf( e_proj act_quant( rmsnorm(embed[token], enorm) ) )                  [D]
 *   h[s]  = bf( h_proj act_quant( rmsnorm(X[s], hnorm) ) )          per stream s    [N, D]
 *   X'[s] = bf( e + h[s] )                                          one fp32 addition
 *
 * Projections and norms are eng_ref_linear_bf16 and eng_ref_rmsnorm; this is the last line.  The
 * block that follows has ratio 0, rope position p, window slot p, and its own hc_head and norm in
 * front of the shared head.  It predicts token p + 2.
 *   e [D], h [N, D], ret_x [N, D] bf16; ret_x may be h */
void eng_ref_mtp_join(const uint16_t *e, const uint16_t *h, uint32_t streams, uint32_t dim,
                      uint16_t *ret_x);

#endif
