/* The bench: runs random instructions one by one and writes down the state after each.
 *
 * It is entered in flat 32-bit protected mode with its tables, cases and parameters in memory already
 * (tests/differential/layout.py), goes to the mode that the parameters name, and for each case loads the whole state and
 * enters the case's code with TF set. Every exception, the #DB of the single step above all, arrives at the same handler,
 * which logs the state and goes on, until the case has run its steps, has met another exception than #DB, or has left
 * its code. At the end the debug-exit port stops the machine.
 */
    .intel_syntax noprefix

/* Parameters, at a fixed place. */
#define P 0x11f000
#define P_MODE      P+0x00
#define P_CASES     P+0x04
#define P_INDEX     P+0x08
#define P_LOG       P+0x0c
#define P_STEP      P+0x10
#define P_STEPS     P+0x14
#define P_LOW       P+0x18
#define P_HIGH      P+0x1c
#define P_WINDOW    P+0x20
#define P_WINDOW_N  P+0x24
#define P_WINDOW2   P+0x28
#define P_WINDOW2_N P+0x2c
#define P_MASTERS   P+0x30
#define P_TABLE     P+0x34
#define P_FX        P+0x38
#define P_LOG_END   P+0x3c
#define P_CR3       P+0x40
#define P_CR4       P+0x44
#define P_CS        P+0x48
#define P_CR0       P+0x4c
#define P_SEGMENTS  P+0x50
#define P_GDTR      P+0x60
#define P_IDTR      P+0x70
#define P_TR        P+0x80
#define P_LDTR      P+0x84
#define P_EFER      P+0x88
#define P_SAVED     P+0x8c

/* A case. */
#define C_RIP 0x80
#define C_CS 0x88
#define C_RFLAGS 0x90
#define C_RSP 0x20
#define C_SS 0xa0
#define C_SEGMENTS 0xa8
#define C_FX 0xb0
#define C_MASTER 0xb4
#define C_STEPS 0xb8
#define C_LOW 0xbc
#define C_HIGH 0xc0
#define C_SIZE 0x100

/* A record of the log. */
#define L_RIP 0x80
#define L_CS 0x88
#define L_RFLAGS 0x90
#define L_RSP 0x20
#define L_SS 0xa0
#define L_SEGMENTS 0xa8
#define L_VECTOR 0xb0
#define L_ERROR 0xb4
#define L_CR2 0xb8
#define L_SUM 0xc0
#define L_CASE 0xc4
#define L_STEP 0xc8
#define L_FX 0x100
#define L_SIZE 0x300

#define KERNEL_STACK 0x11e000
#define KERNEL_DATA 0x10
#define REAL 0x8000
#define REAL_GS 0x2000          /* in CS of the real-mode part */
#define TF 0x100
#define SCRATCH 0x3ff           /* a register of COM1 that keeps what is written to it */

    .text
    .globl _start
_start:
    cli
    mov al, 0xff                /* no interrupts from the board */
    out 0x21, al
    out 0xa1, al
    lgdt [P_GDTR]
    lidt [P_IDTR]
    mov eax, dword ptr [P_MODE]
    test eax, eax
    jz to_real
    mov ecx, dword ptr [P_CR3]
    mov cr3, ecx
    mov ecx, dword ptr [P_CR4]
    mov cr4, ecx
    cmp eax, 2
    je to_long
    mov eax, dword ptr [P_CR0]
    mov cr0, eax
    .byte 0xea                  /* jmp 8:protected */
    .long protected
    .word 8
protected:
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, KERNEL_STACK
    ltr word ptr [P_TR]
    lldt word ptr [P_LDTR]
    mov ecx, 0x174              /* SYSENTER: to the sink */
    mov eax, 8
    xor edx, edx
    wrmsr
    mov ecx, 0x175
    mov eax, KERNEL_STACK
    wrmsr
    mov ecx, 0x176
    mov eax, offset sink
    wrmsr
    fninit
    jmp next_case

