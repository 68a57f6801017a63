/* Machine code by several processes: the functions of the module are dealt out by size, each process makes an object file of its own and
 * the linker joins them. How many there are depends on the module alone, so that a trainer does not depend on the machine that made it. */
#include "codegen/emit.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST_PARTS = 4, ENOUGH_INSTRUCTIONS = 4000 };

typedef struct {
    LLVMValueRef function;
    int64_t size; /* instructions */
    int order, part;
} Piece;

static int64_t instructions(LLVMValueRef function) {
    int64_t count = 0;
    for (LLVMBasicBlockRef block = LLVMGetFirstBasicBlock(function); block != NULL; block = LLVMGetNextBasicBlock(block))
        for (LLVMValueRef at = LLVMGetFirstInstruction(block); at != NULL; at = LLVMGetNextInstruction(at))
            count++;
    return count;
}

static int larger_first(const void *a, const void *b) {
    const Piece *p = a, *q = b;
    return p->size != q->size ? (p->size < q->size) - (p->size > q->size) : p->order - q->order;
}

static Piece *collect(const Codegen *cg, int *count, int64_t *size) {
    int room = 1;
    for (LLVMValueRef f = LLVMGetFirstFunction(cg->module); f != NULL; f = LLVMGetNextFunction(f))
        room++;
    Piece *pieces = arena_alloc(cg->memory, (size_t)room, sizeof *pieces);
    *count = 0;
    *size = 0;
    for (LLVMValueRef f = LLVMGetFirstFunction(cg->module); f != NULL; f = LLVMGetNextFunction(f)) {
        if (LLVMIsDeclaration(f))
            continue;
        pieces[*count] = (Piece){f, instructions(f), *count, 0};
        *size += pieces[(*count)++].size;
    }
    return pieces;
}

/* The largest first, each to the part that has least. */
static void deal(Piece *pieces, int count, int parts) {
    int64_t load[MOST_PARTS] = {0};
    qsort(pieces, (size_t)count, sizeof *pieces, larger_first);
    for (int i = 0; i < count; i++) {
        int least = 0;
        for (int k = 1; k < parts; k++)
            least = load[k] < load[least] ? k : least;
        pieces[i].part = least;
        load[least] += pieces[i].size;
    }
}

/* What another part has is a declaration here, once the first pass has gone over it. */
static void place(LLVMValueRef global, bool here) {
    LLVMSetLinkage(global, here ? LLVMExternalLinkage : LLVMAvailableExternallyLinkage);
    LLVMSetVisibility(global, LLVMHiddenVisibility);
}

/* Part 0 has the data. */
static void keep(Codegen *cg, const Piece *pieces, int count, int part) {
    for (int i = 0; i < count; i++)
        place(pieces[i].function, pieces[i].part == part);
    int number = 0;
    for (LLVMValueRef data = LLVMGetFirstGlobal(cg->module); data != NULL; data = LLVMGetNextGlobal(data)) {
        if (LLVMGetInitializer(data) == NULL)
            continue;
        const char *name = arena_printf(cg->memory, "data.%d", number++);
        if (LLVMGetLinkage(data) != LLVMExternalLinkage)
            LLVMSetValueName2(data, name, strlen(name));
        place(data, part == 0);
    }
}

static bool wait_for(Codegen *cg, pid_t child) {
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR) {
            diag_error(cg->diag, NULL, "waiting for the code generator: %s", strerror(errno));
            return false;
        }
    if (WIFSIGNALED(status))
        diag_error(cg->diag, NULL, "the code generator was ended by signal %d", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* The child; what it has to say goes to a file of its own. */
static void make_part(Codegen *cg, const Piece *pieces, int count, int part, const char *object, int said) {
    cg->diag = diag_new(NULL);
    keep(cg, pieces, count, part);
    bool written = target_make(cg, EMIT_OBJ, object);
    FILE *out = said < 0 ? NULL : fdopen(said, "w");
    diag_print(cg->diag, out != NULL ? out : stderr);
    if (out != NULL)
        fclose(out);
    _exit(written ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* Of several children that fail, of a full disk, say, one tells. */
static void repeat(int said) {
    char text[4096];
    ssize_t size = said < 0 ? 0 : pread(said, text, sizeof text, 0);
    fprintf(stderr, "%.*s", (int)(size > 0 ? size : 0), text);
}

bool parts_write(Codegen *cg, const char *path) {
    int64_t size;
    int count;
    Piece *pieces = collect(cg, &count, &size);
    int parts = size / ENOUGH_INSTRUCTIONS < MOST_PARTS ? (int)(size / ENOUGH_INSTRUCTIONS) + 1 : MOST_PARTS;
    deal(pieces, count, parts);
    const char *objects[MOST_PARTS];
    pid_t children[MOST_PARTS];
    int said[MOST_PARTS];
    bool good = true;
    for (int k = 0; k < parts; k++) {
        objects[k] = arena_printf(cg->memory, "%s.%d.o", path, k);
        said[k] = memfd_create("intc", MFD_CLOEXEC);
        children[k] = fork();
        if (children[k] == 0)
            make_part(cg, pieces, count, k, objects[k], said[k]);
        if (children[k] < 0)
            diag_error(cg->diag, NULL, "cannot start the code generator: %s", strerror(errno));
    }
    for (int k = 0; k < parts; k++) {
        bool made = children[k] > 0 && wait_for(cg, children[k]);
        if (!made && good)
            repeat(said[k]);
        good = made && good;
        if (said[k] >= 0)
            close(said[k]);
    }
    good = good && link_executable(cg->target, objects, parts, path, cg->diag);
    for (int k = 0; k < parts; k++)
        unlink(objects[k]);
    return good;
}
