/* block.c - one block over the rows of a chunk: attention, experts, hyper-connections. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/numeric.h"
#include "engine/ref/model.h"
#include "engine/ref/norm.h"

/* The memory of one block and the first failure in it. */
struct work {
    const struct eng_ref_run *run;
    const struct eng_ref_layer *layer;
    struct eng_ref_layer_state *state;
    struct fm_arena arena;
    struct fm_err *err;
};

enum fm_status eng_ref_input_make(struct fm_arena *arena, const struct eng_ref_weight *weight,
                                  const uint16_t *x, uint32_t count,
                                  struct eng_ref_input *ret_input, struct fm_err *err)
{
    uint32_t dim = weight->cols;
    float *values = fm_arena_take_array(arena, count, dim * sizeof *values);
    uint8_t *scales = fm_arena_take_array(arena, count, dim / FM_ACT_BLOCK + 1);
    if (values == NULL || scales == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u rows of %u values", count, dim);
    *ret_input = (struct eng_ref_input){.values = values, .stride = dim};
    if (weight->format == ENG_FORMAT_BF16) {
        eng_ref_widen(x, (uint64_t)count * dim, values);
    } else {
        eng_ref_act_quant(x, count, dim, values, scales);
        ret_input->scales = scales;
        ret_input->scale_stride = dim / FM_ACT_BLOCK;
    }
    return FM_OK;
}

/* bf(weight x), a new array [count, rows]; NULL when memory is short. */
static uint16_t *project(struct work *work, const struct eng_ref_weight *weight, const uint16_t *x,
                         uint32_t count)
{
    struct eng_ref_input input;
    uint16_t *y = fm_arena_take_array(&work->arena, count, weight->rows * sizeof *y);
    if (y == NULL || x == NULL ||
        eng_ref_input_make(&work->arena, weight, x, count, &input, work->err) != FM_OK)
        return NULL;
    eng_ref_linear_bf16(weight, &input, count, y);
    return y;
}

void eng_ref_report(const struct eng_ref_hooks *hooks, const char *prefix, const char *name,
                    const struct eng_ref_tensor *tensor)
{
    if (hooks == NULL || hooks->report == NULL || prefix == NULL)
        return;
    char full[64];
    struct eng_ref_tensor named = *tensor;
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    named.name = full;
    hooks->report(hooks->context, &named);
}

/* Report rows of the chunk: [count, cols]. */
static void report(const struct work *work, const char *name, enum eng_ref_dtype dtype,
                   uint32_t cols, const void *data)
{
    struct eng_ref_tensor tensor = {.dtype = dtype,
                                    .first = work->run->first,
                                    .rank = 2,
                                    .dims = {work->run->count, cols},
                                    .data = data};
    eng_ref_report(work->run->hooks, work->run->prefix, name, &tensor);
}

/* Report entries [first, end) that the chunk completed. */
static void report_entries(const struct work *work, const char *name, uint32_t first, uint32_t end,
                           uint32_t width, const uint16_t *entries)
{
    struct eng_ref_tensor tensor = {.dtype = ENG_REF_BF16,
                                    .first = first,
                                    .rank = 2,
                                    .dims = {end - first, width},
                                    .data = entries + (uint64_t)first * width};
    eng_ref_report(work->run->hooks, work->run->prefix, name, &tensor);
}

/* COMPRESS and COMPRESS_INDEX: the raw rows of the chunk, then every entry whose group ends in it.
 * k and g hold all rows since position 0. */
static enum fm_status compress_rows(struct work *work, const struct eng_ref_compress *compress,
                                    const float *x, float *k, float *g, uint16_t *entries)
{
    const struct eng_ref_run *run = work->run;
    uint32_t columns = compress->wkv.rows, ratio = compress->ratio;
    uint32_t slots = compress->is_overlap ? 2 * ratio : ratio;
    float *scratch = fm_arena_take_array(&work->arena, compress->width, sizeof *scratch);
    float *gathered_k = fm_arena_take_array(&work->arena, slots, columns * sizeof *gathered_k);
    float *gathered_g = fm_arena_take_array(&work->arena, slots, columns * sizeof *gathered_g);
    if (scratch == NULL || gathered_k == NULL || gathered_g == NULL)
        return FM_FAIL(work->err, FM_NOMEM, "no memory for a compressed entry");

    for (uint32_t i = 0; i < run->count; i++) {
        uint64_t at = (uint64_t)(run->first + i) * columns;
        eng_ref_compress_row(compress, x + (uint64_t)i * compress->wkv.cols, run->first + i, k + at,
                             g + at);
    }
    uint32_t end = (run->first + run->count) / ratio;
    for (uint32_t j = run->first / ratio; j < end; j++) {
        for (uint32_t s = 0; s < slots; s++) {
            int64_t position = (int64_t)(j + 1) * ratio - slots + s;
            for (uint32_t c = 0; c < columns; c++) {
                uint64_t at = (uint64_t)position * columns + c;
                gathered_k[s * columns + c] = position < 0 ? 0.0f : k[at];
                gathered_g[s * columns + c] = position < 0 ? -INFINITY : g[at];
            }
        }
        eng_ref_compress_entry(compress, gathered_k, gathered_g, j, scratch,
                               entries + (uint64_t)j * compress->width);
    }
    return FM_OK;
}

/* INDEX_QUERY and INDEX_SELECT: which entries each row attends to, [count, topk], -1 behind. */
static enum fm_status select_entries(struct work *work, const uint16_t *x, const uint16_t *qr,
                                     int64_t *ret_selected)
{
    const struct eng_ref_run *run = work->run;
    const struct eng_ref_layer *layer = work->layer;
    const struct eng_ref_indexer *indexer = &layer->indexer;
    uint32_t entry_count = (run->first + run->count) / layer->ratio, heads = indexer->heads;
    uint16_t *qi = project(work, &layer->index_wq_b, qr, run->count);
    float *iw = fm_arena_take_array(&work->arena, run->count, heads * sizeof *iw);
    float *scratch = fm_arena_take_array(&work->arena, indexer->dim, sizeof *scratch);
    uint16_t *scores = fm_arena_take_array(&work->arena, run->count, entry_count * sizeof *scores);
    uint32_t *chosen = fm_arena_take_array(&work->arena, indexer->topk, sizeof *chosen);
    struct eng_ref_input input;
    if (qi == NULL || iw == NULL || scratch == NULL || scores == NULL || chosen == NULL ||
        eng_ref_input_make(&work->arena, &layer->index_weights, x, run->count, &input, work->err) !=
            FM_OK)
        return FM_FAIL(work->err, FM_NOMEM, "no memory for the indexer of %u rows", run->count);

    eng_ref_linear(&layer->index_weights, &input, run->count, iw);
    for (uint32_t i = 0; i < run->count; i++) {
        uint16_t *query = qi + (uint64_t)i * heads * indexer->dim;
        uint16_t *row_scores = scores + (uint64_t)i * entry_count;
        int64_t *selected = ret_selected + (uint64_t)i * indexer->topk;
        uint32_t visible = eng_ref_compress_visible(run->first + i, layer->ratio);
        eng_ref_index_query(indexer, run->first + i, scratch, query);
        eng_ref_index_weights(indexer, iw + (uint64_t)i * heads, iw + (uint64_t)i * heads);
        eng_ref_index_scores(indexer, query, iw + (uint64_t)i * heads, work->state->keys,
                             entry_count, row_scores);
        uint32_t count = eng_ref_index_select(indexer, row_scores, visible, chosen);
        for (uint32_t s = 0; s < indexer->topk; s++)
            selected[s] = s < count ? (int64_t)chosen[s] : -1;
    }
    report(work, "index_scores", ENG_REF_BF16, entry_count, scores);
    report(work, "index_topk", ENG_REF_I64, indexer->topk, ret_selected);
    return FM_OK;
}

/* Append row `from` [dim] to rows; answers the new count. */
static uint32_t append(uint16_t *rows, uint32_t count, const uint16_t *from, uint32_t dim)
{
    memcpy(rows + (uint64_t)count * dim, from, dim * sizeof *rows);
    return count + 1;
}

/* The rows that row i of the chunk sees, in the order of attn.h: window, then entries. */
static uint32_t gather(const struct work *work, uint32_t i, const int64_t *selected,
                       uint16_t *ret_rows)
{
    const struct eng_ref_run *run = work->run;
    const struct eng_ref_layer *layer = work->layer;
    uint32_t dim = layer->attn.dim, window = run->model->hparams->window, count = 0;
    uint32_t position = run->first + i, end = position + 1, newest = position;
    if (run->block_first != UINT32_MAX) { /* DSpark: the ring up to the committed position */
        newest = run->block_first - 1;
        end = run->first + run->count;
    }
    for (uint32_t t = newest + 1 > window ? newest + 1 - window : 0; t < end; t++)
        count = append(ret_rows, count, work->state->kv + (uint64_t)t * dim, dim);
    if (layer->kind == ENG_LAYER_WINDOW)
        return count;
    uint32_t visible = eng_ref_compress_visible(position, layer->ratio);
    for (uint32_t s = 0; s < (selected != NULL ? layer->indexer.topk : visible); s++) {
        int64_t entry = selected != NULL ? selected[(uint64_t)i * layer->indexer.topk + s] : s;
        if (entry >= 0)
            count = append(ret_rows, count, work->state->entries + (uint64_t)entry * dim, dim);
    }
    return count;
}

/* ATTEND, OUT_GROUPED, OUT_PROJECT of all rows: [count, D], or NULL. */
static uint16_t *attend(struct work *work, const uint16_t *q, const int64_t *selected)
{
    const struct eng_ref_run *run = work->run;
    const struct eng_ref_layer *layer = work->layer;
    const struct eng_hparams *hp = run->model->hparams;
    size_t dim = layer->attn.dim, q_dim = layer->attn.heads * dim;
    size_t row_max = (size_t)run->model->hparams->window + run->count + 1;
    if (layer->kind != ENG_LAYER_WINDOW)
        row_max += (run->first + run->count) / layer->ratio;
    uint16_t *rows = fm_arena_take_array(&work->arena, row_max, dim * sizeof *rows);
    uint16_t *o = fm_arena_take_array(&work->arena, q_dim, sizeof *o);
    float *wide = fm_arena_take_array(&work->arena, q_dim, sizeof *wide);
    uint16_t *u = fm_arena_take_array(&work->arena, run->count, layer->wo_a.rows * sizeof *u);
    if (rows == NULL || o == NULL || wide == NULL || u == NULL)
        return NULL;
    for (uint32_t i = 0; i < run->count; i++) {
        uint32_t row_count = gather(work, i, selected, rows);
        FM_ASSERT(row_count <= row_max);
        eng_ref_attend(&layer->attn, q + i * q_dim, rows, row_count, layer->sink, run->first + i,
                       o);
        eng_ref_widen(o, q_dim, wide);
        eng_ref_out_grouped(&layer->wo_a, wide, hp->out_groups, u + (uint64_t)i * layer->wo_a.rows);
    }
    return project(work, &layer->wo_b, u, run->count);
}

/* x [count, D] normed; answers [count, D], or NULL when memory is short. */
static uint16_t *attention(struct work *work, const uint16_t *x)
{
    const struct eng_ref_run *run = work->run;
    const struct eng_ref_layer *layer = work->layer;
    uint32_t n = run->count, dim = layer->attn.dim, heads = layer->attn.heads;
    uint16_t *qr = project(work, &layer->wq_a, x, n);
    uint16_t *kv = project(work, &layer->wkv, x, n);
    if (qr == NULL || kv == NULL)
        return NULL;
    eng_ref_rmsnorm(qr, layer->q_norm, n, layer->wq_a.rows, layer->attn.norm_eps, qr);
    uint16_t *q = project(work, &layer->wq_b, qr, n);
    if (q == NULL)
        return NULL;
    for (uint32_t i = 0; i < n; i++) {
        eng_ref_q_finish(&layer->attn, run->first + i, q + (uint64_t)i * heads * dim);
        eng_ref_kv_finish(&layer->attn, layer->kv_norm, run->first + i, kv + (uint64_t)i * dim);
    }
    memcpy(work->state->kv + (uint64_t)run->first * dim, kv, (size_t)n * dim * sizeof *kv);
    report(work, "q", ENG_REF_BF16, heads * dim, q);
    report(work, "kv", ENG_REF_BF16, dim, kv);

    int64_t *selected = NULL;
    if (layer->kind != ENG_LAYER_WINDOW) {
        uint32_t first = run->first / layer->ratio, end = (run->first + n) / layer->ratio;
        float *wide = fm_arena_take_array(&work->arena, n, layer->main.wkv.cols * sizeof *wide);
        if (wide == NULL)
            return NULL;
        eng_ref_widen(x, (uint64_t)n * layer->main.wkv.cols, wide);
        if (compress_rows(work, &layer->main, wide, work->state->main_k, work->state->main_g,
                          work->state->entries) != FM_OK)
            return NULL;
        report_entries(work, "compressed", first, end, dim, work->state->entries);
        if (layer->kind == ENG_LAYER_CSA) {
            if (compress_rows(work, &layer->index, wide, work->state->index_k, work->state->index_g,
                              work->state->keys) != FM_OK)
                return NULL;
            report_entries(work, "index_keys", first, end, layer->index.width, work->state->keys);
            selected = fm_arena_take_array(&work->arena, n, layer->indexer.topk * sizeof *selected);
            if (selected == NULL || select_entries(work, x, qr, selected) != FM_OK)
                return NULL;
        }
    }
    return attend(work, q, selected);
}

/* y = w2 bf(swiglu(w1 x, w3 x) * weight) of one row: [D], or NULL. */
static uint16_t *expert(struct work *work, const struct eng_ref_expert *expert, const uint16_t *x,
                        const float *weight)
{
    uint16_t *g = project(work, &expert->w1, x, 1);
    uint16_t *u = project(work, &expert->w3, x, 1);
    if (g == NULL || u == NULL)
        return NULL;
    eng_ref_swiglu(g, u, expert->w1.rows, work->run->model->hparams->swiglu_limit, weight, g);
    return project(work, &expert->w2, g, 1);
}

/* The experts of one row, summed into ret_f. */
static bool moe_row(struct work *work, const uint16_t *x, const int64_t *experts,
                    const float *weights, uint16_t *y, uint16_t *ret_f)
{
    uint32_t used = work->layer->route.used, dim = work->run->model->hparams->dim;
    uint32_t ids[ENG_EXPERTS_USED_MAX];
    for (uint32_t s = 0; s < used; s++) {
        ids[s] = (uint32_t)experts[s];
        const uint16_t *one = expert(work, &work->layer->experts[ids[s]], x, &weights[s]);
        if (one == NULL)
            return false;
        memcpy(y + (uint64_t)s * dim, one, dim * sizeof *y);
    }
    const uint16_t *shared = expert(work, &work->layer->shared, x, NULL);
    if (shared == NULL)
        return false;
    eng_ref_expert_sum(ids, used, y, shared, dim, ret_f);
    return true;
}

/* x [count, D] normed; answers [count, D], or NULL. */
static uint16_t *moe(struct work *work, const uint16_t *x)
{
    const struct eng_ref_run *run = work->run;
    const struct eng_ref_layer *layer = work->layer;
    uint32_t n = run->count, used = layer->route.used, dim = run->model->hparams->dim;
    struct eng_ref_input input;
    float *logits = fm_arena_take_array(&work->arena, n, layer->gate.rows * sizeof *logits);
    float *scratch = fm_arena_take_array(&work->arena, layer->gate.rows, sizeof *scratch);
    int64_t *experts = fm_arena_take_array(&work->arena, n, used * sizeof *experts);
    float *weights = fm_arena_take_array(&work->arena, n, used * sizeof *weights);
    uint16_t *y = fm_arena_take_array(&work->arena, used, dim * sizeof *y);
    uint16_t *f = fm_arena_take_array(&work->arena, n, dim * sizeof *f);
    if (logits == NULL || scratch == NULL || experts == NULL || weights == NULL || y == NULL ||
        f == NULL ||
        eng_ref_input_make(&work->arena, &layer->gate, x, n, &input, work->err) != FM_OK)
        return NULL;

    eng_ref_linear(&layer->gate, &input, n, logits);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t chosen[ENG_EXPERTS_USED_MAX];
        eng_ref_route(&layer->route, logits + (uint64_t)i * layer->gate.rows, run->ids[i], scratch,
                      chosen, weights + (uint64_t)i * used);
        for (uint32_t s = 0; s < used; s++)
            experts[(uint64_t)i * used + s] = chosen[s];
        if (!moe_row(work, x + (uint64_t)i * dim, experts + (uint64_t)i * used,
                     weights + (uint64_t)i * used, y, f + (uint64_t)i * dim))
            return NULL;
    }
    report(work, "experts", ENG_REF_I64, used, experts);
    report(work, "expert_weights", ENG_REF_F32, used, weights);
    return f;
}

