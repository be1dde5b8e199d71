/* step.c - the step block: its size, its seal, and the check that trusts nothing in it.
 *
 * be_step_check is the only thing between a number in a block and an address that a backend
 * computes from it, so every number is compared with its bound before it is used, including those
 * that the check itself uses to find the next array. */
#include <math.h>

#include "backends/base/checked.h"
#include "backends/base/hash.h"
#include "backends/program.h"

size_t be_step_bytes(uint32_t row_count, uint32_t seq_count, uint32_t logit_count,
                     uint32_t page_count)
{
    return sizeof(struct be_step) + (size_t)row_count * sizeof(struct be_row) +
           (size_t)seq_count * sizeof(struct be_seq) +
           (size_t)logit_count * sizeof(struct be_logit) + (size_t)page_count * sizeof(uint32_t);
}

static uint32_t step_crc(const struct be_step *step)
{
    struct be_step header = *step;
    header.crc = 0;
    uint32_t crc = fm_crc32c(0, &header, sizeof(header));
    return fm_crc32c(crc, step + 1, step->bytes - sizeof(header));
}

void be_step_seal(struct be_step *step)
{
    size_t bytes =
        be_step_bytes(step->row_count, step->seq_count, step->logit_count, step->page_count);
    FM_ASSERT(bytes <= UINT32_MAX);
    step->version = BE_STEP_VERSION;
    step->reserved = 0;
    step->bytes = (uint32_t)bytes;
    step->crc = step_crc(step);
}

/* What the program demands of a step, gathered once per check. */
struct needs {
    bool pools[BE_POOL_COUNT]; /* an operation reads or writes state of the pool */
    bool is_block;             /* DSpark: every sequence is one block, all rows have logits */
};

static struct needs program_needs(const struct be_program *program)
{
    struct needs needs = {0};
    for (uint32_t i = 0; i < program->op_count; i++) {
        const struct be_op *op = &program->ops[i];
        for (uint32_t s = 0; s < BE_OP_STATES_MAX; s++) {
            if (op->state[s] != 0)
                needs.pools[be_class_pool(program->model->states[op->state[s]].class)] = true;
        }
        needs.is_block |= op->kind == BE_OP_SPARK_ATTEND;
    }
    return needs;
}

static enum fm_status check_header(const struct be_step *step, size_t bytes,
                                   const struct be_limits *limits, struct fm_err *err)
{
    if (bytes < sizeof(*step) || (uintptr_t)step % 8 != 0)
        return FM_FAIL(err, FM_INVALID, "step block of %zu bytes at %p: no aligned header fits",
                       bytes, (const void *)step);
    if (step->version != BE_STEP_VERSION)
        return FM_FAIL(err, FM_INVALID, "step block has version %u, not %d", step->version,
                       BE_STEP_VERSION);
    if (step->row_count == 0 || step->row_count > limits->rows_max)
        return FM_FAIL(err, FM_INVALID, "step has %u rows, not 1 to %u", step->row_count,
                       limits->rows_max);
    if (step->seq_count == 0 || step->seq_count > limits->seqs_max)
        return FM_FAIL(err, FM_INVALID, "step has %u sequences, not 1 to %u", step->seq_count,
                       limits->seqs_max);
    if (step->logit_count > limits->logit_rows_max)
        return FM_FAIL(err, FM_INVALID, "step has %u logit rows, at most %u fit", step->logit_count,
                       limits->logit_rows_max);
    if (step->page_count > limits->pages_max)
        return FM_FAIL(err, FM_INVALID, "step has %u page numbers, at most %u fit",
                       step->page_count, limits->pages_max);
    size_t expected =
        be_step_bytes(step->row_count, step->seq_count, step->logit_count, step->page_count);
    if (step->bytes != expected || expected > bytes)
        return FM_FAIL(err, FM_INVALID,
                       "step block says %u bytes, its counts ask for %zu, %zu are readable",
                       step->bytes, expected, bytes);
    if (step->reserved != 0)
        return FM_FAIL(err, FM_INVALID, "step block: reserved is %u, not 0", step->reserved);
    uint32_t crc = step_crc(step);
    if (step->crc != crc)
        return FM_FAIL(err, FM_INVALID, "step block has CRC %08x, its bytes give %08x", step->crc,
                       crc);
    return FM_OK;
}

static enum fm_status check_rows(const struct be_step *step, const struct be_program *program,
                                 struct fm_err *err)
{
    const struct be_row *rows = be_step_rows(step);
    const struct be_seq *seqs = be_step_seqs(step);
    uint64_t seen[(BE_NO_LOGIT + 1) / 64] = {0}; /* which logit rows have their row */
    uint32_t logit_count = 0;

