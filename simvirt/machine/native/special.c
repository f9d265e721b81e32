/* The instructions that a translated block may not simply run through: the engine stops in front of each of them.
 *
 *   UNDEFINED    what the engine executes although it is #UD
 *   BREAKPOINT   an address at which a debug register of the guest or a debugger wants to hear of execution
 *   STI_AGAIN    STI while IF is 1 already, which delays no interrupt (SDM Vol. 2B "STI"); the engine's always does
 *   ALIGNMENT    any instruction at CPL 3 with CR0.AM and EFLAGS.AC set
 *   FAR_TRANSFER far JMP, CALL, RET and IRET outside of real-address and virtual-8086 mode (machine/far_transfers.py)
 *   STRING_LENGTH  a string comparison with lengths that the engine cannot take
 *   EXACT        what the engine executes otherwise than the manual says (machine/exact_instructions.py, misread_instructions.py,
 *                long_mode_segments.py)
 *   STRING_IO    INS and OUTS where the port may be forbidden: the engine would access memory before it asks
 *   FLOATING     x87 and SSE instructions whose exceptions have to be looked after (machine/floating_exceptions.py)
 *   X87_STATUS   what reads or clears the x87 status word, to which the engine's accumulated exception flags are added first
 *   X87_CONTROL  FLDCW: FLOATING if it unmasks an exception
 */
#include <string.h>

#include "processor.h"

/* ------------------------------------------------------------------------------------------------ undefined instructions
 * The engine ignores LOCK in front of what cannot take it, or writes to an address that it has not computed; it runs AVX as if it were
 * SSE, and some encodings that do not exist as those beside them. All that is #UD (SDM Vol. 2A "LOCK", 2.3; Vol. 2D A.3; no CPU model here
 * has AVX), so each block is searched for it, once. */

int is_prefix(u8 byte, int code_64) {
    switch (byte) {
    case 0x26: case 0x2e: case 0x36: case 0x3e: case 0x64: case 0x65: case 0x66: case 0x67: case 0xf0: case 0xf2: case 0xf3: return 1;
    default: return code_64 && (byte & 0xf0) == 0x40;
    }
}

/* The instructions that take LOCK, with a memory operand. */
static int lockable(const u8 *op) {
    const u8 modrm = op[0] == 0x0f ? op[2] : op[1], reg = modrm >> 3 & 7;
    if (modrm >> 6 == 3) return 0;
    switch (op[0]) {
    case 0x80: case 0x81: case 0x82: case 0x83: return reg != 7;
    case 0x86: case 0x87: return 1;
    case 0xf6: case 0xf7: return reg == 2 || reg == 3;
    case 0xfe: case 0xff: return reg < 2;
    case 0x0f: break;
    default: return op[0] < 0x38 && (op[0] & 7) < 2;
    }
    switch (op[1]) {
    case 0xab: case 0xb0: case 0xb1: case 0xb3: case 0xbb: case 0xc0: case 0xc1: return 1;
    case 0xba: return reg > 4;
    case 0xc7: return reg == 1;
    default: return 0;
    }
}

/* BMI1 and BMI2 have VEX prefixes, too: VEX.L is 0, the prefix that pp stands for and the group's field are those of an instruction, and
 * RORX has no register in vvvv. */
static int is_bmi(const u8 *vex) {
    const u8 map = vex[1] & 0x1f, p = vex[2] & 3, reg = vex[4] >> 3 & 7;
    if (vex[0] != 0xc4 || vex[2] & 4) return 0;
    if (map == 3) return vex[3] == 0xf0 && p == 3 && (vex[2] & 0x78) == 0x78;
    if (map != 2) return 0;
    switch (vex[3]) {
    case 0xf2: return p == 0;
    case 0xf3: return p == 0 && reg > 0 && reg < 4;
    case 0xf5: return p != 1;
    case 0xf6: return p == 3;
    case 0xf7: return 1;
    default: return 0;
    }
}

#define HF_PE (1U << 7)
#define EFLAGS_VM (1U << 17)
#define IOPL_SHIFT 12

enum { P66 = 1, PF2 = 2, PF3 = 4 };

