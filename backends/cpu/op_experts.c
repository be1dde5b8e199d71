/* op_experts.c - ROUTE, SHARED_EXPERT and EXPERTS.
 *
 * EXPERTS sorts (token, expert) pairs by expert, each pair a place in the lists.  A panel of an
 * expert then serves all of its tokens; in the last stage a member owns a panel of output rows and
 * adds up the experts of a token by ascending number, so that no sum is shared. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/cpu/linear.h"
#include "backends/cpu/ops.h"

/* ---- ROUTE: scratch[0] are the logits [rows, E] --------------------------------------------- */

static struct cpu_linear route_linear(const struct cpu_step *step, const struct cpu_op *op)
{
    struct cpu_linear linear = {.weight = op->weight[0],
                                .tokens = step->row_count,
                                .y_f32 = op->scratch[0],
                                .y_stride = op->weight[0]->rows};
    cpu_linear_input(&linear, op->in[0], NULL);
    return linear;
}

static uint32_t route_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linear = route_linear(step, op);
    return cpu_linear_items(&linear);
}

static void route_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                      struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linear = route_linear(step, op);
    cpu_linear_run(step, &linear, items, worker);
}

/* The `used` largest of s + bias in descending order, equal ones by ascending number.  ranks is
 * scratch [used]. */
static void largest(const float *s, const float *bias, uint32_t count, uint32_t used, float *ranks,
                    int32_t *ret_experts)
{
    uint32_t held = 0;
    for (uint32_t e = 0; e < count; e++) {
        float rank = s[e] + bias[e];
        if (held == used && !(rank > ranks[used - 1]))
            continue;
        uint32_t at = held < used ? held++ : used - 1;
        for (; at > 0 && rank > ranks[at - 1]; at--) {
            ranks[at] = ranks[at - 1];
            ret_experts[at] = ret_experts[at - 1];
        }
        ranks[at] = rank;
        ret_experts[at] = (int32_t)e;
    }
}

/* worker->own: s [E], ranks [K]. */
static void choose_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                       struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    const struct be_shape *shape = step->shape;
    uint32_t count = shape->expert_count, used = shape->experts_per_token;
    float *s = (float *)(void *)worker->own;
    for (uint32_t r = items.first; r < items.end; r++) {
        int32_t *experts = cpu_i32(op->out[0], r);
        float *weights = cpu_f32(op->out[1], r);
        step->kern->route_scores((const float *)op->scratch[0] + (uint64_t)r * count, count, s);
        if (op->weight[2] != NULL)
            memcpy(experts, op->weight[2]->data + (uint64_t)step->rows[r].token * used * 4,
                   used * sizeof *experts);
        else
            largest(s, (const float *)(const void *)op->weight[1]->data, count, used, s + count,
                    experts);
        float sum = s[experts[0]];
        for (uint32_t i = 1; i < used; i++)
            sum = sum + s[experts[i]];
        sum = sum == 0.0f ? 1.0f : sum;
        for (uint32_t i = 0; i < used; i++)
            weights[i] = s[experts[i]] / sum * shape->route_scale;
    }
}

static enum fm_status route_plan(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    const struct be_shape *shape = &exec->model->shape;
    if ((op->weight[1] == NULL) == (op->weight[2] == NULL) || !op->weight[0]->is_paneled)
        return FM_FAIL(err, FM_UNSUPPORTED, "a router needs either a bias or a table of experts");
    op->scratch_bytes[0] = (uint64_t)exec->limits.rows_max * shape->expert_count * sizeof(float);
    op->worker_bytes = (shape->expert_count + shape->experts_per_token) * sizeof(float);
    op->linear_cols = op->weight[0]->cols;
    return FM_OK;
}

static const struct cpu_stage route_stages[] = {
    {route_items, route_run, false},
    {cpu_items_rows, choose_run, false},
};
const struct cpu_kind cpu_op_route = {.stages = route_stages, .period = 2, .plan = route_plan};

/* ---- the middle of an expert --------------------------------------------------------------- */

/* scratch of both kinds: products of w1 and w3 and their combination [places, I], its scales. */
enum { SCRATCH_GATE, SCRATCH_UP, SCRATCH_ACT, SCRATCH_SCALES, SCRATCH_LISTS };

static uint16_t *middle(const struct cpu_op *op, uint32_t which, const struct cpu_step *step,
                        uint64_t place)
{
    return (uint16_t *)op->scratch[which] + place * step->shape->expert_dim;
}

