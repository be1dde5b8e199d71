/* parse.c - what the model says: reasoning, answer, tool calls.
 *
 * The input is a stream of elements: bytes, and the control token DSML as one symbol.  Elements wait
 * in `hold` until it is certain what they are; step() decides over the first of them, again and
 * again, and either uses some up or asks for more.  So nothing depends on how the stream is cut.
 *
 *                </think>, or a block with a declared call
 *      REASON ------------------------------------------> CONTENT (or BLOCK)
 *
 *      CONTENT --- block opener ---> BLOCK --- invoke ---> PARAMS --- parameter ---> VALUE
 *       |   ^                         |  ^                  |  ^                      |
 *       |   '- another tag, too long  |  '---- invoke end --'  '---- parameter end ---'
 *       v   |                         v
 *      HELD --- invoke end ---> BLOCK DONE (block end)
 *
 *   REASON, CONTENT   text goes out, but for what may be the beginning of a tag
 *   HELD              a call without a block around it: kept whole until its end tag shows that it is
 *                     one; until then it may be prose that quotes the markup
 *   BLOCK             between calls; blanks and junk are skipped
 *   PARAMS            within a call, between parameters; text here may be a JSON object (BODY)
 *   VALUE             within a parameter: arguments.c writes it
 *   Every state leads to DONE: at EOS, at a stop string, and by eng_parser_finish.
 *
 * Without tools the only states are REASON, CONTENT and DONE, and DSML is text.
 * Text that went out is never taken back, and a call that was cut is never closed. */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "engine/arguments.h"
#include "engine/markup.h"
#include "engine/outlet.h"
#include "engine/tools.h"

enum {
    HELD_ELEMENTS_MAX = 64 << 10, /* of a call without a block */
    BLANKS_MAX = 64,              /* between an opener and the call that proves it */
};

enum state { REASON, CONTENT, HELD, BLOCK, PARAMS, BODY, VALUE, DONE };

struct eng_parser {
    const struct eng_text *text;
    struct eng_tools *tools; /* NULL: DSML is text */
    bool is_raw;
    bool keeps_eos_in_reasoning;
    bool saw_junk; /* within a run of junk that was counted */
    enum state state;
    enum eng_end end;
    enum fm_status status; /* a failure that ended the parse */

    struct eng_element *hold; /* [hold_capacity]; undecided: hold_from .. hold_from + hold_count */
    size_t hold_from, hold_count, hold_capacity;
    size_t held_tag;            /* HELD: elements before the invoke tag */
    size_t held_at;             /* HELD: elements that were looked at */
    uint16_t last, before_last; /* the latest elements, for the mask */
    uint32_t token;             /* position of the token that is being fed */

    struct eng_outlet outlet;
    struct eng_arguments args;
    struct fm_buf name;
    struct eng_parser_stats stats;
};

const char *eng_repair_name(enum eng_repair repair)
{
    static const char *const names[ENG_REPAIR_COUNT] = {
        [ENG_REPAIR_IMPLICIT_THINK_END] = "implicit_think_end",
        [ENG_REPAIR_EOS_IN_REASONING] = "eos_in_reasoning",
        [ENG_REPAIR_OPENER] = "opener",
        [ENG_REPAIR_UNDECLARED_NAME] = "undeclared_name",
        [ENG_REPAIR_PARAMETER_END] = "parameter_end",
        [ENG_REPAIR_INVOKE_END] = "invoke_end",
        [ENG_REPAIR_BLOCK_END] = "block_end",
        [ENG_REPAIR_JUNK] = "junk",
        [ENG_REPAIR_JSON_BODY] = "json_body",
        [ENG_REPAIR_UNWRAPPED] = "unwrapped",
        [ENG_REPAIR_STRING_FLAG] = "string_flag",
        [ENG_REPAIR_VALUE] = "value",
        [ENG_REPAIR_DUPLICATE] = "duplicate",
        [ENG_REPAIR_CONTROL_DROPPED] = "control_dropped",
    };
    FM_ASSERT((unsigned)repair < ENG_REPAIR_COUNT);
    return names[repair];
}

