/* state.c - everything that the layers of one sequence have stored. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "engine/ref/model.h"

static bool layer_take(struct fm_arena *arena, const struct eng_ref_layer *layer,
                       uint32_t positions, struct eng_ref_layer_state *to)
{
    size_t p = positions, dim = layer->attn.dim;
    to->kv = fm_arena_take_array(arena, p, dim * sizeof *to->kv);
    bool is_taken = to->kv != NULL;
    if (layer->kind != ENG_LAYER_WINDOW) {
        size_t row_bytes = layer->main.wkv.rows * sizeof *to->main_k;
        to->entries = fm_arena_take_array(arena, p / layer->ratio + 1, dim * sizeof *to->entries);
        to->main_k = fm_arena_take_array(arena, p, row_bytes);
        to->main_g = fm_arena_take_array(arena, p, row_bytes);
        is_taken = is_taken && to->entries != NULL && to->main_k != NULL && to->main_g != NULL;
    }
    if (layer->kind == ENG_LAYER_CSA) {
        size_t row_bytes = layer->index.wkv.rows * sizeof *to->index_k;
        to->keys =
            fm_arena_take_array(arena, p / layer->ratio + 1, layer->index.width * sizeof *to->keys);
        to->index_k = fm_arena_take_array(arena, p, row_bytes);
        to->index_g = fm_arena_take_array(arena, p, row_bytes);
        is_taken = is_taken && to->keys != NULL && to->index_k != NULL && to->index_g != NULL;
    }
    return is_taken;
}

enum fm_status eng_ref_state_new(const struct eng_ref_model *model, uint32_t position_max,
                                 struct eng_ref_state **ret_state, struct fm_err *err)
{
    const struct eng_hparams *hp = model->hparams;
    struct eng_ref_state *state = fm_alloc(sizeof *state);
    if (state == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a reference state");
    state->position_max = position_max;
    fm_arena_init(&state->arena, SIZE_MAX);

    uint32_t layer_count = hp->layer_count + hp->draft_stage_count;
    size_t row_bytes = (size_t)hp->dim * sizeof *state->streams;
    state->layers = fm_arena_take_array(&state->arena, layer_count, sizeof *state->layers);
    bool is_taken = state->layers != NULL;
    for (uint32_t i = 0; i < layer_count && is_taken; i++)
        is_taken = layer_take(&state->arena, &model->layers[i], position_max, &state->layers[i]);
    if (is_taken && hp->draft_kind == ENG_DRAFT_MTP) {
        state->streams =
            fm_arena_take_array(&state->arena, position_max, hp->hc_streams * row_bytes);
        is_taken = state->streams != NULL;
    }
    if (is_taken && hp->draft_kind == ENG_DRAFT_DSPARK) {
        state->hidden =
            fm_arena_take_array(&state->arena, position_max, hp->dspark_target_count * row_bytes);
        is_taken = state->hidden != NULL;
    }
    if (!is_taken) {
        eng_ref_state_free(state);
        return FM_FAIL(err, FM_NOMEM, "no memory for a reference state of %u positions",
                       position_max);
    }
    *ret_state = state;
    return FM_OK;
}

void eng_ref_state_free(struct eng_ref_state *state)
{
    if (state == NULL)
        return;
    fm_arena_done(&state->arena);
    fm_free(state);
}

uint32_t eng_ref_state_length(const struct eng_ref_state *state)
{
    return state->length;
}

void eng_ref_state_rewind(struct eng_ref_state *state, uint32_t length)
{
    FM_ASSERT(length <= state->length);
    state->length = length;
}
