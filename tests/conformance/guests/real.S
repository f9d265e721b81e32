/* real: real-address mode: segments, exceptions through the IVT, and the segments that it inherits ("unreal mode"). */
#include "frame32.h"

    .set LOW, 0x8000            /* where a check's code runs, as 0800:0000 */
    .set BACK, 0x7000           /* and what leads to it and back: 0700:0000 */
    .set STACK_SEGMENT, 0x900
    .set TOP, 0x1000
    .set CODE_16, 0x30          /* SPARE's, for the way down */
    .set DATA_16, 0x38
    .set REAL_DONE, 0xff

/* The code up to `leave_real` runs in real-address mode, at LOW; an exception ends it. Segment limits are 64 KiB unless
 * `data` is another descriptor's high half. */
.macro enter_real data=0x00009300
    .byte 0xbe                  /* mov esi, ... */
    .long 3f
    mov dword ptr [real_data], \data
    call go_real
    jmp 5f
3:  .code16
.endm
.macro leave_real
    .byte 0xcd, REAL_DONE
    .code32
5:
.endm
/* What is to have happened: the vector, and the offset in the check's code that the frame shows. */
.macro real_faults vector, offset_
    mov dword ptr [real_vector], \vector
    mov dword ptr [real_ip], \offset_
.endm

    .section .data
real_vector: .long REAL_DONE
real_ip: .long 0
real_data: .long 0
saved_esp: .long 0
real_idtr: .word 0x3ff
    .long 0
low_code:
    .code16
    /* 0700:0000 */
    mov eax, cr0
    and al, 0xfe
    mov cr0, eax
    .byte 0xea
    .word 16, 0x700
    .fill 16 - (. - low_code), 1, 0x90
    xor ax, ax
    mov ds, ax
    mov es, ax
    mov ax, STACK_SEGMENT
    mov ss, ax
    mov sp, TOP
    push 2
    popf
    .byte 0xea
    .word 0, 0x800
    .fill 64 - (. - low_code), 1, 0x90
    /* 0700:0040 + 8 n, the handlers */
    .set n, 0
    .rept 256
    .byte 0x68                  /* push n */
    .word n
    .byte 0xe9
    .word low_back - (. + 2)
    .fill 2, 1, 0x90
    .set n, n + 1
    .endr
low_back:
    pop ax                      /* to cs:[0xf00] and on: vector, IP, CS, FLAGS, SP, EBX */
    .byte 0x2e, 0xa3
    .word 0xf00
    pop ax
    .byte 0x2e, 0xa3
    .word 0xf02
    pop ax
    .byte 0x2e, 0xa3
    .word 0xf04
    pop ax
    .byte 0x2e, 0xa3
    .word 0xf06
    .byte 0x2e, 0x89, 0x26      /* mov cs:[0xf08], sp */
    .word 0xf08
    .byte 0x66, 0x2e, 0x89, 0x1e        /* mov cs:[0xf0c], ebx */
    .word 0xf0c
    .byte 0x2e, 0x66, 0x0f, 0x01, 0x16  /* lgdtd cs:[0xf10] */
    .word 0xf10
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xea
    .long real_is_over
    .word CODE0
low_end:
    .code32
    .text

go_real:
    mov dword ptr [saved_esp], esp
    push esi
    mov esi, offset low_code
    mov edi, BACK
    mov ecx, offset low_end
    sub ecx, offset low_code
    rep movsb
    pop esi
    mov edi, LOW
    mov ecx, 128
    rep movsb
    xor edi, edi                /* the IVT */
    mov eax, 0x07000040
1:  mov dword ptr [edi], eax
    add edi, 4
    add eax, 8
    cmp edi, 0x400
    jb 1b
    mov ax, word ptr [gdtr]
    mov word ptr [BACK + 0xf10], ax
    mov eax, dword ptr [gdtr + 2]
    mov dword ptr [BACK + 0xf12], eax
    mov dword ptr [gdt + CODE_16], (BACK << 16) | 0xffff
    mov dword ptr [gdt + CODE_16 + 4], 0x00009b00
    mov dword ptr [gdt + DATA_16], 0x0000ffff
    mov eax, dword ptr [real_data]
    mov dword ptr [gdt + DATA_16 + 4], eax
    lidt [real_idtr]
    mov eax, DATA_16
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    .byte 0xea
    .long 0
    .word CODE_16

