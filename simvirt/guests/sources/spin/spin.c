/* spin: never ends. Whoever runs it has to stop it. */
#include "guest.h"

u32 guest_main(void) {
    put_string("Round and round.\n");
    for (;;)
        __asm__ volatile("");
}
