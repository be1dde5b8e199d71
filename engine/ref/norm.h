/* norm.h - root-mean-square norms. */
#ifndef ENG_REF_NORM_H
#define ENG_REF_NORM_H

#include <stdint.h>

/* Each of `count` vectors of `dim` bf16 values:
 *
 *   sum  = sum of x[i]^2 in 16 partials: element i by one fma to partial i mod 16, ascending; then
 *          the tree 8, 4, 2, 1                                           (fm_sum_squares_bf16)
 *   rs   = 1 / sqrt(sum / dim + eps)                                     (fm_rms_scale)
 *   y[i] = bf( weight[i] * (x[i] * rs) )       both products rounded to fp32
 *   y[i] = bf( x[i] * rs )                     without weight
 *
 *   weight   [dim] bf16, or NULL (per-head query norm)
 *   ret_y    may be x.  Pure. */
void eng_ref_rmsnorm(const uint16_t *x, const uint16_t *weight, uint32_t count, uint32_t dim,
                     float eps, uint16_t *ret_y);

#endif
