/* bench-sha256: the digest of a long message: rotations, additions and logic on registers, and a small table.
 *
 * FIPS 180-4 sections 4.1.2 (functions), 4.2.2 and 5.3.3 (constants: the first 32 bits of the fractional parts of the cube and square
 * roots of the first primes), 5.1.1 (padding) and 6.2.2 (computation). The message is MESSAGE_WORDS words of a linear congruential
 * generator, x := 1664525 x + 1013904223 from 1 on, little-endian, all of it ROUNDS times.
 */
#include "guest.h"

#ifndef ROUNDS
#define ROUNDS 48
#endif
enum { BLOCK_WORDS = 16, STEPS = 64, MESSAGE_WORDS = 16384 };

static const u32 step_constants[STEPS] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
static u32 state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
static u32 message[MESSAGE_WORDS];

static u32 rotate_right(u32 x, u32 by) { return x >> by | x << (32 - by); }
static u32 swap_bytes(u32 x) { return x << 24 | (x & 0xff00) << 8 | (x >> 8 & 0xff00) | x >> 24; }

static void digest_block(const u32 *block) {
    u32 schedule[STEPS];
    u32 a = state[0], b = state[1], c = state[2], d = state[3], e = state[4], f = state[5], g = state[6], h = state[7];
    for (u32 t = 0; t < BLOCK_WORDS; t++)
        schedule[t] = swap_bytes(block[t]);
    for (u32 t = BLOCK_WORDS; t < STEPS; t++) {
        u32 x = schedule[t - 15], y = schedule[t - 2];
        u32 sigma0 = rotate_right(x, 7) ^ rotate_right(x, 18) ^ x >> 3;
        u32 sigma1 = rotate_right(y, 17) ^ rotate_right(y, 19) ^ y >> 10;
        schedule[t] = sigma1 + schedule[t - 7] + sigma0 + schedule[t - 16];
    }
    for (u32 t = 0; t < STEPS; t++) {
        u32 sum1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
        u32 sum0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
        u32 first = h + sum1 + ((e & f) ^ (~e & g)) + step_constants[t] + schedule[t];
        u32 second = sum0 + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + first;
        d = c;
        c = b;
        b = a;
        a = first + second;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
}

u32 guest_main(void) {
    u32 x = 1;
    for (u32 i = 0; i < MESSAGE_WORDS; i++) {
        message[i] = x;
        x = 1664525 * x + 1013904223;
    }
    for (u32 round = 0; round < ROUNDS; round++)
        for (u32 i = 0; i < MESSAGE_WORDS; i += BLOCK_WORDS)
            digest_block(message + i);
    /* The message fills its last block, so the padding has one to itself: a set bit, zeros, the length in bits. */
    u32 padding[BLOCK_WORDS] = {0x80};
    padding[BLOCK_WORDS - 1] = swap_bytes(ROUNDS * MESSAGE_WORDS * 32u);
    digest_block(padding);
    for (u32 i = 0; i < 8; i++)
        put_hex(state[i], 8);
    put_char('\n');
    return 0;
}
