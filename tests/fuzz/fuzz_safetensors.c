/* Any bytes as a safetensors file: an answer, and from what is taken no way out of the file. */
#include <stdint.h>
#include <string.h>

#include "backends/base/assert.h"
#include "engine/names.h"
#include "engine/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    struct eng_safetensors header = {0};
    struct fm_err err = {0};
    uint64_t sum = 0, first = bytes;

    enum fm_status status = eng_safetensors_parse(data, bytes, &header, &err);
    FM_ASSERT((status == FM_OK) == (err.text[0] == '\0'));
    if (status != FM_OK) {
        FM_ASSERT(header.entries == NULL);
        return 0;
    }
    for (uint32_t i = 0; i < header.count; i++) {
        const struct eng_safetensors_entry *entry = &header.entries[i];
        char name[ENG_TENSOR_NAME_BYTES_MAX + 1], shown[128];
        FM_ASSERT(entry->offset <= bytes && entry->bytes <= bytes - entry->offset);
        FM_ASSERT(entry->rank <= ENG_RANK_MAX);
        FM_ASSERT(i == 0 || strcmp(header.entries[i - 1].name, entry->name) < 0);
        FM_ASSERT(eng_safetensors_find(&header, entry->name) == entry);
        (void)eng_name_official(entry->name, name, sizeof name);
        (void)eng_dims_show(entry->dims, entry->rank, shown);
        sum += entry->bytes;
        first = entry->offset < first ? entry->offset : first;
    }
    FM_ASSERT(sum == bytes - first);
    eng_safetensors_done(&header);
    return 0;
}
