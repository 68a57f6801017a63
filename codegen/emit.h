/* Inside codegen/: the state of an emission, IR builder helpers, and the interface of kernels.
 *
 * An entry function (step, calibrate, infer) runs the nodes of a graph in order. Each node that is not fused into another has a kernel,
 * void kernel(ptr arena, ptr places, i64 begin, i64 end), which does the tiles [begin, end) of that node. Where its operands lie, and what
 * else tells it from a like kernel, it reads from `places`, so that equal kernels are one (share.c). An emitter looks like this:
 *
 *     void emit_X(Codegen *cg, const Node *node) {
 *         kernel_begin(cg, node, "");                  // the builder is now inside the kernel: cg->arena, cg->begin, cg->end
 *         Loop tile = loop_begin(cg, cg->begin, cg->end);
 *         ... load_element(cg, node->in[0], index) ... store_element(cg, node->out[0], index, x) ...
 *         loop_end(cg, &tile);
 *         kernel_end(cg, tiles, elements);             // ends the kernel; the entry function calls it on [0, tiles)
 *     }
 *
 * A node may have several kernels, one after another; nothing is emitted between them. Kernels of one node never run at the same time; the
 * tiles of one kernel may. The exponent of every output is stored by a kernel of entry.c after the emitter (exponent rules of ops.def);
 * rescale stores its own. */
#ifndef INTC_CODEGEN_EMIT_H
#define INTC_CODEGEN_EMIT_H

#include "codegen/codegen.h"

#include <llvm-c/Core.h>
#include <llvm-c/TargetMachine.h>

enum { MAX_REGIONS = 128, MAX_ACCESSES = 16384, MAX_PLACES = 512, MAX_BYTE_TABLES = 8, GUESS_BYTES = 24 };

/* So many elements are worth a table of 256 values. */
enum { BYTE_TABLE_PAYS = 2048 };

/* Memory accesses of the kernel being built, to be marked as not aliasing where their regions are disjoint. */
typedef struct {
    int64_t offset, size;
} Region;
typedef struct {
    LLVMValueRef instruction;
    int region;
} Access;

/* One entry of a kernel's table of places. */
typedef struct {
    int64_t number;       /* arena offset, or a number of the node */
    LLVMValueRef address; /* of an offset, in the kernel; NULL: a number */
} PlaceEntry;

/* The values of a node for every operand of 8 bits, computed at the start of a kernel; entry 0 belongs to -128. */
typedef struct {
    const Node *node;
    LLVMValueRef entries;
} ByteTable;

/* Functions and tables that are emitted, to be found again by content. */
typedef struct Shared Shared;

/* A call of a kernel, to be struct intc_call; `name` tells the kind of work, `origin` what of the model it belongs to. */
typedef struct {
    LLVMValueRef kernel;
    int64_t tiles, images, threads, again; /* as there */
    int first_place;                       /* in the table of all places */
    const char *name, *origin;
    bool gradient;
} Call;

typedef struct {
    Call *rows;
    int count, room;
    LLVMValueRef address; /* of the data, after calls_close */
} CallTable;

/* What all calls give their kernels to read. */
typedef struct {
    int64_t *numbers;
    int count, room;
} PlacesTable;

