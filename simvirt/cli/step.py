"""`simvirt run --step`: a guest, one instruction at a time, in the terminal.

Commands are read from standard input a line each, so a list of them can be piped in. An empty line steps.
"""

from __future__ import annotations

import sys
from argparse import ArgumentTypeError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.cli.step_view import StepView
from simvirt.cli.values import address, positive_count, whole_number
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from simvirt.guests.image import GuestImage
    from simvirt.observe.results import Run
    from simvirt.observe.trial import Trial
    from simvirt.vmm.exit_log import ExitRecord

_MOST_BYTES: Final = 4096
_HELP: Final = """\
Enter, s      the next instruction
n COUNT       the next COUNT instructions
u PLACE       until an instruction at PLACE is next, a symbol or an address; Ctrl-C comes back here
c             to the end of the run; Ctrl-C comes back here
r             all registers
x ADDR [LEN]  guest memory in hexadecimal, LEN bytes (64)
h             this help
q             end the run"""


def step_through(image: GuestImage, arguments: Namespace) -> Run:
    """Run a guest under a person's control, to its end or until the person has seen enough.

    Raises:
        UsageError: options that make no sense together, or no such strategy, CPU model or preset.
    """
    for name in ("json", "quiet", "trace"):
        if getattr(arguments, name):
            raise UsageError(f"--step talks to a person, --{name} is for a run without one: leave one out")
    stepper = _Stepper(image, arguments)
    stepper.converse()
    return stepper.finish()


@dataclass(slots=True)
class _LastExit:
    """The exit that the VMM made last."""

    record: ExitRecord | None = None

    def listen(self, record: ExitRecord) -> None:
        self.record = record


class _Stepper:
    """One run and the person who steps it."""

    def __init__(self, image: GuestImage, arguments: Namespace) -> None:
        from simvirt.cli.options import run_config
        from simvirt.observe.costs import DEFAULT_COSTS, find_costs
        from simvirt.observe.trial import Trial
        from simvirt.strategies.registry import find

        self._costs = find_costs(arguments.costs or DEFAULT_COSTS)
        self._last_exit = _LastExit()
        self._trial: Trial = Trial(image, find(arguments.strategy), run_config(arguments), self._last_exit.listen)
        self._view = StepView(self._trial)
        self._interactive = sys.stdin.isatty()
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "": self._step,
            "s": self._step,
            "n": self._step,
            "u": self._until,
            "c": self._continue,
            "r": lambda _words: self._view.print_registers(),
            "x": self._examine,
            "h": lambda _words: print(_HELP),
        }

    def converse(self) -> None:
        """Show where the guest is and do what is asked, until the run is over."""
        self._view.print_stop(self._last_exit.record)
        while not self._over():
            line = self._read()
            if line is None or line.strip() == "q":
                break
            word, *rest = line.split() or [""]
            command = self._commands.get(word)
            if command is None:
                print(f"unknown command '{word}'; h lists what there is")
                continue
            try:
                command(rest)
            except ArgumentTypeError as error:
                print(error)

    def finish(self) -> Run:
        """The run as it is now; one that could go on was interrupted by the person."""
        if not self._over():
            self._trial.machine.request_stop()
            self._trial.advance(self._trial.count + 1)
        return self._trial.finish(self._costs)

    def _over(self) -> bool:
        return self._trial.outcome is not None or self._trial.count >= self._trial.config.max_instructions

    def _read(self) -> str | None:
        """A line, None at the end of the input or on Ctrl-C."""
        if self._interactive:
            print("step> ", end="", flush=True)
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            print()
            return None
        return line or None

    def _step(self, words: list[str]) -> None:
        self._advance(positive_count(words[0]) if words else 1)

    def _continue(self, words: list[str]) -> None:
        del words
        self._advance(self._trial.config.max_instructions)

    def _until(self, words: list[str]) -> None:
        """Steps, since a breakpoint would be seen by a guest that reads its own code."""
        from simvirt.observe.code import code_bits, linear_address

        if not words:
            raise ArgumentTypeError("u needs a symbol or an address, for example: u guest_main")
        symbol = self._trial.image.symbols.address(words[0])
        place = address(words[0]) if symbol is None else symbol

        def there() -> bool:
            state = self._trial.machine.processor.guest_state()
            return linear_address(state, code_bits(state)) == place

        self._advance(self._trial.config.max_instructions, there)

    def _advance(self, instructions: int, there: Callable[[], bool] | None = None) -> None:
        """Run so many instructions, or one by one until `there` is true behind one of them."""
        from simvirt.observe.interruption import StopOnInterrupt

        self._view.remember()
        trial = self._trial
        limit = min(trial.count + instructions, trial.config.max_instructions)
        with StopOnInterrupt() as stop:
            stop.watch(trial.machine)
            if there is None:
                trial.advance(limit)
            else:
                while trial.advance(trial.count + 1) is None and trial.count < limit and not there():
                    pass
        if stop.requested:
            trial.machine.resume()
        if not self._over():
            self._view.print_stop(self._last_exit.record)

    def _examine(self, words: list[str]) -> None:
        if not words:
            raise ArgumentTypeError("x needs an address, for example: x 0x100000 32")
        length = whole_number(words[1]) if len(words) > 1 else 64
        self._view.print_memory(address(words[0]), min(length, _MOST_BYTES))
