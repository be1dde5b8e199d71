/* safetensors.c - the header read in one pass, then checked as a whole. */
#include "engine/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/buf.h"
#include "backends/base/checked.h"
#include "backends/base/fault.h"
#include "backends/base/json.h"
#include "backends/base/mem.h"

enum { LENGTH_BYTES = 8, NAMES_BYTES_MAX = 1 << 29 };

static const struct {
    const char *name;
    enum eng_dtype dtype;
    uint32_t bits;
} dtypes[] = {
    {"F32", ENG_DTYPE_F32, 32},
    {"BF16", ENG_DTYPE_BF16, 16},
    {"F8_E4M3", ENG_DTYPE_F8_E4M3, 8},
    {"F8_E8M0", ENG_DTYPE_F8_E8M0, 8},
    {"I8", ENG_DTYPE_I8, 8},
    {"I64", ENG_DTYPE_I64, 64},
    /* The rest of the format. */
    {"BOOL", ENG_DTYPE_OTHER, 8},
    {"F4", ENG_DTYPE_OTHER, 4},
    {"F6_E2M3", ENG_DTYPE_OTHER, 6},
    {"F6_E3M2", ENG_DTYPE_OTHER, 6},
    {"F8_E5M2", ENG_DTYPE_OTHER, 8},
    {"U8", ENG_DTYPE_OTHER, 8},
    {"I16", ENG_DTYPE_OTHER, 16},
    {"U16", ENG_DTYPE_OTHER, 16},
    {"F16", ENG_DTYPE_OTHER, 16},
    {"I32", ENG_DTYPE_OTHER, 32},
    {"U32", ENG_DTYPE_OTHER, 32},
    {"F64", ENG_DTYPE_OTHER, 64},
    {"U64", ENG_DTYPE_OTHER, 64},
    {"C64", ENG_DTYPE_OTHER, 64},
};

uint32_t eng_dtype_bits(enum eng_dtype dtype)
{
    for (size_t i = 0; i < FM_COUNT(dtypes) && dtype != ENG_DTYPE_OTHER; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].bits;
    return 0;
}

const char *eng_dtype_name(enum eng_dtype dtype)
{
    for (size_t i = 0; i < FM_COUNT(dtypes) && dtype != ENG_DTYPE_OTHER; i++)
        if (dtypes[i].dtype == dtype)
            return dtypes[i].name;
    return "other";
}

const char *eng_dims_show(const uint64_t *dims, uint32_t rank, char target[128])
{
    size_t length = 0;
    (void)snprintf(target, 128, "[");
    for (uint32_t i = 0; i < rank; i++) {
        length = strlen(target);
        (void)snprintf(target + length, 128 - length, i == 0 ? "%" PRIu64 : ", %" PRIu64, dims[i]);
    }
    length = strlen(target);
    (void)snprintf(target + length, 128 - length, "]");
    return target;
}

/* ---- one entry ------------------------------------------------------------------------------ */

/* An entry as the header has it, before its numbers are believed. */
struct raw_entry {
    struct eng_safetensors_entry entry;
    uint32_t bits; /* of an element; 0: no dtype was seen */
    bool has_shape;
    uint64_t begin, end; /* in the data */
    bool has_offsets;
};

static void dtype_read(struct fm_json *json, struct raw_entry *raw)
{
    struct fm_json_text text;
    if (!fm_json_string(json, &text))
        return;
    for (size_t i = 0; i < FM_COUNT(dtypes); i++) {
        if (fm_json_text_is(text, dtypes[i].name)) {
            raw->entry.dtype = dtypes[i].dtype;
            raw->bits = dtypes[i].bits;
            return;
        }
    }
    fm_json_fail(json, "a dtype that the format does not have");
}

static void shape_read(struct fm_json *json, struct raw_entry *raw)
{
    uint64_t dim;
    raw->has_shape = true;
    raw->entry.rank = 0;
    (void)fm_json_array_open(json);
    while (fm_json_element(json)) {
        if (raw->entry.rank == ENG_RANK_MAX)
            fm_json_fail(json, "a shape of more than 6 dimensions");
        else if (fm_json_u64(json, INT64_MAX, &dim))
            raw->entry.dims[raw->entry.rank++] = dim;
    }
}

static void offsets_read(struct fm_json *json, struct raw_entry *raw)
{
    raw->has_offsets = true;
    (void)fm_json_array_open(json);
    if (!fm_json_element(json) || !fm_json_u64(json, INT64_MAX, &raw->begin) ||
        !fm_json_element(json) || !fm_json_u64(json, INT64_MAX, &raw->end) || fm_json_element(json))
        fm_json_fail(json, "data_offsets that are not two whole numbers");
}

