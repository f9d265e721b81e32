/* enter.S: the one way into ring 3, and what the program there needs that C cannot say. */
#include "guest.h"

    .text
/* void enter_user(void (*program)(void), u8 *stack_top): an IRET to an outer ring takes SS:ESP from the frame too (SDM Vol. 2A "IRET").
 * Interrupts are on here and on there: an IRET in ring 1 would not change IF, and says nothing. */
    .globl enter_user, site_iret_to_user
    .type enter_user, @function
enter_user:
    movl 4(%esp), %ecx
    movl 8(%esp), %edx
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    pushl $USER_DATA
    pushl %edx
    pushl $(FLAG_RESERVED_ONE | FLAG_INTERRUPT)
    pushl $USER_CODE
    pushl %ecx
site_iret_to_user:
    iretl
    .size enter_user, . - enter_user

/* u32 system_call(u32 number, u32 first, u32 second) */
    .globl system_call
    .type system_call, @function
system_call:
    pushl %ebx
    movl 8(%esp), %eax
    movl 12(%esp), %ebx
    movl 16(%esp), %ecx
    int $0x80
    popl %ebx
    ret
    .size system_call, . - system_call

/* Instructions of one byte each that only the kernel may use. */
    .globl try_cli, try_hlt, try_out
    .type try_cli, @function
try_cli:
    cli
    ret
    .type try_hlt, @function
try_hlt:
    hlt
    ret
    .type try_out, @function
try_out:
    movl $UNCLAIMED_PORT, %edx
    movl $0x55, %eax
    outb %al, %dx
    ret

    .section .note.GNU-stack, "", @progbits