real_is_over:
    mov eax, DATA0
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, dword ptr [saved_esp]
    lidt [idtr]
    cld
    movzx eax, word ptr [BACK + 0xf00]
    cmp eax, dword ptr [real_vector]
    jne 1f
    cmp eax, REAL_DONE
    je 2f
    movzx eax, word ptr [BACK + 0xf02]
    cmp eax, dword ptr [real_ip]
    je 2f
1:  movzx eax, word ptr [BACK + 0xf00]
    mov dword ptr [mismatch], eax
2:  mov dword ptr [real_vector], REAL_DONE
    mov dword ptr [real_ip], 0
    ret
    .set REAL_CS, BACK + 0xf04
    .set REAL_FLAGS, BACK + 0xf06
    .set REAL_SP, BACK + 0xf08
    .set REAL_EBX, BACK + 0xf0c

checks:

    check real_segment, "3B 20.1.1", "a segment begins at 16 times its selector"
    mov word ptr [0x12348], 0x5a5a
    enter_real
    mov ax, 0x1234
    mov ds, ax
    xor ebx, ebx
    mov bx, word ptr [8]
    leave_real
    holds REAL_EBX, 0x5a5a
    finish

    check real_interrupt_frame, "3B 20.1.4", "INT pushes FLAGS, CS and IP as words and clears IF"
    enter_real
    sti
    nop
    leave_real
    holds_word REAL_CS, 0x800
    holds_word REAL_FLAGS, 0x202
    holds_word REAL_SP, TOP
    finish

    check real_de, "3B Table 20-1", "a division by zero: vector 0, on the DIV"
    real_faults 0, 2
    enter_real
    xor cx, cx
    div cx
    leave_real
    finish

    check real_int3, "3B Table 20-1", "INT3: vector 3, behind it"
    real_faults 3, 1
    enter_real
    int3
    leave_real
    finish

    check real_into, "3B Table 20-1", "INTO: vector 4, behind it"
    real_faults 4, 5
    enter_real
    mov al, 0x7f
    inc al
    into
    leave_real
    finish

    check real_bound, "3B Table 20-1", "BOUND: vector 5, on it"
    real_faults 5, 3
    enter_real
    mov ax, 5
    .byte 0x2e, 0x62, 0x06
    .word 9
    nop
    .word 6, 9
    leave_real
    finish

    check real_ud, "3B Table 20-1", "UD2: vector 6, on it"
    real_faults 6, 0
    enter_real
    ud2
    leave_real
    finish

    check real_ud_lldt, "2A LLDT", "LLDT: vector 6"
    real_faults 6, 0
    enter_real
    .byte 0x0f, 0x00, 0xd0
    leave_real
    finish

    check real_ud_ltr, "2A LTR", "LTR: vector 6"
    real_faults 6, 0
    enter_real
    .byte 0x0f, 0x00, 0xd8
    leave_real
    finish

    check real_ud_sldt, "2B SLDT", "SLDT: vector 6"
    real_faults 6, 0
    enter_real
    .byte 0x0f, 0x00, 0xc0
    leave_real
    finish

    check real_ud_lar, "2A LAR", "LAR: vector 6"
    real_faults 6, 0
    enter_real
    .byte 0x0f, 0x02, 0xc0
    leave_real
    finish

    check real_ud_arpl, "2A ARPL", "ARPL: vector 6"
    real_faults 6, 0
    enter_real
    .byte 0x63, 0xc0
    leave_real
    finish

    check real_ud_syscall, "2B SYSCALL", "SYSCALL: vector 6"
    real_faults 6, 0
    enter_real
    syscall
    leave_real
    finish

    check real_gp_sysenter, "2B SYSENTER", "SYSENTER: vector 13"
    real_faults 13, 0
    enter_real
    sysenter
    leave_real
    finish

    check real_single_step, "3B 18.3.1.4", "TF: vector 1 behind the next instruction"
    real_faults 1, 5
    enter_real
    push 0x102
    popf
    nop
    nop
    leave_real
    finish

    check real_gp_word_at_ffff, "3B Table 20-1", "a word at offset FFFF: vector 13"
    real_faults 13, 0
    enter_real
    .byte 0xa1, 0xff, 0xff
    leave_real
    finish

    check real_gp_beyond_64k, "3B 20.1.1", "an offset beyond FFFF by a 32-bit address: vector 13"
    real_faults 13, 6
    enter_real
    mov esi, 0x10000
    .byte 0x67, 0x8b, 0x06
    leave_real
    finish

    check unreal, "3A 9.9.2", "a segment loaded in protected mode keeps its limit until it is loaded again, and longer"
    mov dword ptr [scratch], 0x5a5aa5a5
    enter_real 0x008f9300
    .byte 0x66, 0xbe            /* mov esi, ... */
    .long scratch
    mov ebx, dword ptr [esi]
    mov ax, ds
    mov ds, ax
    mov ebx, dword ptr [esi]
    leave_real
    holds REAL_EBX, 0x5a5aa5a5
    finish

    check real_iret, "2A IRET", "IRET pops IP, CS and FLAGS"
    enter_real
    push 0x0803
    push 0x0801
    push 0x0a
    iret
    .fill 64, 1, 0x90
    leave_real
    holds_word REAL_CS, 0x801
    holds_word REAL_FLAGS, 0x803
    finish

    check real_call_far, "2A CALL", "far CALL pushes CS and IP as words"
    enter_real
    .byte 0x9a
    .word 6, 0x0800
    nop
    .byte 0x5b, 0x59            /* pop bx, cx */
    shl ebx, 16
    mov bx, cx
    leave_real
    holds REAL_EBX, 0x50800
    finish

    check real_smsw, "2B SMSW", "SMSW shows PE as 0"
    enter_real
    smsw bx
    and ebx, 1
    leave_real
    holds REAL_EBX, 0
    finish

    check real_stack_wraps, "3B 20.1.1", "the stack wraps at 64 KiB"
    enter_real
    xor sp, sp
    push ax
    mov bx, sp
    movzx ebx, bx
    mov sp, TOP
    leave_real
    holds REAL_EBX, 0xfffe
    finish

    check real_idt_limit, "3B 20.1.4", "a vector beyond the limit of the IVT: vector 13, then 8"
    real_faults 13, 8
    enter_real
    .byte 0x2e, 0x0f, 0x01, 0x1e        /* lidt cs:[...] */
    .word 10
    nop
    nop
    int 0x40
    .byte 0xff, 0, 0, 0, 0, 0
    leave_real
    finish

    check a20_off, "3A 8.7.13.4, IBM AT", "with A20 masked address 100000 is address 0"
    mov dword ptr [0x500], 0x11111111
    mov edi, 0x100500
    push dword ptr [edi]
    mov dword ptr [edi], 0x22222222
    enter_real
    in al, 0x92
    and al, 0xfc
    out 0x92, al
    mov ax, 0xffff
    mov ds, ax
    mov ebx, dword ptr [0x510]
    in al, 0x92
    and al, 0xfe
    or al, 2
    out 0x92, al
    leave_real
    holds REAL_EBX, 0x11111111
    mov edi, 0x100500
    pop dword ptr [edi]
    finish

    check a20_on, "3B 20.1.1", "with A20 FFFF:0510 is address 100500"
    mov dword ptr [0x500], 0x11111111
    mov edi, 0x100500
    push dword ptr [edi]
    mov dword ptr [edi], 0x22222222
    enter_real
    in al, 0x92
    and al, 0xfe
    or al, 2
    out 0x92, al
    mov ax, 0xffff
    mov ds, ax
    mov ebx, dword ptr [0x510]
    leave_real
    holds REAL_EBX, 0x22222222
    mov edi, 0x100500
    pop dword ptr [edi]
    finish
    jmp report
