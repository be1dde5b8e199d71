/* gate.c - the checks before a body is looked at; see gate.h. */
#include "daemon/gate.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "daemon/api_error.h"
#include "daemon/call.h"
#include "daemon/config.h"

static const char *header(const struct srv_head *head, const char *name)
{
    return head->header(head->context, name);
}

/* ---- route and method ------------------------------------------------------------------------ */

static enum srv_method method_of(const char *method)
{
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0)
        return SRV_GET;
    if (strcmp(method, "POST") == 0)
        return SRV_POST;
    if (strcmp(method, "DELETE") == 0)
        return SRV_DELETE;
    return strcmp(method, "OPTIONS") == 0 ? SRV_OPTIONS : SRV_OTHER;
}

static bool pass_route(struct srv_gate *gate, const struct srv_head *head, struct srv_call *call)
{
    uint32_t parameter_bytes = 0;
    call->route = srv_route_find(gate->routes, call->path, &call->parameter, &parameter_bytes,
                                 &call->is_anthropic);
    call->path[call->parameter - call->path + parameter_bytes] = '\0'; /* a slash at the end */
    if (call->route != NULL) {
        call->context = call->route->context;
        if ((call->route == &gate->routes->entries[SRV_ROUTE_MODELS] ||
             call->route == &gate->routes->entries[SRV_ROUTE_MODEL]) &&
            header(head, "anthropic-version") != NULL)
            call->is_anthropic = true;
        return true;
    }
    srv_error_replyf(call, 404, "unknown_url", NULL, "Invalid URL (%.20s %.100s)", head->method,
                     call->path);
    return false;
}

static bool pass_method(struct srv_call *call, const struct srv_head *head)
{
    char allow[SRV_ALLOW_BYTES];
    if (call->method == SRV_OPTIONS || (call->route->methods & call->method) != 0)
        return true;
    srv_route_allow(call->route, allow);
    srv_call_header(call, "Allow", allow);
    srv_error_replyf(call, 405, "method_not_allowed", NULL, "Not allowed to %.20s on %.100s",
                     head->method, call->path);
    return false;
}

/* ---- cross-origin ---------------------------------------------------------------------------- */

static bool is_origin_allowed(const char *list, const char *origin)
{
    size_t length = strlen(origin);
    if (strcmp(list, "*") == 0)
        return true;
    while (*list != '\0') {
        list += strspn(list, ", ");
        size_t bytes = strcspn(list, ", ");
        if (bytes == length && bytes > 0 && memcmp(list, origin, bytes) == 0)
            return true;
        list += bytes;
    }
    return false;
}

