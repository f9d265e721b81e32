/* Delivery of exceptions, software interrupts and external interrupts, for the usual case.
 *
 * machine/interrupts.py is the reference and the text to read. What is here does the same, or nothing: it looks at everything first, and
 * returns 0 with the state untouched when anything is out of the ordinary. That is a check that fails, a page that is not there, an
 * accessed or dirty flag that would have to be set, a descriptor that has not been accessed yet, memory that is no RAM. The caller then goes to the reference, which starts from the beginning. tests/machine/test_native_delivery.py compares
 * the two on random states.
 */
#include "record.h"
#include <string.h>

enum { ES = 0, CS = 1, SS = 2, DS = 3, FS = 4, GS = 5, RSP = 4 };
struct segment { u32 selector, unused; u64 base; u32 limit, flags; };      /* as the engine keeps it; also GDTR and IDTR */

#define EPTP_ACCESSED_DIRTY (1ULL << 6)
#define CR0_PE 1ULL
#define CR4_OSFXSR (1ULL << 9)
#define CR4_SMAP (1ULL << 21)
#define FLAG_TF (1ULL << 8)
#define FLAG_IF (1ULL << 9)
#define FLAG_NT (1ULL << 14)
#define FLAG_VM (1ULL << 17)
#define FLAG_AC (1ULL << 18)
#define CLEARED_BY_REAL_MODE (FLAG_IF | FLAG_TF | FLAG_AC)
#define CLEARED_BY_GATE (FLAG_TF | FLAG_NT | EFLAGS_RF | FLAG_VM)

/* The high doubleword of a descriptor (SDM Vol. 3A Figure 3-8), which is a segment register's flags, too. */
enum {
    D_ACCESSED = 1 << 8, D_WRITABLE = 1 << 9, D_CONFORMING = 1 << 10, D_EXPAND_DOWN = 1 << 10, D_CODE = 1 << 11, D_CODE_OR_DATA = 1 << 12,
    D_PRESENT = 1 << 15, D_LONG = 1 << 21, D_BIG = 1 << 22, D_GRANULARITY = 1 << 23, D_HIDDEN = 0x00f0ff00,
};
#define DPL(flags) ((flags) >> 13 & 3)
#define TYPE(flags) ((flags) >> 8 & 15)

static struct segment *segment(const struct simvirt *s, int number) { return (struct segment *)(s->env + s->off_env_segs) + number; }
static struct segment *tr(const struct simvirt *s) { return (struct segment *)(s->env + s->off_env_tr); }

/* ------------------------------------------------------------------------------------------------ memory */

/* Up to two pieces of host memory behind one access. */
struct span { u8 *first, *second; u64 in_first; };

/* Host memory behind an access that plainly succeeds: every page is RAM (or ROM that is read), with its accessed and dirty flags set
 * already, and nobody watches what is written. */
static int plainly(struct simvirt *s, u64 va, u64 size, int access, enum privilege privilege, struct span *span) {
    const int write = access == ACCESS_WRITE, paging = (ENV64(s, s->off_env_cr) & CR0_PG) != 0;
    const u64 room = PAGE_SIZE - (va & ~PAGE_MASK);
    span->in_first = size < room ? size : room;
    span->second = NULL;
    for (u64 done = 0; done < size; done += span->in_first) {
        struct walk w;
        if (!canonical(s, va + done) || !page_walk(s, va + done, access, privilege, 0, &w)) return 0;
        if (paging && (!w.accessed || (write && !w.dirty))) return 0;
        u8 *p = physical(s, w.gpa, write);
        if (!p) return 0;
        if (write && ((u8 *)s->page_flags)[(u64)(p - (u8 *)s->ram) >> PAGE_SHIFT] & PAGE_WATCHED) return 0;
        if (done) { span->second = p; break; }
        span->first = p;
    }
    return 1;
}

