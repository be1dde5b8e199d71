/* head.h - logits. */
#ifndef ENG_REF_HEAD_H
#define ENG_REF_HEAD_H

#include <stdint.h>

#include "engine/ref/hyper.h"
#include "engine/ref/linear.h"

/* HEAD, one token: h = eng_ref_hc_head(X); logits = eng_ref_linear of head [V, D] BF16 over
 * eng_ref_rmsnorm(h, norm) with hyper->norm_eps, fp32.
 *   norm         [D] bf16
 *   scratch      [2 D] floats
 *   ret_h        [D] bf16: before the norm (DSpark's confidence wants it)
 *   ret_logits   [V] fp32 */
void eng_ref_logits(const struct eng_ref_hyper *hyper, const uint16_t *norm,
                    const struct eng_ref_weight *head, const uint16_t *x, float *scratch,
                    uint16_t *ret_h, float *ret_logits);

#endif
