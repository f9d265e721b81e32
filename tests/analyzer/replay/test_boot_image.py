"""Witnesses replayed by QEMU: the evidence that what was observed here is not an accident of the engine."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from simvirt.analyzer.model.analysis import Analysis
from simvirt.analyzer.model.experiment import Witness
from simvirt.analyzer.model.properties import SENSITIVE
from simvirt.analyzer.probe.executors import open_executor
from simvirt.analyzer.probe.sweep import machine_of, sweep
from simvirt.analyzer.replay import build
from simvirt.analyzer.replay.boot_image import boot_image, obstacle, write_boot_image
from simvirt.analyzer.replay.report import Replayed, disagreements, parse
from simvirt.analyzer.x86 import layout
from simvirt.errors import UnsupportedError, UsageError
from tests.guests import qemu

needs_qemu = pytest.mark.skipif(not qemu.is_installed(), reason="QEMU is not installed")

CPU = "pentium3"
MODERN_CPU = "max,vendor=GenuineIntel"
NOT_REPLAYED = {"cpuid"}
"""Forms of which no program can set up the pair."""
UNDEFINED = {"smsw-r32m16": "[0]"}
"""Forms whose result the manual leaves open in part: SMSW of a 32-bit register, bits 31:16 (SDM Vol. 2B "SMSW")."""
QEMUS_OWN = {
    "int3": "#GP",  # in 64-bit mode the error code of a gate's #GP is the vector times 16 (SDM Vol. 3A §6.13: times 8)
    "int-imm8": "#GP",
    "fxsave-m512byte": "[0x5008]",  # FIP is stored as 0 (SDM Vol. 1 Table 10-2)
    "fxsave64-m512byte": "[0x5008]",
    "lss-r64-m1664": "",  # with REX.W the operand is read as m16:32, as AMD's processors do (SDM Vol. 2A "LSS": m16:64)
    "lfs-r64-m1664": "",
    "lgs-r64-m1664": "",
}
"""Where QEMU departs from Intel's manual: forms, and what is in all of their differences."""
AT_ONCE = 100


def _replay(
    witnesses: list[Witness], file: Path, cpu: str = CPU, emulator: str = qemu.EMULATOR
) -> list[tuple[Witness, tuple[Replayed, ...]]]:
    """QEMU's runs of each witness; one boot serves many."""
    found = []
    for first in range(0, len(witnesses), AT_ONCE):
        part = witnesses[first : first + AT_ONCE]
        file.write_bytes(boot_image(part))
        command = [emulator, "-drive", f"file={file},format=raw,snapshot=on", "-cpu", cpu, "-no-reboot"]
        command += ["-serial", "stdio", "-display", "none", "-monitor", "none", "-nic", "none"]
        command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
        done = subprocess.run(command, capture_output=True, timeout=100, check=False, stdin=subprocess.DEVNULL)
        runs = parse(done.stdout.decode("ascii", "replace"))
        assert done.returncode == 1
        found += [(witness, runs[2 * number : 2 * number + 2]) for number, witness in enumerate(part)]
    return found


def _witnesses(analysis: Analysis) -> list[Witness]:
    claims = [one.claim(which) for one in analysis.critical() for which in SENSITIVE if one.holds(which)]
    return [witness for claim in claims for witness in claim.witnesses]


