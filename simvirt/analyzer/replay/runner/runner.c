/* Makes the runs that stand in the image, and prints what each came to, by COM1 and on port E9h.
 *
 * The image: this program at 30000h, memory as it is at the start of every run at 40000h, the runs at 70000h. */
#include <stdint.h>

#include "layout.h"

struct start {
    uint64_t general[16], ip, flags, cs, ss, ds, cpl;
    uint64_t entry; /* where control goes: the instruction, or what precedes it */
    uint64_t cr0, cr3, cr4, ldtr, tr, dr0;
    uint16_t gdt_limit;
    uint64_t gdt_base;
    uint16_t idt_limit;
    uint64_t idt_base;
    uint32_t bitmap, coprocessor, msrs, patches, cells;
} __attribute__((packed));

struct msr {
    uint32_t number;
    uint64_t value;
} __attribute__((packed));

_Static_assert(__builtin_offsetof(struct start, cpl) == START_CPL, "the entries");
_Static_assert(__builtin_offsetof(struct start, entry) == START_ENTRY, "the entries");
_Static_assert(__builtin_offsetof(struct start, dr0) == START_DR0, "the entries");
_Static_assert(__builtin_offsetof(struct start, idt_limit) == START_IDT, "the entries");

typedef uintptr_t word; /* of the code under test: 32 or 64 bits */
#ifdef __x86_64__
enum { GENERAL = 16, PAGE_TABLE = 0x3000 };
static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"};
static const char *const ip_name = "rip", *const flags_name = "rflags";
#else
enum { GENERAL = 8, PAGE_TABLE = 0x1000 };
static const char *const names[] = {"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"};
static const char *const ip_name = "eip", *const flags_name = "eflags";
#endif
enum { SP = 4 };

extern void enter(const struct start *start);
extern word captured_general[GENERAL], captured_ds, captured_es, captured_fs, captured_gs, captured_frame, captured_cr2;
extern char capture[];

