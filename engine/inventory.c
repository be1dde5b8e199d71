/* inventory.c - the list, written as the model is built: block by block. */
#include "engine/inventory.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "engine/safetensors.h"

/* A visit under way.  The first failure sticks and silences the rest. */
struct visit {
    const struct eng_hparams *hparams;
    eng_inventory_visitor visitor;
    void *context;
    struct fm_err *err;
    enum fm_status status;
    char prefix[32]; /* "layers.3.", "mtp.0.", "" */
};

/* One tensor under the current prefix; cols 0: a vector of rows elements. */
static void FM_PRINTF(5, 6) item(struct visit *visit, enum eng_role role, uint64_t rows,
                                 uint64_t cols, const char *format, ...)
{
    char name[ENG_TENSOR_NAME_BYTES_MAX + 1];
    va_list args;

    if (visit->status != FM_OK)
        return;
    int length = snprintf(name, sizeof name, "%s", visit->prefix);
    va_start(args, format);
    length += vsnprintf(name + length, sizeof name - (size_t)length, format, args);
    va_end(args);
    FM_ASSERT(length > 0 && (size_t)length < sizeof name);
    const struct eng_inventory_item found = {
        .name = name, .role = role, .rank = cols == 0 ? 1 : 2, .dims = {rows, cols}};
    visit->status = visit->visitor(visit->context, &found, visit->err);
}

/* Mixes of one hyper-connection: `rows` functions of all N streams. */
static void hyper(struct visit *visit, const char *name, uint64_t rows, uint64_t scales)
{
    const struct eng_hparams *hparams = visit->hparams;
    item(visit, ENG_ROLE_F32, rows, (uint64_t)hparams->hc_streams * hparams->dim, "%s_fn", name);
    item(visit, ENG_ROLE_F32, rows, 0, "%s_base", name);
    item(visit, ENG_ROLE_F32, scales, 0, "%s_scale", name);
}

/* Overlapping entries have a second set of columns, for the group that follows. */
static void compressor(struct visit *visit, const char *name, uint32_t ratio, uint32_t width,
                       enum eng_layer_kind kind)
{
    uint64_t columns = kind == ENG_LAYER_CSA ? 2ull * width : width, dim = visit->hparams->dim;
    item(visit, ENG_ROLE_BF16, columns, dim, "%s.wkv.weight", name);
    item(visit, ENG_ROLE_BF16, columns, dim, "%s.wgate.weight", name);
    item(visit, ENG_ROLE_F32, ratio, columns, "%s.ape", name);
    item(visit, ENG_ROLE_BF16, width, 0, "%s.norm.weight", name);
}

static void attention(struct visit *visit, uint32_t layer_index)
{
    const struct eng_hparams *hparams = visit->hparams;
    const uint64_t dim = hparams->dim, q_rank = hparams->q_rank,
                   heads_dim = (uint64_t)hparams->head_count * hparams->head_dim,
                   out_dim = (uint64_t)hparams->out_groups * hparams->out_rank;
    enum eng_layer_kind kind = eng_hparams_layer_kind(hparams, layer_index);
    uint32_t ratio = hparams->compress_ratio[layer_index];

    item(visit, ENG_ROLE_F32, hparams->head_count, 0, "attn.attn_sink");
    item(visit, ENG_ROLE_LINEAR, q_rank, dim, "attn.wq_a.weight");
    item(visit, ENG_ROLE_BF16, q_rank, 0, "attn.q_norm.weight");
    item(visit, ENG_ROLE_LINEAR, heads_dim, q_rank, "attn.wq_b.weight");
    item(visit, ENG_ROLE_LINEAR, hparams->head_dim, dim, "attn.wkv.weight");
    item(visit, ENG_ROLE_BF16, hparams->head_dim, 0, "attn.kv_norm.weight");
    item(visit, ENG_ROLE_LINEAR_OUT, out_dim, heads_dim / hparams->out_groups, "attn.wo_a.weight");
    item(visit, ENG_ROLE_LINEAR, dim, out_dim, "attn.wo_b.weight");
    if (kind != ENG_LAYER_WINDOW)
        compressor(visit, "attn.compressor", ratio, hparams->head_dim, kind);
    if (kind == ENG_LAYER_CSA) {
        uint64_t index_dim = (uint64_t)hparams->index_heads * hparams->index_dim;
        item(visit, ENG_ROLE_LINEAR, index_dim, q_rank, "attn.indexer.wq_b.weight");
        item(visit, ENG_ROLE_BF16, hparams->index_heads, dim, "attn.indexer.weights_proj.weight");
        compressor(visit, "attn.indexer.compressor", ratio, hparams->index_dim, kind);
    }
}

static void expert(struct visit *visit, enum eng_role role, const char *name)
{
    uint64_t dim = visit->hparams->dim, expert_dim = visit->hparams->expert_dim;
    item(visit, role, expert_dim, dim, "%s.w1.weight", name);
    item(visit, role, dim, expert_dim, "%s.w2.weight", name);
    item(visit, role, expert_dim, dim, "%s.w3.weight", name);
}

