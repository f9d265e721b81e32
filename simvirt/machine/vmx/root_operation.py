"""VMX root operation: the instructions by which a VMM manages its VMCSs and enters its guests (SDM Vol. 3C Chapter 31).

A VMM in Python calls them as methods; they check and fail as the manual's pseudo-code does. An instruction succeeds, or
fails in one of two ways: VMfailInvalid where there is no current VMCS (CF = 1), VMfailValid with a VM-instruction error
in the current one (ZF = 1).
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from simvirt.errors import MonitorError
from simvirt.machine.vmx.capabilities import PHYSICAL_BITS, REVISION, THIS_PC
from simvirt.machine.vmx.non_root import HostStop, NonRootProcessor
from simvirt.machine.vmx.vmcs import Vmcs, VmcsError, VmInstructionError
from simvirt.x86.addresses import PAGE_SIZE, Hpa
from simvirt.x86.vmx import VmcsField

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.processor_bus import Bus
    from simvirt.machine.vmx.capabilities import Capabilities
    from simvirt.x86.vmx import ExitReason

_F: Final = VmcsField
_E: Final = VmInstructionError
_ENTRY_FAILURE: Final = 1 << 31
"""In the exit reason: the guest has not run (SDM Vol. 3C §27.8)."""


class LaunchState(Enum):
    """What VMLAUNCH and VMRESUME go by (SDM Vol. 3C §25.1)."""

    CLEAR = "clear"
    LAUNCHED = "launched"


class VmFail(MonitorError):  # noqa: N818 - the manual's name for it
    """An instruction of VMX failed.

    :ivar error: the VM-instruction error of VMfailValid; None for VMfailInvalid.
    """

    def __init__(self, instruction: str, error: VmInstructionError | None, why: str) -> None:
        self.error = error
        style = "VMfailInvalid" if error is None else f"VMfailValid, VM-instruction error {error.value}"
        super().__init__(f"{instruction} failed: {why} ({style})")


class InveptType(Enum):
    """What INVEPT invalidates (SDM Vol. 3C "INVEPT", Table 31-2)."""

    SINGLE_CONTEXT = 1
    ALL_CONTEXT = 2


class InvvpidType(Enum):
    """What INVVPID invalidates (SDM Vol. 3C "INVVPID", Table 31-3)."""

    INDIVIDUAL_ADDRESS = 0
    SINGLE_CONTEXT = 1
    ALL_CONTEXT = 2
    SINGLE_CONTEXT_RETAINING_GLOBALS = 3


class RootOperation:
    """A processor in, or on its way into, VMX root operation.

    VMCS regions lie in host-physical memory, and the first doubleword of each is the revision identifier, which a VMM
    writes. The rest of a region is the processor's own affair (SDM Vol. 3C §25.2), and here it lies outside memory.
    """

    def __init__(self, cpu: Cpu, bus: Bus, capabilities: Capabilities = THIS_PC) -> None:
        self.cpu = cpu
        self.capabilities = capabilities
        self._bus = bus
        self._vmxon: Hpa | None = None
        self._current: Hpa | None = None
        self._regions: dict[Hpa, Vmcs] = {}
        self._launched: set[Hpa] = set()
        self._processors: dict[Hpa, NonRootProcessor] = {}

    # ---------------------------------------------------------------------------------------- VMX operation

    def vmxon(self, region: Hpa) -> None:
        """Enter VMX operation.

        :raises VmFail: the region is no good, or the processor is in VMX operation already.
        """
        if self._vmxon is not None:
            raise self._fail("VMXON", _E.VMXON_IN_ROOT_OPERATION, "the processor is in VMX root operation already")
        if not self._is_region(region) or self._revision(region) != REVISION:
            raise VmFail(
                "VMXON", None, f"{region:#x} is no VMXON region: 4-KByte aligned, in memory, revision {REVISION}"
            )
        self._vmxon = region

    def vmxoff(self) -> None:
        """Leave VMX operation."""
        self._require("VMXOFF")
        if self._current is not None:
            self._regions[self._current].leave()
        self._vmxon = self._current = None

    def vmclear(self, region: Hpa) -> None:
        """Bring a VMCS home to its region, and set its launch state to clear.

        :raises VmFail: bad address, or the VMXON region.
        """
        self._require("VMCLEAR")
        if not self._is_region(region):
            raise self._fail("VMCLEAR", _E.VMCLEAR_INVALID_ADDRESS, f"{region:#x} is no address of a VMCS region")
        if region == self._vmxon:
            raise self._fail("VMCLEAR", _E.VMCLEAR_VMXON_POINTER, "that is the VMXON region")
        self._vmcs(region).leave()
        self._launched.discard(region)
        if self._current == region:
            self._current = None

    def vmptrld(self, region: Hpa) -> None:
        """Make a VMCS current.

        :raises VmFail: bad address, the VMXON region, or another revision identifier.
        """
        self._require("VMPTRLD")
        if not self._is_region(region):
            raise self._fail("VMPTRLD", _E.VMPTRLD_INVALID_ADDRESS, f"{region:#x} is no address of a VMCS region")
        if region == self._vmxon:
            raise self._fail("VMPTRLD", _E.VMPTRLD_VMXON_POINTER, "that is the VMXON region")
        if self._revision(region) != REVISION:
            raise self._fail(
                "VMPTRLD", _E.VMPTRLD_INCORRECT_REVISION, f"the region's revision identifier is not {REVISION}"
            )
        if self._current is not None and self._current != region:
            self._regions[self._current].leave()
        self._vmcs(region)
        self._current = region

    def vmptrst(self) -> int:
        """The current-VMCS pointer; all ones if there is none."""
        self._require("VMPTRST")
        return (1 << 64) - 1 if self._current is None else self._current

    def vmread(self, field: VmcsField) -> int:
        """A field of the current VMCS.

        :raises VmFail: no VMCS is current, or there is no such field.
        """
        vmcs = self._current_vmcs("VMREAD")
        if type(field) is not VmcsField:
            raise self._fail("VMREAD", _E.UNSUPPORTED_FIELD, f"there is no field {field:#x}")
        return vmcs.read(field)

    def vmwrite(self, field: VmcsField, value: int) -> None:
        """Write a field of the current VMCS.

        :raises VmFail: no VMCS is current, there is no such field, it is read-only, or the value does not fit.
        """
        vmcs = self._current_vmcs("VMWRITE")
        try:
            vmcs.write(field, value)
        except VmcsError as error:
            raise self._fail("VMWRITE", error.error, str(error)) from error

    # ---------------------------------------------------------------------------------------- VM entry

    def vmlaunch(self, limit: int) -> ExitReason | HostStop:
        """Enter the guest of the current VMCS, whose launch state is clear; `limit` as in `NonRootProcessor.enter`.

        :raises VmFail: no VMCS is current, or it has been launched.
        :raises VmEntryError: a control or host-state field is bad.
        """
        return self._enter("VMLAUNCH", LaunchState.CLEAR, _E.VMLAUNCH_NON_CLEAR_VMCS, limit)

    def vmresume(self, limit: int) -> ExitReason | HostStop:
        """Enter the guest of the current VMCS, whose launch state is launched.

        :raises VmFail: no VMCS is current, or it has not been launched.
        :raises VmEntryError: a control or host-state field is bad.
        """
        return self._enter("VMRESUME", LaunchState.LAUNCHED, _E.VMRESUME_NON_LAUNCHED_VMCS, limit)

    def launch_state(self, region: Hpa) -> LaunchState:
        """Of the VMCS in a region."""
        return LaunchState.LAUNCHED if region in self._launched else LaunchState.CLEAR

    def _enter(
        self, instruction: str, state: LaunchState, error: VmInstructionError, limit: int
    ) -> ExitReason | HostStop:
        self._current_vmcs(instruction)
        region = self._current
        assert region is not None
        if self.launch_state(region) is not state:
            raise self._fail(instruction, error, f"the VMCS is {self.launch_state(region).value}")
        processor = self._processors.get(region)
        if processor is None:
            processor = self._processors[region] = NonRootProcessor(self.cpu, self._bus, self._regions[region])
        else:
            processor.vmcs.enter(self.cpu)
        reason = processor.enter(limit)
        if isinstance(reason, HostStop) or not processor.vmcs.read(_F.EXIT_REASON) & _ENTRY_FAILURE:
            self._launched.add(region)
        return reason

    # ---------------------------------------------------------------------------------------- invalidation

    def invept(self, kind: InveptType | int, ept_pointer: int = 0) -> None:
        """Forget what the processor has cached of an EPT: here it forgets everything, as a processor may.

        :raises VmFail: no such type, or a bad EPT pointer.
        """
        self._require("INVEPT")
        types = [one.value for one in InveptType]
        if (kind.value if isinstance(kind, InveptType) else kind) not in types:
            raise self._fail("INVEPT", _E.INVALID_OPERAND_TO_INVEPT_INVVPID, f"there is no type {kind}")
        if kind is InveptType.SINGLE_CONTEXT and (ept_pointer & 0xF80 or ept_pointer >> PHYSICAL_BITS):
            raise self._fail("INVEPT", _E.INVALID_OPERAND_TO_INVEPT_INVVPID, f"{ept_pointer:#x} is no EPT pointer")
        self.cpu.engine.flush_tlb()

    def invvpid(self, kind: InvvpidType | int, vpid: int = 0, address: int = 0) -> None:
        """Forget what the processor has cached under a VPID: here it forgets everything, as a processor may.

        :raises VmFail: no such type, VPID 0 where one is needed, or an address that is not canonical.
        """
        self._require("INVVPID")
        error = _E.INVALID_OPERAND_TO_INVEPT_INVVPID
        if (kind.value if isinstance(kind, InvvpidType) else kind) not in [one.value for one in InvvpidType]:
            raise self._fail("INVVPID", error, f"there is no type {kind}")
        if kind is not InvvpidType.ALL_CONTEXT and not 0 < vpid <= 0xFFFF:
            raise self._fail("INVVPID", error, f"{vpid} is no VPID of a guest")
        if kind is InvvpidType.INDIVIDUAL_ADDRESS and 1 << 47 <= address < (1 << 64) - (1 << 47):
            raise self._fail("INVVPID", error, f"{address:#x} is not canonical")
        self.cpu.engine.flush_tlb()

    # ---------------------------------------------------------------------------------------- the rest

    def _require(self, instruction: str) -> None:
        if self._vmxon is None:
            raise MonitorError(f"{instruction} outside of VMX operation is #UD: execute VMXON first")

    def _current_vmcs(self, instruction: str) -> Vmcs:
        self._require(instruction)
        if self._current is None:
            raise VmFail(instruction, None, "no VMCS is current: execute VMPTRLD first")
        return self._regions[self._current]

    def _fail(self, instruction: str, error: VmInstructionError, why: str) -> VmFail:
        """VMfail: valid where a VMCS is current, which then has the error; invalid elsewhere (§31.2)."""
        if self._current is None:
            return VmFail(instruction, None, why)
        self._regions[self._current].fields[_F.VM_INSTRUCTION_ERROR] = error
        return VmFail(instruction, error, why)

    def _vmcs(self, region: Hpa) -> Vmcs:
        if region not in self._regions:
            self._regions[region] = Vmcs(self.capabilities)
        return self._regions[region]

    def _is_region(self, region: Hpa) -> bool:
        return not region & (PAGE_SIZE - 1) and 0 <= region <= self.cpu.engine.memory.size - PAGE_SIZE

    def _revision(self, region: Hpa) -> int:
        return int.from_bytes(self.cpu.engine.memory.view[region : region + 4], "little")
