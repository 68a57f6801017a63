/* Links an object with the runtime into an executable: the C compiler driver with an argument vector, no shell. The runtime library is the
 * one in the build tree beside the compiler, or that of the installed library folder; for another kind of machine its sources. */
#include "codegen/emit.h"

#include <errno.h>
#include <glob.h>
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

/* The sources of the runtime: those that this compiler was built from, or the installed ones. */
static bool find_sources(char path[PATH_MAX], glob_t *sources) {
    char self[PATH_MAX], installed[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    self[length < 0 ? 0 : length] = '\0';
    char *slash = strrchr(self, '/');
    if (slash != NULL)
        *slash = '\0';
    snprintf(installed, sizeof installed, "%.*s/../share/intc", PATH_MAX - 64, self);
    const char *const places[] = {INTC_SOURCES, installed};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        char pattern[PATH_MAX];
        snprintf(pattern, sizeof pattern, "%.*s/runtime/*.c", PATH_MAX - 64, places[i]);
        if (glob(pattern, 0, NULL, sources) == 0) {
            snprintf(path, PATH_MAX, "%s", places[i]);
            return true;
        }
        globfree(sources);
    }
    return false;
}

bool is_foreign(const char *triple) {
    if (triple == NULL)
        return false;
    char *own = LLVMGetDefaultTargetTriple();
    bool foreign = strncmp(own, triple, strcspn(own, "-") + 1) != 0;
    LLVMDisposeMessage(own);
    return foreign;
}

/* For another kind of machine the runtime is compiled with the trainer, by Debian's cross compiler if none is named. Without zlib, which a
 * cross compiler does not come with. */
static bool link_foreign(const TargetOptions *target, const char *const *objects, int count, const char *path, Diag *diag) {
    char folder[PATH_MAX], cc[PATH_MAX], include[PATH_MAX + 2];
    glob_t sources = {0};
    if (!find_sources(folder, &sources)) {
        diag_error(diag, NULL, "the sources of the runtime were not found beside the compiler nor in its share folder");
        return false;
    }
    snprintf(cc, sizeof cc, "%s%s", target->cc != NULL ? target->cc : target->triple, target->cc != NULL ? "" : "-gcc");
    snprintf(include, sizeof include, "-I%s", folder);
    const char *first[] = {cc, "-O2", "-D_GNU_SOURCE", "-DINTC_NO_ZLIB", include, "-no-pie", "-pthread", "-o", path};
    enum { FIRST = sizeof first / sizeof *first };
    const char **arguments = calloc(FIRST + sources.gl_pathc + (size_t)count + 2, sizeof *arguments);
    if (arguments == NULL)
        internal_error("out of memory");
    memcpy(arguments, first, sizeof first);
    size_t at = FIRST;
    for (int i = 0; i < count; i++)
        arguments[at++] = objects[i];
    for (size_t i = 0; i < sources.gl_pathc; i++)
        arguments[at++] = sources.gl_pathv[i];
    /* As where the host's runtime is built; elsewhere the sources alone are without floating point. */
    if (strncmp(target->triple, "aarch64", 7) == 0)
        arguments[at] = "-mgeneral-regs-only";
    bool linked = run(cc, (char *const *)arguments, diag);
    free(arguments);
    globfree(&sources);
    return linked;
}

bool link_executable(const TargetOptions *target, const char *const *objects, int count, const char *path, Diag *diag) {
    if (is_foreign(target->triple))
        return link_foreign(target, objects, count, path, diag);
    char runtime[PATH_MAX];
    if (!find_runtime(runtime)) {
        diag_error(diag, NULL, "the runtime library libintc_rt.a was not found beside the compiler nor in its library folder");
        return false;
    }
    const char *cc = target->cc != NULL ? target->cc : "cc";
    /* At a fixed address: the tables of a trainer hold tens of thousands of addresses, each of which would be a relocation at every start.
     */
    const char *first[] = {cc, "-no-pie", "-o", path}, *last[] = {runtime, "-l:libz.a", "-pthread", SANITIZERS NULL};
    const char **arguments = calloc(sizeof first / sizeof *first + sizeof last / sizeof *last + (size_t)count, sizeof *arguments),
               **at = arguments;
    if (arguments == NULL)
        internal_error("out of memory");
    at = (const char **)mempcpy(at, first, sizeof first);
    at = (const char **)mempcpy(at, objects, (size_t)count * sizeof *objects);
    memcpy(at, last, sizeof last);
    bool linked = run(cc, (char *const *)arguments, diag);
    free(arguments);
    return linked;
}
