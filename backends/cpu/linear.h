/* linear.h - a weight times the rows of a step, cut into items of one panel and up to 64 tokens.
 *
 * Items go panel by panel within a chunk of tokens, so that a member that takes a run of items
 * spreads the inputs of a chunk once and walks the weight in ascending order. */
#ifndef CPU_LINEAR_H
#define CPU_LINEAR_H

#include "backends/cpu/exec.h"

struct cpu_linear {
    const struct cpu_weight *weight;
    uint32_t row_first, row_end; /* rows of the weight, row_end 0: all */
    const uint16_t *x;           /* bf16 values, or those of an ACT */
    uint64_t x_stride;           /* elements from token to token */
    const uint8_t *x_scales;     /* ACT: [token, x_scale_stride]; NULL: none */
    uint32_t x_scale_stride;
    const uint32_t *pick; /* token i is row pick[i] of x; NULL: row i */
    uint32_t tokens;
    /* One of both: output r of token i goes to [i * y_stride + r - row_first]. */
    uint16_t *y_bf16;
    float *y_f32;
    uint64_t y_stride;
    /* y_f32: to token i add row (position of add_rows[i]) mod add_period of [., rows]; NULL: none */
    const float *add;
    uint32_t add_period;
    const struct be_row *add_rows;
};

/* The input of a linear that takes `act` where its weight is quantised, else `plain`. */
void cpu_linear_input(struct cpu_linear *linear, const struct cpu_value *plain,
                      const struct cpu_value *act);

/* A whole value, bf16 or f32, as the output. */
void cpu_linear_output(struct cpu_linear *linear, const struct cpu_value *value);

uint32_t cpu_linear_items(const struct cpu_linear *linear);
void cpu_linear_run(const struct cpu_step *step, const struct cpu_linear *linear,
                    struct cpu_range items, struct cpu_worker *worker);

/* Several linears as one list of items. */
uint32_t cpu_linears_items(const struct cpu_linear *linears, uint32_t count);
void cpu_linears_run(const struct cpu_step *step, const struct cpu_linear *linears, uint32_t count,
                     struct cpu_range items, struct cpu_worker *worker);

/* The two halves of an item: the inputs of tokens [first, first + count), at most KERN_TOKENS,
 * into worker->x; then any number of panels over them into worker->y. */
void cpu_linear_spread(const struct cpu_step *step, const struct cpu_linear *linear, uint32_t first,
                       uint32_t count, struct cpu_worker *worker);
void cpu_linear_panel(const struct cpu_step *step, const struct cpu_linear *linear, uint32_t panel,
                      uint32_t count, struct cpu_worker *worker);

#endif
