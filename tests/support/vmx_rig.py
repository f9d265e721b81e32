"""A guest of a few bytes in VMX non-root operation, with no VMM around it: for tests of the processor alone."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Final

from simvirt.guests.boot import initial_state
from simvirt.guests.image import BootMode, BootState
from simvirt.guests.linux import identity_map
from simvirt.machine.cpu import Cpu
from simvirt.machine.devices.local_apic import LocalApic
from simvirt.machine.memory import AddressSpace, HostMemory, Region, RegionKind
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.machine.vmx.non_root import HostStop, NonRootProcessor
from simvirt.machine.vmx.vmcs import Vmcs
from simvirt.vmm.ept import ExtendedPageTables, TablePages
from simvirt.x86.addresses import Gpa, Hpa, Port
from simvirt.x86.cpuid import find_cpu_model
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import ExitReason, VmcsField

F: Final = VmcsField
RAM: Final = Hpa(0x20_0000)
"""Where the VM's memory lies: guest-physical 0 is here."""
RAM_SIZE: Final = 0x10_0000
IO_BITMAP_A, IO_BITMAP_B, MSR_BITMAPS = 0x1000, 0x2000, 0x3000
EPT_PAGES: Final = 0x10_0000
ROM_PAGE: Final = 0xF_0000
HOLE: Final = 0x20_0000

CODE: Final = 0x1000
IDT: Final = 0x2000
GDT: Final = 0x3000
TSS: Final = 0x4000
HANDLERS: Final = 0x5000
"""One HLT for each vector, 16 bytes apart."""
STACK: Final = 0x8000
INNER_STACK: Final = 0x9000
DATA: Final = 0xA000

CODE0, DATA0, CODE3, DATA3, TASK = 0x08, 0x10, 0x1B, 0x23, 0x28
_DESCRIPTORS: Final = (
    0,
    0x00CF9B000000FFFF,
    0x00CF93000000FFFF,
    0x00CFFB000000FFFF,
    0x00CFF3000000FFFF,
    0x0000890000000067 | TSS << 16,
)

# The bits that must be 1, by hand (SDM Vol. 3D Appendix A.3 to A.5, with the freedom of the "true" MSRs).
PIN_DEFAULT: Final = 0x16
PRIMARY_DEFAULT: Final = 0x0400_6172
EXIT_DEFAULT: Final = 0x0003_6DFB
ENTRY_DEFAULT: Final = 0x0000_11FB
LONG_HOST: Final = 1 << 9
SAVE_ALL: Final = 1 << 2 | 0xF << 18
"""Save debug controls, save and load IA32_PAT and IA32_EFER; on entry: load debug controls, IA32_PAT, IA32_EFER."""
LOAD_ALL: Final = 1 << 2 | 3 << 14
SECONDARY_ON: Final = 1 << 31
EPT: Final = 1 << 1
_PAGE_TABLES: Final = 0x5_0000
UNRESTRICTED: Final = 1 << 7


class PlainBus:
    """Ports that answer with what was written last, and remember."""

    def __init__(self) -> None:
        self.cpu_model = find_cpu_model("x86-64")
        self.local_apic: LocalApic | None = None
        self.written: list[tuple[int, int, int]] = []
        self.answer = 0x5A5A5A5A

    def report_x87_error(self) -> None:
        self.written.append((0xF0, 0, 0))

    def disturbed(self) -> bool:
        return False

    def read_port(self, port: Port, size: int) -> int:
        del port
        return self.answer & (1 << 8 * size) - 1

    def write_port(self, port: Port, size: int, value: int) -> None:
        self.written.append((port, size, value))

    def read_memory(self, gpa: Gpa, size: int) -> int:
        del gpa
        return (1 << 8 * size) - 1

    def write_memory(self, gpa: Gpa, size: int, value: int) -> None:
        del gpa, size, value

    @property
    def time_stamp_adjustment(self) -> int:
        return 0

    def move_time_stamp(self, adjustment: int) -> None:
        del adjustment

    def time_stamp(self) -> int:
        return 1000

    def region(self, gpa: Gpa) -> Region | None:
        del gpa
        return None


