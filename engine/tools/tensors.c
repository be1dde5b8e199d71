/* tensors.c - arrays of a run; see tensors.h. */
#include "engine/tools/tensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "engine/safetensors.h"

static size_t element_bytes(enum tool_dtype dtype)
{
    return dtype == TOOL_F32 ? sizeof(float) : sizeof(int64_t);
}

const struct tool_tensor *tool_tensors_find(const struct tool_tensors *tensors, const char *name)
{
    for (uint32_t i = 0; i < tensors->count; i++)
        if (strcmp(tensors->list[i].name, name) == 0)
            return &tensors->list[i];
    return NULL;
}

static struct tool_tensor *tensor_new(struct tool_tensors *tensors, const char *name)
{
    if (tensors->count == tensors->capacity) {
        uint32_t capacity = tensors->capacity * 2 + 64;
        struct tool_tensor *list = fm_realloc_array(tensors->list, capacity, sizeof *tensors->list);
        if (list == NULL)
            return NULL;
        tensors->list = list;
        tensors->capacity = capacity;
    }
    struct tool_tensor *tensor = &tensors->list[tensors->count++];
    *tensor = (struct tool_tensor){0};
    (void)snprintf(tensor->name, sizeof tensor->name, "%s", name);
    return tensor;
}

static void elements_convert(void *target, uint64_t at, enum tool_source source, const void *data,
                             uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        switch (source) {
        case TOOL_FROM_BF16:
            ((float *)target)[at + i] = fm_bf16_value(((const uint16_t *)data)[i]);
            break;
        case TOOL_FROM_F32: ((float *)target)[at + i] = ((const float *)data)[i]; break;
        case TOOL_FROM_I32: ((int64_t *)target)[at + i] = ((const int32_t *)data)[i]; break;
        case TOOL_FROM_I64: ((int64_t *)target)[at + i] = ((const int64_t *)data)[i]; break;
        }
    }
}

enum fm_status tool_tensors_put(struct tool_tensors *tensors, const char *name,
                                enum tool_source source, uint64_t rows, uint32_t outer,
                                uint32_t inner, const void *data, struct fm_err *err)
{
    struct tool_tensor *tensor = (struct tool_tensor *)tool_tensors_find(tensors, name);
    if (tensor == NULL) {
        tensor = tensor_new(tensors, name);
        if (tensor == NULL)
            return FM_FAIL(err, FM_NOMEM, "no memory for tensor '%s'", name);
        bool is_float = source == TOOL_FROM_BF16 || source == TOOL_FROM_F32;
        tensor->dtype = is_float ? TOOL_F32 : TOOL_I64;
        tensor->rank = outer != 0 ? 3 : inner != 0 ? 2 : 1;
        tensor->dims[1] = outer != 0 ? outer : inner;
        tensor->dims[2] = inner;
        tensor->row_elements = (uint64_t)(outer != 0 ? outer : 1) * (inner != 0 ? inner : 1);
    }
    uint64_t rows_after = tensor->dims[0] + rows;
    if (rows_after > tensor->row_capacity) {
        uint64_t capacity = fm_max_u64(rows_after, tensor->row_capacity * 2);
        void *grown = fm_realloc_array(tensor->data, capacity * tensor->row_elements,
                                       element_bytes(tensor->dtype));
        if (grown == NULL)
            return FM_FAIL(err, FM_NOMEM, "no memory for %" PRIu64 " rows of tensor '%s'", capacity,
                           name);
        tensor->data = grown;
        tensor->row_capacity = capacity;
    }
    elements_convert(tensor->data, tensor->dims[0] * tensor->row_elements, source, data,
                     rows * tensor->row_elements);
    tensor->dims[0] = rows_after;
    return FM_OK;
}

enum fm_status tool_tensors_write(const struct tool_tensors *tensors, const char *path,
                                  struct fm_err *err)
{
    struct eng_safetensors_item *items = fm_alloc_array(tensors->count, sizeof *items);
    if (items == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %u tensors", tensors->count);
    for (uint32_t i = 0; i < tensors->count; i++) {
        const struct tool_tensor *tensor = &tensors->list[i];
        items[i] = (struct eng_safetensors_item){.name = tensor->name,
                                                 .dtype = tensor->dtype == TOOL_F32 ? ENG_DTYPE_F32
                                                                                    : ENG_DTYPE_I64,
                                                 .rank = tensor->rank,
                                                 .data = tensor->data};
        memcpy(items[i].dims, tensor->dims, sizeof tensor->dims);
    }
    enum fm_status status = eng_safetensors_write(path, items, tensors->count, err);
    fm_free(items);
    return status;
}

void tool_tensors_done(struct tool_tensors *tensors)
{
    for (uint32_t i = 0; i < tensors->count; i++)
        fm_free(tensors->list[i].data);
    fm_free(tensors->list);
    *tensors = (struct tool_tensors){0};
}
