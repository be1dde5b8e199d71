/* test_base_numeric.c - formats against their definitions, functions against libm in double. */
#include <math.h>
#include <stdio.h>

#include "backends/base/assert.h"
#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "tests/support/support.h"

/* Index of the value nearest to a >= 0 in an ascending grid; a tie takes the even index. */
static uint32_t nearest_even(double a, const float *grid, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++) {
        double now = fabs((double)grid[i] - a), least = fabs((double)grid[best] - a);
        if (now < least || (now == least && i % 2 == 0))
            best = i;
    }
    return best;
}

/* Distance from the true value in units of the last place of the float nearest to it. */
static double ulp_error(float got, double want)
{
    int exponent;
    (void)frexp(want, &exponent);
    double ulp = ldexp(1.0, (exponent < -125 ? -125 : exponent) - 24);
    return fabs((double)got - want) / ulp;
}

START_TEST(bf16_rounds_to_nearest_even)
{
    ck_assert_uint_eq(fm_bf16(1.0f), 0x3f80);
    ck_assert_uint_eq(fm_bf16(fm_f32_of_bits(0x3f808000)), 0x3f80); /* tie, even below */
    ck_assert_uint_eq(fm_bf16(fm_f32_of_bits(0x3f818000)), 0x3f82); /* tie, even above */
    ck_assert_uint_eq(fm_bf16(fm_f32_of_bits(0x3f808001)), 0x3f81);
    ck_assert_uint_eq(fm_bf16(-0.0f), 0x8000);
    ck_assert_uint_eq(fm_bf16(0x1.fffffep127f), 0x7f80); /* beyond the largest: infinity */
    ck_assert(isnan(fm_bf16_value(fm_bf16(fm_f32_of_bits(0x7fffffff)))));
    for (uint32_t b = 0; b < 0x10000; b++)
        if (!isnan(fm_bf16_value((uint16_t)b)))
            ck_assert_uint_eq(fm_bf16(fm_bf16_value((uint16_t)b)), b);
}
END_TEST

START_TEST(bf16_keys_order_as_the_values_do)
{
    ck_assert_uint_eq(fm_bf16_key(0x8000), fm_bf16_key(0x0000));
    for (uint32_t a = 0; a < 0x10000; a += 7)
        for (uint32_t b = 3; b < 0x10000; b += 1009) {
            float x = fm_bf16_value((uint16_t)a), y = fm_bf16_value((uint16_t)b);
            if (isnan(x) || isnan(y))
                continue;
            uint16_t kx = fm_bf16_key((uint16_t)a), ky = fm_bf16_key((uint16_t)b);
            ck_assert_int_eq(x < y, kx < ky);
            ck_assert_int_eq(x == y, kx == ky);
        }
}
END_TEST

START_TEST(ue8m0_is_a_power_of_two_and_never_zero)
{
    for (uint32_t b = 0; b < 255; b++)
        ck_assert(fm_f32_bits(fm_ue8m0_value((uint8_t)b)) ==
                  fm_f32_bits((float)ldexp(1.0, (int)b - 127)));
    ck_assert(isnan(fm_ue8m0_value(255)));
    ck_assert_uint_eq(fm_f32_bits(fm_ue8m0_value(0)), 0x00400000);

    for (uint32_t a = 0; a < 255; a += 3)
        for (uint32_t b = 0; b < 255; b += 2) {
            int e = (int)a + (int)b - 254;
            e = e < -126 ? -126 : e > 127 ? 127 : e;
            ck_assert(fm_ue8m0_product((uint8_t)a, (uint8_t)b) == (float)ldexp(1.0, e));
        }
    for (uint32_t b = 1; b < 254; b++)
        ck_assert(fm_ue8m0_value((uint8_t)b) * fm_ue8m0_reciprocal((uint8_t)b) == 1.0f);
}
END_TEST

