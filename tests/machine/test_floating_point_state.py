"""The floating-point state is the same for the same program, whatever the host leaves in the engine's padding."""

from __future__ import annotations

from simvirt.guests.flat import flat_image
from simvirt.strategies.bare_metal import BareMetal
from simvirt.strategies.strategy import MachineConfig
from simvirt.x86.cpuid import find_cpu_model

# fninit; fldpi; fld1; fdivp; fldz; hlt
PROGRAM = b"\xdb\xe3\xd9\xeb\xd9\xe8\xde\xf9\xd9\xee\xf4"


def test_padding_is_no_state() -> None:
    states = []
    for _ in range(4):
        machine = BareMetal().build(flat_image(PROGRAM, "x87"), MachineConfig(2 << 20, find_cpu_model("core2"))).machine
        machine.run()
        states.append((machine.processor.guest_state().floating_point, machine.processor.save().image))
    padding = [states[0][1][at + 10 : at + 16] for at in range(624, 752, 16)]
    assert padding == [bytes(6)] * 8
    assert len({floating_point for floating_point, _ in states}) == 1


def test_what_lies_beyond_128_bits_is_no_state() -> None:
    """PSHUFB copies whole registers of the engine's own from the host's stack."""
    program = bytes.fromhex("0f20e0 0d00060000 0f22e0 660f3800c1 660f3a42c100 f4")  # CR4.OSFXSR; pshufb; mpsadbw; hlt
    states = set()
    for _ in range(4):
        machine = BareMetal().build(flat_image(program, "sse"), MachineConfig(2 << 20, find_cpu_model("core2"))).machine
        machine.run()
        states.add((machine.outcome, machine.processor.guest_state().floating_point))
    assert len(states) == 1
