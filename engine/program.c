/* program.c - the model, stated once: shape, state, the layers in a row, and what callers get.
 *
 * A layer is stated in layer.c, draft stages in draft.c; edges are not stated at all: they follow
 * from values and states (builder.c). */
#include "engine/program.h"

#include <math.h>
#include <stdio.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "engine/builder.h"
#include "engine/draft.h"
#include "engine/layer.h"

enum { PREFIX_BYTES = 32, BLOCKS_MAX = ENG_LAYERS_MAX + ENG_DRAFT_STAGES_MAX };

/* What an eng_programs owns beside itself. */
struct memory {
    struct eng_programs programs;
    float inv_plain[ENG_ROPE_PAIRS_MAX], inv_yarn[ENG_ROPE_PAIRS_MAX];
    struct eng_layer_values layers[ENG_LAYERS_MAX], stages[ENG_DRAFT_STAGES_MAX];
    struct be_weight *weights;
    struct eng_weight_source *sources;
    struct be_state *states;
    struct be_program tables[2]; /* of FORWARD and DRAFT: their arrays are owned here */
};

/* While building. */
struct plans {
    struct eng_layer_plan blocks[BLOCKS_MAX];
    char prefixes[BLOCKS_MAX][PREFIX_BYTES];
};

/* ---- shape and state ----------------------------------------------------------------------- */

static void fill_shape(const struct eng_hparams *hp, const struct memory *memory,
                       struct be_shape *ret_shape)
{
    *ret_shape = (struct be_shape){
        .dim = hp->dim,
        .streams = hp->hc_streams,
        .head_count = hp->head_count,
        .head_dim = hp->head_dim,
        .rope_dim = hp->rope_dim,
        .q_rank = hp->q_rank,
        .out_groups = hp->out_groups,
        .out_rank = hp->out_rank,
        .window = hp->window,
        .page_tokens = hp->page_tokens,
        .index_heads = hp->index_heads,
        .index_dim = hp->index_dim,
        .index_topk = hp->index_topk,
        .expert_count = hp->expert_count,
        .experts_per_token = hp->experts_per_token,
        .expert_dim = hp->expert_dim,
        .vocab = hp->vocab_size,
        .hc_iterations = hp->hc_sinkhorn_iters,
        .layer_count = hp->layer_count,
        .stage_count = hp->draft_kind == ENG_DRAFT_NONE ? 0 : hp->draft_stage_count,
        .spark_block = hp->draft_kind == ENG_DRAFT_DSPARK ? hp->dspark_block_size : 0,
        .spark_rank = hp->draft_kind == ENG_DRAFT_DSPARK ? hp->dspark_markov_rank : 0,
        .norm_eps = hp->norm_eps,
        .hc_eps = hp->hc_eps,
        .swiglu_limit = hp->swiglu_limit,
        .route_scale = hp->route_scale,
        .softmax_scale = (float)(1 / sqrt((double)hp->head_dim)),
        .index_scale = (float)(1 / sqrt((double)hp->index_dim * hp->index_heads)),
        .inv_freq_plain = memory->inv_plain,
        .inv_freq_yarn = memory->inv_yarn,
    };
}

/* Window rows and compressed entries: e4m3, bf16 where rotated, one exponent per 64. */
static uint32_t entry_bytes(const struct eng_hparams *hp)
{
    uint32_t plain = hp->head_dim - hp->rope_dim;
    return (uint32_t)fm_align_up(plain + 2 * hp->rope_dim + plain / 64, 8);
}

