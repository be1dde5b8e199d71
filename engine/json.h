/* json.h - JSON text as prompts carry it: printed the one way that the model was trained on.
 *
 * Prompts and tool calls keep the digits and the order of keys that the client or the model wrote, so
 * they are handled as text (slices of valid JSON, see backends/base/json.h), never as a tree. */
#ifndef ENG_JSON_H
#define ENG_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include "backends/base/buf.h"
#include "backends/base/json.h"
#include "backends/base/status.h"
#include "engine/text.h"

/* The type of json as a whole; FM_JSON_NONE when it is not one valid JSON value (strict: no NaN, at
 * most FM_JSON_DEPTH_MAX levels). */
enum fm_json_type eng_json_type(struct eng_slice json);

/* Append the value as the reference encoder prints it: ", " and ": " between things, keys in their
 * order and of equal ones the last value at the first one's place, digits of whole numbers as they
 * are, other numbers as the shortest that reads back the same, escapes only where JSON needs them.
 * FM_INVALID: not valid JSON, or a number without a finite value; FM_LIMIT: out is full; FM_NOMEM. */
enum fm_status eng_json_print(struct eng_slice json, struct fm_buf *out,
                              struct fm_err *err) FM_MUST_CHECK;

/* Append the characters of a string, its escapes resolved; half a surrogate pair is U+FFFD.  `string`
 * is what stands between the quotes of a valid one.  false: out is full or memory is short. */
bool eng_json_unescape(struct eng_slice string, struct fm_buf *out);

/* Append text with the escapes of a JSON string, without quotes.  false: as above. */
bool eng_json_escape(const char *text, size_t length, struct fm_buf *out);

/* The members of an object as text, of equal keys the last value at the first one's place. */
struct eng_json_member {
    struct eng_slice key;   /* between the quotes, escapes and all */
    struct eng_slice value; /* text of the value */
};

/* *ret_members is an array that the caller frees with fm_free; NULL for an empty object.  FM_INVALID
 * when json is not a valid object. */
enum fm_status eng_json_members(struct eng_slice json, struct eng_json_member **ret_members,
                                size_t *ret_count, struct fm_err *err) FM_MUST_CHECK;

/* Append an object of these members, printed as eng_json_print does. */
enum fm_status eng_json_print_members(const struct eng_json_member *members, size_t count,
                                      struct fm_buf *out, struct fm_err *err) FM_MUST_CHECK;

#endif
