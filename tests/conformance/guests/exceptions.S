/* exceptions: each exception of 32-bit protected mode with its error code and saved EIP; paging is off. */
#include "frame32.h"

checks:
    /* ------------------------------------------------------------------------------------- SDM Vol. 3A 6.15 */
    check de_div_by_zero, "3A 6.15 #DE", "DIV by zero is a fault on the DIV"
    faults 0, 0, 1f
    xor edx, edx
    xor ecx, ecx
1:  div ecx
    finish

    check de_div_overflow, "3A 6.15 #DE", "DIV whose quotient does not fit"
    faults 0, 0, 1f
    mov edx, 5
    mov ecx, 5
1:  div ecx
    finish

    check de_idiv_most_negative, "3A 6.15 #DE", "IDIV of the most negative number by -1"
    faults 0, 0, 1f
    mov eax, 0x80000000
    cdq
    mov ecx, -1
1:  idiv ecx
    finish

    check de_aam_zero, "2A AAM", "AAM 0"
    faults 0, 0, 1f
1:  .byte 0xd4, 0
    finish

    check db_single_step, "3B 18.3.1.4", "TF traps behind the next instruction, with DR6.BS"
    faults 1, 0, 1f
    then 2f
    xor eax, eax
    mov dr6, eax
    push 0x102
    popfd
    nop
1:  nop
    nop
2:  mov eax, dr6
    and eax, 0x4000
    equals eax, 0x4000
    conclude

    check db_handler_without_tf, "3A 6.8, 3B 18.3.1.4", "the image of EFLAGS has TF, the handler has not"
    faults 1, 0, 1f
    then 2f
    push 0x102
    popfd
    nop
1:  nop
2:  mov eax, dword ptr [got_eflags]
    and eax, 0x100
    equals eax, 0x100
    pushfd
    pop eax
    and eax, 0x100
    equals eax, 0
    conclude

    check db_icebp, "2A INT n", "INT1 (F1) is #DB behind it, whatever the gate's DPL"
    faults 1, 0, 1f
    user
    .byte 0xf1
1:  nop
    finish

    check bp_int3, "3A 6.15 #BP", "INT3 is a trap: EIP behind it"
    faults 3, 0, 1f
    int3
1:  nop
    finish

    check bp_int3_user_dpl, "3A 6.12.1.2", "INT3 at CPL 3 through a gate of DPL 0 is #GP(vector * 8 + 2)"
    faults 13, 0x1a, 1f
    user
1:  int3
    finish

    check of_into, "3A 6.15 #OF", "INTO with OF set is a trap"
    faults 4, 0, 1f
    mov al, 0x7f
    add al, 1
    .byte 0xce
1:  nop
    finish

    check of_into_clear, "2A INT n", "INTO with OF clear does nothing"
    xor eax, eax
    .byte 0xce
    finish

    check br_bound, "3A 6.15 #BR", "BOUND beyond the bounds is a fault"
    faults 5, 0, 1f
    mov dword ptr [scratch], 0
    mov dword ptr [scratch + 4], 10
    mov eax, 11
1:  .byte 0x62, 0x05
    .long scratch
    finish

    check ud_ud2, "3A 6.15 #UD", "UD2"
    faults 6, 0, 1f
1:  ud2
    finish

    check ud_lock_register, "2A LOCK", "LOCK before a register operand"
    faults 6, 0, 1f
1:  .byte 0xf0, 0x01, 0xc0
    finish

    check ud_lock_nop, "2A LOCK", "LOCK before an instruction that takes none"
    faults 6, 0, 1f
1:  .byte 0xf0, 0x90
    finish

    check ud_mov_cs, "2B MOV", "MOV to CS"
    faults 6, 0, 1f
    mov eax, CODE0
1:  .byte 0x8e, 0xc8
    finish

    check ud_bound_register, "2A BOUND", "BOUND (62) with a register operand"
    faults 6, 0, 1f
1:  .byte 0x62, 0xc0
    finish

    check ud_cr1, "2B MOV-Control Registers", "MOV from CR1"
    faults 6, 0, 1f
1:  .byte 0x0f, 0x20, 0xc8
    finish

    check ud_lar_real, "2A", "opcode 0F 0B with a prefix"
    faults 6, 0, 1f
1:  .byte 0x66, 0x0f, 0x0b
    finish

    check nm_em, "3A 6.15 #NM, Table 9-3", "an x87 instruction with CR0.EM"
    faults 7, 0, 1f
    then 2f
    mov eax, cr0
    or eax, 4
    mov cr0, eax
1:  fnop
    nop
