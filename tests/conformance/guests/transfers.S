/* transfers: far JMP, CALL, RET and IRET, call gates, SYSENTER and SYSEXIT in 32-bit protected mode; paging is off. */
#include "frame32.h"

.macro far_jump selector, target=0
    .byte 0xea
    .long \target
    .word \selector
.endm

.macro far_call selector, target=0
    .byte 0x9a
    .long \target
    .word \selector
.endm

.macro call_gate selector, code, target, kind=0xec00
    address_eax \target
    mov word ptr [gdt + (\selector & ~7)], ax
    shr eax, 16
    mov word ptr [gdt + (\selector & ~7) + 6], ax
    mov word ptr [gdt + (\selector & ~7) + 2], \code
    mov word ptr [gdt + (\selector & ~7) + 4], \kind
.endm

/* A segment that begins at a label. */
.macro descriptor_at selector, label, high
    descriptor \selector, 0x0000ffff, \high
    address_eax \label
    mov word ptr [gdt + (\selector & ~7) + 2], ax
    shr eax, 16
    mov byte ptr [gdt + (\selector & ~7) + 4], al
    mov byte ptr [gdt + (\selector & ~7) + 7], ah
.endm

.macro wrmsr_value number, value
    mov ecx, \number
    mov eax, \value
    xor edx, edx
    wrmsr
.endm

    .set LINKED, 0xffff
    .set CODE_NEW, 0x00cf9a00           /* as a descriptor's high half */
checks:
    /* ------------------------------------------------------------------------------------- far JMP */
    check jmp_far, "2A JMP", "far JMP to a code segment of the same privilege"
    far_jump CODE0, 1f
    ud2
1:  finish

    check jmp_far_accessed, "3A 3.4.5.1", "a transfer sets the accessed flag of the code segment"
    descriptor 0x30, 0x0000ffff, CODE_NEW
    far_jump 0x30, 1f
1:  holds_byte gdt+0x35, 0x9b
    finish

    check gp_jmp_null, "2A JMP", "far JMP to a null selector: #GP(0)"
    faults 13, 0, 1f
1:  far_jump 3, 1b
    finish

    check gp_jmp_data, "2A JMP", "far JMP to a data segment: #GP(selector)"
    faults 13, 0x10, 1f
1:  far_jump DATA0, 1b
    finish

    check gp_jmp_beyond_gdt, "2A JMP", "far JMP beyond the limit of the GDT: #GP(selector)"
    faults 13, 0xfff8, 1f
1:  far_jump 0xfff8, 1b
    finish

    check gp_jmp_outer, "2A JMP", "far JMP to a less privileged code segment: #GP(selector)"
    faults 13, 0x18, 1f
1:  far_jump 0x18, 1b
    finish

    check gp_jmp_rpl, "2A JMP", "far JMP to a nonconforming segment with RPL > CPL: #GP(selector)"
    faults 13, 8, 1f
1:  far_jump 0x0b, 1b
    finish

    check gp_jmp_inner, "2A JMP", "far JMP to a more privileged nonconforming segment: #GP(selector)"
    faults 13, 8, 1f
    user
1:  far_jump CODE0, 1b
    finish

    check np_jmp, "2A JMP", "far JMP to a code segment that is not present: #NP(selector)"
    faults 11, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf1a00
1:  far_jump 0x30, 1b
    finish

    check gp_before_np, "2A JMP", "privilege is checked before presence"
    faults 13, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf7a00
1:  far_jump 0x30, 1b
    finish

    check gp_jmp_beyond_limit, "2A JMP", "far JMP beyond the limit of the new segment: #GP(0)"
    faults 13, 0, 1f
    descriptor 0x30, 0x00000fff, 0x00409a00
1:  far_jump 0x30, 0x1000
    finish

    check jmp_conforming, "3A 5.8.1.2", "a conforming segment runs at the caller's CPL"
    then 2f
    descriptor 0x30, 0x0000ffff, 0x00cf9e00
    user
    far_jump 0x30, 1f
1:  int DONE
2:  holds got_cs, 0x33
    conclude

    check gp_jmp_conforming_outer, "3A 5.8.1.2", "a conforming segment whose DPL is above CPL: #GP(selector)"
    faults 13, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cffe00
