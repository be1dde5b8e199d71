/* builder.h - tables that grow while the model is stated: weights, states, values, operations.
 *
 * A failure is kept in `status` and makes every later call do nothing, so that program.c,
 * layer.c and draft.c read like the model and look at the outcome once.  Private to those.
 *
 * Ids that the functions give are indices in the tables; 0 is "none", also after a failure. */
#ifndef ENG_BUILDER_H
#define ENG_BUILDER_H

#include "engine/program.h"

struct eng_builder {
    const struct eng_hparams *hparams;
    const struct eng_weights *tensors;
    const struct be_model *model; /* its shape is complete, its tables are filled in at the end */
    enum fm_status status;
    struct fm_err *err;

    /* Shared by the programs. */
    struct be_weight *weights;
    struct eng_weight_source *sources; /* beside weights */
    uint32_t weight_count, weight_room, source_room;
    struct be_state *states;
    uint32_t state_count, state_room;
    be_weight_id embed, head;

    /* Of the program that is being stated; eng_builder_finish moves them out. */
    struct be_value *values;
    uint32_t value_count, value_room;
    struct be_op *ops;
    uint32_t op_count, op_room;
    uint32_t *edges;
    uint32_t edge_count, edge_room;
    uint32_t value_flags; /* of every value that an operation writes */
};

void eng_builder_init(struct eng_builder *builder, const struct eng_hparams *hparams,
                      const struct eng_weights *tensors, const struct be_model *model,
                      struct fm_err *err);
void eng_builder_done(struct eng_builder *builder);

/* The tensor of that official name, with its ".scale" where the format has one. */
be_weight_id eng_builder_weight(struct eng_builder *builder, const char *format, ...)
    FM_PRINTF(2, 3);

/* Does the weight take the quantised form of its input? */
bool eng_builder_is_quantised(const struct eng_builder *builder, be_weight_id weight);

be_state_id eng_builder_state(struct eng_builder *builder, enum be_class class, uint32_t layer,
                              uint32_t ratio, uint32_t rows, uint32_t row_bytes);

be_value_id eng_builder_value(struct eng_builder *builder, enum be_elem elem, enum be_lead lead,
                              uint32_t outer, uint32_t inner);
be_value_id eng_builder_input(struct eng_builder *builder, enum be_elem elem, uint32_t outer,
                              uint32_t inner);
void eng_builder_keep(struct eng_builder *builder, be_value_id value); /* make it an OUTPUT */

/* A new operation at the end; never NULL, good until the next call. */
struct be_op *eng_builder_op(struct eng_builder *builder, enum be_op_kind kind, uint32_t layer,
                             uint32_t ratio);

/* Put the form that the weight takes into in[slot] (bf16) or in[slot + 1] (act). */
void eng_builder_form(struct eng_builder *builder, struct be_op *op, uint32_t slot,
                      be_weight_id weight, be_value_id plain, be_value_id act);

void eng_builder_access(struct be_op *op, uint32_t slot, be_state_id state, unsigned access);

/* Write down the edges that values and states ask for, without those that others imply, and move
 * values, operations and edges into *ret_program. */
void eng_builder_finish(struct eng_builder *builder, enum be_program_kind kind,
                        struct be_program *ret_program);

#endif
