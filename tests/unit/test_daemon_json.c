/* test_daemon_json.c - JSON text as it is written. */
#include "daemon/json.h"

#include <math.h>
#include <string.h>

#include "tests/support/support.h"

static struct fm_buf out;

static void setup(void)
{
    fm_buf_init(&out, 4096);
}

static void teardown(void)
{
    fm_buf_done(&out);
}

static const char *string(const char *text, size_t length)
{
    fm_buf_clear(&out);
    srv_json_string(&out, text, length);
    return out.data;
}

START_TEST(quotes_backslashes_and_control_characters_are_escaped)
{
    ck_assert_str_eq(string("a\"b\\c", 5), "\"a\\\"b\\\\c\"");
    ck_assert_str_eq(string("\b\t\n\f\r", 5), "\"\\b\\t\\n\\f\\r\"");
    ck_assert_str_eq(string("\x00\x01\x1f", 3), "\"\\u0000\\u0001\\u001f\"");
}
END_TEST

START_TEST(line_separators_of_other_languages_are_escaped)
{
    ck_assert_str_eq(string("a\x7f\xc2\x85\xe2\x80\xa8\xe2\x80\xa9z", 11),
                     "\"a\\u007f\\u0085\\u2028\\u2029z\"");
}
END_TEST

START_TEST(all_other_characters_go_out_as_they_are)
{
    const char *text = "\xc2\x84\xc2\xa9 \xe2\x80\xa7\xe2\x82\xac \xe4\xb8\xad \xf0\x9f\x98\x80/";
    char wanted[64] = "\"";
    memcpy(wanted + 1, text, strlen(text));
    wanted[1 + strlen(text)] = '"';
    ck_assert_str_eq(string(text, strlen(text)), wanted);
    ck_assert_str_eq(string("", 0), "\"\"");
    ck_assert_str_eq(string(NULL, 0), "\"\"");
}
END_TEST

START_TEST(a_string_can_be_written_in_parts)
{
    fm_buf_clear(&out);
    srv_json_escaped(&out, "a\n", 2);
    srv_json_escaped(&out, "b", 1);
    ck_assert_str_eq(out.data, "a\\nb");
    fm_buf_clear(&out);
    srv_json_text(&out, NULL);
    ck_assert_str_eq(out.data, "null");
}
END_TEST

static const char *logprob(float value)
{
    fm_buf_clear(&out);
    srv_json_logprob(&out, value);
    return out.data;
}

START_TEST(log_probabilities_have_nine_digits_and_are_finite)
{
    ck_assert_str_eq(logprob(-0.25f), "-0.25");
    ck_assert_str_eq(logprob(0), "0.0");
    ck_assert_str_eq(logprob(-3), "-3.0");
    ck_assert_str_eq(logprob(-1.23456789f), "-1.23456788");
    ck_assert_str_eq(logprob(-INFINITY), "-9999.0");
    ck_assert_str_eq(logprob(NAN), "-9999.0");
    ck_assert_str_eq(logprob(-1e30f), "-9999.0");
    ck_assert_str_eq(logprob(-1e-9f), "-9.99999972e-10");
}
END_TEST

START_TEST(numbers_have_all_their_digits)
{
    fm_buf_clear(&out);
    srv_json_u64(&out, 0);
    fm_buf_putc(&out, ' ');
    srv_json_u64(&out, UINT64_MAX);
    ck_assert_str_eq(out.data, "0 18446744073709551615");
}
END_TEST

START_TEST(a_buffer_that_is_full_says_so)
{
    struct fm_buf small;
    fm_buf_init(&small, 8);
    srv_json_string(&small, "0123456789", 10);
    ck_assert(small.is_broken);
    fm_buf_done(&small);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon/json");
    TCase *tcase = tcase_create("writing");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, quotes_backslashes_and_control_characters_are_escaped);
    tcase_add_test(tcase, line_separators_of_other_languages_are_escaped);
    tcase_add_test(tcase, all_other_characters_go_out_as_they_are);
    tcase_add_test(tcase, a_string_can_be_written_in_parts);
    tcase_add_test(tcase, log_probabilities_have_nine_digits_and_are_finite);
    tcase_add_test(tcase, numbers_have_all_their_digits);
    tcase_add_test(tcase, a_buffer_that_is_full_says_so);
    suite_add_tcase(suite, tcase);
    return suite;
}
