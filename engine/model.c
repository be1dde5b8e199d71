/* model.c - the life of a model: load, limits, device, programs; see engine.h and model.h.
 *
 * Everything that a step needs is taken here, sized from the options: after eng_open nothing is
 * allocated. */
#include "engine/model.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "engine/step.h"

/* ---- limits and pools ---------------------------------------------------------------------- */

/* S pages of one sequence in a step: those with the window before it, those with the window behind
 * it.  W <= P, so either is at most two. */
enum { S_PAGES_PER_SEQ = 4 };

static uint64_t host_memory_bytes(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_bytes > 0 ? (uint64_t)pages * (uint64_t)page_bytes : 0;
}

static uint32_t pages_of(uint32_t tokens, uint32_t page_tokens)
{
    return (uint32_t)fm_div_ceil(tokens, page_tokens);
}

static enum fm_status sizes_set(struct eng_engine *engine, const struct eng_options *options,
                                struct fm_err *err)
{
    struct eng_info *info = &engine->info;
    uint32_t model_max = engine->hparams.context_max;
    if (options->context_max > model_max)
        return FM_FAIL(err, FM_INVALID, "context of %u tokens, the model allows at most %u",
                       options->context_max, model_max);
    if (options->step_rows_max == 0 || options->seqs_max == 0 || options->logit_rows_max == 0)
        return FM_FAIL(err, FM_INVALID,
                       "a step has %u rows, %u sequences and %u logit rows, at "
                       "least 1 each",
                       options->step_rows_max, options->seqs_max, options->logit_rows_max);
    if (options->seqs_max > options->logit_rows_max || options->logit_rows_max >= BE_NO_LOGIT)
        return FM_FAIL(err, FM_INVALID,
                       "a step has %u logit rows, at least one for each of %u "
                       "sequences and less than %u",
                       options->logit_rows_max, options->seqs_max, (uint32_t)BE_NO_LOGIT);
    info->context_max = options->context_max != 0 ? options->context_max : model_max;
    info->step_rows_max = options->step_rows_max;
    info->seqs_max = options->seqs_max;
    info->logit_rows_max = options->logit_rows_max;
    return FM_OK;
}

/* Units of each pool within the budget; T and S follow from the sequences, G takes the rest. */
static enum fm_status pools_plan(struct eng_engine *engine, const struct eng_options *options,
                                 struct fm_err *err)
{
    struct eng_info *info = &engine->info;
    const struct kv_layout *layout = &info->layout;
    uint64_t seqs = info->seqs_max;
    uint64_t fixed =
        (seqs + 1) * layout->t_slot_bytes + (seqs * S_PAGES_PER_SEQ + 1) * layout->s_page_bytes;
    uint64_t g_one = pages_of(info->context_max, layout->page_tokens);
    uint64_t g_unit = fm_max_u64(layout->g_page_bytes, 1);
    uint64_t g_most = seqs * g_one;

    struct be_caps caps;
    engine->device->ops->caps(engine->device, &caps);
    uint64_t memory = caps.memory_bytes != 0 ? caps.memory_bytes : host_memory_bytes();
    uint64_t budget = options->kv_bytes != 0
                          ? options->kv_bytes
                          : fm_min_u64(memory / 4, fixed + (g_most + 1) * g_unit);
    uint64_t needed = fixed + (g_one + 1) * g_unit;
    if (budget < needed)
        return FM_FAIL(err, FM_LIMIT,
                       "the cache has %llu bytes, %u sequences of which one has %u "
                       "tokens need %llu",
                       (unsigned long long)budget, info->seqs_max, info->context_max,
                       (unsigned long long)needed);
    uint64_t g_count = fm_min_u64((budget - fixed) / g_unit - 1, g_most);
    info->units[BE_POOL_T] = fm_u32(seqs + 1);
    info->units[BE_POOL_S] = fm_u32(seqs * S_PAGES_PER_SEQ + 1);
    info->units[BE_POOL_G] = fm_u32(fm_min_u64(g_count, UINT32_MAX / 2) + 1);
    return FM_OK;
}

