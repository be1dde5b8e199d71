/* weights.c - files to tensors: which files a directory has, their headers, one sorted table.
 *
 * The table is built at open and only its roles are written later, by eng_weights_check.  Expert
 * stacks are cut into views when they are met, so that nothing behind this file knows of them. */
#include "engine/weights.h"

#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/arena.h"
#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/file.h"
#include "backends/base/json.h"
#include "backends/base/mem.h"
#include "engine/names.h"
#include "engine/values.h"
#include "engine/weights_table.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "tensors are used as the file has them, little-endian");

enum {
    FILES_MAX = 4096,
    TENSORS_MAX = 1 << 22,
    INDEX_BYTES_MAX = 1 << 28,
    FILE_NAME_BYTES_MAX = 255,
};

static const char index_name[] = "model.safetensors.index.json";
static const char single_name[] = "model.safetensors";

/* "dir/name" in the caller's buffer. */
static enum fm_status path_join(const char *dir, const char *name, char path[PATH_MAX],
                                struct fm_err *err)
{
    int length = snprintf(path, PATH_MAX, "%s/%s", dir, name);
    if (length < 0 || length >= PATH_MAX)
        return FM_FAIL(err, FM_LIMIT, "the path '%.200s' is longer than %d bytes", dir, PATH_MAX);
    return FM_OK;
}

/* ---- the table ------------------------------------------------------------------------------ */

