"""The guest's descriptor tables and its TSS, decoded: what GDTR, LDTR, IDTR and TR lead to.

Read through the guest's own translation, without a trace in it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from simvirt.errors import UsageError
from simvirt.observe.page_walk import read_linear
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr0, Efer, Eflags
from simvirt.x86.segments import DESCRIPTOR_SIZE, TSS_TYPES, Descriptor, GateDescriptor
from simvirt.x86.tss import Tss16, Tss32, Tss64

if TYPE_CHECKING:
    from collections.abc import Iterator
    from enum import IntEnum

    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.observe.trial import Trial

_IVT_VECTORS: Final = 256
_TSS_16_BIT: Final = 1


class Table(StrEnum):
    """What can be shown."""

    GDT = "gdt"
    LDT = "ldt"
    IDT = "idt"
    TSS = "tss"


def show_table(trial: Trial, table: Table) -> list[str]:
    """A table as lines of text, entries that are all zero left out.

    Raises:
        UsageError: the guest has none, or it cannot be read.
    """
    state = trial.machine.processor.guest_state()
    match table:
        case Table.GDT:
            where = f"GDT at {state.gdtr.base:#x}, limit {state.gdtr.limit:#x}"
            return [where, *_segments(trial, state, state.gdtr.base, state.gdtr.limit, ti=0)]
        case Table.LDT:
            if not state.ldtr.present or not state.ldtr.selector & ~3:
                raise UsageError("LDTR holds no LDT")
            where = f"LDT {state.ldtr.selector:#06x} at {state.ldtr.base:#x}, limit {state.ldtr.limit:#x}"
            return [where, *_segments(trial, state, state.ldtr.base, state.ldtr.limit, ti=4)]
        case Table.IDT:
            return _interrupts(trial, state)
        case Table.TSS:
            return _task(trial, state)


def _segments(trial: Trial, state: ArchitecturalState, base: int, limit: int, ti: int) -> Iterator[str]:
    data = _read(trial, base, limit + 1)
    names = _loaded(state)
    offset = 0
    while offset + DESCRIPTOR_SIZE <= len(data):
        entry = data[offset : offset + DESCRIPTOR_SIZE]
        size = DESCRIPTOR_SIZE
        if any(entry):
            descriptor = Descriptor.from_bytes(entry)
            if state.efer & Efer.LMA and descriptor.is_system and offset + 16 <= len(data):
                size = 16
                descriptor = Descriptor.from_bytes(data[offset : offset + 16])
            gate = GateDescriptor.from_bytes(data[offset : offset + size]) if descriptor.is_gate else None
            text = _gate(gate) if gate is not None else str(descriptor)
            used = names.get(offset | ti, "")
            yield f"  {offset | ti:04x}  {text}{'  <- ' + used if used else ''}"
        offset += size


def _loaded(state: ArchitecturalState) -> dict[int, str]:
    """Which registers hold a selector of each entry."""
    from simvirt.x86.registers import SegmentRegister

    found: dict[int, list[str]] = {}
    for register, segment in zip(SegmentRegister, state.segments, strict=True):
        found.setdefault(segment.selector & ~3, []).append(register.name)
    found.setdefault(state.tr.selector & ~3, []).append("TR")
    found.setdefault(state.ldtr.selector & ~3, []).append("LDTR")
    found.pop(0, None)
    return {selector: ", ".join(names) for selector, names in found.items()}


def _interrupts(trial: Trial, state: ArchitecturalState) -> list[str]:
    table = state.idtr
    lines = [f"IDT at {table.base:#x}, limit {table.limit:#x}"]
    if not state.control[0] & Cr0.PE:
        data = _read(trial, table.base, min(table.limit + 1, 4 * _IVT_VECTORS))
        for vector in range(len(data) // 4):
            offset, segment = (int.from_bytes(data[4 * vector + at : 4 * vector + at + 2], "little") for at in (0, 2))
            if offset or segment:
                lines.append(f"  {_vector(vector)}  {segment:04x}:{offset:04x}")
        return lines
    size = 16 if state.efer & Efer.LMA else DESCRIPTOR_SIZE
    data = _read(trial, table.base, table.limit + 1)
    for vector in range(len(data) // size):
        entry = data[size * vector : size * (vector + 1)]
        if any(entry):
            gate = GateDescriptor.from_bytes(entry)
            lines.append(f"  {_vector(vector)}  {_gate(gate) if gate is not None else 'no gate: ' + entry.hex(' ')}")
    return lines


def _vector(vector: int) -> str:
    return f"{vector:02x} {'#' + Vector(vector).name if vector in set(Vector) else '':4.4}"


def _gate(gate: GateDescriptor) -> str:
    kind = gate.kind.name.lower().replace("_", " ")
    ist = f" IST {gate.ist}" if gate.ist else ""
    count = f" parameters {gate.parameter_count}" if gate.parameter_count else ""
    present = "" if gate.present else " not present"
    return f"{kind} DPL {int(gate.dpl)} to {int(gate.selector):04x}:{gate.offset:08x}{ist}{count}{present}"


def _task(trial: Trial, state: ArchitecturalState) -> list[str]:
    tr = state.tr
    kind = tr.flags >> 8 & 0xF
    if not tr.present or not tr.selector & ~3 or kind not in TSS_TYPES:
        raise UsageError("TR holds no TSS")
    fields: type[IntEnum] = Tss64 if state.efer & Efer.LMA else Tss16 if kind & ~2 == _TSS_16_BIT else Tss32
    data = _read(trial, tr.base, tr.limit + 1)
    lines = [f"TSS {tr.selector:#06x} at {tr.base:#x}, limit {tr.limit:#x}"]
    members = list(fields)
    for number, field in enumerate(members):
        end = members[number + 1] if number + 1 < len(members) else field + 2
        size = 8 if fields is Tss64 and field.name != "IO_MAP_BASE" else min(end - field, 4)
        if field + size > len(data):
            lines.append(f"  {field.name} lies beyond the limit")
            break
        value = int.from_bytes(data[field : field + size], "little")
        lines.append(f"  {field.name:12} {value:0{2 * size}x}")
    return lines


def _read(trial: Trial, base: int, size: int) -> bytes:
    data = read_linear(trial, base, size)
    if len(data) < size and not data:
        state = trial.machine.processor.guest_state()
        why = "no page is mapped" if state.control[0] & Cr0.PG else "there is no memory"
        where = " (virtual-8086 mode)" if state.eflags & Eflags.VM else ""
        raise UsageError(f"{why} at {base:#x}{where}")
    return data
