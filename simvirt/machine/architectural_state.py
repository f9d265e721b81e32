"""The architectural state of a processor as an immutable value, and the differences between two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.state import PDPTE_COUNT, DescriptorTable, Segment
from simvirt.x86.flags import Cr0, Cr4, Efer
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simvirt.machine.state import ProcessorState

_CONTROL_REGISTERS: Final = (0, 2, 3, 4)
_PG, _PAE, _LMA = int(Cr0.PG), int(Cr4.PAE), int(Efer.LMA)
_DEBUG_REGISTERS: Final = (0, 1, 2, 3, 6, 7)


@dataclass(frozen=True, slots=True)
class Difference:
    """One component in which two states differ, under the manual's name for it."""

    component: str
    reference: int
    value: int


@dataclass(frozen=True, slots=True)
class ArchitecturalState:
    """What a program can observe of a processor, segment registers with their hidden parts.

    `floating_point` is the engine's image of the x87, MMX and SSE state: comparable, not meant to be read.
    """

    general: tuple[int, ...]
    rip: int
    eflags: int
    segments: tuple[Segment, ...]
    ldtr: Segment
    tr: Segment
    gdtr: DescriptorTable
    idtr: DescriptorTable
    control: tuple[int, ...]
    """CR0, CR2, CR3, CR4."""
    efer: int
    debug: tuple[int, ...]
    """DR0 to DR3, DR6, DR7."""
    interrupt_shadow: bool
    floating_point: bytes
    pdptes: tuple[int, ...] = ()
    """The PDPTE registers while PAE paging is in use; with none given, they are those that CR3 leads to."""
    nmi_blocked: bool = False
    """Is an NMI being handled?"""

    @classmethod
    def of(cls, state: ProcessorState) -> ArchitecturalState:
        """The state as it is now."""
        return cls(
            general=tuple(state[register] for register in GeneralRegister),
            rip=state.rip,
            eflags=state.eflags,
            segments=tuple(state.segment(register) for register in SegmentRegister),
            ldtr=state.ldtr,
            tr=state.tr,
            gdtr=state.gdtr,
            idtr=state.idtr,
            control=tuple(state.control_register(number) for number in _CONTROL_REGISTERS),
            efer=state.efer,
            debug=tuple(state.debug_register(number) for number in _DEBUG_REGISTERS),
            interrupt_shadow=state.interrupt_shadow,
            floating_point=state.floating_point,
            pdptes=state.pdptes if state.pae_paging else (),
            nmi_blocked=state.nmi_blocked,
        )

    @property
    def lacks_pdptes(self) -> bool:
        """Is PAE paging in use, and are the PDPTE registers still to be loaded?"""
        cr0, _, _, cr4 = self.control
        return bool(cr0 & _PG and cr4 & _PAE) and not self.efer & _LMA and not self.pdptes

    def put(self, state: ProcessorState) -> None:
        """Make `state` this state. The floating-point part and the PDPTEs are written only when they are not empty."""
        for register, value in zip(GeneralRegister, self.general, strict=True):
            state[register] = value
        state.rip = self.rip
        state.eflags = self.eflags
        for segment_register, segment in zip(SegmentRegister, self.segments, strict=True):
            state.set_segment(segment_register, segment)
        state.ldtr, state.tr, state.gdtr, state.idtr = self.ldtr, self.tr, self.gdtr, self.idtr
        for number, value in zip(_CONTROL_REGISTERS, self.control, strict=True):
            state.set_control_register(number, value)
        state.efer = self.efer
        for number, value in zip(_DEBUG_REGISTERS, self.debug, strict=True):
            state.set_debug_register(number, value)
        if self.floating_point:
            state.floating_point = self.floating_point
        state.refresh(cpl=self.cpl)
        if self.pdptes:
            state.pdptes = self.pdptes
        state.interrupt_shadow = self.interrupt_shadow
        state.nmi_blocked = self.nmi_blocked

    @property
    def cpl(self) -> int:
        """Current privilege level: the DPL of SS (SDM Vol. 3C §25.4.1)."""
        return self.segments[SegmentRegister.SS].dpl if self.control[0] & 1 else 0

    def components(self) -> Iterator[tuple[str, int]]:
        """Every component under the manual's name, as an integer."""
        wide = self.efer & 1 << 10 or any(value >> 32 for value in self.general)
        for register, value in zip(GeneralRegister, self.general, strict=True):
            yield register.name if wide else register.name_at(32).upper() if register < 8 else register.name, value
        yield "RIP" if wide else "EIP", self.rip
        yield "EFLAGS", self.eflags
        named = [(register.name, segment) for register, segment in zip(SegmentRegister, self.segments, strict=True)]
        for name, segment in [*named, ("LDTR", self.ldtr), ("TR", self.tr)]:
            yield name, segment.selector
            yield f"{name}.base", segment.base
            yield f"{name}.limit", segment.limit
            yield f"{name}.attributes", segment.flags
        for name, table in (("GDTR", self.gdtr), ("IDTR", self.idtr)):
            yield f"{name}.base", table.base
            yield f"{name}.limit", table.limit
        for number, value in zip(_CONTROL_REGISTERS, self.control, strict=True):
            yield f"CR{number}", value
        for number, value in enumerate(self.pdptes or (0,) * PDPTE_COUNT):
            yield f"PDPTE{number}", value
        yield "IA32_EFER", self.efer
        for number, value in zip(_DEBUG_REGISTERS, self.debug, strict=True):
            yield f"DR{number}", value
        yield "interrupt shadow", int(self.interrupt_shadow)
        yield "blocking by NMI", int(self.nmi_blocked)

    def differences(self, other: ArchitecturalState) -> list[Difference]:
        """Where `other` differs from this one, in the order of `components`."""
        if self == other:
            return []
        found = [
            Difference(name, mine, theirs)
            for (name, mine), (_, theirs) in zip(self.components(), other.components(), strict=True)
            if mine != theirs
        ]
        if self.floating_point != other.floating_point:
            at = next(
                i for i, (a, b) in enumerate(zip(self.floating_point, other.floating_point, strict=True)) if a != b
            )
            found.append(
                Difference(f"floating-point state, byte {at}", self.floating_point[at], other.floating_point[at])
            )
        return found
