/* 10^5 random operations on a cache, next to a device made of plain arrays and to sequences that
 * are plain lists.  Each token is written where the tables say and is read back where they say:
 * two sequences that share a page by mistake read each other's tokens. */
#include <string.h>

#include "backends/base/prng.h"
#include "kvcache/cache.h"
#include "tests/support/support.h"

enum { P = 16, SEQS = 12, TOKENS_MAX = 30 * P, UNITS = 120, OPERATIONS = 100000 };

struct model_seq {
    struct kv_seq *seq; /* NULL: closed */
    uint32_t length;
    uint32_t tokens[TOKENS_MAX];
};

static uint32_t device_g[UNITS][P], device_s[UNITS][P];
static uint64_t device_t[SEQS + 1];
static struct model_seq model[SEQS + 1];
static struct kv_cache *cache;
static uint32_t window;
static uint64_t seed, counter;

static uint32_t draw(uint32_t below)
{
    return (uint32_t)(fm_prng_u64(seed, 1, counter++) % below);
}

/* ck_assert in a loop over tokens would be most of the run. */
static void expect(bool is_true, const char *what)
{
    if (!is_true)
        ck_abort_msg("%s", what);
}

static uint64_t tail_of(const struct model_seq *m)
{
    uint64_t tail = 0;
    for (uint32_t i = 0; i < m->length; i++)
        tail = fm_mix64(tail + m->tokens[i]);
    return tail;
}

/* Compute `count` tokens as a step does: read, then write to every kept row. */
static void step_run(struct model_seq *m, uint32_t count, uint32_t committed)
{
    struct kv_view view = kv_seq_view(m->seq);
    ck_assert_uint_eq(view.length, m->length);
    ck_assert_uint_ge(view.reserved, count);
    uint32_t s_first = be_step_s_page_first(view.length, P);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t position = m->length + i, token = draw(UINT32_MAX);
        uint32_t s_unit = view.s_pages[position / P - s_first];
        expect(view.g_pages[position / P] != 0, "a row without a page");
        device_g[view.g_pages[position / P]][position % P] = token;
        if (s_unit != 0)
            device_s[s_unit][position % P] = token;
        m->tokens[position] = token;
    }
    m->length += committed;
    device_t[view.tail_slot] = tail_of(m);
    kv_seq_commit(m->seq, committed);
}

static void seq_verify(const struct model_seq *m)
{
    struct kv_view view = kv_seq_view(m->seq);
    ck_assert_uint_eq(view.length, m->length);
    ck_assert(device_t[view.tail_slot] == tail_of(m));
    for (uint32_t i = 0; i < m->length; i++)
        expect(device_g[view.g_pages[i / P]][i % P] == m->tokens[i], "another token in G");
    uint32_t s_first = be_step_s_page_first(view.length, P);
    for (uint32_t i = m->length >= window ? m->length - (window - 1) : 0; i < m->length; i++)
        expect(device_s[view.s_pages[i / P - s_first]][i % P] == m->tokens[i], "another in S");
}

static void op_open(struct model_seq *m)
{
    struct kv_seq *seq = NULL;
    if (kv_seq_open(cache, &seq) != FM_OK)
        return;
    *m = (struct model_seq){.seq = seq};
    device_t[kv_seq_view(seq).tail_slot] = 0;
}

static void op_step(struct model_seq *m)
{
    uint32_t count = 1 + draw(draw(3) == 0 ? 5 * P : 3);
    struct kv_stats before, after;
    kv_cache_stats(cache, &before);
    enum fm_status status = kv_seq_reserve(m->seq, count);
    if (m->length + count > TOKENS_MAX) {
        ck_assert_int_eq(status, FM_LIMIT);
    } else if (status == FM_OK) {
        uint32_t committed = count <= P ? draw(count + 1) : (draw(4) == 0 ? 0 : count);
        step_run(m, count, committed);
        return;
    } else {
        ck_assert_int_eq(status, FM_AGAIN);
    }
    kv_cache_stats(cache, &after);
    ck_assert_mem_eq(&before, &after, sizeof before);
}

static void op_fork(const struct model_seq *m, struct model_seq *target)
{
    struct be_copy copies[KV_FORK_COPIES_MAX];
    uint32_t count = 0;
    struct kv_seq *child = NULL;
    if (target->seq != NULL || kv_seq_fork(m->seq, &child, copies, &count) != FM_OK)
        return;
    for (uint32_t i = 0; i < count; i++) {
        if (copies[i].pool == BE_POOL_G)
            memcpy(device_g[copies[i].target], device_g[copies[i].source], sizeof device_g[0]);
        if (copies[i].pool == BE_POOL_S)
            memcpy(device_s[copies[i].target], device_s[copies[i].source], sizeof device_s[0]);
        if (copies[i].pool == BE_POOL_T)
            device_t[copies[i].target] = device_t[copies[i].source];
    }
    *target = *m;
    target->seq = child;
}

START_TEST(random_operations_agree_with_plain_lists)
{
    static const uint32_t windows[] = {1, 5, P - 1, P};
    seed = test_seed();
    window = windows[_i];
    struct kv_layout layout = {.page_tokens = P, .window = window};
    struct kv_options options = {.units = {UNITS, 40, SEQS + 1}, .seq_tokens_max = TOKENS_MAX};
    ck_assert_int_eq(kv_cache_new(&layout, &options, &cache, NULL), FM_OK);

    for (uint32_t i = 0; i < OPERATIONS / 4; i++) {
        struct model_seq *m = &model[draw(SEQS + 1)];
        uint32_t op = draw(16);
        if (m->seq == NULL) {
            op_open(m);
        } else if (op == 0) {
            kv_seq_close(m->seq);
            m->seq = NULL;
        } else if (op <= 2) {
            op_fork(m, &model[draw(SEQS + 1)]);
        } else {
            op_step(m);
        }
        if (m->seq != NULL)
            seq_verify(m);
        ck_assert(kv_cache_sane(cache));
    }
    for (uint32_t i = 0; i <= SEQS; i++) {
        if (model[i].seq != NULL)
            seq_verify(&model[i]);
        kv_seq_close(model[i].seq);
    }
    ck_assert(kv_cache_sane(cache));
    kv_cache_free(cache);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("property/kvcache");
    TCase *tcase = tcase_create("model");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, random_operations_agree_with_plain_lists, 0, 4);
    suite_add_tcase(suite, tcase);
    return suite;
}
