/* main.c - start order, stop order, and the loop between them.
 *
 * Start: settings, log, loop and signals, routes, keys, listening socket, preparation pool, HTTP
 * server, then the model on the loader's thread, so that probes are answered from the first second.
 * Stop: no new work, running requests (limits.drain_timeout_s), HTTP server, preparation pool,
 * scheduler, engine. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "backends/backend.h"
#include "backends/base/assert.h"
#include "backends/base/checked.h"
#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "backends/base/mailbox.h"
#include "backends/base/thread.h"
#include "daemon/access.h"
#include "daemon/api_chat.h"
#include "daemon/api_completions.h"
#include "daemon/api_generate.h"
#include "daemon/api_models.h"
#include "daemon/api_tokenize.h"
#include "daemon/auth.h"
#include "daemon/body.h"
#include "daemon/config.h"
#include "daemon/gate.h"
#include "daemon/health.h"
#include "daemon/http.h"
#include "daemon/listen.h"
#include "daemon/loader.h"
#include "daemon/loop.h"
#include "daemon/metrics.h"
#include "daemon/metrics_engine.h"
#include "daemon/notify.h"
#include "daemon/options.h"
#include "daemon/prep.h"
#include "daemon/route.h"
#include "daemon/served.h"
#include "daemon/version.h"
#include "engine/engine.h"
#include "engine/text.h"
#include "scheduler/scheduler.h"

enum {
    EXIT_CONFIG = 2,      /* the command line or a setting is wrong */
    FLUSH_MS = 2000,      /* for the last words of canceled requests */
    EXTEND_START_S = 120, /* asked of the service manager while the model is loaded */
    SECOND_MS = 1000,
};

struct server {
    const struct srv_options *options;
    struct srv_config *config;
    struct srv_loop *loop;
    struct srv_notify notify;
    struct srv_health health;
    struct srv_routes routes;
    struct srv_metrics metrics;
    struct srv_engine_metrics engine_metrics;
    struct srv_access access;
    struct srv_gate gate;
    struct srv_prep *prep;
    struct srv_http *http;
    struct srv_loader *loader;
    int listen_fd; /* -1 once the HTTP server owns it */

    /* The model: written by the loader, seen by the main thread after it has ended. */
    struct eng_engine *engine;
    struct eng_text *text;
    struct fm_mailbox *ready; /* streams with news */
    struct srv_source ready_source;
    struct api_service service; /* what the endpoints see of it */

    uint64_t second_ns; /* the last look at heartbeats */
    uint32_t terminations;
    bool wants_reload, has_failed, has_ended;
    uint64_t drain_deadline_ns, flush_deadline_ns;
};

/* ---- the model ------------------------------------------------------------------------------- */

/* Loader's thread. */
static enum fm_status model_load(void *context, struct srv_loader *loader, struct fm_err *err)
{
    struct server *server = context;
    const struct srv_config *config = server->config;
    const char *backend = config->engine_backend;
    struct eng_options options = {
        .model_dir = config->model_path,
        .backend = strcmp(backend, "auto") == 0 ? NULL : backend,
        .threads = (uint32_t)config->engine_threads,
        .is_checked = config->engine_checked,
        .context_max = (uint32_t)config->engine_context_max,
        .step_rows_max = (uint32_t)config->sched_step_tokens,
        .seqs_max = (uint32_t)config->sched_max_sequences,
        .logit_rows_max = (uint32_t)fm_min_u64(config->sched_step_tokens,
                                               fm_max_u64(config->sched_max_sequences, 256)),
        .kv_bytes = config->kv_memory_bytes,
        .progress = srv_loader_progress,
        .progress_context = loader,
    };
    enum fm_status status = eng_open(&options, &server->engine, err);
    if (status != FM_OK)
        return status;
    struct eng_text_options text = {.vocab_size = eng_info(server->engine)->vocab};
    return eng_text_open(config->model_path, &text, &server->text, err);
}

static void streams_ready(void *context, uint32_t events)
{
    struct server *server = context;
    (void)events;
    api_generate_wake(server->ready);
}

