/* names.c - pieces of foreign names and what they are called officially.
 *
 * A name is put between dots, so that a piece can ask for whole words, and each rule is tried once,
 * in order: a rule may rely on what the ones above it have written. */
#include "engine/names.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "engine/safetensors.h"

static const struct {
    const char *piece, *official;
} rules[] = {
    /* Around the layers. */
    {".embed_tokens.", ".embed."},
    {".lm_head.", ".head."},
    {".hc_head.hc_", ".hc_head_"},
    {".input_layernorm.", ".attn_norm."},
    {".post_attention_layernorm.", ".ffn_norm."},
    {".attn_hc.", ".hc_attn_"},
    {".ffn_hc.", ".hc_ffn_"},
    /* The indexer: transformers hang it below the compressor, and its compressor has no name. */
    {".compressor.indexer.scorer.", ".indexer."},
    {".compressor.indexer.weights_proj.", ".indexer.weights_proj."},
    {".compressor.indexer.q_b_proj.", ".indexer.wq_b."},
    {".compressor.indexer.", ".indexer.compressor."},
    {".compressor.kv_proj.", ".compressor.wkv."},
    {".compressor.gate_proj.", ".compressor.wgate."},
    {".compressor.position_bias.", ".compressor.ape."},
    {".compressor.kv_norm.", ".compressor.norm."},
    /* Attention. */
    {".self_attn.", ".attn."},
    {".attn.q_a_proj.", ".attn.wq_a."},
    {".attn.q_a_norm.", ".attn.q_norm."},
    {".attn.q_b_proj.", ".attn.wq_b."},
    {".attn.kv_proj.", ".attn.wkv."},
    {".attn.o_a_proj.", ".attn.wo_a."},
    {".attn.o_b_proj.", ".attn.wo_b."},
    {".attn.sinks.", ".attn.attn_sink."},
    /* Experts. */
    {".mlp.", ".ffn."},
    {".e_score_correction_bias.", ".bias."},
    {".shared_experts.gate_proj.", ".shared_experts.w1."},
    {".shared_experts.up_proj.", ".shared_experts.w3."},
    {".shared_experts.down_proj.", ".shared_experts.w2."},
    /* Scales. */
    {".weight_scale_inv.", ".scale."},
    {"_scale_inv.", ".scale."},
};

/* Most tensors of a large model are experts under their official names: nothing to do for them. */
static bool is_official_expert(const char *name)
{
    const char *experts = strstr(name, ".ffn.experts.");
    return strncmp(name, "layers.", 7) == 0 && experts != NULL && experts[13] >= '0' &&
           experts[13] <= '9' && strstr(experts, "scale_inv") == NULL;
}

bool eng_name_official(const char *name, char *target, size_t target_bytes)
{
    char text[2 * ENG_TENSOR_NAME_BYTES_MAX], next[2 * ENG_TENSOR_NAME_BYTES_MAX];
    size_t length = strlen(name);

    FM_ASSERT(length <= ENG_TENSOR_NAME_BYTES_MAX);
    if (strncmp(name, "model.", 6) == 0) {
        name += 6;
        length -= 6;
    }
    if (is_official_expert(name)) {
        if (length >= target_bytes)
            return false;
        memcpy(target, name, length + 1);
        return true;
    }
    (void)snprintf(text, sizeof text, ".%s.", name);
    for (size_t i = 0; i < FM_COUNT(rules); i++) {
        const char *at = strstr(text, rules[i].piece);
        if (at == NULL)
            continue;
        int written = snprintf(next, sizeof next, "%.*s%s%s", (int)(at - text), text,
                               rules[i].official, at + strlen(rules[i].piece));
        if (written < 0 || (size_t)written >= sizeof next)
            return false;
        memcpy(text, next, (size_t)written + 1);
    }
    /* Without the dots around it. */
    length = strlen(text) - 2;
    if (length >= target_bytes)
        return false;
    memcpy(target, text + 1, length);
    target[length] = '\0';
    return true;
}
