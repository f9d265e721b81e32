"""The x87 and SSE registers in the engine's image of them, by name.

`ArchitecturalState.floating_point` is that image: compared and put back whole by everybody, read here by those who show
registers. Offsets are those of Unicorn 2.1.4's CPUX86State (fpstt, fpus, fpuc, fptags, fpregs ... xmm_regs).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from simvirt.machine.engine import Engine

_TOP, _STATUS, _CONTROL, _EMPTY, _REGISTERS = 4, 8, 10, 12, 24
_OPCODE, _CS, _DS, _IP, _DP = 152, 154, 156, 160, 168
_MXCSR, _XMM, _XMM_STRIDE = 216, 224, 64
_STACK_SIZE: Final = 8
_TOP_SHIFT: Final = 11
_TOP_MASK: Final = 7 << _TOP_SHIFT
_TAG_VALID, _TAG_ZERO, _TAG_SPECIAL, _TAG_EMPTY = range(4)
_SIGNIFICAND_BYTES: Final = 8


class FloatingPoint:
    """The registers in a copy of the image; `bytes(...)` of it is the image with what has been changed."""

    def __init__(self, image: bytes) -> None:
        self._image = bytearray(image)

    def __bytes__(self) -> bytes:
        return bytes(self._image)

    def _word(self, at: int, size: int) -> int:
        return int.from_bytes(self._image[at : at + size], "little")

    def _set_word(self, at: int, size: int, value: int) -> None:
        self._image[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    @property
    def control_word(self) -> int:
        """The x87 FPU control word (SDM Vol. 1 §8.1.5). Writing it needs `renew_rounding` afterwards."""
        return self._word(_CONTROL, 2)

    @control_word.setter
    def control_word(self, value: int) -> None:
        self._set_word(_CONTROL, 2, value)

    @property
    def status_word(self) -> int:
        """The x87 FPU status word with TOP (SDM Vol. 1 §8.1.3)."""
        return self._word(_STATUS, 2) & ~_TOP_MASK | (self._word(_TOP, 4) & 7) << _TOP_SHIFT

    @status_word.setter
    def status_word(self, value: int) -> None:
        self._set_word(_STATUS, 2, value & ~_TOP_MASK)
        self._set_word(_TOP, 4, value >> _TOP_SHIFT & 7)

    @property
    def tag_word(self) -> int:
        """The x87 FPU tag word (SDM Vol. 1 §8.1.7): two bits a register, of which the engine keeps only "empty"."""
        return sum(self._tag(number) << 2 * number for number in range(_STACK_SIZE))

    @tag_word.setter
    def tag_word(self, value: int) -> None:
        for number in range(_STACK_SIZE):
            self._image[_EMPTY + number] = value >> 2 * number & 3 == _TAG_EMPTY

    def _tag(self, number: int) -> int:
        if self._image[_EMPTY + number]:
            return _TAG_EMPTY
        at = _REGISTERS + 16 * number
        significand, sign_and_exponent = struct.unpack_from("<QH", self._image, at)
        exponent = sign_and_exponent & 0x7FFF
        if exponent == 0 and significand == 0:
            return _TAG_ZERO
        return _TAG_VALID if 0 < exponent < 0x7FFF and significand >> 63 else _TAG_SPECIAL

    def _stack_at(self, number: int) -> int:
        return _REGISTERS + 16 * ((self._word(_TOP, 4) + number) % _STACK_SIZE)

    def stack(self, number: int) -> int:
        """ST(number), all 80 bits."""
        return self._word(self._stack_at(number), 10)

    def set_stack(self, number: int, value: int) -> None:
        """Write ST(number); its tag stays."""
        self._set_word(self._stack_at(number), 10, value)

    def xmm(self, number: int) -> int:
        """XMM0 to XMM15, all 128 bits."""
        return self._word(_XMM + _XMM_STRIDE * number, 16)

    def set_xmm(self, number: int, value: int) -> None:
        """Write XMM0 to XMM15."""
        self._set_word(_XMM + _XMM_STRIDE * number, 16, value)

    @property
    def mxcsr(self) -> int:
        """MXCSR (SDM Vol. 1 §10.2.3). Writing it needs `renew_rounding` afterwards."""
        return self._word(_MXCSR, 4)

    @mxcsr.setter
    def mxcsr(self, value: int) -> None:
        self._set_word(_MXCSR, 4, value)

    @property
    def last_opcode(self) -> int:
        """The opcode of the last x87 instruction (SDM Vol. 1 §8.1.9)."""
        return self._word(_OPCODE, 2)

    @last_opcode.setter
    def last_opcode(self, value: int) -> None:
        self._set_word(_OPCODE, 2, value)

    @property
    def instruction_pointer(self) -> int:
        """Of the last x87 instruction (SDM Vol. 1 §8.1.8)."""
        return self._word(_IP, 8)

    @instruction_pointer.setter
    def instruction_pointer(self, value: int) -> None:
        self._set_word(_IP, 8, value)

    @property
    def instruction_selector(self) -> int:
        """The code segment's selector that goes with `instruction_pointer`."""
        return self._word(_CS, 2)

    @instruction_selector.setter
    def instruction_selector(self, value: int) -> None:
        self._set_word(_CS, 2, value)

    @property
    def data_pointer(self) -> int:
        """Of the last x87 instruction's operand."""
        return self._word(_DP, 8)

    @data_pointer.setter
    def data_pointer(self, value: int) -> None:
        self._set_word(_DP, 8, value)

    @property
    def data_selector(self) -> int:
        """The selector that goes with `data_pointer`."""
        return self._word(_DS, 2)

    @data_selector.setter
    def data_selector(self, value: int) -> None:
        self._set_word(_DS, 2, value)


def renew_rounding(engine: Engine) -> None:
    """Have the engine round, and flush denormals, as the control word and MXCSR that it holds say."""
    image = FloatingPoint(engine.state.floating_point)
    engine.write_public_register("FPCW", image.control_word)
    engine.write_public_register("MXCSR", image.mxcsr)
    engine.follow_floating_masks()
