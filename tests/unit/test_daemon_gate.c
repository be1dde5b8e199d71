/* test_daemon_gate.c - routes, and the checks of a head in their order. */
#include "daemon/gate.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "daemon/call.h"
#include "daemon/config.h"
#include "tests/support/support.h"

/* ---- routes ---------------------------------------------------------------------------------- */

static const struct srv_handler handler = {.name = "test"};

static void bind_all(struct srv_routes *routes)
{
    srv_routes_init(routes);
    for (int id = 0; id < SRV_ROUTE_COUNT; id++)
        srv_routes_bind(routes, (enum srv_route_id)id, &handler, NULL);
}

START_TEST(every_alias_leads_to_its_route)
{
    static const struct {
        const char *path;
        int id; /* -1: none */
        const char *parameter;
        bool is_anthropic;
    } cases[] = {
        {"/", SRV_ROUTE_ROOT, "", false},
        {"/v1/chat/completions", SRV_ROUTE_CHAT, "", false},
        {"/v1/chat/completions/", SRV_ROUTE_CHAT, "", false},
        {"/chat/completions", SRV_ROUTE_CHAT, "", false},
        {"/beta/chat/completions", SRV_ROUTE_CHAT, "", false},
        {"/beta/v1/chat/completions", SRV_ROUTE_CHAT, "", false},
        {"/v1/chat/completions/x", -1, "", false},
        {"/V1/chat/completions", -1, "", false},
        {"/completions", SRV_ROUTE_COMPLETIONS, "", false},
        {"/beta/completions", SRV_ROUTE_COMPLETIONS, "", false},
        {"/models", SRV_ROUTE_MODELS, "", false},
        {"/v1/models/", SRV_ROUTE_MODELS, "", false},
        {"/v1/models/a/b", SRV_ROUTE_MODEL, "a/b", false},
        {"/beta/models/a/", SRV_ROUTE_MODEL, "a", false},
        {"/anthropic/v1/models", SRV_ROUTE_MODELS, "", true},
        {"/anthropic/nope", -1, "", true},
        {"/v1/messages", -1, "", true},
        {"/v1/messagesx", -1, "", false},
        {"/ping", SRV_ROUTE_HEALTH, "", false},
        {"/readyz", SRV_ROUTE_READY, "", false},
        {"/live", SRV_ROUTE_LIVE, "", false},
        {"/v1/tokenize", SRV_ROUTE_TOKENIZE, "", false},
        {"//a", -1, "", false},
        {"", -1, "", false},
        {"/v1", -1, "", false},
    };
    struct srv_routes routes;
    bind_all(&routes);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *parameter = NULL;
        uint32_t bytes = 0;
        bool is_anthropic = false;
        const struct srv_route *route =
            srv_route_find(&routes, cases[i].path, &parameter, &bytes, &is_anthropic);
        const struct srv_route *expected = cases[i].id < 0 ? NULL : &routes.entries[cases[i].id];
        ck_assert_msg(route == expected, "%s", cases[i].path);
        ck_assert_msg(is_anthropic == cases[i].is_anthropic, "%s", cases[i].path);
        ck_assert_uint_eq(bytes, strlen(cases[i].parameter));
        ck_assert_int_eq(strncmp(parameter, cases[i].parameter, bytes), 0);
    }
}
END_TEST

START_TEST(route_without_handler_does_not_exist)
{
    struct srv_routes routes;
    const char *parameter;
    uint32_t bytes;
    bool is_anthropic;
    srv_routes_init(&routes);
    ck_assert_ptr_null(srv_route_find(&routes, "/health", &parameter, &bytes, &is_anthropic));
    srv_routes_bind(&routes, SRV_ROUTE_HEALTH, &handler, NULL);
    ck_assert_ptr_nonnull(srv_route_find(&routes, "/health", &parameter, &bytes, &is_anthropic));
}
END_TEST

/* ---- the gate -------------------------------------------------------------------------------- */

static struct {
    struct srv_config *config;
    struct srv_routes routes;
    struct srv_health health;
    struct srv_gate gate;
    struct srv_call *call;
    const char *headers[16]; /* name, value, ... NULL */
} t;

static const char *header(void *context, const char *name)
{
    (void)context;
    for (size_t i = 0; t.headers[i] != NULL; i += 2)
        if (strcasecmp(t.headers[i], name) == 0)
            return t.headers[i + 1];
    return NULL;
}

static void setup_with(const char *const *overrides, uint32_t count)
{
    struct fm_err err;
    struct srv_config_sources sources = {.overrides = overrides, .override_count = count};
    memset(&t, 0, sizeof t);
    ck_assert_int_eq(srv_config_load(&sources, &t.config, &err), FM_OK);
    bind_all(&t.routes);
    srv_health_init(&t.health, 60);
    srv_health_move(&t.health, SRV_READY, NULL);
    t.gate.routes = &t.routes;
    t.gate.health = &t.health;
    srv_auth_failures_init(&t.gate.failures);
}

