/* Inside codegen/: pools of few channels, which window.c hands to window_lanes.c. */
#ifndef INTC_CODEGEN_WINDOW_H
#define INTC_CODEGEN_WINDOW_H

#include "codegen/space.h"

/* Places of the window of a pool or of its gradient. */
int64_t window_places(const Node *node);
/* Whether vectors of the channels of one pixel serve a pool or its gradient, for these operands and results of it. */
bool lanes_serve(const Node *node, const Value *const *values, int count);
/* The kernel of a maxpool without padding. */
void lanes_maxpool(Codegen *cg, const Node *node);
/* The kernel of a gradient whose windows do not overlap: writes the places of all windows. */
void lanes_scatter(Codegen *cg, const Node *node);

#endif