START_TEST(e4m3_decodes_every_code)
{
    for (uint32_t code = 0; code < 256; code++) {
        uint32_t e = code >> 3 & 15, m = code & 7;
        double want = e == 0 ? (double)m * 0x1p-9 : ldexp(1.0 + (double)m / 8, (int)e - 7);
        want = code >= 128 ? -want : want;
        float got = fm_e4m3_value((uint8_t)code), table = fm_e4m3_table[code];
        if ((code & 0x7f) == 0x7f) {
            ck_assert(isnan(got) && isnan(table));
            continue;
        }
        ck_assert_uint_eq(fm_f32_bits(got), fm_f32_bits((float)want));
        ck_assert_uint_eq(fm_f32_bits(table), fm_f32_bits((float)want));
    }
}
END_TEST

START_TEST(e4m3_takes_the_nearest_even_code)
{
    static const struct {
        float value;
        uint8_t code;
    } cases[] = {{0.001f, 0x01}, {0x1p-10f, 0x00}, {1.0625f, 0x38}, {1.1875f, 0x3a}, {17, 0x58},
                 {19, 0x5a},     {432, 0x7e},      {440, 0x7e},     {-3.3f, 0xc5},   {-0.0f, 0x80}};
    for (size_t i = 0; i < FM_COUNT(cases); i++)
        ck_assert_uint_eq(fm_e4m3(cases[i].value), cases[i].code);

    for (uint32_t b = 0; b <= 0x43e0; b++) { /* every bf16 up to 448, both signs */
        float value = fm_bf16_value((uint16_t)b);
        uint32_t want = nearest_even((double)value, fm_e4m3_table, 0x7f);
        ck_assert_uint_eq(fm_e4m3(value), want);
        ck_assert_uint_eq(fm_e4m3(-value), want | 0x80);
    }
    for (uint32_t code = 0; code < 0x7e; code++) { /* one float beside each tie */
        float tie = (fm_e4m3_table[code] + fm_e4m3_table[code + 1]) / 2;
        ck_assert_uint_eq(fm_e4m3(nextafterf(tie, 0)), code);
        ck_assert_uint_eq(fm_e4m3(nextafterf(tie, 1e9f)), code + 1);
        ck_assert_uint_eq(fm_e4m3(tie), code + (code & 1));
    }
}
END_TEST

START_TEST(e2m1_takes_the_nearest_even_code)
{
    static const float ties[] = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5};
    static const float ends[] = {0, 1, 1, 2, 2, 4, 4};
    for (size_t i = 0; i < FM_COUNT(ties); i++) {
        ck_assert(fm_e2m1_value(fm_e2m1(ties[i])) == ends[i]);
        ck_assert(fm_e2m1_value(fm_e2m1(-ties[i])) == -ends[i]);
        ck_assert_uint_eq(fm_e2m1(nextafterf(ties[i], 0)), i);
        ck_assert_uint_eq(fm_e2m1(nextafterf(ties[i], 9)), i + 1);
    }
    for (uint32_t code = 0; code < 16; code++) {
        ck_assert_uint_eq(fm_f32_bits(fm_e2m1_value((uint8_t)code)),
                          fm_f32_bits(fm_e2m1_table[code]));
        ck_assert(fm_e2m1_table[code] * 2 == (float)fm_e2m1_doubled[code]);
        ck_assert_uint_eq(fm_e2m1(fm_e2m1_table[code]), code);
    }
    for (uint32_t b = 0; b <= 0x40c0; b++) {
        float value = fm_bf16_value((uint16_t)b);
        uint32_t want = nearest_even((double)value, fm_e2m1_table, 8);
        ck_assert_uint_eq(fm_e2m1(value), want);
        ck_assert_uint_eq(fm_e2m1(-value), want | 8);
    }
}
END_TEST

