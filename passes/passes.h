/* The passes: each takes a graph from one stage to the next. The one public header of passes/. Every pass is followed by graph_verify. */
#ifndef INTC_PASSES_H
#define INTC_PASSES_H

#include "ir/ir.h"

typedef struct {
    const char *train;  /* GLOB[,GLOB] of parameters that learn; NULL = all */
    const char *freeze; /* GLOB[,GLOB] of parameters that do not */
    int bits;           /* mantissa bits of GEMM and convolution operands, 4 to 8 */
} PassOptions;

/* Turns parameters outside --train or inside --freeze into constants of the graph. A glob that matches nothing is an error. STAGE_LOWERED.
 */
bool pass_select(Graph *graph, const PassOptions *options, Diag *diag);
/* Appends the gradient of the ROLE_LOSS output with respect to every parameter as a ROLE_GRADIENT output of the parameter's name; where no
 * gradient flows a note names the parameter. STAGE_LOWERED to STAGE_TRAINED. */
bool pass_backward(Graph *graph, Diag *diag);
/* The gradient of a parameter at STAGE_TRAINED; NULL if there is none. */
Value *backward_gradient(const Graph *graph, const Value *param);
/* Appends SGD with momentum, Nesterov and weight decay for every parameter with a gradient; hyper-parameters are VALUE_HYPER scalars
 * momentum, decay, step_w, step_g, step_v: v' = momentum*v + g + decay*w; w' = w + step_w*w + step_g*g + step_v*v'. STAGE_TRAINED to
 * STAGE_UPDATED. */
bool pass_sgd(Graph *graph, Diag *diag);
/* Of an integer trainer: a normalize with one scale and a bias for each mean becomes the line A*x + C; the sum of a gradient times
 * normalised values over what shares one mean comes from the sums of gradient times value and of the gradient. STAGE_UPDATED. */
bool pass_lines(Graph *graph, Diag *diag);
/* Widths and exponents: quantizes constants, inserts rescale. STAGE_LOWERED or STAGE_UPDATED to STAGE_SCALED. */
bool pass_exponents(Graph *graph, const PassOptions *options, Diag *diag);
/* Inference: gives every dynamic rescale of an activation, and every input, a slot for its calibrated exponent; `fixed` is the copy that
 * uses them. slots[i] names the value of the calibrating graph whose exponent the i-th slot collects. STAGE_SCALED. */
bool pass_calibrate(Graph *graph, Graph **fixed, Value ***slots, int *slot_count, Diag *diag);
/* Constant folding, identity moves, double rescale. Any stage from STAGE_LOWERED. */
bool pass_fold(Graph *graph, Diag *diag);
/* Drops nodes that no output and no update needs. */
bool pass_dce(Graph *graph, Diag *diag);
/* Memory orders: channels-last around convolutions and pools, and such that moves near them move no byte. STAGE_SCALED; any stage in
 * float32, as fuse. */
bool pass_layout(Graph *graph, Diag *diag);
/* Marks pointwise nodes that are evaluated inside their single consumer's kernel; copies cheap ones for the mask that also reads them.
 * So are large matmuls of at most `matmul_products` an element, inside the rescale that rounds them: as many as it costs little to repeat.
 * STAGE_SCALED, the last pass before the plan. */
bool pass_fuse(Graph *graph, int64_t matmul_products, Diag *diag);
/* Liveness and offsets of every stored value of all graphs in one arena; PARAM and STATE of the same name share their place and come first.
 * STAGE_SCALED to STAGE_PLANNED, or, in float32, STAGE_LOWERED or STAGE_UPDATED to STAGE_FLOAT. */
typedef struct {
    int64_t state_size;     /* [0, state_size): persistent */
    int64_t constants_size; /* then constants */
    int64_t arena_size;
    int64_t random_offset;
} Plan;
bool pass_memplan(Graph *const *graphs, int count, Plan *plan, Diag *diag);

#endif
