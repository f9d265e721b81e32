"""The bare PC: the CPU with nothing between it and the board."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.clock import WORD
from simvirt.machine.completion import complete
from simvirt.machine.cpu import Cpu
from simvirt.machine.devices.vga import TEXT_BUFFER, TEXT_BUFFER_SIZE
from simvirt.machine.engine import DELIVER_EVERYTHING
from simvirt.machine.events import DebuggerHit, Halt, Interrupted, InterruptWindow, LimitReached, X87ErrorReported
from simvirt.machine.machine import Machine, Stop, goes_beyond
from simvirt.machine.memory import AddressSpace, HostMemory, Region, RegionKind
from simvirt.machine.svm import Intercepts
from simvirt.x86.addresses import Gpa, Hpa

if TYPE_CHECKING:
    from collections.abc import Callable

    from simvirt.machine.board import Board
    from simvirt.machine.breakpoints import Breakpoints
    from simvirt.machine.devices.local_apic import LocalApic
    from simvirt.machine.events import Event
    from simvirt.machine.memory_bus import MemoryBus
    from simvirt.machine.standing_order import StandingOrder
    from simvirt.x86.addresses import Port
    from simvirt.x86.cpuid import CpuModel


class BoardBus:
    """The processor's side of a board: what `machine.completion` asks of the world."""

    def __init__(self, board: Board, space: AddressSpace, cpu_model: CpuModel) -> None:
        self.cpu_model = cpu_model
        self._board = board
        self._space = space
        self.read_port: Callable[[Port, int], int] = board.bus.read  # type: ignore[assignment]  # sizes are 1, 2 or 4 by construction
        self.write_port: Callable[[Port, int, int], None] = board.bus.write  # type: ignore[assignment]  # likewise
        self.attention = board.attention
        """Set when the board has to be looked at before the processor goes on."""
        self._clock = board.clock
        self._ports = board.bus
        self._memory = board.memory
        self._interrupts = board.interrupts
        self.standing_order, self.carried_out = board.interrupts.standing_order, board.interrupts.carried_out

    def slept(self) -> int:
        """Nanoseconds by which the clock is ahead of the count of instructions."""
        return self._clock.skipped

    def disturbed(self) -> bool:
        """Is INTR high, or anything due by now, or the run over?"""
        board = self._board
        deadline = board.next_deadline()
        return board.interrupt_pending() or board.ended or (deadline is not None and deadline <= board.clock.now())

    def claims_port(self, port: Port, size: int) -> bool:
        """Would a device take any part of this access?"""
        return self._ports.answers(port, size)

    def read_memory(self, gpa: Gpa, size: int) -> int:
        """Read of device memory."""
        return self._memory.read(gpa, size)

    def write_memory(self, gpa: Gpa, size: int, value: int) -> None:
        """Write of device memory."""
        self._memory.write(gpa, size, value)

    @property
    def local_apic(self) -> LocalApic | None:
        """The local APIC, if the processor has one."""
        return self._interrupts.local_apic

    def time_stamp(self) -> int:
        """The time-stamp counter: one tick a nanosecond of virtual time."""
        return self._clock.time_stamp()

    def time_offset(self) -> int:
        """The time-stamp counter less the instructions retired: what HLT has skipped, and what it was moved by."""
        return self._clock.skipped + self._clock.time_stamp_adjustment & WORD

    @property
    def time_stamp_adjustment(self) -> int:
        """IA32_TSC_ADJUST."""
        return self._clock.time_stamp_adjustment

    def move_time_stamp(self, adjustment: int) -> None:
        """WRMSR of IA32_TSC_ADJUST: the counter moves with it. Whoever runs the processor learns of it at once."""
        self._clock.time_stamp_adjustment = adjustment
        if self.local_apic is not None:
            self.local_apic.time_stamp_moved()
        self.attention.needed = True

    def report_x87_error(self) -> None:
        """FERR#."""
        self._board.x87_error()

    def region(self, gpa: Gpa) -> Region | None:
        """The region that holds a guest-physical address, or None."""
        return self._space.region(gpa)


