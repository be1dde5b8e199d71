/* sim.c - a device that computes nothing and notices everything.
 *
 * Pages hold digests instead of rows: the digest of a token is a hash of all tokens up to it (see
 * sim.h).  Before a step computes, each of its sequences is audited against its pages:
 *
 *   1. G: the digests of all tokens before length_before form one chain from the root, page by
 *      page, each link confirmed by the token that is stored with it.
 *   2. S: every row of the window before length_before holds the digest that G has.
 *   3. T: the slot stands at length_before, with the last digest; a new sequence's was reset.
 *
 * A page too few, too many, in the wrong place, shared while it was written, given back too early,
 * or copied too late breaks one of these: the step then fails with FM_DEVICE and a sentence.  The
 * answer of a step that passes is a function of its tokens alone.
 *
 * Time is charged, not spent: option "us_per_row=N" lets the event of a step complete N
 * microseconds a row later.  Fault points (fault.h): "sim_submit" fails a submit, "sim_step" fails
 * a step and spoils what it wrote, "sim_device" loses the device.
 *
 * It never volunteers: it is opened by name.  Thread: as backend.h. */
#include "backends/sim/sim.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/fault.h"
#include "backends/base/mailbox.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"

/* What stands for all rows of one token. */
struct sim_row {
    uint64_t digest;
    uint32_t token, position;
};

/* A T slot. */
struct sim_tail {
    uint64_t digest;
    uint32_t length;
    uint32_t is_set; /* 0 in a slot that was never reset: all zero is not a valid state */
};

struct sim_device {
    struct be_device base;
    uint64_t ns_per_row;
    const struct be_model *model; /* outlives the device */
    struct be_limits state_limits;
    struct sim_row *pages[2]; /* G and S: [units * page_tokens] */
    struct sim_tail *tails;   /* [units] */
    uint64_t busy_until_ns;
    bool is_lost;
    struct fm_mailbox *alarm; /* never fed: waiting on it is waiting for a time */
};

struct be_exec {
    struct be_program program; /* with a copy of the operations */
    struct be_op *ops;
    struct be_limits limits;
    be_value_id logits;
    uint64_t *digests; /* [logit_rows_max], of the last step */
    uint32_t logit_count;
};

struct be_event {
    uint64_t done_ns;
    enum fm_status status;
    struct fm_err err;
};

uint64_t be_sim_digest(uint64_t before, uint32_t token, uint32_t position)
{
    return fm_mix64(before * 0x9e3779b97f4a7c15u + (((uint64_t)position << 32) | token) + 1);
}

void be_sim_logits(uint64_t digest, uint32_t vocab, float *ret_logits)
{
    for (uint32_t token = 0; token < vocab; token++)
        ret_logits[token] =
            (float)(fm_mix64(digest + token * 0x9e3779b97f4a7c15u) >> 40) * 0x1p-21f - 4.0f;
}

static struct sim_device *sim_of(struct be_device *device)
{
    FM_ASSERT(device->ops == &be_sim_ops);
    return (struct sim_device *)device;
}

/* ---- life ---------------------------------------------------------------------------------- */

static int sim_score(const char **ret_reason)
{
    *ret_reason = "only by name: it computes no model";
    return -1;
}

