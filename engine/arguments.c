/* arguments.c - see arguments.h. */
#include "engine/arguments.h"

#include <string.h>

#include "backends/base/assert.h"
#include "engine/json.h"

void eng_arguments_init(struct eng_arguments *args, struct eng_outlet *outlet, uint32_t *repairs)
{
    *args = (struct eng_arguments){.outlet = outlet, .repairs = repairs};
    fm_buf_init(&args->text, ENG_VALUE_BYTES_MAX);
    fm_buf_init(&args->key, ENG_TAG_ELEMENTS_MAX * 4);
    fm_buf_init(&args->names, ENG_NAMES_BYTES_MAX);
    /* three bytes for an ill-formed one, and six for an escaped one of them at most */
    fm_buf_init(&args->scratch, (size_t)ENG_VALUE_BYTES_MAX * 3 + 16);
    fm_buf_init(&args->escaped, (size_t)ENG_VALUE_BYTES_MAX * 6 + 16);
}

void eng_arguments_done(struct eng_arguments *args)
{
    fm_buf_done(&args->text);
    fm_buf_done(&args->key);
    fm_buf_done(&args->names);
    fm_buf_done(&args->scratch);
    fm_buf_done(&args->escaped);
}

void eng_arguments_begin(struct eng_arguments *args, const struct eng_tool *tool,
                         uint32_t call_index)
{
    args->tool = tool;
    args->call_index = call_index;
    args->written_count = 0;
    args->mode = ENG_VALUE_NONE;
    args->has_wrapped = false;
    fm_buf_clear(&args->text);
    fm_buf_clear(&args->names);
}

/* ---- Writing ---- */

static void put(struct eng_arguments *args, const char *data, size_t length, uint32_t token)
{
    if (length != 0)
        eng_outlet_tool(args->outlet, ENG_PIECE_TOOL_ARGS, args->call_index, data, length, token);
}

static void put_word(struct eng_arguments *args, const char *text, uint32_t token)
{
    put(args, text, strlen(text), token);
}

/* Bytes of a string's inside: escaped, as far as its characters are complete. */
static void put_string(struct eng_arguments *args, const char *data, size_t length, uint32_t token)
{
    fm_buf_clear(&args->scratch);
    fm_buf_clear(&args->escaped);
    if (!eng_detok_feed(&args->detok, data, length, &args->scratch) ||
        (args->scratch.length != 0 &&
         !eng_json_escape(args->scratch.data, args->scratch.length, &args->escaped)))
        args->status = FM_NOMEM;
    put(args, args->escaped.data, args->escaped.length, token);
}

static void flush_string(struct eng_arguments *args, uint32_t token)
{
    fm_buf_clear(&args->scratch);
    if (!eng_detok_flush(&args->detok, &args->scratch))
        args->status = FM_NOMEM;
    put(args, args->scratch.data, args->scratch.length, token);
}

static void put_key(struct eng_arguments *args, const char *name, size_t length, uint32_t token)
{
    put_word(args, args->written_count == 0 ? "{\"" : ", \"", token);
    args->written_count++;
    put_string(args, name, length, token);
    flush_string(args, token);
    put_word(args, "\": ", token);
}

static void put_text(struct eng_arguments *args, struct eng_slice text, uint32_t token)
{
    put_word(args, "\"", token);
    put_string(args, text.data, text.length, token);
    flush_string(args, token);
    put_word(args, "\"", token);
}

static struct eng_slice trimmed(const struct fm_buf *buf)
{
    const char *from = buf->data, *to = from + buf->length;
    if (buf->length == 0)
        return (struct eng_slice){"", 0};
    while (from < to && eng_element_is_blank((uint8_t)*from))
        from++;
    while (from < to && eng_element_is_blank((uint8_t)to[-1]))
        to--;
    return (struct eng_slice){from, (size_t)(to - from)};
}

static bool slice_is(struct eng_slice slice, const char *word)
{
    return slice.length == strlen(word) && memcmp(slice.data, word, slice.length) == 0;
}

/* A buffered value that is not a string: as it is if it is JSON, as a literal if it is Python's for
 * one that the schema allows, and as a string of the text otherwise. */
static void put_json(struct eng_arguments *args, unsigned types, uint32_t token)
{
    struct eng_slice text = trimmed(&args->text);
    if (eng_json_type(text) != FM_JSON_NONE) {
        put(args, text.data, text.length, token);
        return;
    }
    args->repairs[ENG_REPAIR_VALUE]++;
    if (slice_is(text, "True") && (types & ENG_TYPE_BOOL) != 0)
        put_word(args, "true", token);
    else if (slice_is(text, "False") && (types & ENG_TYPE_BOOL) != 0)
        put_word(args, "false", token);
    else if (slice_is(text, "None") && (types & ENG_TYPE_NULL) != 0)
        put_word(args, "null", token);
    else
        put_text(args, text, token);
}

/* The value that might have been all arguments is a parameter like others. */
static void put_wrapped(struct eng_arguments *args, uint32_t token)
{
    args->has_wrapped = false;
    put_key(args, args->key.data, args->key.length, token);
    if (args->is_string)
        put_text(args, (struct eng_slice){args->text.data, args->text.length}, token);
    else
        put_json(args, ENG_TYPE_ANY, token);
    fm_buf_clear(&args->text);
}

/* ---- Parameters ---- */

