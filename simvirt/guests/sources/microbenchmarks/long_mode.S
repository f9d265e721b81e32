/* long_mode.S: into 64-bit mode and back (SDM Vol. 3A section 10.8.5), and the loops that need it. */
#include "guest.h"
#include "rounds.h"

#define CR0_PAGING 0x80000000
#define CR4_PAE 0x00000020
#define IA32_EFER 0xc0000080
#define IA32_STAR 0xc0000081
#define IA32_LSTAR 0xc0000082
#define IA32_FMASK 0xc0000084
#define IA32_KERNEL_GS_BASE 0xc0000102
#define EFER_SCE 0x001
#define EFER_LME 0x100

/* The guest's own four descriptors, in the order that SYSCALL and SYSRET want (SDM Vol. 3A section 5.8.8). */
#define LONG_CODE SPARE_DESCRIPTOR
#define LONG_DATA (SPARE_DESCRIPTOR + 8)
#define STAR_OF_SYSRET (LONG_DATA | 3)   /* SYSRET adds 8 for SS, 16 for CS */

    .text
/* void long_mode_run(u32 times, void (*work)(void), u32 *top_table): the work finds the number in ECX, and keeps ESP alone. */
function long_mode_run
    pushl %ebx
    pushl %esi
    pushl %edi
    pushl %ebp
    movl 20(%esp), %esi
    movl 24(%esp), %edi
    movl 28(%esp), %eax
    movl %eax, %cr3
    movl $0x00af9b00, gdt + SPARE_DESCRIPTOR + 4
    movl $0x00cf9300, gdt + SPARE_DESCRIPTOR + 12
    movl $0x0000ffff, gdt + SPARE_DESCRIPTOR + 8
    movl $0x00cff300, gdt + SPARE_DESCRIPTOR + 20
    movl $0x0000ffff, gdt + SPARE_DESCRIPTOR + 16
    movl $0x00affb00, gdt + SPARE_DESCRIPTOR + 28
    movl %cr4, %eax
    orl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $IA32_EFER, %ecx
    rdmsr
    orl $(EFER_LME | EFER_SCE), %eax
    wrmsr
    movl %cr0, %eax
    orl $CR0_PAGING, %eax
    movl %eax, %cr0
    pushl $LONG_CODE
    pushl $1f
    lret
    .code64
1:  movl %esi, %ecx
    call *%rdi
    pushq $KERNEL_CODE
    pushq $1f
    lretq
    .code32
1:  movl $KERNEL_DATA, %eax
    movl %eax, %ss
    movl %eax, %ds
    movl %eax, %es
    movl %cr0, %eax
    andl $~CR0_PAGING, %eax
    movl %eax, %cr0
    movl $IA32_EFER, %ecx
    rdmsr
    andl $~(EFER_LME | EFER_SCE), %eax
    wrmsr
    popl %ebp
    popl %edi
    popl %esi
    popl %ebx
    ret

    .code64
function cr8_writes
    xorl %eax, %eax
    rounds cr8wr
    movq %rax, %cr8
    rounds_end
    ret

function cr8_reads
    rounds mov_from_cr8
    movq %cr8, %rax
    rounds_end
    ret

/* ECX names the register, so the count is elsewhere. */
function kernel_gs_base_writes
    movl %ecx, %esi
    movl $IA32_KERNEL_GS_BASE, %ecx
    xorl %eax, %eax
    xorl %edx, %edx
    rounds wr_kernel_gs_base
    wrmsr
    rounds_end %esi
    ret

/* SYSRET takes RIP from RCX and the flags from R11; the count is in EBX. The kernel's part counts, until EAX is 0. */
function fast_system_calls
    movl %ecx, %ebx
    movl $IA32_STAR, %ecx
    xorl %eax, %eax
    movl $(STAR_OF_SYSRET << 16 | LONG_CODE), %edx
    wrmsr
    movl $IA32_LSTAR, %ecx
    movl $kernel_entry, %eax
    xorl %edx, %edx
    wrmsr
    movl $IA32_FMASK, %ecx
    xorl %eax, %eax
    wrmsr
    movl $in_user_mode, %ecx
    movl $FLAG_RESERVED_ONE, %r11d
    sysretq
in_user_mode:
    movl $1, %eax
    rounds syscall
    syscall
    rounds_end %ebx
    xorl %eax, %eax
    syscall
kernel_entry:
    testl %eax, %eax
    jz 1f
    incl system_calls_arrived
    sysretq
1:  ret
    .code32

    .section .data.system_calls_arrived, "aw"
    .balign 4
    .globl system_calls_arrived
system_calls_arrived:
    .long 0

    .section .note.GNU-stack, "", @progbits
