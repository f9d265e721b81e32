"""Guests of a few bytes that make the same exit again and again.

Each is a flat binary, written here as bytes: some preparation, then a loop of N rounds around the instruction in
question, then OUT to the debug-exit port. Tables and data have pages of their own, away from the code.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from simvirt.guests.flat import LOAD_ADDRESS, flat_image

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage

_HANDLER = LOAD_ADDRESS + 0x800
_TABLES = LOAD_ADDRESS + 0x1000
_IDT = LOAD_ADDRESS + 0x2000
_PAGE_DIRECTORY = LOAD_ADDRESS + 0x3000
_PAGE_TABLE = LOAD_ADDRESS + 0x4000
_COUNTER = LOAD_ADDRESS + 0x5000
_SECOND_DIRECTORY: Final = 0x20_0000
_NOT_PRESENT: Final = 0x3FF000
"""A linear address that the page table leaves out."""
_GDT: Final = bytes.fromhex("00000000 00000000 ffff0000 009bcf00 ffff0000 0093cf00")
_CODE_SELECTOR: Final = 8
_INTERRUPT_GATE: Final = 0x8E00
_PAGE_FAULT, _TIMER, _SYSTEM_CALL = 14, 0x20, 0x80


def _le(value: int) -> bytes:
    return struct.pack("<I", value)


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop guest.

    Attributes:
        name: what is repeated.
        body: the instructions in question; EDI is the loop's own.
        setup: what goes before the loop.
        vector: the interrupt or exception that `handler` is for.
        handler: its code.
        exits: control transfers in one round of the loop under trap-and-emulate; elsewhere a round is one.
        rounds_per_event: rounds of the loop that one iteration asked for takes.
    """

    name: str
    body: bytes
    setup: bytes = b""
    vector: int | None = None
    handler: bytes = b""
    exits: int = 1
    rounds_per_event: int = 1

    def image(self, iterations: int) -> GuestImage:
        """The guest; its status is what `handler` counted, or 0."""
        code = bytearray()
        if self.vector is not None:
            code += bytes.fromhex("0f 01 15") + _le(_TABLES + 0x100)  # lgdt [gdtr]
            code += bytes.fromhex("0f 01 1d") + _le(_TABLES + 0x110)  # lidt [idtr]
        code += self.setup
        code += b"\xbf" + _le(iterations * self.rounds_per_event)  # mov edi, rounds
        top = len(code)
        code += self.body
        code += b"\x4f"  # dec edi
        code += bytes.fromhex("0f 85") + struct.pack("<i", top - len(code) - 6)  # jnz top
        code += b"\xa1" + _le(_COUNTER)  # mov eax, [counter]
        code += bytes.fromhex("e7 f4 f4")  # out 0xf4, eax; hlt
        content = bytearray(_COUNTER + 4 - LOAD_ADDRESS)
        for at, data in ((LOAD_ADDRESS, bytes(code)), (_HANDLER, self.handler), *_tables(self.vector)):
            content[at - LOAD_ADDRESS : at - LOAD_ADDRESS + len(data)] = data
        return flat_image(bytes(content), self.name)


def _tables(vector: int | None) -> list[tuple[int, bytes]]:
    """GDT, IDT with one gate, and page tables that map the first 4 MiB to themselves but for one page."""
    pages = [page << 12 | 3 for page in range(1024)]
    pages[_NOT_PRESENT >> 12] = 0
    tables = [
        (_TABLES, _GDT),
        (_TABLES + 0x100, struct.pack("<HI", len(_GDT) - 1, _TABLES)),
        (_TABLES + 0x110, struct.pack("<HI", 0x7FF, _IDT)),
        (_PAGE_DIRECTORY, _le(_PAGE_TABLE | 3)),
        (_PAGE_TABLE, struct.pack("<1024I", *pages)),
    ]
    if vector is not None:
        gate = struct.pack("<HHHH", _HANDLER & 0xFFFF, _CODE_SELECTOR, _INTERRUPT_GATE, _HANDLER >> 16)
        tables.append((_IDT + 8 * vector, gate))
    return tables


_PAGING_ON: Final = (
    b"\xb8" + _le(_PAGE_DIRECTORY)  # mov eax, page_directory
    + bytes.fromhex("0f 22 d8")  # mov cr3, eax
    + bytes.fromhex("0f 20 c0 0d 00 00 00 80 0f 22 c0")  # mov eax, cr0; or eax, 0x80000000; mov cr0, eax
)  # fmt: skip
_PIC_ON: Final = bytes.fromhex(
    "b0 11 e6 20 b0 20 e6 21 b0 04 e6 21 b0 01 e6 21 b0 fe e6 21"  # 8259A: IRQ 0 on vector 0x20, timer alone
    "b0 11 e6 a0 b0 28 e6 a1 b0 02 e6 a1 b0 01 e6 a1 b0 ff e6 a1"
)
_PIT_SLOW: Final = bytes.fromhex("b0 34 e6 43 30 c0 e6 40 e6 40")  # 8254: counter 0 in mode 2, 65,536 pulses
_PIT_FAST: Final = bytes.fromhex(
    "b0 34 e6 43 b0 04 e6 40 30 c0 e6 40"
)  # the same with 4 pulses: every 3,352 instructions
_COUNT_AND_ACKNOWLEDGE: Final = (
    b"\x50\xff\x05" + _le(_COUNTER)  # push eax; inc dword [counter]
    + bytes.fromhex("b0 20 e6 20 58 cf")  # mov al, 0x20; out 0x20, al; pop eax; iret
)  # fmt: skip
_COUNT_AND_TOUCH_A_DEVICE: Final = (
    b"\x50\xff\x05" + _le(_COUNTER)  # push eax; inc dword [counter]
    + bytes.fromhex("e4 40 b0 20 e6 20 58 cf")  # in al, 0x40; mov al, 0x20; out 0x20, al; pop eax; iret
)  # fmt: skip
_SKIP_THE_LOAD: Final = bytes.fromhex("83 c4 04 83 04 24 05 cf")  # add esp, 4; add dword [esp], 5; iret

