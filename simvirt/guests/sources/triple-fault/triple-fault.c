/* triple-fault: an invalid opcode, with an IDT that has room for no handler, not even the double fault's. */
#include "guest.h"

struct table_register {
    u16 limit;
    u32 base;
} __attribute__((packed));

u32 guest_main(void) {
    static const struct table_register empty = {0, 0};
    put_string("Three faults, then nothing.\n");
    __asm__ volatile("lidt %0\n\t"
                     ".globl site_ud2\n"
                     "site_ud2:\n\t"
                     "ud2"
                     :
                     : "m"(empty));
    return 1;
}
