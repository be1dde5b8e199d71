/* Programs and step blocks: what is right passes, and any one thing that is wrong is named. */
#include "tests/support/fake_tensors.h"
#include "tests/support/steps.h"
#include "tests/support/support.h"

static const struct eng_program_options plain = {.inject_layer = ENG_LAYER_NONE};

/* Small models that have every kind of layer and draft. */
static struct eng_hparams small_model(uint32_t variant)
{
    struct eng_hparams hp = fake_tiny();
    hp.layer_count = 4;
    hp.expert_count = 2;
    hp.compress_ratio[3] = hp.compress_ratio[4] = 0;
    if (variant == 0)
        fake_add_mtp(&hp);
    if (variant == 1)
        fake_add_dspark(&hp);
    if (variant == 2)
        hp.linear_format = hp.expert_format = ENG_FORMAT_BF16;
    return hp;
}

enum { VARIANTS = 3 };

/* A program whose tables may be changed. */
struct mutant {
    struct be_program program;
    struct be_model model;
    struct be_op *ops;
    struct be_value *values;
    uint32_t *edges;
};

static void *copy_of(const void *data, size_t count, size_t bytes)
{
    void *copy = fm_alloc_array(count + 1, bytes);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, data, count * bytes);
    return copy;
}

static void mutant_init(struct mutant *mutant, const struct be_program *program)
{
    mutant->program = *program;
    mutant->model = *program->model;
    mutant->program.model = &mutant->model;
    mutant->ops = copy_of(program->ops, program->op_count, sizeof(struct be_op));
    mutant->values = copy_of(program->values, program->value_count, sizeof(struct be_value));
    mutant->edges = copy_of(program->edges, program->edge_count, sizeof(uint32_t));
    mutant->program.ops = mutant->ops;
    mutant->program.values = mutant->values;
    mutant->program.edges = mutant->edges;
}

static void mutant_done(struct mutant *mutant)
{
    fm_free(mutant->ops);
    fm_free(mutant->values);
    fm_free(mutant->edges);
}

static void expect_refused(const struct mutant *mutant, const char *what, uint32_t op,
                           uint32_t slot, uint32_t id)
{
    struct fm_err err = {0};
    enum fm_status status = be_program_check(&mutant->program, &err);
    ck_assert_msg(status == FM_INVALID, "%s slot %u of operation %u (%s, layer %u) is %u: passes",
                  what, slot, op, be_op_name(mutant->ops[op].kind), mutant->ops[op].layer, id);
    ck_assert(err.text[0] != '\0');
}

/* Run `each` over both programs of every small model. */
static void for_each_program(void (*each)(struct mutant *mutant))
{
    for (uint32_t variant = 0; variant < VARIANTS; variant++) {
        struct eng_hparams hp = small_model(variant);
        struct eng_weights weights;
        struct eng_programs *programs = fake_build(&weights, &hp, &plain);
        const struct be_program *list[] = {&programs->forward.program, &programs->draft.program};
        for (size_t i = 0; i < FM_COUNT(list); i++) {
            struct mutant mutant;
            if (list[i]->op_count == 0)
                continue;
            mutant_init(&mutant, list[i]);
            ck_assert_int_eq(be_program_check(&mutant.program, NULL), FM_OK);
            each(&mutant);
            mutant_done(&mutant);
        }
        eng_programs_free(programs);
        fake_weights_done(&weights);
    }
}

static void drop_each_edge(struct mutant *mutant)
{
    for (uint32_t i = 0; i < mutant->program.op_count; i++) {
        struct be_op *op = &mutant->ops[i];
        for (uint32_t e = 0; e < op->edge_count; e++) {
            uint32_t *edges = mutant->edges + op->edge_first;
            uint32_t dropped = edges[e];
            edges[e] = edges[op->edge_count - 1];
            op->edge_count--;
            expect_refused(mutant, "edge", i, e, dropped);
            op->edge_count++;
            edges[op->edge_count - 1] = edges[e];
            edges[e] = dropped;
        }
    }
    ck_assert_int_eq(be_program_check(&mutant->program, NULL), FM_OK);
}

START_TEST(each_edge_is_needed)
{
    for_each_program(drop_each_edge);
}
END_TEST

