/* exec.c - programs, steps and values of the verifying device. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "backends/check/check.h"
#include "backends/check/permute.h"

enum { SCRIBBLE = 0xa5, WAIT_FOR_EVER_S = 600 };

static struct check_exec *exec_of(struct be_exec *exec)
{
    return (struct check_exec *)(void *)exec;
}

static uint64_t *written_of(const struct check_exec *exec, be_value_id value)
{
    return exec->written + (size_t)value * exec->words;
}

/* ---- compile ------------------------------------------------------------------------------- */

void be_check_exec_free(struct be_device *device, struct be_exec *opaque)
{
    struct check_device *check = check_of(device);
    struct check_exec *exec = exec_of(opaque);
    if (exec == NULL)
        return;
    for (uint32_t i = 0; i < CHECK_ORDERS; i++) {
        if (exec->orders[i] != NULL)
            check->inner->ops->exec_free(check->inner, exec->orders[i]);
    }
    be_check_permute_free(exec->program);
    fm_free(exec->written);
    fm_free(exec->digests);
    fm_free(exec);
}

static enum fm_status check_limits(const struct check_device *check,
                                   const struct be_program *program, const struct be_limits *limits,
                                   struct fm_err *err)
{
    if (!check->has_state || program->model != check->model)
        return FM_FAIL(err, FM_DEVICE, "a program is compiled %s",
                       check->has_state ? "that is of another model" : "before state is created");
    if (limits->rows_max == 0 || limits->rows_max > check->caps.rows_max || limits->seqs_max == 0 ||
        limits->logit_rows_max > BE_NO_LOGIT)
        return FM_FAIL(err, FM_DEVICE,
                       "limits are %u rows, %u sequences, %u logit rows; the device takes %u rows",
                       limits->rows_max, limits->seqs_max, limits->logit_rows_max,
                       check->caps.rows_max);
    for (int pool = 0; pool < BE_POOL_COUNT; pool++) {
        if (limits->units[pool] > check->shadow.units[pool])
            return FM_FAIL(err, FM_DEVICE, "limits name %u units of pool %c, %u were created",
                           limits->units[pool], "GST"[pool], check -> shadow.units[pool]);
    }
    return FM_OK;
}

/* Every record can hold any step of these limits. */
static enum fm_status grow_records(struct check_device *check, const struct be_program *program,
                                   const struct be_limits *limits, struct fm_err *err)
{
    size_t bytes = be_step_bytes(limits->rows_max, limits->seqs_max, limits->logit_rows_max,
                                 limits->pages_max);
    uint32_t room = be_shadow_log_room(program, limits);
    for (uint32_t i = 0; i < check->record_count; i++) {
        struct record *record = &check->records[i];
        if (atomic_load_explicit(&record->state, memory_order_acquire) != RECORD_FREE)
            return FM_FAIL(err, FM_DEVICE, "a program is compiled while steps run");
        if (bytes > record->block_bytes) {
            struct be_step *block = fm_alloc_aligned(64, bytes);
            if (block == NULL)
                return FM_FAIL(err, FM_NOMEM, "no memory for a block of %zu bytes", bytes);
            fm_free(record->block);
            record->block = block;
            record->block_bytes = bytes;
        }
        if (room > record->log.room) {
            struct shadow_undo *entries = fm_alloc_array(room, sizeof(*entries));
            if (entries == NULL)
                return FM_FAIL(err, FM_NOMEM, "no memory for a log of %u rows", room);
            fm_free(record->log.entries);
            record->log = (struct shadow_log){.entries = entries, .room = room};
        }
    }
    return FM_OK;
}

static enum fm_status take_memory(struct check_exec *exec, struct fm_err *err)
{
    const struct be_program *program = exec->program;
    exec->words = (exec->limits.rows_max + 63) / 64;
    exec->written = fm_alloc_array((size_t)program->value_count * exec->words, sizeof(uint64_t));
    exec->digests = fm_alloc_array((size_t)exec->limits.rows_max + 1, sizeof(uint64_t));
    if (exec->written == NULL || exec->digests == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory to follow steps of %u rows",
                       exec->limits.rows_max);
    return FM_OK;
}

