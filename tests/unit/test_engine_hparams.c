/* config.json: the spellings in circulation give the same numbers, and every rule refuses. */
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "engine/hparams.h"
#include "tests/support/support.h"

/* A configuration as a list of members, so that a test can change one. */
struct member {
    const char *key, *value; /* value NULL: left out */
};

enum { MEMBERS_MAX = 64, TEXT_MAX = 8192 };

struct members {
    uint32_t count;
    struct member list[MEMBERS_MAX];
    char text[TEXT_MAX];
};

#define FLASH_RATIOS                                                                               \
    "[0,0,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,4,128,"    \
    "4,128,4,128,4,128,4,128,4,128,4,128,4,0]"
#define RELEASED_QUANTIZATION                                                                      \
    "{\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\",\"quant_method\":\"fp8\","                \
    "\"scale_fmt\":\"ue8m0\",\"weight_block_size\":[128,128]}"

/* DeepSeek-V4-Flash as released. */
static const struct member flash[] = {
    {"architectures", "[\"DeepseekV4ForCausalLM\"]"},
    {"attention_bias", "false"},
    {"attention_dropout", "0.0"},
    {"bos_token_id", "0"},
    {"compress_ratios", FLASH_RATIOS},
    {"compress_rope_theta", "160000"},
    {"eos_token_id", "1"},
    {"expert_dtype", "\"fp4\""},
    {"hc_eps", "1e-06"},
    {"hc_mult", "4"},
    {"hc_sinkhorn_iters", "20"},
    {"head_dim", "512"},
    {"hidden_act", "\"silu\""},
    {"hidden_size", "4096"},
    {"index_head_dim", "128"},
    {"index_n_heads", "64"},
    {"index_topk", "512"},
    {"initializer_range", "0.02"},
    {"max_position_embeddings", "1048576"},
    {"model_type", "\"deepseek_v4\""},
    {"moe_intermediate_size", "2048"},
    {"n_routed_experts", "256"},
    {"n_shared_experts", "1"},
    {"norm_topk_prob", "true"},
    {"num_attention_heads", "64"},
    {"num_experts_per_tok", "6"},
    {"num_hash_layers", "3"},
    {"num_hidden_layers", "43"},
    {"num_key_value_heads", "1"},
    {"num_nextn_predict_layers", "1"},
    {"o_groups", "8"},
    {"o_lora_rank", "1024"},
    {"q_lora_rank", "1024"},
    {"qk_rope_head_dim", "64"},
    {"quantization_config", RELEASED_QUANTIZATION},
    {"rms_norm_eps", "1e-06"},
    {"rope_scaling", "{\"beta_fast\":32,\"beta_slow\":1,\"factor\":16,"
                     "\"original_max_position_embeddings\":65536,\"type\":\"yarn\"}"},
    {"rope_theta", "10000"},
    {"routed_scaling_factor", "1.5"},
    {"scoring_func", "\"sqrtsoftplus\""},
    {"sliding_window", "128"},
    {"swiglu_limit", "10.0"},
    {"tie_word_embeddings", "false"},
    {"topk_method", "\"noaux_tc\""},
    {"torch_dtype", "\"bfloat16\""},
    {"transformers_version", "\"4.57.1\""},
    {"use_cache", "true"},
    {"vocab_size", "129280"},
};

static void members_init(struct members *members)
{
    members->count = FM_COUNT(flash);
    memcpy(members->list, flash, sizeof flash);
}

/* Replace, add or (value NULL) remove. */
static void member_set(struct members *members, const char *key, const char *value)
{
    uint32_t i = 0;
    while (i < members->count && strcmp(members->list[i].key, key) != 0)
        i++;
    ck_assert_uint_lt(i, MEMBERS_MAX);
    members->list[i] = (struct member){key, value};
    if (i == members->count)
        members->count++;
}

static void member_rename(struct members *members, const char *key, const char *name)
{
    for (uint32_t i = 0; i < members->count; i++)
        if (strcmp(members->list[i].key, key) == 0)
            members->list[i].key = name;
}

static enum fm_status members_parse(struct members *members, struct eng_hparams *ret_hparams,
                                    struct fm_err *err)
{
    size_t length = 0;
    for (uint32_t i = 0; i < members->count; i++) {
        if (members->list[i].value == NULL)
            continue;
        int written =
            snprintf(members->text + length, TEXT_MAX - length, "%c\"%s\":%s",
                     length == 0 ? '{' : ',', members->list[i].key, members->list[i].value);
        length += (size_t)written;
        ck_assert_uint_lt(length, TEXT_MAX - 1);
    }
    members->text[length++] = '}';
    return eng_hparams_parse(members->text, length, ret_hparams, err);
}

static void parse_good(struct members *members, struct eng_hparams *ret_hparams)
{
    struct fm_err err = {0};
    memset(ret_hparams, 0, sizeof *ret_hparams);
    ck_assert_msg(members_parse(members, ret_hparams, &err) == FM_OK, "%s", err.text);
}

