/* api_messages.c - the messages of a chat; see api_messages.h. */
#include "daemon/api_messages.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"

/* One message while it is read. */
struct turn {
    struct api_parse *parse;
    struct api_messages *all;
    struct eng_message *message;
    struct api_reader reader; /* of its object; path "messages[i]." */
    struct eng_slice raw;
};

static struct eng_slice slice_of(const cJSON *string)
{
    return (struct eng_slice){.data = string->valuestring, .length = strlen(string->valuestring)};
}

/* ---- content --------------------------------------------------------------------------------- */

static bool word_is_among(const char *word, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(word, words[i]) == 0)
            return true;
    return false;
}

/* The key under which a part of this type has its text; NULL for a part without text. */
static const char *part_text_key(enum eng_role role, const char *type)
{
    static const char *const texts[] = {"text", "input_text", "output_text"};
    if (word_is_among(type, texts, FM_COUNT(texts)))
        return "text";
    if (role == ENG_ROLE_ASSISTANT && strcmp(type, "refusal") == 0)
        return "refusal";
    if (role == ENG_ROLE_ASSISTANT && strcmp(type, "thinking") == 0)
        return "thinking";
    return NULL;
}

/* One part: its text into *ret_text, and whether it is reasoning. */
static bool part_parse(const struct turn *turn, const cJSON *part, uint32_t index,
                       struct eng_slice *ret_text, bool *ret_is_reasoning)
{
    static const char *const media[] = {"image_url",   "input_image", "image",      "input_audio",
                                        "audio",       "file",        "input_file", "video_url",
                                        "input_video", "video",       "document"};
    char path[SRV_ERROR_PARAM_BYTES];
    (void)snprintf(path, sizeof path, "%scontent[%u].", turn->reader.path, index);
    struct api_reader reader = {.object = part, .path = path, .problem = turn->reader.problem};

    if (!cJSON_IsObject(part)) {
        path[strlen(path) - 1] = '\0';
        api_field_mistyped(&reader, "", "an object", part);
        return false;
    }
    struct eng_slice type;
    if (!api_field_string(&reader, "type", SIZE_MAX, &type)) {
        api_field_missing(&reader, "type");
        return false;
    }
    if (word_is_among(type.data, media, FM_COUNT(media))) {
        path[strlen(path) - 1] = '\0';
        api_problem_set(reader.problem, 400, "unsupported_content", path,
                        "Unsupported content: this model takes text only, but '%s' has type '%s'.",
                        path, type.data);
        return false;
    }
    const char *key = part_text_key(turn->message->role, type.data);
    if (key == NULL) {
        api_field_invalid(&reader, "type", "no content has type '%s'.", api_quote(type.data).text);
        return false;
    }
    if (!api_field_string(&reader, key, SIZE_MAX, ret_text)) {
        api_field_missing(&reader, key);
        return false;
    }
    *ret_is_reasoning = strcmp(key, "thinking") == 0;
    return true;
}

static void parts_parse(struct turn *turn, const cJSON *array)
{
    uint32_t count = (uint32_t)cJSON_GetArraySize(array), index = 0, kept = 0;
    struct eng_slice *parts = api_parse_take(turn->parse, count, sizeof *parts);
    if (parts == NULL)
        return;
    for (const cJSON *part = array->child; part != NULL; part = part->next, index++) {
        struct eng_slice text;
        bool is_reasoning;
        if (!part_parse(turn, part, index, &text, &is_reasoning))
            return;
        if (is_reasoning)
            turn->message->reasoning = text;
        else
            parts[kept++] = text;
    }
    turn->message->parts = parts;
    turn->message->part_count = kept;
}

