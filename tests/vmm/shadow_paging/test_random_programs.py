"""Random programs that edit their page tables run under shadow paging as on bare metal, instruction by instruction."""

from __future__ import annotations

import pytest

from tests.support.twins import Twins, start
from tests.vmm.shadow_paging.paging_programs import PagingProgram, install


def _differences(twins: Twins, seeds: range) -> list[str]:
    found = []
    for seed in seeds:
        program = PagingProgram(seed, pae=bool(seed & 1))
        install(twins, program)
        difference = twins.compare(program.code, start(fs=0), steps=400)
        if difference is not None:
            found.append(f"seed {seed}: {difference}")
    return found


def test_programs_run_as_on_bare_metal(twins: Twins) -> None:
    assert not _differences(twins, range(20))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_many_programs_run_as_on_bare_metal(twins: Twins) -> None:
    assert not _differences(twins, range(20, 2000))


@pytest.mark.parametrize("seed", [2, 3, 18])
def test_a_restored_machine_goes_on_with_the_same_exits(twins: Twins, seed: int) -> None:
    """Hidden faults included: the shadow page tables are part of what is saved."""
    program = PagingProgram(seed, pae=bool(seed & 1))
    install(twins, program)
    twins.begin(program.code, start(fs=0))
    machine, log = twins.virtual.machine, twins.virtual.log
    records: list[tuple[int, str]] = []
    log.listener = lambda record: records.append((record.instruction, record.reason.name))
    machine.run_to(150)
    saved = machine.save()
    del records[:]
    machine.run_to(400)
    expected, end = list(records), machine.save()
    assert any(name == "SHADOW_FILL" for _, name in expected)
    machine.restore(saved)
    assert machine.save() == saved
    del records[:]
    machine.run_to(400)
    assert records == expected
    assert machine.save() == end
    other = Twins()
    other.virtual.machine.restore(saved)
    other.virtual.machine.run_to(400)
    assert other.virtual.machine.save() == end