/* Holes of the opcode map; `prefixes` are those that would make another instruction of it. */
static int is_hole(const u8 *op, int prefixes) {
    const u8 modrm = op[0] == 0x0f ? op[op[1] == 0x38 ? 3 : 2] : op[1], reg = modrm >> 3 & 7;
    const int memory = modrm >> 6 != 3;
    switch (op[0]) {
    case 0x8f: case 0xc6: case 0xc7: return reg != 0;
    case 0x0f: break;
    default: return 0;
    }
    switch (op[1]) {
    case 0x01: return modrm == 0xd1;                    /* XSETBV: CR4.OSXSAVE is always 0 */
    case 0x12: case 0x16: return prefixes == P66 && !memory;
    case 0x38: return (op[2] & 0xfe) == 0xf0 && !memory && !(prefixes & PF2);
    case 0x50: case 0x71: case 0x72: case 0x73: return memory;
    case 0x78: case 0x79: case 0xc3: return prefixes != 0;
    case 0xae: return prefixes && memory && reg < 4;
    case 0xd6: return prefixes & (PF2 | PF3) && memory;
    default: return 0;
    }
}

static int is_far_transfer(const u8 *op) {
    const u8 modrm = op[1], reg = modrm >> 3 & 7;
    switch (op[0]) {
    case 0x9a: case 0xca: case 0xcb: case 0xcf: case 0xea: return 1;
    case 0xff: return (reg == 3 || reg == 5) && modrm >> 6 != 3;
    default: return 0;
    }
}

/* TZCNT and LZCNT, which are BSF and BSR on processors without them. */
static u64 counts_zeros(const u8 *op, int prefixes) {
    if (op[0] != 0x0f || !(prefixes & PF3)) return 0;
    return op[1] == 0xbc ? FEATURE_BMI1 : op[1] == 0xbd ? FEATURE_LZCNT : 0;
}

/* BEXTR, BLSI, BZHI, PDEP, PEXT and RORX, and the rest of BMI, POPCNT in 16-bit code; PUSHFD in virtual-8086 mode. */
static int is_inexact(const u8 *op, int prefixes, const struct block *b) {
    const int code_16 = !(b->flags & (HF_CS32 | HF_CS64));
    if (op[0] == 0x9c) return (b->flags & EFLAGS_VM) && (prefixes & P66);
    if (op[0] == 0x0f) return code_16 && op[1] == 0xb8 && (prefixes & PF3);
    if (op[0] != 0xc4) return 0;
    if (code_16) return 1;
    const u8 map = op[1] & 0x1f, p = op[2] & 3;
    if (map == 3) return 1;
    return (op[3] == 0xf5 && p != 1) || (op[3] == 0xf7 && p == 0) || (op[3] == 0xf3 && (op[4] >> 3 & 7) == 3);
}

/* Bytes of ModRM, SIB and displacement. */
static int modrm_size(const u8 *modrm, int address_16) {
    const int mod = modrm[0] >> 6, rm = modrm[0] & 7, sib = !address_16 && rm == 4;
    if (mod == 3) return 1;
    if (address_16) return mod == 1 ? 2 : mod == 2 || rm == 6 ? 3 : 1;
    return 1 + sib + (mod == 1 ? 1 : mod == 2 || (sib ? modrm[1] & 7 : rm) == 5 ? 4 : 0);
}

static int is_near_branch(const u8 *op) {
    const u8 reg = op[1] >> 3 & 7;
    switch (op[0]) {
    case 0xc2: case 0xc3: case 0xe0: case 0xe1: case 0xe2: case 0xe3: case 0xe8: case 0xe9: case 0xeb: return 1;
    case 0x0f: return (op[1] & 0xf0) == 0x80;
    case 0xff: return reg == 2 || reg == 4;
    default: return (op[0] & 0xf0) == 0x70;
    }
}

/* The opcodes behind 0F of which 66, F2 and F3 make different SSE instructions. */
static int is_sse(u8 op) {
    return (op >= 0x10 && op < 0x18) || (op >= 0x28 && op < 0x30) || (op >= 0x50 && op < 0x80) || op == 0xc2 || (op >= 0xd0 && op < 0xff);
}

/* What the engine takes for another instruction or for none, and machine/misread_instructions.py has it run as it should. `rex` is 0 or
 * the REX prefix. */
