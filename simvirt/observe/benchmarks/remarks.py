"""Where the columns of the table of benchmarks differ, and why: what a reader has to know before he compares two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.observe.benchmarks.measurement import NotApplicable
from simvirt.observe.benchmarks.results import orders
from simvirt.strategies.strategy import Means

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from simvirt.observe.benchmarks.results import BenchmarkTable
    from simvirt.observe.costs import CostPreset

_IN_GENERAL: Final[Mapping[str, str]] = {
    "native": (
        "the bare machine's costs of the Pentium 4 preset were taken from the paper's native column, so where an "
        "operation is one of them the two agree by construction; the rest is instructions, at a cycle each. No "
        "other preset has such costs: no figures by generation were found."
    ),
    "hardware": (
        "the paper's VMM of 2005 has no EPT, this one always has. So pgfault and ptemod, dear there, are without an "
        "exit here (see counted). For presets before EPT the exits that shadow page tables add are priced too, as "
        "they are counted under trap-and-emulate, and a page-table write as an exit each; the prices of the Pentium "
        "4's are the paper's. With EPT both cost next to nothing."
    ),
    "software": (
        "the paper's software VMM translates binary code; trap-and-emulate does not, and pays a whole trap, the "
        "same by every preset for want of figures, where the translator needs a few hundred cycles. What does not "
        "trap in ring 1, such as CPUID, costs it nothing, and is not virtualized either."
    ),
    "measured": (
        "the PC is simulated, and its VMMs are Python: an exit costs this host microseconds whatever a processor "
        "would need, and the bare PC too answers ports, control registers and SYSCALL in Python. So measured "
        "columns compare with each other, and with no cycles."
    ),
}
_WITHOUT_SHADOWS: Final = (
    "trap-and-emulate was not run: the presets without EPT leave out fills of shadow page tables, INVLPG and control "
    "registers, which are counted there."
)


def remarks(table: BenchmarkTable) -> Iterator[tuple[str, str]]:
    """A label and a text each."""
    for name, same in orders(table).items():
        relation = "the same order" if same else "ANOTHER order"
        yield name, f"by {table.paper_preset.name} the operations stand in {relation} as in the paper's column."
    yield from _IN_GENERAL.items()
    if not any(info.means is Means.TRAPS for info in table.strategies):
        yield "incomplete", _WITHOUT_SHADOWS
    for row in table.rows:
        if row.benchmark.differs:
            yield row.benchmark.name, f"differs from the literature: {row.benchmark.differs}."
    yield from _not_applicable(table)
    for preset in table.presets:
        yield preset.name, _sources(preset)
    last = table.presets[-1]
    yield (
        "all presets",
        f"handling of an exit {last.vm_exit_service}; trap {last.trap}; see `simvirt list costs --json`.",
    )


def _not_applicable(table: BenchmarkTable) -> Iterator[tuple[str, str]]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        for name, found in row.expenses.items():
            if isinstance(found, NotApplicable):
                reasons.setdefault((name, found.reason), []).append(row.benchmark.name)
    for (name, reason), rows in reasons.items():
        yield "n/a", f"{name} cannot do {', '.join(rows)}: {reason}."


def _sources(preset: CostPreset) -> str:
    costs = {f"{'with' if preset.ept else 'without'} EPT; exit and entry": preset.vm_exit}
    costs |= {reason.name: cost for reason, cost in preset.vm_exits.items()}
    costs |= {operation.value: cost for operation, cost in preset.native.items()}
    if preset.traced_write:
        costs["traced write"] = preset.traced_write
    return "; ".join(f"{name} {cost}" for name, cost in costs.items())
