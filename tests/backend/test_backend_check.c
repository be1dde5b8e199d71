/* The verifying device: what is right passes, and every single thing that is wrong is reported. */
#include "tests/support/fake_device.h"
#include "tests/support/fake_tensors.h"
#include "tests/support/steps.h"
#include "tests/support/support.h"

#include "backends/base/clock.h"
#include "backends/base/prng.h"

enum { UNITS = 40, SEQS = 4, TOKENS_MAX = 600, PAGES_MAX = 8, LATER_STEPS = 3 };

static const struct be_limits limits = {.rows_max = 512,
                                        .seqs_max = SEQS,
                                        .logit_rows_max = 16,
                                        .pages_max = 64,
                                        .units = {UNITS, UNITS, 8}};

/* A sequence as an engine would keep it. */
struct seq {
    uint32_t tokens[TOKENS_MAX];
    uint32_t length, tail_slot;
    uint32_t g_pages[PAGES_MAX], s_pages[PAGES_MAX];
};

/* A model of four layers on a checked device, and the sequences that run on it. */
struct bench {
    struct eng_hparams hparams;
    struct eng_weights weights;
    struct eng_programs *programs;
    enum fake_fault fault;
    struct fake_log *log;
    struct be_device *device;
    struct be_exec *forward, *draft;
    struct be_event *event;
    uint64_t number;
    uint32_t next_g, next_s, next_t;
    struct seq seqs[SEQS];
    struct fm_err err;
};

enum draft { NO_DRAFT, MTP, DSPARK };

static void bench_init(struct bench *bench, uint64_t seed, enum draft draft, uint32_t rollback)
{
    struct eng_program_options options = {.inject_layer = ENG_LAYER_NONE,
                                          .rollback_rows = rollback};
    *bench = (struct bench){.next_g = 1, .next_s = 1, .next_t = 1};
    bench->hparams = fake_tiny();
    bench->hparams.layer_count = 4;
    bench->hparams.expert_count = 2;
    bench->hparams.compress_ratio[3] = bench->hparams.compress_ratio[4] = 0;
    if (draft == MTP)
        fake_add_mtp(&bench->hparams);
    if (draft == DSPARK)
        fake_add_dspark(&bench->hparams);
    bench->programs = fake_build(&bench->weights, &bench->hparams, &options);

    struct be_device *inner = NULL;
    ck_assert_int_eq(fake_device_open(&bench->fault, &inner, &bench->log, NULL), FM_OK);
    ck_assert_int_eq(be_check_wrap(inner, seed, &bench->device, NULL), FM_OK);
    const struct be_ops *ops = bench->device->ops;
    ck_assert_int_eq(ops->weights_load(bench->device, &bench->programs->model, NULL, NULL), FM_OK);
    ck_assert_int_eq(ops->state_create(bench->device, limits.units, NULL), FM_OK);
    ck_assert_int_eq(ops->event_new(bench->device, &bench->event, NULL), FM_OK);
    enum fm_status status = ops->compile(bench->device, &bench->programs->forward.program, &limits,
                                         &bench->forward, &bench->err);
    ck_assert_msg(status == FM_OK, "%s", bench->err.text);
    if (draft != NO_DRAFT)
        ck_assert_int_eq(ops->compile(bench->device, &bench->programs->draft.program, &limits,
                                      &bench->draft, NULL),
                         FM_OK);
}

static void bench_done(struct bench *bench)
{
    const struct be_ops *ops = bench->device->ops;
    ops->event_free(bench->device, bench->event);
    ops->exec_free(bench->device, bench->forward);
    ops->exec_free(bench->device, bench->draft);
    ops->close(bench->device);
    eng_programs_free(bench->programs);
    fake_weights_done(&bench->weights);
}

/* Begin sequence `index` anew: other tokens, a slot of its own, pages as they are needed. */
static void seq_begin(struct bench *bench, uint32_t index, uint64_t seed)
{
    struct seq *seq = &bench->seqs[index];
    *seq = (struct seq){.tail_slot = bench->next_t++};
    for (uint32_t i = 0; i < TOKENS_MAX; i++)
        seq->tokens[i] = (uint32_t)(fm_prng_u64(seed, index, i) % bench->hparams.vocab_size);
    ck_assert_int_eq(bench->device->ops->tail_reset(bench->device, &seq->tail_slot, 1, &bench->err),
                     FM_OK);
}

static void seq_take_pages(struct bench *bench, struct seq *seq, uint32_t length)
{
    for (uint32_t i = 0; i * 128 < length; i++) {
        if (seq->g_pages[i] == 0)
            seq->g_pages[i] = bench->next_g++;
        if (seq->s_pages[i] == 0)
            seq->s_pages[i] = bench->next_s++;
    }
    ck_assert(bench->next_g <= UNITS && bench->next_s <= UNITS);
}