START_TEST(scales_follow_the_exponent_rule)
{
    static const struct {
        float amax;
        uint8_t byte;
    } fp8[] = {{1e-4f, 105}, {0.5f, 118}, {1, 119},   {3.5f, 120}, {7, 121},    {446, 127},
               {448, 127},   {450, 128},  {896, 128}, {1000, 129}, {0.0f, 105}, {1e-30f, 105}},
      fp4[] = {{0, 1},      {0.01f, 118}, {0.75f, 124},    {1, 125}, {3, 126},
               {5.9f, 127}, {6, 127},     {6.03125f, 128}, {12, 128}};
    for (size_t i = 0; i < FM_COUNT(fp8); i++)
        ck_assert_uint_eq(fm_act_scale(fm_bf16(fp8[i].amax)), fp8[i].byte);
    for (size_t i = 0; i < FM_COUNT(fp4); i++)
        ck_assert_uint_eq(fm_fp4_scale(fm_bf16(fp4[i].amax)), fp4[i].byte);
    /* the rule itself, from floats that bf16 cannot hold */
    ck_assert_uint_eq(fm_ue8m0_ceil(447.0f * fm_f32_of_bits(0x3b124925)), 127);
    ck_assert_uint_eq(fm_ue8m0_ceil(449.0f * fm_f32_of_bits(0x3b124925)), 128);
    ck_assert_uint_eq(fm_ue8m0_ceil(6.01f * fm_f32_of_bits(0x3e2aaaab)), 128);
    for (uint32_t b = 0x38d2; b < 0x7f80; b++) { /* nothing clips: amax / s <= 448 */
        double amax = (double)fm_bf16_value((uint16_t)b);
        double v = (double)(float)(amax * (double)fm_f32_of_bits(0x3b124925));
        ck_assert_int_eq(fm_act_scale((uint16_t)b) - 127, (int)ceil(log2(v)));
        ck_assert(ldexp(amax, 127 - fm_act_scale((uint16_t)b)) <= 448.0);
    }
}
END_TEST

START_TEST(quantised_blocks_are_the_nearest_grid_values)
{
    uint64_t seed = test_seed();
    for (uint32_t round = 0; round < 200; round++) {
        uint16_t x[128], sim8[128], sim4[128];
        uint8_t codes[128];
        double spread = ldexp(1.0, (int)(fm_prng_u64(seed, round, 999) % 40) - 20);
        for (uint32_t i = 0; i < 128; i++) {
            double unit = fm_prng_unit(seed, round, i) * 2 - 1;
            x[i] = fm_bf16((float)(unit * unit * unit * spread));
        }
        memcpy(sim8, x, sizeof x);
        memcpy(sim4, x, sizeof x);

        uint8_t scale = fm_act_quant(x, 128, codes);
        for (uint32_t i = 0; i < 128; i++) {
            double v = ldexp((double)fm_bf16_value(x[i]), 127 - scale);
            uint32_t want = nearest_even(fabs(v), fm_e4m3_table, 0x7f);
            ck_assert_uint_eq(codes[i], want | (signbit(v) ? 0x80 : 0));
        }
        fm_fp8_sim(sim8, 128);
        for (uint32_t at = 0; at < 128; at += 64) {
            scale = fm_act_quant(x + at, 64, codes);
            for (uint32_t i = 0; i < 64; i++)
                ck_assert(fm_bf16_value(sim8[at + i]) ==
                          fm_e4m3_table[codes[i]] * (float)ldexp(1.0, scale - 127));
        }
        fm_fp4_sim(sim4, 128);
        for (uint32_t at = 0; at < 128; at += 32) {
            scale = fm_fp4_quant(x + at, 32, codes);
            for (uint32_t i = 0; i < 32; i++) {
                double v = ldexp((double)fm_bf16_value(x[at + i]), 127 - scale);
                uint32_t want = nearest_even(fabs(v), fm_e2m1_table, 8);
                ck_assert_uint_eq(codes[i], want | (signbit(v) ? 8 : 0));
                ck_assert(fm_bf16_value(sim4[at + i]) ==
                          fm_e2m1_table[codes[i]] * (float)ldexp(1.0, scale - 127));
            }
        }
        uint16_t again[128]; /* a value on the grid stays where it is */
        memcpy(again, sim8, sizeof again);
        fm_fp8_sim(again, 128);
        ck_assert_mem_eq(again, sim8, sizeof again);
        memcpy(again, sim4, sizeof again);
        fm_fp4_sim(again, 128);
        ck_assert_mem_eq(again, sim4, sizeof again);
    }
}
END_TEST