/* Where everything ends that leaves a case's code for an inner ring. */
    .globl sink
sink:
    ud2

done:
    xor eax, eax
    out 0xf4, al
    hlt
    jmp done

    .altmacro
.macro stub number
    .balign 16
    .if (\number == 8) || ((\number >= 10) && (\number <= 14)) || (\number == 17)
    .else
    push 0
    .endif
    push \number
    jmp common
.endm

.macro copy source, target
    mov eax, [ebp + \source]
    mov [edi + \target], eax
.endm

/* EAX := a sum over both windows; changes ECX and ESI. */
.macro checksum segment:vararg
    xor eax, eax
    mov esi, dword ptr \segment[P_WINDOW]
    mov ecx, dword ptr \segment[P_WINDOW_N]
    call sum_up\@
    mov esi, dword ptr \segment[P_WINDOW2]
    mov ecx, dword ptr \segment[P_WINDOW2_N]
    call sum_up\@
    jmp summed\@
sum_up\@:
    rol eax, 5
    add eax, dword ptr \segment[esi]
    rol eax, 5
    add eax, dword ptr \segment[esi + 4]
    rol eax, 5
    add eax, dword ptr \segment[esi + 8]
    rol eax, 5
    add eax, dword ptr \segment[esi + 12]
    add esi, 16
    sub ecx, 4
    jnz sum_up\@
    ret
summed\@:
.endm

/* ------------------------------------------------------------------------------------------------ protected mode */

    .balign 16
    .globl stubs
stubs:
    .set n, 0
    .rept 256
    stub %n
    .set n, n + 1
    .endr

/* From EBP: gs fs es ds edi esi ebp esp ebx edx ecx eax vector error eip cs eflags [esp ss [es ds fs gs]]. */
common:
    pushad
    .byte 0x1e, 0x06, 0x0f, 0xa0, 0x0f, 0xa8    /* push ds, es, fs, gs: doublewords */
    cld
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ebp, esp
    mov edi, dword ptr [P_LOG]
    copy 44, 0
    copy 40, 8
    copy 36, 16
    copy 32, 24
    copy 24, 40
    copy 20, 48
    copy 16, 56
    copy 56, L_RIP
    copy 60, L_CS
    copy 64, L_RFLAGS
    copy 48, L_VECTOR
    copy 52, L_ERROR
    test dword ptr [ebp + 64], 0x20000
    jnz from_v86
    mov eax, [ebp + 12]
    mov [edi + L_SEGMENTS], ax
    mov eax, [ebp + 8]
    mov [edi + L_SEGMENTS + 2], ax
    mov eax, [ebp + 4]
    mov [edi + L_SEGMENTS + 4], ax
    mov eax, [ebp]
    mov [edi + L_SEGMENTS + 6], ax
    test dword ptr [ebp + 60], 3
    jnz from_outside
    lea eax, [ebp + 68]
    mov [edi + L_RSP], eax
    mov eax, ss
    mov [edi + L_SS], ax
    jmp stack_is_known
from_v86:
    mov eax, [ebp + 80]
    mov [edi + L_SEGMENTS], ax
    mov eax, [ebp + 76]
    mov [edi + L_SEGMENTS + 2], ax
    mov eax, [ebp + 84]
    mov [edi + L_SEGMENTS + 4], ax
    mov eax, [ebp + 88]
    mov [edi + L_SEGMENTS + 6], ax
from_outside:
    copy 68, L_RSP
    copy 72, L_SS
stack_is_known:
    fxsave [edi + L_FX]
    cmp dword ptr [ebp + 48], 14
    jne no_page_fault
    mov eax, cr2
    mov [edi + L_CR2], eax
