"""The frame around a random program: descriptor tables, handlers, paging, devices, and the way out.

::

    0x10000  start, handlers, then the random body
    0x40000  data that the body works on
    0x48000  routines that the body overwrites
    0x50000  stacks
    0x60000  GDT, IDT, TSS with I/O bitmap, variables, page tables

With paging on everything is mapped at its own address, and once more from WINDOW on: aliases of the routines, pages
that differ in the two address spaces, pages that are present only after a page fault, and a read-only page.

Every handler mixes what it was given (vector, error code, address of the interrupted instruction) into ACCUMULATOR,
so an imprecise exception or an interrupt at another instruction changes the state for good.
"""

from __future__ import annotations

from typing import Final

from tests.support.assembler import Assembler, d16, d32

CODE: Final = 0x10000
BODY_END: Final = 0x40000
DATA, DATA_SIZE = 0x40000, 0x4000
ROUTINES, ROUTINE_PAGES = 0x48000, 4
SWITCHED: Final = (0x4C000, 0x4D000)
"""Physical pages of one linear page, in the two address spaces."""
STRADDLE: Final = 0x4E000
"""Two physical pages of code; the second is not always mapped."""
KERNEL_STACK, USER_STACK = 0x54000, 0x58000
GDT, IDT, TSS, TSS_LIMIT = 0x60000, 0x60800, 0x61000, 0x68 + 0x400
VARIABLES: Final = 0x64000
RESUME, SAVED_ESP, USER_RETURN, ACCUMULATOR, FAULTS, TICKS, STEPS = (VARIABLES + 4 * i for i in range(7))
SLOTS: Final = VARIABLES + 0x100
"""Loop counters, one for each loop."""
DIRECTORIES: Final = (0x68000, 0x6B000)
LAZY_FRAMES: Final = 0x70000
END: Final = 0x78000
MEMORY_SIZE: Final = 0x80000

WINDOW: Final = 0x400000
WINDOW_SWITCHED, WINDOW_LAZY, WINDOW_STRADDLE, WINDOW_READ_ONLY = (WINDOW + 0x1000 * i for i in (8, 16, 24, 28))
LAZY_PAGES: Final = 8

KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA, TASK, CALL_GATE = 0x08, 0x10, 0x1B, 0x23, 0x28, 0x33
SYSTEM_CALL, LEAVE_USER, KERNEL_ONLY = 0x80, 0x81, 0x82
_WITH_ERROR_CODE: Final = frozenset({8, 10, 11, 12, 13, 14, 17})
OPEN_PORTS: Final = (0x40, 0x61, 0x80)
"""Ports that the I/O bitmap gives to ring 3."""


def descriptor(base: int, limit: int, access: int, flags: int) -> bytes:
    """A segment descriptor (SDM Vol. 3A Figure 3-8)."""
    low = limit & 0xFFFF | (base & 0xFFFF) << 16
    high = base >> 16 & 0xFF | access << 8 | (limit >> 16 & 0xF) << 16 | flags << 20 | base & 0xFF000000
    return d32(low) + d32(high)


def gate(selector: int, offset: int, access: int) -> bytes:
    """An interrupt, trap or call gate (SDM Vol. 3A Figures 5-8 and 6-2)."""
    return d16(offset) + d16(selector) + b"\0" + bytes([access]) + d16(offset >> 16)


def out8(a: Assembler, port: int, value: int) -> None:
    """MOV AL, value; OUT port, AL."""
    a.emit("b0", bytes([value]), b"\xe6", bytes([port]))


def emit_start(a: Assembler, *, paging: bool, timer: int | None, uart_ier: int) -> None:
    """From the boot protocol's state to a kernel that is ready for the body."""
    a.label("start")
    a.address("0f0115", "gdtr")
    a.address("ea", "flat", d16(KERNEL_CODE))
    a.label("flat")
    a.emit("66b8", d16(USER_DATA)).emit("8ed8 8ec0 8ee0 8ee8")
    a.emit("66b8", d16(KERNEL_DATA)).emit("8ed0").emit("bc", d32(KERNEL_STACK))
    a.address("0f011d", "idtr")
    a.emit("66b8", d16(TASK)).emit("0f00d8")
    for port, value in (
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 4),
        (0x21, 1),
        (0xA0, 0x11),
        (0xA1, 0x28),
        (0xA1, 2),
        (0xA1, 1),
        (0xA1, 0xFF),
    ):
        out8(a, port, value)
    out8(a, 0x21, 0xEE if timer is not None or uart_ier else 0xFF)
    if timer is not None:
        out8(a, 0x43, 0x34)
        out8(a, 0x40, timer & 0xFF)
        out8(a, 0x40, timer >> 8)
    a.emit("66bafc03 b00b ee 66baf903 b0", bytes([uart_ier]), b"\xee")
    if paging:
        a.emit("b8", d32(DIRECTORIES[0])).emit("0f22d8 0f20c0 0d00000180 0f22c0 eb00")
    a.emit("fc 6a02 9d dbe3")  # CLD; PUSH 2; POPF; FNINIT


def emit_end(a: Assembler) -> None:
    """Leave by the debug-exit port."""
    a.label("end")
    a.emit("fa b02a e6f4")
    a.label("stop")
    a.emit("f4").jump("eb", "stop", size=1)


def _mix(a: Assembler, offset: int) -> None:
    """XOR ACCUMULATOR with the doubleword at ESP+offset, then rotate it. Uses EAX, which the caller has pushed."""
    a.emit("8b4424", bytes([offset]), b"\x31\x05", d32(ACCUMULATOR)).emit("c105", d32(ACCUMULATOR), b"\x07")


