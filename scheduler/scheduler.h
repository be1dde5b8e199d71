/* scheduler.h - requests in, streams of text out.
 *
 * One scheduler thread owns all requests and the page tables; one worker thread per device runs
 * its steps.  Requests join and leave the batch at every step; what a request answers depends on
 * nothing but its spec.
 *
 * Threads: sch_submit, sch_cancel and the sch_stream_ functions are for the main thread (one
 * caller); sch_stats is for any thread.  No call here waits, but sch_start and sch_stop. */
#ifndef SCH_SCHEDULER_H
#define SCH_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/mailbox.h"
#include "engine/engine.h"
#include "engine/text.h"

struct sch_scheduler; /* opaque: scheduler.c */
struct sch_stream;    /* opaque: stream.c */

struct sch_options {
    uint32_t queue_max;         /* requests that wait; one more is FM_AGAIN */
    uint64_t queue_tokens_max;  /* prompt tokens that wait */
    uint32_t running_max;       /* sequences that run, at most eng_info.seqs_max */
    uint32_t step_tokens_max;   /* rows of a step, at most eng_info.step_rows_max */
    uint32_t chunk_tokens_max;  /* prefill rows of one sequence in a step */
    uint32_t stream_bytes;      /* ring of each request, a power of two */
    uint64_t queue_timeout_ms;  /* waiting longer ends with SCH_END_QUEUE_TIMEOUT */
    uint64_t reader_timeout_ms; /* a ring that is full for longer cancels the request */
    uint32_t choices_max;       /* n of one request */
    /* Streams that have news are put here (their link): with_fd, read by the main thread. */
    struct fm_mailbox *ready;
};

/* Starts the threads.  engine and text outlive the scheduler. */
enum fm_status sch_start(struct eng_engine *engine, const struct eng_text *text,
                         const struct sch_options *options, struct sch_scheduler **ret_scheduler,
                         struct fm_err *err) FM_MUST_CHECK;

/* Stop taking requests: sch_submit answers FM_CANCELED from now on.  What waits ends with
 * SCH_END_DRAINING; what runs goes on. */
void sch_drain(struct sch_scheduler *scheduler);
/* True when no request is left. */
bool sch_is_idle(struct sch_scheduler *scheduler);

/* Cancel everything, end the threads, free.  Streams that are still open stay readable.  NULL is
 * allowed. */
void sch_stop(struct sch_scheduler *scheduler);

/* ---- requests ------------------------------------------------------------------------------ */

enum { SCH_STOP_TOKENS_MAX = 64, SCH_BAD_WORDS_MAX = 512 };

/* Tokens that may not follow one another: the last is banned wherever the generated tokens end in
 * all the others. */
struct sch_bad_word {
    const uint32_t *tokens;
    uint32_t token_count; /* at least 1 */
};

/* What to generate.  sch_submit copies everything. */
struct sch_spec {
    uint64_t request_number; /* for log lines: "req=" */
    const uint32_t *prompt;
    uint32_t prompt_count;        /* at least 1 */
    uint32_t choice_count;        /* n; choice i draws with the numbers of (seed, i) */
    uint32_t tokens_max;          /* completion tokens of each choice; 0: none (echo alone) */
    uint32_t tokens_min;          /* eos and the stop tokens are not drawn before */
    struct eng_sampling sampling; /* the bias array and the allowed mask are copied */
    /* One parser per choice is made from this: reasoning, tools, stop strings (text.h). */
    const struct eng_parser_spec *parser;
    uint32_t stop_tokens[SCH_STOP_TOKENS_MAX];
    uint32_t stop_token_count;
    bool ignore_eos;
    const struct sch_bad_word *bad_words;
    uint32_t bad_word_count; /* at most SCH_BAD_WORDS_MAX */
    bool bounds_reasoning;   /* after reasoning_max tokens of reasoning </think> is forced; it is */
    uint32_t reasoning_max;  /* then a token of reasoning itself */
    bool wants_prompt_logprobs; /* one SCH_PIECE_PROMPT per prompt token, in order */
    uint64_t deadline_ns;       /* fm_clock; UINT64_MAX: none */
};

/* Slot and generation, never a pointer; a stale handle names nothing. */
struct sch_handle {
    uint32_t slot;
    uint32_t generation;
};

/* Queue a request.  FM_OK: the stream is the caller's until sch_stream_close.
 * FM_AGAIN: the queue is full and *ret_retry_s says when to come back (also written then).
 * FM_CANCELED: draining.  FM_LIMIT: prompt and tokens_max do not fit the context or the pools,
 * or choice_count is too large, ever.  FM_INVALID: a token beyond the vocabulary, or what
 * eng_parser_new refuses.  FM_DEVICE: the device was lost.  FM_NOMEM. */
enum fm_status sch_submit(struct sch_scheduler *scheduler, const struct sch_spec *spec,
                          struct sch_handle *ret_handle, struct sch_stream **ret_stream,
                          uint32_t *ret_retry_s, struct fm_err *err) FM_MUST_CHECK;