no_page_fault:
    mov eax, [ebp + 64]         /* the image of EFLAGS may lie in a window, and hold flags that are undefined */
    mov dword ptr [P_SAVED], eax
    mov dword ptr [ebp + 64], 0
    checksum
    mov [edi + L_SUM], eax
    mov eax, dword ptr [P_SAVED]
    or eax, TF
    mov [ebp + 64], eax
    mov eax, dword ptr [P_INDEX]
    mov [edi + L_CASE], eax
    mov eax, dword ptr [P_STEP]
    mov [edi + L_STEP], eax
    inc eax
    mov dword ptr [P_STEP], eax
    add edi, L_SIZE
    mov dword ptr [P_LOG], edi
    cmp edi, dword ptr [P_LOG_END]
    jae done
    cmp dword ptr [ebp + 48], 1
    jne next_case
    cmp eax, dword ptr [P_STEPS]
    jae next_case
    movzx eax, word ptr [ebp + 60]
    cmp eax, dword ptr [P_CS]
    jne next_case
    mov eax, [ebp + 56]
    cmp eax, dword ptr [P_LOW]
    jb next_case
    cmp eax, dword ptr [P_HIGH]
    jae next_case
    mov esp, ebp
    .byte 0x0f, 0xa9, 0x0f, 0xa1, 0x07, 0x1f    /* pop gs, fs, es, ds */
    popad
    add esp, 8
    iretd

next_case:
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, KERNEL_STACK
    mov edx, SCRATCH
    out dx, al
    mov eax, dword ptr [P_INDEX]
    inc eax
    cmp eax, dword ptr [P_CASES]
    jae done
    mov dword ptr [P_INDEX], eax
    mov dword ptr [P_STEP], 0
    mov ebx, eax
    shl ebx, 8                  /* C_SIZE */
    add ebx, dword ptr [P_TABLE]
    mov ecx, dword ptr [P_WINDOW_N]
    mov eax, ecx
    add eax, dword ptr [P_WINDOW2_N]
    shl eax, 2
    mul dword ptr [ebx + C_MASTER]
    mov esi, dword ptr [P_MASTERS]
    add esi, eax
    mov edi, dword ptr [P_WINDOW]
    rep movsd
    mov edi, dword ptr [P_WINDOW2]
    mov ecx, dword ptr [P_WINDOW2_N]
    rep movsd
    mov eax, [ebx + C_FX]
    shl eax, 9
    add eax, dword ptr [P_FX]
    fxrstor [eax]
    mov eax, [ebx + C_STEPS]
    mov dword ptr [P_STEPS], eax
    mov eax, [ebx + C_LOW]
    mov dword ptr [P_LOW], eax
    mov eax, [ebx + C_HIGH]
    mov dword ptr [P_HIGH], eax
    mov eax, [ebx + C_CS]
    mov dword ptr [P_CS], eax
    mov eax, [ebx + C_RFLAGS]
    test eax, 0x20000
    jnz to_v86
    mov ecx, [ebx + C_SEGMENTS]
    mov dword ptr [P_SEGMENTS], ecx
    mov ecx, [ebx + C_SEGMENTS + 4]
    mov dword ptr [P_SEGMENTS + 4], ecx
    test dword ptr [ebx + C_CS], 3
    jnz to_outside
    mov esp, [ebx + C_RSP]
    jmp frame
to_v86:
    movzx ecx, word ptr [ebx + C_SEGMENTS + 6]
    push ecx
    movzx ecx, word ptr [ebx + C_SEGMENTS + 4]
    push ecx
    movzx ecx, word ptr [ebx + C_SEGMENTS]
    push ecx
    movzx ecx, word ptr [ebx + C_SEGMENTS + 2]
    push ecx
    mov dword ptr [P_SEGMENTS], 0
    mov dword ptr [P_SEGMENTS + 4], 0
to_outside:
    push dword ptr [ebx + C_SS]
    push dword ptr [ebx + C_RSP]
