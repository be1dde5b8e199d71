/* tools.h - what the renderer and the parser know of the functions that a request declares. */
#ifndef ENG_TOOLS_H
#define ENG_TOOLS_H

#include "engine/text.h"

/* Types that a schema allows, as a sum. */
enum {
    ENG_TYPE_STRING = 1,
    ENG_TYPE_NUMBER = 2, /* whole ones too */
    ENG_TYPE_BOOL = 4,
    ENG_TYPE_NULL = 8,
    ENG_TYPE_OBJECT = 16,
    ENG_TYPE_ARRAY = 32,
    ENG_TYPE_ANY = 63,
};

struct eng_property {
    struct eng_slice name;
    unsigned types;
};

struct eng_tool {
    struct eng_slice name;
    const struct eng_property *properties; /* of its parameters, in the schema's order */
    uint32_t property_count;
};

/* The function of this name, or NULL; tools may be NULL. */
const struct eng_tool *eng_tools_find(const struct eng_tools *tools, struct eng_slice name);

/* The property of a function's parameters, or NULL; tool may be NULL. */
const struct eng_property *eng_tool_property(const struct eng_tool *tool, struct eng_slice name);

/* The functions as the prompt lists them: JSON objects, one per line. */
struct eng_slice eng_tools_schemas(const struct eng_tools *tools);

#endif
