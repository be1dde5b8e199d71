/* test_engine_ref_model.c - the whole model against the oracle, layer by layer, and against itself
 * in other chunks.
 *
 * Every layer gets the oracle's own input (tests/golden/oracle/make.py).  Inside a layer both sides
 * round to the same formats, but sum in another order, so a value next to a rounding border may
 * land on its other side.  What that can do, as relative root mean square of a tensor:
 *
 *   bf16 values   sums of n terms differ by sqrt(n) 2^-24, borders are 2^-8 apart: for n = 128
 *                 one value in 5,000 moves by 2^-8; far below 1e-3
 *   fp8 values    take the other code with the same odds and then move by up to 2^-3: in a row of
 *                 256 one such step is 2^-3 / sqrt(256) = 8e-3 of that row
 *   fp4 values    move by up to 1/2, one in 128: 4e-2 of a row
 *   attention     rounds p to bf16 relative to the maximum known at its tile; the oracle to
 *                 the final one.  With more than 64 rows all roundings differ: 2^-8 / sqrt(12) on
 *                 either side, 1.6e-3 of the output
 *   behind fp8    a difference d in front of a quantised linear gives sqrt(d s), s = 0.06 the
 *                 mean step of e4m3: codes flip with odds d / s and move by s.  1.6e-3 gives 1e-2
 *   experts       the input differs by the streams' share of 1e-2, a few 1e-3, and is quantised
 *                 twice: sqrt(3e-3 * 0.06) = 1.3e-2 behind w1 and w3, times sqrt 2 for the product,
 *                 sqrt(1.9e-2 * 0.06) = 3.4e-2 behind w2; streams have it beside other terms
 *   logits        a linear of the streams that is not quantised: as the streams
 *
 * Where a choice (top-k entries, experts) differs, the oracle's margin decides: below the limit the
 * row is left out of what follows from it, above it is an error.  At most MARGIN_ROWS_MAX rows of a
 * tensor may be left out.  Exact: visible sets, hash routing, dequantised weights, quantisers. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/fault.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "engine/ref/linear.h"
#include "tests/support/oracle.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

enum { MARGIN_ROWS_MAX = 2, ROWS_MAX = 32 };

static const double EXPERT_MARGIN = 0.01; /* of s + bias, which is around 1 */
static const double INDEX_MARGIN = 0.02;  /* of the row's largest score */

static const struct {
    const char *suffix;
    double rms, rms_bf16; /* bf16: the case without weight quantisation, no fp8 in front */
} limits[] = {
    {".q", 1e-3, 1e-3},
    {".kv", 4e-3, 4e-3},
    {".compressed", 4e-3, 4e-3},
    {".index_keys", 1e-2, 1e-2},
    {".index_scores", 1e-2, 1e-2},
    {".attn_out", 1.2e-2, 3e-3},
    {".expert_weights", 2e-3, 1e-3},
    {".moe_out", 4e-2, 6e-3},
    {".streams", 2e-2, 4e-3},
    {"logits", 2e-2, 4e-3},
    {".input", 2e-2, 3e-3},
    {".confidence", 1e-2, 1e-2},
};

static const struct test_case {
    const char *file;
    enum test_tiny_variant variant;
} cases[] = {{"default", TEST_TINY_DEFAULT}, {"bf16", TEST_TINY_BF16},
             {"dspark", TEST_TINY_DSPARK},   {"ratio16", TEST_TINY_RATIO_16},
             {"pro", TEST_TINY_PRO},         {"fp8", TEST_TINY_FP8},
             {"chain", TEST_TINY_DEFAULT}};
enum { CASE_COUNT = sizeof cases / sizeof cases[0] };

/* A loaded tiny model with an empty state. */
struct bed {
    struct eng_hparams hparams;
    struct eng_weights *weights;
    struct eng_ref_model *model;
    struct eng_ref_state *state;
    uint32_t ids[512];
};

static void bed_open(struct bed *bed, enum test_tiny_variant variant, uint32_t position_max)
{
    struct fm_err err = {0};
    const char *dir = test_tiny_dir(variant, ORACLE_MODEL_SEED);
    ck_assert_msg(eng_weights_load(dir, &bed->hparams, &bed->weights, &err) == FM_OK, "%s",
                  err.text);
    ck_assert_int_eq(eng_ref_model_new(&bed->hparams, bed->weights, &bed->model, &err), FM_OK);
    ck_assert_int_eq(eng_ref_state_new(bed->model, position_max, &bed->state, &err), FM_OK);
    for (uint32_t t = 0; t < 512; t++)
        bed->ids[t] = oracle_id(t, bed->hparams.vocab_size);
}

