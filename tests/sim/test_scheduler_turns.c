/* The scheduler turned by hand on the simulated device, in virtual time: random arrivals, cancels,
 * slow readers, deadlines and faults, with the invariants looked at in every turn.  A run is a
 * function of its seed. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/fault.h"
#include "backends/base/log.h"
#include "backends/base/prng.h"
#include "scheduler/front.h"
#include "scheduler/worker.h"
#include "tests/support/sim.h"
#include "tests/support/support.h"

enum { CLIENTS = 24, SEQS = 6 };

struct visitor {
    struct test_sim_spec spec;
    struct test_sim_client client;
    struct sch_handle handle;
    struct sch_stream *stream; /* NULL: the place is free */
    uint32_t patience;         /* pieces it reads at a time; 0: never reads again */
    bool may_end_early;        /* canceled, with a deadline, or a victim of a fault */
};

static struct test_sim_world world;
static struct sch_scheduler scheduler;
static struct fm_mailbox *ready;
static struct visitor visitors[CLIENTS];
static uint64_t now_ns, seed, counter;
static struct sch_step *running;
static uint64_t answered, ended[SCH_END_COUNT];

static uint32_t draw(uint32_t below)
{
    return (uint32_t)(fm_prng_u64(seed, 99, counter++) % below);
}

static const struct sch_options usual_options = {
    .queue_max = 12,
    .queue_tokens_max = 1 << 20,
    .running_max = SEQS,
    .step_tokens_max = 200,
    .chunk_tokens_max = 150,
    .stream_bytes = 1 << 14,
    .queue_timeout_ms = 0,
    .reader_timeout_ms = 3000,
    .choices_max = TEST_SIM_CHOICES_MAX,
};

static void open_with(const struct sch_options *options, uint32_t contexts, uint32_t logit_rows)
{
    struct test_sim_options sim = {.seqs_max = SEQS,
                                   .step_rows_max = 1024,
                                   .logit_rows_max = logit_rows,
                                   .contexts = contexts};
    struct sch_options own = *options;
    struct fm_err err = {0};
    fm_log_set_level(FM_LOG_ERROR);
    seed = test_seed(); /* before the clock stands still */
    now_ns = FM_NS_PER_S;
    fm_clock_fake(&now_ns);
    test_sim_open(&world, &sim);
    ck_assert_int_eq(fm_mailbox_new(true, &ready, NULL), FM_OK);
    own.ready = ready;
    ck_assert_msg(sch_front_init(&scheduler, world.info, world.text, &own, &err) == FM_OK, "%s",
                  err.text);
}

static void close_all(void)
{
    while (fm_mailbox_poll(ready) != NULL)
        ck_abort_msg("news of a stream that is over");
    sch_front_done(&scheduler);
    fm_mailbox_free(ready);
    test_sim_close(&world);
    fm_clock_fake(NULL);
}

/* ---- one turn ---- */

/* Rules 1 and 2 of batch.h, and that no one who waits is overtaken. */
static void step_verify(const struct sch_step *step)
{
    const struct sch_loop *loop = scheduler.loop;
    uint32_t rows = 0, logit_rows = 0, decoding = 0;
    for (uint32_t i = 0; i < step->plan.span_count; i++) {
        const struct eng_span *span = &step->plan.spans[i];
        ck_assert_uint_gt(span->token_count, 0);
        rows += span->token_count;
        logit_rows += span->token_count - span->logit_first;
    }
    for (uint32_t i = 0; i < loop->active_count; i++) {
        const struct sch_request *req = loop->active[i];
        for (uint32_t c = 0; c < req->choice_count && req->state == SCH_STATE_RUNNING; c++)
            decoding += req->choices[c].seq != NULL && req->choices[c].generated_count != 0;
    }
    ck_assert_uint_gt(rows, 0);
    ck_assert_uint_le(rows, loop->limits.step_tokens_max);
    ck_assert_uint_le(logit_rows, loop->limits.logit_rows_max);
    ck_assert_uint_le(step->plan.span_count, SEQS);
    ck_assert_uint_eq(step->decode_rows, decoding);
}

