"""The dispatcher is a table over all events, every reason in its list happens, and every exit says why."""

from __future__ import annotations

import typing

import pytest

from simvirt.errors import EngineError
from simvirt.guests import catalogue
from simvirt.machine.events import EngineFault, Event, Halt, InterruptWindow
from simvirt.strategies import registry
from simvirt.strategies.strategy import MachineConfig
from simvirt.strategies.trap_and_emulate.dispatcher import DISPATCH
from simvirt.strategies.trap_and_emulate.processor import DeprivilegedProcessor
from simvirt.strategies.trap_and_emulate.reasons import BY_OPERATION, TrapReason
from simvirt.vmm.exit_log import ExitRecord, Intervention
from simvirt.x86.cpuid import find_cpu_model
from simvirt.x86.operations import Operation
from tests.support.assembler import d16, d32
from tests.support.twins import CODE, CS3, DATA, DS0, DS3, GDT, HOLE, LDT_, TSS_FREE, USER, USER_STACK, Twins, start
from tests.vmm.test_guest_far_transfers import transfers
from tests.vmm.test_interpreter import lgdt, lidt


def _wrmsr(number: int, value: int) -> bytes:
    return b"\xb9" + d32(number) + b"\xb8" + d32(value) + b"\x31\xd2\x0f\x30"


def _cr4(value: int, code: str) -> bytes:
    return b"\xb8" + d32(value) + b"\x0f\x22\xe0" + bytes.fromhex(code)


PAGES = 0x5_0000
_PAGING = _cr4(0x10, "") + b"\xb8" + d32(PAGES) + b"\x0f\x22\xd8" + b"\xb8" + d32(0x8001_0011) + b"\x0f\x22\xc0"
"""CR4.PSE, CR3, CR0.PG: the first 4 MiB are one page, which maps itself."""

EXAMPLES: dict[TrapReason, bytes] = {
    TrapReason.CLI: b"\xfa",
    TrapReason.STI: b"\xfb",
    TrapReason.HLT: b"\xf4",
    TrapReason.IN: b"\xe4\x80",
    TrapReason.OUT: b"\xe6\x80",
    TrapReason.INS: b"\x6c",
    TrapReason.OUTS: b"\x6e",
    TrapReason.LGDT: lgdt(GDT, 0xFF),
    TrapReason.LIDT: lidt(GDT, 0xFF),
    TrapReason.LLDT: b"\xb8" + d32(LDT_) + b"\x0f\x00\xd0",
    TrapReason.LTR: b"\xb8" + d32(TSS_FREE) + b"\x0f\x00\xd8",
    TrapReason.SGDT: _cr4(0x800, "0f0103"),
    TrapReason.SIDT: _cr4(0x800, "0f010b"),
    TrapReason.SLDT: _cr4(0x800, "0f00c0"),
    TrapReason.STR: _cr4(0x800, "0f00c8"),
    TrapReason.SMSW: _cr4(0x800, "0f01e0"),
    TrapReason.CLAC: b"\x0f\x01\xca",
    TrapReason.STAC: b"\x0f\x01\xcb",
    TrapReason.LMSW: b"\xb0\x11\x0f\x01\xf0",
    TrapReason.CLTS: b"\x0f\x06",
    TrapReason.MOV_TO_CR: b"\x0f\x22\xd0",
    TrapReason.MOV_FROM_CR: b"\x0f\x20\xc0",
    TrapReason.MOV_TO_DR: b"\x0f\x23\xc0",
    TrapReason.MOV_FROM_DR: b"\x0f\x21\xc0",
    TrapReason.RDMSR: b"\xb9\x10\0\0\0\x0f\x32",
    TrapReason.WRMSR: _wrmsr(0x174, 8),
    TrapReason.RDTSC: _cr4(4, "0f31"),
    TrapReason.RDTSCP: _cr4(4, "0f01f9"),
    TrapReason.INVLPG: b"\x0f\x01\x38",
    TrapReason.INVD: b"\x0f\x08",
    TrapReason.WBINVD: b"\x0f\x09",
    TrapReason.MOV_TO_SEGMENT: b"\xb8" + d32(DS0) + b"\x8e\xd0",
    TrapReason.POP_SEGMENT: b"\x6a\x10\x17",
    TrapReason.LOAD_FAR_POINTER: b"\x0f\xb2\x25" + d32(DATA),
    TrapReason.JMP_FAR: transfers(0)["jmp"],
    TrapReason.CALL_FAR: transfers(0)["call"],
    TrapReason.RET_FAR: transfers(0x08)["ret"],
    TrapReason.IRET: transfers(CS3)["iret"],
    TrapReason.SYSENTER: b"\x0f\x34",
    TrapReason.SYSEXIT: _wrmsr(0x174, 8) + b"\x0f\x35",
    TrapReason.SOFTWARE_INTERRUPT: b"\xcd\x80",
    TrapReason.EXCEPTION: b"\x0f\x0b",
    TrapReason.DESCRIPTOR_LOAD: b"\xb8" + d32(DS3) + b"\x8e\xc0",
    TrapReason.DESCRIPTOR_TABLE_WRITE: b"\xa3" + d32(GDT + 0x800),
    TrapReason.DESCRIPTOR_TABLE_USE: b"\xa3" + d32(GDT + 0x800) + b"\x8c\xd8\x8e\xd8",
    TrapReason.SHADOW_FILL: _PAGING,
    TrapReason.PAGE_TABLE_WRITE: _PAGING + b"\xa3" + d32(PAGES + 0x800),
    TrapReason.WAIT: b"\xb8\x19\0\0\0\x0f\x22\xc0\x9b",
    TrapReason.NO_MEMORY: b"\xa1" + d32(HOLE),
}


