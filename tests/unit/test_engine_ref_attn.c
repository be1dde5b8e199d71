/* test_engine_ref_attn.c - attention, compressor, indexer and router against double and against
 * naive selection. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/ref/attn.h"
#include "engine/ref/compress.h"
#include "engine/ref/indexer.h"
#include "engine/ref/moe.h"
#include "tests/support/support.h"

enum { HEADS = 2, DIM = 128, ROPE = 64 };

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

static void fill(uint16_t *to, uint32_t count, uint64_t stream, float size)
{
    for (uint32_t i = 0; i < count; i++)
        to[i] = fm_bf16(((float)fm_prng_unit(seed, stream, i) * 2 - 1) * size);
}

/* One head in double, position 0 (no rotation): o[c], and the sum of |p v| / l as its size. */
static void attend_exactly(const uint16_t *q, const uint16_t *rows, uint32_t row_count, float sink,
                           double *ret_o, double *ret_size)
{
    double *z = fm_alloc_array(row_count, sizeof *z), top = (double)sink, l = 0;
    for (uint32_t i = 0; i < row_count; i++) {
        z[i] = 0;
        for (uint32_t c = 0; c < DIM; c++)
            z[i] += (double)fm_bf16_value(q[c]) * (double)fm_bf16_value(rows[i * DIM + c]);
        z[i] /= sqrt(DIM);
        top = fmax(top, z[i]);
    }
    l = exp((double)sink - top);
    for (uint32_t i = 0; i < row_count; i++)
        l += z[i] = exp(z[i] - top);
    for (uint32_t c = 0; c < DIM; c++) {
        ret_o[c] = ret_size[c] = 0;
        for (uint32_t i = 0; i < row_count; i++) {
            ret_o[c] += z[i] / l * (double)fm_bf16_value(rows[i * DIM + c]);
            ret_size[c] += z[i] / l * fabs((double)fm_bf16_value(rows[i * DIM + c]));
        }
    }
    fm_free(z);
}

/* One row, odd tiles, the edges of tiles and splits, several splits. */
START_TEST(attention_is_a_softmax_with_a_sink)
{
    static const uint32_t counts[] = {1, 2, 63, 64, 65, 511, 512, 513, 1100};
    struct eng_ref_attn attn = {HEADS, DIM, ROPE, 1e-6f, inverse};
    static uint16_t rows[1100 * DIM];
    uint16_t q[HEADS * DIM], o[HEADS * DIM];
    float sink[HEADS] = {0.5f, 4.0f};
    fill(rows, 1100 * DIM, 1, 2.0f);
    fill(q, HEADS * DIM, 2, 3.0f);
    for (size_t n = 0; n < sizeof counts / sizeof counts[0]; n++) {
        eng_ref_attend(&attn, q, rows, counts[n], sink, 0, o);
        for (uint32_t h = 0; h < HEADS; h++) {
            double want[DIM], size[DIM];
            attend_exactly(q + h * DIM, rows, counts[n], sink[h], want, size);
            for (uint32_t c = 0; c < DIM; c++) /* p and o are rounded to bf16, 2^-9 each way */
                ck_assert(fabs((double)fm_bf16_value(o[h * DIM + c]) - want[c]) <=
                          size[c] * 0x1p-8 + fabs(want[c]) * 0x1p-8 + 1e-6);
        }
    }
}
END_TEST

/* Rows of one value v: the weights sum to 1 - sink share, whatever the tiles and splits. */
START_TEST(the_sink_takes_its_share_once)
{
    struct eng_ref_attn attn = {1, DIM, ROPE, 1e-6f, inverse};
    static uint16_t rows[1024 * DIM];
    uint16_t q[DIM] = {0}, o[DIM];
    for (uint32_t i = 0; i < 1024 * DIM; i++)
        rows[i] = fm_bf16(1.0f);
    float sink = logf(1024.0f); /* as heavy as the 1024 rows with logit 0 together */
    eng_ref_attend(&attn, q, rows, 1024, &sink, 0, o);
    for (uint32_t c = 0; c < DIM; c++)
        ck_assert_float_eq_tol(fm_bf16_value(o[c]), 0.5f, 0x1p-9f + 1e-3f);
}
END_TEST