static void limits_set(struct eng_engine *engine)
{
    const struct eng_info *info = &engine->info;
    /* More than there are units: forked sequences list the pages that they share, each. */
    uint64_t g_pages =
        (uint64_t)info->seqs_max * pages_of(info->context_max, info->layout.page_tokens);
    /* Every sequence has S entries for the pages of its rows and one page before. */
    uint64_t s_pages = (uint64_t)info->seqs_max * 2 +
                       pages_of(info->step_rows_max, info->layout.page_tokens) + info->seqs_max;
    engine->limits = (struct be_limits){.rows_max = info->step_rows_max,
                                        .seqs_max = info->seqs_max,
                                        .logit_rows_max = info->logit_rows_max,
                                        .pages_max = fm_u32(g_pages + s_pages)};
    memcpy(engine->limits.units, info->units, sizeof engine->limits.units);
}

/* ---- facts --------------------------------------------------------------------------------- */

static void name_set(char *ret_name, const char *model_dir)
{
    size_t length = strlen(model_dir);
    while (length > 1 && model_dir[length - 1] == '/')
        length--;
    size_t first = length;
    while (first > 0 && model_dir[first - 1] != '/')
        first--;
    (void)snprintf(ret_name, ENG_NAME_BYTES, "%.*s", (int)(length - first), model_dir + first);
}

static void info_set(struct eng_engine *engine, const struct eng_options *options)
{
    struct eng_info *info = &engine->info;
    const struct eng_hparams *hparams = &engine->hparams;
    const struct be_model *model = &engine->programs->model;
    name_set(info->name, options->model_dir);
    (void)snprintf(info->architecture, sizeof info->architecture, "DeepseekV4ForCausalLM");
    for (uint32_t i = 1; i < model->weight_count; i++)
        info->parameter_count += (uint64_t)model->weights[i].rows * model->weights[i].cols;
    info->weight_bytes = eng_weights_bytes(engine->weights);
    info->vocab = hparams->vocab_size;
    info->layer_count = hparams->layer_count;
    info->stage_count = hparams->draft_stage_count;
    info->bos = hparams->bos_token_id;
    info->eos = hparams->eos_token_id;
    info->layout = engine->programs->layout;
}

/* ---- open and free ------------------------------------------------------------------------- */

static enum fm_status device_open(struct eng_engine *engine, const struct eng_options *options,
                                  struct fm_err *err)
{
    struct be_device_options device_options = {.threads = options->threads,
                                               .variant = options->variant};
    struct be_device *device;
    enum fm_status status = be_registry_open(options->backend, &device_options, &device, err);
    if (status != FM_OK)
        return status;
    engine->device = device;
    if (options->is_checked) {
        status = be_check_wrap(device, options->check_seed, &engine->device, err);
        if (status != FM_OK)
            return status;
    }
    struct be_caps caps;
    engine->device->ops->caps(engine->device, &caps);
    (void)snprintf(engine->info.backend, sizeof engine->info.backend, "%s", caps.description);
    if (caps.rows_max != 0 && engine->info.step_rows_max > caps.rows_max)
        return FM_FAIL(err, FM_INVALID, "a step has %u rows, the device takes at most %u",
                       engine->info.step_rows_max, caps.rows_max);
    return FM_OK;
}

/* What the reader of weights needs: where they lie, and who is told how far it is. */
struct load {
    struct eng_programs *programs;
    const struct eng_options *options;
};

static enum fm_status load_read(void *context, be_weight_id weight, enum be_part part,
                                uint32_t row_first, uint32_t row_count, void *target,
                                struct fm_err *err)
{
    struct load *load = context;
    return eng_programs_read(load->programs, weight, part, row_first, row_count, target, err);
}

static void load_progress(void *context, uint64_t bytes_done, uint64_t bytes_total)
{
    struct load *load = context;
    if (load->options->progress != NULL)
        load->options->progress(load->options->progress_context, bytes_done, bytes_total);
}

