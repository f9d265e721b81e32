/* paging_pae: PAE paging, 4 KiB and 2 MiB pages, no-execute, reserved bits, with the error code of each combination. */
#include "paging.h"

    .section .tables, "aw"
    .balign 4096
pointers: .fill 4, 8, 0
    .balign 4096
low_directory: .fill 512, 8, 0
directory: .fill 512, 8, 0
table: .fill 512, 8, 0
    .set entry, table
    .set low_entry, low_directory
    .set upper_entry, directory
    .text

setup:
    mov dword ptr [pointers], offset low_directory + P
    mov dword ptr [pointers + 8], offset directory + P
    mov dword ptr [low_directory], P + W + U + PS
    mov dword ptr [low_directory + 8], 0x200000 + P + W + U + PS
    mov dword ptr [upper_entry], offset table + P + W + U
    mov eax, offset pointers
    mov cr3, eax
    cr_set cr4, 0x20
    cr_set cr0, 0x80010000
    ret

.macro nxe_on
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x800
    wrmsr
.endm
.macro nxe_off
    mov ecx, 0xc0000080
    rdmsr
    and eax, ~0x800
    wrmsr
.endm

checks:
    paging_checks

    check pae_2m_read, "3A 4.4", "a 2 MiB page"
    then 2f
    mov dword ptr [frame + 4], 0x12345678
    mov dword ptr [upper_entry], P + W + PS
    mov eax, cr3
    mov cr3, eax
    address_eax frame + 4
    mov eax, dword ptr [eax + PAGE]
    equals eax, 0x12345678
    int DONE
2:  mov eax, dword ptr [upper_entry]
    and eax, A + D
    equals eax, A
    upper P+W+U
    conclude

    check pae_2m_dirty, "3A 4.8", "a write to a 2 MiB page sets the dirty flag of its directory entry"
    then 2f
    mov dword ptr [upper_entry], 0x200000 + P + W + PS
    mov eax, cr3
    mov cr3, eax
    mov dword ptr [PAGE + 0x1000], eax
    int DONE
2:  mov eax, dword ptr [upper_entry]
    and eax, A + D
    equals eax, A + D
    upper P+W+U
    conclude

    check pae_2m_reserved, "3A 4.4.2, 4.7", "bits 20:13 of a 2 MiB page's entry are reserved: RSVD, P"
    faults_on PAGE, 9, 1f
    then 2f
    mov dword ptr [upper_entry], 0x2000 + P + W + PS
    mov eax, cr3
    mov cr3, eax
1:  mov eax, dword ptr [PAGE]
    int DONE
2:  upper P+W+U
    conclude

    check pae_reserved_high, "3A 4.4.2, 4.7", "a physical-address bit beyond MAXPHYADDR is reserved: RSVD, P"
    faults_on PAGE, 9, 1f
    then 2f
    map P+W
    mov dword ptr [entry + 4], 0x00080000
    invlpg [PAGE]
1:  mov eax, dword ptr [PAGE]
    int DONE
2:  mov dword ptr [entry + 4], 0
    conclude

    check pae_reserved_user_write, "3A 4.7", "a user write through a reserved bit: RSVD, U, W, P"
    faults_on PAGE, 0xf, 1f
    then 2f
    map P+W+U
    mov dword ptr [entry + 4], 0x00080000
    invlpg [PAGE]
    user
1:  mov dword ptr [PAGE], eax
    int DONE
2:  mov dword ptr [entry + 4], 0
    conclude

    check nx_without_nxe, "3A 4.4.2", "bit 63 is reserved without EFER.NXE: RSVD, P"
    faults_on PAGE, 9, 1f
    then 2f
    map P+W
    mov dword ptr [entry + 4], 0x80000000
    invlpg [PAGE]
1:  mov eax, dword ptr [PAGE]
    int DONE
2:  mov dword ptr [entry + 4], 0
    conclude

    check nx_user_fetch, "3A 4.6.1, 4.7", "a user fetch from a no-execute page: I, U, P"
    faults_on PAGE, 0x15, PAGE
    then 2f
    nxe_on
    map P+W+U
    mov dword ptr [entry + 4], 0x80000000
    invlpg [PAGE]
    user
    mov eax, PAGE
    jmp eax
2:  mov dword ptr [entry + 4], 0
    nxe_off
    conclude

    check nx_supervisor_fetch, "3A 4.6.1, 4.7", "a supervisor fetch from a no-execute page: I, P"
    faults_on PAGE, 0x11, PAGE
    then 2f
    nxe_on
    map P+W
    mov dword ptr [entry + 4], 0x80000000
    invlpg [PAGE]
    mov eax, PAGE
    jmp eax
2:  mov dword ptr [entry + 4], 0
    nxe_off
    conclude

    check nx_absent_fetch, "3A 4.7", "a user fetch from an absent page with NXE: I, U"
    faults_on PAGE, 0x14, PAGE
    then 2f
    nxe_on
    map 0
    user
    mov eax, PAGE
    jmp eax
2:  nxe_off
    conclude

    check nx_read, "3A 4.6.1", "a no-execute page can be read"
    then 2f
    nxe_on
    map P+W
    mov dword ptr [entry + 4], 0x80000000
    invlpg [PAGE]
    mov eax, dword ptr [PAGE]
    int DONE
2:  mov dword ptr [entry + 4], 0
    nxe_off
    conclude

    check nx_upper, "3A 4.6.1", "no-execute in the directory entry: I, P"
    faults_on PAGE, 0x11, PAGE
    then 2f
    nxe_on
    map P+W
    mov dword ptr [upper_entry + 4], 0x80000000
    mov eax, cr3
    mov cr3, eax
    mov eax, PAGE
    jmp eax
2:  mov dword ptr [upper_entry + 4], 0
    nxe_off
    upper P+W+U
    conclude

    check pdpte_reserved, "3A 4.4.1", "MOV to CR3 with a reserved bit in a PDPTE is #GP(0)"
    faults 13, 0, 1f
    then 2f
    mov eax, cr3
    or dword ptr [pointers + 16], 3
1:  mov cr3, eax
    int DONE
2:  mov dword ptr [pointers + 16], 0
    conclude

    check pdpte_cached, "3A 4.4.1", "a changed PDPTE counts after MOV to CR3, not before"
    then 2f
    map P+W
    mov dword ptr [pointers + 8], 0
    invlpg [PAGE]
    mov eax, dword ptr [PAGE]
    int DONE
2:  mov dword ptr [pointers + 8], offset directory + P
    mov eax, cr3
    mov cr3, eax
    conclude
    jmp report
