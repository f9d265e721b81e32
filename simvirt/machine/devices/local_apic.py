"""The local APIC of the processor, in xAPIC mode.

Sources: SDM Vol. 3A Chapter 11 "Advanced Programmable Interrupt Controller (APIC)"; MultiProcessor Specification 1.4,
§3.6.2.2 "Virtual Wire Mode". What they leave open, and what is decided here:

* There is one processor, whose APIC ID is 0: an interprocessor interrupt reaches it or nobody. INIT and start-up
  messages to itself are not delivered.
* The timer's clock runs at 1 GHz, a tick in each nanosecond of virtual time, before the divider.
* At power-on the APIC is as a PC's firmware leaves it, in virtual wire mode: enabled, LINT0 passes on what the 8259A
  wants, LINT1 is NMI. A system that does not know of the APIC never meets it.
* Registers are 32 bits wide. Reads of a part give that part; other writes than of a whole register are ignored.
* IA32_APIC_BASE cannot move the registers.

A program that waits by reading the current count over and over is made to wait: see `slow_reads`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Final

from simvirt.machine.devices.slow_reads import SlowReads, SlowReadsState

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import TimeStampClock
    from simvirt.machine.event_queue import EventQueue

BASE: Final = 0xFEE00000
"""Where the registers are after reset (SDM Vol. 3A §11.4.1)."""


class ApicRegister(IntEnum):
    """Offsets (SDM Vol. 3A Table 11-1)."""

    ID = 0x020
    VERSION = 0x030
    TPR = 0x080
    APR = 0x090
    PPR = 0x0A0
    EOI = 0x0B0
    REMOTE_READ = 0x0C0
    LDR = 0x0D0
    DFR = 0x0E0
    SVR = 0x0F0
    ISR = 0x100
    TMR = 0x180
    IRR = 0x200
    ESR = 0x280
    ICR_LOW = 0x300
    ICR_HIGH = 0x310
    LVT_TIMER = 0x320
    LVT_THERMAL = 0x330
    LVT_PERFORMANCE = 0x340
    LVT_LINT0 = 0x350
    LVT_LINT1 = 0x360
    LVT_ERROR = 0x370
    INITIAL_COUNT = 0x380
    CURRENT_COUNT = 0x390
    DIVIDE = 0x3E0


class DeliveryMode(IntEnum):
    """Bits 10:8 of the interrupt command register, an LVT entry, a redirection entry (SDM Vol. 3A Figure 11-8)."""

    FIXED = 0
    LOWEST_PRIORITY = 1
    SMI = 2
    NMI = 4
    INIT = 5
    START_UP = 6
    EXT_INT = 7


class TimerMode(IntEnum):
    """Bits 18:17 of the timer's LVT entry."""

    ONE_SHOT = 0
    PERIODIC = 1
    TSC_DEADLINE = 2


VERSION: Final = 0x0005_0014
"""An integrated APIC with six LVT entries (§11.4.8)."""
MASKED: Final = 1 << 16
LEVEL_TRIGGERED: Final = 1 << 15
SOFTWARE_ENABLE: Final = 1 << 8
SPURIOUS_VECTOR: Final = 0xFF
BROADCAST: Final = 0xFF
LEAST_VECTOR: Final = 16

# Bits of the error status register (§11.5.3).
SENT_ILLEGAL_VECTOR: Final = 1 << 5
RECEIVED_ILLEGAL_VECTOR: Final = 1 << 6
ILLEGAL_REGISTER: Final = 1 << 7

_R: Final = ApicRegister
_LVT_WRITABLE: Final = {
    _R.LVT_TIMER: 0x7_00FF,
    _R.LVT_THERMAL: 0x1_07FF,
    _R.LVT_PERFORMANCE: 0x1_07FF,
    _R.LVT_LINT0: 0x1_A7FF,
    _R.LVT_LINT1: 0x1_A7FF,
    _R.LVT_ERROR: 0x1_00FF,
}
_VECTOR_BLOCKS: Final = {_R.ISR: "_in_service", _R.TMR: "_level", _R.IRR: "_requested"}
_VECTOR_BYTES: Final = 32
_PLAIN: Final = {
    _R.ID: 0xFF00_0000, _R.TPR: 0xFF, _R.LDR: 0xFF00_0000, _R.DFR: 0xF000_0000, _R.SVR: 0x1FF, _R.ICR_LOW: 0xC_CFFF,
    _R.ICR_HIGH: 0xFF00_0000, _R.INITIAL_COUNT: 0xFFFF_FFFF, _R.DIVIDE: 0xB, **_LVT_WRITABLE,
}  # fmt: skip
"""Registers that hold what is written, and the bits that can be."""
_READ_ONLY: Final = frozenset({_R.VERSION, _R.PPR, _R.APR, _R.REMOTE_READ, _R.CURRENT_COUNT})
_FIRMWARE_VALUES: Final = {
    _R.DFR: 0xF000_0000,
    _R.SVR: SOFTWARE_ENABLE | SPURIOUS_VECTOR,
    _R.LVT_LINT0: DeliveryMode.EXT_INT << 8,
    _R.LVT_LINT1: DeliveryMode.NMI << 8,
}
_ALL_ONES_MODEL: Final = 0xF000_0000


