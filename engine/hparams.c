/* hparams.c - config.json to struct eng_hparams: one table of plain fields, a function for each
 * group that has several spellings, then the rules that tie fields together. */
#include "engine/hparams.h"

#include <stddef.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "engine/config.h"
#include "engine/rotation.h"

enum {
    DIM_MAX = 1 << 16,
    HEADS_MAX = 4096,
    HEAD_DIM_MAX = 4096,
    VOCAB_MAX = 1 << 22,
    RANK_MAX = 1 << 16,
    TOPK_MAX = 1 << 16,
    RATIO_CSA = 4,
};

/* ---- which model is it ------------------------------------------------------------------------ */

static const char not_v4[] =
    "this is a DeepSeek-V4.1 or another nested configuration, whose layers "
    "differ from DeepSeek-V4: it cannot be loaded as one";

/* FM_OK only for DeepSeek-V4: by model_type, by architectures, or, where both are absent as in the
 * configuration of the published inference code, by that one's key names. */
static enum fm_status identity_check(const struct eng_config *config, struct fm_err *err)
{
    static const char *const foreign[] = {"engram_", "kv_source_", "text_config"};
    struct eng_config_value value;
    bool is_known = false;
    char shown[64];

    if (eng_config_find(config, "model_type", NULL, &value)) {
        if (eng_config_is(&value, "deepseek_v41"))
            return FM_FAIL(err, FM_UNSUPPORTED, "\"model_type\" is \"deepseek_v41\": %s", not_v4);
        if (!eng_config_is(&value, "deepseek_v4"))
            return FM_FAIL(err, FM_UNSUPPORTED,
                           "\"model_type\" is %s, only \"deepseek_v4\" is implemented",
                           eng_config_show(&value, shown));
        is_known = true;
    }
    for (size_t i = 0; i < FM_COUNT(foreign); i++)
        if (eng_config_prefix_find(config, foreign[i], &value))
            return FM_FAIL(err, FM_UNSUPPORTED, "there is a key \"%s\": %s", value.key, not_v4);
    if (eng_config_find(config, "architectures", NULL, &value)) {
        struct fm_json json;
        struct fm_json_text name;
        bool is_named = false;
        fm_json_init(&json, value.raw.data, value.raw.bytes);
        (void)fm_json_array_open(&json);
        while (fm_json_element(&json) && fm_json_string(&json, &name))
            is_named = is_named || fm_json_text_is(name, "DeepseekV4ForCausalLM");
        if (!is_named)
            return FM_FAIL(err, FM_UNSUPPORTED,
                           "\"architectures\" is %s, only \"DeepseekV4ForCausalLM\" is implemented",
                           eng_config_show(&value, shown));
        is_known = true;
    }
    if (!is_known && !eng_config_find(config, "n_layers", NULL, &value))
        return FM_FAIL(err, FM_UNSUPPORTED,
                       "there is neither \"model_type\" nor \"architectures\": the architecture is "
                       "not known");
    return FM_OK;
}

/* What every released model has and the code takes for granted.  Absent is fine. */
static enum fm_status constants_check(const struct eng_config *config, struct fm_err *err)
{
    static const struct {
        const char *key, *alias, *expected;
        bool is_string;
    } constants[] = {
        {"num_key_value_heads", NULL, "1", false},
        {"n_shared_experts", NULL, "1", false},
        {"scoring_func", "score_func", "sqrtsoftplus", true},
        {"topk_method", NULL, "noaux_tc", true},
        {"norm_topk_prob", NULL, "true", false},
        {"hidden_act", NULL, "silu", true},
        {"tie_word_embeddings", NULL, "false", false},
        {"attention_bias", NULL, "false", false},
    };
    for (size_t i = 0; i < FM_COUNT(constants); i++) {
        struct eng_config_value value;
        char shown[64];
        if (!eng_config_find(config, constants[i].key, constants[i].alias, &value))
            continue;
        if (constants[i].is_string ? !eng_config_is(&value, constants[i].expected)
                                   : !eng_config_is_raw(&value, constants[i].expected))
            return FM_FAIL(err, FM_UNSUPPORTED, "\"%s\" is %s, only %s is implemented", value.key,
                           eng_config_show(&value, shown), constants[i].expected);
    }
    return FM_OK;
}

