/* The scheduler on the cpu backend with the bundled model: eight requests at a time answer, to the
 * last bit of their log probabilities, what each answers alone, whatever the chunks and however
 * many threads compute; and backends/check sees no rule broken. */
#include <poll.h>

#include "backends/base/clock.h"
#include "tests/support/sim.h"
#include "tests/support/support.h"

enum { REQUESTS = 8 };

static struct test_sim_spec specs[REQUESTS];
static struct test_sim_client alone[REQUESTS], together[REQUESTS];

static void specs_init(const struct test_sim_world *world)
{
    static const uint32_t lengths[REQUESTS] = {1, 5, 40, 127, 129, 200, 300, 20};
    for (uint32_t i = 0; i < REQUESTS; i++) {
        test_sim_spec_init(world, &specs[i], lengths[i], 12);
        struct sch_spec *spec = &specs[i].spec;
        for (uint32_t t = 0; t < lengths[i]; t++)
            specs[i].prompt[t] = 200 + (t * (i + 3)) % 1500;
        spec->sampling.wants_logprob = true;
        spec->sampling.logprob_count = 3;
        spec->sampling.temperature = i % 2 == 0 ? 0.0f : 1.0f;
        spec->sampling.seed = i;
        spec->choice_count = i == 4 ? 3 : 1;
        spec->wants_prompt_logprobs = i == 5;
        spec->ignore_eos = true;
    }
}

/* Run requests [first, end) together. */
static void run(const struct test_sim_world *world, uint32_t chunk, uint32_t first, uint32_t end,
                struct test_sim_client *clients)
{
    struct fm_mailbox *ready = NULL;
    struct sch_scheduler *scheduler = NULL;
    struct sch_stream *streams[REQUESTS];
    struct fm_err err = {0};
    ck_assert_int_eq(fm_mailbox_new(true, &ready, NULL), FM_OK);
    struct sch_options options = {.queue_max = REQUESTS,
                                  .queue_tokens_max = 1 << 20,
                                  .running_max = 10,
                                  .step_tokens_max = 256,
                                  .chunk_tokens_max = chunk,
                                  .stream_bytes = 1 << 16,
                                  .choices_max = TEST_SIM_CHOICES_MAX,
                                  .ready = ready};
    ck_assert_msg(sch_start(world->engine, world->text, &options, &scheduler, &err) == FM_OK, "%s",
                  err.text);
    for (uint32_t i = first; i < end; i++) {
        struct sch_handle handle;
        uint32_t retry_s;
        test_sim_client_init(&clients[i]);
        ck_assert_int_eq(
            sch_submit(scheduler, &specs[i].spec, &handle, &streams[i], &retry_s, NULL), FM_OK);
    }
    uint64_t deadline_ns = fm_clock_ns() + 200 * FM_NS_PER_S;
    for (uint32_t left = end - first; left != 0;) {
        struct pollfd fd = {.fd = fm_mailbox_fd(ready), .events = POLLIN};
        struct fm_link *link;
        (void)poll(&fd, 1, 100);
        ck_assert_msg(fm_clock_ns() < deadline_ns, "requests that never end");
        while ((link = fm_mailbox_poll(ready)) != NULL)
            (void)sch_stream_of(link);
        left = 0;
        for (uint32_t i = first; i < end; i++) {
            (void)test_sim_client_read(&clients[i], streams[i], UINT32_MAX);
            left += !clients[i].is_done;
        }
    }
    sch_stop(scheduler);
    for (uint32_t i = first; i < end; i++)
        sch_stream_close(streams[i]);
    struct fm_link *link;
    while ((link = fm_mailbox_poll(ready)) != NULL)
        ck_assert_ptr_null(sch_stream_of(link));
    fm_mailbox_free(ready);
}

static void open_with(struct test_sim_world *world, uint32_t threads, bool is_checked)
{
    struct test_sim_options options = {.seqs_max = 10,
                                       .step_rows_max = 256,
                                       .logit_rows_max = 64,
                                       .contexts = 4,
                                       .backend = "cpu",
                                       .threads = threads,
                                       .is_checked = is_checked};
    test_sim_open(world, &options);
}

START_TEST(eight_together_answer_as_each_alone)
{
    static const uint32_t chunks[] = {256, 128, 50, 7};
    struct test_sim_world world;
    open_with(&world, 1, false);
    specs_init(&world);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        run(&world, 256, i, i + 1, alone);
        ck_assert_uint_eq(alone[i].answers[0].end.end, SCH_END_LENGTH);
        ck_assert_uint_eq(alone[i].answers[0].end.completion_tokens, 12);
    }
    test_sim_close(&world);
    for (uint32_t c = 0; c < 4; c++) {
        open_with(&world, c % 2 + 1, c == 2);
        specs_init(&world);
        run(&world, chunks[c], 0, REQUESTS, together);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            test_sim_client_compare(&together[i], &alone[i]);
            test_sim_client_done(&together[i]);
        }
        test_sim_close(&world);
    }
    for (uint32_t i = 0; i < REQUESTS; i++)
        test_sim_client_done(&alone[i]);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("sim/bundled_model");
    TCase *tcase = tcase_create("alone");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, eight_together_answer_as_each_alone);
    suite_add_tcase(suite, tcase);
    return suite;
}
