"""Assembly for described machines: what it makes of a text, and where it complains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.analyzer.finite.assembler import AssemblyError, assemble
from simvirt.analyzer.finite.encoding import Decoder, encode
from simvirt.analyzer.toys import machines
from simvirt.errors import UsageError

MACHINE = machines.description(machines.THIRD_GENERATION)


def words(text: str, **symbols: int) -> tuple[int, ...]:
    return assemble(MACHINE, text, symbols=symbols).words


def test_instructions_labels_constants_and_literals() -> None:
    text = """
    two = 2 * ONE           ; a constant
    start:  LOAD table, x
            ADD =two + 1    ; a literal
            ADD =two + 1    ; the same one
            JUMP start
    table:  .word start, two << 4, -1, ~0
    """
    program = assemble(MACHINE, text, origin=16, symbols={"ONE": 1})
    assert program.symbols["start"] == 16
    assert program.symbols["table"] == 20
    load, first, second, jump, *rest = program.words
    assert load == 4 << 13 | 1 << 12 | 20
    assert first == second == 9 << 13 | 24
    assert jump == 15 << 13 | 16
    assert rest == [16, 32, (1 << 38) - 1, (1 << 38) - 1, 3]


def test_a_label_on_a_line_of_its_own() -> None:
    assert words("a:\n b:\n JUMP b") == (15 << 13,)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("HALT\nHOLD", 2, "HOLD is no instruction of third-generation"),
        ("a: HALT\na: HALT", 2, "label a is there already"),
        ("JUMP nowhere", 1, "nowhere is not known here"),
        ("\nLOAD 4096", 2, "a is 4096, which takes more than 12 bits"),
        ("LOAD", 1, "LOAD has operands a, not none"),
        ("HALT 3", 1, "HALT has operands none, not 3"),
        ("LOAD 1, 2", 1, "LOAD has operands a, not 1, 2"),
        ("LOAD (1", 1, "cannot make sense of"),
        ("LOAD 1 / 2", 1, "cannot make sense of"),
        (".word 1 // 0", 1, "cannot make sense of"),
        ("LOAD 'a'", 1, "cannot make sense of"),
    ],
)
def test_complaints_lead_to_the_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(AssemblyError, match=reason) as raised:
        assemble(MACHINE, text, name="text")
    assert raised.value.line == line
    assert str(raised.value).startswith(f"text:{line}: ")


@given(data=st.data())
def test_what_is_encoded_is_decoded(data: st.DataObject) -> None:
    instruction = data.draw(st.sampled_from(MACHINE.instructions))
    operands = {one.name: data.draw(st.integers(0, (1 << one.size.run) - 1)) for one in instruction.operands}
    assert Decoder(MACHINE).decode(encode(instruction, operands)) == (instruction, operands)


@given(word=st.integers(0, (1 << 38) - 1))
def test_a_word_is_one_instruction_or_none(word: int) -> None:
    found = Decoder(MACHINE).decode(word)
    if found is not None:
        assert encode(*found) == word


def test_an_operand_that_does_not_fit() -> None:
    with pytest.raises(UsageError, match="LOAD: a is -1"):
        encode(MACHINE.by_mnemonic["LOAD"], {"x": 0, "a": -1})
