/* Delivery of exceptions, software interrupts and external interrupts, for the usual case.
 *
 * machine/interrupts.py is the reference and the text to read. What is here does the same, or nothing: it looks at everything first, and
 * returns 0 with the state untouched when anything is out of the ordinary. That is a check that fails, a page that is not there, an
 * accessed or dirty flag that would have to be set, a descriptor that has not been accessed yet, memory that is no RAM. The caller then goes
 * to the reference, which starts from the beginning. tests/machine/test_native_delivery.py compares the two on random states, and
 * tests/vmm/test_native_guest.py for the processor of a de-privileged guest.
 */
#include "processor.h"

#define CLEARED_BY_REAL_MODE (FLAG_IF | FLAG_TF | FLAG_AC)
#define CLEARED_BY_GATE (FLAG_TF | FLAG_NT | EFLAGS_RF | FLAG_VM)

/* ------------------------------------------------------------------------------------------------ real-address mode */

static int in_real_mode(struct simvirt *s, const struct processor *p, const struct interruption *what) {
    const struct segment *table = p->idt, *ss = segment(s, SS);
    struct segment *cs = segment(s, CS);
    u32 target;
    if (what->vector * 4 + 3 > table->limit || !read_plainly(s, p, table->base + what->vector * 4, &target, 4, SUPERVISOR_IMPLICIT)) return 0;
    const u64 eflags = flags_in_one_piece(s), sp = ENV64(s, 8 * RSP), mask = ss->flags & D_BIG ? 0xffffffffULL : 0xffffULL;
    const u16 frame[3] = {(u16)eflags, (u16)cs->selector, (u16)what->return_rip};
    struct span spans[3];
    for (u64 i = 0; i < 3; i++) {
        const u64 offset = (sp - 2 * (i + 1)) & mask;
        if (!fits(ss->flags, ss->limit, offset, 2) ||
            !plainly(s, p, ss->base + offset, 2, ACCESS_WRITE, SUPERVISOR_IMPLICIT, &spans[i])) return 0;
    }
    for (int i = 0; i < 3; i++) write_span(s, &spans[i], &frame[i], 2);
    ENV64(s, 8 * RSP) = (sp & ~mask) | ((sp - 6) & mask);
    set_segment(cs, target >> 16, target >> 16 << 4, cs->limit, cs->flags & D_HIDDEN);
    ENV64(s, s->off_env_eip) = target & 0xffff;
    ENV64(s, s->off_env_eflags) &= ~CLEARED_BY_REAL_MODE;
    refresh(s, p, 0);
    return 1;
}

/* ------------------------------------------------------------------------------------------------ protected and IA-32e mode */

struct gate { u32 type, selector, ist; u64 offset; };

/* The IDT entry of `what`, and the code segment that it names. */
static int read_gate(struct simvirt *s, const struct processor *p, const struct interruption *what, int lma, struct gate *gate,
                     struct descriptor *code) {
    const struct segment *table = p->idt;
    const u64 size = lma ? 16 : 8;
    u32 words[4] = {0}, cpl = cpl_of(s, p);
    if (what->vector * size + size - 1 > table->limit) return 0;
    if (!read_plainly(s, p, table->base + what->vector * size, words, size, SUPERVISOR_IMPLICIT)) return 0;
    gate->type = words[1] >> 8 & 31;                                      /* with S, which is 0 in a gate */
    if ((gate->type & ~(lma ? 1U : 9U)) != (lma ? 14U : 6U)) return 0;
    if ((what->source == SOURCE_SOFTWARE && DPL(words[1]) < cpl) || !(words[1] & D_PRESENT)) return 0;
    gate->selector = words[0] >> 16;
    gate->ist = words[1] & 7;
    gate->offset = words[0] & 0xffff;
    if (gate->type & 8) gate->offset |= words[1] & 0xffff0000;
    if (lma) gate->offset |= (u64)words[2] << 32;
    if (gate->selector < 4 || !read_descriptor(s, p, gate->selector, code)) return 0;
    const u32 wanted = D_CODE_OR_DATA | D_CODE | D_PRESENT | D_ACCESSED;
    return (code->flags & wanted) == wanted && DPL(code->flags) <= cpl;
}

static void enter(struct simvirt *s, const struct processor *p, const struct gate *gate, const struct descriptor *code, u32 cpl) {
    const u64 interrupts = gate->type & 1 ? 0 : FLAG_IF;
    load_segment(s, p, CS, (gate->selector & ~3U) | cpl, code);
    ENV64(s, s->off_env_eip) = gate->offset;
    ENV64(s, s->off_env_eflags) &= ~(CLEARED_BY_GATE | (p->virtual_flags ? 0 : interrupts));
    if (p->virtual_flags) *p->virtual_flags &= ~interrupts;
    refresh(s, p, cpl);
}

