/* One arena for all graphs of a trainer. Before: STAGE_SCALED, layout and fuse done. After: STAGE_PLANNED (STAGE_FLOAT where exponents
 * never ran); every stored value has its offset, every dynamic exponent a place of its own.
 *
 *   [0, state_size)   PARAM, STATE and their exponents; one place for all graphs, joined by name
 *   constants         equal ones once
 *   random            seed and step, two u64
 *   inputs, hyper     joined by name where type, shape and order agree; then the exponents of all other values
 *   activations       by liveness within a graph; graphs overlap, for they never run at the same time
 *
 * A kernel stands at the position of its root: the operands of all its fused nodes live until there. A reshape or transpose that moves
 * no byte shares its operand's place. `next` of an update takes the place of its state where its kernel is the last to read the state, and
 * reads it at the index that it writes; elsewhere the generated step copies it at the end. */
#include "passes/passes.h"
#include "runtime/abi.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    Value *value;
    int64_t size, offset;
    int first, last; /* kernel positions, inclusive */
} Block;

typedef struct {
    Graph *graph;
    int *position; /* by node id: of its kernel */
    int *last;     /* by value id of a storage root: last kernel that reads it; node_count if it must outlive the step */
    Value **root;  /* by value id: the value whose storage it shares */
    bool *used;    /* by value id */
    Block *blocks;
    int block_count;
} Life;

typedef struct {
    Graph *const *graphs;
    int count;
    int64_t top; /* bytes given out */
    bool failed;
} Planner;

static int64_t value_bytes(const Value *value) {
    int64_t bytes;
    if (__builtin_mul_overflow(shape_elements(value->shape), type_bytes(value->type), &bytes))
        internal_error("value %s is too large", value->name);
    return bytes;
}

/* Moves the top to the alignment and takes size bytes. */
static int64_t take(Planner *p, int64_t size, int64_t align) {
    int64_t offset = (p->top + align - 1) / align * align;
    if (p->top > INT64_MAX - align || __builtin_add_overflow(offset, size, &p->top)) {
        p->failed = true;
        p->top = 0;
    }
    return offset;
}

/* --- which values share a place --- */

static bool shares_operand(const Node *node) {
    const Value *in = node->in_count > 0 ? node->in[0] : NULL;
    return (node->op == OP_reshape || node->op == OP_transpose) && node->fused_into == NULL && in->type == node->out[0]->type &&
           (in->kind == VALUE_NODE || in->kind == VALUE_INPUT) && move_is_free(node);
}

static void mark_used(Life *life) {
    const Graph *graph = life->graph;
    for (int i = 0; i < graph->node_count; i++) {
        for (int k = 0; k < graph->nodes[i]->in_count; k++)
            life->used[graph->nodes[i]->in[k]->id] = true;
        for (int k = 0; k < graph->nodes[i]->out_count; k++)
            life->used[graph->nodes[i]->out[k]->id] = true;
    }
    for (int i = 0; i < graph->output_count; i++)
        life->used[graph->outputs[i].value->id] = true;
    for (int i = 0; i < graph->update_count; i++)
        life->used[graph->updates[i].next->id] = life->used[graph->updates[i].state->id] = true;
}

/* The node whose kernel computes a node. */
static const Node *kernel_of(const Node *node) {
    const Node *root = node->fused_into != NULL ? node->fused_into : node;
    return root->beside != NULL ? root->beside : root;
}

static void extend(Life *life, const Value *value, int position) {
    int *last = &life->last[life->root[value->id]->id];
    *last = position > *last ? position : *last;
}

/* Positions of kernels, storage roots and the last reader of each. */
static void find_lives(Life *life, Graph *graph) {
    Arena *arena = graph->arena;
    size_t values = (size_t)graph->value_count;
    *life = (Life){.graph = graph};
    life->position = arena_alloc(arena, (size_t)graph->next_node + 1, sizeof(int));
    life->last = arena_alloc(arena, values, sizeof(int));
    life->root = arena_alloc(arena, values, sizeof(Value *));
    life->used = arena_alloc(arena, values, sizeof(bool));
    life->blocks = arena_alloc(arena, values, sizeof(Block));
    for (int i = 0; i < graph->value_count; i++) {
        life->root[i] = graph->values[i];
        life->last[i] = -1;
    }
    for (int i = 0; i < graph->node_count; i++)
        life->position[graph->nodes[i]->id] = i;
    mark_used(life);
    for (int i = 0; i < graph->node_count; i++)
        if (shares_operand(graph->nodes[i]))
            life->root[graph->nodes[i]->out[0]->id] = life->root[graph->nodes[i]->in[0]->id];
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        int at = life->position[kernel_of(node)->id];
        for (int k = 0; k < node->in_count; k++)
            extend(life, node->in[k], at);
        for (int k = 0; k < node->out_count; k++)
            extend(life, node->out[k], at);
    }
    for (int i = 0; i < graph->output_count; i++)
        extend(life, graph->outputs[i].value, graph->node_count);
    for (int i = 0; i < graph->update_count; i++)
        extend(life, graph->updates[i].next, graph->node_count);
}

/* --- updates in place --- */

