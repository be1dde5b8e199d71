/* op_attend.c - ATTEND and SPARK_ATTEND: one token and some of its heads against its rows.
 *
 * The rows of a token are counted from 0: those of the window by position, then compressed
 * entries (or the block's rows).  Splits of 512 and tiles of 64 are cut by that number alone. */
#include <math.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/numeric.h"
#include "backends/cpu/ops.h"

enum { SPLIT_ROWS = 512 };

/* What one token sees. */
struct sight {
    const struct be_seq *seq;
    uint32_t first, window; /* positions [first, first + window) */
    uint32_t others;        /* compressed entries, or rows of the block */
    const int32_t *picks;   /* their numbers; NULL: 0, 1, ... */
    bool is_block;
};

/* Heads of one item, a multiple of 16: few where there are few items for the team. */
static uint32_t heads_step(const struct cpu_step *step)
{
    uint32_t wide = fm_u32(fm_div_ceil(step->shape->head_count, KERN_HEADS_MAX));
    uint32_t members = cpu_team_member_count(step->exec->team);
    return (uint64_t)step->row_count * wide >= 4 * members ? KERN_HEADS_MAX : KERN_LANES;
}

static uint32_t attend_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->row_count * fm_u32(fm_div_ceil(step->shape->head_count, heads_step(step)));
}

static struct sight sight_of(const struct cpu_step *step, const struct cpu_op *op, uint32_t row)
{
    const struct be_shape *shape = step->shape;
    struct sight sight = {.seq = &step->seqs[step->rows[row].seq]};
    uint32_t position = step->rows[row].position, end = position + 1;
    if (op->op.kind == BE_OP_SPARK_ATTEND) {
        sight.is_block = true;
        sight.others = sight.seq->row_count;
        end = sight.seq->length_before;
    } else if (op->in[2] != NULL) {
        sight.picks = cpu_i32(op->in[2], row);
        sight.others = (uint32_t)*cpu_i32(op->in[3], row);
    } else if (op->state[1] != NULL) {
        sight.others = end / op->op.ratio;
    }
    sight.window = fm_min_u32(end, shape->window);
    sight.first = end - sight.window;
    return sight;
}

/* Row `index` of the token, widened. */
static void row_fetch(const struct cpu_step *step, const struct cpu_op *op,
                      const struct sight *sight, uint32_t index, float *ret_row)
{
    const struct be_shape *shape = step->shape;
    const uint8_t *packed = NULL;
    uint32_t fresh = UINT32_MAX; /* row of this step */
    if (index < sight->window) {
        uint32_t position = sight->first + index;
        if (position >= sight->seq->length_before)
            fresh = position - sight->seq->length_before;
        else
            packed = cpu_window_row(step, sight->seq, op->state[0], op->state_offset[0], position);
    } else if (sight->is_block) {
        fresh = index - sight->window;
    } else {
        uint32_t entry = index - sight->window;
        if (sight->picks != NULL)
            entry = (uint32_t)sight->picks[entry];
        packed = cpu_entry_row(step, sight->seq, op->state[1], op->state_offset[1], entry);
    }
    if (fresh != UINT32_MAX)
        step->kern->widen(cpu_bf16(op->in[1], sight->seq->row_first + fresh), shape->head_dim,
                          ret_row);
    else if (packed == NULL) /* the null page reads as zeros */
        memset(ret_row, 0, shape->head_dim * sizeof *ret_row);
    else
        step->kern->row_unpack(packed, shape->head_dim, shape->rope_dim, ret_row);
}

/* worker->own: q [d, lanes], rows [65, d], p [65, lanes], then for each split m, l [lanes] and
 * o [heads, d]; one more o for the sum. */
struct desk {
    float *q, *rows, *p, *splits;
    uint64_t split_floats;
};

static struct desk desk_of(const struct cpu_worker *worker, uint32_t dim)
{
    struct desk desk;
    desk.q = (float *)(void *)worker->own;
    desk.rows = desk.q + (uint64_t)dim * KERN_HEADS_MAX;
    desk.p = desk.rows + (uint64_t)(KERN_TILE_ROWS + 1) * dim;
    desk.splits = desk.p + (KERN_TILE_ROWS + 1) * KERN_HEADS_MAX;
    desk.split_floats = 2 * KERN_HEADS_MAX + (uint64_t)KERN_HEADS_MAX * dim;
    return desk;
}

/* Queries of heads [head, head + tile->heads) to [d, lanes]; zeros beyond. */
static void queries(const struct kern_attend *tile, const uint16_t *q, float *ret_q)
{
    memset(ret_q, 0, (uint64_t)tile->dim * tile->lanes * sizeof *ret_q);
    for (uint32_t h = 0; h < tile->heads; h++)
        for (uint32_t c = 0; c < tile->dim; c++)
            ret_q[(uint64_t)c * tile->lanes + h] = fm_bf16_value(q[(uint64_t)h * tile->dim + c]);
}

static void split_run(const struct cpu_step *step, const struct cpu_op *op,
                      const struct sight *sight, struct cpu_range rows, struct kern_attend *tile)
{
    for (uint32_t at = rows.first; at < rows.end; at += KERN_TILE_ROWS) {
        tile->row_count = fm_min_u32(KERN_TILE_ROWS, rows.end - at);
        for (uint32_t i = 0; i < tile->row_count; i++)
            row_fetch(step, op, sight, at + i, tile->rows + (uint64_t)i * tile->dim);
        step->kern->attend(tile);
    }
}