/* One sublayer between its hyper-connections, on streams [count, N, D]. */
static enum fm_status sublayer(struct work *work, const struct eng_ref_hyper *hyper,
                               const uint16_t *norm, bool is_attention, uint16_t *streams)
{
    uint32_t n = work->run->count, dim = hyper->dim, k = hyper->streams;
    uint16_t *x = fm_arena_take_array(&work->arena, n, dim * sizeof *x);
    float *post = fm_arena_take_array(&work->arena, n, k * sizeof *post);
    float *comb = fm_arena_take_array(&work->arena, n, k * k * sizeof *comb);
    uint16_t *old = fm_arena_take_array(&work->arena, k, dim * sizeof *old);
    if (x == NULL || post == NULL || comb == NULL || old == NULL)
        return FM_FAIL(work->err, FM_NOMEM, "no memory for a sublayer of %u rows", n);
    for (uint32_t i = 0; i < n; i++)
        eng_ref_hc_collapse(hyper, streams + (uint64_t)i * k * dim, x + (uint64_t)i * dim,
                            post + i * k, comb + i * k * k);
    eng_ref_rmsnorm(x, norm, n, dim, hyper->norm_eps, x);

    const uint16_t *out = is_attention ? attention(work, x) : moe(work, x);
    if (out == NULL)
        return FM_FAIL(work->err, FM_NOMEM, "no memory for a sublayer of %u rows", n);
    report(work, is_attention ? "attn_out" : "moe_out", ENG_REF_BF16, dim, out);
    for (uint32_t i = 0; i < n; i++) {
        memcpy(old, streams + (uint64_t)i * k * dim, (size_t)k * dim * sizeof *old);
        eng_ref_hc_expand(old, out + (uint64_t)i * dim, post + i * k, comb + i * k * k, k, dim,
                          streams + (uint64_t)i * k * dim);
    }
    return FM_OK;
}

enum fm_status eng_ref_block(const struct eng_ref_run *run, uint16_t *streams, struct fm_err *err)
{
    const struct eng_ref_layer *layer = &run->model->layers[run->layer_index];
    struct work work = {
        .run = run, .layer = layer, .state = &run->state->layers[run->layer_index], .err = err};
    FM_ASSERT(run->first + run->count <= run->state->position_max);

    fm_arena_init(&work.arena, SIZE_MAX);
    enum fm_status status = sublayer(&work, &layer->hc_attn, layer->attn_norm, true, streams);
    fm_arena_done(&work.arena);
    if (status != FM_OK)
        return status;
    status = sublayer(&work, &layer->hc_ffn, layer->ffn_norm, false, streams);
    fm_arena_done(&work.arena);
    if (status == FM_OK)
        report(&work, "streams", ENG_REF_BF16, layer->hc_ffn.streams * layer->hc_ffn.dim, streams);
    return status;
}
