"""The line to gdb: a TCP or Unix socket that waits for it, or standard input and output.

Packets are acknowledged until gdb asks for that to end; a damaged one is asked for again.
"""

from __future__ import annotations

import os
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from simvirt.errors import UsageError
from simvirt.gdb.packets import Decoder, Packet, Signal, encode

if TYPE_CHECKING:
    from types import TracebackType

_AT_ONCE: Final = 1 << 16


class Gone(Exception):  # noqa: N818 - no error of ours
    """There is nobody at the other end any more."""


class Connection:
    """A line over two file descriptors."""

    def __init__(self, read_from: int, write_to: int) -> None:
        self._read_from = read_from
        self._write_to = write_to
        self._decoder = Decoder()
        self._packets: list[bytes] = []
        self._interrupted = False
        self._last = b""
        self.acknowledges = True
        """Is each packet acknowledged?"""

    def receive(self) -> bytes:
        """The next packet; waits for it.

        Raises:
            Gone: the line is closed.
        """
        while not self._packets:
            self._take(self._read())
        return self._packets.pop(0)

    def interrupted(self) -> bool:
        """Has gdb asked for a stop since the last call? Does not wait.

        Raises:
            Gone: the line is closed.
        """
        while not self._interrupted and select.select([self._read_from], [], [], 0)[0]:
            self._take(self._read())
        asked, self._interrupted = self._interrupted, False
        return asked

    def send(self, data: bytes) -> None:
        """Send a packet.

        Raises:
            Gone: the line is closed.
        """
        self._last = encode(data)
        self._write(self._last)

    def _read(self) -> bytes:
        try:
            return os.read(self._read_from, _AT_ONCE)
        except ConnectionError:
            raise Gone from None

    def _take(self, data: bytes) -> None:
        if not data:
            raise Gone
        for item in self._decoder.feed(data):
            if isinstance(item, Packet):
                if self.acknowledges:
                    self._write(b"+")
                self._packets.append(item.data)
            elif item is Signal.INTERRUPT:
                self._interrupted = True
            elif item is Signal.NAK:
                self._write(self._last)
            elif item is Signal.DAMAGED:
                self._write(b"-")

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._write_to, data) :]
        except (BrokenPipeError, ConnectionError):
            raise Gone from None


class Listener:
    """A socket that waits for gdb: TCP at ``HOST:PORT``, where port 0 is any that is free, or a Unix socket at a path.

    Raises:
        UsageError: it is no such address, or somebody else has it.
    """

    def __init__(self, address: str) -> None:
        self._connected: socket.socket | None = None
        host, colon, port = address.rpartition(":")
        if colon and port.isdecimal() and int(port) < 1 << 16:
            family, self._path = socket.AF_INET6 if ":" in host else socket.AF_INET, None
            place: tuple[str, int] | str = host.strip("[]") or "127.0.0.1", int(port)
        elif "/" in address:
            family, self._path = socket.AF_UNIX, Path(address)
            place = address
        else:
            raise UsageError(
                f"'{address}' is nothing to listen at: give HOST:PORT, for example 127.0.0.1:1234, or the path of a "
                "Unix socket"
            )
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            if self._path is None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(place)
            self._socket.listen(1)
        except OSError as error:
            self._socket.close()
            raise UsageError(
                f"cannot listen at {address}: {error.strerror or error}; choose another port, or 0 for any that is free"
            ) from error
        self.name = address if self._path is not None else f"{place[0]}:{self._socket.getsockname()[1]}"
        """What gdb's `target remote` takes."""

    def accept(self) -> Connection:
        """Wait for gdb."""
        self.hang_up()
        self._connected, _ = self._socket.accept()
        if self._connected.family != socket.AF_UNIX:
            self._connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Connection(self._connected.fileno(), self._connected.fileno())

    def hang_up(self) -> None:
        """Close the line to the gdb that is connected."""
        if self._connected is not None:
            self._connected.close()
            self._connected = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.hang_up()
        self._socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
