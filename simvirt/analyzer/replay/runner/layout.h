/* Where everything lies. The first part is simvirt.analyzer.x86.layout, and a test compares the two. */
#define GDT 0x1000
#define GDT_B 0x1400
#define HANDLERS 0x9000
#define TABLES 0x10000
#define TABLES_B 0x18000
#define OTHER_MAP 0x20000
#define PRISTINE_SIZE 0x30000
#define IO_BITMAP 0x4078

/* In the page of the code under test: what runs before it, in its ring. */
#define COPROCESSOR 0x8f00

#define RUNNER 0x30000
#define PRISTINE 0x40000
#define RUNS 0x70000
#define RUNS_END 0x98000

/* The offsets in `struct start` that entry.S uses. */
#define START_EAX 0
#define START_ECX 4
#define START_EDX 8
#define START_EBX 12
#define START_ESP 16
#define START_EBP 20
#define START_ESI 24
#define START_EDI 28
#define START_EIP 32
#define START_EFLAGS 36
#define START_CS 40
#define START_SS 44
#define START_DS 48
#define START_CPL 52
#define START_ENTRY 56
#define START_CR0 60
#define START_CR3 64
#define START_CR4 68
#define START_LDTR 72
#define START_TR 76
#define START_DR0 80
#define START_GDT 84
#define START_IDT 90
