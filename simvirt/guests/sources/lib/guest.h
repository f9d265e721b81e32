/* guest.h: what a simvirt guest may use. Read this one file and you can write a guest.
 *
 * A guest is a kernel: it starts in ring 0 of a PC in 32-bit protected mode, with flat 4 GiB segments, paging off and interrupts
 * masked (the state that the Multiboot Specification 0.6.96, section 3.2, promises). The runtime (boot.S) gives it a stack and its own
 * GDT and IDT, then calls guest_main. What guest_main returns is the guest's status, as if it had called exit_guest.
 *
 * The same declarations serve assembly: include this file from a .S source, call the functions with the arguments on the stack
 * (the i386 System V convention: last argument pushed first, the result in EAX, EBX ESI EDI EBP kept).
 */
#ifndef GUEST_H
#define GUEST_H

/* Selectors of the runtime's GDT. The order is the one that SYSENTER and SYSEXIT fix (SDM Vol. 2B, "SYSENTER"). */
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE 0x1b
#define USER_DATA 0x23
#define TASK_STATE 0x28
#define SPARE_DESCRIPTOR 0x30  /* four descriptors, 0x30 to 0x48, that are all zero: the guest's own */

#define EXIT_PORT 0xf4
#define CONSOLE_PORT 0x3f8
#define UNCLAIMED_PORT 0x80  /* no device answers here but a diagnostic display: writes vanish, reads give all ones */

#define FLAG_RESERVED_ONE 0x002
#define FLAG_INTERRUPT 0x200

#define FIRST_IRQ_VECTOR 0x20
#define IDT_VECTORS 0x90  /* vectors from here on lie beyond the limit of the IDT: an INT there raises #GP */

#ifndef __ASSEMBLER__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;

/* The guest's own entry point: yours to write. */
u32 guest_main(void);

/* Console (the 16550 UART on COM1, polled). */
void put_char(char character);
void put_string(const char *text);
void put_hex(u32 value, u32 digits);
void put_decimal(u32 value);

/* Ends the run: the value written to the debug-exit port is the guest's status; 0 says that all is well. */
__attribute__((noreturn)) void exit_guest(u32 status);

/* What the runtime's interrupt stub leaves on the stack; handlers may change it, IRET and POPA take it from there. */
struct frame {
    u32 edi, esi, ebp, esp_of_pusha, ebx, edx, ecx, eax;
    u32 vector;
    u32 error_code; /* 0 where the processor pushes none */
    u32 eip, cs, eflags;
    u32 user_esp, user_ss; /* there only when the interrupt came from an outer ring */
};
typedef void handler(struct frame *frame);

enum gate { GATE_INTERRUPT = 0x8e, GATE_TRAP = 0x8f, GATE_USER_TRAP = 0xef };

/* A vector without a handler ends the guest with a message and status 127. */
void install_handler(u32 vector, handler *function);
void install_handler_behind(enum gate gate, u32 vector, handler *function);

/* The pair of 8259A: IRQ 0 to 15 on vectors 0x20 to 0x2f; a set bit of the mask silences its line. */
void interrupt_controller_start(u16 mask);
void interrupt_controller_done(u32 irq);
/* The 8254's channel 0 as a rate generator (mode 2) on IRQ 0. */
void timer_start(u32 hertz);

/* Segment descriptor number (selector / 8) of the runtime's GDT; the bytes as SDM Vol. 3A section 3.4.5 draws them. */
void set_descriptor(u32 selector, u32 base, u32 limit, u8 access, u8 granularity);
/* Loads TR with a 32-bit TSS whose ring-0 stack is the one given. */
void task_state_start(u32 stack_top);

void *memset(void *destination, int value, u32 count);
void *memcpy(void *destination, const void *source, u32 count);
int memcmp(const void *left, const void *right, u32 count);

extern u8 gdt[], idt[], stack_top[];

static inline void port_out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void port_out32(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 port_in8(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline void interrupts_on(void) { __asm__ volatile("sti" : : : "memory"); }
static inline void interrupts_off(void) { __asm__ volatile("cli" : : : "memory"); }
/* STI takes effect after the instruction that follows it, so no interrupt slips in between and is slept through. */
static inline void wait_for_interrupt(void) { __asm__ volatile("sti; hlt" : : : "memory"); }

#endif
#endif
