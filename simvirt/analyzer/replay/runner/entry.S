#include "layout.h"
# From the runner to the state under test, and back: 32-bit code.
    .code32
    .section .text.entry, "ax"
    .globl _start
_start:
    call main
1:  hlt
    jmp 1b

    .text
    # void enter(const struct start *start): never returns here; `capture` returns to its caller in its stead.
    .globl enter
enter:
    pushal
    movl %esp, runner_stack
    movl 36(%esp), %ebp
    lgdtl START_GDT(%ebp)
    lidtl START_IDT(%ebp)
    movl START_CR4(%ebp), %eax
    movl %eax, %cr4
    movl START_CR3(%ebp), %eax
    movl %eax, %cr3
    movl START_CR0(%ebp), %eax
    movl %eax, %cr0
    movw START_LDTR(%ebp), %ax
    lldt %ax
    movw START_TR(%ebp), %ax
    ltr %ax
    movl START_DR0(%ebp), %eax
    movl %eax, %dr0
    movw START_DS(%ebp), %ax
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %es
    movw %ax, %ds
    cmpl $0, START_CPL(%ebp)
    jne 2f
    # Ring 0: flags from this stack, then the stack under test, then a far jump.
    pushl START_RFLAGS(%ebp)
    movl START_ENTRY(%ebp), %eax
    movl %eax, far_pointer
    movw START_CS(%ebp), %ax
    movw %ax, far_pointer + 4
    movl START_RSP(%ebp), %eax
    movl %eax, stack_pointer
    call load_registers
    popfl
    movl stack_pointer, %esp
    ljmpl *far_pointer
2:  pushl START_SS(%ebp)
    pushl START_RSP(%ebp)
    pushl START_RFLAGS(%ebp)
    pushl START_CS(%ebp)
    pushl START_ENTRY(%ebp)
    call load_registers
    iretl
load_registers:
    movl START_RAX(%ebp), %eax
    movl START_RCX(%ebp), %ecx
    movl START_RDX(%ebp), %edx
    movl START_RBX(%ebp), %ebx
    movl START_RSI(%ebp), %esi
    movl START_RDI(%ebp), %edi
    movl START_RBP(%ebp), %ebp
    ret

    # Every handler pushes its vector and comes here, in ring 0, on whatever stack.
    .globl capture
capture:
    pushw %ds
    pushw %ds
    pushl %eax
    movw $0x10, %ax
    movw %ax, %ds
    popl captured_general + 0
    popw captured_ds
    popw captured_ds
    movl %ebx, captured_general + 12
    movl %ecx, captured_general + 4
    movl %edx, captured_general + 8
    movl %esi, captured_general + 24
    movl %edi, captured_general + 28
    movl %ebp, captured_general + 20
    movw %es, captured_es
    movw %fs, captured_fs
    movw %gs, captured_gs
    movl %esp, captured_frame
    movl %cr2, %eax
    movl %eax, captured_cr2
    movl %cr0, %eax
    andl $0x7fffffff, %eax          # paging off: everything lies where it is
    movl %eax, %cr0
    andl $0x0000003b, %eax          # and TS, EM, WP, AM
    andl $0xfffffff3, %eax
    movl %eax, %cr0
    xorl %eax, %eax
    movl %eax, %cr3
    lgdtl runner_gdt
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ss, captured_handler_ss
    movw %ax, %ss
    movl runner_stack, %esp
    ljmpl $8, $3f
3:  cld
    popal
    ret

    .bss
    .balign 4
    .globl captured_general, captured_ds, captured_es, captured_fs, captured_gs, captured_frame, captured_cr2
captured_general: .skip 32
captured_ds: .long 0
captured_es: .long 0
captured_fs: .long 0
captured_gs: .long 0
captured_frame: .long 0
captured_cr2: .long 0
captured_handler_ss: .long 0
runner_stack: .long 0
stack_pointer: .long 0
far_pointer: .long 0, 0

    .data
    .balign 8
own_gdt: .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
runner_gdt: .word 23
    .long own_gdt
