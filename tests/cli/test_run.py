"""`run`: the JSON contract, the text, and guests that end badly."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from simvirt.cli.console import LiveConsoles
from simvirt.guests.catalogue import Ending, find, guests

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import FlatGuest, Process, Simvirt

_STRATEGIES = ("bare-metal", "trap-and-emulate", "vtx")
_SCHEMA: dict[str, type | tuple[type, ...]] = {
    "schema": str,
    "guest": str,
    "sha256": str,
    "strategy": str,
    "config": dict,
    "outcome": str,
    "guest_status": (int, type(None)),
    "console": str,
    "counted": dict,
    "modelled": dict,
    "measured": dict,
    "error": (dict, type(None)),
}


def check_run(run: Any) -> None:
    """A `run` object has the members of the contract, and no others."""
    assert set(run) == set(_SCHEMA)
    for name, kind in _SCHEMA.items():
        assert isinstance(run[name], kind), name
    assert set(run["config"]) == {"cpu", "memory", "seed", "max_instructions"}
    assert set(run["counted"]) == {"instructions", "interventions", "direct_fraction", "vm_exits"}
    assert set(run["modelled"]) == {"preset", "cycles"}
    assert set(run["measured"]) == {"host_seconds"}
    assert sum(run["counted"]["vm_exits"].values()) == run["counted"]["interventions"]


@pytest.mark.parametrize("strategy", _STRATEGIES)
def test_json(simvirt: Simvirt, strategy: str) -> None:
    result = simvirt("run", "hello", "--strategy", strategy, "--json")
    assert (result.status, result.err) == (0, "")
    run = result.json()
    check_run(run)
    assert run["schema"] == "simvirt.run/1"
    assert (run["guest"], run["sha256"]) == ("hello", find("hello").sha256)
    assert run["strategy"] == strategy
    assert run["config"] == {"cpu": "core2", "memory": 64 << 20, "seed": 0, "max_instructions": 10**10}
    assert (run["outcome"], run["guest_status"], run["error"]) == ("finished", 0, None)
    assert run["console"] == find("hello").console
    assert (run["counted"]["interventions"] > 0) == (strategy != "bare-metal")


def test_options_reach_the_machine(simvirt: Simvirt) -> None:
    words = ("--memory", "16MiB", "--cpu", "pentium", "--seed", "7", "--max-instructions", "1_000", "--costs")
    run = simvirt("run", "spin", "--json", *words, "haswell-2013").json()
    assert run["config"] == {"cpu": "pentium", "memory": 16 << 20, "seed": 7, "max_instructions": 1000}
    assert (run["outcome"], run["counted"]["instructions"]) == ("limit", 1000)
    assert run["modelled"]["preset"] == "haswell-2013"


@pytest.mark.parametrize("name", [guest.name for guest in guests() if not guest.name.startswith("bench")])
def test_the_catalogue_on_bare_metal(simvirt: Simvirt, name: str) -> None:
    guest = find(name)
    run = simvirt("run", name, "--json", "--max-instructions", "10M").json()
    assert (run["outcome"], run["guest_status"]) == (guest.ending.value, guest.guest_status)
    assert run["console"] == guest.console


def test_text(simvirt: Simvirt) -> None:
    result = simvirt("run", "hello", "--strategy", "tae")
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("Hello from ring 0.\n")
    for part in ("finished", "counted", "modelled", "measured", "LGDT"):
        assert part in result.out
    assert "\x1b" not in result.out


def test_quiet_is_the_console_alone(simvirt: Simvirt) -> None:
    assert simvirt("run", "hello", "--quiet").out == find("hello").console


@pytest.mark.parametrize("strategy", _STRATEGIES)
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        pytest.param(b"\xeb\xfe", "limit", id="endless loop"),
        pytest.param(b"\xb8\x00\x00\x00\xc0\xff\xe0", "triple-fault", id="execution of unmapped memory"),
        pytest.param(b"\x0f\x0b", "triple-fault", id="invalid opcode with no handler"),
        pytest.param(b"\xf4", "halted", id="halt with interrupts masked"),
        pytest.param(b"\xcd\x80", "triple-fault", id="interrupt without a table"),
    ],
)
def test_guests_that_end_badly(simvirt: Simvirt, flat: FlatGuest, strategy: str, code: bytes, outcome: str) -> None:
    result = simvirt("run", flat(code), "--strategy", strategy, "--json", "--max-instructions", "10_000")
    assert (result.status, result.err) == (0, "")
    assert result.json()["outcome"] == outcome


def test_the_guest_s_own_status_is_not_the_command_s(simvirt: Simvirt, flat: FlatGuest) -> None:
    result = simvirt("run", flat(b"\xb0\x07\xe6\xf4"), "--json")  # MOV AL, 7; OUT F4H, AL
    assert result.status == 0
    assert (result.json()["outcome"], result.json()["guest_status"]) == ("finished", 7)


def test_a_triple_fault_has_a_post_mortem(simvirt: Simvirt) -> None:
    assert find("triple-fault").ending is Ending.TRIPLE_FAULT
    result = simvirt("run", "triple-fault")
    assert result.status == 0
    assert "triple-fault" in result.out
    assert "#DF" in result.out
    assert "triple-fault.c:" in result.out


class TestUnreadableGuests:
    """Each is wrong usage: status 2, nothing on standard output, and the path and what to do in the message."""

    @pytest.fixture(params=["run", "compare"])
    def command(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @staticmethod
    def check(simvirt: Simvirt, command: str, path: Path | str, *messages: str) -> None:
        result = simvirt(command, str(path), "--json")
        assert result.status == 2
        assert result.out == ""
        assert result.err.count("\n") == 1
        for message in (str(path), *messages):
            assert message in result.err

    def test_no_such_file(self, simvirt: Simvirt, command: str, tmp_path: Path) -> None:
        self.check(simvirt, command, tmp_path / "nowhere.elf", "no such file")

    def test_directory(self, simvirt: Simvirt, command: str, tmp_path: Path) -> None:
        self.check(simvirt, command, tmp_path, "directory")

    def test_empty_file(self, simvirt: Simvirt, command: str, flat: FlatGuest) -> None:
        self.check(simvirt, command, flat(b""), "empty")

    def test_no_image(self, simvirt: Simvirt, command: str, flat: FlatGuest) -> None:
        self.check(simvirt, command, flat(b"\x89PNG\r\n\x1a\n" + bytes(100)), "PNG")
        self.check(simvirt, command, flat(b"Dear reader,\n", "letter.txt"), "text file")

    def test_truncated_elf(self, simvirt: Simvirt, command: str, flat: FlatGuest) -> None:
        image = find("hello").image_path.read_bytes()
        for size in (20, 100, len(image) // 2):
            result = simvirt(command, flat(image[:size], "cut.elf"), "--json")
            assert (result.status, result.out) == (2, "")
            assert "cut.elf" in result.err

    def test_more_memory_than_given(self, simvirt: Simvirt, command: str) -> None:
        result = simvirt(command, "hello", "--memory", "1M")
        assert (result.status, result.out) == (2, "")
        assert "memory ends at 0x100000" in result.err
        assert "--memory" in result.err

    def test_unreadable_file(
        self, simvirt: Simvirt, command: str, flat: FlatGuest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = flat(b"\xf4")

        def refuse(_path: Path) -> bytes:  # root, whom some tests run as, may read everything
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
        self.check(simvirt, command, path, "Permission denied")

    def test_read_error(self, simvirt: Simvirt, command: str) -> None:
        self.check(simvirt, command, "/dev/null", "not a regular file")
        self.check(simvirt, command, "/proc/self/mem", "cannot be read")


class TestTrace:
    @pytest.mark.parametrize("trace_format", ["kvm", "jsonl", "chrome"])
    def test_every_exit_is_written(self, simvirt: Simvirt, tmp_path: Path, trace_format: str) -> None:
        path = tmp_path / "trace"
        words = ("--trace", str(path), "--trace-format", trace_format)
        run = simvirt("run", "rings", "--strategy", "tae", "--json", *words).json()
        exits = run["counted"]["interventions"]
        assert exits > 10
        text = path.read_text()
        if trace_format == "kvm":
            assert text.count(" kvm_exit: ") == len(text.splitlines()) == exits
        elif trace_format == "jsonl":
            assert [json.loads(line)["number"] for line in text.splitlines()] == list(range(1, exits + 1))
        else:
            events = json.loads(text)["traceEvents"]
            assert sum("number" in event["args"] for event in events) == exits

    def test_the_default_is_kvm(self, simvirt: Simvirt, tmp_path: Path) -> None:
        path = tmp_path / "trace"
        simvirt("run", "hello", "--strategy", "tae", "--trace", str(path))
        assert " kvm_exit: " in path.read_text()

    @pytest.mark.parametrize("command", ["run", "compare"])
    def test_what_cannot_be_written_is_found_before_the_run(
        self, simvirt: Simvirt, command: str, tmp_path: Path
    ) -> None:
        started = time.perf_counter()
        # The guest never ends, and the limit is far away.
        result = simvirt(command, "spin", "--strategy", "tae", "--trace", str(tmp_path / "no" / "trace"))
        assert time.perf_counter() - started < 5
        assert (result.status, result.out) == (2, "")
        assert "cannot write the trace" in result.err
        assert "No such file" in result.err

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")  # noqa: PTH110
    def test_a_full_device_is_no_fault_of_the_monitor(self, simvirt: Simvirt) -> None:
        result = simvirt("run", "rings", "--strategy", "tae", "--trace", "/dev/full")
        assert result.status == 2
        assert "No space left" in result.err


def test_a_strategy_that_fails(simvirt: Simvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_machine: object, _instruction: int, **_how: object) -> None:
        raise RuntimeError("the strategy is broken")

    monkeypatch.setattr("simvirt.machine.machine.Machine.run_to", fail)
    result = simvirt("run", "hello", "--strategy", "tae", "--json")
    assert result.status == 3
    assert result.err == (
        "simvirt: fault of the monitor under trap-and-emulate: RuntimeError: the strategy is broken\n"
    )
    run = result.json()
    check_run(run)
    assert run["outcome"] == "monitor-error"
    assert run["error"] == {"kind": "RuntimeError", "message": "the strategy is broken"}
    debugged = simvirt("run", "hello", "--strategy", "tae", "--quiet", "--debug")
    assert debugged.err.startswith("Traceback (most recent call last):\n")
    assert "in fail" in debugged.err


class TestTerminal:
    """A guest that never ends, with standard error on a terminal."""

    @pytest.mark.parametrize("command", ["run", "compare"])
    def test_progress_and_ctrl_c(self, command: str) -> None:
        ours, theirs = os.openpty()
        words = [sys.executable, "-m", "simvirt", command, "spin", "--json"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=theirs, text=True) as child:
            os.close(theirs)
            seen = b""
            while b"million a second" not in seen:
                seen += os.read(ours, 1000)
            child.send_signal(signal.SIGINT)
            sent = time.perf_counter()
            out, _ = child.communicate(timeout=30)
            took = time.perf_counter() - sent
        os.close(ours)
        assert child.returncode == 0
        assert b"spin" in seen
        result = json.loads(out)
        runs = [result] if command == "run" else result["runs"]
        for run in runs:
            check_run(run)
            assert run["outcome"] == "interrupted"
            assert run["counted"]["instructions"] > 0
        if command == "compare":
            assert {verdict["equivalence"] for verdict in result["verdicts"].values()} == {"undetermined"}
        assert took < 0.5

    def test_colour(self, tmp_path: Path) -> None:
        def output(env: dict[str, str]) -> bytes:
            ours, theirs = os.openpty()
            words = [sys.executable, "-m", "simvirt", "run", "hello", "--strategy", "tae"]
            with subprocess.Popen(
                words, stdout=theirs, env={**os.environ, "TERM": "xterm", **env}, cwd=tmp_path
            ) as child:
                os.close(theirs)
                seen = b""
                with suppress(OSError):  # the terminal's end, as Linux tells it
                    while piece := os.read(ours, 10_000):
                        seen += piece
            os.close(ours)
            assert child.returncode == 0
            return seen

        coloured = output({"NO_COLOR": ""})
        assert b"\x1b[" in coloured
        assert coloured.count(b"Hello from ring 0.") == 1
        plain = output({"NO_COLOR": "1"})
        assert b"Hello from ring 0." in plain
        assert b"\x1b" not in plain

    def test_the_console_comes_while_the_guest_runs(self, flat: FlatGuest) -> None:
        """It prints one character and then never ends."""
        guest = flat(bytes.fromhex("66baf803 b040 ee b00a ee ebfe"))  # OUT 3F8H: '@', line feed; JMP itself
        ours, theirs = os.openpty()
        words = [sys.executable, "-m", "simvirt", "run", guest]
        with subprocess.Popen(words, stdout=theirs, stderr=subprocess.DEVNULL) as child:
            os.close(theirs)
            seen = b""
            while b"@" not in seen:
                seen += os.read(ours, 1000)
            assert child.poll() is None
            child.send_signal(signal.SIGINT)
            with suppress(OSError):
                while piece := os.read(ours, 10_000):
                    seen += piece
        os.close(ours)
        assert seen.count(b"@") == 1
        assert b"interrupted" in seen


def test_as_a_process(process: Process) -> None:
    result = process("run", "hello", "--json", env={"NO_COLOR": "1"})
    assert (result.status, result.err) == (0, "")
    assert result.json()["console"] == find("hello").console
    assert process("run", "helo").status == 2


def test_several_guests_share_the_pc(simvirt: Simvirt) -> None:
    result = simvirt("run", "hello", "hello", "--strategy", "vtx", "--slice", "100", "--json")
    assert (result.status, result.err) == (0, "")
    together = result.json()
    assert (together["schema"], together["slice"]) == ("simvirt.shared-run/1", 100)
    for run in together["runs"]:
        check_run(run)
    text = simvirt("run", "hello", "hello", "--strategy", "vtx", "--quiet").out
    assert text == "--- VM 1: hello\nHello from ring 0.\n\n--- VM 2: hello\nHello from ring 0.\n"


def test_several_guests_have_a_trace_each(simvirt: Simvirt, tmp_path: Path) -> None:
    """The same as that of the guest alone."""
    words = ("--strategy", "vtx", "--quiet", "--trace-format", "jsonl", "--trace")
    assert simvirt("run", "hello", "ticker", *words, str(tmp_path / "both.jsonl"), "--slice", "100").status == 0
    for number, guest in enumerate(("hello", "ticker"), 1):
        assert simvirt("run", guest, *words, str(tmp_path / f"{guest}.jsonl")).status == 0
        assert (tmp_path / f"both.{number}.jsonl").read_text() == (tmp_path / f"{guest}.jsonl").read_text()


def test_what_several_guests_print_comes_line_by_line() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    consoles = LiveConsoles(wanted=True, stream=terminal)
    puts = [put for number in (1, 2) if (put := consoles.of(number)) is not None]
    for text in (b"ab", b"x\ny", b"c\n\xff"):
        for put, byte in ((puts[n & 1], byte) for n, byte in enumerate(text)):
            put(byte)
    consoles.finish()
    lines = terminal.getvalue().splitlines()
    assert sorted({line[:3] for line in lines}) == ["1| ", "2| "]
    assert "".join(line[3:] for line in lines if line[0] == "1") == "axyc\\xff"
    assert LiveConsoles(wanted=True, stream=io.StringIO()).of(1) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "hello", "hello"), "no VMM"),
        (("run", "hello", "hello", "--strategy", "vtx", "--step"), "for one guest"),
        (("run", "hello", "--slice", "5"), "several guests"),
    ],
)
def test_what_goes_with_one_guest_only(simvirt: Simvirt, words: tuple[str, ...], message: str) -> None:
    result = simvirt(*words)
    assert result.status == 2
    assert message in result.err
