/* api_schema.c - fields of JSON objects; see api_schema.h. */
#include "daemon/api_schema.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"

/* ---- problems -------------------------------------------------------------------------------- */

/* A value within the text may be cut in the middle of a character: drop the part. */
static void tail_trim(char *text)
{
    size_t length = strlen(text), at = length;
    while (at > 0 && ((unsigned char)text[at - 1] & 0xc0) == 0x80)
        at--;
    if (at == 0 || (unsigned char)text[at - 1] < 0xc0)
        return;
    unsigned char lead = (unsigned char)text[at - 1];
    size_t needed = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (length - (at - 1) < needed)
        text[at - 1] = '\0';
}

void api_problem_set(struct srv_error *problem, int status, const char *code, const char *param,
                     const char *format, ...)
{
    if (problem->status != 0)
        return;
    char message[SRV_ERROR_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, sizeof message, format, args);
    va_end(args);
    tail_trim(message);
    srv_error_set(problem, status, code, param, "%s", message);
}

void api_problem_nomem(struct srv_error *problem)
{
    if (problem->status == 0)
        srv_error_of_status(problem, FM_NOMEM, 0);
}

void api_problem_body(struct srv_error *problem, const struct srv_body_problem *fault)
{
    size_t at = fault->offset;
    switch (fault->fault) {
    case SRV_BODY_SOUND: FM_UNREACHABLE();
    case SRV_BODY_UTF8:
        api_problem_set(problem, 400, "invalid_utf8", NULL,
                        "The body of your request is not valid UTF-8 (byte %zu).", at);
        return;
    case SRV_BODY_SYNTAX:
        api_problem_set(problem, 400, "invalid_json", NULL,
                        "We could not parse the JSON body of your request. %s (byte %zu)",
                        fault->reason, at);
        return;
    case SRV_BODY_DEPTH:
        api_problem_set(problem, 400, "json_too_deep", NULL,
                        "The JSON body of your request is nested too deeply (byte %zu).", at);
        return;
    case SRV_BODY_VALUES:
        api_problem_set(problem, 400, "invalid_value", NULL,
                        "The JSON body of your request holds too many values (byte %zu).", at);
        return;
    case SRV_BODY_NUL:
        api_problem_set(problem, 400, "invalid_value", NULL,
                        "A string in the body of your request contains U+0000 (byte %zu).", at);
        return;
    case SRV_BODY_NO_OBJECT:
        api_problem_set(problem, 400, "invalid_type", NULL,
                        "Invalid type for the body: expected an object, but got %s instead.",
                        fault->reason);
        return;
    case SRV_BODY_DUPLICATE:
        api_problem_set(problem, 400, "invalid_value", fault->name,
                        "Invalid value for '%s': the parameter is given more than once.",
                        fault->name);
        return;
    case SRV_BODY_NOMEM: api_problem_nomem(problem); return;
    }
    FM_UNREACHABLE();
}

struct api_quote api_quote(const char *text)
{
    struct api_quote quote;
    (void)snprintf(quote.text, sizeof quote.text, "%.100s", text);
    tail_trim(quote.text);
    return quote;
}

/* ---- fields ---------------------------------------------------------------------------------- */

struct api_path api_path(const struct api_reader *reader, const char *name)
{
    struct api_path path;
    (void)snprintf(path.text, sizeof path.text, "%s%s", reader->path, name);
    return path;
}

const cJSON *api_field(const struct api_reader *reader, const char *name)
{
    if (reader->problem->status != 0)
        return NULL;
    const cJSON *field = cJSON_GetObjectItemCaseSensitive(reader->object, name);
    return field == NULL || cJSON_IsNull(field) ? NULL : field;
}

const char *api_type_name(const cJSON *value)
{
    if (cJSON_IsString(value))
        return "a string";
    if (cJSON_IsBool(value))
        return "a boolean";
    if (cJSON_IsArray(value))
        return "an array";
    if (cJSON_IsObject(value))
        return "an object";
    if (cJSON_IsNumber(value))
        return value->valuedouble == floor(value->valuedouble) ? "an integer" : "a decimal number";
    return "null";
}

void api_field_mistyped(const struct api_reader *reader, const char *name, const char *expected,
                        const cJSON *field)
{
    struct api_path path = api_path(reader, name);
    api_problem_set(reader->problem, 400, "invalid_type", path.text,
                    "Invalid type for '%s': expected %s, but got %s instead.", path.text, expected,
                    api_type_name(field));
}

