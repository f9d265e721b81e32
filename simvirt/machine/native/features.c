/* Which feature of CPUID an instruction came with, as far as a CPU model may lack it: there it is #UD (SDM Vol. 2A Table 3-10 and 3-11, and
 * "CPUID Feature Flag" on each instruction's page). The engine decodes the same instructions for every model.
 *
 * Only instructions that were undefined before they came are here. Hints (PREFETCHW, PAUSE) ran as NOP before; TZCNT and LZCNT are BSF and BSR
 * with a prefix that means nothing, where they are absent (machine/exact_instructions.py).
 */
#include "record.h"

enum { P66 = 1, PF2 = 2, PF3 = 4 };                                       /* as in special.c */

/* 0F 38 and 0F 3A */
static u64 of_three_bytes(const u8 *op, int prefixes) {
    const u8 third = op[2];
    if (op[1] == 0x3a) {
        if (third == 0x0f) return FEATURE_SSSE3;
        if (third == 0x44) return FEATURE_PCLMULQDQ;
        if (third == 0xdf) return FEATURE_AES;
        if (third >= 0x60 && third <= 0x63) return FEATURE_SSE4_2;
        return (third >= 0x08 && third <= 0x0e) || (third >= 0x14 && third <= 0x22) || (third >= 0x40 && third <= 0x42) ? FEATURE_SSE4_1 : 0;
    }
    if (third <= 0x0b || (third >= 0x1c && third <= 0x1e)) return FEATURE_SSSE3;
    if (third == 0x37) return FEATURE_SSE4_2;
    if (third >= 0x10 && third <= 0x41) return FEATURE_SSE4_1;
    if (third >= 0xdb && third <= 0xdf) return FEATURE_AES;
    if (third == 0xf0 || third == 0xf1) return prefixes & PF2 ? FEATURE_SSE4_2 : FEATURE_MOVBE;
    return third == 0xf6 ? FEATURE_ADX : 0;
}

/* 0F AE */
static u64 of_group_15(u8 modrm, int prefixes) {
    const u8 reg = modrm >> 3 & 7;
    if (modrm >> 6 != 3) return reg < 2 ? FEATURE_FXSR : reg < 4 ? FEATURE_SSE : reg == 7 ? FEATURE_CLFSH : 0;
    if (prefixes & PF3) return reg < 4 ? FEATURE_FSGSBASE : 0;
    return reg == 7 ? FEATURE_SSE : reg > 4 ? FEATURE_SSE2 : 0;
}

/* 0F 60 to 0F 7F and 0F D0 to 0F FE: MMX without a prefix, and SSE where that is newer */
static u64 of_packed_integers(u8 second, int prefixes) {
    switch (second) {
    case 0x7c: case 0x7d: case 0xd0: case 0xf0: return FEATURE_SSE3;
    case 0x6c: case 0x6d: case 0xd6: case 0xe6: return FEATURE_SSE2;
    case 0x78: case 0x79: case 0x7a: case 0x7b: return 0;
    }
    if (prefixes) return FEATURE_SSE2;
    switch (second) {
    case 0x70: case 0xd7: case 0xda: case 0xde: case 0xe0: case 0xe3: case 0xe4: case 0xe7: case 0xea: case 0xee: case 0xf6: case 0xf7:
        return FEATURE_SSE;
    case 0xd4: case 0xf4: case 0xfb: return FEATURE_SSE2;
    default: return FEATURE_MMX;
    }
}

static u64 of_two_bytes(const u8 *op, int prefixes, int rex_w) {
    const u8 second = op[1], modrm = op[2];
    switch (second) {
    case 0x01: return modrm == 0xca || modrm == 0xcb ? FEATURE_SMAP : 0;
    case 0x12: return prefixes & (PF2 | PF3) ? FEATURE_SSE3 : prefixes ? FEATURE_SSE2 : FEATURE_SSE;
    case 0x16: return prefixes & PF3 ? FEATURE_SSE3 : prefixes ? FEATURE_SSE2 : FEATURE_SSE;
    case 0x35: return FEATURE_SEP;
    case 0x38: case 0x3a: return of_three_bytes(op, prefixes);
    case 0x5a: case 0x5b: case 0xc3: return FEATURE_SSE2;
    case 0xae: return of_group_15(modrm, prefixes);
    case 0xb8: return prefixes & PF3 ? FEATURE_POPCNT : 0;
    case 0xc2: case 0xc4: case 0xc5: case 0xc6: return prefixes & (P66 | PF2) ? FEATURE_SSE2 : FEATURE_SSE;
    case 0xc7: return (modrm >> 3 & 7) == 1 && modrm >> 6 != 3 ? (rex_w ? FEATURE_CX16 : FEATURE_CX8) : 0;
    }
    if ((second & 0xf0) == 0x40) return FEATURE_CMOV;
    if ((second >= 0x10 && second <= 0x17) || (second >= 0x28 && second <= 0x2f) || (second & 0xf0) == 0x50)
        return prefixes & (P66 | PF2) ? FEATURE_SSE2 : FEATURE_SSE;
    return (second >= 0x60 && second <= 0x7f) || (second >= 0xd0 && second != 0xff) ? of_packed_integers(second, prefixes) : 0;
}

/* FISTTP; FCMOVcc, FCOMI and FUCOMI */
static u64 of_x87(const u8 *op) {
    const u8 modrm = op[1], reg = modrm >> 3 & 7;
    if (modrm >> 6 != 3) return (op[0] & 1) && op[0] != 0xd9 && reg == 1 ? FEATURE_SSE3 : 0;
    if (op[0] == 0xda) return reg < 4 ? FEATURE_CMOV : 0;
    if (op[0] == 0xdb) return reg < 4 || reg == 5 || reg == 6 ? FEATURE_CMOV : 0;
    return op[0] == 0xdf && (reg == 5 || reg == 6) ? FEATURE_CMOV : 0;
}

u64 feature_of(const u8 *op, int prefixes, int rex_w, int code_64) {
    switch (op[0]) {
    case 0x0f: return of_two_bytes(op, prefixes, rex_w);
    case 0x9e: case 0x9f: return code_64 ? FEATURE_LAHF64 : 0;
    case 0xda: case 0xdb: case 0xdd: case 0xdf: return of_x87(op);
    default: return 0;
    }
}

/* Of VEX-coded instructions the engine has these: ANDN, BLSR and its kin, BEXTR; BZHI, MULX, PDEP, PEXT, RORX, SARX, SHLX, SHRX. */
u64 feature_of_vex(const u8 *vex) {
    const u8 map = vex[1] & 0x1f, op = vex[3], p = vex[2] & 3;
    return map == 2 && (op == 0xf2 || op == 0xf3 || (op == 0xf7 && !p)) ? FEATURE_BMI1 : FEATURE_BMI2;
}
