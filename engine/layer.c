/* layer.c - a layer of the model and the head, stated as operations.
 *
 * Reads in the order of a layer: attention sublayer, expert sublayer.  Formats come from the
 * tensors: an operation takes the quantised form of its input where its weight is FP8 or FP4, and
 * a quantised form that nobody takes is not made. */
#include "engine/layer.h"

#include <stdio.h>

#include "backends/base/assert.h"

enum { NAME_BYTES = 32 };

/* What HC_COLLAPSE gives: the sublayer's input in both forms, and what HC_EXPAND needs. */
struct sublayer {
    be_value_id x, xq, post, comb;
};

static be_value_id rows_bf16(struct eng_builder *builder, uint32_t outer, uint32_t inner)
{
    return eng_builder_value(builder, BE_ELEM_BF16, BE_LEAD_ROWS, outer, inner);
}

static be_value_id rows_act(struct eng_builder *builder, bool is_taken, uint32_t inner)
{
    return is_taken ? eng_builder_value(builder, BE_ELEM_ACT, BE_LEAD_ROWS, 1, inner)
                    : (be_value_id)0;
}

static struct sublayer collapse(struct eng_builder *builder, const struct eng_layer_plan *plan,
                                const char *name, bool is_quantised, be_value_id streams)
{
    const struct eng_hparams *hp = builder->hparams;
    be_weight_id fn = eng_builder_weight(builder, "%shc_%s_fn", plan->prefix, name);
    be_weight_id base = eng_builder_weight(builder, "%shc_%s_base", plan->prefix, name);
    be_weight_id scale = eng_builder_weight(builder, "%shc_%s_scale", plan->prefix, name);
    be_weight_id norm = eng_builder_weight(builder, "%s%s_norm.weight", plan->prefix, name);
    struct sublayer sub = {
        .x = rows_bf16(builder, 1, hp->dim),
        .xq = rows_act(builder, is_quantised, hp->dim),
        .post = eng_builder_value(builder, BE_ELEM_F32, BE_LEAD_ROWS, 1, hp->hc_streams),
        .comb =
            eng_builder_value(builder, BE_ELEM_F32, BE_LEAD_ROWS, hp->hc_streams, hp->hc_streams),
    };
    struct be_op *op = eng_builder_op(builder, BE_OP_HC_COLLAPSE, plan->layer, plan->ratio);
    op->in[0] = streams;
    op->out[0] = sub.x;
    op->out[1] = sub.xq;
    op->out[2] = sub.post;
    op->out[3] = sub.comb;
    op->weight[0] = fn;
    op->weight[1] = base;
    op->weight[2] = scale;
    op->weight[3] = norm;
    return sub;
}

static be_value_id expand(struct eng_builder *builder, const struct eng_layer_plan *plan,
                          const struct sublayer *sub, be_value_id streams, be_value_id output)
{
    const struct eng_hparams *hp = builder->hparams;
    be_value_id expanded = rows_bf16(builder, hp->hc_streams, hp->dim);
    struct be_op *op = eng_builder_op(builder, BE_OP_HC_EXPAND, plan->layer, plan->ratio);
    op->in[0] = streams;
    op->in[1] = output;
    op->in[2] = sub->post;
    op->in[3] = sub->comb;
    op->out[0] = expanded;
    return expanded;
}

/* COMPRESS (kind, prefix "attn.compressor.") or COMPRESS_INDEX ("attn.indexer.compressor."). */
static void compress(struct eng_builder *builder, const struct eng_layer_plan *plan,
                     enum be_op_kind kind, be_value_id x)
{
    bool is_index = kind == BE_OP_COMPRESS_INDEX;
    const char *part = is_index ? "attn.indexer.compressor." : "attn.compressor.";
    be_weight_id wkv = eng_builder_weight(builder, "%s%swkv.weight", plan->prefix, part);
    be_weight_id wgate = eng_builder_weight(builder, "%s%swgate.weight", plan->prefix, part);
    be_weight_id ape = eng_builder_weight(builder, "%s%sape", plan->prefix, part);
    be_weight_id norm = eng_builder_weight(builder, "%s%snorm.weight", plan->prefix, part);
    struct be_op *op = eng_builder_op(builder, kind, plan->layer, plan->ratio);
    op->in[0] = x;
    op->weight[0] = wkv;
    op->weight[1] = wgate;
    op->weight[2] = ape;
    op->weight[3] = norm;
    eng_builder_access(op, 0, is_index ? plan->index : plan->comp, BE_ACCESS_WRITE);
    eng_builder_access(op, 1, is_index ? plan->index_tail : plan->tail,
                       BE_ACCESS_READ | BE_ACCESS_WRITE);
}

