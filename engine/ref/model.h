/* model.h - what the driver's files share: weights by layer, and a sequence's state. */
#ifndef ENG_REF_MODEL_H
#define ENG_REF_MODEL_H

#include "backends/base/arena.h"
#include "engine/ref/attn.h"
#include "engine/ref/compress.h"
#include "engine/ref/dspark.h"
#include "engine/ref/hyper.h"
#include "engine/ref/indexer.h"
#include "engine/ref/moe.h"
#include "engine/ref/ref.h"

struct eng_ref_expert {
    struct eng_ref_weight w1, w2, w3;
};

/* A block of the backbone or of the draft. */
struct eng_ref_layer {
    enum eng_layer_kind kind;
    uint32_t ratio;
    const uint16_t *attn_norm, *ffn_norm, *q_norm, *kv_norm;
    const float *sink;
    struct eng_ref_hyper hc_attn, hc_ffn;
    struct eng_ref_attn attn;
    struct eng_ref_weight wq_a, wq_b, wkv, wo_a, wo_b;
    struct eng_ref_compress main, index; /* of the kinds that have them */
    struct eng_ref_indexer indexer;
    struct eng_ref_weight index_wq_b, index_weights;
    struct eng_ref_weight gate;
    struct eng_ref_route route;
    struct eng_ref_expert shared, *experts; /* [E] */
};

/* A final norm with its collapse: of the backbone, of MTP, of the last DSpark stage. */
struct eng_ref_exit {
    struct eng_ref_hyper hyper;
    const uint16_t *norm;
};

struct eng_ref_model {
    const struct eng_hparams *hparams;
    struct fm_arena arena;        /* everything below and the copies it points to */
    struct eng_ref_layer *layers; /* [layer_count + draft_stage_count] */
    const void *embed;            /* [V, D] bf16, mapped */
    struct eng_ref_weight head;
    struct eng_ref_exit exit, draft_exit;
    struct eng_ref_weight e_proj, h_proj; /* MTP */
    const uint16_t *enorm, *hnorm;
    struct eng_ref_weight main_proj; /* DSpark */
    const uint16_t *main_norm;
    struct eng_ref_weight markov_w1, markov_w2, confidence;
};

/* Indexed by position, or by entry; capacity: the state's position_max. */
struct eng_ref_layer_state {
    uint16_t *kv;             /* [positions, d] */
    uint16_t *entries, *keys; /* [positions / r, d], [positions / r, di] */
    float *main_k, *main_g;   /* [positions, cf * d], raw rows */
    float *index_k, *index_g; /* [positions, 2 * di] */
};

struct eng_ref_state {
    uint32_t length, position_max;
    struct fm_arena arena;
    struct eng_ref_layer_state *layers; /* as the model's */
    uint16_t *streams;                  /* MTP: [positions, N, D] after the last layer */
    uint16_t *hidden;                   /* DSpark: [positions, targets, D] taps */
};

/* What a run of a block needs to know. */
struct eng_ref_run {
    const struct eng_ref_model *model;
    struct eng_ref_state *state;
    const struct eng_ref_hooks *hooks;
    uint32_t layer_index;
    uint32_t first, count; /* positions of the rows */
    const uint32_t *ids;   /* [count], for hash routing */
    const char *prefix;    /* of the reported names, "layer.3."; NULL: report nothing */
    uint32_t block_first;  /* DSpark block: rows from here on see each other and are not stored;
                              UINT32_MAX for an ordinary block */
};

/* streams [count, N, D] through one block, in place.  FM_NOMEM. */
enum fm_status eng_ref_block(const struct eng_ref_run *run, uint16_t *streams,
                             struct fm_err *err) FM_MUST_CHECK;

/* The input form of `weight` for x [count, dim] bf16, taken from the arena: act_quant for FP8 and
 * FP4, widened for BF16.  FM_NOMEM. */
enum fm_status eng_ref_input_make(struct fm_arena *arena, const struct eng_ref_weight *weight,
                                  const uint16_t *x, uint32_t count,
                                  struct eng_ref_input *ret_input,
                                  struct fm_err *err) FM_MUST_CHECK;

/* Tell the hook; the name is prefix followed by name. */
void eng_ref_report(const struct eng_ref_hooks *hooks, const char *prefix, const char *name,
                    const struct eng_ref_tensor *tensor);

/* Logits of streams [N, D] through an exit, reported as prefix "logits" at row `first`. */
enum fm_status eng_ref_exit_run(const struct eng_ref_model *model, const struct eng_ref_exit *exit,
                                const uint16_t *streams, uint32_t first, const char *prefix,
                                const struct eng_ref_hooks *hooks,
                                struct fm_err *err) FM_MUST_CHECK;

/* DSpark's context rows of positions [first, first + count) from the state's taps. */
enum fm_status eng_ref_dspark_context(const struct eng_ref_model *model,
                                      struct eng_ref_state *state, uint32_t first, uint32_t count,
                                      const struct eng_ref_hooks *hooks,
                                      struct fm_err *err) FM_MUST_CHECK;

#endif
