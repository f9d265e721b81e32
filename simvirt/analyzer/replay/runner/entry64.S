#include "layout.h"
# From the runner to the state under test, and back: 64-bit code. It is entered in 32-bit code, by the boot sector.
    .code32
    .section .text.entry, "ax"
    .globl _start
_start:
    movl $directory_pointers + 3, page_map
    movl $directory + 3, directory_pointers
    movl $0x83, directory               # the first 2 MiB, where they are
    movl $page_map, %eax
    movl %eax, %cr3
    movl $0x20, %eax                    # PAE
    movl %eax, %cr4
    movl $0xc0000080, %ecx              # IA32_EFER.LME
    rdmsr
    orl $0x100, %eax
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    lgdtl runner_gdt
    ljmpl $8, $1f
    .code64
1:  movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    call main
2:  hlt
    jmp 2b

    .text
    # void enter(const struct start *start): never returns here; `capture` returns to its caller in its stead.
    .globl enter
enter:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, runner_stack
    movq %cr0, %rax
    movq %rax, runner_cr0
    movq %cr4, %rax
    movq %rax, runner_cr4
    movq %rdi, %rbp
    lgdtq START_GDT(%rbp)
    lidtq START_IDT(%rbp)
    movq START_CR4(%rbp), %rax
    movq %rax, %cr4
    movq START_CR3(%rbp), %rax
    movq %rax, %cr3
    movw START_LDTR(%rbp), %ax
    lldt %ax
    movw START_TR(%rbp), %ax
    ltr %ax
    movq START_DR0(%rbp), %rax
    movq %rax, %dr0
    movw START_DS(%rbp), %ax
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %es
    movw %ax, %ds
    pushq START_SS(%rbp)
    pushq START_RSP(%rbp)
    pushq START_RFLAGS(%rbp)
    pushq START_CS(%rbp)
    pushq START_ENTRY(%rbp)
    movq START_CR0(%rbp), %rax
    movq %rax, %cr0
    movq START_RAX(%rbp), %rax
    movq START_RCX(%rbp), %rcx
    movq START_RDX(%rbp), %rdx
    movq START_RBX(%rbp), %rbx
    movq START_RSI(%rbp), %rsi
    movq START_RDI(%rbp), %rdi
    movq START_R8(%rbp), %r8
    movq START_R8+8(%rbp), %r9
    movq START_R8+16(%rbp), %r10
    movq START_R8+24(%rbp), %r11
    movq START_R8+32(%rbp), %r12
    movq START_R8+40(%rbp), %r13
    movq START_R8+48(%rbp), %r14
    movq START_R8+56(%rbp), %r15
    movq START_RBP(%rbp), %rbp
    iretq

    # Every handler pushes its vector and comes here, in ring 0, on whatever stack.
    .globl capture
capture:
    cli
    movq %rax, captured_general
    movq %rcx, captured_general + 8
    movq %rdx, captured_general + 16
    movq %rbx, captured_general + 24
    movq %rbp, captured_general + 40
    movq %rsi, captured_general + 48
    movq %rdi, captured_general + 56
    movq %r8, captured_general + 64
    movq %r9, captured_general + 72
    movq %r10, captured_general + 80
    movq %r11, captured_general + 88
    movq %r12, captured_general + 96
    movq %r13, captured_general + 104
    movq %r14, captured_general + 112
    movq %r15, captured_general + 120
    movw %ds, captured_ds
    movw %es, captured_es
    movw %fs, captured_fs
    movw %gs, captured_gs
    movq %rsp, captured_frame
    movq %cr2, %rax
    movq %rax, captured_cr2
    movl $page_map, %eax
    movq %rax, %cr3
    movq runner_cr0, %rax
    movq %rax, %cr0
    movq runner_cr4, %rax
    movq %rax, %cr4
    lgdtq runner_gdt
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movq runner_stack, %rsp
    pushq $8
    pushq $3f
    lretq
3:  cld
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .bss
    .balign 4096
page_map: .skip 4096
directory_pointers: .skip 4096
directory: .skip 4096
    .globl captured_general, captured_ds, captured_es, captured_fs, captured_gs, captured_frame, captured_cr2
captured_general: .skip 128
captured_ds: .quad 0
captured_es: .quad 0
captured_fs: .quad 0
captured_gs: .quad 0
captured_frame: .quad 0
captured_cr2: .quad 0
runner_stack: .quad 0
runner_cr0: .quad 0
runner_cr4: .quad 0

    .data
    .balign 8
own_gdt: .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
runner_gdt: .word 23
    .quad own_gdt
