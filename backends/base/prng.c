/* prng.c - the kernel's random bytes. */
#include "backends/base/prng.h"

#include <errno.h>
#include <sys/random.h>
#include <sys/types.h>

#include "backends/base/assert.h"

void fm_random_bytes(void *data, size_t bytes)
{
    unsigned char *at = data;
    while (bytes != 0) {
        ssize_t got = getrandom(at, bytes < 256 ? bytes : 256, 0);
        if (got < 0) {
            FM_ASSERT(errno == EINTR); /* flags 0 and 256 bytes leave no other error */
            continue;
        }
        at += got;
        bytes -= (size_t)got;
    }
}
