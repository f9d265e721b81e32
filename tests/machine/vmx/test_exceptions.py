"""Exceptions and events: the exception bitmap, IDT-vectoring information, event injection.

Sources: SDM Vol. 3C §26.2, §27.6, §28.2.2 to §28.2.4.
"""

from __future__ import annotations

import pytest

from simvirt.machine.vmx.non_root import HostStop, VmEntryError
from simvirt.x86.registers import GeneralRegister
from tests.support.vmx_rig import CODE, DATA, HANDLERS, IDT, STACK, F, Rig

PAGING = 0x8000_0011
DIRECTORY = 0x2_0000
UNMAPPED = 0x80_0000


@pytest.fixture
def rig() -> Rig:
    return Rig()


def paging(rig: Rig) -> None:
    """Map the first 4 MBytes 1:1 with one large page."""
    rig.write(DIRECTORY, (0x87).to_bytes(4, "little"))
    rig.vmcs.write(F.GUEST_CR4, 0x2010)
    rig.vmcs.write(F.GUEST_CR3, DIRECTORY)
    rig.vmcs.write(F.GUEST_CR0, PAGING)


@pytest.mark.parametrize(
    ("code", "vector", "information", "error_code", "length"),
    [
        (b"\x31\xc9\xf7\xf1", 0, 0x8000_0300, 0, 0),  # xor ecx, ecx; div ecx
        (b"\x0f\x0b", 6, 0x8000_0306, 0, 0),  # ud2
        (b"\x66\xb8\x38\x00\x8e\xd8", 13, 0x8000_0B0D, 0x38, 0),  # mov ds, 0x38: beyond the GDT
        (b"\xcc", 3, 0x8000_0603, 0, 1),  # int3: a software exception
        (b"\x70\x00\xce", 4, None, 0, 1),  # into with OF = 0 does nothing
    ],
)
def test_the_exception_bitmap(code: bytes, vector: int, information: int | None, error_code: int, length: int) -> None:
    rig = Rig()
    assert rig.run(code) is HostStop.HALTED
    assert rig.handler == (vector if information else None)
    rig = Rig()
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << vector)
    exit_ = rig.run(code)
    if information is None:
        assert exit_ is HostStop.HALTED
        return
    assert exit_ == 0
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == information
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_ERROR_CODE) == error_code
    assert rig.length == length
    assert rig.qualification == 0
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) >> 31 == 0


def test_int_n_is_no_exception(rig: Rig) -> None:
    """CD 03 has vector 3 and is not #BP (SDM Vol. 3C §26.2)."""
    rig.vmcs.write(F.EXCEPTION_BITMAP, 0xFFFF_FFFF)
    assert rig.run(b"\xcd\x03") is HostStop.HALTED
    assert rig.handler == 3


@pytest.mark.parametrize(
    ("bit", "mask", "match", "exits"),
    [(1, 0, 0, True), (0, 0, 0, False), (1, 2, 0, True), (1, 2, 2, False), (0, 2, 2, True), (0, 0, 1, True)],
)
def test_page_faults_and_their_error_codes(bit: int, mask: int, match: int, exits: bool) -> None:
    """Bit 14 decides when (error code & mask) == match, else its opposite. The fault is a read: error code 0."""
    rig = Rig()
    paging(rig)
    rig.vmcs.write(F.EXCEPTION_BITMAP, bit << 14 | 1)
    rig.vmcs.write(F.PAGE_FAULT_ERROR_CODE_MASK, mask)
    rig.vmcs.write(F.PAGE_FAULT_ERROR_CODE_MATCH, match)
    rig.cpu.state.set_control_register(2, 0x1234)
    exit_ = rig.run(b"\xa1" + UNMAPPED.to_bytes(4, "little"))
    if exits:
        assert exit_ == 0
        assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 0x8000_0B0E
        assert rig.qualification == UNMAPPED
        assert rig.cpu.state.cr2 == 0x1234  # the exit does not load CR2 (SDM Vol. 3C §28.1)
    else:
        assert exit_ is HostStop.HALTED
        assert rig.handler == 14
        assert rig.cpu.state.cr2 == UNMAPPED


