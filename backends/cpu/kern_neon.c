/* kern_neon.c - the kernels for aarch64: four lanes. */
#include "backends/cpu/kern_tables.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <stdalign.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/numeric.h"

#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(text) _Pragma(#text)
#define UNROLL(count) PRAGMA(GCC unroll count)
#define LEVEL CPU_LEVEL_NEON
#define VL 4
#define UNIT_GROUPS 2 /* eight vectors of sums for each token, of 32 registers */
#define TOKENS_FEW 2
#define MANY_GROUPS 1 /* four vectors, six tokens */
#define TOKENS_MANY 6
#define TOKENS_MAX 6

enum { SCORE_ROWS = 4, VALUE_HEADS = 4, VALUE_VECTORS = 4, INDEX_HEADS = 8 };

typedef float32x4_t vf;
typedef uint32x4_t vu;

INLINE vf vf_zero(void)
{
    return vdupq_n_f32(0.0f);
}

INLINE vf vf_set1(float x)
{
    return vdupq_n_f32(x);
}

INLINE vf vf_load(const float *x)
{
    return vld1q_f32(x);
}

INLINE void vf_store(float *x, vf a)
{
    vst1q_f32(x, a);
}

INLINE vf vf_add(vf a, vf b)
{
    return vaddq_f32(a, b);
}

INLINE vf vf_mul(vf a, vf b)
{
    return vmulq_f32(a, b);
}

INLINE vf vf_fma(vf a, vf b, vf c)
{
    return vfmaq_f32(c, a, b);
}

INLINE vf vf_widen(const uint16_t *x)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x), 16));
}

INLINE vu vu_load(const uint8_t *x)
{
    return vreinterpretq_u32_u8(vld1q_u8(x));
}

/* 2^n (1 + m/2) by moving the bits; 0 and 0.5 are the two codes without a leading one. */
INLINE vf vf_fp4(vu words, const int shift)
{
    vu code = vandq_u32(vshlq_u32(words, vdupq_n_s32(-shift)), vdupq_n_u32(15));
    vu magnitude = vandq_u32(code, vdupq_n_u32(7));
    vu normal = vaddq_u32(vshlq_n_u32(magnitude, 22), vdupq_n_u32(126u << 23));
    vu small = vmulq_u32(magnitude, vdupq_n_u32(0x3f000000u));
    vu bits = vbslq_u32(vcltq_u32(magnitude, vdupq_n_u32(2)), small, normal);
    vu sign = vandq_u32(vshlq_n_u32(code, 28), vdupq_n_u32(0x80000000u));
    return vreinterpretq_f32_u32(vorrq_u32(bits, sign));
}

/* e4m3 bits moved into a half have the value times 2^-8, subnormals included; FPCR.FZ does not
 * touch halves. */
INLINE vf vf_fp8(const uint8_t *codes)
{
    uint32_t word;
    memcpy(&word, codes, sizeof word);
    int16x4_t wide = vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(word))));
    uint16x4_t half = vand_u16(vreinterpret_u16_s16(vshl_n_s16(wide, 7)), vdup_n_u16(0xbfff));
    return vmulq_f32(vcvt_f32_f16(vreinterpret_f16_u16(half)), vdupq_n_f32(256.0f));
}

INLINE vf vf_bf16_even(vu words)
{
    return vreinterpretq_f32_u32(vshlq_n_u32(words, 16));
}

INLINE vf vf_bf16_odd(vu words)
{
    return vreinterpretq_f32_u32(vandq_u32(words, vdupq_n_u32(0xffff0000u)));
}

INLINE vf vf_ue8m0(const uint8_t *bytes, int add)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    uint32x4_t wide = vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(word)))));
    int32x4_t biased = vaddq_s32(vreinterpretq_s32_u32(wide), vdupq_n_s32(add));
    biased = vminq_s32(vmaxq_s32(biased, vdupq_n_s32(1)), vdupq_n_s32(254));
    return vreinterpretq_f32_s32(vshlq_n_s32(biased, 23));
}

#include "backends/cpu/kern_linear.inc"
#include "backends/cpu/kern_rows.inc"

#include "backends/cpu/kern_attend.inc"

const struct cpu_kern *cpu_kern_neon(void)
{
    return &table;
}
#else
#include <stddef.h>

const struct cpu_kern *cpu_kern_neon(void)
{
    return NULL;
}
#endif
