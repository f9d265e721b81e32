"""A bare CPU for tests: memory, a bus that records, and a processor put into any mode with tables at fixed places.

The tables are in memory and the registers are loaded as the instructions that load them would leave them, so a test
starts in the mode that it is about. Everything a test wants otherwise it writes over.

::

    pc = flat_pc()  # 32-bit protected mode, ring 0, paging off
    pc.load("0f a2 ; cpuid")
    event = pc.event()  # the first event, not completed
    pc.run()  # completes events until HLT
"""

from __future__ import annotations

import struct
from typing import Final

from simvirt.machine.completion import complete
from simvirt.machine.cpu import Cpu
from simvirt.machine.devices.local_apic import LocalApic
from simvirt.machine.events import Event, Halt, LimitReached
from simvirt.machine.fills import PdpteLoad
from simvirt.machine.memory import AddressSpace, HostMemory, Region, RegionKind
from simvirt.machine.state import DescriptorTable, ProcessorState, Segment
from simvirt.x86.addresses import Gpa, Hpa, Port
from simvirt.x86.cpuid import CpuModel, find_cpu_model
from simvirt.x86.registers import SegmentRegister
from tests.support import tables
from tests.support.code import code

MEMORY: Final = 8 << 20
GDT, IDT, TSS, LDT, PAGE_TABLES = 0x1000, 0x2000, 0x3000, 0x3800, 0x10_0000
CODE, STACK, INNER_STACK, USER_STACK, DATA = 0x1_0000, 0x2_0000, 0x2_8000, 0x3_0000, 0x4_0000
HANDLERS: Final = 0x5_0000
"""The handler of vector n stands at HANDLERS + 16 n and consists of HLT."""

# Selectors of the GDT that `flat_pc` and `long_pc` make. SYSENTER and SYSCALL want ring 0 code, data, then ring 3's.
CS0, DS0, CS3, DS3 = 0x08, 0x10, 0x1B, 0x23
CS3_64, DS3_64 = 0x2B, 0x33
CS0_64, CS16, DS16, CS1, DS1, CS0_CONFORMING = 0x38, 0x40, 0x48, 0x51, 0x59, 0x60
TR, TR_HIGH, LDT_SELECTOR, SPARE, NOT_PRESENT_CODE, NOT_PRESENT_DATA = 0x68, 0x70, 0x78, 0x80, 0x88, 0x90
GDT_ENTRIES: Final = 0x20

ES, CS, SS, DS, FS, GS = SegmentRegister
EAX, ECX, EDX, EBX, ESP, EBP, ESI, EDI = range(8)


class RecordingBus:
    """The world outside the processor: answers reads with what the test says and writes everything down."""

    def __init__(self, cpu_model: CpuModel, space: AddressSpace) -> None:
        self.cpu_model = cpu_model
        self.space = space
        self.local_apic: LocalApic | None = None
        self.log: list[tuple[str, int, int, int]] = []
        """(what, address, size, value) with `what` one of in, out, read, write."""
        self.port_values: dict[int, int] = {}
        self.device_values: dict[int, int] = {}
        self.time = 0

    def report_x87_error(self) -> None:
        self.log.append(("ferr", 0, 0, 0))

    def disturbed(self) -> bool:
        return False

    def read_port(self, port: Port, size: int) -> int:
        value = self.port_values.get(port, 0x1122_3344) & (1 << 8 * size) - 1
        self.log.append(("in", port, size, value))
        return value

    def write_port(self, port: Port, size: int, value: int) -> None:
        self.log.append(("out", port, size, value))

    def read_memory(self, gpa: Gpa, size: int) -> int:
        value = self.device_values.get(gpa, 0xA1B2_C3D4_E5F6_0718) & (1 << 8 * size) - 1
        self.log.append(("read", gpa, size, value))
        return value

    def write_memory(self, gpa: Gpa, size: int, value: int) -> None:
        self.device_values[gpa] = value
        self.log.append(("write", gpa, size, value))

    @property
    def time_stamp_adjustment(self) -> int:
        return 0

    def move_time_stamp(self, adjustment: int) -> None:
        self.time = self.time + adjustment & 0xFFFF_FFFF_FFFF_FFFF

    def time_stamp(self) -> int:
        return self.time

    def region(self, gpa: Gpa) -> Region | None:
        return self.space.region(gpa)