typedef struct Codegen {
    const ModuleSource *source;
    const TargetOptions *target;
    Diag *diag;
    Arena *memory;
    LLVMTargetMachineRef machine;
    char *triple, *cpu, *features; /* features: the full list, "+avx2,+bmi,-avx512f" */
    LLVMContextRef context;
    LLVMModuleRef module;
    LLVMBuilderRef builder;
    LLVMTypeRef i1, i8, i16, i32, i64, i128, f32, f64, ptr, none;
    const Graph *graph; /* being emitted */
    /* The function being built, entry or kernel, and its arguments. */
    LLVMValueRef function, arena, table, begin, end;
    LLVMBasicBlockRef head;  /* its first block: locals and values computed once go before its terminator */
    LLVMValueRef *exponents; /* by value id: exponents already computed in this function */
    /* Of the entry function, while a kernel is built. */
    LLVMValueRef entry;
    LLVMBasicBlockRef entry_block, entry_head;
    int entry_first; /* of its calls */
    LLVMValueRef kernel;
    const Node *node;   /* whose kernel is built */
    const char *suffix; /* of that kernel */
    bool slotted;       /* it has asked for its slot */
    int64_t turned;     /* images that its tiles are; 0: none */
    PlaceEntry places[MAX_PLACES];
    int place_count;
    ByteTable byte_tables[MAX_BYTE_TABLES];
    int byte_table_count;
    Shared *shared;
    int shared_count, shared_room; /* a power of two */
    CallTable calls;
    PlacesTable all_places;
    LLVMValueRef walk;    /* the function that makes the calls of an entry */
    LLVMValueRef changed; /* a variable of the module: whether the last call asks to be repeated */
    LLVMValueRef guesses; /* stand-in for an array of the module: what each rescale keeps from step to step */
    int guess_count;
    LLVMValueRef loudest; /* a variable of the module: the image with the largest magnitude of the last rescale of images */
    int64_t images;       /* of a batch: outermost dimension of the graph's first input */
    const Value *near;    /* a value that the kernel has in scratch of its own; */
    LLVMValueRef near_at; /* where all of it would begin */
    Region near_region;
    bool matrix_registers; /* a kernel uses them */
    bool plain;            /* weighted sums leave out their middle terms, whose coefficients are 0 */
    int64_t scratch;       /* bytes of scratch used by the current node, after the planned arena */
    int64_t scratch_size;  /* the most any node used */
    Region regions[MAX_REGIONS];
    int region_count;
    Access *accesses;
    int access_count;
} Codegen;

/* --- kernels --- */

/* suffix tells the kernels of one node apart ("pack", "main"); may be "". */
void kernel_begin(Codegen *cg, const Node *node, const char *suffix);
/* The kernel being built is for few elements: small code. */
void kernel_for_few(Codegen *cg);
/* The tiles of the kernel being built are `images` images in their order, and the one with the largest magnitude should come first. */
void kernel_turn(Codegen *cg, int64_t images);
/* work: about the number of elementary operations of all tiles together; little work is done without the pool. */
void kernel_end(Codegen *cg, int64_t tiles, int64_t work);
/* Bytes of the arena for the current node alone, aligned to 64: an arena offset, for the *_at functions below. Shared by all threads. */
int64_t scratch_alloc(Codegen *cg, int64_t bytes);
/* So many for each thread that a kernel of `tiles` tiles may have, of which the whole takes slots_bytes, and the address of those of the
 * thread that the kernel being built is run by. */
int64_t slots_alloc(Codegen *cg, int64_t bytes, int64_t tiles);
int64_t slots_bytes(int64_t bytes, int64_t tiles);
LLVMValueRef slot_at(Codegen *cg, int64_t slots, int64_t bytes);
/* The arena of a module goes on behind the plan's: i32 exponents of outputs whose exponent is constant, then scratch. */
int64_t scratch_base(const Codegen *cg);
int64_t output_exponent_place(const Codegen *cg, const Output *output);

/* --- constants, types --- */

LLVMValueRef const32(const Codegen *cg, int64_t x);
LLVMValueRef const64(const Codegen *cg, int64_t x);
LLVMTypeRef element_type(const Codegen *cg, Type type); /* i8 to i64, float for T_REAL */
/* A private constant array of i32 or i64, one for equal contents; returns its address. */
LLVMValueRef const_table(Codegen *cg, LLVMTypeRef type, const int64_t *data, int count);
/* A private constant: any bytes (NULL if there are none), a string that ends in 0, one for equal contents. */
LLVMValueRef const_bytes(Codegen *cg, const void *bytes, int64_t size);
LLVMValueRef const_text(Codegen *cg, const char *text);
/* Whether the target CPU has an LLVM feature: "avx2", "avxvnni", "avx512vnni", "avx512bw". */
bool target_has(const Codegen *cg, const char *feature);
/* Whether its widest vectors are those of AVX2. */
bool target_is_avx2(const Codegen *cg);

/* --- memory; indices are i64, in elements of the physical layout --- */