START_TEST(the_released_configuration_is_read)
{
    struct members members;
    struct eng_hparams hparams;
    members_init(&members);
    parse_good(&members, &hparams);
    ck_assert_uint_eq(hparams.vocab_size, 129280);
    ck_assert_uint_eq(hparams.dim, 4096);
    ck_assert_uint_eq(hparams.layer_count, 43);
    ck_assert_uint_eq(hparams.head_count, 64);
    ck_assert_uint_eq(hparams.head_dim, 512);
    ck_assert_uint_eq(hparams.rope_dim, 64);
    ck_assert_uint_eq(hparams.q_rank, 1024);
    ck_assert_uint_eq(hparams.out_groups, 8);
    ck_assert_uint_eq(hparams.out_rank, 1024);
    ck_assert_uint_eq(hparams.window, 128);
    ck_assert_uint_eq(hparams.index_heads, 64);
    ck_assert_uint_eq(hparams.index_dim, 128);
    ck_assert_uint_eq(hparams.index_topk, 512);
    ck_assert_uint_eq(hparams.expert_count, 256);
    ck_assert_uint_eq(hparams.experts_per_token, 6);
    ck_assert_uint_eq(hparams.expert_dim, 2048);
    ck_assert_uint_eq(hparams.hash_layer_count, 3);
    ck_assert_uint_eq(hparams.hc_streams, 4);
    ck_assert_uint_eq(hparams.hc_sinkhorn_iters, 20);
    ck_assert_uint_eq(hparams.context_max, 1048576);
    ck_assert_uint_eq(hparams.page_tokens, 128);
    ck_assert_uint_eq(hparams.bos_token_id, 0);
    ck_assert_uint_eq(hparams.eos_token_id, 1);
    ck_assert(hparams.route_scale == 1.5f);
    ck_assert(hparams.swiglu_limit == 10.0f);
    ck_assert(hparams.hc_eps == 1e-6f);
    ck_assert(hparams.norm_eps == 1e-6f);
    ck_assert_int_eq(hparams.linear_format, ENG_FORMAT_FP8);
    ck_assert_int_eq(hparams.expert_format, ENG_FORMAT_FP4);
    ck_assert_int_eq(hparams.draft_kind, ENG_DRAFT_NONE);
    ck_assert_uint_eq(hparams.dspark_block_size, 0);
    for (uint32_t i = 0; i < 43; i++)
        ck_assert_uint_eq(hparams.compress_ratio[i], i < 2 ? 0 : i % 2 == 0 ? 4 : 128);
    ck_assert_int_eq(eng_hparams_layer_kind(&hparams, 0), ENG_LAYER_WINDOW);
    ck_assert_int_eq(eng_hparams_layer_kind(&hparams, 2), ENG_LAYER_CSA);
    ck_assert_int_eq(eng_hparams_layer_kind(&hparams, 3), ENG_LAYER_HCA);
}
END_TEST

/* The published tables: fp32 bit patterns. */
static const uint32_t inv_plain[32] = {
    0x3f800000, 0x3f3ff911, 0x3f0ff59a, 0x3ed7e89b, 0x3ea1e89b, 0x3e72d423, 0x3e361887, 0x3e088d77,
    0x3dcccccd, 0x3d99940d, 0x3d6655c2, 0x3d2cba15, 0x3d0186e3, 0x3cc2434f, 0x3c91ad39, 0x3c5a7bf2,
    0x3c23d70a, 0x3bf5b9b0, 0x3bb8449c, 0x3b8a2e77, 0x3b4f3e38, 0x3b1b690d, 0x3ae91528, 0x3aaec98e,
    0x3a83126f, 0x3a44948c, 0x3a136a16, 0x39dd1725, 0x39a5cb60, 0x3978a815, 0x393a7753, 0x390bd472,
};
static const uint32_t inv_yarn[32] = {
    0x3f800000, 0x3f300a3a, 0x3ef21c1f, 0x3ea67d01, 0x3e64f92e, 0x3e1d7475, 0x3dd88cb4, 0x3d94e963,
    0x3d4ccccd, 0x3d0cd4fb, 0x3cc1b019, 0x3c8530ce, 0x3c372dbf, 0x3bfbed88, 0x3bad3d5e, 0x3b6e4237,
    0x3b147ae1, 0x3ab714e0, 0x3a5ebdb6, 0x3a0530ce, 0x399bb3af, 0x39305978, 0x38be904d, 0x383e9b5f,
    0x37a3d70c, 0x36b443d0, 0x3677eba6, 0x362a7be8, 0x35ea77ff, 0x35a13bdc, 0x355dbf30, 0x35187c4d,
};

