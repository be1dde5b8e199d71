/* op_case.c - builder, devices and comparison; see op_case.h. */
#include "tests/support/op_case.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/mem.h"
#include "backends/base/numeric.h"
#include "backends/base/prng.h"
#include "backends/cpu/features.h"
#include "tests/support/support.h"

enum {
    UNITS_G = 96,
    UNITS_S = 40,
    UNITS_T = 12,
    ROWS_MAX = 300,
    PAGES_MAX = 120,
    THREADS_MAX = 3,
    COLS_MAX = 16384, /* of a bf16 value */
    PAIRS = 64
};

static const uint32_t units[BE_POOL_COUNT] = {UNITS_G, UNITS_S, UNITS_T};

/* Row counts 1, 2, 3, 5, 17, 128 and 300; positions around the borders of groups, windows and
 * pages, and a long one. */
static const struct op_step steps[] = {
    {1, {{0, 1}}},
    {1, {{3, 1}}},
    {2, {{4, 1}, {127, 1}}},
    {1, {{126, 3}}},
    {5, {{0, 1}, {128, 1}, {129, 1}, {255, 1}, {3000, 1}}},
    {3, {{256, 9}, {2, 4}, {254, 4}}},
    {1, {{0, 128}}},
    {3, {{255, 130}, {3, 70}, {4999, 100}}},
};

/* ---- builder ------------------------------------------------------------------------------- */

double op_unit(struct op_case *c)
{
    return fm_prng_unit(c->seed, 7, c->draws++);
}

float op_normal(struct op_case *c)
{
    double sum = 0.0;
    for (uint32_t i = 0; i < 4; i++)
        sum += op_unit(c);
    return (float)((sum - 2.0) * 1.732);
}

struct be_shape op_shape_tiny(void)
{
    static float plain[PAIRS / 2], yarn[PAIRS / 2];
    for (uint32_t i = 0; i < PAIRS / 2; i++) {
        double turn = 2.0 * (double)i / PAIRS;
        plain[i] = (float)pow(10000.0, -turn);
        yarn[i] = (float)(pow(160000.0, -turn) / (i < 10 ? 1.0 : 16.0));
    }
    struct be_shape shape = {
        .dim = 128,
        .streams = 4,
        .head_count = 4,
        .head_dim = 256,
        .rope_dim = PAIRS,
        .q_rank = 128,
        .out_groups = 2,
        .out_rank = 64,
        .window = 16,
        .page_tokens = 128,
        .index_heads = 4,
        .index_dim = 128,
        .index_topk = 8,
        .expert_count = 8,
        .experts_per_token = 2,
        .expert_dim = 128,
        .vocab = 500, /* no multiple of 16 */
        .hc_iterations = 20,
        .layer_count = 6,
        .norm_eps = 1e-6f,
        .hc_eps = 1e-6f,
        .swiglu_limit = 1.0f,
        .route_scale = 1.5f,
        .inv_freq_plain = plain,
        .inv_freq_yarn = yarn,
    };
    shape.softmax_scale = (float)(1.0 / sqrt((double)shape.head_dim));
    shape.index_scale = (float)(1.0 / sqrt((double)shape.index_dim * (double)shape.index_heads));
    return shape;
}

struct op_case *op_case_new(const struct be_shape *shape, uint64_t seed)
{
    struct op_case *c = fm_alloc(sizeof *c);
    ck_assert_ptr_nonnull(c);
    c->seed = seed;
    c->shape = *shape;
    c->model = (struct be_model){.shape = *shape,
                                 .weights = c->weights,
                                 .weight_count = 1,
                                 .states = c->states,
                                 .state_count = 1};
    c->program = (struct be_program){
        .model = &c->model, .values = c->values, .value_count = 1, .ops = &c->op, .op_count = 1};
    return c;
}

