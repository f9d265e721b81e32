"""What exceptions are called, with what their error codes refer to."""

from __future__ import annotations

from typing import Final

from simvirt.x86.exceptions import SelectorErrorCode, Vector

_SELECTOR_CODES: Final = frozenset({Vector.TS, Vector.NP, Vector.SS, Vector.GP})
"""Exceptions whose error code names a descriptor (SDM Vol. 3A §6.13)."""


def fault_name(vector: int, error_code: int | None) -> str:
    """An exception by the manual's name, with its error code.

    >>> fault_name(6, None), fault_name(13, 0)
    ('#UD', '#GP(0x0)')
    """
    try:
        name = Vector(vector).mnemonic
    except ValueError:
        name = f"vector {vector:#x}"
    return name if error_code is None else f"{name}({error_code:#x})"


def referred_to(vector: int, error_code: int | None) -> str:
    """What the error code names: a descriptor, or nothing.

    >>> referred_to(13, 0x33), referred_to(11, 0x18), referred_to(14, 2)
    ('IDT entry 6', 'GDT entry 3', '')
    """
    if vector not in _SELECTOR_CODES or not error_code:
        return ""
    code = SelectorErrorCode.decode(error_code)
    return f"{'IDT' if code.in_idt else 'LDT' if code.in_ldt else 'GDT'} entry {code.index}"
