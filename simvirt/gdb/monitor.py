"""What gdb's command `monitor` can ask: what the remote protocol has no words for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.errors import SimvirtError, UnknownNameError, UsageError
from simvirt.observe.code import symbol_at
from simvirt.observe.descriptor_tables import Table, show_table
from simvirt.observe.dimensions import translate
from simvirt.observe.hexdump import hexdump
from simvirt.observe.names import event_named
from simvirt.observe.numbers import counted
from simvirt.observe.show_walk import show_translation
from simvirt.observe.stops import AtBeginning, Ended, Interrupted
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.gdb.target import Target

_LARGEST_DUMP: Final = 4096
_FLUSH: Final = "gdb does not know that the guest has moved: 'maintenance flush register-cache' tells it.\n"


def answer(target: Target, line: str) -> str:
    """What a command says; what went wrong is an answer too."""
    word, *arguments = line.split() or ["help"]
    try:
        command = _COMMANDS.get(word)
        if command is None:
            raise UnknownNameError("monitor command", word, _COMMANDS)
        return command.run(target, arguments)
    except SimvirtError as error:
        return f"{error}\n"


def _help(_target: Target, _arguments: list[str]) -> str:
    width = max(len(command.usage) for command in _COMMANDS.values())
    return "".join(f"{command.usage.ljust(width)}  {command.summary}\n" for command in _COMMANDS.values())


def _info(target: Target, _arguments: list[str]) -> str:
    timeline = target.timeline
    trial = timeline.trial
    state = trial.machine.processor.guest_state()
    at = timeline.position
    name = symbol_at(trial.image, at.address)
    lines = [
        f"{trial.image.name} under {trial.strategy.info.name}, CPU model {trial.config.cpu}",
        f"{at}{f' <{name}>' if name else ''}; {trial.machine.board.clock.now():,} ns",
        f"{_mode(state.control[0], state.efer, state.eflags)}, ring {state.cpl}"
        + (", asleep in HLT" if trial.machine.halted else ""),
        f"{counted(trial.log.total, 'exit')} to the VMM so far",
        f"{counted(len(timeline.checkpoints), 'checkpoint')}, {timeline.checkpoints.size >> 10:,} KiB",
    ]
    if trial.outcome is not None:
        lines.append(f"the run is over: {trial.outcome.value}")
    return "\n".join(lines) + "\n"


def _mode(cr0: int, efer: int, eflags: int) -> str:
    if not cr0 & 1:
        return "real-address mode"
    if efer & 1 << 10:
        return "IA-32e mode"
    return "virtual-8086 mode" if eflags & 1 << 17 else "protected mode"


def _go_to(target: Target, arguments: list[str]) -> str:
    count = _number(arguments, "goto needs a count of instructions, for example: monitor goto 1000", 10)
    reason = target.timeline.go_to(count)
    text = f"{target.timeline.position}\n"
    if isinstance(reason, Ended):
        text = f"the run is over before that: {reason.outcome.value}, {text}"
    elif isinstance(reason, AtBeginning):
        text = f"the past begins here: {text}"
    elif isinstance(reason, Interrupted):
        text = f"stopped on the way: {text}"
    return text + _FLUSH


def _exits(target: Target, _arguments: list[str]) -> str:
    log = target.timeline.trial.log
    lines = [f"{reason.name:28} {number:12,}\n" for reason, number in log.counts.most_common()]
    return "".join(lines) or "no exits to a VMM so far\n"


def _page(target: Target, arguments: list[str]) -> str:
    address = _number(arguments, "page needs a linear address, for example: monitor page 0x100000", 16)
    return "\n".join(show_translation(translate(target.timeline.trial, address))) + "\n"


def _physical(target: Target, arguments: list[str]) -> str:
    address = _number(arguments, "xp needs a guest-physical address, for example: monitor xp 0xb8000 32", 16)
    size = _number(arguments[1:], "", 0) if len(arguments) > 1 else 64
    data = target.timeline.trial.machine.read_physical(Gpa(address), min(size, _LARGEST_DUMP))
    return "\n".join(hexdump(address, data)) + "\n"


def _table(target: Target, arguments: list[str]) -> str:
    names = [table.value for table in Table]
    if not arguments or arguments[0] not in names:
        raise UsageError(f"table needs one of {', '.join(names)}")
    return "\n".join(show_table(target.timeline.trial, Table(arguments[0]))) + "\n"


def _stop_at(target: Target, arguments: list[str]) -> str:
    if not arguments:
        names = sorted(target.exits) + [f"vector {vector:#x}" for vector in sorted(target.vectors)]
        return f"stops at: {', '.join(names) or 'nothing'}\n"
    if arguments == ["nothing"]:
        target.exits.clear()
        target.vectors.clear()
        return "stops at no events\n"
    for word in arguments:
        event = event_named(target.timeline.trial.strategy, word)
        if isinstance(event, int):
            target.vectors.add(event)
        else:
            target.exits.add(event)
    return _stop_at(target, [])


def _nmi(target: Target, _arguments: list[str]) -> str:
    target.timeline.raise_nmi()
    return "an NMI is pending: vector 2 is next, or follows the IRET of the one that is being handled\n"


def _number(arguments: list[str], advice: str, base: int) -> int:
    try:
        value = int(arguments[0], base) if arguments else None
    except ValueError:
        raise UsageError(f"'{arguments[0]}' is not a number; {advice}") from None
    if value is None or not 0 <= value < 1 << 64:
        raise UsageError(advice)
    return value


@dataclass(frozen=True, slots=True)
class _Command:
    usage: str
    summary: str
    run: Callable[[Target, list[str]], str]


_COMMANDS: Final = {
    command.usage.split()[0]: command
    for command in (
        _Command("help", "this list", _help),
        _Command("info", "where the guest is, and in which mode", _info),
        _Command("goto N", "to the moment when N instructions are retired, forward or back", _go_to),
        _Command("exits", "exits to the VMM so far, by reason", _exits),
        _Command("page ADDRESS", "the walk through the guest's page tables", _page),
        _Command("xp ADDRESS [SIZE]", "guest-physical memory", _physical),
        _Command("table gdt|ldt|idt|tss", "a descriptor table, decoded", _table),
        _Command("nmi", "an NMI here and now, as a dump switch makes it", _nmi),
        _Command("stop-at [EVENT ...|nothing]", "stop at exits by reason, and at vectors: HLT, #PF, 0x20", _stop_at),
    )
}
