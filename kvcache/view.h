/* view.h - what the engine may see of a sequence's cache: page numbers, valid for one step. */
#ifndef KV_VIEW_H
#define KV_VIEW_H

#include <stdint.h>

typedef uint32_t kv_page_id; /* unit number in a pool; 0 is the null page */

/* The page tables of one sequence that is about to compute tokens [length, length + reserved).
 * Points into the kv_seq: valid until the next call on that sequence. */
struct kv_view {
    uint32_t length;   /* committed tokens */
    uint32_t reserved; /* tokens beyond length that have pages */
    uint32_t tail_slot;
    const kv_page_id *g_pages; /* pages 0 .. g_count - 1: up to the last reserved token's */
    uint32_t g_count;
    const kv_page_id *s_pages; /* from the page before length's (or page 0) on; 0: not kept */
    uint32_t s_count;
};

#endif
