"""ARMv7-A in ARM state, a Cortex-A15 (ARM Architecture Reference Manual, ARMv7-A and ARMv7-R edition, DDI 0406C)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import unicorn
from unicorn import arm_const as registers

from simvirt.analyzer.cores.processor import CODE, CoreProcessor
from simvirt.analyzer.model.outcome import Called, Outcome, Trap, TrapKind, Trapped

if TYPE_CHECKING:
    from simvirt.analyzer.model.state import State, Value

_MODES: Final[dict[Value, int]] = {
    "usr": 0x10,
    "svc": 0x13,
    "sys": 0x1F,
    "abt": 0x17,
    "und": 0x1B,
    "irq": 0x12,
    "fiq": 0x11,
}
_BY_NUMBER: Final = {number: name for name, number in _MODES.items()}
_USR: Final = 0x10
_SVC: Final = 0x13
_MASKED: Final = 0x1C0
_UNDEFINED: Final = Trap(1, "undefined instruction")
_SVC_CALL: Final = Trap(2, "supervisor call")
_ABORTS: Final = {3: Trap(3, "prefetch abort", TrapKind.MEMORY), 4: Trap(4, "data abort", TrapKind.MEMORY)}
_SYSTEM: Final = {"SCTLR": (1, 0, 0), "DACR": (3, 0, 0), "TTBR0": (2, 0, 0), "TPIDRURO": (13, 0, 3)}
"""Registers of coprocessor 15: CRn, CRm, opc2."""


class ArmA32(CoreProcessor):
    """A core without virtualization and security extensions in use: User mode, and Supervisor for the privileged ones.

    SP and LR are banked: what the mode has is "SP" and "LR", what the other of the two has is "other SP", "other LR".
    """

    registers = registers
    prefix = "UC_ARM_REG_"

    def open(self) -> Any:
        """A fresh Cortex-A15."""
        return unicorn.Uc(unicorn.UC_ARCH_ARM, unicorn.UC_MODE_ARM, registers.UC_CPU_ARM_CORTEX_A15)

    def write_special(self, engine: Any, state: State) -> None:
        """Coprocessor 15, both banks, then CPSR as it is to be."""
        for name, (crn, crm, opc2) in _SYSTEM.items():
            engine.cpr_write(15, 0, crn, crm, opc2, 0, False, state[name])
        is_user = state["CPSR.M"] == "usr"
        for mode, prefix in ((_USR, "" if is_user else "other "), (_SVC, "other " if is_user else "")):
            engine.reg_write(registers.UC_ARM_REG_CPSR, _MASKED | mode)
            engine.reg_write(registers.UC_ARM_REG_SP, state[f"{prefix}SP"])
            engine.reg_write(registers.UC_ARM_REG_LR, state[f"{prefix}LR"])
        engine.reg_write(registers.UC_ARM_REG_SPSR, state["SPSR"])
        cpsr = int(state["APSR"]) << 24 | int(state["CPSR.E"]) << 9 | int(state["CPSR.AIF"]) << 6
        engine.reg_write(registers.UC_ARM_REG_CPSR, cpsr | _MODES[state["CPSR.M"]])
        engine.reg_write(registers.UC_ARM_REG_PC, CODE)

    def read_special(self, engine: Any) -> dict[str, Value]:
        """The same, read. Leaves the core in Supervisor mode."""
        cpsr = engine.reg_read(registers.UC_ARM_REG_CPSR)
        counter = engine.reg_read(registers.UC_ARM_REG_PC)
        mode = cpsr & 0x1F
        banks = {}
        for number in (_USR, _SVC):
            engine.reg_write(registers.UC_ARM_REG_CPSR, _MASKED | number)
            banks[number] = (engine.reg_read(registers.UC_ARM_REG_SP), engine.reg_read(registers.UC_ARM_REG_LR))
        own, other = (banks[_USR], banks[_SVC]) if mode in {_USR, 0x1F} else (banks[_SVC], banks[_USR])
        system = {name: engine.cpr_read(15, 0, crn, crm, opc2, 0, False) for name, (crn, crm, opc2) in _SYSTEM.items()}
        return {
            "CPSR.M": _BY_NUMBER.get(mode, f"mode {mode:#x}"),
            "CPSR.AIF": cpsr >> 6 & 7,
            "CPSR.E": cpsr >> 9 & 1,
            "APSR": cpsr >> 24,
            "SPSR": engine.reg_read(registers.UC_ARM_REG_SPSR),
            "SP": own[0],
            "LR": own[1],
            "other SP": other[0],
            "other LR": other[1],
            "PC": counter - CODE,
            **system,
        }

    def interrupt(self, engine: Any, number: int, start: State) -> Outcome | None:
        """SVC calls; all else traps."""
        del engine
        if number == _SVC_CALL.vector:
            return Called(_SVC_CALL, start)
        return Trapped(_ABORTS.get(number, Trap(number, f"exception {number}")), start)

    def undefined(self) -> Trap:
        """The Undefined Instruction exception."""
        return _UNDEFINED
