/* IRET of a de-privileged guest's kernel.
 *
 * In ring 1 it traps, whether it returns to ring 0, for its selector's RPL is less than the real CPL, or to ring 3, for the shadow of a code
 * segment of ring 3 is never present. strategies/trap_and_emulate/dispatcher.py has the VMM carry it out on the guest's own machine;
 * machine/far_transfers.py, with vmm/guest_segment_loads.py, is the reference. What is here does the same, or nothing, like delivery.c.
 * tests/vmm/test_native_guest.py compares the two on random states.
 */
#include "processor.h"

#define IRET 0xcf
#define OPERAND_SIZE_PREFIX 0x66
enum { FIRST_SELECTOR_OF_VMM = 0xfff0, USER_RING = 3, LOADED = D_CODE_OR_DATA | D_PRESENT | D_ACCESSED };
#define FLAGS_ARITHMETIC 0x8d5ULL
#define FLAG_DF (1ULL << 10)
#define FLAG_ID (1ULL << 21)
#define LOADED_FLAGS (FLAGS_ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT | EFLAGS_RF | FLAG_AC | FLAG_ID | FLAG_IOPL | FLAG_IF | FLAGS_VIRTUAL_INTERRUPT)

/* Is the shadow of this descriptor present? Loading the descriptor anew would change nothing then. */
static int is_shown(struct simvirt *s, u32 selector) {
    const struct processor real = real_processor(s);
    struct descriptor shadow;
    return selector < FIRST_SELECTOR_OF_VMM && read_descriptor(s, &real, selector, &shadow) && shadow.flags & D_PRESENT;
}

/* Bytes of an operand of the IRET at RIP, 0 where something else stands there. */
static u64 operand_size(const struct simvirt *s) {
    const u8 *end = opcode(s);
    u64 size = ENV32(s, s->off_env_hflags) & HF_CS32 ? 4 : 2;
    if (end == s->bytes + s->byte_count || *end != IRET) return 0;
    for (const u8 *at = s->bytes; at < end; at++)
        if (*at == OPERAND_SIZE_PREFIX) return 6 - size;
    return size;
}

static void set_flags(struct simvirt *s, const struct processor *p, u64 flags) {
    *p->virtual_flags = flags & (FLAG_IF | FLAG_IOPL);
    ENV64(s, s->off_env_eflags) = (flags & ~(FLAG_IF | FLAG_IOPL)) | FLAG_IF | 2;
    ENV64(s, s->off_env_cc_src) = flags & FLAGS_ARITHMETIC;
    ENV32(s, s->off_env_df) = flags & FLAG_DF ? ~0U : 1;
}

static void set_stack_pointer(struct simvirt *s, u64 value, u32 stack_flags) {
    u64 *rsp = &ENV64(s, 8 * RSP);
    *rsp = stack_flags & D_BIG ? (u32)value : (*rsp & ~0xffffULL) | (value & 0xffff);
}

/* Data segments that ring 3 may not use are cleared; null ones lose their RPL. */
static void leave_data_segments(struct simvirt *s) {
    static const int data[] = {ES, FS, GS, DS};
    for (int i = 0; i < 4; i++) {
        struct segment *one = segment(s, data[i]);
        if (!(one->selector & 0xfffc)) one->selector = 0;
        else if (DPL(one->flags) < USER_RING && (one->flags & (D_CODE | D_CONFORMING)) != (D_CODE | D_CONFORMING)) set_segment(one, 0, 0, 0, 0);
    }
}

/* SS:ESP of ring 3, which lie behind EFLAGS; `frame` has room for the two. */
static int outer_stack(struct simvirt *s, const struct processor *p, u64 sp, u64 size, u64 frame[2], struct descriptor *stack) {
    const struct segment *ss = segment(s, SS);
    if (!fits(ss->flags, ss->limit, sp, 5 * size)) return 0;
    for (u64 i = 0; i < 2; i++)
        if (!read_plainly(s, p, ss->base + sp + (3 + i) * size, &frame[i], size, SUPERVISOR)) return 0;
    const u32 selector = (u16)frame[1];
    if (selector < 4 || (selector & 3) != USER_RING || !read_descriptor(s, p, selector, stack) || DPL(stack->flags) != USER_RING) return 0;
    return (stack->flags & (LOADED | D_CODE | D_WRITABLE)) == (LOADED | D_WRITABLE) && is_shown(s, selector);
}

static int guest_iret(struct simvirt *s, const struct processor *p) {
    const u64 size = operand_size(s), old = flags_of(s, p);
    if (!size || !is_usual(s) || CPL(s) != p->kernel_ring || old & (FLAG_NT | FLAG_VM)) return 0;
    const struct segment *ss = segment(s, SS);
    const u64 mask = ss->flags & D_BIG ? 0xffffffffULL : 0xffffULL, sp = ENV64(s, 8 * RSP) & mask;
    u64 frame[5] = {0};                                                   /* EIP, CS, EFLAGS, ESP, SS */
    if (ss->flags & (D_CODE | D_EXPAND_DOWN) || sp + 5 * size - 1 > mask || !fits(ss->flags, ss->limit, sp, 3 * size)) return 0;
    for (u64 i = 0; i < 3; i++)
        if (!read_plainly(s, p, ss->base + sp + i * size, &frame[i], size, SUPERVISOR)) return 0;
    const u32 selector = (u16)frame[1], cpl = selector & 3;
    struct descriptor code, stack;
    if (frame[2] & FLAG_VM || selector < 4 || (cpl && cpl != USER_RING) || !read_descriptor(s, p, selector, &code)) return 0;
    if ((code.flags & (LOADED | D_CODE | D_CONFORMING)) != (LOADED | D_CODE) || DPL(code.flags) != cpl || frame[0] > code.limit) return 0;
    if (!cpl && !is_shown(s, selector)) return 0;
    if (cpl && !outer_stack(s, p, sp, size, frame + 3, &stack)) return 0;

    const u64 loaded = size == 2 ? LOADED_FLAGS & 0xffff : LOADED_FLAGS;
    const u64 flags = (old & ~loaded) | (frame[2] & loaded);
    load_segment(s, p, CS, selector, &code);
    ENV64(s, s->off_env_eip) = frame[0];
    if (cpl) {
        load_segment(s, p, SS, (u16)frame[4], &stack);
        set_stack_pointer(s, frame[3], stack.flags);
        leave_data_segments(s);
    } else {
        set_stack_pointer(s, sp + 3 * size, ss->flags);
    }
    set_flags(s, p, flags);
    refresh(s, p, cpl);
    ENV32(s, s->off_env_error_code) = selector & 0xfffc;                  /* the trap's: a saved state is the same with it or without */
    s->count++;
    return 1;
}

/* For Python, while the engine stands in front of the instruction. */
int simvirt_guest_iret(struct simvirt *s) {
    const struct processor guest = guest_processor(s);
    return guest_iret(s, &guest);
}
