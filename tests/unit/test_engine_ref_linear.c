/* test_engine_ref_linear.c - linears and norms: exact against the stated chain, near the real
 * product in double. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/ref/linear.h"
#include "engine/ref/norm.h"
#include "engine/ref/rope.h"
#include "tests/support/support.h"

enum { ROWS = 130, COLS = 384, TOKENS = 3 };

static uint8_t codes[ROWS * COLS], scales[ROWS * COLS / 32];
static uint16_t x[TOKENS * COLS];
static float values[TOKENS * COLS], y[TOKENS * ROWS];
static uint8_t act[TOKENS * COLS / 128];
static uint64_t mode;

static void setup(void)
{
    uint64_t seed = test_seed();
    for (uint32_t i = 0; i < sizeof codes; i++) {
        codes[i] = (uint8_t)fm_prng_u64(seed, 1, i);
        codes[i] = (codes[i] & 0x7f) == 0x7f ? 0 : codes[i];
    }
    for (uint32_t i = 0; i < sizeof scales; i++)
        scales[i] = (uint8_t)(118 + fm_prng_u64(seed, 2, i) % 12);
    for (uint32_t i = 0; i < TOKENS * COLS; i++) /* blocks of very different size */
        x[i] = fm_bf16((float)ldexp(fm_prng_unit(seed, 3, i) - 0.5, (int)(i / 128 % 3) * 9 - 6));
    mode = fm_numeric_enter();
}

static void teardown(void)
{
    fm_numeric_leave(mode);
}

/* Every output against the definition written out, and against the product in double. */
static void check(const struct eng_ref_weight *weight, const struct eng_ref_input *input,
                  uint32_t block)
{
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t r = 0; r < weight->rows; r++) {
            const float *in = input->values + (size_t)t * input->stride;
            float acc = 0;
            double exact = 0, size = 0;
            for (uint32_t at = 0; at < weight->cols; at += block) {
                double sa = input->scales == NULL
                                ? 1.0
                                : ldexp(1, input->scales[t * input->scale_stride + at / 128] - 127);
                /* the element without its scale: the scaled value over the block's scale */
                double sw = 0;
                float sum = 0, w[128];
                for (uint32_t i = 0; i < block; i++) {
                    double scaled = (double)eng_ref_weight_value(weight, r, at + i);
                    exact += scaled * (double)in[at + i] * sa;
                    size += fabs(scaled * (double)in[at + i] * sa);
                }
                if (weight->format == ENG_FORMAT_FP4)
                    sw = ldexp(
                        1, ((const uint8_t *)weight
                                ->scale)[(weight->row_first + r) * (weight->cols / 32) + at / 32] -
                               127);
                else if (weight->format == ENG_FORMAT_FP8)
                    sw = ldexp(1, ((const uint8_t *)weight->scale)[(weight->row_first + r) / 128 *
                                                                       (weight->cols / 128) +
                                                                   at / 128] -
                                      127);
                for (uint32_t i = 0; i < block; i++)
                    w[i] = (float)((double)eng_ref_weight_value(weight, r, at + i) /
                                   (sw != 0 ? sw : 1));
                for (uint32_t p = 0; p < block; p += 2) {
                    sum = fmaf(w[p + 1], in[at + p + 1], sum);
                    sum = fmaf(w[p], in[at + p], sum);
                }
                acc = sw != 0 ? fmaf(sum, (float)(sw * sa), acc) : acc + sum;
            }
            float got = y[t * weight->rows + r];
            ck_assert_uint_eq(fm_f32_bits(got), fm_f32_bits(acc));
            /* block + cols / block roundings, each at most 2^-24 of what was summed */
            ck_assert(fabs((double)got - exact) <= size * (block + COLS / block) * 0x1p-24);
        }
}

START_TEST(fp8_and_fp4_follow_the_chain)
{
    struct eng_ref_weight fp8 = {ENG_FORMAT_FP8, false, 0, ROWS, COLS, codes, scales};
    struct eng_ref_weight fp4 = {ENG_FORMAT_FP4, false, 0, ROWS, COLS, codes, scales};
    struct eng_ref_input input = {values, act, COLS, COLS / 128};
    eng_ref_act_quant(x, TOKENS, COLS, values, act);
    eng_ref_linear(&fp8, &input, TOKENS, y);
    check(&fp8, &input, 128);
    eng_ref_linear(&fp4, &input, TOKENS, y);
    check(&fp4, &input, 32);
}
END_TEST

START_TEST(a_wide_input_is_not_quantised)
{
    struct eng_ref_weight fp8 = {ENG_FORMAT_FP8, false, 0, ROWS, COLS, codes, scales};
    struct eng_ref_weight part = eng_ref_weight_rows(&fp8, 100, 30); /* over the tile's edge */
    struct eng_ref_input input = {values, NULL, COLS, 0};
    eng_ref_widen(x, TOKENS * COLS, values);
    eng_ref_linear(&part, &input, TOKENS, y);
    check(&part, &input, 128);
}
END_TEST

START_TEST(bf16_rows_may_lie_at_any_address)
{
    static uint8_t bytes[ROWS * COLS * 2 + 1];
    for (uint32_t i = 0; i < ROWS * COLS; i++) {
        uint16_t bits = fm_bf16((float)((double)(codes[i] - 128) / 37));
        memcpy(bytes + 1 + 2 * i, &bits, 2);
    }
    struct eng_ref_weight weight = {ENG_FORMAT_BF16, false, 0, ROWS, COLS, bytes + 1, NULL};
    struct eng_ref_input input = {values, NULL, COLS, 0};
    eng_ref_widen(x, TOKENS * COLS, values);
    eng_ref_linear(&weight, &input, TOKENS, y);
    check(&weight, &input, 32);

    uint16_t rounded[TOKENS * ROWS];
    eng_ref_linear_bf16(&weight, &input, TOKENS, rounded);
    for (uint32_t i = 0; i < TOKENS * ROWS; i++)
        ck_assert_uint_eq(rounded[i], fm_bf16(y[i]));
}
END_TEST

