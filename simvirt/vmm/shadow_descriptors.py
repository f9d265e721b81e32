"""Shadow descriptor tables: what the real GDTR and LDTR point to while a de-privileged guest runs.

Each entry is derived from the guest's: DPL 0 becomes 1, so that a kernel in ring 1 can use its segments. An entry is
not present until the guest loads it for the first time: the load faults, the VMM performs it on the guest's own table
(where it sets the accessed flag, as the processor would) and installs the shadow. Code segments that ring 3 can enter
stay not-present for ever, so that every return to user code faults and its IF is not lost; gates, TSS and LDT
descriptors likewise, since only the VMM can follow them.

The pages of the guest's tables are write-protected (traced), or the shadows are out of reach: never neither. A write to
a traced page *releases* the pages, and unmaps the shadows; the guest writes there as it likes, its stack perhaps, or
data that share a page with its GDT. The next use of a descriptor, be it by LAR, meets a page that is not present. Then
the VMM *follows*: it hides the shadows of what has changed, maps them, and traces the pages again. What the VMM or a
device writes to a traced page is followed at once.

What a guest can see of all this with LAR, LSL, VERR, VERW, SGDT and SLDT is the classic hole (Robin and Irvine 2000),
and stays open.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from simvirt.machine.state import DescriptorTable, Segment
from simvirt.vmm.deprivileged_state import GUEST_KERNEL_RING
from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SIZE, Gpa, Gva
from simvirt.x86.segments import DESCRIPTOR_SIZE, Descriptor, Selector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from simvirt.machine.memory import GatedAddressSpace
    from simvirt.vmm.allocator import Allocator
    from simvirt.vmm.deprivileged_state import DeprivilegedState
    from simvirt.vmm.guest_memory import GuestMemory
    from simvirt.vmm.shadow_paging.shadow_mmu import ShadowMmu

_TABLE_PAGES: Final = 16
_GDT_PAGE, _LDT_PAGE, _IDT_PAGE, _TSS_PAGE = 0, 16, 32, 33
_TABLES_SIZE: Final = _IDT_PAGE * PAGE_SIZE
_LIMIT: Final = 0xFFFF
TASK_SELECTOR: Final = Selector(0xFFF8)
"""The VMM's own task, in the last entry of the shadow GDT: what STR shows."""
LDT_SELECTOR: Final = Selector(0xFFF0)
"""The VMM's descriptor of the shadow LDT: what SLDT shows while the guest has one."""
_RESERVED: Final = 2
_ENTRIES: Final = 8192
_PRESENT_BYTE: Final = 0x80
_DPL_BYTE: Final = 0x60
_KERNEL_DPL_BYTE: Final = GUEST_KERNEL_RING << 5
_TYPE, _ACCESSED = 0x1F, 0x01


_Place: TypeAlias = "tuple[int, Gpa | None]"
"""A linear page and the guest-physical address that it leads to."""


class ShadowTable:
    """The shadow of one guest table.

    :ivar original: the guest's table that the shadow was derived from, whole entries alone.
    """

    def __init__(self, pages: list[memoryview], entries: int) -> None:
        self._pages = pages
        self._entries = entries
        self.original = b""

    def recover(self, size: int) -> None:
        """Take the shadow itself for what it was derived from, `size` bytes of it.

        Of an entry that is shown that is its original; of a hidden one it makes no difference.
        """
        shadow = bytearray(b"".join(self._pages)[:size])
        for at in range(5, size, DESCRIPTOR_SIZE):
            if shadow[at] & _PRESENT_BYTE and shadow[at] & _DPL_BYTE == _KERNEL_DPL_BYTE:
                shadow[at] &= ~_DPL_BYTE
        self.original = bytes(shadow)

    def fill(self, original: bytes) -> None:
        """Make the whole table the hidden shadow of `original`; what lies beyond it is null."""
        self.original = original
        shadow = bytearray(original[: self._entries * DESCRIPTOR_SIZE].ljust(_ENTRIES * DESCRIPTOR_SIZE, b"\0"))
        for at in range(5, min(len(original), self._entries * DESCRIPTOR_SIZE), DESCRIPTOR_SIZE):
            shadow[at] = _hidden(shadow[at])
        for i, page in enumerate(self._pages):
            end = min((i + 1) * PAGE_SIZE, self._entries * DESCRIPTOR_SIZE)
            page[: end - i * PAGE_SIZE] = shadow[i * PAGE_SIZE : end]

    def follow(self, changed: bytes) -> None:
        """The guest's table reads `changed` now: hide the shadows of the entries that differ."""
        if changed == self.original:
            return
        for at in range(0, len(changed), DESCRIPTOR_SIZE):
            raw = changed[at : at + DESCRIPTOR_SIZE]
            if raw != self.original[at : at + DESCRIPTOR_SIZE]:
                self._put(at, raw, _hidden(raw[5]))
        self.original = changed

    def install(self, selector: Selector) -> None:
        """Show the entry of `selector`: the processor may load it by itself."""
        raw = self.original[selector.offset : selector.offset + DESCRIPTOR_SIZE]
        self._put(selector.offset, raw, raw[5] | (0 if raw[5] & _DPL_BYTE else _KERNEL_DPL_BYTE))

    def _put(self, at: int, raw: bytes, access: int) -> None:
        if at < self._entries * DESCRIPTOR_SIZE:
            page, offset = divmod(at, PAGE_SIZE)
            self._pages[page][offset : offset + DESCRIPTOR_SIZE] = raw[:5] + bytes([access]) + raw[6:]