2:  mov eax, cr0
    and eax, ~0xc
    mov cr0, eax
    conclude

    check nm_ts, "3A 6.15 #NM", "an x87 instruction with CR0.TS"
    faults 7, 0, 1f
    then 2f
    mov eax, cr0
    or eax, 8
    mov cr0, eax
1:  fnop
    nop
2:  clts
    mov eax, cr0
    and eax, 8
    equals eax, 0
    conclude

    check nm_wait_mp_ts, "3A 2.5 (MP)", "WAIT with CR0.MP and CR0.TS"
    faults 7, 0, 1f
    then 2f
    mov eax, cr0
    or eax, 0xa
    mov cr0, eax
1:  fwait
    nop
2:  clts
    mov eax, cr0
    and eax, ~2
    mov cr0, eax
    conclude

    check nm_wait_ts_alone, "3A 2.5 (MP)", "WAIT with CR0.TS and no MP does nothing"
    then 2f
    mov eax, cr0
    and eax, ~2
    or eax, 8
    mov cr0, eax
    fwait
    int DONE
2:  clts
    conclude

    check np_data, "3A 6.15 #NP", "MOV DS of a segment that is not present: #NP(selector)"
    faults 11, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf1200
    mov eax, 0x30
1:  mov ds, eax
    finish

    check ss_not_present, "3A 6.15 #SS", "MOV SS of a segment that is not present: #SS(selector)"
    faults 12, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf1200
    mov eax, 0x30
1:  mov ss, eax
    finish

    check gp_ss_null, "2B MOV", "MOV SS of a null selector is #GP(0)"
    faults 13, 0, 1f
    xor eax, eax
1:  mov ss, eax
    finish

    check gp_ss_rpl, "2B MOV", "MOV SS whose RPL is not CPL: #GP(selector)"
    faults 13, 0x10, 1f
    mov eax, 0x13
1:  mov ss, eax
    finish

    check gp_ss_read_only, "2B MOV", "MOV SS of a read-only segment"
    faults 13, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf9000
    mov eax, 0x30
1:  mov ss, eax
    finish

    check gp_ds_execute_only, "2B MOV", "MOV DS of an execute-only segment"
    faults 13, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf9800
    mov eax, 0x30
1:  mov ds, eax
    finish

    check gp_ds_system, "2B MOV", "MOV DS of a system segment"
    faults 13, 0x28, 1f
    mov eax, TASK
1:  mov ds, eax
    finish

    check gp_ds_dpl, "2B MOV", "MOV DS of a ring 0 segment at CPL 3"
    faults 13, 0x10, 1f
    user
    mov eax, 0x10
1:  mov ds, eax
    finish

    check gp_ds_beyond_gdt, "2B MOV", "MOV DS beyond the limit of the GDT"
    faults 13, 0xfff8, 1f
    mov eax, 0xfff8
1:  mov ds, eax
    finish

    check gp_ds_no_ldt, "2B MOV", "MOV DS of an LDT selector while LDTR is null"
    faults 13, 0xc, 1f
    mov eax, 0xf
1:  mov ds, eax
    finish

    check ds_conforming, "2B MOV", "MOV DS of a readable conforming segment at any CPL"
    descriptor 0x30, 0x0000ffff, 0x00cf9e00
    user
    mov eax, 0x30
    mov ds, eax
    finish

    check ds_null_use, "3A 5.4.1", "an access through a null DS is #GP(0)"
    faults 13, 0, 1f
    xor eax, eax
    mov ds, eax
1:  mov eax, dword ptr [scratch]
    finish

    check accessed_bit, "3A 3.4.5.1", "MOV DS sets the accessed flag of the descriptor"
    descriptor 0x30, 0x0000ffff, 0x00cf9200
    mov eax, 0x30
    mov ds, eax
    mov eax, DATA0
    mov ds, eax
    mov eax, dword ptr [gdt + 0x34]
    equals eax, 0x00cf9300
    finish

    /* ------------------------------------------------------------------------------------- limits and types in use */
    check gp_limit_data, "3A 5.3", "a read beyond the limit of DS is #GP(0)"
    faults 13, 0, 1f
    descriptor 0x30, 0x00000fff, 0x00409200
    mov eax, 0x30
    mov es, eax
1:  mov eax, es:[0x1000]
    finish

    check gp_limit_straddle, "3A 5.3", "a doubleword whose last byte is beyond the limit"
    faults 13, 0, 1f
    descriptor 0x30, 0x00000fff, 0x00409200
    mov eax, 0x30
    mov es, eax
