/* long: IA-32e mode: 4-level paging, exceptions and their frames, far transfers, SYSCALL, compatibility mode. */
#include "frame64.h"

.macro efer_set bits
    mov ecx, 0xc0000080
    rdmsr
    or eax, \bits
    wrmsr
.endm
.macro efer_clear bits
    mov ecx, 0xc0000080
    rdmsr
    and eax, ~(\bits)
    wrmsr
.endm

checks:
    /* ------------------------------------------------------------------------------------- 4-level paging */
    check long_4k, "3A 4.5", "a 4 KiB page through four levels"
    map P+W
    mov dword ptr [frame + 8], 0x12345678
    mov eax, PAGE
    mov eax, dword ptr [rax + 8]
    equals eax, 0x12345678
    finish

    check long_2m, "3A 4.5", "a 2 MiB page"
    then 2f
    mov dword ptr [frame + 8], 0x23456789
    mov dword ptr [directory], P + W + PS
    mov rax, cr3
    mov cr3, rax
    mov eax, offset frame
    mov ebx, dword ptr [rax + PAGE + 8]
    int DONE
2:  upper directory, table, P+W+U
    holds got_rbx, 0x23456789
    conclude

    check long_1g, "3A 4.5", "a 1 GiB page"
    then 2f
    mov dword ptr [frame + 8], 0x3456789a
    mov dword ptr [pointers + 8], P + W + PS
    mov rax, cr3
    mov cr3, rax
    mov eax, offset frame
    mov ebx, dword ptr [rax + PAGE + 8]
    int DONE
2:  mov ecx, dword ptr [pointers + 8]
    upper pointers+8, directory, P+W+U
    and ecx, A+D
    equals ecx, A
    holds got_rbx, 0x3456789a
    conclude

    check long_pf_absent, "3A 4.7", "supervisor read of a page that is not present: error code 0"
    faults_on PAGE+8, 0, 1f
    map W+U
    mov eax, PAGE
1:  mov ebx, dword ptr [rax + 8]
    finish

    check long_pf_cr2, "3A 6.15 #PF", "CR2 has all 64 bits of the address"
    faults_on 0xffff800000001238, 2, 1f
    mov rax, 0xffff800000001238
1:  mov dword ptr [rax], ebx
    finish

    check long_pf_user_supervisor, "3A 4.6.1", "user read of a supervisor page: U, P"
    faults_on PAGE+8, 5, 1f
    map P+W
    user
    mov eax, PAGE
1:  mov ebx, dword ptr [rax + 8]
    finish

    check long_pf_user_read_only, "3A 4.6.1", "user write of a read-only page: U, W, P"
    faults_on PAGE+8, 7, 1f
    map P+U
    user
    mov eax, PAGE
1:  mov dword ptr [rax + 8], ebx
    finish

    check long_wp, "3A 4.6.1", "supervisor write of a read-only page with CR0.WP: W, P"
    faults_on PAGE+8, 3, 1f
    map P
    mov eax, PAGE
1:  mov dword ptr [rax + 8], ebx
    finish

    check long_upper_user, "3A 4.6", "a PML4 entry's U/S counts as the others do"
    faults_on PAGE+8, 5, 1f
    then 2f
    map P+W+U
    upper pointers+8, directory, P+W
    user
    mov eax, PAGE
1:  mov ebx, dword ptr [rax + 8]
    int DONE
2:  upper pointers+8, directory, P+W+U
    conclude

    check long_upper_read_only, "3A 4.6", "a PDPT entry's R/W counts as the others do"
    faults_on PAGE+8, 7, 1f
    then 2f
    map P+W+U
    upper pointers+8, directory, P+U
    user
    mov eax, PAGE
1:  mov dword ptr [rax + 8], ebx
    int DONE
2:  upper pointers+8, directory, P+W+U
    conclude

    check long_nx, "3A 4.6.1", "a fetch from a page with XD: I, P"
    faults_nowhere 14, 0x11
    map P+W
    mov dword ptr [table + 4], 0x80000000
    mov eax, PAGE
    invlpg [rax]
    jmp rax
    finish

    check long_nx_user, "3A 4.6.1", "a user fetch from a page with XD: I, U, P"
    faults_nowhere 14, 0x15
    map P+W+U
    mov dword ptr [table + 4], 0x80000000
    mov eax, PAGE
    invlpg [rax]
    user
    mov eax, PAGE
    jmp rax
    finish

    check long_nx_upper, "3A 4.6", "XD of an entry above counts for all pages below"
    faults_nowhere 14, 0x11
    then 2f
    map P+W
    mov dword ptr [pointers + 12], 0x80000000
    mov rax, cr3
    mov cr3, rax
    mov eax, PAGE
    jmp rax
