/* Programs: what the configuration says is what the operations do. */
#include "tests/support/support.h"

#include "tests/support/fake_tensors.h"

static const struct eng_program_options plain = {.inject_layer = ENG_LAYER_NONE};

static uint32_t count_ops(const struct be_program *program, enum be_op_kind kind)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < program->op_count; i++)
        count += program->ops[i].kind == kind;
    return count;
}

static const struct be_op *find_op(const struct be_program *program, enum be_op_kind kind,
                                   uint32_t layer)
{
    for (uint32_t i = 0; i < program->op_count; i++) {
        if (program->ops[i].kind == kind && program->ops[i].layer == layer)
            return &program->ops[i];
    }
    ck_abort_msg("no %s in layer %u", be_op_name(kind), layer);
    return NULL;
}

static const char *weight_name(const struct be_program *program, const struct be_op *op,
                               uint32_t slot)
{
    return program->model->weights[op->weight[slot]].name;
}

START_TEST(flash_has_the_published_sizes_of_state)
{
    struct eng_hparams hp = fake_flash();
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);

    ck_assert_uint_eq(programs->layout.g_page_bytes, 449824);
    ck_assert_uint_eq(programs->layout.s_page_bytes, 3214336);
    ck_assert_uint_eq(programs->layout.t_slot_bytes, 12206080);
    ck_assert_uint_eq(programs->layout.page_tokens, 128);
    ck_assert_uint_eq(count_ops(&programs->forward.program, BE_OP_INDEX_SELECT), 21);
    ck_assert_uint_eq(count_ops(&programs->forward.program, BE_OP_COMPRESS), 41);
    ck_assert_uint_eq(programs->draft.program.op_count, 0);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(pro_has_the_published_sizes_of_state)
{
    struct eng_hparams hp = fake_pro();
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);

    ck_assert_uint_eq(programs->layout.g_page_bytes, 644024);
    ck_assert_uint_eq(programs->layout.s_page_bytes, 4559872);
    ck_assert_uint_eq(programs->layout.t_slot_bytes, 18710528);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

/* The tensor counts that index files in circulation have, scales included: Flash of April, and a
 * derivative of Flash-0731 that keeps 160 experts. */
START_TEST(each_tensor_of_a_release_is_a_weight_once)
{
    static const struct {
        bool is_dspark;
        uint32_t experts;
        uint64_t tensors;
    } releases[] = {{false, 256, 69187}, {true, 160, 45821}};

    for (size_t r = 0; r < FM_COUNT(releases); r++) {
        struct eng_hparams hp = fake_flash();
        struct eng_weights weights;
        hp.expert_count = releases[r].experts;
        if (releases[r].is_dspark) {
            fake_add_dspark(&hp);
            hp.dspark_markov_rank = 256;
            hp.dspark_block_size = 5;
        } else {
            fake_add_mtp(&hp);
        }
        struct eng_programs *programs = fake_build(&weights, &hp, &plain);
        const struct be_model *model = &programs->model;
        uint64_t tensors = 0;
        for (uint32_t i = 1; i < model->weight_count; i++)
            tensors += model->weights[i].scale_format == BE_SCALE_NONE ? 1 : 2;
        ck_assert_uint_eq(tensors, releases[r].tensors);
        eng_programs_free(programs);
        fake_weights_done(&weights);
    }
}
END_TEST

