"""The structures that cross the interface, with the kernel's names for their members."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simvirt.kvm.numbers import Exit, IoDirection
from simvirt.machine import state as machine_state

if TYPE_CHECKING:
    from simvirt.kvm.numbers import GuestDebugControl, InternalError


@dataclass(slots=True)
class Regs:
    """`struct kvm_regs`."""

    rax: int = 0
    rbx: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    rsp: int = 0
    rbp: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = 0
    rflags: int = 2


@dataclass(slots=True)
class Segment:
    """`struct kvm_segment`: a segment register with its hidden part; `limit` in bytes."""

    base: int = 0
    limit: int = 0
    selector: int = 0
    type: int = 0
    present: int = 0
    dpl: int = 0
    db: int = 0
    s: int = 0
    l: int = 0  # noqa: E741 - the kernel's name
    g: int = 0
    avl: int = 0
    unusable: int = 0

    @classmethod
    def of(cls, segment: machine_state.Segment) -> Segment:
        """From the processor's."""
        f = segment.flags >> 8
        return cls(
            segment.base, segment.limit, segment.selector, f & 15, f >> 7 & 1, f >> 5 & 3, f >> 14 & 1, f >> 4 & 1,
            f >> 13 & 1, f >> 15 & 1, f >> 12 & 1, int(not segment.present),
        )  # fmt: skip

    @property
    def register(self) -> machine_state.Segment:
        """As the processor has it; an unusable one is not present."""
        present = self.present and not self.unusable
        flags = self.type & 15 | (self.s & 1) << 4 | (self.dpl & 3) << 5 | bool(present) << 7
        flags |= (self.avl & 1) << 12 | (self.l & 1) << 13 | (self.db & 1) << 14 | (self.g & 1) << 15
        return machine_state.Segment(self.selector & 0xFFFF, self.base, self.limit & 0xFFFF_FFFF, flags << 8)


@dataclass(slots=True)
class Dtable:
    """`struct kvm_dtable`: GDTR or IDTR."""

    base: int = 0
    limit: int = 0


@dataclass(slots=True)
class Sregs:
    """`struct kvm_sregs`. There is no local APIC: `apic_base` is 0, and `cr8` too."""

    cs: Segment
    ds: Segment
    es: Segment
    fs: Segment
    gs: Segment
    ss: Segment
    tr: Segment
    ldt: Segment
    gdt: Dtable
    idt: Dtable
    cr0: int
    cr2: int
    cr3: int
    cr4: int
    efer: int
    cr8: int = 0
    apic_base: int = 0


def reset_sregs() -> Sregs:
    """After power-up or reset (SDM Vol. 3A Table 10-1)."""
    data = Segment(0, 0xFFFF, 0, 3, 1, s=1)
    return Sregs(
        cs=Segment(0xFFFF_0000, 0xFFFF, 0xF000, 11, 1, s=1),
        ds=data,
        es=data,
        fs=data,
        gs=data,
        ss=data,
        tr=Segment(0, 0xFFFF, 0, 11, 1),
        ldt=Segment(0, 0xFFFF, 0, 2, 1),
        gdt=Dtable(0, 0xFFFF),
        idt=Dtable(0, 0xFFFF),
        cr0=0x6000_0010,
        cr2=0,
        cr3=0,
        cr4=0,
        efer=0,
    )


@dataclass(frozen=True, slots=True)
class CpuidEntry:
    """`struct kvm_cpuid_entry2`."""

    function: int
    index: int = 0
    flags: int = 0
    eax: int = 0
    ebx: int = 0
    ecx: int = 0
    edx: int = 0


@dataclass(frozen=True, slots=True)
class Translation:
    """`struct kvm_translation`."""

    linear_address: int
    physical_address: int
    valid: bool
    writeable: bool
    usermode: bool


@dataclass(slots=True)
class Io:
    """`kvm_run.io`. The data, `size` bytes, are here and not at an offset: written by the guest, or for it to read."""

    direction: IoDirection = IoDirection.IN
    size: int = 0
    port: int = 0
    count: int = 0
    data: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class Mmio:
    """`kvm_run.mmio`; `len` of the eight bytes of data count."""

    phys_addr: int = 0
    data: bytearray = field(default_factory=lambda: bytearray(8))
    len: int = 0
    is_write: bool = False


@dataclass(frozen=True, slots=True)
class GuestDebug:
    """`struct kvm_guest_debug`; `debugreg` holds what DR0 to DR7 would, of which 4 to 6 count for nothing."""

    control: GuestDebugControl
    debugreg: tuple[int, ...] = (0,) * 8


@dataclass(slots=True)
class Debug:
    """`kvm_run.debug.arch`: the exception, #DB or #BP, and where it was."""

    exception: int = 0
    pc: int = 0
    dr6: int = 0
    dr7: int = 0


@dataclass(slots=True)
class Run:
    """`struct kvm_run`: what user space and the kernel tell each other around KVM_RUN."""

    request_interrupt_window: bool = False
    immediate_exit: bool = False
    exit_reason: Exit = Exit.UNKNOWN
    ready_for_interrupt_injection: bool = False
    if_flag: bool = False
    cr8: int = 0
    apic_base: int = 0
    io: Io = field(default_factory=Io)
    mmio: Mmio = field(default_factory=Mmio)
    debug: Debug = field(default_factory=Debug)
    hardware_entry_failure_reason: int = 0
    """`fail_entry`'s: the VMCS's exit reason, bit 31 set, or the VM-instruction error."""
    suberror: InternalError | None = None
    """`internal`'s."""
    internal_data: tuple[int, ...] = ()
