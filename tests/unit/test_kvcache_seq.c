/* Page tables of sequences: reservation, commit, fork, and what a request needs. */
#include <string.h>

#include "backends/base/fault.h"
#include "kvcache/cache.h"
#include "tests/support/support.h"

enum { P = 128 };

static struct kv_cache *cache_make(uint32_t window, uint32_t g, uint32_t s, uint32_t t)
{
    struct kv_layout layout = {.page_tokens = P, .window = window};
    struct kv_options options = {.units = {g, s, t}, .seq_tokens_max = 40 * P};
    struct kv_cache *cache = NULL;
    ck_assert_int_eq(kv_cache_new(&layout, &options, &cache, NULL), FM_OK);
    return cache;
}

static struct kv_seq *seq_make(struct kv_cache *cache, uint32_t length, uint32_t chunk)
{
    struct kv_seq *seq = NULL;
    ck_assert_int_eq(kv_seq_open(cache, &seq), FM_OK);
    while (length > 0) {
        uint32_t count = length < chunk ? length : chunk;
        ck_assert_int_eq(kv_seq_reserve(seq, count), FM_OK);
        kv_seq_commit(seq, count);
        length -= count;
    }
    ck_assert(kv_cache_sane(cache));
    return seq;
}

static uint32_t free_of(const struct kv_cache *cache, enum be_pool pool)
{
    struct kv_stats stats;
    kv_cache_stats(cache, &stats);
    return stats.units_free[pool];
}

START_TEST(a_new_sequence_holds_one_slot_and_no_page)
{
    struct kv_cache *cache = cache_make(P, 10, 10, 3);
    struct kv_seq *seq = seq_make(cache, 0, 1);
    struct kv_view view = kv_seq_view(seq);
    ck_assert_uint_ne(view.tail_slot, 0);
    ck_assert_uint_eq(view.g_count, 0);
    ck_assert_uint_eq(free_of(cache, BE_POOL_T), 1);
    ck_assert_uint_eq(free_of(cache, BE_POOL_G), 9);
    kv_seq_close(seq);
    ck_assert_uint_eq(free_of(cache, BE_POOL_T), 2);
    kv_cache_free(cache);
}
END_TEST

START_TEST(slots_that_run_out_are_an_answer)
{
    struct kv_cache *cache = cache_make(P, 10, 10, 2);
    struct kv_seq *seq = seq_make(cache, 0, 1);
    struct kv_seq *other = NULL;
    ck_assert_int_eq(kv_seq_open(cache, &other), FM_AGAIN);
    ck_assert_ptr_null(other);
    kv_seq_close(seq);
    kv_cache_free(cache);
}
END_TEST

/* After any length, by any chunks: every history page, and the window's pages alone. */
START_TEST(pages_after_commit_are_history_and_window)
{
    static const uint32_t windows[] = {1, 2, 16, 127, 128};
    static const uint32_t chunks[] = {1, 3, 127, 128, 129, 300, 1000};
    for (size_t w = 0; w < 5; w++) {
        struct kv_cache *cache = cache_make(windows[w], 50, 10, 3);
        for (size_t c = 0; c < 7; c++) {
            for (uint32_t length = 1; length < 700; length += length < 400 ? 1 : 37) {
                struct kv_seq *seq = seq_make(cache, length, chunks[c]);
                struct kv_view view = kv_seq_view(seq);
                uint32_t rows = windows[w] > 1 ? windows[w] - 1 : 1;
                uint32_t row_first = length > rows ? length - rows : 0;
                uint32_t held = (length - 1) / P - row_first / P + 1;
                ck_assert_uint_eq(view.g_count, (length + P - 1) / P);
                ck_assert_uint_eq(9 - free_of(cache, BE_POOL_S), held);
                kv_seq_close(seq);
            }
        }
        ck_assert_uint_eq(free_of(cache, BE_POOL_G), 49);
        kv_cache_free(cache);
    }
}
END_TEST

