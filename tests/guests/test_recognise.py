from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simvirt.errors import ImageError
from simvirt.guests import recognise as module
from simvirt.guests.flat import LOAD_ADDRESS
from simvirt.guests.image import BootProtocol, ImageKind
from simvirt.guests.recognise import recognise

CODE = bytes.fromhex("b82a000000 66baf400 ef f4")


@pytest.mark.parametrize("name", ["guest", "guest.bin", "guest.IMG", "guest.flat", "guest.rom", "guest.com"])
def test_unrecognised_bytes_are_a_flat_binary(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(CODE)
    image = recognise(path)
    assert (image.kind, image.boot) == (ImageKind.FLAT, BootProtocol.PROTECTED_FLAT)
    assert image.entry == LOAD_ADDRESS == 0x100000
    assert (image.segments[0].gpa, image.segments[0].data) == (0x100000, CODE)
    assert (image.name, image.path) == (name, path)


def test_text_is_refused_unless_the_name_says_flat_binary(tmp_path: Path) -> None:
    source = tmp_path / "guest.S"
    source.write_text("mov eax, 42 ; größer\n", encoding="utf-8")
    with pytest.raises(ImageError, match="a text file"):
        recognise(source)
    flat = tmp_path / "printable.bin"
    flat.write_bytes(b"AAAA")  # inc ecx, four times
    assert recognise(flat).kind is ImageKind.FLAT


FOREIGN = {
    "PNG": b"\x89PNG\r\n\x1a\n" + bytes(20),
    "ZIP": b"PK\x03\x04" + bytes(20),
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "library of object files": b"!<arch>\n" + bytes(20),
    "Windows program": b"MZ".ljust(0x3C, b"\0") + (0x80).to_bytes(4, "little") + bytes(0x40) + b"PE\0\0" + bytes(20),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("suffix", ["", ".bin"])
def test_well_known_formats_are_refused_by_name(tmp_path: Path, what: str, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(FOREIGN[what])
    with pytest.raises(ImageError, match=f"{what}.*not a guest image") as caught:
        recognise(path)
    assert caught.value.path == str(path)


def test_mz_alone_is_code() -> None:
    assert recognise(b"MZ\xf4", "dec ebp, pop edx, hlt").kind is ImageKind.FLAT


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no such file"):
        recognise(tmp_path / "missing.elf")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="a directory"):
        recognise(tmp_path)


def test_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.bin"
    path.touch()
    with pytest.raises(ImageError, match="empty"):
        recognise(path)
    with pytest.raises(ImageError, match="empty"):
        recognise(b"")


def test_path_through_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(CODE)
    with pytest.raises(ImageError, match="cannot be read"):
        recognise(file / "below")


def test_null_character_in_a_path() -> None:
    with pytest.raises(ImageError, match="cannot be read"):
        recognise("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ImageError, match="not a regular file"):
        recognise(path)


def test_a_device_is_refused_without_reading() -> None:
    if not Path("/dev/zero").exists():
        pytest.skip("this system has no /dev/zero")
    with pytest.raises(ImageError, match="not a regular file"):
        recognise("/dev/zero")


def test_a_huge_file_is_refused_without_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.bin"
    with path.open("wb") as file:
        file.truncate(module.LARGEST_FILE + 1)  # sparse
    with pytest.raises(ImageError, match="too large"):
        recognise(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(min_size=1, max_size=600))
def test_any_bytes_are_an_image_or_an_image_error(data: bytes) -> None:
    try:
        image = recognise(data, "bytes")
    except ImageError:
        return
    assert image.segments[0].data
