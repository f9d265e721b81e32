/* shadows: when an interrupt that is pending is taken: behind STI, POPF, IRET, HLT; NMI and its blocking; paging is off. */
#include "frame32.h"

    .set IRQ0, 0x20
    .set ICR, 0xfee00300        /* of the local APIC */
    .set SELF_NMI, 0x4400       /* delivery mode NMI, to APIC 0 */

/* The timer's interrupt is pending at the 8259A, IF is 0. */
.macro pending
    call make_pending
.endm

/* As `finish`, with everything masked again. */
.macro finish_masked
8:  mov al, 0xff
    out 0x21, al
    call verify
9:
.endm

/* As `finish`, and NMIs are no longer blocked. */
.macro finish_nmi
8:  push 2
    push CODE0
    push_address 7f
    iretd
7:  call verify
9:
.endm

make_pending:
    mov al, 0x11                /* 8259A: ICW1 to ICW4, vectors from 20H on, automatic end of interrupt */
    out 0x20, al
    mov al, IRQ0
    out 0x21, al
    mov al, 4
    out 0x21, al
    mov al, 3
    out 0x21, al
    mov al, 0xfe
    out 0x21, al
    mov al, 0x30                /* 8254: counter 0, mode 0, two ticks */
    out 0x43, al
    mov al, 2
    out 0x40, al
    xor al, al
    out 0x40, al
1:  mov al, 0x0a                /* until IRR shows it */
    out 0x20, al
    in al, 0x20
    test al, 1
    jz 1b
    ret

checks:
    check irq_if_clear, "3A 6.8.1", "with IF = 0 it waits"
    pending
    nop
    nop
    int DONE
    finish_masked

    check irq_behind_sti, "2B STI, 3A 6.8.1", "STI delays it by one instruction"
    faults IRQ0, 0, 1f
    pending
    sti
    nop
1:  nop
    int DONE
    finish_masked

    check irq_sti_cli, "2B STI", "STI and CLI together let nothing in"
    pending
    sti
    cli
    nop
    int DONE
    finish_masked

    check irq_behind_popf, "3A 6.8.1", "POPF that sets IF delays nothing"
    faults IRQ0, 0, 1f
    pending
    push 0x202
    popfd
1:  nop
    int DONE
    finish_masked

    check irq_behind_iret, "3A 6.8.1", "nor does IRET"
    faults IRQ0, 0, 1f
    pending
    push 0x202
    push CODE0
    push_address 1f
    iretd
1:  nop
    int DONE
    finish_masked

    check irq_behind_iret_user, "3A 6.8.1", "nor IRET to ring 3: it comes before the first instruction there"
    faults IRQ0, 0, 1f
    then 2f
    pending
    push DATA3
    push_address user_stack
    push 0x202
    push CODE3
    push_address 1f
    iretd
1:  nop
    int DONE
2:  holds got_cs, CODE3
    finish_masked

    check irq_sti_lss, "2A LDS", "LSS behind STI delays it no further"
    faults IRQ0, 0, 1f
    pending
    mov dword ptr [scratch], esp
    mov word ptr [scratch + 4], DATA0
    sti
    lss esp, [scratch]
1:  nop
    int DONE
    finish_masked

    check irq_ends_hlt, "2A HLT", "it ends HLT behind STI; the saved EIP is behind the HLT"
    faults IRQ0, 0, 1f
    pending
    sti
    hlt
1:  nop
    int DONE
    finish_masked

    check irq_gate_clears_if, "3A 6.12.1.3", "an interrupt gate clears IF, the image has it set"
    then 2f
    mov dword ptr [want_vector], IRQ0
    pending
    sti
    nop
    nop
    int DONE
2:  and dword ptr [got_eflags], 0x200
    holds got_eflags, 0x200
    finish_masked

    check irq_ignores_dpl, "3A 6.12.1.2", "the DPL of its gate does not count"
    faults IRQ0, 0, 1f
    pending
    push DATA3
    push_address user_stack
    push 0x202
    push CODE3
    push_address 1f
    iretd
1:  nop
    int DONE
    finish_masked

    check irq_np_ext, "3A 6.13", "a gate that is not present: #NP(vector * 8 + 2) with EXT"
    faults 11, 8 * IRQ0 + 3, 1f
    mov byte ptr [idt + 8 * IRQ0 + 5], 0x0e
    pending
    sti
    nop
1:  nop
    int DONE
    finish_masked
    check nmi, "3A 6.7", "an NMI goes through vector 2 although IF is 0"
    faults 2, 0, 1f
    mov dword ptr [ICR], SELF_NMI
1:  nop
    nop
    int DONE
    finish_nmi

    check nmi_user, "3A 6.7, 6.12.1.2", "in ring 3, whatever the DPL of its gate"
    faults 2, 0, 1f
    then 2f
    push DATA3
    push_address user_stack
    push 0x2
    push CODE3
    push_address 3f
    iretd
3:  mov dword ptr [ICR], SELF_NMI
1:  nop
    int DONE
2:  holds got_cs, CODE3
    finish_nmi

    check nmi_np_ext, "3A 6.13", "a gate that is not present: #NP(2 * 8 + 2) with EXT"
    faults 11, 19, 1f
    mov byte ptr [idt + 8 * 2 + 5], 0x0e
    mov dword ptr [ICR], SELF_NMI
1:  nop
    nop
    int DONE
    finish_nmi

    check nmi_blocked, "3A 6.7.1", "another one waits until an IRET ends the handler"
    gate 2, CODE0, nmi_handler, 0x8e00
    mov dword ptr [scratch], 0
    mov dword ptr [ICR], SELF_NMI
    nop
    nop
    mov ebx, dword ptr [scratch + 4]
    equals ebx, 1
    mov ebx, dword ptr [scratch]
    equals ebx, 2
    int DONE
    finish_nmi

    check nmi_before_irq, "3A 6.9", "it comes before a maskable interrupt; that follows when IRET sets IF"
    gate 2, CODE0, nmi_and_irq, 0x8e00
    faults IRQ0, 0, 1f
    then 2f
    mov dword ptr [scratch], 0
    pending
    sti
    mov dword ptr [ICR], SELF_NMI
1:  nop
    nop
    int DONE
2:  holds scratch, 1
    finish_masked
    jmp report

/* Counts, and sends another one to itself the first time. */
nmi_handler:
    inc dword ptr [scratch]
    cmp dword ptr [scratch], 1
    jne 1f
    mov dword ptr [ICR], SELF_NMI
    nop
    nop
    mov ebx, dword ptr [scratch]
    mov dword ptr [scratch + 4], ebx
1:  iretd

nmi_and_irq:
    inc dword ptr [scratch]
    iretd
