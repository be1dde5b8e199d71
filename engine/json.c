/* json.c - see json.h; and the two look-ups of text.h. */
#include "engine/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/arena.h"
#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "backends/base/utf8.h"

static struct eng_slice slice_of(struct fm_json_text text)
{
    return (struct eng_slice){text.data, text.bytes};
}

enum fm_json_type eng_json_type(struct eng_slice json)
{
    struct fm_json reader;
    fm_json_init(&reader, json.data, json.length);
    enum fm_json_type type = fm_json_peek(&reader);
    (void)fm_json_skip(&reader);
    return fm_json_end(&reader, NULL) == FM_OK ? type : FM_JSON_NONE;
}

struct eng_slice eng_json_member(struct eng_slice json, const char *key)
{
    struct fm_json reader;
    struct fm_json_text name, value, found = {0};
    fm_json_init(&reader, json.data, json.length);
    if (fm_json_peek(&reader) != FM_JSON_OBJECT || !fm_json_object_open(&reader))
        return (struct eng_slice){NULL, 0};
    while (fm_json_member(&reader, &name)) {
        if (fm_json_raw(&reader, &value) && fm_json_text_is(name, key))
            found = value;
    }
    return slice_of(found);
}

struct eng_slice eng_json_item(struct eng_slice json, uint32_t index)
{
    struct fm_json reader;
    struct fm_json_text value;
    fm_json_init(&reader, json.data, json.length);
    if (fm_json_peek(&reader) != FM_JSON_ARRAY || !fm_json_array_open(&reader))
        return (struct eng_slice){NULL, 0};
    for (uint32_t i = 0; fm_json_element(&reader) && fm_json_raw(&reader, &value); i++) {
        if (i == index)
            return slice_of(value);
    }
    return (struct eng_slice){NULL, 0};
}

/* ---- Strings ---- */

/* The 4 hex digits behind \u; they are valid. */
static uint32_t hex4(const char *digits)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++) {
        char digit = digits[i];
        uint32_t nibble = digit <= '9' ? (uint32_t)(digit - '0') : ((uint32_t)digit & 7) + 9;
        value = value << 4 | nibble;
    }
    return value;
}

/* One escape at at[0] == '\\', resolved; returns how long it is. */
static size_t escape_read(const char *at, const char *end, char ret_bytes[4], size_t *ret_length)
{
    static const char letters[] = "bfnrt", values[] = "\b\f\n\r\t";
    const char *letter = strchr(letters, at[1]);
    if (at[1] != 'u') {
        ret_bytes[0] = letter != NULL ? values[letter - letters] : at[1];
        *ret_length = 1;
        return 2;
    }
    uint32_t code = hex4(at + 2);
    size_t used = 6;
    if (code >= 0xd800 && code <= 0xdbff && end - at >= 12 && at[6] == '\\' && at[7] == 'u') {
        uint32_t low = hex4(at + 8);
        if (low >= 0xdc00 && low <= 0xdfff) {
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            used = 12;
        }
    }
    if (code >= 0xd800 && code <= 0xdfff)
        code = 0xfffd;
    *ret_length = fm_utf8_put(code, ret_bytes);
    return used;
}

/* Append a JSON string's inside either resolved or in canonical escapes. */
static bool string_put(struct eng_slice string, bool is_escaped, struct fm_buf *out)
{
    const char *at = string.data, *end = at + string.length;
    while (at < end) {
        const char *run = memchr(at, '\\', (size_t)(end - at));
        size_t length = (size_t)((run != NULL ? run : end) - at);
        /* an unescaped run holds nothing that would need an escape */
        if (!fm_buf_put(out, at, length))
            return false;
        at += length;
        if (run == NULL)
            break;
        char bytes[4];
        at += escape_read(at, end, bytes, &length);
        if (!(is_escaped ? eng_json_escape(bytes, length, out) : fm_buf_put(out, bytes, length)))
            return false;
    }
    return true;
}

bool eng_json_unescape(struct eng_slice string, struct fm_buf *out)
{
    return string_put(string, false, out);
}

bool eng_json_escape(const char *text, size_t length, struct fm_buf *out)
{
    static const char named_bytes[] = "\"\\\b\f\n\r\t", named_letters[] = "\"\\bfnrt";
    size_t run = 0;
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        if (!fm_buf_put(out, text + run, i - run))
            return false;
        run = i + 1;
        const char *named = strchr(named_bytes, c);
        bool is_good;
        if (c != '\0' && named != NULL)
            is_good =
                fm_buf_putc(out, '\\') && fm_buf_putc(out, named_letters[named - named_bytes]);
        else
            is_good = fm_buf_printf(out, "\\u%04x", c);
        if (!is_good)
            return false;
    }
    return fm_buf_put(out, text + run, length - run);
}

/* ---- Numbers ---- */

