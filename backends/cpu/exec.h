/* exec.h - a compiled program: operations cut into stages, stages gathered into phases.
 *
 * A stage of an operation is work that splits into items which do not depend on one another; the
 * next stage needs all of it.  An operation's stages take consecutive phases, beginning with the
 * first that all operations it comes after have left.  The team runs phase by phase with a barrier
 * behind each; within a phase every member takes its share of the items of each stage.  Which
 * member computes an item has no influence on its bits.
 *
 * Values and scratch have one address for the life of the program, from the phases in which they
 * are alive.  Compressor tails are written by a last phase of their own (commit), so that a step
 * that fails leaves everything before its rows as it was (R4).
 *
 * Built by compile.c, run by run.c on the device thread. */
#ifndef CPU_EXEC_H
#define CPU_EXEC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "backends/backend.h"
#include "backends/cpu/kern.h"
#include "backends/cpu/memory.h"
#include "backends/cpu/pack.h"
#include "backends/cpu/state.h"
#include "backends/cpu/team.h"

enum { CPU_SCRATCH_MAX = 6, CPU_FOREVER = UINT32_MAX };

struct cpu_step;
struct cpu_op;

/* What one member needs for itself while it runs an item; nothing survives the item but x. */
struct cpu_worker {
    uint32_t member;
    float *x;          /* inputs of a linear, spread */
    uint8_t *x_scales; /* gathered scales */
    float *y;          /* [KERN_TOKENS, 64] */
    uint8_t *own;      /* op->worker_bytes of the operation */
};

struct cpu_range {
    uint32_t first, end;
};

struct cpu_stage {
    /* How many items this step has; the same answer on every member of the team. */
    uint32_t (*items)(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage);
    void (*run)(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage,
                struct cpu_range items, struct cpu_worker *worker);
    bool is_dynamic; /* items of unequal cost: members take one after the other */
};

/* How an operation is computed.  Stage s is stages[s % period]. */
struct cpu_kind {
    const struct cpu_stage *stages;
    uint32_t period;
    const struct cpu_stage *commit; /* runs behind all phases, or NULL */
    /* Fill in stage_count (else period), scratch_bytes, is_scratch_kept, worker_bytes and the
     * largest linear.  FM_UNSUPPORTED for what the kernels cannot do. */
    enum fm_status (*plan)(const struct be_exec *exec, struct cpu_op *op, struct fm_err *err);
};

const struct cpu_kind *cpu_kind_get(enum be_op_kind kind);

/* The place of a value: ACT as bf16 values of the e4m3 grid and a scale byte per 128. */
struct cpu_value {
    struct be_value value;
    uint32_t cols; /* outer * inner */
    uint32_t rows; /* the most that a step can have */
    uint8_t *data;
    uint8_t *scales; /* ACT: [rows, cols / 128] */
};

struct cpu_op {
    struct be_op op;
    const struct cpu_kind *kind;
    uint32_t first_phase, stage_count;
    const struct cpu_value *in[BE_OP_IN_MAX], *out[BE_OP_OUT_MAX]; /* NULL: none */
    const struct cpu_weight *weight[BE_OP_WEIGHTS_MAX];            /* NULL: none */
    uint64_t state_offset[BE_OP_STATES_MAX];                       /* in a unit */
    const struct be_state *state[BE_OP_STATES_MAX];                /* NULL: none */
    uint64_t scratch_bytes[CPU_SCRATCH_MAX];
    bool is_scratch_kept[CPU_SCRATCH_MAX]; /* until the commit */
    void *scratch[CPU_SCRATCH_MAX];
    uint64_t worker_bytes;
    uint32_t linear_cols; /* of its widest linear */
};

struct cpu_task {
    const struct cpu_op *op;
    uint32_t stage;
    _Atomic uint32_t next; /* dynamic stages: the next item; set to 0 before a step */
};

struct cpu_phase {
    uint32_t task_first, task_count;
};

/* How many steps may be in the hands of a device: one that runs and those behind it. */
enum { CPU_STEPS_MAX = 3 };

