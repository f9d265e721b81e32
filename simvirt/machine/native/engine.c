/* The native side of the CPU engine: what must run inside Unicorn's callbacks, and nothing else.
 *
 *   fill_hook       the memory-management unit: walks the guest's page tables and then the second dimension (the regions of the
 *                   physical address space), sets accessed and dirty flags, grants execute on demand, or refuses with a verdict
 *   edge_hook       gives each translated block its own instruction count, in line
 *   block_hook      the instruction counter's slow side: of the block that would pass the limit only a part runs
 *   processor.c     the real processor, or the one that a de-privileged guest believes in, for what is done to both by the same code:
 *   delivery.c      interrupts and exceptions, into the guest's handlers
 *   guest_iret.c    IRETs of a de-privileged guest's kernel, out of them
 *   iret.c          which IRETs the engine may do by itself
 *   special.c       the instructions that a block may not simply run through: undefined ones, breakpoints
 *   interrupt_hook  SVM exits: exceptions, software interrupts and intercepted instructions, precise and uncommitted
 *   in_hook ...     I/O instructions and system calls, which Unicorn does not intercept
 *   simvirt_run     runs up to an exact instruction and returns one event
 *
 * All of them share one `struct simvirt` (record.h), whose words Python sees as a view (machine/native/layout.py mirrors it by name,
 * and simvirt_layout() lets the self-test compare the two). Offsets into Unicorn's own structures come in from Python
 * (machine/platforms.py), where they are verified at start. docs/decisions/0001 tells why this is C.
 */
#define _POSIX_C_SOURCE 200809L
#include "record.h"
#include <string.h>
#ifndef _WIN32
#include <signal.h>
#endif

typedef int (*emu_start_fn)(void *, u64, u64, u64, size_t);
typedef int (*emu_stop_fn)(void *);
typedef int (*ctl_fn)(void *, u32, ...);
typedef int (*reg_read_fn)(void *, int, void *);

#define UC_CTL_IO_WRITE 1U
#define UC_CTL_IO_READ_WRITE 3U
#define UC_CTL(type, args, io) ((u32)(type) | ((u32)(args) << 26) | ((u32)(io) << 30))
#define UC_CTL_TB_REQUEST_CACHE 8U
#define UC_CTL_TB_FLUSH 10U
#define UC_CTL_TLB_FLUSH 11U
#define UC_X86_REG_EFLAGS 25

/* EFLAGS, of which the engine keeps the arithmetic flags apart while it runs. */
u64 flags_in_one_piece(const struct simvirt *s) {
    u64 flags = 0;
    ((reg_read_fn)s->reg_read)((void *)s->uc, UC_X86_REG_EFLAGS, &flags);
    return flags;
}

static void flush_tlb(struct simvirt *s) { ((ctl_fn)s->ctl)((void *)s->uc, UC_CTL(UC_CTL_TLB_FLUSH, 0, UC_CTL_IO_WRITE)); }

static void flush_translations(struct simvirt *s) {
    ((ctl_fn)s->ctl)((void *)s->uc, UC_CTL(UC_CTL_TB_FLUSH, 0, UC_CTL_IO_WRITE));
    s->current = 0;
}

/* Host memory has been written: what was translated from these very bytes goes, by the way that the engine takes for the guest's own stores
 * to code. Code beside them stays, as on a page that holds a stack, too. */
void drop_code(struct simvirt *s, u64 host, u64 size) {
    ((void (*)(void *, u64, u64))s->invalidate_range)((void *)s->uc, host, host + size);
}

static u64 linear_pc(const struct simvirt *s) {
    const u64 eip = ENV64(s, s->off_env_eip);
    if (ENV32(s, s->off_env_hflags) & HF_CS64) return eip;
    return (eip + ENV64(s, s->off_env_segs + 24 + 8)) & 0xffffffffULL;
}

/* ------------------------------------------------------------------------------------------------ page walk
 * SDM Vol. 3A 4.3 to 4.7. Returns 1 with the translation, or 0 with the error code of the page fault, or with what the EPT refused. `commit` sets accessed and
 * dirty flags. Entries wider than the mode's are handled by one table of formats. */

#define PTE_P 1ULL
#define PTE_W 2ULL
#define PTE_U 4ULL
#define PTE_A 0x20
#define PTE_D 0x40
#define PTE_PS 0x80ULL
#define PTE_NX (1ULL << 63)
#define CR0_WP (1ULL << 16)
#define CR4_PSE (1ULL << 4)
#define CR4_PAE (1ULL << 5)
#define CR4_SMEP (1ULL << 20)
#define CR4_SMAP (1ULL << 21)
#define EFER_NXE (1ULL << 11)
#define EFLAGS_AC (1ULL << 18)

int page_walk(struct simvirt *s, u64 va, int access, enum privilege privilege, int commit, struct walk *w) {
    const int user = privilege == USER;
    const u64 cr0 = ENV64(s, s->off_env_cr), cr3 = ENV64(s, s->off_env_cr + 24), cr4 = ENV64(s, s->off_env_cr + 32);
    const u64 efer = ENV64(s, s->off_env_efer);
    const int write = access == ACCESS_WRITE, fetch = access == ACCESS_FETCH;
    w->writable = w->executable = w->accessed = w->dirty = 1;
    w->user_page = 1;
    w->error = w->gpa_of_fault = 0;
    w->level = 0;
    w->refusal = REFUSED_PAGE_FAULT;
    if (!(cr0 & CR0_PG)) {
        w->gpa = va & 0xffffffffULL;
        return 1;
    }
    const int pae = (cr4 & CR4_PAE) != 0, lma = (efer & EFER_LMA) != 0, nxe = pae && (efer & EFER_NXE);
    const int size = pae ? 8 : 4, index_bits = pae ? 9 : 10, levels = !pae ? 2 : lma ? 4 : 3;
    const u64 physical_mask = (1ULL << s->max_physical_bits) - 1;
    u64 error = (write ? 2 : 0) | (user ? 4 : 0) | (fetch && (nxe || (cr4 & CR4_SMEP)) ? 16 : 0);
    u64 table = !pae ? cr3 & 0xfffff000ULL : lma ? cr3 & physical_mask & PAGE_MASK : cr3 & 0xffffffe0ULL;
    u64 entry = 0, at = 0, address[4], rights_and = PTE_W | PTE_U, nx = 0;
    int level = levels, shift = 0;
    if (!lma) va &= 0xffffffffULL;
    for (; level >= 1; level--) {
        shift = PAGE_SHIFT + (level - 1) * index_bits;
        at = table + ((va >> shift) & ((1ULL << index_bits) - 1)) * (u64)size;
        address[level - 1] = at;
        w->gpa_of_fault = at;
        w->level = level;
        if (levels == 3 && level == 3) {                                  /* a register, checked when it was loaded */
            entry = ENV64(s, s->off_env_pdptes + 8 * ((va >> shift) & 3));
            if (!(entry & PTE_P)) goto fault;
            table = entry & physical_mask & PAGE_MASK;
            continue;
        }
        entry = read_entry(s, at, size, commit, w);
        if (w->refusal != REFUSED_PAGE_FAULT) return 0;
        if (!(entry & PTE_P)) goto fault;
        int large = (entry & PTE_PS) && (level == 2 ? (pae || (cr4 & CR4_PSE)) : level == 3 && lma);
        u64 reserved = 0;
        if (pae) {
            reserved = ~physical_mask & 0x000fffffffffffffULL;
            if (!nxe) reserved |= PTE_NX;
            if (!lma) reserved |= 0x7ff0000000000000ULL;
            if (level == 4 || (level == 3 && lma && !s->gigabyte_pages)) reserved |= PTE_PS;
            if (large) reserved |= ((1ULL << shift) - 1) & ~0x1fffULL;
        } else if (large) {
            const u64 bits = s->max_physical_bits < 32 ? 32 : s->max_physical_bits > 40 ? 40 : s->max_physical_bits;
            reserved = (1ULL << 22) - (1ULL << (bits - 19));              /* Table 4-4: bits 21:(M-19), M at most 40 */
        }
        if (entry & reserved) { error |= 9; goto fault; }
        if (!(entry & PTE_A)) w->accessed = 0;
        rights_and &= entry;
        if (nxe) nx |= entry & PTE_NX;
        if (large || level == 1) break;
        table = pae ? entry & physical_mask & PAGE_MASK & ~PTE_NX : entry & 0xfffff000ULL;
    }
    const u64 page_mask = (1ULL << shift) - 1;
    if (pae) w->gpa = (entry & physical_mask & ~PTE_NX & ~page_mask & PAGE_MASK) | (va & page_mask);
    else if (level == 2) w->gpa = (entry & 0xffc00000ULL) | ((entry & 0x1fe000ULL) << 19) | (va & page_mask);
    else w->gpa = (entry & 0xfffff000ULL) | (va & page_mask);
    w->user_page = (rights_and & PTE_U) != 0;
    w->executable = !nx && !(w->user_page && !user && (cr4 & CR4_SMEP));
    w->writable = (rights_and & PTE_W) || (!user && !(cr0 & CR0_WP));
    error |= 1;
    if (user && !w->user_page) goto fault;
    if (fetch && !w->executable) goto fault;
    if (write && !w->writable) goto fault;
    if (!user && !fetch && w->user_page && (cr4 & CR4_SMAP) &&
        (privilege == SUPERVISOR_IMPLICIT || !(ENV64(s, s->off_env_eflags) & EFLAGS_AC))) goto fault;
    if (commit) {
        for (int l = levels; l > level; l--)
            if (!(levels == 3 && l == 3) && !set_entry_flags(s, address[l - 1], PTE_A, w)) return 0;
        if (!set_entry_flags(s, at, (u8)(write ? PTE_A | PTE_D : PTE_A), w)) return 0;
        entry = read_entry(s, at, size, 0, w);
    }
    w->dirty = (entry & PTE_D) != 0;
    w->error = error;
    return 1;
fault:
    w->error = error;
    return 0;
}