static void bed_close(struct bed *bed)
{
    eng_ref_state_free(bed->state);
    eng_ref_model_free(bed->model);
    eng_weights_close(bed->weights);
}

/* What the hooks need: where inputs come from and where reports go. */
struct watch {
    const struct bed *bed;
    const char *file;
    struct oracle_run run;
};

static void watch_report(void *context, const struct eng_ref_tensor *tensor)
{
    oracle_collect(&((struct watch *)context)->run, tensor);
}

static void watch_inject(void *context, uint32_t layer_index, uint32_t first, uint32_t count,
                         uint16_t *streams)
{
    struct watch *watch = context;
    const struct eng_hparams *hp = &watch->bed->hparams;
    char name[32];
    (void)snprintf(name, sizeof name, "input.%u", layer_index);
    bool is_spark_start = hp->draft_kind == ENG_DRAFT_DSPARK && layer_index == hp->layer_count;
    if (layer_index == 0 || is_spark_start)
        return; /* the embedding */
    if (!oracle_has(watch->file, "input.1")) {
        oracle_streams(hp, layer_index, first, count, streams);
        return;
    }
    if (!oracle_has(watch->file, name))
        return;
    struct oracle_tensor input = oracle_tensor(watch->file, name);
    for (uint32_t t = 0; t < count; t++)
        for (uint32_t c = 0; c < input.cols; c++)
            streams[(size_t)t * input.cols + c] =
                fm_bf16((float)oracle_value(&input, first + t, c));
}

/* The oracle's taps of the last positions, all that its draft looks at. */
static void watch_inject_taps(void *context, uint32_t first, uint32_t count, uint16_t *taps)
{
    struct watch *watch = context;
    struct oracle_tensor stored = oracle_tensor(watch->file, "dspark.taps");
    ck_assert(first == 0 && count >= stored.rows);
    for (uint32_t i = 0; i < stored.rows; i++)
        for (uint32_t c = 0; c < stored.cols; c++)
            taps[(size_t)(count - stored.rows + i) * stored.cols + c] =
                fm_bf16((float)oracle_value(&stored, i, c));
}

/* Rows that a tensor is compared at: all entries, or the sampled positions. */
struct sample {
    uint32_t count, rows[ROWS_MAX];
    bool is_left_out[ROWS_MAX];
};

static double limit_of(const char *file, const char *name)
{
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        size_t length = strlen(name), suffix = strlen(limits[i].suffix);
        if (length >= suffix && strcmp(name + length - suffix, limits[i].suffix) == 0)
            return strcmp(file, "bf16") == 0 ? limits[i].rms_bf16 : limits[i].rms;
    }
    ck_abort_msg("no limit for %s", name);
}

/* Compare row i of the golden tensor with row rows[i] of the run (NULL: with row i + offset). */
static void compare(struct watch *watch, const char *name, const struct sample *sample,
                    uint32_t offset)
{
    struct oracle_tensor want = oracle_tensor(watch->file, name);
    double error = 0, size = 0;
    uint32_t equal = 0, all = 0;
    for (uint32_t i = 0; i < want.rows; i++) {
        if (sample != NULL && sample->is_left_out[i])
            continue;
        uint32_t row = sample != NULL ? sample->rows[i] : i + offset, cols = 0;
        const float *got = oracle_row(&watch->run, name, row, &cols);
        ck_assert_msg(got != NULL, "%s: row %u of %s was not reported", watch->file, row, name);
        ck_assert_uint_ge(cols, want.cols);
        for (uint32_t c = 0; c < want.cols; c++) {
            double w = oracle_value(&want, i, c), g = (double)got[c];
            error += (w - g) * (w - g);
            size += w * w;
            equal += (float)w == got[c];
            all++;
        }
    }
    double rms = size > 0 ? sqrt(error / size) : sqrt(error);
    printf("%-8s %-24s rms %.2e  equal %.4f\n", watch->file, name, rms, equal / (double)all);
    (void)fflush(stdout);
    ck_assert_msg(rms <= limit_of(watch->file, name), "%s %s: rms %.3e above %.1e", watch->file,
                  name, rms, limit_of(watch->file, name));
}