class Rig:
    """The processor, its VMCS with the least controls that work, and the tables of a guest."""

    def __init__(self) -> None:
        self.memory = HostMemory(RAM + RAM_SIZE)
        self.cpu = Cpu(self.memory)
        pages = TablePages(range(EPT_PAGES, RAM, 0x1000))
        self.ept = ExtendedPageTables(self.memory.view, pages, on_change=self.cpu.engine.flush_tlb)
        self.ept.map_space(
            AddressSpace(
                [
                    Region(Gpa(0), ROM_PAGE, RegionKind.RAM, RAM),
                    Region(Gpa(ROM_PAGE), 0x1000, RegionKind.ROM, Hpa(RAM + ROM_PAGE)),
                    Region(
                        Gpa(ROM_PAGE + 0x1000),
                        RAM_SIZE - ROM_PAGE - 0x1000,
                        RegionKind.RAM,
                        Hpa(RAM + ROM_PAGE + 0x1000),
                    ),
                ]
            )
        )
        self.bus = PlainBus()
        self.vmcs = Vmcs()
        self.non_root = NonRootProcessor(self.cpu, self.bus, self.vmcs)
        self._controls()
        self._tables()
        self._state()

    def _controls(self) -> None:
        for field, value in (
            (F.PIN_BASED_CONTROLS, PIN_DEFAULT),
            (F.PRIMARY_CONTROLS, PRIMARY_DEFAULT | SECONDARY_ON),
            (F.SECONDARY_CONTROLS, EPT | UNRESTRICTED),
            (F.EXIT_CONTROLS, EXIT_DEFAULT | LONG_HOST | SAVE_ALL),
            (F.ENTRY_CONTROLS, ENTRY_DEFAULT | LOAD_ALL),
            (F.EPT_POINTER, self.ept.pointer.encode()),
            (F.HOST_CR0, 0x8000_0001),
            (F.HOST_CR4, 0x2020),
            (F.HOST_IA32_EFER, 0x500),
            (F.HOST_CS_SELECTOR, 8),
            (F.HOST_SS_SELECTOR, 0x10),
            (F.HOST_TR_SELECTOR, 0x40),
            (F.IO_BITMAP_A_ADDRESS, IO_BITMAP_A),
            (F.IO_BITMAP_B_ADDRESS, IO_BITMAP_B),
            (F.MSR_BITMAPS_ADDRESS, MSR_BITMAPS),
        ):
            self.vmcs.write(field, value)

    def _tables(self) -> None:
        self.write(GDT, b"".join(d.to_bytes(8, "little") for d in _DESCRIPTORS))
        for vector in range(256):
            self.write(HANDLERS + 16 * vector, b"\xf4")
            offset = HANDLERS + 16 * vector
            dpl = 3 if vector in (3, 4, 0x80) else 0
            gate = offset & 0xFFFF | CODE0 << 16 | 0x8E00 << 32 | dpl << 45 | offset >> 16 << 48
            self.write(IDT + 8 * vector, gate.to_bytes(8, "little"))
        self.write(TSS + 4, INNER_STACK.to_bytes(4, "little") + DATA0.to_bytes(4, "little"))
        self.write(TSS + 102, (0x68).to_bytes(2, "little"))

    def _state(self) -> None:
        state = replace(
            initial_state(BootState(Gpa(CODE), esp=STACK)),
            gdtr=DescriptorTable(GDT, len(_DESCRIPTORS) * 8 - 1),
            idtr=DescriptorTable(IDT, 0x7FF),
            tr=Segment(TASK, TSS, 0x67, 0x8900),
            control=(0x11, 0, 0, 0x2000),
        )
        state.put(self.cpu.state)
        self.cpu.engine.flush_tlb()
        self.vmcs.adopt(self.cpu)

    # ---------------------------------------------------------------------------------------- for tests

    def write(self, gpa: int, data: bytes) -> None:
        """Guest-physical memory."""
        self.memory.view[RAM + gpa : RAM + gpa + len(data)] = data
        self.cpu.engine.written(RAM + gpa, len(data))

    def read(self, gpa: int, size: int) -> bytes:
        return bytes(self.memory.view[RAM + gpa : RAM + gpa + size])

    def user_mode(self, *, iopl: int = 0) -> None:
        """Go on at CPL 3."""
        state = self.cpu.state
        state.set_segment(1, Segment(CODE3, 0, 0xFFFFFFFF, 0x00CFFB00))
        for register in (0, 2, 3):
            state.set_segment(register, Segment(DATA3, 0, 0xFFFFFFFF, 0x00CFF300))
        state.eflags = 2 | iopl << 12
        state.refresh(cpl=3)

    def primary(self, *bits: int) -> None:
        """Set bits of the primary controls."""
        value = self.vmcs.read(F.PRIMARY_CONTROLS)
        self.vmcs.write(F.PRIMARY_CONTROLS, value | sum(1 << bit for bit in bits))

    def secondary(self, *bits: int) -> None:
        value = self.vmcs.read(F.SECONDARY_CONTROLS)
        self.vmcs.write(F.SECONDARY_CONTROLS, value | sum(1 << bit for bit in bits))

    def register(self, register: GeneralRegister, value: int | None = None) -> int:
        """Write a general register if a value is given; its value."""
        if value is not None:
            self.cpu.state[register] = value
        return self.cpu.state[register]

    def run(self, code: bytes, limit: int = 100) -> ExitReason | HostStop:
        """Run `code` until an exit, or for `limit` instructions; it is followed by HLT."""
        self.write(CODE, code + b"\xf4")
        self.cpu.state.rip = CODE
        if self.vmcs.read(F.GUEST_ACTIVITY_STATE):
            self.vmcs.write(F.GUEST_ACTIVITY_STATE, 0)
        return self.non_root.enter(self.cpu.count + limit)

    @property
    def qualification(self) -> int:
        return self.vmcs.read(F.EXIT_QUALIFICATION)

    @property
    def length(self) -> int:
        return self.vmcs.read(F.EXIT_INSTRUCTION_LENGTH)

    @property
    def rip(self) -> int:
        return self.vmcs.read(F.GUEST_RIP)

    @property
    def handler(self) -> int | None:
        """The vector whose handler's HLT the guest has just halted in."""
        offset = self.rip - 1 - HANDLERS
        return offset // 16 if 0 <= offset < 256 * 16 else None


def long_mode(rig: Rig) -> None:
    """Put the rig's guest into 64-bit mode, without an IDT for it."""
    rig.write(_PAGE_TABLES, identity_map(Gpa(_PAGE_TABLES)))
    gdt = struct.pack("<4Q", 0, 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF)
    rig.write(0x6_0000, gdt)
    state = initial_state(
        BootState(
            Gpa(CODE), esp=STACK, mode=BootMode.LONG, code_selector=0x10, data_selector=0x18,
            gdt=range(0x6_0000, 0x6_0020), page_tables=Gpa(_PAGE_TABLES),
        )
    )  # fmt: skip
    state.put(rig.cpu.state)
    rig.cpu.engine.flush_tlb()
    rig.vmcs.adopt(rig.cpu)
    rig.vmcs.write(F.GUEST_CR4, rig.vmcs.read(F.GUEST_CR4) | 0x2000)
    rig.vmcs.write(F.ENTRY_CONTROLS, rig.vmcs.read(F.ENTRY_CONTROLS) | 1 << 9)
    rig.vmcs.write(F.GUEST_TR_ACCESS_RIGHTS, 0x8B)
