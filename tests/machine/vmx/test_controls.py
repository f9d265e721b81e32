"""For every control a pair of guests that differ by it alone, and what appears or vanishes, or VM entry refuses it.

`PAIRS` is about the controls that the capability MSRs offer; every other is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

import pytest

from simvirt.machine.vmx.capabilities import PRESETS, THIS_PC
from simvirt.machine.vmx.non_root import HostStop, VmEntryError
from simvirt.x86.addresses import Gpa
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import (
    CONTROL_WORDS,
    EntryControls,
    ExitControls,
    ExitReason,
    PinControls,
    PrimaryControls,
    SecondaryControls,
    VmcsField,
)
from simvirt.x86.vmx.ept import EptEntry
from tests.support.vmx_rig import CODE, DATA, HANDLERS, HOLE, RAM, F, Rig, long_mode

P, S, X, E, R = PrimaryControls, SecondaryControls, ExitControls, EntryControls, ExitReason
RAX, RBX, RCX, RDX = (GeneralRegister[name] for name in ("RAX", "RBX", "RCX", "RDX"))
HALTED = HostStop.HALTED

FIELDS: dict[type[IntFlag], VmcsField] = {
    PinControls: F.PIN_BASED_CONTROLS,
    PrimaryControls: F.PRIMARY_CONTROLS,
    SecondaryControls: F.SECONDARY_CONTROLS,
    ExitControls: F.EXIT_CONTROLS,
    EntryControls: F.ENTRY_CONTROLS,
}
VIRTUAL_APIC, LOG, INFORMATION = 0x8_0000, 0x8_1000, 0x8_2000
PAGE_DIRECTORY, PAGE_TABLE = 0x5_0000, 0x5_1000
CPUID, NOPS = b"\x0f\xa2", b"\x90" * 90
READ_DR7 = b"\x0f\x21\xf8"
READ_CR8, WRITE_CR8 = b"\x44\x0f\x20\xc3", b"\x44\x0f\x22\xc0"  # mov rbx, cr8; mov cr8, rax
PAT, EFER = 0x277, 0xC000_0080
OTHER_PAT = 0x0606_0606_0606_0606


def read_msr(number: int) -> bytes:
    return b"\xb9" + number.to_bytes(4, "little") + b"\x0f\x32"


def write_msr(number: int, low: int, high: int = 0) -> bytes:
    return b"".join(
        (
            b"\xb9" + number.to_bytes(4, "little"),
            b"\xb8" + low.to_bytes(4, "little"),
            b"\xba" + high.to_bytes(4, "little"),
            b"\x0f\x30",
        )
    )


def put(rig: Rig, control: IntFlag, *, on: bool) -> None:
    """Set or clear one control."""
    field = FIELDS[type(control)]
    value = rig.vmcs.read(field)
    rig.vmcs.write(field, value | int(control) if on else value & ~int(control))


# -------------------------------------------------------------------------------------------- guests


def running(code: bytes, prepare: Callable[[Rig], None] | None = None) -> Callable[[Rig], object]:
    """Runs these instructions; what is seen is the exit, or that the guest came to its HLT."""

    def guest(rig: Rig) -> object:
        if prepare is not None:
            prepare(rig)
        return rig.run(code)

    return guest


def fault_of(code: bytes) -> Callable[[Rig], object]:
    """What is seen is the vector of the handler in which the guest halts, None if it comes to its own HLT."""

    def guest(rig: Rig) -> object:
        assert rig.run(code) is HALTED
        return rig.handler

    return guest


def interrupts_off(rig: Rig) -> None:
    rig.cpu.state.eflags = 2


def bitmaps_of_ones(rig: Rig) -> None:
    for page in (0x1000, 0x2000):
        rig.memory.view[page : page + 0x1000] = b"\xff" * 0x1000


def timer_of_two(rig: Rig) -> None:
    rig.vmcs.write(F.PREEMPTION_TIMER_VALUE, 2)


def short_window(rig: Rig) -> None:
    rig.vmcs.write(F.PLE_GAP, 100)
    rig.vmcs.write(F.PLE_WINDOW, 4)


def paging(rig: Rig) -> None:
    """32-bit paging that leads to the VM's memory, from its tables with EPT, and from the PC's without."""
    for base, offset in ((RAM, 0), (0, RAM)):
        entries = b"".join((offset + page * 0x1000 | 7).to_bytes(4, "little") for page in range(1024))
        view = rig.memory.view
        view[base + PAGE_DIRECTORY : base + PAGE_DIRECTORY + 4] = (PAGE_TABLE | 7).to_bytes(4, "little")
        view[base + PAGE_TABLE : base + PAGE_TABLE + 0x1000] = entries
    rig.vmcs.write(F.GUEST_CR3, PAGE_DIRECTORY)
    rig.vmcs.write(F.GUEST_CR0, 0x8000_0011)


def paging_and_wbinvd_exiting(rig: Rig) -> None:
    paging(rig)
    rig.vmcs.write(F.SECONDARY_CONTROLS, int(S.WBINVD_EXITING))


def paging_without_unrestricted_guest(rig: Rig) -> None:
    paging(rig)
    put(rig, S.UNRESTRICTED_GUEST, on=False)


def host_interrupt(rig: Rig) -> object:
    """An interrupt of the PC while the guest runs with IF set."""
    rig.vmcs.write(F.GUEST_RFLAGS, 0x202)
    rig.run(NOPS, limit=5)
    reason = rig.non_root.external_interrupt(0x31)
    if reason is None:
        assert rig.non_root.enter(rig.cpu.count + 100) is HALTED
    return reason, rig.handler


def acknowledged(rig: Rig) -> object:
    put(rig, PinControls.EXTERNAL_INTERRUPT_EXITING, on=True)
    assert rig.non_root.external_interrupt(0x31) is R.EXTERNAL_INTERRUPT
    return rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION)


def host_nmi(rig: Rig) -> object:
    rig.cpu.raise_nmi()
    reason = rig.run(b"\x90")
    return reason, rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) if reason is not HALTED else rig.handler


def nmi_and_iret(rig: Rig) -> object:
    """The VMM injects an NMI, whose handler is IRET: what is blocked then?"""
    put(rig, PinControls.NMI_EXITING, on=True)
    rig.write(HANDLERS + 2 * 16, b"\xcf")
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, 0x8000_0202)
    assert rig.run(b"\x90") is HALTED
    assert rig.handler is None
    return rig.vmcs.read(F.GUEST_INTERRUPTIBILITY_STATE)


IRET_TO_HLT = (
    b"\x6a\x02\x6a\x08\x68" + (CODE + 10).to_bytes(4, "little") + b"\xcf\x90\x90"
)  # push 2; push CS; push EIP; iret


def handling_a_virtual_nmi(rig: Rig) -> None:
    put(rig, PinControls.NMI_EXITING, on=True)
    put(rig, PinControls.VIRTUAL_NMIS, on=True)
    rig.vmcs.write(F.GUEST_INTERRUPTIBILITY_STATE, 8)


def tsc(rig: Rig) -> object:
    rig.vmcs.write(F.TSC_OFFSET, 1000)
    rig.vmcs.write(F.TSC_MULTIPLIER, 5 << 47)
    assert rig.run(b"\x90" * 8 + b"\x0f\x31") is HALTED
    return rig.register(RAX)


def scaled_tsc(rig: Rig) -> object:
    put(rig, P.USE_TSC_OFFSETTING, on=True)
    return tsc(rig)


def reading_cr8(rig: Rig) -> object:
    """The virtual task priority is 5; without the shadow there is no local APIC, whose priority would be 0."""
    long_mode(rig)
    rig.vmcs.write(F.VIRTUAL_APIC_ADDRESS, VIRTUAL_APIC)
    rig.memory.view[VIRTUAL_APIC + 0x80] = 0x50
    assert rig.run(READ_CR8) is HALTED
    return rig.register(RBX)


def stale_translation(rig: Rig) -> object:
    """A page-table entry is changed without INVLPG, and then comes an exit: what does the guest read behind it?"""
    paging(rig)
    rig.vmcs.write(F.VIRTUAL_PROCESSOR_ID, 1)
    rig.write(DATA, b"\x11\0\0\0")
    rig.write(DATA + 0x1000, b"\x22\0\0\0")
    entry = PAGE_TABLE + (DATA >> 12) * 4
    data, other = DATA.to_bytes(4, "little"), (DATA + 0x1000 | 7).to_bytes(4, "little")
    assert rig.run(b"\xa1" + data + b"\xc7\x05" + entry.to_bytes(4, "little") + other + CPUID) is R.CPUID
    assert rig.run(b"\xa1" + data) is HALTED
    return rig.register(RAX)


def writing_two_pages(rig: Rig) -> object:
    """The log has room for one."""
    rig.ept.set_rights(Gpa(DATA), 0x2000, EptEntry.READ | EptEntry.WRITE | EptEntry.EXECUTE)
    rig.vmcs.write(F.EPT_POINTER, rig.ept.pointer.encode() | 1 << 6)
    rig.vmcs.write(F.PML_ADDRESS, LOG)
    rig.vmcs.write(F.PML_INDEX, 0)
    reason = rig.run(b"".join(b"\xa3" + page.to_bytes(4, "little") for page in (DATA, DATA + 0x1000)))
    return reason, [int.from_bytes(rig.memory.view[LOG : LOG + 8], "little")]


def reading_a_hole(rig: Rig) -> object:
    rig.vmcs.write(F.VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS, INFORMATION)
    return rig.run(b"\xa1" + HOLE.to_bytes(4, "little")), rig.handler


def saved(field: VmcsField, code: bytes) -> Callable[[Rig], object]:
    """What the VMM reads from the VMCS when the guest has changed the register."""

    def guest(rig: Rig) -> object:
        put(rig, P.USE_MSR_BITMAPS, on=True)
        assert rig.run(code + CPUID) is R.CPUID
        return rig.vmcs.read(field)

    return guest


def loaded(field: VmcsField, value: int, code: bytes, mask: int = -1) -> Callable[[Rig], object]:
    """What the guest reads from the register when the VMM has changed the VMCS."""

    def guest(rig: Rig) -> object:
        put(rig, P.USE_MSR_BITMAPS, on=True)
        rig.vmcs.write(F.HOST_IA32_PAT, 0)
        rig.vmcs.write(F.HOST_IA32_EFER, 0xD01)
        assert rig.run(CPUID) is R.CPUID
        rig.vmcs.write(field, value)
        assert rig.run(code) is HALTED
        return (rig.register(RAX) | rig.register(RDX) << 32) & mask

    return guest


def left_by_the_host(control: EntryControls, code: bytes) -> Callable[[Rig], object]:
    """What the guest finds in a register that VM entry does not load."""

    def guest(rig: Rig) -> object:
        put(rig, control, on=False)
        put(rig, P.USE_MSR_BITMAPS, on=True)
        rig.vmcs.write(F.HOST_IA32_PAT, OTHER_PAT)
        rig.vmcs.write(F.HOST_IA32_EFER, 0xD01)
        assert rig.run(CPUID) is R.CPUID
        assert rig.run(code) is HALTED
        return rig.register(RAX)

    return guest


def timer_left(rig: Rig) -> object:
    put(rig, PinControls.ACTIVATE_PREEMPTION_TIMER, on=True)
    rig.vmcs.write(F.PREEMPTION_TIMER_VALUE, 3)
    assert rig.run(b"\x90" * 40 + CPUID) is R.CPUID
    return rig.vmcs.read(F.PREEMPTION_TIMER_VALUE)


def entering(code: bytes, prepare: Callable[[Rig], None]) -> Callable[[Rig], object]:
    """As `running`, where VM entry may fail: what is seen then is the check."""

    def guest(rig: Rig) -> object:
        prepare(rig)
        try:
            return rig.run(code)
        except VmEntryError as error:
            return error.check.name

    return guest


def sixty_four_bits(rig: Rig) -> None:
    on = rig.vmcs.read(F.ENTRY_CONTROLS) & E.IA32E_MODE_GUEST
    long_mode(rig)
    put(rig, E.IA32E_MODE_GUEST, on=bool(on))


def without_host_efer(rig: Rig) -> None:
    long_mode(rig)
    put(rig, X.LOAD_IA32_EFER, on=False)


# -------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Pair:
    """Two guests that differ by `control`: what is seen with it and without."""

    control: IntFlag
    guest: Callable[[Rig], object]
    with_it: object
    without: object = HALTED


PAIRS = [
    Pair(PinControls.EXTERNAL_INTERRUPT_EXITING, host_interrupt, (R.EXTERNAL_INTERRUPT, None), (None, 0x31)),
    Pair(PinControls.NMI_EXITING, host_nmi, (R.EXCEPTION_OR_NMI, 0x8000_0202), (HALTED, 2)),
    Pair(PinControls.VIRTUAL_NMIS, nmi_and_iret, 0, 8),
    Pair(PinControls.ACTIVATE_PREEMPTION_TIMER, running(NOPS, timer_of_two), R.PREEMPTION_TIMER_EXPIRED),
    Pair(P.INTERRUPT_WINDOW_EXITING, running(b"\xfb\x90\x90", interrupts_off), R.INTERRUPT_WINDOW),
    Pair(P.USE_TSC_OFFSETTING, tsc, 1008, 8),
    Pair(P.HLT_EXITING, running(b"\xf4"), R.HLT),
    Pair(P.INVLPG_EXITING, running(b"\x0f\x01\x38"), R.INVLPG),
    Pair(P.RDPMC_EXITING, running(b"\x0f\x33"), R.RDPMC),
    Pair(P.RDTSC_EXITING, running(b"\x0f\x31"), R.RDTSC),
    Pair(P.CR3_LOAD_EXITING, running(b"\x0f\x22\xd8"), R.CR_ACCESS),
    Pair(P.CR3_STORE_EXITING, running(b"\x0f\x20\xd8"), R.CR_ACCESS),
    Pair(P.CR8_LOAD_EXITING, running(WRITE_CR8, long_mode), R.CR_ACCESS),
    Pair(P.CR8_STORE_EXITING, running(READ_CR8, long_mode), R.CR_ACCESS),
    Pair(P.USE_TPR_SHADOW, reading_cr8, 5, 0),
    Pair(P.NMI_WINDOW_EXITING, running(IRET_TO_HLT, handling_a_virtual_nmi), R.NMI_WINDOW),
    Pair(P.MOV_DR_EXITING, running(b"\x0f\x21\xc0"), R.MOV_DR),
    Pair(P.UNCONDITIONAL_IO_EXITING, running(b"\xe6\x80"), R.IO_INSTRUCTION),
    Pair(P.USE_IO_BITMAPS, running(b"\xe6\x80", bitmaps_of_ones), R.IO_INSTRUCTION),
    Pair(P.MONITOR_TRAP_FLAG, running(b"\x90\x90"), R.MONITOR_TRAP_FLAG),
    Pair(P.USE_MSR_BITMAPS, running(read_msr(0x174)), HALTED, R.RDMSR),
    Pair(P.PAUSE_EXITING, running(b"\xf3\x90"), R.PAUSE),
    Pair(P.ACTIVATE_SECONDARY_CONTROLS, running(b"\x0f\x09", paging_and_wbinvd_exiting), R.WBINVD),
    Pair(
        S.ENABLE_EPT,
        running(b"\xa1" + HOLE.to_bytes(4, "little"), paging_without_unrestricted_guest),
        R.EPT_VIOLATION,
    ),
    Pair(S.DESCRIPTOR_TABLE_EXITING, running(b"\x0f\x01\x05" + DATA.to_bytes(4, "little")), R.GDTR_IDTR_ACCESS),
    Pair(S.ENABLE_RDTSCP, fault_of(b"\x0f\x01\xf9"), None, 6),
    Pair(S.ENABLE_VPID, stale_translation, 0x11, 0x22),
    Pair(S.WBINVD_EXITING, running(b"\x0f\x09"), R.WBINVD),
    Pair(S.UNRESTRICTED_GUEST, running(b"\x90"), HALTED, R.ENTRY_FAILURE_GUEST_STATE),  # paging is off
    Pair(S.PAUSE_LOOP_EXITING, running(b"\xf3\x90" * 8, short_window), R.PAUSE),
    Pair(S.ENABLE_VM_FUNCTIONS, running(b"\x0f\x01\xd4"), R.VMFUNC),
    Pair(S.ENABLE_PML, writing_two_pages, (R.PAGE_MODIFICATION_LOG_FULL, [DATA]), (HALTED, [0])),
    Pair(S.EPT_VIOLATION_VE, reading_a_hole, (HALTED, 20), (R.EPT_VIOLATION, None)),
    Pair(S.USE_TSC_SCALING, scaled_tsc, 8 * 5 // 2 + 1000, 1008),
    Pair(X.SAVE_DEBUG_CONTROLS, saved(F.GUEST_DR7, b"\xb8\x01\x04\0\0\x0f\x23\xf8"), 0x401, 0x400),
    Pair(
        X.HOST_ADDRESS_SPACE_SIZE,
        entering(b"\x90", without_host_efer),
        HALTED,
        "a 32-bit host has no guest in IA-32e mode",
    ),
    Pair(X.ACKNOWLEDGE_INTERRUPT_ON_EXIT, acknowledged, 1 << 31 | 0x31, 0),
    Pair(X.SAVE_IA32_PAT, saved(F.GUEST_IA32_PAT, write_msr(PAT, 6)), 6, 0x0007_0406_0007_0406),
    Pair(X.LOAD_IA32_PAT, left_by_the_host(E.LOAD_IA32_PAT, read_msr(PAT)), 0x0606_0606, 0x0007_0406),
    Pair(X.SAVE_IA32_EFER, saved(F.GUEST_IA32_EFER, write_msr(EFER, 1)), 1, 0),
    Pair(X.LOAD_IA32_EFER, left_by_the_host(E.LOAD_IA32_EFER, read_msr(EFER)), 0x901, 0x100),
    Pair(X.SAVE_PREEMPTION_TIMER, timer_left, (96 - 40) >> 5, 3),
    Pair(E.LOAD_DEBUG_CONTROLS, loaded(F.GUEST_DR7, 0x555, READ_DR7, 0xFFFF_FFFF), 0x555, 0x400),
    Pair(E.IA32E_MODE_GUEST, running(b"\x90", sixty_four_bits), HALTED, R.ENTRY_FAILURE_GUEST_STATE),
    Pair(E.LOAD_IA32_PAT, loaded(F.GUEST_IA32_PAT, OTHER_PAT, read_msr(PAT)), OTHER_PAT, 0),
    Pair(E.LOAD_IA32_EFER, loaded(F.GUEST_IA32_EFER, 0x800, read_msr(EFER)), 0x800, 0x901),
]
CONTROLS = [flag for flags in CONTROL_WORDS for flag in flags]
NOT_OFFERED = [flag for flag in CONTROLS if not THIS_PC.offers(flag)]


def test_every_control_that_is_offered_has_its_pair() -> None:
    pairs = [(type(pair.control), int(pair.control)) for pair in PAIRS]
    offered = [(type(flag), int(flag)) for flag in CONTROLS if THIS_PC.offers(flag)]
    assert sorted(pairs, key=str) == sorted(offered, key=str)


@pytest.mark.parametrize("pair", PAIRS, ids=[str(pair.control.name) for pair in PAIRS])
def test_a_pair_of_guests(pair: Pair) -> None:
    for on, expected in ((True, pair.with_it), (False, pair.without)):
        rig = Rig()
        put(rig, pair.control, on=on)
        assert pair.guest(rig) == expected


def test_the_page_tells_of_every_control_and_since_when() -> None:
    page = (Path(__file__).parents[3] / "docs" / "vmx-controls.md").read_text(encoding="utf-8")
    told = [
        (int(bit), name, since)
        for bit, name, since in re.findall(r"^\| (\d+) \| `(\w+)` \| ([\w -]+) \|", page, re.MULTILINE)
    ]
    expected = []
    for control in CONTROLS:
        since = next((preset.name for preset in PRESETS.values() if preset.offers(control)), "not offered")
        expected.append((int(control).bit_length() - 1, control.name, since))
    assert told == expected


@pytest.mark.parametrize("control", NOT_OFFERED, ids=[f"{type(flag).__name__}.{flag.name}" for flag in NOT_OFFERED])
def test_what_is_not_offered_is_refused_by_name(control: IntFlag) -> None:
    rig = Rig()
    put(rig, control, on=True)
    with pytest.raises(VmEntryError, match="does not offer") as caught:
        rig.run(b"\x90")
    assert CONTROL_WORDS[type(control)].title in caught.value.check.name
    assert caught.value.error == 7
