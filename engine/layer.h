/* layer.h - one layer of the model, backbone or draft stage, as operations.  Private to
 * engine/program.c and engine/draft.c. */
#ifndef ENG_LAYER_H
#define ENG_LAYER_H

#include "engine/builder.h"

/* What a layer or stage is made of, wherever it stands. */
struct eng_layer_plan {
    uint32_t layer; /* number in the program: draft stages are L, L+1, ... */
    uint32_t ratio;
    const char *prefix; /* "layers.3." */
    bool is_hashed;     /* experts by token id */
    bool is_block;      /* DSpark: the rows are a block that is not stored */
    be_state_id window, comp, index, tail, index_tail;
    be_weight_id wkv, kv_norm; /* 0: not added to the weights yet */
};

/* One layer: streams in, streams out. */
be_value_id eng_layer_build(struct eng_builder *builder, const struct eng_layer_plan *plan,
                            be_value_id streams, struct eng_layer_values *ret_values);

/* HEAD over the tensors "<prefix>hc_head_fn" and so on; *ret_hidden may be NULL. */
be_value_id eng_head_build(struct eng_builder *builder, const char *prefix, uint32_t layer,
                           be_value_id streams, be_value_id *ret_hidden);

#endif
