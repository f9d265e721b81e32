/* What the native callbacks share: `struct simvirt`, the record that Python sees as a view (machine/native/layout.py mirrors it by
 * name), the enumerations in it, and what one C file calls in another.
 */
#ifndef SIMVIRT_RECORD_H
#define SIMVIRT_RECORD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint16_t u16;
typedef uint8_t u8;

#define PAGE_SHIFT 12
#define PAGE_SIZE 4096ULL
#define PAGE_MASK (~(PAGE_SIZE - 1))

enum { MAX_REGIONS = 32, MAX_OVERRIDES = 16, MAX_IMPLICIT = 8, MAX_BLOCKS = 1 << 20, MAX_CPUID = 64, MAX_FAULTS = 16 };
enum { MAX_BREAKPOINTS = 256, MAX_WATCHES = 64 };
enum region_kind { REGION_RAM = 0, REGION_ROM = 1, REGION_MMIO = 2, REGION_HOLE = 3 };
enum { ACCESS_READ = 16, ACCESS_WRITE = 17, ACCESS_FETCH = 18 };          /* uc_mem_type of a fill */
enum { GRANT_READ = 1, GRANT_WRITE = 2, GRANT_EXECUTE = 4 };              /* UC_PROT_* */
enum { PAGE_EXECUTED = 1, PAGE_DIRTY = 2, PAGE_WATCHED = 4 };             /* flags of a host page */
enum { UC_OK = 0, UC_ERR_EXCEPTION = 21 };

enum refusal {
    REFUSED_NOTHING = 0, REFUSED_PAGE_FAULT = 1, REFUSED_HOLE = 2, REFUSED_MMIO = 3, REFUSED_ROM_WRITE = 4,
    REFUSED_WATCHED_WRITE = 5, REFUSED_EXECUTED_ALIAS = 6, REFUSED_SUPERVISOR_AT_CPL3 = 7,
    REFUSED_NON_CANONICAL = 8, REFUSED_READ_AHEAD = 9, REFUSED_WATCHED_DATA = 10,
    REFUSED_EPT_VIOLATION = 11, REFUSED_EPT_MISCONFIGURATION = 12, REFUSED_PML_FULL = 13,
};
static inline int by_ept(enum refusal why) {
    return why == REFUSED_EPT_VIOLATION || why == REFUSED_EPT_MISCONFIGURATION || why == REFUSED_PML_FULL;
}
enum privilege { SUPERVISOR = 0, USER = 1, SUPERVISOR_IMPLICIT = 2 };      /* of an access; implicit: of a system data structure */
enum event {
    EVENT_NONE = 0, EVENT_LIMIT = 1, EVENT_SLICE = 2, EVENT_SVM_EXIT = 3, EVENT_REFUSED_FILL = 4, EVENT_IO = 5,
    EVENT_SYSTEM_CALL = 6, EVENT_ENGINE_ERROR = 7, EVENT_BREAKPOINT = 8, EVENT_DEBUG_REGISTERS = 9,
    EVENT_INSTRUCTION = 10, EVENT_STRING_LENGTH = 11, EVENT_ALIGNMENT = 12, EVENT_FLOATING = 13,
};

/* A translated block of Unicorn 2.1.4 (exec/exec-all.h), as far as it is read here. */
struct block {
    u64 pc, cs_base;
    u32 flags;
    u16 size, icount;
    u32 cflags, trace;
    u64 code, code_size;              /* the block's search data stands behind its code */
    u64 original, next_in_page[2];
    u64 host_page[2];                 /* addresses in host memory of the one or two pages that it was translated from */
};
enum { SVM_EXCEPTION = 0x40, SVM_SOFTWARE_INTERRUPT = 0x75 };
#define EXCP_HLT 0x10001U
#define CF_COUNT_MASK 0x7fffU
#define CF_INVALID 0x40000U
#define CF_CHECKED (1U << 20)                                             /* ours; the engine looks at neither this bit nor the next */
#define CF_SPECIAL (1U << 21)
#define HF_CODE_SIZE_MASK ((1U << 4) | (1U << 15))                        /* CS32, CS64 */
#define HF_INHIBIT_IRQ (1U << 3)
#define HF_CS64 (1U << 15)
#define EFLAGS_TF (1U << 8)
#define EFLAGS_IF (1ULL << 9)
#define EFLAGS_RF (1ULL << 16)
#define HF2_SHADOW_OF_MOV_SS (1U << 30)                                   /* ours, in a word that the engine hardly uses */
#define HF_CS32 (1U << 4)
#define CR0_PG (1ULL << 31)
#define EFER_LMA (1ULL << 10)