/* A double with the fewest digits that read back as it: fixed, with at least one digit behind the
 * point, for exponents -4 .. 15; d.ddde+XX else. */
static bool double_put(double value, struct fm_buf *out)
{
    char text[40];
    int digits = 0;
    do {
        digits++;
        (void)snprintf(text, sizeof text, "%.*e", digits - 1, value);
    } while (digits < 17 && strtod(text, NULL) != value);

    const char *mark = strchr(text, 'e'); /* e[+-]XX */
    FM_ASSERT(mark != NULL);
    int exponent = 0;
    for (const char *at = mark + 2; *at != '\0'; at++)
        exponent = exponent * 10 + (*at - '0');
    if (mark[1] == '-')
        exponent = -exponent;
    if (exponent < -4 || exponent >= 16)
        return fm_buf_puts(out, text);
    int behind_point = digits - 1 - exponent;
    return fm_buf_printf(out, "%.*f", behind_point > 1 ? behind_point : 1, value);
}

static enum fm_status number_put(struct eng_slice number, struct fm_buf *out, struct fm_err *err)
{
    bool is_whole = true;
    for (size_t i = 0; i < number.length; i++)
        is_whole = is_whole && strchr(".eE", number.data[i]) == NULL;
    bool is_good;
    if (is_whole) {
        bool is_minus_zero = number.length == 2 && memcmp(number.data, "-0", 2) == 0;
        is_good = fm_buf_put(out, number.data + is_minus_zero, number.length - is_minus_zero);
    } else {
        char *text = fm_strndup(number.data, number.length);
        if (text == NULL)
            return FM_FAIL(err, FM_NOMEM, "no memory for a number");
        double value = strtod(text, NULL);
        fm_free(text);
        if (!isfinite(value))
            return FM_FAIL(err, FM_INVALID, "a number of %zu characters has no finite value",
                           number.length);
        is_good = double_put(value, out);
    }
    return is_good ? FM_OK : FM_FAIL(err, FM_LIMIT, "JSON text too long");
}

/* ---- Objects ---- */

struct entry {
    struct eng_json_member member;
    struct eng_slice name; /* the key, its escapes resolved */
    size_t order;
};

static int entry_compare(const void *a, const void *b)
{
    const struct entry *left = a, *right = b;
    size_t common = left->name.length < right->name.length ? left->name.length : right->name.length;
    int order = common != 0 ? memcmp(left->name.data, right->name.data, common) : 0;
    if (order == 0)
        order = (left->name.length > right->name.length) - (left->name.length < right->name.length);
    return order != 0 ? order : (left->order > right->order) - (left->order < right->order);
}

struct entries {
    struct entry *items;
    size_t count, capacity;
    struct fm_arena names; /* of keys with escapes */
};

static bool entry_add(struct entries *entries, struct fm_json_text key, struct fm_json_text value)
{
    if (entries->count == entries->capacity) {
        size_t capacity = entries->capacity == 0 ? 8 : entries->capacity * 2;
        struct entry *items = fm_realloc_array(entries->items, capacity, sizeof items[0]);
        if (items == NULL)
            return false;
        entries->items = items;
        entries->capacity = capacity;
    }
    struct entry *entry = &entries->items[entries->count];
    *entry = (struct entry){{slice_of(key), slice_of(value)}, slice_of(key), entries->count};
    if (key.is_escaped) {
        struct fm_buf name;
        fm_buf_init(&name, key.bytes);
        const char *copy = NULL;
        if (eng_json_unescape(slice_of(key), &name))
            copy = fm_arena_copy(&entries->names, name.data, name.length);
        entry->name = (struct eng_slice){copy, name.length};
        fm_buf_done(&name);
        if (copy == NULL)
            return false;
    }
    entries->count++;
    return true;
}

/* Of equal names the first gets the last one's value and stays; in the order of the text again. */
static void entries_unite(struct entries *entries, struct eng_json_member *ret_members,
                          size_t *ret_count)
{
    struct entry *items = entries->items;
    size_t kept = 0;
    for (size_t i = 0; i < entries->count; i++)
        ret_members[i].key.data = NULL;
    qsort(items, entries->count, sizeof items[0], entry_compare);
    for (size_t first = 0, next; first < entries->count; first = next) {
        next = first + 1;
        while (next < entries->count && items[next].name.length == items[first].name.length &&
               memcmp(items[next].name.data, items[first].name.data, items[first].name.length) == 0)
            next++;
        ret_members[items[first].order] =
            (struct eng_json_member){items[first].member.key, items[next - 1].member.value};
    }
    for (size_t i = 0; i < entries->count; i++) {
        if (ret_members[i].key.data != NULL)
            ret_members[kept++] = ret_members[i];
    }
    *ret_count = kept;
}