static bool has_runnable(void)
{
    for (uint32_t i = 0; i < scheduler.loop->active_count; i++)
        if (scheduler.loop->active[i]->state == SCH_STATE_RUNNING)
            return true;
    return false;
}

static void turn(void)
{
    struct sch_loop *loop = scheduler.loop;
    struct fm_link *link;
    uint64_t wake_ns;
    while ((link = fm_mailbox_poll(loop->inbox)) != NULL)
        sch_loop_receive(loop, link);
    struct sch_step *step = sch_loop_turn(loop, &wake_ns);
    ck_assert(sch_loop_sane(loop));
    ck_assert_uint_gt(wake_ns, now_ns);
    if (step != NULL) {
        ck_assert_ptr_null(running);
        step_verify(step);
        running = step;
    }
    ck_assert(running != NULL || !has_runnable()); /* S05: progress */
    sch_loop_post(loop);
}

static void step_finish(void)
{
    if (running == NULL)
        return;
    sch_step_run(running, world.engine);
    now_ns += (1 + draw(3)) * FM_NS_PER_MS;
    fm_mailbox_put(scheduler.loop->inbox, &running->message.link);
    running = NULL;
}

/* ---- visitors ---- */

static void leave(struct visitor *visitor)
{
    test_sim_client_verify(&world, &visitor->spec, &visitor->client);
    if (visitor->client.is_done) {
        for (uint32_t i = 0; i < visitor->spec.spec.choice_count; i++) {
            enum sch_end end = (enum sch_end)visitor->client.answers[i].end.end;
            ck_assert_msg(visitor->may_end_early || end <= SCH_END_TOOL_CALLS, "end %d", end);
            ended[end]++;
        }
        answered++;
    }
    test_sim_client_done(&visitor->client);
    sch_stream_close(visitor->stream);
    visitor->stream = NULL;
}

static bool enter(struct visitor *visitor, enum fm_status *ret_status)
{
    uint32_t retry_s = 0;
    *ret_status = sch_submit(&scheduler, &visitor->spec.spec, &visitor->handle, &visitor->stream,
                             &retry_s, NULL);
    if (*ret_status != FM_OK) {
        if (*ret_status == FM_AGAIN)
            ck_assert(retry_s >= 1 && retry_s <= 60);
        visitor->stream = NULL;
        return false;
    }
    sch_stream_set_owner(visitor->stream, visitor);
    test_sim_client_init(&visitor->client);
    return true;
}

static void read_ready(void)
{
    struct fm_link *link;
    while ((link = fm_mailbox_poll(ready)) != NULL) {
        struct sch_stream *stream = sch_stream_of(link);
        if (stream != NULL && ((struct visitor *)sch_stream_owner(stream))->patience == UINT32_MAX)
            (void)test_sim_client_read(&((struct visitor *)sch_stream_owner(stream))->client,
                                       stream, UINT32_MAX);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct visitor *visitor = &visitors[i];
        if (visitor->stream == NULL)
            continue;
        if (visitor->patience != UINT32_MAX && visitor->patience != 0 && draw(3) == 0)
            (void)test_sim_client_read(&visitor->client, visitor->stream, visitor->patience);
        if (visitor->client.is_done)
            leave(visitor);
    }
}

/* Nobody is left; or the run hangs, and the test with it. */
static void run_out(void)
{
    for (uint32_t i = 0; !sch_is_idle(&scheduler) || i < 3; i++) {
        ck_assert_msg(i < 100000, "the run does not end");
        now_ns += FM_NS_PER_MS;
        turn();
        step_finish();
        read_ready();
    }
    for (uint32_t i = 0; i < CLIENTS; i++)
        if (visitors[i].stream != NULL) {
            (void)test_sim_client_read(&visitors[i].client, visitors[i].stream, UINT32_MAX);
            ck_assert(visitors[i].client.is_done);
            leave(&visitors[i]);
        }
    ck_assert_uint_eq(atomic_load(&scheduler.loop->gate.queued_count), 0);
    ck_assert_uint_eq(atomic_load(&scheduler.loop->gate.queued_tokens), 0);
    struct kv_stats stats;
    kv_cache_stats(scheduler.loop->cache, &stats);
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        ck_assert_uint_eq(stats.units_free[pool], stats.units_total[pool]);
    turn(); /* takes the news of the closed streams along */
    struct fm_link *link;
    while ((link = fm_mailbox_poll(ready)) != NULL)
        ck_assert_ptr_null(sch_stream_of(link));
}

