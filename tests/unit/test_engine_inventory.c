/* The list of tensors against the counts and sizes of the released checkpoints. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "engine/inventory.h"
#include "tests/support/support.h"

struct sums {
    const struct eng_hparams *hparams;
    uint64_t tensors, bytes;
    uint32_t stop_after; /* 0: never */
};

/* Count an item with its scale, in the released types. */
static enum fm_status item_sum(void *context, const struct eng_inventory_item *item,
                               struct fm_err *err)
{
    struct sums *sums = context;
    uint64_t rows = item->dims[0], cols = item->rank == 1 ? 1 : item->dims[1];
    ck_assert_uint_gt(rows, 0);
    ck_assert_uint_gt(cols, 0);
    ck_assert_msg(strncmp(item->name, "layers.", 7) == 0 || strncmp(item->name, "mtp.", 4) == 0 ||
                      strchr(item->name, '.') == strrchr(item->name, '.'),
                  "%s", item->name);
    sums->tensors++;
    switch (item->role) {
    case ENG_ROLE_BF16: sums->bytes += 2 * rows * cols; break;
    case ENG_ROLE_F32: sums->bytes += 4 * rows * cols; break;
    case ENG_ROLE_EXPERT_IDS: sums->bytes += 8 * rows * cols; break;
    case ENG_ROLE_LINEAR:
    case ENG_ROLE_LINEAR_OUT:
        sums->tensors++;
        sums->bytes += rows * cols + fm_div_ceil(rows, 128) * fm_div_ceil(cols, 128);
        break;
    case ENG_ROLE_EXPERT:
        sums->tensors++;
        sums->bytes += rows * cols / 2 + rows * cols / 32;
        break;
    case ENG_ROLE_NONE:
    case ENG_ROLE_SCALE: ck_abort_msg("%s", item->name);
    }
    if (sums->tensors == sums->stop_after)
        return FM_FAIL(err, FM_CANCELED, "enough");
    return FM_OK;
}

static struct eng_hparams flash(void)
{
    struct eng_hparams hparams = {
        .vocab_size = 129280,
        .dim = 4096,
        .layer_count = 43,
        .hc_streams = 4,
        .head_count = 64,
        .head_dim = 512,
        .rope_dim = 64,
        .q_rank = 1024,
        .out_groups = 8,
        .out_rank = 1024,
        .window = 128,
        .index_heads = 64,
        .index_dim = 128,
        .index_topk = 512,
        .expert_count = 256,
        .experts_per_token = 6,
        .expert_dim = 2048,
        .hash_layer_count = 3,
        .linear_format = ENG_FORMAT_FP8,
        .expert_format = ENG_FORMAT_FP4,
        .draft_kind = ENG_DRAFT_MTP,
        .draft_stage_count = 1,
    };
    for (uint32_t i = 2; i < 43; i++)
        hparams.compress_ratio[i] = i % 2 == 0 ? 4 : 128;
    return hparams;
}

static struct eng_hparams pro(void)
{
    struct eng_hparams hparams = flash();
    hparams.dim = 7168;
    hparams.layer_count = 61;
    hparams.head_count = 128;
    hparams.q_rank = 1536;
    hparams.out_groups = 16;
    hparams.expert_count = 384;
    hparams.expert_dim = 3072;
    for (uint32_t i = 0; i < 61; i++)
        hparams.compress_ratio[i] = i < 2 || i % 2 != 0 ? 128 : 4;
    return hparams;
}

static void dspark_set(struct eng_hparams *hparams, uint32_t rank)
{
    hparams->draft_kind = ENG_DRAFT_DSPARK;
    hparams->draft_stage_count = 3;
    hparams->dspark_block_size = 5;
    hparams->dspark_target_count = 3;
    hparams->dspark_markov_rank = rank;
}

static struct sums sum(const struct eng_hparams *hparams)
{
    struct sums sums = {.hparams = hparams};
    ck_assert_int_eq(eng_inventory_visit(hparams, item_sum, &sums, NULL), FM_OK);
    return sums;
}

/* 69,187 tensors and 159,609,485,896 bytes stand in the index of the April Flash checkpoint. */
START_TEST(flash_has_the_tensors_of_its_index)
{
    struct eng_hparams hparams = flash();
    struct sums sums = sum(&hparams);
    ck_assert_uint_eq(sums.tensors, 69187);
    ck_assert_uint_eq(sums.bytes, UINT64_C(159609485896));

    hparams.draft_kind = ENG_DRAFT_NONE;
    hparams.draft_stage_count = 0;
    ck_assert_uint_eq(sum(&hparams).tensors, 67612);
}
END_TEST

/* And 45,821 and 107,803,320,952 in that of a DSpark one of which 160 experts were kept. */
START_TEST(a_dspark_checkpoint_has_the_tensors_of_its_index)
{
    struct eng_hparams hparams = flash();
    dspark_set(&hparams, 256);
    ck_assert_uint_eq(sum(&hparams).tensors, 45821 + 96 * 6 * 46); /* 96 experts, 46 blocks */
    hparams.expert_count = 160;
    struct sums sums = sum(&hparams);
    ck_assert_uint_eq(sums.tensors, 45821);
    ck_assert_uint_eq(sums.bytes, UINT64_C(107803320952));
}
END_TEST

/* Computed from the configuration and the code: 864.705 GB with MTP, 892.728 GB with DSpark. */
START_TEST(pro_has_the_tensors_of_its_configuration)
{
    struct eng_hparams hparams = pro();
    struct sums sums = sum(&hparams);
    ck_assert_uint_eq(sums.tensors, 145116);
    ck_assert_uint_eq((sums.bytes + 500000) / 1000000, 864705);
    dspark_set(&hparams, 512);
    ck_assert_uint_eq((sum(&hparams).bytes + 500000) / 1000000, 892728);
}
END_TEST

START_TEST(a_visitor_that_fails_ends_the_visit)
{
    static const uint32_t stops[] = {1, 2, 9, 69187}; /* embedding, a norm, a sink, the last */
    struct eng_hparams hparams = flash();
    for (size_t i = 0; i < FM_COUNT(stops); i++) {
        struct sums sums = {.hparams = &hparams, .stop_after = stops[i]};
        struct fm_err err = {0};
        ck_assert_int_eq(eng_inventory_visit(&hparams, item_sum, &sums, &err), FM_CANCELED);
        ck_assert_uint_eq(sums.tensors, stops[i]);
        ck_assert_str_eq(err.text, "enough");
    }
}
END_TEST

START_TEST(formats_follow_the_role)
{
    struct eng_hparams hparams = flash();
    ck_assert_int_eq(eng_inventory_format(&hparams, ENG_ROLE_LINEAR), ENG_FORMAT_FP8);
    ck_assert_int_eq(eng_inventory_format(&hparams, ENG_ROLE_LINEAR_OUT), ENG_FORMAT_FP8);
    ck_assert_int_eq(eng_inventory_format(&hparams, ENG_ROLE_EXPERT), ENG_FORMAT_FP4);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine_inventory");
    TCase *tcase = tcase_create("inventory");
    tcase_add_test(tcase, flash_has_the_tensors_of_its_index);
    tcase_add_test(tcase, a_dspark_checkpoint_has_the_tensors_of_its_index);
    tcase_add_test(tcase, pro_has_the_tensors_of_its_configuration);
    tcase_add_test(tcase, a_visitor_that_fails_ends_the_visit);
    tcase_add_test(tcase, formats_follow_the_role);
    suite_add_tcase(suite, tcase);
    return suite;
}