static void content_parse(struct turn *turn)
{
    enum eng_role role = turn->message->role;
    const cJSON *content = api_field(&turn->reader, "content");
    if (turn->reader.problem->status != 0)
        return;
    if (content == NULL) {
        if (role != ENG_ROLE_ASSISTANT && role != ENG_ROLE_TOOL)
            api_field_invalid(&turn->reader, "content",
                              "expected a string or an array of text parts, but got null.");
    } else if (cJSON_IsString(content)) {
        struct eng_slice *part = api_parse_take(turn->parse, 1, sizeof *part);
        if (part == NULL)
            return;
        *part = slice_of(content);
        turn->message->parts = part;
        turn->message->part_count = 1;
    } else if (cJSON_IsArray(content)) {
        parts_parse(turn, content);
    } else {
        api_field_mistyped(&turn->reader, "content", "a string or an array of text parts", content);
    }
    for (uint32_t i = 0; i < turn->message->part_count; i++)
        turn->all->text_bytes += turn->message->parts[i].length;
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* One entry of tool_calls; raw is its text. */
static void call_parse(const struct turn *turn, const cJSON *item, struct eng_slice raw,
                       uint32_t index, struct eng_call *ret_call)
{
    char path[SRV_ERROR_PARAM_BYTES], inner[SRV_ERROR_PARAM_BYTES];
    (void)snprintf(path, sizeof path, "%stool_calls[%u].", turn->reader.path, index);
    (void)snprintf(inner, sizeof inner, "%.*s.function.", (int)strlen(path) - 1, path);
    struct api_reader reader = {.object = item, .path = path, .problem = turn->reader.problem};
    if (!cJSON_IsObject(item)) {
        path[strlen(path) - 1] = '\0';
        api_field_mistyped(&reader, "", "an object", item);
        return;
    }
    static const char *const types[] = {"function"};
    uint32_t type;
    api_field_word(&reader, "type", types, 1, &type);
    api_field_string(&reader, "id", 512, &ret_call->id);

    const cJSON *function = api_field_object(&reader, "function");
    if (function == NULL) {
        api_field_missing(&reader, "function");
        return;
    }
    struct api_reader of_function = {.object = function, .path = inner, .problem = reader.problem};
    if (!api_field_string(&of_function, "name", 512, &ret_call->name))
        api_field_missing(&of_function, "name");

    const cJSON *arguments = api_field(&of_function, "arguments");
    if (cJSON_IsString(arguments)) {
        ret_call->arguments = slice_of(arguments);
    } else if (cJSON_IsObject(arguments)) {
        struct eng_slice text = srv_raw_member(raw, "function");
        if (text.length != 0 && text.data[0] == '{')
            ret_call->arguments = srv_raw_member(text, "arguments");
    } else if (arguments != NULL) {
        api_field_mistyped(&of_function, "arguments", "a string", arguments);
    }
    turn->all->text_bytes += ret_call->name.length + ret_call->arguments.length;
}

static void calls_parse(struct turn *turn)
{
    const cJSON *array = api_field_array(&turn->reader, "tool_calls");
    if (array == NULL || array->child == NULL)
        return;
    uint32_t count = (uint32_t)cJSON_GetArraySize(array), index = 0;
    if (count > API_CALLS_MAX) {
        api_field_invalid(&turn->reader, "tool_calls", "expected at most %d calls, but got %u.",
                          API_CALLS_MAX, count);
        return;
    }
    struct eng_call *calls = api_parse_take(turn->parse, count, sizeof *calls);
    if (calls == NULL)
        return;
    struct srv_raw items;
    struct eng_slice raw = {0};
    srv_raw_init(&items, srv_raw_member(turn->raw, "tool_calls"));
    for (const cJSON *item = array->child; item != NULL; item = item->next, index++) {
        bool has_text = srv_raw_next(&items, &raw);
        FM_ASSERT(has_text);
        call_parse(turn, item, raw, index, &calls[index]);
    }
    turn->message->calls = calls;
    turn->message->call_count = count;
}

/* ---- assistant, tool ------------------------------------------------------------------------- */

static void reasoning_parse(struct turn *turn)
{
    struct eng_slice longer = {0}, shorter = {0};
    bool has_longer = api_field_string(&turn->reader, "reasoning_content", SIZE_MAX, &longer);
    bool has_shorter = api_field_string(&turn->reader, "reasoning", SIZE_MAX, &shorter);
    if (has_longer && has_shorter && strcmp(longer.data, shorter.data) != 0)
        api_field_invalid(&turn->reader, "reasoning", "it differs from 'reasoning_content'.");
    if (has_longer || has_shorter)
        turn->message->reasoning = has_longer ? longer : shorter;
    turn->all->text_bytes += turn->message->reasoning.length;
}

static void assistant_parse(struct turn *turn, bool is_last, bool continues)
{
    bool prefix = false;
    reasoning_parse(turn);
    calls_parse(turn);
    api_field_refuse(&turn->reader, "audio", "");
    api_field_bool(&turn->reader, "prefix", &prefix);
    if (prefix && !is_last)
        api_field_invalid(&turn->reader, "prefix", "only the last message can be continued.");
    turn->message->is_open = prefix || (is_last && continues);
    if (turn->message->is_open && turn->message->call_count != 0)
        api_field_invalid(&turn->reader, "prefix",
                          "a message with tool calls cannot be continued.");
    if (turn->message->call_count != 0 && turn->message->reasoning.data == NULL)
        turn->all->lacks_reasoning = true;
}

/* A result must answer a call of the last assistant message with only results in between. */
static void result_check(struct turn *turn, const struct eng_message *caller)
{
    struct eng_slice id = {0};
    bool has_id = api_field_string(&turn->reader, "tool_call_id", 512, &id);
    turn->message->tool_call_id = id;
    const cJSON *role = cJSON_GetObjectItemCaseSensitive(turn->reader.object, "role");
    if (strcmp(role->valuestring, "function") == 0)
        return;
    if (!has_id) {
        api_field_missing(&turn->reader, "tool_call_id");
        return;
    }
    for (uint32_t i = 0; caller != NULL && i < caller->call_count; i++) {
        struct eng_slice other = caller->calls[i].id;
        if (other.data != NULL && other.length == id.length &&
            memcmp(other.data, id.data, id.length) == 0)
            return;
    }
    api_field_invalid(&turn->reader, "tool_call_id",
                      "no message before it calls a tool with the id '%s'.",
                      api_quote(id.data).text);
}

/* ---- the list -------------------------------------------------------------------------------- */

static bool role_parse(struct turn *turn)
{
    static const struct {
        const char *word;
        enum eng_role role;
    } roles[] = {
        {"system", ENG_ROLE_SYSTEM},
        {"developer", ENG_ROLE_SYSTEM},
        {"user", ENG_ROLE_USER},
        {"assistant", ENG_ROLE_ASSISTANT},
        {"tool", ENG_ROLE_TOOL},
        {"function", ENG_ROLE_TOOL},
        {"latest_reminder", ENG_ROLE_LATEST_REMINDER},
    };
    struct eng_slice word;
    if (!api_field_string(&turn->reader, "role", SIZE_MAX, &word)) {
        api_field_missing(&turn->reader, "role");
        return false;
    }
    for (size_t i = 0; i < FM_COUNT(roles); i++)
        if (strcmp(word.data, roles[i].word) == 0) {
            turn->message->role = roles[i].role;
            return true;
        }
    api_field_invalid(
        &turn->reader, "role",
        "expected 'system', 'developer', 'user', 'assistant' or 'tool', but got '%s'.",
        api_quote(word.data).text);
    return false;
}

static void task_parse(struct turn *turn)
{
    static const char *const words[] = {"action", "query", "authority",
                                        "domain", "title", "read_url"};
    uint32_t index;
    if (api_field_word(&turn->reader, "task", words, FM_COUNT(words), &index))
        turn->message->task = (enum eng_task)(ENG_TASK_ACTION + index);
}

static void turn_parse(struct turn *turn, const struct eng_message *caller, bool is_last,
                       bool continues)
{
    if (!role_parse(turn))
        return;
    content_parse(turn);
    bool prefix = false;
    switch (turn->message->role) {
    case ENG_ROLE_ASSISTANT:
        task_parse(turn);
        assistant_parse(turn, is_last, continues);
        return;
    case ENG_ROLE_TOOL: result_check(turn, caller); break;
    case ENG_ROLE_USER: task_parse(turn); break;
    default: break;
    }
    if (api_field_bool(&turn->reader, "prefix", &prefix) && prefix)
        api_field_invalid(&turn->reader, "prefix", "only an assistant's message can be continued.");
    if (is_last && continues)
        api_problem_set(turn->reader.problem, 400, "invalid_value", "continue_final_message",
                        "Invalid value for 'continue_final_message': the last message is not an "
                        "assistant's.");
}

/* The last message is an assistant's without anything in it: it says nothing. */
static bool is_void(const struct eng_message *message)
{
    size_t bytes = message->reasoning.length;
    for (uint32_t i = 0; i < message->part_count; i++)
        bytes += message->parts[i].length;
    return message->role == ENG_ROLE_ASSISTANT && message->call_count == 0 && bytes == 0 &&
           !message->is_open;
}

void api_messages_parse(struct api_parse *parse, const cJSON *array, struct eng_slice raw,
                        bool continues, struct api_messages *ret_messages)
{
    uint32_t count = (uint32_t)cJSON_GetArraySize(array);
    if (count == 0 || count > parse->config->api_max_messages) {
        api_field_invalid(&parse->reader, "messages", "expected 1 to %u messages, but got %u.",
                          (uint32_t)parse->config->api_max_messages, count);
        return;
    }
    struct eng_message *items = api_parse_take(parse, count, sizeof *items);
    const struct eng_message *caller = NULL;
    struct srv_raw texts;
    uint32_t index = 0;
    *ret_messages = (struct api_messages){.items = items, .count = count};
    srv_raw_init(&texts, raw);
    for (const cJSON *item = array->child; item != NULL && items != NULL; item = item->next) {
        char path[64];
        (void)snprintf(path, sizeof path, "messages[%u].", index);
        struct turn turn = {.parse = parse, .all = ret_messages, .message = &items[index]};
        turn.reader =
            (struct api_reader){.object = item, .path = path, .problem = parse->reader.problem};
        bool has_text = srv_raw_next(&texts, &turn.raw);
        FM_ASSERT(has_text);
        if (!cJSON_IsObject(item)) {
            path[strlen(path) - 1] = '\0';
            api_field_mistyped(&turn.reader, "", "an object", item);
            return;
        }
        turn_parse(&turn, caller, index + 1 == count, continues);
        if (parse->reader.problem->status != 0)
            return;
        if (items[index].role != ENG_ROLE_TOOL)
            caller = items[index].role == ENG_ROLE_ASSISTANT ? &items[index] : NULL;
        index++;
    }
    if (items == NULL)
        return;
    ret_messages->is_open = items[count - 1].is_open;
    if (count > 1 && is_void(&items[count - 1]))
        ret_messages->count--;
}
