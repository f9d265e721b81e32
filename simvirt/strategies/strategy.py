"""What a strategy is: a way to run a guest on the PC, with a name, abilities, and a statement of what it maps.

A strategy builds a `Machine` for a guest. Everything above works with machines alone, so the same guest, the same board
of devices and the same questions go to every strategy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from simvirt.errors import UsageError
from simvirt.machine.disk import DiskImage, DiskOption
from simvirt.machine.hardware import DEFAULT_START_TIME, Hardware, MachineFeature

if TYPE_CHECKING:
    from datetime import datetime

    from simvirt.guests.image import GuestImage
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.machine import Machine
    from simvirt.vmm.exit_log import ExitLog
    from simvirt.vmm.host import Host
    from simvirt.x86.cpuid import CpuModel


class Ability(Enum):
    """What a strategy can run, and how."""

    REAL_MODE = "guests in real-address mode"
    PROTECTED_MODE = "guests in 32-bit protected mode"
    PAGING = "guests that turn paging on"
    LONG_MODE = "guests in IA-32e mode"
    UNMODIFIED = "guests that were not written for it"
    DEPRIVILEGES = "the guest's kernel runs with less privilege than it believes"


class Means(Enum):
    """By what a strategy gets hold of the guest's sensitive instructions."""

    NONE = "it does not"
    TRAPS = "they trap, or it does not learn of them"
    TRANSLATION = "the guest's kernel is translated before it runs"
    HYPERCALLS = "the guest was changed to call the VMM instead"
    NON_ROOT_MODE = "they act on the guest's own copy of the state, or exit"


@dataclass(frozen=True, slots=True)
class MapRule:
    """One line of the VM map f: a component that differs by design between the bare machine and the VM's processor."""

    component: str
    """In the manual's words."""
    mapping: str
    """From what the guest has to what the processor has."""


@dataclass(frozen=True, slots=True)
class StrategyInfo:
    """What people are told about a strategy."""

    name: str
    """As `find` and the command line take it."""
    title: str
    summary: str
    """In one line."""
    year: int
    """When it was first described or built."""
    reading: str
    """The paper or manual to read first."""
    abilities: frozenset[Ability]
    means: Means = Means.NONE
    aliases: tuple[str, ...] = ()
    vm_map: tuple[MapRule, ...] = ()
    """Empty where the guest's state is the processor's."""
    vmm_linear: range = range(0)
    """Linear addresses that are the VMM's own while the guest runs: it finds the VMM there, or nothing, but never what
    its own machine has (address-space compression, Uhlig et al. 2005)."""
    exit_reasons: type[Enum] | None = None
    """Whose members its exits are counted by; None without a VMM."""


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """What the guest's machine is to be like.

    :ivar memory_size: bytes of RAM, a multiple of 4096.
    :ivar seed: where the PC would give randomness.
    """

    memory_size: int
    cpu_model: CpuModel
    seed: int = 0
    start_time: datetime = DEFAULT_START_TIME
    """What the guest's real-time clock shows at power-on."""

    disk: DiskOption | None = None
    """The guest's disk."""

    features: frozenset[MachineFeature] = frozenset()
    """What it has beyond the usual."""

    def refuse(self, feature: MachineFeature, why: str) -> None:
        """Say that a strategy does not have this.

        :raises UsageError: the machine is to have it.
        """
        if feature in self.features:
            raise UsageError(f"no {feature.value} for this guest: {why}. The strategy vtx does")

    def hardware(self, image: GuestImage) -> Hardware:
        """The description of the guest's board; a disk's file is opened for it.

        :raises UsageError: it cannot be, or the guest is booted from one disk and is to have another.
        """
        option = self.disk
        if image.boot_disk is not None:
            if option is None:
                option = DiskOption(image.boot_disk)
            elif option.path.resolve() != image.boot_disk.resolve():
                raise UsageError(
                    f"the PC has one disk, and {image.boot_disk} is it: boot from {option.path} instead, or name "
                    f"{image.boot_disk}:rw as the disk to change it"
                )
            if option.virtio:
                raise UsageError(f"the firmware boots from an ATA disk: give {option.path} without :virtio")
        disk = None if option is None else DiskImage(option)
        virtio = option is not None and option.virtio
        return Hardware(
            self.memory_size,
            self.start_time,
            disk=None if virtio else disk,
            virtio_disk=disk if virtio else None,
            virtio_console=MachineFeature.VIRTIO_CONSOLE in self.features,
        )


@dataclass(frozen=True, slots=True)
class Virtualized:
    """A machine with a guest loaded and ready, the physical CPU it runs on, and the log of what the VMM does."""

    machine: Machine
    cpu: Cpu
    log: ExitLog


class Strategy(Protocol):
    """One way of running a guest."""

    info: StrategyInfo

    def obstacle(self, image: GuestImage) -> str | None:
        """Why this guest cannot be run this way at all, or None; a comparison then says not-applicable."""
        ...

    def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
        """A machine with `image` loaded and its first instruction next.

        :raises ImageError: the image does not fit into the memory.
        """
        ...


@runtime_checkable
class SharesHost(Protocol):
    """A strategy whose VMs can share a PC with others."""

    info: StrategyInfo

    def partition_size(self, config: MachineConfig) -> int:
        """Bytes of host memory that such a VM takes, the VMM's own for it included."""
        ...

    def build_on(self, host: Host, image: GuestImage, config: MachineConfig) -> Virtualized:
        """As `Strategy.build`, in a partition of `host`; the new VM is then the one on the processor.

        :raises ImageError: the image does not fit into the memory.
        :raises UsageError: the host has no memory left that it could use.
        """
        ...
