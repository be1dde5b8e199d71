/* program.h - the model stated once: weights, state, and the programs that run it.
 *
 * Built at load from the configuration and the tensors of the checkpoint (their formats decide
 * which operations take the quantised form of their input).  What comes out is a be_model and up
 * to two programs over it:
 *   FORWARD  the whole backbone: tokens to logits.  With DSpark it ends in the context rows of the
 *            draft stages, which every committed token needs.
 *   DRAFT    MTP: the joined streams through one more block to logits; recursive over its own
 *            streams.  DSpark: a block of B tokens through the stages to B proposals.
 *
 * Both write down every edge that values and effects ask for (rule R2 of backend.h) and no other:
 * branches of a layer that do not feed one another stay unordered.
 *
 * Owner: who built it.  Immutable; any thread may read. */
#ifndef ENG_PROGRAM_H
#define ENG_PROGRAM_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/program.h"
#include "engine/hparams.h"
#include "engine/weights.h"
#include "kvcache/layout.h"

enum { ENG_LAYER_NONE = UINT32_MAX };

struct eng_program_options {
    /* Every value is an OUTPUT and so survives the step: for comparisons, not for serving. */
    bool keep_all;
    /* The streams that this backbone layer takes are the INPUT `injected` instead of what the
     * layer before gave; ENG_LAYER_NONE: of no layer.  The layers before still run. */
    uint32_t inject_layer;
    /* Compressor rows kept beyond those that the next entry needs: the most tokens that may be
     * rolled back.  0 without speculation. */
    uint32_t rollback_rows;
};

/* Values of one layer or draft stage, under the names that comparisons use; 0: the layer has no
 * such value.  All but the last layer's streams may be read after a step under keep_all only.
 *   layer.<i>.streams        bf16 [N, D], behind the layer
 *   layer.<i>.q, kv          bf16 [H, d], [d]
 *   layer.<i>.index_topk     select i32 [topk] ascending, -1 behind select_count i32 [1]
 *   layer.<i>.attn_out       bf16 [D]
 *   layer.<i>.experts        i32 [K];  expert_weights f32 [K];  moe_out bf16 [D] */
struct eng_layer_values {
    be_value_id streams, q, kv, select, select_count;
    be_value_id attn_out, experts, expert_weights, moe_out;
};

/* A program and what the caller addresses in it. */
struct eng_program {
    struct be_program program;
    be_value_id logits;     /* f32 [V], of logit rows; OUTPUT.  DSpark: with the Markov bias */
    be_value_id injected;   /* bf16 [N, D] INPUT: streams for inject_layer; 0 without */
    be_value_id join;       /* MTP: streams to join, bf16 [N, D], an INPUT of DRAFT; 0 otherwise */
    be_value_id streams;    /* behind the last layer; OUTPUT of FORWARD and of DRAFT under MTP */
    be_value_id tokens;     /* DSpark's DRAFT: i32 [B] of sequences; OUTPUT */
    be_value_id confidence; /* DSpark's DRAFT: f32 [B] of sequences; OUTPUT */
    /* [layer_count] of FORWARD, [stage_count] of DRAFT */
    const struct eng_layer_values *layers;
};

/* Where the bytes of a weight lie. */
struct eng_weight_source {
    const struct eng_tensor *data, *scale; /* scale NULL: the format has none */
};

struct eng_programs {
    struct be_model model;
    struct eng_program forward;
    struct eng_program draft;                /* draft.program.op_count 0: there is none */
    const struct eng_weight_source *sources; /* [model.weight_count], entry 0 unused */
    struct kv_layout layout;
    const struct eng_weights *weights;
    void *memory; /* private */
};

/* State the model.  `weights` has been checked against `hparams` and outlives the result; hparams
 * need not.
 *   FM_INVALID      an option is out of range
 *   FM_UNSUPPORTED  more draft stages or taps than operations have slots
 *   FM_CORRUPT      a tensor is missing
 *   FM_NOMEM
 * The programs have passed be_program_check. */
enum fm_status eng_programs_build(const struct eng_hparams *hparams,
                                  const struct eng_weights *weights,
                                  const struct eng_program_options *options,
                                  struct eng_programs **ret_programs,
                                  struct fm_err *err) FM_MUST_CHECK;

void eng_programs_free(struct eng_programs *programs); /* NULL is allowed */

/* The `read` of a be_reader whose context is a struct eng_programs: rows of the part as the
 * checkpoint stores them, their values checked.  FM_INVALID beyond the part, else as
 * eng_weights_read.  Any thread. */
enum fm_status eng_programs_read(void *programs, be_weight_id weight, enum be_part part,
                                 uint32_t row_first, uint32_t row_count, void *target,
                                 struct fm_err *err) FM_MUST_CHECK;

/* The state of that class and layer (draft stages are layers L, L+1, ...); 0 if there is none. */
be_state_id eng_programs_state(const struct eng_programs *programs, enum be_class class,
                               uint32_t layer);

#endif
