/* pack.c - from the rows of the checkpoint to panels; see pack.h. */
#include "backends/cpu/pack.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "backends/cpu/kern.h"

enum { ALIGNMENT = 128, SLACK = 64, ROWS_STEP = 64 };

static uint32_t tiles(uint32_t count)
{
    return fm_u32(fm_div_ceil(count, KERN_BLOCK));
}

uint64_t cpu_weight_group_bytes(enum be_format format, uint32_t cols)
{
    switch (format) {
    case BE_FORMAT_FP4: return (uint64_t)cols / 32 * KERN_FP4_BLOCK_BYTES;
    case BE_FORMAT_FP8: return (uint64_t)cols * KERN_LANES;
    case BE_FORMAT_BF16: return (uint64_t)cols * KERN_LANES * 2;
    case BE_FORMAT_F32:
    case BE_FORMAT_I64: break;
    }
    FM_UNREACHABLE();
}

const uint8_t *cpu_weight_panel(const struct cpu_weight *weight, uint32_t panel)
{
    return weight->data +
           panel * KERN_GROUPS * cpu_weight_group_bytes(weight->format, weight->cols);
}

const void *cpu_weight_scales(const struct cpu_weight *weight, uint32_t panel)
{
    if (weight->format != BE_FORMAT_FP8)
        return NULL;
    uint64_t at = (uint64_t)(panel / 2) * tiles(weight->cols);
    return weight->scales + at * (weight->scale_is_f32 ? sizeof(float) : 1);
}

void cpu_weight_row(const struct cpu_weight *weight, uint32_t row, uint16_t *ret_row)
{
    FM_ASSERT(weight->format == BE_FORMAT_BF16);
    FM_ASSERT(row < weight->rows);
    if (!weight->is_paneled) {
        memcpy(ret_row, weight->data + (uint64_t)row * weight->cols * 2, (size_t)weight->cols * 2);
        return;
    }
    uint32_t panel = row / KERN_PANEL_ROWS, in_panel = row % KERN_PANEL_ROWS;
    uint32_t step = cpu_weight_groups(weight, panel) * KERN_LANES * 4;
    const uint8_t *pair = cpu_weight_panel(weight, panel) + in_panel * 4;
    for (uint32_t c = 0; c < weight->cols; c += 2, pair += step)
        memcpy(ret_row + c, pair, 4);
}

/* ---- one panel ----------------------------------------------------------------------------- */

/* `rows` rows of the checkpoint, each row_bytes, into a zeroed panel of `groups` groups. */
static void panel_fp4(const uint8_t *rows, uint32_t row_count, const uint8_t *scales, uint32_t cols,
                      uint32_t groups, uint8_t *panel)
{
    for (uint32_t b = 0; b < cols / 32; b++) {
        uint8_t *codes = panel + (uint64_t)b * KERN_FP4_BLOCK_BYTES * groups;
        uint8_t *bytes = codes + 256 * groups;
        memset(bytes, 127, (size_t)groups * KERN_LANES);
        for (uint32_t r = 0; r < row_count; r++) {
            const uint8_t *from = rows + (uint64_t)r * (cols / 2) + b * 16;
            for (uint32_t i = 0; i < 4; i++)
                memcpy(codes + i * groups * 64 + r * 4, from + i * 4, 4);
            bytes[r] = scales[(uint64_t)r * (cols / 32) + b];
        }
    }
}

static void panel_fp8(const uint8_t *rows, uint32_t row_count, uint32_t cols, uint32_t groups,
                      uint8_t *panel)
{
    for (uint32_t c = 0; c < cols; c++)
        for (uint32_t r = 0; r < row_count; r++)
            panel[(uint64_t)c * groups * KERN_LANES + r] = rows[(uint64_t)r * cols + c];
}

static void panel_bf16(const uint8_t *rows, uint32_t row_count, uint32_t cols, uint32_t groups,
                       uint8_t *panel)
{
    for (uint32_t c = 0; c < cols; c += 2)
        for (uint32_t r = 0; r < row_count; r++)
            memcpy(panel + ((uint64_t)c / 2 * groups * KERN_LANES + r) * 4,
                   rows + ((uint64_t)r * cols + c) * 2, 4);
}

/* ---- sizes --------------------------------------------------------------------------------- */

static bool is_paneled(const struct be_weight *weight)
{
    return weight->rows > 1 && weight->format != BE_FORMAT_F32 && weight->format != BE_FORMAT_I64;
}

static uint64_t scale_bytes(const struct be_weight *weight)
{
    if (weight->format != BE_FORMAT_FP8)
        return 0;
    uint64_t bytes = weight->scale_format == BE_SCALE_F32 ? sizeof(float) : 1;
    return (uint64_t)tiles(weight->rows) * tiles(weight->cols) * bytes;
}

