"""The exit status of the command."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """What the shell is told. Whatever a guest does, a run that took place is a success."""

    OK = 0
    USAGE = 2
    """Wrong usage, or a guest that cannot be read."""
    MONITOR = 3
    """simvirt itself is at fault, or does not work on this machine."""
    ABANDONED = 130
    """Ctrl-C ended a command that has no result yet, as shells report it (128 + SIGINT). A run has one: OK."""
