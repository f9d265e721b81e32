"""A session with gdb: each packet that it sends, and the answer, from one table.

What is not in the table is answered by an empty packet, which is how gdb learns what a stub does not know. Requests
that make no sense are errors of the protocol, never of the process.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.errors import SimvirtError
from simvirt.gdb.connection import Gone
from simvirt.gdb.description import description
from simvirt.gdb.monitor import answer
from simvirt.gdb.packets import LARGEST_PACKET, escape, unescape
from simvirt.gdb.target import SOFTWARE_BREAKPOINT, WATCH_ACCESS
from simvirt.machine.breakpoints import WatchedAccess
from simvirt.observe.code import code_bits, linear_address
from simvirt.observe.stops import (
    AtBeginning,
    AtBreakpoint,
    AtExit,
    AtHandler,
    AtWatchpoint,
    Ended,
    Interrupted,
    Reached,
    StopReason,
)
from simvirt.x86.exceptions import Vector

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.gdb.connection import Connection
    from simvirt.gdb.target import Target

_SIGINT, _SIGILL, _SIGTRAP, _SIGFPE, _SIGBUS, _SIGSEGV = 2, 4, 5, 8, 10, 11
"""gdb's own numbers of signals, the same on every system."""
_SIGNALS: Final[dict[int, int]] = {
    Vector.DE: _SIGFPE, Vector.UD: _SIGILL, Vector.NM: _SIGFPE, Vector.MF: _SIGFPE, Vector.XM: _SIGFPE,
    Vector.AC: _SIGBUS, Vector.NP: _SIGSEGV, Vector.SS: _SIGSEGV, Vector.GP: _SIGSEGV, Vector.PF: _SIGSEGV,
}  # fmt: skip
"""What an exception is to gdb, where somebody has asked to stop at it (`monitor stop-at`)."""
_OK: Final = b"OK"
_UNKNOWN: Final = b""
_BAD_REQUEST, _BAD_ADDRESS = b"E16", b"E0e"
"""EINVAL and EFAULT: gdb shows the number as hexadecimal digits, of which the second is "14" to people."""
_LARGEST_READ: Final = (LARGEST_PACKET - 16) // 2
_FEATURES: Final = (
    f"PacketSize={LARGEST_PACKET:x}", "QStartNoAckMode+", "qXfer:features:read+", "qXfer:exec-file:read+",
    "swbreak+", "hwbreak+", "ReverseStep+", "ReverseContinue+", "vContSupported+", "multiprocess-",
)  # fmt: skip
_CONSOLE_PIECE: Final = 256


class End(Enum):
    """How a session came to its end."""

    DETACHED = "gdb has detached: the guest goes on without it"
    KILLED = "gdb has ended the run"
    GONE = "gdb has gone without a word"


