"""Instructions that the engine executes otherwise than the manual says (docs/deviations.md, "Instructions").

The comparison with QEMU has found them. Each test has the manual's result and fails when the deviation is gone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from simvirt.machine.events import ExceptionRaised
from simvirt.x86.flags import Cr4
from simvirt.x86.registers import GeneralRegister as G
from tests.support.pc import CODE, DATA, PAGE_TABLES, Pc, flat_pc, long_pc, real_pc

_STORE = 0x200
"""Where, behind DATA, a test's code leaves a result."""


@dataclass(frozen=True)
class Example:
    """Code, what is in the registers and at DATA (to which ESI points), and what the manual makes of it."""

    name: str
    code: str
    bits: int = 32
    registers: dict[G, int] = field(default_factory=dict)
    data: bytes = b""
    result: G | None = None
    """The register that is looked at; None for the bytes at DATA + 0x200."""
    manual: int | bytes = 0


EXAMPLES = (
    Example(
        "PHADDD of a register to itself", "0f 10 06 ; movups\n 66 0f 38 02 c0 ; phaddd\n 0f 11 86 00 02 00 00 ; movups",
        32, data=struct.pack("<4I", 1, 2, 3, 4), manual=struct.pack("<4I", 3, 7, 3, 7),
    ),
    Example(
        "an x87 result that was rounded up (C1)", "9b db e3 ; raw\n d9 e8 ; fld1\n da 36 ; fidiv\n df e0 ; fnstsw", 32,
        {G.RAX: 0}, struct.pack("<I", 3), G.RAX, 0x3A20,
    ),
    Example(
        "FSIN", "9b db e3 ; raw\n d9 e8 ; fld1\n d9 fe ; fsin\n db be 00 02 00 00 ; fstp tbyte ptr [esi+200h]", 32,
        manual=(0xD76AA47848677021).to_bytes(8, "little") + b"\xfe\x3f",
    ),
    Example(
        "an MMX result in an x87 register", "9b db e3 ; raw\n 0f 6f 06 ; movq\n"
        "0f ae 86 00 02 00 00 ; fxsave\n 66 8b 86 28 02 00 00 ; mov ax, [esi+228h]",
        32, {G.RAX: 0}, bytes(8), G.RAX, 0xFFFF,
    ),
    Example(
        "SSSE3 with MMX registers and the x87's tag word",
        "9b db e3 ; raw\n 0f 38 1c 06 ; pabsb\n"
        "0f ae 86 00 02 00 00 ; fxsave\n 0f b6 86 04 02 00 00 ; movzx eax, byte ptr [esi+204h]",
        32, {G.RAX: 0}, bytes(8), G.RAX, 0xFF,
    ),
    Example(
        "FISTTP of what does not fit", "9b db e3 ; raw\n d9 06 ; fld\n dd 8e 00 02 00 00 ; fisttp",
        32, data=struct.pack("<f", 3e19), manual=bytes(7) + b"\x80",
    ),
)  # fmt: skip


def _pc(bits: int) -> Pc:
    pc = {16: real_pc, 32: flat_pc, 64: long_pc}[bits]()
    state = pc.state
    state.set_control_register(4, state.cr4 | int(Cr4.OSFXSR))
    state.refresh()
    if bits != 16:
        state[G.RSI] = DATA
    return pc


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_deviation_instructions_that_the_engine_executes_otherwise(example: Example) -> None:
    pc = _pc(example.bits)
    pc.write(DATA, example.data)
    for register, value in example.registers.items():
        pc.state[register] = value
    pc.load(example.code + "\n f4 ; hlt")
    pc.run()
    assert not any(isinstance(event, ExceptionRaised) for event in pc.events)
    if example.result is not None:
        found: int | bytes = pc.state[example.result]
    else:
        assert isinstance(example.manual, bytes)
        found = bytes(pc.memory[DATA + _STORE : DATA + _STORE + len(example.manual)])
    assert found != example.manual


def test_deviation_fxrstor_leaves_the_pointer_of_the_last_instruction() -> None:
    pc = _pc(32)
    pc.write(DATA, b"\x7f\x03".ljust(512, b"\0"))
    pc.load("d9 e8 ; fld1\n 0f ae 0e ; fxrstor\n 0f ae 86 00 02 00 00 ; fxsave\n f4 ; hlt")
    pc.run()
    assert pc.read(DATA + _STORE + 8, 4) == CODE  # of FLD1, by the manual 0


def test_deviation_roundss_reads_16_bytes() -> None:
    """The last doubleword of a page, behind which nothing is mapped."""
    pc = _pc(32)
    directory, table = PAGE_TABLES, PAGE_TABLES + 0x1000
    pc.write32(directory, table | 7)
    for page in range(1023):
        pc.write32(table + 4 * page, page << 12 | 7)
    pc.set_paging(directory, cr4=int(Cr4.OSFXSR))
    pc.state[G.RSI] = 0x3F_EFFC
    pc.load("66 0f 3a 0a 06 00 ; roundss xmm0, [esi], 0")
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.cr2) == (14, 0x3F_F000)
