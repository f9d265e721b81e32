"""KVM's interface for guests: what a guest that knows of the VMM asks it for, instead of guessing from hardware.

Source: Linux's Documentation/virt/kvm/x86/cpuid.rst, msr.rst and hypercalls.rst, and the structures in
arch/x86/include/uapi/asm/kvm_para.h and pvclock-abi.h. Offered are the hypervisor CPUID leaves, kvmclock (the wall
clock, and the system time as a function of the time-stamp counter), steal time, and hypercalls by VMCALL.

A nanosecond is a tick of the time-stamp counter here, and the VM's time stands still while another VM runs. So system
time and counter differ by a constant, and what is stolen is host time in which the VM could have run and did not.
An address that the guest names and that is no RAM of its own is not written to.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final

from simvirt.machine.direct_memory import MasterAbort
from simvirt.machine.faults import general_protection
from simvirt.x86.cpuid import Feature, Register

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.direct_memory import DirectMemory
    from simvirt.x86.cpuid import CpuModel

SIGNATURE: Final = b"KVMKVMKVM\0\0\0"
SIGNATURE_LEAF: Final = 0x4000_0000
FEATURES_LEAF: Final = 0x4000_0001


class KvmFeature(IntFlag):
    """Bits of EAX of the features leaf."""

    CLOCKSOURCE = 1 << 0
    """kvmclock by the old MSRs."""
    NOP_IO_DELAY = 1 << 1
    CLOCKSOURCE2 = 1 << 3
    """kvmclock by the new MSRs."""
    STEAL_TIME = 1 << 5
    CLOCKSOURCE_STABLE_BIT = 1 << 24


FEATURES: Final = (
    KvmFeature.CLOCKSOURCE
    | KvmFeature.NOP_IO_DELAY
    | KvmFeature.CLOCKSOURCE2
    | KvmFeature.STEAL_TIME
    | KvmFeature.CLOCKSOURCE_STABLE_BIT
)


class KvmMsr(IntEnum):
    """The MSRs of the interface."""

    WALL_CLOCK = 0x11
    SYSTEM_TIME = 0x12
    WALL_CLOCK_NEW = 0x4B56_4D00
    SYSTEM_TIME_NEW = 0x4B56_4D01
    STEAL_TIME = 0x4B56_4D03


class Hypercall(IntEnum):
    """Numbers in RAX."""

    VAPIC_POLL_IRQ = 1
    """Does nothing but exit."""
    KICK_CPU = 5
    CLOCK_PAIRING = 9


class HypercallError(IntEnum):
    """What RAX is after a failure, negated."""

    EPERM = 1
    EFAULT = 14
    EOPNOTSUPP = 95
    ENOSYS = 1000


ENABLED: Final = 1
_STEAL_RESERVED: Final = 0x3E
_TSC_STABLE: Final = 1
_HALF: Final = 1 << 31
"""With a shift by one it makes a nanosecond of each tick."""
_WALL_CLOCK: Final = struct.Struct("<III")
_SYSTEM_TIME: Final = struct.Struct("<IIQQIbB2x")
_STEAL_TIME: Final = struct.Struct("<QII48x")
_CLOCK_PAIRING: Final = struct.Struct("<qqQI36x")
_NS: Final = 1_000_000_000
_MSRS: Final = frozenset(int(msr) for msr in KvmMsr)


def with_kvm_leaves(model: CpuModel) -> CpuModel:
    """The CPU model of a VM that has this interface: the hypervisor bit, and the leaves behind it.

    >>> from simvirt.x86.cpuid import find_cpu_model
    >>> hex(with_kvm_leaves(find_cpu_model("core2")).cpuid(0x40000000)[0])
    '0x40000001'
    """
    leaves = dict(model.leaves)
    answer = list(leaves[1, 0])
    answer[Register.ECX.value] |= 1 << Feature.HYPERVISOR.bit
    leaves[1, 0] = (answer[0], answer[1], answer[2], answer[3])
    b, c, d = (int.from_bytes(SIGNATURE[at : at + 4], "little") for at in (0, 4, 8))
    leaves[SIGNATURE_LEAF, 0] = (FEATURES_LEAF, b, c, d)
    leaves[FEATURES_LEAF, 0] = (int(FEATURES), 0, 0, 0)
    return replace(model, leaves=leaves)


@dataclass(frozen=True, slots=True)
class KvmState:
    """What the interface knows of one VM."""

    msrs: tuple[tuple[int, int], ...]
    stolen: int


class KvmInterface:
    """The interface of one VM with one processor.

    `now` gives the VM's time in nanoseconds, `time_stamp` its time-stamp counter, and `epoch` is the wall clock at time
    zero, in nanoseconds since 1970.
    """

    def __init__(self, memory: DirectMemory, now: Callable[[], int], time_stamp: Callable[[], int], epoch: int) -> None:
        self._memory = memory
        self._now = now
        self._time_stamp = time_stamp
        self._epoch = epoch
        self._values = dict.fromkeys(_MSRS, 0)
        self._stolen = 0

    @staticmethod
    def has_msr(number: int) -> bool:
        """Is it one of the interface's?"""
        return number in _MSRS

    def read_msr(self, number: int) -> int:
        """What was written to it."""
        return self._values[number]

    def write_msr(self, number: int, value: int) -> None:
        """Name a structure in the guest's memory, and have it filled.

        :raises ProcessorFault: #GP(0), a reserved bit is set.
        """
        if number == KvmMsr.STEAL_TIME and value & _STEAL_RESERVED:
            raise general_protection(0)
        self._values[number] = value
        if number in (KvmMsr.WALL_CLOCK, KvmMsr.WALL_CLOCK_NEW):
            self._fill(value, _WALL_CLOCK.pack(0, *divmod(self._epoch, _NS)))
        elif number in (KvmMsr.SYSTEM_TIME, KvmMsr.SYSTEM_TIME_NEW):
            if value & ENABLED:
                moment = self._time_stamp(), self._now()
                self._fill(value & ~ENABLED, _SYSTEM_TIME.pack(0, 0, *moment, _HALF, 1, _TSC_STABLE))
        else:
            self._tell_stolen_time()

    def stolen(self, nanoseconds: int) -> None:
        """So much of the host's time has passed while the VM could have run."""
        self._stolen += nanoseconds
        self._tell_stolen_time()

    def _tell_stolen_time(self) -> None:
        value = self._values[KvmMsr.STEAL_TIME]
        if value & ENABLED:
            self._fill(value & ~ENABLED, _STEAL_TIME.pack(self._stolen, 0, 0))

    def _fill(self, gpa: int, content: bytes) -> None:
        """Write a structure. Its version, even when it is valid, is 0 always: the guest does not run meanwhile."""
        try:
            self._memory.write(gpa, content)
        except MasterAbort:
            return

    def call(self, number: int, first: int, second: int, cpl: int) -> int:
        """A hypercall; what RAX is to be."""
        if cpl:
            return -HypercallError.EPERM
        if number in (Hypercall.VAPIC_POLL_IRQ, Hypercall.KICK_CPU):
            return 0
        if number == Hypercall.CLOCK_PAIRING:
            return self._pair_clocks(first, second)
        return -HypercallError.ENOSYS

    def _pair_clocks(self, gpa: int, clock: int) -> int:
        """The wall clock and the time-stamp counter at one moment."""
        if clock:
            return -HypercallError.EOPNOTSUPP
        now = self._now()
        try:
            self._memory.write(gpa, _CLOCK_PAIRING.pack(*divmod(self._epoch + now, _NS), self._time_stamp(), 0))
        except MasterAbort:
            return -HypercallError.EFAULT
        return 0

    def save(self) -> KvmState:
        """Everything, as a value."""
        return KvmState(tuple(sorted(self._values.items())), self._stolen)

    def restore(self, state: KvmState) -> None:
        """Take up a saved state."""
        self._values = dict(state.msrs)
        self._stolen = state.stolen
