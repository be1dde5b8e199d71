/* sample.c - looking at a unit through page_out, which every device has. */
#include "backends/check/sample.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"

enum fm_status be_sample_init(struct sample *sample, struct be_device *device,
                              const struct shadow *shadow, enum be_pool pool, struct fm_err *err)
{
    uint64_t bytes = be_pool_unit_bytes(shadow->model, pool);
    *sample = (struct sample){.pool = pool};
    sample->before = fm_alloc(bytes);
    sample->after = fm_alloc(bytes);
    sample->written = fm_alloc_array((shadow->unit_rows[pool] + 63) / 64, sizeof(uint64_t));
    if (sample->before == NULL || sample->after == NULL || sample->written == NULL) {
        be_sample_done(sample, device);
        return FM_FAIL(err, FM_NOMEM, "no memory for two units of %llu bytes",
                       (unsigned long long)bytes);
    }
    enum fm_status status = device->ops->event_new(device, &sample->before_event, err);
    if (status == FM_OK)
        status = device->ops->event_new(device, &sample->after_event, err);
    if (status != FM_OK)
        be_sample_done(sample, device);
    return status;
}

void be_sample_done(struct sample *sample, struct be_device *device)
{
    if (sample->before_event != NULL)
        device->ops->event_free(device, sample->before_event);
    if (sample->after_event != NULL)
        device->ops->event_free(device, sample->after_event);
    fm_free(sample->before);
    fm_free(sample->after);
    fm_free(sample->written);
    *sample = (struct sample){0};
}

static uint32_t choose_unit(const struct sample *sample, const struct be_step *step,
                            uint32_t unit_count, uint64_t draw)
{
    uint64_t choice = draw % 4;
    draw /= 4;
    const struct be_seq *seq = &be_step_seqs(step)[draw % step->seq_count];
    draw /= step->seq_count;
    uint32_t first = sample->pool == BE_POOL_G ? seq->g_first : seq->s_first;
    uint32_t count = sample->pool == BE_POOL_G ? seq->g_count : seq->s_count;

    if (choice == 0)
        return 0;
    if (choice == 1)
        return (uint32_t)(draw % unit_count);
    if (sample->pool == BE_POOL_T)
        return seq->tail_slot;
    /* Late pages are where the rows are. */
    return count == 0 ? 0 : be_step_pages(step)[first + count - 1 - draw % (draw % count + 1)];
}

enum fm_status be_sample_begin(struct sample *sample, struct be_device *device,
                               const struct shadow *shadow, const struct be_step *step,
                               uint64_t serial, uint64_t draw, struct fm_err *err)
{
    uint32_t row_count = shadow->unit_rows[sample->pool];
    sample->is_taken = false;
    if (shadow->units[sample->pool] == 0 || row_count == 0)
        return FM_OK;
    sample->unit = choose_unit(sample, step, shadow->units[sample->pool], draw);
    memset(sample->written, 0, (row_count + 63) / 64 * sizeof(uint64_t));
    for (uint32_t i = 0; i < row_count; i++) {
        const struct shadow_row *row = be_shadow_row(shadow, sample->pool, sample->unit, i);
        if (row->kind == SHADOW_WRITTEN && row->step == serial)
            sample->written[i / 64] |= UINT64_C(1) << (i % 64);
    }
    enum fm_status status = device->ops->page_out(device, sample->pool, sample->unit,
                                                  sample->before, sample->before_event, err);
    sample->is_taken = status == FM_OK;
    return status;
}

enum fm_status be_sample_end(struct sample *sample, struct be_device *device, struct fm_err *err)
{
    if (!sample->is_taken)
        return FM_OK;
    enum fm_status status = device->ops->page_out(device, sample->pool, sample->unit, sample->after,
                                                  sample->after_event, err);
    sample->is_taken = status == FM_OK;
    return status;
}

static const char *class_name(enum be_class class)
{
    static const char *const names[] = {"window", "compressed", "index", "tail", "index tail"};
    return names[class];
}

static bool is_zero(const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

/* Row `row` of the state, which is row `index` of the unit. */
static enum fm_status compare_row(const struct sample *sample, const struct be_state *state,
                                  uint32_t row, uint32_t index, size_t offset, uint64_t step_number,
                                  struct fm_err *err)
{
    const char *what = NULL;
    if ((sample->written[index / 64] >> (index % 64)) & 1)
        return FM_OK;
    if (memcmp(sample->before + offset, sample->after + offset, state->row_bytes) != 0)
        what = "the device changed it, no operation writes it";
    else if (sample->unit == 0 && !is_zero(sample->after + offset, state->row_bytes))
        what = "it does not read as zeros";
    if (what == NULL)
        return FM_OK;
    return FM_FAIL(err, FM_DEVICE, "step %llu: %s row %u of layer %u in unit %u of pool %c: %s",
                   (unsigned long long)step_number, class_name(state->class), row, state->layer,
                   sample->unit, "GST"[sample->pool], what);
}

enum fm_status be_sample_compare(const struct sample *sample, const struct shadow *shadow,
                                 uint64_t step_number, struct fm_err *err)
{
    size_t offset = 0;
    uint32_t index = 0;
    if (!sample->is_taken)
        return FM_OK;
    for (uint32_t i = 1; i < shadow->model->state_count; i++) {
        const struct be_state *state = &shadow->model->states[i];
        if (be_class_pool(state->class) != sample->pool)
            continue;
        for (uint32_t row = 0; row < state->rows; row++) {
            enum fm_status status =
                compare_row(sample, state, row, index, offset, step_number, err);
            if (status != FM_OK)
                return status;
            offset += state->row_bytes;
            index++;
        }
    }
    return FM_OK;
}