class Pc:
    """A CPU, its memory and its bus."""

    def __init__(self, *, cpu_model: str = "x86-64", memory: int = MEMORY, regions: list[Region] | None = None) -> None:
        self.cpu = Cpu(HostMemory(memory))
        self.engine = self.cpu.engine
        self.state: ProcessorState = self.cpu.state
        self.memory = self.engine.memory.view
        space = AddressSpace(regions or [Region(Gpa(0), memory, RegionKind.RAM, Hpa(0), "RAM")])
        self.engine.set_address_space(space)
        self.bus = RecordingBus(find_cpu_model(cpu_model), space)
        self.events: list[Event] = []
        """Every event that `run` has met."""

    # ------------------------------------------------------------------------------------------------ memory

    def write(self, address: int, data: bytes) -> None:
        """Write memory as a loader does."""
        self.memory[address : address + len(data)] = data
        self.engine.written(address, len(data))

    def write32(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<I", value))

    def write64(self, address: int, value: int) -> None:
        self.write(address, struct.pack("<Q", value))

    def read(self, address: int, size: int) -> int:
        return int.from_bytes(self.memory[address : address + size], "little")

    def stack(self, count: int, size: int = 4) -> list[int]:
        """`count` words from the top of the stack, top first (base of SS taken into account, no paging)."""
        top = self.state.segment_base(SS) + self.state.rsp
        return [self.read(top + size * i, size) for i in range(count)]

    def load(self, text: str, at: int = CODE, bits: int | None = None) -> None:
        """Assembled code to memory at `at`."""
        self.write(at, code(text, self.state.bits if bits is None else bits))

    def set_descriptor(self, selector: int, data: bytes) -> None:
        self.write(GDT + (selector & ~7), data)

    def set_gate(self, vector: int, data: bytes) -> None:
        self.write(IDT + len(data) * vector, data)

    # ------------------------------------------------------------------------------------------------ registers

    def load_segment(self, register: int, selector: int) -> None:
        """Put a descriptor of the GDT into a segment register, without checks."""
        raw = self.read(GDT + (selector & ~7), 8)
        low, high = raw & 0xFFFFFFFF, raw >> 32
        base = low >> 16 | (high & 0xFF) << 16 | high & 0xFF000000
        limit = low & 0xFFFF | high & 0xF0000
        if high & 1 << 23:
            limit = limit << 12 | 0xFFF
        self.state.set_segment(register, Segment(selector, base, limit, high & 0x00F0FF00))

    def ring(self, cpl: int, code_selector: int, stack_selector: int, stack: int) -> None:
        """Continue at this privilege level, as after an IRET."""
        self.load_segment(CS, code_selector)
        self.load_segment(SS, stack_selector)
        for register in (DS, ES, FS, GS):
            self.load_segment(register, DS3 if cpl == 3 else DS0)
        self.state.rsp = stack
        self.state.refresh(cpl=cpl)

    def user(self) -> None:
        """Continue in ring 3 on flat segments."""
        self.ring(3, CS3, DS3, USER_STACK)

    def set_paging(self, cr3: int, *, cr0: int = 0, cr4: int = 0, efer: int = 0) -> None:
        """Turn paging on with these bits beside PG and PE."""
        state = self.state
        state.set_control_register(0, 0x8000_0011 | cr0)
        state.set_control_register(3, cr3)
        state.set_control_register(4, cr4)
        state.efer = efer
        state.refresh()
        if state.pae_paging:
            assert self.engine.load_pdptes(cr3) is PdpteLoad.LOADED
        self.engine.flush_tlb()

    def selectors(self) -> tuple[int, ...]:
        """ES, CS, SS, DS, FS, GS."""
        return tuple(self.state.selector(register) for register in SegmentRegister)

    # ------------------------------------------------------------------------------------------------ running

    def event(self, limit: int = 1000) -> Event:
        """Run to the next event and return it uncompleted."""
        return self.cpu.run(self.cpu.count + limit)

    def complete(self, event: Event) -> None:
        complete(self.cpu, self.bus, event)

    def run(self, limit: int = 1000) -> None:
        """Run and complete events until HLT; fails when `limit` instructions do not reach one."""
        end = self.cpu.count + limit
        while True:
            event = self.cpu.run(end)
            self.events.append(event)
            assert not isinstance(event, LimitReached), f"no HLT within {limit} instructions; rip {self.state.rip:#x}"
            if isinstance(event, Halt):
                return
            complete(self.cpu, self.bus, event)

    def step(self, count: int = 1) -> None:
        """Retire exactly `count` instructions, completing events; a delivered fault retires nothing."""
        end = self.cpu.count + count
        while self.cpu.count < end:
            event = self.cpu.run(end)
            self.events.append(event)
            complete(self.cpu, self.bus, event)

    @property
    def vector(self) -> int:
        """The vector whose handler RIP stands in."""
        number, rest = divmod(self.state.rip - HANDLERS, 16)
        assert 0 <= number < 256, f"rip {self.state.rip:#x} is in no handler"
        assert rest <= 1
        return number


def _gdt(pc: Pc, tss: bytes) -> None:
    t = tables
    for selector, data in (
        (CS0, t.segment(t.CODE_R0)),
        (DS0, t.segment(t.DATA_R0)),
        (CS3, t.segment(t.CODE_R3)),
        (DS3, t.segment(t.DATA_R3)),
        (CS3_64, t.segment(t.CODE_R3, t.FLAT_64)),
        (DS3_64, t.segment(t.DATA_R3)),
        (CS0_64, t.segment(t.CODE_R0, t.FLAT_64)),
        (CS16, t.segment(t.CODE_R0, t.BYTES_16, 0, 0xFFFF)),
        (DS16, t.segment(t.DATA_R0, t.BYTES_16, 0, 0xFFFF)),
        (CS1, t.segment(t.CODE_R1)),
        (DS1, t.segment(t.DATA_R1)),
        (CS0_CONFORMING, t.segment(t.CONFORMING_R0)),
        (NOT_PRESENT_CODE, t.segment(t.CODE_R0 & 0x7F)),
        (NOT_PRESENT_DATA, t.segment(t.DATA_R0 & 0x7F)),
    ):
        pc.set_descriptor(selector, data)
    pc.write(TSS, tss)
    pc.state.gdtr = DescriptorTable(GDT, 8 * GDT_ENTRIES - 1)
    for vector in range(256):
        pc.write(HANDLERS + 16 * vector, b"\xf4")


def real_pc(**options: object) -> Pc:
    """Real-address mode: CS:IP 1000:0000, SS:SP 2000:1000, IVT at 0 with handlers at 5000:16n."""
    pc = Pc(**options)  # type: ignore[arg-type]
    state = pc.state
    state.set_control_register(0, 0x10)
    state.gdtr = DescriptorTable(GDT, 8 * GDT_ENTRIES - 1)
    state.idtr = DescriptorTable(0, 0x3FF)
    for register in SegmentRegister:
        state.set_segment(register, Segment(0, 0, 0xFFFF, 0x9300))
    state.set_segment(CS, Segment(CODE >> 4, CODE, 0xFFFF, 0x9B00))
    state.set_segment(SS, Segment(STACK >> 4, STACK, 0xFFFF, 0x9300))
    state.rsp = 0x1000
    state.rip = 0
    state.eflags = 2
    state.refresh(cpl=0)
    for vector in range(256):
        pc.write(4 * vector, struct.pack("<HH", 16 * vector, HANDLERS >> 4))
        pc.write(HANDLERS + 16 * vector, b"\xf4")
    return pc


def flat_pc(**options: object) -> Pc:
    """32-bit protected mode, ring 0: flat segments, an IDT of gates to HLT handlers, a 32-bit TSS, no paging."""
    pc = Pc(**options)  # type: ignore[arg-type]
    _gdt(pc, tables.tss_32(INNER_STACK, DS0, esp1=INNER_STACK - 0x1000, ss1=DS1))
    pc.set_descriptor(TR, tables.segment(tables.BUSY_TSS32, 0, TSS, 0x67))
    pc.set_descriptor(LDT_SELECTOR, tables.segment(tables.LDT, 0, LDT, 0x3F))
    for vector in range(256):
        pc.set_gate(vector, tables.gate(tables.INT_GATE, CS0, HANDLERS + 16 * vector))
    state = pc.state
    state.idtr = DescriptorTable(IDT, 0x7FF)
    state.tr = Segment(TR, TSS, 0x67, 0x8900)
    state.rip, state.eflags = CODE, 2
    pc.ring(0, CS0, DS0, STACK)
    return pc


def identity_tables(pc: Pc, *, flags: int = 7) -> int:
    """4-level tables that map the first GiB to itself in 2 MiB pages; returns CR3."""
    pml4, pdpt, directory = PAGE_TABLES, PAGE_TABLES + 0x1000, PAGE_TABLES + 0x2000
    pc.write64(pml4, pdpt | 7)
    pc.write64(pdpt, directory | 7)
    for i in range(512):
        pc.write64(directory + 8 * i, i << 21 | 0x80 | flags)
    return pml4


def long_pc(**options: object) -> Pc:
    """64-bit mode, ring 0: identity-mapped by 2 MiB pages, an IDT of interrupt gates to HLT handlers, a 64-bit TSS."""
    pc = Pc(**options)  # type: ignore[arg-type]
    _gdt(pc, tables.tss_64(INNER_STACK, INNER_STACK - 0x1000, INNER_STACK - 0x2000))
    pc.set_descriptor(TR, tables.system_segment_64(tables.BUSY_TSS32, TSS, 0x67))
    for vector in range(256):
        pc.set_gate(vector, tables.gate_64(tables.INT_GATE, CS0_64, HANDLERS + 16 * vector))
    state = pc.state
    state.idtr = DescriptorTable(IDT, 0xFFF)
    state.tr = Segment(TR, TSS, 0x67, 0x8900)
    state.rip, state.eflags = CODE, 2
    state.efer = 0x501  # SCE, LME, LMA
    pc.set_paging(identity_tables(pc), cr4=0x20, efer=0xD01)
    pc.ring(0, CS0_64, DS0, STACK)
    return pc