/* Any other value in an input slot; those that the caller gives fit wherever their shape does. */
static void change_each_input(struct mutant *mutant)
{
    for (uint32_t i = 0; i < mutant->program.op_count; i++) {
        for (uint32_t slot = 0; slot < BE_OP_IN_MAX; slot++) {
            be_value_id right = mutant->ops[i].in[slot];
            for (uint32_t id = 0; id <= mutant->program.value_count; id++) {
                bool is_given = id != 0 && id < mutant->program.value_count &&
                                (mutant->values[id].flags & BE_VALUE_INPUT);
                if (id == right || right == 0 || is_given)
                    continue;
                mutant->ops[i].in[slot] = (be_value_id)id;
                expect_refused(mutant, "input", i, slot, id);
            }
            mutant->ops[i].in[slot] = right;
        }
    }
}

START_TEST(each_wrong_input_is_refused)
{
    for_each_program(change_each_input);
}
END_TEST

static void change_each_output(struct mutant *mutant)
{
    for (uint32_t i = 0; i < mutant->program.op_count; i++) {
        for (uint32_t slot = 0; slot < BE_OP_OUT_MAX; slot++) {
            be_value_id right = mutant->ops[i].out[slot];
            for (uint32_t id = 0; id <= mutant->program.value_count; id++) {
                if (id == right)
                    continue;
                mutant->ops[i].out[slot] = (be_value_id)id;
                expect_refused(mutant, "output", i, slot, id);
            }
            mutant->ops[i].out[slot] = right;
        }
    }
}

START_TEST(each_wrong_output_is_refused)
{
    for_each_program(change_each_output);
}
END_TEST

static void change_each_state(struct mutant *mutant)
{
    for (uint32_t i = 0; i < mutant->program.op_count; i++) {
        struct be_op *op = &mutant->ops[i];
        for (uint32_t slot = 0; slot < BE_OP_STATES_MAX; slot++) {
            be_state_id right = op->state[slot];
            for (uint32_t id = 0; id <= mutant->program.model->state_count; id++) {
                /* KV_STORE without state is a block's: right in another program. */
                if (id == right || (op->kind == BE_OP_KV_STORE && (right == 0 || id == 0)))
                    continue;
                op->state[slot] = (be_state_id)id;
                expect_refused(mutant, "state", i, slot, id);
            }
            op->state[slot] = right;
            op->access[slot] ^= BE_ACCESS_WRITE;
            expect_refused(mutant, "access", i, slot, op->access[slot]);
            op->access[slot] ^= BE_ACCESS_WRITE;
        }
    }
}

START_TEST(each_wrong_state_is_refused)
{
    for_each_program(change_each_state);
}
END_TEST

static bool is_like(const struct be_model *model, uint32_t a, uint32_t b)
{
    const struct be_weight *wa = &model->weights[a];
    const struct be_weight *wb = &model->weights[b];
    return a != 0 && b != 0 && a < model->weight_count && b < model->weight_count &&
           wa->format == wb->format && wa->rows == wb->rows && wa->cols == wb->cols;
}

/* Weights of equal shape and format are told apart by their names only, which the engine's test
 * compares.  BF16 linears take any BF16 weight of their shape. */
static void change_each_weight(struct mutant *mutant)
{
    const struct be_model *model = mutant->program.model;
    for (uint32_t i = 0; i < mutant->program.op_count; i++) {
        struct be_op *op = &mutant->ops[i];
        for (uint32_t slot = 0; slot < BE_OP_WEIGHTS_MAX; slot++) {
            be_weight_id right = op->weight[slot];
            for (uint32_t id = 0; id <= model->weight_count; id++) {
                bool is_other_linear = id != 0 && id < model->weight_count && right != 0 &&
                                       model->weights[id].rows == model->weights[right].rows &&
                                       model->weights[id].cols == model->weights[right].cols;
                if (id == right || is_like(model, id, right) || is_other_linear ||
                    (op->kind == BE_OP_EXPERTS && id != 0))
                    continue;
                op->weight[slot] = id;
                expect_refused(mutant, "weight", i, slot, id);
            }
            op->weight[slot] = right;
        }
    }
}

