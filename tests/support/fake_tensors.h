/* fake_tensors.h - the tensors of a configuration without a checkpoint: shapes and types, no bytes.
 *
 * Defines eng_weights_find and eng_weights_read, so that programs of any size can be stated, the
 * released ones too: a test that includes this does not link engine/weights.c.  Include it once per
 * test program. */
#ifndef TESTS_FAKE_TENSORS_H
#define TESTS_FAKE_TENSORS_H

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/fault.h"
#include "backends/base/mem.h"
#include "engine/hparams.h"
#include "engine/program.h"
#include "engine/weights.h"
#include "tests/support/support.h"

enum { FAKE_NAME_BYTES = 96 };

struct fake_tensor {
    struct fake_tensor *next;
    struct eng_tensor tensor;
    char name[FAKE_NAME_BYTES];
};

struct eng_weights {
    const struct eng_hparams *hparams;
    struct fake_tensor *tensors;
    enum eng_dtype scale_dtype;
    const char *missing; /* this one cannot be found; NULL: all can */
};

/* How the elements of a kind of linear are stored under the configuration. */
static inline enum eng_dtype fake_dtype(enum eng_format format)
{
    if (format == ENG_FORMAT_FP4)
        return ENG_DTYPE_I8;
    return format == ENG_FORMAT_FP8 ? ENG_DTYPE_F8_E4M3 : ENG_DTYPE_BF16;
}

struct fake_shape {
    const char *suffix;
    enum eng_dtype dtype;
    uint64_t rows, cols; /* rows 0: a vector */
};

/* Type, rows and columns in elements of the tensor "<prefix><suffix>". */
static inline bool fake_find_shape(const struct eng_hparams *hp, const char *suffix, uint32_t ratio,
                                   struct fake_shape *ret_shape)
{
    uint64_t d = hp->head_dim;
    uint64_t dim = hp->dim;
    uint64_t n = hp->hc_streams;
    uint64_t lanes = ratio == 4 ? 2 : 1;
    uint64_t go = (uint64_t)hp->out_groups * hp->out_rank;
    enum eng_dtype lin = fake_dtype(hp->linear_format);
    const struct fake_shape table[] = {
        {"embed.weight", ENG_DTYPE_BF16, hp->vocab_size, dim},
        {"head.weight", ENG_DTYPE_BF16, hp->vocab_size, dim},
        {"norm.weight", ENG_DTYPE_BF16, 0, dim},
        {"hc_head_fn", ENG_DTYPE_F32, n, n * dim},
        {"hc_head_base", ENG_DTYPE_F32, 0, n},
        {"hc_head_scale", ENG_DTYPE_F32, 0, 1},
        {"attn_norm.weight", ENG_DTYPE_BF16, 0, dim},
        {"ffn_norm.weight", ENG_DTYPE_BF16, 0, dim},
        {"main_norm.weight", ENG_DTYPE_BF16, 0, dim},
        {"enorm.weight", ENG_DTYPE_BF16, 0, dim},
        {"hnorm.weight", ENG_DTYPE_BF16, 0, dim},
        {"hc_attn_fn", ENG_DTYPE_F32, n * (n + 2), n * dim},
        {"hc_ffn_fn", ENG_DTYPE_F32, n * (n + 2), n * dim},
        {"hc_attn_base", ENG_DTYPE_F32, 0, n * (n + 2)},
        {"hc_ffn_base", ENG_DTYPE_F32, 0, n * (n + 2)},
        {"hc_attn_scale", ENG_DTYPE_F32, 0, 3},
        {"hc_ffn_scale", ENG_DTYPE_F32, 0, 3},
        {"attn.attn_sink", ENG_DTYPE_F32, 0, hp->head_count},
        {"attn.wq_a.weight", lin, hp->q_rank, dim},
        {"attn.q_norm.weight", ENG_DTYPE_BF16, 0, hp->q_rank},
        {"attn.wq_b.weight", lin, hp->head_count * d, hp->q_rank},
        {"attn.wkv.weight", lin, d, dim},
        {"attn.kv_norm.weight", ENG_DTYPE_BF16, 0, d},
        {"attn.wo_a.weight", lin, go, hp->head_count * d / hp->out_groups},
        {"attn.wo_b.weight", lin, dim, go},
        {"attn.compressor.wkv.weight", ENG_DTYPE_BF16, lanes * d, dim},
        {"attn.compressor.wgate.weight", ENG_DTYPE_BF16, lanes * d, dim},
        {"attn.compressor.ape", ENG_DTYPE_F32, ratio, lanes * d},
        {"attn.compressor.norm.weight", ENG_DTYPE_BF16, 0, d},
        {"attn.indexer.wq_b.weight", lin, (uint64_t)hp->index_heads * hp->index_dim, hp->q_rank},
        {"attn.indexer.weights_proj.weight", ENG_DTYPE_BF16, hp->index_heads, dim},
        {"attn.indexer.compressor.wkv.weight", ENG_DTYPE_BF16, lanes * hp->index_dim, dim},
        {"attn.indexer.compressor.wgate.weight", ENG_DTYPE_BF16, lanes * hp->index_dim, dim},
        {"attn.indexer.compressor.ape", ENG_DTYPE_F32, ratio, lanes * hp->index_dim},
        {"attn.indexer.compressor.norm.weight", ENG_DTYPE_BF16, 0, hp->index_dim},
        {"ffn.gate.weight", ENG_DTYPE_BF16, hp->expert_count, dim},
        {"ffn.gate.bias", ENG_DTYPE_F32, 0, hp->expert_count},
        {"ffn.gate.tid2eid", ENG_DTYPE_I64, hp->vocab_size, hp->experts_per_token},
        {"ffn.shared_experts.w1.weight", lin, hp->expert_dim, dim},
        {"ffn.shared_experts.w3.weight", lin, hp->expert_dim, dim},
        {"ffn.shared_experts.w2.weight", lin, dim, hp->expert_dim},
        {"e_proj.weight", lin, dim, dim},
        {"h_proj.weight", lin, dim, dim},
        {"main_proj.weight", lin, dim, dim * hp->dspark_target_count},
        {"markov_head.markov_w1.weight", ENG_DTYPE_BF16, hp->vocab_size, hp->dspark_markov_rank},
        {"markov_head.markov_w2.weight", ENG_DTYPE_BF16, hp->vocab_size, hp->dspark_markov_rank},
        {"confidence_head.proj.weight", ENG_DTYPE_BF16, 1, dim + hp->dspark_markov_rank},
    };
    if (strncmp(suffix, "ffn.experts.", 12) == 0) {
        bool is_down = strstr(suffix, ".w2.") != NULL;
        *ret_shape =
            (struct fake_shape){suffix, fake_dtype(hp->expert_format),
                                is_down ? dim : hp->expert_dim, is_down ? hp->expert_dim : dim};
        return true;
    }
    for (size_t i = 0; i < FM_COUNT(table); i++) {
        if (strcmp(table[i].suffix, suffix) == 0) {
            *ret_shape = table[i];
            return true;
        }
    }
    return false;
}

