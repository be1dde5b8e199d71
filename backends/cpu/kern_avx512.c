/* kern_avx512.c - the kernels for AVX-512 F, BW, DQ and VL: sixteen lanes. */
#include "backends/cpu/kern_tables.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>
#include <stdalign.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/numeric.h"

#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(text) _Pragma(#text)
#define UNROLL(count) PRAGMA(GCC unroll count)
#define LEVEL CPU_LEVEL_AVX512
#define VL 16
#define UNIT_GROUPS 4
#define TOKENS_FEW 4
#define MANY_GROUPS 4 /* four vectors, six tokens: 24 sums of 32 registers */
#define TOKENS_MANY 6
#define TOKENS_MAX 6

enum { SCORE_ROWS = 8, VALUE_HEADS = 4, VALUE_VECTORS = 4, INDEX_HEADS = 8 };

typedef __m512 vf;
typedef __m512i vu;

INLINE vf vf_zero(void)
{
    return _mm512_setzero_ps();
}

INLINE vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}

INLINE vf vf_load(const float *x)
{
    return _mm512_loadu_ps(x);
}

INLINE void vf_store(float *x, vf a)
{
    _mm512_storeu_ps(x, a);
}

INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}

INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}

INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}

INLINE vf vf_widen(const uint16_t *x)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

INLINE vu vu_load(const uint8_t *x)
{
    return _mm512_loadu_si512((const void *)x);
}

/* The permute reads four bits of an index: no mask is needed. */
INLINE vf vf_fp4(vu words, const int shift)
{
    const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f,
                                         -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(words, (unsigned)shift), values);
}

/* e4m3 bits moved into a half have the value times 2^-8, subnormals included; widening a half
 * ignores the flush of denormals. */
INLINE vf vf_fp8(const uint8_t *codes)
{
    __m256i wide = _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)codes));
    __m256i half = _mm256_and_si256(_mm256_slli_epi16(wide, 7), _mm256_set1_epi16((short)0xbfff));
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
}

INLINE vf vf_bf16_even(vu words)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
}

INLINE vf vf_bf16_odd(vu words)
{
    return _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32((int)0xffff0000u)));
}

INLINE vf vf_ue8m0(const uint8_t *bytes, int add)
{
    __m512i biased = _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)bytes));
    biased = _mm512_add_epi32(biased, _mm512_set1_epi32(add));
    biased = _mm512_max_epi32(biased, _mm512_set1_epi32(1));
    biased = _mm512_min_epi32(biased, _mm512_set1_epi32(254));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}

#include "backends/cpu/kern_linear.inc"
#include "backends/cpu/kern_rows.inc"

#include "backends/cpu/kern_attend.inc"

const struct cpu_kern *cpu_kern_avx512(void)
{
    return &table;
}
#else
#include <stddef.h>

const struct cpu_kern *cpu_kern_avx512(void)
{
    return NULL;
}
#endif