    for (uint32_t i = 0; i < step->row_count; i++) {
        const struct be_row *row = &rows[i];
        if (row->token < 0 || (uint32_t)row->token >= program->model->shape.vocab)
            return FM_FAIL(err, FM_INVALID, "row %u has token %d, the vocabulary has %u", i,
                           row->token, program->model->shape.vocab);
        if (row->kind > BE_ROW_REPLAY)
            return FM_FAIL(err, FM_INVALID, "row %u has kind %u, at most %d", i, row->kind,
                           BE_ROW_REPLAY);
        if (row->seq >= step->seq_count)
            return FM_FAIL(err, FM_INVALID, "row %u is of sequence %u, the step has %u", i,
                           row->seq, step->seq_count);
        const struct be_seq *seq = &seqs[row->seq];
        if (i < seq->row_first || i - seq->row_first >= seq->row_count)
            return FM_FAIL(err, FM_INVALID,
                           "row %u is of sequence %u, whose rows are [%u, %u + %u)", i, row->seq,
                           seq->row_first, seq->row_first, seq->row_count);
        if (row->position != (uint64_t)seq->length_before + (i - seq->row_first))
            return FM_FAIL(err, FM_INVALID, "row %u has position %u, not %u + %u", i, row->position,
                           seq->length_before, i - seq->row_first);
        if (row->logit == BE_NO_LOGIT)
            continue;
        if (row->logit >= step->logit_count)
            return FM_FAIL(err, FM_INVALID, "row %u has logit row %u, the step has %u", i,
                           row->logit, step->logit_count);
        uint64_t bit = UINT64_C(1) << (row->logit % 64);
        if (seen[row->logit / 64] & bit)
            return FM_FAIL(err, FM_INVALID, "row %u has logit row %u, which is another row's", i,
                           row->logit);
        seen[row->logit / 64] |= bit;
        logit_count++;
    }
    if (logit_count != step->logit_count)
        return FM_FAIL(err, FM_INVALID, "step has %u logit rows, %u rows name one",
                       step->logit_count, logit_count);
    return FM_OK;
}

/* Every page number of the list is a unit of the pool. */
static enum fm_status check_list(const struct be_step *step, uint32_t seq_index, char pool_name,
                                 uint32_t first, uint32_t count, uint32_t unit_count,
                                 struct fm_err *err)
{
    if ((uint64_t)first + count > step->page_count)
        return FM_FAIL(err, FM_INVALID, "sequence %u has %c pages [%u, %u + %u), the step lists %u",
                       seq_index, pool_name, first, first, count, step->page_count);
    const uint32_t *pages = be_step_pages(step) + first;
    for (uint32_t i = 0; i < count; i++) {
        if (pages[i] != 0 && pages[i] >= unit_count)
            return FM_FAIL(err, FM_INVALID,
                           "sequence %u has %u as number %u of its %c pages, the pool has %u units",
                           seq_index, pages[i], i, pool_name, unit_count);
    }
    return FM_OK;
}

static enum fm_status check_g(const struct be_step *step, uint32_t seq_index,
                              const struct be_shape *shape, struct fm_err *err)
{
    const struct be_seq *seq = &be_step_seqs(step)[seq_index];
    const uint32_t *pages = be_step_pages(step) + seq->g_first;
    uint32_t needed = (seq->length_before + seq->row_count - 1) / shape->page_tokens + 1;
    if (seq->g_count < needed)
        return FM_FAIL(err, FM_INVALID, "sequence %u has %u G pages, %u tokens ask for %u",
                       seq_index, seq->g_count, seq->length_before + seq->row_count, needed);
    for (uint32_t i = 0; i < needed; i++) {
        if (pages[i] == 0)
            return FM_FAIL(err, FM_INVALID, "sequence %u has the null page as its G page %u",
                           seq_index, i);
    }
    return FM_OK;
}

/* The rows of a DSpark block are not stored: its list may end with the last page that is read.  The
 * whole block sees the window of the row before it. */
static enum fm_status check_s(const struct be_step *step, uint32_t seq_index,
                              const struct be_shape *shape, bool is_block, struct fm_err *err)
{
    const struct be_seq *seq = &be_step_seqs(step)[seq_index];
    const uint32_t *pages = be_step_pages(step) + seq->s_first;
    uint32_t page_first = be_step_s_page_first(seq->length_before, shape->page_tokens);
    uint32_t page_last = (seq->length_before + seq->row_count - 1) / shape->page_tokens;
    uint32_t least = page_last - page_first + 1;
    if (is_block)
        least = seq->length_before == 0
                    ? 0
                    : (seq->length_before - 1) / shape->page_tokens - page_first + 1;
    if (seq->s_count < least)
        return FM_FAIL(err, FM_INVALID, "sequence %u has %u S pages, positions %u + %u ask for %u",
                       seq_index, seq->s_count, seq->length_before, seq->row_count, least);
    if (seq->length_before == 0)
        return FM_OK;

    uint32_t behind = fm_min_u32(seq->length_before, shape->window - (is_block ? 0 : 1));
    if (behind == 0)
        return FM_OK;
    uint32_t read_first = (seq->length_before - behind) / shape->page_tokens;
    uint32_t read_last = (seq->length_before - 1) / shape->page_tokens;
    for (uint32_t page = read_first; page <= read_last; page++) {
        if (pages[page - page_first] == 0)
            return FM_FAIL(err, FM_INVALID,
                           "sequence %u has the null page as S page of tokens %u to %u, which "
                           "position %u sees",
                           seq_index, page * shape->page_tokens,
                           (page + 1) * shape->page_tokens - 1, seq->length_before);
    }
    return FM_OK;
}

