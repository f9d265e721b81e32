"""The real-time clock of a PC with its battery-backed memory: an MC146818, and what firmware keeps in it.

Written from Motorola's data sheet "MC146818 Real-Time Clock plus RAM"; the section titles in this file are its own.
The registers lie behind an index at port 0x70, whose bit 7 masks NMI, and a data port 0x71 (IBM PC/AT Technical
Reference, "Real-Time Clock/CMOS RAM Information", from which the memory's layout is, too).

Time. The divider chain counts virtual time from the moment at which it was last released from reset: an update ends
at each whole second of it, and a pulse of the periodic interrupt is due every 2^(RS-1) / 32768 s. Nothing is lived
through: what happened since the last look is computed when somebody looks, and an event is scheduled only for an
interrupt that is enabled and whose flag is not yet set. The calendar begins at a fixed date, so a run is the same
whenever it is made.

What the data sheet leaves open, and how it stands here: an update leaves fields that hold no valid value at the
nearest valid one; an alarm whose bytes are no valid time never comes. UIP is set for the 244 us before an update and
the 1984 us that it takes, and the new time can be read when it falls. As in other PCs the byte 0x32 holds the century,
in BCD, and follows the year. Deviations: daylight saving (DSE) is not done, as later chips do not do it; the
divider's other time bases than 32.768 kHz stop the clock, as a PC's crystal has that frequency; the square wave leads
nowhere.
"""

from __future__ import annotations

from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.disk import HEADS, SECTORS_PER_TRACK

if TYPE_CHECKING:
    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import Clock
    from simvirt.machine.devices import InterruptLine
    from simvirt.machine.devices.nmi_gate import NmiGate
    from simvirt.machine.disk import DiskImage
    from simvirt.machine.event_queue import EventQueue

# "Address Map": ten bytes of time and alarm, four registers, and memory.
SECONDS: Final = 0x00
SECONDS_ALARM: Final = 0x01
MINUTES: Final = 0x02
MINUTES_ALARM: Final = 0x03
HOURS: Final = 0x04
HOURS_ALARM: Final = 0x05
DAY_OF_WEEK: Final = 0x06
DAY_OF_MONTH: Final = 0x07
MONTH: Final = 0x08
YEAR: Final = 0x09
REGISTER_A: Final = 0x0A
REGISTER_B: Final = 0x0B
REGISTER_C: Final = 0x0C
REGISTER_D: Final = 0x0D
CENTURY: Final = 0x32
CMOS_SIZE: Final = 128
NMI_MASK: Final = 0x80
"""Bit 7 of port 0x70."""

A_UIP: Final = 0x80
A_DIVIDER: Final = 0x70
A_DIVIDER_32_KHZ: Final = 0x20
A_RATE: Final = 0x0F
B_SET: Final = 0x80
B_PIE: Final = 0x40
B_AIE: Final = 0x20
B_UIE: Final = 0x10
B_SQWE: Final = 0x08
B_DM: Final = 0x04
B_24_HOURS: Final = 0x02
C_IRQF: Final = 0x80
C_PF: Final = 0x40
C_AF: Final = 0x20
C_UF: Final = 0x10
_FLAGS: Final = C_PF | C_AF | C_UF
"""In the places of their enable bits in register B."""
D_VRT: Final = 0x80
HOURS_PM: Final = 0x80
DO_NOT_CARE: Final = 0xC0
"""An alarm byte with both bits set matches every value."""

SECOND: Final = 1_000_000_000
UPDATE_NS: Final = (244 + 1984) * 1000
"""How long before the end of an update UIP is set (table "Update Cycle Times", 32.768 kHz)."""
CRYSTAL_HZ: Final = 32768
RELEASED_EARLY: Final = SECOND // 2
"""The first update comes half a second after the divider's reset ends ("Register A, DV2, DV1, DV0")."""
_EVENT: Final = "rtc.interrupt"
_SECONDS_OF_DAY: Final = 86400
_POWER_ON_A: Final = A_DIVIDER_32_KHZ | 6
"""As firmware leaves it: 32.768 kHz, and 1024 pulses a second."""


@dataclass(frozen=True, slots=True)
class RtcState:
    """All that the clock knows."""

    cmos: bytes
    """The 128 bytes as they were at `seen_ns`."""
    flags: int
    index: int
    nmi_masked: bool
    origin_ns: int
    seen_ns: int