1:  mov eax, es:[0xffd]
    finish

    check gp_expand_down, "3A 5.3", "an expand-down segment: offsets up to the limit are outside"
    faults 13, 0, 1f
    descriptor 0x30, 0x00000fff, 0x00409600
    mov eax, 0x30
    mov es, eax
1:  mov eax, es:[0x800]
    finish

    check gp_write_read_only, "3A 5.5", "a write to a read-only segment is #GP(0)"
    faults 13, 0, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf9000
    mov eax, 0x30
    mov es, eax
1:  mov dword ptr es:[scratch], 1
    finish

    check gp_write_code, "3A 5.5", "a write through CS is #GP(0)"
    faults 13, 0, 1f
1:  mov dword ptr cs:[scratch], 1
    finish

    check ss_limit_push, "3A 6.15 #SS", "a push beyond the limit of SS is #SS(0)"
    faults 12, 0, 1f
    descriptor 0x30, 0x00000fff, 0x00409200
    mov eax, 0x30
    mov ecx, 0x2000
    mov ss, eax
    mov esp, ecx
    push eax
1:  nop
    finish

    check gp_jump_limit, "2A JMP", "a near jump beyond the limit of CS is #GP(0)"
    faults 13, 0, 1f
    descriptor 0x30, 0x0000ffff, 0x00439a00
    mov ecx, 0x00200000
    .byte 0xea
    .long 1f
    .word 0x30
1:  jmp ecx
    finish

    check gp_long_instruction, "2A 2.3.11", "an instruction of more than 15 bytes"
    faults 13, 0, 1f
1:  .fill 15, 1, 0x66
    nop
    finish

    check ac_unaligned, "3A 6.15 #AC", "an unaligned access at CPL 3 with CR0.AM and EFLAGS.AC: #AC(0)"
    faults 17, 0, 1f
    then 2f
    mov eax, cr0
    or eax, 0x40000
    mov cr0, eax
    user 0x40002
1:  mov eax, dword ptr [scratch + 1]
    int DONE
2:  mov eax, cr0
    and eax, ~0x40000
    mov cr0, eax
    conclude

    check ac_not_ring_0, "3A 6.15 #AC", "no #AC at CPL 0"
    then 2f
    mov eax, cr0
    or eax, 0x40000
    mov cr0, eax
    push 0x40002
    popfd
    mov eax, dword ptr [scratch + 1]
    int DONE
2:  mov eax, cr0
    and eax, ~0x40000
    mov cr0, eax
    conclude

    check mf_divide, "3A 6.15 #MF", "an unmasked x87 exception with CR0.NE comes with the next waiting instruction"
    faults 16, 0, 1f
    then 2f
    mov eax, cr0
    or eax, 0x20
    mov cr0, eax
    fninit
    mov word ptr [scratch], 0x037b
    fldcw word ptr [scratch]
    fldz
    fld1
    fdivrp st(1), st
    nop
1:  fwait
    nop
2:  fninit
    conclude

    check mf_not_by_fn, "1 8.7", "instructions that do not wait bring no #MF"
    then 2f
    fninit
    mov word ptr [scratch], 0x037b
    fldcw word ptr [scratch]
    fldz
    fld1
    fdivrp st(1), st
    fnstsw ax
    fnclex
    fwait
    int DONE
2:  fninit
    conclude

    check mf_invalid, "1 8.5.1", "an unmasked invalid operation (stack underflow)"
    faults 16, 0, 1f
    then 2f
    fninit
    mov word ptr [scratch], 0x037e
    fldcw word ptr [scratch]
    fchs
1:  fwait
    nop
2:  fninit
    conclude

    check x87_inexact_flag, "1 8.5.6", "1/3 sets PE"
    fninit
    fld1
    mov dword ptr [scratch], 3
    fidiv dword ptr [scratch]
    fnstsw ax
    and eax, 0x20
    fninit
    equals eax, 0x20
    finish

    check xm_divide, "3A 6.15 #XM", "an unmasked SSE division by zero with CR4.OSXMMEXCPT"
    faults 19, 0, 1f
    then 2f
    mov eax, cr4
    or eax, 0x600
    mov cr4, eax
    mov dword ptr [scratch], 0x1d80
    ldmxcsr dword ptr [scratch]
    mov dword ptr [scratch], 0x3f800000
    movss xmm0, dword ptr [scratch]
    xorps xmm1, xmm1
1:  divss xmm0, xmm1
    nop
