/* listen.h - the listening socket: an address from the settings, bound and ready. */
#ifndef SRV_LISTEN_H
#define SRV_LISTEN_H

#include <stdbool.h>

#include "backends/base/status.h"

enum { SRV_LISTEN_TEXT_BYTES = 64 };

/* HOST:PORT or [HOST]:PORT to a listening socket, non-blocking, in *ret_fd (close it).
 * *ret_is_loopback: only this machine can reach it.  ret_text: the address as it is, with the port
 * that the kernel chose for port 0.  FM_INVALID, FM_IO. */
enum fm_status srv_listen_open(const char *address, int *ret_fd, bool *ret_is_loopback,
                               char ret_text[SRV_LISTEN_TEXT_BYTES],
                               struct fm_err *err) FM_MUST_CHECK;

#endif
