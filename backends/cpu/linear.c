/* linear.c - items, inputs and outputs of the panel kernels; see linear.h. */
#include "backends/cpu/linear.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"

static uint32_t row_end(const struct cpu_linear *linear)
{
    return linear->row_end != 0 ? linear->row_end : linear->weight->rows;
}

static uint32_t panel_count(const struct cpu_linear *linear)
{
    uint32_t first = linear->row_first / KERN_PANEL_ROWS;
    return fm_u32(fm_div_ceil(row_end(linear), KERN_PANEL_ROWS)) - first;
}

void cpu_linear_input(struct cpu_linear *linear, const struct cpu_value *plain,
                      const struct cpu_value *act)
{
    bool is_quantised = linear->weight->format != BE_FORMAT_BF16;
    const struct cpu_value *value = is_quantised ? act : plain;
    FM_ASSERT(value != NULL);
    linear->x = cpu_bf16(value, 0);
    linear->x_stride = value->cols;
    linear->x_scales = NULL;
    if (is_quantised) {
        linear->x_scales = value->scales;
        linear->x_scale_stride = value->cols / KERN_BLOCK;
    }
}

void cpu_linear_output(struct cpu_linear *linear, const struct cpu_value *value)
{
    linear->y_stride = value->cols;
    if (value->value.elem == BE_ELEM_F32)
        linear->y_f32 = cpu_f32(value, 0);
    else
        linear->y_bf16 = cpu_bf16(value, 0);
}

uint32_t cpu_linear_items(const struct cpu_linear *linear)
{
    uint32_t chunks = fm_u32(fm_div_ceil(linear->tokens, KERN_TOKENS));
    return chunks * panel_count(linear);
}

void cpu_linear_spread(const struct cpu_step *step, const struct cpu_linear *linear, uint32_t first,
                       uint32_t count, struct cpu_worker *worker)
{
    FM_ASSERT(count <= KERN_TOKENS);
    uint32_t cols = linear->weight->cols, blocks = fm_u32(fm_div_ceil(cols, KERN_BLOCK));
    for (uint32_t m = 0; m < count; m++) {
        uint32_t row = linear->pick != NULL ? linear->pick[first + m] : first + m;
        step->kern->spread(linear->x + row * linear->x_stride, cols, count * KERN_BLOCK,
                           worker->x + (uint64_t)m * KERN_BLOCK);
        if (linear->x_scales != NULL)
            memcpy(worker->x_scales + (uint64_t)m * blocks,
                   linear->x_scales + (uint64_t)row * linear->x_scale_stride, blocks);
    }
}

void cpu_linear_panel(const struct cpu_step *step, const struct cpu_linear *linear, uint32_t panel,
                      uint32_t count, struct cpu_worker *worker)
{
    const struct cpu_weight *weight = linear->weight;
    struct kern_linear job = {
        .format = weight->format,
        .scale_is_f32 = weight->scale_is_f32,
        .panel = cpu_weight_panel(weight, panel),
        .scales = cpu_weight_scales(weight, panel),
        .groups = cpu_weight_groups(weight, panel),
        .cols = weight->cols,
        .count = count,
        .x = worker->x,
        .x_scales = linear->x_scales != NULL ? worker->x_scales : NULL,
        .x_scale_stride = fm_u32(fm_div_ceil(weight->cols, KERN_BLOCK)),
        .y = worker->y,
    };
    step->kern->linear(&job);
}

/* worker->y to where the outputs go: the panel's rows within the linear's. */
static void store(const struct cpu_step *step, const struct cpu_linear *linear, uint32_t panel,
                  uint32_t first, uint32_t count, const struct cpu_worker *worker)
{
    uint32_t from = fm_max_u32(linear->row_first, panel * KERN_PANEL_ROWS);
    uint32_t end = fm_min_u32(row_end(linear), (panel + 1) * KERN_PANEL_ROWS), rows = end - from;
    for (uint32_t m = 0; m < count; m++) {
        const float *y = worker->y + m * KERN_PANEL_ROWS + from % KERN_PANEL_ROWS;
        uint64_t at = (first + m) * linear->y_stride + (from - linear->row_first);
        if (linear->y_bf16 != NULL) {
            step->kern->round(y, rows, linear->y_bf16 + at);
        } else if (linear->add != NULL) {
            uint32_t add_row = linear->add_rows[first + m].position % linear->add_period;
            step->kern->add(y, linear->add + (uint64_t)add_row * linear->weight->rows + from, rows,
                            linear->y_f32 + at);
        } else {
            memcpy(linear->y_f32 + at, y, rows * sizeof *y);
        }
    }
}

void cpu_linear_run(const struct cpu_step *step, const struct cpu_linear *linear,
                    struct cpu_range items, struct cpu_worker *worker)
{
    uint32_t panels = panel_count(linear), chunk_spread = UINT32_MAX;
    uint32_t panel_first = linear->row_first / KERN_PANEL_ROWS;
    for (uint32_t item = items.first; item < items.end; item++) {
        uint32_t chunk = item / panels, panel = panel_first + item % panels;
        uint32_t first = chunk * KERN_TOKENS;
        uint32_t count = fm_min_u32(KERN_TOKENS, linear->tokens - first);
        if (chunk != chunk_spread)
            cpu_linear_spread(step, linear, first, count, worker);
        chunk_spread = chunk;
        cpu_linear_panel(step, linear, panel, count, worker);
        store(step, linear, panel, first, count, worker);
    }
}

uint32_t cpu_linears_items(const struct cpu_linear *linears, uint32_t count)
{
    uint32_t items = 0;
    for (uint32_t i = 0; i < count; i++)
        items += cpu_linear_items(&linears[i]);
    return items;
}

void cpu_linears_run(const struct cpu_step *step, const struct cpu_linear *linears, uint32_t count,
                     struct cpu_range items, struct cpu_worker *worker)
{
    uint32_t at = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t here = cpu_linear_items(&linears[i]);
        struct cpu_range range = {.first = fm_max_u32(items.first, at) - at,
                                  .end = fm_min_u32(items.end, at + here)};
        if (range.end > at + range.first) {
            range.end -= at;
            cpu_linear_run(step, &linears[i], range, worker);
        }
        at += here;
    }
}