/* Address of an arena offset, in a kernel by its table of places. */
LLVMValueRef arena_at(Codegen *cg, int64_t offset);
/* A number that differs between like nodes, such as that of a random stream, by the table of places; i64. Call it in the head. */
LLVMValueRef node_number(Codegen *cg, int64_t number);
/* One more entry of the table, and the entry at an index (i64). */
void place_add(Codegen *cg, int64_t number);
LLVMValueRef listed_place(Codegen *cg, LLVMValueRef index);
LLVMValueRef load_element(Codegen *cg, const Value *value, LLVMValueRef index); /* in the value's own type */
/* The same, sign-extended (or truncated) to `bits`; a float as it is. */
LLVMValueRef load_as(Codegen *cg, const Value *value, LLVMValueRef index, int bits);
/* x is truncated or extended to the value's type; a float goes as it is. */
void store_element(Codegen *cg, const Value *value, LLVMValueRef index, LLVMValueRef x);
/* Typed array at an arena offset (scratch); type may be a vector, index counts elements of `element`; align in bytes. `size` is that of the
 * whole region in bytes: accesses to disjoint regions are marked as such. */
LLVMValueRef load_at(Codegen *cg, int64_t offset, int64_t size, LLVMTypeRef type, LLVMTypeRef element, LLVMValueRef index, unsigned align);
void store_at(Codegen *cg, int64_t offset, int64_t size, LLVMTypeRef element, LLVMValueRef index, LLVMValueRef x, unsigned align);
/* Marks any load or store that the emitter built itself as touching [offset, offset + size) of the arena only. */
void mark_access(Codegen *cg, LLVMValueRef instruction, int64_t offset, int64_t size);
int64_t value_bytes(const Value *value);
/* A stack variable of this function (promoted to a register by LLVM), set to init now. */
LLVMValueRef local_new(Codegen *cg, LLVMTypeRef type, LLVMValueRef init);
LLVMValueRef local_get(Codegen *cg, LLVMTypeRef type, LLVMValueRef local);
void local_set(Codegen *cg, LLVMValueRef local, LLVMValueRef x);
/* An uninitialised stack array of this function. */
LLVMValueRef local_array(Codegen *cg, LLVMTypeRef type, int64_t count);

/* --- control flow --- */

/* The vectors that a loop is to become: of so many lanes, so many in one turn; 0 lanes: as LLVM likes. */
typedef struct {
    int lanes, together;
} Vectors;

typedef struct {
    LLVMValueRef index; /* i64 */
    LLVMBasicBlockRef body, exit;
    LLVMValueRef end, step;
    Vectors vectors; /* may be set until loop_end */
} Loop;
/* for (index = begin; index < end; index += step); step 1 for loop_begin. No iteration if begin >= end. */
Loop loop_begin(Codegen *cg, LLVMValueRef begin, LLVMValueRef end);
Loop loop_begin_step(Codegen *cg, LLVMValueRef begin, LLVMValueRef end, int64_t step);
void loop_end(Codegen *cg, Loop *loop);

typedef struct {
    LLVMBasicBlockRef otherwise, exit;
} Branch;
Branch if_begin(Codegen *cg, LLVMValueRef condition);
void if_else(Codegen *cg, Branch *branch);
void if_end(Codegen *cg, Branch *branch); /* with or without if_else */

/* --- arithmetic ---
 * add, sub, mul, negate, compare (by its signed predicates) and const_like also take floats. Operations on elements round as they are
 * written, so that an element is the same wherever a loop is split or vectorised; only sums over a loop may be reordered (add_term). */

