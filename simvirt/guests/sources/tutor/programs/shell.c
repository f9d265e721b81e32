/* shell: runs programs by their names. `a | b` connects them by a pipe, `> file` and `< file` redirect, `a &` does not wait.
 *
 * shell FILE takes the commands from a file, and shows them.
 */
#include "tutor.h"

enum { LINE_SIZE = 128, WORDS = 16 };

static char line[LINE_SIZE];
static char *words[WORDS + 1];

/* Cuts the line into words at its spaces. */
static int split(void) {
    int count = 0;
    for (char *at = line; *at && count < WORDS;) {
        while (*at == ' ')
            *at++ = 0;
        if (*at && *at != '#')
            words[count++] = at;
        else
            break;
        while (*at && *at != ' ')
            at++;
    }
    words[count] = 0;
    return count;
}

static int is(const char *word, const char *text) { return compare(word, text) == 0; }

/* In the child: a program with its words; `<` and `>` and what follows them are not its words. */
static void become(char **from, int input, int output) {
    char *arguments[WORDS + 1];
    int count = 0;
    for (; *from; from++) {
        int reads = is(*from, "<"), writes = is(*from, ">");
        if (!reads && !writes) {
            arguments[count++] = *from;
            continue;
        }
        int file = from[1] ? open(from[1], writes ? CREATE : 0) : -1;
        if (file < 0) {
            print("shell: no such file\n");
            exit(1);
        }
        if (reads)
            input = file;
        else
            output = file;
        from++;
    }
    arguments[count] = 0;
    if (input != INPUT)
        duplicate(input, INPUT);
    if (output != OUTPUT)
        duplicate(output, OUTPUT);
    for (int descriptor = 3; descriptor < 8; descriptor++)
        close(descriptor);
    if (count)
        exec(arguments[0], arguments);
    print("shell: no program ");
    print(count ? arguments[0] : "");
    print("\n");
    exit(127);
}

/* Starts each program of a line; the number of the last. */
static int start(char **from) {
    int input = INPUT, child;
    for (;;) {
        int ends[2] = {INPUT, OUTPUT}, last = 1;
        char **to = from;
        while (*to && !is(*to, "|"))
            to++;
        if (*to) {
            *to = 0;
            last = 0;
            if (pipe(ends) < 0) {
                print("shell: no pipe is left\n");
                return -1;
            }
        }
        child = fork();
        if (child == 0)
            become(from, input, ends[1]);
        if (input != INPUT)
            close(input);
        if (last)
            return child;
        close(ends[1]);
        input = ends[0];
        from = to + 1;
    }
}

static void run(int count) {
    int background = is(words[count - 1], "&"), status = 0, child;
    if (background)
        words[--count] = 0;
    if (!count)
        return;
    int last = start(words);
    if (last < 0) {
        print("shell: no process is left\n");
        return;
    }
    if (background) {
        print("process ");
        print_number((unsigned)last);
        print("\n");
        return;
    }
    do
        child = wait(&status);
    while (child >= 0 && child != last);
    if (status) {
        print("status ");
        print_number((unsigned)status & 255);
        print("\n");
    }
}

int main(int count, char **arguments) {
    int input = count > 1 ? open(arguments[1], 0) : INPUT;
    for (;;) {
        if (input == INPUT)
            print("$ ");
        if (!read_line(input, line, sizeof line))
            return 0;
        if (input != INPUT) {
            print("$ ");
            print(line);
            print("\n");
        }
        int length = split();
        if (!length)
            continue;
        if (is(words[0], "exit"))
            return number_of(words[1]);
        if (is(words[0], "kill"))
            kill(number_of(words[1]));
        else if (is(words[0], "remove") && words[1])
            remove(words[1]);
        else if (is(words[0], "help"))
            print("a program of `ls`, or exit, help, kill, remove; | < > & as usual\n");
        else
            run(length);
    }
}