def emit_handlers(a: Assembler, *, paging: bool, late_sti: bool) -> None:
    """One handler for each vector that has a gate; `late_sti`: interrupt handlers end in STI, IRET."""
    for vector in range(32):
        a.label(f"vector_{vector}")
        if vector == 14 and paging:
            _emit_page_fault(a)
        elif vector in (1, 3, 4):
            a.emit("50")
            _mix(a, 4)
            if vector == 1:
                a.emit("ff05", d32(STEPS)).emit("31c0 0f23f0")  # DR6 is the handler's to clear
            a.emit("58 cf")
        else:
            a.emit("8135", d32(ACCUMULATOR), d32(vector << 8))
            a.jump("e9", "fault_with_code" if vector in _WITH_ERROR_CODE else "fault")
    a.label("fault_with_code")
    a.emit("50")
    _mix(a, 4)
    a.emit("58 83c404")
    a.label("fault")
    a.emit("50")
    _mix(a, 4)
    a.emit("ff05", d32(FAULTS)).emit("a1", d32(RESUME)).emit("89442404 58 cf")
    end = "fb cf" if late_sti else "cf"
    a.label("irq_timer")
    a.emit("50")
    _mix(a, 4)
    a.emit("ff05", d32(TICKS)).emit("b020 e620 58").emit(end)
    a.label("irq_uart")
    a.emit("50 52")
    _mix(a, 8)
    a.emit("66bafa03 ec b020 e620 5a 58").emit(end)
    a.label("system_call")
    a.emit("50")
    _mix(a, 4)
    a.emit("58 cf")
    a.label("leave_user")
    a.emit("8b25", d32(SAVED_ESP)).emit("ff25", d32(USER_RETURN))
    a.label("through_gate")
    a.emit("ff05", d32(FAULTS)).emit("cb")


def _emit_page_fault(a: Assembler) -> None:
    """Map the page if it is a lazy one and absent; otherwise treat the fault as the others."""
    first = (WINDOW_LAZY - WINDOW) >> 12
    last = ((WINDOW_STRADDLE - WINDOW) >> 12) + 1
    a.emit("50 51")
    _mix(a, 8)
    a.emit("0f20d0 3105", d32(ACCUMULATOR)).emit("89c1 81e9", d32(WINDOW)).emit("c1e90c")
    a.emit("83f9", bytes([first])).jump("0f82", "no_lazy_page")
    a.emit("83f9", bytes([last])).jump("0f87", "no_lazy_page")
    for directory in DIRECTORIES:
        a.emit("810c8d", d32(directory + 0x2000), d32(1))
    a.emit("0f0138 59 58 83c404 cf")
    a.label("no_lazy_page")
    a.emit("59 58")
    a.jump("e9", "fault_with_code")


def tables(a: Assembler) -> dict[int, bytes]:
    """Everything that is not code, by address."""
    gdt = bytes(8)
    gdt += descriptor(0, 0xFFFFF, 0x9A, 0xC) + descriptor(0, 0xFFFFF, 0x92, 0xC)
    gdt += descriptor(0, 0xFFFFF, 0xFA, 0xC) + descriptor(0, 0xFFFFF, 0xF2, 0xC)
    gdt += descriptor(TSS, TSS_LIMIT, 0x89, 0) + gate(KERNEL_CODE, a["through_gate"], 0xEC)
    targets = {vector: f"vector_{vector}" for vector in range(32)} | {0x20: "irq_timer", 0x24: "irq_uart"}
    targets |= {SYSTEM_CALL: "system_call", LEAVE_USER: "leave_user", KERNEL_ONLY: "system_call"}
    user = {3, 4, SYSTEM_CALL, LEAVE_USER}
    idt = b"".join(
        gate(KERNEL_CODE, a[targets[v]], 0xEE if v in user else 0x8E) if v in targets else bytes(8) for v in range(256)
    )
    bitmap = bytearray(b"\xff" * 0x400)
    for port in OPEN_PORTS:
        bitmap[port >> 3] &= ~(1 << (port & 7))
    tss = bytearray(0x68)
    tss[4:8], tss[8:10], tss[0x66:0x68] = d32(KERNEL_STACK), d16(KERNEL_DATA), d16(0x68)
    return {GDT: gdt, IDT: idt, TSS: bytes(tss + bitmap) + b"\xff"}


def page_tables() -> dict[int, bytes]:
    """Both address spaces: directory, identity table of the first 4 MiB, table of the window."""
    found = {}
    for number, directory in enumerate(DIRECTORIES):
        found[directory] = d32(directory + 0x1000 | 7) + d32(directory + 0x2000 | 7)
        supervisor = range(DIRECTORIES[0] >> 12, (DIRECTORIES[1] >> 12) + 3)
        found[directory + 0x1000] = b"".join(
            d32(page << 12 | (3 if page in supervisor else 7)) for page in range(END >> 12)
        )
        window = {i: ROUTINES + 0x1000 * i | 7 for i in range(ROUTINE_PAGES)}
        window[8] = SWITCHED[number] | 7
        window |= {16 + i: LAZY_FRAMES + 0x1000 * i | 6 for i in range(LAZY_PAGES)}
        window |= {24: STRADDLE | 7, 25: STRADDLE + 0x1000 | 6, 28: DATA | 5}
        found[directory + 0x2000] = b"".join(d32(window.get(i, 0)) for i in range(32))
    return found
