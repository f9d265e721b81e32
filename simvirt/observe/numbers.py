"""How the values of registers and memory are printed: one way everywhere."""

from __future__ import annotations


def shown(value: int | str) -> str:
    """A component's value for people: numbers in hexadecimal."""
    return f"{value:#x}" if isinstance(value, int) else value