2:  mov dword ptr [pointers + 12], 0
    mov rax, cr3
    mov cr3, rax
    conclude

    check long_nx_reserved, "3A 4.5", "XD is reserved while IA32_EFER.NXE is 0: RSVD, P"
    faults_on PAGE+8, 9, 1f
    then 2f
    map P+W
    mov dword ptr [table + 4], 0x80000000
    efer_clear 0x800
    mov eax, PAGE
    invlpg [rax]
1:  mov ebx, dword ptr [rax + 8]
2:  efer_set 0x800
    conclude

    check long_reserved_address, "3A 4.5", "an address bit beyond MAXPHYADDR: RSVD, P"
    faults_on PAGE+8, 9, 1f
    map P+W
    mov dword ptr [table + 4], 0x00080000
    mov eax, PAGE
    invlpg [rax]
1:  mov ebx, dword ptr [rax + 8]
    finish

    check long_reserved_pml4, "3A Table 4-15", "PS in a PML4 entry: RSVD, P"
    faults_on 0x8000000000, 9, 1f
    then 2f
    mov eax, offset pointers + P + W + PS
    mov dword ptr [pml4 + 8], eax
    mov rax, 0x8000000000
1:  mov ebx, dword ptr [rax]
    int DONE
2:  mov dword ptr [pml4 + 8], 0
    conclude

    check long_reserved_2m, "3A Table 4-18", "bit 13 of an entry for a 2 MiB page: RSVD, P"
    faults_on PAGE+8, 9, 1f
    then 2f
    mov dword ptr [directory], P + W + PS + 0x2000
    mov rax, cr3
    mov cr3, rax
    mov eax, PAGE
1:  mov ebx, dword ptr [rax + 8]
    int DONE
2:  upper directory, table, P+W+U
    conclude

    check long_reserved_1g, "3A Table 4-16", "bit 13 of an entry for a 1 GiB page: RSVD, P"
    faults_on PAGE+8, 9, 1f
    then 2f
    mov dword ptr [pointers + 8], P + W + PS + 0x2000
    mov rax, cr3
    mov cr3, rax
    mov eax, PAGE
1:  mov ebx, dword ptr [rax + 8]
    int DONE
2:  upper pointers+8, directory, P+W+U
    conclude

    check long_smep, "3A 4.6.1", "supervisor fetch from a user page with CR4.SMEP: I, P"
    faults_nowhere 14, 0x11
    then 2f
    own_memory P+W+PS
    map P+W+U
    cr_set cr4, 0x100000
    mov eax, PAGE
    jmp rax
2:  cr_clear cr4, 0x100000
    own_memory P+W+U+PS
    conclude

    check long_smap, "3A 4.6.1", "supervisor read of a user page with CR4.SMAP: P"
    faults_on PAGE+8, 1, 1f
    then 2f
    own_memory P+W+PS
    map P+W+U
    cr_set cr4, 0x200000
    clac
    mov eax, PAGE
1:  mov ebx, dword ptr [rax + 8]
2:  cr_clear cr4, 0x200000
    own_memory P+W+U+PS
    conclude

    check long_stac, "3A 4.6.1", "the same behind STAC is allowed"
    then 2f
    own_memory P+W+PS
    map P+W+U
    cr_set cr4, 0x200000
    stac
    mov eax, PAGE
    mov ebx, dword ptr [rax + 8]
    int DONE
2:  cr_clear cr4, 0x200000
    own_memory P+W+U+PS
    conclude

    check long_accessed_dirty, "3A 4.8", "a write sets A and D of the page's entry, and A of those above"
    map P+W
    upper directory, table, P+W+U
    upper pointers+8, directory, P+W+U
    mov eax, PAGE
    mov dword ptr [rax], ebx
    mov eax, dword ptr [table]
    and eax, A+D
    equals eax, A+D
    mov eax, dword ptr [directory]
    and eax, A+D
    equals eax, A
    mov eax, dword ptr [pointers + 8]
    and eax, A+D
    equals eax, A
    finish

    /* ------------------------------------------------------------------------------------- canonical addresses */
    check gp_non_canonical, "1 3.3.7.1", "a data access to an address that is not canonical: #GP(0)"
    faults 13, 0, 1f
    mov rax, 0x800000000000
