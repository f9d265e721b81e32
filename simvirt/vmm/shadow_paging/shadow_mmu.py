"""The guest's memory-management unit, made of shadow tables: which root is in force, and what a page fault means."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from simvirt.errors import EngineError, UnsupportedGuestError
from simvirt.machine.faults import ProcessorFault
from simvirt.machine.fills import Access, PdpteLoad
from simvirt.vmm.shadow_paging.cache import OutOfFramesError, ShadowCache
from simvirt.vmm.shadow_paging.guest_walk import GuestWalk, GuestWalker, PagingControls
from simvirt.vmm.shadow_paging.saved import ShadowState
from simvirt.vmm.shadow_paging.shadow_table import LEAF_LEVEL, XD, A, D, P, Role, ShadowTable, W
from simvirt.vmm.shadow_paging.statistics import ShadowStatistics
from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE, Gpa, Gva
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr0, Eflags
from simvirt.x86.paging import PAGING_32_BIT, PAGING_PAE, PageFaultErrorCode, PagingFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from simvirt.machine.engine import Engine
    from simvirt.machine.memory import HostMemory
    from simvirt.vmm.allocator import Allocator
    from simvirt.vmm.deprivileged_state import DeprivilegedState
    from simvirt.vmm.shadow_paging.guest_physical import GuestPhysical

_WP: Final = int(Cr0.WP)
_AC: Final = int(Eflags.AC)
_WINDOW_SIZE: Final = 2 << 20
_WRITES_WITHOUT_USE: Final = 8
"""A table that is written so often and not walked in between is no table any more, or will be used much later."""
_OFF: Final = PagingControls(None)
_PEEKS_KEPT: Final = 256
_MODES_KEPT: Final = 64
_RSVD: Final = int(PageFaultErrorCode.RSVD)


class FaultKind(Enum):
    """What a page fault of the real processor means to the guest's machine."""

    HIDDEN = "the guest's tables grant the access, and the shadows did not know yet"
    TRUE = "the guest's tables refuse the access"
    NO_MEMORY = "no memory answers at the guest-physical address, or none that can be written"
    TRACED = "a write to a page whose contents the VMM follows"


class Fault(NamedTuple):
    """A page fault, told apart."""

    kind: FaultKind
    gpa: Gpa
    error_code: int = 0
    """Of the guest's own fault."""


@dataclass(frozen=True, slots=True)
class _Mode:
    """How the guest's tables are walked, and what their shadows mean in either ring; no roles where paging is off."""

    walker: GuestWalker
    user_role: Role | None = None
    kernel_role: Role | None = None


