/* test_engine_ref_hyper.c - hyper-connections against published numbers and in double. */
#include <math.h>
#include <string.h>

#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/ref/hyper.h"
#include "tests/support/support.h"

/* model.md's example, computed there in double: figures of 7 digits. */
START_TEST(the_split_gives_the_published_example)
{
    static const float want_pre[4] = {0.4280049f, 0.6106402f, 0.4925016f, 0.4850055f};
    static const float want_post[4] = {1.2307675f, 1.0996680f, 0.7457045f, 1.0947152f};
    static const float want_comb[16] = {0.2788856f, 0.1802559f, 0.3606017f, 0.1802558f,
                                        0.3606017f, 0.2330724f, 0.1732525f, 0.2330724f,
                                        0.2314630f, 0.2346261f, 0.2992838f, 0.2346261f,
                                        0.1290487f, 0.3520446f, 0.1668610f, 0.3520447f};
    float mixes[24], base[24], scale[3] = {0.7f, 1.3f, 0.9f}, pre[4], post[4], comb[16];
    for (int i = 0; i < 24; i++) {
        mixes[i] = 0.1f * (float)((7 * i + 3) % 11 - 5);
        base[i] = 0.05f * (float)((5 * i + 1) % 9 - 4);
    }
    struct eng_ref_hyper hyper = {
        .base = base, .scale = scale, .streams = 4, .sinkhorn_iters = 20, .hc_eps = 1e-6f};
    uint64_t mode = fm_numeric_enter();
    eng_ref_hc_split(&hyper, mixes, pre, post, comb);
    fm_numeric_leave(mode);

    for (int j = 0; j < 4; j++) {
        ck_assert_float_eq_tol(pre[j], want_pre[j], 3e-7f);
        ck_assert_float_eq_tol(post[j], want_post[j], 3e-7f);
        float row = 0, column = 0;
        for (int k = 0; k < 4; k++) {
            ck_assert_float_eq_tol(comb[4 * j + k], want_comb[4 * j + k], 3e-7f);
            row += comb[4 * j + k];
            column += comb[4 * k + j];
        }
        ck_assert_float_eq_tol(row, 0.9999990f, 3e-7f);
        ck_assert_float_eq_tol(column, 0.9999990f, 3e-7f);
    }
}
END_TEST

enum { N = 4, D = 128, ROWS = 24 };

START_TEST(mixes_are_the_normed_product)
{
    static float fn[ROWS * N * D], base[ROWS], scale[3];
    uint16_t x[N * D];
    float mixes[ROWS];
    uint64_t seed = test_seed();
    for (uint32_t i = 0; i < ROWS * N * D; i++)
        fn[i] = (float)fm_prng_unit(seed, 1, i) - 0.5f;
    for (uint32_t i = 0; i < N * D; i++)
        x[i] = fm_bf16((float)fm_prng_unit(seed, 2, i) * 4 - 2);
    struct eng_ref_hyper hyper = {fn, base, scale, N, D, 20, 1e-6f, 1e-6f};
    eng_ref_hyper_mixes(&hyper, ROWS, x, mixes);

    double squares = 0;
    for (uint32_t i = 0; i < N * D; i++)
        squares += pow((double)fm_bf16_value(x[i]), 2);
    double rs = 1 / sqrt(squares / (N * D) + 1e-6);
    for (uint32_t o = 0; o < ROWS; o++) {
        double d = 0, size = 0;
        for (uint32_t i = 0; i < N * D; i++) {
            double term = (double)fn[o * N * D + i] * (double)fm_bf16_value(x[i]);
            d += term;
            size += fabs(term);
        }
        /* 2 fmas per partial, 4 levels of the tree, 15 chunks: 21 roundings of at most 2^-24 */
        ck_assert(fabs((double)mixes[o] - d * rs) <= size * rs * 24 * 0x1p-24);
    }
}
END_TEST

/* A comb that is not symmetric: stream 1 of the result is stream 0 of X when C[0][1] = 1. */
START_TEST(expand_sums_over_the_first_index)
{
    uint16_t x[N * D], f[D], y[N * D];
    float post[N] = {0, 0.5f, 0, 2}, comb[N * N] = {0};
    for (uint32_t i = 0; i < N * D; i++)
        x[i] = fm_bf16((float)(i + 1));
    for (uint32_t c = 0; c < D; c++)
        f[c] = fm_bf16(8);
    comb[0 * N + 1] = 1; /* stream 0 into stream 1 */
    comb[2 * N + 3] = 0.5f;
    eng_ref_hc_expand(x, f, post, comb, N, D, y);
    for (uint32_t c = 0; c < D; c++) {
        ck_assert_uint_eq(y[c], 0);
        ck_assert_uint_eq(y[D + c], fm_bf16(4 + fm_bf16_value(x[c])));
        ck_assert_uint_eq(y[2 * D + c], 0);
        ck_assert_uint_eq(y[3 * D + c], fm_bf16(16 + 0.5f * fm_bf16_value(x[2 * D + c])));
    }
}
END_TEST

START_TEST(collapse_head_tap_and_embed_combine_streams)
{
    static float fn[ROWS * N * D]; /* zero: the mixes are 0 and only base counts */
    float base[ROWS] = {0}, scale[3] = {1, 1, 1}, post[N], comb[N * N];
    uint16_t x[N * D], y[D], table[3 * D];
    base[0] = 100;                      /* sigmoid 1 */
    base[1] = base[2] = base[3] = -100; /* sigmoid 0 */
    for (uint32_t i = 0; i < N * D; i++)
        x[i] = fm_bf16((float)(i % 64));
    struct eng_ref_hyper hyper = {fn, base, scale, N, D, 20, 0, 1e-6f};
    eng_ref_hc_collapse(&hyper, x, y, post, comb);
    ck_assert_mem_eq(y, x, sizeof y);
    for (uint32_t j = 0; j < N; j++)
        ck_assert(post[j] == 1 && comb[j * N] == 0.25f);
    eng_ref_hc_head(&hyper, x, y);
    ck_assert_mem_eq(y, x, sizeof y);

    eng_ref_tap(x, N, D, y);
    for (uint32_t c = 0; c < D; c++)
        ck_assert_uint_eq(y[c], x[c]); /* the four streams are equal */

    for (uint32_t i = 0; i < 3 * D; i++)
        table[i] = (uint16_t)(i * 77);
    eng_ref_embed(table, 2, N, D, x);
    for (uint32_t s = 0; s < N; s++)
        ck_assert_mem_eq(x + s * D, table + 2 * D, sizeof y);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/ref/hyper");
    TCase *all = tcase_create("all");
    tcase_add_test(all, the_split_gives_the_published_example);
    tcase_add_test(all, mixes_are_the_normed_product);
    tcase_add_test(all, expand_sums_over_the_first_index);
    tcase_add_test(all, collapse_head_tap_and_embed_combine_streams);
    suite_add_tcase(suite, all);
    return suite;
}