/* A choice: equal rows, or rows left out because the margin is small. */
static void compare_choice(struct watch *watch, const char *prefix, const char *name,
                           const char *margin_name, double limit, struct sample *sample)
{
    char full[64], margin_full[64];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    (void)snprintf(margin_full, sizeof margin_full, "%s%s", prefix, margin_name);
    struct oracle_tensor want = oracle_tensor(watch->file, full);
    bool has_margin = oracle_has(watch->file, margin_full);
    uint32_t left_out = 0;
    for (uint32_t i = 0; i < want.rows; i++) {
        uint32_t cols = 0, absent = 0, want_absent = 0;
        bool is_equal = true;
        const float *got = oracle_row(&watch->run, full, sample->rows[i], &cols);
        ck_assert_ptr_nonnull(got);
        for (uint32_t c = 0; c < want.cols; c++) {
            is_equal = is_equal && (double)got[c] == oracle_value(&want, i, c);
            absent += got[c] < 0;
            want_absent += oracle_value(&want, i, c) < 0;
        }
        ck_assert_uint_eq(absent, want_absent); /* the visible set is exact */
        if (is_equal)
            continue;
        ck_assert_msg(has_margin, "%s %s differs at %u", watch->file, full, sample->rows[i]);
        struct oracle_tensor margins = oracle_tensor(watch->file, margin_full);
        double margin = oracle_value(&margins, i, 0);
        ck_assert_msg(margin < limit, "%s %s differs at %u by a margin of %g", watch->file, full,
                      sample->rows[i], margin);
        sample->is_left_out[i] = true;
        left_out++;
    }
    ck_assert_uint_le(left_out, MARGIN_ROWS_MAX);
}

static void compare_named(struct watch *watch, const char *prefix, const char *name,
                          const struct sample *sample, uint32_t offset)
{
    char full[64];
    (void)snprintf(full, sizeof full, "%s%s", prefix, name);
    if (oracle_has(watch->file, full))
        compare(watch, full, sample, offset);
}

/* Everything of one block, in the order in which it is computed.  Rows whose choices differ are
 * left out of `sample` from there on. */
static void compare_block(struct watch *watch, const char *prefix, struct sample *sample)
{
    static const char *const early[] = {"q", "kv", "index_scores"};
    for (size_t i = 0; i < 3; i++)
        compare_named(watch, prefix, early[i], sample, 0);
    compare_named(watch, prefix, "compressed", NULL, 0);
    compare_named(watch, prefix, "index_keys", NULL, 0);
    char name[64];
    (void)snprintf(name, sizeof name, "%sindex_topk", prefix);
    if (oracle_has(watch->file, name))
        compare_choice(watch, prefix, "index_topk", "index_margin", INDEX_MARGIN, sample);
    compare_named(watch, prefix, "attn_out", sample, 0);
    compare_choice(watch, prefix, "experts", "expert_margin", EXPERT_MARGIN, sample);
    compare_named(watch, prefix, "expert_weights", sample, 0);
    compare_named(watch, prefix, "moe_out", sample, 0);
    compare_named(watch, prefix, "streams", sample, 0);
}

/* The draft behind the last of `count` tokens, which make.py computed the same way. */
static void run_draft(struct watch *watch, struct bed *bed, uint32_t count,
                      const struct eng_ref_hooks *hooks)
{
    struct fm_err err = {0};
    if (bed->hparams.draft_kind == ENG_DRAFT_DSPARK)
        ck_assert_int_eq(eng_ref_dspark(bed->model, bed->state, count - 1,
                                        oracle_id(count, bed->hparams.vocab_size), hooks, &err),
                         FM_OK);
    else if (oracle_has(watch->file, "mtp.logits"))
        ck_assert_int_eq(
            eng_ref_mtp(bed->model, bed->state, 0, bed->ids + 1, count - 1, hooks, &err), FM_OK);
}

