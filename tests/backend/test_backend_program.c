/* Whole programs on the cpu backend: equal to engine/ref row by row, whatever the steps.
 *
 * Two sequences run through FORWARD cut into steps in many ways.  Every row's logits must be the
 * reference's, and all pages and slots the same as those of every other way. */
#include <string.h>

#include "backends/backend.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/fault.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"
#include "backends/cpu/features.h"
#include "engine/program.h"
#include "engine/ref/ref.h"
#include "tests/support/steps.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

enum { SEQS = 2, LENGTH = 280, PAGES = 20, ROWS_MAX = 2 * LENGTH, BLOCK_MAX = 16 };

static const uint32_t units[BE_POOL_COUNT] = {1 + SEQS * PAGES, 1 + SEQS *PAGES, 1 + SEQS};

/* A model in files, as the reference and as programs. */
struct world {
    struct eng_hparams hparams;
    struct eng_weights *weights;
    struct eng_programs *programs;
    struct eng_ref_model *ref;
    uint32_t lengths[SEQS]; /* tokens of each sequence that are run */
    uint32_t tokens[SEQS][LENGTH + 1];
    float *logits[SEQS]; /* [LENGTH, V]: the reference's */
    uint32_t logit_at;   /* where the next report goes */
    float *report_to;
};

static void must(enum fm_status status, const struct fm_err *err)
{
    if (status != FM_OK)
        ck_abort_msg("%s: %s", fm_status_name(status), err->text);
}

static void take_logits(void *context, const struct eng_ref_tensor *tensor)
{
    struct world *world = context;
    bool is_logits = strcmp(tensor->name, "logits") == 0 ||
                     strcmp(tensor->name, "mtp.logits") == 0 ||
                     strcmp(tensor->name, "dspark.logits") == 0;
    uint32_t vocab = world->hparams.vocab_size;
    if (!is_logits)
        return;
    memcpy(world->report_to + (uint64_t)world->logit_at * vocab, tensor->data,
           (uint64_t)tensor->dims[0] * vocab * sizeof(float));
    world->logit_at += tensor->dims[0];
}

static struct eng_ref_state *ref_run(struct world *world, uint32_t seq)
{
    struct fm_err err = {0};
    struct eng_ref_state *state;
    struct eng_ref_hooks hooks = {.report = take_logits, .context = world};
    must(eng_ref_state_new(world->ref, LENGTH + BLOCK_MAX, &state, &err), &err);
    world->logit_at = 0;
    world->report_to = world->logits[seq];
    must(eng_ref_forward(world->ref, state, world->tokens[seq], world->lengths[seq], 0, &hooks,
                         &err),
         &err);
    return state;
}

static struct world *world_new(enum test_tiny_variant variant, uint32_t first, uint32_t second)
{
    struct fm_err err = {0};
    struct eng_program_options options = {.inject_layer = ENG_LAYER_NONE, .rollback_rows = 3};
    struct world *world = fm_alloc(sizeof *world);
    must(eng_weights_load(test_tiny_dir(variant, 5), &world->hparams, &world->weights, &err), &err);
    must(eng_programs_build(&world->hparams, world->weights, &options, &world->programs, &err),
         &err);
    must(eng_ref_model_new(&world->hparams, world->weights, &world->ref, &err), &err);
    world->lengths[0] = first;
    world->lengths[1] = second;
    for (uint32_t s = 0; s < SEQS; s++) {
        for (uint32_t i = 0; i <= LENGTH; i++)
            world->tokens[s][i] = (uint32_t)(fm_prng_u64(9, s, i) % world->hparams.vocab_size);
        world->logits[s] =
            fm_alloc_array((size_t)LENGTH * world->hparams.vocab_size, sizeof(float));
    }
    return world;
}

static void world_free(struct world *world)
{
    eng_ref_model_free(world->ref);
    eng_programs_free(world->programs);
    eng_weights_close(world->weights);
    for (uint32_t s = 0; s < SEQS; s++)
        fm_free(world->logits[s]);
    fm_free(world);
}

/* ---- device -------------------------------------------------------------------------------- */

struct machine {
    struct world *world;
    struct be_device *device;
    struct be_exec *forward, *draft;
    struct be_event *done;
    uint64_t number;
    uint32_t lengths[SEQS];
    uint32_t g_pages[SEQS][PAGES], s_pages[SEQS][PAGES];
};

