"""Why two runs part at an instruction, in words: what the instruction is, what it did, and who took part.

The facts come from three places: the table of sensitive instructions, what was seen while both machines executed the
one instruction, and the values that differ. Where they name no reason, that is said: then a difference follows from
something that the comparison did not look at, or is a bug.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.observe.fault_names import fault_name, referred_to
from simvirt.x86.decode import used_memory
from simvirt.x86.flags import Eflags
from simvirt.x86.sensitivity import classify

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.delivery_log import FaultRecord
    from simvirt.observe.differences import Parting
    from simvirt.observe.place import Place
    from simvirt.strategies.strategy import StrategyInfo
    from simvirt.vmm.exit_log import ExitRecord

_ONE_BIT_FLAGS: Final = tuple(flag for flag in Eflags if flag.value.bit_count() == 1 and flag is not Eflags.ALWAYS_ONE)


_LINEAR_32: Final = 0xFFFFFFFF
"""A VMM that shares the guest's linear addresses runs 32-bit guests."""
_NOT_SENSITIVE: Final = (
    "The instruction is not sensitive by the table: either it shows a difference that was there before in what is not "
    "compared, or the strategy has a bug."
)


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What was seen while both machines executed one instruction.

    Attributes:
        interrupts: vectors of the interrupts that the reference took.
        other_interrupts: those that the machine under the strategy took.
        faults: exceptions that the reference delivered.
        exits: exits to the VMM.
        before: the guest's state before the instruction.
    """

    place: Place
    partings: tuple[Parting, ...]
    interrupts: tuple[int, ...] = ()
    other_interrupts: tuple[int, ...] = ()
    faults: tuple[FaultRecord, ...] = ()
    exits: tuple[ExitRecord, ...] = ()
    before: ArchitecturalState | None = None


def explain(seen: Witnessed, info: StrategyInfo) -> str:
    """The reason for a divergence under a strategy, in a few sentences."""
    shared = _address_space(seen, info)
    sentences = [*shared, *_instruction(seen, explained=bool(shared)), *_events(seen, info.name)]
    return " ".join([*sentences, *_vmm(seen), *_values(seen)])


def _address_space(seen: Witnessed, info: StrategyInfo) -> list[str]:
    """An access to linear addresses that the VMM has taken for itself."""
    region = info.vmm_linear
    touched = next((touch for touch in _accesses(seen) if touch[1] < region.stop and region.start < touch[2]), None)
    if touched is None:
        return []
    how, first, _ = touched
    text = (
        f"The guest {how} linear address {max(first, region.start):#x}, and {region.start:#x} to {region.stop - 1:#x} "
        f"are the VMM's own under {info.name}: VMM and guest share one linear address space, and what the VMM takes "
        "of it the guest no longer has (address-space compression; Uhlig et al. 2005)."
    )
    return [text]


def _accesses(seen: Witnessed) -> Iterator[tuple[str, int, int]]:
    """What the instruction did to memory, its own bytes included: how, and from which linear address to which."""
    yield "executes code at", seen.place.address, seen.place.address + max(len(seen.place.code), 1)
    state = seen.before
    if state is None or not seen.place.code:
        return
    for use in used_memory(seen.place.instruction):
        operand = use.operand
        offset = operand.effective_address(lambda register: state.general[register])
        linear = state.segments[operand.segment].base + offset & _LINEAR_32
        how = "writes" if use.access.writes else "reads"
        yield how, linear, linear + max(operand.size, 1)


def _instruction(seen: Witnessed, *, explained: bool) -> list[str]:
    if not seen.place.code:
        return []
    row = classify(seen.place.instruction)
    if row is None:
        return [] if explained else [_NOT_SENSITIVE]
    kind = (
        "sensitive and not privileged, so it does not trap"
        if row.is_critical
        else f"privileged ({row.privileged_when})"
    )
    return [f"{seen.place.instruction.mnemonic.upper()} is {kind}. {row.reason} ({row.source})"]


def _events(seen: Witnessed, strategy: str) -> list[str]:
    sentences = []
    if seen.interrupts != seen.other_interrupts:
        sentences.append(
            f"Interrupts taken here: {_vectors(seen.interrupts)} on the reference, "
            f"{_vectors(seen.other_interrupts)} under {strategy}."
        )
    elif seen.interrupts:
        vectors = _vectors(seen.interrupts)
        sentences.append(f"Both took {vectors} here; what differs is its delivery or the first of the handler.")
    if seen.faults:
        sentences.append(f"On the reference it raised {', '.join(_fault(fault) for fault in seen.faults)}.")
    return sentences


def _vectors(vectors: Sequence[int]) -> str:
    return ", ".join(f"vector {vector:#x}" for vector in vectors) or "none"


def _fault(fault: FaultRecord) -> str:
    named = referred_to(fault.vector, fault.error_code)
    return fault_name(fault.vector, fault.error_code) + (f" for {named}" if named else "")


def _vmm(seen: Witnessed) -> list[str]:
    if not seen.exits:
        return ["The VMM was not called: the instruction completed without its knowledge."]
    told = [f"{record.reason.name} ({record.cause.what}; {record.cause.why})" for record in seen.exits]
    return [f"The VMM was called for {', then '.join(told)}."]


def _values(seen: Witnessed) -> list[str]:
    sentences = [
        f"EFLAGS differ in {flags_text(reference, value)}."
        for component, reference, value in (
            (parting.component, parting.reference_value, parting.value) for parting in seen.partings
        )
        if component == "EFLAGS" and isinstance(reference, int) and isinstance(value, int)
    ]
    others = [parting.component for parting in seen.partings[1:] if parting.component != "EFLAGS"]
    if others:
        shown = ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
        sentences.append(f"Also different after it: {shown}.")
    return sentences


def flags_text(reference: int, value: int) -> str:
    """The flags in which two values of EFLAGS differ.

    >>> flags_text(0x3202, 0x0202)
    'IOPL (3 on the reference, 0 here)'
    """
    parts = [
        f"{flag.name} ({int(bool(reference & flag))} on the reference, {int(bool(value & flag))} here)"
        for flag in _ONE_BIT_FLAGS
        if (reference ^ value) & flag
    ]
    iopl = int(Eflags.IOPL)
    if (reference ^ value) & iopl:
        parts.append(f"IOPL ({reference >> 12 & 3} on the reference, {value >> 12 & 3} here)")
    return ", ".join(parts) or "no flag that has a name"
