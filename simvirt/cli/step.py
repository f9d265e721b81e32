"""`simvirt run --step`: a guest in the terminal, forward and back, instruction by instruction or from stop to stop.

Commands are read from standard input a line each, so a list of them can be piped in. An empty line steps.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from simvirt.cli.step_view import StepView
from simvirt.cli.values import escaped_bytes, instruction_count, positive_count, whole_number
from simvirt.errors import UsageError
from simvirt.machine.breakpoints import WatchedAccess, Watchpoint
from simvirt.observe.descriptor_tables import Table
from simvirt.observe.names import address_named, event_named
from simvirt.observe.stops import (
    AtBeginning,
    AtBreakpoint,
    AtExit,
    AtHandler,
    AtWatchpoint,
    Ended,
    Interrupted,
    StopReason,
    Stops,
)

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from simvirt.guests.image import GuestImage
    from simvirt.observe.results import Run
    from simvirt.observe.trial import Trial
    from simvirt.x86.addresses import Gva

_MOST_BYTES: Final = 4096
_WATCHED_BYTES: Final = 4


def step_through(image: GuestImage, arguments: Namespace) -> Run:
    """Run a guest under a person's control, to its end or until the person has seen enough.

    Raises:
        UsageError: options that make no sense together, or no such strategy, place, event, CPU model or preset.
    """
    for name in ("json", "quiet", "trace"):
        if getattr(arguments, name):
            raise UsageError(f"--step talks to a person, --{name} is for a run without one: leave one out")
    stepper = _Stepper(image, arguments)
    stepper.converse(at_once=arguments.step)
    return stepper.finish()


@dataclass(slots=True)
class _Points:
    """What the person wants to stop at, each with a number."""

    breakpoints: dict[int, Gva] = field(default_factory=dict)
    watchpoints: dict[int, Watchpoint] = field(default_factory=dict)
    events: dict[int, int | str] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def add(self, name: str, point: Gva | Watchpoint | None = None, event: int | str | None = None) -> int:
        """Set one; its number."""
        number = max(self.names, default=0) + 1
        if event is not None:
            self.events[number] = event
        elif isinstance(point, Watchpoint):
            self.watchpoints[number] = point
        elif point is not None:
            self.breakpoints[number] = point
        self.names[number] = name
        return number

    def delete(self, number: int) -> bool:
        """Take one away; False if there is none of this number."""
        for points in (self.breakpoints, self.watchpoints, self.events):
            points.pop(number, None)
        return self.names.pop(number, None) is not None

    def stops(self) -> Stops:
        """All of them."""
        events = set(self.events.values())
        return Stops(
            frozenset(self.breakpoints.values()),
            tuple(dict.fromkeys(self.watchpoints.values())),
            frozenset(event for event in events if isinstance(event, str)),
            frozenset(event for event in events if isinstance(event, int)),
        )


class _Stepper:
    """One run and the person who steps it."""

    def __init__(self, image: GuestImage, arguments: Namespace) -> None:
        from simvirt.cli.options import run_config
        from simvirt.observe.costs import DEFAULT_COSTS, find_costs
        from simvirt.observe.timeline import Timeline
        from simvirt.observe.trial import Trial
        from simvirt.strategies.registry import find

        self._costs = find_costs(arguments.costs or DEFAULT_COSTS)
        strategy = find(arguments.strategy)
        self._points = _Points()
        for place in arguments.break_at:
            self._points.add(f"before {place}", address_named(image, place))
        for event in arguments.break_on:
            self._points.add(f"on {event}", event=event_named(strategy, event))
        self._trial: Trial = Trial(image, strategy, run_config(arguments))
        self._timeline = Timeline(self._trial, follow_exits=True)
        self._timeline.check(self._points.stops())
        self._view = StepView(self._trial)
        self._interactive = sys.stdin.isatty()
        if self._interactive:
            import readline  # noqa: F401 - lines can be edited and recalled from now on
        self._over = False

    def converse(self, *, at_once: bool) -> None:
        """Show where the guest is and do what is asked, until the person has seen enough, or the run is over."""
        if at_once:
            self._show()
        else:
            self._move(lambda: self._timeline.run(self._points.stops()))
            if self._timeline.ended:
                return  # it was never there
        while not self._over:
            line = self._read()
            if line is None:
                break
            word, *rest = line.split() or ["s"]
            command = _BY_NAME.get(word)
            if command is None:
                print(f"unknown command '{word}'; h lists what there is")
                continue
            try:
                command.run(self, rest)
            except (ArgumentTypeError, UsageError) as error:
                print(error)

    def finish(self) -> Run:
        """The run as it is now; one that could go on was interrupted by the person."""
        trial = self._trial
        if trial.outcome is None and trial.count < trial.config.max_instructions:
            trial.machine.request_stop()
            trial.advance(trial.count + 1)
        return trial.finish(self._costs)

    def _read(self) -> str | None:
        """A line, None at the end of the input or on Ctrl-C."""
        try:
            if self._interactive:
                return input("step> ")
            return sys.stdin.readline() or None
        except (KeyboardInterrupt, EOFError):
            print()
            return None

    # -------------------------------------------------------------------------------- moving

    def _move(self, move: Callable[[], StopReason]) -> None:
        """Go somewhere, and show where that is."""
        from simvirt.observe.interruption import StopOnInterrupt

        self._view.remember()
        with StopOnInterrupt() as stop:
            stop.watch(self._trial.machine)
            reason = move()
        if stop.requested:
            self._trial.machine.resume()
        self._show(reason)

    def _show(self, reason: StopReason | None = None) -> None:
        self._view.print_stop(self._timeline.last_exit)
        text = self._told(reason)
        if text:
            print(text)

    def _told(self, reason: StopReason | None) -> str:
        """Why it has stopped, where that is worth a line."""
        match reason:
            case AtBreakpoint(address):
                numbers = [number for number, at in self._points.breakpoints.items() if at == address]
                return f"stop {numbers[0]}: {self._points.names[numbers[0]]}" if numbers else ""
            case AtWatchpoint(point):
                number = next(number for number, at in self._points.watchpoints.items() if at == point)
                return f"stop {number}: {self._points.names[number]}; it holds {self._view.value(point)}"
            case AtExit(record):
                return f"stop: the VMM has dealt with exit {record.number}, {record.reason.name}"
            case AtHandler():
                return f"stop: {reason.name} has been delivered"
            case AtBeginning():
                return "this is the beginning"
            case Ended(outcome):
                return f"the run is over: {outcome.value}; you can go back from here, q ends"
            case Interrupted():
                return "stopped by Ctrl-C"
            case _:
                return ""

    def step(self, words: list[str]) -> None:
        """Forward."""
        count = positive_count(words[0]) if words else 1
        if count == 1:
            self._move(self._timeline.step)
        else:
            self._move(lambda: self._timeline.run(self._points.stops(), self._trial.count + count))

    def back(self, words: list[str]) -> None:
        """Backward."""
        count = positive_count(words[0]) if words else 1
        self._move(lambda: self._timeline.step_back(count))

    def go_on(self, _words: list[str]) -> None:
        """To the next stop."""
        self._move(lambda: self._timeline.run(self._points.stops()))

    def go_back(self, _words: list[str]) -> None:
        """To the last stop before here."""
        self._move(lambda: self._timeline.run_back(self._points.stops()))

    def until(self, words: list[str]) -> None:
        """To a place, once."""
        if not words:
            raise ArgumentTypeError("u needs a symbol or an address, for example: u guest_main")
        place = address_named(self._trial.image, words[0])
        self._move(lambda: self._timeline.run(Stops(frozenset({place}))))

    def go_to(self, words: list[str]) -> None:
        """To a moment."""
        if not words:
            raise ArgumentTypeError("g needs a number of instructions, for example: g 1000")
        count = instruction_count(words[0])
        self._move(lambda: self._timeline.go_to(count))

    def type_in(self, words: list[str]) -> None:
        """Console input."""
        if not words:
            raise ArgumentTypeError(r"i needs a text, for example: i help\n")
        self._timeline.input(escaped_bytes(" ".join(words)))

    # -------------------------------------------------------------------------------- stops

    def break_at(self, words: list[str]) -> None:
        """Set a breakpoint, or list what is set."""
        if not words:
            for number, name in self._points.names.items():
                print(f"stop {number}: {name}")
            if not self._points.names:
                print("no stops are set; b guest_main sets one")
            return
        self._set(f"before {words[0]}", point=address_named(self._trial.image, words[0]))

    def watch(self, words: list[str]) -> None:
        """Set a watchpoint."""
        if not words:
            raise ArgumentTypeError("w needs a symbol or an address, for example: w ticks 4")
        size = whole_number(words[1]) if len(words) > 1 else _WATCHED_BYTES
        place = address_named(self._trial.image, words[0])
        name = f"{size} bytes at {words[0]} are written"
        self._set(name, point=Watchpoint(place, max(size, 1), WatchedAccess.WRITE))

    def stop_on(self, words: list[str]) -> None:
        """Stop at an event."""
        if not words:
            raise ArgumentTypeError("e needs an exit reason or a vector, for example: e #PF")
        self._set(f"on {words[0]}", event=event_named(self._trial.strategy, words[0]))

    def _set(self, name: str, point: Gva | Watchpoint | None = None, event: int | str | None = None) -> None:
        number = self._points.add(name, point, event)
        try:
            self._timeline.check(self._points.stops())
        except UsageError:
            self._points.delete(number)
            raise
        print(f"stop {number}: {name}")

    def delete(self, words: list[str]) -> None:
        """Take stops away."""
        numbers = [whole_number(word) for word in words] or list(self._points.names)
        for number in numbers:
            if not self._points.delete(number):
                print(f"there is no stop {number}; b lists them")

    # -------------------------------------------------------------------------------- looking

    def where(self, _words: list[str]) -> None:
        """All of it again."""
        self._show()

    def registers(self, _words: list[str]) -> None:
        """All registers."""
        self._view.print_registers()

    def examine(self, words: list[str]) -> None:
        """Memory."""
        if not words:
            raise ArgumentTypeError("x needs an address or symbol, for example: x 0x100000 32")
        length = whole_number(words[1]) if len(words) > 1 else 64
        self._view.print_memory(address_named(self._trial.image, words[0]), min(length, _MOST_BYTES))

    def stack(self, words: list[str]) -> None:
        """The stack."""
        self._view.print_stack(min(whole_number(words[0]) if words else 16, _MOST_BYTES // 8))

    def table(self, words: list[str]) -> None:
        """A descriptor table."""
        names = [table.value for table in Table]
        if not words or words[0].lower() not in names:
            raise ArgumentTypeError(f"t needs one of {', '.join(names)}")
        self._view.print_table(Table(words[0].lower()))

    def page(self, words: list[str]) -> None:
        """A page walk."""
        if not words:
            raise ArgumentTypeError("p needs an address or symbol, for example: p 0x100000")
        self._view.print_walk(address_named(self._trial.image, words[0]))

    def exits(self, _words: list[str]) -> None:
        """Exits so far."""
        self._view.print_exits()

    def help(self, _words: list[str]) -> None:
        """The list of commands."""
        print(help_text())

    def quit(self, _words: list[str]) -> None:
        """End."""
        self._over = True


@dataclass(frozen=True, slots=True)
class _Command:
    names: tuple[str, ...]
    arguments: str
    summary: str
    run: Callable[[_Stepper, list[str]], None]

    @property
    def usage(self) -> str:
        """As the help has it: all names, then the arguments."""
        return f"{', '.join(self.names)} {self.arguments}".rstrip()


_COMMANDS: Final = (
    _Command(("step", "s"), "[COUNT]", "the next instruction, or COUNT of them; so does an empty line", _Stepper.step),
    _Command(("next", "n"), "[COUNT]", "the same", _Stepper.step),
    _Command(("back", "bk"), "[COUNT]", "undo the last instruction, or COUNT of them", _Stepper.back),
    _Command(("continue", "c"), "", "to the next stop or the end; Ctrl-C comes back here", _Stepper.go_on),
    _Command(("reverse-continue", "rc"), "", "back to the last stop before here, or the beginning", _Stepper.go_back),
    _Command(("until", "u"), "PLACE", "until an instruction at PLACE is next, a symbol or an address", _Stepper.until),
    _Command(("goto", "g"), "N", "to the moment when N instructions are retired, forward or back", _Stepper.go_to),
    _Command(("break", "b"), "[PLACE]", "stop before the instruction at PLACE; list the stops", _Stepper.break_at),
    _Command(("watch", "w"), "PLACE [SIZE]", "stop when SIZE bytes at PLACE (4) are written", _Stepper.watch),
    _Command(("event", "e"), "EVENT", "stop at an exit reason or a vector: HLT, #PF, 0x20", _Stepper.stop_on),
    _Command(("delete", "d"), "[NUMBER]", "take a stop away, or all", _Stepper.delete),
    _Command(("where", "."), "", "code, registers and stack again", _Stepper.where),
    _Command(("registers", "r"), "", "all registers, hidden parts included", _Stepper.registers),
    _Command(("memory", "x"), "PLACE [SIZE]", "guest memory in hexadecimal, SIZE bytes (64)", _Stepper.examine),
    _Command(("stack", "k"), "[COUNT]", "COUNT words of the stack (16)", _Stepper.stack),
    _Command(("table", "t"), "gdt|ldt|idt|tss", "a descriptor table or the TSS, decoded", _Stepper.table),
    _Command(("page", "p"), "PLACE", "the walk through the guest's page tables", _Stepper.page),
    _Command(("exits", "ex"), "", "exits to the VMM so far, by reason", _Stepper.exits),
    _Command(("input", "i"), r"TEXT", r"console input; \n ends a line", _Stepper.type_in),
    _Command(("help", "h"), "", "this help", _Stepper.help),
    _Command(("quit", "q"), "", "end the run", _Stepper.quit),
)
_BY_NAME: Final = {name: command for command in _COMMANDS for name in command.names}


def help_text() -> str:
    """The commands, a line each."""
    width = max(len(command.usage) for command in _COMMANDS)
    return "\n".join(f"{command.usage.ljust(width)}  {command.summary}" for command in _COMMANDS)
