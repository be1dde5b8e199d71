/* sim.c - see sim.h. */
#include "tests/support/sim.h"

#include <check.h>
#include <math.h>
#include <string.h>

#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "backends/sim/sim.h"

enum { CONTEXT_MAX = 2048, BUF_MAX = 1 << 24 };

/* ---- world --------------------------------------------------------------------------------- */

void test_sim_open(struct test_sim_world *world, const struct test_sim_options *options)
{
    struct eng_options engine_options = {
        .model_dir = "conf/model",
        .backend = options->backend != NULL ? options->backend : "sim",
        .variant = options->variant,
        .threads = options->threads,
        .is_checked = options->is_checked,
        .check_seed = 1,
        .context_max = CONTEXT_MAX,
        .step_rows_max = options->step_rows_max,
        .seqs_max = options->seqs_max,
        .logit_rows_max = options->logit_rows_max,
    };
    struct fm_err err = {0};
    ck_assert_msg(eng_open(&engine_options, &world->engine, &err) == FM_OK, "%s", err.text);
    world->info = eng_info(world->engine);
    if (options->contexts != 0) { /* again, with fewer G pages: their size is known now */
        const struct kv_layout *layout = &world->info->layout;
        uint64_t g_pages = (uint64_t)options->contexts * CONTEXT_MAX / layout->page_tokens + 1;
        engine_options.kv_bytes = g_pages * layout->g_page_bytes +
                                  world->info->units[BE_POOL_S] * layout->s_page_bytes +
                                  world->info->units[BE_POOL_T] * layout->t_slot_bytes;
        eng_free(world->engine);
        ck_assert_msg(eng_open(&engine_options, &world->engine, &err) == FM_OK, "%s", err.text);
        world->info = eng_info(world->engine);
    }
    struct eng_text_options text_options = {.vocab_size = world->info->vocab};
    ck_assert_msg(eng_text_open("conf/model", &text_options, &world->text, &err) == FM_OK, "%s",
                  err.text);
}

void test_sim_close(struct test_sim_world *world)
{
    eng_text_free(world->text);
    eng_free(world->engine);
}

/* ---- specs --------------------------------------------------------------------------------- */

void test_sim_spec_init(const struct test_sim_world *world, struct test_sim_spec *spec,
                        uint32_t prompt_count, uint32_t tokens_max)
{
    *spec = (struct test_sim_spec){
        .spec = {.prompt_count = prompt_count,
                 .choice_count = 1,
                 .tokens_max = tokens_max,
                 .sampling = {.top_p = 1, .repetition_penalty = 1},
                 .deadline_ns = UINT64_MAX},
        .parser = {.text = world->text, .start = ENG_CHANNEL_CONTENT, .is_raw = true},
    };
    ck_assert_uint_le(prompt_count, TEST_SIM_PROMPT_MAX);
    for (uint32_t i = 0; i < prompt_count; i++)
        spec->prompt[i] = 100 + (i * 7) % 1000;
    spec->spec.prompt = spec->prompt;
    spec->spec.parser = &spec->parser;
    spec->spec.bad_words = spec->bad_words;
    spec->spec.sampling.bias = spec->bias;
    spec->parser.stops = spec->stops;
}

struct dice {
    uint64_t seed, number, counter;
};

static uint32_t roll(struct dice *dice, uint32_t below)
{
    return (uint32_t)(fm_prng_u64(dice->seed, dice->number, dice->counter++) % below);
}

static uint32_t prompt_length(struct dice *dice)
{
    static const uint32_t special[] = {1, 2, 127, 128, 129, 255, 256, 257, 384, 513, 1024};
    uint32_t kind = roll(dice, 4);
    if (kind == 0)
        return special[roll(dice, 11)];
    return 1 + roll(dice, kind == 1 ? TEST_SIM_PROMPT_MAX : 200);
}

