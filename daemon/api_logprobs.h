/* api_logprobs.h - log probabilities of tokens as the two surfaces print them.
 *
 * A list grows token by token, already as JSON text.  A chat has one array of objects, a completion
 * four arrays side by side.  Tokens wait in a list of their own until the text that they complete
 * is shown; then they move to the list of the answer, or of the chunk that shows the text. */
#ifndef API_LOGPROBS_H
#define API_LOGPROBS_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/buf.h"
#include "engine/text.h"
#include "scheduler/scheduler.h"

enum { API_LOGPROBS_PARTS = 4 };

struct api_logprobs {
    bool is_legacy;
    struct fm_buf parts[API_LOGPROBS_PARTS]; /* items with commas between; a chat uses the first */
    uint32_t count;
};

/* One token to be printed. */
struct api_token {
    uint32_t id;
    float logprob; /* NAN: there is none (the first token of a prompt) */
    const struct eng_candidate *candidates;
    uint32_t candidate_count; /* as the request wants them printed */
    uint64_t text_offset;     /* in characters; of a completion */
};

void api_logprobs_init(struct api_logprobs *list, bool is_legacy, size_t bytes_max);
void api_logprobs_done(struct api_logprobs *list);
void api_logprobs_clear(struct api_logprobs *list);

void api_logprobs_add(struct api_logprobs *list, const struct eng_text *text,
                      const struct api_token *token);

/* Append the tokens of `from` to `to` and forget them in `from`. */
void api_logprobs_move(struct api_logprobs *from, struct api_logprobs *to);
/* The same without forgetting. */
void api_logprobs_copy(const struct api_logprobs *from, struct api_logprobs *to);

/* true when an append failed: memory, or the maximum. */
bool api_logprobs_is_broken(const struct api_logprobs *list);

/* [...] of a chat; {"text_offset":[...],...} of a completion. */
void api_logprobs_json(const struct api_logprobs *list, struct fm_buf *out);

/* {"ID":{"logprob":...,"rank":...,"decoded_token":"..."},...}: one prompt token's entry in
 * prompt_logprobs; null without a log probability. */
void api_prompt_logprob_json(const struct eng_text *text, const struct api_token *token,
                             struct fm_buf *out);

/* Characters that the text has after the token: `count` before it.  Bytes that continue a character
 * count nothing; control tokens show nothing. */
uint64_t api_token_characters(const struct eng_text *text, uint32_t id);

/* The offset of a token in a text that has `count` characters before it: that of the character to
 * which its first byte belongs. */
uint64_t api_token_offset(const struct eng_text *text, uint32_t id, uint64_t count);

#endif
