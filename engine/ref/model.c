/* model.c - weights by layer. */
#include "engine/ref/model.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"

enum { NAME_BYTES = 128 };

/* Walks the names of one model; the first failure stays in `status`, later calls do nothing. */
struct reader {
    const struct eng_hparams *hparams;
    const struct eng_weights *weights;
    struct fm_arena *arena;
    struct fm_err *err;
    enum fm_status status;
    char prefix[32];
};

static const struct eng_tensor *find(struct reader *reader, const char *name)
{
    char full[NAME_BYTES];
    const struct eng_tensor *tensor = NULL;
    if (reader->status != FM_OK)
        return NULL;
    (void)snprintf(full, sizeof full, "%s%s", reader->prefix, name);
    if (eng_weights_find(reader->weights, full, &tensor) != FM_OK)
        reader->status = FM_FAIL(reader->err, FM_CORRUPT, "tensor '%s' is missing", full);
    return tensor;
}

/* An aligned copy of a whole tensor. */
static void *copy(struct reader *reader, const char *name)
{
    const struct eng_tensor *tensor = find(reader, name);
    if (tensor == NULL)
        return NULL;
    void *data = fm_arena_take(reader->arena, tensor->bytes);
    if (data == NULL)
        reader->status = FM_FAIL(reader->err, FM_NOMEM, "no memory for a copy of '%s'", name);
    else
        memcpy(data, tensor->data, tensor->bytes);
    return data;
}

static struct eng_ref_weight linear(struct reader *reader, const char *name)
{
    char full[NAME_BYTES];
    struct eng_linear found;
    struct eng_ref_weight weight = {0};
    if (reader->status != FM_OK)
        return weight;
    (void)snprintf(full, sizeof full, "%s%s", reader->prefix, name);
    if (eng_weights_linear(reader->weights, full, &found) != FM_OK) {
        reader->status = FM_FAIL(reader->err, FM_CORRUPT, "linear '%s' is missing", full);
        return weight;
    }
    weight.format = found.format;
    weight.rows = found.rows;
    weight.cols = found.cols;
    weight.data = found.weight->data;
    if (found.scale != NULL) {
        weight.scale = found.scale->data;
        weight.scale_is_f32 = found.scale->dtype == ENG_DTYPE_F32;
    }
    return weight;
}

static struct eng_ref_hyper hyper(struct reader *reader, const char *name)
{
    const struct eng_hparams *hp = reader->hparams;
    char full[NAME_BYTES];
    struct eng_ref_hyper hyper = {.streams = hp->hc_streams,
                                  .dim = hp->dim,
                                  .sinkhorn_iters = hp->hc_sinkhorn_iters,
                                  .hc_eps = hp->hc_eps,
                                  .norm_eps = hp->norm_eps};
    (void)snprintf(full, sizeof full, "%s_fn", name);
    hyper.fn = copy(reader, full);
    (void)snprintf(full, sizeof full, "%s_base", name);
    hyper.base = copy(reader, full);
    (void)snprintf(full, sizeof full, "%s_scale", name);
    hyper.scale = copy(reader, full);
    return hyper;
}

static struct eng_ref_compress compress(struct reader *reader, const char *name, uint32_t ratio,
                                        bool is_index)
{
    const struct eng_hparams *hp = reader->hparams;
    char full[NAME_BYTES];
    struct eng_ref_compress compress = {.ratio = ratio,
                                        .width = is_index ? hp->index_dim : hp->head_dim,
                                        .rope_dim = hp->rope_dim,
                                        .is_overlap = ratio == 4,
                                        .is_index = is_index,
                                        .norm_eps = hp->norm_eps,
                                        .inverse = hp->inv_yarn};
    (void)snprintf(full, sizeof full, "%swkv", name);
    compress.wkv = linear(reader, full);
    (void)snprintf(full, sizeof full, "%swgate", name);
    compress.wgate = linear(reader, full);
    (void)snprintf(full, sizeof full, "%sape", name);
    compress.ape = copy(reader, full);
    (void)snprintf(full, sizeof full, "%snorm.weight", name);
    compress.norm = copy(reader, full);
    return compress;
}

static struct eng_ref_expert expert(struct reader *reader, const char *name)
{
    char full[NAME_BYTES];
    struct eng_ref_expert expert;
    (void)snprintf(full, sizeof full, "%sw1", name);
    expert.w1 = linear(reader, full);
    (void)snprintf(full, sizeof full, "%sw2", name);
    expert.w2 = linear(reader, full);
    (void)snprintf(full, sizeof full, "%sw3", name);
    expert.w3 = linear(reader, full);
    return expert;
}

static void read_attention(struct reader *reader, struct eng_ref_layer *layer)
{
    const struct eng_hparams *hp = reader->hparams;
    const float *inverse = layer->ratio != 0 ? hp->inv_yarn : hp->inv_plain;
    layer->attn = (struct eng_ref_attn){.heads = hp->head_count,
                                        .dim = hp->head_dim,
                                        .rope_dim = hp->rope_dim,
                                        .norm_eps = hp->norm_eps,
                                        .inverse = inverse};
    layer->attn_norm = copy(reader, "attn_norm.weight");
    layer->q_norm = copy(reader, "attn.q_norm.weight");
    layer->kv_norm = copy(reader, "attn.kv_norm.weight");
    layer->sink = copy(reader, "attn.attn_sink");
    layer->hc_attn = hyper(reader, "hc_attn");
    layer->wq_a = linear(reader, "attn.wq_a");
    layer->wq_b = linear(reader, "attn.wq_b");
    layer->wkv = linear(reader, "attn.wkv");
    layer->wo_a = linear(reader, "attn.wo_a");
    layer->wo_b = linear(reader, "attn.wo_b");
    if (layer->kind != ENG_LAYER_WINDOW)
        layer->main = compress(reader, "attn.compressor.", layer->ratio, false);
    if (layer->kind == ENG_LAYER_CSA) {
        layer->index = compress(reader, "attn.indexer.compressor.", layer->ratio, true);
        layer->index_wq_b = linear(reader, "attn.indexer.wq_b");
        layer->index_weights = linear(reader, "attn.indexer.weights_proj");
        layer->indexer = (struct eng_ref_indexer){.heads = hp->index_heads,
                                                  .dim = hp->index_dim,
                                                  .rope_dim = hp->rope_dim,
                                                  .topk = hp->index_topk,
                                                  .inverse = inverse};
    }
}

