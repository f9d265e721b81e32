"""RISC-V, RV64GC with supervisor and user mode (The RISC-V Instruction Set Manual, Volume II)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import unicorn
from unicorn import riscv_const as registers

from simvirt.analyzer.cores.processor import CODE, CoreProcessor
from simvirt.analyzer.model.outcome import Called, Outcome, Trap, TrapKind, Trapped

if TYPE_CHECKING:
    from simvirt.analyzer.model.state import State, Value

_MODES: Final[dict[Value, int]] = {"U": 0, "S": 1, "M": 3}
_BY_NUMBER: Final = {number: name for name, number in _MODES.items()}
_ILLEGAL: Final = Trap(2, "illegal instruction")
_ECALL: Final = range(8, 12)
_BREAKPOINT: Final = Trap(3, "breakpoint")
_ACCESS: Final = {0, 1, 4, 5, 6, 7, 12, 13, 15}
"""Causes of misaligned addresses, access faults and page faults (Table of mcause)."""


class Rv64(CoreProcessor):
    """A hart whose supervisor mode plays the paper's."""

    registers = registers
    prefix = "UC_RISCV_REG_"

    def open(self) -> Any:
        """A fresh hart."""
        return unicorn.Uc(unicorn.UC_ARCH_RISCV, unicorn.UC_MODE_RISCV64)

    def write_special(self, engine: Any, state: State) -> None:
        """The privilege mode and the program counter."""
        engine.reg_write(registers.UC_RISCV_REG_PRIV, _MODES[state["mode"]])
        engine.reg_write(registers.UC_RISCV_REG_PC, CODE)

    def read_special(self, engine: Any) -> dict[str, Value]:
        """The same. Leaves the hart in machine mode, from which all CSRs can be read."""
        mode = _BY_NUMBER[engine.reg_read(registers.UC_RISCV_REG_PRIV)]
        engine.reg_write(registers.UC_RISCV_REG_PRIV, _MODES["M"])
        return {
            "mode": mode,
            "pc": engine.reg_read(registers.UC_RISCV_REG_PC) - CODE,
        }

    def interrupt(self, engine: Any, number: int, start: State) -> Outcome | None:
        """ECALL and EBREAK call; all else traps."""
        del engine
        if number in _ECALL:
            return Called(Trap(8, "environment call"), start)
        if number == _BREAKPOINT.vector:
            return Called(_BREAKPOINT, start)
        kind = TrapKind.MEMORY if number in _ACCESS else TrapKind.OTHER
        return Trapped(_ILLEGAL if number == _ILLEGAL.vector else Trap(number, f"cause {number}", kind), start)

    def undefined(self) -> Trap:
        """Cause 2."""
        return _ILLEGAL
