/* backend.h - a device behind one table of functions.
 *
 * Nothing here assumes host-visible device memory, synchronous completion, host pointers to
 * device data, or one address space.  The rules that every backend keeps and backends/check
 * verifies:
 *
 *   R1  An operation means what engine/ref says; fusing and reordering are the backend's own.
 *   R2  Order inside a step follows from the program's edges alone; steps and commands of one
 *       device take effect in the order of submission.
 *   R3  submit returns when the work is queued and has copied the block.  Results are read only
 *       after the step's event.
 *   R4  Errors come from submit (nothing was queued) or from the event (the step failed; state is
 *       undefined from each sequence's length_before on, everything before is intact).  After
 *       FM_DEVICE every later event fails until the device is opened anew.
 *   R5  Padding, buckets, graphs and warm-up belong to the backend; rows that it pads reach no
 *       router, no compressor and no cache.
 *   R6  What compile accepted, submit cannot refuse for size.  No allocation after compile.
 *   R7  A number out of range in a step block is an error before anything is queued.
 *   R8  Row order carries no meaning beyond R2; no result depends on which other rows are present,
 *       except on a device whose caps say is_batch_variant.
 *   R9  caps says what the device can do.
 *   R10 No entry takes a host pointer to device data, a descriptor of a model file, or a callback
 *       that is called on a thread of the backend.
 *   R11 Entries that a backend need not have are marked OPTIONAL, with what the caller does.
 *   R12 A change of this interface is made for all backends in one commit.
 *
 * Thread: one thread, the worker that opened it, calls all entries of a device; event_poll and
 * event_wait may be called by any one other thread. */
#ifndef BE_BACKEND_H
#define BE_BACKEND_H

#include "backends/program.h"

enum { BE_OPS_ABI = 1 };

struct be_device; /* a backend's own struct begins with `const struct be_ops *ops` */
struct be_exec;   /* a compiled program */
struct be_event;  /* becomes complete once, then is re-armed by the next use */

enum be_numerics {
    BE_NUMERICS_E,         /* exact products in the fixed order: equal bits to engine/ref */
    BE_NUMERICS_TOLERANCE, /* within the backend's stated tolerance */
};

struct be_caps {
    uint64_t memory_bytes;   /* of the device, 0: unknown */
    bool is_host_memory;     /* the device computes in the host's memory */
    uint32_t unit_alignment; /* bytes between pages are a multiple of this */
    uint32_t row_quantum;    /* rows are padded to a multiple of this inside */
    uint32_t rows_max;       /* largest step */
    uint32_t programs;       /* bits 1 << enum be_program_kind */
    bool device_sampling;    /* SAMPLE on the device; else the engine samples from logits */
    bool future_tokens;      /* be_row.token may be ~k */
    uint32_t async_depth;    /* steps that may be queued behind a running one */
    bool is_batch_variant;   /* R8 */
    bool is_canonical;       /* pages are kept in the canonical format */
    enum be_numerics numerics;
    char description[128]; /* for people: "cpu avx512, 2 threads" */
};

struct be_device_options {
    uint32_t ordinal;
    uint32_t threads;    /* host threads that compute; 0: all that the process may use */
    const char *variant; /* a lower instruction level by name; NULL: the best */
};

/* A page of a pool copied within the device: fork, copy on write. */
struct be_copy {
    enum be_pool pool;
    uint32_t source, target;
};

struct be_ops {
    uint32_t abi; /* BE_OPS_ABI; the registry refuses another */
    const char *name;

    /* 0: cannot run on this host, and *ret_reason says why; else higher is better.  Negative: runs,
     * but only where it is asked for by name.  May dlopen. */
    int (*score)(const char **ret_reason);
    enum fm_status (*open)(const struct be_device_options *options, struct be_device **ret_device,
                           struct fm_err *err);
    /* Waits for queued work; every exec and event must be gone.  NULL is allowed. */
    void (*close)(struct be_device *device);
    void (*caps)(const struct be_device *device, struct be_caps *ret_caps);

    /* Lay out every weight of the model, once.  `model` outlives the device.  Reads each part of
     * each weight through the reader; formats are kept as they are. */
    enum fm_status (*weights_load)(struct be_device *device, const struct be_model *model,
                                   const struct be_reader *reader, struct fm_err *err);
    /* Take the pools: units[pool] pages or slots each, all zero.  After weights_load. */
    enum fm_status (*state_create)(struct be_device *device, const uint32_t units[BE_POOL_COUNT],
                                   struct fm_err *err);