/* Whether the kernel at `root` reads `state` only at the index that it writes: every reader in the group is pointwise of the state's shape.
 */
static bool reads_in_place(const Life *life, const Node *root, const Value *state) {
    OpKind kind = op_info(root->op)->kind;
    if (kind != KIND_POINTWISE && root->op != OP_rescale)
        return false;
    for (int i = 0; i < life->graph->node_count; i++) {
        const Node *node = life->graph->nodes[i];
        if (node != root && node->fused_into != root)
            continue;
        for (int k = 0; k < node->in_count; k++)
            if (node->in[k] == state && !shape_equal(node->out[0]->shape, state->shape))
                return false;
    }
    return true;
}

static void alias_updates(Life *life) {
    const Graph *graph = life->graph;
    for (int i = 0; i < graph->update_count; i++) {
        const Update *update = &graph->updates[i];
        const Node *def = update->next->def;
        bool fits = def != NULL && def->fused_into == NULL && def->out_count == 1 && life->root[update->next->id] == update->next &&
                    update->next->type == update->state->type && shape_equal(update->next->shape, update->state->shape) &&
                    order_is_row_major(update->next) && life->last[update->state->id] <= life->position[def->id] &&
                    reads_in_place(life, def, update->state);
        for (int k = 0; k < i; k++) /* two states cannot share one next */
            fits = fits && graph->updates[k].next != update->next;
        if (fits)
            life->root[update->next->id] = update->state;
    }
}

/* --- persistent places --- */

static bool is_persistent(const Value *value) {
    return value->kind == VALUE_PARAM || value->kind == VALUE_STATE;
}

static bool is_filled(const Value *value) {
    return value->kind == VALUE_INPUT || value->kind == VALUE_HYPER;
}

static bool same_place(const Value *a, const Value *b) {
    return a->kind == b->kind && a->type == b->type && shape_equal(a->shape, b->shape) && strcmp(a->name, b->name) == 0 &&
           memcmp(a->order, b->order, sizeof a->order) == 0;
}

/* The value of an earlier graph, or earlier in this one, that has the same place. */
static const Value *earlier(const Planner *p, int graph, const Value *value) {
    for (int g = 0; g < graph; g++)
        for (int i = 0; i < p->graphs[g]->value_count; i++) {
            const Value *other = p->graphs[g]->values[i];
            if (other->offset >= 0 && same_place(other, value))
                return other;
        }
    return NULL;
}

static bool has_exponent(const Value *value) {
    return !value->integer && value->type != T_REAL;
}

static void place_kinds(Planner *p, const Life *lives, bool (*wanted)(const Value *)) {
    for (int g = 0; g < p->count; g++)
        for (int i = 0; i < p->graphs[g]->value_count; i++) {
            Value *value = p->graphs[g]->values[i];
            if (!wanted(value) || (!lives[g].used[i] && !is_persistent(value)))
                continue;
            const Value *other = earlier(p, g, value);
            if (other != NULL) {
                value->offset = other->offset;
                value->exponent_offset = other->exponent_offset;
                continue;
            }
            value->offset = take(p, value_bytes(value), INTC_ARENA_ALIGN);
            if (has_exponent(value))
                value->exponent_offset = take(p, 4, 4);
        }
}

/* --- constants --- */

static bool same_constant(const Value *a, const Value *b) {
    int64_t n = shape_elements(a->shape);
    if (a->type != b->type || n != shape_elements(b->shape))
        return false;
    if (a->type == T_REAL)
        return a->real != NULL && b->real != NULL && memcmp(a->real, b->real, (size_t)n * sizeof(double)) == 0;
    if (a->mantissa == NULL || b->mantissa == NULL)
        return a->mantissa == b->mantissa;
    return memcmp(a->mantissa, b->mantissa, (size_t)n * sizeof(int64_t)) == 0;
}

static void place_constants(Planner *p, const Life *lives) {
    int room = 0, count = 0;
    for (int g = 0; g < p->count; g++)
        room += p->graphs[g]->value_count;
    Value **placed = arena_alloc(p->graphs[0]->arena, (size_t)room, sizeof(Value *));
    for (int g = 0; g < p->count; g++)
        for (int i = 0; i < p->graphs[g]->value_count; i++) {
            Value *value = p->graphs[g]->values[i];
            if (value->kind != VALUE_CONST || !lives[g].used[i])
                continue;
            for (int k = 0; k < count && value->offset < 0; k++)
                if (same_constant(placed[k], value))
                    value->offset = placed[k]->offset;
            if (value->offset < 0) {
                value->offset = take(p, value_bytes(value), INTC_ARENA_ALIGN);
                placed[count++] = value;
            }
        }
}

/* --- activations --- */

static int by_size(const void *left, const void *right) {
    const Block *a = left, *b = right;
    if (a->size != b->size)
        return a->size > b->size ? -1 : 1;
    return a->value->id - b->value->id;
}

static int by_offset(const void *left, const void *right) {
    const Block *a = *(const Block *const *)left, *b = *(const Block *const *)right;
    return a->offset != b->offset ? (a->offset < b->offset ? -1 : 1) : a->value->id - b->value->id;
}

