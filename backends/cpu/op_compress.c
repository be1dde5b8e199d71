/* op_compress.c - COMPRESS and COMPRESS_INDEX: raw rows, the entries that they complete, the tail.
 *
 * Rows of the step lie in scratch, older ones in the tail slot.  The tail is a ring of which the
 * step's last rows take places that a retry after a failure would still need, so they are set
 * aside and copied in by the commit. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/cpu/linear.h"
#include "backends/cpu/ops.h"

/* scratch: raw k and g of the step [rows, columns], and rows for the tail [., 2 columns]. */
enum { SCRATCH_K, SCRATCH_G, SCRATCH_TAIL };

static uint32_t columns_of(const struct cpu_op *op)
{
    return op->weight[0]->rows;
}

static void raw_linears(const struct cpu_step *step, const struct cpu_op *op,
                        struct cpu_linear ret_linears[2])
{
    for (uint32_t i = 0; i < 2; i++) {
        ret_linears[i] = (struct cpu_linear){.weight = op->weight[i],
                                             .tokens = step->row_count,
                                             .y_f32 = op->scratch[i],
                                             .y_stride = columns_of(op)};
        cpu_linear_input(&ret_linears[i], op->in[0], NULL);
    }
    ret_linears[1].add = (const float *)(const void *)op->weight[2]->data;
    ret_linears[1].add_period = op->op.ratio;
    ret_linears[1].add_rows = step->rows;
}

static uint32_t raw_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linears[2];
    raw_linears(step, op, linears);
    return cpu_linears_items(linears, 2);
}

static void raw_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                    struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linears[2];
    raw_linears(step, op, linears);
    cpu_linears_run(step, linears, 2, items, worker);
}

/* ---- tail ---------------------------------------------------------------------------------- */

/* Rows of the sequence that stay in the ring. */
static uint32_t tail_rows(const struct cpu_op *op, const struct be_seq *seq)
{
    return fm_min_u32(seq->row_count, op->state[1]->rows);
}

static uint32_t tail_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    uint32_t count = 0;
    for (uint32_t s = 0; s < step->seq_count; s++)
        count += tail_rows(op, &step->seqs[s]);
    return count;
}

/* Row number `item` among those that stay: its sequence and its row in the step. */
static const struct be_seq *tail_find(const struct cpu_step *step, const struct cpu_op *op,
                                      uint32_t item, uint32_t *ret_row)
{
    const struct be_seq *seq = step->seqs;
    for (; item >= tail_rows(op, seq); seq++)
        item -= tail_rows(op, seq);
    *ret_row = seq->row_first + seq->row_count - tail_rows(op, seq) + item;
    return seq;
}

static float *tail_row(const struct cpu_step *step, const struct cpu_op *op,
                       const struct be_seq *seq, uint32_t position)
{
    uint8_t *unit = cpu_state_unit(step->exec->state, BE_POOL_T, seq->tail_slot);
    return (float *)(void *)(unit + op->state_offset[1] +
                             (uint64_t)(position % op->state[1]->rows) * op->state[1]->row_bytes);
}

static void tail_set_aside(const struct cpu_step *step, const struct cpu_op *op, uint32_t item)
{
    uint32_t row, columns = columns_of(op);
    (void)tail_find(step, op, item, &row);
    float *to = (float *)op->scratch[SCRATCH_TAIL] + (uint64_t)item * 2 * columns;
    memcpy(to, (const float *)op->scratch[SCRATCH_K] + (uint64_t)row * columns,
           columns * sizeof *to);
    memcpy(to + columns, (const float *)op->scratch[SCRATCH_G] + (uint64_t)row * columns,
           columns * sizeof *to);
}

static void tail_commit(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                        struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    uint32_t columns = columns_of(op);
    for (uint32_t i = items.first; i < items.end; i++) {
        uint32_t row;
        const struct be_seq *seq = tail_find(step, op, i, &row);
        memcpy(tail_row(step, op, seq, step->rows[row].position),
               (const float *)op->scratch[SCRATCH_TAIL] + (uint64_t)i * 2 * columns,
               2 * columns * sizeof(float));
    }
}

/* ---- entries ------------------------------------------------------------------------------- */

/* worker->own: k and g row pointers [slots each], the entry [width] bf16, scratch [width]. */
struct desk {
    const float **k, **g;
    float *scratch;
    uint16_t *entry;
};

static uint32_t slots_of(const struct cpu_op *op)
{
    return op->op.ratio == 4 ? 2 * op->op.ratio : op->op.ratio;
}

static struct desk desk_of(const struct cpu_op *op, const struct cpu_worker *worker, uint32_t width)
{
    struct desk desk;
    desk.k = (const float **)(void *)worker->own;
    desk.g = desk.k + slots_of(op);
    desk.scratch = (float *)(void *)(desk.g + slots_of(op));
    desk.entry = (uint16_t *)(void *)(desk.scratch + width);
    return desk;
}

