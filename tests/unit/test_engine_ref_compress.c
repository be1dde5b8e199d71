/* test_engine_ref_compress.c - entries against the pooling in double. */
#include <math.h>

#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/ref/compress.h"
#include "tests/support/support.h"

enum { ROPE = 64 };

static float inverse[ROPE / 2];
static uint64_t mode, seed;

static void setup(void)
{
    seed = test_seed();
    for (uint32_t i = 0; i < ROPE / 2; i++)
        inverse[i] = powf(10000, -(float)i * 2 / ROPE);
    mode = fm_numeric_enter();
}

static void teardown(void)
{
    fm_numeric_leave(mode);
}

/* Entry 1 of an overlapping compressor, in double from the raw rows. */
START_TEST(an_entry_pools_both_halves_per_channel)
{
    enum { R = 4, W = 128 };
    static float k[2 * R * 2 * W], g[2 * R * 2 * W], scratch[W];
    uint16_t norm[W], entry[W];
    double e[W], squares = 0;
    for (uint32_t i = 0; i < 2 * R * 2 * W; i++) {
        k[i] = (float)fm_prng_unit(seed, 5, i) * 2 - 1;
        g[i] = (float)fm_prng_unit(seed, 6, i) * 6 - 3;
    }
    for (uint32_t i = 0; i < W; i++)
        norm[i] = fm_bf16(1.0f);
    for (uint32_t c = 0; c < W; c++) {
        double l = 0, a = 0;
        for (uint32_t s = 0; s < 2 * R; s++) { /* older rows: first half of the columns */
            uint32_t at = s * 2 * W + (s < R ? c : W + c);
            l += exp((double)g[at]);
            a += exp((double)g[at]) * (double)k[at];
        }
        e[c] = (double)fm_bf16_round((float)(a / l));
        squares += e[c] * e[c];
    }
    struct eng_ref_compress compress = {.ratio = R,
                                        .width = W,
                                        .rope_dim = ROPE,
                                        .is_overlap = true,
                                        .norm_eps = 1e-6f,
                                        .inverse = inverse,
                                        .norm = norm};
    eng_ref_compress_entry(&compress, k, g, 1, scratch, entry);
    double rs = 1 / sqrt(squares / W + 1e-6);
    for (uint32_t c = 0; c < W - ROPE; c++) /* fp8: half a step of 2^-3, plus bf16 */
        ck_assert(fabs((double)fm_bf16_value(entry[c]) - e[c] * rs) <=
                  fabs(e[c] * rs) * (0x1p-4 + 0x1p-6) + 0.02);
    for (uint32_t i = 0; i < ROPE / 2; i++) {
        double theta = (double)(4.0f * inverse[i]); /* the FIRST token of group 1 */
        double a = e[W - ROPE + 2 * i] * rs, b = e[W - ROPE + 2 * i + 1] * rs;
        ck_assert(fabs((double)fm_bf16_value(entry[W - ROPE + 2 * i]) -
                       (a * cos(theta) - b * sin(theta))) <= hypot(a, b) * 0x1p-6 + 1e-6);
    }
}
END_TEST

START_TEST(the_first_entry_ignores_what_is_not_there)
{
    enum { R = 4, W = 128 };
    static float k[2 * R * 2 * W], g[2 * R * 2 * W], scratch[W];
    uint16_t norm[W], entry[W], alone[W];
    for (uint32_t i = 0; i < 2 * R * 2 * W; i++) {
        bool is_absent = i < R * 2 * W;
        k[i] = is_absent ? 0 : (float)fm_prng_unit(seed, 7, i);
        g[i] = is_absent ? -INFINITY : (float)fm_prng_unit(seed, 8, i);
    }
    for (uint32_t i = 0; i < W; i++)
        norm[i] = fm_bf16(1.0f);
    struct eng_ref_compress compress = {.ratio = R,
                                        .width = W,
                                        .rope_dim = ROPE,
                                        .is_overlap = true,
                                        .is_index = true,
                                        .norm_eps = 1e-6f,
                                        .inverse = inverse,
                                        .norm = norm};
    eng_ref_compress_entry(&compress, k, g, 0, scratch, entry);
    /* the same four rows without overlap, from their second halves */
    for (uint32_t s = 0; s < R; s++)
        for (uint32_t c = 0; c < W; c++) {
            k[s * W + c] = k[(R + s) * 2 * W + W + c];
            g[s * W + c] = g[(R + s) * 2 * W + W + c];
        }
    compress.is_overlap = false;
    eng_ref_compress_entry(&compress, k, g, 0, scratch, alone);
    ck_assert_mem_eq(entry, alone, sizeof entry);
    ck_assert_uint_eq(eng_ref_compress_visible(2, 4), 0);
    ck_assert_uint_eq(eng_ref_compress_visible(3, 4), 1);
    ck_assert_uint_eq(eng_ref_compress_visible(127, 128), 1);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/ref/compress");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, an_entry_pools_both_halves_per_channel);
    tcase_add_test(all, the_first_entry_ignores_what_is_not_there);
    suite_add_tcase(suite, all);
    return suite;
}
