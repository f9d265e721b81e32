/* INT 15h: memory, A20, waiting; INT 1Ah: the clocks; INT 14h: the serial port. */
#include "firmware.h"

enum { UNSUPPORTED = 0x86 };
enum { AVAILABLE = 1, RESERVED = 2 };
enum { COM1 = 0x3f8, LINE_STATUS = COM1 + 5, RECEIVED = 1, TRANSMITTER_EMPTY = 0x20 };

static u32 kibibytes_above_1_mib(void) { return (u32)(cmos(0x30) | cmos(0x31) << 8); }
static u32 blocks_above_16_mib(void) { return (u32)(cmos(0x34) | cmos(0x35) << 8); }
static u32 end_of_memory(void) {
    const u32 blocks = blocks_above_16_mib();
    return blocks ? (16u << 20) + (blocks << 16) : (1u << 20) + (kibibytes_above_1_mib() << 10);
}

static void fail(struct registers *r) { r->ah = UNSUPPORTED, r->flags |= CARRY; }

/* AX = E820h: one range of the memory map at a time; EBX says which, and which is next. */
static void memory_map(struct registers *r) {
    if (r->edx != 0x534d4150 || r->ecx < 20 || r->ebx > 3) { fail(r); return; }
    u32 base = 0, size = 0x9fc00, type = AVAILABLE;
    switch (r->ebx) {
    case 1: base = 0x9fc00, size = 0x400, type = RESERVED; break;
    case 2: base = 0xf0000, size = 0x10000, type = RESERVED; break;
    case 3: base = 0x100000, size = end_of_memory() - 0x100000; break;
    }
    put32(r->es, r->di, base), put32(r->es, (u16)(r->di + 4), 0);
    put32(r->es, (u16)(r->di + 8), size), put32(r->es, (u16)(r->di + 12), 0);
    put32(r->es, (u16)(r->di + 16), type);
    r->eax = 0x534d4150, r->ecx = 20;
    r->ebx = r->ebx == 3 ? 0 : r->ebx + 1;
    r->flags &= ~CARRY;
}

static void memory_sizes(struct registers *r) {
    const u32 low = kibibytes_above_1_mib();
    r->ax = r->cx = (u16)(low > 15360 ? 15360 : low);
    r->bx = r->dx = (u16)blocks_above_16_mib();
    r->flags &= ~CARRY;
}

static void gate_a20(struct registers *r) {
    r->flags &= ~CARRY;
    switch (r->al) {
    case 0: out8(0x92, in8(0x92) & 0xfc); r->ah = 0; break;
    case 1: out8(0x92, (in8(0x92) & 0xfe) | 2); r->ah = 0; break;
    case 2: r->al = in8(0x92) >> 1 & 1, r->ah = 0; break;
    case 3: r->bx = 3, r->ah = 0; break;
    default: fail(r);
    }
}

/* Bit 4 of port 61h turns over with the refresh of memory, every 15.085 microseconds. */
static void wait_microseconds(u32 microseconds) {
    u8 last = in8(0x61) & 0x10;
    for (u32 turns = microseconds / 15 + 1; turns; turns--) {
        while ((in8(0x61) & 0x10) == last) {}
        last ^= 0x10;
    }
}

static u32 linear_base(u16 segment, u16 offset) {
    return (get32(segment, offset) >> 16) | (u32)get8(segment, (u16)(offset + 4)) << 16 | (u32)get8(segment, (u16)(offset + 7)) << 24;
}

void system_service(struct registers *r) {
    switch (r->ah) {
    case 0x24: gate_a20(r); break;
    case 0x4f: r->flags |= CARRY; break;    /* the key is to be dealt with as usual */
    case 0x86: wait_microseconds((u32)r->cx << 16 | r->dx); r->flags &= ~CARRY; break;
    case 0x87:
        move_block(linear_base(r->es, (u16)(r->si + 0x10)), linear_base(r->es, (u16)(r->si + 0x18)), 2u * r->cx);
        r->ah = 0, r->flags &= ~CARRY;
        break;
    case 0x88: {
        const u32 size = kibibytes_above_1_mib();
        r->ax = (u16)(size > 0xfc00 ? 0xfc00 : size), r->flags &= ~CARRY;
        break;
    }
    case 0xc0: r->es = FIRMWARE_SEGMENT, r->bx = (u16)(u32)system_configuration, r->ah = 0, r->flags &= ~CARRY; break;
    case 0xc1: r->es = EBDA_SEGMENT, r->flags &= ~CARRY; break;
    case 0xe8:
        if (r->al == 0x20) memory_map(r);
        else if (r->al == 0x01) memory_sizes(r);
        else fail(r);
        break;
    default: fail(r);
    }
}

static void settle_clock(void) { while (cmos(0x0a) & 0x80) {} }

void clock_service(struct registers *r) {
    r->flags &= ~CARRY;
    switch (r->ah) {
    case 0x00:
        r->cx = get16(BDA_SEGMENT, BDA_TICKS + 2), r->dx = get16(BDA_SEGMENT, BDA_TICKS);
        r->al = get8(BDA_SEGMENT, BDA_MIDNIGHT);
        put8(BDA_SEGMENT, BDA_MIDNIGHT, 0);
        break;
    case 0x01:
        put16(BDA_SEGMENT, BDA_TICKS, r->dx), put16(BDA_SEGMENT, BDA_TICKS + 2, r->cx);
        put8(BDA_SEGMENT, BDA_MIDNIGHT, 0);
        break;
    case 0x02: settle_clock(); r->ch = cmos(4), r->cl = cmos(2), r->dh = cmos(0), r->dl = cmos(0x0b) & 1; break;
    case 0x04: settle_clock(); r->ch = cmos(0x32), r->cl = cmos(9), r->dh = cmos(8), r->dl = cmos(7); break;
    default: r->flags |= CARRY;
    }
}

void serial_service(struct registers *r) {
    if (r->dx) { r->ah = 0x80; return; }    /* one port: the others time out */
    switch (r->ah) {
    case 0x01:
        while (!(in8(LINE_STATUS) & TRANSMITTER_EMPTY)) {}
        out8(COM1, r->al);
        r->ah = in8(LINE_STATUS);
        break;
    case 0x02:
        if (!(in8(LINE_STATUS) & RECEIVED)) { r->ah = 0x80; break; }
        r->al = in8(COM1), r->ah = 0;
        break;
    default: r->ah = in8(LINE_STATUS), r->al = in8(COM1 + 6);
    }
}
