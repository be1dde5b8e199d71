/* log.c - the log; see log.h. */
#include "backends/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

#include "backends/base/clock.h"

enum { LINE_BYTES = 2048 };

static _Atomic int level_max = FM_LOG_INFO;

void fm_log_set_level(enum fm_log_level level)
{
    atomic_store_explicit(&level_max, (int)level, memory_order_relaxed);
}

void fm_log(enum fm_log_level level, const char *event, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if ((int)level > atomic_load_explicit(&level_max, memory_order_relaxed))
        return;

    char line[LINE_BYTES];
    int used = snprintf(line, sizeof line, "level=%s event=%s ", names[level], event);
    va_list args;
    va_start(args, format);
    int more = vsnprintf(line + used, sizeof line - (size_t)used - 1, format, args);
    va_end(args);
    if (more < 0)
        return;

    size_t length = (size_t)used + (size_t)more;
    if (length > sizeof line - 2)
        length = sizeof line - 2;
    for (size_t i = 0; i < length; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[length++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, length);
    (void)written; /* nowhere left to say that stderr is gone */
}

bool fm_log_limit_pass(struct fm_log_limit *limit, uint64_t *ret_dropped)
{
    uint64_t now = fm_clock_ns();
    uint64_t next = atomic_load_explicit(&limit->next_ns, memory_order_relaxed);
    if (now < next ||
        !atomic_compare_exchange_strong_explicit(&limit->next_ns, &next, now + FM_NS_PER_S,
                                                 memory_order_relaxed, memory_order_relaxed)) {
        atomic_fetch_add_explicit(&limit->dropped, 1, memory_order_relaxed);
        return false;
    }
    *ret_dropped = atomic_exchange_explicit(&limit->dropped, 0, memory_order_relaxed);
    return true;
}
