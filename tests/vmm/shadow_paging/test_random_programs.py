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
