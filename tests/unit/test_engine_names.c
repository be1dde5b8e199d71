/* Names of transformers, and what each tensor is called officially. */
#include <string.h>

#include "backends/base/assert.h"
#include "engine/names.h"
#include "tests/support/support.h"

static const struct {
    const char *official, *foreign;
} names[] = {
    {"embed.weight", "model.embed_tokens.weight"},
    {"norm.weight", "model.norm.weight"},
    {"head.weight", "lm_head.weight"},
    {"hc_head_fn", "model.hc_head.hc_fn"},
    {"hc_head_base", "model.hc_head.hc_base"},
    {"hc_head_scale", "model.hc_head.hc_scale"},
    {"layers.12.attn_norm.weight", "model.layers.12.input_layernorm.weight"},
    {"layers.12.ffn_norm.weight", "model.layers.12.post_attention_layernorm.weight"},
    {"layers.12.hc_attn_fn", "model.layers.12.attn_hc.fn"},
    {"layers.12.hc_attn_base", "model.layers.12.attn_hc.base"},
    {"layers.12.hc_attn_scale", "model.layers.12.attn_hc.scale"},
    {"layers.12.hc_ffn_fn", "model.layers.12.ffn_hc.fn"},
    {"layers.12.hc_ffn_scale", "model.layers.12.ffn_hc.scale"},
    {"layers.12.attn.wq_a.weight", "model.layers.12.self_attn.q_a_proj.weight"},
    {"layers.12.attn.wq_a.scale", "model.layers.12.self_attn.q_a_proj.weight_scale_inv"},
    {"layers.12.attn.q_norm.weight", "model.layers.12.self_attn.q_a_norm.weight"},
    {"layers.12.attn.wq_b.weight", "model.layers.12.self_attn.q_b_proj.weight"},
    {"layers.12.attn.wkv.weight", "model.layers.12.self_attn.kv_proj.weight"},
    {"layers.12.attn.kv_norm.weight", "model.layers.12.self_attn.kv_norm.weight"},
    {"layers.12.attn.wo_a.weight", "model.layers.12.self_attn.o_a_proj.weight"},
    {"layers.12.attn.wo_b.scale", "model.layers.12.self_attn.o_b_proj.weight_scale_inv"},
    {"layers.12.attn.attn_sink", "model.layers.12.self_attn.sinks"},
    {"layers.12.attn.compressor.wkv.weight", "model.layers.12.self_attn.compressor.kv_proj.weight"},
    {"layers.12.attn.compressor.wgate.weight",
     "model.layers.12.self_attn.compressor.gate_proj.weight"},
    {"layers.12.attn.compressor.ape", "model.layers.12.self_attn.compressor.position_bias"},
    {"layers.12.attn.compressor.norm.weight",
     "model.layers.12.self_attn.compressor.kv_norm.weight"},
    {"layers.12.attn.indexer.wq_b.weight",
     "model.layers.12.self_attn.compressor.indexer.q_b_proj.weight"},
    {"layers.12.attn.indexer.wq_b.scale",
     "model.layers.12.self_attn.compressor.indexer.q_b_proj.weight_scale_inv"},
    {"layers.12.attn.indexer.weights_proj.weight",
     "model.layers.12.self_attn.compressor.indexer.scorer.weights_proj.weight"},
    {"layers.12.attn.indexer.compressor.wkv.weight",
     "model.layers.12.self_attn.compressor.indexer.kv_proj.weight"},
    {"layers.12.attn.indexer.compressor.wgate.weight",
     "model.layers.12.self_attn.compressor.indexer.gate_proj.weight"},
    {"layers.12.attn.indexer.compressor.ape",
     "model.layers.12.self_attn.compressor.indexer.position_bias"},
    {"layers.12.attn.indexer.compressor.norm.weight",
     "model.layers.12.self_attn.compressor.indexer.kv_norm.weight"},
    {"layers.12.ffn.gate.weight", "model.layers.12.mlp.gate.weight"},
    {"layers.12.ffn.gate.bias", "model.layers.12.mlp.gate.e_score_correction_bias"},
    {"layers.12.ffn.gate.tid2eid", "model.layers.12.mlp.gate.tid2eid"},
    {"layers.12.ffn.shared_experts.w1.weight",
     "model.layers.12.mlp.shared_experts.gate_proj.weight"},
    {"layers.12.ffn.shared_experts.w3.weight", "model.layers.12.mlp.shared_experts.up_proj.weight"},
    {"layers.12.ffn.shared_experts.w2.scale",
     "model.layers.12.mlp.shared_experts.down_proj.weight_scale_inv"},
    {"layers.12.ffn.experts.gate_up_proj", "model.layers.12.mlp.experts.gate_up_proj"},
    {"layers.12.ffn.experts.gate_up_proj.scale",
     "model.layers.12.mlp.experts.gate_up_proj_scale_inv"},
    {"layers.12.ffn.experts.down_proj", "model.layers.12.mlp.experts.down_proj"},
    /* Official pieces under foreign ones, as converters leave them. */
    {"layers.12.ffn.experts.7.w1.weight", "model.layers.12.mlp.experts.7.w1.weight"},
    {"layers.12.ffn.experts.7.w1.scale", "layers.12.ffn.experts.7.w1.weight_scale_inv"},
    {"layers.12.attn.wq_a.weight", "layers.12.self_attn.wq_a.weight"},
    {"mtp.0.ffn.gate.bias", "mtp.0.mlp.gate.e_score_correction_bias"},
    {"mtp.0.attn.wq_a.scale", "model.mtp.0.self_attn.wq_a.weight_scale_inv"},
    {"mtp.2.markov_head.markov_w1.weight", "model.mtp.2.markov_head.markov_w1.weight"},
    {"mtp.0.hc_head_scale", "mtp.0.hc_head_scale"},
    {"vision.blocks.0.attn.q.weight", "vision.blocks.0.attn.q.weight"},
};

START_TEST(foreign_names_become_official)
{
    char name[256];
    for (size_t i = 0; i < FM_COUNT(names); i++) {
        ck_assert(eng_name_official(names[i].foreign, name, sizeof name));
        ck_assert_str_eq(name, names[i].official);
    }
}
END_TEST

START_TEST(official_names_stay_as_they_are)
{
    char name[256];
    for (size_t i = 0; i < FM_COUNT(names); i++) {
        ck_assert(eng_name_official(names[i].official, name, sizeof name));
        ck_assert_str_eq(name, names[i].official);
    }
}
END_TEST

START_TEST(a_name_that_does_not_fit_is_refused)
{
    char name[256], small[13];
    ck_assert(!eng_name_official("embed.weight", small, 12));
    ck_assert(eng_name_official("embed.weight", small, 13));
    ck_assert(!eng_name_official("layers.0.ffn.experts.7.w1.weight", small, 13));
    /* The longest name, of pieces that grow. */
    char longest[256] = "";
    while (strlen(longest) + 12 <= 255)
        memcpy(longest + strlen(longest), ".self_attn.x", 13);
    ck_assert(eng_name_official(longest, name, sizeof name));
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine_names");
    TCase *tcase = tcase_create("names");
    tcase_add_test(tcase, foreign_names_become_official);
    tcase_add_test(tcase, official_names_stay_as_they_are);
    tcase_add_test(tcase, a_name_that_does_not_fit_is_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}
