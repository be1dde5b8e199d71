/* names.h - one name for each tensor, whoever saved the file.
 *
 * Serves weights.c.  The released checkpoints use the official names; recent transformers save the
 * same tensors under the names of their modules, and converters put "model." in front. */
#ifndef ENG_NAMES_H
#define ENG_NAMES_H

#include <stdbool.h>
#include <stddef.h>

/* The official name of `name` into target[target_bytes]; an official name gives itself.  The names
 * of expert stacks ("layers.3.ffn.experts.gate_up_proj") stay stacks.  false: it does not fit. */
bool eng_name_official(const char *name, char *target, size_t target_bytes);

#endif
