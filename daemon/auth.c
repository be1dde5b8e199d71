/* auth.c - the list of keys, comparison in constant time, counts of failures; see auth.h.
 *
 * Invariants:
 *   1. No plain key is in memory after srv_keys_load; what a request presented is in its own buffer.
 *   2. srv_keys_find does the same work whichever key matches, and none matching. */
#include "daemon/auth.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "backends/base/assert.h"
#include "backends/base/clock.h"
#include "backends/base/hash.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"
#include "daemon/config.h"
#include "daemon/sha256.h"

enum { SALT_BYTES_MAX = 32, OWN_SALT_BYTES = 16 };

struct entry {
    struct srv_key key;
    unsigned char salt[SALT_BYTES_MAX];
    size_t salt_bytes;
    unsigned char digest[SRV_SHA256_BYTES];
};

struct srv_keys {
    uint32_t references;
    uint32_t count, capacity;
    struct entry entries[];
};

static void digest_of(const unsigned char *salt, size_t salt_bytes, const char *secret,
                      size_t bytes, unsigned char ret_digest[SRV_SHA256_BYTES])
{
    struct srv_sha256 hash;
    srv_sha256_init(&hash);
    srv_sha256_add(&hash, salt, salt_bytes);
    srv_sha256_add(&hash, secret, bytes);
    srv_sha256_done(&hash, ret_digest);
}

/* ---- reading the file ------------------------------------------------------------------------ */

static bool parse_hex(const char *text, size_t length, unsigned char *target, size_t bytes_max,
                      size_t *ret_bytes)
{
    static const char digits[] = "0123456789abcdef";
    if (length == 0 || length % 2 != 0 || length / 2 > bytes_max)
        return false;
    for (size_t i = 0; i < length; i++) {
        const char *digit = text[i] == '\0' ? NULL : strchr(digits, text[i]);
        if (digit == NULL)
            return false;
        unsigned value = (unsigned)(digit - digits);
        target[i / 2] = (unsigned char)(i % 2 == 0 ? value << 4 : target[i / 2] | value);
    }
    *ret_bytes = length / 2;
    return true;
}

static enum fm_status parse_secret(const char *text, struct entry *entry, struct fm_err *err)
{
    static const char prefix[] = "sha256:";
    size_t length = strlen(text);
    if (strncmp(text, prefix, sizeof prefix - 1) != 0) {
        if (length < 8 || length > SRV_KEY_BYTES_MAX)
            return FM_FAIL(err, FM_INVALID, "the key has %zu bytes, expected 8 to %d", length,
                           SRV_KEY_BYTES_MAX);
        fm_random_bytes(entry->salt, OWN_SALT_BYTES);
        entry->salt_bytes = OWN_SALT_BYTES;
        digest_of(entry->salt, entry->salt_bytes, text, length, entry->digest);
        return FM_OK;
    }
    const char *salt = text + sizeof prefix - 1;
    const char *colon = strchr(salt, ':');
    size_t digest_bytes = 0;
    if (colon == NULL ||
        !parse_hex(salt, (size_t)(colon - salt), entry->salt, SALT_BYTES_MAX, &entry->salt_bytes))
        return FM_FAIL(err, FM_INVALID, "expected sha256:SALT:DIGEST with a salt of up to %d bytes",
                       SALT_BYTES_MAX);
    if (!parse_hex(colon + 1, strlen(colon + 1), entry->digest, SRV_SHA256_BYTES, &digest_bytes) ||
        digest_bytes != SRV_SHA256_BYTES)
        return FM_FAIL(err, FM_INVALID, "the digest is not %d hexadecimal digits",
                       2 * SRV_SHA256_BYTES);
    return FM_OK;
}