@dataclass(frozen=True, slots=True)
class LocalApicState:
    """All that the APIC knows."""

    registers: tuple[int, ...]
    """In the order of their offsets."""
    requested: bytes
    """A bit for each vector, as `in_service` and `level`."""
    in_service: bytes
    level: bytes
    errors: int
    errors_shown: int
    started_at: int
    """When the timer's count was loaded."""
    deadline: int
    """IA32_TSC_DEADLINE."""
    reads: SlowReadsState


class LocalApic:
    """The local APIC.

    `on_change` is told when `interrupt_pending` or the way of the 8259A's INT through LINT0 may have changed,
    `on_nmi` of a non-maskable interrupt, `on_end_of_interrupt` of the vector whose level-triggered interrupt has been
    dealt with, and `wait` lets nanoseconds pass.

    :ivar interrupt_pending: does it ask the processor for an interrupt of its own?
    :ivar passes_8259: does what the 8259A wants reach the processor, by LINT0 in ExtINT mode?
    :ivar held_back: the class of the highest request that only the task priority holds back; 0 where there is none. It
        comes through as soon as the task priority is below that.
    """

    state_type: ClassVar[type] = LocalApicState
    TIMER_EVENT: ClassVar[str] = "local-apic.timer"

    def __init__(
        self,
        clock: TimeStampClock,
        events: EventQueue,
        wait: Callable[[int], None],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._events = events
        self._reads = SlowReads(clock, wait)
        self.on_change = on_change
        self.on_nmi: Callable[[], None] = lambda: None
        self.on_end_of_interrupt: Callable[[int], None] = lambda _vector: None
        self.on_held_back: Callable[[int], None] = lambda _priority_class: None
        self.interrupt_pending = False
        self.held_back = 0
        self._task_priority_memory: bytearray | memoryview = bytearray(1)
        self._task_priority_at = self._task_priority_known = 0
        events.register(self.TIMER_EVENT, self._timer_due)
        self._power_on()

    def _power_on(self) -> None:
        self._registers = dict.fromkeys((int(register) for register in _PLAIN), 0)
        self._registers |= {int(register): MASKED for register in _LVT_WRITABLE}
        self._registers |= {int(register): int(value) for register, value in _FIRMWARE_VALUES.items()}
        self._requested = self._in_service = self._level = 0
        self._errors = self._errors_shown = 0
        self._started_at = self._deadline = 0
        self._reads.restore(SlowReadsState())
        self._follow_lint0()

    # ---------------------------------------------------------------------------------------- interrupts

    @property
    def enabled(self) -> bool:
        """Bit 8 of the spurious-interrupt vector register."""
        return bool(self._registers[_R.SVR] & SOFTWARE_ENABLE)

    def _follow_lint0(self) -> None:
        """After anything that may have changed SVR or the entry of LINT0."""
        entry = self._registers[_R.LVT_LINT0]
        self.passes_8259 = self.enabled and not entry & MASKED and entry >> 8 & 7 == DeliveryMode.EXT_INT

    def drive_lint0(self) -> None:
        """The 8259A's INT has risen. Where LINT0 is no ExtINT, it is an interrupt of the entry's own."""
        entry = self._registers[_R.LVT_LINT0]
        if entry >> 8 & 7 != DeliveryMode.EXT_INT:
            self._raise_local(_R.LVT_LINT0)

    def accept(self, vector: int, *, level: bool = False) -> None:
        """An interrupt with this vector arrives (§11.8.4)."""
        if not self.enabled:
            return
        if vector < LEAST_VECTOR:
            self._error(RECEIVED_ILLEGAL_VECTOR)
            return
        bit = 1 << vector
        self._requested |= bit
        self._level = self._level | bit if level else self._level & ~bit
        self._update()

    def deliver(self, mode: int, vector: int, *, level: bool = False) -> None:
        """A message on the bus of the APICs for this processor."""
        if mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY):
            self.accept(vector, level=level)
        elif mode == DeliveryMode.NMI:
            self.on_nmi()

    def is_destination(self, destination: int, *, logical: bool) -> bool:
        """Is a message for this destination for this processor (§11.6.2)?"""
        if not logical:
            return destination in (self._registers[_R.ID] >> 24, BROADCAST)
        own = self._registers[_R.LDR] >> 24
        if self._registers[_R.DFR] & _ALL_ONES_MODEL == _ALL_ONES_MODEL:
            return bool(destination & own)
        return destination == BROADCAST or (destination >> 4 == own >> 4 and bool(destination & own & 0xF))

    def acknowledge(self) -> int:
        """The vector of the highest request, now in service; the spurious one if nothing may interrupt any more."""
        if not self.interrupt_pending:
            return self._registers[_R.SVR] & SPURIOUS_VECTOR
        vector = self._requested.bit_length() - 1
        self._requested &= ~(1 << vector)
        self._in_service |= 1 << vector
        if vector == self._registers[_R.LVT_TIMER] & 0xFF and self._events.pending(self.TIMER_EVENT) is None:
            self._schedule()
        self._update()
        return vector

    def timer_can_interrupt(self) -> bool:
        """Would the timer, were it due now, ask for an interrupt that the processor's priority lets through?"""
        entry = self._registers[_R.LVT_TIMER]
        return self.enabled and not entry & MASKED and self.lets_through(entry & 0xFF)

    def lets_through(self, vector: int) -> bool:
        """Is this vector's class above the processor's priority?"""
        return self.enabled and vector >= LEAST_VECTOR and vector >> 4 > self._processor_priority() >> 4

    @property
    def task_priority(self) -> int:
        """Bits 7:4 of the task-priority register, which CR8 is (§11.8.6)."""
        return self._task_priority_memory[self._task_priority_at] >> 4

    @task_priority.setter
    def task_priority(self, value: int) -> None:
        self._write_task_priority(value << 4)

    def keep_task_priority_in(self, memory: memoryview, at: int) -> None:
        """From now on the task-priority register is this byte, which others write too: the TPR shadow of a VMM."""
        memory[at] = self._task_priority_memory[self._task_priority_at]
        self._task_priority_memory, self._task_priority_at = memory, at

    def look_at_task_priority(self) -> None:
        """The byte may have been written: see what that changes."""
        if self._task_priority_memory[self._task_priority_at] != self._task_priority_known:
            self._update()

    def _write_task_priority(self, value: int) -> None:
        self._task_priority_memory[self._task_priority_at] = value
        self._update()

    def _processor_priority(self) -> int:
        """PPR (§11.8.3.1)."""
        task, service = self._task_priority_memory[self._task_priority_at], self._service_priority()
        return task if task >> 4 >= service >> 4 else service

    def _service_priority(self) -> int:
        return max(self._in_service.bit_length() - 1, 0) & 0xF0

    def _update(self) -> None:
        self._arbitrate()
        self.on_change()

    def _arbitrate(self) -> None:
        """Which request comes through, and which would but for the task priority."""
        self._task_priority_known = self._task_priority_memory[self._task_priority_at]
        highest = max(self._requested.bit_length() - 1, 0) >> 4
        self.interrupt_pending = highest > self._processor_priority() >> 4
        held_back = highest if not self.interrupt_pending and highest > self._service_priority() >> 4 else 0
        if held_back != self.held_back:
            self.held_back = held_back
            self.on_held_back(held_back)

    def _raise_local(self, register: ApicRegister) -> None:
        """An interrupt by the local vector table."""
        entry = self._registers[register]
        if entry & MASKED:
            return
        mode = DeliveryMode.FIXED if register in (_R.LVT_TIMER, _R.LVT_ERROR) else entry >> 8 & 7
        self.deliver(mode, entry & 0xFF)

    def _error(self, bit: int) -> None:
        self._errors |= bit
        entry = self._registers[_R.LVT_ERROR]
        if entry & 0xFF >= LEAST_VECTOR:
            self._raise_local(_R.LVT_ERROR)

    def _end_of_interrupt(self) -> None:
        """EOI (§11.8.5)."""
        vector = self._in_service.bit_length() - 1
        if vector < 0:
            return
        bit = 1 << vector
        self._in_service &= ~bit
        self._update()
        if self._level & bit:
            self.on_end_of_interrupt(vector)

    def _send(self, command: int) -> None:
        """An interprocessor interrupt (§11.6.1)."""
        shorthand, mode, vector = command >> 18 & 3, command >> 8 & 7, command & 0xFF
        if mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY) and vector < LEAST_VECTOR:
            self._error(SENT_ILLEGAL_VECTOR)
            return
        for_itself = shorthand in (1, 2)
        if shorthand == 0:
            destination = self._registers[_R.ICR_HIGH] >> 24
            for_itself = self.is_destination(destination, logical=bool(command & 1 << 11))
        if for_itself:
            self.deliver(mode, vector)

    # ---------------------------------------------------------------------------------------- the timer

    @property
    def tsc_deadline(self) -> int:
        """IA32_TSC_DEADLINE: 0 when the timer is not armed, or not in that mode (§11.5.4.1)."""
        return self._deadline

    @tsc_deadline.setter
    def tsc_deadline(self, value: int) -> None:
        if self._mode is TimerMode.TSC_DEADLINE:
            self._deadline = value
            self._schedule()

    def time_stamp_moved(self) -> None:
        """WRMSR has moved the time-stamp counter, and with it the moment of a deadline."""
        if self._mode is TimerMode.TSC_DEADLINE:
            self._schedule()

    @property
    def _mode(self) -> TimerMode:
        bits = self._registers[_R.LVT_TIMER] >> 17 & 3
        return TimerMode(bits) if bits < 3 else TimerMode.ONE_SHOT

    @property
    def _tick_ns(self) -> int:
        """Nanoseconds of one count (Figure 11-10)."""
        bits = self._registers[_R.DIVIDE]
        return 1 << ((bits & 3 | bits >> 1 & 4) + 1 & 7)

    @property
    def _period_ns(self) -> int:
        return self._registers[_R.INITIAL_COUNT] * self._tick_ns

    def _current_count(self) -> int:
        if self._mode is TimerMode.TSC_DEADLINE or not self._period_ns:
            return 0
        passed = (self._clock.now() - self._started_at) // self._tick_ns
        initial = self._registers[_R.INITIAL_COUNT]
        if self._mode is TimerMode.PERIODIC:
            return initial - passed % initial
        return max(initial - passed, 0)

    def _schedule(self) -> None:
        """Set the deadline of the timer's next interrupt. A masked timer counts, and nobody has to look."""
        due: int | None = None
        now = self._clock.now()
        if self._mode is TimerMode.TSC_DEADLINE:
            due = now + max(self._deadline - self._clock.time_stamp(), 0) if self._deadline else None
        elif self._period_ns:
            passed = now - self._started_at
            if self._mode is TimerMode.PERIODIC:
                due = self._started_at + (passed // self._period_ns + 1) * self._period_ns
            elif passed < self._period_ns:
                due = self._started_at + self._period_ns
        masked = self._registers[_R.LVT_TIMER] & MASKED and self._mode is not TimerMode.TSC_DEADLINE
        if due is None or masked:
            self._events.cancel(self.TIMER_EVENT)
        else:
            self._events.schedule(self.TIMER_EVENT, due)

    def _timer_due(self) -> None:
        if self._mode is TimerMode.TSC_DEADLINE:
            self._deadline = 0
        self._raise_local(_R.LVT_TIMER)
        # While its request waits, another one would change nothing: the timer is looked at when it has been taken.
        if self._mode is TimerMode.PERIODIC and not self._requested >> (self._registers[_R.LVT_TIMER] & 0xFF) & 1:
            self._schedule()

    # ---------------------------------------------------------------------------------------- registers

    def read(self, offset: int, size: AccessSize) -> int:
        """Read a register or a part of it."""
        within = offset & 0xF
        if within + size > 4:
            return 0
        return self._read_register(offset & ~0xF) >> 8 * within & (1 << 8 * size) - 1

    @staticmethod
    def _exists(offset: int) -> bool:
        return offset in _PLAIN or offset in _READ_ONLY or offset == _R.ESR or _R.ISR <= offset < _R.ESR

    def _read_register(self, register: int) -> int:
        if register == _R.TPR:
            return self._task_priority_memory[self._task_priority_at]
        if register in _PLAIN:
            return self._registers[register]
        if register == _R.CURRENT_COUNT:
            self._reads.look()
            return self._current_count()
        if register == _R.VERSION:
            return VERSION
        if register == _R.PPR:
            return self._processor_priority()
        if register == _R.ESR:
            return self._errors_shown
        if _R.ISR <= register < _R.ESR:
            block = _R.ISR if register < _R.TMR else _R.TMR if register < _R.IRR else _R.IRR
            bits: int = getattr(self, _VECTOR_BLOCKS[block])
            return bits >> 2 * (register - block) & 0xFFFF_FFFF
        if register not in _READ_ONLY and register != _R.EOI:
            self._error(ILLEGAL_REGISTER)
        return 0

    def write(self, offset: int, size: AccessSize, value: int) -> None:
        """Write a register."""
        if size != 4 or offset & 0xF:
            return
        if offset == _R.EOI:
            self._end_of_interrupt()
        elif offset == _R.ESR:
            self._errors_shown, self._errors = self._errors, 0
        elif offset in _PLAIN:
            self._write_register(ApicRegister(offset), value & _PLAIN[ApicRegister(offset)])
        elif not self._exists(offset):
            self._error(ILLEGAL_REGISTER)
        self.on_change()

    def _write_register(self, register: ApicRegister, value: int) -> None:
        registers = self._registers
        if register in _LVT_WRITABLE and not self.enabled:
            value |= MASKED
        if register is _R.DFR:
            value |= 0x0FFF_FFFF
        before = registers[register]
        if register is _R.DIVIDE:
            self._rebase(value)
            return
        registers[register] = value
        if register is _R.SVR and not value & SOFTWARE_ENABLE:
            for entry in _LVT_WRITABLE:
                registers[entry] |= MASKED
            self._schedule()
        elif register is _R.TPR:
            self._write_task_priority(value)
        elif register is _R.ICR_LOW:
            self._send(value)
        elif register is _R.INITIAL_COUNT:
            if self._mode is TimerMode.TSC_DEADLINE:
                registers[register] = before
            else:
                self._started_at = self._clock.now()
                self._schedule()
        elif register is _R.LVT_TIMER:
            if (before ^ value) >> 17 & 3 and TimerMode.TSC_DEADLINE in (before >> 17 & 3, value >> 17 & 3):
                registers[_R.INITIAL_COUNT] = self._deadline = 0  # another clock: disarmed (§11.5.4.1)
            self._schedule()
        self._follow_lint0()

    def _rebase(self, divide: int) -> None:
        """A new divider while the timer counts: it goes on from the count that it has."""
        registers = self._registers
        count, initial = self._current_count(), registers[_R.INITIAL_COUNT]
        registers[_R.DIVIDE] = divide
        self._started_at = self._clock.now() - (initial - count) * self._tick_ns
        self._schedule()

    # ---------------------------------------------------------------------------------------- state

    def reset(self) -> None:
        """Power-on, as the firmware leaves it."""
        self._power_on()
        self._task_priority_memory[self._task_priority_at] = 0
        self._events.cancel(self.TIMER_EVENT)
        self._update()

    def save(self) -> LocalApicState:
        """Everything, as a value."""
        self._registers[_R.TPR] = self._task_priority_memory[self._task_priority_at]
        return LocalApicState(
            tuple(self._registers[register] for register in sorted(_PLAIN)),
            self._requested.to_bytes(_VECTOR_BYTES, "little"),
            self._in_service.to_bytes(_VECTOR_BYTES, "little"),
            self._level.to_bytes(_VECTOR_BYTES, "little"),
            self._errors,
            self._errors_shown,
            self._started_at,
            self._deadline,
            self._reads.save(),
        )

    def restore(self, state: LocalApicState) -> None:
        """Take up a saved state; `on_change` is not called."""
        self._registers = {int(at): value for at, value in zip(sorted(_PLAIN), state.registers, strict=True)}
        self._requested, self._in_service, self._level = (
            int.from_bytes(bits, "little") for bits in (state.requested, state.in_service, state.level)
        )
        self._errors, self._errors_shown = state.errors, state.errors_shown
        self._started_at, self._deadline = state.started_at, state.deadline
        self._reads.restore(state.reads)
        self._task_priority_memory[self._task_priority_at] = self._registers[_R.TPR]
        self._follow_lint0()
        self._arbitrate()
