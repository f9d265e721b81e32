"""Both dimensions of a translation: what the guest's page tables say, and what the processor walks beside or instead.

On the bare PC there is one dimension. With EPT the processor translates each guest-physical address that it meets, the
guest's own entries and the page, through the VMM's extended page tables (SDM Vol. 3C §29.3). A de-privileged guest's
linear addresses go through the VMM's tables in place of its own, the shadow of both dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from simvirt.observe.page_walk import PageWalk, Tables, walk, walk_tables
from simvirt.strategies.strategy import Ability
from simvirt.x86.addresses import Gpa, Hpa
from simvirt.x86.vmx.ept import EPT_LEVELS, EPT_RIGHTS, EptEntry, EptPointer, ept_index, ept_page_size

if TYPE_CHECKING:
    from simvirt.observe.trial import Trial

_ADDRESS: Final = (1 << 52) - (1 << 12)


@dataclass(frozen=True, slots=True)
class EptWalkStep:
    """One entry of the extended page tables."""

    level: int
    at: Hpa
    entry: int


@dataclass(frozen=True, slots=True)
class EptWalk:
    """The way of one guest-physical address; `host` is None where it ends in an EPT violation."""

    gpa: Gpa
    steps: tuple[EptWalkStep, ...]
    host: Hpa | None


@dataclass(frozen=True, slots=True)
class Translation:
    """A linear address in both dimensions.

    Attributes:
        guest: the walk through the guest's own tables.
        nested: with EPT, the walk of each guest-physical address, entry by entry and the page's at last.
        shadow: without it, the walk through the VMM's tables that the processor makes instead of the guest's.
    """

    guest: PageWalk
    nested: tuple[EptWalk, ...] = ()
    shadow: PageWalk | None = None

    @property
    def references(self) -> int:
        """Memory references of the processor, with nothing cached."""
        if self.shadow is not None:
            return self.shadow.references
        return self.guest.references + sum(len(walk.steps) for walk in self.nested)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: addresses and entries as numbers."""
        return {
            "guest": self.guest.to_dict(),
            "nested": [
                {
                    "guest_physical": walk.gpa,
                    "host_physical": walk.host,
                    "entries": [{"level": step.level, "at": step.at, "entry": step.entry} for step in walk.steps],
                }
                for walk in self.nested
            ],
            "shadow": None if self.shadow is None else self.shadow.to_dict(),
            "references": self.references,
        }


def translate(trial: Trial, linear: int) -> Translation:
    """A linear address of the guest, as it is translated now; nothing is set or cached."""
    guest = walk(trial, linear)
    pointer = trial.cpu.engine.ept_pointer
    if pointer:
        root = EptPointer.decode(pointer).root
        addresses = [step.gpa for step in guest.steps] + ([] if guest.gpa is None else [guest.gpa])
        return Translation(guest, tuple(_ept_walk(trial, root, gpa) for gpa in addresses))
    if Ability.DEPRIVILEGES in trial.strategy.info.abilities:
        return Translation(guest, shadow=walk_tables(_real_tables(trial), linear))
    return Translation(guest)


def _real_tables(trial: Trial) -> Tables:
    """Those that the PC's processor walks, in the PC's memory."""
    state, memory = trial.cpu.engine.state, trial.machine.memory

    def read(at: Gpa, size: int) -> int:
        inside = at + size <= memory.size
        return int.from_bytes(memory.view[at : at + size], "little") if inside else (1 << 8 * size) - 1

    def locate(at: Gpa) -> tuple[None, Hpa | None]:
        return None, Hpa(at) if at < memory.size else None

    bits = trial.cpu.engine.physical_bits
    pdptes = state.pdptes if state.pae_paging else ()
    return Tables(state.cr0, state.cr3, state.cr4, state.efer, bits, False, read, locate, pdptes)


def _ept_walk(trial: Trial, root: Hpa, gpa: Gpa) -> EptWalk:
    view = trial.machine.memory.view
    steps, table = list[EptWalkStep](), int(root)
    for level in range(EPT_LEVELS, 0, -1):
        at = Hpa(table + ept_index(gpa, level) * 8)
        entry = int.from_bytes(view[at : at + 8], "little")
        steps.append(EptWalkStep(level, at, entry))
        if not entry & EPT_RIGHTS:
            return EptWalk(gpa, tuple(steps), None)
        if level == 1 or entry & EptEntry.LARGE_PAGE:
            size = ept_page_size(level)
            return EptWalk(gpa, tuple(steps), Hpa(entry & _ADDRESS & ~(size - 1) | gpa & (size - 1)))
        table = entry & _ADDRESS
    raise AssertionError("the last level maps a page")
