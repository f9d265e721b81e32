"""What a run was, as a value.

Three kinds of number are kept apart, in objects of their own, because they mean different things: *counted* numbers
are facts of the simulation and the same on every host; *modelled* ones follow from the counted by a cost preset;
*measured* ones are this host's seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from simvirt.machine.hardware import DEFAULT_START_TIME
from simvirt.observe.showable import Showable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from simvirt.guests.image import GuestImage
    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.devices.screen import Screen
    from simvirt.machine.disk import DiskOption
    from simvirt.machine.hardware import MachineFeature
    from simvirt.machine.machine import Outcome
    from simvirt.observe.postmortem import PostMortem
    from simvirt.vmm.exit_log import ExitRecord, Intervention, ResourceAttempt

RUN_SCHEMA: Final = "simvirt.run/1"


@dataclass(frozen=True, slots=True)
class RunConfig:
    """What the guest was given.

    Attributes:
        cpu: name of the CPU model.
        memory: bytes of RAM.
        seed: where the PC takes randomness from.
        max_instructions: guest instructions after which the run is stopped.
        start_time: what the real-time clock shows at power-on; like what follows, not in JSON.
        input: bytes that wait at the other end of the serial line.
        keys: what is typed on the keyboard (`machine.devices.keys.strokes`).
        disk: the guest's disk.
        features: what its machine has beyond the usual.
    """

    cpu: str
    memory: int
    seed: int
    max_instructions: int
    start_time: datetime = DEFAULT_START_TIME
    input: bytes = b""
    keys: str = ""
    disk: DiskOption | None = None
    features: frozenset[MachineFeature] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "cpu": self.cpu,
            "memory": self.memory,
            "seed": self.seed,
            "max_instructions": self.max_instructions,
        }


@dataclass(frozen=True, slots=True)
class Counted:
    """Numbers that are facts of the simulation.

    Attributes:
        instructions: guest instructions retired, those that the VMM emulated included.
        emulated_instructions: how many of them the VMM emulated.
        vm_exits: exits to the VMM by the name of their reason.
        by_intervention: exits by what kind of thing the VMM did.
        innocuous_exits: exits on innocuous instructions for the VMM's own ends, by the name of their reason.
        shadow_paging: what `vmm.shadow_paging.statistics` counts, where there was any.
    """

    instructions: int
    emulated_instructions: int = 0
    vm_exits: Mapping[str, int] = field(default_factory=dict)
    by_intervention: Mapping[Intervention, int] = field(default_factory=dict)
    innocuous_exits: Mapping[str, int] = field(default_factory=dict)
    shadow_paging: Mapping[str, int] = field(default_factory=dict)

    @property
    def interventions(self) -> int:
        """All exits to the VMM."""
        return sum(self.vm_exits.values())

    @property
    def direct_fraction(self) -> float:
        """Share of the guest's instructions that the processor executed itself; 1 when there were none."""
        return 1 - self.emulated_instructions / self.instructions if self.instructions else 1.0

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {
            "instructions": self.instructions,
            "interventions": self.interventions,
            "direct_fraction": self.direct_fraction,
            "vm_exits": dict(self.vm_exits),
            **({"shadow_paging": dict(self.shadow_paging)} if self.shadow_paging else {}),
        }


@dataclass(frozen=True, slots=True)
class Modelled:
    """What the run would have cost on a real machine, by a named preset with a source.

    Attributes:
        preset: name of the cost preset.
        cycles: processor cycles.
        exit_cycles: how many of them exits took, by the name of the reason; for people, not in JSON.
        source: where the preset's numbers come from; likewise.
    """

    preset: str
    cycles: int
    exit_cycles: Mapping[str, int] = field(default_factory=dict)
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {"preset": self.preset, "cycles": self.cycles}


@dataclass(frozen=True, slots=True)
class Measured:
    """What this host's clock said; different every time.

    Attributes:
        host_seconds: time spent running the guest, without the building of its machine.
    """

    host_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {"host_seconds": self.host_seconds}


@dataclass(frozen=True, slots=True)
class RunError:
    """A fault of the monitor that ended a run.

    Attributes:
        kind: class of the exception.
        message: what it said.
        traceback: where it was raised, as Python prints it; for people, not in JSON.
    """

    kind: str
    message: str
    traceback: str = field(default="", repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in JSON."""
        return {"kind": self.kind, "message": self.message}


@dataclass(frozen=True, slots=True)
class Run(Showable):
    """One guest under one strategy, from its first instruction to its end.

    Attributes:
        image: the guest.
        strategy: name of the strategy.
        outcome: how it ended.
        guest_status: what the guest wrote to the debug-exit port, None if it did not.
        console_bytes: what it sent to its console; `console` is the same as text.
        error: the monitor's fault, if that ended the run.
        exits: every exit with its cause, when the run was traced.
        attempts: attempts to reach what was not given, the first thousand.
        pages_outside: host pages written while the guest ran that are not the VM's memory.
        state: the processor at the end, as the guest's machine has it.
        virtual_ns: virtual time at the end.
        screen: what the display adapter shows at the end; None in a graphics mode.
        post_mortem: what led to a bad end.
    """

    image: GuestImage
    strategy: str
    config: RunConfig
    outcome: Outcome
    guest_status: int | None
    console_bytes: bytes
    counted: Counted
    modelled: Modelled
    measured: Measured
    error: RunError | None = None
    exits: tuple[ExitRecord, ...] = field(default=(), repr=False)
    attempts: tuple[ResourceAttempt, ...] = field(default=(), repr=False)
    pages_outside: tuple[int, ...] = field(default=(), repr=False)
    state: ArchitecturalState | None = field(default=None, repr=False)
    virtual_ns: int = 0
    screen: Screen | None = field(default=None, repr=False)
    post_mortem: PostMortem | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        status = "" if self.guest_status is None else f", guest status {self.guest_status}"
        return (
            f"<Run of {self.guest} under {self.strategy}: {self.outcome.value}{status}, "
            f"{self.counted.instructions:,} instructions, {self.counted.interventions:,} exits>"
        )

    @property
    def guest(self) -> str:
        """The guest's name."""
        return self.image.name

    @property
    def sha256(self) -> str:
        """Digest of the guest's image."""
        return self.image.sha256

    @property
    def console(self) -> str:
        """The console as text: UTF-8, and what is none as escapes."""
        return self.console_bytes.decode("utf-8", "backslashreplace")

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that scripts rely on."""
        screen = {"screen": self.screen.text} if self.screen is not None and self.screen.text else {}
        return {
            "schema": RUN_SCHEMA,
            "guest": self.guest,
            "sha256": self.sha256,
            "strategy": self.strategy,
            "config": self.config.to_dict(),
            "outcome": self.outcome.value,
            "guest_status": self.guest_status,
            "console": self.console,
            **screen,
            "counted": self.counted.to_dict(),
            "modelled": self.modelled.to_dict(),
            "measured": self.measured.to_dict(),
            "error": self.error.to_dict() if self.error else None,
        }

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=indent)
