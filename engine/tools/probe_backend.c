/* probe_backend.c - a sequence through a backend: values are read after every step, state at the
 * end. */
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "engine/model.h"
#include "engine/tools/probe.h"
#include "kvcache/kvcache.h"

static const uint64_t PAGE_LIMIT_NS = 60 * FM_NS_PER_S;

static struct eng_engine *engine;
static struct kv_cache *cache;
static void *rows;       /* one value of a chunk in canonical form */
static uint16_t *joined; /* MTP: streams of the whole segment, bf16 [count, N, D] */

static enum fm_status rows_take(const struct probe *probe, struct fm_err *err)
{
    const struct eng_hparams *hparams = &engine->hparams;
    size_t widest = (size_t)hparams->vocab_size * sizeof(float);
    widest = fm_max_u64(widest, (uint64_t)hparams->hc_streams * hparams->dim * 2);
    widest = fm_max_u64(widest, (uint64_t)hparams->head_count * hparams->head_dim * 2);
    widest = fm_max_u64(widest, (uint64_t)hparams->index_topk * sizeof(int32_t));
    rows = fm_alloc_array(PROBE_CHUNK_TOKENS_MAX, widest);
    joined =
        fm_alloc_array((size_t)probe->context * hparams->hc_streams * hparams->dim, sizeof *joined);
    return rows != NULL && joined != NULL
               ? FM_OK
               : FM_FAIL(err, FM_NOMEM, "no memory for %d rows of %zu bytes",
                         PROBE_CHUNK_TOKENS_MAX, widest);
}

enum fm_status probe_backend_open(struct probe *probe, struct fm_err *err)
{
    if (probe->injection_count > 1)
        return FM_FAIL(err, FM_UNSUPPORTED,
                       "%u layers to inject, a backend takes 1; --ref takes "
                       "all",
                       probe->injection_count);
    struct eng_options options = {.model_dir = probe->model_dir,
                                  .backend = probe->backend,
                                  .variant = probe->variant,
                                  .threads = probe->threads,
                                  .is_checked = probe->wants_check,
                                  .check_seed = 1,
                                  .step_rows_max = PROBE_CHUNK_TOKENS_MAX,
                                  .seqs_max = 1,
                                  .logit_rows_max = PROBE_CHUNK_TOKENS_MAX};
    struct eng_debug debug = {
        .keep_all = probe->wants_all,
        .inject_layer = probe->injection_count == 1 ? probe->injections[0].layer : ENG_LAYER_NONE,
        .with_draft = probe->wants_draft};
    enum fm_status status = eng_open_debug(&options, &debug, &engine, err);
    if (status != FM_OK)
        return status;
    struct kv_options kv_options = {.seq_tokens_max = engine->info.context_max};
    memcpy(kv_options.units, engine->info.units, sizeof kv_options.units);
    status = kv_cache_new(&engine->info.layout, &kv_options, &cache, err);
    return status == FM_OK ? rows_take(probe, err) : status;
}

void probe_backend_close(void)
{
    kv_cache_free(cache);
    eng_free(engine);
    fm_free(rows);
    fm_free(joined);
}

/* Read `count` rows of a value into `rows`. */
static enum fm_status value_read(struct be_exec *exec, be_value_id value, uint32_t count,
                                 struct fm_err *err)
{
    return engine->device->ops->value_read(engine->device, exec, value, 0, count, rows, err);
}

static enum fm_status value_put(struct probe *probe, struct be_exec *exec,
                                const struct eng_program *program, be_value_id value,
                                const char *prefix, const char *name, uint32_t count,
                                struct fm_err *err)
{
    if (value == 0)
        return FM_OK;
    const struct be_value *shape = &program->program.values[value];
    char full[64];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    enum fm_status status = value_read(exec, value, count, err);
    if (status != FM_OK)
        return status;
    static const enum tool_source sources[] = {[BE_ELEM_BF16] = TOOL_FROM_BF16,
                                               [BE_ELEM_F32] = TOOL_FROM_F32,
                                               [BE_ELEM_I32] = TOOL_FROM_I32};
    FM_ASSERT(shape->elem != BE_ELEM_ACT);
    return tool_tensors_put(&probe->tensors, full, sources[shape->elem], count,
                            shape->outer > 1 ? shape->outer : 0, shape->inner, rows, err);
}

