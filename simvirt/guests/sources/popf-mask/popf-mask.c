/* popf-mask: a kernel whose bookkeeping is only right while POPF masks interrupts.
 *
 * The main program moves units from one account to the other, slowly, with interrupts masked; the timer's handler adds the two up.
 * On a PC every sum is right. Where POPF drops IF without a word, a tick comes in the middle of a transfer and sees a unit missing.
 */
#include "guest.h"

enum { TICKS = 20, TIMER_HERTZ = 10000, UNITS = 100000, TRANSFER_LOOPS = 10000, PAUSE_LOOPS = 1000 };

u32 mask_interrupts(void);
void restore_interrupts(u32 flags);

static volatile u32 first_account = UNITS, second_account = 0, ticks = 0;

static void on_tick(struct frame *frame) {
    (void)frame;
    ticks++;
    if (first_account + second_account != UNITS) {
        put_string("broken: a tick came although interrupts were masked, ");
        put_decimal(UNITS - first_account - second_account);
        put_string(" unit is missing\n");
        exit_guest(1);
    }
    interrupt_controller_done(0);
}

static void spend_time(u32 loops) {
    while (loops--)
        __asm__ volatile("");
}

static void transfer(void) {
    u32 flags = mask_interrupts();
    first_account--;
    spend_time(TRANSFER_LOOPS);
    second_account++;
    restore_interrupts(flags);
}

u32 guest_main(void) {
    install_handler(FIRST_IRQ_VECTOR, on_tick);
    interrupt_controller_start(0xfffe);
    timer_start(TIMER_HERTZ);
    interrupts_on();
    while (ticks < TICKS) {
        transfer();
        spend_time(PAUSE_LOOPS);
    }
    interrupts_off();
    put_decimal(TICKS);
    put_string(" ticks, and at each of them the accounts added up\n");
    return 0;
}