START_TEST(inverse_frequencies_are_those_published_bit_for_bit)
{
    struct members members;
    struct eng_hparams hparams;
    uint32_t plain[32], yarn[32];
    members_init(&members);
    parse_good(&members, &hparams);
    memcpy(plain, hparams.inv_plain, sizeof plain);
    memcpy(yarn, hparams.inv_yarn, sizeof yarn);
    for (uint32_t i = 0; i < 32; i++) {
        ck_assert_msg(plain[i] == inv_plain[i], "plain[%u] %08x", i, plain[i]);
        ck_assert_msg(yarn[i] == inv_yarn[i], "yarn[%u] %08x", i, yarn[i]);
    }
}
END_TEST

/* Every pair is slower than the plain one by a factor between 1 and yarn_factor, and small contexts,
 * where even the first pair is stretched, stay finite. */
START_TEST(yarn_stretches_by_at_most_its_factor)
{
    static const char *const contexts[] = {"1", "16", "256", "512", "65536", "16777216"};
    for (size_t c = 0; c < FM_COUNT(contexts); c++) {
        struct members members;
        struct eng_hparams hparams;
        char scaling[128];
        members_init(&members);
        (void)snprintf(scaling, sizeof scaling,
                       "{\"type\":\"yarn\",\"factor\":16,\"original_max_position_embeddings\":%s}",
                       contexts[c]);
        member_set(&members, "rope_scaling", scaling);
        member_set(&members, "rope_theta", "160000");
        parse_good(&members, &hparams);
        for (uint32_t i = 0; i < 32; i++) {
            float ratio = hparams.inv_plain[i] / hparams.inv_yarn[i];
            ck_assert_msg(ratio > 0.999f && ratio < 16.001f, "context %s, pair %u: %g", contexts[c],
                          i, (double)ratio);
        }
    }
}
END_TEST

static void transformers_spelling(struct members *members)
{
    static char types[2400];
    size_t length = 0;
    for (uint32_t i = 0; i < 43; i++)
        length +=
            (size_t)snprintf(types + length, sizeof types - length, "%c\"%s\"", i == 0 ? '[' : ',',
                             i < 2        ? "sliding_attention"
                             : i % 2 == 0 ? "compressed_sparse_attention"
                                          : "heavily_compressed_attention");
    (void)snprintf(types + length, sizeof types - length, "]");
    members_init(members);
    member_set(members, "compress_ratios", NULL);
    member_set(members, "layer_types", types);
    member_set(members, "compress_rates",
               "{\"compressed_sparse_attention\":4,\"heavily_compressed_attention\":128}");
    member_set(members, "qk_rope_head_dim", NULL);
    member_set(members, "partial_rotary_factor", "0.125");
    member_set(members, "rope_theta", NULL);
    member_set(members, "compress_rope_theta", NULL);
    member_set(members, "rope_scaling", NULL);
    member_set(members, "rope_parameters",
               "{\"main\":{\"rope_theta\":10000.0,\"rope_type\":\"default\"},"
               "\"compress\":{\"rope_type\":\"yarn\",\"rope_theta\":160000.0,\"factor\":16.0,"
               "\"beta_fast\":32.0,\"beta_slow\":1.0,\"attention_factor\":1.0,"
               "\"original_max_position_embeddings\":65536}}");
}

START_TEST(the_spelling_of_transformers_gives_the_same)
{
    struct members members;
    struct eng_hparams released, other;
    static char moe[700];
    size_t length = 0;
    members_init(&members);
    parse_good(&members, &released);
    transformers_spelling(&members);
    parse_good(&members, &other);
    ck_assert_mem_eq(&released, &other, sizeof released);

    for (uint32_t i = 0; i < 43; i++)
        length += (size_t)snprintf(moe + length, sizeof moe - length, "%c\"%s\"",
                                   i == 0 ? '[' : ',', i < 3 ? "hash_moe" : "moe");
    (void)snprintf(moe + length, sizeof moe - length, "]");
    member_set(&members, "num_hash_layers", NULL);
    member_set(&members, "mlp_layer_types", moe);
    member_set(&members, "compress_rates", NULL);
    member_set(&members, "compress_rate_csa", "4");
    member_set(&members, "compress_rate_hca", "128");
    member_set(&members, "dtype", "\"bfloat16\"");
    member_set(&members, "torch_dtype", NULL);
    member_set(&members, "partial_rotary_factor", NULL);
    member_set(&members, "rope_parameters",
               "{\"main\":{\"rope_theta\":10000.0,\"partial_rotary_factor\":0.125},"
               "\"compress\":{\"rope_type\":\"yarn\",\"rope_theta\":160000.0,\"factor\":16.0,"
               "\"original_max_position_embeddings\":65536,\"attention_factor\":null}}");
    parse_good(&members, &other);
    ck_assert_mem_eq(&released, &other, sizeof released);
}
END_TEST

START_TEST(a_new_key_wins_over_the_old_one_beside_it)
{
    struct members members;
    struct eng_hparams released, other;
    members_init(&members);
    parse_good(&members, &released);
    transformers_spelling(&members);
    member_set(&members, "compress_ratios", "[7]");
    member_set(&members, "qk_rope_head_dim", "32");
    member_set(&members, "rope_theta", "77");
    member_set(&members, "rope_scaling", "{\"type\":\"linear\"}");
    parse_good(&members, &other);
    ck_assert_mem_eq(&released, &other, sizeof released);
}
END_TEST

