/* weights_check.c - the inventory of a model against the table of a directory. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "engine/values.h"
#include "engine/weights_table.h"

/* ---- draft blocks --------------------------------------------------------------------------- */

/* The i of "mtp.<i>.", or false. */
static bool stage_index_read(const char *name, uint64_t *ret_index)
{
    char digits[24];
    if (strncmp(name, "mtp.", 4) != 0)
        return false;
    size_t length = strcspn(name + 4, ".");
    if (length >= sizeof digits)
        return false;
    memcpy(digits, name + 4, length);
    digits[length] = '\0';
    return fm_parse_u64(digits, 0, UINT64_MAX, ret_index);
}

enum fm_status eng_weights_draft(const struct eng_weights *weights, enum eng_draft_kind *ret_kind,
                                 uint32_t *ret_stage_count, struct fm_err *err)
{
    const struct eng_tensor *tensor;
    bool is_there[ENG_DRAFT_STAGES_MAX] = {false};
    uint32_t count = 0;
    uint64_t index;

    for (uint32_t i = 0; i < weights->tensor_count; i++) {
        if (!stage_index_read(weights->tensors[i].name, &index))
            continue;
        if (index >= ENG_DRAFT_STAGES_MAX)
            return FM_FAIL(err, FM_UNSUPPORTED,
                           "tensor '%s' belongs to draft block %" PRIu64
                           ", at most %d are implemented",
                           weights->tensors[i].name, index, ENG_DRAFT_STAGES_MAX);
        count += !is_there[index];
        is_there[index] = true;
    }
    for (uint32_t i = 0; i < count; i++)
        if (!is_there[i])
            return FM_FAIL(err, FM_CORRUPT, "'%s' has %u draft blocks, but no 'mtp.%u'",
                           weights->dir, count, i);
    if (count == 0)
        *ret_kind = ENG_DRAFT_NONE;
    else if (eng_weights_find(weights, "mtp.0.main_proj.weight", &tensor) == FM_OK)
        *ret_kind = ENG_DRAFT_DSPARK;
    else if (eng_weights_find(weights, "mtp.0.e_proj.weight", &tensor) == FM_OK)
        *ret_kind = ENG_DRAFT_MTP;
    else
        return FM_FAIL(err, FM_CORRUPT,
                       "'%s' has draft blocks, but neither 'mtp.0.main_proj.weight' (DSpark) nor "
                       "'mtp.0.e_proj.weight' (MTP)",
                       weights->dir);
    *ret_stage_count = count;
    return FM_OK;
}

/* ---- shapes and types ----------------------------------------------------------------------- */

/* What is expected of one tensor. */
struct expectation {
    const char *name;
    enum eng_role role;
    enum eng_dtype dtypes[2]; /* either; the same twice where there is no choice */
    uint32_t rank;
    uint64_t dims[2];
};

static const char *expectation_show(const struct expectation *expected, char target[192])
{
    char dims[128];
    bool has_choice = expected->dtypes[1] != expected->dtypes[0];
    (void)snprintf(target, 192, "%s%s%s %s", eng_dtype_name(expected->dtypes[0]),
                   has_choice ? " or " : "", has_choice ? eng_dtype_name(expected->dtypes[1]) : "",
                   eng_dims_show(expected->dims, expected->rank, dims));
    return target;
}

/* Find the tensor, compare, give it its role. */
static enum fm_status expectation_check(struct eng_weights *weights,
                                        const struct expectation *expected, struct fm_err *err)
{
    const struct eng_tensor *tensor;
    char wanted[192], found[128];

    FM_ASSERT(expected->rank <= FM_COUNT(expected->dims));
    if (eng_weights_find(weights, expected->name, &tensor) != FM_OK)
        return FM_FAIL(err, FM_CORRUPT, "'%s' has no tensor '%s': %s is expected", weights->dir,
                       expected->name, expectation_show(expected, wanted));
    bool is_same = (tensor->dtype == expected->dtypes[0] || tensor->dtype == expected->dtypes[1]) &&
                   tensor->rank == expected->rank;
    for (uint32_t i = 0; is_same && i < expected->rank; i++)
        is_same = tensor->dims[i] == expected->dims[i];
    if (!is_same)
        return FM_FAIL(
            err, FM_CORRUPT, "'%s/%s': tensor '%s' is %s %s, %s is expected", weights->dir,
            weights->files[tensor->file_index].name, tensor->name, eng_dtype_name(tensor->dtype),
            eng_dims_show(tensor->dims, tensor->rank, found), expectation_show(expected, wanted));
    FM_ASSERT(tensor->bytes > 0);
    weights->roles[tensor - weights->tensors] = (uint8_t)expected->role;
    weights->bytes += tensor->bytes;
    return FM_OK;
}

/* A linear in FP8 or FP4, then its scale. */
static enum fm_status quantized_check(struct eng_weights *weights,
                                      const struct eng_inventory_item *item, enum eng_format format,
                                      struct fm_err *err)
{
    char name[ENG_TENSOR_NAME_BYTES_MAX + 1];
    const uint64_t rows = item->dims[0], cols = item->dims[1];
    bool is_fp4 = format == ENG_FORMAT_FP4;
    enum eng_dtype dtype = is_fp4 ? ENG_DTYPE_I8 : ENG_DTYPE_F8_E4M3;
    const struct expectation weight = {
        item->name, item->role, {dtype, dtype}, 2, {rows, is_fp4 ? cols / 2 : cols}};

