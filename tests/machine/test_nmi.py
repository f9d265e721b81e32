"""NMI: vector 2, blocking until IRET, shadows, priorities (SDM Vol. 3A §6.7, §6.8.3, §6.9; Vol. 3C §26.3)."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from simvirt.machine.delivery import Shutdown
from simvirt.machine.engine import DELIVER_NOTHING
from simvirt.machine.events import Halt, InterruptWindow, LimitReached, NonMaskableInterrupt
from simvirt.machine.state import DescriptorTable, Segment
from simvirt.x86.exceptions import Vector
from simvirt.x86.registers import SegmentRegister
from tests.support import tables
from tests.support.code import le
from tests.support.pc import (
    CODE,
    CS0,
    CS3,
    DATA,
    DS0,
    DS3,
    EAX,
    HANDLERS,
    INNER_STACK,
    SPARE,
    STACK,
    TR,
    USER_STACK,
    Pc,
    flat_pc,
    long_pc,
    real_pc,
)

IF, TF, NT, RF, VM = 1 << 9, 1 << 8, 1 << 14, 1 << 16, 1 << 17


def taken_at(pc: Pc, limit: int = 20) -> int | None:
    """Instructions retired when the NMI is taken; None if that does not happen before HLT or the limit."""
    end = pc.cpu.count + limit
    while True:
        event = pc.cpu.run(end)
        if isinstance(event, NonMaskableInterrupt):
            assert pc.cpu.nmi_ready
            return pc.cpu.count
        if isinstance(event, (Halt, LimitReached)):
            return None
        pc.complete(event)


def handler(pc: Pc, listing: str, vector: int = 2) -> None:
    pc.load(listing, HANDLERS + 16 * vector)


@pytest.mark.parametrize("native", [True, False], ids=["native", "reference"])
@pytest.mark.parametrize("eflags", [2, 2 | IF], ids=["IF=0", "IF=1"])
def test_it_goes_through_vector_2_whatever_if_is(native: bool, eflags: int) -> None:
    pc = flat_pc()
    if not native:
        pc.cpu.native_delivery = DELIVER_NOTHING
    pc.load("90 ; nop\n90 ; nop")
    pc.state.eflags = eflags
    pc.step()
    pc.cpu.raise_nmi()
    pc.run()
    assert pc.vector == 2
    assert pc.stack(3) == [CODE + 1, CS0, eflags]  # no error code, RF as it was
    assert pc.cpu.count == 1
    assert pc.state.nmi_blocked
    assert not pc.state.interrupt_flag  # an interrupt gate


def test_in_real_address_mode() -> None:
    pc = real_pc()
    pc.load("90 ; nop\n90 ; nop", bits=16)
    pc.cpu.raise_nmi()
    pc.run()
    assert (pc.state.rip, pc.state.selector(1)) == (16 * 2, HANDLERS >> 4)
    assert pc.stack(3, 2) == [0, CODE >> 4, 2]


def test_in_64_bit_mode_on_an_interrupt_stack() -> None:
    """An NMI is what the interrupt stack table was made for (§6.14.5)."""
    pc = long_pc()
    pc.set_gate(2, tables.gate_64(tables.INT_GATE, 0x38, HANDLERS + 32, ist=2))
    pc.load("90 ; nop\n90 ; nop")
    pc.cpu.raise_nmi()
    pc.run()
    assert pc.vector == 2
    assert pc.state.rsp == INNER_STACK - 0x2000 - 40
    handler_at = pc.state.rip
    pc.write(handler_at, bytes.fromhex("48cf"))  # IRETQ behind the HLT
    pc.step()
    assert (pc.state.rip, pc.state.rsp, pc.state.nmi_blocked) == (CODE, STACK, False)


def test_from_ring_3_it_switches_to_the_stack_of_the_tss() -> None:
    pc = flat_pc()
    pc.user()
    pc.load("90 ; nop")
    pc.cpu.raise_nmi()
    pc.run()
    assert pc.stack(5) == [CODE, CS3, 2, USER_STACK, DS3]


def test_a_gate_of_dpl_0_does_not_keep_it_from_ring_3_and_ext_is_1_in_its_faults() -> None:
    pc = flat_pc()
    pc.user()
    pc.set_gate(2, tables.gate(tables.INT_GATE, CS0, HANDLERS + 32, present=False))
    pc.load("90 ; nop")
    pc.cpu.raise_nmi()
    pc.run()
    assert pc.vector == Vector.NP
    assert pc.stack(1) == [2 * 8 + 2 + 1]
    assert pc.state.nmi_blocked  # it has been taken


def test_a_second_one_waits_for_iret_and_more_are_lost() -> None:
    pc = flat_pc()
    handler(pc, "ff 05 00 00 04 00 ; inc dword ptr [DATA]\n90 ; nop\ncf ; iretd")
    pc.load("90 ; nop\n90 ; nop\nf4 ; hlt")
    pc.cpu.raise_nmi()
    pc.step()  # in the handler
    assert pc.read(DATA, 4) == 1
    pc.cpu.raise_nmi()
    pc.cpu.raise_nmi()
    assert taken_at(pc) == 3  # INC, NOP, IRET
    assert pc.state.rip == CODE
    pc.complete(NonMaskableInterrupt())
    assert pc.cpu.count == 3
    pc.run()
    assert pc.read(DATA, 4) == 2
    assert (pc.state.rip, pc.cpu.count) == (CODE + 2, 3 + 3 + 2)
    assert not pc.engine.nmi_pending


@pytest.mark.parametrize("make", [flat_pc, long_pc, real_pc])
def test_iret_ends_the_blocking_however_it_is_executed(make: Callable[[], Pc]) -> None:
    """Natively in real mode and where it is usual, by `machine.far_transfers` where it is not."""
    pc = make()
    bits = pc.state.bits
    listing = {16: "90 ; nop\ncf ; iret", 32: "90 ; nop\ncf ; iretd", 64: "90 ; nop\n48 cf ; iretq"}[bits]
    pc.load(listing, HANDLERS + 32)
    pc.load("90 ; nop\n90 ; nop")
    start = pc.state.rip
    for _ in range(2):
        pc.cpu.raise_nmi()
        pc.step()
        assert pc.state.nmi_blocked
        pc.step()
        assert not pc.state.nmi_blocked
        assert pc.state.rip == start


def test_iret_that_faults_ends_it_too() -> None:
    """SDM Vol. 3C §26.3: the unblocking occurs even if the IRET causes a fault."""
    pc = flat_pc()
    handler(pc, "c7 44 24 04 98 00 00 00 ; mov dword ptr [esp+4], 0x98\ncf ; iretd")
    pc.load("90 ; nop")
    pc.cpu.raise_nmi()
    pc.step()
    pc.cpu.raise_nmi()
    assert taken_at(pc) == 1
    assert pc.vector == Vector.GP  # the NMI comes in front of the handler's first instruction
    assert pc.stack(1) == [0x98]


def test_return_from_a_nested_task_ends_it() -> None:
    """An NMI through a task gate, whose handler returns by IRET with NT set (§7.4)."""
    pc = flat_pc()
    other, code = 0x3400, CODE + 0x800
    tss = bytearray(tables.tss_32(INNER_STACK, DS0))
    for at, value in ((32, code), (36, 2), (56, STACK - 0x800), (72, DS0), (76, CS0), (80, DS0), (84, DS0)):
        struct.pack_into("<I", tss, at, value)
    pc.write(other, bytes(tss))
    pc.set_descriptor(SPARE, tables.segment(tables.TSS32, 0, other, 0x67))
    pc.set_gate(2, tables.gate(tables.TASK_GATE, SPARE, 0))
    pc.load("90 ; nop\ncf ; iretd", code)
    pc.load("90 ; nop\n90 ; nop")
    pc.cpu.raise_nmi()
    pc.step()
    assert (pc.state.rip, pc.state.tr.selector, pc.state.nmi_blocked) == (code + 1, SPARE, True)
    pc.step()
    assert (pc.state.rip, pc.state.tr.selector, pc.state.nmi_blocked) == (CODE, TR, False)


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("90 ; nop\n90 ; nop", 1),
        ("fb ; sti\n90 ; nop\n90 ; nop", 2),
        ("8e d0 ; mov ss, ax\n90 ; nop\n90 ; nop", 2),
        ("8e d0 ; mov ss, ax\n0f a2 ; cpuid\n90 ; nop", 2),
        ("8e d0 ; mov ss, ax\neb 00 ; jmp $+2\n90 ; nop", 2),
        ("0f a2 ; cpuid\n90 ; nop", 1),
    ],
)
def test_a_shadow_holds_it_back(listing: str, expected: int) -> None:
    pc = flat_pc()
    pc.state[EAX] = DS0
    pc.load(listing)
    pc.step()
    pc.cpu.raise_nmi()
    assert taken_at(pc) == expected


def test_an_exception_in_the_shadow_ends_it() -> None:
    """The NMI comes in front of the first instruction of the exception's handler."""
    pc = flat_pc()
    pc.state[EAX] = DS0
    pc.load("8e d0 ; mov ss, ax\n0f 0b ; ud2")
    pc.step()
    pc.cpu.raise_nmi()
    assert taken_at(pc) == 1
    assert pc.state.rip == HANDLERS + 16 * Vector.UD