START_TEST(released_bytes_decode_as_published)
{
    static const uint8_t codes[8] = {0xd8, 0x71, 0xf2, 0x79, 0x70, 0x69, 0xf0, 0xe5};
    static const float want[8] = {-0.00390625f, 0.03515625f,  -0.0390625f, 0.0703125f,
                                  0.03125f,     0.017578125f, -0.03125f,   -0.0126953125f};
    for (uint32_t i = 0; i < 8; i++)
        ck_assert(fm_e4m3_value(codes[i]) * fm_ue8m0_value(0x73) == want[i]);
}
END_TEST

START_TEST(the_pair_step_takes_the_odd_element_first)
{
    /* 2^24 + 1 is not a float: the order shows */
    float big = 0x1p24f;
    ck_assert(fm_pair(-big, 1, 1, 1, big) == 1); /* odd first cancels, then + 1 */
    ck_assert(fm_pair(-big, 1, big, 1, 1) == 1); /* -2^24 + 1 is a float */
    ck_assert(fm_pair(big, 1, -big, 1, 1) == 0); /* 2^24 + 1 is lost, then cancelled */
    float w[4] = {3, 5, 7, 11}, x[4] = {2, 4, 8, 16};
    ck_assert(fm_dot_pairs(w, x, 4, 1) == 3 * 2 + 5 * 4 + 7 * 8 + 11 * 16 + 1);

    uint8_t fp4[16], fp8[128];
    uint16_t bf16[32];
    float x4[32], w4[32], x8[128], w8[128], w16[32];
    for (uint32_t i = 0; i < 128; i++) {
        x8[i] = fm_e4m3_table[(i * 37) % 0x7f];
        fp8[i] = (uint8_t)((i * 91) % 0x7f + (i % 3 == 0 ? 0x80 : 0));
        w8[i] = fm_e4m3_table[fp8[i]];
    }
    for (uint32_t i = 0; i < 32; i++) {
        x4[i] = x8[i];
        bf16[i] = fm_bf16((float)i * -0.3f);
        w16[i] = fm_bf16_value(bf16[i]);
    }
    for (uint32_t p = 0; p < 16; p++) {
        fp4[p] = (uint8_t)(p * 29 + 5);
        w4[2 * p] = fm_e2m1_table[fp4[p] & 15];
        w4[2 * p + 1] = fm_e2m1_table[fp4[p] >> 4];
    }
    ck_assert(fm_dot_fp4_block(fp4, x4) == fm_dot_pairs(w4, x4, 32, 0));
    ck_assert(fm_dot_fp8_block(fp8, x8) == fm_dot_pairs(w8, x8, 128, 0));
    ck_assert(fm_dot_bf16_block(bf16, x4, 32) == fm_dot_pairs(w16, x4, 32, 0));
}
END_TEST

START_TEST(row_sums_use_sixteen_partials_and_the_tree)
{
    float partial[16], copy[16];
    for (uint32_t i = 0; i < 16; i++)
        copy[i] = partial[i] = ldexpf(1.0f, (int)(i * 5) % 31);
    float by4[4];
    for (uint32_t i = 0; i < 4; i++)
        by4[i] = (copy[i] + copy[i + 8]) + (copy[i + 4] + copy[i + 12]);
    ck_assert(fm_tree16(partial) == (by4[0] + by4[2]) + (by4[1] + by4[3]));

    uint16_t x[40];
    float w[40], want[16] = {0}, want_dot[16] = {0};
    for (uint32_t i = 0; i < 40; i++) {
        x[i] = fm_bf16(1.0f + (float)i * 0.37f);
        w[i] = 1.0f / (float)(i + 3);
        float v = fm_bf16_value(x[i]);
        want[i % 16] = fmaf(v, v, want[i % 16]);
        want_dot[i % 16] = fmaf(w[i], v, want_dot[i % 16]);
    }
    ck_assert(fm_sum_squares_bf16(x, 40) == fm_tree16(want));
    ck_assert(fm_dot_lanes16(w, x, 40) == fm_tree16(want_dot));
}
END_TEST