START_TEST(the_spelling_of_the_published_code_gives_the_same)
{
    static const struct member renamed[] = {
        {"hidden_size", "dim"},
        {"num_hidden_layers", "n_layers"},
        {"num_attention_heads", "n_heads"},
        {"qk_rope_head_dim", "rope_head_dim"},
        {"sliding_window", "window_size"},
        {"moe_intermediate_size", "moe_inter_dim"},
        {"num_experts_per_tok", "n_activated_experts"},
        {"num_hash_layers", "n_hash_layers"},
        {"routed_scaling_factor", "route_scale"},
        {"scoring_func", "score_func"},
    };
    static const char *const absent[] = {
        "architectures",  "model_type",        "num_key_value_heads",
        "topk_method",    "norm_topk_prob",    "hidden_act",
        "hc_eps",         "rms_norm_eps",      "max_position_embeddings",
        "rope_scaling",   "torch_dtype",       "tie_word_embeddings",
        "bos_token_id",   "eos_token_id",      "quantization_config",
        "attention_bias", "attention_dropout", "use_cache",
    };
    struct members members;
    struct eng_hparams released, other;
    members_init(&members);
    parse_good(&members, &released);
    for (size_t i = 0; i < FM_COUNT(absent); i++)
        member_set(&members, absent[i], NULL);
    for (size_t i = 0; i < FM_COUNT(renamed); i++)
        member_rename(&members, renamed[i].key, renamed[i].value);
    member_set(&members, "dtype", "\"fp8\"");
    member_set(&members, "scale_fmt", "\"ue8m0\"");
    member_set(&members, "rope_factor", "16");
    member_set(&members, "original_seq_len", "65536");
    member_set(&members, "beta_fast", "32");
    member_set(&members, "beta_slow", "1");
    parse_good(&members, &other);
    ck_assert_mem_eq(&released, &other, sizeof released);
}
END_TEST

START_TEST(formats_follow_the_quantisation_keys)
{
    static const struct {
        const char *quantization, *expert_dtype, *dtype;
        enum eng_format linear, expert;
    } cases[] = {
        {NULL, NULL, NULL, ENG_FORMAT_BF16, ENG_FORMAT_BF16},
        {"null", "null", NULL, ENG_FORMAT_BF16, ENG_FORMAT_BF16},
        {NULL, "\"bf16\"", "\"bfloat16\"", ENG_FORMAT_BF16, ENG_FORMAT_BF16},
        {RELEASED_QUANTIZATION, NULL, NULL, ENG_FORMAT_FP8, ENG_FORMAT_FP8},
        {RELEASED_QUANTIZATION, "\"fp8\"", NULL, ENG_FORMAT_FP8, ENG_FORMAT_FP8},
        {RELEASED_QUANTIZATION, "\"fp4\"", "\"bfloat16\"", ENG_FORMAT_FP8, ENG_FORMAT_FP4},
        {"{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128],\"scale_fmt\":null}", NULL,
         NULL, ENG_FORMAT_FP8, ENG_FORMAT_FP8},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        struct members members;
        struct eng_hparams hparams;
        members_init(&members);
        member_set(&members, "quantization_config", cases[i].quantization);
        member_set(&members, "expert_dtype", cases[i].expert_dtype);
        member_set(&members, "dtype", cases[i].dtype);
        parse_good(&members, &hparams);
        ck_assert_int_eq(hparams.linear_format, cases[i].linear);
        ck_assert_int_eq(hparams.expert_format, cases[i].expert);
    }
}
END_TEST

START_TEST(pages_hold_whole_groups_of_every_ratio)
{
    static const struct {
        const char *ratios, *window;
        uint32_t page;
    } cases[] = {
        {"[0,4,16,0]", "16", 16}, {"[0,4,128,0]", "16", 128}, {"[128,128,4]", "128", 128},
        {"[0,0,0]", "48", 48},    {"[4,6,0]", "10", 60},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        struct members members;
        struct eng_hparams hparams;
        members_init(&members);
        member_set(&members, "num_hidden_layers", "3");
        member_set(&members, "compress_ratios", cases[i].ratios);
        member_set(&members, "sliding_window", cases[i].window);
        parse_good(&members, &hparams);
        ck_assert_uint_eq(hparams.page_tokens, cases[i].page);
    }
}
END_TEST

