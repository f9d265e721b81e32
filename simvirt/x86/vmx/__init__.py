"""Intel VT-x as facts: exit reasons, controls, VMCS fields, exit qualifications, under the manual's names and numbers.

Nothing here executes anything; `machine` models the processor, `strategies.vtx` uses it. Section numbers are those of
the edition of the manual in which VMX begins with Chapter 24 of Volume 3C.
"""

from __future__ import annotations

from simvirt.x86.vmx.access_rights import AccessRights
from simvirt.x86.vmx.controls import (
    CONTROL_WORDS,
    ControlWord,
    EntryControls,
    ExitControls,
    PinControls,
    PrimaryControls,
    SecondaryControls,
)
from simvirt.x86.vmx.exit_reasons import EXIT_REASONS, ExitReason, ExitReasonField, ExitReasonInfo
from simvirt.x86.vmx.fields import FieldAccess, FieldKind, FieldWidth, VmcsField
from simvirt.x86.vmx.instruction_information import (
    DescriptorTableInformation,
    DescriptorTableInstruction,
    LocalTableInformation,
    LocalTableInstruction,
    MemoryAddressing,
    StringIoInformation,
)
from simvirt.x86.vmx.interruption import (
    ActivityState,
    Interruptibility,
    InterruptionInformation,
    InterruptionType,
    PendingDebugExceptions,
)
from simvirt.x86.vmx.qualifications import (
    CrAccess,
    CrAccessType,
    DebugQualification,
    EptViolation,
    IoInstruction,
    MovDr,
    TaskSwitch,
    TaskSwitchSource,
)

__all__ = [
    "CONTROL_WORDS",
    "EXIT_REASONS",
    "AccessRights",
    "ActivityState",
    "ControlWord",
    "CrAccess",
    "CrAccessType",
    "DebugQualification",
    "DescriptorTableInformation",
    "DescriptorTableInstruction",
    "EntryControls",
    "EptViolation",
    "ExitControls",
    "ExitReason",
    "ExitReasonField",
    "ExitReasonInfo",
    "FieldAccess",
    "FieldKind",
    "FieldWidth",
    "Interruptibility",
    "InterruptionInformation",
    "InterruptionType",
    "IoInstruction",
    "LocalTableInformation",
    "LocalTableInstruction",
    "MemoryAddressing",
    "MovDr",
    "PendingDebugExceptions",
    "PinControls",
    "PrimaryControls",
    "SecondaryControls",
    "StringIoInformation",
    "TaskSwitch",
    "TaskSwitchSource",
    "VmcsField",
]
