/* shadow.c - following a step through the rows that its operations read and write. */
#include "backends/check/shadow.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"

/* The history of no token at all. */
#define ORIGIN UINT64_C(0x6f726967696e2121)

static uint64_t mix_token(uint64_t digest, uint32_t token)
{
    uint64_t mixed = fm_mix64(digest * UINT64_C(0x9e3779b97f4a7c15) + token + 1);
    return mixed == 0 ? 1 : mixed;
}

static bool matches(uint64_t a, uint64_t b)
{
    return a == 0 || b == 0 || a == b;
}

/* ---- life ---------------------------------------------------------------------------------- */

enum fm_status be_shadow_init(struct shadow *shadow, const struct be_model *model,
                              const uint32_t units[BE_POOL_COUNT], struct fm_err *err)
{
    bool is_whole = true;
    *shadow = (struct shadow){.model = model};
    shadow->state_row = fm_alloc_array(model->state_count + 1, sizeof(uint32_t));
    if (shadow->state_row == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the shadow of %u states", model->state_count);
    for (uint32_t i = 1; i < model->state_count; i++) {
        enum be_pool pool = be_class_pool(model->states[i].class);
        shadow->state_row[i] = shadow->unit_rows[pool];
        shadow->unit_rows[pool] += model->states[i].rows;
    }
    for (int pool = 0; pool < BE_POOL_COUNT; pool++) {
        size_t count = 0;
        shadow->units[pool] = units[pool];
        if (!fm_mul_size(units[pool], shadow->unit_rows[pool], &count))
            is_whole = false;
        else
            shadow->rows[pool] = fm_alloc_array(count, sizeof(struct shadow_row));
        shadow->touches[pool] = fm_alloc_array(units[pool], sizeof(struct shadow_touch));
        is_whole = is_whole && shadow->rows[pool] != NULL && shadow->touches[pool] != NULL;
    }
    if (is_whole)
        return FM_OK;
    be_shadow_done(shadow);
    return FM_FAIL(err, FM_NOMEM, "no memory for the shadow of %u, %u and %u units",
                   units[BE_POOL_G], units[BE_POOL_S], units[BE_POOL_T]);
}

void be_shadow_done(struct shadow *shadow)
{
    for (int pool = 0; pool < BE_POOL_COUNT; pool++) {
        fm_free(shadow->rows[pool]);
        fm_free(shadow->touches[pool]);
    }
    fm_free(shadow->state_row);
    *shadow = (struct shadow){0};
}

uint32_t be_shadow_log_room(const struct be_program *program, const struct be_limits *limits)
{
    uint64_t writes = 0;
    for (uint32_t i = 0; i < program->op_count; i++) {
        for (uint32_t s = 0; s < BE_OP_STATES_MAX; s++)
            writes += (program->ops[i].access[s] & BE_ACCESS_WRITE) != 0;
    }
    return fm_u32(writes * limits->rows_max);
}

void be_shadow_undo(struct shadow_log *log)
{
    while (log->count > 0) {
        struct shadow_undo *entry = &log->entries[--log->count];
        *entry->row = entry->old;
    }
}

void be_shadow_copy(struct shadow *shadow, enum be_pool pool, uint32_t source, uint32_t target)
{
    if (source != target)
        memcpy(be_shadow_row(shadow, pool, target, 0), be_shadow_row(shadow, pool, source, 0),
               shadow->unit_rows[pool] * sizeof(struct shadow_row));
}

static void fill_unit(struct shadow *shadow, enum be_pool pool, uint32_t unit,
                      enum shadow_kind kind)
{
    struct shadow_row *rows = be_shadow_row(shadow, pool, unit, 0);
    for (uint32_t i = 0; i < shadow->unit_rows[pool]; i++)
        rows[i] = (struct shadow_row){.kind = (uint8_t)kind};
}

void be_shadow_reset(struct shadow *shadow, uint32_t slot)
{
    fill_unit(shadow, BE_POOL_T, slot, SHADOW_RESET);
}

void be_shadow_wild(struct shadow *shadow, enum be_pool pool, uint32_t unit)
{
    fill_unit(shadow, pool, unit, SHADOW_WILD);
}

/* ---- following a step ---------------------------------------------------------------------- */

/* One operation of one sequence of the step. */
struct walk {
    struct shadow *shadow;
    const struct be_program *program;
    const struct be_step *step;
    const struct be_seq *seq;
    const struct be_op *op;
    uint32_t seq_index, op_index;
    uint64_t serial;
    uint64_t *digests; /* [i]: history before row i of the sequence; [row_count]: at its end */
    struct shadow_log *log;
    struct fm_err *err;
};

/* A row of a state, at the place where the step's lists put it. */
struct place {
    be_state_id state;
    enum be_pool pool;
    uint32_t unit, row; /* row within the state */
};

static const char *const pool_names[BE_POOL_COUNT] = {"G page", "S page", "tail slot"};

/* "operation 14 (ATTEND, layer 3): sequence 0 <what> row 5 of S page 7, position 133: <why>" */
static enum fm_status bad_row(const struct walk *walk, const struct place *place, uint32_t position,
                              const char *what, const char *why)
{
    return FM_FAIL(walk->err, FM_DEVICE,
                   "step %llu, operation %u (%s, layer %u): sequence %u %s row %u of %s %u, "
                   "position %u: %s",
                   (unsigned long long)walk->step->number, walk->op_index,
                   be_op_name(walk->op->kind), walk->op->layer, walk->seq_index, what, place->row,
                   pool_names[place->pool], place->unit, position, why);
}

static struct shadow_row *row_at(const struct walk *walk, const struct place *place)
{
    const struct shadow *shadow = walk->shadow;
    FM_ASSERT(place->unit < shadow->units[place->pool]);
    return be_shadow_row(shadow, place->pool, place->unit,
                         shadow->state_row[place->state] + place->row);
}

static struct place window_place(const struct walk *walk, be_state_id state, uint32_t position)
{
    uint32_t page_tokens = walk->program->model->shape.page_tokens;
    const uint32_t *pages = be_step_pages(walk->step) + walk->seq->s_first;
    uint32_t first = be_step_s_page_first(walk->seq->length_before, page_tokens);
    uint32_t index = position / page_tokens - first;
    return (struct place){
        .state = state,
        .pool = BE_POOL_S,
        .unit = index < walk->seq->s_count ? pages[index] : 0,
        .row = position % page_tokens,
    };
}

static struct place entry_place(const struct walk *walk, be_state_id state, uint32_t entry)
{
    uint32_t rows = walk->program->model->states[state].rows;
    const uint32_t *pages = be_step_pages(walk->step) + walk->seq->g_first;
    FM_ASSERT(entry / rows < walk->seq->g_count);
    return (struct place){
        .state = state, .pool = BE_POOL_G, .unit = pages[entry / rows], .row = entry % rows};
}

/* position may be negative: rows before the first token. */
static struct place tail_place(const struct walk *walk, be_state_id state, int64_t position)
{
    int64_t rows = walk->program->model->states[state].rows;
    return (struct place){
        .state = state,
        .pool = BE_POOL_T,
        .unit = walk->seq->tail_slot,
        .row = (uint32_t)(((position % rows) + rows) % rows),
    };
}

static struct shadow_touch *touch_at(const struct walk *walk, const struct place *place)
{
    struct shadow_touch *touch = &walk->shadow->touches[place->pool][place->unit];
    if (touch->step != walk->serial)
        *touch = (struct shadow_touch){
            .step = walk->serial, .reader = SHADOW_NOBODY, .writer = SHADOW_NOBODY};
    return touch;
}

static enum fm_status note_read(const struct walk *walk, const struct place *place,
                                uint32_t position)
{
    struct shadow_touch *touch = touch_at(walk, place);
    if (touch->writer != SHADOW_NOBODY && touch->writer != walk->seq_index)
        return bad_row(walk, place, position, "reads",
                       "another sequence of the step writes this unit");
    if (touch->reader == SHADOW_NOBODY)
        touch->reader = walk->seq_index;
    else if (touch->reader != walk->seq_index)
        touch->reader = SHADOW_MANY;
    return FM_OK;
}

static enum fm_status write_row(const struct walk *walk, const struct place *place,
                                uint32_t position, uint64_t digest, uint64_t before)
{
    struct shadow_touch *touch = touch_at(walk, place);
    struct shadow_row *row = row_at(walk, place);
    if (place->unit == 0)
        return bad_row(walk, place, position, "writes", "this is the null unit");
    if ((touch->writer != SHADOW_NOBODY && touch->writer != walk->seq_index) ||
        (touch->reader != SHADOW_NOBODY && touch->reader != walk->seq_index))
        return bad_row(walk, place, position, "writes",
                       "another sequence of the step uses this unit");
    touch->writer = walk->seq_index;
    FM_ASSERT(walk->log->count < walk->log->room);
    walk->log->entries[walk->log->count++] = (struct shadow_undo){.row = row, .old = *row};
    *row = (struct shadow_row){
        .digest = digest,
        .before = before,
        .step = walk->serial,
        .op = (uint16_t)walk->op_index,
        .kind = SHADOW_WRITTEN,
    };
    return FM_OK;
}

/* The row must be there and end with the history `digest`; *ret_before is the one it began with. */
static enum fm_status read_row(const struct walk *walk, const struct place *place,
                               uint32_t position, uint64_t digest, uint64_t *ret_before)
{
    enum fm_status status = note_read(walk, place, position);
    if (status != FM_OK)
        return status;
    const struct shadow_row *row = row_at(walk, place);
    if (row->kind != SHADOW_WRITTEN && row->kind != SHADOW_WILD)
        return bad_row(walk, place, position, "reads", "no step wrote it");
    if (place->unit == 0)
        return bad_row(walk, place, position, "reads", "this is the null unit");
    if (!matches(row->digest, digest))
        return bad_row(walk, place, position, "reads", "no step wrote it for this sequence");
    *ret_before = row->before;
    return FM_OK;
}

/* Rows [first, length_before), newest first. */
static enum fm_status read_window(const struct walk *walk, be_state_id state, uint32_t first)
{
    uint64_t digest = walk->digests[0];
    for (uint32_t position = walk->seq->length_before; position-- > first;) {
        struct place place = window_place(walk, state, position);
        enum fm_status status = read_row(walk, &place, position, digest, &digest);
        if (status != FM_OK)
            return status;
    }
    return FM_OK;
}

static enum fm_status write_window(const struct walk *walk, be_state_id state)
{
    for (uint32_t i = 0; i < walk->seq->row_count; i++) {
        uint32_t position = walk->seq->length_before + i;
        struct place place = window_place(walk, state, position);
        if (place.unit == 0)
            continue; /* the row is not kept */
        enum fm_status status =
            write_row(walk, &place, position, walk->digests[i + 1], walk->digests[i]);
        if (status != FM_OK)
            return status;
    }
    return FM_OK;
}

/* The tail that feeds an entry class of a layer. */
static be_state_id tail_of(const struct be_model *model, be_state_id entries)
{
    enum be_class class =
        model->states[entries].class == BE_CLASS_COMP ? BE_CLASS_TAIL : BE_CLASS_INDEX_TAIL;
    for (uint32_t i = 1; i < model->state_count; i++) {
        if (model->states[i].class == class &&
            model->states[i].layer == model->states[entries].layer)
            return (be_state_id)i;
    }
    FM_UNREACHABLE();
    return 0;
}

/* The history at the end of the last complete group: known, if that is in this step or just before
 * it, else what the first row of the open group began with. */
static enum fm_status history_of_groups(const struct walk *walk, be_state_id entries,
                                        uint32_t entry_count, uint64_t *ret_digest)
{
    uint32_t end = entry_count * walk->op->ratio;
    uint32_t length = walk->seq->length_before;
    if (end >= length) {
        *ret_digest = walk->digests[end - length];
        return FM_OK;
    }
    struct place place = tail_place(walk, tail_of(walk->program->model, entries), end);
    const struct shadow_row *row = row_at(walk, &place);
    if (row->kind != SHADOW_WRITTEN && row->kind != SHADOW_WILD)
        return bad_row(walk, &place, end, "needs", "no step wrote it");
    *ret_digest = row->before;
    return FM_OK;
}

/* Every entry that the last row of the step sees, newest first. */
static enum fm_status read_entries(const struct walk *walk, be_state_id state)
{
    uint32_t ratio = walk->op->ratio;
    uint32_t count = (walk->seq->length_before + walk->seq->row_count) / ratio;
    uint64_t digest = 0;
    if (count == 0)
        return FM_OK;
    enum fm_status status = history_of_groups(walk, state, count, &digest);
    for (uint32_t entry = count; status == FM_OK && entry-- > 0;) {
        struct place place = entry_place(walk, state, entry);
        status = read_row(walk, &place, entry * ratio, digest, &digest);
        if (status == FM_OK && entry == 0 && !matches(digest, ORIGIN))
            status = bad_row(walk, &place, 0, "reads", "it does not begin with the first token");
    }
    return status;
}

/* The rows of the ring that entry `entry` pools, those of this step among them: newest first.
 * *ret_before is the history in front of the entry's own group. */
static enum fm_status read_ring(const struct walk *walk, be_state_id tail, uint32_t entry,
                                uint64_t *ret_before)
{
    int64_t ratio = walk->op->ratio;
    int64_t first = (entry - (ratio == 4 ? 1 : 0)) * ratio; /* overlapping groups: the one before */
    int64_t last = (entry + 1) * ratio - 1;
    uint64_t digest = walk->digests[last + 1 - walk->seq->length_before];
    enum fm_status status = FM_OK;

    for (int64_t position = last; status == FM_OK && position >= first; position--) {
        struct place place = tail_place(walk, tail, position);
        if (position < 0) {
            if (row_at(walk, &place)->kind != SHADOW_RESET)
                return bad_row(walk, &place, 0, "reads, as one before the first token,",
                               "the slot was not reset");
            continue;
        }
        status = read_row(walk, &place, (uint32_t)position, digest, &digest);
        if (position == entry * ratio)
            *ret_before = digest;
    }
    return status;
}

/* Row by row: a ring row, and the entry of a group that ends here. */
static enum fm_status compress(const struct walk *walk)
{
    be_state_id entries = walk->op->state[0];
    be_state_id tail = walk->op->state[1];
    enum fm_status status = FM_OK;

    for (uint32_t i = 0; i < walk->seq->row_count && status == FM_OK; i++) {
        uint32_t position = walk->seq->length_before + i;
        struct place place = tail_place(walk, tail, position);
        status = write_row(walk, &place, position, walk->digests[i + 1], walk->digests[i]);
        if (status != FM_OK || (position + 1) % walk->op->ratio != 0)
            continue;
        uint32_t entry = position / walk->op->ratio;
        uint64_t before = 0;
        status = read_ring(walk, tail, entry, &before);
        if (status != FM_OK)
            break;
        place = entry_place(walk, entries, entry);
        status = write_row(walk, &place, entry * walk->op->ratio, walk->digests[i + 1], before);
    }
    return status;
}

static enum fm_status follow_op(const struct walk *walk)
{
    const struct be_shape *shape = &walk->program->model->shape;
    uint32_t length = walk->seq->length_before;
    enum fm_status status = FM_OK;

    switch (walk->op->kind) {
    case BE_OP_KV_STORE:
        return walk->op->state[0] == 0 ? FM_OK : write_window(walk, walk->op->state[0]);
    case BE_OP_SPARK_CONTEXT:
        for (uint32_t i = 0; i < shape->stage_count && status == FM_OK; i++)
            status = write_window(walk, walk->op->state[i]);
        return status;
    case BE_OP_COMPRESS:
    case BE_OP_COMPRESS_INDEX: return compress(walk);
    case BE_OP_INDEX_SELECT: return read_entries(walk, walk->op->state[0]);
    case BE_OP_ATTEND:
        status =
            read_window(walk, walk->op->state[0], length - fm_min_u32(length, shape->window - 1));
        if (status == FM_OK && walk->op->state[1] != 0)
            status = read_entries(walk, walk->op->state[1]);
        return status;
    case BE_OP_SPARK_ATTEND: /* the block sees what its first row's predecessor sees */
        return read_window(walk, walk->op->state[0], length - fm_min_u32(length, shape->window));
    default: return FM_OK;
    }
}

/* The history of the sequence before the step, from the first state that the program reads. */
static enum fm_status find_history(struct walk *walk, uint64_t *ret_digest)
{
    uint32_t length = walk->seq->length_before;
    if (length == 0) {
        *ret_digest = ORIGIN;
        return FM_OK;
    }
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (uint32_t i = 0; i < walk->program->op_count; i++) {
            struct place place;
            walk->op_index = i;
            walk->op = &walk->program->ops[i];
            if (pass == 0 && walk->op->kind == BE_OP_COMPRESS)
                place = tail_place(walk, walk->op->state[1], (int64_t)length - 1);
            else if (pass == 1 &&
                     (walk->op->kind == BE_OP_ATTEND || walk->op->kind == BE_OP_SPARK_ATTEND))
                place = window_place(walk, walk->op->state[0], length - 1);
            else
                continue;
            uint64_t before = 0;
            enum fm_status status = read_row(walk, &place, length - 1, 0, &before);
            if (status == FM_OK)
                *ret_digest = row_at(walk, &place)->digest;
            return status;
        }
    }
    *ret_digest = 0; /* the program reads no state */
    return FM_OK;
}

