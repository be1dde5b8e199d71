/* json.h - JSON text written into a buffer, by hand and quickly.
 *
 * Answers have a fixed order of keys, so they are printed rather than built as a tree.  Escaped
 * are `"`, `\` and U+0000 to U+001F, as JSON demands, and U+007F, U+0085, U+2028 and U+2029, which
 * some client languages take for line ends.  All else goes out as it is.
 *
 * Appends follow fm_buf: a failed one marks the buffer, look once at the end.  Any thread. */
#ifndef SRV_JSON_H
#define SRV_JSON_H

#include <stddef.h>
#include <stdint.h>

#include "backends/base/buf.h"

/* The bytes, which must be valid UTF-8, as a JSON string with its quotes. */
void srv_json_string(struct fm_buf *out, const char *data, size_t length);

/* The same without the quotes: for a string that is written in several parts. */
void srv_json_escaped(struct fm_buf *out, const char *data, size_t length);

/* A NUL-terminated string with its quotes; `null` for NULL. */
void srv_json_text(struct fm_buf *out, const char *text);

void srv_json_u64(struct fm_buf *out, uint64_t value);

/* A log probability with 9 significant digits; what has no finite value is -9999.0. */
void srv_json_logprob(struct fm_buf *out, float value);

#endif
