/* The firmware's entry points, in 16-bit code.
 *
 *   reset_vector    where the processor begins; POST follows in C (post.c)
 *   service stubs   INT 10h to 1Ah: each switches to the firmware's own stack and calls `service` (services.c) with a copy of the
 *                   caller's registers, which it may change
 *   interrupts      timer and keyboard, on the stack of whoever was interrupted
 *
 * The C code runs with DS = SS = the extended BIOS data area, where its stack and the few variables of its own lie.
 */
#include "layout.h"

    .code16

    .section .reset, "ax"
    .globl reset_vector
reset_vector:
    ljmp $FIRMWARE_SEGMENT, $start

    .section .loaded_kernel, "a"
    .globl loaded_kernel                    /* filled in where a kernel was loaded without a disk: its segment, SP; else 0 */
loaded_kernel:
    .word 0, 0

    .section .text.entry, "ax"
start:
    cli
    cld
    movw $EBDA_SEGMENT, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $EBDA_STACK_TOP, %esp
    movw $EBDA_STACK_TOP, EBDA_FREE_STACK
    calll post
    .globl power_on_is_done
power_on_is_done:
    int $0x19
1:  hlt
    jmp 1b

/* ------------------------------------------------------------------------------------------------ services */

    .macro stub vector
    .globl service_\vector
service_\vector:
    pushw $0x\vector
    jmp enter_service
    .endm

    stub 10
    stub 11
    stub 12
    stub 13
    stub 14
    stub 15
    stub 16
    stub 17
    stub 18
    stub 19
    stub 1a

enter_service:                              /* on the caller's stack: vector, IP, CS, FLAGS */
    pushal
    pushw %ds
    pushw %es
    cld
    movw %ss, %dx
    movw %sp, %si
    movw $EBDA_SEGMENT, %ax
    movw %ax, %es
    movw %sp, %bx
    cmpw %ax, %dx                           /* called from within the firmware: its stack is in use already */
    je 1f
    movw %es:EBDA_FREE_STACK, %bx
1:  movw %dx, %ds
    subw $(REGISTERS_SIZE + 8), %bx
    andw $0xfffc, %bx
    movw %bx, %di
    movw $(REGISTERS_SIZE / 2), %cx
    rep movsw                               /* DS:SI, the caller's stack, to ES:DI, ours */
    subw $REGISTERS_SIZE, %si
    movw %ax, %ss
    movzwl %bx, %esp
    movw %ax, %ds
    movl %esp, %eax
    pushw %dx                               /* where the caller's registers are */
    pushw %si
    calll service
    popw %di
    popw %dx
    movl %esp, %esi
    movw %dx, %es
    movw $(REGISTERS_SIZE / 2), %cx
    rep movsw                               /* what the service has changed */
    subw $REGISTERS_SIZE, %di
    movw %dx, %ss
    movzwl %di, %esp
    popw %es
    popw %ds
    popal
    leaw 2(%esp), %sp                       /* the vector */
    iretw

/* Let interrupts in until one has been served. */
    .globl wait_for_interrupt
wait_for_interrupt:
    pushw EBDA_FREE_STACK
    movw %sp, EBDA_FREE_STACK
    sti
    hlt
    cli
    popw EBDA_FREE_STACK
    retl

/* Give the machine to the boot sector at 0000:7C00; AL is the drive's number. */
    .globl enter_boot_sector
enter_boot_sector:
    movzbl %al, %edx
    xorl %eax, %eax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movl $0x7c00, %esp
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %esi, %esi
    xorl %edi, %edi
    xorl %ebp, %ebp
    sti
    ljmp $0, $0x7c00

/* Give the machine to a kernel that is in memory already, in the state of Linux's 16-bit boot protocol: its setup code begins in the
 * segment 20h paragraphs above that of its first sector, which all other segment registers hold.
 */
    .globl enter_loaded_kernel
enter_loaded_kernel:
    cli
    movw %cs:loaded_kernel, %ax
    movzwl %cs:loaded_kernel + 2, %ecx
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movl %ecx, %esp
    addw $0x20, %ax
    pushw %ax
    pushw $0
    xorl %eax, %eax
    xorl %ebx, %ebx
    xorl %ecx, %ecx
    xorl %edx, %edx
    xorl %esi, %esi
    xorl %edi, %edi
    xorl %ebp, %ebp
    lretw

