/* bench-dhrystone: a mix in the spirit of Weicker's benchmark (Communications of the ACM 27, 10, 1984): records, pointers, strings,
 * arrays, branches and calls in about the proportions of system programs. The code is its own, not a port, and its figures compare with
 * no other program's.
 *
 * What round n computes depends on n modulo PERIOD only, so the checksum is known without running all of them.
 */
#include "guest.h"

#ifndef ROUNDS
#define ROUNDS 120000
#endif
enum { PERIOD = 64, TEXT_LENGTH = 30, SIDE = 50, CHAIN = 5 };

enum colour { RED, GREEN, BLUE, COLOURS };

struct record {
    struct record *next;
    enum colour colour;
    u32 number;
    char text[TEXT_LENGTH + 1];
};

static struct record records[CHAIN];
static u32 line[SIDE], square[SIDE][SIDE];

#define CALLED __attribute__((noinline))

CALLED static void copy_text(char *to, const char *from) {
    while ((*to++ = *from++)) {
    }
}

CALLED static i32 compare_text(const char *a, const char *b) {
    while (*a && *a == *b)
        a++, b++;
    return (u8)*a - (u8)*b;
}

CALLED static enum colour next_colour(enum colour colour) {
    switch (colour) {
    case RED:
        return BLUE;
    case GREEN:
        return RED;
    default:
        return GREEN;
    }
}

CALLED static void fill_arrays(u32 start, u32 value) {
    u32 at = start + 5;
    line[at] = value;
    line[at + 1] = line[at];
    line[at + 30] = at;
    for (u32 column = at; column <= at + 1; column++)
        square[at][column] = at;
    square[at][at - 1] += 1;
    square[at + 20][at] = line[at];
}

CALLED static void link_records(u32 seed) {
    for (u32 i = 0; i < CHAIN; i++) {
        records[i].next = i + 1 < CHAIN ? &records[i + 1] : 0;
        records[i].colour = (enum colour)((seed + i) % COLOURS);
        records[i].number = seed * 3 + i;
        copy_text(records[i].text, i & 1 ? "A GUEST'S PROGRAM, SECOND TEXT" : "A GUEST'S PROGRAM, FIRST TEXT.");
    }
}

CALLED static u32 walk_records(struct record *record) {
    u32 sum = 0;
    for (; record; record = record->next) {
        record->colour = next_colour(record->colour);
        if (record->next && compare_text(record->text, record->next->text) < 0)
            record->number += 7;
        else
            record->number -= 3;
        sum = sum * 31 + record->number + (u32)record->colour;
    }
    return sum;
}

CALLED static u32 divide_and_multiply(u32 n) {
    u32 product = (n + 7) * 13, quotient = product / 3;
    return (product - quotient) * 5 + product % 7;
}

/* One round; its result depends on n alone: the one counter that would carry over is set to zero first. */
CALLED static u32 one_round(u32 n) {
    u32 start = n % 16;
    square[start + 5][start + 4] = 0;
    link_records(n);
    u32 sum = walk_records(records);
    fill_arrays(start, n * 11);
    sum += line[start + 6] + line[start + 35] + square[start + 5][start + 4] + square[start + 25][start + 5];
    return sum * 17 + divide_and_multiply(n);
}

u32 guest_main(void) {
    u32 checksum = 0;
    for (u32 round = 0; round < ROUNDS; round++)
        checksum += one_round(round % PERIOD);
    put_decimal(ROUNDS);
    put_string(" rounds, checksum ");
    put_hex(checksum, 8);
    put_char('\n');
    return 0;
}