START_TEST(the_output_is_rotated_back)
{
    struct eng_ref_attn attn = {1, DIM, ROPE, 1e-6f, inverse};
    uint16_t row[DIM], turned[DIM], q[DIM] = {0}, o[DIM];
    float sink = -INFINITY;
    fill(row, DIM, 3, 1.0f);
    memcpy(turned, row, sizeof row);
    for (uint32_t i = 0; i < ROPE / 2; i++) {
        float sine, cosine;
        fm_rope_angle(9, inverse[i], &sine, &cosine);
        fm_rope_pair(turned + DIM - ROPE + 2 * i, sine, cosine);
    }
    eng_ref_attend(&attn, q, turned, 1, &sink, 9, o); /* one row: the output is that row */
    for (uint32_t c = 0; c < DIM; c++)
        ck_assert_float_eq_tol(fm_bf16_value(o[c]), fm_bf16_value(row[c]), 0x1p-6f);
}
END_TEST

START_TEST(key_rows_are_normed_turned_and_on_the_grid)
{
    struct eng_ref_attn attn = {HEADS, DIM, ROPE, 1e-6f, inverse};
    uint16_t norm[DIM], kv[DIM], again[DIM];
    for (uint32_t i = 0; i < DIM; i++)
        norm[i] = fm_bf16(1.0f);
    fill(kv, DIM, 4, 5.0f);
    eng_ref_kv_finish(&attn, norm, 3, kv);
    memcpy(again, kv, sizeof kv);
    fm_fp8_sim(again, DIM - ROPE);
    ck_assert_mem_eq(again, kv, sizeof kv);
    double squares = 0;
    for (uint32_t i = 0; i < DIM; i++)
        squares += pow((double)fm_bf16_value(kv[i]), 2);
    ck_assert(fabs(squares / DIM - 1) < 0.05);
}
END_TEST

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

static const uint16_t *sorted_scores;

static int by_score(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    float sx = fm_bf16_value(sorted_scores[x]), sy = fm_bf16_value(sorted_scores[y]);
    return sx != sy ? (sx < sy) - (sx > sy) : (x > y) - (x < y);
}