static void swiglu(const struct cpu_step *step, const struct cpu_op *op, bool is_quantised,
                   uint32_t place, const float *weight)
{
    uint32_t dim = step->shape->expert_dim;
    uint16_t *gate = middle(op, SCRATCH_GATE, step, place);
    uint16_t *act = middle(op, SCRATCH_ACT, step, place);
    step->kern->swiglu(gate, middle(op, SCRATCH_UP, step, place), dim, step->shape->swiglu_limit,
                       weight, is_quantised ? gate : act);
    if (is_quantised)
        step->kern->act_quant(gate, dim, act,
                              (uint8_t *)op->scratch[SCRATCH_SCALES] +
                                  (uint64_t)place * (dim / KERN_BLOCK));
}

static void middle_plan(const struct be_exec *exec, struct cpu_op *op, uint64_t places)
{
    uint64_t dim = exec->model->shape.expert_dim;
    op->scratch_bytes[SCRATCH_GATE] = places * dim * sizeof(uint16_t);
    op->scratch_bytes[SCRATCH_UP] = places * dim * sizeof(uint16_t);
    op->scratch_bytes[SCRATCH_ACT] = places * dim * sizeof(uint16_t);
    op->scratch_bytes[SCRATCH_SCALES] = places * (dim / KERN_BLOCK);
    op->linear_cols = fm_max_u32(exec->model->shape.dim, exec->model->shape.expert_dim);
}

/* ---- SHARED_EXPERT ------------------------------------------------------------------------- */

static void shared_linears(const struct cpu_step *step, const struct cpu_op *op,
                           struct cpu_linear ret_linears[2])
{
    for (uint32_t i = 0; i < 2; i++) {
        ret_linears[i] = (struct cpu_linear){.weight = op->weight[i],
                                             .tokens = step->row_count,
                                             .y_bf16 = op->scratch[SCRATCH_GATE + i],
                                             .y_stride = step->shape->expert_dim};
        cpu_linear_input(&ret_linears[i], op->in[0], op->in[1]);
    }
}

static uint32_t shared_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    struct cpu_linear linears[2];
    shared_linears(step, op, linears);
    return cpu_linears_items(linears, 2);
}

static void shared_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                       struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linears[2];
    shared_linears(step, op, linears);
    cpu_linears_run(step, linears, 2, items, worker);
}

static void shared_middle(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                          struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    for (uint32_t r = items.first; r < items.end; r++)
        swiglu(step, op, op->weight[2]->format != BE_FORMAT_BF16, r, NULL);
}

/* w2 of a shared expert over its places. */
static struct cpu_linear down_linear(const struct cpu_step *step, const struct cpu_op *op,
                                     const struct cpu_weight *weight)
{
    struct cpu_linear linear = {
        .weight = weight, .x = op->scratch[SCRATCH_ACT], .x_stride = step->shape->expert_dim};
    if (weight->format != BE_FORMAT_BF16) {
        linear.x_scales = op->scratch[SCRATCH_SCALES];
        linear.x_scale_stride = step->shape->expert_dim / KERN_BLOCK;
    }
    return linear;
}

static struct cpu_linear shared_down(const struct cpu_step *step, const struct cpu_op *op)
{
    struct cpu_linear linear = down_linear(step, op, op->weight[2]);
    linear.tokens = step->row_count;
    cpu_linear_output(&linear, op->out[0]);
    return linear;
}

static uint32_t shared_down_items(const struct cpu_step *step, const struct cpu_op *op,
                                  uint32_t stage)
{
    (void)stage;
    struct cpu_linear linear = shared_down(step, op);
    return cpu_linear_items(&linear);
}

static void shared_down_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                            struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct cpu_linear linear = shared_down(step, op);
    cpu_linear_run(step, &linear, items, worker);
}

static enum fm_status shared_plan(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err)
{
    (void)err;
    middle_plan(exec, op, exec->limits.rows_max);
    return FM_OK;
}

static const struct cpu_stage shared_stages[] = {
    {shared_items, shared_run, false},
    {cpu_items_rows, shared_middle, false},
    {shared_down_items, shared_down_run, false},
};
const struct cpu_kind cpu_op_shared_expert = {
    .stages = shared_stages, .period = 3, .plan = shared_plan};

/* ---- EXPERTS ------------------------------------------------------------------------------- */

enum { SUM_TOKENS = 256 }; /* tokens of an item of the last stage */

/* The pairs of a step by expert: places [starts[e], starts[e + 1]) are expert e's, by ascending
 * row and, within a row, slot. */
