/* tools.c - the functions that a request declares; see text.h and tools.h.
 *
 * Everything is in one arena that goes with the last reference. */
#include "engine/tools.h"

#include <stdatomic.h>
#include <string.h>

#include "backends/base/arena.h"
#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "engine/json.h"

enum {
    NAME_BYTES_MAX = 64,
    SCHEMA_DEPTH_MAX = 4, /* of anyOf in anyOf that are looked into for types */
    TEXT_GROWTH_MAX = 8, /* printed JSON is at most this much longer: one byte to \u00XX and ", " */
};

struct eng_tools {
    _Atomic uint32_t reference_count;
    struct fm_arena arena;
    struct eng_tool *tools;
    uint32_t count;
    struct fm_buf schemas;
};

static bool slice_is(struct eng_slice slice, const char *text)
{
    return slice.length == strlen(text) && memcmp(slice.data, text, slice.length) == 0;
}

static bool slices_equal(struct eng_slice a, struct eng_slice b)
{
    return a.length == b.length && (a.length == 0 || memcmp(a.data, b.data, a.length) == 0);
}

/* ---- Types of a schema ---- */

static unsigned type_of_word(struct eng_slice word)
{
    static const struct {
        const char *word;
        unsigned types;
    } rows[] = {
        {"\"string\"", ENG_TYPE_STRING},  {"\"number\"", ENG_TYPE_NUMBER},
        {"\"integer\"", ENG_TYPE_NUMBER}, {"\"boolean\"", ENG_TYPE_BOOL},
        {"\"null\"", ENG_TYPE_NULL},      {"\"object\"", ENG_TYPE_OBJECT},
        {"\"array\"", ENG_TYPE_ARRAY},
    };
    for (size_t i = 0; i < FM_COUNT(rows); i++) {
        if (slice_is(word, rows[i].word))
            return rows[i].types;
    }
    return ENG_TYPE_ANY;
}

static unsigned type_of_value(struct eng_slice value)
{
    switch (value.data[0]) {
    case '"': return ENG_TYPE_STRING;
    case '{': return ENG_TYPE_OBJECT;
    case '[': return ENG_TYPE_ARRAY;
    case 't':
    case 'f': return ENG_TYPE_BOOL;
    case 'n': return ENG_TYPE_NULL;
    default: return ENG_TYPE_NUMBER;
    }
}

static unsigned types_of_schema(struct eng_slice schema, int depth);

/* What the items of a list allow together; `item_types` of each. */
static unsigned types_of_list(struct eng_slice list, int depth, bool holds_schemas)
{
    struct fm_json reader;
    struct fm_json_text text;
    unsigned types = 0;
    fm_json_init(&reader, list.data, list.length);
    if (fm_json_peek(&reader) != FM_JSON_ARRAY || !fm_json_array_open(&reader))
        return ENG_TYPE_ANY;
    while (fm_json_element(&reader) && fm_json_raw(&reader, &text)) {
        struct eng_slice item = {text.data, text.bytes};
        types |= holds_schemas ? types_of_schema(item, depth + 1) : type_of_value(item);
    }
    return types;
}

static unsigned types_of_type(struct eng_slice type)
{
    struct fm_json reader;
    struct fm_json_text text;
    unsigned types = 0;
    fm_json_init(&reader, type.data, type.length);
    if (fm_json_peek(&reader) != FM_JSON_ARRAY)
        return type_of_word(type);
    (void)fm_json_array_open(&reader);
    while (fm_json_element(&reader) && fm_json_raw(&reader, &text))
        types |= type_of_word((struct eng_slice){text.data, text.bytes});
    return types;
}

static unsigned types_of_schema(struct eng_slice schema, int depth)
{
    if (schema.data[0] != '{' || depth > SCHEMA_DEPTH_MAX)
        return ENG_TYPE_ANY;
    unsigned types = ENG_TYPE_ANY;
    struct eng_slice part = eng_json_member(schema, "type");
    if (part.data != NULL)
        types &= types_of_type(part);
    part = eng_json_member(schema, "enum");
    if (part.data != NULL)
        types &= types_of_list(part, depth, false);
    part = eng_json_member(schema, "const");
    if (part.data != NULL)
        types &= type_of_value(part);
    part = eng_json_member(schema, "anyOf");
    if (part.data != NULL)
        types &= types_of_list(part, depth, true);
    part = eng_json_member(schema, "oneOf");
    if (part.data != NULL)
        types &= types_of_list(part, depth, true);
    return types;
}

