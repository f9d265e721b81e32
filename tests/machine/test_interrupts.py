"""Interrupts and exceptions through the 32-bit IDT (SDM Vol. 3A §6.12, §6.13; Vol. 2A "INT n/INTO/INT3/INT1")."""

from __future__ import annotations

import pytest

from simvirt.machine.faults import ProcessorFault
from simvirt.machine.interrupts import Source
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.delivery import EXCEPTION, EXTERNAL, SOFTWARE, deliver, failure
from tests.support.paging import PRESENT, USER, paged_pc, protect
from tests.support.pc import (
    CODE,
    CS,
    CS0,
    CS0_CONFORMING,
    CS1,
    CS3,
    CS16,
    DS,
    DS0,
    DS1,
    DS3,
    DS16,
    ES,
    FS,
    GDT,
    GS,
    HANDLERS,
    IDT,
    INNER_STACK,
    LDT,
    LDT_SELECTOR,
    NOT_PRESENT_CODE,
    NOT_PRESENT_DATA,
    SPARE,
    SS,
    STACK,
    TR,
    TSS,
    USER_STACK,
    Pc,
    flat_pc,
)  # fmt: skip

IF, TF, NT, RF, VM, AC, DF = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 17, 1 << 18, 1 << 10
RIP = 0x1234
HANDLER = HANDLERS + 16 * 0x40


def user_pc() -> Pc:
    pc = flat_pc()
    pc.user()
    return pc


# ------------------------------------------------------------------------------------------------ the frame


def test_same_privilege_pushes_flags_cs_and_eip() -> None:
    pc = flat_pc()
    pc.state.eflags = 0x246
    deliver(pc, 0x40)
    assert pc.state.rip == HANDLER
    assert pc.state.rsp == STACK - 12
    assert pc.stack(3) == [RIP, CS0, 0x246]
    assert pc.selectors()[CS] == CS0


def test_error_code_is_pushed_last() -> None:
    pc = flat_pc()
    deliver(pc, 13, EXCEPTION, error_code=0xABCD)
    assert pc.stack(4) == [0xABCD, RIP, CS0, 2 | RF]


def test_inner_privilege_takes_the_stack_from_the_tss_and_saves_the_old_one() -> None:
    pc = user_pc()
    pc.state.eflags = 0x3202
    deliver(pc, 0x40)
    assert pc.state.cpl == 0
    assert (pc.state.rsp, pc.state.selector(SS), pc.state.selector(CS)) == (INNER_STACK - 20, DS0, CS0)
    assert pc.stack(5) == [RIP, CS3, 0x3202, USER_STACK, DS3]
    assert [pc.state.selector(r) for r in (ES, DS, FS, GS)] == [DS3] * 4, "the data segments stay"


def test_ring_1_handler_uses_the_stack_for_ring_1() -> None:
    pc = user_pc()
    pc.set_gate(0x40, tables.gate(tables.INT_GATE, CS1, HANDLER))
    deliver(pc, 0x40)
    assert pc.state.cpl == 1
    assert (pc.state.selector(SS), pc.state.selector(CS), pc.state.rsp) == (DS1, CS1, INNER_STACK - 0x1000 - 20)


def test_conforming_handler_keeps_privilege_and_stack() -> None:
    pc = user_pc()
    pc.set_gate(0x40, tables.gate(tables.INT_GATE, CS0_CONFORMING, HANDLER))
    deliver(pc, 0x40)
    assert pc.state.cpl == 3
    assert pc.state.selector(CS) == CS0_CONFORMING | 3
    assert pc.state.rsp == USER_STACK - 12
    assert pc.stack(3) == [RIP, CS3, 2]


def test_16_bit_gate_pushes_words() -> None:
    pc = user_pc()
    pc.set_gate(0x40, tables.gate(tables.INT_GATE_16, CS0, 0x4567))
    pc.state.eflags = 0x8_0202 & 0xFFFF | AC
    deliver(pc, 0x40, rip=0x1_2345)
    assert pc.state.rip == 0x4567
    assert pc.state.rsp == INNER_STACK - 10
    assert pc.stack(5, 2) == [0x2345, CS3, 0x202, USER_STACK & 0xFFFF, DS3]


