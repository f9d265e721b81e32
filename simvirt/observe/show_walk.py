"""Page walks as lines of text: the guest's dimension, and the second one, of EPT or of shadow page tables."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from simvirt.machine.memory import RegionKind

if TYPE_CHECKING:
    from simvirt.observe.address_spaces import AddressSpaces
    from simvirt.observe.dimensions import EptWalk, Translation
    from simvirt.observe.page_walk import PageWalk
    from simvirt.vmm.shadow_paging.statistics import ShadowStatistics


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


def show_spaces(spaces: AddressSpaces) -> list[str]:
    """What is mapped where, a line for each stretch and each region."""
    lines = ["guest-virtual to guest-physical:"]
    if spaces.paging is None:
        lines.append("  no paging: linear addresses are guest-physical ones")
    for one in spaces.stretches:
        rights = [
            "user" if one.user else "supervisor",
            "writable" if one.writable else "read-only",
            *([] if one.executable else ["no execution"]),
        ]
        lines.append(
            f"  {one.linear:#010x} - {one.linear + one.size - 1:#010x} -> {one.gpa:#010x}  "
            f"{one.size >> 10:,} KiB, {', '.join(rights)}"
        )
    if not spaces.complete:
        lines.append("  the guest has more page tables than are looked into")
    lines.append("guest-physical to host-physical:")
    for region in spaces.regions:
        place = f"{region.host:#010x}" if region.kind <= RegionKind.ROM else "no memory"
        lines.append(
            f"  {region.start:#010x} - {region.end - 1:#010x} -> {place:10}  "
            f"{region.size >> 10:,} KiB, {region.kind.name} {region.name}".rstrip()
        )
    return lines


def show_shadow_paging(statistics: ShadowStatistics) -> list[str]:
    """What shadow paging has cost so far; nothing where there has been none."""
    if not any(asdict(statistics).values()):
        return []
    faults = f"{statistics.hidden_faults:,} hidden and {statistics.true_faults:,} true faults"
    writes = f"{statistics.traced_writes:,} traced writes to page tables"
    return [f"shadow paging so far: {faults}, {statistics.fills:,} entries filled, {writes}"]


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