/* ---- tests ---- */

static struct visitor *free_place(void)
{
    for (uint32_t i = 0; i < CLIENTS; i++)
        if (visitors[i].stream == NULL)
            return &visitors[i];
    return NULL;
}

static void random_visit(uint64_t number, bool is_rough)
{
    struct visitor *visitor = free_place();
    if (visitor == NULL)
        return;
    test_sim_spec_random(&world, seed, number, &visitor->spec);
    visitor->patience = UINT32_MAX;
    visitor->may_end_early = false;
    if (is_rough) {
        uint32_t kind = draw(8);
        if (kind == 0)
            visitor->patience = 1 + draw(30);
        if (kind == 1)
            visitor->patience = 0;
        if (kind == 2)
            visitor->spec.spec.deadline_ns = now_ns + draw(100) * FM_NS_PER_MS;
        visitor->may_end_early = true;
    }
    enum fm_status status;
    if (!enter(visitor, &status))
        ck_assert(status == FM_AGAIN || status == FM_LIMIT);
}

static void random_harm(void)
{
    struct visitor *visitor = &visitors[draw(CLIENTS)];
    if (visitor->stream == NULL)
        return;
    visitor->may_end_early = true;
    if (draw(2) == 0) {
        sch_cancel(&scheduler, visitor->handle);
    } else if (draw(2) == 0) { /* hangs up */
        test_sim_client_verify(&world, &visitor->spec, &visitor->client);
        test_sim_client_done(&visitor->client);
        sch_stream_close(visitor->stream);
        visitor->stream = NULL;
    } else { /* a stale handle */
        struct sch_handle stale = visitor->handle;
        stale.generation--;
        sch_cancel(&scheduler, stale);
    }
}

static void random_run(uint64_t turns, bool is_rough)
{
    static const char *const faults[] = {"sim_submit", "sim_step"};
    for (uint64_t i = 0; i < turns; i++) {
        if (draw(3) == 0)
            random_visit(i, is_rough);
        if (is_rough && draw(20) == 0)
            random_harm();
        turn();
        if (is_rough && draw(40) == 0)
            random_harm(); /* while the step runs */
        bool has_fault = is_rough && draw(60) == 0;
        if (has_fault)
            fm_fault_arm(faults[i % 2], 1);
        if (draw(4) != 0)
            step_finish();
        if (has_fault)
            (void)fm_fault_disarm(faults[i % 2]);
        now_ns += draw(3) * FM_NS_PER_MS;
        read_ready();
    }
    run_out();
}

/* S17-S19, S23: whoever runs beside it and however it is cut, a request answers as it would alone.
 * S01, S02: one end, nothing behind it. */
START_TEST(every_request_answers_as_it_would_alone)
{
    static const uint32_t chunks[] = {1, 7, 64, 128, 150, 1024};
    struct sch_options options = usual_options;
    options.chunk_tokens_max = chunks[_i];
    options.step_tokens_max = chunks[_i] == 1024 ? 1024 : 200;
    open_with(&options, _i % 2 == 0 ? 0 : 2, _i % 3 == 0 ? SEQS : 64);
    random_run(_i == 0 ? 400 : 700, false);
    ck_assert_uint_gt(answered, 10);
    ck_assert_uint_gt(ended[SCH_END_STOP], 0);
    ck_assert_uint_gt(ended[SCH_END_LENGTH], 0);
    close_all();
}
END_TEST

/* S11, S12, S22, S26 and step failures: nothing leaks, nobody else notices. */
START_TEST(cancels_deadlines_slow_readers_and_faults_harm_nobody_else)
{
    open_with(&usual_options, 2, 64);
    random_run(2500, true);
    ck_assert_uint_gt(answered, 100);
    ck_assert_uint_gt(ended[SCH_END_CANCELED], 0);
    ck_assert_uint_gt(ended[SCH_END_FAILED], 0);
    ck_assert_uint_gt(ended[SCH_END_TIMEOUT], 0);
    struct sch_stats stats;
    sch_stats(&scheduler, &stats);
    ck_assert_uint_gt(stats.cancel_latency.count, 0);
    ck_assert_uint_gt(stats.refused, 0);
    close_all();
}
END_TEST

