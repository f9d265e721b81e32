/* wc: lines, words and bytes of its input. */
#include "tutor.h"

int main(void) {
    char buffer[256], before = ' ';
    unsigned lines = 0, words = 0, bytes = 0;
    for (int count; (count = read(INPUT, buffer, sizeof buffer)) > 0;)
        for (int i = 0; i < count; i++) {
            int space = buffer[i] == ' ' || buffer[i] == '\n';
            bytes++;
            lines += buffer[i] == '\n';
            words += !space && (before == ' ' || before == '\n');
            before = buffer[i];
        }
    print_number(lines);
    print(" ");
    print_number(words);
    print(" ");
    print_number(bytes);
    print("\n");
    return 0;
}