2:  mov dword ptr [scratch], 0x1f80
    ldmxcsr dword ptr [scratch]
    conclude

    check ud_without_osxmmexcpt, "3A 6.15 #XM", "the same without CR4.OSXMMEXCPT"
    faults 6, 0, 1f
    then 2f
    mov eax, cr4
    or eax, 0x200
    and eax, ~0x400
    mov cr4, eax
    mov dword ptr [scratch], 0x1d80
    ldmxcsr dword ptr [scratch]
    mov dword ptr [scratch], 0x3f800000
    movss xmm0, dword ptr [scratch]
    xorps xmm1, xmm1
1:  divss xmm0, xmm1
    nop
2:  mov dword ptr [scratch], 0x1f80
    ldmxcsr dword ptr [scratch]
    conclude

    check mxcsr_flags, "1 10.2.3.1", "masked exceptions set their flags in MXCSR: 1/3 is inexact, 1/0 a division by zero"
    mov eax, cr4
    or eax, 0x600
    mov cr4, eax
    mov dword ptr [scratch], 0x1f80
    ldmxcsr dword ptr [scratch]
    mov eax, 1
    cvtsi2ss xmm0, eax
    mov eax, 3
    cvtsi2ss xmm1, eax
    movaps xmm2, xmm0
    divss xmm2, xmm1
    xorps xmm1, xmm1
    divss xmm0, xmm1
    stmxcsr dword ptr [scratch]
    mov eax, dword ptr [scratch]
    equals eax, 0x1fa4
    finish

    check mxcsr_flush_to_zero, "1 10.2.3.3", "MXCSR.FZ: a tiny result is 0, with UE and PE"
    mov dword ptr [scratch], 0x9f80
    ldmxcsr dword ptr [scratch]
    mov dword ptr [scratch], 0x10000000
    movss xmm0, dword ptr [scratch]
    mulss xmm0, xmm0
    movss dword ptr [scratch], xmm0
    mov eax, dword ptr [scratch]
    equals eax, 0
    stmxcsr dword ptr [scratch]
    mov eax, dword ptr [scratch]
    equals eax, 0x9fb0
    mov dword ptr [scratch], 0x1f80
    ldmxcsr dword ptr [scratch]
    finish

    check mf_by_arithmetic, "1 8.6", "an x87 instruction that waits reports a pending exception in front of itself"
    faults 16, 0, 1f
    then 2f
    mov eax, cr0
    or eax, 0x20
    mov cr0, eax
    fninit
    mov word ptr [scratch], 0x037b
    fldcw word ptr [scratch]
    fldz
    fld1
    fdivrp st(1), st
1:  fld1
    nop
2:  fninit
    conclude

    check mf_sqrt, "1 8.5.1.2", "an unmasked invalid operation: the square root of -1; the operand stays"
    faults 16, 0, 1f
    then 2f
    fninit
    mov word ptr [scratch], 0x037e
    fldcw word ptr [scratch]
    fld1
    fchs
    fsqrt
1:  fwait
    nop
2:  fnclex
    fld1
    faddp st(1), st
    fldz
    fcomip st(0), st(1)
    setz al
    movzx eax, al
    fninit
    equals eax, 1
    conclude

    check ud_sse_without_osfxsr, "3A Table 13-1", "SSE with CR4.OSFXSR = 0"
    faults 6, 0, 1f
    mov eax, cr4
    and eax, ~0x600
    mov cr4, eax
1:  xorps xmm0, xmm0
    finish

    check gp_sse_alignment, "2B MOVAPS", "MOVAPS of an unaligned operand is #GP(0)"
    faults 13, 0, 1f
    mov eax, cr4
    or eax, 0x600
    mov cr4, eax
1:  movaps xmm0, [scratch + 1]
    finish

    check gp_mxcsr_reserved, "2A LDMXCSR", "LDMXCSR with a reserved bit"
    faults 13, 0, 1f
    mov dword ptr [scratch], 0x11f80
1:  ldmxcsr dword ptr [scratch]
    finish

    /* ------------------------------------------------------------------------------------- gates */
    check gp_int_dpl, "3A 6.12.1.2", "INT n at CPL 3 through a gate of DPL 0: #GP(n * 8 + 2)"
    faults 13, 0x40 * 8 + 2, 1f
    user
1:  int 0x40
    finish

    check np_gate, "2A INT n", "INT n through a gate that is not present: #NP(n * 8 + 2)"
    faults 11, 0x40 * 8 + 2, 1f
    mov word ptr [idt + 8 * 0x40 + 4], 0x0e00