static struct test_span span_of(struct bench *bench, struct seq *seq, uint32_t count)
{
    uint32_t first = be_step_s_page_first(seq->length, 128);
    uint32_t pages = (seq->length + count - 1) / 128 + 1;
    seq_take_pages(bench, seq, seq->length + count);
    return (struct test_span){
        .tokens = seq->tokens + seq->length,
        .length_before = seq->length,
        .row_count = count,
        .logit_first = count - 1,
        .tail_slot = seq->tail_slot,
        .g_pages = seq->g_pages,
        .g_count = pages,
        .s_pages = seq->s_pages + first,
        .s_count = pages - first,
    };
}

static enum fm_status wait_event(struct bench *bench)
{
    enum fm_status status = FM_AGAIN;
    for (uint32_t i = 0; i < 100 && status == FM_AGAIN; i++)
        status = bench->device->ops->event_poll(bench->device, bench->event, &bench->err);
    return status;
}

static enum fm_status run_block(struct bench *bench, struct be_exec *exec,
                                const struct be_step *step)
{
    enum fm_status status =
        bench->device->ops->submit(bench->device, exec, step, bench->event, &bench->err);
    return status == FM_OK ? wait_event(bench) : status;
}

/* `counts` rows of each sequence (0: none) in one step. */
static enum fm_status run_step(struct bench *bench, const uint32_t counts[SEQS])
{
    struct test_span spans[SEQS];
    uint32_t span_count = 0;
    for (uint32_t i = 0; i < SEQS; i++) {
        if (counts[i] != 0)
            spans[span_count++] = span_of(bench, &bench->seqs[i], counts[i]);
    }
    struct be_step *step = test_step_new(++bench->number, spans, span_count);
    enum fm_status status = run_block(bench, bench->forward, step);
    fm_free(step);
    for (uint32_t i = 0; i < SEQS && status == FM_OK; i++)
        bench->seqs[i].length += counts[i];
    return status;
}

static void must_run(struct bench *bench, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    const uint32_t counts[SEQS] = {a, b, c, d};
    enum fm_status status = run_step(bench, counts);
    ck_assert_msg(status == FM_OK, "%s", bench->err.text);
}

static void must_fail(struct bench *bench, enum fm_status status, const char *part)
{
    ck_assert_msg(status == FM_DEVICE, "%s, expected '%s'", fm_status_name(status), part);
    ck_assert_msg(strstr(bench->err.text, part) != NULL, "'%s' is not in '%s'", part,
                  bench->err.text);
}

/* ---- right things pass --------------------------------------------------------------------- */

START_TEST(right_steps_pass_in_any_split)
{
    struct bench bench;
    uint64_t seed = test_seed() + (uint64_t)_i;
    bench_init(&bench, seed, NO_DRAFT, 0);
    for (uint32_t i = 0; i < SEQS; i++)
        seq_begin(&bench, i, seed);
    for (uint32_t step = 0; step < 40; step++) {
        uint32_t counts[SEQS];
        uint32_t total = 0;
        for (uint32_t i = 0; i < SEQS; i++) {
            uint64_t draw = fm_prng_u64(seed, 100 + step, i);
            counts[i] = draw % 3 == 0 ? (uint32_t)(draw / 3 % 40) : (uint32_t)(draw % 2);
            if (bench.seqs[i].length + counts[i] > TOKENS_MAX)
                counts[i] = 0;
            total += counts[i];
        }
        if (total == 0)
            continue;
        enum fm_status status = run_step(&bench, counts);
        ck_assert_msg(status == FM_OK, "seed %llu, step %u: %s", (unsigned long long)seed, step,
                      bench.err.text);
    }
    ck_assert_uint_gt(bench.log->order_changes, 5);
    ck_assert_uint_gt(bench.log->page_out_count, 100);
    ck_assert_uint_eq(bench.log->compile_count, 3);
    bench_done(&bench);
}
END_TEST

START_TEST(fork_by_copy_passes)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 150, 0, 0, 0);
    seq_begin(&bench, 1, 2);
    struct seq *parent = &bench.seqs[0];
    struct seq *child = &bench.seqs[1];
    memcpy(child->tokens, parent->tokens, 150 * sizeof(uint32_t));
    child->length = 150;
    child->g_pages[0] = parent->g_pages[0]; /* full: shared */
    child->s_pages[0] = parent->s_pages[0];
    child->g_pages[1] = bench.next_g++;
    child->s_pages[1] = bench.next_s++;
    const struct be_copy copies[] = {
        {BE_POOL_G, parent->g_pages[1], child->g_pages[1]},
        {BE_POOL_S, parent->s_pages[1], child->s_pages[1]},
        {BE_POOL_T, parent->tail_slot, child->tail_slot},
    };
    ck_assert_int_eq(bench.device->ops->page_copy(bench.device, copies, 3, &bench.err), FM_OK);
    must_run(&bench, 1, 1, 0, 0);
    must_run(&bench, 7, 30, 0, 0);
    bench_done(&bench);
}
END_TEST