static uint64_t data_bytes(const struct be_weight *weight)
{
    if (is_paneled(weight))
        return fm_div_ceil(weight->rows, KERN_LANES) *
               cpu_weight_group_bytes(weight->format, weight->cols);
    uint64_t elements = (uint64_t)weight->rows * weight->cols;
    return elements * (weight->format == BE_FORMAT_BF16 ? 2 : 4); /* I64 is kept as int32 */
}

static enum fm_status shape_check(const struct be_weight *weight, struct fm_err *err)
{
    bool is_fit = true;
    if (weight->format == BE_FORMAT_FP4)
        is_fit = weight->cols % KERN_BLOCK == 0 && weight->scale_format == BE_SCALE_UE8M0;
    else if (weight->format == BE_FORMAT_FP8)
        is_fit = weight->cols % KERN_BLOCK == 0 && weight->scale_format != BE_SCALE_NONE;
    else if (weight->format == BE_FORMAT_BF16)
        is_fit = weight->cols % 2 == 0 || weight->rows == 1;
    if ((weight->format == BE_FORMAT_FP4 || weight->format == BE_FORMAT_FP8) && weight->rows < 2)
        is_fit = false;
    if (!is_fit || weight->rows == 0 || weight->cols == 0)
        return FM_FAIL(err, FM_UNSUPPORTED,
                       "'%s' is [%u, %u] in format %d with scales %d, which has no kernel",
                       weight->name, weight->rows, weight->cols, (int)weight->format,
                       (int)weight->scale_format);
    return FM_OK;
}

/* ---- loading ------------------------------------------------------------------------------- */

struct loader {
    const struct be_model *model;
    const struct be_reader *reader;
    struct cpu_pack *pack;
    uint8_t *rows, *scales; /* staging for ROWS_STEP rows */
    uint64_t bytes_done, bytes_total;
};

static void progress(struct loader *loader, uint64_t bytes)
{
    loader->bytes_done += bytes;
    if (loader->reader->progress != NULL)
        loader->reader->progress(loader->reader->context, loader->bytes_done, loader->bytes_total);
}

static enum fm_status load_panels(struct loader *loader, be_weight_id id, uint8_t *data,
                                  struct fm_err *err)
{
    const struct be_weight *weight = &loader->model->weights[id];
    const struct be_reader *reader = loader->reader;
    struct cpu_weight *packed = &loader->pack->weights[id];
    for (uint32_t first = 0; first < weight->rows; first += KERN_PANEL_ROWS) {
        uint32_t count = fm_min_u32(KERN_PANEL_ROWS, weight->rows - first);
        uint32_t panel = first / KERN_PANEL_ROWS, groups = cpu_weight_groups(packed, panel);
        uint8_t *to = data + (size_t)(cpu_weight_panel(packed, panel) - packed->data);
        enum fm_status status =
            reader->read(reader->context, id, BE_PART_DATA, first, count, loader->rows, err);
        if (status == FM_OK && weight->format == BE_FORMAT_FP4)
            status =
                reader->read(reader->context, id, BE_PART_SCALE, first, count, loader->scales, err);
        if (status != FM_OK)
            return status;
        if (weight->format == BE_FORMAT_FP4)
            panel_fp4(loader->rows, count, loader->scales, weight->cols, groups, to);
        else if (weight->format == BE_FORMAT_FP8)
            panel_fp8(loader->rows, count, weight->cols, groups, to);
        else
            panel_bf16(loader->rows, count, weight->cols, groups, to);
        progress(loader, count * be_weight_row_bytes(weight, BE_PART_DATA));
    }
    return FM_OK;
}

/* Expert numbers of a hash layer: 64 bits in the file, all below the number of experts. */
static enum fm_status load_ids(struct loader *loader, be_weight_id id, uint8_t *data,
                               struct fm_err *err)
{
    const struct be_weight *weight = &loader->model->weights[id];
    uint32_t expert_count = loader->model->shape.expert_count;
    for (uint32_t first = 0; first < weight->rows; first += ROWS_STEP) {
        uint32_t count = fm_min_u32(ROWS_STEP, weight->rows - first);
        enum fm_status status = loader->reader->read(loader->reader->context, id, BE_PART_DATA,
                                                     first, count, loader->rows, err);
        if (status != FM_OK)
            return status;
        for (uint64_t i = 0; i < (uint64_t)count * weight->cols; i++) {
            int64_t value;
            memcpy(&value, loader->rows + i * sizeof value, sizeof value);
            if (value < 0 || value >= (int64_t)expert_count)
                return FM_FAIL(err, FM_CORRUPT, "'%s' names expert %lld, there are %u",
                               weight->name, (long long)value, expert_count);
            int32_t expert = (int32_t)value;
            memcpy(data + ((uint64_t)first * weight->cols + i) * sizeof expert, &expert,
                   sizeof expert);
        }
        progress(loader, count * be_weight_row_bytes(weight, BE_PART_DATA));
    }
    return FM_OK;
}

