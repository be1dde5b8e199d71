/* chat.c - a conversation as the tokens that the model was trained on.
 *
 * The published encoder writes one string and tokenizes it whole, so that a user who types the name
 * of a control token gets the token.  Here the renderer writes into a sink of two kinds of things:
 * text, which is tokenized without looking for control tokens, and control tokens, which only this
 * file puts.  Neighbouring texts are tokenized as one, because merges do cross from the format's own
 * words to the client's.
 *
 * The conversation's messages are turns already here (turns.h). */
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "engine/json.h"
#include "engine/tokenizer.h"
#include "engine/tools.h"
#include "engine/turns.h"

enum { TEXT_BYTES_MAX = 1 << 30 };

#define DSML "｜DSML｜"

/* The format's own words.  Names of control tokens in them stand for the tokens. */
static const char effort_e1[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the problem to "
    "resolve the root cause, rigorously stress-testing your logic against all potential paths, "
    "edge "
    "cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every intermediate step, "
    "considered alternative, and rejected hypothesis to ensure absolutely no assumption is left "
    "unchecked.\n\n";
static const char effort_e2[] =
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: "
    "exhaustively decompose the problem into its most fundamental components, trace every causal "
    "chain to its root, and resolve the underlying cause rather than any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from multiple angles "
    "and are certain that no assumption remains unchecked and no error remains undiscovered.\n\n";
static const char tools_head[] =
    "## Tools\n\nYou have access to a set of tools to help answer the user's question. You can "
    "invoke tools by writing a \"<" DSML "tool_calls>\" block like the following:\n\n"
    "<" DSML "tool_calls>\n"
    "<" DSML "invoke name=\"$TOOL_NAME\">\n"
    "<" DSML "parameter name=\"$PARAMETER_NAME\" string=\"true|false\">$PARAMETER_VALUE</" DSML
    "parameter>\n...\n"
    "</" DSML "invoke>\n"
    "<" DSML "invoke name=\"$TOOL_NAME2\">\n...\n"
    "</" DSML "invoke>\n"
    "</" DSML "tool_calls>\n\n"
    "String parameters should be specified as is and set `string=\"true\"`. For all other types "
    "(numbers, booleans, arrays, objects), pass the value in JSON format and set "
    "`string=\"false\"`.\n\n"
    "If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning "
    "inside <think>...</think> BEFORE any tool calls or final response.\n\n"
    "Otherwise, output directly after </think> with tool calls or final response.\n\n"
    "### Available Tool Schemas\n\n";
static const char tools_tail[] = "\n\nYou MUST strictly follow the above defined tool name and "
                                 "parameter schemas to invoke tool calls.\n";
static const char format_head[] =
    "## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n";

/* ---- The sink ---- */

struct sink {
    const struct eng_text *text;
    struct eng_tokens *tokens; /* NULL: everything becomes text in out */
    struct fm_buf *out;        /* text since the last control token, or all of it */
    enum fm_status status;     /* the first failure sticks, and everything after is dropped */
    struct fm_err *err;
};

static void put_text(struct sink *sink, const char *data, size_t length)
{
    if (sink->status == FM_OK && !fm_buf_put(sink->out, data, length))
        sink->status = FM_FAIL(sink->err, FM_LIMIT, "the prompt is longer than %zu bytes",
                               sink->out->bytes_max);
}

static void put_slice(struct sink *sink, struct eng_slice slice)
{
    if (slice.length != 0)
        put_text(sink, slice.data, slice.length);
}

static void flush_text(struct sink *sink)
{
    if (sink->tokens == NULL || sink->out->length == 0)
        return;
    if (sink->status == FM_OK)
        sink->status = eng_encode(sink->text, sink->out->data, sink->out->length, ENG_ENCODE_TEXT,
                                  sink->tokens, sink->err);
    fm_buf_clear(sink->out);
}

static void put_control(struct sink *sink, uint32_t id)
{
    if (sink->status != FM_OK)
        return;
    if (id == ENG_ID_NONE) {
        sink->status = FM_FAIL(sink->err, FM_UNSUPPORTED,
                               "the model has no control token for a role or task of this chat");
        return;
    }
    if (sink->tokens == NULL) {
        put_slice(sink, eng_text_token(sink->text, id));
        return;
    }
    flush_text(sink);
    if (sink->status == FM_OK)
        sink->status = eng_tokens_put(sink->tokens, id, sink->err);
}

/* The format's own words, with control tokens in them. */
static void put_words(struct sink *sink, const char *words)
{
    const struct eng_text_info *info = eng_text_info(sink->text);
    const struct {
        const char *name;
        uint32_t id;
    } controls[] = {
        {DSML, info->dsml}, {"<think>", info->think_start}, {"</think>", info->think_end}};
    const char *at = words, *run = words;
    while (*at != '\0') {
        size_t length = 0;
        for (size_t i = 0; i < FM_COUNT(controls) && length == 0; i++) {
            if (strncmp(at, controls[i].name, strlen(controls[i].name)) != 0)
                continue;
            length = strlen(controls[i].name);
            put_text(sink, run, (size_t)(at - run));
            put_control(sink, controls[i].id);
            run = at + length;
        }
        at += length != 0 ? length : 1;
    }
    put_text(sink, run, (size_t)(at - run));
}

/* ---- Printing ---- */

static void put_parts(struct sink *sink, const struct eng_message *message, const char *between)
{
    for (uint32_t i = 0; i < message->part_count; i++) {
        if (i > 0)
            put_text(sink, between, strlen(between));
        put_slice(sink, message->parts[i]);
    }
}

static void put_json(struct sink *sink, struct eng_slice json)
{
    if (sink->status == FM_OK)
        sink->status = eng_json_print(json, sink->out, sink->err);
}

/* What hangs behind a system or developer message. */
static void put_attachments(struct sink *sink, const struct eng_turn *turn)
{
    if (eng_tools_count(turn->tools) != 0) {
        put_words(sink, "\n\n");
        put_words(sink, tools_head);
        put_slice(sink, eng_tools_schemas(turn->tools));
        put_words(sink, tools_tail);
    }
    if (turn->format.data != NULL) {
        put_words(sink, "\n\n");
        put_words(sink, format_head);
        put_json(sink, turn->format);
    }
}

static void put_user(struct sink *sink, const struct eng_turn *turn)
{
    put_control(sink, eng_text_info(sink->text)->user);
    for (uint32_t i = 0; i < turn->block_count; i++) {
        const struct eng_message *message = turn->blocks[i];
        if (i > 0)
            put_words(sink, "\n\n");
        if (message->role == ENG_ROLE_TOOL) {
            put_words(sink, "<tool_result>");
            put_parts(sink, message, "");
            put_words(sink, "</tool_result>");
        } else {
            put_parts(sink, message, "\n\n");
        }
    }
}

/* One argument.  Nothing is escaped: the model was trained on raw names and strings. */
static void put_parameter(struct sink *sink, struct eng_slice name, struct eng_slice value,
                          bool is_text)
{
    bool is_string = is_text || value.data[0] == '"';
    put_words(sink, "<" DSML "parameter name=\"");
    put_slice(sink, name);
    put_words(sink, is_string ? "\" string=\"true\">" : "\" string=\"false\">");
    if (is_text)
        put_slice(sink, value);
    else if (!is_string)
        put_json(sink, value);
    else if (sink->status == FM_OK &&
             !eng_json_unescape((struct eng_slice){value.data + 1, value.length - 2}, sink->out))
        sink->status = FM_FAIL(sink->err, FM_LIMIT, "the prompt is too long");
    put_words(sink, "</" DSML "parameter>");
}

static void put_arguments(struct sink *sink, struct eng_slice arguments)
{
    struct eng_json_member *members = NULL;
    size_t count = 0;
    if (arguments.length == 0)
        return;
    if (eng_json_type(arguments) != FM_JSON_OBJECT) {
        put_parameter(sink, (struct eng_slice){"arguments", 9}, arguments, true);
        return;
    }
    if (sink->status == FM_OK)
        sink->status = eng_json_members(arguments, &members, &count, sink->err);
    for (size_t i = 0; i < count && sink->status == FM_OK; i++) {
        struct fm_buf name;
        fm_buf_init(&name, members[i].key.length + 1);
        if (i > 0)
            put_words(sink, "\n");
        if (eng_json_unescape(members[i].key, &name))
            put_parameter(sink, (struct eng_slice){name.data, name.length}, members[i].value,
                          false);
        else
            sink->status = FM_FAIL(sink->err, FM_NOMEM, "no memory for an argument's name");
        fm_buf_done(&name);
    }
    fm_free(members);
}

static void put_calls(struct sink *sink, const struct eng_message *message)
{
    if (message->call_count == 0)
        return;
    put_words(sink, "\n\n<" DSML "tool_calls>\n");
    for (uint32_t i = 0; i < message->call_count; i++) {
        put_words(sink, "<" DSML "invoke name=\"");
        put_slice(sink, message->calls[i].name);
        put_words(sink, "\">\n");
        put_arguments(sink, message->calls[i].arguments);
        put_words(sink, "\n</" DSML "invoke>\n");
    }
    put_words(sink, "</" DSML "tool_calls>");
}

/* Is the turn the last, open, and without reasoning?  It is then opened as without thinking. */
static bool is_plainly_open(const struct eng_turns *plan, uint32_t index)
{
    if (plan->chat->is_literal || index + 1 != plan->count)
        return false;
    const struct eng_turn *turn = &plan->turns[index];
    return turn->role == ENG_ROLE_ASSISTANT && turn->message->is_open &&
           turn->message->reasoning.length == 0;
}

static void put_assistant(struct sink *sink, const struct eng_turns *plan, uint32_t index)
{
    const struct eng_turn *turn = &plan->turns[index];
    const struct eng_turn *before = index > 0 ? turn - 1 : NULL;
    bool has_reasoning = plan->chat->is_thinking &&
                         (before == NULL || before->task == ENG_TASK_NONE) &&
                         (!plan->drops_reasoning || index + 1 > plan->last_user);
    bool follows_opening = before != NULL && eng_role_is_user(before->role);
    if (has_reasoning && !(follows_opening && is_plainly_open(plan, index))) {
        if (!turn->loses_reasoning)
            put_slice(sink, turn->message->reasoning);
        put_control(sink, eng_text_info(sink->text)->think_end);
    }
    put_parts(sink, turn->message, "");
    put_calls(sink, turn->message);
    if (!turn->message->is_open)
        put_control(sink, eng_text_info(sink->text)->eos);
}

static uint32_t task_id(const struct eng_text_info *info, enum eng_task task)
{
    switch (task) {
    case ENG_TASK_ACTION: return info->task_action;
    case ENG_TASK_QUERY: return info->task_query;
    case ENG_TASK_AUTHORITY: return info->task_authority;
    case ENG_TASK_DOMAIN: return info->task_domain;
    case ENG_TASK_TITLE: return info->task_title;
    case ENG_TASK_READ_URL: return info->task_read_url;
    case ENG_TASK_NONE: break;
    }
    FM_UNREACHABLE();
}

/* Open the assistant's turn; returns where generation would begin. */
static enum eng_channel put_opening(struct sink *sink, bool with_thinking)
{
    const struct eng_text_info *info = eng_text_info(sink->text);
    put_control(sink, info->assistant);
    put_control(sink, with_thinking ? info->think_start : info->think_end);
    return with_thinking ? ENG_CHANNEL_REASONING : ENG_CHANNEL_CONTENT;
}

/* What follows a turn when the assistant is next; returns where generation would begin. */
static enum eng_channel put_transition(struct sink *sink, const struct eng_turns *plan,
                                       uint32_t index)
{
    const struct eng_turn *turn = &plan->turns[index];
    bool is_last = index + 1 == plan->count;
    enum eng_role next = is_last ? ENG_ROLE_ASSISTANT : turn[1].role;
    bool is_thinking = plan->chat->is_thinking;
    if (next != ENG_ROLE_ASSISTANT && next != ENG_ROLE_LATEST_REMINDER)
        return ENG_CHANNEL_CONTENT;
    if (turn->task != ENG_TASK_NONE) {
        if (turn->task == ENG_TASK_ACTION)
            (void)put_opening(sink, is_thinking);
        put_control(sink, task_id(eng_text_info(sink->text), turn->task));
        return ENG_CHANNEL_CONTENT;
    }
    if (eng_role_is_user(turn->role)) {
        bool keeps = !plan->drops_reasoning || index + 1 >= plan->last_user;
        bool is_plain = !is_last && is_plainly_open(plan, index + 1);
        return put_opening(sink, is_thinking && keeps && !is_plain);
    }
    bool is_open = turn->role == ENG_ROLE_ASSISTANT && turn->message->is_open;
    if (is_last && !plan->chat->is_literal && !is_open && turn->role != ENG_ROLE_LATEST_REMINDER)
        return put_opening(sink, is_thinking);
    return ENG_CHANNEL_CONTENT;
}

static void put_effort(struct sink *sink, const struct eng_chat *chat)
{
    bool is_r2 = eng_text_info(sink->text)->revision == ENG_REVISION_R2;
    if (!chat->is_thinking)
        return;
    if (chat->effort == ENG_EFFORT_MAX)
        put_words(sink, is_r2 ? effort_e2 : effort_e1);
    else if (chat->effort == ENG_EFFORT_HIGH && is_r2)
        put_words(sink, effort_e1);
}

static enum eng_channel turns_print(struct sink *sink, const struct eng_turns *plan)
{
    const struct eng_text_info *info = eng_text_info(sink->text);
    enum eng_channel start = ENG_CHANNEL_CONTENT;
    if (!plan->chat->has_no_bos)
        put_control(sink, info->bos);
    if (plan->count != 0)
        put_effort(sink, plan->chat);
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct eng_turn *turn = &plan->turns[i];
        switch (turn->role) {
        case ENG_ROLE_DEVELOPER: put_control(sink, info->user); /* fall through */
        case ENG_ROLE_SYSTEM:
            if (turn->message != NULL)
                put_parts(sink, turn->message, "");
            put_attachments(sink, turn);
            break;
        case ENG_ROLE_USER: put_user(sink, turn); break;
        case ENG_ROLE_ASSISTANT: put_assistant(sink, plan, i); break;
        case ENG_ROLE_LATEST_REMINDER:
            put_control(sink, info->latest_reminder);
            put_parts(sink, turn->message, "");
            break;
        case ENG_ROLE_TOOL: FM_UNREACHABLE(); /* merged into a user turn */
        }
        start = put_transition(sink, plan, i);
    }
    flush_text(sink);
    return start;
}