/* ---- plain fields ----------------------------------------------------------------------------- */

static const struct {
    const char *key, *alias; /* released, published inference code */
    size_t offset;
    uint32_t min, max;
} numbers[] = {
    {"vocab_size", NULL, offsetof(struct eng_hparams, vocab_size), 2, VOCAB_MAX},
    {"hidden_size", "dim", offsetof(struct eng_hparams, dim), 128, DIM_MAX},
    {"num_hidden_layers", "n_layers", offsetof(struct eng_hparams, layer_count), 1, ENG_LAYERS_MAX},
    {"num_attention_heads", "n_heads", offsetof(struct eng_hparams, head_count), 1, HEADS_MAX},
    {"head_dim", NULL, offsetof(struct eng_hparams, head_dim), 1, HEAD_DIM_MAX},
    {"q_lora_rank", NULL, offsetof(struct eng_hparams, q_rank), 128, RANK_MAX},
    {"o_groups", NULL, offsetof(struct eng_hparams, out_groups), 1, HEADS_MAX},
    {"o_lora_rank", NULL, offsetof(struct eng_hparams, out_rank), 1, RANK_MAX},
    {"sliding_window", "window_size", offsetof(struct eng_hparams, window), 1, ENG_PAGE_TOKENS_MAX},
    {"index_n_heads", NULL, offsetof(struct eng_hparams, index_heads), 1, HEADS_MAX},
    {"index_head_dim", NULL, offsetof(struct eng_hparams, index_dim), 32, HEAD_DIM_MAX},
    {"index_topk", NULL, offsetof(struct eng_hparams, index_topk), 1, TOPK_MAX},
    {"moe_intermediate_size", "moe_inter_dim", offsetof(struct eng_hparams, expert_dim), 128,
     DIM_MAX},
    {"n_routed_experts", NULL, offsetof(struct eng_hparams, expert_count), 1, ENG_EXPERTS_MAX},
    {"num_experts_per_tok", "n_activated_experts", offsetof(struct eng_hparams, experts_per_token),
     1, ENG_EXPERTS_USED_MAX},
    {"hc_mult", NULL, offsetof(struct eng_hparams, hc_streams), 1, ENG_STREAMS_MAX},
    {"hc_sinkhorn_iters", NULL, offsetof(struct eng_hparams, hc_sinkhorn_iters), 1, 1000},
};

static enum fm_status numbers_read(const struct eng_config *config, struct eng_hparams *hparams,
                                   struct fm_err *err)
{
    for (size_t i = 0; i < FM_COUNT(numbers); i++) {
        struct eng_config_value value;
        uint32_t number;
        if (!eng_config_find(config, numbers[i].key, numbers[i].alias, &value))
            return eng_config_missing(config, numbers[i].key, err);
        enum fm_status status =
            eng_config_u32(&value, numbers[i].min, numbers[i].max, &number, err);
        if (status != FM_OK)
            return status;
        memcpy((char *)hparams + numbers[i].offset, &number, sizeof number);
    }
    return FM_OK;
}

static const struct {
    const char *key, *alias;
    size_t offset;
    double min, max;
    double otherwise; /* where the file may leave it out; 0: it may not */
} reals[] = {
    {"routed_scaling_factor", "route_scale", offsetof(struct eng_hparams, route_scale), 1e-6, 1e6,
     0},
    {"swiglu_limit", NULL, offsetof(struct eng_hparams, swiglu_limit), 1e-6, 1e6, 0},
    {"hc_eps", NULL, offsetof(struct eng_hparams, hc_eps), 1e-30, 1e-1, 1e-6},
    {"rms_norm_eps", "norm_eps", offsetof(struct eng_hparams, norm_eps), 1e-30, 1e-1, 1e-6},
};

static enum fm_status reals_read(const struct eng_config *config, struct eng_hparams *hparams,
                                 struct fm_err *err)
{
    for (size_t i = 0; i < FM_COUNT(reals); i++) {
        struct eng_config_value value;
        double number = reals[i].otherwise;
        if (eng_config_find(config, reals[i].key, reals[i].alias, &value)) {
            enum fm_status status =
                eng_config_f64(&value, reals[i].min, reals[i].max, &number, err);
            if (status != FM_OK)
                return status;
        } else if (number == 0) {
            return eng_config_missing(config, reals[i].key, err);
        }
        float rounded = (float)number;
        memcpy((char *)hparams + reals[i].offset, &rounded, sizeof rounded);
    }
    return FM_OK;
}

