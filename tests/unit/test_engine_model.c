/* test_engine_model.c - a loaded model: any way to cut a sequence into steps gives the same bits.
 *
 * The reference is one step of the whole sequence on one thread.  Compared are the logits of every
 * position and, at the end, every byte of history that the sequence's pages hold. */
#include <stdlib.h>
#include <string.h>

#include "backends/base/clock.h"
#include "backends/base/fault.h"
#include "backends/base/prng.h"
#include "engine/model.h"
#include "kvcache/kvcache.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

enum { T = 300, VOCAB = 512, SEQS = 2 };

struct answer {
    float logits[T][VOCAB];
    uint8_t *pages; /* G pages in order, canonical */
    size_t page_bytes;
    uint32_t page_count;
};

static const struct eng_sampling greedy = {.top_p = 1, .repetition_penalty = 1};
static struct eng_draw draws[T];

static struct eng_options options_of(enum test_tiny_variant variant, uint32_t threads, bool checked)
{
    return (struct eng_options){.model_dir = test_tiny_dir(variant, 11),
                                .backend = "cpu",
                                .threads = threads,
                                .is_checked = checked,
                                .check_seed = 5,
                                .context_max = 1024,
                                .step_rows_max = T,
                                .seqs_max = SEQS,
                                .logit_rows_max = T};
}

static uint32_t token_at(uint64_t seed, uint32_t position)
{
    return (uint32_t)(fm_prng_u64(seed, 1, position) % VOCAB);
}

static struct kv_cache *cache_of(const struct eng_engine *engine)
{
    const struct eng_info *info = eng_info(engine);
    struct kv_options options = {.seq_tokens_max = info->context_max};
    memcpy(options.units, info->units, sizeof options.units);
    struct kv_cache *cache;
    struct fm_err err;
    ck_assert_msg(kv_cache_new(&info->layout, &options, &cache, &err) == FM_OK, "%s", err.text);
    return cache;
}

/* Tokens [length, length + count) of the sequence in one step; logits into answer. */
static void step(struct eng_engine *engine, struct kv_seq *seq, uint64_t seed, uint32_t count,
                 struct answer *answer)
{
    uint32_t tokens[T], length = kv_seq_length(seq), logit_count;
    struct fm_err err = {0};
    for (uint32_t i = 0; i < count; i++)
        tokens[i] = token_at(seed, length + i);
    ck_assert_int_eq(kv_seq_reserve(seq, count), FM_OK);
    struct eng_span span = {.view = kv_seq_view(seq),
                            .tokens = tokens,
                            .token_count = count,
                            .is_decode = count == 1,
                            .draws = draws,
                            .draws_per_row = 1};
    struct eng_plan plan = {.spans = &span, .span_count = 1};
    if (length == 0) {
        plan.tail_resets = &span.view.tail_slot;
        plan.tail_reset_count = 1;
    }
    enum fm_status status = eng_step_run(engine, engine->forward, &plan, &logit_count, &err);
    ck_assert_msg(status == FM_OK, "%s", err.text);
    ck_assert_uint_eq(logit_count, count);
    status = engine->device->ops->value_read(engine->device, engine->forward,
                                             engine->programs->forward.logits, 0, count,
                                             answer->logits[length], &err);
    ck_assert_msg(status == FM_OK, "%s", err.text);
    kv_seq_commit(seq, count);
}

static void pages_read(struct eng_engine *engine, const struct kv_seq *seq, struct answer *answer)
{
    struct kv_view view = kv_seq_view(seq);
    struct fm_err err = {0};
    answer->page_bytes = engine->info.layout.g_page_bytes;
    answer->page_count = view.g_count;
    answer->pages = calloc(view.g_count, answer->page_bytes + 1);
    for (uint32_t i = 0; i < view.g_count; i++) {
        enum fm_status status = engine->device->ops->page_out(
            engine->device, BE_POOL_G, view.g_pages[i], answer->pages + i * answer->page_bytes,
            engine->done, &err);
        ck_assert_msg(status == FM_OK, "%s", err.text);
        status = engine->device->ops->event_wait(engine->device, engine->done,
                                                 fm_clock_ns() + 60 * FM_NS_PER_S, &err);
        ck_assert_msg(status == FM_OK, "%s", err.text);
    }
}