frame:
    push eax
    push dword ptr [ebx + C_CS]
    push dword ptr [ebx + C_RIP]
    mov eax, [ebx + 0]
    mov ecx, [ebx + 8]
    mov edx, [ebx + 16]
    mov ebp, [ebx + 40]
    mov esi, [ebx + 48]
    mov edi, [ebx + 56]
    mov ebx, [ebx + 24]
    mov gs, word ptr cs:[P_SEGMENTS + 6]
    mov fs, word ptr cs:[P_SEGMENTS + 4]
    mov es, word ptr cs:[P_SEGMENTS + 2]
    mov ds, word ptr cs:[P_SEGMENTS]
    iretd

/* ------------------------------------------------------------------------------------------------ real mode */

to_real:
    mov eax, 0x18               /* 16-bit data: what real mode has */
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov ss, eax
    mov eax, KERNEL_DATA        /* GS reaches everything */
    mov gs, eax
    mov eax, dword ptr gs:[P_CR4]
    mov cr4, eax
    .byte 0xea
    .long real_16 - real_start
    .word 0x20                  /* 16-bit code at REAL */

    .balign 16
    .globl real_start
real_start:
    .code16
#undef P
#define P 0xf000                /* a second copy of the parameters, within 64 KiB */
real_16:
    mov eax, dword ptr gs:[P_CR0]
    mov cr0, eax
    .byte 0xea
    .word real_begin - real_start
    .word REAL >> 4
real_begin:
    fninit
    jmp real_next_case

.macro real_stub number
    .balign 8
    .byte 0x68
    .word \number
    .byte 0xe9
    .word real_common - (. + 2)
.endm

    .balign 16
    .globl real_stubs
real_stubs:
    .set n, 0
    .rept 256
    real_stub %n
    .set n, n + 1
    .endr

.macro real_copy source, target
    mov eax, [bp + \source]
    mov gs:[edi + \target], eax
.endm
.macro real_copy_word source, target
    mov ax, [bp + \source]
    mov gs:[edi + \target], ax
.endm

/* From BP: gs fs es ds (words) edi esi ebp esp ebx edx ecx eax (doublewords) vector ip cs flags (words). */
real_common:
    pushad
    push ds
    push es
    push fs
    push gs
    cld
    xor ax, ax
    mov gs, ax
    mov bp, sp
    mov edi, dword ptr gs:[P_LOG]
    real_copy 36, 0
    real_copy 32, 8
    real_copy 28, 16
    real_copy 24, 24
    real_copy 16, 40
    real_copy 12, 48
    real_copy 8, 56
    real_copy_word 42, L_RIP
    real_copy_word 44, L_CS
    real_copy_word 46, L_RFLAGS
    real_copy_word 40, L_VECTOR
    real_copy_word 6, L_SEGMENTS
    real_copy_word 4, L_SEGMENTS + 2
    real_copy_word 2, L_SEGMENTS + 4
    real_copy_word 0, L_SEGMENTS + 6
    mov eax, [bp + 20]
    add ax, 8
    mov gs:[edi + L_RSP], eax
    mov ax, ss
    mov gs:[edi + L_SS], ax
    fxsave gs:[edi + L_FX]
    mov ax, [bp + 46]
    mov word ptr gs:[P_SAVED], ax
    mov word ptr [bp + 46], 0
    checksum gs:
    mov gs:[edi + L_SUM], eax
    mov ax, word ptr gs:[P_SAVED]
    or ax, TF
    mov [bp + 46], ax
    mov eax, dword ptr gs:[P_INDEX]
    mov gs:[edi + L_CASE], eax
    mov eax, dword ptr gs:[P_STEP]
    mov gs:[edi + L_STEP], eax
    inc eax
    mov dword ptr gs:[P_STEP], eax
    add edi, L_SIZE
    mov dword ptr gs:[P_LOG], edi
    cmp edi, dword ptr gs:[P_LOG_END]
    jae real_done
    cmp word ptr [bp + 40], 1
    jne real_next_case
    cmp eax, dword ptr gs:[P_STEPS]
    jae real_next_case
    mov ax, [bp + 44]
    cmp ax, word ptr gs:[P_CS]
    jne real_next_case
    mov ax, [bp + 42]
    cmp ax, word ptr gs:[P_LOW]
    jb real_next_case
    cmp ax, word ptr gs:[P_HIGH]
    jae real_next_case
    mov sp, bp
    pop gs
    pop fs
    pop es
    pop ds
    popad
    add sp, 2
    iret

