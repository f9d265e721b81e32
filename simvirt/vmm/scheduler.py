"""The scheduler of a VMM with several VMs: they take turns on the processor, in slices of guest instructions.

A slice is a number of instructions, not a time of the host's: so a run is the same every time. A VM whose processor
sleeps in HLT gives the rest of its slice away. Each VM has a virtual time of its own, which stands still while another
one runs; so none can tell by its clock that it shares the PC, and each runs exactly as it would alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from simvirt.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_SLICE: Final = 1_000_000
"""Instructions; one millisecond of the VM's time."""


class Schedulable(Protocol):
    """A VM as its scheduler sees it."""

    @property
    def runnable(self) -> bool:
        """Has it not ended yet?"""
        ...

    def enter(self) -> None:
        """Put it on the processor."""
        ...

    def run_slice(self, instructions: int) -> None:
        """Run so many instructions, or less: to where its processor sleeps, or to its end."""
        ...


class RoundRobin:
    """Each VM in turn, until all have ended.

    :ivar slices: how many have been given.
    """

    def __init__(self, vms: Sequence[Schedulable], instructions: int = DEFAULT_SLICE) -> None:
        """Slices of so many instructions.

        :raises UsageError: less than one.
        """
        if instructions < 1:
            raise UsageError(f"a slice of {instructions} instructions: at least one is needed")
        self._vms = vms
        self._instructions = instructions
        self.slices = 0

    def run(self) -> None:
        """Run all of them to their ends."""
        waiting = [vm for vm in self._vms if vm.runnable]
        while waiting:
            for vm in waiting:
                vm.enter()
                vm.run_slice(self._instructions)
                self.slices += 1
            waiting = [vm for vm in waiting if vm.runnable]
