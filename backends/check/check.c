/* check.c - a device that verifies: life, pages, events, and the settling of steps. */
#include "backends/check/check.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"

enum { WAIT_FOR_EVER_S = 600 };

uint64_t be_check_draw(struct check_device *check)
{
    return fm_prng_u64(check->seed, 1, check->draws++);
}

/* ---- settling ------------------------------------------------------------------------------ */

static void break_device(struct check_device *check, const struct fm_err *err)
{
    if (atomic_load_explicit(&check->is_broken, memory_order_acquire) != 0)
        return;
    check->broken = *err;
    atomic_store_explicit(&check->is_broken, 1, memory_order_release);
}

/* The step's outcome as the device has it, then what the samples show. */
static enum fm_status judge(struct check_device *check, struct record *record, struct fm_err *err)
{
    struct be_device *inner = check->inner;
    struct check_event *event = record->event;
    enum fm_status status = inner->ops->event_poll(inner, event->inner, err);

    FM_ASSERT(status != FM_AGAIN);
    for (uint32_t i = 0; i < BE_POOL_COUNT && status == FM_OK; i++)
        status = be_sample_compare(&record->samples[i], &check->shadow, record->number, err);
    return status;
}

/* The record's step and its copies are complete. */
static void settle(struct check_device *check, struct record *record)
{
    struct check_event *event = record->event;
    struct fm_err err = {0};
    uint32_t busy = RECORD_BUSY;
    if (!atomic_compare_exchange_strong_explicit(&record->state, &busy, RECORD_SETTLING,
                                                 memory_order_acquire, memory_order_relaxed))
        return;
    enum fm_status status = judge(check, record, &err);
    event->status = status;
    (void)snprintf(event->text, sizeof(event->text), "%s", err.text);
    event->record = NULL;
    if (status == FM_DEVICE)
        break_device(check, &err);
    atomic_store_explicit(&record->state, status == FM_OK ? RECORD_FREE : RECORD_FAILED,
                          memory_order_release);
}

