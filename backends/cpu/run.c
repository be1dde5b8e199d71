/* run.c - one step through the phases of a program; see exec.h. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/fault.h"
#include "backends/cpu/exec.h"

/* The member's share of `count` items.  Shares of neighbouring stages begin with different
 * members, so that stages of one item each do not all fall to the same one. */
static struct cpu_range share(uint32_t count, uint32_t member, uint32_t shift, uint32_t members)
{
    uint64_t place = (member + shift) % members;
    return (struct cpu_range){.first = (uint32_t)(place * count / members),
                              .end = (uint32_t)((place + 1) * count / members)};
}

static void task_run(const struct cpu_step *step, struct cpu_task *task,
                     const struct cpu_stage *stage, uint32_t items, uint32_t shift,
                     struct cpu_worker *worker)
{
    if (!stage->is_dynamic) {
        struct cpu_range range =
            share(items, worker->member, shift, cpu_team_member_count(step->exec->team));
        if (range.first < range.end)
            stage->run(step, task->op, task->stage, range, worker);
        return;
    }
    for (;;) {
        /* the barrier behind the phase orders what items write */
        uint32_t item = atomic_fetch_add_explicit(&task->next, 1, memory_order_relaxed);
        if (item >= items)
            return;
        struct cpu_range range = {.first = item, .end = item + 1};
        stage->run(step, task->op, task->stage, range, worker);
    }
}

static void angles(const struct cpu_step *step, uint32_t member)
{
    const struct be_shape *shape = step->shape;
    struct be_exec *exec = step->exec;
    uint32_t pairs = shape->rope_dim / 2;
    struct cpu_range rows = share(step->row_count, member, 0, cpu_team_member_count(exec->team));
    for (uint32_t r = rows.first; r < rows.end; r++) {
        uint64_t at = (uint64_t)r * pairs;
        step->kern->rope_angles(step->rows[r].position, shape->inv_freq_plain, pairs,
                                exec->sines[0] + at, exec->cosines[0] + at);
        step->kern->rope_angles(step->rows[r].position, shape->inv_freq_yarn, pairs,
                                exec->sines[1] + at, exec->cosines[1] + at);
    }
}

/* What every member of the team does for a step. */
static void member_run(void *context, uint32_t member)
{
    const struct cpu_step *step = context;
    struct be_exec *exec = step->exec;
    struct cpu_worker *worker = &exec->workers[member];
    angles(step, member);
    cpu_team_barrier(exec->team);
    for (uint32_t p = 0; p < step->phase_end; p++) {
        const struct cpu_phase *phase = &exec->phases[p];
        bool is_empty = true;
        for (uint32_t t = 0; t < phase->task_count; t++) {
            struct cpu_task *task = &exec->tasks[phase->task_first + t];
            const struct cpu_kind *kind = task->op->kind;
            const struct cpu_stage *stage = &kind->stages[task->stage % kind->period];
            uint32_t items = stage->items(step, task->op, task->stage);
            if (items == 0)
                continue;
            is_empty = false;
            task_run(step, task, stage, items, t, worker);
        }
        if (!is_empty)
            cpu_team_barrier(exec->team);
    }
    for (uint32_t i = 0; step->is_committed && i < exec->commit_count; i++) {
        struct cpu_task *task = &exec->commits[i];
        const struct cpu_stage *stage = task->op->kind->commit;
        task_run(step, task, stage, stage->items(step, task->op, 0), i, worker);
    }
}

enum fm_status cpu_run(struct be_exec *exec, const struct be_step *block, struct fm_err *err)
{
    struct cpu_step step = {
        .exec = exec,
        .kern = exec->kern,
        .shape = &exec->model->shape,
        .rows = be_step_rows(block),
        .seqs = be_step_seqs(block),
        .pages = be_step_pages(block),
        .row_count = block->row_count,
        .seq_count = block->seq_count,
        .logit_count = block->logit_count,
        .phase_end = exec->phase_count,
        .is_committed = true,
    };
    for (uint32_t r = 0; r < step.row_count; r++)
        if (step.rows[r].logit != BE_NO_LOGIT)
            exec->logit_rows[step.rows[r].logit] = r;
    for (uint32_t p = 0; p < exec->phase_count; p++)
        for (uint32_t t = 0; t < exec->phases[p].task_count; t++)
            atomic_store_explicit(&exec->tasks[exec->phases[p].task_first + t].next, 0,
                                  memory_order_relaxed);

    bool is_failing = fm_fault_hit("cpu step");
    if (is_failing) {
        step.phase_end = exec->phase_count / 2;
        step.is_committed = false;
    }
    cpu_team_run(exec->team, member_run, &step);
    if (is_failing)
        return FM_FAIL(err, FM_IO, "step %llu was stopped half way on demand",
                       (unsigned long long)block->number);
    return FM_OK;
}

/* ---- for operations ------------------------------------------------------------------------ */

uint8_t *cpu_window_row(const struct cpu_step *step, const struct be_seq *seq,
                        const struct be_state *state, uint64_t offset, uint32_t position)
{
    uint32_t page_tokens = step->shape->page_tokens;
    uint32_t at = position / page_tokens - be_step_s_page_first(seq->length_before, page_tokens);
    FM_ASSERT(at < seq->s_count);
    uint32_t page = step->pages[seq->s_first + at];
    if (page == 0)
        return NULL;
    return cpu_state_unit(step->exec->state, BE_POOL_S, page) + offset +
           (uint64_t)(position % page_tokens) * state->row_bytes;
}

uint8_t *cpu_entry_row(const struct cpu_step *step, const struct be_seq *seq,
                       const struct be_state *state, uint64_t offset, uint32_t entry)
{
    FM_ASSERT(entry / state->rows < seq->g_count);
    uint32_t page = step->pages[seq->g_first + entry / state->rows];
    return cpu_state_unit(step->exec->state, BE_POOL_G, page) + offset +
           (uint64_t)(entry % state->rows) * state->row_bytes;
}

static uint32_t entries_of(const struct be_seq *seq, uint32_t ratio)
{
    return (seq->length_before + seq->row_count) / ratio - seq->length_before / ratio;
}

uint32_t cpu_entry_count(const struct cpu_step *step, uint32_t ratio)
{
    uint32_t count = 0;
    for (uint32_t s = 0; s < step->seq_count; s++)
        count += entries_of(&step->seqs[s], ratio);
    return count;
}

struct cpu_entry cpu_entry_find(const struct cpu_step *step, uint32_t ratio, uint32_t number)
{
    uint32_t seq = 0;
    while (number >= entries_of(&step->seqs[seq], ratio))
        number -= entries_of(&step->seqs[seq++], ratio);
    return (struct cpu_entry){.seq = seq, .index = step->seqs[seq].length_before / ratio + number};
}

uint32_t cpu_items_rows(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->row_count;
}

uint32_t cpu_items_logit_rows(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->logit_count;
}
