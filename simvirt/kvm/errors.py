"""What an ioctl that fails raises."""

from __future__ import annotations

import errno

from simvirt.errors import UsageError


class KvmError(UsageError):
    """An ioctl failed.

    :ivar errno: with this error number.
    """

    def __init__(self, number: int, what: str) -> None:
        self.errno = number
        super().__init__(f"{what} ({errno.errorcode[number]})")
