"""SYSENTER, SYSEXIT, SYSCALL, SYSRET (SDM Vol. 2B; Vol. 3A §5.8.7, §5.8.8)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from simvirt.machine.events import ExceptionRaised
from simvirt.machine.state import Segment
from simvirt.x86.exceptions import Vector
from tests.support.pc import (
    CODE,
    CS,
    CS0,
    CS0_64,
    CS3,
    CS3_64,
    DATA,
    DS0,
    DS3,
    DS3_64,
    ECX,
    EDX,
    ESP,
    SS,
    STACK,
    USER_STACK,
    Pc,
    flat_pc,
    long_pc,
    real_pc,
)  # fmt: skip
from tests.support.tables import INT_GATE, gate_64

SYSENTER, SYSEXIT, SYSCALL, SYSRET = "0f 34 ; sysenter", "0f 35 ; sysexit", "0f 05 ; syscall", "0f 07 ; sysret"
IF, TF, RF, VM, AC, DF = 1 << 9, 1 << 8, 1 << 16, 1 << 17, 1 << 18, 1 << 10


def set_msrs(pc: Pc, *, cs: int = CS0, esp: int = STACK, eip: int = DATA) -> None:
    state, o = pc.state, pc.engine.platform.state
    state.set_doubleword(o.sysenter_cs, cs)
    state.set_word(o.sysenter_esp, esp)
    state.set_word(o.sysenter_eip, eip)


def set_syscall_msrs(pc: Pc, *, star: int = 0x0023_0008 << 32, lstar: int = DATA, fmask: int = 0) -> None:
    state, o = pc.state, pc.engine.platform.state
    state.set_word(o.star, star)
    state.set_word(o.lstar, lstar)
    state.set_word(o.fmask, fmask)


def fault(pc: Pc, listing: str) -> tuple[int, int]:
    """Vector and error code (-1: none) of the fault that the instruction makes."""
    pc.load(listing)
    event = pc.event()
    pc.complete(event)
    top = pc.stack(2, 8 if pc.state.code_64 else 4)
    return (pc.vector, -1 if top[0] == CODE else top[0])


# ------------------------------------------------------------------------------------------------ SYSENTER


def test_sysenter_from_ring_3() -> None:
    pc = flat_pc()
    pc.user()
    set_msrs(pc)
    pc.state.eflags = 2 | IF | RF | AC | DF
    pc.load(SYSENTER)
    pc.step()
    assert (pc.state.cpl, pc.state.rip, pc.state.rsp) == (0, DATA, STACK)
    assert pc.state.segment(CS) == Segment(CS0, 0, 0xFFFF_FFFF, 0x00C0_9B00)
    assert pc.state.segment(SS) == Segment(DS0, 0, 0xFFFF_FFFF, 0x00C0_9300)
    assert pc.state.eflags == 2 | AC | DF
    assert pc.cpu.count == 1


def test_sysenter_does_not_read_the_gdt() -> None:
    """The segments are fixed, whatever the descriptors say (§5.8.7)."""
    pc = flat_pc()
    pc.user()
    set_msrs(pc, cs=0x1003)
    pc.load(SYSENTER)
    pc.step()
    assert (pc.state.selector(CS), pc.state.selector(SS)) == (0x1000, 0x1008)


def test_sysenter_in_ring_0() -> None:
    pc = flat_pc()
    set_msrs(pc)
    pc.load(SYSENTER)
    pc.step()
    assert (pc.state.cpl, pc.state.rip) == (0, DATA)


def test_sysenter_from_virtual_8086_mode_leaves_it() -> None:
    pc = flat_pc()
    set_msrs(pc)
    pc.state.set_segment(CS, Segment(CODE >> 4, CODE, 0xFFFF, 0xFB00))
    pc.state.set_segment(SS, Segment(0x3000, 0x3_0000, 0xFFFF, 0xF300))
    pc.state.rip = 0
    pc.state.eflags = 2 | VM
    pc.state.refresh()
    pc.load(SYSENTER)
    pc.step()
    assert (pc.state.virtual_8086_mode, pc.state.cpl, pc.state.rip) == (False, 0, DATA)


@pytest.mark.parametrize("cs", [0, 3])
def test_sysenter_with_a_null_selector(cs: int) -> None:
    pc = flat_pc()
    set_msrs(pc, cs=cs)
    assert fault(pc, SYSENTER) == (Vector.GP, 0)


def test_sysenter_in_real_mode() -> None:
    pc = real_pc()
    set_msrs(pc)
    pc.load(SYSENTER)
    pc.complete(pc.event())
    assert pc.state.rip == 16 * Vector.GP


def test_sysenter_without_the_feature() -> None:
    """CPUID.01H:EDX.SEP is 0 on the Pentium."""
    pc = flat_pc(cpu_model="pentium")
    set_msrs(pc)
    assert fault(pc, SYSENTER) == (Vector.UD, -1)


def test_sysenter_from_64_bit_mode() -> None:
    pc = long_pc()
    pc.ring(3, CS3_64, DS3_64, USER_STACK)
    set_msrs(pc, esp=0xFFFF_8000_0000_1000, eip=0xFFFF_8000_0000_2000)
    pc.load(SYSENTER)
    pc.step()
    assert (pc.state.rip, pc.state.rsp) == (0xFFFF_8000_0000_2000, 0xFFFF_8000_0000_1000)
    assert pc.state.code_64
    assert pc.state.segment(CS).flags & 1 << 21


def test_sysenter_from_compatibility_mode_enters_64_bit_mode() -> None:
    pc = long_pc()
    pc.ring(3, CS3, DS3, USER_STACK)
    set_msrs(pc)
    pc.load(SYSENTER)
    pc.step()
    assert (pc.state.code_64, pc.state.cpl, pc.state.rip) == (True, 0, DATA)


# ------------------------------------------------------------------------------------------------ SYSEXIT


def test_sysexit() -> None:
    pc = flat_pc()
    set_msrs(pc)
    pc.state[EDX], pc.state[ECX] = DATA, USER_STACK
    pc.load(SYSEXIT)
    pc.step()
    assert (pc.state.cpl, pc.state.rip, pc.state[ESP]) == (3, DATA, USER_STACK)
    assert (pc.state.selector(CS), pc.state.selector(SS)) == (CS0 + 16 | 3, CS0 + 24 | 3)


def test_sysexit_is_privileged() -> None:
    pc = flat_pc()
    pc.user()
    set_msrs(pc)
    assert fault(pc, SYSEXIT) == (Vector.GP, 0)


def test_sysexit_with_a_null_selector() -> None:
    pc = flat_pc()
    set_msrs(pc, cs=0)
    assert fault(pc, SYSEXIT) == (Vector.GP, 0)


def test_sysexit_to_64_bit_mode() -> None:
    pc = long_pc()
    set_msrs(pc)
    pc.state[EDX], pc.state[ECX] = DATA, USER_STACK
    pc.load("48 0f 35 ; sysexitq")
    pc.step()
    assert (pc.state.code_64, pc.state.cpl, pc.state.rip) == (True, 3, DATA)
    assert (pc.state.selector(CS), pc.state.selector(SS)) == (CS0 + 32 | 3, CS0 + 40 | 3)


def test_round_trip() -> None:
    pc = flat_pc()
    pc.user()
    set_msrs(pc)
    pc.load("""
        ba 09 00 01 00      ; mov edx, 0x10009
        0f 34               ; sysenter
        90                  ; nop
        90                  ; nop
        eb fe               ; jmp $
    """)
    pc.load(f"b9 {USER_STACK.to_bytes(4, 'little').hex()} ; mov ecx, USER_STACK\n0f 35 ; sysexit", DATA)
    pc.step(5)
    assert (pc.state.cpl, pc.state.rip, pc.state[ESP]) == (3, CODE + 9, USER_STACK)
    assert pc.selectors()[CS] == CS3


# ------------------------------------------------------------------------------------------------ SYSCALL


def user_64() -> Pc:
    pc = long_pc()
    pc.ring(3, CS3_64, DS3_64, USER_STACK)
    return pc


def test_syscall_from_ring_3() -> None:
    pc = user_64()
    set_syscall_msrs(pc, star=CS0_64 << 32, fmask=IF | DF)
    pc.state.eflags = 2 | IF | DF | AC | 0x41
    pc.load(SYSCALL)
    pc.step()
    assert (pc.state.cpl, pc.state.rip, pc.state.code_64) == (0, DATA, True)
    assert pc.state[ECX] == CODE + 2
    assert pc.state[11] == 2 | IF | DF | AC | 0x41
    assert pc.state.eflags == 2 | AC | 0x41
    assert (pc.state.selector(CS), pc.state.selector(SS)) == (CS0_64, CS0_64 + 8)
    assert pc.state.rsp == USER_STACK, "RSP is the handler's business"


def test_syscall_selectors_lose_their_rpl() -> None:
    pc = user_64()
    set_syscall_msrs(pc, star=0x1003 << 32)
    pc.load(SYSCALL)
    pc.step()
    assert (pc.state.selector(CS), pc.state.selector(SS)) == (0x1000, 0x1008)


def test_syscall_without_sce() -> None:
    pc = user_64()
    set_syscall_msrs(pc)
    pc.state.efer = pc.state.efer & ~1
    assert fault(pc, SYSCALL) == (Vector.UD, -1)


@pytest.mark.parametrize("make", [flat_pc, real_pc])
def test_syscall_outside_ia_32e_mode(make: object) -> None:
    pc = make()  # type: ignore[operator]
    set_syscall_msrs(pc)
    pc.state.efer = 1
    pc.load(SYSCALL)
    pc.complete(pc.event())
    assert pc.state.rip in (16 * Vector.UD, 0x5_0000 + 16 * Vector.UD)


def test_syscall_in_compatibility_mode() -> None:
    """#UD on Intel's processors."""
    pc = long_pc()
    pc.ring(3, CS3, DS3, USER_STACK)
    set_syscall_msrs(pc)
    assert fault(pc, SYSCALL) == (Vector.UD, -1)


