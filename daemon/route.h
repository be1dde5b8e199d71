/* route.h - which handler answers which path and method.
 *
 * The table of paths and aliases is fixed (route.c); main.c binds handlers to its entries before
 * the first request.  An entry without a handler is unknown to clients.  Immutable afterwards. */
#ifndef SRV_ROUTE_H
#define SRV_ROUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct srv_handler;

enum srv_route_id {
    SRV_ROUTE_ROOT,
    SRV_ROUTE_CHAT,
    SRV_ROUTE_COMPLETIONS,
    SRV_ROUTE_MODELS,
    SRV_ROUTE_MODEL, /* /v1/models/{id} */
    SRV_ROUTE_TOKENIZE,
    SRV_ROUTE_DETOKENIZE,
    SRV_ROUTE_HEALTH,
    SRV_ROUTE_READY,
    SRV_ROUTE_LIVE,
    SRV_ROUTE_METRICS,
    SRV_ROUTE_VERSION,
    SRV_ROUTE_COUNT,
};

enum srv_route_flag {
    SRV_ROUTE_OPEN = 1,       /* needs no key */
    SRV_ROUTE_GENERATES = 2,  /* refused while loading (model_loading) and draining */
    SRV_ROUTE_NEEDS_TEXT = 4, /* refused while loading */
    SRV_ROUTE_QUIET = 8,      /* no log line at info level */
    SRV_ROUTE_METRIC = 16,    /* needs a key only under metrics.require_auth */
};

struct srv_route {
    const char *name;                  /* the template: "/v1/models/{id}"; a bounded label */
    uint32_t methods;                  /* set of enum srv_method */
    uint32_t flags;                    /* set of enum srv_route_flag */
    const struct srv_handler *handler; /* NULL: not bound */
    void *context;                     /* goes to call->context */
};

/* The table with nothing bound; one per process, or one per test. */
struct srv_routes {
    struct srv_route entries[SRV_ROUTE_COUNT];
};
void srv_routes_init(struct srv_routes *routes);

/* handler outlives the table. */
void srv_routes_bind(struct srv_routes *routes, enum srv_route_id id,
                     const struct srv_handler *handler, void *context);

/* The bound entry for a path (decoded, with or without a slash at the end), or NULL.
 * *ret_parameter points into path where the template has {id}, to "" otherwise; *ret_bytes is its
 * length, without a slash at the end.  *ret_anthropic: the path is one of that surface's aliases. */
const struct srv_route *srv_route_find(const struct srv_routes *routes, const char *path,
                                       const char **ret_parameter, uint32_t *ret_bytes,
                                       bool *ret_anthropic);

/* Percent-decoding in place, once; the new length.  %00 and what is no code stay as they are: a
 * path is a string. */
size_t srv_path_decode(char *text);

enum { SRV_ALLOW_BYTES = 64 };

/* "GET, HEAD, OPTIONS": the value of Allow. */
void srv_route_allow(const struct srv_route *route, char ret_text[SRV_ALLOW_BYTES]);

#endif
