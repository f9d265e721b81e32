"""An instruction set classified form by form, by any `concurrent.futures.Executor`.

Work goes out in batches of forms. A worker makes its machine once and keeps it for all batches; each experiment puts
the machine's whole state in place first, so neither the order of batches nor the number of workers changes a result.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import as_completed
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

from simvirt.analyzer.model.analysis import Analysis, classify_form
from simvirt.analyzer.registry import find

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from simvirt.analyzer.model.classification import Classification
    from simvirt.analyzer.model.form import Form
    from simvirt.analyzer.model.machine_model import MachineModel

BATCH: Final = 16
"""Forms that a worker is given at once: a tenth of a second to a few seconds of work."""

Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many forms are done, of how many."""


def no_progress(done: int, total: int) -> None:
    """Tells nobody."""
    del done, total


def sweep(
    name: str,
    executor: Executor | None = None,
    *,
    forms: Sequence[Form] | None = None,
    progress: Progress = no_progress,
) -> Analysis:
    """The instruction set `name`, or some of its forms, classified.

    Args:
        name: as the registry has it.
        executor: who does the work; without one it is done here.
        forms: by default all; the result is in their order.
        progress: told after each batch.

    Raises:
        UnknownNameError: there is no such instruction set.
    """
    row = find(name)
    machine = machine_of(name)
    wanted = list(machine.forms() if forms is None else forms)
    batches = [wanted[first : first + BATCH] for first in range(0, len(wanted), BATCH)]
    progress(0, len(wanted))
    classified = _here(name, batches, progress) if executor is None else _by(executor, name, batches, progress)
    everything = tuple(one for batch in classified for one in batch)
    disagreements = tuple(row.compare(everything))
    return Analysis(row.info, machine.engine, machine.architecture, everything, disagreements, is_whole=forms is None)


def _here(name: str, batches: list[list[Form]], progress: Progress) -> list[list[Classification]]:
    classified = []
    done = 0
    for batch in batches:
        classified.append(classify_batch(name, batch))
        done += len(batch)
        progress(done, sum(map(len, batches)))
    return classified


def _by(executor: Executor, name: str, batches: list[list[Form]], progress: Progress) -> list[list[Classification]]:
    numbers = {executor.submit(classify_batch, name, batch): number for number, batch in enumerate(batches)}
    classified: list[list[Classification]] = [[] for _ in batches]
    done = 0
    try:
        for future in as_completed(numbers):
            classified[numbers[future]] = future.result()
            done += len(batches[numbers[future]])
            progress(done, sum(map(len, batches)))
    except BaseException:
        for future in numbers:
            future.cancel()
        raise
    return classified


def classify_batch(name: str, forms: Sequence[Form]) -> list[Classification]:
    """Some forms of an instruction set, classified in this process."""
    machine = machine_of(name)
    return [classify_form(machine, form) for form in forms]


@lru_cache(maxsize=4)
def machine_of(name: str) -> MachineModel:
    """The machine of an instruction set, made once in each process."""
    return find(name).machine()
