"""A guest of `vtx` whose stack, tables or page tables lie where the VM has no memory: as on the bare PC."""

from __future__ import annotations

import pytest

from simvirt.machine.machine import Outcome
from simvirt.strategies.vtx.processor import VtxProcessor
from simvirt.vmm.ept import TablePages
from tests.support.twins import CODE, DATA, GDT, GDT_ENTRIES, Twins, start

HOLE = 0x4000_0000


@pytest.fixture(scope="module")
def machines() -> Twins:
    return Twins(strategy="vtx")


@pytest.fixture
def twins(machines: Twins) -> Twins:
    machines.renew()
    return machines


def d32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def processor(twins: Twins) -> VtxProcessor:
    found = twins.deprivileged.machine.processor
    assert isinstance(found, VtxProcessor)
    return found


CASES = {
    "INT with a stack in a hole": b"\xcd\x80",
    "an exception with a stack in a hole": b"\x0f\x0b",
    "INT3 with a stack in a hole": b"\xcc",
    "IRET from a stack in a hole": b"\xcf",
    "RET far from a stack in a hole": b"\xcb",
    "CALL far with a stack in a hole": b"\x9a" + d32(CODE + 0x40) + b"\x08\0",
    "PUSH and POP": b"\x50\x5b\x60\x61",
    "a load of SS from a GDT in a hole": b"\x0f\x01\x15" + d32(DATA) + b"\x66\xb8\x10\0\x8e\xd0",
    "an exception with its IDT in a hole": b"\x0f\x01\x1d" + d32(DATA) + b"\x0f\x0b",
    "a task in a hole": b"\x0f\x01\x15" + d32(DATA + 8) + b"\xea" + d32(0) + b"\x28\0",
}


@pytest.mark.parametrize("code", CASES.values(), ids=CASES)
def test_missing_memory_reads_as_ones_and_takes_no_writes(twins: Twins, code: bytes) -> None:
    twins.write(DATA, (0xFFFF).to_bytes(2, "little") + d32(HOLE) + b"\0\0")
    twins.write(DATA + 8, (8 * GDT_ENTRIES - 1).to_bytes(2, "little") + d32(GDT))
    twins.write(CODE + 0x40, b"\xf4")
    assert twins.compare(code + b"\x90\xf4", start(esp=HOLE + 0x800), steps=8) is None


HOLE_OPERANDS = {
    "TEST, its second encoding": b"\xf6\x0d",
    "LTR": b"\x0f\x00\x1d",
    "LLDT": b"\x0f\x00\x15",
    "STR": b"\x0f\x00\x0d",
    "SLDT": b"\x0f\x00\x05",
    "VERR": b"\x0f\x00\x25",
    "LGDT": b"\x0f\x01\x15",
    "SGDT": b"\x0f\x01\x05",
    "LMSW": b"\x0f\x01\x35",
    "SMSW": b"\x0f\x01\x25",
    "INVLPG": b"\x0f\x01\x3d",
    "FXSAVE": b"\x0f\xae\x05",
    "FXRSTOR": b"\x0f\xae\x0d",
    "CMPXCHG8B": b"\x0f\xc7\x0d",
    "BOUND": b"\x62\x05",
    "LSS": b"\x0f\xb2\x25",
    "FLDENV": b"\xd9\x25",
}


@pytest.mark.parametrize("code", HOLE_OPERANDS.values(), ids=HOLE_OPERANDS)
@pytest.mark.parametrize("cache_disabled", [False, True])
def test_an_operand_in_a_hole(twins: Twins, code: bytes, cache_disabled: bool) -> None:
    """What the processor completes by itself, too; with CR0.CD set the VMM keeps a bit of CR0, and SMSW is watched."""
    before = b"\x0f\x20\xc0\x0d" + d32(1 << 30) + b"\x0f\x22\xc0" if cache_disabled else b""
    assert twins.compare(before + code + d32(HOLE + 0x10) + b"\x90\xf4", start(), steps=8) is None


@pytest.mark.parametrize(
    "port", [b"\x6c", b"\xf3\x6c", b"\x6e", b"\xf3\x6d"], ids=["INSB", "REP INSB", "OUTSB", "REP INSD"]
)
def test_string_ports_beyond_memory(twins: Twins, port: bytes) -> None:
    state = start(edi=HOLE, esi=HOLE, edx=0x80, ecx=5)
    assert twins.compare(port + b"\xf4", state, steps=10) is None


PAGING_ON = b"\xb8" + d32(HOLE) + b"\x0f\x22\xd8\x0f\x20\xc0\x0d" + d32(1 << 31) + b"\x0f\x22\xc0"


def test_a_page_directory_in_a_hole(twins: Twins) -> None:
    """Its entries of ones name a page table that lies in a hole, too, and so do that one's."""
    assert twins.compare(PAGING_ON + b"\x90\xf4", steps=12) is None
    assert processor(twins).vcpu.memory.absent_page_tables


def test_a_restored_machine_goes_on_alike(twins: Twins) -> None:
    twins.begin(PAGING_ON + b"\x90\xf4")
    machine = twins.deprivileged.machine
    machine.run_to(6)
    saved = machine.save()
    first = machine.run(40), machine.count, machine.processor.guest_state()
    machine.restore(saved)
    assert (machine.run(40), machine.count, machine.processor.guest_state()) == first
    assert first[0] in (Outcome.TRIPLE_FAULT, Outcome.LIMIT)


def test_page_tables_all_over_the_place_do_not_use_up_the_vmm_s_pages(twins: Twins) -> None:
    """The tables for holes are forgotten when no page is left for them; the VM's own memory stays mapped."""
    memory = processor(twins).vcpu.memory
    pages = memory.ept._new_page
    assert isinstance(pages, TablePages)
    for number in range(600):
        memory.serve_page_table(HOLE + (number << 30) & (1 << 40) - 1)  # type: ignore[arg-type]  # a plain address
    assert memory.absent_page_tables
    assert len(memory.absent_page_tables) < 600
    region = memory.space.ram[0]
    assert memory.ept.host(region.start) == region.host
    assert twins.compare(b"\x90\xf4", steps=2) is None


def test_an_nmi_with_its_stack_in_a_hole(twins: Twins) -> None:
    """The VMM delivers it in place of the processor, and it blocks others all the same."""
    code = b"\x90" * 4 + b"\xf4"
    twins.begin(code, start(esp=HOLE + 0x800))
    for machine in twins.both:
        machine.run_to(2)
        machine.raise_nmi()
    for step in range(3, 6):
        for machine in twins.both:
            machine.run_to(step)
        assert not twins.difference()
    assert all(machine.processor.nmi_blocked for machine in twins.both)


def test_an_iret_from_a_hole_while_an_nmi_waits(twins: Twins) -> None:
    """The EPT violation strikes an IRET, and the VMM carries that out; the NMI comes behind it."""
    twins.begin(b"\x90\xcf\x90\x90\xf4", start(esp=HOLE + 0x800))
    for machine in twins.both:
        machine.run_to(1)
        machine.raise_nmi()
        machine.raise_nmi()
    for step in range(2, 6):
        for machine in twins.both:
            machine.run_to(step)
        assert not twins.difference()
