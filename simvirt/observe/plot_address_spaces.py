"""The address spaces of a run as a picture: guest-virtual, guest-physical and host-physical side by side.

Address spaces are mostly empty, and their parts differ in size by many powers of two. So a part is as high as the
logarithm of its size, and what lies between two parts, however much that is, is a gap of one height.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import log2
from typing import TYPE_CHECKING, Final

from simvirt.machine.memory import RegionKind
from simvirt.observe.picture import new_picture, save_picture
from simvirt.x86.addresses import PAGE_SHIFT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from simvirt.machine.memory import Region
    from simvirt.observe.address_spaces import AddressSpaces, Stretch

    _Side = tuple[float, tuple[float, float]]
    """Of a band: its x, and the heights between which it is there."""
    _Corners = list[tuple[float, float]]

_GAP: Final = 0.7
_COLUMN: Final = 0.16
_LEFT, _MIDDLE, _RIGHT = 0.12, 0.42, 0.72
_LABEL_DISTANCE: Final = 0.021
_RIGHTS: Final = {
    (False, True): ("#2874a6", "supervisor, writable"),
    (False, False): ("#7fb3d5", "supervisor, read-only"),
    (True, True): ("#c0392b", "user, writable"),
    (True, False): ("#e6b0aa", "user, read-only"),
}
_KINDS: Final = {RegionKind.RAM: "#a9dfbf", RegionKind.ROM: "#f9e79f", RegionKind.MMIO: "#d7bde2"}
_EMPTY: Final = "#fbfcfc"
_NOT_THE_GUESTS: Final = "#d5d8dc"


@dataclass(frozen=True, slots=True)
class _Part:
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


class Scale:
    """Heights of addresses, from 0 at the lowest to 1 at the highest.

    >>> scale = Scale([(0, 0x1000), (0x10_0000, 0x1000)])
    >>> [round(scale.height(address), 2) for address in (0, 0x1000, 0x10_0000, 0x10_1000)]
    [0.0, 0.37, 0.63, 1.0]
    """

    def __init__(self, parts: Iterable[tuple[int, int]]) -> None:
        occupied = sorted({_Part(start, size) for start, size in parts}, key=lambda part: (part.start, part.size))
        edges = sorted({edge for part in occupied for edge in (part.start, part.end)})
        starts = dict.fromkeys(edges[:1], 0.0)
        total, reach, index = 0.0, 0, 0
        for low, high in pairwise(edges):
            while index < len(occupied) and occupied[index].start <= low:
                reach = max(reach, occupied[index].end)
                index += 1
            total += 1 + log2(max(high - low, 1 << PAGE_SHIFT) / (1 << PAGE_SHIFT)) if reach >= high else _GAP
            starts[high] = total
        self._heights = {edge: height / total for edge, height in starts.items()} if total else starts

    def height(self, edge: int) -> float:
        """Of an address where a part begins or ends."""
        return self._heights[edge]


def plot_address_spaces(spaces: AddressSpaces, file: str | Path) -> None:
    """Write the picture.

    Raises:
        UsageError: the file's name has another suffix than .png, .svg or .pdf, or it cannot be written.
        UnsupportedError: matplotlib is not installed.
    """
    figure = new_picture(file, 13, 9)
    axes = figure.subplots()
    canvas = _Canvas(axes)
    in_memory = [region for region in spaces.regions if region.kind <= RegionKind.ROM]
    physical = Scale(
        [(one.gpa, one.size) for one in spaces.stretches]
        + [(region.start, region.size) for region in spaces.regions]
        + [(part.start, part.size) for part in _in_regions(spaces)]
    )
    host = Scale([(0, spaces.host_size), *((region.host, region.size) for region in in_memory)])
    _draw_virtual(canvas, spaces, physical)
    _draw_physical(canvas, spaces, physical)
    _draw_host(canvas, spaces, in_memory, physical, host)
    canvas.draw()
    for x, name in ((_LEFT, "guest-virtual"), (_MIDDLE, "guest-physical"), (_RIGHT, "host-physical")):
        axes.text(x + _COLUMN / 2, 1.025, name, ha="center", fontsize=13, fontweight="bold")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.06)
    axes.axis("off")
    axes.set_title(spaces.title, fontsize=14, loc="left")
    _legend(axes, spaces)
    save_picture(figure, file)


def _in_regions(spaces: AddressSpaces) -> list[_Part]:
    """The stretches cut where regions begin and end: a large page may reach over several."""
    edges = sorted({edge for region in spaces.regions for edge in (region.start, region.start + region.size)})
    parts = []
    for one in spaces.stretches:
        inside = [edge for edge in edges if one.gpa < edge < one.gpa + one.size]
        parts += [_Part(low, high - low) for low, high in pairwise([one.gpa, *inside, one.gpa + one.size])]
    return parts


class _Canvas:
    """Boxes and bands of one look are drawn together: there may be thousands."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self._boxes: dict[tuple[str, str], list[_Corners]] = {}
        self._bands: dict[str, list[_Corners]] = {}

    def box(self, x: float, low: float, high: float, colour: str, *, hatch: str = "") -> None:
        """A part of a column."""
        right = x + _COLUMN
        self._boxes.setdefault((colour, hatch), []).append([(x, low), (right, low), (right, high), (x, high)])

    def band(self, left: _Side, right: _Side, colour: str) -> None:
        """From a part of one column to one of the next."""
        (x, (low, high)), (to, (to_low, to_high)) = left, right
        self._bands.setdefault(colour, []).append([(x, low), (x, high), (to, to_high), (to, to_low)])

    def draw(self) -> None:
        """Put it all on the axes: bands, then what is nobody's, then the boxes that lie on that."""
        from matplotlib.collections import PolyCollection

        for colour, corners in self._bands.items():
            self.axes.add_collection(
                PolyCollection(corners, facecolors=colour, edgecolors=colour, alpha=0.25, linewidths=0.4)
            )
        boxes = sorted(self._boxes.items(), key=lambda item: item[0][0] not in {_EMPTY, _NOT_THE_GUESTS})
        for (colour, hatch), corners in boxes:
            self.axes.add_collection(
                PolyCollection(corners, facecolors=colour, edgecolors="#566573", linewidths=0.6, hatch=hatch or None)
            )


