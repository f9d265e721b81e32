/* probes.S: one function for each exception, with the instruction that raises it at site_<name>.
 *
 * Before that instruction each stores where to go on, because for a fault the saved EIP is the instruction itself. The stack is as the
 * instruction found it, since none of them moved it.
 */
#include "guest.h"

    .macro probe name
    .globl probe_\name, site_\name
    .type probe_\name, @function
probe_\name:
    movl $resume_\name, resume_address
    .endm

    .text
    probe divide
    xorl %edx, %edx
    movl $1, %eax
    xorl %ecx, %ecx
site_divide:
    divl %ecx
resume_divide:
    ret

    probe breakpoint
site_breakpoint:
    int3
resume_breakpoint:
    ret

    probe overflow
    movl $0x7fffffff, %eax
    addl $1, %eax
site_overflow:
    into
resume_overflow:
    ret

    probe bound
    movl $8, %eax
site_bound:
    bound %eax, bounds
resume_bound:
    ret

    probe invalid_opcode
site_invalid_opcode:
    ud2
resume_invalid_opcode:
    ret

    probe not_present
    movl $SPARE_DESCRIPTOR, %eax
site_not_present:
    movl %eax, %es
resume_not_present:
    ret

    probe not_present_gate
site_not_present_gate:
    int $0x41
resume_not_present_gate:
    ret

    probe stack
    movl $SPARE_DESCRIPTOR, %eax
site_stack:
    movl %eax, %ss
resume_stack:
    ret

    probe selector
    movl $0xfff8, %eax
site_selector:
    movl %eax, %es
resume_selector:
    ret

    probe empty_gate
site_empty_gate:
    int $0x40
resume_empty_gate:
    ret

    probe beyond_table
site_beyond_table:
    int $0xf0
resume_beyond_table:
    ret

    .section .rodata
    .balign 8
bounds:
    .long 0, 7

    .section .note.GNU-stack, "", @progbits
