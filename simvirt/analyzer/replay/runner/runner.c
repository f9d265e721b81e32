/* Makes the runs that stand in the image, and prints what each came to, by COM1 and on port E9h.
 *
 * The image: this program at 30000h, memory as it is at the start of every run at 40000h, the runs at 70000h. */
#include <stdint.h>

#include "layout.h"

struct start {
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi, eip, eflags, cs, ss, ds, cpl;
    uint32_t entry; /* where control goes: the instruction, or what precedes it */
    uint32_t cr0, cr3, cr4, ldtr, tr, dr0;
    uint16_t gdt_limit;
    uint32_t gdt_base;
    uint16_t idt_limit;
    uint32_t idt_base;
    uint32_t bitmap, coprocessor, patches, cells;
} __attribute__((packed));

_Static_assert(__builtin_offsetof(struct start, cpl) == START_CPL, "entry.S");
_Static_assert(__builtin_offsetof(struct start, entry) == START_ENTRY, "entry.S");
_Static_assert(__builtin_offsetof(struct start, dr0) == START_DR0, "entry.S");
_Static_assert(__builtin_offsetof(struct start, idt_limit) == START_IDT, "entry.S");

extern void enter(const struct start *start);
extern uint32_t captured_eax, captured_ebx, captured_ecx, captured_edx, captured_esi, captured_edi, captured_ebp;
extern uint32_t captured_ds, captured_es, captured_fs, captured_gs, captured_frame, captured_cr2;
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
static void hex(uint32_t value) {
    for (int shift = 28; shift >= 0; shift -= 4) put("0123456789abcdef"[value >> shift & 15]);
}
static void field(const char *name, uint32_t value) {
    put(' ');
    text(name);
    put('=');
    hex(value);
}

static void copy(uint32_t to, uint32_t from, uint32_t size) {
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

/* Memory as it is at the start: the pristine image, handlers that come back here, this program mapped for ring 0. */
static void prepare(const struct start *start, const uint8_t *patch) {
    copy(0, PRISTINE, PRISTINE_SIZE);
    for (uint32_t vector = 0; vector < 256; vector++)
        for (uint32_t half = 0; half < 16; half += 8)
            for (uint32_t map = 0; map <= OTHER_MAP; map += OTHER_MAP) {
                volatile uint8_t *at = (volatile uint8_t *)(HANDLERS + 16 * vector + half + map);
                uint32_t target = (uint32_t)capture - (HANDLERS + 16 * vector + half + 7);
                at[0] = 0x6a; /* push imm8 */
                at[1] = vector;
                at[2] = 0xe9; /* jmp */
                for (int i = 0; i < 4; i++) at[3 + i] = target >> 8 * i;
            }
    for (uint32_t page = RUNNER >> 12; page < RUNS_END >> 12; page++) {
        ((volatile uint32_t *)(TABLES + 0x1000))[page] = page << 12 | 3;
        ((volatile uint32_t *)(TABLES_B + 0x1000))[page] = page << 12 | 3;
    }
    for (uint32_t map = 0; map <= OTHER_MAP; map += OTHER_MAP) {
        const uint8_t *p = patch;
        for (uint32_t i = 0; i < start->patches; i++) {
            uint32_t address = *(const uint32_t *)p, size = *(const uint32_t *)(p + 4);
            copy(address + map, (uint32_t)p + 8, size);
            p += 8 + size;
        }
        *(volatile uint8_t *)(IO_BITMAP + map) = start->bitmap;
        if (start->coprocessor) { /* fldz; fstp %st(0); jmp to the instruction: the x87 remembers CS */
            volatile uint8_t *at = (volatile uint8_t *)(COPROCESSOR + map);
            uint32_t target = start->eip - (COPROCESSOR + 9);
            at[0] = 0xd9, at[1] = 0xee, at[2] = 0xdd, at[3] = 0xd8, at[4] = 0xe9;
            for (int i = 0; i < 4; i++) at[5 + i] = target >> 8 * i;
        }
        for (uint32_t table = GDT; table <= GDT_B; table += GDT_B - GDT) /* LTR wants an available TSS */
            *(volatile uint8_t *)(table + map + (start->tr & ~7u) + 5) &= ~2u;
    }
}

static const uint32_t *run(uint32_t number, const struct start *start) {
    const uint8_t *patch = (const uint8_t *)(start + 1);
    const uint8_t *p = patch;
    for (uint32_t i = 0; i < start->patches; i++) p += 8 + *(const uint32_t *)(p + 4);
    const uint32_t *cells = (const uint32_t *)p;
    prepare(start, patch);
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    __asm__ volatile("clts; fninit");
    enter(start);
    const uint32_t *frame = (const uint32_t *)(captured_frame + (start->cr3 == TABLES_B && captured_frame < RUNNER ? OTHER_MAP : 0));
    uint32_t vector = *frame++ & 0xff, top = captured_frame + 4, error = 0;
    int has_error = vector == 8 || (vector >= 10 && vector <= 14) || vector == 17;
    if (has_error) {
        error = *frame++;
        top += 4;
    }
    uint32_t esp = top + 12, ss = start->ss;
    if ((frame[1] & 3) != 0) {
        esp = frame[3];
        ss = frame[4];
    }
    text("run");
    field("number", number);
    field("vector", vector);
    field("error", has_error ? error : 0xffffffff);
    field("eip", frame[0]);
    field("cs", frame[1] & 0xffff);
    field("eflags", frame[2]);
    field("esp", esp);
    field("ss", ss & 0xffff);
    field("eax", captured_eax);
    field("ecx", captured_ecx);
    field("edx", captured_edx);
    field("ebx", captured_ebx);
    field("ebp", captured_ebp);
    field("esi", captured_esi);
    field("edi", captured_edi);
    field("ds", captured_ds & 0xffff);
    field("es", captured_es & 0xffff);
    field("fs", captured_fs & 0xffff);
    field("gs", captured_gs & 0xffff);
    field("cr2", captured_cr2);
    field("frame", captured_frame);
    uint32_t map = start->cr3 == TABLES_B ? OTHER_MAP : 0;
    for (uint32_t i = 0; i < start->cells; i++) {
        put(' ');
        hex(cells[i]);
        put('=');
        hex(*(const volatile uint32_t *)(cells[i] + map));
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
