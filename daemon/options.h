/* options.h - the command line: what to do, and where settings come from. */
#ifndef SRV_OPTIONS_H
#define SRV_OPTIONS_H

#include <stdint.h>

#include "backends/base/status.h"
#include "daemon/config.h"

enum srv_action {
    SRV_SERVE,
    SRV_HELP,
    SRV_VERSION_SHOW,
    SRV_CHECK_CONFIG,
    SRV_PRINT_CONFIG,
    SRV_SAMPLE_CONFIG,
    SRV_CAPABILITIES,
    SRV_HASH_KEY,
};

enum { SRV_OPTIONS_MAX = 256 };

struct srv_options {
    enum srv_action action;
    const char *key_name; /* of SRV_HASH_KEY */
    const char *files[SRV_OPTIONS_MAX];
    const char *overrides[SRV_OPTIONS_MAX];
    uint32_t file_count, override_count;
};

/* argv stays the caller's and must outlive the options.  FM_INVALID: the message says what is
 * wrong with which argument. */
enum fm_status srv_options_parse(int argc, char **argv, struct srv_options *ret_options,
                                 struct fm_err *err) FM_MUST_CHECK;

/* The sources of these options and of the process's environment. */
struct srv_config_sources srv_options_sources(const struct srv_options *options);

/* Do an action that serves nothing; returns the exit status.  config is NULL for those that need
 * none. */
int srv_options_act(const struct srv_options *options, const struct srv_config *config);

#endif
