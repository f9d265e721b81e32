"""What a person types for a guest: a name of the catalogue, or a path."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from simvirt.errors import UnknownNameError
from simvirt.guests import catalogue
from simvirt.guests.image import BootModule, BootOptions
from simvirt.guests.recognise import BootKind, read_file, recognise
from simvirt.guests.symbol_file import read_symbols

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simvirt.guests.image import GuestImage


def resolve(
    name_or_path: str | Path,
    *,
    append: str = "",
    initrd: Sequence[str | Path] = (),
    boot: BootKind | str | None = None,
    symbols: str | Path | None = None,
) -> GuestImage:
    """The image that a catalogue name or a path stands for, with what its boot loader is to hand over.

    A catalogue name comes first; ``./hello`` is always the file. A word that is neither a name nor a file, and looks
    like no path, is taken for a misspelt name.

    >>> resolve("hello").name
    'hello'

    :param append: the kernel's command line.
    :param initrd: files for the boot loader to load: Linux's initial RAM disk, or multiboot modules. A multiboot module
        is told its name and what stands behind a blank: ``"shell.bin quiet"``.
    :param boot: how to take the file, whatever it looks like: a :class:`~simvirt.guests.recognise.BootKind`.
    :param symbols: a file with the guest's symbols (:mod:`~simvirt.guests.symbol_file`) instead of the image's own.
    :raises UnknownNameError: no such guest or kind.
    :raises ImageError: the path is no usable image, or a file of `initrd` or `symbols` cannot be read.
    """
    image = _image(name_or_path, _boot_kind(boot))
    if symbols is not None:
        image = replace(image, symbols=read_symbols(Path(symbols)))
    if not append and not initrd:
        return image
    return replace(image, options=BootOptions(append, tuple(_module(str(text)) for text in initrd)))


def _boot_kind(boot: BootKind | str | None) -> BootKind | None:
    if not isinstance(boot, str):
        return boot
    try:
        return BootKind(boot)
    except ValueError:
        raise UnknownNameError("kind of boot", boot, [kind.value for kind in BootKind]) from None


def _module(text: str) -> BootModule:
    path, _, _ = text.partition(" ") if not Path(text).exists() else (text, "", "")
    return BootModule(text, read_file(Path(path), "a boot module"))


def _image(name_or_path: str | Path, boot: BootKind | None) -> GuestImage:
    if isinstance(name_or_path, str):
        try:
            return catalogue.find(name_or_path).image()
        except UnknownNameError:
            looks_like_path = any(separator in name_or_path for separator in (os.sep, "/", ".", "\0"))
            if not looks_like_path and not Path(name_or_path).exists():
                raise
    return recognise(Path(name_or_path), boot=boot)
