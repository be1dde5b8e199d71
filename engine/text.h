/* text.h - between text and token ids: tokenizer, chat prompt, output parser.
 *
 * What a request says becomes token ids (eng_encode, eng_chat_encode); what the model samples
 * becomes typed pieces of text (eng_parser_feed).  Control tokens exist only where the renderer
 * puts them and where the model samples them: text that spells one out, from a client or from the
 * model, is ordinary text and never becomes one.
 *
 * Threads: struct eng_text and struct eng_tools are never written after they were made and may be
 * shared by all threads.  Everything else belongs to one thread at a time. */
#ifndef ENG_TEXT_H
#define ENG_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/buf.h"
#include "backends/base/status.h"

/* A view of bytes that somebody else owns.  data == NULL means absent, which is not the same as
 * empty.  Not NUL-terminated; may hold NUL bytes. */
struct eng_slice {
    const char *data;
    size_t length;
};

/* ---- The tokenizer of a model ------------------------------------------------------------- */

/* Which release of the prompt format: they differ in the text that stands for an effort. */
enum eng_revision {
    ENG_REVISION_AUTO, /* found out from the model directory: its encoder, then its name, else R1 */
    ENG_REVISION_R1,   /* V4-Flash and V4-Pro of April 2026 */
    ENG_REVISION_R2,   /* V4-Flash-0731, V4-Pro-0813 and later */
};

struct eng_text_options {
    enum eng_revision revision;
    uint32_t vocab_size; /* rows of the model's logits; 0: as many as the tokenizer has ids */
};

struct eng_text; /* opaque: engine/tokenizer.c */

/* What the model calls its control tokens, and where they are.  ENG_ID_NONE: the tokenizer has no
 * such token. */
#define ENG_ID_NONE UINT32_MAX

struct eng_text_info {
    uint32_t vocab_size;  /* ids are 0 .. vocab_size - 1; an id without a token has no bytes */
    uint32_t token_count; /* ids that have a token */
    uint32_t mask_words;  /* 64-bit words of a mask: vocab_size / 64, rounded up */
    uint32_t bytes_max;   /* of the longest token */
    enum eng_revision revision; /* R1 or R2 */
    bool revision_is_guess;     /* AUTO found nothing and took R1: worth one warning */
    uint32_t bos, eos, user, assistant, think_start, think_end, dsml; /* always there */
    uint32_t pad, latest_reminder, fim_begin, fim_hole, fim_end;
    uint32_t task_action, task_query, task_authority, task_domain, task_title, task_read_url;
};

/* Read model_dir/tokenizer.json.  A file that is not a tokenizer of this family (another model
 * type, normalizer, pre-tokenizer or decoder), or that lacks a control token which the prompt
 * format needs, is refused with a sentence that names the key: FM_INVALID, FM_UNSUPPORTED,
 * FM_CORRUPT, FM_IO, FM_NOMEM.  options may be NULL.  Takes about 0.1 s. */
enum fm_status eng_text_open(const char *model_dir, const struct eng_text_options *options,
                             struct eng_text **ret_text, struct fm_err *err) FM_MUST_CHECK;
void eng_text_free(struct eng_text *text);

const struct eng_text_info *eng_text_info(const struct eng_text *text);

enum eng_token_kind {
    ENG_TOKEN_NONE,    /* no token has this id */
    ENG_TOKEN_BYTES,   /* text; its bytes need not be whole characters */
    ENG_TOKEN_CONTROL, /* an added token: its bytes are its name, never shown to a client */
};

enum eng_token_kind eng_text_token_kind(const struct eng_text *text, uint32_t id);

/* The bytes of a token: exact, possibly part of a character.  Empty for an id without a token, and
 * for an id beyond the vocabulary.  They live as long as `text`. */
struct eng_slice eng_text_token(const struct eng_text *text, uint32_t id);

/* ---- Text to tokens ------------------------------------------------------------------------- */

