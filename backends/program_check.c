/* program_check.c - is a program well formed?  One table and four walks.
 *
 * The table (op_rules.h) says for each slot of each kind of operation whether it must be filled,
 * its element, lead and dims, and which operations may have written it.  The walks:
 *   1. slots     every slot against the table; ids in range; written once, before it is read
 *   2. sublayer  what an operation combines comes from one HC_COLLAPSE of its own layer
 *   3. streams   X goes from layer to layer in order and is taken once
 *   4. edges     each dependency through a value or a state is an edge or a path of edges
 * Shapes alone would not do: in a model with D = Q the slots of x and of qr look alike.
 *
 * Runs at load, on the thread that loads; allocates op_count^2 / 8 bytes for the paths. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "backends/op_rules.h"

enum { PRODUCER_NONE = UINT32_MAX };

struct checker {
    const struct be_program *program;
    const struct be_shape *shape;
    struct fm_err *err;
    uint32_t op_index;  /* where the walk is, for messages */
    uint32_t *producer; /* [value_count]: the operation that writes the value, or PRODUCER_NONE */
    uint32_t *root;     /* [op_count]: the HC_COLLAPSE that an operation's inputs come from */
    bool *is_taken;     /* [value_count]: an HC_COLLAPSE or HEAD has read these streams */
    uint64_t *before;   /* [op_count][words]: bit j of row i: op j comes before op i */
    uint32_t words;
};