1:  far_jump 0x30, 1b
    finish

    check jmp_indirect, "2A JMP", "far JMP through memory (FF /5)"
    store_address scratch, 1f
    mov word ptr [scratch + 4], CODE0
    .byte 0xff, 0x2d
    .long scratch
    ud2
1:  finish

    check ud_jmp_register, "2A JMP", "FF /5 with a register operand: #UD"
    faults 6, 0, 1f
1:  .byte 0xff, 0xe8
    finish

    /* ------------------------------------------------------------------------------------- far CALL and RET */
    check call_far, "2A CALL", "far CALL pushes CS and EIP"
    mov ebx, esp
    far_call CODE0, 1f
3:  ud2
1:  pop eax
    address_equals 3b
    pop eax
    and eax, 0xffff
    equals eax, CODE0
    equals esp, ebx
    finish

    check call_far_16, "2A CALL", "far CALL with 16-bit operands pushes CS and IP as words"
    mov ebx, esp
    descriptor_at 0x30, 1f, 0x00409a00
    .byte 0x66, 0x9a
    .word 0, 0x30
    ud2
1:  sub ebx, esp
    equals ebx, 4
    mov ax, word ptr [esp + 2]
    and eax, 0xffff
    equals eax, CODE0
    far_jump CODE0, 1f
1:  finish

    check gp_call_data, "2A CALL", "far CALL to a data segment: #GP(selector), nothing is pushed"
    faults 13, 0x10, 1f
    then 2f
    mov ebx, esp
1:  far_call DATA0, 1b
    ud2
2:  mov eax, dword ptr [got_ebx]
    equals_place eax, got_esp
    conclude

    check ret_far, "2B RET", "far RET"
    mov ebx, esp
    push CODE0
    push_address 1f
    retf
    ud2
1:  equals esp, ebx
    finish

    check ret_far_immediate, "2B RET", "far RET 8 releases eight bytes more"
    mov ebx, esp
    push 1
    push 2
    push CODE0
    push_address 1f
    retf 8
    ud2
1:  equals esp, ebx
    finish

    check ret_outer, "2B RET", "far RET to ring 3 takes SS:ESP from the stack"
    then 2f
    push DATA3
    push 0x1230
    push CODE3
    push_address 1f
    retf
1:  int DONE
2:  holds got_cs, CODE3
    holds got_esp, 0x1230
    holds got_ss, DATA3
    conclude

    check ret_outer_immediate, "2B RET", "far RET 8 to ring 3 releases eight bytes of both stacks"
    then 2f
    push DATA3
    push 0x1230
    push 0
    push 0
    push CODE3
    push_address 1f
    retf 8
1:  int DONE
2:  holds got_esp, 0x1238
    conclude

    check ret_outer_clears_segments, "2B RET", "data segments that ring 3 may not use become null"
    then 2f
    mov eax, DATA3
    mov es, eax
    push DATA3
    push_address user_stack
    push CODE3
    push_address 1f
    retf
1:  mov ebx, ds
    shl ebx, 16
    mov eax, es
    mov bx, ax
    int DONE
2:  holds got_ebx, DATA3
    conclude

    check gp_ret_inner, "2B RET", "far RET to an inner ring: #GP(selector)"
    faults 13, 8, 1f
    user
    push CODE0
    push_address 1f
1:  retf
    finish

    check gp_ret_null, "2B RET", "far RET to a null selector: #GP(0)"
    faults 13, 0, 1f
    push 0
    push_address 1f
1:  retf
    finish

    check gp_ret_data, "2B RET", "far RET to a data segment: #GP(selector)"
    faults 13, 0x10, 1f
    push DATA0
    push_address 1f
1:  retf
    finish

    check np_ret, "2B RET", "far RET to a segment that is not present: #NP(selector)"
    faults 11, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf1a00
    push 0x30
    push_address 1f
1:  retf
    finish

    check gp_ret_null_ss, "2B RET", "far RET to ring 3 with a null SS: #GP(0)"
    faults 13, 0, 1f
    push 0
    push 0
    push CODE3
    push_address 1f
1:  retf
    finish

    check gp_ret_ss_rpl, "2B RET", "far RET to ring 3 with an SS of another RPL: #GP(selector)"
    faults 13, 0x20, 1f
    push 0x20
    push 0
    push CODE3
    push_address 1f
