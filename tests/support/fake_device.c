/* fake_device.c - see fake_device.h. */
#include "tests/support/fake_device.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"

enum { QUEUE_MAX = 64, ASYNC_DEPTH = 2, ROWS_MAX = 1024 };

struct fake_exec {
    struct be_limits limits;
    struct be_op *ops;
    struct be_value *values;
    unsigned char **contents; /* [value_count]: of INPUT and OUTPUT values */
    uint32_t op_count, value_count;
};

struct fake_event {
    uint64_t serial;
    enum fm_status status;
};

enum command_kind { COMMAND_STEP, COMMAND_COPY, COMMAND_RESET, COMMAND_OUT, COMMAND_IN };

struct command {
    enum command_kind kind;
    struct fake_exec *exec;
    struct be_step *block;        /* own copy */
    const struct be_step *caller; /* FAKE_KEEPS_BLOCK */
    struct be_copy copy;
    enum be_pool pool;
    uint32_t unit;
    void *host;
    const void *source;
    struct fake_event *event;
};

struct fake_device {
    struct be_device base;
    const enum fake_fault *fault;
    struct fake_log log;
    const struct be_model *model;
    unsigned char *pools[BE_POOL_COUNT];
    uint32_t units[BE_POOL_COUNT];
    struct command queue[QUEUE_MAX];
    uint32_t queued;
};

static struct fake_device *fake_of(struct be_device *device)
{
    return (struct fake_device *)(void *)device;
}

static unsigned char *row_at(struct fake_device *fake, be_state_id id, uint32_t unit, uint32_t row)
{
    const struct be_state *state = &fake->model->states[id];
    enum be_pool pool = be_class_pool(state->class);
    return fake->pools[pool] + unit * be_pool_unit_bytes(fake->model, pool) +
           be_state_offset(fake->model, id) + (size_t)row * state->row_bytes;
}

static void write_row(struct fake_device *fake, be_state_id id, uint32_t unit, uint32_t row,
                      uint32_t position)
{
    memset(row_at(fake, id, unit, row), (int)(position % 255 + 1),
           fake->model->states[id].row_bytes);
}

/* ---- a step -------------------------------------------------------------------------------- */

static void run_window(struct fake_device *fake, const struct be_step *step, be_state_id id)
{
    uint32_t page_tokens = fake->model->shape.page_tokens;
    for (uint32_t i = 0; i < step->row_count; i++) {
        const struct be_row *row = &be_step_rows(step)[i];
        const struct be_seq *seq = &be_step_seqs(step)[row->seq];
        uint32_t first = be_step_s_page_first(seq->length_before, page_tokens);
        uint32_t unit = be_step_pages(step)[seq->s_first + row->position / page_tokens - first];
        if (unit == 0)
            continue;
        write_row(fake, id, unit, row->position % page_tokens, row->position);
        if (*fake->fault == FAKE_WRITES_NEXT_ROW && i + 1 == step->row_count)
            write_row(fake, id, unit, (row->position + 1) % page_tokens, row->position);
    }
}

static void run_compress(struct fake_device *fake, const struct be_step *step,
                         const struct be_op *op)
{
    uint32_t entries = fake->model->states[op->state[0]].rows;
    uint32_t ring = fake->model->states[op->state[1]].rows;
    for (uint32_t i = 0; i < step->row_count; i++) {
        const struct be_row *row = &be_step_rows(step)[i];
        const struct be_seq *seq = &be_step_seqs(step)[row->seq];
        uint32_t entry = row->position / op->ratio;
        write_row(fake, op->state[1], seq->tail_slot, row->position % ring, row->position);
        if ((row->position + 1) % op->ratio == 0)
            write_row(fake, op->state[0], be_step_pages(step)[seq->g_first + entry / entries],
                      entry % entries, row->position);
    }
}

static void run_values(struct fake_exec *exec, const struct be_step *step)
{
    const uint32_t counts[] = {step->row_count, step->logit_count, step->seq_count};
    for (uint32_t id = 1; id < exec->value_count; id++) {
        const struct be_value *value = &exec->values[id];
        uint32_t count = counts[value->lead];
        if (!(value->flags & BE_VALUE_OUTPUT))
            continue;
        for (uint32_t row = 0; row < count; row++)
            memset(exec->contents[id] + row * be_value_row_bytes(value),
                   (int)((row + step->number) % 251), be_value_row_bytes(value));
    }
}

static void note_order(struct fake_device *fake, const struct fake_exec *exec)
{
    bool is_same = fake->log.last_kind_count == exec->op_count;
    for (uint32_t i = 0; i < exec->op_count && i < FM_COUNT(fake->log.last_kinds); i++) {
        is_same = is_same && fake->log.last_kinds[i] == exec->ops[i].kind;
        fake->log.last_kinds[i] = exec->ops[i].kind;
    }
    fake->log.last_kind_count = exec->op_count;
    fake->log.order_changes += !is_same;
}

