"""The post-mortem: the chain of faults, and the last instructions as they really were."""

from __future__ import annotations

from pathlib import Path

import pytest

from simvirt.guests.recognise import recognise
from simvirt.machine.machine import Outcome
from simvirt.observe.examination import LAST_INSTRUCTIONS
from simvirt.observe.postmortem import PostMortem
from simvirt.observe.results import Run
from simvirt.observe.session import run
from tests.observe.faulty import Faulty, fail


def died(result: Run) -> PostMortem:
    assert result.post_mortem is not None
    return result.post_mortem


@pytest.mark.parametrize("strategy", ["bare-metal", "trap-and-emulate", "vtx"])
def test_a_triple_fault_from_its_first_exception(strategy: str) -> None:
    found = died(run("triple-fault", strategy))
    assert found.outcome is Outcome.TRIPLE_FAULT
    assert found.faults[0].name == "#UD"
    assert "#DF(0x0)" in [link.name for link in found.faults]
    assert "triple-fault.c:" in found.faults[0].place
    assert any("#UD" in note for note in found.notes)


def test_the_last_instructions_are_those_of_the_run() -> None:
    result = run("triple-fault")
    found = died(result)
    assert len(found.last) == LAST_INSTRUCTIONS
    numbers = [step.instruction for step in found.last]
    assert numbers == list(range(result.counted.instructions - 18, result.counted.instructions + 2))
    assert [step.retired for step in found.last] == [True] * 19 + [False]
    assert found.last[-1].place.text == "ud2"
    assert found.last[-1].state == result.state
    assert found.last[-2].place.text.startswith("lidt")


def test_a_guest_shorter_than_twenty_instructions(tmp_path: Path) -> None:
    path = tmp_path / "short.bin"
    path.write_bytes(b"\x40\x41\x0f\x0b")  # inc eax; inc ecx; ud2
    result = run(path)
    found = died(result)
    assert [step.place.text for step in found.last] == ["inc eax", "inc ecx", "ud2"]
    assert [step.state.general[0] for step in found.last] == [0, 1, 1]


def test_execution_where_there_is_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "astray.bin"
    path.write_bytes(b"\xb8\x00\x00\x00\xf0\xff\xe0")  # mov eax, 0xf0000000; jmp eax
    result = run(path)
    assert result.outcome is Outcome.TRIPLE_FAULT
    found = died(result)
    assert found.last[-1].place.address == 0xF0000000
    assert not found.last[-1].retired


def test_a_failure_of_the_monitor() -> None:
    found = died(run("hello", Faulty(100, fail(KeyError("gone")))))
    assert found.outcome is Outcome.MONITOR_ERROR
    assert "KeyError" in " ".join(found.notes)
    assert found.last[-1].instruction >= 100


@pytest.mark.parametrize("guest", ["hello", "faults"])
def test_a_good_end_has_none(guest: str) -> None:
    assert run(guest).post_mortem is None


def test_it_is_shown_with_the_run() -> None:
    text = str(run("triple-fault"))
    for word in ("Post-mortem", "#DF", "ud2", "eflags", "chain of faults"):
        assert word in text


def test_an_unnamed_guest_has_no_symbols() -> None:
    found = died(run(recognise(b"\x0f\x0b")))
    assert found.last[0].place.symbol is None