static void add_layer_states(struct eng_builder *builder, struct eng_layer_plan *plan,
                             uint32_t rollback_rows)
{
    const struct eng_hparams *hp = builder->hparams;
    uint32_t page = hp->page_tokens;
    uint32_t ratio = plan->ratio;
    uint32_t lanes = ratio == 4 ? 2 : 1;
    uint32_t ring = lanes * ratio + rollback_rows;

    plan->window =
        eng_builder_state(builder, BE_CLASS_WINDOW, plan->layer, 0, page, entry_bytes(hp));
    if (ratio == 0)
        return;
    plan->comp = eng_builder_state(builder, BE_CLASS_COMP, plan->layer, ratio, page / ratio,
                                   entry_bytes(hp));
    if (ratio == 4)
        plan->index = eng_builder_state(builder, BE_CLASS_INDEX, plan->layer, ratio, page / ratio,
                                        hp->index_dim / 2 + hp->index_dim / 32);
    plan->tail = eng_builder_state(builder, BE_CLASS_TAIL, plan->layer, ratio, ring,
                                   lanes * hp->head_dim * 2 * (uint32_t)sizeof(float));
    if (ratio == 4)
        plan->index_tail = eng_builder_state(builder, BE_CLASS_INDEX_TAIL, plan->layer, ratio, ring,
                                             lanes * hp->index_dim * 2 * (uint32_t)sizeof(float));
}

static void plan_blocks(struct eng_builder *builder, uint32_t rollback_rows, struct plans *plans)
{
    const struct eng_hparams *hp = builder->hparams;
    uint32_t count = hp->layer_count + builder->model->shape.stage_count;

    for (uint32_t i = 0; i < count; i++) {
        struct eng_layer_plan *plan = &plans->blocks[i];
        bool is_stage = i >= hp->layer_count;
        (void)snprintf(plans->prefixes[i], PREFIX_BYTES, is_stage ? "mtp.%u." : "layers.%u.",
                       is_stage ? i - hp->layer_count : i);
        *plan = (struct eng_layer_plan){
            .layer = i,
            .ratio = hp->compress_ratio[i],
            .prefix = plans->prefixes[i],
            .is_hashed = i < hp->hash_layer_count,
            .is_block = is_stage && hp->draft_kind == ENG_DRAFT_DSPARK,
        };
        add_layer_states(builder, plan, rollback_rows);
    }
}

/* ---- FORWARD ------------------------------------------------------------------------------- */

static be_value_id tap(struct eng_builder *builder, uint32_t layer, be_value_id streams)
{
    be_value_id tapped =
        eng_builder_value(builder, BE_ELEM_BF16, BE_LEAD_ROWS, 1, builder->hparams->dim);
    struct be_op *op =
        eng_builder_op(builder, BE_OP_TAP, layer, builder->hparams->compress_ratio[layer]);
    op->in[0] = streams;
    op->out[0] = tapped;
    return tapped;
}

static void build_forward(struct eng_builder *builder, struct plans *plans, uint32_t inject_layer,
                          struct eng_layer_values *layers, struct eng_program *ret_forward)
{
    const struct eng_hparams *hp = builder->hparams;
    bool is_dspark = hp->draft_kind == ENG_DRAFT_DSPARK;
    be_value_id taps[ENG_DRAFT_TARGETS_MAX] = {0};
    uint32_t tap_count = 0;

    be_value_id streams =
        eng_builder_value(builder, BE_ELEM_BF16, BE_LEAD_ROWS, hp->hc_streams, hp->dim);
    struct be_op *op = eng_builder_op(builder, BE_OP_EMBED, 0, plans->blocks[0].ratio);
    op->out[0] = streams;
    op->weight[0] = builder->embed;
    for (uint32_t i = 0; i < hp->layer_count; i++) {
        if (i == inject_layer)
            streams = ret_forward->injected =
                eng_builder_input(builder, BE_ELEM_BF16, hp->hc_streams, hp->dim);
        streams = eng_layer_build(builder, &plans->blocks[i], streams, &layers[i]);
        if (is_dspark && tap_count < hp->dspark_target_count &&
            hp->dspark_target_layer[tap_count] == i)
            taps[tap_count++] = tap(builder, i, streams);
    }
    ret_forward->logits = eng_head_build(builder, "", hp->layer_count - 1, streams, NULL);
    eng_builder_keep(builder, ret_forward->logits);
    ret_forward->streams = streams;
    ret_forward->layers = layers;
    if (hp->draft_kind == ENG_DRAFT_MTP)
        eng_builder_keep(builder, streams);
    if (is_dspark) {
        FM_ASSERT(builder->status != FM_OK || tap_count == hp->dspark_target_count);
        eng_draft_context_build(builder, taps, &plans->blocks[hp->layer_count]);
    }
}

