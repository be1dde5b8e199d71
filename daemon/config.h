/* config.h - the settings: one table (conf/options.def), read once, never written again.
 *
 * Order, later wins: defaults, files (--config, in the order given), environment (FATHOM_HTTP_LISTEN
 * for http.listen), --set.  An unknown name, a value that does not parse or is out of range, and a
 * name twice in one source are errors that name the place.  A reload reads all of it again. */
#ifndef SRV_CONFIG_H
#define SRV_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "backends/base/buf.h"
#include "backends/base/status.h"

/* Immutable once loaded.  The count is the main thread's. */
struct srv_config {
    uint32_t references;
#define OPT_GROUP(title)
#define OPT_U64(field, name, unit, value, min, max, reload, help) uint64_t field;
#define OPT_F64(field, name, unit, value, min, max, reload, help) double field;
#define OPT_BOOL(field, name, value, reload, help) bool field;
#define OPT_TEXT(field, name, value, bytes_max, reload, help) const char *field;
#define OPT_WORD(field, name, value, words, reload, help) uint32_t field;
#include "conf/options.def"
#undef OPT_GROUP
#undef OPT_U64
#undef OPT_F64
#undef OPT_BOOL
#undef OPT_TEXT
#undef OPT_WORD
};

/* Values of the OPT_WORD fields, in the order of their words. */
enum { SRV_HALF_CLOSE_CANCEL, SRV_HALF_CLOSE_TOLERATE };
enum { SRV_OVERFLOW_CLAMP, SRV_OVERFLOW_REJECT };
enum { SRV_REASONING_CONTENT, SRV_REASONING_REASONING, SRV_REASONING_BOTH };

/* Where settings come from, apart from the defaults.  Arrays and strings outlive the loads. */
struct srv_config_sources {
    const char *const *files;
    uint32_t file_count;
    char *const *environment;     /* "NAME=value", NULL at the end; NULL: none */
    const char *const *overrides; /* "key=value" of --set */
    uint32_t override_count;
};

/* All settings, with one reference for the caller.  FM_INVALID: the message begins with the place,
 * "fathomd.conf:12: ", "environment: " or "--set: ". */
enum fm_status srv_config_load(const struct srv_config_sources *sources,
                               struct srv_config **ret_config, struct fm_err *err) FM_MUST_CHECK;

/* Main thread.  Put frees with the last reference; NULL is allowed. */
struct srv_config *srv_config_take(struct srv_config *config);
void srv_config_put(struct srv_config *config);

/* A name whose values differ and that a reload cannot change, or NULL.  Call again with *cursor as
 * it was left to get the next one; start with 0. */
const char *srv_config_needs_restart(const struct srv_config *before,
                                     const struct srv_config *after, uint32_t *cursor);

/* The text of a small file that an operator wrote, at most 1 MiB and without a NUL byte; fm_free. */
enum fm_status srv_config_text(const char *path, char **ret_text, struct fm_err *err) FM_MUST_CHECK;

/* --help: one line and a sentence per setting. */
void srv_config_help(struct fm_buf *out);

/* --print-config: `name = value` of every setting; can be read back. */
void srv_config_print(const struct srv_config *config, struct fm_buf *out);

/* conf/fathomd.conf: every setting with its explanation, commented out at its default. */
void srv_config_sample(struct fm_buf *out);

#endif
