/* api_chat.h - POST /v1/chat/completions. */
#ifndef API_CHAT_H
#define API_CHAT_H

#include "daemon/api_request.h"

struct srv_handler;

/* Bind with a struct api_service as context (api_generate.h). */
extern const struct srv_handler api_chat_handler;

/* Exposed for tests and for fuzzing: how the body of a chat becomes a request. */
extern const struct api_endpoint api_chat_endpoint;

/* The chat of a body: messages, tools and switches, rendered to tokens and appended to *tokens.
 * For requests, and for /tokenize, which shows the same tokens.  Problems go to the reader. */
struct api_chat_prompt {
    enum eng_channel start;
    struct eng_tools *tools; /* a reference for the caller, or NULL */
    bool is_thinking;
    bool calls_are_banned;
    bool has_one_call;
    bool bounds_reasoning;
    uint32_t reasoning_max;
};
bool api_chat_render(struct api_parse *parse, struct eng_tokens *tokens,
                     struct api_chat_prompt *ret_prompt);

#endif
