"""The virtual CPU of a de-privileged guest: the processor's own work, done on the guest's view of the state.

It is a `Cpu` whose state is the guest's (`DeprivilegedState`) and whose memory is the guest's, on the engine of the
real one. Delivery of exceptions, control registers, I/O permission and the rest of `machine.completion` work on it
unchanged: they are the interpreter routines that Popek and Goldberg ask for, one for each privileged instruction.

Page faults of the VMM's own tables are no business of the guest. Running this CPU turns them into what they mean to
its machine: a page fault of its own, an access to a hole, a write to a page that is traced; or nothing, where the
shadows of its page tables merely had to be filled.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Final

from simvirt.errors import EngineError
from simvirt.machine.cpu import Cpu
from simvirt.machine.device_access import target_of
from simvirt.machine.engine import DELIVER_NOTHING
from simvirt.machine.events import Event, ExceptionRaised, PhysicalAccess, WatchedWrite
from simvirt.machine.faults import general_protection
from simvirt.machine.fills import Access, Refusal, Verdict
from simvirt.machine.interrupts import Source
from simvirt.machine.state import PDPTE_COUNT
from simvirt.vmm.deprivileged_state import DeprivilegedState
from simvirt.vmm.guest_segment_loads import GuestSegmentLoads
from simvirt.vmm.shadow_descriptors import ShadowDescriptors
from simvirt.vmm.shadow_paging.guest_physical import GuestPhysical
from simvirt.vmm.shadow_paging.shadow_mmu import FaultKind, ShadowMmu
from simvirt.x86.addresses import Gpa, Gva
from simvirt.x86.decode import reads_descriptors
from simvirt.x86.exceptions import Vector
from simvirt.x86.instruction import GeneralOperand
from simvirt.x86.paging import PAGING_PAE, PageEntry

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.memory import GatedAddressSpace, HostMemory
    from simvirt.machine.segment_loads import SegmentLoads
    from simvirt.vmm.allocator import Allocator
    from simvirt.vmm.guest_memory import GuestMemory
    from simvirt.x86.instruction import Instruction


_PDPT: Final = 0xFFFF_FFE0
"""Bits of CR3 that are the address of PAE paging's root (SDM Vol. 3A Table 4-7)."""
_P: Final = int(PageEntry.PRESENT)


