/* fault.c - failures on demand; see fault.h. */
#include "backends/base/fault.h"

#include <stdatomic.h>
#include <string.h>

#include "backends/base/assert.h"

/* `armed` is stored last and loaded first, release to acquire, so that a thread that sees a point
 * armed also sees which one. */
static _Atomic(const char *) armed;
static atomic_uint_fast64_t hits_left;
static atomic_bool is_forever;
static atomic_bool has_fired;

static void arm(const char *point, uint64_t nth, bool forever)
{
    FM_ASSERT(point != NULL);
    FM_ASSERT(nth > 0);
    atomic_store_explicit(&hits_left, nth, memory_order_relaxed);
    atomic_store_explicit(&is_forever, forever, memory_order_relaxed);
    atomic_store_explicit(&has_fired, false, memory_order_relaxed);
    atomic_store_explicit(&armed, point, memory_order_release);
}

void fm_fault_arm(const char *point, uint64_t nth)
{
    arm(point, nth, false);
}

void fm_fault_arm_forever(const char *point, uint64_t nth)
{
    arm(point, nth, true);
}

bool fm_fault_disarm(const char *point)
{
    const char *now = atomic_exchange_explicit(&armed, NULL, memory_order_acq_rel);
    FM_ASSERT(now != NULL && strcmp(now, point) == 0);
    return atomic_load_explicit(&has_fired, memory_order_relaxed);
}

bool fm_fault_hit(const char *point)
{
    const char *now = atomic_load_explicit(&armed, memory_order_acquire);
    if (now == NULL || strcmp(now, point) != 0)
        return false;

    uint64_t left = atomic_load_explicit(&hits_left, memory_order_relaxed);
    while (left != 0) {
        if (atomic_compare_exchange_weak_explicit(&hits_left, &left, left - 1, memory_order_relaxed,
                                                  memory_order_relaxed))
            break;
    }
    bool fires =
        left == 1 || (left == 0 && atomic_load_explicit(&is_forever, memory_order_relaxed));
    if (fires)
        atomic_store_explicit(&has_fired, true, memory_order_relaxed);
    return fires;
}