static enum fm_status load_rows(struct loader *loader, be_weight_id id, uint8_t *data,
                                struct fm_err *err)
{
    const struct be_weight *weight = &loader->model->weights[id];
    enum fm_status status =
        loader->reader->read(loader->reader->context, id, BE_PART_DATA, 0, weight->rows, data, err);
    if (status == FM_OK)
        progress(loader, weight->rows * be_weight_row_bytes(weight, BE_PART_DATA));
    return status;
}

static enum fm_status load_weight(struct loader *loader, be_weight_id id, uint8_t *data,
                                  struct fm_err *err)
{
    const struct be_weight *weight = &loader->model->weights[id];
    struct cpu_weight *packed = &loader->pack->weights[id];
    *packed = (struct cpu_weight){.format = weight->format,
                                  .scale_is_f32 = weight->scale_format == BE_SCALE_F32,
                                  .is_paneled = is_paneled(weight),
                                  .rows = weight->rows,
                                  .cols = weight->cols,
                                  .data = data};
    enum fm_status status;
    if (weight->format == BE_FORMAT_FP8) {
        uint8_t *scales = data + fm_align_up(data_bytes(weight) + SLACK, ALIGNMENT);
        packed->scales = scales;
        status = loader->reader->read(loader->reader->context, id, BE_PART_SCALE, 0,
                                      tiles(weight->rows), scales, err);
        if (status != FM_OK)
            return status;
    }
    if (packed->is_paneled)
        status = load_panels(loader, id, data, err);
    else if (weight->format == BE_FORMAT_I64)
        status = load_ids(loader, id, data, err);
    else
        status = load_rows(loader, id, data, err);
    return status;
}

/* Bytes of one weight in the arena: data, room to read beyond, scales. */
static size_t weight_bytes(const struct be_weight *weight)
{
    size_t data = fm_align_up(data_bytes(weight) + SLACK, ALIGNMENT);
    return data + fm_align_up(scale_bytes(weight), ALIGNMENT);
}

enum fm_status cpu_pack_load(const struct be_model *model, const struct be_reader *reader,
                             struct cpu_pack *ret_pack, struct fm_err *err)
{
    FM_ASSERT(ret_pack->weights == NULL);
    struct cpu_pack pack = {.count = model->weight_count};
    struct loader loader = {.model = model, .reader = reader, .pack = &pack};
    size_t bytes = 0, rows_max = 1, scales_max = 1;
    enum fm_status status = FM_OK;
    for (be_weight_id id = 1; id < model->weight_count; id++) {
        const struct be_weight *weight = &model->weights[id];
        status = shape_check(weight, err);
        if (status != FM_OK)
            return status;
        bytes += weight_bytes(weight);
        loader.bytes_total += weight->rows * be_weight_row_bytes(weight, BE_PART_DATA);
        rows_max = fm_max_u64(rows_max, be_weight_row_bytes(weight, BE_PART_DATA));
        if (weight->format == BE_FORMAT_FP4)
            scales_max = fm_max_u64(scales_max, be_weight_row_bytes(weight, BE_PART_SCALE));
    }

    pack.weights = fm_alloc_array(pack.count, sizeof *pack.weights);
    loader.rows = fm_alloc(rows_max * ROWS_STEP);
    loader.scales = fm_alloc(scales_max * ROWS_STEP);
    if (pack.weights == NULL || loader.rows == NULL || loader.scales == NULL)
        status = FM_FAIL(err, FM_NOMEM, "no memory to read %u weights", pack.count);
    if (status == FM_OK)
        status = cpu_memory_take(bytes, "the weights", &pack.memory, err);
    size_t at = 0;
    for (be_weight_id id = 1; status == FM_OK && id < model->weight_count; id++) {
        status = load_weight(&loader, id, pack.memory.data + at, err);
        at += weight_bytes(&model->weights[id]);
    }
    fm_free(loader.rows);
    fm_free(loader.scales);
    if (status != FM_OK) {
        cpu_pack_free(&pack);
        return status;
    }
    *ret_pack = pack;
    return FM_OK;
}

void cpu_pack_free(struct cpu_pack *pack)
{
    cpu_memory_give(&pack->memory);
    fm_free(pack->weights);
    *pack = (struct cpu_pack){0};
}
