"""Exit qualifications, interruption information and instruction information: bits by the manual, and round trips."""

from __future__ import annotations

from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simvirt.x86.addresses import Port
from simvirt.x86.registers import ControlRegister, GeneralRegister, Ring, SegmentRegister
from simvirt.x86.segments import Descriptor
from simvirt.x86.vmx import (
    AccessRights,
    ActivityState,
    CrAccess,
    CrAccessType,
    DebugQualification,
    DescriptorTableInformation,
    DescriptorTableInstruction,
    EptViolation,
    Interruptibility,
    InterruptionInformation,
    InterruptionType,
    IoInstruction,
    LocalTableInformation,
    LocalTableInstruction,
    MemoryAddressing,
    MovDr,
    PendingDebugExceptions,
    StringIoInformation,
    TaskSwitch,
    TaskSwitchSource,
)


class Record(Protocol):
    """What all of them can do."""

    def encode(self) -> int: ...

    @classmethod
    def decode(cls, value: int) -> Record: ...


GPR = GeneralRegister
FLAT = MemoryAddressing(SegmentRegister.DS, GPR.RBX, GPR.RCX, 4, 32)
# Values put together by hand from the rows of the manual's tables, bits from low to high.
BY_HAND: list[tuple[Record, int]] = [
    (DebugQualification(breakpoints=0b101, single_step=True), 0b101 | 1 << 14),  # Table 28-1
    (DebugQualification(debug_register_access=True, rtm=True), 1 << 13 | 1 << 16),
    (TaskSwitch(0x28, TaskSwitchSource.CALL), 0x28),  # Table 28-2
    (TaskSwitch(0x30, TaskSwitchSource.IRET), 0x30 | 1 << 30),
    (TaskSwitch(0x30, TaskSwitchSource.TASK_GATE_IN_IDT), 0x30 | 3 << 30),
    (CrAccess(ControlRegister.CR0, CrAccessType.MOV_TO_CR, GPR.RAX), 0),  # Table 28-3
    (CrAccess(ControlRegister.CR4, CrAccessType.MOV_FROM_CR, GPR.R9), 4 | 1 << 4 | 9 << 8),
    (CrAccess(ControlRegister.CR0, CrAccessType.CLTS), 2 << 4),
    (CrAccess(ControlRegister.CR0, CrAccessType.LMSW, lmsw_memory_operand=True, lmsw_source_data=0xBEEF), 0xBEEF_0070),
    (MovDr(7, from_dr=False, general_register=GPR.RDX), 7 | 2 << 8),  # Table 28-4
    (MovDr(6, from_dr=True, general_register=GPR.RSI), 6 | 1 << 4 | 6 << 8),
    (IoInstruction(Port(0x60), 1, is_in=True, immediate=True), 0x60 << 16 | 1 << 6 | 1 << 3),  # Table 28-5
    (IoInstruction(Port(0xCFC), 4, is_in=False), 0xCFC << 16 | 3),
    (IoInstruction(Port(0x1F0), 2, is_in=True, string=True, rep=True), 0x1F0 << 16 | 1 << 5 | 1 << 4 | 1 << 3 | 1),
    (
        EptViolation(write=True, readable=True, linear_address_valid=True, to_page=True),
        1 << 1 | 1 << 3 | 1 << 7 | 1 << 8,
    ),
    (EptViolation(fetch=True, writable=True, executable=True, nmi_unblocking=True), 1 << 2 | 1 << 4 | 1 << 5 | 1 << 12),
    (InterruptionInformation(0x20, InterruptionType.EXTERNAL_INTERRUPT), 0x8000_0020),  # Table 25-17
    (InterruptionInformation(13, InterruptionType.HARDWARE_EXCEPTION, deliver_error_code=True), 0x8000_0B0D),
    (InterruptionInformation(0x80, InterruptionType.SOFTWARE_INTERRUPT), 0x8000_0480),
    (InterruptionInformation(3, InterruptionType.SOFTWARE_EXCEPTION, nmi_unblocking=True), 0x8000_1603),
    (StringIoInformation(32, SegmentRegister.FS), 1 << 7 | 4 << 15),  # Table 28-8
    (
        DescriptorTableInformation(DescriptorTableInstruction.LIDT, FLAT),
        2 | 1 << 7 | 1 << 11 | 3 << 15 | 1 << 18 | 3 << 23 | 3 << 28,
    ),
    (
        DescriptorTableInformation(
            DescriptorTableInstruction.SGDT, MemoryAddressing(SegmentRegister.SS, None, None, 1, 16), operand_32=False
        ),
        2 << 15 | 1 << 22 | 1 << 27,
    ),
    (LocalTableInformation(LocalTableInstruction.LTR, GPR.RDI), 7 << 3 | 1 << 10 | 3 << 28),  # Table 28-11
    (LocalTableInformation(LocalTableInstruction.STR, FLAT), 2 | 1 << 7 | 3 << 15 | 1 << 18 | 3 << 23 | 1 << 28),
]