static struct machine *machine_new(struct world *world, enum cpu_level level, uint32_t threads,
                                   uint64_t check_seed)
{
    struct fm_err err = {0};
    struct machine *machine = fm_alloc(sizeof *machine);
    struct be_device_options options = {.threads = threads, .variant = cpu_level_name(level)};
    struct be_reader reader = {.context = world->programs, .read = eng_programs_read};
    struct be_limits limits = {
        .rows_max = ROWS_MAX, .seqs_max = SEQS, .logit_rows_max = ROWS_MAX, .pages_max = 128};
    memcpy(limits.units, units, sizeof units);
    machine->world = world;
    must(be_registry_open("cpu", &options, &machine->device, &err), &err);
    if (check_seed != 0) {
        struct be_device *inner = machine->device;
        must(be_check_wrap(inner, check_seed, &machine->device, &err), &err);
    }
    struct be_device *device = machine->device;
    const struct be_ops *ops = device->ops;
    must(ops->weights_load(device, &world->programs->model, &reader, &err), &err);
    must(ops->state_create(device, units, &err), &err);
    must(ops->compile(device, &world->programs->forward.program, &limits, &machine->forward, &err),
         &err);
    if (world->programs->draft.program.op_count != 0)
        must(ops->compile(device, &world->programs->draft.program, &limits, &machine->draft, &err),
             &err);
    must(ops->event_new(device, &machine->done, &err), &err);
    uint32_t slots[SEQS];
    for (uint32_t s = 0; s < SEQS; s++) {
        slots[s] = 1 + s;
        for (uint32_t p = 0; p < PAGES; p++) {
            machine->g_pages[s][p] = 1 + p * SEQS + s;
            machine->s_pages[s][p] = units[BE_POOL_S] - 1 - (p * SEQS + s);
        }
    }
    must(ops->tail_reset(device, slots, SEQS, &err), &err);
    return machine;
}

static void machine_free(struct machine *machine)
{
    const struct be_ops *ops = machine->device->ops;
    ops->event_free(machine->device, machine->done);
    ops->exec_free(machine->device, machine->draft);
    ops->exec_free(machine->device, machine->forward);
    ops->close(machine->device);
    fm_free(machine);
}

static enum fm_status wait_done(struct machine *machine, struct fm_err *err)
{
    return machine->device->ops->event_wait(machine->device, machine->done,
                                            fm_clock_ns() + 60 * FM_NS_PER_S, err);
}

static struct test_span span_of(struct machine *machine, uint32_t seq, const uint32_t *tokens,
                                uint32_t length, uint32_t count)
{
    uint32_t tokens_of_page = machine->world->programs->layout.page_tokens;
    uint32_t last = (length + count - 1) / tokens_of_page;
    uint32_t first = be_step_s_page_first(length, tokens_of_page);
    return (struct test_span){.tokens = tokens,
                              .length_before = length,
                              .row_count = count,
                              .tail_slot = 1 + seq,
                              .g_pages = machine->g_pages[seq],
                              .g_count = last + 1,
                              .s_pages = machine->s_pages[seq] + first,
                              .s_count = last + 1 - first};
}

static void logits_compare(struct machine *machine, struct be_exec *exec, be_value_id value,
                           uint32_t row, const float *wanted, const char *what, uint32_t number)
{
    struct fm_err err = {0};
    uint32_t vocab = machine->world->hparams.vocab_size;
    float *logits = fm_alloc_array(vocab, sizeof *logits);
    must(machine->device->ops->value_read(machine->device, exec, value, row, 1, logits, &err),
         &err);
    if (memcmp(logits, wanted, vocab * sizeof *logits) != 0)
        ck_abort_msg("%s %u: logits differ from the reference's", what, number);
    fm_free(logits);
}

/* counts[i] tokens of sequence order[i]; compares every row.  `fails`: the step is first stopped
 * half way. */
