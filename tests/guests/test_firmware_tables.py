"""The firmware's tables: by their own checksums, by ACPICA's disassembler where it is, by how a guest finds them."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from simvirt.guests import aml
from simvirt.guests.firmware_tables import TABLES, TABLES_END, firmware_tables, rsdp
from simvirt.machine.devices import io_apic, local_apic, power_management

if TYPE_CHECKING:
    from pathlib import Path


def at(address: int, size: int) -> bytes:
    return firmware_tables()[address - TABLES : address - TABLES + size]


def tables() -> dict[bytes, bytes]:
    """The tables that a system finds from the RSDP, by signature."""
    signature, _, _, revision, root, length, extended, _ = struct.unpack("<8sB6sBIIQI", at(rsdp(), 36))
    assert (signature, revision, length) == (b"RSD PTR ", 2, 36)
    assert sum(at(rsdp(), 20)) & 0xFF == sum(at(rsdp(), 36)) & 0xFF == 0
    found = {}

    def read(address: int) -> bytes:
        table = at(address, struct.unpack("<I", at(address + 4, 4))[0])
        assert sum(table) & 0xFF == 0
        found[table[:4]] = table
        return table

    old, new = read(root)[36:], read(extended)[36:]
    assert struct.unpack("<2I", old) == struct.unpack("<2Q", new)
    for (address,) in struct.iter_unpack("<Q", new):
        read(address)
    facs, dsdt = struct.unpack("<2I", found[b"FACP"][36:44])
    assert (at(facs, 4), facs % 64) == (b"FACS", 0)
    read(dsdt)
    return found


def test_a_system_finds_every_table_from_the_pointer() -> None:
    assert rsdp() % 16 == 0
    found = tables()
    assert set(found) == {b"RSDT", b"XSDT", b"FACP", b"APIC", b"DSDT"}
    assert struct.unpack_from("<I", found[b"APIC"], 36)[0] == local_apic.BASE
    assert struct.pack("<I", io_apic.BASE) in found[b"APIC"]
    assert struct.unpack_from("<I", found[b"FACP"], 56)[0] == power_management.BASE
    assert TABLES + len(firmware_tables()) <= TABLES_END


def test_the_multiprocessor_table() -> None:
    image = firmware_tables()
    place = next(at for at in range(0, len(image), 16) if image[at : at + 4] == b"_MP_")
    pointer = image[place : place + 16]
    table = struct.unpack("<I", pointer[4:8])[0]
    size, _, checksum = struct.unpack("<HBB", at(table + 4, 4))
    assert checksum
    assert at(table, 4) == b"PCMP"
    assert sum(pointer) & 0xFF == sum(at(table, size)) & 0xFF == 0
    count, entries, kinds = struct.unpack("<H", at(table + 34, 2))[0], at(table + 44, size - 44), []
    while entries:
        kinds.append(entries[0])
        entries = entries[20 if entries[0] == 0 else 8 :]
    assert (len(kinds), sorted(set(kinds)), kinds.count(0)) == (count, [0, 1, 2, 3, 4], 1)


@pytest.mark.parametrize("size", [10, 61, 62, 63, 64, 4000, 5000, 70_000])
def test_lengths_of_packages(size: int) -> None:
    """ACPI Specification §20.2.4: the length counts its own bytes."""
    encoded = aml.scope("\\_SB", bytes(size))[1:]
    more = encoded[0] >> 6
    length = encoded[0] & 0x3F if not more else encoded[0] & 0xF | int.from_bytes(encoded[1 : 1 + more], "little") << 4
    assert length == len(encoded)


@pytest.mark.skipif(shutil.which("iasl") is None, reason="no iasl")
def test_acpica_reads_them(tmp_path: Path) -> None:
    for signature, table in tables().items():
        path = tmp_path / f"{signature.decode()}.dat"
        path.write_bytes(table)
        done = subprocess.run(
            ["iasl", "-d", path], capture_output=True, text=True, cwd=tmp_path, timeout=60, check=True
        )
        assert "Error" not in done.stdout + done.stderr
        assert path.with_suffix(".dsl").exists()
    source = (tmp_path / "DSDT.dsl").read_text()
    assert all(word in source for word in ("Device (PCI0)", 'EisaId ("PNP0501")', "_S5", "0xFDFFFFFF"))