static void experts(struct visit *visit, uint32_t layer_index)
{
    const struct eng_hparams *hparams = visit->hparams;
    item(visit, ENG_ROLE_BF16, hparams->expert_count, hparams->dim, "ffn.gate.weight");
    if (layer_index < hparams->hash_layer_count)
        item(visit, ENG_ROLE_EXPERT_IDS, hparams->vocab_size, hparams->experts_per_token,
             "ffn.gate.tid2eid");
    else
        item(visit, ENG_ROLE_F32, hparams->expert_count, 0, "ffn.gate.bias");
    for (uint32_t i = 0; i < hparams->expert_count && visit->status == FM_OK; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "ffn.experts.%u", i);
        expert(visit, ENG_ROLE_EXPERT, name);
    }
    expert(visit, ENG_ROLE_LINEAR, "ffn.shared_experts");
}

static void block(struct visit *visit, uint32_t layer_index)
{
    const struct eng_hparams *hparams = visit->hparams;
    uint64_t mixes = (2ull + hparams->hc_streams) * hparams->hc_streams;
    item(visit, ENG_ROLE_BF16, hparams->dim, 0, "attn_norm.weight");
    item(visit, ENG_ROLE_BF16, hparams->dim, 0, "ffn_norm.weight");
    hyper(visit, "hc_attn", mixes, 3);
    hyper(visit, "hc_ffn", mixes, 3);
    attention(visit, layer_index);
    experts(visit, layer_index);
}

static void draft_stage(struct visit *visit, uint32_t stage_index)
{
    const struct eng_hparams *hparams = visit->hparams;
    const uint64_t dim = hparams->dim, rank = hparams->dspark_markov_rank;
    bool is_last = stage_index + 1 == hparams->draft_stage_count;

    (void)snprintf(visit->prefix, sizeof visit->prefix, "mtp.%u.", stage_index);
    if (hparams->draft_kind == ENG_DRAFT_MTP) {
        item(visit, ENG_ROLE_BF16, dim, 0, "enorm.weight");
        item(visit, ENG_ROLE_BF16, dim, 0, "hnorm.weight");
        item(visit, ENG_ROLE_LINEAR, dim, dim, "e_proj.weight");
        item(visit, ENG_ROLE_LINEAR, dim, dim, "h_proj.weight");
    } else if (stage_index == 0) {
        item(visit, ENG_ROLE_LINEAR, dim, dim * hparams->dspark_target_count, "main_proj.weight");
        item(visit, ENG_ROLE_BF16, dim, 0, "main_norm.weight");
    }
    block(visit, hparams->layer_count + stage_index);
    if (!is_last)
        return;
    item(visit, ENG_ROLE_BF16, dim, 0, "norm.weight");
    hyper(visit, "hc_head", hparams->hc_streams, 1);
    if (hparams->draft_kind == ENG_DRAFT_DSPARK) {
        item(visit, ENG_ROLE_BF16, hparams->vocab_size, rank, "markov_head.markov_w1.weight");
        item(visit, ENG_ROLE_BF16, hparams->vocab_size, rank, "markov_head.markov_w2.weight");
        item(visit, ENG_ROLE_BF16, 1, dim + rank, "confidence_head.proj.weight");
    }
}

enum fm_status eng_inventory_visit(const struct eng_hparams *hparams, eng_inventory_visitor visitor,
                                   void *context, struct fm_err *err)
{
    struct visit visit = {
        .hparams = hparams, .visitor = visitor, .context = context, .err = err, .status = FM_OK};

    item(&visit, ENG_ROLE_BF16, hparams->vocab_size, hparams->dim, "embed.weight");
    for (uint32_t i = 0; i < hparams->layer_count && visit.status == FM_OK; i++) {
        (void)snprintf(visit.prefix, sizeof visit.prefix, "layers.%u.", i);
        block(&visit, i);
    }
    visit.prefix[0] = '\0';
    hyper(&visit, "hc_head", hparams->hc_streams, 1);
    item(&visit, ENG_ROLE_BF16, hparams->dim, 0, "norm.weight");
    item(&visit, ENG_ROLE_BF16, hparams->vocab_size, hparams->dim, "head.weight");
    for (uint32_t i = 0; i < hparams->draft_stage_count && visit.status == FM_OK; i++)
        draft_stage(&visit, i);
    return visit.status;
}

enum eng_format eng_inventory_format(const struct eng_hparams *hparams, enum eng_role role)
{
    FM_ASSERT(role == ENG_ROLE_LINEAR || role == ENG_ROLE_LINEAR_OUT || role == ENG_ROLE_EXPERT);
    return role == ENG_ROLE_EXPERT ? hparams->expert_format : hparams->linear_format;
}
