/* A processor's state and memory as what is done natively needs them: machine.state, machine.linear_memory and, for a de-privileged guest,
 * vmm.deprivileged_state, where nothing is out of the ordinary.
 */
#include "processor.h"
#include <string.h>

#define EPTP_ACCESSED_DIRTY (1ULL << 6)
#define CR4_OSFXSR (1ULL << 9)
#define CR4_SMAP (1ULL << 21)
enum { DEPRIVILEGED_KERNEL_RING = 1, VMM_WINDOW_SIZE = 2 << 20 };

struct processor real_processor(const struct simvirt *s) {
    return (struct processor){
        .gdt = (const struct segment *)(s->env + s->off_env_gdt), .idt = (const struct segment *)(s->env + s->off_env_idt),
        .ldt = (const struct segment *)(s->env + s->off_env_ldt), .tr = (const struct segment *)(s->env + s->off_env_tr),
    };
}

struct processor guest_processor(struct simvirt *s) {
    struct guest_words *guest = &s->guest;
    return (struct processor){
        .gdt = &guest->gdt, .idt = &guest->idt, .ldt = &guest->ldt, .tr = &guest->tr, .virtual_flags = &guest->flags,
        .kernel_ring = DEPRIVILEGED_KERNEL_RING, .hidden_base = guest->window_base, .hidden_size = VMM_WINDOW_SIZE,
    };
}

/* ------------------------------------------------------------------------------------------------ memory */

/* Host memory behind an access that plainly succeeds: every page is RAM (or ROM that is read), with its accessed and dirty flags set
 * already, and nobody watches what is written. */
int plainly(struct simvirt *s, const struct processor *p, u64 va, u64 size, int access, enum privilege privilege, struct span *span) {
    const int write = access == ACCESS_WRITE, paging = (ENV64(s, s->off_env_cr) & CR0_PG) != 0;
    const u64 room = PAGE_SIZE - (va & ~PAGE_MASK);
    span->in_first = size < room ? size : room;
    span->second = NULL;
    for (u64 done = 0; done < size; done += span->in_first) {
        struct walk w;
        if ((u64)(u32)(va + done) - p->hidden_base < p->hidden_size) return 0;
        if (!canonical(s, va + done) || !page_walk(s, va + done, access, privilege, 0, &w)) return 0;
        if (paging && (!w.accessed || (write && !w.dirty))) return 0;
        u8 *at = physical(s, w.gpa, write);
        if (!at) return 0;
        if (write && ((u8 *)s->page_flags)[(u64)(at - (u8 *)s->ram) >> PAGE_SHIFT] & PAGE_WATCHED) return 0;
        if (done) { span->second = at; break; }
        span->first = at;
    }
    return 1;
}

int read_plainly(struct simvirt *s, const struct processor *p, u64 va, void *to, u64 size, enum privilege privilege) {
    struct span span;
    if (!plainly(s, p, va, size, ACCESS_READ, privilege, &span)) return 0;
    memcpy(to, span.first, span.in_first);
    if (span.second) memcpy((u8 *)to + span.in_first, span.second, size - span.in_first);
    return 1;
}

static void write_piece(struct simvirt *s, u8 *to, const u8 *from, u64 size) {
    const u64 host = (u64)(to - (u8 *)s->ram);
    u8 *flags = (u8 *)s->page_flags + (host >> PAGE_SHIFT);
    memcpy(to, from, size);
    *flags |= PAGE_DIRTY;
    if (*flags & PAGE_EXECUTED) drop_code(s, host, size);
}

void write_span(struct simvirt *s, const struct span *span, const void *from, u64 size) {
    write_piece(s, span->first, from, span->in_first);
    if (span->second) write_piece(s, span->second, (const u8 *)from + span->in_first, size - span->in_first);
}

int read_descriptor(struct simvirt *s, const struct processor *p, u32 selector, struct descriptor *d) {
    const struct segment *table = selector & 4 ? p->ldt : p->gdt;
    u32 words[2];
    if (selector & 4 && !(table->flags & D_PRESENT)) return 0;
    if ((selector & 0xfff8) + 7 > table->limit) return 0;
    if (!read_plainly(s, p, table->base + (selector & 0xfff8), words, 8, SUPERVISOR_IMPLICIT)) return 0;
    d->base = words[0] >> 16 | (words[1] & 0xff) << 16 | (words[1] & 0xff000000);
    d->limit = (words[0] & 0xffff) | (words[1] & 0xf0000);
    if (words[1] & D_GRANULARITY) d->limit = d->limit << 12 | 0xfff;
    d->flags = words[1] & D_HIDDEN;
    return 1;
}

