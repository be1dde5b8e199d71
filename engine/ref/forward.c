/* forward.c - a chunk through the backbone, and through the draft modules. */
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "engine/ref/head.h"
#include "engine/ref/model.h"
#include "engine/ref/mtp.h"
#include "engine/ref/norm.h"

enum fm_status eng_ref_exit_run(const struct eng_ref_model *model, const struct eng_ref_exit *exit,
                                const uint16_t *streams, uint32_t first, const char *prefix,
                                const struct eng_ref_hooks *hooks, struct fm_err *err)
{
    const struct eng_hparams *hp = model->hparams;
    enum fm_status status = FM_OK;
    float *scratch = fm_alloc_array(hp->dim, 2 * sizeof *scratch);
    float *logits = fm_alloc_array(hp->vocab_size, sizeof *logits);
    uint16_t *h = fm_alloc_array(hp->dim, sizeof *h);
    if (scratch == NULL || logits == NULL || h == NULL) {
        status = FM_FAIL(err, FM_NOMEM, "no memory for %u logits", hp->vocab_size);
        goto out_free;
    }
    eng_ref_logits(&exit->hyper, exit->norm, &model->head, streams, scratch, h, logits);
    struct eng_ref_tensor tensor = {.dtype = ENG_REF_F32,
                                    .first = first,
                                    .rank = 2,
                                    .dims = {1, hp->vocab_size},
                                    .data = logits};
    eng_ref_report(hooks, prefix, "logits", &tensor);
out_free:
    fm_free(scratch);
    fm_free(logits);
    fm_free(h);
    return status;
}

static enum fm_status ids_check(const struct eng_ref_model *model, const uint32_t *ids,
                                uint32_t count, struct fm_err *err)
{
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] >= model->hparams->vocab_size)
            return FM_FAIL(err, FM_INVALID, "token id %u is not below %u", ids[i],
                           model->hparams->vocab_size);
    return FM_OK;
}

/* Keep what the draft module wants of the backbone's streams after layer `layer_index`. */
static void keep(const struct eng_ref_run *run, uint32_t layer_index, const uint16_t *streams)
{
    const struct eng_hparams *hp = run->model->hparams;
    struct eng_ref_state *state = run->state;
    size_t row = (size_t)hp->hc_streams * hp->dim;
    if (state->streams != NULL && layer_index + 1 == hp->layer_count)
        memcpy(state->streams + run->first * row, streams, run->count * row * sizeof *streams);
    if (state->hidden == NULL)
        return;
    for (uint32_t target = 0; target < hp->dspark_target_count; target++)
        for (uint32_t i = 0; i < run->count && hp->dspark_target_layer[target] == layer_index;
             i++) {
            uint64_t at = (uint64_t)(run->first + i) * hp->dspark_target_count + target;
            eng_ref_tap(streams + i * row, hp->hc_streams, hp->dim, state->hidden + at * hp->dim);
        }
}

/* The block of run->layer_index, its input replaced if the hooks want that. */
static enum fm_status block_run(const struct eng_ref_run *run, uint16_t *streams,
                                struct fm_err *err)
{
    const struct eng_ref_hooks *hooks = run->hooks;
    if (hooks != NULL && hooks->inject != NULL)
        hooks->inject(hooks->context, run->layer_index, run->first, run->count, streams);
    return eng_ref_block(run, streams, err);
}

static enum fm_status layers_run(const struct eng_ref_run *chunk, uint16_t *streams,
                                 struct fm_err *err)
{
    for (uint32_t l = 0; l < chunk->model->hparams->layer_count; l++) {
        char prefix[32];
        (void)snprintf(prefix, sizeof prefix, "layer.%u.", l);
        struct eng_ref_run run = *chunk;
        run.layer_index = l;
        run.prefix = prefix;
        enum fm_status status = block_run(&run, streams, err);
        if (status != FM_OK)
            return status;
        keep(&run, l, streams);
    }
    return FM_OK;
}

