/* preempt: a child that never calls the kernel, and a parent that gets its turn all the same: the timer takes the processor away. */
#include "tutor.h"

enum { LONG = 20000000 }; /* much longer than the parent sleeps, and yet not for ever */

int main(void) {
    int status, child = fork();
    if (child == 0) {
        for (volatile unsigned left = LONG; left; left--) {
        }
        print("preempt: nobody stopped the child\n");
        return 1;
    }
    sleep(2);
    if (kill(child) == 0)
        print("preempt: the parent had its turn, and killed the child\n");
    wait(&status);
    return 0;
}