/* The given order and others that its edges allow. */
static enum fm_status compile_orders(struct check_device *check, struct check_exec *exec,
                                     struct fm_err *err)
{
    enum fm_status status = FM_OK;
    for (uint32_t i = 0; i < CHECK_ORDERS && status == FM_OK; i++) {
        struct be_program *order = NULL;
        status =
            be_check_permute(exec->program, i == 0 ? 0 : be_check_draw(check) | 1, &order, err);
        if (status != FM_OK)
            break;
        status = be_program_check(order, err);
        if (status == FM_OK)
            status = check->inner->ops->compile(check->inner, order, &exec->limits,
                                                &exec->orders[i], err);
        be_check_permute_free(order);
    }
    return status;
}

enum fm_status be_check_compile(struct be_device *device, const struct be_program *program,
                                const struct be_limits *limits, struct be_exec **ret_exec,
                                struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct fm_err why = {0};
    enum fm_status status = be_check_ready(check, err);
    if (status != FM_OK)
        return status;
    status = be_program_check(program, &why);
    if (status != FM_OK)
        return FM_FAIL(err, status == FM_INVALID ? FM_DEVICE : status, "program: %s", why.text);
    status = check_limits(check, program, limits, err);
    if (status == FM_OK)
        status = grow_records(check, program, limits, err);
    if (status != FM_OK)
        return status;

    struct check_exec *exec = fm_alloc(sizeof(*exec));
    if (exec == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a program");
    exec->limits = *limits;
    status = be_check_permute(program, 0, &exec->program, err);
    if (status == FM_OK)
        status = take_memory(exec, err);
    if (status == FM_OK)
        status = compile_orders(check, exec, err);
    if (status != FM_OK) {
        be_check_exec_free(device, (struct be_exec *)(void *)exec);
        return status;
    }
    *ret_exec = (struct be_exec *)(void *)exec;
    return FM_OK;
}

/* ---- submit -------------------------------------------------------------------------------- */

static struct record *free_record(struct check_device *check)
{
    for (uint32_t i = 0; i < check->record_count; i++) {
        if (atomic_load_explicit(&check->records[i].state, memory_order_acquire) == RECORD_FREE)
            return &check->records[i];
    }
    return NULL;
}

static enum fm_status check_inputs(const struct check_exec *exec, const struct be_step *step,
                                   struct fm_err *err)
{
    for (uint32_t id = 1; id < exec->program->value_count; id++) {
        if (!(exec->program->values[id].flags & BE_VALUE_INPUT))
            continue;
        const uint64_t *bits = written_of(exec, (be_value_id)id);
        for (uint32_t row = 0; row < step->row_count; row++) {
            if (!((bits[row / 64] >> (row % 64)) & 1))
                return FM_FAIL(err, FM_DEVICE,
                               "step %llu: row %u of input value %u was not written since the "
                               "step before",
                               (unsigned long long)step->number, row, id);
        }
    }
    return FM_OK;
}

/* Rules of the caller; nothing is queued yet. */
static enum fm_status check_caller(struct check_device *check, struct check_exec *exec,
                                   const struct be_step *step, struct fm_err *err)
{
    enum fm_status status = be_check_ready(check, err);
    if (status == FM_OK)
        status = be_step_check(step, step->bytes, exec->program, &exec->limits, err);
    if (status == FM_OK && step->number <= check->number)
        status = FM_FAIL(err, FM_DEVICE, "step %llu comes after step %llu",
                         (unsigned long long)step->number, (unsigned long long)check->number);
    if (status == FM_OK)
        status = check_inputs(exec, step, err);
    return status;
}

/* The inner device was given copies for the samples and then no step: they must end before the
 * record is used again. */
static void abandon(struct check_device *check, struct record *record)
{
    struct be_device *inner = check->inner;
    uint64_t deadline = fm_clock_ns() + WAIT_FOR_EVER_S * FM_NS_PER_S;
    for (uint32_t i = 0; i < BE_POOL_COUNT; i++) {
        if (record->samples[i].is_taken)
            (void)inner->ops->event_wait(inner, record->samples[i].before_event, deadline, NULL);
        record->samples[i].is_taken = false;
    }
    be_shadow_undo(&record->log);
}

/* What inner said to a step that is in order. */
static enum fm_status judge_refusal(enum fm_status status, const struct fm_err *why,
                                    const struct be_step *step, struct fm_err *err)
{
    if (status == FM_AGAIN)
        return FM_AGAIN;
    if (status == FM_NOMEM || status == FM_LIMIT)
        return FM_FAIL(err, FM_DEVICE, "step %llu is refused for its size (R6): %s",
                       (unsigned long long)step->number, why->text);
    if (status == FM_INVALID)
        return FM_FAIL(err, FM_DEVICE, "step %llu is in order and is refused (R7): %s",
                       (unsigned long long)step->number, why->text);
    return FM_FAIL(err, status, "%s", why->text);
}

static enum fm_status run_inner(struct check_device *check, struct check_exec *exec,
                                struct record *record, const struct be_step *step,
                                struct check_event *event, struct fm_err *err)
{
    struct be_device *inner = check->inner;
    struct fm_err why = {0};
    uint32_t chosen = (uint32_t)(be_check_draw(check) % CHECK_ORDERS);
    enum fm_status status = FM_OK;

    for (uint32_t i = 0; i < BE_POOL_COUNT; i++)
        record->samples[i].is_taken = false;
    for (uint32_t i = 0; i < BE_POOL_COUNT && status == FM_OK; i++)
        status = be_sample_begin(&record->samples[i], inner, &check->shadow, step, event->serial,
                                 be_check_draw(check), err);
    if (status != FM_OK)
        return status;
    memcpy(record->block, step, step->bytes);
    status = inner->ops->submit(inner, exec->orders[chosen], record->block, event->inner, &why);
    memset(record->block, SCRIBBLE, step->bytes); /* R3: the device has its own copy */
    if (status != FM_OK)
        return judge_refusal(status, &why, step, err);
    exec->current = chosen;
    exec->serial = event->serial;
    exec->counts[BE_LEAD_ROWS] = step->row_count;
    exec->counts[BE_LEAD_LOGIT_ROWS] = step->logit_count;
    exec->counts[BE_LEAD_SEQS] = step->seq_count;
    for (uint32_t i = 0; i < BE_POOL_COUNT; i++) {
        if (be_sample_end(&record->samples[i], inner, NULL) != FM_OK)
            record->samples[i].is_taken = false;
    }
    return FM_OK;
}

enum fm_status be_check_submit(struct be_device *device, struct be_exec *opaque,
                               const struct be_step *step, struct be_event *done,
                               struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct check_exec *exec = exec_of(opaque);
    struct check_event *event = (struct check_event *)(void *)done;
    enum fm_status status = check_caller(check, exec, step, err);
    if (status != FM_OK)
        return status;
    struct record *record = free_record(check);
    if (record == NULL)
        return FM_AGAIN;
    status = be_check_arm(check, event, record, err);
    if (status != FM_OK)
        return status;
    record->log.count = 0;
    status = be_shadow_step(&check->shadow, exec->program, step, event->serial, exec->digests,
                            &record->log, err);
    if (status == FM_OK) {
        status = run_inner(check, exec, record, step, event, err);
        if (status != FM_OK)
            abandon(check, record);
    }
    if (status != FM_OK) {
        event->record = NULL;
        return status;
    }
    check->number = step->number;
    memset(exec->written, 0, (size_t)exec->program->value_count * exec->words * sizeof(uint64_t));
    record->serial = event->serial;
    record->number = step->number;
    record->event = event;
    atomic_store_explicit(&record->state, RECORD_BUSY, memory_order_release);
    return FM_OK;
}

/* ---- values -------------------------------------------------------------------------------- */

static enum fm_status check_value(const struct check_exec *exec, be_value_id value, uint32_t flag,
                                  uint32_t row_first, uint32_t row_count, uint32_t row_limit,
                                  struct fm_err *err)
{
    if (value == 0 || value >= exec->program->value_count ||
        !(exec->program->values[value].flags & flag))
        return FM_FAIL(err, FM_DEVICE, "value %u is not an %s of the program", value,
                       flag == BE_VALUE_INPUT ? "input" : "output");
    if ((uint64_t)row_first + row_count > row_limit)
        return FM_FAIL(err, FM_DEVICE, "rows [%u, %u + %u) of value %u, which has %u", row_first,
                       row_first, row_count, value, row_limit);
    return FM_OK;
}

static void note_written(struct check_exec *exec, be_value_id value, uint32_t row_first,
                         uint32_t row_count)
{
    uint64_t *bits = written_of(exec, value);
    for (uint32_t row = row_first; row < row_first + row_count; row++)
        bits[row / 64] |= UINT64_C(1) << (row % 64);
}

enum fm_status be_check_value_write(struct be_device *device, struct be_exec *opaque,
                                    be_value_id value, uint32_t row_first, uint32_t row_count,
                                    const void *host, struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct check_exec *exec = exec_of(opaque);
    enum fm_status status = be_check_ready(check, err);
    if (status == FM_OK)
        status = check_value(exec, value, BE_VALUE_INPUT, row_first, row_count,
                             exec->limits.rows_max, err);
    for (uint32_t i = 0; i < CHECK_ORDERS && status == FM_OK; i++)
        status = check->inner->ops->value_write(check->inner, exec->orders[i], value, row_first,
                                                row_count, host, err);
    if (status == FM_OK)
        note_written(exec, value, row_first, row_count);
    return status;
}

enum fm_status be_check_value_read(struct be_device *device, struct be_exec *opaque,
                                   be_value_id value, uint32_t row_first, uint32_t row_count,
                                   void *host, struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct check_exec *exec = exec_of(opaque);
    enum fm_status status = be_check_ready(check, err);
    if (status == FM_OK && value != 0 && value < exec->program->value_count)
        status = check_value(exec, value, BE_VALUE_OUTPUT, row_first, row_count,
                             exec->counts[exec->program->values[value].lead], err);
    else if (status == FM_OK)
        status = check_value(exec, value, BE_VALUE_OUTPUT, row_first, row_count, 0, err);
    if (status == FM_OK &&
        atomic_load_explicit(&check->completed, memory_order_relaxed) < exec->serial)
        status = FM_FAIL(err, FM_DEVICE,
                         "value %u is read before its step was seen to be complete (R3)", value);
    if (status != FM_OK)
        return status;
    return check->inner->ops->value_read(check->inner, exec->orders[exec->current], value,
                                         row_first, row_count, host, err);
}

enum fm_status be_check_value_copy(struct be_device *device, struct be_exec *source_opaque,
                                   be_value_id source_value, uint32_t source_row,
                                   struct be_exec *target_opaque, be_value_id target_value,
                                   uint32_t target_row, uint32_t row_count, struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct check_exec *source = exec_of(source_opaque);
    struct check_exec *target = exec_of(target_opaque);
    enum fm_status status = be_check_ready(check, err);
    bool is_known = source_value != 0 && source_value < source->program->value_count;
    uint32_t rows = is_known ? source->counts[source->program->values[source_value].lead] : 0;

    if (status == FM_OK)
        status =
            check_value(source, source_value, BE_VALUE_OUTPUT, source_row, row_count, rows, err);
    if (status == FM_OK)
        status = check_value(target, target_value, BE_VALUE_INPUT, target_row, row_count,
                             target->limits.rows_max, err);
    if (status == FM_OK && be_value_row_bytes(&source->program->values[source_value]) !=
                               be_value_row_bytes(&target->program->values[target_value]))
        status = FM_FAIL(err, FM_DEVICE, "values %u and %u have rows of different size",
                         source_value, target_value);
    for (uint32_t i = 0; i < CHECK_ORDERS && status == FM_OK; i++)
        status = check->inner->ops->value_copy(check->inner, source->orders[source->current],
                                               source_value, source_row, target->orders[i],
                                               target_value, target_row, row_count, err);
    if (status == FM_OK)
        note_written(target, target_value, target_row, row_count);
    return status;
}
