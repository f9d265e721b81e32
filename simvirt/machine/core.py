"""The processor as the routines see it that carry out single instructions for it: what `Cpu` offers them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from simvirt.x86.prefixes import split_prefixes

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.engine import Engine
    from simvirt.machine.events import Event
    from simvirt.machine.linear_memory import LinearMemory
    from simvirt.machine.state import ProcessorState
    from simvirt.x86.instruction import Instruction, MemoryOperand
    from simvirt.x86.prefixes import Prefixes


class Core(Protocol):
    """State, memory, and the end of an instruction."""

    engine: Engine
    state: ProcessorState
    memory: LinearMemory

    def operand(self, instruction: Instruction, size: int, offset: int = 0) -> int:
        """The source operand of an instruction: `size` bytes at `offset` in memory, or the low bytes of a register."""
        ...

    def linear_address(self, operand: MemoryOperand) -> int:
        """Linear address of a memory operand, by the registers as they are now."""
        ...

    def advance(self, length: int) -> None:
        """Step over the instruction at RIP, which is complete."""
        ...

    def retire(self, *, stepping: bool | None = None) -> None:
        """The instruction is complete and has set RIP itself."""
        ...

    def instruction(self) -> Instruction:
        """The instruction that the last event stands on, decoded."""
        ...

    def run_natively(self) -> Event | None:
        """Run the instruction at RIP alone, with no intercepts but those that every instruction has."""
        ...

    def run_alone(self, permit: Callable[[], None]) -> Event | None:
        """Run the instruction at RIP alone, `permit` having said that it may be; the event that it met, or None."""
        ...

    def unblock_nmi(self) -> None:
        """IRET is executed."""
        ...

    def load_pdptes(self, cr3: int) -> None:
        """Load the PDPTE registers of PAE paging."""
        ...

    def trap_of_task_switch(self) -> None:
        """The TSS of the new task has the T flag set: a debug exception before its first instruction."""
        ...


def opcode(cpu: Core) -> tuple[Prefixes, bytes]:
    """The prefixes of the instruction that the last event stands on, and its bytes from the opcode on."""
    return split_prefixes(cpu.engine.code_bytes, cpu.state.bits)
