/* tokenizer_json.c - reading a tokenizer.json; see eng_tokenizer_parse in tokenizer.h.
 *
 * Everything that changes ids is compared with what this code does, and refused if it differs: an
 * approximation would give plausible, wrong tokens. */
#include <stdlib.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/json.h"
#include "backends/base/mem.h"
#include "engine/pretok.h"
#include "engine/tokenizer.h"

enum { CONTROLS_MAX = 1 << 16 };

/* A string of the file with its escapes resolved; points into the file where it can. */
struct string {
    const char *data;
    size_t length;
    char buffer[ENG_VOCAB_TOKEN_BYTES_MAX];
};

static bool string_set(struct string *string, struct fm_json_text text)
{
    string->data = text.data;
    string->length = text.bytes;
    if (!text.is_escaped)
        return true;
    string->data = string->buffer;
    return fm_json_unescape(text, string->buffer, sizeof string->buffer, &string->length);
}

/* The file says something that we do not do, or is broken before it could say it. */
static enum fm_status refuse(struct fm_json *json, const char *key, const char *wanted,
                             struct fm_err *err)
{
    if (json->problem != NULL)
        return fm_json_end(json, err);
    return FM_FAIL(err, FM_UNSUPPORTED, "%s is not %s", key, wanted);
}

/* ---- Control tokens ---- */

static int control_compare(const void *a, const void *b)
{
    const struct eng_control *left = a, *right = b;
    return (left->id > right->id) - (left->id < right->id);
}

