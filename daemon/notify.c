/* notify.c - the service manager's notify socket; see notify.h. */
#include "daemon/notify.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "backends/base/checked.h"
#include "backends/base/clock.h"

enum { TEXT_BYTES_MAX = 512 };

/* The watchdog is ours unless it names another process. */
static uint64_t watchdog_ns(void)
{
    const char *usec_text = getenv("WATCHDOG_USEC"), *pid_text = getenv("WATCHDOG_PID");
    uint64_t usec = 0, pid = 0;
    if (usec_text == NULL || !fm_parse_u64(usec_text, 1, UINT64_MAX / 1000, &usec))
        return 0;
    if (pid_text != NULL && (!fm_parse_u64(pid_text, 1, INT32_MAX, &pid) || (pid_t)pid != getpid()))
        return 0;
    return usec * 1000;
}

static enum fm_status connect_to(struct srv_notify *notify, const char *path, struct fm_err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(path);
    if ((path[0] != '/' && path[0] != '@') || length >= sizeof address.sun_path)
        return FM_FAIL(err, FM_INVALID, "NOTIFY_SOCKET is '%.128s', expected a path or @name",
                       path);
    memcpy(address.sun_path, path, length);
    if (path[0] == '@')
        address.sun_path[0] = '\0'; /* the abstract namespace */
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1)
        return FM_FAIL_OS(err, FM_IO, errno, "cannot make the notify socket");
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (connect(fd, (const struct sockaddr *)&address, bytes) == -1) {
        enum fm_status status =
            FM_FAIL_OS(err, FM_IO, errno, "cannot reach the notify socket '%s'", path);
        (void)close(fd);
        return status;
    }
    notify->fd = fd;
    return FM_OK;
}

enum fm_status srv_notify_open(struct srv_notify *notify, struct fm_err *err)
{
    *notify = (struct srv_notify){.fd = -1, .watchdog_ns = watchdog_ns()};
    const char *path = getenv("NOTIFY_SOCKET");
    enum fm_status status = path == NULL ? FM_OK : connect_to(notify, path, err);
    (void)unsetenv("NOTIFY_SOCKET");
    (void)unsetenv("WATCHDOG_USEC");
    (void)unsetenv("WATCHDOG_PID");
    return status;
}

void srv_notify_close(struct srv_notify *notify)
{
    if (notify->fd != -1)
        (void)close(notify->fd);
    notify->fd = -1;
}

void srv_notify_send(const struct srv_notify *notify, const char *format, ...)
{
    char text[TEXT_BYTES_MAX];
    if (notify->fd == -1)
        return;
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (length <= 0 || length >= (int)sizeof text)
        return;
    ssize_t sent = send(notify->fd, text, (size_t)length, MSG_NOSIGNAL);
    (void)sent; /* a manager that has gone away asks for nothing more */
}

void srv_notify_feed(struct srv_notify *notify, bool is_live)
{
    uint64_t now = fm_clock_ns();
    if (notify->watchdog_ns == 0 || !is_live || now - notify->fed_ns < notify->watchdog_ns / 3)
        return;
    notify->fed_ns = now;
    srv_notify_send(notify, "WATCHDOG=1");
}
