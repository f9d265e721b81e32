"""`simvirt list`: the names that the other commands take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from simvirt.cli.output import print_json
from simvirt.cli.status import ExitStatus
from simvirt.cli.table import table

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from simvirt.observe.costs import Cost

    Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of thing: how its rows are found, and which of their fields the table shows, by title."""

    rows: Callable[[], list[Row]]
    columns: dict[str, str]


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt list`."""
    parser.add_argument("kind", choices=list(_KINDS), help="what to list")
    parser.add_argument("--json", action="store_true", help="print one JSON object with everything that is known")


def execute(arguments: Namespace) -> ExitStatus:
    """Print the list."""
    kind = _KINDS[arguments.kind]
    rows = kind.rows()
    if arguments.json:
        print_json({"schema": "simvirt.list/1", arguments.kind: rows})
    else:
        print(table(tuple(kind.columns), [tuple(str(row[key]) for key in kind.columns.values()) for row in rows]))
    return ExitStatus.OK


def _guests() -> list[Row]:
    from simvirt.guests.catalogue import guests

    return [
        {
            "name": guest.name,
            "summary": guest.summary,
            "shows": guest.shows,
            "tags": list(guest.tags),
            "ending": guest.ending.value,
            "guest_status": guest.guest_status,
            "sha256": guest.sha256,
        }
        for guest in guests()
    ]


def _strategies() -> list[Row]:
    from simvirt.strategies.registry import STRATEGIES

    return [
        {
            "name": info.name,
            "aliases": list(info.aliases),
            "alias": ", ".join(info.aliases),
            "title": info.title,
            "summary": info.summary,
            "year": info.year,
            "reading": info.reading,
            "abilities": sorted(ability.name.lower().replace("_", "-") for ability in info.abilities),
            "vm_map": [{"component": rule.component, "mapping": rule.mapping} for rule in info.vm_map],
        }
        for info in (strategy.info for strategy in STRATEGIES)
    ]


def _cpus() -> list[Row]:
    from simvirt.x86.cpuid import CPU_MODELS, DEFAULT_CPU_MODEL

    return [
        {
            "name": model.name,
            "title": model.title,
            "summary": model.summary,
            "default": model.name == DEFAULT_CPU_MODEL,
            "features": [feature.name.lower() for feature in model.features],
        }
        for model in CPU_MODELS.values()
    ]


def _costs() -> list[Row]:
    from simvirt.observe.costs import DEFAULT_COSTS, cost_presets

    return [
        {
            "name": preset.name,
            "title": preset.title,
            "year": preset.year,
            "summary": preset.summary,
            "default": preset.name == DEFAULT_COSTS,
            "costs": {
                name: _cost(getattr(preset, name)) for name in ("instruction", "vm_exit", "vm_exit_service", "trap")
            },
            "vm_exits": {reason.name: _cost(cost) for reason, cost in preset.vm_exits.items()},
            "ept": preset.ept,
            "traced_write": _cost(preset.traced_write) if preset.traced_write else None,
            "native": {operation.value: _cost(cost) for operation, cost in preset.native.items()},
        }
        for preset in cost_presets()
    ]


def _isas() -> list[Row]:
    from simvirt.analyzer.registry import INSTRUCTION_SETS

    return [{"name": row.info.name, "title": row.info.title, "summary": row.info.summary} for row in INSTRUCTION_SETS]


def _cost(cost: Cost) -> Row:
    return {
        "cycles": cost.cycles,
        "confidence": cost.confidence.value,
        "source": cost.source,
        "measured_on": cost.measured_on or None,
    }


_COSTS: Final = ("instruction", "vm_exit", "vm_exit_service", "trap")
_KINDS: Final[dict[str, _Kind]] = {
    "guests": _Kind(_guests, {"guest": "name", "ends": "ending", "what it does": "summary"}),
    "strategies": _Kind(
        _strategies, {"strategy": "name", "alias": "alias", "since": "year", "how it runs a guest": "summary"}
    ),
    "cpus": _Kind(_cpus, {"cpu": "name", "title": "title", "what it is": "summary"}),
    "isas": _Kind(_isas, {"isa": "name", "title": "title", "what it is": "summary"}),
    "costs": _Kind(_costs, {"preset": "name", "processor": "title", "what it stands for": "summary"}),
}
