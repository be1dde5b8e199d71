/* shadow.h - what is known of every row of state: who wrote it, and for which tokens.
 *
 * A block names no sequence for longer than a step, and pages are shared, copied and used again.
 * What stays the same is the history: the row of position p is a function of the tokens up to p.
 * So each row keeps a digest of that history and the digest of the history before it, and a reader
 * follows this chain from the end of its sequence back over all rows that it sees.  A page of
 * another sequence, of another place, or of an earlier owner breaks the chain; a page of another
 * sequence with the same tokens does not, and holds the same rows.
 *
 * Reads and writes are those that the program's operations have by their definition, for the rows
 * of the step.  Nothing here looks at the device. */
#ifndef BE_CHECK_SHADOW_H
#define BE_CHECK_SHADOW_H

#include "backends/program.h"

enum shadow_kind {
    SHADOW_EMPTY,   /* zeros, as taken */
    SHADOW_RESET,   /* a tail row after tail_reset */
    SHADOW_WRITTEN, /* by an operation */
    SHADOW_WILD,    /* from the host: any history */
};

struct shadow_row {
    uint64_t digest; /* of the tokens up to and with this row's last position; 0 matches all */
    uint64_t before; /* of the tokens before its first position */
    uint64_t step;   /* serial of the step that wrote it */
    uint16_t op;
    uint8_t kind; /* enum shadow_kind */
};

/* Who touches a unit in the step that is being followed. */
struct shadow_touch {
    uint64_t step;
    uint32_t reader, writer; /* sequence index, SHADOW_NOBODY or SHADOW_MANY */
};

enum { SHADOW_NOBODY = UINT32_MAX, SHADOW_MANY = UINT32_MAX - 1 };

struct shadow_undo {
    struct shadow_row *row, old;
};

/* The rows that one step wrote, oldest first, to be put back should it fail. */
struct shadow_log {
    struct shadow_undo *entries;
    uint32_t count, room;
};

struct shadow {
    const struct be_model *model;
    uint32_t units[BE_POOL_COUNT];
    uint32_t unit_rows[BE_POOL_COUNT]; /* rows of all states in one unit */
    struct shadow_row *rows[BE_POOL_COUNT];
    struct shadow_touch *touches[BE_POOL_COUNT];
    uint32_t *state_row; /* [state_count]: the state's first row in a unit */
};

enum fm_status be_shadow_init(struct shadow *shadow, const struct be_model *model,
                              const uint32_t units[BE_POOL_COUNT],
                              struct fm_err *err) FM_MUST_CHECK;
void be_shadow_done(struct shadow *shadow);

/* Entries that a step of these limits can need in its log. */
uint32_t be_shadow_log_room(const struct be_program *program, const struct be_limits *limits);

/* Follow a step that be_step_check has passed: verify what it reads, note what it writes.  serial
 * ascends from 1.  digests has room for row_count + 1.  FM_DEVICE names operation, layer, page and
 * row; the shadow is as before then. */
enum fm_status be_shadow_step(struct shadow *shadow, const struct be_program *program,
                              const struct be_step *step, uint64_t serial, uint64_t *digests,
                              struct shadow_log *log, struct fm_err *err) FM_MUST_CHECK;

/* Put back what the log says; the log is empty afterwards. */
void be_shadow_undo(struct shadow_log *log);

/* The commands.  The units are in range. */
void be_shadow_copy(struct shadow *shadow, enum be_pool pool, uint32_t source, uint32_t target);
void be_shadow_reset(struct shadow *shadow, uint32_t slot);
void be_shadow_wild(struct shadow *shadow, enum be_pool pool, uint32_t unit);

/* The row numbered `row` (over all states) of a unit. */
static inline struct shadow_row *be_shadow_row(const struct shadow *shadow, enum be_pool pool,
                                               uint32_t unit, uint32_t row)
{
    return &shadow->rows[pool][(size_t)unit * shadow->unit_rows[pool] + row];
}

#endif
