/* cache.h - the structs behind kvcache.h: three pools and a sequence for each T slot.
 *
 * Private to the folder.  The tables of all sequences are taken in kv_cache_new, so that no call
 * allocates afterwards. */
#ifndef KV_CACHE_H
#define KV_CACHE_H

#include "kvcache/kvcache.h"
#include "kvcache/pool.h"

/* A sequence is the T slot whose number is its index in kv_cache.seqs.
 *
 *   g_pages  page i holds tokens [iP, iP + P); entries [0, g_count)
 *   s_pages  entry i is page s_first + i; 0 where the rows are not kept
 *   s_first  always the page before length's, or page 0 */
struct kv_seq {
    struct kv_cache *cache;
    bool is_open;
    bool is_sparse; /* some reserved S page is not kept: commit takes all or nothing */
    uint32_t slot;
    uint32_t length, reserved; /* tokens */
    uint32_t g_count;
    uint32_t s_first, s_count;
    kv_page_id *g_pages; /* [pages_max] */
    kv_page_id *s_pages; /* [pages_max + 1] */
};

struct kv_cache {
    struct kv_layout layout;
    uint32_t seq_tokens_max;
    uint32_t pages_max; /* of one sequence */
    struct kv_pool pools[BE_POOL_COUNT];
    struct kv_seq *seqs; /* [pools[BE_POOL_T].unit_count]; entry 0 is unused */
    kv_page_id *tables;  /* of all sequences */
    uint32_t *counted;   /* for kv_cache_sane: units of the largest pool */
};

#endif
