/* microbenchmarks: one operation, many times, and nothing else.
 *
 * BENCHMARK is defined when this is built. What the names mean, and where they come from, stands at each function here:
 *
 *   syscall in cr8wr callret pgfault divzero ptemod    Adams and Agesen (2006, section 6.3)
 *   cpuid vmcall mov_from_cr8 inl_from_pmtimer out_to_pic mov_dr self_ipi wr_msr wr_kernel_gs_base toggle_cr0_wp
 *   toggle_cr4_pge
 *                                                      the exit benchmarks of KVM's unit tests (x86/vmexit.c)
 *   int80 ptemod_toggle                                the same two as they are done in 32-bit code, and by kernels
 *   empty                                              the loop alone, to subtract
 *
 * Each prints how often the operation was done, and how often it arrived where it should: the handler of an exception, the kernel behind
 * a system call. The loops stand in operations.S and long_mode.S; each round is the operation, DEC and JNZ.
 */
#include "guest.h"

enum { TIMES = 100000, DIVIDE_ERROR = 0, UNDEFINED = 6, PAGE_FAULT = 14, SYSTEM_CALL = 0x80, STACK_SIZE = 4096 };
enum { SELF_INTERRUPT = 0x40, SPURIOUS_VECTOR = 0x8f, APIC_ENABLE = 0x100, APIC_TO_SELF = 0x40000 }; /* SDM Vol. 3A figure 11-12 */
enum { APIC = (int)0xfee00000, APIC_END_OF_INTERRUPT = APIC + 0xb0, APIC_SPURIOUS = APIC + 0xf0, APIC_COMMAND = APIC + 0x300 };
enum { FEATURE_PGE = 1 << 13, FEATURE_PAT = 1 << 16 };
enum { PRESENT = 1, WRITABLE = 2, LARGE = 0x80, PAGE_SIZE = 4096, ENTRIES = 1024, OTHER = 0x400000 };

/* operations.S: each does its operation so many times. */
void paging_start(u32 *directory);
void empty_rounds(u32 times);
void int80_calls(u32 times, u8 *user_stack_top);
void in_ports(u32 times);
u32 calls(u32 times);
void stores(u32 times, u32 address);
void divisions(u32 times);
void entry_stores(u32 times, u32 *entry);
void entry_changes(u32 times, u32 *entry, u32 address);
void cpuids(u32 times);
void vmcalls(u32 times);
void timer_reads(u32 times);
void mask_writes(u32 times);
void self_interrupts(u32 times, u32 address, u32 command);
void debug_register_writes(u32 times);
void page_attribute_writes(u32 times);
void write_protect_toggles(u32 times);
void global_page_toggles(u32 times);
u32 has_long_mode(void);
u32 features(void); /* CPUID.01H:EDX */

/* long_mode.S: the same in 64-bit mode. */
void long_mode_run(u32 times, void (*work)(void), u32 *top_table);
void cr8_writes(void);
void cr8_reads(void);
void kernel_gs_base_writes(void);
void fast_system_calls(void);
extern volatile u32 system_calls_arrived;

static u32 directory[ENTRIES] __attribute__((aligned(4096), section(".bss.directory")));
static u32 table[ENTRIES] __attribute__((aligned(4096), section(".bss.table")));
static u32 other_table[ENTRIES] __attribute__((aligned(4096), section(".bss.other_table")));
static u8 kernel_stack[STACK_SIZE] __attribute__((aligned(4096), section(".bss.kernel_stack")));
static u8 user_stack[STACK_SIZE] __attribute__((aligned(4096), section(".bss.user_stack")));
static volatile u32 arrived;
static u32 bytes_to_skip; /* the length of an instruction that faults */

#define BENCH __attribute__((unused)) static void

/* The first 4 MiB are mapped to themselves. At OTHER there is a page table, and no page. */
static void map_memory(void) {
    for (u32 page = 0; page < ENTRIES; page++)
        table[page] = page * PAGE_SIZE | PRESENT | WRITABLE;
    directory[0] = (u32)table | PRESENT | WRITABLE;
    directory[1] = (u32)other_table | PRESENT | WRITABLE;
    paging_start(directory);
}

static void skip(struct frame *frame) {
    arrived++;
    frame->eip += bytes_to_skip;
}

static void report(const char *name) {
    put_string(name);
    put_string(": ");
    put_decimal(TIMES);
    put_string(" times, ");
    put_decimal(arrived);
    put_string(" arrived\n");
    exit_guest(arrived == TIMES ? 0 : 1);
}

static void need(u32 present, const char *what) {
    if (present)
        return;
    put_string("this processor has no ");
    put_string(what);
    put_char('\n');
    exit_guest(2);
}

/* 64-bit mode, with the first 2 MiB mapped to themselves, for rings 0 and 3: SDM Vol. 3A figure 4-8. */
static void run_long(void (*work)(void)) {
    enum { USER = 4 };
    need(has_long_mode(), "64-bit mode");
    directory[0] = (u32)table | PRESENT | WRITABLE | USER;
    table[0] = (u32)other_table | PRESENT | WRITABLE | USER;
    other_table[0] = LARGE | PRESENT | WRITABLE | USER;
    long_mode_run(TIMES, work, directory);
    arrived = TIMES;
}

/* The loop alone. */
BENCH run_empty(void) {
    empty_rounds(TIMES);
    arrived = TIMES;
}