START_TEST(a_short_reservation_keeps_every_row_and_commits_in_part)
{
    struct kv_cache *cache = cache_make(16, 10, 10, 3);
    struct kv_seq *seq = seq_make(cache, 120, 120);
    ck_assert_int_eq(kv_seq_reserve(seq, P), FM_OK);
    struct kv_view view = kv_seq_view(seq);
    ck_assert_uint_eq(view.s_count, 2);
    ck_assert_uint_ne(view.s_pages[0], 0);
    ck_assert_uint_ne(view.s_pages[1], 0);
    kv_seq_commit(seq, 3);
    ck_assert_uint_eq(kv_seq_length(seq), 123);
    ck_assert_uint_eq(free_of(cache, BE_POOL_G), 8);
    ck_assert_uint_eq(free_of(cache, BE_POOL_S), 8);
    ck_assert(kv_cache_sane(cache));
    kv_seq_close(seq);
    kv_cache_free(cache);
}
END_TEST

START_TEST(a_long_chunk_keeps_only_the_pages_of_its_window)
{
    struct kv_cache *cache = cache_make(16, 20, 20, 3);
    struct kv_seq *seq = seq_make(cache, 0, 1);
    ck_assert_int_eq(kv_seq_reserve(seq, 10 * P), FM_OK);
    struct kv_view view = kv_seq_view(seq);
    ck_assert_uint_eq(view.s_count, 10);
    for (uint32_t i = 0; i < 9; i++)
        ck_assert_uint_eq(view.s_pages[i], 0);
    ck_assert_uint_ne(view.s_pages[9], 0);
    kv_seq_commit(seq, 10 * P);
    view = kv_seq_view(seq);
    ck_assert_uint_eq(view.s_count, 1);
    ck_assert_uint_ne(view.s_pages[0], 0);
    kv_seq_close(seq);
    kv_cache_free(cache);
}
END_TEST

START_TEST(a_failed_reservation_changes_nothing)
{
    struct kv_cache *cache = cache_make(P, 6, 4, 3);
    struct kv_seq *seq = seq_make(cache, 200, 200);
    struct kv_view before = kv_seq_view(seq);
    uint32_t g = free_of(cache, BE_POOL_G), s = free_of(cache, BE_POOL_S);

    ck_assert_int_eq(kv_seq_reserve(seq, 4 * P), FM_AGAIN); /* G: two and four more */
    ck_assert_int_eq(kv_seq_reserve(seq, 40 * P - 199), FM_LIMIT);
    ck_assert_int_eq(kv_seq_reserve(seq, UINT32_MAX), FM_LIMIT);
    struct kv_view after = kv_seq_view(seq);
    ck_assert_uint_eq(after.reserved, before.reserved);
    ck_assert_uint_eq(after.g_count, before.g_count);
    ck_assert_uint_eq(after.s_count, before.s_count);
    ck_assert_uint_eq(free_of(cache, BE_POOL_G), g);
    ck_assert_uint_eq(free_of(cache, BE_POOL_S), s);
    ck_assert(kv_cache_sane(cache));
    ck_assert_int_eq(kv_seq_reserve(seq, P), FM_OK);
    kv_seq_commit(seq, 0);
    ck_assert_uint_eq(free_of(cache, BE_POOL_G), g);
    ck_assert_uint_eq(free_of(cache, BE_POOL_S), s);
    kv_seq_close(seq);
    kv_cache_free(cache);
}
END_TEST