def test_page_faults_exit_by_mask_alone_though_the_bitmap_is_zero(rig: Rig) -> None:
    paging(rig)
    rig.vmcs.write(F.PAGE_FAULT_ERROR_CODE_MATCH, 0xFFFF_FFFF)
    assert rig.run(b"\xa1" + UNMAPPED.to_bytes(4, "little")) == 0


def test_an_exit_during_the_delivery_of_an_exception(rig: Rig) -> None:
    """#UD whose gate is not present: #NP(6 * 8 + IDT), which exits, with #UD as the vectored event."""
    rig.write(IDT + 8 * 6 + 5, b"\x0e")
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << 11)
    assert rig.run(b"\x0f\x0b") == 0
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 0x8000_0B0B
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_ERROR_CODE) == 6 * 8 + 2 + 1
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) == 0x8000_0306
    assert rig.rip == CODE


def test_an_exit_during_int_n(rig: Rig) -> None:
    """INT 21H through a gate that is not present: type 4, and the length is valid (SDM Vol. 3C §28.2.4, §28.2.5)."""
    rig.write(IDT + 8 * 0x21 + 5, b"\x0e")
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << 11)
    assert rig.run(b"\xcd\x21") == 0
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_ERROR_CODE) == 0x21 * 8 + 2
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) == 0x8000_0421
    assert rig.length == 2
    assert rig.cpu.count == 0


def test_a_double_fault_that_exits_has_no_vectoring_information(rig: Rig) -> None:
    """#GP whose gate is not present: #NP, contributory twice, so #DF, which exits itself (SDM Vol. 3C §28.2.4)."""
    rig.write(IDT + 8 * 13 + 5, b"\x0e")
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << 8)
    assert rig.run(b"\x66\xb8\x38\x00\x8e\xd8") == 0
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 0x8000_0B08
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) >> 31 == 0


def test_single_steps_exit_with_bs_in_the_qualification(rig: Rig) -> None:
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << 1)
    rig.vmcs.write(F.GUEST_RFLAGS, 0x102)
    assert rig.run(b"\x90\x90") == 0
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 0x8000_0301
    assert rig.qualification == 1 << 14
    assert rig.rip == CODE + 1


# ------------------------------------------------------------------------------------------------ injection


@pytest.mark.parametrize(
    ("information", "error_code", "length", "frame"),
    [
        (0x8000_0020, None, 0, (CODE, 0x08, 0x202)),  # external interrupt 20H
        (0x8000_0202, None, 0, (CODE, 0x08, 0x202)),  # NMI
        (0x8000_0306, None, 0, (CODE, 0x08, 0x10202)),  # #UD: RF in the saved flags, as of any fault
        (0x8000_0B0D, 0x38, 0, (0x38, CODE, 0x08, 0x10202)),  # #GP(38H)
        (0x8000_0480, None, 2, (CODE + 2, 0x08, 0x202)),  # INT 80H
        (0x8000_0603, None, 1, (CODE + 1, 0x08, 0x202)),  # INT3
    ],
)
def test_injection_goes_through_the_guests_idt(
    information: int, error_code: int | None, length: int, frame: tuple[int, ...]
) -> None:
    rig = Rig()
    rig.vmcs.write(F.GUEST_RFLAGS, 0x202)
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, information)
    rig.vmcs.write(F.ENTRY_EXCEPTION_ERROR_CODE, error_code or 0)
    rig.vmcs.write(F.ENTRY_INSTRUCTION_LENGTH, length)
    assert rig.run(b"\x90") is HostStop.HALTED
    assert rig.handler == information & 0xFF
    sp = rig.vmcs.read(F.GUEST_RSP)
    assert sp == STACK - 4 * len(frame)
    assert rig.read(sp, 4 * len(frame)) == b"".join(value.to_bytes(4, "little") for value in frame)
    assert rig.vmcs.read(F.ENTRY_INTERRUPTION_INFORMATION) >> 31 == 0  # injected once
    assert rig.cpu.count == 1  # the handler's HLT alone


