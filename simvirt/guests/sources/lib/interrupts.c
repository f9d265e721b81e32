/* interrupts.c: gates, handlers, the interrupt controllers, the timer, the task state segment. */
#include "guest.h"

extern u8 vector_stubs[];
extern u32 task_state[26];
enum { STUB_SIZE = 16 };

static handler *handlers[IDT_VECTORS];

/* SDM Vol. 3A figure 6-2: offset in the outer words, selector, type. */
void install_handler_behind(enum gate gate, u32 vector, handler *function) {
    u32 *entry = (u32 *)(idt + vector * 8);
    u32 stub = (u32)vector_stubs + vector * STUB_SIZE;
    handlers[vector] = function;
    entry[0] = KERNEL_CODE << 16 | (stub & 0xffff);
    entry[1] = (stub & 0xffff0000) | (u32)gate << 8;
}

void install_handler(u32 vector, handler *function) { install_handler_behind(GATE_INTERRUPT, vector, function); }

void dispatch_interrupt(struct frame *frame) {
    handler *function = handlers[frame->vector];
    if (function) {
        function(frame);
        return;
    }
    put_string("no handler for vector ");
    put_decimal(frame->vector);
    put_char('\n');
    exit_guest(127);
}

/* Intel 8259A data sheet, "Initialization Command Words": ICW1 edge triggered, cascaded, ICW4 needed; ICW2 the vector;
 * ICW3 the cascade on IR2; ICW4 8086 mode. */
enum { PIC_FIRST = 0x20, PIC_SECOND = 0xa0, PIC_END_OF_INTERRUPT = 0x20 };

void interrupt_controller_start(u16 mask) {
    port_out8(PIC_FIRST, 0x11);
    port_out8(PIC_SECOND, 0x11);
    port_out8(PIC_FIRST + 1, FIRST_IRQ_VECTOR);
    port_out8(PIC_SECOND + 1, FIRST_IRQ_VECTOR + 8);
    port_out8(PIC_FIRST + 1, 1 << 2);
    port_out8(PIC_SECOND + 1, 2);
    port_out8(PIC_FIRST + 1, 1);
    port_out8(PIC_SECOND + 1, 1);
    port_out8(PIC_FIRST + 1, (u8)mask);
    port_out8(PIC_SECOND + 1, (u8)(mask >> 8));
}

void interrupt_controller_done(u32 irq) {
    if (irq >= 8)
        port_out8(PIC_SECOND, PIC_END_OF_INTERRUPT);
    port_out8(PIC_FIRST, PIC_END_OF_INTERRUPT);
}

/* Intel 8254 data sheet, "Control Word Format": counter 0, both bytes, mode 2, binary. */
enum { TIMER_INPUT_HERTZ = 1193182, TIMER_CHANNEL_0 = 0x40, TIMER_CONTROL = 0x43, RATE_GENERATOR = 0x34 };

void timer_start(u32 hertz) {
    u32 divisor = TIMER_INPUT_HERTZ / hertz;
    port_out8(TIMER_CONTROL, RATE_GENERATOR);
    port_out8(TIMER_CHANNEL_0, (u8)divisor);
    port_out8(TIMER_CHANNEL_0, (u8)(divisor >> 8));
}

/* SDM Vol. 3A figure 3-8. */
void set_descriptor(u32 selector, u32 base, u32 limit, u8 access, u8 granularity) {
    u32 *entry = (u32 *)(gdt + (selector & ~7u));
    entry[0] = (base << 16) | (limit & 0xffff);
    entry[1] = (base & 0xff000000) | (u32)granularity << 20 | (limit & 0xf0000) | (u32)access << 8 | ((base >> 16) & 0xff);
}

/* SDM Vol. 3A figure 8-2: ESP0 and SS0 are the second and third doubleword; an I/O map base at the limit grants no port. */
void task_state_start(u32 stack_top) {
    enum { AVAILABLE_32_BIT_TSS = 0x89, TSS_SIZE = 104 };
    task_state[1] = stack_top;
    task_state[2] = KERNEL_DATA;
    task_state[25] = TSS_SIZE << 16;
    set_descriptor(TASK_STATE, (u32)task_state, TSS_SIZE - 1, AVAILABLE_32_BIT_TSS, 0);
    __asm__ volatile("ltr %w0" : : "r"(TASK_STATE));
}
