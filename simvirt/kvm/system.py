"""/dev/kvm and what its ioctls give: the system, its VMs, and memory of user space."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.kvm.errors import KvmError
from simvirt.kvm.numbers import CPUID_FLAG_SIGNIFCANT_INDEX, KVM_API_VERSION, NR_MEMSLOTS, Cap, MemoryFlags
from simvirt.kvm.structures import CpuidEntry
from simvirt.kvm.vcpu import Vcpu
from simvirt.machine.memory import AddressSpace, Region, RegionKind
from simvirt.strategies.vtx.controls import VMM_MEMORY, VmmPages
from simvirt.strategies.vtx.vm_memory import VmMemory
from simvirt.vmm.ept import OutOfTablePages
from simvirt.vmm.host import Host, aligned
from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE, Gpa, Hpa
from simvirt.x86.cpuid import Feature, find_cpu_model

if TYPE_CHECKING:
    from simvirt.x86.cpuid import CpuModel

_DEFAULT_MEMORY: Final = 256 << 20
_ALL_FLAGS: Final = int(MemoryFlags.LOG_DIRTY_PAGES | MemoryFlags.READONLY)
_HIGHEST: Final = 1 << 40


class UserMemory:
    """Memory of user space, as mmap gives it: read and written by slices.

    :ivar address: what `set_user_memory_region` takes as `userspace_addr`.
    """

    def __init__(self, system: Kvm, address: Hpa, size: int) -> None:
        self._system = system
        self.address = address
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        first, end, _ = part.indices(self.size)
        return bytes(self._system.host.memory.view[self.address + first : self.address + end])

    def __setitem__(self, part: slice, data: bytes) -> None:
        first, end, _ = part.indices(self.size)
        if end - first != len(data):
            raise KvmError(
                errno.EFAULT, f"{len(data)} bytes do not fit {end - first} of the {self.size} of this memory"
            )
        self._system.write(Hpa(self.address + first), data)


class Kvm:
    """What opening /dev/kvm gives: one PC with VMX, on which VMs are made.

    Its memory holds what `mmap` hands out and the kernel's tables for each VM.
    """

    def __init__(self, *, memory: int = _DEFAULT_MEMORY, cpu: str = "x86-64") -> None:
        self.host = Host(aligned(memory))
        self.cpu_model: CpuModel = find_cpu_model(cpu).without(Feature.APIC, Feature.TSC_DEADLINE)
        self._mapped: list[tuple[int, int]] = []
        self._dirty: set[int] = set()

    def get_api_version(self) -> int:
        """KVM_GET_API_VERSION: 12."""
        return KVM_API_VERSION

    def check_extension(self, cap: int) -> int:
        """KVM_CHECK_EXTENSION: 0 for what there is not."""
        counts = {Cap.NR_VCPUS: 1, Cap.MAX_VCPUS: 1, Cap.NR_MEMSLOTS: NR_MEMSLOTS}
        return counts.get(Cap(cap), 1) if cap in list(Cap) else 0

    def get_supported_cpuid(self) -> list[CpuidEntry]:
        """KVM_GET_SUPPORTED_CPUID: the leaves of this PC's CPU model."""
        leaves = sorted(self.cpu_model.leaves.items())
        several = {leaf for (leaf, subleaf), _ in leaves if subleaf}
        return [
            CpuidEntry(leaf, subleaf, CPUID_FLAG_SIGNIFCANT_INDEX if leaf in several else 0, *answer)
            for (leaf, subleaf), answer in leaves
        ]

    def mmap(self, size: int) -> UserMemory:
        """Memory of user space, zeroed: what mmap gives, which is no ioctl.

        :raises UsageError: there is not so much.
        """
        if size <= 0:
            raise KvmError(errno.EINVAL, f"mmap of {size} bytes")
        size = -(-size // PAGE_SIZE) * PAGE_SIZE
        address = self.host.partition(size)
        self._mapped.append((address, address + size))
        return UserMemory(self, address, size)

    def create_vm(self) -> Vm:
        """KVM_CREATE_VM."""
        return Vm(self)

    def is_mapped(self, address: int, size: int) -> bool:
        """Is this memory of user space?"""
        return any(first <= address and address + size <= end for first, end in self._mapped)

    def write(self, address: Hpa, data: bytes) -> None:
        """A store of user space's, which is in no dirty log."""
        self.collect_dirty()
        self.host.memory.view[address : address + len(data)] = data
        self.host.engine.written(address, len(data))
        self.host.engine.take_dirty_pages()

    def collect_dirty(self) -> set[int]:
        """The host pages, by number, that guests have written and no log has told of yet."""
        self._dirty.update(self.host.engine.take_dirty_pages())
        return self._dirty


@dataclass(frozen=True, slots=True)
class _Slot:
    region: Region
    flags: MemoryFlags


class Vm:
    """What KVM_CREATE_VM gives."""

    def __init__(self, system: Kvm) -> None:
        self._system = system
        self._slots: dict[int, _Slot] = {}
        self._pages = VmmPages(system.host.partition(VMM_MEMORY))
        self._vcpu: Vcpu | None = None
        self._cpu = system.host.new_cpu()
        self.memory = VmMemory(system.host.engine, self._pages, AddressSpace([]))

    def set_user_memory_region(
        self, slot: int, guest_phys_addr: int, memory_size: int, userspace_addr: int, flags: int = 0
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION: map memory of user space into the VM; a size of 0 deletes the slot.

        :raises KvmError: EINVAL, EEXIST (it overlaps another slot), EFAULT (it is not user space's memory), ENOENT,
            ENOMEM (no room for the page tables).
        """
        if not 0 <= slot < NR_MEMSLOTS:
            raise KvmError(errno.EINVAL, f"there are memory slots 0 to {NR_MEMSLOTS - 1}, and no slot {slot}")
        if flags & ~_ALL_FLAGS:
            raise KvmError(
                errno.EINVAL, f"flags {flags:#x} of slot {slot}: only LOG_DIRTY_PAGES and READONLY are known"
            )
        if (guest_phys_addr | memory_size | userspace_addr) & (PAGE_SIZE - 1) or min(guest_phys_addr, memory_size) < 0:
            raise KvmError(errno.EINVAL, f"slot {slot}: addresses and size are multiples of the page size")
        slots = dict(self._slots)
        if not memory_size:
            if slots.pop(slot, None) is None:
                raise KvmError(errno.ENOENT, f"there is no slot {slot} to delete")
        else:
            if guest_phys_addr + memory_size > _HIGHEST:
                raise KvmError(errno.EINVAL, f"slot {slot} ends above 40 bits of guest-physical address")
            if not self._system.is_mapped(userspace_addr, memory_size):
                raise KvmError(errno.EFAULT, f"slot {slot}: {userspace_addr:#x} is not memory that mmap gave")
            kind = RegionKind.ROM if flags & MemoryFlags.READONLY else RegionKind.RAM
            region = Region(Gpa(guest_phys_addr), memory_size, kind, Hpa(userspace_addr), f"slot {slot}")
            slots[slot] = _Slot(region, MemoryFlags(flags))
        try:
            space = AddressSpace([one.region for one in slots.values()])
        except ValueError as error:
            raise KvmError(errno.EEXIST, f"slot {slot}: {error}") from error
        if memory_size and flags & MemoryFlags.LOG_DIRTY_PAGES and slot not in self._logging():
            self._take(slots[slot])  # the log begins now
        before, self.memory.space = self.memory.space, space
        try:
            self.memory.restore(())
        except OutOfTablePages as error:
            self.memory.space = before
            self.memory.restore(())
            raise KvmError(
                errno.ENOMEM, f"slot {slot}: {error}. Align it by 2 MiB, so that large pages map it"
            ) from error
        self._slots = slots

    def get_dirty_log(self, slot: int) -> bytes:
        """KVM_GET_DIRTY_LOG: a bit for each page of the slot that the guest has written since the last call.

        :raises KvmError: ENOENT, there is no such slot, or it is not logged.
        """
        if slot not in self._logging():
            raise KvmError(errno.ENOENT, f"slot {slot} has no dirty log: set it with LOG_DIRTY_PAGES")
        one = self._slots[slot]
        pages = one.region.size >> PAGE_SHIFT
        bitmap = bytearray(-(-pages // 64) * 8)
        for page in self._take(one):
            bitmap[page >> 3] |= 1 << (page & 7)
        return bytes(bitmap)

    def create_vcpu(self, vcpu_id: int = 0) -> Vcpu:
        """KVM_CREATE_VCPU. A VM of this PC has one.

        :raises KvmError: EEXIST, EINVAL.
        """
        if vcpu_id:
            raise KvmError(errno.EINVAL, f"vCPU {vcpu_id}: a VM of this PC has one vCPU, number 0")
        if self._vcpu is not None:
            raise KvmError(errno.EEXIST, "this VM has its vCPU already")
        host = self._system.host
        host.switch_to(self._cpu)
        self._vcpu = Vcpu(host, self._cpu, self.memory, self._system.cpu_model)
        return self._vcpu

    def _logging(self) -> set[int]:
        return {slot for slot, one in self._slots.items() if one.flags & MemoryFlags.LOG_DIRTY_PAGES}

    def _take(self, one: _Slot) -> list[int]:
        """The slot's dirty pages, counted from its first, which are clean from now on."""
        first = one.region.host >> PAGE_SHIFT
        dirty = self._system.collect_dirty()
        found = [page for page in dirty if first <= page < first + (one.region.size >> PAGE_SHIFT)]
        dirty.difference_update(found)
        return sorted(page - first for page in found)
