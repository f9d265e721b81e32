"""The CPU engine: one Unicorn instance in 64-bit mode, made exact.

What Unicorn is used for: translating and running guest code quickly. What is ours: the memory-management unit and the
instruction counter (native/engine.c), and everything a processor does around an instruction (`machine.cpu`). SVM guest
mode, which QEMU left inside, is switched on for ever: with it, exceptions, software interrupts and intercepted
instructions arrive precisely, before they have had any effect. This is the only module that imports unicorn or loads
the native callbacks.

`Engine.run` returns the native event; `machine.cpu` makes typed events of them.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from simvirt.errors import EngineError, UsageError
from simvirt.machine import platforms
from simvirt.machine.debug_registers import GENERAL_DETECT
from simvirt.machine.delivery_log import DeliveryLog
from simvirt.machine.engine_code import change_code
from simvirt.machine.fills import Access, PageFlag, PdpteLoad, Refusal, Verdict
from simvirt.machine.memory import A20_BIT, AddressSpace, HostMemory, Region, RegionKind
from simvirt.machine.native.layout import (
    GUEST_WORDS,
    INSTRUCTION_FEATURES,
    MAX_BREAKPOINTS,
    MAX_CPUID,
    MAX_IMPLICIT,
    MAX_OVERRIDES,
    MAX_REGIONS,
    MAX_WATCHES,
    ORDER_WORDS,
    NativeEvent,
    SharedRecord,
    word,
)
from simvirt.machine.native.library import NativeLibrary
from simvirt.machine.state import ProcessorState, Segment
from simvirt.machine.svm import (
    INSTRUCTIONS_BASE,
    NO_INTERCEPTS,
    TABLE_LOADS,
    UMIP_READS,
    Intercepts,
    SvmExit,
    intercept_mask,
)
from simvirt.machine.world import WORLD_BYTES, World
from simvirt.x86.addresses import PAGE_SHIFT, PAGE_SIZE, Gpa, Gva, Hpa
from simvirt.x86.cpuid import CR4_FEATURES, Feature
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr4

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from simvirt.machine.standing_order import StandingOrder
    from simvirt.machine.state import DescriptorTable
    from simvirt.x86.addresses import Port
    from simvirt.x86.cpuid import CpuModel

NEVER: Final = 1 << 62
"""A limit that no run reaches."""
SLICE: Final = 1 << 19
"""Instructions between two looks at whether the host wants the run to stop."""

_TCG_BUFFER: Final = 48 << 20
_HIDDEN_BASE: Final = 0xFF_0000_0000
"""Physical address, in Unicorn's space alone, of pages that no guest can map: VMCB, MSR bitmap, scratch pages."""
_VMCB_PAGE, _MSR_BITMAP_PAGE, _SCRATCH_PAGE, _HIDDEN_PAGES = 0, 1, 3, 3 + MAX_OVERRIDES
_ABSENT_BASE: Final = _HIDDEN_BASE + _HIDDEN_PAGES * PAGE_SIZE
"""Behind the hidden pages, what answers in holes."""
_VMCB_MSR_BITMAP_ADDRESS: Final = 0x48
_WIDEST_ADDRESS: Final = 40
"""MAXPHYADDR until a CPU model says otherwise: the hidden pages lie above it for every model."""


_CR3: Final = 1 << 3
"""MOV to CR3 has checks that the engine does not make: it is done natively where nobody wants it handed over."""
SOFTWARE_INTERRUPTS: Final = 1 << 32
"""In a set of what is delivered natively: INT n, INT3, INTO. Bits 0 to 31 are the exceptions."""
DELIVER_NOTHING: Final = 0
DELIVER_EVERYTHING: Final = SOFTWARE_INTERRUPTS | 0xFFFF_FFFF & ~(1 << Vector.DB)
"""All that native delivery knows. A debug exception can be a trap behind its instruction: Python sees to those."""


