/* timer.c: the 8254's channel 0, a thousand times a second; and what the processor does when nobody has anything to do. */
#include "kernel.h"

/* Intel 8254 data sheet, "Control Word Format": counter 0, both bytes, mode 2 (rate generator), binary. */
enum { INPUT_HERTZ = 1193182, CHANNEL_0 = 0x40, CONTROL = 0x43, RATE_GENERATOR = 0x34, TIMER_LINE = 0 };

volatile u32 ticks;

void timer_start(void) {
    u32 divisor = INPUT_HERTZ / TICKS_PER_SECOND;
    port_out8(CONTROL, RATE_GENERATOR);
    port_out8(CHANNEL_0, divisor);
    port_out8(CHANNEL_0, divisor >> 8);
    interrupt_line_set(TIMER_LINE, 1);
}

void timer_interrupt(void) {
    ticks++;
    process_sleepers_wake();
}

/* With interrupts masked, as sleep_on. While nobody sleeps for a time, no tick is needed: the processor then rests until there is input. */
void idle(void) {
    int ticking = process_someone_sleeps();
    if (!ticking)
        interrupt_line_set(TIMER_LINE, 0);
    wait_for_interrupt();
    if (!ticking)
        interrupt_line_set(TIMER_LINE, 1);
}
