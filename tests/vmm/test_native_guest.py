"""What native code does to a de-privileged guest's processor is what the references do, or nothing.

Deliveries are compared with `machine.interrupts` on the guest's view of the state; IRETs with the whole way that they
would take: trap in ring 1, dispatcher, `machine.far_transfers` on the guest's own descriptors.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, replace
from random import Random

import pytest

from simvirt.machine.architectural_state import ArchitecturalState
from simvirt.machine.engine import DELIVER_EVERYTHING, DELIVER_NOTHING
from simvirt.machine.events import FlagsAccess
from simvirt.machine.interrupts import Interruption, Source
from simvirt.strategies.trap_and_emulate.dispatcher import Dispatcher
from simvirt.strategies.trap_and_emulate.processor import DeprivilegedProcessor
from simvirt.vmm.allocator import VMM_RESERVE, Allocator
from simvirt.vmm.deprivileged_state import PrivilegedState
from simvirt.vmm.exit_log import ExitLog, ExitLogState
from simvirt.vmm.virtual_cpu import VirtualCpu
from simvirt.x86.exceptions import ERROR_CODE_VECTORS
from simvirt.x86.registers import SegmentRegister
from tests.support import tables as t
from tests.support import twins as w
from tests.support.twins import Twins
from tests.vmm.shadow_paging.paging_programs import PagingProgram, install

_STATES = 400
_VMM_PAGES = range(0x60_0000, 0x60_0000 + Allocator.vmm_pages * 0x1000)
_FLAGS = 0x3F_7FD7 & ~(1 << 8) & ~(1 << 17)
"""Of which a random image consists: not TF, which is Python's, nor VM."""
_CODE = (
    w.CS0,
    w.CS3,
    w.CS16,
    w.CS0_CONFORMING,
    w.CS3_CONFORMING,
    w.EXECUTE_ONLY,
    w.ABSENT_CODE,
    w.SHORT_CODE,
    w.CS3_16,
    w.CS1,
)
_STACKS = (w.DS0, w.DS3, w.DS16, w.READ_ONLY, w.EXPAND_DOWN, w.ABSENT_DATA, w.DS3_16, w.DS1, w.EXPAND_DOWN_16)


@dataclass(frozen=True, slots=True)
class _Everything:
    """All that may change: the real state, the virtual one, the guest's memory, the VMM's, page flags, the exit log."""

    image: bytes
    privileged: PrivilegedState
    guest: bytes
    vmm: bytes
    page_flags: bytes
    log: ExitLogState

    @property
    def of_guest(self) -> tuple[PrivilegedState, bytes, bytes]:
        """What is not the real processor's, nor of its host."""
        return self.privileged, self.guest, self.vmm


