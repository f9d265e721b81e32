/* tutor.h: what a program may use. It begins in main, and ends when that returns or by exit. */
#ifndef TUTOR_H
#define TUTOR_H

#include "system_calls.h"

enum { INPUT = 0, OUTPUT = 1, CREATE = 1 };

int system_call(int number, int first, int second, int third);

void exit(int status) __attribute__((noreturn));
int fork(void);
int exec(const char *name, char **arguments);
int wait(int *status);
int getpid(void);
int open(const char *name, int flags);
int close(int descriptor);
int read(int descriptor, void *buffer, unsigned size);
int write(int descriptor, const void *buffer, unsigned size);
int pipe(int descriptors[2]);
int duplicate(int descriptor, int other);
int remove(const char *name);
int sleep(unsigned milliseconds);
int kill(int process);
void *grow(unsigned bytes);
void power_off(int status) __attribute__((noreturn));

unsigned length_of(const char *text);
int compare(const char *left, const char *right); /* below, at or above 0, as the left text is before, at or behind the right one */
void print(const char *text);
void print_number(unsigned number);
int number_of(const char *text); /* its decimal digits; 0 when there are none */
int read_line(int descriptor, char *line, unsigned size); /* without its end; 0 when there is none */

#endif
