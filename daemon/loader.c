/* loader.c - work of minutes on a thread of its own; see loader.h. */
#include "daemon/loader.h"

#include <stdatomic.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "backends/base/clock.h"
#include "backends/base/log.h"
#include "backends/base/mailbox.h"
#include "backends/base/mem.h"
#include "backends/base/thread.h"
#include "daemon/health.h"
#include "daemon/loop.h"

enum { BAR_CELLS = 40, LOG_STEP_PERCENT = 10 };

struct srv_loader {
    struct srv_loader_spec spec;
    struct fm_thread *thread;
    struct fm_mailbox *outbox;
    struct fm_link link; /* put once, at the end */
    struct srv_source source;
    enum fm_status status; /* written before the put */
    struct fm_err err;
    bool is_terminal;
    uint32_t shown_percent;
    uint64_t began_ns;
};

static void show_bar(uint32_t percent, uint64_t done, uint64_t total)
{
    char cells[BAR_CELLS + 1];
    uint32_t full = percent * BAR_CELLS / 100;
    for (uint32_t i = 0; i < BAR_CELLS; i++)
        cells[i] = i < full ? '#' : '.';
    cells[BAR_CELLS] = '\0';
    (void)fprintf(stderr, "\rloading [%s] %3u %%  %.1f / %.1f MB%s", cells, percent,
                  (double)done / 1e6, (double)total / 1e6, done == total ? "\n" : "");
    (void)fflush(stderr);
}

void srv_loader_progress(void *context, uint64_t done, uint64_t total)
{
    struct srv_loader *loader = context;
    fm_thread_beat();
    srv_health_progress(loader->spec.health, done, total);
    uint32_t percent = total == 0 ? 0 : (uint32_t)((double)done / (double)total * 100.0);
    uint32_t step = loader->is_terminal ? 1 : LOG_STEP_PERCENT;
    if (percent < loader->shown_percent + step && done != total)
        return;
    if (percent <= loader->shown_percent && loader->shown_percent > 0)
        return;
    loader->shown_percent = percent;
    if (loader->is_terminal)
        show_bar(percent, done, total);
    else
        fm_log(FM_LOG_INFO, "loading", "percent=%u bytes=%llu of=%llu", percent,
               (unsigned long long)done, (unsigned long long)total);
}

static void *loader_main(void *arg)
{
    struct srv_loader *loader = arg;
    fm_thread_idle(true); /* a slow disk is no stall */
    loader->status = loader->spec.load(loader->spec.context, loader, &loader->err);
    fm_mailbox_put(loader->outbox, &loader->link);
    return NULL;
}

static void loader_ended(void *context, uint32_t events)
{
    struct srv_loader *loader = context;
    (void)events;
    if (fm_mailbox_poll(loader->outbox) == NULL)
        return;
    srv_loop_remove(loader->spec.loop, &loader->source);
    fm_log(loader->status == FM_OK ? FM_LOG_INFO : FM_LOG_ERROR, "loaded", "seconds=%.2f status=%s",
           (double)(fm_clock_ns() - loader->began_ns) / (double)FM_NS_PER_S,
           fm_status_name(loader->status));
    loader->spec.loaded(loader->spec.context, loader->status, &loader->err);
}

enum fm_status srv_loader_start(const struct srv_loader_spec *spec, struct srv_loader **ret_loader,
                                struct fm_err *err)
{
    struct srv_loader *loader = fm_alloc(sizeof *loader);
    if (loader == NULL)
        return FM_FAIL(err, FM_NOMEM, "no memory for the loader");
    loader->spec = *spec;
    loader->is_terminal = isatty(STDERR_FILENO) == 1;
    loader->began_ns = fm_clock_ns();
    enum fm_status status = fm_mailbox_new(true, &loader->outbox, err);
    if (status != FM_OK)
        goto out_free;
    loader->source = (struct srv_source){.ready = loader_ended, .context = loader};
    status = srv_loop_add(spec->loop, &loader->source, fm_mailbox_fd(loader->outbox), EPOLLIN, err);
    if (status != FM_OK)
        goto out_mailbox;
    status = fm_thread_start("loader", FM_THREAD_NONE, loader_main, loader, &loader->thread, err);
    if (status != FM_OK)
        goto out_remove;
    *ret_loader = loader;
    return FM_OK;
out_remove:
    srv_loop_remove(spec->loop, &loader->source);
out_mailbox:
    fm_mailbox_free(loader->outbox);
out_free:
    fm_free(loader);
    return status;
}

bool srv_loader_is_running(const struct srv_loader *loader)
{
    return loader != NULL && loader->source.is_added;
}

void srv_loader_stop(struct srv_loader *loader)
{
    if (loader == NULL)
        return;
    fm_thread_join(loader->thread);
    (void)fm_mailbox_poll(loader->outbox);
    srv_loop_remove(loader->spec.loop, &loader->source);
    fm_mailbox_free(loader->outbox);
    fm_free(loader);
}
