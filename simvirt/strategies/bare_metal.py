"""Bare metal: no VMM at all. The reference that equivalence is measured against."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.guests.boot import initial_state
from simvirt.guests.load import load
from simvirt.machine.board import Board
from simvirt.machine.hardware import MachineFeature
from simvirt.machine.pc import bare_pc
from simvirt.strategies.strategy import Ability, MachineConfig, StrategyInfo, Virtualized
from simvirt.vmm.exit_log import ExitLog

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage


class BareMetal:
    """The guest owns the PC."""

    info = StrategyInfo(
        name="bare-metal",
        title="Bare metal",
        summary="no VMM: the guest runs in ring 0 of the PC itself; the reference that the others are compared with",
        year=1978,
        reading="SDM Vol. 3A",
        abilities=frozenset(
            {Ability.REAL_MODE, Ability.PROTECTED_MODE, Ability.PAGING, Ability.LONG_MODE, Ability.UNMODIFIED}
        ),
        aliases=("bare",),
    )

    def obstacle(self, image: GuestImage) -> str | None:
        """None: whatever runs at all runs here."""
        del image
        return None

    def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
        """The PC with the guest in its memory.

        :raises UsageError: it is to have what only a VMM offers.
        """
        config.refuse(MachineFeature.KVM, "the bare PC has no VMM to offer it")
        machine, cpu = bare_pc(
            lambda retired: Board(retired, config.hardware(image)),
            config.memory_size,
            config.cpu_model,
            firmware=image.needs_firmware,
        )
        boot = load(image, config.memory_size, machine.write_physical, machine.board.hardware)
        machine.processor.set_guest_state(initial_state(boot))
        return Virtualized(machine, cpu, ExitLog())
