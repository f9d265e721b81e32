"""Addresses of different spaces are different types.

A guest-virtual address is what the guest's instructions use (the manual's linear address: segmentation has been
applied, paging has not). The guest's page tables map it to a guest-physical address. The second dimension, a VM's
memory map or its EPT, maps that to a host-physical address, an index into the simulated PC's memory (SDM Vol. 3A §3.3
"Physical Address Space", Vol. 3C §29.3 "The Extended Page Table Mechanism"). On the bare PC the second dimension is
the identity.
"""

from __future__ import annotations

from typing import Final, NewType

Gva = NewType("Gva", int)
"""A guest-virtual (linear) address."""

Gpa = NewType("Gpa", int)
"""A guest-physical address."""

Hpa = NewType("Hpa", int)
"""A host-physical address."""

Port = NewType("Port", int)
"""An I/O port, 0 to 0xFFFF."""

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 1 << PAGE_SHIFT
PAGE_OFFSET_MASK: Final = PAGE_SIZE - 1
