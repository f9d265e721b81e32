"""I/O permission: whether code may touch a port, by IOPL and the TSS's I/O permission bitmap (SDM Vol. 1 §19.5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.x86.flags import Eflags, iopl
from simvirt.x86.tss import Tss32

if TYPE_CHECKING:
    from simvirt.machine.core import Core

_VM: Final = int(Eflags.VM)
_TSS_16_TYPES: Final = (1, 3)


def io_allowed(cpu: Core, port: int, size: int) -> bool:
    """Whether the access may proceed: real mode, CPL at most IOPL, or all bits of the ports clear in the bitmap.

    In virtual-8086 mode the bitmap alone decides (§19.5.2); `size` is in bytes.

    :raises ProcessorFault: #PF while the bitmap is read.
    """
    state = cpu.state
    eflags = state.eflags
    if not eflags & _VM:
        cpl = state.cpl
        if not cpl or cpl <= iopl(eflags):  # real mode too, where CPL is 0
            return True
    return bitmap_allows(cpu, port, size)


def bitmap_allows(cpu: Core, port: int, size: int) -> bool:
    """The I/O permission bitmap's answer; two bytes are read, and both must lie inside the TSS (§19.5.2).

    A 16-bit TSS has no bitmap and allows nothing.

    :raises ProcessorFault: #PF while the bitmap is read.
    """
    task = cpu.state.tr
    if task.flags >> 8 & 0xF in _TSS_16_TYPES or task.limit < Tss32.IO_MAP_BASE + 1:
        return False
    offset = cpu.memory.read_integer(task.base + Tss32.IO_MAP_BASE, 2) + port // 8
    if offset + 1 > task.limit:
        return False
    bits = cpu.memory.read_integer(task.base + offset, 2) >> port % 8
    return not bits & (1 << size) - 1
