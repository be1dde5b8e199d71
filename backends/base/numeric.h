/* numeric.h - number formats and the arithmetic whose every bit is fixed.
 *
 * The scalar reference (engine/ref) and the kernels of the CPU backend must give equal bits, so all
 * that they have to agree on to the last bit stands here once: the formats of the checkpoint and
 * of the cache, the fused multiply-add chains ("class E"), the order of row sums, and the
 * elementary functions.  Plain C, one lane per call: a loop over these functions vectorises, and
 * lane by lane the result is the scalar one.
 *
 * Rules that hold for all of it:
 *   1. Every float operation is a single IEEE binary32 operation, round to nearest even.  The only
 *      fused operations are the fm_fma that are written; build with -ffp-contract=off.
 *   2. Denormal inputs count as zero and denormal results become zero.  fm_numeric_enter sets the
 *      calling thread to that; whoever calls a function of this file for its bits has called it.
 *   3. No libm and no estimate instructions: division and square root are the exact IEEE ones.
 *   4. bf16 values travel as uint16_t, ue8m0 scales as their biased exponent byte.
 *   5. No loop here reorders a sum.
 *
 * The functions are pure and may be called from any thread. */
#ifndef FM_NUMERIC_H
#define FM_NUMERIC_H

#include <stdint.h>
#include <string.h>

/* Flush denormals on this thread from now on; the answer is the previous mode, for
 * fm_numeric_leave.  x86: MXCSR bits 15 and 6.  aarch64: FPCR bit 24. */
uint64_t fm_numeric_enter(void);
void fm_numeric_leave(uint64_t mode);

/* ---- bits ------------------------------------------------------------------------------------ */

static inline uint32_t fm_f32_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float fm_f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* a * b + c with one rounding: the F(a, b, c) of class E. */
static inline float fm_fma(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}

static inline float fm_max_f32(float a, float b)
{
    return a > b ? a : b;
}

static inline float fm_min_f32(float a, float b)
{
    return a < b ? a : b;
}

/* ---- bf16 ------------------------------------------------------------------------------------ */

static inline float fm_bf16_value(uint16_t bits)
{
    return fm_f32_of_bits((uint32_t)bits << 16);
}

