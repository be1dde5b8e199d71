/* gate.c - the bell and the numbers of what waits; see gate.h. */
#include "scheduler/gate.h"

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/thread.h"

enum { RETRY_S_MAX = 60, RETRY_S_UNKNOWN = 5 };

void sch_gate_init(struct sch_gate *gate, struct fm_mailbox *inbox)
{
    gate->inbox = inbox;
    gate->message.kind = SCH_MESSAGE_BELL;
    atomic_init(&gate->is_rung, false);
    atomic_init(&gate->is_draining, false);
    atomic_init(&gate->is_stopping, false);
    atomic_init(&gate->is_broken, false);
    atomic_init(&gate->queued_count, 0);
    atomic_init(&gate->queued_tokens, 0);
    atomic_init(&gate->live_count, 0);
    atomic_init(&gate->refused_count, 0);
    atomic_init(&gate->rows_per_s, 0);
    atomic_init(&gate->answer_tokens, 0);
}

void sch_gate_ring(struct sch_gate *gate)
{
    /* Release: pairs with the acquire in sch_gate_clear, for the flag that was set before. */
    if (!atomic_exchange_explicit(&gate->is_rung, true, memory_order_acq_rel))
        fm_mailbox_put(gate->inbox, &gate->message.link);
}

void sch_gate_clear(struct sch_gate *gate)
{
    FM_ASSERT(fm_thread_is(FM_THREAD_SCHEDULER));
    bool was_rung = atomic_exchange_explicit(&gate->is_rung, false, memory_order_acq_rel);
    FM_ASSERT(was_rung);
}

bool sch_gate_enter(struct sch_gate *gate, uint32_t prompt_tokens, uint64_t count_max,
                    uint64_t tokens_max)
{
    /* Relaxed: the numbers order nothing; the scheduler only ever lowers them. */
    uint64_t count = atomic_load_explicit(&gate->queued_count, memory_order_relaxed);
    uint64_t tokens = atomic_load_explicit(&gate->queued_tokens, memory_order_relaxed);
    if (count >= count_max)
        return false;
    if (count > 0 && (tokens > tokens_max || prompt_tokens > tokens_max - tokens))
        return false;
    atomic_fetch_add_explicit(&gate->queued_count, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&gate->queued_tokens, prompt_tokens, memory_order_relaxed);
    return true;
}

void sch_gate_leave(struct sch_gate *gate, uint32_t prompt_tokens)
{
    uint64_t count = atomic_fetch_sub_explicit(&gate->queued_count, 1, memory_order_relaxed);
    uint64_t tokens =
        atomic_fetch_sub_explicit(&gate->queued_tokens, prompt_tokens, memory_order_relaxed);
    FM_ASSERT(count >= 1);
    FM_ASSERT(tokens >= prompt_tokens);
}

uint32_t sch_gate_retry_s(const struct sch_gate *gate)
{
    uint64_t rows_per_s = atomic_load_explicit(&gate->rows_per_s, memory_order_relaxed);
    uint64_t answer = atomic_load_explicit(&gate->answer_tokens, memory_order_relaxed);
    uint64_t count = atomic_load_explicit(&gate->queued_count, memory_order_relaxed);
    uint64_t tokens = atomic_load_explicit(&gate->queued_tokens, memory_order_relaxed);
    if (rows_per_s == 0)
        return RETRY_S_UNKNOWN;
    uint64_t seconds = fm_div_ceil(tokens + count * answer, rows_per_s);
    return (uint32_t)fm_min_u64(fm_max_u64(seconds, 1), RETRY_S_MAX);
}
