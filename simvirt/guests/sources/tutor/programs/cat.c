/* cat: files one behind the other, or its input. */
#include "tutor.h"

static void copy(int descriptor) {
    char buffer[256];
    for (int count; (count = read(descriptor, buffer, sizeof buffer)) > 0;)
        write(OUTPUT, buffer, (unsigned)count);
}

int main(int count, char **arguments) {
    if (count == 1)
        copy(INPUT);
    for (int i = 1; i < count; i++) {
        int file = open(arguments[i], 0);
        if (file < 0) {
            print("cat: no such file\n");
            return 1;
        }
        copy(file);
        close(file);
    }
    return 0;
}