static void slots_find(const struct cpu_step *step, const struct cpu_op *op,
                       const struct be_seq *seq, uint32_t index, const struct desk *desk)
{
    uint32_t columns = columns_of(op), slots = slots_of(op), end = (index + 1) * op->op.ratio;
    for (uint32_t s = 0; s < slots; s++) {
        if (end + s < slots) { /* before position 0 */
            desk->k[s] = step->exec->absent_k;
            desk->g[s] = step->exec->absent_g;
            continue;
        }
        uint32_t position = end + s - slots;
        if (position < seq->length_before) {
            desk->k[s] = tail_row(step, op, seq, position);
            desk->g[s] = desk->k[s] + columns;
        } else {
            uint64_t row = seq->row_first + (position - seq->length_before);
            desk->k[s] = (const float *)op->scratch[SCRATCH_K] + row * columns;
            desk->g[s] = (const float *)op->scratch[SCRATCH_G] + row * columns;
        }
    }
}

static void entry_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t number,
                      const struct cpu_worker *worker)
{
    const struct be_shape *shape = step->shape;
    bool is_index = op->op.kind == BE_OP_COMPRESS_INDEX;
    uint32_t width = is_index ? shape->index_dim : shape->head_dim, pairs = shape->rope_dim / 2;
    struct desk desk = desk_of(op, worker, width);
    struct cpu_entry at = cpu_entry_find(step, op->op.ratio, number);
    const struct be_seq *seq = &step->seqs[at.seq];
    struct kern_pool pool = {
        .slots = slots_of(op), .ratio = op->op.ratio, .width = width, .k = desk.k, .g = desk.g};
    float sines[KERN_PAIRS_MAX], cosines[KERN_PAIRS_MAX];
    uint16_t *entry = desk.entry;
    slots_find(step, op, seq, at.index, &desk);
    step->kern->pool(&pool, entry);
    step->kern->rmsnorm(entry, (const uint16_t *)(const void *)op->weight[3]->data, width,
                        shape->norm_eps, entry);
    step->kern->rope_angles(at.index * op->op.ratio, shape->inv_freq_yarn, pairs, sines, cosines);
    step->kern->rope(entry, width, pairs, sines, cosines, false);
    uint8_t *row = cpu_entry_row(step, seq, op->state[0], op->state_offset[0], at.index);
    if (is_index)
        step->kern->index_finish(entry, width, desk.scratch, row);
    else
        step->kern->row_pack(entry, width, shape->rope_dim, row);
}

/* Entries first, then rows to set aside. */
static uint32_t entries_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    return cpu_entry_count(step, op->op.ratio) + tail_items(step, op, stage);
}

static void entries_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                        struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    uint32_t entries = cpu_entry_count(step, op->op.ratio);
    for (uint32_t i = items.first; i < items.end; i++) {
        if (i < entries)
            entry_run(step, op, i, worker);
        else
            tail_set_aside(step, op, i - entries);
    }
}

static enum fm_status compress_plan(const struct be_exec *exec, struct cpu_op *op,
                                    struct fm_err *err)
{
    const struct be_shape *shape = &exec->model->shape;
    uint64_t rows = exec->limits.rows_max, columns = columns_of(op);
    uint64_t width = fm_max_u32(shape->index_dim, shape->head_dim);
    uint64_t kept = fm_min_u64(rows, (uint64_t)exec->limits.seqs_max * op->state[1]->rows);
    if (shape->rope_dim / 2 > KERN_PAIRS_MAX || op->state[1]->rows < slots_of(op) - 1 ||
        op->state[1]->row_bytes != 2 * columns * sizeof(float))
        return FM_FAIL(err, FM_UNSUPPORTED,
                       "a tail of %u rows of %u bytes does not hold %u rows of %llu values",
                       op->state[1]->rows, op->state[1]->row_bytes, slots_of(op) - 1,
                       (unsigned long long)(2 * columns));
    op->scratch_bytes[SCRATCH_K] = rows * columns * sizeof(float);
    op->scratch_bytes[SCRATCH_G] = rows * columns * sizeof(float);
    op->scratch_bytes[SCRATCH_TAIL] = kept * 2 * columns * sizeof(float);
    op->is_scratch_kept[SCRATCH_TAIL] = true;
    op->worker_bytes = 2 * slots_of(op) * sizeof(void *) + width * 6;
    op->linear_cols = op->weight[0]->cols;
    return FM_OK;
}

static const struct cpu_stage commit_stage = {tail_items, tail_commit, false};
static const struct cpu_stage compress_stages[] = {
    {raw_items, raw_run, false},
    {entries_items, entries_run, false},
};
const struct cpu_kind cpu_op_compress = {
    .stages = compress_stages, .period = 2, .commit = &commit_stage, .plan = compress_plan};
const struct cpu_kind cpu_op_compress_index = {
    .stages = compress_stages, .period = 2, .commit = &commit_stage, .plan = compress_plan};
