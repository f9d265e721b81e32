/* kernel.h: what the files of tutor's kernel know of each other. The README tells what each file is for. */
#ifndef KERNEL_H
#define KERNEL_H

/* Selectors of the GDT in privileged.S; the last two bits are the ring that may ask for them. */
#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE 0x1b
#define USER_DATA 0x23
#define TASK_STATE 0x28

#define PAGE_SIZE 4096
#define SYSTEM_CALL_VECTOR 0x80
#define IDT_VECTORS 0x81
#define FIRST_IRQ_VECTOR 0x20
#define FLAG_RESERVED_ONE 0x002
#define FLAG_INTERRUPT 0x200

/* Linear addresses. Below USER_START memory is the kernel's, each address mapped to itself in every address space. */
#define USER_START 0x40000000
#define USER_END 0x80000000

#ifndef __ASSEMBLER__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int i32;

enum { FAILED = -1 }; /* what a system call returns when it could not be done */

/* What privileged.S leaves on the kernel's stack at an interrupt, an exception or a system call, lowest address first. */
struct frame {
    u32 edi, esi, ebp, esp_of_pusha, ebx, edx, ecx, eax;
    u32 vector;
    u32 error_code; /* 0 where the processor pushes none */
    u32 eip, cs, eflags;
    u32 user_esp, user_ss; /* there only when the interrupt came from ring 3 */
};

/* privileged.S: all that only ring 0 may do, and the way in and out of the kernel. */
u32 interrupts_mask(void);            /* returns what interrupts_restore wants */
void interrupts_restore(u32 before);
void interrupts_on(void);
void wait_for_interrupt(void);        /* called and left with interrupts masked */
void descriptor_tables_load(void);
void kernel_stack_set(u32 stack_top); /* where the processor goes when an interrupt comes in ring 3 */
void paging_start(u32 directory);
void address_space_load(u32 directory);
void page_entry_write(u32 *entry, u32 value);
void page_invalidate(u32 address);
u32 fault_address(void);
u8 port_in8(u32 port);
void port_out8(u32 port, u32 value);
void power_off(u32 status) __attribute__((noreturn));
u32 machine_status_word(void);
u32 task_register(void);
u32 privilege_level(void);
extern u8 idt[], interrupt_stubs[];
void return_from_interrupt(void);

/* context.S */
void context_switch(u32 *save_stack_pointer, u32 stack_pointer);

/* text.c */
u32 text_length(const char *text);
int text_equal(const char *left, const char *right);
void *memcpy(void *destination, const void *source, u32 count);
void *memset(void *destination, int value, u32 count);

/* console.c */
void console_start(void);
void console_interrupt(void);
i32 console_read(char *buffer, u32 size);
void put_char(char character);
void put_string(const char *text);
void put_decimal(u32 value);
void put_hex(u32 value);
void panic(const char *why) __attribute__((noreturn));

/* memory.c */
enum page_flag { PAGE_PRESENT = 1, PAGE_WRITABLE = 2, PAGE_USER = 4, PAGE_COPY_ON_WRITE = 0x200 };
void memory_start(u32 end_of_memory);
void *frame_allocate(void);           /* one page of zeros, or a null pointer */
void frame_free(void *frame);
u32 address_space_make(void);         /* 0 when there is no memory */
u32 address_space_copy(u32 directory);
void address_space_free(u32 directory);
void page_protect(u32 address, int writable);
void page_fault(struct frame *frame);

/* process.c */
enum { PROCESSES = 16, FILES_OPEN = 8, NAME_SIZE = 16 };
enum process_state { FREE, READY, BLOCKED, ENDED };
struct process {
    enum process_state state;
    u32 id, parent;
    u32 directory;           /* of its address space */
    u32 old_directory;       /* of the one that it leaves, while exec loads a program into the new one; else 0 */
    u8 *stack;               /* one page, for its time in the kernel */
    u32 stack_pointer;       /* while another process runs */
    u32 break_address;       /* end of data that it may use */
    const void *waits_for;   /* while BLOCKED */
    u32 wakes_at;            /* tick, while it sleeps for a time */
    int killed;
    i32 status;              /* when ENDED */
    struct file *files[FILES_OPEN];
};
extern struct process *current;
void first_process_start(const char *program) __attribute__((noreturn));
i32 process_fork(struct frame *frame);
i32 process_exec(struct frame *frame, const char *name, const char *const *arguments);
i32 process_wait(i32 *status);
void process_exit(i32 status) __attribute__((noreturn));
i32 process_kill(u32 id);
i32 process_grow(u32 bytes);
void process_sleep(u32 milliseconds);
void process_sleepers_wake(void);
int process_someone_sleeps(void);
void sleep_on(const void *event);     /* called and left with interrupts masked */
void wake_up(const void *event);
void yield(void);

/* timer.c */
enum { TICKS_PER_SECOND = 1000 };
extern volatile u32 ticks;
void timer_start(void);
void timer_interrupt(void);
void idle(void);

/* interrupts.c */
void interrupts_start(void);
void interrupt_line_set(u32 line, int enabled);

/* system_calls.c */
void system_call(struct frame *frame);
int is_user_range(u32 address, u32 size);

/* files.c */
enum open_flag { OPEN_CREATE = 1 };
struct file;
void files_start(void);
struct file *console_file(void);
i32 file_open(const char *name, u32 flags);
void file_close(struct file *file);
struct file *file_share(struct file *file);
i32 file_read(struct file *file, char *buffer, u32 size);
i32 file_write(struct file *file, const char *buffer, u32 size);
i32 file_remove(const char *name);
struct node *node_find(const char *name);
u32 node_read(struct node *node, u32 offset, void *buffer, u32 size);
i32 node_write(struct node *node, u32 offset, const void *buffer, u32 size);

/* pipe.c */
struct pipe *pipe_make(void);
i32 pipe_read(struct pipe *pipe, char *buffer, u32 size);
i32 pipe_write(struct pipe *pipe, const char *buffer, u32 size);
void pipe_close(struct pipe *pipe, int writer);
i32 files_pipe(i32 *descriptors);

/* program.c */
u32 program_load(struct node *node, u32 *entry); /* into the current address space; returns the end of its data, or 0 */

/* programs.S: the files that are there from the start */
struct initial_file {
    const char *name;
    const u8 *data;
    u32 size;
};
extern const struct initial_file initial_files[];

#endif
#endif