1:  mov ebx, dword ptr [rax]
    finish

    check ss_non_canonical, "1 3.3.7.1", "the same through RSP or RBP: #SS(0)"
    faults 12, 0, 1f
    mov rbp, 0x800000000000
1:  mov ebx, dword ptr [rbp]
    finish

    check gp_jump_non_canonical, "2A JMP", "a near jump to such an address: #GP(0) of the jump"
    faults 13, 0, 1f
    mov rax, 0x800000000000
1:  jmp rax
    finish

    check gp_wrmsr_non_canonical, "2B WRMSR", "WRMSR of such an address to IA32_FS_BASE: #GP(0)"
    faults 13, 0, 1f
    mov ecx, 0xc0000100
    xor eax, eax
    mov edx, 0x8000
1:  wrmsr
    finish

    check gp_lgdt_non_canonical, "2A LGDT", "LGDT of such a base: #GP(0)"
    faults 13, 0, 1f
    then 2f
    mov word ptr [scratch], 0xff
    mov rax, 0x800000000000
    mov qword ptr [scratch + 2], rax
1:  lgdt [scratch]
    int DONE
2:  mov qword ptr [scratch], 0
    conclude

    check lss_64, "2A LDS", "LSS with REX.W: eight bytes of offset, then the selector"
    then 2f
    mov rax, 0x1122334455667788
    mov qword ptr [scratch], rax
    mov word ptr [scratch + 8], DATA0
    .byte 0x48, 0x0f, 0xb2, 0x04, 0x25 /* lss rax, [scratch] */
    .long scratch
    equals eax, 0x55667788
    shr rax, 32
    equals eax, 0x11223344
    mov ebx, ss
    equals ebx, DATA0
    int DONE
2:  mov qword ptr [scratch], 0
    conclude

    check gp_lldt_upper, "2A LLDT", "LLDT of an LDT whose upper half has a type: #GP(selector)"
    faults 13, 0x50, 1f
    descriptor 0x50, 0x00000067, 0x00008200
    mov dword ptr [gdt + 0x5c], 0x100
    mov eax, 0x50
1:  lldt ax
    finish

    /* ------------------------------------------------------------------------------------- exceptions */
    check frame_has_stack, "3A 6.14.2", "SS and RSP are pushed without a change of privilege, too"
    then 2f
    mov ebx, esp
    int DONE
2:  holds got_ss, DATA0
    mov rax, qword ptr [got_rbx]
    equals_place rax, got_rsp
    conclude

    check frame_is_aligned, "3A 6.14.2", "the frame's stack is aligned to 16 bytes"
    then 2f
    sub rsp, 3
    int DONE
2:  mov eax, dword ptr [got_frame]      /* seven quadwords below an aligned address */
    and eax, 15
    equals eax, 8
    conclude

    check frame_inner_ss_null, "3A 6.14.4", "an inner ring begins with a null SS"
    then 2f
    user
    int DONE
2:  holds got_own_ss, 0
    holds got_cs, CODE3
    holds got_ss, DATA3
    holds_address got_rsp, user_stack
    conclude

    check frame_ist, "3A 6.14.5", "a gate with IST 1 takes the stack from the TSS at any CPL"
    then 2f
    mov byte ptr [idt + 16 * DONE + 4], 1
    int DONE
2:  holds_address got_frame, ist_stack-56
    holds got_own_ss, DATA0
    conclude

    check gp_gate_16_bytes, "3A 6.14.1", "the error code of a gate has its vector"
    faults 13, 0x202, 1f
    mov byte ptr [idt + 16 * 0x40 + 5], 0
1:  int 0x40
    finish

    check gp_task_gate_64, "3A 6.14.1", "a task gate in the IDT: #GP(vector)"
    faults 13, 0x202, 1f
    mov byte ptr [idt + 16 * 0x40 + 5], 0x85
