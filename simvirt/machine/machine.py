"""A machine: a board of devices, a processor that runs on it, and the loop that keeps the two in step.

The loop is the same whoever the processor is, the bare CPU or a VM's virtual one: let the devices do what is due, hand
over an interrupt when one is pending and can be taken, run up to the next deadline, and no further than asked. So every
strategy sees every timer tick and every interrupt at the same guest instruction.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from simvirt.machine.board import BoardState  # noqa: TC001 - decoding a MachineState needs it at run time
from simvirt.machine.delivery import Livelock, Shutdown
from simvirt.machine.engine import NEVER
from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SHIFT, PAGE_SIZE, Gpa

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from simvirt.machine.architectural_state import ArchitecturalState
    from simvirt.machine.board import Board
    from simvirt.machine.breakpoints import Breakpoints
    from simvirt.machine.devices.screen import Screen
    from simvirt.machine.memory import AddressSpace, HostMemory
    from simvirt.x86.addresses import Hpa


class Stop(Enum):
    """Why a processor gave control back to the loop."""

    HANDLED = "an event was handled; devices may have changed"
    LIMIT = "the instruction limit was reached"
    WINDOW = "an interrupt can be taken now"
    HALTED = "HLT"
    INTERRUPTED = "the host asked for a stop"
    BREAKPOINT = "a break- or watchpoint of the debugger was hit"


class Outcome(Enum):
    """How a run ended; from WAITING_FOR_INPUT, INTERRUPTED and BREAKPOINT it can go on (`Machine.resume`)."""

    FINISHED = "finished"
    """The guest wrote to the debug-exit port, or turned the machine off by ACPI."""
    HALTED = "halted"
    """HLT, and nothing will ever wake the processor."""
    WAITING_FOR_INPUT = "waiting-for-input"
    """HLT, and only console input would wake the processor."""
    RESET = "reset"
    """The guest pulled the PC's reset line."""
    TRIPLE_FAULT = "triple-fault"
    """The processor shut down: an exception while it delivered a double fault (SDM Vol. 3A §6.15)."""
    LIMIT = "limit"
    """The allowed number of instructions is spent, or none retires any more (`delivery.Livelock`)."""
    INTERRUPTED = "interrupted"
    """The host asked for a stop, as Ctrl-C does."""
    BREAKPOINT = "breakpoint"
    """A break- or watchpoint of a debugger was hit (`Processor.breakpoints`)."""
    MONITOR_ERROR = "monitor-error"


_R = TypeVar("_R", bound="Callable[..., Stop]")
_GOING_BEYOND: Final[set[object]] = set()


def goes_beyond(run: _R) -> _R:
    """Marks a `Processor.run` that has a further parameter, `end`.

    At `limit` a device wants something. This `run` may know by itself what becomes of that, and go on, but not beyond
    `end` (`machine.standing_order`). A `run` that overrides it, or calls it, has its own mind, and is not asked to.
    """
    _GOING_BEYOND.add(run)
    return run


class Processor(Protocol):
    """What the loop needs of a processor, bare or virtual."""

    @property
    def count(self) -> int:
        """Guest instructions retired."""
        ...

    @property
    def interruptible(self) -> bool:
        """Can a maskable interrupt be taken now?"""
        ...

    @property
    def interrupts_enabled(self) -> bool:
        """Is IF set, as the guest sees it?"""
        ...

    @property
    def nmi_ready(self) -> bool:
        """Will the next run begin with an NMI, which comes before maskable interrupts (SDM Vol. 3A §6.9)?"""
        ...

    @property
    def nmi_blocked(self) -> bool:
        """Are NMIs held back until an IRET (SDM Vol. 3A §6.7.1)?"""
        ...

    def raise_nmi(self) -> None:
        """An edge on the NMI pin: the processor takes an NMI as soon as none is blocked. It holds one, not more."""
        ...

    def run(self, limit: int, *, window: bool) -> Stop:
        """Run until the loop has to look, or exactly `limit` instructions are retired in all.

        Events that neither need the board's `attention` nor end the run are handled without coming back.
        `window` asks for a stop as soon as a maskable interrupt can be taken.

        :raises Shutdown: a triple fault.
        :raises Livelock: exceptions follow each other and no instruction retires.
        """
        ...

    def assert_ignne(self) -> None:
        """IGNNE#: x87 errors are ignored for as long as one is pending (SDM Vol. 1 §8.7.2)."""
        ...

    def inject_interrupt(self, vector: int) -> None:
        """Deliver a maskable interrupt; only while `interruptible`."""
        ...

    @property
    def breakpoints(self) -> Breakpoints:
        """A debugger's break- and watchpoints."""
        ...

    def set_a20(self, is_open: bool) -> None:
        """Let address line 20 through, or hold it at 0 for every access of the guest's processor."""
        ...

    def request_stop(self) -> None:
        """Make the current or next run stop soon."""
        ...

    def guest_state(self) -> ArchitecturalState:
        """The processor's state as the guest's machine has it."""
        ...

    def set_guest_state(self, state: ArchitecturalState) -> None:
        """Put the processor of the guest's machine into `state`."""
        ...

    def save(self) -> Any:
        """Everything that the processor knows, as a value that msgspec can encode."""
        ...

    def restore(self, state: Any) -> None:
        """Take up a saved state."""
        ...


