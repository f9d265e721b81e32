"""What the bare processor does about its events: software interrupts, CPUID, time, HLT, and what does not exist."""

from __future__ import annotations

import typing

import pytest

from simvirt.errors import EngineError
from simvirt.machine import completion, events
from simvirt.machine.events import EngineFault, Halt, SoftwareInterrupt, SoftwareInterruptKind
from simvirt.machine.state import Segment
from simvirt.x86.cpuid import CPU_MODELS
from simvirt.x86.exceptions import Vector
from tests.support import tables
from tests.support.pc import (
    CODE,
    CS,
    CS0,
    DATA,
    EAX,
    EBX,
    ECX,
    EDX,
    HANDLERS,
    SS,
    Pc,
    flat_pc,
    long_pc,
    real_pc,
)  # fmt: skip

OF, VM, TSD = 1 << 11, 1 << 17, 1 << 2


def v86_pc(*, iopl: int = 0) -> Pc:
    pc = flat_pc()
    pc.state.set_segment(CS, Segment(CODE >> 4, CODE, 0xFFFF, 0xFB00))
    pc.state.set_segment(SS, Segment(0x3000, 0x3_0000, 0xFFFF, 0xF300))
    pc.state.rip, pc.state.rsp = 0, 0x100
    pc.state.eflags = 2 | VM | iopl << 12
    pc.state.refresh()
    return pc


def test_every_event_has_a_completion() -> None:
    assert set(typing.get_args(events.Event)) == set(completion._COMPLETIONS)


def test_a_failure_of_the_engine_is_an_error_of_simvirt() -> None:
    pc = flat_pc()
    with pytest.raises(EngineError, match="status 77"):
        pc.complete(EngineFault(77))


# ------------------------------------------------------------------------------------------------ software interrupts


@pytest.mark.parametrize(
    ("listing", "vector", "kind"),
    [
        ("cd 40 ; int 0x40", 0x40, SoftwareInterruptKind.INT_N),
        ("cd 03 ; int 3", 3, SoftwareInterruptKind.INT_N),
        ("cc ; int3", 3, SoftwareInterruptKind.INT3),
        ("ce ; into", 4, SoftwareInterruptKind.INTO),
        ("66 cd 40 ; int 0x40", 0x40, SoftwareInterruptKind.INT_N),
    ],
)
def test_software_interrupts_return_behind_themselves(listing: str, vector: int, kind: SoftwareInterruptKind) -> None:
    pc = flat_pc()
    pc.state.eflags = 2 | OF
    pc.load(listing)
    length = len(bytes.fromhex(listing.split(";", maxsplit=1)[0]))
    event = pc.event()
    assert event == SoftwareInterrupt(vector, kind, length)
    pc.complete(event)
    assert (pc.vector, pc.stack(1), pc.cpu.count) == (vector, [CODE + length], 1)


def test_into_without_overflow_does_nothing() -> None:
    pc = flat_pc()
    pc.load("ce ; into\nf4 ; hlt")
    pc.run()
    assert pc.state.rip == CODE + 1


@pytest.mark.parametrize("listing", ["cd 0d ; int 13", "cd 0e ; int 14", "cd 08 ; int 8"])
def test_int_n_pushes_no_error_code(listing: str) -> None:
    """INT n with the vector of an exception that has one (Vol. 3A §6.4.2)."""
    pc = flat_pc()
    pc.load(listing)
    pc.run()
    assert pc.stack(2) == [CODE + 2, CS0]


@pytest.mark.parametrize(("listing", "vector"), [("cc ; int3", 3), ("cd 40 ; int 0x40", 0x40), ("ce ; into", 4)])
def test_gate_privilege_of_ring_3(listing: str, vector: int) -> None:
    for dpl in (0, 3):
        pc = flat_pc()
        pc.set_gate(vector, tables.gate(tables.INT_GATE, CS0, HANDLERS + 16 * vector, dpl))
        pc.user()
        pc.state.eflags = 2 | OF
        pc.load(listing)
        pc.complete(pc.event())
        if dpl == 3:
            assert pc.vector == vector
        else:
            assert (pc.vector, pc.stack(2)) == (Vector.GP, [vector << 3 | 2, CODE])


