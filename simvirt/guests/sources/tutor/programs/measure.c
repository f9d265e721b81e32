/* measure: does something many times, between a [ and a ] on the console: whoever runs the kernel can look at the clock there.
 *
 * `measure call 100` asks a hundred times for its number, the shortest system call; `page` touches pages that it has not touched yet;
 * `fork` makes a process that ends at once, and `exec` one that becomes another program first; `pipe` passes a byte to itself, and `turn`
 * to another process, which passes one back.
 */
#include "tutor.h"

enum { PAGE = 4096 };

static char byte, *memory;
static int there[2], back[2];

static void do_call(void) { getpid(); }

static void do_page(void) {
    *memory = 1;
    memory += PAGE;
}

static void do_fork(void) {
    int status;
    if (fork() == 0)
        exit(0);
    wait(&status);
}

static void do_exec(void) {
    char *nothing[] = {"measure", 0};
    int status;
    if (fork() == 0) {
        exec("measure", nothing);
        exit(1);
    }
    wait(&status);
}

static void do_pipe(void) {
    write(there[1], &byte, 1);
    read(there[0], &byte, 1);
}

static void do_turn(void) {
    write(there[1], &byte, 1);
    read(back[0], &byte, 1);
}

/* The other process of `turn`, until nobody can write to it any more. */
static void answer(void) {
    close(there[1]);
    while (read(there[0], &byte, 1) == 1)
        write(back[1], &byte, 1);
    exit(0);
}

static const struct {
    const char *name;
    void (*function)(void);
} things[] = {{"call", do_call}, {"page", do_page}, {"fork", do_fork}, {"exec", do_exec}, {"pipe", do_pipe}, {"turn", do_turn}};

int main(int count, char **arguments) {
    unsigned chosen = 0, all = sizeof things / sizeof things[0], times = count > 2 ? (unsigned)number_of(arguments[2]) : 0;
    if (count == 1)
        return 0; /* it is what `exec` has run */
    while (chosen < all && compare(arguments[1], things[chosen].name))
        chosen++;
    memory = grow(times * PAGE);
    if (chosen == all || (int)memory == -1 || pipe(there) < 0 || pipe(back) < 0) {
        print("measure: call, page, fork, exec, pipe or turn, and how often\n");
        return 1;
    }
    if (things[chosen].function == do_turn && fork() == 0)
        answer();
    print("[");
    for (unsigned time = 0; time < times; time++)
        things[chosen].function();
    print("]\n");
    return 0;
}
