/* The frame of the 32-bit conformance guests: descriptor tables, handlers, and how a check is written.
 *
 *     check gp_hlt, "Vol. 2A HLT", "HLT at CPL 3 is #GP(0)"
 *     faults 13, 0, 1f            // vector, error code, saved EIP
 *     user                        // what follows runs in ring 3
 * 1:  hlt
 *     finish
 *
 * Each check prints a line: + and its identifier, or - and what it got. A check whose number is below first_check is
 * skipped, so that a runner can go on behind one that has ended the guest.
 */
    .intel_syntax noprefix
    .set number, 0
    .set CODE0, 0x08
    .set DATA0, 0x10
    .set CODE3, 0x1b
    .set DATA3, 0x23
    .set TASK, 0x28
    .set SPARE, 0x30            /* to 0x78: the checks' own */
    .set CODE1, 0x81
    .set DATA1, 0x89
    .set ANYTHING, 0x7fffffff
    .set DONE, 0x30             /* the vector by which a check says that nothing has happened */

/* Numeric labels as immediates, which the Intel syntax would take for binary numbers. */
.macro store_address where, label
    .byte 0xc7, 0x05
    .long \where, \label
.endm
.macro address_eax label
    .byte 0xb8
    .long \label
.endm
.macro push_address label
    .byte 0x68
    .long \label
.endm

.macro check id, section, title
    .set number, number + 1
    mov eax, number
    cmp eax, dword ptr [first_check]
    jb 9f
    .pushsection .rodata
7:  .asciz "\id"
    .popsection
    store_address current, 7b
    store_address resume, 8f
    call prepare
.endm

/* What the check is to end with. */
.macro faults vector, error=0, at=0
    mov dword ptr [want_vector], \vector
    mov dword ptr [want_error], \error
    store_address want_eip, \at
.endm

/* The same, and the address in CR2. */
.macro faults_on address, error=0, at=0
    faults 14, \error, \at
    mov dword ptr [use_cr2], 1
    mov dword ptr [want_cr2], \address
.endm

/* Where to go on after the exception, instead of to the end of the check. */
.macro then label
    store_address resume, \label
.endm

.macro user flags=2
    push \flags
    call enter_user
.endm

.macro equals what, value
    cmp \what, \value
    je 6f
    mov dword ptr [mismatch], number
6:
.endm

/* What is in memory. */
.macro holds place, value
    cmp dword ptr [\place], \value
    je 6f
    mov dword ptr [mismatch], number
6:
.endm
.macro holds_word place, value
    cmp word ptr [\place], \value
    je 6f
    mov dword ptr [mismatch], number
6:
.endm
.macro holds_byte place, value
    cmp byte ptr [\place], \value
    je 6f
    mov dword ptr [mismatch], number
6:
.endm
/* A register against memory. */
.macro equals_place register, place
    cmp \register, dword ptr [\place]
    je 6f
    mov dword ptr [mismatch], number
6:
.endm

/* EAX against an address. */
.macro address_equals value
    .byte 0x3d
    .long \value
    je 6f
    mov dword ptr [mismatch], number
6:
.endm

/* The same in ring 3, whose DS reaches the same memory. */
.macro equals_user what, value
    equals \what, \value
.endm

.macro descriptor selector, low, high
    mov dword ptr [gdt + (\selector & ~7)], \low
    mov dword ptr [gdt + (\selector & ~7) + 4], \high
.endm

.macro gate vector, selector, target, kind
    address_eax \target
    mov word ptr [idt + 8 * \vector], ax
    shr eax, 16
    mov word ptr [idt + 8 * \vector + 6], ax
    mov word ptr [idt + 8 * \vector + 2], \selector
    mov word ptr [idt + 8 * \vector + 4], \kind
.endm

.macro finish
    int DONE
    conclude
.endm

.macro conclude
8:  call verify
9:
.endm

    .section .data
    .balign 16
    .globl first_check
first_check: .long 0
current: .long 0
resume: .long 0
mismatch: .long 0
want_vector: .long 0
want_error: .long 0
want_eip: .long 0
got_vector: .long 0
got_error: .long 0
got_eip: .long 0
got_cs: .long 0
got_eflags: .long 0
got_esp: .long 0
got_ss: .long 0
got_frame_esp: .long 0
got_cr2: .long 0
got_ebx: .long 0
use_cr2: .long 0
want_cr2: .long 0
failures: .long 0
    .balign 16
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff
    .quad 0                     /* the TSS */
    .fill 10, 8, 0              /* SPARE */
    .quad 0x00cfbb000000ffff, 0x00cfb3000000ffff
    .fill 8, 8, 0
gdt_end:
gdtr: .word gdt_end - gdt - 1
    .long gdt
    .balign 8
idt: .fill 256, 8, 0
idtr: .word 0x7ff
    .long idt
empty_idtr: .word 0
    .long idt
    .balign 16
tss: .fill 26, 4, 0
io_map: .fill 8192, 1, 0xff
    .byte 0xff
tss_end:
    .section .stack, "aw", @nobits
    .balign 4096
    .skip 4096
kernel_stack:
    .skip 4096
inner_stack:
    .skip 4096
user_stack:
scratch: .skip 4096
    .text

/* The multiboot header (Multiboot Specification 0.6.96, section 3.1), so that any loader of that kind can boot it. */
    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002, 0, -0x1badb002
    .text

    .altmacro
.macro stub vector
    .balign 16
    .if (\vector == 8) || ((\vector >= 10) && (\vector <= 14)) || (\vector == 17)
    .else
    push 0
    .endif
    push \vector
    jmp common