/* Loads the four PDPTE registers of PAE paging from the table at `cr3` (SDM Vol. 3A 4.4.1); none when a present one has a reserved bit
 * (LOAD_RESERVED), or when the EPT refuses the table (LOAD_REFUSED), which is left in `w`. */
enum load { LOADED = 0, LOAD_RESERVED = 1, LOAD_REFUSED = 2 };
static enum load load_pdptes(struct simvirt *s, u64 cr3, struct walk *w) {
    const u64 reserved = ~((1ULL << s->max_physical_bits) - 1) | 0x1e6ULL;
    u64 entry[4];
    w->refusal = REFUSED_PAGE_FAULT;
    for (u64 i = 0; i < 4; i++) {
        entry[i] = read_entry(s, (cr3 & 0xffffffe0ULL) + 8 * i, 8, 1, w);
        if (w->refusal != REFUSED_PAGE_FAULT) return LOAD_REFUSED;
        if ((entry[i] & PTE_P) && (entry[i] & reserved)) return LOAD_RESERVED;
    }
    memcpy((void *)(s->env + s->off_env_pdptes), entry, sizeof entry);
    return LOADED;
}

/* In IA-32e mode bits 63:47 of a linear address are all alike (SDM Vol. 1 3.3.7.1); anything else is #GP(0) or #SS(0). */
int canonical(const struct simvirt *s, u64 va) {
    return !(ENV64(s, s->off_env_efer) & EFER_LMA) || va >> 47 == 0 || va >> 47 == 0x1ffff;
}

/* ------------------------------------------------------------------------------------------------ the fill callback */

/* Work that takes the host longer than the instructions that cause it shortens the slice, so that a slice is short in host time too:
 * a request to stop is seen between two slices. */
enum { WORK_OF_FILL = 64, WORK_OF_TRANSLATION = 512, WORK_OF_ENTRY = 256, WORK_OF_DELIVERY = 256 };
static void charge(struct simvirt *s, u64 work);

struct tlb_entry { u64 paddr; u32 perms; };

static bool refuse(struct simvirt *s, enum refusal why, u64 va, int access, const struct walk *w) {
    s->refusal = why;
    s->fault_address = va;
    s->fault_access = (u64)access;
    s->fault_gpa = why == REFUSED_PAGE_FAULT ? w->gpa_of_fault : w->gpa;
    s->fault_error = w->error;
    s->fault_level = (u64)w->level;
    if (by_ept(why)) {
        s->fault_gpa = w->target.gpa;
        s->fault_level = (u64)w->target.level;
        s->fault_error = w->target.rights;
        s->fault_to_page = w->structure_access == 0;
        if (w->structure_access) s->fault_access = (u64)w->structure_access;
    }
    return false;
}

/* The accesses to the page of `va` that break- and watchpoints have to hear of. */
static u64 watched_accesses(const struct simvirt *s, u64 va) {
    u64 accesses = 0;
    for (u64 i = 0; i < s->watch_count; i++) {
        const struct watch *w = &s->watches[i];
        if (w->first >> PAGE_SHIFT <= va >> PAGE_SHIFT && va >> PAGE_SHIFT <= w->last >> PAGE_SHIFT) accesses |= w->accesses;
    }
    return accesses;
}