static enum fm_status run_step(struct fake_device *fake, const struct command *command)
{
    const struct be_step *step = command->block;
    if (*fake->fault == FAKE_FAILS_STEP)
        return FM_TIMEOUT;
    if (*fake->fault == FAKE_KEEPS_BLOCK &&
        memcmp(command->caller, step, sizeof(struct be_step)) != 0)
        return FM_DEVICE;
    note_order(fake, command->exec);
    for (uint32_t i = 0; i < command->exec->op_count; i++) {
        const struct be_op *op = &command->exec->ops[i];
        if (op->kind == BE_OP_COMPRESS || op->kind == BE_OP_COMPRESS_INDEX)
            run_compress(fake, step, op);
        for (uint32_t s = 0; op->kind == BE_OP_SPARK_CONTEXT && s < BE_OP_STATES_MAX; s++) {
            if (op->state[s] != 0)
                run_window(fake, step, op->state[s]);
        }
        if (op->kind == BE_OP_KV_STORE && op->state[0] != 0)
            run_window(fake, step, op->state[0]);
    }
    run_values(command->exec, step);
    if (*fake->fault == FAKE_WRITES_NULL_PAGE)
        fake->pools[BE_POOL_S][5] ^= 1;
    if (*fake->fault == FAKE_WRITES_FOREIGN_UNIT)
        fake->pools[BE_POOL_S]
                   [(fake->units[BE_POOL_S] - 1) * be_pool_unit_bytes(fake->model, BE_POOL_S)] ^= 1;
    return FM_OK;
}

/* ---- the queue ----------------------------------------------------------------------------- */

static enum fm_status run_command(struct fake_device *fake, const struct command *command)
{
    uint64_t bytes = be_pool_unit_bytes(fake->model, command->pool);
    unsigned char *unit = fake->pools[command->pool] + command->unit * bytes;
    switch (command->kind) {
    case COMMAND_STEP: return run_step(fake, command);
    case COMMAND_COPY:
        memcpy(fake->pools[command->pool] + command->copy.target * bytes,
               fake->pools[command->pool] + command->copy.source * bytes, bytes);
        return FM_OK;
    case COMMAND_RESET: memset(unit, 0, bytes); return FM_OK;
    case COMMAND_OUT: memcpy(command->host, unit, bytes); return FM_OK;
    case COMMAND_IN: memcpy(unit, command->source, bytes); return FM_OK;
    }
    FM_UNREACHABLE();
    return FM_DEVICE;
}

static void run_queue(struct fake_device *fake)
{
    for (uint32_t i = 0; i < fake->queued; i++) {
        struct command *command = &fake->queue[i];
        enum fm_status status = run_command(fake, command);
        if (command->event != NULL)
            command->event->status = status;
        fm_free(command->block);
    }
    fake->queued = 0;
}

static struct command *push(struct fake_device *fake, enum command_kind kind,
                            struct be_event *event)
{
    if (fake->queued == QUEUE_MAX)
        run_queue(fake);
    struct command *command = &fake->queue[fake->queued++];
    *command = (struct command){.kind = kind, .event = (struct fake_event *)(void *)event};
    if (command->event != NULL)
        command->event->status = FM_AGAIN;
    return command;
}