START_TEST(each_weight_of_another_shape_is_refused)
{
    for_each_program(change_each_weight);
}
END_TEST

static void change_each_value(struct mutant *mutant)
{
    for (uint32_t id = 1; id < mutant->program.value_count; id++) {
        struct be_value right = mutant->values[id];
        for (uint32_t what = 0; what < 5; what++) {
            struct be_value *value = &mutant->values[id];
            value->outer += what == 0;
            value->inner += what == 1;
            if (what == 2)
                value->elem = value->elem == BE_ELEM_F32 ? BE_ELEM_BF16 : BE_ELEM_F32;
            if (what == 3)
                value->lead = value->lead == BE_LEAD_SEQS ? BE_LEAD_ROWS : BE_LEAD_SEQS;
            if (what == 4)
                value->flags ^= BE_VALUE_INPUT;
            expect_refused(mutant, "value", 0, what, id);
            *value = right;
        }
    }
}

START_TEST(each_value_of_another_shape_is_refused)
{
    for_each_program(change_each_value);
}
END_TEST

static void change_layers_and_kinds(struct mutant *mutant)
{
    for (uint32_t i = 0; i < mutant->program.op_count; i++) {
        struct be_op right = mutant->ops[i];
        if (right.kind != BE_OP_EMBED && right.kind != BE_OP_SPARK_CONTEXT &&
            right.kind != BE_OP_SPARK_PROPOSE) {
            mutant->ops[i].layer ^= 1;
            expect_refused(mutant, "layer", i, 0, mutant->ops[i].layer);
            mutant->ops[i] = right;
        }
        for (int kind = 0; kind <= BE_OP_KIND_COUNT; kind++) {
            if (kind == (int)right.kind)
                continue;
            mutant->ops[i].kind = (enum be_op_kind)kind;
            expect_refused(mutant, "kind", i, 0, (uint32_t)kind);
        }
        mutant->ops[i] = right;
    }
}

START_TEST(each_wrong_layer_or_kind_is_refused)
{
    for_each_program(change_layers_and_kinds);
}
END_TEST