static void fill_data(struct op_case *c, const struct be_weight *weight, uint8_t *data)
{
    uint64_t count = (uint64_t)weight->rows * weight->cols;
    float spread = weight->rows == 1 ? 1.0f : 1.0f / sqrtf((float)weight->cols);
    for (uint64_t i = 0; i < count; i++) {
        float value = op_normal(c);
        uint16_t bits = fm_bf16(weight->rows == 1 ? 1.0f + 0.2f * value : value * spread);
        switch (weight->format) {
        case BE_FORMAT_BF16: memcpy(data + i * 2, &bits, 2); break;
        case BE_FORMAT_F32:
            value *= spread;
            memcpy(data + i * 4, &value, 4);
            break;
        case BE_FORMAT_FP8: data[i] = fm_e4m3(value * 100.0f); break;
        case BE_FORMAT_FP4:
            data[i / 2] |=
                (uint8_t)(fm_e2m1(fmaxf(-6.0f, fminf(value * 2.0f, 6.0f))) << (i % 2 * 4));
            break;
        case BE_FORMAT_I64: {
            int64_t id = (int64_t)(op_unit(c) * c->shape.expert_count);
            memcpy(data + i * 8, &id, 8);
            break;
        }
        }
    }
}

be_weight_id op_weight(struct op_case *c, enum be_format format, enum be_scale_format scale,
                       uint32_t rows, uint32_t cols)
{
    be_weight_id id = c->model.weight_count++;
    ck_assert_uint_lt(id, OP_WEIGHTS_MAX);
    struct be_weight *weight = &c->weights[id];
    *weight = (struct be_weight){
        .name = "weight", .format = format, .scale_format = scale, .rows = rows, .cols = cols};
    c->weight_data[id] = fm_alloc(rows * be_weight_row_bytes(weight, BE_PART_DATA));
    fill_data(c, weight, c->weight_data[id]);
    uint32_t scale_rows = be_weight_part_rows(weight, BE_PART_SCALE);
    uint64_t scale_bytes = scale_rows * be_weight_row_bytes(weight, BE_PART_SCALE);
    c->weight_scales[id] = fm_alloc(scale_bytes);
    int middle = format == BE_FORMAT_FP8 ? 117 : 123; /* of the order of a trained weight */
    if (scale == BE_SCALE_F32) {
        for (uint64_t i = 0; i < scale_bytes; i += 4) {
            float value = 0.001f + 0.002f * (float)op_unit(c);
            memcpy(c->weight_scales[id] + i, &value, 4);
        }
    } else {
        for (uint64_t i = 0; i < scale_bytes; i++)
            c->weight_scales[id][i] = (uint8_t)(middle + (int)(op_unit(c) * 3));
    }
    return id;
}

be_state_id op_state(struct op_case *c, enum be_class class, uint32_t ratio)
{
    be_state_id id = (be_state_id)c->model.state_count++;
    ck_assert_uint_lt(id, OP_STATES_MAX);
    const struct be_shape *shape = &c->shape;
    uint32_t halves = ratio == 4 ? 2 : 1, kv = shape->head_dim + shape->rope_dim;
    struct be_state *state = &c->states[id];
    *state = (struct be_state){.class = class, .layer = c->op.layer, .ratio = (uint16_t)ratio};
    kv = (kv + (shape->head_dim - shape->rope_dim) / 64 + 7) / 8 * 8;
    switch (class) {
    case BE_CLASS_WINDOW:
        state->rows = shape->page_tokens;
        state->row_bytes = kv;
        break;
    case BE_CLASS_COMP:
        state->rows = shape->page_tokens / ratio;
        state->row_bytes = kv;
        break;
    case BE_CLASS_INDEX:
        state->rows = shape->page_tokens / ratio;
        state->row_bytes = shape->index_dim / 2 + shape->index_dim / 32;
        break;
    case BE_CLASS_TAIL:
        state->rows = halves * ratio + 3; /* no divisor of anything */
        state->row_bytes = halves * shape->head_dim * 8;
        break;
    case BE_CLASS_INDEX_TAIL:
        state->rows = halves * ratio;
        state->row_bytes = halves * shape->index_dim * 8;
        break;
    }
    return id;
}

