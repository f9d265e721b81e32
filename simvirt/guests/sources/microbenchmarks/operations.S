/* operations.S: the loops in 32-bit code. */
#include "guest.h"
#include "rounds.h"

#define CR0_WRITE_PROTECT 0x00010000
#define CR0_PAGING 0x80000000
#define CR4_GLOBAL_PAGES 0x00000080
#define IA32_PAT 0x277
#define ACPI_TIMER 0x608             /* PM_TMR, where the PIIX4's function 3 has it on the PCs that QEMU and simvirt make */
#define FIRST_INTERRUPT_MASK 0x21
#define DR7_NOTHING 0x400
#define FLAGS_LONG_MODE 0x20000000   /* CPUID.80000001H:EDX.LM */

    .text
/* void empty_rounds(u32 times) */
function empty_rounds
    movl 4(%esp), %ecx
    rounds empty
    rounds_end
    ret

/* void int80_calls(u32 times, u8 *user_stack_top): in ring 3, and does not come back. */
function int80_calls
    movl 4(%esp), %ecx
    movl 8(%esp), %edx
    movl $USER_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    pushl $USER_DATA
    pushl %edx
    pushl $FLAG_RESERVED_ONE
    pushl $USER_CODE
    pushl $2f
    iretl
2:  movl $1, %eax
    rounds int80
    int $0x80
    rounds_end
    xorl %eax, %eax
    int $0x80

/* void in_ports(u32 times) */
function in_ports
    movl 4(%esp), %ecx
    movl $UNCLAIMED_PORT, %edx
    rounds in
    inb %dx, %al
    rounds_end
    ret

/* u32 calls(u32 times): how often the function was called. */
function calls
    movl 4(%esp), %ecx
    xorl %eax, %eax
    rounds callret
    call at_once
    rounds_end
    ret
function at_once
    incl %eax
    ret

/* void stores(u32 times, u32 address): the handler skips two bytes. */
function stores
    movl 4(%esp), %ecx
    movl 8(%esp), %edx
    rounds pgfault
    movl %eax, (%edx)
    rounds_end
    ret

/* void divisions(u32 times): the same. */
function divisions
    pushl %ebx
    movl 8(%esp), %ecx
    xorl %ebx, %ebx
    rounds divzero
    divl %ebx
    rounds_end
    popl %ebx
    ret

/* void entry_stores(u32 times, u32 *entry) */
function entry_stores
    movl 4(%esp), %ecx
    movl 8(%esp), %edx
    movl (%edx), %eax
    rounds ptemod
    movl %eax, (%edx)
    rounds_end
    ret

/* void entry_changes(u32 times, u32 *entry, u32 address): the page is the entry's own, whose frame may be any. */
function entry_changes
    pushl %ebx
    movl 8(%esp), %ecx
    movl 12(%esp), %edx
    movl 16(%esp), %ebx
    movl $0x00200003, %eax          /* the frame at 2 MiB, present and writable */
    rounds ptemod_toggle
    movl %eax, (%edx)
    invlpg (%ebx)
    xorl $1, %eax
    rounds_end
    popl %ebx
    ret

/* void cpuids(u32 times): the count is kept where CPUID leaves it alone. */
function cpuids
    pushl %ebx
    pushl %esi
    movl 12(%esp), %esi
    rounds cpuid
    xorl %eax, %eax
    xorl %ecx, %ecx
    cpuid
    rounds_end %esi
    popl %esi
    popl %ebx
    ret

/* void vmcalls(u32 times): hypercall 0, or #UD, whose handler skips three bytes. What a VMM may answer in EAX does not matter. */
function vmcalls
    pushl %ebx
    movl 8(%esp), %ecx
    rounds vmcall
    vmcall
    rounds_end
    popl %ebx
    ret

/* void timer_reads(u32 times) */
function timer_reads
    movl 4(%esp), %ecx
    movl $ACPI_TIMER, %edx
    rounds inl_from_pmtimer
    inl %dx, %eax
    rounds_end
    ret

/* void self_interrupts(u32 times, u32 address, u32 command): the interrupt is taken behind the NOP, for STI holds it back until then. */
function self_interrupts
    movl 4(%esp), %ecx
    movl 8(%esp), %edx
    movl 12(%esp), %eax
    rounds self_ipi
    movl %eax, (%edx)
    sti
    nop
    cli
    rounds_end
    ret

/* void mask_writes(u32 times): all lines masked, as they are. */
function mask_writes
    movl 4(%esp), %ecx
    movb $0xff, %al
    rounds out_to_pic
    outb %al, $FIRST_INTERRUPT_MASK
    rounds_end
    ret

/* void debug_register_writes(u32 times): DR7, which enables nothing. */
function debug_register_writes
    movl 4(%esp), %ecx
    movl $DR7_NOTHING, %eax
    rounds mov_dr
    movl %eax, %dr7
    rounds_end
    ret

/* void page_attribute_writes(u32 times): ECX names the register, so the count is elsewhere. */
function page_attribute_writes
    pushl %esi
    movl 8(%esp), %esi
    movl $IA32_PAT, %ecx
    rdmsr
    rounds wr_msr
    wrmsr
    rounds_end %esi
    popl %esi
    ret

/* void write_protect_toggles(u32 times), void global_page_toggles(u32 times): two writes each. */
function write_protect_toggles
    movl 4(%esp), %ecx
    movl %cr0, %eax
    orl $CR0_WRITE_PROTECT, %eax
    movl %eax, %edx
    andl $~CR0_WRITE_PROTECT, %edx
    rounds toggle_cr0_wp
    movl %edx, %cr0
    movl %eax, %cr0
    rounds_end
    ret

function global_page_toggles
    movl 4(%esp), %ecx
    movl %cr4, %eax
    orl $CR4_GLOBAL_PAGES, %eax
    movl %eax, %edx
    andl $~CR4_GLOBAL_PAGES, %edx
    rounds toggle_cr4_pge
    movl %edx, %cr4
    movl %eax, %cr4
    rounds_end
    ret

function paging_start
    movl 4(%esp), %eax
    movl %eax, %cr3
    movl %cr0, %eax
    orl $CR0_PAGING, %eax
    movl %eax, %cr0
    ret

function features
    pushl %ebx
    movl $1, %eax
    cpuid
    movl %edx, %eax
    popl %ebx
    ret

/* u32 has_long_mode(void) */
function has_long_mode
    pushl %ebx
    movl $0x80000000, %eax
    cpuid
    cmpl $0x80000001, %eax
    movl $0, %eax
    jb 1f
    movl $0x80000001, %eax
    cpuid
    movl %edx, %eax
    andl $FLAGS_LONG_MODE, %eax
1:  popl %ebx
    ret

    .section .note.GNU-stack, "", @progbits
