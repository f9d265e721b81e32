"""Shadow descriptor tables: what the real GDTR and LDTR point to while a de-privileged guest runs.

Each entry is derived from the guest's: DPL 0 becomes 1, so that a kernel in ring 1 can use its segments. An entry is
not present until the guest loads it for the first time: the load faults, the VMM performs it on the guest's own table
(where it sets the accessed flag, as the processor would) and installs the shadow. Code segments of ring 3 stay
not-present for ever, so that every return to user code faults and its IF is not lost; gates, TSS and LDT descriptors
likewise, since only the VMM can follow them. The pages of the guest's tables are write-protected (traced): a write
there drops the shadows of what it changed.

What a guest can see of all this with LAR, LSL, VERR, VERW, SGDT and SLDT is the classic hole (Robin and Irvine 2000),
and stays open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.state import DescriptorTable, Segment
from simvirt.vmm.allocator import VMM_LINEAR_BASE
from simvirt.vmm.deprivileged_state import GUEST_KERNEL_RING
from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SIZE, Gpa
from simvirt.x86.segments import Descriptor, Selector

if TYPE_CHECKING:
    from simvirt.machine.memory import AddressSpace
    from simvirt.vmm.allocator import Allocator
    from simvirt.vmm.deprivileged_state import DeprivilegedState
    from simvirt.vmm.guest_memory import GuestMemory

_TABLE_PAGES: Final = 16
_GDT_PAGE, _LDT_PAGE, _IDT_PAGE, _TSS_PAGE = 0, 16, 32, 33
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


class ShadowTable:
    """The shadow of one guest table."""

    def __init__(self, pages: list[memoryview], entries: int) -> None:
        self._pages = pages
        self._entries = entries

    def put(self, index: int, raw: bytes) -> None:
        """Write the eight bytes of an entry."""
        if index < self._entries:
            page, offset = divmod(index * 8, PAGE_SIZE)
            self._pages[page][offset : offset + 8] = raw

    def shows(self, index: int, raw: bytes) -> bool:
        """Is the entry, present or not, still the shadow of `raw`?"""
        if index >= self._entries:
            return True
        page, offset = divmod(index * 8, PAGE_SIZE)
        shadow = bytes(self._pages[page][offset : offset + 8])
        access = raw[5] | (_KERNEL_DPL_BYTE if not raw[5] & _DPL_BYTE else 0)
        return shadow == raw[:5] + bytes([access]) + raw[6:] or shadow == raw[:5] + bytes([_hidden(raw[5])]) + raw[6:]

    def fill(self, raw: bytes) -> None:
        """Make the whole table the not-present shadow of `raw`, the guest's table; what lies beyond it is null."""
        shadow = bytearray(raw[: self._entries * 8].ljust(_ENTRIES * 8, b"\0"))
        for at in range(5, len(raw) & ~7, 8):
            shadow[at] = _hidden(shadow[at])
        for i, page in enumerate(self._pages):
            end = min((i + 1) * PAGE_SIZE, self._entries * 8)
            page[: end - i * PAGE_SIZE] = shadow[i * PAGE_SIZE : end]


def _hidden(access: int) -> int:
    """The access byte of an entry that the guest has not loaded: not present, DPL 0 raised."""
    return access & ~_PRESENT_BYTE | (_KERNEL_DPL_BYTE if not access & _DPL_BYTE else 0)


