/* operations.S: the loops, so that no compiler has a say in what is measured. Each has its operation at a label site_<benchmark>. */
#include "guest.h"

    .macro function name
    .balign 16
    .globl \name
    .type \name, @function
\name:
    .endm

    .globl site_syscall, site_in, site_callret, site_pgfault, site_divzero, site_ptemod
    .text
/* void system_calls(u32 times, u8 *user_stack_top): in ring 3, and does not come back. */
function system_calls
    movl 4(%esp), %ecx
    movl 8(%esp), %edx
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    pushl $USER_DATA
    pushl %edx
    pushl $FLAG_RESERVED_ONE
    pushl $USER_CODE
    pushl $1f
    iretl
1:  movl $1, %eax
2:
site_syscall:
    int $0x80
    decl %ecx
    jnz 2b
    xorl %eax, %eax
    int $0x80

/* u32 in_ports(u32 times): how often it did. */
function in_ports
    movl 4(%esp), %ecx
    movl $UNCLAIMED_PORT, %edx
1:
site_in:
    inb %dx, %al
    decl %ecx
    jnz 1b
    movl 4(%esp), %eax
    ret

/* u32 calls(u32 times): the same. */
function calls
    movl 4(%esp), %ecx
    xorl %eax, %eax
1:
site_callret:
    call at_once
    decl %ecx
    jnz 1b
    ret
function at_once
    incl %eax
    ret

/* void stores(u32 times, u32 address): the handler skips two bytes. */
function stores
    movl 4(%esp), %ecx
    movl 8(%esp), %edx
1:
site_pgfault:
    movl %eax, (%edx)
    decl %ecx
    jnz 1b
    ret

/* void divisions(u32 times): the same. */
function divisions
    pushl %ebx
    movl 8(%esp), %ecx
    xorl %ebx, %ebx
1:
site_divzero:
    divl %ebx
    decl %ecx
    jnz 1b
    popl %ebx
    ret

/* void entry_changes(u32 times, u32 *entry, u32 address): the page is the entry's own, whose frame may be any. */
function entry_changes
    pushl %ebx
    movl 8(%esp), %ecx
    movl 12(%esp), %edx
    movl 16(%esp), %ebx
    movl $0x00200003, %eax          /* the frame at 2 MiB, present and writable */
1:
site_ptemod:
    movl %eax, (%edx)
    invlpg (%ebx)
    xorl $1, %eax
    decl %ecx
    jnz 1b
    popl %ebx
    ret

function paging_start
    movl 4(%esp), %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ret

    .section .note.GNU-stack, "", @progbits
