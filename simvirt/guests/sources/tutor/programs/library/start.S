/* start.S: where a program begins, with its arguments on the stack, and how it calls the kernel. */
    .text
    .globl _start
_start:
    call main                       /* (count, arguments): exec has put them where a call would */
    pushl %eax
    call exit

/* int system_call(int number, int first, int second, int third) */
    .globl system_call
system_call:
    pushl %ebx
    movl 8(%esp), %eax
    movl 12(%esp), %ebx
    movl 16(%esp), %ecx
    movl 20(%esp), %edx
    int $0x80
    popl %ebx
    ret

    .section .note.GNU-stack, "", @progbits
