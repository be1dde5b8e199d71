/* buf.h - a growing run of bytes that is born with its maximum.
 *
 * After a failed append the buffer holds what it held before; `is_broken` stays set, so that a
 * writer may append many times and look once at the end.  Owned by one thread at a time. */
#ifndef FM_BUF_H
#define FM_BUF_H

#include <stdbool.h>
#include <stddef.h>

#include "backends/base/status.h"

struct fm_buf {
    char *data; /* length bytes, and a NUL behind them when not NULL */
    size_t length, capacity;
    size_t bytes_max; /* length never exceeds this */
    bool is_broken;   /* an append has failed */
};

/* An empty buffer.  No allocation. */
void fm_buf_init(struct fm_buf *buf, size_t bytes_max);

/* Append; false (and is_broken) when the maximum or the memory does not allow it. */
bool fm_buf_put(struct fm_buf *buf, const void *data, size_t bytes);
bool fm_buf_puts(struct fm_buf *buf, const char *text);
bool fm_buf_putc(struct fm_buf *buf, char c);
bool fm_buf_printf(struct fm_buf *buf, const char *format, ...) FM_PRINTF(2, 3);

/* Make room for `bytes` more; the caller writes at data + length and then adds to length. */
bool fm_buf_reserve(struct fm_buf *buf, size_t bytes);

/* Drop the first `bytes` (at most length), moving the rest to the front. */
void fm_buf_drop(struct fm_buf *buf, size_t bytes);

/* Forget the content and the broken mark, keep the memory. */
void fm_buf_clear(struct fm_buf *buf);

/* Wipe and free; the buffer is empty afterwards. */
void fm_buf_done(struct fm_buf *buf);

#endif
