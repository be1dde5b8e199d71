/* test_engine_sample.c - the draw: exact where it must be exact, right on average elsewhere. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/engine.h"
#include "tests/support/support.h"

enum { V = 200 };

static float logits[V];
static float scratch[V];
static uint32_t ids[V];

static const struct eng_sampling plain = {
    .temperature = 1, .top_p = 1, .repetition_penalty = 1, .seed = 7};

static void logits_fill(uint64_t seed)
{
    for (uint32_t t = 0; t < V; t++)
        logits[t] = (float)(6 * fm_prng_unit(seed, 0, t) - 3);
}

static uint32_t draw_at(const struct eng_sampling *how, uint32_t choice, uint32_t position)
{
    struct eng_draw draw = {.sampling = how, .choice = choice, .position = position, .forced = -1};
    struct eng_drawn drawn;
    eng_sample(logits, V, &draw, scratch, ids, &drawn);
    return drawn.token;
}

START_TEST(greedy_takes_the_largest_and_on_a_tie_the_lower_id)
{
    struct eng_sampling how = plain;
    memset(logits, 0, sizeof logits);
    logits[17] = logits[90] = 2;
    how.temperature = 0;
    ck_assert_uint_eq(draw_at(&how, 0, 0), 17);
    how.temperature = 1;
    how.top_p = 0;
    ck_assert_uint_eq(draw_at(&how, 0, 0), 17);
    how.top_p = 1;
    how.top_k = 1;
    ck_assert_uint_eq(draw_at(&how, 0, 0), 17);
}
END_TEST

/* Frequencies of n draws against the exact probabilities of the kept set: chi-squared. */
static double chi_squared(const struct eng_sampling *how, const double *expected, uint32_t n)
{
    uint32_t seen[V] = {0};
    for (uint32_t i = 0; i < n; i++)
        seen[draw_at(how, 0, i)]++;
    double sum = 0;
    for (uint32_t t = 0; t < V; t++) {
        if (expected[t] == 0) {
            ck_assert_msg(seen[t] == 0, "token %u lies outside the kept set", t);
            continue;
        }
        double e = expected[t] * n;
        sum += (seen[t] - e) * (seen[t] - e) / e;
    }
    return sum;
}

static int by_probability(const void *a, const void *b)
{
    float x = logits[*(const uint32_t *)a], y = logits[*(const uint32_t *)b];
    if (x != y)
        return x > y ? -1 : 1;
    return *(const uint32_t *)a < *(const uint32_t *)b ? -1 : 1;
}

/* The distribution by definition, in double and with a full sort. */
static uint32_t distribution(const struct eng_sampling *how, double *ret_p)
{
    uint32_t order[V];
    for (uint32_t t = 0; t < V; t++)
        order[t] = t;
    qsort(order, V, sizeof order[0], by_probability);
    uint32_t kept = how->top_k != 0 ? how->top_k : V;
    double total = 0, sum = 0;
    for (uint32_t i = 0; i < kept; i++)
        total += exp((double)logits[order[i]] / how->temperature);
    uint32_t last = 0;
    for (; last < kept && (last == 0 || sum < how->top_p * total); last++)
        sum += exp((double)logits[order[last]] / how->temperature);
    double largest = exp((double)logits[order[0]] / how->temperature);
    memset(ret_p, 0, V * sizeof *ret_p);
    total = 0;
    uint32_t count = 0;
    for (uint32_t i = 0; i < last; i++) {
        double p = exp((double)logits[order[i]] / how->temperature);
        if (i != 0 && p < how->min_p * largest)
            break;
        ret_p[order[i]] = p;
        total += p;
        count++;
    }
    for (uint32_t t = 0; t < V; t++)
        ret_p[t] /= total;
    return count;
}

START_TEST(draws_follow_the_distribution_that_the_settings_define)
{
    static const struct {
        float temperature, top_p, min_p;
        uint32_t top_k;
    } cases[] = {{1, 1, 0, 0}, {0.7f, 1, 0, 0},  {1.5f, 0.9f, 0, 0},    {1, 1, 0.2f, 0},
                 {1, 1, 0, 5}, {1, 0.5f, 0, 20}, {1.2f, 0.8f, 0.1f, 50}};
    logits_fill(3);
    logits[11] = logits[12]; /* a tie inside the set */
    for (uint32_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct eng_sampling how = plain;
        how.temperature = cases[i].temperature;
        how.top_p = cases[i].top_p;
        how.min_p = cases[i].min_p;
        how.top_k = cases[i].top_k;
        double p[V];
        uint32_t kept = distribution(&how, p);
        double x = chi_squared(&how, p, 40000);
        /* k - 1 degrees of freedom; five standard deviations.  The seed is fixed. */
        double bound = (kept - 1) + 5 * sqrt(2.0 * (kept - 1));
        ck_assert_msg(x <= bound, "case %u: chi-squared %g of %u tokens, at most %g", i, x, kept,
                      bound);
    }
}
END_TEST

START_TEST(a_draw_depends_on_seed_choice_and_position_alone)
{
    logits_fill(4);
    struct eng_sampling other = plain;
    other.seed = 8;
    uint32_t same = 0, by_seed = 0, by_choice = 0;
    for (uint32_t i = 0; i < 300; i++) {
        uint32_t first = draw_at(&plain, 0, i);
        memset(scratch, 0x5a, sizeof scratch);
        same += draw_at(&plain, 0, i) == first;
        by_seed += draw_at(&other, 0, i) == first;
        by_choice += draw_at(&plain, 1, i) == first;
    }
    ck_assert_uint_eq(same, 300);
    ck_assert_uint_lt(by_seed, 60);
    ck_assert_uint_lt(by_choice, 60);
}
END_TEST