enum fm_status eng_ref_forward(const struct eng_ref_model *model, struct eng_ref_state *state,
                               const uint32_t *ids, uint32_t count, uint32_t logits_first,
                               const struct eng_ref_hooks *hooks, struct fm_err *err)
{
    const struct eng_hparams *hp = model->hparams;
    size_t row = (size_t)hp->hc_streams * hp->dim;
    enum fm_status status = ids_check(model, ids, count, err);
    if (status != FM_OK)
        return status;
    if (count > state->position_max - state->length)
        return FM_FAIL(err, FM_LIMIT, "%u tokens behind %u do not fit into %u positions", count,
                       state->length, state->position_max);
    uint16_t *streams = fm_alloc_array(count, row * sizeof *streams);
    if (streams == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the streams of %u tokens", count);

    uint64_t mode = fm_numeric_enter();
    for (uint32_t i = 0; i < count; i++)
        eng_ref_embed(model->embed, ids[i], hp->hc_streams, hp->dim, streams + i * row);
    struct eng_ref_run run = {.model = model,
                              .state = state,
                              .hooks = hooks,
                              .first = state->length,
                              .count = count,
                              .ids = ids,
                              .block_first = UINT32_MAX};
    status = layers_run(&run, streams, err);
    for (uint32_t i = logits_first; i < count && status == FM_OK; i++)
        status =
            eng_ref_exit_run(model, &model->exit, streams + i * row, run.first + i, "", hooks, err);
    if (status == FM_OK && hp->draft_kind == ENG_DRAFT_DSPARK)
        status = eng_ref_dspark_context(model, state, run.first, count, hooks, err);
    if (status == FM_OK)
        state->length += count;
    fm_numeric_leave(mode);
    fm_free(streams);
    return status;
}

/* X' of MTP_JOIN for one row. */
static enum fm_status mtp_join(const struct eng_ref_model *model, struct fm_arena *arena,
                               const uint16_t *streams, uint32_t next_id, uint16_t *ret_x,
                               struct fm_err *err)
{
    const struct eng_hparams *hp = model->hparams;
    uint32_t n = hp->hc_streams, dim = hp->dim;
    struct eng_ref_input e_input, h_input;
    uint16_t *e = fm_arena_take_array(arena, dim, sizeof *e);
    uint16_t *h = fm_arena_take_array(arena, n, dim * sizeof *h);
    if (e == NULL || h == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a draft row");
    eng_ref_embed(model->embed, next_id, 1, dim, e);
    eng_ref_rmsnorm(e, model->enorm, 1, dim, hp->norm_eps, e);
    eng_ref_rmsnorm(streams, model->hnorm, n, dim, hp->norm_eps, h);
    enum fm_status status = eng_ref_input_make(arena, &model->e_proj, e, 1, &e_input, err);
    if (status == FM_OK)
        status = eng_ref_input_make(arena, &model->h_proj, h, n, &h_input, err);
    if (status != FM_OK)
        return status;
    eng_ref_linear_bf16(&model->e_proj, &e_input, 1, e);
    eng_ref_linear_bf16(&model->h_proj, &h_input, n, ret_x);
    eng_ref_mtp_join(e, ret_x, n, dim, ret_x);
    return FM_OK;
}

enum fm_status eng_ref_mtp(const struct eng_ref_model *model, struct eng_ref_state *state,
                           uint32_t first, const uint32_t *next_ids, uint32_t count,
                           const struct eng_ref_hooks *hooks, struct fm_err *err)
{
    const struct eng_hparams *hp = model->hparams;
    size_t row = (size_t)hp->hc_streams * hp->dim;
    FM_ASSERT(hp->draft_kind == ENG_DRAFT_MTP);
    FM_ASSERT(first <= state->length && count <= state->length - first);
    enum fm_status status = ids_check(model, next_ids, count, err);
    if (status != FM_OK)
        return status;

    struct fm_arena arena;
    fm_arena_init(&arena, SIZE_MAX);
    uint64_t mode = fm_numeric_enter();
    uint16_t *streams = fm_arena_take_array(&arena, count, row * sizeof *streams);
    if (streams == NULL)
        status = FM_FAIL(err, FM_NOMEM, "no memory for the streams of %u draft rows", count);
    for (uint32_t i = 0; i < count && status == FM_OK; i++)
        status = mtp_join(model, &arena, state->streams + (first + i) * row, next_ids[i],
                          streams + i * row, err);
    if (status == FM_OK) {
        struct eng_ref_tensor joined = {.dtype = ENG_REF_BF16,
                                        .first = first,
                                        .rank = 3,
                                        .dims = {count, hp->hc_streams, hp->dim},
                                        .data = streams};
        eng_ref_report(hooks, "mtp.0.", "input", &joined);
    }
    struct eng_ref_run run = {.model = model,
                              .state = state,
                              .hooks = hooks,
                              .layer_index = hp->layer_count,
                              .first = first,
                              .count = count,
                              .ids = next_ids,
                              .prefix = "mtp.0.",
                              .block_first = UINT32_MAX};
    if (status == FM_OK)
        status = block_run(&run, streams, err);
    for (uint32_t i = 0; i < count && status == FM_OK; i++)
        status = eng_ref_exit_run(model, &model->draft_exit, streams + i * row, first + i, "mtp.",
                                  hooks, err);
    fm_numeric_leave(mode);
    fm_arena_done(&arena);
    return status;
}

enum fm_status eng_ref_dspark_context(const struct eng_ref_model *model,
                                      struct eng_ref_state *state, uint32_t first, uint32_t count,
                                      const struct eng_ref_hooks *hooks, struct fm_err *err)
{
    const struct eng_hparams *hp = model->hparams;
    const struct eng_ref_weight *proj = &model->main_proj;
    struct fm_arena arena;
    struct eng_ref_input input;
    fm_arena_init(&arena, SIZE_MAX);
    if (hooks != NULL && hooks->inject_taps != NULL)
        hooks->inject_taps(hooks->context, first, count,
                           state->hidden + (uint64_t)first * proj->cols);
    uint16_t *m = fm_arena_take_array(&arena, count, hp->dim * sizeof *m);
    enum fm_status status = eng_ref_input_make(
        &arena, proj, state->hidden + (uint64_t)first * proj->cols, count, &input, err);
    if (status == FM_OK && m == NULL)
        status = FM_FAIL(err, FM_NOMEM, "no memory for %u context rows", count);
    if (status != FM_OK)
        goto out_arena;
    eng_ref_linear_bf16(proj, &input, count, m);
    eng_ref_rmsnorm(m, model->main_norm, count, hp->dim, hp->norm_eps, m);
    for (uint32_t s = 0; s < hp->draft_stage_count && status == FM_OK; s++) {
        const struct eng_ref_layer *layer = &model->layers[hp->layer_count + s];
        uint16_t *kv = state->layers[hp->layer_count + s].kv + (uint64_t)first * hp->head_dim;
        status = eng_ref_input_make(&arena, &layer->wkv, m, count, &input, err);
        if (status != FM_OK)
            break;
        eng_ref_linear_bf16(&layer->wkv, &input, count, kv);
        for (uint32_t i = 0; i < count; i++)
            eng_ref_kv_finish(&layer->attn, layer->kv_norm, first + i,
                              kv + (uint64_t)i * hp->head_dim);
    }
out_arena:
    fm_arena_done(&arena);
    return status;
}

/* The proposal from the block's streams after the last stage. */
static enum fm_status spark_propose(const struct eng_ref_model *model, struct fm_arena *arena,
                                    const uint16_t *streams, uint32_t next_id,
                                    const struct eng_ref_hooks *hooks, struct fm_err *err)
{
    const struct eng_hparams *hp = model->hparams;
    uint32_t block = hp->dspark_block_size, vocab = hp->vocab_size, dim = hp->dim;
    size_t row = (size_t)hp->hc_streams * dim;
    size_t scratch_count = (size_t)2 * dim + hp->dspark_markov_rank + vocab;
    uint16_t *hidden = fm_arena_take_array(arena, block, dim * sizeof *hidden);
    float *logits = fm_arena_take_array(arena, block, vocab * sizeof *logits);
    float *scratch = fm_arena_take_array(arena, scratch_count, sizeof *scratch);
    if (hidden == NULL || logits == NULL || scratch == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a proposal of %u tokens", block);
    for (uint32_t i = 0; i < block; i++)
        eng_ref_logits(&model->draft_exit.hyper, model->draft_exit.norm, &model->head,
                       streams + i * row, scratch, hidden + (uint64_t)i * dim,
                       logits + (uint64_t)i * vocab);
    struct eng_ref_propose propose = {.markov_w1 = model->markov_w1,
                                      .markov_w2 = model->markov_w2,
                                      .confidence = model->confidence,
                                      .block = block,
                                      .dim = dim,
                                      .base = logits,
                                      .hidden = hidden};
    uint32_t tokens[ENG_DRAFT_BLOCK_MAX];
    int64_t wide[ENG_DRAFT_BLOCK_MAX];
    float confidence[ENG_DRAFT_BLOCK_MAX];
    eng_ref_propose(&propose, next_id, scratch, tokens, confidence, logits);
    for (uint32_t i = 0; i < block; i++)
        wide[i] = tokens[i];
    struct eng_ref_tensor tensor = {.dtype = ENG_REF_I64, .rank = 1, .dims = {block}, .data = wide};
    eng_ref_report(hooks, "dspark.", "tokens", &tensor);
    tensor.dtype = ENG_REF_F32;
    tensor.data = confidence;
    eng_ref_report(hooks, "dspark.", "confidence", &tensor);
    tensor.rank = 2;
    tensor.dims[1] = vocab;
    tensor.data = logits;
    eng_ref_report(hooks, "dspark.", "logits", &tensor);
    return FM_OK;
}

enum fm_status eng_ref_dspark(const struct eng_ref_model *model, struct eng_ref_state *state,
                              uint32_t position, uint32_t next_id,
                              const struct eng_ref_hooks *hooks, struct fm_err *err)
{
    const struct eng_hparams *hp = model->hparams;
    uint32_t block = hp->dspark_block_size, ids[ENG_DRAFT_BLOCK_MAX];
    size_t row = (size_t)hp->hc_streams * hp->dim;
    FM_ASSERT(hp->draft_kind == ENG_DRAFT_DSPARK && block <= ENG_DRAFT_BLOCK_MAX);
    FM_ASSERT(position < state->length);
    if (block > state->position_max - position - 1)
        return FM_FAIL(err, FM_LIMIT, "a block of %u tokens behind %u does not fit into %u", block,
                       position, state->position_max);
    ids[0] = next_id;
    for (uint32_t i = 1; i < block; i++)
        ids[i] = hp->dspark_noise_token_id;
    enum fm_status status = ids_check(model, ids, block, err);
    if (status != FM_OK)
        return status;

    struct fm_arena arena;
    fm_arena_init(&arena, SIZE_MAX);
    uint64_t mode = fm_numeric_enter();
    uint16_t *streams = fm_arena_take_array(&arena, block, row * sizeof *streams);
    if (streams == NULL)
        status = FM_FAIL(err, FM_NOMEM, "no memory for a block of %u tokens", block);
    else
        for (uint32_t i = 0; i < block; i++)
            eng_ref_embed(model->embed, ids[i], hp->hc_streams, hp->dim, streams + i * row);
    for (uint32_t s = 0; s < hp->draft_stage_count && status == FM_OK; s++) {
        char prefix[32];
        struct eng_ref_run run = {.model = model,
                                  .state = state,
                                  .hooks = hooks,
                                  .layer_index = hp->layer_count + s,
                                  .first = position + 1,
                                  .count = block,
                                  .ids = ids,
                                  .prefix = prefix,
                                  .block_first = position + 1};
        (void)snprintf(prefix, sizeof prefix, "mtp.%u.", s);
        status = block_run(&run, streams, err);
    }
    if (status == FM_OK)
        status = spark_propose(model, &arena, streams, next_id, hooks, err);
    /* the block's rows lie behind `position`; where that is not the end of the sequence they have
     * overwritten context rows, which come back from the taps */
    if (status == FM_OK && position + 1 < state->length)
        status = eng_ref_dspark_context(model, state, position + 1, state->length - position - 1,
                                        hooks, err);
    fm_numeric_leave(mode);
    fm_arena_done(&arena);
    return status;
}