def test_sysret_to_64_bit_mode() -> None:
    pc = long_pc()
    set_syscall_msrs(pc, star=(CS3 & ~3 | 3) << 48)
    pc.state[ECX], pc.state[11] = DATA, 2 | IF | DF
    pc.load("48 0f 07 ; sysretq")
    pc.step()
    assert (pc.state.cpl, pc.state.rip, pc.state.code_64) == (3, DATA, True)
    assert pc.state.eflags == 2 | IF | DF
    assert (pc.state.selector(CS), pc.state.selector(SS)) == ((CS3 & ~3) + 16 | 3, (CS3 & ~3) + 8 | 3)


def test_sysret_to_compatibility_mode() -> None:
    pc = long_pc()
    set_syscall_msrs(pc, star=(CS3 & ~3 | 3) << 48)
    pc.state[ECX], pc.state[11] = DATA, 2
    pc.load(SYSRET)
    pc.step()
    assert (pc.state.cpl, pc.state.rip, pc.state.code_64) == (3, DATA, False)
    assert pc.state.selector(CS) == CS3


@pytest.mark.parametrize("build", [flat_pc, real_pc])
def test_sysret_is_for_64_bit_code(build: Callable[[], Pc]) -> None:
    """On Intel's processors, which this one is; AMD's have it in 32-bit code too."""
    pc = build()
    pc.state.efer = 1
    pc.load(SYSRET)
    event = pc.event()
    assert isinstance(event, ExceptionRaised)
    assert event.vector is Vector.UD


