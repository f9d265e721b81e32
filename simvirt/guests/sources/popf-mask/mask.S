/* mask.S: masking interrupts the way that many kernels did it, by way of the flags.
 *
 * POPF sets IF where CPL <= IOPL and leaves it alone, without any fault, elsewhere (SDM Vol. 2B "POPF", its table).
 */
#include "guest.h"

    .text
/* u32 mask_interrupts(void): clears IF and returns the flags as they were. */
    .globl mask_interrupts, site_pushf, site_popf_mask
    .type mask_interrupts, @function
mask_interrupts:
    cld
site_pushf:
    pushfl
    popl %eax
    movl %eax, %edx
    andl $~FLAG_INTERRUPT, %edx
    pushl %edx
site_popf_mask:
    popfl
    ret
    .size mask_interrupts, . - mask_interrupts

/* void restore_interrupts(u32 flags) */
    .globl restore_interrupts, site_popf_restore
    .type restore_interrupts, @function
restore_interrupts:
    pushl 4(%esp)
site_popf_restore:
    popfl
    ret
    .size restore_interrupts, . - restore_interrupts

    .section .note.GNU-stack, "", @progbits
