/* Power-on: vectors, data areas, interrupt controllers, timer; and the bootstrap. */
#include "firmware.h"

enum { EQUIPMENT_DISPLAY_80_COLUMNS = 0x20, EQUIPMENT_SERIAL_PORT = 0x200, EQUIPMENT_DISKETTE = 0x01 };

static void start_interrupt_controllers(void) {
    out8(0x20, 0x11), out8(0x21, 0x08), out8(0x21, 0x04), out8(0x21, 0x01);
    out8(0xa0, 0x11), out8(0xa1, 0x70), out8(0xa1, 0x02), out8(0xa1, 0x01);
    out8(0x21, 0xf8), out8(0xa1, 0xff);     /* timer, keyboard and cascade */
}

static void start_timer(void) {
    out8(0x43, 0x36), out8(0x40, 0), out8(0x40, 0);                       /* counter 0, mode 3, 18.2 times a second */
}

void post(void) {
    for (u32 vector = 0; vector < 256; vector++)
        put32(0, (u16)(4 * vector), (u32)FIRMWARE_SEGMENT << 16 | (u16)(u32)&nothing);
    for (u16 at = 0;; at += 4) {
        const u16 vector = (u16)(rom8(vector_table, at) | rom8(vector_table, at + 1) << 8);
        if (vector == 0xffff) break;
        put16(0, (u16)(4 * vector), (u16)(rom8(vector_table, at + 2) | rom8(vector_table, at + 3) << 8));
    }
    for (u16 at = 0; at < 0x100; at += 2) put16(BDA_SEGMENT, at, 0);
    put16(BDA_SEGMENT, 0x00, 0x3f8);
    put16(BDA_SEGMENT, 0x0e, EBDA_SEGMENT);
    put16(BDA_SEGMENT, 0x13, 639);
    put8(EBDA_SEGMENT, 0, 1);
    start_interrupt_controllers();
    start_timer();
    start_keyboard();
    set_video_mode(3);
    find_disk();
    u16 equipment = EQUIPMENT_DISPLAY_80_COLUMNS | EQUIPMENT_SERIAL_PORT;
    if (VARIABLES->disk.present && !VARIABLES->disk.number) equipment |= EQUIPMENT_DISKETTE;
    put16(BDA_SEGMENT, 0x10, equipment);
    put8(BDA_SEGMENT, 0x75, VARIABLES->disk.present && VARIABLES->disk.number);
}

/* INT 19h: the kernel that is in memory already, or the first sector of the disk, if it is marked as a boot sector. */
void boot(void) {
    if (rom8(loaded_kernel, 0) | rom8(loaded_kernel, 1)) enter_loaded_kernel();
    if (VARIABLES->disk.present && read_sectors(0, 1, 0, 0x7c00) && get16(0, 0x7dfe) == 0xaa55)
        enter_boot_sector(VARIABLES->disk.number);
    for (u16 at = 0; rom8(no_boot_text, at); at++) teletype(rom8(no_boot_text, at));
    for (;;) wait_for_interrupt();
}

/* Every service comes here, and the keyboard's interrupt (entry.S). */
void service(struct registers *r) {
    switch (r->vector) {
    case 0x09: keyboard_arrived(); break;
    case 0x10: video_service(r); break;
    case 0x11: r->ax = get16(BDA_SEGMENT, 0x10); break;
    case 0x12: r->ax = get16(BDA_SEGMENT, 0x13); break;
    case 0x13: disk_service(r); break;
    case 0x14: serial_service(r); break;
    case 0x15: system_service(r); break;
    case 0x16: keyboard_service(r); break;
    case 0x17: r->ah = 0x01; break;         /* no printer: time-out */
    case 0x18:
    case 0x19: boot(); break;
    case 0x1a: clock_service(r); break;
    }
}
