"""The processor's state as a typed view over the engine's state image.

The engine keeps the architectural state of its CPU in one image of some 5.6 KB. This view reads and writes it in place,
in tens of nanoseconds a field, where the engine's own interface takes microseconds. The image is *settled* whenever the
engine is not running: EFLAGS stands in one piece, not in the engine's lazy form.

What the engine derives from the state and caches beside it (its ``hflags``: CPL, code size, paging mode …) has to be
renewed after a write to a segment register, EFLAGS.VM or CR0: `ProcessorState.refresh` does it, by the rules that the
processor itself follows.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from simvirt.x86.flags import Cr0, Cr4, Efer, Eflags
from simvirt.x86.registers import GeneralRegister, Ring, SegmentRegister
from simvirt.x86.segments import HIDDEN_FLAGS_MASK, Descriptor

if TYPE_CHECKING:
    from simvirt.machine.platforms import StateOffsets

_ARITHMETIC: Final = int(Eflags.ARITHMETIC)
_CR0_PE: Final = int(Cr0.PE)
_VM: Final = int(Eflags.VM)
_IF: Final = int(Eflags.IF)
_RF: Final = int(Eflags.RF)
_DF: Final = int(Eflags.DF)

_RINGS: Final = tuple(Ring)
_CR0_PG: Final = int(Cr0.PG)
_CR4_PAE: Final = int(Cr4.PAE)
_CR4_OSFXSR: Final = int(Cr4.OSFXSR)
_CR4_SMAP: Final = int(Cr4.SMAP)
_LMA_ACTIVE: Final = int(Efer.LMA)

PDPTE_COUNT: Final = 4
"""PDPTE registers."""

_EXCEPTION_FLAGS: Final = 0x3D
"""Of the engine's flags: invalid operation, division by zero, overflow, underflow, inexact."""
_FLUSHED_TO_ZERO: Final = 0x80
_UNDERFLOW_AND_INEXACT: Final = 0x30
_EXCEPTION_MASKS: Final = 0x3F
_STATUS_SUMMARY: Final = 0x8080
"""B and ES."""
_FLUSHES: Final = 0x8800
"""FZ and UM of MXCSR."""

_SIX_ZEROS: Final = bytes(6)
_SIXTEEN_ZEROS: Final = bytes(16)
_VECTOR_SLOT: Final = 64
"""Bytes that the engine keeps for each SSE register, of which there are 16."""
_BEYOND_128_BITS: Final = bytes(_VECTOR_SLOT - 16)

# Where a segment register lies in the array of them, in doublewords.
_CS_WORDS, _SS_WORDS, _DS_WORDS = (
    6 * int(register) for register in (SegmentRegister.CS, SegmentRegister.SS, SegmentRegister.DS)
)

# Bits of the engine's hflags (QEMU's target/i386/cpu.h).
_INHIBIT_IRQ: Final = 1 << 3
_SHADOW_OF_MOV_SS: Final = 1 << 30
"""In hflags2: ours (native/special.c)."""
_IGNNE: Final = 1 << 28
"""In hflags2, too."""
_NMI_BLOCKED: Final = 1 << 2
"""In hflags2: the engine's own, which its IRET clears."""
_CS32: Final = 1 << 4
_SS32: Final = 1 << 5
_ADDSEG: Final = 1 << 6
_PE: Final = 1 << 7
_MP_SHIFT: Final = 9
_LMA: Final = 1 << 14
_CS64: Final = 1 << 15
_SVM_GUEST: Final = 1 << 21
_OSFXSR: Final = 1 << 22
_SMAP: Final = 1 << 23
_IO_BREAKPOINT: Final = 1 << 24
_ALWAYS: Final = _SVM_GUEST | _IO_BREAKPOINT
"""SVM guest mode, the source of exact exits, and the I/O breakpoint test, which stops the engine behind IN and OUT."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment register with its hidden part (SDM Vol. 3A §3.4.3 "Segment Registers")."""

    selector: int
    base: int
    limit: int
    """In bytes, whatever the descriptor's granularity."""
    flags: int
    """The attributes as they stand in a descriptor's high doubleword (`HIDDEN_FLAGS_MASK`)."""

    @classmethod
    @lru_cache(maxsize=4096)
    def from_descriptor(cls, selector: int, descriptor: Descriptor) -> Segment:
        """What loading `selector` with `descriptor` leaves in the register."""
        return cls(selector, descriptor.base, descriptor.limit & 0xFFFFFFFF, descriptor.flags & HIDDEN_FLAGS_MASK)

    @classmethod
    def real_mode(cls, selector: int) -> Segment:
        """A 64-KByte data segment at 16 times `selector`, as in real-address mode (SDM Vol. 3B §21.1.1)."""
        return cls(selector, selector << 4, 0xFFFF, 0x9300)

    @classmethod
    def null_stack(cls, cpl: int) -> Segment:
        """SS with a null selector, as 64-bit mode allows it outside of ring 3: its hidden DPL is CPL."""
        return cls(cpl, 0, 0, cpl << 13)

    @property
    def dpl(self) -> int:
        """Descriptor privilege level, 0 to 3 (SDM Vol. 3A §5.5)."""
        return self.flags >> 13 & 3

    @property
    def present(self) -> bool:
        """The P flag; 0 after a null selector was loaded."""
        return bool(self.flags & 0x8000)

    @property
    def is_16_bit_tss(self) -> bool:
        """A task-state segment of the 80286's kind, available or busy."""
        return self.flags >> 8 & 0x1D == 1

    @property
    def default_size(self) -> bool:
        """The D/B flag: 32-bit operands, addresses and stack pointer."""
        return bool(self.flags & 1 << 22)

    @property
    def long(self) -> bool:
        """The L flag: 64-bit code."""
        return bool(self.flags & 1 << 21)


