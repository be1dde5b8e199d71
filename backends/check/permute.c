/* permute.c - orders of a program: again and again one of the operations that are ready. */
#include "backends/check/permute.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"

/* A program that owns its tables. */
struct copy {
    struct be_program program;
    struct be_value *values;
    struct be_op *ops;
    uint32_t *edges;
};

static bool is_ready(const struct be_program *program, uint32_t op_index, const uint32_t *place)
{
    const struct be_op *op = &program->ops[op_index];
    for (uint32_t i = 0; i < op->edge_count; i++) {
        if (place[program->edges[op->edge_first + i]] == UINT32_MAX)
            return false;
    }
    return true;
}

/* place[old number] = new number. */
static void draw_places(const struct be_program *program, uint64_t seed, uint32_t *place)
{
    memset(place, 0xff, program->op_count * sizeof(*place));
    for (uint32_t next = 0; next < program->op_count; next++) {
        uint32_t ready_count = 0;
        uint32_t chosen = UINT32_MAX;
        for (uint32_t i = 0; i < program->op_count; i++) {
            if (place[i] != UINT32_MAX || !is_ready(program, i, place))
                continue;
            ready_count++;
            uint64_t draw = fm_prng_u64(seed, next, ready_count);
            if (chosen == UINT32_MAX || (seed != 0 && draw % ready_count == 0))
                chosen = i; /* each of the ready ones with equal probability */
        }
        FM_ASSERT(chosen != UINT32_MAX);
        place[chosen] = next;
    }
}

static void move_ops(const struct be_program *program, const uint32_t *place, struct copy *copy)
{
    uint32_t edge = 0;
    for (uint32_t i = 0; i < program->op_count; i++)
        copy->ops[place[i]] = program->ops[i];
    for (uint32_t i = 0; i < program->op_count; i++) {
        struct be_op *op = &copy->ops[i];
        uint32_t old_first = op->edge_first;
        op->edge_first = edge;
        for (uint32_t e = 0; e < op->edge_count; e++)
            copy->edges[edge++] = place[program->edges[old_first + e]];
    }
}

enum fm_status be_check_permute(const struct be_program *program, uint64_t seed,
                                struct be_program **ret_copy, struct fm_err *err)
{
    struct copy *copy = fm_alloc(sizeof(*copy));
    uint32_t *place = fm_alloc_array(program->op_count, sizeof(*place));
    uint32_t edge_count = 0;

    for (uint32_t i = 0; i < program->op_count; i++)
        edge_count += program->ops[i].edge_count;
    if (copy != NULL) {
        copy->values = fm_alloc_array(program->value_count, sizeof(struct be_value));
        copy->ops = fm_alloc_array(program->op_count, sizeof(struct be_op));
        copy->edges = fm_alloc_array(edge_count, sizeof(uint32_t));
    }
    if (copy == NULL || place == NULL || copy->values == NULL || copy->ops == NULL ||
        copy->edges == NULL) {
        if (copy != NULL)
            be_check_permute_free(&copy->program);
        fm_free(place);
        return FM_FAIL(err, FM_NOMEM, "no memory for a copy of a program of %u operations",
                       program->op_count);
    }
    draw_places(program, seed, place);
    memcpy(copy->values, program->values, program->value_count * sizeof(struct be_value));
    move_ops(program, place, copy);
    fm_free(place);
    copy->program = *program;
    copy->program.values = copy->values;
    copy->program.ops = copy->ops;
    copy->program.edges = copy->edges;
    copy->program.edge_count = edge_count;
    *ret_copy = &copy->program;
    return FM_OK;
}

void be_check_permute_free(struct be_program *program)
{
    if (program == NULL)
        return;
    struct copy *copy = FM_CONTAINER(program, struct copy, program);
    fm_free(copy->values);
    fm_free(copy->ops);
    fm_free(copy->edges);
    fm_free(copy);
}
