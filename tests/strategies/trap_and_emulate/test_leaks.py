"""The holes of the x86 stay open: each sensitive instruction that does not trap shows the guest the real processor.

The list is that of Robin and Irvine (2000, §5) with later additions (Uhlig et al. 2005, Bugnion et al. 2012). If one of
these tests fails because nothing differs any more, somebody has patched a hole, and the comparison has lost what it is
there to show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from tests.support.assembler import d16, d32
from tests.support.twins import (
    CODE,
    CS0,
    CS3,
    DATA,
    DS0,
    DS3,
    GATE_KERNEL,
    LDT_,
    READ_ONLY,
    STACK,
    TASK,
    TASK_GATE,
    USER,
    VMM,
    Twins,
    loaded,
    start,
)

EAX = GeneralRegister.RAX


@dataclass(frozen=True, slots=True)
class Leak:
    """An instruction, after how many steps the twins differ, and in what."""

    name: str
    code: bytes
    component: str
    step: int = 1
    state: ArchitecturalState | None = None
    silent: bool = True
    """Does it run without the VMM, even the first time?"""


def _push(*values: int) -> bytes:
    return b"".join(b"\x68" + d32(value) for value in values)


LEAKS = (
    # 3B: sensitive registers
    Leak("SGDT", b"\x0f\x01\x05" + d32(DATA), f"memory at {DATA + 5:#x}: 0x0 != 0xff"),
    Leak("SIDT", b"\x0f\x01\x0d" + d32(DATA), f"memory at {DATA + 5:#x}: 0x0 != 0xff"),
    Leak("SLDT", b"\x0f\x00\xc0", "EAX 0x40 != 0xfff0"),
    Leak("STR", b"\x0f\x00\xc8", "EAX 0x38 != 0xfff8"),
    Leak("SMSW", b"\x0f\x01\xe0", "EAX 0x11 != 0x13"),
    Leak("PUSHF", b"\x9c", f"memory at {STACK - 3:#x}: 0x0 != 0x2"),
    Leak("PUSHF in ring 3", b"\x9c", "0x0 != 0x2", state=start(cs=USER)),
    Leak("POPF of IF", b"\x68" + d32(0x202) + b"\x9d", "EFLAGS 0x202 != 0x2", 2),
    Leak("POPF of IOPL", b"\x68" + d32(0x3002) + b"\x9d", "EFLAGS 0x3002 != 0x2", 2),
    Leak("POPF in ring 3 with IOPL 3", b"\x68" + d32(0x202) + b"\x9d", "EFLAGS", 2, start(cs=USER, eflags=0x3002)),
    # 3C: the protection system
    Leak("LAR of a kernel segment", b"\x0f\x02\xc3", "EAX 0xc09300 != 0xc0b300", state=start(ebx=DS0)),
    Leak("LAR of one never loaded", b"\x0f\x02\xc3", "EAX", state=start(ebx=READ_ONLY)),
    Leak("LAR of a task gate", b"\x0f\x02\xc3", "EAX", state=start(ebx=TASK)),
    Leak("PUSH CS", b"\x0e", f"memory at {STACK - 4:#x}: 0x8 != 0x9"),
    Leak("PUSH SS", b"\x16", f"memory at {STACK - 4:#x}: 0x10 != 0x11"),
    Leak("MOV from CS", b"\x8c\xc8", "EAX 0x8 != 0x9"),
    Leak("MOV from SS", b"\x8c\xd0", "EAX 0x10 != 0x11"),
    Leak("far CALL", b"\x9a" + d32(CODE + 9) + d16(CS0), f"memory at {STACK - 4:#x}: 0x8 != 0x9"),
    # ring compression and aliasing: what the bare PC refuses, ring 1 does
    Leak("MOV to DS with an RPL of 1", b"\x8e\xd8", "DS 0x10 != 0x11", state=start(eax=DS0 | 1), silent=False),
    Leak("MOV to SS with an RPL of 1", b"\x8e\xd0", "EIP", state=start(eax=DS0 | 1), silent=False),
    Leak("IRET with an RPL of 1", _push(0x202, CS0 | 1, CODE + 32) + b"\xcf", "EIP", 4),
    Leak("RET far with an RPL of 1", _push(CS0 | 1, CODE + 32) + b"\xcb", "EIP", 3),
    Leak("far JMP with an RPL of 1", b"\xea" + d32(CODE + 9) + d16(CS0 | 1), "EIP"),
    # the VMM's part of the address space
    Leak("MOV from the VMM's linear addresses", b"\xa1" + d32(VMM + CS0), "EAX 0xffffffff"),
    Leak("a fetch from them", b"\xe9" + d32(VMM + 0x2_0FF0 - CODE - 5), "EIP", 2),
)


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.name)
def test_a_hole_is_open(twins: Twins, leak: Leak) -> None:
    difference = twins.compare(leak.code, leak.state, steps=leak.step)
    assert difference is not None, f"{leak.name} shows nothing of the real processor any more"
    assert difference.step == leak.step
    assert leak.component in difference.what
    if leak.silent:
        assert not twins.virtual.log.emulated_instructions


def test_lsl_and_verr_see_privilege_1(twins: Twins) -> None:
    """Robin and Irvine's LSL, VERR, VERW check CPL and RPL against DPL: with both raised to 1 together they give what
    ring 0 gives, and with an RPL of 1 they give more."""
    for text in ("0f03c3", "0f00e3", "0f00eb"):
        assert twins.compare(bytes.fromhex(text), start(ebx=DS0), steps=1) is None
        twins.renew()
        difference = twins.compare(bytes.fromhex(text), start(ebx=DS0 | 1), steps=1)
        assert difference is not None
        assert "EFLAGS 0x2 != 0x42" in difference.what


@pytest.mark.parametrize("text", ["0f02c3", "0f03c3", "0f00e3", "0f00eb"])
def test_user_code_sees_its_own_descriptors(twins: Twins, text: str) -> None:
    """DPL 3 is as it is, and DPL 0 and 1 are alike out of reach."""
    for selector in (DS3, DS0, CS0, LDT_, GATE_KERNEL, TASK_GATE):
        twins.renew()
        difference = twins.compare(bytes.fromhex(text), start(cs=USER, ebx=selector), steps=1)
        assert difference is None


def test_the_hidden_if_is_not_patched_into_the_real_flags(twins: Twins) -> None:
    """The real IF is 1 while the guest runs, whatever the guest's is."""
    for eflags in (2, 0x202):
        twins.begin(b"\x90\x90", start(eflags=eflags))
        twins.virtual.machine.run_to(1)
        state = twins.virtual_cpu.guest_state
        assert state.interrupt_flag is bool(eflags & 0x200)
        assert state.real.eflags & 0x3200 == 0x200


def test_a_far_call_leaks_nothing_while_its_shadow_is_hidden(twins: Twins) -> None:
    """The first transfer to a code segment traps; what it pushes is the guest's own CS."""
    state = replace(start(), segments=tuple(loaded(s) for s in (DS0, 0x0C, DS0, DS0, 0, 0)))
    difference = twins.compare(b"\x9a" + d32(CODE + 9) + d16(CS0), state, steps=1)
    assert difference is None


def test_user_code_selectors_show_nothing(twins: Twins) -> None:
    """Ring 3 is ring 3: PUSH CS and MOV from SS are innocent there."""
    end = twins.run(b"\x0e\x16\x8c\xc8\x8c\xd3", start(cs=USER), steps=4)
    assert (end.general[EAX], end.general[GeneralRegister.RBX]) == (CS3, DS3)
    assert end.segments[SegmentRegister.CS].selector == CS3
