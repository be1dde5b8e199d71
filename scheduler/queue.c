/* queue.c - first come, first served, within what is promised; see queue.h. */
#include "scheduler/queue.h"

#include "backends/base/assert.h"

void sch_queue_need(const struct kv_layout *layout, uint32_t chunk_tokens,
                    const struct sch_spec *spec, uint32_t ret_units[BE_POOL_COUNT])
{
    FM_ASSERT(spec->tokens_max <= UINT32_MAX - spec->prompt_count);
    struct kv_need need = {
        .tokens = spec->prompt_count + spec->tokens_max,
        .shared_tokens = spec->prompt_count,
        .chunk_tokens = chunk_tokens,
        .seq_count = spec->choice_count,
    };
    kv_units_needed(layout, &need, ret_units);
}

void sch_queue_push(struct sch_queue *queue, struct sch_request *req)
{
    FM_ASSERT(req->state == SCH_STATE_QUEUED);
    req->next = NULL;
    if (queue->first == NULL)
        queue->first = req;
    else
        queue->last->next = req;
    queue->last = req;
    queue->count++;
}

void sch_queue_remove(struct sch_queue *queue, struct sch_request *req)
{
    struct sch_request *before = NULL;
    struct sch_request *at = queue->first;
    while (at != req) {
        FM_ASSERT(at != NULL); /* it is in the queue */
        before = at;
        at = at->next;
    }
    if (before == NULL)
        queue->first = req->next;
    else
        before->next = req->next;
    if (queue->last == req)
        queue->last = before;
    req->next = NULL;
    FM_ASSERT(queue->count > 0);
    queue->count--;
}

static bool fits(const struct sch_queue *queue, const struct sch_request *req)
{
    if (req->choice_count > queue->seqs_max - queue->seqs_promised)
        return false;
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        if (req->need[pool] > queue->units_max[pool] - queue->units_promised[pool])
            return false;
    return true;
}

struct sch_request *sch_queue_admit(struct sch_queue *queue)
{
    struct sch_request *req = queue->first;
    if (req == NULL || !fits(queue, req))
        return NULL;
    sch_queue_remove(queue, req);
    queue->seqs_promised += req->choice_count;
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        queue->units_promised[pool] += req->need[pool];
    return req;
}

void sch_queue_release(struct sch_queue *queue, struct sch_request *req)
{
    FM_ASSERT(queue->seqs_promised >= req->choice_count);
    queue->seqs_promised -= req->choice_count;
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++) {
        FM_ASSERT(queue->units_promised[pool] >= req->need[pool]);
        queue->units_promised[pool] -= req->need[pool];
    }
}
