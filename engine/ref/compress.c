/* compress.c - compressed entries: a gated pooling over a group of r tokens. */
#include "engine/ref/compress.h"

#include "backends/base/assert.h"
#include "backends/base/numeric.h"
#include "engine/ref/norm.h"
#include "engine/ref/rope.h"

void eng_ref_compress_row(const struct eng_ref_compress *compress, const float *x,
                          uint32_t position, float *ret_k, float *ret_g)
{
    uint32_t columns = compress->wkv.rows;
    FM_ASSERT(columns == compress->width * (compress->is_overlap ? 2 : 1));
    FM_ASSERT(compress->wgate.rows == columns);
    struct eng_ref_input input = {.values = x, .stride = compress->wkv.cols};
    const float *ape = compress->ape + (uint64_t)(position % compress->ratio) * columns;
    eng_ref_linear(&compress->wkv, &input, 1, ret_k);
    eng_ref_linear(&compress->wgate, &input, 1, ret_g);
    for (uint32_t c = 0; c < columns; c++)
        ret_g[c] = ret_g[c] + ape[c];
}

void eng_ref_compress_entry(const struct eng_ref_compress *compress, const float *k, const float *g,
                            uint32_t index, float *scratch, uint16_t *ret_entry)
{
    uint32_t width = compress->width, ratio = compress->ratio;
    uint32_t columns = compress->is_overlap ? 2 * width : width;
    uint32_t slots = compress->is_overlap ? 2 * ratio : ratio;

    for (uint32_t c = 0; c < width; c++) {
        float top = g[c];
        for (uint32_t s = 1; s < slots; s++) {
            uint32_t half = s >= ratio ? width : 0;
            top = fm_max_f32(top, g[(uint64_t)s * columns + half + c]);
        }
        float l = 0.0f, a = 0.0f;
        for (uint32_t s = 0; s < slots; s++) {
            uint64_t at = (uint64_t)s * columns + (s >= ratio ? width : 0) + c;
            float p = fm_exp(g[at] - top);
            l = l + p;
            a = fm_fma(p, k[at], a);
        }
        ret_entry[c] = fm_bf16(a / l);
    }
    eng_ref_rmsnorm(ret_entry, compress->norm, 1, width, compress->norm_eps, ret_entry);
    eng_ref_rope(ret_entry, 1, width, compress->rope_dim, index * ratio, compress->inverse, false);
    if (compress->is_index) {
        fm_hadamard(ret_entry, width, scratch);
        fm_fp4_sim(ret_entry, width);
    } else {
        fm_fp8_sim(ret_entry, width - compress->rope_dim);
    }
}

uint32_t eng_ref_compress_visible(uint32_t position, uint32_t ratio)
{
    return (position + 1) / ratio;
}