static void add_keys(void)
{
    char path[512];
    struct fm_err err;
    (void)snprintf(path, sizeof path, "%s/keys", test_dir());
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs("a secret-a\nm secret-m metrics\n", file), 0);
    ck_assert_int_eq(fclose(file), 0);
    ck_assert_int_eq(srv_keys_load(path, 8, &t.gate.keys, &err), FM_OK);
}

/* Send a head through; 0: it passed, else the status of the answer. */
static int enter(const char *method, const char *path, struct srv_head head)
{
    srv_call_free(t.call);
    t.call = srv_call_new(t.config);
    ck_assert_ptr_nonnull(t.call);
    head.method = method;
    head.path = path;
    head.address = "\x7f\0\0\1";
    head.address_bytes = 4;
    head.header = header;
    srv_gate_enter(&t.gate, &head, t.call);
    return srv_call_is_answered(t.call) ? t.call->status : 0;
}

static int get(const char *path)
{
    return enter("GET", path, (struct srv_head){0});
}

static int post(const char *path)
{
    return enter("POST", path,
                 (struct srv_head){.has_body = true, .has_length = true, .content_length = 2});
}

static const char *body(void)
{
    const char *data = NULL;
    return srv_call_pending(t.call, &data) == 0 ? "" : data;
}

static const char *answer_header(const char *name)
{
    for (uint32_t i = 0; i < t.call->header_count; i++)
        if (strcasecmp(t.call->headers[i].name, name) == 0)
            return t.call->headers[i].value;
    return NULL;
}

static void set_header(const char *name, const char *value)
{
    t.headers[0] = name;
    t.headers[1] = value;
    t.headers[2] = NULL;
}

static void teardown(void)
{
    srv_call_free(t.call);
    srv_keys_put(t.gate.keys);
    srv_config_put(t.config);
}

START_TEST(fixed_examples_match)
{
    setup_with(NULL, 0);
    ck_assert_int_eq(get("/nope"), 404);
    ck_assert_str_eq(body(),
                     "{\"error\":{\"message\":\"Invalid URL (GET /nope)\",\"type\":"
                     "\"invalid_request_error\",\"param\":null,\"code\":\"unknown_url\"}}\n");
    ck_assert_int_eq(enter("PUT", "/v1/models", (struct srv_head){0}), 405);
    ck_assert_str_eq(answer_header("Allow"), "GET, HEAD, OPTIONS");
    ck_assert_str_eq(body(),
                     "{\"error\":{\"message\":\"Not allowed to PUT on /v1/models\",\"type\":"
                     "\"invalid_request_error\",\"param\":null,\"code\":"
                     "\"method_not_allowed\"}}\n");
    ck_assert_int_eq(get("/v1/chat/completions"), 405);
    ck_assert_str_eq(answer_header("Allow"), "POST, OPTIONS");
    ck_assert_int_eq(get("/v1/chat/completions/x"), 404);
    add_keys();
    ck_assert_int_eq(post("/v1/chat/completions"), 401);
    ck_assert_str_eq(body(),
                     "{\"error\":{\"message\":\"You didn't provide an API key. Provide it in the "
                     "Authorization header as 'Bearer YOUR_KEY'.\",\"type\":"
                     "\"invalid_request_error\",\"param\":null,\"code\":\"missing_api_key\"}}\n");
    ck_assert_str_eq(answer_header("WWW-Authenticate"), "Bearer");
    set_header("Authorization", "Bearer wrong-key");
    ck_assert_int_eq(post("/v1/chat/completions"), 401);
    ck_assert_str_eq(body(), "{\"error\":{\"message\":\"Incorrect API key provided.\",\"type\":"
                             "\"invalid_request_error\",\"param\":null,\"code\":"
                             "\"invalid_api_key\"}}\n");
    ck_assert_uint_gt(t.call->hold_until_ns, fm_clock_ns());
    teardown();
}
END_TEST

START_TEST(quoted_path_is_cut_and_valid)
{
    char path[400];
    setup_with(NULL, 0);
    memset(path, 'a', sizeof path);
    path[0] = '/';
    path[10] = (char)0xff;
    path[11] = '"';
    path[12] = '\n';
    path[sizeof path - 1] = '\0';
    ck_assert_int_eq(get(path), 404);
    ck_assert_ptr_nonnull(strstr(body(), "/aaaaaaaaa\xef\xbf\xbd\\\"\\n"));
    ck_assert_uint_lt(strlen(body()), 250);
    teardown();
}
END_TEST

