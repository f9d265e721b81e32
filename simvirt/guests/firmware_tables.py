"""The tables by which a PC's firmware describes the machine: ACPI's, and those of the MultiProcessor Specification.

Every machine has them in its ROM below 1 MiB, where systems look for them; a kernel that is loaded without firmware
finds them all the same. Sources: ACPI Specification 6.5, Chapter 5 "ACPI Software Programming Model"; MultiProcessor
Specification 1.4, Chapter 4 "MP Configuration Table".
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from simvirt.guests import aml
from simvirt.machine.devices import io_apic, local_apic, pci, power_management
from simvirt.machine.devices.pic import Irq
from simvirt.machine.interrupt_system import io_apic_input
from simvirt.x86.addresses import Gpa

if TYPE_CHECKING:
    from collections.abc import Sequence

TABLES: Final = Gpa(0xFE000)
"""Where they begin; below lies the firmware's code."""
TABLES_END: Final = Gpa(0xFFF00)
_OEM: Final = b"SIMVRT"
_OEM_TABLE: Final = b"SIMVIRT "
_CREATOR: Final = b"SIMV"
_PARAGRAPH: Final = 16
_PCI_MEMORY: Final = range(0xC000_0000, 0xFE00_0000)
_BOOT_ARCHITECTURE: Final = 0b11
"""Legacy devices, and an 8042 (Table 5.11)."""
_FIXED_FEATURES: Final = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 10
"""WBINVD works; there are no fixed power and sleep buttons; the timer has 32 bits; the reset register (Table 5.10)."""
_FADT_SIZE: Final = 244
_APIC_VERSION: Final = local_apic.VERSION & 0xFF
_ISA_LINES: Final = tuple(irq for irq in Irq if irq is not Irq.CASCADE)


def firmware_tables(virtio: Sequence[tuple[range, int]] = ()) -> bytes:
    """The tables as they lie from `TABLES` on; `virtio` are registers and interrupt line of the virtio devices."""
    at, placed = TABLES, bytearray()

    def place(data: bytes, alignment: int = _PARAGRAPH) -> int:
        placed.extend(b"\0" * (-len(placed) % alignment))
        placed.extend(data)
        return at + len(placed) - len(data)

    # Both pointers come first, and point ahead: their sizes are known.
    place(bytes(48))
    facs = place(b"FACS" + struct.pack("<I", 64) + bytes(56), 64)
    dsdt = place(_table(b"DSDT", 2, _dsdt(virtio)))
    fadt = place(_table(b"FACP", 4, _fadt(facs, dsdt)))
    madt = place(_table(b"APIC", 3, _madt()))
    rsdt = place(_table(b"RSDT", 1, struct.pack("<2I", fadt, madt)))
    xsdt = place(_table(b"XSDT", 1, struct.pack("<2Q", fadt, madt)))
    mp_table = place(_mp_table())
    placed[:36] = _rsdp(rsdt, xsdt)
    # The MultiProcessor Specification's pointer is on a paragraph of its own (§4.1).
    mp_pointer = place(_mp_pointer(mp_table))
    assert mp_pointer + 16 <= TABLES_END, "the firmware's tables have outgrown their place"
    return bytes(placed)


def rsdp() -> Gpa:
    """Where the Root System Description Pointer is, for boot protocols that tell it."""
    return TABLES


def _checked(data: bytes, at: int) -> bytes:
    """With the byte at `at` such that all bytes add up to zero."""
    patched = bytearray(data)
    patched[at] = -sum(patched) & 0xFF
    return bytes(patched)


def _table(signature: bytes, revision: int, content: bytes) -> bytes:
    """A system description table: its header (§5.2.6), and its content."""
    header = struct.pack("<4sIBB6s8sI4sI", signature, 36 + len(content), revision, 0, _OEM, _OEM_TABLE, 1, _CREATOR, 1)
    return _checked(header + content, 9)


def _rsdp(rsdt: int, xsdt: int) -> bytes:
    """§5.2.5.3; the checksum of the first 20 bytes is that of ACPI 1.0."""
    first = _checked(struct.pack("<8sB6sBI", b"RSD PTR ", 0, _OEM, 2, rsdt), 8)
    return _checked(first + struct.pack("<IQB3x", 36, xsdt, 0), 32)


def _fadt(facs: int, dsdt: int) -> bytes:
    """§5.2.9: where the power-management registers are."""
    pm = power_management
    table = bytearray(_FADT_SIZE)

    def put(offset: int, layout: str, *values: int) -> None:
        struct.pack_into(layout, table, offset, *values)

    def register(offset: int, size: int, port: int) -> None:
        """A generic address structure in I/O space (§5.2.3.2)."""
        put(offset, "<BBBBQ", 1, size * 8, 0, 0, port)

    put(36, "<II", facs, dsdt)
    put(46, "<H", Irq.IRQ9)
    put(56, "<I", pm.BASE + pm.STATUS)
    put(64, "<I", pm.BASE + pm.CONTROL)
    put(76, "<I", pm.BASE + pm.TIMER)
    put(88, "<BBBB", 4, 2, 0, 4)  # lengths of the event and control blocks, and of the timer
    put(96, "<HH", 0xFFFF, 0xFFFF)  # there are no C2 and C3
    put(108, "<B", 0x32)  # the century's place in the CMOS memory
    put(109, "<H", _BOOT_ARCHITECTURE)
    put(112, "<I", _FIXED_FEATURES)
    register(116, 1, 0xCF9)
    put(128, "<B", 0x06)
    put(132, "<QQ", facs, dsdt)
    register(148, 4, pm.BASE + pm.STATUS)
    register(172, 2, pm.BASE + pm.CONTROL)
    register(208, 4, pm.BASE + pm.TIMER)
    return bytes(table[36:])