/* "12.rest" -> 12 and "rest". */
static inline const char *fake_skip_index(const char *text, uint32_t *ret_index)
{
    uint32_t index = 0;
    while (*text >= '0' && *text <= '9')
        index = index * 10 + (uint32_t)(*text++ - '0');
    *ret_index = index;
    return text + 1;
}

enum fm_status eng_weights_find(const struct eng_weights *weights, const char *name,
                                const struct eng_tensor **ret_tensor)
{
    struct eng_weights *fake = (struct eng_weights *)(uintptr_t)weights;
    const struct eng_hparams *hp = weights->hparams;
    struct fake_tensor *made = fm_alloc(sizeof(*made));
    struct fake_shape shape;
    char whole[FAKE_NAME_BYTES];
    const char *suffix = whole;
    uint32_t index = 0;
    uint32_t ratio = 0;

    if (weights->missing != NULL && strcmp(name, weights->missing) == 0) {
        fm_free(made);
        return FM_MISS;
    }
    if (made == NULL)
        return FM_MISS;
    (void)snprintf(made->name, sizeof(made->name), "%s", name);
    (void)snprintf(whole, sizeof(whole), "%s", name);
    bool is_scale = strlen(whole) > 6 && strcmp(whole + strlen(whole) - 6, ".scale") == 0;
    if (is_scale)
        (void)snprintf(whole + strlen(whole) - 5, 8, "weight");
    if (strncmp(whole, "layers.", 7) == 0) {
        suffix = fake_skip_index(whole + 7, &index);
        ratio = hp->compress_ratio[index];
    } else if (strncmp(whole, "mtp.", 4) == 0) {
        suffix = fake_skip_index(whole + 4, &index);
    }
    if (!fake_find_shape(hp, suffix, ratio, &shape)) {
        fm_free(made);
        return FM_MISS;
    }
    made->tensor.name = made->name;
    made->tensor.rank = shape.rows == 0 ? 1 : 2;
    made->tensor.dtype = is_scale ? fake->scale_dtype : shape.dtype;
    if (is_scale && shape.dtype == ENG_DTYPE_I8)
        shape.cols /= 32;
    else if (is_scale)
        shape = (struct fake_shape){NULL, shape.dtype, (shape.rows + 127) / 128,
                                    (shape.cols + 127) / 128};
    else if (shape.dtype == ENG_DTYPE_I8)
        shape.cols /= 2;
    made->tensor.dims[0] = shape.rows == 0 ? shape.cols : shape.rows;
    made->tensor.dims[1] = shape.rows == 0 ? 0 : shape.cols;
    made->next = fake->tensors;
    fake->tensors = made;
    *ret_tensor = &made->tensor;
    return FM_OK;
}

