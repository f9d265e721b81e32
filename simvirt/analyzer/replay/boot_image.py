"""Witnesses as a disk image that a PC boots: QEMU, Bochs, or a real one.

The image sets up 32-bit protected mode with paging and with each start state in turn, lets the one instruction run, and
reports over COM1 and port E9h what each run came to; then it writes to the debug-exit port F4h, and halts where there
is none. The instruction runs where it ran here: the same tables, the same linear addresses, INT3 wherever control can
go next.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.analyzer.x86 import layout
from simvirt.analyzer.x86.components import (
    ADDRESS_MAP,
    COPROCESSOR_CODE_SEGMENT,
    IO_BITMAP,
    MODE,
    OWN,
    PORT,
    PROCESSOR,
    TIME_STAMP,
)
from simvirt.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simvirt.analyzer.model.experiment import Witness
    from simvirt.analyzer.model.state import State

RUNNER_AT, PRISTINE_AT, RUNS_AT = 0x30000, 0x40000, 0x70000
END: Final = 0x98000
SECTOR: Final = 512
_NOT_FROM_WITHIN: Final = frozenset({PROCESSOR, TIME_STAMP, PORT})
"""Components that a program cannot set on a machine: pairs that differ in them are not replayed."""
_CR0_BITS: Final = {"MP": 1, "EM": 2, "TS": 3, "NE": 5, "WP": 16, "AM": 18}
_CR4_BITS: Final = {"TSD": 2, "DE": 3, "PCE": 8, "OSFXSR": 9, "OSXMMEXCPT": 10, "UMIP": 11, "FSGSBASE": 16}
_IF, _IOPL = 9, 12


def obstacle(isa: str, witness: Witness) -> str:
    """Why a witness cannot be replayed by an image, "" if it can."""
    component = witness.observation.pair.component.name
    if not isa.startswith("x86-32"):
        return f"images are made for the 32-bit x86, not for {isa}"
    if component in _NOT_FROM_WITHIN:
        return f"no program can set what its two states differ in ({component})"
    return ""


def write_boot_image(isa: str, witness: Witness, file: str | Path) -> None:
    """Write an image that makes both runs of one witness.

    Raises:
        UnsupportedError: no image can make these runs.
        UsageError: the file cannot be written.
    """
    if reason := obstacle(isa, witness):
        raise UnsupportedError(f"{witness.identifier}: {reason}")
    try:
        Path(file).write_bytes(boot_image([witness]))
    except OSError as error:
        raise UsageError(f"{file}: cannot be written ({error.strerror})") from error


def boot_image(witnesses: Sequence[Witness]) -> bytes:
    """The disk: boot sector, runner, memory at the start, and two runs for each witness, in their order.

    Raises:
        UnsupportedError: so many runs do not fit.
    """
    runner = Path(__file__).parent / "runner"
    runs = [
        (start, reported_cells(witness))
        for witness in witnesses
        for start in (witness.observation.pair.first, witness.observation.pair.second)
    ]
    disk = bytearray(END - RUNNER_AT)
    parts = (
        (RUNNER_AT, (runner / "runner.bin").read_bytes()),
        (PRISTINE_AT, layout.memory_image(32)),
        (RUNS_AT, struct.pack("<I", len(runs)) + b"".join(_run(*run) for run in runs)),
    )
    for at, content in parts:
        if at == RUNS_AT and len(content) > END - RUNS_AT:
            raise UnsupportedError(f"{len(witnesses)} witnesses do not fit into one image")
        disk[at - RUNNER_AT : at - RUNNER_AT + len(content)] = content
    image = (runner / "boot.bin").read_bytes() + bytes(disk)
    return image + bytes(-len(image) % (1 << 20))  # whole MiB, as disks come


def reported_cells(witness: Witness) -> list[int]:
    """The addresses of the words of memory that both runs of a witness report: all that any of its states shows."""
    seen = witness.observation
    states = (seen.pair.first, seen.pair.second, *(outcome.end for outcome in seen.outcomes))
    names = {
        name for state in states for name, value in state.items() if name.startswith("[") and isinstance(value, int)
    }
    return sorted(int(name[1:-1], 16) for name in names)


def _number(start: State, name: str) -> int:
    value = start[name]
    if not isinstance(value, int):
        raise UnsupportedError(f"the start state has {name} = {value!r}, which an image does not set up")
    return value


def _run(start: State, cells: Sequence[int]) -> bytes:
    cpl = _number(start, MODE)
    cr0 = _number(start, "CR0") | sum(_number(start, f"CR0.{name}") << bit for name, bit in _CR0_BITS.items())
    cr4 = _number(start, "CR4") | sum(_number(start, f"CR4.{name}") << bit for name, bit in _CR4_BITS.items())
    flags = _number(start, "EFLAGS") | _number(start, "EFLAGS.IF") << _IF | _number(start, "EFLAGS.IOPL") << _IOPL
    general = [_number(start, name) for name in ("EAX", "ECX", "EDX", "EBX", "ESP", "EBP", "ESI", "EDI")]
    bitmap = {"denies": layout.IO_DENIED, "allows": layout.IO_ALLOWED}[str(start[IO_BITMAP])]
    patches = [(int(name[1:-1], 16), _bytes(value)) for name, value in start.items() if name.startswith("[")]
    coprocessor = start[COPROCESSOR_CODE_SEGMENT] == OWN and not _number(start, "CR0.EM") | _number(start, "CR0.TS")
    head = struct.pack(
        "<15I6IHIHI4I",
        *general,
        _number(start, "EIP"),
        flags,
        layout.CODE_SEGMENTS[cpl],
        layout.STACK_SEGMENTS[cpl],
        _number(start, "DS"),
        cpl,
        layout.COPROCESSOR_CODE if coprocessor else _number(start, "EIP"),
        cr0,
        _number(start, ADDRESS_MAP),
        cr4,
        _number(start, "LDTR"),
        _number(start, "TR"),
        _number(start, "DR0"),
        _number(start, "GDTR.limit"),
        _number(start, "GDTR.base"),
        _number(start, "IDTR.limit"),
        _number(start, "IDTR.base"),
        bitmap,
        int(coprocessor),
        len(patches),
        len(cells),
    )
    body = b"".join(struct.pack("<II", address, len(content)) + content for address, content in patches)
    return head + body + struct.pack(f"<{len(cells)}I", *cells)


def _bytes(value: object) -> bytes:
    content = value if isinstance(value, bytes) else int(str(value)).to_bytes(4, "little")
    return content + bytes([layout.FILLER]) * (-len(content) % 4)
