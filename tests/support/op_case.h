/* op_case.h - one operation on every instruction level and number of threads of the CPU backend,
 * against an expectation that engine/ref computes.
 *
 * A case is a model with the few weights and states that the operation needs, filled from a seed,
 * and a program of that one operation whose inputs are INPUT values.  For each of a list of steps
 * (several sequences, page numbers in random order, rows that must not be read poisoned with NaN
 * codes) the expectation is computed once, then compared byte for byte with what every device
 * gives: outputs, and all pages and slots of all pools. */
#ifndef TESTS_OP_CASE_H
#define TESTS_OP_CASE_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/backend.h"
#include "engine/ref/linear.h"

enum { OP_VALUES_MAX = 16, OP_WEIGHTS_MAX = 64, OP_STATES_MAX = 8, OP_SEQS_MAX = 8 };

/* What a step holds, sequence by sequence. */
struct op_step {
    uint32_t seq_count;
    struct {
        uint32_t length_before, row_count;
    } seqs[OP_SEQS_MAX];
};

struct op_case {
    uint64_t seed, draws;
    struct be_shape shape;
    struct be_model model;
    struct be_program program;
    struct be_weight weights[OP_WEIGHTS_MAX];
    uint8_t *weight_data[OP_WEIGHTS_MAX], *weight_scales[OP_WEIGHTS_MAX];
    struct be_state states[OP_STATES_MAX];
    struct be_value values[OP_VALUES_MAX];
    struct be_op op;
    bool all_logits;   /* every row has a logit row; else about every second */
    bool needs_window; /* the page of position length_before - window is read, too */
    uint32_t seq_rows; /* other than 0: every sequence has that many rows */

    /* Of the current step.  Inputs are filled in (i32 with zeros, for `prepare` to change); the
     * expectation writes the outputs and the units of images that the operation writes. */
    struct be_step *block;
    uint8_t *host[OP_VALUES_MAX]; /* canonical rows */
    uint8_t *images[BE_POOL_COUNT];
    uint64_t unit_bytes[BE_POOL_COUNT];

    void (*prepare)(struct op_case *c); /* or NULL: after the inputs are filled */
    void (*expect)(struct op_case *c);
};

/* The shape of the small test model; window 16, pages of 128. */
struct be_shape op_shape_tiny(void);

/* An empty case; the arrays of the struct live as long as the test (never freed before). */
struct op_case *op_case_new(const struct be_shape *shape, uint64_t seed);

/* Random tensors in the format of the checkpoint, with the scale of a trained model. */
be_weight_id op_weight(struct op_case *c, enum be_format format, enum be_scale_format scale,
                       uint32_t rows, uint32_t cols);
/* Of the layer that c->op has. */
be_state_id op_state(struct op_case *c, enum be_class class, uint32_t ratio);
be_value_id op_value(struct op_case *c, enum be_elem elem, enum be_lead lead, uint32_t outer,
                     uint32_t inner, uint32_t flags);

/* Run all steps on all devices.  Fails the test at the first byte that differs. */
void op_case_run(struct op_case *c);

/* ---- for expectations ---------------------------------------------------------------------- */

const struct be_row *op_rows(const struct op_case *c);
const struct be_seq *op_seqs(const struct op_case *c);
uint16_t *op_bf16(const struct op_case *c, be_value_id value, uint32_t row);
float *op_f32(const struct op_case *c, be_value_id value, uint32_t row);
int32_t *op_i32(const struct op_case *c, be_value_id value, uint32_t row);

/* An ACT row as the reference's linears take it: values [cols], scales [cols / 128]. */
void op_act(const struct op_case *c, be_value_id value, uint32_t row, float *ret_values,
            uint8_t *ret_scales);
/* act_quant of x [cols] as a canonical ACT row. */
void op_act_write(const struct op_case *c, be_value_id value, uint32_t row, const uint16_t *x);

struct eng_ref_weight op_ref_weight(const struct op_case *c, be_weight_id weight);

/* bf( w x ) of one token: x is the ACT value `act` where the weight is quantised, else `plain`. */
void op_linear(const struct op_case *c, be_weight_id weight, be_value_id plain, be_value_id act,
               uint32_t row, uint16_t *ret_y);
/* bf( w act_quant(x) ), or bf( w x ) where the weight is BF16. */
void op_linear_of(const struct op_case *c, be_weight_id weight, const uint16_t *x, uint16_t *ret_y);

/* The row of a state in the expected images: window position, or entry; NULL if not kept. */
uint8_t *op_window_row(const struct op_case *c, be_state_id state, const struct be_seq *seq,
                       uint32_t position);
uint8_t *op_entry_row(const struct op_case *c, be_state_id state, const struct be_seq *seq,
                      uint32_t entry);
/* Raw row of a tail: k, then g. */
float *op_tail_row(const struct op_case *c, be_state_id state, const struct be_seq *seq,
                   uint32_t position);

/* Canonical rows: of a simulated kv or entry, of a simulated index key, and back. */
void op_kv_pack(const struct op_case *c, const uint16_t *normed, uint8_t *ret_row);
void op_kv_unpack(const struct op_case *c, const uint8_t *row, uint16_t *ret_kv);
void op_key_pack(const struct op_case *c, const uint16_t *rotated, uint8_t *ret_row);
void op_key_unpack(const struct op_case *c, const uint8_t *row, uint16_t *ret_key);

/* Random numbers of the case: uniform in [0, 1), and roughly normal. */
double op_unit(struct op_case *c);
float op_normal(struct op_case *c);

#endif
