"""One encoding of an instruction, with what manuals and papers declare about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simvirt.analyzer.model.properties import NonRoot, Property
    from simvirt.analyzer.model.state import Value


@dataclass(frozen=True, slots=True)
class Declared:
    """What is written about a form, and where.

    :ivar source: manual or paper, with section.
    :ivar privileged: is it declared to trap in user mode and not with privilege? None: the source is silent.
    :ivar properties: the properties declared; None: the source is silent, which is not the same as innocuous.
    :ivar unpredictable_modes: modes in which the manual leaves open what happens.
    :ivar non_root: what becomes of it in non-root mode, on a machine that has one; None: nothing is declared.
    :ivar facts: whatever else is declared, for the report: ``{"CPL": 0, "VM exit": "always"}``.
    :ivar privileged_under_c0: as `privileged`, in the configuration that a VMM sets up; None: no other than there.
    """

    source: str = ""
    privileged: bool | None = None
    properties: frozenset[Property] | None = None
    unpredictable_modes: frozenset[Value] = frozenset()
    non_root: NonRoot | None = None
    facts: Mapping[str, str | int | bool] = field(default_factory=dict)
    privileged_under_c0: bool | None = None


@dataclass(frozen=True, slots=True)
class Form:
    """One encoding form of an instruction: the unit that is classified.

    Sensitivity belongs to encodings, not to mnemonics: MOV between general registers is innocuous, MOV from CS is not.

    :ivar identifier: stable across versions, unique in its instruction set: part of every witness's identifier.
    :ivar text: as an assembler writes it, with example operands.
    :ivar encoding: the bytes of that example, empty where a machine has no bytes.
    :ivar group: the heading under which tables list it.
    :ivar not_executed: why the machine cannot execute it, "" if it can.
    """

    identifier: str
    text: str
    mnemonic: str
    encoding: bytes = b""
    group: str = ""
    declared: Declared = Declared()
    not_executed: str = ""
