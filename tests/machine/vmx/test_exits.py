"""For each control: the exit is there with it and not without it.

Numbers are typed from SDM Vol. 3D Table C-1 and Vol. 3C Chapter 28.
"""

from __future__ import annotations

from typing import get_args

import pytest

from simvirt.machine.events import Event
from simvirt.machine.vmx.exits import EXITS
from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.registers import GeneralRegister
from tests.support.vmx_rig import (
    CODE,
    DATA,
    HANDLERS,
    HOLE,
    IO_BITMAP_A,
    IO_BITMAP_B,
    MSR_BITMAPS,
    ROM_PAGE,
    F,
    Rig,
)

RAX, RCX, RDX, RBX = GeneralRegister.RAX, GeneralRegister.RCX, GeneralRegister.RDX, GeneralRegister.RBX


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_every_event_has_an_answer() -> None:
    assert set(EXITS) == set(get_args(Event))


# ------------------------------------------------------------------------------------------------ primary controls


@pytest.mark.parametrize(
    ("code", "bit", "reason", "qualification", "length"),
    [
        (b"\xf4", 7, 12, 0, 1),  # hlt
        (b"\x0f\x01\x38", 9, 14, DATA, 3),  # invlpg [eax]
        (b"\x0f\x33", 11, 15, 0, 2),  # rdpmc
        (b"\x0f\x31", 12, 16, 0, 2),  # rdtsc
        (b"\x0f\x22\xdb", 15, 28, 0x303, 3),  # mov cr3, ebx
        (b"\x0f\x20\xd9", 16, 28, 0x113, 3),  # mov ecx, cr3
        (b"\x0f\x23\xfa", 23, 29, 0x207, 3),  # mov dr7, edx
        (b"\x0f\x21\xf1", 23, 29, 0x116, 3),  # mov ecx, dr6
        (b"\xe4\x61", 24, 30, 0x61_0048, 2),  # in al, 0x61
        (b"\xef", 24, 30, 0x3F8_0003, 1),  # out dx, eax
        (b"\x66\xef", 24, 30, 0x3F8_0001, 2),  # out dx, ax
        (b"\xf3\x90", 30, 40, 0, 2),  # pause
    ],
)
def test_a_primary_control_makes_its_instruction_exit(
    code: bytes, bit: int, reason: int, qualification: int, length: int
) -> None:
    for wanted in (True, False):
        rig = Rig()
        rig.register(RAX, DATA)
        rig.register(RDX, 0x3F8)
        if code == b"\x0f\x23\xfa":
            rig.register(RDX, 0x400)
        if wanted:
            rig.primary(bit)
        exit_ = rig.run(code)
        if wanted:
            assert exit_ == reason
            assert rig.qualification == qualification
            assert rig.length == length
            assert rig.rip == CODE
            assert rig.cpu.count == 0
        else:
            assert exit_ is HostStop.HALTED


def long_mode(rig: Rig) -> None:
    """IA-32e mode with the first 2 MBytes mapped 1:1."""
    for table, entry in ((0x2_0000, 0x2_1003), (0x2_1000, 0x2_2003), (0x2_2000, 0x83)):
        rig.write(table, entry.to_bytes(8, "little"))
    for field, value in (
        (F.GUEST_CR3, 0x2_0000),
        (F.GUEST_CR4, 0x2020),
        (F.GUEST_IA32_EFER, 0x500),
        (F.GUEST_CR0, 0x8000_0011),
        (F.GUEST_CS_ACCESS_RIGHTS, 0xA09B),
        (F.ENTRY_CONTROLS, 0x11FB | 1 << 9),
    ):
        rig.vmcs.write(field, value)


@pytest.mark.parametrize(
    ("code", "bit", "qualification"),
    [(b"\x44\x0f\x22\xc1", 19, 0x108), (b"\x44\x0f\x20\xc3", 20, 0x318)],  # mov cr8, rcx; mov rbx, cr8
)
def test_cr8_exiting(code: bytes, bit: int, qualification: int) -> None:
    rig = Rig()
    long_mode(rig)
    rig.primary(7, bit)
    assert rig.run(code) == 28
    assert rig.qualification == qualification
    assert rig.length == 4
    rig = Rig()
    long_mode(rig)
    rig.primary(7)
    assert rig.run(code) == 12