static enum fm_status scheduler_start(struct server *server, struct fm_err *err)
{
    const struct srv_config *config = server->config;
    const struct eng_info *info = eng_info(server->engine);
    enum fm_status status = fm_mailbox_new(true, &server->ready, err);
    if (status != FM_OK)
        return status;
    server->ready_source = (struct srv_source){.ready = streams_ready, .context = server};
    status = srv_loop_add(server->loop, &server->ready_source, fm_mailbox_fd(server->ready),
                          EPOLLIN, err);
    if (status != FM_OK)
        return status;
    uint64_t queue_tokens = config->limits_max_queued_tokens;
    struct sch_options options = {
        .queue_max = (uint32_t)config->limits_max_queued,
        .queue_tokens_max = queue_tokens != 0 ? queue_tokens : 4 * (uint64_t)info->context_max,
        .running_max = (uint32_t)fm_min_u64(config->sched_max_sequences, info->seqs_max),
        .step_tokens_max = (uint32_t)fm_min_u64(config->sched_step_tokens, info->step_rows_max),
        .chunk_tokens_max = (uint32_t)fm_min_u64(config->sched_chunk_tokens, info->step_rows_max),
        .stream_bytes = (uint32_t)config->sched_stream_bytes,
        .queue_timeout_ms = (uint64_t)(config->limits_queue_timeout_s * 1e3),
        .reader_timeout_ms = (uint64_t)(config->http_write_stall_s * 1e3),
        .choices_max = (uint32_t)config->api_max_n,
        .ready = server->ready,
    };
    return sch_start(server->engine, server->text, &options, &server->service.scheduler, err);
}

static bool is_overloaded(void *context)
{
    const struct server *server = context;
    struct sch_stats stats;
    if (server->service.scheduler == NULL)
        return false;
    sch_stats(server->service.scheduler, &stats);
    return stats.queued >= server->config->limits_max_queued;
}

static uint32_t in_flight(void *context)
{
    const struct server *server = context;
    uint32_t count = srv_http_in_flight(server->http);
    return count == 0 ? 0 : count - 1; /* without the one that asks */
}

/* The rest of what the endpoints see of the model. */
static void service_complete(struct server *server)
{
    const struct eng_text_info *info = eng_text_info(server->text);
    struct api_model *model = &server->service.model;
    model->text = server->text;
    model->context_max = eng_info(server->engine)->context_max;
    model->has_fim = info->fim_begin != ENG_ID_NONE && info->fim_hole != ENG_ID_NONE &&
                     info->fim_end != ENG_ID_NONE;
}

/* The loader has ended: main thread. */
static void model_loaded(void *context, enum fm_status status, const struct fm_err *err)
{
    struct server *server = context;
    struct fm_err cause = *err;
    if (server->health.phase == SRV_DRAINING)
        return; /* ended before it was ready */
    if (status == FM_OK)
        status = scheduler_start(server, &cause);
    if (status != FM_OK) {
        fm_log(FM_LOG_ERROR, "start", "%s", cause.text);
        srv_health_move(&server->health, SRV_FAILED, "The model could not be loaded.");
        server->has_failed = true;
        return;
    }
    const struct eng_info *info = eng_info(server->engine);
    service_complete(server);
    const char *name =
        server->config->model_name[0] == '\0' ? info->name : server->config->model_name;
    srv_engine_metrics_start(&server->engine_metrics, name, server->service.scheduler);
    srv_health_progress(&server->health, 1, 1);
    srv_health_move(&server->health, SRV_READY, NULL);
    fm_log(FM_LOG_INFO, "ready", "model=\"%s\" backend=\"%s\" parameters=%llu context=%u", name,
           info->backend, (unsigned long long)info->parameter_count, info->context_max);
    srv_notify_send(&server->notify, "READY=1\nSTATUS=serving %s", name);
}

static void model_close(struct server *server)
{
    srv_loader_stop(server->loader);
    sch_stop(server->service.scheduler);
    srv_loop_remove(server->loop, &server->ready_source);
    while (server->ready != NULL && fm_mailbox_poll(server->ready) != NULL)
        continue;
    fm_mailbox_free(server->ready);
    eng_text_free(server->text);
    eng_free(server->engine);
}

