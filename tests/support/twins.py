"""Twins: the same guest on the bare PC and de-privileged, stepped side by side and compared after every instruction.

The guest is a page of descriptor tables, handlers that halt, and a few bytes of hand-assembled code; a test starts it
in the processor state that it is about, without code that would bring it there::

    twins = Twins()
    twins.run(code("fa ; cli"))  # asserts that nothing differs after any instruction

What may differ, because on a processor without VT-x it leaks, is for the tests that are about the leaks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from simvirt.guests.image import BootProtocol, GuestImage, ImageKind
from simvirt.guests.image import Segment as LoadedSegment
from simvirt.guests.symbols import SymbolTable
from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.machine import Machine, Outcome
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.strategies import registry
from simvirt.strategies.strategy import MachineConfig, Virtualized
from simvirt.vmm.virtual_cpu import VirtualCpu
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import find_cpu_model
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from simvirt.x86.segments import Descriptor
from tests.support import tables as t

MEMORY: Final = 0x8_0000
"""Bytes of the guest's memory: all of it is compared, and behind it is a hole."""
GDT, IDT, TSS, TSS_16, LDT = 0x1000, 0x2000, 0x3000, 0x3800, 0x4000
CODE, DATA, STACK, INNER_STACK, USER_STACK = 0x1_0000, 0x2_0000, 0x3_0800, 0x3_1800, 0x3_2800
HANDLERS: Final = 0x4_0000
"""The handler of vector n stands at HANDLERS + 16 n and consists of HLT."""
HOLE, VMM = 0xB_0000, 0xFFC0_0000
BASE_16: Final = 0x1_0000
"""Base of the segments of 16-bit code and stack."""
ENTRY_16: Final = 0xFF00
"""Offset in them that the 16-bit call gate leads to: HLT."""
IO_MAP: Final = b"\xff" * 8 + bytes(8) + b"\xff" * 0x80
"""The user may use ports 40H to 7FH."""
GDT_ENTRIES: Final = 48

CS0, DS0, CS3, DS3, CS16, DS16, TASK, LDT_ = 0x08, 0x10, 0x1B, 0x23, 0x28, 0x30, 0x38, 0x40
CS0_CONFORMING, CS3_CONFORMING, EXECUTE_ONLY, READ_ONLY, EXPAND_DOWN, ABSENT_CODE, ABSENT_DATA = range(0x48, 0x80, 8)
GATE_INNER, GATE_PARAMETERS, GATE_16, GATE_KERNEL, GATE_ABSENT, GATE_TO_DATA, GATE_CONFORMING = range(0x80, 0xB8, 8)
TSS_FREE, TSS_ABSENT, TASK_GATE, TSS_USER, SHORT_CODE, CS3_16, DS3_16, CS1, DS1, TSS_OLD = range(0xB8, 0x108, 8)
LDT_ABSENT, EXPAND_DOWN_16, USER_READ_ONLY, GATE_USER_CODE, GATE_ABSENT_CODE = range(0x108, 0x130, 8)
LAST: Final = 8 * GDT_ENTRIES
L_CODE, L_DATA, L_USER_CODE, L_USER_DATA, L_GATE = 0x0C, 0x14, 0x1F, 0x27, 0x2C
"""Selectors of the LDT."""