    enum fm_status status = expectation_check(weights, &weight, err);
    if (status != FM_OK)
        return status;
    int stem = (int)(strlen(item->name) - strlen(".weight"));
    FM_ASSERT(stem > 0 && strcmp(item->name + stem, ".weight") == 0);
    (void)snprintf(name, sizeof name, "%.*s.scale", stem, item->name);
    const struct expectation scale = {
        .name = name,
        .role = ENG_ROLE_SCALE,
        .dtypes = {ENG_DTYPE_F8_E8M0, ENG_DTYPE_F32},
        .rank = 2,
        .dims = {is_fp4 ? rows : fm_div_ceil(rows, 128), fm_div_ceil(cols, is_fp4 ? 32 : 128)},
    };
    return expectation_check(weights, &scale, err);
}

/* wo_a's input is never quantised, so its weight may as well be stored unquantised. */
static bool is_plain_out(const struct eng_weights *weights, const struct eng_inventory_item *item)
{
    const struct eng_tensor *tensor;
    return item->role == ENG_ROLE_LINEAR_OUT &&
           eng_weights_find(weights, item->name, &tensor) == FM_OK &&
           tensor->dtype == ENG_DTYPE_BF16;
}

struct check {
    struct eng_weights *weights;
    const struct eng_hparams *hparams;
};

static enum fm_status item_check(void *context, const struct eng_inventory_item *item,
                                 struct fm_err *err)
{
    const struct check *check = context;
    enum eng_dtype dtype = ENG_DTYPE_BF16;

    switch (item->role) {
    case ENG_ROLE_LINEAR:
    case ENG_ROLE_LINEAR_OUT:
    case ENG_ROLE_EXPERT: {
        enum eng_format format = eng_inventory_format(check->hparams, item->role);
        if (format != ENG_FORMAT_BF16 && !is_plain_out(check->weights, item))
            return quantized_check(check->weights, item, format, err);
        break;
    }
    case ENG_ROLE_BF16: break;
    case ENG_ROLE_F32: dtype = ENG_DTYPE_F32; break;
    case ENG_ROLE_EXPERT_IDS: dtype = ENG_DTYPE_I64; break;
    case ENG_ROLE_SCALE:
    case ENG_ROLE_NONE: FM_UNREACHABLE();
    }
    const struct expectation expected = {
        item->name, item->role, {dtype, dtype}, item->rank, {item->dims[0], item->dims[1]}};
    return expectation_check(check->weights, &expected, err);
}

/* ---- expert tables -------------------------------------------------------------------------- */

/* Does the row of `count` expert numbers at `row` name one twice? */
static bool row_has_duplicate(const unsigned char *row, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++)
        for (uint32_t j = 0; j < i; j++)
            if (memcmp(row + 8 * i, row + 8 * j, 8) == 0)
                return true;
    return false;
}

static enum fm_status expert_ids_check(struct eng_weights *weights,
                                       const struct eng_hparams *hparams, struct fm_err *err)
{
    for (uint32_t layer = 0; layer < hparams->hash_layer_count; layer++) {
        const struct eng_tensor *tensor;
        char name[64], text[ENG_VALUE_TEXT_BYTES];
        uint64_t index;
        (void)snprintf(name, sizeof name, "layers.%u.ffn.gate.tid2eid", layer);
        enum fm_status status = eng_weights_find(weights, name, &tensor);
        FM_ASSERT(status == FM_OK);
        if (eng_values_bad(tensor->dtype, false, hparams->expert_count, tensor->data,
                           (size_t)tensor->bytes, &index, text))
            return FM_FAIL(err, FM_CORRUPT,
                           "'%s/%s': tensor '%s' has expert %s for token %" PRIu64
                           ", a number from 0 to %u is expected",
                           weights->dir, weights->files[tensor->file_index].name, name, text,
                           index / hparams->experts_per_token, hparams->expert_count - 1);
        const unsigned char *row = tensor->data;
        for (uint32_t token = 0; token < hparams->vocab_size; token++, row += tensor->row_bytes)
            weights->hash_duplicates += row_has_duplicate(row, hparams->experts_per_token);
    }
    return FM_OK;
}

enum fm_status eng_weights_check(struct eng_weights *weights, const struct eng_hparams *hparams,
                                 struct fm_err *err)
{
    struct check check = {weights, hparams};

    memset(weights->roles, ENG_ROLE_NONE, weights->tensor_count);
    weights->is_checked = false;
    weights->bytes = 0;
    weights->hash_duplicates = 0;
    weights->expert_count = hparams->expert_count;
    enum fm_status status = eng_inventory_visit(hparams, item_check, &check, err);
    if (status == FM_OK)
        status = expert_ids_check(weights, hparams, err);
    weights->is_checked = status == FM_OK;
    return status;
}
