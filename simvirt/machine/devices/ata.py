"""The primary ATA channel with one disk, by programmed input and output.

Written from "AT Attachment with Packet Interface Extension" (ATA/ATAPI-4, NCITS 317-1998): chapter 7 describes the
registers, chapter 8 the commands, chapter 9 the protocols. Device 0 is the disk, with CHS and 28-bit LBA addresses;
there is no device 1, for which device 0 answers with a status of 0 (section 9.16.1). Command block at 0x1F0 to 0x1F7,
device control and alternate status at 0x3F6, INTRQ on IRQ 14.

A command takes `LATENCY_NS` of virtual time, in which BSY is set, so that no interrupt overtakes the driver that waits
for it; a program that polls finds the command done when it has looked at the status `LOOKS_OF_A_READER` times. The
next block of a transfer is ready at once. An access beyond the end of the disk ends with ERR and IDNF.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.ata_identity import LARGEST_MULTIPLE, identity
from simvirt.machine.disk import HEADS, SECTOR, SECTORS_PER_TRACK

if TYPE_CHECKING:
    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.disk import DiskImage
    from simvirt.machine.event_queue import EventQueue

COMMAND_BLOCK: Final = range(0x1F0, 0x1F8)
CONTROL_BLOCK: Final = range(0x3F6, 0x3F7)
# Registers by the claim's offset; 7 is status and command, 8 alternate status and device control.
DATA: Final = 0
ERROR: Final = 1
SECTOR_COUNT: Final = 2
SECTOR_NUMBER: Final = 3
CYLINDER_LOW: Final = 4
CYLINDER_HIGH: Final = 5
DEVICE_HEAD: Final = 6
STATUS: Final = 7
CONTROL: Final = 8

BSY: Final = 0x80
DRDY: Final = 0x40
DSC: Final = 0x10
DRQ: Final = 0x08
ERR: Final = 0x01
ABRT: Final = 0x04
IDNF: Final = 0x10
DIAGNOSTIC_PASSED: Final = 0x01
DEVICE_1: Final = 0x10
LBA: Final = 0x40
OBSOLETE_ONES: Final = 0xA0
NIEN: Final = 0x02
SRST: Final = 0x04

IDENTIFY_DEVICE: Final = 0xEC
READ_SECTORS: Final = (0x20, 0x21)
READ_MULTIPLE: Final = 0xC4
WRITE_SECTORS: Final = (0x30, 0x31)
WRITE_MULTIPLE: Final = 0xC5
SET_MULTIPLE: Final = 0xC6
READ_VERIFY: Final = (0x40, 0x41)
EXECUTE_DIAGNOSTIC: Final = 0x90
INITIALIZE_PARAMETERS: Final = 0x91
CHECK_POWER: Final = 0xE5
RECALIBRATE: Final = range(0x10, 0x20)
SEEK: Final = range(0x70, 0x80)
SET_FEATURES: Final = 0xEF
WITHOUT_EFFECT: Final = frozenset((0xE0, 0xE1, 0xE2, 0xE3, 0xE6, 0xE7, *RECALIBRATE))
"""STANDBY and IDLE in their forms, SLEEP, FLUSH CACHE, RECALIBRATE."""
ACCEPTED_FEATURES: Final = frozenset((0x02, 0x03, 0x55, 0x66, 0x82, 0xAA, 0xCC))
ACTIVE: Final = 0xFF

LATENCY_NS: Final = 20_000
LOOKS_OF_A_READER: Final = 4


@dataclass(frozen=True, slots=True)
class AtaState:
    """All that the channel and its disk know, and the sectors that the guest has changed."""

    registers: bytes
    status: int
    error: int
    control: int
    command: int
    interrupt: bool
    buffer: bytes
    position: int
    left: int
    looks: int
    multiple: int
    heads: int
    sectors: int
    written: dict[int, bytes]


class AtaDisk:
    """The channel, with its interrupt line and the image of device 0."""

    __slots__ = (
        "_buffer",
        "_clock",
        "_command",
        "_control",
        "_error",
        "_events",
        "_heads",
        "_image",
        "_interrupt",
        "_left",
        "_line",
        "_looks",
        "_multiple",
        "_position",
        "_registers",
        "_sectors",
        "_status",
    )
    state_type: ClassVar[type] = AtaState

    def __init__(self, clock: Clock, events: EventQueue, line: InterruptLine, image: DiskImage) -> None:
        self._clock = clock
        self._events = events
        self._line = line
        self._image = image
        events.register("ata.command", self._complete)
        self.reset()

    def reset(self) -> None:
        """The RESET- line ("Power-on and hardware resets")."""
        self._control = self._command = self._left = self._looks = self._multiple = 0
        self._heads, self._sectors = HEADS, SECTORS_PER_TRACK
        self._interrupt = False
        self._buffer = bytearray()
        self._position = 0
        self._registers = bytearray(8)
        self._sign()
        self._line(False)

    def _sign(self) -> None:
        """The signature of a disk that has passed its diagnostic (section 9.12)."""
        self._registers[SECTOR_COUNT : DEVICE_HEAD + 1] = bytes((1, 1, 0, 0, 0))
        self._error = DIAGNOSTIC_PASSED
        self._status = DRDY | DSC
        self._buffer.clear()

    # ---------------------------------------------------------------------------------------- registers

    def read(self, offset: int, size: AccessSize) -> int:
        """Read a register; only the data register is wider than a byte."""
        if offset == DATA:
            return self._read_data(size)
        if size > 1:
            return sum(self.read(offset + at, 1) << 8 * at for at in range(size))
        if offset in (STATUS, CONTROL):
            status = self._read_status()
            if offset == STATUS:
                self._set_interrupt(False)
            return status
        if self._status & BSY:
            return self._status  # section 7.15.6: while BSY is set, all of the command block gives the status
        return self._error if offset == ERROR else self._registers[offset]

    def write(self, offset: int, size: AccessSize, value: int) -> None:
        """Write a register."""
        if offset == DATA:
            self._write_data(size, value)
        elif size > 1:
            for at in range(size):
                self.write(offset + at, 1, value >> 8 * at & 0xFF)
        elif offset == CONTROL:
            self._write_control(value)
        elif self._status & BSY or self._control & SRST:
            pass  # section 7.2: the command block is not to be written then
        elif offset == STATUS:
            if not self._registers[DEVICE_HEAD] & DEVICE_1 or value == EXECUTE_DIAGNOSTIC:
                self._begin(value)
        else:
            self._registers[offset] = value | OBSOLETE_ONES if offset == DEVICE_HEAD else value

    def save(self) -> AtaState:
        """Everything, as a value."""
        return AtaState(
            registers=bytes(self._registers),
            status=self._status,
            error=self._error,
            control=self._control,
            command=self._command,
            interrupt=self._interrupt,
            buffer=bytes(self._buffer),
            position=self._position,
            left=self._left,
            looks=self._looks,
            multiple=self._multiple,
            heads=self._heads,
            sectors=self._sectors,
            written=self._image.save(),
        )

    def restore(self, state: AtaState) -> None:
        """Take up a saved state; line and deadline are restored with the PIC and the event queue."""
        self._registers = bytearray(state.registers)
        self._status = state.status
        self._error = state.error
        self._control = state.control
        self._command = state.command
        self._interrupt = state.interrupt
        self._buffer = bytearray(state.buffer)
        self._position = state.position
        self._left = state.left
        self._looks = state.looks
        self._multiple = state.multiple
        self._heads = state.heads
        self._sectors = state.sectors
        self._image.restore(state.written)

    def _read_status(self) -> int:
        if self._registers[DEVICE_HEAD] & DEVICE_1:
            return 0
        if self._status & BSY and not self._control & SRST:
            self._looks += 1
            if self._looks >= LOOKS_OF_A_READER:
                self._events.cancel("ata.command")
                self._complete()
        return self._status

    def _write_control(self, value: int) -> None:
        was, self._control = self._control, value & (NIEN | SRST)
        if value & SRST and not was & SRST:
            self._events.cancel("ata.command")
            self._interrupt = False
            self._status = BSY
        elif was & SRST and not value & SRST:
            self._sign()
        self._drive()

    def _set_interrupt(self, pending: bool) -> None:
        if pending is not self._interrupt:
            self._interrupt = pending
            self._drive()

    def _drive(self) -> None:
        self._line(self._interrupt and not self._control & NIEN)

    # ---------------------------------------------------------------------------------------- commands

    def _begin(self, command: int) -> None:
        """A command has been written; it is executed a little later, but data for it are taken at once."""
        self._set_interrupt(False)
        self._command = command
        self._left = self._registers[SECTOR_COUNT] or 256
        self._error = self._looks = 0
        self._buffer.clear()
        self._position = 0
        if self._writes() and self._in_range():
            self._expect_block()
            return
        self._status = BSY | DRDY | DSC
        self._events.schedule("ata.command", self._clock.now() + LATENCY_NS)

    def _complete(self) -> None:
        """The time of a command, or of a block that was written, is over."""
        self._looks = 0
        self._status = DRDY | DSC
        command = self._command
        if command in READ_SECTORS or (command == READ_MULTIPLE and self._multiple):
            self._offer_block()
        elif self._writes():
            if self._left and self._in_range():
                self._expect_block()
            elif self._left:
                self._fail(IDNF)
        elif command == IDENTIFY_DEVICE:
            self._left = 0
            self._buffer[:] = identity(self._image, self._heads, self._sectors, self._multiple)
            self._status |= DRQ
        elif command == EXECUTE_DIAGNOSTIC:
            self._sign()
        elif not self._execute(command):
            self._fail(ABRT)
        self._set_interrupt(True)

    def _execute(self, command: int) -> bool:
        """Commands that move no data; False for one that there is not, or not with these parameters."""
        count = self._registers[SECTOR_COUNT]
        if command in READ_VERIFY:
            while self._left:
                if not self._in_range():
                    self._fail(IDNF)
                    return True
                self._advance()
        elif command in SEEK:
            if not self._in_range():
                self._fail(IDNF)
        elif command == SET_MULTIPLE:
            if count > LARGEST_MULTIPLE or count & (count - 1):
                return False
            self._multiple = count
        elif command == INITIALIZE_PARAMETERS:
            if not count:
                return False
            self._heads, self._sectors = (self._registers[DEVICE_HEAD] & 0x0F) + 1, count
        elif command == CHECK_POWER:
            self._registers[SECTOR_COUNT] = ACTIVE
        elif command == SET_FEATURES:
            feature = self._registers[ERROR]
            return feature in ACCEPTED_FEATURES or (feature == 0x03 and count <= 0x0C)
        else:
            return command in WITHOUT_EFFECT
        return True

    def _fail(self, error: int) -> None:
        self._error = error
        self._status = DRDY | DSC | ERR
        self._buffer.clear()

    # ---------------------------------------------------------------------------------------- addresses

    def _sector(self) -> int | None:
        """The sector that the registers address (section 7.3 and 7.8); None for none of the disk."""
        registers = self._registers
        head, low = registers[DEVICE_HEAD], registers[SECTOR_NUMBER]
        cylinder = registers[CYLINDER_HIGH] << 8 | registers[CYLINDER_LOW]
        if head & LBA:
            sector = (head & 0x0F) << 24 | cylinder << 8 | low
        elif not 1 <= low <= self._sectors or head & 0x0F >= self._heads:
            return None
        else:
            sector = (cylinder * self._heads + (head & 0x0F)) * self._sectors + low - 1
        return sector if sector < self._image.sectors else None

    def _in_range(self) -> bool:
        return self._sector() is not None

    def _advance(self) -> None:
        """A sector is done: the registers address the next one, and the count falls."""
        registers = self._registers
        self._left -= 1
        registers[SECTOR_COUNT] = self._left & 0xFF
        if not self._left:
            return  # the registers stay at the last sector
        head = registers[DEVICE_HEAD]
        cylinder = registers[CYLINDER_HIGH] << 8 | registers[CYLINDER_LOW]
        if head & LBA:
            value = ((head & 0x0F) << 24 | cylinder << 8 | registers[SECTOR_NUMBER]) + 1
            registers[SECTOR_NUMBER] = value & 0xFF
            cylinder, number = value >> 8 & 0xFFFF, value >> 24 & 0x0F
        else:
            number = head & 0x0F
            registers[SECTOR_NUMBER] += 1
            if registers[SECTOR_NUMBER] > self._sectors:
                registers[SECTOR_NUMBER] = 1
                number += 1
                if number >= self._heads:
                    number, cylinder = 0, cylinder + 1 & 0xFFFF
        registers[CYLINDER_LOW], registers[CYLINDER_HIGH] = cylinder & 0xFF, cylinder >> 8
        registers[DEVICE_HEAD] = head & 0xF0 | number

    # ---------------------------------------------------------------------------------------- data

    def _per_block(self) -> int:
        """Sectors between two interrupts."""
        return self._multiple if self._command in (READ_MULTIPLE, WRITE_MULTIPLE) else 1

    def _writes(self) -> bool:
        """Does the command take data? WRITE MULTIPLE does only when SET MULTIPLE MODE has been given."""
        return self._command in WRITE_SECTORS or (self._command == WRITE_MULTIPLE and bool(self._multiple))

    def _offer_block(self) -> None:
        """Put the next sectors into the buffer, for the host to read; an error if there is not even one."""
        self._buffer.clear()
        self._position = 0
        for _ in range(min(self._per_block(), self._left)):
            sector = self._sector()
            if sector is None:
                break
            self._buffer += self._image.read(sector)
            self._advance()
        if self._buffer:
            self._status = DRDY | DSC | DRQ
        else:
            self._fail(IDNF)

    def _expect_block(self) -> None:
        """Ask the host for the data of the next sectors."""
        self._buffer.clear()
        self._position = min(self._per_block(), self._left) * SECTOR
        self._status = DRDY | DSC | DRQ

    def _read_data(self, size: int) -> int:
        """Take from the buffer. With its last byte the block is over; the next one is ready at once."""
        if not self._status & DRQ or self._writes():
            return (1 << 8 * size) - 1
        value = int.from_bytes(self._buffer[self._position : self._position + size], "little")
        self._position += size
        if self._position >= len(self._buffer):
            self._buffer.clear()
            self._status = DRDY | DSC
            if self._left:
                self._offer_block()
                self._set_interrupt(True)
        return value

    def _write_data(self, size: int, value: int) -> None:
        """Add to the buffer. With its last byte the block is written, which takes its time."""
        if not self._status & DRQ or not self._writes():
            return
        self._buffer += value.to_bytes(size, "little")
        if len(self._buffer) < self._position:
            return
        for at in range(0, self._position, SECTOR):
            sector = self._sector()
            if sector is None:
                self._fail(IDNF)
                self._set_interrupt(True)
                return
            self._image.write(sector, bytes(self._buffer[at : at + SECTOR]))
            self._advance()
        self._buffer.clear()
        self._looks = 0
        self._status = BSY | DRDY | DSC
        self._events.schedule("ata.command", self._clock.now() + LATENCY_NS)
