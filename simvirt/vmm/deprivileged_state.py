"""The guest's processor, as a de-privileging VMM presents it: the VM map f and its inverse, component by component.

A guest kernel that believes in ring 0 runs in ring 1. Most of its processor state *is* the real one; what cannot be is
kept here. Reading through this view applies f⁻¹ (a real CS of 0x0009 was 0x0008 to the guest), writing applies f. So
the code that does a processor's work for the bare PC (delivery of interrupts, control registers, I/O permission) does
it for the virtual processor unchanged.

| component | guest | real |
|---|---|---|
| CPL | 0, 3 | 1, 3 (ring compression: there is none for a guest's rings 1 and 2) |
| CS, SS selectors | RPL 0 | RPL 1 |
| segment attributes | DPL 0 | DPL 1 |
| selectors of the x87 unit's last instruction and operand | RPL 0 | RPL 1 |
| EFLAGS.IF, IOPL | virtual | 1, 0 |
| CR0 | virtual | PE, PG, WP, ET and MP set, as a host has them; TS, EM, NE and AM the guest's |
| CR3, PDPTEs | virtual | the VMM's tables |
| CR4 | virtual | PAE, for these; the guest's SSE, time-stamp, UMIP controls; with its paging SMEP, SMAP |
| IA32_EFER | virtual | without LME and LMA; with the guest's paging NXE is set, for the VMM's tables |
| GDTR, IDTR, LDTR, TR | virtual | the VMM's |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnsupportedGuestError
from simvirt.machine.state import PDPTE_COUNT, DescriptorTable, ProcessorState, Segment
from simvirt.x86.flags import Cr0, Cr4, Efer, Eflags
from simvirt.x86.registers import Ring, SegmentRegister

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.platforms import StateOffsets

GUEST_KERNEL_RING: Final = Ring.RING1
"""Where the guest's ring 0 really runs."""

_VIRTUAL_FLAGS: Final = int(Eflags.IF | Eflags.IOPL)
_GUEST_RINGS: Final = (Ring.RING0, Ring.RING0, Ring.RING0, Ring.RING3)
"""The ring that the guest believes in, by the real one."""
_OTHER_RINGS: Final = (Ring.RING1, Ring.RING2)
_IF: Final = int(Eflags.IF)
_VM: Final = int(Eflags.VM)
_PE: Final = int(Cr0.PE)
_DPL_SHIFT: Final = 13
_DPL_MASK: Final = 3 << _DPL_SHIFT
_REAL_CR0: Final = int(Cr0.PE | Cr0.ET | Cr0.WP | Cr0.PG | Cr0.MP)
_GUEST_CR0: Final = int(Cr0.TS | Cr0.EM | Cr0.NE | Cr0.AM)
_GUEST_CR4: Final = int(Cr4.TSD | Cr4.DE | Cr4.PCE | Cr4.OSFXSR | Cr4.OSXMMEXCPT | Cr4.UMIP)
_GUEST_CR4_WITH_PAGING: Final = int(Cr4.SMEP | Cr4.SMAP)
_SHADOWS_CR4: Final = int(Cr4.PAE)
_PG: Final = int(Cr0.PG)
_LMA: Final = int(Efer.LMA)
_NXE: Final = int(Efer.NXE)
_NOT_IN_REAL_EFER: Final = int(Efer.LME | Efer.LMA | Efer.NXE)
_SHOWN_BY_REAL_ONES: Final = (0, 4)
"""Control registers of the guest of which the real ones hold a part; its CR2 and CR3 are its own alone."""
_PAGE_DIRECTORY_REGISTER: Final = 3
_PRESENT: Final = 0x8000
_NO_TABLE: Final = DescriptorTable(0, 0)
_NO_SEGMENT: Final = Segment(0, 0, 0, 0)
_NO_TASK: Final = Segment(0, 0, 0xFFFF, 0x8900)


@dataclass(slots=True)
class PrivilegedState:
    """What the guest's processor has and the real one cannot hold for it."""

    flags: int = 0
    """EFLAGS.IF and IOPL."""
    cr0: int = int(Cr0.PE | Cr0.ET)
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    pdptes: tuple[int, ...] = (0,) * PDPTE_COUNT
    gdtr: DescriptorTable = _NO_TABLE
    idtr: DescriptorTable = _NO_TABLE
    ldtr: Segment = _NO_SEGMENT
    tr: Segment = _NO_TASK