/* A token id, or an array of exactly one; `otherwise` where it is absent. */
static enum fm_status token_read(const struct eng_config *config, const char *key,
                                 uint32_t otherwise, const struct eng_hparams *hparams,
                                 uint32_t *ret_token, struct fm_err *err)
{
    struct eng_config_value value;
    uint32_t count, vocab_last = hparams->vocab_size - 1;

    if (!eng_config_find(config, key, NULL, &value)) {
        *ret_token = otherwise;
        return FM_OK;
    }
    if (value.raw.data[0] == '[')
        return eng_config_u32_array(&value, 1, vocab_last, ret_token, &count, err);
    return eng_config_u32(&value, 0, vocab_last, ret_token, err);
}

/* ---- layers ----------------------------------------------------------------------------------- */

static const char *const layer_names[] = {
    [ENG_LAYER_WINDOW] = "sliding_attention",
    [ENG_LAYER_CSA] = "compressed_sparse_attention",
    [ENG_LAYER_HCA] = "heavily_compressed_attention",
};

/* The ratio of one kind of layer: in compress_rates by the kind's name, or under its own key. */
static enum fm_status rate_read(const struct eng_config *config, enum eng_layer_kind kind,
                                uint32_t *ret_ratio, struct fm_err *err)
{
    struct eng_config rates;
    struct eng_config_value value;
    const char *own_key = kind == ENG_LAYER_CSA ? "compress_rate_csa" : "compress_rate_hca";

    if (eng_config_find(config, "compress_rates", NULL, &value)) {
        enum fm_status status = eng_config_object(&value, &rates, err);
        if (status != FM_OK)
            return status;
        if (!eng_config_find(&rates, layer_names[kind], NULL, &value))
            return eng_config_missing(&rates, layer_names[kind], err);
    } else if (!eng_config_find(config, own_key, NULL, &value)) {
        return eng_config_missing(config, "compress_rates", err);
    }
    enum fm_status status = eng_config_u32(&value, 2, ENG_PAGE_TOKENS_MAX, ret_ratio, err);
    if (status == FM_OK && (kind == ENG_LAYER_CSA) != (*ret_ratio == RATIO_CSA))
        return FM_FAIL(err, FM_UNSUPPORTED,
                       "\"%s\" is %u: %d is the ratio of %s layers, and of no others", value.key,
                       *ret_ratio, RATIO_CSA, layer_names[ENG_LAYER_CSA]);
    return status;
}

/* The spelling of recent transformers: kinds by name, a ratio per kind. */
static enum fm_status layer_types_read(const struct eng_config *config,
                                       const struct eng_config_value *types,
                                       struct eng_hparams *hparams, struct fm_err *err)
{
    const struct eng_config_words words = {layer_names, FM_COUNT(layer_names), ENG_LAYERS_MAX};
    uint32_t kinds[ENG_LAYERS_MAX], count, ratios[FM_COUNT(layer_names)] = {0};

    enum fm_status status = eng_config_word_array(types, &words, kinds, &count, err);
    if (status != FM_OK)
        return status;
    if (count != hparams->layer_count)
        return FM_FAIL(err, FM_CORRUPT, "\"%s\" has %u entries, there are %u layers", types->key,
                       count, hparams->layer_count);
    for (uint32_t i = 0; i < count; i++) {
        if (kinds[i] != ENG_LAYER_WINDOW && ratios[kinds[i]] == 0) {
            status = rate_read(config, (enum eng_layer_kind)kinds[i], &ratios[kinds[i]], err);
            if (status != FM_OK)
                return status;
        }
        hparams->compress_ratio[i] = ratios[kinds[i]];
    }
    return FM_OK;
}

/* The released spelling: one number per layer, then zeros for draft blocks. */
static enum fm_status compress_ratios_read(const struct eng_config_value *ratios,
                                           struct eng_hparams *hparams, struct fm_err *err)
{
    uint32_t count, layer_count = hparams->layer_count;

