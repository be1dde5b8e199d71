/* op_index.c - INDEX_QUERY and INDEX_SELECT: which compressed entries a token attends to. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/numeric.h"
#include "backends/cpu/linear.h"
#include "backends/cpu/ops.h"

/* ---- INDEX_QUERY: scratch[0] are the head weights before rounding, [rows, Hi] --------------- */

static void query_linears(const struct cpu_step *step, const struct cpu_op *op,
                          struct cpu_linear ret_linears[2])
{
    ret_linears[0] = (struct cpu_linear){.weight = op->weight[0], .tokens = step->row_count};
    cpu_linear_input(&ret_linears[0], op->in[1], op->in[2]);
    cpu_linear_output(&ret_linears[0], op->out[0]);
    ret_linears[1] = (struct cpu_linear){.weight = op->weight[1],
                                         .tokens = step->row_count,
                                         .y_f32 = op->scratch[0],
                                         .y_stride = op->weight[1]->rows};
    cpu_linear_input(&ret_linears[1], op->in[0], NULL);
}

static uint32_t query_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linears[2];
    query_linears(step, op, linears);
    return cpu_linears_items(linears, 2);
}

static void query_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                      struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linears[2];
    query_linears(step, op, linears);
    cpu_linears_run(step, linears, 2, items, worker);
}

static uint32_t head_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->row_count * step->shape->index_heads;
}

static void head_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                     struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    const struct be_shape *shape = step->shape;
    uint32_t heads = shape->index_heads, dim = shape->index_dim;
    for (uint32_t i = items.first; i < items.end; i++) {
        uint32_t r = i / heads, h = i % heads;
        uint16_t *qi = cpu_bf16(op->out[0], r) + (uint64_t)h * dim;
        step->kern->rope(qi, dim, shape->rope_dim / 2, cpu_sines(step, op->op.ratio, r),
                         cpu_cosines(step, op->op.ratio, r), false);
        step->kern->index_finish(qi, dim, (float *)(void *)worker->own, NULL);
        float weight = ((const float *)op->scratch[0])[(uint64_t)r * heads + h];
        cpu_f32(op->out[1], r)[h] = fm_bf16_round(weight) * shape->index_scale;
    }
}

static enum fm_status query_plan(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    const struct be_shape *shape = &exec->model->shape;
    if (!op->weight[1]->is_paneled)
        return FM_FAIL(err, FM_UNSUPPORTED, "an indexer of %u head", shape->index_heads);
    op->scratch_bytes[0] = (uint64_t)exec->limits.rows_max * shape->index_heads * sizeof(float);
    op->worker_bytes = shape->index_dim * sizeof(float);
    op->linear_cols = fm_max_u32(op->weight[0]->cols, op->weight[1]->cols);
    return FM_OK;
}

static const struct cpu_stage query_stages[] = {
    {query_items, query_run, false},
    {head_items, head_run, false},
};
const struct cpu_kind cpu_op_index_query = {
    .stages = query_stages, .period = 2, .plan = query_plan};

/* ---- INDEX_SELECT -------------------------------------------------------------------------- */

/* worker->own: q [Hi, di], keys [di, 16], scores [entries, rounded up to 16]. */
static uint16_t *scores_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t row,
                            uint32_t count, const struct cpu_worker *worker)
{
    const struct be_shape *shape = step->shape;
    const struct be_seq *seq = &step->seqs[step->rows[row].seq];
    uint32_t heads = shape->index_heads, dim = shape->index_dim;
    float *q = (float *)(void *)worker->own, *keys = q + (uint64_t)heads * dim;
    uint16_t *scores = (uint16_t *)(void *)(keys + (uint64_t)dim * KERN_LANES);
    step->kern->widen(cpu_bf16(op->in[0], row), heads * dim, q);
    for (uint32_t at = 0; at < count; at += KERN_LANES) {
        const uint8_t *rows[KERN_LANES];
        for (uint32_t i = 0; i < KERN_LANES; i++) /* beyond the end: the last one again */
            rows[i] = cpu_entry_row(step, seq, op->state[0], op->state_offset[0],
                                    fm_min_u32(at + i, count - 1));
        step->kern->index_scores(q, cpu_f32(op->in[1], row), heads, dim, rows, keys, scores + at);
    }
    return scores;
}

/* How many keys have each value of the byte at `shift`, among those whose bits above it are those
 * of `prefix`. */
static void count_bytes(const uint16_t *keys, uint32_t count, uint32_t prefix, uint32_t shift,
                        uint32_t counts[256])
{
    memset(counts, 0, 256 * sizeof counts[0]);
    for (uint32_t s = 0; s < count; s++)
        if (shift == 8 || (uint32_t)keys[s] >> 8 == prefix)
            counts[keys[s] >> shift & 255]++;
}

/* The largest byte value at which, counted from above, *wanted keys are reached; *wanted becomes
 * how many of that value are still taken. */
static uint32_t byte_reached(const uint32_t counts[256], uint32_t *wanted)
{
    uint32_t value = 255;
    while (counts[value] < *wanted)
        *wanted -= counts[value--];
    return value;
}

/* The topk best of count > topk scores, ascending by number; equal ones: the lower numbers. */
static void best(uint16_t *scores, uint32_t count, uint32_t topk, int32_t *ret_selected)
{
    uint32_t counts[256], wanted = topk, chosen = 0;
    for (uint32_t s = 0; s < count; s++)
        scores[s] = fm_bf16_key(scores[s]);
    count_bytes(scores, count, 0, 8, counts);
    uint32_t lowest = byte_reached(counts, &wanted);
    count_bytes(scores, count, lowest, 0, counts);
    lowest = lowest << 8 | byte_reached(counts, &wanted);
    for (uint32_t s = 0; s < count && chosen < topk; s++) {
        if (scores[s] < lowest || (scores[s] == lowest && wanted == 0))
            continue;
        wanted -= scores[s] == lowest;
        ret_selected[chosen++] = (int32_t)s;
    }
    FM_ASSERT(chosen == topk);
}

static void select_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                       struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    uint32_t topk = step->shape->index_topk;
    for (uint32_t r = items.first; r < items.end; r++) {
        uint32_t count = (step->rows[r].position + 1) / op->op.ratio;
        int32_t *selected = cpu_i32(op->out[0], r);
        if (count > topk) {
            best(scores_run(step, op, r, count, worker), count, topk, selected);
        } else {
            for (uint32_t s = 0; s < topk; s++)
                selected[s] = s < count ? (int32_t)s : -1;
        }
        *cpu_i32(op->out[1], r) = (int32_t)fm_min_u32(count, topk);
    }
}

static enum fm_status select_plan(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    (void)err;
    const struct be_shape *shape = &exec->model->shape;
    uint64_t entries = (uint64_t)exec->limits.pages_max * op->state[0]->rows;
    op->worker_bytes =
        (uint64_t)shape->index_dim * (shape->index_heads + KERN_LANES) * sizeof(float) +
        (entries + KERN_LANES) * sizeof(uint16_t);
    return FM_OK;
}

static const struct cpu_stage select_stages[] = {{cpu_items_rows, select_run, true}};
const struct cpu_kind cpu_op_index_select = {
    .stages = select_stages, .period = 1, .plan = select_plan};