enum fm_status eng_json_members(struct eng_slice json, struct eng_json_member **ret_members,
                                size_t *ret_count, struct fm_err *err)
{
    struct entries entries = {0};
    struct fm_json reader;
    struct fm_json_text key, value;
    enum fm_status status = FM_OK;
    fm_arena_init(&entries.names, json.length * 16 + 65536); /* short keys are padded */
    fm_json_init(&reader, json.data, json.length);
    (void)fm_json_object_open(&reader);
    while (status == FM_OK && fm_json_member(&reader, &key)) {
        if (fm_json_raw(&reader, &value) && !entry_add(&entries, key, value))
            status = FM_FAIL(err, FM_NOMEM, "no memory for a JSON object");
    }
    if (status == FM_OK && fm_json_end(&reader, err) != FM_OK)
        status = FM_FAIL(err, FM_INVALID, "not a JSON object");
    if (status != FM_OK)
        goto out_free;

    struct eng_json_member *members = NULL;
    size_t count = 0;
    if (entries.count != 0) {
        members = fm_alloc_array(entries.count, sizeof members[0]);
        if (members == NULL) {
            status = FM_FAIL(err, FM_NOMEM, "no memory for a JSON object");
            goto out_free;
        }
        entries_unite(&entries, members, &count);
    }
    *ret_members = members;
    *ret_count = count;
out_free:
    fm_arena_done(&entries.names);
    fm_free(entries.items);
    return status;
}

/* ---- Printing ---- */

/* Recursion is bounded: the text was checked, so it has at most FM_JSON_DEPTH_MAX levels. */
static enum fm_status value_print(struct eng_slice json, struct fm_buf *out, struct fm_err *err);

static enum fm_status members_print(const struct eng_json_member *members, size_t count,
                                    struct fm_buf *out, struct fm_err *err)
{
    enum fm_status status = FM_OK;
    (void)fm_buf_putc(out, '{');
    for (size_t i = 0; i < count && status == FM_OK; i++) {
        (void)fm_buf_puts(out, i == 0 ? "\"" : ", \"");
        (void)string_put(members[i].key, true, out);
        (void)fm_buf_puts(out, "\": ");
        status = value_print(members[i].value, out, err);
    }
    (void)fm_buf_putc(out, '}');
    return status;
}

static enum fm_status object_print(struct eng_slice json, struct fm_buf *out, struct fm_err *err)
{
    struct eng_json_member *members = NULL;
    size_t count = 0;
    enum fm_status status = eng_json_members(json, &members, &count, err);
    if (status == FM_OK) {
        status = members_print(members, count, out, err);
        fm_free(members);
    }
    return status;
}

static enum fm_status array_print(struct eng_slice json, struct fm_buf *out, struct fm_err *err)
{
    struct fm_json reader;
    struct fm_json_text value;
    enum fm_status status = FM_OK;
    bool is_first = true;
    fm_json_init(&reader, json.data, json.length);
    (void)fm_json_array_open(&reader);
    (void)fm_buf_putc(out, '[');
    while (status == FM_OK && fm_json_element(&reader) && fm_json_raw(&reader, &value)) {
        (void)fm_buf_puts(out, is_first ? "" : ", ");
        is_first = false;
        status = value_print(slice_of(value), out, err);
    }
    (void)fm_buf_putc(out, ']');
    return status;
}

static enum fm_status value_print(struct eng_slice json, struct fm_buf *out, struct fm_err *err)
{
    struct eng_slice inside = {json.data + 1, json.length - 2};
    switch (json.data[0]) {
    case '{': return object_print(json, out, err);
    case '[': return array_print(json, out, err);
    case 't':
    case 'f':
    case 'n': (void)fm_buf_put(out, json.data, json.length); return FM_OK;
    case '"':
        (void)fm_buf_putc(out, '"');
        (void)string_put(inside, true, out);
        (void)fm_buf_putc(out, '"');
        return FM_OK;
    default: return number_put(json, out, err);
    }
}

enum fm_status eng_json_print(struct eng_slice json, struct fm_buf *out, struct fm_err *err)
{
    struct fm_json reader;
    struct fm_json_text value = {0};
    fm_json_init(&reader, json.data, json.length);
    (void)fm_json_raw(&reader, &value); /* without the blanks around it */
    if (fm_json_end(&reader, err) != FM_OK)
        return fm_fail(err, FM_INVALID, "not valid JSON: %s at byte %zu", reader.problem,
                       reader.problem_at);
    enum fm_status status = value_print(slice_of(value), out, err);
    if (status == FM_OK && out->is_broken)
        return FM_FAIL(err, FM_LIMIT, "JSON text too long");
    return status;
}

enum fm_status eng_json_print_members(const struct eng_json_member *members, size_t count,
                                      struct fm_buf *out, struct fm_err *err)
{
    enum fm_status status = members_print(members, count, out, err);
    if (status == FM_OK && out->is_broken)
        return FM_FAIL(err, FM_LIMIT, "JSON text too long");
    return status;
}
