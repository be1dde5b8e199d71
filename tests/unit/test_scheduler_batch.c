/* How a prompt is cut into chunks. */
#include "scheduler/batch.h"
#include "tests/support/support.h"

START_TEST(the_last_chunk_takes_all_that_is_left)
{
    ck_assert_uint_eq(sch_batch_chunk(0, 1, 512, 128), 1);
    ck_assert_uint_eq(sch_batch_chunk(0, 512, 512, 128), 512);
    ck_assert_uint_eq(sch_batch_chunk(500, 513, 512, 128), 13);
}
END_TEST

START_TEST(a_chunk_ends_on_a_page_border_where_one_is_in_reach)
{
    ck_assert_uint_eq(sch_batch_chunk(0, 2000, 500, 128), 384);
    ck_assert_uint_eq(sch_batch_chunk(100, 2000, 500, 128), 412);
    ck_assert_uint_eq(sch_batch_chunk(384, 2000, 128, 128), 128);
}
END_TEST

START_TEST(a_small_budget_still_goes_on)
{
    ck_assert_uint_eq(sch_batch_chunk(0, 2000, 1, 128), 1);
    ck_assert_uint_eq(sch_batch_chunk(5, 2000, 100, 128), 100);
    ck_assert_uint_eq(sch_batch_chunk(120, 2000, 100, 128), 8);
}
END_TEST

START_TEST(chunks_cover_a_prompt_without_gap_in_few_steps)
{
    for (uint32_t budget = 1; budget < 600; budget += 13) {
        for (uint32_t target = 1; target < 1500; target += 71) {
            uint32_t length = 0, steps = 0;
            while (length < target) {
                uint32_t count = sch_batch_chunk(length, target, budget, 128);
                ck_assert_uint_ge(count, 1);
                ck_assert_uint_le(count, budget);
                length += count;
                steps++;
            }
            ck_assert_uint_eq(length, target);
            ck_assert_uint_le(steps, 2 * (target / budget + 1) + target / 128);
        }
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("scheduler/batch");
    TCase *tcase = tcase_create("chunks");
    tcase_add_test(tcase, the_last_chunk_takes_all_that_is_left);
    tcase_add_test(tcase, a_chunk_ends_on_a_page_border_where_one_is_in_reach);
    tcase_add_test(tcase, a_small_budget_still_goes_on);
    tcase_add_test(tcase, chunks_cover_a_prompt_without_gap_in_few_steps);
    suite_add_tcase(suite, tcase);
    return suite;
}