/* ---- the whole ----------------------------------------------------------------------------- */

static enum fm_status check_options(const struct eng_hparams *hp,
                                    const struct eng_program_options *options, struct fm_err *err)
{
    if (options->inject_layer != ENG_LAYER_NONE && options->inject_layer >= hp->layer_count)
        return FM_FAIL(err, FM_INVALID, "streams cannot go into layer %u of %u",
                       options->inject_layer, hp->layer_count);
    if (options->rollback_rows > hp->page_tokens)
        return FM_FAIL(err, FM_INVALID, "%u rows cannot be rolled back, at most %u",
                       options->rollback_rows, hp->page_tokens);
    if (hp->draft_kind != ENG_DRAFT_DSPARK)
        return FM_OK;
    uint32_t stages_max = BE_OP_STATES_MAX;
    if (hp->draft_stage_count > stages_max || hp->dspark_target_count > BE_OP_IN_MAX)
        return FM_FAIL(err, FM_UNSUPPORTED,
                       "%u draft stages over %u layers, operations have slots for %u and %d",
                       hp->draft_stage_count, hp->dspark_target_count, stages_max, BE_OP_IN_MAX);
    return FM_OK;
}

static void move_tables(struct eng_builder *builder, struct memory *memory)
{
    struct be_model *model = &memory->programs.model;
    memory->weights = builder->weights;
    memory->sources = builder->sources;
    memory->states = builder->states;
    builder->weights = NULL;
    builder->sources = NULL;
    builder->states = NULL;
    model->weights = memory->weights;
    model->weight_count = builder->weight_count;
    model->states = memory->states;
    model->state_count = builder->state_count;
    memory->programs.sources = memory->sources;
}

static enum fm_status build(struct eng_builder *builder, const struct eng_program_options *options,
                            struct plans *plans, struct memory *memory)
{
    const struct eng_hparams *hp = builder->hparams;
    struct eng_programs *programs = &memory->programs;

    builder->value_flags = options->keep_all ? BE_VALUE_OUTPUT : 0;
    builder->embed = eng_builder_weight(builder, "embed.weight");
    builder->head = eng_builder_weight(builder, "head.weight");
    plan_blocks(builder, options->rollback_rows, plans);
    build_forward(builder, plans, options->inject_layer, memory->layers, &programs->forward);
    eng_builder_finish(builder, BE_PROGRAM_FORWARD, &memory->tables[0]);
    if (hp->draft_kind != ENG_DRAFT_NONE) {
        eng_draft_build(builder, &plans->blocks[hp->layer_count], memory->stages, &programs->draft);
        eng_builder_finish(builder, BE_PROGRAM_DRAFT, &memory->tables[1]);
    }
    programs->forward.program = memory->tables[0];
    programs->draft.program = memory->tables[1];
    if (builder->status != FM_OK)
        return builder->status;

    move_tables(builder, memory);
    enum fm_status status = be_program_check(&programs->forward.program, builder->err);
    if (status == FM_OK && programs->draft.program.op_count != 0)
        status = be_program_check(&programs->draft.program, builder->err);
    programs->layout = (struct kv_layout){
        .page_tokens = hp->page_tokens,
        .window = hp->window,
        .g_page_bytes = be_pool_unit_bytes(&programs->model, BE_POOL_G),
        .s_page_bytes = be_pool_unit_bytes(&programs->model, BE_POOL_S),
        .t_slot_bytes = be_pool_unit_bytes(&programs->model, BE_POOL_T),
    };
    return status;
}

