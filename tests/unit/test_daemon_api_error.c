/* test_daemon_api_error.c - shapes, types and statuses of errors. */
#include "daemon/api_error.h"

#include <string.h>

#include "backends/base/utf8.h"
#include "tests/support/support.h"

START_TEST(types_follow_the_catalogue)
{
    static const struct {
        int status;
        const char *code, *type, *anthropic_type;
        int anthropic_status;
    } cases[] = {
        {400, "invalid_value", "invalid_request_error", "invalid_request_error", 400},
        {401, "invalid_api_key", "invalid_request_error", "authentication_error", 401},
        {403, "permission_denied", "invalid_request_error", "permission_error", 403},
        {404, "model_not_found", "invalid_request_error", "not_found_error", 404},
        {413, "request_too_large", "invalid_request_error", "request_too_large", 413},
        {429, "rate_limit_exceeded", "rate_limit_error", "rate_limit_error", 429},
        {500, "engine_error", "server_error", "api_error", 500},
        {503, "server_overloaded", "server_error", "overloaded_error", 529},
        {503, "queue_timeout", "server_error", "overloaded_error", 529},
        {503, "model_loading", "server_error", "api_error", 503},
        {503, "draining", "server_error", "api_error", 503},
        {504, "timeout", "server_error", "timeout_error", 504},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct srv_error error;
        srv_error_set(&error, cases[i].status, cases[i].code, NULL, "x");
        ck_assert_str_eq(srv_error_type(&error, false), cases[i].type);
        ck_assert_str_eq(srv_error_type(&error, true), cases[i].anthropic_type);
        ck_assert_int_eq(srv_error_http_status(&error, false), cases[i].status);
        ck_assert_int_eq(srv_error_http_status(&error, true), cases[i].anthropic_status);
    }
}
END_TEST

START_TEST(object_has_exactly_four_keys)
{
    struct srv_error error;
    struct fm_buf out;
    fm_buf_init(&out, 4096);
    srv_error_set(&error, 400, "invalid_value", "messages[0].role", "a \"b\"\n%d", 7);
    srv_error_json(&error, false, "req_1", &out);
    ck_assert_str_eq(
        out.data, "{\"error\":{\"message\":\"a \\\"b\\\"\\n7\",\"type\":\"invalid_request_error\","
                  "\"param\":\"messages[0].role\",\"code\":\"invalid_value\"}}");
    fm_buf_clear(&out);
    srv_error_set(&error, 400, NULL, NULL, "m");
    srv_error_json(&error, false, "req_1", &out);
    ck_assert_str_eq(out.data, "{\"error\":{\"message\":\"m\",\"type\":\"invalid_request_error\","
                               "\"param\":null,\"code\":null}}");
    fm_buf_done(&out);
}
END_TEST

START_TEST(every_status_of_ours_has_an_answer)
{
    static const struct {
        enum fm_status status;
        int http;
        const char *code;
    } cases[] = {{FM_AGAIN, 503, "server_overloaded"}, {FM_NOMEM, 503, "server_overloaded"},
                 {FM_CANCELED, 503, "draining"},       {FM_TIMEOUT, 504, "timeout"},
                 {FM_DEVICE, 500, "engine_error"},     {FM_IO, 500, "engine_error"},
                 {FM_CORRUPT, 500, "internal_error"},  {FM_INVALID, 500, "internal_error"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct srv_error error;
        srv_error_of_status(&error, cases[i].status, 0);
        ck_assert_int_eq(error.status, cases[i].http);
        ck_assert_str_eq(error.code, cases[i].code);
    }
    struct srv_error error;
    ck_assert_str_eq(srv_error_of_status(&error, FM_AGAIN, 5000)->message,
                     "The server is overloaded. Please try again in 5.000s.");
}
END_TEST

START_TEST(messages_are_valid_and_whole_whatever_comes)
{
    char text[2000];
    for (size_t shift = 0; shift < 4; shift++) {
        memset(text, 'a', shift);
        for (size_t at = shift; at + 3 < sizeof text; at += 3)
            memcpy(text + at, "\xe2\x82\xac", 3);
        text[1900] = '\0';
        struct srv_error error;
        srv_error_set(&error, 400, NULL, text, "%s", text);
        ck_assert_uint_eq(fm_utf8_valid(error.message, strlen(error.message)),
                          strlen(error.message));
        ck_assert_uint_eq(fm_utf8_valid(error.param, strlen(error.param)), strlen(error.param));
        ck_assert_uint_gt(strlen(error.message), SRV_ERROR_MESSAGE_BYTES - 10);
    }
    memset(text, 0xff, sizeof text - 1);
    text[sizeof text - 1] = '\0';
    struct srv_error error;
    srv_error_set(&error, 400, NULL, NULL, "%s", text);
    ck_assert_uint_eq(fm_utf8_valid(error.message, strlen(error.message)), strlen(error.message));
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon api_error");
    TCase *all = tcase_create("all");
    tcase_add_test(all, types_follow_the_catalogue);
    tcase_add_test(all, object_has_exactly_four_keys);
    tcase_add_test(all, every_status_of_ours_has_an_answer);
    tcase_add_test(all, messages_are_valid_and_whole_whatever_comes);
    suite_add_tcase(suite, all);
    return suite;
}