def _run_of(processor: Processor, end: int) -> Callable[..., Stop]:
    """The `run` of a processor that is to go as far as `end`."""
    if getattr(processor.run, "__func__", None) in _GOING_BEYOND:
        return partial(processor.run, end=end)  # type: ignore[call-arg]  # which is what the mark says
    return processor.run


@dataclass(frozen=True, slots=True)
class MachineState:
    """A whole machine at one instruction: what a snapshot holds."""

    count: int
    """Guest instructions retired."""
    halted: bool
    """Does the processor sleep in HLT?"""
    outcome: Outcome | None
    processor: Any
    """What `Processor.save` made."""
    board: BoardState
    pages: dict[int, bytes]
    """Host pages that are not zero, by number."""


class Machine:
    """A board and a processor in step.

    :ivar halted: does the processor sleep in HLT?
    :ivar outcome: how the run ended; None while it can go on.
    """

    def __init__(
        self,
        processor: Processor,
        board: Board,
        memory: HostMemory,
        space: AddressSpace,
        written: Callable[[int, int], None],
    ) -> None:
        self.processor = processor
        self.board = board
        self.memory = memory
        self.space = space
        """The guest-physical address space."""
        self._written = written
        board.on_a20 = processor.set_a20
        board.direct_memory.connect(memory.view, space, written)
        board.on_nmi = processor.raise_nmi
        board.on_ignne = processor.assert_ignne
        self.halted = False
        self._stop_requested = False
        self.outcome: Outcome | None = None
        self._pausing = False

    @property
    def count(self) -> int:
        """Guest instructions retired."""
        return self.processor.count

    def run(self, max_instructions: int = NEVER) -> Outcome:
        """Run to the guest's end, or until `max_instructions` are retired in all."""
        outcome = self.run_to(max_instructions)
        return Outcome.LIMIT if outcome is None else outcome

    def step(self) -> Outcome | None:
        """Run exactly one instruction, and whatever interrupts and exceptions are delivered before it."""
        return self.run_to(self.processor.count + 1)

    def run_to(self, instruction: int, *, until_halt: bool = False) -> Outcome | None:
        """Run until exactly `instruction` instructions are retired, or to the end, whose outcome is returned.

        What is due at that instruction, an interrupt or a fault, has not been delivered yet. With `until_halt` it comes
        back as well when the processor has fallen asleep in HLT; the next call wakes it.
        """
        processor, board = self.processor, self.board
        run, interrupts = _run_of(processor, instruction), board.interrupts
        retired = board.clock.retired  # what `processor.count` gives, in one call
        while self.outcome is None and retired() < instruction:
            if self._pausing:
                self._interrupt()
                break
            board.run_due()
            try:
                if processor.nmi_ready:
                    self.halted = False
                elif interrupts.pending and processor.interruptible:
                    self.halted = False
                    processor.inject_interrupt(interrupts.acknowledge())
                    if interrupts.pending:
                        continue
                if self.halted:
                    self._sleep()
                    continue
                limit = board.run_limit(instruction)
                board.attention.needed = False
                stop = run(limit, window=interrupts.pending)
            except Shutdown:
                self.outcome = Outcome.TRIPLE_FAULT
                break
            except Livelock:
                self.outcome = Outcome.LIMIT
                break
            if stop is Stop.HALTED:
                self.halted = True
                if until_halt:
                    break
            elif stop is Stop.INTERRUPTED:
                self._interrupt()
            elif stop is Stop.BREAKPOINT:
                self.outcome = Outcome.BREAKPOINT
            if board.ended:
                self.outcome = (
                    Outcome.RESET if board.reset_requested and board.exit_status is None else Outcome.FINISHED
                )
        return self.outcome

    def _sleep(self) -> None:
        """HLT: skip to the next event that can wake the processor, or find that there is none."""
        processor, board = self.processor, self.board
        if self._stop_requested:
            self._interrupt()
            return
        if board.sleep(interrupts=processor.interrupts_enabled, nmi=not processor.nmi_blocked):
            return
        waiting = processor.interrupts_enabled and board.awaits_input()
        self.outcome = Outcome.WAITING_FOR_INPUT if waiting else Outcome.HALTED

    def _interrupt(self) -> None:
        """The run ends as requested, and nobody asks any more: neither here nor of the processor."""
        self._pausing = self._stop_requested = False
        self.processor.run(self.processor.count, window=False)
        self.outcome = Outcome.INTERRUPTED

    def request_stop(self) -> None:
        """End the run soon, as Ctrl-C does; after `resume` it can go on."""
        self._stop_requested = True
        self.processor.request_stop()

    def pause(self) -> None:
        """End the run right behind the event that is being dealt with, before anything else is due; as `request_stop`.

        To be called while an event is dealt with, by whoever is told of it.
        """
        self._pausing = True
        self.processor.request_stop()

    def resume(self) -> None:
        """Forget that the run was interrupted or waited for input, so that `run` takes it up again."""
        self._pausing = False
        if self.outcome in (Outcome.INTERRUPTED, Outcome.WAITING_FOR_INPUT, Outcome.BREAKPOINT):
            self.outcome = None

    def raise_nmi(self) -> None:
        """An NMI from outside of the board, as a dump switch makes it: straight to the processor's pin.

        It wakes a processor that nothing else would. What the guest can mask is `Board.io_channel_check`.
        """
        self.processor.raise_nmi()
        if self.outcome in (Outcome.HALTED, Outcome.WAITING_FOR_INPUT):
            self.outcome = None

    @property
    def screen(self) -> Screen | None:
        """What the display adapter shows; None in a graphics mode, or without one."""
        return self.board.screen(self.read_physical)

    def read_physical(self, gpa: Gpa, size: int) -> bytes:
        """Guest-physical memory; ones where there is none."""
        return b"".join(
            b"\xff" * length if host is None else bytes(self.memory.view[host : host + length])
            for host, _, length in self._pieces(gpa, size)
        )

    def write_physical(self, gpa: Gpa, data: bytes) -> None:
        """Write guest-physical memory, as a loader or a device does; dropped where there is none."""
        for host, offset, length in self._pieces(gpa, len(data)):
            if host is not None:
                self.memory.view[host : host + length] = data[offset : offset + length]
                self._written(host, length)

    def _pieces(self, gpa: Gpa, size: int) -> Iterator[tuple[Hpa | None, int, int]]:
        """(host address, offset, length) of the parts of an access that lie in one region or outside all of them."""
        offset = 0
        while offset < size:
            at = Gpa(gpa + offset)
            region = self.space.region(at)
            end = region.end if region is not None else (at & ~PAGE_OFFSET_MASK) + PAGE_SIZE
            length = min(size - offset, end - at)
            yield self.space.host(at), offset, length
            offset += length

    def save(self) -> MachineState:
        """The whole machine as a value, memory included."""
        import numpy as np

        used = np.flatnonzero(self.memory.array.reshape(-1, PAGE_SIZE).any(axis=1))
        return self.save_with_pages(int(page) for page in used)

    def save_with_pages(self, pages: Iterable[int]) -> MachineState:
        """As `save`, but of memory these host pages, by number."""
        view = self.memory.view
        return MachineState(
            count=self.processor.count,
            halted=self.halted,
            outcome=self.outcome,
            processor=self.processor.save(),
            board=self.board.save(),
            pages={page: bytes(view[page << PAGE_SHIFT : (page + 1) << PAGE_SHIFT]) for page in pages},
        )

    def restore(self, state: MachineState) -> None:
        """Become the machine that was saved.

        :raises SnapshotError: it is the state of another kind of machine.
        """
        self._restore(state, state.pages, everything=True)

    def restore_with_pages(self, state: MachineState, pages: Mapping[int, bytes]) -> None:
        """As `restore`, but of memory write these host pages, and leave the others as they are.

        :raises SnapshotError: it is the state of another kind of machine.
        """
        self._restore(state, pages, everything=False)

    def _restore(self, state: MachineState, pages: Mapping[int, bytes], *, everything: bool) -> None:
        self.board.restore(state.board)
        if everything:
            self.memory.array[:] = 0
        for page, data in pages.items():
            self.memory.view[page << PAGE_SHIFT : (page + 1) << PAGE_SHIFT] = data
        self.processor.restore(state.processor)
        self.processor.set_a20(self.board.a20)
        self.halted = state.halted
        self.outcome = state.outcome
