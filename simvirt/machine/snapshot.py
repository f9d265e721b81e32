"""Snapshot files: a whole machine at one instruction, to go on from later, in another process or on another host.

::

    magic    8 bytes
    version  4 bytes, little-endian; of this layout and of what the parts below mean
    length   4 bytes, little-endian; of the header
    header   `Header` as MessagePack: which machine this is, and the length and SHA-256 of the body
    body     `MachineState` as MessagePack, compressed by zlib

A snapshot fits a machine that was built alike: the same strategy, CPU model and memory size. Everything that decides
what the guest will do next is in it; what a VMM counted about the past (its exit log) is not.

    >>> import tempfile
    >>> from pathlib import Path
    >>> from simvirt.machine.board import Board
    >>> from simvirt.machine.pc import bare_pc
    >>> from simvirt.x86.cpuid import find_cpu_model
    >>> identity = Identity("bare-metal", "core2", 1 << 20)
    >>> first, _ = bare_pc(Board, 1 << 20, find_cpu_model("core2"))
    >>> second, _ = bare_pc(Board, 1 << 20, find_cpu_model("core2"))
    >>> first.write_physical(0x500, b"hello")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dump(first, Path(folder) / "machine.snapshot", identity)
    ...     load(second, Path(folder) / "machine.snapshot", identity)
    >>> second.read_physical(0x500, 5)
    b'hello'
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from simvirt.errors import SnapshotError
from simvirt.machine.machine import MachineState

if TYPE_CHECKING:
    from pathlib import Path

    from simvirt.machine.machine import Machine

MAGIC: Final = b"simvirt\x1a"
FORMAT_VERSION: Final = 6
"""Raised whenever the layout, or the state of any part of a machine, changes."""

_COMPRESSION: Final = 1
_PREFIX: Final = len(MAGIC) + 8


@dataclass(frozen=True, slots=True)
class Identity:
    """What a machine was built from, and so which snapshots fit it."""

    strategy: str
    cpu_model: str
    memory_size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Header:
    """What stands in a snapshot's header."""

    simvirt: str
    """The version of simvirt that wrote it."""
    identity: Identity
    count: int
    """Instructions retired."""
    body_size: int
    body_sha256: str


def dump(machine: Machine, path: Path, identity: Identity) -> None:
    """Write the machine as it is now; a file that is there already is replaced in one go.

    :raises OSError: the file cannot be written.
    """
    state = machine.save()
    body = zlib.compress(msgspec.msgpack.encode(state), _COMPRESSION)
    header = msgspec.msgpack.encode(
        Header(_simvirt_version(), identity, state.count, len(body), sha256(body).hexdigest())
    )
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        file.write(MAGIC)
        file.write(FORMAT_VERSION.to_bytes(4, "little"))
        file.write(len(header).to_bytes(4, "little"))
        file.write(header)
        file.write(body)
    temporary.replace(path)


def inspect(path: Path) -> Header:
    """The header of a snapshot.

    :raises SnapshotError: it is none, or one of another format.
    :raises OSError: the file cannot be read.
    """
    return _parse(path, path.read_bytes())[0]


def load(machine: Machine, path: Path, identity: Identity) -> None:
    """Make `machine`, which was built as `identity` says, the machine that was saved. It is as it was if that fails.

    :raises SnapshotError: the file is no snapshot, damaged, of another format, or of another machine.
    :raises OSError: the file cannot be read.
    """
    header, body = _parse(path, path.read_bytes())
    for field in fields(Identity):
        saved, wanted = getattr(header.identity, field.name), getattr(identity, field.name)
        if saved != wanted:
            name = field.name.replace("_", " ")
            _refuse(
                path, f"it is of a machine with {name} {saved}, this one has {wanted}", f"start with {name} {saved}"
            )
    if len(body) != header.body_size or sha256(body).hexdigest() != header.body_sha256:
        _refuse(
            path,
            f"it is damaged: {len(body)} of {header.body_size} bytes, or not the ones that were written",
            "save again",
        )
    try:
        state = msgspec.msgpack.decode(zlib.decompress(body), type=MachineState)
        processor = msgspec.convert(state.processor, type(machine.processor.save()))
    except (zlib.error, msgspec.DecodeError) as error:
        _refuse(path, f"its state is not one of this version of simvirt ({error})", f"use simvirt {header.simvirt}")
    machine.restore(replace(state, processor=processor))


def _parse(path: Path, data: bytes) -> tuple[Header, bytes]:
    """The header and the body."""
    if data[: len(MAGIC)] != MAGIC:
        _refuse(path, "it is no snapshot of simvirt", "give a file that was saved by simvirt")
    if len(data) < _PREFIX:
        _refuse(path, "it ends within its header", "save again")
    found = int.from_bytes(data[len(MAGIC) : len(MAGIC) + 4], "little")
    if found != FORMAT_VERSION:
        _refuse(
            path, f"it has format {found}, this simvirt reads format {FORMAT_VERSION}", "use the simvirt that wrote it"
        )
    end = _PREFIX + int.from_bytes(data[_PREFIX - 4 : _PREFIX], "little")
    try:
        header = msgspec.msgpack.decode(data[_PREFIX:end], type=Header)
    except msgspec.DecodeError as error:
        _refuse(path, f"its header is damaged ({error})", "save again")
    return header, data[end:]


def _refuse(path: Path, reason: str, advice: str) -> NoReturn:
    raise SnapshotError(f"{path} cannot be restored: {reason}; {advice}")


def _simvirt_version() -> str:
    try:
        return version("simvirt")
    except PackageNotFoundError:  # run from a source tree
        return "unknown"