static enum fm_status check_seq(const struct be_step *step, uint32_t seq_index,
                                const struct be_shape *shape, const struct needs *needs,
                                const struct be_limits *limits, struct fm_err *err)
{
    const struct be_seq *seq = &be_step_seqs(step)[seq_index];
    enum fm_status status;

    if (seq->row_count == 0 || (uint64_t)seq->row_first + seq->row_count > step->row_count)
        return FM_FAIL(err, FM_INVALID, "sequence %u has rows [%u, %u + %u), the step has %u",
                       seq_index, seq->row_first, seq->row_first, seq->row_count, step->row_count);
    if ((uint64_t)seq->length_before + seq->row_count > INT32_MAX)
        return FM_FAIL(err, FM_INVALID, "sequence %u ends at token %u + %u, at most %d", seq_index,
                       seq->length_before, seq->row_count, INT32_MAX);
    if (needs->is_block && seq->row_count != shape->spark_block)
        return FM_FAIL(err, FM_INVALID, "sequence %u has %u rows, a block has %u", seq_index,
                       seq->row_count, shape->spark_block);
    if (seq->tail_slot >= limits->units[BE_POOL_T] && seq->tail_slot != 0)
        return FM_FAIL(err, FM_INVALID, "sequence %u has tail slot %u, the pool has %u units",
                       seq_index, seq->tail_slot, limits->units[BE_POOL_T]);
    if (needs->pools[BE_POOL_T] && seq->tail_slot == 0)
        return FM_FAIL(err, FM_INVALID, "sequence %u has the null slot for its tails", seq_index);

    status =
        check_list(step, seq_index, 'G', seq->g_first, seq->g_count, limits->units[BE_POOL_G], err);
    if (status == FM_OK)
        status = check_list(step, seq_index, 'S', seq->s_first, seq->s_count,
                            limits->units[BE_POOL_S], err);
    if (status == FM_OK && needs->pools[BE_POOL_G])
        status = check_g(step, seq_index, shape, err);
    if (status == FM_OK && needs->pools[BE_POOL_S])
        status = check_s(step, seq_index, shape, needs->is_block, err);
    return status;
}

static enum fm_status check_logits(const struct be_step *step, struct fm_err *err)
{
    const struct be_logit *logits = be_step_logits(step);
    for (uint32_t i = 0; i < step->logit_count; i++) {
        const struct be_logit *logit = &logits[i];
        if (!(logit->temperature >= 0 && isfinite(logit->temperature)) ||
            !(logit->top_p >= 0 && logit->top_p <= 1) || !(logit->min_p >= 0 && logit->min_p <= 1))
            return FM_FAIL(err, FM_INVALID,
                           "logit row %u has temperature %g, top_p %g, min_p %g out of range", i,
                           (double)logit->temperature, (double)logit->top_p, (double)logit->min_p);
        if (logit->flags != 0 || logit->mask_offset != 0)
            return FM_FAIL(err, FM_INVALID,
                           "logit row %u has flags %u and a mask at %u, version %d has none", i,
                           logit->flags, logit->mask_offset, BE_STEP_VERSION);
    }
    return FM_OK;
}

enum fm_status be_step_check(const struct be_step *step, size_t bytes,
                             const struct be_program *program, const struct be_limits *limits,
                             struct fm_err *err)
{
    struct needs needs = program_needs(program);
    enum fm_status status = check_header(step, bytes, limits, err);
    if (status != FM_OK)
        return status;

    uint64_t row_count = 0;
    for (uint32_t i = 0; i < step->seq_count; i++) {
        status = check_seq(step, i, &program->model->shape, &needs, limits, err);
        if (status != FM_OK)
            return status;
        row_count += be_step_seqs(step)[i].row_count;
    }
    /* Each row lies within the sequence that it names; with equal sums no sequence has a row that
     * names another. */
    if (row_count != step->row_count)
        return FM_FAIL(err, FM_INVALID, "step has %u rows, its sequences have %llu",
                       step->row_count, (unsigned long long)row_count);
    status = check_rows(step, program, err);
    if (status == FM_OK)
        status = check_logits(step, err);
    if (status == FM_OK && needs.is_block && step->logit_count != step->row_count)
        status = FM_FAIL(err, FM_INVALID, "step of blocks has %u rows and %u logit rows",
                         step->row_count, step->logit_count);
    return status;
}