static void step_run(struct machine *machine, uint32_t seq_count, const uint32_t *order,
                     const uint32_t *counts, bool fails)
{
    struct world *world = machine->world;
    struct fm_err err = {0};
    struct test_span spans[SEQS];
    for (uint32_t i = 0; i < seq_count; i++)
        spans[i] = span_of(machine, order[i], world->tokens[order[i]] + machine->lengths[order[i]],
                           machine->lengths[order[i]], counts[i]);
    if (fails) {
        struct be_step *step = test_step_new(++machine->number, spans, seq_count);
        fm_fault_arm("cpu step", 1);
        must(machine->device->ops->submit(machine->device, machine->forward, step, machine->done,
                                          &err),
             &err);
        ck_assert_int_eq(wait_done(machine, &err), FM_IO);
        ck_assert(fm_fault_disarm("cpu step"));
        fm_free(step);
    }
    struct be_step *step = test_step_new(++machine->number, spans, seq_count);
    must(machine->device->ops->submit(machine->device, machine->forward, step, machine->done, &err),
         &err);
    memset(step, 0xee, step->bytes); /* R3: the block was copied */
    fm_free(step);
    must(wait_done(machine, &err), &err);
    uint32_t row = 0;
    for (uint32_t i = 0; i < seq_count; i++)
        for (uint32_t r = 0; r < counts[i]; r++, row++)
            logits_compare(machine, machine->forward, world->programs->forward.logits, row,
                           world->logits[order[i]] + (uint64_t)(machine->lengths[order[i]] + r) *
                                                         world->hparams.vocab_size,
                           "position", machine->lengths[order[i]] + r);
    for (uint32_t i = 0; i < seq_count; i++)
        machine->lengths[order[i]] += counts[i];
}

/* All units of all pools, one behind the other. */
static uint8_t *state_read(struct machine *machine, size_t *ret_bytes)
{
    struct fm_err err = {0};
    size_t bytes = 0, at = 0;
    const struct be_model *model = &machine->world->programs->model;
    for (uint32_t p = 0; p < BE_POOL_COUNT; p++)
        bytes += units[p] * be_pool_unit_bytes(model, (enum be_pool)p);
    uint8_t *state = fm_alloc(bytes);
    for (uint32_t p = 0; p < BE_POOL_COUNT; p++)
        for (uint32_t u = 0; u < units[p]; u++) {
            must(machine->device->ops->page_out(machine->device, (enum be_pool)p, u, state + at,
                                                machine->done, &err),
                 &err);
            must(wait_done(machine, &err), &err);
            at += be_pool_unit_bytes(model, (enum be_pool)p);
        }
    *ret_bytes = bytes;
    return state;
}

/* How a run cuts its sequences into steps. */
enum way { WAY_WHOLE, WAY_SINGLY, WAY_RANDOM, WAY_RANDOM_WITH_FAILURES };

static uint8_t *run(struct world *world, enum cpu_level level, uint32_t threads, enum way way,
                    uint64_t seed, size_t *ret_bytes)
{
    uint64_t check_seed = way == WAY_RANDOM && threads == 3 ? seed : 0;
    struct machine *machine = machine_new(world, level, threads, check_seed);
    for (uint64_t draw = 0;; draw++) {
        uint32_t counts[SEQS], order[SEQS], seq_count = 0;
        uint32_t turn = (uint32_t)(fm_prng_u64(seed, 1, draw) % SEQS);
        for (uint32_t i = 0; i < SEQS; i++) {
            uint32_t s = (i + turn) % SEQS, left = world->lengths[s] - machine->lengths[s];
            uint64_t random = fm_prng_u64(seed, 2 + s, draw);
            uint32_t count = (uint32_t)(random / 3 % (random % 2 == 0 ? 6 : 90));
            if (random % 3 == 0)
                count = 0;
            if (way == WAY_WHOLE || way == WAY_SINGLY)
                count = way == WAY_WHOLE ? left : 1;
            count = fm_min_u32(count, left);
            if (count == 0)
                continue;
            order[seq_count] = s;
            counts[seq_count++] = count;
        }
        if (memcmp(machine->lengths, world->lengths, sizeof world->lengths) == 0)
            break;
        if (seq_count != 0)
            step_run(machine, seq_count, order, counts,
                     way == WAY_RANDOM_WITH_FAILURES && draw % 2 == 0);
    }
    uint8_t *state = state_read(machine, ret_bytes);
    machine_free(machine);
    return state;
}

