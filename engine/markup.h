/* markup.h - the tags of a tool call block.
 *
 * A tag begins with "<" or "</" and the control token DSML, which is one symbol here and no text.
 * Everything else is bytes: tags do not start or end where tokens do. */
#ifndef ENG_MARKUP_H
#define ENG_MARKUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ENG_ELEMENT_DSML = 256, ENG_TAG_ELEMENTS_MAX = 1024 };

struct eng_element {
    uint32_t token; /* the position of the token that it came from */
    uint16_t value; /* a byte, or ENG_ELEMENT_DSML */
};

enum eng_tag_kind {
    ENG_TAG_BLOCK,     /* tool_calls */
    ENG_TAG_BLOCK_ODD, /* toolcalls, function_calls: what models write instead */
    ENG_TAG_INVOKE,
    ENG_TAG_PARAMETER,
};

enum eng_flag { ENG_FLAG_ABSENT, ENG_FLAG_FALSE, ENG_FLAG_TRUE };

struct eng_tag {
    enum eng_tag_kind kind;
    bool is_close;
    bool has_name;
    enum eng_flag string;       /* the string attribute */
    size_t name_at, name_count; /* the name attribute's elements, without quotes */
    size_t length;              /* elements of the whole tag */
};

enum eng_match {
    ENG_MATCH_NO,   /* no tag begins here */
    ENG_MATCH_MORE, /* the elements may be the beginning of one */
    ENG_MATCH_YES,
};

/* Does a tag begin at elements[0]?  count > 0.  *ret_tag is written for YES.  A name is raw: a quote
 * in it ends it only before white space or ">".  Pure. */
enum eng_match eng_tag_match(const struct eng_element *elements, size_t count,
                             struct eng_tag *ret_tag);

static inline bool eng_element_is_blank(uint16_t value)
{
    return value == ' ' || value == '\n' || value == '\t' || value == '\r';
}

#endif
