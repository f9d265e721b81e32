"""Random instructions, here and under QEMU: the same state after each, or a reason (reasons.py) why not.

A tenth of an hour for a million instructions of each mode; the short test has some ten thousand of each.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.differential import machines
from tests.differential.comparison import run_batch
from tests.differential.layout import Bench, Mode

if TYPE_CHECKING:
    from tests.differential.reasons import Reason

pytestmark = pytest.mark.skipif(not machines.qemu_is_installed(), reason=f"{machines.QEMU} is not installed")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.build(tmp_path_factory.mktemp("bench"), Path(__file__).with_name("bench.S"))


def _compare(
    bench: Bench, mode: Mode, folder: Path, steps: int, seed: int, cases: int | None = None
) -> Counter[Reason]:
    """Compare at least `steps` instructions; the reasons of the differences that there were."""
    done = 0
    reasons: Counter[Reason] = Counter()
    while done < steps:
        result = run_batch(bench, mode, seed, folder, cases)
        assert not result.differences, "\n".join(str(difference) for difference in result.differences[:20])
        assert result.ends == ("finished", "status 1")
        assert result.steps > 0
        done += result.steps
        reasons += result.explained
        seed += 1
    return reasons


@pytest.mark.parametrize("mode", list(Mode))
def test_some_random_instructions(bench: Bench, mode: Mode, tmp_path: Path) -> None:
    _compare(bench, mode, tmp_path, 4_000, seed=1, cases=1_000)


@pytest.mark.long
@pytest.mark.parametrize("mode", list(Mode))
def test_a_million_random_instructions(bench: Bench, mode: Mode, tmp_path: Path) -> None:
    _compare(bench, mode, tmp_path, 1_000_000, seed=1_000)