class Mc146818:
    """The clock, with its interrupt line.

    `cmos` is what its memory holds at power-on (`standard_cmos`), `nmi` what bit 7 of its index port masks.
    """

    __slots__ = (
        "_clock", "_cmos", "_events", "_flags", "_index", "_line", "_nmi", "_origin", "_seen", "nmi_masked"
    )  # fmt: skip
    state_type: ClassVar[type] = RtcState

    def __init__(self, clock: Clock, events: EventQueue, line: InterruptLine, cmos: bytes, nmi: NmiGate) -> None:
        self._clock = clock
        self._events = events
        self._line = line
        self._cmos = bytearray(cmos)
        self._nmi = nmi
        self._flags = 0
        self._index = 0
        self._origin = self._seen = clock.now()
        self.nmi_masked = False
        """Does bit 7 of port 0x70 keep NMI from the processor?"""
        events.register(_EVENT, self._due)

    def reset(self) -> None:
        """The RESET pin: interrupts are disabled and their flags cleared; clock, calendar and memory go on."""
        self._catch_up()
        self._cmos[REGISTER_B] &= ~(B_PIE | B_AIE | B_UIE | B_SQWE)
        self._flags = 0
        self._mask_nmi(False)
        self._follow()

    def read(self, offset: int, _size: AccessSize) -> int:
        """Read the register that the index selects; the index itself cannot be read."""
        if offset == 0:
            return 0xFF
        index = self._index
        if index > REGISTER_D and index != CENTURY:
            return self._cmos[index]
        self._catch_up()
        if index == REGISTER_A:
            return self._cmos[REGISTER_A] | (A_UIP if self._updating() else 0)
        if index == REGISTER_C:
            flags, self._flags = self._flags, 0
            self._follow()
            return flags | (C_IRQF if flags & self._cmos[REGISTER_B] else 0)
        if index == REGISTER_D:
            return D_VRT
        return self._cmos[index]

    def write(self, offset: int, _size: AccessSize, value: int) -> None:
        """Write the index and the mask of NMI, or the register that the index selects."""
        if offset == 0:
            self._index = value & (CMOS_SIZE - 1)
            self._mask_nmi(bool(value & NMI_MASK))
            return
        index = self._index
        if index in (REGISTER_C, REGISTER_D):
            return
        self._catch_up()
        if index == REGISTER_A:
            was_running = self._divider_runs()
            self._cmos[REGISTER_A] = value & ~A_UIP
            if self._divider_runs() and not was_running:
                self._origin = self._clock.now() - RELEASED_EARLY
        elif index == REGISTER_B:
            self._cmos[REGISTER_B] = value & ~B_UIE if value & B_SET else value
        else:
            self._cmos[index] = value
        self._follow()

    def save(self) -> RtcState:
        """Everything, as a value."""
        return RtcState(bytes(self._cmos), self._flags, self._index, self.nmi_masked, self._origin, self._seen)

    def restore(self, state: RtcState) -> None:
        """Take up a saved state; the line and the deadline are restored with the PIC and the event queue."""
        self._cmos = bytearray(state.cmos)
        self._flags = state.flags
        self._index = state.index
        self.nmi_masked = state.nmi_masked
        self._nmi.take_up(masked=state.nmi_masked)
        self._origin = state.origin_ns
        self._seen = state.seen_ns

    def _mask_nmi(self, masked: bool) -> None:
        self.nmi_masked = masked
        self._nmi.mask(masked)

    # ---------------------------------------------------------------------------------------- the divider chain

    def _divider_runs(self) -> bool:
        return self._cmos[REGISTER_A] & A_DIVIDER == A_DIVIDER_32_KHZ

    def _updates(self) -> bool:
        """Do update cycles take place?"""
        return self._divider_runs() and not self._cmos[REGISTER_B] & B_SET

    def _next_second(self, now: int) -> int:
        return now + SECOND - (now - self._origin) % SECOND

    def _updating(self) -> bool:
        now = self._clock.now()
        return self._updates() and self._next_second(now) - now <= UPDATE_NS

    def _pulse_shift(self) -> int | None:
        """The divider's tap: a pulse every 2^n periods of the crystal. The first two rates are those of 8 and 9."""
        rate = self._cmos[REGISTER_A] & A_RATE
        if rate == 0 or not self._divider_runs():
            return None
        return rate - 1 if rate > 2 else rate + 6

    def _pulses_until(self, now: int, shift: int) -> int:
        """The number of the last pulse at or before `now`."""
        return (now - self._origin) * CRYSTAL_HZ // (SECOND << shift)

    def _catch_up(self) -> None:
        """Do what the divider chain has caused since the last look, and drive the line."""
        now, seen = self._clock.now(), self._seen
        if now <= seen:
            return
        self._seen = now
        flags = self._flags
        shift = self._pulse_shift()
        if shift is not None and self._pulses_until(now, shift) > self._pulses_until(seen, shift):
            flags |= C_PF
        if self._updates():
            updates = (now - self._origin) // SECOND - (seen - self._origin) // SECOND
            if updates:
                flags |= C_UF
                distance = self._updates_to_alarm()
                if distance is not None and distance <= updates:
                    flags |= C_AF
                self._advance_calendar(updates)
        if flags != self._flags:
            self._flags = flags
            self._drive()

    def _drive(self) -> None:
        self._line(bool(self._flags & self._cmos[REGISTER_B] & _FLAGS))

    def _follow(self) -> None:
        """After anything that may have changed the interrupts: drive the line and set the next deadline."""
        self._drive()
        now = self._clock.now()
        awaited = self._cmos[REGISTER_B] & _FLAGS & ~self._flags
        deadlines = []
        shift = self._pulse_shift()
        if awaited & C_PF and shift is not None:
            pulse = self._pulses_until(now, shift) + 1
            deadlines.append(self._origin - (-pulse * (SECOND << shift) // CRYSTAL_HZ))
        if awaited & (C_UF | C_AF) and self._updates():
            second = self._next_second(now)
            distance = 1 if awaited & C_UF else self._updates_to_alarm()
            if distance is not None:
                deadlines.append(second + (distance - 1) * SECOND)
        if deadlines:
            self._events.schedule(_EVENT, min(deadlines))
        else:
            self._events.cancel(_EVENT)

    def _due(self) -> None:
        self._catch_up()
        self._follow()

    # ---------------------------------------------------------------------------------------- time and calendar

    def _decode(self, value: int) -> int:
        return value if self._cmos[REGISTER_B] & B_DM else (value >> 4) * 10 + (value & 0x0F)

    def _encode(self, value: int) -> int:
        return value if self._cmos[REGISTER_B] & B_DM else bcd(value)

    def _decode_hour(self, value: int) -> int:
        if self._cmos[REGISTER_B] & B_24_HOURS:
            return self._decode(value)
        hour = self._decode(value & ~HOURS_PM)
        if not 1 <= hour <= 12:
            return 24  # no hour
        return hour % 12 + (12 if value & HOURS_PM else 0)

    def _encode_hour(self, hour: int) -> int:
        if self._cmos[REGISTER_B] & B_24_HOURS:
            return self._encode(hour)
        return self._encode((hour - 1) % 12 + 1) | (HOURS_PM if hour >= 12 else 0)

    def _time_of_day(self) -> int:
        """Seconds since midnight; fields that hold no valid value count as the nearest."""
        cmos = self._cmos
        hours, minutes = min(self._decode_hour(cmos[HOURS]), 23), min(self._decode(cmos[MINUTES]), 59)
        return (hours * 60 + minutes) * 60 + min(self._decode(cmos[SECONDS]), 59)

    def _updates_to_alarm(self) -> int | None:
        """How many updates it takes until the time matches the alarm; None if it never does."""
        cmos = self._cmos
        choices = []
        for index, decode, limit in (
            (HOURS_ALARM, self._decode_hour, 24), (MINUTES_ALARM, self._decode, 60), (SECONDS_ALARM, self._decode, 60)
        ):  # fmt: skip
            value = cmos[index]
            if value & DO_NOT_CARE == DO_NOT_CARE:
                choices.append(range(limit))
            else:
                wanted = decode(value)
                if wanted >= limit:
                    return None
                choices.append(range(wanted, wanted + 1))
        now = self._time_of_day()
        hours, minutes, seconds = choices
        for hour in hours:
            for minute in minutes:
                begin = (hour * 60 + minute) * 60
                if begin + seconds[-1] > now:
                    return next(begin + second for second in seconds if begin + second > now) - now
        return (hours[0] * 60 + minutes[0]) * 60 + seconds[0] + _SECONDS_OF_DAY - now

    def _advance_calendar(self, updates: int) -> None:
        cmos = self._cmos
        year = _from_bcd(cmos[CENTURY]) * 100 + min(self._decode(cmos[YEAR]), 99)
        leap_like = 2000 + year % 400  # datetime ends with the year 9999, and calendars repeat after 400 years
        month = min(max(self._decode(cmos[MONTH]), 1), 12)
        day = min(max(self._decode(cmos[DAY_OF_MONTH]), 1), monthrange(leap_like, month)[1])
        before = datetime(leap_like, month, day)  # noqa: DTZ001 - the clock of a PC knows no time zone
        after = before + timedelta(seconds=self._time_of_day() + updates)
        weekday = min(max(cmos[DAY_OF_WEEK], 1), 7) - 1 + (after - before).days
        cmos[SECONDS], cmos[MINUTES] = self._encode(after.second), self._encode(after.minute)
        cmos[HOURS] = self._encode_hour(after.hour)
        cmos[DAY_OF_WEEK] = weekday % 7 + 1
        cmos[DAY_OF_MONTH], cmos[MONTH] = self._encode(after.day), self._encode(after.month)
        year += after.year - leap_like
        cmos[YEAR], cmos[CENTURY] = self._encode(year % 100), bcd(year // 100 % 100)


def bcd(value: int) -> int:
    """Two decimal digits, four bits each.

    >>> hex(bcd(59))
    '0x59'
    """
    return value // 10 << 4 | value % 10


def _from_bcd(value: int) -> int:
    return (value >> 4) % 10 * 10 + (value & 0x0F) % 10


# ---------------------------------------------------------------------------------------- what firmware keeps

EQUIPMENT: Final = 0x14
EQUIPMENT_FPU: Final = 0x02
"""A coprocessor; bits 5 and 4 zero: a display adapter with its own firmware, as a VGA is; bit 0 clear: no floppy."""
BASE_MEMORY: Final = 0x15
EXTENDED_MEMORY: Final = 0x17
CHECKSUM: Final = 0x2E
CHECKSUMMED: Final = range(0x10, 0x2E)
EXTENDED_MEMORY_FOUND: Final = 0x30
MEMORY_ABOVE_16_MIB: Final = 0x34
DISK_TYPES: Final = 0x12
DISK_C_TYPE: Final = 0x19
DISK_C_GEOMETRY: Final = 0x1B
USER_TYPE: Final = 47
_BASE_LIMIT: Final = 640
_MIB: Final = 1 << 20


def standard_cmos(memory_size: int, start: datetime, disk: DiskImage | None = None) -> bytes:
    """The 128 bytes as the firmware of a PC with this much memory and at most one fixed disk leaves them.

    The memory sizes are words, low byte first: base memory at 0x15 and extended memory, from 1 MByte on, at 0x17 and
    0x30, in KByte; memory above 16 MByte at 0x34, in units of 64 KByte. The checksum at 0x2E is the sum of the bytes
    0x10 to 0x2D, high byte first. A fixed disk is of the user's type 47, whose geometry stands at 0x1B.

    >>> from datetime import datetime
    >>> cmos = standard_cmos(64 << 20, datetime(2026, 1, 1))
    >>> int.from_bytes(cmos[0x17:0x19], "little"), int.from_bytes(cmos[0x34:0x36], "little") * 64
    (64512, 49152)
    """
    cmos = bytearray(CMOS_SIZE)
    cmos[SECONDS], cmos[MINUTES], cmos[HOURS] = bcd(start.second), bcd(start.minute), bcd(start.hour)
    cmos[DAY_OF_WEEK] = start.isoweekday() % 7 + 1
    cmos[DAY_OF_MONTH], cmos[MONTH] = bcd(start.day), bcd(start.month)
    cmos[YEAR], cmos[CENTURY] = bcd(start.year % 100), bcd(start.year // 100)
    cmos[REGISTER_A], cmos[REGISTER_B] = _POWER_ON_A, B_24_HOURS
    cmos[EQUIPMENT] = EQUIPMENT_FPU
    extended = min(max(memory_size - _MIB, 0) >> 10, 0xFFFF)
    for index, value in (
        (BASE_MEMORY, min(memory_size >> 10, _BASE_LIMIT)),
        (EXTENDED_MEMORY, extended),
        (EXTENDED_MEMORY_FOUND, extended),
        (MEMORY_ABOVE_16_MIB, min(max(memory_size - 16 * _MIB, 0) >> 16, 0xFFFF)),
    ):
        cmos[index : index + 2] = value.to_bytes(2, "little")
    if disk is not None:
        cmos[DISK_TYPES], cmos[DISK_C_TYPE] = 0xF0, USER_TYPE
        cmos[DISK_C_GEOMETRY : DISK_C_GEOMETRY + 9] = (
            disk.cylinders.to_bytes(2, "little") + bytes((HEADS,)) + b"\xff\xff\xc8"
            + disk.cylinders.to_bytes(2, "little") + bytes((SECTORS_PER_TRACK,))
        )  # fmt: skip
    cmos[CHECKSUM : CHECKSUM + 2] = sum(cmos[index] for index in CHECKSUMMED).to_bytes(2, "big")
    return bytes(cmos)
