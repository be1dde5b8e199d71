/* file.h - a whole file as read-only memory.
 *
 * For files that are read once or that are too large to read: configurations, indices, weights.
 * The mapping stays valid when the file is renamed or removed; when somebody truncates it, touching
 * the lost part raises SIGBUS. */
#ifndef FM_FILE_H
#define FM_FILE_H

#include <stdint.h>

#include "backends/base/status.h"

struct fm_file {
    const void *data; /* bytes of them, page-aligned; never NULL, not even for an empty file */
    uint64_t bytes;
};

/* Map the regular file at `path`.
 *   FM_MISS   there is no such file: an answer, err is left alone
 *   FM_IO     it cannot be opened, sized or mapped, or is no regular file
 *   FM_LIMIT  it has more than bytes_max
 * Unmap with fm_file_unmap.  Fault points "open" and "map".  Any thread. */
enum fm_status fm_file_map(const char *path, uint64_t bytes_max, struct fm_file *ret_file,
                           struct fm_err *err) FM_MUST_CHECK;

/* A struct of zeros is allowed; afterwards it is one. */
void fm_file_unmap(struct fm_file *file);

#endif
