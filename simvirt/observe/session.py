r"""`run` and `compare`: the two questions that simvirt answers, as functions.

>>> from simvirt.observe.session import run
>>> result = run("hello")
>>> result.outcome.value, result.console
('finished', 'Hello from ring 0.\n')
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnknownNameError, UsageError
from simvirt.guests.image import GuestImage
from simvirt.guests.resolve import resolve
from simvirt.machine.devices.keys import strokes
from simvirt.machine.disk import DiskOption
from simvirt.machine.hardware import DEFAULT_START_TIME, MachineFeature
from simvirt.observe.contest import Contest
from simvirt.observe.costs import DEFAULT_COSTS, find_costs
from simvirt.observe.equivalence import Checkpoints
from simvirt.observe.examination import examine
from simvirt.observe.interruption import StopOnInterrupt
from simvirt.observe.live import drive_live
from simvirt.observe.results import RunConfig
from simvirt.observe.sharing import share
from simvirt.observe.trial import Trial
from simvirt.strategies.bare_metal import BareMetal
from simvirt.vmm.scheduler import DEFAULT_SLICE
from simvirt.x86.addresses import PAGE_SIZE
from simvirt.x86.cpuid import DEFAULT_CPU_MODEL, find_cpu_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from simvirt.observe.comparison import Comparison
    from simvirt.observe.live import LiveInput
    from simvirt.observe.profile.profile import Profile
    from simvirt.observe.results import Run
    from simvirt.observe.sharing import SharedRun, Watcher
    from simvirt.strategies.strategy import Strategy
    from simvirt.vmm.exit_log import ExitRecord

    Listener = Callable[[ExitRecord], None]
    Progress = Callable[[int, float], None]

DEFAULT_MEMORY: Final = 64 << 20
DEFAULT_MAX_INSTRUCTIONS: Final = 10**10
LARGEST_MEMORY: Final = 3 << 30
"""Above it lies, in a PC, the memory of devices."""
ALL: Final = "all"

_REPORT_SECONDS: Final = 0.2
_FIRST_SLICE: Final = 1 << 20


def run(
    guest: str | Path | GuestImage,
    strategy: str | Strategy = "bare-metal",
    *,
    memory: int | str = DEFAULT_MEMORY,
    cpu: str | None = None,
    seed: int = 0,
    start_time: datetime | str | None = None,
    input: bytes | str = b"",  # noqa: A002 - the command line's word for it
    keys: str = "",
    disk: str | Path | DiskOption | None = None,
    features: Iterable[MachineFeature | str] = (),
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
    trace: bool | Listener | None = None,
    costs: str = DEFAULT_COSTS,
    progress: Progress | None = None,
    console: Callable[[int], None] | None = None,
    live: LiveInput | None = None,
) -> Run:
    """Run a guest under one strategy.

    Args:
        guest: a name of the catalogue, a path, or an image.
        strategy: a strategy's name or alias, or a strategy.
        memory: RAM in bytes, or as text like "64M".
        cpu: name of a CPU model; the default model when None.
        seed: where the PC takes randomness from.
        start_time: what the real-time clock shows at power-on, as 2026-01-01T00:00:00; that one when None.
        input: console input, which the serial port receives while the guest listens; text is encoded as UTF-8.
        keys: what is typed on the keyboard while the guest reads it; other keys by names like <F1> and <Ctrl-C>.
        disk: the raw image of the guest's disk; its writes stay in memory unless `:rw` stands behind the path.
            `:virtio` makes it a virtio device.
        features: what the machine has beyond the usual: `virtio-console`, `kvm`.
        max_instructions: guest instructions after which the run ends with the outcome `limit`.
        trace: True keeps every exit with its cause in `Run.exits`; a function is called with each of them instead.
        costs: name of the cost preset that models cycles.
        progress: called now and then with the instructions so far and the host seconds so far.
        console: called with every byte that the guest prints, as it comes.
        live: a person at the console, whose input comes while the guest runs; the run then depends on when it comes.

    Raises:
        UsageError: no such guest, strategy, CPU model or preset, or the guest does not fit.
        EngineError: this host has no verified engine.
    """
    image = _image(guest)
    preset = find_costs(costs)
    config = _config(
        memory,
        cpu,
        seed,
        max_instructions,
        start_time=start_time,
        received=input,
        keys=keys,
        disk=disk,
        features=features,
    )
    chosen = _strategy(strategy)
    exits: list[ExitRecord] = []
    listener = exits.append if trace is True else trace if callable(trace) else None
    with StopOnInterrupt() as stop:
        trial = Trial(image, chosen, config, listener)
        trial.machine.board.on_console = console
        stop.watch(trial.machine)
        if live is None:
            _drive(trial, progress)
        else:
            drive_live(trial, live)
        changes_disk = config.disk is not None and config.disk.writable  # the run cannot be repeated then
        post_mortem = None if changes_disk else examine(trial, lambda: _watched(stop, Trial(image, chosen, config)))
    return replace(trial.finish(preset, tuple(exits)), post_mortem=post_mortem)


def run_together(
    guests: Sequence[str | Path | GuestImage],
    strategy: str | Strategy = "vtx",
    *,
    slice_instructions: int = DEFAULT_SLICE,
    memory: int | str = DEFAULT_MEMORY,
    cpu: str | None = None,
    seed: int = 0,
    start_time: datetime | str | None = None,
    input: bytes | str = b"",  # noqa: A002 - the command line's word for it
    keys: str = "",
    disk: str | Path | DiskOption | None = None,
    features: Iterable[MachineFeature | str] = (),
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
    costs: str = DEFAULT_COSTS,
    watchers: Sequence[Watcher] = (),
) -> SharedRun:
    """Run several guests at a time, each in a VM of its own, on one PC whose VMM lets them take turns.

    Args:
        guests: names of the catalogue, paths, or images; the same one may be given more than once.
        strategy: the strategy by which the PC is shared.
        slice_instructions: guest instructions of a turn. A VM that sleeps in HLT gives the rest of its turn away.
        memory: RAM of each VM, and so on: what follows is given to each of them, as by `run`.
        cpu: as for `run`.
        seed: as for `run`.
        start_time: as for `run`.
        input: as for `run`; each VM has a serial port of its own, and the same input.
        keys: as for `run`.
        disk: as for `run`; each VM sees its own writes alone.
        features: as for `run`.
        max_instructions: as for `run`, for each VM.
        costs: as for `run`.
        watchers: who is told of each VM's exits and of what it prints, while they run; none, or one for each guest.

    Raises:
        UsageError: no such guest, strategy, CPU model or preset, or the guests do not fit.
        EngineError: this host has no verified engine.
    """
    return share(
        [_image(guest) for guest in guests],
        _strategy(strategy),
        _config(
            memory,
            cpu,
            seed,
            max_instructions,
            start_time=start_time,
            received=input,
            keys=keys,
            disk=disk,
            features=features,
        ),
        slice_instructions=slice_instructions,
        costs=find_costs(costs),
        watchers=watchers,
    )


def profile(
    guest: str | Path | GuestImage,
    strategy: str | Strategy = "bare-metal",
    *,
    every: int | None = None,
    memory: int | str = DEFAULT_MEMORY,
    cpu: str | None = None,
    seed: int = 0,
    start_time: datetime | str | None = None,
    input: bytes | str = b"",  # noqa: A002 - the command line's word for it
    keys: str = "",
    disk: str | Path | DiskOption | None = None,
    features: Iterable[MachineFeature | str] = (),
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
    costs: str = DEFAULT_COSTS,
    progress: Progress | None = None,
) -> Profile:
    """Run a guest under one strategy, and tell where its time and the VMM's went.

    Args:
        guest: a name of the catalogue, a path, or an image.
        strategy: a strategy's name or alias, or a strategy.
        every: guest instructions between two samples; None lets the interval grow as the run goes on.
        memory: RAM, and so on: what follows is as for `run`.
        cpu: as for `run`.
        seed: as for `run`.
        start_time: as for `run`.
        input: as for `run`.
        keys: as for `run`.
        disk: as for `run`.
        features: as for `run`.
        max_instructions: as for `run`.
        costs: as for `run`.
        progress: as for `run`.

    Raises:
        UsageError: no such guest, strategy, CPU model or preset, or the guest does not fit.
        EngineError: this host has no verified engine.
    """
    from simvirt.observe.profile.profiler import Profiler

    if every is not None and every < 1:
        raise UsageError(f"every is {every}: samples are at least one instruction apart")
    preset = find_costs(costs)
    config = _config(
        memory,
        cpu,
        seed,
        max_instructions,
        start_time=start_time,
        received=input,
        keys=keys,
        disk=disk,
        features=features,
    )
    trial = Trial(_image(guest), _strategy(strategy), config)
    with StopOnInterrupt() as stop:
        stop.watch(trial.machine)
        return Profiler(trial, preset, every).run(max_instructions, progress)


def compare(
    guest: str | Path | GuestImage,
    strategies: str | Sequence[str | Strategy] = ALL,
    *,
    interval: int | None = None,
    memory: int | str = DEFAULT_MEMORY,
    cpu: str | None = None,
    seed: int = 0,
    start_time: datetime | str | None = None,
    input: bytes | str = b"",  # noqa: A002 - the command line's word for it
    keys: str = "",
    disk: str | Path | DiskOption | None = None,
    features: Iterable[MachineFeature | str] = (),
    max_instructions: int = DEFAULT_MAX_INSTRUCTIONS,
    costs: str = DEFAULT_COSTS,
    progress: Progress | None = None,
) -> Comparison:
    """Run a guest on the bare machine and under strategies, in step, and say where they part.

    Args:
        guest: a name of the catalogue, a path, or an image.
        strategies: names or strategies, or "all"; the bare machine is always run, as the reference.
        interval: instructions between two checkpoints; None lets the interval grow as the runs go on.
        memory: RAM in bytes, or as text like "64M".
        cpu: name of a CPU model; the default model when None.
        seed: where the PC takes randomness from.
        start_time: what the real-time clock shows at power-on, as 2026-01-01T00:00:00; that one when None.
        input: console input, which the serial port receives while the guest listens; text is encoded as UTF-8.
        keys: what is typed on the keyboard while the guest reads it; other keys by names like <F1> and <Ctrl-C>.
        disk: the raw image of the guest's disk; its writes stay in memory unless `:rw` stands behind the path.
            `:virtio` makes it a virtio device.
        features: what the machine has beyond the usual: `virtio-console`, `kvm`.
        max_instructions: guest instructions after which a run ends with the outcome `limit`.
        costs: name of the cost preset that models cycles.
        progress: called now and then with the instructions of the reference and the host seconds so far.

    Raises:
        UsageError: no such guest, strategy, CPU model or preset, or the guest does not fit.
        EngineError: this host has no verified engine.
    """
    if interval is not None and interval < 1:
        raise UsageError(f"interval is {interval}: checkpoints are at least one instruction apart")
    image = _image(guest)
    config = _config(
        memory,
        cpu,
        seed,
        max_instructions,
        start_time=start_time,
        received=input,
        keys=keys,
        disk=disk,
        features=features,
    )
    if config.disk is not None and config.disk.writable:
        raise UsageError(
            f"each strategy would change the disk image {config.disk.path} for the next one: compare without :rw"
        )
    contest = Contest(
        image,
        config,
        _contestants(strategies),
        checkpoints=Checkpoints(interval),
        costs=find_costs(costs),
        progress=progress,
    )
    return contest.run()


def _contestants(strategies: str | Sequence[str | Strategy]) -> list[Strategy]:
    """The strategies to compare with the reference, each once."""
    names: Sequence[str | Strategy] = [strategies] if isinstance(strategies, str) else strategies
    if ALL in names:
        from simvirt.strategies.registry import STRATEGIES

        names = STRATEGIES
    found = {strategy.info.name: strategy for strategy in map(_strategy, names)}
    found.pop(BareMetal.info.name, None)
    return list(found.values())


def _drive(trial: Trial, progress: Progress | None) -> None:
    """Run to the end. Slices for the sake of reports change nothing: a machine stops and goes on exactly."""
    limit = trial.config.max_instructions
    if progress is None:
        trial.advance(limit)
        return
    size = _FIRST_SLICE
    while trial.outcome is None and trial.count < limit:
        begin = time.perf_counter()
        trial.advance(min(limit, trial.count + size))
        progress(trial.count, trial.host_seconds)
        elapsed = time.perf_counter() - begin
        if elapsed < _REPORT_SECONDS / 2:
            size *= 2
        elif elapsed > _REPORT_SECONDS * 2 and size > 1:
            size //= 2


def _watched(stop: StopOnInterrupt, trial: Trial) -> Trial:
    stop.watch(trial.machine)
    return trial


def _image(guest: str | Path | GuestImage) -> GuestImage:
    return guest if isinstance(guest, GuestImage) else resolve(guest)


def _strategy(strategy: str | Strategy) -> Strategy:
    if not isinstance(strategy, str):
        return strategy
    bare = BareMetal()
    if strategy == bare.info.name:  # without a VMM none has to be loaded
        return bare
    from simvirt.strategies.registry import find

    return find(strategy)


def _config(
    memory: int | str,
    cpu: str | None,
    seed: int,
    max_instructions: int,
    *,
    start_time: datetime | str | None,
    received: bytes | str,
    keys: str,
    disk: str | Path | DiskOption | None,
    features: Iterable[MachineFeature | str],
) -> RunConfig:
    if max_instructions < 1:
        raise UsageError(f"max_instructions is {max_instructions}: a run needs at least one instruction")
    model = find_cpu_model(DEFAULT_CPU_MODEL if cpu is None else cpu)
    data = received.encode() if isinstance(received, str) else bytes(received)
    strokes(keys)  # what cannot be typed is refused before anything is built
    return RunConfig(
        model.name,
        memory_size(memory),
        seed,
        max_instructions,
        start_time=clock_time(start_time),
        input=data,
        keys=keys,
        disk=_disk(disk),
        features=machine_features(features),
    )


def machine_features(names: Iterable[MachineFeature | str]) -> frozenset[MachineFeature]:
    """What a machine is to have beyond the usual.

    >>> machine_features(["kvm"])
    frozenset({<MachineFeature.KVM: 'kvm'>})

    Raises:
        UnknownNameError: there is nothing of this name; the message lists what there is.
    """
    found = set()
    for name in names:
        try:
            found.add(MachineFeature(name))
        except ValueError:
            raise UnknownNameError(
                "machine feature", str(name), [feature.value for feature in MachineFeature]
            ) from None
    return frozenset(found)


def _disk(disk: str | Path | DiskOption | None) -> DiskOption | None:
    if isinstance(disk, str):
        return DiskOption.parse(disk)
    return DiskOption(disk) if isinstance(disk, Path) else disk


def clock_time(text: datetime | str | None) -> datetime:
    """The moment that a text tells, in ISO 8601 and without a time zone, as the clock of a PC has none.

    >>> clock_time("1999-12-31 23:59:58")
    datetime.datetime(1999, 12, 31, 23, 59, 58)

    Raises:
        UsageError: it is no moment, or none that a PC's clock can show.
    """
    if text is None:
        return DEFAULT_START_TIME
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else text
    except ValueError:
        raise UsageError(f"'{text}' is not a date and time: write for example 2026-01-01T12:30:00") from None
    if moment.tzinfo is not None or moment.microsecond:
        raise UsageError(f"'{text}' is not what a PC's clock can show: give whole seconds and no time zone")
    return moment


_SIZE: Final = re.compile(r"(\d+)\s*([KMG]?)(?:I?B)?", re.ASCII | re.IGNORECASE)
_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def memory_size(memory: int | str) -> int:
    """Bytes of RAM from a number or a text with K, M or G for powers of 1024.

    >>> memory_size("64M") == memory_size("64 MiB") == memory_size(67108864)
    True

    Raises:
        UsageError: it is no size, no whole number of pages, or more than a PC of this kind has.
    """
    if isinstance(memory, str):
        match = _SIZE.fullmatch(memory.strip())
        if match is None:
            raise UsageError(f"'{memory}' is not an amount of memory: write for example 64M, 16MiB or 1048576")
        size = int(match[1]) * _UNITS[match[2].upper()]
    else:
        size = memory
    if size <= 0 or size % PAGE_SIZE:
        raise UsageError(f"{memory} bytes of memory: a positive multiple of {PAGE_SIZE} is needed")
    if size > LARGEST_MEMORY:
        raise UsageError(f"{memory} of memory is too much: a PC of this kind has at most 3 GiB")
    return size
