/* state.h - the three pools of cached state: equal units in one block each, canonical inside.
 *
 * A row lies at unit * stride + offset of its state + row * row_bytes.  Unit 0 is the null page:
 * zeros that are never written.  Touched by the device thread and the team only, in the order of
 * the queue. */
#ifndef CPU_STATE_H
#define CPU_STATE_H

#include <stdint.h>

#include "backends/backend.h"
#include "backends/cpu/memory.h"

enum { CPU_UNIT_ALIGNMENT = 128 };

struct cpu_pool {
    struct cpu_memory memory;
    uint64_t stride; /* bytes from unit to unit */
    uint64_t bytes;  /* canonical, of one unit */
    uint32_t units;
};

struct cpu_state {
    struct cpu_pool pools[BE_POOL_COUNT];
};

/* Zeroed pools; FM_NOMEM leaves ret_state empty. */
enum fm_status cpu_state_take(const struct be_model *model, const uint32_t units[BE_POOL_COUNT],
                              struct cpu_state *ret_state, struct fm_err *err) FM_MUST_CHECK;
void cpu_state_give(struct cpu_state *state);

static inline uint8_t *cpu_state_unit(const struct cpu_state *state, enum be_pool pool,
                                      uint32_t unit)
{
    return state->pools[pool].memory.data + unit * state->pools[pool].stride;
}

/* k = 0 and g = -infinity in every row of every tail of the slot. */
void cpu_state_tail_reset(const struct cpu_state *state, const struct be_model *model,
                          uint32_t slot);

#endif
