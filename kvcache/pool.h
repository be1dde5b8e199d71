/* pool.h - the numbers of one pool's units: which are free, how often each is referenced.
 *
 * Unit 0 is the null unit: it is never free and never taken.  A unit is either on the free stack
 * with no reference, or off it with at least one.  Owner: the scheduler thread. */
#ifndef KV_POOL_H
#define KV_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

struct kv_pool {
    uint32_t unit_count;  /* the null unit included */
    uint32_t free_count;  /* units on the stack */
    uint32_t *free_units; /* [unit_count], the first free_count count */
    uint32_t *references; /* [unit_count] */
};

/* All units but the null unit are free.  unit_count is at least 1. */
enum fm_status kv_pool_init(struct kv_pool *pool, uint32_t unit_count,
                            struct fm_err *err) FM_MUST_CHECK;
void kv_pool_done(struct kv_pool *pool); /* a zeroed pool is allowed */

/* A free unit, with one reference; 0 when there is none. */
uint32_t kv_pool_take(struct kv_pool *pool);

/* One more reference of a taken unit. */
void kv_pool_ref(struct kv_pool *pool, uint32_t unit);

/* One reference less; the unit is free after the last. */
void kv_pool_put(struct kv_pool *pool, uint32_t unit);

/* The unit has one reference and may be written. */
static inline bool kv_pool_is_private(const struct kv_pool *pool, uint32_t unit)
{
    return pool->references[unit] == 1;
}

/* The free stack holds each unit without references once, and nothing else; the references are
 * those counted[unit_count] by the caller. */
bool kv_pool_sane(const struct kv_pool *pool, const uint32_t *counted);

#endif
