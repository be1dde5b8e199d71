/* bench_tokenizer.c - tokens a second on one core, next to the `tokenizers` package from PyPI.
 *
 * Same texts, same tokenizer (129,280 ids), same run; the ids of both are compared by a checksum.
 * Run from the root of the tree.  Needs python3 for the texts; without the package only our own
 * figures are printed. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/clock.h"
#include "engine/text.h"

enum { TEXTS = 6, ROUNDS = 7 };

static const char *const names[TEXTS] = {"english",  "chinese",        "prose_of_the_project",
                                         "c_source", "random_letters", "one_letter"};
static const double wanted_millions[TEXTS] = {4, 0, 0, 8, 1, 1};
static const double wanted_ratio[TEXTS] = {8, 8, 0, 0, 0, 0};

static int shell(const char *format, const char *dir)
{
    char command[2048];
    (void)snprintf(command, sizeof command, format, dir, dir, dir, dir, dir, dir, dir);
    return system(command);
}

static char *file_read(const char *dir, const char *name, size_t *ret_length)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s.txt", dir, name);
    FILE *file = fopen(path, "rb");
    if (file == NULL)
        return NULL;
    (void)fseek(file, 0, SEEK_END);
    size_t length = (size_t)ftell(file);
    (void)fseek(file, 0, SEEK_SET);
    char *data = malloc(length + 1);
    *ret_length = data != NULL ? fread(data, 1, length, file) : 0;
    (void)fclose(file);
    return data;
}

/* The checksum that Python's zlib.crc32 gives for the ids as little-endian words. */
static uint32_t crc32_of(const uint32_t *ids, uint32_t count)
{
    const unsigned char *bytes = (const unsigned char *)ids;
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < (size_t)count * 4; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = (crc >> 1) ^ ((crc & 1) != 0 ? UINT32_C(0xedb88320) : 0);
    }
    return ~crc;
}

struct result {
    uint32_t tokens, crc;
    size_t bytes;
    double seconds;
};

/* Documents are separated by NUL. */
static enum fm_status documents_encode(const struct eng_text *text, const char *data, size_t length,
                                       struct eng_tokens *tokens)
{
    const char *end = data + length;
    while (data < end) {
        const char *cut = memchr(data, 0, (size_t)(end - data));
        if (cut == NULL)
            cut = end;
        enum fm_status status =
            eng_encode(text, data, (size_t)(cut - data), ENG_ENCODE_TEXT, tokens, NULL);
        if (status != FM_OK)
            return status;
        data = cut + 1;
    }
    return FM_OK;
}

static int own_run(const struct eng_text *text, const char *dir, const char *name,
                   struct result *ret)
{
    struct eng_tokens tokens;
    char *data = file_read(dir, name, &ret->bytes);
    if (data == NULL)
        return 1;
    ret->seconds = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        eng_tokens_init(&tokens, UINT32_MAX);
        uint64_t begin = fm_clock_ns();
        enum fm_status status = documents_encode(text, data, ret->bytes, &tokens);
        double seconds = (double)(fm_clock_ns() - begin) * 1e-9;
        if (status != FM_OK)
            return 1;
        if (seconds < ret->seconds)
            ret->seconds = seconds;
        ret->tokens = tokens.count;
        if (round == 0)
            ret->crc = crc32_of(tokens.ids, tokens.count);
        eng_tokens_done(&tokens);
    }
    free(data);
    return 0;
}

/* What bench_tokenizer.py says, by name; seconds stay 0 where it says nothing. */
static void peer_run(const char *dir, struct result peers[TEXTS])
{
    char command[2048], path[600];
    (void)snprintf(command, sizeof command,
                   "p=build/venv/bin/python; $p -c 'import tokenizers' 2>/dev/null || p=python3; "
                   "$p tests/bench/bench_tokenizer.py '%s/tokenizer.json' '%s'/english.txt "
                   "'%s'/chinese.txt '%s'/prose_of_the_project.txt '%s'/c_source.txt",
                   dir, dir, dir, dir, dir);
    FILE *pipe = popen(command, "r");
    struct result row;
    while (pipe != NULL && fscanf(pipe, "%599s %" SCNu32 " %lf %" SCNx32, path, &row.tokens,
                                  &row.seconds, &row.crc) == 4) {
        for (int i = 0; i < TEXTS; i++) {
            if (strstr(path, names[i]) != NULL)
                peers[i] = row;
        }
    }
    if (pipe != NULL)
        (void)pclose(pipe);
}

int main(void)
{
    char dir[] = "/tmp/fathom-bench-XXXXXX";
    struct eng_text *text = NULL;
    struct fm_err err = {0};
    struct result peers[TEXTS] = {{0}};
    int failed = 0;
    if (mkdtemp(dir) == NULL || shell("python3 tests/bench/bench_text.py '%s'", dir) != 0 ||
        shell("gzip -dc tests/golden/tokenizer/tokenizer.json.gz > '%s/tokenizer.json'", dir) != 0)
        return 1;
    uint64_t begin = fm_clock_ns();
    if (eng_text_open(dir, NULL, &text, &err) != FM_OK) {
        (void)fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    printf("tokenizer of 129,280 ids loaded in %.0f ms\n", (double)(fm_clock_ns() - begin) * 1e-6);
    peer_run(dir, peers);
    printf("%-22s %9s %8s %10s %12s %7s  %s\n", "text", "tokens", "MB/s", "M tokens/s",
           "tokenizers", "ratio", "wanted");
    for (int i = 0; i < TEXTS; i++) {
        struct result own = {0};
        if (own_run(text, dir, names[i], &own) != 0)
            return 1;
        double rate = (double)own.tokens / own.seconds * 1e-6;
        double peer = peers[i].seconds > 0 ? (double)peers[i].tokens / peers[i].seconds * 1e-6 : 0;
        bool is_same = peer == 0 || (peers[i].tokens == own.tokens && peers[i].crc == own.crc);
        bool is_met = rate >= wanted_millions[i] && (peer == 0 || rate / peer >= wanted_ratio[i]);
        printf("%-22s %9u %8.1f %10.2f %12.3f %6.1fx  %.0f M, %.0fx: %s%s\n", names[i], own.tokens,
               (double)own.bytes / own.seconds * 1e-6, rate, peer, peer > 0 ? rate / peer : 0,
               wanted_millions[i], wanted_ratio[i], is_met ? "met" : "MISSED",
               is_same ? "" : "  IDS DIFFER");
        failed += !is_same;
    }
    eng_text_free(text);
    (void)shell("rm -rf '%s'", dir);
    return failed != 0;
}
