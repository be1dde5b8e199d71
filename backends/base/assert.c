/* assert.c - the end of a process whose reasoning failed. */
#include "backends/base/assert.h"

#include <stdio.h>
#include <stdlib.h>

#include "backends/base/thread.h"

_Noreturn void fm_assert_failed(const char *expression, const char *file, int line)
{
    (void)fprintf(stderr, "level=error event=assert_failed expression=\"%s\" at=%s:%d thread=%s\n",
                  expression, file, line, fm_thread_name());
    abort();
}
