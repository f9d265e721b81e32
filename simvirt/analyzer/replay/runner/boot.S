# The boot sector: loads the rest of the disk to 30000h by the BIOS, enters 32-bit protected mode, jumps to the runner.
    .code16
    .globl _start
_start:
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    movb %dl, drive
    ljmp $0, $1f
1:  movw $DISK_CHUNKS, %cx
2:  pushw %cx
    movb $0x42, %ah                 # INT 13h, extended read
    movb drive, %dl
    movw $packet, %si
    int $0x13
    jc failed
    popw %cx
    addw $CHUNK_SECTORS, packet_sector
    addw $(CHUNK_SECTORS * 512 / 16), packet_segment
    loop 2b
    movw $0x2401, %ax               # A20, by the BIOS and by port 92h
    int $0x15
    inb $0x92, %al
    orb $2, %al
    andb $0xfe, %al
    outb %al, $0x92
    cli
    movb $0xff, %al                 # nobody interrupts
    outb %al, $0x21
    outb %al, $0xa1
    lgdtl gdt_pointer
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $protected
failed:
    movw $0x0e45, %ax               # "E"
    int $0x10
3:  hlt
    jmp 3b
    .code32
protected:
    movw $0x10, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movl $0x3f000, %esp
    movl $0x30000, %eax
    jmp *%eax

    .balign 4
packet:
    .byte 16, 0
    .word CHUNK_SECTORS
    .word 0
packet_segment:
    .word 0x3000
packet_sector:
    .long 1, 0
gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
gdt_pointer:
    .word 23
    .long gdt
drive:
    .byte 0
    .org 510
    .word 0xaa55