START_TEST(states_of_another_geometry_are_refused)
{
    struct eng_hparams hp = small_model(0);
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    struct mutant mutant;
    mutant_init(&mutant, &programs->forward.program);
    struct be_state *states =
        copy_of(mutant.model.states, mutant.model.state_count, sizeof(struct be_state));
    mutant.model.states = states;

    for (uint32_t i = 1; i < mutant.model.state_count; i++) {
        struct be_state right = states[i];
        for (uint32_t what = 0; what < 5; what++) {
            states[i].row_bytes += what == 0 ? 8 : 0;
            states[i].rows -= what == 1;
            states[i].ratio = what == 2 ? (uint16_t)(right.ratio ^ 2) : right.ratio;
            states[i].layer = what == 3 ? (uint16_t)(right.layer ^ 1) : right.layer;
            states[i].class = what == 4 ? (enum be_class)5 : right.class;
            expect_refused(&mutant, "geometry", 0, what, i);
            states[i] = right;
        }
    }
    ck_assert_int_eq(be_program_check(&mutant.program, NULL), FM_OK);
    fm_free(states);
    mutant_done(&mutant);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(check_survives_every_alloc_failure)
{
    struct eng_hparams hp = small_model(1);
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    bool fired = true;
    for (uint64_t nth = 1; fired; nth++) {
        fm_fault_arm("alloc", nth);
        enum fm_status status = be_program_check(&programs->forward.program, NULL);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
    }
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(sizes_are_those_of_the_formats)
{
    const struct be_value act = {.elem = BE_ELEM_ACT, .outer = 1, .inner = 4096};
    ck_assert_uint_eq(be_value_row_bytes(&act), 4096 + 32);
    const struct be_value heads = {.elem = BE_ELEM_BF16, .outer = 64, .inner = 512};
    ck_assert_uint_eq(be_value_row_bytes(&heads), 65536);

    struct be_weight fp4 = {
        .format = BE_FORMAT_FP4, .scale_format = BE_SCALE_UE8M0, .rows = 2048, .cols = 4096};
    ck_assert_uint_eq(be_weight_row_bytes(&fp4, BE_PART_DATA), 2048);
    ck_assert_uint_eq(be_weight_row_bytes(&fp4, BE_PART_SCALE), 128);
    ck_assert_uint_eq(be_weight_part_rows(&fp4, BE_PART_SCALE), 2048);
    struct be_weight fp8 = {
        .format = BE_FORMAT_FP8, .scale_format = BE_SCALE_F32, .rows = 300, .cols = 1000};
    ck_assert_uint_eq(be_weight_row_bytes(&fp8, BE_PART_DATA), 1000);
    ck_assert_uint_eq(be_weight_row_bytes(&fp8, BE_PART_SCALE), 32);
    ck_assert_uint_eq(be_weight_part_rows(&fp8, BE_PART_SCALE), 3);
    struct be_weight table = {.format = BE_FORMAT_I64, .rows = 10, .cols = 6};
    ck_assert_uint_eq(be_weight_row_bytes(&table, BE_PART_DATA), 48);
    ck_assert_uint_eq(be_weight_part_rows(&table, BE_PART_SCALE), 0);
    ck_assert_ptr_null(be_op_name(BE_OP_KIND_COUNT));
    ck_assert_str_eq(be_op_name(BE_OP_SPARK_PROPOSE), "SPARK_PROPOSE");
}
END_TEST

START_TEST(state_offsets_follow_one_another)
{
    struct eng_hparams hp = small_model(0);
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    const struct be_model *model = &programs->model;
    for (int pool = 0; pool < BE_POOL_COUNT; pool++) {
        uint64_t end = 0;
        for (uint32_t i = 1; i < model->state_count; i++) {
            if (be_class_pool(model->states[i].class) != (enum be_pool)pool)
                continue;
            ck_assert_uint_eq(be_state_offset(model, (be_state_id)i), end);
            end += (uint64_t)model->states[i].rows * model->states[i].row_bytes;
        }
        ck_assert_uint_eq(be_pool_unit_bytes(model, (enum be_pool)pool), end);
    }
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

/* ---- step blocks --------------------------------------------------------------------------- */

static const struct be_limits limits = {
    .rows_max = 64, .seqs_max = 4, .logit_rows_max = 8, .pages_max = 32, .units = {20, 20, 6}};

enum { TOKENS = 64 };

/* Three sequences: from the start, across a page's end, and one row far behind. */
static struct be_step *three_sequences(void)
{
    static uint32_t tokens[TOKENS];
    static const uint32_t g1[] = {3}, s1[] = {4};
    static const uint32_t g2[] = {5, 6}, s2[] = {7, 8};
    static const uint32_t g3[] = {9, 10, 11, 12}, s3[] = {0, 14};
    const struct test_span spans[] = {
        {.tokens = tokens,
         .row_count = 7,
         .logit_first = 6,
         .tail_slot = 1,
         .g_pages = g1,
         .g_count = 1,
         .s_pages = s1,
         .s_count = 1},
        {.tokens = tokens,
         .length_before = 120,
         .row_count = 20,
         .logit_first = 20,
         .tail_slot = 2,
         .g_pages = g2,
         .g_count = 2,
         .s_pages = s2,
         .s_count = 2},
        {.tokens = tokens,
         .length_before = 420,
         .row_count = 1,
         .logit_first = 0,
         .tail_slot = 3,
         .g_pages = g3,
         .g_count = 4,
         .s_pages = s3,
         .s_count = 2},
    };
    for (uint32_t i = 0; i < TOKENS; i++)
        tokens[i] = i * 7;
    return test_step_new(1, spans, 3);
}

START_TEST(a_right_step_passes)
{
    struct eng_hparams hp = small_model(0);
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    struct be_step *step = three_sequences();
    struct fm_err err = {0};
    enum fm_status status =
        be_step_check(step, step->bytes, &programs->forward.program, &limits, &err);
    ck_assert_msg(status == FM_OK, "%s", err.text);
    fm_free(step);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(each_changed_byte_is_noticed)
{
    struct eng_hparams hp = small_model(0);
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    struct be_step *step = three_sequences();
    unsigned char *bytes = (unsigned char *)step;
    size_t size = step->bytes;
    for (size_t i = 0; i < size; i++) {
        bytes[i] ^= 0x10;
        ck_assert_msg(be_step_check(step, size, &programs->forward.program, &limits, NULL) ==
                          FM_INVALID,
                      "byte %zu", i);
        bytes[i] ^= 0x10;
    }
    for (size_t cut = 0; cut < size; cut++)
        ck_assert_int_eq(be_step_check(step, cut, &programs->forward.program, &limits, NULL),
                         FM_INVALID);
    fm_free(step);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

/* Seal again after the change: only the numbers themselves are wrong then. */
static void expect_step(const struct be_program *program, struct be_step *step,
                        enum fm_status expected, const char *what)
{
    struct fm_err err = {0};
    be_step_seal(step);
    enum fm_status status = be_step_check(step, step->bytes, program, &limits, &err);
    ck_assert_msg(status == expected, "%s: %s", what, err.text);
}

#define STEP_CASE(field, wrong)                                                                    \
    do {                                                                                           \
        __typeof__(field) right = (field);                                                         \
        (field) = (__typeof__(field))(wrong);                                                      \
        expect_step(program, step, FM_INVALID, #field " = " #wrong);                               \
        (field) = right;                                                                           \
        expect_step(program, step, FM_OK, #field);                                                 \
    } while (0)

START_TEST(each_number_out_of_range_is_refused)
{
    struct eng_hparams hp = small_model(0);
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    const struct be_program *program = &programs->forward.program;
    struct be_step *step = three_sequences();
    struct be_row *rows = (struct be_row *)(uintptr_t)be_step_rows(step);
    struct be_seq *seqs = (struct be_seq *)(uintptr_t)be_step_seqs(step);
    struct be_logit *logits = (struct be_logit *)(uintptr_t)be_step_logits(step);
    uint32_t *pages = (uint32_t *)(uintptr_t)be_step_pages(step);

    STEP_CASE(rows[3].token, 512);
    STEP_CASE(rows[3].token, -1);
    STEP_CASE(rows[3].position, 4);
    STEP_CASE(rows[3].seq, 1);
    STEP_CASE(rows[3].seq, 3);
    STEP_CASE(rows[3].kind, 4);
    STEP_CASE(rows[3].logit, 1); /* taken by another row */
    STEP_CASE(rows[3].logit, 2); /* past the logit rows */
    STEP_CASE(rows[6].logit, BE_NO_LOGIT);
    STEP_CASE(seqs[1].row_first, 6);
    STEP_CASE(seqs[1].row_first, UINT32_MAX);
    STEP_CASE(seqs[1].row_count, 0);
    STEP_CASE(seqs[1].row_count, 21);
    STEP_CASE(seqs[1].row_count, 19);
    STEP_CASE(seqs[1].row_count, UINT32_MAX);
    STEP_CASE(seqs[1].length_before, 121);
    STEP_CASE(seqs[1].length_before, UINT32_MAX);
    STEP_CASE(seqs[1].tail_slot, 0);
    STEP_CASE(seqs[1].tail_slot, 6);
    STEP_CASE(seqs[1].g_count, 1);
    STEP_CASE(seqs[1].g_count, 20);
    STEP_CASE(seqs[1].g_first, 12);
    STEP_CASE(seqs[1].g_first, UINT32_MAX);
    STEP_CASE(seqs[1].s_count, 1);
    STEP_CASE(seqs[1].s_count, 20);
    STEP_CASE(seqs[1].s_first, 11);
    STEP_CASE(pages[2], 0); /* G of the second sequence */
    STEP_CASE(pages[2], 20);
    STEP_CASE(pages[4], 0); /* its S: the window of position 120 */
    STEP_CASE(pages[5], UINT32_MAX);
    STEP_CASE(pages[11], 0); /* S of the third: positions 405 .. 419 */
    STEP_CASE(logits[0].temperature, -1);
    STEP_CASE(logits[0].top_p, 2);
    STEP_CASE(logits[1].min_p, -0.5F);
    STEP_CASE(logits[1].flags, 1);
    STEP_CASE(logits[1].mask_offset, 8);
    fm_free(step);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(counts_beyond_the_limits_are_refused)
{
    struct eng_hparams hp = small_model(0);
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    struct be_step *step = three_sequences();
    struct be_limits tight = limits;
    uint32_t *const fields[] = {&tight.rows_max, &tight.seqs_max, &tight.logit_rows_max,
                                &tight.pages_max};
    const uint32_t counts[] = {step->row_count, step->seq_count, step->logit_count,
                               step->page_count};
    for (size_t i = 0; i < FM_COUNT(fields); i++) {
        uint32_t right = *fields[i];
        *fields[i] = counts[i];
        ck_assert_int_eq(be_step_check(step, step->bytes, &programs->forward.program, &tight, NULL),
                         FM_OK);
        *fields[i] = counts[i] - 1;
        ck_assert_int_eq(be_step_check(step, step->bytes, &programs->forward.program, &tight, NULL),
                         FM_INVALID);
        *fields[i] = right;
    }
    fm_free(step);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(rows_that_are_not_kept_need_no_page)
{
    struct eng_hparams hp = small_model(0);
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    struct be_step *step = three_sequences();
    uint32_t *pages = (uint32_t *)(uintptr_t)be_step_pages(step);
    pages[1] = 0; /* the first sequence begins here */
    pages[5] = 0; /* the second one's rows from 128 on */
    expect_step(&programs->forward.program, step, FM_OK, "null S pages");
    fm_free(step);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(draft_steps_need_the_pages_of_their_state_alone)
{
    uint32_t tokens[5] = {1, 2, 3, 4, 5};
    const uint32_t pages[] = {4, 5};
    struct eng_hparams hp = small_model(0);
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    struct test_span span = {
        .tokens = tokens, .length_before = 126, .row_count = 1, .s_pages = pages, .s_count = 1};
    struct be_step *step = test_step_new(1, &span, 1);
    expect_step(&programs->draft.program, step, FM_OK, "MTP without G and T");
    fm_free(step);
    eng_programs_free(programs);
    fake_weights_done(&weights);

    hp = small_model(1);
    programs = fake_build(&weights, &hp, &plain);
    span.row_count = 3;
    for (uint32_t s_count = 0; s_count <= 2; s_count++) {
        span.s_count = s_count;
        step = test_step_new(1, &span, 1);
        expect_step(&programs->draft.program, step, s_count == 0 ? FM_INVALID : FM_OK, "DSpark");
        fm_free(step);
    }
    span.row_count = 2;
    step = test_step_new(1, &span, 1);
    expect_step(&programs->draft.program, step, FM_INVALID, "two rows are not a block of three");
    fm_free(step);
    span.row_count = 3;
    span.logit_first = 1;
    step = test_step_new(1, &span, 1);
    expect_step(&programs->draft.program, step, FM_INVALID, "a row without logits");
    fm_free(step);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("backends_program");
    TCase *tcase = tcase_create("program");
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, each_edge_is_needed);
    tcase_add_test(tcase, each_wrong_input_is_refused);
    tcase_add_test(tcase, each_wrong_output_is_refused);
    tcase_add_test(tcase, each_wrong_state_is_refused);
    tcase_add_test(tcase, each_weight_of_another_shape_is_refused);
    tcase_add_test(tcase, each_value_of_another_shape_is_refused);
    tcase_add_test(tcase, each_wrong_layer_or_kind_is_refused);
    tcase_add_test(tcase, states_of_another_geometry_are_refused);
    tcase_add_test(tcase, check_survives_every_alloc_failure);
    tcase_add_test(tcase, sizes_are_those_of_the_formats);
    tcase_add_test(tcase, state_offsets_follow_one_another);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("step");
    tcase_add_test(tcase, a_right_step_passes);
    tcase_add_test(tcase, each_changed_byte_is_noticed);
    tcase_add_test(tcase, each_number_out_of_range_is_refused);
    tcase_add_test(tcase, counts_beyond_the_limits_are_refused);
    tcase_add_test(tcase, rows_that_are_not_kept_need_no_page);
    tcase_add_test(tcase, draft_steps_need_the_pages_of_their_state_alone);
    suite_add_tcase(suite, tcase);
    return suite;
}