START_TEST(dspark_keys_are_read_and_wait_for_their_tensors)
{
    struct members members;
    struct eng_hparams hparams;
    struct fm_err err = {0};
    members_init(&members);
    parse_good(&members, &hparams);
    struct eng_hparams before = hparams;
    ck_assert_int_eq(eng_hparams_draft_set(&hparams, ENG_DRAFT_DSPARK, 3, &err), FM_CORRUPT);
    ck_assert_mem_eq(&before, &hparams, sizeof before);
    ck_assert_int_eq(eng_hparams_draft_set(&hparams, ENG_DRAFT_MTP, 2, &err), FM_UNSUPPORTED);
    ck_assert_int_eq(eng_hparams_draft_set(&hparams, ENG_DRAFT_MTP, 1, &err), FM_OK);
    ck_assert_int_eq(hparams.draft_kind, ENG_DRAFT_MTP);
    ck_assert_int_eq(eng_hparams_layer_kind(&hparams, 43), ENG_LAYER_WINDOW);

    member_set(&members, "dspark_block_size", "5");
    member_set(&members, "dspark_noise_token_id", "128799");
    member_set(&members, "dspark_target_layer_ids", "[40,41,42]");
    member_set(&members, "dspark_markov_rank", "256");
    parse_good(&members, &hparams);
    ck_assert_int_eq(hparams.draft_kind, ENG_DRAFT_NONE);
    ck_assert_int_eq(eng_hparams_draft_set(&hparams, ENG_DRAFT_MTP, 1, &err), FM_CORRUPT);
    ck_assert_int_eq(eng_hparams_draft_set(&hparams, ENG_DRAFT_DSPARK, 3, &err), FM_OK);
    ck_assert_uint_eq(hparams.draft_stage_count, 3);
    ck_assert_uint_eq(hparams.dspark_block_size, 5);
    ck_assert_uint_eq(hparams.dspark_noise_token_id, 128799);
    ck_assert_uint_eq(hparams.dspark_markov_rank, 256);
    ck_assert_uint_eq(hparams.dspark_target_count, 3);
    ck_assert_uint_eq(hparams.dspark_target_layer[0], 40);
    ck_assert_uint_eq(hparams.dspark_target_layer[2], 42);
    ck_assert_int_eq(eng_hparams_draft_set(&hparams, ENG_DRAFT_NONE, 0, &err), FM_OK);
    ck_assert_uint_eq(hparams.draft_stage_count, 0);
}
END_TEST

/* One member changed (and a second one where one is not enough): the status and a piece of the
 * sentence.  The piece holds the key and, where there is one, the value. */
