"""A flame graph: call stacks as boxes on boxes, as wide as the cycles that were spent in them (Gregg 2016).

The picture stands by itself in a browser, where pointing at a box tells what it is. Boxes beside each other are in the
order of their names, not of time. Exits lie on top of the function that they interrupted, so red is the VMM's time.

Source: B. Gregg, "The Flame Graph", Communications of the ACM 59(6), 2016.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from xml.sax.saxutils import escape

from simvirt.observe.numbers import share

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simvirt.observe.profile.profile import Profile

_WIDTH: Final = 1200
_MARGIN: Final = 10
_ROW: Final = 19
_TITLE_HEIGHT: Final = 78
_FONT: Final = 12
_CHARACTER: Final = 7.0
"""Width of a letter in the picture's font, nearly."""
_NARROWEST: Final = 0.3
"""Boxes that are narrower than this are left out."""
_KERNEL, _USER, _EXIT, _ROOT = "#f0b46a", "#8cc0e8", "#e06a5a", "#d8d8d8"


@dataclass(slots=True)
class _Box:
    """A function under its callers.

    :ivar cycles: its own, and of all that lies on it.
    """

    name: str
    colour: str
    cycles: int = 0
    above: dict[str, _Box] = field(default_factory=dict)

    def depth(self) -> int:
        return 1 + max((box.depth() for box in self.above.values()), default=0)


def flame_graph(profile: Profile) -> str:
    """The picture as SVG."""
    root = _boxes(profile)
    height = _TITLE_HEIGHT + _ROW * root.depth() + _MARGIN
    run = profile.run
    title = f"{run.guest} under {run.strategy}"
    guest, vmm = (share(cycles / max(root.cycles, 1)) for cycles in (profile.guest_cycles, profile.vmm_cycles))
    legend = f"{root.cycles:,} cycles on {run.modelled.preset} (modelled): guest {guest}, VMM {vmm}"
    size = f'width="{_WIDTH}" height="{height}"'
    style = f'viewBox="0 0 {_WIDTH} {height}" font-family="monospace" font-size="{_FONT}"'
    told = escape(f"call stacks: {profile.caveat}")
    caveat = [f'<text x="{_WIDTH / 2}" y="64" text-anchor="middle">{told}</text>'] if profile.caveat else []
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>',
        f'<rect {size} fill="#ffffff"/>',
        f'<text x="{_WIDTH / 2}" y="24" text-anchor="middle" font-size="17">{escape(title)}</text>',
        f'<text x="{_WIDTH / 2}" y="44" text-anchor="middle">{escape(legend)}</text>',
        *caveat,
        *_drawn(root, _MARGIN, height - _MARGIN - _ROW, (_WIDTH - 2 * _MARGIN) / max(root.cycles, 1), root.cycles),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _boxes(profile: Profile) -> _Box:
    root = _Box(profile.run.guest, _ROOT)
    for stack, cycles in profile.stacks.items():
        root.cycles += cycles
        box = root
        colour = _USER if stack[0] == "guest user" else _KERNEL
        for name in stack:
            shade = _EXIT if name.startswith("exit: ") else colour
            box = box.above.setdefault(name, _Box(name, shade))
            box.cycles += cycles
    return root


def _drawn(box: _Box, x: float, y: float, scale: float, total: int) -> Iterator[str]:
    width = box.cycles * scale
    if width < _NARROWEST:
        return
    name = escape(box.name)
    yield f"<g><title>{name}: {box.cycles:,} cycles, {share(box.cycles / max(total, 1))}</title>"
    yield (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width - 0.5, 0.2):.1f}" height="{_ROW - 1}" rx="2" '
        f'fill="{box.colour}"/>'
    )
    letters = int((width - 6) / _CHARACTER)
    if letters >= 3:
        shown = box.name if len(box.name) <= letters else f"{box.name[: letters - 2]}.."
        yield f'<text x="{x + 3:.1f}" y="{y + 13:.1f}">{escape(shown)}</text>'
    yield "</g>"
    for above in sorted(box.above.values(), key=lambda each: each.name):
        yield from _drawn(above, x, y - _ROW, scale, total)
        x += above.cycles * scale
