/* cpu.c - the CPU as a device: its life, its queue, its events; see backend.h.
 *
 * The worker's thread checks and queues; one device thread, member 0 of the team, takes commands
 * from a mailbox in the order of submission and runs them, steps on the whole team.  Commands are
 * structs of a ring that is made with the device: command n uses place n mod CPU_COMMANDS_MAX, and
 * is free again when the device thread has completed it.
 *
 * Between the two threads: the mailbox; `completed`, which counts commands; the state of an event.
 * Everything a step reads (weights, programs) is immutable, what it writes belongs to the device
 * thread until the event completes. */
#include "backends/cpu/cpu.h"

#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/mailbox.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "backends/base/thread.h"
#include "backends/cpu/exec.h"

enum { CPU_COMMANDS_MAX = 256, CPU_ROWS_MAX = 8192, CPU_LIST_MAX = 32 };

enum cpu_verb {
    CPU_VERB_STEP,
    CPU_VERB_PAGE_COPY,
    CPU_VERB_TAIL_RESET,
    CPU_VERB_PAGE_OUT,
    CPU_VERB_PAGE_IN,
    CPU_VERB_VALUE_COPY,
};

struct cpu_value_copy {
    const struct cpu_value *source, *target;
    uint32_t source_row, target_row, row_count;
};

struct cpu_command {
    struct fm_link link;
    enum cpu_verb verb;
    struct be_exec *exec;  /* STEP */
    const void *block;     /* STEP: in the exec */
    struct be_event *done; /* or NULL */
    uint32_t count;        /* of a list */
    union {
        struct be_copy copies[CPU_LIST_MAX];
        uint32_t slots[CPU_LIST_MAX];
        struct be_copy page; /* OUT: source, IN: target */
        struct cpu_value_copy values;
    };
    void *host;
};

enum event_state { EVENT_IDLE, EVENT_PENDING, EVENT_COMPLETE };

struct be_event {
    _Atomic uint32_t state;   /* futex word; COMPLETE is stored by the device thread */
    _Atomic bool is_released; /* the device thread has touched it for the last time */
    int fd;
    enum fm_status status; /* written before COMPLETE, read after it */
    struct fm_err err;
};

struct cpu_device {
    struct be_device base;
    enum cpu_level level;
    const struct cpu_kern *kern;
    struct cpu_team *team;
    const struct be_model *model; /* NULL before weights_load */
    struct cpu_pack pack;
    struct cpu_state state;
    bool has_state;

    struct fm_mailbox *inbox;
    struct fm_thread *thread;
    struct cpu_command *commands;  /* [CPU_COMMANDS_MAX] */
    uint64_t queued;               /* commands ever; worker's thread */
    uint64_t steps[CPU_STEPS_MAX]; /* numbers of the last steps' commands, oldest overwritten */
    uint64_t step_count;
    _Atomic uint64_t completed; /* commands; stored by the device thread */
    _Atomic uint32_t turn;      /* futex word: moves with completed */
};

static struct cpu_device *device_of(struct be_device *device)
{
    FM_ASSERT(device != NULL && device->ops == &be_cpu_ops);
    return FM_CONTAINER(device, struct cpu_device, base);
}

/* Sleep while *word is `value`, at most until the fm_clock time: the clock may be a test's, so
 * never long at a time. */
static void word_wait(_Atomic uint32_t *word, uint32_t value, uint64_t deadline_ns)
{
    uint64_t now_ns = fm_clock_ns();
    if (now_ns >= deadline_ns)
        return;
    uint64_t wait_ns = fm_min_u64(deadline_ns - now_ns, FM_NS_PER_S / 20);
    struct timespec limit = {.tv_nsec = (long)wait_ns};
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, &limit, NULL, 0);
}

