/* tasks: task switches by JMP, CALL, IRET and task gates in 32-bit protected mode, and LTR; paging is off. */
#include "frame32.h"

    .set TASK2, 0x30
    .set GATE, 0x38
    .set TASK3, 0x48
    .set T_EIP, 0x20
    .set T_EFLAGS, 0x24
    .set T_ESP, 0x38
    .set T_CS, 0x4c
    .set T_SS, 0x50
    .set T_DS, 0x54
    .set T_LDT, 0x60
    .set T_TRAP, 0x64

    .section .data
    .balign 128
tss2: .fill 32, 4, 0
tss3: .fill 32, 4, 0
    .section .stack, "aw", @nobits
    .skip 4096
task_stack:
    .text

/* The second task, which would begin at `target`. */
.macro second_task target, kind=0x8900, limit=0x67
    call make_task
    store_address tss2+T_EIP, \target
    mov word ptr [gdt + TASK2], \limit
    mov word ptr [gdt + TASK2 + 4 + 1], (\kind) >> 8
.endm

.macro task_gate place, kind=0xe500
    mov dword ptr [\place], TASK2 << 16
    mov dword ptr [\place + 4], \kind
.endm

/* The task that takes an exception of the second one: handlers of these may not rely on its segments. */
.macro third_task target, vector
    call make_third
    store_address tss3+T_EIP, \target
    mov dword ptr [idt + 8 * \vector], TASK3 << 16
    mov dword ptr [idt + 8 * \vector + 4], 0x8500
.endm

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

/* The first task again, whatever has happened. */
.macro conclude_task
8:  call first_task
    call verify
9:
.endm

first_task:
    mov eax, DATA0
    mov ds, eax
    mov es, eax
    mov dword ptr [gdt + TASK + 4], 0
    mov eax, offset tss
    mov word ptr [gdt + TASK + 2], ax
    shr eax, 16
    mov byte ptr [gdt + TASK + 4], al
    mov byte ptr [gdt + TASK + 7], ah
    mov byte ptr [gdt + TASK + 5], 0x89
    mov eax, TASK
    ltr ax
    clts
    xor eax, eax
    lldt ax
    mov dword ptr [tss], 0
    ret

make_task:
    mov edi, offset tss2
    mov ecx, 32
    xor eax, eax
    rep stosd
    mov dword ptr [tss2 + T_EFLAGS], 2
    mov dword ptr [tss2 + T_ESP], offset task_stack
    mov dword ptr [tss2 + 4], offset inner_stack
    mov dword ptr [tss2 + 8], DATA0
    mov dword ptr [tss2 + 0x48], DATA0
    mov dword ptr [tss2 + T_CS], CODE0
    mov dword ptr [tss2 + T_SS], DATA0
    mov dword ptr [tss2 + T_DS], DATA0
    mov dword ptr [tss2 + 0x58], DATA0
    mov dword ptr [tss2 + 0x5c], DATA0
    mov word ptr [tss2 + 102], 104
    mov eax, offset tss2
    mov dword ptr [gdt + TASK2 + 4], 0
    mov word ptr [gdt + TASK2 + 2], ax
    shr eax, 16
    mov byte ptr [gdt + TASK2 + 4], al
    mov byte ptr [gdt + TASK2 + 7], ah
    ret

make_third:
    mov esi, offset tss2
    mov edi, offset tss3
    mov ecx, 32
    rep movsd
    mov dword ptr [tss3 + T_ESP], offset inner_stack
    mov eax, offset tss3
    mov dword ptr [gdt + TASK3], 0x67
    mov dword ptr [gdt + TASK3 + 4], 0x8900
    mov word ptr [gdt + TASK3 + 2], ax
    shr eax, 16
    mov byte ptr [gdt + TASK3 + 4], al
    mov byte ptr [gdt + TASK3 + 7], ah
    ret

checks:
    check task_jmp, "3A 7.3", "JMP to a TSS: TR, the busy flags, CR0.TS, no NT and no link"
    then 2f
    second_task 1f
    far_jump TASK2
    ud2
1:  str ebx
    int DONE
