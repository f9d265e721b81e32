"""The extended page-table mechanism, by SDM Vol. 3C §29.3: what the processor makes of an EPT that a VMM gave it."""

from __future__ import annotations

import struct

import pytest

from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.addresses import Gpa, Hpa
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import EptViolation, ExitReason
from simvirt.x86.vmx.ept import EptEntry, EptPointer
from tests.support.vmx_rig import CODE, DATA, EPT_PAGES, HOLE, IDT, RAM, ROM_PAGE, STACK, F, Rig

READ, WRITE, EXECUTE = EptEntry.READ, EptEntry.WRITE, EptEntry.EXECUTE
PAGE = 0x1000
PT, PD = 0x40000, 0x41000
"""The guest's own page tables, where a test uses them."""


@pytest.fixture
def rig() -> Rig:
    return Rig()


def load(address: int) -> bytes:
    return b"\xa1" + address.to_bytes(4, "little")  # mov eax, [address]


def store(address: int) -> bytes:
    return b"\xa3" + address.to_bytes(4, "little")  # mov [address], eax


def jump(address: int) -> bytes:
    return b"\xb8" + address.to_bytes(4, "little") + b"\xff\xe0"  # mov eax, address; jmp eax


def violation(rig: Rig) -> EptViolation:
    return EptViolation.decode(rig.qualification)


def guest_paging(rig: Rig) -> None:
    """32-bit paging that maps the first 4 MiB to themselves; the page table's entries are not accessed yet."""
    rig.write(PT, struct.pack("<1024I", *(page << 12 | 3 for page in range(1024))))
    rig.write(PD, struct.pack("<I", PT | 0x23))
    rig.vmcs.write(F.GUEST_CR3, PD)
    rig.vmcs.write(F.GUEST_CR0, 0x8000_0011)


@pytest.mark.parametrize(
    ("rights", "code", "bits"),
    [
        (EptEntry(0), load(DATA), 0b000_001),
        (EptEntry(0), store(DATA), 0b000_010),
        (EptEntry(0), jump(DATA), 0b000_100),
        (READ, store(DATA), 0b001_010),
        (READ, jump(DATA), 0b001_100),
        (READ | EXECUTE, store(DATA), 0b101_010),
        (READ | WRITE, jump(DATA), 0b011_100),
    ],
)
def test_qualification_of_a_violation(rig: Rig, rights: EptEntry, code: bytes, bits: int) -> None:
    """Table 28-7: bits 2:0 the access, bits 5:3 what the entries allow, 7 and 8 a linear address's own page."""
    rig.ept.set_rights(Gpa(DATA), PAGE, rights)
    before = rig.read(DATA, 4)
    assert rig.run(code) is ExitReason.EPT_VIOLATION
    assert rig.qualification == bits | 1 << 7 | 1 << 8
    assert rig.vmcs.read(F.GUEST_PHYSICAL_ADDRESS) == rig.vmcs.read(F.GUEST_LINEAR_ADDRESS) == DATA
    assert rig.rip == (DATA if bits & 4 else CODE)
    assert rig.read(DATA, 4) == before


@pytest.mark.parametrize(
    ("rights", "code"), [(READ, load(DATA)), (READ | WRITE, store(DATA)), (READ | EXECUTE, jump(DATA))]
)
def test_what_the_entries_allow_does_not_exit(rig: Rig, rights: EptEntry, code: bytes) -> None:
    rig.write(DATA, b"\xf4")
    rig.ept.set_rights(Gpa(DATA), PAGE, rights)
    assert rig.run(code) is HostStop.HALTED


def test_the_instruction_runs_again_once_the_vmm_has_mapped_the_page(rig: Rig) -> None:
    rig.ept.unmap(Gpa(DATA), PAGE)
    rig.register(GeneralRegister.RAX, 0x1234)
    count = rig.cpu.count
    assert rig.run(store(DATA)) is ExitReason.EPT_VIOLATION
    assert rig.cpu.count == count
    rig.ept.map(Gpa(DATA), Hpa(RAM + DATA), PAGE)
    assert rig.non_root.enter(rig.cpu.count + 10) is HostStop.HALTED
    assert rig.read(DATA, 4) == b"\x34\x12\0\0"
    assert rig.cpu.count == count + 2


