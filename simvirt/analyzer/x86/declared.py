"""What is written about the x86's instructions, and where: the declared facts beside which the observed ones stand.

Three sources, none of them believed: iced-x86's own tables (the CPL that a form needs, VM exits), the list of sensitive
instructions in `isa/x86-sensitive.toml` with the paper or manual of each row, and for what the processor here does not
execute, nothing else.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.model.form import Declared, Form
from simvirt.analyzer.model.properties import NonRoot, Property
from simvirt.analyzer.x86 import layout
from simvirt.analyzer.x86.groups import group_of
from simvirt.analyzer.x86.situations import situations
from simvirt.x86.decode import decode, disassemble
from simvirt.x86.forms import Encoding, ExitFact, PrivilegeFact
from simvirt.x86.sensitivity import FailureKind, Sensitivity, VtxBehaviour, classify

if TYPE_CHECKING:
    from simvirt.analyzer.x86.variants import Variant
    from simvirt.x86.forms import EncodingForm

DECODER: Final = "iced-x86's tables"

_NON_ROOT: Final = {
    VtxBehaviour.ALWAYS: NonRoot.TRAPS,
    VtxBehaviour.CONTROL: NonRoot.TRAPS,
    VtxBehaviour.SHADOW: NonRoot.DUPLICATE,
    VtxBehaviour.OWN_STATE: NonRoot.DUPLICATE,
}
_NON_ROOT_BY_DECODER: Final = {
    ExitFact.NEVER: NonRoot.DUPLICATE,  # what does not exit has only the guest's own state to act on
    ExitFact.MAY: NonRoot.TRAPS,
    ExitFact.ALWAYS: NonRoot.TRAPS,
}
_TAKEN_FOR_ANOTHER: Final = frozenset(
    {"CET_IBT", "CET_SS", "CLDEMOTE", "FRED", "PREFETCHITI", "PREFETCHWT1", "WAITPKG", "WBNOINVD"}
)
"""Features whose forms the engine neither executes nor refuses: to it RDSSP is a NOP, ERETS CLAC, WBNOINVD WBINVD."""
_SYSTEM_ONLY: Final = frozenset({PrivilegeFact.CPL0, PrivilegeFact.IO_PRIVILEGE})


@cache
def declared_forms(variant: Variant) -> tuple[Form, ...]:
    """The forms of a variant, in the library's order."""
    return tuple(declared_form(form, variant) for form in variant.forms)


def sensitivity_of(form: EncodingForm, bits: int) -> Sensitivity | None:
    """The row of the sensitive instructions that one of the form's encodings belongs to."""
    for encoded in form.encode(bits):
        if (row := classify(decode(encoded.code, layout.CODE, bits))) is not None:
            return row
    return None


def listed_row(form: EncodingForm, bits: int) -> Sensitivity | None:
    """The same, None for a form whose bytes mean something else to Intel's processors."""
    return None if form.encoding is not Encoding.LEGACY or bits in form.foreign_modes else sensitivity_of(form, bits)


def declared_form(form: EncodingForm, variant: Variant) -> Form:
    """One form of a variant with what is written about it."""
    bits = int(variant.bits)
    found = situations(form, bits)
    code = found[0].code if found else b""
    return Form(
        form.name,
        form.syntax,
        form.mnemonic,
        code,
        group_of(form, code, bits),
        _declared(form, variant),
        not_executed(form, bits),
    )


def _declared(form: EncodingForm, variant: Variant) -> Declared:
    row = listed_row(form, int(variant.bits))
    facts: dict[str, str | int | bool] = {
        "CPL": form.privilege.value,
        "VM exit": form.exits.value,
        "opcode": form.opcode,
        "since": ", ".join(form.features),
        "encoding": form.encoding.value,
    }
    privileged: bool | None = form.privilege in _SYSTEM_ONLY
    under_c0 = None
    properties = None
    if row is not None:
        privileged = row.privileged
        under_c0 = privileged or not variant.vmm_configuration.keys().isdisjoint(row.trap_controls)
        facts |= {"listed as": row.title, "failure": row.failure.value, "paper": row.paper.value}
        facts["requirement"] = row.requirement.value if row.requirement else ""
    elif not privileged and form.privilege is PrivilegeFact.MAY_REQUIRE_CPL0:
        privileged = None
    if privileged:
        properties = frozenset({Property.MODE_SENSITIVE})
    elif row is not None and row.failure is FailureKind.SILENT_READ:
        properties = frozenset({Property.CONFIGURATION_SENSITIVE})
    non_root = _NON_ROOT[row.vtx] if row else _NON_ROOT_BY_DECODER[form.exits]
    source = row.source if row else DECODER
    return Declared(source, privileged, properties, privileged_under_c0=under_c0, non_root=non_root, facts=facts)


def not_executed(form: EncodingForm, bits: int) -> str:
    """Why an instruction of this form is not executed here, "" if there is no reason in its encoding."""
    if form.encoding not in (Encoding.LEGACY, Encoding.THREE_D_NOW):
        return f"{form.encoding}: the engine knows only encodings without such a prefix"
    if bits in form.foreign_modes:
        return "Intel's processors of today decode these bytes otherwise"
    if _TAKEN_FOR_ANOTHER.intersection(form.features):
        return "the processor here lacks it, and takes its bytes for an instruction without the prefix, or for a NOP"
    if form.behind_wait:
        return "two instructions, WAIT and one that has a form of its own"
    if not form.encode(bits):
        return "has no encoding with a plain operand"
    return ""


def example(form: Form, bits: int) -> str:
    """One encoding of the form as an assembler writes it."""
    return disassemble(form.encoding, layout.CODE, bits) if form.encoding else form.text
