/* The loop, and the handlers: which vector arrives when goes into the checksum. */
#define APIC 0xfee00000
#define TPR 0x80
#define EOI 0xb0
#define ICR 0x300
#define TO_SELF 0x40000

    .text
    .code64
    .balign 16
    .globl long_stubs
long_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    pushq $vector
    jmp long_common
    .set vector, vector + 1
    .endr
long_common:
    pushq %rax
    pushq %rdx
    movl 16(%rsp), %eax
    movl checksum, %edx
    roll $5, %edx
    xorl %eax, %edx
    movl %edx, checksum
    incl arrived
    movl $APIC, %edx
    movl $0, EOI(%rdx)
    popq %rdx
    popq %rax
    addq $8, %rsp
    iretq

    .globl chance
chance:
    lidt long_idt_register
    movl $APIC, %r8d
    movl $1, %ebx
1:  imull $1664525, %ebx, %ebx
    addl $1013904223, %ebx
    movl %ebx, %eax
    shrl $24, %eax                  /* CR8, or the TPR by memory, or neither */
    testl $0xc0, %eax
    jnz 2f
    andl $0xff, %eax
    movl %eax, TPR(%r8)
    jmp 3f
2:  testl $0x80, %eax
    jz 3f
    andl $15, %eax
    movq %rax, %cr8
3:  movq %cr8, %rdx
    addl %edx, checksum
    testl $0x1000, %ebx             /* IF */
    jz 4f
    sti
    jmp 5f
4:  cli
5:  testl $0x6000, %ebx             /* one time in four an interrupt: vectors 0x20 to 0xff */
    jnz 6f
    movl %ebx, %eax
    shrl $16, %eax
    andl $0xff, %eax
    cmpl $0x20, %eax
    jb 6f
    orl $TO_SELF, %eax
    movl %eax, ICR(%r8)
6:  decl %ecx
    jnz 1b
    xorl %eax, %eax
    movq %rax, %cr8
    sti
    nop
    nop
    cli
    ret
    .code32

    .data
    .balign 16
    .globl long_idt, checksum, arrived
long_idt:
    .skip 256 * 16
long_idt_register:
    .word 256 * 16 - 1
    .long long_idt
    .long 0
checksum:
    .long 0
arrived:
    .long 0

    .section .note.GNU-stack, "", @progbits
