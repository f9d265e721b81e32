/* memory.c: page frames, address spaces, and what is done at a page fault.
 *
 * An address space is a page directory (SDM Vol. 3A section 4.3). The page tables below USER_START are the same in all of them. Above,
 * a page gets a frame when it is first touched; fork lets both processes share every frame, and one that can be written is copied when
 * one of them does. Every entry is written by page_entry_write.
 */
#include "kernel.h"

enum { FRAMES = 4096, ENTRIES = 1024, DIRECTORY_SHIFT = 22, PAGE_SHIFT = 12, STACK_LIMIT = 16 * PAGE_SIZE };
enum { FLAGS = PAGE_SIZE - 1, FAULT_PRESENT = 1, FAULT_WRITE = 2 };
enum { FIRST_USER = USER_START >> DIRECTORY_SHIFT, LAST_USER = USER_END >> DIRECTORY_SHIFT };

static u8 shared_by[FRAMES];  /* how many pages a frame is */
static u32 *free_frames;      /* each holds the address of the next */
static u32 kernel_tables[FRAMES / ENTRIES];
extern u8 guest_end[];

void *frame_allocate(void) {
    u32 *frame = free_frames;
    if (!frame)
        return 0;
    free_frames = (u32 *)frame[0];
    shared_by[(u32)frame >> PAGE_SHIFT] = 1;
    return memset(frame, 0, PAGE_SIZE);
}

void frame_free(void *frame) {
    if (--shared_by[(u32)frame >> PAGE_SHIFT])
        return;
    *(u32 **)frame = free_frames;
    free_frames = frame;
}

void memory_start(u32 end_of_memory) {
    if (end_of_memory > FRAMES * PAGE_SIZE)
        end_of_memory = FRAMES * PAGE_SIZE;
    end_of_memory &= ~(u32)FLAGS;
    for (u32 frame = end_of_memory; frame > (u32)guest_end;) {
        frame -= PAGE_SIZE;
        *(u32 **)frame = free_frames;
        free_frames = (u32 *)frame;
    }
    for (u32 address = 0; address < end_of_memory; address += PAGE_SIZE) {
        u32 table = address >> DIRECTORY_SHIFT;
        if (!kernel_tables[table])
            kernel_tables[table] = (u32)frame_allocate();
        ((u32 *)kernel_tables[table])[address >> PAGE_SHIFT & (ENTRIES - 1)] = address | PAGE_WRITABLE | PAGE_PRESENT;
    }
    u32 directory = address_space_make();
    if (!directory)
        panic("this is too little memory");
    paging_start(directory);
}

u32 address_space_make(void) {
    u32 *directory = frame_allocate();
    if (!directory)
        return 0;
    for (u32 table = 0; table < FRAMES / ENTRIES; table++)
        if (kernel_tables[table])
            page_entry_write(&directory[table], kernel_tables[table] | PAGE_WRITABLE | PAGE_PRESENT);
    return (u32)directory;
}

/* The entry for a page, or a null pointer if there is no page table and no frame for one. */
static u32 *page_entry(u32 *directory, u32 address, int make) {
    u32 *of_table = &directory[address >> DIRECTORY_SHIFT];
    if (!(*of_table & PAGE_PRESENT)) {
        u32 table = make ? (u32)frame_allocate() : 0;
        if (!table)
            return 0;
        page_entry_write(of_table, table | PAGE_USER | PAGE_WRITABLE | PAGE_PRESENT);
    }
    return (u32 *)(*of_table & ~(u32)FLAGS) + (address >> PAGE_SHIFT & (ENTRIES - 1));
}

/* fork: every page of the process is shared, and those that can be written are marked to be copied then. */
u32 address_space_copy(u32 directory) {
    u32 *from = (u32 *)directory, *to = (u32 *)address_space_make();
    for (u32 table = FIRST_USER; to && table < LAST_USER; table++) {
        if (!(from[table] & PAGE_PRESENT))
            continue;
        for (u32 page = 0; page < ENTRIES; page++) {
            u32 address = table << DIRECTORY_SHIFT | page << PAGE_SHIFT;
            u32 *old = page_entry(from, address, 0);
            if (!(*old & PAGE_PRESENT))
                continue;
            u32 *new = page_entry(to, address, 1);
            if (!new) {
                address_space_free((u32)to);
                to = 0;
                break;
            }
            if (*old & PAGE_WRITABLE)
                page_entry_write(old, (*old & ~(u32)PAGE_WRITABLE) | PAGE_COPY_ON_WRITE);
            shared_by[*old >> PAGE_SHIFT]++;
            page_entry_write(new, *old);
        }
    }
    address_space_load(directory); /* the TLB may still hold entries that allow to write */
    return (u32)to;
}

void address_space_free(u32 directory) {
    u32 *tables = (u32 *)directory;
    for (u32 table = FIRST_USER; table < LAST_USER; table++) {
        if (!(tables[table] & PAGE_PRESENT))
            continue;
        u32 *entries = (u32 *)(tables[table] & ~(u32)FLAGS);
        for (u32 page = 0; page < ENTRIES; page++)
            if (entries[page] & PAGE_PRESENT)
                frame_free((void *)(entries[page] & ~(u32)FLAGS));
        frame_free(entries);
    }
    frame_free(tables);
}

/* Whether a page of the current process, which is there, may be written. */
void page_protect(u32 address, int writable) {
    u32 *entry = page_entry((u32 *)current->directory, address, 0);
    if (!entry || !(*entry & PAGE_PRESENT))
        return;
    page_entry_write(entry, writable ? *entry | PAGE_WRITABLE : *entry & ~(u32)PAGE_WRITABLE);
    page_invalidate(address);
}

static int page_fill(u32 *entry) {
    u32 frame = (u32)frame_allocate();
    if (frame)
        page_entry_write(entry, frame | PAGE_USER | PAGE_WRITABLE | PAGE_PRESENT);
    return frame != 0;
}

static int page_copy(u32 *entry) {
    u32 old = *entry & ~(u32)FLAGS;
    if (shared_by[old >> PAGE_SHIFT] == 1) { /* the others have gone, or have their copies */
        page_entry_write(entry, old | PAGE_USER | PAGE_WRITABLE | PAGE_PRESENT);
        return 1;
    }
    if (!page_fill(entry))
        return 0;
    memcpy((void *)(*entry & ~(u32)FLAGS), (void *)old, PAGE_SIZE);
    frame_free((void *)old);
    return 1;
}

/* Also when the kernel touches a program's memory for it: so a bad pointer in a system call ends the program, and not the kernel. */
void page_fault(struct frame *frame) {
    u32 address = fault_address(), served = 0;
    if (address < USER_START || address >= USER_END) {
        if ((frame->cs & 3) == 0) {
            put_hex(address);
            put_string(" touched at ");
            put_hex(frame->eip);
            put_char('\n');
            panic("the kernel touched what is not there");
        }
    } else {
        u32 *entry = page_entry((u32 *)current->directory, address, 1);
        if (!entry)
            served = 0;
        else if (!(frame->error_code & FAULT_PRESENT))
            served = (address < current->break_address || address >= USER_END - STACK_LIMIT) && page_fill(entry);
        else if (frame->error_code & FAULT_WRITE && *entry & PAGE_COPY_ON_WRITE)
            served = page_copy(entry);
        page_invalidate(address);
    }
    if (served)
        return;
    put_string("process ");
    put_decimal(current->id);
    put_string(" touched ");
    put_hex(address);
    put_string(": ended\n");
    process_exit(FAILED);
}
