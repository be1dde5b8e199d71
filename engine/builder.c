/* builder.c - tables that grow, and the edges between operations. */
#include "engine/builder.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"

enum { TABLE_ROOM_FIRST = 64, NAME_BYTES = 160 };

void eng_builder_init(struct eng_builder *builder, const struct eng_hparams *hparams,
                      const struct eng_weights *tensors, const struct be_model *model,
                      struct fm_err *err)
{
    *builder = (struct eng_builder){
        .hparams = hparams,
        .tensors = tensors,
        .model = model,
        .err = err,
    };
}

void eng_builder_done(struct eng_builder *builder)
{
    fm_free(builder->weights);
    fm_free(builder->sources);
    fm_free(builder->states);
    fm_free(builder->values);
    fm_free(builder->ops);
    fm_free(builder->edges);
}

/* The table with room for one more entry behind `count`; entry 0 is made, all zero, with the
 * first.  NULL after a failure; the old table stays with its owner then. */
static void *table_grow(struct eng_builder *builder, void *table, uint32_t count, uint32_t *room,
                        size_t entry_bytes)
{
    if (builder->status != FM_OK)
        return NULL;
    if (count < *room)
        return table;
    uint32_t more = *room == 0 ? TABLE_ROOM_FIRST : *room * 2;
    void *grown = fm_realloc_array(table, more, entry_bytes);
    if (grown == NULL) {
        builder->status = FM_FAIL(builder->err, FM_NOMEM, "no memory for the program's tables");
        return NULL;
    }
    memset((char *)grown + (size_t)*room * entry_bytes, 0, (size_t)(more - *room) * entry_bytes);
    *room = more;
    return grown;
}

/* ---- weights ------------------------------------------------------------------------------- */

static bool weight_format(enum eng_dtype dtype, enum be_format *ret_format)
{
    switch (dtype) {
    case ENG_DTYPE_I8: *ret_format = BE_FORMAT_FP4; return true;
    case ENG_DTYPE_F8_E4M3: *ret_format = BE_FORMAT_FP8; return true;
    case ENG_DTYPE_BF16: *ret_format = BE_FORMAT_BF16; return true;
    case ENG_DTYPE_F32: *ret_format = BE_FORMAT_F32; return true;
    case ENG_DTYPE_I64: *ret_format = BE_FORMAT_I64; return true;
    case ENG_DTYPE_F8_E8M0:
    case ENG_DTYPE_OTHER: break;
    }
    return false;
}

static const struct eng_tensor *find_tensor(struct eng_builder *builder, const char *name)
{
    const struct eng_tensor *tensor = NULL;
    if (eng_weights_find(builder->tensors, name, &tensor) == FM_OK)
        return tensor;
    builder->status = FM_FAIL(builder->err, FM_CORRUPT, "tensor '%s' is missing", name);
    return NULL;
}

/* "x.weight" -> the tensor "x.scale". */
static const struct eng_tensor *find_scale(struct eng_builder *builder, const char *name)
{
    static const char suffix[] = ".weight";
    char scale[NAME_BYTES];
    size_t stem = strlen(name);
    if (stem > sizeof(suffix) - 1)
        stem -= sizeof(suffix) - 1;
    (void)snprintf(scale, sizeof(scale), "%.*s.scale", (int)stem, name);
    return find_tensor(builder, scale);
}

static void describe(struct eng_builder *builder, const struct eng_tensor *tensor,
                     struct be_weight *ret_weight, struct eng_weight_source *ret_source)
{
    uint64_t rows = tensor->rank >= 2 ? tensor->dims[0] : 1;
    uint64_t cols = tensor->rank == 0 ? 1 : tensor->dims[tensor->rank - 1];
    enum be_format format = BE_FORMAT_BF16;

    if (tensor->rank > 2 || !weight_format(tensor->dtype, &format)) {
        builder->status = FM_FAIL(builder->err, FM_CORRUPT, "tensor '%s' has rank %u and type %s",
                                  tensor->name, tensor->rank, eng_dtype_name(tensor->dtype));
        return;
    }
    if (format == BE_FORMAT_FP4)
        cols *= 2;
    if (rows > UINT32_MAX || cols > UINT32_MAX) {
        builder->status = FM_FAIL(builder->err, FM_CORRUPT, "tensor '%s' is [%llu, %llu]",
                                  tensor->name, (unsigned long long)rows, (unsigned long long)cols);
        return;
    }
    *ret_weight = (struct be_weight){
        .name = tensor->name, .format = format, .rows = (uint32_t)rows, .cols = (uint32_t)cols};
    *ret_source = (struct eng_weight_source){.data = tensor};
    if (format != BE_FORMAT_FP8 && format != BE_FORMAT_FP4)
        return;
    ret_source->scale = find_scale(builder, tensor->name);
    if (ret_source->scale != NULL)
        ret_weight->scale_format =
            ret_source->scale->dtype == ENG_DTYPE_F32 ? BE_SCALE_F32 : BE_SCALE_UE8M0;
}

