/* rings: a kernel in ring 0 and a program in ring 3 that talk through INT 0x80.
 *
 * The gate for vector 0x80 has DPL 3, so the program may use it; the TSS says where the kernel's stack is.
 */
#include "guest.h"

enum system_call { SYSTEM_WRITE = 1, SYSTEM_IDENTITY = 2, SYSTEM_EXIT = 3 };
enum { IDENTITY = 7, FAILED = -1, GENERAL_PROTECTION = 13, SYSTEM_CALL_VECTOR = 0x80, STACK_SIZE = 4096 };

void enter_user(void (*program)(void), u8 *stack_top);
u32 system_call(u32 number, u32 first, u32 second);
void try_cli(void);
void try_hlt(void);
void try_out(void);

static u8 kernel_stack[STACK_SIZE] __attribute__((aligned(4096), section(".bss.kernel_stack")));
static u8 user_stack[STACK_SIZE] __attribute__((aligned(4096), section(".bss.user_stack")));
extern u8 guest_end[];
enum { IMAGE_START = 0x100000 };

/* Kernel. */

static u32 system_write(u32 address, u32 length) {
    if (address < IMAGE_START || address > (u32)guest_end || length > (u32)guest_end - address)
        return (u32)FAILED;
    for (u32 i = 0; i < length; i++)
        put_char(((const char *)address)[i]);
    return length;
}

static void on_system_call(struct frame *frame) {
    switch ((enum system_call)frame->eax) {
    case SYSTEM_WRITE:
        frame->eax = system_write(frame->ebx, frame->ecx);
        return;
    case SYSTEM_IDENTITY:
        frame->eax = IDENTITY;
        return;
    case SYSTEM_EXIT:
        put_string("kernel: the program ended with status ");
        put_decimal(frame->ebx);
        put_char('\n');
        exit_guest(frame->ebx);
    }
    frame->eax = (u32)FAILED;
}

static const char *name_of(u32 eip) {
    switch (*(const u8 *)eip) {
    case 0xfa:
        return "CLI";
    case 0xf4:
        return "HLT";
    case 0xee:
        return "OUT";
    default:
        return "?";
    }
}

static void on_general_protection(struct frame *frame) {
    put_string("kernel: #GP error ");
    put_hex(frame->error_code, 4);
    put_string(" in ring ");
    put_decimal(frame->cs & 3);
    put_string(" on ");
    put_string(name_of(frame->eip));
    put_string(", skipped\n");
    if ((frame->cs & 3) == 0)
        exit_guest(2);
    frame->eip += 1;
}

/* The program in ring 3. */

static u32 length_of(const char *text) {
    u32 length = 0;
    while (text[length])
        length++;
    return length;
}

static void user_write(const char *text) { system_call(SYSTEM_WRITE, (u32)text, length_of(text)); }

static void user_program(void) {
    user_write("program: hello from ring 3\n");
    if (system_call(SYSTEM_IDENTITY, 0, 0) == IDENTITY)
        user_write("program: the kernel knows me as number 7\n");
    try_cli();
    try_hlt();
    try_out();
    if (system_call(SYSTEM_WRITE, 0xfffffff0, 32) == (u32)FAILED)
        user_write("program: a write from nowhere was refused\n");
    if (system_call(99, 0, 0) == (u32)FAILED)
        user_write("program: there is no system call 99\n");
    system_call(SYSTEM_EXIT, 5, 0);
}

u32 guest_main(void) {
    install_handler_behind(GATE_USER_TRAP, SYSTEM_CALL_VECTOR, on_system_call);
    install_handler_behind(GATE_TRAP, GENERAL_PROTECTION, on_general_protection);
    interrupt_controller_start(0xffff);
    task_state_start((u32)(kernel_stack + STACK_SIZE));
    put_string("kernel: entering ring 3\n");
    interrupts_on();
    enter_user(user_program, user_stack + STACK_SIZE);
    return 1;
}