def _hidden(access: int) -> int:
    """The access byte of an entry that the guest has not loaded: not present, DPL 0 raised."""
    return access & ~_PRESENT_BYTE | (0 if access & _DPL_BYTE else _KERNEL_DPL_BYTE)


class ShadowDescriptors:
    """Both shadow tables, kept in step with the guest's."""

    def __init__(
        self,
        state: DeprivilegedState,
        memory: GuestMemory,
        allocator: Allocator,
        space: GatedAddressSpace,
        mmu: ShadowMmu,
    ) -> None:
        self._state = state
        self._memory = memory
        self._allocator = allocator
        self._space = space
        self._mmu = mmu
        self._base = mmu.window_base
        self._gdt = ShadowTable([allocator.vmm_page(_GDT_PAGE + i) for i in range(_TABLE_PAGES)], _ENTRIES - _RESERVED)
        self._ldt = ShadowTable([allocator.vmm_page(_LDT_PAGE + i) for i in range(_TABLE_PAGES)], _ENTRIES)
        self._gdt_last = allocator.vmm_page(_GDT_PAGE + _TABLE_PAGES - 1)
        self._traced: frozenset[Gpa] = frozenset()
        self._released = False
        self._followed: tuple[_Place, ...] = ()
        """Where the tables lay that the shadows follow. What lies there is traced, so they are in step with it."""
        self._task = Segment(0, 0, 0, 0)
        self._local = Segment(0, 0, 0, 0)
        self._make_own_descriptors()
        state.on_descriptor_table = self.rebuild
        mmu.on_write = self.written
        mmu.on_root = self.follow_paging

    def _make_own_descriptors(self) -> None:
        task = _system_descriptor(self._base + _TSS_PAGE * PAGE_SIZE, 0x67, 0xB)
        local = _system_descriptor(self._base + _LDT_PAGE * PAGE_SIZE, _LIMIT, 0x2)
        self._gdt_last[PAGE_SIZE - 16 :] = local.encode() + task.encode()
        self._task = Segment.from_descriptor(TASK_SELECTOR, task)
        self._local = Segment.from_descriptor(LDT_SELECTOR, local)

    # ---------------------------------------------------------------------------------------- the tables

    @property
    def _has_ldt(self) -> bool:
        ldtr = self._state.ldtr
        return bool(ldtr.selector & ~3) and ldtr.present

    def _guest_gdt(self) -> bytes:
        """The guest's GDT as far as its limit holds whole entries."""
        gdtr = self._state.gdtr
        return self._memory.peek(gdtr.base, gdtr.limit + 1 & ~(DESCRIPTOR_SIZE - 1))

    def _guest_ldt(self) -> bytes:
        ldtr = self._state.ldtr
        return (
            self._memory.peek(ldtr.base, min(ldtr.limit, _LIMIT) + 1 & ~(DESCRIPTOR_SIZE - 1)) if self._has_ldt else b""
        )

    def rebuild(self) -> None:
        """The guest's GDTR or LDTR has changed: derive both tables anew."""
        if self._released:
            self._set_released(False)
        state = self._state
        self._gdt.fill(self._guest_gdt())
        self._ldt.fill(self._guest_ldt())
        for segment in (state.segment(register) for register in range(6)):
            self._install_loaded(segment)
        self._load_real_registers()
        self._trace(self._places())

    def _load_real_registers(self) -> None:
        self._state.set_real_tables(
            gdtr=DescriptorTable(self._base + _GDT_PAGE * PAGE_SIZE, _LIMIT),
            idtr=DescriptorTable(self._base + _IDT_PAGE * PAGE_SIZE, 0x7FF),
            # No longer than the guest's, so that a selector of ones, which reading nothing gives, names no entry of it.
            ldtr=replace(self._local, limit=len(local) - 1) if (local := self._ldt.original) else Segment(0, 0, 0, 0),
            tr=self._task,
        )

    def follow_paging(self) -> None:
        """The guest's linear addresses lead elsewhere: so may its tables, and so may the VMM's pages."""
        base = self._mmu.cache.window.base
        if self._base != base:
            self._base = base
            self._make_own_descriptors()
            self._load_real_registers()
        self._mmu.dependencies.clear()
        if self._released:
            return
        places = self._places()
        if places != self._followed:
            self._follow()
            self._trace(places)

    def _install_loaded(self, segment: Segment) -> None:
        """Keep the shadow of a segment that is in use, if the guest's table still says the same of it.

        Where its accessed flag is 0 the next load has to trap, for only the VMM can set that flag in the guest's table.
        """
        entry = self._guest_entry(segment.selector)
        if entry and segment.present and entry[5] & _ACCESSED and not (entry[5] ^ segment.flags >> 8) & _TYPE:
            self.install(segment.selector)

    def _table(self, selector: Selector) -> ShadowTable:
        return self._ldt if selector.in_ldt else self._gdt

    def _guest_entry(self, selector: int) -> bytes:
        named = Selector(selector)
        return b"" if named.is_null else self._table(named).original[named.offset : named.offset + DESCRIPTOR_SIZE]

    def install(self, selector: int) -> None:
        """The guest has loaded `selector`: let the processor load it by itself from now on, where that is sound."""
        if self._released:
            return
        raw = self._guest_entry(selector)
        if not raw:
            return
        descriptor = Descriptor.from_bytes(raw)
        if not descriptor.is_code_or_data or not descriptor.present:
            return
        if descriptor.is_code and (descriptor.dpl == 3 or descriptor.conforming):
            return
        if descriptor.dpl in (1, 2):  # ring compression: these rings are the guest kernel's own
            return
        self._table(Selector(selector)).install(Selector(selector))

    def holds(self, linear: Gva) -> bool:
        """Does the address lie in a shadow table?"""
        return self._base <= linear < self._base + _TABLES_SIZE

    # ---------------------------------------------------------------------------------------- tracing

    def take_up(self) -> None:
        """The machine was restored: shadows, and the page tables that trace, lie in its memory as they were."""
        self._base = self._mmu.window_base
        self._make_own_descriptors()
        self._gdt.original, self._ldt.original = self._guest_gdt(), self._guest_ldt()
        self._released = not self._allocator.maps_vmm_page(_GDT_PAGE)
        if self._released:
            self._gdt.recover(len(self._gdt.original))
            self._ldt.recover(len(self._ldt.original))
        self._followed = () if self._released else self._places()
        self._traced = self._pages(self._followed)
        self._mmu.trace(self._traced)

    def _places(self) -> tuple[_Place, ...]:
        """Where the guest's tables lie, page by page."""
        state, peek = self._state, self._mmu.peek
        places: list[_Place] = []
        for table, base in ((self._gdt, state.gdtr.base), (self._ldt, state.ldtr.base)):
            size = len(table.original)
            if size:
                pages = range(base & ~PAGE_OFFSET_MASK, base + size, PAGE_SIZE)
                places.extend(zip(pages, map(peek, pages), strict=True))
        return tuple(places)

    def _pages(self, places: Iterable[_Place]) -> frozenset[Gpa]:
        """Those of the guest's memory."""
        return frozenset(
            self._space.through_gate(gpa) for _, gpa in places if gpa is not None and self._space.host(gpa) is not None
        )

    def _trace(self, places: tuple[_Place, ...]) -> None:
        """Write-protect the pages of the guest's tables, and release those that are none any more."""
        self._followed = places
        pages = self._pages(places)
        for page in self._traced - pages:
            self._allocator.protect(page, writable=True)
        for page in pages - self._traced:
            self._allocator.protect(page, writable=False)
        self._traced = pages
        self._mmu.trace(pages)

    def trace_anew(self) -> None:
        """The guest's memory has been mapped anew: write-protect the pages of its tables, and see what is in them."""
        self._traced = frozenset()
        if self._released:
            return
        self._trace(self._places())
        self._follow()

    def traces(self, gpa: Gpa) -> bool:
        """Is the page of this address traced?"""
        return self._space.through_gate(Gpa(gpa & ~PAGE_OFFSET_MASK)) in self._traced

    def release(self) -> None:
        """The guest writes to a traced page: trace none until it uses a descriptor."""
        self._trace(())
        self._mmu.let_written()
        self._set_released(True)

    def awaits(self, linear: Gva) -> bool:
        """Is the shadow at this address out of reach until the guest's tables are followed again?"""
        return self._released and self.holds(linear)

    def follow_again(self) -> None:
        """The guest uses a descriptor: see what has become of its tables, and trace their pages."""
        self._follow()
        self._trace(self._places())
        self._set_released(False)

    def _set_released(self, released: bool) -> None:
        self._released = released
        self._mmu.map_vmm_pages(2 * _TABLE_PAGES, present=not released)

    @contextmanager
    def untraced(self) -> Iterator[None]:
        """Let one instruction write wherever it wants, and follow what it has changed."""
        if self._mmu.paging or self._released:  # the MMU opens and follows by itself
            yield
            return
        for page in self._traced:
            self._allocator.protect(page, writable=True)
        try:
            yield
        finally:
            for page in self._traced:
                self._allocator.protect(page, writable=False)
            self._follow()

    def written(self, gpa: Gpa, size: int) -> None:
        """Guest memory has been written: the shadows follow where descriptors lie there."""
        if any(self.traces(Gpa(at & 0xFFFFFFFF)) for at in (gpa, gpa + size - 1)):
            self._follow()

    def _follow(self) -> None:
        self._gdt.follow(self._guest_gdt())
        self._ldt.follow(self._guest_ldt())


def _system_descriptor(base: int, limit: int, kind: int) -> Descriptor:
    """A descriptor of the VMM's own, for what lies at `base`."""
    return Descriptor(base, limit, kind, is_code_or_data=False, default_size=False, granularity=False)