bool simvirt_fill_hook(void *uc, u64 va, int access, struct tlb_entry *entry, void *data) {
    struct simvirt *s = data;
    (void)uc;
    s->fills++;
    charge(s, WORK_OF_FILL);
    for (int i = 0; i < 3; i++)                                           /* the engine resizes its TLB by the host's clock: never */
        if (s->tlb_window[i]) *(int64_t *)(s->env - s->tlb_window[i]) = 1LL << 62;
    for (u64 i = 0; i < s->override_count; i++)
        if (s->overrides[i].page == va >> PAGE_SHIFT && (access == ACCESS_READ || (access == ACCESS_WRITE && s->overrides[i].writable))) {
            entry->paddr = s->overrides[i].host_page << PAGE_SHIFT;
            entry->perms = s->overrides[i].writable ? GRANT_READ | GRANT_WRITE : GRANT_READ;
            return true;
        }
    enum privilege privilege = CPL(s) == 3 ? USER : SUPERVISOR;
    for (u64 i = 0; i < s->implicit_count; i++)
        if (s->implicit_pages[i] == va >> PAGE_SHIFT) privilege = SUPERVISOR_IMPLICIT;
    struct walk w = {0};
    if (!canonical(s, va)) return refuse(s, REFUSED_NON_CANONICAL, va, access, &w);
    /* The translator reads ahead of what is executed, and how far depends on where a run stops: that must not show in accessed flags.
     * simvirt_run asks again for the instruction that really needs the page. */
    if (access == ACCESS_FETCH && (ENV64(s, s->off_env_cr) & CR0_PG) &&
        (s->count >= s->limit || (s->requested != 1 && ((va ^ linear_pc(s)) & PAGE_MASK))) &&
        page_walk(s, va, access, privilege, 0, &w) && !w.accessed)
        return refuse(s, REFUSED_READ_AHEAD, va, access, &w);
    if (!page_walk(s, va, access, privilege, 1, &w)) {
        if (w.refusal != REFUSED_PAGE_FAULT) return refuse(s, w.refusal, va, access, &w);
        /* At CPL 3 descriptor tables and the TSS are read with supervisor privilege; the engine does not say so. */
        const int supervisor_page = access != ACCESS_FETCH && (w.error & 1) && !(w.error & 8) && !w.user_page;
        return refuse(s, privilege == USER && supervisor_page ? REFUSED_SUPERVISOR_AT_CPL3 : REFUSED_PAGE_FAULT, va, access, &w);
    }
    w.gpa &= s->a20_mask;
    struct target *t = &w.target;
    const enum refusal why = reach(s, w.gpa, access, 1, t);
    if (why == REFUSED_HOLE) {
        if (!s->absent_page || access == ACCESS_FETCH || (s->watch_count && watched_accesses(s, va)))
            return refuse(s, REFUSED_HOLE, va, access, &w);
        entry->paddr = s->absent_page << PAGE_SHIFT;
        entry->perms = w.writable && w.dirty ? GRANT_READ | GRANT_WRITE : GRANT_READ;
        return true;
    }
    if (why) return refuse(s, why, va, access, &w);
    w.executable &= t->executable;
    w.dirty &= t->dirty;
    const u64 host_page = t->host_page;
    u8 *flags = (u8 *)s->page_flags + host_page;
    if (access == ACCESS_WRITE && (*flags & PAGE_WATCHED)) return refuse(s, REFUSED_WATCHED_WRITE, va, access, &w);
    u64 watched = s->watch_count && !s->watches_open ? watched_accesses(s, va) : 0;
    if (watched & (access == ACCESS_WRITE ? GRANT_WRITE : access == ACCESS_READ ? GRANT_READ : 0))
        return refuse(s, REFUSED_WATCHED_DATA, va, access, &w);
    const int writing = s->alias_writes != 0;
    if (access == ACCESS_WRITE && (*flags & PAGE_EXECUTED) && !w.executable && !writing)
        return refuse(s, REFUSED_EXECUTED_ALIAS, va, access, &w);
    if (access == ACCESS_FETCH) {
        if (!(*flags & PAGE_EXECUTED)) {
            *flags |= PAGE_EXECUTED;
            flush_tlb(s);                 /* entries granted without execute write past the engine's check for modified code */
        }
    }
    if (access == ACCESS_WRITE) *flags |= PAGE_DIRTY;
    u32 grant = GRANT_READ;
    if ((*flags & PAGE_EXECUTED) && w.executable) grant |= GRANT_EXECUTE;
    if (w.writable && w.dirty && t->writable && (*flags & PAGE_DIRTY) && !(*flags & PAGE_WATCHED) &&
        (!(*flags & PAGE_EXECUTED) || w.executable || writing))
        grant |= GRANT_WRITE;
    entry->paddr = host_page << PAGE_SHIFT;
    entry->perms = grant & ~(u32)watched;
    return true;
}

/* What answers where nothing is: a device of the engine's, behind `absent_page`. */
u64 simvirt_absent_read(void *uc, u64 offset, unsigned size, void *data) { (void)uc, (void)offset, (void)size, (void)data; return ~0ULL; }
void simvirt_absent_write(void *uc, u64 offset, unsigned size, u64 value, void *data) { (void)uc, (void)offset, (void)size, (void)value, (void)data; }

/* ------------------------------------------------------------------------------------------------ the counter */

static struct block *jump_cache_entry(struct simvirt *s, u64 pc, u64 **slot) {
    const u64 t = pc ^ (pc >> 6);
    *slot = (u64 *)(s->cpu + s->off_cpu_jump_cache) + (((t >> 6) & 0xfc0) | (t & 63));
    return (struct block *)**slot;
}

static int is_block(const struct simvirt *s, const struct block *b, u64 pc, u32 size) {
    return b && b->pc == pc && b->size == size && !(b->cflags & CF_INVALID) &&
           !((b->flags ^ ENV32(s, s->off_env_hflags)) & HF_CODE_SIZE_MASK);
}

/* The translated block that is about to run: the engine's own record of it, so that its count can never be stale. */
static struct block *find_block(struct simvirt *s, u64 pc, u32 size) {
    u64 *slot;
    struct block *b = jump_cache_entry(s, pc, &slot);
    if (is_block(s, b, pc, size)) return b;
    s->cache_misses++;
    struct { u64 pc; u16 icount, size; } out;
    if (((ctl_fn)s->ctl)((void *)s->uc, UC_CTL(UC_CTL_TB_REQUEST_CACHE, 2, UC_CTL_IO_READ_WRITE), pc, &out) != UC_OK) return NULL;
    b = (struct block *)*slot;
    return is_block(s, b, pc, size) ? b : NULL;
}

/* How many instructions of the block lie before linear address pc; -1 when no instruction starts there. The block's end counts as
 * one past its last. Each record of the search data holds differences of pc, cc_op and host address. */
static int index_in_block(const struct block *b, u64 pc, u64 *length) {
    const u8 *p = (const u8 *)(b->code + b->code_size);
    u64 at = b->pc;
    int found = -1;
    for (int i = 0; i < b->icount; i++) {
        at += (u64)sleb128(&p);
        sleb128(&p);
        sleb128(&p);
        if (found >= 0) { *length = at - pc; return found; }
        if (at == pc) found = i;
    }
    if (found >= 0) { *length = b->pc + b->size - pc; return found; }
    *length = 0;
    return pc == b->pc + b->size ? b->icount : -1;
}

/* Translated blocks count `remaining` down; `count` is brought up to date whenever somebody looks. */
static void settle_count(struct simvirt *s) {
    s->count += (u64)(s->granted - s->remaining);
    s->granted = s->remaining;
}

/* Let blocks run without a look up to the one that reaches the limit or the slice's end; none when every block has to be looked at. */
static void grant(struct simvirt *s) {
    const u64 end = s->limit < s->slice ? s->limit : s->slice;
    s->remaining = s->granted = s->stopping || s->requested ? -1 : (int64_t)(end - s->count) - 1;
}

static void charge(struct simvirt *s, u64 work) {
    if (s->alias_writes) return;             /* the slice is one instruction */
    settle_count(s);
    s->slice = s->slice > s->count + work ? s->slice - work : s->count;
    grant(s);
}

static void stop(struct simvirt *s) {
    settle_count(s);
    s->stopping = 1;
    grant(s);
    ((emu_stop_fn)s->emu_stop)((void *)s->uc);
}

/* The instruction at pc, in the block that runs, has not been executed: what is counted ends in front of it. */
static void uncount_from(struct simvirt *s, u64 pc) {
    settle_count(s);
    s->instruction_length = 0;
    if (!s->current) return;
    const struct block *b = s->met_in = s->blocks[s->current];
    const int index = index_in_block(b, pc, &s->instruction_length);
    if (index >= 0) s->count = s->count - b->icount + (u64)index;
    s->current = 0;
}

/* The engine leaves its loop when the block that is about to run is done, as if that were a HLT: the next block is not looked for, and
 * not translated, nor are accessed flags set on its behalf. (An engine that has been asked to stop would skip its hooks in this block.) */
static void leave_after_block(struct simvirt *s) {
    *(u32 *)(s->cpu + s->off_cpu_exception_index) = EXCP_HLT;
    *(u8 *)(s->cpu + s->off_cpu_exit_request) = 1;
}

