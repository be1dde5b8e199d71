/* compile.c - from a program to phases and addresses; see exec.h.
 *
 * Memory is planned from lifetimes: a block is alive from the phase that first writes it to the
 * last one that reads it, and shares its bytes with blocks that are alive at other times.  The
 * largest block is placed first, each at the lowest place where it fits. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "backends/cpu/exec.h"

enum { ALIGNMENT = 128 };

/* ---- copies -------------------------------------------------------------------------------- */

static enum fm_status program_copy(const struct be_program *from, struct be_program *to,
                                   struct fm_err *err)
{
    size_t value_bytes = from->value_count * sizeof *from->values;
    size_t op_bytes = from->op_count * sizeof *from->ops;
    size_t edge_bytes = from->edge_count * sizeof *from->edges;
    struct be_value *values = fm_alloc(value_bytes);
    struct be_op *ops = fm_alloc(op_bytes);
    uint32_t *edges = fm_alloc(edge_bytes);
    *to = *from;
    to->values = values;
    to->ops = ops;
    to->edges = edges;
    if (values == NULL || ops == NULL || edges == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a program of %u operations", from->op_count);
    memcpy(values, from->values, value_bytes);
    memcpy(ops, from->ops, op_bytes);
    if (edge_bytes != 0)
        memcpy(edges, from->edges, edge_bytes);
    return FM_OK;
}

static uint32_t lead_max(const struct be_limits *limits, enum be_lead lead)
{
    switch (lead) {
    case BE_LEAD_ROWS: return limits->rows_max;
    case BE_LEAD_LOGIT_ROWS: return limits->logit_rows_max;
    case BE_LEAD_SEQS: return limits->seqs_max;
    }
    FM_UNREACHABLE();
}

static enum fm_status values_resolve(struct be_exec *exec, struct fm_err *err)
{
    for (uint32_t i = 1; i < exec->program.value_count; i++) {
        struct cpu_value *value = &exec->values[i];
        value->value = exec->program.values[i];
        value->cols = value->value.outer * value->value.inner;
        value->rows = lead_max(&exec->limits, value->value.lead);
        if (value->value.elem == BE_ELEM_ACT && value->cols % KERN_BLOCK != 0)
            return FM_FAIL(err, FM_UNSUPPORTED,
                           "value %u has %u columns, which blocks of %d do not divide", i,
                           value->cols, KERN_BLOCK);
    }
    return FM_OK;
}

static enum fm_status op_resolve(struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    for (uint32_t i = 0; i < BE_OP_IN_MAX; i++)
        op->in[i] = op->op.in[i] != 0 ? &exec->values[op->op.in[i]] : NULL;
    for (uint32_t i = 0; i < BE_OP_OUT_MAX; i++)
        op->out[i] = op->op.out[i] != 0 ? &exec->values[op->op.out[i]] : NULL;
    for (uint32_t i = 0; i < BE_OP_WEIGHTS_MAX; i++)
        op->weight[i] = op->op.weight[i] != 0 ? &exec->pack->weights[op->op.weight[i]] : NULL;
    for (uint32_t i = 0; i < BE_OP_STATES_MAX; i++) {
        if (op->op.state[i] == 0)
            continue;
        op->state[i] = &exec->model->states[op->op.state[i]];
        op->state_offset[i] = be_state_offset(exec->model, op->op.state[i]);
    }
    op->kind = cpu_kind_get(op->op.kind);
    op->stage_count = op->kind->period;
    return op->kind->plan(exec, op, err);
}

/* ---- phases -------------------------------------------------------------------------------- */

/* The stage of `op` that first needs what `before` did.  Only EXPERTS waits for a part of its
 * inputs: the shared expert's output joins the sum in its last stage. */
static uint32_t stage_that_needs(const struct cpu_op *op, const struct cpu_op *before)
{
    if (op->op.kind == BE_OP_EXPERTS && before->op.kind == BE_OP_SHARED_EXPERT)
        return op->stage_count - 1;
    return 0;
}

static enum fm_status phases_place(struct be_exec *exec, struct fm_err *err)
{
    uint32_t task_count = 0;
    for (uint32_t i = 0; i < exec->program.op_count; i++) {
        struct cpu_op *op = &exec->ops[i];
        for (uint32_t e = 0; e < op->op.edge_count; e++) {
            const struct cpu_op *before = &exec->ops[exec->program.edges[op->op.edge_first + e]];
            uint32_t ready = before->first_phase + before->stage_count;
            uint32_t stage = stage_that_needs(op, before);
            if (ready > stage)
                op->first_phase = fm_max_u32(op->first_phase, ready - stage);
        }
        exec->phase_count = fm_max_u32(exec->phase_count, op->first_phase + op->stage_count);
        task_count += op->stage_count;
        exec->commit_count += op->kind->commit != NULL;
    }