def test_16_bit_gate_with_an_error_code() -> None:
    pc = flat_pc()
    pc.set_gate(13, tables.gate(tables.TRAP_GATE_16, CS0, 0x4567))
    deliver(pc, 13, EXCEPTION, error_code=0x18)
    assert pc.state.rsp == STACK - 8
    assert pc.stack(4, 2) == [0x18, RIP, CS0, 2]


def test_16_bit_tss() -> None:
    pc = user_pc()
    pc.write(TSS, tables.tss_16(0x9000, DS0))
    pc.state.tr = Segment(TR, TSS, 0x2B, 0x8100)
    deliver(pc, 0x40)
    assert (pc.state.rsp, pc.state.selector(SS)) == (0x9000 - 20, DS0)
    assert pc.stack(5) == [RIP, CS3, 2, USER_STACK, DS3]


def test_16_bit_stack_segment_keeps_the_upper_half_of_esp() -> None:
    """SP wraps in 16 bits; bits 31:16 of ESP are left alone."""
    pc = flat_pc()
    pc.load_segment(SS, DS16)
    pc.state.rsp = 0xABCD_8000
    pc.state.refresh()
    deliver(pc, 0x40)
    assert pc.state.rsp == 0xABCD_7FF4
    assert [pc.read(0x7FF4 + 4 * i, 4) for i in range(3)] == [RIP, CS0, 2]


def test_gate_marks_its_segments_accessed() -> None:
    pc = user_pc()
    for selector in (CS0, DS0):
        assert not pc.read(GDT + selector + 5, 1) & 1
    deliver(pc, 0x40)
    for selector in (CS0, DS0):
        assert pc.read(GDT + selector + 5, 1) & 1


def test_code_segment_of_the_ldt() -> None:
    pc = flat_pc()
    pc.write(LDT + 8, tables.segment(tables.CODE_R0))
    pc.state.ldtr = Segment(LDT_SELECTOR, LDT, 0x3F, 0x8200)
    pc.set_gate(0x40, tables.gate(tables.INT_GATE, 0x0C, HANDLER))
    deliver(pc, 0x40)
    assert pc.state.selector(CS) == 0x0C


# ------------------------------------------------------------------------------------------------ flags


@pytest.mark.parametrize(("kind", "cleared"), [(tables.INT_GATE, IF | TF | NT | RF), (tables.TRAP_GATE, TF | NT | RF)])
def test_flags_that_a_gate_clears(kind: int, cleared: int) -> None:
    """§6.12.1.3; RF by Vol. 3B §18.3.1.1; everything else stays, AC and DF too."""
    pc = flat_pc()
    pc.set_gate(0x40, tables.gate(kind, CS0, HANDLER))
    flags = 2 | IF | TF | NT | RF | AC | DF | 0x8D5 | 0x3000
    pc.state.eflags = flags
    deliver(pc, 0x40)
    assert pc.state.eflags == flags & ~cleared
    assert pc.stack(3)[2] == flags


@pytest.mark.parametrize(
    ("vector", "source", "rf"),
    [
        (0, EXCEPTION, True), (6, EXCEPTION, True), (13, EXCEPTION, True), (14, EXCEPTION, True),
        (1, EXCEPTION, False),  # single-step trap: the instruction is complete
        (3, SOFTWARE, False), (4, SOFTWARE, False), (0x80, SOFTWARE, False), (0x40, EXTERNAL, False),
    ],
)  # fmt: skip
def test_resume_flag_in_the_saved_image(vector: int, source: Source, rf: bool) -> None:
    """Faults save RF as 1, so that an instruction breakpoint does not hit again on return (Vol. 3B §18.3.1.1)."""
    pc = flat_pc()
    deliver(pc, vector, source)
    assert bool(pc.stack(3)[2] & RF) is rf


def test_the_interrupt_shadow_ends() -> None:
    pc = flat_pc()
    pc.state.interrupt_shadow = True
    deliver(pc, 0x40)
    assert not pc.state.interrupt_shadow


# ------------------------------------------------------------------------------------------------ the gate


