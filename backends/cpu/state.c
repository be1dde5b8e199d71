/* state.c - page-major pools; see state.h. */
#include "backends/cpu/state.h"

#include <math.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"

static const char *const pool_names[BE_POOL_COUNT] = {"pool G", "pool S", "pool T"};

enum fm_status cpu_state_take(const struct be_model *model, const uint32_t units[BE_POOL_COUNT],
                              struct cpu_state *ret_state, struct fm_err *err)
{
    struct cpu_state state = {0};
    for (uint32_t i = 0; i < BE_POOL_COUNT; i++) {
        struct cpu_pool *pool = &state.pools[i];
        size_t bytes;
        pool->units = fm_max_u32(units[i], 1);
        pool->bytes = be_pool_unit_bytes(model, (enum be_pool)i);
        pool->stride = fm_align_up(pool->bytes, CPU_UNIT_ALIGNMENT);
        enum fm_status status;
        if (fm_mul_size(pool->stride, pool->units, &bytes))
            status = cpu_memory_take(bytes, pool_names[i], &pool->memory, err);
        else
            status =
                FM_FAIL(err, FM_NOMEM, "%u units are too many for %s", units[i], pool_names[i]);
        if (status != FM_OK) {
            cpu_state_give(&state);
            return status;
        }
    }
    *ret_state = state;
    return FM_OK;
}

void cpu_state_give(struct cpu_state *state)
{
    for (uint32_t i = 0; i < BE_POOL_COUNT; i++)
        cpu_memory_give(&state->pools[i].memory);
    *state = (struct cpu_state){0};
}

void cpu_state_tail_reset(const struct cpu_state *state, const struct be_model *model,
                          uint32_t slot)
{
    FM_ASSERT(slot != 0 && slot < state->pools[BE_POOL_T].units);
    uint8_t *unit = cpu_state_unit(state, BE_POOL_T, slot);
    for (uint32_t i = 1; i < model->state_count; i++) {
        const struct be_state *tail = &model->states[i];
        if (be_class_pool(tail->class) != BE_POOL_T)
            continue;
        uint8_t *row = unit + be_state_offset(model, (be_state_id)i);
        for (uint32_t r = 0; r < tail->rows; r++, row += tail->row_bytes) {
            float *k = (float *)(void *)row, *g = k + tail->row_bytes / 8;
            for (uint32_t c = 0; c < tail->row_bytes / 8; c++) {
                k[c] = 0.0f;
                g[c] = -INFINITY;
            }
        }
    }
}