DESCRIPTORS: Final = {
    CS0: t.segment(t.CODE_R0),
    DS0: t.segment(t.DATA_R0),
    CS3: t.segment(t.CODE_R3),
    DS3: t.segment(t.DATA_R3),
    CS16: t.segment(t.CODE_R0, t.BYTES_16, BASE_16, 0xFFFF),
    DS16: t.segment(t.DATA_R0, t.BYTES_16, BASE_16, 0xFFFF),
    TASK: t.segment(t.BUSY_TSS32, 0, TSS, 0x67 + len(IO_MAP)),
    LDT_: t.segment(t.LDT, 0, LDT, 0x3F),
    CS0_CONFORMING: t.segment(t.CONFORMING_R0),
    CS3_CONFORMING: t.segment(t.CONFORMING_R0 | 0x60),
    EXECUTE_ONLY: t.segment(0x98),
    READ_ONLY: t.segment(t.READ_ONLY_R0),
    EXPAND_DOWN: t.segment(t.EXPAND_DOWN_R0, t.FLAT_32, 0, 0),
    ABSENT_CODE: t.segment(t.CODE_R0 & 0x7F),
    ABSENT_DATA: t.segment(t.DATA_R0 & 0x7F),
    GATE_INNER: t.gate(t.CALL_GATE_32, CS0, HANDLERS, 3),
    GATE_PARAMETERS: t.gate(t.CALL_GATE_32, CS0, HANDLERS, 3, parameters=3),
    GATE_16: t.gate(0x4, CS16, ENTRY_16, 3, parameters=2),
    GATE_KERNEL: t.gate(t.CALL_GATE_32, CS0, HANDLERS, 0),
    GATE_ABSENT: t.gate(t.CALL_GATE_32, CS0, HANDLERS, 3, present=False),
    GATE_TO_DATA: t.gate(t.CALL_GATE_32, DS0, HANDLERS, 3),
    GATE_CONFORMING: t.gate(t.CALL_GATE_32, CS0_CONFORMING, HANDLERS, 3),
    TSS_FREE: t.segment(t.TSS32, 0, TSS, 0x67),
    TSS_ABSENT: t.segment(t.TSS32 & 0x7F, 0, TSS, 0x67),
    TASK_GATE: t.gate(t.TASK_GATE, TSS_FREE, 0),
    TSS_USER: t.segment(t.TSS32 | 0x60, 0, TSS, 0x67),
    SHORT_CODE: t.segment(t.CODE_R0, t.BYTES_32, 0, 0xFFF),
    CS3_16: t.segment(t.CODE_R3, t.BYTES_16, BASE_16, 0xFFFF),
    DS3_16: t.segment(t.DATA_R3, t.BYTES_16, BASE_16, 0xFFFF),
    CS1: t.segment(t.CODE_R1),
    DS1: t.segment(t.DATA_R1),
    TSS_OLD: t.segment(t.TSS16, 0, TSS_16, 0x2B),
    LDT_ABSENT: t.segment(t.LDT & 0x7F, 0, LDT, 0x3F),
    EXPAND_DOWN_16: t.segment(t.EXPAND_DOWN_R0, t.BYTES_16, BASE_16, 0x100),
    USER_READ_ONLY: t.segment(t.READ_ONLY_R0 | 0x60),
    GATE_USER_CODE: t.gate(t.CALL_GATE_32, CS3, HANDLERS, 3),
    GATE_ABSENT_CODE: t.gate(t.CALL_GATE_32, ABSENT_CODE, HANDLERS, 3),
}
"""The guest's GDT by selector. None has its accessed flag set yet; `Twins.begin` sets those of loaded segments."""
LOCAL_DESCRIPTORS: Final = {
    L_CODE: t.segment(t.CODE_R0),
    L_DATA: t.segment(t.DATA_R0),
    L_USER_CODE: t.segment(t.CODE_R3),
    L_USER_DATA: t.segment(t.DATA_R3),
    L_GATE: t.gate(t.CALL_GATE_32, L_CODE, HANDLERS, 3),
}

_ES, _CS, _SS, _DS, _FS, _GS = SegmentRegister


def descriptors(entries: dict[int, bytes], size: int) -> bytes:
    """A table of `size` entries with those given at their selectors' places."""
    data = bytearray(8 * size)
    for selector, raw in entries.items():
        data[selector & ~7 : (selector & ~7) + 8] = raw
    return bytes(data)


def contents() -> dict[int, bytes]:
    """The guest's tables and handlers, by address."""
    tss = t.tss_32(INNER_STACK, DS0, esp1=INNER_STACK, ss1=DS1 | 1, io_map=IO_MAP)
    idt = b"".join(t.gate(t.INT_GATE, CS0, HANDLERS + 16 * v, 3 if v in (3, 4, 0x80) else 0) for v in range(256))
    return {
        GDT: descriptors(DESCRIPTORS, GDT_ENTRIES),
        IDT: idt,
        TSS: tss,
        TSS_16: t.tss_16(INNER_STACK & 0xFFFF, DS16),
        LDT: descriptors(LOCAL_DESCRIPTORS, 8),
        BASE_16 + ENTRY_16: b"\xf4",
        HANDLERS: b"\xf4".ljust(16, b"\x90") * 256,
    }


