"""From what a person calls an instruction to one encoding form of one instruction set.

A person says a mnemonic (``popf``), an operation (``mov-from-segment``), a form's name (``popfd``) or bytes (``9d``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.x86 import layout
from simvirt.analyzer.x86.declared import not_executed
from simvirt.analyzer.x86.variants import VARIANTS, Variant, find_variant
from simvirt.errors import UnknownNameError, UsageError
from simvirt.x86.decode import decode, disassemble
from simvirt.x86.forms import form_of
from simvirt.x86.operations import Operation

if TYPE_CHECKING:
    from simvirt.x86.forms import EncodingForm


@dataclass(frozen=True, slots=True)
class Found:
    """A form, and the instruction set in which it is to be looked at."""

    variant: Variant
    form: EncodingForm


_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF ")
_SIZE_SUFFIXES: Final = ("", "d", "q", "w")


def find_instruction(words: str, isa: str | None = None) -> Found:
    """The form that `words` name.

    Without `isa` it is looked for in the instruction sets in their order, bytes in 32-bit and 64-bit code.

    Raises:
        UnknownNameError: there is no such instruction (the message names the nearest) or instruction set.
        UsageError: bytes that are no instruction, or mean different ones in 32-bit and 64-bit code; a mnemonic of
            several instructions.
    """
    variants = VARIANTS if isa is None else (find_variant(isa),)
    text = words.strip().lower()
    is_hexadecimal = bool(text) and set(text) <= _HEXADECIMAL
    if is_hexadecimal and any(character.isdigit() for character in text):
        return _by_bytes(text, variants, isa)
    known: set[str] = set()
    for variant in variants:
        if (form := _by_name(text, variant)) is not None:
            return Found(variant, form)
        known |= {form.mnemonic for form in variant.forms}
    if is_hexadecimal and len(text.replace(" ", "")) % 2 == 0:  # FA is CLI, and FADD no bytes
        return _by_bytes(text, variants, isa)
    raise UnknownNameError("instruction", words, known, [form.name for form in variants[-1].forms])


def _by_name(text: str, variant: Variant) -> EncodingForm | None:
    forms = {form.name: form for form in variant.forms}
    if text in forms:
        return forms[text]
    bits = int(variant.bits)
    named = [form for form in variant.forms if form.mnemonic == text and not not_executed(form, bits)]
    # The mnemonics of a family differ in their operand size: POPF, POPFD and POPFQ are all popf to a person.
    sized = [form for form in variant.forms if form.mnemonic in {f"{text}{suffix}" for suffix in _SIZE_SUFFIXES}]
    if not named or len({_operation(form, variant) for form in sized} - {Operation.OTHER}) == 1:
        named = sized
    if not named and text in {operation.value for operation in Operation}:
        named = [form for form in variant.forms if _operation(form, variant) == text]
    if not named:
        return None
    by_operation: dict[Operation, list[EncodingForm]] = {}
    for form in named:
        by_operation.setdefault(_operation(form, variant), []).append(form)
    if len(by_operation) > 1:
        choice = "; ".join(f"{forms[-1].name} ({forms[-1].syntax})" for forms in by_operation.values())
        raise UsageError(
            f"'{text}' is the mnemonic of several instructions in {variant.name}, name one of them: {choice}"
        )
    return _usual(named, variant)


def _usual(forms: list[EncodingForm], variant: Variant) -> EncodingForm:
    """Of forms that differ in their size, the one of the usual size: 32 bits, or 64."""
    wanted = ("o64", "o32") if variant.bits == 64 else ("o32",)
    for prefix in wanted:
        for form in forms:
            if form.opcode.startswith(prefix):
                return form
    return forms[0]


def _operation(form: EncodingForm, variant: Variant) -> Operation:
    for encoded in form.encode(variant.bits):
        operation = decode(encoded.code, layout.CODE, variant.bits).operation
        return Operation.OTHER if operation is Operation.INVALID else operation
    return Operation.OTHER


def _by_bytes(text: str, variants: tuple[Variant, ...], isa: str | None) -> Found:
    digits = text.replace(" ", "")
    if len(digits) % 2:
        raise UsageError(f"'{text}' is half a byte short: bytes have two hexadecimal digits each")
    code = bytes.fromhex(digits)
    meanings: dict[str, Found] = {}
    for variant in variants:
        form = form_of(code, variant.bits)
        if form is None or decode(code, layout.CODE, variant.bits).length != len(code):
            continue
        if form.name in {known.name for known in variant.forms}:
            meanings.setdefault(form.name, Found(variant, form))
    if not meanings:
        where = f"in {isa}" if isa else "in 32-bit or 64-bit code"
        if 0 < (length := decode(code, layout.CODE, variants[0].bits).length) < len(code):
            first = disassemble(code[:length], layout.CODE, variants[0].bits)
            raise UsageError(f"'{text}' is more than one instruction: its first {length} bytes are {first}")
        raise UsageError(f"'{text}' is no instruction {where} ({disassemble(code, layout.CODE, variants[0].bits)})")
    # The same in another size is no other instruction: 9D is POPFD here and POPFQ there.
    operations = {_operation(found.form, found.variant) for found in meanings.values()}
    same = len({found.form.mnemonic for found in meanings.values()}) == 1 or (
        len(operations) == 1 and Operation.OTHER not in operations
    )
    if not same:
        choice = "; ".join(f"{found.form.syntax} in {found.variant.name}" for found in meanings.values())
        raise UsageError(f"'{text}' is ambiguous: {choice}. Choose with --isa")
    return next(iter(meanings.values()))