static void read_moe(struct reader *reader, struct eng_ref_layer *layer, bool is_hash)
{
    const struct eng_hparams *hp = reader->hparams;
    layer->ffn_norm = copy(reader, "ffn_norm.weight");
    layer->hc_ffn = hyper(reader, "hc_ffn");
    layer->gate = linear(reader, "ffn.gate");
    layer->route = (struct eng_ref_route){.expert_count = hp->expert_count,
                                          .used = hp->experts_per_token,
                                          .route_scale = hp->route_scale};
    if (is_hash)
        layer->route.tid2eid = copy(reader, "ffn.gate.tid2eid");
    else
        layer->route.bias = copy(reader, "ffn.gate.bias");
    layer->shared = expert(reader, "ffn.shared_experts.");
    layer->experts = fm_arena_take_array(reader->arena, hp->expert_count, sizeof *layer->experts);
    if (layer->experts == NULL && reader->status == FM_OK)
        reader->status = FM_FAIL(reader->err, FM_NOMEM, "no memory for a list of experts");
    for (uint32_t e = 0; e < hp->expert_count && reader->status == FM_OK; e++) {
        char name[NAME_BYTES];
        (void)snprintf(name, sizeof name, "ffn.experts.%u.", e);
        layer->experts[e] = expert(reader, name);
    }
}

static void read_draft(struct reader *reader, struct eng_ref_model *model)
{
    const struct eng_hparams *hp = reader->hparams;
    (void)snprintf(reader->prefix, sizeof reader->prefix, "mtp.0.");
    if (hp->draft_kind == ENG_DRAFT_MTP) {
        model->e_proj = linear(reader, "e_proj");
        model->h_proj = linear(reader, "h_proj");
        model->enorm = copy(reader, "enorm.weight");
        model->hnorm = copy(reader, "hnorm.weight");
    } else {
        model->main_proj = linear(reader, "main_proj");
        model->main_norm = copy(reader, "main_norm.weight");
    }
    (void)snprintf(reader->prefix, sizeof reader->prefix, "mtp.%u.", hp->draft_stage_count - 1);
    model->draft_exit.hyper = hyper(reader, "hc_head");
    model->draft_exit.norm = copy(reader, "norm.weight");
    if (hp->draft_kind == ENG_DRAFT_DSPARK) {
        model->markov_w1 = linear(reader, "markov_head.markov_w1");
        model->markov_w2 = linear(reader, "markov_head.markov_w2");
        model->confidence = linear(reader, "confidence_head.proj");
    }
}

enum fm_status eng_ref_model_new(const struct eng_hparams *hparams,
                                 const struct eng_weights *weights,
                                 struct eng_ref_model **ret_model, struct fm_err *err)
{
    struct eng_ref_model *model = fm_alloc(sizeof *model);
    if (model == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the reference model");
    model->hparams = hparams;
    fm_arena_init(&model->arena, SIZE_MAX);

    struct reader reader = {hparams, weights, &model->arena, err, FM_OK, ""};
    uint32_t layer_count = hparams->layer_count + hparams->draft_stage_count;
    model->layers = fm_arena_take_array(&model->arena, layer_count, sizeof *model->layers);
    if (model->layers == NULL) {
        eng_ref_model_free(model);
        return FM_FAIL(err, FM_NOMEM, "no memory for a list of layers");
    }
    for (uint32_t i = 0; i < layer_count && reader.status == FM_OK; i++) {
        struct eng_ref_layer *layer = &model->layers[i];
        bool is_draft = i >= hparams->layer_count;
        (void)snprintf(reader.prefix, sizeof reader.prefix, is_draft ? "mtp.%u." : "layers.%u.",
                       is_draft ? i - hparams->layer_count : i);
        layer->kind = eng_hparams_layer_kind(hparams, i);
        layer->ratio = hparams->compress_ratio[i];
        read_attention(&reader, layer);
        read_moe(&reader, layer, i < hparams->hash_layer_count);
    }
    if (hparams->draft_kind != ENG_DRAFT_NONE)
        read_draft(&reader, model);
    reader.prefix[0] = '\0';
    const struct eng_tensor *embed = find(&reader, "embed.weight");
    model->embed = embed != NULL ? embed->data : NULL;
    model->head = linear(&reader, "head");
    model->exit.hyper = hyper(&reader, "hc_head");
    model->exit.norm = copy(&reader, "norm.weight");

    if (reader.status != FM_OK) {
        eng_ref_model_free(model);
        return reader.status;
    }
    *ret_model = model;
    return FM_OK;
}

void eng_ref_model_free(struct eng_ref_model *model)
{
    if (model == NULL)
        return;
    fm_arena_done(&model->arena);
    fm_free(model);
}
