/* program.c - sizes of the things that a program is made of, in their canonical form.
 *
 * The rules of operations are in program_check.c, step blocks in step.c. */
#include "backends/program.h"

#include "backends/base/checked.h"

enum { ACT_BLOCK = 128, WEIGHT_TILE = 128, FP4_BLOCK = 32 };

static uint64_t elem_bytes(enum be_elem elem)
{
    switch (elem) {
    case BE_ELEM_BF16: return 2;
    case BE_ELEM_F32:
    case BE_ELEM_I32: return 4;
    case BE_ELEM_ACT: return 1;
    }
    FM_UNREACHABLE();
    return 0;
}

uint64_t be_value_row_bytes(const struct be_value *value)
{
    uint64_t count = (uint64_t)value->outer * value->inner;
    uint64_t exponents = value->elem == BE_ELEM_ACT ? fm_div_ceil(count, ACT_BLOCK) : 0;
    return count * elem_bytes(value->elem) + exponents;
}

uint64_t be_weight_row_bytes(const struct be_weight *weight, enum be_part part)
{
    if (part == BE_PART_DATA) {
        switch (weight->format) {
        case BE_FORMAT_FP4: return weight->cols / 2;
        case BE_FORMAT_FP8: return weight->cols;
        case BE_FORMAT_BF16: return (uint64_t)weight->cols * 2;
        case BE_FORMAT_F32: return (uint64_t)weight->cols * 4;
        case BE_FORMAT_I64: return (uint64_t)weight->cols * 8;
        }
        FM_UNREACHABLE();
    }
    if (weight->scale_format == BE_SCALE_NONE)
        return 0;
    uint64_t bytes = weight->scale_format == BE_SCALE_F32 ? 4 : 1;
    uint64_t block = weight->format == BE_FORMAT_FP4 ? FP4_BLOCK : WEIGHT_TILE;
    return fm_div_ceil(weight->cols, block) * bytes;
}

uint32_t be_weight_part_rows(const struct be_weight *weight, enum be_part part)
{
    if (part == BE_PART_DATA)
        return weight->rows;
    if (weight->scale_format == BE_SCALE_NONE)
        return 0;
    if (weight->format == BE_FORMAT_FP4)
        return weight->rows;
    return fm_u32(fm_div_ceil(weight->rows, WEIGHT_TILE));
}

/* Both walk the table: it has a few hundred entries, and callers keep what they need. */
uint64_t be_pool_unit_bytes(const struct be_model *model, enum be_pool pool)
{
    uint64_t bytes = 0;
    for (uint32_t i = 1; i < model->state_count; i++) {
        const struct be_state *state = &model->states[i];
        if (be_class_pool(state->class) == pool)
            bytes += (uint64_t)state->rows * state->row_bytes;
    }
    return bytes;
}

uint64_t be_state_offset(const struct be_model *model, be_state_id state)
{
    FM_ASSERT(state != 0 && state < model->state_count);
    enum be_pool pool = be_class_pool(model->states[state].class);
    uint64_t offset = 0;
    for (uint32_t i = 1; i < state; i++) {
        const struct be_state *other = &model->states[i];
        if (be_class_pool(other->class) == pool)
            offset += (uint64_t)other->rows * other->row_bytes;
    }
    return offset;
}
