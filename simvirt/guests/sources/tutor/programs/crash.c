/* crash: does what a program may not, and is ended by the kernel: `crash` reads address 0, `crash cli` masks interrupts, `crash divide`
 * divides by 0, `crash float` uses floating point, `crash code` writes its own code, `crash kernel` gives the kernel a bad pointer. */
#include "tutor.h"

int main(int count, char **arguments) {
    const char *how = count > 1 ? arguments[1] : "";
    if (compare(how, "cli") == 0)
        __asm__ volatile("cli");
    else if (compare(how, "divide") == 0)
        __asm__ volatile("divl %0" : : "r"(0), "a"(1), "d"(0));
    else if (compare(how, "float") == 0)
        __asm__ volatile("fldz");
    else if (compare(how, "code") == 0)
        *(volatile char *)main = 0;
    else if (compare(how, "kernel") == 0)
        write(OUTPUT, (const void *)0x60000000, 1);
    else
        (void)*(volatile char *)0;
    return 0;
}
