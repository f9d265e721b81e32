/* ticker: sleeps with HLT between timer interrupts and counts them. */
#include "guest.h"

enum { TICKS = 10, TIMER_HERTZ = 1000 };

static volatile u32 ticks;

static void on_tick(struct frame *frame) {
    (void)frame;
    ticks++;
    interrupt_controller_done(0);
}

u32 guest_main(void) {
    u32 reported = 0;
    install_handler(FIRST_IRQ_VECTOR, on_tick);
    interrupt_controller_start(0xfffe);
    timer_start(TIMER_HERTZ);
    while (reported < TICKS) {
        while (ticks == reported) {
            wait_for_interrupt();
            interrupts_off();
        }
        put_string("tick ");
        put_decimal(++reported);
        put_char('\n');
    }
    return 0;
}
