/* run.c - one step: commands, block, submit, wait, draw; eng_run of engine.h.
 *
 * The worker thread does nothing else, so it waits for the device here; while it waits the
 * scheduler prepares.  Draws are made on the host from the logits of the step. */
#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/numeric.h"
#include "engine/model.h"
#include "engine/step.h"

/* A step that takes longer has a device that hangs: the longest prefill step of the largest model
 * on a small host is minutes. */
static const uint64_t STEP_LIMIT_NS = 1800 * FM_NS_PER_S;

enum fm_status eng_step_run(struct eng_engine *engine, struct be_exec *exec,
                            const struct eng_plan *plan, uint32_t *ret_logit_count,
                            struct fm_err *err)
{
    struct be_device *device = engine->device;
    enum fm_status status = FM_OK;
    uint32_t logit_count = 0;

    if (plan->copy_count != 0)
        status = device->ops->page_copy(device, plan->copies, plan->copy_count, err);
    if (status == FM_OK && plan->tail_reset_count != 0)
        status = device->ops->tail_reset(device, plan->tail_resets, plan->tail_reset_count, err);
    if (status == FM_OK && plan->span_count != 0) {
        status = eng_step_build(plan, &engine->limits, engine->info.layout.page_tokens,
                                engine->step_number + 1, engine->block, engine->block_bytes,
                                &logit_count, err);
        if (status == FM_OK)
            status = device->ops->submit(device, exec, engine->block, engine->done, err);
        FM_ASSERT(status != FM_AGAIN); /* one step at a time is always taken */
        if (status == FM_OK) {
            engine->step_number++;
            status =
                device->ops->event_wait(device, engine->done, fm_clock_ns() + STEP_LIMIT_NS, err);
        }
        if (status == FM_AGAIN)
            status = FM_FAIL(err, FM_DEVICE, "step %llu was not finished within %llu s",
                             (unsigned long long)engine->step_number,
                             (unsigned long long)(STEP_LIMIT_NS / FM_NS_PER_S));
    }
    if (status == FM_OK)
        *ret_logit_count = logit_count;
    return status;
}

enum fm_status eng_run(struct eng_engine *engine, const struct eng_plan *plan,
                       struct eng_drawn *ret_drawn, struct fm_err *err)
{
    uint32_t logit_count;
    enum fm_status status = eng_step_run(engine, engine->forward, plan, &logit_count, err);
    if (status == FM_OK && logit_count != 0)
        status = engine->device->ops->value_read(engine->device, engine->forward,
                                                 engine->programs->forward.logits, 0, logit_count,
                                                 engine->logits, err);
    if (status != FM_OK)
        return status;

    uint64_t mode = fm_numeric_enter();
    const float *logits = engine->logits;
    for (uint32_t i = 0; i < plan->span_count; i++) {
        const struct eng_span *span = &plan->spans[i];
        const struct eng_draw *draw = span->draws;
        for (uint32_t row = span->logit_first; row < span->token_count; row++) {
            for (uint32_t j = 0; j < span->draws_per_row; j++)
                eng_sample(logits, engine->info.vocab, draw++, engine->scratch, engine->scratch_ids,
                           ret_drawn++);
            logits += engine->info.vocab;
        }
    }
    fm_numeric_leave(mode);
    return FM_OK;
}
