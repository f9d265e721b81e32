"""The trace of a run: every exit to the VMM with its cause, as text that other tools read.

| format | for | time stamps |
|---|---|---|
| `kvm` | eyes, and scripts made for Linux's ``kvm_exit`` events | seconds |
| `jsonl` | programs: one JSON object a line, with everything that is known | nanoseconds |
| `chrome` | Perfetto (ui.perfetto.dev) and chrome://tracing: what ran when | microseconds |

All time is the guest's virtual time, so a trace is the same byte for byte whenever and wherever the same guest runs.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from simvirt.observe.code import source_at, symbol_at
from simvirt.vmm.exit_log import Intervention
from simvirt.x86.addresses import Gva
from simvirt.x86.decode import decode, disassemble

if TYPE_CHECKING:
    from typing import TextIO

    from simvirt.guests.image import GuestImage
    from simvirt.vmm.exit_log import ExitRecord

_SECOND: Final = 1_000_000_000
_MICROSECOND: Final = 1_000


class TraceFormat(StrEnum):
    """How a trace is written."""

    KVM = "kvm"
    JSONL = "jsonl"
    CHROME = "chrome"


class TraceWriter(Protocol):
    """Takes the exits of a run in their order; its listener."""

    def __call__(self, record: ExitRecord, /) -> None:
        """Write one exit."""
        ...

    def close(self) -> None:
        """The run is over: write what is missing. The stream stays open."""
        ...


def trace_writer(trace_format: TraceFormat | str, stream: TextIO, image: GuestImage) -> TraceWriter:
    """A writer of this format; `image` gives the names of places.

    Raises:
        ValueError: there is no such format.
    """
    match TraceFormat(trace_format):
        case TraceFormat.KVM:
            return KvmWriter(stream, image)
        case TraceFormat.JSONL:
            return JsonLinesWriter(stream, image)
        case TraceFormat.CHROME:
            return ChromeWriter(stream, image)


class KvmWriter:
    """Lines as the function tracer of Linux prints the event ``kvm_exit``.

    The head is ftrace's (task and its number, CPU, flags, time in seconds), the body the event's: ``reason``, ``rip``
    and, where the exit has a qualification, ``info1`` (Linux, arch/x86/kvm/trace.h). Behind ``#`` stands what Linux
    does not tell: the place by the guest's names, the instruction, and the cause. Reasons have the manual's names,
    which differ from Linux's here and there.
    """

    def __init__(self, stream: TextIO, image: GuestImage) -> None:
        self._stream = stream
        self._image = image

    def __call__(self, record: ExitRecord) -> None:
        """Write one exit."""
        seconds, nanoseconds = divmod(record.time_ns, _SECOND)
        number = qualification_number(record)
        info = "" if number is None else f" info1 {number:#018x}"
        head = f"{'simvirt':>16}-{0:<7} [000] ..... {seconds:5}.{nanoseconds:09}: kvm_exit: vcpu 0"
        cause = f"{text_of(record)}: {record.cause.what}; {record.cause.why}"
        where = _where(record, self._image)
        self._stream.write(f"{head} reason {record.reason.name} rip {record.rip:#x}{info}  # {where}: {cause}\n")

    def close(self) -> None:
        """Nothing is missing."""


class JsonLinesWriter:
    """One JSON object a line."""

    def __init__(self, stream: TextIO, image: GuestImage) -> None:
        self._stream = stream
        self._image = image

    def __call__(self, record: ExitRecord) -> None:
        """Write one exit."""
        self._stream.write(json.dumps(exit_to_dict(record, self._image), separators=(",", ":")) + "\n")

    def close(self) -> None:
        """Nothing is missing."""


class ChromeWriter:
    """Trace events for Perfetto: one track for the guest, one for the VMM.

    An emulated instruction takes the nanosecond that a guest instruction takes; all else that the VMM does takes no
    virtual time and is an instant. The guest's track shows where it ran and where it slept in HLT. (Trace Event
    Format, "Complete Events", "Instant Events", "Metadata Events".)
    """

    def __init__(self, stream: TextIO, image: GuestImage) -> None:
        self._stream = stream
        self._image = image
        self._time_ns = 0
        self._instruction = 0
        stream.write('{"displayTimeUnit":"ns","traceEvents":[\n')
        process = f"simvirt: {image.name}"
        names = (("process_name", 0, process), ("thread_name", _GUEST, "guest"), ("thread_name", _VMM, "VMM"))
        metadata = (
            {"name": what, "ph": "M", "pid": 1, "tid": thread, "args": {"name": name}} for what, thread, name in names
        )
        stream.write(",\n".join(map(_compact, metadata)))

    def __call__(self, record: ExitRecord) -> None:
        """Write one exit."""
        self._guest_until(record)
        event: dict[str, Any] = {
            "name": record.reason.name,
            "cat": record.intervention.name.lower(),
            "ts": record.time_ns / _MICROSECOND,
            "pid": 1,
            "tid": _VMM,
            "args": exit_to_dict(record, self._image),
        }
        if record.intervention in _BY_THE_VMM:
            self._write(event | {"ph": "X", "dur": 1 / _MICROSECOND})
            self._time_ns += 1
            self._instruction += 1
        else:
            self._write(event | {"ph": "i", "s": "t"})

    def close(self) -> None:
        """The end of the list and of the object."""
        self._stream.write("\n]}\n")

    def _guest_until(self, record: ExitRecord) -> None:
        """What the guest did since the last exit: it slept for as long as more time passed than instructions (HLT)."""
        ran = record.instruction - self._instruction
        slept = record.time_ns - self._time_ns - ran
        if slept > 0:
            self._guest("asleep", self._time_ns, slept, 0)
        if ran > 0:
            self._guest("running", self._time_ns + slept, ran, ran)
        self._time_ns, self._instruction = record.time_ns, record.instruction

    def _guest(self, name: str, start_ns: int, duration_ns: int, instructions: int) -> None:
        self._write(
            {
                "name": name,
                "ph": "X",
                "ts": start_ns / _MICROSECOND,
                "dur": duration_ns / _MICROSECOND,
                "pid": 1,
                "tid": _GUEST,
                "args": {"instructions": instructions},
            }
        )

    def _write(self, event: dict[str, Any]) -> None:
        self._stream.write(",\n" + _compact(event))


_BY_THE_VMM: Final = (Intervention.EMULATED, Intervention.MEMORY)
"""Kinds of exit at which the VMM carries the guest's instruction out."""
_GUEST: Final = 1
_VMM: Final = 2