static enum fm_status fake_submit(struct be_device *device, struct be_exec *exec,
                                  const struct be_step *step, struct be_event *done,
                                  struct fm_err *err)
{
    struct fake_device *fake = fake_of(device);
    switch (*fake->fault) {
    case FAKE_REFUSES_SIZE: return FM_FAIL(err, FM_NOMEM, "the fake device has no memory");
    case FAKE_REFUSES_BLOCK: return FM_FAIL(err, FM_INVALID, "the fake device wants no blocks");
    case FAKE_IS_FULL: return FM_AGAIN;
    default: break;
    }
    struct be_step *copy = fm_alloc(step->bytes);
    if (copy == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a block");
    memcpy(copy, step, step->bytes);
    struct command *command = push(fake, COMMAND_STEP, done);
    command->exec = (struct fake_exec *)(void *)exec;
    command->block = copy;
    command->caller = step;
    fake->log.submit_count++;
    return FM_OK;
}

static enum fm_status fake_page_copy(struct be_device *device, const struct be_copy *copies,
                                     uint32_t count, struct fm_err *err)
{
    (void)err;
    for (uint32_t i = 0; i < count; i++) {
        struct command *command = push(fake_of(device), COMMAND_COPY, NULL);
        command->pool = copies[i].pool;
        command->copy = copies[i];
    }
    return FM_OK;
}

static enum fm_status fake_tail_reset(struct be_device *device, const uint32_t *slots,
                                      uint32_t count, struct fm_err *err)
{
    (void)err;
    for (uint32_t i = 0; i < count; i++) {
        struct command *command = push(fake_of(device), COMMAND_RESET, NULL);
        command->pool = BE_POOL_T;
        command->unit = slots[i];
    }
    return FM_OK;
}

static enum fm_status fake_page_out(struct be_device *device, enum be_pool pool, uint32_t unit,
                                    void *host, struct be_event *done, struct fm_err *err)
{
    (void)err;
    struct command *command = push(fake_of(device), COMMAND_OUT, done);
    command->pool = pool;
    command->unit = unit;
    command->host = host;
    fake_of(device)->log.page_out_count++;
    return FM_OK;
}

static enum fm_status fake_page_in(struct be_device *device, enum be_pool pool, uint32_t unit,
                                   const void *host, struct be_event *done, struct fm_err *err)
{
    (void)err;
    struct command *command = push(fake_of(device), COMMAND_IN, done);
    command->pool = pool;
    command->unit = unit;
    command->source = host;
    return FM_OK;
}

/* ---- events -------------------------------------------------------------------------------- */

static enum fm_status fake_event_new(struct be_device *device, struct be_event **ret_event,
                                     struct fm_err *err)
{
    (void)device;
    struct fake_event *event = fm_alloc(sizeof(*event));
    if (event == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for an event");
    *ret_event = (struct be_event *)(void *)event;
    return FM_OK;
}

static void fake_event_free(struct be_device *device, struct be_event *event)
{
    (void)device;
    fm_free(event);
}

/* The first look runs the queue and says "not yet". */
static enum fm_status fake_event_poll(struct be_device *device, struct be_event *opaque,
                                      struct fm_err *err)
{
    struct fake_event *event = (struct fake_event *)(void *)opaque;
    if (event->status == FM_AGAIN) {
        run_queue(fake_of(device));
        return FM_AGAIN;
    }
    if (event->status < 0)
        return FM_FAIL(err, event->status, "the fake device failed the step");
    return event->status;
}

static enum fm_status fake_event_wait(struct be_device *device, struct be_event *event,
                                      uint64_t deadline_ns, struct fm_err *err)
{
    (void)deadline_ns;
    run_queue(fake_of(device));
    return fake_event_poll(device, event, err);
}

/* ---- programs and values ------------------------------------------------------------------- */

static void fake_exec_free(struct be_device *device, struct be_exec *opaque)
{
    struct fake_exec *exec = (struct fake_exec *)(void *)opaque;
    (void)device;
    if (exec == NULL)
        return;
    for (uint32_t i = 0; exec->contents != NULL && i < exec->value_count; i++)
        fm_free(exec->contents[i]);
    fm_free(exec->contents);
    fm_free(exec->ops);
    fm_free(exec->values);
    fm_free(exec);
}

static enum fm_status fake_compile(struct be_device *device, const struct be_program *program,
                                   const struct be_limits *limits, struct be_exec **ret_exec,
                                   struct fm_err *err)
{
    struct fake_exec *exec = fm_alloc(sizeof(*exec));
    bool is_whole = exec != NULL;
    if (is_whole) {
        *exec = (struct fake_exec){
            .limits = *limits, .op_count = program->op_count, .value_count = program->value_count};
        exec->ops = fm_alloc_array(program->op_count, sizeof(struct be_op));
        exec->values = fm_alloc_array(program->value_count, sizeof(struct be_value));
        exec->contents = fm_alloc_array(program->value_count, sizeof(unsigned char *));
        is_whole = exec->ops != NULL && exec->values != NULL && exec->contents != NULL;
    }
    uint32_t rooms[] = {limits->rows_max, limits->logit_rows_max, limits->seqs_max};
    for (uint32_t i = 1; is_whole && i < program->value_count; i++) {
        if (program->values[i].flags != 0)
            exec->contents[i] =
                fm_alloc(rooms[program->values[i].lead] * be_value_row_bytes(&program->values[i]));
        is_whole = program->values[i].flags == 0 || exec->contents[i] != NULL;
    }
    if (!is_whole) {
        fake_exec_free(device, (struct be_exec *)(void *)exec);
        return FM_FAIL(err, FM_NOMEM, "no memory for a program");
    }
    memcpy(exec->ops, program->ops, program->op_count * sizeof(struct be_op));
    memcpy(exec->values, program->values, program->value_count * sizeof(struct be_value));
    fake_of(device)->log.compile_count++;
    *ret_exec = (struct be_exec *)(void *)exec;
    return FM_OK;
}

static unsigned char *value_at(struct be_exec *exec, be_value_id value, uint32_t row)
{
    struct fake_exec *fake = (struct fake_exec *)(void *)exec;
    return fake->contents[value] + row * be_value_row_bytes(&fake->values[value]);
}

static size_t value_bytes(struct be_exec *exec, be_value_id value, uint32_t rows)
{
    return rows * be_value_row_bytes(&((struct fake_exec *)(void *)exec)->values[value]);
}

static enum fm_status fake_value_write(struct be_device *device, struct be_exec *exec,
                                       be_value_id value, uint32_t row_first, uint32_t row_count,
                                       const void *host, struct fm_err *err)
{
    (void)err;
    run_queue(fake_of(device));
    memcpy(value_at(exec, value, row_first), host, value_bytes(exec, value, row_count));
    return FM_OK;
}

static enum fm_status fake_value_read(struct be_device *device, struct be_exec *exec,
                                      be_value_id value, uint32_t row_first, uint32_t row_count,
                                      void *host, struct fm_err *err)
{
    (void)err;
    (void)device;
    memcpy(host, value_at(exec, value, row_first), value_bytes(exec, value, row_count));
    return FM_OK;
}

static enum fm_status fake_value_copy(struct be_device *device, struct be_exec *source,
                                      be_value_id source_value, uint32_t source_row,
                                      struct be_exec *target, be_value_id target_value,
                                      uint32_t target_row, uint32_t row_count, struct fm_err *err)
{
    (void)err;
    run_queue(fake_of(device));
    memcpy(value_at(target, target_value, target_row), value_at(source, source_value, source_row),
           value_bytes(source, source_value, row_count));
    return FM_OK;
}

/* ---- life ---------------------------------------------------------------------------------- */

static int fake_score(const char **ret_reason)
{
    *ret_reason = "for tests";
    return 0;
}

static enum fm_status fake_open(const struct be_device_options *options,
                                struct be_device **ret_device, struct fm_err *err)
{
    (void)options;
    (void)ret_device;
    return FM_FAIL(err, FM_UNSUPPORTED, "for tests");
}

static void fake_close(struct be_device *device)
{
    struct fake_device *fake = fake_of(device);
    for (uint32_t i = 0; i < fake->queued; i++)
        fm_free(fake->queue[i].block);
    for (int pool = 0; pool < BE_POOL_COUNT; pool++)
        fm_free(fake->pools[pool]);
    fm_free(fake);
}

static void fake_caps(const struct be_device *device, struct be_caps *ret_caps)
{
    (void)device;
    *ret_caps = (struct be_caps){
        .unit_alignment = 1,
        .row_quantum = 1,
        .rows_max = ROWS_MAX,
        .programs = 3,
        .async_depth = ASYNC_DEPTH,
        .is_canonical = true,
        .numerics = BE_NUMERICS_TOLERANCE,
    };
    (void)snprintf(ret_caps->description, sizeof(ret_caps->description), "fake");
}

static enum fm_status fake_weights_load(struct be_device *device, const struct be_model *model,
                                        const struct be_reader *reader, struct fm_err *err)
{
    (void)reader;
    (void)err;
    fake_of(device)->model = model;
    return FM_OK;
}

static enum fm_status fake_state_create(struct be_device *device,
                                        const uint32_t units[BE_POOL_COUNT], struct fm_err *err)
{
    struct fake_device *fake = fake_of(device);
    for (int pool = 0; pool < BE_POOL_COUNT; pool++) {
        fake->units[pool] = units[pool];
        fake->pools[pool] =
            fm_alloc(units[pool] * be_pool_unit_bytes(fake->model, (enum be_pool)pool));
        if (fake->pools[pool] == NULL)
            return FM_FAIL(err, FM_NOMEM, "no memory for units");
    }
    return FM_OK;
}

static const struct be_ops fake_ops = {
    .abi = BE_OPS_ABI,
    .name = "fake",
    .score = fake_score,
    .open = fake_open,
    .close = fake_close,
    .caps = fake_caps,
    .weights_load = fake_weights_load,
    .state_create = fake_state_create,
    .compile = fake_compile,
    .exec_free = fake_exec_free,
    .submit = fake_submit,
    .page_copy = fake_page_copy,
    .tail_reset = fake_tail_reset,
    .page_out = fake_page_out,
    .page_in = fake_page_in,
    .value_write = fake_value_write,
    .value_read = fake_value_read,
    .value_copy = fake_value_copy,
    .event_new = fake_event_new,
    .event_free = fake_event_free,
    .event_poll = fake_event_poll,
    .event_wait = fake_event_wait,
};

enum fm_status fake_device_open(const enum fake_fault *fault, struct be_device **ret_device,
                                struct fake_log **ret_log, struct fm_err *err)
{
    struct fake_device *fake = fm_alloc(sizeof(*fake));
    if (fake == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a fake device");
    fake->base.ops = &fake_ops;
    fake->fault = fault;
    *ret_device = &fake->base;
    *ret_log = &fake->log;
    return FM_OK;
}
