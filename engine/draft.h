/* draft.h - the draft stages, stated: MTP and DSpark.  Private to engine/program.c. */
#ifndef ENG_DRAFT_H
#define ENG_DRAFT_H

#include "engine/layer.h"

/* The end of FORWARD under DSpark: the rows that the stages see.  taps [target_count]; plans
 * [stage_count] get the weights that the stages share with it. */
void eng_draft_context_build(struct eng_builder *builder, const be_value_id *taps,
                             struct eng_layer_plan *plans);

/* The DRAFT program; plans [stage_count].  Fills in everything of *ret_draft but the be_program. */
void eng_draft_build(struct eng_builder *builder, const struct eng_layer_plan *plans,
                     struct eng_layer_values *layers, struct eng_program *ret_draft);

#endif