struct lists {
    uint32_t *starts; /* [E + 1] */
    uint32_t *active; /* [E]: experts that have a place, ascending; their number in *active_count */
    uint32_t *active_count;
    uint32_t *rows; /* [places] */
    float *weights; /* [places] */
};

static struct lists lists_of(const struct cpu_step *step, const struct cpu_op *op)
{
    uint32_t experts = step->shape->expert_count;
    struct lists lists;
    lists.starts = op->scratch[SCRATCH_LISTS];
    lists.active = lists.starts + experts + 1;
    lists.active_count = lists.active + experts;
    lists.rows = lists.active_count + 1;
    lists.weights =
        (float *)(void *)(lists.rows + (uint64_t)op->in[2]->rows * step->shape->experts_per_token);
    return lists;
}

static uint32_t one_item(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)step;
    (void)op;
    (void)stage;
    return 1;
}

static void lists_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                      struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)items;
    const struct be_shape *shape = step->shape;
    uint32_t used = shape->experts_per_token, experts = shape->expert_count;
    uint32_t *next = (uint32_t *)(void *)worker->own;
    struct lists lists = lists_of(step, op);
    const int32_t *chosen = cpu_i32(op->in[2], 0);
    const float *weights = cpu_f32(op->in[3], 0);

    memset(lists.starts, 0, (experts + 1) * sizeof *lists.starts);
    for (uint32_t i = 0; i < step->row_count * used; i++) {
        FM_ASSERT(chosen[i] >= 0 && (uint32_t)chosen[i] < experts);
        lists.starts[chosen[i] + 1]++;
    }
    *lists.active_count = 0;
    for (uint32_t e = 0; e < experts; e++) {
        if (lists.starts[e + 1] != 0)
            lists.active[(*lists.active_count)++] = e;
        lists.starts[e + 1] += lists.starts[e];
        next[e] = lists.starts[e];
    }
    for (uint32_t i = 0; i < step->row_count * used; i++) {
        uint32_t place = next[chosen[i]]++;
        lists.rows[place] = i / used;
        lists.weights[place] = weights[i];
    }
}

static const struct cpu_weight *expert_weight(const struct cpu_op *op, uint32_t expert,
                                              uint32_t which)
{
    return op->weight[0] + 3 * (uint64_t)expert + which;
}

/* Item (active expert, panel of w1 and w3). */
static uint32_t gate_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    return *lists_of(step, op).active_count * cpu_weight_panels(op->weight[0]);
}

static void gate_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                     struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct lists lists = lists_of(step, op);
    uint32_t panels = cpu_weight_panels(op->weight[0]), dim = step->shape->expert_dim;
    for (uint32_t item = items.first; item < items.end; item++) {
        uint32_t expert = lists.active[item / panels], panel = item % panels;
        uint32_t start = lists.starts[expert], count = lists.starts[expert + 1] - start;
        uint32_t rows = fm_min_u32(KERN_PANEL_ROWS, dim - panel * KERN_PANEL_ROWS);
        struct cpu_linear linear = {.weight = expert_weight(op, expert, 0),
                                    .pick = lists.rows + start};
        cpu_linear_input(&linear, op->in[0], op->in[1]);
        for (uint32_t at = 0; at < count; at += KERN_TOKENS) {
            uint32_t tokens = fm_min_u32(KERN_TOKENS, count - at);
            cpu_linear_spread(step, &linear, at, tokens, worker);
            for (uint32_t which = 0; which < 2; which++) {
                linear.weight = expert_weight(op, expert, which);
                cpu_linear_panel(step, &linear, panel, tokens, worker);
                for (uint32_t m = 0; m < tokens; m++)
                    step->kern->round(worker->y + m * KERN_PANEL_ROWS, rows,
                                      middle(op, SCRATCH_GATE + which, step, start + at + m) +
                                          panel * KERN_PANEL_ROWS);
            }
        }
    }
}

static uint32_t place_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)op;
    (void)stage;
    return step->row_count * step->shape->experts_per_token;
}

static void place_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                      struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    (void)worker;
    struct lists lists = lists_of(step, op);
    bool is_quantised = expert_weight(op, 0, 2)->format != BE_FORMAT_BF16;
    for (uint32_t place = items.first; place < items.end; place++)
        swiglu(step, op, is_quantised, place, &lists.weights[place]);
}

/* Item (chunk of tokens, panel of w2). */
static uint32_t sum_items(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage)
{
    (void)stage;
    return fm_u32(fm_div_ceil(step->row_count, SUM_TOKENS)) *
           cpu_weight_panels(expert_weight(op, 0, 2));
}