/* The query's low-rank form, in both forms where they are taken. */
struct query {
    be_weight_id wq_a, q_norm, wq_b, index_wq_b, index_proj;
    be_value_id qr, qrq;
};

static void index_select(struct eng_builder *builder, const struct eng_layer_plan *plan,
                         const struct query *query, be_value_id x, struct eng_layer_values *values)
{
    const struct eng_hparams *hp = builder->hparams;
    be_value_id qi = rows_bf16(builder, hp->index_heads, hp->index_dim);
    be_value_id iw = eng_builder_value(builder, BE_ELEM_F32, BE_LEAD_ROWS, 1, hp->index_heads);
    struct be_op *op = eng_builder_op(builder, BE_OP_INDEX_QUERY, plan->layer, plan->ratio);
    op->in[0] = x;
    eng_builder_form(builder, op, 1, query->index_wq_b, query->qr, query->qrq);
    op->out[0] = qi;
    op->out[1] = iw;
    op->weight[0] = query->index_wq_b;
    op->weight[1] = query->index_proj;

    values->select = eng_builder_value(builder, BE_ELEM_I32, BE_LEAD_ROWS, 1, hp->index_topk);
    values->select_count = eng_builder_value(builder, BE_ELEM_I32, BE_LEAD_ROWS, 1, 1);
    op = eng_builder_op(builder, BE_OP_INDEX_SELECT, plan->layer, plan->ratio);
    op->in[0] = qi;
    op->in[1] = iw;
    op->out[0] = values->select;
    op->out[1] = values->select_count;
    eng_builder_access(op, 0, plan->index, BE_ACCESS_READ);
}

static be_value_id attend(struct eng_builder *builder, const struct eng_layer_plan *plan,
                          const struct eng_layer_values *values)
{
    const struct eng_hparams *hp = builder->hparams;
    be_weight_id sink = eng_builder_weight(builder, "%sattn.attn_sink", plan->prefix);
    be_value_id attended = rows_bf16(builder, hp->head_count, hp->head_dim);
    enum be_op_kind kind = plan->is_block ? BE_OP_SPARK_ATTEND : BE_OP_ATTEND;
    struct be_op *op = eng_builder_op(builder, kind, plan->layer, plan->ratio);
    op->in[0] = values->q;
    op->in[1] = values->kv;
    op->in[2] = values->select;
    op->in[3] = values->select_count;
    op->out[0] = attended;
    op->weight[0] = sink;
    eng_builder_access(op, 0, plan->window, BE_ACCESS_READ);
    eng_builder_access(op, 1, plan->comp, BE_ACCESS_READ);
    return attended;
}

static be_value_id project_out(struct eng_builder *builder, const struct eng_layer_plan *plan,
                               be_value_id attended)
{
    const struct eng_hparams *hp = builder->hparams;
    uint32_t width = hp->out_groups * hp->out_rank;
    be_weight_id wo_a = eng_builder_weight(builder, "%sattn.wo_a.weight", plan->prefix);
    be_weight_id wo_b = eng_builder_weight(builder, "%sattn.wo_b.weight", plan->prefix);
    be_value_id u = rows_bf16(builder, 1, width);
    be_value_id uq = rows_act(builder, eng_builder_is_quantised(builder, wo_b), width);
    struct be_op *op = eng_builder_op(builder, BE_OP_OUT_GROUPED, plan->layer, plan->ratio);
    op->in[0] = attended;
    op->out[0] = u;
    op->out[1] = uq;
    op->weight[0] = wo_a;

    be_value_id projected = rows_bf16(builder, 1, hp->dim);
    op = eng_builder_op(builder, BE_OP_OUT_PROJECT, plan->layer, plan->ratio);
    eng_builder_form(builder, op, 0, wo_b, u, uq);
    op->out[0] = projected;
    op->weight[0] = wo_b;
    return projected;
}

static void query_weights(struct eng_builder *builder, const struct eng_layer_plan *plan,
                          struct query *query)
{
    query->wq_a = eng_builder_weight(builder, "%sattn.wq_a.weight", plan->prefix);
    query->q_norm = eng_builder_weight(builder, "%sattn.q_norm.weight", plan->prefix);
    query->wq_b = eng_builder_weight(builder, "%sattn.wq_b.weight", plan->prefix);
    if (plan->ratio != 4)
        return;
    query->index_wq_b = eng_builder_weight(builder, "%sattn.indexer.wq_b.weight", plan->prefix);
    query->index_proj =
        eng_builder_weight(builder, "%sattn.indexer.weights_proj.weight", plan->prefix);
}

