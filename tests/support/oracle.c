/* oracle.c - see oracle.h. */
#include "tests/support/oracle.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/json.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "tests/support/golden.h"
#include "tests/support/support.h"

enum { ORACLE_SEED = 20261124 };

/* The file's bytes, and a reader at the first member of its header. */
static const unsigned char *header_open(const char *file, struct fm_json *ret_json)
{
    static char paths[16][64]; /* golden_file keeps the name */
    char path[64];
    uint32_t at = 0;
    (void)snprintf(path, sizeof path, "oracle/%s.safetensors", file);
    while (paths[at][0] != '\0' && strcmp(paths[at], path) != 0)
        ck_assert_uint_lt(++at, 16);
    memcpy(paths[at], path, sizeof path);

    struct eng_slice all = golden_file(paths[at]);
    uint64_t header_bytes;
    ck_assert_uint_gt(all.length, sizeof header_bytes);
    memcpy(&header_bytes, all.data, sizeof header_bytes);
    ck_assert_uint_lt(header_bytes, all.length - sizeof header_bytes);
    fm_json_init(ret_json, all.data + sizeof header_bytes, header_bytes);
    ck_assert(fm_json_object_open(ret_json));
    return (const unsigned char *)all.data + sizeof header_bytes + header_bytes;
}

static bool find(const char *file, const char *name, struct oracle_tensor *ret_tensor)
{
    struct fm_json json;
    struct fm_json_text key;
    const unsigned char *base = header_open(file, &json);
    while (fm_json_member(&json, &key)) {
        if (!fm_json_text_is(key, name)) {
            ck_assert(fm_json_skip(&json));
            continue;
        }
        struct fm_json_text dtype;
        uint64_t number;
        uint32_t rank = 0;
        *ret_tensor = (struct oracle_tensor){.rows = 1, .cols = 1};
        ck_assert(fm_json_object_open(&json)); /* dtype, shape, data_offsets: as make.py writes */
        ck_assert(fm_json_member(&json, &key) && fm_json_string(&json, &dtype));
        ck_assert_uint_lt(dtype.bytes, sizeof ret_tensor->dtype);
        memcpy(ret_tensor->dtype, dtype.data, dtype.bytes);
        ck_assert(fm_json_member(&json, &key) && fm_json_array_open(&json));
        for (; fm_json_element(&json); rank++) {
            ck_assert(fm_json_u64(&json, UINT32_MAX, &number));
            *(rank == 0 ? &ret_tensor->rows : &ret_tensor->cols) *= (uint32_t)number;
        }
        ck_assert(fm_json_member(&json, &key) && fm_json_array_open(&json));
        ck_assert(fm_json_element(&json) && fm_json_u64(&json, UINT32_MAX, &number));
        ret_tensor->data = base + number;
        return true;
    }
    return false;
}

bool oracle_has(const char *file, const char *name)
{
    struct oracle_tensor tensor;
    return find(file, name, &tensor);
}

struct oracle_tensor oracle_tensor(const char *file, const char *name)
{
    struct oracle_tensor tensor;
    ck_assert_msg(find(file, name, &tensor), "%s has no '%s'", file, name);
    return tensor;
}

double oracle_value(const struct oracle_tensor *tensor, uint32_t row, uint32_t col)
{
    ck_assert(row < tensor->rows && col < tensor->cols);
    size_t at = (size_t)row * tensor->cols + col;
    uint16_t bits;
    float value;
    int64_t integer;
    switch (tensor->dtype[0]) {
    case 'B': memcpy(&bits, tensor->data + at * 2, 2); return (double)fm_bf16_value(bits);
    case 'F': memcpy(&value, tensor->data + at * 4, 4); return (double)value;
    case 'I': memcpy(&integer, tensor->data + at * 8, 8); return (double)integer;
    default: return (double)tensor->data[at];
    }
}

uint32_t oracle_id(uint32_t position, uint32_t vocab_size)
{
    return (uint32_t)(fm_prng_u64(ORACLE_SEED, 1000, position) % vocab_size);
}

void oracle_streams(const struct eng_hparams *hparams, uint32_t layer_index, uint32_t first,
                    uint32_t count, uint16_t *ret_streams)
{
    uint64_t row = (uint64_t)hparams->hc_streams * hparams->dim;
    for (uint64_t i = 0; i < count * row; i++) {
        uint64_t r = fm_prng_u64(ORACLE_SEED, layer_index, first * row + i);
        uint64_t unit = (r & 0xffff) + (r >> 16 & 0xffff) + (r >> 32 & 0xffff) + (r >> 48);
        ret_streams[i] = fm_bf16((float)(((double)unit - 131070) / 37837));
    }
}

void oracle_collect(void *context, const struct eng_ref_tensor *tensor)
{
    struct oracle_run *run = context;
    uint32_t at = 0, cols = 1;
    for (uint32_t i = 1; i < tensor->rank; i++)
        cols *= tensor->dims[i];
    while (at < run->count && strcmp(run->tensors[at].name, tensor->name) != 0)
        at++;
    if (at == run->count) {
        ck_assert_uint_lt(at, sizeof run->tensors / sizeof run->tensors[0]);
        (void)snprintf(run->tensors[at].name, sizeof run->tensors[at].name, "%s", tensor->name);
        /* scores grow by a column with every entry: room for all of them */
        bool is_growing = strstr(tensor->name, "index_scores") != NULL;
        run->tensors[at].cols = is_growing ? run->rows_max / 4 + 1 : cols;
        run->tensors[at].values =
            fm_alloc_array(run->rows_max, run->tensors[at].cols * sizeof(float));
        ck_assert_ptr_nonnull(run->tensors[at].values);
        run->count++;
    }
    ck_assert_uint_le(tensor->first + tensor->dims[0], run->rows_max);
    ck_assert_uint_le(cols, run->tensors[at].cols);
    for (uint32_t r = 0; r < tensor->dims[0]; r++)
        for (uint32_t c = 0; c < cols; c++) {
            size_t from = (size_t)r * cols + c;
            size_t to = (size_t)(tensor->first + r) * run->tensors[at].cols + c;
            float value = 0;
            switch (tensor->dtype) {
            case ENG_REF_BF16: value = fm_bf16_value(((const uint16_t *)tensor->data)[from]); break;
            case ENG_REF_F32: value = ((const float *)tensor->data)[from]; break;
            case ENG_REF_I64: value = (float)((const int64_t *)tensor->data)[from]; break;
            }
            run->tensors[at].values[to] = value;
        }
    if (tensor->first + tensor->dims[0] > run->tensors[at].rows)
        run->tensors[at].rows = tensor->first + tensor->dims[0];
}

void oracle_run_done(struct oracle_run *run)
{
    while (run->count > 0)
        fm_free(run->tensors[--run->count].values);
}

const float *oracle_row(const struct oracle_run *run, const char *name, uint32_t row,
                        uint32_t *ret_cols)
{
    for (uint32_t i = 0; i < run->count; i++)
        if (strcmp(run->tensors[i].name, name) == 0) {
            *ret_cols = run->tensors[i].cols;
            return row < run->tensors[i].rows
                       ? run->tensors[i].values + (size_t)row * run->tensors[i].cols
                       : NULL;
        }
    return NULL;
}
