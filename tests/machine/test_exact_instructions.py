"""Instructions that the CPU does itself, because the engine does them otherwise (machine/exact_instructions.py).

The comparison with QEMU has found them; each test has the manual's result.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from simvirt.machine.events import ExceptionRaised
from simvirt.machine.state import Segment
from simvirt.x86.flags import Cr4, Eflags
from simvirt.x86.registers import GeneralRegister as G
from tests.support.pc import CODE, CS, DATA, PAGE_TABLES, SS, Pc, flat_pc, long_pc, real_pc

_MODES = {16: real_pc, 32: flat_pc, 64: long_pc}


@dataclass(frozen=True)
class Example:
    """Code, what is in the registers, and what the manual makes of it."""

    name: str
    code: str
    bits: int
    registers: dict[G, int] = field(default_factory=dict)
    result: G = G.RAX
    manual: int = 0
    flags: Eflags | None = None
    """Of CF, ZF, SF and OF, those that are set; None where they do not change."""


EXAMPLES = (
    Example(
        "BZHI with an index of the operand's size", "c4 e2 70 f5 c2 ; bzhi eax, edx, ecx", 32,
        {G.RDX: 0xFFFF_FFFF, G.RCX: 0x20}, manual=0xFFFF_FFFF, flags=Eflags.CF | Eflags.SF,
    ),
    Example(
        "BZHI with index 0", "c4 e2 70 f5 c2 ; bzhi eax, edx, ecx", 32,
        {G.RDX: 0xFFFF_FFFF, G.RCX: 0xFF00}, manual=0, flags=Eflags.ZF,
    ),
    Example(
        "BLSI of 0", "c4 e2 78 f3 da ; blsi eax, edx", 32,
        {G.RDX: 0}, manual=0, flags=Eflags.ZF,
    ),
    Example(
        "BLSI", "c4 e2 f8 f3 da ; blsi rax, rdx", 64,
        {G.RDX: 0xC000_0000_0000_0000}, manual=0x4000_0000_0000_0000, flags=Eflags.CF,
    ),
    Example(
        "BEXTR of 32 bits", "c4 e2 78 f7 ca ; bextr ecx, edx, eax", 64,
        {G.RDX: 0x1_8000_0000, G.RAX: 0x1F | 32 << 8}, result=G.RCX, manual=1, flags=Eflags(0),
    ),
    Example(
        "PDEP of 32 bits", "c4 e2 73 f5 c2 ; pdep eax, ecx, edx", 64,
        {G.RCX: 0xFFFF_FFFF, G.RDX: 0x3_0000_0001}, manual=1,
    ),
    Example(
        "PEXT of 64 bits", "c4 e2 f2 f5 c2 ; pext rax, rcx, rdx", 64,
        {G.RCX: 0xA500_0000_0000_00C3, G.RDX: 0xFF00_0000_0000_00F0}, manual=0xA5C,
    ),
    Example(
        "POPCNT in 16-bit code", "f3 0f b8 c1 ; popcnt ax, cx", 16,
        {G.RCX: 0xFFFF_0001, G.RAX: 0xAAAA_0000}, manual=0xAAAA_0001, flags=Eflags(0),
    ),
    Example(
        "POPCNT of 32 bits in 16-bit code", "66 f3 0f b8 c1 ; popcnt eax, ecx", 16,
        {G.RCX: 0xFFFF_0001, G.RAX: 0}, manual=17, flags=Eflags(0),
    ),
    Example(
        "RORX relative to RIP",
        "c4 e3 fb f0 05 01 00 00 00 00 ; rorx rax, [rip+1], 0\n f4 ; hlt\n 01 02 03 04 05 06 07 08 ; data",
        64, {G.RAX: 0}, manual=0x0807_0605_0403_0201,
    ),
)  # fmt: skip
_DEFINED = Eflags.CF | Eflags.ZF | Eflags.OF


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_what_the_manual_says(example: Example) -> None:
    pc = _MODES[example.bits]()
    for register, value in example.registers.items():
        pc.state[register] = value
    before = pc.state.eflags = int(Eflags.OF | Eflags.CF) | 2
    pc.load(example.code + "\n f4 ; hlt")
    pc.run()
    assert not any(isinstance(event, ExceptionRaised) for event in pc.events)
    assert pc.state[example.result] == example.manual
    wanted = before if example.flags is None else int(example.flags)
    assert (pc.state.eflags ^ wanted) & int(_DEFINED) == 0


def test_pext_undoes_pdep() -> None:
    """PDEP of any value through any mask, and PEXT back: what is left are as many low bits as the mask has ones."""
    numbers = random.Random(1)
    for _ in range(20):
        pc = long_pc()
        value, mask = numbers.getrandbits(64), numbers.getrandbits(64) & numbers.getrandbits(64)
        pc.state[G.RCX], pc.state[G.RDX] = value, mask
        pc.load("c4 e2 f3 f5 c2 ; pdep rax, rcx, rdx\n c4 e2 fa f5 da ; pext rbx, rax, rdx\n f4 ; hlt")
        pc.run()
        assert pc.state[G.RAX] & ~mask == 0
        assert pc.state[G.RBX] == value & (1 << mask.bit_count()) - 1


def test_a_faulting_operand_changes_nothing() -> None:
    pc = flat_pc()
    pc.write32(PAGE_TABLES, 0)
    _map_low_memory(pc)
    pc.state[G.RSI], pc.state[G.RAX] = 0x4000_0000, 7
    pc.load("c4 e2 70 f5 06 ; bzhi eax, [esi], ecx")
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code, event.cr2) == (14, 0, 0x4000_0000)
    assert (pc.state.rip, pc.state[G.RAX]) == (CODE, 7)


def _map_low_memory(pc: Pc) -> None:
    """The first 4 MiB to themselves, for everybody."""
    directory, table = PAGE_TABLES, PAGE_TABLES + 0x1000
    pc.write32(directory, table | 7)
    for page in range(1024):
        pc.write32(table + 4 * page, page << 12 | 7)
    pc.set_paging(directory)


@pytest.mark.parametrize("code", ["6e ; outsb", "6c ; insb", "6d ; insd", "f3 6e ; rep outsb"])
def test_string_io_asks_for_the_port_before_it_accesses_memory(code: str) -> None:
    """At CPL 3 with IOPL 0 and no I/O bitmap, at an address that is not mapped (SDM Vol. 2A "INS")."""
    pc = flat_pc()
    _map_low_memory(pc)
    pc.user()
    pc.state[G.RSI] = pc.state[G.RDI] = 0x4000_0000
    pc.state[G.RCX] = 1
    pc.load(code)
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code) == (13, 0)


def test_an_ins_that_is_not_permitted_stores_nothing() -> None:
    pc = flat_pc()
    _map_low_memory(pc)
    pc.user()
    pc.write32(DATA, 0x1122_3344)
    pc.state[G.RDI] = DATA
    pc.load("6c ; insb")
    assert isinstance(pc.event(), ExceptionRaised)
    assert pc.read(DATA, 4) == 0x1122_3344


def test_repeated_string_io_without_a_count_needs_no_permission() -> None:
    pc = flat_pc()
    _map_low_memory(pc)
    pc.user()
    pc.state[G.RCX] = 0
    pc.load("f3 6c ; rep insb\n 90 ; nop")
    pc.step()
    pc.step()
    assert pc.state.rip == CODE + 3


@pytest.mark.parametrize("iopl", [0, 3])
def test_pushfd_in_virtual_8086_mode_stores_vm_and_rf_as_0(iopl: int) -> None:
    pc = flat_pc()
    state = pc.state
    state.set_segment(CS, Segment(CODE >> 4, CODE, 0xFFFF, 0xFB00))
    state.set_segment(SS, Segment(0x3000, 0x3_0000, 0xFFFF, 0xF300))
    state.rip, state.rsp = 0, 0x100
    state.eflags = 2 | int(Eflags.VM | Eflags.CF | Eflags.AC) | iopl << 12
    state.refresh()
    pc.load("66 9c ; pushfd", bits=16)
    if iopl < 3:
        event = pc.event()
        assert isinstance(event, ExceptionRaised)
        assert (event.vector, event.error_code, state.rsp) == (13, 0, 0x100)
    else:
        pc.step()
        assert pc.read(0x3_00FC, 4) == 3 | int(Eflags.AC) | 3 << 12
        assert (state.rip, state.rsp) == (2, 0xFC)


_OF_16_BIT_CODE = {
    "andn": "c4 e2 70 f2 c2",
    "blsi": "c4 e2 78 f3 da",
    "blsmsk": "c4 e2 78 f3 d2",
    "blsr": "c4 e2 78 f3 ca",
    "mulx": "c4 e2 73 f6 c3",
    "mulx with one destination": "c4 e2 7b f6 c3",
    "sarx": "c4 e2 72 f7 c2",
    "shlx": "c4 e2 71 f7 c2",
    "shrx": "c4 e2 73 f7 c2",
}


@pytest.mark.parametrize("name", _OF_16_BIT_CODE)
def test_bmi_in_16_bit_protected_mode_is_what_it_is_in_32_bit_code(name: str) -> None:
    """The engine has these in 32-bit code alone (SDM Vol. 2A §2.3: VEX is #UD in real and virtual-8086 mode only)."""
    generator = random.Random(name)
    for value in (0, 1, 0x8000_0000, 0xFFFF_FFFF, *(generator.getrandbits(32) for _ in range(10))):
        results = []
        for bits in (32, 16):
            pc = flat_pc()
            pc.state.set_control_register(4, int(Cr4.OSFXSR))  # the engine wants it for SHLX in 32-bit code
            pc.state.refresh()
            pc.state[G.RDX], pc.state[G.RCX], pc.state[G.RBX] = value, value >> 3 | 5, value ^ 0x1234_5678
            if bits == 16:
                pc.state.set_segment(CS, Segment(8, 0, 0xF_FFFF, 0x8F_9B00))
                pc.state.refresh()
            pc.write(CODE, bytes.fromhex(_OF_16_BIT_CODE[name]))
            pc.step()
            registers = [pc.state[register] for register in (G.RAX, G.RBX, G.RCX, G.RDX)]
            kept = int(Eflags.CF | Eflags.ZF | Eflags.SF | Eflags.OF)
            results.append((pc.state.rip, registers, pc.state.eflags & kept))
        assert results[0] == results[1]
        assert results[0][0] == CODE + 5