/* The block that is about to run is too long: its first `n` instructions run as a block of their own. The engine's loop is left by its own
 * way out, and begins again there. */
static void run_part(struct simvirt *s, const struct block *b, u64 n) {
    ENV64(s, s->off_env_eip) = b->pc - b->cs_base;
    s->current = 0;
    s->requested = n;
    grant(s);
    *(u32 *)(s->cpu + s->off_cpu_cflags_next) = (u32)n;
    ((void (*)(void *))s->leave_loop)((void *)s->cpu);
}

/* ------------------------------------------------------------------------------------------------ special instructions */

/* Does the block run through without anything that has to be looked at (special.c)? Each block is searched once; when what is looked for
 * changes, the translations go. */
static int is_plain(struct simvirt *s, const struct block *b) {
    u64 before;
    if (!(b->cflags & CF_CHECKED))
        ((struct block *)b)->cflags |= CF_CHECKED | (first_special(s, b, 0, &before) ? CF_SPECIAL : 0);
    return !(b->cflags & CF_SPECIAL);
}

static const enum event EVENT_OF[] = {
    [BREAKPOINT] = EVENT_BREAKPOINT, [FAR_TRANSFER] = EVENT_INSTRUCTION, [STI_AGAIN] = EVENT_INSTRUCTION, [ALIGNMENT] = EVENT_ALIGNMENT,
    [STRING_LENGTH] = EVENT_STRING_LENGTH, [EXACT] = EVENT_INSTRUCTION, [STRING_IO] = EVENT_INSTRUCTION,
    [FLOATING] = EVENT_FLOATING, [X87_STATUS] = EVENT_FLOATING, [X87_CONTROL] = EVENT_FLOATING,
};

/* Stop in front of a special instruction, which begins a block. */
static void meet_special(struct simvirt *s, const struct block *b, enum special what) {
    s->met_in = b;
    index_in_block(b, b->pc, &s->instruction_length);
    if (what == UNDEFINED) s->event = EVENT_SVM_EXIT, s->code = 0x100 + SVM_EXCEPTION + 6;
    else s->event = EVENT_OF[what];
    stop(s);
}

static void count_block(struct simvirt *s, const struct block *b, u32 number) {
    settle_count(s);
    if (b->cflags & CF_COUNT_MASK) {
        /* A block of limited length runs either because simvirt_run asked for it or because the block before it overwrote its own
         * code and was cut off there. Nothing else may find it, so it leaves the jump cache. */
        u64 *slot;
        if (jump_cache_entry(s, b->pc, &slot) == b) *slot = 0;
        if (!s->requested && s->current) {
            uncount_from(s, b->pc);
            s->modified_blocks++;
        }
    }
    s->requested = 0;
    const u64 n = s->count + b->icount;
    if (s->count >= s->limit || s->count >= s->slice) {
        s->event = s->count >= s->limit ? EVENT_LIMIT : EVENT_SLICE;
        stop(s);
        return;
    }
    if (n > s->limit) run_part(s, b, s->limit - s->count);
    if (b->flags & HF_INHIBIT_IRQ) note_shadow(s);
    if (!is_plain(s, b)) {
        u64 before;
        enum special what = first_special(s, b, 1, &before);
        if (what == BREAKPOINT && !before && is_repeating(s)) {
            s->passed_pc = b->pc, s->passed_count = s->count;
            what = first_special(s, b, 1, &before);
        }
        s->aligned = s->port_checked = s->floating_passed = 0;
        if (what && before) run_part(s, b, before);
        if (what) {
            s->current = 0;
            meet_special(s, b, what);
            return;
        }
    }
    /* RF lasts for one instruction, the engine clears it at the end of a block. No instruction can see it, so it goes as the first one
     * begins; blocks that begin with RF are translations of their own and always come here. */
    if (b->flags & EFLAGS_RF) ENV64(s, s->off_env_eflags) &= ~EFLAGS_RF;
    s->blocks[number] = b;
    s->current = number;
    s->count = n;
    if (n == s->limit) leave_after_block(s);
    /* Behind the one instruction of a shadow an interrupt may be due. Behind RET and indirect branches the engine does not look for it. */
    if (s->window_wanted && b->flags & HF_INHIBIT_IRQ) s->slice = n;
    grant(s);
}

enum { UNNUMBERED = 1, FIRST_NUMBER = 2 };                                /* block numbers; 0 is none */

void simvirt_block_hook(void *uc, u64 pc, u32 size, void *data) {
    struct simvirt *s = data;
    (void)uc;
    if (s->stopping) return;
    const struct block *b = find_block(s, pc, size);
    if (b) {
        count_block(s, b, UNNUMBERED);
    } else {
        s->event = EVENT_ENGINE_ERROR;
        s->engine_status = 1000;
        stop(s);
    }
}

/* Every translated block begins with a call of block_hook and a look for a request to stop:
 *
 *     load rdi, uc; load rsi, pc; load rdx, size; load rcx, s; call block_hook
 *     load rdi, uc; xor esi, esi; call check_exit_request
 *
 * where a load of a constant has one of several forms. When a block has just been translated and before it runs, the first line is
 * replaced by an inline count, which skips both lines while instructions remain:
 *
 *     load rcx, &s->remaining; sub qword [rcx], icount; jl slow; mov dword [rcx + 8], number; jmp behind both lines
 *     slow: call block_due; nop...
 *
 * A call site that does not look exactly like this, on another host or in another version, stays as it is: that costs speed alone. */
#if defined(__x86_64__)
enum { RDI = 7, RSI = 6, RDX = 2, RCX = 1, SEARCHED = 32, LONGEST = 80, COUNT_BYTES = 15, NUMBER_BEFORE_CALL = 6, NEAR_CALL = 0xe8 };

static __attribute__((used)) void block_due(u64 a, u64 b, u64 c, int64_t *remaining) {
    (void)a, (void)b, (void)c;
    struct simvirt *s = (struct simvirt *)((u8 *)remaining - offsetof(struct simvirt, remaining));
    u32 number;
    const u8 *after = __builtin_return_address(0);
    const u8 *call = after[-5] == NEAR_CALL ? after - 5 : after - 6;
    memcpy(&number, call - NUMBER_BEFORE_CALL, sizeof number);
    const struct block *block = s->blocks[number];
    *remaining += block->icount;
    if (!s->stopping) count_block(s, block, number);
}

static int fits(int64_t distance) { return distance == (int32_t)distance; }

static int32_t displacement(const u8 *at) {
    int32_t value;
    memcpy(&value, at, 4);
    return value;
}

/* Steps over an instruction that loads `wanted` into a register; NULL if there is none. */
static const u8 *after_load(const u8 *at, int reg, u64 wanted) {
    u64 value;
    if (!at) return NULL;
    if (at[0] == 0xb8 + reg) {                                            /* mov r32, imm32 */
        value = (u32)displacement(at + 1), at += 5;
    } else if (at[0] == 0x48 && at[1] == 0xc7 && at[2] == 0xc0 + reg) {     /* mov r64, imm32 */
        value = (u64)(int64_t)displacement(at + 3), at += 7;
    } else if (at[0] == 0x48 && at[1] == 0x8d && at[2] == (5 | reg << 3)) { /* lea r64, [rip + disp32] */
        value = (u64)(at + 7) + (u64)(int64_t)displacement(at + 3), at += 7;
    } else if (at[0] == 0x48 && at[1] == 0xb8 + reg) {                      /* mov r64, imm64 */
        memcpy(&value, at + 2, 8), at += 10;
    } else {
        return NULL;
    }
    return value == wanted ? at : NULL;
}