static const struct refusal {
    const char *key, *value;
    enum fm_status status;
    const char *piece;
    const char *other_key, *other_value;
} refusals[] = {
    /* Another model. */
    {"model_type", "\"deepseek_v41\"", FM_UNSUPPORTED, "deepseek_v41", NULL, NULL},
    {"model_type", "\"llama\"", FM_UNSUPPORTED, "\"model_type\" is \"llama\"", NULL, NULL},
    {"model_type", "4", FM_UNSUPPORTED, "\"model_type\" is 4", NULL, NULL},
    {"architectures", "[\"LlamaForCausalLM\"]", FM_UNSUPPORTED, "LlamaForCausalLM", NULL, NULL},
    {"architectures", "\"DeepseekV4ForCausalLM\"", FM_UNSUPPORTED, "architectures", NULL, NULL},
    {"architectures", NULL, FM_UNSUPPORTED, "neither", "model_type", NULL},
    {"engram_layer_ids", "[1,14]", FM_UNSUPPORTED, "engram_layer_ids", NULL, NULL},
    {"kv_source_layer_ids", "[2]", FM_UNSUPPORTED, "kv_source_layer_ids", NULL, NULL},
    {"text_config", "{}", FM_UNSUPPORTED, "text_config", NULL, NULL},
    /* Variants that the code does not have. */
    {"num_key_value_heads", "2", FM_UNSUPPORTED, "\"num_key_value_heads\" is 2", NULL, NULL},
    {"n_shared_experts", "2", FM_UNSUPPORTED, "\"n_shared_experts\" is 2", NULL, NULL},
    {"scoring_func", "\"sigmoid\"", FM_UNSUPPORTED, "\"scoring_func\" is \"sigmoid\"", NULL, NULL},
    {"topk_method", "\"greedy\"", FM_UNSUPPORTED, "topk_method", NULL, NULL},
    {"norm_topk_prob", "false", FM_UNSUPPORTED, "norm_topk_prob", NULL, NULL},
    {"hidden_act", "\"gelu\"", FM_UNSUPPORTED, "hidden_act", NULL, NULL},
    {"tie_word_embeddings", "true", FM_UNSUPPORTED, "tie_word_embeddings", NULL, NULL},
    {"attention_bias", "true", FM_UNSUPPORTED, "attention_bias", NULL, NULL},
    /* Sizes: absent, of the wrong kind, out of bounds. */
    {"hidden_size", NULL, FM_CORRUPT, "\"hidden_size\" is missing", NULL, NULL},
    {"hidden_size", "null", FM_CORRUPT, "\"hidden_size\" is missing", NULL, NULL},
    {"hidden_size", "\"4096\"", FM_CORRUPT, "\"hidden_size\" is \"4096\"", NULL, NULL},
    {"hidden_size", "-128", FM_CORRUPT, "\"hidden_size\" is -128", NULL, NULL},
    {"hidden_size", "128.5", FM_CORRUPT, "\"hidden_size\" is 128.5", NULL, NULL},
    {"hidden_size", "1e300", FM_CORRUPT, "\"hidden_size\" is 1e300", NULL, NULL},
    {"hidden_size", "99999999999999999999999", FM_CORRUPT, "\"hidden_size\" is 999", NULL, NULL},
    {"hidden_size", "131072", FM_CORRUPT, "from 128 to 65536", NULL, NULL},
    {"hidden_size", "[4096]", FM_CORRUPT, "\"hidden_size\" is [4096]", NULL, NULL},
    {"num_hidden_layers", "0", FM_CORRUPT, "\"num_hidden_layers\" is 0", NULL, NULL},
    {"num_hidden_layers", "129", FM_CORRUPT, "\"num_hidden_layers\" is 129", NULL, NULL},
    {"vocab_size", "0", FM_CORRUPT, "\"vocab_size\" is 0", NULL, NULL},
    {"hc_mult", "9", FM_CORRUPT, "\"hc_mult\" is 9", NULL, NULL},
    {"hc_sinkhorn_iters", "0", FM_CORRUPT, "hc_sinkhorn_iters", NULL, NULL},
    {"sliding_window", "0", FM_CORRUPT, "sliding_window", NULL, NULL},
    {"index_topk", "0", FM_CORRUPT, "index_topk", NULL, NULL},
    {"max_position_embeddings", "33554432", FM_CORRUPT, "max_position_embeddings", NULL, NULL},
    {"num_experts_per_tok", "65", FM_CORRUPT, "num_experts_per_tok", NULL, NULL},
    {"routed_scaling_factor", "0", FM_CORRUPT, "routed_scaling_factor", NULL, NULL},
    {"routed_scaling_factor", NULL, FM_CORRUPT, "routed_scaling_factor", NULL, NULL},
    {"swiglu_limit", "-1", FM_CORRUPT, "swiglu_limit", NULL, NULL},
    {"rms_norm_eps", "0", FM_CORRUPT, "rms_norm_eps", NULL, NULL},
    {"hc_eps", "\"1e-6\"", FM_CORRUPT, "hc_eps", NULL, NULL},
    {"bos_token_id", "129280", FM_CORRUPT, "\"bos_token_id\" is 129280", NULL, NULL},
    {"eos_token_id", "[1,2]", FM_CORRUPT, "\"eos_token_id\" has more than 1", NULL, NULL},
    {"num_hash_layers", "44", FM_CORRUPT, "\"num_hash_layers\" is 44", NULL, NULL},
    {"num_hash_layers", NULL, FM_CORRUPT, "\"num_hash_layers\" is missing", NULL, NULL},
    /* Rules between sizes. */
    {"hidden_size", "4160", FM_CORRUPT, "\"hidden_size\" is 4160, a multiple of 128", NULL, NULL},
    {"q_lora_rank", "1056", FM_CORRUPT, "\"q_lora_rank\" is 1056", NULL, NULL},
    {"moe_intermediate_size", "2000", FM_CORRUPT, "\"moe_intermediate_size\" is 2000", NULL, NULL},
    {"o_lora_rank", "1000", FM_CORRUPT, "times \"o_lora_rank\" is 8000", NULL, NULL},
    {"o_groups", "3", FM_CORRUPT, "a multiple of 3 is expected", NULL, NULL},
    {"head_dim", "80", FM_CORRUPT, "times \"head_dim\" by \"o_groups\"", "o_groups", "64"},
    {"head_dim", "480", FM_CORRUPT, "\"head_dim\" less \"qk_rope_head_dim\" is 416", NULL, NULL},
    {"qk_rope_head_dim", "63", FM_CORRUPT, "\"qk_rope_head_dim\" is 63", NULL, NULL},
    {"qk_rope_head_dim", "258", FM_CORRUPT, "\"qk_rope_head_dim\" is 258", NULL, NULL},
    {"head_dim", "64", FM_CORRUPT, "below \"head_dim\" 64", NULL, NULL},
    {"index_head_dim", "96", FM_CORRUPT, "\"index_head_dim\" is 96, a power of two", NULL, NULL},
    {"index_head_dim", "33", FM_CORRUPT, "\"index_head_dim\" is 33", NULL, NULL},
    {"index_head_dim", "32", FM_CORRUPT, "at least \"qk_rope_head_dim\" 64", NULL, NULL},
    {"n_routed_experts", "5", FM_CORRUPT, "\"num_experts_per_tok\" is 6", NULL, NULL},
    {"partial_rotary_factor", "0.1", FM_CORRUPT, "\"partial_rotary_factor\" is 0.1", NULL, NULL},
    {"partial_rotary_factor", "0.75", FM_CORRUPT, "\"partial_rotary_factor\" is 0.75", NULL, NULL},
    /* Layers. */
    {"compress_ratios", NULL, FM_CORRUPT, "\"layer_types\" are missing", NULL, NULL},
    {"compress_ratios", "[0,4,128]", FM_CORRUPT, "\"compress_ratios\" has 3 entries", NULL, NULL},
    {"compress_ratios", "[0,4,-1,0]", FM_CORRUPT, "compress_ratios", "num_hidden_layers", "3"},
    {"compress_ratios", "[0,4,1,0]", FM_UNSUPPORTED, "\"compress_ratios\"[2] is 1",
     "num_hidden_layers", "3"},
    {"compress_ratios", "[0,4,128,4]", FM_UNSUPPORTED, "\"compress_ratios\"[3] is 4",
     "num_hidden_layers", "3"},
    {"compress_ratios", "[0,0,0,0,0,0,0,0,0,0,0,0]", FM_CORRUPT, "has 12 entries",
     "num_hidden_layers", "3"},
    {"compress_ratios", "[0,127,128]", FM_UNSUPPORTED, "common multiple", "num_hidden_layers", "3"},
    {"compress_ratios", "[]", FM_CORRUPT, "\"compress_ratios\" is []", NULL, NULL},
    {"layer_types", "[\"sliding_attention\"]", FM_CORRUPT, "\"layer_types\" has 1", NULL, NULL},
    {"layer_types", "[\"full_attention\"]", FM_UNSUPPORTED, "full_attention", NULL, NULL},
    {"layer_types", "[\"compressed_sparse_attention\"]", FM_CORRUPT, "compress_rates",
     "num_hidden_layers", "1"},
    {"mlp_layer_types", "[\"moe\"]", FM_CORRUPT, "\"mlp_layer_types\" has 1", NULL, NULL},
    {"mlp_layer_types", "[\"dense\"]", FM_UNSUPPORTED, "dense", NULL, NULL},
    /* Rotation. */
    {"rope_scaling", NULL, FM_CORRUPT, "rope_scaling", NULL, NULL},
    {"rope_scaling", "[]", FM_CORRUPT, "\"rope_scaling\" is []", NULL, NULL},
    {"rope_scaling", "{\"type\":\"linear\",\"factor\":2}", FM_UNSUPPORTED,
     "\"rope_scaling.type\" is \"linear\"", NULL, NULL},
    {"rope_scaling", "{\"factor\":2}", FM_CORRUPT, "\"rope_scaling.rope_type\"", NULL, NULL},
    {"rope_scaling", "{\"type\":\"yarn\"}", FM_CORRUPT, "\"rope_scaling.factor\"", NULL, NULL},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":0.5}", FM_CORRUPT, "factor\" is 0.5", NULL,
     NULL},
    {"rope_scaling", "{\"type\":\"yarn\",\"factor\":2}", FM_CORRUPT,
     "original_max_position_embeddings", NULL, NULL},
    {"rope_scaling",
     "{\"type\":\"yarn\",\"factor\":2,\"original_max_position_embeddings\":1,\"beta_fast\":0.5}",
     FM_CORRUPT, "beta_fast", NULL, NULL},
    {"rope_scaling", "{\"type\":\"yarn\",\"mscale\":0.7}", FM_UNSUPPORTED, "mscale", NULL, NULL},
    {"rope_theta", "1", FM_CORRUPT, "\"rope_theta\" is 1", NULL, NULL},
    {"compress_rope_theta", NULL, FM_CORRUPT, "compress_rope_theta", NULL, NULL},
    {"rope_parameters", "{\"main\":{}}", FM_CORRUPT, "\"rope_parameters.compress\"", NULL, NULL},
    {"rope_parameters", "{\"main\":{\"rope_type\":\"yarn\"},\"compress\":{}}", FM_UNSUPPORTED,
     "\"rope_parameters.main.rope_type\"", NULL, NULL},
    {"rope_parameters",
     "{\"main\":{},\"compress\":{\"rope_type\":\"yarn\",\"attention_factor\":1.27}}",
     FM_UNSUPPORTED, "attention_factor", NULL, NULL},
    /* Storage. */
    {"quantization_config", "{\"quant_method\":\"awq\"}", FM_UNSUPPORTED, "\"awq\"", NULL, NULL},
    {"quantization_config", "{}", FM_CORRUPT, "quantization_config.quant_method", NULL, NULL},
    {"quantization_config", "{\"quant_method\":\"fp8\"}", FM_CORRUPT, "weight_block_size", NULL,
     NULL},
    {"quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":[32,32]}",
     FM_UNSUPPORTED, "[32,32]", NULL, NULL},
    {"quantization_config", "{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}", FM_UNSUPPORTED, "e5m2",
     NULL, NULL},
    {"expert_dtype", "\"int4\"", FM_UNSUPPORTED, "\"expert_dtype\" is \"int4\"", NULL, NULL},
    {"quantization_config", NULL, FM_UNSUPPORTED, "\"expert_dtype\" is \"fp4\"", NULL, NULL},
    /* Draft. */
    {"dspark_block_size", "17", FM_CORRUPT, "\"dspark_block_size\" is 17", NULL, NULL},
    {"dspark_block_size", "5", FM_CORRUPT, "dspark_noise_token_id", NULL, NULL},
    {"dspark_block_size", "5", FM_CORRUPT, "\"dspark_noise_token_id\" is 129280",
     "dspark_noise_token_id", "129280"},
    {"dspark_block_size", "5", FM_CORRUPT, "dspark_markov_rank", "dspark_noise_token_id", "7"},
};

