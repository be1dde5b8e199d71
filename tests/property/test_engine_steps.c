/* Sequences of a real model, run together in random steps through the verifying device, give
 * the bits that each gives alone: whatever the splits, the neighbours, the pages, the forks.
 *
 * Reference: each text of the pool once, alone, in the longest steps, without the wrapper.
 * Then every seed draws texts, lengths, chunk sizes, the order of rows, forks and ends. */
#include <stdlib.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/prng.h"
#include "engine/engine.h"
#include "kvcache/kvcache.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

enum {
    TEXTS = 6,
    TEXT_TOKENS = 150, /* past a page, an entry of ratio 128, and what top-k keeps */
    SEQS = 4,
    ROWS_MAX = 96,
    STEPS = 14, /* of one seed */
};

/* FATHOM_SEEDS asks for another number; 1000 take some minutes. */
#ifdef FM_SLOW_CHECKS
enum { SEEDS = 10 };
#else
enum { SEEDS = 120 };
#endif

static uint32_t texts[TEXTS][TEXT_TOKENS];
static struct eng_drawn alone[TEXTS][TEXT_TOKENS];
static const struct eng_sampling greedy = {
    .top_p = 1, .repetition_penalty = 1, .wants_logprob = true, .logprob_count = 4};
static struct eng_draw every_draw[ROWS_MAX];

static uint64_t seed, draws;

static uint32_t draw(uint32_t below)
{
    return (uint32_t)(fm_prng_u64(seed, 1, draws++) % below);
}

static struct eng_engine *open_engine(const char *dir, bool is_checked)
{
    const struct eng_options options = {
        .model_dir = dir,
        .threads = 2,
        .is_checked = is_checked,
        .check_seed = test_seed(),
        .context_max = 256,
        .step_rows_max = ROWS_MAX,
        .seqs_max = SEQS,
        .logit_rows_max = ROWS_MAX,
    };
    struct eng_engine *engine = NULL;
    struct fm_err err = {0};
    enum fm_status status = eng_open(&options, &engine, &err);
    ck_assert_msg(status == FM_OK, "%s", err.text);
    return engine;
}

static struct kv_cache *new_cache(const struct eng_engine *engine)
{
    const struct eng_info *info = eng_info(engine);
    struct kv_options options = {.seq_tokens_max = info->context_max};
    struct kv_cache *cache = NULL;
    struct fm_err err = {0};
    memcpy(options.units, info->units, sizeof(options.units));
    enum fm_status status = kv_cache_new(&info->layout, &options, &cache, &err);
    ck_assert_msg(status == FM_OK, "%s", err.text);
    return cache;
}

/* ---- the reference ------------------------------------------------------------------------- */

static void run_alone(struct eng_engine *engine, uint32_t text)
{
    struct kv_cache *cache = new_cache(engine);
    struct kv_seq *seq = NULL;
    struct fm_err err = {0};
    ck_assert_int_eq(kv_seq_open(cache, &seq), FM_OK);
    for (uint32_t i = 0; i < TEXT_TOKENS; i += ROWS_MAX) {
        uint32_t count = TEXT_TOKENS - i < ROWS_MAX ? TEXT_TOKENS - i : ROWS_MAX;
        ck_assert_int_eq(kv_seq_reserve(seq, count), FM_OK);
        struct kv_view view = kv_seq_view(seq);
        struct eng_span span = {.view = view,
                                .tokens = &texts[text][i],
                                .token_count = count,
                                .draws = every_draw,
                                .draws_per_row = 1};
        struct eng_plan plan = {.tail_resets = &view.tail_slot,
                                .tail_reset_count = i == 0 ? 1 : 0,
                                .spans = &span,
                                .span_count = 1};
        enum fm_status status = eng_run(engine, &plan, &alone[text][i], &err);
        ck_assert_msg(status == FM_OK, "text %u, token %u: %s", text, i, err.text);
        kv_seq_commit(seq, count);
    }
    kv_seq_close(seq);
    kv_cache_free(cache);
}

/* ---- together ------------------------------------------------------------------------------ */

struct running {
    struct kv_seq *seq; /* NULL: none */
    uint32_t text, length;
};

/* What goes before the next step. */
struct commands {
    struct be_copy copies[SEQS * KV_FORK_COPIES_MAX];
    uint32_t resets[SEQS];
    uint32_t copy_count, reset_count;
};

static void open_or_fork(struct kv_cache *cache, struct running *list, uint32_t index,
                         struct commands *commands)
{
    struct running *running = &list[index];
    const struct running *parent = &list[draw(SEQS)];
    if (parent->seq != NULL && parent->length != 0 && draw(3) == 0) {
        uint32_t count = 0;
        if (kv_seq_fork(parent->seq, &running->seq, commands->copies + commands->copy_count,
                        &count) != FM_OK)
            return;
        commands->copy_count += count;
        running->text = parent->text;
        running->length = parent->length;
        return;
    }
    if (kv_seq_open(cache, &running->seq) != FM_OK)
        return;
    running->text = draw(TEXTS);
    running->length = 0;
    commands->resets[commands->reset_count++] = kv_seq_view(running->seq).tail_slot;
}

/* Begin and end sequences; a forked one and its parent must not end in between. */
static void shuffle_sequences(struct kv_cache *cache, struct running *list,
                              struct commands *commands)
{
    *commands = (struct commands){0};
    for (uint32_t i = 0; i < SEQS; i++) {
        if (list[i].seq != NULL && (list[i].length == TEXT_TOKENS || draw(12) == 0)) {
            kv_seq_close(list[i].seq);
            list[i].seq = NULL;
        }
    }
    for (uint32_t i = 0; i < SEQS; i++) {
        if (list[i].seq == NULL && draw(2) == 0)
            open_or_fork(cache, list, i, commands);
    }
}

