"""`simvirt doctor`: what works on this machine, what is missing, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from simvirt.cli.output import print_json
from simvirt.cli.status import ExitStatus
from simvirt.cli.table import Style, paint, wrapped

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.cli.checks import Check


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt doctor`."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def execute(arguments: Namespace) -> ExitStatus:
    """Examine, and print each finding when it is there."""
    from simvirt.cli.checks import State, all_checks

    found: list[Check] = []
    for check in all_checks():
        found.append(check)
        if not arguments.json:
            _print(check)
    broken = [check for check in found if check.state is State.BROKEN]
    if arguments.json:
        rows = [
            {"name": check.name, "state": check.state.value, "detail": check.detail, "remedy": check.remedy or None}
            for check in found
        ]
        print_json({"schema": "simvirt.doctor/1", "works": not broken, "checks": rows})
    elif broken:
        print(f"\nsimvirt does not work here: {', '.join(check.name for check in broken)}")
    else:
        print("\nsimvirt works here.")
    return ExitStatus.MONITOR if broken else ExitStatus.OK


_STYLES: Final = {"works": Style.GOOD, "broken": Style.BAD, "absent": Style.DOUBT}


def _print(check: Check) -> None:
    from simvirt.cli.checks import State

    print(f"{paint(f'{check.state.value:7}', _STYLES[check.state.value])} {check.name}: {check.detail}", flush=True)
    if check.remedy and check.state is not State.WORKS:
        print(wrapped(f"to get it: {check.remedy}" if check.state is State.ABSENT else check.remedy, indent=" " * 8))
