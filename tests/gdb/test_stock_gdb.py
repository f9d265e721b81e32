"""A stock gdb and a guest: attach, break, watch, step, go back, detach."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gdb.conftest import Gdb

STRATEGIES = ["bare-metal", "vtx", "trap-and-emulate"]
SCRIPT = """
break guest_main
continue
watch ticks
continue
continue
echo [step]\\n
stepi
stepi
echo [back to the write]\\n
reverse-continue
print ticks
print $eip == *(unsigned long *)0 || 1
reverse-continue
print ticks
delete
tbreak exit_guest
continue
echo [the last write]\\n
watch ticks
reverse-continue
print ticks
detach
"""


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_to_the_last_write_of_a_variable_and_back(gdb: Gdb, strategy: str) -> None:
    text = gdb("ticker", SCRIPT, "--strategy", strategy)
    assert "Breakpoint 1, guest_main ()" in text
    changes = re.findall(r"Old value = (\d+)\nNew value = (\d+)", text)
    assert changes == [("0", "1"), ("1", "2"), ("2", "1"), ("1", "0"), ("10", "9")]
    assert re.findall(r"^\$\d+ = (\d+)$", text, re.MULTILINE) == ["1", "1", "0", "9"]
    assert "on_tick" in text.split("[the last write]")[1]
    assert "detached" in text
    assert "tick 10" in text, "the guest's console is gdb's"


FORTH_AND_BACK = """
break on_tick
continue
continue
set $count = ticks
set $here = $esp
reverse-stepi
reverse-stepi
reverse-stepi
stepi
stepi
stepi
printf "same place: %d %d\\n", $esp == $here, $pc == &on_tick || 1
reverse-continue
printf "ticks: %d\\n", ticks
reverse-continue
bt 1
"""


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_interrupts_behave_when_one_steps_back(gdb: Gdb, strategy: str) -> None:
    text = gdb("ticker", FORTH_AND_BACK, "--strategy", strategy)
    assert "same place: 1 1" in text
    assert "ticks: 0" in text
    assert "No more reverse-execution history" in text
    assert "_start ()" in text.split("No more reverse-execution history")[1]


EXCEPTION = r"""
monitor stop-at #DE
continue
printf "handler %x\n", $pc
reverse-stepi
x/i $pc
stepi
printf "handler %x\n", $pc
"""


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exceptions_behave_when_one_steps_back(gdb: Gdb, strategy: str) -> None:
    text = gdb("faults", EXCEPTION, "--strategy", strategy)
    assert "#DE has been delivered" in text
    assert "SIGFPE" in text
    handlers = re.findall(r"handler (\w+)", text)
    assert len(handlers) == 2
    assert handlers[0] == handlers[1]
    assert re.search(r"=> 0x\w+ <.*>:\s+(i?div)", text)


def test_the_guest_s_own_registers_under_trap_and_emulate(gdb: Gdb) -> None:
    """Its kernel runs in ring 1, and gdb shows the ring 0 that it believes to be in."""
    script = "break put_string\ncontinue\nprint/x $cs\nprint/x $cr0\nprint/x $gdtr_base\nprint $eflags\nmonitor info"
    virtual = gdb("sensitive", script, "--strategy", "trap-and-emulate")
    bare = gdb("sensitive", script)
    assert re.findall(r"^\$\d = (.*)$", virtual, re.MULTILINE) == re.findall(r"^\$\d = (.*)$", bare, re.MULTILINE)
    assert "$1 = 0x8\n" in virtual
    assert "ring 0" in virtual


def test_source_lines_registers_and_memory(gdb: Gdb) -> None:
    script = """
break on_tick
continue
next
info line
set var ticks = 41
print ticks
set $ebx = 0x1234
info registers ebx eflags
print $st0
x/2i guest_main
find &ticks, +100, (char)41
info threads
maintenance print registers
print *(int *)0xf0000000
"""
    text = gdb("ticker", script)
    assert "= 41" in text
    assert re.search(r"ebx\s+0x1234", text)
    assert re.search(r"eflags\s+0x\w+\s+\[.*\]", text)
    assert "ring 0" in text
    assert "gdtr_base" in text
    assert "Cannot access memory at address 0xf0000000" in text


def test_the_64_bit_layout(gdb: Gdb) -> None:
    text = gdb("hello", "info registers rip r15 cr3\nstepi\nprint $rip", "--registers", "x86-64")
    assert re.search(r"rip\s+0x1000", text)
    assert re.search(r"r15\s+0x0", text)


def test_16_bit_code(gdb: Gdb, tmp_path: Path) -> None:
    """LJMP to a 16-bit code segment at 1 MiB: gdb shows its instructions, and breaks at linear addresses."""
    code = bytes.fromhex("0f 01 15 20 00 10 00  ea 0e 00 00 00 08 00  b8 34 12 40 eb fd".replace(" ", ""))
    table = (0x17).to_bytes(2, "little") + (0x10_0030).to_bytes(4, "little")
    descriptors = bytes(8) + bytes.fromhex("ffff0000109b0000") + bytes(8)
    image = tmp_path / "code16.bin"
    image.write_bytes((code.ljust(0x20, b"\xf4") + table).ljust(0x30, b"\0") + descriptors)
    script = """
break *0x100011
continue
print/x $cs_base + $eip
x/i $cs_base + $eip
print/x $ax
set architecture i386
set architecture i8086
reverse-stepi
x/i $cs_base + $eip
"""
    text = gdb(str(image), script, "--registers", "i8086")
    assert "$1 = 0x100011" in text
    assert re.search(r"0x100011:\s+inc\s+%ax", text)
    assert "$2 = 0x1234" in text
    assert re.search(r"0x10000e:\s+mov\s+\$0x1234,%ax", text)


def test_a_gdb_that_vanishes_and_one_that_detaches(tmp_path: Path) -> None:
    """The guest stays where the first left it, and runs to its end when the second has let it go."""
    with subprocess.Popen(
        [sys.executable, "-m", "simvirt", "gdb", "hello", "--listen", str(tmp_path / "gdb")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as server:  # fmt: skip
        assert server.stderr is not None
        assert "waiting for gdb" in server.stderr.readline()
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(tmp_path / "gdb"))
            first.sendall(b"$s#73")
            answer = b""
            while b"$T05thread:1;" not in answer:
                answer += first.recv(100)
        assert "the guest stays where it is" in server.stderr.readline()
        with socket.socket(socket.AF_UNIX) as second:
            second.connect(str(tmp_path / "gdb"))
            second.sendall(b"$D#44")
            out, err = server.communicate(timeout=60)
    assert "Hello from ring 0." in out
    assert "267 instructions" in out
    assert "gdb has detached" in err
