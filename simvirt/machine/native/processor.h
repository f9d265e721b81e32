/* The processor that something is done to: whose descriptor tables count, and which ring its ring 0 really is.
 *
 * It is the real one; or it is the one that a de-privileged guest believes in, of which the real one shows f of its state, and whose tables,
 * IF and IOPL its VMM alone holds (vmm/deprivileged_state.py, which has the map f in a table). What is done natively is done to both by the
 * same code, as in Python.
 */
#ifndef SIMVIRT_PROCESSOR_H
#define SIMVIRT_PROCESSOR_H
#include "record.h"

enum { ES = 0, CS = 1, SS = 2, DS = 3, FS = 4, GS = 5, RSP = 4 };

#define CR0_PE 1ULL
#define FLAG_TF (1ULL << 8)
#define FLAG_IF (1ULL << 9)
#define FLAG_IOPL (3ULL << 12)
#define FLAG_NT (1ULL << 14)
#define FLAG_VM (1ULL << 17)
#define FLAG_AC (1ULL << 18)
#define FLAGS_VIRTUAL_INTERRUPT (3ULL << 19)                              /* VIF and VIP */

/* The high doubleword of a descriptor (SDM Vol. 3A Figure 3-8), which is a segment register's flags, too. */
enum {
    D_ACCESSED = 1 << 8, D_WRITABLE = 1 << 9, D_CONFORMING = 1 << 10, D_EXPAND_DOWN = 1 << 10, D_CODE = 1 << 11, D_CODE_OR_DATA = 1 << 12,
    D_PRESENT = 1 << 15, D_LONG = 1 << 21, D_BIG = 1 << 22, D_GRANULARITY = 1 << 23, D_HIDDEN = 0x00f0ff00,
};
#define DPL_SHIFT 13
#define DPL(flags) ((flags) >> DPL_SHIFT & 3)
#define TYPE(flags) ((flags) >> 8 & 15)

struct processor {
    const struct segment *gdt, *idt, *ldt, *tr;
    u64 *virtual_flags;                 /* IF and IOPL, where the real ones are not the processor's; else NULL */
    u32 kernel_ring;                    /* its ring 0 */
    u64 hidden_base, hidden_size;       /* linear addresses that lead elsewhere than they do on this processor: its VMM's pages */
};

struct descriptor { u64 base; u32 limit, flags; };

/* Up to two pieces of host memory behind one access. */
struct span { u8 *first, *second; u64 in_first; };

static inline struct segment *segment(const struct simvirt *s, int number) {
    return (struct segment *)(s->env + s->off_env_segs) + number;
}

static inline void set_segment(struct segment *to, u32 selector, u64 base, u32 limit, u32 flags) {
    to->selector = selector, to->base = base, to->limit = limit, to->flags = flags;
}

INTERNAL struct processor real_processor(const struct simvirt *s);
INTERNAL struct processor guest_processor(struct simvirt *s);

INTERNAL int plainly(struct simvirt *s, const struct processor *p, u64 va, u64 size, int access, enum privilege privilege, struct span *span);
INTERNAL int read_plainly(struct simvirt *s, const struct processor *p, u64 va, void *to, u64 size, enum privilege privilege);
INTERNAL void write_span(struct simvirt *s, const struct span *span, const void *from, u64 size);
INTERNAL int read_descriptor(struct simvirt *s, const struct processor *p, u32 selector, struct descriptor *d);
INTERNAL int fits(u32 flags, u32 limit, u64 bottom, u64 size);

INTERNAL int is_usual(const struct simvirt *s);
INTERNAL u32 cpl_of(const struct simvirt *s, const struct processor *p);
INTERNAL u64 flags_of(const struct simvirt *s, const struct processor *p);
INTERNAL u32 selector_of(const struct simvirt *s, const struct processor *p, int number);
INTERNAL void load_segment(struct simvirt *s, const struct processor *p, int number, u32 selector, const struct descriptor *d);
INTERNAL void refresh(struct simvirt *s, const struct processor *p, u32 cpl);

#endif