START_TEST(weights_stand_in_the_slots_that_their_names_say)
{
    static const struct {
        enum be_op_kind kind;
        uint32_t layer, slot;
        const char *name;
    } cases[] = {
        {BE_OP_EMBED, 0, 0, "embed.weight"},
        {BE_OP_Q_DOWN, 3, 0, "layers.3.attn.wq_a.weight"},
        {BE_OP_Q_DOWN, 3, 1, "layers.3.attn.q_norm.weight"},
        {BE_OP_KV_STORE, 2, 0, "layers.2.attn.wkv.weight"},
        {BE_OP_KV_STORE, 2, 1, "layers.2.attn.kv_norm.weight"},
        {BE_OP_COMPRESS, 2, 0, "layers.2.attn.compressor.wkv.weight"},
        {BE_OP_COMPRESS, 2, 1, "layers.2.attn.compressor.wgate.weight"},
        {BE_OP_COMPRESS, 2, 2, "layers.2.attn.compressor.ape"},
        {BE_OP_COMPRESS, 2, 3, "layers.2.attn.compressor.norm.weight"},
        {BE_OP_COMPRESS_INDEX, 1, 0, "layers.1.attn.indexer.compressor.wkv.weight"},
        {BE_OP_COMPRESS_INDEX, 1, 1, "layers.1.attn.indexer.compressor.wgate.weight"},
        {BE_OP_COMPRESS_INDEX, 1, 2, "layers.1.attn.indexer.compressor.ape"},
        {BE_OP_COMPRESS_INDEX, 1, 3, "layers.1.attn.indexer.compressor.norm.weight"},
        {BE_OP_INDEX_QUERY, 1, 0, "layers.1.attn.indexer.wq_b.weight"},
        {BE_OP_INDEX_QUERY, 1, 1, "layers.1.attn.indexer.weights_proj.weight"},
        {BE_OP_Q_UP, 4, 0, "layers.4.attn.wq_b.weight"},
        {BE_OP_ATTEND, 4, 0, "layers.4.attn.attn_sink"},
        {BE_OP_OUT_GROUPED, 5, 0, "layers.5.attn.wo_a.weight"},
        {BE_OP_OUT_PROJECT, 5, 0, "layers.5.attn.wo_b.weight"},
        {BE_OP_ROUTE, 0, 0, "layers.0.ffn.gate.weight"},
        {BE_OP_ROUTE, 0, 2, "layers.0.ffn.gate.tid2eid"},
        {BE_OP_ROUTE, 1, 1, "layers.1.ffn.gate.bias"},
        {BE_OP_SHARED_EXPERT, 1, 0, "layers.1.ffn.shared_experts.w1.weight"},
        {BE_OP_SHARED_EXPERT, 1, 1, "layers.1.ffn.shared_experts.w3.weight"},
        {BE_OP_SHARED_EXPERT, 1, 2, "layers.1.ffn.shared_experts.w2.weight"},
        {BE_OP_HEAD, 5, 0, "hc_head_fn"},
        {BE_OP_HEAD, 5, 1, "hc_head_base"},
        {BE_OP_HEAD, 5, 2, "hc_head_scale"},
        {BE_OP_HEAD, 5, 3, "norm.weight"},
        {BE_OP_HEAD, 5, 4, "head.weight"},
    };
    struct eng_hparams hp = fake_tiny();
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    const struct be_program *forward = &programs->forward.program;

    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        const struct be_op *op = find_op(forward, cases[i].kind, cases[i].layer);
        ck_assert_str_eq(weight_name(forward, op, cases[i].slot), cases[i].name);
    }
    const struct be_op *attn = find_op(forward, BE_OP_HC_COLLAPSE, 2);
    ck_assert_str_eq(weight_name(forward, attn, 0), "layers.2.hc_attn_fn");
    ck_assert_str_eq(weight_name(forward, attn, 1), "layers.2.hc_attn_base");
    ck_assert_str_eq(weight_name(forward, attn, 2), "layers.2.hc_attn_scale");
    ck_assert_str_eq(weight_name(forward, attn, 3), "layers.2.attn_norm.weight");

    const struct be_op *experts = find_op(forward, BE_OP_EXPERTS, 2);
    static const char *const parts[] = {"w1", "w3", "w2"};
    for (uint32_t e = 0; e < hp.expert_count; e++) {
        for (uint32_t p = 0; p < 3; p++) {
            char name[FAKE_NAME_BYTES];
            (void)snprintf(name, sizeof(name), "layers.2.ffn.experts.%u.%s.weight", e, parts[p]);
            ck_assert_str_eq(forward->model->weights[experts->weight[0] + 3 * e + p].name, name);
        }
    }
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(quantised_weights_take_the_act_form_and_others_do_not)
{
    static const struct {
        enum eng_format linear, expert;
    } formats[] = {{ENG_FORMAT_FP8, ENG_FORMAT_FP4},
                   {ENG_FORMAT_FP8, ENG_FORMAT_FP8},
                   {ENG_FORMAT_BF16, ENG_FORMAT_BF16},
                   {ENG_FORMAT_BF16, ENG_FORMAT_FP4}};

    for (size_t f = 0; f < FM_COUNT(formats); f++) {
        struct eng_hparams hp = fake_tiny();
        struct eng_weights weights;
        hp.linear_format = formats[f].linear;
        hp.expert_format = formats[f].expert;
        struct eng_programs *programs = fake_build(&weights, &hp, &plain);
        const struct be_program *forward = &programs->forward.program;
        const struct be_op *down = find_op(forward, BE_OP_Q_DOWN, 1);
        const struct be_op *experts = find_op(forward, BE_OP_EXPERTS, 1);
        bool is_plain = hp.linear_format == ENG_FORMAT_BF16;
        ck_assert((down->in[0] != 0) == is_plain && (down->in[1] == 0) == is_plain);
        is_plain = hp.expert_format == ENG_FORMAT_BF16;
        ck_assert((experts->in[0] != 0) == is_plain && (experts->in[1] == 0) == is_plain);
        eng_programs_free(programs);
        fake_weights_done(&weights);
    }
}
END_TEST

