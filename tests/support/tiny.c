/* tiny.c - makes small random checkpoints: the inventory of a configuration, filled with numbers.
 *
 * Each tensor has a stream of its own (the hash of its name), so that adding one leaves the others
 * as they are.  Numbers are sums of integers scaled by exact operations: every machine and every
 * libm gives the same bytes. */
#include "tests/support/tiny.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "backends/base/arena.h"
#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "engine/hparams.h"
#include "engine/inventory.h"
#include "engine/safetensors.h"
#include "tests/support/support.h"

enum { SHARDS = 3, ITEMS_MAX = 4096, ARENA_BYTES_MAX = 1 << 28, PATH_BYTES = 512 };

/* ---- configurations ------------------------------------------------------------------------- */

#define QUANTIZATION                                                                               \
    "\"quantization_config\": {\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\",\n"           \
    "  \"quant_method\": \"fp8\", \"scale_fmt\": \"ue8m0\", \"weight_block_size\": [128, "         \
    "128]},\n "
#define QUANTIZED(expert_dtype) QUANTIZATION "\"expert_dtype\": \"" expert_dtype "\",\n "
#define DSPARK                                                                                     \
    "\"dspark_block_size\": 3, \"dspark_noise_token_id\": 511,\n "                                 \
    "\"dspark_target_layer_ids\": [3, 4, 5], \"dspark_markov_rank\": 32,\n "

/* num_nextn_predict_layers is 1 whatever the draft is: released files are like that. */
#define CONFIG(ratios, window, more)                                                               \
    "{\"architectures\": [\"DeepseekV4ForCausalLM\"], \"model_type\": \"deepseek_v4\",\n "         \
    "\"attention_bias\": false, \"bos_token_id\": 0, \"eos_token_id\": 1,\n "                      \
    "\"compress_ratios\": " ratios ", \"sliding_window\": " window ",\n " more                     \
    "\"compress_rope_theta\": 160000, \"rope_theta\": 10000,\n "                                   \
    "\"rope_scaling\": {\"beta_fast\": 32, \"beta_slow\": 1, \"factor\": 16,\n  "                  \
    "\"original_max_position_embeddings\": 256, \"type\": \"yarn\"},\n "                           \
    "\"max_position_embeddings\": 4096, \"vocab_size\": 512,\n "                                   \
    "\"hidden_size\": 128, \"num_hidden_layers\": 6, \"num_attention_heads\": 4,\n "               \
    "\"num_key_value_heads\": 1, \"head_dim\": 256, \"qk_rope_head_dim\": 64,\n "                  \
    "\"q_lora_rank\": 128, \"o_groups\": 2, \"o_lora_rank\": 64,\n "                               \
    "\"index_n_heads\": 4, \"index_head_dim\": 128, \"index_topk\": 8,\n "                         \
    "\"moe_intermediate_size\": 128, \"n_routed_experts\": 8, \"n_shared_experts\": 1,\n "         \
    "\"num_experts_per_tok\": 2, \"num_hash_layers\": 1, \"norm_topk_prob\": true,\n "             \
    "\"routed_scaling_factor\": 1.5, \"scoring_func\": \"sqrtsoftplus\",\n "                       \
    "\"topk_method\": \"noaux_tc\", \"swiglu_limit\": 1.0, \"hidden_act\": \"silu\",\n "           \
    "\"hc_eps\": 1e-06, \"hc_mult\": 4, \"hc_sinkhorn_iters\": 20, \"rms_norm_eps\": 1e-06,\n "    \
    "\"num_nextn_predict_layers\": 1, \"tie_word_embeddings\": false,\n "                          \
    "\"torch_dtype\": \"bfloat16\"}\n"

static const struct {
    const char *name, *config;
    enum eng_draft_kind draft;
    uint32_t stages;
    bool has_f32_scales;
} variants[TEST_TINY_VARIANTS] = {
    [TEST_TINY_DEFAULT] = {"default", CONFIG("[0, 4, 128, 4, 128, 0, 0]", "16", QUANTIZED("fp4")),
                           ENG_DRAFT_MTP, 1, false},
    [TEST_TINY_BF16] = {"bf16", CONFIG("[0, 4, 128, 4, 128, 0, 0]", "16", ""), ENG_DRAFT_MTP, 1,
                        false},
    [TEST_TINY_DSPARK] = {"dspark",
                          CONFIG("[0, 4, 128, 4, 128, 0, 0, 0, 0]", "16", QUANTIZED("fp4") DSPARK),
                          ENG_DRAFT_DSPARK, 3, false},
    [TEST_TINY_RATIO_16] = {"ratio16", CONFIG("[0, 4, 16, 4, 16, 0, 0]", "16", QUANTIZED("fp4")),
                            ENG_DRAFT_MTP, 1, false},
    [TEST_TINY_PRO] = {"pro", CONFIG("[128, 128, 4, 128, 4, 128, 0]", "128", QUANTIZED("fp4")),
                       ENG_DRAFT_MTP, 1, false},
    [TEST_TINY_FP8] = {"fp8", CONFIG("[0, 4, 128, 4, 128, 0, 0]", "16", QUANTIZED("fp8")),
                       ENG_DRAFT_MTP, 1, true},
    [TEST_TINY_NO_DRAFT] = {"nodraft", CONFIG("[0, 4, 128, 4, 128, 0]", "16", QUANTIZED("fp4")),
                            ENG_DRAFT_NONE, 0, false},
};

