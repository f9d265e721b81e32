"""The bare PC: the CPU with its board (SDM Vol. 2A "HLT"; the memory map of a PC)."""

from __future__ import annotations

import pytest

from simvirt.machine.board import Board
from simvirt.machine.cpu import Cpu
from simvirt.machine.engine import NEVER
from simvirt.machine.machine import Machine, Outcome
from simvirt.machine.memory import RegionKind
from simvirt.machine.pc import bare_pc, pc_regions
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import find_cpu_model
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from tests.support import tables
from tests.support.code import code, le

CODE, STACK, GDT, IDT = 0x1_0000, 0x2_0000, 0x1000, 0x2000


def machine(listing: str, *, eflags: int = 2) -> tuple[Machine, Cpu]:
    """A bare PC in flat 32-bit protected mode that is about to run `listing`."""
    pc, cpu = bare_pc(Board, 4 << 20, find_cpu_model("x86-64"))
    pc.write_physical(Gpa(CODE), code(listing))
    pc.write_physical(Gpa(GDT + 8), tables.segment(tables.CODE_R0) + tables.segment(tables.DATA_R0))
    for vector in range(256):
        pc.write_physical(Gpa(IDT + 8 * vector), tables.gate(tables.INT_GATE, 8, CODE + 0x1000 + 16 * vector))
        pc.write_physical(Gpa(CODE + 0x1000 + 16 * vector), b"\xf4")
    state = cpu.state
    state.gdtr, state.idtr = DescriptorTable(GDT, 23), DescriptorTable(IDT, 0x7FF)
    for register in SegmentRegister:
        state.set_segment(register, Segment(0x10, 0, 0xFFFF_FFFF, 0x00CF_9300))
    state.set_segment(SegmentRegister.CS, Segment(8, 0, 0xFFFF_FFFF, 0x00CF_9B00))
    state.rip, state.rsp, state.eflags = CODE, STACK, eflags
    state.refresh(cpl=0)
    return pc, cpu


def test_memory_map() -> None:
    """Conventional memory, nothing from A0000H to EFFFFH, the firmware's ROM, extended memory from 1 MiB on."""
    space = pc_regions(16 << 20)
    kinds = {
        at: region.kind if (region := space.region(Gpa(at))) else None
        for at in (0, 0x9FFFF, 0xA0000, 0xEFFFF, 0xF0000, 0x10_0000)
    }
    assert kinds == {
        0: RegionKind.RAM, 0x9FFFF: RegionKind.RAM, 0xA0000: None, 0xEFFFF: None, 0xF0000: RegionKind.ROM,
        0x10_0000: RegionKind.RAM,
    }  # fmt: skip
    assert space.region(Gpa((16 << 20) - 1)) is not None
    assert space.region(Gpa(16 << 20)) is None


def test_debug_exit_port_ends_the_run() -> None:
    pc, cpu = machine("b0 2a ; mov al, 42\ne6 f4 ; out 0xf4, al\n90 ; nop")
    assert pc.run() is Outcome.FINISHED
    assert pc.board.exit_status == 42
    assert cpu.count == 2


def test_halt_without_interrupts_is_the_end() -> None:
    pc, cpu = machine("90 ; nop\nf4 ; hlt")
    assert pc.run() is Outcome.HALTED
    assert (cpu.count, cpu.state.rip) == (2, CODE + 2)


def test_halt_while_single_stepping_goes_on_in_the_debug_handler() -> None:
    """The trap behind HLT wakes the processor: the handler runs, and its own HLT is the end."""
    pc, cpu = machine("f4 ; hlt\n90 ; nop", eflags=0x102)
    assert pc.run() is Outcome.HALTED
    assert cpu.state.rip == CODE + 0x1000 + 16 + 1
    assert cpu.count == 2


def test_triple_fault() -> None:
    pc, cpu = machine("0f 0b ; ud2")
    cpu.state.idtr = DescriptorTable(0, 0)
    assert pc.run() is Outcome.TRIPLE_FAULT


def test_limit_is_exact() -> None:
    pc, cpu = machine("eb fe ; jmp $")
    for limit in (1, 2, 1000, 12345):
        assert pc.run_to(limit) is None
        assert cpu.count == limit
    assert pc.run(20000) is Outcome.LIMIT
    assert cpu.count < NEVER


