/* system_calls.c: what a program asks for, checked, and done. */
#include "system_calls.h"
#include "kernel.h"

int is_user_range(u32 address, u32 size) {
    return address >= USER_START && address <= USER_END && size <= USER_END - address;
}

/* A string is a program's own if it ends within the program's memory; a page that is not there ends the program (page_fault). */
static const char *user_text(u32 address) {
    for (u32 at = address; is_user_range(at, 1); at++)
        if (!*(const char *)at)
            return (const char *)address;
    return 0;
}

/* The same for the arguments of exec. */
static const char *const *user_texts(u32 address) {
    for (u32 at = address; is_user_range(at, sizeof(u32)); at += sizeof(u32)) {
        if (!*(const u32 *)at)
            return (const char *const *)address;
        if (!user_text(*(const u32 *)at))
            return 0;
    }
    return 0;
}

static struct file *open_file(u32 descriptor) { return descriptor < FILES_OPEN ? current->files[descriptor] : 0; }

static i32 call_close(u32 descriptor) {
    struct file *file = open_file(descriptor);
    if (!file)
        return FAILED;
    current->files[descriptor] = 0;
    file_close(file);
    return 0;
}

static i32 call_duplicate(u32 descriptor, u32 other) {
    struct file *file = open_file(descriptor);
    if (!file || other >= FILES_OPEN)
        return FAILED;
    file_share(file);
    call_close(other);
    current->files[other] = file;
    return (i32)other;
}

static i32 call_pipe(u32 address) {
    i32 ends[2];
    if (!is_user_range(address, sizeof ends) || files_pipe(ends) == FAILED)
        return FAILED;
    memcpy((void *)address, ends, sizeof ends);
    return 0;
}

static i32 call_exec(struct frame *frame, u32 name, u32 arguments) {
    const char *program = user_text(name);
    const char *const *texts = user_texts(arguments);
    return program && texts ? process_exec(frame, program, texts) : FAILED;
}

static i32 serve(struct frame *frame, u32 first, u32 second, u32 third) {
    struct file *file = open_file(first);
    switch ((enum system_call_number)frame->eax) {
    case CALL_EXIT:
        process_exit((i32)first);
    case CALL_FORK:
        return process_fork(frame);
    case CALL_EXEC:
        return call_exec(frame, first, second);
    case CALL_WAIT:
        return is_user_range(first, sizeof(i32)) ? process_wait((i32 *)first) : FAILED;
    case CALL_GETPID:
        return (i32)current->id;
    case CALL_OPEN:
        return user_text(first) ? file_open((const char *)first, second) : FAILED;
    case CALL_CLOSE:
        return call_close(first);
    case CALL_READ:
        return file && is_user_range(second, third) ? file_read(file, (char *)second, third) : FAILED;
    case CALL_WRITE:
        return file && is_user_range(second, third) ? file_write(file, (const char *)second, third) : FAILED;
    case CALL_PIPE:
        return call_pipe(first);
    case CALL_DUPLICATE:
        return call_duplicate(first, second);
    case CALL_REMOVE:
        return user_text(first) ? file_remove((const char *)first) : FAILED;
    case CALL_SLEEP:
        process_sleep(first);
        return 0;
    case CALL_KILL:
        return process_kill(first);
    case CALL_GROW:
        return process_grow(first);
    case CALL_POWER_OFF:
        power_off(first);
    }
    return FAILED;
}

void system_call(struct frame *frame) { frame->eax = (u32)serve(frame, frame->ebx, frame->ecx, frame->edx); }
