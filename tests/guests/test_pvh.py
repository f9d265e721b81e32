"""PVH: the note, the start information by its published layout, and the entry, in files of both classes."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from simvirt.errors import ImageError
from simvirt.guests.image import BootModule, BootOptions, BootProtocol, ImageKind
from simvirt.guests.load import load
from simvirt.guests.recognise import BootKind, recognise
from simvirt.machine.machine import Outcome
from simvirt.observe.session import run
from tests.guests import qemu
from tests.guests.elf_maker import Header, Load, make_elf

MIB = 1 << 20
# cmp dword [ebx], 0x336ec578; jne +9; mov eax, 42; mov dx, 0xf4; out dx, eax; hlt
CHECKS_MAGIC = bytes.fromhex("813b 78c56e33 750c b82a000000 66baf400 ef f4 f4")
ENTRY = 0x100000


def note(entry: int = ENTRY, kind: int = 18, owner: bytes = b"Xen\0", size: int = 4) -> bytes:
    return struct.pack("<3I", len(owner), size, kind) + owner + entry.to_bytes(size, "little")


def elf_32(notes: bytes) -> bytes:
    return make_elf(Header(ENTRY + 0x800), [Load(ENTRY, CHECKS_MAGIC.ljust(0x1000, b"\xf4")), Load(0, notes, type=4)])


def elf_64(notes: bytes, machine: int = 62) -> bytes:
    """Elf64_Ehdr and Elf64_Phdr, field by field; linked high, loaded at 1 MiB."""
    body = CHECKS_MAGIC.ljust(0x1000, b"\xf4")
    body_at, notes_at = 64 + 2 * 56, 64 + 2 * 56 + len(body)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0xFFFFFFFF81000000, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    loaded = struct.pack("<IIQQQQQQ", 1, 7, body_at, 0xFFFFFFFF81000000, ENTRY, len(body), len(body), 0x1000)
    noted = struct.pack("<IIQQQQQQ", 4, 4, notes_at, 0, 0, len(notes), len(notes), 4)
    return ident + head + loaded + noted + body + notes


FILES = {"32-bit": elf_32(note()), "64-bit": elf_64(note()), "second note": elf_64(note(kind=1) + note(size=8))}


@pytest.mark.parametrize("strategy", ["bare-metal", "trap-and-emulate", "vtx"])
@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_the_kernel_is_entered_with_its_start_information(data: bytes, strategy: str) -> None:
    image = recognise(data, "kernel")
    assert (image.kind, image.boot, image.entry) == (ImageKind.PVH, BootProtocol.PVH, ENTRY)
    result = run(image, strategy)
    assert (result.outcome, result.guest_status) == (Outcome.FINISHED, 42)


@pytest.mark.skipif(not qemu.is_installed(), reason="qemu-system-i386 is not installed")
def test_qemu_enters_it_alike(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(elf_32(note()))
    assert qemu.run(path).guest_status == 42


def test_the_start_information_has_the_published_layout() -> None:
    modules = (BootModule("one", b"first"), BootModule("two quiet", b"second"))
    image = replace(recognise(elf_64(note()), "kernel"), options=BootOptions("console=ttyS0", modules))
    memory: dict[int, bytes] = {}
    state = load(image, 64 * MIB, memory.__setitem__)
    block = memory[state.ebx]

    def text(address: int) -> bytes:
        start = address - state.ebx
        return block[start : block.index(0, start)]

    magic, version, flags, count, modules_at, line, rsdp, ranges_at, ranges, reserved = struct.unpack_from(
        "<4I4Q2I", block
    )
    assert (magic, version, flags, count, rsdp, reserved) == (0x336EC578, 1, 0, 2, 0, 0)
    assert text(line) == b"console=ttyS0"
    for number, module in enumerate(modules):
        address, size, name, zero = struct.unpack_from("<4Q", block, modules_at - state.ebx + 32 * number)
        assert memory[address] == module.data
        assert (size, text(name), zero) == (len(module.data), module.name.encode(), 0)
        assert address % 4096 == 0
    found = [struct.unpack_from("<2Q2I", block, ranges_at - state.ebx + 24 * number) for number in range(ranges)]
    assert (MIB, 63 * MIB, 1, 0) in found
    assert (state.eax, state.entry) == (0, ENTRY)


@pytest.mark.parametrize("notes", [note(kind=17), note(owner=b"GNU\0"), note()[:-2], b"", b"\xff" * 16])
def test_without_the_note_there_is_no_entry(notes: bytes) -> None:
    assert recognise(elf_32(notes), "kernel").kind is ImageKind.ELF
    with pytest.raises(ImageError, match="64-bit ELF file for x86-64"):
        recognise(elf_64(notes), "kernel")
    with pytest.raises(ImageError, match="no PVH entry"):
        recognise(elf_32(notes), "kernel", BootKind.PVH)


def test_a_file_for_another_machine_and_an_entry_outside() -> None:
    with pytest.raises(ImageError, match="64-bit ELF file for AArch64"):
        recognise(elf_64(note(), machine=183), "kernel")
    with pytest.raises(ImageError, match="lies in none of its segments"):
        recognise(elf_64(note(0x500000)), "kernel")
