"""A vCPU's registers in the kernel's structures, and what its page tables say."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final

from simvirt.kvm.structures import Dtable, Regs, Segment, Sregs, Translation
from simvirt.machine.fills import Access
from simvirt.machine.state import DescriptorTable
from simvirt.x86.addresses import PAGE_OFFSET_MASK
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from simvirt.strategies.vtx.vcpu import Vcpu

_GENERAL: Final = tuple(field.name for field in fields(Regs))[:16]
_CR4_VMXE: Final = 1 << 13


def read_regs(vcpu: Vcpu) -> Regs:
    """For KVM_GET_REGS."""
    state = vcpu.cpu.state
    general = {name: state[GeneralRegister[name.upper()]] for name in _GENERAL}
    return Regs(**general, rip=state.rip, rflags=state.eflags)


def write_regs(vcpu: Vcpu, regs: Regs) -> None:
    """For KVM_SET_REGS."""
    state = vcpu.guest_state()
    general = {GeneralRegister[name.upper()]: getattr(regs, name) & (1 << 64) - 1 for name in _GENERAL}
    vcpu.set_guest_state(
        replace(
            state,
            general=tuple(general[register] for register in GeneralRegister),
            rip=regs.rip & (1 << 64) - 1,
            eflags=regs.rflags | 2,
        )
    )


def read_sregs(vcpu: Vcpu) -> Sregs:
    """For KVM_GET_SREGS."""
    state = vcpu.guest_state()
    es, cs, ss, ds, fs, gs = map(Segment.of, state.segments)
    cr0, cr2, cr3, cr4 = state.control
    return Sregs(
        cs=cs,
        ds=ds,
        es=es,
        fs=fs,
        gs=gs,
        ss=ss,
        tr=Segment.of(state.tr),
        ldt=Segment.of(state.ldtr),
        gdt=Dtable(state.gdtr.base, state.gdtr.limit),
        idt=Dtable(state.idtr.base, state.idtr.limit),
        cr0=cr0,
        cr2=cr2,
        cr3=cr3,
        cr4=cr4,
        efer=state.efer,
    )


def write_sregs(vcpu: Vcpu, sregs: Sregs) -> None:
    """For KVM_SET_SREGS. Nothing is checked here: what no VM entry takes, VM entry finds."""
    vcpu.set_guest_state(
        replace(
            vcpu.guest_state(),
            segments=tuple(getattr(sregs, register.name.lower()).register for register in SegmentRegister),
            ldtr=sregs.ldt.register,
            tr=sregs.tr.register,
            gdtr=DescriptorTable(sregs.gdt.base, sregs.gdt.limit),
            idtr=DescriptorTable(sregs.idt.base, sregs.idt.limit),
            control=(sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4 & ~_CR4_VMXE),
            efer=sregs.efer,
            pdptes=(),  # to be loaded from where CR3 points
        )
    )


def translate(vcpu: Vcpu, linear_address: int) -> Translation:
    """For KVM_TRANSLATE, by the guest's page tables as they are."""
    engine = vcpu.cpu.engine
    host = engine.translate(linear_address, Access.READ, user=False)
    region = (
        None if host is None else next((r for r in vcpu.memory.space.regions if r.host <= host < r.host + r.size), None)
    )
    if host is None or region is None:
        return Translation(linear_address, (1 << 64) - 1, False, False, False)
    gpa = region.start + host - region.host
    assert gpa & PAGE_OFFSET_MASK == linear_address & PAGE_OFFSET_MASK
    writeable = engine.translate(linear_address, Access.WRITE, user=False) is not None
    usermode = engine.translate(linear_address, Access.READ, user=True) is not None
    return Translation(linear_address, gpa, True, writeable, usermode)