/* A segment register as the engine keeps it; also GDTR and IDTR. */
struct segment { u32 selector, unused; u64 base; u32 limit, flags; };
/* What a de-privileged guest's processor has and the real one does not hold for it (vmm.deprivileged_state.PrivilegedState), as far as
 * deliveries to it and its returns from them need it. */
struct guest_words { u64 flags, window_base; struct segment gdt, idt, ldt, tr; };

struct region { u64 first_page, last_page, host_page, kind; };
struct override { u64 page, host_page, writable; };
struct watch { u64 first, last, accesses; };                              /* linear addresses; GRANT_READ, GRANT_WRITE or both */
struct cpuid_entry { u64 leaf, subleaf, any_subleaf, eax, ebx, ecx, edx; };
/* What lies at a guest-physical address; of an EPT walk also the address itself, the rights of the entries together, the last level. */
struct target { u64 gpa, host_page, rights; int writable, executable, dirty, level; };
/* A walk through the guest's page tables. `refusal` says whose word ended it: a page fault's, or the EPT's, over an access of this kind
 * to a paging structure (`structure_access`), or to the page itself (0). */
struct walk {
    u64 gpa, error, gpa_of_fault;
    int writable, executable, accessed, dirty, user_page, level, structure_access;
    enum refusal refusal;
    struct target target;
};
/* One exception that began to be delivered natively (machine.faults.FaultRecord). */
struct fault_words { u64 count, vector, error_code, has_error_code, cr2, has_cr2, selector, rip, cpl; };