    enum fm_status status =
        eng_config_u32_array(ratios, FM_COUNT(hparams->compress_ratio), ENG_PAGE_TOKENS_MAX,
                             hparams->compress_ratio, &count, err);
    if (status != FM_OK)
        return status;
    if (count < layer_count || count - layer_count > ENG_DRAFT_STAGES_MAX)
        return FM_FAIL(err, FM_CORRUPT,
                       "\"%s\" has %u entries, %u layers and up to %d draft blocks are expected",
                       ratios->key, count, layer_count, ENG_DRAFT_STAGES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        if (hparams->compress_ratio[i] == 1)
            return FM_FAIL(err, FM_UNSUPPORTED, "\"%s\"[%u] is 1: that compresses nothing",
                           ratios->key, i);
        if (i >= layer_count && hparams->compress_ratio[i] != 0)
            return FM_FAIL(err, FM_UNSUPPORTED,
                           "\"%s\"[%u] is %u: entries beyond the %u layers belong to draft blocks, "
                           "whose ratio is 0",
                           ratios->key, i, hparams->compress_ratio[i], layer_count);
    }
    return FM_OK;
}

/* Page size: every ratio and the window divide it, so that a page begins no group in the middle. */
static enum fm_status page_tokens_set(struct eng_hparams *hparams, struct fm_err *err)
{
    uint64_t page = hparams->window;
    for (uint32_t i = 0; i < hparams->layer_count; i++) {
        uint64_t ratio = hparams->compress_ratio[i], a = page, b = ratio;
        if (ratio == 0)
            continue;
        while (b != 0) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
        page = page / a * ratio;
        if (page > ENG_PAGE_TOKENS_MAX)
            return FM_FAIL(err, FM_UNSUPPORTED,
                           "the window %u and the compression ratios have no common multiple up to "
                           "%d tokens",
                           hparams->window, ENG_PAGE_TOKENS_MAX);
    }
    hparams->page_tokens = fm_u32(page);
    return FM_OK;
}

static enum fm_status layers_read(const struct eng_config *config, struct eng_hparams *hparams,
                                  struct fm_err *err)
{
    struct eng_config_value value;
    enum fm_status status;

    if (eng_config_find(config, "layer_types", NULL, &value))
        status = layer_types_read(config, &value, hparams, err);
    else if (eng_config_find(config, "compress_ratios", NULL, &value))
        status = compress_ratios_read(&value, hparams, err);
    else
        return FM_FAIL(err, FM_CORRUPT,
                       "both \"compress_ratios\" and \"layer_types\" are missing: "
                       "the kinds of the layers are not known");
    return status == FM_OK ? page_tokens_set(hparams, err) : status;
}

/* Layers that route by token id: a count, or in the new spelling a name for every layer. */
static enum fm_status hash_layers_read(const struct eng_config *config, struct eng_hparams *hparams,
                                       struct fm_err *err)
{
    static const char *const names[] = {"moe", "hash_moe"};
    const struct eng_config_words words = {names, FM_COUNT(names), ENG_LAYERS_MAX};
    struct eng_config_value value;
    uint32_t kinds[ENG_LAYERS_MAX], count;

    if (!eng_config_find(config, "mlp_layer_types", NULL, &value)) {
        if (!eng_config_find(config, "num_hash_layers", "n_hash_layers", &value))
            return eng_config_missing(config, "num_hash_layers", err);
        return eng_config_u32(&value, 0, hparams->layer_count, &hparams->hash_layer_count, err);
    }
    enum fm_status status = eng_config_word_array(&value, &words, kinds, &count, err);
    if (status != FM_OK)
        return status;
    if (count != hparams->layer_count)
        return FM_FAIL(err, FM_CORRUPT, "\"%s\" has %u entries, there are %u layers", value.key,
                       count, hparams->layer_count);
    uint32_t hashed = 0;
    while (hashed < count && kinds[hashed] == 1)
        hashed++;
    for (uint32_t i = hashed; i < count; i++)
        if (kinds[i] == 1)
            return FM_FAIL(err, FM_UNSUPPORTED,
                           "\"%s\"[%u] is \"hash_moe\" behind a \"moe\": such layers come first",
                           value.key, i);
    hparams->hash_layer_count = hashed;
    return FM_OK;
}

