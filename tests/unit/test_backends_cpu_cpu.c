/* The cpu device apart from arithmetic: queue, events, commands, refusals, cleanup. */
#include <poll.h>
#include <string.h>

#include "backends/backend.h"
#include "backends/base/clock.h"
#include "backends/base/fault.h"
#include "backends/base/mem.h"
#include "tests/support/support.h"

enum { DIM = 128, VOCAB = 40, ROWS = 8 };

static uint8_t embed[VOCAB * DIM * 2];
static const uint32_t units[BE_POOL_COUNT] = {3, 3, 3};

static const struct be_weight weights[] = {
    {0}, {.name = "embed", .format = BE_FORMAT_BF16, .rows = VOCAB, .cols = DIM}};
static const struct be_state states[] = {
    {0},
    {.class = BE_CLASS_WINDOW, .rows = 128, .row_bytes = 200},
    {.class = BE_CLASS_TAIL, .ratio = 4, .rows = 8, .row_bytes = 2 * DIM * 8}};
static const struct be_value values[] = {
    {0}, {.elem = BE_ELEM_BF16, .outer = 2, .inner = DIM, .flags = BE_VALUE_OUTPUT}};
static const struct be_op op = {.kind = BE_OP_EMBED, .weight = {1}, .out = {1}};
static float inverse[32];
static const struct be_model model = {
    .shape = {.dim = DIM,
              .streams = 2,
              .head_dim = DIM,
              .rope_dim = 64,
              .out_groups = 1,
              .window = 16,
              .page_tokens = 128,
              .vocab = VOCAB,
              .layer_count = 1,
              .inv_freq_plain = inverse,
              .inv_freq_yarn = inverse},
    .weights = weights,
    .weight_count = 2,
    .states = states,
    .state_count = 3,
};
static const struct be_program program = {
    .model = &model, .values = values, .value_count = 2, .ops = &op, .op_count = 1};

static enum fm_status read_rows(void *context, be_weight_id weight, enum be_part part,
                                uint32_t row_first, uint32_t row_count, void *target,
                                struct fm_err *err)
{
    (void)context;
    (void)weight;
    (void)part;
    (void)err;
    memcpy(target, embed + row_first * DIM * 2, row_count * DIM * 2);
    return FM_OK;
}

struct machine {
    struct be_device *device;
    struct be_exec *exec;
    struct be_event *done;
};

static enum fm_status machine_open(uint32_t threads, struct machine *machine, struct fm_err *err)
{
    struct be_device_options options = {.threads = threads};
    struct be_reader reader = {.read = read_rows};
    struct be_limits limits = {
        .rows_max = ROWS, .seqs_max = 2, .logit_rows_max = 1, .pages_max = 4, .units = {3, 3, 3}};
    enum fm_status status = be_registry_open("cpu", &options, &machine->device, err);
    if (status != FM_OK)
        return status;
    const struct be_ops *ops = machine->device->ops;
    status = ops->weights_load(machine->device, &model, &reader, err);
    if (status == FM_OK)
        status = ops->state_create(machine->device, units, err);
    if (status == FM_OK)
        status = ops->compile(machine->device, &program, &limits, &machine->exec, err);
    if (status == FM_OK)
        status = ops->event_new(machine->device, &machine->done, err);
    return status;
}

static void machine_close(struct machine *machine)
{
    if (machine->device == NULL)
        return;
    const struct be_ops *ops = machine->device->ops;
    ops->event_free(machine->device, machine->done);
    ops->exec_free(machine->device, machine->exec);
    ops->close(machine->device);
    *machine = (struct machine){0};
}

static struct machine opened(void)
{
    struct machine machine = {0};
    struct fm_err err = {0};
    for (uint32_t i = 0; i < sizeof embed; i++)
        embed[i] = (uint8_t)(i * 7 % 120);
    enum fm_status status = machine_open(2, &machine, &err);
    ck_assert_msg(status == FM_OK, "%s", err.text);
    return machine;
}

struct block {
    struct be_step step;
    struct be_row rows[ROWS];
    struct be_seq seqs[1];
};

static struct be_step *block_make(uint32_t rows, int32_t token, void *memory)
{
    struct be_step *step = memory;
    *step = (struct be_step){.number = 1, .row_count = rows, .seq_count = 1};
    struct be_row *row = (struct be_row *)(void *)(step + 1);
    for (uint32_t i = 0; i < rows; i++)
        row[i] = (struct be_row){.token = token, .position = i, .logit = BE_NO_LOGIT};
    *(struct be_seq *)(void *)(row + rows) = (struct be_seq){.row_count = rows};
    be_step_seal(step);
    return step;
}

static void finish(struct machine *machine, enum fm_status wanted)
{
    struct fm_err err;
    ck_assert_int_eq(machine->device->ops->event_wait(machine->device, machine->done,
                                                      fm_clock_ns() + 20 * FM_NS_PER_S, &err),
                     wanted);
}