/* ---- Building ---- */

/* A string's characters in the arena; data == NULL: no memory. */
static struct eng_slice text_copy(struct eng_tools *tools, struct eng_slice inside)
{
    struct fm_buf text;
    struct eng_slice copy = {NULL, 0};
    fm_buf_init(&text, inside.length + 1);
    if (eng_json_unescape(inside, &text)) {
        copy.data = fm_arena_copy(&tools->arena, text.data, text.length);
        copy.length = text.length;
    }
    fm_buf_done(&text);
    return copy;
}

static bool name_is_good(struct eng_slice name)
{
    for (size_t i = 0; i < name.length; i++) {
        char c = name.data[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '_' || c == '-'))
            return false;
    }
    return name.length >= 1 && name.length <= NAME_BYTES_MAX;
}

static enum fm_status properties_read(struct eng_tools *tools, struct eng_tool *tool,
                                      struct eng_slice properties, struct fm_err *err)
{
    struct eng_json_member *members;
    size_t count;
    if (properties.data == NULL || properties.data[0] != '{')
        return FM_OK;
    enum fm_status status = eng_json_members(properties, &members, &count, err);
    if (status != FM_OK)
        return status;
    struct eng_property *list = fm_arena_take_array(&tools->arena, count, sizeof list[0]);
    for (size_t i = 0; i < count && list != NULL; i++) {
        list[i].name = text_copy(tools, members[i].key);
        list[i].types = types_of_schema(members[i].value, 0);
        if (list[i].name.data == NULL)
            list = NULL;
    }
    fm_free(members);
    if (list == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the tools");
    tool->properties = list;
    tool->property_count = (uint32_t)count;
    return FM_OK;
}

/* The function's text in the prompt: as received, without a `strict` that is off. */
static enum fm_status schema_print(struct eng_tools *tools, struct eng_slice function,
                                   struct fm_err *err)
{
    struct eng_json_member *members;
    size_t count, kept = 0;
    enum fm_status status = eng_json_members(function, &members, &count, err);
    if (status != FM_OK)
        return status;
    for (size_t i = 0; i < count; i++) {
        bool is_off = slice_is(members[i].value, "false") || slice_is(members[i].value, "null");
        if (!slice_is(members[i].key, "strict") || !is_off)
            members[kept++] = members[i];
    }
    if (tools->schemas.length != 0)
        (void)fm_buf_putc(&tools->schemas, '\n');
    status = eng_json_print_members(members, kept, &tools->schemas, err);
    fm_free(members);
    return status;
}

static enum fm_status tool_read(struct eng_tools *tools, struct eng_slice item, uint32_t index,
                                struct fm_err *err)
{
    struct eng_slice function = eng_json_member(item, "function");
    if (function.data == NULL || function.data[0] != '{')
        return FM_FAIL(err, FM_INVALID, "tools[%u].function is missing", index);
    struct eng_slice name = eng_json_member(function, "name");
    if (name.data == NULL || name.data[0] != '"')
        return FM_FAIL(err, FM_INVALID, "tools[%u].function.name is missing", index);

