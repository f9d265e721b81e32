"""KVM_SET_GUEST_DEBUG: a debugger in user space stops the guest behind each instruction, or at breakpoints.

The guest notices nothing but what a debugger writes into its memory: its debug registers and TF stay its own, for this
PC's processor has breakpoints for a debugger outside (`machine.breakpoints`). INT3 exits by the exception bitmap.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from simvirt.kvm.errors import KvmError
from simvirt.kvm.numbers import GuestDebugControl
from simvirt.kvm.structures import Debug, GuestDebug
from simvirt.machine.breakpoints import Breakpoint, WatchedAccess, Watchpoint
from simvirt.machine.debug_registers import BreakOn, HardwareBreakpoint, enabled_breakpoints
from simvirt.x86.addresses import Gva
from simvirt.x86.exceptions import Vector
from simvirt.x86.flags import DR6_ALWAYS_ONE, Dr6
from simvirt.x86.registers import SegmentRegister
from simvirt.x86.vmx import VmcsField

if TYPE_CHECKING:
    from simvirt.machine.breakpoints import DebuggerPoint
    from simvirt.strategies.vtx.vcpu import Vcpu

_C: Final = GuestDebugControl
_KNOWN: Final = int(_C.ENABLE | _C.SINGLESTEP | _C.USE_SW_BP | _C.USE_HW_BP)
_REGISTERS: Final = 8
_ACCESSES: Final = {BreakOn.WRITE: WatchedAccess.WRITE, BreakOn.ACCESS: WatchedAccess.ACCESS}


class Debugger:
    """What user space has asked for of one vCPU.

    :ivar steps: stop behind each instruction.
    """

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self._dr7 = 0
        self._points: dict[DebuggerPoint, int] = {}
        self.steps = False

    def set(self, what: GuestDebug) -> None:
        """KVM_SET_GUEST_DEBUG.

        :raises KvmError: EINVAL: a control that is not known, or registers that ask for what there is not.
        """
        control = what.control if what.control & _C.ENABLE else GuestDebugControl(0)
        if what.control & ~_KNOWN:
            raise KvmError(errno.EINVAL, f"guest debug control {int(what.control):#x}: known are bits {_KNOWN:#x}")
        if len(what.debugreg) != _REGISTERS:
            raise KvmError(errno.EINVAL, f"{len(what.debugreg)} debug registers: there are {_REGISTERS}")
        dr7 = what.debugreg[7] if control & _C.USE_HW_BP else 0
        points = {_point(one): one.condition for one in enabled_breakpoints(dr7, lambda n: what.debugreg[n])}
        breakpoints = self._vcpu.cpu.breakpoints
        breakpoints.clear()
        for point in points:
            breakpoints.insert(point)
        self._dr7, self._points = dr7, points
        self.steps = bool(control & _C.SINGLESTEP)
        self._vcpu.vmcs.write(VmcsField.EXCEPTION_BITMAP, 1 << Vector.BP if control & _C.USE_SW_BP else 0)

    def stepped(self) -> Debug:
        """An instruction has been stepped over."""
        return self._debug(Vector.DB, int(Dr6.BS))

    def hit(self) -> Debug:
        """The run has ended at a breakpoint or watchpoint."""
        return self._debug(Vector.DB, sum(self._points.get(point, 0) for point in self._vcpu.cpu.breakpoints.hit))

    def int3(self) -> Debug:
        """An INT3 has exited: RIP is on it."""
        return self._debug(Vector.BP, 0)

    def _debug(self, vector: Vector, condition: int) -> Debug:
        state = self._vcpu.cpu.state
        pc = state.rip if state.code_64 else state.segment_base(SegmentRegister.CS) + state.rip & 0xFFFF_FFFF
        return Debug(int(vector), pc, DR6_ALWAYS_ONE | condition, self._dr7)


def _point(one: HardwareBreakpoint) -> DebuggerPoint:
    if one.on is BreakOn.EXECUTION:
        return Breakpoint(Gva(one.first))
    if one.on not in _ACCESSES:
        raise KvmError(errno.EINVAL, f"DR7 asks for a breakpoint on I/O in DR{one.number}: ports exit anyway")
    return Watchpoint(Gva(one.first), one.length, _ACCESSES[one.on])
