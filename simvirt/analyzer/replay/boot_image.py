"""Witnesses as a disk image that a PC boots: QEMU, Bochs, or a real one.

The image sets up 32-bit protected mode or 64-bit mode, with paging and with each start state in turn, lets the one
instruction run, and reports over COM1 and port E9h what each run came to; then it writes to the debug-exit port F4h,
and halts where there is none. The instruction runs where it ran here: the same tables, the same linear addresses, INT3
wherever control can go next.
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
from simvirt.analyzer.x86.variants import VARIANTS
from simvirt.errors import UnsupportedError, UsageError
from simvirt.x86.msrs import Msr
from simvirt.x86.registers import GeneralRegister

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simvirt.analyzer.model.experiment import Witness
    from simvirt.analyzer.model.state import State

RUNNER_AT, PRISTINE_AT, RUNS_AT = 0x30000, 0x40000, 0x70000
END: Final = 0x98000
SECTOR: Final = 512
_ISAS: Final = frozenset(variant.name for variant in VARIANTS)
_NOT_FROM_WITHIN: Final = frozenset({PROCESSOR, TIME_STAMP, PORT})
"""Components that a program cannot set on a machine: pairs that differ in them are not replayed."""
_CR0_BITS: Final = {"MP": 1, "EM": 2, "TS": 3, "NE": 5, "WP": 16, "AM": 18}
_CR4_BITS: Final = {"TSD": 2, "DE": 3, "PCE": 8, "OSFXSR": 9, "OSXMMEXCPT": 10, "UMIP": 11, "FSGSBASE": 16}
_IF, _IOPL = 9, 12


def obstacle(isa: str, witness: Witness) -> str:
    """Why a witness cannot be replayed by an image, "" if it can."""
    component = witness.observation.pair.component.name
    if isa not in _ISAS:
        return f"images are made for the x86, not for {isa}"
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
        UnsupportedError: so many runs do not fit, or they are of 32-bit and of 64-bit code.
    """
    runner = Path(__file__).parent / "runner"
    starts = [
        (start, reported_cells(witness))
        for witness in witnesses
        for start in (witness.observation.pair.first, witness.observation.pair.second)
    ]
    widths = {bits_of(start) for start, _ in starts}
    if len(widths) != 1:
        raise UnsupportedError("one image makes runs of 32-bit code, or of 64-bit code")
    bits = widths.pop()
    msrs = _model_specific_registers([start for start, _ in starts])
    runs = struct.pack("<I", len(starts)) + b"".join(_run(start, bits, msrs, cells) for start, cells in starts)
    disk = bytearray(END - RUNNER_AT)
    parts = (
        (RUNNER_AT, (runner / ("runner64.bin" if bits == 64 else "runner.bin")).read_bytes()),
        (PRISTINE_AT, layout.memory_image(bits)),
        (RUNS_AT, runs),
    )
    for at, content in parts:
        if at == RUNS_AT and len(content) > END - RUNS_AT:
            raise UnsupportedError(f"{len(witnesses)} witnesses do not fit into one image")
        disk[at - RUNNER_AT : at - RUNNER_AT + len(content)] = content
    image = (runner / "boot.bin").read_bytes() + bytes(disk)
    return image + bytes(-len(image) % (1 << 20))  # whole MiB, as disks come


def bits_of(start: State) -> int:
    """Of code in this state: 32 or 64."""
    return 64 if "RIP" in start else 32


def general_names(bits: int) -> list[str]:
    """The general registers, by their numbers."""
    registers = GeneralRegister if bits == 64 else tuple(GeneralRegister)[:8]
    return [register.name_at(bits).upper() for register in registers]


def _model_specific_registers(starts: Sequence[State]) -> tuple[str, ...]:
    """Those that some run sets otherwise than they are after a reset: all runs set them, and no others."""

    def differs(name: str) -> bool:
        at_reset = _AT_RESET.get(name, 0)
        return any(start.get(name, at_reset) != at_reset for start in starts)

    return tuple(name for name in _MSR_NUMBERS if name != TIME_STAMP and differs(name))


_AT_RESET: Final = {"IA32_PAT": 0x0007_0406_0007_0406}


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


def _run(start: State, bits: int, msrs: Sequence[str], cells: Sequence[int]) -> bytes:
    pointer, flags_name = ("RIP", "RFLAGS") if bits == 64 else ("EIP", "EFLAGS")
    cpl = _number(start, MODE)
    cr0 = _number(start, "CR0") | sum(_number(start, f"CR0.{name}") << bit for name, bit in _CR0_BITS.items())
    cr4 = _number(start, "CR4") | sum(_number(start, f"CR4.{name}") << bit for name, bit in _CR4_BITS.items())
    flags = _number(start, flags_name) | _number(start, "EFLAGS.IF") << _IF | _number(start, "EFLAGS.IOPL") << _IOPL
    general = [_number(start, name) for name in general_names(bits)]
    bitmap = {"denies": layout.IO_DENIED, "allows": layout.IO_ALLOWED}[str(start[IO_BITMAP])]
    patches = [(int(name[1:-1], 16), _bytes(value, bits)) for name, value in start.items() if name.startswith("[")]
    coprocessor = start[COPROCESSOR_CODE_SEGMENT] == OWN and not _number(start, "CR0.EM") | _number(start, "CR0.TS")
    head = struct.pack(
        "<29QHQHQ5I",
        *general,
        *[0] * (16 - len(general)),
        _number(start, pointer),
        flags,
        layout.CODE_SEGMENTS[cpl],
        layout.STACK_SEGMENTS[cpl],
        _number(start, "DS"),
        cpl,
        layout.COPROCESSOR_CODE if coprocessor else _number(start, pointer),
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
        len(msrs),
        len(patches),
        len(cells),
    )
    written = b"".join(struct.pack("<IQ", _MSR_NUMBERS[name], _number(start, name)) for name in msrs)
    body = b"".join(struct.pack("<II", address, len(content)) + content for address, content in patches)
    return head + written + body + struct.pack(f"<{len(cells)}I", *cells)


_MSR_NUMBERS: Final = {msr.name: int(msr) for msr in Msr}


def _bytes(value: object, bits: int) -> bytes:
    content = value if isinstance(value, bytes) else int(str(value)).to_bytes(bits // 8, "little")
    return content + bytes([layout.FILLER]) * (-len(content) % 4)
