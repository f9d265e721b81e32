"""Names and numbers of the KVM interface, as in Linux's headers linux/kvm.h and asm/kvm.h."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final

KVM_API_VERSION: Final = 12


class Exit(IntEnum):
    """`kvm_run.exit_reason`: those that can arise here."""

    UNKNOWN = 0
    IO = 2
    DEBUG = 4
    HLT = 5
    MMIO = 6
    IRQ_WINDOW_OPEN = 7
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTR = 10
    INTERNAL_ERROR = 17


class IoDirection(IntEnum):
    """`kvm_run.io.direction`."""

    IN = 0
    OUT = 1


class InternalError(IntEnum):
    """`kvm_run.internal.suberror`."""

    EMULATION = 1
    DELIVERY_EV = 3
    UNEXPECTED_EXIT_REASON = 4


class MemoryFlags(IntFlag):
    """`kvm_userspace_memory_region.flags`."""

    LOG_DIRTY_PAGES = 1 << 0
    READONLY = 1 << 1


class GuestDebugControl(IntFlag):
    """`kvm_guest_debug.control`."""

    ENABLE = 1 << 0
    SINGLESTEP = 1 << 1
    USE_SW_BP = 1 << 16
    USE_HW_BP = 1 << 17


class Cap(IntEnum):
    """Capabilities, for `check_extension`: those that are offered.

    There is no interrupt controller (IRQCHIP, IRQFD, PIT2), no ioeventfd and one vCPU.
    """

    USER_MEMORY = 3
    EXT_CPUID = 7
    NR_VCPUS = 9
    NR_MEMSLOTS = 10
    USER_NMI = 22
    SET_GUEST_DEBUG = 23
    MAX_VCPUS = 66
    READONLY_MEM = 81
    IMMEDIATE_EXIT = 136


CPUID_FLAG_SIGNIFCANT_INDEX: Final = 1 << 0
"""The kernel's spelling."""
NR_MEMSLOTS: Final = 30
NR_INTERRUPTS: Final = 256
