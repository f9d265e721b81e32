"""What an x86's state consists of, and which part of Popek and Goldberg's model each piece is.

Verdicts hang on this table, so it is data, with the reasons:

* M is CPL. CS and SS carry it: their selectors' RPL and their descriptors' DPL are CPL itself, so where one of them
  holds the flat segment of its ring it reads the same at every CPL, "its ring's", and DPL is left out of its
  attributes. What a program *sees* of them, a number in a general register, differs: MOV from CS is sensitive by it.
* P is EIP, and CS without its privilege; likewise what the x87 keeps of them, the place of its last instruction.
* G are the registers that a program loads as it likes: general registers, data segments, the status flags, DF, TF, NT,
  AC, RF and ID, and the x87, MMX and SSE registers.
* C is what the manual calls system registers, IF and IOPL among them, the TSS's I/O permission bitmap, and what the
  processor says of itself by CPUID.
* A is CR3 with the paging structures behind it.
* D^P is what stands in a device behind a port.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.state import Component, Part
from simvirt.analyzer.x86 import layout
from simvirt.machine.msrs import STORED
from simvirt.machine.platforms import StateOffsets
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.flags import Cr0, Cr4, Eflags
from simvirt.x86.msrs import Msr
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simvirt.analyzer.model.state import Value
    from simvirt.analyzer.x86.surroundings import Surroundings
    from simvirt.machine.cpu import Cpu

    Read = Callable[[Cpu, Surroundings], Value]
    Write = Callable[[Cpu, Surroundings, Value], None]

OWN: Final = "its ring's"
"""CS or SS holds the flat segment of the current ring."""
MODE: Final = "CPL"
IO_BITMAP: Final = "TSS I/O permission bitmap"
PROCESSOR: Final = "processor"
TIME_STAMP: Final = "IA32_TIME_STAMP_COUNTER"
ADDRESS_MAP: Final = "CR3"
PORT: Final = f"port {layout.PORT:x}h"
ACTIVITY: Final = "activity"
RUNNING, IN_HLT = "running", "in HLT"
COPROCESSOR_CODE_SEGMENT: Final = "x87 code segment"
COPROCESSOR_INSTRUCTION_POINTER: Final = "x87 instruction pointer"
FLOATING_POINT: Final = "x87, MMX and SSE registers"


@dataclass(frozen=True, slots=True)
class Accessor:
    """A component, and how it is read from a processor and written to one."""

    component: Component
    read: Read
    write: Write


_O: Final = StateOffsets()
_IF, _IOPL, _VM = int(Eflags.IF), int(Eflags.IOPL), int(Eflags.VM)
_VIRTUAL: Final = int(Eflags.VIF | Eflags.VIP)
_GENERAL_FLAGS: Final = 0xFFFF_FFFF & ~(_IF | _IOPL | _VM | _VIRTUAL)
_CR0_BITS: Final[tuple[tuple[Cr0, str], ...]] = (
    (Cr0.MP, "monitor coprocessor"),
    (Cr0.EM, "emulation"),
    (Cr0.TS, "task switched"),
    (Cr0.NE, "numeric error"),
    (Cr0.WP, "write protect"),
    (Cr0.AM, "alignment mask"),
)
_CR4_BITS: Final[tuple[tuple[Cr4, str], ...]] = (
    (Cr4.TSD, "time-stamp disable"),
    (Cr4.DE, "debugging extensions"),
    (Cr4.PCE, "performance-counter enable"),
    (Cr4.OSFXSR, "FXSAVE and SSE enabled"),
    (Cr4.OSXMMEXCPT, "SSE exceptions enabled"),
    (Cr4.UMIP, "user-mode instruction prevention"),
    (Cr4.FSGSBASE, "FS and GS base instructions enabled"),
)
_MSRS: Final = (
    (Msr.IA32_SYSENTER_CS, "SYSENTER's code segment"),
    (Msr.IA32_SYSENTER_ESP, "SYSENTER's stack pointer"),
    (Msr.IA32_SYSENTER_EIP, "SYSENTER's entry point"),
    (Msr.IA32_STAR, "SYSCALL's segments"),
    (Msr.IA32_LSTAR, "SYSCALL's entry point"),
    (Msr.IA32_CSTAR, "SYSCALL's entry point in compatibility mode"),
    (Msr.IA32_FMASK, "the flags that SYSCALL clears"),
    (Msr.IA32_KERNEL_GS_BASE, "what SWAPGS swaps in"),
    (Msr.IA32_TSC_AUX, "what RDTSCP and RDPID read"),
    (Msr.IA32_PAT, "page attributes"),
)


def accessors(bits: int) -> tuple[Accessor, ...]:
    """All components of a processor whose code has `bits` bits, in the order in which a state shows them."""
    return tuple(_accessors(bits))


def _accessors(bits: int) -> Iterator[Accessor]:
    yield _row(MODE, Part.MODE, "current privilege level", lambda cpu, _: int(cpu.state.cpl), _set_cpl)
    wide = bits == 64
    instruction_pointer = "RIP" if wide else "EIP"
    yield _row(instruction_pointer, Part.PROGRAM_COUNTER, "instruction pointer", lambda cpu, _: cpu.state.rip, _set_rip)
    for register in GeneralRegister if wide else tuple(GeneralRegister)[:8]:
        yield _general(register, bits)
    yield _row(
        "RFLAGS" if wide else "EFLAGS", Part.GENERAL, "status flags, DF, TF, NT, AC, RF, ID", *_flags(_GENERAL_FLAGS)
    )
    yield _row("EFLAGS.IF", Part.CONFIGURATION, "interrupts enabled", *_flags(_IF))
    yield _row("EFLAGS.IOPL", Part.CONFIGURATION, "I/O privilege level", *_flags(_IOPL))
    yield _row("EFLAGS.VM", Part.CONFIGURATION, "virtual-8086 mode", *_flags(_VM))
    yield _row("EFLAGS.VIF, VIP", Part.CONFIGURATION, "virtual interrupt flags", *_flags(_VIRTUAL))
    for segment in SegmentRegister:
        yield from _segment(segment)
    for bit, title in _CR0_BITS:
        yield _row(f"CR0.{bit.name}", Part.CONFIGURATION, title, *_control(0, int(bit)))
    yield _row(
        "CR0", Part.CONFIGURATION, "the rest of CR0", *_control(0, 0xFFFF_FFFF & ~sum(int(b) for b, _ in _CR0_BITS))
    )
    yield _row("CR2", Part.CONFIGURATION, "page-fault linear address", *_control(2, (1 << 64) - 1))
    for feature, title in _CR4_BITS:
        yield _row(f"CR4.{feature.name}", Part.CONFIGURATION, title, *_control(4, int(feature)))
    yield _row(
        "CR4", Part.CONFIGURATION, "the rest of CR4", *_control(4, 0xFFFF_FFFF & ~sum(int(b) for b, _ in _CR4_BITS))
    )
    yield _row(ADDRESS_MAP, Part.ADDRESS_MAP, "the paging structures", *_control(3, (1 << 64) - 1))
    for name in ("GDTR", "IDTR"):
        yield from _table(name)
    for name, title in (("LDTR", "local descriptor table"), ("TR", "task state")):
        yield _row(name, Part.CONFIGURATION, title, *_system_segment(name))
    for number in (0, 1, 2, 3, 6, 7):
        yield _row(f"DR{number}", Part.CONFIGURATION, "debug register", *_debug(number))
    yield _row("IA32_EFER", Part.CONFIGURATION, "extended features", lambda cpu, _: cpu.state.efer, _set_efer)
    for msr, title in _MSRS:
        yield _row(msr.name, Part.CONFIGURATION, title, *_msr(msr))
    yield _row(TIME_STAMP, Part.CONFIGURATION, "time-stamp counter", lambda _, around: around.time, _set_time)
    yield _row(PROCESSOR, Part.CONFIGURATION, "what CPUID tells", lambda _, around: around.cpu_model.name, _set_model)
    yield _row(IO_BITMAP, Part.CONFIGURATION, f"port {layout.PORT:x}h", _bitmap, _set_bitmap)
    yield _row(PORT, Part.PORT_DEVICES, "a device's register", lambda _, around: around.port_value, _set_port)
    yield _row(ACTIVITY, Part.GENERAL, "running, or in HLT", lambda _, around: around.activity, _set_activity)
    yield _row(FLOATING_POINT, Part.GENERAL, "registers of the coprocessors", *_floating_point())
    title = "of the last x87 instruction"
    yield _row(COPROCESSOR_CODE_SEGMENT, Part.PROGRAM_COUNTER, title, *_coprocessor_code_segment())
    yield _row(COPROCESSOR_INSTRUCTION_POINTER, Part.PROGRAM_COUNTER, title, *_coprocessor_instruction_pointer())


def _row(name: str, part: Part, title: str, read: Read, write: Write) -> Accessor:
    return Accessor(Component(name, part, title), read, write)


def _integer(value: Value) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no register's value")
    return value


def _set_cpl(cpu: Cpu, _around: Surroundings, value: Value) -> None:
    cpl = _integer(value)
    state = cpu.state
    for register, selector in (
        (SegmentRegister.CS, layout.CODE_SEGMENTS[cpl]),
        (SegmentRegister.SS, layout.STACK_SEGMENTS[cpl]),
    ):
        old = state.segment(register)
        state.set_segment(register, Segment(selector, old.base, old.limit, old.flags & ~0x6000 | cpl << 13))
    state.refresh(cpl=cpl)


def _set_rip(cpu: Cpu, _around: Surroundings, value: Value) -> None:
    cpu.state.rip = _integer(value)


def _general(register: GeneralRegister, bits: int) -> Accessor:
    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        cpu.state[register] = _integer(value)

    return _row(register.name_at(bits).upper(), Part.GENERAL, "", lambda cpu, _: cpu.state[register], write)


def _flags(mask: int) -> tuple[Read, Write]:
    shift = (mask & -mask).bit_length() - 1 if mask != _GENERAL_FLAGS else 0

    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        cpu.state.eflags = cpu.state.eflags & ~mask | _integer(value) << shift

    return lambda cpu, _: (cpu.state.eflags & mask) >> shift, write


def _segment(register: SegmentRegister) -> Iterator[Accessor]:
    """A segment register: its selector, and its hidden part in words."""
    own = {SegmentRegister.CS: layout.CODE_SEGMENTS, SegmentRegister.SS: layout.STACK_SEGMENTS}.get(register)
    part = Part.PROGRAM_COUNTER if register is SegmentRegister.CS else Part.GENERAL
    dpl_mask = 0x6000 if own else 0

    def read(cpu: Cpu, _around: Surroundings) -> Value:
        selector = cpu.state.selector(register)
        return OWN if own and own.get(int(cpu.state.cpl)) == selector else selector

    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        if value == OWN:  # written with CPL
            return
        old = cpu.state.segment(register)
        cpu.state.set_segment(register, Segment(_integer(value), old.base, old.limit, old.flags))

    def read_hidden(cpu: Cpu, _around: Surroundings) -> Value:
        hidden = cpu.state.segment(register)
        return f"base {hidden.base:#x} limit {hidden.limit:#x} attributes {hidden.flags & ~dpl_mask:#x}"

    def write_hidden(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        words = str(value).split()
        base, limit, flags = (int(word, 16) for word in words[1::2])
        old = cpu.state.segment(register)
        cpu.state.set_segment(register, Segment(old.selector, base, limit, flags | old.flags & dpl_mask))

    yield _row(register.name, part, "segment register", read, write)
    yield _row(f"{register.name} descriptor", part, "the register's hidden part", read_hidden, write_hidden)


def _control(number: int, mask: int) -> tuple[Read, Write]:
    shift = (mask & -mask).bit_length() - 1 if mask.bit_count() == 1 else 0

    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        cpu.state.set_control_register(number, cpu.state.control_register(number) & ~mask | _integer(value) << shift)

    return lambda cpu, _: (cpu.state.control_register(number) & mask) >> shift, write


def _table(name: str) -> Iterator[Accessor]:
    attribute = name.lower()

    def table(cpu: Cpu) -> DescriptorTable:
        found: DescriptorTable = getattr(cpu.state, attribute)
        return found

    def set_base(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        setattr(cpu.state, attribute, DescriptorTable(_integer(value), table(cpu).limit))

    def set_limit(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        setattr(cpu.state, attribute, DescriptorTable(table(cpu).base, _integer(value)))

    title = "global descriptor table" if name == "GDTR" else "interrupt descriptor table"
    yield _row(f"{name}.base", Part.CONFIGURATION, title, lambda cpu, _: table(cpu).base, set_base)
    yield _row(f"{name}.limit", Part.CONFIGURATION, title, lambda cpu, _: table(cpu).limit, set_limit)


_SYSTEM_SEGMENTS: Final = {
    "LDTR": {
        0: Segment(0, 0, 0, 0),
        layout.OWN_LDT: Segment(layout.OWN_LDT, layout.LDT, layout.LDT_LIMIT, 0x8200),
        layout.OTHER_LDT: Segment(layout.OTHER_LDT, layout.LDT_B, layout.LDT_LIMIT, 0x8200),
    },
    "TR": {
        layout.OWN_TSS: Segment(layout.OWN_TSS, layout.TSS, 0x68 + layout.IO_BITMAP_BYTES, 0x8900),
        layout.OTHER_TSS: Segment(layout.OTHER_TSS, layout.TSS_B, 0x68 + layout.IO_BITMAP_BYTES, 0x8900),
    },
}


def _system_segment(name: str) -> tuple[Read, Write]:
    attribute = "ldtr" if name == "LDTR" else "tr"

    def read(cpu: Cpu, _around: Surroundings) -> Value:
        found: Segment = getattr(cpu.state, attribute)
        if _SYSTEM_SEGMENTS[name].get(found.selector, found).base == found.base:
            return found.selector
        return f"{found.selector:#x} base {found.base:#x}"

    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        setattr(cpu.state, attribute, _SYSTEM_SEGMENTS[name][_integer(value)])

    return read, write


def _debug(number: int) -> tuple[Read, Write]:
    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        cpu.state.set_debug_register(number, _integer(value))

    return lambda cpu, _: cpu.state.debug_register(number), write


def _set_efer(cpu: Cpu, _around: Surroundings, value: Value) -> None:
    cpu.state.efer = _integer(value)


def _msr(msr: Msr) -> tuple[Read, Write]:
    storage = STORED[msr]

    def read(cpu: Cpu, _around: Surroundings) -> Value:
        state = cpu.state
        return state.word(storage.offset) if storage.size == 8 else state.doubleword(storage.offset)

    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        put = cpu.state.set_word if storage.size == 8 else cpu.state.set_doubleword
        put(storage.offset, _integer(value))

    return read, write


def _set_time(_cpu: Cpu, around: Surroundings, value: Value) -> None:
    around.time = _integer(value)


def _set_model(_cpu: Cpu, around: Surroundings, value: Value) -> None:
    around.set_cpu_model(str(value))


def _set_port(_cpu: Cpu, around: Surroundings, value: Value) -> None:
    around.port_value = _integer(value)


def _set_activity(_cpu: Cpu, around: Surroundings, value: Value) -> None:
    around.activity = str(value)


_BITMAP_WORDS: Final = {layout.IO_DENIED: "denies", layout.IO_ALLOWED: "allows"}
_BITMAP_BYTES: Final = {word: byte for byte, word in _BITMAP_WORDS.items()}


def _bitmap(cpu: Cpu, _around: Surroundings) -> Value:
    byte = cpu.engine.memory.view[layout.IO_BITMAP_BYTE]
    return _BITMAP_WORDS.get(byte, byte)


def _set_bitmap(cpu: Cpu, _around: Surroundings, value: Value) -> None:
    for map_offset in (0, layout.OTHER_MAP):
        cpu.engine.memory.view[layout.IO_BITMAP_BYTE + map_offset] = _BITMAP_BYTES[str(value)]


_FCS, _FIP, _FDP_END = _O.fpcs, _O.fpcs + 6, _O.fpcs + 22
"""The x87's code segment; its instruction pointer, and the end of its data pointer."""


