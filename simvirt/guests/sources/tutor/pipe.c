/* pipe.c: bytes from one process to another. Who reads an empty pipe sleeps until there is something, who writes a full one until there is
 * room; at the other end's closing a reader finds the end, and a writer fails. */
#include "kernel.h"

enum { PIPES = 16, PIPE_SIZE = 512 };

struct pipe {
    int readers, writers; /* one or none; neither: unused */
    u32 put, taken;       /* both only count up */
    char ring[PIPE_SIZE];
};
static struct pipe pipes[PIPES];

struct pipe *pipe_make(void) {
    for (struct pipe *pipe = pipes; pipe < pipes + PIPES; pipe++)
        if (!pipe->readers && !pipe->writers) {
            pipe->readers = pipe->writers = 1;
            pipe->put = pipe->taken = 0;
            return pipe;
        }
    return 0;
}

i32 pipe_read(struct pipe *pipe, char *buffer, u32 size) {
    u32 count = 0, before = interrupts_mask();
    while (pipe->put == pipe->taken && pipe->writers)
        sleep_on(pipe);
    interrupts_restore(before);
    while (count < size && pipe->taken != pipe->put)
        buffer[count++] = pipe->ring[pipe->taken++ % PIPE_SIZE];
    wake_up(pipe);
    return (i32)count;
}

i32 pipe_write(struct pipe *pipe, const char *buffer, u32 size) {
    for (u32 count = 0; count < size; count++) {
        u32 before = interrupts_mask();
        while (pipe->put - pipe->taken == PIPE_SIZE && pipe->readers) {
            wake_up(pipe);
            sleep_on(pipe);
        }
        interrupts_restore(before);
        if (!pipe->readers)
            return FAILED;
        pipe->ring[pipe->put++ % PIPE_SIZE] = buffer[count];
    }
    wake_up(pipe);
    return (i32)size;
}

void pipe_close(struct pipe *pipe, int writer) {
    if (writer)
        pipe->writers = 0;
    else
        pipe->readers = 0;
    wake_up(pipe);
}
