"""The dispatcher covers what the chosen controls can produce, and nothing else."""

from __future__ import annotations

from typing import Final

from simvirt.strategies.vtx import controls
from simvirt.strategies.vtx.dispatcher import DISPATCH
from simvirt.strategies.vtx.records import EXPLANATIONS
from simvirt.x86.vmx import ExitReason, PinControls, PrimaryControls, SecondaryControls

R: Final = ExitReason

ALWAYS: Final = {
    R.TRIPLE_FAULT,
    R.CPUID,
    R.INVD,
    R.VMCALL,
    R.VMCLEAR,
    R.VMLAUNCH,
    R.VMPTRLD,
    R.VMPTRST,
    R.VMREAD,
    R.VMRESUME,
    R.VMWRITE,
    R.VMXOFF,
    R.VMXON,
    R.INVEPT,
    R.INVVPID,
    R.TASK_SWITCH,
    R.ENTRY_FAILURE_GUEST_STATE,
}
"""What exits whatever the controls say, less what this PC does not have (SDM Vol. 3C §26.1.2, §26.2).

INIT, SIPI and SMI: there is one processor and no SMM. GETSEC needs CR4.SMXE and XSETBV needs CR4.OSXSAVE, which no
CPU model here has, so both are #UD.
"""
BY_PIN: Final = {
    PinControls.EXTERNAL_INTERRUPT_EXITING: {R.EXTERNAL_INTERRUPT},
    PinControls.NMI_EXITING: {R.EXCEPTION_OR_NMI},
    PinControls.VIRTUAL_NMIS: set[ExitReason](),
}
BY_PRIMARY: Final = {
    PrimaryControls.HLT_EXITING: {R.HLT},
    PrimaryControls.CR8_LOAD_EXITING: {R.CR_ACCESS},
    PrimaryControls.CR8_STORE_EXITING: {R.CR_ACCESS},
    PrimaryControls.USE_TPR_SHADOW: {R.TPR_BELOW_THRESHOLD},
    PrimaryControls.USE_TSC_OFFSETTING: set[ExitReason](),
    PrimaryControls.USE_IO_BITMAPS: {R.IO_INSTRUCTION},
    PrimaryControls.USE_MSR_BITMAPS: {R.RDMSR, R.WRMSR},
    PrimaryControls.ACTIVATE_SECONDARY_CONTROLS: set[ExitReason](),
    PrimaryControls.INTERRUPT_WINDOW_EXITING: {R.INTERRUPT_WINDOW},
    PrimaryControls.NMI_WINDOW_EXITING: {R.NMI_WINDOW},
}
BY_SECONDARY: Final = {
    SecondaryControls.ENABLE_EPT: {R.EPT_VIOLATION, R.EPT_MISCONFIGURATION},
    SecondaryControls.ENABLE_VPID: set[ExitReason](),
    SecondaryControls.UNRESTRICTED_GUEST: set[ExitReason](),
}


def _producible() -> set[ExitReason]:
    reasons = set(ALWAYS) | {R.CR_ACCESS}  # the masks are not zero
    for window in (PrimaryControls.INTERRUPT_WINDOW_EXITING, PrimaryControls.NMI_WINDOW_EXITING):  # set for a while
        reasons |= BY_PRIMARY[window]
    reasons |= BY_PRIMARY[PrimaryControls.USE_TPR_SHADOW]  # instead of exits for CR8, where the VM has a local APIC
    for chosen, table in ((controls.PIN, BY_PIN), (controls.PRIMARY, BY_PRIMARY), (controls.SECONDARY, BY_SECONDARY)):
        for bit in chosen:
            reasons |= table[bit]  # type: ignore[index]  # a control that is not in the table here is a failure of this test
    return reasons


def test_every_producible_reason_has_a_handler_and_an_explanation() -> None:
    assert set(DISPATCH) == _producible()
    assert set(EXPLANATIONS) >= set(DISPATCH)


def test_reasons_have_sections() -> None:
    assert all(reason.info.section.startswith("SDM Vol. 3C") for reason in DISPATCH)
