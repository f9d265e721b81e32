"""The guest-state area of a VMCS while the guest is on the processor: where each field lives in the processor's state.

Copying some seventy fields at every VM entry and exit would cost more than everything else. So the state stays in the
CPU as long as its VMCS is current, and a field is fetched when the VMM reads it. What a VMM sees is the same (SDM
Vol. 3C §25.4 "Guest-State Area", §25.11.1: software must not rely on where the processor keeps it).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from simvirt.machine.platforms import StateOffsets
from simvirt.machine.state import PDPTE_COUNT, DescriptorTable, Segment
from simvirt.x86.flags import Eflags
from simvirt.x86.registers import SegmentRegister
from simvirt.x86.vmx import Interruptibility, PendingDebugExceptions, VmcsField

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.cpu import Cpu
    from simvirt.machine.state import ProcessorState

_O: Final = StateOffsets()
_F: Final = VmcsField
UNUSABLE: Final = 1 << 16
"""Bit 16 of access rights: the segment register was loaded with a null selector (SDM Vol. 3C Table 25-2)."""
_RIGHTS_MASK: Final = 0xF0FF
_FLAGS_MASK: Final = _RIGHTS_MASK << 8
PDPTE_FIELDS: Final = (_F.GUEST_PDPTE0, _F.GUEST_PDPTE1, _F.GUEST_PDPTE2, _F.GUEST_PDPTE3)
_TSS_BUSY: Final = 2
_ACCESSED, _CODE_OR_DATA = 1 << 0, 1 << 4
_STI: Final = int(Interruptibility.BLOCKING_BY_STI)
_MOV_SS: Final = int(Interruptibility.BLOCKING_BY_MOV_SS)
_NMI: Final = int(Interruptibility.BLOCKING_BY_NMI)
_SINGLE_STEP: Final = int(PendingDebugExceptions.BS)


@dataclass(frozen=True, slots=True)
class GuestField:
    """How one field of the guest-state area is read from and written to the processor.

    :ivar checked: a VMM's write makes the next VM entry check the guest state again.
    """

    read: Callable[[Cpu], int]
    write: Callable[[Cpu, int], None]
    checked: bool = True


def access_rights(segment: Segment) -> int:
    """The access-rights format of a VMCS (SDM Vol. 3C Table 25-2).

    A segment register holds accessed segments alone, and the engine's far transfers do not say so.

    >>> hex(access_rights(Segment(8, 0, 0xFFFFFFFF, 0x00CF9B00)))
    '0xc09b'
    """
    rights = segment.flags >> 8 & _RIGHTS_MASK
    if not segment.present:
        return rights | UNUSABLE
    return rights | _ACCESSED if rights & _CODE_OR_DATA else rights


def with_access_rights(segment: Segment, rights: int) -> Segment:
    """`segment` with these access rights; an unusable one is not present."""
    flags = segment.flags & ~_FLAGS_MASK | (rights & _RIGHTS_MASK) << 8
    return replace(segment, flags=flags & ~0x8000 if rights & UNUSABLE else flags)


# -------------------------------------------------------------------------------------------- segment registers


def _segment_register(
    register: SegmentRegister,
) -> tuple[Callable[[ProcessorState], Segment], Callable[[ProcessorState, Segment], None]]:
    def read(state: ProcessorState) -> Segment:
        return state.segment(register)

    def write(state: ProcessorState, segment: Segment) -> None:
        state.set_segment(register, segment)
        # CPL is the DPL of SS, whatever else SS holds (SDM Vol. 3C §25.4.1).
        state.refresh(cpl=segment.dpl if register is SegmentRegister.SS else None)

    return read, write


def _ldtr(state: ProcessorState) -> Segment:
    return state.ldtr


def _set_ldtr(state: ProcessorState, segment: Segment) -> None:
    state.ldtr = segment


def _tr(state: ProcessorState) -> Segment:
    """TR with its type busy, as the manual has it; the engine's is never."""
    segment = state.tr
    return replace(segment, flags=segment.flags | _TSS_BUSY << 8)


