"""What trap-and-emulate does otherwise than a VMM on a real processor would: docs/deviations.md."""

from __future__ import annotations

import pytest

from simvirt.errors import UnsupportedGuestError
from simvirt.guests.recognise import recognise
from simvirt.machine.machine import Machine
from simvirt.strategies.registry import find
from simvirt.strategies.strategy import MachineConfig
from simvirt.x86.cpuid import find_cpu_model
from simvirt.x86.registers import GeneralRegister


def machine(code: str) -> Machine:
    image = recognise(bytes.fromhex(code), name="deviation")
    return find("trap-and-emulate").build(image, MachineConfig(1 << 22, find_cpu_model("core2"))).machine


def test_ring_1_can_read_the_vmms_pages() -> None:
    found = machine("a1f8ffc0ff f4")  # mov eax, [0xffc0fff8]; hlt: the VMM's own descriptors, at the end of its GDT
    found.run_to(1)
    assert found.processor.guest_state().general[GeneralRegister.RAX] not in (0, 0xFFFFFFFF)


def test_ring_1_cannot_write_the_vmms_pages() -> None:
    found = machine("c705 f8ffc0ff 00000000 a1f8ffc0ff f4")
    found.run_to(2)
    assert found.processor.guest_state().general[GeneralRegister.RAX] != 0


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("0f20c0 83e0fe 0f22c0", "protected mode off"),
        ("b820000000 0f22e0 b9800000c0 31d2 b800010000 0f30 0f20c0 0d00000080 0f22c0", "long mode on"),
    ],
)
def test_a_guest_that_changes_its_mode_is_not_virtualized(code: str, what: str) -> None:
    with pytest.raises(UnsupportedGuestError, match=what):
        machine(code).run(10)