/* Round to nearest even; a NaN stays a NaN. */
static inline uint16_t fm_bf16(float value)
{
    uint32_t bits = fm_f32_bits(value);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uint32_t quiet = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* The float that bf16 rounding leaves. */
static inline float fm_bf16_round(float value)
{
    return fm_bf16_value(fm_bf16(value));
}

/* A key whose unsigned order is the numeric order of bf16 values; -0 and +0 have one key.  For
 * index scores: larger score, larger key.  NaN is not ordered. */
static inline uint16_t fm_bf16_key(uint16_t bits)
{
    uint32_t b = (bits & 0x7fffu) == 0 ? 0u : bits;
    return (uint16_t)((b & 0x8000u) != 0 ? ~b : b | 0x8000u);
}

/* ---- ue8m0 ----------------------------------------------------------------------------------- */

/* 2^(byte - 127).  Byte 0 is 2^-127, an fp32 denormal, which arithmetic under rule 2 reads as
 * zero: multiply scales with fm_ue8m0_product instead.  255 is NaN. */
static inline float fm_ue8m0_value(uint8_t byte)
{
    uint32_t normal = (uint32_t)byte << 23;
    return fm_f32_of_bits(byte == 0 ? 0x00400000u : byte == 255 ? 0x7fc00000u : normal);
}

/* 2^(a - 127) * 2^(b - 127) as fp32, saturated to [2^-126, 2^127].  b = 127 widens a alone. */
static inline float fm_ue8m0_product(uint8_t a, uint8_t b)
{
    int32_t biased = (int32_t)a + (int32_t)b - 127;
    biased = biased < 1 ? 1 : biased;
    biased = biased > 254 ? 254 : biased;
    return fm_f32_of_bits((uint32_t)biased << 23);
}

/* The scale byte whose power of two is the smallest that is at least v (v normal, positive). */
static inline uint8_t fm_ue8m0_ceil(float v)
{
    uint32_t bits = fm_f32_bits(v);
    return (uint8_t)((bits >> 23) + ((bits & 0x7fffffu) != 0));
}

/* 2^(127 - byte), the exact reciprocal of a scale that fm_act_scale or fm_fp4_scale chose
 * (byte 1 .. 253). */
static inline float fm_ue8m0_reciprocal(uint8_t byte)
{
    return fm_f32_of_bits((254u - byte) << 23);
}

/* ---- e4m3 (e4m3fn) --------------------------------------------------------------------------- */

/* Value of each code; 0x7f and 0xff are NaN.  The same as fm_e4m3_value, for scalar code. */
extern const float fm_e4m3_table[256];

static inline float fm_e4m3_value(uint8_t code)
{
    uint32_t magnitude = code & 0x7fu;
    float small = (float)(int32_t)magnitude * 0x1p-9f;
    uint32_t bits = magnitude < 8 ? fm_f32_bits(small) : (magnitude << 20) + (120u << 23);
    bits = magnitude == 0x7f ? 0x7fc00000u : bits;
    return fm_f32_of_bits(bits | (uint32_t)(code & 0x80u) << 24);
}

/* Round to nearest even.  |value| <= 448; the sign of zero is kept. */
static inline uint8_t fm_e4m3(float value)
{
    uint32_t bits = fm_f32_bits(value);
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
    /* adding 1.5 * 2^23 rounds value * 2^9 to an integer, found in the low bits of the sum */
    uint32_t small = fm_f32_bits(fm_f32_of_bits(magnitude) * 0x1p9f + 0x1.8p23f) - 0x4b400000u;
    uint32_t code = magnitude < (121u << 23) ? small : normal; /* 2^-6: the smallest normal */
    return (uint8_t)(code | (bits >> 24 & 0x80u));
}

/* ---- e2m1 ------------------------------------------------------------------------------------ */

/* 0, 0.5, 1, 1.5, 2, 3, 4, 6, then the negatives (8 is -0). */
extern const float fm_e2m1_table[16];

/* Twice the value of each code, as an integer: exact integer dot products. */
extern const int8_t fm_e2m1_doubled[16];

static inline float fm_e2m1_value(uint8_t code)
{
    uint32_t magnitude = code & 7u;
    uint32_t normal = (magnitude << 22) + (126u << 23);
    uint32_t bits = magnitude < 2 ? (magnitude == 0 ? 0u : 0x3f000000u) : normal;
    return fm_f32_of_bits(bits | (uint32_t)(code & 8u) << 28);
}

/* Round to nearest even code.  |value| <= 6; the sign of zero is kept. */
static inline uint8_t fm_e2m1(float value)
{
    uint32_t bits = fm_f32_bits(value);
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t normal = ((magnitude + 0x1fffffu + ((magnitude >> 22) & 1u)) >> 22) - (126u << 1);
    uint32_t small = fm_f32_bits(fm_f32_of_bits(magnitude) * 2.0f + 0x1.8p23f) - 0x4b400000u;
    uint32_t code = magnitude < (127u << 23) ? small : normal;
    return (uint8_t)(code | (bits >> 28 & 8u));
}

/* ---- quantisation of activations and caches -------------------------------------------------- */

enum { FM_ACT_BLOCK = 128, FM_FP8_SIM_BLOCK = 64, FM_FP4_BLOCK = 32, FM_FP8_BLOCK = 128 };

/* Largest |x| of `count` bf16 values, as bf16 bits (integer order is magnitude order). */
static inline uint16_t fm_bf16_amax(const uint16_t *x, uint32_t count)
{
    uint32_t amax = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t magnitude = x[i] & 0x7fffu;
        amax = magnitude > amax ? magnitude : amax;
    }
    return (uint16_t)amax;
}

/* The exponent rule for e4m3: ceil(log2(max(amax, 1e-4) * fl32(1/448))), as a ue8m0 byte. */
static inline uint8_t fm_act_scale(uint16_t amax)
{
    return fm_ue8m0_ceil(fm_max_f32(fm_bf16_value(amax), 1e-4f) * fm_f32_of_bits(0x3b124925u));
}

/* The exponent rule for e2m1: ceil(log2(max(amax, 6 * 2^-126) * fl32(1/6))). */
static inline uint8_t fm_fp4_scale(uint16_t amax)
{
    return fm_ue8m0_ceil(fm_max_f32(fm_bf16_value(amax), 0x1.8p-124f) *
                         fm_f32_of_bits(0x3e2aaaabu));
}

