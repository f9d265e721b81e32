"""The strategies there are, in the order in which a comparison shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.errors import UnknownNameError, UnsupportedError
from simvirt.strategies.bare_metal import BareMetal
from simvirt.strategies.trap_and_emulate.strategy import TrapAndEmulate
from simvirt.strategies.vtx.strategy import Vtx

if TYPE_CHECKING:
    from simvirt.strategies.strategy import Strategy

STRATEGIES: Final[tuple[Strategy, ...]] = (BareMetal(), TrapAndEmulate(), Vtx())
REFERENCE: Final = STRATEGIES[0]
_BY_NAME: Final = {name: strategy for strategy in STRATEGIES for name in (strategy.info.name, *strategy.info.aliases)}

_TO_COME: Final = {
    name: title
    for title, names in {
        "binary translation": ("binary-translation", "bt"),
        "paravirtualization": ("paravirtualization", "pv"),
    }.items()
    for name in names
}


def find(name: str) -> Strategy:
    """The strategy of this name or alias.

    >>> find("tae").info.name
    'trap-and-emulate'

    :raises UnknownNameError: there is none.
    :raises UnsupportedError: there will be one, but is none yet.
    """
    names = [strategy.info.name for strategy in STRATEGIES]
    if name not in _BY_NAME and name in _TO_COME:
        raise UnsupportedError(f"'{name}': {_TO_COME[name]} is not there yet; the strategies are {', '.join(names)}")
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownNameError("strategy", name, names, _BY_NAME) from None
