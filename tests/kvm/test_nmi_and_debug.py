"""KVM_NMI, and KVM_SET_GUEST_DEBUG: single steps, INT3 of a debugger, hardware breakpoints."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from simvirt.kvm import Exit, GuestDebug, GuestDebugControl, KvmError
from tests.kvm.rig import CODE, Rig

C = GuestDebugControl
DB, BP = 1, 3
BS = 1 << 14


def registers(dr7: int, *addresses: int) -> tuple[int, ...]:
    return (*addresses, *[0] * (7 - len(addresses)), dr7)


# ----------------------------------------------------------------------------------------------------------------- NMI


def test_an_nmi_comes_at_once_whatever_if_says() -> None:
    rig = Rig("90 90 f4")
    handler = rig.handle(2)
    rig.vcpu.nmi()
    assert rig.vcpu.run() is Exit.HLT
    assert rig.rip == handler + 1
    assert not rig.vcpu.kvm_run.if_flag


def test_a_second_one_waits_for_iret_and_a_third_is_lost() -> None:
    rig = Rig("90 90 90 f4")
    handler = rig.handle(2, "41 f4 cf")  # inc ecx; hlt; iret
    rig.set(rcx=0)
    rig.vcpu.nmi()
    assert rig.vcpu.run() is Exit.HLT
    rig.vcpu.nmi()
    rig.vcpu.nmi()
    assert rig.vcpu.run() is Exit.HLT  # behind the IRET, and in the handler again
    assert (rig.rip, rig.vcpu.get_regs().rcx) == (handler + 2, 2)
    assert rig.vcpu.run() is Exit.HLT
    assert (rig.rip, rig.vcpu.get_regs().rcx) == (CODE + 4, 2)


def test_an_interrupt_that_comes_with_it_waits_behind_it() -> None:
    rig = Rig("fb 90 90 90 f4")  # sti; nop; nop; nop; hlt
    rig.handle(2, "41 cf")
    handler = rig.handle(0x40)
    rig.set(rcx=0)
    run = rig.vcpu.kvm_run
    run.request_interrupt_window = True
    assert rig.vcpu.run() is Exit.IRQ_WINDOW_OPEN
    run.request_interrupt_window = False
    rig.vcpu.nmi()
    rig.vcpu.interrupt(0x40)
    assert rig.vcpu.run() is Exit.HLT
    assert (rig.rip, rig.vcpu.get_regs().rcx) == (handler + 1, 1)


# ----------------------------------------------------------------------------------------------------------- debugging


def test_single_steps_show_each_instruction_once() -> None:
    rig = Rig("90 31c0 0fa2 e6e9 90 f4")  # nop; xor eax, eax; cpuid; out 0xe9, al; nop; hlt
    rig.vcpu.set_guest_debug(GuestDebug(C.ENABLE | C.SINGLESTEP))
    seen = []
    for _ in range(8):
        reason = rig.vcpu.run()
        seen.append((reason.name, rig.rip - CODE))
        if reason is Exit.DEBUG:
            debug = rig.vcpu.kvm_run.debug
            assert (debug.exception, debug.pc, debug.dr6 & BS) == (DB, rig.rip, BS)
        if reason is Exit.HLT:
            break
    assert seen == [
        ("DEBUG", 1), ("DEBUG", 3), ("DEBUG", 5), ("IO", 5), ("DEBUG", 7), ("DEBUG", 8), ("HLT", 9)
    ]  # fmt: skip
    assert not rig.vcpu.get_regs().rflags & 1 << 8


def test_int3_of_the_debugger_exits_and_int3_of_the_guest_does_not() -> None:
    rig = Rig("90 cc 90 f4")
    rig.handle(3, "cf")
    rig.vcpu.set_guest_debug(GuestDebug(C.ENABLE | C.USE_SW_BP))
    assert rig.vcpu.run() is Exit.DEBUG
    debug = rig.vcpu.kvm_run.debug
    assert (debug.exception, debug.pc, rig.rip) == (BP, CODE + 1, CODE + 1)
    rig.vcpu.set_guest_debug(GuestDebug(C(0)))
    assert rig.vcpu.run() is Exit.HLT
    assert rig.rip == CODE + 4


def test_hardware_breakpoints_on_instructions_and_data() -> None:
    rig = Rig("90 90 a300400000 8b0d00400000 90 f4")  # nop; nop; mov [0x4000], eax; mov ecx, [0x4000]; nop; hlt
    write, access = 1 << 16 | 3 << 18, 3 << 20 | 3 << 22  # of DR0 and DR1, four bytes
    rig.vcpu.set_guest_debug(
        GuestDebug(C.ENABLE | C.USE_HW_BP, registers(0x55 | write | access, 0x4000, 0x4000, CODE + 1, CODE + 13))
    )
    seen = []
    while rig.vcpu.run() is Exit.DEBUG:
        seen.append((rig.rip - CODE, rig.vcpu.kvm_run.debug.dr6 & 0xF))
    assert seen == [(1, 4), (7, 3), (13, 2), (13, 8)]
    assert rig.rip == CODE + 15


def test_a_debugger_s_points_are_gone_when_it_is() -> None:
    rig = Rig("90 90 f4")
    rig.vcpu.set_guest_debug(GuestDebug(C.ENABLE | C.USE_HW_BP, registers(1, CODE + 1)))
    assert rig.vcpu.run() is Exit.DEBUG
    rig.vcpu.set_guest_debug(GuestDebug(C(0), registers(1, CODE + 2)))
    assert rig.vcpu.run() is Exit.HLT


@pytest.mark.parametrize(
    "what",
    [
        GuestDebug(C(1 << 18 | 1)),
        GuestDebug(C.ENABLE | C.USE_HW_BP, (1, 2)),
        GuestDebug(C.ENABLE | C.USE_HW_BP, registers(1 | 2 << 16, 0x80)),
    ],
)
def test_what_cannot_be_debugged(what: GuestDebug) -> None:
    with pytest.raises(KvmError) as caught:
        Rig("f4").vcpu.set_guest_debug(what)
    assert caught.value.errno == errno.EINVAL


def test_controls_are_the_header_s() -> None:
    headers = [Path("/usr/include/linux/kvm.h"), *Path("/usr/include").glob("x86_64-linux-gnu/asm/kvm.h")]
    text = "".join(header.read_text() for header in headers if header.exists())
    defined = dict(re.findall(r"#define KVM_GUESTDBG_(\w+)\s+(0x\w+)", text))
    if not defined:
        pytest.skip("Linux's headers are not installed")
    for control in C:
        if str(control.name) in defined:
            assert int(defined[str(control.name)], 16) == control