static void query_down(struct eng_builder *builder, const struct eng_layer_plan *plan,
                       const struct sublayer *sub, struct query *query)
{
    uint32_t rank = builder->hparams->q_rank;
    bool is_taken = eng_builder_is_quantised(builder, query->wq_b) ||
                    (plan->ratio == 4 && eng_builder_is_quantised(builder, query->index_wq_b));
    query->qr = rows_bf16(builder, 1, rank);
    query->qrq = rows_act(builder, is_taken, rank);
    struct be_op *op = eng_builder_op(builder, BE_OP_Q_DOWN, plan->layer, plan->ratio);
    eng_builder_form(builder, op, 0, query->wq_a, sub->x, sub->xq);
    op->out[0] = query->qr;
    op->out[1] = query->qrq;
    op->weight[0] = query->wq_a;
    op->weight[1] = query->q_norm;
}

static be_value_id attention(struct eng_builder *builder, const struct eng_layer_plan *plan,
                             be_value_id streams, struct eng_layer_values *values)
{
    const struct eng_hparams *hp = builder->hparams;
    struct query query = {0};
    query_weights(builder, plan, &query);
    be_weight_id wkv = plan->wkv;
    be_weight_id kv_norm = plan->kv_norm;
    if (wkv == 0) {
        wkv = eng_builder_weight(builder, "%sattn.wkv.weight", plan->prefix);
        kv_norm = eng_builder_weight(builder, "%sattn.kv_norm.weight", plan->prefix);
    }
    bool is_quantised =
        eng_builder_is_quantised(builder, query.wq_a) || eng_builder_is_quantised(builder, wkv);
    struct sublayer sub = collapse(builder, plan, "attn", is_quantised, streams);

    query_down(builder, plan, &sub, &query);
    values->kv = rows_bf16(builder, 1, hp->head_dim);
    struct be_op *op = eng_builder_op(builder, BE_OP_KV_STORE, plan->layer, plan->ratio);
    eng_builder_form(builder, op, 0, wkv, sub.x, sub.xq);
    op->out[0] = values->kv;
    op->weight[0] = wkv;
    op->weight[1] = kv_norm;
    if (!plan->is_block)
        eng_builder_access(op, 0, plan->window, BE_ACCESS_WRITE);

    if (plan->ratio != 0)
        compress(builder, plan, BE_OP_COMPRESS, sub.x);
    if (plan->ratio == 4) {
        compress(builder, plan, BE_OP_COMPRESS_INDEX, sub.x);
        index_select(builder, plan, &query, sub.x, values);
    }
    values->q = rows_bf16(builder, hp->head_count, hp->head_dim);
    op = eng_builder_op(builder, BE_OP_Q_UP, plan->layer, plan->ratio);
    eng_builder_form(builder, op, 0, query.wq_b, query.qr, query.qrq);
    op->out[0] = values->q;
    op->weight[0] = query.wq_b;

    values->attn_out = project_out(builder, plan, attend(builder, plan, values));
    return expand(builder, plan, &sub, streams, values->attn_out);
}

/* w1, w3, w2 of one expert, in the order that EXPERTS wants; returns w1. */
static be_weight_id expert_weights(struct eng_builder *builder, const char *prefix,
                                   const char *name, be_weight_id *ret_w3, be_weight_id *ret_w2)
{
    be_weight_id w1 = eng_builder_weight(builder, "%sffn.%s.w1.weight", prefix, name);
    *ret_w3 = eng_builder_weight(builder, "%sffn.%s.w3.weight", prefix, name);
    *ret_w2 = eng_builder_weight(builder, "%sffn.%s.w2.weight", prefix, name);
    return w1;
}

static be_weight_id routed_weights(struct eng_builder *builder, const struct eng_layer_plan *plan)
{
    be_weight_id first = 0;
    for (uint32_t i = 0; i < builder->hparams->expert_count; i++) {
        char name[NAME_BYTES];
        be_weight_id w3 = 0;
        be_weight_id w2 = 0;
        (void)snprintf(name, sizeof(name), "experts.%u", i);
        be_weight_id w1 = expert_weights(builder, plan->prefix, name, &w3, &w2);
        FM_ASSERT(builder->status != FM_OK || (w3 == w1 + 1 && w2 == w1 + 2));
        if (i == 0)
            first = w1;
    }
    return first;
}

