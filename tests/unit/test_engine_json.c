/* test_engine_json.c - JSON text printed as the prompt format wants it. */
#include <string.h>

#include "backends/base/fault.h"
#include "backends/base/mem.h"
#include "engine/json.h"
#include "tests/support/support.h"

static struct eng_slice slice(const char *text)
{
    return (struct eng_slice){text, strlen(text)};
}

static void prints(const char *json, const char *want)
{
    struct fm_buf out;
    struct fm_err err = {0};
    fm_buf_init(&out, 4096);
    ck_assert_msg(eng_json_print(slice(json), &out, &err) == FM_OK, "%s: %s", json, err.text);
    ck_assert_str_eq(out.data, want);
    fm_buf_done(&out);
}

START_TEST(numbers_keep_their_digits_or_get_the_shortest)
{
    prints("0", "0");
    prints("-0", "0");
    prints("-7", "-7");
    prints("123456789012345678901234567890", "123456789012345678901234567890");
    prints("1.0", "1.0");
    prints("1e5", "100000.0");
    prints("1e15", "1000000000000000.0");
    prints("1e16", "1e+16");
    prints("1.5E+300", "1.5e+300");
    prints("0.0001", "0.0001");
    prints("0.00001", "1e-05");
    prints("1E-7", "1e-07");
    prints("-0.0", "-0.0");
    prints("5e-324", "5e-324");
    prints("0.1", "0.1");
    prints("0.30000000000000004", "0.30000000000000004");
    prints("3.14159265358979311600", "3.141592653589793");
    prints("9007199254740993.0", "9007199254740992.0");
    prints("1234.5678", "1234.5678");
    prints("1e-400", "0.0");
    struct fm_buf out;
    fm_buf_init(&out, 100);
    ck_assert_int_eq(eng_json_print(slice("[1, 1e400]"), &out, NULL), FM_INVALID);
    fm_buf_done(&out);
}
END_TEST

START_TEST(strings_have_the_escapes_they_need_and_no_others)
{
    prints("\"a\\/b\"", "\"a/b\"");
    prints("\"\\u0041\\u00e9\\ud83d\\ude42\"", "\"A\xc3\xa9\xf0\x9f\x99\x82\"");
    prints("\"\\u0022\\u005c\\u000A\\u0001\\u0000\\u001f\"",
           "\"\\\"\\\\\\n\\u0001\\u0000\\u001f\"");
    prints("\"\\b\\f\\n\\r\\t\"", "\"\\b\\f\\n\\r\\t\"");
    prints("\"\x7f\xe2\x80\xa8\"", "\"\x7f\xe2\x80\xa8\"");
    prints("\"\\ud83d\"", "\"\xef\xbf\xbd\"");
    prints("\"\\ude42x\"", "\"\xef\xbf\xbdx\"");
    prints("\"\\ud83d\\ud83d\\ude42\"", "\"\xef\xbf\xbd\xf0\x9f\x99\x82\"");
}
END_TEST

START_TEST(objects_keep_their_order_and_the_last_of_equal_keys)
{
    prints(" { \"b\" : [ 1 , 2,{ } ] ,\n\"a\":null , \"c\":[]} ",
           "{\"b\": [1, 2, {}], \"a\": null, \"c\": []}");
    prints("{\"a\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}");
    prints("{\"\\u0061\":1,\"b\":2,\"a\":3}", "{\"a\": 3, \"b\": 2}");
    prints("{\"x\":{\"k\":1,\"k\":{\"z\":true,\"z\":false}}}", "{\"x\": {\"k\": {\"z\": false}}}");
    prints("{\"\":1}", "{\"\": 1}");
}
END_TEST

START_TEST(what_is_not_json_is_refused)
{
    static const char *const texts[] = {
        "",    " ",         "NaN",     "{\"a\":Infinity}", "01",     "1.",      "+1",
        "'a'", "[1,]",      "{\"a\"}", "{\"a\":1,}",       "\"\n\"", "\"\\x\"", "[1] 2",
        "tru", "\"\\u12\"", "\xff",    "\"\xc0\x80\"",     "{1:2}",  "[",       "-",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct fm_buf out;
        struct fm_err err = {0};
        fm_buf_init(&out, 4096);
        ck_assert_msg(eng_json_print(slice(texts[i]), &out, &err) == FM_INVALID, "%s", texts[i]);
        ck_assert_int_eq(eng_json_type(slice(texts[i])), FM_JSON_NONE);
        fm_buf_done(&out);
    }
    ck_assert_int_eq(eng_json_type(slice(" {} ")), FM_JSON_OBJECT);
    ck_assert_int_eq(eng_json_type(slice("[1]")), FM_JSON_ARRAY);
    ck_assert_int_eq(eng_json_type(slice("true")), FM_JSON_TRUE);
}
END_TEST

START_TEST(values_are_found_in_their_text)
{
    struct eng_slice json = slice("{\"a\": [10, {\"x\":1} , \"s\"], \"b\":1.0, \"b\" :\"z\"}");
    struct eng_slice list = eng_json_member(json, "a");
    ck_assert_uint_eq(list.length, strlen("[10, {\"x\":1} , \"s\"]"));
    struct eng_slice item = eng_json_item(list, 1);
    ck_assert_uint_eq(item.length, 7);
    ck_assert_mem_eq(item.data, "{\"x\":1}", 7);
    ck_assert_mem_eq(eng_json_member(json, "b").data, "\"z\"", 3);
    ck_assert_ptr_null(eng_json_member(json, "c").data);
    ck_assert_ptr_null(eng_json_member(list, "a").data);
    ck_assert_ptr_null(eng_json_item(list, 3).data);
    ck_assert_ptr_null(eng_json_item(json, 0).data);
}
END_TEST

START_TEST(printing_survives_a_full_buffer_and_every_alloc_failure)
{
    struct eng_slice json = slice("{\"\\u0061\":[1.5,{\"b\":\"c\"}],\"d\":2}");
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct fm_buf out;
        fm_buf_init(&out, 4096);
        fm_fault_arm("alloc", nth);
        enum fm_status status = eng_json_print(json, &out, NULL);
        fired = fm_fault_disarm("alloc");
        if (fired)
            ck_assert(status == FM_NOMEM || status == FM_LIMIT);
        else
            ck_assert_int_eq(status, FM_OK);
        fm_buf_done(&out);
    }
    for (size_t max = 0; max < 32; max++) {
        struct fm_buf out;
        fm_buf_init(&out, max);
        ck_assert_int_eq(eng_json_print(json, &out, NULL), FM_LIMIT);
        fm_buf_done(&out);
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine/json");
    TCase *cases = tcase_create("json");
    tcase_add_test(cases, numbers_keep_their_digits_or_get_the_shortest);
    tcase_add_test(cases, strings_have_the_escapes_they_need_and_no_others);
    tcase_add_test(cases, objects_keep_their_order_and_the_last_of_equal_keys);
    tcase_add_test(cases, what_is_not_json_is_refused);
    tcase_add_test(cases, values_are_found_in_their_text);
    tcase_add_test(cases, printing_survives_a_full_buffer_and_every_alloc_failure);
    suite_add_tcase(suite, cases);
    return suite;
}