be_weight_id eng_builder_weight(struct eng_builder *builder, const char *format, ...)
{
    char name[NAME_BYTES];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(name, sizeof(name), format, args);
    va_end(args);
    FM_ASSERT(length > 0 && (size_t)length < sizeof(name));

    uint32_t id = builder->weight_count == 0 ? 1 : builder->weight_count;
    void *weights =
        table_grow(builder, builder->weights, id, &builder->weight_room, sizeof(struct be_weight));
    if (weights == NULL)
        return 0;
    builder->weights = weights;
    void *sources = table_grow(builder, builder->sources, id, &builder->source_room,
                               sizeof(struct eng_weight_source));
    if (sources == NULL)
        return 0;
    builder->sources = sources;

    const struct eng_tensor *tensor = find_tensor(builder, name);
    if (tensor != NULL)
        describe(builder, tensor, &builder->weights[id], &builder->sources[id]);
    if (builder->status != FM_OK)
        return 0;
    builder->weight_count = id + 1;
    return id;
}

bool eng_builder_is_quantised(const struct eng_builder *builder, be_weight_id weight)
{
    if (builder->status != FM_OK)
        return false;
    FM_ASSERT(weight != 0 && weight < builder->weight_count);
    return builder->weights[weight].format == BE_FORMAT_FP8 ||
           builder->weights[weight].format == BE_FORMAT_FP4;
}

/* ---- states, values, operations ------------------------------------------------------------ */

be_state_id eng_builder_state(struct eng_builder *builder, enum be_class class, uint32_t layer,
                              uint32_t ratio, uint32_t rows, uint32_t row_bytes)
{
    uint32_t id = builder->state_count == 0 ? 1 : builder->state_count;
    void *states =
        table_grow(builder, builder->states, id, &builder->state_room, sizeof(struct be_state));
    if (states == NULL)
        return 0;
    builder->states = states;
    builder->states[id] = (struct be_state){
        .class = class,
        .layer = (uint16_t)layer,
        .ratio = (uint16_t)ratio,
        .rows = rows,
        .row_bytes = row_bytes,
    };
    builder->state_count = id + 1;
    return (be_state_id)id;
}

static be_value_id add_value(struct eng_builder *builder, const struct be_value *value)
{
    uint32_t id = builder->value_count == 0 ? 1 : builder->value_count;
    if (id >= UINT16_MAX && builder->status == FM_OK)
        builder->status =
            FM_FAIL(builder->err, FM_UNSUPPORTED, "the program needs more than %u values", id);
    void *values =
        table_grow(builder, builder->values, id, &builder->value_room, sizeof(struct be_value));
    if (values == NULL)
        return 0;
    builder->values = values;
    builder->values[id] = *value;
    builder->value_count = id + 1;
    return (be_value_id)id;
}

be_value_id eng_builder_value(struct eng_builder *builder, enum be_elem elem, enum be_lead lead,
                              uint32_t outer, uint32_t inner)
{
    return add_value(builder, &(struct be_value){.elem = elem,
                                                 .lead = lead,
                                                 .outer = outer,
                                                 .inner = inner,
                                                 .flags = builder->value_flags});
}

be_value_id eng_builder_input(struct eng_builder *builder, enum be_elem elem, uint32_t outer,
                              uint32_t inner)
{
    return add_value(builder, &(struct be_value){.elem = elem,
                                                 .lead = BE_LEAD_ROWS,
                                                 .outer = outer,
                                                 .inner = inner,
                                                 .flags = BE_VALUE_INPUT});
}

void eng_builder_keep(struct eng_builder *builder, be_value_id value)
{
    if (builder->status != FM_OK)
        return;
    FM_ASSERT(value != 0 && value < builder->value_count);
    builder->values[value].flags |= BE_VALUE_OUTPUT;
}

