/* sensitive: runs the sensitive instructions of the 32-bit architecture in ring 0 and prints what each showed.
 *
 * The first part of the list is that of Robin and Irvine, "Analysis of the Intel Pentium's Ability to Support a Secure Virtual Machine
 * Monitor" (USENIX Security 2000); what the paper left out or did not know yet follows. Values that depend on the processor model or the
 * clock are not printed, only whether they are consistent. Everything that was seen also stays in memory, in `outcomes`.
 */
#include "guest.h"

enum { NO_FAULT = 0xffffffff, INVALID_OPCODE = 6, EXCEPTIONS = 20, NAME_COLUMNS = 18 };
enum { LOCAL_TABLE = SPARE_DESCRIPTOR, CALL_GATE = SPARE_DESCRIPTOR + 8, READ_FLAGS_VECTOR = 0x50, FROM_USER_VECTOR = 0x51 };

void run_probe(void (*probe)(void));
void store_pushed_cs(void);
extern u8 recover[];
extern volatile u32 result[2];

static volatile u32 fault_vector, fault_error_code;

/* One row each: name, what the console says. %2, %4, %8 print the next value in so many hexadecimal digits; %? prints yes or no.
 * "!": only whether the instruction is there or not, as CPUID says; no text: not even that is architectural (RDPMC). */
#define PROBES(_)                                  \
    _(sgdt, "limit %4 base %8")                    \
    _(sidt, "limit %4 base %8")                    \
    _(sldt, "selector %4")                         \
    _(str, "selector %4")                          \
    _(smsw, "CR0 low half %4")                     \
    _(pushf, "flags %8")                           \
    _(popf, "then flags are %8")                   \
    _(lar, "visible %? rights %8")                 \
    _(lsl, "visible %? limit %8")                  \
    _(verr, "readable %?")                         \
    _(verw, "writable %?")                         \
    _(push_cs, "selector %4")                      \
    _(push_ss, "selector %4")                      \
    _(push_ds, "selector %4")                      \
    _(push_es, "selector %4")                      \
    _(push_fs, "selector %4")                      \
    _(push_gs, "selector %4")                      \
    _(pop_ss, "loaded %?")                         \
    _(pop_ds, "loaded %?")                         \
    _(pop_es, "loaded %?")                         \
    _(pop_fs, "loaded %?")                         \
    _(pop_gs, "loaded %?")                         \
    _(call_far, "pushed CS %4")                    \
    _(call_far_indirect, "pushed CS %4")           \
    _(call_gate, "pushed CS %4")                   \
    _(jmp_far, "arrived %?")                       \
    _(jmp_far_indirect, "arrived %?")              \
    _(int, "pushed CS %4 flags %8")                \
    _(ret_far, "arrived %?")                       \
    _(mov_from_cs, "selector %4")                  \
    _(mov_from_ss, "selector %4")                  \
    _(mov_from_ds, "selector %4")                  \
    _(mov_from_es, "selector %4")                  \
    _(mov_from_fs, "selector %4")                  \
    _(mov_from_gs, "selector %4")                  \
    _(mov_to_ss, "loaded %?")                      \
    _(mov_to_ds, "loaded %?")                      \
    _(mov_to_es, "loaded %?")                      \
    _(mov_to_fs, "loaded %?")                      \
    _(mov_to_gs, "loaded %?")                      \
    _(iret, "then flags are %8")                   \
    _(lds, "offset %8")                            \
    _(les, "offset %8")                            \
    _(lfs, "offset %8")                            \
    _(lgs, "offset %8")                            \
    _(lss, "offset %8")                            \
    _(cli, "then flags are %8")                    \
    _(sti, "then flags are %8")                    \
    _(in, "value %2")                              \
    _(out, "written %?")                           \
    _(ins, "value %2")                             \
    _(outs, "written %?")                          \
    _(rdtsc, "advances %?")                        \
    _(rdpmc, 0)                                    \
    _(cpuid, "has leaf 1 %?")                      \
    _(xgetbv, "!")                                 \
    _(rdtscp, "!")                                 \
    _(rdpid, "!")                                  \
    _(sysenter, "arrived %?")                      \
    _(sysexit, "CS %4 SS %4")

#define DECLARE(name, text) void probe_##name(void);
PROBES(DECLARE)

static const struct {
    const char *name;
    void (*probe)(void);
    const char *text;
} rows[] = {
#define ROW(name, text) {#name, probe_##name, text},
    PROBES(ROW)
};
enum { ROWS = sizeof rows / sizeof *rows };

