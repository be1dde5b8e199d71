/* json.c - the grammar of RFC 8259 as functions that move one pointer. */
#include "backends/base/json.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"

void fm_json_init(struct fm_json *json, const char *text, size_t bytes)
{
    FM_ASSERT(text != NULL || bytes == 0);
    *json = (struct fm_json){.start = text, .at = text, .end = text + bytes};
}

/* Keep the first error and its place. */
static bool fail_at(struct fm_json *json, const char *at, const char *problem)
{
    if (json->problem == NULL) {
        json->problem = problem;
        json->problem_at = (size_t)(at - json->start);
    }
    return false;
}

static bool fail(struct fm_json *json, const char *problem)
{
    return fail_at(json, json->at, problem);
}

void fm_json_fail(struct fm_json *json, const char *problem)
{
    (void)fail(json, problem);
}

static void skip_blanks(struct fm_json *json)
{
    while (json->at < json->end &&
           (*json->at == ' ' || *json->at == '\n' || *json->at == '\r' || *json->at == '\t'))
        json->at++;
}

enum fm_json_type fm_json_peek(struct fm_json *json)
{
    if (json->problem != NULL)
        return FM_JSON_NONE;
    skip_blanks(json);
    if (json->at == json->end)
        return FM_JSON_NONE;
    switch (*json->at) {
    case '{': return FM_JSON_OBJECT;
    case '[': return FM_JSON_ARRAY;
    case '"': return FM_JSON_STRING;
    case 't': return FM_JSON_TRUE;
    case 'f': return FM_JSON_FALSE;
    case 'n': return FM_JSON_NULL;
    case '-': return FM_JSON_NUMBER;
    default: return *json->at >= '0' && *json->at <= '9' ? FM_JSON_NUMBER : FM_JSON_NONE;
    }
}

static bool container_open(struct fm_json *json, enum fm_json_type type, const char *problem)
{
    if (fm_json_peek(json) != type)
        return fail(json, problem);
    if (json->depth == FM_JSON_DEPTH_MAX)
        return fail(json, "nested too deeply");
    json->depth++;
    json->at++;
    json->is_first = true;
    return true;
}

bool fm_json_object_open(struct fm_json *json)
{
    return container_open(json, FM_JSON_OBJECT, "an object is expected");
}

bool fm_json_array_open(struct fm_json *json)
{
    return container_open(json, FM_JSON_ARRAY, "an array is expected");
}

/* Step over the comma before the next item, or over the closing bracket. */
static bool item_next(struct fm_json *json, char close)
{
    if (json->problem != NULL)
        return false;
    FM_ASSERT(json->depth > 0);
    skip_blanks(json);
    if (json->at == json->end)
        return fail(json, "the text ends inside a container");
    if (*json->at == close) {
        json->at++;
        json->depth--;
        json->is_first = false;
        return false;
    }
    if (!json->is_first) {
        if (*json->at != ',')
            return fail(json, "a comma or a closing bracket is expected");
        json->at++;
    }
    json->is_first = false;
    return true;
}

bool fm_json_member(struct fm_json *json, struct fm_json_text *ret_key)
{
    struct fm_json_text key;
    if (!item_next(json, '}'))
        return false;
    if (!fm_json_string(json, &key))
        return false;
    skip_blanks(json);
    if (json->at == json->end || *json->at != ':')
        return fail(json, "a colon is expected");
    json->at++;
    *ret_key = key;
    return true;
}

bool fm_json_element(struct fm_json *json)
{
    if (!item_next(json, ']'))
        return false;
    if (fm_json_peek(json) == FM_JSON_NONE)
        return fail(json, "a value is expected");
    return true;
}

/* The bytes of the UTF-8 character at `at`, or 0 if it is none (overlong forms, surrogates and what
 * lies beyond U+10FFFF are none). */
static size_t utf8_length(const unsigned char *at, const unsigned char *end)
{
    size_t length = at[0] < 0x80                     ? 1
                    : at[0] >= 0xc2 && at[0] <= 0xdf ? 2
                    : (at[0] & 0xf0) == 0xe0         ? 3
                    : at[0] >= 0xf0 && at[0] <= 0xf4 ? 4
                                                     : 0;
    if (length == 0 || (size_t)(end - at) < length)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((at[i] & 0xc0) != 0x80)
            return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) ||
        (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f))
        return 0;
    return length;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* at points at the backslash; true with at behind the escape. */
static bool escape_skip(struct fm_json *json)
{
    if (json->end - json->at < 2)
        return fail(json, "the text ends inside a string");
    if (json->at[1] != 'u') {
        if (strchr("\"\\/bfnrt", json->at[1]) == NULL || json->at[1] == '\0')
            return fail(json, "not an escape of JSON");
        json->at += 2;
        return true;
    }
    if (json->end - json->at < 6)
        return fail(json, "the text ends inside a string");
    for (int i = 2; i < 6; i++)
        if (hex_digit(json->at[i]) < 0)
            return fail(json, "four hexadecimal digits are expected");
    json->at += 6;
    return true;
}

