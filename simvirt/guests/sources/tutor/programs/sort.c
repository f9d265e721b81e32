/* sort: the lines of its input in order. They are kept in memory that it asks for line by line. */
#include "tutor.h"

enum { LINE_SIZE = 128 };

struct item {
    struct item *next;
    char text[];
};

int main(void) {
    static char line[LINE_SIZE];
    struct item *first = 0;
    while (read_line(INPUT, line, sizeof line)) {
        struct item *item = grow((sizeof *item + length_of(line) + 1 + 3) & ~3u), **place = &first;
        if ((int)item == -1)
            return 1;
        for (unsigned i = 0; i <= length_of(line); i++)
            item->text[i] = line[i];
        while (*place && compare((*place)->text, line) <= 0)
            place = &(*place)->next;
        item->next = *place;
        *place = item;
    }
    for (; first; first = first->next) {
        print(first->text);
        print("\n");
    }
    return 0;
}
