"""The guests tutor and tutor-trapping: one operating system at its shell, beside QEMU and under every strategy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import simvirt
from simvirt.guests import build as build_module
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


HOG = """
#include "tutor.h"
static int attempt(unsigned pages) {
    char *nothing[] = {"measure", 0};
    int status = 0, child = fork();
    if (child < 0)
        return 1;
    if (child == 0) {
        char *memory = grow(pages * 4096);
        for (unsigned page = 0; page < pages; page++)
            memory[page * 4096] = 1;
        exec("measure", nothing);
        exit(1);
    }
    wait(&status);
    return status;
}
int main(void) {
    unsigned most = 0, failed = 0;
    for (unsigned pages = 150; failed < 40; pages++) {
        if (attempt(pages))
            failed++;
        else if (!failed)
            most = pages;
    }
    print(most && attempt(most) == 0 ? "nothing is lost\\n" : "memory is lost\\n");
    return 0;
}
"""
"""Forks children that take more and more memory, and then become another program: until there is none for that."""


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
    critical = simvirt.analyze("x86-32", form=divergence.mnemonic, jobs=1).critical()
    assert divergence.mnemonic.upper() in {form.form.text for form in critical}


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


@pytest.mark.skipif(not build_module.available(), reason="no toolchain")
def test_a_program_that_takes_all_memory_is_ended_and_all_of_it_comes_back(tmp_path: Path) -> None:
    """Also where exec fills one address space and the other has not been given up yet."""
    folder = tmp_path / "tutor"
    shutil.copytree(catalogue.find("tutor").source_folder, folder)
    (folder / "programs" / "hog.c").write_text(HOG, encoding="utf-8")
    listing = folder / "programs.S"
    text = listing.read_text(encoding="utf-8")
    listing.write_text(text.replace("    file crash, crash\n", "    file crash, crash\n    file hog, hog\n"), "utf-8")
    image = build_module.build(folder, tmp_path / "tutor.elf")
    run = simvirt.run(image, input="hog\nexit 5\n", memory="2M")
    assert "nothing is lost\n" in run.console
    assert run.guest_status == 5


def test_the_shell_is_reached_while_everybody_sleeps() -> None:
    """No tick wakes the processor while no process sleeps for a time: so the run ends, and a person can go on."""
    run = simvirt.run("tutor", "vtx", trace=True)
    assert run.outcome is Outcome.WAITING_FOR_INPUT
    assert run.console == catalogue.find("tutor").console
    assert run.counted.instructions < 6_000_000