def test_rights_are_those_of_all_levels_together(rig: Rig) -> None:
    """A writable page below a directory entry that is read-only."""
    rig.ept.set_rights(Gpa(DATA), PAGE, READ | WRITE | EXECUTE)
    directory = rig.ept.walk(Gpa(DATA))[2]
    rig.memory.view[directory.at : directory.at + 1] = bytes([directory.value & 0xFF & ~2])
    rig.cpu.engine.flush_tlb()
    assert rig.run(store(DATA)) is ExitReason.EPT_VIOLATION
    assert violation(rig).readable
    assert not violation(rig).writable


def test_a_write_to_rom_is_a_violation_of_a_readable_page(rig: Rig) -> None:
    assert rig.run(store(ROM_PAGE)) is ExitReason.EPT_VIOLATION
    assert rig.qualification == 1 << 1 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8


# -------------------------------------------------------------------------------------------- both dimensions


def test_a_paging_structure_in_a_hole_is_a_violation_of_the_walk(rig: Rig) -> None:
    """Bit 8 is 0: the access was to a paging-structure entry; the linear address is the one under translation."""
    guest_paging(rig)
    rig.vmcs.write(F.GUEST_CR3, HOLE)
    assert rig.run(b"\x90") is ExitReason.EPT_VIOLATION
    assert rig.qualification == 1 | 1 << 7
    assert rig.vmcs.read(F.GUEST_PHYSICAL_ADDRESS) == HOLE + 4 * (CODE >> 22)
    assert rig.vmcs.read(F.GUEST_LINEAR_ADDRESS) >> 12 == CODE >> 12


def test_a_true_page_fault_comes_before_the_page_s_own_violation(rig: Rig) -> None:
    """The guest's tables have the first word: what they do not map never reaches the EPT."""
    guest_paging(rig)
    rig.write(PT + 4 * (DATA >> 12), bytes(4))
    rig.ept.unmap(Gpa(DATA), PAGE)
    assert rig.run(load(DATA)) is HostStop.HALTED
    assert rig.handler == 14
    assert rig.cpu.state.control_register(2) == DATA


def test_flags_cannot_be_set_in_a_read_only_page_table(rig: Rig) -> None:
    """To set an accessed flag the processor writes (§29.3.3.2); nothing else of the walk has been changed then."""
    guest_paging(rig)
    rig.ept.set_rights(Gpa(PT), PAGE, READ)
    assert rig.run(b"\x90") is ExitReason.EPT_VIOLATION
    assert violation(rig).write
    assert not violation(rig).to_page
    assert rig.vmcs.read(F.GUEST_PHYSICAL_ADDRESS) == PT + 4 * (CODE >> 12)
    rig.ept.set_rights(Gpa(PT), PAGE, READ | WRITE)
    assert rig.non_root.enter(rig.cpu.count + 10) is HostStop.HALTED
    assert rig.read(PT + 4 * (CODE >> 12), 1)[0] & 0x20


def test_with_accessed_and_dirty_flags_walks_count_as_writes(rig: Rig) -> None:
    """§29.3.5: then a read-only page table is a violation that says read and write."""
    guest_paging(rig)
    rig.ept.pointer = EptPointer(rig.ept.pointer.root, accessed_and_dirty=True)
    rig.vmcs.write(F.EPT_POINTER, rig.ept.pointer.encode())
    rig.ept.set_rights(Gpa(PD), PAGE, READ)
    assert rig.run(b"\x90") is ExitReason.EPT_VIOLATION
    assert rig.qualification & 0b100000011 == 0b11
    assert rig.vmcs.read(F.GUEST_PHYSICAL_ADDRESS) == PD


# -------------------------------------------------------------------------------------------- during delivery


def test_a_violation_during_a_delivery_tells_what_was_delivered(rig: Rig) -> None:
    """IDT-vectoring information (§28.2.4); the VMM maps the stack and injects the event again."""
    rig.ept.unmap(Gpa(STACK - PAGE), PAGE)
    assert rig.run(b"\xcd\x80") is ExitReason.EPT_VIOLATION
    assert violation(rig).write
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) == 1 << 31 | 4 << 8 | 0x80
    assert rig.length == 2
    assert rig.rip == CODE
    assert rig.register(GeneralRegister.RSP) == STACK


