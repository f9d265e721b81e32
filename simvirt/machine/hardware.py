"""The description of a machine: which devices it has, where they sit, and what they are told of it.

A description is a value. `Board` builds its devices from it, row by row, so a machine without a device pays nothing
for that. A new device is one module and one row of `DEVICES` (docs/how-to/add-a-device.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, TypeVar

from simvirt.errors import MonitorError
from simvirt.machine.devices import io_apic, local_apic, power_management
from simvirt.machine.devices.ata import COMMAND_BLOCK, CONTROL_BLOCK, AtaDisk
from simvirt.machine.devices.debug_exit import DebugExit
from simvirt.machine.devices.io_apic import IoApic
from simvirt.machine.devices.keyboard_controller import KeyboardController
from simvirt.machine.devices.local_apic import LocalApic
from simvirt.machine.devices.pci import ADDRESS_PORTS, DATA_PORTS, PciData, PciHost
from simvirt.machine.devices.pic import Irq
from simvirt.machine.devices.pit import Pit8254
from simvirt.machine.devices.port_a import PortA
from simvirt.machine.devices.port_b import PortB
from simvirt.machine.devices.power_management import PowerManagement
from simvirt.machine.devices.reset_control import ResetControl
from simvirt.machine.devices.rtc import Mc146818, standard_cmos
from simvirt.machine.devices.uart import Uart16550
from simvirt.machine.devices.vga import PORTS as VGA_PORTS
from simvirt.machine.devices.vga import Vga
from simvirt.machine.devices.virtio_block import VirtioBlock
from simvirt.machine.devices.virtio_console import VirtioConsole
from simvirt.machine.devices.x87_error import X87Error
from simvirt.x86.addresses import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from simvirt.machine.bus import AccessSize
    from simvirt.machine.clock import TimeStampClock
    from simvirt.machine.devices import Device, InterruptLine
    from simvirt.machine.devices.nmi_gate import NmiGate
    from simvirt.machine.direct_memory import DirectMemory
    from simvirt.machine.disk import DiskImage
    from simvirt.machine.event_queue import EventQueue
    from simvirt.machine.interrupt_system import InterruptSystem

D = TypeVar("D")


class MachineFeature(Enum):
    """What a machine can have beyond the usual; the value is its name on the command line."""

    VIRTIO_CONSOLE = "virtio-console"
    KVM = "kvm"
    """KVM's interface for guests, which a VMM offers (`simvirt.vmm.kvm_interface`)."""


DEFAULT_MEMORY: Final = 64 << 20
DEFAULT_START_TIME: Final = datetime(2026, 1, 1)  # noqa: DTZ001 - the clock of a PC knows no time zone


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a device can be connected to while it is built."""

    clock: TimeStampClock
    events: EventQueue
    interrupts: InterruptSystem
    """The interrupt controllers; a device that drives one line takes `line` instead."""
    line: InterruptLine
    """The interrupt line of the row's `irq`; leads nowhere when the row names none."""
    nmi: NmiGate
    """The way to the processor's NMI pin; a card that has met an error calls `PortB.io_channel_check` of its peer."""
    console: Callable[[int], None]
    """Takes a byte of console output."""
    exit: Callable[[int], None]
    """Ends the run with a status."""
    reset: Callable[[], None]
    """Pulls the reset line of the whole machine."""
    power_off: Callable[[], None]
    """Turns the machine off."""
    wait: Callable[[int], None]
    """Lets nanoseconds pass while the processor waits for the device, up to the next deadline of any device."""
    ignne: Callable[[], None]
    """Asserts IGNNE#, for as long as the processor asserts FERR#."""
    a20: Callable[[bool], None]
    """Is told when address line 20 is let through, and when not."""
    memory: DirectMemory
    """The guest's memory, for a device that reaches it by itself."""
    hardware: Hardware
    """The description of the machine that the device becomes a part of."""
    built: Sequence[Device[Any]]
    """The devices of the rows above."""

    def peer(self, kind: type[D]) -> D:
        """The device of this class from a row above.

        Raises:
            MonitorError: no row above has one.
        """
        for device in self.built:
            if isinstance(device, kind):
                return device
        raise MonitorError(
            f"a device needs a {kind.__name__}, and no row above its own in the table of devices has one"
        )


@dataclass(frozen=True, slots=True)
class DeviceRow:
    """One row of the table: a device, how it is built, and where it sits."""

    name: str
    """Its key in a snapshot."""
    build: Callable[[Wiring], Device[Any]]
    ports: tuple[range, ...]
    irq: Irq | None = None
    raises_nmi: bool = False
    """Can what the device has scheduled end in an NMI, and so wake a processor that sleeps with IF = 0?"""
    widths: tuple[AccessSize, ...] = (1,)
    memory: range | None = None
    """Guest-physical addresses of registers in memory, whole pages: `read` and `write` count offsets from the first."""


def _pit(wiring: Wiring) -> Pit8254:
    pit = Pit8254(wiring.clock, wiring.events, wiring.line)
    wiring.interrupts.pic.follow(Irq.TIMER, pit)
    return pit


def _port_b(wiring: Wiring) -> PortB:
    return PortB(wiring.clock, wiring.peer(Pit8254), wiring.wait, wiring.nmi)


def _rtc(wiring: Wiring) -> Mc146818:
    hardware = wiring.hardware
    cmos = standard_cmos(hardware.memory_size, hardware.start_time, hardware.disk)
    return Mc146818(wiring.clock, wiring.events, wiring.line, cmos, wiring.nmi)