/* Steps over a call, of `function` unless that is NULL: a near one, or one through a constant behind the block's code. */
static const u8 *after_call(const u8 *at, const void *function) {
    const u8 *target;
    if (!at) return NULL;
    if (at[0] == NEAR_CALL) {
        target = at + 5 + displacement(at + 1), at += 5;
    } else if (at[0] == 0xff && at[1] == 0x15) {
        memcpy(&target, at + 6 + displacement(at + 2), sizeof target), at += 6;
    } else {
        return NULL;
    }
    return !function || target == (const u8 *)function ? at : NULL;
}

static u8 *put(u8 *to, const void *bytes, size_t n) { return (u8 *)memcpy(to, bytes, n) + n; }

static void count_in_line(struct simvirt *s, const struct block *b) {
    if (!is_plain(s, b) || b->icount > 127 || b->cflags & CF_COUNT_MASK || b->flags & (EFLAGS_RF | HF_INHIBIT_IRQ) || b->code_size < SEARCHED + LONGEST) return;
    u8 *at = (u8 *)b->code;
    const u8 *first = NULL, *behind = NULL;
    for (const u8 *end = at + SEARCHED; at < end; at++) {
        first = after_load(after_load(after_load(after_load(at, RDI, s->uc), RSI, b->pc), RDX, b->size), RCX, (u64)s);
        if ((first = after_call(first, (const void *)simvirt_block_hook))) break;
    }
    const u8 *check = after_load(first, RDI, s->uc);
    if (!check || check[0] != 0x33 || check[1] != 0xf6 || !(behind = after_call(check + 2, NULL))) return;

    const u64 remaining = (u64)&s->remaining;
    const int64_t near = (int64_t)(remaining - (u64)(at + 7));
    const int load = fits(near) ? 7 : 10;
    u8 *const slow = at + load + COUNT_BYTES;
    const int64_t due = (const u8 *)block_due - (slow + 5);
    u8 *const constant = first[-5] == NEAR_CALL ? NULL : (u8 *)first + displacement(first - 4);   /* that of the far call */
    if (!fits(due) && !constant) return;
    const int64_t due_constant = constant - (slow + 6);
    if (slow + (fits(due) ? 5 : 6) > first) return;
    if (s->next_block < FIRST_NUMBER || s->next_block >= MAX_BLOCKS) s->next_block = FIRST_NUMBER;
    const u32 number = s->next_block++;
    const int32_t near32 = (int32_t)near, due32 = (int32_t)(fits(due) ? due : due_constant);
    const void *const handler = (const void *)block_due;
    const u8 icount = (u8)b->icount, skip = (u8)(behind - slow);
    at = load == 7 ? put(put(at, "\x48\x8d\x0d", 3), &near32, 4) : put(put(at, "\x48\xb9", 2), &remaining, 8);
    at = put(put(at, "\x48\x83\x29", 3), &icount, 1);
    at = put(put(put(at, "\x7c\x09", 2), "\xc7\x41\x08", 3), &number, 4);
    at = put(put(at, "\xeb", 1), &skip, 1);
    if (!fits(due)) memcpy(constant, &handler, sizeof handler);
    at = put(fits(due) ? put(at, "\xe8", 1) : put(at, "\xff\x15", 2), &due32, 4);
    memset(at, 0x90, (size_t)(first - at));
    s->blocks[number] = b;
    s->inlined_blocks++;
}
#else
static void count_in_line(struct simvirt *s, const struct block *b) { (void)s, (void)b; }
#endif

struct translated { u64 pc; u16 icount, size; };

void simvirt_edge_hook(void *uc, const struct translated *now, const struct translated *before, void *data) {
    struct simvirt *s = data;
    (void)uc, (void)before;
    charge(s, WORK_OF_TRANSLATION);
    u64 *slot;
    const struct block *b = jump_cache_entry(s, now->pc, &slot);
    if (b && b->pc == now->pc && b->size == now->size && b->icount == now->icount) count_in_line(s, b);
}

/* ------------------------------------------------------------------------------------------------ code bytes */

static void fetch_bytes(struct simvirt *s) {
    const enum privilege privilege = CPL(s) == 3 ? USER : SUPERVISOR;
    const u64 pc = linear_pc(s);
    struct walk w;
    u64 n = 0;
    while (n < 15) {
        u64 va = pc + n, room = PAGE_SIZE - (va & ~PAGE_MASK);
        const u8 *p = translated_from(s, s->met_in, va);
        if (!p) {
            if (!canonical(s, va) || !page_walk(s, va, ACCESS_FETCH, privilege, 0, &w)) break;
            p = physical(s, w.gpa, 0);
        }
        if (!p) break;
        if (room > 15 - n) room = 15 - n;
        memcpy(s->bytes + n, p, room);
        n += room;
    }
    s->byte_count = n;
}

/* ------------------------------------------------------------------------------------------------ native delivery
 * Exceptions and software interrupts that whoever runs the processor has no say in (`deliverable`) go straight to the guest's handler. */

#define EFLAGS_VM (1ULL << 17)
#define ERROR_CODE_VECTORS 0x00227d00U                                    /* #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP */
#define DELIVER_SOFTWARE_INTERRUPTS (1ULL << 32)
enum { UNDEFINED_OPCODE = 6, PAGE_FAULT = 14, INT1 = 0xf1 };

const u8 *opcode(const struct simvirt *s) {
    const int code_64 = (ENV32(s, s->off_env_hflags) & HF_CS64) != 0;
    const u8 *op = s->bytes;
    while (op < s->bytes + s->byte_count && is_prefix(*op, code_64)) op++;
    return op;
}

static int delivered(struct simvirt *s, const struct interruption *what) {
    if (s->alias_writes || !deliver(s, what)) return 0;
    s->met_in = NULL;
    charge(s, WORK_OF_DELIVERY);
    return 1;
}

/* INT n, INT3 and INTO return behind the instruction, which is counted with its delivery. */
static int deliver_software_interrupt(struct simvirt *s) {
    if (!(s->deliverable & DELIVER_SOFTWARE_INTERRUPTS) || !s->instruction_length) return 0;
    fetch_bytes(s);
    const u8 *op = opcode(s);
    const u64 eflags = ENV64(s, s->off_env_eflags), after = ENV64(s, s->off_env_eip) + s->instruction_length;
    if (op + 2 > s->bytes + s->byte_count || (*op == 0xcd && eflags & EFLAGS_VM && (eflags >> 12 & 3) < 3)) return 0;
    const u64 vector = *op == 0xcd ? op[1] : *op == 0xcc ? 3 : 4;
    const struct interruption what = {
        .vector = vector, .source = SOURCE_SOFTWARE,
        .return_rip = ENV32(s, s->off_env_hflags) & HF_CS64 ? after : (u32)after,
    };
    if (!delivered(s, &what)) return 0;
    s->count++;
    return 1;
}

static int deliver_exception(struct simvirt *s, u32 vector) {
    if (vector >= 32 || vector == PAGE_FAULT || !(s->deliverable >> vector & 1)) return 0;
    if (vector == UNDEFINED_OPCODE) {          /* INT1 arrives like that, too */
        fetch_bytes(s);
        if (*opcode(s) == INT1) return 0;
    }
    const struct interruption what = {
        .vector = vector, .source = SOURCE_EXCEPTION, .return_rip = ENV64(s, s->off_env_eip),
        .error_code = ENV32(s, s->off_env_error_code) & 0xffff, .has_error_code = ERROR_CODE_VECTORS >> vector & 1,
    };
    return delivered(s, &what);
}

