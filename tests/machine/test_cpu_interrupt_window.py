"""When a maskable interrupt can be taken: IF and the shadows of STI and MOV SS (SDM Vol. 3A §6.8.1, §6.8.3)."""

from __future__ import annotations

import pytest

from simvirt.machine.events import ExceptionRaised, Halt, InterruptWindow, LimitReached
from simvirt.x86.exceptions import Vector
from tests.support.code import le
from tests.support.pc import CODE, CS0, DS0, EAX, STACK, Pc, flat_pc

IF = 1 << 9


def window_at(pc: Pc, limit: int = 20) -> int | None:
    """Instructions retired when an interrupt can first be taken; None if that does not happen."""
    end = pc.cpu.count + limit
    while True:
        event = pc.cpu.run(end, window=True)
        if isinstance(event, InterruptWindow):
            assert pc.cpu.interruptible
            return pc.cpu.count
        if isinstance(event, (Halt, LimitReached)):
            return None
        pc.complete(event)


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        # STI: not before the instruction behind it is complete
        ("fb ; sti\n90 ; nop\n90 ; nop", 2),
        ("90 ; nop\nfb ; sti\n90 ; nop\n90 ; nop", 3),
        ("fb ; sti\nfa ; cli\n90 ; nop\nf4 ; hlt", None),
        ("fb ; sti\nfb ; sti\n90 ; nop", 2),
        ("fb ; sti\n0f a2 ; cpuid\n90 ; nop", 2),
        ("fb ; sti\ne4 10 ; in al, 0x10\n90 ; nop", 2),
        ("fb ; sti\ne6 10 ; out 0x10, al\n90 ; nop", 2),
        ("fb ; sti\n0f 20 c1 ; mov ecx, cr0\n90 ; nop", 2),
        ("fb ; sti\n0f 22 d1 ; mov cr2, ecx\n90 ; nop", 2),
        ("fb ; sti\n0f 31 ; rdtsc\n90 ; nop", 2),
        ("fb ; sti\neb 00 ; jmp $+2\n90 ; nop", 2),
        # of instructions in a row that delay interrupts only the first is sure to (Vol. 2B "MOV", note on STI; MOV SS)
        ("fb ; sti\n8e d0 ; mov ss, ax\n90 ; nop\n90 ; nop", 2),
        # POPF and IRET have no shadow
        (f"68 {le(2 | IF)} ; push 0x202\n9d ; popfd\n90 ; nop", 2),
        ("fa ; cli\nf4 ; hlt", None),
    ],
)
def test_window_from_if_0(listing: str, expected: int | None) -> None:
    pc = flat_pc()
    pc.state[EAX] = DS0
    pc.load(listing)
    assert window_at(pc, 6) == expected


@pytest.mark.parametrize(
    ("branch", "retired"),
    [
        (f"68 {le(CODE + 7)} ; push CODE+7\nfb ; sti\nc3 ; ret", 3),
        (f"b8 {le(CODE + 8)} ; mov eax, CODE+8\nfb ; sti\nff e0 ; jmp eax", 3),
        (f"b8 {le(CODE + 8)} ; mov eax, CODE+8\nfb ; sti\nff d0 ; call eax", 3),
        ("fb ; sti\ne8 00 00 00 00 ; call $+5", 2),
        ("fb ; sti\n39 c0 ; cmp eax, eax\n74 00 ; je $+2", 2),
    ],
)
def test_window_behind_a_branch_that_has_been_taken_before(branch: str, retired: int) -> None:
    """The engine goes from block to block, here behind RET, without asking for interrupts."""
    pc = flat_pc()
    pc.load(f"{branch}\n90 ; nop\n90 ; nop\nfa ; cli\nb9 {le(CODE)} ; mov ecx, CODE\nff e1 ; jmp ecx")
    once = branch.count("\n") + 1 + 5
    assert isinstance(pc.cpu.run(3 * once), LimitReached)
    assert window_at(pc, once) == 3 * once + retired


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        ("90 ; nop", 0),
        ("8e d0 ; mov ss, ax\n90 ; nop", 0),
    ],
)
def test_window_with_if_1_is_at_once(listing: str, expected: int) -> None:
    pc = flat_pc()
    pc.state.eflags = 2 | IF
    pc.load(listing)
    assert window_at(pc) == expected