class _Bench:
    """The de-privileged guest of the twins, put into one state after the other."""

    def __init__(self, twins: Twins, random: Random) -> None:
        processor = twins.virtual.machine.processor
        assert isinstance(processor, DeprivilegedProcessor)
        self._random = random
        self._twins = twins
        self._view = twins.virtual.machine.memory.view
        self.cpu: VirtualCpu = twins.virtual_cpu
        self.dispatcher: Dispatcher = processor.dispatcher
        self.log = twins.virtual.log

    def _mostly(self, usual: int, *others: int, share: float = 0.9) -> int:
        return usual if self._random.random() < share else self._random.choice(others)

    def arrange(self) -> None:
        """Tables and registers; most descriptors have been loaded before, as they have in a kernel that runs."""
        twins, random = self._twins, self._random
        twins.renew()
        gdt = bytearray(twins.memory(twins.virtual.machine)[w.GDT : w.GDT + 8 * w.GDT_ENTRIES])
        for selector in (*_CODE, *_STACKS):
            gdt[(selector & ~7) + 5] |= self._mostly(1, 0)
        twins.write(w.GDT, bytes(gdt))
        for at in (4, 12):
            twins.write(w.TSS + at, self.pointer().to_bytes(4, "little"))
        twins.write(w.TSS + 8, self._mostly(w.DS0, *_STACKS, 0, random.getrandbits(16)).to_bytes(2, "little"))
        cs, ss = random.choice(
            ((w.CS0, w.DS0), (w.CS0, w.DS0), (w.CS16, w.DS16), (w.CS3, w.DS3), (w.CS3_16 | 3, w.DS3_16 | 3))
        )
        esp = self.pointer() - (w.BASE_16 if ss & ~7 in (w.DS16, w.DS3_16) else 0)
        state = w.start(cs=cs, ss=ss, esp=esp & 0xFFFFFFFF, eflags=random.getrandbits(22) & _FLAGS | 2)
        segments = list(state.segments)
        for register in (SegmentRegister.ES, SegmentRegister.DS, SegmentRegister.FS, SegmentRegister.GS):
            segments[register] = w.loaded(random.choice((w.DS3, w.DS3 if cs & 3 else w.DS0, 0, 3)))
        state = replace(state, segments=tuple(segments), interrupt_shadow=random.random() < 0.1)
        if random.random() < 0.1:
            state = replace(state, gdtr=replace(state.gdtr, limit=random.randrange(8 * w.GDT_ENTRIES)))
        if random.random() < 0.1:
            state = replace(state, idtr=replace(state.idtr, limit=random.randrange(0x800)))
        if random.random() < 0.1:
            state = replace(state, tr=replace(state.tr, limit=random.randrange(0x68)))
        twins.begin(b"\x90", state)
        for selector in (*_CODE, *_STACKS):
            if random.random() < 0.8:
                self.cpu.shadow.install(selector)

    def pointer(self) -> int:
        """Stack pointers, many of them so that a frame crosses the end of a page, some outside of memory."""
        at = w.BASE_16 + 0x1000 * self._random.randrange(1, 14)
        at += self._random.choice((0, 4, 8, 10, 16, 24, 33, 0x800, self._random.randrange(0x1000)))
        return self._mostly(at, 0xFFC0_0800, 2, 0xFFFF_FFFE, self._random.getrandbits(32), share=0.95)

    def gate(self, vector: int) -> None:
        random = self._random
        selector = self._mostly(w.CS0, *_CODE, 0, random.getrandbits(16))
        kind = self._mostly(random.choice((6, 7, 14, 15)), random.randrange(16))
        target = self._mostly(random.getrandbits(12), random.getrandbits(32))
        data = t.gate(kind, selector, target, random.choice((0, 3, 3)), present=random.random() < 0.95)
        self._twins.write(w.IDT + 8 * vector, data)

    def frame(self) -> bytes:
        """IRET at CODE and what it pops; the code."""
        random, state = self._random, self.cpu.state
        code = random.choice((b"\xcf", b"\xcf", b"\x66\xcf", b"\x2e\xcf"))
        size = 6 - state.bits // 8 if code[0] == 0x66 else state.bits // 8
        outward = random.random() < 0.6
        words = (
            self._mostly(random.getrandbits(12), random.getrandbits(8 * size)),
            self._mostly(
                random.choice((w.CS3, w.CS3_16 | 3) if outward else (w.CS0, w.CS16)), *_CODE, random.getrandbits(16)
            ),
            random.getrandbits(22) & ~self._mostly(1 << 17, 0),
            self.pointer(),
            self._mostly(random.choice((w.DS3, w.DS3_16 | 3)), *_STACKS, random.getrandbits(16)),
        )
        data = b"".join((word & (1 << 8 * size) - 1).to_bytes(size, "little") for word in words)
        self._twins.write(state.segment_base(SegmentRegister.SS) + state.rsp & 0xFFFFFFFF, data)
        self._twins.write(w.CODE, code)
        return code

    # ------------------------------------------------------------------------------------------------ comparing

    def everything(self) -> _Everything:
        """What is now."""
        guest = self._view[VMM_RESERVE : VMM_RESERVE + w.MEMORY]
        return _Everything(
            bytes(self.cpu.state.image),
            copy(self.cpu.guest_state.privileged),
            bytes(guest),
            bytes(self._view[_VMM_PAGES.start : _VMM_PAGES.stop]),
            self.cpu.engine.memory.page_flags.tobytes(),
            self.log.save(),
        )

    def put(self, saved: _Everything) -> None:
        """Back to what `everything` found."""
        self.cpu.state.image[:] = saved.image
        self.cpu.guest_state.privileged = copy(saved.privileged)
        self._view[VMM_RESERVE : VMM_RESERVE + w.MEMORY] = saved.guest
        self._view[_VMM_PAGES.start : _VMM_PAGES.stop] = saved.vmm
        self.cpu.engine.memory.page_flags[:] = list(saved.page_flags)
        self.log.restore(saved.log)
        self.cpu.shadow.take_up()
        self.cpu.engine.drop_translations()


