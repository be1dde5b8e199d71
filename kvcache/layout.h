/* layout.h - the geometry of cached state, as numbers: the cache knows no model.
 *
 * The engine computes it from the configuration; kvcache counts pages by it. */
#ifndef KV_LAYOUT_H
#define KV_LAYOUT_H

#include <stdint.h>

/* Unit 0 of each pool is the null page and is never given out. */
struct kv_layout {
    uint32_t page_tokens;  /* P: tokens of a G page and of an S page */
    uint32_t window;       /* W <= P: the last W - 1 rows are what the next token needs */
    uint64_t g_page_bytes; /* compressed entries and index keys of all layers */
    uint64_t s_page_bytes; /* window rows of all layers and draft stages */
    uint64_t t_slot_bytes; /* compressor rows of one running sequence */
};

#endif