@pytest.mark.parametrize(("record", "value"), BY_HAND, ids=str)
def test_bits_by_the_manual(record: Record, value: int) -> None:
    assert record.encode() == value
    assert type(record).decode(value) == record


ADDRESSING = st.builds(
    lambda segment, base, index, scale, bits: MemoryAddressing(
        segment, base, index, scale if index is not None else 1, bits
    ),
    st.sampled_from(SegmentRegister),
    st.none() | st.sampled_from(GPR),
    st.none() | st.sampled_from(GPR),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([16, 32, 64]),
)
RECORDS = st.one_of(
    st.builds(DebugQualification, st.integers(0, 15), st.booleans(), st.booleans(), st.booleans(), st.booleans()),
    st.builds(TaskSwitch, st.integers(0, 0xFFFF), st.sampled_from(TaskSwitchSource)),
    st.builds(
        CrAccess,
        st.sampled_from(ControlRegister),
        st.sampled_from(CrAccessType),
        st.sampled_from(GPR),
        st.booleans(),
        st.integers(0, 0xFFFF),
    ),
    st.builds(MovDr, st.integers(0, 7), st.booleans(), st.sampled_from(GPR)),
    st.builds(
        IoInstruction,
        st.integers(0, 0xFFFF).map(Port),
        st.sampled_from([1, 2, 4]),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(EptViolation, *[st.booleans()] * 9),
    st.builds(
        InterruptionInformation,
        st.integers(0, 255),
        st.sampled_from(InterruptionType),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    ),
    st.builds(StringIoInformation, st.sampled_from([16, 32, 64]), st.sampled_from(SegmentRegister)),
    st.builds(DescriptorTableInformation, st.sampled_from(DescriptorTableInstruction), ADDRESSING, st.booleans()),
    st.builds(LocalTableInformation, st.sampled_from(LocalTableInstruction), ADDRESSING | st.sampled_from(GPR)),
)


@given(RECORDS)
def test_records_come_back(record: Record) -> None:
    assert type(record).decode(record.encode()) == record


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="ControlRegister"):
        CrAccess.decode(5)
    with pytest.raises(ValueError, match="address size 3"):
        MemoryAddressing.decode(3 << 7)
    with pytest.raises(ValueError, match="SegmentRegister"):
        MemoryAddressing.decode(7 << 15)


def test_states() -> None:
    names = ("BLOCKING_BY_STI", "BLOCKING_BY_MOV_SS", "BLOCKING_BY_SMI", "BLOCKING_BY_NMI", "ENCLAVE_INTERRUPTION")
    assert [Interruptibility[name] for name in names] == [1, 2, 4, 8, 16]
    assert [state.name for state in ActivityState] == ["ACTIVE", "HLT", "SHUTDOWN", "WAIT_FOR_SIPI"]
    assert PendingDebugExceptions.ENABLED_BREAKPOINT | PendingDebugExceptions.BS == 0x5000
    assert [kind for kind in InterruptionType if kind.needs_instruction_length] == [4, 5, 6]


# The access rights that VM entry wants (SDM Vol. 3C §27.3.1.2): flat code and data, busy TSS, virtual-8086
@pytest.mark.parametrize(
    ("high", "rights"), [(0x00CF_9B00, 0xC09B), (0x00CF_9300, 0xC093), (0x0000_8B00, 0x008B), (0x0000_F300, 0x00F3)]
)
def test_access_rights(high: int, rights: int) -> None:
    segment = Descriptor.decode(0, high)
    assert AccessRights.of(segment).encode() == rights
    assert AccessRights.from_flags(segment.flags) == AccessRights.of(segment)
    assert AccessRights.of(segment).flags == segment.flags & ~0xF_0000
    assert AccessRights.of(segment).dpl == segment.dpl


def test_an_unusable_segment() -> None:
    rights = AccessRights.from_flags(0, usable=False)
    assert (rights.encode(), rights.unusable, rights.dpl) == (0x10000, True, Ring.RING0)
    assert not AccessRights(0x93).unusable
