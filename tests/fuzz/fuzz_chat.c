/* fuzz_chat.c - any bytes as a conversation: whatever the texts say, the prompt's control tokens are
 * those of the same conversation with harmless texts.
 *
 * Input: a byte of options, then messages: a byte of role and flags, a byte of task and call count,
 * and a text up to the next 0xff. */
#include <stdlib.h>
#include <string.h>

#include "backends/base/assert.h"
#include "engine/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { MESSAGES_MAX = 64 };

struct message {
    struct eng_slice text;
    struct eng_call calls[2];
};

static void message_fill(struct eng_message *message, struct message *own, uint8_t role,
                         uint8_t more, struct eng_slice text)
{
    own->text = text;
    for (int i = 0; i < 2; i++)
        own->calls[i] = (struct eng_call){.id = text, .name = text, .arguments = text};
    *message = (struct eng_message){.role = role % 6,
                                    .task = (role & 0x40) != 0 ? more % 7 : 0,
                                    .parts = &own->text,
                                    .part_count = (role & 0x80) == 0,
                                    .reasoning = text,
                                    .tool_call_id = text,
                                    .is_open = (role & 0x20) != 0};
    if (message->role == ENG_ROLE_ASSISTANT && !message->is_open) {
        message->calls = own->calls;
        message->call_count = (more >> 4) % 3;
    }
}

/* The control tokens of the prompt, or false where it is refused. */
static bool controls(const struct eng_text *text, const struct eng_chat *chat,
                     struct eng_tokens *ret_ids)
{
    struct eng_tokens ids;
    enum eng_channel start;
    eng_tokens_init(&ids, UINT32_MAX);
    bool is_good = eng_chat_encode(text, chat, &ids, &start, NULL) == FM_OK;
    for (uint32_t i = 0; i < ids.count; i++) {
        if (eng_text_token_kind(text, ids.ids[i]) == ENG_TOKEN_CONTROL)
            FM_ASSERT(eng_tokens_put(ret_ids, ids.ids[i], NULL) == FM_OK);
    }
    FM_ASSERT(is_good || ids.count == 0);
    eng_tokens_done(&ids);
    return is_good;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    static struct eng_text *text;
    struct eng_message wild[MESSAGES_MAX], mild[MESSAGES_MAX];
    struct message wild_own[MESSAGES_MAX], mild_own[MESSAGES_MAX];
    uint32_t count = 0;
    if (text == NULL && eng_text_open("conf/model", NULL, &text, NULL) != FM_OK)
        abort();
    if (bytes == 0)
        return 0;
    uint8_t options = data[0];
    size_t at = 1;
    while (at + 2 <= bytes && count < MESSAGES_MAX) {
        const uint8_t *end = memchr(data + at + 2, 0xff, bytes - at - 2);
        size_t length = end != NULL ? (size_t)(end - data) - at - 2 : bytes - at - 2;
        struct eng_slice words = {(const char *)data + at + 2, length};
        message_fill(&wild[count], &wild_own[count], data[at], data[at + 1], words);
        words = (struct eng_slice){"x", length != 0};
        message_fill(&mild[count], &mild_own[count], data[at], data[at + 1], words);
        /* arguments that are an object print one pair of markers for each member */
        for (int i = 0; i < 2; i++) {
            wild_own[count].calls[i].arguments = (struct eng_slice){"{\"<think>\":1}", 13};
            mild_own[count].calls[i].arguments = (struct eng_slice){"{\"x\":1}", 7};
        }
        count++;
        at += 2 + length + (end != NULL);
    }
    struct eng_chat chat = {.messages = wild,
                            .message_count = count,
                            .effort = options % 3,
                            .is_thinking = (options & 4) != 0,
                            .keeps_reasoning = (options & 8) != 0,
                            .has_no_bos = (options & 16) != 0,
                            .is_literal = (options & 32) != 0};
    struct eng_tokens wild_ids, mild_ids;
    eng_tokens_init(&wild_ids, UINT32_MAX);
    eng_tokens_init(&mild_ids, UINT32_MAX);
    if (controls(text, &chat, &wild_ids)) {
        chat.messages = mild;
        FM_ASSERT(controls(text, &chat, &mild_ids));
        FM_ASSERT(wild_ids.count == mild_ids.count);
        FM_ASSERT(wild_ids.count == 0 ||
                  memcmp(wild_ids.ids, mild_ids.ids, wild_ids.count * sizeof wild_ids.ids[0]) == 0);
    }
    eng_tokens_done(&wild_ids);
    eng_tokens_done(&mild_ids);
    return 0;
}
