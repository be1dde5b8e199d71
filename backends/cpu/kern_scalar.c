/* kern_scalar.c - the kernels for any processor: sixteen lanes in a loop. */
#include "backends/cpu/kern_tables.h"

#include <stdalign.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/numeric.h"

#define INLINE static inline __attribute__((always_inline))
#define UNROLL(count) /* a loop over lanes inside is enough */
#define LEVEL CPU_LEVEL_SCALAR
#define VL 16
#define UNIT_GROUPS 1
#define TOKENS_FEW 2
#define MANY_GROUPS 1
#define TOKENS_MANY 2
#define TOKENS_MAX 2

enum { SCORE_ROWS = 2, VALUE_HEADS = 2, VALUE_VECTORS = 1, INDEX_HEADS = 1 };

typedef struct {
    float lane[VL];
} vf;

typedef struct {
    uint32_t lane[VL];
} vu;

#define LANES(expression)                                                                          \
    vf r;                                                                                          \
    for (uint32_t i = 0; i < VL; i++)                                                              \
        r.lane[i] = (expression);                                                                  \
    return r

INLINE vf vf_zero(void)
{
    LANES(0.0f);
}

INLINE vf vf_set1(float x)
{
    LANES(x);
}

INLINE vf vf_load(const float *x)
{
    LANES(x[i]);
}

INLINE void vf_store(float *x, vf a)
{
    for (uint32_t i = 0; i < VL; i++)
        x[i] = a.lane[i];
}

INLINE vf vf_add(vf a, vf b)
{
    LANES(a.lane[i] + b.lane[i]);
}

INLINE vf vf_mul(vf a, vf b)
{
    LANES(a.lane[i] * b.lane[i]);
}

INLINE vf vf_fma(vf a, vf b, vf c)
{
    LANES(fm_fma(a.lane[i], b.lane[i], c.lane[i]));
}

INLINE vf vf_widen(const uint16_t *x)
{
    LANES(fm_bf16_value(x[i]));
}

INLINE vu vu_load(const uint8_t *x)
{
    vu r;
    memcpy(&r, x, sizeof r);
    return r;
}

INLINE vf vf_fp4(vu words, const int shift)
{
    LANES(fm_e2m1_table[words.lane[i] >> shift & 15]);
}

INLINE vf vf_fp8(const uint8_t *codes)
{
    LANES(fm_e4m3_table[codes[i]]);
}

INLINE vf vf_bf16_even(vu words)
{
    LANES(fm_f32_of_bits(words.lane[i] << 16));
}

INLINE vf vf_bf16_odd(vu words)
{
    LANES(fm_f32_of_bits(words.lane[i] & 0xffff0000u));
}

/* 2^(byte - 127 + add), saturated as fm_ue8m0_product. */
INLINE vf vf_ue8m0(const uint8_t *bytes, int add)
{
    LANES(fm_ue8m0_product(bytes[i], (uint8_t)(add + 127)));
}

#include "backends/cpu/kern_linear.inc"
#include "backends/cpu/kern_rows.inc"

#include "backends/cpu/kern_attend.inc"

const struct cpu_kern *cpu_kern_scalar(void)
{
    return &table;
}
