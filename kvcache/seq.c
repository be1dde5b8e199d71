/* seq.c - one sequence's page tables; see kvcache.h and cache.h.
 *
 * Which S pages of a reservation are kept: all of a short one (a page or less, where the caller
 * may commit any part of it), only those of the last window of a long one (a prefill chunk, whose
 * own rows read each other from the step and not from the cache).  So a sequence holds at most
 * four S pages, however long its chunks are. */
#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "kvcache/cache.h"

/* Pages that hold tokens [0, tokens). */
static uint32_t pages_of(const struct kv_cache *cache, uint32_t tokens)
{
    return fm_u32(fm_div_ceil(tokens, cache->layout.page_tokens));
}

/* The first row that the token behind `end` needs of the window. */
static uint32_t window_first(const struct kv_cache *cache, uint32_t end)
{
    uint32_t rows = cache->layout.window - 1;
    return end > rows ? end - rows : 0;
}

enum fm_status kv_seq_open(struct kv_cache *cache, struct kv_seq **ret_seq)
{
    uint32_t slot = kv_pool_take(&cache->pools[BE_POOL_T]);
    if (slot == 0)
        return FM_AGAIN;
    struct kv_seq *seq = &cache->seqs[slot];
    FM_ASSERT(!seq->is_open);
    FM_ASSERT(seq->g_count == 0 && seq->s_count == 0);
    seq->is_open = true;
    seq->is_sparse = false;
    seq->length = seq->reserved = 0;
    seq->s_first = 0;
    *ret_seq = seq;
    return FM_OK;
}

void kv_seq_close(struct kv_seq *seq)
{
    if (seq == NULL)
        return;
    FM_ASSERT(seq->is_open);
    struct kv_cache *cache = seq->cache;
    for (uint32_t i = 0; i < seq->g_count; i++)
        kv_pool_put(&cache->pools[BE_POOL_G], seq->g_pages[i]);
    for (uint32_t i = 0; i < seq->s_count; i++)
        if (seq->s_pages[i] != 0)
            kv_pool_put(&cache->pools[BE_POOL_S], seq->s_pages[i]);
    seq->g_count = seq->s_count = 0;
    seq->is_open = false;
    kv_pool_put(&cache->pools[BE_POOL_T], seq->slot);
}

uint32_t kv_seq_length(const struct kv_seq *seq)
{
    FM_ASSERT(seq->is_open);
    return seq->length;
}

struct kv_view kv_seq_view(const struct kv_seq *seq)
{
    FM_ASSERT(seq->is_open);
    return (struct kv_view){
        .length = seq->length,
        .reserved = seq->reserved,
        .tail_slot = seq->slot,
        .g_pages = seq->g_pages,
        .g_count = seq->g_count,
        .s_pages = seq->s_pages,
        .s_count = seq->s_count,
    };
}

/* A page in which tokens from `length` on may be written: kept when the reservation up to `end` is
 * short, or when the page holds a row of the window behind `end`. */
static bool s_page_is_kept(const struct kv_seq *seq, uint32_t page, uint32_t end)
{
    uint32_t page_tokens = seq->cache->layout.page_tokens;
    if (end - seq->length <= page_tokens)
        return true;
    return (page + 1) * page_tokens > fm_min_u32(window_first(seq->cache, end), end - 1);
}

enum fm_status kv_seq_reserve(struct kv_seq *seq, uint32_t count)
{
    FM_ASSERT(seq->is_open);
    struct kv_cache *cache = seq->cache;
    if (count > cache->seq_tokens_max - seq->length)
        return FM_LIMIT;
    if (count <= seq->reserved)
        return FM_OK;

    uint32_t end = seq->length + count;
    uint32_t pages = pages_of(cache, end);
    uint32_t s_table = seq->s_first + seq->s_count; /* first page without an entry */
    uint32_t s_needed = 0;
    for (uint32_t page = s_table; page < pages; page++)
        s_needed += s_page_is_kept(seq, page, end);
    if (pages - seq->g_count > cache->pools[BE_POOL_G].free_count ||
        s_needed > cache->pools[BE_POOL_S].free_count)
        return FM_AGAIN;

    for (uint32_t page = s_table; page < pages; page++) {
        bool is_kept = s_page_is_kept(seq, page, end);
        seq->s_pages[page - seq->s_first] = is_kept ? kv_pool_take(&cache->pools[BE_POOL_S]) : 0;
        seq->is_sparse |= !is_kept;
    }
    seq->s_count = pages - seq->s_first;
    for (; seq->g_count < pages; seq->g_count++)
        seq->g_pages[seq->g_count] = kv_pool_take(&cache->pools[BE_POOL_G]);
    seq->reserved = count;