const char *test_tiny_config(enum test_tiny_variant variant)
{
    ck_assert_uint_lt(variant, TEST_TINY_VARIANTS);
    return variants[variant].config;
}

/* ---- numbers -------------------------------------------------------------------------------- */

struct maker {
    enum test_tiny_variant variant;
    uint64_t seed;
    const struct eng_hparams *hparams;
    struct fm_arena arena; /* names and data */
    uint32_t count;
    struct eng_safetensors_item items[ITEMS_MAX];
};

static void *take(struct maker *maker, uint64_t bytes)
{
    void *memory = fm_arena_take(&maker->arena, (size_t)bytes);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

/* FNV-1a: the stream of a tensor's numbers. */
static uint64_t stream_of(const char *name)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *name != '\0'; name++)
        hash = (hash ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    return hash;
}

/* About normal with mean 0 and deviation 1: four uniform 16-bit numbers, within 3.47. */
static float normal(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint64_t draw = fm_prng_u64(seed, stream, counter);
    int64_t sum =
        (int64_t)((draw & 0xffff) + (draw >> 16 & 0xffff) + (draw >> 32 & 0xffff) + (draw >> 48)) -
        2 * 0xffff;
    return (float)((double)sum * (1.7320508075688772 / 65536));
}

/* mean + deviation * normal, count of them. */
static float *normals(struct maker *maker, const char *name, uint64_t count, double mean,
                      double deviation)
{
    float *values = take(maker, count * sizeof *values);
    uint64_t stream = stream_of(name);
    for (uint64_t i = 0; i < count; i++)
        values[i] = (float)(mean + deviation * (double)normal(maker->seed, stream, i));
    return values;
}

static bool name_ends(const char *name, const char *end)
{
    size_t length = strlen(name), end_length = strlen(end);
    return length >= end_length && strcmp(name + length - end_length, end) == 0;
}

/* ---- tensors -------------------------------------------------------------------------------- */

static void item_add(struct maker *maker, const char *name, enum eng_dtype dtype, uint64_t rows,
                     uint64_t cols, const void *data)
{
    ck_assert_uint_lt(maker->count, ITEMS_MAX);
    const char *copy = fm_arena_copy(&maker->arena, name, strlen(name));
    ck_assert_ptr_nonnull(copy);
    maker->items[maker->count++] = (struct eng_safetensors_item){
        .name = copy,
        .dtype = dtype,
        .rank = cols == 0 ? 1 : 2,
        .dims = {rows, cols},
        .data = data,
    };
}

static void bf16_add(struct maker *maker, const struct eng_inventory_item *item)
{
    const uint64_t rows = item->dims[0], cols = item->dims[1];
    bool is_gain = item->rank == 1;
    uint64_t count = is_gain ? rows : rows * cols;
    bool is_table = name_ends(item->name, "embed.weight") || name_ends(item->name, "w2.weight");
    double deviation = is_gain                                   ? 0.1
                       : is_table && item->role == ENG_ROLE_BF16 ? 1
                                                                 : 1 / sqrt((double)cols);
    const float *values = normals(maker, item->name, count, is_gain ? 1 : 0, deviation);
    uint16_t *bits = take(maker, count * sizeof *bits);
    for (uint64_t i = 0; i < count; i++)
        bits[i] = fm_bf16(values[i]);
    item_add(maker, item->name, ENG_DTYPE_BF16, rows, cols, bits);
}

static void f32_add(struct maker *maker, const struct eng_inventory_item *item)
{
    const uint64_t rows = item->dims[0], cols = item->dims[1];
    uint64_t count = item->rank == 1 ? rows : rows * cols, stream = stream_of(item->name);
    float *values;

    if (name_ends(item->name, "_scale")) {
        values = take(maker, count * sizeof *values);
        for (uint64_t i = 0; i < count; i++)
            values[i] = (float)(0.5 + fm_prng_unit(maker->seed, stream, i));
    } else {
        double deviation = name_ends(item->name, "_fn")         ? 2 / sqrt((double)cols)
                           : name_ends(item->name, "_base")     ? 0.5
                           : name_ends(item->name, "gate.bias") ? 0.1
                                                                : 1;
        values = normals(maker, item->name, count, 0, deviation);
    }
    item_add(maker, item->name, ENG_DTYPE_F32, rows, cols, values);
}