/* ---- Life ---- */

enum fm_status eng_parser_new(const struct eng_parser_spec *spec, struct eng_parser **ret_parser,
                              struct fm_err *err)
{
    struct eng_parser *parser = fm_alloc(sizeof *parser);
    if (parser == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for an output parser");
    parser->text = spec->text;
    parser->is_raw = spec->is_raw;
    parser->keeps_eos_in_reasoning = spec->keeps_eos_in_reasoning;
    parser->state = spec->is_raw || spec->start == ENG_CHANNEL_CONTENT ? CONTENT : REASON;
    fm_buf_init(&parser->name, ENG_TAG_ELEMENTS_MAX * 16);
    eng_arguments_init(&parser->args, &parser->outlet, parser->stats.repairs);
    if (eng_tools_count(spec->tools) != 0 && !spec->calls_are_banned && !spec->is_raw)
        parser->tools = eng_tools_ref(spec->tools);

    enum fm_status status = eng_outlet_init(&parser->outlet, spec, err);
    if (status != FM_OK) {
        eng_parser_free(parser);
        return status;
    }
    *ret_parser = parser;
    return FM_OK;
}

void eng_parser_free(struct eng_parser *parser)
{
    if (parser == NULL)
        return;
    eng_tools_unref(parser->tools);
    eng_outlet_done(&parser->outlet);
    eng_arguments_done(&parser->args);
    fm_buf_done(&parser->name);
    if (parser->hold != NULL)
        fm_wipe(parser->hold, parser->hold_capacity * sizeof parser->hold[0]);
    fm_free(parser->hold);
    fm_free(parser);
}

/* ---- Elements that wait ---- */

static const struct eng_element *held(const struct eng_parser *parser, size_t index)
{
    FM_ASSERT(index < parser->hold_count);
    return &parser->hold[parser->hold_from + index];
}

static bool hold_is(const struct eng_parser *parser, size_t index, uint16_t value)
{
    return index < parser->hold_count && held(parser, index)->value == value;
}

static void hold_put(struct eng_parser *parser, uint16_t value)
{
    if (parser->hold_from + parser->hold_count == parser->hold_capacity) {
        size_t capacity = parser->hold_capacity;
        if (parser->hold_count >= capacity / 2) {
            capacity = capacity == 0 ? 64 : capacity * 2;
            struct eng_element *hold = fm_realloc_array(parser->hold, capacity, sizeof hold[0]);
            if (hold == NULL) {
                parser->status = FM_NOMEM;
                return;
            }
            parser->hold = hold;
            parser->hold_capacity = capacity;
        }
        memmove(parser->hold, parser->hold + parser->hold_from,
                parser->hold_count * sizeof parser->hold[0]);
        parser->hold_from = 0;
    }
    parser->hold[parser->hold_from + parser->hold_count++] =
        (struct eng_element){parser->token, value};
}

static void hold_drop(struct eng_parser *parser, size_t count)
{
    FM_ASSERT(count <= parser->hold_count);
    parser->hold_from += count;
    parser->hold_count -= count;
    if (parser->hold_count == 0)
        parser->hold_from = 0;
}

static enum eng_match match_at(const struct eng_parser *parser, size_t index,
                               struct eng_tag *ret_tag)
{
    return eng_tag_match(held(parser, index), parser->hold_count - index, ret_tag);
}

/* Where the elements go that are not markup. */
typedef void (*byte_sink)(struct eng_parser *parser, uint8_t byte, uint32_t token);

static void text_byte(struct eng_parser *parser, uint8_t byte, uint32_t token)
{
    eng_outlet_text(&parser->outlet,
                    parser->state == REASON ? ENG_PIECE_REASONING : ENG_PIECE_CONTENT, byte, token);
}

static void value_byte(struct eng_parser *parser, uint8_t byte, uint32_t token)
{
    eng_arguments_byte(&parser->args, byte, token);
}

static void body_byte(struct eng_parser *parser, uint8_t byte, uint32_t token)
{
    (void)token;
    eng_arguments_body(&parser->args, byte);
}

/* Give the first elements to a sink; DSML is its name there. */
static void hold_release(struct eng_parser *parser, size_t count, byte_sink sink)
{
    struct eng_slice dsml = eng_text_token(parser->text, eng_text_info(parser->text)->dsml);
    for (size_t i = 0; i < count; i++) {
        const struct eng_element *element = held(parser, i);
        if (element->value < ENG_ELEMENT_DSML) {
            sink(parser, (uint8_t)element->value, element->token);
            continue;
        }
        for (size_t j = 0; j < dsml.length; j++)
            sink(parser, (uint8_t)dsml.data[j], element->token);
    }
    hold_drop(parser, count);
}

/* The bytes of an attribute's value. */
static struct eng_slice name_of(struct eng_parser *parser, size_t tag_at, const struct eng_tag *tag)
{
    fm_buf_clear(&parser->name);
    for (size_t i = 0; i < tag->name_count; i++) {
        if (!fm_buf_putc(&parser->name, (char)held(parser, tag_at + tag->name_at + i)->value))
            parser->status = FM_NOMEM;
    }
    return (struct eng_slice){parser->name.data, parser->name.length};
}

/* ---- Calls ---- */

static void junk(struct eng_parser *parser)
{
    if (!parser->saw_junk)
        parser->stats.repairs[ENG_REPAIR_JUNK]++;
    parser->saw_junk = true;
}

static void call_begin(struct eng_parser *parser, const struct eng_tag *tag)
{
    struct eng_slice name = name_of(parser, 0, tag);
    const struct eng_tool *tool = eng_tools_find(parser->tools, name);
    struct eng_detok detok = {0};
    struct fm_buf text;
    if (tool == NULL)
        parser->stats.repairs[ENG_REPAIR_UNDECLARED_NAME]++;
    fm_buf_init(&text, name.length * 3 + 3);
    if (!eng_detok_feed(&detok, name.data, name.length, &text) || !eng_detok_flush(&detok, &text))
        parser->status = FM_NOMEM;
    eng_arguments_begin(&parser->args, tool, parser->stats.call_count);
    eng_outlet_tool(&parser->outlet, ENG_PIECE_TOOL_BEGIN, parser->stats.call_count, text.data,
                    text.length, parser->token);
    fm_buf_done(&text);
    parser->stats.call_count++;
    parser->state = PARAMS;
    parser->saw_junk = false;
    hold_drop(parser, tag->length);
}

static void call_end(struct eng_parser *parser)
{
    eng_arguments_end(&parser->args, parser->token);
    parser->stats.complete_count++;
    parser->state = BLOCK;
    parser->saw_junk = false;
}

static bool is_block_tag(const struct eng_tag *tag)
{
    return tag->kind == ENG_TAG_BLOCK || tag->kind == ENG_TAG_BLOCK_ODD;
}

static void block_end(struct eng_parser *parser)
{
    parser->state = DONE;
    parser->end = ENG_END_BLOCK;
    hold_drop(parser, parser->hold_count);
}

/* ---- Steps: true if elements were used up or the state moved on, false if more are needed ---- */

/* Is the tag behind `at` (and blanks) a call of a declared function? */
static enum eng_match declared_match(struct eng_parser *parser, size_t at)
{
    struct eng_tag tag;
    size_t from = at;
    while (at < parser->hold_count && eng_element_is_blank(held(parser, at)->value))
        at++;
    if (at - from > BLANKS_MAX)
        return ENG_MATCH_NO;
    if (at == parser->hold_count)
        return ENG_MATCH_MORE;
    enum eng_match match = match_at(parser, at, &tag);
    if (match != ENG_MATCH_YES)
        return match;
    bool is_call = tag.kind == ENG_TAG_INVOKE && !tag.is_close && tag.has_name &&
                   eng_tools_has(parser->tools, name_of(parser, at, &tag));
    return is_call ? ENG_MATCH_YES : ENG_MATCH_NO;
}

/* A tag at `at` of the hold, in text: is it one that leaves the text?  *ret_state is HELD for a call
 * without a block, else as it was. */
static enum eng_match opener_match(struct eng_parser *parser, size_t at, struct eng_tag *ret_tag,
                                   enum state *ret_state)
{
    enum eng_match match = match_at(parser, at, ret_tag);
    if (match != ENG_MATCH_YES)
        return match;
    if (ret_tag->is_close)
        return ENG_MATCH_NO;
    if (ret_tag->kind == ENG_TAG_BLOCK && parser->state == CONTENT)
        return ENG_MATCH_YES;
    if (ret_tag->kind == ENG_TAG_BLOCK || (is_block_tag(ret_tag) && parser->state == CONTENT))
        return declared_match(parser, at + ret_tag->length);
    if (ret_tag->kind == ENG_TAG_INVOKE && parser->state == CONTENT) {
        *ret_state = HELD;
        return declared_match(parser, at);
    }
    return ENG_MATCH_NO;
}

/* The text ends at a block, `at` elements into the hold. */
static void block_begin(struct eng_parser *parser, size_t at, const struct eng_tag *tag)
{
    uint32_t *repairs = parser->stats.repairs;
    if (parser->state == REASON) {
        repairs[ENG_REPAIR_IMPLICIT_THINK_END]++;
        parser->stats.reasoning_count = held(parser, at)->token;
    }
    if (tag->kind == ENG_TAG_BLOCK_ODD)
        repairs[ENG_REPAIR_OPENER]++;
    eng_outlet_close_text(&parser->outlet);
    if (parser->outlet.is_stopped)
        return;
    hold_drop(parser, at + tag->length);
    parser->state = BLOCK;
    parser->saw_junk = false;
}

/* REASON and CONTENT with tools.  Two newlines before an opener belong to it. */
static bool text_step(struct eng_parser *parser)
{
    struct eng_tag tag;
    enum state next = BLOCK;
    size_t at = 0;
    if (hold_is(parser, 0, '\n')) {
        if (parser->hold_count == 1 || (hold_is(parser, 1, '\n') && parser->hold_count == 2))
            return false;
        at = hold_is(parser, 1, '\n') && hold_is(parser, 2, '<') ? 2 : 0;
    }
    if (!hold_is(parser, at, '<')) {
        hold_release(parser, 1, text_byte);
        return true;
    }
    enum eng_match match = opener_match(parser, at, &tag, &next);
    if (match == ENG_MATCH_MORE)
        return false;
    if (match == ENG_MATCH_NO) {
        hold_release(parser, 1, text_byte);
    } else if (next == BLOCK) {
        block_begin(parser, at, &tag);
    } else {
        parser->state = HELD;
        parser->held_tag = at;
        parser->held_at = at + tag.length;
    }
    return true;
}

static bool held_step(struct eng_parser *parser)
{
    struct eng_tag tag;
    while (parser->held_at < parser->hold_count) {
        enum eng_match match = match_at(parser, parser->held_at, &tag);
        if (match == ENG_MATCH_MORE)
            break;
        if (match == ENG_MATCH_NO) {
            parser->held_at++;
        } else if (tag.is_close && tag.kind == ENG_TAG_INVOKE) {
            parser->stats.repairs[ENG_REPAIR_OPENER]++;
            parser->state = CONTENT;
            eng_outlet_close_text(&parser->outlet);
            hold_drop(parser, parser->held_tag);
            parser->state = BLOCK;
            parser->saw_junk = false;
            return true;
        } else if (!tag.is_close && tag.kind != ENG_TAG_PARAMETER) {
            size_t prose = parser->held_at; /* but this tag may be a block, with its newlines */
            if (hold_is(parser, prose - 1, '\n') && hold_is(parser, prose - 2, '\n'))
                prose -= 2;
            parser->state = CONTENT;
            hold_release(parser, prose, text_byte);
            return true;
        } else {
            parser->held_at += tag.length;
        }
    }
    if (parser->hold_count <= HELD_ELEMENTS_MAX)
        return false;
    parser->state = CONTENT;
    hold_release(parser, parser->held_at, text_byte);
    return true;
}

static bool block_step(struct eng_parser *parser)
{
    struct eng_tag tag;
    bool is_blank = eng_element_is_blank(held(parser, 0)->value);
    enum eng_match match = match_at(parser, 0, &tag);
    if (match == ENG_MATCH_MORE)
        return false;
    if (match == ENG_MATCH_NO) {
        if (!is_blank)
            junk(parser);
        hold_drop(parser, 1);
    } else if (tag.is_close && is_block_tag(&tag)) {
        block_end(parser);
    } else if (!tag.is_close && tag.kind == ENG_TAG_INVOKE && tag.has_name) {
        call_begin(parser, &tag);
    } else {
        junk(parser);
        hold_drop(parser, tag.length);
    }
    return true;
}

/* A tag that ends a call, properly or not; false: it is another. */
static bool call_ends(struct eng_parser *parser, const struct eng_tag *tag)
{
    if (tag->kind == ENG_TAG_INVOKE && tag->is_close) {
        hold_drop(parser, tag->length);
        call_end(parser);
        return true;
    }
    bool ends =
        (is_block_tag(tag) && tag->is_close) || (tag->kind == ENG_TAG_INVOKE && tag->has_name);
    if (!ends)
        return false;
    parser->stats.repairs[ENG_REPAIR_INVOKE_END]++;
    call_end(parser); /* the tag stays for BLOCK */
    return true;
}

/* PARAMS, and BODY when text stands in place of parameters. */
static bool params_step(struct eng_parser *parser)
{
    struct eng_tag tag;
    uint16_t value = held(parser, 0)->value;
    enum eng_match match = match_at(parser, 0, &tag);
    if (match == ENG_MATCH_MORE)
        return false;
    if (match == ENG_MATCH_NO) {
        bool is_first = parser->args.names.length == 0 && parser->args.text.length == 0;
        if (parser->state == PARAMS && value == '{' && is_first)
            parser->state = BODY;
        if (parser->state == BODY) {
            hold_release(parser, 1, body_byte);
            return true;
        }
        if (!eng_element_is_blank(value))
            junk(parser);
        hold_drop(parser, 1);
        return true;
    }
    if (call_ends(parser, &tag))
        return true;
    if (tag.kind == ENG_TAG_PARAMETER && !tag.is_close && tag.has_name) {
        struct eng_slice name = name_of(parser, 0, &tag);
        if (parser->state == BODY) {
            junk(parser);
            fm_buf_clear(&parser->args.text);
        }
        eng_arguments_open(&parser->args, name.data, name.length, tag.string, parser->token);
        parser->state = VALUE;
        parser->saw_junk = false;
    } else {
        junk(parser);
    }
    hold_drop(parser, tag.length);
    return true;
}

/* A newline is held back with the tag: in front of a wrong end tag it is dropped. */
static bool value_step(struct eng_parser *parser)
{
    struct eng_tag tag;
    size_t at = hold_is(parser, 0, '\n') ? 1 : 0;
    if (at == parser->hold_count)
        return false;
    if (!hold_is(parser, at, '<')) {
        hold_release(parser, 1, value_byte);
        return true;
    }
    enum eng_match match = match_at(parser, at, &tag);
    if (match == ENG_MATCH_MORE)
        return false;
    bool is_end = match == ENG_MATCH_YES && tag.is_close && tag.kind == ENG_TAG_PARAMETER;
    bool is_damage = match == ENG_MATCH_YES && !is_end &&
                     (tag.is_close || (tag.kind == ENG_TAG_PARAMETER && tag.has_name));
    if (is_end) {
        hold_release(parser, at, value_byte);
        hold_drop(parser, tag.length);
    } else if (is_damage) {
        parser->stats.repairs[ENG_REPAIR_PARAMETER_END]++;
        hold_drop(parser, at);
    } else {
        hold_release(parser, 1, value_byte);
        return true;
    }
    eng_arguments_close(&parser->args, parser->token);
    parser->state = PARAMS;
    return true;
}

static bool step(struct eng_parser *parser)
{
    switch (parser->state) {
    case REASON:
    case CONTENT:
        if (parser->tools != NULL)
            return text_step(parser);
        hold_release(parser, parser->hold_count, text_byte);
        return true;
    case HELD: return held_step(parser);
    case BLOCK: return block_step(parser);
    case PARAMS:
    case BODY: return params_step(parser);
    case VALUE: return value_step(parser);
    case DONE: hold_drop(parser, parser->hold_count); return true;
    }
    FM_UNREACHABLE();
}

static bool is_broken(const struct eng_parser *parser)
{
    return parser->status != FM_OK || parser->outlet.status != FM_OK ||
           parser->args.status != FM_OK;
}

static void element(struct eng_parser *parser, uint16_t value)
{
    hold_put(parser, value);
    parser->before_last = parser->last;
    parser->last = value;
    while (parser->hold_count != 0 && !is_broken(parser) && !parser->outlet.is_stopped &&
           step(parser))
        ;
}

/* ---- The end ---- */

/* Elements that were waiting in a value: text, but for the beginning of a tag. */
static void value_cut(struct eng_parser *parser)
{
    size_t text = parser->hold_count;
    for (size_t i = 0; i < parser->hold_count; i++) {
        if (held(parser, i)->value == ENG_ELEMENT_DSML)
            text = hold_is(parser, 0, '\n') ? 1 : 0;
    }
    hold_release(parser, text, value_byte);
}

static void finish(struct eng_parser *parser, enum eng_end end)
{
    switch (parser->state) {
    case HELD: parser->state = CONTENT; /* fall through */
    case REASON:
    case CONTENT: hold_release(parser, parser->hold_count, text_byte); break;
    case VALUE: value_cut(parser); /* fall through */
    case BODY:
    case PARAMS: eng_arguments_cut(&parser->args, parser->token); /* fall through */
    case BLOCK:
        if (end == ENG_END_EOS)
            parser->stats.repairs[ENG_REPAIR_BLOCK_END]++;
        break;
    case DONE: return;
    }
    if (parser->state == REASON)
        parser->stats.reasoning_count = parser->stats.token_count;
    eng_outlet_close_text(&parser->outlet);
    hold_drop(parser, parser->hold_count);
    parser->state = DONE;
    parser->end = end;
}

/* ---- Tokens ---- */

/* <think> or </think>: no text in any state, and only one of them means something. */
static void think(struct eng_parser *parser, bool is_end)
{
    if (parser->state == REASON || parser->state == CONTENT)
        hold_release(parser, parser->hold_count, text_byte);
    if (parser->state != REASON || !is_end) {
        parser->stats.repairs[ENG_REPAIR_CONTROL_DROPPED]++;
        return;
    }
    eng_outlet_close_text(&parser->outlet);
    parser->stats.reasoning_count = parser->stats.token_count;
    parser->state = CONTENT;
}

static void token(struct eng_parser *parser, uint32_t id)
{
    const struct eng_text_info *info = eng_text_info(parser->text);
    struct eng_slice bytes = eng_text_token(parser->text, id);
    bool is_text = eng_text_token_kind(parser->text, id) == ENG_TOKEN_BYTES ||
                   (id == info->dsml && !parser->is_raw && parser->tools == NULL);
    if (id == info->eos) {
        finish(parser, ENG_END_EOS);
    } else if (is_text) {
        for (size_t i = 0; i < bytes.length && parser->end == ENG_END_NONE; i++)
            element(parser, (uint8_t)bytes.data[i]);
    } else if (id == info->dsml && parser->tools != NULL) {
        element(parser, ENG_ELEMENT_DSML);
    } else if (!parser->is_raw && (id == info->think_start || id == info->think_end)) {
        think(parser, id == info->think_end);
    } else {
        parser->stats.repairs[ENG_REPAIR_CONTROL_DROPPED]++;
    }
}

/* What a feed ends with: text that can go, a stop string, a failure. */
static enum fm_status settle(struct eng_parser *parser, const struct eng_piece **ret_pieces,
                             uint32_t *ret_count, struct fm_err *err)
{
    eng_outlet_settle(&parser->outlet);
    if (parser->outlet.is_stopped && parser->state != DONE) {
        parser->state = DONE;
        hold_drop(parser, parser->hold_count);
    }
    if (parser->outlet.is_stopped)
        parser->end = ENG_END_STOP;
    if (!is_broken(parser)) {
        eng_outlet_seal(&parser->outlet, ret_pieces, ret_count);
        return FM_OK;
    }
    parser->status = parser->status != FM_OK          ? parser->status
                     : parser->outlet.status != FM_OK ? parser->outlet.status
                                                      : parser->args.status;
    parser->state = DONE;
    parser->end = ENG_END_CUT;
    if (parser->status == FM_LIMIT)
        return FM_FAIL(err, FM_LIMIT, "a tool call holds more than %d bytes in one place",
                       ENG_VALUE_BYTES_MAX);
    return FM_FAIL(err, parser->status, "no memory to parse the output");
}

/* ---- The interface ---- */

uint32_t eng_parser_replace(struct eng_parser *parser, uint32_t id)
{
    const struct eng_text_info *info = eng_text_info(parser->text);
    if (id != info->eos || parser->state != REASON || parser->keeps_eos_in_reasoning)
        return id;
    parser->stats.repairs[ENG_REPAIR_EOS_IN_REASONING]++;
    return info->think_end;
}

enum fm_status eng_parser_feed(struct eng_parser *parser, uint32_t id,
                               const struct eng_piece **ret_pieces, uint32_t *ret_count,
                               struct fm_err *err)
{
    if (parser->status != FM_OK)
        return FM_FAIL(err, parser->status, "the output could not be parsed");
    eng_outlet_begin(&parser->outlet);
    if (parser->end == ENG_END_NONE) {
        parser->token = parser->stats.token_count++;
        token(parser, id);
    }
    return settle(parser, ret_pieces, ret_count, err);
}

enum fm_status eng_parser_finish(struct eng_parser *parser, const struct eng_piece **ret_pieces,
                                 uint32_t *ret_count, struct fm_err *err)
{
    if (parser->status != FM_OK)
        return FM_FAIL(err, parser->status, "the output could not be parsed");
    eng_outlet_begin(&parser->outlet);
    if (parser->end == ENG_END_NONE)
        finish(parser, ENG_END_CUT);
    return settle(parser, ret_pieces, ret_count, err);
}

enum eng_end eng_parser_end(const struct eng_parser *parser)
{
    return parser->end;
}

uint32_t eng_parser_stop_index(const struct eng_parser *parser)
{
    FM_ASSERT(parser->end == ENG_END_STOP);
    return parser->outlet.stop_index;
}

const struct eng_parser_stats *eng_parser_stats(const struct eng_parser *parser)
{
    return &parser->stats;
}

/* DSML only where a tag may go on: behind "<", behind "</", and in a value only behind the latter.
 * In the reasoning never: a model that wants to call has to end it first. */
unsigned eng_parser_mask_class(const struct eng_parser *parser)
{
    bool is_open = parser->last == '<';
    bool is_close = parser->last == '/' && parser->before_last == '<';
    switch (parser->state) {
    case REASON: return ENG_MASK_EOS | ENG_MASK_THINK_END;
    case CONTENT: return ENG_MASK_EOS | (parser->tools != NULL && is_open ? ENG_MASK_DSML : 0U);
    case HELD: return ENG_MASK_EOS | (is_open || is_close ? ENG_MASK_DSML : 0U);
    case BLOCK:
    case PARAMS:
    case BODY: return is_open || is_close ? ENG_MASK_DSML : ENG_MASK_TEXT;
    case VALUE: return is_close ? ENG_MASK_DSML : ENG_MASK_TEXT;
    case DONE: return ENG_MASK_EOS;
    }
    FM_UNREACHABLE();
}
