/* sample.h - one unit of a pool, before and after a step. */
#ifndef BE_CHECK_SAMPLE_H
#define BE_CHECK_SAMPLE_H

#include "backends/backend.h"
#include "backends/check/shadow.h"

struct sample {
    bool is_taken; /* for this step */
    enum be_pool pool;
    uint32_t unit;
    unsigned char *before, *after; /* canonical */
    uint64_t *written;             /* bit per row of the unit: the step may write it */
    struct be_event *before_event, *after_event;
};

/* Memory for units of the pool and two events of the device. */
enum fm_status be_sample_init(struct sample *sample, struct be_device *device,
                              const struct shadow *shadow, enum be_pool pool,
                              struct fm_err *err) FM_MUST_CHECK;
void be_sample_done(struct sample *sample, struct be_device *device);

/* Choose a unit by the draw: the null unit, one of the step's, or any; queue its copy to the host.
 * The shadow has followed the step already. */
enum fm_status be_sample_begin(struct sample *sample, struct be_device *device,
                               const struct shadow *shadow, const struct be_step *step,
                               uint64_t serial, uint64_t draw, struct fm_err *err) FM_MUST_CHECK;

/* Queue the second copy, behind the step. */
enum fm_status be_sample_end(struct sample *sample, struct be_device *device,
                             struct fm_err *err) FM_MUST_CHECK;

/* Both copies are complete: rows that the step may not write must be as they were, and the null
 * unit zeros.  Host memory only.  FM_DEVICE names pool, unit, class, layer and row. */
enum fm_status be_sample_compare(const struct sample *sample, const struct shadow *shadow,
                                 uint64_t step_number, struct fm_err *err) FM_MUST_CHECK;

#endif