/* Each row: the first K of a shuffle of the E experts. */
static void expert_ids_add(struct maker *maker, const struct eng_inventory_item *item)
{
    const uint64_t rows = item->dims[0], used = item->dims[1];
    const uint32_t expert_count = maker->hparams->expert_count;
    uint64_t stream = stream_of(item->name);
    int64_t *ids = take(maker, rows * used * sizeof *ids);
    int64_t shuffled[ENG_EXPERTS_MAX];

    for (uint64_t row = 0; row < rows; row++) {
        for (uint32_t e = 0; e < expert_count; e++)
            shuffled[e] = e;
        for (uint64_t k = 0; k < used; k++) {
            uint64_t pick =
                k + fm_prng_u64(maker->seed, stream, row * used + k) % (expert_count - k);
            int64_t expert = shuffled[pick];
            shuffled[pick] = shuffled[k];
            shuffled[k] = expert;
            ids[row * used + k] = expert;
        }
    }
    item_add(maker, item->name, ENG_DTYPE_I64, rows, used, ids);
}

/* The scale byte of a block: the smallest power of two that keeps |values| within `largest`. */
static uint8_t scale_of(const float *values, uint64_t rows, uint64_t cols, uint64_t stride,
                        float largest)
{
    float amax = 1e-12f;
    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t c = 0; c < cols; c++)
            amax = fmaxf(amax, fabsf(values[r * stride + c]));
    return fm_ue8m0_ceil(amax / largest);
}

static void scale_add(struct maker *maker, const char *weight_name, uint64_t rows, uint64_t cols,
                      const uint8_t *scales)
{
    char name[256];
    (void)snprintf(name, sizeof name, "%.*s.scale", (int)(strlen(weight_name) - strlen(".weight")),
                   weight_name);
    if (!variants[maker->variant].has_f32_scales) {
        item_add(maker, name, ENG_DTYPE_F8_E8M0, rows, cols, scales);
        return;
    }
    float *values = take(maker, rows * cols * sizeof *values);
    for (uint64_t i = 0; i < rows * cols; i++)
        values[i] = fm_ue8m0_value(scales[i]);
    item_add(maker, name, ENG_DTYPE_F32, rows, cols, values);
}

static void fp8_add(struct maker *maker, const struct eng_inventory_item *item)
{
    const uint64_t rows = item->dims[0], cols = item->dims[1];
    const uint64_t tile_rows = fm_div_ceil(rows, 128), tile_cols = fm_div_ceil(cols, 128);
    const float *values = normals(maker, item->name, rows * cols, 0, 1 / sqrt((double)cols));
    uint8_t *codes = take(maker, rows * cols), *scales = take(maker, tile_rows * tile_cols);

    for (uint64_t t = 0; t < tile_rows * tile_cols; t++) {
        uint64_t row = t / tile_cols * 128, col = t % tile_cols * 128;
        scales[t] = scale_of(values + row * cols + col, fm_min_u64(128, rows - row),
                             fm_min_u64(128, cols - col), cols, 448);
    }
    for (uint64_t i = 0; i < rows * cols; i++) {
        uint8_t scale = scales[i / cols / 128 * tile_cols + i % cols / 128];
        codes[i] = fm_e4m3(values[i] * fm_ue8m0_reciprocal(scale));
    }
    item_add(maker, item->name, ENG_DTYPE_F8_E4M3, rows, cols, codes);
    scale_add(maker, item->name, tile_rows, tile_cols, scales);
}

static void fp4_add(struct maker *maker, const struct eng_inventory_item *item)
{
    const uint64_t rows = item->dims[0], cols = item->dims[1], blocks = rows * cols / 32;
    const float *values = normals(maker, item->name, rows * cols, 0, 1 / sqrt((double)cols));
    uint8_t *pairs = take(maker, rows * cols / 2), *scales = take(maker, blocks);

    for (uint64_t b = 0; b < blocks; b++)
        scales[b] = scale_of(values + b * 32, 1, 32, 32, 6);
    for (uint64_t i = 0; i < rows * cols; i += 2) {
        float reciprocal = fm_ue8m0_reciprocal(scales[i / 32]);
        pairs[i / 2] =
            (uint8_t)(fm_e2m1(values[i] * reciprocal) | fm_e2m1(values[i + 1] * reciprocal) << 4);
    }
    item_add(maker, item->name, ENG_DTYPE_I8, rows, cols / 2, pairs);
    scale_add(maker, item->name, rows, cols / 32, scales);
}

