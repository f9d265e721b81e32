/* IRET of the usual kind, which the engine may do by itself.
 *
 * machine/far_transfers.py is the reference. The engine's own IRET agrees with it where nothing is out of the ordinary: no nested task,
 * no virtual-8086 mode, descriptors that are valid and have been accessed, an offset and a stack within their limits, no null selector
 * that would lose its RPL. `usual_iret` looks at all that before the instruction, and changes nothing.
 */
#include <string.h>

#include "record.h"

enum { ES = 0, CS = 1, SS = 2, DS = 3, FS = 4, GS = 5, RSP = 4 };
struct segment { u32 selector, unused; u64 base; u32 limit, flags; };      /* as the engine keeps it; also GDTR and LDTR */
struct descriptor { u32 limit, flags; };

enum {
    D_ACCESSED = 1 << 8, D_WRITABLE = 1 << 9, D_CONFORMING = 1 << 10, D_CODE = 1 << 11, D_CODE_OR_DATA = 1 << 12, D_PRESENT = 1 << 15,
    D_LONG = 1 << 21, D_BIG = 1 << 22, D_GRANULARITY = 1 << 23,
};
#define DPL(flags) ((flags) >> 13 & 3)
#define FLAG_NT (1ULL << 14)
#define FLAG_VM (1ULL << 17)
#define FLAGS_VIRTUAL (3ULL << 19)                                        /* VIF and VIP */
#define EFER_ACTIVE (1ULL << 10)

static const struct segment *segment(const struct simvirt *s, int number) {
    return (const struct segment *)(s->env + s->off_env_segs) + number;
}

static int readable(struct simvirt *s, u64 va, void *to, u64 size, enum privilege privilege) {
    for (u64 done = 0; done < size;) {
        struct walk w;
        const u64 room = PAGE_SIZE - ((va + done) & ~PAGE_MASK), n = room < size - done ? room : size - done;
        if (!canonical(s, va + done) || !page_walk(s, va + done, ACCESS_READ, privilege, 0, &w)) return 0;
        const u8 *p = physical(s, w.gpa, 0);
        if (!p) return 0;
        memcpy((u8 *)to + done, p, n);
        done += n;
    }
    return 1;
}

static int descriptor(struct simvirt *s, u32 selector, struct descriptor *d) {
    /* LDTR and TR and GDTR stand behind the six segment registers */
    const struct segment *table = segment(s, selector & 4 ? 6 : 8);
    u32 words[2];
    if (selector < 4 || (selector & 4 && !(table->flags & D_PRESENT)) || (selector & 0xfff8) + 7 > table->limit ||
        !readable(s, table->base + (selector & 0xfff8), words, 8, SUPERVISOR_IMPLICIT)) return 0;
    d->limit = (words[0] & 0xffff) | (words[1] & 0xf0000);
    if (words[1] & D_GRANULARITY) d->limit = d->limit << 12 | 0xfff;
    d->flags = words[1];
    return 1;
}

static int usual_stack(struct simvirt *s, u32 selector, u32 cpl) {
    const u32 wanted = D_CODE_OR_DATA | D_WRITABLE | D_PRESENT | D_ACCESSED;
    struct descriptor d;
    return descriptor(s, selector, &d) && (d.flags & (wanted | D_CODE)) == wanted && DPL(d.flags) == cpl && (selector & 3) == cpl;
}

/* `size`: bytes of an operand. */
int usual_iret(struct simvirt *s, u64 size) {
    const u32 hflags = ENV32(s, s->off_env_hflags), cpl = hflags & 3;
    const int code_64 = (hflags & HF_CS64) != 0, lma = (ENV64(s, s->off_env_efer) & EFER_ACTIVE) != 0;
    if (ENV64(s, s->off_env_eflags) & (FLAG_NT | EFLAGS_RF)) return 0;     /* a block that begins with RF ends without it, in any case */
    const struct segment *ss = segment(s, SS);
    const u64 mask = code_64 ? ~0ULL : ss->flags & D_BIG ? 0xffffffffULL : 0xffffULL, sp = ENV64(s, 8 * RSP) & mask;
    u64 frame[5] = {0};
    if (!code_64 && (ss->flags & 0xc00 || sp + 5 * size - 1 > ss->limit || sp + 5 * size - 1 > mask)) return 0;
    for (u64 i = 0; i < 3; i++)
        if (!readable(s, (code_64 ? 0 : ss->base) + sp + i * size, &frame[i], size, cpl == 3 ? USER : SUPERVISOR)) return 0;
    const u32 selector = (u16)frame[1], rpl = selector & 3;
    if ((frame[2] ^ ENV64(s, s->off_env_eflags)) & FLAGS_VIRTUAL || frame[2] & FLAG_VM) return 0;
    struct descriptor code;
    const u32 wanted = D_CODE_OR_DATA | D_CODE | D_PRESENT | D_ACCESSED;
    if (!descriptor(s, selector, &code) || (code.flags & wanted) != wanted || rpl < cpl) return 0;
    if (code.flags & D_CONFORMING ? DPL(code.flags) > rpl : DPL(code.flags) != rpl) return 0;
    if (lma && code.flags & D_LONG ? code.flags & D_BIG || !canonical(s, frame[0]) : frame[0] > code.limit) return 0;
    if (rpl == cpl && !code_64) return 1;
    for (u64 i = 3; i < 5; i++)
        if (!readable(s, (code_64 ? 0 : ss->base) + sp + i * size, &frame[i], size, cpl == 3 ? USER : SUPERVISOR)) return 0;
    if (!usual_stack(s, (u16)frame[4], rpl)) return 0;
    for (int i = FS; rpl > cpl && i <= GS; i++)
        if (segment(s, i)->selector - 1 < 3) return 0;
    return 1;
}