    /* Once per load: lay out the program's values, choose kernels, streams, graphs.  The program
     * must have passed be_program_check and may be freed afterwards; its model may not. */
    enum fm_status (*compile)(struct be_device *device, const struct be_program *program,
                              const struct be_limits *limits, struct be_exec **ret_exec,
                              struct fm_err *err);
    void (*exec_free)(struct be_device *device, struct be_exec *exec);

    /* Queue one step.  `done` completes when the step and all before it are.  Never waits for the
     * device: FM_AGAIN when async_depth steps are queued already. */
    enum fm_status (*submit)(struct be_device *device, struct be_exec *exec,
                             const struct be_step *step, struct be_event *done, struct fm_err *err);

    /* Commands, queued behind what was submitted before. */
    enum fm_status (*page_copy)(struct be_device *device, const struct be_copy *copies,
                                uint32_t count, struct fm_err *err);
    /* k = 0, g = -infinity in every row of the slot. */
    enum fm_status (*tail_reset)(struct be_device *device, const uint32_t *slots, uint32_t count,
                                 struct fm_err *err);
    /* One unit to or from host memory in the canonical format; `host` stays the caller's and must
     * live until `done` completes. */
    enum fm_status (*page_out)(struct be_device *device, enum be_pool pool, uint32_t unit,
                               void *host, struct be_event *done, struct fm_err *err);
    enum fm_status (*page_in)(struct be_device *device, enum be_pool pool, uint32_t unit,
                              const void *host, struct be_event *done, struct fm_err *err);

    /* Rows [row_first, row_first + row_count) of a value with INPUT (write; before submit) or
     * OUTPUT (read; after the step's event) in the canonical form.  Waits for a copy at most. */
    enum fm_status (*value_write)(struct be_device *device, struct be_exec *exec, be_value_id value,
                                  uint32_t row_first, uint32_t row_count, const void *host,
                                  struct fm_err *err);
    enum fm_status (*value_read)(struct be_device *device, struct be_exec *exec, be_value_id value,
                                 uint32_t row_first, uint32_t row_count, void *host,
                                 struct fm_err *err);
    /* Rows of an OUTPUT value of one exec into an INPUT value of another, on the device, queued. */
    enum fm_status (*value_copy)(struct be_device *device, struct be_exec *source,
                                 be_value_id source_value, uint32_t source_row,
                                 struct be_exec *target, be_value_id target_value,
                                 uint32_t target_row, uint32_t row_count, struct fm_err *err);

    enum fm_status (*event_new)(struct be_device *device, struct be_event **ret_event,
                                struct fm_err *err);
    void (*event_free)(struct be_device *device, struct be_event *event);
    /* FM_OK complete, FM_AGAIN not yet, or the failure of the step it was given to (R4). */
    enum fm_status (*event_poll)(struct be_device *device, struct be_event *event,
                                 struct fm_err *err);
    /* As poll, after waiting until fm_clock time deadline_ns at most. */
    enum fm_status (*event_wait)(struct be_device *device, struct be_event *event,
                                 uint64_t deadline_ns, struct fm_err *err);
    /* OPTIONAL: an eventfd that becomes readable when the event completes; without it the caller
     * waits on a thread of its own. */
    int (*event_fd)(struct be_device *device, struct be_event *event);
};

struct be_device {
    const struct be_ops *ops;
};

/* ---- registry ------------------------------------------------------------------------------ */

/* The compiled-in backends, in the order of preference at equal score; NULL past the last. */
const struct be_ops *be_registry_get(uint32_t index);

/* Open the named backend, or with name NULL the one that scores highest.  FM_UNSUPPORTED says
 * what was tried and why it cannot run here. */
enum fm_status be_registry_open(const char *name, const struct be_device_options *options,
                                struct be_device **ret_device, struct fm_err *err) FM_MUST_CHECK;

/* Wrap a device in backends/check: the same answers, and FM_DEVICE with a sentence for every
 * violation of R2, R3 and R5-R8 by the caller, the program or the wrapped device.  The wrapper
 * owns `inner` from success on.  Orders and delays are drawn from the seed. */
enum fm_status be_check_wrap(struct be_device *inner, uint64_t seed, struct be_device **ret_device,
                             struct fm_err *err) FM_MUST_CHECK;

#endif