class Engine:
    """One CPU and the memory that it runs in.

    :ivar state: the architectural state, a live view.
    :ivar memory: host-physical memory.
    :ivar address_space: the regions that page walks end in.
    :ivar intercepts: what is handed over beyond `ALWAYS_INTERCEPTED`.
    :raises EngineError: the platform or the version of Unicorn is not the verified one.
    """

    def __init__(self, memory: HostMemory) -> None:
        self.platform = platforms.current()
        self._library = NativeLibrary.load(self.platform)
        self.memory = memory
        self._uc, self._unicorn = self._create()
        self._record = SharedRecord()
        address = ctypes.addressof(self._record)
        self._self = address
        self._bytes: memoryview = memoryview(self._record).cast("B")
        self._words: memoryview = self._bytes.cast("Q")
        self.read_count: Callable[[], int] = partial(self._words.__getitem__, _COUNT)
        """Gives `count`, in one call of no Python function: clocks ask often."""
        code_at = SharedRecord.bytes.offset
        self._code: memoryview = self._bytes[code_at : code_at + 15]
        handle = self._uc._uch.value
        self._cpu_address = ctypes.c_uint64.from_address(handle + self.platform.uc_cpu).value
        self._env = ctypes.c_uint64.from_address(self._cpu_address + self.platform.cpu_env).value
        self.state_address = self._env
        """Address of the state image, for further views of it."""
        self.state = ProcessorState(self._env, self.platform.state)
        self._verify_state_address()
        self._map_memory()
        self._fill_record(handle)
        self._add_hooks(handle)
        self.keeps_bit_test_flags = change_code(self._record.emu_start, self.platform.bit_test_flags)
        """Do BT and its kin leave OF and AF alone everywhere?"""
        change_code(self._record.emu_start, self.platform.search_for_stores)
        self.deliveries = DeliveryLog(self._record)
        """What has been delivered to the guest, here or in Python."""
        self._run = self._library.run
        self.nmi_pending = False
        """Has the NMI pin seen an edge that no NMI has been delivered for?"""
        self.address_space = AddressSpace([])
        self.cr4_features = CR4_FEATURES
        """The bits of CR4 that may be set; setting another is #GP(0)."""
        self.set_address_space(AddressSpace([Region(Gpa(0), memory.size, RegionKind.RAM, Hpa(0), "RAM")]))
        self._arm()
        self.intercept(Intercepts())
        self._power_on = self.save_world()

    # ---------------------------------------------------------------------------------------- construction

    @staticmethod
    def _create() -> tuple[Any, Any]:
        import unicorn
        from unicorn import unicorn_const as const
        from unicorn import x86_const

        if unicorn.__version__ != platforms.UNICORN_VERSION:
            raise EngineError(
                f"Unicorn {unicorn.__version__} is installed, and simvirt is verified with "
                f"{platforms.UNICORN_VERSION} only: pip install unicorn=={platforms.UNICORN_VERSION}"
            )
        uc = unicorn.Uc(const.UC_ARCH_X86, const.UC_MODE_64, x86_const.UC_CPU_X86_BROADWELL)
        uc.ctl_set_tcg_buffer_size(_TCG_BUFFER)
        uc.ctl_exits_enabled(True)
        uc.ctl_set_tlb_mode(const.UC_TLB_VIRTUAL)
        uc.reg_write(x86_const.UC_X86_REG_FPCW, 0x37F)
        uc.reg_write(x86_const.UC_X86_REG_FPTAG, 0xFFFF)
        uc.reg_write(x86_const.UC_X86_REG_MXCSR, 0x1F80)
        return uc, unicorn

    def _verify_state_address(self) -> None:
        """The state must lie where the public context interface copies it from."""
        context = bytes(self._uc.context_save())[self.platform.context_header :]
        size = self.platform.state.size
        if len(context) != size or ctypes.string_at(self._env, size) != context:
            raise EngineError(
                f"Unicorn {platforms.UNICORN_VERSION} does not keep the CPU's state where it was verified on "
                f"{self.platform.name}"
            )

    def _map_memory(self) -> None:
        uc = self._uc
        uc.mem_map_ptr(0, self.memory.size, 7, self.memory.address)
        self._hidden_map = mmap.mmap(-1, _HIDDEN_PAGES * PAGE_SIZE)
        self._hidden = memoryview(self._hidden_map)
        uc.mem_map_ptr(
            _HIDDEN_BASE, _HIDDEN_PAGES * PAGE_SIZE, 7, ctypes.addressof(ctypes.c_uint8.from_buffer(self._hidden_map))
        )
        from unicorn.unicorn_py3.unicorn import uclib

        read, write = (ctypes.cast(callback, ctypes.c_void_p) for callback in self._library.absent_device)
        status = uclib.uc_mmio_map(uc._uch, _ABSENT_BASE, PAGE_SIZE, read, 0, write, 0)
        if status:
            raise EngineError(f"Unicorn refused the device that answers in holes with status {status}")
        bitmap = _MSR_BITMAP_PAGE * PAGE_SIZE
        self._hidden[bitmap : bitmap + 2 * PAGE_SIZE] = b"\xff" * (2 * PAGE_SIZE)
        at = _VMCB_PAGE * PAGE_SIZE + _VMCB_MSR_BITMAP_ADDRESS
        self._hidden[at : at + 8] = (_HIDDEN_BASE + bitmap).to_bytes(8, "little")

    def _fill_record(self, handle: int) -> None:
        record, platform = self._record, self.platform
        from unicorn.unicorn_py3.unicorn import uclib

        def function(name: str) -> int:
            return ctypes.cast(getattr(uclib, name), ctypes.c_void_p).value or 0

        self._uclib = uclib
        record.uc, record.cpu, record.env = handle, self._cpu_address, self._env
        record.emu_start, record.emu_stop = function("uc_emu_start"), function("uc_emu_stop")
        record.ctl, record.reg_read = function("uc_ctl"), function("uc_reg_read")
        record.leave_loop = function("cpu_loop_exit_noexc_x86_64")
        record.invalidate_range = function("tb_invalidate_phys_range_x86_64")
        self._library.survive_aborts()
        o = platform.state
        for member, offset in (
            ("eip", o.eip), ("eflags", o.eflags), ("cc_src", o.cc_src), ("cc_op", o.cc_op), ("df", o.df),
            ("hflags", o.hflags), ("segs", o.segments), ("cr", o.cr), ("efer", o.efer), ("error_code", o.error_code),
            ("dr", o.dr), ("intercept", o.intercept), ("ldt", o.ldt), ("tr", o.tr), ("gdt", o.gdt), ("idt", o.idt),
            ("pdptes", o.pdptes), ("tsc_aux", o.tsc_aux), ("fpus", o.fpus), ("fp_status", o.fp_status),
        ):  # fmt: skip
            setattr(record, f"off_env_{member}", offset)
        record.off_cpu_interrupt_request = platform.cpu_interrupt_request
        record.off_cpu_cflags_next = platform.cpu_cflags_next
        record.off_cpu_jump_cache = platform.cpu_jump_cache
        record.off_cpu_exit_request = platform.cpu_exit_request
        record.off_cpu_exception_index = platform.cpu_exception_index
        record.off_uc_bad_address = platform.uc_bad_address
        for i, distance in enumerate(platform.tlb_windows):
            record.tlb_window[i] = distance
        record.ram, record.ram_pages = self.memory.address, self.memory.pages
        record.page_flags = self.memory.page_flags.ctypes.data
        record.a20_mask = (1 << 64) - 1
        record.max_physical_bits, record.gigabyte_pages = _WIDEST_ADDRESS, 1
        record.host_physical_bits = _WIDEST_ADDRESS
        record.slice_length = SLICE

    def _add_hooks(self, handle: int) -> None:
        from unicorn import unicorn_const as const
        from unicorn import x86_const

        add = self._uclib.uc_hook_add
        hooks: list[tuple[int, str, int | None]] = [
            (const.UC_HOOK_TLB_FILL, "fill", None),
            (const.UC_HOOK_EDGE_GENERATED, "edge", None),
            (const.UC_HOOK_BLOCK, "block", None),
            (const.UC_HOOK_INTR, "interrupt", None),
            (const.UC_HOOK_INSN_INVALID, "invalid", None),
            (const.UC_HOOK_INSN, "in", x86_const.UC_X86_INS_IN),
            (const.UC_HOOK_INSN, "out", x86_const.UC_X86_INS_OUT),
            (const.UC_HOOK_INSN, "syscall", x86_const.UC_X86_INS_SYSCALL),
            (const.UC_HOOK_INSN, "sysenter", x86_const.UC_X86_INS_SYSENTER),
        ]
        for kind, name, instruction in hooks:
            hook = ctypes.c_size_t()
            extra = () if instruction is None else (ctypes.c_int(instruction),)
            status = add(
                ctypes.c_void_p(handle), ctypes.byref(hook), ctypes.c_int(kind),
                ctypes.c_void_p(self._library.hooks[name]), ctypes.c_void_p(self._self),
                ctypes.c_uint64(1), ctypes.c_uint64(0), *extra,
            )  # fmt: skip
            if status:
                raise EngineError(f"Unicorn refused the hook '{name}' with status {status}")

    def _arm(self) -> None:
        """SVM guest mode on for ever, no host randomness, a valid TR (an invalid one aborts the process)."""
        state, o = self.state, self.platform.state
        state.set_word(o.vmcb, _HIDDEN_BASE + _VMCB_PAGE * PAGE_SIZE)
        state.set_doubleword(o.old_exception, 0xFFFFFFFF)
        features = (ctypes.c_uint64 * 3).from_address(self._env + o.features)
        features[1] &= ~(1 << 30)  # RDRAND
        features[2] &= ~(1 << 18)  # RDSEED
        state.set_control_register(0, 0x11)
        state.set_control_register(4, 0)
        state.efer = 0
        state.tr = Segment(0, 0, 0xFFFF, 0x8900)
        state.refresh(cpl=0)

    # ---------------------------------------------------------------------------------------- configuration

    def set_address_space(self, space: AddressSpace) -> None:
        """Make `space` the physical address space that page walks end in.

        :raises UsageError: it has more regions than the native record has room for.
        """
        if len(space.regions) > MAX_REGIONS:
            raise UsageError(f"{len(space.regions)} memory regions: at most {MAX_REGIONS} are possible")
        for words, region in zip(self._record.regions, space.regions, strict=False):
            words.first_page, words.last_page = region.start >> PAGE_SHIFT, (region.end >> PAGE_SHIFT) - 1
            words.host_page, words.kind = region.host >> PAGE_SHIFT, region.kind
        self._record.region_count = len(space.regions)
        self.address_space = space
        self.flush_tlb()

    @property
    def ept_pointer(self) -> int:
        """The EPT pointer that guest-physical addresses go through; 0 without EPT."""
        return int(self._record.ept_pointer)

    def set_ept(self, pointer: int) -> None:
        """Let guest-physical addresses go through the EPT that this EPT pointer names (SDM Vol. 3C Table 25-9).

        With 0 they are addresses of the physical address space again.
        """
        if self._record.ept_pointer != pointer:
            self._record.ept_pointer = pointer
            self.flush_tlb()

    def set_modification_log(self, address: int) -> None:
        """Keep a page-modification log in this page of host memory (SDM Vol. 3C §29.3.6); 0 for none."""
        self._record.pml_address = address

    @property
    def modification_log_index(self) -> int:
        """The entry of the page-modification log that is written next, from 511 down; above that it is full."""
        return int(self._record.pml_index)

    @modification_log_index.setter
    def modification_log_index(self, index: int) -> None:
        self._record.pml_index = index

    def intercept(self, intercepts: Intercepts) -> None:
        """Choose what the engine hands over from now on."""
        self.intercepts = intercepts
        umip = bool(self.state.control_register(4) & int(Cr4.UMIP))
        instructions = intercepts.instructions | TABLE_LOADS | (UMIP_READS if umip else frozenset())
        if self.state.nmi_blocked:
            instructions |= _IRET
        self._arm_intercepts(instructions, intercepts, umip)

    def block_nmi(self, blocked: bool) -> None:
        """Begin or end blocking by NMI; while it lasts, IRET, which ends it, is handed over."""
        self.state.nmi_blocked = blocked
        self.intercept(self.intercepts)

    @contextmanager
    def unintercepted(self) -> Iterator[None]:
        """For a moment, hand over only what is always handed over."""
        self._arm_intercepts(frozenset(), NO_INTERCEPTS, False)
        try:
            yield
        finally:
            self.intercept(self.intercepts)

    def _arm_intercepts(self, instructions: frozenset[SvmExit], intercepts: Intercepts, smsw: bool) -> None:
        state, o = self.state, self.platform.state
        state.set_word(o.intercept, intercept_mask(instructions))
        self._record.pause_native = SvmExit.PAUSE not in instructions
        self._record.cr3_native = not intercepts.cr_writes & _CR3
        crs = intercepts.cr_reads | smsw | (intercepts.cr_writes | _CR3) << 16
        dr_reads = 0xFF if state.debug_register(7) & GENERAL_DETECT else intercepts.dr_reads
        state.set_word(o.intercept_cr_read, crs | dr_reads << 32 | intercepts.dr_writes << 48)
        state.set_doubleword(o.intercept_exceptions, 0xFFFFFFFF)

    def hands_over(self, code: SvmExit) -> bool:
        """Is an instruction, by its exit code, handed over at this moment?"""
        return bool(self.state.word(self.platform.state.intercept) >> code - INSTRUCTIONS_BASE & 1)

    def leave_far_transfers_to_engine(self) -> None:
        """Far JMP, CALL, RET and IRET are not to be events: for a VMM whose descriptor tables are shadows."""
        self._record.native_far_transfers = 1

    def follow_umip(self) -> None:
        """Intercept what CR4.UMIP forbids while it is set; called when it may have changed.

        The engine does not know that bit.
        """
        self.intercept(self.intercepts)

    def follow_model(self, model: CpuModel) -> None:
        """Be this model: the instructions that it has, the bits of CR4, MAXPHYADDR, 1-GByte pages.

        From MAXPHYADDR on bits of paging-structure entries are reserved; more than 40 bits count as 40.
        """
        self.cr4_features = model.cr4_features
        self._record.max_physical_bits = min(model.physical_bits, _WIDEST_ADDRESS)
        self._record.gigabyte_pages = model.has(Feature.PDPE1GB)
        self._lack(sum(1 << bit for bit, feature in enumerate(INSTRUCTION_FEATURES) if not model.has(feature)))
        self.flush_tlb()

    def _lack(self, features: int) -> None:
        """Instructions of these features, as bits of `INSTRUCTION_FEATURES`, are #UD from now on."""
        if self._record.absent_features != features:
            self._record.absent_features = features
            self._library.flush_translations(self._self)

    @property
    def physical_bits(self) -> int:
        """MAXPHYADDR (SDM Vol. 3A §4.1.4)."""
        return self._words[_PHYSICAL_BITS]

    def set_a20(self, is_open: bool) -> None:
        """Let bit 20 of physical addresses through, or hold it at 0."""
        mask = (1 << 64) - 1 if is_open else (1 << 64) - 1 & ~A20_BIT
        if mask != self.a20_mask:
            self.a20_mask = mask

    @property
    def a20_mask(self) -> int:
        """ANDed with each physical address; bit 20 is clear while the A20 gate is closed."""
        return int(self._record.a20_mask)

    @a20_mask.setter
    def a20_mask(self, mask: int) -> None:
        self._record.a20_mask = mask
        self.flush_tlb()

    def set_cpuid(self, leaves: Iterable[tuple[int, int | None, tuple[int, int, int, int]]]) -> None:
        """Answer these leaves of CPUID natively: (leaf, subleaf or None for any, EAX to EDX).

        CPUID of any other leaf is an event; with no leaves, every CPUID is.

        :raises UsageError: more leaves than the native record has room for.
        """
        count = 0
        for count, (leaf, subleaf, values) in enumerate(leaves, 1):
            if count > MAX_CPUID:
                raise UsageError(f"more than {MAX_CPUID} CPUID leaves")
            entry = self._record.cpuid[count - 1]
            entry.leaf, entry.subleaf, entry.any_subleaf = leaf, subleaf or 0, subleaf is None
            entry.eax, entry.ebx, entry.ecx, entry.edx = values
        self._record.cpuid_count = count
        self._record.cpuid_native = count > 0

    def set_native_tsc(self, base: int | None, *, rdtscp: bool = False) -> None:
        """RDTSC, and RDTSCP if it exists, read the instruction count plus `base` natively; None makes them events."""
        self._record.tsc_native = base is not None
        self._record.rdtscp_native = rdtscp
        self._record.tsc_base = (base or 0) & (1 << 64) - 1

    @property
    def tsc_base(self) -> int:
        """What RDTSC adds to the instruction count while it is answered natively."""
        return self._words[_TSC_BASE]

    @tsc_base.setter
    def tsc_base(self, value: int) -> None:
        self._words[_TSC_BASE] = value

    # ---------------------------------------------------------------------------------------- running

    @property
    def count(self) -> int:
        """Instructions retired."""
        return self._words[_COUNT]

    @count.setter
    def count(self, value: int) -> None:
        self._words[_COUNT] = value

    @property
    def limit(self) -> int:
        """The count at which the current run, or the last one, ends."""
        return self._words[_LIMIT]

    def retire(self) -> None:
        """Count one instruction that has been completed outside of the engine."""
        self._words[_COUNT] += 1

    def run(self, limit: int, *, window: bool = False, deliver: int = DELIVER_NOTHING) -> NativeEvent:
        """Run until an event or until exactly `limit` instructions are retired in all.

        `window` asks for an event as soon as the guest can take an interrupt. What is in `deliver` goes to the guest's
        handler and is no event, as long as nothing about its delivery is unusual. A long run returns SLICE now and
        then, at some block's end. While an order stands, LIMIT is also the moment at which it cannot be followed.
        """
        words = self._words
        words[_DELIVERABLE] = deliver
        words[_LIMIT] = limit
        words[_WINDOW] = window
        event: int = self._run(self._self)
        return _EVENTS[event]

    def give_order(self, order: StandingOrder, slept_ns: int) -> None:
        """Let the next runs take a periodic interrupt by themselves; the clock is `slept_ns` ahead of the count."""
        rises = order.rises
        ORDER_WORDS.pack_into(
            self._bytes, _ORDER,
            True, order.vector, rises.pulse, rises.period, rises.hz, slept_ns,
            order.end_port, order.end_value, order.in_service, 0,
        )  # fmt: skip

    def end_order(self) -> tuple[int, bool]:
        """Take the order back: how many interrupts have been taken by it, and is the last one still in service?"""
        words = self._words
        words[_ORDER_STANDS] = False
        return words[_ORDER_TAKEN], words[_ORDER_IN_SERVICE] != 0

    def deliver(
        self, vector: int, source: int, return_rip: int, error_code: int | None = None, cr2: int | None = None
    ) -> bool:
        """Enter the handler of an interrupt or exception, as `Cpu.deliver` does, if nothing is unusual about it.

        `source` is an `interrupts.Source`.

        :return: was it done? If not, nothing has changed.
        """
        error = -1 if error_code is None else error_code
        return bool(self._library.deliver(self._self, vector, source, return_rip, error, cr2 is not None, cr2 or 0))

    def interrupt(self, vector: int) -> bool:
        """As `deliver`, for a maskable interrupt."""
        return bool(self._library.interrupt(self._self, vector))

    def describe_guest(
        self,
        *,
        flags: int,
        window_base: int,
        gdtr: DescriptorTable,
        idtr: DescriptorTable,
        ldtr: Segment,
        tr: Segment,
    ) -> None:
        """What a de-privileged guest's processor has and the real one does not hold for it, before the calls below.

        `flags` are its IF and IOPL; `window_base` is the linear address of its VMM's own pages.
        """
        GUEST_WORDS.pack_into(
            self._bytes, _GUEST,
            flags, window_base,
            0, 0, gdtr.base, gdtr.limit, 0,
            0, 0, idtr.base, idtr.limit, 0,
            ldtr.selector, 0, ldtr.base, ldtr.limit, ldtr.flags,
            tr.selector, 0, tr.base, tr.limit, tr.flags,
        )  # fmt: skip

    @property
    def guest_flags(self) -> int:
        """IF and IOPL of the de-privileged guest, as the last of the calls below has left them."""
        return self._words[_GUEST_FLAGS]

    def deliver_to_guest(
        self, vector: int, source: int, return_rip: int, error_code: int | None = None, cr2: int | None = None
    ) -> bool:
        """As `deliver`, to the processor that a de-privileged guest believes in; its CR2 is for the caller to write."""
        error = -1 if error_code is None else error_code
        return bool(
            self._library.deliver_to_guest(self._self, vector, source, return_rip, error, cr2 is not None, cr2 or 0)
        )

    def guest_iret(self) -> bool:
        """Carry out the IRET at RIP, of a de-privileged guest's kernel, as `FarTransfers.iret` does, if it would trap.

        :return: was it done? If not, nothing has changed, and it may trap or not.
        """
        return bool(self._library.guest_iret(self._self))

    def public_register(self, name: str) -> int | tuple[int, ...]:
        """A register by the manual's name, read through Unicorn's public interface: for comparison with `state`."""
        from unicorn import x86_const

        value: int | tuple[int, ...] = self._uc.reg_read(getattr(x86_const, f"UC_X86_REG_{name}"))
        return value

    def write_public_register(self, name: str, value: int) -> None:
        """Write a register through Unicorn's public interface."""
        from unicorn import x86_const

        self._uc.reg_write(getattr(x86_const, f"UC_X86_REG_{name}"), value)

    @property
    def svm_exit(self) -> int:
        """The SVM exit code of the last event."""
        return self._words[_CODE] - 0x100

    @property
    def instruction_length(self) -> int:
        """Length of the instruction that the last event stands on, 0 if it is not known."""
        return self._words[_LENGTH]

    @property
    def verdict(self) -> Verdict:
        """The last refused fill."""
        w = self._words
        return Verdict(
            _REFUSALS[w[_REFUSAL]],
            _ACCESSES[w[_FAULT_ACCESS]],
            Gva(w[_FAULT_ADDRESS]),
            Gpa(w[_FAULT_GPA]),
            w[_FAULT_ERROR],
            w[_FAULT_LEVEL],
            bool(w[_FAULT_TO_PAGE]),
        )

    @property
    def io(self) -> tuple[Port, int, bool, int, int, int]:
        """The last I/O access: port, size in bytes, is it OUT, the value written; the instruction's opcode and length.

        The opcode is that of SDM Vol. 2A "IN", "INS", Vol. 2B "OUT", "OUTS", without prefixes.
        """
        w = self._words
        port: Port = w[_IO_PORT]  # type: ignore[assignment]  # calling Port would be a call at every exit
        return port, w[_IO_SIZE], w[_IO_IS_OUT] != 0, w[_IO_VALUE], w[_IO_OPCODE], w[_LENGTH]

    @property
    def system_call_is_sysenter(self) -> bool:
        """Was the last system call SYSENTER rather than SYSCALL?"""
        return self._words[_SYSTEM_CALL] == 2

    @property
    def status(self) -> int:
        """Status of the engine after an ENGINE_ERROR: Unicorn's, or 1000 and above for the native callbacks' own."""
        return self._words[_STATUS]

    @property
    def code_bytes(self) -> bytes:
        """Up to 15 bytes at the instruction pointer, as the last event found them."""
        return bytes(self._code[: self._words[_BYTE_COUNT]])

    def correct_code_bytes(self, found: bytes, code: bytes) -> None:
        """Where the last event found `found`, put there for the moment, stands `code` of the same length again."""
        if self.code_bytes.startswith(found):
            self._code[: len(code)] = code

    # ---------------------------------------------------------------------------------------- memory

    def translate(
        self, gva: int, access: Access, *, user: bool, commit: bool = False, explicit: bool = False
    ) -> Hpa | None:
        """Host address of a linear address, walking as the processor does; None when refused, `verdict` says why.

        `commit` sets accessed and dirty flags, as a real access does. A supervisor-mode access is `explicit` when it is
        the instruction's own; SMAP keeps an implicit one off user pages even while EFLAGS.AC is 1 (SDM Vol. 3A §4.6.1).
        """
        privilege = _USER if user else _SUPERVISOR if explicit else _SUPERVISOR_IMPLICIT
        host = self._library.translate(self._self, gva & 0xFFFF_FFFF_FFFF_FFFF, access, privilege, commit)
        return None if host < 0 else Hpa(host)

    def load_pdptes(self, cr3: int) -> PdpteLoad:
        """Load the PDPTE registers from the table that CR3 names (SDM Vol. 3A §4.4.1), or none of them."""
        outcome: int = self._library.load_pdptes(self._self, cr3)
        return _PDPTE_LOADS[outcome]

    def flush_tlb(self) -> None:
        """Drop all cached translations of addresses: page tables, regions or page flags have changed."""
        self._library.flush_tlb(self._self)

    def written(self, hpa: int, size: int) -> None:
        """Host memory was written from outside the engine: mark it dirty, and drop code translated from these bytes."""
        first, last = hpa >> PAGE_SHIFT, (hpa + max(size, 1) - 1) >> PAGE_SHIFT
        flags = self.memory.page_flags
        if first == last:
            old = int(flags[first])
            flags[first] = old | _DIRTY
            executed = bool(old & _EXECUTED)
        else:
            executed = bool((flags[first : last + 1] & int(PageFlag.EXECUTED)).any())
            flags[first : last + 1] |= int(PageFlag.DIRTY)
        if executed:
            self._library.drop_code(self._self, hpa, size)

    def answer_in_holes(self) -> None:
        """Accesses to holes are no events any more: the bus gives ones, and what is written goes nowhere."""
        self._record.absent_page = _ABSENT_BASE >> PAGE_SHIFT
        self.flush_tlb()

    def watch_page(self, hpa: int, watched: bool) -> None:
        """Refuse (or allow again) all guest writes to one host page."""
        page = hpa >> PAGE_SHIFT
        flags = self.memory.page_flags
        flags[page] = int(flags[page]) | PageFlag.WATCHED if watched else int(flags[page]) & ~PageFlag.WATCHED
        self.flush_tlb()

    def take_dirty_pages(self) -> list[int]:
        """Host pages written since the last call, in order; starts a new log."""
        import numpy as np

        flags = self.memory.page_flags
        pages = [int(page) for page in np.flatnonzero(flags & int(PageFlag.DIRTY))]
        if pages:
            flags &= 0xFF & ~int(PageFlag.DIRTY)
            self.flush_tlb()
        return pages

    def scratch(self, index: int) -> memoryview:
        """A page outside the guest's reach, for `override`."""
        at = (_SCRATCH_PAGE + index) * PAGE_SIZE
        return self._hidden[at : at + PAGE_SIZE]

    def override(self, pages: Iterable[tuple[int, bool]]) -> None:
        """Serve the given linear page numbers from the scratch pages 0, 1 …; an empty list ends it.

        Each comes with whether it may be written, too; where not, a write is treated as if there were no override.

        :raises EngineError: more pages than there are scratch pages.
        """
        count = 0
        for count, (page, writable) in enumerate(pages, 1):
            if count > MAX_OVERRIDES:
                raise EngineError(f"one instruction touches more than {MAX_OVERRIDES} device pages")
            self._record.overrides[count - 1].page = page
            self._record.overrides[count - 1].writable = writable
            self._record.overrides[count - 1].host_page = (_HIDDEN_BASE >> PAGE_SHIFT) + _SCRATCH_PAGE + count - 1
        self._record.override_count = count
        self.flush_tlb()

    def allow_implicit(self, pages: Iterable[int] = ()) -> None:
        """Let code at CPL 3 access these linear page numbers as supervisor, as segment loads do; no pages end it.

        :raises EngineError: more pages than the native record has room for.
        """
        count = 0
        for count, page in enumerate(pages, 1):
            if count > MAX_IMPLICIT:
                raise EngineError(f"one instruction reads more than {MAX_IMPLICIT} pages of descriptor tables")
            self._record.implicit_pages[count - 1] = page
        self._record.implicit_count = count
        self.flush_tlb()

    # ---------------------------------------------------------------------------------------- break- and watchpoints

    def set_breakpoints(self, addresses: Iterable[int]) -> None:
        """Return BREAKPOINT in front of each instruction at one of these linear addresses.

        :raises UsageError: more addresses than the native record has room for.
        """
        wanted = sorted(set(addresses))
        if wanted == self._record.breakpoints[: self._record.breakpoint_count]:
            return
        if len(wanted) > MAX_BREAKPOINTS:
            raise UsageError(f"{len(wanted)} breakpoints: at most {MAX_BREAKPOINTS} are possible")
        self._record.breakpoints[: len(wanted)] = wanted
        self._record.breakpoint_count = len(wanted)
        self._library.flush_translations(self._self)

    def pass_breakpoint(self, address: int) -> None:
        """Let the next run execute the instruction at this linear address, whose breakpoint has been dealt with."""
        self._record.passed_pc, self._record.passed_count = address, self.count

    def forget_passed_breakpoint(self) -> None:
        """Stop at breakpoints wherever the next run begins."""
        self._record.passed_count = NEVER

    def pass_alignment(self) -> None:
        """Let the next run execute the instruction at RIP, whose operands have been found aligned."""
        self._record.aligned = 1

    def pass_port_check(self) -> None:
        """Let the next run execute the INS or OUTS at RIP, whose port has been found allowed."""
        self._record.port_checked = 1

    def pass_floating(self) -> None:
        """Let the next run execute the x87 or SSE instruction at RIP, whose exceptions are looked after."""
        self._record.floating_passed = 1

    def follow_floating_masks(self) -> None:
        """The x87 control word or MXCSR may have changed: hand over, or no longer, what meets unmasked exceptions.

        What flushes to zero follows, too: the engine takes MXCSR.FZ for the x87's.
        """
        state, record = self.state, self._record
        state.follow_flush_to_zero()
        masks = int(state.x87_unmasked), int(state.simd_unmasked)
        if (record.x87_unmasked, record.simd_unmasked) != masks:
            record.x87_unmasked, record.simd_unmasked = masks
            self._library.flush_translations(self._self)

    def set_watches(self, watches: Iterable[tuple[int, int, bool, bool]]) -> None:
        """Refuse data accesses to the pages of these ranges of linear addresses: (first, last, reads, writes).

        :raises UsageError: more ranges than the native record has room for.
        """
        wanted = list(watches)
        if len(wanted) > MAX_WATCHES:
            raise UsageError(f"{len(wanted)} watchpoints: at most {MAX_WATCHES} are possible")
        for words, (first, last, reads, writes) in zip(self._record.watches, wanted, strict=False):
            words.first, words.last, words.accesses = first, last, reads | writes << 1
        if wanted or self._record.watch_count:
            self._record.watch_count = len(wanted)
            self.flush_tlb()

    @contextmanager
    def watches_open(self) -> Iterator[None]:
        """For a moment, let instructions access the watched pages."""
        self._record.watches_open = 1
        self.flush_tlb()
        try:
            yield
        finally:
            self._record.watches_open = 0
            self.flush_tlb()

    def note_debug_registers(self) -> None:
        """Breakpoints and watches now go by the debug registers as they are; a change is an event again."""
        for i, number in enumerate((0, 1, 2, 3, 7)):
            self._record.followed_dr[i] = self.state.debug_register(number)

    @property
    def debug_condition(self) -> int:
        """The bits of DR6 that the last debug exception of the engine stands for."""
        return int(self._record.debug_condition)

    # ---------------------------------------------------------------------------------------- snapshots and statistics

    def save_image(self) -> bytes:
        """The settled state image; the same for the same state on any host."""
        self.state.settle_floating_point()
        image = bytearray(self.state.image)
        first, end = self.platform.state.intercept, self.platform.state.intercept_exceptions + 4
        image[first:end] = bytes(end - first)  # what is handed over is a matter of the strategy, not of the state
        if self.nmi_pending:
            image[self._nmi_pending_at] |= _NMI_PENDING
        return bytes(image)

    def restore_image(self, image: bytes) -> None:
        """Put a saved state image back, with no address translation or code left over from before.

        :raises EngineError: the image has another size.
        """
        if len(image) != self.platform.state.size:
            raise EngineError(f"a state image of {len(image)} bytes: {self.platform.state.size} are needed")
        self.state.image[:] = image
        self.nmi_pending = bool(image[self._nmi_pending_at] & _NMI_PENDING)
        self.state.image[self._nmi_pending_at] &= ~_NMI_PENDING
        self.follow_umip()
        self.follow_floating_masks()
        self.drop_translations()

    def power_on(self) -> None:
        """Make room for another machine's processor: the engine is as it was when it was made."""
        self.load_world(replace(self._power_on, deliveries=DeliveryLog(self._record)))

    def save_world(self) -> World:
        """The world that is on this engine, to put back when its turn comes."""
        record = self._record
        watches = (record.watches[i] for i in range(record.watch_count))
        return World(
            bytes(self.state.image),
            tuple(bytes(self._bytes[part]) for part in WORLD_BYTES),
            self.intercepts,
            self.cr4_features,
            self.address_space,
            tuple(record.breakpoints[: record.breakpoint_count]),
            tuple((w.first, w.last, bool(w.accesses & 1), bool(w.accesses & 2)) for w in watches),
            self.deliveries,
            self.nmi_pending,
        )

    def load_world(self, world: World) -> None:
        """Put a saved world back. Translated code stays, since it goes by host-physical addresses."""
        self.state.image[:] = world.image
        lacked = self._record.absent_features
        for part, data in zip(WORLD_BYTES, world.record, strict=True):
            self._bytes[part] = data
        self.intercepts, self.cr4_features = world.intercepts, world.cr4_features
        self.deliveries, self.nmi_pending = world.deliveries, world.nmi_pending
        if self.address_space is not world.address_space:
            self.set_address_space(world.address_space)
        self.follow_floating_masks()
        if self._record.absent_features != lacked:
            self._library.flush_translations(self._self)
        self.set_breakpoints(world.breakpoints)
        self.set_watches(world.watches)
        self.flush_tlb()

    @property
    def _nmi_pending_at(self) -> int:
        return self.platform.state.hflags2 + 3

    def drop_translations(self) -> None:
        """Forget all translated code and all address translations."""
        self.memory.page_flags[:] &= 0xFF & ~int(PageFlag.EXECUTED)
        self._library.flush_translations(self._self)
        self.flush_tlb()

    @property
    def statistics(self) -> dict[str, int]:
        """Counters of the native side. They depend on the host and are for tuning only: no result may contain them."""
        names = ("fills", "cache_misses", "entries", "native_exits", "modified_blocks", "inlined_blocks")
        return {name: int(getattr(self._record, name)) for name in names}