/* One value on the grid of its block: code of clamp(x / 2^(scale - 127)). */
static inline uint8_t fm_e4m3_quant(uint16_t x, uint8_t scale)
{
    float value = fm_bf16_value(x) * fm_ue8m0_reciprocal(scale);
    return fm_e4m3(fm_max_f32(fm_min_f32(value, 448.0f), -448.0f));
}

static inline uint8_t fm_e2m1_quant(uint16_t x, uint8_t scale)
{
    float value = fm_bf16_value(x) * fm_ue8m0_reciprocal(scale);
    return fm_e2m1(fm_max_f32(fm_min_f32(value, 6.0f), -6.0f));
}

/* One block of act_quant: codes[0 .. count) and the scale byte.  count is 128 in front of a
 * linear, 64 in the cache. */
static inline uint8_t fm_act_quant(const uint16_t *x, uint32_t count, uint8_t *ret_codes)
{
    uint8_t scale = fm_act_scale(fm_bf16_amax(x, count));
    for (uint32_t i = 0; i < count; i++)
        ret_codes[i] = fm_e4m3_quant(x[i], scale);
    return scale;
}

/* One block of fp4 quantisation, one code per byte. */
static inline uint8_t fm_fp4_quant(const uint16_t *x, uint32_t count, uint8_t *ret_codes)
{
    uint8_t scale = fm_fp4_scale(fm_bf16_amax(x, count));
    for (uint32_t i = 0; i < count; i++)
        ret_codes[i] = fm_e2m1_quant(x[i], scale);
    return scale;
}

/* Quantise and return, in place: what a packed cache row gives back.  Exact, hence no rounding
 * besides the code's.  count is a multiple of the block. */
static inline void fm_fp8_sim(uint16_t *x, uint32_t count)
{
    for (uint32_t at = 0; at < count; at += FM_FP8_SIM_BLOCK) {
        uint8_t scale = fm_act_scale(fm_bf16_amax(x + at, FM_FP8_SIM_BLOCK));
        for (uint32_t i = at; i < at + FM_FP8_SIM_BLOCK; i++)
            x[i] =
                fm_bf16(fm_e4m3_value(fm_e4m3_quant(x[i], scale)) * fm_ue8m0_product(scale, 127));
    }
}

static inline void fm_fp4_sim(uint16_t *x, uint32_t count)
{
    for (uint32_t at = 0; at < count; at += FM_FP4_BLOCK) {
        uint8_t scale = fm_fp4_scale(fm_bf16_amax(x + at, FM_FP4_BLOCK));
        for (uint32_t i = at; i < at + FM_FP4_BLOCK; i++)
            x[i] =
                fm_bf16(fm_e2m1_value(fm_e2m1_quant(x[i], scale)) * fm_ue8m0_product(scale, 127));
    }
}

/* ---- chains ---------------------------------------------------------------------------------- */

/* The pair step on elements (2p, 2p+1): the odd element first. */
static inline float fm_pair(float t, float w_even, float x_even, float w_odd, float x_odd)
{
    return fm_fma(w_even, x_even, fm_fma(w_odd, x_odd, t));
}

/* Pair steps over count elements (even), ascending, from t. */
static inline float fm_dot_pairs(const float *w, const float *x, uint32_t count, float t)
{
    for (uint32_t i = 0; i < count; i += 2)
        t = fm_pair(t, w[i], x[i], w[i + 1], x[i + 1]);
    return t;
}

/* The block dots of the linears: unscaled elements from t = +0.  w as the checkpoint stores it; x
 * holds unscaled e4m3 or bf16 values.  fp4: 32 elements in 16 bytes, the low nibble is even. */
static inline float fm_dot_fp4_block(const uint8_t *w, const float *x)
{
    float t = 0.0f;
    for (uint32_t p = 0; p < FM_FP4_BLOCK / 2; p++)
        t = fm_pair(t, fm_e2m1_table[w[p] & 15], x[2 * p], fm_e2m1_table[w[p] >> 4], x[2 * p + 1]);
    return t;
}

static inline float fm_dot_fp8_block(const uint8_t *w, const float *x)
{
    float t = 0.0f;
    for (uint32_t i = 0; i < FM_FP8_BLOCK; i += 2)
        t = fm_pair(t, fm_e4m3_table[w[i]], x[i], fm_e4m3_table[w[i + 1]], x[i + 1]);
    return t;
}

