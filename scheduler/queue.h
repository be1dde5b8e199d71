/* queue.h - who waits, in the order of arrival, and what is promised to those who run.
 *
 * Admission is safe, not clever: a request is admitted when everything that it can ever need
 * (prompt and all tokens_max of all choices) fits beside what was promised to the others.  So no
 * running request can run out of pages, and none is ever preempted.  The price: a large tokens_max
 * occupies pages that a short answer never uses.  First come, first served: a request that does
 * not fit yet is not overtaken.  Owner: the scheduler thread. */
#ifndef SCH_QUEUE_H
#define SCH_QUEUE_H

#include "scheduler/request.h"

struct sch_queue {
    struct sch_request *first, *last;
    uint32_t count;

    uint32_t seqs_max, seqs_promised; /* sequences that run */
    uint32_t units_max[BE_POOL_COUNT], units_promised[BE_POOL_COUNT];
};

/* What the request needs of each pool at most.  Pure. */
void sch_queue_need(const struct kv_layout *layout, uint32_t chunk_tokens,
                    const struct sch_spec *spec, uint32_t ret_units[BE_POOL_COUNT]);

void sch_queue_push(struct sch_queue *queue, struct sch_request *req);

/* Take a request out, wherever it stands. */
void sch_queue_remove(struct sch_queue *queue, struct sch_request *req);

/* The first one, when its need can be promised; it is out of the queue then.  NULL otherwise. */
struct sch_request *sch_queue_admit(struct sch_queue *queue);

/* Give back what was promised to the request. */
void sch_queue_release(struct sch_queue *queue, struct sch_request *req);

#endif
