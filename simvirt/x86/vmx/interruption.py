"""Events in a VMCS: interruption information, interruptibility, activity, pending debug exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag


class InterruptionType(IntEnum):
    """Bits 10:8 of an interruption-information field (SDM Vol. 3C Tables 25-17, 25-19 and 25-20)."""

    EXTERNAL_INTERRUPT = 0
    RESERVED = 1
    NMI = 2
    HARDWARE_EXCEPTION = 3
    SOFTWARE_INTERRUPT = 4
    """INT n."""
    PRIVILEGED_SOFTWARE_EXCEPTION = 5
    """INT1."""
    SOFTWARE_EXCEPTION = 6
    """INT3 and INTO."""
    OTHER_EVENT = 7
    """On entry: a pending MTF exit (vector 0)."""

    @property
    def needs_instruction_length(self) -> bool:
        """Injecting it needs the VM-entry instruction length: the saved RIP is the next instruction's (§25.8.3)."""
        return self in (
            InterruptionType.SOFTWARE_INTERRUPT,
            InterruptionType.PRIVILEGED_SOFTWARE_EXCEPTION,
            InterruptionType.SOFTWARE_EXCEPTION,
        )


@dataclass(frozen=True, slots=True)
class InterruptionInformation:
    """VM-entry, VM-exit and IDT-vectoring information: one layout thrice (SDM Vol. 3C §25.8.3, §25.9.2, §25.9.3).

    >>> hex(InterruptionInformation(14, InterruptionType.HARDWARE_EXCEPTION, deliver_error_code=True).encode())
    '0x80000b0e'
    """

    vector: int
    type: InterruptionType
    deliver_error_code: bool = False
    """On exit: an error code was saved; on entry: push one."""
    nmi_unblocking: bool = False
    """On exit only: the event struck an IRET that had just unblocked NMIs."""
    valid: bool = True

    def encode(self) -> int:
        """The 32-bit field."""
        return (
            self.vector | self.type << 8 | self.deliver_error_code << 11 | self.nmi_unblocking << 12 | self.valid << 31
        )

    @classmethod
    def decode(cls, value: int) -> InterruptionInformation:
        """Take the field apart; reserved bits are dropped."""
        return cls(
            value & 0xFF,
            InterruptionType(value >> 8 & 7),
            bool(value & 1 << 11),
            bool(value & 1 << 12),
            bool(value & 1 << 31),
        )


class Interruptibility(IntFlag):
    """The interruptibility-state field (SDM Vol. 3C §25.4.2, Table 25-3)."""

    BLOCKING_BY_STI = 1 << 0
    BLOCKING_BY_MOV_SS = 1 << 1
    BLOCKING_BY_SMI = 1 << 2
    BLOCKING_BY_NMI = 1 << 3
    ENCLAVE_INTERRUPTION = 1 << 4


class ActivityState(IntEnum):
    """The activity-state field (SDM Vol. 3C §25.4.2)."""

    ACTIVE = 0
    HLT = 1
    SHUTDOWN = 2
    WAIT_FOR_SIPI = 3


class PendingDebugExceptions(IntFlag):
    """The pending-debug-exceptions field (SDM Vol. 3C §25.4.2, Table 25-4)."""

    B0 = 1 << 0
    B1 = 1 << 1
    B2 = 1 << 2
    B3 = 1 << 3
    BLD = 1 << 11
    ENABLED_BREAKPOINT = 1 << 12
    BS = 1 << 14
    RTM = 1 << 16