/* A sequence that begins must find the slot as tail_reset leaves it. */
static enum fm_status check_fresh_slot(struct walk *walk)
{
    const struct shadow *shadow = walk->shadow;
    if (walk->seq->length_before != 0)
        return FM_OK;
    for (uint32_t i = 0; i < walk->program->op_count; i++) {
        walk->op_index = i;
        walk->op = &walk->program->ops[i];
        if (walk->op->kind != BE_OP_COMPRESS && walk->op->kind != BE_OP_COMPRESS_INDEX)
            continue;
        be_state_id tail = walk->op->state[1];
        for (uint32_t row = 0; row < shadow->model->states[tail].rows; row++) {
            struct place place = tail_place(walk, tail, row);
            if (row_at(walk, &place)->kind != SHADOW_RESET)
                return bad_row(walk, &place, 0, "begins with", "the slot was not reset");
        }
    }
    return FM_OK;
}

static enum fm_status follow_seq(struct walk *walk)
{
    const struct be_row *rows = be_step_rows(walk->step) + walk->seq->row_first;
    enum fm_status status = check_fresh_slot(walk);
    if (status == FM_OK)
        status = find_history(walk, &walk->digests[0]);
    if (status != FM_OK)
        return status;
    for (uint32_t i = 0; i < walk->seq->row_count; i++)
        walk->digests[i + 1] = mix_token(walk->digests[i] == 0 ? walk->serial : walk->digests[i],
                                         (uint32_t)rows[i].token);
    for (uint32_t i = 0; i < walk->program->op_count && status == FM_OK; i++) {
        walk->op_index = i;
        walk->op = &walk->program->ops[i];
        status = follow_op(walk);
    }
    return status;
}

enum fm_status be_shadow_step(struct shadow *shadow, const struct be_program *program,
                              const struct be_step *step, uint64_t serial, uint64_t *digests,
                              struct shadow_log *log, struct fm_err *err)
{
    struct walk walk = {
        .shadow = shadow,
        .program = program,
        .step = step,
        .serial = serial,
        .digests = digests,
        .log = log,
        .err = err,
    };
    enum fm_status status = FM_OK;

    FM_ASSERT(log->count == 0 && serial != 0);
    for (uint32_t i = 0; i < step->seq_count && status == FM_OK; i++) {
        walk.seq_index = i;
        walk.seq = &be_step_seqs(step)[i];
        status = follow_seq(&walk);
    }
    if (status != FM_OK)
        be_shadow_undo(log);
    return status;
}