_LARGE_PAGES_ON: Final = (
    b"\xbf" + _le(_PAGE_DIRECTORY + 4)  # mov edi, its second entry
    + b"\xb8" + _le(0x80_0083) + b"\xb9" + _le(1000) + b"\xf3\xab"  # 1000 large pages, each the 4 MiB from 8 MiB on
    + b"\xb8" + _le(0x10) + bytes.fromhex("0f 22 e0")  # mov cr4, PSE
    + _PAGING_ON
    + b"\xbe" + _le(0x40_0000)  # mov esi, the second entry's linear address
)  # fmt: skip

EMPTY: Final = Loop("empty loop", b"")
CPUID: Final = Loop("CPUID", bytes.fromhex("31 c0 0f a2"))  # xor eax, eax; cpuid
RDTSC: Final = Loop("RDTSC", bytes.fromhex("0f 31"))
CLI_STI: Final = Loop("CLI, STI", bytes.fromhex("fa fb"), exits=2)
READ_CR0: Final = Loop("MOV from CR0", bytes.fromhex("0f 20 c0"))
WRITE_CR3: Final = Loop("MOV to CR3", bytes.fromhex("0f 22 d8"), setup=bytes.fromhex("31 c0"))
SWITCH_ADDRESS_SPACES: Final = Loop(
    "MOV to CR3 with paging on, to another page directory",
    bytes.fromhex("0f 22 d8 31 d0"),  # mov cr3, eax; xor eax, edx
    setup=bytes.fromhex("0f 01 15") + _le(_TABLES + 0x100)  # lgdt [gdtr]
    + b"\xbe" + _le(_PAGE_DIRECTORY) + b"\xbf" + _le(_SECOND_DIRECTORY)  # mov esi, one; mov edi, the other
    + b"\xb9" + _le(1024) + b"\xf3\xa5"  # mov ecx, 1024; rep movsd
    + _PAGING_ON
    + b"\xb8" + _le(_PAGE_DIRECTORY) + b"\xba" + _le(_PAGE_DIRECTORY ^ _SECOND_DIRECTORY),  # mov eax; mov edx
)  # fmt: skip
"""What a kernel does between two processes; under shadow paging it finds the other shadows, and the guest's GDT."""
OUT: Final = Loop("OUT to a port where nothing is", bytes.fromhex("e6 80"))
FIRST_ACCESS: Final = Loop(
    "first access to a page",
    bytes.fromhex("8b 06 81 c6 00 10 00 00"),  # mov eax, [esi]; add esi, 4096
    setup=_LARGE_PAGES_ON,
)
"""A hidden fault under shadow paging; room for a million."""
READ_TIMER: Final = Loop("IN from the 8254's counter 0", bytes.fromhex("e4 40"), setup=_PIT_SLOW)
SYSTEM_CALL: Final = Loop("INT 0x80 and IRET", bytes.fromhex("cd 80"), vector=_SYSTEM_CALL, handler=b"\xcf", exits=2)
SYSTEM_CALL_BESIDE_CODE: Final = Loop(
    "INT 0x80 and IRET, the stack in the code's page",
    bytes.fromhex("cd 80"),
    setup=b"\xbc" + _le(LOAD_ADDRESS + 0x1000),  # mov esp, the end of the page
    vector=_SYSTEM_CALL,
    handler=b"\xcf",
    exits=2,
)
PAGE_FAULT: Final = Loop(
    "page fault delivered, IRET",
    b"\xa1" + _le(_NOT_PRESENT),
    setup=_PAGING_ON,
    vector=_PAGE_FAULT,
    handler=_SKIP_THE_LOAD,
    exits=2,
)
TIMER: Final = Loop(
    "timer interrupt, EOI, IRET",
    b"",
    setup=_PIC_ON + _PIT_FAST + b"\xfb",  # sti
    vector=_TIMER,
    handler=_COUNT_AND_ACKNOWLEDGE,
    exits=2,
    rounds_per_event=3352 // 2,
)
TIMER_AND_DEVICE: Final = replace(
    TIMER, name="timer interrupt, IN from the 8254, EOI, IRET", handler=_COUNT_AND_TOUCH_A_DEVICE
)
"""As `TIMER`, with one more access to a device at each tick, so that the devices are asked in between."""