@pytest.mark.parametrize(
    ("code", "reason", "length"),
    [
        (b"\x0f\xa2", 10, 2),  # cpuid
        (b"\x0f\x08", 13, 2),  # invd
        (b"\x0f\x01\xc1", 18, 3),  # vmcall
        (b"\x66\x0f\xc7\x30", 19, 4),  # vmclear [eax]
        (b"\x0f\x01\xc2", 20, 3),  # vmlaunch
        (b"\x0f\xc7\x30", 21, 3),  # vmptrld [eax]
        (b"\x0f\xc7\x38", 22, 3),  # vmptrst [eax]
        (b"\x0f\x78\xd8", 23, 3),  # vmread eax, ebx
        (b"\x0f\x01\xc3", 24, 3),  # vmresume
        (b"\x0f\x79\xd8", 25, 3),  # vmwrite ebx, eax
        (b"\x0f\x01\xc4", 26, 3),  # vmxoff
        (b"\xf3\x0f\xc7\x30", 27, 4),  # vmxon [eax]
        (b"\x66\x0f\x38\x80\x08", 50, 5),  # invept ecx, [eax]
        (b"\x66\x0f\x38\x81\x08", 53, 5),  # invvpid ecx, [eax]
    ],
)
def test_these_always_exit(rig: Rig, code: bytes, reason: int, length: int) -> None:
    """SDM Vol. 3C §26.1.2."""
    rig.register(RAX, DATA)
    assert rig.run(code) == reason
    assert (rig.qualification, rig.length, rig.rip) == (0, length, CODE)


@pytest.mark.parametrize(("code", "reason"), [(b"\x0f\x01\xc1", 18), (b"\x0f\x01\xc2", 20), (b"\x0f\xa2", 10)])
def test_vmx_instructions_exit_at_any_cpl(rig: Rig, code: bytes, reason: int) -> None:
    """In the manual's pseudo-code (SDM Vol. 3C Chapter 31) the exit stands before the check of CPL."""
    rig.user_mode()
    assert rig.run(code) == reason


def test_the_qualification_of_a_vmx_instruction_is_its_displacement(rig: Rig) -> None:
    rig.register(RAX, DATA)
    assert rig.run(b"\x0f\xc7\x70\x10") == 21  # vmptrld [eax+0x10]
    assert rig.qualification == 0x10
    # base EAX, no index, 32-bit address, DS (SDM Vol. 3C Table 28-13)
    assert rig.vmcs.read(F.EXIT_INSTRUCTION_INFORMATION) == 1 << 7 | 3 << 15 | 1 << 22 | 0 << 23


@pytest.mark.parametrize("code", [b"\xf4", b"\x0f\x01\x38", b"\x0f\x08", b"\x0f\x32", b"\x0f\x22\xd8"])
def test_faults_of_privilege_come_before_exits(rig: Rig, code: bytes) -> None:
    """SDM Vol. 3C §26.1.1: HLT, INVLPG, INVD, RDMSR, MOV CR3 at CPL 3 are #GP(0), whatever the controls say."""
    rig.primary(9, 15)
    rig.user_mode()
    assert rig.run(code) is HostStop.HALTED
    assert rig.handler == 13


def test_mov_dr_exits_before_its_fault_of_privilege(rig: Rig) -> None:
    """The manual's exception to that (SDM Vol. 3C §26.1.3)."""
    rig.primary(23)
    rig.user_mode()
    assert rig.run(b"\x0f\x21\xf9") == 29  # mov ecx, dr7
    assert rig.qualification == 0x117


def test_rdtsc_forbidden_by_cr4_tsd_faults(rig: Rig) -> None:
    rig.primary(12)
    rig.vmcs.write(F.GUEST_CR4, 0x2004)
    rig.user_mode()
    assert rig.run(b"\x0f\x31") is HostStop.HALTED
    assert rig.handler == 13