2:  holds got_ebx, TASK2
    holds_byte gdt+TASK2+5, 0x8b
    holds_byte gdt+TASK+5, 0x89
    holds_word tss2, 0
    mov eax, cr0
    and eax, 8
    equals eax, 8
    and dword ptr [got_eflags], 0x4000
    holds got_eflags, 0
    conclude_task

    check task_saves, "3A 7.3", "the old task's registers, EIP behind the JMP and selectors are in its TSS"
    then 2f
    second_task 1f
    mov ebx, 0x11112222
    mov esi, 0x33334444
    mov edx, esp
    far_jump TASK2
3:  ud2
1:  int DONE
2:  mov eax, dword ptr [tss + T_EIP]
    address_equals 3b
    holds tss+0x34, 0x11112222
    holds tss+0x40, 0x33334444
    mov eax, dword ptr [tss + 0x30]
    equals_place eax, tss+T_ESP
    holds_word tss+T_CS, CODE0
    holds_word tss+T_SS, DATA0
    conclude_task

    check task_loads, "3A 7.3", "the new task's registers, flags and selectors come from its TSS"
    then 2f
    second_task 1f
    mov dword ptr [tss2 + 0x34], 0x55556666
    mov dword ptr [tss2 + T_EFLAGS], 0x8d7
    mov dword ptr [tss2 + 0x58], DATA3
    far_jump TASK2
1:  pushfd
    mov eax, fs
    push eax
    int DONE
2:  holds got_ebx, 0x55556666
    holds task_stack-4, 0x8d7
    holds_word task_stack-8, DATA3
    conclude_task

    check task_call, "3A 7.4", "CALL to a TSS: link, NT, and the old task stays busy"
    then 2f
    second_task 1f
    far_call TASK2
1:  int DONE
2:  holds_word tss2, TASK
    holds_byte gdt+TASK2+5, 0x8b
    holds_byte gdt+TASK+5, 0x8b
    and dword ptr [got_eflags], 0x4000
    holds got_eflags, 0x4000
    conclude_task

    check task_iret, "3A 7.4", "IRET with NT goes back to the task of the link, whose successor is free again"
    then 2f
    second_task 1f
    mov ebx, 0x77778888
    mov edi, esp
    far_call TASK2
    sub edi, esp
    mov ebx, edi
    int DONE
1:  mov ebx, 0
    iretd
2:  holds got_ebx, 0
    holds_byte gdt+TASK2+5, 0x89
    holds_byte gdt+TASK+5, 0x8b
    and dword ptr [tss2 + T_EFLAGS], 0x4000
    holds tss2+T_EFLAGS, 0
    and dword ptr [got_eflags], 0x4000
    holds got_eflags, 0
    conclude_task

    check task_iret_saves_eip, "3A 7.3", "the EIP that IRET leaves in the TSS is behind it"
    then 2f
    second_task 1f
    far_call TASK2
    int DONE
1:  iretd
3:  ud2
2:  mov eax, dword ptr [tss2 + T_EIP]
    address_equals 3b
    conclude_task

    check task_gate_call, "3A 7.2.5", "CALL through a task gate"
    then 2f
    second_task 1f
    task_gate gdt+GATE
    far_call GATE
1:  str ebx
    int DONE
2:  holds got_ebx, TASK2
    holds_word tss2, TASK
    conclude_task

    check task_gate_user, "3A 7.2.5", "a task gate of DPL 3 lets ring 3 in, whatever the DPL of the TSS"
    then 2f
    second_task 1f
    task_gate gdt+GATE
    user
    far_call GATE
1:  str ebx
    int DONE
2:  holds got_ebx, TASK2
    conclude_task

    check task_gate_int, "3A 6.12.2", "INT n through a task gate: link and NT"
    then 2f
    second_task 1f
    task_gate idt+8*0x40
    int 0x40
3:  ud2
1:  int DONE
2:  holds_word tss2, TASK
    mov eax, dword ptr [tss + T_EIP]
    address_equals 3b
    and dword ptr [got_eflags], 0x4000
    holds got_eflags, 0x4000
    conclude_task

    check task_gate_error_code, "3A 6.12.2, 6.13", "the error code is pushed on the new task's stack"
    then 2f
    second_task 1f
    task_gate idt+8*13
    mov eax, 0xfff8
