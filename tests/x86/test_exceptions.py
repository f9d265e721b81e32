from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.x86.exceptions import VECTORS, Escalation, ExceptionClass, SelectorErrorCode, Vector, escalate

# SDM Vol. 3A Table 6-1: vector, mnemonic, type (F fault, T trap, A abort, B both, I interrupt), error code
TABLE_6_1 = """
0 #DE F no | 1 #DB B no | 2 NMI I no | 3 #BP T no | 4 #OF T no | 5 #BR F no | 6 #UD F no | 7 #NM F no | 8 #DF A yes
9 - F no | 10 #TS F yes | 11 #NP F yes | 12 #SS F yes | 13 #GP F yes | 14 #PF F yes | 16 #MF F no | 17 #AC F yes
18 #MC A no | 19 #XM F no | 20 #VE F no | 21 #CP F yes
"""
CLASSES = {
    "F": ExceptionClass.FAULT,
    "T": ExceptionClass.TRAP,
    "A": ExceptionClass.ABORT,
    "B": ExceptionClass.FAULT_OR_TRAP,
    "I": ExceptionClass.INTERRUPT,
}


def test_table_6_1() -> None:
    rows = [row.split() for row in TABLE_6_1.replace("\n", "|").split("|") if row.strip()]
    assert [int(row[0]) for row in rows] == sorted(VECTORS)
    for number, mnemonic, kind, error_code in rows:
        vector = Vector(int(number))
        assert mnemonic in ("-", vector.mnemonic)
        assert vector.info.exception_class is CLASSES[kind]
        assert vector.has_error_code == vector.info.has_error_code == (error_code == "yes")


def test_every_vector_of_the_processor_has_a_row() -> None:
    assert [int(vector) for vector in Vector] == list(range(32))
    assert Vector.RESERVED_31.info.exception_class is ExceptionClass.RESERVED
    assert Vector.RESERVED_15.mnemonic == "vector 15"


CONTRIBUTORY = {0, 10, 11, 12, 13, 21}
PAGE_FAULT = {14, 20}


@pytest.mark.parametrize("first", [None, *range(22)])
@pytest.mark.parametrize("second", range(22))
def test_tables_6_4_and_6_5(first: int | None, second: int) -> None:
    if first == 8:
        bad = second in CONTRIBUTORY | PAGE_FAULT | {8}
        expected = Escalation.SHUTDOWN if bad else Escalation.SERIAL
    elif (first in CONTRIBUTORY and second in CONTRIBUTORY) or (
        first in PAGE_FAULT and second in CONTRIBUTORY | PAGE_FAULT
    ):
        expected = Escalation.DOUBLE_FAULT
    else:
        expected = Escalation.SERIAL
    assert escalate(first, second) is expected


@given(st.integers(0, 0xFFFF))
def test_selector_error_codes_come_back(value: int) -> None:
    code = SelectorErrorCode.decode(value)
    # With the IDT bit the TI bit means nothing.
    assert code.encode() == (value & ~4 if value & 2 else value)
    assert SelectorErrorCode.decode(code.encode()) == code


@given(st.integers(0, 0xFFFF), st.booleans())
def test_error_code_of_a_selector_is_the_selector_without_its_rpl(selector: int, external: bool) -> None:
    assert SelectorErrorCode.for_selector(selector, external=external).encode() == selector & 0xFFFC | external


def test_error_codes_in_words() -> None:
    assert str(SelectorErrorCode(0)) == "0"
    assert str(SelectorErrorCode.for_vector(0x80, external=False)) == "0x0402 (IDT entry 128)"
    assert str(SelectorErrorCode.for_selector(0x2F, external=True)) == "0x002d (LDT entry 5, external event)"
