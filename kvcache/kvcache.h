/* kvcache.h - which pages of a device hold the state of which sequence.
 *
 * Three pools (G: compressed history, S: window rows, T: compressor rows of a running sequence)
 * of equal units on the device; this module owns the numbers, the device owns the bytes.  A
 * sequence holds
 *   - G pages 0 .. (length - 1) / P, the last one private while it fills,
 *   - the S pages that hold its last W - 1 rows, and the page that fills,
 *   - one T slot.
 * A page is shared by reference count once it is full; only a page with one reference is written.
 *
 * Owner: the scheduler thread; no call here blocks, and none allocates after kv_cache_new.  A step
 * that was reserved cannot run out of pages. */
#ifndef KV_KVCACHE_H
#define KV_KVCACHE_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/backend.h"
#include "kvcache/layout.h"
#include "kvcache/view.h"

struct kv_cache; /* opaque: cache.h */
struct kv_seq;   /* opaque: cache.h */

struct kv_options {
    uint32_t units[BE_POOL_COUNT]; /* as given to state_create: the null unit included */
    uint32_t seq_tokens_max;       /* longest sequence: sizes the page tables */
};

struct kv_stats {
    uint32_t units_total[BE_POOL_COUNT]; /* without the null unit */
    uint32_t units_free[BE_POOL_COUNT];
    uint32_t seq_count;
};

/* Takes all its memory now: tables for every T slot.  FM_INVALID when not even one sequence of
 * one page would fit. */
enum fm_status kv_cache_new(const struct kv_layout *layout, const struct kv_options *options,
                            struct kv_cache **ret_cache, struct fm_err *err) FM_MUST_CHECK;

/* Every sequence must be closed.  NULL is allowed. */
void kv_cache_free(struct kv_cache *cache);

/* An empty sequence with a T slot that the caller must reset on the device (kv_view.tail_slot)
 * before its first step.  FM_AGAIN when no slot is free. */
enum fm_status kv_seq_open(struct kv_cache *cache, struct kv_seq **ret_seq) FM_MUST_CHECK;

/* Give back everything that the sequence holds.  Pages of a step in flight must not be given
 * back: close only after its completion.  NULL is allowed. */
void kv_seq_close(struct kv_seq *seq);

/* Make sure that tokens [length, length + count) have pages.  FM_AGAIN when the pools do not have
 * them, FM_LIMIT beyond seq_tokens_max: nothing has changed then. */
enum fm_status kv_seq_reserve(struct kv_seq *seq, uint32_t count) FM_MUST_CHECK;

/* The page tables for the reserved tokens. */
struct kv_view kv_seq_view(const struct kv_seq *seq);

/* The first `count` of the reserved tokens are final; S pages that have left the window and
 * unused reservations are given back.  Of a reservation longer than a page, all or none are final:
 * the rows within it are not kept. */
void kv_seq_commit(struct kv_seq *seq, uint32_t count);

uint32_t kv_seq_length(const struct kv_seq *seq);

/* A second sequence with the same content: full pages are shared, the pages that fill and the T
 * slot are copied.  The copies, at most KV_FORK_COPIES_MAX, must reach the device before either
 * sequence's next step.  FM_AGAIN when there is no slot or page: nothing has changed then. */
enum { KV_FORK_COPIES_MAX = 4 };
enum fm_status kv_seq_fork(struct kv_seq *parent, struct kv_seq **ret_child,
                           struct be_copy ret_copies[KV_FORK_COPIES_MAX],
                           uint32_t *ret_copy_count) FM_MUST_CHECK;

/* What a request may need while it runs: seq_count sequences of up to `tokens` tokens, the first
 * shared_tokens of which are computed once, chunk_tokens at a time, and then forked. */
struct kv_need {
    uint32_t tokens, shared_tokens, chunk_tokens;
    uint32_t seq_count;
};

/* Units of each pool that suffice for the need: an upper bound, UINT32_MAX where it overflows.
 * Sequences admitted by this sum never see FM_AGAIN. */
void kv_units_needed(const struct kv_layout *layout, const struct kv_need *need,
                     uint32_t ret_units[BE_POOL_COUNT]);

void kv_cache_stats(const struct kv_cache *cache, struct kv_stats *ret_stats);

/* Every unit is either free or referenced, and references equal the tables' entries.  Slow: for
 * tests and FM_ASSERT_SLOW. */
bool kv_cache_sane(const struct kv_cache *cache);

#endif
