/* status.h - the outcome of a call, and the sentence that explains a failure.
 *
 * Positive statuses are answers, not errors: the call did its work and this is what it found.  A
 * negative status is a failure; the callee has then written `err` (when it is not NULL) and has
 * left every `ret_` output alone.  A failure is reported once, where it stops travelling. */
#ifndef FM_STATUS_H
#define FM_STATUS_H

#define FM_MUST_CHECK __attribute__((warn_unused_result))
#define FM_PRINTF(fmt_index, arg_index) __attribute__((format(printf, fmt_index, arg_index)))

enum fm_status {
    FM_OK = 0,
    FM_AGAIN = 1,        /* not now: a bounded resource is full or the work is not finished */
    FM_MISS = 2,         /* looked for and not there */
    FM_END = 3,          /* the end of a sequence of answers */
    FM_INVALID = -1,     /* an argument or an input is wrong */
    FM_NOMEM = -2,       /* memory could not be had */
    FM_IO = -3,          /* the operating system refused an operation */
    FM_CORRUPT = -4,     /* data that was read is not what its format says */
    FM_UNSUPPORTED = -5, /* understood, and not offered */
    FM_LIMIT = -6,       /* a bound would be exceeded */
    FM_CANCELED = -7,    /* given up on request */
    FM_TIMEOUT = -8,     /* a deadline has passed */
    FM_DEVICE = -9,      /* a device failed */
};

enum { FM_ERR_TEXT_BYTES = 512 };

/* One sentence with the value and the bound, never a prompt, a completion or a key. */
struct fm_err {
    enum fm_status status;
    char text[FM_ERR_TEXT_BYTES];
};

/* Write the message into err (NULL allowed) and return status, for `return FM_FAIL(...)`.  A
 * message that does not fit is cut.  Any thread. */
enum fm_status fm_fail(struct fm_err *err, enum fm_status status, const char *format, ...)
    FM_PRINTF(3, 4);

/* The same, with ": " and the text of the errno value behind the message. */
enum fm_status fm_fail_os(struct fm_err *err, enum fm_status status, int error_number,
                          const char *format, ...) FM_PRINTF(4, 5);

/* Put "context: " in front of the message that err already holds; returns err's status.  For a
 * caller that knows where in the input the callee failed.  err must not be NULL. */
enum fm_status fm_err_prefix(struct fm_err *err, const char *format, ...) FM_PRINTF(2, 3);

/* A stable lower-case word for a status, for logs: "ok", "again", "corrupt", ... */
const char *fm_status_name(enum fm_status status);

#define FM_FAIL(err, status, ...) fm_fail((err), (status), __VA_ARGS__)
#define FM_FAIL_OS(err, status, error_number, ...)                                                 \
    fm_fail_os((err), (status), (error_number), __VA_ARGS__)

#endif
