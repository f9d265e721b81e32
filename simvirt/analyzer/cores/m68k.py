"""The Motorola 68000 (M68000 Family Programmer's Reference Manual; M68000 User's Manual §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import unicorn
from unicorn import m68k_const as registers

from simvirt.analyzer.cores.processor import CODE, CoreProcessor
from simvirt.analyzer.model.outcome import Called, Completed, Outcome, Trap, TrapKind, Trapped

if TYPE_CHECKING:
    from simvirt.analyzer.model.state import State, Value

_SUPERVISOR: Final = 1 << 13
_PRIVILEGE_VIOLATION: Final = 8
_RTE: Final = 0x100
"""The engine's number for an RTE that it leaves to its user."""
_TRAPS: Final = {
    4: Trap(4, "illegal instruction"),
    5: Trap(5, "zero divide", TrapKind.ARITHMETIC),
    6: Trap(6, "CHK", TrapKind.ARITHMETIC),
    7: Trap(7, "TRAPV", TrapKind.ARITHMETIC),
    8: Trap(8, "privilege violation"),
    10: Trap(10, "line 1010"),
    11: Trap(11, "line 1111"),
}
_TRAP_0: Final = 0x20


class M68000(CoreProcessor):
    """A 68000: the S bit of SR is the mode, and chooses which of two stack pointers A7 is."""

    registers = registers
    prefix = "UC_M68K_REG_"

    def open(self) -> Any:
        """A fresh 68000."""
        return unicorn.Uc(unicorn.UC_ARCH_M68K, unicorn.UC_MODE_BIG_ENDIAN, registers.UC_CPU_M68K_M68000)

    def write_special(self, engine: Any, state: State) -> None:
        """The stack pointers, each written in its mode, then SR as it is to be."""
        sr = int(state["SR.T"]) << 15 | int(state["SR.I"]) << 8 | int(state["CCR"])
        is_supervisor = state["SR.S"] == "supervisor"
        banks = (("other A7", not is_supervisor), ("A7", is_supervisor))
        for name, in_supervisor in banks:
            engine.reg_write(registers.UC_M68K_REG_SR, _SUPERVISOR if in_supervisor else 0)
            engine.reg_write(registers.UC_M68K_REG_A7, state[name])
        engine.reg_write(registers.UC_M68K_REG_SR, sr | (_SUPERVISOR if is_supervisor else 0))
        engine.reg_write(registers.UC_M68K_REG_PC, CODE)

    def read_special(self, engine: Any) -> dict[str, Value]:
        """SR in its parts, and both stack pointers: the current one, then the other."""
        sr = engine.reg_read(registers.UC_M68K_REG_SR)
        current = engine.reg_read(registers.UC_M68K_REG_A7)
        counter = engine.reg_read(registers.UC_M68K_REG_PC)
        engine.reg_write(registers.UC_M68K_REG_SR, sr ^ _SUPERVISOR)
        other = engine.reg_read(registers.UC_M68K_REG_A7)
        engine.reg_write(registers.UC_M68K_REG_SR, sr)
        return {
            "SR.S": "supervisor" if sr & _SUPERVISOR else "user",
            "SR.T": sr >> 15 & 1,
            "SR.I": sr >> 8 & 7,
            "CCR": sr & 0x1F,
            "A7": current,
            "other A7": other,
            "PC": counter - CODE,
        }

    def interrupt(self, engine: Any, number: int, start: State) -> Outcome | None:
        """TRAP calls; RTE is completed here; all else traps."""
        if number == _RTE:
            return Completed(self._return(engine))
        if _TRAP_0 <= number < _TRAP_0 + 16:
            return Called(Trap(number, f"TRAP #{number - _TRAP_0}"), start)
        return Trapped(_TRAPS.get(number, Trap(number, f"vector {number}")), start)

    def undefined(self) -> Trap:
        """Vector 4."""
        return _TRAPS[4]

    def _return(self, engine: Any) -> dict[str, Value]:
        """RTE: SR and PC from the supervisor's stack, a word and a long word (User's Manual §6.2.5)."""
        stack = engine.reg_read(registers.UC_M68K_REG_A7)
        frame = bytes(engine.mem_read(stack, 6))
        engine.reg_write(registers.UC_M68K_REG_A7, stack + 6)
        engine.reg_write(registers.UC_M68K_REG_SR, int.from_bytes(frame[:2], "big"))
        engine.reg_write(registers.UC_M68K_REG_PC, int.from_bytes(frame[2:], "big"))
        return self.read(engine)