START_TEST(masks_and_bans_hold_at_any_temperature)
{
    uint64_t mask[4] = {UINT64_C(0xff00), 0, 0, 0}, allowed[4] = {UINT64_C(0x3f00), 0, 0, 0};
    uint32_t banned[] = {8, 9};
    struct eng_sampling how = plain;
    struct eng_bias bias = {.token = 100, .bias = 100};
    logits_fill(5);
    how.allowed = allowed;
    how.bias = &bias;
    how.bias_count = 1;
    struct eng_draw draw = {
        .sampling = &how, .mask = mask, .banned = banned, .banned_count = 2, .forced = -1};
    for (uint32_t i = 0; i < 500; i++) {
        struct eng_drawn drawn;
        how.temperature = (float)(i % 5);
        draw.position = i;
        eng_sample(logits, V, &draw, scratch, ids, &drawn);
        ck_assert_uint_ge(drawn.token, 10);
        ck_assert_uint_le(drawn.token, 13);
    }
}
END_TEST

START_TEST(masks_that_leave_nothing_count_for_nothing)
{
    uint64_t mask[4] = {0};
    struct eng_draw draw = {.sampling = &plain, .mask = mask, .forced = -1};
    struct eng_drawn drawn;
    logits_fill(6);
    eng_sample(logits, V, &draw, scratch, ids, &drawn);
    ck_assert_uint_lt(drawn.token, V);
}
END_TEST

START_TEST(penalties_are_those_of_the_definition)
{
    struct eng_sampling how = plain;
    uint32_t prompt[] = {1, 1, 2}, generated[] = {2, 3, 3};
    struct eng_draw draw = {.sampling = &how,
                            .prompt = prompt,
                            .prompt_count = 3,
                            .generated = generated,
                            .generated_count = 3,
                            .forced = -1};
    struct eng_drawn drawn;
    how.temperature = 0;
    how.repetition_penalty = 2;
    how.frequency_penalty = 0.25f;
    how.presence_penalty = 0.5f;
    memset(logits, 0, sizeof logits);
    logits[0] = 1.49f; /* untouched */
    logits[1] = 3;     /* prompt: 3 / 2 = 1.5 */
    logits[2] = 4;     /* 4 / 2 - 0.25 - 0.5 = 1.25 */
    logits[3] = 4.9f;  /* 4.9 / 2 - 0.5 - 0.5 = 1.45 */
    for (uint32_t t = 4; t < V; t++)
        logits[t] = -1;
    eng_sample(logits, V, &draw, scratch, ids, &drawn);
    ck_assert_uint_eq(drawn.token, 1);
    logits[1] = -1; /* times 2 = -2 */
    eng_sample(logits, V, &draw, scratch, ids, &drawn);
    ck_assert_uint_eq(drawn.token, 0);
    logits[0] = 1.44f;
    eng_sample(logits, V, &draw, scratch, ids, &drawn);
    ck_assert_uint_eq(drawn.token, 3);
    logits[3] = 4.8f; /* 1.4 */
    eng_sample(logits, V, &draw, scratch, ids, &drawn);
    ck_assert_uint_eq(drawn.token, 0);
}
END_TEST

START_TEST(log_probabilities_are_of_the_raw_logits_and_sorted)
{
    struct eng_sampling how = plain;
    uint64_t mask[4] = {UINT64_C(1) << 5, 0, 0, 0};
    how.wants_logprob = true;
    how.logprob_count = ENG_LOGPROBS_MAX;
    struct eng_draw draw = {.sampling = &how, .mask = mask, .forced = -1};
    struct eng_drawn drawn;
    logits_fill(9);
    logits[40] = logits[41] = 3;
    double total = 0;
    for (uint32_t t = 0; t < V; t++)
        total += exp((double)logits[t]);
    eng_sample(logits, V, &draw, scratch, ids, &drawn);
    ck_assert_uint_eq(drawn.token, 5);
    ck_assert(fabs(drawn.logprob - (logits[5] - log(total))) < 2e-6);
    ck_assert_uint_eq(drawn.candidate_count, ENG_LOGPROBS_MAX);
    ck_assert_uint_eq(drawn.candidates[0].token, 40);
    ck_assert_uint_eq(drawn.candidates[1].token, 41);
    for (uint32_t i = 1; i < drawn.candidate_count; i++)
        ck_assert(drawn.candidates[i].logprob <= drawn.candidates[i - 1].logprob);

    draw.forced = 77;
    eng_sample(logits, V, &draw, scratch, ids, &drawn);
    ck_assert_uint_eq(drawn.token, 77);
    ck_assert(fabs(drawn.logprob - (logits[77] - log(total))) < 2e-6);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/sample");
    TCase *tcase = tcase_create("sample");
    (void)fm_numeric_enter();
    tcase_add_test(tcase, greedy_takes_the_largest_and_on_a_tie_the_lower_id);
    tcase_add_test(tcase, draws_follow_the_distribution_that_the_settings_define);
    tcase_add_test(tcase, a_draw_depends_on_seed_choice_and_position_alone);
    tcase_add_test(tcase, masks_and_bans_hold_at_any_temperature);
    tcase_add_test(tcase, masks_that_leave_nothing_count_for_nothing);
    tcase_add_test(tcase, penalties_are_those_of_the_definition);
    tcase_add_test(tcase, log_probabilities_are_of_the_raw_logits_and_sorted);
    suite_add_tcase(suite, tcase);
    return suite;
}
