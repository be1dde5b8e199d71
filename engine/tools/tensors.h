/* tensors.h - named arrays that grow row by row, read from and written to safetensors files. */
#ifndef TOOL_TENSORS_H
#define TOOL_TENSORS_H

#include <stdint.h>

#include "backends/base/status.h"

enum tool_dtype { TOOL_F32, TOOL_I64 };

enum { TOOL_RANK_MAX = 3 };

struct tool_tensor {
    char name[64];
    enum tool_dtype dtype;
    uint32_t rank;
    uint64_t dims[TOOL_RANK_MAX]; /* dims[0] is the number of rows so far */
    uint64_t row_elements, row_capacity;
    void *data; /* float or int64_t */
};

struct tool_tensors {
    struct tool_tensor *list;
    uint32_t count, capacity;
};

/* How the rows that are put look. */
enum tool_source { TOOL_FROM_BF16, TOOL_FROM_F32, TOOL_FROM_I32, TOOL_FROM_I64 };

/* Append `rows` rows of [outer, inner] elements (outer 0: the tensor has rank 2, inner 0 too: rank
 * 1) to the tensor of that name, which is made when it does not exist.  FM_NOMEM. */
enum fm_status tool_tensors_put(struct tool_tensors *tensors, const char *name,
                                enum tool_source source, uint64_t rows, uint32_t outer,
                                uint32_t inner, const void *data, struct fm_err *err) FM_MUST_CHECK;

/* NULL when there is none. */
const struct tool_tensor *tool_tensors_find(const struct tool_tensors *tensors, const char *name);

/* Write the file: header, then the arrays in the order in which they were made. */
enum fm_status tool_tensors_write(const struct tool_tensors *tensors, const char *path,
                                  struct fm_err *err) FM_MUST_CHECK;

void tool_tensors_done(struct tool_tensors *tensors);

#endif
