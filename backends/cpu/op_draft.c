/* op_draft.c - what only draft programs have: MTP_JOIN, SPARK_CONTEXT, SPARK_PROPOSE. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/cpu/linear.h"
#include "backends/cpu/ops.h"

static const uint16_t *norm_of(const struct cpu_op *op, uint32_t slot)
{
    return (const uint16_t *)(const void *)op->weight[slot]->data;
}

static bool is_quantised(const struct cpu_weight *weight)
{
    return weight->format != BE_FORMAT_BF16;
}

/* x [cols] to a linear's input at row `row` of values and scales: quantised if the weight is. */
static void input_write(const struct cpu_step *step, const struct cpu_weight *weight,
                        const uint16_t *x, void *values, void *scales, uint64_t row)
{
    uint32_t cols = weight->cols;
    uint16_t *to = (uint16_t *)values + row * cols;
    if (is_quantised(weight))
        step->kern->act_quant(x, cols, to, (uint8_t *)scales + row * (cols / KERN_BLOCK));
    else
        memcpy(to, x, cols * sizeof *x);
}

static struct cpu_linear scratch_linear(const struct cpu_weight *weight, const void *values,
                                        const void *scales, uint32_t tokens, void *output)
{
    struct cpu_linear linear = {.weight = weight,
                                .x = values,
                                .x_stride = weight->cols,
                                .tokens = tokens,
                                .y_bf16 = output,
                                .y_stride = weight->rows};
    if (is_quantised(weight)) {
        linear.x_scales = scales;
        linear.x_scale_stride = weight->cols / KERN_BLOCK;
    }
    return linear;
}

/* ---- MTP_JOIN ------------------------------------------------------------------------------ */

enum { JOIN_EMBED, JOIN_ENORM, JOIN_E_PROJ, JOIN_HNORM, JOIN_H_PROJ };         /* weights */
enum { JOIN_E, JOIN_E_SCALES, JOIN_H, JOIN_H_SCALES, JOIN_E_OUT, JOIN_H_OUT }; /* scratch */

/* Item (row, 0: the embedding; 1 + s: stream s). */
static uint32_t join_norm_items(const struct cpu_step *step, const struct cpu_op *op,
                                uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->row_count * (1 + step->shape->streams);
}

static void join_norm_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                          struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    uint32_t dim = step->shape->dim, streams = step->shape->streams;
    float eps = step->shape->norm_eps;
    uint16_t *x = (uint16_t *)(void *)worker->own;
    for (uint32_t i = items.first; i < items.end; i++) {
        uint32_t r = i / (1 + streams), which = i % (1 + streams);
        if (which == 0) {
            cpu_weight_row(op->weight[JOIN_EMBED], (uint32_t)step->rows[r].token, x);
            step->kern->rmsnorm(x, norm_of(op, JOIN_ENORM), dim, eps, x);
            input_write(step, op->weight[JOIN_E_PROJ], x, op->scratch[JOIN_E],
                        op->scratch[JOIN_E_SCALES], r);
        } else {
            uint32_t s = which - 1;
            step->kern->rmsnorm(cpu_bf16(op->in[0], r) + (uint64_t)s * dim, norm_of(op, JOIN_HNORM),
                                dim, eps, x);
            input_write(step, op->weight[JOIN_H_PROJ], x, op->scratch[JOIN_H],
                        op->scratch[JOIN_H_SCALES], (uint64_t)r * streams + s);
        }
    }
}

static void join_linears(const struct cpu_step *step, const struct cpu_op *op,
                         struct cpu_linear ret_linears[2])
{
    uint32_t streams = step->shape->streams;
    ret_linears[0] =
        scratch_linear(op->weight[JOIN_E_PROJ], op->scratch[JOIN_E], op->scratch[JOIN_E_SCALES],
                       step->row_count, op->scratch[JOIN_E_OUT]);
    ret_linears[1] =
        scratch_linear(op->weight[JOIN_H_PROJ], op->scratch[JOIN_H], op->scratch[JOIN_H_SCALES],
                       step->row_count * streams, op->scratch[JOIN_H_OUT]);
}

static uint32_t join_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linears[2];
    join_linears(step, op, linears);
    return cpu_linears_items(linears, 2);
}