/* Edges: the branches of a layer that do not feed one another are free. */
static bool comes_after(const struct be_program *program, uint32_t second, uint32_t first)
{
    const struct be_op *op = &program->ops[second];
    for (uint32_t i = 0; i < op->edge_count; i++) {
        uint32_t from = program->edges[op->edge_first + i];
        if (from == first || comes_after(program, from, first))
            return true;
    }
    return false;
}

START_TEST(branches_of_a_layer_stay_unordered)
{
    struct eng_hparams hp = fake_tiny();
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    const struct be_program *forward = &programs->forward.program;
    static const enum be_op_kind branches[] = {BE_OP_Q_UP, BE_OP_KV_STORE, BE_OP_COMPRESS,
                                               BE_OP_INDEX_SELECT};

    for (size_t i = 0; i < FM_COUNT(branches); i++) {
        uint32_t a = (uint32_t)(find_op(forward, branches[i], 1) - forward->ops);
        for (size_t j = 0; j < FM_COUNT(branches); j++) {
            uint32_t b = (uint32_t)(find_op(forward, branches[j], 1) - forward->ops);
            ck_assert_msg(a <= b || !comes_after(forward, a, b), "%s waits for %s",
                          be_op_name(branches[i]), be_op_name(branches[j]));
        }
    }
    uint32_t select = (uint32_t)(find_op(forward, BE_OP_INDEX_SELECT, 1) - forward->ops);
    uint32_t keys = (uint32_t)(find_op(forward, BE_OP_COMPRESS_INDEX, 1) - forward->ops);
    ck_assert(comes_after(forward, select, keys));
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(values_that_callers_read_are_outputs)
{
    struct eng_hparams hp = fake_tiny();
    struct eng_weights weights;
    fake_add_mtp(&hp);
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    const struct eng_program *forward = &programs->forward;
    const struct eng_program *draft = &programs->draft;

    ck_assert(forward->program.values[forward->logits].flags == BE_VALUE_OUTPUT);
    ck_assert(forward->program.values[forward->streams].flags == BE_VALUE_OUTPUT);
    ck_assert(forward->program.values[forward->layers[2].q].flags == 0);
    ck_assert(draft->program.values[draft->join].flags == BE_VALUE_INPUT);
    ck_assert(draft->program.values[draft->streams].flags == BE_VALUE_OUTPUT);
    ck_assert(draft->program.values[draft->logits].flags == BE_VALUE_OUTPUT);
    const struct be_op *join = find_op(&draft->program, BE_OP_MTP_JOIN, 6);
    ck_assert_uint_eq(join->in[0], draft->join);
    ck_assert_str_eq(weight_name(&draft->program, join, 2), "mtp.0.e_proj.weight");
    const struct be_op *head = find_op(&draft->program, BE_OP_HEAD, 6);
    ck_assert_str_eq(weight_name(&draft->program, head, 3), "mtp.0.norm.weight");
    ck_assert_str_eq(weight_name(&draft->program, head, 4), "head.weight");
    eng_programs_free(programs);
    fake_weights_done(&weights);

    struct eng_program_options keep = {.keep_all = true, .inject_layer = ENG_LAYER_NONE};
    programs = fake_build(&weights, &hp, &keep);
    for (uint32_t i = 1; i < programs->forward.program.value_count; i++)
        ck_assert(programs->forward.program.values[i].flags == BE_VALUE_OUTPUT);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(dspark_writes_context_in_forward_and_reads_it_in_draft)
{
    struct eng_hparams hp = fake_tiny();
    struct eng_weights weights;
    fake_add_dspark(&hp);
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    const struct be_program *forward = &programs->forward.program;
    const struct be_program *draft = &programs->draft.program;
    const struct be_op *context = find_op(forward, BE_OP_SPARK_CONTEXT, 6);

    ck_assert_uint_eq(count_ops(forward, BE_OP_TAP), 3);
    for (uint32_t i = 0; i < 3; i++) {
        ck_assert_uint_eq(context->in[i], find_op(forward, BE_OP_TAP, 3 + i)->out[0]);
        ck_assert_uint_eq(context->state[i], eng_programs_state(programs, BE_CLASS_WINDOW, 6 + i));
        const struct be_op *attend = find_op(draft, BE_OP_SPARK_ATTEND, 6 + i);
        ck_assert_uint_eq(attend->state[0], context->state[i]);
        const struct be_op *store = find_op(draft, BE_OP_KV_STORE, 6 + i);
        ck_assert_uint_eq(store->state[0], 0);
        ck_assert_uint_eq(store->weight[0], context->weight[2 + 2 * i]);
    }
    ck_assert(draft->values[programs->draft.tokens].lead == BE_LEAD_SEQS);
    ck_assert_uint_eq(draft->values[programs->draft.tokens].inner, 3);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(injected_streams_replace_those_of_the_layer_before)
{
    struct eng_hparams hp = fake_tiny();
    struct eng_weights weights;
    for (uint32_t layer = 0; layer < hp.layer_count; layer++) {
        struct eng_program_options options = {.inject_layer = layer};
        struct eng_programs *programs = fake_build(&weights, &hp, &options);
        const struct be_program *forward = &programs->forward.program;
        be_value_id injected = programs->forward.injected;
        ck_assert(forward->values[injected].flags == BE_VALUE_INPUT);
        ck_assert_uint_eq(find_op(forward, BE_OP_HC_COLLAPSE, layer)->in[0], injected);
        eng_programs_free(programs);
        fake_weights_done(&weights);
    }
}
END_TEST

START_TEST(rollback_lengthens_the_rings_of_tails_alone)
{
    struct eng_hparams hp = fake_tiny();
    struct eng_weights weights;
    struct eng_program_options options = {.inject_layer = ENG_LAYER_NONE, .rollback_rows = 5};
    struct eng_programs *programs = fake_build(&weights, &hp, &options);
    const struct be_state *states = programs->model.states;

    ck_assert_uint_eq(states[eng_programs_state(programs, BE_CLASS_TAIL, 1)].rows, 8 + 5);
    ck_assert_uint_eq(states[eng_programs_state(programs, BE_CLASS_INDEX_TAIL, 1)].rows, 8 + 5);
    ck_assert_uint_eq(states[eng_programs_state(programs, BE_CLASS_TAIL, 2)].rows, 128 + 5);
    ck_assert_uint_eq(states[eng_programs_state(programs, BE_CLASS_COMP, 1)].rows, 32);
    ck_assert_uint_eq(eng_programs_state(programs, BE_CLASS_COMP, 0), 0);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(reads_reach_the_rows_of_the_tensor)
{
    struct eng_hparams hp = fake_tiny();
    struct eng_weights weights;
    struct eng_programs *programs = fake_build(&weights, &hp, &plain);
    const struct be_program *forward = &programs->forward.program;
    be_weight_id wq_a = find_op(forward, BE_OP_Q_DOWN, 1)->weight[0];
    be_weight_id q_norm = find_op(forward, BE_OP_Q_DOWN, 1)->weight[1];
    struct fm_err err = {0};
    char row[1024];

    ck_assert_int_eq(eng_programs_read(programs, wq_a, BE_PART_DATA, 3, 2, row, &err), FM_OK);
    ck_assert_str_eq(fake_read.tensor->name, "layers.1.attn.wq_a.weight");
    ck_assert(fake_read.row_first == 3 && fake_read.row_count == 2);
    ck_assert_int_eq(eng_programs_read(programs, wq_a, BE_PART_SCALE, 0, 1, row, &err), FM_OK);
    ck_assert_str_eq(fake_read.tensor->name, "layers.1.attn.wq_a.scale");
    ck_assert_int_eq(eng_programs_read(programs, q_norm, BE_PART_DATA, 0, 1, row, &err), FM_OK);
    ck_assert(fake_read.row_first == 0 && fake_read.row_count == hp.q_rank);

    ck_assert_int_eq(eng_programs_read(programs, wq_a, BE_PART_DATA, 127, 2, row, &err),
                     FM_INVALID);
    ck_assert_int_eq(eng_programs_read(programs, q_norm, BE_PART_SCALE, 0, 1, row, &err),
                     FM_INVALID);
    ck_assert_int_eq(eng_programs_read(programs, 0, BE_PART_DATA, 0, 1, row, &err), FM_INVALID);
    eng_programs_free(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(a_missing_tensor_is_named)
{
    static const char *const names[] = {"embed.weight", "layers.2.attn.wkv.scale",
                                        "layers.5.ffn.experts.7.w2.weight", "mtp.0.hnorm.weight"};
    struct eng_hparams hp = fake_tiny();
    fake_add_mtp(&hp);
    for (size_t i = 0; i < FM_COUNT(names); i++) {
        struct eng_weights weights = {
            .hparams = &hp, .scale_dtype = ENG_DTYPE_F32, .missing = names[i]};
        struct eng_programs *programs = NULL;
        struct fm_err err = {0};
        ck_assert_int_eq(eng_programs_build(&hp, &weights, &plain, &programs, &err), FM_CORRUPT);
        ck_assert_msg(strstr(err.text, names[i]) != NULL, "%s", err.text);
        ck_assert_ptr_null(programs);
        fake_weights_done(&weights);
    }
}
END_TEST

START_TEST(options_out_of_range_are_refused)
{
    struct eng_hparams hp = fake_tiny();
    struct eng_weights weights = {.hparams = &hp};
    struct eng_programs *programs = NULL;
    struct eng_program_options options = {.inject_layer = 6};
    ck_assert_int_eq(eng_programs_build(&hp, &weights, &options, &programs, NULL), FM_INVALID);
    options = (struct eng_program_options){.inject_layer = ENG_LAYER_NONE, .rollback_rows = 129};
    ck_assert_int_eq(eng_programs_build(&hp, &weights, &options, &programs, NULL), FM_INVALID);
    fake_add_dspark(&hp);
    hp.draft_stage_count = 5;
    ck_assert_int_eq(eng_programs_build(&hp, &weights, &plain, &programs, NULL), FM_UNSUPPORTED);
    ck_assert_ptr_null(programs);
    fake_weights_done(&weights);
}
END_TEST

START_TEST(build_survives_every_alloc_failure)
{
    struct eng_hparams hp = fake_tiny();
    fake_add_dspark(&hp);
    bool fired = true;
    /* One layer's worth of failures is enough of each kind: the stride keeps the test short. */
    for (uint64_t nth = 1; fired; nth += nth < 40 ? 1 : 97) {
        struct eng_weights weights = {.hparams = &hp, .scale_dtype = ENG_DTYPE_F8_E8M0};
        struct eng_programs *programs = NULL;
        fm_fault_arm("alloc", nth);
        enum fm_status status = eng_programs_build(&hp, &weights, &plain, &programs, NULL);
        fired = fm_fault_disarm("alloc");
        /* The tensors of the test come from the same allocator: a missing one is FM_CORRUPT. */
        ck_assert(fired ? status == FM_NOMEM || status == FM_CORRUPT : status == FM_OK);
        ck_assert((programs != NULL) == (status == FM_OK));
        eng_programs_free(programs);
        fake_weights_done(&weights);
    }
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine_program");
    TCase *tcase = tcase_create("program");
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, flash_has_the_published_sizes_of_state);
    tcase_add_test(tcase, pro_has_the_published_sizes_of_state);
    tcase_add_test(tcase, each_tensor_of_a_release_is_a_weight_once);
    tcase_add_test(tcase, weights_stand_in_the_slots_that_their_names_say);
    tcase_add_test(tcase, quantised_weights_take_the_act_form_and_others_do_not);
    tcase_add_test(tcase, branches_of_a_layer_stay_unordered);
    tcase_add_test(tcase, values_that_callers_read_are_outputs);
    tcase_add_test(tcase, dspark_writes_context_in_forward_and_reads_it_in_draft);
    tcase_add_test(tcase, injected_streams_replace_those_of_the_layer_before);
    tcase_add_test(tcase, rollback_lengthens_the_rings_of_tails_alone);
    tcase_add_test(tcase, reads_reach_the_rows_of_the_tensor);
    tcase_add_test(tcase, a_missing_tensor_is_named);
    tcase_add_test(tcase, options_out_of_range_are_refused);
    tcase_add_test(tcase, build_survives_every_alloc_failure);
    suite_add_tcase(suite, tcase);
    return suite;
}
