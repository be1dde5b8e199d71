/* json.c - JSON text written into a buffer; see json.h. */
#include "daemon/json.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* 0: goes out as it is; 1: \u00XX; 2: may begin U+0085 or U+2028; else the letter of the escape. */
static const char escapes[256] = {
    [0x00] = 1, [0x01] = 1,   [0x02] = 1,   [0x03] = 1,   [0x04] = 1,  [0x05] = 1,    [0x06] = 1,
    [0x07] = 1, ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', [0x0b] = 1,  ['\f'] = 'f',  ['\r'] = 'r',
    [0x0e] = 1, [0x0f] = 1,   [0x10] = 1,   [0x11] = 1,   [0x12] = 1,  [0x13] = 1,    [0x14] = 1,
    [0x15] = 1, [0x16] = 1,   [0x17] = 1,   [0x18] = 1,   [0x19] = 1,  [0x1a] = 1,    [0x1b] = 1,
    [0x1c] = 1, [0x1d] = 1,   [0x1e] = 1,   [0x1f] = 1,   ['"'] = '"', ['\\'] = '\\', [0x7f] = 1,
    [0xc2] = 2, [0xe2] = 2,
};

/* The line separator at text[0 .. length), whose bytes *ret_bytes says; NULL when there is none. */
static const char *separator_escape(const char *text, size_t length, size_t *ret_bytes)
{
    if (length >= 2 && memcmp(text, "\xc2\x85", 2) == 0) {
        *ret_bytes = 2;
        return "\\u0085";
    }
    if (length >= 3 &&
        (memcmp(text, "\xe2\x80\xa8", 3) == 0 || memcmp(text, "\xe2\x80\xa9", 3) == 0)) {
        *ret_bytes = 3;
        return text[2] == '\xa8' ? "\\u2028" : "\\u2029";
    }
    return NULL;
}

void srv_json_escaped(struct fm_buf *out, const char *data, size_t length)
{
    size_t from = 0;
    for (size_t i = 0; i < length;) {
        unsigned char c = (unsigned char)data[i];
        char kind = escapes[c];
        size_t bytes = 1;
        const char *separator = NULL;

        if (kind == 2)
            separator = separator_escape(data + i, length - i, &bytes);
        if (kind == 0 || (kind == 2 && separator == NULL)) {
            i++;
            continue;
        }
        fm_buf_put(out, data + from, i - from);
        if (separator != NULL) {
            fm_buf_puts(out, separator);
        } else if (kind == 1) {
            fm_buf_printf(out, "\\u%04x", c);
        } else {
            char escape[2] = {'\\', kind};
            fm_buf_put(out, escape, sizeof escape);
        }
        i += bytes;
        from = i;
    }
    fm_buf_put(out, data + from, length - from);
}

void srv_json_string(struct fm_buf *out, const char *data, size_t length)
{
    fm_buf_putc(out, '"');
    if (length != 0)
        srv_json_escaped(out, data, length);
    fm_buf_putc(out, '"');
}

void srv_json_text(struct fm_buf *out, const char *text)
{
    if (text == NULL)
        fm_buf_puts(out, "null");
    else
        srv_json_string(out, text, strlen(text));
}

void srv_json_u64(struct fm_buf *out, uint64_t value)
{
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value != 0);
    fm_buf_put(out, digits + at, sizeof digits - at);
}

void srv_json_logprob(struct fm_buf *out, float value)
{
    if (!isfinite(value) || value < -9999.0f) {
        fm_buf_puts(out, "-9999.0");
        return;
    }
    char text[32];
    int length = snprintf(text, sizeof text, "%.9g", (double)value);
    fm_buf_put(out, text, (size_t)length);
    if (strcspn(text, ".e") == (size_t)length)
        fm_buf_puts(out, ".0"); /* clients with static types expect a float */
}
