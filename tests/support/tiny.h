/* tiny.h - small random checkpoints in the released file layout, for everybody's tests.
 *
 * Six layers, D 128, 4 heads, 8 experts of which 2 are used, V 512: about 6 MB, made in well under a
 * second.  The values depend on variant and seed alone.  They have the scale that a trained model
 * has (gains near 1, linears of variance 1/inputs), so that a forward pass stays finite; what they
 * compute means nothing. */
#ifndef TESTS_TINY_H
#define TESTS_TINY_H

#include <stdint.h>

enum test_tiny_variant {
    TEST_TINY_DEFAULT,  /* ratios 0 4 128 4 128 0, window 16, FP8 and FP4, one MTP block */
    TEST_TINY_BF16,     /* the same without weight quantisation */
    TEST_TINY_DSPARK,   /* the same with three DSpark stages, block 3, targets 3 4 5, rank 32 */
    TEST_TINY_RATIO_16, /* ratios 0 4 16 4 16 0 */
    TEST_TINY_PRO,      /* ratios 128 128 4 128 4 128, window 128: the pattern of Pro */
    TEST_TINY_FP8,      /* routed experts FP8, every scale stored as F32 (the -Base layout) */
    TEST_TINY_NO_DRAFT, /* as default, without a draft block */
    TEST_TINY_VARIANTS,
};

/* Write config.json, three shards and their index into the existing, empty directory `dir`.
 * Fails the test (ck_abort) when that cannot be done.  There is no tokenizer.json. */
void test_tiny_model(const char *dir, enum test_tiny_variant variant, uint64_t seed);

/* The config.json that test_tiny_model writes; static. */
const char *test_tiny_config(enum test_tiny_variant variant);

/* test_tiny_model in a new directory under test_dir(), kept for the whole test program: a variant
 * is made once per seed and process.  Returns its path.  Check runs each test in a process of its
 * own, so call this in an unchecked fixture of the test case; the tests then find it made. */
const char *test_tiny_dir(enum test_tiny_variant variant, uint64_t seed);

#endif