def test_a_violation_over_the_idt(rig: Rig) -> None:
    rig.ept.unmap(Gpa(IDT), PAGE)
    assert rig.run(b"\x0f\x0b") is ExitReason.EPT_VIOLATION
    assert rig.vmcs.read(F.GUEST_PHYSICAL_ADDRESS) == IDT + 8 * 6
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) == 1 << 31 | 3 << 8 | 6


# -------------------------------------------------------------------------------------------- misconfigurations


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry & ~7 | 2,  # write-only
        lambda entry: entry & ~7 | 6,  # write and execute without read
        lambda entry: entry & ~7 | 4,  # execute-only, which the capabilities do not offer
        lambda entry: entry & ~0x38 | 2 << 3,  # memory types that are reserved
        lambda entry: entry & ~0x38 | 3 << 3,
        lambda entry: entry & ~0x38 | 7 << 3,
        lambda entry: entry | 1 << 50,  # a reserved bit
    ],
)
def test_misconfigurations(rig: Rig, change: object) -> None:
    """§29.3.3.1. The exit has no qualification, and a guest-physical address."""
    assert callable(change)
    rig.ept.set_rights(Gpa(DATA), PAGE, READ | WRITE | EXECUTE)
    leaf = rig.ept.walk(Gpa(DATA))[-1]
    rig.memory.view[leaf.at : leaf.at + 8] = change(leaf.value).to_bytes(8, "little")
    rig.cpu.engine.flush_tlb()
    assert rig.run(load(DATA)) is ExitReason.EPT_MISCONFIGURATION
    assert rig.qualification == 0
    assert rig.vmcs.read(F.GUEST_PHYSICAL_ADDRESS) == DATA


def test_reserved_bits_of_a_table_and_of_a_large_page(rig: Rig) -> None:
    top = rig.ept.walk(Gpa(DATA))[0]
    for value in (top.value | 1 << 7, top.value | 1 << 3):
        rig.memory.view[top.at : top.at + 8] = value.to_bytes(8, "little")
        rig.cpu.engine.flush_tlb()
        assert rig.run(b"\x90") is ExitReason.EPT_MISCONFIGURATION
    rig.memory.view[top.at : top.at + 8] = top.value.to_bytes(8, "little")
    directory = rig.ept.walk(Gpa(DATA))[2]
    large = RAM | 1 << 12 | 0x80 | 6 << 3 | 7  # bits 20:12 of a 2-MByte page
    rig.memory.view[directory.at : directory.at + 8] = large.to_bytes(8, "little")
    rig.cpu.engine.flush_tlb()
    assert rig.run(b"\x90") is ExitReason.EPT_MISCONFIGURATION


@pytest.mark.parametrize("root", [0xF_FFFF_F000, 0x7000_0000])
def test_a_pointer_outside_memory(rig: Rig, root: int) -> None:
    """Reads give ones there, and an entry of ones is misconfigured."""
    rig.vmcs.write(F.EPT_POINTER, EptPointer(Hpa(root)).encode())
    assert rig.run(b"\x90") is ExitReason.EPT_MISCONFIGURATION


def test_an_ept_that_points_at_itself_ends(rig: Rig) -> None:
    """Four levels of one table: the walk ends after four, whatever page that is."""
    root = rig.ept.pointer.root
    rig.memory.view[root : root + PAGE] = struct.pack("<512Q", *([root | 0x37] * 512))
    rig.cpu.engine.flush_tlb()
    assert rig.run(b"\x90") in (ExitReason.EPT_VIOLATION, ExitReason.EPT_MISCONFIGURATION, ExitReason.TRIPLE_FAULT)


# -------------------------------------------------------------------------------------------- accessed and dirty flags


def test_accessed_and_dirty_flags(rig: Rig) -> None:
    """§29.3.5: accessed in every entry of a walk, dirty in the one that maps a page that is written."""
    rig.ept.set_rights(Gpa(DATA), PAGE, READ | WRITE | EXECUTE)
    rig.ept.pointer = EptPointer(rig.ept.pointer.root, accessed_and_dirty=True)
    rig.vmcs.write(F.EPT_POINTER, rig.ept.pointer.encode())
    assert rig.run(load(DATA)) is HostStop.HALTED
    steps = rig.ept.walk(Gpa(DATA))
    assert all(step.value & EptEntry.ACCESSED for step in steps)
    assert not steps[-1].value & EptEntry.DIRTY
    assert rig.run(load(DATA) + store(DATA)) is HostStop.HALTED
    assert rig.ept.walk(Gpa(DATA))[-1].value & EptEntry.DIRTY
    dirty = dict(rig.ept.take_dirty())
    assert DATA in dirty
    assert STACK not in dirty
    assert not dict(rig.ept.take_dirty())
    assert rig.run(store(DATA)) is HostStop.HALTED
    assert DATA in dict(rig.ept.take_dirty())


