/* library.c: system calls by their names, and a little text. */
#include "tutor.h"

void exit(int status) {
    for (;;)
        system_call(CALL_EXIT, status, 0, 0);
}
int fork(void) { return system_call(CALL_FORK, 0, 0, 0); }
int exec(const char *name, char **arguments) { return system_call(CALL_EXEC, (int)name, (int)arguments, 0); }
int wait(int *status) { return system_call(CALL_WAIT, (int)status, 0, 0); }
int getpid(void) { return system_call(CALL_GETPID, 0, 0, 0); }
int open(const char *name, int flags) { return system_call(CALL_OPEN, (int)name, flags, 0); }
int close(int descriptor) { return system_call(CALL_CLOSE, descriptor, 0, 0); }
int read(int descriptor, void *buffer, unsigned size) { return system_call(CALL_READ, descriptor, (int)buffer, (int)size); }
int write(int descriptor, const void *buffer, unsigned size) { return system_call(CALL_WRITE, descriptor, (int)buffer, (int)size); }
int pipe(int descriptors[2]) { return system_call(CALL_PIPE, (int)descriptors, 0, 0); }
int duplicate(int descriptor, int other) { return system_call(CALL_DUPLICATE, descriptor, other, 0); }
int remove(const char *name) { return system_call(CALL_REMOVE, (int)name, 0, 0); }
int sleep(unsigned milliseconds) { return system_call(CALL_SLEEP, (int)milliseconds, 0, 0); }
int kill(int process) { return system_call(CALL_KILL, process, 0, 0); }
void *grow(unsigned bytes) { return (void *)system_call(CALL_GROW, (int)bytes, 0, 0); }
void power_off(int status) {
    for (;;)
        system_call(CALL_POWER_OFF, status, 0, 0);
}

unsigned length_of(const char *text) {
    unsigned length = 0;
    while (text[length])
        length++;
    return length;
}

int compare(const char *left, const char *right) {
    while (*left && *left == *right)
        left++, right++;
    return (unsigned char)*left - (unsigned char)*right;
}

void print(const char *text) { write(OUTPUT, text, length_of(text)); }

void print_number(unsigned number) {
    char digits[11], *first = digits + sizeof digits - 1;
    *first = 0;
    do
        *--first = (char)('0' + number % 10);
    while (number /= 10);
    print(first);
}

int number_of(const char *text) {
    int value = 0;
    while (text && *text >= '0' && *text <= '9')
        value = value * 10 + *text++ - '0';
    return value;
}

int read_line(int descriptor, char *line, unsigned size) {
    unsigned length = 0;
    char character;
    while (read(descriptor, &character, 1) == 1) {
        if (character == '\n') {
            line[length] = 0;
            return 1;
        }
        if (length < size - 1)
            line[length++] = character;
    }
    line[length] = 0;
    return length != 0;
}