    /* Tokens go only to pages that no other sequence sees. */
    uint32_t filling = seq->length / cache->layout.page_tokens;
    FM_ASSERT(kv_pool_is_private(&cache->pools[BE_POOL_G], seq->g_pages[filling]));
    return FM_OK;
}

/* Give back the S pages that hold no row of the window behind length, and move the table so that
 * it begins with the page before length's. */
static void s_table_move(struct kv_seq *seq)
{
    struct kv_cache *cache = seq->cache;
    uint32_t page_tokens = cache->layout.page_tokens;
    uint32_t rows_from = window_first(cache, seq->length);
    uint32_t first = be_step_s_page_first(seq->length, page_tokens);
    uint32_t pages = pages_of(cache, seq->length);
    uint32_t kept = 0;

    FM_ASSERT(first >= seq->s_first);
    for (uint32_t i = 0; i < seq->s_count; i++) {
        uint32_t page = seq->s_first + i;
        kv_page_id unit = seq->s_pages[i];
        bool is_needed =
            page < pages && (page + 1) * page_tokens > fm_min_u32(rows_from, seq->length - 1);
        if (unit != 0 && !is_needed) {
            kv_pool_put(&cache->pools[BE_POOL_S], unit);
            unit = 0;
        }
        FM_ASSERT(unit != 0 || !is_needed);
        if (page >= first && page < pages)
            seq->s_pages[kept++] = unit;
    }
    seq->s_first = first;
    seq->s_count = kept;
}

void kv_seq_commit(struct kv_seq *seq, uint32_t count)
{
    FM_ASSERT(seq->is_open);
    FM_ASSERT(count <= seq->reserved);
    FM_ASSERT(!seq->is_sparse || count == seq->reserved || count == 0);
    struct kv_cache *cache = seq->cache;
    seq->length += count;
    seq->reserved = 0;
    seq->is_sparse = false;

    uint32_t pages = pages_of(cache, seq->length);
    while (seq->g_count > pages)
        kv_pool_put(&cache->pools[BE_POOL_G], seq->g_pages[--seq->g_count]);
    s_table_move(seq);
}

/* The child's copy of the parent's page that fills. */
static kv_page_id page_copy(struct kv_cache *cache, enum be_pool pool, kv_page_id source,
                            struct be_copy *ret_copy)
{
    kv_page_id target = kv_pool_take(&cache->pools[pool]);
    FM_ASSERT(source != 0 && target != 0);
    *ret_copy = (struct be_copy){.pool = pool, .source = source, .target = target};
    return target;
}

enum fm_status kv_seq_fork(struct kv_seq *parent, struct kv_seq **ret_child,
                           struct be_copy ret_copies[KV_FORK_COPIES_MAX], uint32_t *ret_copy_count)
{
    FM_ASSERT(parent->is_open);
    FM_ASSERT(parent->reserved == 0);
    struct kv_cache *cache = parent->cache;
    bool has_partial = parent->length % cache->layout.page_tokens != 0;
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        if ((pool == BE_POOL_T || has_partial) && cache->pools[pool].free_count == 0)
            return FM_AGAIN;

    struct kv_seq *child = NULL;
    enum fm_status status = kv_seq_open(cache, &child);
    FM_ASSERT(status == FM_OK); /* the slot was counted above */
    uint32_t copy_count = 0;
    ret_copies[copy_count++] =
        (struct be_copy){.pool = BE_POOL_T, .source = parent->slot, .target = child->slot};

    uint32_t filling = parent->length / cache->layout.page_tokens; /* beyond g_count: none fills */
    for (uint32_t page = 0; page < parent->g_count; page++) {
        kv_page_id unit = parent->g_pages[page];
        if (page == filling)
            unit = page_copy(cache, BE_POOL_G, unit, &ret_copies[copy_count++]);
        else
            kv_pool_ref(&cache->pools[BE_POOL_G], unit);
        child->g_pages[page] = unit;
    }
    for (uint32_t i = 0; i < parent->s_count; i++) {
        kv_page_id unit = parent->s_pages[i];
        if (parent->s_first + i == filling)
            unit = page_copy(cache, BE_POOL_S, unit, &ret_copies[copy_count++]);
        else if (unit != 0)
            kv_pool_ref(&cache->pools[BE_POOL_S], unit);
        child->s_pages[i] = unit;
    }
    child->length = parent->length;
    child->g_count = parent->g_count;
    child->s_first = parent->s_first;
    child->s_count = parent->s_count;
    FM_ASSERT(copy_count <= KV_FORK_COPIES_MAX);
    *ret_child = child;
    *ret_copy_count = copy_count;
    return FM_OK;
}
