/* file.c - open, size, map, close. */
#include "backends/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backends/base/assert.h"
#include "backends/base/fault.h"

static const char nothing[1] = "";

/* open(2) for reading; -1 with errno.  O_NONBLOCK keeps a named pipe from waiting for a writer. */
static int open_read(const char *path)
{
    if (fm_fault_hit("open")) {
        errno = EIO;
        return -1;
    }
    return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

static void *map_read(int fd, size_t bytes)
{
    if (fm_fault_hit("map")) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    return mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
}

enum fm_status fm_file_map(const char *path, uint64_t bytes_max, struct fm_file *ret_file,
                           struct fm_err *err)
{
    struct stat info;
    struct fm_file file = {.data = nothing};
    enum fm_status status = FM_OK;

    int fd = open_read(path);
    if (fd == -1 && errno == ENOENT)
        return FM_MISS;
    if (fd == -1)
        return FM_FAIL_OS(err, FM_IO, errno, "cannot open '%s'", path);
    if (fstat(fd, &info) == -1) {
        status = FM_FAIL_OS(err, FM_IO, errno, "cannot size '%s'", path);
        goto out_close;
    }
    if (!S_ISREG(info.st_mode)) {
        status = FM_FAIL(err, FM_IO, "'%s' is not a regular file", path);
        goto out_close;
    }
    file.bytes = (uint64_t)info.st_size;
    if (file.bytes > bytes_max || file.bytes > SIZE_MAX) {
        status = FM_FAIL(err, FM_LIMIT, "'%s' has %" PRIu64 " bytes, at most %" PRIu64 " are taken",
                         path, file.bytes, bytes_max);
        goto out_close;
    }
    if (file.bytes != 0) {
        void *data = map_read(fd, (size_t)file.bytes);
        if (data == MAP_FAILED) {
            status = FM_FAIL_OS(err, FM_IO, errno, "cannot map '%s'", path);
            goto out_close;
        }
        file.data = data;
    }
    *ret_file = file;
out_close:
    (void)close(fd); /* read-only: nothing to lose */
    return status;
}

void fm_file_unmap(struct fm_file *file)
{
    if (file->bytes != 0) {
        int failed = munmap((void *)(uintptr_t)file->data, (size_t)file->bytes);
        FM_ASSERT(failed == 0);
    }
    *file = (struct fm_file){0};
}
