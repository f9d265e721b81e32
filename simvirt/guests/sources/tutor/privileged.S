/* privileged.S: everything that only ring 0 may do, and the way in and out of the kernel. The rest of tutor computes.
 *
 * A kernel that is to run elsewhere than in ring 0 of a PC, as under a paravirtual interface, has to change this file and no other.
 *
 * Two flavours are built from it. `tutor` is written as kernels for the PC are. `tutor-trapping` (TRAPPING is defined) does without the
 * instructions that are sensitive but do not fault in ring 1: PUSHF and POPF, SMSW, STR, reading CS, and the far JMP. Wherever the two
 * differ, both ways stand one under the other.
 *
 * C calls these functions by the i386 System V convention: arguments on the stack, the result in EAX; EBX, ESI, EDI and EBP are kept.
 */
#include "kernel.h"

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_WANTS_MEMORY 0x00000002
#define CR0_EMULATION 0x00000004 /* floating point is #NM: nobody saves its registers when processes take turns */
#define CR0_WRITE_PROTECT 0x00010000
#define CR0_PAGING 0x80000000
#define POWER_PORT 0xf4 /* the debug-exit device: ends the run, with a status */
#define TSS_SIZE 104
#define TSS_ESP0 4

    .section .multiboot, "a"
    .balign 4
    .long MULTIBOOT_MAGIC
    .long MULTIBOOT_WANTS_MEMORY
    .long -(MULTIBOOT_MAGIC + MULTIBOOT_WANTS_MEMORY)

/* The beginning. EBX points to what the boot loader tells (Multiboot Specification 0.6.96, section 3.3). */
    .text
    .globl _start
    .type _start, @function
_start:
    movl $stack_top, %esp
    cld
    pushl %ebx
    call kernel_main
    .size _start, . - _start

    .macro function name
    .balign 16
    .globl \name
    .type \name, @function
\name:
    .endm

/* ---- Interrupts: masked and allowed again. */

/* u32 interrupts_mask(void); void interrupts_restore(u32 before): for what an interrupt must not come between. They nest. */
#ifndef TRAPPING
    .globl site_pushf, site_popf
function interrupts_mask
site_pushf:
    pushfl                          /* IF as it was, with all the other flags */
    popl %eax
    cli
    ret

function interrupts_restore
    pushl 4(%esp)
site_popf:
    popfl                           /* in ring 1 this leaves IF alone, and says nothing */
    ret
#else
function interrupts_mask
    cli
    movl interrupts_allowed, %eax
    movl $0, interrupts_allowed
    ret

function interrupts_restore
    cmpl $0, 4(%esp)
    je 1f
    movl $1, interrupts_allowed
    sti
1:  ret
#endif

function interrupts_on
#ifdef TRAPPING
    movl $1, interrupts_allowed
#endif
    sti
    ret

/* STI takes effect behind the instruction that follows it, so no interrupt slips in before HLT and is slept through. */
    .globl site_hlt
function wait_for_interrupt
#ifdef TRAPPING
    movl $1, interrupts_allowed
#endif
    sti
site_hlt:
    hlt
    cli
#ifdef TRAPPING
    movl $0, interrupts_allowed
#endif
    ret

/* ---- The way in: a stub for each vector, so that C finds one layout, struct frame. Vectors 8, 10 to 14 and 17 come with an error code
 * (SDM Vol. 3A table 6-1); the others get a zero in its place. All gates are interrupt gates: the kernel begins with interrupts masked. */
    .balign 16
    .globl interrupt_stubs
    .type interrupt_stubs, @function
interrupt_stubs:
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
    .size interrupt_stubs, . - interrupt_stubs

    .type common_stub, @function
common_stub:
    pushal
    cld
    movl $USER_DATA, %eax           /* flat, as the kernel's own; a program may have left something else there */
    movl %eax, %ds
    movl %eax, %es
#ifdef TRAPPING
    movl $0, interrupts_allowed
#endif
    pushl %esp
    call interrupt
    addl $4, %esp

/* ---- The way out, for a new process too: its frame was made by hand. Interrupts are masked here, and IRET restores IF. In ring 1 it traps
 * on the way to ring 0, an inner ring; on the way to ring 3 it traps where the VMM keeps the code segments of ring 3 not present, as it must:
 * else IF would stay as it is, without a word. So both flavours do the same, and one that says what IF will be has to say it before. */
    .globl return_from_interrupt, site_iret
return_from_interrupt:
#ifdef TRAPPING
    testl $FLAG_INTERRUPT, 48(%esp) /* EFLAGS lies behind eight registers, vector, error code, EIP and CS */
    setnz interrupts_allowed
#endif
    popal
    addl $8, %esp
site_iret:
    iretl
    .size common_stub, . - common_stub

