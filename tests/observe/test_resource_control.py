"""Resource control and efficiency: the verdicts follow from the exit log and from nothing else."""

from __future__ import annotations

from dataclasses import replace

from simvirt.guests.image import GuestImage
from simvirt.guests.recognise import recognise
from simvirt.machine.memory import AddressSpace
from simvirt.observe.efficiency import Efficiency
from simvirt.observe.resource_control import ResourceControl
from simvirt.observe.results import Counted
from simvirt.observe.session import compare
from simvirt.strategies.strategy import MachineConfig, Virtualized
from simvirt.vmm.exit_log import Disposition, Intervention, ResourceAttempt
from simvirt.x86.addresses import PAGE_SIZE
from tests.observe.faulty import Faulty


def test_only_what_succeeded_is_a_violation() -> None:
    attempts = [ResourceAttempt(5, "port 0x80", disposition) for disposition in Disposition]
    found = ResourceControl.of(attempts)
    assert len(found.violations) == 1
    assert "instruction 5: port 0x80" in found.violations[0]
    assert found.attempts == {("port 0x80", disposition): 1 for disposition in Disposition}
    assert found.to_dict() == {"violations": list(found.violations)}


def test_attempts_are_counted_by_what_became_of_them() -> None:
    attempts = [ResourceAttempt(n, "port 0x80", Disposition.ABSORBED) for n in range(7)]
    found = ResourceControl.of(attempts)
    assert found.violations == ()
    assert found.attempts == {("port 0x80", Disposition.ABSORBED): 7}


def test_a_write_outside_the_vm_s_memory_is_seen() -> None:
    """A VM of one page less than the PC has; what a guest does to that page is not its own affair."""

    class Leaky(Faulty):
        def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
            built = super().build(image, config)
            high = next(region for region in built.machine.space.regions if region.name == "extended memory")
            others = [region for region in built.machine.space.regions if region is not high]
            smaller = AddressSpace([*others, replace(high, size=high.size - PAGE_SIZE)])
            built.machine.space = smaller  # the engine still has the whole
            return built

    last_page = (64 << 20) - PAGE_SIZE
    code = b"\xc6\x05" + last_page.to_bytes(4, "little") + b"\x01\xf4"  # mov byte [last_page], 1; hlt
    comparison = compare(recognise(code), [Leaky()])
    violations = comparison.verdicts["faulty"].resource_control.violations
    assert len(violations) == 1
    assert f"{last_page >> 12:#x}" in violations[0]
    assert comparison.run("bare-metal").pages_outside == ()


def test_interventions_on_innocuous_instructions() -> None:
    counted = Counted(100, 10, {"A": 3}, {Intervention.HIDDEN: 2, Intervention.EMULATED: 1})
    assert Efficiency.of(counted).to_dict() == {"direct_fraction": 0.9, "innocuous_interventions": 2}
    assert Efficiency.of(Counted(100)).innocuous_interventions == 0


def test_the_shipped_strategies_keep_control_of_resources() -> None:
    comparison = compare("sensitive")
    assert comparison.verdicts
    for verdict in comparison.verdicts.values():
        assert verdict.resource_control.violations == ()