be_value_id op_value(struct op_case *c, enum be_elem elem, enum be_lead lead, uint32_t outer,
                     uint32_t inner, uint32_t flags)
{
    be_value_id id = (be_value_id)c->program.value_count++;
    ck_assert_uint_lt(id, OP_VALUES_MAX);
    c->values[id] = (struct be_value){
        .elem = elem, .lead = lead, .outer = outer, .inner = inner, .flags = flags};
    c->host[id] = fm_alloc(ROWS_MAX * be_value_row_bytes(&c->values[id]));
    return id;
}

/* ---- access -------------------------------------------------------------------------------- */

const struct be_row *op_rows(const struct op_case *c)
{
    return be_step_rows(c->block);
}

const struct be_seq *op_seqs(const struct op_case *c)
{
    return be_step_seqs(c->block);
}

static void *host_row(const struct op_case *c, be_value_id value, uint32_t row)
{
    return c->host[value] + row * be_value_row_bytes(&c->values[value]);
}

uint16_t *op_bf16(const struct op_case *c, be_value_id value, uint32_t row)
{
    return host_row(c, value, row);
}

float *op_f32(const struct op_case *c, be_value_id value, uint32_t row)
{
    return host_row(c, value, row);
}

int32_t *op_i32(const struct op_case *c, be_value_id value, uint32_t row)
{
    return host_row(c, value, row);
}

static uint32_t cols_of(const struct op_case *c, be_value_id value)
{
    return c->values[value].outer * c->values[value].inner;
}

void op_act(const struct op_case *c, be_value_id value, uint32_t row, float *ret_values,
            uint8_t *ret_scales)
{
    const uint8_t *codes = host_row(c, value, row);
    uint32_t cols = cols_of(c, value);
    for (uint32_t i = 0; i < cols; i++)
        ret_values[i] = fm_e4m3_table[codes[i]];
    memcpy(ret_scales, codes + cols, cols / 128);
}

void op_act_write(const struct op_case *c, be_value_id value, uint32_t row, const uint16_t *x)
{
    uint8_t *codes = host_row(c, value, row);
    uint32_t cols = cols_of(c, value);
    for (uint32_t b = 0; b < cols / 128; b++)
        codes[cols + b] = fm_act_quant(x + b * 128, 128, codes + b * 128);
}

struct eng_ref_weight op_ref_weight(const struct op_case *c, be_weight_id id)
{
    const struct be_weight *weight = &c->weights[id];
    enum eng_format format = weight->format == BE_FORMAT_FP4   ? ENG_FORMAT_FP4
                             : weight->format == BE_FORMAT_FP8 ? ENG_FORMAT_FP8
                                                               : ENG_FORMAT_BF16;
    return (struct eng_ref_weight){.format = format,
                                   .scale_is_f32 = weight->scale_format == BE_SCALE_F32,
                                   .rows = weight->rows,
                                   .cols = weight->cols,
                                   .data = c->weight_data[id],
                                   .scale = c->weight_scales[id]};
}

void op_linear(const struct op_case *c, be_weight_id id, be_value_id plain, be_value_id act,
               uint32_t row, uint16_t *ret_y)
{
    struct eng_ref_weight weight = op_ref_weight(c, id);
    float values[4096];
    uint8_t scales[32];
    struct eng_ref_input input = {.values = values, .stride = weight.cols};
    if (weight.format == ENG_FORMAT_BF16) {
        eng_ref_widen(op_bf16(c, plain, row), weight.cols, values);
    } else {
        op_act(c, act, row, values, scales);
        input.scales = scales;
        input.scale_stride = weight.cols / 128;
    }
    eng_ref_linear_bf16(&weight, &input, 1, ret_y);
}

