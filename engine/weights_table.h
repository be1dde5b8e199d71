/* weights_table.h - what weights.c and weights_check.c share; for nobody else. */
#ifndef ENG_WEIGHTS_TABLE_H
#define ENG_WEIGHTS_TABLE_H

#include "backends/base/arena.h"
#include "backends/base/file.h"
#include "engine/inventory.h"
#include "engine/safetensors.h"
#include "engine/weights.h"

struct eng_weights_file {
    const char *name; /* without the directory */
    struct fm_file map;
    struct eng_safetensors header; /* only while the directory is being opened */
};

struct eng_weights {
    const char *dir;
    struct eng_weights_file *files;
    uint32_t file_count;
    struct eng_tensor *tensors; /* ascending by name */
    uint32_t tensor_count, tensor_capacity;
    struct fm_arena names;

    /* Written by eng_weights_check. */
    bool is_checked;
    uint8_t *roles; /* enum eng_role of each tensor */
    uint64_t bytes; /* of those with a role */
    uint32_t expert_count;
    uint64_t hash_duplicates;
};

#endif
