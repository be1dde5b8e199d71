/* auth.h - API keys: a list from a file, compared in constant time.
 *
 * The file has one key a line; blank lines and lines that begin with # are left out:
 *
 *     NAME KEY [PERMISSION,...]      KEY as it is, or sha256:SALT:DIGEST (see --hash-key)
 *
 * SALT and DIGEST are hexadecimal, the digest is SHA-256 over the salt's bytes and the key.  Keys
 * given as they are are digested at once; no plain key stays in memory.  Permissions: inference
 * (what no list gives), metrics, admin.  Main thread, but srv_key_ functions: any. */
#ifndef SRV_AUTH_H
#define SRV_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backends/base/buf.h"
#include "backends/base/status.h"

struct srv_keys; /* opaque: auth.c; immutable */

enum srv_permission {
    SRV_MAY_INFER = 1,
    SRV_MAY_READ_METRICS = 2,
    SRV_MAY_ADMINISTER = 4,
};

enum { SRV_KEY_NAME_BYTES = 64, SRV_KEY_BYTES_MAX = 512 };

struct srv_key {
    char name[SRV_KEY_NAME_BYTES]; /* never the secret */
    uint32_t permissions;
};

/* FM_INVALID: the message has file and line, and no part of a key.  One reference is the caller's. */
enum fm_status srv_keys_load(const char *path, uint32_t keys_max, struct srv_keys **ret_keys,
                             struct fm_err *err) FM_MUST_CHECK;
struct srv_keys *srv_keys_take(struct srv_keys *keys);
void srv_keys_put(struct srv_keys *keys); /* NULL is allowed */
uint32_t srv_keys_count(const struct srv_keys *keys);

/* The key that was presented, or NULL.  Looks at every key, whatever matches. */
const struct srv_key *srv_keys_find(const struct srv_keys *keys, const char *secret, size_t bytes);

/* The secret in the headers of a request: Authorization: Bearer, x-api-key, api-key, in this order.
 * Each may be NULL.  false: there is none.  A header that says something else than Bearer counts as
 * a secret that no key matches. */
bool srv_auth_secret(const char *authorization, const char *x_api_key, const char *api_key,
                     const char **ret_secret, size_t *ret_bytes);

/* A line for the file, for the secret: "NAME sha256:SALT:DIGEST\n". */
void srv_key_line(const char *name, const char *secret, size_t bytes, struct fm_buf *out);

/* ---- failures by address ------------------------------------------------------------------------ */

enum { SRV_AUTH_ADDRESSES = 1024 };

/* A table of fixed size: two addresses that fall on one place share their count. */
struct srv_auth_failures {
    struct {
        uint64_t minute;
        uint32_t count;
    } places[SRV_AUTH_ADDRESSES];
    uint64_t seed;
};
void srv_auth_failures_init(struct srv_auth_failures *failures);

/* Count one more from the address (its bytes, without the port) / has it had too many this minute? */
void srv_auth_failed(struct srv_auth_failures *failures, const void *address, size_t bytes);
bool srv_auth_is_blocked(const struct srv_auth_failures *failures, const void *address,
                         size_t bytes, uint64_t per_minute);

#endif