/* The whole sequence, cut at the given places. */
static struct answer *run(struct eng_engine *engine, uint64_t seed, const uint32_t *cuts,
                          uint32_t cut_count)
{
    struct kv_cache *cache = cache_of(engine);
    struct kv_seq *seq;
    struct answer *answer = calloc(1, sizeof *answer);
    ck_assert_int_eq(kv_seq_open(cache, &seq), FM_OK);
    for (uint32_t i = 0; i <= cut_count; i++) {
        uint32_t end = i < cut_count ? cuts[i] : T;
        if (end > kv_seq_length(seq))
            step(engine, seq, seed, end - kv_seq_length(seq), answer);
    }
    ck_assert_uint_eq(kv_seq_length(seq), T);
    pages_read(engine, seq, answer);
    kv_seq_close(seq);
    ck_assert(kv_cache_sane(cache));
    kv_cache_free(cache);
    return answer;
}

static void answer_free(struct answer *answer)
{
    free(answer->pages);
    free(answer);
}

static void compare(const struct answer *want, const struct answer *got, const char *what)
{
    for (uint32_t t = 0; t < T; t++)
        ck_assert_msg(memcmp(want->logits[t], got->logits[t], sizeof want->logits[t]) == 0,
                      "%s: logits of position %u differ", what, t);
    ck_assert_uint_eq(want->page_count, got->page_count);
    ck_assert_msg(memcmp(want->pages, got->pages, want->page_count * want->page_bytes) == 0,
                  "%s: history differs", what);
}

static struct eng_engine *engine_open(const struct eng_options *options)
{
    struct eng_engine *engine;
    struct fm_err err = {0};
    ck_assert_msg(eng_open(options, &engine, &err) == FM_OK, "%s", err.text);
    return engine;
}

START_TEST(any_split_into_steps_gives_the_same_bits)
{
    static const uint32_t places[] = {1, 3, 4, 5, 15, 16, 17, 127, 128, 129, 255, 256};
    static const enum test_tiny_variant variants[] = {TEST_TINY_DEFAULT, TEST_TINY_BF16,
                                                      TEST_TINY_DSPARK,  TEST_TINY_RATIO_16,
                                                      TEST_TINY_PRO,     TEST_TINY_FP8};
    struct eng_options options = options_of(variants[_i], 1, false);
    struct eng_engine *one = engine_open(&options);
    options.threads = 3;
    struct eng_engine *three = engine_open(&options);
    options = options_of(variants[_i], 2, true);
    struct eng_engine *checked = engine_open(&options);

    struct answer *want = run(one, 1, NULL, 0);
    for (uint32_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        struct answer *got = run(i % 2 == 0 ? three : one, 1, &places[i], 1);
        compare(want, got, "one cut");
        answer_free(got);
    }
    struct answer *got = run(checked, 1, places, sizeof places / sizeof places[0]);
    compare(want, got, "every cut");
    answer_free(got);

    uint32_t singles[40]; /* decode across a page, behind a long prefill */
    for (uint32_t i = 0; i < 40; i++)
        singles[i] = 230 + i;
    got = run(three, 1, singles, 40);
    compare(want, got, "decode");
    answer_free(got);

    uint64_t seed = test_seed();
    for (uint32_t round = 0; round < 4; round++) {
        uint32_t cuts[12], at = 0, count = 0;
        for (; count < 12 && at < T - 40; count++) {
            at += 1 + (uint32_t)(fm_prng_u64(seed, round, count) % 40);
            cuts[count] = at;
        }
        got = run(round % 2 == 0 ? checked : three, 1, cuts, count);
        compare(want, got, "random cuts");
        answer_free(got);
    }
    answer_free(want);
    eng_free(one);
    eng_free(three);
    eng_free(checked);
}
END_TEST