static enum fm_status parse_permissions(char *text, uint32_t *ret_permissions, struct fm_err *err)
{
    static const struct {
        const char *name;
        uint32_t bit;
    } known[] = {{"inference", SRV_MAY_INFER},
                 {"metrics", SRV_MAY_READ_METRICS},
                 {"admin", SRV_MAY_ADMINISTER}};
    uint32_t permissions = 0;
    char *rest = NULL;
    for (char *word = strtok_r(text, ",", &rest); word != NULL; word = strtok_r(NULL, ",", &rest)) {
        uint32_t bit = 0;
        for (size_t i = 0; i < FM_COUNT(known); i++)
            if (strcmp(word, known[i].name) == 0)
                bit = known[i].bit;
        if (bit == 0)
            return FM_FAIL(err, FM_INVALID,
                           "there is no permission '%.32s', only inference, metrics, admin", word);
        permissions |= bit;
    }
    *ret_permissions = permissions;
    return FM_OK;
}

static enum fm_status parse_line(struct srv_keys *keys, char *line, struct fm_err *err)
{
    char *rest = NULL;
    char *name = strtok_r(line, " \t\r", &rest);
    if (name == NULL || name[0] == '#')
        return FM_OK;
    char *secret = strtok_r(NULL, " \t\r", &rest);
    char *permissions = strtok_r(NULL, " \t\r", &rest);
    if (secret == NULL || strtok_r(NULL, " \t\r", &rest) != NULL)
        return FM_FAIL(err, FM_INVALID, "expected NAME KEY [PERMISSION,...]");
    struct entry entry = {.key.permissions = SRV_MAY_INFER};
    size_t name_bytes = strlen(name);
    if (name_bytes >= sizeof entry.key.name || name[strspn(name, "abcdefghijklmnopqrstuvwxyz"
                                                                 "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                                                 "0123456789._-")] != '\0')
        return FM_FAIL(err, FM_INVALID, "a name has up to %zu letters, digits, '.', '_' and '-'",
                       sizeof entry.key.name - 1);
    memcpy(entry.key.name, name, name_bytes + 1);
    for (uint32_t i = 0; i < keys->count; i++)
        if (strcmp(keys->entries[i].key.name, name) == 0)
            return FM_FAIL(err, FM_INVALID, "there are two keys '%s'", name);
    if (keys->count == keys->capacity)
        return FM_FAIL(err, FM_LIMIT, "more than %u keys (auth.max_keys)", keys->capacity);
    enum fm_status status = parse_secret(secret, &entry, err);
    if (status == FM_OK && permissions != NULL)
        status = parse_permissions(permissions, &entry.key.permissions, err);
    if (status == FM_OK)
        keys->entries[keys->count++] = entry;
    return status;
}

enum fm_status srv_keys_load(const char *path, uint32_t keys_max, struct srv_keys **ret_keys,
                             struct fm_err *err)
{
    char *text = NULL;
    enum fm_status status = srv_config_text(path, &text, err);
    if (status != FM_OK)
        return status;
    size_t length = strlen(text);
    struct srv_keys *keys = fm_alloc(sizeof *keys + (size_t)keys_max * sizeof keys->entries[0]);
    if (keys == NULL) {
        status = FM_FAIL(err, FM_NOMEM, "no memory for %u keys", keys_max);
        goto out_text;
    }
    keys->references = 1;
    keys->capacity = keys_max;
    struct fm_err cause;
    uint32_t line_number = 1;
    for (char *line = text; line != NULL && status == FM_OK; line_number++) {
        char *end = strchr(line, '\n');
        if (end != NULL)
            *end = '\0';
        status = parse_line(keys, line, &cause);
        if (status != FM_OK)
            (void)FM_FAIL(err, status, "%s:%u: %s", path, line_number, cause.text);
        line = end == NULL ? NULL : end + 1;
    }
    if (status == FM_OK && keys->count == 0)
        status = FM_FAIL(err, FM_INVALID, "%s: there is no key in it", path);
    if (status == FM_OK)
        *ret_keys = keys;
    else
        srv_keys_put(keys);
out_text:
    fm_wipe(text, length);
    fm_free(text);
    return status;
}

struct srv_keys *srv_keys_take(struct srv_keys *keys)
{
    FM_ASSERT(keys->references > 0);
    keys->references++;
    return keys;
}

void srv_keys_put(struct srv_keys *keys)
{
    if (keys == NULL)
        return;
    FM_ASSERT(keys->references > 0);
    if (--keys->references > 0)
        return;
    fm_wipe(keys->entries, keys->count * sizeof keys->entries[0]);
    fm_free(keys);
}

uint32_t srv_keys_count(const struct srv_keys *keys)
{
    return keys->count;
}

/* ---- comparing ------------------------------------------------------------------------------- */

/* 0 when equal; the time does not depend on where they differ. */
static unsigned difference(const unsigned char *a, const unsigned char *b, size_t bytes)
{
    volatile unsigned all = 0;
    for (size_t i = 0; i < bytes; i++)
        all = all | (unsigned)(a[i] ^ b[i]);
    return all;
}

const struct srv_key *srv_keys_find(const struct srv_keys *keys, const char *secret, size_t bytes)
{
    const struct srv_key *found = NULL;
    if (bytes > SRV_KEY_BYTES_MAX)
        return NULL;
    for (uint32_t i = 0; i < keys->count; i++) {
        const struct entry *entry = &keys->entries[i];
        unsigned char digest[SRV_SHA256_BYTES];
        digest_of(entry->salt, entry->salt_bytes, secret, bytes, digest);
        if (difference(digest, entry->digest, sizeof digest) == 0)
            found = &entry->key;
    }
    return found;
}

bool srv_auth_secret(const char *authorization, const char *x_api_key, const char *api_key,
                     const char **ret_secret, size_t *ret_bytes)
{
    static const char scheme[] = "Bearer";
    const char *secret = authorization;
    if (secret != NULL) {
        secret += strspn(secret, " \t");
        size_t scheme_bytes = sizeof scheme - 1;
        if (strncasecmp(secret, scheme, scheme_bytes) == 0 &&
            (secret[scheme_bytes] == ' ' || secret[scheme_bytes] == '\t'))
            secret += scheme_bytes + strspn(secret + scheme_bytes, " \t");
    } else {
        secret = x_api_key != NULL ? x_api_key : api_key;
    }
    if (secret == NULL)
        return false;
    size_t bytes = strlen(secret);
    while (bytes > 0 && (secret[bytes - 1] == ' ' || secret[bytes - 1] == '\t'))
        bytes--;
    if (bytes == 0)
        return false;
    *ret_secret = secret;
    *ret_bytes = bytes;
    return true;
}

static void put_hex(struct fm_buf *out, const unsigned char *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        (void)fm_buf_printf(out, "%02x", data[i]);
}

void srv_key_line(const char *name, const char *secret, size_t bytes, struct fm_buf *out)
{
    unsigned char salt[OWN_SALT_BYTES], digest[SRV_SHA256_BYTES];
    fm_random_bytes(salt, sizeof salt);
    digest_of(salt, sizeof salt, secret, bytes, digest);
    (void)fm_buf_printf(out, "%s sha256:", name);
    put_hex(out, salt, sizeof salt);
    (void)fm_buf_putc(out, ':');
    put_hex(out, digest, sizeof digest);
    (void)fm_buf_putc(out, '\n');
}

/* ---- failures by address --------------------------------------------------------------------- */

void srv_auth_failures_init(struct srv_auth_failures *failures)
{
    memset(failures, 0, sizeof *failures);
    fm_random_bytes(&failures->seed, sizeof failures->seed);
}

static uint32_t place_of(const struct srv_auth_failures *failures, const void *address,
                         size_t bytes)
{
    return (uint32_t)(fm_hash64(address, bytes, failures->seed) % SRV_AUTH_ADDRESSES);
}

static uint64_t minute_now(void)
{
    return fm_clock_ns() / (60 * FM_NS_PER_S);
}

void srv_auth_failed(struct srv_auth_failures *failures, const void *address, size_t bytes)
{
    uint32_t place = place_of(failures, address, bytes);
    if (failures->places[place].minute != minute_now()) {
        failures->places[place].minute = minute_now();
        failures->places[place].count = 0;
    }
    if (failures->places[place].count < UINT32_MAX)
        failures->places[place].count++;
}

bool srv_auth_is_blocked(const struct srv_auth_failures *failures, const void *address,
                         size_t bytes, uint64_t per_minute)
{
    uint32_t place = place_of(failures, address, bytes);
    return failures->places[place].minute == minute_now() &&
           failures->places[place].count >= per_minute;
}