/* ---- storage, draft, context ------------------------------------------------------------------ */

static enum fm_status quantization_check(const struct eng_config_value *quantization,
                                         struct fm_err *err)
{
    static const struct {
        const char *key, *expected;
        bool is_needed;
    } words[] = {
        {"quant_method", "fp8", true},
        {"fmt", "e4m3", false},
        {"scale_fmt", "ue8m0", false},
        {"activation_scheme", "dynamic", false},
    };
    struct eng_config config;
    struct eng_config_value value;
    uint32_t block[2], count;
    char shown[64];

    enum fm_status status = eng_config_object(quantization, &config, err);
    if (status != FM_OK)
        return status;
    for (size_t i = 0; i < FM_COUNT(words); i++) {
        if (eng_config_find(&config, words[i].key, NULL, &value)) {
            if (!eng_config_is(&value, words[i].expected))
                return FM_FAIL(err, FM_UNSUPPORTED, "\"%s\" is %s, only \"%s\" is implemented",
                               value.key, eng_config_show(&value, shown), words[i].expected);
        } else if (words[i].is_needed) {
            return eng_config_missing(&config, words[i].key, err);
        }
    }
    if (!eng_config_find(&config, "weight_block_size", NULL, &value))
        return eng_config_missing(&config, "weight_block_size", err);
    status = eng_config_u32_array(&value, 2, UINT32_MAX, block, &count, err);
    if (status != FM_OK)
        return status;
    if (count != 2 || block[0] != 128 || block[1] != 128)
        return FM_FAIL(err, FM_UNSUPPORTED, "\"%s\" is %s, only [128, 128] is implemented",
                       value.key, eng_config_show(&value, shown));
    return FM_OK;
}

/* "dtype": "fp8" is the published code's mark of a quantised model; transformers uses the same key
 * for the type of activations, where it says nothing here. */
static enum fm_status formats_read(const struct eng_config *config, struct eng_hparams *hparams,
                                   struct fm_err *err)
{
    struct eng_config_value value;
    char shown[64];
    bool is_quantized = false;

    if (eng_config_find(config, "quantization_config", NULL, &value)) {
        enum fm_status status = quantization_check(&value, err);
        if (status != FM_OK)
            return status;
        is_quantized = true;
    } else if (eng_config_find(config, "dtype", NULL, &value)) {
        is_quantized = eng_config_is(&value, "fp8");
    }
    hparams->linear_format = is_quantized ? ENG_FORMAT_FP8 : ENG_FORMAT_BF16;
    hparams->expert_format = hparams->linear_format;
    if (!eng_config_find(config, "expert_dtype", NULL, &value))
        return FM_OK;
    if (is_quantized && eng_config_is(&value, "fp4"))
        hparams->expert_format = ENG_FORMAT_FP4;
    else if (!eng_config_is(&value, is_quantized ? "fp8" : "bf16"))
        return FM_FAIL(err, FM_UNSUPPORTED,
                       "\"expert_dtype\" is %s, %s is expected %s a "
                       "quantization_config",
                       eng_config_show(&value, shown),
                       is_quantized ? "\"fp4\" or \"fp8\"" : "\"bf16\" or nothing",
                       is_quantized ? "with" : "without");
    return FM_OK;
}

static enum fm_status dspark_read(const struct eng_config *config, struct eng_hparams *hparams,
                                  struct fm_err *err)
{
    struct eng_config_value value;
    enum fm_status status;

