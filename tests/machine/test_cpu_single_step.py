"""The trap flag: a debug exception behind each instruction (SDM Vol. 3B §18.3.1.4; Vol. 3A §6.8.3)."""

from __future__ import annotations

import pytest

from simvirt.machine.events import ExceptionRaised, Halt
from simvirt.machine.state import Segment
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.code import le
from tests.support.pc import (
    CODE,
    CS0,
    DATA,
    DS0,
    EAX,
    EBX,
    ECX,
    EDI,
    EDX,
    ESI,
    ESP,
    SPARE,
    STACK,
    TSS,
    Pc,
    flat_pc,
    long_pc,
)

TF, BS = 1 << 8, 1 << 14
HANDLER = CODE + 0x800


def stepping_pc(listing: str) -> Pc:
    pc = flat_pc()
    pc.load(listing)
    pc.state.eflags = 2 | TF
    pc.state[EBX] = DATA
    return pc


def traps(pc: Pc, count: int) -> list[int]:
    """Where the next `count` instructions trap: the return addresses of their debug exceptions."""
    found = []
    for _ in range(count):
        start = pc.cpu.count
        while not (isinstance(event := pc.event(10), ExceptionRaised) and event.vector is Vector.DB):
            depth = pc.state.rsp
            pc.complete(event)
            if pc.state.rip == 0x5_0000 + 16 * Vector.DB:  # the completion itself delivered the trap
                found.append(pc.stack(1)[0])
                assert pc.stack(3)[2] & TF
                assert pc.state.eflags & TF == 0, "the handler is not stepped"
                pc.state.rip, pc.state.rsp = pc.stack(1)[0], depth
                pc.state.eflags |= TF
                break
        else:
            found.append(pc.state.rip)
            assert pc.cpu.count - start == 1, "one instruction to a trap"
            assert event.condition == BS
            assert not pc.state.debug_register(6) & BS, "shown when it is delivered"
            continue
        assert pc.cpu.count - start == 1, "one instruction to a trap"
        assert pc.state.debug_register(6) & BS
        pc.state.set_debug_register(6, 0xFFFF_0FF0)
    return found


@pytest.mark.parametrize(
    "listing",
    [
        "90 ; nop", "40 ; inc eax", "50 ; push eax", "89 03 ; mov [ebx], eax", "fc ; cld", "9c ; pushfd",
        # completed outside the engine
        "0f a2 ; cpuid", "0f 31 ; rdtsc", "e4 10 ; in al, 0x10", "e6 10 ; out 0x10, al", "66 ef ; out dx, ax",
        "0f 20 c1 ; mov ecx, cr0", "0f 22 d1 ; mov cr2, ecx", "0f 06 ; clts", "0f 01 f0 ; lmsw ax",
        "0f 01 e1 ; smsw ecx", "0f 01 3b ; invlpg [ebx]", "0f 09 ; wbinvd", "0f 21 c1 ; mov ecx, dr0",
        "0f 23 c1 ; mov dr0, ecx", "0f 01 0b ; sidt [ebx]", "0f 00 c9 ; str ecx", "f3 90 ; pause",
        "6c ; insb", "6e ; outsb", "fb ; sti", "fa ; cli",
    ],
)  # fmt: skip
@pytest.mark.parametrize("cr4", [0, 1 << 11])
def test_each_instruction_traps_once_behind_itself(listing: str, cr4: int) -> None:
    length = len(bytes.fromhex(listing.split(";", maxsplit=1)[0]))
    pc = stepping_pc(f"90 ; nop\n{listing}\n90 ; nop")
    pc.state.set_control_register(4, cr4)
    pc.engine.intercept(pc.engine.intercepts)
    pc.state.set_control_register(0, 0x11)
    pc.state[EAX] = 1
    pc.state[ESI] = pc.state[EDI] = DATA
    assert traps(pc, 3) == [CODE + 1, CODE + 1 + length, CODE + 2 + length]


