/* rope.c - rotation of the last dimensions of a vector by its position. */
#include "engine/ref/rope.h"

#include "backends/base/assert.h"
#include "backends/base/numeric.h"

void eng_ref_rope(uint16_t *x, uint32_t count, uint32_t dim, uint32_t rope_dim, uint32_t position,
                  const float *inverse, bool is_inverse)
{
    FM_ASSERT(rope_dim % 2 == 0 && rope_dim <= dim);
    for (uint32_t i = 0; i < rope_dim / 2; i++) {
        float sine, cosine;
        fm_rope_angle(position, inverse[i], &sine, &cosine);
        for (uint32_t v = 0; v < count; v++)
            fm_rope_pair(x + (uint64_t)v * dim + (dim - rope_dim) + 2 * i,
                         is_inverse ? -sine : sine, cosine);
    }
}