/* S29: the same seed gives the same run. */
START_TEST(a_run_is_a_function_of_its_seed)
{
    uint64_t figures[2][3];
    for (int i = 0; i < 2; i++) {
        counter = answered = 0;
        memset(ended, 0, sizeof ended);
        open_with(&usual_options, 2, 64);
        random_run(300, true);
        struct sch_stats stats;
        sch_stats(&scheduler, &stats);
        figures[i][0] = stats.steps;
        figures[i][1] = stats.prefill_tokens;
        figures[i][2] = now_ns;
        close_all();
    }
    ck_assert_mem_eq(figures[0], figures[1], sizeof figures[0]);
}
END_TEST

static struct visitor *plain_visit(uint32_t prompt_count, uint32_t tokens_max)
{
    struct visitor *visitor = free_place();
    ck_assert_ptr_nonnull(visitor);
    test_sim_spec_init(&world, &visitor->spec, prompt_count, tokens_max);
    visitor->spec.spec.ignore_eos = true;
    visitor->patience = UINT32_MAX;
    visitor->may_end_early = true;
    enum fm_status status;
    ck_assert(enter(visitor, &status));
    return visitor;
}

static enum sch_end end_of(struct visitor *visitor)
{
    (void)test_sim_client_read(&visitor->client, visitor->stream, UINT32_MAX);
    ck_assert(visitor->client.is_done);
    return (enum sch_end)visitor->client.answers[0].end.end;
}

/* Cancel while the step runs: over when the step is, in the middle of a prefill too. */
START_TEST(a_cancel_takes_one_step)
{
    open_with(&usual_options, 0, 64);
    struct visitor *visitor = plain_visit(1500, 10);
    turn();
    step_finish();
    turn();
    ck_assert_ptr_nonnull(running);
    sch_cancel(&scheduler, visitor->handle);
    turn();
    ck_assert(!sch_is_idle(&scheduler)); /* its pages are in use */
    step_finish();
    turn();
    ck_assert(sch_is_idle(&scheduler));
    ck_assert_int_eq(end_of(visitor), SCH_END_CANCELED);
    run_out();
    close_all();
}
END_TEST

START_TEST(the_context_and_the_pools_bound_a_request)
{
    open_with(&usual_options, 0, 64);
    struct visitor *visitor = &visitors[0];
    enum fm_status status;
    test_sim_spec_init(&world, &visitor->spec, 1448, 600);
    visitor->patience = UINT32_MAX;
    ck_assert(enter(visitor, &status)); /* 2,048: exactly the context */
    run_out();
    test_sim_spec_init(&world, &visitor->spec, 1448, 601);
    ck_assert(!enter(visitor, &status));
    ck_assert_int_eq(status, FM_LIMIT);
    test_sim_spec_init(&world, &visitor->spec, 10, 10);
    visitor->spec.spec.choice_count = TEST_SIM_CHOICES_MAX + 1;
    ck_assert(!enter(visitor, &status));
    ck_assert_int_eq(status, FM_LIMIT);
    visitor->spec.spec.choice_count = 1;
    visitor->spec.prompt[3] = world.info->vocab;
    ck_assert(!enter(visitor, &status));
    ck_assert_int_eq(status, FM_INVALID);
    close_all();
}
END_TEST

/* The token behind the bound is </think>, and counts as reasoning itself. */
START_TEST(a_bound_on_reasoning_is_kept_to_the_token)
{
    open_with(&usual_options, 0, 64);
    for (uint32_t bound = 0; bound < 8; bound++) {
        struct visitor *visitor = &visitors[0];
        enum fm_status status;
        test_sim_spec_init(&world, &visitor->spec, 20, 20);
        visitor->spec.parser.is_raw = false;
        visitor->spec.parser.start = ENG_CHANNEL_REASONING;
        visitor->spec.spec.bounds_reasoning = true;
        visitor->spec.spec.reasoning_max = bound;
        visitor->spec.spec.ignore_eos = true;
        visitor->patience = 0;
        ck_assert(enter(visitor, &status));
        while (!sch_is_idle(&scheduler)) {
            turn();
            step_finish();
        }
        ck_assert_int_eq(end_of(visitor), SCH_END_LENGTH);
        ck_assert_uint_eq(visitor->client.answers[0].end.reasoning_tokens, bound + 1);
        run_out();
    }
    close_all();
}
END_TEST

