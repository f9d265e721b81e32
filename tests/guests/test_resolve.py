from __future__ import annotations

from pathlib import Path

import pytest

from simvirt.errors import ImageError, UnknownNameError
from simvirt.guests.catalogue import IMAGES
from simvirt.guests.image import ImageKind
from simvirt.guests.resolve import resolve


def test_a_catalogue_name() -> None:
    assert resolve("popf-mask").name == "popf-mask"


def test_a_misspelt_name_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'popf-mask'"):
        resolve("popf_mask")


def test_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(IMAGES / "hello.elf").kind is ImageKind.MULTIBOOT
    assert resolve(str(IMAGES / "hello.elf")).name == "hello.elf"
    monkeypatch.chdir(tmp_path)
    Path("mine").write_bytes(b"\xf4")
    assert resolve("mine").kind is ImageKind.FLAT
    Path("hello").write_bytes(b"\xf4")
    assert resolve("hello").kind is ImageKind.MULTIBOOT  # the catalogue's
    assert resolve("./hello").kind is ImageKind.FLAT


def test_what_looks_like_a_path_is_one() -> None:
    with pytest.raises(ImageError, match="no such file"):
        resolve("hallo.elf")