enum fm_status eng_programs_build(const struct eng_hparams *hparams,
                                  const struct eng_weights *weights,
                                  const struct eng_program_options *options,
                                  struct eng_programs **ret_programs, struct fm_err *err)
{
    enum fm_status status = check_options(hparams, options, err);
    if (status != FM_OK)
        return status;
    struct memory *memory = fm_alloc(sizeof(*memory));
    struct plans *plans = fm_alloc(sizeof(*plans));
    if (memory == NULL || plans == NULL) {
        status =
            FM_FAIL(err, FM_NOMEM, "no memory for the program of %u layers", hparams->layer_count);
        fm_free(memory);
        fm_free(plans);
        return status;
    }
    memory->programs.memory = memory;
    memory->programs.weights = weights;
    for (uint32_t i = 0; i < hparams->rope_dim / 2; i++) {
        memory->inv_plain[i] = hparams->inv_plain[i];
        memory->inv_yarn[i] = hparams->inv_yarn[i];
    }
    fill_shape(hparams, memory, &memory->programs.model.shape);

    struct eng_builder builder;
    eng_builder_init(&builder, hparams, weights, &memory->programs.model, err);
    status = build(&builder, options, plans, memory);
    eng_builder_done(&builder);
    fm_free(plans);
    if (status != FM_OK) {
        eng_programs_free(&memory->programs);
        return status;
    }
    *ret_programs = &memory->programs;
    return FM_OK;
}

void eng_programs_free(struct eng_programs *programs)
{
    if (programs == NULL)
        return;
    struct memory *memory = programs->memory;
    for (uint32_t i = 0; i < FM_COUNT(memory->tables); i++) {
        fm_free((void *)(uintptr_t)memory->tables[i].values);
        fm_free((void *)(uintptr_t)memory->tables[i].ops);
        fm_free((void *)(uintptr_t)memory->tables[i].edges);
    }
    fm_free(memory->weights);
    fm_free(memory->sources);
    fm_free(memory->states);
    fm_free(memory);
}

enum fm_status eng_programs_read(void *context, be_weight_id weight, enum be_part part,
                                 uint32_t row_first, uint32_t row_count, void *target,
                                 struct fm_err *err)
{
    const struct eng_programs *programs = context;
    if (weight == 0 || weight >= programs->model.weight_count)
        return FM_FAIL(err, FM_INVALID, "weight %u of %u", weight, programs->model.weight_count);
    const struct be_weight *entry = &programs->model.weights[weight];
    const struct eng_tensor *tensor =
        part == BE_PART_DATA ? programs->sources[weight].data : programs->sources[weight].scale;
    uint32_t rows = be_weight_part_rows(entry, part);
    if (tensor == NULL || (uint64_t)row_first + row_count > rows)
        return FM_FAIL(err, FM_INVALID, "rows [%u, %u + %u) of %u of %s of '%s'", row_first,
                       row_first, row_count, rows, part == BE_PART_DATA ? "the data" : "the scale",
                       entry->name);
    if (row_count == 0)
        return FM_OK;
    if (tensor->rank <= 1) /* here one row of many columns, there many rows of one */
        return eng_weights_read(programs->weights, tensor, 0,
                                tensor->rank == 0 ? 1 : tensor->dims[0], target, err);
    return eng_weights_read(programs->weights, tensor, row_first, row_count, target, err);
}

be_state_id eng_programs_state(const struct eng_programs *programs, enum be_class class,
                               uint32_t layer)
{
    for (uint32_t i = 1; i < programs->model.state_count; i++) {
        const struct be_state *state = &programs->model.states[i];
        if (state->class == class && state->layer == layer)
            return (be_state_id)i;
    }
    return 0;
}
