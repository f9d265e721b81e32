"""Site against strategy, as a value: what each named instruction does on the bare machine and under every strategy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simvirt.observe.showable import Showable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from simvirt.x86.addresses import Gva


@dataclass(frozen=True, slots=True)
class SiteEffect:
    """What one instruction did under a strategy.

    Attributes:
        same: it did what it does on the bare machine.
        shown: otherwise, what it did instead.
    """

    same: bool
    shown: str = ""


@dataclass(frozen=True, slots=True)
class SiteRow:
    """One site.

    Attributes:
        name: the symbol without its prefix.
        instruction: guest instructions that the reference retired before it first came here; None: it never did.
        reference: what the instruction does on the bare machine.
        effects: by strategy.
        idle: from this state it changes nothing that matters: not where control goes, and no more than the stack
            pointer, or by POPF the flags of arithmetic. That it does the same under a strategy then says little.
    """

    name: str
    address: Gva
    mnemonic: str
    instruction: int | None
    reference: str
    effects: Mapping[str, SiteEffect] = field(default_factory=dict)
    idle: bool = False


@dataclass(frozen=True, slots=True)
class SiteTable(Showable):
    """Site against strategy, in the order in which the guest reaches them."""

    reference: str
    strategies: tuple[str, ...]
    rows: tuple[SiteRow, ...]

    def row(self, name: str) -> SiteRow:
        """The row of one site.

        Raises:
            KeyError: the guest has no such site.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)