/* A growing array of ids that is born with its maximum. */
struct eng_tokens {
    uint32_t *ids;
    uint32_t count, capacity;
    uint32_t count_max; /* count never exceeds this */
};

void eng_tokens_init(struct eng_tokens *tokens, uint32_t count_max);
void eng_tokens_done(struct eng_tokens *tokens); /* wipes and frees; empty and usable afterwards */

/* Append one id: FM_OK, FM_LIMIT, FM_NOMEM. */
enum fm_status eng_tokens_put(struct eng_tokens *tokens, uint32_t id,
                              struct fm_err *err) FM_MUST_CHECK;

enum eng_encode_flags {
    ENG_ENCODE_TEXT = 0, /* nothing in the bytes is a control token */
    ENG_ENCODE_CONTROL =
        1, /* names of control tokens become the tokens: for operators, not users */
};

/* Append the tokens of bytes[0 .. length), which must be valid UTF-8.  No BOS, no EOS.
 * FM_INVALID (not UTF-8; says where), FM_LIMIT (more than tokens->count_max), FM_NOMEM; then the
 * tokens are as they were.  Linear in length but for a logarithm, whatever the text. */
enum fm_status eng_encode(const struct eng_text *text, const char *bytes, size_t length,
                          enum eng_encode_flags flags, struct eng_tokens *tokens,
                          struct fm_err *err) FM_MUST_CHECK;

/* A fill-in-the-middle prompt: BOS, begin, prefix, hole, suffix, end.  FM_UNSUPPORTED where the
 * tokenizer lacks these tokens; else as eng_encode. */
enum fm_status eng_encode_fim(const struct eng_text *text, struct eng_slice prefix,
                              struct eng_slice suffix, struct eng_tokens *tokens,
                              struct fm_err *err) FM_MUST_CHECK;

/* ---- Tokens to text ------------------------------------------------------------------------- */

/* Bytes to valid UTF-8, as they come.  Start with {0}.  Holds back at most 3 bytes: the valid
 * beginning of a character.  What can no longer become valid turns into U+FFFD, one per maximal
 * ill-formed part. */
struct eng_detok {
    uint8_t held[4];
    uint8_t held_count, needed_count; /* bytes held; bytes of the whole character */
};

/* Append to out what is complete after these bytes: at most 3 * (length + 3) bytes.  false when
 * out is full or memory is short (out->is_broken). */
bool eng_detok_feed(struct eng_detok *detok, const void *bytes, size_t length, struct fm_buf *out);

/* The end: what is still held becomes one U+FFFD.  The detokeniser is as new afterwards. */
bool eng_detok_flush(struct eng_detok *detok, struct fm_buf *out);

/* Append the text of ids[0 .. count) as valid UTF-8, names of control tokens included.  FM_INVALID
 * names an id that has no token. */
enum fm_status eng_decode(const struct eng_text *text, const uint32_t *ids, uint32_t count,
                          struct fm_buf *out, struct fm_err *err) FM_MUST_CHECK;

/* ---- JSON text ------------------------------------------------------------------------------ */

/* Prompts carry JSON with the digits and the order of keys that the client sent, which a parsed
 * tree no longer has.  These find the text of a value within the text of a whole one, which must be
 * valid JSON (as a body is that was parsed before). */

/* The value of `key` in the object `json`, without blanks around it; where the key occurs more than
 * once, the last.  {NULL, 0} when json is not an object or has no such key. */
struct eng_slice eng_json_member(struct eng_slice json, const char *key);

/* Item `index` of the array `json`, likewise. */
struct eng_slice eng_json_item(struct eng_slice json, uint32_t index);

/* ---- Tools ---------------------------------------------------------------------------------- */

/* The functions that a request declares: their text in the prompt, and what the output parser has
 * to know of their schemas.  Reference counted; never written after it was made. */
struct eng_tools; /* opaque: engine/tools.c */

