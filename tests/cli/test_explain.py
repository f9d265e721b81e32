from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Simvirt

_TRACE = """\
 qemu-system-x86-4242 [003] ..... 12.000001: kvm_exit: reason EPT_VIOLATION rip 0xffffffff8105 info 181 0
 qemu-system-x86-4242 [003] ..... 12.000002: kvm_entry: vcpu 0, rip 0xffffffff8105
 qemu-system-x86-4242 [003] ..... 12.000003: kvm_exit: vcpu 0 reason MSR_WRITE rip 0xffff info1 0x0000000000000000
 qemu-system-x86-4242 [003] ..... 12.000004: kvm_exit: vcpu 0 reason MSR_WRITE rip 0xffff info1 0x0000000000000000
 qemu-system-x86-4242 [003] ..... 12.000005: kvm_exit: vcpu 0 reason IO_INSTRUCTION rip 0xffff info1 0x0000000003f80000
"""
_TABLE = """\
Analyze events for all VMs, all VCPUs:

             VM-EXIT    Samples  Samples%     Time%    Min Time    Max Time         Avg time

           MSR_WRITE       3254    61.20%     0.22%      0.30us     31.24us      0.61us ( +-   1.20% )
                 HLT       1187    22.32%    99.10%      0.50us   4001.04us    789.12us ( +-   4.11% )
       EPT_MISCONFIG        876    16.48%     0.68%      2.92us     66.09us      7.30us ( +-   1.02% )

Total Samples:5317, Total events handled time:945211.55us.
"""


def test_an_instruction_with_both_runs(simvirt: Simvirt) -> None:
    result = simvirt("explain", "popf")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("POPFD  x86-32")
    for text in ("mode-sensitive", "run 1: start", "EFLAGS.IF", "trap-and-emulate  no", "Robin & Irvine"):
        assert text in result.out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("9d",), "POPFD"),
        (("0f", "01", "e0"), "SMSW"),
        (("popfw",), "form popfw"),
        (("mov-from-segment",), "MOV r32/m16, Sreg"),
        (("sgdt", "--isa", "x86-64"), "x86-64: 0F 01 /0"),
        (("cli",), "gets a trap"),
        (("vpaddd", "--isa", "x86-64"), "Not executed here"),
        (("nop",), "runs it as it is"),
        (("swapgs",), "x86-64"),
    ],
)
def test_what_an_instruction_can_be_called(simvirt: Simvirt, words: tuple[str, ...], text: str) -> None:
    result = simvirt("explain", *words)
    assert (result.status, result.err) == (0, "")
    assert text in result.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("pofp",), "unknown instruction 'pofp': did you mean"),
        (("popf", "--isa", "x86-128"), "unknown instruction set"),
        (("63c8",), "ambiguous"),
        (("mov",), "several instructions"),
        (("0fff", "--isa", "x86-64"), "is no instruction"),
        (("ff",), "is no instruction"),
        (("0f0b90",), "is more than one instruction: its first 2 bytes are ud2"),
        (("9d9",), "half a byte"),
        (("les", "--isa", "x86-64"), "unknown instruction 'les'"),
        ((), "say what to explain"),
        (("exit",), "explain exit 30"),
        (("exit", "35"), "no basic exit reason"),
        (("exit", "ept_violaton"), "did you mean 'ept_violation'"),
        (("--paste", "nowhere.txt"), "cannot be read"),
    ],
)
def test_bad_input(simvirt: Simvirt, words: tuple[str, ...], message: str) -> None:
    result = simvirt("explain", *words)
    assert result.status == 2
    assert message in result.err


@pytest.mark.parametrize("name", ["30", "0x1e", "IO_INSTRUCTION", "io-instruction", "EXIT_REASON_IO_INSTRUCTION"])
def test_an_exit_by_every_name(simvirt: Simvirt, name: str) -> None:
    result = simvirt("explain", "exit", name)
    assert result.out.startswith("30 IO_INSTRUCTION")
    assert "§26.1.3" in result.out
    assert "port in 31:16" in result.out


def test_every_exit_reason_is_explained(simvirt: Simvirt) -> None:
    from simvirt.x86.vmx.exit_reasons import ExitReason

    for reason in ExitReason:
        assert f"{int(reason)} {reason.name}" in simvirt("explain", "exit", str(int(reason))).out


def test_a_pasted_trace(simvirt: Simvirt, tmp_path: Path) -> None:
    file = tmp_path / "trace.txt"
    file.write_text(_TRACE)
    out = simvirt("explain", "--paste", str(file)).out
    assert out.index("2 times") < out.index("1 time:")
    assert "32 WRMSR" in out
    assert "IoInstruction(port=" in out
    assert "48 EPT_VIOLATION" in out


def test_a_pasted_table(simvirt: Simvirt, tmp_path: Path) -> None:
    file = tmp_path / "table.txt"
    file.write_text(_TABLE)
    out = simvirt("explain", "--paste", str(file)).out
    assert "3,254 times, 0.22 % of the time" in out
    assert "49 EPT_MISCONFIGURATION" in out
    assert out.index("WRMSR") < out.index("12 HLT") < out.index("EPT_MISCONFIG")


def test_a_paste_without_exits(simvirt: Simvirt, tmp_path: Path) -> None:
    file = tmp_path / "nothing.txt"
    file.write_text("hello\n")
    result = simvirt("explain", "--paste", str(file))
    assert result.status == 2
    assert "no line is an exit" in result.err


def test_an_instruction_of_another_machine(simvirt: Simvirt) -> None:
    out = simvirt("explain", "move sr", "--isa", "m68k").out
    assert "critical; form m68k:move-sr-d0" in out
    assert "witness m68k:move-sr-d0/mode-sensitive/" in out
    assert "unprivileged on the 68000" in out


def test_a_disagreement_is_told_with_its_reason(simvirt: Simvirt) -> None:
    out = " ".join(simvirt("explain", "svc", "--isa", "arm").out.split())
    assert "There it is privileged; by experiment not privileged. It enters Supervisor mode from all modes." in out


def test_an_unknown_instruction_of_another_machine(simvirt: Simvirt) -> None:
    result = simvirt("explain", "mrss", "--isa", "arm")
    assert result.status == 2
    assert "did you mean 'MRS'?" in result.err
