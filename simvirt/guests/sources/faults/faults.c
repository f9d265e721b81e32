/* faults: raises the exceptions that a program can raise, and reports how each arrived: vector, error code, and whether the saved EIP
 * is that of the instruction (a fault) or behind it (a trap). SDM Vol. 3A table 6-1 and section 6.15.
 */
#include "guest.h"

u32 resume_address;
static volatile struct {
    u32 vector, error_code, eip;
} seen;

static void on_exception(struct frame *frame) {
    seen.vector = frame->vector;
    seen.error_code = frame->error_code;
    seen.eip = frame->eip;
    frame->eip = resume_address;
}

/* name, what the console says, whether the processor pushes an error code */
#define PROBES(_)                                             \
    _(divide, "#DE  division by zero          ", 0)           \
    _(breakpoint, "#BP  INT3                      ", 0)       \
    _(overflow, "#OF  INTO                      ", 0)         \
    _(bound, "#BR  BOUND                     ", 0)            \
    _(invalid_opcode, "#UD  UD2                       ", 0)   \
    _(not_present, "#NP  segment not present       ", 1)      \
    _(not_present_gate, "#NP  gate not present          ", 1) \
    _(stack, "#SS  stack segment not present ", 1)            \
    _(selector, "#GP  selector beyond the GDT   ", 1)         \
    _(empty_gate, "#GP  gate of no type           ", 1)       \
    _(beyond_table, "#GP  vector beyond the IDT     ", 1)

#define DECLARE(name, text, has_error_code) \
    void probe_##name(void);                \
    extern u8 site_##name[];
PROBES(DECLARE)

static const struct {
    const char *text;
    void (*run)(void);
    u8 *site;
    u32 has_error_code;
} probes[] = {
#define ROW(name, text, has_error_code) {text, probe_##name, site_##name, has_error_code},
    PROBES(ROW)
};

u32 guest_main(void) {
    enum { PRESENT_BIT = 0x80, DATA_WRITABLE = 0x12, LAST_EXCEPTION = 19, UNUSED = 0x41, BIG_32_BIT_PAGES = 0xc };
    for (u32 vector = 0; vector <= LAST_EXCEPTION; vector++)
        install_handler(vector, on_exception);
    install_handler_behind((enum gate)(GATE_INTERRUPT & ~PRESENT_BIT), UNUSED, on_exception);
    set_descriptor(SPARE_DESCRIPTOR, 0, 0xfffff, DATA_WRITABLE, BIG_32_BIT_PAGES);
    for (u32 i = 0; i < sizeof probes / sizeof *probes; i++) {
        seen.vector = 0xff;
        probes[i].run();
        put_string(probes[i].text);
        put_string("vector ");
        put_hex(seen.vector, 2);
        put_string(" error ");
        if (probes[i].has_error_code)
            put_hex(seen.error_code, 4);
        else
            put_string("none");
        put_string(seen.eip == (u32)probes[i].site ? " eip at the instruction\n" : " eip behind the instruction\n");
    }
    return 0;
}