/* ------------------------------------------------------------------------------------------------ interrupts */

    .globl timer_interrupt
timer_interrupt:
    pushal
    pushw %ds
    movw $BDA_SEGMENT, %ax
    movw %ax, %ds
    incl BDA_TICKS
    cmpl $TICKS_A_DAY, BDA_TICKS
    jb 1f
    movl $0, BDA_TICKS
    incb BDA_MIDNIGHT
1:  int $0x1c
    movb $0x20, %al
    outb %al, $0x20
    popw %ds
    popal
    iretw

    .globl keyboard_interrupt
keyboard_interrupt:
    pushw $0x09
    jmp enter_service

    .globl master_interrupt                 /* a line that nobody has taken */
master_interrupt:
    pushw %ax
    movb $0x20, %al
    outb %al, $0x20
    popw %ax
    iretw

    .globl slave_interrupt
slave_interrupt:
    pushw %ax
    movb $0x20, %al
    outb %al, $0xa0
    outb %al, $0x20
    popw %ax
    iretw

    .globl nothing
nothing:
    iretw

/* ------------------------------------------------------------------------------------------------ moving a block
 * INT 15h, AH = 87h: EAX source, EDX destination, ECX bytes, all linear and anywhere in memory. In protected mode for a moment, with
 * flat data segments; interrupts stay off.
 */
    .globl move_block
move_block:
    pushl %esi
    pushl %edi
    movl %eax, %esi
    movl %edx, %edi
    lgdtw %cs:flat_gdt
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    jmp 1f
1:  movw $8, %dx
    movw %dx, %ds
    movw %dx, %es
    .byte 0x67                              /* with ECX, ESI and EDI */
    rep movsb
    andb $0xfe, %al
    movl %eax, %cr0
    jmp 2f
2:  movw $EBDA_SEGMENT, %ax
    movw %ax, %ds
    movw %ax, %es
    popl %edi
    popl %esi
    retl

    .balign 8
flat_descriptors:
    .quad 0, 0x00cf93000000ffff
flat_gdt:
    .word 15
    .long FIRMWARE_LINEAR + flat_descriptors

/* ------------------------------------------------------------------------------------------------ tables */

    .globl vector_table                     /* the firmware's interrupt vectors: number, offset */
vector_table:
    .word 0x08, timer_interrupt, 0x09, keyboard_interrupt
    .word 0x0a, master_interrupt, 0x0b, master_interrupt, 0x0c, master_interrupt, 0x0d, master_interrupt
    .word 0x0e, master_interrupt, 0x0f, master_interrupt
    .word 0x10, service_10, 0x11, service_11, 0x12, service_12, 0x13, service_13, 0x14, service_14, 0x15, service_15
    .word 0x16, service_16, 0x17, service_17, 0x18, service_18, 0x19, service_19, 0x1a, service_1a
    .word 0x1e, diskette_parameters
    .word 0x70, slave_interrupt, 0x71, slave_interrupt, 0x72, slave_interrupt, 0x73, slave_interrupt
    .word 0x74, slave_interrupt, 0x75, slave_interrupt, 0x76, slave_interrupt, 0x77, slave_interrupt
    .word 0xffff

    .globl diskette_parameters              /* of a 1.44 MB drive: 18 sectors of 512 bytes to the track */
diskette_parameters:
    .byte 0xdf, 0x02, 0x25, 0x02, 18, 0x1b, 0xff, 0x6c, 0xf6, 0x0f, 0x08

    .globl system_configuration             /* INT 15h, AH = C0h: an AT, with a real-time clock, two 8259As, an EBDA */
system_configuration:
    .word 8
    .byte 0xfc, 0, 0, 0x74, 0, 0, 0, 0

    .globl no_boot_text
no_boot_text:
    .asciz "No bootable disk.\r\n"

    .globl keys_plain, keys_shifted         /* ASCII of the scan codes of set 1, 0 where there is none */
keys_plain:
    .ascii "\0\0331234567890-=\b\tqwertyuiop[]\r\0asdfghjkl;'`\0\\zxcvbnm,./\0*\0 "
keys_shifted:
    .ascii "\0\033!@#$%^&*()_+\b\0QWERTYUIOP{}\r\0ASDFGHJKL:\"~\0|ZXCVBNM<>?\0*\0 "