static enum cpu_level best_level(void)
{
    enum cpu_level level;
    struct fm_err err;
    must(cpu_level_choose(NULL, &level, &err), &err);
    return level;
}

static void state_compare(uint8_t *state, const uint8_t *wanted, size_t bytes)
{
    size_t i = 0;
    while (i < bytes && state[i] == wanted[i])
        i++;
    if (i < bytes)
        ck_abort_msg("byte %zu of the state is %02x, not %02x", i, state[i], wanted[i]);
    fm_free(state);
}

START_TEST(any_cut_into_steps_gives_the_references_logits_and_one_state)
{
    struct world *world = world_new((enum test_tiny_variant)_i, LENGTH, 141);
    size_t bytes;
    for (uint32_t s = 0; s < SEQS; s++)
        eng_ref_state_free(ref_run(world, s));
    uint8_t *whole = run(world, best_level(), 2, WAY_WHOLE, 1, &bytes);
    uint64_t seed = test_seed();
    state_compare(run(world, best_level(), 1, WAY_SINGLY, 1, &bytes), whole, bytes);
    state_compare(run(world, best_level(), 2, WAY_RANDOM, seed, &bytes), whole, bytes);
    state_compare(run(world, best_level(), 3, WAY_RANDOM, seed + 1, &bytes), whole, bytes);
    fm_free(whole);
    world_free(world);
}
END_TEST

START_TEST(every_level_and_number_of_threads_gives_one_state)
{
    struct world *world = world_new(TEST_TINY_DEFAULT, 133, 40);
    size_t bytes;
    for (uint32_t s = 0; s < SEQS; s++)
        eng_ref_state_free(ref_run(world, s));
    uint8_t *whole = run(world, best_level(), 1, WAY_WHOLE, 1, &bytes);
    for (uint32_t level = 0; level < CPU_LEVEL_COUNT; level++)
        for (uint32_t threads = 1; threads <= 3; threads++)
            if (cpu_level_is_offered((enum cpu_level)level))
                state_compare(
                    run(world, (enum cpu_level)level, threads, WAY_RANDOM, 77 + threads, &bytes),
                    whole, bytes);
    fm_free(whole);
    world_free(world);
}
END_TEST

START_TEST(a_step_that_failed_half_way_can_be_tried_again)
{
    struct world *world = world_new(TEST_TINY_DEFAULT, LENGTH, 141);
    size_t bytes;
    for (uint32_t s = 0; s < SEQS; s++)
        eng_ref_state_free(ref_run(world, s));
    uint8_t *whole = run(world, best_level(), 1, WAY_WHOLE, 1, &bytes);
    for (uint64_t seed = 1; seed <= 3; seed++)
        state_compare(run(world, best_level(), 2, WAY_RANDOM_WITH_FAILURES, seed, &bytes), whole,
                      bytes);
    fm_free(whole);
    world_free(world);
}
END_TEST

/* ---- draft --------------------------------------------------------------------------------- */

START_TEST(mtp_drafts_from_the_streams_of_the_forward_step)
{
    struct world *world = world_new(TEST_TINY_DEFAULT, LENGTH, 0);
    struct fm_err err = {0};
    struct eng_ref_hooks hooks = {.report = take_logits, .context = world};
    struct eng_ref_state *state = ref_run(world, 0);
    struct machine *machine = machine_new(world, best_level(), 2, 0);
    const struct eng_programs *programs = world->programs;
    uint32_t order = 0, count = LENGTH, vocab = world->hparams.vocab_size;
    float *wanted = fm_alloc_array((size_t)LENGTH * vocab, sizeof *wanted);
    world->logit_at = 0;
    world->report_to = wanted;
    must(eng_ref_mtp(world->ref, state, 0, world->tokens[0] + 1, LENGTH, &hooks, &err), &err);

    step_run(machine, 1, &order, &count, false);
    must(machine->device->ops->value_copy(machine->device, machine->forward,
                                          programs->forward.streams, 0, machine->draft,
                                          programs->draft.join, 0, LENGTH, &err),
         &err);
    struct test_span span = span_of(machine, 0, world->tokens[0] + 1, 0, LENGTH);
    struct be_step *step = test_step_new(++machine->number, &span, 1);
    must(machine->device->ops->submit(machine->device, machine->draft, step, machine->done, &err),
         &err);
    must(wait_done(machine, &err), &err);
    for (uint32_t r = 0; r < LENGTH; r++)
        logits_compare(machine, machine->draft, programs->draft.logits, r,
                       wanted + (uint64_t)r * vocab, "draft of position", r);
    fm_free(step);
    fm_free(wanted);
    machine_free(machine);
    eng_ref_state_free(state);
    world_free(world);
}
END_TEST