static int deliver_svm_exit(struct simvirt *s) {
    const u32 code = (u32)s->code - 0x100;
    if (s->delivery_tried) return 0;
    s->delivery_tried = 1;
    return code == SVM_SOFTWARE_INTERRUPT ? deliver_software_interrupt(s) : deliver_exception(s, code - SVM_EXCEPTION);
}

/* Instructions that read descriptor tables and the TSS as supervisor at any CPL, by their first opcode byte: whether the program or the
 * processor has met the page fault is for `Cpu._page_fault` to find out. */
static int may_read_descriptors(u8 op) {
    switch (op) {
    case 0x07: case 0x0f: case 0x17: case 0x1f: case 0x8e: case 0x9a: case 0xc4: case 0xc5: case 0xca: case 0xcb: case 0xcf: case 0xea:
    case 0xff: return 1;
    default: return 0;
    }
}

static int deliver_page_fault(struct simvirt *s) {
    if (!(s->deliverable >> PAGE_FAULT & 1) || (s->refusal != REFUSED_PAGE_FAULT && s->refusal != REFUSED_SUPERVISOR_AT_CPL3)) return 0;
    if (s->fault_access != ACCESS_FETCH && CPL(s) == 3) {
        fetch_bytes(s);
        const u8 *op = opcode(s);
        if (op == s->bytes + s->byte_count || may_read_descriptors(*op)) return 0;
    }
    const struct interruption what = {
        .vector = PAGE_FAULT, .source = SOURCE_EXCEPTION, .return_rip = ENV64(s, s->off_env_eip),
        .error_code = s->fault_error, .has_error_code = 1, .cr2 = s->fault_address, .has_cr2 = 1,
    };
    return delivered(s, &what);
}

/* ------------------------------------------------------------------------------------------------ exits */

enum { SVM_MOV_TO_CR3 = 0x13, SVM_VINTR = 0x64, SVM_RDTSC = 0x6e, SVM_CPUID = 0x72, SVM_PAUSE = 0x77 };
#define CPU_INTERRUPT_VIRQ 0x100U
#define CR4_TSD (1ULL << 2)
#define DR6_BS (1U << 14)
#define DR7_ARMED 0x20ffULL                                               /* L0 to G3, GD */

static int cpuid_native(struct simvirt *s) {
    const u64 leaf = (u32)ENV64(s, 0), subleaf = (u32)ENV64(s, 8);
    for (u64 i = 0; i < s->cpuid_count; i++) {
        const struct cpuid_entry *e = &s->cpuid[i];
        if (e->leaf != leaf || !(e->any_subleaf || e->subleaf == subleaf)) continue;
        ENV64(s, 0) = e->eax, ENV64(s, 24) = e->ebx, ENV64(s, 8) = e->ecx, ENV64(s, 16) = e->edx;
        return 1;
    }
    return 0;
}

/* MOV to CR3 that faults in nothing (SDM Vol. 2B "MOV to CR"); what does not is `completion.write_control_register`'s. */
static int mov_to_cr3(struct simvirt *s) {
    fetch_bytes(s);
    const u8 *op = opcode(s), *end = s->bytes + s->byte_count;
    const int code_64 = (ENV32(s, s->off_env_hflags) & HF_CS64) != 0, lma = (ENV64(s, s->off_env_efer) & EFER_LMA) != 0;
    if (op + 3 > end || op[0] != 0x0f || op[1] != 0x22) return 0;
    const u64 rex_b = code_64 && op > s->bytes && (op[-1] & 0xf0) == 0x40 ? op[-1] & 1 : 0;
    u64 value = ENV64(s, 8 * ((op[2] & 7) | rex_b << 3));
    struct walk w = {0};
    if (!code_64) value = (u32)value;
    if (lma && value >> s->max_physical_bits) return 0;
    if (!lma && (ENV64(s, s->off_env_cr) & CR0_PG) && (ENV64(s, s->off_env_cr + 32) & CR4_PAE) && load_pdptes(s, value, &w)) return 0;
    ENV64(s, s->off_env_cr + 24) = value;
    flush_tlb(s);
    return 1;
}

static int handled_natively(struct simvirt *s, u32 code) {
    if (ENV64(s, s->off_env_eflags) & EFLAGS_TF || !s->instruction_length) return 0;
    if (code == SVM_CPUID && s->cpuid_native) {
        if (!cpuid_native(s)) return 0;
    } else if (code == SVM_RDTSC && s->tsc_native && (s->instruction_length == 2 || s->rdtscp_native)) {  /* RDTSCP has three bytes */
        if ((ENV64(s, s->off_env_cr + 32) & CR4_TSD) && CPL(s)) return 0;
        const u64 tsc = s->count + s->tsc_base;
        ENV64(s, 0) = (u32)tsc, ENV64(s, 16) = tsc >> 32;
        if (s->instruction_length != 2) ENV64(s, 8) = ENV32(s, s->off_env_tsc_aux);
    } else if (code == SVM_MOV_TO_CR3 && s->cr3_native) {
        if (!mov_to_cr3(s)) return 0;
    } else if (code != SVM_PAUSE || !s->pause_native) {
        return 0;
    }
    ENV64(s, s->off_env_eip) += s->instruction_length;
    ENV32(s, s->off_env_hflags) &= ~HF_INHIBIT_IRQ;
    ENV64(s, s->off_env_eflags) &= ~EFLAGS_RF;
    s->count++;
    s->native_exits++;
    s->met_in = NULL;
    return 1;
}

void simvirt_interrupt_hook(void *uc, u32 number, void *data) {
    struct simvirt *s = data;
    (void)uc;
    const u32 code = number - 0x100;
    if (s->event == EVENT_SYSTEM_CALL) {   /* a single step's trap behind it, which has not happened yet */
        memcpy((void *)(s->env + s->off_env_dr), s->saved_dr, sizeof s->saved_dr);
        return;
    }
    if (s->io_pending) {                   /* the debug exception that in_hook or out_hook provoked */
        const u64 after = ENV64(s, s->off_env_eip);
        memcpy((void *)s->env, s->saved_registers, sizeof s->saved_registers);
        memcpy((void *)(s->env + s->off_env_dr), s->saved_dr, sizeof s->saved_dr);
        s->io_pending = 0;
        const u64 base = linear_pc(s) - after;
        const struct block *b = s->current ? s->blocks[s->current] : NULL;
        u64 at = 0, length = 0;
        if (b) {                           /* find the instruction that ends here */
            const u8 *p = (const u8 *)(b->code + b->code_size);
            u64 pc = b->pc, end = base + after;
            for (int i = 0; i < b->icount; i++) {
                pc += (u64)sleb128(&p);
                sleb128(&p);
                sleb128(&p);
                if (pc < end) at = pc;
            }
        }
        uncount_from(s, at);
        length = s->instruction_length;
        ENV64(s, s->off_env_eip) = after - length;
        s->event = EVENT_IO;
        stop(s);
        return;
    }
    if (code == SVM_VINTR) {
        *(u32 *)(s->cpu + s->off_cpu_interrupt_request) &= ~CPU_INTERRUPT_VIRQ;
    } else {
        /* The debug exception of a single step is a trap: its instruction has been executed, wherever that led, to itself perhaps. */
        if (code == SVM_EXCEPTION + 1) {   /* the engine has changed DR6, and has seen no other condition than BS */
            ENV64(s, s->off_env_dr + 48) = s->dr6_before;
            s->debug_condition = DR6_BS;
        }
        if (code == SVM_EXCEPTION + 1 && s->current && (s->blocks[s->current]->flags & EFLAGS_TF)) {
            settle_count(s);
            s->current = 0;
            s->instruction_length = 0;
        } else {
            uncount_from(s, linear_pc(s));
        }
        if (handled_natively(s, code)) return;
    }
    s->code = number;
    if (!s->stopping && !s->alone && deliver_svm_exit(s)) {
        s->delivery_tried = 0;
        if (s->count < s->limit) return;
        s->event = EVENT_LIMIT;
    } else {
        s->event = EVENT_SVM_EXIT;
    }
    stop(s);
}