void test_sim_spec_random(const struct test_sim_world *world, uint64_t seed, uint64_t number,
                          struct test_sim_spec *spec)
{
    struct dice dice = {seed, number, 0};
    test_sim_spec_init(world, spec, prompt_length(&dice), roll(&dice, 40));
    struct sch_spec *s = &spec->spec;
    uint32_t shared = roll(&dice, s->prompt_count + 1); /* prompts begin alike, and differ then */
    for (uint32_t i = shared; i < s->prompt_count; i++)
        spec->prompt[i] = roll(&dice, world->info->vocab);
    s->request_number = number;
    if (roll(&dice, 20) == 0)
        s->tokens_max = 200;
    s->choice_count = roll(&dice, 4) == 0 ? 1 + roll(&dice, TEST_SIM_CHOICES_MAX) : 1;
    s->tokens_min = roll(&dice, 4) == 0 ? roll(&dice, 10) : 0;
    s->ignore_eos = roll(&dice, 4) == 0;
    s->wants_prompt_logprobs = roll(&dice, 6) == 0;
    if (roll(&dice, 2) == 0)
        s->sampling.temperature = 0.9f;
    s->sampling.top_k = roll(&dice, 3) == 0 ? 1 + roll(&dice, 50) : 0;
    s->sampling.seed = roll(&dice, 1000);
    s->sampling.wants_logprob = roll(&dice, 2) == 0;
    s->sampling.logprob_count = s->sampling.wants_logprob ? roll(&dice, 4) : 0;
    if (roll(&dice, 4) == 0) {
        s->sampling.frequency_penalty = 0.5f;
        s->sampling.repetition_penalty = 1.3f;
    }
    spec->bias[0] = (struct eng_bias){world->info->eos, roll(&dice, 2) == 0 ? 5.0f : 0.0f};
    s->sampling.bias_count = 1;
    s->stop_token_count = roll(&dice, 3) == 0 ? SCH_STOP_TOKENS_MAX : 0;
    for (uint32_t i = 0; i < s->stop_token_count; i++)
        s->stop_tokens[i] = roll(&dice, world->info->vocab);
    s->bad_word_count = roll(&dice, 3) == 0 ? 2 : 0;
    for (uint32_t i = 0; i < 4; i++)
        spec->bad_tokens[i] = roll(&dice, world->info->vocab);
    spec->bad_words[0] = (struct sch_bad_word){spec->bad_tokens, 1};
    spec->bad_words[1] = (struct sch_bad_word){spec->bad_tokens + 1, 3};

    spec->parser.is_raw = roll(&dice, 2) == 0;
    if (!spec->parser.is_raw && roll(&dice, 2) == 0) {
        spec->parser.start = ENG_CHANNEL_REASONING;
        s->bounds_reasoning = roll(&dice, 2) == 0;
        s->reasoning_max = roll(&dice, 12);
    }
    spec->stops[0] = (struct eng_slice){"e", 1};
    spec->stops[1] = (struct eng_slice){"th", 2};
    spec->parser.stop_count = roll(&dice, 6) == 0 ? 2 : 0;
}

/* ---- answers ------------------------------------------------------------------------------- */

static void answer_init(struct test_sim_answer *answer)
{
    *answer = (struct test_sim_answer){.last_kind = UINT32_MAX};
    fm_buf_init(&answer->text, BUF_MAX);
    fm_buf_init(&answer->tokens, BUF_MAX);
}

static void answer_done(struct test_sim_answer *answer)
{
    fm_buf_done(&answer->text);
    fm_buf_done(&answer->tokens);
}

/* Pieces are compared without regard to where they were cut. */
static void text_add(struct test_sim_answer *answer, uint32_t kind, const char *data, size_t bytes)
{
    bool is_ok = true;
    if (kind != answer->last_kind)
        is_ok = fm_buf_printf(&answer->text, "<%u>", kind);
    answer->last_kind = kind;
    ck_assert(is_ok && fm_buf_put(&answer->text, data, bytes));
}

static void token_add(struct fm_buf *tokens, uint32_t token, float logprob, uint32_t count,
                      const struct eng_candidate *candidates)
{
    struct eng_candidate chosen = {token, logprob};
    ck_assert(fm_buf_put(tokens, &chosen, sizeof chosen));
    ck_assert(count == 0 || fm_buf_put(tokens, candidates, count * sizeof *candidates));
}