3:  mov ds, eax
1:  mov ebx, [esp]
    mov esi, esp
    int DONE
2:  holds got_ebx, 0xfff8
    mov eax, dword ptr [tss + T_EIP]
    address_equals 3b
    conclude_task

    check task_trap, "3A 7.2.1, 3B 18.3.1.5", "the T flag: #DB with DR6.BT before the first instruction"
    faults 1, 0, 1f
    then 2f
    xor eax, eax
    mov dr6, eax
    second_task 1f
    mov dword ptr [tss2 + T_TRAP], 0x00680001
    far_jump TASK2
1:  int DONE
2:  mov eax, dr6
    and eax, 0x8000
    equals eax, 0x8000
    conclude_task

    check gp_task_busy, "3A 7.3", "JMP to a busy TSS: #GP(selector)"
    faults 13, TASK2, 1f
    second_task 1f, 0x8b00
1:  far_jump TASK2
    finish

    check gp_task_itself, "3A 7.2.2", "a task cannot be entered again: #GP(selector)"
    faults 13, TASK, 1f
1:  far_call TASK
    finish

    check np_task, "3A 7.3", "JMP to a TSS that is not present: #NP(selector)"
    faults 11, TASK2, 1f
    second_task 1f, 0x0900
1:  far_jump TASK2
    finish

    check gp_task_dpl, "3A 7.3", "JMP to a TSS of an inner ring: #GP(selector)"
    faults 13, TASK2, 1f
    second_task 1f
    user
1:  far_jump TASK2
    finish

    check gp_task_gate_dpl, "3A 7.2.5", "CALL through a task gate of an inner ring: #GP(gate)"
    faults 13, GATE, 1f
    second_task 1f
    task_gate gdt+GATE, 0x8500
    user
1:  far_call GATE
    finish

    check np_task_gate, "2A CALL", "CALL through a task gate that is not present: #NP(gate)"
    faults 11, GATE, 1f
    second_task 1f
    task_gate gdt+GATE, 0x6500
1:  far_call GATE
    finish

    check gp_task_gate_no_tss, "2A CALL", "a task gate to a segment that is no TSS: #GP(TSS)"
    faults 13, 0x10, 1f
    mov dword ptr [gdt + GATE], DATA0 << 16
    mov dword ptr [gdt + GATE + 4], 0xe500
1:  far_call GATE
    finish

    check gp_task_gate_busy, "2A CALL", "a task gate to a busy TSS: #GP(TSS)"
    faults 13, TASK2, 1f
    second_task 1f, 0x8b00
    task_gate gdt+GATE
1:  far_call GATE
    finish

    check gp_idt_task_gate_busy, "2A INT n", "INT n through a task gate to a busy TSS: #GP(TSS)"
    faults 13, TASK2, 1f
    second_task 1f, 0x8b00
    task_gate idt+8*0x40
1:  int 0x40
    finish

    check ts_task_short, "3A 7.3", "a TSS shorter than 104 bytes: #TS(selector)"
    faults 10, TASK2, 1f
    second_task 1f, 0x8900, 0x66
1:  far_jump TASK2
    finish

    check ts_task_ldt, "3A Table 7-1, 6.15 #TS", "a new task with a bad LDT: #TS(LDT) of the new task"
    then 2f
    second_task 1f
    third_task 3f, 10
    mov dword ptr [tss2 + T_LDT], DATA0
    far_jump TASK2
1:  int DONE
3:  mov ebx, [esp]
    int DONE
2:  holds got_ebx, 16
    holds_word tss3, TASK2
    mov eax, dword ptr [tss2 + T_EIP]
    address_equals 1b
    conclude_task

    check ts_task_cs, "3A Table 7-1, 6.15 #TS", "a new task whose CS is a data segment: #TS(CS)"
    then 2f
    second_task 1f
    third_task 3f, 10
    mov dword ptr [tss2 + T_CS], DATA0
    far_jump TASK2
1:  int DONE
3:  mov ebx, [esp]
    int DONE
