"""Random states of a processor that is about to deliver something: tables mostly in order, but now and then not."""

from __future__ import annotations

import struct
from enum import Enum
from random import Random
from typing import Final

from simvirt.machine.fills import PdpteLoad
from simvirt.machine.interrupts import Interruption, Source
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.exceptions import ERROR_CODE_VECTORS
from simvirt.x86.registers import SegmentRegister
from tests.support import tables
from tests.support.pc import Pc

MEMORY: Final = 0x2_0000
_GDT, _LDT, _IDT, _TSS, _TABLES, _CODE, _STACKS = 0x1000, 0x1800, 0x2000, 0x3F80, 0x5000, 0xA000, 0xB000
_ENTRIES: Final = 16
_FLAGS: Final = 0x3F_7FD7 & ~(1 << 8) & ~(1 << 17)  # TF is Python's, VM comes with its mode
_VM: Final = 1 << 17
_ACCESSED: Final = 1
_DIRTY, _EXECUTED, _WATCHED = 2, 1, 4


class Mode(Enum):
    """The processor's mode, and the paging that goes with it."""

    REAL = "real"
    PROTECTED = "protected"
    PROTECTED_PAGED = "protected, 32-bit paging"
    PROTECTED_PAE = "protected, PAE paging"
    VIRTUAL_8086 = "virtual-8086"
    LONG = "64-bit"
    COMPATIBILITY = "compatibility"