void test_sim_client_init(struct test_sim_client *client)
{
    *client = (struct test_sim_client){0};
    fm_buf_init(&client->prompt, BUF_MAX);
    for (uint32_t i = 0; i < TEST_SIM_CHOICES_MAX; i++)
        answer_init(&client->answers[i]);
}

void test_sim_client_done(struct test_sim_client *client)
{
    fm_buf_done(&client->prompt);
    for (uint32_t i = 0; i < TEST_SIM_CHOICES_MAX; i++)
        answer_done(&client->answers[i]);
}

bool test_sim_client_read(struct test_sim_client *client, struct sch_stream *stream,
                          uint32_t pieces_max)
{
    struct sch_piece piece;
    struct eng_candidate candidates[ENG_LOGPROBS_MAX];
    char bytes[SCH_PIECE_BYTES_MAX + 1];
    for (uint32_t i = 0; i < pieces_max; i++) {
        enum fm_status status = sch_stream_next(stream, &piece, candidates, bytes);
        if (status != FM_OK)
            return true;
        ck_assert_msg(!client->is_done, "a piece behind DONE");
        ck_assert_uint_lt(piece.choice, TEST_SIM_CHOICES_MAX);
        struct test_sim_answer *answer = &client->answers[piece.choice];
        ck_assert_msg(piece.kind == SCH_PIECE_DONE || !answer->has_end, "a piece behind END");
        if (piece.kind == SCH_PIECE_DONE) {
            client->is_done = true;
        } else if (piece.kind == SCH_PIECE_PROMPT) {
            token_add(&client->prompt, piece.token, piece.logprob, piece.candidate_count,
                      candidates);
        } else if (piece.kind == SCH_PIECE_TOKEN) {
            token_add(&answer->tokens, piece.token, piece.logprob, piece.candidate_count,
                      candidates);
        } else if (piece.kind == SCH_PIECE_END) {
            answer->has_end = true;
            answer->end = piece;
        } else {
            text_add(answer, piece.kind, bytes, piece.byte_count);
        }
    }
    return false;
}

/* ---- what must be answered ----------------------------------------------------------------- */

static uint32_t text_kind(enum eng_piece_kind kind)
{
    return SCH_PIECE_REASONING + (uint32_t)(kind - ENG_PIECE_REASONING);
}

static void pieces_add(struct test_sim_answer *answer, const struct eng_piece *pieces,
                       uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        text_add(answer, text_kind(pieces[i].kind), pieces[i].data, pieces[i].length);
}

static bool is_among(const uint32_t *tokens, uint32_t count, uint32_t token)
{
    for (uint32_t i = 0; i < count; i++)
        if (tokens[i] == token)
            return true;
    return false;
}

/* The next token, by the letter of scheduler.h. */
static struct eng_drawn expected_draw(const struct test_sim_world *world,
                                      const struct sch_spec *spec, uint32_t choice,
                                      struct eng_parser *parser, uint64_t digest,
                                      const uint32_t *tokens, uint32_t count)
{
    static float logits[1 << 16], scratch[1 << 16];
    static uint32_t ids[1 << 16];
    uint32_t banned[SCH_STOP_TOKENS_MAX + 2], banned_count = 0;
    unsigned class = eng_parser_mask_class(parser);
    int64_t forced = -1;
    if (spec->bounds_reasoning && (class & ENG_MASK_THINK_END) != 0 && count >= spec->reasoning_max)
        forced = eng_text_info(world->text)->think_end;
    if (spec->ignore_eos || count < spec->tokens_min)
        class &= ~(unsigned)ENG_MASK_EOS;
    for (uint32_t i = 0; i < spec->stop_token_count && count < spec->tokens_min; i++)
        banned[banned_count++] = spec->stop_tokens[i];
    for (uint32_t i = 0; i < spec->bad_word_count; i++) {
        const struct sch_bad_word *word = &spec->bad_words[i];
        uint32_t before = word->token_count - 1;
        if (count >= before && memcmp(tokens + count - before, word->tokens, before * 4) == 0)
            banned[banned_count++] = word->tokens[before];
    }
    struct eng_draw draw = {
        .sampling = &spec->sampling,
        .mask = eng_text_mask(world->text, class),
        .banned = banned,
        .banned_count = banned_count,
        .choice = choice,
        .position = count,
        .prompt = spec->prompt,
        .prompt_count = spec->prompt_count,
        .generated = tokens,
        .generated_count = count,
        .forced = forced,
    };
    struct eng_drawn drawn;
    be_sim_logits(digest, world->info->vocab, logits);
    uint64_t mode = fm_numeric_enter();
    eng_sample(logits, world->info->vocab, &draw, scratch, ids, &drawn);
    fm_numeric_leave(mode);
    return drawn;
}

