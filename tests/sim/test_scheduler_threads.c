/* The scheduler with its own threads on the simulated device, and the main thread as its only
 * client: what the thread sanitizer looks at. */
#include <poll.h>

#include "backends/base/clock.h"
#include "backends/base/fault.h"
#include "backends/base/log.h"
#include "backends/base/prng.h"
#include "backends/base/thread.h"
#include "tests/support/sim.h"
#include "tests/support/support.h"

enum { CLIENTS = 20, SEQS = 6, TOKENS_PLAIN = 30 };

struct visitor {
    struct test_sim_spec spec;
    struct test_sim_client client;
    struct sch_handle handle;
    struct sch_stream *stream;
    bool is_slow;
};

static struct test_sim_world world;
static struct fm_mailbox *ready;
static struct sch_scheduler *scheduler;
static struct visitor visitors[CLIENTS];
static uint64_t seed, counter, answered;

static uint32_t draw(uint32_t below)
{
    return (uint32_t)(fm_prng_u64(seed, 98, counter++) % below);
}

static void start(const char *variant)
{
    struct test_sim_options sim = {
        .seqs_max = SEQS, .step_rows_max = 256, .logit_rows_max = 64, .variant = variant};
    fm_log_set_level(FM_LOG_ERROR);
    seed = test_seed();
    test_sim_open(&world, &sim);
    ck_assert_int_eq(fm_mailbox_new(true, &ready, NULL), FM_OK);
    struct sch_options options = {
        .queue_max = 8,
        .queue_tokens_max = 1 << 20,
        .running_max = SEQS,
        .step_tokens_max = 200,
        .chunk_tokens_max = 150,
        .stream_bytes = 1 << 14,
        .reader_timeout_ms = 60000,
        .choices_max = TEST_SIM_CHOICES_MAX,
        .ready = ready,
    };
    struct fm_err err = {0};
    ck_assert_msg(sch_start(world.engine, world.text, &options, &scheduler, &err) == FM_OK, "%s",
                  err.text);
}

static void close_all(void)
{
    struct fm_link *link;
    while ((link = fm_mailbox_poll(ready)) != NULL)
        ck_assert_ptr_null(sch_stream_of(link));
    fm_mailbox_free(ready);
    test_sim_close(&world);
}

static bool enter(struct visitor *visitor)
{
    uint32_t retry_s;
    enum fm_status status = sch_submit(scheduler, &visitor->spec.spec, &visitor->handle,
                                       &visitor->stream, &retry_s, NULL);
    if (status != FM_OK) {
        ck_assert_int_eq(status, FM_AGAIN);
        visitor->stream = NULL;
        return false;
    }
    sch_stream_set_owner(visitor->stream, visitor);
    test_sim_client_init(&visitor->client);
    return true;
}

static void leave(struct visitor *visitor)
{
    test_sim_client_verify(&world, &visitor->spec, &visitor->client);
    answered += visitor->client.is_done;
    test_sim_client_done(&visitor->client);
    sch_stream_close(visitor->stream);
    visitor->stream = NULL;
}

/* As the daemon does: wait for the eventfd, read those that have news. */
static void serve(int timeout_ms)
{
    struct pollfd fd = {.fd = fm_mailbox_fd(ready), .events = POLLIN};
    (void)poll(&fd, 1, timeout_ms);
    struct fm_link *link;
    while ((link = fm_mailbox_poll(ready)) != NULL) {
        struct sch_stream *stream = sch_stream_of(link);
        if (stream == NULL)
            continue;
        struct visitor *visitor = sch_stream_owner(stream);
        if (!visitor->is_slow)
            (void)test_sim_client_read(&visitor->client, stream, UINT32_MAX);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct visitor *visitor = &visitors[i];
        if (visitor->stream != NULL && visitor->is_slow && draw(4) == 0)
            (void)test_sim_client_read(&visitor->client, visitor->stream, 1 + draw(40));
        if (visitor->stream != NULL && visitor->client.is_done)
            leave(visitor);
    }
}

static void serve_all(void)
{
    uint64_t deadline_ns = fm_clock_ns() + 200 * FM_NS_PER_S;
    bool is_busy = true;
    while (is_busy) {
        ck_assert_msg(fm_clock_ns() < deadline_ns, "requests that never end");
        serve(5);
        is_busy = false;
        for (uint32_t i = 0; i < CLIENTS; i++)
            is_busy |= visitors[i].stream != NULL;
    }
}

static void random_requests(uint64_t count)
{
    for (uint64_t number = 0; number < count;) {
        struct visitor *visitor = &visitors[draw(CLIENTS)];
        if (visitor->stream == NULL) {
            test_sim_spec_random(&world, seed, number, &visitor->spec);
            visitor->is_slow = draw(6) == 0;
            number += enter(visitor);
        } else if (draw(40) == 0) {
            sch_cancel(scheduler, visitor->handle);
        } else if (draw(60) == 0) {
            test_sim_client_done(&visitor->client);
            sch_stream_close(visitor->stream);
            visitor->stream = NULL;
        }
        serve(draw(3) == 0 ? 1 : 0);
    }
}

