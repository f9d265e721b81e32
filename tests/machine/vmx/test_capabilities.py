"""The capability MSRs, by their layout in SDM Vol. 3D Appendix A, and the presets."""

from __future__ import annotations

from itertools import pairwise

import pytest

from simvirt.errors import UnknownNameError
from simvirt.machine.vmx.capabilities import PRESETS, THIS_PC, find_capabilities
from simvirt.machine.vmx.non_root import HostStop, NonRootProcessor, VmEntryError
from simvirt.machine.vmx.vmcs import Vmcs
from simvirt.x86.msrs import Msr
from simvirt.x86.vmx import CONTROL_WORDS, SecondaryControls
from tests.support.vmx_rig import F, Rig

PLAIN = (Msr.IA32_VMX_PINBASED_CTLS, Msr.IA32_VMX_PROCBASED_CTLS, Msr.IA32_VMX_EXIT_CTLS, Msr.IA32_VMX_ENTRY_CTLS)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("number", PLAIN)
def test_what_must_be_one_may_be_one(preset: str, number: Msr) -> None:
    """Bits 31:0 of a control's MSR are allowed-0 settings, bits 63:32 allowed-1 settings (A.3)."""
    plain, true = PRESETS[preset].msr(number), PRESETS[preset].msr(Msr(number + 0x48D - 0x481))
    assert plain & 0xFFFFFFFF & ~(plain >> 32) == 0
    assert true & 0xFFFFFFFF & ~plain == 0
    assert true >> 32 == plain >> 32


def test_the_plain_registers_have_the_default1_bits() -> None:
    """A.2: 16H, 401E172H, 36DFFH, 11FFH."""
    defaults = [word.default1 for word in CONTROL_WORDS.values() if word.default1]
    assert defaults == [0x16, 0x401E172, 0x36DFF, 0x11FF]
    assert THIS_PC.msr(Msr.IA32_VMX_PROCBASED_CTLS) & 0xFFFFFFFF == 0x401E172


def test_basic_and_miscellaneous_information() -> None:
    basic, misc = THIS_PC.msr(Msr.IA32_VMX_BASIC), THIS_PC.msr(Msr.IA32_VMX_MISC)
    assert basic & 0x7FFFFFFF == 1
    assert basic >> 32 & 0x1FFF == 4096
    assert basic >> 50 & 0xF == 6
    assert basic >> 55 & 1
    assert misc & 0x1F == 5
    assert misc >> 16 & 0x1FF == 4


def test_ept_and_vpid_capabilities() -> None:
    value = THIS_PC.msr(Msr.IA32_VMX_EPT_VPID_CAP)
    for bit in (6, 14, 16, 17, 20, 21, 25, 26, 32, 40, 41, 42, 43):
        assert value >> bit & 1, bit
    assert not value & 1  # no execute-only translations
    with pytest.raises(UnknownNameError):
        find_capabilities("merom-2006").msr(Msr.IA32_VMX_EPT_VPID_CAP)


def test_generations_only_add() -> None:
    for older, newer in pairwise(PRESETS.values()):
        assert older.year <= newer.year
        for flags, offered in older.offered.items():
            assert not offered & ~newer.offered[flags], (older.name, newer.name, flags)


def test_a_control_that_a_generation_lacks_fails_vm_entry() -> None:
    """The rig's guest needs EPT and "unrestricted guest": Nehalem has one of them, Westmere both."""
    for name, runs in (("merom-2006", False), ("nehalem-2008", False), ("westmere-2010", True)):
        rig = Rig()
        rig.vmcs.leave()
        vmcs = Vmcs(find_capabilities(name))
        vmcs.fields.update(rig.vmcs.fields)
        processor = NonRootProcessor(rig.cpu, rig.bus, vmcs)
        if runs:
            rig.write(0x1000, b"\xf4")
            assert processor.enter(10) is HostStop.HALTED
        else:
            with pytest.raises(VmEntryError, match="does not offer"):
                processor.enter(10)


def test_unknown_presets() -> None:
    with pytest.raises(UnknownNameError, match="nehalem-2008"):
        find_capabilities("nehalem")


def test_ept_accessed_flags_need_their_capability() -> None:
    rig = Rig()
    rig.vmcs.capabilities = find_capabilities("westmere-2010")
    rig.vmcs.write(F.EPT_POINTER, rig.ept.pointer.encode() | 1 << 6)
    with pytest.raises(VmEntryError, match="EPT pointer"):
        rig.run(b"\x90")
    assert find_capabilities("haswell-2013").offers(SecondaryControls.ENABLE_EPT)
