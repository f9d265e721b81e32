"""Two places in the code of the loaded Unicorn that are changed, where the bytes are those that were verified.

BT, BTS, BTR and BTC leave OF, SF, AF and PF as they are, wherever a block of translated code begins. SDM Vol. 2A "BT"
calls these flags undefined; Intel's processors do not change them. Unicorn's translator has two ways: where it knows
what the flags were computed from, it saves the work of keeping OF and AF; at the beginning of a block it does not know,
and keeps them. So what a program would find in them depends on where its run was stopped before, which an exact machine
cannot allow. The cure makes the translator keep them always: one conditional jump becomes an unconditional one.

A block is translated without a look at every entry of the TLBs. Unicorn searches all of them for entries of the block's
page by which stores go past its check for modified code, an eighth of the time that a kernel takes to boot. There are
none: `native/engine.c` forgets all entries when a page is first executed, and grants stores to such a page only
together with execution, which keeps them in the check. The search returns at once, for every x86 `Uc` of the process:
one without callbacks like these needs it where ring 0 writes the code of ring 3 at an address that it cannot execute.

The bytes are compared first. Where they are not what was verified, or the host forbids the write, nothing is changed:
the flags stay a deviation (docs/deviations.md, "Engine"), and translation is as slow as it was.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simvirt.machine.platforms import CodeSite

_READ, _WRITE, _EXECUTE = 1, 2, 4


def change_code(emu_start: int, site: CodeSite | None) -> bool:
    """Change one place; True when it is as it shall be from now on.

    `emu_start` is the address of the library's `uc_emu_start`.
    """
    if site is None:
        return False
    address = emu_start + site.distance
    found = ctypes.string_at(address, len(site.original))
    if found == site.changed:
        return True
    if found != site.original:
        return False
    first = address & ~(mmap.PAGESIZE - 1)
    size = address + len(site.original) - first
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if protect(first, size, _READ | _WRITE | _EXECUTE):
        return False
    ctypes.memmove(address, site.changed, len(site.changed))
    protect(first, size, _READ | _EXECUTE)
    return True