/* What was asked of eng_weights_read last. */
struct fake_read {
    const struct eng_tensor *tensor;
    uint64_t row_first, row_count;
};
extern struct fake_read fake_read;
struct fake_read fake_read;

enum fm_status eng_weights_read(const struct eng_weights *weights, const struct eng_tensor *tensor,
                                uint64_t row_first, uint64_t row_count, void *ret_rows,
                                struct fm_err *err)
{
    (void)weights;
    (void)ret_rows;
    (void)err;
    fake_read.tensor = tensor;
    fake_read.row_first = row_first;
    fake_read.row_count = row_count;
    return FM_OK;
}

static inline void fake_weights_done(struct eng_weights *weights)
{
    while (weights->tensors != NULL) {
        struct fake_tensor *next = weights->tensors->next;
        fm_free(weights->tensors);
        weights->tensors = next;
    }
}

/* ---- configurations ------------------------------------------------------------------------ */

/* The small random model of the tests, ratios 0 4 128 4 128 0, without a draft. */
static inline struct eng_hparams fake_tiny(void)
{
    struct eng_hparams hp = {
        .vocab_size = 512,
        .dim = 128,
        .layer_count = 6,
        .hc_streams = 4,
        .context_max = 4096,
        .head_count = 4,
        .head_dim = 256,
        .rope_dim = 64,
        .q_rank = 128,
        .out_groups = 2,
        .out_rank = 64,
        .window = 16,
        .index_heads = 4,
        .index_dim = 128,
        .index_topk = 8,
        .compress_ratio = {0, 4, 128, 4, 128, 0},
        .page_tokens = 128,
        .expert_count = 8,
        .experts_per_token = 2,
        .expert_dim = 128,
        .hash_layer_count = 1,
        .route_scale = 1.5F,
        .swiglu_limit = 1,
        .hc_sinkhorn_iters = 20,
        .hc_eps = 1e-6F,
        .norm_eps = 1e-6F,
        .linear_format = ENG_FORMAT_FP8,
        .expert_format = ENG_FORMAT_FP4,
    };
    return hp;
}

static inline void fake_add_mtp(struct eng_hparams *hp)
{
    hp->draft_kind = ENG_DRAFT_MTP;
    hp->draft_stage_count = 1;
}

static inline void fake_add_dspark(struct eng_hparams *hp)
{
    hp->draft_kind = ENG_DRAFT_DSPARK;
    hp->draft_stage_count = 3;
    hp->dspark_block_size = 3;
    hp->dspark_noise_token_id = hp->vocab_size - 1;
    hp->dspark_markov_rank = 32;
    hp->dspark_target_count = 3;
    for (uint32_t i = 0; i < 3; i++)
        hp->dspark_target_layer[i] = hp->layer_count - 3 + i;
}

/* DeepSeek-V4-Flash as released. */
static inline struct eng_hparams fake_flash(void)
{
    struct eng_hparams hp = fake_tiny();
    hp.vocab_size = 129280;
    hp.dim = 4096;
    hp.layer_count = 43;
    hp.head_count = 64;
    hp.head_dim = 512;
    hp.q_rank = 1024;
    hp.out_groups = 8;
    hp.out_rank = 1024;
    hp.window = 128;
    hp.index_heads = 64;
    hp.index_topk = 512;
    hp.expert_count = 256;
    hp.experts_per_token = 6;
    hp.expert_dim = 2048;
    hp.hash_layer_count = 3;
    for (uint32_t i = 2; i < 43; i++)
        hp.compress_ratio[i] = i % 2 == 0 ? 4 : 128;
    hp.compress_ratio[0] = hp.compress_ratio[1] = 0;
    return hp;
}

/* DeepSeek-V4-Pro as released. */
static inline struct eng_hparams fake_pro(void)
{
    struct eng_hparams hp = fake_flash();
    hp.dim = 7168;
    hp.layer_count = 61;
    hp.head_count = 128;
    hp.q_rank = 1536;
    hp.out_groups = 16;
    hp.index_topk = 1024;
    hp.expert_count = 384;
    hp.expert_dim = 3072;
    hp.route_scale = 2.5F;
    for (uint32_t i = 2; i < 61; i++)
        hp.compress_ratio[i] = i % 2 == 0 ? 4 : 128;
    hp.compress_ratio[0] = hp.compress_ratio[1] = 128;
    return hp;
}

/* State the programs; fails the test when that fails. */
static inline struct eng_programs *fake_build(struct eng_weights *weights,
                                              const struct eng_hparams *hp,
                                              const struct eng_program_options *options)
{
    struct eng_programs *programs = NULL;
    struct fm_err err = {0};
    *weights = (struct eng_weights){.hparams = hp, .scale_dtype = ENG_DTYPE_F8_E8M0};
    enum fm_status status = eng_programs_build(hp, weights, options, &programs, &err);
    ck_assert_msg(status == FM_OK, "%s", err.text);
    return programs;
}

#endif
