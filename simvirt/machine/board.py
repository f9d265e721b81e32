"""The board: the devices of one PC or one VM, wired together.

The board knows no processor. It is given one number, the count of instructions retired, and offers in return what a
processor's pins see: ports to read and write, the INTR pin and its acknowledge cycle, the edge on the NMI pin, and the
moment until which nothing will happen by itself. Whoever drives it, the bare PC or a VMM, keeps one promise: it runs
the processor no further than `next_deadline()` and then calls `run_due()`.

Which devices there are, the machine's description says (`simvirt.machine.hardware`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from simvirt.errors import MonitorError, SnapshotError
from simvirt.machine.bus import BusState, PortBus
from simvirt.machine.clock import GuestClock
from simvirt.machine.devices.keyboard_controller import KeyboardController
from simvirt.machine.devices.keys import strokes
from simvirt.machine.devices.nmi_gate import NmiGate
from simvirt.machine.devices.pic import Irq
from simvirt.machine.devices.port_a import PortA
from simvirt.machine.devices.port_b import PortB
from simvirt.machine.devices.uart import Uart16550
from simvirt.machine.devices.vga import TEXT_BUFFER, TEXT_BUFFER_SIZE, Vga
from simvirt.machine.devices.virtio_console import VirtioConsole
from simvirt.machine.devices.x87_error import X87Error
from simvirt.machine.direct_memory import DirectMemory
from simvirt.machine.event_queue import Attention, EventQueue
from simvirt.machine.hardware import DeviceRow, Hardware, Wiring
from simvirt.machine.interrupt_system import InterruptSystem
from simvirt.machine.memory_bus import MemoryBus
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.bus import AccessSize
    from simvirt.machine.devices import Device
    from simvirt.machine.devices.screen import Screen
    from simvirt.x86.addresses import Port


D = TypeVar("D")


@dataclass(frozen=True, slots=True)
class BoardState:
    """Everything that a board knows, as a value that msgspec can encode."""

    skipped_ns: int
    events: dict[str, int]
    devices: dict[str, Any]
    """By the name of the row. Decoded from a file, a state is still a plain mapping; `Board.restore` checks it."""
    bus: BusState
    console: bytes
    exit_status: int | None
    reset_requested: bool
    powered_off: bool = False
    printed_last: str = ""
    time_stamp_adjustment: int = 0
    """As `GuestClock` has it."""


class Board:
    """The devices of one PC or VM.

    `retired` gives the number of guest instructions retired. `on_intr` is told when the INTR pin changes,
    `on_console` every byte of console output after it has been added to `console`.

    >>> from simvirt.x86.addresses import Port
    >>> board = Board(retired=lambda: 0)
    >>> for byte in b"hi":
    ...     board.write_port(Port(0x3F8), 1, byte)
    >>> board.console
    bytearray(b'hi')
    >>> board.write_port(Port(0xF4), 1, 7)
    >>> board.exit_status
    7
    """

    __slots__ = (
        "_event_irq",
        "_nmi_events",
        "_nmi_rose",
        "a20",
        "attention",
        "bus",
        "clock",
        "console",
        "devices",
        "direct_memory",
        "ended",
        "events",
        "exit_status",
        "hardware",
        "interrupts",
        "memory",
        "nmi_gate",
        "on_a20",
        "on_console",
        "on_ignne",
        "on_nmi",
        "pace",
        "powered_off",
        "printed_last",
        "reset_requested",
    )

    def __init__(
        self,
        retired: Callable[[], int],
        hardware: Hardware | None = None,
        on_intr: Callable[[bool], None] | None = None,
        on_console: Callable[[int], None] | None = None,
    ) -> None:
        self.clock = GuestClock(retired)
        self.attention = Attention()
        """Does whoever drives this board have to look at deadlines, INTR and `ended` again?"""
        self.events = EventQueue(self.attention)
        self.bus = PortBus()
        self.memory = MemoryBus()
        self.direct_memory = DirectMemory()
        """The devices' way to the guest's memory; whoever drives the board connects it."""
        self.interrupts = InterruptSystem(self.attention, self._raise_nmi, on_intr)
        self.nmi_gate = NmiGate(self._raise_nmi)
        self.on_nmi: Callable[[], None] = lambda: None
        """Is told of an edge on the NMI pin; whoever drives the board sets it."""
        self.on_ignne: Callable[[], None] = lambda: None
        """Is told that IGNNE# is asserted, in answer to FERR#; likewise."""
        self._nmi_rose = False
        self.devices: dict[str, Device[Any]] = {}
        """The devices by the names of their rows."""
        self.console = bytearray()
        """What the guest has sent to its console since power-on."""
        self.printed_last = ""
        """The name of the device that the last byte of it came from."""
        self.exit_status: int | None = None
        """What the guest wrote to the debug-exit port first; None while it runs."""
        self.reset_requested = False
        """Has the guest pulled the reset line?"""
        self.powered_off = False
        """Has the guest turned the machine off?"""
        self.ended = False
        """Has it done any of them? Then the run is over."""
        self.a20 = True
        """Is address line 20 let through?"""
        self.on_a20: Callable[[bool], None] = lambda _level: None
        """Is told when that changes; whoever drives the board sets it."""
        self.on_console = on_console
        self.pace: Callable[[int], bool] | None = None
        """Asked before sleep skips time up to a deadline; False: something else has come up meanwhile."""
        self._event_irq: dict[str, Irq | None] = {}
        self._nmi_events: set[str] = set()
        self.hardware = Hardware() if hardware is None else hardware
        """The description that it was built from."""
        for row in self.hardware.rows:
            self._add(row)

    def read_port(self, port: Port, size: AccessSize) -> int:
        """IN: what the devices answer; all ones where there is none."""
        return self.bus.read(port, size)

    def write_port(self, port: Port, size: AccessSize, value: int) -> None:
        """OUT: hand the value to the devices."""
        self.bus.write(port, size, value)

    def interrupt_pending(self) -> bool:
        """The level of the INTR pin."""
        return self.interrupts.pending

    def acknowledge(self) -> int:
        """The INTA cycle: the vector of the interrupt to deliver. It is in service from then on."""
        return self.interrupts.acknowledge()

    def next_deadline(self) -> int | None:
        """The virtual time in nanoseconds until which no device does anything by itself; None when none ever will."""
        return self.events.next_deadline()

    def run_limit(self, instruction: int) -> int:
        """The count of instructions up to which no device does anything by itself, at most `instruction`."""
        deadline = self.events.earliest
        return instruction if deadline is None else min(instruction, deadline - self.clock.skipped)

    def run_due(self) -> None:
        """Let the devices do what is due by now."""
        clock, events = self.clock, self.events
        if events.earliest is not None:
            now = clock.retired() + clock.skipped
            if events.earliest <= now:
                events.run_due(now)

    def can_wake(self, *, interrupts: bool = True, nmi: bool = True) -> bool:
        """Whether, while the processor sleeps, an event that is pending can raise INTR or an NMI.

        Exact while the processor does nothing: then neither the masks nor what is in service can change, so an
        interrupt line that is blocked now stays blocked. `interrupts`, `nmi`: does the processor take them?
        """
        if interrupts and self.interrupt_pending():
            return True
        scheduled = self.events.save()
        if nmi and self.nmi_gate.open and any(name in self._nmi_events for name in scheduled):
            return True
        return interrupts and any(self._can_interrupt(event) for event in scheduled)

    def _can_interrupt(self, event: str) -> bool:
        """Would an interrupt that this event leads to get through now?"""
        local_apic = self.interrupts.local_apic
        if local_apic is not None and event == local_apic.TIMER_EVENT:
            return local_apic.timer_can_interrupt()
        irq = self._event_irq[event]
        return irq is not None and self.interrupts.can_deliver(irq)

    def awaits_input(self) -> bool:
        """Whether console input, were there any, would raise INTR: a guest that sleeps may be waiting for it."""
        uart, keyboard = self._device(Uart16550), self._device(KeyboardController)
        console = self._device(VirtioConsole)
        if console is not None and console.awaits_input() and self.interrupts.can_deliver(Irq.IRQ11):
            return True
        return (uart is not None and uart.input_interrupts() and self.interrupts.can_deliver(Irq.COM1)) or (
            keyboard is not None and keyboard.input_interrupts() and self.interrupts.can_deliver(Irq.KEYBOARD)
        )

    def sleep(self, *, interrupts: bool = True, nmi: bool = True) -> bool:
        """HLT: skip time from event to event until INTR is high or an NMI comes, or as long as `pace` allows.

        False when that can never be: the guest has halted for good, unless `awaits_input()`. Time then stands where
        it stood. `interrupts`, `nmi`: does the processor take them?
        """
        self._nmi_rose = False
        while not (interrupts and self.interrupt_pending()) and not (nmi and self._nmi_rose):
            deadline = self.events.next_deadline()
            if deadline is None or not self.can_wake(interrupts=interrupts, nmi=nmi):
                return False
            if self.pace is not None and not self.pace(deadline):
                return True
            self.clock.skip_to(deadline)
            self.run_due()
        return True

    def input(self, data: bytes) -> None:
        """Console input, to be received by the serial port, or by a virtio console if that has printed last.

        Raises:
            MonitorError: this board has no serial port.
        """
        console = self.devices.get(self.printed_last)
        if isinstance(console, VirtioConsole):
            console.receive(data)
            return
        uart = self._device(Uart16550)
        if uart is None:
            raise MonitorError(
                "this board has no serial port to receive console input: add one to its table of devices"
            )
        uart.receive(data)

    def type_keys(self, text: str) -> None:
        """Type a text on the keyboard; names in angle brackets are keys that type nothing (`keys.strokes`).

        Raises:
            UsageError: no key types one of the characters, or no key has such a name.
            MonitorError: this board has no keyboard.
        """
        keyboard = self._device(KeyboardController)
        if keyboard is None:
            raise MonitorError("this board has no keyboard to type on: add one to its table of devices")
        keyboard.type(strokes(text))

    def io_channel_check(self) -> None:
        """An error on the bus: an NMI, unless the guest has masked NMIs or disabled this check (`devices.port_b`).

        Raises:
            MonitorError: this board has no system control port B, where the error would stand.
        """
        port = self._device(PortB)
        if port is None:
            raise MonitorError("this board has no system control port B to latch the error: add one to its table")
        port.io_channel_check()

    def x87_error(self) -> None:
        """The processor asserts FERR#: IRQ 13, if this board has the latch for it."""
        latch = self._device(X87Error)
        if latch is not None:
            latch.ferr()

    def screen(self, read_memory: Callable[[Gpa, int], bytes]) -> Screen | None:
        """What the display adapter shows; None in a graphics mode, or without one."""
        vga = self._device(Vga)
        return None if vga is None else vga.screen(read_memory(Gpa(TEXT_BUFFER), TEXT_BUFFER_SIZE))

    def reset(self) -> None:
        """The reset line: devices return to power-on, nothing is scheduled. Time and console output stand."""
        self.events.clear()
        for device in self.devices.values():
            device.reset()
        self.exit_status = None
        self.reset_requested = self.powered_off = self.ended = False

    def save(self) -> BoardState:
        """Everything that this board knows, as a value."""
        return BoardState(
            skipped_ns=self.clock.save(),
            time_stamp_adjustment=self.clock.time_stamp_adjustment,
            events=self.events.save(),
            devices={name: device.save() for name, device in self.devices.items()},
            bus=self.bus.save(),
            console=bytes(self.console),
            exit_status=self.exit_status,
            reset_requested=self.reset_requested,
            powered_off=self.powered_off,
            printed_last=self.printed_last,
        )

    def restore(self, state: BoardState) -> None:
        """Take up a saved state. No callback is called: ask `interrupt_pending()` and `a20` afterwards.

        Raises:
            SnapshotError: it is the state of a board with other devices, or damaged. The board is then as it was.
        """
        if state.devices.keys() != self.devices.keys():
            raise SnapshotError(
                f"the snapshot is of a board with the devices {', '.join(state.devices)}, this one has "
                f"{', '.join(self.devices)}: restore it into a machine with the same devices"
            )
        states = {name: self._checked(name, state.devices[name]) for name in self.devices}
        self.events.restore(state.events)
        self.clock.restore(state.skipped_ns)
        self.clock.time_stamp_adjustment = state.time_stamp_adjustment
        self.bus.restore(state.bus)
        for name, device in self.devices.items():
            device.restore(states[name])
        self.console[:] = state.console
        self.exit_status = state.exit_status
        self.reset_requested = state.reset_requested
        self.powered_off = state.powered_off
        self.printed_last = state.printed_last
        self.ended = state.reset_requested or state.powered_off or state.exit_status is not None
        self.interrupts.restored()
        gate = self._device(PortA)
        self.a20 = gate is None or gate.a20

    def _add(self, row: DeviceRow) -> None:
        if row.name in self.devices:
            raise MonitorError(f"two devices are called '{row.name}': every row of the table needs a name of its own")
        wiring = Wiring(
            clock=self.clock,
            events=self.events,
            interrupts=self.interrupts,
            line=_unconnected if row.irq is None else self.interrupts.line(row.irq),
            nmi=self.nmi_gate,
            ignne=self._assert_ignne,
            console=partial(self._put_console, row.name),
            exit=self._end,
            reset=self._request_reset,
            power_off=self._power_off,
            wait=self._wait,
            a20=self._drive_a20,
            memory=self.direct_memory,
            hardware=self.hardware,
            built=tuple(self.devices.values()),
        )
        device = row.build(wiring)
        self.bus.claim(device, *row.ports, widths=row.widths)
        if row.memory is not None:
            self.memory.claim(device, row.name, row.memory)
        self.devices[row.name] = device
        # What a device registers while it is built can, when it is due, raise that device's interrupt and no other.
        for event in self.events.names:
            if self._event_irq.setdefault(event, row.irq) is row.irq and row.raises_nmi:
                self._nmi_events.add(event)

    def _checked(self, name: str, state: object) -> object:
        kind = self.devices[name].state_type
        if isinstance(state, kind):
            return state
        try:
            return msgspec.convert(state, kind)
        except msgspec.ValidationError as error:
            raise SnapshotError(
                f"the snapshot's state of '{name}' is damaged or of another version: {error}"
            ) from error

    def _device(self, kind: type[D]) -> D | None:
        """The device of this class, if there is one."""
        return next((device for device in self.devices.values() if isinstance(device, kind)), None)

    def _put_console(self, device: str, byte: int) -> None:
        self.printed_last = device
        self.console.append(byte)
        if self.on_console is not None:
            self.on_console(byte)

    def _end(self, status: int) -> None:
        if self.exit_status is None:
            self.exit_status = status
        self.ended = self.attention.needed = True

    def _wait(self, nanoseconds: int) -> None:
        """An access that takes time. Whatever is due at its end or earlier ends it, and happens behind the access."""
        end = self.clock.now() + nanoseconds
        deadline = self.events.next_deadline()
        self.clock.skip_to(end if deadline is None else min(end, deadline))
        self.attention.needed = True

    def _request_reset(self) -> None:
        self.reset_requested = self.ended = self.attention.needed = True

    def _power_off(self) -> None:
        self.powered_off = self.ended = self.attention.needed = True

    def _raise_nmi(self) -> None:
        self._nmi_rose = True
        self.on_nmi()

    def _assert_ignne(self) -> None:
        self.on_ignne()

    def _drive_a20(self, is_open: bool) -> None:
        self.a20 = is_open
        self.on_a20(is_open)


def _unconnected(_level: bool) -> None:
    """A wire that leads nowhere."""