START_TEST(two_sequences_in_one_step_answer_as_they_do_alone)
{
    struct eng_options options = options_of(TEST_TINY_DEFAULT, 2, _i == 1);
    struct eng_engine *engine = engine_open(&options);
    struct answer *alone[SEQS] = {run(engine, 1, NULL, 0), run(engine, 2, NULL, 0)};
    struct kv_cache *cache = cache_of(engine);
    struct kv_seq *seqs[SEQS];
    struct fm_err err = {0};
    for (uint32_t s = 0; s < SEQS; s++)
        ck_assert_int_eq(kv_seq_open(cache, &seqs[s]), FM_OK);

    /* Rows of the two in changing proportion and order: 1..60 of one beside 1 of the other. */
    for (uint32_t round = 0; round < 12; round++) {
        struct eng_span spans[SEQS];
        uint32_t tokens[SEQS][T], resets[SEQS], order[SEQS] = {round % 2, 1 - round % 2};
        for (uint32_t i = 0; i < SEQS; i++) {
            uint32_t s = order[i], length = kv_seq_length(seqs[s]);
            uint32_t count = s == round % 2 ? 1 : 1 + (round * 7) % 60;
            for (uint32_t j = 0; j < count; j++)
                tokens[s][j] = token_at(s + 1, length + j);
            ck_assert_int_eq(kv_seq_reserve(seqs[s], count), FM_OK);
            spans[i] = (struct eng_span){.view = kv_seq_view(seqs[s]),
                                         .tokens = tokens[s],
                                         .token_count = count,
                                         .draws = draws,
                                         .draws_per_row = 1};
            resets[i] = spans[i].view.tail_slot;
        }
        struct eng_plan plan = {.spans = spans, .span_count = SEQS};
        if (round == 0) {
            plan.tail_resets = resets;
            plan.tail_reset_count = SEQS;
        }
        uint32_t logit_count;
        static float logits[T][VOCAB];
        enum fm_status status = eng_step_run(engine, engine->forward, &plan, &logit_count, &err);
        ck_assert_msg(status == FM_OK, "%s", err.text);
        ck_assert_int_eq(engine->device->ops->value_read(engine->device, engine->forward,
                                                         engine->programs->forward.logits, 0,
                                                         logit_count, logits, &err),
                         FM_OK);
        for (uint32_t i = 0, row = 0; i < SEQS; i++) {
            for (uint32_t j = 0; j < spans[i].token_count; j++, row++)
                ck_assert_msg(memcmp(logits[row], alone[order[i]]->logits[spans[i].view.length + j],
                                     sizeof logits[row]) == 0,
                              "sequence %u differs at %u", order[i], spans[i].view.length + j);
            kv_seq_commit(seqs[order[i]], spans[i].token_count);
        }
    }
    for (uint32_t s = 0; s < SEQS; s++) {
        kv_seq_close(seqs[s]);
        answer_free(alone[s]);
    }
    kv_cache_free(cache);
    eng_free(engine);
}
END_TEST

