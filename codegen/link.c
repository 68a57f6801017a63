/* Links an object with the runtime into an executable: the C compiler driver with an argument vector, no shell. The runtime library is the
 * option's, the one in the build tree beside the compiler, or that of the installed library folder. */
#include "codegen/emit.h"

#include <errno.h>
#include <limits.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* The sanitizer preset builds the runtime with them, so that trainers are checked too. */
#ifdef INTC_SANITIZED
#define SANITIZERS "-fsanitize=address,undefined",
#else
#define SANITIZERS
#endif

static bool readable(const char *path) {
    return access(path, R_OK) == 0;
}

/* Searches beside the running executable. */
static bool find_runtime(char path[PATH_MAX]) {
    static const char *const places[] = {"runtime/libintc_rt.a", "../runtime/libintc_rt.a", "../lib/intc/libintc_rt.a",
                                         "../lib64/intc/libintc_rt.a", "../lib/" INTC_MULTIARCH "/intc/libintc_rt.a"};
    char self[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length <= 0)
        return false;
    self[length] = '\0';
    char *slash = strrchr(self, '/');
    if (slash == NULL)
        return false;
    slash[1] = '\0';
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (snprintf(path, PATH_MAX, "%s%s", self, places[i]) < PATH_MAX && readable(path))
            return true;
    return false;
}

static bool run(const char *program, char *const *arguments, Diag *diag) {
    pid_t child;
    int error = posix_spawnp(&child, program, NULL, NULL, arguments, environ), status;
    if (error != 0) {
        diag_error(diag, NULL, "cannot run the linker driver %s: %s", program, strerror(error));
        return false;
    }
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) {
            diag_error(diag, NULL, "waiting for %s: %s", program, strerror(errno));
            return false;
        }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    diag_error(diag, NULL, "%s failed to link the trainer", program);
    return false;
}

bool link_executable(const TargetOptions *target, const char *object, const char *path, Diag *diag) {
    char runtime[PATH_MAX];
    if (target->runtime_lib != NULL) {
        if (snprintf(runtime, sizeof runtime, "%s", target->runtime_lib) >= (int)sizeof runtime || !readable(runtime)) {
            diag_error(diag, NULL, "runtime library %s: cannot be read", target->runtime_lib);
            return false;
        }
    } else if (!find_runtime(runtime)) {
        diag_error(diag, NULL, "the runtime library libintc_rt.a was not found beside the compiler nor in its library folder");
        return false;
    }
    const char *cc = target->cc != NULL ? target->cc : "cc";
    const char *arguments[] = {cc, "-o", path, object, runtime, "-l:libz.a", "-pthread", SANITIZERS NULL};
    return run(cc, (char *const *)arguments, diag);
}
