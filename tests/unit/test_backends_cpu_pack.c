/* Panels hold every element of the checkpoint once, and padding that computes zeros. */
#include <string.h>

#include "backends/base/fault.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"
#include "backends/cpu/kern.h"
#include "backends/cpu/pack.h"
#include "tests/support/support.h"

enum { WEIGHTS = 6 };

static const struct be_weight weights[WEIGHTS] = {
    {0},
    {.name = "fp4",
     .format = BE_FORMAT_FP4,
     .scale_format = BE_SCALE_UE8M0,
     .rows = 70,
     .cols = 256},
    {.name = "fp8",
     .format = BE_FORMAT_FP8,
     .scale_format = BE_SCALE_F32,
     .rows = 130,
     .cols = 128},
    {.name = "bf16", .format = BE_FORMAT_BF16, .rows = 9, .cols = 40},
    {.name = "vector", .format = BE_FORMAT_BF16, .rows = 1, .cols = 33},
    {.name = "table", .format = BE_FORMAT_I64, .rows = 3, .cols = 2},
};
static const struct be_model model = {
    .shape = {.expert_count = 8}, .weights = weights, .weight_count = WEIGHTS};

/* Byte `at` of a part, whatever the format. */
static uint8_t byte_of(be_weight_id weight, enum be_part part, uint64_t at)
{
    if (weight == 5)
        return at % 8 == 0 ? (uint8_t)(at / 8 % 8) : 0;
    return (uint8_t)(1 + fm_prng_u64(weight, part, at) % 100);
}

static bool is_broken;

static enum fm_status read_rows(void *context, be_weight_id weight, enum be_part part,
                                uint32_t row_first, uint32_t row_count, void *target,
                                struct fm_err *err)
{
    (void)context;
    uint64_t bytes = be_weight_row_bytes(&weights[weight], part);
    ck_assert_uint_le(row_first + row_count, be_weight_part_rows(&weights[weight], part));
    for (uint64_t i = 0; i < row_count * bytes; i++)
        ((uint8_t *)target)[i] = byte_of(weight, part, row_first * bytes + i);
    (void)err;
    if (is_broken && weight == 5)
        ((uint8_t *)target)[0] = 8;
    return FM_OK;
}

static const struct be_reader reader = {.read = read_rows};

START_TEST(every_element_has_its_place)
{
    struct cpu_pack pack = {0};
    struct fm_err err;
    ck_assert_int_eq(cpu_pack_load(&model, &reader, &pack, &err), FM_OK);
    const struct cpu_weight *fp4 = &pack.weights[1], *fp8 = &pack.weights[2];
    ck_assert_uint_eq(cpu_weight_panels(fp4), 2);
    ck_assert_uint_eq(cpu_weight_groups(fp4, 0), 4);
    ck_assert_uint_eq(cpu_weight_groups(fp4, 1), 1); /* six rows and ten of padding */
    for (uint32_t r = 0; r < 80; r++)
        for (uint32_t c = 0; c < 256; c++) {
            uint32_t groups = r < 64 ? 4 : 1, in = r % 64;
            const uint8_t *block =
                cpu_weight_panel(fp4, r / 64) + c / 32 * groups * KERN_FP4_BLOCK_BYTES;
            uint8_t code = block[c % 32 / 8 * groups * 64 + in * 4 + c % 8 / 2] >> c % 2 * 4 & 15;
            uint8_t scale = block[256 * groups + in];
            bool is_real = r < 70;
            uint8_t wanted =
                is_real ? byte_of(1, BE_PART_DATA, r * 128 + c / 2) >> c % 2 * 4 & 15 : 0;
            if (code != wanted ||
                scale != (is_real ? byte_of(1, BE_PART_SCALE, r * 8 + c / 32) : 127))
                ck_abort_msg("fp4 row %u column %u: code %u scale %u", r, c, code, scale);
        }
    for (uint32_t r = 0; r < 130; r++)
        for (uint32_t c = 0; c < 128; c++) {
            uint32_t groups = cpu_weight_groups(fp8, r / 64);
            uint8_t code = cpu_weight_panel(fp8, r / 64)[c * groups * 16 + r % 64];
            if (code != byte_of(2, BE_PART_DATA, r * 128 + c))
                ck_abort_msg("fp8 row %u column %u: %u", r, c, code);
        }
    ck_assert_ptr_eq(cpu_weight_scales(fp8, 1), cpu_weight_scales(fp8, 0));
    ck_assert_uint_eq(((const uint8_t *)cpu_weight_scales(fp8, 2))[0],
                      byte_of(2, BE_PART_SCALE, 4));
    cpu_pack_free(&pack);
}
END_TEST

START_TEST(rows_of_a_panel_can_be_looked_up)
{
    struct cpu_pack pack = {0};
    struct fm_err err;
    uint16_t row[64];
    ck_assert_int_eq(cpu_pack_load(&model, &reader, &pack, &err), FM_OK);
    for (uint32_t r = 0; r < 9; r++) {
        cpu_weight_row(&pack.weights[3], r, row);
        for (uint32_t i = 0; i < 80; i++)
            ck_assert_uint_eq(((uint8_t *)row)[i], byte_of(3, BE_PART_DATA, r * 80 + i));
    }
    ck_assert(!pack.weights[4].is_paneled);
    int32_t ids[6];
    memcpy(ids, pack.weights[5].data, sizeof ids);
    for (int32_t i = 0; i < 6; i++)
        ck_assert_int_eq(ids[i], i);
    cpu_pack_free(&pack);
}
END_TEST

START_TEST(an_expert_that_does_not_exist_is_corrupt)
{
    struct cpu_pack pack = {0};
    struct fm_err err;
    is_broken = true;
    ck_assert_int_eq(cpu_pack_load(&model, &reader, &pack, &err), FM_CORRUPT);
    ck_assert_ptr_nonnull(strstr(err.text, "table"));
    ck_assert_ptr_null(pack.weights);
}
END_TEST

START_TEST(load_survives_every_alloc_failure)
{
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct cpu_pack pack = {0};
        struct fm_err err = {0};
        fm_fault_arm("alloc", nth);
        enum fm_status status = cpu_pack_load(&model, &reader, &pack, &err);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        ck_assert((pack.weights != NULL) == (status == FM_OK));
        cpu_pack_free(&pack);
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backends/cpu/pack");
    TCase *tcase = tcase_create("pack");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, every_element_has_its_place);
    tcase_add_test(tcase, rows_of_a_panel_can_be_looked_up);
    tcase_add_test(tcase, an_expert_that_does_not_exist_is_corrupt);
    tcase_add_test(tcase, load_survives_every_alloc_failure);
    suite_add_tcase(suite, tcase);
    return suite;
}