def test_rdtsc_without_exiting_reads_the_counter_with_the_offset(rig: Rig) -> None:
    rig.primary(3)
    rig.vmcs.write(F.TSC_OFFSET, 0x1_0000_0000)
    assert rig.run(b"\x90\x90\x0f\x31") is HostStop.HALTED
    assert (rig.register(RDX), rig.register(RAX)) == (1, 2)


def test_rdtscp_needs_its_control(rig: Rig) -> None:
    assert rig.run(b"\x0f\x01\xf9") is HostStop.HALTED
    assert rig.handler == 6
    rig = Rig()
    rig.secondary(3)
    assert rig.run(b"\x0f\x01\xf9") is HostStop.HALTED
    assert rig.handler is None
    rig = Rig()
    rig.secondary(3)
    rig.primary(12)
    assert rig.run(b"\x0f\x01\xf9") == 51
    assert rig.length == 3


# ------------------------------------------------------------------------------------------------ secondary controls


@pytest.mark.parametrize(
    ("code", "reason", "qualification", "information"),
    [
        # Table 28-10: DS (3<<15), no index, base EAX, 32-bit addresses and operands, identity in bits 29:28
        (b"\x0f\x01\x00", 46, 0, 0 << 28 | 3 << 15 | 1 << 22 | 1 << 11 | 1 << 7),  # sgdt [eax]
        (b"\x0f\x01\x48\x04", 46, 4, 1 << 28 | 3 << 15 | 1 << 22 | 1 << 11 | 1 << 7),  # sidt [eax+4]
        (b"\x0f\x01\x10", 46, 0, 2 << 28 | 3 << 15 | 1 << 22 | 1 << 11 | 1 << 7),  # lgdt [eax]
        (b"\x0f\x01\x18", 46, 0, 3 << 28 | 3 << 15 | 1 << 22 | 1 << 11 | 1 << 7),  # lidt [eax]
        # Table 28-11: register operand EBX in bits 6:3, bit 10 set
        (b"\x0f\x00\xc3", 47, 0, 0 << 28 | 1 << 10 | 3 << 3),  # sldt ebx
        (b"\x0f\x00\xcb", 47, 0, 1 << 28 | 1 << 10 | 3 << 3),  # str ebx
        (b"\x0f\x00\xd3", 47, 0, 2 << 28 | 1 << 10 | 3 << 3),  # lldt bx
        (b"\x0f\x00\xdb", 47, 0, 3 << 28 | 1 << 10 | 3 << 3),  # ltr bx
    ],
)
def test_descriptor_table_exiting(code: bytes, reason: int, qualification: int, information: int) -> None:
    rig = Rig()
    rig.secondary(2)
    rig.register(RAX, DATA)
    assert rig.run(code) == reason
    assert rig.qualification == qualification
    assert rig.vmcs.read(F.EXIT_INSTRUCTION_INFORMATION) == information
    without = Rig()
    without.register(RAX, DATA)
    without.register(RBX, 0)
    if code[:2] == b"\x0f\x00" and code[2] == 0xDB:
        without.register(RBX, 0x28)
    assert without.run(code) is HostStop.HALTED
    assert without.handler is None or code[2] >> 3 & 7 in (2, 3)  # LGDT and LIDT load what is not a table here


def test_wbinvd_exiting() -> None:
    rig = Rig()
    assert rig.run(b"\x0f\x09") is HostStop.HALTED
    rig = Rig()
    rig.secondary(6)
    assert rig.run(b"\x0f\x09") == 54


@pytest.mark.parametrize(
    ("code", "address", "qualification"),
    [
        (
            b"\xa1" + HOLE.to_bytes(4, "little"),
            HOLE,
            0x181,
        ),  # mov eax, [hole]: read, nothing allowed, linear valid, final
        (b"\xa3" + HOLE.to_bytes(4, "little"), HOLE, 0x182),  # mov [hole], eax
        (b"\xa3" + ROM_PAGE.to_bytes(4, "little"), ROM_PAGE, 0x182 | 1 << 3 | 1 << 5),  # mov [rom], eax
        (b"\xb8" + HOLE.to_bytes(4, "little") + b"\xff\xe0", HOLE, 0x184),  # jmp hole
    ],
)
def test_ept_violations(rig: Rig, code: bytes, address: int, qualification: int) -> None:
    """SDM Vol. 3C Table 28-7."""
    assert rig.run(code) == 48
    assert rig.qualification == qualification
    assert rig.vmcs.read(F.GUEST_PHYSICAL_ADDRESS) == address
    assert rig.vmcs.read(F.GUEST_LINEAR_ADDRESS) == address