def _madt() -> bytes:
    """§5.2.12: the processor, the I/O APIC, and what of its inputs is not as on the ISA bus."""
    entries = [
        struct.pack("<BBBBI", 0, 8, 0, 0, 1),
        struct.pack("<BBBBII", 1, 12, 0, 0, io_apic.BASE, 0),
        struct.pack("<BBBBIH", 2, 10, 0, Irq.TIMER, io_apic_input(Irq.TIMER), 0),
        struct.pack("<BBBBIH", 2, 10, 0, Irq.IRQ9, Irq.IRQ9, 0xD),  # the SCI: level triggered, active high
        struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1),  # NMI is at LINT1
    ]
    return struct.pack("<II", local_apic.BASE, 1) + b"".join(entries)


def _dsdt(virtio: Sequence[tuple[range, int]]) -> bytes:
    """The devices that ACPI systems do not find by themselves."""
    n, i = aml.name, aml.integer
    ps2 = aml.resources(aml.io(range(0x60, 0x61)), aml.io(range(0x64, 0x65)), aml.irq(Irq.KEYBOARD))
    off = aml.package(i(power_management.SOFT_OFF), i(power_management.SOFT_OFF), i(0), i(0))
    windows = aml.resources(
        aml.bus_numbers(0xFF),
        aml.io(range(pci.ADDRESS_PORTS.start, pci.ADDRESS_PORTS.start + 8)),
        aml.io_window(range(0x0CF8)),
        aml.io_window(range(0x0D00, 0x10000)),
        aml.memory_window(_PCI_MEMORY),
    )
    clock = aml.resources(aml.io(range(0x70, 0x72)), aml.irq(Irq.RTC))
    serial = aml.resources(aml.io(range(0x3F8, 0x400)), aml.irq(Irq.COM1))
    return n("\\_S5", off) + aml.scope(
        "\\_SB",
        aml.device("PCI0", n("_HID", aml.eisa_id("PNP0A03")), n("_UID", i(0)), n("_CRS", windows)),
        aml.device("KBD", n("_HID", aml.eisa_id("PNP0303")), n("_CRS", ps2)),
        aml.device("RTC", n("_HID", aml.eisa_id("PNP0B00")), n("_CRS", clock)),
        *(
            aml.device(
                f"VR{number:02}",
                n("_HID", aml.string("LNRO0005")),  # by which Linux knows such a device
                n("_UID", i(number)),
                n("_CRS", aml.resources(aml.memory(registers), aml.interrupt(irq, level=True))),
            )
            for number, (registers, irq) in enumerate(virtio)
        ),
        aml.device("COM1", n("_HID", aml.eisa_id("PNP0501")), n("_UID", i(1)), n("_CRS", serial)),
    )


def _mp_table() -> bytes:
    """The MP configuration table (§4.2, §4.3): the processor, the ISA bus, the I/O APIC, and where its inputs lead."""
    isa_bus = 0
    entries: Sequence[bytes] = [
        struct.pack("<BBBBII8x", 0, 0, _APIC_VERSION, 0b11, 0x600, 0x201),
        struct.pack("<BB6s", 1, isa_bus, b"ISA   "),
        struct.pack("<BBBBI", 2, 0, io_apic.VERSION & 0xFF, 1, io_apic.BASE),
        *(struct.pack("<BBHBBBB", 3, 0, 0, isa_bus, irq, 0, io_apic_input(irq)) for irq in _ISA_LINES),
        struct.pack("<BBHBBBB", 4, 3, 0, isa_bus, 0, 0xFF, 0),  # the 8259A at LINT0
        struct.pack("<BBHBBBB", 4, 1, 0, isa_bus, 0, 0xFF, 1),  # NMI at LINT1
    ]
    content = b"".join(entries)
    header = struct.pack(
        "<4sHBB8s12sIHHIHBB", b"PCMP", 44 + len(content), 4, 0, _OEM_TABLE, b"PC          ", 0, 0, len(entries),
        local_apic.BASE, 0, 0, 0,
    )  # fmt: skip
    return _checked(header + content, 7)


def _mp_pointer(table: int) -> bytes:
    """The MP floating pointer structure (§4.1): virtual wire mode is in force."""
    return _checked(struct.pack("<4sIBBBBBBBB", b"_MP_", table, 1, 4, 0, 0, 0, 0, 0, 0), 10)
