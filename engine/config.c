/* config.c - JSON members by name.  A table is searched from front to back: it has some sixty
 * members and is read once. */
#include "engine/config.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/checked.h"

/* Do two keys name the same member?  Escapes are resolved first. */
static bool keys_equal(struct fm_json_text a, struct fm_json_text b)
{
    char text[256];
    size_t bytes;

    if (!a.is_escaped && !b.is_escaped)
        return a.bytes == b.bytes && memcmp(a.data, b.data, a.bytes) == 0;
    return fm_json_unescape(a, text, sizeof text, &bytes) && fm_json_text_is(b, text);
}

enum fm_status eng_config_init(struct eng_config *config, const char *path, const char *text,
                               size_t bytes, struct fm_err *err)
{
    struct fm_json json;
    struct fm_json_text key;

    FM_ASSERT(strlen(path) < sizeof config->path);
    (void)snprintf(config->path, sizeof config->path, "%s", path);
    config->count = 0;
    fm_json_init(&json, text, bytes);
    (void)fm_json_object_open(&json);
    while (fm_json_member(&json, &key)) {
        for (uint32_t i = 0; i < config->count; i++)
            if (keys_equal(config->members[i].key, key))
                return FM_FAIL(err, FM_CORRUPT, "\"%s%.*s\" is there twice", path,
                               (int)fm_min_u64(key.bytes, 64), key.data);
        if (config->count == ENG_CONFIG_MEMBERS_MAX)
            return FM_FAIL(err, FM_CORRUPT, "an object has more than %d members",
                           ENG_CONFIG_MEMBERS_MAX);
        config->members[config->count].key = key;
        if (fm_json_raw(&json, &config->members[config->count].value))
            config->count++;
    }
    return fm_json_end(&json, err);
}

static void value_set(const struct eng_config *config, const struct eng_config_member *member,
                      struct eng_config_value *ret_value)
{
    (void)snprintf(ret_value->key, sizeof ret_value->key, "%s%.*s", config->path,
                   (int)fm_min_u64(member->key.bytes, 60), member->key.data);
    ret_value->raw = member->value;
}

bool eng_config_find(const struct eng_config *config, const char *key, const char *alias,
                     struct eng_config_value *ret_value)
{
    for (; key != NULL; key = alias, alias = NULL) {
        for (uint32_t i = 0; i < config->count; i++) {
            const struct eng_config_member *member = &config->members[i];
            if (!fm_json_text_is(member->key, key))
                continue;
            if (member->value.data[0] == 'n') /* null */
                break;
            value_set(config, member, ret_value);
            return true;
        }
    }
    return false;
}

bool eng_config_prefix_find(const struct eng_config *config, const char *prefix,
                            struct eng_config_value *ret_value)
{
    size_t bytes = strlen(prefix);
    for (uint32_t i = 0; i < config->count; i++) {
        const struct eng_config_member *member = &config->members[i];
        if (member->key.bytes >= bytes && memcmp(member->key.data, prefix, bytes) == 0 &&
            member->value.data[0] != 'n') {
            value_set(config, member, ret_value);
            return true;
        }
    }
    return false;
}

enum fm_status eng_config_object(const struct eng_config_value *value,
                                 struct eng_config *ret_config, struct fm_err *err)
{
    char path[64], shown[64];
    if (value->raw.data[0] != '{')
        return FM_FAIL(err, FM_CORRUPT, "\"%s\" is %s, an object is expected", value->key,
                       eng_config_show(value, shown));
    (void)snprintf(path, sizeof path, "%.60s.", value->key);
    return eng_config_init(ret_config, path, value->raw.data, value->raw.bytes, err);
}

enum fm_status eng_config_u32(const struct eng_config_value *value, uint32_t min, uint32_t max,
                              uint32_t *ret_number, struct fm_err *err)
{
    struct fm_json json;
    uint64_t number;
    char shown[64];

    FM_ASSERT(min <= max);
    fm_json_init(&json, value->raw.data, value->raw.bytes);
    if (!fm_json_u64(&json, max, &number) || number < min)
        return FM_FAIL(err, FM_CORRUPT, "\"%s\" is %s, a whole number from %u to %u is expected",
                       value->key, eng_config_show(value, shown), min, max);
    *ret_number = (uint32_t)number;
    return FM_OK;
}

