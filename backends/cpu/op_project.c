/* op_project.c - the linears around attention: Q_DOWN, KV_STORE, Q_UP, OUT_GROUPED, OUT_PROJECT.
 *
 * A first stage multiplies panel by panel; what needs a whole row (norm, rotation, quantisation)
 * follows in a second. */
#include "backends/base/assert.h"
#include "backends/cpu/linear.h"
#include "backends/cpu/ops.h"

static uint64_t rows_bytes(const struct be_exec *exec, uint64_t cols)
{
    return exec->limits.rows_max * cols * sizeof(uint16_t);
}

/* ---- Q_DOWN, KV_STORE: scratch[0] is the product before its norm ---------------------------- */

static struct cpu_linear down_linear(const struct cpu_step *step, const struct cpu_op *op)
{
    struct cpu_linear linear = {.weight = op->weight[0],
                                .tokens = step->row_count,
                                .y_bf16 = op->scratch[0],
                                .y_stride = op->weight[0]->rows};
    cpu_linear_input(&linear, op->in[0], op->in[1]);
    return linear;
}

static uint32_t down_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linear = down_linear(step, op);
    return cpu_linear_items(&linear);
}

static void down_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                     struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linear = down_linear(step, op);
    cpu_linear_run(step, &linear, items, worker);
}

static enum fm_status down_plan(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    (void)err;
    op->scratch_bytes[0] = rows_bytes(exec, op->weight[0]->rows);
    op->linear_cols = op->weight[0]->cols;
    return FM_OK;
}

static void q_norm_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                       struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    uint32_t dim = step->shape->q_rank;
    const uint16_t *norm = (const uint16_t *)(const void *)op->weight[1]->data;
    for (uint32_t r = items.first; r < items.end; r++) {
        uint16_t *qr = cpu_bf16(op->out[0], r);
        step->kern->rmsnorm((const uint16_t *)op->scratch[0] + (uint64_t)r * dim, norm, dim,
                            step->shape->norm_eps, qr);
        if (op->out[1] != NULL)
            step->kern->act_quant(qr, dim, cpu_bf16(op->out[1], r), cpu_scales(op->out[1], r));
    }
}

static const struct cpu_stage q_down_stages[] = {
    {down_items, down_run, false},
    {cpu_items_rows, q_norm_run, false},
};
const struct cpu_kind cpu_op_q_down = {.stages = q_down_stages, .period = 2, .plan = down_plan};

static void kv_finish_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                          struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    const struct be_shape *shape = step->shape;
    uint32_t dim = shape->head_dim;
    const uint16_t *norm = (const uint16_t *)(const void *)op->weight[1]->data;
    for (uint32_t r = items.first; r < items.end; r++) {
        uint16_t *kv = cpu_bf16(op->out[0], r);
        uint8_t *row = NULL;
        step->kern->rmsnorm((const uint16_t *)op->scratch[0] + (uint64_t)r * dim, norm, dim,
                            shape->norm_eps, kv);
        step->kern->rope(kv, dim, shape->rope_dim / 2, cpu_sines(step, op->op.ratio, r),
                         cpu_cosines(step, op->op.ratio, r), false);
        if (op->state[0] != NULL)
            row = cpu_window_row(step, &step->seqs[step->rows[r].seq], op->state[0],
                                 op->state_offset[0], step->rows[r].position);
        step->kern->row_pack(kv, dim, shape->rope_dim, row);
    }
}

static const struct cpu_stage kv_store_stages[] = {
    {down_items, down_run, false},
    {cpu_items_rows, kv_finish_run, false},
};
const struct cpu_kind cpu_op_kv_store = {.stages = kv_store_stages, .period = 2, .plan = down_plan};

/* ---- Q_UP ---------------------------------------------------------------------------------- */

static struct cpu_linear up_linear(const struct cpu_step *step, const struct cpu_op *op)
{
    struct cpu_linear linear = {.weight = op->weight[0], .tokens = step->row_count};
    cpu_linear_input(&linear, op->in[0], op->in[1]);
    cpu_linear_output(&linear, op->out[0]);
    return linear;
}