/* The request ends at the next step boundary with SCH_END_CANCELED.  A stale handle is ignored. */
void sch_cancel(struct sch_scheduler *scheduler, struct sch_handle handle);

/* ---- streams ------------------------------------------------------------------------------- */

enum sch_piece_kind {
    SCH_PIECE_PROMPT,     /* a prompt token and its log probability (none for the first) */
    SCH_PIECE_TOKEN,      /* a generated token with log probabilities, when they were asked for;
                           * comes before the text that it completes */
    SCH_PIECE_REASONING,  /* bytes of reasoning: whole UTF-8 characters */
    SCH_PIECE_CONTENT,    /* bytes of the answer: whole UTF-8 characters */
    SCH_PIECE_TOOL_BEGIN, /* bytes: the function's name; index: number of the call */
    SCH_PIECE_TOOL_ARGS,  /* bytes: a fragment of the arguments' JSON text */
    SCH_PIECE_TOOL_END,
    SCH_PIECE_END,  /* of one choice: reason and counts */
    SCH_PIECE_DONE, /* of the request: nothing follows */
};

enum sch_end {
    SCH_END_STOP,   /* eos, a stop token, or a stop string */
    SCH_END_LENGTH, /* tokens_max or the context */
    SCH_END_TOOL_CALLS,
    SCH_END_CANCELED,
    SCH_END_TIMEOUT,       /* deadline_ns */
    SCH_END_QUEUE_TIMEOUT, /* never started */
    SCH_END_DRAINING,      /* never started */
    SCH_END_FAILED,        /* the device or the engine; the log says why */
    SCH_END_COUNT,
};

enum { SCH_NO_STOP = 0xffffffff };

struct sch_piece {
    uint8_t kind; /* enum sch_piece_kind */
    uint8_t end;  /* enum sch_end, of END */
    uint16_t choice;
    uint32_t index;           /* of a tool call */
    uint32_t token;           /* of PROMPT and TOKEN */
    float logprob;            /* of PROMPT and TOKEN; NAN: there is none */
    uint32_t candidate_count; /* of PROMPT and TOKEN */
    uint32_t byte_count;
    /* Of REASONING and CONTENT: positions of the generated tokens that have bytes in this piece
     * (eng_piece); of TOKEN: its own position and the next.  token_first may have been counted for
     * the piece before. */
    uint32_t token_first, token_end;
    uint32_t completion_tokens, reasoning_tokens; /* of END */
    uint32_t prompt_tokens, cached_tokens;        /* of END */
    uint32_t stop_string; /* of END: index in the parser's stop strings, or SCH_NO_STOP */
    uint32_t stop_token;  /* of END: the stop token that was drawn, or SCH_NO_STOP */
};

enum { SCH_PIECE_BYTES_MAX = 4096 };

/* The next piece, its candidates and its bytes (with a NUL behind).  FM_OK; FM_AGAIN when there is
 * none now (the link will come through the ready mailbox); FM_END after DONE. */
enum fm_status sch_stream_next(struct sch_stream *stream, struct sch_piece *ret_piece,
                               struct eng_candidate ret_candidates[ENG_LOGPROBS_MAX],
                               char ret_bytes[SCH_PIECE_BYTES_MAX + 1]) FM_MUST_CHECK;

/* The stream whose link the ready mailbox gave; NULL when it was closed meanwhile. */
struct sch_stream *sch_stream_of(struct fm_link *link);

/* The caller's mark on a stream, for the way back from the ready mailbox. */
void sch_stream_set_owner(struct sch_stream *stream, void *owner);
void *sch_stream_owner(const struct sch_stream *stream);

/* Let go.  A request that still runs is canceled. */
void sch_stream_close(struct sch_stream *stream);

/* ---- numbers ------------------------------------------------------------------------------- */

enum { SCH_HISTOGRAM_BUCKETS = 16 };

/* Bucket i counts values <= sch_bucket_s(i) seconds and above the bucket before; the last one
 * counts the rest. */
struct sch_histogram {
    uint64_t buckets[SCH_HISTOGRAM_BUCKETS];
    uint64_t count;
    double sum_s;
};
double sch_bucket_s(uint32_t index);

struct sch_stats {
    uint64_t requests_by_end[SCH_END_COUNT];
    uint64_t refused; /* FM_AGAIN */
    uint32_t queued, running_seqs, parked;
    uint64_t queued_tokens;
    uint64_t steps, prefill_tokens, decode_tokens;
    struct sch_histogram ttft, tpot, e2e, step, queue_wait, cancel_latency;
    uint64_t repairs[ENG_REPAIR_COUNT]; /* of model output, by the parsers of ended choices */
    uint32_t units_total[BE_POOL_COUNT], units_free[BE_POOL_COUNT];
    uint32_t is_broken; /* 1: the device was lost; nothing runs any more */
};

/* A copy that is at most a step old.  Any thread. */
void sch_stats(struct sch_scheduler *scheduler, struct sch_stats *ret_stats);

#endif