1:  int 0x40
    finish

    check gp_gate_type, "2A INT n", "INT n through a descriptor that is no gate: #GP(n * 8 + 2)"
    faults 13, 0x40 * 8 + 2, 1f
    mov word ptr [idt + 8 * 0x40 + 4], 0x8c00
1:  int 0x40
    finish

    check gp_gate_null_cs, "2A INT n", "a gate with a null selector: #GP(0)"
    faults 13, 0, 1f
    mov word ptr [idt + 8 * 0x40 + 2], 0
1:  int 0x40
    finish

    check gp_gate_data_cs, "2A INT n", "a gate to a data segment: #GP(selector)"
    faults 13, 0x10, 1f
    mov word ptr [idt + 8 * 0x40 + 2], DATA0
1:  int 0x40
    finish

    check gp_gate_outer, "2A INT n", "a gate to a less privileged code segment: #GP(selector)"
    faults 13, 0x18, 1f
    mov word ptr [idt + 8 * 0x40 + 2], CODE3
1:  int 0x40
    finish

    check np_gate_segment, "2A INT n", "a gate to a code segment that is not present: #NP(selector)"
    faults 11, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf1a00
    mov word ptr [idt + 8 * 0x40 + 2], 0x30
1:  int 0x40
    finish

    check gp_idt_limit, "2A INT n", "a vector beyond the limit of the IDT: #GP(n * 8 + 2)"
    faults 13, 0x40 * 8 + 2, 1f
    mov word ptr [scratch], 0x1ff
    mov dword ptr [scratch + 2], offset idt
    lidt [scratch]
1:  int 0x40
    finish

    check interrupt_gate_if, "3A 6.12.1.3", "an interrupt gate clears IF, a trap gate does not; both clear TF, NT and RF"
    mov word ptr [idt + 8 * 0x40 + 4], 0x8f00
    gate 0x40, CODE0, 3f, 0x8f00
    gate 0x41, CODE0, 4f, 0x8e00
    push 0x4202
    popfd
    int 0x40
    cli
    jmp 2f
3:  pushfd
    pop eax
    and eax, 0x4200
    mov dword ptr [scratch], eax
    int 0x41
    iretd
4:  pushfd
    pop eax
    and eax, 0x4200
    mov dword ptr [scratch + 4], eax
    iretd
2:  mov eax, dword ptr [scratch]
    equals eax, 0x200
    mov eax, dword ptr [scratch + 4]
    equals eax, 0
    push 2
    popfd
    finish

    check gate_16_bit, "3A 6.11, 2A INT n", "a 16-bit gate pushes words"
    mov dword ptr [scratch], 0
    jmp 3f
    .balign 16
4:  mov ecx, esp
    jmp 5f
3:  descriptor 0x30, 0x0000ffff, 0x00409a00
    address_eax 4b
    mov word ptr [gdt + 0x32], ax
    shr eax, 16
    mov byte ptr [gdt + 0x34], al
    mov byte ptr [gdt + 0x37], ah
    mov dword ptr [idt + 8 * 0x40], 0x00300000
    mov dword ptr [idt + 8 * 0x40 + 4], 0x00008600
    mov ebp, esp
    int 0x40
5:  sub ebp, ecx
    mov esp, offset kernel_stack - 64
    .byte 0xea
    .long 2f
    .word CODE0
2:  equals ebp, 6
    finish

    check user_stack_switch, "3A 6.12.1", "an interrupt from ring 3 pushes SS, ESP, EFLAGS, CS, EIP on the stack of the TSS"
    then 2f
    user
    int DONE
2:  mov eax, dword ptr [got_frame_esp]
    address_equals inner_stack-28
    mov eax, dword ptr [got_cs]
    equals eax, CODE3
    mov eax, dword ptr [got_ss]
    equals eax, DATA3
    mov eax, dword ptr [got_esp]
    address_equals user_stack
    conclude

    check ts_null_ss, "2A INT n", "an inner stack of a null selector: #TS(0)"
    faults 10, 0, 1f
    mov dword ptr [tss + 12], offset inner_stack - 1024
    mov dword ptr [tss + 16], 0
    gate 0x40, CODE1, stubs, 0xee00
    user
1:  int 0x40
    finish

    check gate_to_ring_1, "3A 6.12.1", "a gate to ring 1 takes SS1 and ESP1"
    then 2f
    mov dword ptr [tss + 12], offset inner_stack - 1024
    mov dword ptr [tss + 16], DATA1
    gate 0x40, CODE1, 3f, 0xee00
    user
    int 0x40
3:  mov ebx, esp
    mov eax, cs
    mov ecx, eax
    mov eax, DATA1
    mov ds, eax
    mov dword ptr [scratch], ecx
    mov dword ptr [scratch + 4], ebx
    int DONE