START_TEST(a_full_queue_says_when_to_come_back)
{
    struct sch_options options = usual_options;
    options.queue_max = 2;
    open_with(&options, 0, 64);
    for (uint32_t i = 0; i < SEQS; i++) {
        (void)plain_visit(10, 20);
        turn();
    }
    (void)plain_visit(10, 20);
    (void)plain_visit(10, 20);
    struct visitor *visitor = free_place();
    enum fm_status status;
    test_sim_spec_init(&world, &visitor->spec, 10, 20);
    ck_assert(!enter(visitor, &status));
    ck_assert_int_eq(status, FM_AGAIN);
    run_out();
    ck_assert_uint_eq(ended[SCH_END_LENGTH], SEQS + 2);
    close_all();
}
END_TEST

START_TEST(waiting_too_long_ends_before_it_began)
{
    struct sch_options options = usual_options;
    options.queue_timeout_ms = 50;
    open_with(&options, 0, 64);
    for (uint32_t i = 0; i < SEQS; i++)
        (void)plain_visit(10, 150);
    turn();
    struct visitor *late = plain_visit(10, 5);
    turn();
    now_ns += 51 * FM_NS_PER_MS;
    turn();
    ck_assert_int_eq(end_of(late), SCH_END_QUEUE_TIMEOUT);
    ck_assert_uint_eq(late->client.answers[0].end.completion_tokens, 0);
    run_out();
    ck_assert_uint_eq(ended[SCH_END_LENGTH], SEQS);
    close_all();
}
END_TEST

START_TEST(draining_ends_what_waits_and_finishes_what_runs)
{
    open_with(&usual_options, 0, 64);
    for (uint32_t i = 0; i < SEQS; i++)
        (void)plain_visit(10, 30);
    turn();
    struct visitor *late = plain_visit(10, 5);
    turn();
    sch_drain(&scheduler);
    enum fm_status status;
    struct visitor *refused = free_place();
    test_sim_spec_init(&world, &refused->spec, 10, 10);
    ck_assert(!enter(refused, &status));
    ck_assert_int_eq(status, FM_CANCELED);
    turn();
    ck_assert_int_eq(end_of(late), SCH_END_DRAINING);
    run_out();
    ck_assert_uint_eq(ended[SCH_END_LENGTH], SEQS);
    close_all();
}
END_TEST

/* S26: it is parked with its pages, and let go when it does not read for too long. */
START_TEST(a_reader_that_stops_is_parked_and_then_let_go)
{
    open_with(&usual_options, 0, 64);
    struct visitor *slow = free_place();
    test_sim_spec_init(&world, &slow->spec, 10, 180);
    slow->spec.spec.ignore_eos = true;
    slow->spec.spec.sampling.wants_logprob = true;
    slow->spec.spec.sampling.logprob_count = ENG_LOGPROBS_MAX;
    slow->patience = 0;
    slow->may_end_early = true;
    enum fm_status status;
    ck_assert(enter(slow, &status));
    struct visitor *other = plain_visit(10, 190);
    struct sch_stats stats;
    for (uint32_t i = 0; i < 150; i++) {
        turn();
        step_finish();
        read_ready();
    }
    turn();
    sch_stats(&scheduler, &stats);
    ck_assert_uint_eq(stats.parked, 1);
    ck_assert_uint_eq(stats.running_seqs, 2);
    for (uint32_t i = 0; i < 60; i++) {
        turn();
        step_finish();
        read_ready();
    }
    ck_assert_ptr_null(other->stream); /* answered meanwhile */
    uint64_t progress = stats.decode_tokens;
    now_ns += 2000 * FM_NS_PER_MS;
    turn();
    ck_assert(!sch_is_idle(&scheduler));
    (void)test_sim_client_read(&slow->client, slow->stream, 60); /* half of it is enough */
    for (uint32_t i = 0; i < 100; i++) {
        turn();
        step_finish();
    }
    sch_stats(&scheduler, &stats);
    ck_assert_uint_gt(stats.decode_tokens, progress);
    ck_assert_uint_eq(stats.parked, 1);
    now_ns += 3001 * FM_NS_PER_MS;
    turn();
    ck_assert(sch_is_idle(&scheduler));
    ck_assert_int_eq(end_of(slow), SCH_END_CANCELED);
    run_out();
    close_all();
}
END_TEST

