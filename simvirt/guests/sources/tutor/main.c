/* main.c: the kernel starts here, from privileged.S, with interrupts masked and paging off. */
#include "kernel.h"

/* Multiboot Specification 0.6.96, section 3.3: the first three members of the boot information. */
struct boot_information {
    u32 flags, memory_lower, memory_upper; /* in KiB; the upper memory begins at 1 MiB */
};
enum { HAS_MEMORY = 1, ONE_MIB = 0x100000, PROTECTED_MODE = 1, EXTENSION_TYPE = 0x10 };

static void introduce(void) {
    u32 status = machine_status_word();
    put_string("tutor: ring ");
    put_decimal(privilege_level());
    put_string(", task register ");
    put_decimal(task_register());
    put_string(status & PROTECTED_MODE ? ", protected mode" : ", real mode");
    put_string(status & EXTENSION_TYPE ? ", 387\n" : ", 287\n");
}

void kernel_main(const struct boot_information *boot) {
    interrupts_start();
    console_start();
    introduce();
    memory_start(boot->flags & HAS_MEMORY ? ONE_MIB + boot->memory_upper * 1024 : 4 * ONE_MIB);
    files_start();
    timer_start();
    first_process_start("init");
}