def test_without_them_the_flags_stay(rig: Rig) -> None:
    rig.ept.set_rights(Gpa(DATA), PAGE, READ | WRITE | EXECUTE)
    assert rig.run(store(DATA)) is HostStop.HALTED
    assert not any(step.value & (EptEntry.ACCESSED | EptEntry.DIRTY) for step in rig.ept.walk(Gpa(DATA)))


# -------------------------------------------------------------------------------------------- page-modification logging

LOG = 0x8_1000
PML_CONTROL = 17


def logging(rig: Rig, index: int) -> None:
    """Small pages with accessed and dirty flags, and a log whose next entry is `index`."""
    rig.ept.set_rights(Gpa(DATA), 4 * PAGE, READ | WRITE | EXECUTE)
    rig.vmcs.write(F.EPT_POINTER, EptPointer(rig.ept.pointer.root, accessed_and_dirty=True).encode())
    rig.secondary(PML_CONTROL)
    rig.vmcs.write(F.PML_ADDRESS, LOG)
    rig.vmcs.write(F.PML_INDEX, index)


def logged(rig: Rig, index: int) -> int:
    return int.from_bytes(rig.memory.view[LOG + 8 * index : LOG + 8 * index + 8], "little")


def test_pages_are_logged_from_the_last_entry_down_once_each(rig: Rig) -> None:
    """§29.3.6: the guest-physical page, when its dirty flag goes from 0 to 1."""
    logging(rig, 511)
    code = load(DATA) + store(DATA + 0x124) + store(DATA) + store(DATA + 2 * PAGE)
    assert rig.run(code) is HostStop.HALTED
    assert [logged(rig, index) for index in (511, 510, 509)] == [DATA, DATA + 2 * PAGE, 0]
    assert rig.vmcs.read(F.PML_INDEX) == 509


def test_a_full_log_exits_before_the_access(rig: Rig) -> None:
    logging(rig, 0)
    assert rig.run(store(DATA) + store(DATA + PAGE)) is ExitReason.PAGE_MODIFICATION_LOG_FULL
    assert (logged(rig, 0), rig.vmcs.read(F.PML_INDEX)) == (DATA, 0xFFFF)
    assert rig.qualification == 0
    assert not rig.ept.walk(Gpa(DATA + PAGE))[-1].value & EptEntry.DIRTY
    rig.vmcs.write(F.PML_INDEX, 511)
    assert rig.non_root.enter(rig.cpu.count + 10) is HostStop.HALTED
    assert logged(rig, 511) == DATA + PAGE


def test_an_index_above_511_is_full(rig: Rig) -> None:
    logging(rig, 512)
    assert rig.run(store(DATA)) is ExitReason.PAGE_MODIFICATION_LOG_FULL


def test_a_full_log_in_the_midst_of_a_delivery(rig: Rig) -> None:
    """The frame of #UD makes the stack's page dirty: IDT-vectoring information tells of the exception (§28.2.4)."""
    logging(rig, 0x8000)
    rig.ept.set_rights(Gpa(STACK - PAGE), PAGE, READ | WRITE | EXECUTE)
    assert rig.run(b"\x0f\x0b") is ExitReason.PAGE_MODIFICATION_LOG_FULL
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) == 1 << 31 | 3 << 8 | 6


def test_a_log_outside_memory_takes_no_writes(rig: Rig) -> None:
    logging(rig, 511)
    rig.vmcs.write(F.PML_ADDRESS, rig.memory.size)
    before = bytes(rig.memory.view[:RAM])
    assert rig.run(store(DATA)) is HostStop.HALTED
    assert rig.vmcs.read(F.PML_INDEX) == 510
    changed = [at for at in range(0, RAM, 8) if before[at : at + 8] != bytes(rig.memory.view[at : at + 8])]
    assert all(at >= EPT_PAGES for at in changed)  # the flags in the EPT
