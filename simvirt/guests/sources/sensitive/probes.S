/* probes.S: one function for each sensitive instruction, which stands at the label site_<name> and leaves what it showed in `result`.
 *
 * Where an instruction changes the flags, what it did is read back from the frame of an INT (read_flags), because reading it with PUSHF
 * would ask a second sensitive instruction about the first.
 */
#include "guest.h"

#define LOCAL_TABLE SPARE_DESCRIPTOR
#define CALL_GATE (SPARE_DESCRIPTOR + 8)
#define READ_FLAGS_VECTOR 0x50
#define FROM_USER_VECTOR 0x51

    .macro probe name
    .globl probe_\name, site_\name
    .type probe_\name, @function
probe_\name:
    .endm

    .macro store_zero_flag at
    movl $0, \at
    jnz 9f
    incl \at
9:
    .endm

    .text
/* void run_probe(void (*probe)(void)): an exception in the probe comes out at `recover` (the handler sees to that). */
    .globl run_probe, recover
    .type run_probe, @function
run_probe:
    pushal
    movl 36(%esp), %eax
    movl %esp, kept_stack
    call *%eax
recover:
    movl $KERNEL_DATA, %eax
    movl %eax, %ss
    movl kept_stack, %esp
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    cli
    cld
    popal
    ret
    .size run_probe, . - run_probe

/* EAX := EFLAGS and EDX := CS as an INT pushes them; the handler is in sensitive.c. */
    .type read_flags, @function
read_flags:
    int $READ_FLAGS_VECTOR
    ret

/* Store the registers of the system tables (3B in Robin and Irvine's count of requirements). */

    probe sgdt
site_sgdt:
    sgdtl table_register
    jmp store_table_register

    probe sidt
site_sidt:
    sidtl table_register
store_table_register:
    movzwl table_register, %eax
    movl %eax, result
    movl table_register + 2, %eax
    movl %eax, result + 4
    ret

    probe sldt
    xorl %eax, %eax
site_sldt:
    sldtw %ax
    movl %eax, result
    ret

    probe str
    xorl %eax, %eax
site_str:
    strw %ax
    movl %eax, result
    ret

    probe smsw
    xorl %eax, %eax
site_smsw:
    smsww %ax
    movl %eax, result
    ret

/* Flags. */

    probe pushf
    cli
    xorl %eax, %eax
site_pushf:
    pushfl
    popl %eax
    movl %eax, result
    ret

    probe popf
    cli
    pushl $0x3202 /* IF, IOPL 3 */
site_popf:
    popfl
    call read_flags
    movl %eax, result
    pushl $FLAG_RESERVED_ONE
    popfl
    ret

    probe cli
    sti
    xorl %eax, %eax
site_cli:
    cli
    call read_flags
    movl %eax, result
    ret

    probe sti
    cli
    xorl %eax, %eax
site_sti:
    sti
    call read_flags
    movl %eax, result
    ret

/* Questions about descriptors, answered by CPL and RPL. */

    probe lar
    movl $KERNEL_DATA, %ecx
    xorl %eax, %eax
site_lar:
    larl %ecx, %eax
    store_zero_flag result
    andl $0x00f0ff00, %eax /* bits 19:16 are undefined */
    movl %eax, result + 4
    ret

    probe lsl
    movl $KERNEL_DATA, %ecx
    xorl %eax, %eax
site_lsl:
    lsll %ecx, %eax
    store_zero_flag result
    movl %eax, result + 4
    ret

    probe verr
    movl $KERNEL_DATA, %ecx
    testl %ecx, %ecx
site_verr:
    verr %cx
    store_zero_flag result
    ret

    probe verw
    movl $KERNEL_DATA, %ecx
    testl %ecx, %ecx
site_verw:
    verw %cx
    store_zero_flag result
    ret

/* Segment registers on and off the stack, and to and from registers. */

    .macro probe_push segment
    probe push_\segment
    xorl %eax, %eax
site_push_\segment:
    pushl %\segment
    popl %eax
    movzwl %ax, %eax
    movl %eax, result
    ret
    .endm

    probe_push cs
    probe_push ss
    probe_push ds
    probe_push es
    probe_push fs
    probe_push gs

    .macro probe_pop segment
    probe pop_\segment
    pushl $KERNEL_DATA
site_pop_\segment:
    popl %\segment
    movl $1, result
    ret
    .endm

    probe_pop ss
    probe_pop ds
    probe_pop es
    probe_pop fs
    probe_pop gs

    .macro probe_mov_from segment
    probe mov_from_\segment
    xorl %eax, %eax
site_mov_from_\segment:
    movl %\segment, %eax
    movl %eax, result
    ret
    .endm

    probe_mov_from cs
    probe_mov_from ss
    probe_mov_from ds
    probe_mov_from es
    probe_mov_from fs
    probe_mov_from gs

    .macro probe_mov_to segment
    probe mov_to_\segment
    movl $KERNEL_DATA, %eax
site_mov_to_\segment:
    movl %eax, %\segment
    movl $1, result
    ret
    .endm

    probe_mov_to ss
    probe_mov_to ds
    probe_mov_to es
    probe_mov_to fs
    probe_mov_to gs

    .macro probe_load_pointer segment
    probe l\segment
    xorl %eax, %eax
