/* v86: virtual-8086 mode: how it is entered and left, what is sensitive to IOPL, and what does not exist; paging is off. */
#include "frame32.h"

    .set LOW, 0x8000            /* where a check's 16-bit code runs, as 0800:0000 */
    .set STACK_SEGMENT, 0x900
    .set TOP, 0x1000

/* The code up to `leave_v86` runs in virtual-8086 mode, whatever IOPL is. It begins with a NOP, at offset 0. */
.macro enter_v86 flags=0x20002
    cmp dword ptr [want_vector], DONE
    jne 4f
    mov dword ptr [want_vector], 3
4:  mov byte ptr [idt + 8 * 3 + 5], 0xee
    .byte 0xbe                  /* mov esi, ... */
    .long 3f
    mov edi, LOW
    mov ecx, 64
    rep movsb
    push 0x50                   /* GS, FS, DS, ES */
    push 0x40
    push 0x30
    push 0x20
    push STACK_SEGMENT
    push TOP
    push \flags
    push 0x800
    push 0
    iretd
3:  .code16
    nop
.endm
.macro leave_v86
    int3
    .code32
    conclude
.endm
/* The same where checks follow at the label that `then` has named. */
.macro leave_v86_then
    int3
    .code32
.endm

.macro faults_at vector, error, offset_
    mov dword ptr [want_vector], \vector
    mov dword ptr [want_error], \error
    mov dword ptr [want_eip], \offset_
.endm
    .set IOPL3, 0x23002

checks:
    check v86_enter, "3B 21.2.5, 2A IRET", "IRET with VM: CS:IP, SS:SP and the data segments from the stack"
    then 2f
    enter_v86
    mov bx, ds
    shl ebx, 16
    mov bx, es
    leave_v86_then
2:  holds got_ebx, 0x300020
    holds got_cs, 0x800
    holds got_ss, STACK_SEGMENT
    holds got_esp, TOP
    and dword ptr [got_eflags], 0x20000
    holds got_eflags, 0x20000
    conclude

    check v86_frame, "3B 21.3.1", "an exception pushes GS, FS, DS and ES above SS"
    then 2f
    enter_v86
    leave_v86_then
2:  holds inner_stack-4, 0x50
    holds inner_stack-8, 0x40
    holds inner_stack-12, 0x30
    holds inner_stack-16, 0x20
    holds inner_stack-20, STACK_SEGMENT
    conclude

    check gp_v86_cli, "3B 21.2.7", "CLI with IOPL below 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86
    .byte 0xfa
    leave_v86

    check gp_v86_sti, "3B 21.2.7", "STI with IOPL below 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86
    .byte 0xfb
    leave_v86

    check gp_v86_pushf, "3B 21.2.7", "PUSHF with IOPL below 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86
    .byte 0x9c
    leave_v86

    check gp_v86_pushfd, "3B 21.2.7", "PUSHFD with IOPL below 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86
    .byte 0x66, 0x9c
    leave_v86

    check gp_v86_popf, "3B 21.2.7", "POPF with IOPL below 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86
    .byte 0x9d
    leave_v86

    check gp_v86_int_n, "3B 21.2.7", "INT n with IOPL below 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86
    .byte 0xcd, 0x40
    leave_v86

    check gp_v86_iret, "3B 21.2.7", "IRET with IOPL below 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86
    .byte 0xcf
    leave_v86

    check gp_v86_hlt, "2A HLT", "HLT even with IOPL 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86 IOPL3
    .byte 0xf4
    leave_v86

    check gp_v86_mov_cr0, "3B 21.2.7", "MOV from CR0 even with IOPL 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86 IOPL3
    .byte 0xf, 0x20, 0xc0
    leave_v86

    check gp_v86_clts, "2A CLTS", "CLTS even with IOPL 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86 IOPL3
    .byte 0xf, 0x6
    leave_v86

    check gp_v86_lgdt, "2A LGDT", "LGDT even with IOPL 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86 IOPL3
    .byte 0xf, 0x1, 0x16, 0x0, 0x0
    leave_v86

    check gp_v86_lmsw, "2A LMSW", "LMSW even with IOPL 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86 IOPL3
    .byte 0xf, 0x1, 0xf0
    leave_v86

    check gp_v86_rdmsr, "2B RDMSR", "RDMSR even with IOPL 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86 IOPL3
    .byte 0xf, 0x32
    leave_v86

    check gp_v86_mov_dr, "2B MOV-Debug Registers", "MOV from DR0 even with IOPL 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86 IOPL3
    .byte 0xf, 0x21, 0xc0
    leave_v86

    check gp_v86_invd, "2A INVD", "INVD even with IOPL 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86 IOPL3
    .byte 0xf, 0x8
    leave_v86

    check ud_v86_sldt, "2B SLDT", "SLDT: #UD"
    faults_at 6, 0, 1
    enter_v86
    .byte 0xf, 0x0, 0xc0
    leave_v86

    check ud_v86_ltr, "2A LTR", "LTR: #UD"
    faults_at 6, 0, 1
    enter_v86
    .byte 0xf, 0x0, 0xd8
    leave_v86

    check ud_v86_lar, "2A LAR", "LAR: #UD"
    faults_at 6, 0, 1
    enter_v86
    .byte 0xf, 0x2, 0xc0
    leave_v86

    check ud_v86_lsl, "2A LSL", "LSL: #UD"
    faults_at 6, 0, 1
    enter_v86
    .byte 0xf, 0x3, 0xc0
    leave_v86

    check ud_v86_verr, "2B VERR", "VERR: #UD"
    faults_at 6, 0, 1
    enter_v86
    .byte 0xf, 0x0, 0xe0
    leave_v86

    check ud_v86_arpl, "2A ARPL", "ARPL: #UD"
    faults_at 6, 0, 1
    enter_v86
    .byte 0x63, 0xc0
    leave_v86

    check ud_v86_ud2, "2B UD", "UD2: #UD"
    faults_at 6, 0, 1
    enter_v86
    .byte 0xf, 0xb
    leave_v86

    check v86_cli, "3B 21.2.7", "CLI with IOPL 3 clears IF"
    then 2f
    enter_v86 IOPL3+0x200
    cli
    leave_v86_then