static int read_table(struct simvirt *s, u64 va, void *to, u64 size) {     /* as the processor reads its own tables */
    struct span span;
    if (!plainly(s, va, size, ACCESS_READ, SUPERVISOR_IMPLICIT, &span)) return 0;
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

static void write_span(struct simvirt *s, const struct span *span, const void *from, u64 size) {
    write_piece(s, span->first, from, span->in_first);
    if (span->second) write_piece(s, span->second, (const u8 *)from + span->in_first, size - span->in_first);
}

/* Nothing is under way that wants to hear of each access or instruction: the EPT's flags, a debugger, the guest's own breakpoints, TF. */
static int is_usual(const struct simvirt *s) {
    return !(s->ept_pointer & EPTP_ACCESSED_DIRTY) && !s->watch_count && !s->breakpoint_count && !(ENV64(s, s->off_env_eflags) & FLAG_TF);
}

/* ------------------------------------------------------------------------------------------------ state */

/* machine.state.ProcessorState.refresh, and the end of a shadow of STI or MOV SS. */
static void refresh(struct simvirt *s, u32 cpl) {
    enum { CS32 = 1 << 4, SS32 = 1 << 5, ADDSEG = 1 << 6, PE = 1 << 7, LMA = 1 << 14, CS64 = 1 << 15, SVM_GUEST = 1 << 21, OSFXSR = 1 << 22,
           SMAP = 1 << 23, IO_BREAKPOINT = 1 << 24 };
    const u64 cr0 = ENV64(s, s->off_env_cr), cr4 = ENV64(s, s->off_env_cr + 32), eflags = ENV64(s, s->off_env_eflags);
    const int protected = (cr0 & CR0_PE) != 0, v86 = (eflags & FLAG_VM) != 0, lma = (ENV64(s, s->off_env_efer) & EFER_LMA) != 0;
    const struct segment *es = segment(s, ES), *cs = segment(s, CS), *ss = segment(s, SS), *ds = segment(s, DS);
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

static void set_segment(struct segment *to, u32 selector, u64 base, u32 limit, u32 flags) {
    to->selector = selector, to->base = base, to->limit = limit, to->flags = flags;
}

static int fits(u32 flags, u32 limit, u64 bottom, u64 size) {              /* machine.inner_stack.fits */
    const u64 last = bottom + size - 1;
    if ((TYPE(flags) & 12) == 4) return bottom > limit && last <= (flags & D_BIG ? 0xffffffffULL : 0xffffULL);
    return last <= limit;
}

/* ------------------------------------------------------------------------------------------------ real-address mode */

static int in_real_mode(struct simvirt *s, const struct interruption *what) {
    const struct segment *table = (const struct segment *)(s->env + s->off_env_idt), *ss = segment(s, SS);
    struct segment *cs = segment(s, CS);
    u32 target;
    if (what->vector * 4 + 3 > table->limit || !read_table(s, table->base + what->vector * 4, &target, 4)) return 0;
    const u64 eflags = flags_in_one_piece(s), sp = ENV64(s, 8 * RSP), mask = ss->flags & D_BIG ? 0xffffffffULL : 0xffffULL;
    const u16 frame[3] = {(u16)eflags, (u16)cs->selector, (u16)what->return_rip};
    struct span spans[3];
    for (u64 i = 0; i < 3; i++) {
        const u64 offset = (sp - 2 * (i + 1)) & mask;
        if (!fits(ss->flags, ss->limit, offset, 2) || !plainly(s, ss->base + offset, 2, ACCESS_WRITE, SUPERVISOR_IMPLICIT, &spans[i])) return 0;
    }
    for (int i = 0; i < 3; i++) write_span(s, &spans[i], &frame[i], 2);
    ENV64(s, 8 * RSP) = (sp & ~mask) | ((sp - 6) & mask);
    set_segment(cs, target >> 16, target >> 16 << 4, cs->limit, cs->flags & D_HIDDEN);
    ENV64(s, s->off_env_eip) = target & 0xffff;
    ENV64(s, s->off_env_eflags) &= ~CLEARED_BY_REAL_MODE;
    refresh(s, 0);
    return 1;
}

/* ------------------------------------------------------------------------------------------------ protected and IA-32e mode */

struct descriptor { u64 base; u32 limit, flags; };

static int read_descriptor(struct simvirt *s, u32 selector, struct descriptor *d) {
    const struct segment *table = (const struct segment *)(s->env + (selector & 4 ? s->off_env_ldt : s->off_env_gdt));
    u32 words[2];
    if (selector & 4 && !(table->flags & D_PRESENT)) return 0;
    if ((selector & 0xfff8) + 7 > table->limit || !read_table(s, table->base + (selector & 0xfff8), words, 8)) return 0;
    d->base = words[0] >> 16 | (words[1] & 0xff) << 16 | (words[1] & 0xff000000);
    d->limit = (words[0] & 0xffff) | (words[1] & 0xf0000);
    if (words[1] & D_GRANULARITY) d->limit = d->limit << 12 | 0xfff;
    d->flags = words[1] & D_HIDDEN;
    return 1;
}

struct gate { u32 type, selector, ist; u64 offset; };

/* The IDT entry of `what`, and the code segment that it names. */
static int read_gate(struct simvirt *s, const struct interruption *what, int lma, struct gate *gate, struct descriptor *code) {
    const struct segment *table = (const struct segment *)(s->env + s->off_env_idt);
    const u64 size = lma ? 16 : 8;
    u32 words[4] = {0}, cpl = CPL(s);
    if (what->vector * size + size - 1 > table->limit || !read_table(s, table->base + what->vector * size, words, size)) return 0;
    gate->type = words[1] >> 8 & 31;                                      /* with S, which is 0 in a gate */
    if ((gate->type & ~(lma ? 1U : 9U)) != (lma ? 14U : 6U)) return 0;
    if ((what->source == SOURCE_SOFTWARE && DPL(words[1]) < cpl) || !(words[1] & D_PRESENT)) return 0;
    gate->selector = words[0] >> 16;
    gate->ist = words[1] & 7;
    gate->offset = words[0] & 0xffff;
    if (gate->type & 8) gate->offset |= words[1] & 0xffff0000;
    if (lma) gate->offset |= (u64)words[2] << 32;
    if (gate->selector < 4 || !read_descriptor(s, gate->selector, code)) return 0;
    const u32 wanted = D_CODE_OR_DATA | D_CODE | D_PRESENT | D_ACCESSED;
    return (code->flags & wanted) == wanted && DPL(code->flags) <= cpl;
}

static void enter(struct simvirt *s, const struct gate *gate, const struct descriptor *code, u32 cpl) {
    set_segment(segment(s, CS), (gate->selector & ~3U) | cpl, code->base, code->limit, code->flags);
    ENV64(s, s->off_env_eip) = gate->offset;
    ENV64(s, s->off_env_eflags) &= ~(CLEARED_BY_GATE | (gate->type & 1 ? 0 : FLAG_IF));
    refresh(s, cpl);
}

static u64 saved_flags(const struct simvirt *s, const struct interruption *what) {
    return flags_in_one_piece(s) | (what->source == SOURCE_EXCEPTION && what->vector != 1 ? EFLAGS_RF : 0);
}

/* SS and the stack pointer for ring `cpl` (machine.inner_stack). */
static int inner_stack(struct simvirt *s, u32 cpl, u32 *selector, u64 *pointer, struct descriptor *stack) {
    const struct segment *task = tr(s);
    const int is_32_bit = TYPE(task->flags) == 9 || TYPE(task->flags) == 11;
    const u32 pointer_at = is_32_bit ? 4 + 8 * cpl : 2 + 4 * cpl, selector_at = is_32_bit ? 8 + 8 * cpl : 4 + 4 * cpl;
    u16 named;
    *pointer = 0;
    if (selector_at + 1 > task->limit || !read_table(s, task->base + pointer_at, pointer, is_32_bit ? 4 : 2) ||
        !read_table(s, task->base + selector_at, &named, 2)) return 0;
    *selector = named;
    if (named < 4 || !read_descriptor(s, named, stack)) return 0;
    const u32 wanted = D_CODE_OR_DATA | D_WRITABLE | D_PRESENT | D_ACCESSED;
    return (named & 3U) == cpl && DPL(stack->flags) == cpl && (stack->flags & (wanted | D_CODE)) == wanted;
}

static int in_protected_mode(struct simvirt *s, const struct interruption *what) {
    struct gate gate;
    struct descriptor code, stack;
    if (!read_gate(s, what, 0, &gate, &code)) return 0;
    const u32 cpl = CPL(s);
    const int v86 = (ENV64(s, s->off_env_eflags) & FLAG_VM) != 0, inner = !(code.flags & D_CONFORMING) && DPL(code.flags) < cpl;
    if ((v86 && (!inner || DPL(code.flags))) || gate.offset > code.limit) return 0;
    const u32 new_cpl = inner ? DPL(code.flags) : cpl;
    const struct segment *ss = segment(s, SS);
    u32 stack_selector = 0;
    u64 sp = (u32)ENV64(s, 8 * RSP);
    if (!inner) stack = (struct descriptor){ss->base, ss->limit, ss->flags & D_HIDDEN};
    else if (!inner_stack(s, new_cpl, &stack_selector, &sp, &stack)) return 0;

    u32 frame[10], n = 0;                                                 /* from the lowest address up */
    if (what->has_error_code) frame[n++] = (u32)what->error_code;
    frame[n++] = (u32)what->return_rip;
    frame[n++] = segment(s, CS)->selector & 0xffff;
    frame[n++] = (u32)saved_flags(s, what);
    if (inner) {
        frame[n++] = (u32)ENV64(s, 8 * RSP);
        frame[n++] = ss->selector & 0xffff;
        for (int i = 0; v86 && i < 4; i++) frame[n++] = segment(s, ((const int[]){ES, DS, FS, GS})[i])->selector & 0xffff;
    }
    const u64 size = gate.type & 8 ? 4 : 2, mask = stack.flags & D_BIG ? 0xffffffffULL : 0xffffULL, bottom = (sp - size * n) & mask;
    u16 words[10];
    for (u32 i = 0; i < n; i++) words[i] = (u16)frame[i];
    struct span span;
    if (!fits(stack.flags, stack.limit, bottom, size * n) ||
        !plainly(s, (stack.base + bottom) & 0xffffffffULL, size * n, ACCESS_WRITE, new_cpl == 3 ? USER : SUPERVISOR, &span)) return 0;

    write_span(s, &span, size == 4 ? (const void *)frame : words, size * n);
    if (inner) {
        set_segment(segment(s, SS), stack_selector, stack.base, stack.limit, stack.flags);
        for (int i = 0; v86 && i < 4; i++) set_segment(segment(s, ((const int[]){ES, DS, FS, GS})[i]), 0, 0, 0, 0);
    }
    ENV64(s, 8 * RSP) = (sp & ~mask) | bottom;
    enter(s, &gate, &code, new_cpl);
    return 1;
}

static int in_long_mode(struct simvirt *s, const struct interruption *what) {
    struct gate gate;
    struct descriptor code;
    if (!read_gate(s, what, 1, &gate, &code)) return 0;
    if (!(code.flags & D_LONG) || code.flags & D_BIG || !canonical(s, gate.offset)) return 0;
    const u32 cpl = CPL(s);
    const int inner = !(code.flags & D_CONFORMING) && DPL(code.flags) < cpl;
    const u32 new_cpl = inner ? DPL(code.flags) : cpl;
    const struct segment *ss = segment(s, SS), *task = tr(s);
    u64 sp = ENV64(s, 8 * RSP);
    if (gate.ist || inner) {
        const u32 at = gate.ist ? 36 + 8 * (gate.ist - 1) : 4 + 8 * new_cpl;
        if (at + 7 > task->limit || !read_table(s, task->base + at, &sp, 8) || !canonical(s, sp)) return 0;
    }
    u64 frame[6], n = 0;
    if (what->has_error_code) frame[n++] = what->error_code;
    frame[n++] = what->return_rip;
    frame[n++] = segment(s, CS)->selector & 0xffff;
    frame[n++] = saved_flags(s, what);
    frame[n++] = ENV64(s, 8 * RSP);
    frame[n++] = ss->selector & 0xffff;
    const u64 bottom = (sp & ~15ULL) - 8 * n;
    struct span span;
    if (!canonical(s, bottom) || !plainly(s, bottom, 8 * n, ACCESS_WRITE, new_cpl == 3 ? USER : SUPERVISOR, &span)) return 0;

    write_span(s, &span, frame, 8 * n);
    if (inner) set_segment(segment(s, SS), new_cpl, 0, 0, new_cpl << 13);
    ENV64(s, 8 * RSP) = bottom;
    enter(s, &gate, &code, new_cpl);
    return 1;
}

/* ------------------------------------------------------------------------------------------------ bookkeeping */

/* Cpu.deliver, as far as nothing goes wrong: the same records, and a livelock is the reference's to report. */
int deliver(struct simvirt *s, const struct interruption *what) {
    const u64 fruitless = s->count == s->last_delivery ? s->fruitless : 0;
    if (fruitless >= s->fruitless_limit || !is_usual(s)) return 0;
    const int protected = (ENV64(s, s->off_env_cr) & CR0_PE) != 0, lma = (ENV64(s, s->off_env_efer) & EFER_LMA) != 0;
    const struct fault_words fault = {
        s->count, what->vector, what->error_code, (u64)what->has_error_code, what->cr2, (u64)what->has_cr2,
        segment(s, CS)->selector & 0xffff, ENV64(s, s->off_env_eip), CPL(s),
    };
    if (!(protected ? lma ? in_long_mode(s, what) : in_protected_mode(s, what) : in_real_mode(s, what))) return 0;
    s->last_delivery = s->count, s->fruitless = fruitless + 1;
    s->delivered[what->vector]++;
    if (what->source == SOURCE_EXCEPTION) s->faults[s->fault_count++ % MAX_FAULTS] = fault;
    if (what->has_cr2) ENV64(s, s->off_env_cr + 16) = what->cr2;
    return 1;
}

/* For Python: error_code is -1 when there is none. The engine does not run. */
int simvirt_deliver(struct simvirt *s, u32 vector, int source, u64 return_rip, int64_t error_code) {
    const struct interruption what = {vector, (enum source)source, return_rip, error_code < 0 ? 0 : (u64)error_code, error_code >= 0, 0, 0};
    return deliver(s, &what);
}
