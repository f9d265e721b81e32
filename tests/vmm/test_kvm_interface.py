"""KVM's interface for guests (Linux's Documentation/virt/kvm/x86: cpuid.rst, msr.rst, hypercalls.rst)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import pytest

from simvirt.errors import UsageError
from simvirt.guests.recognise import recognise
from simvirt.guests.resolve import resolve
from simvirt.machine.direct_memory import DirectMemory
from simvirt.machine.faults import ProcessorFault
from simvirt.machine.hardware import MachineFeature
from simvirt.machine.machine import Outcome
from simvirt.machine.memory import AddressSpace, Region, RegionKind
from simvirt.observe.session import run
from simvirt.vmm.kvm_interface import Hypercall, HypercallError, KvmFeature, KvmInterface, KvmMsr, with_kvm_leaves
from simvirt.x86.addresses import Gpa, Hpa
from simvirt.x86.cpuid import Feature, find_cpu_model
from tests.support.code import code

EPOCH = 1_700_000_000 * 10**9 + 5
SIZE = 0x10000


@dataclass
class Bench:
    memory: bytearray = field(default_factory=lambda: bytearray(SIZE))
    time: int = 1000
    moved: int = 7
    """What the guest has moved its time-stamp counter by."""

    def __post_init__(self) -> None:
        direct = DirectMemory()
        space = AddressSpace([Region(Gpa(0), SIZE, RegionKind.RAM, Hpa(0))])
        direct.connect(memoryview(self.memory), space, lambda _at, _size: None)
        self.kvm = KvmInterface(direct, lambda: self.time, lambda: self.time + self.moved, EPOCH)


def test_the_leaves() -> None:
    model = with_kvm_leaves(find_cpu_model("x86-64"))
    eax, ebx, ecx, edx = model.cpuid(0x4000_0000, 5)
    assert (eax, struct.pack("<3I", ebx, ecx, edx)) == (0x4000_0001, b"KVMKVMKVM\0\0\0")
    assert model.cpuid(0x4000_0001)[0] & KvmFeature.STEAL_TIME
    assert model.has(Feature.HYPERVISOR)
    assert model.cpuid(0x4000_0002) == model.cpuid(model.highest_basic)


@pytest.mark.parametrize("msr", [KvmMsr.SYSTEM_TIME, KvmMsr.SYSTEM_TIME_NEW])
def test_the_system_time_is_a_function_of_the_time_stamp_counter(msr: KvmMsr) -> None:
    bench = Bench()
    bench.kvm.write_msr(msr, 0x1000)
    assert not any(bench.memory)  # not enabled
    bench.kvm.write_msr(msr, 0x1001)
    version, stamp, system, multiplier, shift, flags = struct.unpack_from("<I4xQQIbB", bench.memory, 0x1000)
    assert (version % 2, flags, bench.kvm.read_msr(msr)) == (0, 1, 0x1001)
    bench.time += 123_456_789
    passed = bench.time + bench.moved - stamp << shift
    assert system + (passed * multiplier >> 32) == bench.time


def test_the_wall_clock_is_that_of_time_zero() -> None:
    bench = Bench()
    bench.kvm.write_msr(KvmMsr.WALL_CLOCK_NEW, 0x2000)
    assert struct.unpack_from("<III", bench.memory, 0x2000) == (0, 1_700_000_000, 5)


def test_steal_time() -> None:
    bench = Bench()
    bench.kvm.stolen(40)
    bench.kvm.write_msr(KvmMsr.STEAL_TIME, 0x3001)
    assert struct.unpack_from("<QII", bench.memory, 0x3000) == (40, 0, 0)
    bench.kvm.stolen(2)
    assert struct.unpack_from("<Q", bench.memory, 0x3000) == (42,)
    bench.kvm.write_msr(KvmMsr.STEAL_TIME, 0)
    bench.kvm.stolen(5)
    assert struct.unpack_from("<Q", bench.memory, 0x3000) == (42,)
    with pytest.raises(ProcessorFault):
        bench.kvm.write_msr(KvmMsr.STEAL_TIME, 0x3003)


@pytest.mark.parametrize("gpa", [SIZE, SIZE - 4, 1 << 60])
def test_structures_outside_of_memory_are_not_written(gpa: int) -> None:
    bench = Bench()
    for msr in KvmMsr:
        bench.kvm.write_msr(msr, gpa & ~0x3F | 1)
    assert bench.kvm.call(Hypercall.CLOCK_PAIRING, gpa, 0, 0) == -HypercallError.EFAULT
    assert not any(bench.memory[:0xFF00])


def test_hypercalls() -> None:
    bench = Bench()
    assert bench.kvm.call(Hypercall.VAPIC_POLL_IRQ, 0, 0, 0) == 0
    assert bench.kvm.call(Hypercall.VAPIC_POLL_IRQ, 0, 0, 3) == -HypercallError.EPERM
    assert bench.kvm.call(99, 0, 0, 0) == -HypercallError.ENOSYS
    assert bench.kvm.call(Hypercall.CLOCK_PAIRING, 0x4000, 1, 0) == -HypercallError.EOPNOTSUPP
    assert bench.kvm.call(Hypercall.CLOCK_PAIRING, 0x4000, 0, 0) == 0
    assert struct.unpack_from("<qqQ", bench.memory, 0x4000) == (1_700_000_000, 1005, 1007)


def test_state() -> None:
    bench, other = Bench(), Bench()
    bench.kvm.write_msr(KvmMsr.STEAL_TIME, 0x3001)
    bench.kvm.stolen(9)
    other.kvm.restore(bench.kvm.save())
    other.kvm.stolen(1)
    assert struct.unpack_from("<Q", other.memory, 0x3000) == (10,)


GUEST = code("""
    b8 0b000000             ; mov eax, an unknown call
    0f 01 c1                ; vmcall
    66 ba f400              ; mov dx, 0xf4
    f7 d8                   ; neg eax
    ef                      ; out dx, eax
""")


def test_vmcall_is_the_vmms_where_it_offers_the_interface() -> None:
    guest = recognise(GUEST)
    assert run(guest, "vtx", features=["kvm"]).guest_status == HypercallError.ENOSYS
    assert run(guest, "vtx").outcome is Outcome.TRIPLE_FAULT  # #UD without an IDT
    with pytest.raises(UsageError, match="no VMM"):
        run(guest, "bare-metal", features=[MachineFeature.KVM])
    with pytest.raises(UsageError, match="does not offer"):
        run(resolve("hello"), "trap-and-emulate", features=["kvm"])
