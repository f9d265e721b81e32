/* double_faults: what becomes of an exception that strikes while another is delivered, by the table of SDM Vol. 3A. */
#include "paging.h"

    .section .tables, "aw"
    .balign 4096
directory: .fill 1024, 4, 0
table: .fill 1024, 4, 0
    .set entry, table
    .set entry_2, table + 4
    .set low_entry, directory
    .set upper_entry, directory + 4 * 0x100
moved_idtr: .word 0x7ff
    .long 0
    .text

setup:
    mov dword ptr [low_entry], P + W + U + PS
    mov dword ptr [upper_entry], offset table + P + W + U
    mov eax, offset directory
    mov cr3, eax
    cr_set cr4, 0x10
    cr_set cr0, 0x80010000
    ret

/* The IDT moves to a place where the gates of the first `count` vectors lie in another page than the rest. */
.macro move_idt count, first, second
    mov dword ptr [entry], offset frame + P + W
    mov dword ptr [entry_2], offset frame_2 + P + W
    invlpg [PAGE]
    invlpg [PAGE + 0x1000]
    mov esi, offset idt
    mov edi, PAGE + 0x1000 - 8 * \count
    mov dword ptr [moved_idtr + 2], edi
    mov ecx, 512
    rep movsd
    mov dword ptr [entry], offset frame + \first
    mov dword ptr [entry_2], offset frame_2 + \second
    invlpg [PAGE]
    invlpg [PAGE + 0x1000]
    lidt [moved_idtr]
.endm

.macro absent_gate vector
    mov byte ptr [idt + 8 * \vector + 5], 0x0e
.endm

checks:
    check df_de_np, "3A Table 6-5", "contributory (#DE), then contributory (#NP): #DF, with error code 0"
    faults 8, 0
    absent_gate 0
    xor ecx, ecx
    div ecx
    finish

    check df_ts_np, "3A Table 6-5", "#TS, then #NP: #DF"
    faults 8, 0
    absent_gate 10
    mov dword ptr [tss], 0
    push 0x4002
    popfd
    iretd
    finish

    check df_np_np, "3A Table 6-5", "#NP, then #NP: #DF"
    faults 8, 0
    absent_gate 11
    descriptor 0x30, 0x0000ffff, 0x00cf1200
    mov eax, 0x30
    mov ds, eax
    finish

    check df_ss_np, "3A Table 6-5", "#SS, then #NP: #DF"
    faults 8, 0
    absent_gate 12
    descriptor 0x30, 0x0000ffff, 0x00cf1200
    mov eax, 0x30
    mov ss, eax
    finish

    check df_gp_gp, "3A Table 6-5", "#GP, then #GP: #DF"
    faults 8, 0
    mov byte ptr [idt + 8 * 13 + 5], 0x8c
    mov eax, 0xfff8
    mov ds, eax
    finish

    check df_pf_np, "3A Table 6-5", "#PF, then #NP: #DF"
    faults 8, 0
    absent_gate 14
    map 0
    mov eax, dword ptr [PAGE]
    finish

    check df_gp_pf_pf, "3A Table 6-5", "#GP, then #PF, then #PF: #DF"
    faults 8, 0
    then 2f
    move_idt 9, P+W, 0
    mov eax, 0xfff8
    mov ds, eax
    int DONE
2:  lidt [idtr]
    conclude

    check pf_after_de, "3A Table 6-5", "contributory (#DE), then #PF: #PF"
    faults_on PAGE+0xfc8, 0, 1f
    then 2f
    move_idt 7, 0, P+W
    xor ecx, ecx
1:  div ecx
    int DONE
2:  lidt [idtr]
    conclude

    check pf_after_ud, "3A Table 6-5", "benign (#UD), then #PF: #PF"
    faults_on PAGE+0xff8, 0, 1f
    then 2f
    move_idt 7, 0, P+W
1:  ud2
    int DONE
2:  lidt [idtr]
    conclude

    check pf_after_int, "3A Table 6-5", "INT n, then #PF: #PF"
    faults_on PAGE+0xff8, 0, 1f
    then 2f
    move_idt 7, 0, P+W
1:  int 6
    int DONE
2:  lidt [idtr]
    conclude

    check np_after_nm, "3A Table 6-5", "benign (#NM), then #NP: #NP, with EXT"
    faults 11, 7 * 8 + 3, 1f
    then 2f
    absent_gate 7
    cr_set cr0, 8
1:  fnop
2:  clts
    conclude

    check np_after_br, "3A Table 6-5", "benign (#BR), then #NP: #NP, with EXT"
    faults 11, 5 * 8 + 3, 1f
    absent_gate 5
    mov dword ptr [scratch], 0
    mov dword ptr [scratch + 4], 1
    mov eax, 2
1:  .byte 0x62, 0x05
    .long scratch
    finish

    check np_after_db, "3A Table 6-5", "benign (#DB), then #NP: #NP, with EXT"
    faults 11, 1 * 8 + 3, 1f
    absent_gate 1
    push 0x102
    popfd
    nop
1:  nop
    finish

    check np_after_int3, "3A Table 6-5, 6.13", "INT3, then #NP: #NP on the INT3, without EXT"
    faults 11, 3 * 8 + 2, 1f
    absent_gate 3
1:  int3
    finish

    check np_after_into, "3A Table 6-5, 6.13", "INTO, then #NP: #NP on the INTO, without EXT"
    faults 11, 4 * 8 + 2, 1f
    absent_gate 4
    mov al, 0x7f
    inc al
1:  .byte 0xce
    finish

    check np_after_int, "3A Table 6-5, 6.13", "INT n, then #NP: #NP on the INT, without EXT"
    faults 11, 0x40 * 8 + 2, 1f
    absent_gate 0x40
1:  int 0x40
    finish

    check df_cr2, "3A 6.15 #DF", "CR2 keeps the address of the #PF that became a #DF"
    faults 8, 0
    then 2f
    mov dword ptr [want_cr2], PAGE + 8
    absent_gate 14
    map 0
    mov eax, dword ptr [PAGE + 8]
2:  mov eax, cr2
    equals eax, PAGE+8
    conclude
    jmp report
