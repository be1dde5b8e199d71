/* config.c - the parser, the checks and the printers of settings, all over one table; see config.h.
 *
 * Defaults are text like everything else and take the same way in, so a default that is out of
 * its own range cannot exist. */
#include "daemon/config.h"

#include <stddef.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/file.h"
#include "backends/base/mem.h"

enum { FILE_BYTES_MAX = 1048576, VALUE_BYTES_MAX = 4096, ENV_NAME_BYTES = 80 };

enum kind { KIND_GROUP, KIND_U64, KIND_F64, KIND_BOOL, KIND_TEXT, KIND_WORD };

struct option {
    enum kind kind;
    const char *name; /* of a group: its title */
    const char *unit;
    const char *value; /* the default, as text */
    const char *words;
    const char *help;
    size_t offset;
    uint64_t min, max; /* of U64; max of TEXT in bytes */
    double low, high;  /* of F64 */
    bool is_reloadable;
};

enum { RESTART, RELOAD };

#define AT(field) offsetof(struct srv_config, field)
#define OPT_GROUP(title) {.kind = KIND_GROUP, .name = (title)},
#define OPT_U64(field, key, in, standard, least, most, when, text)                                 \
    {.kind = KIND_U64,                                                                             \
     .name = (key),                                                                                \
     .unit = (in),                                                                                 \
     .value = #standard,                                                                           \
     .help = (text),                                                                               \
     .offset = AT(field),                                                                          \
     .min = (least),                                                                               \
     .max = (most),                                                                                \
     .is_reloadable = (when) == RELOAD},
#define OPT_F64(field, key, in, standard, least, most, when, text)                                 \
    {.kind = KIND_F64,                                                                             \
     .name = (key),                                                                                \
     .unit = (in),                                                                                 \
     .value = #standard,                                                                           \
     .help = (text),                                                                               \
     .offset = AT(field),                                                                          \
     .low = (least),                                                                               \
     .high = (most),                                                                               \
     .is_reloadable = (when) == RELOAD},
#define OPT_BOOL(field, key, standard, when, text)                                                 \
    {.kind = KIND_BOOL,                                                                            \
     .name = (key),                                                                                \
     .unit = "true or false",                                                                      \
     .value = #standard,                                                                           \
     .help = (text),                                                                               \
     .offset = AT(field),                                                                          \
     .is_reloadable = (when) == RELOAD},
#define OPT_TEXT(field, key, standard, most, when, text)                                           \
    {.kind = KIND_TEXT,                                                                            \
     .name = (key),                                                                                \
     .unit = "text",                                                                               \
     .value = (standard),                                                                          \
     .help = (text),                                                                               \
     .offset = AT(field),                                                                          \
     .max = (most),                                                                                \
     .is_reloadable = (when) == RELOAD},
#define OPT_WORD(field, key, standard, choice, when, text)                                         \
    {.kind = KIND_WORD,                                                                            \
     .name = (key),                                                                                \
     .unit = "word",                                                                               \
     .value = (standard),                                                                          \
     .words = (choice),                                                                            \
     .help = (text),                                                                               \
     .offset = AT(field),                                                                          \
     .is_reloadable = (when) == RELOAD},

static const struct option options[] = {
#include "conf/options.def"
};

enum { OPTION_COUNT = FM_COUNT(options) };

/* One source: what it has set already, to find a name that comes twice. */
struct source {
    bool is_seen[OPTION_COUNT];
};

static void *field_of(struct srv_config *config, const struct option *option)
{
    return (char *)config + option->offset;
}

static const void *field_at(const struct srv_config *config, const struct option *option)
{
    return (const char *)config + option->offset;
}

/* ---- values ---------------------------------------------------------------------------------- */

