/* api_error.h - errors as clients see them: HTTP status, code, and JSON of one shape.
 *
 * OpenAI:    {"error":{"message":"...","type":"...","param":null,"code":"..."}}
 * Anthropic: {"type":"error","error":{"type":"...","message":"..."},"request_id":"..."}
 * A message is a sentence or two without prompt, key, file name or address; user's values in it
 * are quoted and cut to 100 characters by whoever writes it. */
#ifndef SRV_API_ERROR_H
#define SRV_API_ERROR_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/buf.h"
#include "backends/base/status.h"

struct srv_call;

enum { SRV_ERROR_MESSAGE_BYTES = 640, SRV_ERROR_PARAM_BYTES = 160 };

struct srv_error {
    int status;                        /* of HTTP */
    const char *code;                  /* static; NULL: null */
    char param[SRV_ERROR_PARAM_BYTES]; /* "": null */
    char message[SRV_ERROR_MESSAGE_BYTES];
    uint32_t retry_ms; /* of 429 and 503: Retry-After; 0: 5 s */
};

/* Fill in an error; param may be NULL.  Returns its argument.  Invalid UTF-8 in the message becomes
 * U+FFFD.  Any thread. */
struct srv_error *srv_error_set(struct srv_error *error, int status, const char *code,
                                const char *param, const char *format, ...) FM_PRINTF(5, 6);

/* What a status of a lower folder is to a client: FM_NOMEM and FM_AGAIN 503 server_overloaded,
 * FM_CANCELED 503 draining, FM_TIMEOUT 504 timeout, FM_DEVICE and FM_IO 500 engine_error, the rest 500
 * internal_error.  The failure's own text is for the log, never for the client. */
struct srv_error *srv_error_of_status(struct srv_error *error, enum fm_status status,
                                      uint32_t retry_ms);

/* The status code on the wire (503 is 529 on the Anthropic surface for overload), and the type. */
int srv_error_http_status(const struct srv_error *error, bool is_anthropic);
const char *srv_error_type(const struct srv_error *error, bool is_anthropic);

/* The JSON object, without a newline. */
void srv_error_json(const struct srv_error *error, bool is_anthropic, const char *request_id,
                    struct fm_buf *out);

/* Answer the call with the error and its headers (Retry-After, retry-after-ms, x-should-retry).
 * Before the commit point only.  Thread: prepare's, or main. */
void srv_error_reply(struct srv_call *call, const struct srv_error *error);

/* The same in one go. */
void srv_error_replyf(struct srv_call *call, int status, const char *code, const char *param,
                      const char *format, ...) FM_PRINTF(5, 6);

#endif
