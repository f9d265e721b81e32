"""RDMSR and WRMSR (SDM Vol. 2B; Vol. 4 Table 2-2)."""

from __future__ import annotations

import pytest

from simvirt.guests.flat import flat_image
from simvirt.machine.clock import GuestClock
from simvirt.machine.devices.local_apic import LocalApic
from simvirt.machine.event_queue import EventQueue
from simvirt.machine.faults import ProcessorFault
from simvirt.machine.machine import Outcome
from simvirt.machine.msrs import read_msr, write_msr
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig
from simvirt.x86.cpuid import CPU_MODELS, Feature, find_cpu_model
from simvirt.x86.exceptions import Vector
from simvirt.x86.msrs import BITMAP_HIGH, BITMAP_LOW
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from tests.support.code import code
from tests.support.pc import CODE, EAX, ECX, EDX, PAGE_TABLES, Pc, flat_pc, long_pc

SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP = 0x174, 0x175, 0x176
TSC, MISC_ENABLE, PAT, EFER = 0x10, 0x1A0, 0x277, 0xC000_0080
STAR, LSTAR, CSTAR, FMASK, FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX = (
    0xC000_0081 + i for i in (0, 1, 2, 3, 0x7F, 0x80, 0x81, 0x82)
)
SYSENTER, SIGNATURE_ = (SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP), 0x8B
LONG_MODE = (STAR, LSTAR, CSTAR, FMASK, FS_BASE, GS_BASE, KERNEL_GS_BASE)
SCE, LME, LMA, NXE = 1, 1 << 8, 1 << 10, 1 << 11
NON_CANONICAL = 0x8000_0000_0000


def wrmsr(pc: Pc, number: int, value: int) -> bool:
    """Did it take the value? Otherwise it is #GP(0) on the instruction."""
    pc.state[ECX], pc.state[EAX], pc.state[EDX] = number, value & 0xFFFFFFFF, value >> 32
    pc.state.rip = CODE
    pc.load("0f 30 ; wrmsr")
    return _ran(pc)


def rdmsr(pc: Pc, number: int) -> int | None:
    pc.state[ECX] = number
    pc.state[EAX] = pc.state[EDX] = 0xFFFF_FFFF_FFFF_FFFF
    pc.state.rip = CODE
    pc.load("0f 32 ; rdmsr")
    if not _ran(pc):
        return None
    assert pc.state[EAX] >> 32 == pc.state[EDX] >> 32 == 0, "the upper halves are cleared"
    return pc.state[EDX] << 32 | pc.state[EAX]


def _ran(pc: Pc) -> bool:
    before = pc.cpu.count
    pc.complete(pc.event(1))
    if pc.cpu.count > before:
        assert pc.state.rip == CODE + 2
        return True
    assert (pc.vector, pc.stack(2, 8 if pc.state.code_64 else 4)) == (Vector.GP, [0, CODE])
    return False


@pytest.mark.parametrize(
    ("number", "values"),
    [
        (SYSENTER_CS, [0, 8, 0xFFFF]),
        (SYSENTER_ESP, [0x1234_5678, 0xFFFF_8000_0000_0000]),
        (SYSENTER_EIP, [0x1234_5678, 0x7FFF_FFFF_FFFF]),
        (STAR, [0x0023_0008_0000_0000, 0xFFFF_FFFF_FFFF_FFFF]),
        (LSTAR, [0xFFFF_FFFF_8100_0000]),
        (CSTAR, [0xFFFF_FFFF_8100_0000]),
        (FMASK, [0, 0x4_7700, 0xFFFF_FFFF]),
        (FS_BASE, [0x7FFF_0000_1000]),
        (GS_BASE, [0xFFFF_8000_0000_1000]),
        (KERNEL_GS_BASE, [0xFFFF_8000_0000_2000]),
        (TSC_AUX, [0, 0xFFFF_FFFF]),
        (MISC_ENABLE, [0, 1]),
        (PAT, [0x0007_0406_0007_0406, 0x0105_0406_0007_0100]),
        (0x2FF, [0xC06, 0x800]),
        (0x200, [0xF_C000_0006]),
        (0x20F, [0xF_F000_0800]),
        (0x250, [0x0605_0401_0006_0606]),
    ],
)
def test_what_is_written_is_read(number: int, values: list[int]) -> None:
    pc = long_pc()
    for value in values:
        assert wrmsr(pc, number, value)
        assert rdmsr(pc, number) == value


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (SYSENTER_ESP, NON_CANONICAL), (SYSENTER_EIP, NON_CANONICAL), (LSTAR, NON_CANONICAL), (CSTAR, NON_CANONICAL),
        (FS_BASE, NON_CANONICAL), (GS_BASE, NON_CANONICAL), (KERNEL_GS_BASE, NON_CANONICAL),
        (FMASK, 1 << 32), (TSC_AUX, 1 << 32),
        # memory types 2 and 3 are reserved (Vol. 3A Table 12-10)
        (PAT, 0x0007_0406_0007_0402), (PAT, 0x0307_0406_0007_0406), (PAT, 8),
        # and so are some of MTRRs (Table 12-8), with their other bits (12.11.2) and addresses beyond MAXPHYADDR
        (0x2FF, 0xC02), (0x2FF, 1 << 12), (0x200, 0x106), (0x200, 7), (0x201, 0x801), (0x200, 1 << 39),
        (0x26F, 7 << 56), (0xFE, 0), (0xFE, 0x508),
        (MISC_ENABLE, 1 << 22), (EFER, 1 << 1), (EFER, 1 << 12), (EFER, 1 << 63),
    ],
)  # fmt: skip
def test_values_that_are_refused(number: int, value: int) -> None:
    pc = long_pc()
    before = rdmsr(pc, number)
    assert not wrmsr(pc, number, value)
    pc.ring(0, 0x38, 0x10, 0x2_0000)
    assert rdmsr(pc, number) == before