static uint64_t prompt_digest(const struct sch_spec *spec)
{
    uint64_t digest = BE_SIM_ROOT;
    for (uint32_t i = 0; i < spec->prompt_count; i++)
        digest = be_sim_digest(digest, spec->prompt[i], i);
    return digest;
}

static enum sch_end parser_end(struct eng_parser *parser)
{
    switch (eng_parser_end(parser)) {
    case ENG_END_BLOCK: return SCH_END_TOOL_CALLS;
    case ENG_END_EOS:
        return eng_parser_stats(parser)->complete_count != 0 ? SCH_END_TOOL_CALLS : SCH_END_STOP;
    case ENG_END_STOP: return SCH_END_STOP;
    default: return SCH_END_LENGTH;
    }
}

/* The whole answer of one choice, alone. */
static void expected_answer(const struct test_sim_world *world, const struct sch_spec *spec,
                            uint32_t choice, struct test_sim_answer *answer)
{
    uint32_t tokens[TEST_SIM_TOKENS_MAX], count = 0;
    struct eng_parser *parser = NULL;
    const struct eng_piece *pieces;
    uint32_t piece_count;
    uint64_t digest = prompt_digest(spec);
    answer_init(answer);
    ck_assert_int_eq(eng_parser_new(spec->parser, &parser, NULL), FM_OK);
    struct sch_piece *end = &answer->end;
    *end = (struct sch_piece){.stop_string = SCH_NO_STOP, .stop_token = SCH_NO_STOP};
    while (count < spec->tokens_max && eng_parser_end(parser) == ENG_END_NONE) {
        struct eng_drawn drawn = expected_draw(world, spec, choice, parser, digest, tokens, count);
        uint32_t token = eng_parser_replace(parser, drawn.token);
        tokens[count++] = token;
        if (spec->sampling.wants_logprob)
            token_add(&answer->tokens, token, drawn.logprob, drawn.candidate_count,
                      drawn.candidates);
        if (is_among(spec->stop_tokens, spec->stop_token_count, token)) {
            end->stop_token = token;
            break;
        }
        ck_assert_int_eq(eng_parser_feed(parser, token, &pieces, &piece_count, NULL), FM_OK);
        pieces_add(answer, pieces, piece_count);
        digest = be_sim_digest(digest, token, spec->prompt_count + count - 1);
    }
    if (eng_parser_end(parser) == ENG_END_STOP)
        end->stop_string = eng_parser_stop_index(parser);
    end->end = (uint8_t)(end->stop_token != SCH_NO_STOP ? SCH_END_STOP : parser_end(parser));
    if (eng_parser_end(parser) == ENG_END_NONE) {
        ck_assert_int_eq(eng_parser_finish(parser, &pieces, &piece_count, NULL), FM_OK);
        pieces_add(answer, pieces, piece_count);
    }
    end->completion_tokens = count;
    end->reasoning_tokens = eng_parser_stats(parser)->reasoning_count;
    eng_parser_free(parser);
}

