/* api_error.c - status to HTTP code and error JSON; see api_error.h. */
#include "daemon/api_error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/utf8.h"
#include "daemon/call.h"
#include "daemon/json.h"

enum { RETRY_MS_STANDARD = 5000, RETRY_MS_MAX = 120000, JSON_BYTES_MAX = 16384 };

/* Whole, valid characters only: what is not becomes U+FFFD, and the end is not cut in one. */
static void make_valid(char *text, size_t bytes_max)
{
    char sound[SRV_ERROR_MESSAGE_BYTES];
    FM_ASSERT(bytes_max <= sizeof sound);
    size_t length = strlen(text), at = 0, used = 0;
    while (at < length) {
        size_t part = fm_utf8_valid(text + at, length - at);
        if (used + part > bytes_max - 4)
            part = fm_utf8_valid(text + at, bytes_max - 4 - used);
        memcpy(sound + used, text + at, part);
        at += part;
        used += part;
        if (at < length) {
            if (used + 3 >= bytes_max)
                break;
            used += fm_utf8_put(0xfffd, sound + used);
            at++;
        }
    }
    sound[used] = '\0';
    memcpy(text, sound, used + 1);
}

static void set_va(struct srv_error *error, const char *param, const char *format, va_list args)
{
    (void)snprintf(error->param, sizeof error->param, "%s", param == NULL ? "" : param);
    (void)vsnprintf(error->message, sizeof error->message, format, args);
    make_valid(error->param, sizeof error->param);
    make_valid(error->message, sizeof error->message);
}

struct srv_error *srv_error_set(struct srv_error *error, int status, const char *code,
                                const char *param, const char *format, ...)
{
    *error = (struct srv_error){.status = status, .code = code};
    va_list args;
    va_start(args, format);
    set_va(error, param, format, args);
    va_end(args);
    return error;
}

struct srv_error *srv_error_of_status(struct srv_error *error, enum fm_status status,
                                      uint32_t retry_ms)
{
    switch (status) {
    case FM_AGAIN:
    case FM_NOMEM:
        if (retry_ms == 0)
            retry_ms = RETRY_MS_STANDARD;
        srv_error_set(error, 503, "server_overloaded", NULL,
                      "The server is overloaded. Please try again in %u.%03us.", retry_ms / 1000,
                      retry_ms % 1000);
        error->retry_ms = retry_ms;
        return error;
    case FM_CANCELED:
        return srv_error_set(error, 503, "draining", NULL,
                             "The server is shutting down. Please try again later.");
    case FM_TIMEOUT:
        return srv_error_set(error, 504, "timeout", NULL, "The request took too long.");
    case FM_DEVICE:
    case FM_IO:
        return srv_error_set(error, 500, "engine_error", NULL,
                             "The engine failed while it worked on this request.");
    default:
        return srv_error_set(error, 500, "internal_error", NULL,
                             "The server had an error while it processed the request.");
    }
}

static bool is_overload(const struct srv_error *error)
{
    return error->status == 503 && error->code != NULL &&
           (strcmp(error->code, "server_overloaded") == 0 ||
            strcmp(error->code, "queue_timeout") == 0);
}

int srv_error_http_status(const struct srv_error *error, bool is_anthropic)
{
    return is_anthropic && is_overload(error) ? 529 : error->status;
}

static const char *anthropic_type(const struct srv_error *error)
{
    switch (error->status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 503: return is_overload(error) ? "overloaded_error" : "api_error";
    case 504: return "timeout_error";
    default: return error->status >= 500 ? "api_error" : "invalid_request_error";
    }
}

const char *srv_error_type(const struct srv_error *error, bool is_anthropic)
{
    if (is_anthropic)
        return anthropic_type(error);
    if (error->status == 429)
        return "rate_limit_error";
    return error->status >= 500 ? "server_error" : "invalid_request_error";
}

void srv_error_json(const struct srv_error *error, bool is_anthropic, const char *request_id,
                    struct fm_buf *out)
{
    const char *type = srv_error_type(error, is_anthropic);
    if (is_anthropic) {
        (void)fm_buf_printf(out,
                            "{\"type\":\"error\",\"error\":{\"type\":\"%s\",\"message\":", type);
        srv_json_text(out, error->message);
        (void)fm_buf_puts(out, "},\"request_id\":");
        srv_json_text(out, request_id);
        (void)fm_buf_putc(out, '}');
        return;
    }
    (void)fm_buf_puts(out, "{\"error\":{\"message\":");
    srv_json_text(out, error->message);
    (void)fm_buf_printf(out, ",\"type\":\"%s\",\"param\":", type);
    srv_json_text(out, error->param[0] == '\0' ? NULL : error->param);
    (void)fm_buf_puts(out, ",\"code\":");
    srv_json_text(out, error->code);
    (void)fm_buf_puts(out, "}}");
}

static void retry_headers(struct srv_call *call, const struct srv_error *error)
{
    uint32_t retry_ms = error->retry_ms == 0 ? RETRY_MS_STANDARD : error->retry_ms;
    if (retry_ms > RETRY_MS_MAX)
        retry_ms = RETRY_MS_MAX;
    char text[16];
    (void)snprintf(text, sizeof text, "%u", (retry_ms + 999) / 1000);
    srv_call_header(call, "Retry-After", text);
    (void)snprintf(text, sizeof text, "%u", retry_ms);
    srv_call_header(call, "retry-after-ms", text);
    if (error->status == 503)
        srv_call_header(call, "x-should-retry", "true");
}

void srv_error_reply(struct srv_call *call, const struct srv_error *error)
{
    struct fm_buf body;
    fm_buf_init(&body, JSON_BYTES_MAX);
    srv_error_json(error, call->is_anthropic, call->id, &body);
    (void)fm_buf_putc(&body, '\n');
    if (error->status == 429 || error->status == 503)
        retry_headers(call, error);
    if (error->status == 401)
        srv_call_header(call, "WWW-Authenticate", "Bearer");
    if (body.is_broken) {
        srv_reply(call, srv_error_http_status(error, call->is_anthropic), "application/json", "",
                  0);
        fm_buf_done(&body);
        return;
    }
    srv_reply_json(call, srv_error_http_status(error, call->is_anthropic), &body);
}

void srv_error_replyf(struct srv_call *call, int status, const char *code, const char *param,
                      const char *format, ...)
{
    struct srv_error error = {.status = status, .code = code};
    va_list args;
    va_start(args, format);
    set_va(&error, param, format, args);
    va_end(args);
    srv_error_reply(call, &error);
}
