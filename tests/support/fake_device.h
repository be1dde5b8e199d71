/* fake_device.h - a device that computes nothing, does what it is told, and can be told to do wrong.
 *
 * State rows are filled with bytes of their position, where the program's operations write them;
 * OUTPUT values with bytes of their row.  Commands are queued and run in order when an event is
 * looked at, so that nothing is complete by accident. */
#ifndef TESTS_FAKE_DEVICE_H
#define TESTS_FAKE_DEVICE_H

#include "backends/backend.h"

enum fake_fault {
    FAKE_SOUND,
    FAKE_WRITES_NULL_PAGE,    /* S unit 0 gets a byte */
    FAKE_WRITES_NEXT_ROW,     /* the window row behind the last one */
    FAKE_WRITES_FOREIGN_UNIT, /* a byte of an S unit that the step does not name */
    FAKE_KEEPS_BLOCK,         /* reads the caller's block when the step runs */
    FAKE_REFUSES_SIZE,        /* FM_NOMEM from submit */
    FAKE_REFUSES_BLOCK,       /* FM_INVALID from submit */
    FAKE_IS_FULL,             /* FM_AGAIN from submit */
    FAKE_FAILS_STEP,          /* FM_TIMEOUT from the event, nothing written */
};

/* What the device did, for tests to look at. */
struct fake_log {
    uint32_t submit_count, compile_count, page_out_count;
    uint32_t last_kinds[512]; /* enum be_op_kind in the order in which the last step ran */
    uint32_t last_kind_count;
    uint32_t order_changes; /* steps whose order differs from the step before */
};

/* A device with that fault; `fault` and *ret_log may be changed and read at any time. */
enum fm_status fake_device_open(const enum fake_fault *fault, struct be_device **ret_device,
                                struct fake_log **ret_log, struct fm_err *err) FM_MUST_CHECK;

#endif
