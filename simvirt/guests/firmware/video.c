/* INT 10h: the text modes of a colour adapter. */
#include "firmware.h"

enum { TEXT_SEGMENT = 0xb800, COLUMNS = 80, ROWS = 25, BLANK = 0x0720 };

static void show_cursor(u8 row, u8 column) {
    const u16 at = (u16)(row * COLUMNS + column);
    out8(0x3d4, 0x0e), out8(0x3d5, (u8)(at >> 8));
    out8(0x3d4, 0x0f), out8(0x3d5, (u8)at);
}

static void set_cursor(u8 page, u8 row, u8 column) {
    put16(BDA_SEGMENT, (u16)(0x50 + 2 * (page & 7)), (u16)(row << 8 | column));
    if (!page) show_cursor(row, column);
}

void set_video_mode(u8 mode) {
    put8(BDA_SEGMENT, 0x49, mode & 0x7f);
    put16(BDA_SEGMENT, 0x4a, COLUMNS);
    put16(BDA_SEGMENT, 0x4c, 0x1000);
    put16(BDA_SEGMENT, 0x60, 0x0607);
    put16(BDA_SEGMENT, 0x63, 0x3d4);
    put8(BDA_SEGMENT, 0x84, ROWS - 1);
    put16(BDA_SEGMENT, 0x85, 16);
    if (!(mode & 0x80))
        for (u32 at = 0; at < 2 * COLUMNS * ROWS; at += 2) put16(TEXT_SEGMENT, (u16)at, BLANK);
    for (u8 page = 0; page < 8; page++) set_cursor(page, 0, 0);
}

/* Move the lines of a window by `lines`, up or down; what comes free is blank. 0 lines clear the window. */
static void scroll(u8 lines, u8 attribute, u8 top, u8 left, u8 bottom, u8 right, int down) {
    if (right >= COLUMNS) right = COLUMNS - 1;
    if (bottom >= ROWS) bottom = ROWS - 1;
    if (top > bottom || left > right) return;
    const int height = bottom - top + 1;
    if (!lines || lines > height) lines = (u8)height;
    for (int i = 0; i < height; i++) {
        const int row = down ? bottom - i : top + i, from = down ? row - lines : row + lines;
        for (int column = left; column <= right; column++) {
            const u16 at = (u16)(2 * (row * COLUMNS + column));
            const int inside = from >= top && from <= bottom;
            put16(TEXT_SEGMENT, at, inside ? get16(TEXT_SEGMENT, (u16)(2 * (from * COLUMNS + column)))
                                           : (u16)(attribute << 8 | ' '));
        }
    }
}

static void put_character(u8 character, int attribute) {
    u8 column = get8(BDA_SEGMENT, 0x50), row = get8(BDA_SEGMENT, 0x51);
    switch (character) {
    case '\a': break;
    case '\b': if (column) column--; break;
    case '\r': column = 0; break;
    case '\n': row++; break;
    default: {
        const u16 at = (u16)(2 * (row * COLUMNS + column));
        put8(TEXT_SEGMENT, at, character);
        if (attribute >= 0) put8(TEXT_SEGMENT, at + 1, (u8)attribute);
        if (++column == COLUMNS) column = 0, row++;
    }
    }
    if (row >= ROWS) {
        scroll(1, get8(TEXT_SEGMENT, 2 * ((ROWS - 1) * COLUMNS) + 1), 0, 0, ROWS - 1, COLUMNS - 1, 0);
        row = ROWS - 1;
    }
    set_cursor(0, row, column);
}

void teletype(u8 character) { put_character(character, -1); }

static void write_cells(u16 count, u8 character, int attribute) {
    u16 at = (u16)(2 * (get8(BDA_SEGMENT, 0x51) * COLUMNS + get8(BDA_SEGMENT, 0x50)));
    for (; count && at < 2 * COLUMNS * ROWS; count--, at += 2) {
        put8(TEXT_SEGMENT, at, character);
        if (attribute >= 0) put8(TEXT_SEGMENT, at + 1, (u8)attribute);
    }
}

static void write_string(struct registers *r) {
    const u16 before = get16(BDA_SEGMENT, 0x50);
    const int attributes = r->al & 2;
    u16 at = r->bp;
    set_cursor(0, r->dh, r->dl);
    for (u16 i = 0; i < r->cx; i++) {
        const u8 character = get8(r->es, at++);
        put_character(character, attributes ? get8(r->es, at++) : r->bl);
    }
    if (!(r->al & 1)) set_cursor(0, (u8)(before >> 8), (u8)before);
}

void video_service(struct registers *r) {
    switch (r->ah) {
    case 0x00: set_video_mode(r->al); break;
    case 0x01:
        put16(BDA_SEGMENT, 0x60, r->cx);
        out8(0x3d4, 0x0a), out8(0x3d5, r->ch);
        out8(0x3d4, 0x0b), out8(0x3d5, r->cl);
        break;
    case 0x02: set_cursor(r->bh, r->dh, r->dl); break;
    case 0x03:
        r->cx = get16(BDA_SEGMENT, 0x60);
        r->dx = get16(BDA_SEGMENT, (u16)(0x50 + 2 * (r->bh & 7)));
        break;
    case 0x05: put8(BDA_SEGMENT, 0x62, r->al); break;
    case 0x06: scroll(r->al, r->bh, r->ch, r->cl, r->dh, r->dl, 0); break;
    case 0x07: scroll(r->al, r->bh, r->ch, r->cl, r->dh, r->dl, 1); break;
    case 0x08:
        r->ax = get16(TEXT_SEGMENT, (u16)(2 * (get8(BDA_SEGMENT, 0x51) * COLUMNS + get8(BDA_SEGMENT, 0x50))));
        break;
    case 0x09: write_cells(r->cx, r->al, r->bl); break;
    case 0x0a: write_cells(r->cx, r->al, -1); break;
    case 0x0e: teletype(r->al); break;
    case 0x0f: r->al = get8(BDA_SEGMENT, 0x49), r->ah = COLUMNS, r->bh = get8(BDA_SEGMENT, 0x62); break;
    case 0x12: if (r->bl == 0x10) r->bx = 0x0003, r->cx = 0; break;       /* colour, 256 KiB */
    case 0x13: write_string(r); break;
    case 0x1a: if (!r->al) r->al = 0x1a, r->bx = 0x0008; break;           /* VGA with a colour display */
    }
}
