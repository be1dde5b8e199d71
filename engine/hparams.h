/* hparams.h - what config.json says about a model, checked, in numbers.
 *
 * A plain struct: filled in once at load, never written afterwards, read by every thread.  A size
 * that the file does not give is an error, because a wrong guess gives a model that runs and is
 * wrong; defaults exist only where the published code has them too (both epsilons 1e-6, YaRN's betas
 * 32 and 1, bos 0, eos 1).  Symbols in capitals are those of the model's description (D hidden,
 * L layers, H heads, ...).
 *
 * Draft blocks are not decided here: configurations in circulation state their number wrongly.
 * eng_weights_draft() (weights.h) finds them by their tensors and eng_hparams_draft_set() writes
 * them down.  eng_weights_load() does all of it. */
#ifndef ENG_HPARAMS_H
#define ENG_HPARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/status.h"

enum {
    ENG_LAYERS_MAX = 128,      /* backbone layers */
    ENG_DRAFT_STAGES_MAX = 8,  /* mtp.<i> blocks */
    ENG_DRAFT_TARGETS_MAX = 8, /* layers whose outputs feed DSpark */
    ENG_DRAFT_BLOCK_MAX = 16,  /* tokens of a DSpark block */
    ENG_ROPE_PAIRS_MAX = 128,  /* R / 2 */
    ENG_STREAMS_MAX = 8,       /* N */
    ENG_EXPERTS_MAX = 4096,    /* E */
    ENG_EXPERTS_USED_MAX = 64, /* K */
    ENG_PAGE_TOKENS_MAX = 4096,
    ENG_CONTEXT_MAX = 1 << 24, /* positions beyond are not exact in fp32, as rotation needs them */
    ENG_CONFIG_BYTES_MAX = 1 << 18,
};

/* How the elements of a linear's weight are stored (and so how its input is quantised). */
enum eng_format {
    ENG_FORMAT_BF16, /* no scale; the input stays bf16 */
    ENG_FORMAT_FP8,  /* e4m3, one scale per 128 x 128 tile; the input is quantised per 128 */
    ENG_FORMAT_FP4,  /* e2m1, two per byte, one scale per 32 inputs; the input as for FP8 */
};

enum eng_layer_kind {
    ENG_LAYER_WINDOW, /* ratio 0: sliding window only */
    ENG_LAYER_CSA,    /* ratio 4: window and top-k of overlapping compressed entries, indexer */
    ENG_LAYER_HCA,    /* any other ratio: window and all compressed entries */
};

enum eng_draft_kind {
    ENG_DRAFT_NONE,
    ENG_DRAFT_MTP,    /* one block that joins the streams with the next token's embedding */
    ENG_DRAFT_DSPARK, /* stages that propose a block of tokens at once */
};

struct eng_hparams {
    /* Shape of the backbone. */
    uint32_t vocab_size;  /* V */
    uint32_t dim;         /* D, a multiple of 128 */
    uint32_t layer_count; /* L */
    uint32_t hc_streams;  /* N, hyper-connection streams */
    uint32_t context_max; /* tokens: max_position_embeddings */
    uint32_t bos_token_id, eos_token_id;

    /* Attention. */
    uint32_t head_count;  /* H */
    uint32_t head_dim;    /* d, with the rotated part */
    uint32_t rope_dim;    /* R, the last R of each head's d; d - R is a multiple of 64 */
    uint32_t q_rank;      /* Q, a multiple of 128 */
    uint32_t out_groups;  /* G, divides H */
    uint32_t out_rank;    /* O, per group */
    uint32_t window;      /* W, counts the query's own token */
    uint32_t index_heads; /* Hi */
    uint32_t index_dim;   /* di, a power of two and a multiple of 32, at least R */
    uint32_t index_topk;

    /* Ratio of each layer: [0, L) the backbone, [L, L + draft_stage_count) the draft, all 0. */
    uint32_t compress_ratio[ENG_LAYERS_MAX + ENG_DRAFT_STAGES_MAX];
    /* Tokens of a page: the least common multiple of window and of every ratio above 0. */
    uint32_t page_tokens;

    /* Mixture of experts. */
    uint32_t expert_count;      /* E */
    uint32_t experts_per_token; /* K */
    uint32_t expert_dim;        /* I, routed and shared; a multiple of 128 */
    uint32_t hash_layer_count;  /* layers [0, n) choose experts by token id */
    float route_scale;
    float swiglu_limit;

    /* Norms and hyper-connections. */
    uint32_t hc_sinkhorn_iters;
    float hc_eps;
    float norm_eps;

    /* Rotation.  inv_plain is for layers of ratio 0 and for draft blocks, inv_yarn for everything
     * in a layer of another ratio; both have rope_dim / 2 entries, fp32 as the reference's. */
    double rope_theta;
    double compress_rope_theta;
    double yarn_factor;
    double yarn_beta_fast, yarn_beta_slow;
    uint32_t yarn_original_context; /* tokens */
    float inv_plain[ENG_ROPE_PAIRS_MAX];
    float inv_yarn[ENG_ROPE_PAIRS_MAX];

    /* Storage. */
    enum eng_format linear_format; /* BF16 or FP8: every linear but gates, compressors and head */
    enum eng_format expert_format; /* routed experts: FP4, FP8 or BF16 */

    /* Draft.  The dspark_* fields are 0 when config.json has no such keys. */
    enum eng_draft_kind draft_kind;
    uint32_t draft_stage_count;
    uint32_t dspark_block_size;
    uint32_t dspark_noise_token_id;
    uint32_t dspark_markov_rank;
    uint32_t dspark_target_count;
    uint32_t dspark_target_layer[ENG_DRAFT_TARGETS_MAX]; /* ascending */
};

/* Read the text of config.json (not NUL-terminated, at most ENG_CONFIG_BYTES_MAX bytes), in the
 * released spelling, in that of the published inference code or in that of recent transformers;
 * check every field and compute the rest.  draft_kind is ENG_DRAFT_NONE afterwards.
 *
 *   FM_CORRUPT      not JSON, a key twice, a value of the wrong kind or out of its bounds
 *   FM_UNSUPPORTED  another architecture (DeepSeek-V4.1 among them), or a variant of this one that
 *                   is not implemented; the sentence says which key and why
 *   FM_LIMIT        longer than ENG_CONFIG_BYTES_MAX
 * Pure, allocates nothing.  Any thread. */
enum fm_status eng_hparams_parse(const char *text, size_t bytes, struct eng_hparams *ret_hparams,
                                 struct fm_err *err) FM_MUST_CHECK;

/* Write down the draft blocks that the tensors show: kind NONE with 0 stages, MTP with 1, DSPARK
 * with up to ENG_DRAFT_STAGES_MAX.  FM_CORRUPT when config.json lacks what that kind needs (the
 * dspark_* keys), hparams unchanged. */
enum fm_status eng_hparams_draft_set(struct eng_hparams *hparams, enum eng_draft_kind kind,
                                     uint32_t stage_count, struct fm_err *err) FM_MUST_CHECK;

/* The kind of layer `layer_index` in [0, layer_count + draft_stage_count). */
enum eng_layer_kind eng_hparams_layer_kind(const struct eng_hparams *hparams, uint32_t layer_index);

/* "bf16", "fp8", "fp4". */
const char *eng_format_name(enum eng_format format);

#endif