/* A number with K, M, G, T (powers of 1024, an "iB" or "B" behind allowed) where the unit is bytes. */
static bool parse_u64(const struct option *option, const char *text, uint64_t *ret_value)
{
    char digits[32];
    uint64_t unit = 1;
    size_t length = strlen(text);
    if (strcmp(option->unit, "bytes") == 0 && length > 0 && length < sizeof digits) {
        static const char letters[] = "KMGT";
        size_t letter_at = strcspn(text, letters);
        if (letter_at < length) {
            const char *rest = text + letter_at + 1;
            if (*rest != '\0' && strcmp(rest, "iB") != 0 && strcmp(rest, "B") != 0)
                return false;
            const char *letter = strchr(letters, text[letter_at]);
            FM_ASSERT(letter != NULL);
            unit = UINT64_C(1) << (10 * (unsigned)(letter - letters + 1));
            memcpy(digits, text, letter_at);
            digits[letter_at] = '\0';
            text = digits;
        }
    }
    uint64_t value;
    if (!fm_parse_u64(text, 0, UINT64_MAX, &value) || !fm_mul_u64(value, unit, &value))
        return false;
    *ret_value = value;
    return true;
}

static bool parse_word(const char *words, const char *text, uint32_t *ret_index)
{
    size_t length = strlen(text);
    uint32_t index = 0;
    for (const char *at = words;; index++) {
        size_t bytes = strcspn(at, "|");
        if (bytes == length && memcmp(at, text, bytes) == 0) {
            *ret_index = index;
            return true;
        }
        if (at[bytes] == '\0')
            return false;
        at += bytes + 1;
    }
}

static enum fm_status set_text(struct srv_config *config, const struct option *option,
                               const char *text, struct fm_err *err)
{
    size_t length = strlen(text);
    if (length > option->max)
        return FM_FAIL(err, FM_INVALID, "%s has %zu bytes, at most %llu fit", option->name, length,
                       (unsigned long long)option->max);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < 0x20 || text[i] == 0x7f)
            return FM_FAIL(err, FM_INVALID, "%s holds a control character", option->name);
    char *copy = fm_strdup(text);
    if (copy == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for %s", option->name);
    char **field = field_of(config, option);
    fm_free(*field);
    *field = copy;
    return FM_OK;
}

static enum fm_status set_number(struct srv_config *config, const struct option *option,
                                 const char *text, struct fm_err *err)
{
    if (option->kind == KIND_U64) {
        uint64_t value;
        if (!parse_u64(option, text, &value))
            return FM_FAIL(err, FM_INVALID, "%s is '%.64s', expected a whole number (%s)",
                           option->name, text, option->unit);
        if (value < option->min || value > option->max)
            return FM_FAIL(err, FM_INVALID, "%s is %llu, expected %llu to %llu %s", option->name,
                           (unsigned long long)value, (unsigned long long)option->min,
                           (unsigned long long)option->max, option->unit);
        *(uint64_t *)field_of(config, option) = value;
        return FM_OK;
    }
    double value;
    if (!fm_parse_f64(text, -1e300, 1e300, &value))
        return FM_FAIL(err, FM_INVALID, "%s is '%.64s', expected a number (%s)", option->name, text,
                       option->unit);
    if (!(value >= option->low && value <= option->high))
        return FM_FAIL(err, FM_INVALID, "%s is %g, expected %g to %g %s", option->name, value,
                       option->low, option->high, option->unit);
    *(double *)field_of(config, option) = value;
    return FM_OK;
}

static enum fm_status set_value(struct srv_config *config, const struct option *option,
                                const char *text, struct fm_err *err)
{
    switch (option->kind) {
    case KIND_U64:
    case KIND_F64: return set_number(config, option, text, err);
    case KIND_TEXT: return set_text(config, option, text, err);
    case KIND_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
            return FM_FAIL(err, FM_INVALID, "%s is '%.64s', expected true or false", option->name,
                           text);
        *(bool *)field_of(config, option) = text[0] == 't';
        return FM_OK;
    case KIND_WORD:
        if (!parse_word(option->words, text, field_of(config, option)))
            return FM_FAIL(err, FM_INVALID, "%s is '%.64s', expected one of %s", option->name, text,
                           option->words);
        return FM_OK;
    case KIND_GROUP: break;
    }
    FM_UNREACHABLE();
}

static enum fm_status set_by_name(struct srv_config *config, struct source *source,
                                  const char *name, const char *value, struct fm_err *err)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (options[i].kind == KIND_GROUP || strcmp(options[i].name, name) != 0)
            continue;
        if (source->is_seen[i])
            return FM_FAIL(err, FM_INVALID, "%s is set twice", name);
        source->is_seen[i] = true;
        return set_value(config, &options[i], value, err);
    }
    return FM_FAIL(err, FM_INVALID, "there is no setting '%.64s'", name);
}

