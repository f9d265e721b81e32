"""Modelled cycles: the sums by hand, and every number with a source."""

from __future__ import annotations

from enum import Enum

import pytest

from simvirt.errors import UnknownNameError
from simvirt.observe.costs import DEFAULT_COSTS, Confidence, cost_presets, find_costs
from simvirt.observe.counts import ExitCounts
from simvirt.observe.session import run
from simvirt.x86.vmx.exit_reasons import ExitReason


def test_presets_are_named_sourced_and_in_order() -> None:
    presets = cost_presets()
    assert [preset.year for preset in presets] == sorted(preset.year for preset in presets)
    assert len({preset.name for preset in presets}) == len(presets)
    assert DEFAULT_COSTS in {preset.name for preset in presets}
    for preset in presets:
        for cost in (preset.instruction, preset.vm_exit, preset.vm_exit_service, preset.trap):
            assert cost.source
            assert cost.cycles > 0
            assert isinstance(cost.confidence, Confidence)


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'haswell-2013'"):
        find_costs("haswel-2013")


def test_vm_exits_by_hand() -> None:
    """Adams and Agesen 2006: an I/O instruction takes 15,826 cycles, any other exit 2409 + 1931 and the service."""
    preset = find_costs("pentium4-672-2005")
    exits: dict[Enum, int] = {ExitReason.IO_INSTRUCTION: 3, ExitReason.HLT: 2}
    modelled = preset.apply(exits, direct_instructions=1_000)
    assert modelled.cycles == 1_000 + 3 * 15_826 + 2 * (2409 + 1931 + preset.vm_exit_service.cycles)
    assert sum(modelled.exit_cycles.values()) == modelled.cycles - 1_000
    assert "Adams" in modelled.source


def test_traps_by_hand() -> None:
    """Adams and Agesen 2006 §3: RDTSC by trap-and-emulate takes 2030 cycles."""
    result = run("hello", "trap-and-emulate", costs="pentium4-672-2005")
    counted = result.counted
    direct = counted.instructions - counted.emulated_instructions
    assert result.modelled.cycles == direct + 2030 * counted.interventions


def test_bare_metal_costs_its_instructions() -> None:
    result = run("hello", costs="skylake-2015")
    assert (result.modelled.preset, result.modelled.cycles) == ("skylake-2015", 267)


@pytest.mark.parametrize("strategy", ["trap-and-emulate", "vtx"])
def test_the_table_adds_up(strategy: str) -> None:
    result = run("ticker", strategy)
    counts = ExitCounts.of(result)
    assert sum(row.samples for row in counts.rows) == result.counted.interventions
    assert sum(row.samples_share for row in counts.rows) == pytest.approx(1)
    assert sum(row.cycles_share for row in counts.rows) == pytest.approx(1)
    assert [row.samples for row in counts.rows] == sorted((row.samples for row in counts.rows), reverse=True)
    assert all(row.average_cycles * row.samples == pytest.approx(row.cycles) for row in counts.rows)


def test_a_run_without_exits_has_an_empty_table() -> None:
    assert ExitCounts.of(run("hello")).rows == ()
