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

/* The offsets in `struct start` that the entries use. */
#define START_RAX 0
#define START_RCX 8
#define START_RDX 16
#define START_RBX 24
#define START_RSP 32
#define START_RBP 40
#define START_RSI 48
#define START_RDI 56
#define START_R8 64
#define START_RIP 128
#define START_RFLAGS 136
#define START_CS 144
#define START_SS 152
#define START_DS 160
#define START_CPL 168
#define START_ENTRY 176
#define START_CR0 184
#define START_CR3 192
#define START_CR4 200
#define START_LDTR 208
#define START_TR 216
#define START_DR0 224
#define START_GDT 232
#define START_IDT 242