    exec->tasks = fm_alloc_array(task_count, sizeof *exec->tasks);
    exec->phases = fm_alloc_array(exec->phase_count, sizeof *exec->phases);
    exec->commits = fm_alloc_array(exec->commit_count, sizeof *exec->commits);
    if (exec->tasks == NULL || exec->phases == NULL || exec->commits == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u phases", exec->phase_count);

    /* count, then prefix sums, then fill */
    for (uint32_t i = 0; i < exec->program.op_count; i++)
        for (uint32_t s = 0; s < exec->ops[i].stage_count; s++)
            exec->phases[exec->ops[i].first_phase + s].task_count++;
    for (uint32_t p = 1; p < exec->phase_count; p++)
        exec->phases[p].task_first =
            exec->phases[p - 1].task_first + exec->phases[p - 1].task_count;
    for (uint32_t p = 0; p < exec->phase_count; p++)
        exec->phases[p].task_count = 0;
    uint32_t commit = 0;
    for (uint32_t i = 0; i < exec->program.op_count; i++) {
        const struct cpu_op *op = &exec->ops[i];
        for (uint32_t s = 0; s < op->stage_count; s++) {
            struct cpu_phase *phase = &exec->phases[op->first_phase + s];
            struct cpu_task *task = &exec->tasks[phase->task_first + phase->task_count++];
            task->op = op;
            task->stage = s;
        }
        if (op->kind->commit != NULL)
            exec->commits[commit++].op = op;
    }
    return FM_OK;
}

/* ---- memory -------------------------------------------------------------------------------- */

struct block {
    uint64_t bytes, offset;
    uint32_t first, last; /* phases, both included */
    void **ret_address;
};

struct plan {
    struct block *blocks;
    uint32_t count, capacity;
    uint64_t bytes;
};

static void plan_add(struct plan *plan, uint64_t bytes, uint32_t first, uint32_t last,
                     void **ret_address)
{
    FM_ASSERT(plan->count < plan->capacity);
    plan->blocks[plan->count++] = (struct block){.bytes = fm_align_up(bytes, ALIGNMENT),
                                                 .first = first,
                                                 .last = last,
                                                 .ret_address = ret_address};
}

static int larger_first(const void *a, const void *b)
{
    const struct block *left = a, *right = b;
    if (left->bytes != right->bytes)
        return left->bytes > right->bytes ? -1 : 1;
    return left->first < right->first ? -1 : left->first > right->first;
}

static int lower_first(const void *a, const void *b)
{
    const struct block *const *left = a, *const *right = b;
    return (*left)->offset < (*right)->offset ? -1 : (*left)->offset > (*right)->offset;
}

/* `others` has room for plan->count pointers. */
static void plan_place(struct plan *plan, const struct block **others)
{
    qsort(plan->blocks, plan->count, sizeof *plan->blocks, larger_first);
    for (uint32_t i = 0; i < plan->count; i++) {
        struct block *block = &plan->blocks[i];
        uint32_t count = 0;
        for (uint32_t j = 0; j < i; j++)
            if (plan->blocks[j].first <= block->last && block->first <= plan->blocks[j].last)
                others[count++] = &plan->blocks[j];
        qsort(others, count, sizeof(void *), lower_first);
        uint64_t at = 0;
        for (uint32_t j = 0; j < count; j++) {
            if (others[j]->offset >= at + block->bytes)
                break;
            at = fm_max_u64(at, others[j]->offset + others[j]->bytes);
        }
        block->offset = at;
        plan->bytes = fm_max_u64(plan->bytes, at + block->bytes);
    }
}

/* Phases in which each value is alive.  Inputs and outputs have their place to themselves: rows
 * that a step does not have stay as they were. */
static void lifetimes(const struct be_exec *exec, uint32_t *first, uint32_t *last)
{
    uint32_t count = exec->program.value_count;
    for (uint32_t i = 0; i < count; i++) {
        first[i] = exec->program.values[i].flags != 0 ? 0 : CPU_FOREVER;
        last[i] = exec->program.values[i].flags != 0 ? CPU_FOREVER : 0;
    }
    for (uint32_t i = 0; i < exec->program.op_count; i++) {
        const struct cpu_op *op = &exec->ops[i];
        uint32_t end = op->first_phase + op->stage_count - 1;
        for (uint32_t o = 0; o < BE_OP_OUT_MAX; o++) {
            first[op->op.out[o]] = fm_min_u32(first[op->op.out[o]], op->first_phase);
            last[op->op.out[o]] = fm_max_u32(last[op->op.out[o]], end);
        }
        for (uint32_t n = 0; n < BE_OP_IN_MAX; n++)
            last[op->op.in[n]] = fm_max_u32(last[op->op.in[n]], end);
    }
}

static uint64_t value_bytes(const struct cpu_value *value)
{
    switch (value->value.elem) {
    case BE_ELEM_BF16:
    case BE_ELEM_ACT: return (uint64_t)value->rows * value->cols * sizeof(uint16_t);
    case BE_ELEM_F32:
    case BE_ELEM_I32: return (uint64_t)value->rows * value->cols * sizeof(float);
    }
    FM_UNREACHABLE();
}

static void plan_values(const struct be_exec *exec, struct plan *plan, uint32_t *first,
                        uint32_t *last)
{
    lifetimes(exec, first, last);
    for (uint32_t i = 1; i < exec->program.value_count; i++) {
        struct cpu_value *value = &exec->values[i];
        if (first[i] == CPU_FOREVER)
            continue; /* nobody writes it: the check has seen to it that nobody reads it */
        plan_add(plan, value_bytes(value), first[i], last[i], (void **)&value->data);
        if (value->value.elem == BE_ELEM_ACT)
            plan_add(plan, (uint64_t)value->rows * (value->cols / KERN_BLOCK), first[i], last[i],
                     (void **)&value->scales);
    }
}

static void plan_scratch(const struct be_exec *exec, struct plan *plan)
{
    for (uint32_t i = 0; i < exec->program.op_count; i++) {
        struct cpu_op *op = &exec->ops[i];
        for (uint32_t s = 0; s < CPU_SCRATCH_MAX; s++)
            if (op->scratch_bytes[s] != 0)
                plan_add(plan, op->scratch_bytes[s], op->first_phase,
                         op->is_scratch_kept[s] ? CPU_FOREVER
                                                : op->first_phase + op->stage_count - 1,
                         &op->scratch[s]);
    }
}

static enum fm_status memory_place(struct be_exec *exec, struct fm_err *err)
{
    uint32_t values = exec->program.value_count;
    struct plan plan = {.capacity = 2 * values + CPU_SCRATCH_MAX * exec->program.op_count};
    const struct block **others = fm_alloc_array(plan.capacity, sizeof(void *));
    uint32_t *phases = fm_alloc_array(2 * (size_t)values, sizeof *phases);
    plan.blocks = fm_alloc_array(plan.capacity, sizeof *plan.blocks);
    enum fm_status status;
    if (others == NULL || phases == NULL || plan.blocks == NULL) {
        status = FM_FAIL(err, FM_NOMEM, "no memory to plan %u values", values);
        goto out_free;
    }
    plan_values(exec, &plan, phases, phases + values);
    plan_scratch(exec, &plan);
    plan_place(&plan, others);
    status = cpu_memory_take(plan.bytes, "the values of a program", &exec->arena, err);
    for (uint32_t i = 0; status == FM_OK && i < plan.count; i++)
        *plan.blocks[i].ret_address = exec->arena.data + plan.blocks[i].offset;
out_free:
    fm_free(plan.blocks);
    fm_free(phases);
    fm_free(others);
    return status;
}

/* ---- tables and workers -------------------------------------------------------------------- */

/* A run of bytes cut into aligned pieces; with data NULL it only counts. */
struct cutter {
    uint8_t *data;
    uint64_t at;
};

static void *cut(struct cutter *cutter, uint64_t bytes)
{
    void *piece = cutter->data != NULL ? cutter->data + cutter->at : NULL;
    cutter->at += fm_align_up(bytes, ALIGNMENT);
    return piece;
}

static void tables_cut(struct be_exec *exec, struct cutter *cutter)
{
    const struct be_shape *shape = &exec->model->shape;
    uint64_t angles = (uint64_t)exec->limits.rows_max * (shape->rope_dim / 2) * sizeof(float);
    for (uint32_t i = 0; i < 2; i++) {
        exec->sines[i] = cut(cutter, angles);
        exec->cosines[i] = cut(cutter, angles);
    }
    uint64_t raw = 2 * (uint64_t)fm_max_u32(shape->head_dim, shape->index_dim) * sizeof(float);
    exec->absent_k = cut(cutter, raw);
    float *absent_g = cut(cutter, raw);
    for (uint64_t i = 0; absent_g != NULL && i < raw / sizeof(float); i++)
        absent_g[i] = -INFINITY;
    exec->absent_g = absent_g;
    exec->logit_rows = cut(cutter, (uint64_t)exec->limits.logit_rows_max * sizeof(uint32_t));

    size_t block_bytes = be_step_bytes(exec->limits.rows_max, exec->limits.seqs_max,
                                       exec->limits.logit_rows_max, exec->limits.pages_max);
    for (uint32_t i = 0; i < CPU_STEPS_MAX; i++)
        exec->blocks[i] = cut(cutter, block_bytes);

    uint64_t cols = KERN_BLOCK, own = 0;
    for (uint32_t i = 0; i < exec->program.op_count; i++) {
        cols = fm_max_u64(cols, exec->ops[i].linear_cols);
        own = fm_max_u64(own, exec->ops[i].worker_bytes);
    }
    uint64_t blocks = fm_div_ceil(cols, KERN_BLOCK);
    for (uint32_t i = 0; i < cpu_team_member_count(exec->team); i++) {
        struct cpu_worker *worker = &exec->workers[i];
        worker->member = i;
        worker->x = cut(cutter, blocks * KERN_BLOCK * KERN_TOKENS * sizeof(float));
        worker->x_scales = cut(cutter, blocks * KERN_TOKENS);
        worker->y = cut(cutter, (uint64_t)KERN_TOKENS * KERN_PANEL_ROWS * sizeof(float));
        worker->own = cut(cutter, own);
    }
}

enum fm_status cpu_compile(const struct be_program *program, const struct be_limits *limits,
                           struct be_exec *exec, struct fm_err *err)
{
    exec->limits = *limits;
    enum fm_status status = program_copy(program, &exec->program, err);
    if (status != FM_OK)
        return status;
    exec->values = fm_alloc_array(program->value_count, sizeof *exec->values);
    exec->ops = fm_alloc_array(program->op_count, sizeof *exec->ops);
    if (exec->values == NULL || exec->ops == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u operations", program->op_count);

    status = values_resolve(exec, err);
    for (uint32_t i = 0; status == FM_OK && i < program->op_count; i++) {
        exec->ops[i].op = program->ops[i];
        status = op_resolve(exec, &exec->ops[i], err);
    }
    if (status == FM_OK)
        status = phases_place(exec, err);
    if (status == FM_OK)
        status = memory_place(exec, err);
    if (status != FM_OK)
        return status;

    struct cutter cutter = {0};
    tables_cut(exec, &cutter);
    status = cpu_memory_take(cutter.at, "the tables of a program", &exec->tables, err);
    if (status == FM_OK) {
        cutter = (struct cutter){.data = exec->tables.data};
        tables_cut(exec, &cutter);
    }
    return status;
}

void cpu_compile_undo(struct be_exec *exec)
{
    cpu_memory_give(&exec->tables);
    cpu_memory_give(&exec->arena);
    fm_free(exec->commits);
    fm_free(exec->phases);
    fm_free(exec->tasks);
    fm_free(exec->ops);
    fm_free(exec->values);
    fm_free((void *)(uintptr_t)exec->program.edges);
    fm_free((void *)(uintptr_t)exec->program.ops);
    fm_free((void *)(uintptr_t)exec->program.values);
}
