"""Does what docs/how-to/add-a-strategy.md says: the strategy runs, can be registered, and counts exactly."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import simvirt
from simvirt.cli.main import main
from simvirt.guests.catalogue import find
from simvirt.observe.comparison import Equivalence
from simvirt.strategies import registry
from simvirt.strategies.strategy import MachineConfig, Strategy
from simvirt.x86.cpuid import find_cpu_model

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "how-to" / "add-a-strategy.md"
TEXT: Final = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's blocks define, run as one module; they assert what the page promises."""
    module = ModuleType("watched_io")
    monkeypatch.setitem(sys.modules, "watched_io", module)
    source = "\n".join(re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
    exec(compile(source, str(PAGE), "exec", dont_inherit=True), vars(module))
    return vars(module)


@pytest.fixture
def strategy(names: dict[str, Any]) -> Strategy:
    made: Strategy = names["WatchedIo"]()
    return made


def test_the_page_names_all_that_the_class_has_to_have(strategy: Strategy) -> None:
    assert strategy.info.name in TEXT
    assert strategy.obstacle(find("hello").image()) is None


def test_it_is_equivalent_and_leaves_innocuous_instructions_alone(strategy: Strategy) -> None:
    for guest in ("ticker", "faults", "popf-mask", "sensitive"):
        verdict = simvirt.compare(guest, [strategy]).verdicts["watched-io"]
        assert verdict.equivalence is Equivalence.EQUIVALENT
        assert verdict.efficiency.innocuous_interventions == 0


def test_every_port_access_is_an_exit(strategy: Strategy) -> None:
    """An IN or OUT exits under vtx too, where the VMM owns all ports; one in ring 3 the processor refuses there."""
    for guest in ("hello", "ticker", "popf-mask"):
        exits = simvirt.run(guest, strategy).counted.vm_exits
        assert sum(exits.values()) == simvirt.run(guest, "vtx").counted.vm_exits["IO_INSTRUCTION"]


def test_it_stops_at_exactly_any_instruction(strategy: Strategy) -> None:
    machine = strategy.build(find("hello").image(), MachineConfig(4 << 20, find_cpu_model("core2"))).machine
    for count in range(1, 200):
        assert machine.run_to(count) is None
        assert machine.count == count


def test_a_row_in_the_registry_makes_it_known(
    names: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: tuple[Strategy, ...] = names["STRATEGIES"]
    assert [row.info.name for row in rows[:-1]] == [row.info.name for row in registry.STRATEGIES]
    by_name = {name: row for row in rows for name in (row.info.name, *row.info.aliases)}
    monkeypatch.setattr(registry, "STRATEGIES", rows)
    monkeypatch.setattr(registry, "_BY_NAME", by_name)
    assert main(["run", "hello", "--strategy", "wio", "--quiet"]) == 0
    assert capsys.readouterr().out == find("hello").console
    assert main(["list", "strategies"]) == 0
    assert "watched-io" in capsys.readouterr().out
    assert main(["compare", "hello", "--quiet"]) == 0
    assert "watched-io: equivalent" in capsys.readouterr().out


def test_the_files_that_the_page_names_exist() -> None:
    names = set(re.findall(r"`((?:simvirt|tests|docs)/[\w./-]+)`", TEXT))
    assert len(names) > 5
    assert not [name for name in names if not (ROOT / name).exists()]
