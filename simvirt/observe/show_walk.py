"""A page walk as lines of text: the guest's dimension, and beside it where each entry lies in the PC's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.memory import RegionKind

if TYPE_CHECKING:
    from simvirt.observe.page_walk import PageWalk


def show_walk(walk: PageWalk) -> list[str]:
    """From the root of the tables to the byte."""
    paging = walk.paging
    lines = [f"{walk.linear:#x} by {f'{paging.title} ({paging.section})' if paging else 'no paging: as it is'}"]
    for step in walk.steps:
        digits = 2 * (paging.entry_size if paging else 4)
        where = "no memory: ones" if step.host is None else f"host {step.host:#x}"
        name = f"{step.level.name} {step.index}"
        lines.append(f"  {name:10} at {step.gpa:#010x} ({where})  {step.entry:0{digits}x}  {step.flags}")
    references = f"{walk.references} memory reference{'' if walk.references == 1 else 's'}"
    if walk.gpa is None:
        return [*lines, f"  no translation: {walk.fault}; {references}"]
    rights = [
        "user" if walk.user else "supervisor",
        "writable" if walk.writable else "read-only",
        *([] if walk.executable else ["no execution"]),
    ]
    size = f"{walk.page_size >> 20} MiB" if walk.page_size >= 1 << 20 else f"{walk.page_size >> 10} KiB"
    if walk.host is not None:
        place = f"host-physical {walk.host:#x}"
    elif walk.region is not None and walk.region.kind is RegionKind.MMIO:
        place = f"the device '{walk.region.name}'"
    else:
        place = "no memory"
    if walk.steps:
        lines.append(f"  page of {size}, {', '.join(rights)}; {references}")
    region = f" ({walk.region.name})" if walk.region is not None and walk.region.name else ""
    return [*lines, f"  guest-physical {walk.gpa:#x}{region} -> {place}"]
