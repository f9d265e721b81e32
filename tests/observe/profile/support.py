"""A guest with call frames, for the tests of profiles."""

from __future__ import annotations

from typing import Final

from simvirt.observe.results import RunConfig

CONFIG: Final = RunConfig("core2", 4 << 20, 0, 10**6)

_START: Final = bytes.fromhex(
    "bc 00 00 20 00"  # MOV ESP, 200000h
    "31 ed"  # XOR EBP, EBP
    "e8 03 00 00 00"  # CALL outer
    "e6 f4"  # OUT F4h, AL: the end
    "90"
)
_OUTER: Final = bytes.fromhex(
    "55 89 e5"  # PUSH EBP; MOV EBP, ESP
    "b9 0a 00 00 00"  # MOV ECX, 10
    "e8 04 00 00 00"  # CALL inner
    "e2 f9"  # LOOP to it
    "5d c3"  # POP EBP; RET
)
_INNER: Final = bytes.fromhex("55 89 e5 e6 e9 5d c3")  # with OUT E9h, AL, which no device claims
FRAMES: Final = _START + _OUTER + _INNER
NAMES: Final = (
    (0x100000, len(_START), "start"),
    (0x100000 + len(_START), len(_OUTER), "outer"),
    (0x100000 + len(_START) + len(_OUTER), len(_INNER), "inner"),
)