@dataclass(frozen=True, slots=True)
class ProcessorSnapshot:
    """The bare CPU as a value."""

    count: int
    """Instructions retired."""
    image: bytes
    """As `Engine.save_image` makes it."""


_STOPS: Final[dict[type, Stop]] = {
    LimitReached: Stop.LIMIT,
    InterruptWindow: Stop.WINDOW,
    Interrupted: Stop.INTERRUPTED,
    DebuggerHit: Stop.BREAKPOINT,
}
"""The events that are nothing for the hardware."""


class BareProcessor:
    """The CPU of the PC: every event is completed by the hardware."""

    def __init__(self, cpu: Cpu, bus: BoardBus) -> None:
        self.cpu = cpu
        self.bus = bus
        cpu.intercept(Intercepts())
        cpu.engine.set_cpuid(bus.cpu_model.native_leaves())
        cpu.engine.set_native_tsc(0, rdtscp=bus.cpu_model.has_rdtscp)
        cpu.engine.follow_model(bus.cpu_model)
        cpu.engine.answer_in_holes()

    @property
    def count(self) -> int:
        """Instructions retired."""
        return self.cpu.engine.count

    @property
    def interruptible(self) -> bool:
        """Is IF set, and no interrupt shadow in force?"""
        return self.cpu.state.interruptible

    @property
    def interrupts_enabled(self) -> bool:
        """EFLAGS.IF."""
        return self.cpu.state.interrupt_flag

    @property
    def nmi_ready(self) -> bool:
        """Is an NMI pending that nothing holds back?"""
        cpu = self.cpu
        return (cpu.engine.nmi_pending or cpu.nmi_window) and cpu.nmi_ready

    @property
    def nmi_blocked(self) -> bool:
        """Is an NMI being handled?"""
        return self.cpu.state.nmi_blocked

    def raise_nmi(self) -> None:
        """An edge on the NMI pin."""
        self.cpu.raise_nmi()

    def assert_ignne(self) -> None:
        """IGNNE#: x87 errors are ignored for as long as one is pending."""
        self.cpu.state.assert_ignne()

    @goes_beyond
    def run(self, limit: int, *, window: bool, end: int = 0) -> Stop:
        """Run and complete events, until one needs the board's attention or is nothing for the hardware."""
        cpu, bus = self.cpu, self.bus
        cpu.engine.tsc_base = bus.time_offset()
        attention = bus.attention
        order = bus.standing_order() if limit < end and not window and cpu.takes_orders else None
        serving = False
        while True:
            if order is None:
                event = cpu.run(limit, window=window, deliver=DELIVER_EVERYTHING)
            else:
                event, serving = self._run_by(order, end)
            kind = type(event)
            stop = _STOPS.get(kind)
            if stop is not None:
                return stop
            sleeps = (kind is Halt and cpu.can_halt) or kind is X87ErrorReported
            complete(cpu, bus, event)
            if sleeps:
                return Stop.HALTED
            if attention.needed or window:
                return Stop.HANDLED
            # An order is worth its while as long as the end of an interrupt is awaited.
            order = bus.standing_order() if serving and cpu.takes_orders else None
            serving = False

    def _run_by(self, order: StandingOrder, end: int) -> tuple[Event, bool]:
        """Run to an event under a standing order, and tell the devices what has been done about it.

        :return: the event; is an interrupt of the order's in service?
        """
        engine, bus = self.cpu.engine, self.bus
        slept_ns = bus.slept()
        if order.rises.until_ns is not None:
            end = min(end, order.rises.until_ns - slept_ns)
        engine.give_order(order, slept_ns)
        try:
            event = self.cpu.run(end, deliver=DELIVER_EVERYTHING)
        finally:
            taken, in_service = engine.end_order()
            bus.carried_out(order, taken, in_service)
        return event, in_service

    def inject_interrupt(self, vector: int) -> None:
        """Deliver a maskable interrupt through the guest's IDT or IVT."""
        self.cpu.deliver_external_interrupt(vector)

    @property
    def breakpoints(self) -> Breakpoints:
        """A debugger's break- and watchpoints."""
        return self.cpu.breakpoints

    def set_a20(self, is_open: bool) -> None:
        """Let address line 20 through, or not."""
        self.cpu.engine.set_a20(is_open)

    def request_stop(self) -> None:
        """Make the current or the next run stop soon."""
        self.cpu.request_stop()

    def guest_state(self) -> ArchitecturalState:
        """The CPU's own state: guest and machine are one here."""
        return ArchitecturalState.of(self.cpu.state)

    def set_guest_state(self, state: ArchitecturalState) -> None:
        """Put the CPU into `state`."""
        self.cpu.take_up_state(state)
        self.cpu.engine.follow_umip()
        self.cpu.engine.flush_tlb()

    def save(self) -> ProcessorSnapshot:
        """The CPU as a value."""
        return ProcessorSnapshot(self.cpu.count, self.cpu.engine.save_image())

    def restore(self, state: ProcessorSnapshot) -> None:
        """Take up a saved state.

        :raises EngineError: its image is not of this engine.
        """
        self.cpu.engine.restore_image(state.image)
        self.cpu.count = state.count


