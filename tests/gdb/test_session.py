"""Packets and answers, without a gdb: sound ones, and those of somebody who means harm."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from simvirt.errors import UsageError
from simvirt.gdb.connection import Connection, Gone, Listener
from simvirt.gdb.packets import encode
from simvirt.gdb.registers import I386, X86_64
from simvirt.gdb.session import End, Session
from simvirt.gdb.target import Target
from simvirt.guests.resolve import resolve
from simvirt.observe.results import RunConfig
from simvirt.observe.timeline import Timeline
from simvirt.observe.trial import Trial
from simvirt.strategies.registry import find


class Line(Connection):
    """A line whose other end is a list."""

    def __init__(self) -> None:
        super().__init__(-1, -1)
        self.sent: list[bytes] = []
        self.to_come: list[bytes] = []

    def receive(self) -> bytes:
        if not self.to_come:
            raise Gone
        return self.to_come.pop(0)

    def interrupted(self) -> bool:
        return False

    def send(self, data: bytes) -> None:
        self.sent.append(data)


class Talk:
    """A session, packet by packet."""

    def __init__(self, guest: str = "ticker", strategy: str = "bare-metal") -> None:
        image = resolve(guest)
        self.trial = Trial(image, find(strategy), RunConfig("core2", 4 << 20, 0, 100_000))
        self.target = Target(Timeline(self.trial), I386)
        self.image = image

    def __call__(self, *packets: str | bytes) -> list[bytes]:
        """The answers, without console output."""
        line = Line()
        line.to_come = [packet.encode() if isinstance(packet, str) else packet for packet in packets]
        self.end = Session(line, self.target).serve()
        return [answer for answer in line.sent if not (answer.startswith(b"O") and answer != b"OK")]

    def one(self, packet: str | bytes) -> bytes:
        [answer] = self(packet)
        return answer

    def address(self, name: str) -> int:
        found = self.image.symbols.address(name)
        assert found is not None
        return int(found)


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_the_hand_shake(talk: Talk) -> None:
    features, description, path = talk(
        "qSupported:swbreak+;hwbreak+;xmlRegisters=i386",
        "qXfer:features:read:target.xml:0,ffff",
        "qXfer:exec-file:read:1:0,fff",
    )
    assert {b"ReverseStep+", b"ReverseContinue+", b"qXfer:features:read+"} <= set(features.split(b";"))
    assert description.startswith(b"l<?xml")
    assert path.startswith(b"l/")
    assert path.endswith(b"ticker.elf")
    assert talk("?", "qC", "qfThreadInfo", "qsThreadInfo", "vMustReplyEmpty", "vCont?") == [
        b"T05thread:1;", b"QC1", b"m1", b"l", b"", b"vCont;c;C;s;S",
    ]  # fmt: skip


def test_documents_come_in_pieces(talk: Talk) -> None:
    whole = talk.one("qXfer:features:read:target.xml:0,3fff")[1:]
    pieces = b""
    while True:
        piece = talk.one(f"qXfer:features:read:target.xml:{len(pieces):x},400")
        pieces += piece[1:]
        if piece[:1] == b"l":
            break
        assert len(piece) == 0x401
    assert pieces == whole


def test_registers(talk: Talk) -> None:
    assert len(talk.one("g")) == 2 * I386.size
    assert talk("P0=78563412", "p0", "p8") == [b"OK", b"78563412", b"a0001000"]
    data = talk.one("g")
    assert data.startswith(b"78563412")
    changed = b"11" + data[2:]
    assert talk(b"G" + changed, "p0") == [b"OK", b"11563412"]


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx", "trap-and-emulate"])
def test_memory(strategy: str) -> None:
    talk = Talk(strategy=strategy)
    ticks = talk.address("ticks")
    binary = f"X{ticks:x},2:".encode() + b"}\x03\x07"
    assert talk(f"M{ticks:x},4:2a000000", f"m{ticks:x},4", binary, f"m{ticks:x},2") == [
        b"OK", b"2a000000", b"OK", b"2307",
    ]  # fmt: skip
    assert talk("m90000000,4", "M90000000,1:00", "m100000,0") == [b"E0e", b"E0e", b""]


def test_breakpoints_and_reasons(talk: Talk) -> None:
    main, ticks = talk.address("guest_main"), talk.address("ticks")
    assert talk("qSupported:swbreak+", f"Z0,{main:x},1", "vCont;c")[1:] == [b"OK", b"T05thread:1;swbreak:;"]
    assert talk(f"Z2,{ticks:x},4", "c") == [b"OK", f"T05thread:1;watch:{ticks:x};".encode()]
    assert talk(f"m{ticks:x},4", "bc", f"m{ticks:x},4") == [
        b"01000000", f"T05thread:1;watch:{ticks:x};".encode(), b"00000000",
    ]  # fmt: skip
    assert talk("bc", "bc") == [b"T05thread:1;", b"T05thread:1;replaylog:begin;"]
    assert talk(f"z2,{ticks:x},4", f"z0,{main:x},1", "c") == [b"OK", b"OK", b"T05thread:1;replaylog:end;"]
    assert talk("c", "bs", "s") == [b"T05thread:1;replaylog:end;", b"T05thread:1;", b"T05thread:1;replaylog:end;"]


def test_software_breakpoints_change_no_byte(talk: Talk) -> None:
    main = talk.address("guest_main")
    before = talk.one(f"m{main:x},8")
    assert talk(f"Z0,{main:x},1", f"Z1,{main:x},1", f"m{main:x},8", f"z0,{main:x},1") == [b"OK", b"OK", before, b"OK"]
    assert talk.one("c").startswith(b"T05")
    assert talk.trial.count > 0
    assert talk.one("p8") == main.to_bytes(4, "little").hex().encode(), "the other of the two is still there"


def test_too_many_watchpoints_are_an_error(talk: Talk) -> None:
    answers = talk(*(f"Z2,{0x100000 + 8 * n:x},4" for n in range(80)))
    assert answers[0] == b"OK"
    assert answers[-1].startswith(b"E.")
    assert talk.one("s").startswith(b"T05")


@pytest.mark.parametrize(
    ("packet", "end"), [("D", End.DETACHED), ("k", End.KILLED), ("vKill;1", End.KILLED), ("g", End.GONE)]
)
def test_the_end_of_a_session(talk: Talk, packet: str, end: End) -> None:
    talk(packet)
    assert talk.end is end


def test_monitor(talk: Talk) -> None:
    line = Line()
    commands = [
        "info",
        "goto 100",
        "goto -1",
        "goto x",
        "exits",
        "page 100000",
        "xp 100000 4",
        "table gdt",
        "table",
        "",
        "stop-at #PF",
        "nmi",
    ]
    line.to_come = [b"qRcmd," + command.encode().hex().encode() for command in commands]
    Session(line, talk.target).serve()
    text = "".join(bytes.fromhex(a[1:].decode()).decode() for a in line.sent if a != b"OK")
    for part in (
        "ticker under bare-metal", "100 instructions", "monitor goto 1000", "no exits", "no paging", "00100000  ",
        "code 32-bit DPL 0", "gdt, ldt, idt, tss", "the walk through", "stops at: vector 0xe", "an NMI is pending",
    ):  # fmt: skip
        assert part in text
    assert line.sent.count(b"OK") == len(commands)


@pytest.mark.parametrize(
    "packet",
    [
        "m", "m1", "mx,y", "m1,2,3", "m-1,4", "M1,2:zz", "M1,2:00", "X1,5:ab", "Z", "Z0", "Z0,zz,1",
        "G00", "Gzz", "P", "P0", "Pff=00", "P0=00",
        "pff", "p", "c zz", "vCont;x", "qXfer:features:read:target.xml:", "qXfer:features:read:nothing:0,1",
        "qXfer:exec-file:read:1:x", "qRcmd,zz",
    ],
)  # fmt: skip
def test_bad_requests_are_answered_with_an_error(talk: Talk, packet: str) -> None:
    assert talk.one(packet)[:1] == b"E"
    assert talk.one("p8") == b"a0001000"


@pytest.mark.parametrize("packet", ["", "Z9,0,1", "vFile:open", "qNothing", "!", "R00", "\xff\xfe"])
def test_unknown_requests_are_answered_empty(talk: Talk, packet: str) -> None:
    assert talk.one(packet) == b""


def test_random_requests_do_no_harm(talk: Talk) -> None:
    rng = random.Random(1)
    names = [
        "m",
        "M",
        "X",
        "Z0,",
        "z2,",
        "P",
        "p",
        "G",
        "qXfer:",
        "vCont;s",
        "qRcmd,",
        "bs",
        "H",
        "T",
        "s",
        "Z2,",
        "bc",
    ]
    packets = [
        rng.choice(names).encode() + bytes(rng.choices(b"0123456789abcdef,:;=\xff", k=rng.randrange(12)))
        for _ in range(150)
    ]
    assert len(talk(*packets)) == len(packets)


# ------------------------------------------------------------------------------------------------------------- the line


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connection(ours.fileno(), ours.fileno()), theirs


def test_packets_are_acknowledged_and_repeated(pair: tuple[Connection, socket.socket]) -> None:
    connection, gdb = pair
    gdb.sendall(b"$g#00" + encode(b"g"))
    assert connection.receive() == b"g"
    assert gdb.recv(100) == b"-+"
    connection.send(b"OK")
    gdb.sendall(b"-\x03")
    assert connection.interrupted()
    assert not connection.interrupted()
    assert gdb.recv(100) == encode(b"OK") * 2


def test_a_gdb_that_vanishes(pair: tuple[Connection, socket.socket]) -> None:
    connection, gdb = pair
    gdb.close()
    with pytest.raises(Gone):
        connection.receive()
    with pytest.raises(Gone):
        connection.interrupted()


def test_ctrl_c_stops_a_guest_that_runs(pair: tuple[Connection, socket.socket]) -> None:
    connection, gdb = pair
    talk = Talk("spin")
    gdb.sendall(encode(b"QStartNoAckMode") + encode(b"c") + b"\x03")
    gdb.shutdown(socket.SHUT_WR)
    object.__setattr__(talk.trial, "config", RunConfig("core2", 4 << 20, 0, 10**12))
    assert Session(connection, talk.target).serve() is End.GONE
    assert b"$T02thread:1;#" in gdb.recv(4096)
    assert talk.trial.outcome is None


def test_where_one_can_listen() -> None:
    with Listener("127.0.0.1:0") as listener:
        port = int(listener.name.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as gdb:
            connection = listener.accept()
            gdb.sendall(encode(b"g"))
            assert connection.receive() == b"g"
        with pytest.raises(UsageError, match="choose another port"):
            Listener(listener.name)


def test_unix_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "gdb")
    with Listener(path) as listener, socket.socket(socket.AF_UNIX) as gdb:
        gdb.connect(path)
        gdb.sendall(encode(b"?"))
        assert listener.accept().receive() == b"?"
    assert not Path(path).exists()


@pytest.mark.parametrize(
    "address", ["", "nowhere", "127.0.0.1:99999", "127.0.0.1:port", "256.1.1.1:0", "/no/such/folder/x"]
)
def test_where_one_cannot_listen(address: str) -> None:
    with pytest.raises(UsageError):
        Listener(address)


def test_the_64_bit_layout() -> None:
    talk = Talk()
    talk.target = Target(talk.target.timeline, X86_64)
    assert talk("P0=1122334455667788", "p0", "p10") == [b"OK", b"1122334455667788", b"a000100000000000"]