static void join_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                     struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linears[2];
    join_linears(step, op, linears);
    cpu_linears_run(step, linears, 2, items, worker);
}

static void join_sum_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                         struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    uint32_t dim = step->shape->dim, streams = step->shape->streams;
    for (uint32_t r = items.first; r < items.end; r++)
        step->kern->join((const uint16_t *)op->scratch[JOIN_E_OUT] + (uint64_t)r * dim,
                         (const uint16_t *)op->scratch[JOIN_H_OUT] + (uint64_t)r * streams * dim,
                         streams, dim, cpu_bf16(op->out[0], r));
}

static enum fm_status join_plan(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    (void)err;
    uint64_t rows = exec->limits.rows_max, dim = exec->model->shape.dim;
    uint64_t streams = exec->model->shape.streams;
    op->scratch_bytes[JOIN_E] = rows * dim * 2;
    op->scratch_bytes[JOIN_E_SCALES] = rows * (dim / KERN_BLOCK);
    op->scratch_bytes[JOIN_H] = rows * streams * dim * 2;
    op->scratch_bytes[JOIN_H_SCALES] = rows * streams * (dim / KERN_BLOCK);
    op->scratch_bytes[JOIN_E_OUT] = rows * dim * 2;
    op->scratch_bytes[JOIN_H_OUT] = rows * streams * dim * 2;
    op->worker_bytes = dim * 2;
    op->linear_cols = (uint32_t)dim;
    return FM_OK;
}

static const struct cpu_stage join_stages[] = {
    {join_norm_items, join_norm_run, false},
    {join_items, join_run, false},
    {cpu_items_rows, join_sum_run, false},
};
const struct cpu_kind cpu_op_mtp_join = {.stages = join_stages, .period = 3, .plan = join_plan};

/* ---- SPARK_CONTEXT ------------------------------------------------------------------------- */

enum { CONTEXT_MAIN, CONTEXT_MAIN_SCALES, CONTEXT_RAW, CONTEXT_M, CONTEXT_M_SCALES, CONTEXT_KV };

static uint32_t taps_of(const struct cpu_op *op)
{
    uint32_t count = 0;
    while (count < BE_OP_IN_MAX && op->in[count] != NULL)
        count++;
    return count;
}

static uint32_t stages_of(const struct cpu_op *op)
{
    uint32_t count = 0;
    while (count < BE_OP_STATES_MAX && op->state[count] != NULL)
        count++;
    return count;
}

/* The taps of a row side by side. */
static void hidden_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                       struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    uint32_t dim = step->shape->dim;
    uint16_t *hidden = (uint16_t *)(void *)worker->own;
    for (uint32_t r = items.first; r < items.end; r++) {
        for (uint32_t t = 0; t < taps_of(op); t++)
            memcpy(hidden + (uint64_t)t * dim, cpu_bf16(op->in[t], r), dim * sizeof *hidden);
        input_write(step, op->weight[0], hidden, op->scratch[CONTEXT_MAIN],
                    op->scratch[CONTEXT_MAIN_SCALES], r);
    }
}

static struct cpu_linear main_linear(const struct cpu_step *step, const struct cpu_op *op)
{
    return scratch_linear(op->weight[0], op->scratch[CONTEXT_MAIN],
                          op->scratch[CONTEXT_MAIN_SCALES], step->row_count,
                          op->scratch[CONTEXT_RAW]);
}

static uint32_t main_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linear = main_linear(step, op);
    return cpu_linear_items(&linear);
}

static void main_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                     struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linear = main_linear(step, op);
    cpu_linear_run(step, &linear, items, worker);
}

static void m_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                  struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    uint32_t dim = step->shape->dim;
    uint16_t *m = (uint16_t *)(void *)worker->own;
    for (uint32_t r = items.first; r < items.end; r++) {
        step->kern->rmsnorm((const uint16_t *)op->scratch[CONTEXT_RAW] + (uint64_t)r * dim,
                            norm_of(op, 1), dim, step->shape->norm_eps, m);
        input_write(step, op->weight[2], m, op->scratch[CONTEXT_M], op->scratch[CONTEXT_M_SCALES],
                    r);
    }
}