bool fm_json_string(struct fm_json *json, struct fm_json_text *ret_text)
{
    if (fm_json_peek(json) != FM_JSON_STRING)
        return fail(json, "a string is expected");
    struct fm_json_text text = {.data = ++json->at};
    for (;;) {
        if (json->at == json->end)
            return fail(json, "the text ends inside a string");
        unsigned char c = (unsigned char)*json->at;
        if (c == '"')
            break;
        if (c == '\\') {
            text.is_escaped = true;
            if (!escape_skip(json))
                return false;
            continue;
        }
        if (c < 0x20)
            return fail(json, "a control character in a string");
        size_t length =
            utf8_length((const unsigned char *)json->at, (const unsigned char *)json->end);
        if (length == 0)
            return fail(json, "not UTF-8");
        json->at += length;
    }
    text.bytes = (size_t)(json->at - text.data);
    json->at++;
    *ret_text = text;
    return true;
}

static void digits_skip(struct fm_json *json)
{
    while (json->at < json->end && *json->at >= '0' && *json->at <= '9')
        json->at++;
}

static bool digit_here(const struct fm_json *json)
{
    return json->at < json->end && *json->at >= '0' && *json->at <= '9';
}

/* Step over a number; is_whole if it has neither fraction nor exponent. */
static bool number_skip(struct fm_json *json, struct fm_json_text *ret_text, bool *ret_is_whole)
{
    const char *start = json->at;
    bool is_whole = true;

    if (*json->at == '-')
        json->at++;
    if (!digit_here(json))
        return fail(json, "a digit is expected");
    if (*json->at == '0')
        json->at++;
    else
        digits_skip(json);
    if (json->at < json->end && *json->at == '.') {
        is_whole = false;
        json->at++;
        if (!digit_here(json))
            return fail(json, "a digit is expected");
        digits_skip(json);
    }
    if (json->at < json->end && (*json->at == 'e' || *json->at == 'E')) {
        is_whole = false;
        json->at++;
        if (json->at < json->end && (*json->at == '+' || *json->at == '-'))
            json->at++;
        if (!digit_here(json))
            return fail(json, "a digit is expected");
        digits_skip(json);
    }
    *ret_text = (struct fm_json_text){.data = start, .bytes = (size_t)(json->at - start)};
    *ret_is_whole = is_whole;
    return true;
}

/* Longer numbers than this are of no use to anybody. */
enum { NUMBER_BYTES_MAX = 64 };

static bool number_value(struct fm_json *json, struct fm_json_text text, double *ret_value)
{
    char copy[NUMBER_BYTES_MAX + 1];
    if (text.bytes > NUMBER_BYTES_MAX)
        return fail_at(json, text.data, "a number of too many digits");
    memcpy(copy, text.data, text.bytes);
    copy[text.bytes] = '\0';
    if (!fm_parse_f64(copy, -1.7976931348623157e308, 1.7976931348623157e308, ret_value))
        return fail_at(json, text.data, "a number beyond what a double holds");
    return true;
}

bool fm_json_f64(struct fm_json *json, double *ret_value)
{
    struct fm_json_text text;
    bool is_whole;
    if (fm_json_peek(json) != FM_JSON_NUMBER)
        return fail(json, "a number is expected");
    return number_skip(json, &text, &is_whole) && number_value(json, text, ret_value);
}

bool fm_json_u64(struct fm_json *json, uint64_t max, uint64_t *ret_value)
{
    struct fm_json_text text;
    bool is_whole;
    uint64_t value = 0;

    if (fm_json_peek(json) != FM_JSON_NUMBER)
        return fail(json, "a whole number is expected");
    if (!number_skip(json, &text, &is_whole))
        return false;
    if (text.data[0] == '-')
        return fail_at(json, text.data, "a number below 0");
    if (is_whole) {
        for (size_t i = 0; i < text.bytes; i++)
            if (!fm_mul_u64(value, 10, &value) ||
                !fm_add_u64(value, (uint64_t)(text.data[i] - '0'), &value))
                return fail_at(json, text.data, "a number that is too large");
    } else {
        double real;
        if (!number_value(json, text, &real))
            return false;
        if (real > 0x1.0p53)
            return fail_at(json, text.data, "a number that is too large");
        value = (uint64_t)real;
        if ((double)value != real)
            return fail_at(json, text.data, "a whole number is expected");
    }
    if (value > max)
        return fail_at(json, text.data, "a number that is too large");
    *ret_value = value;
    return true;
}

static bool word_skip(struct fm_json *json, const char *word)
{
    size_t bytes = strlen(word);
    if ((size_t)(json->end - json->at) < bytes || memcmp(json->at, word, bytes) != 0)
        return fail(json, "not a value of JSON");
    json->at += bytes;
    return true;
}

bool fm_json_bool(struct fm_json *json, bool *ret_value)
{
    enum fm_json_type type = fm_json_peek(json);
    if (type != FM_JSON_TRUE && type != FM_JSON_FALSE)
        return fail(json, "true or false is expected");
    if (!word_skip(json, type == FM_JSON_TRUE ? "true" : "false"))
        return false;
    *ret_value = type == FM_JSON_TRUE;
    return true;
}

