"""Modelled cycles: what the counted events would have cost on a real processor, by a named preset.

The presets lie in ``isa/costs.toml``, every number with its source and with how far to trust it. The model is a plain
sum::

    cycles = instructions executed directly x instruction + for every exit: its round trip and the monitor's work

An exit of hardware virtualization costs what the preset says of its reason, or else ``vm_exit + vm_exit_service``; an
exit of a de-privileged guest costs ``trap``. Caches, pipelines and devices are not modelled.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from simvirt.data import isa_directory
from simvirt.errors import MonitorError, UnknownNameError
from simvirt.observe.results import Modelled
from simvirt.x86.vmx.exit_reasons import ExitReason

if TYPE_CHECKING:
    from collections.abc import Mapping

COSTS_FILE: Final = "costs.toml"
DEFAULT_COSTS: Final = "core2-2006"
"""The processor that the default CPU model is."""


class NativeOperation(Enum):
    """What a preset may price on the bare machine; the value is its name in the file."""

    SYSCALL = "syscall"
    """SYSCALL and SYSRET."""
    IN = "in"
    CLI = "cli"
    MOV_TO_CR = "mov-to-cr"
    PAGE_FAULT = "page-fault"
    """With the handler's IRET, as those that follow."""
    DIVIDE_ERROR = "divide-error"
    """Any exception that has nothing to do with paging."""
    INTERRUPT = "interrupt"
    """An interrupt of a device, or INT n."""


class Confidence(Enum):
    """How far a number is to be trusted."""

    PUBLISHED = "published"
    """The source prints it."""
    DERIVED = "derived"
    """Computed from printed numbers."""
    ASSUMED = "assumed"
    """Nobody published it for this processor; the source says what was taken instead."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Cycles of one event, and where the number comes from.

    Attributes:
        measured_on: the processor that it was measured on, where that is another than the preset's.
    """

    cycles: int
    confidence: Confidence
    source: str
    measured_on: str = ""

    def __str__(self) -> str:
        elsewhere = f"another processor's, {self.measured_on}" if self.measured_on else self.confidence.value
        return f"{self.cycles:,} ({self.source}; {elsewhere})"


@dataclass(frozen=True, slots=True)
class CostPreset:
    """The costs of one processor.

    Attributes:
        instruction: one instruction executed directly.
        vm_exit: the hardware's part of a VM exit and the entry after it.
        vm_exit_service: the monitor's part.
        trap: a trap of a de-privileged guest, its emulation, and the return.
        vm_exits: whole costs of VM exits that are known by their reason.
        native: costs on the bare machine; what is not there costs its instructions.
        ept: has it EPT? Without it a hardware VMM needs shadow page tables.
        traced_write: a write to a page table that shadow page tables follow; an exit like others where it is None.
        others: costs that only strategies with code of their own have (binary translation, hypercalls).
    """

    name: str
    title: str
    year: int
    summary: str
    instruction: Cost
    vm_exit: Cost
    vm_exit_service: Cost
    trap: Cost
    vm_exits: Mapping[ExitReason, Cost]
    native: Mapping[NativeOperation, Cost]
    ept: bool
    traced_write: Cost | None
    others: Mapping[str, Cost]

    def of_exit(self, reason: Enum) -> int:
        """Cycles of one exit for this reason.

        >>> find_costs("pentium4-672-2005").of_exit(ExitReason.IO_INSTRUCTION)
        15826
        >>> find_costs("haswell-2013").of_exit(ExitReason.HLT)
        2435
        """
        if not isinstance(reason, ExitReason):
            return self.trap.cycles
        special = self.vm_exits.get(reason)
        return special.cycles if special else self.vm_exit.cycles + self.vm_exit_service.cycles

    def native_cycles(self, operation: NativeOperation) -> int:
        """Cycles of an operation on the bare machine, beyond those of its instructions; 0 where nobody published them.

        >>> find_costs("pentium4-672-2005").native_cycles(NativeOperation.PAGE_FAULT)
        1093
        """
        cost = self.native.get(operation)
        return cost.cycles if cost else 0

    @property
    def traced_write_cycles(self) -> int:
        """Cycles of a write to a traced page table."""
        return self.traced_write.cycles if self.traced_write else self.of_exit(ExitReason.EXCEPTION_OR_NMI)

    def apply(self, exits: Mapping[Enum, int], direct_instructions: int) -> Modelled:
        """The cycles of a run."""
        exit_cycles = {reason.name: number * self.of_exit(reason) for reason, number in exits.items()}
        cycles = direct_instructions * self.instruction.cycles + sum(exit_cycles.values())
        return Modelled(self.name, cycles, exit_cycles, self.source(exits))

    def source(self, exits: Mapping[Enum, int]) -> str:
        """Where the numbers come from that a run with these exits uses."""
        used = [f"instruction: {self.instruction}"]
        for reason in sorted(exits, key=lambda reason: reason.name):
            if not isinstance(reason, ExitReason):
                used.append(f"trap: {self.trap}")
            elif reason in self.vm_exits:
                used.append(f"{reason.name}: {self.vm_exits[reason]}")
            else:
                used += [f"exit and entry: {self.vm_exit}", f"handling: {self.vm_exit_service}"]
        return "; ".join(dict.fromkeys(used))


@cache
def cost_presets() -> tuple[CostPreset, ...]:
    """All presets, oldest processor first.

    Raises:
        MonitorError: the installed file is damaged.
    """
    path = isa_directory() / COSTS_FILE
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
        return tuple(_preset(row) for row in table["preset"])
    except (KeyError, TypeError, ValueError) as error:
        raise MonitorError(f"{path} is damaged ({error!r}): install simvirt again") from error


def find_costs(name: str) -> CostPreset:
    """The preset called `name`.

    Raises:
        UnknownNameError: there is none; the message names the nearest.
    """
    for preset in cost_presets():
        if preset.name == name:
            return preset
    raise UnknownNameError("cost preset", name, [preset.name for preset in cost_presets()])


_MODELLED: Final = ("instruction", "vm_exit", "vm_exit_service", "trap")


def _preset(row: dict[str, Any]) -> CostPreset:
    costs = {name: _cost(value) for name, value in row["costs"].items()}
    return CostPreset(
        name=row["name"],
        title=row["title"],
        year=row["year"],
        summary=row["summary"],
        instruction=costs["instruction"],
        vm_exit=costs["vm_exit"],
        vm_exit_service=costs["vm_exit_service"],
        trap=costs["trap"],
        native={NativeOperation(name): _cost(value) for name, value in row.get("native", {}).items()},
        ept=row.get("ept", True),
        traced_write=_cost(row["traced_write"]) if "traced_write" in row else None,
        vm_exits={ExitReason[name]: _cost(value) for name, value in row.get("vm_exits", {}).items()},
        others={name: cost for name, cost in costs.items() if name not in _MODELLED},
    )


def _cost(value: dict[str, Any]) -> Cost:
    return Cost(
        int(value["cycles"]), Confidence(value["confidence"]), str(value["source"]), str(value.get("measured_on", ""))
    )
