/* bench-priv: a kernel that spends its time on privileged and sensitive instructions, a few dozen of arithmetic between each set. */
#include "guest.h"

#ifndef ROUNDS
#define ROUNDS 20000
#endif
enum { ARITHMETIC = 20 };

u32 mix(u32 x);

u32 guest_main(void) {
    u32 x = 1;
    interrupt_controller_start(0xffff);
    for (u32 round = 0; round < ROUNDS; round++) {
        x = mix(x);
        for (u32 i = 0; i < ARITHMETIC; i++)
            x = x * 5 + (x >> 13) + i;
    }
    interrupts_off();
    put_decimal(ROUNDS);
    put_string(" rounds, checksum ");
    put_hex(x, 8);
    put_char('\n');
    return 0;
}
