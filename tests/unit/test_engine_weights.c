/* Model directories: good ones of every layout, and good ones broken in one place each. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/base/arena.h"
#include "backends/base/assert.h"
#include "backends/base/fault.h"
#include "engine/safetensors.h"
#include "engine/weights.h"
#include "tests/support/support.h"
#include "tests/support/tiny.h"

enum { SEED = 7, PATH_BYTES = 512, ITEMS_MAX = 4096 };

/* ---- directories ---------------------------------------------------------------------------- */

static const char *dir_new(void)
{
    static char dir[PATH_BYTES];
    static int number;
    (void)snprintf(dir, sizeof dir, "%s/case-%d-%d", test_dir(), (int)getpid(), number++);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    return dir;
}

static void text_write(const char *dir, const char *name, const void *data, size_t bytes)
{
    char path[2 * PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *stream = fopen(path, "wb");
    ck_assert_msg(stream != NULL, "%s", path);
    ck_assert(bytes == 0 || fwrite(data, bytes, 1, stream) == 1);
    ck_assert_int_eq(fclose(stream), 0);
}

/* A directory with the good one's shards and configuration, as links, and this index. */
static const char *dir_of_index(const char *index)
{
    static const char *const names[] = {"config.json", "model-00001-of-00003.safetensors",
                                        "model-00002-of-00003.safetensors",
                                        "model-00003-of-00003.safetensors"};
    const char *good = test_tiny_dir(TEST_TINY_DEFAULT, SEED), *dir = dir_new();
    for (size_t i = 0; i < FM_COUNT(names); i++) {
        char source[2 * PATH_BYTES], target[2 * PATH_BYTES];
        (void)snprintf(source, sizeof source, "%s/%s", good, names[i]);
        (void)snprintf(target, sizeof target, "%s/%s", dir, names[i]);
        ck_assert_int_eq(symlink(source, target), 0);
    }
    text_write(dir, "model.safetensors.index.json", index, strlen(index));
    return dir;
}

/* ---- a checkpoint that can be changed ------------------------------------------------------- */

/* The tensors of a good checkpoint as items to write; their data stay in its mapping, unless a test
 * puts another copy. */
static struct {
    struct eng_weights *weights;
    struct eng_safetensors_item items[ITEMS_MAX];
    uint32_t count;
    const char *config;
    struct fm_arena arena; /* what tests put instead */
} model;

static void model_close(void)
{
    eng_weights_close(model.weights);
    model.weights = NULL;
    fm_arena_done(&model.arena);
}

static void *model_take(uint64_t bytes)
{
    void *memory = fm_arena_take(&model.arena, (size_t)bytes);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

static void model_open(enum test_tiny_variant variant)
{
    struct fm_err err = {0};
    model_close();
    fm_arena_init(&model.arena, 1 << 26);
    ck_assert_msg(eng_weights_open(test_tiny_dir(variant, SEED), &model.weights, &err) == FM_OK,
                  "%s", err.text);
    model.config = test_tiny_config(variant);
    model.count = eng_weights_tensor_count(model.weights);
    ck_assert_uint_le(model.count, ITEMS_MAX);
    for (uint32_t i = 0; i < model.count; i++) {
        const struct eng_tensor *tensor = eng_weights_tensor(model.weights, i);
        model.items[i] = (struct eng_safetensors_item){.name = tensor->name,
                                                       .dtype = tensor->dtype,
                                                       .rank = tensor->rank,
                                                       .data = tensor->data};
        memcpy(model.items[i].dims, tensor->dims, sizeof tensor->dims);
    }
}

static struct eng_safetensors_item *item_find(const char *name)
{
    for (uint32_t i = 0; i < model.count; i++)
        if (strcmp(model.items[i].name, name) == 0)
            return &model.items[i];
    ck_abort_msg("no item %s", name);
}

static void item_drop(const char *name)
{
    struct eng_safetensors_item *item = item_find(name);
    *item = model.items[--model.count];
}

static uint64_t item_bytes(const struct eng_safetensors_item *item)
{
    uint64_t bytes = eng_dtype_bits(item->dtype) / 8;
    for (uint32_t i = 0; i < item->rank; i++)
        bytes *= item->dims[i];
    return bytes;
}

/* A copy of the item's data that the test may change. */
static unsigned char *item_copy(struct eng_safetensors_item *item)
{
    unsigned char *copy = model_take(item_bytes(item));
    memcpy(copy, item->data, (size_t)item_bytes(item));
    item->data = copy;
    return copy;
}

/* Write the items as one model.safetensors, with the configuration, into a new directory. */
static const char *model_write(void)
{
    char path[2 * PATH_BYTES];
    struct fm_err err = {0};
    const char *dir = dir_new();
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    ck_assert_msg(eng_safetensors_write(path, model.items, model.count, &err) == FM_OK, "%s",
                  err.text);
    text_write(dir, "config.json", model.config, strlen(model.config));
    return dir;
}

/* The directory cannot be loaded, and the sentence holds the piece. */
static void load_fails(const char *dir, enum fm_status expected, const char *piece)
{
    struct eng_hparams hparams;
    struct eng_weights *weights = NULL;
    struct fm_err err = {0};
    memset(&hparams, 0x5a, sizeof hparams);
    struct eng_hparams before = hparams;
    enum fm_status status = eng_weights_load(dir, &hparams, &weights, &err);
    ck_assert_msg(status == expected, "%s: %s (%s)", fm_status_name(status), err.text, piece);
    ck_assert_msg(strstr(err.text, piece) != NULL, "'%s' lacks '%s'", err.text, piece);
    ck_assert_ptr_null(weights);
    ck_assert_mem_eq(&hparams, &before, sizeof hparams);
    ck_assert_int_eq(eng_weights_load(dir, &hparams, &weights, NULL), expected);
}

static void load_good(const char *dir, struct eng_hparams *ret_hparams,
                      struct eng_weights **ret_weights)
{
    struct fm_err err = {0};
    enum fm_status status = eng_weights_load(dir, ret_hparams, ret_weights, &err);
    ck_assert_msg(status == FM_OK, "%s: %s", dir, err.text);
}

/* ---- good ones ------------------------------------------------------------------------------ */

START_TEST(every_variant_loads_and_scans)
{
    static const struct {
        enum eng_draft_kind kind;
        uint32_t stages, tensors;
    } expected[TEST_TINY_VARIANTS] = {
        [TEST_TINY_DEFAULT] = {ENG_DRAFT_MTP, 1, 585},
        [TEST_TINY_BF16] = {ENG_DRAFT_MTP, 1, 357},
        [TEST_TINY_DSPARK] = {ENG_DRAFT_DSPARK, 3, 739},
        [TEST_TINY_RATIO_16] = {ENG_DRAFT_MTP, 1, 585},
        [TEST_TINY_PRO] = {ENG_DRAFT_MTP, 1, 593},
        [TEST_TINY_FP8] = {ENG_DRAFT_MTP, 1, 585},
        [TEST_TINY_NO_DRAFT] = {ENG_DRAFT_NONE, 0, 498},
    };
    struct eng_hparams hparams;
    struct eng_weights *weights;
    struct fm_err err = {0};
    load_good(test_tiny_dir((enum test_tiny_variant)_i, SEED), &hparams, &weights);
    ck_assert_int_eq(hparams.draft_kind, expected[_i].kind);
    ck_assert_uint_eq(hparams.draft_stage_count, expected[_i].stages);
    ck_assert_uint_eq(eng_weights_tensor_count(weights), expected[_i].tensors);
    ck_assert_uint_eq(eng_weights_file_count(weights), 3);
    ck_assert_uint_eq(eng_weights_hash_duplicates(weights), 0);
    ck_assert_msg(eng_weights_scan(weights, NULL, NULL, &err) == FM_OK, "%s", err.text);
    eng_weights_close(weights);
}
END_TEST

START_TEST(the_bundled_model_loads_and_scans)
{
    struct eng_hparams hparams;
    struct eng_weights *weights;
    struct fm_err err = {0};
    load_good("conf/model", &hparams, &weights);
    ck_assert_uint_eq(hparams.layer_count, 6);
    ck_assert_int_eq(hparams.draft_kind, ENG_DRAFT_MTP);
    ck_assert_uint_eq(eng_weights_bytes(weights), 16642746); /* total_size of its index */
    ck_assert_msg(eng_weights_scan(weights, NULL, NULL, &err) == FM_OK, "%s", err.text);
    eng_weights_close(weights);
}
END_TEST

START_TEST(linears_tell_their_format_and_shape)
{
    static const struct {
        enum test_tiny_variant variant;
        const char *name;
        enum eng_format format;
        uint32_t rows, cols;
        enum eng_dtype scale; /* OTHER: none */
    } cases[] = {
        {TEST_TINY_DEFAULT, "layers.3.attn.wq_a", ENG_FORMAT_FP8, 128, 128, ENG_DTYPE_F8_E8M0},
        {TEST_TINY_DEFAULT, "layers.1.attn.indexer.wq_b", ENG_FORMAT_FP8, 512, 128,
         ENG_DTYPE_F8_E8M0},
        {TEST_TINY_DEFAULT, "layers.5.ffn.experts.7.w2", ENG_FORMAT_FP4, 128, 128,
         ENG_DTYPE_F8_E8M0},
        {TEST_TINY_DEFAULT, "mtp.0.e_proj", ENG_FORMAT_FP8, 128, 128, ENG_DTYPE_F8_E8M0},
        {TEST_TINY_DEFAULT, "head", ENG_FORMAT_BF16, 512, 128, ENG_DTYPE_OTHER},
        {TEST_TINY_BF16, "layers.5.ffn.experts.7.w2", ENG_FORMAT_BF16, 128, 128, ENG_DTYPE_OTHER},
        {TEST_TINY_FP8, "layers.5.ffn.experts.7.w2", ENG_FORMAT_FP8, 128, 128, ENG_DTYPE_F32},
        {TEST_TINY_DSPARK, "mtp.0.main_proj", ENG_FORMAT_FP8, 128, 384, ENG_DTYPE_F8_E8M0},
        {TEST_TINY_DSPARK, "mtp.2.confidence_head.proj", ENG_FORMAT_BF16, 1, 160, ENG_DTYPE_OTHER},
    };
    for (size_t i = 0; i < FM_COUNT(cases); i++) {
        struct eng_hparams hparams;
        struct eng_weights *weights;
        struct eng_linear linear;
        load_good(test_tiny_dir(cases[i].variant, SEED), &hparams, &weights);
        ck_assert_int_eq(eng_weights_linear(weights, cases[i].name, &linear), FM_OK);
        ck_assert_int_eq(linear.format, cases[i].format);
        ck_assert_uint_eq(linear.rows, cases[i].rows);
        ck_assert_uint_eq(linear.cols, cases[i].cols);
        ck_assert_int_eq(linear.scale == NULL ? ENG_DTYPE_OTHER : linear.scale->dtype,
                         cases[i].scale);
        ck_assert_int_eq(eng_weights_linear(weights, "layers.0.attn.nothing", &linear), FM_MISS);
        ck_assert_int_eq(eng_weights_linear(weights, "layers.0.attn_norm", &linear), FM_MISS);
        eng_weights_close(weights);
    }
}
END_TEST

START_TEST(rows_are_copied_as_the_file_has_them)
{
    struct eng_hparams hparams;
    struct eng_weights *weights;
    const struct eng_tensor *tensor;
    unsigned char rows[512 * 8];
    load_good(test_tiny_dir(TEST_TINY_DEFAULT, SEED), &hparams, &weights);
    ck_assert_int_eq(eng_weights_find(weights, "layers.2.ffn.experts.1.w3.weight", &tensor), FM_OK);
    ck_assert_uint_eq(tensor->row_bytes, 64);
    ck_assert_int_eq(eng_weights_read(weights, tensor, 5, 7, rows, NULL), FM_OK);
    ck_assert_mem_eq(rows, (const char *)tensor->data + (size_t)5 * 64, (size_t)7 * 64);
    ck_assert_int_eq(eng_weights_read(weights, tensor, 128, 0, rows, NULL), FM_OK);
    ck_assert_int_eq(eng_weights_read(weights, tensor, 127, 2, rows, NULL), FM_INVALID);
    ck_assert_int_eq(eng_weights_read(weights, tensor, 129, 0, rows, NULL), FM_INVALID);
    ck_assert_int_eq(eng_weights_read(weights, tensor, 1, UINT64_MAX, rows, NULL), FM_INVALID);

    /* A vector's rows are its elements; a table of experts reads like the rest. */
    ck_assert_int_eq(eng_weights_find(weights, "layers.2.attn_norm.weight", &tensor), FM_OK);
    ck_assert_uint_eq(tensor->row_bytes, 2);
    ck_assert_int_eq(eng_weights_read(weights, tensor, 0, 128, rows, NULL), FM_OK);
    ck_assert_mem_eq(rows, tensor->data, 256);
    ck_assert_int_eq(eng_weights_find(weights, "layers.0.ffn.gate.tid2eid", &tensor), FM_OK);
    ck_assert_uint_eq(tensor->row_bytes, 16);
    ck_assert_int_eq(eng_weights_read(weights, tensor, 100, 200, rows, NULL), FM_OK);
    ck_assert_mem_eq(rows, (const char *)tensor->data + 1600, 3200);
    ck_assert_int_eq(eng_weights_find(weights, "layers.1.ffn.gate.tid2eid", &tensor), FM_MISS);
    eng_weights_close(weights);
}
END_TEST

START_TEST(what_the_model_does_not_need_is_ignored)
{
    static const float nothing_finite[2] = {1.0f / 0.0f, 0};
    struct eng_hparams hparams;
    struct eng_weights *weights;
    const struct eng_tensor *tensor;
    float read[2];
    model_open(TEST_TINY_DEFAULT);
    model.items[model.count++] =
        (struct eng_safetensors_item){"vision.patch.weight", ENG_DTYPE_F32, 1, {2}, nothing_finite};
    model.items[model.count++] = (struct eng_safetensors_item){
        "layers.1.ffn.gate.bias_vl", ENG_DTYPE_F32, 0, {0}, nothing_finite};
    load_good(model_write(), &hparams, &weights);
    ck_assert_int_eq(eng_weights_scan(weights, NULL, NULL, NULL), FM_OK);
    ck_assert_int_eq(eng_weights_find(weights, "vision.patch.weight", &tensor), FM_OK);
    ck_assert_int_eq(eng_weights_read(weights, tensor, 0, 2, read, NULL), FM_OK);
    ck_assert_int_eq(eng_weights_find(weights, "layers.1.ffn.gate.bias_vl", &tensor), FM_OK);
    ck_assert_int_eq(eng_weights_read(weights, tensor, 0, 1, read, NULL), FM_OK);
    eng_weights_close(weights);
}
END_TEST

START_TEST(an_unquantised_wo_a_is_taken)
{
    struct eng_hparams hparams;
    struct eng_weights *weights;
    struct eng_linear linear;
    static uint16_t zeros[128 * 512];
    model_open(TEST_TINY_DEFAULT);
    struct eng_safetensors_item *item = item_find("layers.4.attn.wo_a.weight");
    item->dtype = ENG_DTYPE_BF16;
    item->data = zeros;
    item_drop("layers.4.attn.wo_a.scale");
    load_good(model_write(), &hparams, &weights);
    ck_assert_int_eq(eng_weights_linear(weights, "layers.4.attn.wo_a", &linear), FM_OK);
    ck_assert_int_eq(linear.format, ENG_FORMAT_BF16);
    eng_weights_close(weights);
}
END_TEST

/* ---- the spelling of transformers ----------------------------------------------------------- */

/* The experts of one matrix of one layer as one stack. */
struct stack {
    const char *matrices[2]; /* "w1", "w3"; NULL */
    const char *kind;        /* "weight", "scale" */
    const char *name;        /* the stack's */
};

static void stack_fuse(uint32_t layer, const struct stack *stack)
{
    char name[128];
    struct eng_safetensors_item fused = {0};
    unsigned char *at = NULL;
    uint32_t parts = stack->matrices[1] == NULL ? 1 : 2;
    for (uint32_t e = 0; e < 8; e++) {
        for (uint32_t p = 0; p < parts; p++) {
            (void)snprintf(name, sizeof name, "layers.%u.ffn.experts.%u.%s.%s", layer, e,
                           stack->matrices[p], stack->kind);
            struct eng_safetensors_item *item = item_find(name);
            uint64_t bytes = item_bytes(item);
            if (at == NULL) {
                fused = *item;
                fused.rank = 3;
                fused.dims[2] = item->dims[1];
                fused.dims[1] = parts * item->dims[0];
                fused.dims[0] = 8;
                fused.data = at = model_take(8 * parts * bytes);
            }
            memcpy(at, item->data, (size_t)bytes);
            at += bytes;
            item_drop(name);
        }
    }
    char *copy = model_take(128);
    (void)snprintf(copy, 128, "model.layers.%u.mlp.experts.%s", layer, stack->name);
    fused.name = copy;
    model.items[model.count++] = fused;
}

/* Pieces of official names and what transformers say; longest first where one holds another. */
static const char *foreign_name(const char *official)
{
    static const struct {
        const char *official, *foreign;
    } pieces[] = {
        {"embed.", "embed_tokens."},
        {".hc_attn_", ".attn_hc."},
        {".hc_ffn_", ".ffn_hc."},
        {".attn_norm.", ".input_layernorm."},
        {".ffn_norm.", ".post_attention_layernorm."},
        {".attn.indexer.compressor.wkv.", ".self_attn.compressor.indexer.kv_proj."},
        {".attn.indexer.compressor.wgate.", ".self_attn.compressor.indexer.gate_proj."},
        {".attn.indexer.compressor.ape", ".self_attn.compressor.indexer.position_bias"},
        {".attn.indexer.compressor.norm.", ".self_attn.compressor.indexer.kv_norm."},
        {".attn.indexer.wq_b.", ".self_attn.compressor.indexer.q_b_proj."},
        {".attn.indexer.weights_proj.", ".self_attn.compressor.indexer.scorer.weights_proj."},
        {".attn.compressor.wkv.", ".self_attn.compressor.kv_proj."},
        {".attn.compressor.wgate.", ".self_attn.compressor.gate_proj."},
        {".attn.compressor.ape", ".self_attn.compressor.position_bias"},
        {".attn.compressor.norm.", ".self_attn.compressor.kv_norm."},
        {".attn.wq_a.", ".self_attn.q_a_proj."},
        {".attn.q_norm.", ".self_attn.q_a_norm."},
        {".attn.wq_b.", ".self_attn.q_b_proj."},
        {".attn.wkv.", ".self_attn.kv_proj."},
        {".attn.kv_norm.", ".self_attn.kv_norm."},
        {".attn.wo_a.", ".self_attn.o_a_proj."},
        {".attn.wo_b.", ".self_attn.o_b_proj."},
        {".attn.attn_sink", ".self_attn.sinks"},
        {".ffn.gate.bias", ".mlp.gate.e_score_correction_bias"},
        {".ffn.gate.", ".mlp.gate."},
        {".ffn.shared_experts.w1.", ".mlp.shared_experts.gate_proj."},
        {".ffn.shared_experts.w3.", ".mlp.shared_experts.up_proj."},
        {".ffn.shared_experts.w2.", ".mlp.shared_experts.down_proj."},
        {"hc_head_", "hc_head.hc_"},
    };
    char text[256];
    char *copy = model_take(256);
    if (strcmp(official, "head.weight") == 0)
        return "lm_head.weight";
    (void)snprintf(text, sizeof text, "model.%s", official);
    for (size_t i = 0; i < FM_COUNT(pieces); i++) {
        char *at = strstr(text, pieces[i].official);
        if (at == NULL)
            continue;
        (void)snprintf(copy, 256, "%.*s%s%s", (int)(at - text), text, pieces[i].foreign,
                       at + strlen(pieces[i].official));
        (void)snprintf(text, sizeof text, "%s", copy);
        break;
    }
    char *scale = strstr(text, ".scale");
    if (scale != NULL && strstr(text, "_hc.") == NULL)
        (void)snprintf(scale, 32, ".weight_scale_inv");
    (void)snprintf(copy, 256, "%s", text);
    return copy;
}

static void foreign_is_the_same(enum test_tiny_variant variant, bool is_quantized)
{
    static const struct stack stacks[] = {
        {{"w1", "w3"}, "weight", "gate_up_proj"},
        {{"w2", NULL}, "weight", "down_proj"},
        {{"w1", "w3"}, "scale", "gate_up_proj_scale_inv"},
        {{"w2", NULL}, "scale", "down_proj_scale_inv"},
    };
    struct eng_hparams hparams;
    struct eng_weights *weights;
    model_open(variant);
    for (uint32_t layer = 0; layer < 6; layer++)
        for (uint32_t i = 0; i < (is_quantized ? 4u : 2u); i++)
            stack_fuse(layer, &stacks[i]);
    for (uint32_t i = 0; i < model.count;) {
        if (strncmp(model.items[i].name, "mtp.", 4) == 0) {
            model.items[i] = model.items[--model.count]; /* transformers drop it */
            continue;
        }
        if (strstr(model.items[i].name, ".mlp.experts.") == NULL)
            model.items[i].name = foreign_name(model.items[i].name);
        i++;
    }
    load_good(model_write(), &hparams, &weights);
    ck_assert_int_eq(hparams.draft_kind, ENG_DRAFT_NONE);
    uint32_t compared = 0;
    for (uint32_t i = 0; i < eng_weights_tensor_count(model.weights); i++) {
        const struct eng_tensor *good = eng_weights_tensor(model.weights, i), *other;
        if (strncmp(good->name, "mtp.", 4) == 0)
            continue;
        ck_assert_msg(eng_weights_find(weights, good->name, &other) == FM_OK, "%s", good->name);
        ck_assert_uint_eq(good->rank, other->rank);
        ck_assert_mem_eq(good->dims, other->dims, sizeof good->dims);
        ck_assert_uint_eq(good->bytes, other->bytes);
        ck_assert_uint_eq(good->row_bytes, other->row_bytes);
        ck_assert_msg(memcmp(good->data, other->data, (size_t)good->bytes) == 0, "%s", good->name);
        compared++;
    }
    ck_assert_uint_eq(compared, eng_weights_tensor_count(weights));
    ck_assert_int_eq(eng_weights_scan(weights, NULL, NULL, NULL), FM_OK);
    eng_weights_close(weights);
}

START_TEST(a_checkpoint_of_transformers_has_the_same_tensors)
{
    foreign_is_the_same(TEST_TINY_BF16, false);
}
END_TEST

START_TEST(quantised_expert_stacks_are_cut_too)
{
    foreign_is_the_same(TEST_TINY_DEFAULT, true);
}
END_TEST

START_TEST(a_stack_of_a_wrong_shape_is_refused)
{
    static const struct stack stack = {{"w1", "w3"}, "weight", "gate_up_proj"};
    model_open(TEST_TINY_BF16);
    stack_fuse(2, &stack);
    struct eng_safetensors_item *item = &model.items[model.count - 1];
    item->dims[1] = 255;
    load_fails(model_write(), FM_CORRUPT,
               "'layers.2.ffn.experts.gate_up_proj' has the shape "
               "[8, 255, 128]");
    item->dims[1] = 128;
    load_fails(model_write(), FM_CORRUPT,
               "experts.0.w1.weight' is BF16 [64, 128], BF16 [128, 128]");
    item->rank = 2;
    load_fails(model_write(), FM_CORRUPT, "has the shape [8, 128]");
    item->rank = 3;
    item->dims[0] = 0;
    load_fails(model_write(), FM_CORRUPT, "has the shape [0, 128, 128]");
}
END_TEST

/* ---- broken tensors ------------------------------------------------------------------------- */

/* Shape and type: one tensor of the good checkpoint with another type or shape. */
static const struct {
    const char *name;
    enum eng_dtype dtype;
    uint32_t rank;
    uint64_t dims[2];
    const char *piece;
} misfits[] = {
    {"layers.1.attn.wq_a.weight",
     ENG_DTYPE_BF16,
     2,
     {128, 128},
     "model.safetensors': tensor 'layers.1.attn.wq_a.weight' is BF16 [128, 128], F8_E4M3 "
     "[128, 128] is expected"},
    {"layers.1.attn.wq_a.weight", ENG_DTYPE_F8_E4M3, 2, {64, 128}, "is F8_E4M3 [64, 128]"},
    {"layers.1.attn.wq_a.weight", ENG_DTYPE_F8_E4M3, 1, {128}, "is F8_E4M3 [128], F8_E4M3"},
    {"layers.1.attn.wq_b.weight", ENG_DTYPE_F8_E4M3, 2, {128, 1024}, "F8_E4M3 [1024, 128] is"},
    {"layers.1.attn.wq_a.scale", ENG_DTYPE_I8, 2, {1, 1}, "F8_E8M0 or F32 [1, 1] is expected"},
    {"layers.1.attn.wq_b.scale", ENG_DTYPE_F8_E8M0, 2, {1, 8}, "F8_E8M0 or F32 [8, 1]"},
    {"layers.1.ffn.experts.3.w1.weight", ENG_DTYPE_F8_E4M3, 2, {128, 128}, "I8 [128, 64] is"},
    {"layers.1.ffn.experts.3.w1.weight", ENG_DTYPE_I8, 2, {128, 128}, "I8 [128, 64] is expected"},
    {"layers.1.ffn.experts.3.w1.scale", ENG_DTYPE_F8_E8M0, 2, {1, 1}, "F32 [128, 4] is expected"},
    {"layers.1.attn_norm.weight", ENG_DTYPE_F32, 1, {128}, "BF16 [128] is expected"},
    {"layers.1.hc_attn_fn", ENG_DTYPE_BF16, 2, {24, 512}, "F32 [24, 512] is expected"},
    {"layers.1.hc_attn_base", ENG_DTYPE_F32, 1, {23}, "F32 [24] is expected"},
    {"layers.0.ffn.gate.tid2eid", ENG_DTYPE_F32, 2, {512, 2}, "I64 [512, 2] is expected"},
    {"layers.1.ffn.gate.bias", ENG_DTYPE_F32, 1, {7}, "F32 [8] is expected"},
    {"layers.1.attn.compressor.ape", ENG_DTYPE_F32, 2, {4, 256}, "F32 [4, 512] is expected"},
    {"layers.2.attn.compressor.ape", ENG_DTYPE_F32, 2, {4, 256}, "F32 [128, 256] is expected"},
    {"head.weight", ENG_DTYPE_BF16, 2, {511, 128}, "BF16 [512, 128] is expected"},
    {"mtp.0.enorm.weight", ENG_DTYPE_BF16, 1, {64}, "BF16 [128] is expected"},
    {"embed.weight", ENG_DTYPE_BF16, 0, {0}, "'embed.weight' is BF16 []"},
};

START_TEST(a_tensor_of_another_type_or_shape_is_refused)
{
    static unsigned char zeros[1 << 20];
    model_open(TEST_TINY_DEFAULT);
    struct eng_safetensors_item *item = item_find(misfits[_i].name);
    item->dtype = misfits[_i].dtype;
    item->rank = misfits[_i].rank;
    memcpy(item->dims, misfits[_i].dims, sizeof misfits[_i].dims);
    item->data = zeros;
    ck_assert_uint_le(item_bytes(item), sizeof zeros);
    load_fails(model_write(), FM_CORRUPT, misfits[_i].piece);
}
END_TEST

/* Values: an element replaced.  The load looks at the expert table alone; the rest is found when
 * the row is read, and by the scan. */
static const struct {
    enum test_tiny_variant variant;
    const char *name;
    uint64_t row, element;
    unsigned char bytes[8];
    uint32_t byte_count;
    const char *piece;
} bad_values[] = {
    {TEST_TINY_DEFAULT,
     "layers.1.attn.wq_a.weight",
     77,
     3,
     {0x7f},
     1,
     "has code 0x7f, not a number at row 77, element 3, where a finite number is expected"},
    {TEST_TINY_DEFAULT, "mtp.0.h_proj.weight", 127, 127, {0xff}, 1, "at row 127, element 127"},
    {TEST_TINY_DEFAULT,
     "layers.1.attn.wq_b.scale",
     5,
     0,
     {0xff},
     1,
     "has code 0xff, not a number at row 5, element 0, where a normal number above 0"},
    {TEST_TINY_DEFAULT,
     "layers.3.ffn.experts.7.w2.scale",
     99,
     3,
     {0},
     1,
     "has code 0x00, a scale below 2^-126 at row 99, element 3"},
    {TEST_TINY_FP8, "layers.3.ffn.experts.7.w2.scale", 0, 0, {0, 0, 0, 0}, 4, "has 0 at row 0"},
    {TEST_TINY_FP8, "layers.3.attn.wq_b.scale", 7, 0, {0, 0, 0xc0, 0x7f}, 4, "has nan at row 7"},
    {TEST_TINY_FP8, "layers.3.attn.wq_b.scale", 7, 0, {0, 0, 0x80, 0xbf}, 4, "has -1 at row 7"},
    {TEST_TINY_DEFAULT, "layers.2.ffn_norm.weight", 100, 0, {0x80, 0x7f}, 2, "has inf at row 100"},
    {TEST_TINY_BF16, "layers.2.attn.wkv.weight", 200, 17, {0xc0, 0xff}, 2, "nan at row 200"},
    {TEST_TINY_DEFAULT, "hc_head_fn", 3, 511, {0, 0, 0x80, 0xff}, 4, "-inf at row 3, element 511"},
};

START_TEST(a_value_that_its_format_forbids_is_found)
{
    struct eng_hparams hparams;
    struct eng_weights *weights;
    const struct eng_tensor *tensor;
    struct fm_err err = {0};
    static unsigned char rows[1 << 20];
    uint64_t row = bad_values[_i].row;

    model_open(bad_values[_i].variant);
    struct eng_safetensors_item *item = item_find(bad_values[_i].name);
    uint64_t row_bytes = item_bytes(item) / item->dims[0];
    unsigned char *copy = item_copy(item);
    memcpy(copy + row * row_bytes + bad_values[_i].element * eng_dtype_bits(item->dtype) / 8,
           bad_values[_i].bytes, bad_values[_i].byte_count);
    load_good(model_write(), &hparams, &weights);
    ck_assert_int_eq(eng_weights_scan(weights, NULL, NULL, &err), FM_CORRUPT);
    ck_assert_msg(strstr(err.text, bad_values[_i].piece) != NULL, "%s", err.text);
    ck_assert_msg(strstr(err.text, bad_values[_i].name) != NULL, "%s", err.text);
    ck_assert_msg(strstr(err.text, "model.safetensors") != NULL, "%s", err.text);

    ck_assert_int_eq(eng_weights_find(weights, bad_values[_i].name, &tensor), FM_OK);
    uint64_t row_count = tensor->dims[0];
    memset(&err, 0, sizeof err);
    if (row > 0)
        ck_assert_int_eq(eng_weights_read(weights, tensor, 0, row, rows, NULL), FM_OK);
    if (row + 1 < row_count)
        ck_assert_int_eq(
            eng_weights_read(weights, tensor, row + 1, row_count - row - 1, rows, NULL), FM_OK);
    ck_assert_int_eq(eng_weights_read(weights, tensor, row, 1, rows, &err), FM_CORRUPT);
    ck_assert_msg(strstr(err.text, bad_values[_i].piece) != NULL, "%s", err.text);
    eng_weights_close(weights);
}
END_TEST

START_TEST(an_expert_that_does_not_exist_is_refused_at_load)
{
    model_open(TEST_TINY_DEFAULT);
    struct eng_safetensors_item *item = item_find("layers.0.ffn.gate.tid2eid");
    unsigned char *copy = item_copy(item);
    copy[(size_t)8 * (2 * 300 + 1)] = 8;
    load_fails(model_write(), FM_CORRUPT,
               "'layers.0.ffn.gate.tid2eid' has expert 8 for token 300, a number from 0 to 7");
    memset(copy + (size_t)8 * (2 * 300 + 1), 0xff, 8);
    load_fails(model_write(), FM_CORRUPT, "has expert -1 for token 300");
}
END_TEST

START_TEST(an_expert_that_is_named_twice_is_counted)
{
    struct eng_hparams hparams;
    struct eng_weights *weights;
    model_open(TEST_TINY_DEFAULT);
    unsigned char *copy = item_copy(item_find("layers.0.ffn.gate.tid2eid"));
    memcpy(copy + 8, copy, 8);
    memcpy(copy + 16 * 511, copy + 16 * 511 + 8, 8);
    load_good(model_write(), &hparams, &weights);
    ck_assert_uint_eq(eng_weights_hash_duplicates(weights), 2);
    eng_weights_close(weights);
}
END_TEST

static bool stop_at_second(void *context, uint64_t done, uint64_t total)
{
    uint32_t *calls = context;
    ck_assert_uint_le(done, total);
    return ++*calls < 2;
}

static bool count_bytes(void *context, uint64_t done, uint64_t total)
{
    uint64_t *last = context;
    ck_assert_uint_gt(done, *last);
    ck_assert_uint_le(done, total);
    *last = done;
    return true;
}

START_TEST(a_scan_tells_its_progress_and_can_be_given_up)
{
    struct eng_hparams hparams;
    struct eng_weights *weights;
    uint64_t last = 0;
    uint32_t calls = 1;
    load_good(test_tiny_dir(TEST_TINY_DEFAULT, SEED), &hparams, &weights);
    ck_assert_int_eq(eng_weights_scan(weights, count_bytes, &last, NULL), FM_OK);
    ck_assert_uint_eq(last, eng_weights_bytes(weights));
    ck_assert_int_eq(eng_weights_scan(weights, stop_at_second, &calls, NULL), FM_CANCELED);
    eng_weights_close(weights);
}
END_TEST

/* ---- missing tensors and drafts ------------------------------------------------------------- */

/* An index of the good shards without the tensor `missing` and, unless NULL, with `more` added. */
static const char *index_text(const char *missing, const char *more)
{
    static char text[1 << 17];
    size_t length = 0;
    length += (size_t)snprintf(text, sizeof text, "{\"metadata\":{},\"weight_map\":{%s",
                               more != NULL ? more : "");
    bool is_first = more == NULL;
    for (uint32_t i = 0; i < model.count; i++) {
        const struct eng_tensor *tensor = eng_weights_tensor(model.weights, i);
        if (missing != NULL && strcmp(tensor->name, missing) == 0)
            continue;
        length += (size_t)snprintf(text + length, sizeof text - length, "%s\"%s\":\"%s\"",
                                   is_first ? "" : ",", tensor->name,
                                   eng_weights_file_name(model.weights, tensor->file_index));
        is_first = false;
    }
    (void)snprintf(text + length, sizeof text - length, "}}");
    ck_assert_uint_lt(length, sizeof text - 2);
    return text;
}

/* Each tensor in turn.  Without e_proj the block's kind is not known; the sentence says so. */
START_TEST(every_tensor_is_missed)
{
    struct eng_hparams hparams;
    struct eng_weights *weights;
    char piece[200];
    model_open(TEST_TINY_DEFAULT);
    load_good(dir_of_index(index_text(NULL, NULL)), &hparams, &weights);
    eng_weights_close(weights);
    for (uint32_t i = 0; i < model.count; i++) {
        const char *name = eng_weights_tensor(model.weights, i)->name;
        (void)snprintf(piece, sizeof piece, "'%s'", name);
        load_fails(dir_of_index(index_text(name, NULL)), FM_CORRUPT, piece);
    }
}
END_TEST

START_TEST(draft_blocks_are_found_by_their_tensors)
{
    struct eng_weights *weights;
    enum eng_draft_kind kind = ENG_DRAFT_NONE;
    uint32_t count = 99;

    /* Three DSpark stages, though the configuration says 1. */
    ck_assert_int_eq(eng_weights_open(test_tiny_dir(TEST_TINY_DSPARK, SEED), &weights, NULL),
                     FM_OK);
    ck_assert_int_eq(eng_weights_draft(weights, &kind, &count, NULL), FM_OK);
    ck_assert_int_eq(kind, ENG_DRAFT_DSPARK);
    ck_assert_uint_eq(count, 3);
    eng_weights_close(weights);

    /* A stage in the middle is gone. */
    model_open(TEST_TINY_DSPARK);
    for (uint32_t i = 0; i < model.count;) {
        if (strncmp(model.items[i].name, "mtp.1.", 6) == 0)
            model.items[i] = model.items[--model.count];
        else
            i++;
    }
    load_fails(model_write(), FM_CORRUPT, "has 2 draft blocks, but no 'mtp.1'");

    /* Neither kind; a stage beyond what there can be; DSpark under an MTP configuration. */
    model_open(TEST_TINY_DEFAULT);
    item_find("mtp.0.e_proj.weight")->name = "mtp.0.x_proj.weight";
    load_fails(model_write(), FM_CORRUPT, "neither 'mtp.0.main_proj.weight'");
    model_open(TEST_TINY_DEFAULT);
    item_find("mtp.0.e_proj.weight")->name = "mtp.8.e_proj.weight";
    load_fails(model_write(), FM_UNSUPPORTED, "belongs to draft block 8, at most 8");
    model_open(TEST_TINY_DEFAULT);
    item_find("mtp.0.e_proj.weight")->name = "mtp.0.main_proj.weight";
    load_fails(model_write(), FM_CORRUPT, "\"dspark_block_size\" is missing");
    model_open(TEST_TINY_DEFAULT);
    item_find("mtp.0.norm.weight")->name = "mtp.1.norm.weight";
    load_fails(model_write(), FM_UNSUPPORTED, "there are 2 MTP blocks");
}
END_TEST

/* ---- broken files --------------------------------------------------------------------------- */

START_TEST(a_directory_without_its_files_is_refused)
{
    const char *dir = dir_new();
    load_fails("/nowhere/at/all", FM_IO, "there is no file '/nowhere/at/all/config.json'");
    load_fails(dir, FM_IO, "config.json'");
    text_write(dir, "config.json", test_tiny_config(TEST_TINY_DEFAULT),
               strlen(test_tiny_config(TEST_TINY_DEFAULT)));
    load_fails(dir, FM_IO, "/model.safetensors'");
    text_write(dir, "model.safetensors", "", 0);
    load_fails(dir, FM_CORRUPT, "model.safetensors': the file has 0 bytes");
    text_write(dir, "model.safetensors", "\2\0\0\0\0\0\0\0{}", 10);
    load_fails(dir, FM_CORRUPT, "holds no tensors");
    text_write(dir, "config.json", "{\"model_type\": \"deepseek_v41\"}", 30);
    load_fails(dir, FM_UNSUPPORTED, "config.json': \"model_type\" is \"deepseek_v41\"");
    char longest[5000];
    memset(longest, 'd', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    load_fails(longest, FM_LIMIT, "is longer than");
}
END_TEST

START_TEST(a_wrong_index_is_refused)
{
    static const struct {
        const char *more, *piece;
    } entries[] = {
        {"\"layers.9.x\":\"model-00001-of-00003.safetensors\"",
         "says that tensor 'layers.9.x' is in 'model-00001-of-00003.safetensors', which has no"},
        {"\"a\":\"model-00004-of-00003.safetensors\"", "there is no file '"},
        {"\"a\":\"../model.safetensors\"", "a plain name without a path"},
        {"\"a\":\"/etc/passwd\"", "a plain name without a path"},
        {"\"a\":\"..\"", "a plain name without a path"},
        {"\"a\":\"\"", "a plain name without a path"},
        {"\"a\":7", "a string is expected"},
        {"\"\":\"model-00001-of-00003.safetensors\"", "which is no text"},
        {"\"\xff\":\"model-00001-of-00003.safetensors\"", "not UTF-8"},
        {"\"head.weight\":\"model-00001-of-00003.safetensors\"", "which has no such"},
        {"\"embed.weight\":\"model-00001-of-00003.safetensors\"",
         "tensor 'embed.weight' is there twice, in 'model-00001-of-00003.safetensors'"},
    };
    model_open(TEST_TINY_DEFAULT);
    for (size_t i = 0; i < FM_COUNT(entries); i++) {
        bool is_no_file = strstr(entries[i].piece, "no file") != NULL;
        load_fails(dir_of_index(index_text(NULL, entries[i].more)), is_no_file ? FM_IO : FM_CORRUPT,
                   entries[i].piece);
    }
    /* The tensor is in the second shard, the index says the first. */
    load_fails(dir_of_index(index_text("head.weight", "\"head.weight\":"
                                                      "\"model-00001-of-00003.safetensors\"")),
               FM_CORRUPT, "which has no such tensor");
}
END_TEST

START_TEST(an_index_that_is_none_is_refused)
{
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "{}",
                                        "{\"weight_map\":[]}",
                                        "{\"weight_map\":{}} x",
                                        "{\"weight_map\":{\"a\"}}",
                                        "{\"weight_map\":1}"};
    for (size_t i = 0; i < FM_COUNT(texts); i++)
        load_fails(dir_of_index(texts[i]), FM_CORRUPT, "model.safetensors.index.json'");
    load_fails(dir_of_index("{\"weight_map\":{}}"), FM_CORRUPT, "holds no tensors");
}
END_TEST

/* A shard cut at every length up to the end of its header, and at many behind it: an answer, never
 * a signal. */
START_TEST(every_cut_of_a_shard_is_refused)
{
    char path[2 * PATH_BYTES];
    struct eng_safetensors_item item;
    static unsigned char whole[1 << 16];
    struct eng_weights *weights = NULL;
    model_open(TEST_TINY_DEFAULT);
    item = *item_find("layers.1.attn.wq_a.weight");
    const char *dir = dir_new();
    (void)snprintf(path, sizeof path, "%s/model.safetensors", dir);
    ck_assert_int_eq(eng_safetensors_write(path, &item, 1, NULL), FM_OK);
    FILE *stream = fopen(path, "rb");
    ck_assert_ptr_nonnull(stream);
    size_t bytes = fread(whole, 1, sizeof whole, stream);
    ck_assert_int_eq(fclose(stream), 0);
    ck_assert_uint_gt(bytes, 16384);
    for (size_t cut = 0; cut < bytes; cut += cut < 200 ? 1 : 997) {
        ck_assert_int_eq(truncate(path, 0), 0);
        text_write(dir, "model.safetensors", whole, cut);
        ck_assert_int_eq(eng_weights_open(dir, &weights, NULL), FM_CORRUPT);
        ck_assert_ptr_null(weights);
    }
    text_write(dir, "model.safetensors", whole, bytes);
    ck_assert_int_eq(eng_weights_open(dir, &weights, NULL), FM_OK);
    eng_weights_close(weights);
}
END_TEST

START_TEST(two_spellings_of_one_tensor_are_refused)
{
    model_open(TEST_TINY_DEFAULT);
    model.items[model.count] = *item_find("layers.1.attn_norm.weight");
    model.items[model.count++].name = "model.layers.1.input_layernorm.weight";
    load_fails(model_write(), FM_CORRUPT, "tensor 'layers.1.attn_norm.weight' is there twice");
}
END_TEST

/* ---- failures of the host ------------------------------------------------------------------- */

START_TEST(load_survives_every_failure)
{
    static const struct {
        const char *point;
        enum fm_status status;
        uint64_t least; /* hits of a good load, at least */
    } points[] = {{"alloc", FM_NOMEM, 10}, {"open", FM_IO, 5}, {"map", FM_IO, 5}};
    const char *dir = test_tiny_dir(TEST_TINY_DEFAULT, SEED);
    bool fired = true;
    uint64_t nth;
    for (nth = 1; fired; nth++) {
        struct eng_hparams hparams;
        struct eng_weights *weights = NULL;
        struct fm_err err = {0};
        fm_fault_arm(points[_i].point, nth);
        enum fm_status status = eng_weights_load(dir, &hparams, &weights, &err);
        fired = fm_fault_disarm(points[_i].point);
        ck_assert_msg(status == (fired ? points[_i].status : FM_OK), "%s", err.text);
        ck_assert_msg((weights != NULL) == (status == FM_OK), "ret_weights written on failure");
        ck_assert_msg((err.text[0] != '\0') == fired, "%s", err.text);
        eng_weights_close(weights);
        ck_assert_uint_lt(nth, 10000);
    }
    ck_assert_uint_gt(nth, points[_i].least);
}
END_TEST

/* Made once: Check then starts a process per test. */
static void variants_make(void)
{
    for (int variant = 0; variant < TEST_TINY_VARIANTS; variant++)
        (void)test_tiny_dir((enum test_tiny_variant)variant, SEED);
}

Suite *test_suite(void)
{
    Suite *suite = suite_create("engine_weights");
    TCase *tcase = tcase_create("weights");
    tcase_set_timeout(tcase, 60);
    tcase_add_unchecked_fixture(tcase, variants_make, NULL);
    tcase_add_checked_fixture(tcase, NULL, model_close);
    tcase_add_loop_test(tcase, every_variant_loads_and_scans, 0, TEST_TINY_VARIANTS);
    tcase_add_test(tcase, the_bundled_model_loads_and_scans);
    tcase_add_test(tcase, linears_tell_their_format_and_shape);
    tcase_add_test(tcase, rows_are_copied_as_the_file_has_them);
    tcase_add_test(tcase, what_the_model_does_not_need_is_ignored);
    tcase_add_test(tcase, an_unquantised_wo_a_is_taken);
    tcase_add_test(tcase, a_checkpoint_of_transformers_has_the_same_tensors);
    tcase_add_test(tcase, quantised_expert_stacks_are_cut_too);
    tcase_add_test(tcase, a_stack_of_a_wrong_shape_is_refused);
    tcase_add_loop_test(tcase, a_tensor_of_another_type_or_shape_is_refused, 0,
                        (int)FM_COUNT(misfits));
    tcase_add_loop_test(tcase, a_value_that_its_format_forbids_is_found, 0,
                        (int)FM_COUNT(bad_values));
    tcase_add_test(tcase, an_expert_that_does_not_exist_is_refused_at_load);
    tcase_add_test(tcase, an_expert_that_is_named_twice_is_counted);
    tcase_add_test(tcase, a_scan_tells_its_progress_and_can_be_given_up);
    tcase_add_test(tcase, every_tensor_is_missed);
    tcase_add_test(tcase, draft_blocks_are_found_by_their_tensors);
    tcase_add_test(tcase, a_directory_without_its_files_is_refused);
    tcase_add_test(tcase, a_wrong_index_is_refused);
    tcase_add_test(tcase, an_index_that_is_none_is_refused);
    tcase_add_test(tcase, every_cut_of_a_shard_is_refused);
    tcase_add_test(tcase, two_spellings_of_one_tensor_are_refused);
    tcase_add_loop_test(tcase, load_survives_every_failure, 0, 3);
    suite_add_tcase(suite, tcase);
    return suite;
}
