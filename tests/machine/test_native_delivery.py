"""Native delivery does what the reference in `machine.interrupts` does, or leaves everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.delivery import Livelock
from simvirt.machine.delivery_log import FRUITLESS_DELIVERIES, FaultRecord
from simvirt.machine.engine import DELIVER_EVERYTHING, DELIVER_NOTHING
from simvirt.machine.events import LimitReached
from simvirt.machine.fills import Access
from simvirt.machine.interrupts import Source
from simvirt.x86.decode import decode
from simvirt.x86.exceptions import Vector
from simvirt.x86.instruction import Instruction
from tests.support.delivery_states import MEMORY, Arranger, Mode
from tests.support.pc import CODE, IDT, Pc, flat_pc, long_pc, real_pc

_STATES = 1000


def _everything(pc: Pc) -> tuple[bytes, bytes, bytes]:
    """State image, memory, flags of host pages."""
    return bytes(pc.state.image), bytes(pc.memory), pc.engine.memory.page_flags.tobytes()


def _put(pc: Pc, saved: tuple[bytes, bytes, bytes]) -> None:
    pc.state.image[:], pc.memory[:] = saved[0], saved[1]
    pc.engine.memory.page_flags[:] = list(saved[2])


def _compare(mode: Mode, seed: int, states: int) -> int:
    """Deliver in random states, both ways.

    :return: how often it was done natively.
    """
    pc = Pc(memory=MEMORY)
    log = pc.engine.deliveries
    arranger = Arranger(pc, Random(f"{mode.name} {seed}"))
    done = 0
    for number in range(states):
        what = arranger.arrange(mode)
        pc.cpu.count = number
        before = _everything(pc)
        if not pc.engine.deliver(what.vector, what.source, what.return_rip, what.error_code):
            assert _everything(pc) == before, f"{mode.name} {seed}, state {number}: {what} has left a trace"
            continue
        done += 1
        found, counted = _everything(pc), log.by_vector
        record = log.fault_chain[-1] if what.source is Source.EXCEPTION else None
        _put(pc, before)
        pc.cpu.count = number
        pc.cpu.native_delivery = DELIVER_NOTHING
        assert pc.cpu.deliver(what), f"{mode.name} {seed}, state {number}: the reference meets a fault with {what}"
        assert _everything(pc) == found, f"{mode.name} {seed}, state {number}: {what}"
        if record is not None:
            assert log.fault_chain[-1] == log.fault_chain[-2] == record
        counted[what.vector] += 1
        assert log.by_vector == counted
    return done


@pytest.mark.parametrize("mode", Mode)
def test_random_states(mode: Mode) -> None:
    assert _compare(mode, 1, _STATES) > _STATES // 20


def _compare_returns(mode: Mode, seed: int, states: int) -> int:
    """Run an IRET in random states; where the engine did it by itself, the reference does it again.

    :return: how often that was.
    """
    pc = Pc(memory=MEMORY)
    arranger = Arranger(pc, Random(f"IRET {mode.name} {seed}"))
    performed: list[Instruction] = []
    perform = pc.cpu.far_transfers.perform

    def recorded(instruction: Instruction) -> None:
        performed.append(instruction)
        perform(instruction)

    pc.cpu.far_transfers.perform = recorded  # type: ignore[method-assign]  # what the reference does is counted
    done = 0
    for number in range(states):
        arranger.arrange_return(mode)
        pc.cpu.count = number
        before = _everything(pc)
        performed.clear()
        event = pc.cpu.run(number + 1)
        if performed or not isinstance(event, LimitReached):
            continue
        done += 1
        found = ArchitecturalState.of(pc.state), bytes(pc.memory), pc.cpu.count
        _put(pc, before)
        pc.cpu.count = number
        pc.engine.translate(
            pc.state.rip, Access.FETCH, user=pc.state.cpl == 3, commit=True
        )  # which sets accessed flags
        perform(decode(bytes(pc.memory[pc.state.rip : pc.state.rip + 15]), pc.state.rip, pc.state.bits))
        assert ArchitecturalState.of(pc.state).differences(found[0]) == [], f"{mode.name} {seed}, state {number}"
        assert (bytes(pc.memory), pc.cpu.count) == found[1:], f"{mode.name} {seed}, state {number}"
    return done


_RETURN_MODES = [mode for mode in Mode if mode not in (Mode.REAL, Mode.VIRTUAL_8086)]


@pytest.mark.parametrize("mode", _RETURN_MODES)
def test_random_returns(mode: Mode) -> None:
    assert _compare_returns(mode, 1, _STATES // 2) > 5


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 105))
@pytest.mark.parametrize("mode", _RETURN_MODES)
def test_many_random_returns(mode: Mode, seed: int) -> None:
    assert _compare_returns(mode, seed, 10_000) > 100


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
@pytest.mark.parametrize("mode", Mode)
def test_many_random_states(mode: Mode, seed: int) -> None:
    assert _compare(mode, seed, 20_000) > 1000


def _warm(pc: Pc) -> None:
    """Deliver once, which sets accessed and dirty flags, and go back."""
    saved = bytes(pc.state.image)
    pc.cpu.deliver_external_interrupt(0x30)
    pc.state.image[:] = saved


@pytest.mark.parametrize("make", [real_pc, flat_pc, long_pc])
def test_software_interrupts_and_exceptions_come_back_as_no_event(make: Callable[[], Pc]) -> None:
    pc = make()
    pc.load("cd 40 ; int 0x40")
    _warm(pc)
    before = pc.cpu.count
    event = pc.cpu.run(before + 1, deliver=DELIVER_EVERYTHING)
    assert pc.cpu.count == before + 1, event
    assert pc.engine.deliveries.by_vector == {0x30: 1, 0x40: 1}


def test_what_an_observer_asks_for_is_an_event() -> None:
    pc = flat_pc()
    pc.load("0f 0b ; ud2")
    _warm(pc)
    pc.cpu.native_delivery &= ~(1 << Vector.UD)
    event = pc.cpu.run(10, deliver=DELIVER_EVERYTHING)
    assert event.vector is Vector.UD  # type: ignore[union-attr]  # another event would fail here
    assert pc.state.rip == CODE


def test_the_chain_and_the_counts_hold_native_deliveries() -> None:
    pc = flat_pc()
    pc.write(CODE, bytes.fromhex("0f0b"))
    _warm(pc)
    stack = pc.state.rsp
    pc.cpu.run(10, deliver=DELIVER_EVERYTHING)
    assert pc.vector == Vector.UD
    assert pc.state.rsp == stack - 12
    assert list(pc.cpu.fault_chain) == [FaultRecord(0, Vector.UD, None, None, pc.selectors()[1], CODE, 0)]
    assert pc.engine.deliveries.by_vector == {0x30: 1, Vector.UD: 1}


def _run_for_ever(pc: Pc) -> None:
    while True:
        pc.complete(pc.cpu.run(10, deliver=DELIVER_EVERYTHING))


def test_a_livelock_is_found_natively_too() -> None:
    pc = flat_pc()
    pc.write(CODE, bytes.fromhex("0f0b"))
    gate = bytearray(pc.memory[IDT + 8 * 6 : IDT + 8 * 7])
    gate[0:2], gate[6:8] = (CODE & 0xFFFF).to_bytes(2, "little"), (CODE >> 16).to_bytes(2, "little")
    pc.set_gate(Vector.UD, bytes(gate))
    pc.state.rsp = 0x60_0000
    with pytest.raises(Livelock):
        _run_for_ever(pc)
    assert pc.engine.deliveries.by_vector[Vector.UD] == FRUITLESS_DELIVERIES