START_TEST(keys_open_what_they_permit)
{
    setup_with((const char *const[]){"metrics.require_auth=true"}, 1);
    add_keys();
    ck_assert_int_eq(get("/health"), 0); /* never asks */
    ck_assert_int_eq(get("/metrics"), 401);
    set_header("x-api-key", "secret-a");
    ck_assert_int_eq(post("/v1/chat/completions"), 0);
    ck_assert_str_eq(t.call->key->name, "a");
    ck_assert_int_eq(get("/metrics"), 403);
    set_header("api-key", "secret-m");
    ck_assert_int_eq(get("/metrics"), 0);
    ck_assert_int_eq(post("/v1/chat/completions"), 403);
    ck_assert_ptr_nonnull(strstr(body(), "permission_denied"));
    teardown();
}
END_TEST

START_TEST(too_many_wrong_keys_block_right_ones_too)
{
    setup_with((const char *const[]){"auth.failures_per_minute=3"}, 1);
    uint64_t now = 600 * FM_NS_PER_S;
    fm_clock_fake(&now);
    add_keys();
    set_header("Authorization", "Bearer wrong-key");
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(post("/v1/chat/completions"), 401);
    set_header("Authorization", "Bearer secret-a");
    ck_assert_int_eq(post("/v1/chat/completions"), 429);
    ck_assert_str_eq(answer_header("Retry-After"), "60");
    now += 60 * FM_NS_PER_S;
    ck_assert_int_eq(post("/v1/chat/completions"), 0);
    fm_clock_fake(NULL);
    teardown();
}
END_TEST

START_TEST(media_types_are_json_or_refused)
{
    static const struct {
        const char *type;
        int status;
    } cases[] = {
        {"application/json", 0},
        {"Application/JSON; charset=utf-8", 0},
        {"application/json;charset=\"UTF-8\"", 0},
        {"application/json; charset=latin1", 415},
        {"application/vnd.x+json", 0},
        {"text/x+json; a=b", 0},
        {"application/x-www-form-urlencoded", 415},
        {"text/plain", 415},
        {"application/jsonx", 415},
        {"+json", 415},
        {"", 0},
    };
    setup_with(NULL, 0);
    ck_assert_int_eq(post("/v1/completions"), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        set_header("Content-Type", cases[i].type);
        ck_assert_msg(post("/v1/completions") == cases[i].status, "%s", cases[i].type);
        if (cases[i].status != 0)
            ck_assert_ptr_nonnull(strstr(body(), "Send 'Content-Type: application/json'"));
    }
    set_header("Content-Encoding", "gzip");
    ck_assert_int_eq(post("/v1/completions"), 415);
    ck_assert_ptr_nonnull(strstr(body(), "unsupported_content_encoding"));
    set_header("Content-Encoding", "identity");
    ck_assert_int_eq(post("/v1/completions"), 0);
    teardown();
}
END_TEST

START_TEST(sizes_have_limits_and_close)
{
    setup_with((const char *const[]){"http.max_body_bytes=2000"}, 1);
    struct srv_head large = {.has_body = true, .has_length = true, .content_length = 2001};
    ck_assert_int_eq(enter("POST", "/v1/completions", large), 413);
    ck_assert(t.call->closes);
    large.content_length = 2000;
    ck_assert_int_eq(enter("POST", "/v1/completions", large), 0);
    ck_assert(!t.call->closes);
    ck_assert_int_eq(enter("GET", "/", (struct srv_head){.uri_bytes = 8193}), 414);
    ck_assert_int_eq(enter("GET", "/", (struct srv_head){.head_bytes = 65537}), 431);
    ck_assert_int_eq(enter("POST", "/", (struct srv_head){.is_ambiguous = true}), 400);
    ck_assert(t.call->closes);
    teardown();
}
END_TEST

START_TEST(request_id_is_taken_when_sound)
{
    setup_with(NULL, 0);
    set_header("x-request-id", "abc.DEF:1_2-3");
    (void)get("/");
    ck_assert_str_eq(t.call->id, "abc.DEF:1_2-3");
    char long_id[200];
    memset(long_id, 'a', sizeof long_id);
    long_id[129] = '\0';
    static const char *const bad[] = {"a b", "a\r\nb: c", "\xc3\xa9", ""};
    for (size_t i = 0; i < 5; i++) {
        set_header("x-request-id", i == 4 ? long_id : bad[i]);
        (void)get("/");
        ck_assert_uint_eq(strlen(t.call->id), 36);
        ck_assert_int_eq(strncmp(t.call->id, "req_", 4), 0);
    }
    teardown();
}
END_TEST