static void stage_linears(const struct cpu_step *step, const struct cpu_op *op,
                          struct cpu_linear ret_linears[BE_OP_STATES_MAX])
{
    uint64_t stage_values = (uint64_t)op->in[0]->rows * step->shape->head_dim;
    for (uint32_t i = 0; i < stages_of(op); i++)
        ret_linears[i] = scratch_linear(op->weight[2 + 2 * i], op->scratch[CONTEXT_M],
                                        op->scratch[CONTEXT_M_SCALES], step->row_count,
                                        (uint16_t *)op->scratch[CONTEXT_KV] + i * stage_values);
}

static uint32_t stage_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linears[BE_OP_STATES_MAX];
    stage_linears(step, op, linears);
    return cpu_linears_items(linears, stages_of(op));
}

static void stage_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                      struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linears[BE_OP_STATES_MAX];
    stage_linears(step, op, linears);
    cpu_linears_run(step, linears, stages_of(op), items, worker);
}

/* Item (stage of the draft, row). */
static uint32_t ring_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    return step->row_count * stages_of(op);
}

static void ring_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                     struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    const struct be_shape *shape = step->shape;
    uint32_t dim = shape->head_dim;
    for (uint32_t item = items.first; item < items.end; item++) {
        uint32_t i = item / step->row_count, r = item % step->row_count;
        uint16_t *kv =
            (uint16_t *)op->scratch[CONTEXT_KV] + ((uint64_t)i * op->in[0]->rows + r) * dim;
        step->kern->rmsnorm(kv, norm_of(op, 3 + 2 * i), dim, shape->norm_eps, kv);
        step->kern->rope(kv, dim, shape->rope_dim / 2, cpu_sines(step, 0, r),
                         cpu_cosines(step, 0, r), false);
        step->kern->row_pack(kv, dim, shape->rope_dim,
                             cpu_window_row(step, &step->seqs[step->rows[r].seq], op->state[i],
                                            op->state_offset[i], step->rows[r].position));
    }
}

static enum fm_status context_plan(const struct be_exec *exec, struct cpu_op *op,
                                   struct fm_err *err)
{
    const struct be_shape *shape = &exec->model->shape;
    uint64_t rows = exec->limits.rows_max, cols = op->weight[0]->cols;
    for (uint32_t i = 1; i < stages_of(op); i++)
        if (is_quantised(op->weight[2 + 2 * i]) != is_quantised(op->weight[2]))
            return FM_FAIL(err, FM_UNSUPPORTED, "draft stages whose weights differ in format");
    op->scratch_bytes[CONTEXT_MAIN] = rows * cols * 2;
    op->scratch_bytes[CONTEXT_MAIN_SCALES] = rows * (cols / KERN_BLOCK);
    op->scratch_bytes[CONTEXT_RAW] = rows * shape->dim * 2;
    op->scratch_bytes[CONTEXT_M] = rows * shape->dim * 2;
    op->scratch_bytes[CONTEXT_M_SCALES] = rows * (shape->dim / KERN_BLOCK);
    op->scratch_bytes[CONTEXT_KV] = stages_of(op) * rows * shape->head_dim * 2;
    op->worker_bytes = cols * 2;
    op->linear_cols = (uint32_t)fm_max_u64(cols, shape->dim);
    return FM_OK;
}

static const struct cpu_stage context_stages[] = {
    {cpu_items_rows, hidden_run, false}, {main_items, main_run, false},
    {cpu_items_rows, m_run, false},      {stage_items, stage_run, false},
    {ring_items, ring_run, false},
};
const struct cpu_kind cpu_op_spark_context = {
    .stages = context_stages, .period = 5, .plan = context_plan};

/* ---- SPARK_PROPOSE ------------------------------------------------------------------------- */

/* Stage 2i finishes proposal i - 1 (bias to logits, the largest is the token) and prepares i; stage
 * 2i + 1 multiplies markov_w2 with the embeddings of all sequences. */
enum { PROPOSE_EMB, PROPOSE_BIAS, PROPOSE_TOKEN };
enum { PROPOSE_W1, PROPOSE_W2, PROPOSE_CONFIDENCE };