1:  retf
    finish

    check gp_ret_ss_type, "2B RET", "far RET to ring 3 with a read-only SS: #GP(selector)"
    faults 13, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cff000
    push 0x33
    push 0
    push CODE3
    push_address 1f
1:  retf
    finish

    check ss_ret_not_present, "2B RET", "far RET to ring 3 with an SS that is not present: #SS(selector)"
    faults 12, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf7200
    push 0x33
    push 0
    push CODE3
    push_address 1f
1:  retf
    finish

    /* ------------------------------------------------------------------------------------- call gates */
    check gate_same, "3A 5.8.3", "CALL through a gate to the same ring; its own offset does not count"
    call_gate 0x30, CODE0, 1f
    mov ebx, esp
    far_call 0x30, 0x12345678
3:  ud2
1:  sub ebx, esp
    equals ebx, 8
    pop eax
    address_equals 3b
    finish

    check gate_jmp, "3A 5.8.3", "JMP through a gate to the same ring"
    call_gate 0x30, CODE0, 1f
    far_jump 0x30
    ud2
1:  finish

    check gate_inner, "3A 5.8.5", "CALL through a gate to ring 0: the stack of the TSS, with SS, ESP, CS, EIP"
    then 2f
    call_gate 0x30, CODE0, 1f
    user
    far_call 0x33
3:  ud2
1:  mov ebx, esp
    mov ecx, DATA0
    mov ds, ecx
    mov eax, [esp]
    address_equals 3b
    int DONE
2:  holds got_cs, CODE0
    holds got_ss, DATA0
    mov eax, dword ptr [got_ebx]
    address_equals inner_stack-16
    mov eax, dword ptr [inner_stack - 12]
    and eax, 0xffff
    equals eax, CODE3
    mov eax, dword ptr [inner_stack - 8]
    address_equals user_stack
    mov eax, dword ptr [inner_stack - 4]
    and eax, 0xffff
    equals eax, DATA3
    conclude

    check gate_parameters, "3A 5.8.5", "a gate's parameters are copied to the inner stack"
    then 2f
    call_gate 0x30, CODE0, 1f, 0xec02
    user
    push 0x11111111
    push 0x22222222
    far_call 0x33
    ud2
1:  mov ebx, esp
    int DONE
2:  mov eax, dword ptr [got_ebx]
    address_equals inner_stack-24
    holds inner_stack-16, 0x22222222
    holds inner_stack-12, 0x11111111
    conclude

    check gate_return, "3A 5.8.6", "RET n through the frame of a gate gives both stacks back"
    then 2f
    call_gate 0x30, CODE0, 1f, 0xec02
    user
    push 1
    push 2
    far_call 0x33
    mov ebx, esp
    int DONE
1:  retf 8
2:  mov eax, dword ptr [got_ebx]
    address_equals user_stack
    holds got_cs, CODE3
    conclude

    check gate_16, "3A 5.8.3", "a 16-bit call gate pushes words"
    descriptor_at 0x38, 1f, 0x00409a00
    descriptor 0x30, 0x00380000, 0x00008400
    mov ebx, esp
    far_call 0x30
    ud2
1:  sub ebx, esp
    equals ebx, 4
    far_jump CODE0, 1f
1:  finish

    check gate_conforming, "3A 5.8.3", "CALL through a gate to a conforming segment does not change CPL or stack"
    then 2f
    descriptor 0x38, 0x0000ffff, 0x00cf9e00
    call_gate 0x30, 0x38, 1f
    user
    far_call 0x33
    ud2
1:  int DONE
2:  holds got_cs, 0x3b
    holds got_ss, DATA3
    conclude

    check gp_call_gate_dpl, "3A 5.8.4", "a gate whose DPL is below CPL: #GP(gate)"
    faults 13, 0x30, 1f
    call_gate 0x30, CODE0, 1f, 0x8c00
    user
1:  far_call 0x30
    finish

    check gp_call_gate_rpl, "3A 5.8.4", "a gate whose DPL is below the selector's RPL: #GP(gate)"
    faults 13, 0x30, 1f
    call_gate 0x30, CODE0, 1f, 0x8c00
