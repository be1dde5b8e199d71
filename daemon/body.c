/* body.c - the JSON text of a request; see body.h. */
#include "daemon/body.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/hash.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"
#include "backends/base/utf8.h"

/* ---- rules 2 to 4 ---------------------------------------------------------------------------- */

enum expect {
    EXPECT_VALUE,
    EXPECT_VALUE_OR_END, /* behind [ */
    EXPECT_KEY,
    EXPECT_KEY_OR_END, /* behind { */
    EXPECT_COMMA_OR_END,
};

struct scan {
    const char *start, *at, *end;
    uint64_t is_object[SRV_BODY_DEPTH_MAX / 64]; /* a bit for each open container */
    uint32_t depth, values;
    const char *nul; /* the first escape of U+0000 */
    struct srv_body_problem *problem;
};

static bool scan_fail(struct scan *scan, enum srv_body_fault fault, const char *reason)
{
    scan->problem->fault = fault;
    scan->problem->offset = (size_t)(scan->at - scan->start);
    scan->problem->reason = reason;
    return false;
}

static void blanks_skip(const char **at, const char *end)
{
    while (*at < end && (**at == ' ' || **at == '\n' || **at == '\r' || **at == '\t'))
        (*at)++;
}

/* The four hexadecimal digits at `at`, or -1. */
static int hex4(const char *at, const char *end)
{
    int value = 0;
    if (end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* scan->at is on the backslash. */
static bool scan_escape(struct scan *scan)
{
    const char *at = scan->at + 1;
    if (at == scan->end)
        return scan_fail(scan, SRV_BODY_SYNTAX, "A string is not closed.");
    if (*at != 'u') {
        if (*at == '\0' || strchr("\"\\/bfnrt", *at) == NULL)
            return scan_fail(scan, SRV_BODY_SYNTAX, "This escape does not exist.");
        scan->at = at + 1;
        return true;
    }
    int unit = hex4(at + 1, scan->end);
    if (unit < 0)
        return scan_fail(scan, SRV_BODY_SYNTAX, "An escape needs four hexadecimal digits.");
    if (unit == 0 && scan->nul == NULL)
        scan->nul = scan->at;
    at += 5;
    if (unit >= 0xd800 && unit <= 0xdfff) {
        int low = unit < 0xdc00 && scan->end - at >= 2 && at[0] == '\\' && at[1] == 'u'
                      ? hex4(at + 2, scan->end)
                      : -1;
        if (low < 0xdc00 || low > 0xdfff)
            return scan_fail(scan, SRV_BODY_SYNTAX, "An escape is half a surrogate pair.");
        at += 6;
    }
    scan->at = at;
    return true;
}

/* scan->at is on the opening quote; afterwards behind the closing one. */
static bool scan_string(struct scan *scan)
{
    scan->at++;
    while (scan->at < scan->end) {
        unsigned char c = (unsigned char)*scan->at;
        if (c == '"') {
            scan->at++;
            return true;
        }
        if (c < 0x20)
            return scan_fail(scan, SRV_BODY_SYNTAX, "A control character is not escaped.");
        if (c != '\\')
            scan->at++;
        else if (!scan_escape(scan))
            return false;
    }
    return scan_fail(scan, SRV_BODY_SYNTAX, "A string is not closed.");
}

static bool digits_skip(struct scan *scan)
{
    const char *from = scan->at;
    while (scan->at < scan->end && *scan->at >= '0' && *scan->at <= '9')
        scan->at++;
    return scan->at > from;
}

static bool scan_number(struct scan *scan)
{
    const char *from = scan->at;
    if (*scan->at == '-')
        scan->at++;
    if (scan->at < scan->end && *scan->at == '0')
        scan->at++;
    else if (!digits_skip(scan))
        return scan_fail(scan, SRV_BODY_SYNTAX, "A number has no digits.");
    if (scan->at < scan->end && *scan->at == '.') {
        scan->at++;
        if (!digits_skip(scan))
            return scan_fail(scan, SRV_BODY_SYNTAX, "A number has no digits behind its point.");
    }
    if (scan->at < scan->end && (*scan->at == 'e' || *scan->at == 'E')) {
        scan->at++;
        if (scan->at < scan->end && (*scan->at == '+' || *scan->at == '-'))
            scan->at++;
        if (!digits_skip(scan))
            return scan_fail(scan, SRV_BODY_SYNTAX, "A number has no digits in its exponent.");
    }
    if (scan->at - from > 60) { /* cJSON reads at most 63 characters of a number */
        scan->at = from;
        return scan_fail(scan, SRV_BODY_SYNTAX, "A number has more than 60 characters.");
    }
    return true;
}

static bool scan_word(struct scan *scan, const char *word)
{
    size_t length = strlen(word);
    if ((size_t)(scan->end - scan->at) < length || memcmp(scan->at, word, length) != 0)
        return scan_fail(scan, SRV_BODY_SYNTAX, "A value is expected.");
    scan->at += length;
    return true;
}

static bool scan_open(struct scan *scan, uint32_t depth_max, bool is_object)
{
    if (scan->depth == depth_max)
        return scan_fail(scan, SRV_BODY_DEPTH, NULL);
    uint64_t bit = UINT64_C(1) << (scan->depth % 64);
    if (is_object)
        scan->is_object[scan->depth / 64] |= bit;
    else
        scan->is_object[scan->depth / 64] &= ~bit;
    scan->depth++;
    scan->at++;
    return true;
}

/* A value that is not a container, at scan->at. */
static bool scan_scalar(struct scan *scan)
{
    switch (*scan->at) {
    case '"': return scan_string(scan);
    case 't': return scan_word(scan, "true");
    case 'f': return scan_word(scan, "false");
    case 'n': return scan_word(scan, "null");
    default: break;
    }
    if (*scan->at == '-' || (*scan->at >= '0' && *scan->at <= '9'))
        return scan_number(scan);
    return scan_fail(scan, SRV_BODY_SYNTAX, "A value is expected.");
}

static bool innermost_is_object(const struct scan *scan)
{
    FM_ASSERT(scan->depth > 0);
    uint32_t index = scan->depth - 1;
    return (scan->is_object[index / 64] >> (index % 64) & 1) != 0;
}

/* A key and its colon, at scan->at. */
static bool scan_key(struct scan *scan)
{
    if (*scan->at != '"')
        return scan_fail(scan, SRV_BODY_SYNTAX, "A key is expected.");
    if (!scan_string(scan))
        return false;
    blanks_skip(&scan->at, scan->end);
    if (scan->at == scan->end || *scan->at != ':')
        return scan_fail(scan, SRV_BODY_SYNTAX, "A colon is expected.");
    scan->at++;
    return true;
}

/* One value and everything in it. */
static bool scan_value(struct scan *scan, const struct srv_body_limits *limits)
{
    enum expect expect = EXPECT_VALUE;
    do {
        blanks_skip(&scan->at, scan->end);
        if (scan->at == scan->end)
            return scan_fail(scan, SRV_BODY_SYNTAX, "The body ends too early.");
        char c = *scan->at;

        if (((c == ']' && expect == EXPECT_VALUE_OR_END) ||
             (c == '}' && expect == EXPECT_KEY_OR_END)) ||
            (expect == EXPECT_COMMA_OR_END && c == (innermost_is_object(scan) ? '}' : ']'))) {
            scan->at++;
            scan->depth--;
            expect = EXPECT_COMMA_OR_END;
        } else if (expect == EXPECT_COMMA_OR_END) {
            if (c != ',')
                return scan_fail(scan, SRV_BODY_SYNTAX,
                                 "A comma or a closing bracket is expected.");
            scan->at++;
            expect = innermost_is_object(scan) ? EXPECT_KEY : EXPECT_VALUE;
        } else if (expect == EXPECT_KEY || expect == EXPECT_KEY_OR_END) {
            if (!scan_key(scan))
                return false;
            expect = EXPECT_VALUE;
        } else {
            if (scan->values == limits->values_max)
                return scan_fail(scan, SRV_BODY_VALUES, NULL);
            scan->values++;
            if (c == '{' || c == '[') {
                if (!scan_open(scan, limits->depth_max, c == '{'))
                    return false;
                expect = c == '{' ? EXPECT_KEY_OR_END : EXPECT_VALUE_OR_END;
            } else {
                if (!scan_scalar(scan))
                    return false;
                expect = EXPECT_COMMA_OR_END;
            }
        }
    } while (scan->depth > 0);
    return true;
}

/* ---- rule 5 ---------------------------------------------------------------------------------- */

static bool keys_are_unique(const cJSON *object, struct srv_body_problem *problem)
{
    size_t count = 0, size = 16;
    for (const cJSON *item = object->child; item != NULL; item = item->next)
        count++;
    while (size < count * 2)
        size *= 2;
    const char **table = fm_alloc_array(size, sizeof *table);
    if (table == NULL) {
        problem->fault = SRV_BODY_NOMEM;
        return false;
    }
    uint64_t seed; /* or a client could choose keys that all meet in one place */
    fm_random_bytes(&seed, sizeof seed);

    bool is_unique = true;
    for (const cJSON *item = object->child; item != NULL && is_unique; item = item->next) {
        size_t at = fm_hash64(item->string, strlen(item->string), seed) & (size - 1);
        while (table[at] != NULL && strcmp(table[at], item->string) != 0)
            at = (at + 1) & (size - 1);
        is_unique = table[at] == NULL;
        table[at] = item->string;
        if (!is_unique) {
            problem->fault = SRV_BODY_DUPLICATE;
            size_t length = strlen(item->string);
            size_t kept = length <= 100 ? length : 100;
            while (kept < length && ((unsigned char)item->string[kept] & 0xc0) == 0x80)
                kept--;
            memcpy(problem->name, item->string, kept);
            problem->name[kept] = '\0';
        }
    }
    fm_free(table);
    return is_unique;
}

/* ---- the whole ------------------------------------------------------------------------------- */

static void *hook_alloc(size_t bytes)
{
    return fm_alloc(bytes);
}

void srv_body_init(void)
{
    cJSON_Hooks hooks = {.malloc_fn = hook_alloc, .free_fn = fm_free};
    cJSON_InitHooks(&hooks);
}

static bool text_check(struct scan *scan, const struct srv_body_limits *limits)
{
    struct srv_body_problem *problem = scan->problem;
    size_t length = (size_t)(scan->end - scan->start);
    size_t valid = fm_utf8_valid(scan->start, length);
    if (valid != length) {
        scan->at = scan->start + valid;
        return scan_fail(scan, SRV_BODY_UTF8, NULL);
    }
    if (length >= 3 && memcmp(scan->start, "\xef\xbb\xbf", 3) == 0)
        scan->at += 3;
    blanks_skip(&scan->at, scan->end);
    if (scan->at == scan->end)
        return scan_fail(scan, SRV_BODY_SYNTAX, "The body is empty.");

    const char *first = scan->at;
    if (!scan_value(scan, limits))
        return false;
    blanks_skip(&scan->at, scan->end);
    if (scan->at != scan->end)
        return scan_fail(scan, SRV_BODY_SYNTAX, "There is more behind the value.");
    if (*first != '{') {
        scan->at = first;
        return scan_fail(scan, SRV_BODY_NO_OBJECT,
                         *first == '['                    ? "an array"
                         : *first == '"'                  ? "a string"
                         : *first == 't' || *first == 'f' ? "a boolean"
                         : *first == 'n'                  ? "null"
                                                          : "a number");
    }
    if (scan->nul != NULL) {
        scan->at = scan->nul;
        return scan_fail(scan, SRV_BODY_NUL, NULL);
    }
    problem->fault = SRV_BODY_SOUND;
    return true;
}

bool srv_body_parse(const char *bytes, size_t length, const struct srv_body_limits *limits,
                    struct srv_body *ret_body, struct srv_body_problem *ret_problem)
{
    FM_ASSERT(limits->depth_max <= SRV_BODY_DEPTH_MAX);
    struct scan scan = {.start = bytes, .at = bytes, .end = bytes + length, .problem = ret_problem};
    *ret_problem = (struct srv_body_problem){0};
    if (!text_check(&scan, limits))
        return false;

    const char *first = memchr(bytes, '{', length), *last = bytes + length;
    while (last[-1] != '}')
        last--;
    cJSON *root = cJSON_ParseWithLength(first, (size_t)(last - first));
    if (root == NULL) { /* it is valid: cJSON can only be short of memory */
        ret_problem->fault = SRV_BODY_NOMEM;
        return false;
    }
    struct srv_body body = {.text = {.data = first, .length = (size_t)(last - first)},
                            .root = root};
    if (!keys_are_unique(root, ret_problem)) {
        srv_body_done(&body);
        return false;
    }
    *ret_body = body;
    return true;
}

/* Depth is at most SRV_BODY_DEPTH_MAX. */
static void strings_wipe(cJSON *item)
{
    for (; item != NULL; item = item->next) {
        if (item->valuestring != NULL)
            fm_wipe(item->valuestring, strlen(item->valuestring));
        strings_wipe(item->child);
    }
}

void srv_body_done(struct srv_body *body)
{
    strings_wipe(body->root);
    cJSON_Delete(body->root);
    *body = (struct srv_body){0};
}

/* ---- the text of values ---------------------------------------------------------------------- */

static const char *string_end(const char *at, const char *end)
{
    at++;
    while (at < end && *at != '"')
        at += *at == '\\' ? 2 : 1;
    FM_ASSERT(at < end);
    return at + 1;
}

/* Behind the value that begins at `at`; the text was checked. */
static const char *value_end(const char *at, const char *end)
{
    uint32_t depth = 0;
    do {
        FM_ASSERT(at < end);
        if (*at == '"') {
            at = string_end(at, end);
            continue;
        }
        if (*at == '{' || *at == '[')
            depth++;
        else if (*at == '}' || *at == ']')
            depth--;
        at++;
        if (depth == 0 && at[-1] != '}' && at[-1] != ']')
            while (at < end && strchr(",]} \n\r\t", *at) == NULL)
                at++;
    } while (depth > 0);
    return at;
}

void srv_raw_init(struct srv_raw *raw, struct eng_slice container)
{
    FM_ASSERT(container.length >= 2 && (container.data[0] == '{' || container.data[0] == '['));
    *raw = (struct srv_raw){.at = container.data + 1,
                            .end = container.data + container.length - 1,
                            .is_object = container.data[0] == '{'};
}

/* The key, if any, with its quotes, and the value. */
static bool raw_pair_next(struct srv_raw *raw, struct eng_slice *ret_key,
                          struct eng_slice *ret_value)
{
    blanks_skip(&raw->at, raw->end);
    if (raw->at < raw->end && *raw->at == ',') {
        raw->at++;
        blanks_skip(&raw->at, raw->end);
    }
    if (raw->at == raw->end)
        return false;
    if (raw->is_object) {
        const char *key = raw->at;
        raw->at = string_end(key, raw->end);
        *ret_key = (struct eng_slice){.data = key, .length = (size_t)(raw->at - key)};
        blanks_skip(&raw->at, raw->end);
        FM_ASSERT(raw->at < raw->end && *raw->at == ':');
        raw->at++;
        blanks_skip(&raw->at, raw->end);
    }
    const char *value = raw->at;
    raw->at = value_end(value, raw->end);
    *ret_value = (struct eng_slice){.data = value, .length = (size_t)(raw->at - value)};
    return true;
}

bool srv_raw_next(struct srv_raw *raw, struct eng_slice *ret_value)
{
    struct eng_slice key;
    return raw_pair_next(raw, &key, ret_value);
}

/* Is the checked string `quoted`, its escapes resolved, the ASCII text `key`? */
static bool key_is(struct eng_slice quoted, const char *key)
{
    const char *at = quoted.data + 1, *end = quoted.data + quoted.length - 1;
    for (; at < end && *key != '\0'; key++) {
        if (*at != '\\') {
            if (*at++ != *key)
                return false;
        } else if (at[1] == 'u') {
            if (hex4(at + 2, end) != (unsigned char)*key)
                return false;
            at += 6;
        } else {
            return false; /* no key of ours holds what the short escapes stand for */
        }
    }
    return at == end && *key == '\0';
}

struct eng_slice srv_raw_member(struct eng_slice object, const char *key)
{
    struct srv_raw raw;
    struct eng_slice name = {0}, value;
    srv_raw_init(&raw, object);
    while (raw_pair_next(&raw, &name, &value))
        if (key_is(name, key))
            return value;
    return (struct eng_slice){0};
}