static void compare_draft(struct watch *watch, struct bed *bed, uint32_t count,
                          struct sample sample)
{
    if (bed->hparams.draft_kind == ENG_DRAFT_DSPARK) {
        struct sample block = {.count = bed->hparams.dspark_block_size};
        for (uint32_t i = 0; i < block.count; i++)
            block.rows[i] = count + i;
        for (uint32_t s = 0; s < bed->hparams.draft_stage_count; s++) {
            char prefix[24];
            (void)snprintf(prefix, sizeof prefix, "mtp.%u.", s);
            compare_block(watch, prefix, &block);
        }
        compare(watch, "dspark.logits", NULL, 0);
        compare(watch, "dspark.confidence", NULL, 0);
        struct oracle_tensor tokens = oracle_tensor(watch->file, "dspark.tokens");
        for (uint32_t i = 0; i < tokens.rows; i++) {
            uint32_t cols;
            ck_assert((double)*oracle_row(&watch->run, "dspark.tokens", i, &cols) ==
                      oracle_value(&tokens, i, 0));
        }
    } else if (oracle_has(watch->file, "mtp.logits")) {
        while (sample.count > 0 && sample.rows[sample.count - 1] >= count - 1)
            sample.count--;
        compare(watch, "mtp.0.input", &sample, 0);
        compare_block(watch, "mtp.0.", &sample);
        compare(watch, "mtp.logits", &sample, 0);
    }
}

START_TEST(layers_agree_with_the_oracle)
{
    const struct test_case *test = &cases[_i];
    struct watch watch = {.file = test->file};
    struct eng_ref_hooks hooks = {watch_report, watch_inject, watch_inject_taps, &watch};
    struct fm_err err = {0};
    struct bed bed;
    struct oracle_tensor tokens = oracle_tensor(test->file, "tokens");
    struct oracle_tensor rows = oracle_tensor(test->file, "rows");
    uint32_t count = (uint32_t)oracle_value(&tokens, 0, 0);

    bed_open(&bed, test->variant, count + 8);
    watch.bed = &bed;
    watch.run.rows_max = count + 8;
    ck_assert_int_eq(eng_ref_forward(bed.model, bed.state, bed.ids, count, 0, &hooks, &err), FM_OK);
    run_draft(&watch, &bed, count, &hooks);

    struct sample sample = {.count = rows.rows};
    for (uint32_t i = 0; i < rows.rows; i++)
        sample.rows[i] = (uint32_t)oracle_value(&rows, i, 0);
    struct sample last = sample;
    for (uint32_t l = 0; l < bed.hparams.layer_count; l++) {
        char prefix[24];
        (void)snprintf(prefix, sizeof prefix, "layer.%u.", l);
        last = sample;
        compare_block(&watch, prefix, &last);
    }
    compare(&watch, "logits", &last, 0);
    compare_draft(&watch, &bed, count, sample);
    oracle_run_done(&watch.run);
    bed_close(&bed);
}
END_TEST

START_TEST(weights_dequantise_exactly)
{
    static const char *const names[] = {"layers.1.attn.wq_a", "layers.1.attn.wo_a",
                                        "layers.2.ffn.experts.3.w2", "layers.3.ffn.gate"};
    struct bed bed;
    bed_open(&bed, TEST_TINY_DEFAULT, 1);
    for (size_t n = 0; n < sizeof names / sizeof names[0]; n++) {
        char name[64];
        struct eng_linear linear;
        (void)snprintf(name, sizeof name, "weight.%s", names[n]);
        struct oracle_tensor want = oracle_tensor("default", name);
        ck_assert_int_eq(eng_weights_linear(bed.weights, names[n], &linear), FM_OK);
        struct eng_ref_weight weight = {.format = linear.format,
                                        .rows = linear.rows,
                                        .cols = linear.cols,
                                        .data = linear.weight->data,
                                        .scale = linear.scale ? linear.scale->data : NULL};
        ck_assert_uint_eq(want.rows, weight.rows);
        for (uint32_t r = 0; r < want.rows; r++)
            for (uint32_t c = 0; c < want.cols; c++)
                ck_assert((double)eng_ref_weight_value(&weight, r, c) == oracle_value(&want, r, c));
    }
    bed_close(&bed);
}
END_TEST

