"""The strategies there are, in the order in which a comparison shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import UnknownNameError
from simvirt.strategies.bare_metal import BareMetal
from simvirt.strategies.trap_and_emulate.strategy import TrapAndEmulate
from simvirt.strategies.vtx.strategy import Vtx

if TYPE_CHECKING:
    from simvirt.strategies.strategy import Strategy

STRATEGIES: Final[tuple[Strategy, ...]] = (BareMetal(), TrapAndEmulate(), Vtx())
REFERENCE: Final = STRATEGIES[0]
_BY_NAME: Final = {name: strategy for strategy in STRATEGIES for name in (strategy.info.name, *strategy.info.aliases)}


def find(name: str) -> Strategy:
    """The strategy of this name or alias.

    >>> find("tae").info.name
    'trap-and-emulate'

    :raises UnknownNameError: there is none.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownNameError("strategy", name, [s.info.name for s in STRATEGIES]) from None