def test_sysret_without_sce() -> None:
    pc = long_pc()
    pc.state.efer = pc.state.efer & ~1
    assert fault(pc, SYSRET) == (Vector.UD, -1)


def test_sysret_is_privileged() -> None:
    pc = user_64()
    set_syscall_msrs(pc)
    assert fault(pc, SYSRET) == (Vector.GP, 0)


def test_deviation_sysret_to_a_non_canonical_address_faults_in_ring_3() -> None:
    """The manual: #GP(0) of the SYSRET itself, at CPL 0."""
    pc = long_pc()
    set_syscall_msrs(pc, star=(CS3 & ~3 | 3) << 48)
    pc.state[ECX], pc.state[11] = 0x8000_0000_0000, 2
    pc.load("48 0f 07 ; sysretq")
    pc.step()
    assert pc.state.cpl == 3
    pc.complete(pc.event())
    assert (pc.vector, pc.stack(3, 8)) == (Vector.GP, [0, 0x8000_0000_0000, CS3_64])


# ------------------------------------------------------------------------------------------------ canonical addresses


@pytest.mark.parametrize(
    ("listing", "vector"),
    [
        ("48 8b 03 ; mov rax, [rbx]", Vector.GP),
        ("48 89 03 ; mov [rbx], rax", Vector.GP),
        ("48 8b 45 00 ; mov rax, [rbp]", Vector.SS),
        ("50 ; push rax", Vector.SS),
        ("58 ; pop rax", Vector.SS),
        ("e8 00 00 00 00 ; call $+5", Vector.SS),
    ],
)
def test_non_canonical_operands(listing: str, vector: Vector) -> None:
    """Vol. 1 §3.3.7.1: #GP(0), or #SS(0) for references through SS, RSP and RBP."""
    pc = long_pc()
    pc.write(0x3000, b"\0" * 4 + STACK.to_bytes(8, "little") * 9)
    pc.set_gate(vector, gate_64(INT_GATE, CS0_64, 0x5_0000 + 16 * vector, ist=1))
    bad = 0x0001_0000_0000_0000
    pc.state[3] = pc.state[5] = pc.state[4] = bad
    pc.load(listing)
    pc.complete(pc.event())
    assert (pc.vector, pc.stack(2, 8)) == (vector, [0, CODE])


def test_canonical_ends_are_accessible() -> None:
    pc = long_pc()
    for address, faults in (
        (0x0000_7FFF_FFFF_FFF8, False),
        (0xFFFF_8000_0000_0000, False),
        (0x0000_7FFF_FFFF_FFFC, True),
    ):
        pc.state[3] = address
        pc.state.rip = CODE
        pc.load("48 8b 03 ; mov rax, [rbx]")
        event = pc.event()
        vector = getattr(event, "vector", None)
        # nothing is mapped there: a page fault, except where the access leaves the canonical range
        assert vector in ((Vector.GP, Vector.PF) if faults else (Vector.PF,))