START_TEST(denormals_are_flushed_between_enter_and_leave)
{
    volatile float small = 0x1p-126f, half = 0.5f, denormal = 0x1p-130f, big = 0x1p20f;
    uint64_t mode = fm_numeric_enter();
    volatile float result = small * half, input = denormal * big, fused = fm_fma(small, half, 0.0f);
    fm_numeric_leave(mode);
    ck_assert(result == 0.0f);
    ck_assert(input == 0.0f);
    ck_assert(fused == 0.0f);
    ck_assert(small * half != 0.0f);
}
END_TEST

struct worst {
    double ulp;
    float at;
};

static void worst_note(struct worst *worst, float x, float got, double want)
{
    double ulp = ulp_error(got, want);
    if (!(ulp <= worst->ulp)) {
        worst->ulp = ulp;
        worst->at = x;
    }
}

static double softplus_exactly(double x)
{
    return x > 20 ? x : log1p(exp(x));
}

/* Every 61st float of the domain (the first one by seed). */
START_TEST(elementary_functions_stay_within_their_stated_errors)
{
    struct worst e = {0}, sig = {0}, silu = {0}, soft = {0}, l1p = {0};
    uint64_t mode = fm_numeric_enter();
    for (uint64_t b = test_seed() % 61; b < 0x100000000; b += 61) {
        float x = fm_f32_of_bits((uint32_t)b);
        double d = (double)x;
        if (!(fabsf(x) < 86) || fabsf(x) < 1e-12f)
            continue;
        worst_note(&e, x, fm_exp(x), exp(d));
        worst_note(&sig, x, fm_sigmoid(x), 1 / (1 + exp(-d)));
        worst_note(&silu, x, fm_silu(x), d / (1 + exp(-d)));
        worst_note(&soft, x, fm_softplus(x), softplus_exactly(d));
        if (x > 0)
            worst_note(&l1p, x * x, fm_log1p(x * x), log1p((double)(x * x)));
    }
    fm_numeric_leave(mode);
    printf("largest error, ulp: exp %.3f (%a) sigmoid %.3f (%a) silu %.3f (%a) softplus %.3f (%a) "
           "log1p %.3f (%a)\n",
           e.ulp, (double)e.at, sig.ulp, (double)sig.at, silu.ulp, (double)silu.at, soft.ulp,
           (double)soft.at, l1p.ulp, (double)l1p.at);
    (void)fflush(stdout);
    ck_assert(e.ulp < 1.1);
    ck_assert(sig.ulp < 2.5);
    ck_assert(silu.ulp < 2.5);
    ck_assert(soft.ulp < 1.8);
    ck_assert(l1p.ulp < 0.9);
}
END_TEST

START_TEST(elementary_functions_are_right_at_their_ends)
{
    ck_assert(fm_exp(0.0f) == 1.0f);
    ck_assert(fm_exp(-0.0f) == 1.0f);
    ck_assert(fm_exp(-INFINITY) == 0.0f);
    ck_assert(fm_exp(-88.0f) == 0.0f);
    ck_assert(fm_exp(-87.33f) >= 0x1p-126f);
    ck_assert(isinf(fm_exp(INFINITY)));
    ck_assert(isinf(fm_exp(89.0f)));
    ck_assert(ulp_error(fm_exp(88.72f), exp((double)88.72f)) < 1);
    ck_assert(isnan(fm_exp(NAN)));
    ck_assert(fm_sigmoid(0.0f) == 0.5f);
    ck_assert(fm_sigmoid(200.0f) == 1.0f);
    ck_assert(fm_sigmoid(-200.0f) == 0.0f);
    ck_assert(fm_silu(-200.0f) == 0.0f);
    ck_assert(fm_log1p(0.0f) == 0.0f);
    ck_assert(fm_softplus(21.0f) == 21.0f);
    ck_assert(fm_softplus(-200.0f) == 0.0f);
    ck_assert(fm_rms_scale(0.0f, 128, 1e-6f) == 1.0f / sqrtf(1e-6f));
}
END_TEST

