/* interrupts.c: the IDT, the interrupt controllers, and what is done at each vector. */
#include "kernel.h"

extern u32 task_state_descriptor[2], task_state[];

enum { STUB_SIZE = 16, DIVIDE_ERROR = 0, PAGE_FAULT = 14, EXCEPTIONS = 32, TSS_LIMIT = 103 };
enum gate { INTERRUPT_GATE = 0x8e00, USER_INTERRUPT_GATE = 0xee00 }; /* SDM Vol. 3A figure 6-2: present, DPL, type */
enum { AVAILABLE_TSS = 0x8900 };
enum line { TIMER_LINE = 0, CASCADE_LINE = 2, CONSOLE_LINE = 4, LINES = 16 };

/* Intel 8259A data sheet. ICW1: edge triggered, cascaded, ICW4 needed; ICW2: the vector; ICW3: the cascade; ICW4: 8086 mode. */
enum { PIC_FIRST = 0x20, PIC_SECOND = 0xa0, PIC_START = 0x11, PIC_8086 = 0x01, PIC_END_OF_INTERRUPT = 0x20 };

static u32 lines_masked = 0xffff & ~(1 << CASCADE_LINE);

static void controllers_start(void) {
    port_out8(PIC_FIRST, PIC_START);
    port_out8(PIC_SECOND, PIC_START);
    port_out8(PIC_FIRST + 1, FIRST_IRQ_VECTOR);
    port_out8(PIC_SECOND + 1, FIRST_IRQ_VECTOR + 8);
    port_out8(PIC_FIRST + 1, 1 << CASCADE_LINE);
    port_out8(PIC_SECOND + 1, CASCADE_LINE);
    port_out8(PIC_FIRST + 1, PIC_8086);
    port_out8(PIC_SECOND + 1, PIC_8086);
    port_out8(PIC_FIRST + 1, lines_masked);
    port_out8(PIC_SECOND + 1, lines_masked >> 8);
}

void interrupt_line_set(u32 line, int enabled) {
    u32 before = interrupts_mask();
    lines_masked = enabled ? lines_masked & ~(1u << line) : lines_masked | 1u << line;
    port_out8(PIC_FIRST + 1, lines_masked);
    port_out8(PIC_SECOND + 1, lines_masked >> 8);
    interrupts_restore(before);
}

/* Every vector goes to its stub with interrupts masked; only the one for system calls may be called from ring 3. */
void interrupts_start(void) {
    u32 (*gates)[2] = (u32(*)[2])idt;
    for (u32 vector = 0; vector < IDT_VECTORS; vector++) {
        u32 stub = (u32)interrupt_stubs + vector * STUB_SIZE;
        gates[vector][0] = KERNEL_CODE << 16 | (stub & 0xffff);
        gates[vector][1] = (stub & 0xffff0000) | (vector == SYSTEM_CALL_VECTOR ? USER_INTERRUPT_GATE : INTERRUPT_GATE);
    }
    u32 base = (u32)task_state; /* SDM Vol. 3A figure 8-3 */
    task_state_descriptor[0] = base << 16 | TSS_LIMIT;
    task_state_descriptor[1] = (base & 0xff000000) | AVAILABLE_TSS | (base >> 16 & 0xff);
    descriptor_tables_load();
    controllers_start();
}

static void exception(struct frame *frame) {
    if ((frame->cs & 3) == 0) {
        put_string("exception ");
        put_decimal(frame->vector);
        put_string(" at ");
        put_hex(frame->eip);
        put_char('\n');
        panic("the kernel made a mistake");
    }
    put_string("process ");
    put_decimal(current->id);
    put_string(frame->vector == DIVIDE_ERROR ? " divided by zero" : " did what it may not, exception ");
    if (frame->vector != DIVIDE_ERROR)
        put_decimal(frame->vector);
    put_string(": ended\n");
    process_exit(FAILED);
}

static void device(u32 line) {
    if (line >= 8)
        port_out8(PIC_SECOND, PIC_END_OF_INTERRUPT);
    port_out8(PIC_FIRST, PIC_END_OF_INTERRUPT);
    if (line == TIMER_LINE)
        timer_interrupt();
    else if (line == CONSOLE_LINE)
        console_interrupt();
}

/* From the stubs, with interrupts masked. The kernel is interrupted while it serves a system call, but never preempted: only on the way
 * back to ring 3 is another process given its turn. So interrupts have to be masked only for what handlers of devices touch too. */
void interrupt(struct frame *frame) {
    int from_user = (frame->cs & 3) != 0;
    if (frame->vector == SYSTEM_CALL_VECTOR) {
        interrupts_on();
        system_call(frame);
        interrupts_mask();
    } else if (frame->vector == PAGE_FAULT) {
        page_fault(frame);
    } else if (frame->vector < EXCEPTIONS) {
        exception(frame);
    } else {
        device(frame->vector - FIRST_IRQ_VECTOR);
        if (from_user && frame->vector == FIRST_IRQ_VECTOR + TIMER_LINE)
            yield();
    }
    if (from_user && current->killed)
        process_exit(FAILED);
}
