/* The keyboard: IRQ 1 fills the buffer in the BIOS data area, INT 16h empties it. */
#include "firmware.h"

enum { HEAD = 0x1a, TAIL = 0x1c, FIRST = 0x1e, END = 0x3e, FLAGS = 0x17 };
enum { RIGHT_SHIFT = 1, LEFT_SHIFT = 2, CONTROL_KEY = 4, ALT = 8, CAPS_LOCK = 0x40 };
enum { LAST_WITH_TEXT = 0x39 };

void start_keyboard(void) {
    put16(BDA_SEGMENT, HEAD, FIRST), put16(BDA_SEGMENT, TAIL, FIRST);
    put16(BDA_SEGMENT, 0x80, FIRST), put16(BDA_SEGMENT, 0x82, END);
    while (in8(0x64) & 1) in8(0x60);
    out8(0x64, 0x60), out8(0x60, 0x65);     /* interrupt, system flag, no mouse, translation */
    out8(0x64, 0xae);
}

static u16 after(u16 place) { return place + 2 == END ? FIRST : (u16)(place + 2); }

static int store(u16 key) {
    const u16 tail = get16(BDA_SEGMENT, TAIL), next = after(tail);
    if (next == get16(BDA_SEGMENT, HEAD)) return 0;
    put16(BDA_SEGMENT, tail, key);
    put16(BDA_SEGMENT, TAIL, next);
    return 1;
}

static u8 modifier(u8 code) {
    return code == 0x2a ? LEFT_SHIFT : code == 0x36 ? RIGHT_SHIFT : code == 0x1d ? CONTROL_KEY : code == 0x38 ? ALT : 0;
}

static u8 text_of(u8 code, u8 flags) {
    if (code > LAST_WITH_TEXT) return 0;
    u8 plain = rom8(keys_plain, code);
    const int letter = plain >= 'a' && plain <= 'z';
    if (flags & CONTROL_KEY) return letter ? plain & 0x1f : plain == '\r' ? '\n' : plain == '[' || plain == '\\' || plain == ']' ? plain & 0x1f : 0;
    const int shifted = !(flags & (LEFT_SHIFT | RIGHT_SHIFT)) == !!(letter && flags & CAPS_LOCK);
    return shifted ? rom8(keys_shifted, code) : plain;
}

void keyboard_arrived(void) {
    const u8 code = in8(0x60), flags = get8(BDA_SEGMENT, FLAGS);
    out8(0x20, 0x20);
    if (code == 0xe0 || code == 0xe1 || code == 0xfa) return;
    const u8 key = code & 0x7f, held = modifier(key);
    if (held) put8(BDA_SEGMENT, FLAGS, code & 0x80 ? flags & ~held : flags | held);
    else if (code == 0x3a) put8(BDA_SEGMENT, FLAGS, flags ^ CAPS_LOCK);
    else if (!(code & 0x80)) store((u16)(key << 8 | (flags & ALT ? 0 : text_of(key, flags))));
}

void keyboard_service(struct registers *r) {
    switch (r->ah & ~0x10) {
    case 0x00:
        while (get16(BDA_SEGMENT, HEAD) == get16(BDA_SEGMENT, TAIL)) wait_for_interrupt();
        r->ax = get16(BDA_SEGMENT, get16(BDA_SEGMENT, HEAD));
        put16(BDA_SEGMENT, HEAD, after(get16(BDA_SEGMENT, HEAD)));
        break;
    case 0x01:
        if (get16(BDA_SEGMENT, HEAD) == get16(BDA_SEGMENT, TAIL)) { r->flags |= ZERO; break; }
        r->flags &= ~ZERO;
        r->ax = get16(BDA_SEGMENT, get16(BDA_SEGMENT, HEAD));
        break;
    case 0x02: r->al = get8(BDA_SEGMENT, FLAGS); break;
    case 0x05: r->al = !store(r->cx); break;
    }
}
