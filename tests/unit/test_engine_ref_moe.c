/* test_engine_ref_moe.c - the router and the sum of experts. */
#include <math.h>

#include "backends/base/numeric.h"
#include "engine/ref/moe.h"
#include "tests/support/support.h"

static uint64_t mode;

static void setup(void)
{
    mode = fm_numeric_enter();
}

static void teardown(void)
{
    fm_numeric_leave(mode);
}

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
    Suite *suite = suite_create("engine/ref/moe");
    TCase *all = tcase_create("all");
    tcase_add_checked_fixture(all, setup, teardown);
    tcase_add_test(all, the_router_takes_the_largest_and_weighs_without_bias);
    tcase_add_test(all, experts_are_clamped_weighed_and_added_by_id);
    suite_add_tcase(suite, all);
    return suite;
}
