"""A page walk written straight from SDM Vol. 3A chapter 4, for comparison with the machine's own.

It is slow and spelled out, one function for each paging mode, and shares nothing with the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

P, RW, US, A, D, PS = 1, 2, 4, 0x20, 0x40, 0x80
XD = 1 << 63


@dataclass
class Walk:
    """What became of one access."""

    gpa: int | None = None
    """The translation, None for a page fault."""
    error: int = 0
    """The error code of the fault."""
    used: list[tuple[int, int]] = field(default_factory=list)
    """Address and size of each entry that has an accessed flag, root first."""
    leaf: int = 0
    """Address of the entry that maps the page."""


@dataclass(frozen=True)
class Access:
    """One access and the controls that decide about it."""

    write: bool = False
    fetch: bool = False
    user: bool = False
    wp: bool = True
    nxe: bool = False
    smep: bool = False
    smap: bool = False
    ac: bool = False
    pse: bool = True
    pae: bool = False
    gigabyte_pages: bool = True


def _bits(high: int, low: int) -> int:
    return (1 << high + 1) - (1 << low)


def error_code(access: Access, *, present: bool, reserved: bool) -> int:
    """Figure 4-12 and the list below it."""
    code = 0
    if present:
        code |= 1
    if access.write:
        code |= 2
    if access.user:
        code |= 4
    if reserved:
        code |= 8 | 1
    if access.fetch and (access.smep or (access.pae and access.nxe)):
        code |= 16
    return code


def permitted(access: Access, entries: list[int]) -> bool:
    """§4.6.1 "Determination of Access Rights", paragraph by paragraph."""
    user_address = all(entry & US for entry in entries)
    writable = all(entry & RW for entry in entries)
    executable = not (access.nxe and any(entry & XD for entry in entries))
    if not access.user:
        if access.fetch:
            if user_address:
                return executable and not access.smep
            return executable
        if user_address and access.smap and not access.ac:
            return False
        if access.write:
            return writable or not access.wp
        return True
    if not user_address:
        return False
    if access.fetch:
        return executable
    if access.write:
        return writable
    return True


def walk_32(read: Callable[[int, int], int], cr3: int, va: int, access: Access, maxphyaddr: int) -> Walk:
    """§4.3 "32-Bit Paging", Tables 4-4 to 4-6."""
    result = Walk()
    at = (cr3 & 0xFFFFF000) + 4 * (va >> 22)
    pde = read(at, 4)
    if not pde & P:
        result.error = error_code(access, present=False, reserved=False)
        return result
    result.used.append((at, 4))
    if pde & PS and access.pse:
        m = min(maxphyaddr, 40)
        reserved = _bits(21, m - 19) if m < 40 else 1 << 21
        if pde & reserved:
            result.error = error_code(access, present=True, reserved=True)
        elif not permitted(access, [pde]):
            result.error = error_code(access, present=True, reserved=False)
        else:
            result.gpa = (pde & 0xFFC00000) | (pde >> 13 & 0xFF) << 32 | (va & 0x3FFFFF)
            result.leaf = at
        return result
    at = (pde & 0xFFFFF000) + 4 * (va >> 12 & 0x3FF)
    pte = read(at, 4)
    if not pte & P:
        result.error = error_code(access, present=False, reserved=False)
        return result
    result.used.append((at, 4))
    if not permitted(access, [pde, pte]):
        result.error = error_code(access, present=True, reserved=False)
        return result
    result.gpa, result.leaf = (pte & 0xFFFFF000) | (va & 0xFFF), at
    return result


def walk_pae(read: Callable[[int, int], int], cr3: int, va: int, access: Access, maxphyaddr: int) -> Walk:
    """§4.4 "PAE Paging", Tables 4-8 to 4-11. The PDPTEs are those that have just been loaded."""
    result = Walk()
    pdpte = read((cr3 & 0xFFFFFFE0) + 8 * (va >> 30), 8)
    address = _bits(maxphyaddr - 1, 12)
    above = _bits(62, maxphyaddr) | (0 if access.nxe else XD)
    if not pdpte & P:
        result.error = error_code(access, present=False, reserved=False)
        return result
    return _last_two_levels(result, read, pdpte & address, va, access, maxphyaddr, above, [])


def walk_4_level(read: Callable[[int, int], int], cr3: int, va: int, access: Access, maxphyaddr: int) -> Walk:
    """§4.5 "4-Level Paging", Tables 4-15 to 4-20."""
    result = Walk()
    address = _bits(maxphyaddr - 1, 12)
    above = _bits(51, maxphyaddr) | (0 if access.nxe else XD)
    at = (cr3 & address) + 8 * (va >> 39 & 0x1FF)
    pml4e = read(at, 8)
    if not pml4e & P:
        result.error = error_code(access, present=False, reserved=False)
        return result
    result.used.append((at, 8))
    if pml4e & (above | PS):
        result.error = error_code(access, present=True, reserved=True)
        return result
    at = (pml4e & address) + 8 * (va >> 30 & 0x1FF)
    pdpte = read(at, 8)
    if not pdpte & P:
        result.error = error_code(access, present=False, reserved=False)
        return result
    result.used.append((at, 8))
    reserved = _bits(29, 13) if access.gigabyte_pages else PS  # without 1 GiB pages PS itself is reserved
    if pdpte & above or (pdpte & PS and pdpte & reserved):
        result.error = error_code(access, present=True, reserved=True)
        return result
    if pdpte & PS:
        if not permitted(access, [pml4e, pdpte]):
            result.error = error_code(access, present=True, reserved=False)
            return result
        result.gpa, result.leaf = (pdpte & _bits(maxphyaddr - 1, 30)) | (va & 0x3FFFFFFF), at
        return result
    return _last_two_levels(result, read, pdpte & address, va, access, maxphyaddr, above, [pml4e, pdpte])


def _last_two_levels(
    result: Walk,
    read: Callable[[int, int], int],
    table: int,
    va: int,
    access: Access,
    maxphyaddr: int,
    above: int,
    upper: list[int],
) -> Walk:
    """PDE and PTE, the same for PAE and 4-level paging."""
    at = table + 8 * (va >> 21 & 0x1FF)
    pde = read(at, 8)
    if not pde & P:
        result.error = error_code(access, present=False, reserved=False)
        return result
    result.used.append((at, 8))
    if pde & above or (pde & PS and pde & _bits(20, 13)):
        result.error = error_code(access, present=True, reserved=True)
        return result
    if pde & PS:
        if not permitted(access, [*upper, pde]):
            result.error = error_code(access, present=True, reserved=False)
            return result
        result.gpa, result.leaf = (pde & _bits(maxphyaddr - 1, 21)) | (va & 0x1FFFFF), at
        return result
    at = (pde & _bits(maxphyaddr - 1, 12)) + 8 * (va >> 12 & 0x1FF)
    pte = read(at, 8)
    if not pte & P:
        result.error = error_code(access, present=False, reserved=False)
        return result
    result.used.append((at, 8))
    if pte & above:
        result.error = error_code(access, present=True, reserved=True)
    elif not permitted(access, [*upper, pde, pte]):
        result.error = error_code(access, present=True, reserved=False)
    else:
        result.gpa, result.leaf = (pte & _bits(maxphyaddr - 1, 12)) | (va & 0xFFF), at
    return result
