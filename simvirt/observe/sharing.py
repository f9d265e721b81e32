"""Several VMs on one PC: a run of each, while their VMM lets them take turns.

>>> from simvirt.observe.session import run_together
>>> both = run_together(["hello", "popf-mask"], "vtx")
>>> [run.outcome.value for run in both.runs]
['finished', 'finished']
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from simvirt.errors import UsageError
from simvirt.observe.examination import examine
from simvirt.observe.interruption import StopOnInterrupt
from simvirt.observe.trial import Trial, sharing
from simvirt.strategies.strategy import MachineConfig
from simvirt.vmm.host import Host, aligned
from simvirt.vmm.scheduler import DEFAULT_SLICE, RoundRobin
from simvirt.x86.cpuid import find_cpu_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simvirt.guests.image import GuestImage
    from simvirt.observe.costs import CostPreset
    from simvirt.observe.results import Run, RunConfig
    from simvirt.strategies.strategy import Strategy
    from simvirt.vmm.exit_log import ExitRecord

    Listener = Callable[[ExitRecord], None]

SHARED_RUN_SCHEMA: Final = "simvirt.shared-run/1"


@dataclass(frozen=True, slots=True)
class SharedRun:
    """What became of several VMs on one PC.

    Attributes:
        strategy: its name.
        slice_instructions: guest instructions in a slice.
        slices: how many slices were given.
        world_switches: how often another VM came on the processor.
        runs: each VM's run, in the order of the guests.
    """

    strategy: str
    slice_instructions: int
    slices: int
    world_switches: int
    runs: tuple[Run, ...]

    def to_dict(self) -> dict[str, Any]:
        """The JSON object that scripts rely on."""
        return {
            "schema": SHARED_RUN_SCHEMA,
            "strategy": self.strategy,
            "slice": self.slice_instructions,
            "slices": self.slices,
            "world_switches": self.world_switches,
            "runs": [run.to_dict() for run in self.runs],
        }

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=indent)


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who watches one of the VMs while they run.

    Attributes:
        trace: is called with each of its exits.
        console: is called with every byte that it prints, as it comes.
    """

    trace: Listener | None = None
    console: Callable[[int], None] | None = None


class _Vm:
    """A trial that takes turns with others."""

    def __init__(self, host: Host, image: GuestImage, strategy: Strategy, config: RunConfig, watcher: Watcher) -> None:
        self.trial = Trial(image, strategy, config, watcher.trace, host=host)
        self.trial.machine.board.on_console = watcher.console
        self._host = host
        cpu = host.on_processor
        assert cpu is not None
        self._cpu = cpu
        self._ended = False

    @property
    def runnable(self) -> bool:
        return not self._ended

    def enter(self) -> None:
        self._host.switch_to(self._cpu)

    def run_slice(self, instructions: int) -> None:
        trial = self.trial
        limit = trial.config.max_instructions
        trial.advance(min(trial.count + instructions, limit), until_halt=True)
        trial.take_dirty_pages()  # what was written since its turn began is its own doing
        self._ended = trial.outcome is not None or trial.count >= limit

    def finish(self, costs: CostPreset) -> Run:
        self.enter()
        trial = self.trial
        found = examine(trial, lambda: Trial(trial.image, trial.strategy, trial.config))
        self.enter()
        return replace(trial.finish(costs), post_mortem=found)


def share(
    images: Sequence[GuestImage],
    strategy: Strategy,
    config: RunConfig,
    *,
    slice_instructions: int = DEFAULT_SLICE,
    costs: CostPreset,
    watchers: Sequence[Watcher] = (),
) -> SharedRun:
    """Run each image in a VM of its own, all on one PC, to the ends of all.

    `watchers` are those of the VMs in their order; none, or one for each.

    Raises:
        UsageError: the strategy's VMs cannot share a PC, they do not fit into it, or they would write to one disk.
    """
    if config.disk is not None and config.disk.writable:
        raise UsageError(f"several VMs would change the disk image {config.disk.path}: give it without :rw")
    if not images:
        raise UsageError("there is no guest to run: give at least one")
    size = aligned(sharing(strategy).partition_size(MachineConfig(config.memory, find_cpu_model(config.cpu))))
    with StopOnInterrupt() as stop:
        host = Host(size * len(images))
        of_each = watchers or [Watcher()] * len(images)
        vms = [_Vm(host, image, strategy, config, one) for image, one in zip(images, of_each, strict=True)]
        stop.watch(*(vm.trial.machine for vm in vms))
        switches = host.switches
        scheduler = RoundRobin(vms, slice_instructions)
        scheduler.run()
        switches = host.switches - switches
        runs = tuple(vm.finish(costs) for vm in vms)
    return SharedRun(strategy.info.name, slice_instructions, scheduler.slices, switches, runs)