/* ---- start and stop -------------------------------------------------------------------------- */

static void signal_caught(void *context, int number)
{
    struct server *server = context;
    if (number == SIGHUP)
        server->wants_reload = true;
    else
        server->terminations++;
}

static enum fm_status keys_load(const struct srv_config *config, struct srv_keys **ret_keys,
                                struct fm_err *err)
{
    if (config->auth_keys_file[0] == '\0') {
        *ret_keys = NULL;
        return FM_OK;
    }
    return srv_keys_load(config->auth_keys_file, (uint32_t)config->auth_max_keys, ret_keys, err);
}

/* What only an HTTP server needs, in the order of its start. */
static enum fm_status http_start(struct server *server, struct fm_err *err)
{
    struct srv_config *config = server->config;
    bool is_loopback = false;
    char address[SRV_LISTEN_TEXT_BYTES];
    enum fm_status status = keys_load(config, &server->gate.keys, err);
    if (status == FM_OK)
        status =
            srv_listen_open(config->http_listen, &server->listen_fd, &is_loopback, address, err);
    if (status != FM_OK)
        return status;
    if (!is_loopback && server->gate.keys == NULL && !config->auth_allow_anonymous)
        return FM_FAIL(err, FM_INVALID,
                       "http.listen is %s, which others can reach, and there are no keys: set "
                       "auth.keys_file, or auth.allow_anonymous=true",
                       address);
    status = srv_prep_start((uint32_t)config->http_prep_threads, &server->prep, err);
    if (status != FM_OK)
        return status;
    struct srv_http_spec spec = {.config = config,
                                 .loop = server->loop,
                                 .prep = server->prep,
                                 .gate = &server->gate,
                                 .access = &server->access,
                                 .listen_fd = server->listen_fd};
    status = srv_http_start(&spec, &server->http, err);
    if (status != FM_OK)
        return status;
    server->listen_fd = -1;
    fm_log(FM_LOG_INFO, "listening", "address=%s keys=%u version=%s", address,
           server->gate.keys == NULL ? 0 : srv_keys_count(server->gate.keys), SRV_VERSION);
    return FM_OK;
}

/* What cannot fail: state, endpoints, metrics. */
static void parts_init(struct server *server)
{
    srv_health_init(&server->health, server->config->health_stall_s);
    server->health.is_overloaded = is_overloaded;
    server->health.in_flight = in_flight;
    server->health.context = server;
    srv_routes_init(&server->routes);
    srv_health_bind(&server->health, &server->routes);
    srv_metrics_init(&server->metrics, &server->routes);
    srv_access_init(&server->access, &server->routes);
    srv_routes_bind(&server->routes, SRV_ROUTE_CHAT, &api_chat_handler, &server->service);
    srv_routes_bind(&server->routes, SRV_ROUTE_COMPLETIONS, &api_completions_handler,
                    &server->service);
    srv_routes_bind(&server->routes, SRV_ROUTE_MODELS, &api_models_handler, &server->service);
    srv_routes_bind(&server->routes, SRV_ROUTE_MODEL, &api_model_handler, &server->service);
    srv_routes_bind(&server->routes, SRV_ROUTE_TOKENIZE, &api_tokenize_handler, &server->service);
    srv_routes_bind(&server->routes, SRV_ROUTE_DETOKENIZE, &api_detokenize_handler,
                    &server->service);
    srv_engine_metrics_init(&server->engine_metrics, server->config);
    srv_metrics_add(&server->metrics, srv_health_collect, &server->health);
    srv_metrics_add(&server->metrics, srv_access_collect, &server->access);
    srv_metrics_add(&server->metrics, srv_engine_metrics_collect, &server->engine_metrics);
    server->gate.routes = &server->routes;
    server->gate.health = &server->health;
    srv_auth_failures_init(&server->gate.failures);
}

