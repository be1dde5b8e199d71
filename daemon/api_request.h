/* api_request.h - what a generation request asks for, once its JSON was understood.
 *
 * A preparation thread makes one from the body (api_chat.c, api_completions.c); from then on it is
 * never written: the scheduler copies the token ids, the answer reads the rest.  Everything it
 * points to lies in its arena, which is born with a maximum and goes in one call. */
#ifndef API_REQUEST_H
#define API_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/arena.h"
#include "daemon/api_schema.h"
#include "daemon/body.h"
#include "daemon/config.h"
#include "engine/text.h"
#include "scheduler/scheduler.h"

/* ---- the model as the API shows it ------------------------------------------------------------ */

enum { API_NAME_BYTES = 128, API_ALIASES_MAX = 16 };

enum api_thinking { API_THINKING_UNSET, API_THINKING_OFF, API_THINKING_ON };

struct api_alias {
    char name[API_NAME_BYTES];
    enum api_thinking thinking; /* what the alias stands for, where the request says nothing */
};

/* Set before the first request and not written afterwards; what a reload can change is in the
 * configuration of the call. */
struct api_model {
    const struct eng_text *text;
    char id[API_NAME_BYTES];
    struct api_alias aliases[API_ALIASES_MAX];
    uint32_t alias_count;
    char fingerprint[16]; /* "fp_" and 10 digits */
    uint64_t created_s;
    uint32_t context_max; /* tokens of prompt and answer: C */
    bool has_fim;         /* the tokenizer has the tokens of fill-in-the-middle */
};

/* The id, or one of the aliases: true, and the alias's thinking (UNSET for the id itself). */
bool api_model_find(const struct api_model *model, const char *name,
                    enum api_thinking *ret_thinking);

/* ---- the request ------------------------------------------------------------------------------ */

enum api_kind { API_CHAT, API_COMPLETION };

enum { API_CALLS_MAX = 1024, API_TOOL_BYTES_MAX = 1 << 20 };

struct api_prompt {
    const uint32_t *tokens;
    uint32_t token_count;
    uint32_t tokens_max;   /* of each answer */
    struct eng_slice echo; /* of a completion with echo: the prompt as text */
};

struct api_request {
    struct fm_arena arena;
    const struct api_model *model;
    enum api_kind kind;
    uint32_t reasoning_field; /* SRV_REASONING_... */

    struct api_prompt *prompts; /* one of a chat */
    uint32_t prompt_count;
    uint32_t choice_count;   /* n, per prompt */
    uint32_t generate_count; /* best_of, at least n */

    struct sch_spec spec; /* without what api_request_spec adds */
    struct eng_parser_spec parser;
    struct eng_tools *tools; /* a reference, or NULL */

    bool is_stream;
    bool includes_usage;       /* a last chunk with usage */
    bool has_continuous_usage; /* usage on every chunk */
    bool is_thinking;          /* the answer has a reasoning field */
    bool hides_reasoning;      /* generated and counted, not returned */
    bool merges_reasoning;     /* returned in front of the content */
    bool has_one_call;         /* calls behind the first are dropped */
    bool wants_logprobs;
    bool wants_token_ids;
    bool wants_prompt_logprobs; /* in the answer */
    bool echoes;
    bool echoes_tier;      /* service_tier was sent */
    uint32_t top_logprobs; /* alternatives in the answer */
    const char *warnings;  /* codes, or NULL: for x-fathom-warnings */
    const char *ignored;   /* names, or NULL: for x-fathom-ignored */
};

/* Wipes and frees; a zeroed request is allowed. */
void api_request_done(struct api_request *request);

/* What the scheduler is asked for one prompt; points into the request.  The caller adds
 * request_number and deadline_ns. */
struct sch_spec api_request_spec(const struct api_request *request, uint32_t prompt_index);

/* What preparing passes around.  `reader` is at the top of the body. */
struct api_parse {
    struct api_request *request;
    const struct srv_config *config;
    struct api_reader reader;
    struct eng_slice raw; /* the text of the body's object */
    struct fm_buf warnings;
    enum api_thinking alias_thinking;
};

/* Memory from the request's arena; NULL, and the problem set, when there is no more. */
void *api_parse_take(struct api_parse *parse, size_t count, size_t bytes);

/* Add a code to x-fathom-warnings, once. */
void api_parse_warn(struct api_parse *parse, const char *code);

/* The fields that chat and completions share, but for the token limits: stream, n, stop, seed,
 * sampling, bias, masks, bad words, tiers, and those that are checked and then ignored. */
void api_parse_shared(struct api_parse *parse);

/* The model's name, when all other fields were found sound: 404 for one that is not served. */
void api_parse_model(struct api_parse *parse);

/* The lengths: P against the context, M from the request, its
 * clamp or its refusal, and min_tokens.  `what` is "messages" or "prompt".  The prompt's tokens are
 * known; its tokens_max is found. */
struct api_limit {
    bool is_given;
    uint32_t tokens; /* M: as given, or what holds when it is not */
};
void api_parse_lengths(struct api_parse *parse, uint32_t prompt_index, struct api_limit limit,
                       const char *what);

/* The problem of a prompt that does not fit.  is_bound: it has at least so many tokens. */
void api_parse_overlong(struct api_parse *parse, uint64_t prompt_tokens, bool is_bound,
                        const char *what);

/* `bytes` of prompt text: false, and the problem set, when so many bytes cannot fit the context. */
bool api_parse_bytes_fit(struct api_parse *parse, size_t bytes, const char *what);

/* Room for the tokens of one prompt, somewhat more than can be served, so that a prompt that is too
 * long can be told its length. */
uint32_t api_tokens_bound(const struct api_model *model);

/* A failure of the text side as a problem: memory is 503, all else 400 about `param`. */
void api_parse_failed(struct api_parse *parse, const char *param, const struct fm_err *err);

/* Copy tokens into the request. */
bool api_parse_prompt(struct api_parse *parse, uint32_t prompt_index,
                      const struct eng_tokens *tokens);

/* Parse the body and run `fields` over it; ends with the header lists.  FM_OK: the request is
 * complete and the caller's (api_request_done).  FM_INVALID: *ret_problem says what to answer, the
 * request is empty.  `honoured` lists the names that are not reported as ignored. */
struct api_endpoint {
    enum api_kind kind;
    void (*fields)(struct api_parse *parse);
    const char *const *honoured;
    uint32_t honoured_count;
};
enum fm_status api_request_parse(const struct api_endpoint *endpoint, const struct api_model *model,
                                 const struct srv_config *config, struct eng_slice bytes,
                                 struct api_request *ret_request,
                                 struct srv_error *ret_problem) FM_MUST_CHECK;

#endif
