"""The guests tutor and tutor-trapping: one operating system at its shell, beside QEMU and under every strategy."""

from __future__ import annotations

import pytest

import simvirt
from simvirt.guests import catalogue
from simvirt.guests.image import GuestImage
from simvirt.machine.machine import Outcome
from simvirt.observe.comparison import Equivalence
from simvirt.x86.addresses import Gva
from simvirt.x86.decode import decode
from simvirt.x86.instruction import Bits
from simvirt.x86.sensitivity import classify
from tests.guests import qemu

FLAVOURS = ["tutor", "tutor-trapping"]
SESSION = (
    "lx\bs\n"  # mistyped
    "cat poem > copy\nwc < copy\nsort < copy | cat | wc\nls -l | sort\nremove copy\ncat copy\n"
    "crash cli\ncrash divide\ncrash float\ncrash code\ncrash kernel\nnothing here\nsort < none\n"
    "measure turn 3\nmeasure exec 2\nmeasure nothing\n"
    "preempt &\nprimes\nhelp\necho one two   three # four\n"
    "shell\necho inner\nexit 7\nexit 3\n"
)
PROMPT = "ended\nstatus 255\n$ "


def _characters(console: str) -> str:
    """What was printed, but for the order: two programs that run at once print when their turns come."""
    return "".join(sorted(console))


@pytest.mark.skipif(not qemu.is_installed(), reason="qemu-system-i386, the reference, is not installed")
@pytest.mark.parametrize("name", FLAVOURS)
def test_a_session_is_as_on_qemu(name: str) -> None:
    entry = catalogue.find(name)
    theirs = qemu.run(entry.image_path, typed=SESSION, prompt=PROMPT)
    ours = simvirt.run(name, input=SESSION, memory="4M")
    assert (ours.outcome, ours.guest_status, theirs.guest_status) == (Outcome.FINISHED, 3, 3)
    assert _characters(ours.console) == _characters(theirs.console)
    for line in ("4 25 140", "process 28 did what it may not, exception 13: ended", "one two three", "status 7"):
        assert f"\n{line}\n" in ours.console


@pytest.mark.parametrize("memory", ["3M", "64M"])
def test_the_trapping_flavour_is_equivalent_under_every_strategy(memory: str) -> None:
    comparison = simvirt.compare("tutor-trapping", input=SESSION, memory=memory)
    assert {verdict.equivalence for verdict in comparison.verdicts.values()} == {Equivalence.EQUIVALENT}
    assert {run.guest_status for run in comparison.runs} == {3}
    assert len({run.console for run in comparison.runs}) == 1


def test_the_usual_flavour_parts_at_a_critical_instruction_under_trap_and_emulate_alone() -> None:
    comparison = simvirt.compare("tutor")
    verdicts = comparison.verdicts
    assert verdicts["vtx"].equivalence is Equivalence.EQUIVALENT
    divergence = verdicts["trap-and-emulate"].first_divergence
    assert divergence is not None
    assert (divergence.symbol, divergence.mnemonic) == ("site_pushf", "pushfd")
    critical = simvirt.analyze("x86-32", form="pushf", jobs=1).critical()
    assert "PUSHFD" in {form.form.text for form in critical}


def _kernel(image: GuestImage) -> list[tuple[str, bytes, int]]:
    """The kernel's code, instruction by instruction, with the source files."""
    code, lines = image.segments[0], image.lines
    assert lines is not None
    at, found = next(iter(image.symbols)).address - code.gpa, []
    while at < len(code.data):
        window = code.data[at : at + 15]
        line = lines.lookup(Gva(code.gpa + at))
        length = decode(window, code.gpa + at, Bits.CODE_32).length or 1
        if line is not None:
            found.append((line[0], window[:length], code.gpa + at))
        at += length
    return found


@pytest.mark.parametrize("name", FLAVOURS)
def test_privileged_operations_are_in_one_file(name: str) -> None:
    """All that is privileged or sensitive, by the table of the analyzer; INT and calls of C are not."""
    files = set()
    for file, code, address in _kernel(catalogue.find(name).image()):
        instruction = decode(code, address, Bits.CODE_32)
        if instruction.is_privileged or classify(instruction) is not None:
            files.add(file)
    assert files == {"tutor/privileged.S"}


def test_only_the_privileged_file_knows_the_flavours() -> None:
    folder = catalogue.find("tutor").source_folder
    telling = {path.name for path in folder.rglob("*.[chS]") if "TRAPPING" in path.read_text(encoding="utf-8")}
    assert telling == {"privileged.S"}


def test_the_map_names_every_file() -> None:
    folder = catalogue.find("tutor").source_folder
    page = folder.joinpath("README.md").read_text(encoding="utf-8")
    assert [path.name for path in folder.glob("*.[chS]") if f"`{path.name}`" not in page] == []


def test_the_shell_is_reached_while_everybody_sleeps() -> None:
    """No tick wakes the processor while no process sleeps for a time: so the run ends, and a person can go on."""
    run = simvirt.run("tutor", "vtx", trace=True)
    assert run.outcome is Outcome.WAITING_FOR_INPUT
    assert run.console == catalogue.find("tutor").console
    assert run.counted.instructions < 6_000_000