def _uart(wiring: Wiring) -> Uart16550:
    return Uart16550(wiring.clock, wiring.events, wiring.line, wiring.console)


def _keyboard_controller(wiring: Wiring) -> KeyboardController:
    return KeyboardController(
        wiring.clock,
        wiring.events,
        wiring.line,
        wiring.peer(PortA),
        lambda: wiring.interrupts.can_deliver(Irq.KEYBOARD),
    )


def _local_apic(wiring: Wiring) -> LocalApic:
    local_apic = LocalApic(wiring.clock, wiring.events, wiring.wait)
    wiring.interrupts.connect_local_apic(local_apic)
    return local_apic


def _io_apic(wiring: Wiring) -> IoApic:
    wiring.interrupts.io_apic = IoApic(wiring.peer(LocalApic))
    return wiring.interrupts.io_apic


def _power_management(wiring: Wiring) -> PowerManagement:
    return PowerManagement(wiring.clock, wiring.events, wiring.line, wiring.wait, wiring.power_off)


def _pages(base: int) -> range:
    return range(base, base + PAGE_SIZE)


DEVICES: Final[tuple[DeviceRow, ...]] = (
    DeviceRow("pic", lambda wiring: wiring.interrupts.pic, (range(0x20, 0x22), range(0xA0, 0xA2), range(0x4D0, 0x4D2))),
    DeviceRow("pit", _pit, (range(0x40, 0x44),), Irq.TIMER),
    DeviceRow("port-b", _port_b, (range(0x61, 0x62),)),
    DeviceRow("port-a", lambda wiring: PortA(wiring.a20, wiring.reset), (range(0x92, 0x93),)),
    DeviceRow("keyboard", _keyboard_controller, (range(0x60, 0x61), range(0x64, 0x65)), Irq.KEYBOARD),
    DeviceRow("vga", lambda _wiring: Vga(), VGA_PORTS),
    DeviceRow("pci", lambda _wiring: PciHost(), (ADDRESS_PORTS,), widths=(4,)),
    DeviceRow("pci-data", lambda wiring: PciData(wiring.peer(PciHost)), (DATA_PORTS,), widths=(1, 2, 4)),
    DeviceRow("reset-control", lambda wiring: ResetControl(wiring.reset), (range(0xCF9, 0xCFA),)),
    DeviceRow("rtc", _rtc, (range(0x70, 0x72),), Irq.RTC),
    DeviceRow("local-apic", _local_apic, (), memory=_pages(local_apic.BASE)),
    DeviceRow("io-apic", _io_apic, (), memory=_pages(io_apic.BASE)),
    DeviceRow("power-management", _power_management, (power_management.PORTS,), Irq.IRQ9, widths=(1, 2, 4)),
    DeviceRow("com1", _uart, (range(0x3F8, 0x400),), Irq.COM1),
    DeviceRow("x87-error", lambda wiring: X87Error(wiring.line, wiring.ignne), (range(0xF0, 0xF2),), Irq.FPU),
    DeviceRow("debug-exit", lambda wiring: DebugExit(wiring.exit), (range(0xF4, 0xF8),), widths=(1, 2, 4)),
)
"""The devices of the PC."""


def _ata(wiring: Wiring) -> AtaDisk:
    disk = wiring.hardware.disk
    assert disk is not None  # the row is there for a disk
    return AtaDisk(wiring.clock, wiring.events, wiring.line, disk)


ATA: Final = DeviceRow("ata", _ata, (COMMAND_BLOCK, CONTROL_BLOCK), Irq.ATA_PRIMARY, widths=(1, 2, 4))
"""The row of a machine that has a disk."""


def _virtio_block(wiring: Wiring) -> VirtioBlock:
    disk = wiring.hardware.virtio_disk
    assert disk is not None  # the row is there for a disk
    return VirtioBlock(wiring.clock, wiring.events, wiring.line, wiring.memory, disk)


def _virtio_console(wiring: Wiring) -> VirtioConsole:
    return VirtioConsole(wiring.clock, wiring.events, wiring.line, wiring.memory, wiring.console)


VIRTIO_BASE: Final = 0xFEB00000
VIRTIO_BLOCK: Final = DeviceRow("virtio-block", _virtio_block, (), Irq.IRQ10, memory=_pages(VIRTIO_BASE))
VIRTIO_CONSOLE: Final = DeviceRow(
    "virtio-console", _virtio_console, (), Irq.IRQ11, memory=_pages(VIRTIO_BASE + PAGE_SIZE)
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """The description of one machine."""

    memory_size: int = DEFAULT_MEMORY
    """Bytes of RAM, as the firmware's memory tells the guest."""
    start_time: datetime = DEFAULT_START_TIME
    """What the real-time clock shows at power-on."""
    devices: Sequence[DeviceRow] = DEVICES
    disk: DiskImage | None = None
    """The disk on the primary ATA channel; without one there is no channel."""
    virtio_disk: DiskImage | None = None
    """The disk that is a virtio device."""
    virtio_console: bool = False
    """Is there a virtio console? Console input goes to it when it has printed last."""

    @property
    def rows(self) -> tuple[DeviceRow, ...]:
        """The rows of all devices."""
        rows = tuple(self.devices)
        if self.disk is not None:
            rows = (*rows, ATA)
        return (*rows, *self.virtio_rows)

    @property
    def virtio_rows(self) -> tuple[DeviceRow, ...]:
        """The rows of the virtio devices, of which a guest learns from the firmware's tables."""
        rows = [VIRTIO_BLOCK] if self.virtio_disk is not None else []
        return (*rows, VIRTIO_CONSOLE) if self.virtio_console else tuple(rows)