static int by_index(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Few different scores, both zeros among them: ties at the cut are the rule. */
START_TEST(selection_equals_a_sort_with_ties_by_index)
{
    struct eng_ref_indexer indexer = {.topk = 16};
    for (uint32_t round = 0; round < 500; round++) {
        uint32_t count = 1 + (uint32_t)(fm_prng_u64(seed, round, 0) % 200);
        uint32_t kinds = 1 + (uint32_t)(fm_prng_u64(seed, round, 1) % 12);
        uint16_t scores[200];
        uint32_t order[200], got[16];
        for (uint32_t s = 0; s < count; s++) {
            int32_t value = (int32_t)(fm_prng_u64(seed, round, 2 + s) % (2 * kinds + 1));
            scores[s] = fm_bf16((float)(value - (int32_t)kinds) * 0.5f);
            if (scores[s] == 0 && s % 2 == 0)
                scores[s] = 0x8000; /* -0 */
            order[s] = s;
        }
        uint32_t want_count = count < 16 ? count : 16;
        sorted_scores = scores;
        qsort(order, count, sizeof order[0], by_score);
        qsort(order, want_count, sizeof order[0], by_index);
        ck_assert_uint_eq(eng_ref_index_select(&indexer, scores, count, got), want_count);
        ck_assert_mem_eq(got, order, want_count * sizeof got[0]);
    }
}
END_TEST

START_TEST(index_scores_are_weighted_relus)
{
    enum { HI = 3, DI = 128, KEYS = 40 };
    struct eng_ref_indexer indexer = {HI, DI, ROPE, 8, inverse};
    static uint16_t qi[HI * DI], keys[KEYS * DI], scores[KEYS];
    float iw[HI] = {0.3f, -0.2f, 0.11f}, scratch[DI];
    fill(qi, HI * DI, 9, 3.0f);
    fill(keys, KEYS * DI, 10, 2.0f);
    eng_ref_index_query(&indexer, 5, scratch, qi);
    fm_fp4_sim(keys, KEYS * DI);
    eng_ref_index_scores(&indexer, qi, iw, keys, KEYS, scores);
    for (uint32_t s = 0; s < KEYS; s++) {
        double want = 0, size = 0;
        for (uint32_t h = 0; h < HI; h++) {
            double d = 0;
            for (uint32_t c = 0; c < DI; c++)
                d +=
                    (double)fm_bf16_value(qi[h * DI + c]) * (double)fm_bf16_value(keys[s * DI + c]);
            want += (double)iw[h] * fmax(d, 0);
            size += fabs((double)iw[h] * d);
        }
        ck_assert(fabs((double)fm_bf16_value(scores[s]) - want) <=
                  fabs(want) * 0x1p-8 + size * 0x1p-20);
    }
    float weights[HI] = {1.0f, 1.00390625f, -2};
    eng_ref_index_weights(&indexer, weights, iw);
    ck_assert(iw[0] == (float)(1 / sqrt(HI * DI)));
    ck_assert(iw[1] == iw[0]); /* rounded to bf16 first, the tie to even */
    ck_assert(iw[2] == -2 * iw[0]);
}
END_TEST

START_TEST(the_router_takes_the_largest_and_weighs_without_bias)
{
    float logits[8] = {0, 1, 1, -3, 30, 2, -40, 1}, bias[8] = {0, 0, 0, 9, -9, 0, 0, 0};
    float scratch[8], weights[4];
    uint32_t experts[4];
    struct eng_ref_route route = {8, 4, 1.5f, bias, NULL};
    eng_ref_route(&route, logits, 0, scratch, experts, weights);
    static const uint32_t want[4] = {3, 5, 1, 2}; /* 3 by its bias; 1, 2, 7 tie */
    ck_assert_mem_eq(experts, want, sizeof want);
    double s[4], sum = 0, total = 0;
    for (uint32_t i = 0; i < 4; i++)
        sum += s[i] = sqrt(log1p(exp((double)logits[want[i]])));
    for (uint32_t i = 0; i < 4; i++) {
        ck_assert(fabs((double)weights[i] - s[i] / sum * 1.5) < 1e-6);
        total += (double)weights[i];
    }
    ck_assert(fabs(total - 1.5) < 1e-6);

    int64_t table[3 * 4] = {0, 1, 2, 3, 4, 5, 6, 7, 7, 0, 4, 2};
    struct eng_ref_route hash = {8, 4, 1.5f, NULL, table};
    eng_ref_route(&hash, logits, 2, scratch, experts, weights);
    static const uint32_t want_hash[4] = {7, 0, 4, 2};
    ck_assert_mem_eq(experts, want_hash, sizeof want_hash);
    ck_assert(fabs((double)(weights[2] / weights[0]) - sqrt(30) / sqrt(log1p(exp(1.0)))) < 1e-5);
}
END_TEST

START_TEST(experts_are_clamped_weighed_and_added_by_id)
{
    uint16_t g[3] = {fm_bf16(20), fm_bf16(-20), fm_bf16(1)};
    uint16_t u[3] = {fm_bf16(-20), fm_bf16(3), fm_bf16(20)}, a[3];
    float weight = 0.5f;
    eng_ref_swiglu(g, u, 3, 10.0f, NULL, a);
    ck_assert_float_eq_tol(fm_bf16_value(a[0]), -100.0f, 0.5f); /* both clamped */
    ck_assert_float_eq_tol(fm_bf16_value(a[1]), -20.0f * 2.06e-9f * 3, 1e-9f);
    ck_assert_float_eq_tol(fm_bf16_value(a[2]), 7.310586f, 0.03f);
    eng_ref_swiglu(g, u, 3, 10.0f, &weight, g);
    ck_assert(fm_bf16_value(g[0]) == fm_bf16_value(a[0]) / 2);

    uint32_t experts[3] = {5, 2, 3}, order[3];
    static const uint32_t want_order[3] = {1, 2, 0};
    eng_ref_expert_order(experts, 3, order);
    ck_assert_mem_eq(order, want_order, sizeof order);
    /* 2^24 + 1 - 2^24: only the order 2, 3, 5 loses the 1 */
    uint16_t y[3] = {fm_bf16(-0x1p24f), fm_bf16(0x1p24f), fm_bf16(1)}, ys = fm_bf16(2), f;
    eng_ref_expert_sum(experts, 3, y, &ys, 1, &f);
    ck_assert(fm_bf16_value(f) == 2);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/ref/attn");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, attention_is_a_softmax_with_a_sink);
    tcase_add_test(all, the_sink_takes_its_share_once);
    tcase_add_test(all, the_output_is_rotated_back);
    tcase_add_test(all, key_rows_are_normed_turned_and_on_the_grid);
    tcase_add_test(all, an_entry_pools_both_halves_per_channel);
    tcase_add_test(all, the_first_entry_ignores_what_is_not_there);
    tcase_add_test(all, selection_equals_a_sort_with_ties_by_index);
    tcase_add_test(all, index_scores_are_weighted_relus);
    tcase_add_test(all, the_router_takes_the_largest_and_weighs_without_bias);
    tcase_add_test(all, experts_are_clamped_weighed_and_added_by_id);
    suite_add_tcase(suite, all);
    return suite;
}