def _labels(axes: Axes, x: float, places: Iterable[tuple[float, str]], *, right: bool) -> None:
    """Text beside a column, as far as there is room for it."""
    last = -1.0
    for height, text in sorted(set(places)):
        if height - last >= _LABEL_DISTANCE:
            axes.text(x, height, text, fontsize=8, family="monospace", va="center", ha="left" if right else "right")
            last = height


def _draw_virtual(canvas: _Canvas, spaces: AddressSpaces, physical: Scale) -> None:
    if spaces.paging is None:
        canvas.box(_LEFT, 0, 1, _EMPTY)
        canvas.axes.text(
            _LEFT + _COLUMN / 2,
            0.5,
            "paging is off:\nlinear addresses are\nguest-physical ones",
            ha="center",
            fontsize=10,
        )
        return
    scale = Scale([(one.linear, one.size) for one in spaces.stretches])
    for one in spaces.stretches:
        colour, _ = _RIGHTS[one.user, one.writable]
        low, high = scale.height(one.linear), scale.height(one.linear + one.size)
        canvas.box(_LEFT, low, high, colour, hatch="" if one.executable else "///")
        to = physical.height(one.gpa), physical.height(one.gpa + one.size)
        canvas.band((_LEFT + _COLUMN, (low, high)), (_MIDDLE, to), colour)
    _labels(canvas.axes, _LEFT - 0.008, _edges(scale, spaces.stretches), right=False)


def _edges(scale: Scale, stretches: Sequence[Stretch]) -> list[tuple[float, str]]:
    edges = {edge for one in stretches for edge in (one.linear, one.linear + one.size)}
    return [(scale.height(edge), f"{edge:#x}") for edge in edges]


def _draw_physical(canvas: _Canvas, spaces: AddressSpaces, scale: Scale) -> None:
    for part in _in_regions(spaces):  # under the regions: what of it shows is mapped and not there
        canvas.box(_MIDDLE, scale.height(part.start), scale.height(part.end), _EMPTY)
    for region in spaces.regions:
        low, high = scale.height(region.start), scale.height(region.start + region.size)
        canvas.box(_MIDDLE, low, high, _KINDS.get(region.kind, _EMPTY))
        if high - low >= _LABEL_DISTANCE and region.name:
            canvas.axes.text(_MIDDLE + _COLUMN / 2, (low + high) / 2, region.name, ha="center", va="center", fontsize=9)
    edges = {edge for region in spaces.regions for edge in (region.start, region.start + region.size)}
    edges |= {edge for part in _in_regions(spaces) for edge in (part.start, part.end)}
    _labels(canvas.axes, _MIDDLE - 0.008, ((scale.height(edge), f"{edge:#x}") for edge in edges), right=False)


def _draw_host(
    canvas: _Canvas, spaces: AddressSpaces, regions: Sequence[Region], physical: Scale, scale: Scale
) -> None:
    canvas.box(_RIGHT, scale.height(0), scale.height(spaces.host_size), _NOT_THE_GUESTS)
    for region in regions:
        colour = _KINDS[region.kind]
        low, high = scale.height(region.host), scale.height(region.host + region.size)
        canvas.box(_RIGHT, low, high, colour)
        left = physical.height(region.start), physical.height(region.start + region.size)
        canvas.band((_MIDDLE + _COLUMN, left), (_RIGHT, (low, high)), colour)
    edges = {0, spaces.host_size} | {edge for region in regions for edge in (region.host, region.host + region.size)}
    _labels(canvas.axes, _RIGHT + _COLUMN + 0.008, ((scale.height(edge), f"{edge:#x}") for edge in edges), right=True)


def _legend(axes: Axes, spaces: AddressSpaces) -> None:
    from matplotlib.patches import Patch

    used = {(one.user, one.writable) for one in spaces.stretches}
    handles = [Patch(facecolor=colour, label=label) for rights, (colour, label) in _RIGHTS.items() if rights in used]
    if any(not one.executable for one in spaces.stretches):
        handles.append(Patch(facecolor="white", edgecolor="black", hatch="///", label="not executable"))
    kinds = {region.kind for region in spaces.regions}
    handles += [Patch(facecolor=colour, label=kind.name) for kind, colour in _KINDS.items() if kind in kinds]
    handles.append(Patch(facecolor=_NOT_THE_GUESTS, label="not the guest's"))
    axes.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=len(handles), frameon=False, fontsize=10
    )
    if not spaces.complete:
        axes.text(0, -0.015, "the guest has more page tables than are shown", fontsize=9)
