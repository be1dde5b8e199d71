/* assert.h - checks of our own reasoning, on in every build.
 *
 * An assertion is about arguments, results and invariants of our code.  Input, disk, device and
 * kernel answers are checked and answered with a status, never asserted. */
#ifndef FM_ASSERT_H
#define FM_ASSERT_H

#include <stddef.h>

/* Print the expression, the place and the thread to stderr, and abort. */
_Noreturn void fm_assert_failed(const char *expression, const char *file, int line);

#define FM_ASSERT(expression)                                                                      \
    ((expression) ? (void)0 : fm_assert_failed(#expression, __FILE__, __LINE__))

/* The branch that cannot be taken. */
#define FM_UNREACHABLE() fm_assert_failed("unreachable", __FILE__, __LINE__)

/* Checks too slow for a release: whole-structure walks.  On with -DFM_SLOW_CHECKS (make asan). */
#ifdef FM_SLOW_CHECKS
#define FM_ASSERT_SLOW(expression) FM_ASSERT(expression)
#else
#define FM_ASSERT_SLOW(expression) ((void)sizeof(expression))
#endif

/* The struct that holds `member` at `pointer`. */
#define FM_CONTAINER(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

#define FM_COUNT(array) (sizeof(array) / sizeof((array)[0]))

#endif