START_TEST(a_fork_shares_full_pages_and_copies_those_that_fill)
{
    struct kv_cache *cache = cache_make(P, 20, 20, 4);
    struct kv_seq *parent = seq_make(cache, 2 * P + 5, 64);
    struct kv_seq *child = NULL;
    struct be_copy copies[KV_FORK_COPIES_MAX];
    uint32_t count = 0;
    ck_assert_int_eq(kv_seq_fork(parent, &child, copies, &count), FM_OK);
    ck_assert(kv_cache_sane(cache));
    struct kv_view p = kv_seq_view(parent), c = kv_seq_view(child);

    ck_assert_uint_eq(count, 3);
    ck_assert_uint_eq(c.g_count, 3);
    ck_assert_uint_eq(c.g_pages[0], p.g_pages[0]);
    ck_assert_uint_eq(c.g_pages[1], p.g_pages[1]);
    ck_assert_uint_ne(c.g_pages[2], p.g_pages[2]);
    ck_assert_uint_eq(c.s_pages[0], p.s_pages[0]);
    ck_assert_uint_ne(c.s_pages[1], p.s_pages[1]);
    for (uint32_t i = 0; i < count; i++) {
        const struct be_copy want[] = {
            {BE_POOL_G, p.g_pages[2], c.g_pages[2]},
            {BE_POOL_S, p.s_pages[1], c.s_pages[1]},
            {BE_POOL_T, p.tail_slot, c.tail_slot},
        };
        ck_assert_mem_eq(&copies[i], &want[copies[i].pool], sizeof want[0]);
    }
    kv_seq_close(parent);
    ck_assert(kv_cache_sane(cache));
    kv_seq_close(child);
    ck_assert_uint_eq(free_of(cache, BE_POOL_G), 19);
    ck_assert_uint_eq(free_of(cache, BE_POOL_S), 19);
    kv_cache_free(cache);
}
END_TEST

START_TEST(a_fork_at_a_page_border_copies_the_tail_alone)
{
    struct kv_cache *cache = cache_make(P, 20, 20, 4);
    struct kv_seq *parent = seq_make(cache, 2 * P, 64);
    struct kv_seq *child = NULL;
    struct be_copy copies[KV_FORK_COPIES_MAX];
    uint32_t count = 0;
    ck_assert_int_eq(kv_seq_fork(parent, &child, copies, &count), FM_OK);
    ck_assert_uint_eq(count, 1);
    ck_assert_int_eq(copies[0].pool, BE_POOL_T);
    kv_seq_close(child);
    kv_seq_close(parent);
    kv_cache_free(cache);
}
END_TEST

START_TEST(a_fork_without_room_changes_nothing)
{
    static const uint32_t units[][3] = {{2, 9, 9}, {9, 2, 9}, {9, 9, 2}};
    for (int i = 0; i < 3; i++) {
        struct kv_cache *cache = cache_make(P, units[i][0], units[i][1], units[i][2]);
        struct kv_seq *parent = seq_make(cache, 5, 5);
        struct kv_stats before, after;
        struct kv_seq *child = NULL;
        struct be_copy copies[KV_FORK_COPIES_MAX];
        uint32_t count = 77;
        kv_cache_stats(cache, &before);
        ck_assert_int_eq(kv_seq_fork(parent, &child, copies, &count), FM_AGAIN);
        kv_cache_stats(cache, &after);
        ck_assert_ptr_null(child);
        ck_assert_uint_eq(count, 77);
        ck_assert_mem_eq(&before, &after, sizeof before);
        ck_assert(kv_cache_sane(cache));
        kv_seq_close(parent);
        kv_cache_free(cache);
    }
}
END_TEST

/* K22: forks closed in every order leave nothing behind. */
START_TEST(forks_closed_in_any_order_leak_nothing)
{
    for (uint32_t n = 1; n <= 64; n++) {
        struct kv_cache *cache = cache_make(P, 200, 200, 66);
        struct kv_seq *seqs[65];
        seqs[0] = seq_make(cache, P + n, 100);
        for (uint32_t i = 1; i < n; i++) {
            struct be_copy copies[KV_FORK_COPIES_MAX];
            uint32_t count;
            ck_assert_int_eq(kv_seq_fork(seqs[i / 2], &seqs[i], copies, &count), FM_OK);
        }
        for (uint32_t left = n; left > 0; left--) { /* somewhere in the middle first */
            uint32_t pick = (n * 7 + left * 5) % left;
            kv_seq_close(seqs[pick]);
            seqs[pick] = seqs[left - 1];
            ck_assert(kv_cache_sane(cache));
        }
        ck_assert_uint_eq(free_of(cache, BE_POOL_G), 199);
        ck_assert_uint_eq(free_of(cache, BE_POOL_S), 199);
        ck_assert_uint_eq(free_of(cache, BE_POOL_T), 65);
        kv_cache_free(cache);
    }
}
END_TEST

