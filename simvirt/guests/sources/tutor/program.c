/* program.c: a program's file is an ELF image (System V ABI, chapters 4 and 5): its header, program headers, and what they name. */
#include "kernel.h"

struct elf_header {
    u8 identity[16];
    u16 type, machine;
    u32 version, entry, program_headers, section_headers, flags;
    u16 header_size, program_header_size, program_header_count, rest[3];
};
struct program_header {
    u32 type, offset, address, physical_address, size_in_file, size_in_memory, flags, alignment;
};
enum { MAGIC = 0x464c457f, EXECUTABLE = 2, MACHINE_386 = 3, LOAD = 1, FLAG_WRITABLE = 2 };

/* Into the current address space, whose pages appear as they are written to. */
u32 program_load(struct node *node, u32 *entry) {
    struct elf_header header;
    struct program_header segment;
    if (node_read(node, 0, &header, sizeof header) != sizeof header || *(u32 *)header.identity != MAGIC)
        return 0;
    if (header.type != EXECUTABLE || header.machine != MACHINE_386)
        return 0;
    u32 end = 0;
    for (u32 i = 0; i < header.program_header_count; i++) {
        u32 at = header.program_headers + i * header.program_header_size;
        if (node_read(node, at, &segment, sizeof segment) != sizeof segment)
            return 0;
        if (segment.type != LOAD || segment.size_in_memory == 0)
            continue;
        if (segment.size_in_file > segment.size_in_memory || !is_user_range(segment.address, segment.size_in_memory))
            return 0;
        u32 segment_end = segment.address + segment.size_in_memory;
        current->break_address = end = segment_end > end ? segment_end : end;
        if (node_read(node, segment.offset, (void *)segment.address, segment.size_in_file) != segment.size_in_file)
            return 0;
        for (u32 page = segment.address & ~(PAGE_SIZE - 1u); page < segment_end && !(segment.flags & FLAG_WRITABLE); page += PAGE_SIZE)
            page_protect(page, 0);
    }
    current->break_address = (end + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1u);
    *entry = header.entry;
    return end;
}
