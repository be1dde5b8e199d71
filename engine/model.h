/* model.h - what a loaded model is made of: private to the engine and its tools. */
#ifndef ENG_MODEL_H
#define ENG_MODEL_H

#include "engine/engine.h"
#include "engine/hparams.h"
#include "engine/program.h"
#include "engine/weights.h"

/* Options that only comparisons need. */
struct eng_debug {
    bool keep_all;         /* as in eng_program_options */
    uint32_t inject_layer; /* ENG_LAYER_NONE: none */
    bool with_draft;       /* compile DRAFT too */
};

struct eng_engine {
    struct eng_info info;
    struct eng_hparams hparams;
    struct eng_weights *weights;
    struct eng_programs *programs;
    struct be_limits limits;
    struct be_device *device;
    struct be_exec *forward, *draft; /* draft: NULL unless asked for */
    struct be_event *done;

    uint64_t step_number;
    struct be_step *block; /* [block_bytes] */
    size_t block_bytes;
    float *logits;         /* [logit_rows_max, vocab] */
    float *scratch;        /* [vocab] */
    uint32_t *scratch_ids; /* [vocab] */
};

/* eng_open with debug options; NULL means none. */
enum fm_status eng_open_debug(const struct eng_options *options, const struct eng_debug *debug,
                              struct eng_engine **ret_engine, struct fm_err *err) FM_MUST_CHECK;

/* Copies, resets and the step of the plan through `exec`, up to its event; *ret_logit_count logit
 * rows can be read.  Worker thread. */
enum fm_status eng_step_run(struct eng_engine *engine, struct be_exec *exec,
                            const struct eng_plan *plan, uint32_t *ret_logit_count,
                            struct fm_err *err) FM_MUST_CHECK;

#endif