/* What kv_units_needed promises is enough, and not more than twice what is used. */
START_TEST(needed_units_are_an_upper_bound_of_use)
{
    static const uint32_t chunks[] = {1, 16, 128, 129, 512, 5000};
    for (int c = 0; c < 6; c++) {
        for (uint32_t prompt = 1; prompt < 1500; prompt += 97) {
            for (uint32_t n = 1; n <= 4; n++) {
                struct kv_layout layout = {.page_tokens = P, .window = P};
                struct kv_need need = {prompt + 300, prompt, chunks[c], n};
                uint32_t units[BE_POOL_COUNT];
                kv_units_needed(&layout, &need, units);
                struct kv_cache *cache = cache_make(P, units[0] + 1, units[1] + 1, units[2] + 1);
                struct kv_seq *seqs[4] = {seq_make(cache, prompt, chunks[c])};
                for (uint32_t i = 1; i < n; i++) {
                    struct be_copy copies[KV_FORK_COPIES_MAX];
                    uint32_t count;
                    ck_assert_int_eq(kv_seq_fork(seqs[0], &seqs[i], copies, &count), FM_OK);
                }
                for (uint32_t step = 0; step < 300; step++)
                    for (uint32_t i = 0; i < n; i++) {
                        ck_assert_int_eq(kv_seq_reserve(seqs[i], 1), FM_OK);
                        kv_seq_commit(seqs[i], 1);
                    }
                ck_assert_uint_le(free_of(cache, BE_POOL_G), units[0] / 2);
                for (uint32_t i = 0; i < n; i++)
                    kv_seq_close(seqs[i]);
                kv_cache_free(cache);
            }
        }
    }
}
END_TEST

START_TEST(impossible_sizes_are_refused)
{
    struct kv_layout layout = {.page_tokens = P, .window = P};
    struct kv_options options = {.units = {2, 2, 2}, .seq_tokens_max = 100};
    struct kv_cache *cache = NULL;
    for (int pool = 0; pool < BE_POOL_COUNT; pool++) {
        struct kv_options few = options;
        few.units[pool] = 1;
        ck_assert_int_eq(kv_cache_new(&layout, &few, &cache, NULL), FM_INVALID);
    }
    layout.window = P + 1;
    ck_assert_int_eq(kv_cache_new(&layout, &options, &cache, NULL), FM_INVALID);
    layout.window = P;
    options.seq_tokens_max = 0;
    ck_assert_int_eq(kv_cache_new(&layout, &options, &cache, NULL), FM_INVALID);
    ck_assert_ptr_null(cache);
}
END_TEST

START_TEST(new_survives_every_alloc_failure)
{
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct kv_layout layout = {.page_tokens = P, .window = P};
        struct kv_options options = {.units = {4, 4, 4}, .seq_tokens_max = 1000};
        struct kv_cache *cache = NULL;
        fm_fault_arm("alloc", nth);
        enum fm_status status = kv_cache_new(&layout, &options, &cache, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert((cache != NULL) == (status == FM_OK));
        if (cache != NULL)
            ck_assert(kv_cache_sane(cache));
        kv_cache_free(cache);
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("kvcache/seq");
    TCase *tcase = tcase_create("tables");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, a_new_sequence_holds_one_slot_and_no_page);
    tcase_add_test(tcase, slots_that_run_out_are_an_answer);
    tcase_add_test(tcase, pages_after_commit_are_history_and_window);
    tcase_add_test(tcase, a_short_reservation_keeps_every_row_and_commits_in_part);
    tcase_add_test(tcase, a_long_chunk_keeps_only_the_pages_of_its_window);
    tcase_add_test(tcase, a_failed_reservation_changes_nothing);
    tcase_add_test(tcase, a_fork_shares_full_pages_and_copies_those_that_fill);
    tcase_add_test(tcase, a_fork_at_a_page_border_copies_the_tail_alone);
    tcase_add_test(tcase, a_fork_without_room_changes_nothing);
    tcase_add_test(tcase, forks_closed_in_any_order_leak_nothing);
    tcase_add_test(tcase, needed_units_are_an_upper_bound_of_use);
    tcase_add_test(tcase, impossible_sizes_are_refused);
    tcase_add_test(tcase, new_survives_every_alloc_failure);
    suite_add_tcase(suite, tcase);
    return suite;
}