1:  int 0x40
    finish

    check gp_gate_to_compatibility, "3A 6.14.1", "a gate to a code segment without L: #GP(selector)"
    faults 13, CODE0_32, 1f
    mov word ptr [idt + 16 * 0x40 + 2], CODE0_32
1:  int 0x40
    finish

    check gp_gate_non_canonical, "2A INT n", "a gate to an address that is not canonical: #GP(0)"
    faults 13, 0, 1f
    mov dword ptr [idt + 16 * 0x40 + 8], 0x8000
1:  int 0x40
    finish

    check ud_64_push_es, "2B PUSH", "PUSH ES does not exist in 64-bit mode"
    faults 6, 0, 1f
1:  .byte 0x06
    finish
    check ud_64_pop_ds, "2B POP", "POP DS does not exist in 64-bit mode"
    faults 6, 0, 1f
1:  .byte 0x1f
    finish
    check ud_64_daa, "2A DAA", "DAA does not exist in 64-bit mode"
    faults 6, 0, 1f
1:  .byte 0x27
    finish
    check ud_64_pusha, "2B PUSHA", "PUSHA does not exist in 64-bit mode"
    faults 6, 0, 1f
1:  .byte 0x60
    finish
    check ud_64_82, "2D A.2", "opcode 82 does not exist in 64-bit mode"
    faults 6, 0, 1f
1:  .byte 0x82, 0xc0, 1
    finish
    check ud_64_call_far, "2A CALL", "CALL ptr16:32 does not exist in 64-bit mode"
    faults 6, 0, 1f
1:  .byte 0x9a, 0, 0, 0, 0, 8, 0
    finish
    check ud_64_into, "2A INT n", "INTO does not exist in 64-bit mode"
    faults 6, 0, 1f
1:  .byte 0xce
    finish
    check ud_64_aam, "2A AAM", "AAM does not exist in 64-bit mode"
    faults 6, 0, 1f
1:  .byte 0xd4, 0x0a
    finish
    check ud_64_jmp_far, "2A JMP", "JMP ptr16:32 does not exist in 64-bit mode"
    faults 6, 0, 1f
1:  .byte 0xea, 0, 0, 0, 0, 8, 0
    finish

    check zero_extension, "1 3.4.1.1", "a result of 32 bits clears the upper half of its register"
    mov rbx, -1
    mov ebx, 0x80000000
    mov rax, rbx
    shr rax, 31
    equals rax, 1
    finish

    check upper_half_kept, "1 3.4.1.1", "results of 8 and 16 bits do not"
    mov rbx, -1
    mov bl, 0
    mov bx, 0
    shr rbx, 16
    mov rax, 0xffffffffffff
    equals rbx, rax
    finish

    check segment_base_ignored, "3A 3.4.4", "the base of DS does not count in 64-bit mode"
    descriptor 0x50, 0x0010ffff, 0x00cf9300
    mov eax, 0x50
    mov ds, eax
    mov dword ptr [scratch], 0x13572468
    mov ebx, dword ptr [scratch]
    mov eax, DATA0
    mov ds, eax
    equals ebx, 0x13572468
    holds scratch, 0x13572468
    finish

    check segment_override_ignored, "2A 2.2.1, 1 3.3.4", "nor with an override prefix"
    mov dword ptr [scratch], 0x13572468
    descriptor 0x50, 0x0010ffff, 0x00cf9300
    mov eax, 0x50
    mov ds, eax
    .byte 0x3e
    mov ebx, dword ptr [scratch]
    mov eax, DATA0
    mov ds, eax
    equals ebx, 0x13572468
    finish

    check null_segments, "3A 3.4.4", "accesses through null DS and SS are allowed"
    xor eax, eax
    mov ds, eax
    mov ss, eax
    push 1
    pop rax
    mov ebx, dword ptr [scratch]
    finish

    check fs_base, "3A 3.4.4", "IA32_FS_BASE is added in 64-bit mode"
    mov eax, offset scratch
    mov ecx, 0xc0000100
    xor edx, edx
    wrmsr
    mov dword ptr [scratch + 8], 0x24681357
    mov eax, dword ptr fs:[8]
    equals eax, 0x24681357
    finish

    check swapgs, "2B SWAPGS", "SWAPGS exchanges IA32_GS_BASE and IA32_KERNEL_GS_BASE"
    msr_set 0xc0000101, 0x1000
    msr_set 0xc0000102, 0x2000
    swapgs
    mov ecx, 0xc0000101
    rdmsr
    equals eax, 0x2000
    mov ecx, 0xc0000102
    rdmsr
    equals eax, 0x1000
    finish

    check gp_swapgs_user, "2B SWAPGS", "SWAPGS at CPL 3: #GP(0)"
    faults 13, 0, 1f
    user
