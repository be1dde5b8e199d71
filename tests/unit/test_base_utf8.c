/* test_base_utf8.c - which byte strings are UTF-8. */
#include <string.h>

#include "backends/base/utf8.h"
#include "tests/support/support.h"

START_TEST(every_code_point_survives_and_nothing_else)
{
    for (uint32_t code = 0; code <= 0x10ffff; code++) {
        char bytes[4];
        if (code >= 0xd800 && code <= 0xdfff)
            continue;
        size_t length = fm_utf8_put(code, bytes);
        ck_assert_uint_eq(fm_utf8_valid(bytes, length), length);
        if (length > 1)
            ck_assert_uint_eq(fm_utf8_valid(bytes, length - 1), 0);
    }
}
END_TEST

START_TEST(ill_formed_text_is_found_where_it_starts)
{
    static const struct {
        const char *text;
        size_t valid;
    } rows[] = {
        {"\xc0\x80", 0},
        {"\xc1\xbf", 0},
        {"\xe0\x9f\xbf", 0},
        {"\xed\xa0\x80", 0},
        {"\xf0\x8f\xbf\xbf", 0},
        {"\xf4\x90\x80\x80", 0},
        {"\xf5\x80\x80\x80", 0},
        {"\xff", 0},
        {"\x80", 0},
        {"12345678\x80", 8},
        {"1234567\xc3\xa9\xc3", 9},
        {"\xe2\x82\xac\xe2\x82", 3},
        {"abc\xf0\x9f\x99 89abcdefgh", 3},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        ck_assert_uint_eq(fm_utf8_valid(rows[i].text, strlen(rows[i].text)), rows[i].valid);
    ck_assert_uint_eq(fm_utf8_valid(NULL, 0), 0);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("base/utf8");
    TCase *cases = tcase_create("utf8");
    tcase_add_test(cases, every_code_point_survives_and_nothing_else);
    tcase_add_test(cases, ill_formed_text_is_found_where_it_starts);
    suite_add_tcase(suite, cases);
    return suite;
}