def test_the_single_step_trap_comes_first() -> None:
    """Traps on the previous instruction have a higher priority than NMI (Table 6-2): its handler is interrupted."""
    pc = flat_pc()
    pc.load("90 ; nop\n90 ; nop")
    pc.state.eflags = 2 | TF
    event = pc.cpu.run(pc.cpu.count + 5)
    pc.cpu.raise_nmi()
    pc.complete(event)
    assert pc.cpu.count == 1
    assert isinstance(pc.cpu.run(5), NonMaskableInterrupt)
    assert pc.state.rip == HANDLERS + 16 * Vector.DB


def test_it_comes_before_a_fault_of_the_next_instruction() -> None:
    pc = flat_pc()
    pc.load("0f 0b ; ud2")
    pc.cpu.raise_nmi()
    pc.run()
    assert pc.vector == 2
    assert pc.stack(1) == [CODE]


def test_it_comes_before_an_instruction_breakpoint() -> None:
    pc = flat_pc()
    pc.load("90 ; nop")
    pc.state.set_debug_register(0, CODE)
    pc.state.set_debug_register(7, 0x402)
    pc.cpu.raise_nmi()
    pc.run()
    assert pc.vector == 2


def test_an_interrupt_window_opens_while_one_waits_for_iret() -> None:
    pc = flat_pc()
    handler(pc, "fb ; sti\n90 ; nop\n90 ; nop\ncf ; iretd")
    pc.load("90 ; nop")
    pc.cpu.raise_nmi()
    assert isinstance(pc.event(), NonMaskableInterrupt)
    pc.complete(NonMaskableInterrupt())
    pc.cpu.raise_nmi()
    assert isinstance(pc.cpu.run(20, window=True), InterruptWindow)
    assert pc.cpu.count == 2