static FM_PRINTF(2, 3) enum fm_status bad_op(struct checker *checker, const char *format, ...)
{
    const struct be_op *op = &checker->program->ops[checker->op_index];
    char text[FM_ERR_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return FM_FAIL(checker->err, FM_INVALID, "operation %u (%s, layer %u): %s", checker->op_index,
                   be_op_name(op->kind), op->layer, text);
}

static bool is_linear(enum be_format format)
{
    return format == BE_FORMAT_BF16 || format == BE_FORMAT_FP8 || format == BE_FORMAT_FP4;
}

/* Must the slot be filled (*ret_must), and may it (*ret_may)? */
static void need_of(const struct checker *checker, const struct be_op *op, enum be_need need,
                    uint32_t of, bool *ret_must, bool *ret_may)
{
    const struct be_model *model = checker->program->model;
    be_weight_id weight = need == BE_NEED_PLAIN || need == BE_NEED_ACT ? op->weight[of] : 0;
    bool is_plain = weight < model->weight_count && weight != 0 &&
                    model->weights[weight].format == BE_FORMAT_BF16;

    *ret_may = true;
    switch (need) {
    case BE_NEED_NONE: *ret_must = *ret_may = false; return;
    case BE_NEED_ALWAYS: *ret_must = true; return;
    case BE_NEED_MAYBE: *ret_must = false; return;
    case BE_NEED_PLAIN: *ret_must = is_plain; return;
    case BE_NEED_ACT: *ret_must = !is_plain; return;
    case BE_NEED_RATIO: *ret_must = *ret_may = op->ratio != 0; return;
    case BE_NEED_SELECT: *ret_must = *ret_may = op->ratio == 4; return;
    case BE_NEED_STAGE: *ret_must = *ret_may = of < checker->shape->stage_count; return;
    }
    FM_UNREACHABLE();
}

/* Is the slot filled as it must be?  *ret_filled is whether there is anything more to look at. */
static enum fm_status check_need(struct checker *checker, const struct be_op *op, uint32_t need,
                                 uint32_t of, const char *what, uint32_t slot, uint32_t id,
                                 uint32_t id_count, bool *ret_filled)
{
    bool must = false;
    bool may = false;
    need_of(checker, op, (enum be_need)need, of, &must, &may);
    if (id == 0 && must)
        return bad_op(checker, "%s slot %u is empty", what, slot);
    if (id != 0 && !may)
        return bad_op(checker, "%s slot %u has %u, nothing belongs there", what, slot, id);
    if (id >= id_count && id != 0)
        return bad_op(checker, "%s slot %u has %u, the table ends at %u", what, slot, id, id_count);
    *ret_filled = id != 0;
    return FM_OK;
}

static enum fm_status check_value_shape(struct checker *checker, const struct be_op *op,
                                        const struct be_value_rule *rule, const char *what,
                                        uint32_t slot, be_value_id id)
{
    const struct be_value *value = &checker->program->values[id];
    uint64_t outer = be_dim_value(checker->shape, op, (enum be_dim)rule->outer);
    uint64_t inner = be_dim_value(checker->shape, op, (enum be_dim)rule->inner);
    if (value->elem != (enum be_elem)rule->elem || value->lead != (enum be_lead)rule->lead)
        return bad_op(checker, "%s slot %u: value %u has element %d and lead %d, not %d and %d",
                      what, slot, id, value->elem, value->lead, rule->elem, rule->lead);
    if (value->outer != outer || value->inner != inner)
        return bad_op(checker, "%s slot %u: value %u is [%u, %u], not [%llu, %llu]", what, slot, id,
                      value->outer, value->inner, (unsigned long long)outer,
                      (unsigned long long)inner);
    return FM_OK;
}

static enum fm_status check_in(struct checker *checker, const struct be_op *op, uint32_t slot)
{
    const struct be_value_rule *rule = &be_op_rules[op->kind].in[slot];
    be_value_id id = op->in[slot];
    bool is_filled = false;
    enum fm_status status = check_need(checker, op, rule->need, rule->of, "input", slot, id,
                                       checker->program->value_count, &is_filled);
    if (status != FM_OK || !is_filled)
        return status;
    status = check_value_shape(checker, op, rule, "input", slot, id);
    if (status != FM_OK)
        return status;

    uint32_t producer = checker->producer[id];
    if (checker->program->values[id].flags & BE_VALUE_INPUT)
        return FM_OK;
    if (producer == PRODUCER_NONE)
        return bad_op(checker, "input slot %u: value %u is read before it is written", slot, id);
    const struct be_op *writer = &checker->program->ops[producer];
    for (uint32_t i = 0; i < BE_PORTS_MAX && rule->from[i] != 0; i++) {
        uint32_t port = rule->from[i] - 1u;
        if (writer->kind == (enum be_op_kind)(port / BE_OP_OUT_MAX) &&
            writer->out[port % BE_OP_OUT_MAX] == id)
            return FM_OK;
    }
    return bad_op(checker, "input slot %u: value %u comes from a %s, which has no such output",
                  slot, id, be_op_name(writer->kind));
}

static enum fm_status check_out(struct checker *checker, const struct be_op *op, uint32_t slot)
{
    const struct be_value_rule *rule = &be_op_rules[op->kind].out[slot];
    be_value_id id = op->out[slot];
    bool is_filled = false;
    enum fm_status status = check_need(checker, op, rule->need, rule->of, "output", slot, id,
                                       checker->program->value_count, &is_filled);
    if (status != FM_OK || !is_filled)
        return status;
    if (checker->producer[id] != PRODUCER_NONE)
        return bad_op(checker, "output slot %u: value %u is written by operation %u already", slot,
                      id, checker->producer[id]);
    if (checker->program->values[id].flags & BE_VALUE_INPUT)
        return bad_op(checker, "output slot %u: value %u is an input of the program", slot, id);
    checker->producer[id] = checker->op_index;
    return check_value_shape(checker, op, rule, "output", slot, id);
}

/* Scales go with FP8 and FP4 alone; FP4 packs pairs and scales in blocks of 32. */
static enum fm_status check_weight_format(struct checker *checker, uint32_t slot, be_weight_id id,
                                          uint32_t formats)
{
    const struct be_weight *weight = &checker->program->model->weights[id];
    bool is_allowed = (weight->format == BE_FORMAT_BF16 && (formats & BE_RULE_BF16)) ||
                      (weight->format == BE_FORMAT_F32 && (formats & BE_RULE_F32)) ||
                      (weight->format == BE_FORMAT_I64 && (formats & BE_RULE_I64)) ||
                      (is_linear(weight->format) && (formats & BE_RULE_LINEAR));
    if (!is_allowed)
        return bad_op(checker, "weight slot %u: %s has format %d", slot, weight->name,
                      weight->format);
    bool is_scaled = weight->format == BE_FORMAT_FP8 || weight->format == BE_FORMAT_FP4;
    if (is_scaled != (weight->scale_format != BE_SCALE_NONE))
        return bad_op(checker, "weight slot %u: %s has format %d and scale format %d", slot,
                      weight->name, weight->format, weight->scale_format);
    if (weight->format == BE_FORMAT_FP4 && weight->cols % 32 != 0)
        return bad_op(checker, "weight slot %u: %s has %u columns, FP4 asks for a multiple of 32",
                      slot, weight->name, weight->cols);
    return FM_OK;
}

static enum fm_status check_weight(struct checker *checker, const struct be_op *op, uint32_t slot,
                                   const struct be_weight_rule *rule, be_weight_id id)
{
    const struct be_model *model = checker->program->model;
    bool is_filled = false;
    enum fm_status status = check_need(checker, op, rule->need, rule->of, "weight", slot, id,
                                       model->weight_count, &is_filled);
    if (status != FM_OK || !is_filled)
        return status;
    uint64_t rows = be_dim_value(checker->shape, op, (enum be_dim)rule->rows);
    uint64_t cols = be_dim_value(checker->shape, op, (enum be_dim)rule->cols);
    const struct be_weight *weight = &model->weights[id];
    if (weight->rows != rows || weight->cols != cols)
        return bad_op(checker, "weight slot %u: %s is [%u, %u], not [%llu, %llu]", slot,
                      weight->name, weight->rows, weight->cols, (unsigned long long)rows,
                      (unsigned long long)cols);
    return check_weight_format(checker, slot, id, rule->formats);
}

static enum fm_status check_state(struct checker *checker, const struct be_op *op, uint32_t slot)
{
    const struct be_state_rule *rule = &be_op_rules[op->kind].state[slot];
    const struct be_model *model = checker->program->model;
    be_state_id id = op->state[slot];
    bool is_filled = false;
    enum fm_status status = check_need(checker, op, rule->need, rule->of, "state", slot, id,
                                       model->state_count, &is_filled);
    if (status != FM_OK)
        return status;
    if (op->access[slot] != (is_filled ? rule->access : BE_ACCESS_NONE))
        return bad_op(checker, "state slot %u has access %u, not %u", slot, op->access[slot],
                      is_filled ? rule->access : BE_ACCESS_NONE);
    if (!is_filled)
        return FM_OK;

    const struct be_state *state = &model->states[id];
    uint32_t layer = op->layer;
    if (op->kind == BE_OP_SPARK_CONTEXT)
        layer = checker->shape->layer_count + slot;
    if (state->class != (enum be_class)rule->class || state->layer != layer)
        return bad_op(checker,
                      "state slot %u: state %u is class %d of layer %u, not %u of layer %u", slot,
                      id, state->class, state->layer, rule->class, layer);
    if (state->class != BE_CLASS_WINDOW && state->ratio != op->ratio)
        return bad_op(checker, "state slot %u: state %u has ratio %u, the operation %u", slot, id,
                      state->ratio, op->ratio);
    return FM_OK;
}

/* Taps stand without gaps, in the order of their layers. */
static enum fm_status check_taps(struct checker *checker, const struct be_op *op)
{
    const struct be_op *ops = checker->program->ops;
    for (uint32_t i = 1; i < BE_OP_IN_MAX; i++) {
        if (op->in[i] == 0)
            continue;
        uint32_t before = checker->producer[op->in[i - 1]];
        uint32_t after = checker->producer[op->in[i]];
        if (op->in[i - 1] == 0 || (before != PRODUCER_NONE && after != PRODUCER_NONE &&
                                   ops[before].layer >= ops[after].layer))
            return bad_op(checker, "input slots %u and %u are not of ascending layers", i - 1, i);
    }
    return FM_OK;
}

/* What the table cannot say of single kinds. */
static enum fm_status check_special(struct checker *checker, const struct be_op *op)
{
    const struct be_weight *weights = checker->program->model->weights;
    enum fm_status status = FM_OK;

    switch (op->kind) {
    case BE_OP_ROUTE:
        if ((op->weight[1] == 0) == (op->weight[2] == 0))
            return bad_op(checker, "weights %u and %u: either a bias or a table is needed",
                          op->weight[1], op->weight[2]);
        return FM_OK;
    case BE_OP_SHARED_EXPERT:
        if (weights[op->weight[0]].format != weights[op->weight[1]].format)
            return bad_op(checker, "w1 and w3 have formats %d and %d",
                          weights[op->weight[0]].format, weights[op->weight[1]].format);
        return FM_OK;
    case BE_OP_EXPERTS:
        for (uint32_t i = 0; i < 3 * checker->shape->expert_count && status == FM_OK; i++) {
            struct be_weight_rule rule = be_op_rules[BE_OP_EXPERTS].weight[0];
            if (i % 3 == 2) {
                rule.rows = BE_DIM_D;
                rule.cols = BE_DIM_I;
            }
            status = check_weight(checker, op, 0, &rule, op->weight[0] + i);
            if (status == FM_OK && i % 3 != 2 &&
                weights[op->weight[0] + i].format != weights[op->weight[0]].format)
                status = bad_op(checker, "w1 and w3 of expert %u differ in format from the first",
                                i / 3);
        }
        return status;
    case BE_OP_SPARK_CONTEXT: return check_taps(checker, op);
    case BE_OP_COMPRESS_INDEX:
    case BE_OP_INDEX_QUERY:
    case BE_OP_INDEX_SELECT:
        return op->ratio == 4 ? FM_OK : bad_op(checker, "ratio is %u, indexers have 4", op->ratio);
    case BE_OP_ATTEND:
    case BE_OP_SPARK_ATTEND:
        if ((op->kind == BE_OP_SPARK_ATTEND) !=
            (op->layer >= checker->shape->layer_count && checker->shape->spark_block != 0))
            return bad_op(checker, "the stages of DSpark alone attend to blocks");
        return FM_OK;
    case BE_OP_COMPRESS:
        return op->ratio != 0 ? FM_OK : bad_op(checker, "ratio is 0, there is nothing to compress");
    default: return FM_OK;
    }
}

static enum fm_status check_slots(struct checker *checker, const struct be_op *op)
{
    enum fm_status status = FM_OK;
    for (uint32_t i = 0; i < BE_OP_WEIGHTS_MAX && status == FM_OK; i++)
        status = check_weight(checker, op, i, &be_op_rules[op->kind].weight[i], op->weight[i]);
    for (uint32_t i = 0; i < BE_OP_STATES_MAX && status == FM_OK; i++)
        status = check_state(checker, op, i);
    for (uint32_t i = 0; i < BE_OP_IN_MAX && status == FM_OK; i++)
        status = check_in(checker, op, i);
    for (uint32_t i = 0; i < BE_OP_OUT_MAX && status == FM_OK; i++)
        status = check_out(checker, op, i);
    return status == FM_OK ? check_special(checker, op) : status;
}

/* Everything inside a sublayer descends from one HC_COLLAPSE of the same layer; HC_EXPAND closes
 * it over the streams that this one took.  Values that come from outside fit anywhere. */
static enum fm_status check_sublayer(struct checker *checker, const struct be_op *op)
{
    bool is_inside = op->kind != BE_OP_HC_COLLAPSE && op->kind != BE_OP_EMBED &&
                     op->kind != BE_OP_MTP_JOIN && op->kind != BE_OP_TAP &&
                     op->kind != BE_OP_HEAD && op->kind != BE_OP_SPARK_CONTEXT &&
                     op->kind != BE_OP_SPARK_PROPOSE;
    uint32_t root = PRODUCER_NONE;

    for (uint32_t i = op->kind == BE_OP_HC_EXPAND ? 1 : 0; is_inside && i < BE_OP_IN_MAX; i++) {
        if (op->in[i] == 0 || checker->producer[op->in[i]] == PRODUCER_NONE)
            continue;
        uint32_t other = checker->root[checker->producer[op->in[i]]];
        if (other == PRODUCER_NONE)
            continue;
        if (root != PRODUCER_NONE && root != other)
            return bad_op(checker, "its inputs come from the sublayers of operations %u and %u",
                          root, other);
        root = other;
        const struct be_op *collapse = &checker->program->ops[other];
        if (collapse->layer != op->layer || collapse->ratio != op->ratio)
            return bad_op(checker, "input slot %u comes from layer %u", i, collapse->layer);
    }
    if (op->kind == BE_OP_HC_EXPAND && root != PRODUCER_NONE &&
        checker->program->ops[root].in[0] != op->in[0])
        return bad_op(checker, "expands streams %u, the sublayer began with %u", op->in[0],
                      checker->program->ops[root].in[0]);
    checker->root[checker->op_index] = op->kind == BE_OP_HC_COLLAPSE ? checker->op_index : root;
    return FM_OK;
}

/* Is this HC_EXPAND the second of its layer, behind the experts?  Unknown counts as yes. */
static bool closes_layer(const struct checker *checker, const struct be_op *expand)
{
    uint32_t producer = checker->producer[expand->in[1]];
    return producer == PRODUCER_NONE || checker->program->ops[producer].kind == BE_OP_EXPERTS;
}

/* Streams pass each sublayer once, layer by layer: behind a layer's first HC_EXPAND comes its
 * second HC_COLLAPSE, behind the second the next layer, a TAP or the HEAD. */
static enum fm_status check_streams(struct checker *checker, const struct be_op *op)
{
    if (op->kind != BE_OP_HC_COLLAPSE && op->kind != BE_OP_TAP && op->kind != BE_OP_HEAD)
        return FM_OK;
    be_value_id streams = op->in[0];
    uint32_t producer = checker->producer[streams];
    if (producer != PRODUCER_NONE) {
        const struct be_op *writer = &checker->program->ops[producer];
        bool is_inner = writer->kind == BE_OP_HC_EXPAND && !closes_layer(checker, writer);
        bool crosses =
            op->kind == BE_OP_HC_COLLAPSE && writer->kind == BE_OP_HC_EXPAND && !is_inner;
        if (writer->layer + (crosses ? 1u : 0u) != op->layer ||
            (is_inner && op->kind != BE_OP_HC_COLLAPSE))
            return bad_op(checker, "takes the streams %s layer %u", is_inner ? "inside" : "of",
                          writer->layer);
    }
    if (op->kind != BE_OP_TAP) {
        if (checker->is_taken[streams])
            return bad_op(checker, "takes streams %u, which another operation took", streams);
        checker->is_taken[streams] = true;
    }
    return FM_OK;
}

static bool comes_before(const struct checker *checker, uint32_t first, uint32_t second)
{
    const uint64_t *row = checker->before + (size_t)second * checker->words;
    return (row[first / 64] >> (first % 64)) & 1;
}

static enum fm_status close_edges(struct checker *checker, const struct be_op *op)
{
    uint64_t *row = checker->before + (size_t)checker->op_index * checker->words;
    if ((uint64_t)op->edge_first + op->edge_count > checker->program->edge_count)
        return bad_op(checker, "edges [%u, %u + %u) of %u", op->edge_first, op->edge_first,
                      op->edge_count, checker->program->edge_count);
    for (uint32_t i = 0; i < op->edge_count; i++) {
        uint32_t from = checker->program->edges[op->edge_first + i];
        if (from >= checker->op_index)
            return bad_op(checker, "comes after operation %u, which is not before it", from);
        const uint64_t *other = checker->before + (size_t)from * checker->words;
        for (uint32_t w = 0; w < checker->words; w++)
            row[w] |= other[w];
        row[from / 64] |= UINT64_C(1) << (from % 64);
    }
    return FM_OK;
}

static enum fm_status check_edges(struct checker *checker, const struct be_op *op)
{
    const struct be_program *program = checker->program;
    enum fm_status status = close_edges(checker, op);
    if (status != FM_OK)
        return status;

    for (uint32_t i = 0; i < BE_OP_IN_MAX; i++) {
        uint32_t from = op->in[i] == 0 ? PRODUCER_NONE : checker->producer[op->in[i]];
        if (from != PRODUCER_NONE && !comes_before(checker, from, checker->op_index))
            return bad_op(checker, "no edge from operation %u, which writes value %u", from,
                          op->in[i]);
    }
    for (uint32_t s = 0; s < BE_OP_STATES_MAX; s++) {
        if (op->state[s] == 0)
            continue;
        for (uint32_t from = 0; from < checker->op_index; from++) {
            const struct be_op *other = &program->ops[from];
            for (uint32_t t = 0; t < BE_OP_STATES_MAX; t++) {
                bool is_ordered = other->state[t] == op->state[s] &&
                                  ((other->access[t] | op->access[s]) & BE_ACCESS_WRITE);
                if (is_ordered && !comes_before(checker, from, checker->op_index))
                    return bad_op(checker, "no edge from operation %u, which shares state %u", from,
                                  op->state[s]);
            }
        }
    }
    return FM_OK;
}

/* A state's geometry follows from the shape and its class. */
static enum fm_status check_model_state(const struct be_model *model, uint32_t id,
                                        struct fm_err *err)
{
    const struct be_shape *shape = &model->shape;
    const struct be_state *state = &model->states[id];
    bool has_ratio =
        (unsigned)state->class <= BE_CLASS_INDEX_TAIL && state->class != BE_CLASS_WINDOW;
    uint64_t lanes = state->ratio == 4 ? 2 : 1;
    uint64_t row = 0;
    uint64_t rows_min = 0;
    uint64_t rows_max = UINT32_MAX;

    if ((unsigned)state->class > BE_CLASS_INDEX_TAIL ||
        state->layer >= shape->layer_count + shape->stage_count ||
        has_ratio != (state->ratio != 0) || (has_ratio && shape->page_tokens % state->ratio != 0))
        return FM_FAIL(err, FM_INVALID, "state %u has class %d, layer %u, ratio %u", id,
                       (int)state->class, state->layer, state->ratio);
    switch (state->class) {
    case BE_CLASS_WINDOW:
    case BE_CLASS_COMP:
        row = shape->head_dim + shape->rope_dim + (shape->head_dim - shape->rope_dim) / 64;
        row = (row + 7) / 8 * 8;
        break;
    case BE_CLASS_INDEX: row = shape->index_dim / 2 + shape->index_dim / 32; break;
    case BE_CLASS_TAIL: row = lanes * shape->head_dim * 8; break;
    case BE_CLASS_INDEX_TAIL: row = lanes * shape->index_dim * 8; break;
    }
    if (be_class_pool(state->class) == BE_POOL_T)
        rows_min = lanes * state->ratio;
    else
        rows_min = rows_max = shape->page_tokens / (has_ratio ? state->ratio : 1u);
    if (state->row_bytes != row || state->rows < rows_min || state->rows > rows_max)
        return FM_FAIL(err, FM_INVALID, "state %u has %u rows of %u bytes, not %llu of %llu", id,
                       state->rows, state->row_bytes, (unsigned long long)rows_min,
                       (unsigned long long)row);
    for (uint32_t other = 1; other < id; other++) {
        if (model->states[other].class == state->class &&
            model->states[other].layer == state->layer)
            return FM_FAIL(err, FM_INVALID, "states %u and %u are the same class of layer %u",
                           other, id, state->layer);
    }
    return FM_OK;
}

static enum fm_status check_model(const struct be_model *model, struct fm_err *err)
{
    const struct be_shape *shape = &model->shape;
    if (shape->out_groups == 0 || shape->page_tokens == 0 || shape->window == 0 ||
        shape->rope_dim > shape->head_dim || shape->layer_count == 0 ||
        shape->page_tokens % shape->window != 0 || shape->stage_count > UINT16_MAX ||
        shape->layer_count > UINT16_MAX)
        return FM_FAIL(err, FM_INVALID,
                       "shape has %u groups, pages of %u, window %u, heads of %u with %u rotated, "
                       "%u layers and %u stages",
                       shape->out_groups, shape->page_tokens, shape->window, shape->head_dim,
                       shape->rope_dim, shape->layer_count, shape->stage_count);
    for (uint32_t i = 1; i < model->state_count; i++) {
        enum fm_status status = check_model_state(model, i, err);
        if (status != FM_OK)
            return status;
    }
    return FM_OK;
}

/* A value that is neither written nor given would be read by nobody who knows what it holds. */
static enum fm_status check_orphans(struct checker *checker)
{
    const struct be_program *program = checker->program;
    for (uint32_t i = 1; i < program->value_count; i++) {
        if (checker->producer[i] == PRODUCER_NONE && !(program->values[i].flags & BE_VALUE_INPUT))
            return FM_FAIL(checker->err, FM_INVALID, "value %u is written by no operation", i);
    }
    return FM_OK;
}

static enum fm_status check_ops(struct checker *checker)
{
    const struct be_program *program = checker->program;
    enum fm_status status = FM_OK;

    for (uint32_t i = 0; i < program->op_count && status == FM_OK; i++) {
        const struct be_op *op = &program->ops[i];
        checker->op_index = i;
        if ((unsigned)op->kind >= BE_OP_KIND_COUNT)
            return FM_FAIL(checker->err, FM_INVALID, "operation %u has kind %d", i, (int)op->kind);
        if (op->layer >= checker->shape->layer_count + checker->shape->stage_count)
            return bad_op(checker, "the model has %u layers and %u stages",
                          checker->shape->layer_count, checker->shape->stage_count);
        status = check_slots(checker, op);
        if (status == FM_OK)
            status = check_sublayer(checker, op);
        if (status == FM_OK)
            status = check_streams(checker, op);
        if (status == FM_OK)
            status = check_edges(checker, op);
    }
    return status == FM_OK ? check_orphans(checker) : status;
}

enum fm_status be_program_check(const struct be_program *program, struct fm_err *err)
{
    struct checker checker = {.program = program, .shape = &program->model->shape, .err = err};
    enum fm_status status = check_model(program->model, err);
    if (status != FM_OK)
        return status;
    if (program->op_count == 0 || program->value_count > UINT16_MAX)
        return FM_FAIL(err, FM_INVALID, "program has %u operations and %u values",
                       program->op_count, program->value_count);

    checker.words = (program->op_count + 63) / 64;
    checker.producer = fm_alloc_array(program->value_count + 1, sizeof(uint32_t));
    checker.root = fm_alloc_array(program->op_count, sizeof(uint32_t));
    checker.is_taken = fm_alloc_array(program->value_count + 1, sizeof(bool));
    checker.before = fm_alloc_array((size_t)program->op_count * checker.words, sizeof(uint64_t));
    if (checker.producer == NULL || checker.root == NULL || checker.is_taken == NULL ||
        checker.before == NULL) {
        status = FM_FAIL(err, FM_NOMEM, "no memory to check a program of %u operations",
                         program->op_count);
        goto out_free;
    }
    memset(checker.producer, 0xff, program->value_count * sizeof(uint32_t));
    memset(checker.root, 0xff, program->op_count * sizeof(uint32_t));
    status = check_ops(&checker);
out_free:
    fm_free(checker.before);
    fm_free(checker.is_taken);
    fm_free(checker.root);
    fm_free(checker.producer);
    return status;
}