def _set_tr(state: ProcessorState, segment: Segment) -> None:
    state.tr = segment


def _four_fields(
    read: Callable[[ProcessorState], Segment],
    write: Callable[[ProcessorState, Segment], None],
    *,
    holds_cpl: bool = False,
) -> tuple[GuestField, GuestField, GuestField, GuestField]:
    """Selector, base, limit and access rights of one segment register."""

    def rights(cpu: Cpu) -> int:
        value = access_rights(read(cpu.state))
        return value & ~0x60 | int(cpu.state.cpl) << 5 if holds_cpl else value

    return (
        GuestField(
            lambda cpu: read(cpu.state).selector, lambda cpu, v: write(cpu.state, replace(read(cpu.state), selector=v))
        ),
        GuestField(lambda cpu: read(cpu.state).base, lambda cpu, v: write(cpu.state, replace(read(cpu.state), base=v))),
        GuestField(
            lambda cpu: read(cpu.state).limit, lambda cpu, v: write(cpu.state, replace(read(cpu.state), limit=v))
        ),
        GuestField(rights, lambda cpu, v: write(cpu.state, with_access_rights(read(cpu.state), v))),
    )


SEGMENT_NAMES: Final = ("ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR")
"""In the order of the VMCS's fields, which is that of the segment registers' encodings (SDM Vol. 3D Appendix B)."""


def _segments() -> dict[VmcsField, GuestField]:
    table: dict[VmcsField, GuestField] = {}
    registers = [_segment_register(register) for register in SegmentRegister] + [(_ldtr, _set_ldtr), (_tr, _set_tr)]
    for name, (read, write) in zip(SEGMENT_NAMES, registers, strict=True):
        fields = _four_fields(read, write, holds_cpl=name == "SS")
        for part, field in zip(("SELECTOR", "BASE", "LIMIT", "ACCESS_RIGHTS"), fields, strict=True):
            table[_F[f"GUEST_{name}_{part}"]] = field
    return table


# -------------------------------------------------------------------------------------------- the other registers


def _set_control(number: int) -> Callable[[Cpu, int], None]:
    def write(cpu: Cpu, value: int) -> None:
        cpu.state.set_control_register(number, value)
        cpu.state.refresh()
        cpu.engine.flush_tlb()

    return write


def _set_rip(cpu: Cpu, value: int) -> None:
    cpu.state.rip = value


def _set_rsp(cpu: Cpu, value: int) -> None:
    cpu.state.rsp = value


def _set_rflags(cpu: Cpu, value: int) -> None:
    cpu.state.eflags = value
    cpu.state.refresh()


def _set_efer(cpu: Cpu, value: int) -> None:
    cpu.state.efer = value
    cpu.state.refresh()
    cpu.engine.flush_tlb()


def _interruptibility(cpu: Cpu) -> int:
    state = cpu.state
    nmi = _NMI if state.nmi_blocked else 0
    if not state.interrupt_shadow:
        return nmi
    return nmi | (_MOV_SS if state.shadow_of_mov_ss else _STI)


def _set_interruptibility(cpu: Cpu, value: int) -> None:
    cpu.state.interrupt_shadow = bool(value & (_STI | _MOV_SS))
    cpu.state.shadow_of_mov_ss = bool(value & _MOV_SS)
    cpu.engine.block_nmi(bool(value & _NMI))


def _pending_debug_exceptions(cpu: Cpu) -> int:
    """MOV SS and POP SS hold back the single-step trap behind them. What a VMM writes here, the next VM entry takes."""
    state = cpu.state
    return _SINGLE_STEP if state.interrupt_shadow and state.eflags & int(Eflags.TF) else 0


def _set_pml_index(cpu: Cpu, value: int) -> None:
    cpu.engine.modification_log_index = value