class VirtualCpu(Cpu):
    """The guest's processor on top of the real one.

    :ivar guest_state: `state` under its own type, with the parts that the real processor cannot hold.
    :ivar shadow: the descriptor tables that the real processor uses for the guest.
    :ivar mmu: the page tables that it uses once the guest's paging is on.
    :ivar on_hidden_fault: called at each page fault that filled a shadow page table.
    :ivar on_table_use: called when the guest uses a descriptor after a write to its tables' pages.
    """

    def __init__(
        self, real: Cpu, host: HostMemory, memory: GuestMemory, allocator: Allocator, space: GatedAddressSpace
    ) -> None:
        self.guest_state = DeprivilegedState(real.engine.state_address, real.engine.platform.state)
        self._assemble(real.engine, self.guest_state, memory)
        real.engine.leave_far_transfers_to_engine()
        self._space = space
        self._physical = GuestPhysical(host, space, real.engine.written)
        self.mmu = ShadowMmu(real.engine, self.guest_state, host, self._physical, allocator)
        memory.mmu, memory.on_write = self.mmu, self.written
        self.shadow = ShadowDescriptors(self.guest_state, memory, allocator, space, self.mmu)
        self.on_hidden_fault: Callable[[], None] = lambda: None
        self.on_table_use: Callable[[], None] = lambda: None

    def run(self, limit: int, *, window: bool = False, deliver: int = DELIVER_NOTHING) -> Event:
        """As for any CPU, on the page tables that the guest's control registers ask for."""
        self.mmu.ensure()
        return super().run(limit, window=window, deliver=deliver)

    def forget_translations(self) -> None:
        """The guest's CR3 is not the real one, and what that translates is the shadows' business: `ensure`."""

    def _describe(self) -> None:
        """Tell native code of the guest's processor what the real one does not hold."""
        p = self.guest_state.privileged
        self.engine.describe_guest(
            flags=p.flags, window_base=self.mmu.window_base, gdtr=p.gdtr, idtr=p.idtr, ldtr=p.ldtr, tr=p.tr
        )

    def _deliver_natively(
        self, vector: int, source: Source, return_rip: int, error_code: int | None = None, cr2: int | None = None
    ) -> bool:
        if self.native_delivery == DELIVER_NOTHING or self.on_delivery is not None:
            return False
        self.mmu.ensure()
        self._describe()
        if not self.engine.deliver_to_guest(vector, source, return_rip, error_code, cr2):
            return False
        p = self.guest_state.privileged
        p.flags = self.engine.guest_flags
        if cr2 is not None:
            p.cr2 = cr2
        return True

    def _interrupt_natively(self, vector: int) -> bool:
        return self._deliver_natively(vector, Source.EXTERNAL, self.state.rip)

    def iret_natively(self) -> bool:
        """Carry out the IRET at RIP on the guest's machine in native code, if nothing about it is unusual and it traps.

        :return: was it done? If not, nothing has changed.
        """
        if self.native_delivery == DELIVER_NOTHING:
            return False
        self._describe()
        if not self.engine.guest_iret():
            return False
        self.guest_state.privileged.flags = self.engine.guest_flags
        return True

    def _segment_loads(self) -> SegmentLoads:
        return GuestSegmentLoads(self, self._install)

    def _install(self, selector: int) -> None:
        self.shadow.install(selector)

    def run_natively(self) -> Event | None:
        """As for any CPU; what the instruction writes to traced pages is let through and followed."""
        self.mmu.ensure()
        with self.shadow.untraced(), self.mmu.untraced() if self.mmu.paging else nullcontext():
            return super().run_natively()

    def load_pdptes(self, cr3: int) -> None:
        """The guest's PDPTE registers, from its own memory; the real ones are the VMM's.

        :raises ProcessorFault: #GP(0), a present entry has a reserved bit.
        """
        entries = tuple(self.mmu.physical.read_entry((cr3 & _PDPT) + 8 * number, 8) for number in range(PDPTE_COUNT))
        level = PAGING_PAE.levels[0]
        reserved = PAGING_PAE.reserved_mask(level, maps_page=False, physical_bits=self.engine.physical_bits, nxe=False)
        if any(entry & _P and entry & reserved for entry in entries):
            raise general_protection(0)
        self.guest_state.pdptes = entries

    def written(self, gpa: Gpa, size: int) -> None:
        """Guest memory was written by the VMM or a device: all shadows follow."""
        self.mmu.written(gpa, size)
        self.shadow.written(gpa, size)

    def host_was_written(self, host: int, size: int) -> None:
        """The same by the address in the PC's memory."""
        self.engine.written(host, size)
        gpa = self._physical.gpa(host)
        if gpa is not None:
            self.written(Gpa(gpa), size)

    def _page_fault(self, verdict: Verdict) -> Event | None:
        if self.shadow.awaits(verdict.gva):
            self.on_table_use()
            self.shadow.follow_again()
            return None if self.uses_descriptors else self.run_natively()  # it reads the VMM's pages, and may write
        if self.mmu.paging and verdict.refusal is Refusal.PAGE_FAULT and not self.mmu.in_window(verdict.gva):
            return self._guest_page_fault(verdict.gva, verdict.access)  # of no descriptor or TSS: those are the VMM's
        event = super()._page_fault(verdict)
        if not isinstance(event, ExceptionRaised) or event.vector is not Vector.PF or event.cr2 is None:
            return event
        engine, linear = self.engine, event.cr2
        access = engine.verdict.access
        if self.mmu.paging:
            is_mark = access is Access.WRITE and self._marks_accessed(Gva(linear))
            return event if is_mark else self._guest_page_fault(Gva(linear), access)
        if access is Access.WRITE:
            if self._marks_accessed(linear):
                return event
            if self.shadow.traces(Gpa(linear)):
                return WatchedWrite(Gpa(linear), linear, engine.instruction_length)
        return self._outside_memory(Gpa(linear), linear, access)

    def _outside_memory(self, gpa: Gpa, linear: Gva, access: Access) -> PhysicalAccess:
        """An access to what is no RAM of the guest's: a device, its firmware's ROM, or nothing."""
        target = target_of(self._space.region(gpa))
        return PhysicalAccess(target, gpa, linear, access, self.engine.instruction_length)

    def _guest_page_fault(self, linear: Gva, access: Access) -> Event | None:
        """A page fault of the shadows: what it means by the guest's own tables."""
        fault = self.mmu.meet(linear, access, user=self.state.cpl == 3)
        length = self.engine.instruction_length
        match fault.kind:
            case FaultKind.TRUE:
                return ExceptionRaised(Vector.PF, fault.error_code, linear)
            case FaultKind.NO_MEMORY:
                return self._outside_memory(fault.gpa, linear, access)
            case FaultKind.TRACED:
                return WatchedWrite(fault.gpa, linear, length)
            case FaultKind.HIDDEN if self.mmu.in_window(linear):
                raise EngineError(f"the guest has mapped {linear:#x}, where the VMM is, and nothing else is free")
            case FaultKind.HIDDEN:
                self.mmu.statistics.hidden_faults += 1
                self.on_hidden_fault()
                return None

    def _marks_accessed(self, linear: Gva) -> bool:
        """Is it the processor, that loads a segment and sets the accessed flag of its shadow?"""
        return self.shadow.holds(linear) and self.uses_descriptors

    @property
    def uses_descriptors(self) -> bool:
        """May the instruction at RIP read a descriptor table by itself?"""
        return reads_descriptors(self.engine.code_bytes, self.state.bits)

    def store(self, instruction: Instruction, data: bytes) -> None:
        """Write the destination operand of an instruction: memory, or the low bytes of a register."""
        if instruction.memory is not None:
            self.memory.write(self.linear_address(instruction.memory), data, user=self.state.cpl == 3, explicit=True)
            return
        register = next(o for o in instruction.operands if isinstance(o, GeneralOperand))
        self.state.set_register(register.register, len(data), int.from_bytes(data, "little"))
