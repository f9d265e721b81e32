"""The KVM interface: exits with their data, what `run` completes, registers, memory slots, and errors."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from simvirt.kvm import (
    Cap,
    CpuidEntry,
    Exit,
    InternalError,
    IoDirection,
    Kvm,
    KvmError,
    MemoryFlags,
    Mmio,
    numbers,
)
from tests.hostile.guests import ENTRY, hostile_guest
from tests.kvm.rig import CODE, DEVICE, RAM, Rig


def test_a_port_is_read_and_written_and_completed_by_the_next_run() -> None:
    rig = Rig("66bae000 ed 66ef f4")  # mov dx, 0xe0; in eax, dx; out dx, ax; hlt
    run = rig.vcpu.kvm_run
    assert rig.vcpu.run() is Exit.IO
    assert (run.io.direction, run.io.port, run.io.size, run.io.count) == (IoDirection.IN, 0xE0, 4, 1)
    assert rig.vcpu.get_regs().rip == CODE + 4
    run.io.data[:] = b"\x78\x56\x34\x12"
    run.immediate_exit = True
    assert rig.vcpu.run() is Exit.INTR
    assert (rig.vcpu.get_regs().rip, rig.vcpu.get_regs().rax) == (CODE + 5, 0x12345678)
    run.immediate_exit = False
    assert rig.vcpu.run() is Exit.IO
    assert (run.io.direction, run.io.size, bytes(run.io.data)) == (IoDirection.OUT, 2, b"\x78\x56")
    assert rig.vcpu.run() is Exit.HLT
    assert rig.vcpu.get_regs().rip == CODE + 8


def test_string_io_exits_for_each_element() -> None:
    rig = Rig("66bae000 f36e f36c f4")  # mov dx, 0xe0; rep outsb; rep insb; hlt
    rig.memory[0x3000:0x3003] = b"abc"
    rig.set(rsi=0x3000, rdi=0x3100, rcx=3)
    said = b""
    for _ in range(3):
        assert rig.vcpu.run() is Exit.IO
        said += rig.vcpu.kvm_run.io.data
    assert said == b"abc"
    assert rig.vcpu.run() is Exit.HLT
    rig = Rig("66bae000 f36c f4")
    rig.set(rdi=0x3100, rcx=3)
    for letter in b"xyz":
        assert rig.vcpu.run() is Exit.IO
        rig.vcpu.kvm_run.io.data[0] = letter
    assert rig.vcpu.run() is Exit.HLT
    assert rig.memory[0x3100:0x3104] == b"xyz\0"


def test_mmio_is_read_then_written() -> None:
    rig = Rig("a100000200 ff0504000200 f4")  # mov eax, [DEVICE]; inc dword [DEVICE + 4]; hlt

    def mmio() -> Mmio:
        return rig.vcpu.kvm_run.mmio

    assert rig.vcpu.run() is Exit.MMIO
    assert (mmio().phys_addr, mmio().len, mmio().is_write) == (DEVICE, 4, False)
    mmio().data[:4] = b"\x11\x22\x33\x44"
    assert rig.vcpu.run() is Exit.MMIO
    assert rig.vcpu.get_regs().rax == 0x44332211
    assert (mmio().phys_addr, mmio().len, mmio().is_write) == (DEVICE + 4, 4, False)
    mmio().data[:4] = b"\xff\0\0\0"
    assert rig.vcpu.run() is Exit.MMIO
    assert (mmio().phys_addr, mmio().len, mmio().is_write) == (DEVICE + 4, 4, True)
    assert mmio().data[:4] == b"\0\1\0\0"
    assert rig.vcpu.run() is Exit.HLT


def test_read_only_memory_answers_reads_and_exits_on_writes() -> None:
    rig = Rig("a100000200 ff0500000200 f4")
    rom = rig.kvm.mmap(0x1000)
    rom[0:4] = b"\5\0\0\0"
    rig.vm.set_user_memory_region(1, DEVICE, 0x1000, rom.address, MemoryFlags.READONLY)
    assert rig.vcpu.run() is Exit.MMIO
    mmio = rig.vcpu.kvm_run.mmio
    assert (rig.vcpu.get_regs().rax, mmio.is_write, bytes(mmio.data[:4])) == (5, True, b"\6\0\0\0")
    assert rig.vcpu.run() is Exit.HLT
    assert rom[0:4] == b"\5\0\0\0"


def test_interrupts_wait_for_their_window() -> None:
    rig = Rig("90 fb 90 90 f4")  # nop; sti; nop; nop; hlt; the handler below: hlt
    rig.memory[0x2000 + 8 * 0x40 : 0x2008 + 8 * 0x40] = bytes.fromhex("0030 0800 008e 0000")
    rig.memory[0x3000:0x3001] = b"\xf4"
    rig.memory[0x2800:0x2818] = bytes(8) + bytes.fromhex("ffff0000009bcf00 ffff00000093cf00")
    sregs = rig.vcpu.get_sregs()
    sregs.idt.base, sregs.idt.limit, sregs.gdt.base, sregs.gdt.limit = 0x2000, 0x7FF, 0x2800, 23
    rig.vcpu.set_sregs(sregs)
    run = rig.vcpu.kvm_run
    run.request_interrupt_window = True
    assert rig.vcpu.run() is Exit.IRQ_WINDOW_OPEN
    assert (rig.vcpu.get_regs().rip, run.if_flag, run.ready_for_interrupt_injection) == (CODE + 3, True, True)
    rig.vcpu.interrupt(0x40)
    run.request_interrupt_window = False
    assert rig.vcpu.run() is Exit.HLT
    assert rig.vcpu.get_regs().rip == 0x3001
    assert not run.if_flag
    rig.vcpu.interrupt(0x40)  # which the guest cannot take
    assert rig.vcpu.run() is Exit.FAIL_ENTRY
    assert run.hardware_entry_failure_reason == 0x8000_0021


def test_shutdown_intr_and_internal_error() -> None:
    assert Rig("0f0b").vcpu.run() is Exit.SHUTDOWN  # ud2, and no IDT
    rig = Rig("ebfe")
    assert rig.vcpu.run(max_instructions=1000) is Exit.INTR
    rig.set(rip=DEVICE)
    assert rig.vcpu.run() is Exit.INTERNAL_ERROR
    assert rig.vcpu.kvm_run.suberror is InternalError.EMULATION


def test_a_state_that_no_entry_takes() -> None:
    rig = Rig("f4")
    sregs = rig.vcpu.get_sregs()
    sregs.cs.g = 0  # with a limit of 4 GiB
    rig.vcpu.set_sregs(sregs)
    assert rig.vcpu.run() is Exit.FAIL_ENTRY
    assert rig.vcpu.kvm_run.hardware_entry_failure_reason == 0x8000_0021
    sregs.cs.g = 1
    rig.vcpu.set_sregs(sregs)
    assert rig.vcpu.run() is Exit.HLT


def test_cpuid_and_msrs() -> None:
    rig = Rig("31c0 0fa2 f4")
    assert rig.vcpu.run() is Exit.HLT
    assert rig.vcpu.get_regs().rbx == 0
    rig.vcpu.set_cpuid2([CpuidEntry(0, ebx=0x1234), CpuidEntry(4, 1, 1, eax=7)])
    rig.set(rip=CODE)
    assert rig.vcpu.run() is Exit.HLT
    assert rig.vcpu.get_regs().rbx == 0x1234
    assert rig.vcpu.set_msrs({0x174: 0x10, 0x175: 0x5000, 0xDEAD: 1, 0x176: 1}) == 2
    assert rig.vcpu.get_msrs([0x174, 0x175, 0xDEAD, 0x176]) == {0x174: 0x10, 0x175: 0x5000}
    assert any(entry.function == 0x8000_0001 for entry in rig.kvm.get_supported_cpuid())


def test_registers_come_back_as_they_were_set() -> None:
    rig = Rig("f4")
    values = {
        name: 0x1111 * (number + 1) for number, name in enumerate(("rax", "rbx", "rsi", "rdi", "rbp", "r8", "r15"))
    }
    rig.set(**values)
    regs = rig.vcpu.get_regs()
    assert {name: getattr(regs, name) for name in values} == values
    sregs = rig.vcpu.get_sregs()
    rig.vcpu.set_sregs(sregs)
    assert rig.vcpu.get_sregs() == sregs


def test_the_dirty_log_tells_what_the_guest_has_written() -> None:
    rig = Rig("a200300000 a200500000 f4")  # mov [0x3000], al; mov [0x5000], al
    rig.memory[0x7000:0x7001] = b"x"
    assert rig.vcpu.run() is Exit.HLT
    rig.memory[0x8000:0x8001] = b"x"
    assert int.from_bytes(rig.vm.get_dirty_log(0), "little") == 1 << 3 | 1 << 5
    assert not any(rig.vm.get_dirty_log(0))
    rig.set(rip=CODE)
    assert rig.vcpu.run() is Exit.HLT
    assert int.from_bytes(rig.vm.get_dirty_log(0), "little") == 1 << 3 | 1 << 5


def test_code_that_user_space_has_written_anew_runs() -> None:
    rig = Rig("b001 f4")
    assert rig.vcpu.run() is Exit.HLT
    rig.memory[CODE + 1 : CODE + 2] = b"\2"
    rig.set(rip=CODE)
    assert rig.vcpu.run() is Exit.HLT
    assert rig.vcpu.get_regs().rax & 0xFF == 2


def test_translate() -> None:
    rig = Rig("f4")
    found = rig.vcpu.translate(0x1234)
    assert (found.physical_address, found.valid, found.writeable) == (0x1234, True, True)
    assert not rig.vcpu.translate(DEVICE).valid


def test_two_vms_share_the_processor() -> None:
    kvm = Kvm(memory=16 << 20)
    rigs = [Rig("40 ebfd", kvm), Rig("4840 40 ebfb", kvm)]
    for _ in range(3):
        for rig in rigs:
            assert rig.vcpu.run(max_instructions=100) is Exit.INTR
    assert [rig.vcpu.get_regs().rax for rig in rigs] == [150, 75]


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ((99, 0x20000, 0x1000, 0), errno.EINVAL),
        ((1, 0x20001, 0x1000, 0), errno.EINVAL),
        ((1, 0x20000, 0x1000, 0, 8), errno.EINVAL),
        ((1, 0x8000, 0x1000, 0), errno.EEXIST),
        ((1, 0x20000, 0x100000, 0), errno.EFAULT),
        ((1, 1 << 40, 0x1000, 0), errno.EINVAL),
        ((1, 0x20000, 0, 0), errno.ENOENT),
    ],
)
def test_bad_memory_slots(arguments: tuple[int, ...], number: int) -> None:
    rig = Rig("f4")
    slot, gpa, size, offset, *flags = arguments
    with pytest.raises(KvmError) as caught:
        rig.vm.set_user_memory_region(slot, gpa, size, rig.memory.address + offset, *flags)
    assert caught.value.errno == number
    assert rig.vcpu.run() is Exit.HLT


def test_the_kernels_own_tables_are_not_user_space_memory() -> None:
    rig = Rig("f4")
    for address in range(0, 16 << 20, 0x1000):
        if not rig.kvm.is_mapped(address, 0x1000):
            with pytest.raises(KvmError):
                rig.vm.set_user_memory_region(1, 0x20000, 0x1000, address)


def test_other_errors() -> None:
    rig = Rig("f4")
    for call, number in (
        (rig.vm.create_vcpu, errno.EEXIST),
        (lambda: rig.vm.create_vcpu(1), errno.EINVAL),
        (lambda: rig.vm.get_dirty_log(3), errno.ENOENT),
        (lambda: rig.kvm.mmap(0), errno.EINVAL),
    ):
        with pytest.raises(KvmError) as caught:
            call()
        assert caught.value.errno == number


def test_capabilities_tell_what_there_is() -> None:
    """One vCPU, and no interrupt controller: KVM_CAP_IRQCHIP is 0, PIT2 33, IRQFD 32, IOEVENTFD 36."""
    kvm = Kvm(memory=4 << 20)
    assert kvm.check_extension(Cap.USER_MEMORY) == 1
    assert [kvm.check_extension(cap) for cap in (Cap.NR_VCPUS, Cap.MAX_VCPUS)] == [1, 1]
    assert [kvm.check_extension(cap) for cap in (0, 32, 33, 36, 10_000)] == [0] * 5


def test_numbers_are_the_headers() -> None:
    header = Path("/usr/include/linux/kvm.h")
    if not header.exists():
        pytest.skip("Linux's headers are not installed")
    defined = dict(re.findall(r"#define (KVM_\w+)\s+(\d+)\b", header.read_text()))
    for prefix, members in (
        ("KVM_EXIT_", numbers.Exit),
        ("KVM_CAP_", numbers.Cap),
        ("KVM_EXIT_IO_", numbers.IoDirection),
    ):
        for member in members:
            assert int(defined[prefix + member.name]) == member, member
    for error, name in (
        (InternalError.EMULATION, "KVM_INTERNAL_ERROR_EMULATION"),
        (InternalError.DELIVERY_EV, "KVM_INTERNAL_ERROR_DELIVERY_EV"),
        (InternalError.UNEXPECTED_EXIT_REASON, "KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON"),
    ):
        assert int(defined[name]) == error
    assert int(defined["KVM_API_VERSION"]) == Kvm(memory=4 << 20).get_api_version()


def test_a_slot_that_needs_too_many_tables_changes_nothing() -> None:
    rig = Rig("f4", Kvm(memory=1200 << 20))
    large = rig.kvm.mmap(1100 << 20)
    with pytest.raises(KvmError) as caught:
        rig.vm.set_user_memory_region(1, 0x1000_1000, len(large) - 0x1000, large.address)
    assert caught.value.errno == errno.ENOMEM
    assert rig.vcpu.run() is Exit.HLT


@pytest.mark.parametrize("seed", range(10))
def test_hostile_guests_leave_user_space_alone(seed: int) -> None:
    rig = Rig("f4")
    memory = rig.kvm.mmap(2 << 20)
    rig.vm.set_user_memory_region(0, 0, 0, 0)
    rig.vm.set_user_memory_region(0, 0, len(memory), memory.address)
    rig.vcpu.set_cpuid2(rig.kvm.get_supported_cpuid())
    for at, data in hostile_guest(seed).pieces:
        memory[at : at + len(data)] = data
    rig.set(rip=ENTRY)
    for _ in range(60):
        reason = rig.vcpu.run(max_instructions=500)
        assert reason in Exit
        if reason in (Exit.SHUTDOWN, Exit.FAIL_ENTRY, Exit.INTERNAL_ERROR):
            break
    assert rig.memory[0:0x1000] == bytes(0x1000)
    assert rig.memory[CODE + 1 : RAM] == bytes(RAM - CODE - 1)


def test_pae_paging_follows_the_cr3_that_was_set_last() -> None:
    rig = Rig("a000002000 f4")  # mov al, [0x200000]
    for table, page in ((0x4000, 0x5000), (0x6000, 0x7000)):
        rig.memory[table : table + 8] = (page | 1).to_bytes(8, "little")
        rig.memory[page : page + 16] = (0x83).to_bytes(8, "little") + (0x83 if page == 0x7000 else 0).to_bytes(
            8, "little"
        )
    sregs = rig.vcpu.get_sregs()
    sregs.cr0, sregs.cr4 = sregs.cr0 | 1 << 31, 1 << 5
    for cr3, valid in ((0x4000, False), (0x6000, True), (0x4000, False)):
        sregs.cr3 = cr3
        rig.vcpu.set_sregs(sregs)
        assert rig.vcpu.translate(0x20_0000 + CODE).valid is valid


@pytest.mark.parametrize(
    ("register", "value"),
    [
        ("cr4", 1 << 30),  # no bit of CR4
        ("cr4", 1 << 12),  # LA57, which no CPU model has
        ("cr4", 1 << 32),
        ("cr0", 1 << 32 | 1),
        ("cr0", 1 << 31),  # paging without protection
        ("cr3", 1 << 40),
        ("efer", 1 << 1),
        ("efer", 1 << 10),  # LMA without paging
    ],
)
def test_control_registers_that_no_entry_takes(register: str, value: int) -> None:
    rig = Rig("f4")
    sregs = rig.vcpu.get_sregs()
    good = getattr(sregs, register)
    setattr(sregs, register, value)
    rig.vcpu.set_sregs(sregs)
    assert rig.vcpu.run() is Exit.FAIL_ENTRY
    assert rig.vcpu.kvm_run.hardware_entry_failure_reason == 0x8000_0021
    setattr(sregs, register, good)
    rig.vcpu.set_sregs(sregs)
    assert rig.vcpu.run() is Exit.HLT


@pytest.mark.parametrize("rip", [1 << 32, 1 << 63])
def test_an_instruction_pointer_that_no_entry_takes(rip: int) -> None:
    rig = Rig("f4")
    rig.set(rip=rip)
    assert rig.vcpu.run() is Exit.FAIL_ENTRY