START_TEST(rollback_within_the_rings_passes)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 5);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 30, 0, 0, 0);
    for (uint32_t back = 1; back <= 5; back++) {
        struct seq *seq = &bench.seqs[0];
        seq->length -= back;
        for (uint32_t i = 0; i < back; i++)
            seq->tokens[seq->length + i] ^= 1;
        must_run(&bench, back + 2, 0, 0, 0);
    }
    bench_done(&bench);
}
END_TEST

START_TEST(rollback_beyond_the_rings_is_reported)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 31, 0, 0, 0);
    bench.seqs[0].length =
        27; /* the entry of 24..27 pools 20..27; 28..30 took the place of 20..22 */
    const uint32_t counts[SEQS] = {4};
    must_fail(&bench, run_step(&bench, counts), "no step wrote it for this sequence");
    bench_done(&bench);
}
END_TEST

START_TEST(a_failed_step_can_be_run_again)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 30, 0, 0, 0);
    bench.fault = FAKE_FAILS_STEP;
    const uint32_t counts[SEQS] = {20};
    ck_assert_int_eq(run_step(&bench, counts), FM_TIMEOUT);
    bench.fault = FAKE_SOUND;
    must_run(&bench, 3, 0, 0, 0);
    must_run(&bench, 20, 0, 0, 0);
    bench_done(&bench);
}
END_TEST

START_TEST(a_failed_step_leaves_nothing_to_read)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 30, 0, 0, 0);
    bench.fault = FAKE_FAILS_STEP;
    const uint32_t counts[SEQS] = {5};
    ck_assert_int_eq(run_step(&bench, counts), FM_TIMEOUT);
    bench.fault = FAKE_SOUND;
    bench.seqs[0].length += 5;
    must_fail(&bench, run_step(&bench, counts), "no step wrote it");
    bench_done(&bench);
}
END_TEST

START_TEST(a_full_device_is_asked_again)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    bench.fault = FAKE_IS_FULL;
    const uint32_t counts[SEQS] = {20};
    ck_assert_int_eq(run_step(&bench, counts), FM_AGAIN);
    bench.fault = FAKE_SOUND;
    must_run(&bench, 20, 0, 0, 0);
    bench_done(&bench);
}
END_TEST

START_TEST(pages_from_the_host_fit_any_sequence)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    const struct be_ops *ops = bench.device->ops;
    seq_begin(&bench, 0, 1);
    must_run(&bench, 150, 0, 0, 0);
    struct seq *seq = &bench.seqs[0];
    unsigned char *host = fm_alloc(be_pool_unit_bytes(&bench.programs->model, BE_POOL_G));
    ck_assert_int_eq(
        ops->page_out(bench.device, BE_POOL_G, seq->g_pages[0], host, bench.event, NULL), FM_OK);
    ck_assert_int_eq(wait_event(&bench), FM_OK);
    seq->g_pages[0] = bench.next_g++;
    ck_assert_int_eq(
        ops->page_in(bench.device, BE_POOL_G, seq->g_pages[0], host, bench.event, NULL), FM_OK);
    ck_assert_int_eq(wait_event(&bench), FM_OK);
    must_run(&bench, 3, 0, 0, 0);
    fm_free(host);
    bench_done(&bench);
}
END_TEST

START_TEST(completion_is_held_back_for_a_while)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    uint32_t polls = 0;
    for (uint32_t i = 0; i < 20; i++) {
        struct test_span span = span_of(&bench, &bench.seqs[0], 1);
        struct be_step *step = test_step_new(++bench.number, &span, 1);
        const struct be_ops *ops = bench.device->ops;
        ck_assert_int_eq(ops->submit(bench.device, bench.forward, step, bench.event, &bench.err),
                         FM_OK);
        fm_free(step); /* R3: the block is ours again */
        while (ops->event_poll(bench.device, bench.event, &bench.err) == FM_AGAIN)
            polls++;
        bench.seqs[0].length++;
    }
    ck_assert_uint_gt(polls, 20 + 10);
    bench_done(&bench);
}
END_TEST

/* ---- programs ------------------------------------------------------------------------------ */

