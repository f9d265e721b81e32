"""The target description: what gdb is told of the registers, in XML, from the table of them."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import quoteattr

from simvirt.gdb.registers import CORE, SSE
from simvirt.x86.flags import Eflags

if TYPE_CHECKING:
    from simvirt.gdb.registers import Layout

_MXCSR: Final = (
    "IE", "DE", "ZE", "OE", "UE", "PE", "DAZ", "IM", "DM", "ZM", "OM", "UM", "PM",
)  # fmt: skip
_FZ_BIT: Final = 15
_FLAGS: Final = (
    Eflags.CF, Eflags.PF, Eflags.AF, Eflags.ZF, Eflags.SF, Eflags.TF, Eflags.IF, Eflags.DF, Eflags.OF, Eflags.NT,
    Eflags.RF, Eflags.VM, Eflags.AC, Eflags.VIF, Eflags.VIP, Eflags.ID,
)  # fmt: skip


def description(layout: Layout) -> str:
    """The XML document of a layout (Debugging with GDB, appendix "Target Descriptions")."""
    lines = [
        '<?xml version="1.0"?>',
        '<!DOCTYPE target SYSTEM "gdb-target.dtd">',
        '<target version="1.0">',
        f"<architecture>{layout.architecture}</architecture>",
    ]
    number = 0
    for feature, registers in groupby(layout.registers, key=lambda register: register.feature):
        lines.append(f"<feature name={quoteattr(feature)}>")
        lines += _TYPES.get(feature, ())
        for register in registers:
            group = f" group={quoteattr(register.group)}" if register.group else ""
            lines.append(
                f"<reg name={quoteattr(register.name)} bitsize={quoteattr(str(register.bits))} "
                f"type={quoteattr(register.kind)} regnum={quoteattr(str(number))}{group}/>"
            )
            number += 1
        lines.append("</feature>")
    lines.append("</target>")
    return "\n".join(lines)


def _flags(name: str, fields: list[tuple[str, int]]) -> list[str]:
    return [
        f'<flags id="{name}" size="4">',
        *(f'<field name="{field}" start="{bit}" end="{bit}"/>' for field, bit in fields),
        "</flags>",
    ]


def _vectors() -> list[str]:
    kinds = (
        ("v4f", "ieee_single", 4), ("v2d", "ieee_double", 2), ("v16i8", "int8", 16), ("v8i16", "int16", 8),
        ("v4i32", "int32", 4), ("v2i64", "int64", 2),
    )  # fmt: skip
    fields = (
        ("v4_float", "v4f"), ("v2_double", "v2d"), ("v16_int8", "v16i8"), ("v8_int16", "v8i16"), ("v4_int32", "v4i32"),
        ("v2_int64", "v2i64"), ("uint128", "uint128"),
    )  # fmt: skip
    return [
        *(f'<vector id="{name}" type="{element}" count="{count}"/>' for name, element, count in kinds),
        '<union id="vec128">',
        *(f'<field name="{name}" type="{kind}"/>' for name, kind in fields),
        "</union>",
    ]


_TYPES: Final = {
    CORE: _flags("i386_eflags", [(flag.name or "", flag.bit_length() - 1) for flag in _FLAGS]),
    SSE: [
        *_vectors(),
        *_flags("i386_mxcsr", [*((name, bit) for bit, name in enumerate(_MXCSR)), ("FZ", _FZ_BIT)]),
    ],
}
