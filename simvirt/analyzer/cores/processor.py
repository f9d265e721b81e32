"""One instruction from one state, on an engine made for it and thrown away: nothing is left over from another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final

import unicorn

from simvirt.analyzer.model.outcome import Completed, Outcome, Trap, TrapKind, Trapped
from simvirt.errors import EngineError

if TYPE_CHECKING:
    from types import ModuleType

    from simvirt.analyzer.cores.description import ComponentTable, ProcessorFile
    from simvirt.analyzer.model.state import State, Value

CODE: Final = 0x10000
DATA: Final = 0x20000
DATA_NAME: Final = "[data]"
DATA_SIZE: Final = 64
STACK: Final = 0x30000
_MEMORY_SIZE: Final = 0x100000
_OWN_BUSINESS: Final = 0x10000
"""From here on the engine's numbers are no exceptions: it stopped because the instruction sleeps or yields."""
_MEMORY_TRAP: Final = Trap(-1, "memory", TrapKind.MEMORY)
_MEMORY_ERRORS: Final = (
    unicorn.UC_ERR_READ_UNMAPPED,
    unicorn.UC_ERR_WRITE_UNMAPPED,
    unicorn.UC_ERR_FETCH_UNMAPPED,
    unicorn.UC_ERR_READ_PROT,
    unicorn.UC_ERR_WRITE_PROT,
    unicorn.UC_ERR_FETCH_PROT,
    unicorn.UC_ERR_READ_UNALIGNED,
    unicorn.UC_ERR_WRITE_UNALIGNED,
    unicorn.UC_ERR_FETCH_UNALIGNED,
)
ENGINE: Final = f"Unicorn {unicorn.__version__}"


class CoreProcessor(ABC):
    """What the processors have in common.

    :cvar registers: Unicorn's module with the registers' numbers.
    :cvar prefix: what their names begin with in it.
    """

    registers: ModuleType
    prefix: str

    def __init__(self, told: ProcessorFile) -> None:
        self.told = told
        self._held: set[tuple[tuple[str, Value], ...]] = set()
        self._numbers: dict[str, int] = {
            one.register: getattr(self.registers, self.prefix + one.register) for one in told.component if one.register
        }
        self._fields: dict[str, list[ComponentTable]] = {}
        for one in told.component:
            if one.register:
                self._fields.setdefault(one.register, []).append(one)

    # ---------------------------------------------------------------------------------------------- each one's own
    @abstractmethod
    def open(self) -> Any:
        """A fresh engine."""

    @abstractmethod
    def write_special(self, engine: Any, state: State) -> None:
        """Set what is no plain register: mode, banks, the program counter; called last."""

    @abstractmethod
    def read_special(self, engine: Any) -> dict[str, Value]:
        """The same, read."""

    @abstractmethod
    def interrupt(self, engine: Any, number: int, start: State) -> Outcome | None:
        """What an interrupt of the engine is; None if the engine has completed the instruction all the same."""

    @abstractmethod
    def undefined(self) -> Trap:
        """The trap of what the engine calls an invalid instruction."""

    # ------------------------------------------------------------------------------------------------------ running
    def execute(self, code: bytes, start: State) -> Outcome:
        """One instruction."""
        self._check_held(start)
        engine = self._set(start)
        engine.mem_write(CODE, code)
        numbers: list[int] = []

        def on_interrupt(uc: Any, number: int, _: Any) -> None:
            numbers.append(number)
            uc.emu_stop()

        engine.hook_add(unicorn.UC_HOOK_INTR, on_interrupt)
        try:
            engine.emu_start(CODE, CODE + len(code), 0, 1)
        except unicorn.UcError as error:
            if error.errno == unicorn.UC_ERR_INSN_INVALID:
                return Trapped(self.undefined(), start)
            if error.errno in _MEMORY_ERRORS:
                return Trapped(_MEMORY_TRAP, start)
            if not numbers:
                raise EngineError(f"{code.hex()}: the engine says {error}") from error
        numbers = [number for number in numbers if number < _OWN_BUSINESS]
        if numbers and (outcome := self.interrupt(engine, numbers[0], start)) is not None:
            return outcome
        return Completed(self.read(engine))

    def _set(self, start: State) -> Any:
        """An engine in this state."""
        engine = self.open()
        engine.mem_map(0, _MEMORY_SIZE)
        data = start[DATA_NAME]
        assert isinstance(data, bytes)
        engine.mem_write(DATA, data)
        for register, fields in self._fields.items():
            engine.reg_write(self._numbers[register], self._compose(engine, register, fields, start))
        self.write_special(engine, start)
        return engine

    def _check_held(self, start: State) -> None:
        """Does the engine hold what it was given? Reading may disturb it, so that is done on another one; once."""
        key = tuple(sorted(start.items()))
        if key in self._held:
            return
        found = self.read(self._set(start))
        if different := [name for name in start if found[name] != start[name]]:
            told = ", ".join(f"{name} {start[name]!r} reads {found[name]!r}" for name in different)
            raise EngineError(f"{self.told.machine.name}: the engine does not hold a start state: {told}")
        self._held.add(key)

    def read(self, engine: Any) -> dict[str, Value]:
        """The state as it is."""
        special = self.read_special(engine)
        values: dict[str, Value] = {}
        for one in self.told.component:
            values[one.name] = special[one.name] if one.name in special else self._field(engine, one)
        values[DATA_NAME] = bytes(engine.mem_read(DATA, DATA_SIZE))
        return values

    def _compose(self, engine: Any, register: str, fields: list[ComponentTable], state: State) -> int:
        value: int = engine.reg_read(self._numbers[register]) if fields[0].bits else 0
        for one in fields:
            new = state[one.name]
            assert isinstance(new, int)
            if not one.bits:
                return new
            high, low = one.bits
            mask = ((1 << (high - low + 1)) - 1) << low
            value = value & ~mask | new << low & mask
        return value

    def _field(self, engine: Any, one: ComponentTable) -> int:
        value: int = engine.reg_read(self._numbers[one.register])
        if not one.bits:
            return value
        high, low = one.bits
        return value >> low & ((1 << (high - low + 1)) - 1)