@needs_qemu
def test_qemu_agrees_with_every_witness_of_a_critical_form(
    pentium: Analysis, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    witnesses = [witness for witness in _witnesses(pentium) if not obstacle("x86-32", witness)]
    found = {}
    for witness, runs in _replay(witnesses, tmp_path / "disk.img"):
        differing = disagreements(witness, runs)
        if witness.form.identifier in UNDEFINED:
            differing = [text for text in differing if not _in_upper_half(text)]
        if differing:
            found[witness.identifier] = differing
    total = len(_witnesses(pentium))
    record_property(
        "agreement", f"{len(witnesses) - len(found)} of {len(witnesses)}, {total - len(witnesses)} not replayed"
    )
    assert found == {}
    assert total - len(witnesses) <= total // 50
    replayed = {witness.form.identifier for witness in witnesses}
    assert {one.form.identifier for one in pentium.critical()} - replayed == NOT_REPLAYED


QUICK_64 = (
    "popfq", "pushfq", "iretq", "retfq-imm16", "sysenter", "syscall", "sgdt-m1664", "mov-rm16-sreg", "mov-sreg-r64m16",
    "lar-r64-r64m16", "call-m1632", "smsw-r64m16", "int-imm8",
)  # fmt: skip


def _disagreeing(isa: str, analysis: Analysis, file: Path) -> dict[str, list[str]]:
    """The witnesses of critical forms that QEMU disagrees with, but for what is open and what is QEMU's own."""
    emulator = qemu.LONG_MODE_EMULATOR if isa == "x86-64" else qemu.EMULATOR
    witnesses = [witness for witness in _witnesses(analysis) if not obstacle(isa, witness)]
    assert witnesses
    found = {}
    for witness, runs in _replay(witnesses, file, MODERN_CPU, emulator):
        differing = disagreements(witness, runs)
        form = witness.form.identifier
        if form in UNDEFINED:
            differing = [text for text in differing if not _in_upper_half(text)]
        if differing and not (form in QEMUS_OWN and all(QEMUS_OWN[form] in text for text in differing)):
            found[witness.identifier] = differing
    return found


@needs_qemu
def test_qemu_agrees_with_witnesses_of_64_bit_code(tmp_path: Path) -> None:
    analysis = sweep("x86-64", forms=[machine_of("x86-64").form(name) for name in QUICK_64])
    assert {one.form.identifier for one in analysis.critical()} == set(QUICK_64)
    assert _disagreeing("x86-64", analysis, tmp_path / "disk.img") == {}


@needs_qemu
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("isa", ["x86-32-modern", "x86-64"])
def test_qemu_agrees_with_the_processors_of_today(isa: str, tmp_path: Path) -> None:
    with open_executor() as executor:
        analysis = sweep(isa, executor)
    assert _disagreeing(isa, analysis, tmp_path / "disk.img") == {}


def _in_upper_half(text: str) -> bool:
    values = re.fullmatch(r"run \d: ECX = (\d+) here, (\d+) there", text)
    return values is not None and int(values[1]) & 0xFFFF == int(values[2]) & 0xFFFF


@needs_qemu
def test_a_false_witness_is_found_out(tmp_path: Path) -> None:
    """A replay that agreed with everything would show nothing."""
    popf, pushf = (
        next(iter(_witnesses(sweep("x86-32", forms=[machine_of("x86-32").form(name)])))) for name in ("popfd", "pushfd")
    )
    [(_, runs), (_, others)] = _replay([popf, pushf], tmp_path / "disk.img")
    assert disagreements(popf, runs) == []
    assert disagreements(pushf, others) == []
    assert disagreements(popf, others) != []
    assert disagreements(popf, runs[::-1]) != []


def test_an_image_is_a_disk_that_boots(tmp_path: Path) -> None:
    analysis = sweep("x86-32", forms=[machine_of("x86-32").form("popfd")])
    file = tmp_path / "disk.img"
    write_boot_image("x86-32", _witnesses(analysis)[0], file)
    content = file.read_bytes()
    assert content[510:512] == b"\x55\xaa"
    assert len(content) % (1 << 20) == 0


def test_what_cannot_be_replayed_says_why(tmp_path: Path) -> None:
    witness = _witnesses(sweep("x86-32", forms=[machine_of("x86-32").form("cpuid")]))[0]
    with pytest.raises(UnsupportedError, match="no program can set"):
        write_boot_image("x86-32", witness, tmp_path / "disk.img")
    with pytest.raises(UnsupportedError, match="for the x86"):
        write_boot_image("arm", witness, tmp_path / "disk.img")
    witness = _witnesses(sweep("x86-32", forms=[machine_of("x86-32").form("pushfd")]))[0]
    with pytest.raises(UsageError, match="cannot be written"):
        write_boot_image("x86-32", witness, tmp_path / "no" / "disk.img")


def test_an_image_is_of_one_kind_of_code() -> None:
    mixed = [
        _witnesses(sweep(isa, forms=[machine_of(isa).form(form)]))[0]
        for isa, form in (("x86-32", "pushfd"), ("x86-64", "pushfq"))
    ]
    with pytest.raises(UnsupportedError, match="of 32-bit code, or of 64-bit code"):
        boot_image(mixed)


def test_output_that_breaks_off() -> None:
    with pytest.raises(UsageError, match="did not come to its end"):
        parse("simvirt witness runs count=00000002\nrun number=00000000")


def test_the_runner_s_layout_is_the_analyzer_s() -> None:
    text = (build.RUNNER / "layout.h").read_text()
    defined = {name: int(value, 16) for name, value in re.findall(r"#define (\w+) (0x[0-9a-f]+)", text)}
    assert defined["IO_BITMAP"] == layout.IO_BITMAP_BYTE
    assert defined["PRISTINE_SIZE"] == layout.MEMORY_SIZE
    assert defined["COPROCESSOR"] == layout.COPROCESSOR_CODE
    for name in ("GDT", "GDT_B", "HANDLERS", "TABLES", "TABLES_B", "OTHER_MAP"):
        assert defined[name] == getattr(layout, name)


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="the ziglang package is not installed")
@pytest.mark.long
def test_the_runner_is_built_from_its_source() -> None:
    assert build.build() == tuple((build.RUNNER / name).read_bytes() for name in build.NAMES)
