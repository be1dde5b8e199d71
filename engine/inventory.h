/* inventory.h - every tensor that a model of given parameters has, with its shape and role.
 *
 * The one place that knows the checkpoint's layout: the loader checks files against it, and the
 * maker of small test models writes what it says. */
#ifndef ENG_INVENTORY_H
#define ENG_INVENTORY_H

#include <stdint.h>

#include "backends/base/status.h"
#include "engine/hparams.h"

/* What a tensor is, which decides in which types it may be stored.  Names of linears end in
 * ".weight"; a linear in FP8 or FP4 has a scale beside it, which the inventory does not list. */
enum eng_role {
    ENG_ROLE_NONE,       /* not part of the model */
    ENG_ROLE_BF16,       /* embedding, head, norms, gates, compressors */
    ENG_ROLE_F32,        /* hyper-connections, sinks, biases */
    ENG_ROLE_LINEAR,     /* in linear_format */
    ENG_ROLE_LINEAR_OUT, /* wo_a: in linear_format or BF16, its input is never quantised */
    ENG_ROLE_EXPERT,     /* in expert_format */
    ENG_ROLE_EXPERT_IDS, /* I64, the expert table of a hash layer */
    ENG_ROLE_SCALE,      /* F8_E8M0 or F32, beside a linear */
};

struct eng_inventory_item {
    const char *name; /* official; valid during the call */
    enum eng_role role;
    uint32_t rank;    /* 1 or 2 */
    uint64_t dims[2]; /* in elements; 0 behind the rank */
};

/* Anything but FM_OK ends the visit, which then returns it. */
typedef enum fm_status (*eng_inventory_visitor)(void *context,
                                                const struct eng_inventory_item *item,
                                                struct fm_err *err);

/* Call the visitor for each tensor in the order of computation: embedding, layers, head, draft. */
enum fm_status eng_inventory_visit(const struct eng_hparams *hparams, eng_inventory_visitor visitor,
                                   void *context, struct fm_err *err) FM_MUST_CHECK;

/* The format in which linears of that role are stored (LINEAR, LINEAR_OUT, EXPERT). */
enum eng_format eng_inventory_format(const struct eng_hparams *hparams, enum eng_role role);

#endif