START_TEST(every_rule_refuses_and_names_key_and_value)
{
    const struct refusal *refusal = &refusals[_i];
    struct members members;
    struct eng_hparams hparams, before;
    struct fm_err err = {0};
    memset(&hparams, 0xa5, sizeof hparams);
    before = hparams;
    members_init(&members);
    if (refusal->other_key != NULL)
        member_set(&members, refusal->other_key, refusal->other_value);
    member_set(&members, refusal->key, refusal->value);
    enum fm_status status = members_parse(&members, &hparams, &err);
    ck_assert_msg(status == refusal->status, "%s=%s: %s, %s", refusal->key, refusal->value,
                  fm_status_name(status), err.text);
    ck_assert_msg(strstr(err.text, refusal->piece) != NULL, "%s", err.text);
    ck_assert_mem_eq(&hparams, &before, sizeof hparams);
}
END_TEST

START_TEST(dspark_targets_are_layers_in_ascending_order)
{
    static const char *const bad[] = {"[42,41]", "[41,41]", "[43]",
                                      "[]",      "41",      "[0,1,2,3,4,5,6,7,8]"};
    for (size_t i = 0; i < FM_COUNT(bad); i++) {
        struct members members;
        struct eng_hparams hparams;
        struct fm_err err = {0};
        members_init(&members);
        member_set(&members, "dspark_block_size", "5");
        member_set(&members, "dspark_noise_token_id", "7");
        member_set(&members, "dspark_markov_rank", "256");
        member_set(&members, "dspark_target_layer_ids", bad[i]);
        ck_assert_msg(members_parse(&members, &hparams, &err) == FM_CORRUPT, "%s taken", bad[i]);
        ck_assert_msg(strstr(err.text, "dspark_target_layer_ids") != NULL, "%s", err.text);
    }
}
END_TEST