@pytest.mark.parametrize("number", [0, 0x3A, 0x48, 0x480, 0xC000_0102 + 0x10, 0xC001_0117, 0x4000_0000, 0x1234_5678])
def test_registers_that_do_not_exist(number: int) -> None:
    assert rdmsr(flat_pc(), number) is None
    assert not wrmsr(flat_pc(), number, 0)


@pytest.mark.parametrize("listing", ["0f 30 ; wrmsr", "0f 32 ; rdmsr"])
@pytest.mark.parametrize("number", [EFER, 0x1234_5678])
def test_privilege(listing: str, number: int) -> None:
    pc = flat_pc()
    pc.user()
    pc.state[ECX] = number
    pc.load(listing)
    pc.complete(pc.event())
    assert (pc.vector, pc.stack(2)) == (Vector.GP, [0, CODE])


def test_pat_at_reset() -> None:
    """Vol. 3A Table 12-12."""
    assert rdmsr(flat_pc(), PAT) == 0x0007_0406_0007_0406


def test_time_stamp_counter() -> None:
    pc = flat_pc()
    pc.bus.time = 0x1234_5678_9ABC
    assert rdmsr(pc, TSC) == 0x1234_5678_9ABC


@pytest.mark.parametrize(("model", "kept"), [("x86-64", (1 << 64) - 1), ("pentium", 0xFFFF_FFFF)])
def test_the_time_stamp_counter_can_be_written(model: str, kept: int) -> None:
    """Vol. 3B §18.17: all of it; where it could be written first, the lower half, which clears the upper."""
    pc = flat_pc(cpu_model=model)
    pc.bus.time = 1000
    for value in (0, 5_000, 0xFEDC_BA98_7654_3210):
        assert wrmsr(pc, TSC, value)
        assert rdmsr(pc, TSC) == value & kept


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx", "trap-and-emulate"])
def test_a_guest_moves_its_time_stamp_counter(strategy: str) -> None:
    """RDTSC goes on from there, instruction by instruction, and IA32_TSC_ADJUST moves with it (§18.17.3)."""
    guest = code("""
        b9 10 00 00 00 ; mov ecx, 0x10
        ba 01 00 00 00 ; mov edx, 1
        b8 00 00 00 80 ; mov eax, 0x80000000
        0f 30 ; wrmsr
        0f 31 ; rdtsc
        89 c6 ; mov esi, eax
        89 d7 ; mov edi, edx
        b9 3b 00 00 00 ; mov ecx, 0x3b
        0f 32 ; rdmsr
        31 d2 ; xor edx, edx
        31 c0 ; xor eax, eax
        0f 30 ; wrmsr
        0f 31 ; rdtsc
        f4 ; hlt
    """)
    machine = find(strategy).build(flat_image(guest, "tsc"), MachineConfig(2 << 20, find_cpu_model("x86-64"))).machine
    assert machine.run_to(4) is None
    moved = machine.board.clock.time_stamp_adjustment
    assert moved == 0x1_8000_0000 - 3
    assert machine.run(100) is Outcome.HALTED
    state = machine.processor.guest_state()
    assert (state.general[GeneralRegister.RDI], state.general[GeneralRegister.RSI]) == (1, 0x8000_0001)
    assert (state.general[GeneralRegister.RDX], state.general[GeneralRegister.RAX]) == (0, 12)
    assert machine.board.clock.time_stamp_adjustment == 0


