"""WAIT under trap-and-emulate, whose real CR0.MP is always 1 (SDM Vol. 3A §2.5, Vol. 2D "WAIT/FWAIT")."""

from __future__ import annotations

import pytest

from simvirt.guests.recognise import recognise
from simvirt.machine.machine import Machine
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig
from simvirt.strategies.trap_and_emulate.reasons import TrapReason
from simvirt.vmm.exit_log import ExitLog
from simvirt.x86.cpuid import find_cpu_model

# mov eax, cr0; or/and eax; mov cr0, eax; wait; inc ebx; mov al, 0; out 0xF4, al
SET_TS = "0f20c0 83c808 0f22c0"
SET_TS_AND_MP = "0f20c0 83c80a 0f22c0"
END = "9b 43 b000 e6f4"


def run(strategy: str, code: str) -> tuple[Machine, ExitLog]:
    image = recognise(bytes.fromhex(code), name="wait")
    virtualized = find(strategy).build(image, MachineConfig(1 << 22, find_cpu_model("core2")))
    virtualized.machine.run_to(5)
    return virtualized.machine, virtualized.log


@pytest.mark.parametrize("start", [SET_TS, SET_TS_AND_MP])
def test_wait_heeds_the_guests_own_mp(start: str) -> None:
    reference, _ = run("bare-metal", start + END)
    machine, _ = run("trap-and-emulate", start + END)
    assert machine.outcome is reference.outcome
    assert machine.count == reference.count
    assert machine.processor.guest_state() == reference.processor.guest_state()


def test_the_guest_with_mp_clear_goes_on_after_a_hidden_trap() -> None:
    machine, log = run("trap-and-emulate", SET_TS + END)
    assert machine.count == 5
    assert machine.processor.guest_state().general[3] == 1
    assert log.counts[TrapReason.WAIT] == 1