static enum fm_status chat_print(const struct eng_chat *chat, struct sink *sink,
                                 enum eng_channel *ret_start)
{
    struct eng_turns plan;
    enum fm_status status = eng_turns_init(&plan, chat, sink->err);
    if (status != FM_OK)
        return status;
    enum eng_channel start = turns_print(sink, &plan);
    status = sink->status;
    if (status == FM_OK)
        *ret_start = start;
    eng_turns_done(&plan);
    return status;
}

/* ---- The interface ---- */

enum fm_status eng_chat_encode(const struct eng_text *text, const struct eng_chat *chat,
                               struct eng_tokens *tokens, enum eng_channel *ret_start,
                               struct fm_err *err)
{
    struct fm_buf pending;
    fm_buf_init(&pending, TEXT_BYTES_MAX);
    struct sink sink = {.text = text, .tokens = tokens, .out = &pending, .err = err};
    uint32_t count = tokens->count;
    enum fm_status status = chat_print(chat, &sink, ret_start);
    if (status != FM_OK)
        tokens->count = count;
    fm_buf_done(&pending);
    return status;
}

enum fm_status eng_chat_render(const struct eng_text *text, const struct eng_chat *chat,
                               struct fm_buf *out, enum eng_channel *ret_start, struct fm_err *err)
{
    struct sink sink = {.text = text, .out = out, .err = err};
    return chat_print(chat, &sink, ret_start);
}

bool eng_effort_parse(struct eng_slice word, enum eng_effort *ret_effort, bool *ret_is_off)
{
    static const struct {
        const char *word;
        enum eng_effort effort;
    } rows[] = {
        {"minimal", ENG_EFFORT_LOW}, {"low", ENG_EFFORT_LOW},   {"medium", ENG_EFFORT_LOW},
        {"high", ENG_EFFORT_HIGH},   {"xhigh", ENG_EFFORT_MAX}, {"max", ENG_EFFORT_MAX},
        {"ultra", ENG_EFFORT_MAX},
    };
    if (word.length == 4 && memcmp(word.data, "none", 4) == 0) {
        *ret_is_off = true;
        return true;
    }
    for (size_t i = 0; i < FM_COUNT(rows); i++) {
        if (word.length == strlen(rows[i].word) &&
            memcmp(word.data, rows[i].word, word.length) == 0) {
            *ret_effort = rows[i].effort;
            *ret_is_off = false;
            return true;
        }
    }
    return false;
}