1:  swapgs
    finish

    check gp_cmpxchg16b, "2A CMPXCHG16B", "CMPXCHG16B of an operand that is not aligned: #GP(0)"
    faults 13, 0, 1f
    mov esi, offset scratch + 1
    and esi, -16
    inc esi
1:  cmpxchg16b [rsi]
    finish

    check gp_cr0_pg_64, "3A 4.1.2", "clearing CR0.PG in 64-bit mode: #GP(0)"
    faults 13, 0, 1f
    mov rax, cr0
    and eax, 0x7fffffff
1:  mov cr0, rax
    finish

    check gp_cr4_pae_64, "3A 4.1.2", "clearing CR4.PAE in IA-32e mode: #GP(0)"
    faults 13, 0, 1f
    mov rax, cr4
    and eax, ~0x20
1:  mov cr4, rax
    finish

    check gp_efer_lme_64, "3A 4.1.1", "changing IA32_EFER.LME while paging is on: #GP(0)"
    faults 13, 0, 1f
    mov ecx, 0xc0000080
    rdmsr
    and eax, ~0x100
1:  wrmsr
    finish

    check gp_cr0_upper, "2B MOV-Control Registers", "CR0 with a bit in its upper half: #GP(0)"
    faults 13, 0, 1f
    mov rax, cr0
    bts rax, 32
1:  mov cr0, rax
    finish

    check gp_dr7_upper, "2B MOV-Debug Registers", "DR7 with a bit in its upper half: #GP(0)"
    faults 13, 0, 1f
    mov rax, 0x100000400
1:  mov dr7, rax
    finish

    check gp_cr8_reserved, "2B MOV-Control Registers", "CR8 above 15: #GP(0)"
    faults 13, 0, 1f
    mov eax, 16
1:  mov cr8, rax
    finish

    /* ------------------------------------------------------------------------------------- IRET and far transfers */
    check iretq_same, "2A IRET", "IRETQ pops SS:RSP without a change of privilege, too"
    mov rbx, rsp
    push DATA0
    mov eax, offset kernel_stack - 256
    push rax
    push 2
    push CODE0
    address_eax 1f
    push rax
    iretq
1:  mov eax, offset kernel_stack - 256
    equals rsp, rax
    mov rsp, rbx
    finish

    check iretq_null_ss, "2A IRET", "IRETQ to ring 0 with a null SS"
    mov rbx, rsp
    push 0
    push rbx
    push 2
    push CODE0
    address_eax 1f
    push rax
    iretq
1:  mov eax, ss
    equals eax, 0
    finish

    check gp_iretq_null_ss_3, "2A IRET", "IRETQ to ring 3 with a null SS: #GP(0)"
    faults 13, 0, 1f
    push 3
    push 0
    push 2
    push CODE3
    push 0
1:  iretq
    finish

    check gp_iretq_nt, "2A IRET", "IRETQ with NT: #GP(0), there are no tasks"
    faults 13, 0, 1f
    push 0x4002
    popfq
1:  iretq
    finish

    check gp_iretq_non_canonical, "2A IRET", "IRETQ to an address that is not canonical: #GP(0)"
    faults 13, 0, 1f
    push DATA0
    push rsp
    push 2
    push CODE0
    mov rax, 0x800000000000
    push rax
1:  iretq
    finish

    check gp_long_and_default, "3A 5.2.1", "a far RET to a segment with L and D: #GP(selector)"
    faults 13, 0x50, 1f
    descriptor 0x50, 0x0000ffff, 0x00ef9b00
    push 0x50
    push 0
1:  .byte 0x48, 0xcb
    finish

    check gp_jmp_tss_64, "2A JMP", "JMP to a TSS: #GP(selector), there are no task switches"
    faults 13, 0x50, 1f
    descriptor 0x50, 0x00000067, 0x00008900
    mov dword ptr [scratch], 0
    mov dword ptr [scratch + 4], 0x50