struct simvirt {
    /* the engine, filled in by Python */
    u64 uc, cpu, env, emu_start, emu_stop, ctl, reg_read, leave_loop, invalidate_range;
    u64 off_env_eip, off_env_eflags, off_env_cc_src, off_env_cc_op, off_env_df, off_env_hflags, off_env_segs, off_env_cr,
        off_env_efer, off_env_error_code, off_env_dr, off_env_intercept, off_env_ldt, off_env_tr, off_env_gdt, off_env_idt, off_env_pdptes,
        off_env_tsc_aux, off_env_fpus, off_env_fp_status;
    u64 off_cpu_interrupt_request, off_cpu_cflags_next, off_cpu_jump_cache, off_cpu_exit_request,
        off_cpu_exception_index, off_uc_bad_address;
    u64 tlb_window[3];
    /* physical memory */
    u64 ram, ram_pages, page_flags, a20_mask, region_count;
    struct region regions[MAX_REGIONS];
    u64 override_count;
    struct override overrides[MAX_OVERRIDES];
    u64 implicit_count;
    u64 implicit_pages[MAX_IMPLICIT];   /* linear pages that one instruction at CPL 3 may access as supervisor */
    u64 max_physical_bits, gigabyte_pages;
    u64 absent_features;                /* of `enum feature`: what CPUID denies is #UD */
    u64 ept_pointer, host_physical_bits;  /* the second dimension is this EPT, in host-physical memory; 0: the regions */
    u64 pml_address, pml_index;         /* the page-modification log, 0 without it, and its next entry */
    u64 absent_page;                    /* what answers in holes: reads give ones, writes go nowhere; 0 refuses the access instead */
    /* break- and watchpoints, the guest's and a debugger's */
    u64 breakpoint_count;
    u64 breakpoints[MAX_BREAKPOINTS];   /* linear addresses of instructions */
    u64 watch_count;
    struct watch watches[MAX_WATCHES];
    u64 watches_open;                   /* one instruction runs alone, whose accesses have been looked at */
    u64 passed_pc, passed_count;        /* the breakpoint there and then has been dealt with */
    u64 followed_dr[5];                 /* DR0 to DR3 and DR7 as they were when the lists above were made */
    u64 aligned;                        /* the operands of the next instruction are aligned, as far as they have to be */
    u64 port_checked;                   /* the next instruction, INS or OUTS, may access its port */
    u64 floating_passed;                /* the next instruction runs alone, and its floating-point exceptions are looked after */
    u64 x87_unmasked, simd_unmasked;    /* exceptions are, in the control word, in MXCSR */
    u64 native_far_transfers;           /* the engine does far JMP, CALL, RET and IRET by itself */
    /* time */
    u64 slice_length;                   /* instructions that simvirt_run runs at most before it returns */
    u64 count, limit, slice, stepping, window_wanted;
    u64 tsc_base, tsc_native, rdtscp_native, cpuid_native, pause_native, cr3_native;
    u64 cpuid_count;
    struct cpuid_entry cpuid[MAX_CPUID];
    /* delivery through the IDT: what simvirt_run may deliver by itself, and what it tells of it */
    u64 deliverable;                    /* bit n: exception n; bit 32: INT n, INT3, INTO */
    u64 last_delivery, fruitless, fruitless_limit;    /* deliveries since an instruction retired, and how many there may be */
    u64 delivered[256];                 /* by vector, whoever delivered them */
    u64 fault_count;                    /* all faults ever; the last of them are in `faults` */
    struct fault_words faults[MAX_FAULTS];
    struct guest_words guest;           /* written before each call that is about a de-privileged guest's processor */
    /* the standing order for a periodic interrupt (standing_order.c) */
    u64 order_stands, order_vector, order_pulse, order_period, order_hz, order_slept, order_end_port, order_end_value;
    u64 order_in_service, order_taken;
    /* the event that simvirt_run returns */
    u64 event, code, instruction_length, engine_status;
    u64 refusal, fault_address, fault_gpa, fault_access, fault_error, fault_level, fault_to_page;
    u64 io_port, io_size, io_is_out, io_value, io_opcode, system_call, debug_condition;
    u8 bytes[16];
    u64 byte_count;
    /* statistics */
    u64 fills, cache_misses, entries, native_exits, modified_blocks, inlined_blocks;
    /* private */
    int64_t remaining;                  /* instructions until block_hook wants to see a block again; counted down by the blocks */
    u32 current;                        /* number of the block that runs, counted in full; 0 once the count has been put right */
    u32 next_block;
    int64_t granted;                    /* `remaining` when `count` was last brought up to date */
    u64 requested, stopping;
    const struct block *met_in;         /* the block in which the last event was met, if that is known */
    u64 aborted, refused_at, delivery_tried, alone;
    u64 saved_registers[16], saved_dr[8], io_pending, dr6_before;
    u64 alias_writes;                   /* one instruction runs alone, which may write to executed pages through aliases that are not */
    const struct block *blocks[MAX_BLOCKS];
};

#define ENV32(s, off) (*(u32 *)((s)->env + (off)))
#define ENV64(s, off) (*(u64 *)((s)->env + (off)))
#define CPL(s) (ENV32(s, (s)->off_env_hflags) & 3)

/* One number of a block's search data. */
static inline int64_t sleb128(const u8 **p) {
    int64_t v = 0;
    int shift = 0;
    u8 byte;
    do {
        byte = *(*p)++;
        v |= (int64_t)(byte & 0x7f) << shift;
        shift += 7;
    } while (byte & 0x80);
    if (shift < 64 && (byte & 0x40)) v |= -(1LL << shift);
    return v;
}

/* Host memory that the instruction in `b` was translated from, NULL if `va` does not lie in its one or two pages. The page tables may
 * say something else by now: a guest need not invalidate what it has changed. */
static inline const u8 *translated_from(const struct simvirt *s, const struct block *b, u64 va) {
    if (!b) return NULL;
    const u64 page = (va >> PAGE_SHIFT) - (b->pc >> PAGE_SHIFT);
    const u64 host = page < 2 ? b->host_page[page] & PAGE_MASK : ~0ULL;
    return host >> PAGE_SHIFT < s->ram_pages ? (const u8 *)s->ram + host + (va & ~PAGE_MASK) : NULL;
}