struct block_report {
    struct world *world;
    int64_t tokens[BLOCK_MAX];
    float confidence[BLOCK_MAX];
};

static void take_block(void *context, const struct eng_ref_tensor *tensor)
{
    struct block_report *report = context;
    if (strcmp(tensor->name, "dspark.tokens") == 0)
        memcpy(report->tokens, tensor->data, tensor->dims[0] * sizeof report->tokens[0]);
    else if (strcmp(tensor->name, "dspark.confidence") == 0)
        memcpy(report->confidence, tensor->data, tensor->dims[0] * sizeof report->confidence[0]);
    else
        take_logits(report->world, tensor);
}

START_TEST(dspark_proposes_a_block_behind_the_context)
{
    struct world *world = world_new(TEST_TINY_DSPARK, LENGTH, 0);
    struct fm_err err = {0};
    struct block_report report = {.world = world};
    struct eng_ref_hooks hooks = {.report = take_block, .context = &report};
    struct eng_ref_state *state = ref_run(world, 0);
    struct machine *machine = machine_new(world, best_level(), 2, 0);
    const struct eng_program *draft = &world->programs->draft;
    uint32_t order = 0, count = LENGTH, vocab = world->hparams.vocab_size;
    uint32_t block = world->hparams.dspark_block_size, tokens[BLOCK_MAX];
    float *wanted = fm_alloc_array((size_t)block * vocab, sizeof *wanted);
    world->logit_at = 0;
    world->report_to = wanted;
    must(eng_ref_dspark(world->ref, state, LENGTH - 1, world->tokens[0][LENGTH], &hooks, &err),
         &err);

    step_run(machine, 1, &order, &count, false);
    for (uint32_t i = 0; i < block; i++)
        tokens[i] = i == 0 ? world->tokens[0][LENGTH] : world->hparams.dspark_noise_token_id;
    struct test_span span = span_of(machine, 0, tokens, LENGTH, block);
    struct be_step *step = test_step_new(++machine->number, &span, 1);
    must(machine->device->ops->submit(machine->device, machine->draft, step, machine->done, &err),
         &err);
    must(wait_done(machine, &err), &err);
    int32_t proposed[BLOCK_MAX];
    float confidence[BLOCK_MAX];
    must(machine->device->ops->value_read(machine->device, machine->draft, draft->tokens, 0, 1,
                                          proposed, &err),
         &err);
    must(machine->device->ops->value_read(machine->device, machine->draft, draft->confidence, 0, 1,
                                          confidence, &err),
         &err);
    for (uint32_t i = 0; i < block; i++) {
        ck_assert_int_eq(proposed[i], report.tokens[i]);
        ck_assert(memcmp(&confidence[i], &report.confidence[i], sizeof confidence[i]) == 0);
        logits_compare(machine, machine->draft, draft->logits, i, wanted + (uint64_t)i * vocab,
                       "proposal", i);
    }
    fm_free(step);
    fm_free(wanted);
    machine_free(machine);
    eng_ref_state_free(state);
    world_free(world);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backend/program");
    TCase *tcase = tcase_create("program");
    tcase_set_timeout(tcase, 240);
    tcase_add_loop_test(tcase, any_cut_into_steps_gives_the_references_logits_and_one_state, 0,
                        TEST_TINY_VARIANTS);
    tcase_add_test(tcase, every_level_and_number_of_threads_gives_one_state);
    tcase_add_test(tcase, a_step_that_failed_half_way_can_be_tried_again);
    tcase_add_test(tcase, mtp_drafts_from_the_streams_of_the_forward_step);
    tcase_add_test(tcase, dspark_proposes_a_block_behind_the_context);
    suite_add_tcase(suite, tcase);
    return suite;
}