/* Letters, digits, '-' and what separates names: safe to echo. */
static bool is_header_list(const char *text)
{
    static const char sound[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_, ";
    size_t length = strlen(text);
    return length > 0 && length <= 1024 && strspn(text, sound) == length;
}

/* Errors carry these too, so that a page can read them.  true: the origin is a permitted one. */
static bool mark_origin(struct srv_call *call, const struct srv_head *head)
{
    const char *list = call->config->cors_allow_origins;
    const char *origin = header(head, "Origin");
    if (origin == NULL || strlen(origin) > 1024 || !is_origin_allowed(list, origin))
        return false;
    bool is_any = strcmp(list, "*") == 0;
    srv_call_header(call, "Access-Control-Allow-Origin", is_any ? "*" : origin);
    if (!is_any)
        srv_call_header(call, "Vary", "Origin");
    srv_call_header(call, "Access-Control-Expose-Headers",
                    "x-request-id, request-id, retry-after, retry-after-ms, "
                    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, "
                    "x-ratelimit-reset-requests, x-ratelimit-limit-tokens, "
                    "x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, "
                    "openai-processing-ms");
    return true;
}

/* true: the request goes on; false: OPTIONS, and answered. */
static bool pass_preflight(struct srv_call *call, const struct srv_head *head, bool is_permitted)
{
    if (call->method != SRV_OPTIONS)
        return true;
    char allow[SRV_ALLOW_BYTES];
    srv_route_allow(call->route, allow);
    srv_call_header(call, "Allow", allow);
    if (is_permitted) {
        const char *wanted = header(head, "Access-Control-Request-Headers");
        srv_call_header(call, "Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS");
        if (wanted != NULL && is_header_list(wanted))
            srv_call_header(call, "Access-Control-Allow-Headers", wanted);
        srv_call_header(call, "Access-Control-Max-Age", "600");
    }
    srv_reply(call, 204, NULL, "", 0);
    return false;
}

/* ---- key ------------------------------------------------------------------------------------- */

static bool needs_key(const struct srv_gate *gate, const struct srv_call *call)
{
    if (gate->keys == NULL || (call->route->flags & SRV_ROUTE_OPEN) != 0)
        return false;
    return (call->route->flags & SRV_ROUTE_METRIC) == 0 || call->config->metrics_require_auth;
}

static void refuse_key(struct srv_gate *gate, struct srv_call *call, const struct srv_head *head)
{
    srv_auth_failed(&gate->failures, head->address, head->address_bytes);
    call->hold_until_ns = fm_clock_ns() + call->config->auth_failure_delay_ms * FM_NS_PER_MS;
    srv_error_replyf(call, 401, "invalid_api_key", NULL, "Incorrect API key provided.");
}

static bool pass_key(struct srv_gate *gate, struct srv_call *call, const struct srv_head *head)
{
    const char *secret = NULL;
    size_t bytes = 0;
    if (!needs_key(gate, call))
        return true;
    if (srv_auth_is_blocked(&gate->failures, head->address, head->address_bytes,
                            call->config->auth_failures_per_minute)) {
        struct srv_error error;
        srv_error_set(&error, 429, "rate_limit_exceeded", NULL,
                      "Too many wrong API keys. Please try again in 60.000s.");
        error.retry_ms = 60000;
        srv_error_reply(call, &error);
        return false;
    }
    if (!srv_auth_secret(header(head, "Authorization"), header(head, "x-api-key"),
                         header(head, "api-key"), &secret, &bytes)) {
        srv_error_replyf(call, 401, "missing_api_key", NULL,
                         "You didn't provide an API key. Provide it in the Authorization header as "
                         "'Bearer YOUR_KEY'.");
        return false;
    }
    call->keys = srv_keys_take(gate->keys);
    call->key = srv_keys_find(gate->keys, secret, bytes);
    if (call->key == NULL) {
        refuse_key(gate, call, head);
        return false;
    }
    bool is_metric = (call->route->flags & SRV_ROUTE_METRIC) != 0;
    uint32_t needed = is_metric ? SRV_MAY_READ_METRICS : SRV_MAY_INFER;
    if ((call->key->permissions & needed) != 0)
        return true;
    srv_error_replyf(call, 403, "permission_denied", NULL,
                     "This API key does not have the permission '%s'.",
                     is_metric ? "metrics" : "inference");
    return false;
}

/* ---- size and media type --------------------------------------------------------------------- */

/* application/json, or application/x+json; a charset only when it is UTF-8. */
static bool is_json_type(const char *type)
{
    size_t length = strcspn(type, "; \t");
    bool is_json = length == 16 && strncasecmp(type, "application/json", length) == 0;
    if (!is_json && length > 5 && memchr(type, '/', length) != NULL)
        is_json = strncasecmp(type + length - 5, "+json", 5) == 0;
    for (const char *at = type + length; is_json && *at != '\0';) {
        at += strspn(at, "; \t");
        if (strncasecmp(at, "charset=", 8) == 0) {
            const char *value = at + 8 + (at[8] == '"');
            size_t bytes = strcspn(value, "\"; \t");
            is_json = (bytes == 5 && strncasecmp(value, "utf-8", bytes) == 0) ||
                      (bytes == 4 && strncasecmp(value, "utf8", bytes) == 0);
        }
        at += strcspn(at, ";");
    }
    return is_json;
}

static bool pass_body(struct srv_call *call, const struct srv_head *head)
{
    uint64_t most = call->config->http_max_body_bytes;
    if (head->has_length && head->content_length > most) {
        call->closes = true;
        srv_error_replyf(call, 413, "request_too_large", NULL,
                         "The request body has %llu bytes, at most %llu are accepted.",
                         (unsigned long long)head->content_length, (unsigned long long)most);
        return false;
    }
    if (call->method != SRV_POST)
        return true;
    const char *encoding = header(head, "Content-Encoding");
    if (encoding != NULL && encoding[0] != '\0' && strcasecmp(encoding, "identity") != 0) {
        srv_error_replyf(call, 415, "unsupported_content_encoding", NULL,
                         "The request body must not be compressed.");
        return false;
    }
    const char *type = header(head, "Content-Type");
    if (type == NULL || type[0] == '\0' || is_json_type(type))
        return true;
    srv_error_replyf(call, 415, "unsupported_media_type", NULL,
                     "Unsupported media type. Send 'Content-Type: application/json'.");
    return false;
}

/* The head itself: what could not be answered if it were believed. */
static bool pass_head(struct srv_call *call, const struct srv_head *head)
{
    const struct srv_config *config = call->config;
    call->closes = true;
    if (head->uri_bytes > config->http_max_uri_bytes)
        srv_error_replyf(call, 414, "uri_too_long", NULL, "The URL has more than %llu bytes.",
                         (unsigned long long)config->http_max_uri_bytes);
    else if (head->head_bytes > config->http_max_header_bytes)
        srv_error_replyf(call, 431, "headers_too_large", NULL,
                         "The request head has more than %llu bytes.",
                         (unsigned long long)config->http_max_header_bytes);
    else if (head->is_ambiguous)
        srv_error_replyf(call, 400, "invalid_value", NULL,
                         "A header that says where the request ends came more than once.");
    else
        call->closes = false;
    return !call->closes;
}

void srv_gate_enter(struct srv_gate *gate, const struct srv_head *head, struct srv_call *call)
{
    const char *id = header(head, "x-request-id");
    if (id != NULL)
        srv_call_take_id(call, id);
    call->method = method_of(head->method);
    call->is_head = strcmp(head->method, "HEAD") == 0;
    call->path = fm_strdup(head->path);
    if (call->path == NULL) {
        struct srv_error error;
        srv_error_reply(call, srv_error_of_status(&error, FM_NOMEM, 0));
        return;
    }
    bool is_permitted = mark_origin(call, head);
    /* Each answers the call where it does not pass. */
    (void)(pass_head(call, head) && pass_route(gate, head, call) && pass_method(call, head) &&
           pass_preflight(call, head, is_permitted) && pass_key(gate, call, head) &&
           pass_body(call, head));
}

void srv_gate_ready(const struct srv_gate *gate, struct srv_call *call)
{
    struct srv_error error;
    uint32_t flags = call->route->flags;
    if ((flags & (SRV_ROUTE_GENERATES | SRV_ROUTE_NEEDS_TEXT)) == 0)
        return;
    switch (gate->health->phase) {
    case SRV_READY: return;
    case SRV_LOADING:
        srv_error_reply(call, srv_error_set(&error, 503, "model_loading", NULL,
                                            "The model is being loaded. Please try again later."));
        return;
    case SRV_DRAINING:
        if ((flags & SRV_ROUTE_GENERATES) != 0)
            srv_error_reply(call, srv_error_of_status(&error, FM_CANCELED, 0));
        return;
    case SRV_FAILED:
        srv_error_reply(call, srv_error_set(&error, 500, "engine_error", NULL,
                                            "The engine has failed and does not take requests."));
        return;
    }
    FM_UNREACHABLE();
}

bool srv_gate_reserve(struct srv_gate *gate, struct srv_call *call, size_t bytes)
{
    struct srv_error error;
    uint64_t most = call->config->http_body_memory_bytes;
    if (gate->body_bytes > most || bytes > most - gate->body_bytes) {
        srv_error_reply(call, srv_error_of_status(&error, FM_AGAIN, 0));
        return false;
    }
    gate->body_bytes += bytes;
    call->body_reserved += bytes;
    return true;
}

void srv_gate_release(struct srv_gate *gate, struct srv_call *call)
{
    FM_ASSERT(gate->body_bytes >= call->body_reserved);
    gate->body_bytes -= call->body_reserved;
    call->body_reserved = 0;
}