/* ---- sources --------------------------------------------------------------------------------- */

/* The text without blanks at both ends; writes a NUL into it. */
static char *trimmed(char *text)
{
    while (*text == ' ' || *text == '\t')
        text++;
    size_t length = strlen(text);
    while (length > 0 && strchr(" \t\r", text[length - 1]) != NULL)
        text[--length] = '\0';
    return text;
}

static enum fm_status read_line(struct srv_config *config, struct source *source, char *line,
                                struct fm_err *err)
{
    line = trimmed(line);
    if (*line == '\0' || *line == '#')
        return FM_OK;
    char *equals = strchr(line, '=');
    if (equals == NULL)
        return FM_FAIL(err, FM_INVALID, "expected 'name = value'");
    *equals = '\0';
    return set_by_name(config, source, trimmed(line), trimmed(equals + 1), err);
}

enum fm_status srv_config_text(const char *path, char **ret_text, struct fm_err *err)
{
    struct fm_file file;
    enum fm_status status = fm_file_map(path, FILE_BYTES_MAX, &file, err);
    if (status == FM_MISS)
        return FM_FAIL(err, FM_INVALID, "there is no file '%s'", path);
    if (status != FM_OK)
        return status;
    if (memchr(file.data, '\0', file.bytes) != NULL) {
        status = FM_FAIL(err, FM_INVALID, "'%s' holds a NUL byte", path);
        goto out_unmap;
    }
    char *text = fm_strndup(file.data, file.bytes);
    if (text == NULL) {
        status = FM_FAIL(err, FM_NOMEM, "no memory to read '%s'", path);
        goto out_unmap;
    }
    *ret_text = text;
out_unmap:
    fm_file_unmap(&file);
    return status;
}

static enum fm_status read_file(struct srv_config *config, const char *path, struct fm_err *err)
{
    char *text = NULL;
    enum fm_status status = srv_config_text(path, &text, err);
    if (status != FM_OK)
        return status;
    struct fm_err cause;
    struct source source = {0};
    uint32_t line_number = 1;
    for (char *line = text; line != NULL && status == FM_OK; line_number++) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end = '\0';
        status = read_line(config, &source, line, &cause);
        if (status != FM_OK)
            (void)FM_FAIL(err, status, "%s:%u: %s", path, line_number, cause.text);
        line = end == NULL ? NULL : end + 1;
    }
    fm_free(text);
    return status;
}

static void environment_name(const char *name, char ret_text[ENV_NAME_BYTES])
{
    static const char prefix[] = "FATHOM_";
    size_t at = sizeof prefix - 1;
    memcpy(ret_text, prefix, at);
    for (; *name != '\0' && at < ENV_NAME_BYTES - 1; name++, at++) {
        char c = *name;
        if (c >= 'a' && c <= 'z')
            c = (char)(c - 'a' + 'A');
        ret_text[at] = c == '.' ? '_' : c;
    }
    ret_text[at] = '\0';
}

/* FATHOM_SEED belongs to the test programs, which may start a server. */
static bool is_ours(const char *entry)
{
    return strncmp(entry, "FATHOM_", 7) == 0 && strncmp(entry, "FATHOM_SEED=", 12) != 0;
}

static enum fm_status read_environment(struct srv_config *config, char *const *environment,
                                       struct fm_err *err)
{
    struct fm_err cause;
    for (; environment != NULL && *environment != NULL; environment++) {
        const char *entry = *environment;
        const char *equals = strchr(entry, '=');
        if (equals == NULL || !is_ours(entry))
            continue;
        const struct option *option = NULL;
        for (size_t i = 0; i < OPTION_COUNT && option == NULL; i++) {
            char name[ENV_NAME_BYTES];
            environment_name(options[i].name, name);
            if (options[i].kind != KIND_GROUP && strlen(name) == (size_t)(equals - entry) &&
                memcmp(name, entry, strlen(name)) == 0)
                option = &options[i];
        }
        if (option == NULL)
            return FM_FAIL(err, FM_INVALID, "environment: %.*s names no setting",
                           (int)fm_min_u64((uint64_t)(equals - entry), 64), entry);
        enum fm_status status = set_value(config, option, equals + 1, &cause);
        if (status != FM_OK)
            return FM_FAIL(err, status, "environment: %s", cause.text);
    }
    return FM_OK;
}

