"""Page walks as lines of text: the guest's dimension, and the second one, of EPT or of shadow page tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.machine.memory import RegionKind

if TYPE_CHECKING:
    from simvirt.observe.dimensions import EptWalk, Translation
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


def show_translation(translation: Translation) -> list[str]:
    """Both dimensions, as far as there are two."""
    lines = ["the guest's page tables:", *_indented(show_walk(translation.guest))]
    if translation.nested:
        lines.append("each guest-physical address by EPT (SDM Vol. 3C §29.3):")
        for walk in translation.nested:
            lines += _show_ept(walk)
    elif translation.shadow is not None:
        lines += [
            "the VMM's page tables, which the processor walks instead:",
            *_indented(show_walk(translation.shadow)),
        ]
    total = translation.references
    return [*lines, f"{total} memory reference{'' if total == 1 else 's'} with nothing cached"]


def _show_ept(walk: EptWalk) -> list[str]:
    end = "EPT violation" if walk.host is None else f"host-physical {walk.host:#x}"
    entries = ", ".join(f"level {step.level} at {step.at:#x}: {step.entry:#x}" for step in walk.steps)
    return [f"  {walk.gpa:#010x} -> {end}", f"    {entries}"]


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
