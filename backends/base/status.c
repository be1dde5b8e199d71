/* status.c - messages of failures; see status.h. */
#include "backends/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"

static size_t text_length(int printed)
{
    if (printed < 0)
        return 0;
    return (size_t)printed < FM_ERR_TEXT_BYTES ? (size_t)printed : FM_ERR_TEXT_BYTES - 1;
}

enum fm_status fm_fail(struct fm_err *err, enum fm_status status, const char *format, ...)
{
    FM_ASSERT(status < 0);
    if (err == NULL)
        return status;

    va_list args;
    va_start(args, format);
    (void)vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    err->status = status;
    return status;
}

enum fm_status fm_fail_os(struct fm_err *err, enum fm_status status, int error_number,
                          const char *format, ...)
{
    FM_ASSERT(status < 0);
    if (err == NULL)
        return status;

    va_list args;
    va_start(args, format);
    size_t at = text_length(vsnprintf(err->text, sizeof err->text, format, args));
    va_end(args);

    char reason[128];
    const char *text = strerror_r(error_number, reason, sizeof reason);
    (void)snprintf(err->text + at, sizeof err->text - at, ": %s", text);
    err->status = status;
    return status;
}

enum fm_status fm_err_prefix(struct fm_err *err, const char *format, ...)
{
    FM_ASSERT(err != NULL);
    char message[FM_ERR_TEXT_BYTES];
    memcpy(message, err->text, sizeof message);

    va_list args;
    va_start(args, format);
    size_t at = text_length(vsnprintf(err->text, sizeof err->text, format, args));
    va_end(args);
    (void)snprintf(err->text + at, sizeof err->text - at, ": %s", message);
    return err->status;
}

const char *fm_status_name(enum fm_status status)
{
    switch (status) {
    case FM_OK: return "ok";
    case FM_AGAIN: return "again";
    case FM_MISS: return "miss";
    case FM_END: return "end";
    case FM_INVALID: return "invalid";
    case FM_NOMEM: return "nomem";
    case FM_IO: return "io";
    case FM_CORRUPT: return "corrupt";
    case FM_UNSUPPORTED: return "unsupported";
    case FM_LIMIT: return "limit";
    case FM_CANCELED: return "canceled";
    case FM_TIMEOUT: return "timeout";
    case FM_DEVICE: return "device";
    }
    return "unknown";
}
