/* The checks that 32-bit and PAE paging share. Every check works on the page at PAGE, whose entry is `entry`; the upper
 * tables map it with everything allowed, the first 4 MiB are mapped to themselves for everybody.
 */
#define SETUP
#include "frame32.h"
    .set PAGE, 0x40000000
    .set P, 1
    .set W, 2
    .set U, 4
    .set A, 0x20
    .set D, 0x40
    .set PS, 0x80

/* Map PAGE to `frame` with these flags. */
.macro map flags
    mov dword ptr [entry], offset frame + (\flags)
    invlpg [PAGE]
.endm

.macro upper flags
    mov dword ptr [upper_entry], offset table + (\flags)
    mov eax, cr3
    mov cr3, eax
.endm

/* The guest's own memory for the supervisor alone, as SMEP and SMAP want it, or for everybody. */
.macro own_memory flags
    mov dword ptr [low_entry], \flags
    mov eax, cr3
    mov cr3, eax
.endm

.macro cr_set register, bits
    mov eax, \register
    or eax, \bits
    mov \register, eax
.endm

.macro cr_clear register, bits
    mov eax, \register
    and eax, ~(\bits)
    mov \register, eax
.endm

    .section .stack, "aw", @nobits
    .balign 4096
frame: .skip 4096
frame_2: .skip 4096
    .text

.macro paging_checks
    check pf_read_absent, "3A 4.7", "supervisor read of a page that is not present: error code 0"
    faults_on PAGE + 8, 0, 1f
    map W+U
1:  mov eax, dword ptr [PAGE + 8]
    finish

    check pf_write_absent, "3A 4.7", "supervisor write of a page that is not present: W"
    faults_on PAGE + 8, 2, 1f
    map W+U
1:  mov dword ptr [PAGE + 8], eax
    finish

    check pf_user_read_absent, "3A 4.7", "user read of a page that is not present: U"
    faults_on PAGE + 8, 4, 1f
    map W+U
    user
1:  mov eax, dword ptr [PAGE + 8]
    finish

    check pf_user_write_absent, "3A 4.7", "user write of a page that is not present: U, W"
    faults_on PAGE + 8, 6, 1f
    map W+U
    user
1:  mov dword ptr [PAGE + 8], eax
    finish

    check pf_user_fetch_absent, "3A 4.7", "user fetch from a page that is not present, without SMEP and NX: U"
    faults_on PAGE + 8, 4, PAGE + 8
    map W+U
    user
    mov eax, PAGE + 8
    jmp eax
    finish

    check pf_user_read_supervisor, "3A 4.6.1, 4.7", "user read of a supervisor page: U, P"
    faults_on PAGE + 8, 5, 1f
    map P+W
    user
1:  mov eax, dword ptr [PAGE + 8]
    finish

    check pf_user_write_supervisor, "3A 4.6.1, 4.7", "user write of a supervisor page: U, W, P"
    faults_on PAGE + 8, 7, 1f
    map P+W
    user
1:  mov dword ptr [PAGE + 8], eax
    finish

    check pf_user_write_read_only, "3A 4.6.1, 4.7", "user write of a read-only page: U, W, P"
    faults_on PAGE + 8, 7, 1f
    map P+U
    user
1:  mov dword ptr [PAGE + 8], eax
    finish

    check user_read_read_only, "3A 4.6.1", "user read of a read-only user page"
    map P+U
    user
    mov eax, dword ptr [PAGE + 8]
    finish

    check user_write_user, "3A 4.6.1", "user write of a writable user page"
    map P+U+W
    user
    mov dword ptr [PAGE + 8], eax
    finish

    check pf_user_fetch_supervisor, "3A 4.6.1, 4.7", "user fetch from a supervisor page: U, P"
    faults_on PAGE + 8, 5, PAGE + 8
    map P+W
    user
    mov eax, PAGE + 8
    jmp eax
    finish

    check wp_supervisor_write, "3A 4.6.1", "supervisor write of a read-only page with CR0.WP: W, P"
    faults_on PAGE + 8, 3, 1f
    map P
    cr_set cr0, 0x10000
1:  mov dword ptr [PAGE + 8], eax
    finish

    check wp_supervisor_write_user, "3A 4.6.1", "supervisor write of a read-only user page with CR0.WP: W, P"
    faults_on PAGE + 8, 3, 1f
    map P+U
    cr_set cr0, 0x10000
