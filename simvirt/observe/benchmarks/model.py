"""What one operation would cost on a real processor: a cost preset applied to what was counted.

The sum of `observe.costs`, with two terms more. What no VMM has a hand in costs what the preset says of it on the
bare machine, where it says so: `native`. And a processor without EPT leaves paging to shadow page tables, so its
hardware VMM has exits that this project's, which always has EPT, does not have: page faults, fills of the shadows,
writes to page tables, INVLPG and loads of control registers. They are counted where shadow page tables are in use,
under trap-and-emulate, in the same rounds of the same guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.observe.costs import NativeOperation
from simvirt.strategies.strategy import Means
from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.x86.exceptions import Vector
from simvirt.x86.vmx import ExitReason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simvirt.observe.benchmarks.benchmark import Benchmark
    from simvirt.observe.benchmarks.expense import Expense
    from simvirt.observe.costs import CostPreset
    from simvirt.strategies.strategy import StrategyInfo

_AS_VM_EXIT: Final[Mapping[TrapReason, ExitReason]] = {
    TrapReason.SHADOW_FILL: ExitReason.EXCEPTION_OR_NMI,
    TrapReason.INVLPG: ExitReason.INVLPG,
    TrapReason.MOV_TO_CR: ExitReason.CR_ACCESS,
}
"""What shadow page tables need a hardware VMM to see, besides page faults of the guest's own and traced writes."""


def cycles(
    preset: CostPreset, strategy: StrategyInfo, expense: Expense, benchmark: Benchmark, shadowed: Expense | None
) -> float:
    """Modelled cycles of one operation.

    `shadowed` is the same operation under a strategy with shadow page tables, where there is one.
    """
    direct = expense.instructions - expense.emulated
    total = direct * preset.instruction.cycles
    total += sum(number * preset.of_exit(reason) for reason, number in expense.exits.items())
    if not expense.exits:
        total += sum(
            number * preset.native_cycles(NativeOperation(what)) for what, number in benchmark.executed.items()
        )
    if strategy.means is Means.TRAPS:
        return total  # a trap's cost holds the delivery to the guest
    by_shadow_paging = strategy.means is Means.NON_ROOT_MODE and not preset.ept
    if by_shadow_paging:
        total += _shadow_paging_cycles(preset, expense, benchmark, shadowed)
    for vector, number in expense.delivered.items():
        if not (by_shadow_paging and vector == Vector.PF):
            total += number * preset.native_cycles(delivery_of(vector))
    return total


def delivery_of(vector: int) -> NativeOperation:
    """What the delivery of a vector is, with the handler's IRET."""
    if vector == Vector.PF:
        return NativeOperation.PAGE_FAULT
    return NativeOperation.DIVIDE_ERROR if vector < _EXCEPTIONS else NativeOperation.INTERRUPT


_EXCEPTIONS: Final = 32


def _shadow_paging_cycles(
    preset: CostPreset, expense: Expense, benchmark: Benchmark, shadowed: Expense | None
) -> float:
    counted = {} if shadowed is None else shadowed.exits
    total = expense.delivered.get(Vector.PF, 0) * preset.of_exit(ExitReason.EXCEPTION_OR_NMI)
    total += sum(counted.get(reason, 0) * preset.of_exit(exit_reason) for reason, exit_reason in _AS_VM_EXIT.items())
    writes = max(benchmark.page_table_writes, counted.get(TrapReason.PAGE_TABLE_WRITE, 0))
    return total + writes * preset.traced_write_cycles
