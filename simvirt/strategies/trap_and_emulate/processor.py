"""The virtual processor of trap-and-emulate, as the machine's loop sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.machine import Stop
from simvirt.machine.state import DescriptorTable, Segment  # noqa: TC001 - decoding a snapshot needs them at run time
from simvirt.vmm.deprivileged_state import PrivilegedState
from simvirt.vmm.shadow_paging.saved import ShadowState  # noqa: TC001 - as above

if TYPE_CHECKING:
    from simvirt.machine.breakpoints import Breakpoints
    from simvirt.machine.pc import BoardBus
    from simvirt.strategies.trap_and_emulate.dispatcher import Dispatcher
    from simvirt.vmm.allocator import Allocator
    from simvirt.vmm.virtual_cpu import VirtualCpu


@dataclass(frozen=True, slots=True)
class DeprivilegedSnapshot:
    """The real processor's image, and what of the guest's it does not hold (`PrivilegedState`)."""

    count: int
    """Guest instructions retired."""
    image: bytes
    """As `Engine.save_image` makes it."""
    flags: int
    """The guest's EFLAGS.IF and IOPL."""
    control: tuple[int, int, int, int, int]
    """The guest's CR0, CR2, CR3, CR4 and IA32_EFER."""
    pdptes: tuple[int, ...]
    """The guest's PDPTE registers."""
    gdtr: DescriptorTable
    idtr: DescriptorTable
    ldtr: Segment
    tr: Segment
    shadows: ShadowState
    """The shadow page tables."""


class DeprivilegedProcessor:
    """The guest's processor: the real one in ring 1 and 3, and a dispatcher for what traps."""

    def __init__(self, guest: VirtualCpu, allocator: Allocator, dispatcher: Dispatcher, bus: BoardBus) -> None:
        self.guest = guest
        self._allocator = allocator
        self.dispatcher = dispatcher
        self._bus = bus

    @property
    def count(self) -> int:
        """Guest instructions retired; those that the VMM emulated count like the others."""
        return self.guest.count

    @property
    def interruptible(self) -> bool:
        """Is the guest's IF set, and no interrupt shadow in force?"""
        return self.guest.interruptible

    @property
    def interrupts_enabled(self) -> bool:
        """The guest's IF."""
        return self.guest.state.interrupt_flag

    @property
    def nmi_ready(self) -> bool:
        """Is a virtual NMI pending that nothing holds back?"""
        return self.guest.nmi_ready

    @property
    def nmi_blocked(self) -> bool:
        """Is the guest handling a virtual NMI?"""
        return self.guest.state.nmi_blocked

    def raise_nmi(self) -> None:
        """An edge on the virtual NMI pin: the VMM delivers it as soon as the guest's processor would take it."""
        self.guest.raise_nmi()

    def assert_ignne(self) -> None:
        """IGNNE#: x87 errors are ignored for as long as one is pending."""
        self.guest.state.assert_ignne()

    def run(self, limit: int, *, window: bool) -> Stop:
        """Run and dispatch events, until one needs the board's attention.

        The guest's IF changes by traps alone, so a window needs no help of the processor's, except that an interrupt
        shadow ends with the next instruction.
        """
        if window and self.guest.state.interrupt_shadow:
            limit = min(limit, self.guest.count + 1)
        self.guest.engine.tsc_base = self._bus.time_offset()
        guest, dispatch, attention = self.guest, self.dispatcher.dispatch, self._bus.attention
        while True:
            stop = dispatch(guest.run(limit))
            if stop is not Stop.HANDLED or attention.needed or window:
                return stop

    def inject_interrupt(self, vector: int) -> None:
        """Deliver a virtual interrupt through the guest's own IDT."""
        self.guest.deliver_external_interrupt(vector)

    @property
    def breakpoints(self) -> Breakpoints:
        """A debugger's break- and watchpoints."""
        return self.guest.breakpoints

    def set_a20(self, is_open: bool) -> None:
        """Let the guest's address line 20 through, or not: its memory is mapped anew."""
        if self._allocator.set_a20(is_open):
            self.guest.mmu.memory_was_mapped_anew()
            self.guest.shadow.trace_anew()

    def request_stop(self) -> None:
        """Make the current or the next run stop soon."""
        self.guest.request_stop()

    def guest_state(self) -> ArchitecturalState:
        """The guest's own view: f⁻¹ of the real state."""
        return ArchitecturalState.of(self.guest.state)

    def set_guest_state(self, state: ArchitecturalState) -> None:
        """Put the real processor into the state that f maps `state` to, and derive the shadows anew."""
        self.guest.take_up_state(state)
        self.guest.guest_state.derive_real_control_registers()
        self.guest.mmu.ensure()
        self.guest.engine.follow_umip()
        self.guest.shadow.rebuild()
        self.guest.engine.flush_tlb()

    def save(self) -> DeprivilegedSnapshot:
        """The processor as a value; the shadows lie in the machine's memory."""
        p = self.guest.guest_state.privileged
        return DeprivilegedSnapshot(
            self.count,
            self.guest.engine.save_image(),
            p.flags,
            (p.cr0, p.cr2, p.cr3, p.cr4, p.efer),
            p.pdptes,
            p.gdtr,
            p.idtr,
            p.ldtr,
            p.tr,
            self.guest.mmu.save(),
        )

    def restore(self, state: DeprivilegedSnapshot) -> None:
        """Take up a saved state; the memory that it belongs to is in place already."""
        self.guest.engine.restore_image(state.image)
        self.guest.count = state.count
        self.guest.guest_state.privileged = PrivilegedState(
            state.flags, *state.control, state.pdptes, gdtr=state.gdtr, idtr=state.idtr, ldtr=state.ldtr, tr=state.tr
        )
        self.guest.mmu.restore(state.shadows)
        self.guest.shadow.take_up()
        self.guest.engine.flush_tlb()