START_TEST(quantisers_agree_bit_for_bit)
{
    struct oracle_tensor x = oracle_tensor("quant", "x"),
                         codes = oracle_tensor("quant", "act_codes");
    struct oracle_tensor scales = oracle_tensor("quant", "act_scales");
    struct oracle_tensor fp8 = oracle_tensor("quant", "fp8_sim"),
                         fp4 = oracle_tensor("quant", "fp4_sim");
    struct oracle_tensor hadamard = oracle_tensor("quant", "hadamard");
    uint32_t unequal = 0;
    for (uint32_t r = 0; r < x.rows; r++) {
        uint16_t row[128], sim8[128], sim4[128], turned[128];
        uint8_t got[128];
        float scratch[128];
        for (uint32_t c = 0; c < 128; c++)
            sim8[c] = sim4[c] = turned[c] = row[c] = fm_bf16((float)oracle_value(&x, r, c));
        ck_assert_uint_eq(fm_act_quant(row, 128, got), (uint32_t)oracle_value(&scales, r, 0));
        fm_fp8_sim(sim8, 128);
        fm_fp4_sim(sim4, 128);
        fm_hadamard(turned, 128, scratch);
        for (uint32_t c = 0; c < 128; c++) {
            ck_assert_uint_eq(got[c], (uint32_t)oracle_value(&codes, r, c));
            ck_assert((double)fm_bf16_value(sim8[c]) == oracle_value(&fp8, r, c));
            ck_assert((double)fm_bf16_value(sim4[c]) == oracle_value(&fp4, r, c));
            unequal += (double)fm_bf16_value(turned[c]) != oracle_value(&hadamard, r, c);
        }
    }
    /* the transform is summed in fp32 here and in double there: 7 levels of 2^-24 against 2^-8 */
    ck_assert_uint_le(unequal, x.rows * 128 / 1000);
}
END_TEST

static void compare_runs(const struct oracle_run *a, const struct oracle_run *b, uint32_t first,
                         uint32_t end, const char *what, uint32_t split)
{
    for (uint32_t i = 0; i < b->count; i++) {
        const char *name = b->tensors[i].name;
        bool is_entry = strstr(name, ".compressed") != NULL || strstr(name, ".index_keys") != NULL;
        bool is_growing = strstr(name, "index_scores") != NULL;
        for (uint32_t r = is_entry ? 0 : first; r < (is_entry ? b->tensors[i].rows : end); r++) {
            uint32_t cols, other;
            const float *got = oracle_row(b, name, r, &cols),
                        *want = oracle_row(a, name, r, &other);
            ck_assert_ptr_nonnull(want);
            if (is_entry && got[0] == 0 && memcmp(got, got + 1, (cols - 1) * sizeof *got) == 0)
                continue; /* emitted before this run started */
            /* scores of entries that a row cannot see depend on the chunk */
            uint32_t used = is_growing ? (r + 1) / 4 : cols;
            ck_assert_msg(memcmp(got, want, used * sizeof *got) == 0,
                          "%s: %s row %u differs (split %u)", what, name, r, split);
        }
    }
}

/* The whole as one chunk; then, for each border, back to it and on in another chunk; then the same
 * tokens in odd chunks and one by one from the start. */
START_TEST(chunks_do_not_change_a_bit)
{
    enum { COUNT = 272, STEP = 6 };
    static const uint32_t splits[] = {256, 255, 129, 128, 127, 17, 16, 15, 5, 4, 3}; /* backwards */
    static const uint32_t odd[] = {1, 1, 1, 1, 2, 3, 5, 7, 33, 1, 11, 63, 3, 41, 99};
    struct bed bed, other;
    struct fm_err err = {0};
    struct watch whole = {.run = {.rows_max = COUNT + 8}};
    struct eng_ref_hooks hooks = {watch_report, NULL, NULL, &whole};
    bed_open(&bed, TEST_TINY_DEFAULT, COUNT);
    ck_assert_int_eq(eng_ref_forward(bed.model, bed.state, bed.ids, COUNT, 0, &hooks, &err), FM_OK);

    for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++) {
        struct watch part = {.run = {.rows_max = COUNT + 8}};
        hooks.context = &part;
        eng_ref_state_rewind(bed.state, splits[i]);
        ck_assert_int_eq(
            eng_ref_forward(bed.model, bed.state, bed.ids + splits[i], STEP, 0, &hooks, &err),
            FM_OK);
        compare_runs(&whole.run, &part.run, splits[i], splits[i] + STEP, "resumed", splits[i]);
        oracle_run_done(&part.run);
        ck_assert_uint_eq(eng_ref_state_length(bed.state), splits[i] + STEP);
    }

    struct watch chunks = {.run = {.rows_max = COUNT + 8}};
    hooks.context = &chunks;
    bed_open(&other, TEST_TINY_DEFAULT, COUNT);
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
        uint32_t at = eng_ref_state_length(other.state);
        ck_assert_int_eq(
            eng_ref_forward(other.model, other.state, other.ids + at, odd[i], 0, &hooks, &err),
            FM_OK);
    }
    ck_assert_uint_eq(eng_ref_state_length(other.state), COUNT);
    compare_runs(&whole.run, &chunks.run, 0, COUNT, "odd chunks", 0);
    oracle_run_done(&chunks.run);
    oracle_run_done(&whole.run);
    bed_close(&bed);
    bed_close(&other);
}
END_TEST

