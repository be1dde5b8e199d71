/* tokenizer.c - struct eng_text: the vocabulary of a model directory and its control tokens.
 *
 * Control tokens are found by their names: the ids differ between vocabularies. */
#include "engine/tokenizer.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/mem.h"

enum {
    TOKENIZER_BYTES_MAX = 256 << 20,
    ENCODER_BYTES_MAX = 4 << 20,
    PATH_BYTES = 4096,
    RELEASE_R2 = 731, /* month and day in a model's name from which on it is R2 */
};

/* The whole file in memory, NUL-terminated; *ret_data is the caller's to free. */
static enum fm_status file_read(const char *path, size_t bytes_max, char **ret_data,
                                size_t *ret_length, struct fm_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1)
        return FM_FAIL_OS(err, FM_IO, errno, "cannot open '%s'", path);

    enum fm_status status = FM_OK;
    char *data = NULL;
    struct stat info;
    if (fstat(fd, &info) == -1) {
        status = FM_FAIL_OS(err, FM_IO, errno, "cannot size '%s'", path);
        goto out_close;
    }
    if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size > bytes_max) {
        status = FM_FAIL(err, FM_INVALID, "'%s' is no file of at most %zu bytes", path, bytes_max);
        goto out_close;
    }
    size_t length = (size_t)info.st_size, at = 0;
    data = fm_alloc(length + 1);
    if (data == NULL) {
        status = FM_FAIL(err, FM_NOMEM, "no memory for the %zu bytes of '%s'", length, path);
        goto out_close;
    }
    while (at < length) {
        ssize_t got = read(fd, data + at, length - at);
        if (got == -1 && errno == EINTR)
            continue;
        if (got <= 0) {
            status = FM_FAIL_OS(err, FM_IO, got == 0 ? EIO : errno, "cannot read '%s'", path);
            goto out_close;
        }
        at += (size_t)got;
    }
    *ret_data = data;
    *ret_length = length;
    data = NULL;
out_close:
    fm_free(data);
    (void)close(fd);
    return status;
}

/* ---- Revision of the prompt format ---- */

/* What the encoder that lies beside the model says, if there is one and it can be read. */
static enum eng_revision revision_of_encoders(const char *dir)
{
    enum eng_revision found = ENG_REVISION_AUTO;
    DIR *entries = opendir(dir);
    if (entries == NULL)
        return found;
    const struct dirent *entry;
    while (found == ENG_REVISION_AUTO && (entry = readdir(entries)) != NULL) {
        char path[PATH_BYTES];
        char *data = NULL;
        size_t length = 0;
        if (fnmatch("encoding*.py", entry->d_name, 0) != 0 ||
            snprintf(path, sizeof path, "%s/%s", dir, entry->d_name) >= (int)sizeof path ||
            file_read(path, ENCODER_BYTES_MAX, &data, &length, NULL) != FM_OK || data == NULL)
            continue;
        if (memmem(data, length, "Beyond maximum", 14) != NULL)
            found = ENG_REVISION_R2;
        else if (memmem(data, length, "Absolute maximum", 16) != NULL)
            found = ENG_REVISION_R1;
        fm_free(data);
    }
    (void)closedir(entries);
    return found;
}

/* Does a directory's name say that it holds a later release: a month and day of four digits, or
 * "Vision"? */
static bool name_is_r2(const char *name)
{
    if (strstr(name, "Vision") != NULL || strstr(name, "vision") != NULL)
        return true;
    for (const char *at = name; *at != '\0'; at++) {
        size_t digits = strspn(at, "0123456789");
        if (digits != 4) {
            at += digits != 0 ? digits - 1 : 0;
            continue;
        }
        int month = (at[0] - '0') * 10 + at[1] - '0';
        int day = (at[2] - '0') * 10 + at[3] - '0';
        if (month >= 1 && month <= 12 && day >= 1 && day <= 31 && month * 100 + day >= RELEASE_R2)
            return true;
        at += 3;
    }
    return false;
}

/* The names that tell: the last part of the path, and a part that a download cache made. */
static bool path_is_r2(char *path)
{
    bool is_r2 = false;
    char *part = path;
    while (part != NULL) {
        char *slash = strchr(part, '/');
        if (slash != NULL)
            *slash = '\0';
        bool is_last = slash == NULL || slash[1] == '\0';
        if (is_last || strncmp(part, "models--", 8) == 0)
            is_r2 = is_r2 || name_is_r2(part);
        part = is_last ? NULL : slash + 1;
    }
    return is_r2;
}