def test_a_deadline_is_one_of_the_counter_that_was_moved() -> None:
    clock, events = GuestClock(lambda: 0), EventQueue()
    apic = LocalApic(clock, events, lambda _ns: None)
    apic.write(0xF0, 4, 0x1FF)
    apic.write(0x320, 4, 2 << 17 | 0x40)
    clock.time_stamp_adjustment = 1000
    apic.tsc_deadline = 1500
    assert events.next_deadline() == 500
    clock.time_stamp_adjustment = 1600
    apic.time_stamp_moved()
    assert events.next_deadline() == 0
    clock.skip_to(200)
    clock.time_stamp_adjustment = (1 << 64) - 100
    apic.time_stamp_moved()
    assert events.next_deadline() == 1500 + 100


MTRRS = {0xFE, *range(0x200, 0x210), 0x250, 0x258, 0x259, *range(0x268, 0x270), 0x2FF}
#: What an operating system may find at each MSR of the manual's Table 2-2 that this PC has, by model.
EXISTING = {
    "pentium": {TSC},
    "pentium4": {TSC, *MTRRS, 0x17, 0x1B, SIGNATURE_, *SYSENTER, MISC_ENABLE, 0x1D9, PAT, EFER, *LONG_MODE},
    "core2": {TSC, *MTRRS, 0x17, 0x1B, SIGNATURE_, *SYSENTER, MISC_ENABLE, 0x1D9, PAT, EFER, *LONG_MODE},
    "x86-64": {
        TSC, *MTRRS, 0x17, 0x1B, SIGNATURE_, *SYSENTER, MISC_ENABLE, 0x1D9, PAT, EFER, *LONG_MODE, TSC_AUX, 0x3B, 0x10A,
        0x6E0,
    },
}  # fmt: skip


@pytest.mark.parametrize("model", CPU_MODELS)
def test_which_registers_a_model_has(model: str) -> None:
    """All numbers of the ranges that MSR bitmaps cover, which hold every architectural one, are tried."""
    pc = flat_pc(cpu_model=model)
    pc.bus.local_apic = LocalApic(GuestClock(lambda: 0), EventQueue(), lambda _ns: None)
    found = set()
    for number in (*BITMAP_LOW, *BITMAP_HIGH):
        try:
            read_msr(pc.cpu, pc.bus, number)
        except ProcessorFault:
            with pytest.raises(ProcessorFault):
                write_msr(pc.cpu, pc.bus, number, 0)
        else:
            found.add(number)
    assert found == EXISTING[model]


@pytest.mark.parametrize("number", [0x17, 0x10A])
def test_registers_that_can_only_be_read(number: int) -> None:
    pc = flat_pc()
    assert rdmsr(pc, number) is not None
    assert not wrmsr(pc, number, rdmsr(pc, number) or 0)


def test_deviation_no_branch_is_recorded_and_none_stepped_to() -> None:
    """The manual: LBR and BTF of IA32_DEBUGCTL (Vol. 3B §18.4.1)."""
    pc = flat_pc()
    assert wrmsr(pc, 0x1D9, 0)
    assert not wrmsr(pc, 0x1D9, 1)
    assert not wrmsr(pc, 0x1D9, 2)


@pytest.mark.parametrize(("model", "bits"), [("core2", SCE | LME | NXE), ("pentium4", SCE | LME | NXE)])
def test_efer_has_the_bits_of_its_model(model: str, bits: int) -> None:
    pc = flat_pc(cpu_model=model)
    assert wrmsr(pc, EFER, bits)
    pc = flat_pc()
    pc.bus.cpu_model = find_cpu_model(model).without(Feature.NX, Feature.SYSCALL)
    assert not wrmsr(pc, EFER, SCE)


APIC_BASE, TSC_DEADLINE, SIGNATURE = 0x1B, 0x6E0, 0x8B


def test_registers_of_the_local_apic() -> None:
    pc = flat_pc()
    assert not wrmsr(pc, TSC_DEADLINE, 0)  # there is none
    pc.bus.local_apic = apic = LocalApic(GuestClock(lambda: 0), EventQueue(), lambda _ns: None)
    assert rdmsr(pc, APIC_BASE) == 0xFEE0_0900
    apic.write(0x320, 4, 2 << 17 | 0x40)
    assert wrmsr(pc, TSC_DEADLINE, 0x1_2345_6789)
    assert rdmsr(pc, TSC_DEADLINE) == 0x1_2345_6789


