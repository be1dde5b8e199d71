/* safetensors.h - the header of a safetensors file: which tensors lie where in it.
 *
 * A file is a little-endian u64 with the length of the header, the header (JSON: name to dtype,
 * shape, data_offsets), and the data.  This parser takes what the format's own library takes: sizes
 * and offsets that agree, data without overlap, gap or rest.  It reads bytes that may come from
 * anywhere, so every number is checked before it is used.  It knows nothing of models. */
#ifndef ENG_SAFETENSORS_H
#define ENG_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "backends/base/arena.h"
#include "backends/base/status.h"

enum {
    ENG_RANK_MAX = 6,
    ENG_TENSOR_NAME_BYTES_MAX = 255,
    ENG_SAFETENSORS_HEADER_BYTES_MAX = 100000000, /* the format's own bound */
    ENG_SAFETENSORS_TENSORS_MAX = 1 << 20,        /* of one file */
};

enum eng_dtype {
    ENG_DTYPE_F32,
    ENG_DTYPE_BF16,
    ENG_DTYPE_F8_E4M3,
    ENG_DTYPE_F8_E8M0,
    ENG_DTYPE_I8, /* in a model always two e2m1 per byte, low nibble first */
    ENG_DTYPE_I64,
    ENG_DTYPE_OTHER, /* a type of the format that no tensor of the model has */
};

struct eng_safetensors_entry {
    const char *name; /* NUL-terminated UTF-8, escapes resolved */
    enum eng_dtype dtype;
    uint32_t rank; /* at most ENG_RANK_MAX; 0 for a scalar */
    uint64_t dims[ENG_RANK_MAX];
    uint64_t offset; /* from the start of the file */
    uint64_t bytes;
};

struct eng_safetensors {
    struct eng_safetensors_entry *entries; /* ascending by name (strcmp); no name twice */
    uint32_t count;
    struct fm_arena names;
};

/* Parse a whole file of file_bytes bytes; only its header is touched.
 *   FM_CORRUPT  with the tensor's name, what was found and what was expected
 *   FM_LIMIT    header or number of tensors beyond the bounds above
 *   FM_NOMEM
 * Free with eng_safetensors_done; *ret_header is written on success only.  Any thread. */
enum fm_status eng_safetensors_parse(const void *file, uint64_t file_bytes,
                                     struct eng_safetensors *ret_header,
                                     struct fm_err *err) FM_MUST_CHECK;

/* A struct of zeros is allowed; afterwards it is one. */
void eng_safetensors_done(struct eng_safetensors *header);

/* The entry of that name, or NULL.  O(log count). */
const struct eng_safetensors_entry *eng_safetensors_find(const struct eng_safetensors *header,
                                                         const char *name);

/* One tensor to write: data of the size that dtype (not OTHER) and dims say. */
struct eng_safetensors_item {
    const char *name;
    enum eng_dtype dtype;
    uint32_t rank;
    uint64_t dims[ENG_RANK_MAX];
    const void *data;
};

/* Write a file with these tensors in this order, replacing what is there.  Names are written as
 * they are and must hold nothing that JSON escapes.  FM_IO, FM_NOMEM; a failed file is removed.
 * Fault points "open" and "write". */
enum fm_status eng_safetensors_write(const char *path, const struct eng_safetensors_item *items,
                                     uint32_t item_count, struct fm_err *err) FM_MUST_CHECK;

/* Bits of an element; 0 for OTHER. */
uint32_t eng_dtype_bits(enum eng_dtype dtype);

/* "BF16", "F8_E4M3", ...: the spelling of the format; "other". */
const char *eng_dtype_name(enum eng_dtype dtype);

/* "[3, 4]" for messages; cut where it does not fit.  Returns `target`. */
const char *eng_dims_show(const uint64_t *dims, uint32_t rank, char target[128]);

#endif
