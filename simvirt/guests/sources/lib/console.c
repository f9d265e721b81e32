/* console.c: characters on COM1, and the way out.
 *
 * PC16550D data sheet, section 8: the divisor latch, the line control and the line status register.
 */
#include "guest.h"

enum uart { DATA = 0, INTERRUPT_ENABLE = 1, FIFO_CONTROL = 2, LINE_CONTROL = 3, MODEM_CONTROL = 4, LINE_STATUS = 5 };
enum { LINE_8N1 = 0x03, LINE_DIVISOR_LATCH = 0x80, FIFO_ENABLE_AND_CLEAR = 0x07, MODEM_DTR_RTS = 0x03, TRANSMITTER_EMPTY = 0x20 };

void console_start(void) {
    port_out8(CONSOLE_PORT + INTERRUPT_ENABLE, 0);
    port_out8(CONSOLE_PORT + LINE_CONTROL, LINE_DIVISOR_LATCH);
    port_out8(CONSOLE_PORT + DATA, 1); /* divisor 1: 115,200 baud */
    port_out8(CONSOLE_PORT + INTERRUPT_ENABLE, 0);
    port_out8(CONSOLE_PORT + LINE_CONTROL, LINE_8N1);
    port_out8(CONSOLE_PORT + FIFO_CONTROL, FIFO_ENABLE_AND_CLEAR);
    port_out8(CONSOLE_PORT + MODEM_CONTROL, MODEM_DTR_RTS);
}

void put_char(char character) {
    while (!(port_in8(CONSOLE_PORT + LINE_STATUS) & TRANSMITTER_EMPTY)) {
    }
    port_out8(CONSOLE_PORT + DATA, (u8)character);
}

void put_string(const char *text) {
    while (*text)
        put_char(*text++);
}

void put_hex(u32 value, u32 digits) {
    while (digits--)
        put_char("0123456789abcdef"[(value >> (4 * digits)) & 15]);
}

void put_decimal(u32 value) {
    if (value >= 10)
        put_decimal(value / 10);
    put_char((char)('0' + value % 10));
}

void exit_guest(u32 status) {
    port_out32(EXIT_PORT, status);
    for (;;) /* where no debug-exit device listens: stop for good */
        __asm__ volatile("cli; hlt");
}
