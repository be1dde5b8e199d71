/* pool.c - a stack of free units and a count of references; see pool.h. */
#include "kvcache/pool.h"

#include "backends/base/assert.h"
#include "backends/base/mem.h"

enum fm_status kv_pool_init(struct kv_pool *pool, uint32_t unit_count, struct fm_err *err)
{
    FM_ASSERT(unit_count >= 1);
    uint32_t *free_units = fm_alloc_array(unit_count, sizeof *free_units);
    uint32_t *references = fm_alloc_array(unit_count, sizeof *references);
    if (free_units == NULL || references == NULL) {
        fm_free(free_units);
        fm_free(references);
        return FM_FAIL(err, FM_NOMEM, "no memory for the table of %u cache units", unit_count);
    }
    /* Low numbers on top: a lightly loaded pool touches the same few units again and again. */
    for (uint32_t unit = unit_count - 1; unit >= 1; unit--)
        free_units[unit_count - 1 - unit] = unit;
    pool->unit_count = unit_count;
    pool->free_count = unit_count - 1;
    pool->free_units = free_units;
    pool->references = references;
    return FM_OK;
}

void kv_pool_done(struct kv_pool *pool)
{
    fm_free(pool->free_units);
    fm_free(pool->references);
    *pool = (struct kv_pool){0};
}

uint32_t kv_pool_take(struct kv_pool *pool)
{
    if (pool->free_count == 0)
        return 0;
    uint32_t unit = pool->free_units[--pool->free_count];
    FM_ASSERT(unit != 0 && unit < pool->unit_count);
    FM_ASSERT(pool->references[unit] == 0);
    pool->references[unit] = 1;
    return unit;
}

void kv_pool_ref(struct kv_pool *pool, uint32_t unit)
{
    FM_ASSERT(unit != 0 && unit < pool->unit_count);
    FM_ASSERT(pool->references[unit] != 0 && pool->references[unit] != UINT32_MAX);
    pool->references[unit]++;
}

void kv_pool_put(struct kv_pool *pool, uint32_t unit)
{
    FM_ASSERT(unit != 0 && unit < pool->unit_count);
    FM_ASSERT(pool->references[unit] != 0);
    if (--pool->references[unit] != 0)
        return;
    FM_ASSERT(pool->free_count < pool->unit_count - 1);
    pool->free_units[pool->free_count++] = unit;
}

/* Whether some unit stands twice among the first `count` of the stack, without memory of our own:
 * free units have 0 references, so the reference table serves as the mark and is put back. */
static bool stack_has_twins(const struct kv_pool *pool)
{
    bool has_twins = false;
    uint32_t marked = 0;
    for (; marked < pool->free_count && !has_twins; marked++) {
        uint32_t unit = pool->free_units[marked];
        has_twins = pool->references[unit] != 0;
        if (!has_twins)
            pool->references[unit] = UINT32_MAX;
    }
    if (has_twins)
        marked--;
    for (uint32_t i = 0; i < marked; i++)
        pool->references[pool->free_units[i]] = 0;
    return has_twins;
}

bool kv_pool_sane(const struct kv_pool *pool, const uint32_t *counted)
{
    uint32_t taken_count = 0;
    if (pool->references[0] != 0 || counted[0] != 0)
        return false;
    for (uint32_t unit = 1; unit < pool->unit_count; unit++) {
        if (pool->references[unit] != counted[unit])
            return false;
        taken_count += pool->references[unit] != 0;
    }
    if (pool->free_count + taken_count != pool->unit_count - 1)
        return false;
    for (uint32_t i = 0; i < pool->free_count; i++) {
        uint32_t unit = pool->free_units[i];
        if (unit == 0 || unit >= pool->unit_count || pool->references[unit] != 0)
            return false;
    }
    return !stack_has_twins(pool);
}
