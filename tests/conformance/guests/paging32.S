/* paging32: 32-bit paging, 4 KiB and 4 MiB pages, with the error code of each combination. */
#include "paging.h"

    .section .tables, "aw"
    .balign 4096
directory: .fill 1024, 4, 0
table: .fill 1024, 4, 0
    .set entry, table
    .set low_entry, directory
    .set upper_entry, directory + 4 * (PAGE >> 22)
    .text

setup:
    mov dword ptr [directory], P + W + U + PS
    mov dword ptr [upper_entry], offset table + P + W + U
    mov eax, offset directory
    mov cr3, eax
    cr_set cr4, 0x10
    cr_set cr0, 0x80010000
    ret

checks:
    paging_checks

    check pse_read, "3A 4.3", "a 4 MiB page"
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

    check pse_dirty, "3A 4.8", "a write to a 4 MiB page sets the dirty flag of its directory entry"
    then 2f
    mov dword ptr [upper_entry], P + W + PS
    mov eax, cr3
    mov cr3, eax
    mov dword ptr [PAGE + 0x300000], eax
    int DONE
2:  mov eax, dword ptr [upper_entry]
    and eax, A + D
    equals eax, A + D
    upper P+W+U
    conclude

    check pse_user_write_read_only, "3A 4.6.1, 4.7", "user write of a read-only 4 MiB page: U, W, P"
    faults_on PAGE + 0x300000, 7, 1f
    then 2f
    mov dword ptr [upper_entry], P + U + PS
    mov eax, cr3
    mov cr3, eax
    user
1:  mov dword ptr [PAGE + 0x300000], eax
    int DONE
2:  upper P+W+U
    conclude

    check pse_reserved_bit, "3A 4.3, 4.7", "bit 21 of a directory entry of a 4 MiB page is reserved: RSVD, P"
    faults_on PAGE, 9, 1f
    then 2f
    mov dword ptr [upper_entry], 0x200000 + P + W + PS
    mov eax, cr3
    mov cr3, eax
1:  mov eax, dword ptr [PAGE]
    int DONE
2:  upper P+W+U
    conclude

    check pse_off, "3A 4.3", "without CR4.PSE bit 7 of a directory entry is ignored"
    then 2f
    map P+W
    mov dword ptr [frame], 0x55aa55aa
    call fill_low_table
    mov dword ptr [directory], offset low_table + P + W + U
    mov dword ptr [upper_entry], offset table + P + W + PS
    cr_clear cr4, 0x10
    mov eax, cr3
    mov cr3, eax
    mov ecx, dword ptr [PAGE]
    cr_set cr4, 0x10
    mov dword ptr [directory], P + W + U + PS
    mov eax, cr3
    mov cr3, eax
    equals ecx, 0x55aa55aa
    int DONE
2:  upper P+W+U
    conclude

    check global_page, "3A 4.10.2.4", "a global page stays after MOV to CR3, and goes with CR4.PGE"
    then 2f
    cr_set cr4, 0x80
    map P+W+0x100
    mov dword ptr [frame], 0x33333333
    mov dword ptr [frame_2], 0x44444444
    mov eax, dword ptr [PAGE]
    mov dword ptr [entry], offset frame_2 + P + W + 0x100
    cr_clear cr4, 0x80
    mov eax, dword ptr [PAGE]
    equals eax, 0x44444444
    int DONE
2:  conclude
    jmp report

fill_low_table:
    mov edi, offset low_table
    mov eax, P + W + U
1:  mov dword ptr [edi], eax
    add edi, 4
    add eax, 4096
    cmp edi, offset low_table + 4096
    jb 1b
    ret

    .section .tables
    .balign 4096
low_table: .fill 1024, 4, 0