def test_the_table_holds_every_event() -> None:
    assert set(DISPATCH) == set(typing.get_args(Event))


def test_every_reason_has_an_example() -> None:
    assert set(EXAMPLES) == set(TrapReason)


@pytest.fixture(scope="module")
def modern_twins() -> Twins:
    """On a processor that has UMIP."""
    return Twins(cpu_model="x86-64")


@pytest.mark.parametrize("reason", TrapReason)
def test_every_reason_happens_and_says_why(modern_twins: Twins, reason: TrapReason) -> None:
    twins = modern_twins
    twins.renew()
    records: list[ExitRecord] = []
    twins.write(DATA, d32(CODE) + d16(DS0))
    twins.write(PAGES, d32(0x83))
    twins.virtual.log.listener = records.append
    found = twins.compare(EXAMPLES[reason], start(eax=0x11, ebx=DATA, edx=0x80, esi=DATA, edi=DATA + 64), steps=8)
    assert found is None, str(found)
    record = next(r for r in records if r.reason is reason)
    assert record.cause.what
    assert record.cause.why
    assert record.cause.source.startswith("SDM")
    assert record.cpl == 0
    assert [r.number for r in records] == list(range(1, len(records) + 1))
    assert twins.virtual.log.counts[reason] == sum(r.reason is reason for r in records)


def test_reasons_of_instructions_carry_their_names() -> None:
    assert all(reason.name == operation.name for operation, reason in BY_OPERATION.items())
    assert Operation.PUSHF not in BY_OPERATION
    assert Operation.LAR not in BY_OPERATION


def test_only_what_the_vmm_does_for_itself_is_hidden(twins: Twins) -> None:
    """Interventions on innocuous instructions are what Popek and Goldberg's efficiency property counts."""
    for reason in (TrapReason.DESCRIPTOR_LOAD, TrapReason.DESCRIPTOR_TABLE_WRITE):
        twins.renew()
        twins.compare(EXAMPLES[reason], steps=2)
        assert twins.virtual.log.hidden == {reason: 1}
    twins.renew()
    twins.compare(EXAMPLES[TrapReason.NO_MEMORY], steps=1)
    assert twins.virtual.log.interventions == {Intervention.MEMORY: 1}


@pytest.mark.parametrize("event", [EngineFault(5), InterruptWindow(), Halt(1)])
def test_events_that_cannot_be_are_a_bug(twins: Twins, event: Event) -> None:
    processor = twins.virtual.machine.processor
    assert isinstance(processor, DeprivilegedProcessor)
    with pytest.raises(EngineError, match="a bug in simvirt"):
        processor.dispatcher.dispatch(event)


def test_emulated_instructions_are_counted(twins: Twins) -> None:
    """CLI and STI count, a fault that is handed to the guest does not, nor does what the processor does itself."""
    twins.run(b"\xfa\x40\xfb\x40\x0f\x0b")
    assert twins.virtual.log.emulated_instructions == 3  # CLI, STI, HLT


def test_user_code_gets_its_faults_and_no_emulation(twins: Twins) -> None:
    twins.run(b"\xfa", start(cs=USER))
    assert twins.virtual.log.counts[TrapReason.CLI] == 0
    assert twins.virtual.log.counts[TrapReason.EXCEPTION] == 1


def test_a_catalogue_guest_traps_as_its_privileged_instructions_say() -> None:
    """The exits of `rings` that depend on nothing but its source: as many system calls as it prints, and so on."""
    config = MachineConfig(16 << 20, find_cpu_model("core2"))
    virtualized = registry.find("trap-and-emulate").build(catalogue.find("rings").image(), config)
    virtualized.machine.run(1_000_000)
    counts = virtualized.log.counts
    assert counts[TrapReason.LGDT] == counts[TrapReason.LIDT] == counts[TrapReason.LTR] == 1
    assert counts[TrapReason.IRET] >= counts[TrapReason.SOFTWARE_INTERRUPT] > 0
    assert counts[TrapReason.OUT] > 0
    assert USER_STACK
