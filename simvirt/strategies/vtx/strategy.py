"""The strategy `vtx`: the guest in VMX non-root mode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.errors import EngineError
from simvirt.strategies.strategy import Ability, MachineConfig, StrategyInfo, Virtualized

if TYPE_CHECKING:
    from simvirt.guests.image import GuestImage


class Vtx:
    """The guest runs in ring 0 of VMX non-root mode; the VMM gets control by VM exits that it chose in the VMCS."""

    info = StrategyInfo(
        name="vtx",
        title="VT-x",
        summary="the guest runs in ring 0 of VMX non-root mode; the VMM chooses in the VMCS what makes it exit",
        year=2005,
        reading="SDM Vol. 3C Chapters 24 to 28",
        abilities=frozenset(
            {Ability.REAL_MODE, Ability.PROTECTED_MODE, Ability.PAGING, Ability.LONG_MODE, Ability.UNMODIFIED}
        ),
        aliases=("vt-x", "vmx"),
    )

    def obstacle(self, image: GuestImage) -> str | None:
        """None: no guest has to be changed for it."""
        del image
        return None

    def build(self, image: GuestImage, config: MachineConfig) -> Virtualized:
        """A VM with the guest in its memory."""
        raise EngineError("vtx is being built")