static enum fm_status device_load(struct eng_engine *engine, const struct eng_options *options,
                                  bool with_draft, struct fm_err *err)
{
    struct be_device *device = engine->device;
    struct eng_programs *programs = engine->programs;
    struct load load = {.programs = programs, .options = options};
    struct be_reader reader = {.context = &load, .read = load_read, .progress = load_progress};

    enum fm_status status = device->ops->weights_load(device, &programs->model, &reader, err);
    if (status == FM_OK)
        status = pools_plan(engine, options, err);
    if (status != FM_OK)
        return status;
    limits_set(engine);
    status = device->ops->state_create(device, engine->info.units, err);
    if (status == FM_OK)
        status = device->ops->compile(device, &programs->forward.program, &engine->limits,
                                      &engine->forward, err);
    if (status == FM_OK && with_draft && programs->draft.program.op_count != 0)
        status = device->ops->compile(device, &programs->draft.program, &engine->limits,
                                      &engine->draft, err);
    if (status == FM_OK)
        status = device->ops->event_new(device, &engine->done, err);
    return status;
}

static enum fm_status buffers_take(struct eng_engine *engine, struct fm_err *err)
{
    const struct eng_info *info = &engine->info;
    size_t logit_count;
    engine->block_bytes = eng_step_bytes_max(&engine->limits);
    engine->block = fm_alloc(engine->block_bytes);
    if (fm_mul_size(info->logit_rows_max, info->vocab, &logit_count))
        engine->logits = fm_alloc_array(logit_count, sizeof(float));
    engine->scratch = fm_alloc_array(info->vocab, sizeof(float));
    engine->scratch_ids = fm_alloc_array(info->vocab, sizeof(uint32_t));
    if (engine->block == NULL || engine->logits == NULL || engine->scratch == NULL ||
        engine->scratch_ids == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u logit rows of %u and a step of %zu bytes",
                       info->logit_rows_max, info->vocab, engine->block_bytes);
    return FM_OK;
}

enum fm_status eng_open_debug(const struct eng_options *options, const struct eng_debug *debug,
                              struct eng_engine **ret_engine, struct fm_err *err)
{
    FM_ASSERT(options->model_dir != NULL);
    FM_ASSERT(ret_engine != NULL);
    struct eng_engine *engine = fm_alloc(sizeof *engine);
    if (engine == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for a model");

    struct eng_program_options program_options = {.inject_layer = ENG_LAYER_NONE};
    if (debug != NULL) {
        program_options.keep_all = debug->keep_all;
        program_options.inject_layer = debug->inject_layer;
    }
    enum fm_status status =
        eng_weights_load(options->model_dir, &engine->hparams, &engine->weights, err);
    if (status == FM_OK)
        status = sizes_set(engine, options, err);
    if (status == FM_OK)
        status = eng_programs_build(&engine->hparams, engine->weights, &program_options,
                                    &engine->programs, err);
    if (status == FM_OK) {
        info_set(engine, options);
        status = device_open(engine, options, err);
    }
    if (status == FM_OK)
        status = device_load(engine, options, debug != NULL && debug->with_draft, err);
    if (status == FM_OK)
        status = buffers_take(engine, err);
    if (status != FM_OK) {
        eng_free(engine);
        return status;
    }
    *ret_engine = engine;
    return FM_OK;
}

enum fm_status eng_open(const struct eng_options *options, struct eng_engine **ret_engine,
                        struct fm_err *err)
{
    return eng_open_debug(options, NULL, ret_engine, err);
}

void eng_free(struct eng_engine *engine)
{
    if (engine == NULL)
        return;
    struct be_device *device = engine->device;
    if (device != NULL) {
        if (engine->done != NULL)
            device->ops->event_free(device, engine->done);
        if (engine->draft != NULL)
            device->ops->exec_free(device, engine->draft);
        if (engine->forward != NULL)
            device->ops->exec_free(device, engine->forward);
        device->ops->close(device);
    }
    eng_programs_free(engine->programs);
    eng_weights_close(engine->weights);
    fm_free(engine->block);
    fm_free(engine->logits);
    fm_free(engine->scratch);
    fm_free(engine->scratch_ids);
    fm_free(engine);
}

const struct eng_info *eng_info(const struct eng_engine *engine)
{
    return &engine->info;
}