static enum fm_status read_overrides(struct srv_config *config, const char *const *overrides,
                                     uint32_t count, struct fm_err *err)
{
    struct source source = {0};
    struct fm_err cause;
    for (uint32_t i = 0; i < count; i++) {
        const char *equals = strchr(overrides[i], '=');
        char name[128];
        size_t bytes = equals == NULL ? sizeof name : (size_t)(equals - overrides[i]);
        if (bytes >= sizeof name)
            return FM_FAIL(err, FM_INVALID, "--set: expected name=value, got '%.64s'",
                           overrides[i]);
        memcpy(name, overrides[i], bytes);
        name[bytes] = '\0';
        enum fm_status status = set_by_name(config, &source, name, equals + 1, &cause);
        if (status != FM_OK)
            return FM_FAIL(err, status, "--set: %s", cause.text);
    }
    return FM_OK;
}

/* What one row of the table cannot say. */
static enum fm_status check_together(const struct srv_config *config, struct fm_err *err)
{
    if ((config->sched_stream_bytes & (config->sched_stream_bytes - 1)) != 0)
        return FM_FAIL(err, FM_INVALID, "sched.stream_bytes is %llu, expected a power of two",
                       (unsigned long long)config->sched_stream_bytes);
    if (config->sched_chunk_tokens > config->sched_step_tokens)
        return FM_FAIL(err, FM_INVALID,
                       "sched.chunk_tokens is %llu, at most sched.step_tokens (%llu)",
                       (unsigned long long)config->sched_chunk_tokens,
                       (unsigned long long)config->sched_step_tokens);
    if (config->http_max_uri_bytes > config->http_max_header_bytes)
        return FM_FAIL(err, FM_INVALID,
                       "http.max_uri_bytes is %llu, at most http.max_header_bytes (%llu)",
                       (unsigned long long)config->http_max_uri_bytes,
                       (unsigned long long)config->http_max_header_bytes);
    return FM_OK;
}

static enum fm_status read_all(struct srv_config *config, const struct srv_config_sources *sources,
                               struct fm_err *err)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (options[i].kind == KIND_GROUP)
            continue;
        enum fm_status status = set_value(config, &options[i], options[i].value, err);
        if (status != FM_OK)
            return status;
    }
    for (uint32_t i = 0; i < sources->file_count; i++) {
        enum fm_status status = read_file(config, sources->files[i], err);
        if (status != FM_OK)
            return status;
    }
    enum fm_status status = read_environment(config, sources->environment, err);
    if (status == FM_OK)
        status = read_overrides(config, sources->overrides, sources->override_count, err);
    if (status == FM_OK)
        status = check_together(config, err);
    return status;
}