2:  mov eax, dword ptr [scratch]
    equals eax, CODE1
    mov eax, dword ptr [scratch + 4]
    address_equals inner_stack-1024-20
    conclude

    check ts_ss_not_writable, "2A INT n", "an inner stack segment that is read-only: #TS(selector)"
    faults 10, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cfb000
    mov word ptr [tss + 16], 0x31
    mov dword ptr [tss + 12], offset inner_stack - 1024
    gate 0x40, CODE1, stubs, 0xee00
    user
1:  int 0x40
    finish

    check ss_inner_not_present, "2A INT n", "an inner stack segment that is not present: #SS(selector)"
    faults 12, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf3200
    mov word ptr [tss + 16], 0x31
    mov dword ptr [tss + 12], offset inner_stack - 1024
    gate 0x40, CODE1, stubs, 0xee00
    user
1:  int 0x40
    finish

    check df_benign_contributory, "3A Table 6-5", "#NP while #GP is delivered is a double fault with error code 0"
    faults 8, 0
    mov word ptr [idt + 8 * 13 + 4], 0x0e00
    user
    hlt
    finish

    check df_not_for_benign, "3A Table 6-5", "#NP while #UD is delivered is delivered itself, with EXT"
    faults 11, 6 * 8 + 3, 1f
    mov word ptr [idt + 8 * 6 + 4], 0x0e00
1:  ud2
    finish

    check gp_ext, "3A 6.13", "EXT is 1 when an exception's gate is bad"
    faults 13, 6 * 8 + 3, 1f
    mov word ptr [idt + 8 * 6 + 4], 0x8c00
1:  ud2
    finish

    check ext_clear_int, "3A 6.13", "EXT is 0 when INT n's gate is bad"
    faults 13, 6 * 8 + 2, 1f
    mov word ptr [idt + 8 * 6 + 4], 0x8c00
1:  int 6
    finish

    check rf_in_fault_image, "3B 18.3.1.1", "the image of EFLAGS of a fault has RF set"
    faults 6, 0, 1f
    then 2f
1:  ud2
2:  mov eax, dword ptr [got_eflags]
    and eax, 0x10000
    equals eax, 0x10000
    conclude

    check rf_not_for_int, "3B 18.3.1.1", "the image of EFLAGS of INT n has RF clear"
    then 2f
    int DONE
2:  mov eax, dword ptr [got_eflags]
    and eax, 0x10000
    equals eax, 0
    conclude

    /* ------------------------------------------------------------------------------------- privilege */
.macro privileged id, section, title, code:vararg
    check \id, "\section", "\title"
    faults 13, 0, 1f
    user
1:  \code
    finish
.endm
    privileged gp_hlt, "2A HLT", "HLT at CPL 3", hlt
    privileged gp_cli, "2A CLI", "CLI at CPL 3 with IOPL 0", cli
    privileged gp_sti, "2B STI", "STI at CPL 3 with IOPL 0", sti
    privileged gp_clts, "2A CLTS", "CLTS at CPL 3", clts
    privileged gp_invd, "2A INVD", "INVD at CPL 3", invd
    privileged gp_wbinvd, "2B WBINVD", "WBINVD at CPL 3", wbinvd
    privileged gp_invlpg, "2A INVLPG", "INVLPG at CPL 3", invlpg [eax]
    privileged gp_lgdt, "2A LGDT", "LGDT at CPL 3", lgdt [gdtr]
    privileged gp_lidt, "2A LGDT", "LIDT at CPL 3", lidt [idtr]
    privileged gp_lldt, "2A LLDT", "LLDT at CPL 3", lldt ax
    privileged gp_ltr, "2A LTR", "LTR at CPL 3", ltr ax
    privileged gp_lmsw, "2A LMSW", "LMSW at CPL 3", lmsw ax
    privileged gp_mov_cr0, "2B MOV", "MOV from CR0 at CPL 3", mov eax, cr0
    privileged gp_mov_to_cr3, "2B MOV", "MOV to CR3 at CPL 3", mov cr3, eax
    privileged gp_mov_dr, "2B MOV", "MOV from DR7 at CPL 3", mov eax, dr7
    privileged gp_rdmsr, "2B RDMSR", "RDMSR at CPL 3", rdmsr
    privileged gp_wrmsr, "2B WRMSR", "WRMSR at CPL 3", wrmsr
    privileged gp_in, "2A IN", "IN of a port that the bitmap denies", in al, 0x80
    privileged gp_out, "2B OUT", "OUT to a port that the bitmap denies", out 0x80, al

    check popf_iopl, "2B POPF", "POPF at CPL 3 changes neither IF nor IOPL, and does not fault"
    user
    push 0x3202
    popfd
    pushfd
    pop eax
    and eax, 0x3200
    equals_user eax, 0
    finish

    check iopl_3_cli, "3A 5.9", "CLI and STI at CPL 3 with IOPL 3"
    user 0x3002
    sti
    pushfd
    pop eax
    and eax, 0x200
    cli
    equals_user eax, 0x200
    finish

    check iopl_3_out, "1 19.5.1", "OUT at CPL 3 with IOPL 3 asks no bitmap"
    user 0x3002
    out 0x80, al
    finish

    check io_map_allows, "1 19.5.2", "OUT of a port whose bit is 0"
    then 2f
    and byte ptr [io_map + 0x80 / 8], ~1
    user
    out 0x80, al
    int DONE
