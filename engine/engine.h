/* engine.h - a loaded model that runs steps.
 *
 * The engine owns the weights, the program and the device.  A caller hands it a plan (which
 * tokens of which sequences, whose pages, how to sample) and gets one answer for every draw.  The
 * plan is turned into a flat step block, submitted, waited for, and sampled from.
 *
 * Thread: eng_open and eng_free on any one thread; eng_run on the worker thread, one at a time;
 * what eng_info points to is immutable and may be read by all. */
#ifndef ENG_ENGINE_H
#define ENG_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/backend.h"
#include "kvcache/layout.h"
#include "kvcache/view.h"

struct eng_engine; /* opaque: model.c */

enum { ENG_LOGPROBS_MAX = 20, ENG_NAME_BYTES = 64 };

struct eng_options {
    const char *model_dir;
    const char *backend; /* NULL: the best that runs here */
    const char *variant; /* instruction level of the CPU backend; NULL: the best */
    uint32_t threads;    /* 0: all that the process may use */
    bool is_checked;     /* through backends/check */
    uint64_t check_seed;

    uint32_t context_max;    /* longest sequence; 0: what the model allows */
    uint32_t step_rows_max;  /* rows of one step */
    uint32_t seqs_max;       /* sequences that run at a time */
    uint32_t logit_rows_max; /* logit rows of one step */
    uint64_t kv_bytes;       /* for all pools together; 0: what seqs_max sequences of context_max
                              * need, at most a quarter of the memory */

    /* May be NULL.  On the thread of eng_open, at most a few hundred times. */
    void (*progress)(void *context, uint64_t bytes_done, uint64_t bytes_total);
    void *progress_context;
};

/* Facts about the loaded model; live as long as the engine. */
struct eng_info {
    char name[ENG_NAME_BYTES]; /* of the model directory */
    char architecture[ENG_NAME_BYTES];
    char backend[128]; /* caps.description */
    uint64_t parameter_count;
    uint64_t weight_bytes; /* as stored */
    uint32_t vocab;
    uint32_t context_max;
    uint32_t layer_count;
    uint32_t stage_count; /* draft stages */
    uint32_t bos, eos;
    uint32_t step_rows_max, seqs_max, logit_rows_max;
    struct kv_layout layout;
    uint32_t units[BE_POOL_COUNT]; /* for kv_options */
};

/* Load the model, open the device, compile.  Takes seconds to minutes. */
enum fm_status eng_open(const struct eng_options *options, struct eng_engine **ret_engine,
                        struct fm_err *err) FM_MUST_CHECK;
void eng_free(struct eng_engine *engine); /* NULL is allowed */
const struct eng_info *eng_info(const struct eng_engine *engine);

/* ---- sampling ------------------------------------------------------------------------------ */

struct eng_bias {
    uint32_t token;
    float bias;
};

/* How the next token of one sequence is drawn.  Order: masks, bias, repetition penalty, frequency
 * and presence penalty, temperature, top_k, top_p, min_p (each over what the one before left), and
 * one uniform number of (seed, choice, position).  A temperature below 1e-5 or top_p 0 takes the
 * largest logit, ties to the lower id.  Log probabilities are those of the logits as the model gave
 * them, before any of this. */
struct eng_sampling {
    float temperature;
    float top_p;              /* 1: off */
    float min_p;              /* 0: off */
    uint32_t top_k;           /* 0: off */
    float presence_penalty;   /* over generated tokens */
    float frequency_penalty;  /* over generated tokens */
    float repetition_penalty; /* over prompt and generated tokens; 1: off */
    uint64_t seed;
    bool wants_logprob;          /* of the chosen token */
    uint32_t logprob_count;      /* alternatives wanted, at most ENG_LOGPROBS_MAX */
    const uint64_t *allowed;     /* as eng_draw.mask, for the whole request; NULL: all */
    const struct eng_bias *bias; /* ascending by token */
    uint32_t bias_count;
};

/* One draw.  Everything pointed to stays unchanged while the step runs. */
struct eng_draw {
    const struct eng_sampling *sampling;
    const uint64_t *mask;   /* bit t % 64 of word t / 64: t may be drawn; NULL: all may */
    const uint32_t *banned; /* tokens that may not be drawn this time */
    uint32_t banned_count;
    uint32_t choice;        /* of the request */
    uint32_t position;      /* of the token among those of the choice, from 0 */
    const uint32_t *prompt; /* for repetition_penalty */
    uint32_t prompt_count;
    const uint32_t *generated; /* for the penalties */
    uint32_t generated_count;
    int64_t forced; /* >= 0: this token is the answer (log probabilities of a prompt) */
};

struct eng_candidate {
    uint32_t token;
    float logprob;
};

struct eng_drawn {
    uint32_t token;
    float logprob;
    uint32_t candidate_count; /* most probable first; ties to the lower id */
    struct eng_candidate candidates[ENG_LOGPROBS_MAX];
};

/* Draw from logits [vocab], which are left as they are.  scratch [vocab] and scratch_ids [vocab]
 * are the caller's.  When the masks leave nothing, they count for nothing.  Pure: the same
 * arguments give the same token on every machine.  The thread flushes denormals (numeric.h). */
void eng_sample(const float *logits, uint32_t vocab, const struct eng_draw *draw, float *scratch,
                uint32_t *scratch_ids, struct eng_drawn *ret_drawn);

/* ---- steps --------------------------------------------------------------------------------- */

/* Tokens [view.length, view.length + token_count) of one sequence. */
struct eng_span {
    struct kv_view view;
    const uint32_t *tokens;
    uint32_t token_count;
    bool is_decode;
    uint32_t logit_first;         /* rows from this one on give logits; token_count: none */
    const struct eng_draw *draws; /* draws_per_row for every logit row, row by row */
    uint32_t draws_per_row;       /* 1; n where one prompt is forked into n answers */
};

struct eng_plan {
    const struct be_copy *copies; /* before the step */
    uint32_t copy_count;
    const uint32_t *tail_resets; /* T slots, before the step */
    uint32_t tail_reset_count;
    const struct eng_span *spans;
    uint32_t span_count;
};

/* Run one step: copies and resets, then the rows (none is allowed).  ret_drawn [sum over spans of
 * logit rows x draws_per_row] in the order of spans, rows and draws.  On failure the spans' state
 * is undefined from view.length on; after FM_DEVICE the engine can run no more.  Waits for the
 * device: worker thread. */
enum fm_status eng_run(struct eng_engine *engine, const struct eng_plan *plan,
                       struct eng_drawn *ret_drawn, struct fm_err *err) FM_MUST_CHECK;

#endif
