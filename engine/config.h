/* config.h - the members of one JSON object by name, with errors that name the key.
 *
 * Serves hparams.c.  A table refers to the text, which outlives it; it allocates nothing.  A member
 * that is null counts as absent: files that were saved by a library carry many of them.  Errors say
 * which key, what was found, and what is expected. */
#ifndef ENG_CONFIG_H
#define ENG_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/json.h"
#include "backends/base/status.h"

enum { ENG_CONFIG_MEMBERS_MAX = 256 };

struct eng_config_member {
    struct fm_json_text key;
    struct fm_json_text value; /* raw */
};

struct eng_config {
    char path[64]; /* "" or "rope_scaling.": in front of the key in messages */
    uint32_t count;
    struct eng_config_member members[ENG_CONFIG_MEMBERS_MAX];
};

/* A member that was found, with the name it has in the file. */
struct eng_config_value {
    char key[128]; /* with the path; cut where too long */
    struct fm_json_text raw;
};

/* Read text[0 .. bytes) as one object.  FM_CORRUPT if it is none, holds a key twice, or has more
 * than ENG_CONFIG_MEMBERS_MAX members.  `path` is at most 60 bytes. */
enum fm_status eng_config_init(struct eng_config *config, const char *path, const char *text,
                               size_t bytes, struct fm_err *err) FM_MUST_CHECK;

/* The member `key`, or else `alias` (may be NULL).  false: absent, or null. */
bool eng_config_find(const struct eng_config *config, const char *key, const char *alias,
                     struct eng_config_value *ret_value);

/* The first member whose name begins with `prefix` and which is not null, or false. */
bool eng_config_prefix_find(const struct eng_config *config, const char *prefix,
                            struct eng_config_value *ret_value);

/* A value as an object of its own. */
enum fm_status eng_config_object(const struct eng_config_value *value,
                                 struct eng_config *ret_config, struct fm_err *err) FM_MUST_CHECK;

/* A whole number in [min, max]; a number in [min, max]; FM_CORRUPT if it is not. */
enum fm_status eng_config_u32(const struct eng_config_value *value, uint32_t min, uint32_t max,
                              uint32_t *ret_number, struct fm_err *err) FM_MUST_CHECK;
enum fm_status eng_config_f64(const struct eng_config_value *value, double min, double max,
                              double *ret_number, struct fm_err *err) FM_MUST_CHECK;

/* An array of 1 .. count_max whole numbers in [0, max]. */
enum fm_status eng_config_u32_array(const struct eng_config_value *value, uint32_t count_max,
                                    uint32_t max, uint32_t *ret_numbers, uint32_t *ret_count,
                                    struct fm_err *err) FM_MUST_CHECK;

/* An array of 1 .. count_max strings, each of which is one of names[0 .. name_count); the answers
 * are indices in names. */
struct eng_config_words {
    const char *const *names;
    uint32_t name_count;
    uint32_t count_max;
};
enum fm_status eng_config_word_array(const struct eng_config_value *value,
                                     const struct eng_config_words *words, uint32_t *ret_indices,
                                     uint32_t *ret_count, struct fm_err *err) FM_MUST_CHECK;

/* Is the value that string? */
bool eng_config_is(const struct eng_config_value *value, const char *text);

/* Is the raw text of the value that (numbers, true, false)? */
bool eng_config_is_raw(const struct eng_config_value *value, const char *raw);

/* The value for a message: at most 48 bytes, blanks for control characters.  Returns `target`. */
const char *eng_config_show(const struct eng_config_value *value, char target[64]);

/* FM_CORRUPT: "path.key" is missing. */
enum fm_status eng_config_missing(const struct eng_config *config, const char *key,
                                  struct fm_err *err);

#endif
