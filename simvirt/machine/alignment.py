"""Alignment checking: what #AC asks of the operands of an instruction (SDM Vol. 3A §6.15, Interrupt 17, Table 6-7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.x86.operations import Operation

if TYPE_CHECKING:
    from collections.abc import Iterable

    from simvirt.machine.breakpoints import DataAccess
    from simvirt.x86.instruction import Instruction

_ALIGNMENT: Final = {2: 2, 4: 4, 6: 4, 8: 8, 10: 8, 14: 2, 28: 4, 94: 2, 108: 4}
"""By the size of the operand: words, doublewords, far pointers, quadwords, double extended-precision, and the areas of
FLDENV, FSTENV, FSAVE and FRSTOR. 128-bit operands are #GP(0) when they have to be aligned, and unaligned moves of them
need not be checked."""
_FAR_POINTERS: Final = frozenset({Operation.LOAD_FAR_POINTER, Operation.CALL_FAR, Operation.JMP_FAR})


def is_aligned(instruction: Instruction, accesses: Iterable[DataAccess]) -> bool:
    """Is every access of the instruction aligned, as far as Table 6-7 wants it?"""
    far = instruction.operation in _FAR_POINTERS
    for access in accesses:
        alignment = 2 if far and access.size == 4 else _ALIGNMENT.get(access.size, 1)
        if access.address % alignment:
            return False
    return True
