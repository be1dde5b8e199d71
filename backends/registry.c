/* registry.c - which backends there are, which of them fits this host, and why another does not. */
#include "backends/backend.h"

#include <string.h>

#include "backends/base/assert.h"
#include "backends/base/buf.h"
#include "backends/cpu/cpu.h"
#include "backends/sim/sim.h"

static const struct be_ops *const backends[] = {
    &be_cpu_ops,
    &be_sim_ops,
};

const struct be_ops *be_registry_get(uint32_t index)
{
    return index < FM_COUNT(backends) ? backends[index] : NULL;
}

/* The backend that scores highest among those of the name (NULL: any); the first at equal score.
 * `reasons` gets "cpu: no AVX2; " for each that cannot run. */
static const struct be_ops *choose(const char *name, struct fm_buf *reasons)
{
    const struct be_ops *best = NULL;
    int best_score = 0;
    for (uint32_t i = 0; be_registry_get(i) != NULL; i++) {
        const struct be_ops *ops = be_registry_get(i);
        if (name != NULL && strcmp(name, ops->name) != 0)
            continue;
        const char *reason = NULL;
        int score = 0;
        if (ops->abi != BE_OPS_ABI)
            reason = "made for another version of the interface";
        else
            score = ops->score(&reason);
        if (score < 0 && name != NULL)
            score = 1; /* it was asked for */
        if (score <= 0)
            (void)fm_buf_printf(reasons, "%s%s: %s", reasons->length != 0 ? "; " : "", ops->name,
                                reason != NULL ? reason : "cannot run on this host");
        if (score > best_score) {
            best = ops;
            best_score = score;
        }
    }
    return best;
}

enum fm_status be_registry_open(const char *name, const struct be_device_options *options,
                                struct be_device **ret_device, struct fm_err *err)
{
    FM_ASSERT(options != NULL);
    FM_ASSERT(ret_device != NULL);
    struct fm_buf reasons;
    fm_buf_init(&reasons, 400);
    const struct be_ops *ops = choose(name, &reasons);
    enum fm_status status;
    if (ops != NULL)
        status = ops->open(options, ret_device, err);
    else if (reasons.length != 0)
        status = FM_FAIL(err, FM_UNSUPPORTED, "no backend can run here: %s", reasons.data);
    else
        status =
            FM_FAIL(err, FM_UNSUPPORTED, "there is no backend '%.64s'", name != NULL ? name : "");
    fm_buf_done(&reasons);
    return status;
}
