/* buf.c - a growing run of bytes; see buf.h. */
#include "backends/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"

void fm_buf_init(struct fm_buf *buf, size_t bytes_max)
{
    *buf = (struct fm_buf){.bytes_max = bytes_max};
}

bool fm_buf_reserve(struct fm_buf *buf, size_t bytes)
{
    FM_ASSERT(buf->length <= buf->bytes_max);
    if (bytes > buf->bytes_max - buf->length) {
        buf->is_broken = true;
        return false;
    }
    if (buf->data != NULL && buf->length + bytes <= buf->capacity)
        return true;

    size_t capacity = buf->capacity < 64 ? 64 : buf->capacity * 2;
    if (capacity < buf->length + bytes)
        capacity = buf->length + bytes;
    if (capacity > buf->bytes_max)
        capacity = buf->bytes_max;
    char *data = fm_alloc(capacity + 1); /* not realloc: the old bytes are wiped below */
    if (data == NULL) {
        buf->is_broken = true;
        return false;
    }
    if (buf->data != NULL) {
        memcpy(data, buf->data, buf->length);
        fm_wipe(buf->data, buf->length);
        fm_free(buf->data);
    }
    buf->data = data;
    buf->capacity = capacity;
    return true;
}

bool fm_buf_put(struct fm_buf *buf, const void *data, size_t bytes)
{
    if (!fm_buf_reserve(buf, bytes))
        return false;
    if (bytes != 0)
        memcpy(buf->data + buf->length, data, bytes);
    buf->length += bytes;
    buf->data[buf->length] = '\0';
    return true;
}

bool fm_buf_puts(struct fm_buf *buf, const char *text)
{
    return fm_buf_put(buf, text, strlen(text));
}

bool fm_buf_putc(struct fm_buf *buf, char c)
{
    return fm_buf_put(buf, &c, 1);
}

bool fm_buf_printf(struct fm_buf *buf, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int printed = vsnprintf(NULL, 0, format, args);
    va_end(args);

    bool is_done = printed >= 0 && fm_buf_reserve(buf, (size_t)printed);
    if (is_done) {
        (void)vsnprintf(buf->data + buf->length, (size_t)printed + 1, format, again);
        buf->length += (size_t)printed;
    } else {
        buf->is_broken = true;
    }
    va_end(again);
    return is_done;
}

void fm_buf_drop(struct fm_buf *buf, size_t bytes)
{
    FM_ASSERT(bytes <= buf->length);
    if (bytes == 0)
        return;
    memmove(buf->data, buf->data + bytes, buf->length - bytes);
    buf->length -= bytes;
    buf->data[buf->length] = '\0';
}

void fm_buf_clear(struct fm_buf *buf)
{
    buf->length = 0;
    buf->is_broken = false;
    if (buf->data != NULL)
        buf->data[0] = '\0';
}

void fm_buf_done(struct fm_buf *buf)
{
    if (buf->data != NULL)
        fm_wipe(buf->data, buf->length);
    fm_free(buf->data);
    fm_buf_init(buf, buf->bytes_max);
}
