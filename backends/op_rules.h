/* op_rules.h - what each kind of operation takes and gives, slot by slot, as a table.
 *
 * The comment above enum be_op_kind in program.h, in a form that code can walk: whether a slot must
 * be filled, its element, lead and dims, and which outputs may arrive in it.  Private to
 * backends/: program_check.c walks it. */
#ifndef BE_OP_RULES_H
#define BE_OP_RULES_H

#include "backends/program.h"

/* Dims of slots, resolved against the model's shape and the operation's ratio. */
enum be_dim {
    BE_DIM_1,
    BE_DIM_3,
    BE_DIM_D,
    BE_DIM_N,
    BE_DIM_ND,
    BE_DIM_HC, /* rows of fn: pre, post and comb */
    BE_DIM_Q,
    BE_DIM_HEAD,
    BE_DIM_H,
    BE_DIM_HEADS,    /* H * d */
    BE_DIM_GO,       /* G * O */
    BE_DIM_GROUP_IN, /* H * d / G */
    BE_DIM_HI,
    BE_DIM_DI,
    BE_DIM_INDEX_HEADS, /* Hi * di */
    BE_DIM_TOPK,
    BE_DIM_E,
    BE_DIM_K,
    BE_DIM_I,
    BE_DIM_V,
    BE_DIM_B,
    BE_DIM_RATIO,
    BE_DIM_COMP,       /* cf * d */
    BE_DIM_INDEX_COMP, /* cf * di */
    BE_DIM_TAPS,       /* D * number of taps */
    BE_DIM_RANK,
    BE_DIM_CONFIDENCE, /* D + rank */
};

/* When a slot must be filled; otherwise it must be 0, except under MAYBE, PLAIN and ACT. */
enum be_need {
    BE_NEED_NONE,
    BE_NEED_ALWAYS,
    BE_NEED_MAYBE,
    BE_NEED_PLAIN,  /* if weight slot `of` is BF16 */
    BE_NEED_ACT,    /* if weight slot `of` is FP8 or FP4 */
    BE_NEED_RATIO,  /* if the layer compresses */
    BE_NEED_SELECT, /* if the layer has an indexer */
    BE_NEED_STAGE,  /* if there are more than `of` draft stages */
};

enum { BE_PORTS_MAX = 3, BE_RULE_BF16 = 1, BE_RULE_F32 = 2, BE_RULE_I64 = 4, BE_RULE_LINEAR = 8 };

/* An output slot of a kind of operation, as one number; 0 is none. */
#define BE_PORT(kind, slot) (uint8_t)(1 + (kind)*BE_OP_OUT_MAX + (slot))

struct be_value_rule {
    uint8_t need, elem, lead, outer, inner, of;
    uint8_t from[BE_PORTS_MAX]; /* inputs: who may have written it */
};

struct be_weight_rule {
    uint8_t need, rows, cols, formats, of;
};

struct be_state_rule {
    uint8_t need, class, access, of;
};

struct be_op_rule {
    const char *name;
    struct be_value_rule in[BE_OP_IN_MAX], out[BE_OP_OUT_MAX];
    struct be_weight_rule weight[BE_OP_WEIGHTS_MAX];
    struct be_state_rule state[BE_OP_STATES_MAX];
};

extern const struct be_op_rule be_op_rules[BE_OP_KIND_COUNT];

/* What the dim is for this operation of a model of this shape. */
uint64_t be_dim_value(const struct be_shape *shape, const struct be_op *op, enum be_dim dim);

#endif