1:  .byte 0xff, 0x2c, 0x25
    .long scratch
    finish

    check call_gate_64, "3A 5.8.3.1, 5.8.5.1", "a call gate to ring 0: SS, RSP, CS, RIP as quadwords, a null SS"
    then 2f
    call_gate 0x50, CODE0, 1f
    mov dword ptr [scratch], 0
    mov dword ptr [scratch + 4], 0x53
    user
    .byte 0xff, 0x1c, 0x25
    .long scratch
3:  ud2
1:  mov rbx, rsp
    int DONE
2:  holds_address got_rbx, inner_stack-32
    holds_address inner_stack-32, 3b
    holds inner_stack-24, CODE3
    holds_address inner_stack-16, user_stack
    holds inner_stack-8, DATA3
    holds got_own_ss, 0
    conclude

    check gp_call_gate_upper, "3A 5.8.3.1", "a type in the upper half of a call gate: #GP(gate)"
    faults 13, 0x50, 1f
    call_gate 0x50, CODE0, 1f
    mov dword ptr [gdt + 0x5c], 0x100
    mov dword ptr [scratch], 0
    mov dword ptr [scratch + 4], 0x50
1:  .byte 0xff, 0x1c, 0x25
    .long scratch
    finish

    check gp_call_gate_to_32, "3A 5.8.3.1", "a call gate to a code segment without L: #GP(selector)"
    faults 13, CODE0_32, 1f
    call_gate 0x50, CODE0_32, 1f
    mov dword ptr [scratch], 0
    mov dword ptr [scratch + 4], 0x50
1:  .byte 0xff, 0x1c, 0x25
    .long scratch
    finish

    check gp_call_gate_16_64, "3A 5.8.3.1", "16-bit call gates do not exist: #GP(gate)"
    faults 13, 0x50, 1f
    call_gate 0x50, CODE0, 1f, 0xe400
    mov dword ptr [scratch], 0
    mov dword ptr [scratch + 4], 0x50
1:  .byte 0xff, 0x1c, 0x25
    .long scratch
    finish

    check gp_ltr_upper, "2A LTR", "LTR of a TSS whose upper half has a type: #GP(selector)"
    faults 13, 0x50, 1f
    then 2f
    descriptor 0x50, 0x00000067, 0x00008900
    mov dword ptr [gdt + 0x5c], 0x100
    mov eax, 0x50
1:  ltr ax
    mov byte ptr [gdt + TASK + 5], 0x89
    mov eax, TASK
    ltr ax
    int DONE
2:  conclude

    /* ------------------------------------------------------------------------------------- compatibility mode */
    check compatibility, "3A 5.2.1", "a far RET to a segment without L: 32-bit code, in which 40 is INC EAX"
    then 2f
    mov eax, 0
    user_32
    mov eax, 7
    .byte 0x40
    mov ebx, eax
    int DONE
    .code64
2:  holds got_cs, CODE3_32
    holds got_rbx, 8
    conclude

    check compatibility_frame, "3A 6.14.2", "an exception in compatibility mode has the 64-bit frame"
    faults 6, 0, 1f
    then 2f
    user_32
1:  ud2
    .code64
2:  holds got_ss, DATA3
    holds_address got_rsp, user_stack
    conclude

    check compatibility_base, "3A 3.4.4", "segment bases count in compatibility mode"
    then 2f
    descriptor 0x50, 0x0008ffff, 0x00cff300
    mov dword ptr [scratch + 8], 0x76543210
    user_32
    mov eax, 0x53
    mov ds, eax
    mov ebx, dword ptr [scratch]
    int DONE
    .code64
2:  holds got_rbx, 0x76543210
    conclude

    check compatibility_wraps, "3A 4.1.1", "addresses of 32 bits: effective addresses wrap"
    then 2f
    mov dword ptr [scratch], 0x76543211
    user_32
    mov esi, 0xfffffffc
    mov eax, offset scratch + 4
    mov ebx, dword ptr [eax + esi]
    int DONE
    .code64
2:  holds got_rbx, 0x76543211
    conclude

    check ud_compatibility_syscall, "2B SYSCALL", "SYSCALL in compatibility mode: #UD"
    faults 6, 0, 1f
    user_32
1:  syscall
    .code64
    finish

    check compatibility_to_64, "2A JMP", "far JMP from compatibility to 64-bit mode"
    then 2f
    user_32
    .byte 0xea
    .long 1f
    .word CODE3
    .code64