2:  and dword ptr [got_eflags], 0x200
    holds got_eflags, 0
    conclude

    check v86_pushfd, "2B PUSHF", "PUSHFD with IOPL 3 stores VM and RF as 0"
    then 2f
    enter_v86 IOPL3
    pushfd
    pop ebx
    leave_v86_then
2:  holds got_ebx, 0x3002
    conclude

    check v86_popf, "2B POPF", "POPF with IOPL 3 changes IF, and neither IOPL nor VM"
    then 2f
    enter_v86 IOPL3
    push 0x0202
    popf
    leave_v86_then
2:  holds got_eflags, 0x23202
    conclude

    check v86_int_iopl_3, "3B 21.3.3", "INT n with IOPL 3 through a gate of DPL 3"
    faults_at 0x40, 0, 3
    mov byte ptr [idt + 8 * 0x40 + 5], 0xee
    enter_v86 IOPL3
    int 0x40
    leave_v86

    check gp_v86_int_dpl, "3B 21.3.3", "INT n with IOPL 3 through a gate of DPL 0: #GP(n * 8 + 2)"
    faults_at 13, 0x202, 1
    enter_v86 IOPL3
    int 0x40
    leave_v86

    check gp_v86_gate_ring_1, "2A INT n", "a gate that leads to ring 1: #GP(selector)"
    faults_at 13, 0x80, 1
    mov word ptr [idt + 8 * 0x40 + 2], 0x80
    mov byte ptr [idt + 8 * 0x40 + 5], 0xee
    enter_v86 IOPL3
    int 0x40
    leave_v86

    check v86_into, "2A INT n", "INTO does not look at IOPL"
    faults_at 4, 0, 6
    mov byte ptr [idt + 8 * 4 + 5], 0xee
    enter_v86
    mov al, 0x7f
    inc al
    into
    leave_v86

    check v86_de, "3A 6.15 #DE", "an exception of the program goes to the monitor, too"
    faults_at 0, 0, 3
    enter_v86
    xor cx, cx
    div cx
    leave_v86

    check v86_iret, "3B 21.2.7", "IRET with IOPL 3 stays in virtual-8086 mode"
    then 2f
    enter_v86 IOPL3
    push 0x0003
    push 0x07ff
    push 0x1a                   /* the INT3 */
    iret
    nop
    leave_v86_then
2:  holds got_cs, 0x7ff
    and dword ptr [got_eflags], 0x23001
    holds got_eflags, 0x23001
    conclude

    check v86_call_far, "2A CALL", "far CALL and RET as in real-address mode"
    then 2f
    enter_v86
    .byte 0x9a
    .word 7, 0x0800             /* behind the CALL and its return point */
    int3
    .byte 0x5b, 0x59            /* pop bx, cx */
    mov dx, 1
    shl ebx, 16
    mov bx, cx
    leave_v86_then
2:  holds got_ebx, 0x60800
    conclude

    check v86_segment, "3B 20.1.1", "a segment begins at 16 times its selector"
    then 2f
    mov word ptr [0x12348], 0x5a5a
    enter_v86
    mov ax, 0x1234
    mov ds, ax
    xor ebx, ebx
    mov bx, word ptr [8]
    leave_v86_then
2:  holds got_ebx, 0x5a5a
    conclude

    check v86_stack_wraps, "3B 20.1.1", "the stack wraps at 64 KiB"
    then 2f
    enter_v86
    xor sp, sp
    push ax
    leave_v86_then
2:  holds_word got_esp, 0xfffe
    conclude

    check gp_v86_limit, "3B 20.1.1", "a word at offset FFFF: #GP(0)"
    faults_at 13, 0, 1
    enter_v86
    .byte 0xa1, 0xff, 0xff
    leave_v86

    check gp_v86_in, "1 19.5.2", "IN of a port whose bit is set in the bitmap, even with IOPL 3: #GP(0)"
    faults_at 13, 0, 1
    enter_v86 IOPL3
    in al, 0x80
    leave_v86

    check v86_in, "1 19.5.2", "IN of a port whose bit is clear, even with IOPL 0"
    then 2f
    mov byte ptr [io_map + 16], 0xfe
    enter_v86
    in al, 0x80
    leave_v86_then
2:  mov byte ptr [io_map + 16], 0xff
    conclude

    check v86_single_step, "3B 18.3.1.4", "TF traps behind an instruction"
    faults_at 1, 0, 1
    enter_v86 0x20102
    nop
    nop
    leave_v86
    jmp report