enum fm_status eng_config_f64(const struct eng_config_value *value, double min, double max,
                              double *ret_number, struct fm_err *err)
{
    struct fm_json json;
    double number;
    char shown[64];

    FM_ASSERT(min <= max);
    fm_json_init(&json, value->raw.data, value->raw.bytes);
    if (!fm_json_f64(&json, &number) || number < min || number > max)
        return FM_FAIL(err, FM_CORRUPT, "\"%s\" is %s, a number from %g to %g is expected",
                       value->key, eng_config_show(value, shown), min, max);
    *ret_number = number;
    return FM_OK;
}

enum fm_status eng_config_u32_array(const struct eng_config_value *value, uint32_t count_max,
                                    uint32_t max, uint32_t *ret_numbers, uint32_t *ret_count,
                                    struct fm_err *err)
{
    struct fm_json json;
    uint32_t count = 0;
    uint64_t number;
    char shown[64];

    fm_json_init(&json, value->raw.data, value->raw.bytes);
    (void)fm_json_array_open(&json);
    while (fm_json_element(&json)) {
        if (count == count_max)
            return FM_FAIL(err, FM_CORRUPT, "\"%s\" has more than %u entries", value->key,
                           count_max);
        if (fm_json_u64(&json, max, &number))
            ret_numbers[count++] = (uint32_t)number;
    }
    if (fm_json_end(&json, NULL) != FM_OK || count == 0)
        return FM_FAIL(err, FM_CORRUPT,
                       "\"%s\" is %s, an array of whole numbers from 0 to %u is expected",
                       value->key, eng_config_show(value, shown), max);
    *ret_count = count;
    return FM_OK;
}

enum fm_status eng_config_word_array(const struct eng_config_value *value,
                                     const struct eng_config_words *words, uint32_t *ret_indices,
                                     uint32_t *ret_count, struct fm_err *err)
{
    struct fm_json json;
    struct fm_json_text word;
    uint32_t count = 0;
    char shown[64];

    fm_json_init(&json, value->raw.data, value->raw.bytes);
    (void)fm_json_array_open(&json);
    while (fm_json_element(&json)) {
        if (!fm_json_string(&json, &word))
            break;
        uint32_t index = 0;
        while (index < words->name_count && !fm_json_text_is(word, words->names[index]))
            index++;
        if (index == words->name_count)
            return FM_FAIL(err, FM_UNSUPPORTED, "\"%s\" has the entry \"%.*s\", which is not known",
                           value->key, (int)fm_min_u64(word.bytes, 48), word.data);
        if (count == words->count_max)
            return FM_FAIL(err, FM_CORRUPT, "\"%s\" has more than %u entries", value->key,
                           words->count_max);
        ret_indices[count++] = index;
    }
    if (fm_json_end(&json, NULL) != FM_OK || count == 0)
        return FM_FAIL(err, FM_CORRUPT, "\"%s\" is %s, an array of strings is expected", value->key,
                       eng_config_show(value, shown));
    *ret_count = count;
    return FM_OK;
}

bool eng_config_is(const struct eng_config_value *value, const char *text)
{
    struct fm_json json;
    struct fm_json_text string;

    fm_json_init(&json, value->raw.data, value->raw.bytes);
    return fm_json_string(&json, &string) && fm_json_text_is(string, text);
}

bool eng_config_is_raw(const struct eng_config_value *value, const char *raw)
{
    return value->raw.bytes == strlen(raw) && memcmp(value->raw.data, raw, value->raw.bytes) == 0;
}

const char *eng_config_show(const struct eng_config_value *value, char target[64])
{
    size_t bytes = fm_min_u64(value->raw.bytes, 48);

    /* Never end inside a character. */
    while (bytes > 0 && bytes < value->raw.bytes &&
           ((unsigned char)value->raw.data[bytes] & 0xc0) == 0x80)
        bytes--;
    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)value->raw.data[i];
        target[i] = c < 0x20 || c == 0x7f ? ' ' : (char)c;
    }
    (void)snprintf(target + bytes, 64 - bytes, "%s", bytes < value->raw.bytes ? "..." : "");
    return target;
}

enum fm_status eng_config_missing(const struct eng_config *config, const char *key,
                                  struct fm_err *err)
{
    return FM_FAIL(err, FM_CORRUPT, "\"%s%s\" is missing", config->path, key);
}