def _floating_point() -> tuple[Read, Write]:
    """All but the code segment and the instruction pointer of the last x87 instruction."""
    first = _O.efer + 8

    def read(cpu: Cpu, _around: Surroundings) -> Value:
        found = bytearray(cpu.state.floating_point)
        found[_FCS - first : _FCS - first + 2] = bytes(2)
        found[_FIP - first : _FIP - first + 8] = bytes(8)
        return bytes(found)

    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        if not isinstance(value, bytes):
            raise TypeError("the coprocessors' registers are bytes")
        cpu.state.floating_point = value

    return read, write


def _coprocessor_code_segment() -> tuple[Read, Write]:
    def read(cpu: Cpu, _around: Surroundings) -> Value:
        selector = int.from_bytes(cpu.state.image[_FCS : _FCS + 2], "little")
        return OWN if selector == layout.CODE_SEGMENTS.get(int(cpu.state.cpl)) else selector

    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        selector = layout.CODE_SEGMENTS[int(cpu.state.cpl)] if value == OWN else _integer(value)
        cpu.state.image[_FCS : _FCS + 2] = selector.to_bytes(2, "little")

    return read, write


def _coprocessor_instruction_pointer() -> tuple[Read, Write]:
    def write(cpu: Cpu, _around: Surroundings, value: Value) -> None:
        cpu.state.set_word(_FIP, _integer(value))

    return lambda cpu, _: cpu.state.word(_FIP), write