void api_field_invalid(const struct api_reader *reader, const char *name, const char *format, ...)
{
    struct api_path path = api_path(reader, name);
    char reason[SRV_ERROR_MESSAGE_BYTES];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(reason, sizeof reason, format, args);
    va_end(args);
    api_problem_set(reader->problem, 400, "invalid_value", path.text, "Invalid value for '%s': %s",
                    path.text, reason);
}

void api_field_missing(const struct api_reader *reader, const char *name)
{
    struct api_path path = api_path(reader, name);
    api_problem_set(reader->problem, 400, "missing_required_parameter", path.text,
                    "Missing required parameter: '%s'.", path.text);
}

bool api_field_bool(const struct api_reader *reader, const char *name, bool *ret_value)
{
    const cJSON *field = api_field(reader, name);
    if (field == NULL)
        return false;
    if (!cJSON_IsBool(field)) {
        api_field_mistyped(reader, name, "a boolean", field);
        return false;
    }
    *ret_value = cJSON_IsTrue(field);
    return true;
}

/* A number as a person writes it: the shortest digits that name it. */
struct number_text {
    char text[32];
};
static struct number_text number_text(double value)
{
    struct number_text number;
    if (value == floor(value) && fabs(value) < 1e15) {
        (void)snprintf(number.text, sizeof number.text, "%.0f", value);
        return number;
    }
    for (int digits = 6; digits <= 17; digits++) {
        (void)snprintf(number.text, sizeof number.text, "%.*g", digits, value);
        double read;
        if (fm_parse_f64(number.text, -HUGE_VAL, HUGE_VAL, &read) && read == value)
            break;
    }
    return number;
}

bool api_field_i64(const struct api_reader *reader, const char *name, int64_t min, int64_t max,
                   int64_t *ret_value)
{
    const double exact_max = 9007199254740992.0; /* 2^53 */
    const cJSON *field = api_field(reader, name);
    if (field == NULL)
        return false;
    double value = field->valuedouble;
    if (!cJSON_IsNumber(field) || value != floor(value)) {
        api_field_mistyped(reader, name, "an integer", field);
        return false;
    }
    if (!(value >= -exact_max && value <= exact_max) || (int64_t)value < min ||
        (int64_t)value > max) {
        struct number_text got = number_text(value);
        if (max == INT64_MAX || max >= (int64_t)UINT32_MAX)
            api_field_invalid(reader, name, "expected an integer of at least %lld, but got %s.",
                              (long long)min, got.text);
        else
            api_field_invalid(reader, name,
                              "expected an integer between %lld and %lld, but got %s.",
                              (long long)min, (long long)max, got.text);
        return false;
    }
    *ret_value = (int64_t)value;
    return true;
}

bool api_field_u32(const struct api_reader *reader, const char *name, uint32_t min, uint32_t max,
                   uint32_t *ret_value)
{
    int64_t value;
    if (!api_field_i64(reader, name, min, max, &value))
        return false;
    *ret_value = (uint32_t)value;
    return true;
}

bool api_field_f32(const struct api_reader *reader, const char *name, double min, double max,
                   float *ret_value)
{
    const cJSON *field = api_field(reader, name);
    if (field == NULL)
        return false;
    if (!cJSON_IsNumber(field)) {
        api_field_mistyped(reader, name, "a number", field);
        return false;
    }
    double value = field->valuedouble;
    if (!(value >= min && value <= max)) {
        struct number_text low = number_text(min), high = number_text(max);
        struct number_text got = number_text(value);
        api_field_invalid(reader, name, "expected a number between %s and %s, but got %s.",
                          low.text, high.text, got.text);
        return false;
    }
    *ret_value = (float)value;
    return true;
}

bool api_field_string(const struct api_reader *reader, const char *name, size_t bytes_max,
                      struct eng_slice *ret_value)
{
    const cJSON *field = api_field(reader, name);
    if (field == NULL)
        return false;
    if (!cJSON_IsString(field)) {
        api_field_mistyped(reader, name, "a string", field);
        return false;
    }
    size_t length = strlen(field->valuestring);
    if (length > bytes_max) {
        api_field_invalid(reader, name, "expected a string of at most %zu bytes, but got %zu.",
                          bytes_max, length);
        return false;
    }
    *ret_value = (struct eng_slice){.data = field->valuestring, .length = length};
    return true;
}

