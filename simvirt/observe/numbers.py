"""How numbers are printed for people: one way everywhere."""

from __future__ import annotations

from typing import Final

_MOST_DECIMALS: Final = 12


def shown(value: int | str) -> str:
    """A component's value: numbers in hexadecimal."""
    return f"{value:#x}" if isinstance(value, int) else value


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "exit"), counted(2_000, "exit")
    ('1 exit', '2,000 exits')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def share(fraction: float, decimals: int = 2) -> str:
    """A share in per cent, with as many decimals as it takes to tell a little from nothing, and nearly all from all.

    >>> share(0.5), share(1.0), share(0.9999997), share(0.00001)
    ('50.00%', '100%', '99.99997%', '0.001%')
    """
    if fraction in {0.0, 1.0}:
        return f"{fraction:.0%}"
    while decimals < _MOST_DECIMALS and float(f"{100 * fraction:.{decimals}f}") in {0.0, 100.0}:
        decimals += 1
    return f"{fraction:.{decimals}%}"