def _word(offset: int) -> GuestField:
    return GuestField(lambda cpu: cpu.state.word(offset), lambda cpu, v: cpu.state.set_word(offset, v))


def _pdpte(number: int) -> GuestField:
    def write(cpu: Cpu, value: int) -> None:
        cpu.state.set_word(_O.pdptes + 8 * number, value)
        cpu.engine.flush_tlb()

    return GuestField(lambda cpu: cpu.state.pdptes[number], write)


def _set_gdtr(cpu: Cpu, base: int | None = None, limit: int | None = None) -> None:
    old = cpu.state.gdtr
    cpu.state.gdtr = DescriptorTable(old.base if base is None else base, old.limit if limit is None else limit)


def _set_idtr(cpu: Cpu, base: int | None = None, limit: int | None = None) -> None:
    old = cpu.state.idtr
    cpu.state.idtr = DescriptorTable(old.base if base is None else base, old.limit if limit is None else limit)


GUEST_FIELDS: Final[dict[VmcsField, GuestField]] = {
    _F.GUEST_CR0: GuestField(lambda cpu: cpu.state.cr0, _set_control(0)),
    _F.GUEST_CR3: GuestField(lambda cpu: cpu.state.cr3, _set_control(3)),
    _F.GUEST_CR4: GuestField(lambda cpu: cpu.state.cr4, _set_control(4)),
    **_segments(),
    _F.GUEST_GDTR_BASE: GuestField(lambda cpu: cpu.state.gdtr.base, lambda cpu, v: _set_gdtr(cpu, base=v)),
    _F.GUEST_GDTR_LIMIT: GuestField(lambda cpu: cpu.state.gdtr.limit, lambda cpu, v: _set_gdtr(cpu, limit=v)),
    _F.GUEST_IDTR_BASE: GuestField(lambda cpu: cpu.state.idtr.base, lambda cpu, v: _set_idtr(cpu, base=v)),
    _F.GUEST_IDTR_LIMIT: GuestField(lambda cpu: cpu.state.idtr.limit, lambda cpu, v: _set_idtr(cpu, limit=v)),
    _F.GUEST_DR7: GuestField(
        lambda cpu: cpu.state.debug_register(7), lambda cpu, v: cpu.state.set_debug_register(7, v)
    ),
    _F.GUEST_RIP: GuestField(lambda cpu: cpu.state.rip, _set_rip),
    _F.GUEST_RSP: GuestField(lambda cpu: cpu.state.rsp, _set_rsp, checked=False),
    _F.GUEST_RFLAGS: GuestField(lambda cpu: cpu.state.eflags, _set_rflags),
    _F.PML_INDEX: GuestField(lambda cpu: cpu.engine.modification_log_index, _set_pml_index, checked=False),
    _F.GUEST_PENDING_DEBUG_EXCEPTIONS: GuestField(_pending_debug_exceptions, lambda _cpu, _value: None),
    _F.GUEST_INTERRUPTIBILITY_STATE: GuestField(_interruptibility, _set_interruptibility),
    _F.GUEST_IA32_SYSENTER_CS: GuestField(
        lambda cpu: cpu.state.doubleword(_O.sysenter_cs), lambda cpu, v: cpu.state.set_doubleword(_O.sysenter_cs, v)
    ),
    _F.GUEST_IA32_SYSENTER_ESP: _word(_O.sysenter_esp),
    _F.GUEST_IA32_SYSENTER_EIP: _word(_O.sysenter_eip),
    _F.GUEST_IA32_EFER: GuestField(lambda cpu: cpu.state.efer, _set_efer),
    _F.GUEST_IA32_PAT: _word(_O.pat),
    **{PDPTE_FIELDS[number]: _pdpte(number) for number in range(PDPTE_COUNT)},
}
"""Fields that live in the processor while their VMCS is current. CR0 stands before the segments, since loading them
depends on it."""