    if (!eng_config_find(config, "dspark_block_size", NULL, &value) ||
        eng_config_is_raw(&value, "0"))
        return FM_OK;
    status = eng_config_u32(&value, 1, ENG_DRAFT_BLOCK_MAX, &hparams->dspark_block_size, err);
    if (status != FM_OK)
        return status;
    if (!eng_config_find(config, "dspark_noise_token_id", NULL, &value))
        return eng_config_missing(config, "dspark_noise_token_id", err);
    status =
        eng_config_u32(&value, 0, hparams->vocab_size - 1, &hparams->dspark_noise_token_id, err);
    if (status != FM_OK)
        return status;
    if (!eng_config_find(config, "dspark_markov_rank", NULL, &value))
        return eng_config_missing(config, "dspark_markov_rank", err);
    status = eng_config_u32(&value, 1, RANK_MAX, &hparams->dspark_markov_rank, err);
    if (status != FM_OK)
        return status;
    if (!eng_config_find(config, "dspark_target_layer_ids", NULL, &value))
        return eng_config_missing(config, "dspark_target_layer_ids", err);
    status = eng_config_u32_array(&value, ENG_DRAFT_TARGETS_MAX, hparams->layer_count - 1,
                                  hparams->dspark_target_layer, &hparams->dspark_target_count, err);
    if (status != FM_OK)
        return status;
    for (uint32_t i = 1; i < hparams->dspark_target_count; i++)
        if (hparams->dspark_target_layer[i] <= hparams->dspark_target_layer[i - 1])
            return FM_FAIL(err, FM_CORRUPT, "\"%s\" is not ascending at entry %u", value.key, i);
    return FM_OK;
}

/* Without a number of its own the context is what YaRN was made for. */
static enum fm_status context_read(const struct eng_config *config, struct eng_hparams *hparams,
                                   struct fm_err *err)
{
    struct eng_config_value value;
    if (eng_config_find(config, "max_position_embeddings", NULL, &value))
        return eng_config_u32(&value, 1, ENG_CONTEXT_MAX, &hparams->context_max, err);
    double context = hparams->yarn_original_context * hparams->yarn_factor;
    hparams->context_max =
        context < ENG_CONTEXT_MAX ? (uint32_t)context : (uint32_t)ENG_CONTEXT_MAX;
    return FM_OK;
}

/* ---- rules between fields --------------------------------------------------------------------- */

static enum fm_status multiple_check(const char *what, uint64_t value, uint32_t unit,
                                     struct fm_err *err)
{
    if (value % unit == 0)
        return FM_OK;
    return FM_FAIL(err, FM_CORRUPT, "%s is %llu, a multiple of %u is expected", what,
                   (unsigned long long)value, unit);
}

static enum fm_status rules_check(const struct eng_hparams *hparams, struct fm_err *err)
{
    const uint64_t heads_dim = (uint64_t)hparams->head_count * hparams->head_dim;
    const uint64_t out_dim = (uint64_t)hparams->out_groups * hparams->out_rank;
    enum fm_status status;

    if (hparams->rope_dim >= hparams->head_dim || hparams->rope_dim % 2 != 0)
        return FM_FAIL(err, FM_CORRUPT,
                       "\"qk_rope_head_dim\" is %u, an even number below \"head_dim\" %u is "
                       "expected",
                       hparams->rope_dim, hparams->head_dim);
    const struct {
        const char *what;
        uint64_t value;
        uint32_t unit;
    } multiples[] = {
        {"\"hidden_size\"", hparams->dim, 128},
        {"\"q_lora_rank\"", hparams->q_rank, 128},
        {"\"moe_intermediate_size\"", hparams->expert_dim, 128},
        {"\"num_attention_heads\" (for \"o_groups\")", hparams->head_count, hparams->out_groups},
        {"\"o_groups\" times \"o_lora_rank\"", out_dim, 128},
        {"\"num_attention_heads\" times \"head_dim\" by \"o_groups\"",
         heads_dim / hparams->out_groups, 128},
        {"\"head_dim\" less \"qk_rope_head_dim\"", hparams->head_dim - hparams->rope_dim, 64},
        {"\"index_head_dim\"", hparams->index_dim, 32},
    };
    for (size_t i = 0; i < FM_COUNT(multiples); i++) {
        status = multiple_check(multiples[i].what, multiples[i].value, multiples[i].unit, err);
        if (status != FM_OK)
            return status;
    }
    if ((hparams->index_dim & (hparams->index_dim - 1)) != 0)
        return FM_FAIL(err, FM_CORRUPT, "\"index_head_dim\" is %u, a power of two is expected",
                       hparams->index_dim);
    if (hparams->index_dim < hparams->rope_dim)
        return FM_FAIL(err, FM_CORRUPT,
                       "\"index_head_dim\" is %u, at least \"qk_rope_head_dim\" %u is expected",
                       hparams->index_dim, hparams->rope_dim);
    if (hparams->experts_per_token > hparams->expert_count)
        return FM_FAIL(err, FM_CORRUPT,
                       "\"num_experts_per_tok\" is %u, at most \"n_routed_experts\" %u is expected",
                       hparams->experts_per_token, hparams->expert_count);
    return FM_OK;
}

