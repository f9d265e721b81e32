/* A boot sector that asks the firmware for what boot sectors ask it, and prints the answers on the serial port:
 * that registers are kept, INT 10h, 13h (AH = 08h, 02h), 12h, 15h (E820h, 87h), 1Ah. It ends through the debug-exit port.
 */
    .code16
    .globl _start
_start:
    cli
    xorw %ax,%ax
    movw %ax,%ds
    movw %ax,%es
    movw %ax,%ss
    movw $0x7c00,%sp
    sti
    movb %dl,drive
    movw $hello,%si
    call puts
    # registers are kept
    movl $0x11112222,%ebx
    movl $0x33334444,%ecx
    movl $0x55556666,%edi
    movl $0x77778888,%esi
    movl $0x9999aaaa,%ebp
    movw $0x0e21,%ax
    pushw %bx
    int $0x10
    popw %bx
    cmpl $0x33334444,%ecx
    jne bad
    cmpl $0x55556666,%edi
    jne bad
    cmpl $0x9999aaaa,%ebp
    jne bad
    # disk parameters
    movb $0x08,%ah
    movb drive,%dl
    int $0x13
    jc bad
    call hexcx
    movw %dx,%cx
    call hexcx
    # read sector 2 (CHS 0,0,2) to 0x8000
    xorw %ax,%ax
    movw %ax,%es
    movw $0x8000,%bx
    movw $0x0201,%ax
    movw $2,%cx
    movb $0,%dh
    movb drive,%dl
    int $0x13
    jc bad
    movw $0x8000,%si
    call puts
    # memory
    int $0x12
    movw %ax,%cx
    call hexcx
    # e820 count
    xorl %ebx,%ebx
    xorw %bp,%bp
1:  movl $0xe820,%eax
    movl $0x534d4150,%edx
    movl $24,%ecx
    movw $0x9000,%di
    int $0x15
    jc 2f
    incw %bp
    testl %ebx,%ebx
    jnz 1b
2:  # ticks move
    movb $0,%ah
    int $0x1a
    movw %dx,%bx
3:  hlt
    movb $0,%ah
    int $0x1a
    cmpw %bx,%dx
    je 3b
    movw $ok,%si
    call puts
    # move block
    movw $0x8700,%ax
    movw $gdt,%si
    movw $8,%cx
    int $0x15
    jc bad
    movw $0x8200,%si
    call puts
    movl $0,%eax
    movw $0xf4,%dx
    outl %eax,%dx
    hlt
bad:
    movw $badtext,%si
    call puts
    movl $1,%eax
    movw $0xf4,%dx
    outl %eax,%dx
    hlt
puts:
    lodsb
    testb %al,%al
    jz 1f
    call putc
    jmp puts
1:  ret
putc:
    pushw %dx
    movw $0x3f8,%dx
    outb %al,%dx
    popw %dx
    ret
hexcx:
    pushw %ax
    movw $4,%bp
1:  rolw $4,%cx
    movb %cl,%al
    andb $15,%al
    cmpb $10,%al
    sbbb $0x69,%al
    das
    call putc
    decw %bp
    jnz 1b
    movb $' ',%al
    call putc
    popw %ax
    ret
hello: .asciz "boot "
ok: .asciz "ticks "
badtext: .asciz "BAD"
drive: .byte 0
    .balign 8
gdt: .quad 0,0
    .word 0xffff,0x8000; .byte 0,0x93,0,0
    .word 0xffff,0x8200; .byte 0,0x93,0,0
    .quad 0,0
    .org 510
    .word 0xaa55
    .asciz "sector2 "
    .org 1024