site_l\segment:
    l\segment data_pointer, %eax
    movl %eax, result
    ret
    .endm

    probe_load_pointer ss
    probe_load_pointer ds
    probe_load_pointer es
    probe_load_pointer fs
    probe_load_pointer gs

/* Transfers to another code segment. CALL shows the CS that it pushed. */

    probe call_far
site_call_far:
    lcall $KERNEL_CODE, $store_pushed_cs
    ret

    probe call_far_indirect
site_call_far_indirect:
    lcall *store_pushed_cs_pointer
    ret

    probe call_gate
site_call_gate:
    lcall $CALL_GATE, $0
    ret

    .globl store_pushed_cs
store_pushed_cs:
    movzwl 4(%esp), %eax
    movl %eax, result
    popl %edx
    addl $4, %esp
    jmp *%edx

    probe jmp_far
site_jmp_far:
    ljmp $KERNEL_CODE, $store_arrival

    probe jmp_far_indirect
site_jmp_far_indirect:
    ljmp *store_arrival_pointer

    probe ret_far
    pushl $KERNEL_CODE
    pushl $store_arrival
site_ret_far:
    lret

    probe int
    cli
    xorl %eax, %eax
site_int:
    int $READ_FLAGS_VECTOR
    movl %edx, result
    movl %eax, result + 4
    ret

    probe iret
    cli
    pushl $(FLAG_RESERVED_ONE | FLAG_INTERRUPT)
    pushl $KERNEL_CODE
    pushl $1f
site_iret:
    iretl
1:  call read_flags
    movl %eax, result
    ret

store_arrival:
    movl $1, result
    ret

/* SYSENTER goes to ring 0 at the place that the MSRs name, SYSEXIT to ring 3 at EDX with the stack ECX. */

    .macro set_sysenter_target label
    movl $0x174, %ecx /* IA32_SYSENTER_CS */
    movl $KERNEL_CODE, %eax
    xorl %edx, %edx
    wrmsr
    movl $0x175, %ecx /* IA32_SYSENTER_ESP */
    movl %esp, %eax
    wrmsr
    movl $0x176, %ecx /* IA32_SYSENTER_EIP */
    movl $\label, %eax
    wrmsr
    .endm

    probe sysenter
    set_sysenter_target 1f
site_sysenter:
    sysenter
    movl $0, result
    ret
1:  movl $1, result
    ret

    probe sysexit
    set_sysenter_target store_arrival
    movl %esp, %ecx
    movl $1f, %edx
site_sysexit:
    sysexit
    ret
1:  int $FROM_USER_VECTOR
    ret

/* Ports. */

    probe in
    xorl %eax, %eax
site_in:
    inb $UNCLAIMED_PORT, %al
    movl %eax, result
    ret

    probe out
    movl $0x55, %eax
site_out:
    outb %al, $UNCLAIMED_PORT
    movl $1, result
    ret

    probe ins
    movl $UNCLAIMED_PORT, %edx
    movl $port_byte, %edi
    movb $0, port_byte
site_ins:
    insb
    movzbl port_byte, %eax
    movl %eax, result
    ret

    probe outs
    movl $UNCLAIMED_PORT, %edx
    movl $port_byte, %esi
site_outs:
    outsb
    movl $1, result
    ret

/* Clocks, counters and the processor's description. */

    probe rdtsc
    .globl site_rdtsc_again
site_rdtsc:
    rdtsc
    movl %eax, %esi
    movl %edx, %edi
    movl $1000, %ecx
1:  decl %ecx
    jnz 1b
site_rdtsc_again:
    rdtsc
    subl %esi, %eax
    sbbl %edi, %edx
    movl $0, result
    js 2f
    orl %edx, %eax
    jz 2f
    incl result
2:  ret

    probe rdpmc
    xorl %ecx, %ecx
site_rdpmc:
    rdpmc
    movl $1, result
    ret

    probe cpuid
    xorl %eax, %eax
site_cpuid:
    cpuid
    movl $0, result
    testl %eax, %eax
    jz 1f
    incl result
1:  ret

    probe xgetbv
    xorl %ecx, %ecx
site_xgetbv:
    xgetbv
    ret

    probe rdtscp
    xorl %ecx, %ecx
site_rdtscp:
    rdtscp
    ret

    probe rdpid
site_rdpid:
    .byte 0xf3, 0x0f, 0xc7, 0xf8 /* RDPID EAX */
    ret

    .data
    .balign 4
    .globl result
result:
    .long 0, 0
kept_stack:
    .long 0
table_register:
    .word 0
    .long 0
port_byte:
    .byte 0

    .section .rodata
    .balign 4
data_pointer:
    .long 0x12345678
    .word KERNEL_DATA
    .word 0
store_pushed_cs_pointer:
    .long store_pushed_cs
    .word KERNEL_CODE
    .word 0
store_arrival_pointer:
    .long store_arrival
    .word KERNEL_CODE

    .section .note.GNU-stack, "", @progbits
