/* check.h - the wrapping device: what it remembers of the caller and of the device inside.
 *
 *   caller --> check --> inner
 *
 * For every step that the caller submits, check follows the reads and writes that the program's
 * operations have (shadow.h), lets the inner device write a few units to host memory before and
 * after the step (sample.h), runs one of several legal orders of the program (permute.h) on a copy
 * of the block that it overwrites at once, and holds back the completion for a while.
 *
 * A step's record is busy from submit until its completion is seen.  Seeing it means comparing
 * host memory only, so that it may happen on the thread that polls; what a failed step wrote is
 * put back in the shadow on the worker's thread, at its next call.
 *
 * Private to backends/check. */
#ifndef BE_CHECK_CHECK_H
#define BE_CHECK_CHECK_H

#include <stdatomic.h>

#include "backends/backend.h"
#include "backends/check/sample.h"
#include "backends/check/shadow.h"

enum {
    CHECK_ORDERS = 3,   /* compiled orders of each program, the given one first */
    CHECK_POLLS_MAX = 3 /* times that a complete event says "not yet" */
};

enum record_state {
    RECORD_FREE,
    RECORD_BUSY,     /* worker -> whoever polls */
    RECORD_SETTLING, /* one poller compares */
    RECORD_FAILED,   /* poller -> worker: the log is to be undone */
};

struct check_event;

/* A submitted step. */
struct record {
    _Atomic uint32_t state;    /* enum record_state; release on each change, acquire where read */
    uint64_t serial, number;   /* number is the block's */
    struct check_event *event; /* given to it */
    struct sample samples[BE_POOL_COUNT];
    struct shadow_log log;
    struct be_step *block; /* the copy that inner sees, room for block_bytes */
    size_t block_bytes;
};

/* What the caller holds as a be_event. */
struct check_event {
    struct be_event *inner;
    struct record *record; /* of a step that is not settled, or NULL */
    uint64_t serial;       /* of the last command that it was given to; 0: none yet */
    uint32_t polls_left;
    enum fm_status status; /* once the record is settled */
    char text[FM_ERR_TEXT_BYTES];
};

/* What the caller holds as a be_exec. */
struct check_exec {
    struct be_program *program; /* a copy of the caller's */
    struct be_limits limits;
    struct be_exec *orders[CHECK_ORDERS];
    uint32_t current;   /* the order that ran last */
    uint64_t serial;    /* of its step; 0: none */
    uint32_t counts[3]; /* of its step, by enum be_lead */
    uint64_t *written;  /* [value_count][words]: rows of INPUT values since then */
    uint32_t words;
    uint64_t *digests; /* [rows_max + 1] */
};

struct check_device {
    struct be_device base;
    struct be_device *inner;
    struct be_caps caps; /* of inner */
    uint64_t seed, draws;
    const struct be_model *model;
    struct shadow shadow;
    bool has_state;
    uint64_t serial;            /* of the last command */
    uint64_t number;            /* of the last step */
    _Atomic uint64_t completed; /* largest serial seen complete; relaxed: only compared */
    struct record *records;
    uint32_t record_count;
    _Atomic uint32_t is_broken; /* release after broken is written, acquire before it is read */
    struct fm_err broken;
};

static inline struct check_device *check_of(struct be_device *device)
{
    return (struct check_device *)(void *)device;
}

/* A draw for the next decision. */
uint64_t be_check_draw(struct check_device *check);

/* Undo what failed steps left in the shadow; FM_DEVICE once the device is broken.  Every call of
 * the worker begins with it. */
enum fm_status be_check_ready(struct check_device *check, struct fm_err *err) FM_MUST_CHECK;

/* Look at every record up to the serial, which is known to be complete. */
void be_check_settle(struct check_device *check, uint64_t serial);

/* Give the event to the command with the next serial; FM_DEVICE when its last step still runs. */
enum fm_status be_check_arm(struct check_device *check, struct check_event *event,
                            struct record *record, struct fm_err *err) FM_MUST_CHECK;

/* Programs, steps and values: exec.c. */
enum fm_status be_check_compile(struct be_device *device, const struct be_program *program,
                                const struct be_limits *limits, struct be_exec **ret_exec,
                                struct fm_err *err);
void be_check_exec_free(struct be_device *device, struct be_exec *exec);
enum fm_status be_check_submit(struct be_device *device, struct be_exec *exec,
                               const struct be_step *step, struct be_event *done,
                               struct fm_err *err);
enum fm_status be_check_value_write(struct be_device *device, struct be_exec *exec,
                                    be_value_id value, uint32_t row_first, uint32_t row_count,
                                    const void *host, struct fm_err *err);
enum fm_status be_check_value_read(struct be_device *device, struct be_exec *exec,
                                   be_value_id value, uint32_t row_first, uint32_t row_count,
                                   void *host, struct fm_err *err);
enum fm_status be_check_value_copy(struct be_device *device, struct be_exec *source,
                                   be_value_id source_value, uint32_t source_row,
                                   struct be_exec *target, be_value_id target_value,
                                   uint32_t target_row, uint32_t row_count, struct fm_err *err);

#endif
