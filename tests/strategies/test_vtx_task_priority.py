"""CR8 under vtx: a shadow without exits, and interrupts that come at the same instruction as on the bare PC."""

from __future__ import annotations

from pathlib import Path

import pytest

import simvirt
from simvirt.guests import build as build_module
from simvirt.guests import catalogue
from simvirt.guests.build import build
from simvirt.guests.resolve import resolve
from simvirt.observe.comparison import Equivalence
from simvirt.observe.results import Run
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig
from simvirt.x86.cpuid import DEFAULT_CPU_MODEL, find_cpu_model

SOURCES = Path(__file__).parent / "task_priority"
LONG_MODE = catalogue.SOURCES / "microbenchmarks" / "long_mode.S"


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not build_module.available():
        pytest.skip("no toolchain")
    sources = [SOURCES / "main.c", SOURCES / "chance.S", LONG_MODE]
    return build(sources, tmp_path_factory.mktemp("guest") / "chance.elf", macros=["BENCHMARK=none"])


def _runs(guest: Path, interval: int) -> tuple[Equivalence, Run, Run]:
    comparison = simvirt.compare(guest, ["vtx"], interval=interval)
    return comparison.verdicts["vtx"].equivalence, comparison.run("bare-metal"), comparison.run("vtx")


@pytest.mark.parametrize("interval", [1_000_000, 997])
def test_interrupts_are_held_back_and_let_through_as_on_the_bare_pc(guest: Path, interval: int) -> None:
    """Equal however often the runs are stopped and looked at."""
    equivalence, bare, vtx = _runs(guest, interval)
    assert equivalence is Equivalence.EQUIVALENT
    assert vtx.console == bare.console
    assert int(bare.console.split()[1]) > 300
    exits = vtx.counted.vm_exits
    assert 0 < exits["TPR_BELOW_THRESHOLD"] < 500
    assert "CR_ACCESS" not in exits


@pytest.mark.parametrize("count", [3_001, 40_009, 77_777])
def test_the_shadow_is_saved_and_restored(guest: Path, count: int) -> None:
    image, config = resolve(guest), MachineConfig(64 << 20, find_cpu_model(DEFAULT_CPU_MODEL))
    expected = simvirt.run(image).console_bytes
    first, second = (find("vtx").build(image, config).machine for _ in range(2))
    first.run_to(count)
    saved = first.save()
    first.run_to(count + 3_000)
    for machine in (first, second):
        machine.restore(saved)
        machine.run()
        assert bytes(machine.board.console) == expected


def test_cr8_of_a_guest_without_interrupts_never_exits() -> None:
    run = simvirt.run("bench-cr8wr", "vtx", max_instructions=20_000)
    assert not {"CR_ACCESS", "TPR_BELOW_THRESHOLD"} & set(run.counted.vm_exits)
