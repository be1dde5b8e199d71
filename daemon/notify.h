/* notify.h - the service manager's notify socket: ready, status, watchdog.
 *
 * Datagrams of NAME=value lines to $NOTIFY_SOCKET, as sd_notify(3) describes; where there is no
 * such socket every call does nothing.  Main thread. */
#ifndef SRV_NOTIFY_H
#define SRV_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/base/status.h"

struct srv_notify {
    int fd;               /* -1: nobody listens */
    uint64_t watchdog_ns; /* interval that the manager expects; 0: none */
    uint64_t fed_ns;
};

/* Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and remove them from the environment. */
enum fm_status srv_notify_open(struct srv_notify *notify, struct fm_err *err) FM_MUST_CHECK;
void srv_notify_close(struct srv_notify *notify);

/* Lines such as "READY=1\nSTATUS=serving". */
void srv_notify_send(const struct srv_notify *notify, const char *format, ...) FM_PRINTF(2, 3);

/* WATCHDOG=1 when a third of the interval has passed since the last one and the process is live. */
void srv_notify_feed(struct srv_notify *notify, bool is_live);

#endif
