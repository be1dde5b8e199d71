/* Forbidden values: each one is found wherever it stands, and nothing else is. */
#include <math.h>
#include <string.h>

#include "backends/base/assert.h"
#include "engine/values.h"
#include "tests/support/support.h"

/* Long enough for several blocks of the search, and not a multiple of one. */
enum { COUNT = 3 * 4096 + 77 };

static unsigned char memory[8 * COUNT + 1];
static uint64_t found;
static char text[ENG_VALUE_TEXT_BYTES];

static bool bad(enum eng_dtype dtype, bool is_scale, uint64_t limit, size_t bytes)
{
    found = UINT64_MAX;
    /* One byte off: tensors lie at any address. */
    return eng_values_bad(dtype, is_scale, limit, memory + 1, bytes, &found, text);
}

START_TEST(every_code_of_one_byte_is_judged)
{
    for (unsigned code = 0; code < 256; code++) {
        memory[1] = (unsigned char)code;
        ck_assert_int_eq(bad(ENG_DTYPE_F8_E4M3, false, 0, 1), code == 0x7f || code == 0xff);
        ck_assert_int_eq(bad(ENG_DTYPE_F8_E8M0, true, 0, 1), code == 0 || code == 255);
        ck_assert(!bad(ENG_DTYPE_I8, false, 0, 1));
        ck_assert(!bad(ENG_DTYPE_OTHER, false, 0, 1));
    }
}
END_TEST

START_TEST(every_code_of_bf16_is_judged)
{
    for (uint32_t code = 0; code < 65536; code++) {
        uint16_t element = (uint16_t)code;
        memcpy(memory + 1, &element, 2);
        ck_assert_int_eq(bad(ENG_DTYPE_BF16, false, 0, 2), (code >> 7 & 255) == 255);
    }
}
END_TEST

START_TEST(numbers_of_four_bytes_are_judged)
{
    static const struct {
        float value;
        bool is_bad, is_bad_scale;
    } cases[] = {
        {0, false, true},         {-0.0f, false, true},      {1, false, false},
        {-1, false, true},        {0x1p-126f, false, false}, {0x1p-127f, false, true},
        {0x1p127f, false, false}, {INFINITY, true, true},    {-INFINITY, true, true},
        {NAN, true, true},        {3.4e38f, false, false},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        memcpy(memory + 1, &cases[i].value, 4);
        ck_assert_int_eq(bad(ENG_DTYPE_F32, false, 0, 4), cases[i].is_bad);
        ck_assert_int_eq(bad(ENG_DTYPE_F32, true, 0, 4), cases[i].is_bad_scale);
    }
}
END_TEST

START_TEST(whole_numbers_stay_below_their_limit)
{
    static const struct {
        int64_t value;
        bool is_bad;
    } cases[] = {{0, false},
                 {7, false},
                 {8, true},
                 {-1, true},
                 {INT64_MAX, true},
                 {INT64_MIN, true},
                 {INT64_C(1) << 32, true}};
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        memcpy(memory + 1, &cases[i].value, 8);
        ck_assert_int_eq(bad(ENG_DTYPE_I64, false, 8, 8), cases[i].is_bad);
    }
}
END_TEST

START_TEST(the_place_is_told)
{
    static const uint64_t places[] = {0, 1, 4095, 4096, 4097, 8191, 3 * 4096, COUNT - 1};
    for (size_t i = 0; i < FM_COUNT(places); i++) {
        uint64_t place = places[i];
        static const float nan_value = NAN;
        int64_t large = 99;
        memset(memory, 1, sizeof memory);
        ck_assert(!bad(ENG_DTYPE_F8_E4M3, false, 0, COUNT));
        memory[1 + place] = 0xff;
        ck_assert(bad(ENG_DTYPE_F8_E4M3, false, 0, COUNT));
        ck_assert_uint_eq(found, place);
        ck_assert_str_eq(text, "code 0xff, not a number");
        ck_assert(bad(ENG_DTYPE_F8_E8M0, true, 0, COUNT));
        ck_assert_uint_eq(found, place);
        memory[1 + place] = 0;
        ck_assert(bad(ENG_DTYPE_F8_E8M0, true, 0, COUNT));
        ck_assert_str_eq(text, "code 0x00, a scale below 2^-126");

        memset(memory, 1, sizeof memory);
        memcpy(memory + 1 + 4 * place, &nan_value, 4);
        ck_assert(bad(ENG_DTYPE_F32, false, 0, 4 * COUNT));
        ck_assert_uint_eq(found, place);
        ck_assert(bad(ENG_DTYPE_F32, true, 0, 4 * COUNT));
        ck_assert_uint_eq(found, place);

        memset(memory, 1, sizeof memory);
        memory[1 + 2 * place + 1] = 0x7f;
        memory[1 + 2 * place] = 0x80;
        ck_assert(bad(ENG_DTYPE_BF16, false, 0, 2 * COUNT));
        ck_assert_uint_eq(found, place);
        ck_assert_str_eq(text, "inf");

        memset(memory, 0, sizeof memory);
        memcpy(memory + 1 + 8 * place, &large, 8);
        ck_assert(bad(ENG_DTYPE_I64, false, 8, 8 * COUNT));
        ck_assert_uint_eq(found, place);
        ck_assert_str_eq(text, "99");
    }
}
END_TEST

START_TEST(nothing_holds_nothing_bad)
{
    for (int dtype = 0; dtype <= ENG_DTYPE_OTHER; dtype++)
        ck_assert(!bad((enum eng_dtype)dtype, true, 0, 0));
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine_values");
    TCase *tcase = tcase_create("values");
    tcase_add_test(tcase, every_code_of_one_byte_is_judged);
    tcase_add_test(tcase, every_code_of_bf16_is_judged);
    tcase_add_test(tcase, numbers_of_four_bytes_are_judged);
    tcase_add_test(tcase, whole_numbers_stay_below_their_limit);
    tcase_add_test(tcase, the_place_is_told);
    tcase_add_test(tcase, nothing_holds_nothing_bad);
    suite_add_tcase(suite, tcase);
    return suite;
}