bool api_field_word(const struct api_reader *reader, const char *name, const char *const *words,
                    uint32_t count, uint32_t *ret_index)
{
    struct eng_slice text;
    if (!api_field_string(reader, name, SIZE_MAX, &text))
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(words[i], text.data) == 0) {
            *ret_index = i;
            return true;
        }

    struct fm_buf out;
    fm_buf_init(&out, 256);
    for (uint32_t i = 0; i < count; i++)
        fm_buf_printf(&out, "%s'%s'", i == 0 ? "" : i + 1 == count ? " or " : ", ", words[i]);
    api_field_invalid(reader, name, "expected %s, but got '%s'.",
                      out.data != NULL ? out.data : "another word", api_quote(text.data).text);
    fm_buf_done(&out);
    return false;
}

const cJSON *api_field_array(const struct api_reader *reader, const char *name)
{
    const cJSON *field = api_field(reader, name);
    if (field == NULL || cJSON_IsArray(field))
        return field;
    api_field_mistyped(reader, name, "an array", field);
    return NULL;
}

const cJSON *api_field_object(const struct api_reader *reader, const char *name)
{
    const cJSON *field = api_field(reader, name);
    if (field == NULL || cJSON_IsObject(field))
        return field;
    api_field_mistyped(reader, name, "an object", field);
    return NULL;
}

/* Digits with an optional minus as a number of 64 bits. */
static bool i64_parse(struct eng_slice digits, int64_t *ret_value)
{
    int64_t value = 0;
    size_t at = digits.length > 0 && digits.data[0] == '-' ? 1 : 0;
    for (size_t i = at; i < digits.length; i++) {
        int digit = digits.data[i] - '0';
        if (digit < 0 || digit > 9 || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_sub_overflow(value, digit, &value))
            return false;
    }
    /* Gathered below zero, where there is room for one more. */
    if (at == 0 && __builtin_sub_overflow((int64_t)0, value, &value))
        return false;
    *ret_value = value;
    return true;
}

bool api_field_seed(const struct api_reader *reader, struct eng_slice raw, const char *name,
                    uint64_t *ret_value)
{
    const cJSON *field = api_field(reader, name);
    if (field == NULL)
        return false;
    if (!cJSON_IsNumber(field) || field->valuedouble != floor(field->valuedouble)) {
        api_field_mistyped(reader, name, "an integer", field);
        return false;
    }
    struct eng_slice digits = srv_raw_member(raw, name);
    int64_t value;
    if (memchr(digits.data, '.', digits.length) != NULL ||
        memchr(digits.data, 'e', digits.length) != NULL ||
        memchr(digits.data, 'E', digits.length) != NULL) {
        if (!api_field_i64(reader, name, INT64_MIN, INT64_MAX, &value))
            return false;
    } else if (!i64_parse(digits, &value)) {
        api_field_invalid(reader, name, "expected an integer of 64 bits.");
        return false;
    }
    *ret_value = (uint64_t)value;
    return true;
}

void api_field_refuse(const struct api_reader *reader, const char *name, const char *hint)
{
    if (api_field(reader, name) == NULL)
        return;
    struct api_path path = api_path(reader, name);
    api_problem_set(reader->problem, 400, "unsupported_parameter", path.text,
                    "Unsupported parameter: '%s' is not supported by this server.%s%s", path.text,
                    hint[0] == '\0' ? "" : " ", hint);
}

/* ---- unknown fields -------------------------------------------------------------------------- */

static bool name_fits_header(const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > 64)
        return false;
    for (size_t i = 0; i < length; i++) {
        char c = name[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              strchr("_-.", c) != NULL))
            return false;
    }
    return true;
}

void api_ignored_list(const cJSON *object, const char *const *honoured, uint32_t count,
                      struct fm_buf *out)
{
    uint32_t listed = 0;
    for (const cJSON *item = object->child; item != NULL && listed < 32; item = item->next) {
        bool is_honoured = cJSON_IsNull(item);
        for (uint32_t i = 0; i < count && !is_honoured; i++)
            is_honoured = strcmp(honoured[i], item->string) == 0;
        if (is_honoured || !name_fits_header(item->string))
            continue;
        if (out->length + strlen(item->string) + 1 > 512)
            return;
        if (listed++ > 0)
            fm_buf_putc(out, ',');
        fm_buf_puts(out, item->string);
    }
}