enum fm_status eng_hparams_parse(const char *text, size_t bytes, struct eng_hparams *ret_hparams,
                                 struct fm_err *err)
{
    typedef enum fm_status (*reader)(const struct eng_config *config, struct eng_hparams *hparams,
                                     struct fm_err *err);
    static const reader readers[] = {
        numbers_read,      reals_read,   layers_read, hash_layers_read,
        eng_rotation_read, formats_read, dspark_read, context_read,
    };
    struct eng_config config;
    struct eng_hparams hparams = {0};

    if (bytes > ENG_CONFIG_BYTES_MAX)
        return FM_FAIL(err, FM_LIMIT, "a configuration of %zu bytes, at most %d are taken", bytes,
                       ENG_CONFIG_BYTES_MAX);
    enum fm_status status = eng_config_init(&config, "", text, bytes, err);
    if (status == FM_OK)
        status = identity_check(&config, err);
    if (status == FM_OK)
        status = constants_check(&config, err);
    for (size_t i = 0; i < FM_COUNT(readers) && status == FM_OK; i++)
        status = readers[i](&config, &hparams, err);
    if (status == FM_OK)
        status = token_read(&config, "bos_token_id", 0, &hparams, &hparams.bos_token_id, err);
    if (status == FM_OK)
        status = token_read(&config, "eos_token_id", 1, &hparams, &hparams.eos_token_id, err);
    if (status == FM_OK)
        status = rules_check(&hparams, err);
    if (status != FM_OK)
        return status;
    eng_rotation_tables_set(&hparams);
    *ret_hparams = hparams;
    return FM_OK;
}

enum fm_status eng_hparams_draft_set(struct eng_hparams *hparams, enum eng_draft_kind kind,
                                     uint32_t stage_count, struct fm_err *err)
{
    FM_ASSERT((kind == ENG_DRAFT_NONE) == (stage_count == 0));
    FM_ASSERT(stage_count <= ENG_DRAFT_STAGES_MAX);

    if (kind == ENG_DRAFT_MTP && stage_count != 1)
        return FM_FAIL(err, FM_UNSUPPORTED, "there are %u MTP blocks, one is implemented",
                       stage_count);
    if (kind == ENG_DRAFT_DSPARK && hparams->dspark_block_size == 0)
        return FM_FAIL(err, FM_CORRUPT,
                       "the tensors hold %u DSpark stages, but \"dspark_block_size\" is missing",
                       stage_count);
    if (kind == ENG_DRAFT_MTP && hparams->dspark_block_size != 0)
        return FM_FAIL(err, FM_CORRUPT,
                       "\"dspark_block_size\" is %u, but the tensors hold an MTP block",
                       hparams->dspark_block_size);
    hparams->draft_kind = kind;
    hparams->draft_stage_count = stage_count;
    for (uint32_t i = 0; i < ENG_DRAFT_STAGES_MAX; i++)
        hparams->compress_ratio[hparams->layer_count + i] = 0;
    return FM_OK;
}

enum eng_layer_kind eng_hparams_layer_kind(const struct eng_hparams *hparams, uint32_t layer_index)
{
    FM_ASSERT(layer_index < hparams->layer_count + hparams->draft_stage_count);
    switch (hparams->compress_ratio[layer_index]) {
    case 0: return ENG_LAYER_WINDOW;
    case RATIO_CSA: return ENG_LAYER_CSA;
    default: return ENG_LAYER_HCA;
    }
}

const char *eng_format_name(enum eng_format format)
{
    switch (format) {
    case ENG_FORMAT_BF16: return "bf16";
    case ENG_FORMAT_FP8: return "fp8";
    case ENG_FORMAT_FP4: return "fp4";
    }
    FM_UNREACHABLE();
}