START_TEST(a_step_completes_its_event_and_makes_its_descriptor_readable)
{
    struct machine machine = opened();
    const struct be_ops *ops = machine.device->ops;
    struct fm_err err;
    struct block memory;
    uint16_t x[2 * DIM];
    struct pollfd fd = {.fd = ops->event_fd(machine.device, machine.done), .events = POLLIN};
    ck_assert_int_eq(ops->event_poll(machine.device, machine.done, &err), FM_AGAIN);
    ck_assert_int_eq(ops->event_wait(machine.device, machine.done, fm_clock_ns() + 1000, &err),
                     FM_AGAIN);
    for (int32_t token = 0; token < VOCAB; token++) {
        struct be_step *step = block_make(3, token, &memory);
        ck_assert_int_eq(ops->submit(machine.device, machine.exec, step, machine.done, &err),
                         FM_OK);
        memset(&memory, 0xff, sizeof memory); /* the block was copied */
        ck_assert_int_eq(poll(&fd, 1, 20000), 1);
        ck_assert_int_eq(ops->event_poll(machine.device, machine.done, &err), FM_OK);
        ck_assert_int_eq(ops->value_read(machine.device, machine.exec, 1, 2, 1, x, &err), FM_OK);
        ck_assert_mem_eq(x, embed + token * DIM * 2, DIM * 2);
        ck_assert_mem_eq(x + DIM, embed + token * DIM * 2, DIM * 2);
    }
    machine_close(&machine);
}
END_TEST

START_TEST(what_is_out_of_range_is_refused_before_anything_is_queued)
{
    struct machine machine = opened();
    const struct be_ops *ops = machine.device->ops;
    struct fm_err err;
    struct block memory;
    uint8_t page[128 * 200];
    uint16_t x[2 * DIM];
    struct be_step *step = block_make(3, VOCAB, &memory);
    ck_assert_int_eq(ops->submit(machine.device, machine.exec, step, machine.done, &err),
                     FM_INVALID);
    step = block_make(3, 1, &memory);
    step->crc ^= 1;
    ck_assert_int_eq(ops->submit(machine.device, machine.exec, step, machine.done, &err),
                     FM_INVALID);
    ck_assert_int_eq(ops->event_poll(machine.device, machine.done, &err), FM_AGAIN);

    struct be_copy copy = {.pool = BE_POOL_S, .source = 1, .target = 0};
    ck_assert_int_eq(ops->page_copy(machine.device, &copy, 1, &err), FM_INVALID);
    copy = (struct be_copy){.pool = BE_POOL_S, .source = 3, .target = 1};
    ck_assert_int_eq(ops->page_copy(machine.device, &copy, 1, &err), FM_INVALID);
    ck_assert_int_eq(ops->tail_reset(machine.device, &(uint32_t){0}, 1, &err), FM_INVALID);
    ck_assert_int_eq(ops->page_in(machine.device, BE_POOL_S, 0, page, NULL, &err), FM_INVALID);
    ck_assert_int_eq(ops->page_out(machine.device, BE_POOL_S, 3, page, NULL, &err), FM_INVALID);
    ck_assert_int_eq(ops->value_read(machine.device, machine.exec, 1, ROWS, 1, x, &err),
                     FM_INVALID);
    ck_assert_int_eq(ops->value_write(machine.device, machine.exec, 1, 0, 1, x, &err), FM_INVALID);
    machine_close(&machine);
}
END_TEST

START_TEST(commands_take_effect_in_the_order_of_submission)
{
    struct machine machine = opened();
    const struct be_ops *ops = machine.device->ops;
    struct fm_err err;
    static uint8_t first[128 * 200], second[128 * 200], got[128 * 200];
    memset(first, 1, sizeof first);
    memset(second, 2, sizeof second);
    struct be_copy copies[40]; /* more than one command holds */
    for (uint32_t i = 0; i < 40; i++)
        copies[i] = (struct be_copy){.pool = BE_POOL_S, .source = 1 + i % 2, .target = 2 - i % 2};
    for (uint32_t round = 0; round < 300; round++) { /* more commands than the ring has places */
        ck_assert_int_eq(ops->page_in(machine.device, BE_POOL_S, 1, first, NULL, &err), FM_OK);
        ck_assert_int_eq(ops->page_in(machine.device, BE_POOL_S, 2, second, NULL, &err), FM_OK);
        ck_assert_int_eq(ops->page_copy(machine.device, copies, 40, &err), FM_OK);
    }
    ck_assert_int_eq(ops->page_out(machine.device, BE_POOL_S, 2, got, machine.done, &err), FM_OK);
    finish(&machine, FM_OK);
    ck_assert_mem_eq(got, first, sizeof got);
    ck_assert_int_eq(ops->page_out(machine.device, BE_POOL_S, 0, got, machine.done, &err), FM_OK);
    finish(&machine, FM_OK);
    for (uint32_t i = 0; i < sizeof got; i++)
        if (got[i] != 0)
            ck_abort_msg("the null page holds %u", got[i]);
    machine_close(&machine);
}
END_TEST

