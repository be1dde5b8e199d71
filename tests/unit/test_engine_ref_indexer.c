/* test_engine_ref_indexer.c - selection against a sort, scores against double. */
#include <math.h>
#include <stdlib.h>

#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/ref/indexer.h"
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

static void fill(uint16_t *to, uint32_t count, uint64_t stream, float size)
{
    for (uint32_t i = 0; i < count; i++)
        to[i] = fm_bf16(((float)fm_prng_unit(seed, stream, i) * 2 - 1) * size);
}

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

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/ref/indexer");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, selection_equals_a_sort_with_ties_by_index);
    tcase_add_test(all, index_scores_are_weighted_relus);
    suite_add_tcase(suite, all);
    return suite;
}
