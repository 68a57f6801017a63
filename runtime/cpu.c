/* What a compiled module needs of the CPU that the system has to allow first. */
#include "runtime/abi.h"

#include <sys/syscall.h>
#include <unistd.h>

bool intc_rt_matrix_registers(void) {
#ifdef __x86_64__
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
    return false;
#endif
}