@pytest.mark.parametrize(("source", "ext"), [(SOFTWARE, 0), (EXTERNAL, 1), (EXCEPTION, 1)])
class TestRefusedGates:
    """EXT is clear for INT n, INT3 and INTO alone (§6.13)."""

    def test_beyond_the_limit(self, source: Source, ext: int) -> None:
        pc = flat_pc()
        pc.state.idtr = DescriptorTable(IDT, 8 * 0x40 + 6)
        assert failure(pc, 0x40, source) == (Vector.GP, 0x40 << 3 | 2 | ext)

    def test_not_present(self, source: Source, ext: int) -> None:
        pc = flat_pc()
        pc.set_gate(0x40, tables.gate(tables.INT_GATE, CS0, HANDLER, present=False))
        assert failure(pc, 0x40, source) == (Vector.NP, 0x40 << 3 | 2 | ext)

    @pytest.mark.parametrize(
        "access", [0x80 | tables.CALL_GATE_32, 0x80 | tables.LDT & 0xF, 0x80 | tables.TSS32 & 0xF, 0x9A, 0]
    )
    def test_no_gate(self, source: Source, ext: int, access: int) -> None:
        """A call gate, an LDT, a TSS, a code segment, nothing."""
        pc = flat_pc()
        pc.set_gate(0x40, tables.segment(access))
        assert failure(pc, 0x40, source) == (Vector.GP, 0x40 << 3 | 2 | ext)

    def test_null_code_selector(self, source: Source, ext: int) -> None:
        pc = flat_pc()
        pc.set_gate(0x40, tables.gate(tables.INT_GATE, 3, HANDLER))
        assert failure(pc, 0x40, source) == (Vector.GP, ext)

    @pytest.mark.parametrize("selector", [DS0, TR, 0x1000])
    def test_selector_of_no_code_segment(self, source: Source, ext: int, selector: int) -> None:
        """Data, a TSS, beyond the GDT's limit."""
        pc = flat_pc()
        pc.set_gate(0x40, tables.gate(tables.INT_GATE, selector, HANDLER))
        assert failure(pc, 0x40, source) == (Vector.GP, selector | ext)

    def test_code_segment_of_an_outer_ring(self, source: Source, ext: int) -> None:
        pc = flat_pc()
        pc.set_gate(0x40, tables.gate(tables.INT_GATE, CS3, HANDLER))
        assert failure(pc, 0x40, source) == (Vector.GP, CS3 & ~3 | ext)

    def test_code_segment_not_present(self, source: Source, ext: int) -> None:
        pc = flat_pc()
        pc.set_gate(0x40, tables.gate(tables.INT_GATE, NOT_PRESENT_CODE, HANDLER))
        assert failure(pc, 0x40, source) == (Vector.NP, NOT_PRESENT_CODE | ext)

    def test_selector_in_the_ldt_without_an_ldt(self, source: Source, ext: int) -> None:
        pc = flat_pc()
        pc.set_gate(0x40, tables.gate(tables.INT_GATE, 0x0C, HANDLER))
        pc.state.ldtr = Segment(0, 0, 0, 0)
        assert failure(pc, 0x40, source) == (Vector.GP, 0x0C | ext)

    def test_handler_beyond_the_code_segments_limit(self, source: Source, ext: int) -> None:
        """#GP(EXT): the error code contains a NULL selector."""
        pc = flat_pc()
        pc.set_gate(0x40, tables.gate(tables.INT_GATE, CS16, 0x1_0000))
        assert failure(pc, 0x40, source) == (Vector.GP, ext)


def test_gate_dpl_is_checked_for_software_interrupts_alone() -> None:
    pc = user_pc()
    assert failure(pc, 0x40, SOFTWARE) == (Vector.GP, 0x40 << 3 | 2)
    deliver(pc, 0x40, EXTERNAL)
    assert pc.vector == 0x40


def test_gate_dpl_is_checked_before_presence() -> None:
    pc = user_pc()
    pc.set_gate(0x40, tables.gate(tables.INT_GATE, CS0, HANDLER, present=False))
    assert failure(pc, 0x40, SOFTWARE) == (Vector.GP, 0x40 << 3 | 2)
    pc.set_gate(0x40, tables.gate(tables.INT_GATE, CS0, HANDLER, 3, present=False))
    assert failure(pc, 0x40, SOFTWARE) == (Vector.NP, 0x40 << 3 | 2)


def test_gate_with_dpl_3_is_open_to_users() -> None:
    pc = user_pc()
    pc.set_gate(0x80, tables.gate(tables.TRAP_GATE, CS0, HANDLER, 3))
    deliver(pc, 0x80, SOFTWARE)
    assert pc.state.cpl == 0