def test_an_injected_exception_is_not_subject_to_the_bitmap_but_what_it_meets_is(rig: Rig) -> None:
    rig.vmcs.write(F.EXCEPTION_BITMAP, 1 << 6 | 1 << 11)
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, 0x8000_0306)
    assert rig.run(b"\x90") is HostStop.HALTED
    assert rig.handler == 6
    rig.write(IDT + 8 * 6 + 5, b"\x0e")
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, 0x8000_0306)
    assert rig.run(b"\x90") == 0
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) == 0x8000_0B0B
    assert rig.vmcs.read(F.IDT_VECTORING_INFORMATION) == 0x8000_0306


def test_injection_wakes_the_processor(rig: Rig) -> None:
    rig.vmcs.write(F.GUEST_RFLAGS, 0x202)
    assert rig.run(b"\xf4") is HostStop.HALTED
    assert rig.vmcs.read(F.GUEST_ACTIVITY_STATE) == 1
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, 0x8000_0020)
    assert rig.non_root.enter(1) is HostStop.LIMIT
    assert rig.vmcs.read(F.GUEST_ACTIVITY_STATE) == 0
    assert rig.rip == HANDLERS + 16 * 0x20


def test_a_pending_mtf_exit_is_injected_before_any_instruction(rig: Rig) -> None:
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, 0x8000_0700)
    assert rig.run(b"\x90") == 37
    assert rig.rip == CODE
    assert rig.cpu.count == 0


@pytest.mark.parametrize(
    ("information", "error_code"),
    [
        (0x8000_0120, 0),  # reserved type
        (0x8000_0203, 0),  # an NMI has vector 2
        (0x8000_0320, 0),  # exceptions have vectors below 32
        (0x8000_030D, 0),  # #GP without its error code
        (0x8000_0B06, 0),  # #UD with one
        (0x8000_0B0D, 0x1_0000),  # an error code has 16 bits
        (0x8000_0480, 0),  # INT n without an instruction length
        (0x8000_1020, 0),  # a reserved bit
    ],
)
def test_inconsistent_injection_fails_the_entry(rig: Rig, information: int, error_code: int) -> None:
    """SDM Vol. 3C §27.2.1.3: VM-instruction error 7, and nothing has run."""
    rig.vmcs.write(F.GUEST_RFLAGS, 0x202)
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, information)
    rig.vmcs.write(F.ENTRY_EXCEPTION_ERROR_CODE, error_code)
    with pytest.raises(VmEntryError, match="interruption information"):
        rig.run(b"\x90")
    assert rig.vmcs.read(F.VM_INSTRUCTION_ERROR) == 7
    assert rig.cpu.count == 0


def test_an_external_interrupt_needs_if(rig: Rig) -> None:
    rig.vmcs.write(F.ENTRY_INTERRUPTION_INFORMATION, 0x8000_0020)
    assert rig.run(b"\x90") == 33
    assert rig.vmcs.read(F.EXIT_REASON) == 0x8000_0021


def test_what_an_instruction_of_the_vmm_met_comes_at_the_next_entry(rig: Rig) -> None:
    """A store to a hole whose other operand is a page fault, as a VMM that emulates it finds."""
    from simvirt.machine.events import ExceptionRaised
    from simvirt.x86.exceptions import Vector

    rig.non_root.meet(ExceptionRaised(Vector.GP, 0))
    rig.register(GeneralRegister.RAX, DATA)
    assert rig.run(b"\x90") is HostStop.HALTED
    assert rig.handler == 13
