/* norm.c - root-mean-square norms. */
#include "engine/ref/norm.h"

#include <stddef.h>

#include "backends/base/numeric.h"

void eng_ref_rmsnorm(const uint16_t *x, const uint16_t *weight, uint32_t count, uint32_t dim,
                     float eps, uint16_t *ret_y)
{
    for (uint32_t v = 0; v < count; v++) {
        const uint16_t *from = x + (uint64_t)v * dim;
        uint16_t *to = ret_y + (uint64_t)v * dim;
        float rs = fm_rms_scale(fm_sum_squares_bf16(from, dim), dim, eps);
        for (uint32_t i = 0; i < dim; i++) {
            float y = fm_bf16_value(from[i]) * rs;
            to[i] = fm_bf16(weight != NULL ? fm_bf16_value(weight[i]) * y : y);
        }
    }
}