    struct eng_tool *tool = &tools->tools[tools->count];
    tool->name = text_copy(tools, (struct eng_slice){name.data + 1, name.length - 2});
    if (tool->name.data == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the tools");
    if (!name_is_good(tool->name))
        return FM_FAIL(err, FM_INVALID,
                       "tools[%u].function.name must be 1 to %d letters, digits, '_' or '-'", index,
                       NAME_BYTES_MAX);
    if (eng_tools_has(tools, tool->name))
        return FM_FAIL(err, FM_INVALID, "tools[%u].function.name is used twice", index);

    struct eng_slice parameters = eng_json_member(function, "parameters");
    struct eng_slice properties = {NULL, 0};
    if (parameters.data != NULL)
        properties = eng_json_member(parameters, "properties");
    enum fm_status status = properties_read(tools, tool, properties, err);
    if (status == FM_OK)
        status = schema_print(tools, function, err);
    if (status == FM_OK)
        tools->count++;
    return status;
}

static enum fm_status list_read(struct eng_tools *tools, struct eng_slice json, uint32_t count_max,
                                struct fm_err *err)
{
    struct fm_json reader;
    struct fm_json_text text;
    uint32_t index = 0;
    fm_json_init(&reader, json.data, json.length);
    (void)fm_json_array_open(&reader);
    for (; fm_json_element(&reader) && fm_json_raw(&reader, &text); index++) {
        struct eng_slice item = {text.data, text.bytes};
        if (item.data[0] != '{')
            return FM_FAIL(err, FM_INVALID, "tools[%u] is not an object", index);
        struct eng_slice type = eng_json_member(item, "type");
        if (type.data != NULL && !slice_is(type, "\"function\""))
            continue;
        if (tools->count == count_max)
            return FM_FAIL(err, FM_LIMIT, "tools has more than %u functions", count_max);
        enum fm_status status = tool_read(tools, item, index, err);
        if (status != FM_OK)
            return status;
    }
    return FM_OK;
}

enum fm_status eng_tools_new(struct eng_slice json, uint32_t count_max,
                             struct eng_tools **ret_tools, struct fm_err *err)
{
    if (json.data == NULL || eng_json_type(json) != FM_JSON_ARRAY)
        return FM_FAIL(err, FM_INVALID, "tools is not an array");
    struct eng_tools *tools = fm_alloc(sizeof *tools);
    if (tools == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the tools");
    atomic_init(&tools->reference_count, 1);
    fm_arena_init(&tools->arena, json.length * 16 + (1 << 20));
    fm_buf_init(&tools->schemas, json.length * TEXT_GROWTH_MAX + 1024);
    tools->tools = fm_alloc_array(count_max, sizeof tools->tools[0]);

    enum fm_status status = tools->tools != NULL
                                ? list_read(tools, json, count_max, err)
                                : FM_FAIL(err, FM_NOMEM, "no memory for %u tools", count_max);
    if (status != FM_OK) {
        eng_tools_unref(tools);
        return status;
    }
    *ret_tools = tools;
    return FM_OK;
}

struct eng_tools *eng_tools_ref(struct eng_tools *tools)
{
    /* Relaxed: whoever passes the pointer on orders what it points to. */
    if (tools != NULL)
        (void)atomic_fetch_add_explicit(&tools->reference_count, 1, memory_order_relaxed);
    return tools;
}

void eng_tools_unref(struct eng_tools *tools)
{
    if (tools == NULL)
        return;
    /* Release: our reads come before the free; acquire: the others' did, for the one that frees. */
    uint32_t before = atomic_fetch_sub_explicit(&tools->reference_count, 1, memory_order_acq_rel);
    FM_ASSERT(before != 0);
    if (before != 1)
        return;
    fm_buf_done(&tools->schemas);
    fm_arena_done(&tools->arena);
    fm_free(tools->tools);
    fm_free(tools);
}

/* ---- Looking ---- */

uint32_t eng_tools_count(const struct eng_tools *tools)
{
    return tools != NULL ? tools->count : 0;
}

const struct eng_tool *eng_tools_find(const struct eng_tools *tools, struct eng_slice name)
{
    for (uint32_t i = 0; i < eng_tools_count(tools); i++) {
        if (slices_equal(tools->tools[i].name, name))
            return &tools->tools[i];
    }
    return NULL;
}

bool eng_tools_has(const struct eng_tools *tools, struct eng_slice name)
{
    return eng_tools_find(tools, name) != NULL;
}

const struct eng_property *eng_tool_property(const struct eng_tool *tool, struct eng_slice name)
{
    for (uint32_t i = 0; tool != NULL && i < tool->property_count; i++) {
        if (slices_equal(tool->properties[i].name, name))
            return &tool->properties[i];
    }
    return NULL;
}

struct eng_slice eng_tools_schemas(const struct eng_tools *tools)
{
    return (struct eng_slice){tools->schemas.data, tools->schemas.length};
}
