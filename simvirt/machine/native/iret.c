/* IRET of the usual kind, which the engine may do by itself.
 *
 * machine/far_transfers.py is the reference. The engine's own IRET agrees with it where nothing is out of the ordinary: no nested task,
 * no virtual-8086 mode, descriptors that are valid and have been accessed, an offset and a stack within their limits, no null selector
 * that would lose its RPL. `usual_iret` looks at all that before the instruction, and changes nothing.
 */
#include "processor.h"

static int usual_stack(struct simvirt *s, const struct processor *p, u32 selector, u32 cpl) {
    const u32 wanted = D_CODE_OR_DATA | D_WRITABLE | D_PRESENT | D_ACCESSED;
    struct descriptor d;
    return selector > 3 && read_descriptor(s, p, selector, &d) && (d.flags & (wanted | D_CODE)) == wanted && DPL(d.flags) == cpl && (selector & 3) == cpl;
}

/* `size`: bytes of an operand. */
int usual_iret(struct simvirt *s, u64 size) {
    const struct processor real = real_processor(s);
    const u32 hflags = ENV32(s, s->off_env_hflags), cpl = hflags & 3;
    const int code_64 = (hflags & HF_CS64) != 0, lma = (ENV64(s, s->off_env_efer) & EFER_LMA) != 0;
    if (ENV64(s, s->off_env_eflags) & (FLAG_NT | EFLAGS_RF)) return 0;     /* a block that begins with RF ends without it, in any case */
    const struct segment *ss = segment(s, SS);
    const u64 mask = code_64 ? ~0ULL : ss->flags & D_BIG ? 0xffffffffULL : 0xffffULL, sp = ENV64(s, 8 * RSP) & mask;
    u64 frame[5] = {0};
    if (!code_64 && (ss->flags & (D_CODE | D_EXPAND_DOWN) || sp + 5 * size - 1 > ss->limit || sp + 5 * size - 1 > mask)) return 0;
    for (u64 i = 0; i < 3; i++)
        if (!read_plainly(s, &real, (code_64 ? 0 : ss->base) + sp + i * size, &frame[i], size, cpl == 3 ? USER : SUPERVISOR)) return 0;
    const u32 selector = (u16)frame[1], rpl = selector & 3;
    if ((frame[2] ^ ENV64(s, s->off_env_eflags)) & FLAGS_VIRTUAL_INTERRUPT || frame[2] & FLAG_VM) return 0;
    struct descriptor code;
    const u32 wanted = D_CODE_OR_DATA | D_CODE | D_PRESENT | D_ACCESSED;
    if (selector < 4 || !read_descriptor(s, &real, selector, &code) || (code.flags & wanted) != wanted || rpl < cpl) return 0;
    if (code.flags & D_CONFORMING ? DPL(code.flags) > rpl : DPL(code.flags) != rpl) return 0;
    if (lma && code.flags & D_LONG ? code.flags & D_BIG || !canonical(s, frame[0]) : frame[0] > code.limit) return 0;
    if (rpl == cpl && !code_64) return 1;
    for (u64 i = 3; i < 5; i++)
        if (!read_plainly(s, &real, (code_64 ? 0 : ss->base) + sp + i * size, &frame[i], size, cpl == 3 ? USER : SUPERVISOR)) return 0;
    if (!usual_stack(s, &real, (u16)frame[4], rpl)) return 0;
    for (int i = FS; rpl > cpl && i <= GS; i++)
        if (segment(s, i)->selector - 1 < 3) return 0;
    return 1;
}

/* IRETQ from ring 0 to ring 0 with a null SS, which kernels have behind every interrupt from ring 3 and in their early days. The engine's own
 * IRET leaves a hidden SS that a processor does not: so it is done here, while the engine stands in front of the instruction, whose bytes
 * are in the record. Where anything is unusual, or IRET is handed over, nothing is done, and 0 is returned. */
#define FLAGS_ARITHMETIC 0x8d5ULL
#define FLAG_DF (1ULL << 10)
#define FLAG_ID (1ULL << 21)
#define UNUSUAL_FLAGS (FLAG_TF | FLAG_NT | EFLAGS_RF | FLAG_VM | FLAGS_VIRTUAL_INTERRUPT)
#define LOADED_FLAGS (FLAGS_ARITHMETIC | FLAG_IF | FLAG_DF | FLAG_IOPL | FLAG_AC | FLAG_ID)
#define INTERCEPT_IRET (1ULL << (0x74 - 0x60))
enum { REX_W = 0x48, IRET = 0xcf };

int iret_to_null_stack(struct simvirt *s) {
    const struct processor real = real_processor(s);
    const u64 old = flags_in_one_piece(s), sp = ENV64(s, 8 * RSP);
    if (s->byte_count < 2 || s->bytes[0] != REX_W || s->bytes[1] != IRET || !(ENV32(s, s->off_env_hflags) & HF_CS64)) return 0;
    if (CPL(s) || old & UNUSUAL_FLAGS || !is_usual(s) || ENV64(s, s->off_env_intercept) & INTERCEPT_IRET) return 0;
    u64 frame[5];                                                         /* RIP, CS, RFLAGS, RSP, SS */
    if (!read_plainly(s, &real, sp, frame, sizeof frame, SUPERVISOR)) return 0;
    struct descriptor code;
    const u32 selector = (u16)frame[1], wanted = D_CODE_OR_DATA | D_CODE | D_PRESENT | D_ACCESSED | D_LONG;
    if ((u16)frame[4] || frame[2] & UNUSUAL_FLAGS || selector < 4 || selector & 3 || !read_descriptor(s, &real, selector, &code)) return 0;
    if ((code.flags & (wanted | D_CONFORMING | D_BIG)) != wanted || DPL(code.flags) || !canonical(s, frame[0])) return 0;

    const u64 flags = (old & ~LOADED_FLAGS) | (frame[2] & LOADED_FLAGS);
    load_segment(s, &real, CS, selector, &code);
    set_segment(segment(s, SS), 0, 0, 0, 0);
    ENV64(s, s->off_env_eip) = frame[0];
    ENV64(s, 8 * RSP) = frame[3];
    ENV64(s, s->off_env_eflags) = flags | 2;
    ENV64(s, s->off_env_cc_src) = flags & FLAGS_ARITHMETIC;
    ENV32(s, s->off_env_df) = flags & FLAG_DF ? ~0U : 1;
    refresh(s, &real, 0);
    s->count++;
    return 1;
}