static void outb(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static uint8_t inb(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void put(char c) {
    for (uint32_t patience = 100000; patience && !(inb(0x3fd) & 0x20); patience--) {
    }
    outb(0x3f8, c);
    outb(0xe9, c);
}
static void text(const char *s) {
    while (*s) put(*s++);
}
static void hex(word value) {
    for (int shift = 8 * sizeof(word) - 4; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
}
static void field(const char *name, word value) {
    put(' ');
    text(name);
    put('=');
    hex(value);
}

static void copy(word to, word from, word size) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}
static void wrmsr(const struct msr *msr) {
    __asm__ volatile("wrmsr" : : "c"(msr->number), "a"((uint32_t)msr->value), "d"((uint32_t)(msr->value >> 32)));
}

/* Memory as it is at the start: the pristine image, handlers that come back here, this program mapped for ring 0. */
static void prepare(const struct start *start, const uint8_t *patch) {
    copy(0, PRISTINE, PRISTINE_SIZE);
    for (uint32_t vector = 0; vector < 256; vector++)
        for (uint32_t half = 0; half < 16; half += 8)
            for (uint32_t map = 0; map <= OTHER_MAP; map += OTHER_MAP) {
                volatile uint8_t *at = (volatile uint8_t *)(word)(HANDLERS + 16 * vector + half + map);
                uint32_t target = (uint32_t)(word)capture - (HANDLERS + 16 * vector + half + 7);
                at[0] = 0x6a; /* push imm8 */
                at[1] = vector;
                at[2] = 0xe9; /* jmp */
                for (int i = 0; i < 4; i++) at[3 + i] = target >> 8 * i;
            }
    for (uint32_t page = RUNNER >> 12; page < RUNS_END >> 12; page++) {
        ((volatile word *)(word)(TABLES + PAGE_TABLE))[page] = page << 12 | 3;
        ((volatile word *)(word)(TABLES_B + PAGE_TABLE))[page] = page << 12 | 3;
    }
    for (uint32_t map = 0; map <= OTHER_MAP; map += OTHER_MAP) {
        const uint8_t *p = patch;
        for (uint32_t i = 0; i < start->patches; i++) {
            uint32_t address = *(const uint32_t *)p, size = *(const uint32_t *)(p + 4);
            copy(address + map, (word)p + 8, size);
            p += 8 + size;
        }
        *(volatile uint8_t *)(word)(IO_BITMAP + map) = start->bitmap;
        if (start->coprocessor) { /* fldz; fstp %st(0); jmp to the instruction: the x87 remembers CS */
            volatile uint8_t *at = (volatile uint8_t *)(word)(COPROCESSOR + map);
            uint32_t target = (uint32_t)start->ip - (COPROCESSOR + 9);
            at[0] = 0xd9, at[1] = 0xee, at[2] = 0xdd, at[3] = 0xd8, at[4] = 0xe9;
            for (int i = 0; i < 4; i++) at[5 + i] = target >> 8 * i;
        }
        for (uint32_t table = GDT; table <= GDT_B; table += GDT_B - GDT) /* LTR wants an available TSS */
            *(volatile uint8_t *)(word)(table + map + ((uint32_t)start->tr & ~7u) + 5) &= ~2u;
    }
}

static const uint32_t *run(uint32_t number, const struct start *start) {
    const struct msr *msrs = (const struct msr *)(start + 1);
    const uint8_t *patch = (const uint8_t *)(msrs + start->msrs), *p = patch;
    for (uint32_t i = 0; i < start->patches; i++) p += 8 + *(const uint32_t *)(p + 4);
    const uint32_t *cells = (const uint32_t *)p;
    const uint32_t map = start->cr3 == TABLES_B ? OTHER_MAP : 0;
    prepare(start, patch);
    for (uint32_t i = 0; i < start->msrs; i++) wrmsr(msrs + i);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    __asm__ volatile("clts; fninit");
    enter(start);
    const word *frame = (const word *)(captured_frame + (captured_frame < RUNNER ? map : 0));
    const uint32_t vector = *frame++ & 0xff;
    const int has_error = vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
    const word error = has_error ? *frame++ : 0xffffffff;
    /* 64-bit code pushes SS and RSP always, 32-bit code when it comes from another ring. */
    const int has_stack = sizeof(word) == 8 || (frame[1] & 3) != 0;
    captured_general[SP] = has_stack ? frame[3] : captured_frame + (4 + has_error) * sizeof(word);
    text("run");
    field("number", number);
    field("vector", vector);
    field("error", error);
    field(ip_name, frame[0]);
    field("cs", frame[1] & 0xffff);
    field(flags_name, frame[2]);
    field("ss", (has_stack ? frame[4] : start->ss) & 0xffff);
    for (int i = 0; i < GENERAL; i++) field(names[i], captured_general[i]);
    field("ds", captured_ds & 0xffff);
    field("es", captured_es & 0xffff);
    field("fs", captured_fs & 0xffff);
    field("gs", captured_gs & 0xffff);
    field("cr2", captured_cr2);
    field("frame", captured_frame);
    for (uint32_t i = 0; i < start->cells; i++) {
        text(" @");
        hex(cells[i]);
        put('=');
        hex(*(const volatile word *)(word)(cells[i] + map));
    }
    put('\n');
    return cells + start->cells;
}

void main(void) {
    outb(0x3f9, 0);
    outb(0x3fb, 0x80);
    outb(0x3f8, 1);
    outb(0x3f9, 0);
    outb(0x3fb, 3);
    outb(0x3fa, 7);
    outb(0x3fc, 3);
    const uint32_t *at = (const uint32_t *)RUNS;
    uint32_t count = *at++;
    text("simvirt witness runs");
    field("count", count);
    put('\n');
    for (uint32_t number = 0; number < count; number++) at = run(number, (const struct start *)at);
    text("done\n");
    outb(0xf4, 0);
    for (;;) __asm__ volatile("cli; hlt");
}
