"""A finite machine as the definitions want it: pairs of states, and what its instructions do from them."""

from __future__ import annotations

import traceback
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.finite.choices import Choices
from simvirt.analyzer.finite.encoding import encode
from simvirt.analyzer.finite.processor import Processor, TrapTaken
from simvirt.analyzer.model.experiment import Observation, Pair
from simvirt.analyzer.model.form import Form
from simvirt.analyzer.model.outcome import Called, Completed, Trapped
from simvirt.analyzer.model.state import RESOURCES, Architecture, Component, Part, changes
from simvirt.errors import UnknownNameError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterator, Sequence

    from simvirt.analyzer.finite.description import Description, Field, Instruction
    from simvirt.analyzer.model.outcome import Outcome
    from simvirt.analyzer.model.state import State, Value

WIDEST_PROOF: Final = 6
"""Bits of the widest register or word of which all values are tried; of a wider one some are, and nothing is proved."""
MOST_OBSERVATIONS: Final = 200_000
"""Of one form; a machine that needs more is too large to be tried."""
_VARIED: Final = frozenset({Part.CONFIGURATION, Part.PORT_DEVICES, Part.ADDRESS_MAP, Part.PROGRAM_COUNTER})


def all_or_some(bits: int) -> tuple[int, ...]:
    """All numbers of so many bits; of many bits, those at the ends and with one bit set.

    >>> all_or_some(2)
    (0, 1, 2, 3)
    >>> all_or_some(8)
    (0, 1, 2, 4, 8, 16, 32, 64, 127, 128, 255)
    """
    if bits <= WIDEST_PROOF:
        return tuple(range(1 << bits))
    top = 1 << bits
    return tuple(sorted({0, *(1 << bit for bit in range(bits)), (top >> 1) - 1, top - 1}))


_RUN_AGAIN: Final = 32
"""So many pairs of a form are run twice."""
_NO_FUNCTION: Final = (
    "it came to another result when it was run again from the same state: a function may not keep anything between "
    "calls, ask for the time, or draw random numbers"
)


class InstructionFunctionError(UsageError):
    """The function of an instruction does what the machine does not offer: the message leads to its line."""

    def __init__(self, instruction: Instruction, reason: str, error: Exception | None = None) -> None:
        self.mnemonic = instruction.mnemonic
        file = instruction.function.__code__.co_filename
        frames = traceback.extract_tb(error.__traceback__) if error else ()
        lines = [frame.lineno for frame in frames if frame.filename == file]
        self.file, self.line = file, lines[-1] if lines else instruction.function.__code__.co_firstlineno
        super().__init__(f"{file}:{self.line}: {instruction.mnemonic}: {reason}")


class _Trial:
    """One run: what it has asked for, shared with the other run of its pair, and what it has written."""

    def __init__(self, machine: FiniteMachine, choices: Choices, varied: Component, side: int) -> None:
        self._machine = machine
        self._choices = choices
        self._varied = varied
        self._side = side
        self.written: dict[str, Value] = {}

    def get(self, name: str) -> Value:
        if name in self.written:
            return self.written[name]
        return self.start(name)

    def put(self, name: str, value: Value) -> None:
        if self._machine.architecture.part(name) in RESOURCES:
            self.start(name)  # whether a resource was changed depends on what it was
        self.written[name] = value

    def load(self, address: int, relocation: int) -> int:
        del relocation
        value = self.get(f"[{address}]")
        assert isinstance(value, int)
        return value

    def store(self, address: int, relocation: int, value: int) -> None:
        del relocation
        self.written[f"[{address}]"] = value

    def start(self, name: str) -> Value:
        """What the run finds under this name, chosen now if it is asked for the first time."""
        if name == self._varied.name:
            return self._choices.take(name, self._machine.differing(name))[self._side]
        return self._choices.take(name, self._machine.domain(name))


class _Copy:
    """A run from a given state."""

    def __init__(self, start: State) -> None:
        self._start = start
        self.written: dict[str, Value] = {}

    def get(self, name: str) -> Value:
        return self.written[name] if name in self.written else self._start[name]

    def put(self, name: str, value: Value) -> None:
        self.written[name] = value

    def load(self, address: int, relocation: int) -> int:
        del relocation
        name = f"[{address}]"
        value = self.written.get(name, self._start.get(name, 0))
        assert isinstance(value, int)
        return value

    def store(self, address: int, relocation: int, value: int) -> None:
        del relocation
        self.written[f"[{address}]"] = value