/* All tokens are there, and the reader has not read them: the pages are free all the same. */
START_TEST(an_answer_that_waits_for_its_reader_holds_no_page)
{
    open_with(&usual_options, 0, 64);
    struct visitor *slow = free_place();
    test_sim_spec_init(&world, &slow->spec, 300, 0);
    slow->spec.spec.wants_prompt_logprobs = true;
    slow->spec.spec.sampling.logprob_count = ENG_LOGPROBS_MAX;
    slow->patience = 0;
    slow->may_end_early = false;
    enum fm_status status;
    ck_assert(enter(slow, &status));
    struct sch_stats stats;
    for (uint32_t i = 0; i < 200; i++) {
        turn();
        step_finish();
        sch_stats(&scheduler, &stats);
        if (stats.running_seqs == 0 && stats.prefill_tokens == 299)
            break;
        (void)test_sim_client_read(&slow->client, slow->stream, 4);
    }
    ck_assert_uint_eq(stats.running_seqs, 0);
    ck_assert(!sch_is_idle(&scheduler));
    slow->patience = UINT32_MAX;
    while (!slow->client.is_done) {
        (void)test_sim_client_read(&slow->client, slow->stream, 10);
        turn();
    }
    run_out();
    ck_assert_uint_eq(ended[SCH_END_LENGTH], 1);
    close_all();
}
END_TEST

/* Its last text is dropped with it: the end must not say that the answer is whole. */
START_TEST(a_cancel_of_an_answer_that_waits_says_so)
{
    open_with(&usual_options, 0, 64);
    struct visitor *slow = free_place();
    test_sim_spec_init(&world, &slow->spec, 300, 0);
    slow->spec.spec.wants_prompt_logprobs = true;
    slow->spec.spec.sampling.logprob_count = ENG_LOGPROBS_MAX;
    slow->patience = 0;
    slow->may_end_early = true;
    enum fm_status status;
    ck_assert(enter(slow, &status));
    struct sch_stats stats = {0};
    for (uint32_t i = 0; i < 400 && stats.prefill_tokens < 299; i++) {
        turn();
        step_finish();
        sch_stats(&scheduler, &stats);
        if (stats.prefill_tokens < 299)
            (void)test_sim_client_read(&slow->client, slow->stream, 20);
    }
    turn();
    ck_assert_uint_eq(stats.prefill_tokens, 299);
    ck_assert(!sch_is_idle(&scheduler));
    sch_cancel(&scheduler, slow->handle);
    turn();
    ck_assert(sch_is_idle(&scheduler));
    ck_assert_int_eq(end_of(slow), SCH_END_CANCELED);
    run_out();
    close_all();
}
END_TEST

START_TEST(a_lost_device_ends_everything_once)
{
    open_with(&usual_options, 0, 64);
    for (uint32_t i = 0; i < SEQS + 3; i++)
        (void)plain_visit(10, 30);
    turn();
    fm_fault_arm("sim_device", 1);
    step_finish();
    ck_assert(fm_fault_disarm("sim_device"));
    turn();
    ck_assert(sch_is_idle(&scheduler));
    struct sch_stats stats;
    sch_stats(&scheduler, &stats);
    ck_assert_uint_eq(stats.is_broken, 1);
    ck_assert_uint_eq(stats.requests_by_end[SCH_END_FAILED], SEQS + 3);
    struct visitor *refused = free_place();
    enum fm_status status;
    test_sim_spec_init(&world, &refused->spec, 10, 10);
    ck_assert(!enter(refused, &status));
    ck_assert_int_eq(status, FM_DEVICE);
    run_out();
    ck_assert_uint_eq(ended[SCH_END_FAILED], SEQS + 3);
    close_all();
}
END_TEST

