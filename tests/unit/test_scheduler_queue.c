/* The order of admission, promised units, limits of what waits, and the time to come back. */
#include <string.h>

#include "scheduler/queue.h"
#include "tests/support/support.h"

static struct sch_request requests[4];

static struct sch_queue queue_make(uint32_t seqs, uint32_t g)
{
    struct sch_queue queue = {.seqs_max = seqs, .units_max = {g, 100, 100}};
    memset(requests, 0, sizeof requests);
    for (uint32_t i = 0; i < 4; i++) {
        requests[i].state = SCH_STATE_QUEUED;
        requests[i].choice_count = 1;
        requests[i].need[BE_POOL_G] = 10;
        sch_queue_push(&queue, &requests[i]);
    }
    return queue;
}

START_TEST(first_come_is_first_served)
{
    struct sch_queue queue = queue_make(10, 100);
    for (uint32_t i = 0; i < 4; i++)
        ck_assert_ptr_eq(sch_queue_admit(&queue), &requests[i]);
    ck_assert_ptr_null(sch_queue_admit(&queue));
    ck_assert_uint_eq(queue.count, 0);
}
END_TEST

START_TEST(one_that_does_not_fit_is_not_overtaken)
{
    struct sch_queue queue = queue_make(10, 30);
    requests[1].need[BE_POOL_G] = 25;
    ck_assert_ptr_eq(sch_queue_admit(&queue), &requests[0]);
    ck_assert_ptr_null(sch_queue_admit(&queue));
    sch_queue_release(&queue, &requests[0]);
    ck_assert_ptr_eq(sch_queue_admit(&queue), &requests[1]);
    ck_assert_ptr_null(sch_queue_admit(&queue));
    sch_queue_release(&queue, &requests[1]);
    ck_assert_ptr_eq(sch_queue_admit(&queue), &requests[2]);
    ck_assert_uint_eq(queue.units_promised[BE_POOL_G], 10);
}
END_TEST

START_TEST(choices_count_as_sequences)
{
    struct sch_queue queue = queue_make(3, 100);
    requests[0].choice_count = 2;
    requests[1].choice_count = 2;
    ck_assert_ptr_eq(sch_queue_admit(&queue), &requests[0]);
    ck_assert_ptr_null(sch_queue_admit(&queue));
    sch_queue_release(&queue, &requests[0]);
    ck_assert_ptr_eq(sch_queue_admit(&queue), &requests[1]);
    ck_assert_ptr_eq(sch_queue_admit(&queue), &requests[2]);
}
END_TEST

START_TEST(one_is_removed_from_any_place)
{
    for (uint32_t gone = 0; gone < 4; gone++) {
        struct sch_queue queue = queue_make(10, 100);
        sch_queue_remove(&queue, &requests[gone]);
        ck_assert_uint_eq(queue.count, 3);
        sch_queue_push(&queue, &requests[gone]);
        for (uint32_t i = 0; i < 4; i++)
            if (i != gone)
                ck_assert_ptr_eq(sch_queue_admit(&queue), &requests[i]);
        ck_assert_ptr_eq(sch_queue_admit(&queue), &requests[gone]);
        ck_assert_ptr_null(queue.first);
        ck_assert_ptr_null(queue.last);
    }
}
END_TEST

START_TEST(forked_choices_need_the_prompt_once)
{
    struct kv_layout layout = {.page_tokens = 128, .window = 128};
    struct sch_spec spec = {.prompt_count = 1280, .tokens_max = 128, .choice_count = 4};
    uint32_t need[BE_POOL_COUNT];
    sch_queue_need(&layout, 512, &spec, need);
    ck_assert_uint_eq(need[BE_POOL_G], 10 + 4);
    ck_assert_uint_eq(need[BE_POOL_T], 4);
    ck_assert_uint_eq(need[BE_POOL_S], 8);
    spec.choice_count = 1;
    sch_queue_need(&layout, 512, &spec, need);
    ck_assert_uint_eq(need[BE_POOL_G], 11);
}
END_TEST

START_TEST(the_gate_counts_requests_and_tokens)
{
    struct sch_gate gate;
    sch_gate_init(&gate, NULL);
    ck_assert(sch_gate_enter(&gate, 500, 3, 100)); /* alone, however long */
    ck_assert(!sch_gate_enter(&gate, 1, 3, 100));
    sch_gate_leave(&gate, 500);
    ck_assert(sch_gate_enter(&gate, 50, 3, 100));
    ck_assert(!sch_gate_enter(&gate, 51, 3, 100));
    ck_assert(sch_gate_enter(&gate, 50, 3, 100));
    ck_assert(sch_gate_enter(&gate, 0, 3, 100));
    ck_assert(!sch_gate_enter(&gate, 0, 3, 100));
}
END_TEST

START_TEST(the_time_to_come_back_follows_the_measured_speed)
{
    struct sch_gate gate;
    sch_gate_init(&gate, NULL);
    ck_assert(sch_gate_enter(&gate, 900, 10, 100000));
    ck_assert_uint_eq(sch_gate_retry_s(&gate), 5); /* nothing was measured */
    atomic_store(&gate.rows_per_s, 100);
    ck_assert_uint_eq(sch_gate_retry_s(&gate), 9);
    atomic_store(&gate.answer_tokens, 101);
    ck_assert_uint_eq(sch_gate_retry_s(&gate), 11);
    atomic_store(&gate.rows_per_s, 1);
    ck_assert_uint_eq(sch_gate_retry_s(&gate), 60);
    sch_gate_leave(&gate, 900);
    ck_assert_uint_eq(sch_gate_retry_s(&gate), 1);
}
END_TEST

START_TEST(many_rings_are_one_message)
{
    struct sch_gate gate;
    struct fm_mailbox *inbox = NULL;
    ck_assert_int_eq(fm_mailbox_new(false, &inbox, NULL), FM_OK);
    sch_gate_init(&gate, inbox);
    sch_gate_ring(&gate);
    sch_gate_ring(&gate);
    ck_assert_ptr_eq(fm_mailbox_poll(inbox), &gate.message.link);
    ck_assert_ptr_null(fm_mailbox_poll(inbox));
    sch_gate_clear(&gate);
    sch_gate_ring(&gate);
    ck_assert_ptr_eq(fm_mailbox_poll(inbox), &gate.message.link);
    fm_mailbox_free(inbox);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("scheduler/queue");
    TCase *tcase = tcase_create("admission");
    tcase_add_test(tcase, first_come_is_first_served);
    tcase_add_test(tcase, one_that_does_not_fit_is_not_overtaken);
    tcase_add_test(tcase, choices_count_as_sequences);
    tcase_add_test(tcase, one_is_removed_from_any_place);
    tcase_add_test(tcase, forked_choices_need_the_prompt_once);
    tcase_add_test(tcase, the_gate_counts_requests_and_tokens);
    tcase_add_test(tcase, the_time_to_come_back_follows_the_measured_speed);
    tcase_add_test(tcase, many_rings_are_one_message);
    suite_add_tcase(suite, tcase);
    return suite;
}