/* count is even, at most 32: only the last block of a row may be short. */
static inline float fm_dot_bf16_block(const uint16_t *w, const float *x, uint32_t count)
{
    float t = 0.0f;
    for (uint32_t i = 0; i < count; i += 2)
        t = fm_pair(t, fm_bf16_value(w[i]), x[i], fm_bf16_value(w[i + 1]), x[i + 1]);
    return t;
}

/* ---- row sums -------------------------------------------------------------------------------- */

/* Sixteen partial sums to one: by 8, 4, 2, 1.  Overwrites partial. */
static inline float fm_tree16(float *partial)
{
    for (uint32_t width = 8; width > 0; width /= 2)
        for (uint32_t i = 0; i < width; i++)
            partial[i] = partial[i] + partial[i + width];
    return partial[0];
}

/* Sum of squares: element i goes to partial i mod 16 by one fma, ascending; then the tree. */
static inline float fm_sum_squares_bf16(const uint16_t *x, uint32_t count)
{
    float partial[16] = {0};
    for (uint32_t i = 0; i < count; i++) {
        float value = fm_bf16_value(x[i]);
        partial[i % 16] = fm_fma(value, value, partial[i % 16]);
    }
    return fm_tree16(partial);
}

/* sum of w * x in the same order (hyper-connection mixes, one of their 16 chunks). */
static inline float fm_dot_lanes16(const float *w, const uint16_t *x, uint32_t count)
{
    float partial[16] = {0};
    for (uint32_t i = 0; i < count; i++)
        partial[i % 16] = fm_fma(w[i], fm_bf16_value(x[i]), partial[i % 16]);
    return fm_tree16(partial);
}

/* 1 / sqrt(mean + eps), the mean as sum / count: both divisions and the root are exact. */
static inline float fm_rms_scale(float sum_squares, uint32_t count, float eps)
{
    return 1.0f / __builtin_sqrtf(sum_squares / (float)count + eps);
}

/* ---- elementary functions -------------------------------------------------------------------- */
/* Largest errors in units of the last place, as test_base_numeric.c measures them again: exp 1.1,
 * sigmoid 2.5, silu 2.5, log1p 0.9, softplus 1.8, sine and cosine 0.51 (angles up to 2^20). */

/* e^x = 2^n * e^r, n = rint(x / ln 2).  Below the smallest normal the result is 0, above the
 * largest float infinity. */
static inline float fm_exp(float x)
{
    float clamped = x < -104.0f ? -104.0f : x;
    clamped = clamped > 89.0f ? 89.0f : clamped;
    float shifted = fm_fma(clamped, 0x1.715476p+0f, 0x1.8p23f); /* 1 / ln 2; rounds to an integer */
    float n = shifted - 0x1.8p23f;
    float r = fm_fma(n, -0x1.62e430p-1f, clamped); /* ln 2 in two floats */
    r = fm_fma(n, 0x1.05c610p-29f, r);
    float q = 0x1.6a1a68p-10f; /* (e^r - 1 - r) / r^2, least largest error on |r| <= ln 2 / 2 */
    q = fm_fma(q, r, 0x1.123fc8p-7f);
    q = fm_fma(q, r, 0x1.555916p-5f);
    q = fm_fma(q, r, 0x1.55548ap-3f);
    q = fm_fma(q, r, 0x1.fffffcp-2f);
    float y = fm_fma(q, r * r, r) + 1.0f;
    /* 2^n in two factors, since n = 128 is reached and 2^128 is not a float */
    int32_t whole = (int32_t)(fm_f32_bits(shifted) - 0x4b400000u);
    int32_t half = whole >> 1;
    y = y * fm_f32_of_bits((uint32_t)(half + 127) << 23);
    y = y * fm_f32_of_bits((uint32_t)(whole - half + 127) << 23);
    return x < -0x1.5d589ep+6f ? 0.0f : y; /* ln of the smallest normal */
}

