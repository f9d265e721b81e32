"""MOV to SS, LSS, LFS and LGS in 64-bit code (SDM Vol. 2B "MOV", Vol. 2A "LDS/LES/LFS/LGS/LSS")."""

from __future__ import annotations

import pytest

from simvirt.machine.events import ExceptionRaised
from simvirt.machine.state import Segment
from simvirt.x86.exceptions import Vector
from simvirt.x86.registers import GeneralRegister as G
from tests.support import tables
from tests.support.pc import CODE, CS, DATA, DS0, DS3, FS, GS, SS, STACK, Pc, long_pc

CS1, DS1 = 0x101, 0x109
IF, TF = 1 << 9, 1 << 8
MOV_SS, LSS = "8e d1 ; mov ss, ecx", "48 0f b2 03 ; lss rax, [rbx]"


def in_ring(cpl: int) -> Pc:
    pc = long_pc()
    pc.set_descriptor(CS1, tables.segment(tables.CODE_R1, 0xA, 0))
    pc.set_descriptor(DS1, tables.segment(tables.DATA_R1))
    if cpl:
        pc.state.set_segment(CS, Segment(CS1, 0, 0xFFFF_FFFF, 0x00AF_BB00))
        pc.state.set_segment(SS, Segment(DS1, 0, 0xFFFF_FFFF, 0x00CF_B300))
        pc.state.refresh(cpl=cpl)
    return pc


@pytest.mark.parametrize("cpl", [0, 1])
@pytest.mark.parametrize("code", [MOV_SS, LSS])
def test_null_in_ss_leaves_cpl_alone(cpl: int, code: str) -> None:
    pc = in_ring(cpl)
    pc.state[G.RCX], pc.state[G.RBX] = cpl, DATA
    pc.write64(DATA, 0x1234_5678_9ABC_DEF0)
    pc.write64(DATA + 8, cpl)
    pc.load(code)
    pc.step()
    assert (pc.state.cpl, pc.state.selector(SS), pc.state.segment(SS).dpl) == (cpl, cpl, cpl)
    assert pc.state.rip > CODE
    assert code is MOV_SS or pc.state[G.RAX] == 0x1234_5678_9ABC_DEF0


@pytest.mark.parametrize(("cpl", "selector"), [(0, 1), (0, 3), (1, 0), (1, 3)])
@pytest.mark.parametrize("code", [MOV_SS, LSS])
def test_null_in_ss_wants_the_rpl_of_cpl(cpl: int, selector: int, code: str) -> None:
    pc = in_ring(cpl)
    before = pc.state.segment(SS)
    pc.state[G.RCX], pc.state[G.RBX], pc.state[G.RAX] = selector, DATA, 7
    pc.write64(DATA + 8, selector)
    pc.load(code)
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code) == (Vector.GP, 0)
    assert (pc.state.cpl, pc.state.segment(SS), pc.state.rip, pc.state[G.RAX]) == (cpl, before, CODE, 7)


def test_null_in_ss_is_not_for_ring_3() -> None:
    pc = long_pc()
    pc.user()
    pc.state[G.RCX] = 3
    pc.load(MOV_SS)
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code) == (Vector.GP, 0)


def test_mov_to_ss_blocks_interrupts_and_a_single_step_for_one_instruction() -> None:
    pc = long_pc()
    pc.state[G.RCX], pc.state.eflags = DS0, 2 | IF
    pc.load(MOV_SS + "\n 90 ; nop\n f4 ; hlt")
    pc.step()
    assert (pc.state.selector(SS), pc.cpu.count) == (DS0, 1)
    assert pc.state.interrupt_shadow
    assert pc.state.shadow_of_mov_ss
    pc.step()
    assert not pc.state.interrupt_shadow
    pc.state.rip, pc.state.eflags = CODE, 2 | TF
    pc.step(2)
    assert pc.vector == Vector.DB
    assert pc.stack(1, 8) == [CODE + 3]


@pytest.mark.parametrize(
    ("code", "register"), [("48 0f b4 03 ; lfs rax, [rbx]", FS), ("48 0f b5 03 ; lgs rax, [rbx]", GS)]
)
def test_the_pointer_has_an_offset_of_64_bits(code: str, register: int) -> None:
    """Intel's processors read m16:64 (SDM Vol. 2A); AMD's, and the engine, m16:32."""
    pc = long_pc()
    pc.state[G.RBX] = DATA
    pc.write64(DATA, 0x1234_5678_9ABC_DEF0)
    pc.write64(DATA + 8, DS3)
    pc.load(code)
    pc.step()
    assert pc.state[G.RAX] == 0x1234_5678_9ABC_DEF0
    assert pc.state.selector(register) == DS3
    pc.write64(DATA + 8, 0xFFF8)
    pc.state.rip = CODE
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert (event.vector, event.error_code) == (Vector.GP, 0xFFF8)


def test_a_stack_pointer_and_its_segment_by_lss() -> None:
    pc = long_pc()
    pc.state[G.RBX] = DATA
    pc.write64(DATA, STACK - 64)
    pc.write64(DATA + 8, DS0)
    pc.load("48 0f b2 23 ; lss rsp, [rbx]")
    pc.step()
    assert (pc.state.rsp, pc.state.selector(SS)) == (STACK - 64, DS0)
    assert not pc.state.interrupt_shadow
