/* draft.c - MTP and DSpark, stated over the layer of program.c.
 *
 * MTP joins the streams of position p with the embedding of token p + 1 and runs one more layer.
 * DSpark runs its stages over a block of tokens that is attended to in both directions and never
 * stored; what the stages see of the past are context rows, which FORWARD writes for every token
 * from the outputs of a few backbone layers. */
#include "engine/draft.h"

#include "backends/base/assert.h"

void eng_draft_context_build(struct eng_builder *builder, const be_value_id *taps,
                             struct eng_layer_plan *plans)
{
    const struct eng_hparams *hp = builder->hparams;
    be_weight_id main_proj = eng_builder_weight(builder, "mtp.0.main_proj.weight");
    be_weight_id main_norm = eng_builder_weight(builder, "mtp.0.main_norm.weight");

    for (uint32_t i = 0; i < hp->draft_stage_count; i++) {
        struct eng_layer_plan *plan = &plans[i];
        plan->wkv = eng_builder_weight(builder, "%sattn.wkv.weight", plan->prefix);
        plan->kv_norm = eng_builder_weight(builder, "%sattn.kv_norm.weight", plan->prefix);
    }
    struct be_op *op = eng_builder_op(builder, BE_OP_SPARK_CONTEXT, hp->layer_count, 0);
    op->weight[0] = main_proj;
    op->weight[1] = main_norm;
    for (uint32_t i = 0; i < hp->dspark_target_count; i++)
        op->in[i] = taps[i];
    for (uint32_t i = 0; i < hp->draft_stage_count; i++) {
        op->weight[2 + 2 * i] = plans[i].wkv;
        op->weight[3 + 2 * i] = plans[i].kv_norm;
        eng_builder_access(op, i, plans[i].window, BE_ACCESS_WRITE);
    }
}

static void build_mtp(struct eng_builder *builder, const struct eng_layer_plan *plan,
                      struct eng_layer_values *layers, struct eng_program *ret_draft)
{
    const struct eng_hparams *hp = builder->hparams;
    be_value_id join = eng_builder_input(builder, BE_ELEM_BF16, hp->hc_streams, hp->dim);
    be_weight_id enorm = eng_builder_weight(builder, "%senorm.weight", plan->prefix);
    be_weight_id e_proj = eng_builder_weight(builder, "%se_proj.weight", plan->prefix);
    be_weight_id hnorm = eng_builder_weight(builder, "%shnorm.weight", plan->prefix);
    be_weight_id h_proj = eng_builder_weight(builder, "%sh_proj.weight", plan->prefix);
    be_value_id streams =
        eng_builder_value(builder, BE_ELEM_BF16, BE_LEAD_ROWS, hp->hc_streams, hp->dim);

    struct be_op *op = eng_builder_op(builder, BE_OP_MTP_JOIN, plan->layer, 0);
    op->in[0] = join;
    op->out[0] = streams;
    op->weight[0] = builder->embed;
    op->weight[1] = enorm;
    op->weight[2] = e_proj;
    op->weight[3] = hnorm;
    op->weight[4] = h_proj;

    streams = eng_layer_build(builder, plan, streams, &layers[0]);
    be_value_id logits = eng_head_build(builder, plan->prefix, plan->layer, streams, NULL);
    eng_builder_keep(builder, streams);
    eng_builder_keep(builder, logits);
    ret_draft->join = join;
    ret_draft->streams = streams;
    ret_draft->logits = logits;
}

static void build_proposal(struct eng_builder *builder, const struct eng_layer_plan *last,
                           be_value_id streams, struct eng_program *ret_draft)
{
    const struct eng_hparams *hp = builder->hparams;
    be_value_id hidden = 0;
    be_value_id logits = eng_head_build(builder, last->prefix, last->layer, streams, &hidden);
    be_weight_id markov_w1 =
        eng_builder_weight(builder, "%smarkov_head.markov_w1.weight", last->prefix);
    be_weight_id markov_w2 =
        eng_builder_weight(builder, "%smarkov_head.markov_w2.weight", last->prefix);
    be_weight_id confidence =
        eng_builder_weight(builder, "%sconfidence_head.proj.weight", last->prefix);
    uint32_t block = hp->dspark_block_size;

    ret_draft->tokens = eng_builder_value(builder, BE_ELEM_I32, BE_LEAD_SEQS, 1, block);
    ret_draft->confidence = eng_builder_value(builder, BE_ELEM_F32, BE_LEAD_SEQS, 1, block);
    ret_draft->logits =
        eng_builder_value(builder, BE_ELEM_F32, BE_LEAD_LOGIT_ROWS, 1, hp->vocab_size);
    struct be_op *op = eng_builder_op(builder, BE_OP_SPARK_PROPOSE, last->layer, 0);
    op->in[0] = logits;
    op->in[1] = hidden;
    op->out[0] = ret_draft->tokens;
    op->out[1] = ret_draft->confidence;
    op->out[2] = ret_draft->logits;
    op->weight[0] = markov_w1;
    op->weight[1] = markov_w2;
    op->weight[2] = confidence;
    eng_builder_keep(builder, ret_draft->tokens);
    eng_builder_keep(builder, ret_draft->confidence);
    eng_builder_keep(builder, ret_draft->logits);
}

static void build_dspark(struct eng_builder *builder, const struct eng_layer_plan *plans,
                         struct eng_layer_values *layers, struct eng_program *ret_draft)
{
    const struct eng_hparams *hp = builder->hparams;
    be_value_id streams =
        eng_builder_value(builder, BE_ELEM_BF16, BE_LEAD_ROWS, hp->hc_streams, hp->dim);

    struct be_op *op = eng_builder_op(builder, BE_OP_EMBED, plans[0].layer, 0);
    op->out[0] = streams;
    op->weight[0] = builder->embed;
    for (uint32_t i = 0; i < hp->draft_stage_count; i++)
        streams = eng_layer_build(builder, &plans[i], streams, &layers[i]);
    build_proposal(builder, &plans[hp->draft_stage_count - 1], streams, ret_draft);
    ret_draft->streams = streams;
}

void eng_draft_build(struct eng_builder *builder, const struct eng_layer_plan *plans,
                     struct eng_layer_values *layers, struct eng_program *ret_draft)
{
    FM_ASSERT(builder->hparams->draft_kind != ENG_DRAFT_NONE);
    ret_draft->layers = layers;
    if (builder->hparams->draft_kind == ENG_DRAFT_MTP)
        build_mtp(builder, &plans[0], layers, ret_draft);
    else
        build_dspark(builder, plans, layers, ret_draft);
}
