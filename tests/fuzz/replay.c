/* replay.c - runs a fuzz entry over its corpus, and over seeded mutations of it, without a fuzzer.
 *
 * build/.../tests/fuzz/fuzz_NOUN reads tests/fuzz/corpus/NOUN.  `make fuzz` builds the same entries
 * for libFuzzer instead. */
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/base/checked.h"
#include "backends/base/mem.h"
#include "backends/base/prng.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

enum { INPUT_BYTES_MAX = 1 << 20, MUTATIONS = 200 };

static uint8_t input[INPUT_BYTES_MAX], mutant[INPUT_BYTES_MAX];

/* Change, insert or drop a few bytes, or cut the end. */
static size_t mutate(size_t bytes, uint64_t seed, uint64_t stream)
{
    memcpy(mutant, input, bytes);
    uint64_t edits = 1 + fm_prng_u64(seed, stream, 0) % 4;
    for (uint64_t i = 1; i <= edits && bytes > 0; i++) {
        uint64_t draw = fm_prng_u64(seed, stream, i);
        size_t at = (size_t)(draw >> 32) % bytes;
        switch (draw % 4) {
        case 0: mutant[at] = (uint8_t)(draw >> 8); break;
        case 1: mutant[at] ^= (uint8_t)(1u << (draw >> 8) % 8); break;
        case 2:
            if (bytes < INPUT_BYTES_MAX) {
                memmove(mutant + at + 1, mutant + at, bytes - at);
                mutant[at] = (uint8_t)(draw >> 8);
                bytes++;
            }
            break;
        default:
            memmove(mutant + at, mutant + at + 1, bytes - at - 1);
            bytes--;
            break;
        }
        if ((draw >> 16) % 16 == 0)
            bytes = at;
    }
    return bytes;
}

int main(int argc, char **argv)
{
    (void)argc;
    const char *text = getenv("FATHOM_SEED");
    uint64_t seed = 1;
    if (text != NULL && !fm_parse_u64(text, 0, UINT64_MAX, &seed))
        return EXIT_FAILURE;

    const char *noun = strstr(argv[0], "fuzz_");
    if (noun == NULL)
        return EXIT_FAILURE;
    for (const char *next; (next = strstr(noun + 1, "fuzz_")) != NULL;)
        noun = next;
    char folder[256];
    (void)snprintf(folder, sizeof folder, "tests/fuzz/corpus/%s", noun + strlen("fuzz_"));
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        (void)fprintf(stderr, "no corpus in %s\n", folder);
        return EXIT_FAILURE;
    }
    uint32_t files = 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[1024];
        (void)snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        FILE *file = entry->d_name[0] == '.' ? NULL : fopen(path, "rb");
        if (file == NULL)
            continue;
        size_t bytes = fread(input, 1, sizeof input, file);
        (void)fclose(file);
        (void)LLVMFuzzerTestOneInput(input, bytes);
        for (uint64_t i = 0; i < MUTATIONS; i++) {
            size_t left = mutate(bytes, seed, files * (uint64_t)MUTATIONS + i);
            uint8_t *exact = fm_alloc(left); /* of the exact size, for the address sanitizer */
            if (exact == NULL)
                return EXIT_FAILURE;
            memcpy(exact, mutant, left);
            (void)LLVMFuzzerTestOneInput(exact, left);
            fm_free(exact);
        }
        files++;
    }
    (void)closedir(dir);
    printf("FATHOM_SEED=%" PRIu64 "\n%u passed, 0 failed\n", seed, files);
    return files > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