START_TEST(each_dropped_edge_is_reported)
{
    struct bench bench;
    bench_init(&bench, 1, MTP, 0);
    const struct be_program *right = &bench.programs->forward.program;
    struct be_program wrong = *right;
    struct be_op *ops = fm_alloc_array(right->op_count, sizeof(*ops));
    uint32_t *edges = fm_alloc_array(right->edge_count, sizeof(*edges));
    struct be_exec *exec = NULL;
    memcpy(ops, right->ops, right->op_count * sizeof(*ops));
    memcpy(edges, right->edges, right->edge_count * sizeof(*edges));
    wrong.ops = ops;
    wrong.edges = edges;
    for (uint32_t i = 0; i < wrong.op_count; i++) {
        for (uint32_t e = 0; e < ops[i].edge_count; e++) {
            uint32_t *mine = edges + ops[i].edge_first;
            uint32_t dropped = mine[e];
            mine[e] = mine[--ops[i].edge_count];
            must_fail(&bench,
                      bench.device->ops->compile(bench.device, &wrong, &limits, &exec, &bench.err),
                      "no edge from operation");
            mine[ops[i].edge_count++] = mine[e];
            mine[e] = dropped;
        }
    }
    ck_assert_ptr_null(exec);
    fm_free(ops);
    fm_free(edges);
    bench_done(&bench);
}
END_TEST

START_TEST(limits_beyond_the_device_are_reported)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    const struct be_program *program = &bench.programs->forward.program;
    struct be_exec *exec = NULL;
    struct be_limits wide = limits;
    wide.rows_max = 1025;
    must_fail(&bench, bench.device->ops->compile(bench.device, program, &wide, &exec, &bench.err),
              "the device takes 1024 rows");
    wide = limits;
    wide.units[BE_POOL_S] = UNITS + 1;
    must_fail(&bench, bench.device->ops->compile(bench.device, program, &wide, &exec, &bench.err),
              "units of pool S");
    ck_assert_ptr_null(exec);
    bench_done(&bench);
}
END_TEST

/* ---- page lists ---------------------------------------------------------------------------- */

/* Three sequences whose next rows need every page that their lists hold, and one that ended. */
static void bench_with_history(struct bench *bench)
{
    bench_init(bench, 7, NO_DRAFT, 0);
    for (uint32_t i = 0; i < 4; i++)
        seq_begin(bench, i, 3);
    must_run(bench, 135, 20, 130, 135);
    must_run(bench, 3, 1, 4, 0);
}

/* Is the wrong block, or one of the right ones that follow it, reported? */
static bool is_reported(struct bench *bench, struct be_step *step, const uint32_t counts[SEQS])
{
    be_step_seal(step);
    enum fm_status status = run_block(bench, bench->forward, step);
    if (status != FM_OK)
        return status == FM_DEVICE || status == FM_INVALID;
    for (uint32_t i = 0; i < SEQS; i++)
        bench->seqs[i].length += counts[i];
    for (uint32_t later = 0; later < LATER_STEPS; later++) {
        const uint32_t next[SEQS] = {4, 4, 4, 4};
        status = run_step(bench, next);
        if (status != FM_OK)
            return status == FM_DEVICE;
    }
    return false;
}

START_TEST(each_shifted_page_is_reported)
{
    static const uint32_t counts[SEQS] = {2, 9, 1, 0};
    uint32_t page_count = UINT32_MAX;
    for (uint32_t page = 0; page < page_count; page++) {
        for (uint32_t other = 0; other < 14; other++) {
            struct bench bench;
            struct test_span spans[3];
            bench_with_history(&bench);
            for (uint32_t i = 0; i < 3; i++)
                spans[i] = span_of(&bench, &bench.seqs[i], counts[i]);
            struct be_step *step = test_step_new(++bench.number, spans, 3);
            uint32_t *pages = (uint32_t *)(uintptr_t)be_step_pages(step);
            page_count = step->page_count;
            if (pages[page] != other) {
                uint32_t right = pages[page];
                pages[page] = other;
                ck_assert_msg(is_reported(&bench, step, counts),
                              "page number %u: %u instead of %u passes", page, other, right);
            }
            fm_free(step);
            bench_done(&bench);
        }
    }
    ck_assert_uint_eq(page_count, 10);
}
END_TEST

