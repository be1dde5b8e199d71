/* sim.h - the scheduler on the simulated device: a world to run it in, clients that read, and what
 * each request must answer.
 *
 * The answer is computed without scheduler, cache, batch or chunk: the digest of the history gives
 * the logits (backends/sim/sim.h), eng_sample draws, the parser makes text of it. */
#ifndef TESTS_SIM_H
#define TESTS_SIM_H

#include "backends/base/buf.h"
#include "scheduler/scheduler.h"

enum { TEST_SIM_CHOICES_MAX = 4, TEST_SIM_PROMPT_MAX = 1500, TEST_SIM_TOKENS_MAX = 600 };

struct test_sim_world {
    struct eng_engine *engine;
    struct eng_text *text;
    const struct eng_info *info;
};

struct test_sim_options {
    uint32_t seqs_max, step_rows_max, logit_rows_max;
    uint32_t contexts;   /* G pages: for this many longest sequences; 0: for all */
    const char *variant; /* of the backend */
    const char *backend; /* NULL: sim */
    uint32_t threads;    /* that compute */
    bool is_checked;     /* through backends/check */
};

/* The bundled model's sizes and tokenizer on the device sim; contexts of 2,048 tokens. */
void test_sim_open(struct test_sim_world *world, const struct test_sim_options *options);
void test_sim_close(struct test_sim_world *world);

/* A request with memory of its own for everything that it points to. */
struct test_sim_spec {
    struct sch_spec spec;
    struct eng_parser_spec parser;
    uint32_t prompt[TEST_SIM_PROMPT_MAX];
    struct eng_bias bias[4];
    struct sch_bad_word bad_words[2];
    uint32_t bad_tokens[4];
    struct eng_slice stops[2];
};

/* A small plain request: greedy, one choice, raw text. */
void test_sim_spec_init(const struct test_sim_world *world, struct test_sim_spec *spec,
                        uint32_t prompt_count, uint32_t tokens_max);
/* One of everything that a request may ask for; a pure function of (seed, number). */
void test_sim_spec_random(const struct test_sim_world *world, uint64_t seed, uint64_t number,
                          struct test_sim_spec *spec);

/* The pieces of one choice, run together. */
struct test_sim_answer {
    struct fm_buf text;   /* a mark and the bytes, for every kind of piece */
    struct fm_buf tokens; /* of TOKEN pieces: token, log probability, candidates */
    uint32_t last_kind;
    bool has_end;
    struct sch_piece end;
};

/* What one client has read. */
struct test_sim_client {
    struct test_sim_answer answers[TEST_SIM_CHOICES_MAX];
    struct fm_buf prompt; /* of PROMPT pieces, as tokens */
    bool is_done;
};

void test_sim_client_init(struct test_sim_client *client);
void test_sim_client_done(struct test_sim_client *client);

/* Read at most `pieces_max` pieces; true when there was nothing more to read. */
bool test_sim_client_read(struct test_sim_client *client, struct sch_stream *stream,
                          uint32_t pieces_max);

/* Fails the test unless both have read the same, but for where pieces were cut. */
void test_sim_client_compare(const struct test_sim_client *client,
                             const struct test_sim_client *other);

/* Fails the test unless the client has read what the spec must answer: all of it where a choice
 * ended by itself, else a beginning of it. */
void test_sim_client_verify(const struct test_sim_world *world, const struct test_sim_spec *spec,
                            const struct test_sim_client *client);

#endif
