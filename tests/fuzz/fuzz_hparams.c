/* Any text as config.json: an answer, and what is taken keeps the rules that the engine relies on. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "backends/base/assert.h"
#include "engine/hparams.h"
#include "engine/inventory.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Sizes of every tensor can be computed; a fuzzer need not see all of millions of experts. */
static enum fm_status item_look(void *context, const struct eng_inventory_item *item,
                                struct fm_err *err)
{
    uint32_t *count = context;
    (void)err;
    FM_ASSERT(item->dims[0] > 0 && item->dims[0] <= UINT32_MAX);
    FM_ASSERT(item->rank == 1 || (item->dims[1] > 0 && item->dims[1] <= UINT32_MAX));
    return ++*count == 1000 ? FM_END : FM_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct eng_hparams hparams;
    struct fm_err err = {0};
    uint32_t count = 0;

    memset(&hparams, 0, sizeof hparams);
    enum fm_status status = eng_hparams_parse((const char *)data, bytes, &hparams, &err);
    FM_ASSERT((status == FM_OK) == (err.text[0] == '\0'));
    if (status != FM_OK) {
        FM_ASSERT(hparams.dim == 0);
        return 0;
    }
    FM_ASSERT(hparams.dim % 128 == 0 && hparams.q_rank % 128 == 0 && hparams.expert_dim % 128 == 0);
    FM_ASSERT(hparams.head_count % hparams.out_groups == 0);
    FM_ASSERT(hparams.rope_dim < hparams.head_dim && hparams.rope_dim <= 2 * ENG_ROPE_PAIRS_MAX);
    FM_ASSERT((hparams.head_dim - hparams.rope_dim) % 64 == 0);
    FM_ASSERT(hparams.index_dim >= hparams.rope_dim && hparams.index_dim % 32 == 0);
    FM_ASSERT(hparams.experts_per_token <= hparams.expert_count);
    FM_ASSERT(hparams.hash_layer_count <= hparams.layer_count);
    FM_ASSERT(hparams.page_tokens % hparams.window == 0);
    for (uint32_t i = 0; i < hparams.layer_count; i++)
        FM_ASSERT(hparams.compress_ratio[i] == 0 ||
                  hparams.page_tokens % hparams.compress_ratio[i] == 0);
    for (uint32_t i = 0; i < hparams.rope_dim / 2; i++)
        FM_ASSERT(isfinite(hparams.inv_plain[i]) && isfinite(hparams.inv_yarn[i]));
    status = eng_inventory_visit(&hparams, item_look, &count, NULL);
    FM_ASSERT(status == FM_OK || status == FM_END);
    return 0;
}
