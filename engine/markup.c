/* markup.c - see markup.h. */
#include "engine/markup.h"

#include <string.h>

#include "backends/base/assert.h"

enum { WORD_MAX = 24 };

/* A place in the elements.  value_at gives END behind the last. */
struct cursor {
    const struct eng_element *elements;
    size_t count, at;
};

enum { END = UINT16_MAX };

static uint16_t peek(const struct cursor *cursor)
{
    return cursor->at < cursor->count ? cursor->elements[cursor->at].value : END;
}

static void skip_blanks(struct cursor *cursor)
{
    while (eng_element_is_blank(peek(cursor)))
        cursor->at++;
}

/* Letters and underscores, NUL-terminated; false: longer than any word that means something. */
static bool word_read(struct cursor *cursor, char ret_word[WORD_MAX])
{
    size_t length = 0;
    for (;; cursor->at++) {
        uint16_t value = peek(cursor);
        bool is_word = (value >= 'a' && value <= 'z') || (value >= 'A' && value <= 'Z') ||
                       value == '_' || value == '-';
        if (!is_word)
            break;
        if (length == WORD_MAX - 1)
            return false;
        ret_word[length++] = (char)value;
    }
    ret_word[length] = '\0';
    return true;
}

static const struct {
    const char *word;
    enum eng_tag_kind kind;
} tags[] = {
    {"tool_calls", ENG_TAG_BLOCK},         {"toolcalls", ENG_TAG_BLOCK_ODD},
    {"function_calls", ENG_TAG_BLOCK_ODD}, {"invoke", ENG_TAG_INVOKE},
    {"parameter", ENG_TAG_PARAMETER},
};

static enum eng_match kind_match(struct cursor *cursor, enum eng_tag_kind *ret_kind)
{
    char word[WORD_MAX];
    if (!word_read(cursor, word))
        return ENG_MATCH_NO;
    bool may_go_on = peek(cursor) == END;
    for (size_t i = 0; i < FM_COUNT(tags); i++) {
        if (may_go_on && strncmp(tags[i].word, word, strlen(word)) == 0)
            return ENG_MATCH_MORE;
        if (!may_go_on && strcmp(tags[i].word, word) == 0) {
            *ret_kind = tags[i].kind;
            return ENG_MATCH_YES;
        }
    }
    return ENG_MATCH_NO;
}

/* The value of an attribute behind its opening quote, up to and over the closing one. */
static enum eng_match quoted_match(struct cursor *cursor, size_t *ret_at, size_t *ret_count)
{
    size_t from = cursor->at;
    for (;; cursor->at++) {
        uint16_t value = peek(cursor);
        if (value == END)
            return ENG_MATCH_MORE;
        if (value == ENG_ELEMENT_DSML)
            return ENG_MATCH_NO;
        if (value != '"')
            continue;
        cursor->at++;
        uint16_t behind = peek(cursor);
        if (behind == END)
            return ENG_MATCH_MORE;
        if (eng_element_is_blank(behind) || behind == '>') {
            *ret_at = from;
            *ret_count = cursor->at - 1 - from;
            return ENG_MATCH_YES;
        }
        cursor->at--; /* a quote within the name */
    }
}

static enum eng_flag flag_of(const struct eng_element *elements, size_t count)
{
    static const char *const words[] = {"false", "true"};
    for (int i = 0; i < 2; i++) {
        size_t at = 0;
        if (count != strlen(words[i]))
            continue;
        while (at < count && (elements[at].value | 0x20) == words[i][at])
            at++;
        if (at == count)
            return i == 0 ? ENG_FLAG_FALSE : ENG_FLAG_TRUE;
    }
    return ENG_FLAG_ABSENT;
}

/* One attribute: word = "value". */
static enum eng_match attribute_match(struct cursor *cursor, struct eng_tag *tag)
{
    char word[WORD_MAX];
    size_t at, count;
    if (!word_read(cursor, word))
        return ENG_MATCH_NO;
    skip_blanks(cursor);
    if (peek(cursor) != '=')
        return peek(cursor) == END ? ENG_MATCH_MORE : ENG_MATCH_NO;
    cursor->at++;
    skip_blanks(cursor);
    if (peek(cursor) != '"')
        return peek(cursor) == END ? ENG_MATCH_MORE : ENG_MATCH_NO;
    cursor->at++;
    enum eng_match match = quoted_match(cursor, &at, &count);
    if (match != ENG_MATCH_YES)
        return match;
    if (strcmp(word, "name") == 0 && !tag->has_name) {
        tag->has_name = true;
        tag->name_at = at;
        tag->name_count = count;
    } else if (strcmp(word, "string") == 0) {
        tag->string = flag_of(cursor->elements + at, count);
    }
    return ENG_MATCH_YES;
}

static enum eng_match match_from(struct cursor *cursor, struct eng_tag *tag)
{
    if (peek(cursor) != '<')
        return ENG_MATCH_NO;
    cursor->at++;
    if (peek(cursor) == '/') {
        tag->is_close = true;
        cursor->at++;
    }
    if (peek(cursor) != ENG_ELEMENT_DSML)
        return peek(cursor) == END ? ENG_MATCH_MORE : ENG_MATCH_NO;
    cursor->at++;
    enum eng_match match = kind_match(cursor, &tag->kind);
    if (match != ENG_MATCH_YES)
        return match;

    bool has_attributes =
        !tag->is_close && (tag->kind == ENG_TAG_INVOKE || tag->kind == ENG_TAG_PARAMETER);
    for (;;) {
        bool is_apart = eng_element_is_blank(peek(cursor));
        skip_blanks(cursor);
        uint16_t value = peek(cursor);
        if (value == END)
            return ENG_MATCH_MORE;
        if (value == '>')
            break;
        if (!has_attributes || !is_apart)
            return ENG_MATCH_NO;
        match = attribute_match(cursor, tag);
        if (match != ENG_MATCH_YES)
            return match;
    }
    tag->length = ++cursor->at;
    return ENG_MATCH_YES;
}

enum eng_match eng_tag_match(const struct eng_element *elements, size_t count,
                             struct eng_tag *ret_tag)
{
    struct eng_tag tag = {0};
    struct cursor cursor = {elements, count, 0};
    FM_ASSERT(count > 0);
    enum eng_match match = match_from(&cursor, &tag);
    if (match == ENG_MATCH_MORE && count >= ENG_TAG_ELEMENTS_MAX)
        return ENG_MATCH_NO;
    if (match == ENG_MATCH_YES)
        *ret_tag = tag;
    return match;
}