LLVMValueRef add(Codegen *cg, LLVMValueRef a, LLVMValueRef b);
/* One more term of a sum over a loop. */
LLVMValueRef add_term(Codegen *cg, LLVMValueRef sum, LLVMValueRef x);
LLVMValueRef sub(Codegen *cg, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef mul(Codegen *cg, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef add_const(Codegen *cg, LLVMValueRef a, int64_t b);
LLVMValueRef mul_by(Codegen *cg, LLVMValueRef a, int64_t b);
LLVMValueRef udiv_by(Codegen *cg, LLVMValueRef a, int64_t b);
LLVMValueRef urem_by(Codegen *cg, LLVMValueRef a, int64_t b);
LLVMValueRef compare(Codegen *cg, LLVMIntPredicate predicate, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef choose(Codegen *cg, LLVMValueRef condition, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef smin(Codegen *cg, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef smax(Codegen *cg, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef umin(Codegen *cg, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef umax(Codegen *cg, LLVMValueRef a, LLVMValueRef b);
LLVMValueRef magnitude(Codegen *cg, LLVMValueRef a); /* |a| */
LLVMValueRef negate(Codegen *cg, LLVMValueRef a);
/* Constant of the same (scalar) type as x. */
LLVMValueRef const_like(LLVMValueRef x, int64_t value);
/* Whether x is a float or a vector of floats. */
bool is_float(LLVMValueRef x);
/* Sign-extended or truncated to an integer of `bits`; a float as it is. */
LLVMValueRef as_bits(Codegen *cg, LLVMValueRef x, int bits);
LLVMValueRef as_unsigned(Codegen *cg, LLVMValueRef x, int bits); /* zero-extended or truncated */
int bits_of(LLVMValueRef x);
enum { CACHE_LINE = 64 }; /* bytes */
/* Asks for the cache line at an address, which may be anywhere. */
void fetch_line(Codegen *cg, LLVMValueRef address);
/* Any LLVM intrinsic by name; overload types only for overloaded ones. */
LLVMValueRef intrinsic(Codegen *cg, const char *name, LLVMTypeRef *overloads, int overload_count, LLVMValueRef *args, int arg_count);

/* --- exponents; i32 scalars of the function being built --- */

/* Constant, loaded from the arena, or computed from the operands of a fused node. Emitted once a function, in its head. */
LLVMValueRef value_exponent(Codegen *cg, const Value *value);
/* The exponent that a node's rule gives its output 0 (not RULE_RESCALE). */
LLVMValueRef node_exponent(Codegen *cg, const Node *node);
/* That of the term of pair i of a weighted sum. */
LLVMValueRef weighted_exponent(Codegen *cg, const Node *node, int i);
/* Everything emitted until head_leave goes to the function's head, executed once. */
LLVMBasicBlockRef head_enter(Codegen *cg);
void head_leave(Codegen *cg, LLVMBasicBlockRef saved);

/* --- fixed point (runtime/fixed.h in LLVM IR) --- */

/* intc_align(x, s) for a shift known once a function: x of `bits` (32 or 64). 32 bits need |x| <= 2^30 and results within 2^31. */
typedef struct {
    int bits;
    LLVMValueRef left, right, half_less_one, one; /* left NULL: never */
} Shift;
/* s: i32, any value. may_left: s < 0 is possible. Call between head_enter and head_leave, or where the values dominate their use. */
Shift shift_new(Codegen *cg, LLVMValueRef s, int bits, bool may_left);
LLVMValueRef shift_apply(Codegen *cg, const Shift *shift, LLVMValueRef x);
/* intc_bit_length of an unsigned x; i32. */
LLVMValueRef bit_length(Codegen *cg, LLVMValueRef x);
/* intc_rescale_shift(maximum, bits, stochastic); maximum i64; i32. */
LLVMValueRef rescale_shift(Codegen *cg, LLVMValueRef maximum, int bits, bool stochastic);
LLVMValueRef exponent_clamp(Codegen *cg, LLVMValueRef e);
/* intc_random_key, the two halves, and the last factor of a random word; i32. */
typedef struct {
    LLVMValueRef low, high, factor;
} RandomKey;
RandomKey random_key(Codegen *cg, int64_t stream);
/* intc_random_word and intc_random_bits of steps / INTC_RANDOM_STEP; i32. */
LLVMValueRef random_word(Codegen *cg, const RandomKey *key, LLVMValueRef steps);
LLVMValueRef random_bits(Codegen *cg, const RandomKey *key, LLVMValueRef steps);

/* --- emitters --- */

typedef void Emitter(Codegen *cg, const Node *node);
#define OP(name, ...) Emitter emit_##name;
#include "ir/ops.def"
#undef OP

/* The element of a pointwise node from its operands' elements (each i32 or i64); called inside the group's inner loop. */
typedef LLVMValueRef ElementEmitter(Codegen *cg, const Node *node, const LLVMValueRef *operands);
/* function.c */
/* Fills the table of a node that is a function of one operand of 8 bits, if there is room and enough elements to pay for it. At the start
 * of a kernel; the element emitters of this file read it. */
void function_table(Codegen *cg, const Node *node);
/* An array of 2^8 entries in the kernel: f(cg, context, m) for m from `first` on, each of the type of `type`. */
LLVMValueRef byte_table(Codegen *cg, LLVMTypeRef type, int first, LLVMValueRef (*f)(Codegen *cg, const void *context, LLVMValueRef m),
                        const void *context);
ElementEmitter element_abs, element_curve, element_gated, element_curve_grad, element_exp, element_log, element_sqrt, element_random_normal;

/* --- sharing --- */

/* A finished function without calls to itself: if one of the same `extra` and body exists, that one, and `function` is deleted; otherwise
 * `function`, renamed to a name that begins with `name`. extra must tell what the body does not. */
LLVMValueRef share_function(Codegen *cg, LLVMValueRef function, const char *extra, const char *name);
/* What share_function compares: `count` words, to be freed. */
int64_t *function_fingerprint(LLVMValueRef function, const char *extra, size_t *count);
/* An i32 of the module that is 0 at start. */
LLVMValueRef share_variable(Codegen *cg, LLVMValueRef *variable, const char *name);
/* After the last kernel: what has grown becomes data of the module. */
void share_close(Codegen *cg);

/* --- calls --- */

/* Appends a call of the kernel just built, with its places. */
void calls_add(Codegen *cg, const Call *call);
/* The calls from number `first` to the last one are repeated while the last one leaves cg->changed other than 0. */
void calls_repeat(Codegen *cg, int first);
/* struct intc_call, and an entry of a kernel's table of places. */
LLVMTypeRef call_type(const Codegen *cg);
LLVMTypeRef place_type(const Codegen *cg);
void calls_close(Codegen *cg);

/* --- float32 (--arith=float32): what differs from the integer emitters, which serve both where nothing is computed --- */

/* Whether the node computes on floats: it has an operand or result that is T_REAL. */
bool node_is_float(const Node *node);
/* float_*.c; NULL where the emitter of integers serves. */
Emitter *float_emitter(Op op);
ElementEmitter *float_element(Op op);

/* --- module, entry, target, link --- */

/* Starts a function: cg->function, cg->head; the builder is in its body. */
void function_start(Codegen *cg, LLVMValueRef function);
bool target_open(Codegen *cg);
/* Optimises the module and writes what was asked for, but an executable. */
bool target_make(Codegen *cg, EmitKind kind, const char *path);
/* The same, or an executable by parts_write; nothing is left behind if it fails. */
bool target_write(Codegen *cg, EmitKind kind, const char *path);
LLVMValueRef emit_entry(Codegen *cg, const Graph *graph, const char *name);
/* An entry function that makes the calls of the kernels that are emitted between. */
void entry_begin(Codegen *cg, const char *name);
void entry_end(Codegen *cg);
/* After share_close: the function that entries share. */
void entry_close(Codegen *cg);
void emit_descriptor(Codegen *cg, LLVMValueRef step, LLVMValueRef calibrate, LLVMValueRef infer);
/* The record of struct intc_model; none of a refused model. */
typedef struct {
    const unsigned char *bytes;
    int64_t size, unpacked; /* as stored, and as the runtime sees it */
} Record;
Record record_new(const Codegen *cg, const ModelTemplate *model, const struct intc_exponent *exponents, const struct intc_patch *patches);
/* Writes an executable; the module is unchanged, the work is done by child processes. */
bool parts_write(Codegen *cg, const char *path);
/* Whether code for the triple (NULL: the host's) does not run on this kind of machine; its trainers have no zlib. */
bool is_foreign(const char *triple);
bool link_executable(const TargetOptions *target, const char *const *objects, int count, const char *path, Diag *diag);

#endif
