"""What a VM exit was and why, as a record for traces: built only while somebody listens.

The *what* is what the guest did, from the qualification and the registers; the *why* is the rule or control that made
it exit, named as the manual names it, down to the mask or bitmap bit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.strategies.vtx import controls
from simvirt.vmm.exit_log import Cause, ExitRecord, Intervention
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import Cr0, Cr4, Eflags
from simvirt.x86.msrs import name_of
from simvirt.x86.registers import GeneralRegister, SegmentRegister
from simvirt.x86.vmx import (
    CrAccess,
    CrAccessType,
    EptViolation,
    ExitReason,
    InterruptionInformation,
    InterruptionType,
    IoInstruction,
    TaskSwitch,
    TaskSwitchSource,
    VmcsField,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.strategies.vtx.vcpu import BoardVcpu

    Explanation = tuple[str, str, object | None]
    """What, why, and the qualification as a record."""

_F: Final = VmcsField
_R: Final = ExitReason


def exit_record(vcpu: BoardVcpu, number: int, reason: ExitReason, intervention: Intervention) -> ExitRecord:
    """The last exit as a record. Call it before the VMM changes anything."""
    state = vcpu.cpu.state
    what, why, qualification = EXPLANATIONS[reason](vcpu)
    return ExitRecord(
        number=number,
        instruction=vcpu.count,
        time_ns=vcpu.board.clock.now(),
        reason=reason,
        intervention=intervention,
        cs=state.selector(SegmentRegister.CS),
        rip=state.rip,
        cpl=int(state.cpl),
        code=_code(vcpu),
        bits=state.bits,
        cause=Cause(what, why, reason.info.section),
        qualification=qualification,
    )


def _code(vcpu: BoardVcpu) -> bytes:
    """The bytes at RIP: the engine has them from the event."""
    return vcpu.cpu.engine.code_bytes


# -------------------------------------------------------------------------------------------- the explanations


def _external_interrupt(_vcpu: BoardVcpu) -> Explanation:
    return (
        "the PC's timer interrupted the guest, where the VM's own timer is due",
        'pin-based control "external-interrupt exiting" is 1',
        None,
    )


def _triple_fault(vcpu: BoardVcpu) -> Explanation:
    chain = " → ".join(Vector(f.vector).mnemonic for f in list(vcpu.cpu.fault_chain)[-3:] if f.vector < 32)
    return f"an exception while a double fault was being delivered ({chain})", "a triple fault always exits", None


def _task_priority(vcpu: BoardVcpu) -> Explanation:
    threshold = vcpu.vmcs.read(VmcsField.TPR_THRESHOLD)
    return (
        f"the guest lowered its task priority below {threshold}, the class of an interrupt that it had held back",
        'execution control "use TPR shadow" is 1, and the TPR threshold says so',
        None,
    )


def _interrupt_window(_vcpu: BoardVcpu) -> Explanation:
    bit = int(Eflags.IF).bit_length() - 1
    return (
        f"the guest can take an interrupt now: RFLAGS.IF (bit {bit}) is 1 and no blocking by STI or MOV SS is in force",
        'primary control "interrupt-window exiting" is 1: the VMM set it because a virtual interrupt waits',
        None,
    )


def _nmi_window(_vcpu: BoardVcpu) -> Explanation:
    return (
        "the guest can take an NMI now: no blocking by NMI, STI or MOV SS is in force",
        'primary control "NMI-window exiting" is 1: the VMM set it because a virtual NMI waits',
        None,
    )


def _task_switch(vcpu: BoardVcpu) -> Explanation:
    switch = TaskSwitch.decode(vcpu.vmcs.fields[_F.EXIT_QUALIFICATION])
    how = switch.source.name.replace("_", " ").lower() if switch.source > TaskSwitchSource.JMP else switch.source.name
    return f"task switch by {how} to the TSS {switch.selector:#06x}", "a task switch always exits", switch


def _cpuid(vcpu: BoardVcpu) -> Explanation:
    state = vcpu.cpu.state
    leaf, subleaf = state[GeneralRegister.RAX] & 0xFFFFFFFF, state[GeneralRegister.RCX] & 0xFFFFFFFF
    return f"CPUID, leaf {leaf:#x}, subleaf {subleaf:#x}", "CPUID always exits", None


def _halt(_vcpu: BoardVcpu) -> Explanation:
    return "HLT", 'primary control "HLT exiting" is 1', None


def _invd(_vcpu: BoardVcpu) -> Explanation:
    return "INVD", "INVD always exits", None


def _vmx_instruction(vcpu: BoardVcpu) -> Explanation:
    name = vcpu.reason.name
    return (
        f"{name} at CPL {int(vcpu.cpu.state.cpl)}",
        f"{name} always exits in VMX non-root operation, whatever the CPL",
        None,
    )


_CR_FLAGS: Final = {0: Cr0, 4: Cr4}
_CR_CONTROLS: Final = {
    0: (controls.CR0_MASK, _F.CR0_READ_SHADOW),
    4: (controls.CR4_MASK, _F.CR4_READ_SHADOW),
}


def _control_register(vcpu: BoardVcpu) -> Explanation:
    access = CrAccess.decode(vcpu.vmcs.fields[_F.EXIT_QUALIFICATION])
    number = int(access.register)
    mask, shadow_field = _CR_CONTROLS.get(number, (0, _F.CR0_READ_SHADOW))
    if access.access is CrAccessType.LMSW:
        value = vcpu.vmcs.fields.get(shadow_field, 0) & ~0xF | access.lmsw_source_data & 0xF
        what = f"LMSW with {access.lmsw_source_data:#x}"
    elif access.access is CrAccessType.CLTS:
        value, what = vcpu.vmcs.fields.get(shadow_field, 0) & ~int(Cr0.TS), "CLTS"
    else:
        value = vcpu.cpu.state[access.general_register]
        width = 64 if vcpu.cpu.state.code_64 else 32
        value &= (1 << width) - 1
        what = f"MOV {access.register.name}, {access.general_register.name_at(width).upper()} with {value:#x}"
    wrong = (value ^ vcpu.vmcs.fields.get(shadow_field, 0)) & mask
    names = [bit.name for bit in _CR_FLAGS.get(number, Cr0) if wrong & bit and bit.bit_count() == 1]
    numbers = [str(n) for n in range(64) if wrong >> n & 1]
    why = (
        f"bit {', '.join(numbers)} ({', '.join(str(n) for n in names)}) is 1 in the CR{number} guest/host mask, "
        f"and the value differs there from the read shadow"
    )
    return what, why, access


def _port(vcpu: BoardVcpu) -> Explanation:
    io = IoInstruction.decode(vcpu.vmcs.fields[_F.EXIT_QUALIFICATION])
    name = ("IN" if io.is_in else "OUT") + ("S" if io.string else "")
    prefix = "REP " if io.rep else ""
    value = "" if io.is_in or io.string else f" ← {vcpu.cpu.state.register(GeneralRegister.RAX, io.size):#x}"
    bitmap = "A" if io.port < 0x8000 else "B"
    return (
        f"{prefix}{name} port {io.port:#x}, {io.size} byte{'s' if io.size > 1 else ''}{value}",
        f'primary control "use I/O bitmaps" is 1, and bit {io.port & 0x7FFF:#x} of I/O bitmap {bitmap} is 1',
        io,
    )


def _msr(vcpu: BoardVcpu) -> Explanation:
    state = vcpu.cpu.state
    number = state[GeneralRegister.RCX] & 0xFFFFFFFF
    is_write = vcpu.reason is _R.WRMSR
    value = (state[GeneralRegister.RDX] & 0xFFFFFFFF) << 32 | state[GeneralRegister.RAX] & 0xFFFFFFFF
    what = f"{vcpu.reason.name} {name_of(number)}" + (f" ← {value:#x}" if is_write else "")
    half = "write" if is_write else "read"
    if number < 0x2000:
        why = f'bit {number:#x} of the MSR bitmap "{half} low" is 1'
    elif 0xC0000000 <= number < 0xC0002000:
        why = f'bit {number & 0x1FFF:#x} of the MSR bitmap "{half} high" is 1'
    else:
        why = "the MSR bitmaps cover 0 to 1FFFH and C0000000H to C0001FFFH, and any other MSR exits"
    return what, why, None


def _ept_violation(vcpu: BoardVcpu) -> Explanation:
    fields = vcpu.vmcs.fields
    violation = EptViolation.decode(fields[_F.EXIT_QUALIFICATION])
    gpa, gva = fields[_F.GUEST_PHYSICAL_ADDRESS], fields[_F.GUEST_LINEAR_ADDRESS]
    kind = "fetch from" if violation.fetch else "write to" if violation.write else "read of"
    if violation.readable:
        why = f"the EPT entries of the page allow no {'fetches' if violation.fetch else 'writes'}"
    else:
        why = "no EPT entry maps the page: the VM has nothing there"
    what = f"{kind} guest-physical {gpa:#x} at linear address {gva:#x}"
    if not violation.to_page:
        what = f"{kind} a paging structure at guest-physical {gpa:#x} on the walk for linear address {gva:#x}"
    return what, f'"enable EPT" is 1, and {why}', violation


def _ept_misconfiguration(vcpu: BoardVcpu) -> Explanation:
    gpa = vcpu.vmcs.fields[_F.GUEST_PHYSICAL_ADDRESS]
    return f"access to guest-physical {gpa:#x}", "an EPT entry on the way has a value that none may have", None


def _entry_failure(_vcpu: BoardVcpu) -> Explanation:
    return "VM entry", "a check of the guest state failed", None


def _exception(vcpu: BoardVcpu) -> Explanation:
    information = InterruptionInformation.decode(vcpu.vmcs.fields[_F.EXIT_INTERRUPTION_INFORMATION])
    if information.type is InterruptionType.NMI:
        return "an NMI of the PC", 'pin-based control "NMI exiting" is 1', information
    name = Vector(information.vector).mnemonic if information.vector < 32 else f"vector {information.vector}"
    return f"exception {name}", f"bit {information.vector} of the exception bitmap is 1", information


EXPLANATIONS: Final[dict[ExitReason, Callable[[BoardVcpu], Explanation]]] = {
    _R.EXCEPTION_OR_NMI: _exception,
    _R.EXTERNAL_INTERRUPT: _external_interrupt,
    _R.TRIPLE_FAULT: _triple_fault,
    _R.INTERRUPT_WINDOW: _interrupt_window,
    _R.NMI_WINDOW: _nmi_window,
    _R.TPR_BELOW_THRESHOLD: _task_priority,
    _R.TASK_SWITCH: _task_switch,
    _R.CPUID: _cpuid,
    _R.HLT: _halt,
    _R.INVD: _invd,
    _R.VMCALL: _vmx_instruction,
    _R.VMCLEAR: _vmx_instruction,
    _R.VMLAUNCH: _vmx_instruction,
    _R.VMPTRLD: _vmx_instruction,
    _R.VMPTRST: _vmx_instruction,
    _R.VMREAD: _vmx_instruction,
    _R.VMRESUME: _vmx_instruction,
    _R.VMWRITE: _vmx_instruction,
    _R.VMXOFF: _vmx_instruction,
    _R.VMXON: _vmx_instruction,
    _R.INVEPT: _vmx_instruction,
    _R.INVVPID: _vmx_instruction,
    _R.CR_ACCESS: _control_register,
    _R.IO_INSTRUCTION: _port,
    _R.RDMSR: _msr,
    _R.WRMSR: _msr,
    _R.ENTRY_FAILURE_GUEST_STATE: _entry_failure,
    _R.EPT_VIOLATION: _ept_violation,
    _R.EPT_MISCONFIGURATION: _ept_misconfiguration,
}
"""The explanation of each exit reason that this VMM's controls can produce."""