def loaded(selector: int) -> Segment:
    """The segment register that a load of `selector` leaves."""
    if selector < 4:
        return Segment(selector, 0, 0, 0)
    entries, index = (LOCAL_DESCRIPTORS, selector & ~3) if selector & 4 else (DESCRIPTORS, selector & ~7)
    raw = next(data for key, data in entries.items() if key & ~3 == index)
    segment = Segment.from_descriptor(selector, Descriptor.from_bytes(raw))
    return replace(segment, flags=segment.flags | 0x100) if segment.flags & 0x1000 else segment


def start(
    *,
    cs: int = CS0,
    ss: int | None = None,
    ds: int | None = None,
    fs: int = 0,
    rip: int | None = None,
    esp: int | None = None,
    eflags: int = 2,
    ldt: int = LDT_,
    **general: int,
) -> ArchitecturalState:
    """A processor state: by default the guest's kernel in 32-bit code; `cs` and the rest choose other rings and sizes.

    General registers are named as keywords, as ``eax=5``.
    """
    user, small = cs & 3 == 3, cs & ~7 in (CS16, CS3_16)
    if ss is None:
        ss = (DS3_16 | 3 if user else DS16) if small else (DS3 if user else DS0)
    if ds is None:
        ds = DS3 if user else DS0
    stack = USER_STACK if user else STACK
    registers = [0] * len(GeneralRegister)
    registers[GeneralRegister.RSP] = esp if esp is not None else stack - (BASE_16 if ss & ~7 in (DS16, DS3_16) else 0)
    for name, value in general.items():
        registers[GeneralRegister[f"R{name[1:].upper()}"]] = value
    return ArchitecturalState(
        general=tuple(registers),
        rip=rip if rip is not None else CODE - (BASE_16 if small else 0),
        eflags=eflags,
        segments=(loaded(ds), loaded(cs), loaded(ss), loaded(ds), loaded(fs), loaded(0)),
        ldtr=loaded(ldt),
        tr=replace(loaded(TASK), flags=0x8900),
        gdtr=DescriptorTable(GDT, 8 * GDT_ENTRIES - 1),
        idtr=DescriptorTable(IDT, 0x7FF),
        control=(0x11, 0, 0, 0),
        efer=0,
        debug=(0, 0, 0, 0, 0xFFFF0FF0, 0x400),
        interrupt_shadow=False,
        floating_point=b"",
    )


