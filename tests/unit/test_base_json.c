/* The JSON reader: what it takes, what it refuses, and that an error sticks. */
#include <inttypes.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/json.h"
#include "tests/support/support.h"

static enum fm_status skip_all(const char *text, size_t bytes, struct fm_err *err)
{
    struct fm_json json;
    fm_json_init(&json, text, bytes);
    (void)fm_json_skip(&json);
    return fm_json_end(&json, err);
}

START_TEST(sound_texts_are_taken)
{
    static const char *const texts[] = {
        "null",
        "true",
        "false",
        "0",
        "-0",
        "12",
        "-3.25e-7",
        "1E+9",
        "\"\"",
        "[]",
        "{}",
        " [ ] ",
        "[1,[2,{\"a\":[]}],\"x\"]",
        "{\"a\":1,\"b\":{\"a\":2}}",
        "\"\\u00e9\\\"\\\\\\/\\n\"",
        "\"\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x90\x8b\"",
        "\t{\"k\"\n:\r[ 1 , 2 ]}\n",
    };
    for (size_t i = 0; i < FM_COUNT(texts); i++) {
        struct fm_err err = {0};
        ck_assert_msg(skip_all(texts[i], strlen(texts[i]), &err) == FM_OK, "%s: %s", texts[i],
                      err.text);
    }
}
END_TEST

START_TEST(broken_texts_are_refused_with_the_place)
{
    static const struct {
        const char *text;
        size_t problem_at;
    } cases[] = {
        {"", 0},
        {"nul", 0},
        {"01", 1},
        {"-", 1},
        {"1.", 2},
        {"1e", 2},
        {"+1", 0},
        {".5", 0},
        {"[1,]", 3},
        {"[,1]", 1},
        {"[1 2]", 3},
        {"{\"a\" 1}", 5},
        {"{\"a\":}", 5},
        {"{\"a\":1,}", 7},
        {"{a:1}", 1},
        {"[1", 2},
        {"{\"a\":1", 6},
        {"\"a", 2},
        {"\"\n\"", 1},
        {"\"\\x\"", 1},
        {"\"\\u12g4\"", 1},
        {"\"\\", 1},
        {"1 1", 2},
        {"{} x", 3},
        {"\"\xc0\x80\"", 1},
        {"\"\xed\xa0\x80\"", 1},
        {"\"\xf4\x90\x80\x80\"", 1},
        {"\"\xff\"", 1},
        {"\"\xc3\"", 1},
        {"NaN", 0},
        {"[1}", 2},
        {"\"\xe0\x80\x80\"", 1},
        {"\"\xf0\x80\x80\x80\"", 1},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        struct fm_json json;
        struct fm_err err = {0};
        fm_json_init(&json, cases[i].text, strlen(cases[i].text));
        (void)fm_json_skip(&json);
        ck_assert_msg(fm_json_end(&json, &err) == FM_CORRUPT, "taken: %s", cases[i].text);
        ck_assert_msg(json.problem_at == cases[i].problem_at, "%s: %s", cases[i].text, err.text);
    }
}
END_TEST

START_TEST(every_cut_of_a_text_is_refused)
{
    static const char text[] = "{\"a\":[1,-2.5e3,true,null,\"x\\u0041\xc3\xa9\"],\"b\":{}}";
    for (size_t bytes = 0; bytes < sizeof text - 1; bytes++)
        ck_assert_int_eq(skip_all(text, bytes, NULL), FM_CORRUPT);
    ck_assert_int_eq(skip_all(text, sizeof text - 1, NULL), FM_OK);
}
END_TEST

START_TEST(nesting_has_a_bound)
{
    char text[2 * FM_JSON_DEPTH_MAX + 2];
    memset(text, '[', FM_JSON_DEPTH_MAX + 1);
    memset(text + FM_JSON_DEPTH_MAX + 1, ']', FM_JSON_DEPTH_MAX + 1);
    ck_assert_int_eq(skip_all(text, sizeof text, NULL), FM_CORRUPT);
    ck_assert_int_eq(skip_all(text + 1, sizeof text - 2, NULL), FM_OK);
}
END_TEST

START_TEST(members_and_elements_come_in_order)
{
    static const char text[] = "{\"n\":[3,4],\"s\":\"t\",\"f\":false,\"x\":{\"y\":[{}]}}";
    struct fm_json json;
    struct fm_json_text key, value;
    uint64_t number = 0, sum = 0;
    bool flag = true;
    uint32_t seen = 0;

    fm_json_init(&json, text, sizeof text - 1);
    ck_assert(fm_json_object_open(&json));
    while (fm_json_member(&json, &key)) {
        if (fm_json_text_is(key, "n")) {
            ck_assert(fm_json_array_open(&json));
            while (fm_json_element(&json) && fm_json_u64(&json, 9, &number))
                sum = sum * 10 + number;
            seen |= 1;
        } else if (fm_json_text_is(key, "s")) {
            ck_assert(fm_json_string(&json, &value));
            ck_assert(fm_json_text_is(value, "t"));
            seen |= 2;
        } else if (fm_json_text_is(key, "f")) {
            ck_assert(fm_json_bool(&json, &flag));
            seen |= 4;
        } else {
            ck_assert(fm_json_raw(&json, &value));
            ck_assert_uint_eq(value.bytes, strlen("{\"y\":[{}]}"));
            ck_assert_int_eq(memcmp(value.data, "{\"y\":[{}]}", value.bytes), 0);
            seen |= 8;
        }
    }
    ck_assert_int_eq(fm_json_end(&json, NULL), FM_OK);
    ck_assert_uint_eq(sum, 34);
    ck_assert(!flag);
    ck_assert_uint_eq(seen, 15);
}
END_TEST

