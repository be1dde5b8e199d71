/* cache.c - life, figures and audit of the cache; see kvcache.h. */
#include "kvcache/cache.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"

static const char *const pool_names[BE_POOL_COUNT] = {"G", "S", "T"};

static enum fm_status tables_take(struct kv_cache *cache, struct fm_err *err)
{
    uint32_t slot_count = cache->pools[BE_POOL_T].unit_count;
    uint32_t table_entries = 2 * cache->pages_max + 1;
    uint32_t units_max = 0;
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        units_max = fm_max_u32(units_max, cache->pools[pool].unit_count);

    size_t entries_total;
    cache->seqs = fm_alloc_array(slot_count, sizeof *cache->seqs);
    cache->counted = fm_alloc_array(units_max, sizeof *cache->counted);
    if (fm_mul_size(slot_count, table_entries, &entries_total))
        cache->tables = fm_alloc_array(entries_total, sizeof *cache->tables);
    if (cache->seqs == NULL || cache->counted == NULL || cache->tables == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the page tables of %u sequences of %u pages",
                       slot_count - 1, cache->pages_max);

    for (uint32_t slot = 1; slot < slot_count; slot++) {
        struct kv_seq *seq = &cache->seqs[slot];
        seq->cache = cache;
        seq->slot = slot;
        seq->g_pages = cache->tables + (size_t)slot * table_entries;
        seq->s_pages = seq->g_pages + cache->pages_max;
    }
    return FM_OK;
}

enum fm_status kv_cache_new(const struct kv_layout *layout, const struct kv_options *options,
                            struct kv_cache **ret_cache, struct fm_err *err)
{
    FM_ASSERT(layout != NULL && options != NULL && ret_cache != NULL);
    if (layout->page_tokens == 0 || layout->window == 0 || layout->window > layout->page_tokens)
        return FM_FAIL(err, FM_INVALID, "a window of %u tokens and pages of %u do not go together",
                       layout->window, layout->page_tokens);
    if (options->seq_tokens_max == 0 || options->seq_tokens_max > UINT32_MAX / 4)
        return FM_FAIL(err, FM_INVALID, "sequences of %u tokens cannot be cached",
                       options->seq_tokens_max);
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        if (options->units[pool] < 2)
            return FM_FAIL(err, FM_INVALID, "pool %s has %u units, at least 2 are needed",
                           pool_names[pool], options->units[pool]);

    struct kv_cache *cache = fm_alloc(sizeof *cache);
    if (cache == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the cache");
    cache->layout = *layout;
    cache->seq_tokens_max = options->seq_tokens_max;
    cache->pages_max = fm_u32(fm_div_ceil(options->seq_tokens_max, layout->page_tokens));

    enum fm_status status = FM_OK;
    for (uint32_t pool = 0; pool < BE_POOL_COUNT && status == FM_OK; pool++)
        status = kv_pool_init(&cache->pools[pool], options->units[pool], err);
    if (status == FM_OK)
        status = tables_take(cache, err);
    if (status != FM_OK) {
        kv_cache_free(cache);
        return status;
    }
    *ret_cache = cache;
    return FM_OK;
}

void kv_cache_free(struct kv_cache *cache)
{
    if (cache == NULL)
        return;
    if (cache->seqs != NULL)
        for (uint32_t slot = 1; slot < cache->pools[BE_POOL_T].unit_count; slot++)
            FM_ASSERT(!cache->seqs[slot].is_open);
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++)
        kv_pool_done(&cache->pools[pool]);
    fm_free(cache->seqs);
    fm_free(cache->tables);
    fm_free(cache->counted);
    fm_free(cache);
}

void kv_units_needed(const struct kv_layout *layout, const struct kv_need *need,
                     uint32_t ret_units[BE_POOL_COUNT])
{
    FM_ASSERT(need->tokens >= need->shared_tokens);
    FM_ASSERT(need->seq_count >= 1);
    uint32_t page_tokens = layout->page_tokens;
    uint32_t pages = fm_u32(fm_div_ceil(need->tokens, page_tokens));
    uint32_t shared = need->seq_count == 1 ? 0 : need->shared_tokens / page_tokens;

    /* S, one sequence with a long chunk: two pages hold the window before it and two the window
     * behind it; a chunk of a page or less touches one page beyond the first two.  Token by
     * token, the page that fills and the one before it are enough. */
    uint32_t prefill = fm_min_u32(pages, need->chunk_tokens > page_tokens ? 4 : 3);
    uint64_t decode = (uint64_t)need->seq_count * fm_min_u32(pages, 2);

    uint64_t history = shared + (uint64_t)need->seq_count * (pages - shared);
    ret_units[BE_POOL_G] = (uint32_t)fm_min_u64(history, UINT32_MAX);
    ret_units[BE_POOL_S] = (uint32_t)fm_min_u64(fm_max_u64(prefill, decode), UINT32_MAX);
    ret_units[BE_POOL_T] = need->seq_count;
}

