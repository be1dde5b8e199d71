/* The simulated device sees what it is there to see: each kind of wrong page fails the step. */
#include <string.h>

#include "backends/base/clock.h"
#include "backends/base/fault.h"
#include "backends/base/prng.h"
#include "backends/sim/sim.h"
#include "tests/support/sim.h"
#include "tests/support/support.h"

enum { P = 128 };

static struct test_sim_world world;

static void setup(void)
{
    struct test_sim_options options = {.seqs_max = 4, .step_rows_max = 512, .logit_rows_max = 8};
    test_sim_open(&world, &options);
}

static void teardown(void)
{
    test_sim_close(&world);
}

/* One sequence with tables of its own: the test may spoil them. */
struct bench {
    kv_page_id g[8], s[8];
    uint32_t tokens[8 * P];
    uint32_t length, slot;
    struct be_copy copies[2];
    uint32_t copy_count;
    struct fm_err err;
};

static void bench_init(struct bench *bench, uint32_t slot)
{
    *bench = (struct bench){.slot = slot};
    for (uint32_t i = 0; i < 8; i++) {
        bench->g[i] = (slot - 1) * 8 + 1 + i;
        bench->s[i] = (slot - 1) * 4 + 1 + i % 4;
    }
    for (uint32_t i = 0; i < 8 * P; i++)
        bench->tokens[i] = 10 + (i * 31 + slot) % 500;
}

/* Run the next `count` tokens, with log probabilities drawn from the last; FM_OK commits. */
static enum fm_status run(struct bench *bench, uint32_t count, struct eng_drawn *ret_drawn)
{
    uint32_t end = bench->length + count, s_first = be_step_s_page_first(bench->length, P);
    struct eng_sampling sampling = {.top_p = 1, .repetition_penalty = 1};
    struct eng_draw draw = {.sampling = &sampling, .forced = -1};
    struct eng_span span = {
        .view = {.length = bench->length,
                 .reserved = count,
                 .tail_slot = bench->slot,
                 .g_pages = bench->g,
                 .g_count = (end + P - 1) / P,
                 .s_pages = bench->s + s_first,
                 .s_count = (end + P - 1) / P - s_first},
        .tokens = bench->tokens + bench->length,
        .token_count = count,
        .logit_first = count - 1,
        .draws = &draw,
        .draws_per_row = 1,
    };
    struct eng_plan plan = {.copies = bench->copies,
                            .copy_count = bench->copy_count,
                            .tail_resets = &bench->slot,
                            .tail_reset_count = bench->length == 0,
                            .spans = &span,
                            .span_count = 1};
    enum fm_status status = eng_run(world.engine, &plan, ret_drawn, &bench->err);
    if (status == FM_OK)
        bench->length = end;
    return status;
}

START_TEST(logits_are_a_function_of_the_history_alone)
{
    static const uint32_t cuts[][4] = {{300, 0}, {1, 299}, {128, 128, 44}, {127, 2, 170, 1}};
    struct eng_drawn first = {0}, drawn = {0};
    for (uint32_t i = 0; i < 4; i++) {
        struct bench bench;
        bench_init(&bench, 1 + i % 4);
        for (uint32_t t = 0; t < 8 * P; t++)
            bench.tokens[t] = t % 400;
        for (uint32_t c = 0; c < 4 && cuts[i][c] != 0; c++)
            ck_assert_msg(run(&bench, cuts[i][c], &drawn) == FM_OK, "%s", bench.err.text);
        if (i == 0)
            first = drawn;
        ck_assert_uint_eq(bench.length, 300);
        ck_assert_uint_eq(drawn.token, first.token);
    }
}
END_TEST