static uint32_t plan_spans(struct running *list, struct eng_span *spans, uint32_t *owners)
{
    uint32_t span_count = 0;
    uint32_t rows_left = ROWS_MAX;
    uint32_t first = draw(SEQS); /* rows stand in any order of sequences */
    for (uint32_t i = 0; i < SEQS; i++) {
        uint32_t owner = (first + i) % SEQS;
        struct running *running = &list[owner];
        uint32_t most = TEXT_TOKENS - running->length;
        uint32_t count = draw(3) == 0 ? 1 : 1 + draw(draw(2) == 0 ? 5 : 60);
        count = count > most ? most : count;
        if (running->seq == NULL || count == 0 || count > rows_left ||
            kv_seq_reserve(running->seq, count) != FM_OK)
            continue;
        owners[span_count] = owner;
        spans[span_count++] = (struct eng_span){
            .view = kv_seq_view(running->seq),
            .tokens = &texts[running->text][running->length],
            .token_count = count,
            .is_decode = count == 1,
            .logit_first = draw(count + 1),
            .draws = every_draw,
            .draws_per_row = 1,
        };
        rows_left -= count;
    }
    return span_count;
}

static void compare_spans(const struct running *list, const struct eng_span *spans,
                          const uint32_t *owners, uint32_t span_count,
                          const struct eng_drawn *drawn)
{
    for (uint32_t i = 0; i < span_count; i++) {
        const struct running *running = &list[owners[i]];
        for (uint32_t row = spans[i].logit_first; row < spans[i].token_count; row++) {
            const struct eng_drawn *expected = &alone[running->text][running->length + row];
            ck_assert_msg(drawn->token == expected->token && drawn->logprob == expected->logprob &&
                              drawn->candidate_count == expected->candidate_count &&
                              memcmp(drawn->candidates, expected->candidates,
                                     drawn->candidate_count * sizeof(struct eng_candidate)) == 0,
                          "seed %llu: text %u, position %u: token %u (%.9g), alone %u (%.9g)",
                          (unsigned long long)seed, running->text, running->length + row,
                          drawn->token, (double)drawn->logprob, expected->token,
                          (double)expected->logprob);
            drawn++;
        }
    }
}

static void run_together(struct eng_engine *engine)
{
    static struct eng_drawn drawn[ROWS_MAX];
    struct kv_cache *cache = new_cache(engine);
    struct running list[SEQS] = {0};
    for (uint32_t step = 0; step < STEPS; step++) {
        struct commands commands;
        struct eng_span spans[SEQS];
        uint32_t owners[SEQS];
        struct fm_err err = {0};
        shuffle_sequences(cache, list, &commands);
        struct eng_plan plan = {
            .copies = commands.copies,
            .copy_count = commands.copy_count,
            .tail_resets = commands.resets,
            .tail_reset_count = commands.reset_count,
            .spans = spans,
            .span_count = plan_spans(list, spans, owners),
        };
        enum fm_status status = eng_run(engine, &plan, drawn, &err);
        ck_assert_msg(status == FM_OK, "seed %llu, step %u: %s", (unsigned long long)seed, step,
                      err.text);
        compare_spans(list, spans, owners, plan.span_count, drawn);
        for (uint32_t i = 0; i < plan.span_count; i++) {
            kv_seq_commit(list[owners[i]].seq, spans[i].token_count);
            list[owners[i]].length += spans[i].token_count;
        }
    }
    ck_assert(kv_cache_sane(cache));
    for (uint32_t i = 0; i < SEQS; i++)
        kv_seq_close(list[i].seq);
    kv_cache_free(cache);
}

static void run_variant(enum test_tiny_variant variant, uint32_t seeds)
{
    const char *dir = test_tiny_dir(variant, 11);
    for (uint32_t t = 0; t < TEXTS; t++) {
        for (uint32_t i = 0; i < TEXT_TOKENS; i++) /* the last two share a beginning */
            texts[t][i] =
                (uint32_t)(fm_prng_u64(variant, t == TEXTS - 1 && i < 40 ? t - 1 : t, i) % 512);
    }
    for (uint32_t i = 0; i < ROWS_MAX; i++)
        every_draw[i] = (struct eng_draw){.sampling = &greedy, .forced = -1};
    struct eng_engine *engine = open_engine(dir, false);
    for (uint32_t t = 0; t < TEXTS; t++)
        run_alone(engine, t);
    eng_free(engine);

    engine = open_engine(dir, true);
    for (uint32_t i = 0; i < seeds; i++) {
        seed = test_seed() + i;
        draws = 0;
        run_together(engine);
    }
    eng_free(engine);
}

static uint32_t seed_count(void)
{
    const char *text = getenv("FATHOM_SEEDS");
    uint64_t count = SEEDS;
    ck_assert(text == NULL || fm_parse_u64(text, 1, 1000000, &count));
    return (uint32_t)count;
}

START_TEST(together_as_alone)
{
    run_variant(TEST_TINY_DEFAULT, seed_count());
}
END_TEST

START_TEST(together_as_alone_in_every_layout)
{
    static const enum test_tiny_variant variants[] = {
        TEST_TINY_BF16, TEST_TINY_DSPARK, TEST_TINY_RATIO_16, TEST_TINY_PRO, TEST_TINY_FP8};
    run_variant(variants[_i], (seed_count() + 19) / 20);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine_steps");
    TCase *tcase = tcase_create("steps");
    tcase_set_timeout(tcase, 1800);
    tcase_add_test(tcase, together_as_alone);
    tcase_add_loop_test(tcase, together_as_alone_in_every_layout, 0, 5);
    suite_add_tcase(suite, tcase);
    return suite;
}