static enum fm_status item_make(void *context, const struct eng_inventory_item *item,
                                struct fm_err *err)
{
    struct maker *maker = context;
    (void)err;
    switch (item->role) {
    case ENG_ROLE_BF16: bf16_add(maker, item); break;
    case ENG_ROLE_F32: f32_add(maker, item); break;
    case ENG_ROLE_EXPERT_IDS: expert_ids_add(maker, item); break;
    case ENG_ROLE_LINEAR:
    case ENG_ROLE_LINEAR_OUT:
    case ENG_ROLE_EXPERT:
        switch (eng_inventory_format(maker->hparams, item->role)) {
        case ENG_FORMAT_BF16: bf16_add(maker, item); break;
        case ENG_FORMAT_FP8: fp8_add(maker, item); break;
        case ENG_FORMAT_FP4: fp4_add(maker, item); break;
        }
        break;
    case ENG_ROLE_NONE:
    case ENG_ROLE_SCALE: FM_UNREACHABLE();
    }
    return FM_OK;
}

/* ---- files ---------------------------------------------------------------------------------- */

static FILE *file_create(const char *dir, const char *name)
{
    char path[PATH_BYTES];
    int length = snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_int_lt(length, PATH_BYTES);
    FILE *stream = fopen(path, "wbe");
    ck_assert_msg(stream != NULL, "cannot create %s", path);
    return stream;
}

static void shards_write(const struct maker *maker, const char *dir)
{
    uint32_t per_shard = (maker->count + SHARDS - 1) / SHARDS;
    FILE *index = file_create(dir, "model.safetensors.index.json");

    (void)fprintf(index, "{\"metadata\": {}, \"weight_map\": {\n");
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        char name[64], path[PATH_BYTES];
        struct fm_err err = {0};
        uint32_t first = shard * per_shard;
        uint32_t count = fm_min_u32(per_shard, maker->count - first);
        (void)snprintf(name, sizeof name, "model-%05u-of-%05d.safetensors", shard + 1, SHARDS);
        (void)snprintf(path, sizeof path, "%s/%s", dir, name);
        enum fm_status status = eng_safetensors_write(path, maker->items + first, count, &err);
        ck_assert_msg(status == FM_OK, "%s", err.text);
        for (uint32_t i = first; i < first + count; i++)
            (void)fprintf(index, "%s \"%s\": \"%s\"", i == 0 ? "" : ",\n", maker->items[i].name,
                          name);
    }
    (void)fprintf(index, "\n}}\n");
    ck_assert_int_eq(fclose(index), 0);
}

void test_tiny_model(const char *dir, enum test_tiny_variant variant, uint64_t seed)
{
    static struct maker maker; /* its items are too large for a stack */
    struct eng_hparams hparams;
    struct fm_err err = {0};
    const char *config = test_tiny_config(variant);

    enum fm_status status = eng_hparams_parse(config, strlen(config), &hparams, &err);
    if (status == FM_OK)
        status = eng_hparams_draft_set(&hparams, variants[variant].draft, variants[variant].stages,
                                       &err);
    ck_assert_msg(status == FM_OK, "%s", err.text);

    maker.variant = variant;
    maker.seed = seed;
    maker.hparams = &hparams;
    maker.count = 0;
    fm_arena_init(&maker.arena, ARENA_BYTES_MAX);
    status = eng_inventory_visit(&hparams, item_make, &maker, &err);
    ck_assert_int_eq(status, FM_OK);
    shards_write(&maker, dir);
    fm_arena_done(&maker.arena);

    FILE *stream = file_create(dir, "config.json");
    ck_assert_int_ge(fputs(config, stream), 0);
    ck_assert_int_eq(fclose(stream), 0);
}

const char *test_tiny_dir(enum test_tiny_variant variant, uint64_t seed)
{
    enum { MADE_MAX = 64 };
    static struct {
        enum test_tiny_variant variant;
        uint64_t seed;
        char dir[PATH_BYTES];
    } made[MADE_MAX];
    static uint32_t made_count;

    for (uint32_t i = 0; i < made_count; i++)
        if (made[i].variant == variant && made[i].seed == seed)
            return made[i].dir;
    ck_assert_uint_lt(made_count, MADE_MAX);
    ck_assert_uint_lt(variant, TEST_TINY_VARIANTS);
    int length = snprintf(made[made_count].dir, PATH_BYTES, "%s/tiny-%s-%llu", test_dir(),
                          variants[variant].name, (unsigned long long)seed);
    ck_assert_int_lt(length, PATH_BYTES);
    ck_assert_int_eq(mkdir(made[made_count].dir, 0700), 0);
    test_tiny_model(made[made_count].dir, variant, seed);
    made[made_count].variant = variant;
    made[made_count].seed = seed;
    return made[made_count++].dir;
}
