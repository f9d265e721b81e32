"""`run --step`, with its commands piped in."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import FlatGuest, Result, Simvirt

# MOV EAX, 12345678H; PUSH EAX; STC; CLI; JMP to itself
_CODE = b"\xb8\x78\x56\x34\x12\x50\xf9\xfa\xeb\xfe"


@pytest.fixture
def step(simvirt: Simvirt, flat: FlatGuest, monkeypatch: pytest.MonkeyPatch) -> Step:
    path = flat(_CODE)

    def call(commands: str, *words: str, guest: str = "", at_once: bool = True) -> Result:
        monkeypatch.setattr("sys.stdin", io.StringIO(commands))
        return simvirt("run", guest or path, *(["--step"] if at_once else []), *words)

    return call


class Step(Protocol):
    def __call__(self, commands: str, *words: str, guest: str = "", at_once: bool = True) -> Result: ...


def _stops(result: Result) -> list[str]:
    """The texts of the stops, each from its title on."""
    return result.out.split("── after ")[1:]


def test_each_step_is_one_instruction(step: Step) -> None:
    result = step("\ns\n\nq\n")
    assert (result.status, result.err) == (0, "")
    stops = _stops(result)
    assert [stop.split()[0] for stop in stops] == ["0", "1", "2", "3"]
    next_instructions = [next(line for line in stop.splitlines() if line.startswith(">")) for stop in stops]
    for line, text in zip(next_instructions, ("mov eax, 0x12345678", "push eax", "stc", "cli"), strict=True):
        assert text in line


def test_changes_are_marked(step: Step) -> None:
    before, moved, pushed, carried = _stops(step("\n\n\nq\n"))
    assert "*" not in before
    assert "EAX 12345678*" in moved
    assert "EAX 12345678 " in pushed
    assert "ESP 0007fffc*" in pushed
    assert "stack 0007fffc: 12345678" in pushed
    assert "[CF]" in carried
    assert "EFLAGS 00000003*" in carried


def test_several_at_once(step: Step) -> None:
    assert [stop.split()[0] for stop in _stops(step("n 3\nq\n"))] == ["0", "3"]


def test_to_the_end(step: Step) -> None:
    result = step("c\n", "--max-instructions", "1000")
    assert "limit" in result.out
    assert "1,000 instructions" in result.out


def test_the_end_of_the_commands_ends_the_run(step: Step) -> None:
    for commands in ("", "q\n"):
        assert "interrupted" in step(commands).out


def test_registers(step: Step) -> None:
    out = step("\nr\nq\n").out
    for name in ("EAX 12345678*", "CS.base 00000000", "GDTR.limit", "CR0 00000011", "DR7 00000400"):
        assert name in out
    assert "R15" not in out


def test_memory(step: Step) -> None:
    out = step("x 7c00 10\nx 100000 10\nx\nx main\nx 0 zz\nq\n").out
    assert _CODE.hex(" ") in out
    assert "x needs an address" in out
    assert "'main' is not an address" in out
    assert "'zz' is not a whole number" in out


# Page directory at 0x200000: 4 MiB page 0 maps itself, page 1 (0x400000) maps 0; then paging goes on.
_PAGING = bytes.fromhex(
    "c7 05 00 00 20 00 83 00 00 00"  # mov dword [0x200000], 0x83
    "c7 05 04 00 20 00 83 00 00 00"  # mov dword [0x200004], 0x83
    "b8 00 00 20 00 0f 22 d8"  # mov eax, 0x200000; mov cr3, eax
    "b8 10 00 00 00 0f 22 e0"  # mov eax, 0x10 (PSE); mov cr4, eax
    "0f 20 c0 0d 00 00 00 80 0f 22 c0"  # mov eax, cr0; or eax, 0x80000000; mov cr0, eax
    "90 f4"  # nop; hlt
)


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
def test_memory_through_page_tables(step: Step, flat: FlatGuest, strategy: str) -> None:
    guest = flat(_PAGING, "paging.bin")
    out = step("n 9\nx 500000 8\nx 200004 4\nx 800000 4\nq\n", "--strategy", strategy, guest=guest).out
    lines = out.splitlines()
    assert any(line.startswith("00500000  c7 05 00 00 20 00 83 00") for line in lines)
    # Only what the guest has touched itself is marked accessed: not the entry that was looked through.
    assert any(line.startswith("00200004  83 00 00 00") for line in lines)
    assert "no page is mapped here" in out
    assert "nop" in _stops(step("n 9\nq\n", "--strategy", strategy, guest=guest))[1]


def test_until_a_place(step: Step) -> None:
    stops = _stops(step("u guest_main\nu 100a00\nu nowhere\nu\nq\n", guest="triple-fault"))
    assert "guest_main" in stops[1].splitlines()[1]
    assert "> 00100a00" in stops[2]
    assert "'nowhere' is not an address" in stops[2]
    assert "u needs a symbol or an address" in stops[2]


def test_the_last_exit_stays_in_view(step: Step) -> None:
    result = step("n 30\n\nq\n", "--strategy", "trap-and-emulate", guest="hello")
    exits = [line for line in result.out.splitlines() if line.startswith("exit ")]
    assert len(exits) == 2
    assert all(" after " in line and " ns: " in line for line in exits)


def test_one_instruction(step: Step) -> None:
    assert _stops(step("\nq\n"))[1].startswith("1 instruction, ")


def test_unknown_commands_and_help(step: Step) -> None:
    out = step("jump\nh\nn\nn x\nq\n").out
    assert "unknown command 'jump'" in out
    assert "memory, x PLACE [SIZE]" in out
    assert "'x' is not a number of instructions" in out


@pytest.mark.parametrize("strategy", ["trap-and-emulate", "vtx"])
def test_the_last_exit_is_explained(step: Step, strategy: str) -> None:
    result = step("n 30\nc\n", "--strategy", strategy, guest="hello")
    assert result.status == 0
    stop = _stops(result)[1]
    assert "\nexit " in stop
    assert "SDM" in stop.split("\nexit ")[1]
    assert "finished" in result.out


def test_the_guest_does_not_notice(step: Step, simvirt: Simvirt) -> None:
    """Stopped before every instruction or not, the same instructions are counted and the same is printed."""
    whole = simvirt("run", "rings", "--json").json()
    result = step("n 100\n" * 3 + "\n" * 50 + "c\n", guest="rings")
    assert f"counted   {whole['counted']['instructions']:,} instructions" in result.out or (
        f"{whole['counted']['instructions']:,}" in result.out
    )
    assert whole["console"].splitlines()[-1] in result.out


def test_symbols_and_source_lines(step: Step) -> None:
    assert "_start lib/boot.S:" in " ".join(_stops(step("q\n", guest="hello"))[0].split())


# ---------------------------------------------------------------------------------------------------- back and forth


def test_back_is_where_it_was(step: Step) -> None:
    _, one, two, back, forth = _stops(step("\n\nback\ns\nq\n"))
    assert back.splitlines()[1] == one.splitlines()[1]
    assert forth.splitlines()[1] == two.splitlines()[1]
    assert "this is the beginning" in step("back\nq\n").out


@pytest.mark.parametrize("strategy", ["bare-metal", "trap-and-emulate", "vtx"])
def test_to_the_last_write_and_from_the_end_back(step: Step, strategy: str) -> None:
    commands = "c\nw ticks\nrc\ns\nrc\nrc\ndelete\nrc\nq\n"
    result = step(commands, "--strategy", strategy, guest="ticker")
    assert (result.status, result.err) == (0, "")
    _, end, last, after, again, before, beginning = _stops(result)
    assert "the run is over: finished" in end
    assert "stop 1: 4 bytes at ticks are written; it holds 0x9" in last
    assert "inc" in last.splitlines()[1]
    assert "on_tick" in after.splitlines()[1]
    assert again.splitlines()[1] == last.splitlines()[1]
    assert "it holds 0x8" in before
    assert beginning.startswith("0 instructions")


def test_goto_and_console_output_once(step: Step) -> None:
    result = step("g 1000\ng 200\ng 1000\nc\nq\n", guest="ticker")
    assert [stop.split()[0] for stop in _stops(result)] == ["0", "1,000", "200", "1,000", "1,803"]
    assert result.out.count("tick 5") == 2, "once as it comes, once with the result"


def test_stops_are_set_listed_and_taken_away(step: Step) -> None:
    out = step("b\nb on_tick\ne #DE\nw ticks 2\nb\nd 2\nd 9\nb\nc\nq\n", guest="ticker").out
    assert "no stops are set" in out
    listed = [line for line in out.splitlines() if line.startswith("stop ")]
    assert listed[:3] == ["stop 1: before on_tick", "stop 2: on #DE", "stop 3: 2 bytes at ticks are written"]
    assert listed[3:6] == listed[:3]
    assert listed[6:8] == [listed[0], listed[2]]
    assert "there is no stop 9" in out
    assert listed[8] == "stop 1: before on_tick"


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        ("b gest_main", "did you mean guest_main"),
        ("b xyzzy_plugh", "addresses are hexadecimal"),
        ("e #XX", "unknown exit reason or vector '#XX'"),
        ("t idt", "interrupt gate 32 DPL 0 to 0008:"),
        ("t ldt", "LDTR holds no LDT"),
        ("t tss", "TR holds no TSS"),
        ("t", "t needs one of gdt, ldt, idt, tss"),
        ("p 100000", "no paging"),
        ("k 4", "stack 0010"),
        ("x ticks 4", "00000000"),
        ("ex", "0 exits"),
        ("g", "g needs a number"),
        ("w", "w needs a symbol"),
        ("i", "i needs a text"),
    ],
)
def test_answers(step: Step, command: str, answer: str) -> None:
    assert answer in step(f"u on_tick\n{command}\nq\n", guest="ticker").out


def test_page_walks_show_every_entry(step: Step, flat: FlatGuest) -> None:
    out = step("n 9\np 500000\np 800000\nq\n", guest=flat(_PAGING, "paging.bin")).out
    assert "PDE 1" in out
    assert "page of 4 MiB, supervisor, writable; 1 memory reference" in out
    assert "guest-physical 0x100000" in out
    assert "no translation: the PDE is not present" in out


def test_break_at_runs_to_its_first_stop(step: Step) -> None:
    result = step("q\n", "--break-at", "on_tick", "--break-at", "put_string+2", guest="ticker", at_once=False)
    [stop] = _stops(result)
    assert "stop 1: before on_tick" in stop
    never = step("", "--break-at", "900000", guest="ticker", at_once=False)
    assert "finished" in never.out
    assert "over: finished" in never.out


@pytest.mark.parametrize(
    ("event", "strategy", "told"),
    [
        ("HLT", "vtx", "the VMM has dealt with exit 21, HLT"),
        ("cli", "trap-and-emulate", "CLI"),
        ("0x20", "bare-metal", "vector 0x20 has been delivered"),
    ],
)
def test_break_on(step: Step, event: str, strategy: str, told: str) -> None:
    assert told in _stops(step("q\n", "--break-on", event, "--strategy", strategy, guest="ticker", at_once=False))[0]


def test_bad_places_and_events_are_told(step: Step) -> None:
    for option, value in (("--break-at", "gest_main"), ("--break-on", "HALT")):
        result = step("", option, value, "--strategy", "vtx", guest="ticker")
        assert result.status == 2
        assert "did you mean" in result.err


def test_console_input_wakes_the_guest_and_can_be_undone(step: Step) -> None:
    result = step("n 20\ni abc\ns\nbk\nq\n", guest="ticker")
    assert result.status == 0
    assert [stop.split()[0] for stop in _stops(result)] == ["0", "20", "21", "20"]