struct be_exec {
    const struct cpu_kern *kern;
    const struct be_model *model;
    const struct cpu_pack *pack;
    const struct cpu_state *state;
    struct cpu_team *team;
    struct be_program program; /* with its own copy of the tables */
    struct be_limits limits;

    struct cpu_value *values; /* by be_value_id */
    struct cpu_op *ops;
    struct cpu_task *tasks;
    struct cpu_phase *phases;
    uint32_t phase_count;
    struct cpu_task *commits;
    uint32_t commit_count;

    struct cpu_memory arena; /* values and scratch */
    struct cpu_memory tables;
    uint32_t *logit_rows;             /* [logit_rows_max] row of each logit row */
    float *sines[2], *cosines[2];     /* [rows_max, R / 2]: plain, yarn */
    const float *absent_k, *absent_g; /* a raw row before position 0 */
    struct cpu_worker workers[CPU_TEAM_MAX];

    uint8_t *blocks[CPU_STEPS_MAX]; /* copies of step blocks */
    uint32_t block_next;
    uint64_t last_command; /* number of the newest queued command that uses this exec */
};

/* One step while it runs: read-only for the team. */
struct cpu_step {
    struct be_exec *exec;
    const struct cpu_kern *kern;
    const struct be_shape *shape;
    const struct be_row *rows;
    const struct be_seq *seqs;
    const uint32_t *pages;
    uint32_t row_count, seq_count, logit_count;
    uint32_t phase_end; /* phases to run: all, but where a test makes the step fail */
    bool is_committed;  /* false: leave the tails alone */
};

/* compile.c */
enum fm_status cpu_compile(const struct be_program *program, const struct be_limits *limits,
                           struct be_exec *exec, struct fm_err *err) FM_MUST_CHECK;
void cpu_compile_undo(struct be_exec *exec);

/* run.c.  The block has been checked.  FM_IO if fm_fault_arm("cpu step", n) said so: the step has
 * stopped half way. */
enum fm_status cpu_run(struct be_exec *exec, const struct be_step *block, struct fm_err *err);

/* ---- for operations ------------------------------------------------------------------------ */

static inline uint16_t *cpu_bf16(const struct cpu_value *value, uint64_t row)
{
    return (uint16_t *)(void *)value->data + row * value->cols;
}

static inline float *cpu_f32(const struct cpu_value *value, uint64_t row)
{
    return (float *)(void *)value->data + row * value->cols;
}

static inline int32_t *cpu_i32(const struct cpu_value *value, uint64_t row)
{
    return (int32_t *)(void *)value->data + row * value->cols;
}

static inline uint8_t *cpu_scales(const struct cpu_value *value, uint64_t row)
{
    return value->scales + row * (value->cols / KERN_BLOCK);
}

/* Sines and cosines of the row's position: the layer's table, the plain one at ratio 0. */
static inline const float *cpu_sines(const struct cpu_step *step, uint32_t ratio, uint32_t row)
{
    return step->exec->sines[ratio != 0] + (uint64_t)row * (step->shape->rope_dim / 2);
}

static inline const float *cpu_cosines(const struct cpu_step *step, uint32_t ratio, uint32_t row)
{
    return step->exec->cosines[ratio != 0] + (uint64_t)row * (step->shape->rope_dim / 2);
}

/* The window row of position `position` of the sequence, or NULL where it is not kept. */
uint8_t *cpu_window_row(const struct cpu_step *step, const struct be_seq *seq,
                        const struct be_state *state, uint64_t offset, uint32_t position);

/* Compressed entry or index key `entry` of the sequence. */
uint8_t *cpu_entry_row(const struct cpu_step *step, const struct be_seq *seq,
                       const struct be_state *state, uint64_t offset, uint32_t entry);

/* Entries of the ratio that the step completes, over all sequences, and the one of a number. */
struct cpu_entry {
    uint32_t seq, index;
};
uint32_t cpu_entry_count(const struct cpu_step *step, uint32_t ratio);
struct cpu_entry cpu_entry_find(const struct cpu_step *step, uint32_t ratio, uint32_t number);

/* Items that several kinds have. */
uint32_t cpu_items_rows(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage);
uint32_t cpu_items_logit_rows(const struct cpu_step *step, const struct cpu_op *op, uint32_t stage);

#endif