START_TEST(preflight_needs_no_key_and_names_the_origin)
{
    setup_with((const char *const[]){"cors.allow_origins=https://a.example, https://b.example"}, 1);
    add_keys();
    t.headers[0] = "Origin";
    t.headers[1] = "https://b.example";
    t.headers[2] = "Access-Control-Request-Headers";
    t.headers[3] = "authorization, content-type";
    ck_assert_int_eq(enter("OPTIONS", "/v1/chat/completions", (struct srv_head){0}), 204);
    ck_assert_str_eq(answer_header("Access-Control-Allow-Origin"), "https://b.example");
    ck_assert_str_eq(answer_header("Vary"), "Origin");
    ck_assert_str_eq(answer_header("Access-Control-Allow-Headers"), "authorization, content-type");
    ck_assert_str_eq(answer_header("Access-Control-Max-Age"), "600");
    t.headers[3] = "x\r\ninjected: 1";
    ck_assert_int_eq(enter("OPTIONS", "/v1/chat/completions", (struct srv_head){0}), 204);
    ck_assert_ptr_null(answer_header("Access-Control-Allow-Headers"));
    ck_assert_int_eq(post("/v1/chat/completions"), 401); /* errors carry them too */
    ck_assert_str_eq(answer_header("Access-Control-Allow-Origin"), "https://b.example");
    t.headers[1] = "https://c.example";
    ck_assert_int_eq(enter("OPTIONS", "/v1/chat/completions", (struct srv_head){0}), 204);
    ck_assert_ptr_null(answer_header("Access-Control-Allow-Origin"));
    ck_assert_int_eq(enter("OPTIONS", "/nope", (struct srv_head){0}), 404);
    teardown();
}
END_TEST

START_TEST(only_a_ready_server_generates)
{
    static const struct {
        enum srv_health_phase phase;
        int generate, tokenize;
        const char *code;
    } cases[] = {{SRV_LOADING, 503, 503, "model_loading"},
                 {SRV_READY, 0, 0, ""},
                 {SRV_DRAINING, 503, 0, "draining"},
                 {SRV_FAILED, 500, 500, "engine_error"}};
    setup_with(NULL, 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        t.health.phase = cases[i].phase;
        ck_assert_int_eq(post("/tokenize"), 0);
        srv_gate_ready(&t.gate, t.call);
        ck_assert_int_eq(t.call->status, cases[i].tokenize);
        ck_assert_int_eq(get("/v1/models"), 0);
        srv_gate_ready(&t.gate, t.call);
        ck_assert_int_eq(t.call->status, 0);
        ck_assert_int_eq(post("/v1/completions"), 0);
        srv_gate_ready(&t.gate, t.call);
        ck_assert_int_eq(t.call->status, cases[i].generate);
        ck_assert_ptr_nonnull(strstr(body(), cases[i].code));
        if (cases[i].generate == 503) {
            ck_assert_ptr_nonnull(answer_header("Retry-After"));
            ck_assert_ptr_nonnull(answer_header("retry-after-ms"));
            ck_assert_str_eq(answer_header("x-should-retry"), "true");
        }
    }
    teardown();
}
END_TEST

START_TEST(anthropic_errors_have_their_shape)
{
    setup_with(NULL, 0);
    set_header("x-request-id", "r1");
    ck_assert_int_eq(get("/v1/messages/x"), 404);
    ck_assert_str_eq(body(),
                     "{\"type\":\"error\",\"error\":{\"type\":\"not_found_error\",\"message\":"
                     "\"Invalid URL (GET /v1/messages/x)\"},\"request_id\":\"r1\"}\n");
    set_header("anthropic-version", "2023-06-01");
    ck_assert_int_eq(get("/v1/models"), 0);
    ck_assert(t.call->is_anthropic);
    ck_assert_int_eq(get("/health"), 0);
    ck_assert(!t.call->is_anthropic);
    teardown();
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon gate");
    TCase *all = tcase_create("all");
    tcase_add_test(all, every_alias_leads_to_its_route);
    tcase_add_test(all, route_without_handler_does_not_exist);
    tcase_add_test(all, fixed_examples_match);
    tcase_add_test(all, quoted_path_is_cut_and_valid);
    tcase_add_test(all, keys_open_what_they_permit);
    tcase_add_test(all, too_many_wrong_keys_block_right_ones_too);
    tcase_add_test(all, media_types_are_json_or_refused);
    tcase_add_test(all, sizes_have_limits_and_close);
    tcase_add_test(all, request_id_is_taken_when_sound);
    tcase_add_test(all, preflight_needs_no_key_and_names_the_origin);
    tcase_add_test(all, only_a_ready_server_generates);
    tcase_add_test(all, anthropic_errors_have_their_shape);
    suite_add_tcase(suite, all);
    return suite;
}