START_TEST(each_wrong_tail_slot_is_reported)
{
    static const uint32_t counts[SEQS] = {2, 9, 1, 0};
    for (uint32_t seq = 0; seq < 3; seq++) {
        for (uint32_t other = 0; other < 8; other++) {
            struct bench bench;
            struct test_span spans[3];
            bench_with_history(&bench);
            for (uint32_t i = 0; i < 3; i++)
                spans[i] = span_of(&bench, &bench.seqs[i], counts[i]);
            if (spans[seq].tail_slot != other) {
                spans[seq].tail_slot = other;
                struct be_step *step = test_step_new(++bench.number, spans, 3);
                ck_assert_msg(is_reported(&bench, step, counts), "slot %u of sequence %u passes",
                              other, seq);
                fm_free(step);
            }
            bench_done(&bench);
        }
    }
}
END_TEST

START_TEST(a_stale_page_is_reported)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    seq_begin(&bench, 1, 2);
    must_run(&bench, 100, 100, 0, 0);
    /* The second ended; its page went to the first's next tokens, but the table was not updated
     * where it held the first's own page. */
    bench.seqs[0].s_pages[0] = bench.seqs[1].s_pages[0];
    const uint32_t counts[SEQS] = {1};
    must_fail(&bench, run_step(&bench, counts), "no step wrote it for this sequence");
    ck_assert_msg(strstr(bench.err.text, "ATTEND") != NULL, "%s", bench.err.text);
    bench_done(&bench);
}
END_TEST

START_TEST(a_unit_of_two_sequences_is_reported)
{
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++) {
        struct bench bench;
        bench_init(&bench, 1, NO_DRAFT, 0);
        seq_begin(&bench, 0, 1);
        seq_begin(&bench, 1, 2);
        seq_take_pages(&bench, &bench.seqs[0], 40);
        seq_take_pages(&bench, &bench.seqs[1], 40);
        if (pool == BE_POOL_G)
            bench.seqs[1].g_pages[0] = bench.seqs[0].g_pages[0];
        if (pool == BE_POOL_S)
            bench.seqs[1].s_pages[0] = bench.seqs[0].s_pages[0];
        if (pool == BE_POOL_T)
            bench.seqs[1].tail_slot = bench.seqs[0].tail_slot;
        const uint32_t counts[SEQS] = {20, 20};
        enum fm_status status = run_step(&bench, counts);
        must_fail(&bench, status, pool == BE_POOL_T ? "the slot was not reset" : "uses this unit");
        bench_done(&bench);
    }
}
END_TEST

START_TEST(a_page_that_is_read_and_written_in_one_step_is_reported)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 150, 0, 0, 0);
    /* A fork that shares the page that still fills. */
    seq_begin(&bench, 1, 1);
    struct seq *child = &bench.seqs[1];
    uint32_t slot = child->tail_slot;
    *child = bench.seqs[0];
    child->tail_slot = slot;
    const struct be_copy copy = {BE_POOL_T, bench.seqs[0].tail_slot, slot};
    ck_assert_int_eq(bench.device->ops->page_copy(bench.device, &copy, 1, NULL), FM_OK);
    const uint32_t counts[SEQS] = {1, 1};
    must_fail(&bench, run_step(&bench, counts), "another sequence of the step");
    bench_done(&bench);
}
END_TEST

START_TEST(a_slot_that_was_not_reset_is_reported)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 6, 0, 0, 0);
    uint32_t slot = bench.seqs[0].tail_slot;
    seq_begin(&bench, 1, 2);
    bench.seqs[1].tail_slot = slot;
    const uint32_t counts[SEQS] = {0, 2};
    must_fail(&bench, run_step(&bench, counts), "the slot was not reset");
    /* Nor is one that was only ever taken. */
    bench.seqs[1].tail_slot = 7;
    must_fail(&bench, run_step(&bench, counts), "the slot was not reset");
    bench_done(&bench);
}
END_TEST

START_TEST(a_fork_without_its_tail_is_reported)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 128, 0, 0, 0);
    seq_begin(&bench, 1, 1);
    uint32_t slot = bench.seqs[1].tail_slot;
    bench.seqs[1] = bench.seqs[0];
    bench.seqs[1].tail_slot = slot;
    const uint32_t counts[SEQS] = {0, 4};
    must_fail(&bench, run_step(&bench, counts), "no step wrote it");
    bench_done(&bench);
}
END_TEST

START_TEST(commands_on_the_null_unit_or_none_are_reported)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    const struct be_ops *ops = bench.device->ops;
    const uint32_t slots[] = {0, 8};
    const struct be_copy copies[] = {
        {BE_POOL_S, 1, 0}, {BE_POOL_S, UNITS, 1}, {BE_POOL_S, 1, UNITS}};
    unsigned char host[16];
    must_fail(&bench, ops->tail_reset(bench.device, &slots[0], 1, &bench.err), "null unit");
    must_fail(&bench, ops->tail_reset(bench.device, &slots[1], 1, &bench.err), "unit 8");
    must_fail(&bench, ops->page_copy(bench.device, &copies[0], 1, &bench.err), "null unit");
    must_fail(&bench, ops->page_copy(bench.device, &copies[1], 1, &bench.err), "unit 40");
    must_fail(&bench, ops->page_copy(bench.device, &copies[2], 1, &bench.err), "unit 40");
    must_fail(&bench, ops->page_in(bench.device, BE_POOL_G, 0, host, bench.event, &bench.err),
              "null unit");
    must_fail(&bench, ops->page_out(bench.device, BE_POOL_G, UNITS, host, bench.event, &bench.err),
              "unit 40");
    bench_done(&bench);
}
END_TEST

