/* The main function of every trainer. Needs the module that the trainer was compiled from; returns the exit status. */
#include "runtime/runtime.h"

int main(int argc, char **argv) {
    return intc_rt_main(&intc_module, argc, argv);
}
