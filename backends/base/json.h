/* json.h - a JSON text read from front to back, value by value, without memory.
 *
 * For files that may be broken and large: headers of weight files, their index, configurations.
 * The reader walks over bytes that stay where they are and never allocates; strings come out as
 * slices of the text.  It takes RFC 8259 and nothing more, checks UTF-8, and bounds the depth.  The
 * first error sticks: every later call answers "no more", so that a loop ends and looks once.
 *
 *     fm_json_init(&json, text, bytes);
 *     fm_json_object_open(&json);
 *     while (fm_json_member(&json, &key))
 *         if (fm_json_text_is(key, "size")) fm_json_u64(&json, max, &size);
 *         else fm_json_skip(&json);
 *     status = fm_json_end(&json, err);
 *
 * Exactly one value is read (or skipped) per member and element.  Any thread, one at a time. */
#ifndef FM_JSON_H
#define FM_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/status.h"

enum { FM_JSON_DEPTH_MAX = 64 };

enum fm_json_type {
    FM_JSON_NONE, /* end of the text, an error, or no value here */
    FM_JSON_OBJECT,
    FM_JSON_ARRAY,
    FM_JSON_STRING,
    FM_JSON_NUMBER,
    FM_JSON_TRUE,
    FM_JSON_FALSE,
    FM_JSON_NULL,
};

/* Bytes of the text: of a string what stands between the quotes, escapes and all. */
struct fm_json_text {
    const char *data;
    size_t bytes;
    bool is_escaped; /* there is a backslash in it */
};

struct fm_json {
    const char *start, *at, *end;
    const char *problem; /* NULL, or the first error in words */
    size_t problem_at;   /* its byte offset */
    uint32_t depth;
    bool is_first; /* no member or element of the innermost container was read yet */
};

/* Read text[0 .. bytes), which must stay as it is while the reader is used. */
void fm_json_init(struct fm_json *json, const char *text, size_t bytes);

/* The type of the value that comes next; reads nothing but blanks. */
enum fm_json_type fm_json_peek(struct fm_json *json);

/* Enter the object or array that comes next; false (an error) if something else does. */
bool fm_json_object_open(struct fm_json *json);
bool fm_json_array_open(struct fm_json *json);

/* true: a member or element follows, its value is read next.  false: the container was left, or
 * there is an error. */
bool fm_json_member(struct fm_json *json, struct fm_json_text *ret_key);
bool fm_json_element(struct fm_json *json);

/* Read one value of that kind; false (an error), output untouched, if it is something else.
 *   u64   a whole number in [0, max]; 3.0 and 3e2 are whole, 2^53 bounds those spellings
 *   raw   the text of any value, strings with their quotes; can be given to fm_json_init again */
bool fm_json_string(struct fm_json *json, struct fm_json_text *ret_text);
bool fm_json_u64(struct fm_json *json, uint64_t max, uint64_t *ret_value);
bool fm_json_f64(struct fm_json *json, double *ret_value);
bool fm_json_bool(struct fm_json *json, bool *ret_value);
bool fm_json_raw(struct fm_json *json, struct fm_json_text *ret_text);
bool fm_json_skip(struct fm_json *json);

/* Report an error of the caller's own at the place of the value read last.  `problem` is static. */
void fm_json_fail(struct fm_json *json, const char *problem);

/* FM_OK if all was read without an error and only blanks are left; FM_CORRUPT, with the words and
 * the byte offset, if not. */
enum fm_status fm_json_end(struct fm_json *json, struct fm_err *err) FM_MUST_CHECK;

/* Is the string, its escapes resolved, equal to `text`? */
bool fm_json_text_is(struct fm_json_text text, const char *other);

/* The string with its escapes resolved, NUL-terminated, in `target`.  false if it does not fit, holds
 * a NUL, or half a surrogate pair.  The result is never longer than text.bytes. */
bool fm_json_unescape(struct fm_json_text text, char *target, size_t target_bytes,
                      size_t *ret_bytes);

#endif
