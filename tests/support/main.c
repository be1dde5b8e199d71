/* main.c - main() of every test program. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "tests/support/support.h"

static char dir[256];
static pid_t dir_owner;

static void dir_remove(void)
{
    char command[320];
    if (dir_owner != getpid())
        return;
    (void)snprintf(command, sizeof command, "rm -rf '%s'", dir);
    int failed = system(command);
    (void)failed;
}

const char *test_dir(void)
{
    if (dir[0] == '\0') {
        const char *base = getenv("TMPDIR");
        (void)snprintf(dir, sizeof dir, "%s/fathom-test-XXXXXX", base != NULL ? base : "/tmp");
        ck_assert_ptr_nonnull(mkdtemp(dir));
        dir_owner = getpid();
        (void)atexit(dir_remove);
    }
    return dir;
}

uint64_t test_seed(void)
{
    static uint64_t seed;
    if (seed == 0) {
        const char *text = getenv("FATHOM_SEED");
        if (text == NULL || !fm_parse_u64(text, 1, UINT64_MAX, &seed))
            seed = fm_clock_ns() | 1;
        printf("FATHOM_SEED=%" PRIu64 "\n", seed);
        (void)fflush(stdout);
    }
    return seed;
}

int main(void)
{
    SRunner *runner = srunner_create(test_suite());
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
