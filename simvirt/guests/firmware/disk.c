/* INT 13h: the disk on the primary ATA channel, by cylinder, head and sector or by number.
 *
 * An image of a diskette's size is taken for a diskette, drive 0, with that diskette's geometry; any other is drive 80h, the first
 * fixed disk.
 */
#include "firmware.h"

enum { DATA = 0x1f0, COUNT = 0x1f2, LBA = 0x1f3, DEVICE = 0x1f6, COMMAND = 0x1f7, CONTROL = 0x3f6 };
enum { BUSY = 0x80, READY = 0x40, REQUEST = 0x08, FAILED = 0x01 };
enum { READ = 0x20, WRITE = 0x30, FLUSH = 0xe7, IDENTIFY = 0xec, LBA_MODE = 0xe0 };
enum { OK = 0x00, BAD_COMMAND = 0x01, NOT_FOUND = 0x04, TIMED_OUT = 0x80 };
enum { LOOKS = 1000000, SECTOR = 512 };
#define DISK (VARIABLES->disk)

static int wait_status(u8 wanted) {
    for (u32 look = 0; look < LOOKS; look++) {
        const u8 status = in8(COMMAND);
        if (status == 0xff) return 0;
        if (status & BUSY) continue;
        if (status & FAILED) return 0;
        if (!wanted || status & wanted) return 1;
    }
    return 0;
}

static void transfer(u16 segment, u16 offset, int write) {
    if (write)
        __asm__ volatile("pushw %%ds\n\tmovw %w1, %%ds\n\tcld\n\trep outsw\n\tpopw %%ds"
                         : "+S"((u32){offset}) : "r"(segment), "c"(SECTOR / 2), "d"(DATA) : "memory");
    else
        __asm__ volatile("pushw %%es\n\tmovw %w1, %%es\n\tcld\n\trep insw\n\tpopw %%es"
                         : "+D"((u32){offset}) : "r"(segment), "c"(SECTOR / 2), "d"(DATA) : "memory");
}

static int move_sectors(u32 lba, u16 count, u16 segment, u16 offset, int write) {
    for (; count; count--, lba++) {
        if (lba >= DISK.sectors || !wait_status(READY)) return 0;
        out8(CONTROL, 2);                                                 /* polled: no interrupt */
        out8(DEVICE, (u8)(LBA_MODE | (lba >> 24 & 15)));
        out8(COUNT, 1);
        out8(LBA, (u8)lba), out8(LBA + 1, (u8)(lba >> 8)), out8(LBA + 2, (u8)(lba >> 16));
        out8(COMMAND, write ? WRITE : READ);
        if (!wait_status(REQUEST)) return 0;
        segment = (u16)(segment + (offset >> 4)), offset &= 15;           /* no transfer wraps around in its segment */
        transfer(segment, offset, write);
        if (write && !wait_status(READY)) return 0;
        offset = (u16)(offset + SECTOR);
    }
    return 1;
}

int read_sectors(u32 lba, u16 count, u16 segment, u16 offset) { return move_sectors(lba, count, segment, offset, 0); }

static void choose_geometry(void) {
    const u32 n = DISK.sectors;
    u16 tracks = 0, heads = 2, spt = 0;
    u8 kind = 0;
    switch (n) {
    case 320: tracks = 40, heads = 1, spt = 8, kind = 1; break;
    case 360: tracks = 40, heads = 1, spt = 9, kind = 1; break;
    case 640: tracks = 40, spt = 8, kind = 1; break;
    case 720: tracks = 40, spt = 9, kind = 1; break;
    case 1440: tracks = 80, spt = 9, kind = 3; break;
    case 2400: tracks = 80, spt = 15, kind = 2; break;
    case 2880: tracks = 80, spt = 18, kind = 4; break;
    case 5760: tracks = 80, spt = 36, kind = 5; break;
    }
    DISK.kind = kind;
    if (tracks) {
        DISK.number = 0, DISK.cylinders = tracks, DISK.heads = heads, DISK.sectors_per_track = spt;
        return;
    }
    for (heads = 16; heads < 255 && n / (heads * 63u) > 1023; heads = heads == 128 ? 255 : (u16)(2 * heads)) {}
    u32 cylinders = n / (heads * 63u);
    DISK.number = 0x80, DISK.heads = heads, DISK.sectors_per_track = 63;
    DISK.cylinders = (u16)(cylinders > 1023 ? 1023 : cylinders ? cylinders : 1);
}

void find_disk(void) {
    DISK.present = 0, DISK.status = 0;
    out8(DEVICE, LBA_MODE);
    out8(CONTROL, 2);
    if (!wait_status(0) || in8(COMMAND) == 0) return;
    out8(COMMAND, IDENTIFY);
    if (!wait_status(REQUEST)) return;
    u32 sectors = 0;
    for (u16 word = 0; word < SECTOR / 2; word++) {
        u16 value;
        __asm__ volatile("inw %1, %0" : "=a"(value) : "d"((u16)DATA));
        if (word == 60) sectors = value;
        if (word == 61) sectors |= (u32)value << 16;
    }
    DISK.sectors = sectors;
    DISK.present = sectors != 0;
    choose_geometry();
}