static void io_exit(struct simvirt *s, u32 port, int size, int is_out, u32 value) {
    memcpy(s->saved_registers, (void *)s->env, sizeof s->saved_registers);
    memcpy(s->saved_dr, (void *)(s->env + s->off_env_dr), sizeof s->saved_dr);
    s->io_port = port, s->io_size = (u64)size, s->io_is_out = (u64)is_out, s->io_value = value;
    s->io_pending = 1;
    u64 *dr = (u64 *)(s->env + s->off_env_dr);
    dr[0] = port;
    dr[7] = 0x400 | 2 | (2U << 16);        /* G0, R/W0 = I/O, LEN0 = 1: the break comes right behind the instruction */
}

u32 simvirt_in_hook(void *uc, u32 port, int size, void *data) {
    (void)uc;
    io_exit(data, port, size, 0, 0);
    return 0;
}

void simvirt_out_hook(void *uc, u32 port, int size, u32 value, void *data) {
    (void)uc;
    if (!ends_ordered(data, port, size, value)) io_exit(data, port, size, 1, value);
}

static void system_call(struct simvirt *s, u64 which) {
    s->system_call = which;
    memcpy(s->saved_dr, (void *)(s->env + s->off_env_dr), sizeof s->saved_dr);
    s->event = EVENT_SYSTEM_CALL;
    uncount_from(s, linear_pc(s));
    stop(s);
}

void simvirt_syscall_hook(void *uc, void *data) { (void)uc; system_call(data, 1); }
void simvirt_sysenter_hook(void *uc, void *data) { (void)uc; system_call(data, 2); }

bool simvirt_invalid_hook(void *uc, void *data) {                          /* never reached while #UD is intercepted */
    struct simvirt *s = data;
    (void)uc;
    s->event = EVENT_SVM_EXIT;
    s->code = 0x100 + SVM_EXCEPTION + 6;
    uncount_from(s, linear_pc(s));
    stop(s);
    return true;
}

/* ------------------------------------------------------------------------------------------------ running */

/* EFLAGS in one piece, out of the engine's lazy form, so that a state image means the same to everybody. The engine takes it from there
 * when it starts. */
static void settle_flags(struct simvirt *s) {
    const u64 flags = flags_in_one_piece(s);
    ENV64(s, s->off_env_eflags) = flags;
    ENV32(s, s->off_env_df) = flags & 0x400 ? ~0U : 1;
    ENV64(s, s->off_env_cc_src) = flags & 0x8d5;
    ENV64(s, s->off_env_cc_src - 8) = 0;
    ENV64(s, s->off_env_cc_src + 8) = 0;
    ENV32(s, s->off_env_cc_op) = 1;
}

/* Unicorn's translator calls abort() over some invalid instructions (LOCK BTS of a register: it uses an address that it has not
 * computed). abort() raises SIGABRT and may be left by a jump, and the engine's own way out of its loop is one: it is the way that a
 * page fault of the translator takes. What else aborts, aborts. */
#ifndef _WIN32
static __thread struct simvirt *running;
static struct sigaction before_us;

static void aborted(int number, siginfo_t *info, void *context) {
    struct simvirt *s = running;
    if (s) {
        s->aborted = 1;
        stop(s);
        ((void (*)(void *))s->leave_loop)((void *)s->cpu);
    }
    if (before_us.sa_flags & SA_SIGINFO) before_us.sa_sigaction(number, info, context);
    else if (before_us.sa_handler != SIG_DFL && before_us.sa_handler != SIG_IGN) before_us.sa_handler(number);
}

void simvirt_survive_aborts(void) {
    struct sigaction ours = {.sa_sigaction = aborted, .sa_flags = SA_SIGINFO | SA_NODEFER}, now;
    sigaction(SIGABRT, NULL, &now);
    if (now.sa_flags & SA_SIGINFO && now.sa_sigaction == aborted) return;
    before_us = now;
    sigaction(SIGABRT, &ours, NULL);
}
#else
static struct simvirt *running;
void simvirt_survive_aborts(void) {}
#endif

enum { NEAR = 8 };

/* A block that will not be run to its end is not worth translating whole: near the limit, and while refusals come in a row. */
static u64 first_step(const struct simvirt *s) {
    return s->limit - s->count <= NEAR ? s->limit - s->count : s->count - s->refused_at <= 2 ? NEAR : 0;
}

