/* options.c - the command line; see options.h. */
#include "daemon/options.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"
#include "daemon/auth.h"
#include "daemon/http.h"
#include "daemon/version.h"

extern char **environ;

static const char usage[] =
    "fathomd " SRV_VERSION " - serves DeepSeek-V4 models over the OpenAI API\n"
    "\n"
    "  fathomd [--config FILE]... [--set NAME=VALUE]...    serve\n"
    "  fathomd --check-config ...     read the settings, say what is wrong with them\n"
    "  fathomd --print-config ...     print all settings as they are in effect\n"
    "  fathomd --sample-config        print all settings with their explanations\n"
    "  fathomd --capabilities         print what this program and this machine can do\n"
    "  fathomd --hash-key NAME        read an API key from standard input, print its line for\n"
    "                                 the file of auth.keys_file\n"
    "  fathomd --version, --help\n"
    "\n"
    "Settings, later wins: defaults, --config files, environment (FATHOM_HTTP_LISTEN for\n"
    "http.listen), --set.  SIGHUP reads them again; SIGTERM finishes what runs, a second one ends "
    "now.\n";

static enum fm_status set_action(struct srv_options *options, enum srv_action action,
                                 const char *argument, struct fm_err *err)
{
    if (options->action != SRV_SERVE)
        return FM_FAIL(err, FM_INVALID, "'%.64s' comes after another action", argument);
    options->action = action;
    return FM_OK;
}

/* The value of argv[*at] that begins with `name`: behind '=', or the next argument. */
static const char *value_of(const char *name, int argc, char **argv, int *at)
{
    size_t length = strlen(name);
    if (strncmp(argv[*at], name, length) != 0)
        return NULL;
    if (argv[*at][length] == '=')
        return argv[*at] + length + 1;
    if (argv[*at][length] != '\0')
        return NULL;
    return *at + 1 < argc ? argv[++*at] : NULL;
}

enum fm_status srv_options_parse(int argc, char **argv, struct srv_options *ret_options,
                                 struct fm_err *err)
{
    static const struct {
        const char *name;
        enum srv_action action;
    } actions[] = {
        {"--help", SRV_HELP},
        {"--version", SRV_VERSION_SHOW},
        {"--check-config", SRV_CHECK_CONFIG},
        {"--print-config", SRV_PRINT_CONFIG},
        {"--sample-config", SRV_SAMPLE_CONFIG},
        {"--capabilities", SRV_CAPABILITIES},
    };
    struct srv_options options = {.action = SRV_SERVE};
    for (int i = 1; i < argc; i++) {
        const char *argument = argv[i], *value;
        enum fm_status status = FM_MISS;
        for (size_t a = 0; a < FM_COUNT(actions); a++)
            if (strcmp(argument, actions[a].name) == 0)
                status = set_action(&options, actions[a].action, argument, err);
        if (status == FM_OK)
            continue;
        if (status != FM_MISS)
            return status;
        if (options.file_count == SRV_OPTIONS_MAX || options.override_count == SRV_OPTIONS_MAX)
            return FM_FAIL(err, FM_LIMIT, "more than %d arguments of a kind", SRV_OPTIONS_MAX - 1);
        if ((value = value_of("--config", argc, argv, &i)) != NULL) {
            options.files[options.file_count++] = value;
        } else if ((value = value_of("--set", argc, argv, &i)) != NULL) {
            options.overrides[options.override_count++] = value;
        } else if ((value = value_of("--hash-key", argc, argv, &i)) != NULL) {
            status = set_action(&options, SRV_HASH_KEY, argument, err);
            if (status != FM_OK)
                return status;
            options.key_name = value;
        } else {
            return FM_FAIL(err, FM_INVALID, "'%.64s' is no argument, or lacks its value (--help)",
                           argument);
        }
    }
    *ret_options = options;
    return FM_OK;
}

struct srv_config_sources srv_options_sources(const struct srv_options *options)
{
    return (struct srv_config_sources){.files = options->files,
                                       .file_count = options->file_count,
                                       .environment = environ,
                                       .overrides = options->overrides,
                                       .override_count = options->override_count};
}

/* ---- actions --------------------------------------------------------------------------------- */

static int print(struct fm_buf *text)
{
    bool is_printed = !text->is_broken &&
                      fwrite(text->data, 1, text->length, stdout) == text->length &&
                      fflush(stdout) == 0;
    fm_buf_done(text);
    return is_printed ? 0 : 1;
}

static int hash_key(const char *name, struct fm_buf *out)
{
    char secret[SRV_KEY_BYTES_MAX + 2];
    if (fgets(secret, sizeof secret, stdin) == NULL)
        secret[0] = '\0';
    size_t length = strcspn(secret, "\r\n");
    if (length < 8 || length > SRV_KEY_BYTES_MAX) {
        (void)fprintf(stderr, "fathomd: the key has %zu bytes, expected 8 to %d\n", length,
                      SRV_KEY_BYTES_MAX);
        return 2;
    }
    srv_key_line(name, secret, length, out);
    fm_wipe(secret, sizeof secret);
    return print(out);
}

static int capabilities(struct fm_buf *out)
{
    struct utsname kernel = {0};
    (void)uname(&kernel);
    (void)fm_buf_printf(out, "version         %s\n", SRV_VERSION);
    (void)fm_buf_printf(out, "kernel          %s %s %s\n", kernel.sysname, kernel.release,
                        kernel.machine);
    (void)fm_buf_printf(out, "cpus            %ld online\n", sysconf(_SC_NPROCESSORS_ONLN));
    (void)fm_buf_printf(out, "memory          %.1f GiB\n",
                        (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) /
                            1073741824.0);
    (void)fm_buf_printf(out, "libmicrohttpd   %s\n", srv_http_library());
    return print(out);
}

int srv_options_act(const struct srv_options *options, const struct srv_config *config)
{
    struct fm_buf out;
    fm_buf_init(&out, 1048576);
    switch (options->action) {
    case SRV_HELP:
        (void)fm_buf_puts(&out, usage);
        srv_config_help(&out);
        return print(&out);
    case SRV_VERSION_SHOW: (void)fm_buf_puts(&out, "fathomd " SRV_VERSION "\n"); return print(&out);
    case SRV_CHECK_CONFIG:
        FM_ASSERT(config != NULL);
        (void)fm_buf_puts(&out, "the settings are sound\n");
        return print(&out);
    case SRV_PRINT_CONFIG:
        FM_ASSERT(config != NULL);
        srv_config_print(config, &out);
        return print(&out);
    case SRV_SAMPLE_CONFIG: srv_config_sample(&out); return print(&out);
    case SRV_CAPABILITIES: return capabilities(&out);
    case SRV_HASH_KEY: return hash_key(options->key_name, &out);
    case SRV_SERVE: break;
    }
    FM_UNREACHABLE();
}