real_done:
    xor ax, ax
    out 0xf4, al
    hlt
    jmp real_done

real_next_case:
    mov ax, 0x7000
    mov ss, ax
    mov esp, 0xfff0
                                /* the upper flags too, which a POPFD may have set: push 2; popfd */
    .byte 0x66, 0x6a, 2, 0x66, 0x9d
    xor ax, ax
    mov gs, ax
    mov es, ax
    cld
    mov dx, SCRATCH
    out dx, al
    lgdt gs:[P_GDTR]            /* a case of ring 0 may have come upon LGDT */
    mov eax, dword ptr gs:[P_INDEX]
    inc eax
    cmp eax, dword ptr gs:[P_CASES]
    jae real_done
    mov dword ptr gs:[P_INDEX], eax
    mov dword ptr gs:[P_STEP], 0
    mov ebx, eax
    shl ebx, 8
    add ebx, dword ptr gs:[P_TABLE]
    mov eax, dword ptr gs:[P_WINDOW_N]
    add eax, dword ptr gs:[P_WINDOW2_N]
    shl eax, 2
    mul dword ptr gs:[ebx + C_MASTER]
    mov esi, dword ptr gs:[P_MASTERS]
    add esi, eax
    mov edi, dword ptr gs:[P_WINDOW]
    mov ecx, dword ptr gs:[P_WINDOW_N]
real_copy_1:
    mov eax, gs:[esi]
    mov gs:[edi], eax
    add esi, 4
    add edi, 4
    dec ecx
    jnz real_copy_1
    mov edi, dword ptr gs:[P_WINDOW2]
    mov ecx, dword ptr gs:[P_WINDOW2_N]
real_copy_2:
    mov eax, gs:[esi]
    mov gs:[edi], eax
    add esi, 4
    add edi, 4
    dec ecx
    jnz real_copy_2
    mov eax, gs:[ebx + C_FX]
    shl eax, 9
    add eax, dword ptr gs:[P_FX]
    fxrstor gs:[eax]
    mov eax, gs:[ebx + C_STEPS]
    mov dword ptr gs:[P_STEPS], eax
    mov eax, gs:[ebx + C_LOW]
    mov dword ptr gs:[P_LOW], eax
    mov eax, gs:[ebx + C_HIGH]
    mov dword ptr gs:[P_HIGH], eax
    mov eax, gs:[ebx + C_CS]
    mov dword ptr gs:[P_CS], eax
    mov ax, gs:[ebx + C_SEGMENTS + 6]
    mov word ptr gs:[REAL + REAL_GS], ax
    mov ds, word ptr gs:[ebx + C_SEGMENTS]
    mov es, word ptr gs:[ebx + C_SEGMENTS + 2]
    mov fs, word ptr gs:[ebx + C_SEGMENTS + 4]
    mov ss, word ptr gs:[ebx + C_SS]
    mov esp, gs:[ebx + C_RSP]
    push word ptr gs:[ebx + C_RFLAGS]
    push word ptr gs:[ebx + C_CS]
    push word ptr gs:[ebx + C_RIP]
    mov eax, gs:[ebx + 0]
    mov ecx, gs:[ebx + 8]
    mov edx, gs:[ebx + 16]
    mov ebp, gs:[ebx + 40]
    mov esi, gs:[ebx + 48]
    mov edi, gs:[ebx + 56]
    mov ebx, gs:[ebx + 24]
    mov gs, word ptr cs:[REAL_GS]
    iret
    .globl real_end
real_end:
#undef P
#define P 0x11f000

/* ------------------------------------------------------------------------------------------------ long mode */

    .code32