START_TEST(f32_scales_give_what_equal_ue8m0_scales_give)
{
    static float wide[ROWS * COLS];
    static float want[TOKENS * ROWS];
    for (uint32_t i = 0; i < sizeof scales; i++)
        wide[i] = fm_ue8m0_value(scales[i]);
    struct eng_ref_weight fp8 = {ENG_FORMAT_FP8, false, 0, ROWS, COLS, codes, scales};
    struct eng_ref_input input = {values, act, COLS, COLS / 128};
    eng_ref_act_quant(x, TOKENS, COLS, values, act);
    eng_ref_linear(&fp8, &input, TOKENS, want);
    fp8.scale_is_f32 = true;
    fp8.scale = wide;
    eng_ref_linear(&fp8, &input, TOKENS, y);
    ck_assert_mem_eq(y, want, sizeof want);
}
END_TEST

START_TEST(a_token_does_not_know_its_neighbours)
{
    struct eng_ref_weight fp8 = {ENG_FORMAT_FP8, false, 0, ROWS, COLS, codes, scales};
    struct eng_ref_input input = {values, act, COLS, COLS / 128};
    float alone[ROWS];
    eng_ref_act_quant(x, TOKENS, COLS, values, act);
    eng_ref_linear(&fp8, &input, TOKENS, y);
    for (uint32_t t = 0; t < TOKENS; t++) {
        struct eng_ref_input one = {values + t * COLS, act + t * (COLS / 128), COLS, COLS / 128};
        eng_ref_linear(&fp8, &one, 1, alone);
        ck_assert_mem_eq(alone, y + t * ROWS, sizeof alone);
    }
}
END_TEST

START_TEST(norms_have_one_rounding_of_the_real_value)
{
    uint16_t weight[COLS], got[TOKENS * COLS];
    for (uint32_t i = 0; i < COLS; i++)
        weight[i] = fm_bf16(1.0f + (float)(i % 17) * 0.05f);
    eng_ref_rmsnorm(x, weight, TOKENS, COLS, 1e-6f, got);
    for (uint32_t t = 0; t < TOKENS; t++) {
        double squares = 0;
        for (uint32_t i = 0; i < COLS; i++)
            squares += pow((double)fm_bf16_value(x[t * COLS + i]), 2);
        for (uint32_t i = 0; i < COLS; i++) {
            double want = (double)fm_bf16_value(x[t * COLS + i]) /
                          sqrt(squares / COLS + (double)1e-6f) * (double)fm_bf16_value(weight[i]);
            /* half of bf16's last place, and a few fp32 roundings that may cross a tie */
            ck_assert(fabs((double)fm_bf16_value(got[t * COLS + i]) - want) <=
                      fabs(want) * (0x1p-8 + 0x1p-20));
        }
    }
    uint16_t ones[COLS], plain[TOKENS * COLS];
    for (uint32_t i = 0; i < COLS; i++)
        ones[i] = fm_bf16(1.0f);
    eng_ref_rmsnorm(x, ones, TOKENS, COLS, 1e-6f, got);
    eng_ref_rmsnorm(x, NULL, TOKENS, COLS, 1e-6f, plain);
    ck_assert_mem_eq(plain, got, sizeof got);
}
END_TEST

START_TEST(rotation_touches_the_last_dims_only)
{
    float inverse[32];
    uint16_t turned[2 * 192], back[2 * 192];
    for (uint32_t i = 0; i < 32; i++)
        inverse[i] = powf(10000, -(float)i / 32);
    memcpy(turned, x, sizeof turned);
    eng_ref_rope(turned, 2, 192, 64, 77777, inverse, false);
    memcpy(back, turned, sizeof back);
    eng_ref_rope(back, 2, 192, 64, 77777, inverse, true);
    for (uint32_t v = 0; v < 2; v++) {
        ck_assert_mem_eq(turned + v * 192, x + v * 192, 128 * sizeof x[0]);
        for (uint32_t i = 0; i < 32; i++) {
            const uint16_t *from = x + v * 192 + 128 + 2 * i, *to = turned + v * 192 + 128 + 2 * i;
            double a = (double)fm_bf16_value(from[0]), b = (double)fm_bf16_value(from[1]);
            double theta = (double)(77777.0f * inverse[i]), size = hypot(a, b);
            ck_assert(fabs((double)fm_bf16_value(to[0]) - (a * cos(theta) - b * sin(theta))) <=
                      size * 0x1.1p-8);
            ck_assert(fabs((double)fm_bf16_value(to[1]) - (a * sin(theta) + b * cos(theta))) <=
                      size * 0x1.1p-8);
            ck_assert(fabs((double)fm_bf16_value(back[v * 192 + 128 + 2 * i]) - a) <=
                      size * 0x1p-6);
        }
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/ref/linear");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, fp8_and_fp4_follow_the_chain);
    tcase_add_test(all, a_wide_input_is_not_quantised);
    tcase_add_test(all, bf16_rows_may_lie_at_any_address);
    tcase_add_test(all, f32_scales_give_what_equal_ue8m0_scales_give);
    tcase_add_test(all, a_token_does_not_know_its_neighbours);
    tcase_add_test(all, norms_have_one_rounding_of_the_real_value);
    tcase_add_test(all, rotation_touches_the_last_dims_only);
    suite_add_tcase(suite, all);
    return suite;
}