/* `json` is the text of the request's `tools` array.  Items whose type is not "function" are left
 * out.  FM_INVALID: not an array, a name that is missing, longer than 64, outside [A-Za-z0-9_-] or
 * used twice, a number that has no finite value; FM_LIMIT: more than count_max; FM_NOMEM.  The new
 * set has one reference. */
enum fm_status eng_tools_new(struct eng_slice json, uint32_t count_max,
                             struct eng_tools **ret_tools, struct fm_err *err) FM_MUST_CHECK;

struct eng_tools *eng_tools_ref(struct eng_tools *tools); /* NULL is allowed */
void eng_tools_unref(struct eng_tools *tools);            /* NULL is allowed */
uint32_t eng_tools_count(const struct eng_tools *tools);  /* NULL: 0 */
bool eng_tools_has(const struct eng_tools *tools, struct eng_slice name);

/* ---- Chat to tokens ------------------------------------------------------------------------- */

enum eng_role {
    ENG_ROLE_SYSTEM, /* an API's "developer" too */
    ENG_ROLE_USER,
    ENG_ROLE_ASSISTANT,
    ENG_ROLE_TOOL, /* "function" too */
    ENG_ROLE_LATEST_REMINDER,
    ENG_ROLE_DEVELOPER, /* the format's own user-like role; not what an API calls developer */
};

/* The quick instructions of the format; the answer to one carries no reasoning. */
enum eng_task {
    ENG_TASK_NONE,
    ENG_TASK_ACTION,
    ENG_TASK_QUERY,
    ENG_TASK_AUTHORITY,
    ENG_TASK_DOMAIN,
    ENG_TASK_TITLE,
    ENG_TASK_READ_URL,
};

struct eng_call {
    struct eng_slice id, name;
    struct eng_slice arguments; /* JSON text: the string's value, or the text of an object; may be
                                   absent, empty or broken */
};

struct eng_message {
    enum eng_role role;
    enum eng_task task;            /* user and assistant */
    const struct eng_slice *parts; /* the text parts of the content: a user's are joined by a blank
                                       line, all others by nothing */
    uint32_t part_count;           /* 0: no content, printed as empty */
    uint32_t call_count;           /* assistant */
    const struct eng_call *calls;
    struct eng_slice reasoning;       /* assistant; absent is printed as empty */
    struct eng_slice tool_call_id;    /* tool; may be absent */
    struct eng_slice response_format; /* JSON text, printed behind system and developer */
    const struct eng_tools *tools; /* printed behind system and developer; a request's own tools go
                                       to eng_chat, which finds their place */
    bool is_open;                  /* the last one, an assistant's: generation goes on in it */
};

/* Reasoning effort as the format knows it. */
enum eng_effort { ENG_EFFORT_LOW, ENG_EFFORT_HIGH, ENG_EFFORT_MAX };

/* "none" minimal low medium high xhigh max ultra -> true; "none" is *ret_is_off, the effort is then
 * untouched.  false for any other word. */
bool eng_effort_parse(struct eng_slice word, enum eng_effort *ret_effort, bool *ret_is_off);

struct eng_chat {
    const struct eng_message *messages;
    uint32_t message_count;
    enum eng_effort effort; /* has no effect without is_thinking */
    bool is_thinking;
    bool keeps_reasoning; /* of all turns, also without tools (the format drops earlier ones) */
    bool has_no_bos;
    bool is_literal; /* render the messages as the published encoder does: tools stay where
                                  they are, no new turn after an assistant's or a system's message */
    const struct eng_tools *tools;    /* of the request; NULL or empty: none.  The tool choice does
                                          not change the prompt, only what may be sampled */
    struct eng_slice response_format; /* of the request, JSON text; absent: not in the prompt */
};

enum eng_channel { ENG_CHANNEL_REASONING, ENG_CHANNEL_CONTENT };