@pytest.mark.parametrize("listing", ["cd 40 ; int 0x40", "2e cd 40 ; int 0x40", "cd 03 ; int 3"])
def test_int_n_in_virtual_8086_mode_needs_iopl_3(listing: str) -> None:
    """Vol. 3B §21.3.3: #GP(0) below, whatever the gate; prefixes do not matter."""
    for iopl in (0, 3):
        pc = v86_pc(iopl=iopl)
        for vector in (0x40, 3):
            pc.set_gate(vector, tables.gate(tables.INT_GATE, CS0, HANDLERS + 16 * vector, 3))
        pc.load(listing)
        pc.complete(pc.event())
        if iopl == 3:
            assert pc.vector in (0x40, 3)
        else:
            assert (pc.vector, pc.stack(2)) == (Vector.GP, [0, 0])


@pytest.mark.parametrize("listing", ["cc ; int3", "ce ; into"])
def test_int3_and_into_in_virtual_8086_mode_do_not_look_at_iopl(listing: str) -> None:
    pc = v86_pc()
    pc.state.eflags = pc.state.eflags | OF
    for vector in (3, 4):
        pc.set_gate(vector, tables.gate(tables.INT_GATE, CS0, HANDLERS + 16 * vector, 3))
    pc.load(listing)
    pc.complete(pc.event())
    assert pc.vector in (3, 4)


@pytest.mark.parametrize("listing", ["9c ; pushf", "9d ; popf", "cf ; iret", "fa ; cli", "fb ; sti"])
def test_virtual_8086_mode_is_sensitive_to_iopl(listing: str) -> None:
    """Vol. 3B §21.2.7: #GP(0) at IOPL below 3."""
    pc = v86_pc()
    pc.load(listing)
    pc.complete(pc.event())
    assert (pc.vector, pc.stack(2)) == (Vector.GP, [0, 0])
    pc = v86_pc(iopl=3)
    pc.load(listing)
    pc.step()


# ------------------------------------------------------------------------------------------------ CPUID


@pytest.mark.parametrize("model", CPU_MODELS)
def test_native_and_completed_cpuid_agree(model: str) -> None:
    cpu_model = CPU_MODELS[model]
    native, completed = flat_pc(cpu_model=model), flat_pc(cpu_model=model)
    native.engine.set_cpuid(cpu_model.native_leaves())
    leaves = [*range(0x10), 0x4000_0000, *range(0x8000_0000, 0x8000_000A), 0xFFFF_FFFF]
    for pc in (native, completed):
        pc.load("0f a2 ; cpuid\nf4 ; hlt")
    for leaf in leaves:
        for subleaf in (0, 1, 7):
            found = []
            for pc in (native, completed):
                pc.state.rip = CODE
                pc.state[EAX], pc.state[ECX] = leaf, subleaf
                pc.run()
                found.append([pc.state[register] for register in (EAX, EBX, ECX, EDX)])
            assert found[0] == found[1] == list(cpu_model.cpuid(leaf, subleaf)), f"leaf {leaf:#x}.{subleaf}"
    assert native.cpu.count == completed.cpu.count
    assert len(native.events) < len(completed.events), "the native one does not come out of the engine"


def test_cpuid_clears_the_upper_halves() -> None:
    for is_native in (False, True):
        pc = long_pc()
        if is_native:
            pc.engine.set_cpuid(pc.bus.cpu_model.native_leaves())
        pc.state[EAX] = 0xFFFF_FFFF_0000_0000
        pc.state[EBX] = (1 << 64) - 1
        pc.load("0f a2 ; cpuid\nf4 ; hlt")
        pc.run()
        assert pc.state[EBX] == int.from_bytes(b"Genu", "little")
        assert pc.state[EAX] >> 32 == 0


def test_cpuid_is_open_to_ring_3() -> None:
    pc = flat_pc()
    pc.user()
    pc.load("0f a2 ; cpuid")
    pc.step()
    assert pc.state[EBX] == int.from_bytes(b"Genu", "little")


# ------------------------------------------------------------------------------------------------ time


def test_rdtsc_native_is_count_plus_base() -> None:
    pc = flat_pc()
    pc.engine.set_native_tsc(0x1_0000_0000)
    pc.load("90 ; nop\n90 ; nop\n0f 31 ; rdtsc\nf4 ; hlt")
    pc.run()
    assert (pc.state[EDX], pc.state[EAX]) == (1, 2)


def test_rdtsc_completed_asks_the_bus() -> None:
    pc = flat_pc()
    pc.bus.time = 0x1234_5678_9ABC_DEF0
    pc.load("0f 31 ; rdtsc\nf4 ; hlt")
    pc.run()
    assert (pc.state[EDX], pc.state[EAX]) == (0x1234_5678, 0x9ABC_DEF0)