START_TEST(sine_and_cosine_hold_to_a_million_radians)
{
    struct worst s = {0}, c = {0};
    for (uint64_t b = test_seed() % 61; b <= 0x49800000; b += 61) { /* up to 2^20 */
        float x = fm_f32_of_bits((uint32_t)b), got_s, got_c;
        fm_sincos(x, &got_s, &got_c);
        if (x > 1e-30f)
            worst_note(&s, x, got_s, sin((double)x));
        worst_note(&c, x, got_c, cos((double)x));
    }
    printf("largest error, ulp: sin %.4f (%a) cos %.4f (%a)\n", s.ulp, (double)s.at, c.ulp,
           (double)c.at);
    ck_assert(s.ulp < 0.51);
    ck_assert(c.ulp < 0.51);

    float sine, cosine;
    fm_sincos(687656.0625f, &sine, &cosine);
    ck_assert(cosine == 0.6446286f && sine == -0.7644959f);
}
END_TEST

START_TEST(rotation_keeps_length_and_its_inverse_undoes_it)
{
    for (uint32_t t = 0; t < 1000; t++) {
        uint16_t pair[2] = {fm_bf16(1.5f), fm_bf16(-0.25f)};
        float sine, cosine;
        fm_rope_angle(t, 0.7f, &sine, &cosine);
        fm_rope_pair(pair, sine, cosine);
        double want_a = 1.5 * (double)cosine + 0.25 * (double)sine;
        ck_assert(fabs((double)fm_bf16_value(pair[0]) - want_a) <=
                  fabs(want_a) * 0x1.01p-8 + 0x1p-22);
        fm_rope_pair(pair, -sine, cosine);
        ck_assert(fabsf(fm_bf16_value(pair[0]) - 1.5f) < 0.02f);
        ck_assert(fabsf(fm_bf16_value(pair[1]) + 0.25f) < 0.02f);
    }
}
END_TEST

START_TEST(hadamard_follows_the_sylvester_signs)
{
    uint16_t x[128];
    float scratch[128];
    for (uint32_t k = 0; k < 128; k += 5) {
        memset(x, 0, sizeof x);
        x[k] = fm_bf16(1.0f);
        fm_hadamard(x, 128, scratch);
        for (uint32_t i = 0; i < 128; i++) {
            float want = __builtin_popcount(i & k) % 2 != 0 ? -0.08838834764f : 0.08838834764f;
            ck_assert_uint_eq(x[i], fm_bf16(want));
        }
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("base/numeric");
    TCase *formats = tcase_create("formats"), *chains = tcase_create("chains");
    TCase *functions = tcase_create("functions");
    tcase_set_timeout(functions, 120);
    tcase_add_test(formats, bf16_rounds_to_nearest_even);
    tcase_add_test(formats, bf16_keys_order_as_the_values_do);
    tcase_add_test(formats, ue8m0_is_a_power_of_two_and_never_zero);
    tcase_add_test(formats, e4m3_decodes_every_code);
    tcase_add_test(formats, e4m3_takes_the_nearest_even_code);
    tcase_add_test(formats, e2m1_takes_the_nearest_even_code);
    tcase_add_test(formats, scales_follow_the_exponent_rule);
    tcase_add_test(formats, quantised_blocks_are_the_nearest_grid_values);
    tcase_add_test(formats, released_bytes_decode_as_published);
    tcase_add_test(chains, the_pair_step_takes_the_odd_element_first);
    tcase_add_test(chains, row_sums_use_sixteen_partials_and_the_tree);
    tcase_add_test(chains, denormals_are_flushed_between_enter_and_leave);
    tcase_add_test(functions, elementary_functions_stay_within_their_stated_errors);
    tcase_add_test(functions, elementary_functions_are_right_at_their_ends);
    tcase_add_test(functions, sine_and_cosine_hold_to_a_million_radians);
    tcase_add_test(functions, rotation_keeps_length_and_its_inverse_undoes_it);
    tcase_add_test(functions, hadamard_follows_the_sylvester_signs);
    suite_add_tcase(suite, formats);
    suite_add_tcase(suite, chains);
    suite_add_tcase(suite, functions);
    return suite;
}