def test_timer_interrupt_reaches_the_handler_and_wakes_a_halted_processor() -> None:
    """8254 channel 0 in rate-generator mode behind the 8259A: IRQ 0 is vector 20H after the usual initialization."""
    setup = "\n".join(
        f"b0 {value:02x} ; mov al, {value}\ne6 {port:02x} ; out {port}, al"
        for port, value in (
            (0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xFE), (0x43, 0x34), (0x40, 0xE8), (0x40, 3),
        )
    )  # fmt: skip
    pc, cpu = machine(setup + "\nfb ; sti\nf4 ; hlt\neb fe ; jmp $")
    handler = CODE + 0x1000 + 16 * 0x20
    pc.run_to(cpu.count + 18)
    assert pc.halted
    pc.run_to(19)
    assert cpu.state.rip in (handler, handler + 1)
    # 1000 ticks of the 1.193182 MHz clock are 838 µs of virtual time, which HLT skips
    assert 830_000 < pc.board.clock.now() < 850_000


@pytest.mark.parametrize("address", [0xA0000, 0xE0000, 4 << 20])
def test_physical_accesses_outside_memory(address: int) -> None:
    pc, _ = machine("f4 ; hlt")
    pc.write_physical(Gpa(address), b"\0\0")
    assert pc.read_physical(Gpa(address), 2) == b"\xff\xff"


def test_holes_answer_with_ones_and_are_no_events() -> None:
    pc, cpu = machine(f"""
        b8 {le(0xA_0000)}       ; mov eax, a hole
        89 00                   ; mov [eax], eax
        f0 ff 40 10             ; lock inc dword ptr [eax + 16]
        8b 50 10                ; mov edx, [eax + 16]
        66 8b b8 ff ff ff ff    ; mov di, [eax - 1]: one byte of memory, one of the hole
        f4                      ; hlt
    """)
    assert pc.run() is Outcome.HALTED
    assert (cpu.state[GeneralRegister.RDX], cpu.state[GeneralRegister.RDI]) == (0xFFFF_FFFF, 0xFF00)
    assert cpu.count == 6


def test_a_page_that_maps_a_hole_becomes_dirty_with_its_first_write() -> None:
    directory, table = 0x4000, 0x5000
    pc, cpu = machine(f"""
        b8 {le(directory)}      ; mov eax, directory
        0f 22 d8                ; mov cr3, eax
        b8 {le(0x8000_0011)}    ; mov eax, PG | ET | PE
        0f 22 c0                ; mov cr0, eax
        a1 {le(0xA_0000)}       ; mov eax, [a hole]
        8b 1d {le(table + 4 * 0xA0)}    ; mov ebx, its entry
        a3 {le(0xA_0000)}       ; mov [a hole], eax
        8b 0d {le(table + 4 * 0xA0)}    ; mov ecx, its entry
        f4                      ; hlt
    """)
    pc.write_physical(Gpa(directory), (table | 7).to_bytes(4, "little"))
    pc.write_physical(Gpa(table), b"".join((page << 12 | 7).to_bytes(4, "little") for page in range(1024)))
    assert pc.run() is Outcome.HALTED
    assert (cpu.state[GeneralRegister.RBX], cpu.state[GeneralRegister.RCX]) == (0xA_0027, 0xA_0067)


def test_save_and_restore() -> None:
    pc, cpu = machine("40 ; inc eax\n89 05 00 00 03 00 ; mov [0x30000], eax\neb f7 ; jmp $-7")
    pc.run_to(100)
    saved = pc.save()
    pc.run_to(250)
    later = cpu.state[0], pc.read_physical(Gpa(0x3_0000), 4), cpu.state.rip
    pc.restore(saved)
    assert cpu.count == 100
    pc.run_to(250)
    assert (cpu.state[0], pc.read_physical(Gpa(0x3_0000), 4), cpu.state.rip) == later


@pytest.mark.parametrize(("model", "bits"), [("pentium", 32), ("core2", 36), ("x86-64", 39)])
def test_page_walks_follow_the_cpu_model(model: str, bits: int) -> None:
    """MAXPHYADDR is what CPUID.80000008H says (Vol. 3A §4.1.4)."""
    _, cpu = bare_pc(Board, 4 << 20, find_cpu_model(model))
    assert cpu.engine.physical_bits == bits
