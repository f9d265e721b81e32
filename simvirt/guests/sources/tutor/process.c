/* process.c: processes, and whose turn it is. */
#include "kernel.h"

enum { ARGUMENTS = 16, ARGUMENT_BYTES = 512, FIRST_ID = 1 };

static struct process processes[PROCESSES];
struct process *current;
static u32 last_id;

/* Round robin: the next process behind this one that is ready. With interrupts masked, for their handlers make processes ready. */
static struct process *next_ready(void) {
    u32 here = (u32)(current - processes);
    for (u32 step = 1; step <= PROCESSES; step++) {
        struct process *process = &processes[(here + step) % PROCESSES];
        if (process->state == READY)
            return process;
    }
    return 0;
}

static void schedule(void) {
    struct process *before = current, *next;
    while (!(next = next_ready()))
        idle();
    if (next == before)
        return;
    current = next;
    kernel_stack_set((u32)next->stack + PAGE_SIZE);
    address_space_load(next->directory);
    context_switch(&before->stack_pointer, next->stack_pointer);
}

void yield(void) {
    u32 before = interrupts_mask();
    schedule();
    interrupts_restore(before);
}

/* Until wake_up of the same event. The caller has masked interrupts since it looked: so it cannot come in between, and be missed. */
void sleep_on(const void *event) {
    current->waits_for = event;
    current->state = BLOCKED;
    schedule();
    if (current->killed)
        process_exit(FAILED);
}

void wake_up(const void *event) {
    u32 before = interrupts_mask();
    for (struct process *process = processes; process < processes + PROCESSES; process++)
        if (process->state == BLOCKED && process->waits_for == event)
            process->state = READY;
    interrupts_restore(before);
}

void process_sleep(u32 milliseconds) {
    u32 before = interrupts_mask();
    u32 wait = milliseconds / 1000 * TICKS_PER_SECOND + milliseconds % 1000 * TICKS_PER_SECOND / 1000;
    current->wakes_at = ticks + wait + 1; /* the first tick is not a whole one */
    while ((i32)(current->wakes_at - ticks) > 0)
        sleep_on(&current->wakes_at);
    interrupts_restore(before);
}

void process_sleepers_wake(void) {
    for (struct process *process = processes; process < processes + PROCESSES; process++)
        if (process->state == BLOCKED && process->waits_for == &process->wakes_at && (i32)(process->wakes_at - ticks) <= 0)
            process->state = READY;
}

int process_someone_sleeps(void) {
    for (struct process *process = processes; process < processes + PROCESSES; process++)
        if (process->state == BLOCKED && process->waits_for == &process->wakes_at)
            return 1;
    return 0;
}

/* A process without memory, that will leave the kernel by the frame at the top of its stack. */
static struct process *process_make(struct frame **frame) {
    struct process *process = processes;
    while (process < processes + PROCESSES && process->state != FREE)
        process++;
    if (process == processes + PROCESSES || !(process->stack = frame_allocate()))
        return 0;
    *frame = (struct frame *)(process->stack + PAGE_SIZE) - 1;
    u32 *context = (u32 *)*frame - 5; /* what context_switch pops: four registers, and where it returns to */
    context[4] = (u32)return_from_interrupt;
    process->stack_pointer = (u32)context;
    process->id = ++last_id;
    process->killed = 0;
    process->old_directory = 0;
    return process;
}

i32 process_fork(struct frame *frame) {
    struct frame *of_child;
    struct process *child = process_make(&of_child);
    if (!child)
        return FAILED;
    if (!(child->directory = address_space_copy(current->directory))) {
        frame_free(child->stack);
        return FAILED;
    }
    *of_child = *frame;
    of_child->eax = 0;
    child->parent = current->id;
    child->break_address = current->break_address;
    for (u32 i = 0; i < FILES_OPEN; i++)
        child->files[i] = current->files[i] ? file_share(current->files[i]) : 0;
    child->state = READY;
    return (i32)child->id;
}

/* Copies the arguments to the top of the new stack: the strings, the pointers to them, and what main takes. */
static u32 arguments_pass(const char *text, u32 size, u32 count) {
    u32 strings = USER_END - ARGUMENT_BYTES, *pointers = (u32 *)(strings - (ARGUMENTS + 1) * sizeof(u32));
    memcpy((void *)strings, text, size);
    for (u32 i = 0; i < count; i++) {
        pointers[i] = strings;
        strings += text_length((const char *)strings) + 1;
    }
    pointers[count] = 0;
    pointers[-1] = (u32)pointers;
    pointers[-2] = count;
    return (u32)(pointers - 2);
}