/* ------------------------------------------------------------------------------------------------ between the files */

#ifdef _WIN32
#define INTERNAL
#else
#define INTERNAL __attribute__((visibility("hidden")))
#endif

/* engine.c */
INTERNAL int page_walk(struct simvirt *s, u64 va, int access, enum privilege privilege, int commit, struct walk *w);
INTERNAL int canonical(const struct simvirt *s, u64 va);
INTERNAL u64 flags_in_one_piece(const struct simvirt *s);
INTERNAL const u8 *opcode(const struct simvirt *s);
INTERNAL void drop_code(struct simvirt *s, u64 host, u64 size);

/* physical.c */
INTERNAL enum refusal reach(struct simvirt *s, u64 gpa, int access, int commit, struct target *t);
INTERNAL u8 *physical(struct simvirt *s, u64 gpa, int for_write);
INTERNAL u64 read_entry(struct simvirt *s, u64 gpa, int size, int commit, struct walk *w);
INTERNAL int set_entry_flags(struct simvirt *s, u64 gpa, u8 flags, struct walk *w);

/* features.c; the order is that of machine.native.layout.INSTRUCTION_FEATURES */
enum feature {
    FEATURE_CX8 = 1 << 0, FEATURE_SEP = 1 << 1, FEATURE_CMOV = 1 << 2, FEATURE_CLFSH = 1 << 3, FEATURE_MMX = 1 << 4, FEATURE_FXSR = 1 << 5,
    FEATURE_SSE = 1 << 6, FEATURE_SSE2 = 1 << 7, FEATURE_SSE3 = 1 << 8, FEATURE_PCLMULQDQ = 1 << 9, FEATURE_SSSE3 = 1 << 10,
    FEATURE_CX16 = 1 << 11, FEATURE_SSE4_1 = 1 << 12, FEATURE_SSE4_2 = 1 << 13, FEATURE_MOVBE = 1 << 14, FEATURE_POPCNT = 1 << 15,
    FEATURE_AES = 1 << 16, FEATURE_FSGSBASE = 1 << 17, FEATURE_BMI1 = 1 << 18, FEATURE_BMI2 = 1 << 19, FEATURE_ADX = 1 << 20,
    FEATURE_SMAP = 1 << 21, FEATURE_LAHF64 = 1 << 22, FEATURE_LZCNT = 1 << 23,
};
INTERNAL u64 feature_of(const u8 *op, int prefixes, int rex_w, int code_64);
INTERNAL u64 feature_of_vex(const u8 *vex);

/* iret.c */
INTERNAL int usual_iret(struct simvirt *s, u64 size);
INTERNAL int iret_to_null_stack(struct simvirt *s);

/* special.c */
enum special { PLAIN = 0, UNDEFINED = 1, BREAKPOINT = 2, FAR_TRANSFER = 3, STRING_LENGTH = 4, STI_AGAIN = 5, ALIGNMENT = 6,
               EXACT = 7, STRING_IO = 8, FLOATING = 9, X87_STATUS = 10, X87_CONTROL = 11 };
INTERNAL enum special first_special(struct simvirt *s, const struct block *b, int entering, u64 *before);
INTERNAL void note_shadow(struct simvirt *s);
INTERNAL int is_repeating(const struct simvirt *s);
INTERNAL int is_prefix(u8 byte, int code_64);

/* delivery.c */
enum source { SOURCE_EXTERNAL = 0, SOURCE_EXCEPTION = 1, SOURCE_SOFTWARE = 2, SOURCE_NMI = 3 };
struct interruption { u64 vector; enum source source; u64 return_rip, error_code; int has_error_code; u64 cr2; int has_cr2; };
INTERNAL int deliver(struct simvirt *s, const struct interruption *what);

/* standing_order.c */
INTERNAL u64 limit_by_order(const struct simvirt *s, u64 end);
INTERNAL int take_ordered(struct simvirt *s, u64 end);
INTERNAL int ends_ordered(struct simvirt *s, u32 port, int size, u32 value);

#endif