1:  mov rbx, -1
    int DONE
2:  holds got_cs, CODE3
    holds got_rbx, -1
    conclude

    /* ------------------------------------------------------------------------------------- fast system calls */
    check syscall, "2B SYSCALL", "SYSCALL: RIP to RCX, RFLAGS to R11 and through IA32_FMASK, CS and SS of IA32_STAR"
    then 2f
    msr_set 0xc0000081, 0, 0x00180008
    address_eax 1f
    mov ecx, 0xc0000082
    xor edx, edx
    wrmsr
    msr_set 0xc0000084, 0x200
    user 0x203
    syscall
3:  ud2
1:  mov qword ptr [scratch], rcx
    mov qword ptr [scratch + 8], r11
    pushfq
    pop rbx
    mov esp, offset kernel_stack
    int DONE
2:  holds_address scratch, 3b
    holds scratch+8, 0x203
    holds got_cs, CODE0
    holds got_ss, DATA0
    holds got_rbx, 3
    conclude

    check ud_syscall_sce, "2B SYSCALL", "SYSCALL without IA32_EFER.SCE: #UD"
    faults 6, 0, 1f
    then 2f
    efer_clear 1
1:  syscall
2:  efer_set 1
    conclude

    check sysret, "2B SYSRET", "SYSRETQ: RCX to RIP, R11 to RFLAGS, CS and SS of IA32_STAR[63:48] with RPL 3"
    then 2f
    msr_set 0xc0000081, 0, 0x00180008
    address_ecx 1f
    mov r11d, 0x3
    .byte 0x48, 0x0f, 0x07
1:  int DONE
2:  holds got_cs, CODE3
    holds got_ss, DATA3
    holds got_rflags, 3
    conclude

    check sysret_32, "2B SYSRET", "SYSRET without REX.W: to compatibility mode"
    then 2f
    msr_set 0xc0000081, 0, 0x00180008
    address_ecx 1f
    mov r11d, 0x2
    .byte 0x0f, 0x07
1:  .byte 0x31, 0xdb, 0x4b      /* xor ebx, ebx; dec ebx */
    int DONE
2:  holds got_cs, CODE3_32
    mov eax, dword ptr [got_rbx]
    equals eax, -1
    conclude

    check gp_sysret_user, "2B SYSRET", "SYSRET at CPL 3: #GP(0)"
    faults 13, 0, 1f
    user
1:  .byte 0x48, 0x0f, 0x07
    finish

    check gp_sysret_non_canonical, "2B SYSRET", "SYSRETQ to an address that is not canonical: #GP(0) in ring 0"
    faults 13, 0, 1f
    then 2f
    mov rcx, 0x800000000000
    mov r11d, 2
1:  .byte 0x48, 0x0f, 0x07
2:  holds got_cs, CODE0
    conclude

    check sysenter_64, "2B SYSENTER", "SYSENTER in IA-32e mode: to 64-bit code"
    then 2f
    msr_set 0x174, CODE0
    mov eax, offset kernel_stack
    mov ecx, 0x175
    xor edx, edx
    wrmsr
    address_eax 1f
    mov ecx, 0x176
    wrmsr
    user 0x202
    sysenter
    ud2
1:  mov rbx, -1
    int DONE
2:  holds got_cs, CODE0
    holds got_rbx, -1
    holds_address got_rsp, kernel_stack
    holds got_rflags, 2
    conclude

    check sysexit_64, "2B SYSEXIT", "SYSEXIT with REX.W: CS and SS are IA32_SYSENTER_CS + 32 and + 40"
    then 2f
    msr_set 0x174, CODE0
    address_edx 1f
    mov ecx, 0x1230
    .byte 0x48, 0x0f, 0x35
1:  int DONE
2:  holds got_cs, CODE3
    holds got_ss, DATA3_ALSO
    holds got_rsp, 0x1230
    conclude

    check gp_sysexit_non_canonical, "2B SYSEXIT", "SYSEXIT with REX.W to an address that is not canonical: #GP(0)"
    faults 13, 0, 1f
    msr_set 0x174, CODE0
    mov rdx, 0x800000000000
    mov ecx, 0x1230
1:  .byte 0x48, 0x0f, 0x35
    finish
    jmp report