/* Runs until an event, the slice's end, or until exactly `limit` instructions are counted; the engine's state is then whole. */
static void run_to_event(struct simvirt *s) {
    u64 slice = s->slice, alias_count = ~0ULL, step = first_step(s);
    const u64 *dr = (const u64 *)(s->env + s->off_env_dr);
    if (((dr[7] | s->followed_dr[4]) & DR7_ARMED) && (memcmp(dr, s->followed_dr, 32) || dr[7] != s->followed_dr[4]))
        { s->event = EVENT_DEBUG_REGISTERS; return; }
    s->dr6_before = dr[6];
    s->debug_condition = 0;
    u32 *pending = (u32 *)(s->cpu + s->off_cpu_interrupt_request), *next = (u32 *)(s->cpu + s->off_cpu_cflags_next);
    for (int idle = 0; idle < 64; idle++) {
        const u64 before = s->count;
        if (s->count >= s->limit) { s->event = EVENT_LIMIT; break; }
        if (s->count >= s->slice) { s->event = EVENT_SLICE; break; }
        s->event = EVENT_NONE, s->refusal = REFUSED_NOTHING, s->fault_to_page = 1, s->stopping = 0, s->current = 0, s->io_pending = 0;
        s->met_in = NULL, s->aborted = 0;
        s->instruction_length = 0;
        if (s->window_wanted) *pending |= CPU_INTERRUPT_VIRQ; else *pending &= ~CPU_INTERRUPT_VIRQ;
        s->requested = step, s->alone = step == 1, s->delivery_tried = 0;
        grant(s);
        *next = step ? (u32)step : ~0U;
        *(u8 *)(s->cpu + s->off_cpu_exit_request) = 0;
        s->entries++;
        charge(s, WORK_OF_ENTRY);
        const u64 pc_before = linear_pc(s);
        running = s;
        const int status = ((emu_start_fn)s->emu_start)((void *)s->uc, ENV64(s, s->off_env_eip), 0, 0, 0);
        running = NULL;
        *next = ~0U;
        if (!(ENV32(s, s->off_env_hflags) & HF_CS64))                     /* a near branch leaves the sign of EIP in the upper half */
            ENV64(s, s->off_env_eip) = (u32)ENV64(s, s->off_env_eip);
        settle_count(s);
        const int stepped = step == 1 && s->count == before;              /* and not yet past that one instruction */
        const int alone = step == 1;
        step = 0;
        if (s->aborted) {
            /* Which instruction it was shows when it is translated alone. One that is not executed at all is undefined. */
            if (alone && linear_pc(s) == pc_before) {
                if (s->current) s->event = EVENT_ENGINE_ERROR, s->engine_status = 1002;
                else s->event = EVENT_SVM_EXIT, s->code = 0x100 + SVM_EXCEPTION + 6;
                break;
            }
            step = 1, idle = 0;
            continue;
        }
        const int was_writing = s->alias_writes != 0;
        if (was_writing) {
            s->alias_writes = 0;
            s->slice = slice;
            flush_translations(s);
            flush_tlb(s);
            if (s->event == EVENT_SLICE && status == UC_OK) { idle = 0; continue; }
        }
        if (s->event != EVENT_ENGINE_ERROR) s->engine_status = (u64)status;
        if (status == UC_ERR_EXCEPTION && s->refusal) {
            s->fault_address = (s->fault_address & PAGE_MASK) | (*(u64 *)(s->uc + s->off_uc_bad_address) & ~PAGE_MASK);
            const u64 pc = linear_pc(s);
            if (s->fault_access == ACCESS_FETCH) {
                /* The translator reads ahead: unless the instruction at EIP itself needs the page, run up to it first. */
                if (!stepped && (pc & PAGE_MASK) != (s->fault_address & PAGE_MASK)) { step = 1; idle = 0; continue; }
                if (s->count >= s->limit) { s->event = EVENT_LIMIT; break; }
                s->fault_address = (pc & PAGE_MASK) == (s->fault_address & PAGE_MASK) ? pc : s->fault_address & PAGE_MASK;
                s->current = 0;
                if (s->count >= s->limit) { s->event = EVENT_LIMIT; break; }  /* the fault belongs to the next instruction */
            } else {
                uncount_from(s, pc);
            }
            if (s->refusal != REFUSED_PAGE_FAULT && s->refusal != REFUSED_SUPERVISOR_AT_CPL3 && s->fault_to_page)
                s->fault_gpa = (s->fault_gpa & PAGE_MASK) | (s->fault_address & ~PAGE_MASK);
            if (s->refusal == REFUSED_EXECUTED_ALIAS) {
                /* Nothing in that page has been executed any more, until the next fetch from it. When the very instruction that writes
                 * lies there, that would go on for ever: then it runs alone and may write, and its translation goes afterwards. */
                const u8 *p = physical(s, s->fault_gpa, 1);
                if (s->count > before) idle = 0;
                if (alias_count == s->count) {
                    s->alias_writes = 1;
                    slice = s->slice;
                    s->slice = s->count + 1;
                    step = 1;
                } else if (p) {
                    ((u8 *)s->page_flags)[(u64)(p - (u8 *)s->ram) >> PAGE_SHIFT] &= (u8)~PAGE_EXECUTED;
                }
                alias_count = s->count;
                flush_translations(s);
                flush_tlb(s);
                continue;
            }
            if (deliver_page_fault(s)) { step = first_step(s), idle = 0; continue; }
            s->event = EVENT_REFUSED_FILL;
            s->refused_at = s->count;
            break;
        }
        if (status != UC_OK) { s->event = EVENT_ENGINE_ERROR; break; }
        if (s->event == EVENT_SYSTEM_CALL) ENV64(s, s->off_env_eip) -= s->instruction_length;   /* the engine has stepped over it */
        if (s->event == EVENT_SVM_EXIT && deliver_svm_exit(s)) { step = first_step(s), idle = 0; continue; }
        if (s->event == EVENT_INSTRUCTION) {
            fetch_bytes(s);
            if (iret_to_null_stack(s)) { step = first_step(s), idle = 0; continue; }
        }
        if (s->event != EVENT_NONE) break;
        if (s->count > before) idle = 0;   /* the engine left without a reason of ours, its code buffer full: go on */
    }
    if (s->event == EVENT_NONE) s->event = EVENT_ENGINE_ERROR, s->engine_status = 1001;
    *pending &= ~CPU_INTERRUPT_VIRQ;
    if (ENV32(s, s->off_env_hflags) & HF_INHIBIT_IRQ) note_shadow(s);
    settle_flags(s);
    if (is_repeating(s)) ENV64(s, s->off_env_eflags) |= EFLAGS_RF;
}

/* Runs until an event, the slice's end, or until exactly `limit` instructions are counted. On the way it takes the interrupts that a
 * standing order tells it to take; `limit` is afterwards where it had to stop for the next one. */
int simvirt_run(struct simvirt *s) {
    const u64 end = s->limit;
    s->limit = limit_by_order(s, end);
    s->slice = s->count + s->slice_length;
    do run_to_event(s); while (s->event == EVENT_LIMIT && take_ordered(s, end));
    if (s->event == EVENT_DEBUG_REGISTERS) return (int)s->event;
    fetch_bytes(s);
    if (s->event == EVENT_IO) s->io_opcode = *opcode(s);
    return (int)s->event;
}

/* Translates without side effects (commit = 0) or as an access of the processor would (commit = 1). Returns the offset in host memory,
 * or minus the refusal, with the verdict in the record. */
int64_t simvirt_translate(struct simvirt *s, u64 va, int access, int privilege, int commit) {
    struct walk w = {0};
    if (!canonical(s, va)) { refuse(s, REFUSED_NON_CANONICAL, va, access, &w); return -REFUSED_NON_CANONICAL; }
    enum refusal why = page_walk(s, va, access, (enum privilege)privilege, commit, &w) ? REFUSED_NOTHING : w.refusal;
    if (!why) {
        w.gpa &= s->a20_mask;
        s->fault_gpa = w.gpa;
        why = reach(s, w.gpa, access, commit, &w.target);
    }
    if (why) { refuse(s, why, va, access, &w); return -(int64_t)why; }
    const u64 host = (w.target.host_page << PAGE_SHIFT) + (w.gpa & ~PAGE_MASK);
    if (commit && access == ACCESS_WRITE) ((u8 *)s->page_flags)[host >> PAGE_SHIFT] |= PAGE_DIRTY;
    return (int64_t)host;
}

/* Loads the PDPTE registers; returns an `enum load`, with the verdict in the record when the EPT refuses it. */
int simvirt_load_pdptes(struct simvirt *s, u64 cr3) {
    struct walk w = {0};
    const enum load outcome = load_pdptes(s, cr3, &w);
    if (outcome == LOAD_REFUSED) refuse(s, w.refusal, 0, ACCESS_READ, &w);
    if (outcome == LOADED) flush_tlb(s);
    return (int)outcome;
}

void simvirt_flush_tlb(struct simvirt *s) { flush_tlb(s); }
void simvirt_flush_translations(struct simvirt *s) { flush_translations(s); }
void simvirt_drop_code(struct simvirt *s, u64 host, u64 size) { drop_code(s, host, size); }

/* Offsets of the record's members, so that Python's view of it can be checked. */
#define MEMBERS(X) \
    X(uc) X(off_env_eip) X(off_cpu_interrupt_request) X(tlb_window) X(ram) X(regions) X(override_count) X(overrides) \
    X(implicit_count) X(max_physical_bits) X(breakpoint_count) X(watches) X(followed_dr) X(count) X(tsc_base) X(cpuid_count) X(cpuid) \
    X(deliverable) X(delivered) X(faults) X(guest) X(order_stands) X(event) X(refusal) X(io_port) X(bytes) \
    X(byte_count) X(fills) X(remaining) X(current)
u64 simvirt_layout(u64 *out) {
    u64 n = 0;
#define OFFSET(member) out[n++] = offsetof(struct simvirt, member);
    MEMBERS(OFFSET)
    out[n++] = sizeof(struct simvirt);
    return n;
}