to_long:
    mov ecx, 0xc0000080
    mov eax, dword ptr [P_EFER]
    xor edx, edx
    wrmsr
    mov eax, dword ptr [P_CR0]
    mov cr0, eax
    .byte 0xea
    .long long_begin
    .word 8
    .code64
long_begin:
    mov eax, KERNEL_DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, KERNEL_STACK
    ltr word ptr [P_TR]
    lldt word ptr [P_LDTR]
    mov ecx, 0x174
    mov eax, 8
    xor edx, edx
    wrmsr
    mov ecx, 0x175
    mov eax, KERNEL_STACK
    wrmsr
    mov ecx, 0x176
    mov eax, offset long_sink
    wrmsr
    mov ecx, 0xc0000081         /* STAR: SYSCALL to 8, SYSRET to 0x23 and 0x33 */
    xor eax, eax
    mov edx, 0x00230008
    wrmsr
    mov ecx, 0xc0000082
    mov eax, offset long_sink
    xor edx, edx
    wrmsr
    mov ecx, 0xc0000083
    mov eax, offset long_sink
    wrmsr
    mov ecx, 0xc0000084
    mov eax, 0x40700
    wrmsr
    fninit
    jmp long_next_case

    .globl long_sink
long_sink:
    ud2

long_done:
    xor eax, eax
    out 0xf4, al
    hlt
    jmp long_done

.macro long_stub number
    .balign 16
    .if (\number == 8) || ((\number >= 10) && (\number <= 14)) || (\number == 17)
    .else
    push 0
    .endif
    push \number
    jmp long_common
.endm

    .balign 16
    .globl long_stubs
long_stubs:
    .set n, 0
    .rept 256
    long_stub %n
    .set n, n + 1
    .endr

/* From RSP on: the registers in the order of their numbers (RSP's place unused), vector, error, the frame. */
long_common:
    push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push rdi
    push rsi
    push rbp
    push rsp
    push rbx
    push rdx
    push rcx
    push rax
    cld
    mov ebp, esp
    mov edi, dword ptr [P_LOG]
    mov eax, ds
    mov [rdi + L_SEGMENTS], ax
    mov eax, es
    mov [rdi + L_SEGMENTS + 2], ax
    mov eax, fs
    mov [rdi + L_SEGMENTS + 4], ax
    mov eax, gs
    mov [rdi + L_SEGMENTS + 6], ax
    mov eax, dword ptr [rbp + 0x80]
    mov [rdi + L_VECTOR], eax
    mov ebx, eax
    mov eax, dword ptr [rbp + 0x88]
    mov [rdi + L_ERROR], eax
    mov edx, edi
    mov esi, esp
    mov ecx, 16
long_copy:
    mov rax, [rsi]
    mov [rdi], rax
    add rsi, 8
    add rdi, 8
    dec ecx
    jnz long_copy
    mov edi, edx
    mov rax, [rbp + 0x90]
    mov [rdi + L_RIP], rax
    mov rax, [rbp + 0x98]
    mov [rdi + L_CS], rax
    mov rax, [rbp + 0xa0]
    mov [rdi + L_RFLAGS], rax
    mov rax, [rbp + 0xa8]
    mov [rdi + L_RSP], rax
    mov rax, [rbp + 0xb0]
    mov [rdi + L_SS], rax
    fxsave [rdi + L_FX]
    cmp ebx, 14
    jne long_no_page_fault
    mov rax, cr2
    mov [rdi + L_CR2], rax
