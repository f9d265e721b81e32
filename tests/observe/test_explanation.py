"""Explanations name the instruction, the reason by the manual, and who took part."""

from __future__ import annotations

import pytest

from simvirt.guests.recognise import recognise
from simvirt.observe.comparison import Equivalence, FirstDivergence
from simvirt.observe.explanation import flags_text
from simvirt.observe.session import compare
from tests.observe.faulty import Faulty, flip_memory


def first(guest: str) -> FirstDivergence:
    verdict = compare(guest, ["trap-and-emulate"]).verdicts["trap-and-emulate"]
    assert verdict.equivalence is Equivalence.DIVERGED
    assert verdict.first_divergence is not None
    return verdict.first_divergence


def test_popf_in_ring_1() -> None:
    found = first("popf-mask")
    assert found.mnemonic == "popfd"
    assert found.component == "EFLAGS"
    assert isinstance(found.reference_value, int)
    assert isinstance(found.value, int)
    assert found.reference_value ^ found.value == 1 << 9
    assert found.symbol == "site_popf_mask"
    for part in ("not privileged", "IF (0 on the reference, 1 here)", "was not called", "Robin & Irvine 2000"):
        assert part in found.explanation


def test_sgdt_shows_the_monitor_s_table() -> None:
    found = first("sensitive")
    assert found.mnemonic.startswith("sgdt")
    assert found.component.startswith("memory at ")
    assert found.symbol == "site_sgdt"


def test_an_innocuous_instruction_is_no_reason() -> None:
    found = compare("hello", [Faulty(1, flip_memory(0x300000))]).verdicts["faulty"].first_divergence
    assert found is not None
    assert found.mnemonic.startswith("mov esp")
    assert "not sensitive" in found.explanation


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("a1 00 00 c0 ff f4", "reads linear address 0xffc00000"),  # mov eax, [0xffc00000]
        ("bc 10 00 c0 ff 58 f4", "reads linear address 0xffc00010"),  # mov esp, 0xffc00010; pop eax
        ("a1 fe ff bf ff f4", "reads linear address 0xffc00000"),  # four bytes from two below
    ],
)
def test_where_the_vmm_is_the_guest_s_memory_is_not(code: str, text: str) -> None:
    image = recognise(bytes.fromhex(code))
    found = compare(image, ["trap-and-emulate"]).verdicts["trap-and-emulate"].first_divergence
    assert found is not None
    for part in (text, "0xffc00000 to 0xffffffff are the VMM's own", "address-space compression"):
        assert part in found.explanation
    assert "not sensitive" not in found.explanation
    assert compare(image, ["vtx"]).verdicts["vtx"].equivalence is Equivalence.EQUIVALENT


@pytest.mark.parametrize(
    ("a", "b", "text"),
    [
        (0x202, 0x2, "IF (1 on the reference, 0 here)"),
        (0x43, 0x2, "CF (1 on the reference, 0 here), ZF (1 on the reference, 0 here)"),
        (0x3002, 0x1002, "IOPL (3 on the reference, 1 here)"),
        (0x2, 0x2, "no flag that has a name"),
    ],
)
def test_flags_by_name(a: int, b: int, text: str) -> None:
    assert flags_text(a, b) == text