static int is_misread(const u8 *op, int prefixes, int lock, int rex, int code_64, int address_16) {
    const u8 modrm = op[0] == 0x0f ? op[2] : op[1], reg = modrm >> 3 & 7;
    if (code_64 && prefixes & P66 && is_near_branch(op)) return 1;
    switch (op[0]) {
    case 0xc6: case 0xc7: return (rex & 4) && reg == 0;
    case 0xf6: case 0xf7: return reg == 1 || (reg == 3 && lock);
    case 0x0f: break;
    default: return 0;
    }
    if (prefixes & P66 && prefixes & (PF2 | PF3)) {
        const int crc32 = op[1] == 0x38 && (op[2] & 0xfe) == 0xf0, adox = op[1] == 0x38 && op[2] == 0xf6, popcnt = op[1] == 0xb8;
        return is_sse(op[1]) || adox || (rex & 8 && (crc32 || popcnt));
    }
    if (op[1] == 0xc2) return op[2 + modrm_size(op + 2, address_16)] > 7;
    return (op[1] == 0x0d || op[1] == 0x18) && modrm >> 6 == 3;
}

/* In 64-bit code: MOV to SS, and LSS, LFS and LGS, of which the last two differ with REX.W alone. */
static int is_inexact_load(const u8 *op, int rex_w) {
    if (op[0] == 0x8e) return (op[1] >> 3 & 7) == 2;
    if (op[0] != 0x0f || op[2] >> 6 == 3) return 0;
    return op[1] == 0xb2 || (rex_w && (op[1] == 0xb4 || op[1] == 0xb5));
}

/* By IOPL alone the port is not allowed: the I/O permission bitmap decides (SDM Vol. 1 19.5). */
static int is_guarded_string_io(const u8 *op, const struct block *b) {
    if (op[0] < 0x6c || op[0] > 0x6f || !(b->flags & HF_PE)) return 0;
    return (b->flags & EFLAGS_VM) || (b->flags & 3) > (b->flags >> IOPL_SHIFT & 3);
}

static int is_usual_iret(struct simvirt *s, const struct block *b, const u8 code[16]) {
    const int code_64 = (b->flags & HF_CS64) != 0, code_32 = (b->flags & HF_CS32) != 0;
    u64 size = code_32 || code_64 ? 4 : 2;
    int i = 0;
    if (code[0] == 0x66) size = size == 4 ? 2 : 4, i = 1;
    if (code_64 && (code[i] & 0xf0) == 0x40) size = code[i++] & 8 ? 8 : size;
    return code[i] == 0xcf && usual_iret(s, size);
}

/* ------------------------------------------------------------------------------------------------ floating-point exceptions
 * The engine accumulates what its floating-point operations met, for the x87 and for SSE, and does nothing else about it. While all
 * exceptions are masked, as they nearly always are, that suffices: the flags go to the status word and to MXCSR when somebody looks.
 * While one is unmasked, each instruction that could meet it runs alone (FLOATING). */

/* FXSAVE, FXRSTOR, LDMXCSR, STMXCSR */
static int accesses_mxcsr(const u8 *op, int prefixes) {
    return op[0] == 0x0f && op[1] == 0xae && op[2] >> 6 != 3 && (op[2] >> 3 & 7) < 4 && !prefixes;
}

static int is_sse_arithmetic(const u8 *op, int prefixes) {
    if (op[0] != 0x0f) return 0;
    switch (op[1]) {
    case 0x2a: case 0x2c: case 0x2d: case 0x2e: case 0x2f: case 0x51: case 0x58: case 0x59: case 0x5a: case 0x5b: case 0x5c: case 0x5d:
    case 0x5e: case 0x5f: case 0xc2: return 1;
    case 0x7c: case 0x7d: case 0xd0: case 0xe6: return prefixes != 0;
    case 0x3a: return op[2] == 0x40 || op[2] == 0x41;
    default: return 0;
    }
}

/* RSQRT and RCP meet no exceptions, and ROUND can be told not to be inexact; the engine notes some all the same. */
static int notes_too_much(const u8 *op) {
    return op[0] == 0x0f && (op[1] == 0x52 || op[1] == 0x53 || (op[1] == 0x3a && (op[2] & 0xfc) == 8));
}

/* Instructions of MMX registers, which report a pending x87 exception as those of the x87 do. */
static int is_mmx(const u8 *op, int prefixes) {
    if (op[0] != 0x0f) return 0;
    switch (op[1]) {
    case 0x2a: case 0x2c: case 0x2d: return !(prefixes & (PF2 | PF3));
    case 0x38: return !prefixes && op[2] < 0x20;
    case 0x3a: return !prefixes && op[2] == 0x0f;
    case 0xc4: case 0xc5: return !prefixes;
    default: return !prefixes && ((op[1] >= 0x60 && op[1] <= 0x7f) || (op[1] >= 0xd0 && op[1] != 0xff));
    }
}

