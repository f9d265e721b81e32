"""Control registers: MOV to CR0 to CR8, CLTS, LMSW and SMSW, with the checks of their pages in SDM Vol. 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.events import ControlRegisterAccess, ControlRegisterOperation
from simvirt.machine.faults import general_protection
from simvirt.x86.flags import Cr0, Cr4, Efer
from simvirt.x86.prefixes import split_prefixes
from simvirt.x86.registers import SegmentRegister

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.processor_bus import Bus

_CR0_WRITABLE: Final = int(Cr0.PE | Cr0.MP | Cr0.EM | Cr0.TS | Cr0.NE | Cr0.WP | Cr0.AM | Cr0.NW | Cr0.CD | Cr0.PG)
_MSW: Final = 0xF
TASK_PRIORITY: Final = 8
"""The number of CR8."""
_CR0_LOADS_PDPTES: Final = int(Cr0.CD | Cr0.NW | Cr0.PG)
_CR4_LOADS_PDPTES: Final = int(Cr4.PAE | Cr4.PGE | Cr4.PSE | Cr4.SMEP)
"""Under PAE paging a change of one of these loads the PDPTE registers (SDM Vol. 3A §4.4.1)."""


def access_control_register(cpu: Cpu, event: ControlRegisterAccess) -> None:
    """Do what the instruction of `event` does.

    :raises ProcessorFault: #GP(0), or #PF on a memory operand.
    :raises EptRefused: the table that PAE paging would begin with.
    """
    state = cpu.state
    operation = event.operation
    if operation is ControlRegisterOperation.MOV_TO_CR:
        write_control_register(cpu, event.number, state[event.register])
    elif operation is ControlRegisterOperation.MOV_FROM_CR:
        state[event.register] = state.control_register(event.number)
    elif operation is ControlRegisterOperation.CLTS:
        write_control_register(cpu, 0, state.cr0 & ~int(Cr0.TS))
    else:
        finish_machine_status_word(cpu, event, state.cr0)
        return
    cpu.advance(event.length)


def access_task_priority(cpu: Cpu, bus: Bus, event: ControlRegisterAccess) -> None:
    """MOV to and from CR8: bits 7:4 of the local APIC's task-priority register (SDM Vol. 3A §11.8.6).

    :raises ProcessorFault: #GP(0).
    """
    state, local_apic = cpu.state, bus.local_apic
    if event.operation is ControlRegisterOperation.MOV_TO_CR:
        write_task_priority(bus, state[event.register])
    else:
        state[event.register] = 0 if local_apic is None else local_apic.task_priority
    cpu.advance(event.length)


def write_task_priority(bus: Bus, value: int) -> None:
    """CR8 takes four bits; a processor without a local APIC forgets them.

    :raises ProcessorFault: #GP(0).
    """
    if value >> 4:
        raise general_protection(0)
    if bus.local_apic is not None:
        bus.local_apic.task_priority = value


def machine_status_word_operand(cpu: Cpu, event: ControlRegisterAccess) -> int:
    """The 16 bits that LMSW would load.

    :raises ProcessorFault: #PF on its memory operand.
    """
    operand = cpu.memory_operand()
    if operand is None:
        return cpu.state.register(event.register, 2)
    return cpu.memory.read_integer(operand[0], 2, user=cpu.state.cpl == 3, explicit=True)


def finish_machine_status_word(cpu: Cpu, event: ControlRegisterAccess, cr0: int) -> None:
    """LMSW onto, or SMSW of, the CR0 that the program is to see."""
    state = cpu.state
    if event.operation is ControlRegisterOperation.LMSW:
        value = machine_status_word_operand(cpu, event)
        write_control_register(cpu, 0, cr0 & ~(_MSW & ~int(Cr0.PE)) | value & _MSW)
    else:
        if state.cr4 & int(Cr4.UMIP) and state.cpl:
            raise general_protection(0)
        operand = cpu.memory_operand()
        if operand is None:
            # Outside 64-bit mode the upper half of a 32-bit register is undefined; the engine leaves it as it was, and
            # so does this.
            prefixes, _ = split_prefixes(cpu.engine.code_bytes, state.bits)
            state.set_register(event.register, prefixes.operand_size(state.bits) if state.code_64 else 2, cr0)
        else:
            cpu.memory.write_integer(operand[0], 2, cr0, user=state.cpl == 3, explicit=True)
    cpu.advance(event.length)


def write_control_register(cpu: Cpu, number: int, value: int) -> None:
    """MOV to CR0, CR2, CR3 or CR4 with the processor's checks (SDM Vol. 2B "MOV—Move to/from Control Registers").

    :raises ProcessorFault: #GP(0).
    :raises EptRefused: the table that PAE paging would begin with.
    """
    state = cpu.state
    if not state.code_64:
        value &= 0xFFFFFFFF
    if number == 0:
        _write_cr0(cpu, value)
    elif number == 4:
        _write_cr4(cpu, value)
    elif number == 3:
        _write_cr3(cpu, value)
    elif number == 2:
        state.set_control_register(2, value)


def _write_cr0(cpu: Cpu, value: int) -> None:
    state = cpu.state
    if (
        value >> 32
        or (value & int(Cr0.PG) and not value & int(Cr0.PE))
        or (value & int(Cr0.NW) and not value & int(Cr0.CD))
    ):
        raise general_protection(0)
    old = state.cr0
    value = value & _CR0_WRITABLE | int(Cr0.ET)
    efer = state.efer
    loads = (value ^ old) & _CR0_LOADS_PDPTES and value & int(Cr0.PG) and not efer & int(Efer.LME)
    if loads and state.cr4 & int(Cr4.PAE):
        cpu.load_pdptes(state.cr3)
    if efer & int(Efer.LME):
        paging, was = value & int(Cr0.PG), old & int(Cr0.PG)
        if paging and not was:
            if not state.cr4 & int(Cr4.PAE) or state.segment(SegmentRegister.CS).long or state.tr.is_16_bit_tss:
                raise general_protection(0)
            efer |= int(Efer.LMA)
        elif was and not paging:
            if state.code_64:
                raise general_protection(0)
            efer &= ~int(Efer.LMA)
        state.efer = efer
    state.set_control_register(0, value)
    state.refresh()
    cpu.engine.flush_tlb()


def _write_cr4(cpu: Cpu, value: int) -> None:
    state = cpu.state
    if value & ~cpu.engine.cr4_features or (state.long_mode and not value & int(Cr4.PAE)):
        raise general_protection(0)
    paging = state.cr0 & int(Cr0.PG) and not state.long_mode
    if paging and value & int(Cr4.PAE) and (value ^ state.cr4) & _CR4_LOADS_PDPTES:
        cpu.load_pdptes(state.cr3)
    state.set_control_register(4, value)
    state.refresh()
    cpu.engine.flush_tlb()
    cpu.engine.follow_umip()


def _write_cr3(cpu: Cpu, value: int) -> None:
    """MOV to CR3; native/engine.c does it where nothing is wrong with the value."""
    state = cpu.state
    if state.long_mode and value >> cpu.engine.physical_bits:
        raise general_protection(0)
    if state.pae_paging:
        cpu.load_pdptes(value)
    state.set_control_register(3, value)
    cpu.forget_translations()