.endm

    .globl _start
_start:
    cli
    cld
    lgdt [gdtr]
    .byte 0xea
    .long 1f
    .word CODE0
1:  mov eax, DATA0
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, offset kernel_stack
#ifdef SETUP
    call setup
#endif
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov eax, offset tss
    mov dword ptr [gdt + TASK], 104 + 8192
    mov word ptr [gdt + TASK + 2], ax
    shr eax, 16
    mov byte ptr [gdt + TASK + 4], al
    mov byte ptr [gdt + TASK + 5], 0x89
    mov byte ptr [gdt + TASK + 7], ah
    mov dword ptr [tss + 4], offset inner_stack
    mov dword ptr [tss + 8], DATA0
    mov word ptr [tss + 102], 104
    lidt [idtr]
    mov eax, TASK
    ltr ax
    jmp checks
/* Checks end here. */
report:
    mov eax, dword ptr [failures]
    out 0xf4, al
    hlt

/* Everything as a check expects it: tables, registers, what is wanted. */
prepare:
    mov eax, DATA0
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov dword ptr [want_vector], DONE
    mov dword ptr [want_error], 0
    mov dword ptr [want_eip], 0
    mov dword ptr [mismatch], 0
    mov dword ptr [use_cr2], 0
    mov dword ptr [got_vector], 0xff
    mov dword ptr [tss + 4], offset inner_stack
    mov dword ptr [tss + 8], DATA0
    mov edi, offset gdt + SPARE
    mov ecx, 20
    xor eax, eax
    cld
    rep stosd
    xor ecx, ecx
    mov edx, offset stubs
    mov edi, offset idt
1:  mov eax, edx
    mov word ptr [edi], ax
    shr eax, 16
    mov word ptr [edi + 6], ax
    mov word ptr [edi + 2], CODE0
    mov word ptr [edi + 4], 0x8e00
    add edx, 16
    add edi, 8
    inc ecx
    cmp ecx, 256
    jb 1b
    mov word ptr [idt + 8 * DONE + 4], 0xee00
    lidt [idtr]
    lgdt [gdtr]
    ret

/* On the stack: EFLAGS to run with, and where. */
enter_user:
    pop eax
    pop ecx
    mov edx, DATA3
    mov ds, edx
    mov es, edx
    push DATA3
    push_address user_stack
    push ecx
    push CODE3
    push eax
    iretd

    .balign 16
stubs:
    .set n, 0
    .rept 256
    stub %n
    .set n, n + 1
    .endr

common:
    .byte 0x66, 0xb8            /* mov ax, imm16: EAX's upper half is of no use to a check */
    .word DATA0
    mov ds, ax
    mov es, ax
    mov dword ptr [got_ebx], ebx
    mov dword ptr [got_frame_esp], esp
    pop dword ptr [got_vector]
    pop dword ptr [got_error]
    pop dword ptr [got_eip]
    pop dword ptr [got_cs]
    pop dword ptr [got_eflags]
    mov dword ptr [got_esp], esp
    mov eax, ss
    mov dword ptr [got_ss], eax
    test dword ptr [got_eflags], 0x20000
    jnz 1f
    test dword ptr [got_cs], 3
    jz 2f
    cmp dword ptr [got_cs], CODE1
    je 2f
1:  mov eax, [esp]
    mov dword ptr [got_esp], eax
    mov eax, [esp + 4]
    mov dword ptr [got_ss], eax
2:  cmp dword ptr [got_vector], 14
    jne 3f
    mov eax, cr2
    mov dword ptr [got_cr2], eax
3:  mov eax, DATA0
    mov ss, eax
    mov esp, offset kernel_stack - 64
    push 2
    popfd
    mov fs, ax
    mov gs, ax
    jmp dword ptr [resume]

verify:
    mov eax, DATA0
    mov ds, eax
    mov es, eax
    mov esi, offset kernel_stack - 4
    cmp dword ptr [mismatch], 0
    jne 1f
    mov eax, dword ptr [got_vector]
    cmp eax, dword ptr [want_vector]
    jne 1f
    mov eax, dword ptr [got_error]
    cmp eax, dword ptr [want_error]
    jne 1f
    cmp dword ptr [use_cr2], 0
    je 7f
    mov eax, dword ptr [got_cr2]
    cmp eax, dword ptr [want_cr2]
    jne 1f
7:  mov eax, dword ptr [want_eip]
    test eax, eax
    jz 2f
    cmp eax, dword ptr [got_eip]
    je 2f
1:  inc dword ptr [failures]
    mov al, '-'
    call put
    mov esi, dword ptr [current]
    call puts
    mov ebx, offset got_values
3:  mov esi, dword ptr [ebx]
    test esi, esi
    jz 5f
    mov eax, dword ptr [esi]
    push eax
    mov al, ' '
    call put
    pop edx
    mov ecx, 8
4:  rol edx, 4
    mov al, dl
    and al, 15
    cmp al, 10
    jb 6f
    add al, 39
6:  add al, 48
    call put
    loop 4b
    add ebx, 4
    jmp 3b
2:  mov al, '+'
    call put
    mov esi, dword ptr [current]
    call puts
5:  mov al, 10
    call put
    ret

    .section .rodata
got_values: .long got_vector, got_error, got_eip, got_cr2, mismatch, want_vector, want_error, want_eip, 0
    .text

put:
    push edx
    mov edx, 0x3f8
    out dx, al
    pop edx
    ret
puts:
    mov al, [esi]
    test al, al
    jz 1f
    call put
    inc esi
    jmp puts
1:  ret
