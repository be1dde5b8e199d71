/* test_daemon_body.c - what is a sound body, and what each kind of broken one is called. */
#include "daemon/body.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/fault.h"
#include "backends/base/prng.h"
#include "tests/support/support.h"

static const struct srv_body_limits limits = {.depth_max = 128, .values_max = 100000};
static struct srv_body_problem problem;

static enum srv_body_fault parse(const char *text, size_t length)
{
    struct srv_body body = {0};
    if (!srv_body_parse(text, length, &limits, &body, &problem)) {
        ck_assert_ptr_null(body.root);
        return problem.fault;
    }
    ck_assert_ptr_nonnull(body.root);
    srv_body_done(&body);
    return SRV_BODY_SOUND;
}

static enum srv_body_fault parse_text(const char *text)
{
    return parse(text, strlen(text));
}

START_TEST(json_objects_are_sound)
{
    static const char *const sound[] = {
        "{}",
        " \n{ } \t",
        "{\"a\":1,\"b\":[],\"c\":{}}",
        "{\"a\":[1,-0,0.5,1e9,1E-9,true,false,null,\"x\",[{}]]}",
        "{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\"}",
        "\xef\xbb\xbf{\"a\":1}",
        "{\"a\":{\"k\":1,\"k\":2}}",
        "{\"\xf0\x9f\x98\x80\":1}",
    };
    for (size_t i = 0; i < sizeof sound / sizeof sound[0]; i++)
        ck_assert_msg(parse_text(sound[i]) == SRV_BODY_SOUND, "%s: %d at %zu", sound[i],
                      (int)problem.fault, problem.offset);
}
END_TEST

START_TEST(what_is_not_json_is_told_with_its_place)
{
    static const struct {
        const char *text;
        size_t offset;
    } broken[] = {
        {"", 0},
        {"  ", 2},
        {"{", 1},
        {"{\"a\"", 4},
        {"{\"a\":", 5},
        {"{\"a\":1", 6},
        {"{\"a\":1,}", 7},
        {"{a:1}", 1},
        {"{\"a\" 1}", 5},
        {"{\"a\":1}x", 7},
        {"{} {}", 3},
        {"{\"a\":[1,]}", 8},
        {"{\"a\":[1}", 7},
        {"{\"a\":01}", 6},
        {"{\"a\":1.}", 7},
        {"{\"a\":.5}", 5},
        {"{\"a\":1e}", 7},
        {"{\"a\":-}", 6},
        {"{\"a\":+1}", 5},
        {"{\"a\":NaN}", 5},
        {"{\"a\":tru}", 5},
        {"{\"a\":\"x}", 8},
        {"{\"a\":\"\\x\"}", 6},
        {"{\"a\":\"\\u12g4\"}", 6},
        {"{\"a\":\"\\ud800\"}", 6},
        {"{\"a\":\"\\ude00\"}", 6},
        {"{\"a\":\"\\ud800\\u0041\"}", 6},
        {"{\"a\":\"\n\"}", 6},
        {"{'a':1}", 1},
        {"}", 0},
        {"{\"a\":1]", 6},
        {"[1}", 2},
        {"{,}", 1},
        {"{\"a\":,}", 5},
        {"{\"a\"::1}", 5},
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        ck_assert_msg(parse_text(broken[i].text) == SRV_BODY_SYNTAX, "%s", broken[i].text);
        ck_assert_msg(problem.offset == broken[i].offset, "%s: %zu", broken[i].text,
                      problem.offset);
        ck_assert_ptr_nonnull(problem.reason);
    }
}
END_TEST

START_TEST(a_value_that_is_no_object_is_named)
{
    ck_assert_int_eq(parse_text("[1]"), SRV_BODY_NO_OBJECT);
    ck_assert_str_eq(problem.reason, "an array");
    ck_assert_int_eq(parse_text("\"x\""), SRV_BODY_NO_OBJECT);
    ck_assert_str_eq(problem.reason, "a string");
    ck_assert_int_eq(parse_text("true"), SRV_BODY_NO_OBJECT);
    ck_assert_int_eq(parse_text("null"), SRV_BODY_NO_OBJECT);
    ck_assert_int_eq(parse_text("-1.5"), SRV_BODY_NO_OBJECT);
    ck_assert_str_eq(problem.reason, "a number");
}
END_TEST