def test_without_ept_guest_physical_addresses_are_host_physical(rig: Rig) -> None:
    rig.vmcs.write(F.SECONDARY_CONTROLS, 0)
    rig.vmcs.write(F.GUEST_CR0, 0x8000_0011)  # without "unrestricted guest" paging must be on
    rig.vmcs.write(F.GUEST_CR4, 0x2010)
    directory, beyond = 0x2_0000, rig.memory.size
    view = rig.memory.view
    view[directory : directory + 4] = (0x83).to_bytes(4, "little")  # one page of 4 MBytes, 1:1
    rig.vmcs.write(F.GUEST_CR3, directory)
    code = b"\xa1" + beyond.to_bytes(4, "little") + b"\xf4"
    view[CODE : CODE + len(code)] = code
    assert rig.non_root.enter(100) is HostStop.HALTED
    assert rig.register(RAX) == 0xFFFFFFFF


# ------------------------------------------------------------------------------------------------ bitmaps


@pytest.mark.parametrize(
    ("port", "size", "page", "byte", "bit"),
    [
        (0x3F8, 1, IO_BITMAP_A, 0x7F, 0),
        (0x3F9, 2, IO_BITMAP_A, 0x7F, 2),
        (0x8000, 1, IO_BITMAP_B, 0, 0),
        (0xFFFC, 4, IO_BITMAP_B, 0xFFF, 7),
    ],
)
def test_io_bitmaps(port: int, size: int, page: int, byte: int, bit: int) -> None:
    """One bit of any port that the access touches (SDM Vol. 3C §25.6.4); unconditional I/O exiting is ignored then."""
    code = {1: b"\xec", 2: b"\x66\xed", 4: b"\xed"}[size]
    for wanted in (True, False):
        rig = Rig()
        rig.primary(24, 25)
        rig.register(RDX, port)
        if wanted:
            rig.memory.view[page + byte] = 1 << bit
        exit_ = rig.run(code)
        assert exit_ == (30 if wanted else HostStop.HALTED)
        if wanted:
            assert rig.qualification == port << 16 | 8 | size - 1
        else:
            assert rig.register(RAX) & 0xFF == 0x5A


def test_an_access_that_wraps_around_the_ports_exits(rig: Rig) -> None:
    rig.primary(25)
    rig.register(RDX, 0xFFFF)
    assert rig.run(b"\xed") == 30


def test_io_permission_comes_before_the_io_exit(rig: Rig) -> None:
    rig.primary(24)
    rig.user_mode()
    assert rig.run(b"\xe4\x61") is HostStop.HALTED
    assert rig.handler == 13
    rig = Rig()
    rig.primary(24)
    rig.user_mode(iopl=3)
    assert rig.run(b"\xe4\x61") == 30


def test_string_io(rig: Rig) -> None:
    """REP OUTSB: string and REP in the qualification, the operand's linear address, the segment in the information."""
    rig.primary(24)
    rig.register(GeneralRegister.RSI, DATA)
    rig.register(RCX, 2)
    rig.register(RDX, 0x3F8)
    assert rig.run(b"\xf3\x6e") == 30
    assert rig.qualification == 0x3F8_0030
    assert rig.vmcs.read(F.GUEST_LINEAR_ADDRESS) == DATA
    assert rig.vmcs.read(F.EXIT_INSTRUCTION_INFORMATION) == 1 << 7 | 3 << 15  # 32-bit addresses, DS (Table 28-8)


