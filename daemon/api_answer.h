/* api_answer.h - the pieces of a generation, turned into the JSON of an answer.
 *
 * The scheduler's pieces go in one by one, in the order of each prompt's stream.  A streamed answer
 * hands out each chunk as it is complete; one in one piece is gathered and printed at the end.
 * Both use the same rules, so that the joined chunks are the whole answer:
 *   1. Reasoning comes before content, in a field of its own.
 *   2. A token is listed (log probabilities) where the text that it completes is shown; control
 *      tokens, tool markup and what a stop string cuts away are not listed.
 *   3. A choice's last chunk has its finish_reason and nothing else; nothing of it follows.
 *
 * Pure but for ids and memory: no socket, no scheduler.  Main thread. */
#ifndef API_ANSWER_H
#define API_ANSWER_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/buf.h"
#include "daemon/api_logprobs.h"
#include "daemon/api_request.h"
#include "daemon/toolcall.h"

/* Where the chunks of a stream go; false ends it. */
struct api_sink {
    bool (*put)(void *context, const char *json, size_t bytes);
    void *context;
};

struct api_choice {
    struct fm_buf content, reasoning; /* not of a stream */
    struct srv_toolcalls calls;
    struct api_logprobs content_tokens, reasoning_tokens; /* of a stream: of the current chunk */
    struct api_logprobs waiting;                          /* tokens whose text was not shown yet */
    struct fm_buf token_ids;               /* with commas; of a stream: since the last chunk */
    uint64_t characters;                   /* of all tokens until now, for text_offset */
    uint32_t token_count, reasoning_count; /* until now; exact at the end */
    double logprob_sum;
    bool is_reasoning; /* </think> has not come */
    bool is_marked;    /* merged reasoning: <think> was shown and </think> was not */
    bool has_text;     /* visible content */
    bool is_ended;
    uint8_t end;                      /* enum sch_end */
    uint32_t stop_string, stop_token; /* SCH_NO_STOP: none */
};

/* What came with a prompt. */
struct api_part {
    struct api_logprobs prompt_tokens; /* of a completion with echo and logprobs */
    struct fm_buf prompt_logprobs;     /* items of the array */
    uint32_t prompt_logprob_count;
    uint64_t characters; /* of the echoed prompt */
    uint32_t cached_tokens;
    bool is_begun; /* a piece other than PROMPT was seen */
};

struct api_answer {
    const struct api_request *request;
    struct api_sink sink; /* of a stream */
    char id[64];
    uint64_t created_s;
    struct api_choice *choices; /* prompt_count x generate_count */
    uint32_t choice_count;
    struct api_part *parts; /* prompt_count */
    struct fm_buf chunk;    /* scratch */
    bool has_roles;         /* role chunks were sent */
    bool is_broken;         /* memory, a maximum, or the sink */
};

/* bytes_max bounds each text of the answer, and the whole of one that is not streamed.  FM_NOMEM. */
enum fm_status api_answer_init(struct api_answer *answer, const struct api_request *request,
                               const struct api_sink *sink, size_t bytes_max) FM_MUST_CHECK;
void api_answer_done(struct api_answer *answer); /* a zeroed answer is allowed */

/* The next piece of a prompt's stream; bytes as sch_stream_next gives them.  An END piece with an
 * outcome that is no finish_reason is the caller's to report. */
void api_answer_piece(struct api_answer *answer, uint32_t prompt_index,
                      const struct sch_piece *piece, const struct eng_candidate *candidates,
                      const char *bytes);

/* All choices have ended.  Streamed: the usage chunk, if it was asked for.  Else: the whole body
 * into out, with its newline. */
void api_answer_finish(struct api_answer *answer, struct fm_buf *out);

#endif