def test_while_it_waits_exceptions_are_delivered_natively_and_instructions_counted() -> None:
    pc = flat_pc()
    handler(pc, f"b8 {le(3)} ; mov eax, 3\n48 ; dec eax\n75 fd ; jne $-1\n0f 0b ; ud2\ncf ; iretd")
    handler(pc, "83 04 24 02 ; add dword ptr [esp], 2\ncf ; iretd", Vector.UD)
    pc.load("90 ; nop")
    pc.cpu.raise_nmi()
    pc.step()
    pc.cpu.raise_nmi()
    # the IRET of the exception's handler ends the blocking, though the NMI's has not run yet
    assert taken_at(pc) == 1 + 6 + 2
    assert pc.state.rip == HANDLERS + 32 + 10


@pytest.mark.parametrize("limit", [0, 1, 2])
def test_it_is_not_taken_at_the_limit(limit: int) -> None:
    pc = flat_pc()
    pc.load("90 ; nop\n90 ; nop\n90 ; nop")
    pc.step(limit)
    pc.cpu.raise_nmi()
    assert isinstance(pc.cpu.run(limit), LimitReached)
    assert isinstance(pc.cpu.run(limit + 1), NonMaskableInterrupt)


def test_triple_fault() -> None:
    pc = flat_pc()
    pc.state.idtr = DescriptorTable(0, 0)
    pc.load("90 ; nop")
    pc.cpu.raise_nmi()
    with pytest.raises(Shutdown):
        pc.run()


def test_pending_and_blocking_are_part_of_the_saved_state() -> None:
    pc = flat_pc()
    handler(pc, "90 ; nop\n90 ; nop\ncf ; iretd")
    pc.load("90 ; nop\n90 ; nop")
    pc.cpu.raise_nmi()
    pc.step()
    pc.cpu.raise_nmi()
    image, world = pc.engine.save_image(), pc.engine.save_world()
    assert taken_at(pc) == 3
    pc.complete(NonMaskableInterrupt())
    for saved in ("image", "world"):
        if saved == "image":
            pc.engine.restore_image(image)
        else:
            pc.engine.load_world(world)
        pc.cpu.count = 1
        assert pc.state.nmi_blocked
        assert taken_at(pc) == 3
        assert pc.engine.save_image() != image
        pc.complete(NonMaskableInterrupt())
        assert not pc.engine.nmi_pending


def test_in_virtual_8086_mode() -> None:
    """IRET in the handler returns to virtual-8086 mode and ends the blocking."""
    pc = flat_pc()
    handler(pc, "90 ; nop\ncf ; iretd")
    pc.load("90 ; nop\n90 ; nop", bits=16)
    pc.ring(3, CS3, DS3, 0x1000)
    for register in SegmentRegister:
        pc.state.set_segment(register, Segment(CODE >> 4, CODE, 0xFFFF, 0xF300))
    pc.state.rip, pc.state.eflags = 0, 2 | VM
    pc.state.refresh(cpl=3)
    pc.cpu.raise_nmi()
    pc.step()
    assert (pc.state.virtual_8086_mode, pc.state.nmi_blocked) == (False, True)
    pc.step()
    assert (pc.state.virtual_8086_mode, pc.state.nmi_blocked, pc.state.rip) == (True, False, 0)