def test_native_cpuid_and_rdtsc_trap_too() -> None:
    pc = stepping_pc("0f a2 ; cpuid\n0f 31 ; rdtsc\n90 ; nop")
    pc.engine.set_cpuid(pc.bus.cpu_model.native_leaves())
    pc.engine.set_native_tsc(0)
    assert traps(pc, 3) == [CODE + 2, CODE + 4, CODE + 5]


def test_rdmsr_wrmsr_and_ltr() -> None:
    pc = stepping_pc("0f 32 ; rdmsr\n0f 30 ; wrmsr\n0f 00 d8 ; ltr ax")
    pc.state[ECX] = 0x277
    assert traps(pc, 2) == [CODE + 2, CODE + 4]
    pc.set_descriptor(SPARE, tables.segment(tables.TSS32, 0, TSS, 0x67))
    pc.state[EAX] = SPARE
    assert traps(pc, 1) == [CODE + 7]


def test_taken_jumps_and_calls_trap_at_their_target() -> None:
    pc = stepping_pc("eb 02 ; jmp $+4")
    pc.load("e8 03 00 00 00 ; call $+8", CODE + 4)
    pc.load("c3 ; ret", CODE + 12)
    assert traps(pc, 3) == [CODE + 4, CODE + 12, CODE + 9]


@pytest.mark.parametrize("listing", ["f3 a4 ; rep movsb", "f3 aa ; rep stosb", "f3 6e ; rep outsb"])
def test_repeated_strings_trap_after_each_iteration(listing: str) -> None:
    """Vol. 3B §18.3.1.4: the trap comes after each iteration, and EIP points at the instruction until the last."""
    pc = stepping_pc(listing + "\n90 ; nop")
    pc.state[ESI], pc.state[EDI], pc.state[ECX] = DATA, DATA + 64, 3
    assert traps(pc, 2) == [CODE, CODE]
    assert pc.state[ECX] == 1
    assert traps(pc, 2) == [CODE + 2, CODE + 3]
    assert pc.state[ECX] == 0


def test_popf_that_sets_tf_traps_behind_the_next_instruction() -> None:
    pc = flat_pc()
    pc.load(f"68 {le(2 | TF)} ; push 0x102\n9d ; popfd\n40 ; inc eax\n40 ; inc eax")
    event = pc.event()
    assert event == ExceptionRaised(Vector.DB, condition=BS)
    assert (pc.state.rip, pc.state[EAX], pc.cpu.count) == (CODE + 7, 1, 3)


def test_popf_that_clears_tf_still_traps() -> None:
    """TF was set when the instruction began."""
    pc = stepping_pc("9d ; popfd\n40 ; inc eax\nf4 ; hlt")
    pc.state.rsp = STACK - 4
    pc.write32(STACK - 4, 2)
    event = pc.event()
    assert event == ExceptionRaised(Vector.DB, condition=BS)
    assert (pc.state.rip, pc.cpu.count) == (CODE + 1, 1)


def test_iret_that_sets_tf_traps_behind_the_first_instruction_of_the_program() -> None:
    pc = flat_pc()
    pc.state.rsp = STACK - 12
    for i, value in enumerate((DATA, CS0, 2 | TF)):
        pc.write32(STACK - 12 + 4 * i, value)
    pc.load("cf ; iretd")
    pc.load("40 ; inc eax\n40 ; inc eax", DATA)
    assert pc.event() == ExceptionRaised(Vector.DB, condition=BS)
    assert (pc.state.rip, pc.state[EAX], pc.cpu.count) == (DATA + 1, 1, 2)


@pytest.mark.parametrize("listing", ["cd 40 ; int 0x40", "cc ; int3"])
def test_software_interrupts_clear_tf_and_do_not_trap(listing: str) -> None:
    """The saved image keeps TF, so the trap comes behind the first instruction after IRET."""
    pc = stepping_pc(listing + "\n40 ; inc eax\n40 ; inc eax")
    length = len(bytes.fromhex(listing.split(";", maxsplit=1)[0]))
    vector = 3 if listing.startswith("cc") else 0x40
    pc.set_gate(vector, tables.gate(tables.INT_GATE, CS0, HANDLER))
    pc.load("43 ; inc ebx\ncf ; iretd", HANDLER)
    pc.complete(pc.event())
    assert pc.state.rip == HANDLER
    assert pc.stack(3)[2] & TF
    assert not pc.state.eflags & TF
    assert pc.event() == ExceptionRaised(Vector.DB, condition=BS)
    assert (pc.state.rip, pc.state[EBX]) == (CODE + length + 1, DATA + 1)


