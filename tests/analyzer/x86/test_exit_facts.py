"""The decoder library's word on VM exits against the processor in non-root operation, form by form.

Each form runs with the least controls and with all that there are for instructions, among them the bits of the
exception bitmap for what instructions raise on purpose. A form that always exits does so in both, one that may in the
second alone.
"""

from __future__ import annotations

import pytest

from simvirt.analyzer.probe.sweep import machine_of
from simvirt.analyzer.x86.comparison import About, load
from simvirt.analyzer.x86.declared import sensitivity_of
from simvirt.machine.vmx.non_root import HostStop
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr4, Efer, Eflags
from simvirt.x86.forms import ExitFact, Operands, find_form
from simvirt.x86.registers import GeneralRegister
from simvirt.x86.vmx import ExitReason, PrimaryControls, SecondaryControls
from tests.support.vmx_rig import CODE, DATA, MSR_BITMAPS, PRIMARY_DEFAULT, SECONDARY_ON, F, Rig, long_mode

P, S = PrimaryControls, SecondaryControls
LEAST = P.USE_MSR_BITMAPS
MOST = (
    P.HLT_EXITING | P.INVLPG_EXITING | P.RDPMC_EXITING | P.RDTSC_EXITING | P.CR3_LOAD_EXITING
    | P.CR3_STORE_EXITING | P.MOV_DR_EXITING | P.UNCONDITIONAL_IO_EXITING | P.PAUSE_EXITING
)  # fmt: skip
MOST_SECONDARY = S.DESCRIPTOR_TABLE_EXITING | S.WBINVD_EXITING
ON_PURPOSE = 1 << Vector.DB | 1 << Vector.BP | 1 << Vector.OF | 1 << Vector.BR | 1 << Vector.UD
OF_OPERANDS = (ExitReason.EPT_VIOLATION, ExitReason.TRIPLE_FAULT)
"""In 64-bit mode the guest here has no handlers: an exception of an operand shuts it down."""
OPERANDS = Operands(ip=CODE, memory=DATA, target=CODE + 0x40, selector=8, immediate=1)
IN_32_BITS = [form.identifier for form in machine_of("x86-32-modern").forms() if not form.not_executed]
OF_64_BITS_ALONE = [
    form.identifier
    for form in machine_of("x86-64").forms()
    if not form.not_executed and form.identifier not in set(IN_32_BITS)
]
FORMS = [*((name, 32) for name in IN_32_BITS), *((name, 64) for name in OF_64_BITS_ALONE)]


def _exits(code: bytes, bits: int, *, most: bool) -> bool:
    """Does the instruction exit, itself, and not by an exception of its operands?"""
    rig = Rig()
    if bits == 64:
        long_mode(rig)
        rig.cpu.state.efer |= int(Efer.SCE)
    rig.cpu.state.eflags = int(Eflags.ALWAYS_ONE | Eflags.OF)  # for INTO
    wanted = Cr4.OSFXSR if bits == 32 else Cr4.OSFXSR | Cr4.FSGSBASE
    rig.cpu.state.set_control_register(4, rig.cpu.state.control_register(4) | int(wanted))
    rig.cpu.state.refresh()
    rig.register(GeneralRegister.RBX, 5)  # out of BOUND's bounds
    least = PRIMARY_DEFAULT | SECONDARY_ON | int(LEAST)
    rig.vmcs.write(F.PRIMARY_CONTROLS, least | int(MOST) if most else least)
    if most:
        rig.vmcs.write(F.SECONDARY_CONTROLS, rig.vmcs.read(F.SECONDARY_CONTROLS) | int(MOST_SECONDARY))
        for mask in (F.CR0_GUEST_HOST_MASK, F.CR4_GUEST_HOST_MASK):
            rig.vmcs.write(mask, 0xFFFF_FFFF)
        for shadow in (F.CR0_READ_SHADOW, F.CR4_READ_SHADOW):
            rig.vmcs.write(shadow, 0xE)
    rig.register(GeneralRegister.RCX, 0x174 if code[:2] in {b"\x0f\x30", b"\x0f\x32"} else 1)
    if most:
        rig.vmcs.write(F.EXCEPTION_BITMAP, ON_PURPOSE)
        rig.memory.view[MSR_BITMAPS : MSR_BITMAPS + 0x1000] = b"\xff" * 0x1000
    reason = rig.run(code, limit=1)
    return not isinstance(reason, HostStop) and rig.rip == CODE and reason not in OF_OPERANDS


def _observed(name: str, bits: int) -> ExitFact:
    form = find_form(name)
    codes = [encoded.code for encoded in form.encode(bits, OPERANDS)]
    if form.exits is ExitFact.NEVER:
        codes = codes[-1:]  # with one segment register as with another
    if all(_exits(code, bits, most=False) for code in codes):
        return ExitFact.ALWAYS
    return ExitFact.MAY if any(_exits(code, bits, most=True) for code in codes) else ExitFact.NEVER


def _is_quick(name: str, bits: int) -> bool:
    form = find_form(name)
    return form.exits is not ExitFact.NEVER or sensitivity_of(form, bits) is not None


@pytest.mark.parametrize(
    ("name", "bits"), [pytest.param(*form, marks=[] if _is_quick(*form) else [pytest.mark.long]) for form in FORMS]
)
def test_the_library_is_right_or_has_been_answered(name: str, bits: int) -> None:
    declared = find_form(name).exits
    observed = _observed(name, bits)
    if observed is not declared:
        assert load().reason(name, About.EXITS) is not None, (declared, observed)