struct outcome {
    u32 vector, error_code, result[2];
};
struct outcome outcomes[ROWS];

static void on_exception(struct frame *frame) {
    fault_vector = frame->vector;
    fault_error_code = frame->error_code;
    frame->eip = (u32)recover;
    frame->cs = KERNEL_CODE;
}

static void on_read_flags(struct frame *frame) {
    frame->eax = frame->eflags;
    frame->edx = frame->cs & 0xffff;
}

static void on_call_from_user(struct frame *frame) {
    result[0] = frame->cs & 0xffff;
    result[1] = frame->user_ss & 0xffff;
    frame->eip = (u32)recover;
    frame->cs = KERNEL_CODE;
}

struct cpuid {
    u32 eax, ebx, ecx, edx;
};

static struct cpuid cpuid(u32 leaf) {
    struct cpuid answer;
    __asm__ volatile("cpuid" : "=a"(answer.eax), "=b"(answer.ebx), "=c"(answer.ecx), "=d"(answer.edx) : "a"(leaf), "c"(0));
    return answer;
}

/* Whether CPUID (and CR4, for XGETBV) announces the instruction. */
static u32 is_announced(const char *name) {
    enum { OSXSAVE = 1u << 27, RDTSCP = 1u << 27, RDPID = 1u << 22, EXTENDED = 0x80000000u };
    if (name[0] == 'x')
        return (cpuid(1).ecx & OSXSAVE) != 0;
    if (name[2] == 't')
        return cpuid(EXTENDED).eax > EXTENDED && (cpuid(EXTENDED + 1).edx & RDTSCP) != 0;
    return cpuid(0).eax >= 7 && (cpuid(7).ecx & RDPID) != 0;
}

static void put_yes(u32 yes) { put_string(yes ? "yes" : "no"); }

static void put_outcome(const char *text, const struct outcome *outcome) {
    u32 next = 0;
    if (outcome->vector != NO_FAULT) {
        put_string("fault ");
        put_decimal(outcome->vector);
        put_string(" error ");
        put_hex(outcome->error_code, 4);
        return;
    }
    for (; *text; text++) {
        if (*text != '%')
            put_char(*text);
        else if (*++text == '?')
            put_yes(outcome->result[next++]);
        else
            put_hex(outcome->result[next++], (u32)(*text - '0'));
    }
}

static void put_row(const char *name, const char *text, const struct outcome *outcome) {
    const char *next = name;
    for (u32 column = 0; column < NAME_COLUMNS; column++)
        put_char(*next ? *next++ : ' ');
    if (!text) {
        put_string("as the processor model has it");
    } else if (*text == '!') {
        put_string("as CPUID announces ");
        put_yes(is_announced(name) ? outcome->vector == NO_FAULT : outcome->vector == INVALID_OPCODE);
    } else {
        put_outcome(text, outcome);
    }
    put_char('\n');
}

static void prepare(void) {
    enum { LDT = 0x82, CALL_GATE_32 = 0x8c00, CR0_PROTECTION_AND_ET = 0x11 };
    for (u32 vector = 0; vector < EXCEPTIONS; vector++)
        install_handler(vector, on_exception);
    install_handler(READ_FLAGS_VECTOR, on_read_flags);
    install_handler_behind(GATE_USER_TRAP, FROM_USER_VECTOR, on_call_from_user);
    interrupt_controller_start(0xffff);
    task_state_start((u32)stack_top - 8192);
    set_descriptor(LOCAL_TABLE, (u32)gdt, 7, LDT, 0);
    __asm__ volatile("lldt %w0" : : "r"(LOCAL_TABLE));
    u32 *gate = (u32 *)(gdt + CALL_GATE);
    gate[0] = KERNEL_CODE << 16 | ((u32)store_pushed_cs & 0xffff);
    gate[1] = ((u32)store_pushed_cs & 0xffff0000) | CALL_GATE_32;
    __asm__ volatile("movl %0, %%cr0" : : "r"(CR0_PROTECTION_AND_ET));
}

u32 guest_main(void) {
    prepare();
    for (u32 row = 0; row < ROWS; row++) {
        fault_vector = NO_FAULT;
        fault_error_code = 0;
        result[0] = result[1] = 0;
        run_probe(rows[row].probe);
        outcomes[row] = (struct outcome){fault_vector, fault_error_code, {result[0], result[1]}};
        put_row(rows[row].name, rows[row].text, &outcomes[row]);
    }
    return 0;
}
