/* Histograms, and a board that is read while it is written. */
#include <math.h>

#include "backends/base/clock.h"
#include "backends/base/thread.h"
#include "scheduler/stats.h"
#include "tests/support/support.h"

START_TEST(buckets_ascend_and_the_last_takes_the_rest)
{
    for (uint32_t i = 1; i < SCH_HISTOGRAM_BUCKETS; i++)
        ck_assert(sch_bucket_s(i - 1) < sch_bucket_s(i));
    ck_assert(isinf(sch_bucket_s(SCH_HISTOGRAM_BUCKETS - 1)));
}
END_TEST

START_TEST(a_value_counts_in_the_first_bucket_that_holds_it)
{
    struct sch_histogram histogram = {0};
    sch_histogram_add(&histogram, 0);
    sch_histogram_add(&histogram, FM_NS_PER_MS);
    sch_histogram_add(&histogram, FM_NS_PER_MS + 1);
    sch_histogram_add(&histogram, 3600 * FM_NS_PER_S);
    ck_assert_uint_eq(histogram.buckets[0], 2);
    ck_assert_uint_eq(histogram.buckets[1], 1);
    ck_assert_uint_eq(histogram.buckets[SCH_HISTOGRAM_BUCKETS - 1], 1);
    ck_assert_uint_eq(histogram.count, 4);
    ck_assert(fabs(histogram.sum_s - 3600.002) < 1e-6);
}
END_TEST

static struct sch_board board;
static atomic_bool is_over;

static void *writer(void *arg)
{
    (void)arg;
    struct sch_stats stats = {0};
    for (uint64_t i = 1; i <= 20000; i++) {
        stats.steps = stats.prefill_tokens = stats.decode_tokens = i;
        stats.cancel_latency.count = i;
        sch_board_publish(&board, &stats);
    }
    atomic_store(&is_over, true);
    return NULL;
}

START_TEST(a_copy_is_never_half_old)
{
    struct fm_thread *thread = NULL;
    struct sch_stats stats;
    uint64_t last = 0;
    sch_board_init(&board);
    ck_assert_int_eq(fm_thread_start("writer", FM_THREAD_SCHEDULER, writer, NULL, &thread, NULL),
                     FM_OK);
    while (!atomic_load(&is_over)) {
        sch_board_read(&board, &stats);
        ck_assert_uint_eq(stats.steps, stats.prefill_tokens);
        ck_assert_uint_eq(stats.steps, stats.decode_tokens);
        ck_assert_uint_eq(stats.steps, stats.cancel_latency.count);
        ck_assert_uint_ge(stats.steps, last);
        last = stats.steps;
    }
    fm_thread_join(thread);
    sch_board_read(&board, &stats);
    ck_assert_uint_eq(stats.steps, 20000);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("scheduler/stats");
    TCase *tcase = tcase_create("figures");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, buckets_ascend_and_the_last_takes_the_rest);
    tcase_add_test(tcase, a_value_counts_in_the_first_bucket_that_holds_it);
    tcase_add_test(tcase, a_copy_is_never_half_old);
    suite_add_tcase(suite, tcase);
    return suite;
}