class ShadowMmu:
    """Keeps the real CR3 on shadows of the guest's tables while the guest's paging is on.

    :ivar statistics: what it counts.
    :ivar on_root: called when another root is in force: what hangs on the guest's translations has to be looked at.
    :ivar on_write: called with the guest-physical address and size of whatever was written behind a trace's back.
    :ivar dependencies: guest-physical addresses of page-table words that somebody's translations went through.
    """

    def __init__(
        self,
        engine: Engine,
        state: DeprivilegedState,
        memory: HostMemory,
        physical: GuestPhysical,
        allocator: Allocator,
    ) -> None:
        self._engine = engine
        self._state = state
        self._allocator = allocator
        self.physical = physical
        self.cache = ShadowCache(memory, physical, allocator.shadow_frames, allocator.linear_base)
        self._fill_window()
        self.statistics = ShadowStatistics()
        self.on_root: Callable[[], None] = lambda: None
        self.on_write: Callable[[Gpa, int], None] = lambda _gpa, _size: None
        self.dependencies: set[int] = set()
        self._walker = GuestWalker(_OFF, physical.read_entry)
        self._peeked: dict[tuple[GuestWalker, int, int], GuestWalk] = {}
        """The walks of `peek`, which nearly always find the same again, by root and address."""
        self._modes: dict[tuple[int, int, int, int], _Mode] = {}
        """By CR0, CR4, IA32_EFER and MAXPHYADDR, of which a guest uses but a few settings."""
        self._guest_root = Gpa(0)
        self._role: Role | None = None
        self._root: ShadowTable | None = None
        self._valid = False
        self._watched: Gva | None = None
        self._stepping = False
        self._opened: dict[int, None] = {}
        self._unused_writes: dict[int, int] = {}
        physical.on_flag = self._flag_was_set
        state.on_paging = self.invalidate

    def _fill_window(self) -> None:
        for index in range(self._allocator.vmm_pages):
            present = P if self._allocator.maps_vmm_page(index) else 0
            self.cache.window.table.entries[index] = self._allocator.vmm_host(index) | present | A | D | XD

    def map_vmm_pages(self, count: int, *, present: bool) -> None:
        """Map the first pages of the VMM's own, or unmap them, in every address space of the guest."""
        self._allocator.map_vmm_pages(count, present=present)
        self._fill_window()

    # ---------------------------------------------------------------------------------------- roots

    @property
    def paging(self) -> bool:
        """Is the guest's paging on?"""
        return self._state.paging

    @property
    def window_base(self) -> int:
        """Linear address of the VMM's own pages."""
        return self.cache.window.base if self.paging else self._allocator.linear_base

    def invalidate(self) -> None:
        """CR0, CR3, CR4 or IA32_EFER of the guest's has been written."""
        self._valid = False

    def ensure(self) -> None:
        """Bring the real CR3 in step with the guest's control registers and ring; before anything runs or is read."""
        if self._valid and (
            self._role is None
            or self._walker.controls.write_protect
            or self._role.ignores_write_protection == self._in_kernel
        ):
            return
        self._activate()
        self.on_root()
        if self.cache.stale:
            self._settle()

    def _activate(self) -> None:
        self._valid = True
        state, privileged = self._state, self._state.privileged
        registers = privileged.cr0, privileged.cr4, privileged.efer, self._engine.physical_bits
        mode = self._modes.get(registers)
        if mode is None:
            if len(self._modes) >= _MODES_KEPT:
                self._modes.clear()
            mode = self._modes[registers] = self._mode(PagingControls.of(*registers, gigabyte_pages=False))
        self._walker = mode.walker
        controls = mode.walker.controls
        if controls.form is None:
            if self._role is not None:
                self._forget()
            self._role = self._root = None
            self.cache.window.base = self._allocator.linear_base
            state.real.set_control_register(3, self._allocator.directory)
        else:
            self._guest_root = Gpa(self.physical.through_gate(controls.root(privileged.cr3)))
            self._role = mode.kernel_role if state.cpl == 0 else mode.user_role
            self._find_root()
            self._settle_window()
        self.cache.stale = True
        self._settle()

    def _mode(self, controls: PagingControls) -> _Mode:
        """What one setting of the control registers asks for."""
        form = controls.form
        walker = GuestWalker(
            controls, self.physical.read_entry, (lambda: self._state.pdptes) if form is PAGING_PAE else None
        )
        if form is None:
            return _Mode(walker)
        user_role, kernel_role = (
            Role.of(
                form,
                page_size_extensions=controls.page_size_extensions,
                execute_disable=controls.execute_disable,
                ignores_write_protection=ignores,
            )
            for ignores in (False, not controls.write_protect)
        )
        return _Mode(walker, user_role, kernel_role)

    @property
    def _in_kernel(self) -> bool:
        return self._state.cpl == 0

    def _find_root(self) -> ShadowTable:
        role, state = self._need_role(), self._state
        pdptes = state.privileged.pdptes
        try:
            root = self.cache.root(role, self._guest_root, pdptes)
        except OutOfFramesError:
            self._forget()
            root = self.cache.root(role, self._guest_root, pdptes)
        if state.real.cr3 != root.address:
            self.statistics.root_switches += 1
            state.real.set_control_register(3, root.address)
            self.cache.stale = True
        self._root = root
        return root

    def _forget(self) -> None:
        """All shadows go."""
        self.cache.clear_all()
        self._unused_writes.clear()
        self._root = None
        self.statistics.flushes += 1

    def _need_role(self) -> Role:
        if self._role is None:
            raise EngineError("no paging, no shadows: this is a bug in simvirt, please report it")
        return self._role

    def _settle(self) -> None:
        """The processor forgets what the shadows do not say any more, and loads the PDPTEs that they have now."""
        if not self.cache.stale:
            return
        if not self._state.paging:
            self._engine.flush_tlb()
        elif self._engine.load_pdptes(self._state.real.cr3) is not PdpteLoad.LOADED:
            raise EngineError("a shadow PDPTE has a reserved bit set: this is a bug in simvirt, please report it")
        self.cache.stale = False

    def memory_was_mapped_anew(self) -> None:
        """Guest-physical addresses lead elsewhere: nothing of what is shadowed is true any more."""
        self._peeked.clear()
        self._forget()
        self._role = None
        self.invalidate()

    def save(self) -> ShadowState:
        """The shadows as a value."""
        return ShadowState(self.cache.window.base, self.cache.save(), tuple(sorted(self._unused_writes.items())))

    def restore(self, state: ShadowState) -> None:
        """Take up saved shadows; guest memory and the processor's state are in place already."""
        self._fill_window()
        self.cache.window.base = state.window_base
        self.cache.restore(state.tables)
        self._unused_writes = dict(state.unused_writes)
        self._watched, self._role, self._root = None, None, None
        self._activate()

    # ---------------------------------------------------------------------------------------- the VMM's own pages

    def _settle_window(self) -> None:
        """Where the guest has mapped something at the VMM's own pages, they move.

        To where the guest maps nothing; failing that, to a large page without memory, since an access to that is
        answered by the VMM anyway.
        """
        current = self.cache.window.base
        if not self._guest_uses(current) or self._leads_nowhere(current):
            return
        bases = range(0x1_0000_0000 - _WINDOW_SIZE, 0, -_WINDOW_SIZE)
        free = next((base for base in bases if not self._guest_uses(base)), None)
        if free is None:
            free = next((base for base in bases if self._leads_nowhere(base)), None)
        if free is None:
            raise UnsupportedGuestError(
                "the guest has mapped memory everywhere, and nothing is left where a VMM that runs it de-privileged "
                "could keep its tables: use bare-metal or vtx"
            )
        self._forget()
        self.cache.window.base = free
        self._find_root()

    def _guest_uses(self, linear: int) -> bool:
        """Is the guest's page directory entry for this address present?"""
        controls, physical = self._walker.controls, self.physical
        if controls.form is PAGING_32_BIT:
            return bool(physical.read_entry(self._guest_root + (linear >> 22) * 4, 4) & P)
        if controls.form is PAGING_PAE:
            pointer = self._state.pdptes[linear >> 30]
            directory = pointer & (1 << controls.physical_bits) - 1 & ~(PAGE_SIZE - 1)
            return bool(pointer & P and physical.read_entry(directory + (linear >> 21 & 511) * 8, 8) & P)
        return False

    def _leads_nowhere(self, base: int) -> bool:
        """Does the guest's page directory say that no memory is there?

        What a page table says may change unnoticed, unless it lies outside memory: without a shadow it is not traced.
        """
        found = self._walk(base, Access.READ, user=False, explicit=True)
        if found.level == LEAF_LEVEL and self.physical.is_ram(found.entries[-1][0]):
            return False
        last = found.gpa + self._allocator.vmm_pages * PAGE_SIZE - 1
        return _is_nowhere(found) or (self.physical.host(found.gpa) is None and self.physical.host(last) is None)

    def in_window(self, linear: int) -> bool:
        """Does an address belong to the VMM's own pages?"""
        return 0 <= linear - self.cache.window.base < _WINDOW_SIZE

    # ---------------------------------------------------------------------------------------- faults

    def _walk(self, linear: int, access: Access, *, user: bool, explicit: bool) -> GuestWalk:
        suspended = explicit and bool(self._state.eflags & _AC)
        found = self._walker.walk(self._guest_root, linear, access, user=user, smap_suspended=suspended)
        if self.physical.is_gated:
            gate = self.physical.through_gate
            found.entries = [(gate(at), entry) for at, entry in found.entries]
            found.gpa = Gpa(gate(found.gpa))
        return found

    def meet(self, linear: Gva, access: Access, *, user: bool, explicit: bool = True) -> Fault:
        """The shadows have refused an access: tell why, set the guest's flags, and fill where that is all."""
        found = self._walk(linear, access, user=user, explicit=explicit)
        if found.error_code is not None:
            self.statistics.true_faults += 1
            return Fault(FaultKind.TRUE, found.gpa, found.error_code)
        self._set_flags(found, write=access is Access.WRITE)
        if self.physical.host(found.gpa) is None or (access is Access.WRITE and not self.physical.is_ram(found.gpa)):
            return Fault(FaultKind.NO_MEMORY, found.gpa)
        if not self.in_window(linear):
            self._fill(linear, found)
        if access is Access.WRITE and self.cache.is_traced(found.gpa >> PAGE_SHIFT):
            if self._stepping:
                self._open(linear, found.gpa)
                return Fault(FaultKind.HIDDEN, found.gpa)
            self._watched = linear
            return Fault(FaultKind.TRACED, found.gpa)
        return Fault(FaultKind.HIDDEN, found.gpa)

    def _set_flags(self, found: GuestWalk, *, write: bool) -> None:
        """Accessed on the way, dirty at its end, as the processor does (SDM Vol. 3A §4.8)."""
        form = self._walker.controls.form
        size = form.entry_size if form is not None else 0
        last = len(found.entries) - 1
        for i, (at, entry) in enumerate(found.entries):
            if i == 0 and form is PAGING_PAE:
                continue
            flags = A | D if write and i == last else A
            if entry & flags != flags:
                self.physical.set_flags(at, size, flags)
                found.entries[i] = (at, entry | flags)

    def _fill(self, linear: int, found: GuestWalk) -> None:
        self.statistics.fills += 1
        role = self._need_role()
        for at, _ in found.entries:
            self._unused_writes.pop(at >> PAGE_SHIFT, None)
        try:
            self.cache.fill(self._root or self._find_root(), role, linear, found)
        except OutOfFramesError:
            self._forget()
            self.cache.fill(self._find_root(), role, linear, found)
        self._settle()

    # ---------------------------------------------------------------------------------------- the VMM's accesses

    def translate(self, linear: Gva, access: Access, *, user: bool, explicit: bool) -> Gpa:
        """Where an access that the VMM makes for the guest goes, with the flags that it sets.

        :raises ProcessorFault: #PF.
        """
        self.ensure()
        if self._walker.controls.form is None:
            return Gpa(linear & 0xFFFFFFFF)
        linear = Gva(linear & self._linear_mask(self._walker.controls.form))
        if not self.in_window(linear) and not (user and self._need_role().ignores_write_protection):
            host = self._engine.translate(linear, access, user=user, commit=True, explicit=explicit)
            gpa = None if host is None else self.physical.gpa(host)
            if gpa is not None:
                return Gpa(gpa)
        fault = self.meet(linear, access, user=user, explicit=explicit)
        if fault.kind is FaultKind.TRUE:
            self.statistics.true_faults -= 1  # the guest may get it or not: whoever asked decides
            raise ProcessorFault(Vector.PF, fault.error_code, linear)
        self._watched = None
        return fault.gpa

    def peek(self, linear: int) -> Gpa | None:
        """Where an address leads, as if nobody had asked; None where it leads nowhere.

        The words that say so are added to `dependencies`.
        """
        if self._walker.controls.form is None:
            return Gpa(linear & 0xFFFFFFFF)
        walker, root = self._walker, self._guest_root
        key = walker, root, linear
        found = self._peeked.get(key)
        if found is None or not walker.still_finds(root, found.entries):
            found = self._walk(linear, Access.READ, user=False, explicit=True)
            if len(self._peeked) >= _PEEKS_KEPT:
                self._peeked.clear()
            if not self.physical.is_gated:  # what another gate leads to is another matter
                self._peeked[key] = found
        for at, _ in found.entries:
            self.dependencies.add(at & ~3)
        return found.gpa if found.error_code is None or not _is_nowhere(found) else None

    @staticmethod
    def _linear_mask(form: PagingFormat) -> int:
        return 0xFFFFFFFF if form.linear_bits == 32 else 0xFFFF_FFFF_FFFF_FFFF

    # ---------------------------------------------------------------------------------------- tracing

    def trace(self, pages: frozenset[Gpa]) -> None:
        """Trace these pages on somebody else's behalf, and no others of theirs any more."""
        self.cache.trace_others(frozenset(page >> PAGE_SHIFT for page in pages))
        self._settle()

    def let_written(self) -> None:
        """The page whose write was met last is not traced any more: writes to it need the VMM no longer."""
        watched, self._watched = self._watched, None
        if watched is not None and not self.in_window(watched):
            found = self._walk(watched, Access.WRITE, user=False, explicit=True)
            self._fill(watched, found)

    def holds_tables(self, gpa: Gpa) -> bool:
        """Does the page of this address hold a page table that has a shadow?"""
        return self.cache.holds_tables(gpa >> PAGE_SHIFT)

    def _open(self, linear: int, gpa: Gpa) -> None:
        if self._root is not None and not self.in_window(linear):
            table, index = self.cache.leaf(self._root, linear)
            table.entries[index] |= W
            self._opened[gpa >> PAGE_SHIFT] = None

    @contextmanager
    def untraced(self) -> Iterator[None]:
        """Let one instruction write wherever it may, and follow what it has changed."""
        self._opened = {}
        if self._watched is not None:
            watched, self._watched = self._watched, None
            found = self._walk(watched, Access.WRITE, user=False, explicit=True)
            if self._root is not None and not self.in_window(watched):
                self._fill(watched, found)
                self._open(watched, found.gpa)
        self._stepping = True
        try:
            yield
        finally:
            self._stepping = False
            pages, self._opened = list(self._opened), {}
            for page in pages:
                self.cache.close(page)
            self._settle()
            for page in pages:
                self._page_was_written(page)

    def _page_was_written(self, page: int) -> None:
        gpa = Gpa(page << PAGE_SHIFT)
        if self.cache.holds_tables(page):
            self.statistics.traced_writes += 1
            self._tables_were_written(page)
        self.on_write(gpa, PAGE_SIZE)

    def _tables_were_written(self, page: int) -> None:
        changed = self.cache.sync(page)
        unused = self._unused_writes[page] = self._unused_writes.get(page, 0) + 1
        if unused >= _WRITES_WITHOUT_USE:
            del self._unused_writes[page]
            while page in self.cache.by_frame:
                self.cache.release(next(iter(self.cache.by_frame[page])))
            if self._role is not None:
                self._find_root()
        if changed:
            self.statistics.entries_dropped += len(changed)
            if self._role is not None and self._guest_uses(self.cache.window.base):
                self.invalidate()
            self._settle()
            if not self.dependencies.isdisjoint(changed):
                self.on_root()
        self._settle()

    def written(self, gpa: Gpa, size: int) -> None:
        """Guest memory was written by the VMM or by a device: the shadows follow where page tables lie there."""
        first, last = gpa >> PAGE_SHIFT, (gpa + max(size, 1) - 1) >> PAGE_SHIFT
        pages = range(first, last + 1)
        for page in [p for p in self.cache.by_frame if p in pages] if len(pages) > 1 else pages:
            if self.cache.holds_tables(page):
                self._tables_were_written(page)

    def _flag_was_set(self, gpa: int, size: int) -> None:
        self.cache.flag_was_set(gpa, size)
        self.on_write(Gpa(gpa), size)


def _is_nowhere(found: GuestWalk) -> bool:
    """Is there no translation, whoever asks?"""
    return found.error_code is not None and (not found.error_code & P or bool(found.error_code & _RSVD))