def _compare_deliveries(twins: Twins, seed: int, states: int) -> int:
    """Deliver in random states, both ways.

    :return: how often it was done natively.
    """
    random = Random(seed)
    bench = _Bench(twins, random)
    cpu, log = bench.cpu, bench.cpu.engine.deliveries
    done = 0
    for number in range(states):
        source = random.choice((Source.EXTERNAL, Source.EXCEPTION, Source.SOFTWARE))
        vector = random.randrange(32 if source is Source.EXCEPTION else 256)
        with_code = source is Source.EXCEPTION and vector in ERROR_CODE_VECTORS
        what = Interruption(vector, source, random.getrandbits(32), random.getrandbits(16) if with_code else None)
        cr2 = random.getrandbits(32) if source is Source.EXCEPTION and vector == 14 else None
        bench.arrange()
        bench.gate(vector)
        cpu.count = number
        before = bench.everything()
        cpu.native_delivery = DELIVER_EVERYTHING
        if not cpu._deliver_natively(vector, source, what.return_rip, what.error_code, cr2):
            assert bench.everything() == before, f"{seed}, state {number}: {what} has left a trace"
            continue
        done += 1
        found, counted = bench.everything(), log.by_vector
        record = log.fault_chain[-1] if source is Source.EXCEPTION else None
        bench.put(before)
        cpu.count = number
        cpu.native_delivery = DELIVER_NOTHING
        assert cpu.deliver(what, cr2), f"{seed}, state {number}: the reference meets a fault with {what}"
        expected = bench.everything()
        assert expected.of_guest == found.of_guest, f"{seed}, state {number}: {what}"
        assert expected.image == found.image, f"{seed}, state {number}: {what}"
        if record is not None:
            assert log.fault_chain[-1] == log.fault_chain[-2] == record
        counted[vector] += 1
        assert log.by_vector == counted
    cpu.native_delivery = DELIVER_EVERYTHING
    return done


def _compare_returns(twins: Twins, seed: int, states: int) -> int:
    """Run an IRET of the guest's kernel in random states, natively and through the VMM's interpreter.

    :return: how often it was done natively.
    """
    bench = _Bench(twins, Random(seed))
    cpu = bench.cpu
    done = 0
    for number in range(states):
        bench.arrange()
        code = bench.frame()
        cpu.count = number
        before = bench.everything()
        event = cpu.run(number + 1)
        if not isinstance(event, FlagsAccess):
            continue
        stopped = bench.everything()
        cpu.native_delivery = DELIVER_EVERYTHING
        if not cpu.iret_natively():
            assert bench.everything() == stopped, f"{seed}, state {number}: {code.hex()} has left a trace"
            continue
        done += 1
        cpu.engine.deliveries.forget_count()
        found, real = bench.everything(), ArchitecturalState.of(cpu.guest_state.real)
        assert cpu.count == number + 1
        bench.put(before)
        cpu.count = number
        cpu.native_delivery = DELIVER_NOTHING
        assert cpu.run(number + 1) == event
        bench.dispatcher.dispatch(event)
        assert cpu.count == number + 1
        expected = bench.everything()
        assert ArchitecturalState.of(cpu.guest_state.real).differences(real) == [], f"{seed}, state {number}"
        assert cpu.guest_state.real.cpl == real.segments[SegmentRegister.CS].selector & 3
        assert expected.of_guest == found.of_guest, f"{seed}, state {number}"
        assert [(reason.name, n) for reason, n in expected.log.counts] == [("IRET", 1)], f"{seed}, state {number}"
        assert expected.log.emulated_instructions == 1
    cpu.native_delivery = DELIVER_EVERYTHING
    return done


def test_random_deliveries(twins: Twins) -> None:
    assert _compare_deliveries(twins, 1, _STATES) > _STATES // 20


def test_random_returns(twins: Twins) -> None:
    assert _compare_returns(twins, 1, _STATES) > _STATES // 20


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
def test_many_random_states(twins: Twins, seed: int) -> None:
    assert _compare_deliveries(twins, seed, 2_000) > 100
    assert _compare_returns(twins, seed, 2_000) > 100


@pytest.mark.parametrize("first", [0, 6])
def test_a_guest_with_paging_has_the_same_exits(twins: Twins, first: int) -> None:
    """Hidden faults are those of the reference, too: native code is done where no shadow has to be filled."""
    machine, cpu = twins.virtual.machine, twins.virtual_cpu
    for seed in range(first, first + 6):
        program = PagingProgram(seed, pae=bool(seed & 1))
        ends = []
        for delivery in (DELIVER_EVERYTHING, DELIVER_NOTHING):
            install(twins, program)
            twins.begin(program.code, w.start(fs=0))
            twins.virtual.log.restore(ExitLog().save())
            cpu.native_delivery = delivery
            machine.run_to(400)
            ends.append((machine.save(), twins.virtual.log.save()))
        assert ends[0] == ends[1], f"seed {seed}"
    cpu.native_delivery = DELIVER_EVERYTHING
