/* mtp.c - the join in front of the MTP block. */
#include "engine/ref/mtp.h"

#include "backends/base/numeric.h"

void eng_ref_mtp_join(const uint16_t *e, const uint16_t *h, uint32_t streams, uint32_t dim,
                      uint16_t *ret_x)
{
    for (uint32_t s = 0; s < streams; s++)
        for (uint32_t c = 0; c < dim; c++) {
            uint64_t at = (uint64_t)s * dim + c;
            ret_x[at] = fm_bf16(fm_bf16_value(e[c]) + fm_bf16_value(h[at]));
        }
}
