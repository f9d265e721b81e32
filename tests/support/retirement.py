"""An account of single steps that does not believe the engine: did this step carry out exactly one instruction?

The auditor knows the instructions' lengths and branch targets from iced-x86, and which interrupts and exceptions were
delivered during the step. From them it follows where the instruction pointer may stand afterwards. A step that
carried out no instruction, or two, does not get there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import iced_x86
import pytest

from simvirt.machine import interrupts
from simvirt.machine.engine import DELIVER_NOTHING
from simvirt.machine.fills import Access
from simvirt.machine.interrupts import Interruption, Source
from simvirt.machine.linear_memory import LinearMemory
from simvirt.machine.state import ProcessorState
from simvirt.machine.task_switch import TaskSwitch
from simvirt.strategies.strategy import Virtualized
from simvirt.x86.addresses import Gpa

_DEBUG = 1
_FLOW = iced_x86.FlowControl
_STRING_OPERATIONS = frozenset(
    getattr(iced_x86.Mnemonic, operation + size)
    for operation in ("MOVS", "STOS", "LODS", "CMPS", "SCAS", "INS", "OUTS")
    for size in "BWD"
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """An interrupt or exception that was delivered, and the handler's address."""

    vector: int
    source: Source
    return_rip: int
    handler: int


@contextmanager
def deliveries(patch: pytest.MonkeyPatch) -> Iterator[list[Delivery]]:
    """Record what the processor delivers."""
    found: list[Delivery] = []
    deliver = interrupts.deliver

    def recorded(state: ProcessorState, memory: LinearMemory, what: Interruption) -> TaskSwitch | None:
        task = deliver(state, memory, what)
        found.append(Delivery(what.vector, what.source, what.return_rip, state.rip))
        return task

    with patch.context() as within:
        within.setattr(interrupts, "deliver", recorded)
        yield found


class Auditor:
    """Follows a machine step by step."""

    def __init__(self, virtualized: Virtualized, strategy: str) -> None:
        self._machine = virtualized.machine
        virtualized.cpu.native_delivery = DELIVER_NOTHING  # every delivery is to be recorded
        self._engine = virtualized.cpu.engine
        self._strategy = strategy

    @property
    def _translates(self) -> bool:
        """Do the engine's walks lead to the guest's memory? Those of vtx do from the first VM entry on."""
        return self._strategy == "bare-metal" or (self._strategy == "vtx" and bool(self._engine.ept_pointer))

    def _code(self, rip: int) -> bytes:
        """Up to 15 bytes at an address, read without leaving a trace."""
        code = b""
        while len(code) < 15:
            address = rip + len(code)
            length = min(15 - len(code), 0x1000 - (address & 0xFFF))
            if self._translates:
                host = self._engine.translate(address, Access.FETCH, user=False)
                if host is None:
                    break
                code += bytes(self._engine.memory.view[host : host + length])
            else:
                code += self._machine.read_physical(Gpa(address), length)
        return code

    def decode(self, rip: int) -> iced_x86.Instruction:
        """The instruction at an address."""
        return iced_x86.Decoder(32, self._code(rip), ip=rip).decode()

    def step(self, found: list[Delivery]) -> None:
        """One `Machine.step`, audited; `found` is where deliveries are recorded."""
        machine = self._machine
        at = machine.processor.guest_state().rip
        before = machine.count
        found.clear()
        instruction = self.decode(at)
        machine.step()
        after = machine.processor.guest_state().rip
        if machine.count == before:
            assert machine.outcome is not None, f"no instruction was retired at {at:#x}"
            return
        assert machine.count == before + 1
        retired = ""
        for delivery in found:
            successors = _successors(instruction)
            if not retired and delivery.source is Source.SOFTWARE:
                assert instruction.flow_control == _FLOW.INTERRUPT, f"{instruction} is no software interrupt"
                assert delivery.return_rip == instruction.next_ip
                retired = str(instruction)
            elif delivery.vector == _DEBUG and delivery.source is Source.EXCEPTION and not retired:
                assert successors is None or delivery.return_rip in successors, f"#DB behind {instruction}: {delivery}"
                retired = str(instruction)
            else:
                assert not retired, f"{delivery} after {retired} was retired"
                assert delivery.return_rip == at, f"{delivery} at {at:#x}"
            at = delivery.handler
            instruction = self.decode(at)
        if retired:
            assert after == at, f"{retired} was retired, and then {instruction}"
        else:
            successors = _successors(instruction)
            assert successors is None or after in successors, f"{instruction} at {at:#x} led to {after:#x}"


def _successors(instruction: iced_x86.Instruction) -> set[int] | None:
    """Where an instruction can lead; None for anywhere."""
    following = instruction.next_ip32
    if instruction.mnemonic in _STRING_OPERATIONS and (instruction.has_rep_prefix or instruction.has_repne_prefix):
        return {following, instruction.ip32}
    flow = instruction.flow_control
    if flow in (_FLOW.NEXT, _FLOW.INTERRUPT):
        return {following}
    if flow == _FLOW.CONDITIONAL_BRANCH:
        return {following, instruction.near_branch_target}
    if flow in (_FLOW.UNCONDITIONAL_BRANCH, _FLOW.CALL) and instruction.near_branch_target:
        return {instruction.near_branch_target}
    return None