i32 process_exec(struct frame *frame, const char *name, const char *const *arguments) {
    char text[ARGUMENT_BYTES];
    u32 size = 0, count = 0, entry, break_before = current->break_address;
    for (; arguments[count]; count++) {
        u32 length = text_length(arguments[count]) + 1;
        if (count == ARGUMENTS || length > ARGUMENT_BYTES - size)
            return FAILED;
        memcpy(text + size, arguments[count], length);
        size += length;
    }
    struct node *node = node_find(name);
    u32 directory = node ? address_space_make() : 0;
    if (!directory)
        return FAILED;
    current->old_directory = current->directory; /* if memory runs out, the process ends here, and process_wait frees both */
    current->directory = directory;
    address_space_load(directory);
    if (!program_load(node, &entry)) {
        current->directory = current->old_directory;
        current->old_directory = 0;
        current->break_address = break_before;
        address_space_load(current->directory);
        address_space_free(directory);
        return FAILED;
    }
    address_space_free(current->old_directory);
    current->old_directory = 0;
    frame->user_esp = arguments_pass(text, size, count);
    frame->eip = entry;
    frame->eax = frame->ebx = frame->ecx = frame->edx = frame->esi = frame->edi = frame->ebp = 0;
    return 0;
}

/* The children of a process that ends become init's. What it was is kept until its parent asks. */
void process_exit(i32 status) {
    for (u32 i = 0; i < FILES_OPEN; i++)
        if (current->files[i])
            file_close(current->files[i]);
    interrupts_mask();
    for (struct process *process = processes; process < processes + PROCESSES; process++) {
        if (process->state != FREE && process->parent == current->id)
            process->parent = FIRST_ID;
        if (process->state != FREE && (process->id == current->parent || process->id == FIRST_ID))
            wake_up(process);
    }
    if (current->id == FIRST_ID)
        panic("init has ended");
    current->status = status;
    current->state = ENDED;
    schedule();
    panic("a process that has ended was given its turn");
}

i32 process_wait(i32 *status) {
    u32 before = interrupts_mask();
    for (;;) {
        int children = 0;
        for (struct process *process = processes; process < processes + PROCESSES; process++) {
            if (process->state == FREE || process->parent != current->id)
                continue;
            children++;
            if (process->state != ENDED)
                continue;
            address_space_free(process->directory);
            if (process->old_directory)
                address_space_free(process->old_directory);
            frame_free(process->stack);
            process->state = FREE;
            interrupts_restore(before);
            *status = process->status;
            return (i32)process->id;
        }
        if (!children)
            break;
        sleep_on(current);
    }
    interrupts_restore(before);
    return FAILED;
}

i32 process_kill(u32 id) {
    for (struct process *process = processes; process < processes + PROCESSES; process++) {
        if (process->id != id || id == FIRST_ID || process->state == FREE || process->state == ENDED)
            continue;
        u32 before = interrupts_mask();
        process->killed = 1;
        process->state = READY; /* sleep_on ends it */
        interrupts_restore(before);
        return 0;
    }
    return FAILED;
}

i32 process_grow(u32 bytes) {
    u32 address = current->break_address;
    if (bytes > USER_END - USER_START || address + bytes > USER_END - USER_END / 4)
        return FAILED;
    current->break_address = address + bytes;
    return (i32)address;
}

/* The frame of the first process is as if it had called exec from ring 3. */
void first_process_start(const char *program) {
    const char *const arguments[] = {program, 0};
    struct frame *frame;
    struct process *process = process_make(&frame);
    if (!process || !(process->directory = address_space_make()))
        panic("no memory for the first process");
    process->state = READY;
    for (u32 i = 0; i < 3; i++)
        process->files[i] = console_file();
    current = process;
    frame->cs = USER_CODE;
    frame->user_ss = USER_DATA;
    frame->eflags = FLAG_RESERVED_ONE | FLAG_INTERRUPT;
    address_space_load(process->directory);
    if (process_exec(frame, program, arguments) == FAILED)
        panic("the first program cannot be loaded");
    kernel_stack_set((u32)process->stack + PAGE_SIZE);
    u32 boot_stack_pointer;
    context_switch(&boot_stack_pointer, process->stack_pointer);
    panic("the boot stack was given a turn");
}