def test_deviation_the_local_apic_stays_where_it_is() -> None:
    """The manual: IA32_APIC_BASE moves the registers, and disables the APIC (Vol. 3A §11.4.3, §11.4.4)."""
    pc = flat_pc()
    pc.bus.local_apic = LocalApic(GuestClock(lambda: 0), EventQueue(), lambda _ns: None)
    assert wrmsr(pc, APIC_BASE, 0xFEE0_0900)
    assert not wrmsr(pc, APIC_BASE, 0xFEE0_0100)
    assert not wrmsr(pc, APIC_BASE, 0xFEF0_0900)


def test_what_the_processor_does_not_suffer_from() -> None:
    pc = long_pc(cpu_model="x86-64")
    assert (rdmsr(pc, 0x10A) or 0) & 0x31 == 0x31
    assert not wrmsr(pc, 0x10A, 0)
    assert rdmsr(long_pc(cpu_model="core2"), 0x10A) is None


def test_a_microcode_revision_stands_in_the_signature() -> None:
    pc = flat_pc()
    assert wrmsr(pc, SIGNATURE, 0)
    assert (rdmsr(pc, SIGNATURE) or 0) >> 32


def test_only_the_low_half_of_ecx_names_the_register() -> None:
    pc = long_pc()
    pc.state[ECX] = 0xFFFF_FFFF_0000_0000 | PAT
    pc.load("0f 32 ; rdmsr\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0x0007_0406


# ------------------------------------------------------------------------------------------------ EFER


def test_efer_lme_before_paging() -> None:
    pc = flat_pc()
    assert wrmsr(pc, EFER, LME | NXE | SCE)
    assert rdmsr(pc, EFER) == LME | NXE | SCE


def test_lma_cannot_be_written() -> None:
    """Read-only; a write is ignored (§10.8.5)."""
    pc = flat_pc()
    assert wrmsr(pc, EFER, LMA)
    assert rdmsr(pc, EFER) == 0
    pc = long_pc()
    assert wrmsr(pc, EFER, LME | SCE)
    assert rdmsr(pc, EFER) == LME | LMA | SCE


def test_lme_cannot_change_while_paging_is_on() -> None:
    pc = long_pc()
    assert not wrmsr(pc, EFER, SCE | NXE)


def test_nxe_takes_effect_at_once() -> None:
    """A page with XD set: reserved bit while NXE is 0, no-execute when it is 1."""
    pc = long_pc()
    directory = PAGE_TABLES + 0x2000
    pc.write64(directory + 8, 0x20_0000 | 0x87 | 1 << 63)
    pc.engine.flush_tlb()
    assert wrmsr(pc, EFER, LME | SCE)
    pc.state.rip = CODE
    pc.state[3] = 0x20_0000
    pc.load("8b 03 ; mov eax, [ebx]")
    pc.complete(pc.event())
    assert (pc.vector, pc.stack(1, 8)) == (Vector.PF, [9])
    pc.ring(0, 0x38, 0x10, 0x2_0000)
    assert wrmsr(pc, EFER, LME | SCE | NXE)
    pc.state.rip = CODE
    pc.load("8b 03 ; mov eax, [ebx]\nf4 ; hlt")
    pc.run()
    assert pc.state.rip == CODE + 2


def test_bases_are_the_hidden_bases_of_fs_and_gs() -> None:
    pc = long_pc()
    pc.write32(0x4_0010, 0xCAFE)
    assert wrmsr(pc, FS_BASE, 0x4_0000)
    assert pc.state.segment_base(SegmentRegister.FS) == 0x4_0000
    pc.state.rip = CODE
    pc.load("64 8b 04 25 10 00 00 00 ; mov eax, fs:[0x10]\nf4 ; hlt")
    pc.run()
    assert pc.state[EAX] == 0xCAFE


def test_swapgs() -> None:
    pc = long_pc()
    assert wrmsr(pc, GS_BASE, 0x1111)
    assert wrmsr(pc, KERNEL_GS_BASE, 0x2222)
    pc.state.rip = CODE
    pc.load("0f 01 f8 ; swapgs\nf4 ; hlt")
    pc.run()
    assert (rdmsr(pc, GS_BASE), rdmsr(pc, KERNEL_GS_BASE)) == (0x2222, 0x1111)
