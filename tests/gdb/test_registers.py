"""The table of registers: every entry writes what it reads, and is what gdb is told it is."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from simvirt.errors import UsageError
from simvirt.gdb.description import description
from simvirt.gdb.registers import I386, LAYOUTS, X86_64, Layout, Register, RegisterFile
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.floating_point import FloatingPoint, renew_rounding
from simvirt.x86.registers import SegmentRegister
from tests.support.pc import DATA, DS3, Pc, flat_pc, long_pc

ROWS = [
    pytest.param(layout, register, id=f"{layout.name}-{register.name}")
    for layout in LAYOUTS.values()
    for register in layout.registers
]
ONLY_SHOWN = {"ldtr", "ldtr_base", "ldtr_limit", "tr", "tr_base", "tr_limit"}
SELECTORS = {register.name.lower() for register in SegmentRegister}


def file_of(pc: Pc) -> RegisterFile:
    return RegisterFile(ArchitecturalState.of(pc.state), lambda at, size: bytes(pc.memory[at : at + size]))


def sample(register: Register) -> int:
    """A value that is not there already, as wide as the register."""
    if register.name in SELECTORS:
        return DS3
    if register.name == "eflags":
        return 0x0024_0A97
    if register.name == "ftag":
        return 0xC0C3  # the engine keeps of a tag whether the register is empty
    if register.name in {"fstat", "fctrl", "fiseg", "foseg", "fop"}:
        return 0x3A5B
    return int.from_bytes(bytes(range(0x11, 0x11 + register.size)), "little")


@pytest.mark.parametrize(("layout", "register"), ROWS)
def test_every_register_reads_what_was_written(layout: Layout, register: Register) -> None:
    pc = long_pc() if layout is X86_64 else flat_pc()
    file = file_of(pc)
    if register.name in ONLY_SHOWN:
        register.decode(file, register.encode(file))
        with pytest.raises(UsageError, match="LLDT and LTR"):
            register.decode(file, bytes([register.encode(file)[0] ^ 1, *register.encode(file)[1:]]))
        return
    others = {other.name: other.encode(file) for other in layout.registers if other is not register}
    value = sample(register).to_bytes(register.size, "little")
    assert register.encode(file) != value
    if register.name == "ftag":
        for number in range(8):  # not empty ones show what is in them
            file.floating_point.set_stack(number, 0)
    register.decode(file, value)
    expected = 0xD5D7 if register.name == "ftag" else int.from_bytes(value, "little")
    assert int.from_bytes(register.encode(RegisterFile(file.result(), file.read)), "little") == expected
    changed = {
        other.name for other in layout.registers if other is not register and other.encode(file) != others[other.name]
    }
    related = {f"{register.name}_base"} if register.name in SELECTORS else {"ftag"} | {f"st{n}" for n in range(8)}
    assert changed <= related, "nothing else has moved"


def test_the_registers_are_the_engine_s_own() -> None:
    """Against Unicorn's public view of the x87 and SSE registers."""
    pc = flat_pc()
    # fninit; fldpi; fld1; fstcw... the values that the instructions leave
    pc.write(0x1_0000, bytes.fromhex("db e3 d9 eb d9 e8 f4"))
    pc.run()
    image = FloatingPoint(ArchitecturalState.of(pc.state).floating_point)
    assert image.stack(0) == 0x3FFF << 64 | 1 << 63
    assert image.stack(1) == 0x4000C90FDAA22168C235
    assert image.status_word >> 11 & 7 == 6
    assert image.tag_word == 0x0FFF
    for number in (0, 7, 15):
        pc.engine.write_public_register(f"XMM{number}", 0x1122 << 64 | number)
        assert FloatingPoint(ArchitecturalState.of(pc.state).floating_point).xmm(number) == 0x1122 << 64 | number


def test_a_new_control_word_rounds() -> None:
    pc = flat_pc()
    pc.write(0x1_0000, bytes.fromhex("db e3 f4  d9 03 df 13 f4"))  # fninit; hlt; fld dword [ebx]; fist word [ebx]
    pc.run()
    pc.state[3] = DATA
    pc.write32(DATA, 0x3FE0_0000)  # 1.75
    file = file_of(pc)
    next(r for r in I386.registers if r.name == "fctrl").decode(file, (0xC7F).to_bytes(4, "little"))  # towards zero
    file.result().put(pc.state)
    renew_rounding(pc.engine)
    pc.state.rip = 0x1_0003
    pc.run()
    assert pc.read(DATA, 2) == 1


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_the_description_is_the_table(layout: Layout) -> None:
    root = ET.fromstring(description(layout))
    described = root.findall("feature/reg")
    assert [(r.get("name"), r.get("bitsize"), r.get("regnum")) for r in described] == [
        (register.name, str(register.bits), str(number)) for number, register in enumerate(layout.registers)
    ]
    assert len({register.name for register in layout.registers}) == len(layout.registers)
    defined = {e.get("id") for e in root.iter() if e.get("id")}
    known = {"int", "int32", "int64", "int128", "data_ptr", "code_ptr", "i387_ext"}
    assert {register.kind for register in layout.registers} <= defined | known


def test_what_gdb_requires_stands_first() -> None:
    """The order of the packets `g` and `G` of stubs without a description, which gdb still assumes in places."""
    assert [r.name for r in I386.registers[:16]] == [
        "eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "eflags", "cs", "ss", "ds", "es", "fs", "gs",
    ]  # fmt: skip
    assert [r.name for r in X86_64.registers[:9]] == ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8"]


def test_a_selector_is_loaded_with_its_descriptor() -> None:
    pc = flat_pc()
    file = file_of(pc)
    row = next(r for r in I386.registers if r.name == "ds")
    row.decode(file, DS3.to_bytes(4, "little"))
    segment = file.result().segments[SegmentRegister.DS]
    assert (segment.selector, segment.dpl, segment.limit) == (DS3, 3, 0xFFFF_FFFF)
    with pytest.raises(UsageError, match="names no descriptor"):
        row.decode(file, (0xFFF8).to_bytes(4, "little"))
    row.decode(file, bytes(4))
    assert not file.result().segments[SegmentRegister.DS].present
