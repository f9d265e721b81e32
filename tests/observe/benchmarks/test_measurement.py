"""Windows of rounds, and what is counted in them."""

from __future__ import annotations

import pytest

from simvirt.errors import UsageError
from simvirt.guests.resolve import resolve
from simvirt.observe.benchmarks.expense import Expense
from simvirt.observe.benchmarks.measurement import NotApplicable, Window, expense_of_rounds, window_of
from simvirt.observe.benchmarks.results import BenchmarkTable
from simvirt.observe.benchmarks.session import compare_benchmarks
from simvirt.observe.results import RunConfig
from simvirt.strategies.registry import STRATEGIES, find
from simvirt.x86.exceptions import Vector

CONFIG = RunConfig("core2", 64 << 20, 0, 10**9)
TIMES = 100_000
LOOP = 2
"""DEC and JNZ."""


@pytest.mark.parametrize(
    ("guest", "operation"),
    [
        ("bench-empty", 0),
        ("bench-in", 1),
        ("bench-callret", 3),  # CALL, INC, RET
        ("bench-ptemod-toggle", 3),  # MOV, INVLPG, XOR
        ("bench-syscall", 5),  # SYSCALL, TEST, JZ, INC, SYSRET
        ("bench-toggle-cr0-wp", 2),
    ],
)
def test_a_round_is_as_long_as_its_source_says(guest: str, operation: int) -> None:
    window = window_of(resolve(guest), CONFIG)
    assert isinstance(window, Window)
    assert window.length == operation + LOOP


def test_all_rounds_lie_in_the_guest_s_run() -> None:
    """The window is taken from rounds that there are: the guest does 100,000 of them, whatever its kind."""
    image = resolve("bench-divzero")
    window = window_of(image, CONFIG)
    assert isinstance(window, Window)
    expense = expense_of_rounds(image, find("vtx"), CONFIG, window, 90_000)
    assert isinstance(expense, Expense)
    assert expense.instructions == pytest.approx(window.length)
    assert expense.delivered == pytest.approx({Vector.DE: 1})


def test_what_an_old_processor_does_not_have_is_not_applicable() -> None:
    table = compare_benchmarks(["cr8wr", "wr_msr", "cpuid"], rounds=5, cpu="pentium")
    cr8wr, wr_msr, cpuid = (
        {found.reason for found in row.expenses.values() if isinstance(found, NotApplicable)} for row in table.rows
    )
    assert cr8wr == {"on the CPU model pentium bench-cr8wr says: this processor has no 64-bit mode"}
    assert wr_msr == {"on the CPU model pentium bench-wr-msr says: this processor has no IA32_PAT"}
    assert cpuid == set()


@pytest.mark.parametrize("guest", ["hello", "sensitive"])
def test_a_guest_without_one_site_is_no_benchmark(guest: str) -> None:
    with pytest.raises(UsageError, match="is no benchmark"):
        window_of(resolve(guest), CONFIG)


# Exits of one operation, from what the source does and the rules of each strategy.
EXITS = {
    "syscall": (None, {}),
    "in": ({"IN": 1}, {"IO_INSTRUCTION": 1}),
    "cr8wr": (None, {}),
    "call/ret": ({}, {}),
    "pgfault": ({"EXCEPTION": 1, "IRET": 1}, {}),
    "divzero": ({"EXCEPTION": 1, "IRET": 1}, {}),
    "ptemod": ({}, {}),
    "ptemod-toggle": ({"INVLPG": 1}, {}),
    "int80": ({"SOFTWARE_INTERRUPT": 1, "IRET": 1}, {}),
    "cpuid": ({}, {"CPUID": 1}),
    "vmcall": ({"EXCEPTION": 1, "IRET": 1}, {"VMCALL": 1}),
    "mov_from_cr8": (None, {}),
    "inl_from_pmtimer": ({"IN": 1}, {"IO_INSTRUCTION": 1}),
    "out_to_pic": ({"OUT": 1}, {"IO_INSTRUCTION": 1}),
    "mov_dr": ({"MOV_TO_DR": 1}, {}),
    "self_ipi": ({"NO_MEMORY": 2, "STI": 1, "CLI": 1, "IRET": 1}, {"EPT_VIOLATION": 2, "INTERRUPT_WINDOW": 1}),
    "wr_msr": ({"WRMSR": 1}, {"WRMSR": 1}),
    "wr_kernel_gs_base": (None, {}),
    "toggle_cr0_wp": ({"MOV_TO_CR": 2}, {}),
    "toggle_cr4_pge": ({"MOV_TO_CR": 2}, {}),
}


def test_exits_of_one_operation(micro: BenchmarkTable) -> None:
    found = {}
    for row in micro.rows:
        tae, vtx = row.expense("trap-and-emulate"), row.expense("vtx")
        found[row.benchmark.name] = tuple(
            None if expense is None else {reason.name: round(number, 9) for reason, number in expense.exits.items()}
            for expense in (tae, vtx)
        )
    assert found == EXITS


def test_instructions_are_the_same_under_every_strategy(micro: BenchmarkTable) -> None:
    for row in micro.rows:
        expenses = [expense for strategy in STRATEGIES if (expense := row.expense(strategy.info.name))]
        assert len({round(expense.instructions, 9) for expense in expenses}) == 1


def test_nothing_else_is_not_applicable_than_64_bit_code_in_ring_1(micro: BenchmarkTable) -> None:
    found = {
        (row.benchmark.name, name): expense.reason
        for row in micro.rows
        for name, expense in row.expenses.items()
        if isinstance(expense, NotApplicable)
    }
    assert {name for name, _ in found} == {"syscall", "cr8wr", "mov_from_cr8", "wr_kernel_gs_base"}
    assert {strategy for _, strategy in found} == {"trap-and-emulate"}
    assert all("long mode" in reason for reason in found.values())


def test_the_operating_system_s_calls_are_what_they_are_on_each_strategy(system: BenchmarkTable) -> None:
    """A system call is one INT 0x80; a fork with exit and wait is three, and page faults to copy what is written."""
    for strategy in ("bare-metal", "vtx"):
        call, fork = (system.row(name).expense(strategy) for name in ("tutor: call", "tutor: fork"))
        assert call is not None
        assert fork is not None
        assert round(call.delivered[0x80], 6) == 1
        assert round(fork.delivered[0x80], 6) == 3
        assert fork.delivered[Vector.PF] > 1
        assert call.instructions < fork.instructions


def test_a_combination_is_a_sum(system: BenchmarkTable) -> None:
    """Half a turn is two system calls and a switch; a pipe is the same two calls."""
    switch = system.row("tutor: switch").expense("bare-metal")
    assert switch is not None
    assert abs(switch.delivered.get(0x80, 0)) < 0.1
    assert 50 < switch.instructions < 500
