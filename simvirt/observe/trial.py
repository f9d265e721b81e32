"""A trial: one guest under one strategy, under way.

It drives a machine to exact instruction counts, keeps the time that takes, and turns what goes wrong inside a
strategy into an outcome. When it is over, it becomes a `Run`.
"""

from __future__ import annotations

import gc
import time
import traceback
import weakref
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from simvirt.errors import UsageError
from simvirt.guests.linux_real_mode import entered_on
from simvirt.machine.machine import Outcome
from simvirt.observe.results import Counted, Measured, Run, RunConfig, RunError
from simvirt.strategies.strategy import MachineConfig, SharesHost
from simvirt.x86.addresses import PAGE_SHIFT
from simvirt.x86.cpuid import find_cpu_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.guests.image import GuestImage
    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.engine import Engine
    from simvirt.observe.costs import CostPreset
    from simvirt.strategies.strategy import Strategy
    from simvirt.vmm.exit_log import ExitRecord
    from simvirt.vmm.host import Host


_ENGINES: Final[weakref.WeakSet[Engine]] = weakref.WeakSet()
"""Those that are still in memory; each takes some 130 MB of address space."""
_MANY: Final = 3


class Trial:
    """A guest on its machine.

    Attributes:
        machine: the machine that the strategy built.
        cpu: the physical CPU below it.
        log: what the VMM does.
        error: the monitor's fault, once it has met one.
        host_seconds: time spent running so far.
        loaded_pages: guest-physical pages, by number, that the guest's image was loaded into.
        pages_outside: host pages, by number, that the processor wrote while it ran the guest and that are not the VM's.
            A VMM's own stores do not go through the simulated processor and are not among them.

    Raises:
        UsageError: the guest does not fit the machine, or `host`, a PC that it is to share with others.
        EngineError: this host has no verified engine.
    """

    def __init__(
        self,
        image: GuestImage,
        strategy: Strategy,
        config: RunConfig,
        listener: Callable[[ExitRecord], None] | None = None,
        host: Host | None = None,
    ) -> None:
        cpu_model = find_cpu_model(config.cpu)
        self.image = image = entered_on(image, cpu_model)
        self.strategy = strategy
        self.config = config
        machine_config = MachineConfig(
            config.memory,
            cpu_model,
            config.seed,
            start_time=config.start_time,
            disk=config.disk,
            features=config.features,
        )
        if len(_ENGINES) >= _MANY:
            gc.collect()  # a machine is full of circles: without this, finished ones would pile up
        if host is None:
            virtualized = strategy.build(image, machine_config)
        else:
            virtualized = sharing(strategy).build_on(host, image, machine_config)
        self.machine, self.cpu, self.log = virtualized.machine, virtualized.cpu, virtualized.log
        _ENGINES.add(self.cpu.engine)
        self.log.listener = listener
        if config.input:
            self.machine.board.input(config.input)
        if config.keys:
            self.machine.board.type_keys(config.keys)
        self.error: RunError | None = None
        self.host_seconds = 0.0
        self.pages_outside: set[int] = set()
        self.loaded_pages = self.take_dirty_pages()
        self.pages_outside.clear()  # what the strategy wrote while it built the machine

    @property
    def count(self) -> int:
        """Guest instructions retired."""
        return self.machine.count

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it can go on."""
        return self.machine.outcome

    def advance(self, instruction: int, *, until_halt: bool = False) -> Outcome | None:
        """Run until exactly `instruction` instructions are retired, or to the end, or until HLT if that is wanted.

        Whatever the strategy raises ends the trial as a monitor error; only wrong usage is the caller's.
        """
        begin = time.perf_counter()
        try:
            return self.machine.run_to(instruction, until_halt=until_halt)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - a strategy may fail in any way; what it did so far stays evidence
            self.error = RunError(type(error).__name__, str(error), "".join(traceback.format_exception(error)))
            self.machine.outcome = Outcome.MONITOR_ERROR
            return Outcome.MONITOR_ERROR
        finally:
            self.host_seconds += time.perf_counter() - begin

    def take_dirty_pages(self) -> set[int]:
        """Guest-physical pages written since the last call, by number."""
        dirty = self.cpu.engine.take_dirty_pages()
        return self._take_note(dirty)

    def take_dirty_host_pages(self) -> set[int]:
        """As `take_dirty_pages`, but host pages: the guest's, and the others that the processor wrote."""
        dirty = self.cpu.engine.take_dirty_pages()
        self._take_note(dirty)
        return set(dirty)

    def _take_note(self, dirty: list[int]) -> set[int]:
        """The guest-physical pages among host pages that were written; the rest goes to `pages_outside`."""
        pages: set[int] = set()
        outside = set(dirty)
        for region in self.machine.space.ram:
            first, last = region.host >> PAGE_SHIFT, (region.host + region.size) >> PAGE_SHIFT
            shift = (region.start >> PAGE_SHIFT) - first
            inside = [page for page in dirty if first <= page < last]
            pages.update(page + shift for page in inside)
            outside.difference_update(inside)
        self.pages_outside |= outside
        return pages

    def finish(self, costs: CostPreset, exits: tuple[ExitRecord, ...] = (), stopped: Outcome = Outcome.LIMIT) -> Run:
        """What the trial has shown; `stopped` is why it was not continued, if it could go on."""
        machine, log = self.machine, self.log
        self.take_dirty_pages()
        counted = Counted(
            instructions=machine.count,
            emulated_instructions=log.emulated_instructions,
            vm_exits={reason.name: number for reason, number in sorted(log.counts.items(), key=lambda c: c[0].name)},
            by_intervention=dict(log.interventions),
            innocuous_exits={reason.name: number for reason, number in log.hidden.most_common()},
            shadow_paging=asdict(log.shadow_paging) if log.shadow_paging.fills else {},
        )
        return Run(
            image=self.image,
            strategy=self.strategy.info.name,
            config=self.config,
            outcome=stopped if machine.outcome is None else machine.outcome,
            guest_status=machine.board.exit_status,
            console_bytes=bytes(machine.board.console),
            counted=counted,
            modelled=costs.apply(log.counts, counted.instructions - counted.emulated_instructions),
            measured=Measured(self.host_seconds),
            error=self.error,
            exits=exits,
            attempts=tuple(log.attempts),
            pages_outside=tuple(sorted(self.pages_outside)),
            state=self._final_state(),
            virtual_ns=machine.board.clock.now(),
            screen=machine.screen,
        )

    def _final_state(self) -> ArchitecturalState | None:
        try:
            return self.machine.processor.guest_state()
        except Exception:  # after a fault of the monitor there may be no state to tell
            if self.error:
                return None
            raise


def sharing(strategy: Strategy) -> SharesHost:
    """The strategy as one whose VMs can share a PC.

    Raises:
        UsageError: they cannot.
    """
    if not isinstance(strategy, SharesHost):
        raise UsageError(
            f"{strategy.info.name} has no VMM that could share the PC among several guests: run them one at a time, or "
            "with --strategy vtx"
        )
    return strategy