START_TEST(what_is_out_of_range_is_refused)
{
    struct bed bed;
    struct fm_err err = {0};
    bed_open(&bed, TEST_TINY_DEFAULT, 4);
    uint32_t bad = bed.hparams.vocab_size;
    ck_assert_int_eq(eng_ref_forward(bed.model, bed.state, &bad, 1, 0, NULL, &err), FM_INVALID);
    ck_assert_int_eq(eng_ref_forward(bed.model, bed.state, bed.ids, 5, 0, NULL, &err), FM_LIMIT);
    ck_assert_int_eq(eng_ref_forward(bed.model, bed.state, bed.ids, 4, 0, NULL, &err), FM_OK);
    ck_assert_int_eq(eng_ref_forward(bed.model, bed.state, bed.ids, 1, 0, NULL, &err), FM_LIMIT);
    ck_assert_int_eq(eng_ref_mtp(bed.model, bed.state, 0, &bad, 1, NULL, &err), FM_INVALID);
    bed_close(&bed);
}
END_TEST

/* Each allocation fails in turn (a spread of them: there are thousands); nothing leaks, the length
 * stays, and the next try gives the right bits. */
START_TEST(memory_that_is_short_is_an_answer)
{
    static const enum test_tiny_variant variants[] = {TEST_TINY_DEFAULT, TEST_TINY_DSPARK};
    struct bed bed;
    bed_open(&bed, variants[_i], 16);
    bool fired = true;
    for (uint64_t nth = 1; fired; nth += 1 + nth / 6) {
        struct eng_ref_model *model = NULL;
        struct eng_ref_state *state = NULL;
        struct fm_err err = {0};
        fm_fault_arm("alloc", nth);
        enum fm_status status = eng_ref_model_new(&bed.hparams, bed.weights, &model, &err);
        if (status == FM_OK)
            status = eng_ref_state_new(model, 16, &state, &err);
        if (status == FM_OK)
            status = eng_ref_forward(model, state, bed.ids, 5, 4, NULL, &err);
        uint32_t length = state != NULL ? eng_ref_state_length(state) : 0;
        if (status == FM_OK && bed.hparams.draft_kind == ENG_DRAFT_MTP)
            status = eng_ref_mtp(model, state, 0, bed.ids + 1, 4, NULL, &err);
        if (status == FM_OK && bed.hparams.draft_kind == ENG_DRAFT_DSPARK)
            status = eng_ref_dspark(model, state, 4, 7, NULL, &err);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert(length == 0 || length == 5);
        eng_ref_state_free(state);
        eng_ref_model_free(model);
    }
    bed_close(&bed);
}
END_TEST

/* Before the tests of a case, in the process that starts them: each finds the models made. */
static void models_make(void)
{
    for (size_t i = 0; i < CASE_COUNT; i++)
        (void)test_tiny_dir(cases[i].variant, ORACLE_MODEL_SEED);
}

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/ref/model");
    TCase *exact = tcase_create("exact"), *golden = tcase_create("golden");
    TCase *chunks = tcase_create("chunks");
    tcase_add_unchecked_fixture(exact, models_make, NULL);
    tcase_add_unchecked_fixture(golden, models_make, NULL);
    tcase_add_unchecked_fixture(chunks, models_make, NULL);
    tcase_set_timeout(golden, 280);
    tcase_set_timeout(chunks, 280);
    tcase_set_timeout(exact, 60);
    tcase_add_test(exact, weights_dequantise_exactly);
    tcase_add_test(exact, quantisers_agree_bit_for_bit);
    tcase_add_test(exact, what_is_out_of_range_is_refused);
    tcase_add_loop_test(exact, memory_that_is_short_is_an_answer, 0, 2);
    tcase_add_loop_test(golden, layers_agree_with_the_oracle, 0, CASE_COUNT);
    tcase_add_test(chunks, chunks_do_not_change_a_bit);
    suite_add_tcase(suite, exact);
    suite_add_tcase(suite, golden);
    suite_add_tcase(suite, chunks);
    return suite;
}