def test_a_fault_comes_instead_of_the_trap() -> None:
    pc = stepping_pc("0f 0b ; ud2")
    pc.run()
    assert pc.vector == Vector.UD
    assert pc.stack(3)[2] & TF


def test_the_saved_image_has_tf_and_no_rf() -> None:
    pc = stepping_pc("90 ; nop\n90 ; nop")
    pc.run()
    assert pc.vector == Vector.DB
    assert pc.stack(3) == [CODE + 1, CS0, 2 | TF]


def test_halt_with_tf_wakes_up_in_the_debug_handler() -> None:
    """HLT retires and then traps: a debug exception resumes execution (Vol. 2A "HLT")."""
    pc = stepping_pc("f4 ; hlt")
    event = pc.event()
    assert isinstance(event, Halt)
    pc.complete(event)
    assert pc.vector == Vector.DB
    assert pc.stack(1) == [CODE + 1]


def test_syscall_masks_tf_before_it_could_trap() -> None:
    pc = long_pc()
    state, o = pc.state, pc.engine.platform.state
    state.set_word(o.star, 0x38 << 32)
    state.set_word(o.lstar, DATA)
    state.set_word(o.fmask, TF)
    state.eflags = 2 | TF
    pc.load("0f 05 ; syscall")
    pc.complete(pc.event())
    assert (state.rip, state.eflags & TF) == (DATA, 0)


@pytest.mark.parametrize("listing", ["8e d0 ; mov ss, ax", "17 ; pop ss"])
def test_stack_switch_holds_the_trap_back(listing: str) -> None:
    """Single-step traps behind MOV SS and POP SS are inhibited; one comes behind the next instruction (§6.8.3)."""
    pc = stepping_pc(listing + "\n40 ; inc eax\n40 ; inc eax")
    pc.state[EAX] = DS0
    pc.write32(STACK, DS0)
    assert pc.event() == ExceptionRaised(Vector.DB, condition=BS)
    assert (pc.state.rip, pc.cpu.count) == (CODE + len(bytes.fromhex(listing.split(";", maxsplit=1)[0])) + 1, 2)


@pytest.mark.parametrize("cpl", [0, 3])
@pytest.mark.parametrize("listing", ["f1 ; int1", "66 f1 ; int1"])
def test_int1_is_a_trap_that_no_dpl_keeps_out(listing: str, cpl: int) -> None:
    """Vol. 2A "INT n/INTO/INT3/INT1": #DB behind the instruction, nothing in DR6, a gate of DPL 0 serves ring 3."""
    pc = flat_pc()
    if cpl:
        pc.user()
    pc.load(listing)
    pc.run()
    assert (pc.vector, pc.stack(1), pc.cpu.count) == (
        Vector.DB,
        [CODE + len(bytes.fromhex(listing.split(";", maxsplit=1)[0]))],
        1,
    )
    assert pc.state.debug_register(6) & 0xF00F == 0


def test_virtual_8086_mode_is_stepped_too() -> None:
    pc = flat_pc()
    pc.state.set_segment(1, Segment(CODE >> 4, CODE, 0xFFFF, 0xFB00))
    pc.state.set_segment(2, Segment(0x3000, 0x3_0000, 0xFFFF, 0xF300))
    pc.state.rip, pc.state.rsp = 0, 0x100
    pc.state.eflags = 2 | 1 << 17 | TF
    pc.state.refresh()
    pc.load("40 ; inc ax\n40 ; inc ax")
    assert pc.event() == ExceptionRaised(Vector.DB, condition=BS)
    assert (pc.state.rip, pc.state[EDX]) == (1, 0)
    assert pc.state[ESP] == 0x100