int fits(u32 flags, u32 limit, u64 bottom, u64 size) {                     /* machine.inner_stack.fits */
    const u64 last = bottom + size - 1;
    if ((TYPE(flags) & 12) == 4) return bottom > limit && last <= (flags & D_BIG ? 0xffffffffULL : 0xffffULL);
    return last <= limit;
}

/* ------------------------------------------------------------------------------------------------ state */

/* Nothing is under way that wants to hear of each access or instruction: the EPT's flags, a debugger, the guest's own breakpoints, TF. */
int is_usual(const struct simvirt *s) {
    return !(s->ept_pointer & EPTP_ACCESSED_DIRTY) && !s->watch_count && !s->breakpoint_count && !(ENV64(s, s->off_env_eflags) & FLAG_TF);
}

u32 cpl_of(const struct simvirt *s, const struct processor *p) { return CPL(s) == p->kernel_ring ? 0 : CPL(s); }

u64 flags_of(const struct simvirt *s, const struct processor *p) {
    const u64 flags = flags_in_one_piece(s);
    return p->virtual_flags ? (flags & ~(FLAG_IF | FLAG_IOPL)) | *p->virtual_flags : flags;
}

u32 selector_of(const struct simvirt *s, const struct processor *p, int number) {
    const u32 selector = segment(s, number)->selector & 0xffff;
    return p->kernel_ring && (number == CS || number == SS) && (selector & 3) == p->kernel_ring ? selector & ~3U : selector;
}

void load_segment(struct simvirt *s, const struct processor *p, int number, u32 selector, const struct descriptor *d) {
    u32 flags = d->flags;
    if (p->kernel_ring) {
        if ((number == CS || number == SS) && selector && !(selector & 3)) selector |= p->kernel_ring;
        if (flags & D_PRESENT && !DPL(flags)) flags |= p->kernel_ring << DPL_SHIFT;
    }
    set_segment(segment(s, number), selector, d->base, d->limit, flags);
}

/* machine.state.ProcessorState.refresh, and the end of a shadow of STI or MOV SS. `cpl` is what the processor believes in. */
void refresh(struct simvirt *s, const struct processor *p, u32 cpl) {
    enum { CS32 = 1 << 4, SS32 = 1 << 5, ADDSEG = 1 << 6, PE = 1 << 7, LMA = 1 << 14, CS64 = 1 << 15, SVM_GUEST = 1 << 21, OSFXSR = 1 << 22,
           SMAP = 1 << 23, IO_BREAKPOINT = 1 << 24 };
    const u64 cr0 = ENV64(s, s->off_env_cr), cr4 = ENV64(s, s->off_env_cr + 32), eflags = ENV64(s, s->off_env_eflags);
    const int protected = (cr0 & CR0_PE) != 0, v86 = (eflags & FLAG_VM) != 0, lma = (ENV64(s, s->off_env_efer) & EFER_LMA) != 0;
    const struct segment *es = segment(s, ES), *cs = segment(s, CS), *ss = segment(s, SS), *ds = segment(s, DS);
    if (!cpl) cpl = p->kernel_ring;
    u32 new = SVM_GUEST | IO_BREAKPOINT | (!protected ? 0 : v86 ? 3 : cpl) | (u32)(cr0 >> 1 & 7) << 9;
    if (protected) new |= PE;
    if (cr4 & CR4_OSFXSR) new |= OSFXSR;
    if (cr4 & CR4_SMAP) new |= SMAP;
    if (lma) new |= LMA;
    if (lma && cs->flags & D_LONG) {
        new |= CS32 | SS32 | CS64;
    } else {
        if (cs->flags & D_BIG) new |= CS32;
        if (ss->flags & D_BIG) new |= SS32;
        if (!protected || v86 || !(new & CS32) || es->base | ss->base | ds->base) new |= ADDSEG;
    }
    ENV32(s, s->off_env_hflags) = new;
}