/* Note the name; false: it was given before in this call. */
static bool name_is_new(struct eng_arguments *args, const char *name, size_t length)
{
    uint32_t other;
    size_t at = 0;
    while (at < args->names.length) {
        memcpy(&other, args->names.data + at, sizeof other);
        at += sizeof other;
        if (other == length && (length == 0 || memcmp(args->names.data + at, name, length) == 0))
            return false;
        at += other;
    }
    other = (uint32_t)length;
    if (!fm_buf_put(&args->names, &other, sizeof other) || !fm_buf_put(&args->names, name, length))
        args->status = FM_LIMIT;
    return true;
}

static bool is_wrapper(const struct eng_arguments *args, struct eng_slice name)
{
    return args->tool != NULL && args->written_count == 0 &&
           (slice_is(name, "arguments") || slice_is(name, "input")) &&
           eng_tool_property(args->tool, name) == NULL;
}

void eng_arguments_open(struct eng_arguments *args, const char *name, size_t length,
                        enum eng_flag string, uint32_t token)
{
    struct eng_slice key = {name, length};
    FM_ASSERT(args->mode == ENG_VALUE_NONE);
    if (args->has_wrapped)
        put_wrapped(args, token);
    if (!name_is_new(args, name, length)) {
        args->repairs[ENG_REPAIR_DUPLICATE]++;
        args->mode = ENG_VALUE_SKIP;
        return;
    }
    const struct eng_property *property = eng_tool_property(args->tool, key);
    args->types = property != NULL ? property->types : ENG_TYPE_ANY;
    if (string == ENG_FLAG_ABSENT)
        args->repairs[ENG_REPAIR_STRING_FLAG]++;
    args->is_string = string == ENG_FLAG_TRUE ||
                      (string == ENG_FLAG_ABSENT && (args->types & ENG_TYPE_STRING) != 0);
    fm_buf_clear(&args->text);
    if (is_wrapper(args, key)) {
        args->mode = ENG_VALUE_WRAP;
        fm_buf_clear(&args->key);
        if (!fm_buf_put(&args->key, name, length))
            args->status = FM_NOMEM;
        return;
    }
    args->mode = args->is_string ? ENG_VALUE_STRING : ENG_VALUE_JSON;
    put_key(args, name, length, token);
    if (args->is_string)
        put_word(args, "\"", token);
}

void eng_arguments_byte(struct eng_arguments *args, uint8_t byte, uint32_t token)
{
    if (args->mode == ENG_VALUE_STRING)
        put_string(args, (const char *)&byte, 1, token);
    else if (args->mode != ENG_VALUE_SKIP)
        eng_arguments_body(args, byte);
}

void eng_arguments_body(struct eng_arguments *args, uint8_t byte)
{
    if (!fm_buf_putc(&args->text, (char)byte) && args->status == FM_OK)
        args->status = args->text.length >= ENG_VALUE_BYTES_MAX ? FM_LIMIT : FM_NOMEM;
}

void eng_arguments_close(struct eng_arguments *args, uint32_t token)
{
    switch (args->mode) {
    case ENG_VALUE_STRING:
        flush_string(args, token);
        put_word(args, "\"", token);
        break;
    case ENG_VALUE_JSON:
        put_json(args, args->types, token);
        fm_buf_clear(&args->text);
        break;
    case ENG_VALUE_WRAP: args->has_wrapped = true; break;
    case ENG_VALUE_SKIP: break;
    case ENG_VALUE_NONE: FM_UNREACHABLE();
    }
    args->mode = ENG_VALUE_NONE;
}

/* ---- The end of a call ---- */

/* Is the text an object all of whose keys the schema has? */
static bool is_object_of(const struct eng_tool *tool, struct eng_slice text)
{
    struct fm_json reader;
    struct fm_json_text key;
    char name[ENG_TAG_ELEMENTS_MAX];
    size_t length;
    if (eng_json_type(text) != FM_JSON_OBJECT)
        return false;
    fm_json_init(&reader, text.data, text.length);
    (void)fm_json_object_open(&reader);
    while (fm_json_member(&reader, &key)) {
        if (!fm_json_unescape(key, name, sizeof name, &length) ||
            eng_tool_property(tool, (struct eng_slice){name, length}) == NULL)
            return false;
        (void)fm_json_skip(&reader);
    }
    return true;
}

void eng_arguments_end(struct eng_arguments *args, uint32_t token)
{
    struct eng_slice text = trimmed(&args->text);
    FM_ASSERT(args->mode == ENG_VALUE_NONE);
    bool is_whole = false;
    if (args->has_wrapped) {
        is_whole = is_object_of(args->tool, text);
        if (is_whole)
            args->repairs[ENG_REPAIR_UNWRAPPED]++;
        else
            put_wrapped(args, token);
    } else if (text.length != 0) {
        is_whole = eng_json_type(text) == FM_JSON_OBJECT;
        args->repairs[is_whole ? ENG_REPAIR_JSON_BODY : ENG_REPAIR_JUNK]++;
    }
    if (is_whole)
        put(args, text.data, text.length, token);
    else
        put_word(args, args->written_count == 0 ? "{}" : "}", token);
    eng_outlet_tool(args->outlet, ENG_PIECE_TOOL_END, args->call_index, "", 0, token);
    args->has_wrapped = false;
    fm_buf_clear(&args->text);
}

void eng_arguments_cut(struct eng_arguments *args, uint32_t token)
{
    if (args->has_wrapped) {
        put_wrapped(args, token);
    } else if (args->mode == ENG_VALUE_WRAP) {
        put_key(args, args->key.data, args->key.length, token);
        if (args->is_string) {
            put_word(args, "\"", token);
            put_string(args, args->text.data, args->text.length, token);
            flush_string(args, token);
        }
    } else if (args->mode == ENG_VALUE_STRING) {
        flush_string(args, token);
    }
    args->mode = ENG_VALUE_NONE;
}
