/* The frame of the 64-bit conformance guests: what frame32.h is to the others, in IA-32e mode.
 *
 * It is entered by the 32-bit boot protocol and turns 4-level paging on: the first 4 MiB are mapped to themselves for
 * everybody, and PAGE leads through tables of its own (pml4, pointers, directory, table) to `frame`.
 */
    .intel_syntax noprefix
    .set number, 0
    .set CODE0, 0x08
    .set DATA0, 0x10
    .set CODE3_32, 0x1b
    .set DATA3, 0x23
    .set CODE3, 0x2b
    .set DATA3_ALSO, 0x33       /* SYSEXIT's */
    .set TASK, 0x38             /* and 0x40 */
    .set CODE0_32, 0x48
    .set SPARE, 0x50            /* to 0x98: the checks' own */
    .set DONE, 0x30
    .set PAGE, 0x40000000
    .set P, 1
    .set W, 2
    .set U, 4
    .set A, 0x20
    .set D, 0x40
    .set PS, 0x80

/* Labels as immediates, numeric ones too, which the Intel syntax would take for binary numbers. */
.macro address_eax label
    .byte 0xb8
    .long \label
.endm
.macro address_ecx label
    .byte 0xb9
    .long \label
.endm
.macro address_edx label
    .byte 0xba
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
    address_eax 7b
    mov dword ptr [current], eax
    address_eax 8f
    mov dword ptr [resume], eax
    call prepare
.endm

.macro faults vector, error=0, at=0
    mov dword ptr [want_vector], \vector
    mov dword ptr [want_error], \error
    address_eax \at
    mov dword ptr [want_rip], eax
.endm

.macro faults_nowhere vector, error=0
    mov dword ptr [want_vector], \vector
    mov dword ptr [want_error], \error
.endm

.macro faults_on address, error, at
    faults 14, \error, \at
    mov dword ptr [use_cr2], 1
    mov rax, \address
    mov qword ptr [want_cr2], rax
.endm

.macro then label
    address_eax \label
    mov dword ptr [resume], eax
.endm

.macro user flags=2
    push \flags
    call enter_user
.endm

/* On in 32-bit code of ring 3. */
.macro user_32
    push DATA3
    mov eax, offset user_stack
    push rax
    push CODE3_32
    address_eax 5f
    push rax
    .byte 0x48, 0xcb            /* retfq */
5:  .code32
.endm

.macro equals what, value
    cmp \what, \value
    je 6f
    mov dword ptr [mismatch], number
6:
.endm
.macro holds place, value
    cmp qword ptr [\place], \value
    je 6f
    mov dword ptr [mismatch], number
6:
.endm
/* A register against memory. */
.macro equals_place register, place
    cmp \register, qword ptr [\place]
    je 6f
    mov dword ptr [mismatch], number
6:
.endm
/* The address that a variable holds. */
.macro holds_address place, label
    address_eax \label
    cmp qword ptr [\place], rax
    je 6f
    mov dword ptr [mismatch], number
6:
.endm

.macro descriptor selector, low, high
    mov dword ptr [gdt + (\selector & ~7)], \low
    mov dword ptr [gdt + (\selector & ~7) + 4], \high
.endm

.macro call_gate selector, code, target, kind=0xec00
    address_eax \target
    mov word ptr [gdt + (\selector & ~7)], ax
    shr eax, 16
    mov word ptr [gdt + (\selector & ~7) + 6], ax
    mov word ptr [gdt + (\selector & ~7) + 2], \code
    mov word ptr [gdt + (\selector & ~7) + 4], \kind
.endm

.macro msr_set number_, low, high=0
    mov ecx, \number_
    mov eax, \low
    mov edx, \high
    wrmsr
.endm

.macro map flags
    mov eax, offset frame
    add rax, \flags
    mov qword ptr [table], rax
    mov eax, PAGE
    invlpg [rax]
.endm

/* What the tables above have beside their address, and what they lead to. */
.macro upper entry, next, flags
    address_eax \next
    add rax, \flags
    mov qword ptr [\entry], rax
    mov rax, cr3
    mov cr3, rax
.endm

.macro own_memory flags
    mov dword ptr [low_directory], \flags
    mov dword ptr [low_directory + 8], 0x200000 + (\flags)
    mov rax, cr3
    mov cr3, rax
.endm

.macro cr_set register, bits
    mov rax, \register
    or rax, \bits
    mov \register, rax
.endm
.macro cr_clear register, bits
    mov rax, \register
    and rax, ~(\bits)
    mov \register, rax
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
resume: .quad 0
mismatch: .long 0, 0
want_vector: .quad 0
want_error: .quad 0
want_rip: .quad 0
got_vector: .quad 0
got_error: .quad 0
got_rip: .quad 0
got_cs: .quad 0
got_rflags: .quad 0
got_rsp: .quad 0
got_ss: .quad 0
got_own_ss: .quad 0
got_frame: .quad 0
got_cr2: .quad 0
got_rbx: .quad 0
use_cr2: .long 0, 0
want_cr2: .quad 0
scratch: .quad 0, 0, 0, 0
failures: .long 0
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff, 0x00cf93000000ffff
    .quad 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff
    .quad 0, 0                  /* the TSS */
    .quad 0x00cf9b000000ffff
    .fill 10, 8, 0              /* SPARE */
gdt_end:
gdtr: .word gdt_end - gdt - 1
    .long gdt, 0
    .balign 16
idt: .fill 512, 8, 0
idtr: .word 0xfff
    .long idt, 0
    .balign 16
tss: .fill 26, 4, 0
    .section .tables, "aw"
    .balign 4096