# ------------------------------------------------------------------------------------------------ the inner stack


@pytest.mark.parametrize(("source", "ext"), [(EXTERNAL, 1), (SOFTWARE, 0)])
class TestInnerStack:
    """The checks on the stack that the TSS names (§6.12.1, "INT n" INTER-PRIVILEGE-LEVEL-INTERRUPT)."""

    @staticmethod
    def pc(ss0: int, esp0: int = INNER_STACK) -> Pc:
        pc = user_pc()
        pc.write(TSS, tables.tss_32(esp0, ss0))
        pc.set_gate(0x40, tables.gate(tables.INT_GATE, CS0, HANDLER, 3))
        return pc

    def test_tss_too_short(self, source: Source, ext: int) -> None:
        pc = self.pc(DS0)
        pc.state.tr = Segment(TR, TSS, 4 + 5 - 1, 0x8900)
        assert failure(pc, 0x40, source) == (Vector.TS, TR | ext)
        pc.state.tr = Segment(TR, TSS, 4 + 5, 0x8900)
        deliver(pc, 0x40, source)

    def test_16_bit_tss_too_short(self, source: Source, ext: int) -> None:
        pc = self.pc(DS0)
        pc.write(TSS, tables.tss_16(0x9000, DS0))
        pc.state.tr = Segment(TR, TSS, 2 + 3 - 1, 0x8100)
        assert failure(pc, 0x40, source) == (Vector.TS, TR | ext)
        pc.state.tr = Segment(TR, TSS, 2 + 3, 0x8100)
        deliver(pc, 0x40, source)

    def test_null_selector(self, source: Source, ext: int) -> None:
        assert failure(self.pc(0), 0x40, source) == (Vector.TS, ext)

    def test_beyond_the_gdt(self, source: Source, ext: int) -> None:
        assert failure(self.pc(0x1000), 0x40, source) == (Vector.TS, 0x1000 | ext)

    def test_wrong_rpl(self, source: Source, ext: int) -> None:
        assert failure(self.pc(DS0 | 3), 0x40, source) == (Vector.TS, DS0 | ext)

    def test_wrong_dpl(self, source: Source, ext: int) -> None:
        assert failure(self.pc(DS3 & ~3), 0x40, source) == (Vector.TS, DS3 & ~3 | ext)

    def test_read_only(self, source: Source, ext: int) -> None:
        pc = self.pc(SPARE)
        pc.set_descriptor(SPARE, tables.segment(tables.READ_ONLY_R0))
        assert failure(pc, 0x40, source) == (Vector.TS, SPARE | ext)

    def test_code_segment(self, source: Source, ext: int) -> None:
        assert failure(self.pc(CS0), 0x40, source) == (Vector.TS, CS0 | ext)

    def test_not_present(self, source: Source, ext: int) -> None:
        assert failure(self.pc(NOT_PRESENT_DATA), 0x40, source) == (Vector.SS, NOT_PRESENT_DATA | ext)

    def test_no_room(self, source: Source, ext: int) -> None:
        pc = self.pc(SPARE, 0x2000)
        pc.set_descriptor(SPARE, tables.segment(tables.DATA_R0, tables.BYTES_32, 0, 0x1FF0))
        assert failure(pc, 0x40, source) == (Vector.SS, SPARE | ext)

    def test_no_room_in_an_expand_down_segment(self, source: Source, ext: int) -> None:
        """Offsets up to the limit are outside; 20 bytes below 0x2010 begin at 0x1FFC."""
        pc = self.pc(SPARE, 0x2010)
        pc.set_descriptor(SPARE, tables.segment(tables.EXPAND_DOWN_R0, tables.BYTES_32, 0, 0x1FFC))
        assert failure(pc, 0x40, source) == (Vector.SS, SPARE | ext)
        pc.set_descriptor(SPARE, tables.segment(tables.EXPAND_DOWN_R0, tables.BYTES_32, 0, 0x1FFB))
        deliver(pc, 0x40, source)


def test_no_room_on_the_same_stack() -> None:
    """#SS(EXT) without a selector when no stack switch is made."""
    pc = flat_pc()
    pc.state.set_segment(SS, Segment(DS0, 0, STACK - 8, 0x0040_9300))
    assert failure(pc, 0x40, EXTERNAL) == (Vector.SS, 1)
    assert failure(pc, 0x40, SOFTWARE) == (Vector.SS, 0)


