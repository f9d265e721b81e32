"""Repeated INS and OUTS: the iterations that nothing comes between, done at once.

Each iteration is an instruction retired, and an interrupt may come between two of them (SDM Vol. 2B "REP"). But as long
as no device wants anything, no deadline and no limit is reached, and memory stays within one page that is nothing but
memory, nobody could tell them from a run of them; so they need no entry into the engine each.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.machine.fills import Access, PageFlag
from simvirt.x86.addresses import PAGE_OFFSET_MASK, PAGE_SHIFT, PAGE_SIZE
from simvirt.x86.decode import used_memory
from simvirt.x86.flags import Eflags
from simvirt.x86.registers import GeneralRegister, SegmentRegister

if TYPE_CHECKING:
    from simvirt.machine.cpu import Cpu
    from simvirt.machine.events import PortAccess
    from simvirt.machine.processor_bus import Bus

_SLOW_FLAGS: Final = int(Eflags.DF | Eflags.TF | Eflags.RF)
_NOT_PLAIN: Final = int(PageFlag.EXECUTED | PageFlag.WATCHED)


def runs_on(cpu: Cpu, event: PortAccess) -> bool:
    """May `further_iterations` follow the iteration that the event stands on?

    Not where it matters how each is entered: with single step, breakpoints or an interrupt shadow, nor downwards.
    """
    state = cpu.state
    return event.is_repeated and not (state.eflags & _SLOW_FLAGS or state.interrupt_shadow or cpu.breakpoints.armed)


def further_iterations(cpu: Cpu, bus: Bus, event: PortAccess) -> int:
    """Go on with a repeated I/O instruction whose first iteration is done; how many more have been.

    None if the next one touches a page that holds code, is watched or is no memory.
    """
    state, engine = cpu.state, cpu.engine
    width, size = event.address_size, event.size
    index = GeneralRegister.RSI if event.is_out else GeneralRegister.RDI
    offset = state.register(index, width)
    remaining = state.register(GeneralRegister.RCX, width)
    address = _address(cpu, event, offset)
    most = min(
        remaining,
        engine.limit - engine.count,
        (PAGE_SIZE - (address & PAGE_OFFSET_MASK)) // size,
        ((1 << 8 * width) - 1 - offset) // size,
    )
    if most < 1 or bus.disturbed():
        return 0
    user = state.cpl == 3
    host = cpu.memory.host(address, Access.READ if event.is_out else Access.WRITE, user=user)
    if host is None or int(engine.memory.page_flags[host >> PAGE_SHIFT]) & _NOT_PLAIN:
        return 0
    done = _transfer(cpu, bus, event, address=address, most=most)
    state.set_register(index, width, offset + done * size)
    state.set_register(GeneralRegister.RCX, width, remaining - done)
    return done


def _address(cpu: Cpu, event: PortAccess, offset: int) -> int:
    """The linear address of the next element: of INS always in ES, of OUTS in the segment that a prefix chose."""
    if not event.is_out:
        base = 0 if cpu.state.code_64 else cpu.state.segment_base(SegmentRegister.ES)
        return base + offset if cpu.state.code_64 else base + offset & 0xFFFFFFFF
    source = next(use for use in used_memory(cpu.instruction()) if use.access.reads)
    return cpu.linear_address(source.operand)


def _transfer(cpu: Cpu, bus: Bus, event: PortAccess, *, address: int, most: int) -> int:
    """Move up to `most` elements, each at its own moment, until a device wants something; how many it were."""
    engine, port, size = cpu.engine, event.port, event.size
    user = cpu.state.cpl == 3
    done = 0
    if event.is_out:
        data = cpu.memory.read(address, most * size, user=user, explicit=True)
        while done < most and (done == 0 or not bus.disturbed()):
            bus.write_port(port, size, int.from_bytes(data[done * size : (done + 1) * size], "little"))
            engine.count += 1
            done += 1
        return done
    received = bytearray()
    while done < most and (done == 0 or not bus.disturbed()):
        received += bus.read_port(port, size).to_bytes(size, "little")
        engine.count += 1
        done += 1
    cpu.memory.write(address, bytes(received), user=user, explicit=True)
    return done