static u64 saved_flags(const struct simvirt *s, const struct processor *p, const struct interruption *what) {
    return flags_of(s, p) | (what->source == SOURCE_EXCEPTION && what->vector != 1 ? EFLAGS_RF : 0);
}

/* SS and the stack pointer for ring `cpl` (machine.inner_stack). */
static int inner_stack(struct simvirt *s, const struct processor *p, u32 cpl, u32 *selector, u64 *pointer, struct descriptor *stack) {
    const struct segment *task = p->tr;
    const int is_32_bit = TYPE(task->flags) == 9 || TYPE(task->flags) == 11;
    const u32 pointer_at = is_32_bit ? 4 + 8 * cpl : 2 + 4 * cpl, selector_at = is_32_bit ? 8 + 8 * cpl : 4 + 4 * cpl;
    u16 named;
    *pointer = 0;
    if (selector_at + 1 > task->limit || !read_plainly(s, p, task->base + pointer_at, pointer, is_32_bit ? 4 : 2, SUPERVISOR_IMPLICIT) ||
        !read_plainly(s, p, task->base + selector_at, &named, 2, SUPERVISOR_IMPLICIT)) return 0;
    *selector = named;
    if (named < 4 || !read_descriptor(s, p, named, stack)) return 0;
    const u32 wanted = D_CODE_OR_DATA | D_WRITABLE | D_PRESENT | D_ACCESSED;
    return (named & 3U) == cpl && DPL(stack->flags) == cpl && (stack->flags & (wanted | D_CODE)) == wanted;
}

static int in_protected_mode(struct simvirt *s, const struct processor *p, const struct interruption *what) {
    struct gate gate;
    struct descriptor code, stack;
    if (!read_gate(s, p, what, 0, &gate, &code)) return 0;
    const u32 cpl = cpl_of(s, p);
    const int v86 = (ENV64(s, s->off_env_eflags) & FLAG_VM) != 0, inner = !(code.flags & D_CONFORMING) && DPL(code.flags) < cpl;
    if ((v86 && (!inner || DPL(code.flags))) || gate.offset > code.limit) return 0;
    const u32 new_cpl = inner ? DPL(code.flags) : cpl;
    if (p->kernel_ring && new_cpl - 1 < 2) return 0;                      /* ring compression: there is none for these */
    const struct segment *ss = segment(s, SS);
    u32 stack_selector = 0;
    u64 sp = (u32)ENV64(s, 8 * RSP);
    if (!inner) stack = (struct descriptor){ss->base, ss->limit, ss->flags & D_HIDDEN};
    else if (!inner_stack(s, p, new_cpl, &stack_selector, &sp, &stack)) return 0;

    u32 frame[10], n = 0;                                                 /* from the lowest address up */
    if (what->has_error_code) frame[n++] = (u32)what->error_code;
    frame[n++] = (u32)what->return_rip;
    frame[n++] = selector_of(s, p, CS);
    frame[n++] = (u32)saved_flags(s, p, what);
    if (inner) {
        frame[n++] = (u32)ENV64(s, 8 * RSP);
        frame[n++] = selector_of(s, p, SS);
        for (int i = 0; v86 && i < 4; i++) frame[n++] = segment(s, ((const int[]){ES, DS, FS, GS})[i])->selector & 0xffff;
    }
    const u64 size = gate.type & 8 ? 4 : 2, mask = stack.flags & D_BIG ? 0xffffffffULL : 0xffffULL, bottom = (sp - size * n) & mask;
    u16 words[10];
    for (u32 i = 0; i < n; i++) words[i] = (u16)frame[i];
    struct span span;
    if (!fits(stack.flags, stack.limit, bottom, size * n) ||
        !plainly(s, p, (stack.base + bottom) & 0xffffffffULL, size * n, ACCESS_WRITE, new_cpl == 3 ? USER : SUPERVISOR, &span)) return 0;

    write_span(s, &span, size == 4 ? (const void *)frame : words, size * n);
    if (inner) {
        load_segment(s, p, SS, stack_selector, &stack);
        for (int i = 0; v86 && i < 4; i++) set_segment(segment(s, ((const int[]){ES, DS, FS, GS})[i]), 0, 0, 0, 0);
    }
    ENV64(s, 8 * RSP) = (sp & ~mask) | bottom;
    enter(s, p, &gate, &code, new_cpl);
    return 1;
}