/* The member's value; errors go to json. */
static void entry_read(struct fm_json *json, struct raw_entry *raw)
{
    struct fm_json_text key;
    *raw = (struct raw_entry){0};
    (void)fm_json_object_open(json);
    while (fm_json_member(json, &key)) {
        bool is_dtype = fm_json_text_is(key, "dtype"), is_shape = fm_json_text_is(key, "shape"),
             is_offsets = fm_json_text_is(key, "data_offsets");
        if ((is_dtype && raw->bits != 0) || (is_shape && raw->has_shape) ||
            (is_offsets && raw->has_offsets))
            fm_json_fail(json, "a key that is there twice");
        else if (is_dtype)
            dtype_read(json, raw);
        else if (is_shape)
            shape_read(json, raw);
        else if (is_offsets)
            offsets_read(json, raw);
        else
            fm_json_fail(json, "a key other than dtype, shape and data_offsets");
    }
}

/* Bytes of a shape; false where they do not fit or do not end on a byte. */
static bool shape_bytes(const uint64_t *dims, uint32_t rank, uint32_t bits, uint64_t *ret_bytes)
{
    uint64_t count = 1;
    for (uint32_t i = 0; i < rank; i++)
        if (!fm_mul_u64(count, dims[i], &count))
            return false;
    if (!fm_mul_u64(count, bits, &count) || count % 8 != 0)
        return false;
    *ret_bytes = count / 8;
    return true;
}

static enum fm_status entry_check(struct raw_entry *raw, uint64_t data_offset, uint64_t data_bytes,
                                  struct fm_err *err)
{
    struct eng_safetensors_entry *entry = &raw->entry;
    char shown[128];

    if (raw->bits == 0 || !raw->has_shape || !raw->has_offsets)
        return FM_FAIL(err, FM_CORRUPT, "tensor '%s' has no %s", entry->name,
                       raw->bits == 0    ? "dtype"
                       : !raw->has_shape ? "shape"
                                         : "data_offsets");
    if (raw->begin > raw->end || raw->end > data_bytes)
        return FM_FAIL(err, FM_CORRUPT,
                       "tensor '%s' has data_offsets [%" PRIu64 ", %" PRIu64
                       "], the file has data [0, %" PRIu64 "]",
                       entry->name, raw->begin, raw->end, data_bytes);
    if (!shape_bytes(entry->dims, entry->rank, raw->bits, &entry->bytes) ||
        entry->bytes != raw->end - raw->begin)
        return FM_FAIL(err, FM_CORRUPT,
                       "tensor '%s' has %" PRIu64 " bytes of data, which is not the size of %u-bit "
                       "elements in shape %s",
                       entry->name, raw->end - raw->begin, raw->bits,
                       eng_dims_show(entry->dims, entry->rank, shown));
    entry->offset = data_offset + raw->begin;
    return FM_OK;
}

/* ---- the header ----------------------------------------------------------------------------- */

static int names_compare(const void *a, const void *b)
{
    const struct eng_safetensors_entry *left = a, *right = b;
    return strcmp(left->name, right->name);
}

static int offsets_compare(const void *a, const void *b)
{
    const struct eng_safetensors_entry *left = a, *right = b;
    if (left->offset != right->offset)
        return left->offset < right->offset ? -1 : 1;
    return (left->bytes > right->bytes) - (left->bytes < right->bytes);
}

/* The data of all tensors, one behind the other, is the data of the file; and no name is there
 * twice.  Leaves the entries sorted by name. */
static enum fm_status entries_check(struct eng_safetensors *header, uint64_t data_offset,
                                    uint64_t file_bytes, struct fm_err *err)
{
    uint64_t at = data_offset;

    if (header->count > 0)
        qsort(header->entries, header->count, sizeof *header->entries, offsets_compare);
    for (uint32_t i = 0; i < header->count; i++) {
        const struct eng_safetensors_entry *entry = &header->entries[i];
        if (entry->offset < at)
            return FM_FAIL(err, FM_CORRUPT,
                           "tensors '%s' and '%s' overlap: data up to byte %" PRIu64
                           ", and from byte %" PRIu64,
                           header->entries[i - 1].name, entry->name, at, entry->offset);
        if (entry->offset > at)
            return FM_FAIL(err, FM_CORRUPT,
                           "no tensor has the bytes %" PRIu64 " to %" PRIu64 " before tensor '%s'",
                           at, entry->offset, entry->name);
        at = entry->offset + entry->bytes;
    }
    if (at != file_bytes)
        return FM_FAIL(err, FM_CORRUPT,
                       "no tensor has the last bytes, from %" PRIu64 " to %" PRIu64, at,
                       file_bytes);
    if (header->count > 0)
        qsort(header->entries, header->count, sizeof *header->entries, names_compare);
    for (uint32_t i = 1; i < header->count; i++)
        if (strcmp(header->entries[i - 1].name, header->entries[i].name) == 0)
            return FM_FAIL(err, FM_CORRUPT, "tensor '%s' is there twice", header->entries[i].name);
    return FM_OK;
}