pml4: .fill 512, 8, 0
pointers: .fill 512, 8, 0
low_directory: .fill 512, 8, 0
directory: .fill 512, 8, 0
table: .fill 512, 8, 0
    .section .stack, "aw", @nobits
    .balign 4096
frame: .skip 4096
frame_2: .skip 4096
    .skip 4096
kernel_stack:
    .skip 4096
inner_stack:
    .skip 4096
ist_stack:
    .skip 4096
user_stack:

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

    .code32
    .globl _start
_start:
    cli
    cld
    lgdt [gdtr]
    mov esp, offset kernel_stack
    mov al, 0xff
    out 0x21, al
    out 0xa1, al
    mov eax, offset pointers + P + W + U
    mov dword ptr [pml4], eax
    mov eax, offset low_directory + P + W + U
    mov dword ptr [pointers], eax
    mov dword ptr [low_directory], P + W + U + PS
    mov dword ptr [low_directory + 8], 0x200000 + P + W + U + PS
    mov eax, offset directory + P + W + U
    mov dword ptr [pointers + 8], eax
    mov eax, offset table + P + W + U
    mov dword ptr [directory], eax
    mov eax, offset pml4
    mov cr3, eax
    mov eax, 0x620              /* PAE, OSFXSR, OSXMMEXCPT */
    mov cr4, eax
    mov ecx, 0xc0000080
    mov eax, 0x901              /* NXE, LME, SCE */
    xor edx, edx
    wrmsr
    mov eax, 0x80010031         /* PG, WP, NE, ET, PE */
    mov cr0, eax
    .byte 0xea
    .long 1f
    .word CODE0
    .code64
1:  mov eax, DATA0
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov esp, offset kernel_stack
    lgdt [gdtr]
    lidt [idtr]
    mov eax, offset tss
    mov dword ptr [gdt + TASK], 0x67
    mov word ptr [gdt + TASK + 2], ax
    shr eax, 16
    mov byte ptr [gdt + TASK + 4], al
    mov byte ptr [gdt + TASK + 5], 0x89
    mov byte ptr [gdt + TASK + 7], ah
    mov eax, offset inner_stack
    mov dword ptr [tss + 4], eax
    mov eax, offset ist_stack
    mov dword ptr [tss + 0x24], eax
    mov word ptr [tss + 102], 104
    mov eax, TASK
    ltr ax
    jmp checks
report:
    mov eax, dword ptr [failures]
    out 0xf4, al
    hlt

prepare:
    mov eax, DATA0
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov qword ptr [want_vector], DONE
    mov qword ptr [want_error], 0
    mov qword ptr [want_rip], 0
    mov dword ptr [mismatch], 0
    mov dword ptr [use_cr2], 0
    mov dword ptr [got_vector], 0xff
    mov edi, offset gdt + SPARE
    mov ecx, 20
    xor eax, eax
    rep stosd
    xor ecx, ecx
    mov edx, offset stubs
    mov edi, offset idt
1:  mov eax, edx
    mov word ptr [rdi], ax
    shr eax, 16
    mov word ptr [rdi + 6], ax
    mov word ptr [rdi + 2], CODE0
    mov word ptr [rdi + 4], 0x8e00
    mov qword ptr [rdi + 8], 0
    add edx, 16
    add edi, 16
    inc ecx
    cmp ecx, 256
    jb 1b
    mov word ptr [idt + 16 * DONE + 4], 0xee00
    ret

enter_user:
    pop rax
    pop rcx
    mov edx, DATA3
    mov ds, edx
    mov es, edx
    push DATA3
    mov edx, offset user_stack
    push rdx
    push rcx
    push CODE3
    push rax
    iretq

    .balign 16
stubs:
    .set n, 0
    .rept 256
    stub %n
    .set n, n + 1
    .endr

common:
    mov qword ptr [got_rbx], rbx
    mov qword ptr [got_frame], rsp
    pop qword ptr [got_vector]
    pop qword ptr [got_error]
    pop qword ptr [got_rip]
    pop qword ptr [got_cs]
    pop qword ptr [got_rflags]
    pop qword ptr [got_rsp]
    pop qword ptr [got_ss]
    mov eax, ss
    mov dword ptr [got_own_ss], eax
    mov rax, cr2
    mov qword ptr [got_cr2], rax
    mov eax, DATA0
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov fs, eax
    mov gs, eax
    mov esp, offset kernel_stack - 64
    push 2
    popfq
    jmp qword ptr [resume]

verify:
    mov eax, DATA0
    mov ds, eax
    mov es, eax
    cmp dword ptr [mismatch], 0
    jne 1f
    mov rax, qword ptr [got_vector]
    cmp rax, qword ptr [want_vector]
    jne 1f
    mov rax, qword ptr [got_error]
    cmp rax, qword ptr [want_error]
    jne 1f
    cmp dword ptr [use_cr2], 0
    je 7f
    mov rax, qword ptr [got_cr2]
    cmp rax, qword ptr [want_cr2]
    jne 1f
7:  mov rax, qword ptr [want_rip]
    test rax, rax
    jz 2f
    cmp rax, qword ptr [got_rip]
    je 2f
1:  inc dword ptr [failures]
    mov al, '-'
    call put
    mov esi, dword ptr [current]
    call puts
    mov ebx, offset got_values
3:  mov esi, dword ptr [rbx]
    test esi, esi
    jz 5f
    mov r8, qword ptr [rsi]
    mov al, ' '
    call put
    mov ecx, 16
4:  rol r8, 4
    mov al, r8b
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
got_values: .long got_vector, got_error, got_rip, got_cr2, mismatch, want_vector, want_error, want_rip, 0
    .text

put:
    mov edx, 0x3f8
    out dx, al
    ret
puts:
    mov al, [rsi]
    test al, al
    jz 1f
    call put
    inc esi
    jmp puts
1:  ret
