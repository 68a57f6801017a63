/* Output files that appear whole or not at all: written without a name (or beside the target, where the file system cannot), flushed to the
 * disk, then renamed over the target. */
#include "runtime/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The folder that path is in, on the heap. */
static char *folder_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
}

/* A file without a name, so that a killed process leaves nothing behind; -1 where that is not possible. */
static int open_nameless(const char *path) {
    char *folder = folder_of(path);
    int fd = folder && access("/proc/self/fd", X_OK) == 0 ? open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666) : -1;
    free(folder);
    return fd;
}

bool intc_rt_output_open(Output *output, const char *path, Error *error) {
    struct stat status;
    size_t room = strlen(path) + 5;
    *output = (Output){.fd = -1, .path = strdup(path), .temporary = malloc(room)};
    if (!output->path || !output->temporary) {
        intc_rt_fail(error, "out of memory");
        goto failed;
    }
    snprintf(output->temporary, room, "%s.tmp", path);
    output->replaces = stat(path, &status) == 0;
    if (output->replaces && !S_ISREG(status.st_mode)) {
        /* A device or a pipe is no file to replace. */
        free(output->temporary);
        output->temporary = NULL;
    } else {
        output->fd = open_nameless(path);
        output->nameless = output->fd >= 0;
    }
    if (output->fd < 0)
        output->fd = open(output->temporary ? output->temporary : path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (output->fd >= 0)
        return true;
    intc_rt_fail(error, "%s: cannot write: %s", path, strerror(errno));
failed:
    free(output->path);
    free(output->temporary);
    return false;
}

void intc_rt_output_write(Output *output, const void *data, size_t size) {
    const char *at = data;
    while (size > 0 && output->cause == 0) {
        ssize_t written = write(output->fd, at, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0) {
            output->cause = written < 0 ? errno : EIO;
            return;
        }
        at += written;
        size -= (size_t)written;
    }
}

static void sync_folder(const char *path) {
    char *folder = folder_of(path);
    int fd = folder ? open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0) {
        (void)fsync(fd); /* some file systems cannot; the rename stands either way */
        close(fd);
    }
    free(folder);
}

/* Gives a nameless file the temporary name. */
static bool name_file(const Output *output) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", output->fd);
    if (linkat(AT_FDCWD, link, AT_FDCWD, output->temporary, AT_SYMLINK_FOLLOW) == 0)
        return true;
    /* A file of that name from a process that was killed between linkat and rename. */
    return errno == EEXIST && unlink(output->temporary) == 0 && linkat(AT_FDCWD, link, AT_FDCWD, output->temporary, AT_SYMLINK_FOLLOW) == 0;
}

bool intc_rt_output_close(Output *output, bool keep, Error *error) {
    bool replace = keep && output->cause == 0 && output->temporary;
    if (replace && (fsync(output->fd) != 0 || (output->nameless && !name_file(output))))
        output->cause = errno;
    bool named = output->temporary && (!output->nameless || (replace && output->cause == 0));
    if (close(output->fd) != 0 && output->cause == 0)
        output->cause = errno;
    if (replace && output->cause == 0 && rename(output->temporary, output->path) != 0)
        output->cause = errno;
    if (replace && output->cause == 0)
        sync_folder(output->path);
    else if (named)
        unlink(output->temporary);
    bool good = output->cause == 0;
    if (!good)
        intc_rt_fail(error, "%s: cannot write: %s%s", output->path, strerror(output->cause),
                     output->temporary && output->replaces ? "; the older file is kept" : "");
    free(output->path);
    free(output->temporary);
    return good;
}
