/* op_hyper.c - the residual streams: EMBED, HC_COLLAPSE, HC_EXPAND, TAP, HEAD. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/numeric.h"
#include "backends/cpu/linear.h"
#include "backends/cpu/ops.h"

enum { CHUNKS = 16, EXPAND_COLUMNS = 128 };

static enum fm_status plan_none(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    (void)exec;
    (void)op;
    (void)err;
    return FM_OK;
}

/* ---- EMBED --------------------------------------------------------------------------------- */

static void embed_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                      struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    uint32_t dim = step->shape->dim;
    for (uint32_t r = items.first; r < items.end; r++) {
        uint16_t *x = cpu_bf16(op->out[0], r);
        cpu_weight_row(op->weight[0], (uint32_t)step->rows[r].token, x);
        for (uint32_t s = 1; s < step->shape->streams; s++)
            memcpy(x + (uint64_t)s * dim, x, dim * sizeof *x);
    }
}

static const struct cpu_stage embed_stages[] = {{cpu_items_rows, embed_run, false}};
const struct cpu_kind cpu_op_embed = {.stages = embed_stages, .period = 1, .plan = plan_none};

/* ---- mixes --------------------------------------------------------------------------------- */

/* scratch[0]: parts [row, chunk, mixes + 1]; the last is that of the squares. */
static float *parts_of(const struct cpu_op *op, uint32_t row)
{
    uint32_t mixes = op->weight[0]->rows;
    return (float *)op->scratch[0] + (uint64_t)row * CHUNKS * (mixes + 1);
}

/* Item (row, chunk); a row of logit rows is that of its token. */
static void parts_run(const struct cpu_step *step, const struct cpu_op *op, bool is_head,
                      struct cpu_range items)
{
    uint32_t mixes = op->weight[0]->rows, all = op->weight[0]->cols;
    const float *fn = (const float *)(const void *)op->weight[0]->data;
    for (uint32_t i = items.first; i < items.end; i++) {
        uint32_t row = i / CHUNKS, chunk = i % CHUNKS;
        const uint16_t *x = cpu_bf16(op->in[0], is_head ? step->exec->logit_rows[row] : row);
        step->kern->hyper_parts(fn, mixes, all, x, chunk, parts_of(op, row) + chunk * (mixes + 1));
    }
}

static void mixes_of(const struct cpu_step *step, const struct cpu_op *op, uint32_t row,
                     float *ret_mixes)
{
    uint32_t mixes = op->weight[0]->rows;
    const float *parts = parts_of(op, row);
    float sums[KERN_MIXES_MAX + 1];
    memcpy(sums, parts, (mixes + 1) * sizeof *sums);
    for (uint32_t k = 1; k < CHUNKS; k++)
        for (uint32_t o = 0; o <= mixes; o++)
            sums[o] = sums[o] + parts[k * (mixes + 1) + o];
    float rs = fm_rms_scale(sums[mixes], op->weight[0]->cols, step->shape->norm_eps);
    for (uint32_t o = 0; o < mixes; o++)
        ret_mixes[o] = sums[o] * rs;
}

static enum fm_status mixes_plan(const struct be_exec *exec, struct cpu_op *op, uint32_t rows,
                                 struct fm_err *err)
{
    const struct be_shape *shape = &exec->model->shape;
    uint32_t mixes = op->weight[0]->rows;
    if (shape->streams > KERN_STREAMS_MAX || op->weight[0]->cols % CHUNKS != 0)
        return FM_FAIL(err, FM_UNSUPPORTED, "%u streams of %u values: at most %d, in %d chunks",
                       shape->streams, shape->dim, KERN_STREAMS_MAX, CHUNKS);
    op->scratch_bytes[0] = (uint64_t)rows * CHUNKS * (mixes + 1) * sizeof(float);
    op->worker_bytes = shape->dim * sizeof(uint16_t);
    return FM_OK;
}

/* ---- HC_COLLAPSE --------------------------------------------------------------------------- */

static uint32_t collapse_parts(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->row_count * CHUNKS;
}

static void collapse_parts_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                               struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    parts_run(step, op, false, items);
}

static void collapse_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                         struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    const struct be_shape *shape = step->shape;
    struct kern_split split = {
        .streams = shape->streams,
        .iterations = shape->hc_iterations,
        .eps = shape->hc_eps,
        .base = (const float *)(const void *)op->weight[1]->data,
        .scale = (const float *)(const void *)op->weight[2]->data,
    };
    const uint16_t *norm = (const uint16_t *)(const void *)op->weight[3]->data;
    uint16_t *y = (uint16_t *)(void *)worker->own;
    for (uint32_t r = items.first; r < items.end; r++) {
        float mixes[KERN_MIXES_MAX], pre[KERN_STREAMS_MAX];
        uint16_t *x = cpu_bf16(op->out[0], r);
        mixes_of(step, op, r, mixes);
        step->kern->hyper_split(&split, mixes, pre, cpu_f32(op->out[2], r), cpu_f32(op->out[3], r));
        step->kern->collapse(pre, cpu_bf16(op->in[0], r), shape->streams, shape->dim, y);
        step->kern->rmsnorm(y, norm, shape->dim, shape->norm_eps, x);
        if (op->out[1] != NULL)
            step->kern->act_quant(x, shape->dim, cpu_bf16(op->out[1], r),
                                  cpu_scales(op->out[1], r));
    }
}

