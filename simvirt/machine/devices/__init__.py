"""The devices of the PC, one module each, written from their data sheets.

A device is a small class with mutable state. It knows the pins that it is wired to (an interrupt line, a clock, a
console) and nothing of who drives it: the same class serves the bare PC and every VM. The board
(`simvirt.machine.board`) wires the devices together.

=====================  ==========================================  ===============================
module                 chip                                        ports
=====================  ==========================================  ===============================
`pic`, `pic_chip`      two 8259A interrupt controllers             0x20-0x21, 0xA0-0xA1, 0x4D0-0x4D1
`pit`, `counter`       8254 interval timer and one counter of it   0x40-0x43
`keyboard_controller`  8042 keyboard controller                    0x60, 0x64
`keyboard`, `keys`     the keyboard behind it
`port_b`               system control port B: errors, speaker      0x61
`nmi_gate`             from the errors of port B to the NMI pin
`rtc`                  MC146818 clock, memory and the mask of NMI  0x70-0x71
`port_a`               system control port A: A20, reset           0x92
`vga`, `screen`        VGA registers, and the text on the screen   0x3B4-0x3DA
`x87_error`            FERR#, IRQ 13 and IGNNE#                    0xF0-0xF1
`debug_exit`           ends the run, as QEMU's isa-debug-exit      0xF4-0xF7
`uart`                 16550A serial port COM1, the console        0x3F8-0x3FF
`local_apic`           the processor's local APIC                  memory at 0xFEE00000
`io_apic`              82093AA I/O APIC                            memory at 0xFEC00000
`power_management`     ACPI: power off, power-management timer     0x600-0x60B
`virtio_block`         a virtio disk, with `virtio_mmio`, `virtqueue` memory at 0xFEB00000
`virtio_console`       a virtio console                            memory at 0xFEB01000
`ata`                  a disk on the primary ATA channel           0x1F0-0x1F7, 0x3F6
`pci`                  PCI configuration space and host bridge     0xCF8, 0xCFC-0xCFF
`reset_control`        reset control register                      0xCF9
=====================  ==========================================  ===============================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, TypeAlias, TypeVar

from simvirt.machine.bus import PortDevice

InterruptLine: TypeAlias = Callable[[bool], None]
"""A wire to an interrupt controller's input: call it with the level. Only changes count."""

S = TypeVar("S")


class Device(PortDevice, Protocol[S]):
    """A device that the board can hold: ports, reset, and a state that a snapshot can hold.

    `S` is a frozen dataclass of integers, booleans, bytes, strings, None, and tuples, dictionaries or dataclasses of
    such.
    """

    state_type: ClassVar[type]
    """The class of S, by which a snapshot that comes from a file is checked."""

    def reset(self) -> None:
        """Return to the power-on state."""
        ...

    def save(self) -> S:
        """Everything that the device knows, as a value."""
        ...

    def restore(self, state: S, /) -> None:
        """Take up a saved state, silently: lines and events are not touched, for theirs is restored with them."""
        ...
