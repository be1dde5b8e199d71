/* head.c - logits. */
#include "engine/ref/head.h"

#include "engine/ref/norm.h"

void eng_ref_logits(const struct eng_ref_hyper *hyper, const uint16_t *norm,
                    const struct eng_ref_weight *head, const uint16_t *x, float *scratch,
                    uint16_t *ret_h, float *ret_logits)
{
    uint32_t dim = hyper->dim;
    uint16_t *normed = (uint16_t *)(void *)(scratch + dim);
    struct eng_ref_input input = {.values = scratch, .stride = dim};
    eng_ref_hc_head(hyper, x, ret_h);
    eng_ref_rmsnorm(ret_h, norm, 1, dim, hyper->norm_eps, normed);
    eng_ref_widen(normed, dim, scratch);
    eng_ref_linear(head, &input, 1, ret_logits);
}
