/* pack.h - weights as the kernels walk them, in the formats of the checkpoint.
 *
 * A matrix in FP4, FP8 or BF16 becomes panels of 64 rows, four groups of 16 (kern.h has the bytes);
 * the last panel has as many groups as it needs, and rows that the tensor does not have are zero
 * with scale byte 127.  A panel is one ascending stream.  FP4 scales lie in it where they are
 * used; FP8 scales, one per 128 x 128, lie in a table of their own.  Vectors, F32 and I64 tensors
 * stay rows (I64 as int32).  Immutable once packed; any thread may read. */
#ifndef CPU_PACK_H
#define CPU_PACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/status.h"
#include "backends/cpu/memory.h"
#include "backends/program.h"

struct cpu_weight {
    enum be_format format;
    bool scale_is_f32;
    bool is_paneled;
    uint32_t rows, cols;
    const uint8_t *data;   /* panels or rows */
    const uint8_t *scales; /* FP8: [ceil(rows / 128), ceil(cols / 128)] */
};

/* All weights of a model, by be_weight_id. */
struct cpu_pack {
    struct cpu_weight *weights;
    uint32_t count;
    struct cpu_memory memory;
};

/* Read every part of every weight once, in the order of ids.
 *   FM_UNSUPPORTED  a shape that the kernels have not
 *   FM_CORRUPT      the reader's, or an expert number out of range
 *   FM_NOMEM
 * ret_pack is empty on failure.  On the calling thread. */
enum fm_status cpu_pack_load(const struct be_model *model, const struct be_reader *reader,
                             struct cpu_pack *ret_pack, struct fm_err *err) FM_MUST_CHECK;
void cpu_pack_free(struct cpu_pack *pack);

static inline uint32_t cpu_weight_panels(const struct cpu_weight *weight)
{
    return (weight->rows + 63) / 64;
}

/* Groups of 16 rows in the panel: 4, or what is left. */
static inline uint32_t cpu_weight_groups(const struct cpu_weight *weight, uint32_t panel)
{
    uint32_t left = (weight->rows - panel * 64 + 15) / 16;
    return left < 4 ? left : 4;
}

/* Bytes of one group of 16 rows, all columns. */
uint64_t cpu_weight_group_bytes(enum be_format format, uint32_t cols);

const uint8_t *cpu_weight_panel(const struct cpu_weight *weight, uint32_t panel);

/* FP8: the scales of the panel's rows, one for each 128 columns; else NULL. */
const void *cpu_weight_scales(const struct cpu_weight *weight, uint32_t panel);

/* One row of a BF16 weight, paneled or not. */
void cpu_weight_row(const struct cpu_weight *weight, uint32_t row, uint16_t *ret_row);

#endif