static enum fm_status layers_put(struct probe *probe, struct be_exec *exec,
                                 const struct eng_program *program, const char *kind,
                                 uint32_t layer_count, uint32_t count, struct fm_err *err)
{
    enum fm_status status = FM_OK;
    for (uint32_t i = 0; i < layer_count && status == FM_OK; i++) {
        const struct eng_layer_values *layer = &program->layers[i];
        const struct {
            be_value_id value;
            const char *name;
        } values[] = {{layer->streams, "streams"},
                      {layer->q, "q"},
                      {layer->kv, "kv"},
                      {layer->select, "index_topk"},
                      {layer->attn_out, "attn_out"},
                      {layer->experts, "experts"},
                      {layer->expert_weights, "expert_weights"},
                      {layer->moe_out, "moe_out"}};
        char prefix[32];
        (void)snprintf(prefix, sizeof prefix, "%s.%u.", kind, i);
        for (uint32_t v = 0; v < FM_COUNT(values) && status == FM_OK; v++)
            status = value_put(probe, exec, program, values[v].value, prefix, values[v].name, count,
                               err);
    }
    return status;
}

/* ---- state --------------------------------------------------------------------------------- */

/* A canonical row (program.h) as bf16 values. */
static void main_row_unpack(const uint8_t *row, uint32_t dim, uint32_t rope_dim, uint16_t *ret)
{
    uint32_t plain = dim - rope_dim;
    const uint8_t *scales = row + plain + rope_dim * 2;
    for (uint32_t i = 0; i < plain; i++)
        ret[i] = fm_bf16(fm_e4m3_value(row[i]) * fm_ue8m0_value(scales[i / FM_FP8_SIM_BLOCK]));
    memcpy(ret + plain, row + plain, rope_dim * 2);
}

static void index_row_unpack(const uint8_t *row, uint32_t dim, uint16_t *ret)
{
    for (uint32_t i = 0; i < dim; i++) {
        uint8_t code = i % 2 == 0 ? row[i / 2] & 15 : row[i / 2] >> 4;
        ret[i] = fm_bf16(fm_e2m1_value(code) * fm_ue8m0_value(row[dim / 2 + i / FM_FP4_BLOCK]));
    }
}

/* Compressed entries and index keys of page `page`, of which the first `tokens` tokens count. */
static enum fm_status page_put(struct probe *probe, const uint8_t *page, uint32_t tokens,
                               struct fm_err *err)
{
    const struct be_model *model = &engine->programs->model;
    uint16_t row[4096];
    enum fm_status status = FM_OK;
    FM_ASSERT(model->shape.head_dim <= FM_COUNT(row) && model->shape.index_dim <= FM_COUNT(row));
    for (be_state_id id = 1; id < model->state_count && status == FM_OK; id++) {
        const struct be_state *state = &model->states[id];
        bool is_index = state->class == BE_CLASS_INDEX;
        if (!is_index && state->class != BE_CLASS_COMP)
            continue;
        char name[64];
        (void)snprintf(name, sizeof name, "layer.%u.%s", (unsigned)state->layer,
                       is_index ? "index_keys" : "compressed");
        const uint8_t *at = page + be_state_offset(model, id);
        for (uint32_t j = 0; j < tokens / state->ratio && status == FM_OK; j++) {
            uint32_t dim = is_index ? model->shape.index_dim : model->shape.head_dim;
            if (is_index)
                index_row_unpack(at + (size_t)j * state->row_bytes, dim, row);
            else
                main_row_unpack(at + (size_t)j * state->row_bytes, dim, model->shape.rope_dim, row);
            status = tool_tensors_put(&probe->tensors, name, TOOL_FROM_BF16, 1, 0, dim, row, err);
        }
    }
    return status;
}