START_TEST(a_block_out_of_order_is_refused)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 6, 0, 0, 0);
    const uint32_t counts[SEQS] = {1};
    bench.number--;
    must_fail(&bench, run_step(&bench, counts), "comes after step");
    struct test_span span = span_of(&bench, &bench.seqs[0], 1);
    span.tail_slot = 9;
    struct be_step *step = test_step_new(++bench.number, &span, 1);
    ck_assert_int_eq(run_block(&bench, bench.forward, step), FM_INVALID); /* R7: nothing queued */
    fm_free(step);
    ck_assert_uint_eq(bench.log->submit_count, 1);
    must_run(&bench, 1, 0, 0, 0);
    bench_done(&bench);
}
END_TEST

/* ---- devices ------------------------------------------------------------------------------- */

static void expect_fault(enum fake_fault fault, const char *part)
{
    struct bench bench;
    bench_init(&bench, 3, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    must_run(&bench, 30, 0, 0, 0);
    bench.fault = fault;
    enum fm_status status = FM_OK;
    for (uint32_t i = 0; i < 400 && status == FM_OK; i++) {
        const uint32_t counts[SEQS] = {1};
        status = run_step(&bench, counts);
    }
    must_fail(&bench, status, part);
    bench_done(&bench);
}

START_TEST(a_device_that_writes_the_null_page_is_reported)
{
    expect_fault(FAKE_WRITES_NULL_PAGE, "unit 0 of pool S");
}
END_TEST

START_TEST(a_device_that_writes_another_row_is_reported)
{
    expect_fault(FAKE_WRITES_NEXT_ROW, "window row 3");
}
END_TEST

START_TEST(a_device_that_writes_a_foreign_unit_is_reported)
{
    expect_fault(FAKE_WRITES_FOREIGN_UNIT, "unit 39 of pool S");
}
END_TEST

START_TEST(a_device_that_keeps_the_block_is_reported)
{
    expect_fault(FAKE_KEEPS_BLOCK, "the fake device failed");
}
END_TEST

START_TEST(a_device_that_refuses_what_it_accepted_is_reported)
{
    expect_fault(FAKE_REFUSES_SIZE, "R6");
    expect_fault(FAKE_REFUSES_BLOCK, "R7");
}
END_TEST

START_TEST(a_broken_device_stays_broken)
{
    struct bench bench;
    bench_init(&bench, 3, NO_DRAFT, 0);
    seq_begin(&bench, 0, 1);
    bench.fault = FAKE_KEEPS_BLOCK;
    const uint32_t counts[SEQS] = {1};
    must_fail(&bench, run_step(&bench, counts), "failed");
    bench.fault = FAKE_SOUND;
    must_fail(&bench, run_step(&bench, counts), "the device has failed");
    must_fail(&bench,
              bench.device->ops->tail_reset(bench.device, &bench.seqs[0].tail_slot, 1, &bench.err),
              "the device has failed");
    bench_done(&bench);
}
END_TEST

/* ---- values and events --------------------------------------------------------------------- */

START_TEST(values_are_read_after_completion_and_within_the_step)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    const struct be_ops *ops = bench.device->ops;
    be_value_id logits = bench.programs->forward.logits;
    be_value_id inner = bench.programs->forward.layers[1].q;
    float *row = fm_alloc(3 * 512 * sizeof(float));
    seq_begin(&bench, 0, 1);
    struct test_span span = span_of(&bench, &bench.seqs[0], 6);
    span.logit_first = 4;
    struct be_step *step = test_step_new(++bench.number, &span, 1);
    ck_assert_int_eq(ops->submit(bench.device, bench.forward, step, bench.event, &bench.err),
                     FM_OK);
    must_fail(&bench, ops->value_read(bench.device, bench.forward, logits, 0, 1, row, &bench.err),
              "R3");
    ck_assert_int_eq(wait_event(&bench), FM_OK);
    ck_assert_int_eq(ops->value_read(bench.device, bench.forward, logits, 0, 2, row, &bench.err),
                     FM_OK);
    must_fail(&bench, ops->value_read(bench.device, bench.forward, logits, 1, 2, row, &bench.err),
              "which has 2");
    must_fail(&bench, ops->value_read(bench.device, bench.forward, inner, 0, 1, row, &bench.err),
              "not an output");
    must_fail(&bench, ops->value_read(bench.device, bench.forward, 0, 0, 1, row, &bench.err),
              "not an output");
    must_fail(&bench, ops->value_write(bench.device, bench.forward, logits, 0, 1, row, &bench.err),
              "not an input");
    fm_free(step);
    fm_free(row);
    bench_done(&bench);
}
END_TEST

