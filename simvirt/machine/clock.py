"""Virtual time: what a guest's instructions and its sleep amount to, in nanoseconds.

The PC is a 1 GHz machine that retires one instruction a cycle, so a retired instruction is one nanosecond; and while
the processor sleeps in HLT, time is skipped to the next event instead of being lived through::

    now = instructions retired + nanoseconds skipped

Nothing of the host's time enters, so a run is the same on every host, and a deadline in nanoseconds is also an
instruction count at which the processor can be stopped exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from simvirt.errors import MonitorError

if TYPE_CHECKING:
    from collections.abc import Callable


WORD: Final = (1 << 64) - 1


class Clock(Protocol):
    """What a device needs of time: the present moment."""

    def now(self) -> int:
        """Virtual time in nanoseconds since power-on."""
        ...


class TimeStampClock(Clock, Protocol):
    """Time for a part of the processor, which knows the time-stamp counter, too."""

    def time_stamp(self) -> int:
        """The time-stamp counter."""
        ...


class GuestClock:
    """The clock of one PC or VM: instructions retired plus time skipped in HLT.

    >>> retired = 0
    >>> clock = GuestClock(lambda: retired)
    >>> retired = 100
    >>> clock.now()
    100
    >>> clock.skip_to(1_000)
    >>> clock.now(), clock.skipped
    (1000, 900)
    >>> clock.instruction_at(1_500)
    600
    """

    __slots__ = ("retired", "skipped", "time_stamp_adjustment")

    def __init__(self, retired: Callable[[], int]) -> None:
        self.retired = retired
        """Gives the number of guest instructions retired since power-on."""
        self.skipped = 0
        """Nanoseconds that passed while the processor slept."""
        self.time_stamp_adjustment = 0
        """What WRMSR has moved the time-stamp counter by, modulo 2**64: IA32_TSC_ADJUST (SDM Vol. 3B §18.17.3)."""

    def now(self) -> int:
        """Virtual time in nanoseconds since power-on."""
        return self.retired() + self.skipped

    def time_stamp(self) -> int:
        """The time-stamp counter: a tick each nanosecond from power-on, but for what it has been moved by."""
        return self.now() + self.time_stamp_adjustment & WORD

    def skip_to(self, when_ns: int) -> None:
        """Let time pass to `when_ns` without an instruction. A moment that has passed already changes nothing."""
        ahead = when_ns - self.now()
        if ahead > 0:
            self.skipped += ahead

    def instruction_at(self, when_ns: int) -> int:
        """The retired count at which this clock shows `when_ns`, if nothing more is skipped until then.

        It lies in the past (it may be negative) when the moment does.
        """
        return when_ns - self.skipped

    def save(self) -> int:
        """What the clock itself knows: the nanoseconds skipped. The retired count is the processor's to save."""
        return self.skipped

    def restore(self, skipped_ns: int) -> None:
        """Take up a saved state.

        Raises:
            MonitorError: the value is negative; time does not run backwards.
        """
        if skipped_ns < 0:
            raise MonitorError(f"cannot restore a clock that skipped {skipped_ns} ns: skipped time is never negative")
        self.skipped = skipped_ns