2:  or byte ptr [io_map + 0x80 / 8], 1
    conclude

    check io_map_all_bits, "1 19.5.2", "a doubleword needs four bits"
    faults 13, 0, 1f
    then 2f
    and byte ptr [io_map + 0x80 / 8], ~7
    user
1:  out 0x80, eax
    int DONE
2:  or byte ptr [io_map + 0x80 / 8], 7
    conclude

    check io_map_outside, "1 19.5.2", "a bitmap beyond the limit of the TSS denies"
    faults 13, 0, 1f
    then 2f
    and byte ptr [io_map + 0x80 / 8], ~1
    mov word ptr [tss + 102], 0xffff
    user
1:  out 0x80, al
    int DONE
2:  or byte ptr [io_map + 0x80 / 8], 1
    mov word ptr [tss + 102], 104
    conclude

    /* ------------------------------------------------------------------------------------- control registers, MSRs */
    check gp_cr0_pg_without_pe, "2B MOV", "CR0.PG without PE"
    faults 13, 0, 1f
    mov eax, 0x80000010
1:  mov cr0, eax
    finish

    check gp_cr0_nw_without_cd, "2B MOV", "CR0.NW without CD"
    faults 13, 0, 1f
    mov eax, cr0
    or eax, 0x20000000
    and eax, 0xbfffffff
1:  mov cr0, eax
    finish

    check gp_cr4_reserved, "2B MOV", "a reserved bit of CR4"
    faults 13, 0, 1f
    mov eax, cr4
    or eax, 0x80000000
1:  mov cr4, eax
    finish

    check cr0_et, "3A 2.5", "CR0.ET is 1, whatever is written"
    mov eax, cr0
    and eax, ~0x10
    mov cr0, eax
    mov eax, cr0
    and eax, 0x10
    equals eax, 0x10
    finish

    check lmsw_pe, "2A LMSW", "LMSW does not clear PE"
    mov eax, cr0
    and eax, ~1
    lmsw ax
    mov eax, cr0
    and eax, 1
    equals eax, 1
    finish

    check gp_rdmsr_unknown, "2B RDMSR", "RDMSR of an MSR that does not exist"
    faults 13, 0, 1f
    mov ecx, 0x12345678
1:  rdmsr
    finish

    check gp_wrmsr_unknown, "2B WRMSR", "WRMSR of an MSR that does not exist"
    faults 13, 0, 1f
    mov ecx, 0x12345678
1:  wrmsr
    finish

    check gp_efer_reserved, "2B WRMSR", "a reserved bit of IA32_EFER"
    faults 13, 0, 1f
    mov ecx, 0xc0000080
    rdmsr
    or edx, 1
1:  wrmsr
    finish

    check gp_rdtsc_tsd, "2B RDTSC", "RDTSC at CPL 3 with CR4.TSD"
    faults 13, 0, 1f
    then 2f
    mov eax, cr4
    or eax, 4
    mov cr4, eax
    user
1:  rdtsc
    int DONE
2:  mov eax, cr4
    and eax, ~4
    mov cr4, eax
    conclude

    check umip_sgdt, "3A 2.5 (UMIP)", "SGDT at CPL 3 with CR4.UMIP"
    faults 13, 0, 1f
    then 2f
    mov eax, cr4
    or eax, 0x800
    mov cr4, eax
    user
1:  sgdt [scratch]
    int DONE
2:  mov eax, cr4
    and eax, ~0x800
    mov cr4, eax
    conclude

    check umip_smsw, "3A 2.5 (UMIP)", "SMSW at CPL 3 with CR4.UMIP"
    faults 13, 0, 1f
    then 2f
    mov eax, cr4
    or eax, 0x800
    mov cr4, eax
    user