START_TEST(bytes_that_are_not_utf8_are_told_with_their_place)
{
    static const struct {
        const char *text;
        size_t length, offset;
    } broken[] = {
        {"{\"a\":\"\xc0\x80\"}", 10, 6},
        {"{\"a\":\"\xed\xa0\x80\"}", 11, 6},
        {"{\"a\":\"\xff\"}", 9, 6},
        {"{\"a\":\"\xf4\x90\x80\x80\"}", 12, 6},
        {"{\"a\":\"xx\xe2\x82\"}", 12, 8},
        {"\xff", 1, 0},
        {"{}\xe2\x82", 4, 2},
    };
    for (size_t i = 0; i < sizeof broken / sizeof broken[0]; i++) {
        ck_assert_int_eq(parse(broken[i].text, broken[i].length), SRV_BODY_UTF8);
        ck_assert_uint_eq(problem.offset, broken[i].offset);
    }
}
END_TEST

START_TEST(depth_is_bounded_however_deep_the_text_is)
{
    size_t deep = 100000;
    char *text = malloc(2 * deep + 16);
    for (size_t levels = 127; levels <= deep; levels = levels == 127 ? 128 : deep + 1) {
        size_t at = (size_t)snprintf(text, 64, "{\"a\":");
        memset(text + at, '[', levels);
        memset(text + at + levels, ']', levels);
        memcpy(text + at + 2 * levels, "}", 2);
        ck_assert_int_eq(parse_text(text), levels == 127 ? SRV_BODY_SOUND : SRV_BODY_DEPTH);
    }
    memset(text, '[', deep);
    ck_assert_int_eq(parse(text, deep), SRV_BODY_DEPTH);
    ck_assert_uint_eq(problem.offset, 128);
    free(text);
}
END_TEST

START_TEST(the_number_of_values_is_bounded)
{
    const struct srv_body_limits few = {.depth_max = 8, .values_max = 4};
    struct srv_body body;
    ck_assert(srv_body_parse("{\"a\":[1,2]}", 11, &few, &body, &problem));
    srv_body_done(&body);
    ck_assert(!srv_body_parse("{\"a\":[1,2,3]}", 13, &few, &body, &problem));
    ck_assert_int_eq(problem.fault, SRV_BODY_VALUES);
}
END_TEST

START_TEST(an_escaped_nul_is_refused_in_values_and_keys)
{
    ck_assert_int_eq(parse_text("{\"a\":\"a\\u0000b\"}"), SRV_BODY_NUL);
    ck_assert_uint_eq(problem.offset, 7);
    ck_assert_int_eq(parse_text("{\"a\\u0000\":1}"), SRV_BODY_NUL);
    ck_assert_int_eq(parse_text("{\"a\":\"\\\\u0000\"}"), SRV_BODY_SOUND);
    ck_assert_int_eq(parse_text("{\"a\":\"\\u0000\"} x"), SRV_BODY_SYNTAX);
}
END_TEST

START_TEST(a_key_twice_at_the_top_is_named_also_when_it_is_spelt_differently)
{
    ck_assert_int_eq(parse_text("{\"n\":1,\"x\":2,\"n\":1}"), SRV_BODY_DUPLICATE);
    ck_assert_str_eq(problem.name, "n");
    ck_assert_int_eq(parse_text("{\"model\":1,\"\\u006dodel\":2}"), SRV_BODY_DUPLICATE);
    ck_assert_str_eq(problem.name, "model");
}
END_TEST

START_TEST(many_keys_are_told_apart)
{
    char *text = malloc(1 << 20);
    size_t at = (size_t)snprintf(text, 64, "{\"k\":0");
    for (int i = 0; i < 20000; i++)
        at += (size_t)snprintf(text + at, 64, ",\"k%d\":%d", i, i);
    memcpy(text + at, "}", 2);
    ck_assert_int_eq(parse_text(text), SRV_BODY_SOUND);
    memcpy(text + at, ",\"k777\":0}", 11);
    ck_assert_int_eq(parse_text(text), SRV_BODY_DUPLICATE);
    ck_assert_str_eq(problem.name, "k777");
    free(text);
}
END_TEST

static struct eng_slice slice(const char *text)
{
    return (struct eng_slice){.data = text, .length = strlen(text)};
}

static void value_is(struct eng_slice value, const char *wanted)
{
    ck_assert_uint_eq(value.length, strlen(wanted));
    ck_assert_mem_eq(value.data, wanted, value.length);
}