static int is_x87(const u8 *op) { return op[0] == 0x9b || (op[0] & 0xf8) == 0xd8; }

static enum special x87_kind(const struct simvirt *s, const u8 *op) {
    const u8 modrm = op[1], reg = modrm >> 3 & 7;
    const int memory = modrm >> 6 != 3;
    if (s->x87_unmasked) return FLOATING;
    switch (op[0]) {
    case 0xd9: return !memory ? PLAIN : reg == 4 ? FLOATING : reg == 5 ? X87_CONTROL : reg == 6 ? X87_STATUS : PLAIN;
    case 0xdb: return modrm == 0xe2 || modrm == 0xe3 ? X87_STATUS : PLAIN;
    case 0xdd: return !memory ? PLAIN : reg == 4 ? FLOATING : reg > 5 ? X87_STATUS : PLAIN;
    case 0xdf: return modrm == 0xe0 ? X87_STATUS : PLAIN;
    default: return PLAIN;
    }
}

static enum special floating_kind(const struct simvirt *s, const u8 *op, int prefixes) {
    if (is_x87(op)) return x87_kind(s, op);
    if (s->x87_unmasked && is_mmx(op, prefixes)) return FLOATING;
    if (accesses_mxcsr(op, prefixes) || notes_too_much(op)) return FLOATING;
    return s->simd_unmasked && is_sse_arithmetic(op, prefixes) ? FLOATING : PLAIN;
}

enum { STATUS_FLAGS = 0x3d, STATUS_SUMMARY = 0x8080, STATUS_MASKS = 0x3f, FLUSHED_TO_ZERO = 0x80, UNDERFLOW_AND_INEXACT = 0x30 };

/* Add the accumulated flags to the x87 status word. */
static void settle_status(struct simvirt *s) {
    u8 *met = (u8 *)s->env + s->off_env_fp_status + 2;
    u16 *status = (u16 *)(s->env + s->off_env_fpus);
    const u16 control = status[1];
    *status |= (*met & STATUS_FLAGS) | (*met & FLUSHED_TO_ZERO ? UNDERFLOW_AND_INEXACT : 0);
    *met = 0;
    if (*status & ~control & STATUS_MASKS) *status |= STATUS_SUMMARY;
}

/* Does FLDCW load a control word that masks everything? With a 32- or 64-bit address
 * and no prefix but REX; others are left to Python. */
static int masks_everything(struct simvirt *s, const struct block *b, const u8 code[16]) {
    const int code_64 = (b->flags & HF_CS64) != 0;
    const u64 *registers = (const u64 *)(s->env + s->off_env_eip) - 16;
    int segment = DS;
    const int rex = code_64 && (code[0] & 0xf0) == 0x40 ? code[0] : 0;
    const u8 *p = code + (rex != 0);
    if (!(b->flags & (HF_CS32 | HF_CS64)) || *p++ != 0xd9) return 0;
    const u8 modrm = *p++, mod = modrm >> 6;
    u64 address = 0;
    int base = modrm & 7;
    if (base == 4) {
        const u8 sib = *p++;
        const int index = (sib >> 3 & 7) | (rex & 2 ? 8 : 0);
        base = sib & 7;
        if (index != 4) address = registers[index] << (sib >> 6);
        if (base == 5 && mod == 0) base = -1;
    } else if (base == 5 && mod == 0) {
        if (code_64) return 0;             /* relative to RIP */
        base = -1;
    }
    if (base >= 0) address += registers[base | (rex & 1 ? 8 : 0)];
    if (base == 4 || base == 5) segment = SS;
    if (mod == 1) address += (u64)(int64_t)(int8_t)*p;
    if (mod == 2 || base < 0) {
        int32_t displacement;
        memcpy(&displacement, p, 4);
        address += (u64)(int64_t)displacement;
    }
    if (!code_64) address = (u32)(address + *(u64 *)(s->env + s->off_env_segs + (u64)segment * 24 + 8));
    u16 control;
    const struct processor real = real_processor(s);
    return read_plainly(s, &real, address, &control, 2, CPL(s) == 3 ? USER : SUPERVISOR) && (control & STATUS_MASKS) == STATUS_MASKS;
}