static enum fm_status entry_append(struct eng_safetensors *header, uint32_t *capacity,
                                   const struct eng_safetensors_entry *entry, struct fm_err *err)
{
    if (header->count == ENG_SAFETENSORS_TENSORS_MAX)
        return FM_FAIL(err, FM_LIMIT, "there are more than %d tensors",
                       ENG_SAFETENSORS_TENSORS_MAX);
    if (header->count == *capacity) {
        uint32_t wanted = *capacity == 0 ? 64 : *capacity * 2;
        struct eng_safetensors_entry *larger =
            fm_realloc_array(header->entries, wanted, sizeof *larger);
        if (larger == NULL)
            return FM_FAIL(err, FM_NOMEM, "no memory for %u tensors", wanted);
        header->entries = larger;
        *capacity = wanted;
    }
    header->entries[header->count++] = *entry;
    return FM_OK;
}

/* The name of a member, kept in the arena. */
static enum fm_status name_keep(struct eng_safetensors *header, struct fm_json_text key,
                                const char **ret_name, struct fm_err *err)
{
    char name[ENG_TENSOR_NAME_BYTES_MAX + 1];
    size_t bytes;

    if (!fm_json_unescape(key, name, sizeof name, &bytes) || bytes == 0)
        return FM_FAIL(err, FM_CORRUPT,
                       "the tensor name '%.*s' is empty, longer than %d bytes or no text",
                       (int)fm_min_u64(key.bytes, 64), key.data, ENG_TENSOR_NAME_BYTES_MAX);
    *ret_name = fm_arena_copy(&header->names, name, bytes);
    if (*ret_name == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the names of tensors");
    return FM_OK;
}

static enum fm_status header_read(struct fm_json *json, struct eng_safetensors *header,
                                  uint64_t data_offset, uint64_t data_bytes, struct fm_err *err)
{
    struct fm_json_text key;
    uint32_t capacity = 0;

    (void)fm_json_object_open(json);
    while (fm_json_member(json, &key)) {
        struct raw_entry raw = {0};
        const char *name = NULL;
        if (fm_json_text_is(key, "__metadata__")) {
            (void)fm_json_skip(json);
            continue;
        }
        enum fm_status status = name_keep(header, key, &name, err);
        if (status != FM_OK)
            return status;
        entry_read(json, &raw);
        if (json->problem != NULL)
            return FM_FAIL(err, FM_CORRUPT, "tensor '%s': %s at byte %zu of the header", name,
                           json->problem, json->problem_at);
        raw.entry.name = name;
        status = entry_check(&raw, data_offset, data_bytes, err);
        if (status == FM_OK)
            status = entry_append(header, &capacity, &raw.entry, err);
        if (status != FM_OK)
            return status;
    }
    if (json->problem != NULL)
        return FM_FAIL(err, FM_CORRUPT, "%s at byte %zu of the header", json->problem,
                       json->problem_at);
    return fm_json_end(json, err);
}

enum fm_status eng_safetensors_parse(const void *file, uint64_t file_bytes,
                                     struct eng_safetensors *ret_header, struct fm_err *err)
{
    struct eng_safetensors header = {0};
    const unsigned char *bytes = file;
    struct fm_json json;
    uint64_t length = 0;

    if (file_bytes < LENGTH_BYTES)
        return FM_FAIL(err, FM_CORRUPT, "the file has %" PRIu64 " bytes, at least %d are expected",
                       file_bytes, LENGTH_BYTES);
    for (int i = LENGTH_BYTES; i-- > 0;)
        length = length << 8 | bytes[i];
    if (length > file_bytes - LENGTH_BYTES)
        return FM_FAIL(err, FM_CORRUPT,
                       "the header has %" PRIu64 " bytes, the file has %" PRIu64
                       " behind its length",
                       length, file_bytes - LENGTH_BYTES);
    if (length > ENG_SAFETENSORS_HEADER_BYTES_MAX)
        return FM_FAIL(err, FM_LIMIT, "the header has %" PRIu64 " bytes, at most %d are taken",
                       length, ENG_SAFETENSORS_HEADER_BYTES_MAX);

    fm_arena_init(&header.names, NAMES_BYTES_MAX);
    fm_json_init(&json, (const char *)bytes + LENGTH_BYTES, (size_t)length);
    uint64_t data_offset = LENGTH_BYTES + length;
    enum fm_status status = header_read(&json, &header, data_offset, file_bytes - data_offset, err);
    if (status == FM_OK)
        status = entries_check(&header, data_offset, file_bytes, err);
    if (status != FM_OK) {
        eng_safetensors_done(&header);
        return status;
    }
    *ret_header = header;
    return FM_OK;
}

void eng_safetensors_done(struct eng_safetensors *header)
{
    fm_free(header->entries);
    fm_arena_done(&header->names);
    *header = (struct eng_safetensors){0};
}

const struct eng_safetensors_entry *eng_safetensors_find(const struct eng_safetensors *header,
                                                         const char *name)
{
    const struct eng_safetensors_entry wanted = {.name = name};
    if (header->count == 0)
        return NULL;
    return bsearch(&wanted, header->entries, header->count, sizeof wanted, names_compare);
}

/* ---- writing -------------------------------------------------------------------------------- */

/* The header's text, padded with blanks so that the data begins at a multiple of 8. */
static bool header_print(struct fm_buf *buf, const struct eng_safetensors_item *items,
                         uint32_t item_count)
{
    uint64_t at = 0;

    (void)fm_buf_putc(buf, '{');
    for (uint32_t i = 0; i < item_count; i++) {
        char shown[128];
        uint64_t bytes;
        bool is_sized =
            shape_bytes(items[i].dims, items[i].rank, eng_dtype_bits(items[i].dtype), &bytes);
        FM_ASSERT(is_sized && items[i].dtype != ENG_DTYPE_OTHER);
        FM_ASSERT(strpbrk(items[i].name, "\"\\\n") == NULL);
        (void)fm_buf_printf(buf,
                            "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%" PRIu64
                            ",%" PRIu64 "]}",
                            i == 0 ? "" : ",", items[i].name, eng_dtype_name(items[i].dtype),
                            eng_dims_show(items[i].dims, items[i].rank, shown), at, at + bytes);
        at += bytes;
    }
    (void)fm_buf_putc(buf, '}');
    while (buf->length % 8 != 0 && !buf->is_broken)
        (void)fm_buf_putc(buf, ' ');
    return !buf->is_broken;
}

static bool stream_put(FILE *stream, const void *data, uint64_t bytes)
{
    if (fm_fault_hit("write")) {
        errno = ENOSPC;
        return false;
    }
    return bytes == 0 || fwrite(data, (size_t)bytes, 1, stream) == 1;
}

static bool items_put(FILE *stream, const struct eng_safetensors_item *items, uint32_t item_count)
{
    for (uint32_t i = 0; i < item_count; i++) {
        uint64_t bytes = 0;
        (void)shape_bytes(items[i].dims, items[i].rank, eng_dtype_bits(items[i].dtype), &bytes);
        if (!stream_put(stream, items[i].data, bytes))
            return false;
    }
    return true;
}

enum fm_status eng_safetensors_write(const char *path, const struct eng_safetensors_item *items,
                                     uint32_t item_count, struct fm_err *err)
{
    struct fm_buf header;
    unsigned char length[LENGTH_BYTES];
    enum fm_status status = FM_OK;
    FILE *stream = NULL;

    fm_buf_init(&header, ENG_SAFETENSORS_HEADER_BYTES_MAX);
    if (!header_print(&header, items, item_count)) {
        status = FM_FAIL(err, FM_NOMEM, "no memory for the header of '%s'", path);
        goto out_buf;
    }
    for (int i = 0; i < LENGTH_BYTES; i++)
        length[i] = (unsigned char)((uint64_t)header.length >> (8 * i));
    errno = EIO;
    if (!fm_fault_hit("open"))
        stream = fopen(path, "wbe");
    if (stream == NULL) {
        status = FM_FAIL_OS(err, FM_IO, errno, "cannot create '%s'", path);
        goto out_buf;
    }
    bool is_written = stream_put(stream, length, sizeof length) &&
                      stream_put(stream, header.data, header.length) &&
                      items_put(stream, items, item_count);
    int error_number = errno;
    if (fclose(stream) != 0 && is_written) {
        error_number = errno;
        is_written = false;
    }
    if (!is_written) {
        status = FM_FAIL_OS(err, FM_IO, error_number, "cannot write '%s'", path);
        (void)unlink(path);
    }
out_buf:
    fm_buf_done(&header);
    return status;
}