static uint32_t up_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linear = up_linear(step, op);
    return cpu_linear_items(&linear);
}

static void up_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                   struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linear = up_linear(step, op);
    cpu_linear_run(step, &linear, items, worker);
}

static uint32_t q_heads(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->row_count * step->shape->head_count;
}

static void q_finish_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                         struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    const struct be_shape *shape = step->shape;
    uint32_t dim = shape->head_dim;
    for (uint32_t i = items.first; i < items.end; i++) {
        uint32_t r = i / shape->head_count, head = i % shape->head_count;
        uint16_t *q = cpu_bf16(op->out[0], r) + (uint64_t)head * dim;
        step->kern->rmsnorm(q, NULL, dim, shape->norm_eps, q);
        step->kern->rope(q, dim, shape->rope_dim / 2, cpu_sines(step, op->op.ratio, r),
                         cpu_cosines(step, op->op.ratio, r), false);
    }
}

static enum fm_status wide_plan(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    (void)exec;
    (void)err;
    op->linear_cols = op->weight[0]->cols;
    return FM_OK;
}

static const struct cpu_stage q_up_stages[] = {
    {up_items, up_run, false},
    {q_heads, q_finish_run, false},
};
const struct cpu_kind cpu_op_q_up = {.stages = q_up_stages, .period = 2, .plan = wide_plan};

/* ---- OUT_GROUPED: group g of the weight's rows times group g of the heads ------------------- */

enum { GROUPS_MAX = 128 };

static void grouped_linears(const struct cpu_step *step, const struct cpu_op *op,
                            struct cpu_linear *ret_linears)
{
    const struct be_shape *shape = step->shape;
    const struct cpu_weight *weight = op->weight[0];
    for (uint32_t g = 0; g < shape->out_groups; g++)
        ret_linears[g] = (struct cpu_linear){
            .weight = weight,
            .row_first = g * shape->out_rank,
            .row_end = (g + 1) * shape->out_rank,
            .x = cpu_bf16(op->in[0], 0) + (uint64_t)g * weight->cols,
            .x_stride = op->in[0]->cols,
            .tokens = step->row_count,
            .y_bf16 = cpu_bf16(op->out[0], 0) + (uint64_t)g * shape->out_rank,
            .y_stride = op->out[0]->cols,
        };
}

static uint32_t grouped_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linears[GROUPS_MAX];
    grouped_linears(step, op, linears);
    return cpu_linears_items(linears, step->shape->out_groups);
}

static void grouped_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                        struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linears[GROUPS_MAX];
    grouped_linears(step, op, linears);
    cpu_linears_run(step, linears, step->shape->out_groups, items, worker);
}

static uint32_t quant_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    return op->out[1] != NULL ? step->row_count : 0;
}

static void quant_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                      struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    for (uint32_t r = items.first; r < items.end; r++)
        step->kern->act_quant(cpu_bf16(op->out[0], r), op->out[0]->cols, cpu_bf16(op->out[1], r),
                              cpu_scales(op->out[1], r));
}

static enum fm_status grouped_plan(const struct be_exec *exec, struct cpu_op *op,
                                   struct fm_err *err)
{
    if (exec->model->shape.out_groups > GROUPS_MAX)
        return FM_FAIL(err, FM_UNSUPPORTED, "%u output groups, at most %d",
                       exec->model->shape.out_groups, GROUPS_MAX);
    if (op->weight[0]->format == BE_FORMAT_FP4)
        return FM_FAIL(err, FM_UNSUPPORTED, "wo_a in FP4 needs a quantised input");
    return wide_plan(exec, op, err);
}

static const struct cpu_stage out_grouped_stages[] = {
    {grouped_items, grouped_run, false},
    {quant_items, quant_run, false},
};
const struct cpu_kind cpu_op_out_grouped = {
    .stages = out_grouped_stages, .period = 2, .plan = grouped_plan};

/* ---- OUT_PROJECT --------------------------------------------------------------------------- */

static const struct cpu_stage out_project_stages[] = {{up_items, up_run, false}};
const struct cpu_kind cpu_op_out_project = {
    .stages = out_project_stages, .period = 1, .plan = wide_plan};
