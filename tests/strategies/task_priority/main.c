/* A kernel in 64-bit mode that changes CR8, IF and the APIC's own TPR by chance, and sends itself interrupts of every priority. */
#include "guest.h"

void long_mode_run(u32 times, void (*work)(void), u32 *top_table);
void chance(void);
extern u8 long_stubs[], long_idt[];
extern volatile u32 checksum, arrived;
enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80, VECTORS = 256, STUB = 16, LONG_CODE = 0x30, APIC_AT = 0x1f7 };

static u32 top[1024] __attribute__((aligned(4096)));
static u32 pointers[1024] __attribute__((aligned(4096)));
static u32 low[1024] __attribute__((aligned(4096)));
static u32 high[1024] __attribute__((aligned(4096)));

u32 guest_main(void) {
    top[0] = (u32)pointers | PRESENT | WRITABLE;
    pointers[0] = (u32)low | PRESENT | WRITABLE;
    pointers[3 * 2] = (u32)high | PRESENT | WRITABLE;
    low[0] = LARGE | PRESENT | WRITABLE;
    high[APIC_AT * 2] = 0xfee00000 | LARGE | PRESENT | WRITABLE;
    for (u32 vector = 0; vector < VECTORS; vector++) {
        u32 *gate = (u32 *)(long_idt + 16 * vector), stub = (u32)long_stubs + STUB * vector;
        gate[0] = LONG_CODE << 16 | (stub & 0xffff);
        gate[1] = (stub & 0xffff0000) | 0x8e00;
    }
    long_mode_run(4000, chance, top);
    put_hex(checksum, 8);
    put_char(' ');
    put_decimal(arrived);
    put_char('\n');
    return 0;
}
