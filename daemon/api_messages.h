/* api_messages.h - the messages of a chat, from JSON to what the prompt renderer takes.
 *
 * Checks roles, content, parts, calls and the order of tool results.  The slices point into the
 * tree and the body, which must outlive them; arrays lie in the request's arena. */
#ifndef API_MESSAGES_H
#define API_MESSAGES_H

#include "daemon/api_request.h"

struct api_messages {
    struct eng_message *items;
    uint32_t count;
    size_t text_bytes;    /* of all that is shown to the model */
    bool lacks_reasoning; /* of a turn with calls */
    bool is_open;         /* the last one is continued */
};

/* `array` is the value of "messages", `raw` its text.  Problems go to parse->reader.problem.
 * `continues`: the request's continue_final_message. */
void api_messages_parse(struct api_parse *parse, const cJSON *array, struct eng_slice raw,
                        bool continues, struct api_messages *ret_messages);

#endif
