/* primes: Eratosthenes' sieve as Hoare's chain of processes. Each keeps the first number that it is given, and passes on what that does
 * not divide. Six processes find six primes. */
#include "tutor.h"

enum { PRIMES = 6, LAST = 40 };

int main(void) {
    int ends[2], status, number = 2;
    pipe(ends);
    if (fork() == 0) {
        close(ends[0]);
        for (; number <= LAST; number++)
            write(ends[1], &number, sizeof number);
        return 0;
    }
    close(ends[1]);
    for (int found = 0; found < PRIMES; found++) {
        int input = ends[0], prime;
        if (read(input, &prime, sizeof prime) != sizeof prime)
            break;
        print_number((unsigned)prime);
        print(found + 1 < PRIMES ? " " : "\n");
        pipe(ends);
        if (fork() == 0) {
            close(ends[0]);
            while (read(input, &number, sizeof number) == sizeof number)
                if (number % prime && write(ends[1], &number, sizeof number) < 0)
                    break;
            return 0;
        }
        close(input);
        close(ends[1]);
    }
    close(ends[0]);
    while (wait(&status) >= 0) {
    }
    return 0;
}
