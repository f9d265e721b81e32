"""The registers of a VGA, and what its screen shows in text mode.

Written from the IBM Personal System/2 Hardware Interface Technical Reference, "Video Subsystem", whose names are used.
The text buffer at 0xB8000 is memory like any other, so that a guest writes to the screen at full speed; this device
holds the registers that say how the buffer becomes a picture: all of the CRT controller's, sequencer's, graphics
controller's and attribute controller's can be written and read back, and the palette. At power-on they are those of
mode 3, 80 by 25 characters in 16 colours on 400 lines, as firmware leaves them.

What there is not (docs/deviations.md): the graphics planes at 0xA0000, and with them fonts of the guest's own. Nothing
is drawn, so no register has an effect but those that the text of the screen depends on: where it starts, how long a row
is, how many rows there are, where the cursor stands.

Input status register 1 tells of display enable and vertical retrace. Programs wait for them in loops, and virtual time
hardly passes in a loop of port reads; so both change with each read, as if the beam had gone on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.screen import Screen

if TYPE_CHECKING:
    from simvirt.machine.bus import AccessSize

TEXT_BUFFER: Final = 0xB8000
TEXT_BUFFER_SIZE: Final = 0x8000
COLOUR_PORTS: Final = (range(0x3D4, 0x3D6), range(0x3DA, 0x3DB))
MONOCHROME_PORTS: Final = (range(0x3B4, 0x3B6), range(0x3BA, 0x3BB))
COMMON_PORTS: Final = range(0x3C0, 0x3D0)
PORTS: Final = (*MONOCHROME_PORTS, COMMON_PORTS, *COLOUR_PORTS)

# Registers of mode 3 (the same reference, "BIOS parameter tables"; also in every VGA BIOS since).
_CRTC: Final = bytes.fromhex("5f 4f 50 82 55 81 bf 1f 00 4f 0d 0e 00 00 00 00 9c 8e 8f 28 1f 96 b9 a3 ff")
_SEQUENCER: Final = bytes.fromhex("03 00 03 00 02")
_GRAPHICS: Final = bytes.fromhex("00 00 00 00 00 10 0e 00 ff")
_ATTRIBUTE: Final = bytes.fromhex("00 01 02 03 04 05 14 07 38 39 3a 3b 3c 3d 3e 3f 0c 00 0f 08 00")
_MISCELLANEOUS: Final = 0x67

# Bits that the registers have; the others read as 0.
_SEQUENCER_BITS: Final = bytes.fromhex("03 3d 0f 3f 0e")
_GRAPHICS_BITS: Final = bytes.fromhex("0f 0f 0f 1f 03 7b 0f 0f ff")
_ATTRIBUTE_BITS: Final = b"\x3f" * 16 + bytes.fromhex("ef ff 3f 0f 0f")

MISCELLANEOUS_COLOUR: Final = 0x01
STATUS_DISPLAY_DISABLED: Final = 0x01
STATUS_VERTICAL_RETRACE: Final = 0x08
GRAPHICS_MODE: Final = 0x01
"""Graphics controller, register 6, bit 0."""
# CRT controller.
HORIZONTAL_DISPLAY_END: Final = 0x01
OVERFLOW: Final = 0x07
MAXIMUM_SCAN_LINE: Final = 0x09
CURSOR_START: Final = 0x0A
START_ADDRESS: Final = 0x0C
CURSOR_LOCATION: Final = 0x0E
VERTICAL_RETRACE_END: Final = 0x11
VERTICAL_DISPLAY_END: Final = 0x12
OFFSET: Final = 0x13
CURSOR_OFF: Final = 0x20
PROTECT: Final = 0x80
_PALETTE_READ, _PALETTE_WRITE = 3, 0
_PALETTE_BYTES: Final = 256 * 3
_INDEX_MASKS: Final = {0x3C4: 0x07, 0x3CE: 0x0F, 0x3D4: 0x1F}


def _firmware_palette() -> bytes:
    """The 64 colours of the EGA, two bits for each of red, green and blue; the rest black."""
    colours = bytearray(_PALETTE_BYTES)
    for number in range(64):
        for component, (high, low) in enumerate(((2, 5), (1, 4), (0, 3))):
            colours[number * 3 + component] = 0x2A * (number >> high & 1) + 0x15 * (number >> low & 1)
    return bytes(colours)


@dataclass(frozen=True, slots=True)
class VgaState:
    """All registers."""

    crtc: bytes
    sequencer: bytes
    graphics: bytes
    attribute: bytes
    palette: bytes
    indices: tuple[int, ...]
    attribute_index: int
    attribute_takes_data: bool
    palette_at: int
    palette_reads: bool
    palette_mask: int
    miscellaneous: int
    feature_control: int
    enabled: int
    beam: int


class Vga:
    """The registers of the adapter."""

    __slots__ = (
        "_attribute",
        "_attribute_index",
        "_attribute_takes_data",
        "_beam",
        "_crtc",
        "_enabled",
        "_feature_control",
        "_graphics",
        "_indices",
        "_miscellaneous",
        "_palette",
        "_palette_at",
        "_palette_mask",
        "_palette_reads",
        "_sequencer",
    )
    state_type: ClassVar[type] = VgaState

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Mode 3, as firmware leaves it."""
        self._crtc = bytearray(_CRTC)
        self._sequencer = bytearray(_SEQUENCER)
        self._graphics = bytearray(_GRAPHICS)
        self._attribute = bytearray(_ATTRIBUTE)
        self._palette = bytearray(_firmware_palette())
        self._indices = dict.fromkeys(_INDEX_MASKS, 0)
        self._attribute_index = 0x20
        self._attribute_takes_data = False
        self._palette_at = 0
        self._palette_reads = False
        self._palette_mask = 0xFF
        self._miscellaneous = _MISCELLANEOUS
        self._feature_control = 0
        self._enabled = 1
        self._beam = 0

    def read(self, offset: int, _size: AccessSize) -> int:
        """Read a register by the port that the claim's offset stands for."""
        port = self._port(offset)
        match port:
            case 0x3C4 | 0x3CE | 0x3D4:
                return self._indices[port]
            case 0x3C5 | 0x3CF | 0x3D5:
                registers, index = self._indexed(port - 1)
                return registers[index] if index < len(registers) else 0
            case 0x3DA:
                self._attribute_takes_data = False
                self._beam ^= STATUS_DISPLAY_DISABLED | STATUS_VERTICAL_RETRACE
                return self._beam
            case 0x3C0:
                return self._attribute_index
            case 0x3C1:
                index = self._attribute_index & 0x1F
                return self._attribute[index] if index < len(self._attribute) else 0
            case 0x3C3:
                return self._enabled
            case 0x3C6:
                return self._palette_mask
            case 0x3C7:
                return _PALETTE_READ if self._palette_reads else _PALETTE_WRITE
            case 0x3C8:
                return self._palette_at // 3
            case 0x3C9:
                return self._palette[self._next_of_palette()]
            case 0x3CA:
                return self._feature_control
            case 0x3CC:
                return self._miscellaneous
            case 0x3C2:
                return 0  # input status register 0: no interrupt, no switch
            case _:
                return 0xFF

    def write(self, offset: int, _size: AccessSize, value: int) -> None:
        """Write a register."""
        port = self._port(offset)
        match port:
            case 0x3C4 | 0x3CE | 0x3D4:
                self._indices[port] = value & _INDEX_MASKS[port]
            case 0x3C5 | 0x3CF:
                registers, index = self._indexed(port - 1)
                if index < len(registers):
                    registers[index] = value & (_SEQUENCER_BITS if port == 0x3C5 else _GRAPHICS_BITS)[index]
            case 0x3D5:
                self._write_crtc(self._indices[0x3D4], value)
            case 0x3C0:
                self._write_attribute(value)
            case 0x3C2:
                self._miscellaneous = value
            case 0x3C3:
                self._enabled = value & 1
            case 0x3C6:
                self._palette_mask = value
            case 0x3C7 | 0x3C8:
                self._palette_at, self._palette_reads = value * 3, port == 0x3C7
            case 0x3C9:
                self._palette[self._next_of_palette()] = value & 0x3F
            case 0x3DA:
                self._feature_control = value & 3
            case _:
                pass

    def screen(self, buffer: bytes) -> Screen | None:
        """What the text buffer, its 32 KiB, shows; None in a graphics mode."""
        if self._graphics[6] & GRAPHICS_MODE:
            return None
        crtc = self._crtc
        columns = crtc[HORIZONTAL_DISPLAY_END] + 1
        overflow = crtc[OVERFLOW]
        lines = (crtc[VERTICAL_DISPLAY_END] | (overflow & 0x02) << 7 | (overflow & 0x40) << 3) + 1
        height = ((crtc[MAXIMUM_SCAN_LINE] & 0x1F) + 1) << (crtc[MAXIMUM_SCAN_LINE] >> 7)
        rows = max(lines // height, 1)
        start = crtc[START_ADDRESS] << 8 | crtc[START_ADDRESS + 1]
        pitch = crtc[OFFSET] * 2
        cells = len(buffer) // 2
        places = [(start + row * pitch + column) % cells * 2 for row in range(rows) for column in range(columns)]
        cursor = None
        if not crtc[CURSOR_START] & CURSOR_OFF and pitch:
            distance = ((crtc[CURSOR_LOCATION] << 8 | crtc[CURSOR_LOCATION + 1]) - start) % cells
            if distance // pitch < rows and distance % pitch < columns:
                cursor = divmod(distance, pitch)
        return Screen(
            columns,
            bytes(buffer[place] for place in places),
            bytes(buffer[place + 1] for place in places),
            cursor,
        )

    def save(self) -> VgaState:
        """Everything, as a value."""
        return VgaState(
            crtc=bytes(self._crtc),
            sequencer=bytes(self._sequencer),
            graphics=bytes(self._graphics),
            attribute=bytes(self._attribute),
            palette=bytes(self._palette),
            indices=tuple(self._indices.values()),
            attribute_index=self._attribute_index,
            attribute_takes_data=self._attribute_takes_data,
            palette_at=self._palette_at,
            palette_reads=self._palette_reads,
            palette_mask=self._palette_mask,
            miscellaneous=self._miscellaneous,
            feature_control=self._feature_control,
            enabled=self._enabled,
            beam=self._beam,
        )

    def restore(self, state: VgaState) -> None:
        """Take up a saved state; the text buffer is restored with the rest of memory."""
        self._crtc = bytearray(state.crtc)
        self._sequencer = bytearray(state.sequencer)
        self._graphics = bytearray(state.graphics)
        self._attribute = bytearray(state.attribute)
        self._palette = bytearray(state.palette)
        self._indices = dict(zip(_INDEX_MASKS, state.indices, strict=True))
        self._attribute_index = state.attribute_index
        self._attribute_takes_data = state.attribute_takes_data
        self._palette_at = state.palette_at
        self._palette_reads = state.palette_reads
        self._palette_mask = state.palette_mask
        self._miscellaneous = state.miscellaneous
        self._feature_control = state.feature_control
        self._enabled = state.enabled
        self._beam = state.beam

    def _port(self, offset: int) -> int:
        """The port as in the colour emulation, -1 where the adapter does not answer in the emulation that is chosen."""
        port = _PORT_AT[offset]
        if port in _CHOSEN_PORTS:
            colour = bool(self._miscellaneous & MISCELLANEOUS_COLOUR)
            if (port >= 0x3D0) is not colour:
                return -1
            return port & 0x0F | 0x3D0
        return port

    def _indexed(self, port: int) -> tuple[bytearray, int]:
        registers = {0x3C4: self._sequencer, 0x3CE: self._graphics, 0x3D4: self._crtc}[port]
        return registers, self._indices[port]

    def _write_crtc(self, index: int, value: int) -> None:
        """Bit 7 of the vertical retrace end register protects registers 0 to 7, but for one bit of the overflow."""
        crtc = self._crtc
        if index >= len(crtc):
            return
        if index <= OVERFLOW and crtc[VERTICAL_RETRACE_END] & PROTECT:
            if index == OVERFLOW:
                crtc[OVERFLOW] = crtc[OVERFLOW] & ~0x10 | value & 0x10
            return
        crtc[index] = value

    def _write_attribute(self, value: int) -> None:
        """Index and data take turns at one port; a read of input status register 1 begins with the index."""
        if self._attribute_takes_data:
            index = self._attribute_index & 0x1F
            if index < len(self._attribute):
                self._attribute[index] = value & _ATTRIBUTE_BITS[index]
        else:
            self._attribute_index = value & 0x3F
        self._attribute_takes_data = not self._attribute_takes_data

    def _next_of_palette(self) -> int:
        at = self._palette_at
        self._palette_at = (at + 1) % _PALETTE_BYTES
        return at


_PORT_AT: Final = tuple(port for span in PORTS for port in span)
_CHOSEN_PORTS: Final = frozenset(port for span in (*MONOCHROME_PORTS, *COLOUR_PORTS) for port in span)
