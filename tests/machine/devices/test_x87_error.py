"""FERR#, IRQ 13 and IGNNE#, as DOS and early UNIX systems had x87 errors (SDM Vol. 1 §8.7.2; IBM PC/AT)."""

from __future__ import annotations

import pytest

from simvirt.machine.devices.x87_error import X87Error
from simvirt.machine.machine import Machine, Outcome
from simvirt.x86.addresses import Gpa
from tests.support import program_frame as frame
from tests.support.assembler import d32
from tests.support.code import code, le
from tests.support.exactness import build
from tests.support.program_pieces import Body
from tests.support.programs import assemble

STRATEGIES = ("bare-metal", "vtx", "trap-and-emulate")
SEEN = frame.DATA + 0x3000
"""Where the handler counts."""
HANDLER, CLEARING = 0x3F000, "db e2 ; raw fnclex"


def machine_of(strategy: str, handler: str, *, masked: bool = False) -> Machine:
    """A kernel that divides by zero with the exception unmasked and CR0.NE = 0, then WAITs; `handler` is IRQ 13's."""

    def body(b: Body) -> None:
        b.a.emit(code(f"0f 20 c0 ; mov eax, cr0\n83 e0 df ; and eax, 0xffffffdf\n0f 22 c0 ; mov cr0, eax\n"
                      f"c7 05 {le(SEEN + 8)} 7b 03 00 00 ; mov dword ptr [SEEN+8], 0x37b"))  # fmt: skip
        for port, value in ((0xA1, 0xFF if masked else 0xDF), (0x21, 0xFB)):
            b.a.emit(bytes([0xB0, value, 0xE6, port]))
        b.a.emit(code(f"db e3 ; raw fninit\nd9 2d {le(SEEN + 8)} ; fldcw\nd9 e8 ; fld1\nd9 ee ; fldz\nde f9 ; fdivp\n"
                      "fb ; sti\n90 ; nop\n9b ; wait\nd9 e8 ; fld1\nfa ; cli"))  # fmt: skip

    program = assemble("ferr", body)
    machine = build(program.image(), strategy).machine
    gate = frame.gate(frame.KERNEL_CODE, HANDLER, 0x8E)
    machine.write_physical(Gpa(frame.IDT + 8 * 0x2D), gate)
    machine.write_physical(Gpa(HANDLER), code(handler))
    return machine


def handler(*, port: bool = True, clear: bool = True) -> str:
    """As the BIOS of a PC/AT has it."""
    return "\n".join(
        [
            f"ff 05 {le(SEEN)} ; inc dword ptr [SEEN]",
            "50 ; push eax",
            *(["e6 f0 ; out 0xf0, al"] if port else []),
            "d9 c0 ; fld st(0)",  # it may: IGNNE# is asserted
            *([CLEARING] if clear else []),
            "b0 20 ; mov al, 0x20",
            "e6 a0 ; out 0xa0, al",
            "e6 20 ; out 0x20, al",
            "58 ; pop eax",
            "cf ; iretd",
        ]
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_handler_of_irq_13_is_called_in_front_of_the_waiting_instruction(strategy: str) -> None:
    machine = machine_of(strategy, handler())
    assert machine.run(10_000) is Outcome.FINISHED
    assert machine.read_physical(Gpa(SEEN), 4) == d32(1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_while_ignne_is_asserted_the_error_is_ignored(strategy: str) -> None:
    """The handler does not clear it: what follows runs, the error pending, and FERR# stays asserted."""
    machine = machine_of(strategy, handler(clear=False))
    assert machine.run(10_000) is Outcome.FINISHED
    assert machine.read_physical(Gpa(SEEN), 4) == d32(1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_handler_that_does_not_answer_freezes_at_its_own_x87_instruction(strategy: str) -> None:
    machine = machine_of(strategy, handler(port=False))
    assert machine.run(10_000) is Outcome.HALTED
    assert machine.processor.guest_state().rip == HANDLER + 7


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_masked_the_processor_waits_for_ever(strategy: str) -> None:
    machine = machine_of(strategy, handler(), masked=True)
    assert machine.run(10_000) is Outcome.HALTED
    assert machine.read_physical(Gpa(SEEN), 4) == d32(0)


def test_the_latch() -> None:
    levels: list[bool] = []
    asserted: list[str] = []
    latch = X87Error(levels.append, lambda: asserted.append("IGNNE#"))
    latch.ferr()
    latch.write(1, 1, 0)
    assert (levels, asserted) == ([True], [])
    latch.write(0, 1, 0)
    assert (levels, asserted) == ([True, False], ["IGNNE#"])
    assert latch.read(0, 1) == 0xFF
    latch.restore(latch.save())
    latch.reset()
    assert levels[-1] is False
