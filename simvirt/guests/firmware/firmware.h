/* What the firmware's C files share. They are compiled for real-address mode: a plain pointer is an offset in the extended BIOS data
 * area, everything else is reached by segment and offset.
 */
#ifndef FIRMWARE_H
#define FIRMWARE_H
#include "layout.h"

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* The caller's registers, as enter_service copies them. */
struct registers {
    u16 es, ds;
    union { u32 edi; u16 di; };
    union { u32 esi; u16 si; };
    union { u32 ebp; u16 bp; };
    u32 esp;
    union { u32 ebx; u16 bx; struct { u8 bl, bh; }; };
    union { u32 edx; u16 dx; struct { u8 dl, dh; }; };
    union { u32 ecx; u16 cx; struct { u8 cl, ch; }; };
    union { u32 eax; u16 ax; struct { u8 al, ah; }; };
    u16 vector, ip, cs, flags;
} __attribute__((packed));

enum { CARRY = 1, ZERO = 0x40 };

/* The disk, as IDENTIFY DEVICE and the size of the image have it. */
struct disk {
    u32 sectors;
    u16 cylinders, heads, sectors_per_track;
    u8 number;                     /* 0: taken for a diskette; 80h: a fixed disk */
    u8 present, status, kind;      /* kind: the drive type of INT 13h, AH = 08h, of a diskette */
};

struct variables { struct disk disk; };
#define VARIABLES ((volatile struct variables *)EBDA_VARIABLES)

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 in8(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u8 get8(u16 segment, u16 offset) {
    u8 value;
    __asm__ volatile("movw %w1, %%fs\n\tmovb %%fs:(%2), %0" : "=q"(value) : "r"(segment), "r"((u32)offset) : "memory");
    return value;
}
static inline u16 get16(u16 segment, u16 offset) {
    u16 value;
    __asm__ volatile("movw %w1, %%fs\n\tmovw %%fs:(%2), %0" : "=r"(value) : "r"(segment), "r"((u32)offset) : "memory");
    return value;
}
static inline u32 get32(u16 segment, u16 offset) {
    u32 value;
    __asm__ volatile("movw %w1, %%fs\n\tmovl %%fs:(%2), %0" : "=r"(value) : "r"(segment), "r"((u32)offset) : "memory");
    return value;
}
static inline void put8(u16 segment, u16 offset, u8 value) {
    __asm__ volatile("movw %w0, %%fs\n\tmovb %2, %%fs:(%1)" : : "r"(segment), "r"((u32)offset), "q"(value) : "memory");
}
static inline void put16(u16 segment, u16 offset, u16 value) {
    __asm__ volatile("movw %w0, %%fs\n\tmovw %2, %%fs:(%1)" : : "r"(segment), "r"((u32)offset), "r"(value) : "memory");
}
static inline void put32(u16 segment, u16 offset, u32 value) {
    __asm__ volatile("movw %w0, %%fs\n\tmovl %2, %%fs:(%1)" : : "r"(segment), "r"((u32)offset), "r"(value) : "memory");
}

static inline u8 cmos(u8 index) {
    out8(0x70, index);
    return in8(0x71);
}

/* entry.S */
void wait_for_interrupt(void);
void enter_boot_sector(u8 drive) __attribute__((noreturn));
void enter_loaded_kernel(void) __attribute__((noreturn));
void move_block(u32 source, u32 destination, u32 size);
extern const u8 loaded_kernel[], vector_table[], diskette_parameters[], system_configuration[], no_boot_text[], keys_plain[], keys_shifted[];
void nothing(void);
static inline u8 rom8(const u8 *label, u16 index) { return get8(FIRMWARE_SEGMENT, (u16)((u32)label + index)); }

/* video.c */
void set_video_mode(u8 mode);
void teletype(u8 character);
void video_service(struct registers *r);
/* disk.c */
void find_disk(void);
int read_sectors(u32 lba, u16 count, u16 segment, u16 offset);
void disk_service(struct registers *r);
/* keyboard.c */
void start_keyboard(void);
void keyboard_arrived(void);
void keyboard_service(struct registers *r);
/* system.c */
void system_service(struct registers *r);
void clock_service(struct registers *r);
void serial_service(struct registers *r);
/* post.c */
void boot(void);

#endif
