/* kern_avx2.c - the kernels for AVX2 with FMA and F16C: eight lanes. */
#include "backends/cpu/kern_tables.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#include <stdalign.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/numeric.h"

#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(text) _Pragma(#text)
#define UNROLL(count) PRAGMA(GCC unroll count)
#define LEVEL CPU_LEVEL_AVX2
#define VL 8
#define UNIT_GROUPS 2 /* four vectors of sums for each token, of sixteen registers */
#define TOKENS_FEW 2
#define MANY_GROUPS 1 /* two vectors, six tokens */
#define TOKENS_MANY 6
#define TOKENS_MAX 6

enum { SCORE_ROWS = 4, VALUE_HEADS = 2, VALUE_VECTORS = 4, INDEX_HEADS = 4 };

typedef __m256 vf;
typedef __m256i vu;

INLINE vf vf_zero(void)
{
    return _mm256_setzero_ps();
}

INLINE vf vf_set1(float x)
{
    return _mm256_set1_ps(x);
}

INLINE vf vf_load(const float *x)
{
    return _mm256_loadu_ps(x);
}

INLINE void vf_store(float *x, vf a)
{
    _mm256_storeu_ps(x, a);
}

INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}

INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}

INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}

INLINE vf vf_widen(const uint16_t *x)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

INLINE vu vu_load(const uint8_t *x)
{
    return _mm256_loadu_si256((const void *)x);
}

/* The magnitude by a permute of eight, the sign bit moved to its place. */
INLINE vf vf_fp4(vu words, const int shift)
{
    const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    const __m256i sign_bit = _mm256_set1_epi32((int)0x80000000u);
    __m256 magnitude = _mm256_permutevar8x32_ps(magnitudes, _mm256_srli_epi32(words, shift));
    __m256i sign = _mm256_and_si256(_mm256_slli_epi32(words, 28 - shift), sign_bit);
    return _mm256_or_ps(magnitude, _mm256_castsi256_ps(sign));
}

/* e4m3 bits moved into a half have the value times 2^-8, subnormals included; widening a half
 * ignores the flush of denormals. */
INLINE vf vf_fp8(const uint8_t *codes)
{
    __m128i wide = _mm_cvtepi8_epi16(_mm_loadl_epi64((const void *)codes));
    __m128i half = _mm_and_si128(_mm_slli_epi16(wide, 7), _mm_set1_epi16((short)0xbfff));
    return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}

INLINE vf vf_bf16_even(vu words)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

INLINE vf vf_bf16_odd(vu words)
{
    return _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32((int)0xffff0000u)));
}

INLINE vf vf_ue8m0(const uint8_t *bytes, int add)
{
    __m256i biased = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)bytes));
    biased = _mm256_add_epi32(biased, _mm256_set1_epi32(add));
    biased = _mm256_max_epi32(biased, _mm256_set1_epi32(1));
    biased = _mm256_min_epi32(biased, _mm256_set1_epi32(254));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

#include "backends/cpu/kern_linear.inc"
#include "backends/cpu/kern_rows.inc"

#include "backends/cpu/kern_attend.inc"

const struct cpu_kern *cpu_kern_avx2(void)
{
    return &table;
}
#else
#include <stddef.h>

const struct cpu_kern *cpu_kern_avx2(void)
{
    return NULL;
}
#endif
