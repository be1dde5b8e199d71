/* front.c - what the main thread calls; see front.h and scheduler.h. */
#include "scheduler/front.h"

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "backends/base/thread.h"
#include "scheduler/stream.h"

/* ---- life ---------------------------------------------------------------------------------- */

static enum fm_status slots_take(struct sch_scheduler *scheduler, struct fm_err *err)
{
    struct sch_loop *loop = scheduler->loop;
    scheduler->free_slots = fm_alloc_array(loop->slot_count, sizeof(void *));
    if (scheduler->free_slots == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u requests", loop->slot_count);
    for (uint32_t i = 0; i < loop->slot_count; i++)
        scheduler->free_slots[i] = &loop->slots[loop->slot_count - 1 - i];
    scheduler->free_count = loop->slot_count;
    return FM_OK;
}

enum fm_status sch_front_init(struct sch_scheduler *scheduler, const struct eng_info *info,
                              const struct eng_text *text, const struct sch_options *options,
                              struct fm_err *err)
{
    *scheduler = (struct sch_scheduler){.context_max = info->context_max};
    enum fm_status status = sch_loop_new(info, text, options, &scheduler->loop, err);
    if (status != FM_OK)
        return status;
    status = slots_take(scheduler, err);
    if (status != FM_OK)
        sch_loop_free(scheduler->loop);
    return status;
}

void sch_front_done(struct sch_scheduler *scheduler)
{
    sch_loop_free(scheduler->loop);
    fm_free(scheduler->free_slots);
}

void sch_drain(struct sch_scheduler *scheduler)
{
    atomic_store_explicit(&scheduler->loop->gate.is_draining, true, memory_order_relaxed);
    sch_gate_ring(&scheduler->loop->gate);
}

bool sch_is_idle(struct sch_scheduler *scheduler)
{
    /* Acquire: pairs with the release where the scheduler lets go of a request. */
    return atomic_load_explicit(&scheduler->loop->gate.live_count, memory_order_acquire) == 0;
}

/* ---- requests ------------------------------------------------------------------------------ */

/* What can never be run, whenever it comes. */
static enum fm_status spec_check(const struct sch_scheduler *scheduler, const struct sch_spec *spec,
                                 uint32_t ret_need[BE_POOL_COUNT], struct fm_err *err)
{
    const struct sch_loop *loop = scheduler->loop;
    if (spec->prompt_count == 0 || spec->choice_count == 0)
        return FM_FAIL(err, FM_INVALID, "a request needs a prompt and at least one choice");
    if (spec->stop_token_count > SCH_STOP_TOKENS_MAX || spec->bad_word_count > SCH_BAD_WORDS_MAX)
        return FM_FAIL(err, FM_INVALID, "%u stop tokens and %u bad words, at most %d and %d",
                       spec->stop_token_count, spec->bad_word_count, SCH_STOP_TOKENS_MAX,
                       SCH_BAD_WORDS_MAX);
    for (uint32_t i = 0; i < spec->bad_word_count; i++)
        if (spec->bad_words[i].token_count == 0)
            return FM_FAIL(err, FM_INVALID, "bad word %u is empty", i);
    if (spec->prompt_count > scheduler->context_max ||
        spec->tokens_max > scheduler->context_max - spec->prompt_count)
        return FM_FAIL(err, FM_LIMIT, "%u + %u tokens, the context has %u", spec->prompt_count,
                       spec->tokens_max, scheduler->context_max);
    if (spec->choice_count > loop->options.choices_max ||
        spec->choice_count > loop->options.running_max)
        return FM_FAIL(err, FM_LIMIT, "%u choices, at most %u", spec->choice_count,
                       loop->options.choices_max < loop->options.running_max
                           ? loop->options.choices_max
                           : loop->options.running_max);
    sch_queue_need(&loop->layout, loop->options.chunk_tokens_max, spec, ret_need);
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        if (ret_need[pool] > loop->queue.units_max[pool])
            return FM_FAIL(err, FM_LIMIT, "%u x (%u + %u) tokens need %u cache units, there are %u",
                           spec->choice_count, spec->prompt_count, spec->tokens_max, ret_need[pool],
                           loop->queue.units_max[pool]);
    for (uint32_t i = 0; i < spec->sampling.bias_count; i++)
        if (spec->sampling.bias[i].token >= loop->vocab)
            return FM_FAIL(err, FM_INVALID, "the bias has token %u, the vocabulary has %u",
                           spec->sampling.bias[i].token, loop->vocab);
    for (uint32_t i = 0; i < spec->prompt_count; i++)
        if (spec->prompt[i] >= loop->vocab)
            return FM_FAIL(err, FM_INVALID, "the prompt has token %u, the vocabulary has %u",
                           spec->prompt[i], loop->vocab);
    return FM_OK;
}

/* A slot that nobody uses, or NULL. */
static struct sch_request *slot_take(struct sch_scheduler *scheduler)
{
    struct fm_link *link;
    while ((link = fm_mailbox_poll(scheduler->loop->released)) != NULL)
        scheduler->free_slots[scheduler->free_count++] =
            FM_CONTAINER(link, struct sch_request, message.link);
    return scheduler->free_count != 0 ? scheduler->free_slots[--scheduler->free_count] : NULL;
}

static enum fm_status refuse(struct sch_gate *gate, uint32_t *ret_retry_s)
{
    atomic_fetch_add_explicit(&gate->refused_count, 1, memory_order_relaxed);
    *ret_retry_s = sch_gate_retry_s(gate);
    return FM_AGAIN;
}

/* Everything that a slot needs before it travels. */
static enum fm_status slot_fill(struct sch_scheduler *scheduler, struct sch_request *req,
                                const struct sch_spec *spec, struct fm_err *err)
{
    struct sch_loop *loop = scheduler->loop;
    enum fm_status status = sch_request_fill(req, spec, loop->vocab, err);
    if (status != FM_OK)
        return status;
    status = sch_stream_new(loop->options.stream_bytes, &loop->gate, &req->stream, err);
    if (status != FM_OK) {
        sch_request_clear(req);
        return status;
    }
    req->submit_ns = fm_clock_ns();
    req->generation = req->generation == UINT32_MAX ? 1 : req->generation + 1;
    return FM_OK;
}

enum fm_status sch_submit(struct sch_scheduler *scheduler, const struct sch_spec *spec,
                          struct sch_handle *ret_handle, struct sch_stream **ret_stream,
                          uint32_t *ret_retry_s, struct fm_err *err)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_MAIN));
    struct sch_gate *gate = &scheduler->loop->gate;
    uint32_t need[BE_POOL_COUNT] = {0};
    if (atomic_load_explicit(&gate->is_draining, memory_order_relaxed))
        return FM_FAIL(err, FM_CANCELED, "the server is shutting down");
    if (atomic_load_explicit(&gate->is_broken, memory_order_relaxed))
        return FM_FAIL(err, FM_DEVICE, "the device was lost");
    enum fm_status status = spec_check(scheduler, spec, need, err);
    if (status != FM_OK)
        return status;

    struct sch_request *req = slot_take(scheduler);
    if (req == NULL)
        return refuse(gate, ret_retry_s);
    const struct sch_options *options = &scheduler->loop->options;
    if (!sch_gate_enter(gate, spec->prompt_count, options->queue_max, options->queue_tokens_max)) {
        scheduler->free_slots[scheduler->free_count++] = req;
        return refuse(gate, ret_retry_s);
    }
    status = slot_fill(scheduler, req, spec, err);
    if (status != FM_OK) {
        sch_gate_leave(gate, spec->prompt_count);
        scheduler->free_slots[scheduler->free_count++] = req;
        return status;
    }
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        req->need[pool] = need[pool];
    *ret_handle = (struct sch_handle){.slot = req->slot, .generation = req->generation};
    *ret_stream = req->stream;
    atomic_fetch_add_explicit(&gate->live_count, 1, memory_order_relaxed);
    fm_mailbox_put(scheduler->loop->inbox, &req->message.link);
    return FM_OK;
}

void sch_cancel(struct sch_scheduler *scheduler, struct sch_handle handle)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_MAIN));
    FM_ASSERT(handle.slot < scheduler->loop->slot_count);
    struct sch_request *req = &scheduler->loop->slots[handle.slot];
    if (req->generation != handle.generation)
        return; /* the slot serves another one by now */
    /* The scheduler compares again: a mark that comes too late marks nothing. */
    atomic_store_explicit(&req->cancel_ns, fm_clock_ns(), memory_order_relaxed);
    atomic_store_explicit(&req->cancel_generation, handle.generation, memory_order_release);
    sch_gate_ring(&scheduler->loop->gate);
}

void sch_stats(struct sch_scheduler *scheduler, struct sch_stats *ret_stats)
{
    sch_board_read(&scheduler->loop->board, ret_stats);
    ret_stats->refused =
        atomic_load_explicit(&scheduler->loop->gate.refused_count, memory_order_relaxed);
}
