"""Exit qualifications: the details of a VM exit, as records (SDM Vol. 3C §28.2.1, Tables 28-1 to 28-7).

Each record has `encode()` to the 64-bit field and `decode()` from it; the field names are the manual's. For exits
whose qualification is a plain address (INVLPG), a displacement (VMX instructions) or zero there is no record.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from simvirt.x86.addresses import Port
from simvirt.x86.registers import ControlRegister, GeneralRegister


@dataclass(frozen=True, slots=True)
class DebugQualification:
    """Of a #DB (SDM Vol. 3C Table 28-1): bits as in DR6, but set where true."""

    breakpoints: int = 0
    """B0 to B3 as bits 3:0."""
    bus_lock: bool = False
    debug_register_access: bool = False
    """BD."""
    single_step: bool = False
    """BS."""
    rtm: bool = False

    def encode(self) -> int:
        """The qualification."""
        return (
            self.breakpoints
            | self.bus_lock << 11
            | self.debug_register_access << 13
            | self.single_step << 14
            | self.rtm << 16
        )

    @classmethod
    def decode(cls, value: int) -> DebugQualification:
        """Take a qualification apart."""
        return cls(value & 0xF, *(bool(value >> n & 1) for n in (11, 13, 14, 16)))


class TaskSwitchSource(IntEnum):
    """What attempted the task switch (SDM Vol. 3C Table 28-2, bits 31:30)."""

    CALL = 0
    IRET = 1
    JMP = 2
    TASK_GATE_IN_IDT = 3


@dataclass(frozen=True, slots=True)
class TaskSwitch:
    """Of a task switch (SDM Vol. 3C Table 28-2)."""

    selector: int
    """Of the task-state segment that the guest wanted to switch to."""
    source: TaskSwitchSource

    def encode(self) -> int:
        """The qualification."""
        return self.selector | self.source << 30

    @classmethod
    def decode(cls, value: int) -> TaskSwitch:
        """Take a qualification apart."""
        return cls(value & 0xFFFF, TaskSwitchSource(value >> 30 & 3))


class CrAccessType(IntEnum):
    """What was done to the control register (SDM Vol. 3C Table 28-3, bits 5:4)."""

    MOV_TO_CR = 0
    MOV_FROM_CR = 1
    CLTS = 2
    LMSW = 3


@dataclass(frozen=True, slots=True)
class CrAccess:
    """Of a control-register access (SDM Vol. 3C Table 28-3).

    >>> hex(CrAccess(ControlRegister.CR3, CrAccessType.MOV_TO_CR, GeneralRegister.RBX).encode())
    '0x303'
    """

    register: ControlRegister
    """0 for CLTS and LMSW."""
    access: CrAccessType
    general_register: GeneralRegister = GeneralRegister.RAX
    """Of a MOV; 0 for CLTS and LMSW."""
    lmsw_memory_operand: bool = False
    lmsw_source_data: int = 0

    def encode(self) -> int:
        """The qualification."""
        return (
            self.register
            | self.access << 4
            | self.lmsw_memory_operand << 6
            | self.general_register << 8
            | self.lmsw_source_data << 16
        )

    @classmethod
    def decode(cls, value: int) -> CrAccess:
        """Take a qualification apart.

        Raises:
            ValueError: it names a control register that does not exist.
        """
        return cls(
            ControlRegister(value & 0xF),
            CrAccessType(value >> 4 & 3),
            GeneralRegister(value >> 8 & 0xF),
            bool(value & 1 << 6),
            value >> 16 & 0xFFFF,
        )


@dataclass(frozen=True, slots=True)
class MovDr:
    """Of a MOV to or from a debug register (SDM Vol. 3C Table 28-4)."""

    register: int
    from_dr: bool
    general_register: GeneralRegister

    def encode(self) -> int:
        """The qualification."""
        return self.register | self.from_dr << 4 | self.general_register << 8

    @classmethod
    def decode(cls, value: int) -> MovDr:
        """Take a qualification apart."""
        return cls(value & 7, bool(value & 1 << 4), GeneralRegister(value >> 8 & 0xF))


@dataclass(frozen=True, slots=True)
class IoInstruction:
    """Of an I/O instruction (SDM Vol. 3C Table 28-5).

    >>> hex(IoInstruction(Port(0x3F8), size=1, is_in=False).encode())
    '0x3f80000'
    """

    port: Port
    size: int
    """Bytes of one access: 1, 2 or 4."""
    is_in: bool
    string: bool = False
    rep: bool = False
    immediate: bool = False
    """The port was an immediate operand rather than DX."""

    def encode(self) -> int:
        """The qualification."""
        return (
            self.size - 1 | self.is_in << 3 | self.string << 4 | self.rep << 5 | self.immediate << 6 | self.port << 16
        )

    @classmethod
    def decode(cls, value: int) -> IoInstruction:
        """Take a qualification apart."""
        return cls(Port(value >> 16 & 0xFFFF), (value & 7) + 1, *(bool(value >> n & 1) for n in (3, 4, 5, 6)))


@dataclass(frozen=True, slots=True)
class EptViolation:
    """Of an EPT violation (SDM Vol. 3C Table 28-7)."""

    read: bool = False
    write: bool = False
    fetch: bool = False
    readable: bool = False
    """Bits 5:3: the AND over the entries of the walk, so what the page would have allowed."""
    writable: bool = False
    executable: bool = False
    linear_address_valid: bool = False
    to_page: bool = False
    """Set: the access was to the page that the linear address translates to; clear: to a guest's paging structure.
    No meaning unless `linear_address_valid`."""
    nmi_unblocking: bool = False

    def encode(self) -> int:
        """The qualification."""
        return (
            int(self.read)
            | self.write << 1
            | self.fetch << 2
            | self.readable << 3
            | self.writable << 4
            | self.executable << 5
            | self.linear_address_valid << 7
            | self.to_page << 8
            | self.nmi_unblocking << 12
        )

    @classmethod
    def decode(cls, value: int) -> EptViolation:
        """Take a qualification apart; the advanced bits (6, 11:9, 13 and up) are dropped."""
        return cls(*(bool(value >> n & 1) for n in (0, 1, 2, 3, 4, 5, 7, 8, 12)))