class Arranger:
    """Puts a test PC of `MEMORY` bytes into one state after the other."""

    def __init__(self, pc: Pc, random: Random) -> None:
        self._pc = pc
        self._random = random

    def _mostly(self, usual: int, *others: int, share: float = 0.94) -> int:
        return usual if self._random.random() < share else self._random.choice(others)

    def arrange(self, mode: Mode) -> Interruption:
        """Fill memory and registers, and choose what is to be delivered."""
        pc, random = self._pc, self._random
        pc.memory[:] = bytes(MEMORY)
        flags = pc.engine.memory.page_flags
        flags[:] = [self._mostly(_DIRTY, 0, _DIRTY | _EXECUTED, _DIRTY | _WATCHED) for _ in range(len(flags))]
        vector = random.randrange(256)
        source = random.choice(list(Source))
        self._tables(mode, vector)
        self._state(mode)
        error_code = None
        if source is Source.EXCEPTION:
            vector %= 32
            error_code = random.getrandbits(16) if vector in ERROR_CODE_VECTORS else None
            self._gate(mode, vector)
        return Interruption(vector, source, random.getrandbits(64 if mode is Mode.LONG else 32), error_code)

    # ------------------------------------------------------------------------------------------------ memory

    def _tables(self, mode: Mode, vector: int) -> None:
        pc, random = self._pc, self._random
        for base in (_GDT, _LDT):
            for index in range(_ENTRIES):
                pc.memory[base + 8 * index : base + 8 * index + 8] = self._descriptor(index)
        self._gate(mode, vector)
        tss = bytearray(random.randbytes(0x68))
        for ring in range(3):
            struct.pack_into("<IH", tss, 4 + 8 * ring, self._pointer(), self._stack_selector(ring))
        if mode in (Mode.LONG, Mode.COMPATIBILITY):
            for at in (*range(4, 28, 8), *range(36, 92, 8)):
                struct.pack_into("<Q", tss, at, self._mostly(self._pointer(), random.getrandbits(64)))
        elif random.random() < 0.3:
            for ring in range(3):
                struct.pack_into("<HH", tss, 2 + 4 * ring, self._pointer() & 0xFFFF, self._stack_selector(ring))
        pc.memory[_TSS : _TSS + len(tss)] = tss

    def _descriptor(self, index: int) -> bytes:
        """Code at even entries and data at odd ones, their DPL by the entry's number, as `_selector` expects them."""
        random = self._random
        dpl = (0, 0, 1, 3)[index // 2 % 4] if random.random() < 0.9 else random.randrange(4)
        if index % 2:
            kind = self._mostly(3, 1, 2, 7, 5)
            upper = random.choice((tables.FLAT_32, tables.FLAT_32, tables.BYTES_16, tables.BYTES_32))
        else:
            kind = self._mostly(11, 15, 9, 10, 13, share=0.8)
            upper = random.choice((tables.FLAT_64, tables.FLAT_64, tables.FLAT_32, tables.BYTES_16))
        limit = self._mostly(0xFFFFF, random.getrandbits(20), 0xFFFF)
        access = kind | self._mostly(1, 0) << 4 | dpl << 5 | self._mostly(1, 0) << 7
        return tables.segment(access, upper, self._mostly(0, random.randrange(0x4000), share=0.8), limit)

    def _selector(self, odd: int, dpl: int) -> int:
        """Of a code (`odd` is 0) or data segment whose DPL is probably `dpl`."""
        group = {0: (0, 1), 1: (2,), 2: (2,), 3: (3,)}[dpl]
        index = 2 * self._random.choice(group) + odd + 8 * self._random.randrange(2)
        return index << 3 | self._mostly(0, 4, share=0.8)

    def _stack_selector(self, ring: int) -> int:
        return self._mostly(self._selector(1, ring) | ring, self._random.getrandbits(16), 0)

    def _pointer(self) -> int:
        """Stack pointers, many of them so that the frame crosses the end of a page."""
        page = _STACKS + 0x1000 * self._random.randrange(1, 5)
        return page + self._random.choice((0, 4, 8, 10, 16, 24, 33, 0x800, self._random.randrange(0x1000)))

    def _gate(self, mode: Mode, vector: int) -> None:
        pc, random = self._pc, self._random
        if mode is Mode.REAL:
            pc.memory[_IDT + 4 * vector : _IDT + 4 * vector + 4] = random.randbytes(4)
            return
        selector = self._mostly(self._selector(0, random.choice((0, 0, 1, 3))), random.getrandbits(16), 0)
        dpl, present, target = random.choice((0, 3, 3, 3)), random.random() < 0.95, random.getrandbits(12)
        if mode in (Mode.LONG, Mode.COMPATIBILITY):
            kind = self._mostly(random.choice((14, 15)), random.randrange(16))
            offset = self._mostly(target, random.getrandbits(64))
            data = tables.gate_64(
                kind, selector, offset, dpl, present=present, ist=self._mostly(0, *range(8), share=0.7)
            )
        else:
            kind = self._mostly(random.choice((6, 7, 14, 15)), random.randrange(16))
            data = tables.gate(kind, selector, self._mostly(target, random.getrandbits(32)), dpl, present=present)
        pc.memory[_IDT + len(data) * vector : _IDT + len(data) * (vector + 1)] = data

    # ------------------------------------------------------------------------------------------------ registers

    def _state(self, mode: Mode) -> None:
        pc, random = self._pc, self._random
        state = pc.state
        for register in range(16):
            state[register] = random.getrandbits(64)
        protected = mode is not Mode.REAL
        cpl = 3 if mode is Mode.VIRTUAL_8086 else random.choice((0, 0, 1, 3, 3)) if protected else 0
        state.efer = 0
        state.set_control_register(0, 0x11 if protected else 0x10)
        state.set_control_register(4, random.choice((0, 0x200)))
        self._paging(mode)
        table = _IDT, self._mostly(0xFFF, random.randrange(0x1000))
        state.idtr = DescriptorTable(*table)
        state.gdtr = DescriptorTable(_GDT, self._mostly(8 * _ENTRIES - 1, random.randrange(8 * _ENTRIES)))
        state.ldtr = Segment(0x28, _LDT, 8 * _ENTRIES - 1, self._mostly(0x8200, 0x0200))
        state.tr = Segment(0x30, _TSS, self._mostly(0x67, random.randrange(0x68)), self._mostly(0x8900, 0x8100))
        real = mode in (Mode.REAL, Mode.VIRTUAL_8086)
        for register in SegmentRegister:
            selector = random.getrandbits(16)
            if real:
                base = 0 if register is SegmentRegister.SS else selector << 4
                state.set_segment(register, Segment(selector, base, 0xFFFF, 0xF300 if protected else 0x9300))
            else:
                big = random.choice((0x00CF_0000, 0x00CF_0000, 0)) & 0x00F0_0000
                limit = self._mostly(0xFFFFFFFF if big else 0xFFFF, random.getrandbits(16))
                dpl = cpl << 13
                state.set_segment(
                    register, Segment(selector & ~3 | cpl, self._mostly(0, 0x800), limit, 0x9300 | big | dpl)
                )
        if not real:
            code = {Mode.LONG: 0x00AF_9B00, Mode.COMPATIBILITY: 0x00CF_9B00}.get(
                mode, random.choice((0x00CF_9B00, 0x9B00))
            )
            limit = 0xFFFFFFFF if code >> 16 else 0xFFFF
            state.set_segment(
                SegmentRegister.CS, Segment(random.getrandbits(14) << 2 | cpl, 0, limit, code & 0x00F0_FF00 | cpl << 13)
            )
        state.rsp = self._mostly(self._pointer(), random.getrandbits(32), 2, 5)
        state.rip = random.getrandbits(32)
        state.eflags = random.getrandbits(22) & _FLAGS | 2 | (_VM if mode is Mode.VIRTUAL_8086 else 0)
        state.refresh(cpl=cpl)
        state.interrupt_shadow = random.random() < 0.1
        pc.engine.flush_tlb()

    def _paging(self, mode: Mode) -> None:
        """4-KByte pages, each at itself, their flags mostly set."""
        pc, state, random = self._pc, self._pc.state, self._random
        if mode in (Mode.REAL, Mode.PROTECTED):
            return
        pae = mode is not Mode.PROTECTED_PAGED and (mode is not Mode.VIRTUAL_8086 or random.random() < 0.5)
        long_mode = mode in (Mode.LONG, Mode.COMPATIBILITY)
        size, levels = (8, 4 if long_mode else 3) if pae else (4, 2)
        write = pc.write64 if pae else pc.write32
        for level in range(levels, 1, -1):
            upper = 1 if level == 3 and levels == 3 else self._mostly(0x67, 0x47, 0x63, 0x65, share=0.99)
            write(_TABLES + 0x1000 * (levels - level), _TABLES + 0x1000 * (levels - level + 1) | upper)
        for page in range(MEMORY >> 12):
            flags = self._mostly(0x67, 0x47, 0x27, 0x63, 0x65, 0x66, share=0.96)
            write(_TABLES + 0x1000 * (levels - 1) + size * page, page << 12 | flags)
        cr4 = state.cr4 | 0x20 * pae | random.choice((0, 0, 0, 1 << 20, 1 << 21))
        state.set_control_register(4, cr4)
        state.efer = 0xD00 if long_mode else 0
        state.set_control_register(0, 0x8000_0011 | random.choice((0, 1 << 16)))
        state.set_control_register(3, _TABLES)
        if state.pae_paging:
            assert self._pc.engine.load_pdptes(_TABLES) is PdpteLoad.LOADED

    # ------------------------------------------------------------------------------------------------ IRET

    def arrange_return(self, mode: Mode) -> None:
        """As `arrange`, with RIP on an IRET and a frame on the stack."""
        self.arrange(mode)
        pc, state, random = self._pc, self._pc.state, self._random
        encoding = random.choice((b"\x48\xcf", b"\x48\xcf", b"\xcf")) if mode is Mode.LONG else b"\xcf"
        encoding = encoding if random.random() < 0.95 else b"\x66\xcf"
        state.rip = _CODE
        pc.memory[_CODE : _CODE + len(encoding)] = encoding
        pc.engine.memory.page_flags[_CODE >> 12] = _DIRTY
        state.rsp = self._pointer()
        state.eflags &= ~self._mostly(1 << 14, 0)
        size = (
            8
            if encoding[0] == 0x48
            else 2
            if encoding[0] == 0x66 or not state.segment(SegmentRegister.CS).flags >> 21 & 3
            else 4
        )
        cpl = int(state.cpl)
        rpl = self._mostly(random.choice([ring for ring in (0, 1, 3) if ring >= cpl]), 0, share=0.95)
        words = (
            self._mostly(random.getrandbits(12), random.getrandbits(8 * size)),
            self._mostly(self._selector(0, rpl) & ~3 | rpl, random.getrandbits(16), 0),
            random.getrandbits(22) & ~(1 << 8) & ~self._mostly(_VM, 0),
            self._mostly(self._pointer(), random.getrandbits(8 * size)),
            self._mostly(self._selector(1, rpl) & ~3 | rpl, random.getrandbits(16), 0, rpl),
        )
        data = b"".join((word & (1 << 8 * size) - 1).to_bytes(size, "little") for word in words)
        at = state.rsp + (0 if mode is Mode.LONG else state.segment_base(SegmentRegister.SS))
        pc.memory[at : at + len(data)] = data
        pc.engine.drop_translations()