@dataclass(frozen=True, slots=True)
class DescriptorTable:
    """GDTR or IDTR (SDM Vol. 3A §2.4.1, §2.4.3)."""

    base: int
    """Linear address of the table."""
    limit: int
    """The table's last byte, counted from its base."""


class ProcessorState:
    """A live view of the state of a CPU; see the module's text."""

    __slots__ = ("_bytes", "_cr", "_d", "_eflags", "_hflags", "_o", "_q", "_rip", "image")

    def __init__(self, address: int, offsets: StateOffsets) -> None:
        self._o = offsets
        buffer = (ctypes.c_uint8 * offsets.size).from_address(address)
        self.image = memoryview(buffer).cast("B")
        self._q = self.image.cast("Q")
        self._d = self.image.cast("I")
        self._rip = offsets.eip // 8
        self._eflags = offsets.eflags // 8
        self._hflags = offsets.hflags // 4
        self._cr = offsets.cr // 8

    # ---------------------------------------------------------------------------------------- general registers

    def __getitem__(self, register: int) -> int:
        """A general register, all 64 bits."""
        return self._q[register]

    def __setitem__(self, register: int, value: int) -> None:
        self._q[register] = value

    def register(self, register: int, size: int) -> int:
        """The low `size` bytes of a general register."""
        return self._q[register] & ((1 << 8 * size) - 1)

    def set_register(self, register: int, size: int, value: int) -> None:
        """Write a general register as an instruction of that operand size does: 32-bit writes clear the upper half."""
        if size >= 4:
            self._q[register] = value & (0xFFFFFFFF if size == 4 else 0xFFFF_FFFF_FFFF_FFFF)
        else:
            mask = (1 << 8 * size) - 1
            self._q[register] = self._q[register] & ~mask | value & mask

    @property
    def rip(self) -> int:
        """The instruction pointer, all 64 bits."""
        return self._q[self._rip]

    @rip.setter
    def rip(self, value: int) -> None:
        self._q[self._rip] = value

    @property
    def rsp(self) -> int:
        """The stack pointer, all 64 bits."""
        return self._q[GeneralRegister.RSP]

    @rsp.setter
    def rsp(self, value: int) -> None:
        self._q[GeneralRegister.RSP] = value

    # ---------------------------------------------------------------------------------------- flags

    def step_over(self, length: int) -> int:
        """Move RIP behind an instruction that is complete, and end RF and an interrupt shadow with it.

        :return: EFLAGS as the instruction leaves them, IF and IOPL aside where they are virtual.
        """
        q, hflags = self._q, self._d[self._hflags]
        rip = q[self._rip] + length
        q[self._rip] = rip & (0xFFFF_FFFF_FFFF_FFFF if hflags & _CS64 else 0xFFFF_FFFF)
        if hflags & _INHIBIT_IRQ:
            self._d[self._hflags] = hflags & ~_INHIBIT_IRQ
        eflags: int = q[self._eflags]
        if eflags & _RF:
            q[self._eflags] = eflags = eflags & ~_RF
        return eflags

    @property
    def eflags(self) -> int:
        """EFLAGS, the arithmetic flags included (SDM Vol. 1 §3.4.3)."""
        return self._q[self._eflags]

    @eflags.setter
    def eflags(self, value: int) -> None:
        """Write EFLAGS without checks; `refresh` follows when VM may have changed."""
        o = self._o
        self._q[self._eflags] = value | 2
        self._q[o.cc_src // 8] = value & _ARITHMETIC
        self._d[o.df // 4] = 0xFFFFFFFF if value & _DF else 1

    @property
    def interrupt_flag(self) -> bool:
        """EFLAGS.IF: are maskable interrupts enabled?"""
        return bool(self._q[self._eflags] & _IF)

    @interrupt_flag.setter
    def interrupt_flag(self, value: bool) -> None:
        flags = self._q[self._eflags]
        self._q[self._eflags] = flags | _IF if value else flags & ~_IF

    @property
    def interruptible(self) -> bool:
        """Are maskable interrupts enabled, and does no shadow hold them back?"""
        return bool(self._q[self._eflags] & _IF) and not self._d[self._hflags] & _INHIBIT_IRQ

    # ---------------------------------------------------------------------------------------- privilege and mode

    @property
    def cpl(self) -> Ring:
        """Current privilege level (SDM Vol. 3A §5.5)."""
        return _RINGS[self._d[self._hflags] & 3]

    @property
    def interrupt_shadow(self) -> bool:
        """Blocking by STI or by MOV SS for one instruction (SDM Vol. 3A §6.8.1, §6.8.3)."""
        return bool(self._d[self._hflags] & _INHIBIT_IRQ)

    @interrupt_shadow.setter
    def interrupt_shadow(self, value: bool) -> None:
        flags = self._d[self._hflags]
        self._d[self._hflags] = flags | _INHIBIT_IRQ if value else flags & ~_INHIBIT_IRQ

    @property
    def shadow_of_mov_ss(self) -> bool:
        """While `interrupt_shadow` is set: is it that of MOV SS and its kin, which holds debug exceptions back, too?"""
        return bool(self._d[self._o.hflags2 // 4] & _SHADOW_OF_MOV_SS)

    @shadow_of_mov_ss.setter
    def shadow_of_mov_ss(self, value: bool) -> None:
        flags = self._d[self._o.hflags2 // 4]
        self._d[self._o.hflags2 // 4] = flags | _SHADOW_OF_MOV_SS if value else flags & ~_SHADOW_OF_MOV_SS

    @property
    def nmi_blocked(self) -> bool:
        """Has an NMI been delivered, and no IRET been executed since (SDM Vol. 3A §6.7.1)?"""
        return bool(self._d[self._o.hflags2 // 4] & _NMI_BLOCKED)

    @nmi_blocked.setter
    def nmi_blocked(self, value: bool) -> None:
        """Write it; the engine then has to be told (`Engine.block_nmi`)."""
        flags = self._d[self._o.hflags2 // 4]
        self._d[self._o.hflags2 // 4] = flags | _NMI_BLOCKED if value else flags & ~_NMI_BLOCKED

    @property
    def protected_mode(self) -> bool:
        """CR0.PE; set in virtual-8086 and IA-32e mode too."""
        return bool(self.cr0 & _CR0_PE)

    @property
    def virtual_8086_mode(self) -> bool:
        """EFLAGS.VM (SDM Vol. 3B §21.2)."""
        return bool(self._q[self._eflags] & _VM)

    @property
    def long_mode(self) -> bool:
        """IA32_EFER.LMA: IA-32e mode is active."""
        return bool(self._q[self._o.efer // 8] & _LMA_ACTIVE)

    @property
    def code_64(self) -> bool:
        """64-bit mode: IA-32e mode with a 64-bit code segment."""
        return bool(self._d[self._hflags] & _CS64)

    @property
    def bits(self) -> int:
        """Default size of the code: 16, 32 or 64."""
        flags = self._d[self._hflags]
        return 64 if flags & _CS64 else 32 if flags & _CS32 else 16

    def refresh(self, cpl: int | None = None) -> None:
        """Renew what the engine derives from segments, EFLAGS, CR0, CR4 and EFER.

        `cpl` is given when it changes; otherwise it stays. In real-address mode it is 0, in virtual-8086 mode 3.
        """
        old = self._d[self._hflags]
        eflags = self._q[self._eflags]
        cr0 = self.cr0
        o = self._o
        flags_at = o.segments // 4 + 5
        cs_flags = self._d[flags_at + _CS_WORDS]
        ss_flags = self._d[flags_at + _SS_WORDS]
        protected = bool(cr0 & _CR0_PE)
        virtual_8086 = bool(eflags & _VM)
        level = 0 if not protected else 3 if virtual_8086 else old & 3 if cpl is None else cpl
        new = _ALWAYS | level | old & _INHIBIT_IRQ
        new |= (cr0 >> 1 & 7) << _MP_SHIFT
        if protected:
            new |= _PE
        cr4 = self.cr4
        if cr4 & _CR4_OSFXSR:
            new |= _OSFXSR
        if cr4 & _CR4_SMAP:
            new |= _SMAP
        long_mode = self.long_mode
        if long_mode:
            new |= _LMA
        if long_mode and cs_flags & 1 << 21:
            new |= _CS32 | _SS32 | _CS64
        else:
            if cs_flags & 1 << 22:
                new |= _CS32
            if ss_flags & 1 << 22:
                new |= _SS32
            if not protected or virtual_8086 or not new & _CS32:
                new |= _ADDSEG
            else:
                base_at = o.segments // 8 + 1
                q = self._q
                if q[base_at] | q[base_at + _SS_WORDS // 2] | q[base_at + _DS_WORDS // 2]:
                    new |= _ADDSEG
        self._d[self._hflags] = new

    # ---------------------------------------------------------------------------------------- segments

    def segment(self, register: int) -> Segment:
        """A segment register with its hidden part; `register` is a `SegmentRegister`."""
        at = self._o.segments + 24 * register
        return self._segment(at)

    def set_segment(self, register: int, segment: Segment) -> None:
        """Write a segment register with its hidden part, unchecked; `refresh` follows."""
        self._set_segment(self._o.segments + 24 * register, segment)

    def selector(self, register: int) -> int:
        """The visible part of a segment register."""
        return self._d[(self._o.segments + 24 * register) // 4] & 0xFFFF

    def segment_base(self, register: int) -> int:
        """The base address in a segment register's hidden part."""
        return self._q[(self._o.segments + 24 * register) // 8 + 1]

    def _segment(self, at: int) -> Segment:
        d = at // 4
        return Segment(self._d[d] & 0xFFFF, self._q[at // 8 + 1], self._d[d + 4], self._d[d + 5] & HIDDEN_FLAGS_MASK)

    def _set_segment(self, at: int, segment: Segment) -> None:
        d = at // 4
        self._d[d] = segment.selector
        self._q[at // 8 + 1] = segment.base
        self._d[d + 4] = segment.limit
        self._d[d + 5] = segment.flags

    @property
    def tr(self) -> Segment:
        """The task register (SDM Vol. 3A §2.4.4); its TSS never shows as busy, see the setter."""
        return self._segment(self._o.tr)

    @tr.setter
    def tr(self, segment: Segment) -> None:
        """Load the task register. The engine knows an available TSS only, so the busy bit lives in memory alone."""
        flags = segment.flags & ~0x200 if segment.flags & 0x8000 else 0x8900
        self._set_segment(self._o.tr, Segment(segment.selector, segment.base, segment.limit, flags))

    @property
    def ldtr(self) -> Segment:
        """LDTR, the segment that holds the LDT (SDM Vol. 3A §2.4.2)."""
        return self._segment(self._o.ldt)

    @ldtr.setter
    def ldtr(self, segment: Segment) -> None:
        self._set_segment(self._o.ldt, segment)

    @property
    def gdtr(self) -> DescriptorTable:
        """GDTR (SDM Vol. 3A §2.4.1)."""
        at = self._o.gdt
        return DescriptorTable(self._q[at // 8 + 1], self._d[at // 4 + 4])

    @gdtr.setter
    def gdtr(self, table: DescriptorTable) -> None:
        at = self._o.gdt
        self._q[at // 8 + 1], self._d[at // 4 + 4] = table.base, table.limit

    @property
    def idtr(self) -> DescriptorTable:
        """IDTR (SDM Vol. 3A §2.4.3)."""
        at = self._o.idt
        return DescriptorTable(self._q[at // 8 + 1], self._d[at // 4 + 4])

    @idtr.setter
    def idtr(self, table: DescriptorTable) -> None:
        at = self._o.idt
        self._q[at // 8 + 1], self._d[at // 4 + 4] = table.base, table.limit

    # ----------------------------------------------------------------------------------- control, debug, model-specific

    def control_register(self, number: int) -> int:
        """CR0, CR2, CR3 or CR4 (SDM Vol. 3A §2.5)."""
        return self._q[self._cr + number]

    def set_control_register(self, number: int, value: int) -> None:
        """Write CR0, CR2, CR3 or CR4, unchecked; `refresh` and a TLB flush follow where they matter."""
        self._q[self._cr + number] = value

    @property
    def cr0(self) -> int:
        """CR0: operating mode and states of the processor."""
        return self._q[self._cr]

    @property
    def cr2(self) -> int:
        """CR2: the linear address of the last page fault."""
        return self._q[self._cr + 2]

    @property
    def cr3(self) -> int:
        """CR3: where the paging-structure hierarchy begins."""
        return self._q[self._cr + 3]

    @property
    def cr4(self) -> int:
        """CR4: architectural extensions that are enabled."""
        return self._q[self._cr + 4]

    @property
    def pae_paging(self) -> bool:
        """Is PAE paging in use, and with it the PDPTE registers (SDM Vol. 3A §4.1.1)?"""
        return bool(self.cr0 & _CR0_PG and self.cr4 & _CR4_PAE) and not self.long_mode

    @property
    def pdptes(self) -> tuple[int, ...]:
        """The four PDPTE registers of PAE paging (SDM Vol. 3A §4.4.1)."""
        at = self._o.pdptes // 8
        return tuple(self._q[at : at + PDPTE_COUNT])

    @pdptes.setter
    def pdptes(self, entries: tuple[int, ...]) -> None:
        """Write them, unchecked; a TLB flush follows."""
        for at, entry in enumerate(entries, self._o.pdptes // 8):
            self._q[at] = entry

    @property
    def efer(self) -> int:
        """IA32_EFER (SDM Vol. 3A §2.2.1)."""
        return self._q[self._o.efer // 8]

    @efer.setter
    def efer(self, value: int) -> None:
        self._q[self._o.efer // 8] = value

    @property
    def floating_point(self) -> bytes:
        """The part of the image that holds the x87, MMX and SSE registers, to be compared and put back whole."""
        self.settle_floating_point()
        return bytes(self.image[self._o.efer + 8 : self._o.sysenter_cs])

    @floating_point.setter
    def floating_point(self, value: bytes) -> None:
        self.image[self._o.efer + 8 : self._o.sysenter_cs] = value

    def settle_floating_point(self) -> None:
        """Clear what lies among the x87 registers without being state.

        The six bytes behind each x87 register's ten, the part of each SSE register beyond its 128 bits, and the
        engine's scratch registers hold what the host left there (PSHUFB does it). Exceptions that the engine has
        accumulated go where they belong.
        """
        image, o = self.image, self._o
        self.settle_x87_status()
        self.settle_mxcsr()
        for at in range(o.xmm + 16, o.xmm + 16 * _VECTOR_SLOT, _VECTOR_SLOT):
            image[at : at + _VECTOR_SLOT - 16] = _BEYOND_128_BITS
        scratch = o.xmm + 16 * _VECTOR_SLOT
        image[scratch : o.sysenter_cs] = bytes(o.sysenter_cs - scratch)
        for at in range(o.fpregs, o.fpregs + 128, 16):
            image[at + 10 : at + 16] = _SIX_ZEROS
        image[o.ft0 : o.ft0 + 16] = _SIXTEEN_ZEROS

    # What floating-point operations have met accumulates in the engine's `float_exception_flags`, the third byte of
    # each of its `float_status`, in the places that the bits have in MXCSR and in the x87 status word; the fifth makes
    # it flush to zero (fpu/softfloat-types.h of QEMU 5.0).

    def take_x87_exceptions(self) -> int:
        """The x87 exceptions accumulated since the last call, as bits of the status word."""
        return self._take_exceptions(self._o.fp_status + 2)

    def take_simd_exceptions(self) -> int:
        """The SSE exceptions accumulated since the last call, as bits of MXCSR."""
        return self._take_exceptions(self._o.sse_status + 2)

    def _take_exceptions(self, at: int) -> int:
        met = self.image[at]
        if not met:
            return 0
        self.image[at] = 0
        return met & _EXCEPTION_FLAGS | (_UNDERFLOW_AND_INEXACT if met & _FLUSHED_TO_ZERO else 0)

    def settle_x87_status(self, met: int = 0) -> None:
        """Add the accumulated exceptions, and `met`, to the x87 status word; ES and B follow (SDM Vol. 1 §8.1.3)."""
        d = self._o.fpus // 4
        status, control = self._d[d] & 0xFFFF, self._d[d] >> 16
        status |= self.take_x87_exceptions() | met
        unmasked = status & ~control & _EXCEPTION_MASKS
        status = status | _STATUS_SUMMARY if unmasked else status & ~_STATUS_SUMMARY
        self._d[d] = control << 16 | status

    def settle_mxcsr(self, met: int = 0) -> None:
        """Add the accumulated exceptions, and `met`, to MXCSR (SDM Vol. 1 §10.2.3)."""
        self._d[self._o.mxcsr // 4] |= self.take_simd_exceptions() | met

    @property
    def mxcsr(self) -> int:
        """MXCSR, but for what the engine has accumulated."""
        return self._d[self._o.mxcsr // 4]

    @property
    def x87_error(self) -> bool:
        """ES of the x87 status word: an exception that is not masked is pending."""
        return bool(self.image[self._o.fpus] & 0x80)

    @property
    def ignne(self) -> bool:
        """IGNNE#: while CR0.NE is 0, pending x87 exceptions are not reported."""
        return bool(self._d[self._o.hflags2 // 4] & _IGNNE)

    @ignne.setter
    def ignne(self, value: bool) -> None:
        flags = self._d[self._o.hflags2 // 4]
        self._d[self._o.hflags2 // 4] = flags | _IGNNE if value else flags & ~_IGNNE

    def assert_ignne(self) -> None:
        """The board asserts IGNNE#, which lasts as long as the error that FERR# has told of (SDM Vol. 1 §D.2.1)."""
        self.settle_x87_status()
        self.ignne = self.x87_error

    @property
    def x87_unmasked(self) -> bool:
        """Does the x87 control word unmask an exception?"""
        return self.image[self._o.fpuc] & _EXCEPTION_MASKS != _EXCEPTION_MASKS

    @property
    def simd_unmasked(self) -> bool:
        """Does MXCSR unmask an exception?"""
        return self.mxcsr >> 7 & _EXCEPTION_MASKS != _EXCEPTION_MASKS

    def follow_flush_to_zero(self) -> None:
        """Results are flushed to zero by MXCSR.FZ while underflow is masked, those of the x87 never."""
        self.image[self._o.fp_status + 4] = 0
        self.image[self._o.sse_status + 4] = self.mxcsr & _FLUSHES == _FLUSHES

    def debug_register(self, number: int) -> int:
        """DR0 to DR3, DR6 or DR7 (SDM Vol. 3B §18.2)."""
        return self._q[self._o.dr // 8 + number]

    def set_debug_register(self, number: int, value: int) -> None:
        """Write a debug register, unchecked; breakpoints are not armed by it."""
        self._q[self._o.dr // 8 + number] = value

    def word(self, offset: int) -> int:
        """The 64-bit word at a byte offset of the image (`platforms.StateOffsets`)."""
        return self._q[offset // 8]

    def set_word(self, offset: int, value: int) -> None:
        """Write the 64-bit word at a byte offset of the image."""
        self._q[offset // 8] = value

    def doubleword(self, offset: int) -> int:
        """The 32-bit word at a byte offset of the image."""
        return self._d[offset // 4]

    def set_doubleword(self, offset: int, value: int) -> None:
        """Write the 32-bit word at a byte offset of the image."""
        self._d[offset // 4] = value

    @property
    def error_code(self) -> int:
        """The error code of the exception that the engine reported last."""
        return self._d[self._o.error_code // 4]