1:  smsw eax
    int DONE
2:  mov eax, cr4
    and eax, ~0x800
    mov cr4, eax
    conclude

    check no_umip_str, "2B STR", "STR at CPL 3 without CR4.UMIP"
    user
    str eax
    finish

    /* ------------------------------------------------------------------------------------- debug registers */
    check db_execute, "3B 18.3.1.1", "an instruction breakpoint is a fault in front of its instruction, with DR6.B0"
    faults 1, 0, 1f
    then 2f
    xor eax, eax
    mov dr6, eax
    address_eax 1f
    mov dr0, eax
    mov eax, 0x401
    mov dr7, eax
    nop
1:  nop
    int DONE
2:  mov eax, dr6
    and eax, 1
    equals eax, 1
    mov eax, 0x400
    mov dr7, eax
    conclude

    check db_execute_rf, "3B 18.3.1.1", "RF set by IRET keeps an instruction breakpoint from striking once"
    then 2f
    address_eax 1f
    mov dr0, eax
    mov eax, 0x401
    mov dr7, eax
    push 0x10002
    push CODE0
    push_address 1f
    iretd
1:  nop
    int DONE
2:  mov eax, 0x400
    mov dr7, eax
    conclude

    check db_write, "3B 18.3.1.2", "a data breakpoint on writes is a trap behind the store, with DR6.B1"
    faults 1, 0, 1f
    then 2f
    xor eax, eax
    mov dr6, eax
    mov eax, offset scratch + 8
    mov dr1, eax
    mov eax, 0x00d00404
    mov dr7, eax
    mov dword ptr [scratch + 8], 5
1:  nop
    int DONE
2:  mov eax, dr6
    and eax, 2
    equals eax, 2
    mov eax, 0x400
    mov dr7, eax
    conclude

    check db_read, "3B 18.3.1.2", "a data breakpoint on reads and writes"
    faults 1, 0, 1f
    then 2f
    mov eax, offset scratch + 8
    mov dr1, eax
    mov eax, 0x00f00404
    mov dr7, eax
    mov ecx, dword ptr [scratch + 8]
1:  nop
    int DONE
2:  mov eax, 0x400
    mov dr7, eax
    conclude

    check db_general_detect, "3B 18.2.4", "DR7.GD: MOV DR is #DB in front of it, with DR6.BD; GD is then clear"
    faults 1, 0, 1f
    then 2f
    xor eax, eax
    mov dr6, eax
    mov eax, 0x2400
    mov dr7, eax
1:  mov eax, dr0
    int DONE
2:  mov eax, dr7
    and eax, 0x2000
    equals eax, 0
    mov eax, dr6
    and eax, 0x2000
    equals eax, 0x2000
    mov eax, 0x400
    mov dr7, eax
    conclude

    check ud_dr4_de, "3B 18.2.2", "MOV DR4 with CR4.DE"
    faults 6, 0, 1f
    then 2f
    mov eax, cr4
    or eax, 8
    mov cr4, eax
1:  .byte 0x0f, 0x21, 0xe0
    int DONE
2:  mov eax, cr4
    and eax, ~8
    mov cr4, eax
    conclude

    check dr4_alias, "3B 18.2.2", "DR4 is DR6 without CR4.DE"
    mov eax, 0xffff0ff1
    mov dr6, eax
    .byte 0x0f, 0x21, 0xe0
    equals eax, 0xffff0ff1
    finish

    /* ------------------------------------------------------------------------------------- shadows */
    check shadow_mov_ss_tf, "3A 6.8.3", "MOV SS keeps the single-step trap for one instruction"
    faults 1, 0, 1f
    mov ecx, ss
    push 0x102
    popfd
    mov ss, ecx
    nop
1:  nop
    finish

    check shadow_sti_nop_tf, "2B STI", "STI keeps no single-step trap"
    faults 1, 0, 1f
    then 2f
    push 0x102
    popfd
    sti
1:  cli
    nop
2:  cli
    conclude

    check pushf_vm_rf, "2B PUSHF", "PUSHF stores VM and RF as 0"
    pushfd
    pop eax
    and eax, 0x30000
    equals eax, 0
    finish

    check eflags_bit_1, "1 3.4.3", "bit 1 of EFLAGS is 1, bits 3, 5 and 15 are 0"
    push 0x80280000 | 0x8028
    popfd
    pushfd
    pop eax
    push 2
    popfd
    and eax, 0x802a
    equals eax, 2
    finish
    jmp report
