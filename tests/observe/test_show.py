"""What the texts of results say."""

from __future__ import annotations

import pytest

from simvirt.guests.flat import flat_image
from simvirt.observe.session import compare, run
from simvirt.vmm.exit_log import Disposition, Intervention
from tests.observe.faulty import Faulty

# mov [0x7f000000], eax; in al, 0x80; out 0x80, al; in al, 0x80; cli; hlt
GRABBER = flat_image(bytes.fromhex("a30000007f e480 e680 e480 fa f4"), "grabber")


@pytest.mark.parametrize("strategy", ["trap-and-emulate", "vtx"])
def test_attempts_are_the_same_under_every_vmm_and_shown(strategy: str) -> None:
    result = run(GRABBER, strategy)
    assert [(attempt.instruction, attempt.resource) for attempt in result.attempts] == [
        (0, "guest-physical address 0x7f000000 (write)"),
        (1, "IN port 0x80, 1 byte"),
        (2, "OUT port 0x80, 1 byte"),
        (3, "IN port 0x80, 1 byte"),
    ]
    assert {attempt.disposition for attempt in result.attempts} == {Disposition.ABSORBED}
    text = " ".join(str(result).split())
    assert "attempts to reach what was not given: 4: IN port 0x80, 1 byte, absorbed (2 times)" in text
    compared = " ".join(str(compare(GRABBER, strategy)).split())
    assert f"{strategy}, attempts to reach what was not given: 4: IN port 0x80" in compared


@pytest.mark.parametrize("strategy", ["trap-and-emulate", "vtx"])
def test_an_access_to_nothing_is_no_sensitive_instruction(strategy: str) -> None:
    kinds = run(GRABBER, strategy).counted.by_intervention
    assert kinds[Intervention.MEMORY] == 1
    assert Intervention.HIDDEN not in kinds
    verdict = compare(GRABBER, strategy).verdicts[strategy]
    assert verdict.efficiency.innocuous_interventions == 0


def test_bare_metal_attempts_nothing() -> None:
    assert "attempts" not in str(run(GRABBER))


def test_nearly_all_is_not_all() -> None:
    text = str(run("bench-sha256", "vtx"))
    assert "100.0" not in text
    assert "100%" not in text.split("exit reason", maxsplit=1)[0]


def test_innocuous_exits_say_what_they_were() -> None:
    text = " ".join(str(compare("rings", "trap-and-emulate")).split())
    assert "trap-and-emulate, exits on innocuous instructions: " in text
    assert "DESCRIPTOR_" in text


def test_a_figure_of_another_processor_says_so() -> None:
    text = " ".join(str(run("hello", "trap-and-emulate")).split())
    assert "another processor's, Pentium 4" in text
    assert "another processor's" not in str(run("hello", "trap-and-emulate", costs="pentium4-672-2005"))


def test_a_comparison_has_status_and_consoles() -> None:
    text = " ".join(str(compare("popf-mask", "trap-and-emulate")).split())
    assert "finished, guest status 1" in text
    assert "console, line 1: '20 ticks" in text
    assert "compared through the map trap-and-emulate: CPL" in text


def test_consoles_that_agree_are_not_shown() -> None:
    assert "console" not in str(compare("hello", [Faulty()]))


def test_nothing_to_compare() -> None:
    assert "Nothing was compared" in str(compare("hello", "bare-metal"))


def test_error_codes_are_taken_apart() -> None:
    assert "#GP(0x33) for IDT entry 6" in str(run("triple-fault"))