static enum fm_status sim_open(const struct be_device_options *options,
                               struct be_device **ret_device, struct fm_err *err)
{
    static const char prefix[] = "us_per_row=";
    uint64_t us_per_row = 0;
    if (options->variant != NULL &&
        (strncmp(options->variant, prefix, sizeof prefix - 1) != 0 ||
         !fm_parse_u64(options->variant + sizeof prefix - 1, 0, 1000000, &us_per_row)))
        return FM_FAIL(err, FM_INVALID, "variant '%s' of sim is not us_per_row=N",
                       options->variant);
    struct sim_device *sim = fm_alloc(sizeof *sim);
    if (sim == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a device");
    sim->base.ops = &be_sim_ops;
    sim->ns_per_row = us_per_row * 1000;
    enum fm_status status = fm_mailbox_new(false, &sim->alarm, err);
    if (status != FM_OK) {
        fm_free(sim);
        return status;
    }
    *ret_device = &sim->base;
    return FM_OK;
}

static void sim_close(struct be_device *device)
{
    if (device == NULL)
        return;
    struct sim_device *sim = sim_of(device);
    fm_mailbox_free(sim->alarm);
    fm_free(sim->pages[BE_POOL_G]);
    fm_free(sim->pages[BE_POOL_S]);
    fm_free(sim->tails);
    fm_free(sim);
}

static void sim_caps(const struct be_device *device, struct be_caps *ret_caps)
{
    (void)device;
    *ret_caps = (struct be_caps){
        .is_host_memory = true,
        .unit_alignment = 1,
        .row_quantum = 1,
        .rows_max = UINT32_MAX,
        .programs = 1u << BE_PROGRAM_FORWARD,
        .async_depth = 1,
        .numerics = BE_NUMERICS_TOLERANCE,
    };
    (void)snprintf(ret_caps->description, sizeof ret_caps->description, "sim, no model");
}

static enum fm_status sim_weights_load(struct be_device *device, const struct be_model *model,
                                       const struct be_reader *reader, struct fm_err *err)
{
    (void)err;
    sim_of(device)->model = model;
    if (reader->progress != NULL)
        reader->progress(reader->context, 0, 0);
    return FM_OK;
}

static enum fm_status sim_state_create(struct be_device *device,
                                       const uint32_t units[BE_POOL_COUNT], struct fm_err *err)
{
    struct sim_device *sim = sim_of(device);
    size_t rows[2];
    for (uint32_t pool = 0; pool < 2; pool++) {
        FM_ASSERT(sim->pages[pool] == NULL);
        if (!fm_mul_size(units[pool], sim->model->shape.page_tokens, &rows[pool]))
            return FM_FAIL(err, FM_LIMIT, "%u pages are too many", units[pool]);
        sim->pages[pool] = fm_alloc_array(rows[pool], sizeof *sim->pages[pool]);
    }
    sim->tails = fm_alloc_array(units[BE_POOL_T], sizeof *sim->tails);
    if (sim->pages[BE_POOL_G] == NULL || sim->pages[BE_POOL_S] == NULL || sim->tails == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the digests of the cache");
    memcpy(sim->state_limits.units, units, sizeof sim->state_limits.units);
    return FM_OK;
}

static enum fm_status sim_compile(struct be_device *device, const struct be_program *program,
                                  const struct be_limits *limits, struct be_exec **ret_exec,
                                  struct fm_err *err)
{
    (void)device;
    if (program->kind != BE_PROGRAM_FORWARD)
        return FM_FAIL(err, FM_UNSUPPORTED, "sim runs no draft program");
    struct be_exec *exec = fm_alloc(sizeof *exec);
    if (exec == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a program");
    exec->program = *program;
    exec->limits = *limits;
    exec->ops = fm_alloc_array(program->op_count, sizeof *exec->ops);
    exec->digests = fm_alloc_array(limits->logit_rows_max, sizeof *exec->digests);
    if (exec->ops == NULL || exec->digests == NULL) {
        fm_free(exec->ops);
        fm_free(exec->digests);
        fm_free(exec);
        return FM_FAIL(err, FM_NOMEM, "no memory for a program");
    }
    memcpy(exec->ops, program->ops, program->op_count * sizeof *exec->ops);
    exec->program.ops = exec->ops; /* the caller's may go; be_step_check reads these */
    exec->program.values = NULL;
    exec->program.edges = NULL;
    for (uint32_t i = 0; i < program->op_count; i++)
        if (exec->ops[i].kind == BE_OP_HEAD)
            exec->logits = exec->ops[i].out[0];
    *ret_exec = exec;
    return FM_OK;
}

static void sim_exec_free(struct be_device *device, struct be_exec *exec)
{
    (void)device;
    if (exec == NULL)
        return;
    fm_free(exec->ops);
    fm_free(exec->digests);
    fm_free(exec);
}

/* ---- a step -------------------------------------------------------------------------------- */

/* One sequence of a step, with its lists. */
struct sim_seq {
    struct sim_device *sim;
    const struct be_seq *seq;
    uint32_t index;
    const uint32_t *g_pages, *s_pages;
    uint32_t s_first; /* page of s_pages[0] */
};

static struct sim_row *g_row(const struct sim_seq *at, uint32_t position)
{
    uint32_t page_tokens = at->sim->model->shape.page_tokens;
    return &at->sim->pages[BE_POOL_G][(size_t)at->g_pages[position / page_tokens] * page_tokens +
                                      position % page_tokens];
}

/* NULL where the row is not kept. */
static struct sim_row *s_row(const struct sim_seq *at, uint32_t position)
{
    uint32_t page_tokens = at->sim->model->shape.page_tokens;
    uint32_t unit = at->s_pages[position / page_tokens - at->s_first];
    if (unit == 0)
        return NULL;
    return &at->sim->pages[BE_POOL_S][(size_t)unit * page_tokens + position % page_tokens];
}

static enum fm_status audit_history(const struct sim_seq *at, struct fm_err *err)
{
    uint64_t digest = BE_SIM_ROOT;
    for (uint32_t position = 0; position < at->seq->length_before; position++) {
        const struct sim_row *row = g_row(at, position);
        digest = be_sim_digest(digest, row->token, position);
        if (row->digest != digest || row->position != position)
            return FM_FAIL(
                err, FM_DEVICE, "sim: sequence %u: G page %u does not hold the history of token %u",
                at->index, at->g_pages[position / at->sim->model->shape.page_tokens], position);
    }
    const struct sim_tail *tail = &at->sim->tails[at->seq->tail_slot];
    if (tail->is_set == 0 || tail->length != at->seq->length_before || tail->digest != digest)
        return FM_FAIL(err, FM_DEVICE,
                       "sim: sequence %u: T slot %u stands at token %u of some history, not at %u "
                       "of this",
                       at->index, at->seq->tail_slot, tail->length, at->seq->length_before);
    return FM_OK;
}

static enum fm_status audit_window(const struct sim_seq *at, struct fm_err *err)
{
    uint32_t end = at->seq->length_before;
    uint32_t rows = at->sim->model->shape.window - 1;
    for (uint32_t position = end > rows ? end - rows : 0; position < end; position++) {
        const struct sim_row *row = s_row(at, position);
        const struct sim_row *want = g_row(at, position);
        if (row == NULL || row->digest != want->digest || row->position != position)
            return FM_FAIL(err, FM_DEVICE, "sim: sequence %u: the window row of token %u is %s",
                           at->index, position, row == NULL ? "not kept" : "another history's");
    }
    return FM_OK;
}

static void compute(const struct sim_seq *at, const struct be_row *rows, struct be_exec *exec)
{
    struct sim_tail *tail = &at->sim->tails[at->seq->tail_slot];
    for (uint32_t i = 0; i < at->seq->row_count; i++) {
        const struct be_row *row = &rows[at->seq->row_first + i];
        tail->digest = be_sim_digest(tail->digest, (uint32_t)row->token, row->position);
        struct sim_row made = {tail->digest, (uint32_t)row->token, row->position};
        *g_row(at, row->position) = made;
        struct sim_row *kept = s_row(at, row->position);
        if (kept != NULL)
            *kept = made;
        if (row->logit != BE_NO_LOGIT)
            exec->digests[row->logit] = tail->digest;
    }
    tail->length += at->seq->row_count;
}

/* A step that failed has left anything behind its sequences' length_before. */
static void spoil(const struct sim_seq *at)
{
    for (uint32_t i = 0; i < at->seq->row_count; i++)
        g_row(at, at->seq->length_before + i)->digest ^= 0x5a5a;
    at->sim->tails[at->seq->tail_slot].digest ^= 0x5a5a;
}

static enum fm_status step_run(struct sim_device *sim, struct be_exec *exec,
                               const struct be_step *step, bool is_spoiled, struct fm_err *err)
{
    const uint32_t *pages = be_step_pages(step);
    for (uint32_t i = 0; i < step->seq_count; i++) {
        const struct be_seq *seq = &be_step_seqs(step)[i];
        struct sim_seq at = {
            .sim = sim,
            .seq = seq,
            .index = i,
            .g_pages = pages + seq->g_first,
            .s_pages = pages + seq->s_first,
            .s_first = be_step_s_page_first(seq->length_before, sim->model->shape.page_tokens),
        };
        enum fm_status status = audit_history(&at, err);
        if (status == FM_OK)
            status = audit_window(&at, err);
        if (status != FM_OK)
            return status;
        compute(&at, be_step_rows(step), exec);
        if (is_spoiled)
            spoil(&at);
    }
    exec->logit_count = step->logit_count;
    return is_spoiled ? FM_FAIL(err, FM_IO, "sim: the step failed on demand") : FM_OK;
}

static enum fm_status sim_submit(struct be_device *device, struct be_exec *exec,
                                 const struct be_step *step, struct be_event *done,
                                 struct fm_err *err)
{
    struct sim_device *sim = sim_of(device);
    enum fm_status status = be_step_check(step, step->bytes, &exec->program, &exec->limits, err);
    if (status != FM_OK)
        return status;
    if (fm_fault_hit("sim_submit"))
        return FM_FAIL(err, FM_NOMEM, "sim: the submit failed on demand");
    if (fm_clock_ns() < sim->busy_until_ns)
        return FM_AGAIN;

    sim->is_lost |= fm_fault_hit("sim_device");
    if (sim->is_lost)
        done->status = FM_FAIL(&done->err, FM_DEVICE, "sim: the device was lost on demand");
    else
        done->status = step_run(sim, exec, step, fm_fault_hit("sim_step"), &done->err);
    sim->is_lost |= done->status == FM_DEVICE;
    done->done_ns = fm_clock_ns() + sim->ns_per_row * step->row_count;
    sim->busy_until_ns = done->done_ns;
    return FM_OK;
}

/* ---- commands ------------------------------------------------------------------------------ */

static enum fm_status sim_page_copy(struct be_device *device, const struct be_copy *copies,
                                    uint32_t count, struct fm_err *err)
{
    struct sim_device *sim = sim_of(device);
    uint32_t page_tokens = sim->model->shape.page_tokens;
    for (uint32_t i = 0; i < count; i++) {
        const struct be_copy *copy = &copies[i];
        uint32_t units = sim->state_limits.units[copy->pool];
        if (copy->source == 0 || copy->source >= units || copy->target == 0 ||
            copy->target >= units)
            return FM_FAIL(err, FM_INVALID, "sim: copy of unit %u to %u, the pool has %u",
                           copy->source, copy->target, units);
        if (copy->pool == BE_POOL_T)
            sim->tails[copy->target] = sim->tails[copy->source];
        else
            memcpy(sim->pages[copy->pool] + (size_t)copy->target * page_tokens,
                   sim->pages[copy->pool] + (size_t)copy->source * page_tokens,
                   page_tokens * sizeof(struct sim_row));
    }
    return FM_OK;
}

static enum fm_status sim_tail_reset(struct be_device *device, const uint32_t *slots,
                                     uint32_t count, struct fm_err *err)
{
    struct sim_device *sim = sim_of(device);
    for (uint32_t i = 0; i < count; i++) {
        if (slots[i] == 0 || slots[i] >= sim->state_limits.units[BE_POOL_T])
            return FM_FAIL(err, FM_INVALID, "sim: reset of slot %u, the pool has %u", slots[i],
                           sim->state_limits.units[BE_POOL_T]);
        sim->tails[slots[i]] = (struct sim_tail){.digest = BE_SIM_ROOT, .is_set = 1};
    }
    return FM_OK;
}

/* The digests of a unit, as bytes for page_out and page_in.  NULL, with a sentence, when there are
 * none. */
static void *unit_find(struct sim_device *sim, enum be_pool pool, uint32_t unit, size_t *ret_bytes,
                       struct fm_err *err)
{
    size_t page_tokens = sim->model->shape.page_tokens;
    size_t bytes =
        pool == BE_POOL_T ? sizeof(struct sim_tail) : page_tokens * sizeof(struct sim_row);
    if (unit == 0 || unit >= sim->state_limits.units[pool] ||
        bytes > be_pool_unit_bytes(sim->model, pool)) {
        (void)FM_FAIL(err, FM_INVALID, "sim: unit %u of %u, with %zu bytes of digests", unit,
                      sim->state_limits.units[pool], bytes);
        return NULL;
    }
    *ret_bytes = bytes;
    return pool == BE_POOL_T ? (void *)&sim->tails[unit]
                             : (void *)(sim->pages[pool] + unit * page_tokens);
}

static enum fm_status sim_page_out(struct be_device *device, enum be_pool pool, uint32_t unit,
                                   void *host, struct be_event *done, struct fm_err *err)
{
    size_t bytes = 0;
    const void *data = unit_find(sim_of(device), pool, unit, &bytes, err);
    if (data == NULL)
        return FM_INVALID;
    memset(host, 0, be_pool_unit_bytes(sim_of(device)->model, pool));
    memcpy(host, data, bytes);
    *done = (struct be_event){.status = FM_OK};
    return FM_OK;
}

static enum fm_status sim_page_in(struct be_device *device, enum be_pool pool, uint32_t unit,
                                  const void *host, struct be_event *done, struct fm_err *err)
{
    size_t bytes = 0;
    void *data = unit_find(sim_of(device), pool, unit, &bytes, err);
    if (data == NULL)
        return FM_INVALID;
    memcpy(data, host, bytes);
    *done = (struct be_event){.status = FM_OK};
    return FM_OK;
}

/* ---- values and events --------------------------------------------------------------------- */

static enum fm_status sim_value_write(struct be_device *device, struct be_exec *exec,
                                      be_value_id value, uint32_t row_first, uint32_t row_count,
                                      const void *host, struct fm_err *err)
{
    (void)device, (void)exec, (void)row_first, (void)row_count, (void)host;
    return FM_FAIL(err, FM_UNSUPPORTED, "sim: value %u cannot be written", value);
}

static enum fm_status sim_value_read(struct be_device *device, struct be_exec *exec,
                                     be_value_id value, uint32_t row_first, uint32_t row_count,
                                     void *host, struct fm_err *err)
{
    uint32_t vocab = sim_of(device)->model->shape.vocab;
    if (value != exec->logits)
        return FM_FAIL(err, FM_UNSUPPORTED, "sim: value %u is not computed", value);
    if (row_first > exec->logit_count || row_count > exec->logit_count - row_first)
        return FM_FAIL(err, FM_INVALID, "sim: rows %u + %u of %u", row_first, row_count,
                       exec->logit_count);
    for (uint32_t i = 0; i < row_count; i++)
        be_sim_logits(exec->digests[row_first + i], vocab, (float *)host + (size_t)i * vocab);
    return FM_OK;
}

static enum fm_status sim_value_copy(struct be_device *device, struct be_exec *source,
                                     be_value_id source_value, uint32_t source_row,
                                     struct be_exec *target, be_value_id target_value,
                                     uint32_t target_row, uint32_t row_count, struct fm_err *err)
{
    (void)device, (void)source, (void)source_row, (void)target, (void)target_row, (void)row_count;
    return FM_FAIL(err, FM_UNSUPPORTED, "sim: value %u cannot be copied to %u", source_value,
                   target_value);
}

static enum fm_status sim_event_new(struct be_device *device, struct be_event **ret_event,
                                    struct fm_err *err)
{
    (void)device;
    struct be_event *event = fm_alloc(sizeof *event);
    if (event == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for an event");
    *ret_event = event;
    return FM_OK;
}

static void sim_event_free(struct be_device *device, struct be_event *event)
{
    (void)device;
    fm_free(event);
}

static enum fm_status sim_event_poll(struct be_device *device, struct be_event *event,
                                     struct fm_err *err)
{
    (void)device;
    if (fm_clock_ns() < event->done_ns)
        return FM_AGAIN;
    if (event->status < 0 && err != NULL)
        *err = event->err;
    return event->status;
}

static enum fm_status sim_event_wait(struct be_device *device, struct be_event *event,
                                     uint64_t deadline_ns, struct fm_err *err)
{
    uint64_t until_ns = fm_min_u64(event->done_ns, deadline_ns);
    if (fm_clock_ns() < until_ns) {
        struct fm_link *link = fm_mailbox_take_until(sim_of(device)->alarm, until_ns);
        FM_ASSERT(link == NULL);
    }
    return sim_event_poll(device, event, err);
}

const struct be_ops be_sim_ops = {
    .abi = BE_OPS_ABI,
    .name = "sim",
    .score = sim_score,
    .open = sim_open,
    .close = sim_close,
    .caps = sim_caps,
    .weights_load = sim_weights_load,
    .state_create = sim_state_create,
    .compile = sim_compile,
    .exec_free = sim_exec_free,
    .submit = sim_submit,
    .page_copy = sim_page_copy,
    .tail_reset = sim_tail_reset,
    .page_out = sim_page_out,
    .page_in = sim_page_in,
    .value_write = sim_value_write,
    .value_read = sim_value_read,
    .value_copy = sim_value_copy,
    .event_new = sim_event_new,
    .event_free = sim_event_free,
    .event_poll = sim_event_poll,
    .event_wait = sim_event_wait,
    .event_fd = NULL,
};