static int in_long_mode(struct simvirt *s, const struct processor *p, const struct interruption *what) {
    struct gate gate;
    struct descriptor code;
    if (!read_gate(s, p, what, 1, &gate, &code)) return 0;
    if (!(code.flags & D_LONG) || code.flags & D_BIG || !canonical(s, gate.offset)) return 0;
    const u32 cpl = CPL(s);
    const int inner = !(code.flags & D_CONFORMING) && DPL(code.flags) < cpl;
    const u32 new_cpl = inner ? DPL(code.flags) : cpl;
    const struct segment *ss = segment(s, SS), *task = p->tr;
    u64 sp = ENV64(s, 8 * RSP);
    if (gate.ist || inner) {
        const u32 at = gate.ist ? 36 + 8 * (gate.ist - 1) : 4 + 8 * new_cpl;
        if (at + 7 > task->limit || !read_plainly(s, p, task->base + at, &sp, 8, SUPERVISOR_IMPLICIT) || !canonical(s, sp)) return 0;
    }
    u64 frame[6], n = 0;
    if (what->has_error_code) frame[n++] = what->error_code;
    frame[n++] = what->return_rip;
    frame[n++] = segment(s, CS)->selector & 0xffff;
    frame[n++] = saved_flags(s, p, what);
    frame[n++] = ENV64(s, 8 * RSP);
    frame[n++] = ss->selector & 0xffff;
    const u64 bottom = (sp & ~15ULL) - 8 * n;
    struct span span;
    if (!canonical(s, bottom) || !plainly(s, p, bottom, 8 * n, ACCESS_WRITE, new_cpl == 3 ? USER : SUPERVISOR, &span)) return 0;

    write_span(s, &span, frame, 8 * n);
    if (inner) set_segment(segment(s, SS), new_cpl, 0, 0, new_cpl << 13);
    ENV64(s, 8 * RSP) = bottom;
    enter(s, p, &gate, &code, new_cpl);
    return 1;
}

/* ------------------------------------------------------------------------------------------------ bookkeeping */

/* Cpu.deliver, as far as nothing goes wrong: the same records, and a livelock is the reference's to report. */
static int deliver_to(struct simvirt *s, const struct processor *p, const struct interruption *what) {
    const u64 fruitless = s->count == s->last_delivery ? s->fruitless : 0;
    if (fruitless >= s->fruitless_limit || !is_usual(s)) return 0;
    const int protected = (ENV64(s, s->off_env_cr) & CR0_PE) != 0, lma = (ENV64(s, s->off_env_efer) & EFER_LMA) != 0;
    const struct fault_words fault = {
        s->count, what->vector, what->error_code, (u64)what->has_error_code, what->cr2, (u64)what->has_cr2,
        selector_of(s, p, CS), ENV64(s, s->off_env_eip), cpl_of(s, p),
    };
    if (!(protected ? lma ? in_long_mode(s, p, what) : in_protected_mode(s, p, what) : in_real_mode(s, p, what))) return 0;
    s->last_delivery = s->count, s->fruitless = fruitless + 1;
    s->delivered[what->vector]++;
    if (what->source == SOURCE_EXCEPTION) s->faults[s->fault_count++ % MAX_FAULTS] = fault;
    return 1;
}

int deliver(struct simvirt *s, const struct interruption *what) {
    const struct processor real = real_processor(s);
    if (!deliver_to(s, &real, what)) return 0;
    if (what->has_cr2) ENV64(s, s->off_env_cr + 16) = what->cr2;
    return 1;
}

/* For Python, while the engine does not run. A negative error code is none. The guest's CR2 is its VMM's to write. */
static struct interruption interruption(u32 vector, int source, u64 return_rip, int64_t error_code, int has_cr2, u64 cr2) {
    return (struct interruption){
        vector, (enum source)source, return_rip, error_code < 0 ? 0 : (u64)error_code, error_code >= 0, cr2, has_cr2,
    };
}

int simvirt_deliver(struct simvirt *s, u32 vector, int source, u64 return_rip, int64_t error_code, int has_cr2, u64 cr2) {
    const struct interruption what = interruption(vector, source, return_rip, error_code, has_cr2, cr2);
    return deliver(s, &what);
}

/* A maskable interrupt, which has but a vector. */
int simvirt_interrupt(struct simvirt *s, u32 vector) {
    const struct interruption what = {.vector = vector, .source = SOURCE_EXTERNAL, .return_rip = ENV64(s, s->off_env_eip)};
    return deliver(s, &what);
}

int simvirt_deliver_to_guest(struct simvirt *s, u32 vector, int source, u64 return_rip, int64_t error_code, int has_cr2, u64 cr2) {
    const struct interruption what = interruption(vector, source, return_rip, error_code, has_cr2, cr2);
    const struct processor guest = guest_processor(s);
    return deliver_to(s, &guest, &what);
}