/* The first place of [start, end) whose row is at least `row`. */
static uint32_t place_of_row(const struct lists *lists, uint32_t start, uint32_t end, uint32_t row)
{
    while (start < end) {
        uint32_t middle_place = start + (end - start) / 2;
        if (lists->rows[middle_place] < row)
            start = middle_place + 1;
        else
            end = middle_place;
    }
    return start;
}

/* Add one expert's outputs of its places [start, end) to sums [token, 64]; token 0 is row `first`. */
static void sum_expert(const struct cpu_step *step, const struct cpu_op *op,
                       const struct lists *lists, struct cpu_linear *linear, uint32_t panel,
                       struct cpu_range places, uint32_t first, float *sums,
                       struct cpu_worker *worker)
{
    (void)op;
    uint32_t rows = fm_min_u32(KERN_PANEL_ROWS, linear->weight->rows - panel * KERN_PANEL_ROWS);
    for (uint32_t at = places.first; at < places.end; at += KERN_TOKENS) {
        uint32_t tokens = fm_min_u32(KERN_TOKENS, places.end - at);
        cpu_linear_spread(step, linear, at, tokens, worker);
        cpu_linear_panel(step, linear, panel, tokens, worker);
        for (uint32_t m = 0; m < tokens; m++)
            step->kern->accumulate(worker->y + m * KERN_PANEL_ROWS, rows,
                                   sums + (lists->rows[at + m] - first) * KERN_PANEL_ROWS);
    }
}

static void sum_run(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                    struct cpu_range items, struct cpu_worker *worker)
{
    (void)stage;
    struct lists lists = lists_of(step, op);
    float *sums = (float *)(void *)worker->own;
    uint32_t dim = step->shape->dim, panels = cpu_weight_panels(expert_weight(op, 0, 2));
    for (uint32_t item = items.first; item < items.end; item++) {
        uint32_t panel = item % panels, first = item / panels * SUM_TOKENS;
        uint32_t end = fm_min_u32(step->row_count, first + SUM_TOKENS);
        uint32_t column = panel * KERN_PANEL_ROWS;
        uint32_t columns = fm_min_u32(KERN_PANEL_ROWS, dim - column);
        memset(sums, 0, (uint64_t)(end - first) * KERN_PANEL_ROWS * sizeof *sums);
        for (uint32_t a = 0; a < *lists.active_count; a++) {
            uint32_t expert = lists.active[a];
            struct cpu_linear linear = down_linear(step, op, expert_weight(op, expert, 2));
            struct cpu_range places = {.first = lists.starts[expert],
                                       .end = lists.starts[expert + 1]};
            places.first = place_of_row(&lists, places.first, places.end, first);
            places.end = place_of_row(&lists, places.first, places.end, end);
            sum_expert(step, op, &lists, &linear, panel, places, first, sums, worker);
        }
        for (uint32_t r = first; r < end; r++)
            step->kern->finish_sum(sums + (r - first) * KERN_PANEL_ROWS,
                                   cpu_bf16(op->in[4], r) + column, columns,
                                   cpu_bf16(op->out[0], r) + column);
    }
}

static enum fm_status experts_plan(const struct be_exec *exec, struct cpu_op *op,
                                   struct fm_err *err)
{
    const struct be_shape *shape = &exec->model->shape;
    uint64_t places = (uint64_t)exec->limits.rows_max * shape->experts_per_token;
    for (uint32_t e = 1; e < shape->expert_count; e++)
        if (expert_weight(op, e, 2)->format != expert_weight(op, 0, 2)->format)
            return FM_FAIL(err, FM_UNSUPPORTED, "w2 of expert %u differs in format from the first",
                           e);
    middle_plan(exec, op, places);
    op->scratch_bytes[SCRATCH_LISTS] =
        (2 * (uint64_t)shape->expert_count + 2 + 2 * places) * sizeof(uint32_t);
    op->worker_bytes = fm_max_u64((uint64_t)shape->expert_count * sizeof(uint32_t),
                                  SUM_TOKENS * KERN_PANEL_ROWS * sizeof(float));
    return FM_OK;
}

static const struct cpu_stage experts_stages[] = {
    {one_item, lists_run, false},
    {gate_items, gate_run, true},
    {place_items, place_run, false},
    {sum_items, sum_run, true},
};
const struct cpu_kind cpu_op_experts = {
    .stages = experts_stages, .period = 4, .plan = experts_plan};
