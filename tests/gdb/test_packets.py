"""Framing of packets: what was sent arrives, whatever it is and however it is cut up, and noise is survived."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from simvirt.gdb.packets import LARGEST_PACKET, Decoder, Item, Packet, Signal, encode, escape, unescape


@given(st.binary(max_size=300))
def test_escaping_is_undone(data: bytes) -> None:
    assert unescape(escape(data)) == data
    assert not set(escape(data)) & set(b"$#*")


@settings(deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=6), st.integers())
def test_packets_arrive_however_they_are_cut(contents: list[bytes], seed: int) -> None:
    stream = b"".join(b"+" + encode(escape(data)) for data in contents)
    rng, decoder, items = random.Random(seed), Decoder(), list[Item]()
    while stream:
        size = rng.randint(1, 7)
        items += decoder.feed(stream[:size])
        stream = stream[size:]
    assert [unescape(item.data) for item in items if isinstance(item, Packet)] == contents
    assert items.count(Signal.ACK) == len(contents)


def test_interrupts_between_packets() -> None:
    assert Decoder().feed(b"\x03$g#67\x03") == [Signal.INTERRUPT, Packet(b"g"), Signal.INTERRUPT]


def test_damaged_packets_are_told() -> None:
    assert Decoder().feed(b"$g#00$g#zz$g#67") == [Signal.DAMAGED, Signal.DAMAGED, Packet(b"g")]


def test_a_packet_without_end_is_given_up() -> None:
    decoder = Decoder()
    assert decoder.feed(b"$" + bytes(LARGEST_PACKET + 1)) == [Signal.DAMAGED]
    assert decoder.feed(b"$g#67") == [Packet(b"g")]


@given(st.binary(max_size=400))
def test_noise_does_no_harm(noise: bytes) -> None:
    decoder = Decoder()
    for item in decoder.feed(noise):
        assert isinstance(item, Packet | Signal)
