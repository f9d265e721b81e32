/* memory.c: the functions that a C compiler may call on its own, even where there is no C library. */
#include "guest.h"

void *memset(void *destination, int value, u32 count) {
    void *end = destination;
    __asm__ volatile("rep stosb" : "+D"(end), "+c"(count) : "a"(value) : "memory");
    return destination;
}

void *memcpy(void *destination, const void *source, u32 count) {
    void *end = destination;
    __asm__ volatile("rep movsb" : "+D"(end), "+S"(source), "+c"(count) : : "memory");
    return destination;
}

int memcmp(const void *left, const void *right, u32 count) {
    const u8 *a = left, *b = right;
    for (; count; count--, a++, b++)
        if (*a != *b)
            return *a - *b;
    return 0;
}