class ShadowDescriptors:
    """Both shadow tables, kept in step with the guest's."""

    def __init__(
        self, state: DeprivilegedState, memory: GuestMemory, allocator: Allocator, space: AddressSpace
    ) -> None:
        self._state = state
        self._memory = memory
        self._allocator = allocator
        self._space = space
        self._gdt = ShadowTable([allocator.vmm_page(_GDT_PAGE + i) for i in range(_TABLE_PAGES)], _ENTRIES - _RESERVED)
        self._ldt = ShadowTable([allocator.vmm_page(_LDT_PAGE + i) for i in range(_TABLE_PAGES)], _ENTRIES)
        self._gdt_last = allocator.vmm_page(_GDT_PAGE + _TABLE_PAGES - 1)
        allocator.vmm_page(_IDT_PAGE)
        allocator.vmm_page(_TSS_PAGE)
        self._traced: frozenset[Gpa] = frozenset()
        self._install_own_descriptors()
        state.on_descriptor_table = self.rebuild
        memory.on_write = self.written

    def _install_own_descriptors(self) -> None:
        task = Descriptor(
            VMM_LINEAR_BASE + _TSS_PAGE * PAGE_SIZE,
            0x67,
            0xB,
            is_code_or_data=False,
            default_size=False,
            granularity=False,
        )
        local = Descriptor(
            VMM_LINEAR_BASE + _LDT_PAGE * PAGE_SIZE,
            _LIMIT,
            0x2,
            is_code_or_data=False,
            default_size=False,
            granularity=False,
        )
        self._gdt_last[PAGE_SIZE - 16 :] = local.encode() + task.encode()
        self._task = Segment.from_descriptor(TASK_SELECTOR, task)
        self._local = Segment.from_descriptor(LDT_SELECTOR, local)

    def rebuild(self) -> None:
        """The guest's GDTR or LDTR has changed: derive both tables anew."""
        state = self._state
        gdtr, ldtr = state.gdtr, state.ldtr
        self._gdt.fill(self._memory.read(gdtr.base, gdtr.limit + 1) if gdtr.limit else b"")
        has_ldt = bool(ldtr.selector & ~3) and ldtr.present
        self._ldt.fill(self._memory.read(ldtr.base, min(ldtr.limit, _LIMIT) + 1) if has_ldt else b"")
        for segment in (state.segment(register) for register in range(6)):
            self._install_loaded(segment)
        state.set_real_tables(
            gdtr=DescriptorTable(VMM_LINEAR_BASE + _GDT_PAGE * PAGE_SIZE, _LIMIT),
            idtr=DescriptorTable(VMM_LINEAR_BASE + _IDT_PAGE * PAGE_SIZE, 0x7FF),
            ldtr=self._local if has_ldt else Segment(0, 0, 0, 0),
            tr=self._task,
        )
        self._trace()

    def _install_loaded(self, segment: Segment) -> None:
        """A segment that is in use keeps its shadow, if the guest's table still says the same."""
        entry = self._guest_entry(segment.selector)
        if entry is not None and (segment.flags & 0x8000) and entry[5] & 0x1F == segment.flags >> 8 & 0x1F:
            self.install(segment.selector)

    def _guest_entry(self, selector: int) -> bytes | None:
        named = Selector(selector)
        if named.is_null:
            return None
        table = self._state.ldtr if named.in_ldt else self._state.gdtr
        if named.offset + 7 > table.limit or (named.in_ldt and not self._state.ldtr.present):
            return None
        return self._memory.read(table.base + named.offset, 8)

    def install(self, selector: int) -> None:
        """The guest has loaded `selector`: let the processor load it by itself from now on, where that is sound."""
        raw = self._guest_entry(selector)
        if raw is None:
            return
        descriptor = Descriptor.from_bytes(raw)
        if not descriptor.is_code_or_data or not descriptor.present or not descriptor.accessed:
            return
        if descriptor.is_code and descriptor.dpl == 3:
            return
        if descriptor.dpl in (1, 2):  # ring compression: these rings are the guest kernel's own
            return
        access = raw[5] | (_KERNEL_DPL_BYTE if not raw[5] & _DPL_BYTE else 0)
        table = self._ldt if Selector(selector).in_ldt else self._gdt
        table.put(Selector(selector).index, raw[:5] + bytes([access]) + raw[6:])

    # ---------------------------------------------------------------------------------------- tracing

    def take_up(self) -> None:
        """The machine was restored: shadows, and the page tables that trace, lie in its memory as they were."""
        self._traced = self._pages_of_tables()

    def _pages_of_tables(self) -> frozenset[Gpa]:
        """The pages that hold the guest's tables."""
        pages: set[Gpa] = set()
        state = self._state
        tables = [(state.gdtr.base, state.gdtr.limit)]
        if state.ldtr.selector & ~3 and state.ldtr.present:
            tables.append((state.ldtr.base, min(state.ldtr.limit, _LIMIT)))
        for base, limit in tables:
            if limit:
                pages.update(
                    Gpa(page & 0xFFFFFFFF)
                    for page in range(base & ~PAGE_OFFSET_MASK, base + limit + 1, PAGE_SIZE)
                    if self._space.host(Gpa(page & 0xFFFFFFFF)) is not None
                )
        return frozenset(pages)

    def _trace(self) -> None:
        """Write-protect the pages of the guest's tables, and release those that are none any more."""
        pages = self._pages_of_tables()
        for page in self._traced - pages:
            self._allocator.protect(page, writable=True)
        for page in pages - self._traced:
            self._allocator.protect(page, writable=False)
        self._traced = pages

    def traces(self, gpa: Gpa) -> bool:
        """Is the page of this address traced?"""
        return Gpa(gpa & ~PAGE_OFFSET_MASK) in self._traced

    def pause(self, gpa: Gpa) -> None:
        """Let one write through to a traced page."""
        self._allocator.protect(gpa, writable=True)

    def resume(self, gpa: Gpa) -> None:
        """The write is done: trace again, and drop every shadow whose original lies in the page."""
        self._allocator.protect(gpa, writable=False)
        page = Gpa(gpa & ~PAGE_OFFSET_MASK)
        self.written(page, PAGE_SIZE)

    def written(self, gpa: Gpa, size: int) -> None:
        """Memory of the guest has changed.

        Where it holds descriptors, shadow entries that differ from them are dropped.
        """
        if not self._traced or not any(self.traces(Gpa(at)) for at in (gpa, gpa + size - 1)):
            return
        state = self._state
        for shadow, base, limit in (
            (self._gdt, state.gdtr.base, state.gdtr.limit),
            (
                self._ldt,
                state.ldtr.base,
                min(state.ldtr.limit, _LIMIT) if state.ldtr.selector & ~3 and state.ldtr.present else 0,
            ),
        ):
            if not limit:
                continue
            first, last = max((gpa - base) // 8, 0), min((gpa + size - 1 - base) // 8, limit // 8)
            for index in range(first, last + 1):
                raw = self._memory.read(base + index * 8, 8)
                if not shadow.shows(index, raw):
                    shadow.put(index, raw[:5] + bytes([_hidden(raw[5])]) + raw[6:])
