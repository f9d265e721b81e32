/* ls: the names of all files, and their sizes with -l. */
#include "tutor.h"

int main(int count, char **arguments) {
    struct directory_entry entry;
    int directory = open("/", 0), sizes = count > 1 && compare(arguments[1], "-l") == 0;
    while (read(directory, &entry, sizeof entry) > 0) {
        print(entry.name);
        if (sizes) {
            print(" ");
            print_number(entry.size);
        }
        print("\n");
    }
    return 0;
}