_SUPERVISOR, _USER, _SUPERVISOR_IMPLICIT = range(3)  # engine.c's enum privilege
_NMI_PENDING: Final = 1 << 5
"""In a saved image, in the highest byte of hflags2."""
_IRET: Final = frozenset({SvmExit.IRET})
_DIRTY, _EXECUTED = int(PageFlag.DIRTY), int(PageFlag.EXECUTED)
_EVENTS: Final = tuple(NativeEvent)
_REFUSALS: Final = tuple(Refusal)
_PDPTE_LOADS: Final = tuple(PdpteLoad)
_ACCESSES: Final = {int(access): access for access in Access}
_COUNT, _LIMIT, _WINDOW, _DELIVERABLE = word("count"), word("limit"), word("window_wanted"), word("deliverable")
_PHYSICAL_BITS: Final = word("max_physical_bits")
_TSC_BASE, _IO_OPCODE = word("tsc_base"), word("io_opcode")
_CODE, _LENGTH, _STATUS = word("code"), word("instruction_length"), word("engine_status")
_REFUSAL, _FAULT_ADDRESS, _FAULT_GPA = word("refusal"), word("fault_address"), word("fault_gpa")
_FAULT_ACCESS, _FAULT_ERROR, _FAULT_LEVEL = word("fault_access"), word("fault_error"), word("fault_level")
_FAULT_TO_PAGE = word("fault_to_page")
_IO_PORT, _IO_SIZE, _IO_IS_OUT, _IO_VALUE = word("io_port"), word("io_size"), word("io_is_out"), word("io_value")
_SYSTEM_CALL, _BYTE_COUNT = word("system_call"), word("byte_count")
_ORDER, _ORDER_STANDS = SharedRecord.order_stands.offset, word("order_stands")
_ORDER_TAKEN, _ORDER_IN_SERVICE = word("order_taken"), word("order_in_service")
_GUEST, _GUEST_FLAGS = SharedRecord.guest.offset, word("guest")