static enum fm_status server_start(struct server *server, struct fm_err *err)
{
    if (server->config->model_path[0] == '\0')
        return FM_FAIL(err, FM_INVALID, "model.path is not set: --set model.path=DIR");
    enum fm_status status = srv_served_init(&server->service.model, server->config, err);
    if (status == FM_OK)
        status = srv_notify_open(&server->notify, err);
    if (status == FM_OK)
        status = srv_loop_new(&server->loop, err);
    if (status == FM_OK)
        status = srv_loop_signals(server->loop, signal_caught, server, err);
    if (status != FM_OK)
        return status;

    parts_init(server);
    status = http_start(server, err);
    if (status != FM_OK)
        return status;
    struct srv_loader_spec loader = {.load = model_load,
                                     .loaded = model_loaded,
                                     .context = server,
                                     .health = &server->health,
                                     .loop = server->loop};
    return srv_loader_start(&loader, &server->loader, err);
}

/* Every part may be missing: a start that failed halfway comes here too. */
static void server_stop(struct server *server)
{
    srv_notify_send(&server->notify, "STOPPING=1");
    srv_http_stop(server->http);
    srv_prep_stop(server->prep);
    if (srv_loader_is_running(server->loader)) {
        /* Loading takes minutes and cannot be interrupted; it holds nothing that must be saved. */
        fm_log(FM_LOG_INFO, "stopped", "status=0 while=loading");
        _exit(EXIT_SUCCESS);
    }
    model_close(server);
    if (server->listen_fd != -1)
        (void)close(server->listen_fd);
    srv_keys_put(server->gate.keys);
    srv_loop_free(server->loop);
    srv_notify_close(&server->notify);
    srv_config_put(server->config);
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* All or nothing: a file that does not read changes nothing. */
static void reload(struct server *server)
{
    struct fm_err err;
    struct srv_config *config = NULL;
    struct srv_keys *keys = NULL;
    struct srv_config_sources sources = srv_options_sources(server->options);
    server->wants_reload = false;
    enum fm_status status = srv_config_load(&sources, &config, &err);
    if (status == FM_OK)
        status = keys_load(config, &keys, &err);
    if (status == FM_OK && keys == NULL && server->gate.keys != NULL)
        status = FM_FAIL(&err, FM_INVALID, "auth.keys_file: the last key cannot go by a reload");
    if (status != FM_OK) {
        fm_log(FM_LOG_ERROR, "reload", "continuing with the settings as they were: %s", err.text);
        srv_config_put(config);
        return;
    }
    const char *name;
    for (uint32_t cursor = 0;
         (name = srv_config_needs_restart(server->config, config, &cursor)) != NULL;)
        fm_log(FM_LOG_WARNING, "reload", "setting=%s continuing with the old value until a restart",
               name);
    srv_keys_put(server->gate.keys);
    server->gate.keys = keys;
    fm_log_set_level((enum fm_log_level)config->log_level);
    srv_http_reload(server->http, config);
    srv_config_put(server->config);
    server->config = config;
    fm_log(FM_LOG_INFO, "reload", "keys=%u", keys == NULL ? 0 : srv_keys_count(keys));
}

static void drain_begin(struct server *server)
{
    uint64_t now = fm_clock_ns();
    double limit_s = server->config->limits_drain_timeout_s;
    server->drain_deadline_ns = now + (uint64_t)(limit_s * (double)FM_NS_PER_S);
    fm_log(FM_LOG_INFO, "draining", "in_flight=%u seconds=%g", srv_http_in_flight(server->http),
           limit_s);
    srv_notify_send(&server->notify, "STOPPING=1\nSTATUS=finishing %u requests",
                    srv_http_in_flight(server->http));
    srv_health_move(&server->health, SRV_DRAINING, NULL);
    srv_http_drain(server->http);
    if (server->service.scheduler != NULL)
        sch_drain(server->service.scheduler);
}

static void drain_look(struct server *server)
{
    uint64_t now = fm_clock_ns();
    if (srv_http_in_flight(server->http) == 0 ||
        (server->flush_deadline_ns != 0 && now >= server->flush_deadline_ns)) {
        server->has_ended = true;
        return;
    }
    if (server->flush_deadline_ns == 0 &&
        (server->terminations > 1 || now >= server->drain_deadline_ns)) {
        fm_log(FM_LOG_WARNING, "draining", "continuing with %u requests cut off",
               srv_http_in_flight(server->http));
        srv_http_cancel(server->http);
        server->flush_deadline_ns = now + FLUSH_MS * FM_NS_PER_MS;
    }
    srv_loop_wake_at(server->loop, server->flush_deadline_ns != 0 ? server->flush_deadline_ns
                                                                  : server->drain_deadline_ns);
}

static void second_look(struct server *server)
{
    uint64_t now = fm_clock_ns();
    if (now - server->second_ns < SECOND_MS * FM_NS_PER_MS)
        return;
    server->second_ns = now;
    srv_notify_feed(&server->notify, srv_health_look(&server->health));
    if (server->health.phase == SRV_LOADING && !server->health.is_stalled)
        srv_notify_send(
            &server->notify, "EXTEND_TIMEOUT_USEC=%llu\nSTATUS=loading, %u of 1000",
            (unsigned long long)EXTEND_START_S * 1000000,
            atomic_load_explicit(&server->health.progress_permille, memory_order_relaxed));
}

static int server_run(struct server *server)
{
    struct fm_err err;
    while (!server->has_ended && !server->has_failed) {
        uint32_t timeout_ms = srv_http_turn(server->http);
        if (srv_loop_wait(server->loop, timeout_ms, &err) != FM_OK) {
            fm_log(FM_LOG_ERROR, "loop", "%s", err.text);
            return EXIT_FAILURE;
        }
        second_look(server);
        if (server->wants_reload)
            reload(server);
        if (server->terminations > 0 && server->health.phase != SRV_DRAINING)
            drain_begin(server);
        if (server->health.phase == SRV_DRAINING)
            drain_look(server);
    }
    return server->has_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int serve(const struct srv_options *options, struct srv_config *config)
{
    struct server server = {.options = options, .config = config, .listen_fd = -1, .notify.fd = -1};
    struct fm_err err;
    int result = EXIT_CONFIG;
    fm_log_set_level((enum fm_log_level)config->log_level);
    if (server_start(&server, &err) == FM_OK)
        result = server_run(&server);
    else
        fm_log(FM_LOG_ERROR, "start", "%s", err.text);
    server_stop(&server);
    if (result == EXIT_SUCCESS)
        fm_log(FM_LOG_INFO, "stopped", "status=0");
    return result;
}

/* What devices this program can use here, as --capabilities prints it. */
static void backends_print(void)
{
    const struct be_ops *ops;
    for (uint32_t i = 0; (ops = be_registry_get(i)) != NULL; i++) {
        const char *reason = "";
        struct be_device_options options = {0};
        struct be_device *device;
        struct be_caps caps;
        struct fm_err err;
        if (ops->score(&reason) <= 0) {
            printf("backend         %s: %s\n", ops->name, reason);
        } else if (ops->open(&options, &device, &err) != FM_OK) {
            printf("backend         %s: %s\n", ops->name, err.text);
        } else {
            ops->caps(device, &caps);
            printf("backend         %s: %s\n", ops->name, caps.description);
            ops->close(device);
        }
    }
}

int main(int argc, char **argv)
{
    static struct srv_options options; /* read again by every reload */
    struct srv_config *config = NULL;
    struct fm_err err;
    fm_thread_enter(FM_THREAD_MAIN, "main");
    srv_body_init();
    enum fm_status status = srv_options_parse(argc, argv, &options, &err);
    bool needs_config = options.action == SRV_SERVE || options.action == SRV_CHECK_CONFIG ||
                        options.action == SRV_PRINT_CONFIG;
    struct srv_config_sources sources = srv_options_sources(&options);
    if (status == FM_OK && needs_config)
        status = srv_config_load(&sources, &config, &err);
    if (status != FM_OK) {
        (void)fprintf(stderr, "fathomd: %s\n", err.text);
        return EXIT_CONFIG;
    }
    if (options.action == SRV_SERVE)
        return serve(&options, config);
    int result = srv_options_act(&options, config);
    if (options.action == SRV_CAPABILITIES)
        backends_print();
    srv_config_put(config);
    return result;
}