class DeprivilegedState(ProcessorState):
    """The guest's view of the processor; see the module's text.

    :ivar real: the same image without the map, the VMM's own view.
    :ivar privileged: what only the VMM holds of the guest's state.
    :ivar on_descriptor_table: called when GDTR or LDTR has changed.
    :ivar on_paging: called when CR0, CR4 or IA32_EFER has been written, or CR3 while paging is on.
    """

    __slots__ = ("on_descriptor_table", "on_paging", "privileged", "real")

    def __init__(self, address: int, offsets: StateOffsets) -> None:
        super().__init__(address, offsets)
        self.real = ProcessorState(address, offsets)
        self.privileged = PrivilegedState()
        self.on_descriptor_table: Callable[[], None] = lambda: None
        self.on_paging: Callable[[], None] = lambda: None

    # ---------------------------------------------------------------------------------------- flags and privilege

    @property
    def eflags(self) -> int:
        """The real flags, with the guest's own IF and IOPL."""
        return self.real.eflags & ~_VIRTUAL_FLAGS | self.privileged.flags

    @eflags.setter
    def eflags(self, value: int) -> None:
        if value & _VM:
            raise UnsupportedGuestError(
                "a guest that enters virtual-8086 mode cannot run de-privileged here: use bare-metal or vtx"
            )
        self.privileged.flags = value & _VIRTUAL_FLAGS
        self.real.eflags = value & ~_VIRTUAL_FLAGS | _IF

    @property
    def interrupt_flag(self) -> bool:
        """The guest's IF; the real one is always 1."""
        return bool(self.privileged.flags & _IF)

    @interrupt_flag.setter
    def interrupt_flag(self, value: bool) -> None:
        self.privileged.flags = self.privileged.flags | _IF if value else self.privileged.flags & ~_IF

    @property
    def interruptible(self) -> bool:
        """As of a bare processor, by the guest's own IF."""
        return bool(self.privileged.flags & _IF) and not self.real.interrupt_shadow

    @property
    def cpl(self) -> Ring:
        """The ring that the guest believes in: 0 where it really runs in ring 1."""
        return _GUEST_RINGS[self._d[self._hflags] & 3]

    def refresh(self, cpl: int | None = None) -> None:
        """As of a bare processor, with the guest's ring 0 made the real ring 1.

        :raises UnsupportedGuestError: the guest enters ring 1 or 2, for which there is no real ring.
        """
        if cpl in _OTHER_RINGS:
            raise UnsupportedGuestError(
                f"the guest enters ring {cpl}: with its ring 0 in the real ring 1, a VMM that runs it de-privileged "
                "has no ring for that (ring compression): use bare-metal or vtx"
            )
        self.real.refresh(None if cpl is None else Ring.RING3 if cpl == Ring.RING3 else GUEST_KERNEL_RING)

    @property
    def protected_mode(self) -> bool:
        """The guest's CR0.PE."""
        return bool(self.privileged.cr0 & _PE)

    # ---------------------------------------------------------------------------------------- segments

    def segment(self, register: int) -> Segment:
        """A segment register as the guest loaded it: ring 1 in RPL and DPL reads as ring 0."""
        real = super().segment(register)
        return Segment(_to_guest_selector(register, real.selector), real.base, real.limit, _to_guest_flags(real.flags))

    def set_segment(self, register: int, segment: Segment) -> None:
        """Load a segment register with the guest's segment, de-privileged."""
        super().set_segment(
            register,
            Segment(
                _to_real_selector(register, segment.selector),
                segment.base,
                segment.limit,
                _to_real_flags(segment.flags),
            ),
        )

    def selector(self, register: int) -> int:
        """The selector as the guest loaded it."""
        return _to_guest_selector(register, super().selector(register))

    @property
    def tr(self) -> Segment:
        """The guest's task register; the real one holds the VMM's TSS."""
        return self.privileged.tr

    @tr.setter
    def tr(self, segment: Segment) -> None:
        # As the engine of the bare PC shows it: available, whatever the descriptor in memory says.
        flags = segment.flags & ~0x200 if segment.flags & _PRESENT else 0x8900
        self.privileged.tr = Segment(segment.selector, segment.base, segment.limit, flags)

    @property
    def ldtr(self) -> Segment:
        """The guest's LDTR; the real one holds the shadow LDT."""
        return self.privileged.ldtr

    @ldtr.setter
    def ldtr(self, segment: Segment) -> None:
        self.privileged.ldtr = segment
        self.on_descriptor_table()

    @property
    def gdtr(self) -> DescriptorTable:
        """The guest's GDTR; the real one points to the shadow GDT."""
        return self.privileged.gdtr

    @gdtr.setter
    def gdtr(self, table: DescriptorTable) -> None:
        self.privileged.gdtr = table
        self.on_descriptor_table()

    @property
    def idtr(self) -> DescriptorTable:
        """The guest's IDTR; the real one points to the VMM's IDT."""
        return self.privileged.idtr

    @idtr.setter
    def idtr(self, table: DescriptorTable) -> None:
        self.privileged.idtr = table

    # ---------------------------------------------------------------------------------------- control registers

    def control_register(self, number: int) -> int:
        """The guest's CR0, CR2, CR3 or CR4."""
        p = self.privileged
        return {0: p.cr0, 2: p.cr2, 3: p.cr3, 4: p.cr4}[number]

    def set_control_register(self, number: int, value: int) -> None:
        """Write the guest's CR0, CR2, CR3 or CR4, unchecked, and what the real ones show of it.

        :raises UnsupportedGuestError: protected mode goes off or long mode on, which this VMM does not virtualize.
        """
        p = self.privileged
        if number == 0:
            if not value & _PE:
                raise UnsupportedGuestError(
                    f"the guest turns protected mode off (CR0 = {value:#x}); a de-privileged guest runs in protected "
                    "mode: use bare-metal or vtx"
                )
            p.cr0 = value
        elif number == 4:
            p.cr4 = value
        elif number == 3:
            p.cr3 = value
        else:
            p.cr2 = value
        if number in _SHOWN_BY_REAL_ONES:
            self.derive_real_control_registers()
            self.on_paging()
        elif number == _PAGE_DIRECTORY_REGISTER and self.paging:
            self.on_paging()

    def derive_real_control_registers(self) -> None:
        """Renew the real CR0, CR4 and IA32_EFER from the guest's.

        :raises UnsupportedGuestError: the guest is in long mode, which this VMM does not virtualize.
        """
        p = self.privileged
        if p.efer & _LMA:
            raise UnsupportedGuestError(
                f"the guest turns long mode on (CR0 = {p.cr0:#x}, IA32_EFER = {p.efer:#x}); a de-privileged guest is a "
                "32-bit one: use bare-metal or vtx"
            )
        paging = p.cr0 & _PG
        self.real.set_control_register(0, _REAL_CR0 | p.cr0 & _GUEST_CR0)
        shown = p.cr4 & (_GUEST_CR4 | _GUEST_CR4_WITH_PAGING) | _SHADOWS_CR4 if paging else p.cr4 & _GUEST_CR4
        self.real.set_control_register(4, shown)
        self.real.efer = p.efer & ~_NOT_IN_REAL_EFER | (_NXE if paging else 0)
        self.real.refresh()

    @property
    def pdptes(self) -> tuple[int, ...]:
        """The guest's PDPTE registers; the real ones hold the VMM's."""
        return self.privileged.pdptes

    @pdptes.setter
    def pdptes(self, entries: tuple[int, ...]) -> None:
        self.privileged.pdptes = entries
        self.on_paging()

    @property
    def paging(self) -> bool:
        """The guest's CR0.PG."""
        return bool(self.privileged.cr0 & _PG)

    @property
    def efer(self) -> int:
        """The guest's IA32_EFER."""
        return self.privileged.efer

    @efer.setter
    def efer(self, value: int) -> None:
        self.privileged.efer = value
        if not value & _LMA:  # that comes with CR0.PG, where it is refused
            self.derive_real_control_registers()
        self.on_paging()

    # ---------------------------------------------------------------------------------------- floating point

    @property
    def floating_point(self) -> bytes:
        """The x87, MMX and SSE state; the last instruction's CS and operand's segment as the guest believes in them."""
        return self._with_selectors(self.real.floating_point, _without_ring)

    @floating_point.setter
    def floating_point(self, value: bytes) -> None:
        self.real.floating_point = self._with_selectors(value, _with_ring)

    def _with_selectors(self, data: bytes, change: Callable[[int], int]) -> bytes:
        changed = bytearray(data)
        for at in (self._o.fpcs - self._o.efer - 8, self._o.fpds - self._o.efer - 8):
            changed[at] = change(int.from_bytes(changed[at : at + 2], "little")) & 0xFF
        return bytes(changed)

    # ---------------------------------------------------------------------------------------- the real processor

    def set_real_tables(self, gdtr: DescriptorTable, idtr: DescriptorTable, ldtr: Segment, tr: Segment) -> None:
        """Load the real descriptor-table registers with the VMM's tables."""
        real = self.real
        real.gdtr, real.idtr, real.ldtr, real.tr = gdtr, idtr, ldtr, tr

    @property
    def cr0(self) -> int:
        """The guest's CR0."""
        return self.privileged.cr0

    @property
    def cr2(self) -> int:
        """The guest's CR2; the real one is the VMM's to use."""
        return self.privileged.cr2

    @property
    def cr3(self) -> int:
        """The guest's CR3; the real one holds the VMM's page directory."""
        return self.privileged.cr3

    @property
    def cr4(self) -> int:
        """The guest's CR4."""
        return self.privileged.cr4


def _without_ring(selector: int) -> int:
    return selector & ~3 if selector & 3 == GUEST_KERNEL_RING else selector


def _with_ring(selector: int) -> int:
    return selector | GUEST_KERNEL_RING if selector & 3 == 0 and selector else selector


def _to_guest_selector(register: int, selector: int) -> int:
    """f⁻¹ of a selector: CS and SS carry the ring that the code really runs in."""
    if register in (SegmentRegister.CS, SegmentRegister.SS) and selector & 3 == GUEST_KERNEL_RING:
        return selector & ~3
    return selector


def _to_real_selector(register: int, selector: int) -> int:
    """The map f of a selector: CS and SS get the ring that the code really runs in; a null selector stays null."""
    if register in (SegmentRegister.CS, SegmentRegister.SS) and selector & 3 == 0 and selector:
        return selector | GUEST_KERNEL_RING
    return selector


def _to_guest_flags(flags: int) -> int:
    return flags & ~_DPL_MASK if flags & _PRESENT and flags >> _DPL_SHIFT & 3 == GUEST_KERNEL_RING else flags


def _to_real_flags(flags: int) -> int:
    return flags | GUEST_KERNEL_RING << _DPL_SHIFT if flags & _PRESENT and not flags & _DPL_MASK else flags