void be_check_settle(struct check_device *check, uint64_t serial)
{
    uint64_t seen = atomic_load_explicit(&check->completed, memory_order_relaxed);
    while (seen < serial &&
           !atomic_compare_exchange_weak_explicit(&check->completed, &seen, serial,
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
    for (uint32_t i = 0; i < check->record_count; i++) {
        struct record *record = &check->records[i];
        if (atomic_load_explicit(&record->state, memory_order_acquire) == RECORD_BUSY &&
            record->serial <= serial)
            settle(check, record);
    }
}

/* Failed steps are undone newest first. */
static void undo_failed(struct check_device *check)
{
    for (;;) {
        struct record *newest = NULL;
        for (uint32_t i = 0; i < check->record_count; i++) {
            struct record *record = &check->records[i];
            if (atomic_load_explicit(&record->state, memory_order_acquire) == RECORD_FAILED &&
                (newest == NULL || record->serial > newest->serial))
                newest = record;
        }
        if (newest == NULL)
            return;
        be_shadow_undo(&newest->log);
        atomic_store_explicit(&newest->state, RECORD_FREE, memory_order_relaxed);
    }
}

enum fm_status be_check_ready(struct check_device *check, struct fm_err *err)
{
    undo_failed(check);
    if (atomic_load_explicit(&check->is_broken, memory_order_acquire) == 0)
        return FM_OK;
    return FM_FAIL(err, FM_DEVICE, "the device has failed: %s", check->broken.text);
}

/* ---- events -------------------------------------------------------------------------------- */

static struct check_event *event_of(struct be_event *event)
{
    return (struct check_event *)(void *)event;
}

static enum fm_status check_event_new(struct be_device *device, struct be_event **ret_event,
                                      struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct check_event *event = fm_alloc(sizeof(*event));
    if (event == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for an event");
    enum fm_status status = check->inner->ops->event_new(check->inner, &event->inner, err);
    if (status != FM_OK) {
        fm_free(event);
        return status;
    }
    *ret_event = (struct be_event *)(void *)event;
    return FM_OK;
}

/* Is everything of the event's last command complete?  Waits until deadline_ns at most (0: looks
 * once); what fails is found when the record is settled. */
static bool is_complete(struct check_device *check, struct check_event *event, uint64_t deadline_ns)
{
    struct be_device *inner = check->inner;
    struct record *record = event->record;
    struct be_event *parts[1 + BE_POOL_COUNT] = {event->inner};
    uint32_t count = 1;

    for (uint32_t i = 0; record != NULL && i < BE_POOL_COUNT; i++) {
        if (record->samples[i].is_taken)
            parts[count++] = record->samples[i].after_event;
    }
    for (uint32_t i = 0; i < count; i++) {
        enum fm_status status = deadline_ns == 0
                                    ? inner->ops->event_poll(inner, parts[i], NULL)
                                    : inner->ops->event_wait(inner, parts[i], deadline_ns, NULL);
        if (status == FM_AGAIN)
            return false;
    }
    return true;
}

static void check_event_free(struct be_device *device, struct be_event *opaque)
{
    struct check_device *check = check_of(device);
    struct check_event *event = event_of(opaque);
    if (event == NULL)
        return;
    if (event->record != NULL &&
        is_complete(check, event, fm_clock_ns() + WAIT_FOR_EVER_S * FM_NS_PER_S))
        be_check_settle(check, event->serial);
    check->inner->ops->event_free(check->inner, event->inner);
    fm_free(event);
}

enum fm_status be_check_arm(struct check_device *check, struct check_event *event,
                            struct record *record, struct fm_err *err)
{
    if (event->record != NULL) {
        if (!is_complete(check, event, 0))
            return FM_FAIL(err, FM_DEVICE, "an event is given away whose step is not complete");
        be_check_settle(check, event->serial);
    }
    event->record = record;
    event->serial = ++check->serial;
    event->polls_left = (uint32_t)(be_check_draw(check) % (CHECK_POLLS_MAX + 1));
    event->status = FM_OK;
    event->text[0] = '\0';
    return FM_OK;
}

/* What the caller learns of a complete event. */
static enum fm_status outcome(struct check_device *check, struct check_event *event,
                              struct fm_err *err)
{
    bool had_record = event->record != NULL;
    be_check_settle(check, event->serial);
    if (event->status != FM_OK)
        return FM_FAIL(err, event->status, "%s", event->text);
    if (had_record || event->serial == 0)
        return FM_OK;
    enum fm_status status = check->inner->ops->event_poll(check->inner, event->inner, err);
    if (status == FM_OK && atomic_load_explicit(&check->is_broken, memory_order_acquire) != 0)
        return FM_FAIL(err, FM_DEVICE, "the device has failed: %s", check->broken.text);
    return status;
}

static enum fm_status check_event_poll(struct be_device *device, struct be_event *opaque,
                                       struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct check_event *event = event_of(opaque);
    if (!is_complete(check, event, 0))
        return FM_AGAIN;
    if (event->polls_left > 0) {
        event->polls_left--;
        return FM_AGAIN;
    }
    return outcome(check, event, err);
}

static enum fm_status check_event_wait(struct be_device *device, struct be_event *opaque,
                                       uint64_t deadline_ns, struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct check_event *event = event_of(opaque);
    if (!is_complete(check, event, deadline_ns == 0 ? 1 : deadline_ns))
        return FM_AGAIN;
    event->polls_left = 0;
    return outcome(check, event, err);
}

/* ---- pages --------------------------------------------------------------------------------- */

static enum fm_status check_unit(const struct check_device *check, enum be_pool pool, uint32_t unit,
                                 bool is_written, const char *what, struct fm_err *err)
{
    if (!check->has_state || (unsigned)pool >= BE_POOL_COUNT)
        return FM_FAIL(err, FM_DEVICE, "%s of pool %d, which was not created", what, (int)pool);
    if (unit >= check->shadow.units[pool])
        return FM_FAIL(err, FM_DEVICE, "%s of unit %u of pool %c, which has %u", what, unit,
                       "GST"[pool], check -> shadow.units[pool]);
    if (unit == 0 && is_written)
        return FM_FAIL(err, FM_DEVICE, "%s would write the null unit of pool %c", what,
                       "GST"[pool]);
    return FM_OK;
}

static enum fm_status check_page_copy(struct be_device *device, const struct be_copy *copies,
                                      uint32_t count, struct fm_err *err)
{
    struct check_device *check = check_of(device);
    enum fm_status status = be_check_ready(check, err);
    for (uint32_t i = 0; i < count && status == FM_OK; i++) {
        status = check_unit(check, copies[i].pool, copies[i].source, false, "page_copy", err);
        if (status == FM_OK)
            status = check_unit(check, copies[i].pool, copies[i].target, true, "page_copy", err);
    }
    if (status == FM_OK)
        status = check->inner->ops->page_copy(check->inner, copies, count, err);
    for (uint32_t i = 0; i < count && status == FM_OK; i++)
        be_shadow_copy(&check->shadow, copies[i].pool, copies[i].source, copies[i].target);
    return status;
}

static enum fm_status check_tail_reset(struct be_device *device, const uint32_t *slots,
                                       uint32_t count, struct fm_err *err)
{
    struct check_device *check = check_of(device);
    enum fm_status status = be_check_ready(check, err);
    for (uint32_t i = 0; i < count && status == FM_OK; i++)
        status = check_unit(check, BE_POOL_T, slots[i], true, "tail_reset", err);
    if (status == FM_OK)
        status = check->inner->ops->tail_reset(check->inner, slots, count, err);
    for (uint32_t i = 0; i < count && status == FM_OK; i++)
        be_shadow_reset(&check->shadow, slots[i]);
    return status;
}

static enum fm_status check_page_out(struct be_device *device, enum be_pool pool, uint32_t unit,
                                     void *host, struct be_event *done, struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct check_event *event = event_of(done);
    enum fm_status status = be_check_ready(check, err);
    if (status == FM_OK)
        status = check_unit(check, pool, unit, false, "page_out", err);
    if (status == FM_OK)
        status = be_check_arm(check, event, NULL, err);
    return status == FM_OK
               ? check->inner->ops->page_out(check->inner, pool, unit, host, event->inner, err)
               : status;
}

static enum fm_status check_page_in(struct be_device *device, enum be_pool pool, uint32_t unit,
                                    const void *host, struct be_event *done, struct fm_err *err)
{
    struct check_device *check = check_of(device);
    struct check_event *event = event_of(done);
    enum fm_status status = be_check_ready(check, err);
    if (status == FM_OK)
        status = check_unit(check, pool, unit, true, "page_in", err);
    if (status == FM_OK)
        status = be_check_arm(check, event, NULL, err);
    if (status == FM_OK)
        status = check->inner->ops->page_in(check->inner, pool, unit, host, event->inner, err);
    if (status == FM_OK)
        be_shadow_wild(&check->shadow, pool, unit);
    return status;
}

/* ---- life ---------------------------------------------------------------------------------- */

static void records_free(struct check_device *check)
{
    for (uint32_t i = 0; i < check->record_count; i++) {
        struct record *record = &check->records[i];
        for (uint32_t s = 0; s < BE_POOL_COUNT; s++)
            be_sample_done(&record->samples[s], check->inner);
        fm_free(record->log.entries);
        fm_free(record->block);
    }
    fm_free(check->records);
    check->records = NULL;
    check->record_count = 0;
}

static void check_close(struct be_device *device)
{
    if (device == NULL)
        return;
    struct check_device *check = check_of(device);
    records_free(check);
    if (check->has_state)
        be_shadow_done(&check->shadow);
    check->inner->ops->close(check->inner);
    fm_free(check);
}

static void check_caps(const struct be_device *device, struct be_caps *ret_caps)
{
    const struct check_device *check = (const struct check_device *)(const void *)device;
    *ret_caps = check->caps;
    (void)snprintf(ret_caps->description, sizeof(ret_caps->description), "check of %.100s",
                   check->caps.description);
}

static enum fm_status check_weights_load(struct be_device *device, const struct be_model *model,
                                         const struct be_reader *reader, struct fm_err *err)
{
    struct check_device *check = check_of(device);
    if (check->model != NULL)
        return FM_FAIL(err, FM_DEVICE, "weights are loaded a second time");
    enum fm_status status = check->inner->ops->weights_load(check->inner, model, reader, err);
    if (status == FM_OK)
        check->model = model;
    return status;
}

static enum fm_status records_new(struct check_device *check, struct fm_err *err)
{
    check->records = fm_alloc_array(check->caps.async_depth + 1, sizeof(struct record));
    if (check->records == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the records of %u steps",
                       check->caps.async_depth + 1);
    check->record_count = check->caps.async_depth + 1;
    for (uint32_t i = 0; i < check->record_count; i++) {
        for (uint32_t s = 0; s < BE_POOL_COUNT; s++) {
            enum fm_status status = be_sample_init(&check->records[i].samples[s], check->inner,
                                                   &check->shadow, (enum be_pool)s, err);
            if (status != FM_OK)
                return status;
        }
    }
    return FM_OK;
}

static enum fm_status check_state_create(struct be_device *device,
                                         const uint32_t units[BE_POOL_COUNT], struct fm_err *err)
{
    struct check_device *check = check_of(device);
    if (check->model == NULL || check->has_state)
        return FM_FAIL(err, FM_DEVICE, "state is created %s",
                       check->has_state ? "a second time" : "before weights are loaded");
    for (uint32_t i = 1; i < check->model->state_count; i++) {
        enum be_pool pool = be_class_pool(check->model->states[i].class);
        if (units[pool] == 0)
            return FM_FAIL(err, FM_DEVICE, "pool %c has no null unit", "GST"[pool]);
    }
    enum fm_status status = be_shadow_init(&check->shadow, check->model, units, err);
    if (status != FM_OK)
        return status;
    status = records_new(check, err);
    if (status == FM_OK)
        status = check->inner->ops->state_create(check->inner, units, err);
    if (status != FM_OK) {
        records_free(check);
        be_shadow_done(&check->shadow);
        return status;
    }
    check->has_state = true;
    return FM_OK;
}

static int check_score(const char **ret_reason)
{
    *ret_reason = "check is not a device: it wraps one";
    return 0;
}

static enum fm_status check_open(const struct be_device_options *options,
                                 struct be_device **ret_device, struct fm_err *err)
{
    (void)options;
    (void)ret_device;
    return FM_FAIL(err, FM_UNSUPPORTED, "check is not a device: it wraps one");
}

static const struct be_ops check_ops = {
    .abi = BE_OPS_ABI,
    .name = "check",
    .score = check_score,
    .open = check_open,
    .close = check_close,
    .caps = check_caps,
    .weights_load = check_weights_load,
    .state_create = check_state_create,
    .compile = be_check_compile,
    .exec_free = be_check_exec_free,
    .submit = be_check_submit,
    .page_copy = check_page_copy,
    .tail_reset = check_tail_reset,
    .page_out = check_page_out,
    .page_in = check_page_in,
    .value_write = be_check_value_write,
    .value_read = be_check_value_read,
    .value_copy = be_check_value_copy,
    .event_new = check_event_new,
    .event_free = check_event_free,
    .event_poll = check_event_poll,
    .event_wait = check_event_wait,
    .event_fd = NULL, /* a descriptor would be ready while polls are held back */
};

enum fm_status be_check_wrap(struct be_device *inner, uint64_t seed, struct be_device **ret_device,
                             struct fm_err *err)
{
    FM_ASSERT(inner != NULL && inner->ops->abi == BE_OPS_ABI);
    struct check_device *check = fm_alloc(sizeof(*check));
    if (check == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory to wrap a device");
    check->base.ops = &check_ops;
    check->inner = inner;
    check->seed = seed;
    inner->ops->caps(inner, &check->caps);
    *ret_device = &check->base;
    return FM_OK;
}