static void beginning_verify(const struct fm_buf *got, const struct fm_buf *want, bool is_whole,
                             const char *what)
{
    if (is_whole)
        ck_assert_msg(got->length == want->length, "%s: %zu bytes instead of %zu", what,
                      got->length, want->length);
    ck_assert_msg(got->length <= want->length, "%s: too long", what);
    ck_assert_msg(got->length == 0 || memcmp(got->data, want->data, got->length) == 0,
                  "%s: different", what);
}

void test_sim_client_compare(const struct test_sim_client *client,
                             const struct test_sim_client *other)
{
    beginning_verify(&client->prompt, &other->prompt, true, "prompt log probabilities");
    for (uint32_t i = 0; i < TEST_SIM_CHOICES_MAX; i++) {
        beginning_verify(&client->answers[i].text, &other->answers[i].text, true, "text");
        beginning_verify(&client->answers[i].tokens, &other->answers[i].tokens, true, "tokens");
        ck_assert_uint_eq(client->answers[i].end.end, other->answers[i].end.end);
        ck_assert_uint_eq(client->answers[i].end.completion_tokens,
                          other->answers[i].end.completion_tokens);
    }
}

static void prompt_verify(const struct test_sim_world *world, const struct sch_spec *spec,
                          const struct fm_buf *got, bool is_whole)
{
    static float logits[1 << 16], scratch[1 << 16];
    static uint32_t ids[1 << 16];
    struct eng_sampling how = {.top_p = 1,
                               .repetition_penalty = 1,
                               .wants_logprob = true,
                               .logprob_count = spec->sampling.logprob_count};
    struct fm_buf want;
    uint64_t digest = BE_SIM_ROOT;
    fm_buf_init(&want, BUF_MAX);
    uint64_t mode = fm_numeric_enter();
    token_add(&want, spec->prompt[0], NAN, 0, NULL);
    for (uint32_t i = 0; i + 1 < spec->prompt_count && want.length < got->length; i++) {
        struct eng_draw draw = {.sampling = &how,
                                .prompt = spec->prompt,
                                .prompt_count = i + 1,
                                .forced = (int64_t)spec->prompt[i + 1]};
        struct eng_drawn drawn;
        digest = be_sim_digest(digest, spec->prompt[i], i);
        be_sim_logits(digest, world->info->vocab, logits);
        eng_sample(logits, world->info->vocab, &draw, scratch, ids, &drawn);
        token_add(&want, drawn.token, drawn.logprob, drawn.candidate_count, drawn.candidates);
    }
    fm_numeric_leave(mode);
    beginning_verify(got, &want, is_whole, "prompt log probabilities");
    fm_buf_done(&want);
}

void test_sim_client_verify(const struct test_sim_world *world, const struct test_sim_spec *spec,
                            const struct test_sim_client *client)
{
    bool is_whole = true;
    for (uint32_t i = 0; i < spec->spec.choice_count; i++) {
        const struct test_sim_answer *got = &client->answers[i];
        struct test_sim_answer want;
        ck_assert_msg(!client->is_done || got->has_end, "DONE before END of choice %u", i);
        expected_answer(world, &spec->spec, i, &want);
        bool is_own_end = got->has_end && got->end.end <= SCH_END_TOOL_CALLS;
        is_whole &= is_own_end;
        beginning_verify(&got->text, &want.text, is_own_end, "text");
        beginning_verify(&got->tokens, &want.tokens, is_own_end, "tokens");
        if (is_own_end) {
            ck_assert_uint_eq(got->end.end, want.end.end);
            ck_assert_uint_eq(got->end.completion_tokens, want.end.completion_tokens);
            ck_assert_uint_eq(got->end.reasoning_tokens, want.end.reasoning_tokens);
            ck_assert_uint_eq(got->end.stop_string, want.end.stop_string);
            ck_assert_uint_eq(got->end.stop_token, want.end.stop_token);
            ck_assert_uint_eq(got->end.prompt_tokens, spec->spec.prompt_count);
        }
        answer_done(&want);
    }
    if (spec->spec.wants_prompt_logprobs && client->prompt.length != 0)
        prompt_verify(world, &spec->spec, &client->prompt, is_whole);
}