/* A tensor at the end of the table, under a name that is copied. */
static enum fm_status tensor_append(struct eng_weights *weights, const char *name,
                                    const struct eng_tensor *tensor, struct fm_err *err)
{
    if (weights->tensor_count == TENSORS_MAX)
        return FM_FAIL(err, FM_LIMIT, "there are more than %d tensors", TENSORS_MAX);
    if (weights->tensor_count == weights->tensor_capacity) {
        uint32_t wanted = weights->tensor_capacity == 0 ? 256 : weights->tensor_capacity * 2;
        struct eng_tensor *larger = fm_realloc_array(weights->tensors, wanted, sizeof *larger);
        if (larger == NULL)
            return FM_FAIL(err, FM_NOMEM, "no memory for %u tensors", wanted);
        weights->tensors = larger;
        weights->tensor_capacity = wanted;
    }
    const char *copy = fm_arena_copy(&weights->names, name, strlen(name));
    if (copy == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the names of tensors");
    struct eng_tensor *added = &weights->tensors[weights->tensor_count++];
    *added = *tensor;
    added->name = copy;
    added->row_bytes =
        tensor->rank == 0 || tensor->dims[0] == 0 ? tensor->bytes : tensor->bytes / tensor->dims[0];
    return FM_OK;
}

/* Rows [row_first, row_first + rows) of expert `expert_index` of a stack [E, R, ...] as a tensor
 * of its own, "<prefix><expert_index><leaf>". */
struct stack_part {
    const char *leaf; /* ".w1" */
    const char *kind; /* ".weight" or ".scale" */
    uint64_t row_first, rows;
};

static enum fm_status stack_part_append(struct eng_weights *weights, const char *prefix,
                                        const struct eng_tensor *stack, uint64_t expert_index,
                                        const struct stack_part *part, struct fm_err *err)
{
    char name[2 * ENG_TENSOR_NAME_BYTES_MAX];
    uint64_t expert_bytes = stack->bytes / stack->dims[0];
    uint64_t row_bytes = expert_bytes / stack->dims[1];
    struct eng_tensor tensor = {
        .dtype = stack->dtype,
        .rank = 2,
        .dims = {part->rows, stack->dims[2]},
        .data =
            (const char *)stack->data + expert_index * expert_bytes + part->row_first * row_bytes,
        .bytes = part->rows * row_bytes,
        .file_index = stack->file_index,
    };
    (void)snprintf(name, sizeof name, "%s%" PRIu64 "%s%s", prefix, expert_index, part->leaf,
                   part->kind);
    return tensor_append(weights, name, &tensor, err);
}

/* gate_up_proj [E, 2I, D] holds w1 above w3, down_proj [E, D, I] holds w2; their scales likewise. */
static enum fm_status stack_append(struct eng_weights *weights, const char *name,
                                   const char *experts, const struct eng_tensor *stack,
                                   struct fm_err *err)
{
    char prefix[ENG_TENSOR_NAME_BYTES_MAX + 1], shown[128];
    bool is_pair = strncmp(experts, "gate_up_proj", 12) == 0;
    bool is_scale = strstr(experts, ".scale") != NULL;
    enum fm_status status = FM_OK;

    if (stack->rank != 3 || stack->bytes == 0 || stack->dims[0] > ENG_EXPERTS_MAX ||
        (is_pair && stack->dims[1] % 2 != 0))
        return FM_FAIL(err, FM_CORRUPT,
                       "tensor '%s' has the shape %s, up to %d experts of %s rows are expected",
                       name, eng_dims_show(stack->dims, stack->rank, shown), ENG_EXPERTS_MAX,
                       is_pair ? "an even number of" : "some");
    uint64_t rows = is_pair ? stack->dims[1] / 2 : stack->dims[1];
    const char *kind = is_scale ? ".scale" : ".weight";
    const struct stack_part parts[] = {
        {is_pair ? ".w1" : ".w2", kind, 0, rows},
        {".w3", kind, rows, rows},
    };
    (void)snprintf(prefix, sizeof prefix, "%.*s", (int)(experts - name), name);
    for (uint64_t e = 0; e < stack->dims[0] && status == FM_OK; e++)
        for (uint32_t i = 0; i < (is_pair ? 2u : 1u) && status == FM_OK; i++)
            status = stack_part_append(weights, prefix, stack, e, &parts[i], err);
    return status;
}

/* An entry of a file's header under its official name. */
static enum fm_status entry_append(struct eng_weights *weights, uint32_t file_index,
                                   const struct eng_safetensors_entry *entry, struct fm_err *err)
{
    char name[ENG_TENSOR_NAME_BYTES_MAX + 1];
    struct eng_tensor tensor = {
        .dtype = entry->dtype,
        .rank = entry->rank,
        .data = (const char *)weights->files[file_index].map.data + entry->offset,
        .bytes = entry->bytes,
        .file_index = file_index,
    };
    memcpy(tensor.dims, entry->dims, sizeof tensor.dims);
    if (!eng_name_official(entry->name, name, sizeof name))
        return FM_FAIL(err, FM_CORRUPT, "the tensor name '%.64s...' is too long", entry->name);
    const char *experts = strstr(name, ".ffn.experts.");
    if (experts != NULL) {
        experts += strlen(".ffn.experts.");
        if (strncmp(experts, "gate_up_proj", 12) == 0 || strncmp(experts, "down_proj", 9) == 0)
            return stack_append(weights, name, experts, &tensor, err);
    }
    return tensor_append(weights, name, &tensor, err);
}

static int tensors_compare(const void *a, const void *b)
{
    const struct eng_tensor *left = a, *right = b;
    return strcmp(left->name, right->name);
}

/* Sort by name; two spellings of one tensor are one too many. */
static enum fm_status tensors_sort(struct eng_weights *weights, struct fm_err *err)
{
    if (weights->tensor_count == 0)
        return FM_FAIL(err, FM_CORRUPT, "'%s' holds no tensors", weights->dir);
    qsort(weights->tensors, weights->tensor_count, sizeof *weights->tensors, tensors_compare);
    for (uint32_t i = 1; i < weights->tensor_count; i++) {
        const struct eng_tensor *a = &weights->tensors[i - 1], *b = &weights->tensors[i];
        if (strcmp(a->name, b->name) == 0)
            return FM_FAIL(err, FM_CORRUPT, "tensor '%s' is there twice, in '%s' and in '%s'",
                           a->name, weights->files[a->file_index].name,
                           weights->files[b->file_index].name);
    }
    return FM_OK;
}

/* ---- files ---------------------------------------------------------------------------------- */

/* Map one file and read its header; it becomes the last of weights->files. */
static enum fm_status file_open(struct eng_weights *weights, const char *name, struct fm_err *err)
{
    char path[PATH_MAX];

    if (weights->file_count == FILES_MAX)
        return FM_FAIL(err, FM_LIMIT, "there are more than %d files", FILES_MAX);
    struct eng_weights_file *files =
        fm_realloc_array(weights->files, weights->file_count + 1, sizeof *files);
    if (files == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for file %u", weights->file_count);
    weights->files = files;
    struct eng_weights_file *file = &files[weights->file_count];
    *file = (struct eng_weights_file){.name = fm_arena_copy(&weights->names, name, strlen(name))};
    if (file->name == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the names of files");
    enum fm_status status = path_join(weights->dir, name, path, err);
    if (status == FM_OK)
        status = fm_file_map(path, UINT64_MAX, &file->map, err);
    if (status == FM_MISS)
        return FM_FAIL(err, FM_IO, "there is no file '%s'", path);
    if (status != FM_OK)
        return status;
    weights->file_count++; /* from here on eng_weights_close unmaps it */
    status = eng_safetensors_parse(file->map.data, file->map.bytes, &file->header, err);
    if (status != FM_OK)
        return fm_err_prefix(err, "'%s'", path);
    return FM_OK;
}

static enum fm_status single_read(struct eng_weights *weights, struct fm_err *err)
{
    enum fm_status status = file_open(weights, single_name, err);
    for (uint32_t i = 0; status == FM_OK && i < weights->files[0].header.count; i++)
        status = entry_append(weights, 0, &weights->files[0].header.entries[i], err);
    return status;
}

/* The file of that name, opened when it is met first.  `last` is where the caller found the one
 * before: an index goes through the files more or less in order. */
static enum fm_status shard_find(struct eng_weights *weights, struct fm_json_text text,
                                 uint32_t last, uint32_t *ret_file_index, struct fm_err *err)
{
    char name[FILE_NAME_BYTES_MAX + 1];
    size_t bytes;

    if (!fm_json_unescape(text, name, sizeof name, &bytes) || bytes == 0 ||
        strchr(name, '/') != NULL || name[0] == '.')
        return FM_FAIL(err, FM_CORRUPT,
                       "the index names the file '%.*s': a plain name without a path is expected",
                       (int)fm_min_u64(text.bytes, 100), text.data);
    for (uint32_t i = 0; i < weights->file_count; i++) {
        uint32_t file_index = (last + i) % weights->file_count;
        if (strcmp(weights->files[file_index].name, name) == 0) {
            *ret_file_index = file_index;
            return FM_OK;
        }
    }
    enum fm_status status = file_open(weights, name, err);
    if (status == FM_OK)
        *ret_file_index = weights->file_count - 1;
    return status;
}

/* One member of weight_map: the tensor and the file that must have it. */
static enum fm_status index_entry_read(struct eng_weights *weights, struct fm_json_text key,
                                       struct fm_json_text file, uint32_t *file_index,
                                       struct fm_err *err)
{
    char name[ENG_TENSOR_NAME_BYTES_MAX + 1];
    size_t bytes;

    if (!fm_json_unescape(key, name, sizeof name, &bytes) || bytes == 0)
        return FM_FAIL(err, FM_CORRUPT, "the index has the tensor name '%.*s', which is no text",
                       (int)fm_min_u64(key.bytes, 64), key.data);
    enum fm_status status = shard_find(weights, file, *file_index, file_index, err);
    if (status != FM_OK)
        return status;
    const struct eng_safetensors_entry *entry =
        eng_safetensors_find(&weights->files[*file_index].header, name);
    if (entry == NULL)
        return FM_FAIL(err, FM_CORRUPT,
                       "the index says that tensor '%s' is in '%s', which has no such tensor", name,
                       weights->files[*file_index].name);
    return entry_append(weights, *file_index, entry, err);
}

/* Read the index; what it does not name is not part of the model. */
static enum fm_status index_read(struct eng_weights *weights, const struct fm_file *index,
                                 struct fm_err *err)
{
    struct fm_json json;
    struct fm_json_text key, name, file;
    uint32_t file_index = 0;
    bool has_map = false;

    fm_json_init(&json, index->data, (size_t)index->bytes);
    (void)fm_json_object_open(&json);
    while (fm_json_member(&json, &key)) {
        if (has_map || !fm_json_text_is(key, "weight_map")) {
            (void)fm_json_skip(&json);
            continue;
        }
        has_map = true;
        (void)fm_json_object_open(&json);
        while (fm_json_member(&json, &name)) {
            if (!fm_json_string(&json, &file))
                break;
            enum fm_status status = index_entry_read(weights, name, file, &file_index, err);
            if (status != FM_OK)
                return status;
        }
    }
    enum fm_status status = fm_json_end(&json, err);
    if (status != FM_OK)
        return status;
    if (!has_map)
        return FM_FAIL(err, FM_CORRUPT, "there is no \"weight_map\"");
    return FM_OK;
}

static enum fm_status files_read(struct eng_weights *weights, struct fm_err *err)
{
    char path[PATH_MAX];
    struct fm_file index;

    enum fm_status status = path_join(weights->dir, index_name, path, err);
    if (status != FM_OK)
        return status;
    status = fm_file_map(path, INDEX_BYTES_MAX, &index, err);
    if (status == FM_MISS)
        return single_read(weights, err);
    if (status != FM_OK)
        return status;
    status = index_read(weights, &index, err);
    if (status == FM_CORRUPT)
        status = fm_err_prefix(err, "'%s'", path);
    fm_file_unmap(&index);
    return status;
}

enum fm_status eng_weights_open(const char *dir, struct eng_weights **ret_weights,
                                struct fm_err *err)
{
    struct fm_err own;
    if (err == NULL)
        err = &own;
    struct eng_weights *weights = fm_alloc(sizeof *weights);
    if (weights == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the weights of '%s'", dir);
    fm_arena_init(&weights->names, (size_t)1 << 31);
    enum fm_status status = FM_OK;
    weights->dir = fm_arena_copy(&weights->names, dir, strlen(dir));
    if (weights->dir == NULL)
        status = FM_FAIL(err, FM_NOMEM, "no memory for the weights of '%s'", dir);
    if (status == FM_OK)
        status = files_read(weights, err);
    for (uint32_t i = 0; i < weights->file_count; i++)
        eng_safetensors_done(&weights->files[i].header); /* the table has it all */
    if (status == FM_OK)
        status = tensors_sort(weights, err);
    if (status == FM_OK) {
        weights->roles = fm_alloc_array(weights->tensor_count, sizeof *weights->roles);
        if (weights->roles == NULL)
            status = FM_FAIL(err, FM_NOMEM, "no memory for %u tensors", weights->tensor_count);
    }
    if (status != FM_OK) {
        eng_weights_close(weights);
        return status;
    }
    *ret_weights = weights;
    return FM_OK;
}

void eng_weights_close(struct eng_weights *weights)
{
    if (weights == NULL)
        return;
    for (uint32_t i = 0; i < weights->file_count; i++) {
        eng_safetensors_done(&weights->files[i].header);
        fm_file_unmap(&weights->files[i].map);
    }
    fm_free(weights->files);
    fm_free(weights->tensors);
    fm_free(weights->roles);
    fm_arena_done(&weights->names);
    fm_free(weights);
}

enum fm_status eng_weights_load(const char *dir, struct eng_hparams *ret_hparams,
                                struct eng_weights **ret_weights, struct fm_err *err)
{
    char path[PATH_MAX];
    struct eng_hparams hparams;
    struct eng_weights *weights = NULL;
    struct fm_file config = {0};
    struct fm_err own;
    enum eng_draft_kind kind;
    uint32_t stage_count;

    if (err == NULL)
        err = &own;
    enum fm_status status = path_join(dir, "config.json", path, err);
    if (status != FM_OK)
        return status;
    status = fm_file_map(path, ENG_CONFIG_BYTES_MAX, &config, err);
    if (status == FM_MISS)
        return FM_FAIL(err, FM_IO, "there is no file '%s'", path);
    if (status != FM_OK)
        return status;
    status = eng_hparams_parse(config.data, (size_t)config.bytes, &hparams, err);
    fm_file_unmap(&config);
    if (status != FM_OK)
        return fm_err_prefix(err, "'%s'", path);
    status = eng_weights_open(dir, &weights, err);
    if (status != FM_OK)
        return status;
    status = eng_weights_draft(weights, &kind, &stage_count, err);
    if (status == FM_OK) {
        status = eng_hparams_draft_set(&hparams, kind, stage_count, err);
        if (status != FM_OK)
            (void)fm_err_prefix(err, "'%s'", path);
    }
    if (status == FM_OK)
        status = eng_weights_check(weights, &hparams, err);
    if (status != FM_OK) {
        eng_weights_close(weights);
        return status;
    }
    *ret_hparams = hparams;
    *ret_weights = weights;
    return FM_OK;
}

/* ---- answers -------------------------------------------------------------------------------- */

enum fm_status eng_weights_find(const struct eng_weights *weights, const char *name,
                                const struct eng_tensor **ret_tensor)
{
    const struct eng_tensor wanted = {.name = name};
    const struct eng_tensor *found =
        bsearch(&wanted, weights->tensors, weights->tensor_count, sizeof wanted, tensors_compare);
    if (found == NULL)
        return FM_MISS;
    *ret_tensor = found;
    return FM_OK;
}

enum fm_status eng_weights_linear(const struct eng_weights *weights, const char *name,
                                  struct eng_linear *ret_linear)
{
    char full[ENG_TENSOR_NAME_BYTES_MAX + 1];
    struct eng_linear linear = {0};

    FM_ASSERT(weights->is_checked);
    int length = snprintf(full, sizeof full, "%s.weight", name);
    if (length < 0 || (size_t)length >= sizeof full ||
        eng_weights_find(weights, full, &linear.weight) != FM_OK || linear.weight->rank != 2)
        return FM_MISS;
    switch (linear.weight->dtype) {
    case ENG_DTYPE_BF16: linear.format = ENG_FORMAT_BF16; break;
    case ENG_DTYPE_F8_E4M3: linear.format = ENG_FORMAT_FP8; break;
    case ENG_DTYPE_I8: linear.format = ENG_FORMAT_FP4; break;
    default: return FM_MISS;
    }
    (void)snprintf(full, sizeof full, "%s.scale", name);
    if (linear.format != ENG_FORMAT_BF16 && eng_weights_find(weights, full, &linear.scale) != FM_OK)
        return FM_MISS;
    linear.rows = fm_u32(linear.weight->dims[0]);
    linear.cols = fm_u32(linear.weight->dims[1] * (linear.format == ENG_FORMAT_FP4 ? 2 : 1));
    *ret_linear = linear;
    return FM_OK;
}

/* The values of rows of `tensor` that start with row row_first and lie at `rows`. */
static enum fm_status values_check(const struct eng_weights *weights,
                                   const struct eng_tensor *tensor, uint64_t row_first,
                                   const void *rows, size_t bytes, struct fm_err *err)
{
    char text[ENG_VALUE_TEXT_BYTES];
    uint8_t role = weights->roles[tensor - weights->tensors];
    uint64_t index;

    if (role == ENG_ROLE_NONE || !eng_values_bad(tensor->dtype, role == ENG_ROLE_SCALE,
                                                 weights->expert_count, rows, bytes, &index, text))
        return FM_OK;
    uint64_t row_elements = fm_max_u64(tensor->row_bytes * 8 / eng_dtype_bits(tensor->dtype), 1);
    return FM_FAIL(err, FM_CORRUPT,
                   "'%s/%s': tensor '%s' has %s at row %" PRIu64 ", element %" PRIu64
                   ", where a %s is expected",
                   weights->dir, weights->files[tensor->file_index].name, tensor->name, text,
                   row_first + index / row_elements, index % row_elements,
                   role == ENG_ROLE_SCALE        ? "normal number above 0"
                   : role == ENG_ROLE_EXPERT_IDS ? "number of an expert"
                                                 : "finite number");
}

enum fm_status eng_weights_read(const struct eng_weights *weights, const struct eng_tensor *tensor,
                                uint64_t row_first, uint64_t row_count, void *ret_rows,
                                struct fm_err *err)
{
    uint64_t rows = tensor->rank == 0 ? 1 : tensor->dims[0];

    FM_ASSERT(weights->is_checked);
    FM_ASSERT(tensor >= weights->tensors && tensor < weights->tensors + weights->tensor_count);
    if (row_first > rows || row_count > rows - row_first)
        return FM_FAIL(err, FM_INVALID,
                       "rows %" PRIu64 " to %" PRIu64
                       " of tensor '%s' are asked for, it has %" PRIu64,
                       row_first, row_first + row_count, tensor->name, rows);
    size_t bytes = (size_t)(row_count * tensor->row_bytes);
    if (bytes == 0)
        return FM_OK;
    memcpy(ret_rows, (const char *)tensor->data + row_first * tensor->row_bytes, bytes);
    return values_check(weights, tensor, row_first, ret_rows, bytes, err);
}

/* Rows that are looked at between two calls of progress. */
enum { SCAN_BYTES = 1 << 24 };

enum fm_status eng_weights_scan(const struct eng_weights *weights, eng_weights_progress progress,
                                void *context, struct fm_err *err)
{
    uint64_t done = 0, reported = 0;

    FM_ASSERT(weights->is_checked);
    for (uint32_t i = 0; i < weights->tensor_count; i++) {
        const struct eng_tensor *tensor = &weights->tensors[i];
        uint64_t rows = tensor->dims[0];
        if (weights->roles[i] == ENG_ROLE_NONE)
            continue;
        uint64_t rows_step = fm_max_u64(SCAN_BYTES / tensor->row_bytes, 1);
        for (uint64_t row = 0; row < rows; row += rows_step) {
            uint64_t bytes = fm_min_u64(rows_step, rows - row) * tensor->row_bytes;
            const char *data = (const char *)tensor->data + row * tensor->row_bytes;
            enum fm_status status = values_check(weights, tensor, row, data, (size_t)bytes, err);
            if (status != FM_OK)
                return status;
            done += bytes;
            if (progress == NULL || (done - reported < SCAN_BYTES && done != weights->bytes))
                continue;
            reported = done;
            if (!progress(context, done, weights->bytes))
                return FM_FAIL(err, FM_CANCELED, "the check of the weights was given up");
        }
    }
    return FM_OK;
}

uint32_t eng_weights_tensor_count(const struct eng_weights *weights)
{
    return weights->tensor_count;
}

const struct eng_tensor *eng_weights_tensor(const struct eng_weights *weights, uint32_t index)
{
    FM_ASSERT(index < weights->tensor_count);
    return &weights->tensors[index];
}

uint32_t eng_weights_file_count(const struct eng_weights *weights)
{
    return weights->file_count;
}

const char *eng_weights_file_name(const struct eng_weights *weights, uint32_t file_index)
{
    FM_ASSERT(file_index < weights->file_count);
    return weights->files[file_index].name;
}

uint64_t eng_weights_bytes(const struct eng_weights *weights)
{
    return weights->bytes;
}

uint64_t eng_weights_hash_duplicates(const struct eng_weights *weights)
{
    return weights->hash_duplicates;
}