long_no_page_fault:
    xor eax, eax
    mov esi, dword ptr [P_WINDOW]
    mov ecx, dword ptr [P_WINDOW_N]
    call long_sum
    mov esi, dword ptr [P_WINDOW2]
    mov ecx, dword ptr [P_WINDOW2_N]
    call long_sum
    mov [rdi + L_SUM], eax
    mov eax, dword ptr [P_INDEX]
    mov [rdi + L_CASE], eax
    mov eax, dword ptr [P_STEP]
    mov [rdi + L_STEP], eax
    inc eax
    mov dword ptr [P_STEP], eax
    add edi, L_SIZE
    mov dword ptr [P_LOG], edi
    cmp edi, dword ptr [P_LOG_END]
    jae long_done
    cmp ebx, 1
    jne long_next_case
    cmp eax, dword ptr [P_STEPS]
    jae long_next_case
    movzx eax, word ptr [rbp + 0x98]
    cmp eax, dword ptr [P_CS]
    jne long_next_case
    mov rax, [rbp + 0x90]
    mov ecx, dword ptr [P_LOW]
    cmp rax, rcx
    jb long_next_case
    mov ecx, dword ptr [P_HIGH]
    cmp rax, rcx
    jae long_next_case
    or dword ptr [rbp + 0xa0], TF
    pop rax
    pop rcx
    pop rdx
    pop rbx
    pop rbp
    pop rbp
    pop rsi
    pop rdi
    pop r8
    pop r9
    pop r10
    pop r11
    pop r12
    pop r13
    pop r14
    pop r15
    add rsp, 16
    iretq

long_sum:
    rol eax, 5
    add eax, [rsi]
    rol eax, 5
    add eax, [rsi + 4]
    rol eax, 5
    add eax, [rsi + 8]
    rol eax, 5
    add eax, [rsi + 12]
    add rsi, 16
    sub ecx, 4
    jnz long_sum
    ret

long_next_case:
    mov esp, KERNEL_STACK
    xor eax, eax
    mov edx, SCRATCH
    out dx, al
    mov eax, dword ptr [P_INDEX]
    inc eax
    cmp eax, dword ptr [P_CASES]
    jae long_done
    mov dword ptr [P_INDEX], eax
    mov dword ptr [P_STEP], 0
    mov ebx, eax
    shl ebx, 8
    add ebx, dword ptr [P_TABLE]
    mov ecx, dword ptr [P_WINDOW_N]
    mov eax, ecx
    add eax, dword ptr [P_WINDOW2_N]
    shl eax, 2
    mul dword ptr [rbx + C_MASTER]
    mov esi, dword ptr [P_MASTERS]
    add esi, eax
    mov edi, dword ptr [P_WINDOW]
    rep movsd
    mov edi, dword ptr [P_WINDOW2]
    mov ecx, dword ptr [P_WINDOW2_N]
    rep movsd
    mov eax, [rbx + C_FX]
    shl eax, 9
    add eax, dword ptr [P_FX]
    fxrstor [rax]
    mov eax, [rbx + C_STEPS]
    mov dword ptr [P_STEPS], eax
    mov eax, [rbx + C_LOW]
    mov dword ptr [P_LOW], eax
    mov eax, [rbx + C_HIGH]
    mov dword ptr [P_HIGH], eax
    mov eax, [rbx + C_CS]
    mov dword ptr [P_CS], eax
    mov gs, word ptr [rbx + C_SEGMENTS + 6]
    mov fs, word ptr [rbx + C_SEGMENTS + 4]
    mov es, word ptr [rbx + C_SEGMENTS + 2]
    mov ds, word ptr [rbx + C_SEGMENTS]
    push qword ptr [rbx + C_SS]
    push qword ptr [rbx + C_RSP]
    push qword ptr [rbx + C_RFLAGS]
    push qword ptr [rbx + C_CS]
    push qword ptr [rbx + C_RIP]
    mov rax, [rbx + 0x00]
    mov rcx, [rbx + 0x08]
    mov rdx, [rbx + 0x10]
    mov rbp, [rbx + 0x28]
    mov rsi, [rbx + 0x30]
    mov rdi, [rbx + 0x38]
    mov r8, [rbx + 0x40]
    mov r9, [rbx + 0x48]
    mov r10, [rbx + 0x50]
    mov r11, [rbx + 0x58]
    mov r12, [rbx + 0x60]
    mov r13, [rbx + 0x68]
    mov r14, [rbx + 0x70]
    mov r15, [rbx + 0x78]
    mov rbx, [rbx + 0x18]
    iretq