START_TEST(an_event_is_given_away_once)
{
    struct bench bench;
    bench_init(&bench, 1, NO_DRAFT, 0);
    const struct be_ops *ops = bench.device->ops;
    seq_begin(&bench, 0, 1);
    seq_begin(&bench, 1, 2);
    struct test_span span = span_of(&bench, &bench.seqs[0], 6);
    struct be_step *first = test_step_new(++bench.number, &span, 1);
    span = span_of(&bench, &bench.seqs[1], 6);
    struct be_step *second = test_step_new(++bench.number, &span, 1);
    ck_assert_int_eq(ops->submit(bench.device, bench.forward, first, bench.event, &bench.err),
                     FM_OK);
    must_fail(&bench, ops->submit(bench.device, bench.forward, second, bench.event, &bench.err),
              "whose step is not complete");
    struct be_event *other = NULL;
    ck_assert_int_eq(ops->event_new(bench.device, &other, NULL), FM_OK);
    ck_assert_int_eq(ops->submit(bench.device, bench.forward, second, other, &bench.err), FM_OK);
    ck_assert_int_eq(ops->event_wait(bench.device, other, fm_clock_ns() + FM_NS_PER_S, &bench.err),
                     FM_OK);
    ck_assert_int_eq(ops->event_poll(bench.device, bench.event, &bench.err) == FM_AGAIN
                         ? wait_event(&bench)
                         : FM_OK,
                     FM_OK);
    ops->event_free(bench.device, other);
    fm_free(first);
    fm_free(second);
    bench_done(&bench);
}
END_TEST

/* MTP: streams of FORWARD joined in DRAFT, then DRAFT over its own. */
START_TEST(draft_steps_over_copied_streams_pass)
{
    struct bench bench;
    bench_init(&bench, 5, MTP, 0);
    const struct be_ops *ops = bench.device->ops;
    const struct eng_program *forward = &bench.programs->forward;
    const struct eng_program *draft = &bench.programs->draft;
    seq_begin(&bench, 0, 1);
    struct seq *seq = &bench.seqs[0];
    uint32_t drafted = 0;
    for (uint32_t count = 5; seq->length < 200; count = count % 13 + 3) {
        must_run(&bench, count, 0, 0, 0);
        struct seq shifted = *seq;
        memmove(shifted.tokens, shifted.tokens + 1, (TOKENS_MAX - 1) * sizeof(uint32_t));
        shifted.length = drafted;
        struct test_span span = span_of(&bench, &shifted, count);
        struct be_step *step = test_step_new(++bench.number, &span, 1);
        must_fail(&bench, run_block(&bench, bench.draft, step), "input value");
        ck_assert_int_eq(ops->value_copy(bench.device, bench.forward, forward->streams, 0,
                                         bench.draft, draft->join, 0, count, &bench.err),
                         FM_OK);
        enum fm_status status = run_block(&bench, bench.draft, step);
        ck_assert_msg(status == FM_OK, "%s", bench.err.text);
        fm_free(step);
        drafted += count;

        shifted.length = drafted; /* one token further, over its own streams */
        span = span_of(&bench, &shifted, 1);
        step = test_step_new(++bench.number, &span, 1);
        ck_assert_int_eq(ops->value_copy(bench.device, bench.draft, draft->streams, count - 1,
                                         bench.draft, draft->join, 0, 1, &bench.err),
                         FM_OK);
        status = run_block(&bench, bench.draft, step);
        ck_assert_msg(status == FM_OK, "%s", bench.err.text);
        fm_free(step);
    }
    bench_done(&bench);
}
END_TEST