# ------------------------------------------------------------------------------------------------ paging


def test_page_faults_of_the_delivery_itself() -> None:
    """IDT, GDT, TSS and the inner stack are supervisor accesses: no U/S in the error code, though CPL is 3."""
    for page, error, address in (
        (IDT, 0, IDT + 8 * 0x40), (GDT, 0, GDT + CS0), (TSS, 0, TSS + 4), (INNER_STACK - 0x1000, 2, INNER_STACK - 20),
    ):  # fmt: skip
        pc = paged_pc()
        pc.user()
        protect(pc, page, clear=PRESENT)
        with pytest.raises(ProcessorFault) as fault:
            deliver(pc, 0x40)
        assert (fault.value.vector, fault.value.error_code, fault.value.cr2) == (Vector.PF, error, address)
        assert (pc.state.cpl, pc.state.rsp, pc.state.rip) == (3, USER_STACK, CODE)


def test_delivery_reads_supervisor_pages_at_cpl_3() -> None:
    pc = paged_pc()
    pc.user()
    for page in (IDT, GDT, TSS, INNER_STACK - 0x1000):
        protect(pc, page, clear=USER)
    deliver(pc, 0x40)
    assert pc.stack(5) == [RIP, CS3, 2, USER_STACK, DS3]


def test_a_handler_in_ring_3_is_pushed_to_as_a_user() -> None:
    """A handler at the interrupted privilege level 3: its frame is a user-mode write."""
    pc = paged_pc()
    pc.user()
    pc.set_gate(0x40, tables.gate(tables.INT_GATE, CS3, HANDLER))
    protect(pc, USER_STACK - 0x1000, clear=USER)
    assert failure(pc, 0x40) == (Vector.PF, 7)
    protect(pc, USER_STACK - 0x1000, set_=USER)
    deliver(pc, 0x40)
    assert pc.state.cpl == 3


def test_a_frame_across_two_pages_is_written_whole_or_not_at_all() -> None:
    pc = paged_pc()
    pc.state.rsp = STACK + 4
    protect(pc, STACK - 0x1000, clear=PRESENT)
    pc.write32(STACK, 0xCCCC_CCCC)
    assert failure(pc, 0x40) == (Vector.PF, 2)
    assert pc.read(STACK, 4) == 0xCCCC_CCCC


# ------------------------------------------------------------------------------------------------ virtual-8086 mode


def v86_pc() -> Pc:
    pc = flat_pc()
    for register, selector in ((ES, 0x1111), (DS, 0x2222), (FS, 0x3333), (GS, 0x4444), (SS, 0x3000), (CS, 0x1000)):
        pc.state.set_segment(register, Segment(selector, selector << 4, 0xFFFF, 0xF300))
    pc.state.rsp = 0x0F00
    pc.state.eflags = VM | IF | 2
    pc.state.refresh()
    return pc


def test_from_virtual_8086_mode() -> None:
    """§21.3.1.1: nine words, data segments nulled, VM cleared."""
    pc = v86_pc()
    assert pc.state.cpl == 3
    deliver(pc, 0x40)
    assert (pc.state.cpl, pc.state.virtual_8086_mode) == (0, False)
    assert pc.state.eflags == 2
    assert pc.state.rsp == INNER_STACK - 36
    assert pc.stack(9) == [RIP, 0x1000, VM | IF | 2, 0x0F00, 0x3000, 0x1111, 0x2222, 0x3333, 0x4444]
    assert [pc.state.selector(r) for r in (ES, DS, FS, GS)] == [0, 0, 0, 0]


def test_from_virtual_8086_mode_with_an_error_code() -> None:
    pc = v86_pc()
    deliver(pc, 13, EXCEPTION, error_code=0x18)
    assert pc.state.rsp == INNER_STACK - 40
    assert pc.stack(3) == [0x18, RIP, 0x1000]


@pytest.mark.parametrize("selector", [CS1, CS0_CONFORMING])
def test_from_virtual_8086_mode_only_ring_0_takes_interrupts(selector: int) -> None:
    pc = v86_pc()
    pc.set_gate(0x40, tables.gate(tables.INT_GATE, selector, HANDLER))
    assert failure(pc, 0x40, EXTERNAL) == (Vector.GP, selector & ~3 | 1)