void kv_cache_stats(const struct kv_cache *cache, struct kv_stats *ret_stats)
{
    *ret_stats = (struct kv_stats){0};
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++) {
        ret_stats->units_total[pool] = cache->pools[pool].unit_count - 1;
        ret_stats->units_free[pool] = cache->pools[pool].free_count;
    }
    ret_stats->seq_count = ret_stats->units_total[BE_POOL_T] - ret_stats->units_free[BE_POOL_T];
}

/* ---- audit --------------------------------------------------------------------------------- */

/* The tables of one open sequence hold what kvcache.h says. */
static bool seq_sane(const struct kv_cache *cache, const struct kv_seq *seq)
{
    uint32_t page_tokens = cache->layout.page_tokens;
    uint32_t end = seq->length + seq->reserved;
    uint32_t pages = fm_u32(fm_div_ceil(end, page_tokens));
    if (end > cache->seq_tokens_max || seq->g_count != pages)
        return false;
    if (seq->s_first != be_step_s_page_first(seq->length, page_tokens))
        return false;
    if (seq->s_first + seq->s_count != fm_max_u32(pages, seq->s_first))
        return false;

    const struct kv_pool *g = &cache->pools[BE_POOL_G];
    for (uint32_t page = 0; page < seq->g_count; page++) {
        if (seq->g_pages[page] == 0 || seq->g_pages[page] >= g->unit_count)
            return false;
        bool is_full = (uint64_t)(page + 1) * page_tokens <= seq->length;
        if (!is_full && !kv_pool_is_private(g, seq->g_pages[page]))
            return false;
    }

    const struct kv_pool *s = &cache->pools[BE_POOL_S];
    uint32_t window_first =
        seq->length >= cache->layout.window ? seq->length - (cache->layout.window - 1) : 0;
    for (uint32_t i = 0; i < seq->s_count; i++) {
        uint32_t row_first = (seq->s_first + i) * page_tokens;
        uint32_t row_end = row_first + page_tokens;
        bool is_needed = row_first < seq->length && row_end > window_first;
        if (seq->s_pages[i] >= s->unit_count || (is_needed && seq->s_pages[i] == 0))
            return false;
        if (seq->s_pages[i] != 0 && row_end > seq->length &&
            !kv_pool_is_private(s, seq->s_pages[i]))
            return false;
    }
    return true;
}

/* Count the references that all tables hold of one pool's units. */
static void references_count(const struct kv_cache *cache, enum be_pool pool)
{
    memset(cache->counted, 0, cache->pools[pool].unit_count * sizeof *cache->counted);
    for (uint32_t slot = 1; slot < cache->pools[BE_POOL_T].unit_count; slot++) {
        const struct kv_seq *seq = &cache->seqs[slot];
        if (!seq->is_open)
            continue;
        if (pool == BE_POOL_T)
            cache->counted[slot]++;
        if (pool == BE_POOL_G)
            for (uint32_t i = 0; i < seq->g_count; i++)
                cache->counted[seq->g_pages[i]]++;
        if (pool == BE_POOL_S)
            for (uint32_t i = 0; i < seq->s_count; i++)
                if (seq->s_pages[i] != 0)
                    cache->counted[seq->s_pages[i]]++;
    }
}

bool kv_cache_sane(const struct kv_cache *cache)
{
    for (uint32_t slot = 1; slot < cache->pools[BE_POOL_T].unit_count; slot++)
        if (cache->seqs[slot].is_open && !seq_sane(cache, &cache->seqs[slot]))
            return false;
    for (uint32_t pool = 0; pool < BE_POOL_COUNT; pool++) {
        references_count(cache, (enum be_pool)pool);
        if (!kv_pool_sane(&cache->pools[pool], cache->counted))
            return false;
    }
    return true;
}