START_TEST(whole_numbers_keep_every_digit_and_their_bound)
{
    static const struct {
        const char *text;
        uint64_t max;
        bool is_taken;
        uint64_t value;
    } cases[] = {
        {"0", 0, true, 0},
        {"18446744073709551615", UINT64_MAX, true, UINT64_MAX},
        {"18446744073709551616", UINT64_MAX, false, 0},
        {"9007199254740993", UINT64_MAX, true, UINT64_C(9007199254740993)},
        {"3.0", 10, true, 3},
        {"3e2", 1000, true, 300},
        {"3.5", 10, false, 0},
        {"1e300", UINT64_MAX, false, 0},
        {"-1", 10, false, 0},
        {"11", 10, false, 0},
        {"\"3\"", 10, false, 0},
        {"true", 10, false, 0},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        struct fm_json json;
        uint64_t value = 77;
        fm_json_init(&json, cases[i].text, strlen(cases[i].text));
        ck_assert_msg(fm_json_u64(&json, cases[i].max, &value) == cases[i].is_taken, "%s",
                      cases[i].text);
        ck_assert_uint_eq(value, cases[i].is_taken ? cases[i].value : 77);
    }
}
END_TEST

START_TEST(reals_are_what_strtod_says)
{
    struct fm_json json;
    double value = 7;
    fm_json_init(&json, "1e-06", 5);
    ck_assert(fm_json_f64(&json, &value));
    ck_assert(value == 1e-6);
    fm_json_init(&json, "1e999", 5);
    ck_assert(!fm_json_f64(&json, &value));
    ck_assert(value == 1e-6);
}
END_TEST

START_TEST(escapes_become_utf8)
{
    static const struct {
        const char *text, *value; /* value NULL: refused */
    } cases[] = {
        {"a\\tb", "a\tb"},
        {"\\u0041", "A"},
        {"\\u00e9", "\xc3\xa9"},
        {"\\u6f22", "\xe6\xbc\xa2"},
        {"\\ud83d\\udc0b", "\xf0\x9f\x90\x8b"},
        {"\\ud83d", NULL},
        {"\\udc0b", NULL},
        {"\\ud83dx", NULL},
        {"\\ud83d\\u0041", NULL},
        {"\\u0000", NULL},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        struct fm_json_text text = {cases[i].text, strlen(cases[i].text), true};
        char value[16];
        size_t bytes = 99;
        bool taken = fm_json_unescape(text, value, sizeof value, &bytes);
        ck_assert_msg(taken == (cases[i].value != NULL), "%s", cases[i].text);
        if (taken) {
            ck_assert_str_eq(value, cases[i].value);
            ck_assert_uint_eq(bytes, strlen(cases[i].value));
            ck_assert(fm_json_text_is(text, cases[i].value));
            ck_assert(!fm_json_unescape(text, value, bytes, &bytes));
        }
    }
}
END_TEST

START_TEST(the_first_error_sticks)
{
    struct fm_json json;
    uint64_t value = 5;
    struct fm_err err = {0};
    fm_json_init(&json, "[true,2]", 8);
    ck_assert(fm_json_array_open(&json));
    ck_assert(fm_json_element(&json));
    ck_assert(!fm_json_u64(&json, 9, &value));
    ck_assert(!fm_json_element(&json));
    ck_assert(!fm_json_skip(&json));
    ck_assert_int_eq(fm_json_end(&json, &err), FM_CORRUPT);
    ck_assert_str_eq(err.text, "a whole number is expected at byte 1");
    ck_assert_uint_eq(value, 5);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("base_json");
    TCase *tcase = tcase_create("json");
    tcase_add_test(tcase, sound_texts_are_taken);
    tcase_add_test(tcase, broken_texts_are_refused_with_the_place);
    tcase_add_test(tcase, every_cut_of_a_text_is_refused);
    tcase_add_test(tcase, nesting_has_a_bound);
    tcase_add_test(tcase, members_and_elements_come_in_order);
    tcase_add_test(tcase, whole_numbers_keep_every_digit_and_their_bound);
    tcase_add_test(tcase, reals_are_what_strtod_says);
    tcase_add_test(tcase, escapes_become_utf8);
    tcase_add_test(tcase, the_first_error_sticks);
    suite_add_tcase(suite, tcase);
    return suite;
}