/* S27: between submit and the end nothing is allocated but what the parser's text needs. */
START_TEST(a_running_request_allocates_nothing)
{
    open_with(&usual_options, 0, 64);
    for (uint32_t i = 0; i < SEQS; i++)
        (void)plain_visit(200, 100);
    for (uint32_t i = 0; i < 8; i++) { /* parsers and clients have their buffers by now */
        turn();
        step_finish();
        read_ready();
    }
    fm_fault_arm_forever("alloc", 1);
    for (uint32_t i = 0; i < 60; i++) {
        turn();
        step_finish();
    }
    ck_assert(!fm_fault_disarm("alloc"));
    run_out();
    ck_assert_uint_eq(ended[SCH_END_LENGTH], SEQS);
    close_all();
}
END_TEST

START_TEST(submit_survives_every_alloc_failure)
{
    open_with(&usual_options, 0, 64);
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct visitor *visitor = free_place();
        test_sim_spec_random(&world, 5, 5, &visitor->spec);
        visitor->spec.spec.choice_count = 2;
        visitor->patience = UINT32_MAX;
        uint32_t retry_s;
        fm_fault_arm("alloc", nth);
        enum fm_status status = sch_submit(&scheduler, &visitor->spec.spec, &visitor->handle,
                                           &visitor->stream, &retry_s, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        if (status == FM_OK) {
            sch_stream_set_owner(visitor->stream, visitor);
            test_sim_client_init(&visitor->client);
        }
    }
    run_out();
    ck_assert_uint_eq(answered, 1);
    close_all();
}
END_TEST

START_TEST(a_scheduler_needs_room_for_its_promises)
{
    open_with(&usual_options, 0, 64);
    struct sch_options bad[8];
    for (uint32_t i = 0; i < FM_COUNT(bad); i++) {
        bad[i] = usual_options;
        bad[i].ready = ready;
    }
    bad[0].queue_max = 0;
    bad[1].running_max = SEQS + 1;
    bad[2].step_tokens_max = SEQS - 1;
    bad[3].step_tokens_max = 1025;
    bad[4].stream_bytes = 1000;
    bad[5].stream_bytes = 3 << 14;
    bad[6].ready = NULL;
    bad[7].chunk_tokens_max = 0;
    for (uint32_t i = 0; i < FM_COUNT(bad); i++) {
        struct sch_scheduler other;
        ck_assert_int_eq(sch_front_init(&other, world.info, world.text, &bad[i], NULL), FM_INVALID);
    }
    close_all();
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("sim/scheduler_turns");
    TCase *tcase = tcase_create("random");
    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, every_request_answers_as_it_would_alone, 0, 6);
    tcase_add_test(tcase, cancels_deadlines_slow_readers_and_faults_harm_nobody_else);
    tcase_add_test(tcase, a_run_is_a_function_of_its_seed);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("single");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, a_cancel_takes_one_step);
    tcase_add_test(tcase, the_context_and_the_pools_bound_a_request);
    tcase_add_test(tcase, a_bound_on_reasoning_is_kept_to_the_token);
    tcase_add_test(tcase, a_full_queue_says_when_to_come_back);
    tcase_add_test(tcase, waiting_too_long_ends_before_it_began);
    tcase_add_test(tcase, draining_ends_what_waits_and_finishes_what_runs);
    tcase_add_test(tcase, a_reader_that_stops_is_parked_and_then_let_go);
    tcase_add_test(tcase, an_answer_that_waits_for_its_reader_holds_no_page);
    tcase_add_test(tcase, a_cancel_of_an_answer_that_waits_says_so);
    tcase_add_test(tcase, a_lost_device_ends_everything_once);
    tcase_add_test(tcase, a_running_request_allocates_nothing);
    tcase_add_test(tcase, submit_survives_every_alloc_failure);
    tcase_add_test(tcase, a_scheduler_needs_room_for_its_promises);
    suite_add_tcase(suite, tcase);
    return suite;
}