static enum special kind_of(const struct simvirt *s, const struct block *b, const u8 code[16]) {
    const int code_64 = (b->flags & HF_CS64) != 0, has_selectors = (b->flags & HF_PE) && !(b->flags & EFLAGS_VM);
    int i = 0, lock = 0, prefixes = 0, address_16 = !(b->flags & (HF_CS32 | HF_CS64)), other_address = 0;
    for (; i < 12 && is_prefix(code[i], code_64); i++) {
        lock |= code[i] == 0xf0;
        other_address |= code[i] == 0x67;
        prefixes |= code[i] == 0x66 ? P66 : code[i] == 0xf2 ? PF2 : code[i] == 0xf3 ? PF3 : 0;
    }
    const u8 *op = code + i;
    const int rex = code_64 && i && (op[-1] & 0xf0) == 0x40 ? op[-1] : 0;
    address_16 = !code_64 && address_16 != other_address;
    if ((op[0] & 0xfe) == 0xc4 && has_selectors && (code_64 || op[1] >> 6 == 3)) {
        if (!is_bmi(op) || prefixes || lock || rex || feature_of_vex(op) & s->absent_features) return UNDEFINED;
        return is_inexact(op, prefixes, b) && !s->override_count ? EXACT : PLAIN;
    }
    if (is_hole(op, prefixes) || (lock && !lockable(op))) return UNDEFINED;
    if (code_64 && (op[0] == 0x9a || op[0] == 0xea)) return UNDEFINED;
    if (!code_64 && op[0] == 0x0f && op[1] == 0x07) return UNDEFINED;   /* SYSRET, which AMD's processors have there too */
    if (s->absent_features) {
        if (feature_of(op, prefixes, i && code_64 && (code[i - 1] & 0xf8) == 0x48, code_64) & s->absent_features) return UNDEFINED;
        if (counts_zeros(op, prefixes) & s->absent_features && !s->override_count) return EXACT;
    }
    if (s->override_count) return PLAIN;
    if (code_64 && is_inexact_load(op, i && (op[-1] & 0xf8) == 0x48)) return EXACT;
    if (op[0] != 0xc4 && is_inexact(op, prefixes, b)) return EXACT;
    if (is_misread(op, prefixes, lock, rex, code_64, address_16)) return EXACT;
    if (is_guarded_string_io(op, b)) return STRING_IO;
    const enum special floating = floating_kind(s, op, prefixes);
    if (floating) return floating;
    return has_selectors && !s->native_far_transfers && is_far_transfer(op) ? FAR_TRANSFER : PLAIN;
}

/* PCMPESTRI and PCMPESTRM (66 0F 3A 60 and 61). The engine takes the absolute values of EAX and EDX, or of RAX and RDX, as an int: what does
 * not fit, -2^31 above all, becomes a negative length, with which it writes far outside of its own memory. */
static int compares_strings(const struct block *b, const u8 code[16], int *wide) {
    const int code_64 = (b->flags & HF_CS64) != 0;
    int i = 0;
    for (*wide = 0; i < 12 && is_prefix(code[i], code_64); i++) *wide = code_64 && (code[i] & 0xf8) == 0x48;
    return code[i] == 0x0f && code[i + 1] == 0x3a && (code[i + 2] & 0xfe) == 0x60;
}

static int is_too_long(u64 value, int wide) {
    const int64_t length = wide ? (int64_t)value : (int32_t)value;
    return length > INT32_MAX || length < -INT32_MAX;
}

enum { RAX = 0, RDX = 2 };

static int has_long_string(const struct simvirt *s, int wide) {
    const u64 *registers = (const u64 *)(s->env + s->off_env_eip) - 16;
    return is_too_long(registers[RAX], wide) || is_too_long(registers[RDX], wide);
}

/* ------------------------------------------------------------------------------------------------ searching a block */

static int has_breakpoint(const struct simvirt *s, u64 pc) {
    for (u64 i = 0; i < s->breakpoint_count; i++)
        if (s->breakpoints[i] == pc) return 1;
    return 0;
}

static void instruction_bytes(const struct simvirt *s, const struct block *b, u64 at, u8 code[16]) {
    memset(code, 0, 16);
    for (u64 done = 0; done < 15;) {
        const u64 room = PAGE_SIZE - ((at + done) & ~PAGE_MASK), n = room < 15 - done ? room : 15 - done;
        const u8 *from = translated_from(s, b, at + done);
        if (!from) break;
        memcpy(code + done, from, n);
        done += n;
    }
}

enum { CLI = 0xfa, STI = 0xfb };
#define EFLAGS_AC (1U << 18)
#define CR0_AM (1ULL << 18)