START_TEST(blocks_of_dspark_read_the_context_of_their_sequence)
{
    struct bench bench;
    bench_init(&bench, 5, DSPARK, 0);
    seq_begin(&bench, 0, 1);
    seq_begin(&bench, 1, 2);
    must_run(&bench, 140, 139, 0, 0);
    struct test_span span = span_of(&bench, &bench.seqs[0], 3);
    span.logit_first = 0;
    span.g_count = 0;
    struct be_step *step = test_step_new(++bench.number, &span, 1);
    enum fm_status status = run_block(&bench, bench.draft, step);
    ck_assert_msg(status == FM_OK, "%s", bench.err.text);
    fm_free(step);

    const uint32_t wrong[] = {bench.seqs[0].s_pages[0], bench.seqs[1].s_pages[1]};
    span.s_pages = wrong;
    step = test_step_new(++bench.number, &span, 1);
    must_fail(&bench, run_block(&bench, bench.draft, step), "no step wrote it");
    fm_free(step);
    bench_done(&bench);
}
END_TEST

START_TEST(every_alloc_failure_is_survived)
{
    bool fired = true;
    struct eng_hparams hp = fake_tiny();
    struct eng_weights weights;
    const struct eng_program_options options = {.inject_layer = ENG_LAYER_NONE};
    hp.layer_count = 2;
    hp.expert_count = 2;
    struct eng_programs *programs = fake_build(&weights, &hp, &options);
    for (uint64_t nth = 1; fired; nth++) {
        static const enum fake_fault fault = FAKE_SOUND;
        struct fake_log *log = NULL;
        struct be_device *inner = NULL;
        struct be_device *device = NULL;
        struct be_exec *exec = NULL;
        struct be_event *event = NULL;
        ck_assert_int_eq(fake_device_open(&fault, &inner, &log, NULL), FM_OK);
        fm_fault_arm("alloc", nth);
        enum fm_status status = be_check_wrap(inner, 1, &device, NULL);
        if (status == FM_OK)
            status = device->ops->weights_load(device, &programs->model, NULL, NULL);
        if (status == FM_OK)
            status = device->ops->state_create(device, limits.units, NULL);
        if (status == FM_OK)
            status = device->ops->event_new(device, &event, NULL);
        if (status == FM_OK)
            status = device->ops->compile(device, &programs->forward.program, &limits, &exec, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert((exec != NULL) == (status == FM_OK));
        if (device == NULL) {
            inner->ops->close(inner);
            continue;
        }
        device->ops->exec_free(device, exec);
        device->ops->event_free(device, event);
        device->ops->close(device);
    }
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backend_check");
    TCase *tcase = tcase_create("right");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, right_steps_pass_in_any_split, 0, 20);
    tcase_add_test(tcase, fork_by_copy_passes);
    tcase_add_test(tcase, rollback_within_the_rings_passes);
    tcase_add_test(tcase, a_failed_step_can_be_run_again);
    tcase_add_test(tcase, a_full_device_is_asked_again);
    tcase_add_test(tcase, pages_from_the_host_fit_any_sequence);
    tcase_add_test(tcase, completion_is_held_back_for_a_while);
    tcase_add_test(tcase, draft_steps_over_copied_streams_pass);
    tcase_add_test(tcase, blocks_of_dspark_read_the_context_of_their_sequence);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("caller");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, each_dropped_edge_is_reported);
    tcase_add_test(tcase, limits_beyond_the_device_are_reported);
    tcase_add_test(tcase, each_shifted_page_is_reported);
    tcase_add_test(tcase, each_wrong_tail_slot_is_reported);
    tcase_add_test(tcase, a_stale_page_is_reported);
    tcase_add_test(tcase, a_unit_of_two_sequences_is_reported);
    tcase_add_test(tcase, a_page_that_is_read_and_written_in_one_step_is_reported);
    tcase_add_test(tcase, a_slot_that_was_not_reset_is_reported);
    tcase_add_test(tcase, a_fork_without_its_tail_is_reported);
    tcase_add_test(tcase, rollback_beyond_the_rings_is_reported);
    tcase_add_test(tcase, a_failed_step_leaves_nothing_to_read);
    tcase_add_test(tcase, commands_on_the_null_unit_or_none_are_reported);
    tcase_add_test(tcase, a_block_out_of_order_is_refused);
    tcase_add_test(tcase, values_are_read_after_completion_and_within_the_step);
    tcase_add_test(tcase, an_event_is_given_away_once);
    tcase_add_test(tcase, every_alloc_failure_is_survived);
    suite_add_tcase(suite, tcase);

    tcase = tcase_create("device");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, a_device_that_writes_the_null_page_is_reported);
    tcase_add_test(tcase, a_device_that_writes_another_row_is_reported);
    tcase_add_test(tcase, a_device_that_writes_a_foreign_unit_is_reported);
    tcase_add_test(tcase, a_device_that_keeps_the_block_is_reported);
    tcase_add_test(tcase, a_device_that_refuses_what_it_accepted_is_reported);
    tcase_add_test(tcase, a_broken_device_stays_broken);
    suite_add_tcase(suite, tcase);
    return suite;
}