/* ---- Tables of the processor. */

    .globl site_far_jmp
function descriptor_tables_load
    lgdt gdt_register
    lidt idt_register
#ifndef TRAPPING
site_far_jmp:
    ljmp $KERNEL_CODE, $1f
#else
    pushl $KERNEL_CODE              /* a far RET to an inner ring faults, a far JMP in ring 1 slips through */
    pushl $1f
    lret
#endif
1:  movl $KERNEL_DATA, %eax
    movl %eax, %ss
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    movl $TASK_STATE, %eax
    ltr %ax
    ret

/* void kernel_stack_set(u32 stack_top): ESP0 of the TSS. */
function kernel_stack_set
    movl 4(%esp), %eax
    movl %eax, task_state + TSS_ESP0
    ret

/* ---- Paging. */

/* void paging_start(u32 directory): with CR0.WP, so that the kernel's own writes to pages that are shared until written fault as well. */
function paging_start
    movl 4(%esp), %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $(CR0_PAGING | CR0_WRITE_PROTECT | CR0_EMULATION), %eax
    movl %eax, %cr0
    ret

function address_space_load
    movl 4(%esp), %eax
    movl %eax, %cr3
    ret

/* void page_entry_write(u32 *entry, u32 value): no more than a store, but one that a VMM wants to know of. */
    .globl site_page_entry_write
function page_entry_write
    movl 4(%esp), %edx
    movl 8(%esp), %eax
site_page_entry_write:
    movl %eax, (%edx)
    ret

function page_invalidate
    movl 4(%esp), %eax
    invlpg (%eax)
    ret

function fault_address
    movl %cr2, %eax
    ret

/* ---- Ports. */

function port_in8
    movl 4(%esp), %edx
    xorl %eax, %eax
    inb %dx, %al
    ret

function port_out8
    movl 4(%esp), %edx
    movl 8(%esp), %eax
    outb %al, %dx
    ret

function power_off
    movl 4(%esp), %eax
    movl $POWER_PORT, %edx
    outl %eax, %dx
1:  cli                             /* no such device: stop for good */
    hlt
    jmp 1b

/* ---- What the processor tells about itself. tutor asks the way that was always taught; in ring 1 each of the three answers comes from
 * the processor rather than from the VMM. tutor-trapping reads CR0, and knows the rest, for it has set it. */

    .globl site_smsw, site_str, site_read_cs
function machine_status_word
#ifndef TRAPPING
site_smsw:
    smsw %ax
#else
    movl %cr0, %eax
#endif
    movzwl %ax, %eax
    ret

function task_register
#ifndef TRAPPING
site_str:
    str %ax
    movzwl %ax, %eax
#else
    movl $TASK_STATE, %eax
#endif
    ret

function privilege_level
#ifndef TRAPPING
site_read_cs:
    movl %cs, %eax
#else
    movl $KERNEL_CODE, %eax
#endif
    andl $3, %eax
    ret

#ifdef TRAPPING
    .data
    .balign 4
interrupts_allowed:                 /* what IF is meant to be: kept in step by every function above */
    .long 0
#endif

/* ---- The tables, on a page of their own: a VMM that shadows them write-protects it. The accessed bits are set from the start. */
    .section .tables, "aw"
    .balign 4096
    .globl gdt
    .type gdt, @object
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff        /* 0x08: ring-0 code, base 0, limit 4 GiB (SDM Vol. 3A section 3.4.5) */
    .quad 0x00cf93000000ffff        /* 0x10: ring-0 data */
    .quad 0x00cffb000000ffff        /* 0x18: ring-3 code */
    .quad 0x00cff3000000ffff        /* 0x20: ring-3 data */
    .globl task_state_descriptor
task_state_descriptor:
    .quad 0                         /* 0x28: the TSS; C fills in its address */
gdt_end:
    .size gdt, . - gdt
    .balign 8
    .globl idt
    .type idt, @object
idt:
    .fill IDT_VECTORS, 8, 0
    .size idt, . - idt
    .balign 16
    .globl task_state
    .type task_state, @object
task_state:                         /* only ESP0 and SS0 are used; an I/O map base at the limit grants no port */
    .long 0, 0, KERNEL_DATA
    .fill 22, 4, 0
    .long TSS_SIZE << 16
    .size task_state, . - task_state

    .section .rodata
    .balign 4
    .word 0
gdt_register:
    .word gdt_end - gdt - 1
    .long gdt
    .word 0
idt_register:
    .word IDT_VECTORS * 8 - 1
    .long idt

/* The stack that the kernel starts on; every process has one of its own. */
    .section .stack, "aw", @nobits
    .balign 4096
    .globl stack_bottom
stack_bottom:
    .skip 4096
stack_top:

    .section .note.GNU-stack, "", @progbits