static void route(struct eng_builder *builder, const struct eng_layer_plan *plan, be_value_id x,
                  struct eng_layer_values *values)
{
    uint32_t used = builder->hparams->experts_per_token;
    const char *choice = plan->is_hashed ? "tid2eid" : "bias";
    be_weight_id gate = eng_builder_weight(builder, "%sffn.gate.weight", plan->prefix);
    be_weight_id chooser = eng_builder_weight(builder, "%sffn.gate.%s", plan->prefix, choice);
    values->experts = eng_builder_value(builder, BE_ELEM_I32, BE_LEAD_ROWS, 1, used);
    values->expert_weights = eng_builder_value(builder, BE_ELEM_F32, BE_LEAD_ROWS, 1, used);
    struct be_op *op = eng_builder_op(builder, BE_OP_ROUTE, plan->layer, plan->ratio);
    op->in[0] = x;
    op->out[0] = values->experts;
    op->out[1] = values->expert_weights;
    op->weight[0] = gate;
    op->weight[plan->is_hashed ? 2 : 1] = chooser;
}

static be_value_id experts(struct eng_builder *builder, const struct eng_layer_plan *plan,
                           be_value_id streams, struct eng_layer_values *values)
{
    const struct eng_hparams *hp = builder->hparams;
    be_weight_id w3 = 0;
    be_weight_id w2 = 0;
    be_weight_id w1 = expert_weights(builder, plan->prefix, "shared_experts", &w3, &w2);
    be_weight_id routed = routed_weights(builder, plan);
    bool is_quantised =
        eng_builder_is_quantised(builder, w1) || eng_builder_is_quantised(builder, routed);
    struct sublayer sub = collapse(builder, plan, "ffn", is_quantised, streams);

    route(builder, plan, sub.x, values);
    be_value_id shared = rows_bf16(builder, 1, hp->dim);
    struct be_op *op = eng_builder_op(builder, BE_OP_SHARED_EXPERT, plan->layer, plan->ratio);
    eng_builder_form(builder, op, 0, w1, sub.x, sub.xq);
    op->out[0] = shared;
    op->weight[0] = w1;
    op->weight[1] = w3;
    op->weight[2] = w2;

    values->moe_out = rows_bf16(builder, 1, hp->dim);
    op = eng_builder_op(builder, BE_OP_EXPERTS, plan->layer, plan->ratio);
    eng_builder_form(builder, op, 0, routed, sub.x, sub.xq);
    op->in[2] = values->experts;
    op->in[3] = values->expert_weights;
    op->in[4] = shared;
    op->out[0] = values->moe_out;
    op->weight[0] = routed;
    return expand(builder, plan, &sub, streams, values->moe_out);
}

be_value_id eng_layer_build(struct eng_builder *builder, const struct eng_layer_plan *plan,
                            be_value_id streams, struct eng_layer_values *ret_values)
{
    *ret_values = (struct eng_layer_values){0};
    streams = attention(builder, plan, streams, ret_values);
    ret_values->streams = experts(builder, plan, streams, ret_values);
    return ret_values->streams;
}

be_value_id eng_head_build(struct eng_builder *builder, const char *prefix, uint32_t layer,
                           be_value_id streams, be_value_id *ret_hidden)
{
    const struct eng_hparams *hp = builder->hparams;
    be_weight_id fn = eng_builder_weight(builder, "%shc_head_fn", prefix);
    be_weight_id base = eng_builder_weight(builder, "%shc_head_base", prefix);
    be_weight_id scale = eng_builder_weight(builder, "%shc_head_scale", prefix);
    be_weight_id norm = eng_builder_weight(builder, "%snorm.weight", prefix);
    be_value_id logits =
        eng_builder_value(builder, BE_ELEM_F32, BE_LEAD_LOGIT_ROWS, 1, hp->vocab_size);
    be_value_id hidden = 0;
    if (ret_hidden != NULL)
        hidden = *ret_hidden =
            eng_builder_value(builder, BE_ELEM_BF16, BE_LEAD_LOGIT_ROWS, 1, hp->dim);
    struct be_op *op = eng_builder_op(builder, BE_OP_HEAD, layer, 0);
    op->in[0] = streams;
    op->out[0] = logits;
    op->out[1] = hidden;
    op->weight[0] = fn;
    op->weight[1] = base;
    op->weight[2] = scale;
    op->weight[3] = norm;
    op->weight[4] = builder->head;
    return logits;
}