1:  far_call 0x33
    finish

    check np_call_gate, "2A CALL", "a gate that is not present: #NP(gate)"
    faults 11, 0x30, 1f
    call_gate 0x30, CODE0, 1f, 0x6c00
1:  far_call 0x30
    finish

    check gp_call_gate_null, "2A CALL", "a gate with a null selector: #GP(0)"
    faults 13, 0, 1f
    call_gate 0x30, 0, 1f
1:  far_call 0x30
    finish

    check gp_call_gate_data, "2A CALL", "a gate to a data segment: #GP(target)"
    faults 13, 0x10, 1f
    call_gate 0x30, DATA0, 1f
1:  far_call 0x30
    finish

    check gp_call_gate_outer, "2A CALL", "a gate to an outer ring: #GP(target)"
    faults 13, 0x18, 1f
    call_gate 0x30, CODE3, 1f
1:  far_call 0x30
    finish

    check np_call_gate_target, "2A CALL", "a gate to a segment that is not present: #NP(target)"
    faults 11, 0x38, 1f
    descriptor 0x38, 0x0000ffff, 0x00cf1a00
    call_gate 0x30, 0x38, 1f
1:  far_call 0x30
    finish

    check gp_jmp_gate_inner, "3A 5.8.4", "JMP through a gate to an inner nonconforming segment: #GP(target)"
    faults 13, 8, 1f
    call_gate 0x30, CODE0, 1f
    user
1:  far_jump 0x33
    finish

    check gp_call_system, "2A CALL", "CALL to an LDT descriptor: #GP(selector)"
    faults 13, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00008200
1:  far_call 0x30
    finish

    check gp_call_interrupt_gate, "2A CALL", "CALL to an interrupt gate: #GP(selector)"
    faults 13, 0x30, 1f
    call_gate 0x30, CODE0, 1f, 0xee00
1:  far_call 0x30
    finish

    /* A bad stack of ring 1: one of ring 0 would not let the exception in, either. */
    check ts_gate_null_ss, "2A CALL", "a gate to a ring whose SS in the TSS is null: #TS(0)"
    faults 10, 0, 1f
    call_gate 0x30, CODE1 & ~3, 1f
    mov dword ptr [tss + 12], offset inner_stack
    mov dword ptr [tss + 16], 0
    user
1:  far_call 0x33
    finish

    check ts_gate_ss_rpl, "2A CALL", "a gate to a ring whose SS has another RPL: #TS(SS)"
    faults 10, 0x88, 1f
    call_gate 0x30, CODE1 & ~3, 1f
    mov dword ptr [tss + 16], DATA1 & ~3
    user
1:  far_call 0x33
    finish

    check ts_gate_ss_type, "2A CALL", "a gate to a ring whose SS is read-only: #TS(SS)"
    faults 10, 0x38, 1f
    call_gate 0x30, CODE1 & ~3, 1f
    descriptor 0x38, 0x0000ffff, 0x00cfb000
    mov dword ptr [tss + 16], 0x39
    user
1:  far_call 0x33
    finish

    check ss_gate_not_present, "2A CALL", "a gate to a ring whose SS is not present: #SS(SS)"
    faults 12, 0x38, 1f
    call_gate 0x30, CODE1 & ~3, 1f
    descriptor 0x38, 0x0000ffff, 0x00cf3200
    mov dword ptr [tss + 16], 0x39
    user
1:  far_call 0x33
    finish

    check gate_to_ring_1_by_call, "3A 5.8.5", "CALL through a gate from ring 3 to ring 1"
    then 2f
    call_gate 0x30, CODE1 & ~3, 1f
    mov dword ptr [tss + 12], offset inner_stack
    mov dword ptr [tss + 16], DATA1
    user
    far_call 0x33
1:  mov ebx, ss
    int DONE
2:  holds got_cs, CODE1
    holds got_ebx, DATA1
    conclude

    /* ------------------------------------------------------------------------------------- IRET */
    check iret_same, "2A IRET", "IRET to the same ring pops three doublewords"
    mov ebx, esp
    push 2
    push CODE0
    push_address 1f
    iretd
    ud2
1:  equals esp, ebx
    finish

    check iret_16, "2A IRET", "IRET with 16-bit operands pops three words"
    mov ebx, esp
    descriptor_at 0x30, 1f, 0x00409a00
    .byte 0x66, 0x6a, 2, 0x66, 0x6a, 0x30, 0x66, 0x6a, 0, 0x66, 0xcf
    ud2