START_TEST(a_forked_sequence_goes_on_as_its_parent_does)
{
    struct eng_options options = options_of(TEST_TINY_DEFAULT, 2, true);
    struct eng_engine *engine = engine_open(&options);
    struct answer *want = run(engine, 1, NULL, 0), *got = calloc(1, sizeof *got);
    struct kv_cache *cache = cache_of(engine);
    struct kv_seq *parent, *child;
    struct fm_err err = {0};
    static const uint32_t lengths[] = {1, 4, 127, 128, 130, 255, 257};
    for (uint32_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        ck_assert_int_eq(kv_seq_open(cache, &parent), FM_OK);
        step(engine, parent, 1, lengths[i], got);
        struct be_copy copies[KV_FORK_COPIES_MAX];
        struct eng_plan plan = {.copies = copies};
        ck_assert_int_eq(kv_seq_fork(parent, &child, copies, &plan.copy_count), FM_OK);
        uint32_t logit_count;
        ck_assert_int_eq(eng_step_run(engine, engine->forward, &plan, &logit_count, &err), FM_OK);
        step(engine, parent, 9, 20, got); /* the parent goes another way first */
        memset(got, 0, sizeof got->logits);
        step(engine, child, 1, 20, got);
        for (uint32_t t = lengths[i]; t < lengths[i] + 20; t++)
            ck_assert_msg(memcmp(want->logits[t], got->logits[t], sizeof got->logits[t]) == 0,
                          "fork at %u differs at %u", lengths[i], t);
        kv_seq_close(parent);
        kv_seq_close(child);
    }
    kv_cache_free(cache);
    eng_free(engine);
    answer_free(want);
    answer_free(got);
}
END_TEST

START_TEST(a_cache_that_cannot_hold_one_sequence_is_refused_with_its_size)
{
    struct eng_options options = options_of(TEST_TINY_DEFAULT, 1, false);
    struct eng_engine *engine = NULL;
    struct fm_err err = {0};
    options.kv_bytes = 1000;
    ck_assert_int_eq(eng_open(&options, &engine, &err), FM_LIMIT);
    ck_assert_ptr_nonnull(strstr(err.text, "1000 bytes"));
    options.kv_bytes = 0;
    options.context_max = 100000;
    ck_assert_int_eq(eng_open(&options, &engine, &err), FM_INVALID);
    ck_assert_ptr_nonnull(strstr(err.text, "100000"));
    options.context_max = 0;
    options.backend = "abacus";
    ck_assert(eng_open(&options, &engine, &err) < 0);
    ck_assert_ptr_nonnull(strstr(err.text, "abacus"));
    ck_assert_ptr_null(engine);
}
END_TEST

START_TEST(open_survives_every_alloc_failure)
{
    struct eng_options options = options_of(TEST_TINY_NO_DRAFT, 1, false);
    bool fired = true;
    /* A load makes thousands of allocations of few kinds: past the first hundred, ever sparser. */
    for (uint64_t nth = 1; fired; nth += 1 + nth / 8) {
        struct eng_engine *engine = NULL;
        struct fm_err err = {0};
        fm_fault_arm("alloc", nth);
        enum fm_status status = eng_open(&options, &engine, &err);
        fired = fm_fault_disarm("alloc");
        ck_assert_msg(status == (fired ? FM_NOMEM : FM_OK), "allocation %llu: %s",
                      (unsigned long long)nth, err.text);
        ck_assert((engine != NULL) == (status == FM_OK));
        eng_free(engine);
    }
}
END_TEST

static void make_models(void)
{
    for (uint32_t i = 0; i < T; i++)
        draws[i] = (struct eng_draw){.sampling = &greedy, .forced = -1};
    for (uint32_t variant = 0; variant < TEST_TINY_VARIANTS; variant++)
        (void)test_tiny_dir((enum test_tiny_variant)variant, 11);
}

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/model");
    TCase *tcase = tcase_create("model");
    tcase_set_timeout(tcase, 240);
    tcase_add_unchecked_fixture(tcase, make_models, NULL);
    tcase_add_loop_test(tcase, any_split_into_steps_gives_the_same_bits, 0, 6);
    tcase_add_loop_test(tcase, two_sequences_in_one_step_answer_as_they_do_alone, 0, 2);
    tcase_add_test(tcase, a_forked_sequence_goes_on_as_its_parent_does);
    tcase_add_test(tcase, a_cache_that_cannot_hold_one_sequence_is_refused_with_its_size);
    tcase_add_test(tcase, open_survives_every_alloc_failure);
    suite_add_tcase(suite, tcase);
    return suite;
}