/* Append the prompt's tokens.  *ret_start says where generation begins: give it to the parser.
 * FM_INVALID (a text that is not UTF-8, an open message that is not the last or not an assistant's
 * or has calls, an empty developer message, a number without a finite value), FM_UNSUPPORTED (the
 * tokenizer lacks a control token for this role or task), FM_LIMIT (more than tokens->count_max),
 * FM_NOMEM; then the tokens are as they were.  Equal input gives equal tokens. */
enum fm_status eng_chat_encode(const struct eng_text *text, const struct eng_chat *chat,
                               struct eng_tokens *tokens, enum eng_channel *ret_start,
                               struct fm_err *err) FM_MUST_CHECK;

/* The same prompt as text, for people and for tests: names of control tokens are spelled out, and
 * can no longer be told from look-alikes. */
enum fm_status eng_chat_render(const struct eng_text *text, const struct eng_chat *chat,
                               struct fm_buf *out, enum eng_channel *ret_start,
                               struct fm_err *err) FM_MUST_CHECK;

/* ---- What may be sampled -------------------------------------------------------------------- */

/* A class is a sum of these; the tokens of text are allowed in every class, all other control
 * tokens in none. */
enum eng_mask_class {
    ENG_MASK_TEXT = 0,
    ENG_MASK_EOS = 1,
    ENG_MASK_THINK_END = 2,
    ENG_MASK_DSML = 4,
    ENG_MASK_CLASSES = 8,
};

/* Bit id % 64 of word id / 64 is set where the id may be sampled; mask_words words that live as
 * long as `text`.  To ignore EOS, or to put it off, take `class & ~ENG_MASK_EOS`. */
const uint64_t *eng_text_mask(const struct eng_text *text, unsigned mask_class);

/* ---- Tokens to answers ---------------------------------------------------------------------- */

enum {
    ENG_STOPS_MAX = 16,
    ENG_STOP_BYTES_MAX = 512,
};

struct eng_parser_spec {
    const struct eng_text *text;
    struct eng_tools *tools;     /* the parser takes its own reference; NULL: DSML is only text */
    enum eng_channel start;      /* from eng_chat_encode */
    bool is_raw;                 /* a completion without chat: all is content, no markup is known */
    bool calls_are_banned;       /* tool_choice "none": as without tools, and DSML is masked */
    bool keeps_eos_in_reasoning; /* false: eng_parser_replace makes it </think> */
    bool shows_stop;             /* the stop string ends the visible text instead of being cut */
    const struct eng_slice *stops; /* copied; each 1 .. ENG_STOP_BYTES_MAX bytes */
    uint32_t stop_count;           /* at most ENG_STOPS_MAX */
};

enum eng_piece_kind {
    ENG_PIECE_REASONING,  /* text */
    ENG_PIECE_CONTENT,    /* text */
    ENG_PIECE_TOOL_BEGIN, /* the name of the function; once per call, in order */
    ENG_PIECE_TOOL_ARGS,  /* a fragment of the JSON text of the arguments */
    ENG_PIECE_TOOL_END,   /* the call is complete; no bytes */
};

/* Text is valid UTF-8; a fragment never splits a character or a JSON escape.  A token counts for
 * the piece that shows its first byte: token_first .. token_end - 1 are the positions (0: the first
 * token fed) of the tokens with bytes in this piece, of which the first may have been counted for
 * the piece before. */
struct eng_piece {
    enum eng_piece_kind kind;
    uint32_t call_index; /* tool pieces: 0, 1, ... */
    const char *data;
    size_t length;
    uint32_t token_first, token_end;
};

enum eng_end {
    ENG_END_NONE,  /* go on */
    ENG_END_EOS,   /* the model ended its turn */
    ENG_END_BLOCK, /* the tool call block is complete: append EOS to the stored turn and stop */
    ENG_END_STOP,  /* a stop string was completed */
    ENG_END_CUT,   /* eng_parser_finish */
};