2:  holds got_ebx, 16
    holds_word tss3, TASK2
    mov eax, dword ptr [tss2 + T_EIP]
    address_equals 1b
    conclude_task

    check np_task_cs, "3A Table 7-1, 6.15 #TS", "a new task whose CS is not present: #NP(CS)"
    then 2f
    second_task 1f
    third_task 3f, 11
    descriptor 0x40, 0x0000ffff, 0x00cf1a00
    mov dword ptr [tss2 + T_CS], 0x40
    far_jump TASK2
1:  int DONE
3:  mov ebx, [esp]
    int DONE
2:  holds got_ebx, 64
    holds_word tss3, TASK2
    mov eax, dword ptr [tss2 + T_EIP]
    address_equals 1b
    conclude_task

    check ts_task_ss, "3A Table 7-1, 6.15 #TS", "a new task whose SS is null: #TS(0)"
    then 2f
    second_task 1f
    third_task 3f, 10
    mov dword ptr [tss2 + T_SS], 0
    far_jump TASK2
1:  int DONE
3:  mov ebx, [esp]
    int DONE
2:  holds got_ebx, 0
    holds_word tss3, TASK2
    mov eax, dword ptr [tss2 + T_EIP]
    address_equals 1b
    conclude_task

    check ss_task_ss, "3A Table 7-1, 6.15 #TS", "a new task whose SS is not present: #SS(SS)"
    then 2f
    second_task 1f
    third_task 3f, 12
    descriptor 0x40, 0x0000ffff, 0x00cf1200
    mov dword ptr [tss2 + T_SS], 0x40
    far_jump TASK2
1:  int DONE
3:  mov ebx, [esp]
    int DONE
2:  holds got_ebx, 64
    holds_word tss3, TASK2
    mov eax, dword ptr [tss2 + T_EIP]
    address_equals 1b
    conclude_task

    check ts_task_ds, "3A Table 7-1, 6.15 #TS", "a new task whose DS is execute-only: #TS(DS)"
    then 2f
    second_task 1f
    third_task 3f, 10
    descriptor 0x40, 0x0000ffff, 0x00cf9800
    mov dword ptr [tss2 + T_DS], 0x40
    far_jump TASK2
1:  int DONE
3:  mov ebx, [esp]
    int DONE
2:  holds got_ebx, 64
    holds_word tss3, TASK2
    mov eax, dword ptr [tss2 + T_EIP]
    address_equals 1b
    conclude_task

    check np_task_ds, "3A Table 7-1, 6.15 #TS", "a new task whose DS is not present: #NP(DS)"
    then 2f
    second_task 1f
    third_task 3f, 11
    descriptor 0x40, 0x0000ffff, 0x00cf1200
    mov dword ptr [tss2 + T_DS], 0x40
    far_jump TASK2
1:  int DONE
3:  mov ebx, [esp]
    int DONE
2:  holds got_ebx, 64
    holds_word tss3, TASK2
    mov eax, dword ptr [tss2 + T_EIP]
    address_equals 1b
    conclude_task

    check ltr_busy, "2A LTR", "LTR marks the TSS busy"
    then 2f
    second_task 1f
    mov eax, TASK2
    ltr ax
1:  int DONE
2:  holds_byte gdt+TASK2+5, 0x8b
    conclude_task

    check gp_ltr_busy, "2A LTR", "LTR of a busy TSS: #GP(selector)"
    faults 13, TASK2, 1f
    second_task 1f, 0x8b00
    mov eax, TASK2
1:  ltr ax
    finish

    check gp_ltr_type, "2A LTR", "LTR of a code segment: #GP(selector)"
    faults 13, 8, 1f
    mov eax, CODE0
1:  ltr ax
    finish

    check np_ltr, "2A LTR", "LTR of a TSS that is not present: #NP(selector)"
    faults 11, TASK2, 1f
    second_task 1f, 0x0900
    mov eax, TASK2
1:  ltr ax
    finish

    check gp_ltr_user, "2A LTR", "LTR at CPL 3: #GP(0)"
    faults 13, 0, 1f
    user
    mov eax, TASK2
1:  ltr ax
    finish
    check gp_ltr_null, "2A LTR", "LTR of a null selector: #GP(0)"
    faults 13, 0, 1f
    xor eax, eax
1:  ltr ax
    int DONE
    conclude_task
    jmp report