@pytest.mark.parametrize(
    ("msr", "code", "reason", "byte", "bit"),
    [
        (0x174, b"\x0f\x32", 31, 0x02E, 4),  # read low
        (0xC0000102, b"\x0f\x32", 31, 0x400 + 0x20, 2),  # read high
        (0x174, b"\x0f\x30", 32, 0x800 + 0x02E, 4),  # write low
        (0xC0000102, b"\x0f\x30", 32, 0xC00 + 0x20, 2),  # write high
    ],
)
def test_msr_bitmaps(msr: int, code: bytes, reason: int, byte: int, bit: int) -> None:
    """SDM Vol. 3C §25.6.9."""
    for wanted in (True, False):
        rig = Rig()
        rig.primary(28)
        rig.register(RCX, msr)
        rig.register(RAX, 0)
        rig.register(RDX, 0)
        if wanted:
            rig.memory.view[MSR_BITMAPS + byte] = 1 << bit
        assert rig.run(code) == (reason if wanted else HostStop.HALTED)
        assert rig.handler is None


def test_msrs_exit_without_bitmaps_and_outside_their_ranges() -> None:
    rig = Rig()
    rig.register(RCX, 0x174)
    assert rig.run(b"\x0f\x32") == 31
    rig = Rig()
    rig.primary(28)
    rig.register(RCX, 0x4000_0000)
    assert rig.run(b"\x0f\x30") == 32


# ------------------------------------------------------------------------------------------------ control registers


@pytest.mark.parametrize(
    ("code", "value", "mask", "shadow", "qualification"),
    [
        (b"\x0f\x22\xc3", 0x19, 1 << 3, 0, 0x300),  # mov cr0, ebx: sets the VMM's TS
        (b"\x0f\x22\xc3", 0x19, 1 << 3, 8, None),  # the shadow has it set already
        (b"\x0f\x22\xc3", 0x19, 0, 0, None),  # not the VMM's
        (b"\x0f\x06", 0, 1 << 3, 8, 0x20),  # clts
        (b"\x0f\x06", 0, 1 << 3, 0, None),
        (b"\x0f\x01\xf3", 0x9, 1 << 3, 0, 0x9_0030),  # lmsw bx
        (b"\x0f\x01\xf3", 0x9, 1 << 3, 8, None),
        (b"\x0f\x01\xf3", 0x0, 1 << 0, 1, None),  # LMSW cannot clear PE, so this does not exit
        (b"\x0f\x01\xf3", 0x1, 1 << 0, 0, 0x1_0030),
    ],
)
def test_cr0_mask_and_shadow(code: bytes, value: int, mask: int, shadow: int, qualification: int | None) -> None:
    rig = Rig()
    rig.register(RBX, value)
    rig.vmcs.write(F.CR0_GUEST_HOST_MASK, mask)
    rig.vmcs.write(F.CR0_READ_SHADOW, shadow)
    before = rig.vmcs.read(F.GUEST_CR0)
    exit_ = rig.run(code)
    assert exit_ == (HostStop.HALTED if qualification is None else 28)
    if qualification is not None:
        assert rig.qualification == qualification
        assert rig.vmcs.read(F.GUEST_CR0) == before
    elif mask:
        assert (rig.vmcs.read(F.GUEST_CR0) ^ before) & mask == 0


def test_lmsw_from_memory(rig: Rig) -> None:
    rig.write(DATA, b"\x08\x00")
    rig.register(RAX, DATA)
    rig.vmcs.write(F.CR0_GUEST_HOST_MASK, 8)
    assert rig.run(b"\x0f\x01\x30") == 28
    assert rig.qualification == 0x8_0070
    assert rig.vmcs.read(F.GUEST_LINEAR_ADDRESS) == DATA


def test_reads_of_cr0_and_cr4_show_the_shadow_where_the_mask_is_set(rig: Rig) -> None:
    """MOV from CR0, SMSW and MOV from CR4 never exit (SDM Vol. 3C §26.3)."""
    rig.vmcs.write(F.CR0_GUEST_HOST_MASK, 0xA)
    rig.vmcs.write(F.CR0_READ_SHADOW, 0xFFFF_FFFF)
    rig.vmcs.write(F.CR4_GUEST_HOST_MASK, 0x2000)
    rig.vmcs.write(F.CR4_READ_SHADOW, 0)
    code = b"\x0f\x20\xc0\x0f\x20\xe1\x0f\x01\xe2"  # mov eax, cr0; mov ecx, cr4; smsw edx
    assert rig.run(code) is HostStop.HALTED
    assert rig.register(RAX) == 0x11 | 0xA
    assert rig.register(RCX) == 0
    assert rig.register(RDX) & 0xFFFF == 0x1B


