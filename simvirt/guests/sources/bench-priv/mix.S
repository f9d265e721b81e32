/* mix.S: the privileged and sensitive instructions of one round, with arithmetic in between. Some of them trap in ring 1; PUSHF, POPF,
 * SGDT, SMSW and reading CS do not.
 *
 * Nothing that the machine decides goes into the sum but the bit CR0.PE, which is 1 wherever this runs.
 */
#include "guest.h"

    .text
/* u32 mix(u32 x) */
    .globl mix
    .type mix, @function
mix:
    pushl %ebx
    movl 8(%esp), %ebx
    .globl site_pushf, site_cli, site_popf, site_sti
site_pushf:
    pushfl
site_cli:
    cli
    imull $1664525, %ebx
    addl $1013904223, %ebx
site_popf:
    popfl
site_sti:
    sti
    rorl $7, %ebx

    .globl site_read_cr0, site_read_cr3, site_write_cr3
site_read_cr0:
    movl %cr0, %eax
    andl $1, %eax
    addl %eax, %ebx
site_read_cr3:
    movl %cr3, %eax
site_write_cr3:
    movl %eax, %cr3
    imull $69069, %ebx

    .globl site_sgdt, site_smsw, site_mov_from_cs
site_sgdt:
    sgdtl table_register
site_smsw:
    smsww %ax
    andl $1, %eax
    addl %eax, %ebx
site_mov_from_cs:
    movl %cs, %eax
    rorl $3, %ebx

    .globl site_out, site_in, site_invlpg, site_rdtsc
    movb %bl, %al
site_out:
    outb %al, $UNCLAIMED_PORT
site_in:
    inb $UNCLAIMED_PORT, %al
site_invlpg:
    invlpg table_register
site_rdtsc:
    rdtsc
    xorl $0x9e3779b9, %ebx
    movl %ebx, %eax
    popl %ebx
    ret
    .size mix, . - mix

    .bss
    .balign 4
table_register:
    .skip 8

    .section .note.GNU-stack, "", @progbits