static enum fm_status collapse_plan(const struct be_exec *exec, struct cpu_op *op,
                                    struct fm_err *err)
{
    return mixes_plan(exec, op, exec->limits.rows_max, err);
}

static const struct cpu_stage collapse_stages[] = {
    {collapse_parts, collapse_parts_run, false},
    {cpu_items_rows, collapse_run, false},
};
const struct cpu_kind cpu_op_collapse = {
    .stages = collapse_stages, .period = 2, .plan = collapse_plan};

/* ---- HC_EXPAND, TAP ------------------------------------------------------------------------ */

static uint32_t expand_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->row_count * fm_u32(fm_div_ceil(step->shape->dim, EXPAND_COLUMNS));
}

static void expand_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                       struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    uint32_t dim = step->shape->dim, cuts = fm_u32(fm_div_ceil(dim, EXPAND_COLUMNS));
    for (uint32_t i = items.first; i < items.end; i++) {
        uint32_t r = i / cuts, first = i % cuts * EXPAND_COLUMNS;
        step->kern->expand(cpu_bf16(op->in[0], r), cpu_bf16(op->in[1], r), cpu_f32(op->in[2], r),
                           cpu_f32(op->in[3], r), step->shape->streams, dim, first,
                           fm_min_u32(first + EXPAND_COLUMNS, dim), cpu_bf16(op->out[0], r));
    }
}

static const struct cpu_stage expand_stages[] = {{expand_items, expand_run, false}};
const struct cpu_kind cpu_op_expand = {.stages = expand_stages, .period = 1, .plan = plan_none};

static void tap_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                    struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    for (uint32_t r = items.first; r < items.end; r++)
        step->kern->tap(cpu_bf16(op->in[0], r), step->shape->streams, step->shape->dim,
                        cpu_bf16(op->out[0], r));
}

static const struct cpu_stage tap_stages[] = {{cpu_items_rows, tap_run, false}};
const struct cpu_kind cpu_op_tap = {.stages = tap_stages, .period = 1, .plan = plan_none};

/* ---- HEAD ---------------------------------------------------------------------------------- */

static uint32_t head_parts(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->logit_count * CHUNKS;
}

static void head_parts_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                           struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    parts_run(step, op, true, items);
}

/* scratch[1]: the normed row in front of the head, [logit row, D]. */
static void head_norm_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                          struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    const struct be_shape *shape = step->shape;
    const float *base = (const float *)(const void *)op->weight[1]->data;
    float scale = *(const float *)(const void *)op->weight[2]->data;
    const uint16_t *norm = (const uint16_t *)(const void *)op->weight[3]->data;
    for (uint32_t i = items.first; i < items.end; i++) {
        float mixes[KERN_MIXES_MAX], p[KERN_STREAMS_MAX];
        uint16_t *h = (uint16_t *)(void *)worker->own;
        if (op->out[1] != NULL)
            h = cpu_bf16(op->out[1], i);
        mixes_of(step, op, i, mixes);
        step->kern->head_weights(mixes, base, scale, shape->hc_eps, shape->streams, p);
        step->kern->collapse(p, cpu_bf16(op->in[0], step->exec->logit_rows[i]), shape->streams,
                             shape->dim, h);
        step->kern->rmsnorm(h, norm, shape->dim, shape->norm_eps,
                            (uint16_t *)op->scratch[1] + (uint64_t)i * shape->dim);
    }
}

static struct cpu_linear head_linear(const struct cpu_step *step, const struct cpu_op *op)
{
    struct cpu_linear linear = {.weight = op->weight[4],
                                .x = op->scratch[1],
                                .x_stride = step->shape->dim,
                                .tokens = step->logit_count};
    cpu_linear_output(&linear, op->out[0]);
    return linear;
}

static uint32_t head_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linear = head_linear(step, op);
    return cpu_linear_items(&linear);
}

static void head_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                     struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linear = head_linear(step, op);
    cpu_linear_run(step, &linear, items, worker);
}

static enum fm_status head_plan(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    uint32_t rows = exec->limits.logit_rows_max;
    op->scratch_bytes[1] = (uint64_t)rows * exec->model->shape.dim * sizeof(uint16_t);
    op->linear_cols = exec->model->shape.dim;
    return mixes_plan(exec, op, rows, err);
}

static const struct cpu_stage head_stages[] = {
    {head_parts, head_parts_run, false},
    {cpu_items_logit_rows, head_norm_run, false},
    {head_items, head_run, false},
};
const struct cpu_kind cpu_op_head = {.stages = head_stages, .period = 3, .plan = head_plan};