class FiniteMachine:
    """A machine of finitely many states, in the size in which things are proved on it."""

    engine = "a Python function for each instruction"

    def __init__(self, description: Description) -> None:
        self.description = description
        self._by_form = {self._identifier(one): one for one in description.instructions}
        self._domains: dict[str, tuple[Value, ...]] = {}

    @property
    def exhaustive(self) -> bool:
        """Are all values of everything tried?"""
        storage = self.description.storage
        widths = [register.size.proof for register in self.description.registers if not register.values]
        operands = [field.size.proof for one in self.description.instructions for field in one.operands]
        return max(*widths, *operands, storage.word.proof) <= WIDEST_PROOF

    @cached_property
    def architecture(self) -> Architecture:
        """The machine's state in terms of the model."""
        told = self.description
        return Architecture(
            name=told.info.name,
            components=tuple(Component(register.name, register.part, register.title) for register in told.registers),
            mode=told.mode,
            privileged_modes=told.privileged,
            user_mode=told.user,
            vmm_configuration=told.vmm_configuration,
            assumptions=told.assumptions,
        )

    def forms(self) -> Sequence[Form]:
        """One form for each row of the description."""
        return [
            Form(
                identifier=identifier,
                text=" ".join([one.mnemonic, ", ".join(field.name for field in one.operands)]).strip(),
                mnemonic=one.mnemonic,
                encoding=self._example(one),
                group=one.group,
                declared=one.declared,
            )
            for identifier, one in self._by_form.items()
        ]

    def form_names(self) -> Collection[str]:
        """The identifiers of the forms."""
        return self._by_form.keys()

    def form(self, identifier: str) -> Form:
        """One of the forms.

        :raises UnknownNameError: there is none of this identifier.
        """
        for form in self.forms():
            if form.identifier == identifier:
                return form
        raise UnknownNameError("form", identifier, self._by_form)

    def pairs(self, form: Form) -> Iterator[Pair]:
        """All pairs of states that differ in the mode, a configuration register, the relocation, or P."""
        return (seen.pair for seen in self.observe(form))

    def observe(self, form: Form) -> Iterator[Observation]:
        """The form from all pairs of states, of which each stands for those that differ in what it never looks at.

        Where it never looks at what the two states of a pair differ in, its runs are one and the same, and one such
        pair of its kind stands for all; of those that differ in the mode each is given, for what single runs show.

        :raises InstructionFunctionError: its function does what the machine does not offer.
        :raises UsageError: it looks at so much that there are too many.
        """
        instruction = self._by_form[form.identifier]
        made = 0
        for component in self._varied():
            choices = Choices()
            is_mode = component.name == self.description.mode
            given: set[Hashable] = set()
            for _ in choices.runs():
                made += 1
                if made > MOST_OBSERVATIONS:
                    raise UsageError(
                        f"{self.description.path}:{instruction.line}: {instruction.mnemonic}: more than "
                        f"{MOST_OBSERVATIONS:,} pairs of states to try; give registers and words fewer bits"
                    )
                seen, looked = self._observe_pair(instruction, component, choices)
                if made <= _RUN_AGAIN:
                    self._check_again(form, instruction, seen)
                if is_mode or looked:
                    yield seen
                elif (kind := self._kind(seen)) not in given:
                    given.add(kind)
                    yield seen

    def _check_again(self, form: Form, instruction: Instruction, seen: Observation) -> None:
        """An instruction is a function of the state: the same again comes to the same."""
        for start, outcome in zip((seen.pair.first, seen.pair.second), seen.outcomes, strict=True):
            if self.execute(form, start) != outcome:
                raise InstructionFunctionError(instruction, _NO_FUNCTION)

    def execute(self, form: Form, start: State) -> Outcome:
        """What the form comes to from this state."""
        return self._finish(*self._run(self._by_form[form.identifier], _Copy(start)), start)

    # ------------------------------------------------------------------------------------------------- one pair
    def _observe_pair(
        self, instruction: Instruction, component: Component, choices: Choices
    ) -> tuple[Observation, bool]:
        """Both runs of a pair, and whether they looked at what they differ in; if not, they are one and the same."""
        trials = (_Trial(self, choices, component, 0), _Trial(self, choices, component, 1))
        for name in sorted(self._asked_by_definitions - {component.name}):
            trials[0].start(name)
        ends = [self._run(instruction, trials[0])]
        looked = choices.known(component.name)
        if looked:
            ends.append(self._run(instruction, trials[1]))
        else:
            trials[1].written = trials[0].written
            ends.append(ends[0])
        names = [*self.description.by_name, *(self._operand_name(field) for field in instruction.operands)]
        cells = {name for trial in trials for name in trial.written if name.startswith("[")}
        cells |= {name for name in self._cells() if choices.known(name)}
        names += sorted(cells - set(names))
        for name in names:
            if name != component.name and not choices.known(name):
                choices.settle(name, self._unseen(name, trials))
        first, second = ({name: trial.start(name) for name in names} for trial in trials)
        pair = Pair(first, second, component)
        outcomes = (self._finish(*ends[0], first), self._finish(*ends[1], second))
        return Observation(pair, outcomes), looked

    @cached_property
    def _asked_by_definitions(self) -> frozenset[str]:
        """What the definitions look at, whether the instruction does or not."""
        return frozenset({self.description.mode, *self.description.vmm_configuration})

    def _kind(self, seen: Observation) -> Hashable:
        """All that the definitions ask of a pair whose runs are one and the same."""
        outcome, start = seen.outcomes[0], seen.pair.first
        trap = None if isinstance(outcome, Completed) else outcome.trap
        asked = tuple(start[name] for name in sorted(self._asked_by_definitions))
        return type(outcome), trap, changes(start, outcome.end), asked

    def _unseen(self, name: str, trials: tuple[_Trial, _Trial]) -> Value:
        """A value for what no run looked at: any will do; of what they wrote, one that shows that they did."""
        written = {trial.written[name] for trial in trials if name in trial.written}
        return next((value for value in self.domain(name) if value not in written), self.domain(name)[0])

    def _run(self, instruction: Instruction, trial: _Trial | _Copy) -> tuple[dict[str, Value], TrapTaken | None]:
        told = self.description
        cpu = Processor(told, trial, proof=True)
        operands = {field.name: trial.get(self._operand_name(field)) for field in instruction.operands}
        try:
            cpu.run(instruction.function, operands)  # type: ignore[arg-type]  # operands are numbers
        except TrapTaken as trap:
            return {}, trap
        except Exception as error:
            raise InstructionFunctionError(instruction, f"{type(error).__name__}: {error}", error) from error
        return trial.written, None

    def _finish(self, written: dict[str, Value], trap: TrapTaken | None, start: State) -> Outcome:
        if trap is None:
            counter = self.description.counter
            before = start[counter]
            assert isinstance(before, int)
            after = (before + 1) % (1 << self.description.by_name[counter].size.proof)
            return Completed({**start, counter: after, **written})
        return Called(trap.trap, start) if trap.is_call else Trapped(trap.trap, start)

    def _example(self, instruction: Instruction) -> bytes:
        """The instruction's word with all operands 0, its bytes from the most significant on."""
        word = encode(instruction, dict.fromkeys((field.name for field in instruction.operands), 0))
        return word.to_bytes(-(-self.description.storage.word.run // 8), "big")

    # -------------------------------------------------------------------------------------------------- domains
    def _varied(self) -> list[Component]:
        storage = self.description.storage
        components = self.architecture.components
        mode = [one for one in components if one.name == self.description.mode]
        return mode + [one for one in components if one.part in _VARIED or one.name == storage.relocation]

    def domain(self, name: str) -> tuple[Value, ...]:
        """All values that a register, operand or cell can have."""
        if name not in self._domains:
            register = self.description.by_name.get(name)
            if register is not None:
                found: tuple[Value, ...] = register.values or all_or_some(register.size.proof)
            elif name.startswith("[operand "):
                found = all_or_some(int(name.rpartition(":")[2].rstrip("]")))
            else:
                found = all_or_some(self.description.storage.word.proof)
            self._domains[name] = found
        return self._domains[name]

    def differing(self, name: str) -> tuple[tuple[Value, Value], ...]:
        """All pairs of different values of a register; of the mode's, those of a privileged one and the user's."""
        told = self.description
        if name == told.mode:
            return tuple((privileged, told.user) for privileged in told.privileged)
        return tuple(combinations(self.domain(name), 2))

    def _cells(self) -> list[str]:
        return [f"[{address}]" for address in range(self.description.storage.cells.proof)]

    @staticmethod
    def _operand_name(field: Field) -> str:
        """Operands are part of the instruction's word, which is in storage."""
        return f"[operand {field.name}:{field.size.proof}]"

    def _identifier(self, instruction: Instruction) -> str:
        return f"{self.description.info.name}:{instruction.mnemonic.lower()}"