/* log(1 + x) for x >= 0. */
static inline float fm_log1p(float x)
{
    float u = 1.0f + x;
    float lost = x < 1.0f ? x - (u - 1.0f) : 1.0f - (u - x); /* what rounding took from 1 + x */
    /* u = m * 2^k with m in [sqrt(1/2), sqrt(2)) */
    uint32_t bits = fm_f32_bits(u) + (0x3f800000u - 0x3f3504f3u);
    float k = (float)((int32_t)(bits >> 23) - 127);
    float f = fm_f32_of_bits((bits & 0x7fffffu) + 0x3f3504f3u) - 1.0f;
    /* log m = 2 atanh(s) with s = f / (2 + f), |s| <= 0.172; and f = 2 s + s f exactly, so
     * log m = f - s * (f - s^2 * (2/3 + 2/5 s^2 + ...)) */
    float s = f / (2.0f + f);
    float z = s * s;
    float p = fm_fma(z, 0x1.c71c72p-3f, 0x1.24924ap-2f); /* 2/9, 2/7 */
    p = fm_fma(z, p, 0x1.99999ap-2f);                    /* 2/5 */
    p = fm_fma(z, p, 0x1.555556p-1f);                    /* 2/3 */
    float tail = fm_fma(k, -0x1.05c610p-29f, lost / u);
    tail = fm_fma(-s, fm_fma(-z, p, f), tail);
    return fm_fma(k, 0x1.62e430p-1f, f + tail);
}

/* log(1 + e^x); x itself above 20. */
static inline float fm_softplus(float x)
{
    float y = fm_log1p(fm_exp(x > 20.0f ? 20.0f : x));
    return x > 20.0f ? x : y;
}

static inline float fm_sigmoid(float x)
{
    return 1.0f / (1.0f + fm_exp(-x));
}

/* x * sigmoid(x), as one division. */
static inline float fm_silu(float x)
{
    return x / (1.0f + fm_exp(-x));
}

/* Sine and cosine of the float angle, in double inside: r = angle - n * pi/2 with pi/2 in three
 * parts of 33, 33 and 53 bits, so that the products with n < 2^20 are exact. */
static inline void fm_sincos(float angle, float *ret_sin, float *ret_cos)
{
    double a = (double)angle;
    double shifted = a * 0x1.45f306dc9c883p-1 + 0x1.8p52;
    double n = shifted - 0x1.8p52;
    double r = a - n * 0x1.921fb544p+0;
    r = r - n * 0x1.0b4611a6p-34;
    r = r - n * 0x1.3198a2e037073p-69;
    double z = r * r;
    double s = -1.0 / 39916800.0; /* Taylor: the first term left out is below 1e-11 */
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = r + r * z * s;
    double c = 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = c * z - 0.5;
    c = 1.0 + z * c;
    uint64_t quadrant;
    memcpy(&quadrant, &shifted, sizeof quadrant); /* its low bits are n modulo 4 */
    double sine = (quadrant & 1) != 0 ? c : s;
    double cosine = (quadrant & 1) != 0 ? s : c;
    *ret_sin = (float)((quadrant & 2) != 0 ? -sine : sine);
    *ret_cos = (float)(((quadrant + 1) & 2) != 0 ? -cosine : cosine);
}

/* ---- rotation, Hadamard ---------------------------------------------------------------------- */

/* The angle of a position: one fp32 product, then its sine and cosine. */
static inline void fm_rope_angle(uint32_t position, float inverse, float *ret_sin, float *ret_cos)
{
    fm_sincos((float)position * inverse, ret_sin, ret_cos);
}

/* Rotate the pair (a, b) and round to bf16.  The inverse rotation is the same with -sine. */
static inline void fm_rope_pair(uint16_t *pair, float sine, float cosine)
{
    float a = fm_bf16_value(pair[0]), b = fm_bf16_value(pair[1]);
    pair[0] = fm_bf16(fm_fma(a, cosine, -(b * sine)));
    pair[1] = fm_bf16(fm_fma(a, sine, b * cosine));
}

/* Walsh-Hadamard transform in Sylvester order of count (a power of two) bf16 values, divided by
 * sqrt(count), in place: butterflies at strides 1, 2, 4, ... in fp32 (sum to the lower place,
 * difference to the upper), then one product with fl32(count^-1/2) and one rounding to bf16.
 *   scratch   [count] floats */
static inline void fm_hadamard(uint16_t *x, uint32_t count, float *scratch)
{
    for (uint32_t i = 0; i < count; i++)
        scratch[i] = fm_bf16_value(x[i]);
    for (uint32_t stride = 1; stride < count; stride *= 2)
        for (uint32_t base = 0; base < count; base += 2 * stride)
            for (uint32_t i = base; i < base + stride; i++) {
                float a = scratch[i], b = scratch[i + stride];
                scratch[i] = a + b;
                scratch[i + stride] = a - b;
            }
    float scale = (float)(1.0 / __builtin_sqrt((double)count));
    for (uint32_t i = 0; i < count; i++)
        x[i] = fm_bf16(scratch[i] * scale);
}

#endif
