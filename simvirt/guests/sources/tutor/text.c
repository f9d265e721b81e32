/* text.c: what C programs expect to find in a library. */
#include "kernel.h"

u32 text_length(const char *text) {
    u32 length = 0;
    while (text[length])
        length++;
    return length;
}

int text_equal(const char *left, const char *right) {
    while (*left && *left == *right)
        left++, right++;
    return *left == *right;
}

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