1:  equals esp, ebx
    far_jump CODE0, 1f
1:  finish

    check iret_keeps_iopl, "2A IRET", "IRET at CPL 3 changes neither IOPL nor IF nor VM"
    then 2f
    user
    push 0x23202
    push CODE3
    push_address 1f
    iretd
1:  int DONE
2:  and dword ptr [got_eflags], 0x23200
    holds got_eflags, 0
    conclude

    check gp_iret_inner, "2A IRET", "IRET to an inner ring: #GP(selector)"
    faults 13, 8, 1f
    user
    push 2
    push CODE0
    push_address 1f
1:  iretd
    finish

    check gp_iret_null, "2A IRET", "IRET to a null selector: #GP(0)"
    faults 13, 0, 1f
    push 2
    push 0
    push_address 1f
1:  iretd
    finish

    check np_iret, "2A IRET", "IRET to a segment that is not present: #NP(selector)"
    faults 11, 0x30, 1f
    descriptor 0x30, 0x0000ffff, 0x00cf1a00
    push 2
    push 0x30
    push_address 1f
1:  iretd
    finish

    check gp_iret_beyond_limit, "2A IRET", "IRET beyond the limit of CS: #GP(0)"
    faults 13, 0, 1f
    descriptor 0x30, 0x00000fff, 0x00409a00
    push 2
    push 0x30
    push 0x1000
1:  iretd
    finish

    check gp_iret_ss_rpl, "2A IRET", "IRET to ring 3 with an SS of another RPL: #GP(selector)"
    faults 13, 0x20, 1f
    push 0x20
    push 0
    push 2
    push CODE3
    push_address 1f
1:  iretd
    finish

    check ts_iret_nt_null, "2A IRET", "IRET with NT and no task to return to: #TS(0)"
    faults 10, 0, 1f
    mov dword ptr [tss], 0
    push 0x4002
    popfd
1:  iretd
    finish

    check ts_iret_nt_available, "2A IRET", "IRET with NT to a TSS that is not busy: #TS(selector)"
    faults 10, 0x30, 1f
    mov dword ptr [tss], 0x30
    descriptor 0x30, 0x00000067, 0x00008900
    push 0x4002
    popfd
1:  iretd
    finish

    /* ------------------------------------------------------------------------------------- SYSENTER and SYSEXIT */
    check sysenter, "2B SYSENTER", "SYSENTER: CS, SS, ESP and EIP of the MSRs, IF clear"
    then 2f
    wrmsr_value 0x174, CODE0
    wrmsr_value 0x175, 0x8000
    mov ecx, 0x176
    address_eax 1f
    xor edx, edx
    wrmsr
    mov esp, 0x8000
    user 0x202
    sysenter
    ud2
1:  mov ebx, esp
    int DONE
2:  holds got_cs, CODE0
    holds got_ss, DATA0
    holds got_ebx, 0x8000
    and dword ptr [got_eflags], 0x200
    holds got_eflags, 0
    conclude

    check gp_sysenter_null, "2B SYSENTER", "SYSENTER with a null IA32_SYSENTER_CS: #GP(0)"
    faults 13, 0, 1f
    wrmsr_value 0x174, 3
    user
1:  sysenter
    finish

    check sysexit, "2B SYSEXIT", "SYSEXIT: to ring 3 at EDX, with ECX as ESP"
    then 2f
    wrmsr_value 0x174, CODE0
    mov ecx, 0x1230
    address_eax 1f
    mov edx, eax
    sysexit
    ud2
1:  int DONE
2:  holds got_cs, CODE3
    holds got_ss, DATA3
    holds got_esp, 0x1230
    conclude

    check gp_sysexit_user, "2B SYSEXIT", "SYSEXIT at CPL 3: #GP(0)"
    faults 13, 0, 1f
    wrmsr_value 0x174, CODE0
    user
1:  sysexit
    finish

    check gp_sysexit_null, "2B SYSEXIT", "SYSEXIT with a null IA32_SYSENTER_CS: #GP(0)"
    faults 13, 0, 1f
    wrmsr_value 0x174, 0
1:  sysexit
    finish
    jmp report