/* Recursion is bounded by FM_JSON_DEPTH_MAX. */
bool fm_json_skip(struct fm_json *json)
{
    struct fm_json_text text;
    bool is_whole;

    switch (fm_json_peek(json)) {
    case FM_JSON_OBJECT:
        if (!fm_json_object_open(json))
            return false;
        while (fm_json_member(json, &text))
            (void)fm_json_skip(json);
        return json->problem == NULL;
    case FM_JSON_ARRAY:
        if (!fm_json_array_open(json))
            return false;
        while (fm_json_element(json))
            (void)fm_json_skip(json);
        return json->problem == NULL;
    case FM_JSON_STRING: return fm_json_string(json, &text);
    case FM_JSON_NUMBER: return number_skip(json, &text, &is_whole);
    case FM_JSON_TRUE: return word_skip(json, "true");
    case FM_JSON_FALSE: return word_skip(json, "false");
    case FM_JSON_NULL: return word_skip(json, "null");
    case FM_JSON_NONE: break;
    }
    return fail(json, "a value is expected");
}

bool fm_json_raw(struct fm_json *json, struct fm_json_text *ret_text)
{
    (void)fm_json_peek(json);
    const char *start = json->at;
    if (!fm_json_skip(json))
        return false;
    *ret_text = (struct fm_json_text){.data = start, .bytes = (size_t)(json->at - start)};
    return true;
}

enum fm_status fm_json_end(struct fm_json *json, struct fm_err *err)
{
    if (json->problem == NULL) {
        FM_ASSERT(json->depth == 0);
        skip_blanks(json);
        if (json->at != json->end)
            (void)fail(json, "more text behind the value");
    }
    if (json->problem != NULL)
        return FM_FAIL(err, FM_CORRUPT, "%s at byte %zu", json->problem, json->problem_at);
    return FM_OK;
}

/* The value of \uXXXX at `at`, which fm_json_string has checked. */
static uint32_t escape_unit(const char *at)
{
    uint32_t value = 0;
    for (int i = 2; i < 6; i++)
        value = value * 16 + (uint32_t)hex_digit(at[i]);
    return value;
}

/* Write `code` as UTF-8; the bytes written, at most 4. */
static size_t utf8_put(uint32_t code, char *target)
{
    if (code < 0x80) {
        target[0] = (char)code;
        return 1;
    }
    if (code < 0x800) {
        target[0] = (char)(0xc0 | code >> 6);
        target[1] = (char)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        target[0] = (char)(0xe0 | code >> 12);
        target[1] = (char)(0x80 | (code >> 6 & 0x3f));
        target[2] = (char)(0x80 | (code & 0x3f));
        return 3;
    }
    target[0] = (char)(0xf0 | code >> 18);
    target[1] = (char)(0x80 | (code >> 12 & 0x3f));
    target[2] = (char)(0x80 | (code >> 6 & 0x3f));
    target[3] = (char)(0x80 | (code & 0x3f));
    return 4;
}

/* One escape at *at, moved behind it; 0 if it is half a surrogate pair or a NUL. */
static size_t escape_resolve(const char **at, const char *end, char target[4])
{
    static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if ((*at)[1] != 'u') {
        const char *letter = strchr(letters, (*at)[1]);
        FM_ASSERT(letter != NULL);
        target[0] = values[letter - letters];
        *at += 2;
        return 1;
    }
    uint32_t code = escape_unit(*at);
    *at += 6;
    if (code >= 0xd800 && code < 0xdc00) {
        if (end - *at < 6 || (*at)[0] != '\\' || (*at)[1] != 'u')
            return 0;
        uint32_t low = escape_unit(*at);
        if (low < 0xdc00 || low > 0xdfff)
            return 0;
        *at += 6;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code <= 0xdfff) {
        return 0;
    }
    return code == 0 ? 0 : utf8_put(code, target);
}

bool fm_json_unescape(struct fm_json_text text, char *target, size_t target_bytes,
                      size_t *ret_bytes)
{
    const char *at = text.data, *end = text.data + text.bytes;
    size_t bytes = 0;

    while (at < end) {
        char piece[4];
        size_t piece_bytes = 1;
        if (*at == '\\') {
            piece_bytes = escape_resolve(&at, end, piece);
            if (piece_bytes == 0)
                return false;
        } else {
            piece[0] = *at++;
        }
        if (target_bytes - bytes <= piece_bytes)
            return false;
        memcpy(target + bytes, piece, piece_bytes);
        bytes += piece_bytes;
    }
    if (target_bytes == 0)
        return false;
    target[bytes] = '\0';
    *ret_bytes = bytes;
    return true;
}

bool fm_json_text_is(struct fm_json_text text, const char *other)
{
    char copy[256];
    size_t other_bytes = strlen(other);
    if (!text.is_escaped)
        return text.bytes == other_bytes && memcmp(text.data, other, other_bytes) == 0;
    return fm_json_unescape(text, copy, sizeof copy, &other_bytes) && strcmp(copy, other) == 0;
}
