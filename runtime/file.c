/* Output files that appear whole or not at all: written beside the target, flushed to the disk, renamed. */
#include "runtime/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

bool intc_rt_output_open(Output *output, const char *path, Error *error) {
    struct stat status;
    *output = (Output){.fd = -1, .path = strdup(path)};
    if (!output->path)
        return intc_rt_fail(error, "out of memory");
    /* A device or a pipe is no file to replace. */
    if (stat(path, &status) != 0 || S_ISREG(status.st_mode)) {
        size_t room = strlen(path) + 5;
        output->temporary = malloc(room);
        if (output->temporary)
            snprintf(output->temporary, room, "%s.tmp", path);
    }
    output->fd = open(output->temporary ? output->temporary : path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (output->fd >= 0)
        return true;
    intc_rt_fail(error, "%s: cannot write: %s", path, strerror(errno));
    free(output->path);
    free(output->temporary);
    return false;
}

void intc_rt_output_write(Output *output, const void *data, size_t size) {
    const char *at = data;
    while (size > 0 && !output->failed) {
        ssize_t written = write(output->fd, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            output->failed = true;
            return;
        }
        at += written;
        size -= (size_t)written;
    }
}

static void sync_folder(const char *path) {
    char *folder = strdup(path), *slash = folder ? strrchr(folder, '/') : NULL;
    if (slash)
        slash[slash == folder] = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        (void)fsync(fd); /* some file systems cannot; the rename stands either way */
        close(fd);
    }
    free(folder);
}

bool intc_rt_output_close(Output *output, bool keep, Error *error) {
    int cause = output->failed ? errno : 0;
    if (!cause && keep && output->temporary && fsync(output->fd) != 0)
        cause = errno;
    if (close(output->fd) != 0 && !cause)
        cause = errno;
    if (output->temporary && (cause || !keep))
        unlink(output->temporary);
    else if (output->temporary && rename(output->temporary, output->path) != 0) {
        cause = errno;
        unlink(output->temporary);
    } else if (output->temporary)
        sync_folder(output->path);
    if (cause)
        intc_rt_fail(error, "%s: cannot write: %s%s", output->path, strerror(cause), output->temporary ? "; an older file is kept" : "");
    free(output->path);
    free(output->temporary);
    return cause == 0;
}