static void finish(struct registers *r, u8 status) {
    r->ah = status;
    DISK.status = status;
    put8(BDA_SEGMENT, DISK.number ? 0x74 : 0x41, status);
    r->flags = status ? r->flags | CARRY : r->flags & ~CARRY;
}

static void by_cylinder(struct registers *r) {
    const u16 cylinder = (u16)(r->ch | (r->cl & 0xc0) << 2), sector = r->cl & 0x3f;
    if (!r->al || !sector || sector > DISK.sectors_per_track || r->dh >= DISK.heads || cylinder >= 1024) {
        r->al = 0;
        finish(r, BAD_COMMAND);
        return;
    }
    const u32 lba = ((u32)cylinder * DISK.heads + r->dh) * DISK.sectors_per_track + sector - 1;
    if (r->ah == 4) { finish(r, lba + r->al <= DISK.sectors ? OK : NOT_FOUND); return; }
    if (move_sectors(lba, r->al, r->es, r->bx, r->ah == 3)) { finish(r, OK); return; }
    r->al = 0;
    finish(r, NOT_FOUND);
}

static void parameters(struct registers *r) {
    const u16 last = (u16)(DISK.cylinders - 1);
    r->ch = (u8)last;
    r->cl = (u8)((last >> 2 & 0xc0) | DISK.sectors_per_track);
    r->dh = (u8)(DISK.heads - 1);
    r->dl = 1;
    r->al = 0;
    if (!DISK.number) r->bx = DISK.kind, r->es = FIRMWARE_SEGMENT, r->di = (u16)(u32)diskette_parameters;
    finish(r, OK);
}

/* AH = 42h to 44h: a packet at DS:SI with the number of sectors, the buffer and the first sector's number. */
static void by_number(struct registers *r) {
    const u16 count = get16(r->ds, (u16)(r->si + 2));
    const u32 buffer = get32(r->ds, (u16)(r->si + 4)), lba = get32(r->ds, (u16)(r->si + 8));
    if (get8(r->ds, r->si) < 16 || get32(r->ds, (u16)(r->si + 12))) { finish(r, BAD_COMMAND); return; }
    if (r->ah == 0x44) { finish(r, lba + count <= DISK.sectors ? OK : NOT_FOUND); return; }
    if (move_sectors(lba, count, (u16)(buffer >> 16), (u16)buffer, r->ah == 0x43)) { finish(r, OK); return; }
    put16(r->ds, (u16)(r->si + 2), 0);
    finish(r, NOT_FOUND);
}

static void extended_parameters(struct registers *r) {
    if (get16(r->ds, r->si) < 0x1a) { finish(r, BAD_COMMAND); return; }
    put16(r->ds, r->si, 0x1a);
    put16(r->ds, (u16)(r->si + 2), 2);                                    /* the geometry is valid */
    put32(r->ds, (u16)(r->si + 4), DISK.cylinders);
    put32(r->ds, (u16)(r->si + 8), DISK.heads);
    put32(r->ds, (u16)(r->si + 12), DISK.sectors_per_track);
    put32(r->ds, (u16)(r->si + 16), DISK.sectors);
    put32(r->ds, (u16)(r->si + 20), 0);
    put16(r->ds, (u16)(r->si + 24), SECTOR);
    finish(r, OK);
}

void disk_service(struct registers *r) {
    if (!DISK.present || r->dl != DISK.number) {
        if (r->ah == 0x15) { r->ah = 0, r->flags &= ~CARRY; return; }     /* no such drive */
        if (r->ah == 0x08) r->dl = DISK.present && (r->dl & 0x80) == (DISK.number & 0x80);
        finish(r, BAD_COMMAND);
        return;
    }
    switch (r->ah) {
    case 0x00: case 0x0d: case 0x09: case 0x0c: case 0x10: case 0x11: case 0x14: case 0x47: finish(r, OK); break;
    case 0x01: r->ah = DISK.status, r->flags = r->ah ? r->flags | CARRY : r->flags & ~CARRY; break;
    case 0x02: case 0x03: case 0x04: by_cylinder(r); break;
    case 0x08: parameters(r); break;
    case 0x15:
        finish(r, OK);
        r->ah = DISK.number ? 3 : 1;
        if (DISK.number) r->cx = (u16)(DISK.sectors >> 16), r->dx = (u16)DISK.sectors;
        break;
    case 0x16: finish(r, OK); break;
    case 0x41:
        if (r->bx != 0x55aa || !DISK.number) { finish(r, BAD_COMMAND); break; }
        finish(r, OK);
        r->bx = 0xaa55, r->ah = 0x21, r->cx = 1;
        break;
    case 0x42: case 0x43: case 0x44: by_number(r); break;
    case 0x48: extended_parameters(r); break;
    default: finish(r, BAD_COMMAND);
    }
}
