"""The encoding forms: all of them, encoded, and decoded again by the decoder of `x86.decode`."""

from __future__ import annotations

import pytest

from simvirt.errors import UnknownNameError
from simvirt.x86.decode import decode
from simvirt.x86.forms import Encoding, ExitFact, Operands, PrivilegeFact, encoding_forms, find_form, form_of

NOT_ENCODED = {
    32: {"popw-cs", "montmul-16", "jmpe-disp16"},  # of the 8086, of a 16-bit address, of Itanium's 16-bit mode
    64: {"montmul-64"},
}
"""Forms of which the library encodes nothing with the operands of `Operands`."""


def test_as_many_as_the_library_has() -> None:
    import iced_x86

    codes = [name for name, value in vars(iced_x86.Code).items() if isinstance(value, int)]
    assert len(encoding_forms()) == len(codes) - 6  # INVALID, ZERO_BYTES and the four that declare data
    assert len({form.name for form in encoding_forms()}) == len(encoding_forms())


@pytest.mark.parametrize("bits", [32, 64])
def test_every_form_is_encoded(bits: int) -> None:
    missing = {form.name for form in encoding_forms() if form.exists_in(bits) and not form.encode(bits)}
    assert missing == NOT_ENCODED[bits]


@pytest.mark.parametrize("bits", [32, 64])
def test_what_is_encoded_is_that_form(bits: int) -> None:
    """By the decoder's default, which is Intel's: but for the forms that say that they are not Intel's."""
    for form in encoding_forms():
        if not form.exists_in(bits) or form.foreign_modes or form.behind_wait:
            continue
        for encoded in form.encode(bits):
            instruction = decode(encoded.code, Operands().ip, bits)
            assert instruction.is_valid, form
            assert instruction.length == len(encoded.code), form
            found = form_of(encoded.code, bits)
            assert found is not None
            assert found.name == form.name


@pytest.mark.parametrize(
    ("bits", "name", "code"),
    [
        (32, "int-imm8", "cd7f"),
        (32, "jmp-ptr1632", "ea408000001b00"),
        (32, "sgdt-m1632", "0f010500400000"),
        (32, "jmp-rel8-32", "eb3e"),
        (32, "mov-moffs32-eax", "a300400000"),
        (64, "sgdt-m1664", "0f01042500400000"),
        (64, "mov-moffs64-rax", "48a30040000000000000"),
    ],
)
def test_operands_are_given_what_was_asked(bits: int, name: str, code: str) -> None:
    operands = Operands(ip=0x8000, memory=0x4000, target=0x8040, selector=0x1B, immediate=0x7F)
    assert [encoded.code.hex() for encoded in find_form(name).encode(bits, operands)] == [code]


def test_choices_of_registers() -> None:
    loads = find_form("mov-sreg-rm16").encode(32)
    assert {encoded.operands for encoded in loads} == {
        (segment, place) for segment in ("es", "ss", "ds", "fs", "gs") for place in ("register", "memory")
    }  # there is no load of CS
    control = {32: ("cr0", "cr2", "cr3", "cr4"), 64: ("cr0", "cr2", "cr3", "cr4", "cr8")}
    for bits, registers in control.items():
        assert [encoded.operands for encoded in find_form(f"mov-cr-r{bits}").encode(bits)] == [(r,) for r in registers]


def test_declared_facts() -> None:
    names = ("hlt", "cli", "popfd", "rdtsc", "cpuid")
    facts = {name: (find_form(name).privilege, find_form(name).exits) for name in names}
    assert facts["hlt"] == (PrivilegeFact.CPL0, ExitFact.MAY)
    assert facts["cli"] == (PrivilegeFact.IO_PRIVILEGE, ExitFact.NEVER)
    assert facts["popfd"] == (PrivilegeFact.ANY, ExitFact.NEVER)
    assert facts["rdtsc"][0] is PrivilegeFact.MAY_REQUIRE_CPL0
    assert facts["cpuid"][1] is ExitFact.ALWAYS


def test_encodings_are_told_apart() -> None:
    assert find_form("paddd-xmm-xmmm128").encoding is Encoding.LEGACY
    assert find_form("vex-vpaddd-xmm-xmm-xmmm128").encoding is Encoding.VEX


def test_an_unknown_name_and_bytes_that_are_none() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'popfd'"):
        find_form("popfdd")
    assert form_of(b"\x0f\xff", 64) is None