static void word_wake(_Atomic uint32_t *word)
{
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* ---- device thread ------------------------------------------------------------------------- */

static void event_complete(struct be_event *event, enum fm_status status, const struct fm_err *err)
{
    if (event == NULL)
        return;
    event->status = status;
    if (status != FM_OK)
        event->err = *err;
    /* pairs with the acquire in event_poll */
    atomic_store_explicit(&event->state, EVENT_COMPLETE, memory_order_release);
    word_wake(&event->state);
    ssize_t written = write(event->fd, &(uint64_t){1}, sizeof(uint64_t));
    (void)written; /* fails only if it is readable anyway */
    /* pairs with the acquire in event_settle */
    atomic_store_explicit(&event->is_released, true, memory_order_release);
}

static void value_copy_run(const struct cpu_value_copy *copy)
{
    const struct cpu_value *source = copy->source, *target = copy->target;
    uint64_t bytes =
        (uint64_t)source->cols *
        (source->value.elem == BE_ELEM_BF16 || source->value.elem == BE_ELEM_ACT ? 2 : 4);
    memmove(target->data + copy->target_row * bytes, source->data + copy->source_row * bytes,
            copy->row_count * bytes);
    if (source->value.elem == BE_ELEM_ACT)
        memmove(cpu_scales(target, copy->target_row), cpu_scales(source, copy->source_row),
                (uint64_t)copy->row_count * (source->cols / KERN_BLOCK));
}

static enum fm_status command_run(const struct cpu_device *device,
                                  const struct cpu_command *command, struct fm_err *err)
{
    const struct cpu_state *state = &device->state;
    const struct be_copy *page = &command->page;
    switch (command->verb) {
    case CPU_VERB_STEP: return cpu_run(command->exec, command->block, err);
    case CPU_VERB_PAGE_COPY:
        for (uint32_t i = 0; i < command->count; i++) {
            const struct be_copy *copy = &command->copies[i];
            if (copy->source != copy->target)
                memcpy(cpu_state_unit(state, copy->pool, copy->target),
                       cpu_state_unit(state, copy->pool, copy->source),
                       state->pools[copy->pool].bytes);
        }
        return FM_OK;
    case CPU_VERB_TAIL_RESET:
        for (uint32_t i = 0; i < command->count; i++)
            cpu_state_tail_reset(state, device->model, command->slots[i]);
        return FM_OK;
    case CPU_VERB_PAGE_OUT:
        memcpy(command->host, cpu_state_unit(state, page->pool, page->source),
               state->pools[page->pool].bytes);
        return FM_OK;
    case CPU_VERB_PAGE_IN:
        memcpy(cpu_state_unit(state, page->pool, page->target), command->host,
               state->pools[page->pool].bytes);
        return FM_OK;
    case CPU_VERB_VALUE_COPY: value_copy_run(&command->values); return FM_OK;
    }
    FM_UNREACHABLE();
}

static void *device_main(void *arg)
{
    struct cpu_device *device = arg;
    struct fm_link *link;
    (void)fm_numeric_enter();
    for (;;) {
        fm_thread_idle(true);
        link = fm_mailbox_take(device->inbox);
        fm_thread_idle(false);
        if (link == NULL)
            return NULL;
        struct cpu_command *command = FM_CONTAINER(link, struct cpu_command, link);
        struct be_event *done = command->done;
        struct fm_err err;
        enum fm_status status = command_run(device, command, &err);
        /* The command's place may be used again from here on: pairs with the acquire in
         * wait_completed.  Before the event, so that who saw the event finds the place free. */
        atomic_fetch_add_explicit(&device->completed, 1, memory_order_release);
        event_complete(done, status, &err);
        atomic_fetch_add_explicit(&device->turn, 1, memory_order_release);
        word_wake(&device->turn);
        fm_thread_beat();
    }
}

/* ---- queue, on the worker's thread --------------------------------------------------------- */

static uint64_t completed(const struct cpu_device *device)
{
    return atomic_load_explicit(&device->completed, memory_order_acquire);
}

/* Until `count` commands have completed. */
static void wait_completed(struct cpu_device *device, uint64_t count)
{
    while (completed(device) < count) {
        uint32_t turn = atomic_load_explicit(&device->turn, memory_order_acquire);
        if (completed(device) < count)
            word_wait(&device->turn, turn, UINT64_MAX);
    }
}

/* The place of the next command.  Waits for the oldest one when all are in use. */
static struct cpu_command *command_new(struct cpu_device *device, enum cpu_verb verb,
                                       struct be_event *done)
{
    if (device->queued >= CPU_COMMANDS_MAX)
        wait_completed(device, device->queued - CPU_COMMANDS_MAX + 1);
    struct cpu_command *command = &device->commands[device->queued % CPU_COMMANDS_MAX];
    *command = (struct cpu_command){.verb = verb, .done = done};
    return command;
}

/* Until the device thread, which has completed the event, has let go of it: two system calls. */
static void event_settle(struct be_event *event)
{
    while (!atomic_load_explicit(&event->is_released, memory_order_acquire))
        (void)sched_yield();
}

static void event_arm(struct be_event *event)
{
    if (event == NULL)
        return;
    uint64_t count;
    FM_ASSERT(atomic_load_explicit(&event->state, memory_order_acquire) != EVENT_PENDING);
    event_settle(event);
    atomic_store_explicit(&event->is_released, false, memory_order_relaxed);
    ssize_t drained = read(event->fd, &count, sizeof count);
    (void)drained; /* fails if there was nothing */
    atomic_store_explicit(&event->state, EVENT_PENDING, memory_order_relaxed);
}

static void command_put(struct cpu_device *device, struct cpu_command *command)
{
    event_arm(command->done);
    device->queued++;
    fm_mailbox_put(device->inbox, &command->link);
}

/* ---- life ---------------------------------------------------------------------------------- */

static int cpu_score(const char **ret_reason)
{
    (void)ret_reason;
    return 10; /* every host has a processor: whatever accelerates scores higher */
}

static void cpu_close(struct be_device *base)
{
    if (base == NULL)
        return;
    struct cpu_device *device = device_of(base);
    if (device->thread != NULL) {
        fm_mailbox_close(device->inbox);
        fm_thread_join(device->thread); /* after the last command */
    }
    fm_mailbox_free(device->inbox);
    cpu_team_free(device->team);
    cpu_state_give(&device->state);
    cpu_pack_free(&device->pack);
    fm_free(device->commands);
    fm_free(device);
}

static enum fm_status cpu_open(const struct be_device_options *options,
                               struct be_device **ret_device, struct fm_err *err)
{
    FM_ASSERT(ret_device != NULL);
    enum cpu_level level;
    enum fm_status status = cpu_level_choose(options->variant, &level, err);
    if (status != FM_OK)
        return status;
    if (options->ordinal != 0)
        return FM_FAIL(err, FM_UNSUPPORTED, "there is one cpu device, not number %u",
                       options->ordinal);
    uint32_t threads = options->threads != 0 ? options->threads : cpu_threads_allowed();
    threads = fm_min_u32(threads, CPU_TEAM_MAX);

    struct cpu_device *device = fm_alloc(sizeof *device);
    if (device == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the cpu device");
    device->base.ops = &be_cpu_ops;
    device->level = level;
    device->kern = cpu_kern_get(level);
    device->commands = fm_alloc_array(CPU_COMMANDS_MAX, sizeof *device->commands);
    if (device->kern == NULL)
        status = FM_FAIL(err, FM_UNSUPPORTED, "this build has no kernels for level '%s'",
                         cpu_level_name(level));
    else if (device->commands == NULL)
        status = FM_FAIL(err, FM_NOMEM, "no memory for %d commands", CPU_COMMANDS_MAX);
    if (status == FM_OK)
        status = fm_mailbox_new(false, &device->inbox, err);
    if (status == FM_OK)
        status = cpu_team_new(threads, &device->team, err);
    if (status == FM_OK)
        status =
            fm_thread_start("team-0", FM_THREAD_TEAM, device_main, device, &device->thread, err);
    if (status != FM_OK) {
        cpu_close(&device->base);
        return status;
    }
    *ret_device = &device->base;
    return FM_OK;
}

static void cpu_caps(const struct be_device *base, struct be_caps *ret_caps)
{
    const struct cpu_device *device = device_of((struct be_device *)(uintptr_t)base);
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    *ret_caps = (struct be_caps){
        .memory_bytes = pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : 0,
        .is_host_memory = true,
        .unit_alignment = CPU_UNIT_ALIGNMENT,
        .row_quantum = 1,
        .rows_max = CPU_ROWS_MAX,
        .programs = 1u << BE_PROGRAM_FORWARD | 1u << BE_PROGRAM_DRAFT,
        .async_depth = CPU_STEPS_MAX - 1,
        .is_canonical = true,
        .numerics = BE_NUMERICS_E,
    };
    (void)snprintf(ret_caps->description, sizeof ret_caps->description, "cpu %s, %u threads",
                   cpu_level_name(device->level), cpu_team_member_count(device->team));
}

static enum fm_status cpu_weights_load(struct be_device *base, const struct be_model *model,
                                       const struct be_reader *reader, struct fm_err *err)
{
    struct cpu_device *device = device_of(base);
    FM_ASSERT(device->model == NULL);
    enum fm_status status = cpu_pack_load(model, reader, &device->pack, err);
    if (status == FM_OK)
        device->model = model;
    return status;
}

static enum fm_status cpu_state_create(struct be_device *base, const uint32_t units[BE_POOL_COUNT],
                                       struct fm_err *err)
{
    struct cpu_device *device = device_of(base);
    FM_ASSERT(device->model != NULL);
    FM_ASSERT(!device->has_state);
    enum fm_status status = cpu_state_take(device->model, units, &device->state, err);
    device->has_state = status == FM_OK;
    return status;
}

static void cpu_exec_free(struct be_device *base, struct be_exec *exec)
{
    if (exec == NULL)
        return;
    wait_completed(device_of(base), exec->last_command);
    cpu_compile_undo(exec);
    fm_free(exec);
}

static enum fm_status cpu_compile_entry(struct be_device *base, const struct be_program *program,
                                        const struct be_limits *limits, struct be_exec **ret_exec,
                                        struct fm_err *err)
{
    struct cpu_device *device = device_of(base);
    FM_ASSERT(device->has_state && program->model == device->model);
    if (limits->rows_max == 0 || limits->rows_max > CPU_ROWS_MAX || limits->seqs_max == 0)
        return FM_FAIL(err, FM_INVALID, "a program for %u rows and %u sequences, at most %d rows",
                       limits->rows_max, limits->seqs_max, CPU_ROWS_MAX);
    for (uint32_t i = 0; i < BE_POOL_COUNT; i++)
        if (limits->units[i] > device->state.pools[i].units)
            return FM_FAIL(err, FM_INVALID, "a program for %u units of pool %u, there are %u",
                           limits->units[i], i, device->state.pools[i].units);
    struct be_exec *exec = fm_alloc(sizeof *exec);
    if (exec == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a program");
    exec->kern = device->kern;
    exec->model = device->model;
    exec->pack = &device->pack;
    exec->state = &device->state;
    exec->team = device->team;
    enum fm_status status = cpu_compile(program, limits, exec, err);
    if (status != FM_OK) {
        cpu_exec_free(base, exec);
        return status;
    }
    *ret_exec = exec;
    return FM_OK;
}

/* ---- steps and commands -------------------------------------------------------------------- */

static enum fm_status cpu_submit(struct be_device *base, struct be_exec *exec,
                                 const struct be_step *step, struct be_event *done,
                                 struct fm_err *err)
{
    struct cpu_device *device = device_of(base);
    enum fm_status status = be_step_check(step, step->bytes, &exec->program, &exec->limits, err);
    if (status != FM_OK)
        return status;
    /* The step CPU_STEPS_MAX before this one must be complete: it has our place and our block. */
    uint64_t oldest = device->steps[device->step_count % CPU_STEPS_MAX];
    if (completed(device) < oldest || (device->queued >= CPU_COMMANDS_MAX &&
                                       completed(device) < device->queued - CPU_COMMANDS_MAX + 1))
        return FM_AGAIN;

    struct cpu_command *command = command_new(device, CPU_VERB_STEP, done);
    uint8_t *block = exec->blocks[exec->block_next];
    exec->block_next = (exec->block_next + 1) % CPU_STEPS_MAX;
    memcpy(block, step, step->bytes);
    command->exec = exec;
    command->block = block;
    command_put(device, command);
    device->steps[device->step_count++ % CPU_STEPS_MAX] = device->queued;
    exec->last_command = device->queued;
    return FM_OK;
}

static enum fm_status unit_check(const struct cpu_device *device, enum be_pool pool, uint32_t unit,
                                 bool is_written, struct fm_err *err)
{
    FM_ASSERT(device->has_state);
    if ((uint32_t)pool >= BE_POOL_COUNT)
        return FM_FAIL(err, FM_INVALID, "there is no pool %d", (int)pool);
    if (unit >= device->state.pools[pool].units || (is_written && unit == 0))
        return FM_FAIL(err, FM_INVALID, "unit %u of pool %d%s, which has %u", unit, (int)pool,
                       is_written ? " to be written" : "", device->state.pools[pool].units);
    return FM_OK;
}

static enum fm_status cpu_page_copy(struct be_device *base, const struct be_copy *copies,
                                    uint32_t count, struct fm_err *err)
{
    struct cpu_device *device = device_of(base);
    for (uint32_t i = 0; i < count; i++) {
        enum fm_status status = unit_check(device, copies[i].pool, copies[i].source, false, err);
        if (status == FM_OK)
            status = unit_check(device, copies[i].pool, copies[i].target, true, err);
        if (status != FM_OK)
            return status;
    }
    for (uint32_t at = 0; at < count; at += CPU_LIST_MAX) {
        struct cpu_command *command = command_new(device, CPU_VERB_PAGE_COPY, NULL);
        command->count = fm_min_u32(CPU_LIST_MAX, count - at);
        memcpy(command->copies, copies + at, command->count * sizeof *copies);
        command_put(device, command);
    }
    return FM_OK;
}

static enum fm_status cpu_tail_reset(struct be_device *base, const uint32_t *slots, uint32_t count,
                                     struct fm_err *err)
{
    struct cpu_device *device = device_of(base);
    for (uint32_t i = 0; i < count; i++) {
        enum fm_status status = unit_check(device, BE_POOL_T, slots[i], true, err);
        if (status != FM_OK)
            return status;
    }
    for (uint32_t at = 0; at < count; at += CPU_LIST_MAX) {
        struct cpu_command *command = command_new(device, CPU_VERB_TAIL_RESET, NULL);
        command->count = fm_min_u32(CPU_LIST_MAX, count - at);
        memcpy(command->slots, slots + at, command->count * sizeof *slots);
        command_put(device, command);
    }
    return FM_OK;
}

static enum fm_status cpu_page_out(struct be_device *base, enum be_pool pool, uint32_t unit,
                                   void *host, struct be_event *done, struct fm_err *err)
{
    struct cpu_device *device = device_of(base);
    enum fm_status status = unit_check(device, pool, unit, false, err);
    if (status != FM_OK)
        return status;
    struct cpu_command *command = command_new(device, CPU_VERB_PAGE_OUT, done);
    command->page = (struct be_copy){.pool = pool, .source = unit};
    command->host = host;
    command_put(device, command);
    return FM_OK;
}

static enum fm_status cpu_page_in(struct be_device *base, enum be_pool pool, uint32_t unit,
                                  const void *host, struct be_event *done, struct fm_err *err)
{
    struct cpu_device *device = device_of(base);
    enum fm_status status = unit_check(device, pool, unit, true, err);
    if (status != FM_OK)
        return status;
    struct cpu_command *command = command_new(device, CPU_VERB_PAGE_IN, done);
    command->page = (struct be_copy){.pool = pool, .target = unit};
    command->host = (void *)(uintptr_t)host; /* read only */
    command_put(device, command);
    return FM_OK;
}

/* ---- values -------------------------------------------------------------------------------- */

/* The value if it has the flag and the rows; else NULL, and err says why (FM_INVALID). */
static const struct cpu_value *value_find(const struct be_exec *exec, be_value_id value,
                                          uint32_t flag, uint32_t row_first, uint32_t row_count,
                                          struct fm_err *err)
{
    if (value == 0 || value >= exec->program.value_count ||
        (exec->program.values[value].flags & flag) == 0) {
        (void)FM_FAIL(err, FM_INVALID, "value %u is no %s of the program", value,
                      flag == BE_VALUE_INPUT ? "input" : "output");
        return NULL;
    }
    const struct cpu_value *found = &exec->values[value];
    if (row_first > found->rows || row_count > found->rows - row_first) {
        (void)FM_FAIL(err, FM_INVALID, "rows [%u, %u + %u) of value %u, which has %u", row_first,
                      row_first, row_count, value, found->rows);
        return NULL;
    }
    return found;
}

/* Canonical ACT rows: all codes, then the scales. */
static void act_write(const struct cpu_value *value, uint32_t row, const uint8_t *host)
{
    uint16_t *to = cpu_bf16(value, row);
    for (uint32_t c = 0; c < value->cols; c++)
        to[c] = fm_bf16(fm_e4m3_table[host[c]]);
    memcpy(cpu_scales(value, row), host + value->cols, value->cols / KERN_BLOCK);
}

static void act_read(const struct cpu_value *value, uint32_t row, uint8_t *host)
{
    const uint16_t *from = cpu_bf16(value, row);
    for (uint32_t c = 0; c < value->cols; c++)
        host[c] = fm_e4m3(fm_bf16_value(from[c]));
    memcpy(host + value->cols, cpu_scales(value, row), value->cols / KERN_BLOCK);
}

static enum fm_status cpu_value_write(struct be_device *base, struct be_exec *exec,
                                      be_value_id value_id, uint32_t row_first, uint32_t row_count,
                                      const void *host, struct fm_err *err)
{
    const struct cpu_value *value =
        value_find(exec, value_id, BE_VALUE_INPUT, row_first, row_count, err);
    if (value == NULL)
        return FM_INVALID;
    wait_completed(device_of(base), exec->last_command);
    uint64_t bytes = be_value_row_bytes(&value->value);
    if (value->value.elem != BE_ELEM_ACT) {
        memcpy(value->data + row_first * bytes, host, row_count * bytes);
        return FM_OK;
    }
    for (uint32_t r = 0; r < row_count; r++)
        act_write(value, row_first + r, (const uint8_t *)host + r * bytes);
    return FM_OK;
}

static enum fm_status cpu_value_read(struct be_device *base, struct be_exec *exec,
                                     be_value_id value_id, uint32_t row_first, uint32_t row_count,
                                     void *host, struct fm_err *err)
{
    const struct cpu_value *value =
        value_find(exec, value_id, BE_VALUE_OUTPUT, row_first, row_count, err);
    if (value == NULL)
        return FM_INVALID;
    wait_completed(device_of(base), exec->last_command);
    uint64_t bytes = be_value_row_bytes(&value->value);
    if (value->value.elem != BE_ELEM_ACT) {
        memcpy(host, value->data + row_first * bytes, row_count * bytes);
        return FM_OK;
    }
    for (uint32_t r = 0; r < row_count; r++)
        act_read(value, row_first + r, (uint8_t *)host + r * bytes);
    return FM_OK;
}

static enum fm_status cpu_value_copy(struct be_device *base, struct be_exec *source,
                                     be_value_id source_value, uint32_t source_row,
                                     struct be_exec *target, be_value_id target_value,
                                     uint32_t target_row, uint32_t row_count, struct fm_err *err)
{
    struct cpu_device *device = device_of(base);
    const struct cpu_value *from =
        value_find(source, source_value, BE_VALUE_OUTPUT, source_row, row_count, err);
    if (from == NULL)
        return FM_INVALID;
    const struct cpu_value *to =
        value_find(target, target_value, BE_VALUE_INPUT, target_row, row_count, err);
    if (to == NULL)
        return FM_INVALID;
    if (from->value.elem != to->value.elem || from->cols != to->cols)
        return FM_FAIL(err, FM_INVALID, "value %u has %u columns of another kind than value %u: %u",
                       source_value, from->cols, target_value, to->cols);
    struct cpu_command *command = command_new(device, CPU_VERB_VALUE_COPY, NULL);
    command->values = (struct cpu_value_copy){.source = from,
                                              .target = to,
                                              .source_row = source_row,
                                              .target_row = target_row,
                                              .row_count = row_count};
    command_put(device, command);
    source->last_command = device->queued;
    target->last_command = device->queued;
    return FM_OK;
}

/* ---- events -------------------------------------------------------------------------------- */

static enum fm_status cpu_event_new(struct be_device *base, struct be_event **ret_event,
                                    struct fm_err *err)
{
    (void)base;
    struct be_event *event = fm_alloc(sizeof *event);
    if (event == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for an event");
    atomic_init(&event->is_released, true);
    event->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (event->fd == -1) {
        int error_number = errno;
        fm_free(event);
        return FM_FAIL_OS(err, FM_IO, error_number, "cannot make an eventfd");
    }
    *ret_event = event;
    return FM_OK;
}

static enum fm_status cpu_event_poll(struct be_device *base, struct be_event *event,
                                     struct fm_err *err)
{
    (void)base;
    if (atomic_load_explicit(&event->state, memory_order_acquire) != EVENT_COMPLETE)
        return FM_AGAIN;
    if (event->status != FM_OK && err != NULL)
        *err = event->err;
    return event->status;
}

static enum fm_status cpu_event_wait(struct be_device *base, struct be_event *event,
                                     uint64_t deadline_ns, struct fm_err *err)
{
    for (;;) {
        uint32_t state = atomic_load_explicit(&event->state, memory_order_acquire);
        if (state == EVENT_COMPLETE || fm_clock_ns() >= deadline_ns)
            return cpu_event_poll(base, event, err);
        word_wait(&event->state, state, deadline_ns);
    }
}

static void cpu_event_free(struct be_device *base, struct be_event *event)
{
    if (event == NULL)
        return;
    struct cpu_device *device = device_of(base);
    if (atomic_load_explicit(&event->state, memory_order_acquire) == EVENT_PENDING)
        wait_completed(device, device->queued);
    event_settle(event);
    (void)close(event->fd);
    fm_free(event);
}

static int cpu_event_fd(struct be_device *base, struct be_event *event)
{
    (void)base;
    return event->fd;
}

const struct be_ops be_cpu_ops = {
    .abi = BE_OPS_ABI,
    .name = "cpu",
    .score = cpu_score,
    .open = cpu_open,
    .close = cpu_close,
    .caps = cpu_caps,
    .weights_load = cpu_weights_load,
    .state_create = cpu_state_create,
    .compile = cpu_compile_entry,
    .exec_free = cpu_exec_free,
    .submit = cpu_submit,
    .page_copy = cpu_page_copy,
    .tail_reset = cpu_tail_reset,
    .page_out = cpu_page_out,
    .page_in = cpu_page_in,
    .value_write = cpu_value_write,
    .value_read = cpu_value_read,
    .value_copy = cpu_value_copy,
    .event_new = cpu_event_new,
    .event_free = cpu_event_free,
    .event_poll = cpu_event_poll,
    .event_wait = cpu_event_wait,
    .event_fd = cpu_event_fd,
};
