/* rounds.h: how the loops are written in assembly, so that no compiler has a say in what is measured.
 *
 * `rounds name` begins a loop and `rounds_end` ends it: the operation, DEC, JNZ. The count is in ECX unless another
 * register is named. The instruction in question has the label site_<name> in the image of its own benchmark, and none elsewhere.
 */
    .macro function name
    .balign 16
    .globl \name
    .type \name, @function
\name:
    .endm

    .macro rounds name
1:
    .ifc \name, BENCHMARK
    .globl site_\name
site_\name:
    .endif
    .endm

    .macro rounds_end count=%ecx
    decl \count
    jnz 1b
    .endm