struct be_op *eng_builder_op(struct eng_builder *builder, enum be_op_kind kind, uint32_t layer,
                             uint32_t ratio)
{
    static _Thread_local struct be_op nowhere; /* what is written after a failure goes here */
    void *ops = table_grow(builder, builder->ops, builder->op_count, &builder->op_room,
                           sizeof(struct be_op));
    if (ops == NULL)
        return &nowhere;
    builder->ops = ops;
    struct be_op *op = &builder->ops[builder->op_count++];
    *op = (struct be_op){.kind = kind, .layer = (uint16_t)layer, .ratio = (uint16_t)ratio};
    return op;
}

void eng_builder_form(struct eng_builder *builder, struct be_op *op, uint32_t slot,
                      be_weight_id weight, be_value_id plain, be_value_id act)
{
    if (eng_builder_is_quantised(builder, weight))
        op->in[slot + 1] = act;
    else
        op->in[slot] = plain;
}

void eng_builder_access(struct be_op *op, uint32_t slot, be_state_id state, unsigned access)
{
    op->state[slot] = state;
    op->access[slot] = (uint8_t)(state == 0 ? BE_ACCESS_NONE : access);
}

/* ---- edges --------------------------------------------------------------------------------- */

/* Row i of a square matrix of bits: the operations that come before operation i. */
struct order {
    uint64_t *bits;
    uint32_t words;
};

static uint64_t *order_row(const struct order *order, uint32_t op_index)
{
    return order->bits + (size_t)op_index * order->words;
}

static bool order_has(const struct order *order, uint32_t first, uint32_t second)
{
    return (order_row(order, second)[first / 64] >> (first % 64)) & 1;
}

static bool shares_state(const struct be_op *first, const struct be_op *second)
{
    for (uint32_t i = 0; i < BE_OP_STATES_MAX; i++) {
        for (uint32_t j = 0; first->state[i] != 0 && j < BE_OP_STATES_MAX; j++) {
            if (first->state[i] == second->state[j] &&
                ((first->access[i] | second->access[j]) & BE_ACCESS_WRITE))
                return true;
        }
    }
    return false;
}

static bool feeds(const struct be_op *first, const struct be_op *second)
{
    for (uint32_t i = 0; i < BE_OP_OUT_MAX; i++) {
        for (uint32_t j = 0; first->out[i] != 0 && j < BE_OP_IN_MAX; j++) {
            if (first->out[i] == second->in[j])
                return true;
        }
    }
    return false;
}

static void add_edge(struct eng_builder *builder, struct order *order, uint32_t from, uint32_t to)
{
    void *edges = table_grow(builder, builder->edges, builder->edge_count, &builder->edge_room,
                             sizeof(uint32_t));
    if (edges == NULL)
        return;
    builder->edges = edges;
    builder->edges[builder->edge_count++] = from;
    builder->ops[to].edge_count++;
    for (uint32_t w = 0; w < order->words; w++)
        order_row(order, to)[w] |= order_row(order, from)[w];
    order_row(order, to)[from / 64] |= UINT64_C(1) << (from % 64);
}

/* Nearest first: whatever lies before an operation that has an edge already needs none. */
static void add_edges(struct eng_builder *builder)
{
    struct order order = {.words = (builder->op_count + 63) / 64};
    order.bits = fm_alloc_array((size_t)builder->op_count * order.words, sizeof(uint64_t));
    if (order.bits == NULL) {
        builder->status = FM_FAIL(builder->err, FM_NOMEM,
                                  "no memory for the edges of %u operations", builder->op_count);
        return;
    }
    for (uint32_t to = 0; to < builder->op_count && builder->status == FM_OK; to++) {
        builder->ops[to].edge_first = builder->edge_count;
        for (uint32_t from = to; from-- > 0;) {
            const struct be_op *first = &builder->ops[from];
            if (!order_has(&order, from, to) &&
                (feeds(first, &builder->ops[to]) || shares_state(first, &builder->ops[to])))
                add_edge(builder, &order, from, to);
        }
    }
    fm_free(order.bits);
}

void eng_builder_finish(struct eng_builder *builder, enum be_program_kind kind,
                        struct be_program *ret_program)
{
    if (builder->status == FM_OK)
        add_edges(builder);
    if (builder->status != FM_OK)
        return;
    *ret_program = (struct be_program){
        .model = builder->model,
        .kind = kind,
        .values = builder->values,
        .value_count = builder->value_count,
        .ops = builder->ops,
        .op_count = builder->op_count,
        .edges = builder->edges,
        .edge_count = builder->edge_count,
    };
    builder->values = NULL;
    builder->ops = NULL;
    builder->edges = NULL;
    builder->value_count = builder->value_room = 0;
    builder->op_count = builder->op_room = 0;
    builder->edge_count = builder->edge_room = 0;
}
