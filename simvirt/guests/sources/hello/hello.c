/* hello: the smallest guest that says something. */
#include "guest.h"

u32 guest_main(void) {
    put_string("Hello from ring 0.\n");
    return 0;
}