START_TEST(a_text_that_is_no_configuration_is_refused)
{
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "null",
                                        "{\"a\":1}x",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"a\":1,\"\\u0061\":2}",
                                        "{\"a\":\"\xff\"}"};
    static char large[ENG_CONFIG_BYTES_MAX + 1];
    struct eng_hparams hparams;
    for (size_t i = 0; i < FM_COUNT(texts); i++)
        ck_assert_msg(eng_hparams_parse(texts[i], strlen(texts[i]), &hparams, NULL) == FM_CORRUPT,
                      "%s taken", texts[i]);
    ck_assert_int_eq(eng_hparams_parse("{}", 2, &hparams, NULL), FM_UNSUPPORTED);
    memset(large, ' ', sizeof large);
    ck_assert_int_eq(eng_hparams_parse(large, sizeof large, &hparams, NULL), FM_LIMIT);
}
END_TEST

START_TEST(every_cut_of_a_configuration_is_refused)
{
    struct members members = {0};
    struct eng_hparams hparams;
    members_init(&members);
    parse_good(&members, &hparams);
    size_t length = (size_t)(strrchr(members.text, '}') - members.text);
    for (size_t bytes = 0; bytes <= length; bytes++)
        ck_assert_int_lt(eng_hparams_parse(members.text, bytes, &hparams, NULL), 0);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine_hparams");
    TCase *tcase = tcase_create("hparams");
    tcase_add_test(tcase, the_released_configuration_is_read);
    tcase_add_test(tcase, inverse_frequencies_are_those_published_bit_for_bit);
    tcase_add_test(tcase, yarn_stretches_by_at_most_its_factor);
    tcase_add_test(tcase, the_spelling_of_transformers_gives_the_same);
    tcase_add_test(tcase, a_new_key_wins_over_the_old_one_beside_it);
    tcase_add_test(tcase, the_spelling_of_the_published_code_gives_the_same);
    tcase_add_test(tcase, formats_follow_the_quantisation_keys);
    tcase_add_test(tcase, pages_hold_whole_groups_of_every_ratio);
    tcase_add_test(tcase, dspark_keys_are_read_and_wait_for_their_tensors);
    tcase_add_loop_test(tcase, every_rule_refuses_and_names_key_and_value, 0,
                        (int)FM_COUNT(refusals));
    tcase_add_test(tcase, dspark_targets_are_layers_in_ascending_order);
    tcase_add_test(tcase, a_text_that_is_no_configuration_is_refused);
    tcase_add_test(tcase, every_cut_of_a_configuration_is_refused);
    suite_add_tcase(suite, tcase);
    return suite;
}
