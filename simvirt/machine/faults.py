"""An exception of the simulated processor, while its handling is still under way inside simvirt.

`ProcessorFault` is how the code that does the processor's work (delivery of interrupts, loading of segments, system
calls) reports that the manual says ``#GP(selector)`` at this point. It never leaves the machine layer: the CPU turns it
into a delivery, a double fault or a shutdown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.x86.exceptions import SelectorErrorCode, Vector

if TYPE_CHECKING:
    from simvirt.machine.events import EptRefusal


class ProcessorFault(Exception):  # noqa: N818 - it is the processor's fault, not an error of this program
    """An exception `vector` with its error code.

    A page fault has the linear address that CR2 will hold, a debug exception the bits that DR6 will show.
    """

    def __init__(
        self, vector: Vector, error_code: int | None = None, cr2: int | None = None, *, condition: int = 0
    ) -> None:
        self.vector = vector
        self.error_code = error_code
        self.cr2 = cr2
        self.condition = condition
        super().__init__(f"{vector.mnemonic}({error_code})")


class EptRefused(Exception):  # noqa: N818 - a VM exit to come, not an error
    """The EPT refused an access that the processor made for itself: to a descriptor, to the stack of a delivery.

    :ivar event: the violation or misconfiguration.
    """

    def __init__(self, event: EptRefusal) -> None:
        self.event = event
        super().__init__(f"{type(event).__name__} at guest-physical {event.gpa:#x}")


def general_protection(selector: int = 0, *, external: bool = False) -> ProcessorFault:
    """#GP(selector), or #GP(0); `external` is the EXT bit of the error code (SDM Vol. 3A §6.13)."""
    return ProcessorFault(Vector.GP, SelectorErrorCode.for_selector(selector, external=external).encode())


def not_present(selector: int, *, external: bool = False) -> ProcessorFault:
    """#NP(selector): a segment or gate is not present."""
    return ProcessorFault(Vector.NP, SelectorErrorCode.for_selector(selector, external=external).encode())


def invalid_tss(selector: int, *, external: bool = False) -> ProcessorFault:
    """#TS(selector): the TSS does not hold what is needed of it."""
    return ProcessorFault(Vector.TS, SelectorErrorCode.for_selector(selector, external=external).encode())


def stack_fault(selector: int = 0, *, external: bool = False) -> ProcessorFault:
    """#SS(selector): a stack segment is not present; #SS(0): its limit is exceeded."""
    return ProcessorFault(Vector.SS, SelectorErrorCode.for_selector(selector, external=external).encode())