static enum fm_status state_put(struct probe *probe, const struct kv_view *view, uint32_t count,
                                struct fm_err *err)
{
    uint32_t page_tokens = engine->info.layout.page_tokens;
    uint8_t *page = fm_alloc(engine->info.layout.g_page_bytes);
    if (page == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a page");
    uint64_t mode = fm_numeric_enter();
    enum fm_status status = FM_OK;
    for (uint32_t i = 0; i * page_tokens < count && status == FM_OK; i++) {
        struct be_device *device = engine->device;
        status =
            device->ops->page_out(device, BE_POOL_G, view->g_pages[i], page, engine->done, err);
        if (status == FM_OK)
            status =
                device->ops->event_wait(device, engine->done, fm_clock_ns() + PAGE_LIMIT_NS, err);
        if (status == FM_AGAIN)
            status = FM_FAIL(err, FM_DEVICE, "page %u was not read in time", view->g_pages[i]);
        if (status == FM_OK)
            status = page_put(probe, page, fm_min_u32(page_tokens, count - i * page_tokens), err);
    }
    fm_numeric_leave(mode);
    fm_free(page);
    return status;
}

/* ---- steps --------------------------------------------------------------------------------- */

static const struct eng_sampling no_sampling = {
    .temperature = 0, .top_p = 1, .repetition_penalty = 1};

/* Run rows tokens[0 .. count) of the sequence through exec. */
static enum fm_status step(struct kv_seq *seq, struct be_exec *exec, const uint32_t *tokens,
                           uint32_t count, bool is_first, bool has_logits, struct fm_err *err)
{
    static struct eng_draw draws[PROBE_CHUNK_TOKENS_MAX];
    for (uint32_t i = 0; i < count; i++)
        draws[i] = (struct eng_draw){.sampling = &no_sampling, .forced = -1};
    struct eng_span span = {.view = kv_seq_view(seq),
                            .tokens = tokens,
                            .token_count = count,
                            .is_decode = count == 1,
                            .logit_first = has_logits ? 0 : count,
                            .draws = draws,
                            .draws_per_row = 1};
    struct eng_plan plan = {.spans = &span, .span_count = 1};
    if (is_first) {
        plan.tail_resets = &span.view.tail_slot;
        plan.tail_reset_count = 1;
    }
    uint32_t logit_count;
    return eng_step_run(engine, exec, &plan, &logit_count, err);
}

/* Reserve in pieces that the pools allow. */
static enum fm_status reserve(struct kv_seq *seq, uint32_t count, struct fm_err *err)
{
    enum fm_status status = kv_seq_reserve(seq, count);
    if (status != FM_OK)
        return FM_FAIL(err, FM_LIMIT, "no pages for %u tokens behind %u", count,
                       kv_seq_length(seq));
    return FM_OK;
}

static enum fm_status chunk_run(struct probe *probe, struct kv_seq *seq, uint32_t first,
                                uint32_t done, uint32_t tokens, uint32_t count, struct fm_err *err)
{
    const struct eng_program *forward = &engine->programs->forward;
    const struct eng_hparams *hparams = &engine->hparams;
    size_t stream_row = (size_t)hparams->hc_streams * hparams->dim;
    enum fm_status status = reserve(seq, tokens, err);
    if (status == FM_OK && probe->injection_count == 1) {
        const struct probe_injection *injection = &probe->injections[0];
        FM_ASSERT(done + tokens <= injection->row_count);
        status =
            engine->device->ops->value_write(engine->device, engine->forward, forward->injected, 0,
                                             tokens, injection->rows + done * stream_row, err);
    }
    if (status == FM_OK)
        status =
            step(seq, engine->forward, probe->ids + first + done, tokens, done == 0, true, err);
    if (status == FM_OK)
        status = value_read(engine->forward, forward->logits, tokens, err);
    if (status != FM_OK)
        return status;
    const float *logits = rows;
    for (uint32_t i = 0; i < tokens && done + i + 1 < count; i++)
        probe_score(probe, logits + (size_t)i * hparams->vocab_size, hparams->vocab_size,
                    probe->ids[first + done + i + 1]);
    if (probe->out_path != NULL)
        status = tool_tensors_put(&probe->tensors, "logits", TOOL_FROM_F32, tokens, 0,
                                  hparams->vocab_size, rows, err);
    if (status == FM_OK && probe->wants_all)
        status =
            layers_put(probe, engine->forward, forward, "layer", hparams->layer_count, tokens, err);
    if (status == FM_OK && engine->draft != NULL && forward->streams != 0) {
        status = value_read(engine->forward, forward->streams, tokens, err);
        if (status == FM_OK)
            memcpy(joined + done * stream_row, rows, tokens * stream_row * sizeof *joined);
    }
    if (status == FM_OK)
        kv_seq_commit(seq, tokens);
    return status;
}

/* ---- drafts -------------------------------------------------------------------------------- */

/* MTP over positions 0 .. count - 2 in a sequence of its own. */
static enum fm_status mtp_run(struct probe *probe, uint32_t first, uint32_t count,
                              struct fm_err *err)
{
    const struct eng_program *draft = &engine->programs->draft;
    const struct eng_hparams *hparams = &engine->hparams;
    size_t stream_row = (size_t)hparams->hc_streams * hparams->dim;
    struct kv_seq *seq = NULL;
    enum fm_status status = kv_seq_open(cache, &seq);
    FM_ASSERT(status == FM_OK);
    uint32_t done = 0;
    for (uint32_t chunk = 0; status == FM_OK && done + 1 < count; chunk++) {
        uint32_t tokens = probe_chunk(probe, chunk, count - 1 - done);
        status = reserve(seq, tokens, err);
        if (status == FM_OK)
            status = engine->device->ops->value_write(engine->device, engine->draft, draft->join, 0,
                                                      tokens, joined + done * stream_row, err);
        if (status == FM_OK)
            status = step(seq, engine->draft, probe->ids + first + 1 + done, tokens, done == 0,
                          true, err);
        if (status == FM_OK)
            status = value_read(engine->draft, draft->logits, tokens, err);
        if (status == FM_OK)
            status = tool_tensors_put(&probe->tensors, "mtp.logits", TOOL_FROM_F32, tokens, 0,
                                      hparams->vocab_size, rows, err);
        if (status == FM_OK && probe->wants_all)
            status = layers_put(probe, engine->draft, draft, "mtp", 1, tokens, err);
        if (status == FM_OK)
            kv_seq_commit(seq, tokens);
        done += tokens;
    }
    kv_seq_close(seq);
    return status;
}

/* DSpark's block behind the last token, which the model's own greedy choice leads. */
static enum fm_status spark_run(struct probe *probe, struct kv_seq *seq, struct fm_err *err)
{
    const struct eng_program *draft = &engine->programs->draft;
    const struct eng_hparams *hparams = &engine->hparams;
    const struct tool_tensor *logits = tool_tensors_find(&probe->tensors, "logits");
    FM_ASSERT(logits != NULL);
    const float *last = (const float *)logits->data + (logits->dims[0] - 1) * logits->row_elements;
    uint32_t ids[ENG_DRAFT_BLOCK_MAX] = {0};
    for (uint32_t t = 1; t < hparams->vocab_size; t++)
        if (last[t] > last[ids[0]])
            ids[0] = t;
    for (uint32_t i = 1; i < hparams->dspark_block_size; i++)
        ids[i] = hparams->dspark_noise_token_id;