/* All splits into the last one's place behind them: o / l of each head, rounded. */
static void combine(const struct cpu_step *step, const struct kern_attend *tile,
                    const struct desk *desk, uint32_t split_count, uint16_t *ret_o)
{
    uint32_t dim = tile->dim;
    float *sum = desk->splits + split_count * desk->split_floats;
    for (uint32_t h = 0; h < tile->heads; h++) {
        const float *first = desk->splits + h;
        float top = first[0], total = 0.0f;
        for (uint32_t s = 1; s < split_count; s++)
            top = fm_max_f32(top, first[s * desk->split_floats]);
        memset(sum, 0, dim * sizeof *sum);
        for (uint32_t s = 0; s < split_count; s++) {
            const float *split = desk->splits + s * desk->split_floats;
            float factor = fm_exp(split[h] - top);
            total = fm_fma(split[KERN_HEADS_MAX + h], factor, total);
            step->kern->merge(split + 2 * KERN_HEADS_MAX + (uint64_t)h * dim, factor, dim, sum);
        }
        step->kern->divide(sum, total, dim, ret_o + (uint64_t)h * dim);
    }
}

static void item_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t row,
                     uint32_t head, const struct cpu_worker *worker)
{
    const struct be_shape *shape = step->shape;
    uint32_t dim = shape->head_dim;
    struct desk desk = desk_of(worker, dim);
    struct sight sight = sight_of(step, op, row);
    uint32_t count = sight.window + sight.others;
    uint32_t split_count = fm_u32(fm_div_ceil(count, SPLIT_ROWS));
    const float *sink = (const float *)(const void *)op->weight[0]->data + head;
    struct kern_attend tile = {
        .heads = fm_min_u32(heads_step(step), shape->head_count - head),
        .dim = dim,
        .scale = shape->softmax_scale,
        .q = desk.q,
        .rows = desk.rows,
        .p = desk.p,
    };
    tile.lanes = (uint32_t)fm_align_up(tile.heads, KERN_LANES);
    queries(&tile, cpu_bf16(op->in[0], row) + (uint64_t)head * dim, desk.q);

    for (uint32_t s = 0; s < split_count; s++) {
        tile.m = desk.splits + s * desk.split_floats;
        tile.l = tile.m + KERN_HEADS_MAX;
        tile.o = tile.l + KERN_HEADS_MAX;
        for (uint32_t h = 0; h < tile.lanes; h++) {
            tile.m[h] = s != 0 ? -INFINITY : h < tile.heads ? sink[h] : 0.0f;
            tile.l[h] = s != 0 ? 0.0f : 1.0f;
        }
        memset(tile.o, 0, (uint64_t)tile.heads * dim * sizeof *tile.o);
        struct cpu_range rows = {.first = s * SPLIT_ROWS,
                                 .end = fm_min_u32(count, (s + 1) * SPLIT_ROWS)};
        split_run(step, op, &sight, rows, &tile);
    }

    uint16_t *o = cpu_bf16(op->out[0], row) + (uint64_t)head * dim;
    if (split_count == 1) {
        for (uint32_t h = 0; h < tile.heads; h++)
            step->kern->divide(tile.o + (uint64_t)h * dim, tile.l[h], dim, o + (uint64_t)h * dim);
    } else {
        combine(step, &tile, &desk, split_count, o);
    }
    for (uint32_t h = 0; h < tile.heads; h++)
        step->kern->rope(o + (uint64_t)h * dim, dim, shape->rope_dim / 2,
                         cpu_sines(step, op->op.ratio, row), cpu_cosines(step, op->op.ratio, row),
                         true);
}

static void attend_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                       struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    uint32_t heads = heads_step(step);
    uint32_t cuts = fm_u32(fm_div_ceil(step->shape->head_count, heads));
    for (uint32_t i = items.first; i < items.end; i++)
        item_run(step, op, i / cuts, i % cuts * heads, worker);
}

/* The most rows that a token of this program can see. */
static uint64_t rows_most(const struct be_exec *exec, const struct cpu_op *op)
{
    const struct be_shape *shape = &exec->model->shape;
    if (op->op.kind == BE_OP_SPARK_ATTEND)
        return (uint64_t)shape->window + shape->spark_block;
    if (op->in[2] != NULL)
        return (uint64_t)shape->window + shape->index_topk;
    if (op->state[1] != NULL)
        return shape->window + (uint64_t)exec->limits.pages_max * op->state[1]->rows;
    return shape->window;
}

static enum fm_status attend_plan(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    const struct be_shape *shape = &exec->model->shape;
    uint64_t dim = shape->head_dim, splits = fm_div_ceil(rows_most(exec, op), SPLIT_ROWS) + 1;
    if (dim % 16 != 0)
        return FM_FAIL(err, FM_UNSUPPORTED, "heads of %u values, not a multiple of 16",
                       shape->head_dim);
    uint64_t floats = dim * KERN_HEADS_MAX + (KERN_TILE_ROWS + 1) * (dim + KERN_HEADS_MAX) +
                      splits * KERN_HEADS_MAX * (2 + dim);
    op->worker_bytes = floats * sizeof(float);
    return FM_OK;
}

static const struct cpu_stage attend_stages[] = {{attend_items, attend_run, true}};
const struct cpu_kind cpu_op_attend = {.stages = attend_stages, .period = 1, .plan = attend_plan};
const struct cpu_kind cpu_op_spark_attend = {
    .stages = attend_stages, .period = 1, .plan = attend_plan};