/* The smallest gap that fits among the placed blocks whose lives meet; the end if there is none. */
static int64_t best_gap(const Block *block, const Block **busy, int count) {
    int64_t end = 0, best = -1, best_room = INT64_MAX;
    for (int i = 0; i < count; i++) {
        int64_t room = busy[i]->offset - end;
        if (room >= block->size && room < best_room) {
            best = end;
            best_room = room;
        }
        int64_t after = busy[i]->offset + busy[i]->size;
        end = after > end ? after : end;
    }
    return best >= 0 ? best : end;
}

static void collect_blocks(Life *life) {
    const Graph *graph = life->graph;
    for (int i = 0; i < graph->node_count; i++) {
        const Node *node = graph->nodes[i];
        if (node->fused_into != NULL)
            continue;
        for (int k = 0; k < node->out_count; k++) {
            Value *value = node->out[k];
            if (life->root[value->id] != value)
                continue;
            int64_t size = (value_bytes(value) + INTC_ARENA_ALIGN - 1) / INTC_ARENA_ALIGN * INTC_ARENA_ALIGN;
            life->blocks[life->block_count++] =
                (Block){.value = value, .size = size, .first = life->position[kernel_of(node)->id], .last = life->last[value->id]};
        }
    }
}

/* Places a graph's blocks from `base` on, the largest first; returns the end. */
static int64_t place_blocks(Planner *p, Life *life, int64_t base) {
    collect_blocks(life);
    qsort(life->blocks, (size_t)life->block_count, sizeof(Block), by_size);
    const Block **busy = arena_alloc(life->graph->arena, (size_t)life->block_count, sizeof(Block *));
    int64_t end = 0;
    for (int i = 0; i < life->block_count; i++) {
        Block *block = &life->blocks[i];
        int count = 0;
        for (int k = 0; k < i; k++)
            if (life->blocks[k].first <= block->last && block->first <= life->blocks[k].last)
                busy[count++] = &life->blocks[k];
        qsort(busy, (size_t)count, sizeof(Block *), by_offset);
        block->offset = best_gap(block, busy, count);
        if (block->offset > INT64_MAX / 4 - block->size) {
            p->failed = true;
            return base;
        }
        end = block->offset + block->size > end ? block->offset + block->size : end;
        block->value->offset = base + block->offset;
    }
    return base + end;
}

/* Values that share a place follow the one that has it. */
static void follow_roots(const Life *life) {
    for (int i = 0; i < life->graph->node_count; i++)
        for (int k = 0; k < life->graph->nodes[i]->out_count; k++) {
            Value *value = life->graph->nodes[i]->out[k];
            if (life->graph->nodes[i]->fused_into == NULL)
                value->offset = life->root[value->id]->offset;
        }
}

/* The runtime reads the exponents of outputs, constant ones too. */
static bool is_output(const Graph *graph, const Value *value) {
    for (int i = 0; i < graph->output_count; i++)
        if (graph->outputs[i].value == value)
            return true;
    return false;
}

static void place_exponents(Planner *p) {
    take(p, 0, INTC_ARENA_ALIGN);
    for (int g = 0; g < p->count; g++)
        for (int i = 0; i < p->graphs[g]->node_count; i++)
            for (int k = 0; k < p->graphs[g]->nodes[i]->out_count; k++) {
                Value *value = p->graphs[g]->nodes[i]->out[k];
                if (has_exponent(value) && (value->exponent_kind == EXPONENT_DYNAMIC || is_output(p->graphs[g], value)))
                    value->exponent_offset = take(p, 4, 4);
            }
}

bool pass_memplan(Graph *const *graphs, int count, Plan *plan, Diag *diag) {
    Planner p = {.graphs = graphs, .count = count};
    Life *lives = arena_alloc(graphs[0]->arena, (size_t)count, sizeof *lives);
    for (int g = 0; g < count; g++) {
        find_lives(&lives[g], graphs[g]);
        alias_updates(&lives[g]);
    }
    place_kinds(&p, lives, is_persistent);
    plan->state_size = take(&p, 0, INTC_ARENA_ALIGN);
    place_constants(&p, lives);
    plan->constants_size = take(&p, 0, INTC_ARENA_ALIGN) - plan->state_size;
    p.top = plan->state_size + plan->constants_size;
    plan->random_offset = take(&p, 16, INTC_ARENA_ALIGN);
    place_kinds(&p, lives, is_filled);
    place_exponents(&p);
    int64_t base = take(&p, 0, INTC_ARENA_ALIGN), end = base;
    for (int g = 0; g < count && !p.failed; g++) {
        int64_t top = place_blocks(&p, &lives[g], base);
        end = top > end ? top : end;
        follow_roots(&lives[g]);
    }
    if (p.failed) {
        diag_error(diag, NULL, "the tensors of this model do not fit the address space");
        return false;
    }
    plan->arena_size = end;
    for (int g = 0; g < count; g++) {
        graphs[g]->arena_size = end;
        graphs[g]->stage = graphs[g]->stage < STAGE_SCALED ? STAGE_FLOAT : STAGE_PLANNED;
    }
    return true;
}