START_TEST(a_wrong_page_fails_the_step)
{
    static const char *const words[] = {"G page", "G page", "window row", "T slot", "T slot"};
    struct bench bench, other;
    struct eng_drawn drawn;
    bench_init(&bench, 1);
    bench_init(&other, 2);
    ck_assert_int_eq(run(&bench, 300, &drawn), FM_OK);
    ck_assert_int_eq(run(&other, 300, &drawn), FM_OK);
    uint32_t slot = bench.slot;
    switch (_i) {
    case 0: bench.g[1] = other.g[1]; break;
    case 1: bench.g[0] = bench.g[1]; break;
    case 2: bench.s[1] = other.s[1]; break;
    case 3: bench.slot = other.slot; break;
    case 4: /* a copy of the tail that came too late */
        bench.copies[0] = (struct be_copy){BE_POOL_T, 3, slot};
        bench.copy_count = 1;
        break;
    }
    ck_assert_int_eq(run(&bench, 1, &drawn), FM_DEVICE);
    ck_assert_msg(strstr(bench.err.text, words[_i]) != NULL, "%s", bench.err.text);
    ck_assert_int_eq(run(&other, 1, &drawn), FM_DEVICE); /* R4: lost until it is opened anew */
}
END_TEST

START_TEST(a_slot_that_was_not_reset_fails_the_step)
{
    struct bench bench, later;
    struct eng_drawn drawn;
    bench_init(&bench, 1);
    ck_assert_int_eq(run(&bench, 5, &drawn), FM_OK);
    bench_init(&later, 1);
    struct eng_span span = {.view = {.reserved = 1,
                                     .tail_slot = 1,
                                     .g_pages = later.g,
                                     .g_count = 1,
                                     .s_pages = later.s,
                                     .s_count = 1},
                            .tokens = later.tokens,
                            .token_count = 1,
                            .logit_first = 1};
    struct eng_plan plan = {.spans = &span, .span_count = 1};
    ck_assert_int_eq(eng_run(world.engine, &plan, NULL, &later.err), FM_DEVICE);
}
END_TEST

START_TEST(a_failed_step_spoils_its_sequence_alone)
{
    struct bench bench, other;
    struct eng_drawn drawn;
    bench_init(&bench, 1);
    bench_init(&other, 2);
    ck_assert_int_eq(run(&bench, 100, &drawn), FM_OK);
    ck_assert_int_eq(run(&other, 100, &drawn), FM_OK);
    fm_fault_arm("sim_step", 1);
    ck_assert_int_eq(run(&bench, 1, &drawn), FM_IO);
    ck_assert(fm_fault_disarm("sim_step"));
    fm_fault_arm("sim_submit", 1);
    ck_assert_int_eq(run(&other, 1, &drawn), FM_NOMEM);
    ck_assert(fm_fault_disarm("sim_submit"));
    ck_assert_int_eq(run(&other, 1, &drawn), FM_OK);
    ck_assert_int_eq(run(&bench, 1, &drawn), FM_DEVICE); /* undefined state was used */
}
END_TEST

START_TEST(a_charged_row_takes_its_time)
{
    test_sim_close(&world);
    struct test_sim_options options = {
        .seqs_max = 4, .step_rows_max = 512, .logit_rows_max = 8, .variant = "us_per_row=100"};
    test_sim_open(&world, &options);
    struct bench bench;
    struct eng_drawn drawn;
    bench_init(&bench, 1);
    uint64_t since_ns = fm_clock_ns();
    ck_assert_int_eq(run(&bench, 200, &drawn), FM_OK);
    ck_assert_uint_ge(fm_clock_ns() - since_ns, 20 * FM_NS_PER_MS);
}
END_TEST

START_TEST(it_is_never_chosen_unasked)
{
    struct be_device_options options = {0};
    struct be_device *device = NULL;
    ck_assert_int_eq(be_registry_open(NULL, &options, &device, NULL), FM_OK);
    ck_assert_str_ne(device->ops->name, "sim");
    device->ops->close(device);
    options.variant = "fast";
    struct fm_err err = {0};
    ck_assert_int_eq(be_registry_open("sim", &options, &device, &err), FM_INVALID);
    ck_assert_ptr_nonnull(strstr(err.text, "fast"));
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("sim/device");
    TCase *tcase = tcase_create("audit");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, logits_are_a_function_of_the_history_alone);
    tcase_add_loop_test(tcase, a_wrong_page_fails_the_step, 0, 5);
    tcase_add_test(tcase, a_slot_that_was_not_reset_fails_the_step);
    tcase_add_test(tcase, a_failed_step_spoils_its_sequence_alone);
    tcase_add_test(tcase, a_charged_row_takes_its_time);
    tcase_add_test(tcase, it_is_never_chosen_unasked);
    suite_add_tcase(suite, tcase);
    return suite;
}