1:  mov dword ptr [PAGE + 8], eax
    finish

    check no_wp_supervisor_write, "3A 4.6.1", "supervisor write of a read-only page without CR0.WP"
    map P
    cr_clear cr0, 0x10000
    mov dword ptr [PAGE + 8], eax
    cr_set cr0, 0x10000
    finish

    check accessed, "3A 4.8", "a read sets the accessed flag, and not the dirty flag"
    map P+W
    mov eax, dword ptr [PAGE]
    mov eax, dword ptr [entry]
    and eax, A+D
    equals eax, A
    finish

    check dirty, "3A 4.8", "a write sets the accessed and the dirty flag"
    map P+W
    mov dword ptr [PAGE], eax
    mov eax, dword ptr [entry]
    and eax, A+D
    equals eax, A+D
    finish

    check upper_accessed, "3A 4.8", "the entry above gets the accessed flag alone"
    map P+W
    upper P+W+U
    mov dword ptr [PAGE], eax
    mov eax, dword ptr [upper_entry]
    and eax, A+D
    equals eax, A
    finish

    check no_accessed_when_refused, "3A 4.8", "a page-table entry that refuses does not become dirty"
    faults_on PAGE, 7
    then 2f
    map P+U
    user
    mov dword ptr [PAGE], eax
2:  mov eax, dword ptr [entry]
    and eax, D
    equals eax, 0
    conclude

    check upper_supervisor, "3A 4.6", "an entry above without U/S makes the page a supervisor page"
    faults_on PAGE, 5, 1f
    then 2f
    map P+U+W
    upper P+W
    user
1:  mov eax, dword ptr [PAGE]
    int DONE
2:  upper P+U+W
    conclude

    check upper_read_only, "3A 4.6", "an entry above without R/W makes the page read-only"
    faults_on PAGE, 7, 1f
    then 2f
    map P+U+W
    upper P+U
    user
1:  mov dword ptr [PAGE], eax
    int DONE
2:  upper P+U+W
    conclude

    check upper_absent, "3A 4.7", "an entry above that is not present: P is 0"
    faults_on PAGE, 0, 1f
    then 2f
    map P+U+W
    upper U+W
1:  mov eax, dword ptr [PAGE]
    int DONE
2:  upper P+U+W
    conclude

    check smep_fetch, "3A 4.6.1", "supervisor fetch from a user page with CR4.SMEP: I, P"
    faults_on PAGE, 0x11, PAGE
    then 2f
    own_memory P+W+PS
    map P+U+W
    cr_set cr4, 0x100000
    mov eax, PAGE
    jmp eax
2:  cr_clear cr4, 0x100000
    own_memory P+W+U+PS
    conclude

    check smap_read, "3A 4.6.1", "supervisor read of a user page with CR4.SMAP: P"
    faults_on PAGE, 1, 1f
    then 2f
    own_memory P+W+PS
    map P+U+W
    upper P+U+W
    cr_set cr4, 0x200000
    push 2
    popfd
1:  mov eax, dword ptr [PAGE]
    nop
2:  cr_clear cr4, 0x200000
    own_memory P+W+U+PS
    conclude

    check smap_write, "3A 4.6.1", "supervisor write of a user page with CR4.SMAP: W, P"
    faults_on PAGE, 3, 1f
    then 2f
    own_memory P+W+PS
    map P+U+W
    cr_set cr4, 0x200000
    push 2
    popfd
1:  mov dword ptr [PAGE], eax
    nop
2:  cr_clear cr4, 0x200000
    own_memory P+W+U+PS
    conclude

    check smap_ac, "3A 4.6.1", "the same with EFLAGS.AC is allowed"
    then 2f
    own_memory P+W+PS
    map P+U+W
    cr_set cr4, 0x200000
    push 0x40002
    popfd
    mov eax, dword ptr [PAGE]
    int DONE
2:  cr_clear cr4, 0x200000
    push 2
    popfd
    own_memory P+W+U+PS
    conclude

    check invlpg, "3A 4.10.4.1", "INVLPG makes a changed entry count"
    map P+W
    mov dword ptr [frame], 0x11111111
    mov dword ptr [frame_2], 0x22222222
    mov eax, dword ptr [PAGE]
    mov dword ptr [entry], offset frame_2 + P + W
    invlpg [PAGE]
    mov eax, dword ptr [PAGE]
    equals eax, 0x22222222
    finish

    check mov_cr3_flushes, "3A 4.10.4.1", "MOV to CR3 makes a changed entry count"
    map P+W
    mov eax, dword ptr [PAGE]
    mov dword ptr [entry], offset frame_2 + P + W
    mov eax, cr3
    mov cr3, eax
    mov eax, dword ptr [PAGE]
    equals eax, 0x22222222
    finish

    check pf_straddle, "3A 4.7, 6.15 #PF", "an access over a page boundary faults on the page that refuses"
    faults_on PAGE + 0x1000, 4, 1f
    map P+U+W
    user
1:  mov eax, dword ptr [PAGE + 0xffe]
    finish

    check pf_in_delivery_is_df, "3A Table 6-5", "#PF while #PF is delivered is a double fault"
    faults 8, 0
    mov word ptr [idt + 8 * 14 + 2], 0
    mov dword ptr [gdt + SPARE], 0
    map 0
    mov eax, dword ptr [PAGE]
    finish
.endm