static uint32_t propose_seqs(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->seq_count;
}

static uint32_t logit_row(const struct cpu_step *step, uint32_t seq, uint32_t i)
{
    return step->rows[step->seqs[seq].row_first + i].logit;
}

static void proposal_finish(const struct cpu_step *step, const struct cpu_op *op, uint32_t seq,
                            uint32_t i)
{
    uint32_t vocab = step->shape->vocab, at = logit_row(step, seq, i), best = 0;
    float *logits = cpu_f32(op->out[2], at);
    step->kern->add(cpu_f32(op->in[0], at),
                    (const float *)op->scratch[PROPOSE_BIAS] + (uint64_t)seq * vocab, vocab,
                    logits);
    for (uint32_t v = 1; v < vocab; v++)
        best = logits[v] > logits[best] ? v : best;
    cpu_i32(op->out[0], seq)[i] = (int32_t)best;
    ((uint32_t *)op->scratch[PROPOSE_TOKEN])[seq] = best;
}

static void proposal_prepare(const struct cpu_step *step, const struct cpu_op *op, uint32_t seq,
                             uint32_t i, float *joined)
{
    uint32_t dim = step->shape->dim, rank = step->shape->spark_rank;
    uint16_t *emb = (uint16_t *)op->scratch[PROPOSE_EMB] + (uint64_t)seq * rank;
    cpu_weight_row(op->weight[PROPOSE_W1], ((const uint32_t *)op->scratch[PROPOSE_TOKEN])[seq],
                   emb);
    step->kern->widen(cpu_bf16(op->in[1], logit_row(step, seq, i)), dim, joined);
    step->kern->widen(emb, rank, joined + dim);
    cpu_f32(op->out[1], seq)[i] =
        step->kern->dot(norm_of(op, PROPOSE_CONFIDENCE), joined, dim + rank);
}

static void propose_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                        struct cpu_range items, struct cpu_worker *worker)
{
    uint32_t i = stage / 2;
    for (uint32_t s = items.first; s < items.end; s++) {
        if (i == 0)
            ((uint32_t *)op->scratch[PROPOSE_TOKEN])[s] =
                (uint32_t)step->rows[step->seqs[s].row_first].token;
        else
            proposal_finish(step, op, s, i - 1);
        if (i < step->shape->spark_block)
            proposal_prepare(step, op, s, i, (float *)(void *)worker->own);
    }
}

static struct cpu_linear bias_linear(const struct cpu_step *step, const struct cpu_op *op)
{
    return (struct cpu_linear){.weight = op->weight[PROPOSE_W2],
                               .x = op->scratch[PROPOSE_EMB],
                               .x_stride = step->shape->spark_rank,
                               .tokens = step->seq_count,
                               .y_f32 = op->scratch[PROPOSE_BIAS],
                               .y_stride = step->shape->vocab};
}

static uint32_t bias_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linear = bias_linear(step, op);
    return cpu_linear_items(&linear);
}

static void bias_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                     struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linear = bias_linear(step, op);
    cpu_linear_run(step, &linear, items, worker);
}

static enum fm_status propose_plan(const struct be_exec *exec, struct cpu_op *op,
                                   struct fm_err *err)
{
    (void)err;
    const struct be_shape *shape = &exec->model->shape;
    uint64_t seqs = exec->limits.seqs_max;
    op->stage_count = 2 * shape->spark_block + 1;
    op->scratch_bytes[PROPOSE_EMB] = seqs * shape->spark_rank * 2;
    op->scratch_bytes[PROPOSE_BIAS] = seqs * shape->vocab * sizeof(float);
    op->scratch_bytes[PROPOSE_TOKEN] = seqs * sizeof(uint32_t);
    op->worker_bytes = ((uint64_t)shape->dim + shape->spark_rank) * sizeof(float);
    op->linear_cols = shape->spark_rank;
    return FM_OK;
}

static const struct cpu_stage propose_stages[] = {
    {propose_seqs, propose_run, false},
    {bias_items, bias_run, false},
};
const struct cpu_kind cpu_op_spark_propose = {
    .stages = propose_stages, .period = 2, .plan = propose_plan};