@pytest.mark.parametrize("listing", ["0f 31 ; rdtsc", "0f 01 f9 ; rdtscp", "66 0f 31 ; rdtsc"])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(("cpl", "tsd"), [(0, 0), (0, TSD), (1, 0), (1, TSD), (3, 0), (3, TSD)])
def test_time_stamp_disable(listing: str, native: bool, cpl: int, tsd: int) -> None:
    """CR4.TSD: #GP(0) at CPL above 0 (Vol. 2B "RDTSC")."""
    pc = flat_pc()
    if native:
        pc.engine.set_native_tsc(5)
    pc.bus.time = 5
    pc.state.set_control_register(4, tsd)
    if cpl:
        pc.ring(cpl, CS0 + 16 | 3 if cpl == 3 else 0x51, 0x23 if cpl == 3 else 0x59, 0x2_0000)
    pc.load(listing + "\neb fe ; jmp $")
    event = pc.event(2)
    pc.complete(event)
    if cpl and tsd:
        assert (pc.vector, pc.stack(2)) == (Vector.GP, [0, CODE])
    else:
        assert (pc.state[EDX], pc.state[EAX]) == (0, 5)


def test_rdtscp_also_reads_tsc_aux() -> None:
    pc = flat_pc()
    pc.state.set_doubleword(pc.engine.platform.state.tsc_aux, 0x77)
    pc.state[ECX] = 0xFFFF_FFFF
    pc.load("0f 01 f9 ; rdtscp\nf4 ; hlt")
    pc.run()
    assert pc.state[ECX] == 0x77


def test_rdtscp_without_the_feature() -> None:
    pc = flat_pc(cpu_model="core2")
    pc.load("0f 01 f9 ; rdtscp")
    pc.run()
    assert pc.vector == Vector.UD


def test_rdpmc_has_no_counters() -> None:
    pc = flat_pc()
    pc.load("0f 33 ; rdpmc")
    pc.run()
    assert (pc.vector, pc.stack(2)) == (Vector.GP, [0, CODE])


# ------------------------------------------------------------------------------------------------ HLT and the rest


def test_halt_stands_behind_itself() -> None:
    pc = flat_pc()
    pc.load("90 ; nop\nf4 ; hlt")
    event = pc.event()
    assert event == Halt(1)
    pc.complete(event)
    assert (pc.state.rip, pc.cpu.count) == (CODE + 2, 2)


@pytest.mark.parametrize(
    "listing",
    [
        "0f 01 c1 ; vmcall", "0f 01 c2 ; vmlaunch", "0f 01 d9 ; vmmcall", "0f 01 d8 ; vmrun", "0f aa ; rsm",
        "0f 01 c8 ; monitor", "0f 01 c9 ; mwait", "0f c7 f0 ; rdrand eax", "0f c7 f8 ; rdseed eax", "0f 01 d0 ; xgetbv",
        "0f 37 ; getsec", "c5 f8 58 c1 ; vaddps xmm0, xmm0, xmm1",
    ],
)  # fmt: skip
def test_instructions_that_this_processor_does_not_have(listing: str) -> None:
    pc = flat_pc()
    pc.load(listing)
    pc.run()
    assert (pc.vector, pc.stack(1)) == (Vector.UD, [CODE])


@pytest.mark.parametrize("listing", ["0f 08 ; invd", "0f 09 ; wbinvd", "f3 90 ; pause"])
def test_instructions_without_visible_effect(listing: str) -> None:
    pc = flat_pc()
    before = [pc.state[register] for register in range(8)]
    pc.load(listing + "\nf4 ; hlt")
    pc.run()
    assert [pc.state[register] for register in range(8)] == before
    assert pc.cpu.count == 1


def test_resume_flag_lasts_for_one_instruction() -> None:
    """RF is cleared behind every instruction that completes, wherever it is completed (Vol. 3B §18.3.1.1)."""
    for listing in ("90 ; nop", "0f a2 ; cpuid", "e4 10 ; in al, 0x10", "0f 20 c1 ; mov ecx, cr0"):
        for native in (False, True):
            pc = flat_pc()
            if native:
                pc.engine.set_cpuid(pc.bus.cpu_model.native_leaves())
            pc.state.eflags = 2 | 1 << 16
            pc.load(listing)
            pc.step()
            assert not pc.state.eflags & 1 << 16, listing


def test_real_mode_needs_no_gate() -> None:
    pc = real_pc()
    pc.load("f4 ; hlt")
    assert isinstance(pc.event(), Halt)
    assert pc.read(DATA, 4) == 0