/* Repairs of damaged output and other rare events, for counters. */
enum eng_repair {
    ENG_REPAIR_IMPLICIT_THINK_END, /* a block began in the reasoning */
    ENG_REPAIR_EOS_IN_REASONING,   /* EOS became </think> */
    ENG_REPAIR_OPENER,             /* the block's opener was misspelt or missing */
    ENG_REPAIR_UNDECLARED_NAME,    /* a call of a function that was not declared */
    ENG_REPAIR_PARAMETER_END,      /* a parameter had no end tag */
    ENG_REPAIR_INVOKE_END,         /* a call had no end tag */
    ENG_REPAIR_BLOCK_END,          /* EOS before the block's end tag */
    ENG_REPAIR_JUNK,               /* text between tags was skipped */
    ENG_REPAIR_JSON_BODY,          /* the arguments came as one JSON object */
    ENG_REPAIR_UNWRAPPED,          /* ... or as a parameter named arguments or input */
    ENG_REPAIR_STRING_FLAG,        /* the string attribute was missing */
    ENG_REPAIR_VALUE,              /* a value that was not JSON became a literal or a string */
    ENG_REPAIR_DUPLICATE,          /* a parameter was given twice; the first counts */
    ENG_REPAIR_CONTROL_DROPPED,    /* a control token was sampled where it means nothing */
    ENG_REPAIR_COUNT,
};

/* A stable lower-case word for metrics: "implicit_think_end", ... */
const char *eng_repair_name(enum eng_repair repair);

struct eng_parser; /* opaque: engine/parse.c */

/* Holds a reference of the tools and a bounded amount of text: usually a few hundred bytes, at most
 * about 16 MiB (a damaged value of 1 MiB, escaped).  FM_INVALID: a stop string that is empty or too long, too many of them; FM_NOMEM. */
enum fm_status eng_parser_new(const struct eng_parser_spec *spec, struct eng_parser **ret_parser,
                              struct fm_err *err) FM_MUST_CHECK;
void eng_parser_free(struct eng_parser *parser);

/* The id to keep instead of a sampled one: </think> for an EOS within the reasoning, every other id
 * as it is.  Call it on each sampled id before it is stored, fed, and run through the model. */
uint32_t eng_parser_replace(struct eng_parser *parser, uint32_t id);

/* Take the next token.  *ret_pieces[0 .. *ret_count) are what can be told now, in order; they are
 * valid until the next call.  What comes out in all does not depend on when it does.  After the end
 * (eng_parser_end) further tokens are ignored.
 * FM_LIMIT: a tool call beyond what is buffered (1 MiB for one value); FM_NOMEM.  The answer cannot
 * be continued then. */
enum fm_status eng_parser_feed(struct eng_parser *parser, uint32_t id,
                               const struct eng_piece **ret_pieces, uint32_t *ret_count,
                               struct fm_err *err) FM_MUST_CHECK;

/* No more tokens: length, a stop token, cancel.  Gives out what was held back; an unfinished call
 * stays unfinished.  After an end it gives nothing. */
enum fm_status eng_parser_finish(struct eng_parser *parser, const struct eng_piece **ret_pieces,
                                 uint32_t *ret_count, struct fm_err *err) FM_MUST_CHECK;

enum eng_end eng_parser_end(const struct eng_parser *parser);

/* Which of spec.stops ended the text; ENG_END_STOP only. */
uint32_t eng_parser_stop_index(const struct eng_parser *parser);

/* The class of ids that may be sampled next. */
unsigned eng_parser_mask_class(const struct eng_parser *parser);

struct eng_parser_stats {
    uint32_t token_count;     /* fed, up to and including the one that ended the turn */
    uint32_t reasoning_count; /* of these: up to and including </think> */
    uint32_t call_count;      /* calls begun */
    uint32_t complete_count;  /* calls complete: finish_reason tool_calls if > 0 and not cut */
    uint32_t repairs[ENG_REPAIR_COUNT];
};

const struct eng_parser_stats *eng_parser_stats(const struct eng_parser *parser);

#endif
