from __future__ import annotations

from pathlib import Path

import pytest

from simvirt.errors import UnsupportedError, UsageError
from simvirt.guests import build as module
from simvirt.guests.build import BuildError, Toolchain, available, build
from simvirt.guests.image import BootProtocol
from simvirt.guests.recognise import recognise
from simvirt.x86.addresses import Gva
from tests.guests import qemu

toolchains = pytest.mark.parametrize("toolchain", [Toolchain.ZIGLANG, Toolchain.GCC], ids=lambda tool: tool.value)

C = """
#include "guest.h"
u32 guest_main(void) { put_string("from C\\n"); return 7; }
"""
ASSEMBLY = """
    .intel_syntax noprefix
    .globl guest_main
guest_main:
    mov eax, 9
    ret
"""
OWN_START = """
    .section .multiboot, "a"
    .long 0x1badb002, 0, -0x1badb002
    .text
    .globl _start
_start:
    movl $11, %eax
    movw $0xf4, %dx
    outl %eax, %dx
    hlt
"""


def _need(toolchain: Toolchain) -> None:
    if toolchain not in available():
        pytest.skip(f"{toolchain.value} is not installed")


def _write(directory: Path, name: str, text: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


@toolchains
def test_c_and_assembly_run(tmp_path: Path, toolchain: Toolchain) -> None:
    _need(toolchain)
    image = build(_write(tmp_path, "c.c", C), tmp_path / "out" / "c.elf", toolchain)
    other = build(_write(tmp_path, "a.S", ASSEMBLY), tmp_path / "a.elf", toolchain)
    assert recognise(image).boot is recognise(other).boot is BootProtocol.MULTIBOOT
    if qemu.is_installed():
        run = qemu.run(image)
        assert (run.guest_status, run.console) == (7, "from C\n")
        assert qemu.run(other).guest_status == 9


@toolchains
def test_a_guest_with_its_own_start_gets_no_runtime(tmp_path: Path, toolchain: Toolchain) -> None:
    _need(toolchain)
    path = build(_write(tmp_path, "own.S", OWN_START), tmp_path / "own.elf", toolchain)
    image = recognise(path)
    assert image.symbols.address("put_char") is None
    assert image.symbols.lookup(Gva(image.entry)) == ("_start", 0)
    if qemu.is_installed():
        assert qemu.run(path).guest_status == 11


@toolchains
def test_the_image_does_not_depend_on_the_place(tmp_path: Path, toolchain: Toolchain) -> None:
    _need(toolchain)
    images = []
    for place in ("one", "another/and/deeper"):
        folder = tmp_path / place / "guest"
        _write(folder, "main.c", C)
        _write(folder, "more.S", ".globl more\nmore: ret\n")
        images.append(build(folder, folder / "image.elf", toolchain).read_bytes())
    assert images[0] == images[1]


@toolchains
def test_a_broken_source_shows_what_the_compiler_said(tmp_path: Path, toolchain: Toolchain) -> None:
    _need(toolchain)
    source = _write(tmp_path, "bad.c", "u32 guest_main(void) { return }")
    with pytest.raises(BuildError, match=r"compiling bad\.c failed") as caught:
        build(source, tmp_path / "x.elf", toolchain)
    assert "bad.c:1" in caught.value.output
    assert not (tmp_path / "x.elf").exists()


def test_a_missing_function_is_the_linkers_to_tell(tmp_path: Path) -> None:
    _need(Toolchain.ZIGLANG)
    with pytest.raises(BuildError, match="linking failed") as caught:
        build(_write(tmp_path, "empty.c", "int x;"), tmp_path / "x.elf", Toolchain.ZIGLANG)
    assert "guest_main" in caught.value.output


def test_sources_that_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        build(tmp_path / "none.c", tmp_path / "x.elf")
    with pytest.raises(UsageError, match="not a source"):
        build(_write(tmp_path, "notes.txt", "x"), tmp_path / "x.elf")
    with pytest.raises(UsageError, match="no source in this directory"):
        build(tmp_path, tmp_path / "x.elf")
    with pytest.raises(UsageError, match="nothing to build"):
        build([], tmp_path / "x.elf")


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    _need(Toolchain.ZIGLANG)
    file = _write(tmp_path, "a.c", C)
    with pytest.raises(UsageError, match="cannot write"):
        build(file, file / "below.elf", Toolchain.ZIGLANG)


@pytest.mark.parametrize("toolchain", Toolchain)
def test_without_a_toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toolchain: Toolchain) -> None:
    monkeypatch.setattr(module, "_ziglang", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert available() == ()
    with pytest.raises(UnsupportedError, match=r"cannot build guests.*simvirt\[build\]"):
        build(_write(tmp_path, "a.c", C), tmp_path / "x.elf", toolchain)
