"""The bus of the VM: the processor in non-root mode finds the VM's own devices, memory and time there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.pc import BoardBus

if TYPE_CHECKING:
    from simvirt.machine.board import Board
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.memory import AddressSpace
    from simvirt.x86.cpuid import CpuModel


class VmBus(BoardBus):
    """What the processor in non-root mode finds outside itself: the VM's own devices, memory and time."""

    def __init__(self, cpu: Cpu, board: Board, space: AddressSpace, cpu_model: CpuModel) -> None:
        super().__init__(board, space, cpu_model)
        self._cpu = cpu

    def time_stamp(self) -> int:
        """The PC's counter, plus the TSC offset."""
        return self._cpu.engine.count + self._cpu.engine.tsc_base
