"""Sites: single instructions tried under a strategy from the reference's state."""

from __future__ import annotations

import pytest

from simvirt.guests.resolve import resolve
from simvirt.observe.breakpoints import first_reached
from simvirt.observe.results import RunConfig
from simvirt.observe.session import compare
from simvirt.observe.site_table import SiteTable
from simvirt.observe.sites import site_addresses
from simvirt.observe.trial import Trial
from simvirt.strategies.bare_metal import BareMetal
from simvirt.x86.addresses import Gva
from tests.observe.faulty import Faulty

CONFIG = RunConfig("core2", 64 << 20, 0, 10**7)

SILENT = {
    "sgdt", "sidt", "sldt", "str", "smsw", "pushf", "popf", "lar", "push_cs", "push_ss", "call_far",
    "call_far_indirect", "mov_from_cs", "mov_from_ss",
}  # fmt: skip
"""Sites of `sensitive` that Robin and Irvine (2000) name and that leave something else behind in ring 1."""


@pytest.fixture(scope="module")
def sensitive() -> SiteTable:
    sites = compare("sensitive", ["trap-and-emulate", "vtx"]).sites
    assert sites is not None
    return sites


def test_every_site_of_the_guest_is_in_the_table(sensitive: SiteTable) -> None:
    assert {row.name for row in sensitive.rows} == set(site_addresses(resolve("sensitive")))
    assert all(row.instruction is not None for row in sensitive.rows)
    assert all(set(row.effects) == {"trap-and-emulate", "vtx"} for row in sensitive.rows)


def test_vtx_does_all_of_them_right(sensitive: SiteTable) -> None:
    assert [row.name for row in sensitive.rows if not row.effects["vtx"].same] == []


def test_trap_and_emulate_is_wrong_at_the_silent_ones(sensitive: SiteTable) -> None:
    assert {row.name for row in sensitive.rows if not row.effects["trap-and-emulate"].same} == SILENT


def test_what_each_returned(sensitive: SiteTable) -> None:
    row = sensitive.row("mov_from_cs")
    assert row.mnemonic == "mov eax, cs"
    assert row.reference == "EAX = 0x8"
    assert row.effects["trap-and-emulate"].shown == "EAX = 0x9"
    assert sensitive.row("xgetbv").reference == "#UD"
    with pytest.raises(KeyError):
        sensitive.row("nothing")


def test_a_site_that_changes_nothing_is_marked(sensitive: SiteTable) -> None:
    """Not by what is the same everywhere: LSL and VERR write their results, far jumps go somewhere, RDPMC faults."""
    idle = {row.name for row in sensitive.rows if row.idle}
    assert {"mov_to_ds", "mov_to_gs", "pop_ds", "out"} <= idle
    assert not idle & (SILENT | {"lsl", "verr", "verw", "jmp_far", "ret_far", "rdpmc", "iret", "sti", "cli", "in"})
    sites = compare("bench-priv", ["vtx"], max_instructions=2_000).sites
    assert sites is not None
    assert sites.row("popf").idle  # CLI stands before it: of the flags it changes those of arithmetic alone
    assert "changes nothing from here" in str(sites)


def test_the_table_is_part_of_what_is_shown() -> None:
    text = str(compare("popf-mask", ["trap-and-emulate"]))
    assert "popf_mask" in text
    assert "same" in text


def test_a_guest_without_sites_has_no_table() -> None:
    assert compare("hello", [Faulty()]).sites is None


def test_first_reached_is_exact_and_leaves_no_trace() -> None:
    image = resolve("rings")
    symbol = image.symbols.address("guest_main")
    assert symbol is not None
    broken, clean = Trial(image, BareMetal(), CONFIG), Trial(image, BareMetal(), CONFIG)
    at = first_reached(broken, [symbol], CONFIG.max_instructions)[symbol]
    clean.advance(at)
    assert clean.machine.processor.guest_state().rip == symbol
    stepped = Trial(image, BareMetal(), CONFIG)
    while stepped.machine.processor.guest_state().rip != symbol:
        stepped.advance(stepped.count + 1)
    assert stepped.count == at  # and not at a later visit
    broken.advance(CONFIG.max_instructions)
    clean.advance(CONFIG.max_instructions)
    assert broken.count == clean.count
    assert broken.machine.board.console == clean.machine.board.console


def test_what_is_not_reached_is_not_reported() -> None:
    image = resolve("hello")
    nowhere = Gva(0x200000)
    assert first_reached(Trial(image, BareMetal(), CONFIG), [nowhere], 10_000) == {}