def test_a_write_of_cr4_keeps_the_vmms_bits(rig: Rig) -> None:
    rig.vmcs.write(F.CR4_GUEST_HOST_MASK, 0x2000)
    rig.register(RBX, 0x200)
    assert rig.run(b"\x0f\x22\xe3") is HostStop.HALTED
    assert rig.vmcs.read(F.GUEST_CR4) == 0x2200
    rig = Rig()
    rig.vmcs.write(F.CR4_GUEST_HOST_MASK, 0x2000)
    rig.register(RBX, 0x2000)
    assert rig.run(b"\x0f\x22\xe3") == 28
    assert rig.qualification == 0x304


def test_cr3_targets(rig: Rig) -> None:
    rig.primary(15)
    rig.register(RBX, 0x7000)
    rig.vmcs.write(F.CR3_TARGET_VALUE_1, 0x7000)
    rig.vmcs.write(F.CR3_TARGET_COUNT, 1)
    assert rig.run(b"\x0f\x22\xdb") == 28
    rig.vmcs.write(F.CR3_TARGET_COUNT, 2)
    assert rig.run(b"\x0f\x22\xdb") is HostStop.HALTED
    assert rig.vmcs.read(F.GUEST_CR3) == 0x7000


# ------------------------------------------------------------------------------------------------ other exits


def test_triple_fault(rig: Rig) -> None:
    rig.vmcs.write(F.GUEST_IDTR_LIMIT, 0)
    assert rig.run(b"\x0f\x0b") == 2
    assert rig.qualification == 0


def test_interrupt_window(rig: Rig) -> None:
    """After STI comes one more instruction, then the exit (SDM Vol. 3C §26.2, Vol. 2B "STI")."""
    rig.primary(2)
    assert rig.run(b"\x90\xfb\x90\x90") == 7
    assert rig.rip == CODE + 3
    assert Rig().run(b"\x90\xfb\x90\x90") is HostStop.HALTED


def test_monitor_trap_flag(rig: Rig) -> None:
    rig.primary(27)
    assert rig.run(b"\x90\x90") == 37
    assert rig.rip == CODE + 1
    assert rig.non_root.enter(100) == 37
    assert rig.rip == CODE + 2


def test_the_monitor_trap_flag_stops_at_the_first_instruction_of_a_handler(rig: Rig) -> None:
    rig.primary(27)
    assert rig.run(b"\x0f\x0b") == 37
    assert rig.rip == HANDLERS + 16 * 6


def test_external_interrupt(rig: Rig) -> None:
    assert rig.non_root.external_interrupt() is None
    rig.vmcs.write(F.PIN_BASED_CONTROLS, 0x17)
    assert rig.non_root.external_interrupt() == 1
    assert rig.vmcs.read(F.EXIT_INTERRUPTION_INFORMATION) >> 31 == 0  # not acknowledged on exit


def test_hlt_without_exiting_puts_the_processor_to_sleep(rig: Rig) -> None:
    assert rig.run(b"\xf4") is HostStop.HALTED
    assert rig.vmcs.read(F.GUEST_ACTIVITY_STATE) == 1
    assert rig.cpu.count == 1


@pytest.mark.parametrize(
    "code", [b"\x9c", b"\x9d", b"\xfa", b"\xfb\x90", b"\x0f\x02\xc0", b"\x0f\x03\xc0", b"\x8c\xc8", b"\x8e\xd8"]
)
def test_these_never_exit(rig: Rig, code: bytes) -> None:
    """PUSHF, POPF, CLI, STI, LAR, LSL, MOV from CS, MOV to DS: what made the x86 hard runs by itself here."""
    rig.register(RAX, 0x10)
    rig.primary(7, 9, 11, 12, 15, 16, 23, 24, 30)
    rig.secondary(2, 6)
    assert rig.run(code) == 12  # only the HLT at the end
    assert rig.rip == CODE + len(code)