/* ---- Adams and Agesen. */

/* From ring 3 by SYSCALL and back by SYSRET. */
BENCH run_syscall(void) {
    run_long(fast_system_calls);
    arrived = system_calls_arrived;
}

/* Reads of port 0x80, where a diagnostic display would be. */
BENCH run_in(void) {
    in_ports(TIMES);
    arrived = TIMES;
}

/* Writes of CR8, the task priority, while no interrupt waits. */
BENCH run_cr8wr(void) { run_long(cr8_writes); }

/* Calls of a function that returns: nothing to a VMM, but a translator has to look up where the return goes. */
BENCH run_callret(void) { arrived = calls(TIMES); }

/* Stores to a page that is not there. */
BENCH run_pgfault(void) {
    map_memory();
    bytes_to_skip = 2;
    install_handler(PAGE_FAULT, skip);
    stores(TIMES, OTHER);
}

/* Divisions by zero: a fault that has nothing to do with memory. */
BENCH run_divzero(void) {
    bytes_to_skip = 2;
    install_handler(DIVIDE_ERROR, skip);
    divisions(TIMES);
}

/* Stores of the value that it has to the page-table entry of a page that is in use. */
BENCH run_ptemod(void) {
    other_table[0] = PRESENT | WRITABLE | OTHER / 2;
    map_memory();
    *(volatile u32 *)OTHER;
    entry_stores(TIMES, other_table);
    *(volatile u32 *)OTHER;
    arrived = TIMES;
}

/* ---- KVM's unit tests. */

BENCH run_cpuid(void) {
    cpuids(TIMES);
    arrived = TIMES;
}

/* To whom it may concern: where nobody takes hypercalls VMCALL is an undefined instruction, so #UD arrives instead. */
BENCH run_vmcall(void) {
    bytes_to_skip = 3;
    install_handler(UNDEFINED, skip);
    vmcalls(TIMES);
    arrived = TIMES;
}

BENCH run_mov_from_cr8(void) { run_long(cr8_reads); }

/* The timer of ACPI's power management. */
BENCH run_inl_from_pmtimer(void) {
    timer_reads(TIMES);
    arrived = TIMES;
}

/* An interrupt to itself, taken at once: KVM's self_ipi_sti_nop. The 8259A is silent, so that nothing else comes. */
static void on_self_interrupt(struct frame *frame) {
    (void)frame;
    arrived++;
    *(volatile u32 *)APIC_END_OF_INTERRUPT = 0;
}

BENCH run_self_ipi(void) {
    install_handler(SELF_INTERRUPT, on_self_interrupt);
    interrupt_controller_start(0xffff);
    *(volatile u32 *)APIC_SPURIOUS = APIC_ENABLE | SPURIOUS_VECTOR;
    self_interrupts(TIMES, APIC_COMMAND, APIC_TO_SELF | SELF_INTERRUPT);
}

/* The interrupt controller's mask; KVM's outl_to_kernel writes an edge/level register, which came later than the 8259A. */
BENCH run_out_to_pic(void) {
    mask_writes(TIMES);
    arrived = TIMES;
}

BENCH run_mov_dr(void) {
    debug_register_writes(TIMES);
    arrived = TIMES;
}

/* IA32_PAT, which a VMM has to look at; the value stays. */
BENCH run_wr_msr(void) {
    need(features() & FEATURE_PAT, "IA32_PAT");
    page_attribute_writes(TIMES);
    arrived = TIMES;
}

/* IA32_KERNEL_GS_BASE, the guest's own affair. */
BENCH run_wr_kernel_gs_base(void) { run_long(kernel_gs_base_writes); }

/* CR0.WP off and on again, with paging. */
BENCH run_toggle_cr0_wp(void) {
    map_memory();
    write_protect_toggles(TIMES);
    arrived = TIMES;
}

/* CR4.PGE off and on again, by which kernels flush the TLB of global pages too. */
BENCH run_toggle_cr4_pge(void) {
    need(features() & FEATURE_PGE, "CR4.PGE");
    map_memory();
    global_page_toggles(TIMES);
    arrived = TIMES;
}

/* ---- As it is done in 32-bit code, and by kernels. */

/* From ring 3 by INT 0x80 and back by IRET. EAX is 0 when the program has done. */
static void on_system_call(struct frame *frame) {
    if (frame->eax == 0)
        report("int80");
    arrived++;
}

BENCH run_int80(void) {
    install_handler_behind(GATE_USER_TRAP, SYSTEM_CALL, on_system_call);
    task_state_start((u32)(kernel_stack + STACK_SIZE));
    int80_calls(TIMES, user_stack + STACK_SIZE);
}

/* The entry becomes present, and absent, and so on, each time with INVLPG. The page is touched once in the end. */
BENCH run_ptemod_toggle(void) {
    map_memory();
    entry_changes(TIMES, other_table, OTHER);
    other_table[0] = PRESENT | WRITABLE | OTHER / 2;
    *(volatile u32 *)OTHER;
    arrived = TIMES;
}

#define TEXT_OF(name) #name
#define TEXT(name) TEXT_OF(name)
#define FUNCTION_OF(name) run_##name
#define FUNCTION(name) FUNCTION_OF(name)

u32 guest_main(void) {
    FUNCTION(BENCHMARK)();
    report(TEXT(BENCHMARK));
    return 1;
}