class Session:
    """One gdb, from its first packet to its last."""

    def __init__(self, connection: Connection, target: Target) -> None:
        self._connection = connection
        self._target = target
        self._reason: StopReason = Reached()
        self._told_how: frozenset[str] = frozenset()
        self._end: End | None = None
        self._console = len(target.timeline.trial.machine.board.console)
        target.timeline.asked_to_stop = connection.interrupted

    def serve(self) -> End:
        """Answer packets until the end."""
        end: End | None = None
        try:
            while (end := self._end) is None:
                packet = self._connection.receive()
                reply = self._reply(packet)
                if reply is not None:
                    self._connection.send(reply)
                if packet == b"QStartNoAckMode":
                    self._connection.acknowledges = False
        except Gone:
            end = End.GONE
        finally:
            self._target.timeline.asked_to_stop = lambda: False
        return end

    def _reply(self, packet: bytes) -> bytes | None:
        """The answer to a packet; None if there is to be none."""
        for name, handler in _HANDLERS:
            if packet.startswith(name):
                try:
                    return handler(self, packet[len(name) :])
                except ValueError:
                    return _BAD_REQUEST
                except SimvirtError as error:
                    return f"E.{error}".encode("ascii", "replace")
                except Gone:
                    raise
                except Exception as error:  # noqa: BLE001 - a fault of ours must not end what somebody is looking at
                    return f"E.fault of simvirt: {type(error).__name__}: {error}".encode("ascii", "replace")
        return _UNKNOWN

    # -------------------------------------------------------------------------------- hand-shake

    def _supported(self, rest: bytes) -> bytes:
        words = rest.decode("ascii", "replace").lstrip(":").split(";")
        self._told_how = frozenset(word[:-1] for word in words if word.endswith("+"))
        return ";".join(_FEATURES).encode()

    def _features(self, rest: bytes) -> bytes:
        annex, _, window = rest.partition(b":")
        if annex != b"target.xml":
            return b"E00"
        return _window(description(self._target.layout).encode(), window)

    def _exec_file(self, rest: bytes) -> bytes:
        _, _, window = rest.partition(b":")
        image = self._target.timeline.trial.image
        has_symbols = image.path is not None and len(image.symbols) > 0
        return _window(str(image.path.resolve()).encode() if image.path and has_symbols else b"", window)

    def _why(self, _rest: bytes) -> bytes:
        return self._stop_reply(self._reason)

    # -------------------------------------------------------------------------------- state

    def _read_registers(self, _rest: bytes) -> bytes:
        return self._target.registers().hex().encode()

    def _write_registers(self, rest: bytes) -> bytes:
        self._target.set_registers(_from_hex(rest))
        return _OK

    def _read_register(self, rest: bytes) -> bytes:
        return self._target.register(int(rest, 16)).hex().encode()

    def _write_register(self, rest: bytes) -> bytes:
        number, _, value = rest.partition(b"=")
        self._target.set_register(int(number, 16), _from_hex(value))
        return _OK

    def _read_memory(self, rest: bytes) -> bytes:
        address, size = _numbers(rest, b",")
        data = self._target.read(address, min(size, _LARGEST_READ))
        return data.hex().encode() if data or not size else _BAD_ADDRESS

    def _write_memory(self, rest: bytes) -> bytes:
        place, _, digits = rest.partition(b":")
        return self._write(place, _from_hex(digits))

    def _write_binary(self, rest: bytes) -> bytes:
        place, _, data = rest.partition(b":")
        return self._write(place, unescape(data))

    def _write(self, place: bytes, data: bytes) -> bytes:
        address, size = _numbers(place, b",")
        if size != len(data):
            return _BAD_REQUEST
        return _OK if not data or self._target.write(address, data) else _BAD_ADDRESS

    # -------------------------------------------------------------------------------- running

    def _insert(self, rest: bytes) -> bytes:
        return self._point(rest, self._target.insert)

    def _remove(self, rest: bytes) -> bytes:
        return self._point(rest, self._target.remove)

    @staticmethod
    def _point(rest: bytes, change: Callable[[int, int, int], None]) -> bytes:
        kind, address, size = _numbers(rest.partition(b";")[0], b",", 3)
        if not SOFTWARE_BREAKPOINT <= kind <= WATCH_ACCESS:
            return _UNKNOWN
        change(kind, address, size)
        return _OK

    def _continue(self, rest: bytes) -> bytes:
        return self._move(self._target.go_on, rest)

    def _step(self, rest: bytes) -> bytes:
        return self._move(self._target.step, rest)

    def _continue_with_signal(self, rest: bytes) -> bytes:
        return self._move(self._target.go_on, rest.partition(b";")[2])

    def _step_with_signal(self, rest: bytes) -> bytes:
        return self._move(self._target.step, rest.partition(b";")[2])

    def _continue_verbose(self, rest: bytes) -> bytes:
        action = rest[:1]
        if action in b"cC":
            return self._move(self._target.go_on)
        if action in b"sS":
            return self._move(self._target.step)
        return _BAD_REQUEST

    def _go_back(self, _rest: bytes) -> bytes:
        return self._move(self._target.go_back)

    def _step_back(self, _rest: bytes) -> bytes:
        return self._move(self._target.step_back)

    def _move(self, move: Callable[[], StopReason], address: bytes = b"") -> bytes:
        if address:
            self._target.jump(int(address, 16))
        self._reason = move()
        self._show_console()
        if isinstance(self._reason, Ended):
            fault = self._target.timeline.trial.error
            why = f" ({fault.message})" if fault is not None else ""
            self._output(f"simvirt: the run is over: {self._reason.outcome.value}{why}. You can go back from here.\n")
        elif isinstance(self._reason, AtExit):
            record, cause = self._reason.record, self._reason.record.cause
            self._output(f"simvirt: exit {record.number}, {record.reason.name}: {cause.what}; {cause.why}\n")
        elif isinstance(self._reason, AtHandler):
            self._output(f"simvirt: {self._reason.name} has been delivered\n")
        return self._stop_reply(self._reason)

    def _stop_reply(self, reason: StopReason) -> bytes:
        signal = _SIGTRAP
        if isinstance(reason, Interrupted):
            signal = _SIGINT
        elif isinstance(reason, AtHandler):
            signal = _SIGNALS.get(reason.vector, _SIGTRAP)
        text = f"T{signal:02x}thread:1;"
        match reason:
            case AtWatchpoint(point):
                text += f"{_WATCH_WORDS[point.access]}:{point.address:x};"
            case AtBreakpoint(address) if self._is_program_counter(address):
                text += "swbreak:;" if "swbreak" in self._told_how else ""
            case AtBeginning():
                text += "replaylog:begin;"
            case Ended():
                text += "replaylog:end;"
            case _:
                pass
        return text.encode()

    def _is_program_counter(self, address: int) -> bool:
        """Does gdb, which takes the program counter for an address, see that it is there? Not with a base in CS."""
        state = self._target.timeline.trial.machine.processor.guest_state()
        return state.rip == address == linear_address(state, code_bits(state))

    def _show_console(self) -> None:
        """What the guest has printed since, on gdb's console."""
        console = self._target.timeline.trial.machine.board.console
        if len(console) > self._console:
            text = bytes(console[self._console :])
            self._console = len(console)
            self._output(text.decode("utf-8", "backslashreplace"))

    def _output(self, text: str) -> None:
        data = text.encode()
        for at in range(0, len(data), _CONSOLE_PIECE):
            self._connection.send(b"O" + data[at : at + _CONSOLE_PIECE].hex().encode())

    # -------------------------------------------------------------------------------- the rest

    def _monitor(self, rest: bytes) -> bytes:
        self._output(answer(self._target, _from_hex(rest).decode("utf-8", "replace")))
        return _OK

    def _thread_text(self, _rest: bytes) -> bytes:
        trial = self._target.timeline.trial
        state = trial.machine.processor.guest_state()
        return f"{trial.strategy.info.name}, ring {state.cpl}".encode().hex().encode()

    def _detach(self, _rest: bytes) -> bytes:
        self._target.clear()
        self._end = End.DETACHED
        return _OK

    def _kill(self, _rest: bytes) -> None:
        self._end = End.KILLED

    def _kill_verbose(self, _rest: bytes) -> bytes:
        self._end = End.KILLED
        return _OK