LOW_HOLE: Final = (0xA0000, 0x100000)
"""Video memory and ROMs of a PC: only the text buffer answers there."""
FIRMWARE_SIZE: Final = 0x10000
FIRMWARE_PLACES: Final = (Gpa(0xF0000), Gpa(0xFFFF0000))
"""Where a PC's firmware answers: below 1 MiB, and below 4 GiB, where the processor begins after reset."""
LEAST_HOST_MEMORY: Final = 0x100000
"""Host memory that the memory map of a PC needs at least: the text buffer lies below."""


def host_memory_size(memory_size: int) -> int:
    """Bytes of host memory for a PC with this much RAM."""
    return max(memory_size, LEAST_HOST_MEMORY)


def pc_regions(
    memory_size: int, host: Hpa = Hpa(0), *, firmware: bool = False, devices: MemoryBus | None = None
) -> AddressSpace:
    """The memory map of a PC: conventional memory, the adapter's text buffer in a hole, firmware, extended memory.

    All of it lies from `host` on in host memory, of which `host_memory_size` bytes are needed; RAM of `memory_size`
    bytes loses the part that the hole takes.

    :param firmware: the ROM answers at the reset vector too. A kernel that is loaded without its help finds the tables
        alone that firmware leaves below 1 MiB.
    :param devices: those that have registers in memory.
    """
    low, high = LOW_HOLE
    regions = [
        Region(Gpa(0), min(low, memory_size), RegionKind.RAM, host, "conventional memory"),
        Region(Gpa(TEXT_BUFFER), TEXT_BUFFER_SIZE, RegionKind.RAM, Hpa(host + TEXT_BUFFER), "text buffer"),
    ]
    if memory_size > high:
        regions.append(Region(Gpa(high), memory_size - high, RegionKind.RAM, Hpa(host + high), "extended memory"))
    memory = Hpa(host + FIRMWARE_PLACES[0])
    places = FIRMWARE_PLACES if firmware else FIRMWARE_PLACES[:1]
    regions += [Region(at, FIRMWARE_SIZE, RegionKind.ROM, memory, "firmware") for at in places]
    for addresses, name in [] if devices is None else devices.ranges:
        regions.append(Region(Gpa(addresses.start), len(addresses), RegionKind.MMIO, name=name))
    return AddressSpace(regions)


def bare_pc(
    board_for: Callable[[Callable[[], int]], Board], memory_size: int, cpu_model: CpuModel, *, firmware: bool = False
) -> tuple[Machine, Cpu]:
    """A PC with no guest on it, and its CPU; `board_for` makes the board, given the count of instructions retired."""
    memory = HostMemory(host_memory_size(memory_size))
    cpu = Cpu(memory)
    board = board_for(cpu.engine.read_count)
    space = pc_regions(memory_size, firmware=firmware, devices=board.memory)
    cpu.engine.set_address_space(space)
    return Machine(BareProcessor(cpu, BoardBus(board, space, cpu_model)), board, memory, space, cpu.engine.written), cpu