static void revision_find(struct eng_text_info *info, const char *dir, enum eng_revision wanted)
{
    char path[PATH_BYTES], *real;
    info->revision = wanted;
    if (info->revision == ENG_REVISION_AUTO &&
        snprintf(path, sizeof path, "%s/encoding", dir) < (int)sizeof path)
        info->revision = revision_of_encoders(path);
    if (info->revision == ENG_REVISION_AUTO)
        info->revision = revision_of_encoders(dir);
    if (info->revision != ENG_REVISION_AUTO)
        return;

    info->revision = ENG_REVISION_R1;
    info->revision_is_guess = true;
    bool is_r2 = snprintf(path, sizeof path, "%s", dir) < (int)sizeof path && path_is_r2(path);
    real = realpath(dir, NULL);
    if (real != NULL && path_is_r2(real))
        is_r2 = true;
    free(real); /* realpath's own allocation */
    if (is_r2) {
        info->revision = ENG_REVISION_R2;
        info->revision_is_guess = false;
    }
}

/* ---- Control tokens ---- */

const struct eng_control *eng_text_control(const struct eng_text *text, uint32_t id)
{
    uint32_t low = 0, high = text->control_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (text->controls[middle].id == id)
            return &text->controls[middle];
        if (text->controls[middle].id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

uint32_t eng_text_control_id(const struct eng_text *text, const char *name)
{
    for (uint32_t i = 0; i < text->control_count; i++) {
        const struct eng_control *control = &text->controls[i];
        if (control->length == strlen(name) &&
            memcmp(text->names + control->offset, name, control->length) == 0)
            return control->id;
    }
    return ENG_ID_NONE;
}

static enum fm_status controls_find(struct eng_text *text, struct fm_err *err)
{
    struct eng_text_info *info = &text->info;
    const struct {
        const char *name;
        uint32_t *ret_id;
        bool is_needed;
    } rows[] = {
        {"<｜begin▁of▁sentence｜>", &info->bos, true},
        {"<｜end▁of▁sentence｜>", &info->eos, true},
        {"<｜User｜>", &info->user, true},
        {"<｜Assistant｜>", &info->assistant, true},
        {"<think>", &info->think_start, true},
        {"</think>", &info->think_end, true},
        {"｜DSML｜", &info->dsml, true},
        {"<｜▁pad▁｜>", &info->pad, false},
        {"<｜latest_reminder｜>", &info->latest_reminder, false},
        {"<｜fim▁begin｜>", &info->fim_begin, false},
        {"<｜fim▁hole｜>", &info->fim_hole, false},
        {"<｜fim▁end｜>", &info->fim_end, false},
        {"<｜action｜>", &info->task_action, false},
        {"<｜query｜>", &info->task_query, false},
        {"<｜authority｜>", &info->task_authority, false},
        {"<｜domain｜>", &info->task_domain, false},
        {"<｜title｜>", &info->task_title, false},
        {"<｜read_url｜>", &info->task_read_url, false},
    };
    for (size_t i = 0; i < FM_COUNT(rows); i++) {
        *rows[i].ret_id = eng_text_control_id(text, rows[i].name);
        if (*rows[i].ret_id == ENG_ID_NONE && rows[i].is_needed)
            return FM_FAIL(err, FM_UNSUPPORTED,
                           "added_tokens: '%s' is missing, which the prompt format needs",
                           rows[i].name);
    }
    return FM_OK;
}

static enum fm_status sizes_find(struct eng_text *text, uint32_t vocab_size, struct fm_err *err)
{
    struct eng_text_info *info = &text->info;
    uint32_t id_count = text->vocab.id_count;
    if (text->control_count != 0 && text->controls[text->control_count - 1].id >= id_count)
        id_count = text->controls[text->control_count - 1].id + 1;
    if (vocab_size != 0 && vocab_size < id_count)
        return FM_FAIL(err, FM_INVALID, "the tokenizer has ids up to %u, the model has %u rows",
                       id_count - 1, vocab_size);
    info->vocab_size = vocab_size != 0 ? vocab_size : id_count;
    info->token_count = text->vocab.token_count + text->control_count;
    info->mask_words = (info->vocab_size + 63) / 64;
    for (uint32_t id = 0; id < id_count; id++) {
        size_t length = eng_text_token(text, id).length;
        if (length > info->bytes_max)
            info->bytes_max = (uint32_t)length;
    }
    return FM_OK;
}

static enum fm_status masks_fill(struct eng_text *text, struct fm_err *err)
{
    const struct eng_text_info *info = &text->info;
    text->masks = fm_alloc_array(ENG_MASK_CLASSES, info->mask_words * sizeof text->masks[0]);
    if (text->masks == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the masks");
    for (unsigned mask_class = 0; mask_class < ENG_MASK_CLASSES; mask_class++) {
        uint64_t *mask = text->masks + (size_t)mask_class * info->mask_words;
        for (uint32_t id = 0; id < text->vocab.id_count; id++) {
            if (text->vocab.tokens[id].length != 0)
                mask[id / 64] |= UINT64_C(1) << (id % 64);
        }
        if ((mask_class & ENG_MASK_EOS) != 0)
            mask[info->eos / 64] |= UINT64_C(1) << (info->eos % 64);
        if ((mask_class & ENG_MASK_THINK_END) != 0)
            mask[info->think_end / 64] |= UINT64_C(1) << (info->think_end % 64);
        if ((mask_class & ENG_MASK_DSML) != 0)
            mask[info->dsml / 64] |= UINT64_C(1) << (info->dsml % 64);
    }
    return FM_OK;
}

/* ---- Life ---- */

enum fm_status eng_text_open(const char *model_dir, const struct eng_text_options *options,
                             struct eng_text **ret_text, struct fm_err *err)
{
    static const struct eng_text_options defaults = {0};
    if (options == NULL)
        options = &defaults;

    struct fm_err own = {0};
    char path[PATH_BYTES], *json = NULL;
    size_t length = 0;
    if (snprintf(path, sizeof path, "%s/tokenizer.json", model_dir) >= (int)sizeof path)
        return FM_FAIL(err, FM_INVALID, "the model's path is longer than %d bytes", PATH_BYTES);
    enum fm_status status = file_read(path, TOKENIZER_BYTES_MAX, &json, &length, err);
    if (status != FM_OK)
        return status;

    struct eng_text *text = fm_alloc(sizeof *text);
    if (text == NULL) {
        status = FM_FAIL(err, FM_NOMEM, "no memory for the tokenizer");
        goto out_json;
    }
    eng_vocab_init(&text->vocab);
    status = eng_tokenizer_parse(text, json, length, &own);
    if (status == FM_OK)
        status = controls_find(text, &own);
    if (status == FM_OK)
        status = sizes_find(text, options->vocab_size, &own);
    if (status == FM_OK)
        status = masks_fill(text, &own);
    if (status != FM_OK) {
        (void)FM_FAIL(err, status, "%s: %s", path, own.text);
        goto out_text;
    }
    revision_find(&text->info, model_dir, options->revision);
    *ret_text = text;
    text = NULL;
out_text:
    eng_text_free(text);
out_json:
    fm_free(json);
    return status;
}

void eng_text_free(struct eng_text *text)
{
    if (text == NULL)
        return;
    eng_vocab_done(&text->vocab);
    eng_trie_done(&text->control_trie);
    fm_free(text->controls);
    fm_free(text->names);
    fm_free(text->masks);
    fm_free(text);
}

const struct eng_text_info *eng_text_info(const struct eng_text *text)
{
    return &text->info;
}

enum eng_token_kind eng_text_token_kind(const struct eng_text *text, uint32_t id)
{
    if (id < text->vocab.id_count && text->vocab.tokens[id].length != 0)
        return ENG_TOKEN_BYTES;
    return eng_text_control(text, id) != NULL ? ENG_TOKEN_CONTROL : ENG_TOKEN_NONE;
}

struct eng_slice eng_text_token(const struct eng_text *text, uint32_t id)
{
    if (id < text->vocab.id_count && text->vocab.tokens[id].length != 0) {
        const struct eng_vocab_token *token = &text->vocab.tokens[id];
        return (struct eng_slice){(const char *)text->vocab.bytes + token->offset, token->length};
    }
    const struct eng_control *control = eng_text_control(text, id);
    if (control == NULL)
        return (struct eng_slice){"", 0};
    return (struct eng_slice){text->names + control->offset, control->length};
}

const uint64_t *eng_text_mask(const struct eng_text *text, unsigned mask_class)
{
    FM_ASSERT(mask_class < ENG_MASK_CLASSES);
    return text->masks + (size_t)mask_class * text->info.mask_words;
}
