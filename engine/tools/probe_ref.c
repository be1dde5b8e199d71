/* probe_ref.c - a sequence through engine/ref: everything it reports, by name. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "engine/ref/ref.h"
#include "engine/tools/probe.h"

static struct eng_hparams hparams;
static struct eng_weights *weights;
static struct eng_ref_model *model;

/* What the hooks need; a failure inside a report is kept and looked at after the call. */
struct run {
    struct probe *probe;
    uint32_t first, count; /* the segment */
    uint16_t *scores;      /* [entries] one row of index scores, bf16 */
    uint32_t next_logits;  /* position of the next logits row */
    enum fm_status status;
    struct fm_err err;
};

enum fm_status probe_ref_open(struct probe *probe, struct fm_err *err)
{
    enum fm_status status = eng_weights_load(probe->model_dir, &hparams, &weights, err);
    if (status == FM_OK)
        status = eng_weights_scan(weights, NULL, NULL, err);
    if (status == FM_OK)
        status = eng_ref_model_new(&hparams, weights, &model, err);
    return status;
}

void probe_ref_close(void)
{
    eng_ref_model_free(model);
    eng_weights_close(weights);
}

static bool is_wanted(const struct probe *probe, const char *name)
{
    return probe->wants_all || strcmp(name, "logits") == 0 ||
           (probe->wants_draft &&
            (strcmp(name, "mtp.logits") == 0 || strcmp(name, "dspark.tokens") == 0 ||
             strcmp(name, "dspark.confidence") == 0));
}

/* Index scores have as many columns as there are entries so far: rows are widened to what the whole
 * segment will have. */
static void scores_put(struct run *run, const struct eng_ref_tensor *tensor)
{
    uint32_t entries = run->count / 4;
    const uint16_t *row = tensor->data;
    for (uint32_t t = 0; t < tensor->dims[0] && run->status == FM_OK; t++) {
        memset(run->scores, 0, entries * sizeof *run->scores);
        memcpy(run->scores, row, tensor->dims[1] * sizeof *row);
        run->status = tool_tensors_put(&run->probe->tensors, tensor->name, TOOL_FROM_BF16, 1, 0,
                                       entries, run->scores, &run->err);
        row += tensor->dims[1];
    }
}

static void report(void *context, const struct eng_ref_tensor *tensor)
{
    static const enum tool_source sources[] = {TOOL_FROM_BF16, TOOL_FROM_F32, TOOL_FROM_I64};
    struct run *run = context;
    struct probe *probe = run->probe;
    if (run->status != FM_OK)
        return;
    if (strcmp(tensor->name, "logits") == 0) {
        uint32_t next = ++run->next_logits;
        if (next < run->count)
            probe_score(probe, tensor->data, tensor->dims[1], probe->ids[run->first + next]);
    }
    if (!is_wanted(probe, tensor->name) || probe->out_path == NULL)
        return;
    if (strstr(tensor->name, "index_scores") != NULL) {
        scores_put(run, tensor);
        return;
    }
    bool is_flat = tensor->rank == 1;
    run->status =
        tool_tensors_put(&probe->tensors, tensor->name, sources[tensor->dtype], tensor->dims[0],
                         tensor->rank == 3 ? tensor->dims[1] : 0,
                         is_flat ? 0 : tensor->dims[tensor->rank - 1], tensor->data, &run->err);
}

static void inject(void *context, uint32_t layer_index, uint32_t first, uint32_t count,
                   uint16_t *streams)
{
    struct run *run = context;
    size_t row = (size_t)hparams.hc_streams * hparams.dim;
    for (uint32_t i = 0; i < run->probe->injection_count; i++) {
        const struct probe_injection *injection = &run->probe->injections[i];
        if (injection->layer != layer_index)
            continue;
        FM_ASSERT(first + count <= injection->row_count);
        memcpy(streams, injection->rows + first * row, count * row * sizeof *streams);
    }
}

static enum fm_status draft(struct run *run, struct eng_ref_state *state,
                            const struct eng_ref_hooks *hooks, struct fm_err *err)
{
    const struct probe *probe = run->probe;
    if (hparams.draft_kind == ENG_DRAFT_MTP && run->count > 1)
        return eng_ref_mtp(model, state, 0, probe->ids + run->first + 1, run->count - 1, hooks,
                           err);
    if (hparams.draft_kind != ENG_DRAFT_DSPARK)
        return FM_OK;
    const struct tool_tensor *logits = tool_tensors_find(&probe->tensors, "logits");
    FM_ASSERT(logits != NULL && logits->dims[0] == run->count);
    const float *last = (const float *)logits->data + (run->count - 1) * logits->row_elements;
    uint32_t best = 0;
    for (uint32_t t = 1; t < logits->row_elements; t++)
        if (last[t] > last[best])
            best = t;
    return eng_ref_dspark(model, state, run->count - 1, best, hooks, err);
}

enum fm_status probe_ref_run(struct probe *probe, uint32_t first, uint32_t count,
                             struct fm_err *err)
{
    struct run run = {.probe = probe, .first = first, .count = count};
    struct eng_ref_hooks hooks = {.report = report, .inject = inject, .context = &run};
    struct eng_ref_state *state = NULL;
    run.scores = fm_alloc_array(count / 4 + 1, sizeof *run.scores);
    if (run.scores == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u index scores", count / 4);

    enum fm_status status = eng_ref_state_new(model, count + ENG_DRAFT_BLOCK_MAX, &state, err);
    uint32_t done = 0;
    for (uint32_t chunk = 0; status == FM_OK && done < count; chunk++) {
        uint32_t tokens = probe_chunk(probe, chunk, count - done);
        status = eng_ref_forward(model, state, probe->ids + first + done, tokens, 0, &hooks, err);
        done += tokens;
    }
    if (status == FM_OK && probe->wants_draft)
        status = draft(&run, state, &hooks, err);
    if (status == FM_OK && run.status != FM_OK) {
        if (err != NULL)
            *err = run.err;
        status = run.status;
    }
    eng_ref_state_free(state);
    fm_free(run.scores);
    return status;
}