def _constant(reply: bytes) -> Callable[[Session, bytes], bytes]:
    return lambda _session, _rest: reply


_HANDLERS: Final[tuple[tuple[bytes, Callable[[Session, bytes], bytes | None]], ...]] = (
    (b"qSupported", Session._supported),
    (b"QStartNoAckMode", _constant(_OK)),
    (b"vMustReplyEmpty", _constant(_UNKNOWN)),
    (b"qXfer:features:read:", Session._features),
    (b"qXfer:exec-file:read:", Session._exec_file),
    (b"qAttached", _constant(b"1")),
    (b"qfThreadInfo", _constant(b"m1")),
    (b"qsThreadInfo", _constant(b"l")),
    (b"qThreadExtraInfo,", Session._thread_text),
    (b"qCRC", _constant(_UNKNOWN)),
    (b"qC", _constant(b"QC1")),
    (b"qSymbol", _constant(_OK)),
    (b"qRcmd,", Session._monitor),
    (b"H", _constant(_OK)),
    (b"T", _constant(_OK)),
    (b"?", Session._why),
    (b"g", Session._read_registers),
    (b"G", Session._write_registers),
    (b"p", Session._read_register),
    (b"P", Session._write_register),
    (b"m", Session._read_memory),
    (b"M", Session._write_memory),
    (b"X", Session._write_binary),
    (b"Z", Session._insert),
    (b"z", Session._remove),
    (b"vCont?", _constant(b"vCont;c;C;s;S")),
    (b"vCont;", Session._continue_verbose),
    (b"vKill", Session._kill_verbose),
    (b"c", Session._continue),
    (b"s", Session._step),
    (b"C", Session._continue_with_signal),
    (b"S", Session._step_with_signal),
    (b"bc", Session._go_back),
    (b"bs", Session._step_back),
    (b"D", Session._detach),
    (b"k", Session._kill),
)
"""By how a packet begins; the first that fits answers."""

_WATCH_WORDS: Final = {
    WatchedAccess.WRITE: "watch",
    WatchedAccess.READ: "rwatch",
    WatchedAccess.ACCESS: "awatch",
}
_HEX: Final = re.compile(rb"(?:[0-9a-fA-F]{2})*")


def _numbers(text: bytes, separator: bytes, count: int = 2) -> list[int]:
    """So many hexadecimal numbers.

    Raises:
        ValueError: they are not.
    """
    numbers = [int(part, 16) for part in text.split(separator)]
    if len(numbers) != count or any(number < 0 or number >> 64 for number in numbers):
        raise ValueError
    return numbers


def _from_hex(digits: bytes) -> bytes:
    """Bytes from their digits.

    Raises:
        ValueError: they are none.
    """
    if not _HEX.fullmatch(digits):
        raise ValueError
    return bytes.fromhex(digits.decode())


def _window(document: bytes, window: bytes) -> bytes:
    """A part of a document that gdb reads piece by piece: ``offset,length``."""
    offset, length = _numbers(window, b",")
    piece = document[offset : offset + min(length, _LARGEST_READ)]
    return (b"m" if offset + len(piece) < len(document) else b"l") + escape(piece)