@pytest.mark.parametrize("listing", ["8e d0 ; mov ss, ax", "17 ; pop ss"])
def test_stack_switch_is_not_interrupted(listing: str) -> None:
    """MOV SS and POP SS hold interrupts back for one instruction, though IF is 1 all the time."""
    pc = flat_pc()
    pc.state.eflags = 2 | IF
    pc.state[EAX] = DS0
    pc.write32(STACK, DS0)
    pc.load(listing + f"\nbc {le(STACK)} ; mov esp, STACK\n90 ; nop")
    pc.step()
    assert pc.state.interrupt_shadow
    assert not pc.cpu.interruptible
    assert window_at(pc) == 2
    assert pc.state[4] == STACK


def test_lss_has_no_shadow() -> None:
    pc = flat_pc()
    pc.state.eflags = 2 | IF
    pc.write(0x4_0000, STACK.to_bytes(4, "little") + DS0.to_bytes(2, "little"))
    pc.load(f"0f b2 25 {le(0x4_0000)} ; lss esp, [DATA]\n90 ; nop\n90 ; nop")
    pc.step()
    assert not pc.state.interrupt_shadow


@pytest.mark.parametrize(
    ("flags", "listing", "shadow"), [(IF, "fb ; sti", False), (0, "fb ; sti", True), (IF, "fa ; cli\nfb ; sti", True)]
)
def test_sti_delays_where_if_was_0(flags: int, listing: str, shadow: bool) -> None:
    """Vol. 2B "STI"; whose shadow it is can be told."""
    pc = flat_pc()
    pc.state.eflags = 2 | flags
    pc.load("40 ; inc eax\n" + listing + "\n90 ; nop")
    pc.step(2 + listing.count("\n"))
    assert pc.state.interrupt_shadow is shadow
    assert not pc.state.shadow_of_mov_ss
    pc.state.rip = CODE
    pc.load("8e d0 ; mov ss, eax\n90 ; nop")
    pc.state[0] = 0x10
    pc.state.interrupt_shadow = False
    pc.step()
    assert pc.state.interrupt_shadow
    assert pc.state.shadow_of_mov_ss


def test_sti_with_if_already_1_needs_its_privilege() -> None:
    pc = flat_pc()
    pc.user()
    pc.state.eflags = 2 | IF
    pc.load("fb ; sti")
    assert pc.event() == ExceptionRaised(Vector.GP, 0)


def test_sti_hlt_does_not_lose_the_interrupt() -> None:
    """The idiom of every idle loop: the interrupt is taken behind HLT, not between the two."""
    pc = flat_pc()
    pc.load("fb ; sti\nf4 ; hlt\n90 ; nop")
    event = pc.cpu.run(10, window=True)
    assert isinstance(event, Halt)
    assert pc.state.rip == CODE + 1
    assert not pc.cpu.interruptible
    pc.complete(event)
    assert pc.cpu.interruptible
    pc.cpu.deliver_external_interrupt(0x40)
    assert pc.stack(3) == [CODE + 2, CS0, 2 | IF]


def test_a_fault_in_the_shadow_ends_it() -> None:
    pc = flat_pc()
    pc.load("fb ; sti\n0f 0b ; ud2")
    pc.run()
    assert pc.vector == 6
    assert not pc.state.interrupt_shadow


def test_iret_takes_up_if_without_delay() -> None:
    pc = flat_pc()
    pc.state.rsp = STACK - 12
    for i, value in enumerate((CODE + 0x100, CS0, 2 | IF)):
        pc.write32(STACK - 12 + 4 * i, value)
    pc.load("cf ; iretd")
    pc.load("90 ; nop", CODE + 0x100)
    assert window_at(pc) == 1
    assert pc.state.rip == CODE + 0x100


def test_no_window_is_reported_when_none_is_asked_for() -> None:
    pc = flat_pc()
    pc.state.eflags = 2 | IF
    pc.load("90 ; nop\n90 ; nop\n90 ; nop")
    assert isinstance(pc.event(3), LimitReached)


def test_interrupt_between_iterations_of_a_string_instruction() -> None:
    """EIP stays on the instruction, ECX says what is left, and it goes on after IRET (Vol. 2B "REP")."""
    pc = flat_pc()
    pc.state.eflags = 2 | IF
    pc.state[1], pc.state[6], pc.state[7] = 8, 0x4_0000, 0x4_1000
    pc.write(0x4_0000, bytes(range(8)))
    pc.load("f3 a4 ; rep movsb\nf4 ; hlt")
    pc.step(3)
    assert (pc.state.rip, pc.state[1]) == (CODE, 5)
    pc.cpu.deliver_external_interrupt(0x40)
    assert pc.stack(1) == [CODE]
    pc.load("cf ; iretd", 0x5_0000 + 16 * 0x40)
    pc.run()
    assert bytes(pc.memory[0x4_1000:0x4_1008]) == bytes(range(8))
    assert pc.state.rip == CODE + 2