START_TEST(answers_are_right_under_cancels_and_slow_readers)
{
    start(NULL);
    random_requests(150);
    serve_all();
    ck_assert_uint_gt(answered, 60);
    struct sch_stats stats;
    for (uint32_t i = 0; i < 5000 && !sch_is_idle(scheduler); i++)
        serve(1);
    ck_assert(sch_is_idle(scheduler));
    sch_stats(scheduler, &stats);
    ck_assert_uint_gt(stats.steps, 0);
    sch_stop(scheduler);
    close_all();
}
END_TEST

/* Stop with everything in flight: all streams stay readable and end. */
START_TEST(a_stop_ends_every_stream)
{
    start("us_per_row=50");
    for (uint32_t i = 0; i < CLIENTS; i++) {
        test_sim_spec_init(&world, &visitors[i].spec, 100, 200);
        visitors[i].spec.spec.ignore_eos = true;
        (void)enter(&visitors[i]);
        serve(1);
    }
    sch_stop(scheduler);
    uint32_t canceled = 0;
    for (uint32_t i = 0; i < CLIENTS; i++) {
        if (visitors[i].stream == NULL)
            continue;
        (void)test_sim_client_read(&visitors[i].client, visitors[i].stream, UINT32_MAX);
        ck_assert(visitors[i].client.is_done);
        canceled += visitors[i].client.answers[0].end.end == SCH_END_CANCELED;
        leave(&visitors[i]);
    }
    ck_assert_uint_gt(canceled, 0);
    close_all();
}
END_TEST

/* From the mark to free pages, with steps of milliseconds in between. */
START_TEST(a_cancel_is_quick_beside_a_long_prefill)
{
    start("us_per_row=20");
    struct visitor *visitor = &visitors[0];
    test_sim_spec_init(&world, &visitor->spec, 1500, 10);
    ck_assert(enter(visitor));
    serve(3);
    uint64_t since_ns = fm_clock_ns();
    sch_cancel(scheduler, visitor->handle);
    while (!sch_is_idle(scheduler) && fm_clock_ns() < since_ns + 5 * FM_NS_PER_S)
        serve(1);
    ck_assert(sch_is_idle(scheduler));
    serve_all();
    struct sch_stats stats;
    sch_stats(scheduler, &stats);
    ck_assert_uint_eq(stats.cancel_latency.count, 1);
    ck_assert_uint_eq(stats.requests_by_end[SCH_END_CANCELED], 1);
    ck_assert_uint_lt(stats.prefill_tokens, 1500);
    ck_assert_uint_eq(stats.units_free[BE_POOL_G], stats.units_total[BE_POOL_G]);
    sch_stop(scheduler);
    close_all();
}
END_TEST

START_TEST(both_threads_have_a_heartbeat)
{
    start(NULL);
    const char *name = NULL;
    for (uint32_t i = 0; i < 3; i++) {
        test_sim_spec_init(&world, &visitors[0].spec, 10, TOKENS_PLAIN);
        ck_assert(enter(&visitors[0]));
        serve_all();
        ck_assert_msg(fm_threads_moved(&name), "%s stands still", name);
    }
    sch_stop(scheduler);
    close_all();
}
END_TEST

START_TEST(start_survives_every_alloc_failure)
{
    start(NULL);
    sch_stop(scheduler);
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct sch_options options = {.queue_max = 2,
                                      .queue_tokens_max = 1000,
                                      .running_max = 2,
                                      .step_tokens_max = 64,
                                      .chunk_tokens_max = 64,
                                      .stream_bytes = 1 << 14,
                                      .choices_max = 1,
                                      .ready = ready};
        struct sch_scheduler *other = NULL;
        fm_fault_arm("alloc", nth);
        enum fm_status status = sch_start(world.engine, world.text, &options, &other, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert((other != NULL) == (status == FM_OK));
        sch_stop(other);
    }
    close_all();
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("sim/scheduler_threads");
    TCase *tcase = tcase_create("threads");
    tcase_set_timeout(tcase, 240);
    tcase_add_test(tcase, answers_are_right_under_cancels_and_slow_readers);
    tcase_add_test(tcase, a_stop_ends_every_stream);
    tcase_add_test(tcase, a_cancel_is_quick_beside_a_long_prefill);
    tcase_add_test(tcase, both_threads_have_a_heartbeat);
    tcase_add_test(tcase, start_survives_every_alloc_failure);
    suite_add_tcase(suite, tcase);
    return suite;
}