START_TEST(the_text_of_values_is_found)
{
    struct eng_slice object =
        slice("{ \"a\" : 1.50 , \"\\u0062\":{\"c\":[1,\"]}\\\"\"]}, \"d\":null,"
              "\"e\" :\"x, y\", \"a\":2}");
    struct srv_raw raw;
    struct eng_slice value;
    value_is(srv_raw_member(object, "a"), "1.50");
    value_is(srv_raw_member(object, "b"), "{\"c\":[1,\"]}\\\"\"]}");
    value_is(srv_raw_member(object, "d"), "null");
    value_is(srv_raw_member(object, "e"), "\"x, y\"");
    ck_assert_ptr_null(srv_raw_member(object, "f").data);
    ck_assert_ptr_null(srv_raw_member(slice("{}"), "a").data);

    srv_raw_init(&raw, slice("[ 1 ,[2, 3],{\"a\":4} ]"));
    ck_assert(srv_raw_next(&raw, &value));
    value_is(value, "1");
    ck_assert(srv_raw_next(&raw, &value));
    value_is(value, "[2, 3]");
    ck_assert(srv_raw_next(&raw, &value));
    value_is(value, "{\"a\":4}");
    ck_assert(!srv_raw_next(&raw, &value));
}
END_TEST

START_TEST(parsing_survives_every_alloc_failure)
{
    const char *text = "{\"a\":[1,\"two\",{\"b\":null}],\"c\":\"d\"}";
    bool fired = true;
    srv_body_init();
    for (uint32_t nth = 1; fired; nth++) {
        struct srv_body body = {0};
        fm_fault_arm("alloc", nth);
        bool is_sound = srv_body_parse(text, strlen(text), &limits, &body, &problem);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(is_sound, !fired);
        ck_assert_int_eq(problem.fault, fired ? SRV_BODY_NOMEM : SRV_BODY_SOUND);
        srv_body_done(&body);
    }
}
END_TEST

/* Whatever bytes come: an answer, no crash, and what is sound stays sound when walked raw. */
START_TEST(mutated_bodies_are_answered)
{
    static const char seed_text[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"h\xc3\xa9\\u00e9\\ud83d\\ude00\"}],"
        "\"n\":1.0,\"stop\":[\"a\",\"b\"],\"x\":{\"y\":[true,null,-1e-5]}}";
    uint64_t seed = test_seed();
    uint32_t sound = 0;
    for (uint64_t round = 0; round < 20000; round++) {
        char text[sizeof seed_text];
        memcpy(text, seed_text, sizeof text);
        uint64_t changes = fm_prng_u64(seed, round, 0) % 4;
        for (uint64_t i = 0; i < changes; i++) {
            uint64_t r = fm_prng_u64(seed, round, i + 1);
            static const char letters[] = "{}[]\",:\\u0d8en1\xc3\x80\xff ";
            text[r % (sizeof text - 1)] = letters[(r >> 32) % (sizeof letters - 1)];
        }
        struct srv_body body = {0};
        size_t length = sizeof text - 1 - fm_prng_u64(seed, round, 9) % 3;
        if (srv_body_parse(text, length, &limits, &body, &problem)) {
            sound++;
            struct eng_slice value = srv_raw_member(body.text, "messages");
            const cJSON *item = cJSON_GetObjectItemCaseSensitive(body.root, "messages");
            ck_assert_int_eq(value.data != NULL, item != NULL);
        } else {
            ck_assert_int_ne(problem.fault, SRV_BODY_SOUND);
            ck_assert_int_ne(problem.fault, SRV_BODY_NOMEM);
        }
        srv_body_done(&body);
    }
    ck_assert_uint_gt(sound, 1000);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon/body");
    TCase *tcase = tcase_create("bodies");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, json_objects_are_sound);
    tcase_add_test(tcase, what_is_not_json_is_told_with_its_place);
    tcase_add_test(tcase, a_value_that_is_no_object_is_named);
    tcase_add_test(tcase, bytes_that_are_not_utf8_are_told_with_their_place);
    tcase_add_test(tcase, depth_is_bounded_however_deep_the_text_is);
    tcase_add_test(tcase, the_number_of_values_is_bounded);
    tcase_add_test(tcase, an_escaped_nul_is_refused_in_values_and_keys);
    tcase_add_test(tcase, a_key_twice_at_the_top_is_named_also_when_it_is_spelt_differently);
    tcase_add_test(tcase, many_keys_are_told_apart);
    tcase_add_test(tcase, the_text_of_values_is_found);
    tcase_add_test(tcase, parsing_survives_every_alloc_failure);
    tcase_add_test(tcase, mutated_bodies_are_answered);
    suite_add_tcase(suite, tcase);
    return suite;
}
