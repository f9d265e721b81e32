"""The third-generation machine at work: fetching, executing, trapping.

A trap stores the old PSW at E[0] and loads the new one from E[1]; storage is otherwise as it was (§2 of the paper).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.finite.encoding import Decoder
from simvirt.analyzer.finite.processor import MEMORY_TRAP, UNDEFINED_TRAP, Processor, TrapTaken
from simvirt.analyzer.toys.psw import Psw
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simvirt.analyzer.finite.description import Description, Instruction
    from simvirt.analyzer.model.outcome import Trap
    from simvirt.analyzer.model.state import Value

OLD_PSW: Final = 0
NEW_PSW: Final = 1
HALT: Final = "HALT"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a machine: what equivalence compares."""

    psw: Psw
    a: int
    x: int
    storage: tuple[int, ...]


@dataclass
class _Registers:
    """The registers and the storage, with what an instruction has changed so far."""

    values: dict[str, Value]
    storage: list[int]
    before: dict[str, Value] = field(default_factory=dict)
    written: list[tuple[int, int]] = field(default_factory=list)

    def get(self, name: str) -> Value:
        return self.values[name]

    def put(self, name: str, value: Value) -> None:
        self.values[name] = value

    def load(self, address: int, relocation: int) -> int:
        return self.storage[address + relocation]

    def store(self, address: int, relocation: int, value: int) -> None:
        self.written.append((address + relocation, self.storage[address + relocation]))
        self.storage[address + relocation] = value


class Computer:
    """A third-generation machine with a program in its storage.

    :ivar halted: it has executed HALT.
    :ivar executed: how many instructions completed, by mode.
    :ivar traps: how many traps were taken, by name.
    """

    def __init__(self, description: Description, image: Sequence[int], size: int, start: Psw | None = None) -> None:
        if not len(image) <= size <= description.storage.cells.run:
            raise UsageError(
                f"an image of {len(image)} words in a storage of {size} of at most {description.storage.cells.run}"
            )
        self._description = description
        self._decoder = Decoder(description)
        self._decoded: dict[int, tuple[Instruction, dict[str, int]] | None] = {}
        psw = start or Psw("s", 2, 0, size)
        registers: dict[str, Value] = {"M": psw.mode, "P": psw.p, "L": psw.l, "B": psw.b, "A": 0, "X": 0}
        self._registers = _Registers(registers, [*image, *[0] * (size - len(image))])
        self._cpu = Processor(description, self._registers, proof=False, cells=size)
        self.halted = False
        self.executed: Counter[str] = Counter()
        self.traps: Counter[str] = Counter()

    @property
    def psw(self) -> Psw:
        """M, P, L and B as they are."""
        values = self._registers.values
        return Psw(str(values["M"]), int(values["P"]), int(values["L"]), int(values["B"]))

    @property
    def storage(self) -> list[int]:
        """E."""
        return self._registers.storage

    def snapshot(self) -> Snapshot:
        """The whole state."""
        values = self._registers.values
        return Snapshot(self.psw, int(values["A"]), int(values["X"]), tuple(self.storage))

    def step(self) -> None:
        """One instruction, or the trap that it takes."""
        registers = self._registers
        registers.before = dict(registers.values)
        registers.written.clear()
        mode = str(registers.values["M"])
        try:
            instruction = self._execute()
        except TrapTaken as taken:
            self._trap(taken.trap)
            return
        self.executed[mode] += 1
        self.halted = instruction.mnemonic == HALT

    def run(self, limit: int) -> bool:
        """Run until HALT or for so many steps. Did it halt?"""
        for _ in range(limit):
            if self.halted:
                break
            self.step()
        return self.halted

    def _execute(self) -> Instruction:
        values = self._registers.values
        p, relocation, bound = int(values["P"]), int(values["L"]), int(values["B"])
        if p + relocation >= len(self.storage) or p >= bound:
            raise TrapTaken(MEMORY_TRAP)
        word = self.storage[p + relocation]
        if word not in self._decoded:
            self._decoded[word] = self._decoder.decode(word)
        found = self._decoded[word]
        if found is None:
            raise TrapTaken(UNDEFINED_TRAP)
        instruction, operands = found
        if not self._cpu.run(instruction.function, operands):
            values["P"] = (p + 1) & self._registers_mask
        return instruction

    @property
    def _registers_mask(self) -> int:
        return (1 << self._description.by_name["P"].size.run) - 1

    def _trap(self, trap: Trap) -> None:
        """The trap sequence: what the instruction did is undone, the PSWs change places."""
        registers = self._registers
        registers.values.update(registers.before)
        for address, value in reversed(registers.written):
            registers.storage[address] = value
        self.traps[trap.name] += 1
        registers.storage[OLD_PSW] = self.psw.pack()
        new = Psw.unpack(registers.storage[NEW_PSW])
        registers.values.update(M=new.mode, P=new.p, L=new.l, B=new.b)
