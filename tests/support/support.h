/* support.h - what every test program shares: main, the suite it provides, where data lies. */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include <check.h>
#include <stddef.h>
#include <stdint.h>

/* Each tests/<kind>/test_<name>.c defines this one function; tests/support/main.c runs it. */
Suite *test_suite(void);

/* FATHOM_SEED, or a seed from the clock; printed once, so that a failure can be replayed. */
uint64_t test_seed(void);

/* A new empty directory under $TMPDIR, removed with all it holds at exit. */
const char *test_dir(void);

#endif
