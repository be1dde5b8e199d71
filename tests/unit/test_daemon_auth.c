/* test_daemon_auth.c - digests, the file of keys, comparison, failures by address. */
#include "daemon/auth.h"

#include <stdio.h>
#include <string.h>

#include "backends/base/clock.h"
#include "backends/base/fault.h"
#include "daemon/sha256.h"
#include "tests/support/support.h"

static void hex_of(const void *data, size_t bytes, char ret_hex[65])
{
    struct srv_sha256 hash;
    unsigned char digest[SRV_SHA256_BYTES];
    srv_sha256_init(&hash);
    srv_sha256_add(&hash, data, bytes / 3);
    srv_sha256_add(&hash, (const char *)data + bytes / 3, bytes - bytes / 3);
    srv_sha256_done(&hash, digest);
    for (size_t i = 0; i < sizeof digest; i++)
        (void)snprintf(ret_hex + 2 * i, 3, "%02x", digest[i]);
}

/* The examples of FIPS 180-4, and lengths around a block's end (values of Python's hashlib). */
START_TEST(sha256_gives_the_published_digests)
{
    char hex[65], text[120];
    hex_of("", 0, hex);
    ck_assert_str_eq(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hex_of("abc", 3, hex);
    ck_assert_str_eq(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hex_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hex);
    ck_assert_str_eq(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    memset(text, 'a', sizeof text);
    hex_of(text, 55, hex);
    ck_assert_str_eq(hex, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318");
    hex_of(text, 64, hex);
    ck_assert_str_eq(hex, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb");
    hex_of(text, 119, hex);
    ck_assert_str_eq(hex, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb");
}
END_TEST

static const char *file_with(const char *text)
{
    static char path[512];
    (void)snprintf(path, sizeof path, "%s/keys", test_dir());
    FILE *file = fopen(path, "w");
    ck_assert_ptr_nonnull(file);
    ck_assert_int_ge(fputs(text, file), 0);
    ck_assert_int_eq(fclose(file), 0);
    return path;
}

static struct srv_keys *load(const char *text)
{
    struct srv_keys *keys = NULL;
    struct fm_err err;
    enum fm_status status = srv_keys_load(file_with(text), 8, &keys, &err);
    ck_assert_msg(status == FM_OK, "%s", status == FM_OK ? "" : err.text);
    return keys;
}

static const struct srv_key *find(const struct srv_keys *keys, const char *secret)
{
    return srv_keys_find(keys, secret, strlen(secret));
}

START_TEST(keys_are_found_by_secret_only)
{
    struct srv_keys *keys = load("# the team\nalice sk-alice-1234\n\n"
                                 "bob\tsk-bob-5678  inference,metrics\n");
    ck_assert_uint_eq(srv_keys_count(keys), 2);
    ck_assert_str_eq(find(keys, "sk-alice-1234")->name, "alice");
    ck_assert_uint_eq(find(keys, "sk-alice-1234")->permissions, SRV_MAY_INFER);
    ck_assert_uint_eq(find(keys, "sk-bob-5678")->permissions, SRV_MAY_INFER | SRV_MAY_READ_METRICS);
    ck_assert_ptr_null(find(keys, "sk-alice-123"));
    ck_assert_ptr_null(find(keys, "sk-alice-12345"));
    ck_assert_ptr_null(find(keys, "alice"));
    ck_assert_ptr_null(find(keys, ""));
    char huge[SRV_KEY_BYTES_MAX + 2] = {0};
    memset(huge, 'a', SRV_KEY_BYTES_MAX + 1);
    ck_assert_ptr_null(find(keys, huge));
    srv_keys_put(keys);
}
END_TEST

START_TEST(hashed_line_stands_for_its_secret)
{
    struct fm_buf line;
    fm_buf_init(&line, 512);
    srv_key_line("carol", "sk-carol-42", 11, &line);
    ck_assert_ptr_null(strstr(line.data, "sk-carol"));
    struct srv_keys *keys = load(line.data);
    ck_assert_str_eq(find(keys, "sk-carol-42")->name, "carol");
    ck_assert_ptr_null(find(keys, "sk-carol-43"));
    srv_keys_put(keys);
    fm_buf_done(&line);
}
END_TEST

static void check_refused(const char *text, const char *message)
{
    struct srv_keys *keys = NULL;
    struct fm_err err;
    ck_assert_int_lt(srv_keys_load(file_with(text), 2, &keys, &err), 0);
    ck_assert_ptr_null(keys);
    ck_assert_msg(strstr(err.text, message) != NULL, "'%s' is not in '%s'", message, err.text);
    ck_assert_msg(strstr(err.text, "secret") == NULL, "a key is in '%s'", err.text);
}

START_TEST(mistakes_have_their_line_and_no_key)
{
    check_refused("a secret-secret\nb\n", "keys:2: expected NAME KEY");
    check_refused("a secret-secret x y\n", "keys:1: expected NAME KEY");
    check_refused("a secret-secret root\n", "keys:1: there is no permission 'root'");
    check_refused("a secret-secret\na secret-secret\n", "keys:2: there are two keys 'a'");
    check_refused("a/b secret-secret\n", "keys:1: a name has up to");
    check_refused("a short\n", "keys:1: the key has 5 bytes, expected 8 to 512");
    check_refused("a secret-1\nb secret-2\nc secret-3\n", "keys:3: more than 2 keys");
    check_refused("a sha256:xy:00\n", "keys:1: expected sha256:SALT:DIGEST");
    check_refused("a sha256:00:00\n", "keys:1: the digest is not 64 hexadecimal digits");
    check_refused("# nothing\n", "there is no key in it");
}
END_TEST

START_TEST(load_survives_every_alloc_failure)
{
    const char *path = file_with("a secret-secret\n");
    bool fired = true;
    for (uint32_t nth = 1; fired; nth++) {
        struct srv_keys *keys = NULL;
        struct fm_err err = {0};
        fm_fault_arm("alloc", nth);
        enum fm_status status = srv_keys_load(path, 8, &keys, &err);
        fired = fm_fault_disarm("alloc");
        ck_assert_int_eq(status, fired ? FM_NOMEM : FM_OK);
        srv_keys_put(keys);
    }
}
END_TEST

START_TEST(secret_comes_from_the_first_header)
{
    const char *secret = NULL;
    size_t bytes = 0;
    ck_assert(srv_auth_secret("bEaReR \t k1 ", "k2", "k3", &secret, &bytes));
    ck_assert(bytes == 2 && memcmp(secret, "k1", 2) == 0);
    ck_assert(srv_auth_secret(NULL, "k2", "k3", &secret, &bytes));
    ck_assert(bytes == 2 && memcmp(secret, "k2", 2) == 0);
    ck_assert(srv_auth_secret(NULL, NULL, "k3", &secret, &bytes));
    ck_assert(bytes == 2 && memcmp(secret, "k3", 2) == 0);
    ck_assert(srv_auth_secret("Basic abc", NULL, NULL, &secret, &bytes));
    ck_assert(bytes == 9);
    ck_assert(!srv_auth_secret(NULL, NULL, NULL, &secret, &bytes));
    ck_assert(!srv_auth_secret("Bearer  ", NULL, NULL, &secret, &bytes));
}
END_TEST

START_TEST(failures_block_an_address_for_its_minute)
{
    uint64_t now = 600 * FM_NS_PER_S;
    struct srv_auth_failures failures;
    fm_clock_fake(&now);
    srv_auth_failures_init(&failures);
    for (int i = 0; i < 3; i++) {
        ck_assert(!srv_auth_is_blocked(&failures, "\x7f\0\0\1", 4, 3));
        srv_auth_failed(&failures, "\x7f\0\0\1", 4);
    }
    ck_assert(srv_auth_is_blocked(&failures, "\x7f\0\0\1", 4, 3));
    now += 60 * FM_NS_PER_S;
    ck_assert(!srv_auth_is_blocked(&failures, "\x7f\0\0\1", 4, 3));
    srv_auth_failed(&failures, "\x7f\0\0\1", 4);
    ck_assert(!srv_auth_is_blocked(&failures, "\x7f\0\0\1", 4, 3));
    fm_clock_fake(NULL);
}
END_TEST

Suite *test_suite(void)
{
    Suite *suite = suite_create("daemon auth");
    TCase *all = tcase_create("all");
    tcase_add_test(all, sha256_gives_the_published_digests);
    tcase_add_test(all, keys_are_found_by_secret_only);
    tcase_add_test(all, hashed_line_stands_for_its_secret);
    tcase_add_test(all, mistakes_have_their_line_and_no_key);
    tcase_add_test(all, load_survives_every_alloc_failure);
    tcase_add_test(all, secret_comes_from_the_first_header);
    tcase_add_test(all, failures_block_an_address_for_its_minute);
    suite_add_tcase(suite, all);
    return suite;
}
