/* listen.c - the listening socket; see listen.h. */
#include "daemon/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "backends/base/checked.h"

enum { HOST_BYTES = 256, BACKLOG = 1024 };

/* "127.0.0.1:80", "[::1]:80" */
static enum fm_status split(const char *address, char host[HOST_BYTES], const char **ret_port,
                            struct fm_err *err)
{
    const char *colon = strrchr(address, ':');
    uint64_t port;
    if (colon == NULL || !fm_parse_u64(colon + 1, 0, 65535, &port))
        return FM_FAIL(err, FM_INVALID, "http.listen is '%.128s', expected HOST:PORT", address);
    size_t length = (size_t)(colon - address);
    if (length >= 2 && address[0] == '[' && address[length - 1] == ']') {
        address++;
        length -= 2;
    } else if (memchr(address, ':', length) != NULL) {
        return FM_FAIL(err, FM_INVALID, "http.listen is '%.128s', expected [HOST]:PORT for IPv6",
                       address);
    }
    if (length == 0 || length >= HOST_BYTES)
        return FM_FAIL(err, FM_INVALID, "http.listen has a host of %zu bytes, expected 1 to %d",
                       length, HOST_BYTES - 1);
    memcpy(host, address, length);
    host[length] = '\0';
    *ret_port = colon + 1;
    return FM_OK;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        struct sockaddr_in v4;
        memcpy(&v4, address, sizeof v4);
        return ntohl(v4.sin_addr.s_addr) >> 24 == 127;
    }
    struct sockaddr_in6 v6;
    memcpy(&v6, address, sizeof v6);
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr);
}

static void address_text(int fd, char ret_text[SRV_LISTEN_TEXT_BYTES])
{
    struct sockaddr_storage own;
    socklen_t bytes = sizeof own;
    char host[INET6_ADDRSTRLEN] = "?", port[8] = "?";
    if (getsockname(fd, (struct sockaddr *)&own, &bytes) == 0)
        (void)getnameinfo((const struct sockaddr *)&own, bytes, host, sizeof host, port,
                          sizeof port, NI_NUMERICHOST | NI_NUMERICSERV);
    bool is_v6 = strchr(host, ':') != NULL;
    (void)snprintf(ret_text, SRV_LISTEN_TEXT_BYTES, is_v6 ? "[%s]:%s" : "%s:%s", host, port);
}

enum fm_status srv_listen_open(const char *address, int *ret_fd, bool *ret_is_loopback,
                               char ret_text[SRV_LISTEN_TEXT_BYTES], struct fm_err *err)
{
    char host[HOST_BYTES];
    const char *port = NULL;
    enum fm_status status = split(address, host, &port, err);
    if (status != FM_OK)
        return status;
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
                             .ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    int failed = getaddrinfo(host, port, &hints, &found);
    if (failed != 0)
        return FM_FAIL(err, FM_INVALID, "http.listen is '%.128s': %s", address,
                       gai_strerror(failed));

    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd == -1) {
        status = FM_FAIL_OS(err, FM_IO, errno, "cannot make a socket for '%.128s'", address);
        goto out_found;
    }
    int one = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, found->ai_addr, found->ai_addrlen) == -1 || listen(fd, BACKLOG) == -1) {
        status = FM_FAIL_OS(err, FM_IO, errno, "cannot listen on '%.128s'", address);
        (void)close(fd);
        goto out_found;
    }
    *ret_is_loopback = is_loopback(found->ai_addr);
    address_text(fd, ret_text);
    *ret_fd = fd;
out_found:
    freeaddrinfo(found);
    return status;
}