USER: Final = CS3
"""`start(cs=USER)`: the guest's user code."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """After how many instructions the twins differ, and in what."""

    step: int
    what: str

    def __str__(self) -> str:
        return f"after step {self.step}: {self.what}"


def image(name: str = "twins") -> GuestImage:
    """The guest with its tables and no code yet."""
    parts = contents()
    return GuestImage(
        name=name,
        path=None,
        kind=ImageKind.FLAT,
        sha256=sha256(repr(sorted(parts.items())).encode()).hexdigest(),
        segments=tuple(LoadedSegment(Gpa(address), data, len(data)) for address, data in parts.items()),
        entry=Gpa(CODE),
        boot=BootProtocol.PROTECTED_FLAT,
        symbols=SymbolTable.of(()),
        lines=None,
    )


class Twins:
    """Both machines.

    :ivar bare: the reference.
    :ivar deprivileged: the guest under trap-and-emulate, or the strategy that is asked for.
    """

    def __init__(self, memory: int = MEMORY, cpu_model: str = "core2", strategy: str = "trap-and-emulate") -> None:
        config = MachineConfig(memory, find_cpu_model(cpu_model))
        self.bare, self.deprivileged = (registry.find(name).build(image(), config) for name in ("bare-metal", strategy))
        self._memory = memory
        self._fresh = self.memory(self.bare.machine)
        self._starts = [machine.save() for machine in self.both]
        self._floating_point = self.bare.machine.processor.guest_state().floating_point

    @property
    def both(self) -> tuple[Machine, Machine]:
        """The machines, the bare one first."""
        return self.bare.machine, self.deprivileged.machine

    @property
    def virtual(self) -> Virtualized:
        """The de-privileged one with its exit log."""
        return self.deprivileged

    @property
    def virtual_cpu(self) -> VirtualCpu:
        """The de-privileged guest's processor under its own type."""
        cpu = self.deprivileged.cpu
        assert isinstance(cpu, VirtualCpu)
        return cpu

    def write(self, address: int, data: bytes) -> None:
        """Write both memories as a loader does; a new `begin` has to follow where tables change."""
        for machine in self.both:
            machine.write_physical(Gpa(address), data)

    def renew(self) -> None:
        """Both memories as they were built, the exit log empty."""
        for machine in self.both:
            machine.write_physical(Gpa(0), self._fresh)
        log = self.deprivileged.log
        for part in (log.counts, log.interventions, log.hidden, log.attempts):
            part.clear()
        log.total = log.emulated_instructions = 0
        log.listener = None

    def begin(self, code: bytes, state: ArchitecturalState | None = None, at: int = CODE) -> None:
        """Both at the start of `code`: processors and devices as new but for `state`, the memories as they are."""
        self.write(at, code)
        state = replace(state or start(), floating_point=self._floating_point)
        self._mark_accessed(state)
        for virtualized, saved in zip((self.bare, self.deprivileged), self._starts, strict=True):
            machine = virtualized.machine
            machine.outcome, machine.halted = None, False
            machine.board.restore(saved.board)
            virtualized.cpu.engine.restore_image(saved.processor.image)
            virtualized.cpu.count = 0
            machine.processor.set_guest_state(state)

    def _mark_accessed(self, state: ArchitecturalState) -> None:
        """What segment registers hold has been loaded: the flags in the tables say so."""
        for selector in {segment.selector & ~3 for segment in state.segments if segment.present} - {0}:
            table = (LDT, 0x40) if selector & 4 else (GDT, 8 * GDT_ENTRIES)
            at = table[0] + (selector & ~7) + 5
            access = self.bare.machine.read_physical(Gpa(at), 1)[0]
            if (selector & ~7) < table[1] and access & 0x10:
                self.write(at, bytes([access | 1]))

    def memory(self, machine: Machine) -> bytes:
        """The guest's memory."""
        return machine.read_physical(Gpa(0), self._memory)

    def difference(self) -> str:
        """What differs now; empty when nothing does."""
        bare, deprivileged = self.both
        parts = [
            f"{name} {getattr(bare, name)} != {getattr(deprivileged, name)}"
            for name in ("outcome", "halted")
            if getattr(bare, name) != getattr(deprivileged, name)
        ]
        states = [machine.processor.guest_state() for machine in self.both]
        parts += [f"{d.component} {d.reference:#x} != {d.value:#x}" for d in states[0].differences(states[1])]
        expected, found = self.memory(bare), self.memory(deprivileged)
        if expected != found:
            places = [i for i in range(len(expected)) if expected[i] != found[i]]
            parts += [f"memory at {at:#x}: {expected[at]:#x} != {found[at]:#x}" for at in places[:8]]
        return "; ".join(parts)

    def compare(
        self, code: bytes, state: ArchitecturalState | None = None, steps: int = 20, at: int = CODE
    ) -> Divergence | None:
        """Run `code` on both; the first step after which they differ, or None."""
        self.begin(code, state, at)
        for step in range(steps + 1):
            if what := self.difference():
                return Divergence(step, what)
            if step == steps or self.bare.machine.outcome is not None or self.bare.machine.halted:
                break
            for machine in self.both:
                machine.run_to(step + 1)
        return None

    def run(
        self, code: bytes, state: ArchitecturalState | None = None, steps: int = 20, at: int = CODE
    ) -> ArchitecturalState:
        """Run `code` to HLT (every handler is one) or for `steps` instructions; the state that both end in.

        Fails where they differ.
        """
        found = self.compare(code, state, steps, at)
        assert found is None, str(found)
        return self.bare.machine.processor.guest_state()

    @property
    def outcome(self) -> Outcome | None:
        """How the bare machine ended."""
        return self.bare.machine.outcome


def vector(state: ArchitecturalState) -> int | None:
    """The vector whose handler a state stands in, None outside of the handlers."""
    number, rest = divmod(state.rip - HANDLERS, 16)
    return number if 0 <= number < 256 and rest <= 1 else None
