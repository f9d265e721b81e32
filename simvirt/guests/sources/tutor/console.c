/* console.c: COM1. Output is polled; input comes by interrupt into a ring, and is edited line by line.
 *
 * PC16550D data sheet, section 8: divisor latch, line control, line status, interrupt enable.
 */
#include "kernel.h"

enum { COM1 = 0x3f8, COM1_LINE = 4 };
enum uart { DATA = 0, INTERRUPT_ENABLE = 1, FIFO_CONTROL = 2, LINE_CONTROL = 3, MODEM_CONTROL = 4, LINE_STATUS = 5 };
enum { LINE_8N1 = 0x03, LINE_DIVISOR_LATCH = 0x80, FIFO_ENABLE_AND_CLEAR = 0x07 };
enum { RECEIVED_DATA = 0x01, MODEM_DTR_RTS_OUT2 = 0x0b }; /* OUT2 lets the interrupt out to the bus */
enum { DATA_READY = 0x01, TRANSMITTER_EMPTY = 0x20 };
enum { BACKSPACE = 8, DELETE = 127, CONTROL_D = 4 };

enum { RING_SIZE = 64, LINE_SIZE = 128 };
static char ring[RING_SIZE];
static volatile u32 ring_put, ring_taken; /* both only count up: what they differ by is in the ring */

void console_start(void) {
    port_out8(COM1 + INTERRUPT_ENABLE, 0);
    port_out8(COM1 + LINE_CONTROL, LINE_DIVISOR_LATCH);
    port_out8(COM1 + DATA, 1); /* divisor 1: 115,200 baud */
    port_out8(COM1 + INTERRUPT_ENABLE, 0);
    port_out8(COM1 + LINE_CONTROL, LINE_8N1);
    port_out8(COM1 + FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
    port_out8(COM1 + MODEM_CONTROL, MODEM_DTR_RTS_OUT2);
    port_out8(COM1 + INTERRUPT_ENABLE, RECEIVED_DATA);
    interrupt_line_set(COM1_LINE, 1);
}

void put_char(char character) {
    while (!(port_in8(COM1 + LINE_STATUS) & TRANSMITTER_EMPTY)) {
    }
    port_out8(COM1 + DATA, (u8)character);
}

void put_string(const char *text) {
    while (*text)
        put_char(*text++);
}

void put_decimal(u32 value) {
    if (value >= 10)
        put_decimal(value / 10);
    put_char((char)('0' + value % 10));
}

void put_hex(u32 value) {
    for (u32 digit = 8; digit--;)
        put_char("0123456789abcdef"[(value >> (4 * digit)) & 15]);
}

void panic(const char *why) {
    interrupts_mask();
    put_string("panic: ");
    put_string(why);
    put_char('\n');
    power_off(127);
}

/* Takes what has come for as long as there is room. When there is none, the UART keeps it, and is quiet until somebody reads. */
void console_interrupt(void) {
    while (ring_put - ring_taken < RING_SIZE && port_in8(COM1 + LINE_STATUS) & DATA_READY)
        ring[ring_put++ % RING_SIZE] = (char)port_in8(COM1 + DATA);
    if (ring_put - ring_taken == RING_SIZE)
        port_out8(COM1 + INTERRUPT_ENABLE, 0);
    wake_up(ring);
}

static char console_take(void) {
    u32 before = interrupts_mask();
    while (ring_put == ring_taken)
        sleep_on(ring);
    if (ring_put - ring_taken == RING_SIZE)
        port_out8(COM1 + INTERRUPT_ENABLE, RECEIVED_DATA);
    char character = ring[ring_taken++ % RING_SIZE];
    interrupts_restore(before);
    return character;
}

/* A line, with its end. It is echoed when it is read, not when it is typed: so what a program prints never falls into it. */
static char line[LINE_SIZE];
static u32 line_length, line_taken;

static void line_edit(void) {
    line_length = line_taken = 0;
    for (;;) {
        char character = console_take();
        if (character == '\r')
            character = '\n';
        if (character == BACKSPACE || character == DELETE) {
            if (line_length) {
                line_length--;
                put_string("\b \b");
            }
        } else if (character == CONTROL_D) {
            if (line_length == 0)
                return;
        } else if (character == '\n') {
            put_char('\n');
            line[line_length++] = '\n';
            return;
        } else if (character >= ' ' && line_length < LINE_SIZE - 1) {
            put_char(character);
            line[line_length++] = character;
        }
    }
}

i32 console_read(char *buffer, u32 size) {
    if (line_taken == line_length)
        line_edit();
    u32 count = line_length - line_taken;
    if (count > size)
        count = size;
    memcpy(buffer, line + line_taken, count);
    line_taken += count;
    return (i32)count;
}