void op_linear_of(const struct op_case *c, be_weight_id id, const uint16_t *x, uint16_t *ret_y)
{
    struct eng_ref_weight weight = op_ref_weight(c, id);
    float values[4096];
    uint8_t scales[32];
    struct eng_ref_input input = {.values = values, .stride = weight.cols};
    if (weight.format == ENG_FORMAT_BF16) {
        eng_ref_widen(x, weight.cols, values);
    } else {
        eng_ref_act_quant(x, 1, weight.cols, values, scales);
        input.scales = scales;
        input.scale_stride = weight.cols / 128;
    }
    eng_ref_linear_bf16(&weight, &input, 1, ret_y);
}

static uint8_t *image_row(const struct op_case *c, be_state_id id, uint32_t unit, uint32_t row)
{
    const struct be_state *state = &c->states[id];
    enum be_pool pool = be_class_pool(state->class);
    return c->images[pool] + unit * c->unit_bytes[pool] + be_state_offset(&c->model, id) +
           (uint64_t)row * state->row_bytes;
}

uint8_t *op_window_row(const struct op_case *c, be_state_id state, const struct be_seq *seq,
                       uint32_t position)
{
    uint32_t tokens = c->shape.page_tokens;
    uint32_t at = position / tokens - be_step_s_page_first(seq->length_before, tokens);
    uint32_t page = be_step_pages(c->block)[seq->s_first + at];
    return page == 0 ? NULL : image_row(c, state, page, position % tokens);
}

uint8_t *op_entry_row(const struct op_case *c, be_state_id id, const struct be_seq *seq,
                      uint32_t entry)
{
    uint32_t rows = c->states[id].rows;
    return image_row(c, id, be_step_pages(c->block)[seq->g_first + entry / rows], entry % rows);
}

float *op_tail_row(const struct op_case *c, be_state_id id, const struct be_seq *seq,
                   uint32_t position)
{
    return (float *)(void *)image_row(c, id, seq->tail_slot, position % c->states[id].rows);
}

void op_kv_pack(const struct op_case *c, const uint16_t *normed, uint8_t *ret_row)
{
    uint32_t plain = c->shape.head_dim - c->shape.rope_dim, rope = c->shape.rope_dim;
    uint32_t bytes = plain + 2 * rope;
    for (uint32_t b = 0; b < plain / 64; b++)
        ret_row[bytes + b] = fm_act_quant(normed + b * 64, 64, ret_row + b * 64);
    memcpy(ret_row + plain, normed + plain, 2 * rope);
    bytes += plain / 64;
    memset(ret_row + bytes, 0, (bytes + 7) / 8 * 8 - bytes);
}

void op_kv_unpack(const struct op_case *c, const uint8_t *row, uint16_t *ret_kv)
{
    uint32_t plain = c->shape.head_dim - c->shape.rope_dim, rope = c->shape.rope_dim;
    for (uint32_t i = 0; i < plain; i++)
        ret_kv[i] =
            fm_bf16(fm_e4m3_table[row[i]] * fm_ue8m0_product(row[plain + 2 * rope + i / 64], 127));
    memcpy(ret_kv + plain, row + plain, 2 * rope);
}

