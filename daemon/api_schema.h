/* api_schema.h - the fields of a request's JSON objects: type, range, and whether we know them.
 *
 * A reader holds one object and the path that leads to it.  Each call looks at one field: absent or
 * null leaves the output as it is; a wrong type or value is written into the shared problem, and
 * the first problem sticks: every later call does nothing.  So a caller reads all fields in the
 * order of the contract and looks at the problem once.
 *
 * Preparation threads; pure but for the problem. */
#ifndef API_SCHEMA_H
#define API_SCHEMA_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/buf.h"
#include "backends/base/status.h"
#include "daemon/api_error.h"
#include "daemon/body.h"
#include "engine/text.h"

/* Write the error (api_error.h) unless there is one already; `param` may be NULL.  A status of 0
 * means that there is none. */
void api_problem_set(struct srv_error *problem, int status, const char *code, const char *param,
                     const char *format, ...) FM_PRINTF(5, 6);

/* Memory is short: 503. */
void api_problem_nomem(struct srv_error *problem);

/* What a body that cannot be parsed is answered with. */
void api_problem_body(struct srv_error *problem, const struct srv_body_problem *fault);

/* `text`, cut to 100 bytes of whole characters, for a message. */
struct api_quote {
    char text[104];
};
struct api_quote api_quote(const char *text);

struct api_reader {
    const cJSON *object;
    const char *path; /* "" at the top, else "messages[3]." with its point */
    struct srv_error *problem;
};

/* The full name of a field: path and name. */
struct api_path {
    char text[SRV_ERROR_PARAM_BYTES];
};
struct api_path api_path(const struct api_reader *reader, const char *name);

/* The field, or NULL when it is absent, null, or there is a problem already. */
const cJSON *api_field(const struct api_reader *reader, const char *name);

/* Problems about the field: what was expected, what came. */
void api_field_mistyped(const struct api_reader *reader, const char *name, const char *expected,
                        const cJSON *field);
void api_field_invalid(const struct api_reader *reader, const char *name, const char *format, ...)
    FM_PRINTF(3, 4);
void api_field_missing(const struct api_reader *reader, const char *name);

/* true when the field was there and is sound; only then the output was written. */
bool api_field_bool(const struct api_reader *reader, const char *name, bool *ret_value);
bool api_field_u32(const struct api_reader *reader, const char *name, uint32_t min, uint32_t max,
                   uint32_t *ret_value);
/* Whole numbers of either sign that a double holds exactly. */
bool api_field_i64(const struct api_reader *reader, const char *name, int64_t min, int64_t max,
                   int64_t *ret_value);
bool api_field_f32(const struct api_reader *reader, const char *name, double min, double max,
                   float *ret_value);
/* At most bytes_max bytes; the slice lives as long as the tree. */
bool api_field_string(const struct api_reader *reader, const char *name, size_t bytes_max,
                      struct eng_slice *ret_value);
/* One of words[0 .. count). */
bool api_field_word(const struct api_reader *reader, const char *name, const char *const *words,
                    uint32_t count, uint32_t *ret_index);
const cJSON *api_field_array(const struct api_reader *reader, const char *name);
const cJSON *api_field_object(const struct api_reader *reader, const char *name);

/* A full 64-bit number from its digits: `raw` is the text of the reader's object. */
bool api_field_seed(const struct api_reader *reader, struct eng_slice raw, const char *name,
                    uint64_t *ret_value);

/* A value is refused as 400 unsupported_parameter when it is there; `hint` may be "". */
void api_field_refuse(const struct api_reader *reader, const char *name, const char *hint);

/* The type of a value as messages name it: "a string", "an array", ... */
const char *api_type_name(const cJSON *value);

/* The names of members of `object` that are neither null nor in honoured[0 .. count), separated by
 * commas: at most 32 names and 512 bytes.  Names that cannot stand in a header are left out. */
void api_ignored_list(const cJSON *object, const char *const *honoured, uint32_t count,
                      struct fm_buf *out);

#endif
