/* microbenchmarks: one operation, many times, and nothing else: those of Adams and Agesen (2006, section 6.3) that 32-bit code can do.
 *
 * BENCHMARK is defined as one of syscall, in, callret, pgfault, divzero, ptemod when this is built. Each prints how often the operation was
 * done, and how often it arrived where it should: the handler of an exception, the kernel behind a system call.
 */
#include "guest.h"

enum { TIMES = 100000, DIVIDE_ERROR = 0, PAGE_FAULT = 14, SYSTEM_CALL = 0x80, LENGTH_OF_TWO = 2, STACK_SIZE = 4096 };
enum { PRESENT = 1, WRITABLE = 2, USER = 4, PAGE_SIZE = 4096, ENTRIES = 1024, ABSENT = 0x400000 };

/* operations.S */
void paging_start(u32 *directory);
void system_calls(u32 times, u8 *user_stack_top);
u32 in_ports(u32 times);
u32 calls(u32 times);
void stores(u32 times, u32 address);
void divisions(u32 times);
void entry_changes(u32 times, u32 *entry, u32 address);

static u32 directory[ENTRIES] __attribute__((aligned(4096), section(".bss.directory")));
static u32 table[ENTRIES] __attribute__((aligned(4096), section(".bss.table")));
static u32 other_table[ENTRIES] __attribute__((aligned(4096), section(".bss.other_table")));
static u8 kernel_stack[STACK_SIZE] __attribute__((aligned(4096), section(".bss.kernel_stack")));
static u8 user_stack[STACK_SIZE] __attribute__((aligned(4096), section(".bss.user_stack")));
static volatile u32 arrived;

/* The first 4 MiB are mapped to themselves. At ABSENT there is a page table, and no page. */
static void map_memory(void) {
    for (u32 page = 0; page < ENTRIES; page++)
        table[page] = page * PAGE_SIZE | PRESENT | WRITABLE;
    directory[0] = (u32)table | PRESENT | WRITABLE;
    directory[1] = (u32)other_table | PRESENT | WRITABLE;
    paging_start(directory);
}

static void skip(struct frame *frame) {
    arrived++;
    frame->eip += LENGTH_OF_TWO;
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

/* From ring 3 by INT 0x80 and back by IRET. EAX is 0 when the program has done. */
static void on_system_call(struct frame *frame) {
    if (frame->eax == 0)
        report("syscall");
    arrived++;
}

__attribute__((unused)) static void run_syscall(void) {
    install_handler_behind(GATE_USER_TRAP, SYSTEM_CALL, on_system_call);
    task_state_start((u32)(kernel_stack + STACK_SIZE));
    system_calls(TIMES, user_stack + STACK_SIZE);
}

/* Reads of port 0x80, where nobody answers. */
__attribute__((unused)) static void run_in(void) { arrived = in_ports(TIMES); }

/* Calls of a function that returns at once: without any intervention, but dear to a translator. */
__attribute__((unused)) static void run_callret(void) { arrived = calls(TIMES); }

/* Stores to a page that is not there. */
__attribute__((unused)) static void run_pgfault(void) {
    map_memory();
    install_handler(PAGE_FAULT, skip);
    stores(TIMES, ABSENT);
}

/* Divisions by zero. */
__attribute__((unused)) static void run_divzero(void) {
    install_handler(DIVIDE_ERROR, skip);
    divisions(TIMES);
}

/* A page-table entry becomes present, and absent, and so on, each time with INVLPG. The page is touched once in the end. */
__attribute__((unused)) static void run_ptemod(void) {
    map_memory();
    entry_changes(TIMES, other_table, ABSENT);
    other_table[0] = PRESENT | WRITABLE | ABSENT / 2;
    *(volatile u32 *)ABSENT;
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