START_TEST(a_reset_tail_has_no_rows)
{
    struct machine machine = opened();
    const struct be_ops *ops = machine.device->ops;
    struct fm_err err;
    uint64_t bytes = be_pool_unit_bytes(&model, BE_POOL_T);
    ck_assert_uint_eq(bytes, 8 * 2 * DIM * 8);
    float *rows = fm_alloc(bytes);
    ck_assert_int_eq(ops->tail_reset(machine.device, (uint32_t[]){2, 1}, 2, &err), FM_OK);
    ck_assert_int_eq(ops->page_out(machine.device, BE_POOL_T, 2, rows, machine.done, &err), FM_OK);
    finish(&machine, FM_OK);
    for (uint32_t r = 0; r < 8; r++)
        for (uint32_t c = 0; c < 2 * DIM; c++) {
            const float *row = rows + r * 4 * DIM;
            if (row[c] != 0.0f || row[2 * DIM + c] != -__builtin_inff())
                ck_abort_msg("row %u, column %u: %g and %g", r, c, (double)row[c],
                             (double)row[2 * DIM + c]);
        }
    fm_free(rows);
    machine_close(&machine);
}
END_TEST

START_TEST(a_failed_step_fails_its_event_and_no_other)
{
    struct machine machine = opened();
    const struct be_ops *ops = machine.device->ops;
    struct fm_err err;
    struct block memory;
    struct be_step *step = block_make(1, 1, &memory);
    fm_fault_arm("cpu step", 2);
    ck_assert_int_eq(ops->submit(machine.device, machine.exec, step, machine.done, &err), FM_OK);
    finish(&machine, FM_OK);
    ck_assert_int_eq(ops->submit(machine.device, machine.exec, step, machine.done, &err), FM_OK);
    finish(&machine, FM_IO);
    ck_assert(fm_fault_disarm("cpu step"));
    ck_assert_int_eq(ops->submit(machine.device, machine.exec, step, machine.done, &err), FM_OK);
    finish(&machine, FM_OK);
    machine_close(&machine);
}
END_TEST

START_TEST(steps_are_taken_up_to_the_depth_that_caps_says)
{
    struct machine machine = opened();
    const struct be_ops *ops = machine.device->ops;
    struct be_caps caps;
    struct fm_err err;
    struct block memory;
    struct be_event *events[64];
    uint32_t taken = 0;
    ops->caps(machine.device, &caps);
    ck_assert(caps.is_canonical && !caps.is_batch_variant && caps.numerics == BE_NUMERICS_E);
    struct be_step *step = block_make(ROWS, 1, &memory);
    for (uint32_t i = 0; i < 64; i++) {
        ck_assert_int_eq(ops->event_new(machine.device, &events[i], &err), FM_OK);
        enum fm_status status = ops->submit(machine.device, machine.exec, step, events[i], &err);
        ck_assert(status == FM_OK || status == FM_AGAIN);
        ck_assert(i > caps.async_depth || status == FM_OK);
        if (status == FM_OK)
            taken++;
        else
            ck_assert_int_eq(ops->event_poll(machine.device, events[i], &err), FM_AGAIN);
    }
    ck_assert_uint_ge(taken, caps.async_depth + 1);
    for (uint32_t i = 0; i < 64; i++)
        ops->event_free(machine.device, events[i]); /* also of steps that still run */
    machine_close(&machine);
}
END_TEST

START_TEST(opening_and_compiling_survive_every_alloc_failure)
{
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct machine machine = {0};
        struct fm_err err = {0};
        fm_fault_arm("alloc", nth);
        enum fm_status status = machine_open(3, &machine, &err);
        fired = fm_fault_disarm("alloc");
        if (status != (fired ? FM_NOMEM : FM_OK))
            ck_abort_msg("allocation %u: %s: %s", nth, fm_status_name(status), err.text);
        machine_close(&machine);
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backends/cpu/cpu");
    TCase *tcase = tcase_create("cpu");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, a_step_completes_its_event_and_makes_its_descriptor_readable);
    tcase_add_test(tcase, what_is_out_of_range_is_refused_before_anything_is_queued);
    tcase_add_test(tcase, commands_take_effect_in_the_order_of_submission);
    tcase_add_test(tcase, a_reset_tail_has_no_rows);
    tcase_add_test(tcase, a_failed_step_fails_its_event_and_no_other);
    tcase_add_test(tcase, steps_are_taken_up_to_the_depth_that_caps_says);
    tcase_add_test(tcase, opening_and_compiling_survive_every_alloc_failure);
    suite_add_tcase(suite, tcase);
    return suite;
}