enum fm_status srv_config_load(const struct srv_config_sources *sources,
                               struct srv_config **ret_config, struct fm_err *err)
{
    FM_ASSERT(ret_config != NULL);
    struct srv_config *config = fm_alloc(sizeof *config);
    if (config == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the settings");
    config->references = 1;
    enum fm_status status = read_all(config, sources, err);
    if (status != FM_OK) {
        srv_config_put(config);
        return status;
    }
    *ret_config = config;
    return FM_OK;
}

struct srv_config *srv_config_take(struct srv_config *config)
{
    FM_ASSERT(config->references > 0);
    config->references++;
    return config;
}

void srv_config_put(struct srv_config *config)
{
    if (config == NULL)
        return;
    FM_ASSERT(config->references > 0);
    if (--config->references > 0)
        return;
    for (size_t i = 0; i < OPTION_COUNT; i++)
        if (options[i].kind == KIND_TEXT)
            fm_free(*(char **)field_of(config, &options[i]));
    fm_free(config);
}

/* ---- printing -------------------------------------------------------------------------------- */

static void value_text(const struct srv_config *config, const struct option *option,
                       struct fm_buf *out)
{
    const void *field = field_at(config, option);
    switch (option->kind) {
    case KIND_U64:
        (void)fm_buf_printf(out, "%llu", (unsigned long long)*(const uint64_t *)field);
        return;
    case KIND_F64: (void)fm_buf_printf(out, "%.15g", *(const double *)field); return;
    case KIND_BOOL: (void)fm_buf_puts(out, *(const bool *)field ? "true" : "false"); return;
    case KIND_TEXT: (void)fm_buf_puts(out, *(const char *const *)field); return;
    case KIND_WORD: {
        const char *at = option->words;
        for (uint32_t index = *(const uint32_t *)field; index > 0; index--)
            at += strcspn(at, "|") + 1;
        (void)fm_buf_put(out, at, strcspn(at, "|"));
        return;
    }
    case KIND_GROUP: break;
    }
    FM_UNREACHABLE();
}

const char *srv_config_needs_restart(const struct srv_config *before,
                                     const struct srv_config *after, uint32_t *cursor)
{
    while (*cursor < OPTION_COUNT) {
        const struct option *option = &options[(*cursor)++];
        if (option->kind == KIND_GROUP || option->is_reloadable)
            continue;
        const void *a = field_at(before, option), *b = field_at(after, option);
        bool is_same = false;
        switch (option->kind) {
        case KIND_U64: is_same = *(const uint64_t *)a == *(const uint64_t *)b; break;
        case KIND_F64: is_same = memcmp(a, b, sizeof(double)) == 0; break;
        case KIND_BOOL: is_same = *(const bool *)a == *(const bool *)b; break;
        case KIND_WORD: is_same = *(const uint32_t *)a == *(const uint32_t *)b; break;
        case KIND_TEXT:
            is_same = strcmp(*(const char *const *)a, *(const char *const *)b) == 0;
            break;
        case KIND_GROUP: FM_UNREACHABLE();
        }
        if (!is_same)
            return option->name;
    }
    return NULL;
}

/* "bytes, 1024 to 17179869184", "cancel|tolerate" */
static void range_text(const struct option *option, struct fm_buf *out)
{
    if (option->kind == KIND_U64)
        (void)fm_buf_printf(out, "%s, %llu to %llu", option->unit, (unsigned long long)option->min,
                            (unsigned long long)option->max);
    else if (option->kind == KIND_F64)
        (void)fm_buf_printf(out, "%s, %g to %g", option->unit, option->low, option->high);
    else if (option->kind == KIND_WORD)
        (void)fm_buf_puts(out, option->words);
    else
        (void)fm_buf_puts(out, option->unit);
    (void)fm_buf_puts(out, option->is_reloadable ? "; reload" : "; restart");
}

void srv_config_help(struct fm_buf *out)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const struct option *option = &options[i];
        if (option->kind == KIND_GROUP) {
            (void)fm_buf_printf(out, "\n%s:\n", option->name);
            continue;
        }
        (void)fm_buf_printf(out, "  %s=%s  (", option->name, option->value);
        range_text(option, out);
        (void)fm_buf_printf(out, ")\n      %s\n", option->help);
    }
}

void srv_config_print(const struct srv_config *config, struct fm_buf *out)
{
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        if (options[i].kind == KIND_GROUP)
            continue;
        (void)fm_buf_printf(out, "%s = ", options[i].name);
        value_text(config, &options[i], out);
        (void)fm_buf_putc(out, '\n');
    }
}

void srv_config_sample(struct fm_buf *out)
{
    (void)fm_buf_puts(out,
                      "# fathomd.conf - all settings with their defaults, made from options.def:\n"
                      "# `fathomd --sample-config`.  name = value; # begins a line that is\n"
                      "# left out.  The environment (FATHOM_HTTP_LISTEN) and --set come later\n"
                      "# and win.  \"reload\": SIGHUP is enough; \"restart\": it is not.\n");
    for (size_t i = 0; i < OPTION_COUNT; i++) {
        const struct option *option = &options[i];
        if (option->kind == KIND_GROUP) {
            (void)fm_buf_printf(out, "\n# ---- %s\n", option->name);
            continue;
        }
        (void)fm_buf_printf(out, "\n# %s\n# (", option->help);
        range_text(option, out);
        (void)fm_buf_printf(out, ")\n#%s = %s\n", option->name, option->value);
    }
}
