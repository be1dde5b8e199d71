/* golden.h - the committed vectors under tests/golden, read by tests. */
#ifndef TESTS_GOLDEN_H
#define TESTS_GOLDEN_H

#include <stddef.h>
#include <stdint.h>

#include "backends/base/buf.h"
#include "backends/base/json.h"
#include "engine/text.h"

/* The text of tests/golden/<name>; a failed check if it cannot be read.  Kept until exit. */
struct eng_slice golden_file(const char *name);

/* The value of `key` in an object, which must be there. */
struct eng_slice golden_member(struct eng_slice json, const char *key);

/* The characters of a JSON string; NUL-terminated in out, which is cleared before. */
void golden_string(struct eng_slice json, struct fm_buf *out);

/* The ids in a JSON array of numbers. */
void golden_ids(struct eng_slice json, struct eng_tokens *out);

/* The items of an array, one after the other: start with {0}.  false at the end. */
struct golden_list {
    struct fm_json reader;
    uint32_t index; /* of the item given out last, from 1 */
};
bool golden_next(struct golden_list *list, struct eng_slice array, struct eng_slice *ret_item);

/* The tokenizer of the released models (129,280 ids), unpacked and opened once per process. */
const struct eng_text *golden_text(void);

/* The tokenizer of the bundled model in conf/model (4,096 ids), opened once per process. */
const struct eng_text *golden_small_text(void);

#endif