void op_key_pack(const struct op_case *c, const uint16_t *rotated, uint8_t *ret_row)
{
    uint32_t dim = c->shape.index_dim;
    for (uint32_t b = 0; b < dim / 32; b++) {
        uint8_t codes[32];
        ret_row[dim / 2 + b] = fm_fp4_quant(rotated + b * 32, 32, codes);
        for (uint32_t i = 0; i < 16; i++)
            ret_row[b * 16 + i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
    }
}

void op_key_unpack(const struct op_case *c, const uint8_t *row, uint16_t *ret_key)
{
    uint32_t dim = c->shape.index_dim;
    for (uint32_t i = 0; i < dim; i++)
        ret_key[i] = fm_bf16(fm_e2m1_table[row[i / 2] >> (i % 2 * 4) & 15] *
                             fm_ue8m0_product(row[dim / 2 + i / 32], 127));
}

/* ---- a step -------------------------------------------------------------------------------- */

/* Units 1 .. count - 1 in random order, handed out one by one. */
struct deck {
    uint32_t cards[UNITS_G], count;
};

static void deck_fill(struct op_case *c, struct deck *deck, uint32_t count)
{
    deck->count = 0;
    for (uint32_t unit = 1; unit < count; unit++) {
        uint32_t at = (uint32_t)(op_unit(c) * (deck->count + 1));
        deck->cards[deck->count++] = deck->cards[at];
        deck->cards[at] = unit;
    }
}

static uint32_t deck_take(struct deck *deck)
{
    if (deck->count == 0)
        ck_abort_msg("a step asks for more units than there are");
    return deck->cards[--deck->count];
}

static void random_kv(struct op_case *c, uint8_t *row)
{
    uint16_t kv[1024];
    for (uint32_t i = 0; i < c->shape.head_dim; i++)
        kv[i] = fm_bf16(op_normal(c));
    op_kv_pack(c, kv, row);
}

static void random_key(struct op_case *c, uint8_t *row)
{
    uint16_t key[256];
    for (uint32_t i = 0; i < c->shape.index_dim; i++)
        key[i] = fm_bf16(op_normal(c));
    op_key_pack(c, key, row);
}

/* Rows of the state that the sequence has before the step; everything else stays poisoned. */
static void fill_state(struct op_case *c, be_state_id id, const struct be_seq *seq)
{
    const struct be_state *state = &c->states[id];
    uint32_t length = seq->length_before, behind = fm_min_u32(length, c->shape.window);
    switch (state->class) {
    case BE_CLASS_WINDOW:
        for (uint32_t t = length - behind; t < length; t++) {
            uint8_t *row = op_window_row(c, id, seq, t);
            if (row != NULL)
                random_kv(c, row);
        }
        break;
    case BE_CLASS_COMP:
        for (uint32_t j = 0; j < length / state->ratio; j++)
            random_kv(c, op_entry_row(c, id, seq, j));
        break;
    case BE_CLASS_INDEX:
        for (uint32_t j = 0; j < length / state->ratio; j++)
            random_key(c, op_entry_row(c, id, seq, j));
        break;
    case BE_CLASS_TAIL:
    case BE_CLASS_INDEX_TAIL:
        for (uint32_t t = length - fm_min_u32(length, state->rows); t < length; t++) {
            float *row = op_tail_row(c, id, seq, t);
            for (uint32_t i = 0; i < state->row_bytes / 4; i++)
                row[i] = op_normal(c);
        }
        break;
    }
}

static bool class_in_pool(const struct op_case *c, enum be_pool pool)
{
    return c->unit_bytes[pool] != 0;
}

static void step_build(struct op_case *c, const struct op_step *step)
{
    uint32_t seq_count = step->seq_count, rows_count = 0, tokens = c->shape.page_tokens;
    struct be_row rows[ROWS_MAX];
    struct be_seq seqs[OP_SEQS_MAX] = {{0}};
    struct be_logit logits[ROWS_MAX] = {{0}};
    uint32_t pages[PAGES_MAX], page_count = 0, logit_count = 0, order[OP_SEQS_MAX];
    struct deck decks[BE_POOL_COUNT];
    for (uint32_t i = 0; i < BE_POOL_COUNT; i++)
        deck_fill(c, &decks[i], units[i]);
    for (uint32_t s = 0; s < seq_count; s++) { /* rows of sequences in another order */
        struct be_seq *seq = &seqs[s];
        seq->row_count = c->seq_rows != 0 ? c->seq_rows : step->seqs[s].row_count;
        seq->length_before = step->seqs[s].length_before;
        seq->tail_slot = deck_take(&decks[BE_POOL_T]);
        order[s] = seq_count - 1 - s;
        uint32_t last = (seq->length_before + seq->row_count - 1) / tokens;
        if (class_in_pool(c, BE_POOL_G)) {
            seq->g_first = page_count;
            seq->g_count = last + 1;
            for (uint32_t p = 0; p <= last; p++)
                pages[page_count++] = deck_take(&decks[BE_POOL_G]);
        }
        if (class_in_pool(c, BE_POOL_S)) {
            uint32_t first = be_step_s_page_first(seq->length_before, tokens);
            uint32_t behind = c->shape.window - (c->needs_window ? 0 : 1);
            uint32_t kept = seq->length_before - fm_min_u32(seq->length_before, behind);
            seq->s_first = page_count;
            seq->s_count = last - first + 1;
            for (uint32_t p = first; p <= last; p++) {
                bool is_read = seq->length_before > 0 && p >= kept / tokens &&
                               p <= (seq->length_before - 1) / tokens;
                bool is_kept = is_read || op_unit(c) < 0.7;
                pages[page_count++] = is_kept ? deck_take(&decks[BE_POOL_S]) : 0;
            }
        }
    }
    for (uint32_t i = 0; i < seq_count; i++) {
        struct be_seq *seq = &seqs[order[i]];
        seq->row_first = rows_count;
        for (uint32_t r = 0; r < seq->row_count; r++) {
            bool is_logit = c->all_logits || op_unit(c) < 0.5;
            rows[rows_count++] = (struct be_row){
                .token = (int32_t)(op_unit(c) * c->shape.vocab),
                .position = seq->length_before + r,
                .seq = order[i],
                .logit = is_logit ? (uint16_t)logit_count++ : BE_NO_LOGIT,
            };
        }
    }
    for (uint32_t r = 0; r < rows_count; r++) /* logit rows in the reverse order of rows */
        if (rows[r].logit != BE_NO_LOGIT)
            rows[r].logit = (uint16_t)(logit_count - 1 - rows[r].logit);

    size_t bytes = be_step_bytes(rows_count, seq_count, logit_count, page_count);
    fm_free(c->block);
    c->block = fm_alloc(bytes);
    struct be_step *block = c->block;
    *block = (struct be_step){.number = 1,
                              .row_count = rows_count,
                              .seq_count = seq_count,
                              .logit_count = logit_count,
                              .page_count = page_count};
    memcpy((void *)(uintptr_t)be_step_rows(block), rows, rows_count * sizeof rows[0]);
    memcpy((void *)(uintptr_t)be_step_seqs(block), seqs, seq_count * sizeof seqs[0]);
    memcpy((void *)(uintptr_t)be_step_logits(block), logits, logit_count * sizeof logits[0]);
    memcpy((void *)(uintptr_t)be_step_pages(block), pages, page_count * sizeof pages[0]);
    be_step_seal(block);
}

static uint32_t lead_count(const struct op_case *c, be_value_id value)
{
    switch (c->values[value].lead) {
    case BE_LEAD_ROWS: return c->block->row_count;
    case BE_LEAD_LOGIT_ROWS: return c->block->logit_count;
    case BE_LEAD_SEQS: return c->block->seq_count;
    }
    return 0;
}

static void fill_inputs(struct op_case *c)
{
    for (be_value_id v = 1; v < c->program.value_count; v++) {
        uint32_t cols = cols_of(c, v);
        bool is_input = c->values[v].flags & BE_VALUE_INPUT;
        for (uint32_t r = 0; r < lead_count(c, v); r++) {
            uint16_t x[COLS_MAX];
            for (uint32_t i = 0; i < cols && cols <= COLS_MAX; i++)
                x[i] = fm_bf16(op_normal(c));
            if (!is_input || c->values[v].elem == BE_ELEM_I32)
                memset(host_row(c, v, r), 0, be_value_row_bytes(&c->values[v]));
            else if (c->values[v].elem == BE_ELEM_BF16)
                memcpy(host_row(c, v, r), x, cols * sizeof *x);
            else if (c->values[v].elem == BE_ELEM_ACT)
                op_act_write(c, v, r, x);
            else
                for (uint32_t i = 0; i < cols; i++)
                    op_f32(c, v, r)[i] = op_normal(c);
        }
    }
}

/* ---- devices ------------------------------------------------------------------------------- */

static enum fm_status read_weight(void *context, be_weight_id weight, enum be_part part,
                                  uint32_t row_first, uint32_t row_count, void *target,
                                  struct fm_err *err)
{
    const struct op_case *c = context;
    (void)err;
    uint64_t bytes = be_weight_row_bytes(&c->weights[weight], part);
    ck_assert_uint_le(row_first + row_count, be_weight_part_rows(&c->weights[weight], part));
    const uint8_t *data = part == BE_PART_DATA ? c->weight_data[weight] : c->weight_scales[weight];
    memcpy(target, data + row_first * bytes, row_count * bytes);
    return FM_OK;
}

struct machine {
    char name[64];
    struct be_device *device;
    struct be_exec *exec;
    struct be_event *done;
};

/* Check writes a line to a file for every assertion that holds, hence the ifs. */
static void must(enum fm_status status, const struct fm_err *err)
{
    if (status != FM_OK)
        ck_abort_msg("%s: %s", fm_status_name(status), err->text);
}

static uint64_t differs_at(const uint8_t *a, const uint8_t *b, uint64_t bytes)
{
    uint64_t i = 0;
    if (memcmp(a, b, bytes) == 0)
        return bytes;
    while (a[i] == b[i])
        i++;
    return i;
}

static void machine_open(struct op_case *c, enum cpu_level level, uint32_t threads,
                         struct machine *machine)
{
    struct fm_err err = {0};
    struct be_device_options options = {.threads = threads, .variant = cpu_level_name(level)};
    struct be_reader reader = {.context = c, .read = read_weight};
    struct be_limits limits = {.rows_max = ROWS_MAX,
                               .seqs_max = OP_SEQS_MAX,
                               .logit_rows_max = ROWS_MAX,
                               .pages_max = PAGES_MAX};
    memcpy(limits.units, units, sizeof units);
    (void)snprintf(machine->name, sizeof machine->name, "%s on %u threads", cpu_level_name(level),
                   threads);
    must(be_registry_open("cpu", &options, &machine->device, &err), &err);
    const struct be_ops *ops = machine->device->ops;
    must(ops->weights_load(machine->device, &c->model, &reader, &err), &err);
    must(ops->state_create(machine->device, units, &err), &err);
    must(be_program_check(&c->program, &err), &err);
    must(ops->compile(machine->device, &c->program, &limits, &machine->exec, &err), &err);
    must(ops->event_new(machine->device, &machine->done, &err), &err);
}

static void machine_close(struct machine *machine)
{
    const struct be_ops *ops = machine->device->ops;
    ops->event_free(machine->device, machine->done);
    ops->exec_free(machine->device, machine->exec);
    ops->close(machine->device);
}

static void wait_done(struct machine *machine)
{
    struct fm_err err = {0};
    enum fm_status status = machine->device->ops->event_wait(
        machine->device, machine->done, fm_clock_ns() + 60 * FM_NS_PER_S, &err);
    must(status, &err);
}

/* before: the images of the pools before the step.  Compares with c->host and c->images. */
static void machine_step(struct op_case *c, struct machine *machine, uint32_t step_index,
                         uint8_t *const before[BE_POOL_COUNT])
{
    struct fm_err err = {0};
    const struct be_ops *ops = machine->device->ops;
    for (uint32_t p = 0; p < BE_POOL_COUNT; p++)
        for (uint32_t u = 1; u < units[p] && c->unit_bytes[p] != 0; u++)
            must(ops->page_in(machine->device, (enum be_pool)p, u, before[p] + u * c->unit_bytes[p],
                              NULL, &err),
                 &err);
    for (be_value_id v = 1; v < c->program.value_count; v++)
        if (c->values[v].flags & BE_VALUE_INPUT)
            must(ops->value_write(machine->device, machine->exec, v, 0, lead_count(c, v),
                                  c->host[v], &err),
                 &err);
    must(ops->submit(machine->device, machine->exec, c->block, machine->done, &err), &err);
    wait_done(machine);

    for (be_value_id v = 1; v < c->program.value_count; v++) {
        uint64_t row_bytes = be_value_row_bytes(&c->values[v]);
        uint8_t *row = fm_alloc(row_bytes);
        for (uint32_t r = 0; r < lead_count(c, v) && c->values[v].flags & BE_VALUE_OUTPUT; r++) {
            must(ops->value_read(machine->device, machine->exec, v, r, 1, row, &err), &err);
            const uint8_t *wanted = host_row(c, v, r);
            uint64_t i = differs_at(row, wanted, row_bytes);
            if (i < row_bytes)
                ck_abort_msg("%s, step %u: value %u, row %u, byte %llu is %02x, not %02x",
                             machine->name, step_index, v, r, (unsigned long long)i, row[i],
                             wanted[i]);
        }
        fm_free(row);
    }
    for (uint32_t p = 0; p < BE_POOL_COUNT; p++) {
        uint64_t bytes = c->unit_bytes[p];
        uint8_t *unit = fm_alloc(bytes);
        for (uint32_t u = 0; u < units[p] && bytes != 0; u++) {
            must(ops->page_out(machine->device, (enum be_pool)p, u, unit, machine->done, &err),
                 &err);
            wait_done(machine);
            const uint8_t *wanted = c->images[p] + u * bytes;
            uint64_t i = differs_at(unit, wanted, bytes);
            if (i < bytes)
                ck_abort_msg("%s, step %u: pool %u, unit %u, byte %llu is %02x, not %02x",
                             machine->name, step_index, p, u, (unsigned long long)i, unit[i],
                             wanted[i]);
        }
        fm_free(unit);
    }
}

void op_case_run(struct op_case *c)
{
    struct machine machines[CPU_LEVEL_COUNT * THREADS_MAX];
    uint32_t machine_count = 0;
    uint8_t *before[BE_POOL_COUNT];
    for (uint32_t level = 0; level < CPU_LEVEL_COUNT; level++)
        for (uint32_t threads = 1; threads <= THREADS_MAX; threads++)
            if (cpu_level_is_offered((enum cpu_level)level))
                machine_open(c, (enum cpu_level)level, threads, &machines[machine_count++]);
    for (uint32_t p = 0; p < BE_POOL_COUNT; p++) {
        c->unit_bytes[p] = be_pool_unit_bytes(&c->model, (enum be_pool)p);
        c->images[p] = fm_alloc(units[p] * c->unit_bytes[p]);
        before[p] = fm_alloc(units[p] * c->unit_bytes[p]);
    }

    for (uint32_t i = 0; i < FM_COUNT(steps); i++) {
        step_build(c, &steps[i]);
        for (uint32_t p = 0; p < BE_POOL_COUNT; p++)
            for (uint32_t u = 1; u < units[p]; u++)
                memset(c->images[p] + u * c->unit_bytes[p], 0xff, c->unit_bytes[p]);
        uint64_t mode = fm_numeric_enter();
        for (be_state_id s = 1; s < c->model.state_count; s++)
            for (uint32_t q = 0; q < c->block->seq_count; q++)
                fill_state(c, s, &op_seqs(c)[q]);
        fill_inputs(c);
        if (c->prepare != NULL)
            c->prepare(c);
        for (uint32_t p = 0; p < BE_POOL_COUNT; p++)
            memcpy(before[p], c->images[p], units[p] * c->unit_bytes[p]);
        c->expect(c);
        fm_numeric_leave(mode);
        for (uint32_t m = 0; m < machine_count; m++)
            machine_step(c, &machines[m], i, before);
    }

    for (uint32_t m = 0; m < machine_count; m++)
        machine_close(&machines[m]);
    for (uint32_t p = 0; p < BE_POOL_COUNT; p++) {
        fm_free(c->images[p]);
        fm_free(before[p]);
    }
    for (uint32_t w = 1; w < c->model.weight_count; w++) {
        fm_free(c->weight_data[w]);
        fm_free(c->weight_scales[w]);
    }
    for (uint32_t v = 1; v < c->program.value_count; v++)
        fm_free(c->host[v]);
    fm_free(c->block);
    fm_free(c);
}