    enum fm_status status = reserve(seq, hparams->dspark_block_size, err);
    if (status == FM_OK)
        status = step(seq, engine->draft, ids, hparams->dspark_block_size, false, true, err);
    if (status == FM_OK)
        status = value_read(engine->draft, draft->tokens, 1, err);
    if (status == FM_OK)
        status = tool_tensors_put(&probe->tensors, "dspark.tokens", TOOL_FROM_I32,
                                  hparams->dspark_block_size, 0, 0, rows, err);
    if (status == FM_OK)
        status = value_read(engine->draft, draft->confidence, 1, err);
    if (status == FM_OK)
        status = tool_tensors_put(&probe->tensors, "dspark.confidence", TOOL_FROM_F32,
                                  hparams->dspark_block_size, 0, 0, rows, err);
    return status;
}

enum fm_status probe_backend_run(struct probe *probe, uint32_t first, uint32_t count,
                                 struct fm_err *err)
{
    struct kv_seq *seq = NULL;
    enum fm_status status = kv_seq_open(cache, &seq);
    FM_ASSERT(status == FM_OK); /* one sequence at a time */
    uint32_t done = 0;
    for (uint32_t chunk = 0; status == FM_OK && done < count; chunk++) {
        uint32_t tokens = probe_chunk(probe, chunk, count - done);
        status = chunk_run(probe, seq, first, done, tokens, count, err);
        done += tokens;
    }
    if (status == FM_OK && probe->wants_all) {
        struct kv_view view = kv_seq_view(seq);
        status = state_put(probe, &view, count, err);
    }
    bool is_spark = engine->hparams.draft_kind == ENG_DRAFT_DSPARK;
    if (status == FM_OK && engine->draft != NULL && is_spark)
        status = spark_run(probe, seq, err);
    kv_seq_close(seq);
    if (status == FM_OK && engine->draft != NULL && !is_spark)
        status = mtp_run(probe, first, count, err);
    return status;
}
