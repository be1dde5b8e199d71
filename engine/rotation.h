/* rotation.h - the part of a configuration that says how queries and keys are rotated.
 *
 * Serves hparams.c: three spellings of one set of numbers, and the tables of inverse frequencies,
 * bit for bit those of the published code. */
#ifndef ENG_ROTATION_H
#define ENG_ROTATION_H

#include "backends/base/status.h"

struct eng_config;
struct eng_hparams;

/* Fill in rope_dim (head_dim is known already), both thetas and the yarn_* fields. */
enum fm_status eng_rotation_read(const struct eng_config *config, struct eng_hparams *hparams,
                                 struct fm_err *err) FM_MUST_CHECK;

/* Fill in inv_plain and inv_yarn from the rest. */
void eng_rotation_tables_set(struct eng_hparams *hparams);

#endif