static enum fm_status control_put(struct eng_text *text, uint32_t id, const struct string *name,
                                  struct fm_err *err)
{
    if (text->control_count == CONTROLS_MAX)
        return FM_FAIL(err, FM_LIMIT, "added_tokens: more than %d", CONTROLS_MAX);
    if ((text->control_count & (text->control_count - 1)) == 0) { /* full at powers of two */
        uint32_t capacity = text->control_count == 0 ? 1 : text->control_count * 2;
        struct eng_control *controls =
            fm_realloc_array(text->controls, capacity, sizeof controls[0]);
        if (controls == NULL)
            return FM_FAIL(err, FM_NOMEM, "no memory for the added tokens");
        text->controls = controls;
    }
    char *names = fm_realloc(text->names, text->name_bytes + name->length + 1);
    if (names == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the added tokens");
    text->names = names;
    memcpy(names + text->name_bytes, name->data, name->length);
    text->controls[text->control_count++] =
        (struct eng_control){id, fm_u32(text->name_bytes), fm_u32(name->length)};
    text->name_bytes += name->length;
    return FM_OK;
}

static enum fm_status control_read(struct eng_text *text, struct fm_json *json, struct fm_err *err)
{
    struct fm_json_text key, content = {0};
    uint64_t id = UINT64_MAX;
    bool changes_match = false, flag = false;
    (void)fm_json_object_open(json);
    while (fm_json_member(json, &key)) {
        if (fm_json_text_is(key, "id")) {
            (void)fm_json_u64(json, ENG_VOCAB_IDS_MAX - 1, &id);
        } else if (fm_json_text_is(key, "content")) {
            (void)fm_json_string(json, &content);
        } else if (fm_json_text_is(key, "single_word") || fm_json_text_is(key, "lstrip") ||
                   fm_json_text_is(key, "rstrip")) {
            changes_match |= fm_json_bool(json, &flag) && flag;
        } else {
            (void)fm_json_skip(json);
        }
    }
    struct string name;
    if (json->problem != NULL)
        return fm_json_end(json, err);
    if (id == UINT64_MAX || content.bytes == 0 || !string_set(&name, content))
        return FM_FAIL(err, FM_INVALID, "added_tokens: an item without a usable id and content");
    if (changes_match)
        return FM_FAIL(err, FM_UNSUPPORTED,
                       "added_tokens: token %u has single_word, lstrip or rstrip set",
                       (uint32_t)id);
    return control_put(text, (uint32_t)id, &name, err);
}

static enum fm_status controls_read(struct eng_text *text, struct fm_json *json, struct fm_err *err)
{
    (void)fm_json_array_open(json);
    while (fm_json_element(json)) {
        enum fm_status status = control_read(text, json, err);
        if (status != FM_OK)
            return status;
    }
    if (text->control_count != 0)
        qsort(text->controls, text->control_count, sizeof text->controls[0], control_compare);
    if (!eng_trie_init(&text->control_trie, (uint32_t)text->name_bytes + 1))
        return FM_FAIL(err, FM_NOMEM, "no memory for the added tokens");
    for (uint32_t i = 0; i < text->control_count; i++) {
        const struct eng_control *control = &text->controls[i];
        if (i > 0 && control->id == control[-1].id)
            return FM_FAIL(err, FM_INVALID, "added_tokens: two have the id %u", control->id);
        (void)eng_trie_add(&text->control_trie, ENG_TRIE_ROOT,
                           (const unsigned char *)text->names + control->offset, control->length,
                           control->id);
    }
    (void)eng_trie_seal(&text->control_trie, false);
    return FM_OK;
}

/* ---- Normalizer, pre-tokenizer, decoder ---- */

/* The `type` member of the object that comes next; its other members are skipped, but `list` is
 * entered, and its elements are counted. */
static bool type_read(struct fm_json *json, const char *list, struct fm_json_text *ret_type,
                      uint32_t *ret_count)
{
    struct fm_json_text key;
    (void)fm_json_object_open(json);
    while (fm_json_member(json, &key)) {
        if (fm_json_text_is(key, "type")) {
            (void)fm_json_string(json, ret_type);
        } else if (list != NULL && fm_json_text_is(key, list)) {
            (void)fm_json_array_open(json);
            while (fm_json_element(json)) {
                (void)fm_json_skip(json);
                ++*ret_count;
            }
        } else {
            (void)fm_json_skip(json);
        }
    }
    return json->problem == NULL;
}

static enum fm_status normalizer_check(struct fm_json *json, struct fm_err *err)
{
    struct fm_json_text type = {0};
    uint32_t count = 0;
    if (fm_json_peek(json) == FM_JSON_NULL)
        return fm_json_skip(json) ? FM_OK : fm_json_end(json, err);
    if (!type_read(json, "normalizers", &type, &count) || !fm_json_text_is(type, "Sequence") ||
        count != 0)
        return refuse(json, "normalizer", "absent or an empty Sequence", err);
    return FM_OK;
}

static enum fm_status byte_level_check(struct fm_json *json, const char *key, bool may_be_null,
                                       struct fm_err *err)
{
    struct fm_json_text type = {0};
    if (may_be_null && fm_json_peek(json) == FM_JSON_NULL)
        return fm_json_skip(json) ? FM_OK : fm_json_end(json, err);
    if (!type_read(json, NULL, &type, NULL) || !fm_json_text_is(type, "ByteLevel"))
        return refuse(json, key, "of type ByteLevel", err);
    return FM_OK;
}

/* One step of the pre-tokenizer: a Split by the pattern, or for NULL the mapping of bytes. */
static bool step_is(struct fm_json *json, const char *pattern)
{
    struct fm_json_text key, type = {0}, behavior = {0}, regex = {0};
    bool invert = true, prefix_space = true, use_regex = true;
    (void)fm_json_object_open(json);
    while (fm_json_member(json, &key)) {
        if (fm_json_text_is(key, "type")) {
            (void)fm_json_string(json, &type);
        } else if (fm_json_text_is(key, "behavior")) {
            (void)fm_json_string(json, &behavior);
        } else if (fm_json_text_is(key, "invert")) {
            (void)fm_json_bool(json, &invert);
        } else if (fm_json_text_is(key, "add_prefix_space")) {
            (void)fm_json_bool(json, &prefix_space);
        } else if (fm_json_text_is(key, "use_regex")) {
            (void)fm_json_bool(json, &use_regex);
        } else if (fm_json_text_is(key, "pattern") && fm_json_object_open(json)) {
            while (fm_json_member(json, &key)) {
                if (fm_json_text_is(key, "Regex"))
                    (void)fm_json_string(json, &regex);
                else
                    (void)fm_json_skip(json);
            }
        } else {
            (void)fm_json_skip(json);
        }
    }
    if (json->problem != NULL)
        return false;
    if (pattern == NULL)
        return fm_json_text_is(type, "ByteLevel") && !prefix_space && !use_regex;
    return fm_json_text_is(type, "Split") && fm_json_text_is(behavior, "Isolated") && !invert &&
           fm_json_text_is(regex, pattern);
}

static enum fm_status pre_tokenizer_check(struct fm_json *json, struct fm_err *err)
{
    const size_t split_count = FM_COUNT(eng_pretok_patterns);
    struct fm_json_text key, type = {0};
    size_t step = 0;
    (void)fm_json_object_open(json);
    while (fm_json_member(json, &key)) {
        if (fm_json_text_is(key, "type")) {
            (void)fm_json_string(json, &type);
        } else if (fm_json_text_is(key, "pretokenizers")) {
            (void)fm_json_array_open(json);
            for (; fm_json_element(json); step++) {
                const char *pattern = step < split_count ? eng_pretok_patterns[step] : NULL;
                if (step > split_count || !step_is(json, pattern)) {
                    struct fm_err own = {0};
                    if (refuse(json, "step", "known", &own) != FM_UNSUPPORTED)
                        return FM_FAIL(err, own.status, "%s", own.text);
                    return FM_FAIL(err, FM_UNSUPPORTED,
                                   "pre_tokenizer: step %zu is not that of DeepSeek-V4", step);
                }
            }
        } else {
            (void)fm_json_skip(json);
        }
    }
    if (json->problem != NULL || !fm_json_text_is(type, "Sequence") || step != split_count + 1)
        return refuse(json, "pre_tokenizer", "the Sequence of four steps of DeepSeek-V4", err);
    return FM_OK;
}

/* ---- The model ---- */

/* The file writes bytes as characters: printable ones of Latin-1 as themselves, the 68 others in
 * order as U+0100 and up.  The byte of such a character, or -1. */
static int byte_of_char(uint32_t code)
{
    if ((code >= 0x21 && code <= 0x7e) || (code >= 0xa1 && code <= 0xac) ||
        (code >= 0xae && code <= 0xff))
        return (int)code;
    if (code >= 0x100 && code <= 0x120)
        return (int)(code - 0x100); /* 00 .. 20 */
    if (code >= 0x121 && code <= 0x142)
        return (int)(code - 0x121 + 0x7f); /* 7f .. a0 */
    return code == 0x143 ? 0xad : -1;
}

/* data[0 .. length) in that alphabet to bytes; -1 if there is another character in it. */
static ssize_t bytes_of_chars(const char *data, size_t length, unsigned char *ret_bytes)
{
    const unsigned char *at = (const unsigned char *)data, *end = at + length;
    ssize_t count = 0;
    while (at < end) {
        uint32_t code = *at++;
        if (code >= 0xc4 && code <= 0xc5 && at < end)
            code = (code & 0x1f) << 6 | (*at++ & 0x3f);
        else if (code >= 0xc2 && code <= 0xc3 && at < end)
            code = (code & 0x1f) << 6 | (*at++ & 0x3f);
        else if (code >= 0x80)
            return -1;
        int byte = byte_of_char(code);
        if (byte < 0)
            return -1;
        ret_bytes[count++] = (unsigned char)byte;
    }
    return count;
}

static enum fm_status vocab_read(struct eng_text *text, struct fm_json *json, struct fm_err *err)
{
    struct fm_json_text key;
    (void)fm_json_object_open(json);
    while (fm_json_member(json, &key)) {
        struct string name;
        unsigned char bytes[ENG_VOCAB_TOKEN_BYTES_MAX];
        uint64_t id;
        if (!fm_json_u64(json, ENG_VOCAB_IDS_MAX - 1, &id))
            break;
        if (eng_text_control(text, (uint32_t)id) != NULL)
            continue;
        ssize_t length = -1;
        if (key.bytes <= sizeof bytes && string_set(&name, key))
            length = bytes_of_chars(name.data, name.length, bytes);
        if (length < 0)
            return FM_FAIL(err, FM_INVALID, "model.vocab: token %u is not written in bytes",
                           (uint32_t)id);
        enum fm_status status =
            eng_vocab_add(&text->vocab, (uint32_t)id, bytes, (size_t)length, err);
        if (status != FM_OK)
            return status;
    }
    return json->problem == NULL ? FM_OK : fm_json_end(json, err);
}

/* The two parts of a merge: "A B", or ["A", "B"]. */
static bool merge_split(struct fm_json *json, struct string *first, struct string *second)
{
    struct fm_json_text text;
    if (fm_json_peek(json) == FM_JSON_ARRAY) {
        return fm_json_array_open(json) && fm_json_element(json) && fm_json_string(json, &text) &&
               string_set(first, text) && fm_json_element(json) && fm_json_string(json, &text) &&
               string_set(second, text) && !fm_json_element(json);
    }
    if (!fm_json_string(json, &text) || !string_set(first, text))
        return false;
    const char *blank = memchr(first->data, ' ', first->length);
    if (blank == NULL)
        return false;
    size_t left_length = (size_t)(blank - first->data);
    second->data = blank + 1;
    second->length = first->length - left_length - 1;
    first->length = left_length;
    return true;
}

static enum fm_status merges_read(struct eng_text *text, struct fm_json *json, struct fm_err *err)
{
    (void)fm_json_array_open(json);
    while (fm_json_element(json)) {
        struct string first, second;
        unsigned char left[ENG_VOCAB_TOKEN_BYTES_MAX], right[ENG_VOCAB_TOKEN_BYTES_MAX];
        ssize_t left_length = -1, right_length = -1;
        if (merge_split(json, &first, &second) && first.length <= sizeof left &&
            second.length <= sizeof right) {
            left_length = bytes_of_chars(first.data, first.length, left);
            right_length = bytes_of_chars(second.data, second.length, right);
        }
        if (json->problem != NULL)
            break;
        if (left_length < 0 || right_length < 0)
            return FM_FAIL(err, FM_INVALID, "model.merges: merge %u is not two tokens",
                           text->vocab.merge_count);
        enum fm_status status = eng_vocab_merge(&text->vocab, left, (size_t)left_length, right,
                                                (size_t)right_length, err);
        if (status != FM_OK)
            return status;
    }
    return json->problem == NULL ? FM_OK : fm_json_end(json, err);
}

/* Members of the model that must be null (or empty), and those that must be false. */
static bool is_null_member(struct fm_json_text key)
{
    return fm_json_text_is(key, "dropout") || fm_json_text_is(key, "unk_token") ||
           fm_json_text_is(key, "continuing_subword_prefix") ||
           fm_json_text_is(key, "end_of_word_suffix");
}

static bool is_false_member(struct fm_json_text key)
{
    return fm_json_text_is(key, "fuse_unk") || fm_json_text_is(key, "byte_fallback");
}

static bool null_read(struct fm_json *json)
{
    struct fm_json_text text;
    if (fm_json_peek(json) == FM_JSON_STRING)
        return fm_json_string(json, &text) && text.bytes == 0;
    return fm_json_peek(json) == FM_JSON_NULL && fm_json_skip(json);
}

static enum fm_status model_read(struct eng_text *text, struct fm_json *json, struct fm_err *err)
{
    struct fm_json_text key, type = {0}, merges = {0};
    bool has_vocab = false, flag = false;
    enum fm_status status;
    (void)fm_json_object_open(json);
    while (fm_json_member(json, &key)) {
        if (fm_json_text_is(key, "type")) {
            (void)fm_json_string(json, &type);
        } else if (fm_json_text_is(key, "vocab")) {
            has_vocab = true;
            if ((status = vocab_read(text, json, err)) != FM_OK)
                return status;
        } else if (fm_json_text_is(key, "merges")) {
            (void)fm_json_raw(json, &merges);
        } else if (is_null_member(key)) {
            if (!null_read(json))
                return refuse(json, "model: dropout, unk_token, prefix or suffix", "null", err);
        } else if (is_false_member(key)) {
            if (!fm_json_bool(json, &flag) || flag)
                return refuse(json, "model: fuse_unk or byte_fallback", "false", err);
        } else {
            (void)fm_json_skip(json);
        }
    }
    if (json->problem != NULL || !fm_json_text_is(type, "BPE"))
        return refuse(json, "model.type", "BPE", err);
    if (!has_vocab || merges.data == NULL)
        return FM_FAIL(err, FM_INVALID, "model: vocab or merges is missing");
    status = eng_vocab_index(&text->vocab, text->vocab.token_count, err);
    if (status != FM_OK)
        return status;
    struct fm_json list;
    fm_json_init(&list, merges.data, merges.bytes);
    status = merges_read(text, &list, err);
    return status == FM_OK ? eng_vocab_seal(&text->vocab, err) : status;
}

/* ---- The file ---- */

/* Which members were there. */
struct seen {
    bool controls, pre_tokenizer, decoder, model;
    struct fm_json_text model_text; /* the model came before the added tokens */
};

static enum fm_status member_read(struct eng_text *text, struct fm_json *json,
                                  struct fm_json_text key, struct seen *seen, struct fm_err *err)
{
    if (fm_json_text_is(key, "added_tokens")) {
        if (seen->controls)
            return FM_FAIL(err, FM_INVALID, "added_tokens: given twice");
        seen->controls = true;
        return controls_read(text, json, err);
    }
    if (fm_json_text_is(key, "normalizer"))
        return normalizer_check(json, err);
    if (fm_json_text_is(key, "pre_tokenizer")) {
        seen->pre_tokenizer = true;
        return pre_tokenizer_check(json, err);
    }
    if (fm_json_text_is(key, "post_processor"))
        return byte_level_check(json, "post_processor", true, err);
    if (fm_json_text_is(key, "decoder")) {
        seen->decoder = true;
        return byte_level_check(json, "decoder", false, err);
    }
    if (fm_json_text_is(key, "model")) {
        if (seen->model)
            return FM_FAIL(err, FM_INVALID, "model: given twice");
        seen->model = true;
        if (seen->controls)
            return model_read(text, json, err);
        return fm_json_raw(json, &seen->model_text) ? FM_OK : fm_json_end(json, err);
    }
    return fm_json_skip(json) ? FM_OK : fm_json_end(json, err);
}

enum fm_status eng_tokenizer_parse(struct eng_text *text, const char *data, size_t length,
                                   struct fm_err *err)
{
    struct fm_json json;
    struct fm_json_text key;
    struct seen seen = {0};
    enum fm_status status;
    fm_json_init(&json, data, length);
    (void)fm_json_object_open(&json);
    while (fm_json_member(&json, &key)) {
        if ((status = member_read(text, &json, key, &seen, err)) != FM_OK)
            return status;
    }
    if ((status = fm_json_end(&json, err)) != FM_OK)
        return status;
    if (!seen.controls || !seen.pre_tokenizer || !seen.decoder || !seen.model)
        return FM_FAIL(err, FM_INVALID, "%s is missing",
                       !seen.controls        ? "added_tokens"
                       : !seen.pre_tokenizer ? "pre_tokenizer"
                       : !seen.decoder       ? "decoder"
                                             : "model");
    if (seen.model_text.data != NULL) {
        fm_json_init(&json, seen.model_text.data, seen.model_text.bytes);
        return model_read(text, &json, err);
    }
    return FM_OK;
}
