/* boot.S: the first instructions of a guest, its descriptor tables, and the stubs behind the IDT.
 *
 * Nothing here reads state that a de-privileged kernel would see differently (no PUSHF, no PUSH CS, no SGDT): where an
 * instruction behaves differently in ring 1 it is one that traps there. CS is therefore reloaded by a far return, which faults when
 * it names a more privileged ring, and not by a far jump, which slips through.
 */
#include "guest.h"

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 0x00000002  /* bit 1: the loader tells about memory */

    .section .multiboot, "a"
    .balign 4
    .long MULTIBOOT_MAGIC
    .long MULTIBOOT_FLAGS
    .long -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

    .text
    .globl _start
    .type _start, @function
_start:
    movl $stack_top, %esp
    lgdt gdt_register
    lidt idt_register
    pushl $KERNEL_CODE
    pushl $1f
    lret
1:  movl $KERNEL_DATA, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    cld
    xorl %ebp, %ebp
    call console_start
    call guest_main
    pushl %eax
    call exit_guest
    .size _start, . - _start

/* Every vector has a stub, so that a handler finds one layout: struct frame. Vectors 8, 10 to 14 and 17 come with an error code
 * (SDM Vol. 3A table 6-1); the others get a zero in its place. */
    .balign 16
    .globl vector_stubs
    .type vector_stubs, @function
vector_stubs:
    .set vector, 0
    .rept IDT_VECTORS
    .balign 16
    .if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17)
    .else
    pushl $0
    .endif
    pushl $vector
    jmp common_stub
    .set vector, vector + 1
    .endr
    .size vector_stubs, . - vector_stubs

    .type common_stub, @function
common_stub:
    pushal
    cld
    pushl %esp
    call dispatch_interrupt
    addl $4, %esp
    popal
    addl $8, %esp
    .globl interrupt_return
interrupt_return:
    iretl
    .size common_stub, . - common_stub

/* The tables have a page of their own: a monitor that shadows them write-protects it. The accessed bits (bit 0 of the type) are set
 * from the start, so the processor has no reason to write here. */
    .section .tables, "aw"
    .balign 4096
    .globl gdt
    .type gdt, @object
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff  /* 0x08: ring-0 code, base 0, limit 4 GiB */
    .quad 0x00cf93000000ffff  /* 0x10: ring-0 data */
    .quad 0x00cffb000000ffff  /* 0x18: ring-3 code */
    .quad 0x00cff3000000ffff  /* 0x20: ring-3 data */
    .quad 0                   /* 0x28: the TSS, once there is one */
    .quad 0, 0, 0, 0          /* 0x30 to 0x48: the guest's own */
gdt_end:
    .size gdt, . - gdt
    .balign 8
    .globl idt
    .type idt, @object
idt:
    .fill IDT_VECTORS, 8, 0
    .size idt, . - idt
    .globl task_state
    .type task_state, @object
task_state:
    .fill 26, 4, 0
    .size task_state, . - task_state

    .section .rodata
    .balign 4
    .word 0
gdt_register:
    .word gdt_end - gdt - 1
    .long gdt
    .word 0
    .globl idt_register
idt_register:
    .word IDT_VECTORS * 8 - 1
    .long idt

    .section .stack, "aw", @nobits
    .balign 4096
    .globl stack_bottom
stack_bottom:
    .skip 16384
    .globl stack_top
stack_top:

    .section .note.GNU-stack, "", @progbits