/* The last instruction that has been executed, as long as that is known: its address, and its bytes without the prefixes, whose sum is
 * in `prefixes`. */
static u64 last_instruction(const struct simvirt *s, u8 code[16], int *repeated) {
    const struct block *b = s->current ? s->blocks[s->current] : NULL;
    u8 bytes[16];
    int i = 0;
    if (!b) return ~0ULL;
    const u8 *p = (const u8 *)(b->code + b->code_size);
    u64 at = b->pc;
    for (int n = 0; n < b->icount; n++) {
        at += (u64)sleb128(&p);
        sleb128(&p);
        sleb128(&p);
    }
    instruction_bytes(s, b, at, bytes);
    *repeated = 0;
    while (i < 12 && is_prefix(bytes[i], (b->flags & HF_CS64) != 0)) *repeated |= (bytes[i++] & 0xfe) == 0xf2;
    memset(code, 0, 16);
    memcpy(code, bytes + i, (size_t)(15 - i));
    return at;
}

/* Interrupts are blocked for one instruction: by STI, or by MOV SS, POP SS or LSS, which the engine does not tell apart. */
void note_shadow(struct simvirt *s) {
    u8 code[16];
    int repeated;
    if (last_instruction(s, code, &repeated) == ~0ULL) return;
    u32 *flags = &ENV32(s, s->off_env_hflags + 4);
    *flags = code[0] == STI ? *flags & ~HF2_SHADOW_OF_MOV_SS : *flags | HF2_SHADOW_OF_MOV_SS;
}

/* Are we between two iterations of a repeated string instruction? A breakpoint on it does not hit again, and an interrupt that comes
 * there saves RF as 1 (SDM Vol. 3B 18.3.1.1). Behind the last one the engine still tests the count, with RIP on the instruction. */
int is_repeating(const struct simvirt *s) {
    u8 code[16];
    int repeated;
    const u64 eip = ENV64(s, s->off_env_eip), at = last_instruction(s, code, &repeated);
    const int code_64 = (ENV32(s, s->off_env_hflags) & HF_CS64) != 0;
    if (at != (code_64 ? eip : (eip + ENV64(s, s->off_env_segs + 24 + 8)) & 0xffffffffULL) || !repeated) return 0;
    const u8 op = code[0];
    return (op >= 0x6c && op <= 0x6f) || (op >= 0xa4 && op <= 0xa7) || (op >= 0xaa && op <= 0xaf);
}

/* The first special instruction of a block, and how many instructions come before it. With `entering`, the block is about to run: a
 * breakpoint on its first instruction that has been dealt with does not count. */
enum special first_special(struct simvirt *s, const struct block *b, int entering, u64 *before) {
    const int passed = entering && s->passed_pc == b->pc && s->passed_count == s->count;
    int interruptible = (ENV64(s, s->off_env_eflags) & EFLAGS_IF) != 0;
    const u8 *p = (const u8 *)(b->code + b->code_size);
    u64 at = b->pc;
    for (int i = 0; i < b->icount; i++) {
        u8 code[16];
        at += (u64)sleb128(&p);
        sleb128(&p);
        sleb128(&p);
        *before = (u64)i;
        if (has_breakpoint(s, at) && (i || !passed)) return BREAKPOINT;
        instruction_bytes(s, b, at, code);
        if (!i && b->flags & EFLAGS_AC && (b->flags & 3) == 3 &&
            (!entering || (ENV64(s, s->off_env_cr) & CR0_AM && !s->aligned))) return ALIGNMENT;
        if (code[0] == STI && !s->native_far_transfers && (!entering || interruptible)) return STI_AGAIN;
        if (code[0] == CLI) interruptible = 0;
        const enum special kind = kind_of(s, b, code);
        if (entering && !i) {
            if (kind == STRING_IO && s->port_checked) continue;
            if ((kind == FLOATING || kind == X87_CONTROL) && s->floating_passed) continue;
            if (kind == X87_STATUS) settle_status(s);
            if (kind == X87_STATUS || (kind == X87_CONTROL && masks_everything(s, b, code))) continue;
        }
        if (kind && !(kind == FAR_TRANSFER && entering && !i && is_usual_iret(s, b, code))) return kind;
        int wide;                                       /* the lengths are known when it is the next instruction */
        if (compares_strings(b, code, &wide) && (!entering || i || has_long_string(s, wide))) return STRING_LENGTH;
    }
    *before = 0;
    return PLAIN;
}