def exit_to_dict(record: ExitRecord, image: GuestImage) -> dict[str, Any]:
    """Everything about one exit, for JSON. `reason_number` is the manual's, where the reason has one."""
    address = _address(record)
    number = record.reason.value
    return {
        "number": record.number,
        "instruction": record.instruction,
        "time_ns": record.time_ns,
        "reason": record.reason.name,
        "reason_number": number if isinstance(number, int) else None,
        "intervention": record.intervention.name.lower(),
        "cs": record.cs,
        "rip": record.rip,
        "cpl": record.cpl,
        "code": decode(record.code, record.rip, record.bits).encoding.hex(),
        "text": text_of(record),
        "symbol": symbol_at(image, address),
        "source": source_at(image, address),
        "cause": {"what": record.cause.what, "why": record.cause.why, "source": record.cause.source},
        "qualification": _plain(record.qualification),
    }


def text_of(record: ExitRecord) -> str:
    """The instruction that the exit stands on."""
    return disassemble(record.code, record.rip, record.bits) if record.code else "?"


def qualification_number(record: ExitRecord) -> int | None:
    """The exit qualification as the VMCS field holds it, where there is one."""
    qualification = record.qualification
    if isinstance(qualification, int):
        return qualification
    encode = getattr(qualification, "encode", None)
    return None if encode is None else int(encode())


def _where(record: ExitRecord, image: GuestImage) -> str:
    address = _address(record)
    return " ".join(part for part in (symbol_at(image, address), source_at(image, address)) if part) or f"{address:#x}"


def _address(record: ExitRecord) -> Gva:
    """Where the guest's names for its code are: code segments that are not flat have none."""
    return Gva(record.rip)


def _plain(value: object) -> Any:
    """A value of ours as JSON has it: records become objects, members of enumerations their names."""
    if isinstance(value, Enum):
        return value.name
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (int, str, float)) or value is None else str(value)


def _compact(event: dict[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":"))
