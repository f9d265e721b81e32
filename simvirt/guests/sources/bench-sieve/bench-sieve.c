/* bench-sieve: the sieve of Eratosthenes, again and again: byte stores with growing strides, and a pass of loads.
 *
 * Prints the number of primes below LIMIT and their sum modulo 2^32.
 */
#include "guest.h"

#ifndef ROUNDS
#define ROUNDS 10
#endif
enum { LIMIT = 1000000 };

static u8 is_composite[LIMIT];

static void sieve(void) {
    memset(is_composite, 0, LIMIT);
    for (u32 candidate = 2; candidate * candidate < LIMIT; candidate++)
        if (!is_composite[candidate])
            for (u32 multiple = candidate * candidate; multiple < LIMIT; multiple += candidate)
                is_composite[multiple] = 1;
}

u32 guest_main(void) {
    u32 count = 0, sum = 0;
    for (u32 round = 0; round < ROUNDS; round++) {
        sieve();
        count = sum = 0;
        for (u32 number = 2; number < LIMIT; number++)
            if (!is_composite[number]) {
                count++;
                sum += number;
            }
    }
    put_decimal(count);
    put_string(" primes, sum ");
    put_hex(sum, 8);
    put_char('\n');
    return 0;
}
