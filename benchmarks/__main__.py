"""`python -m benchmarks`: measure, print, write JSON. Whatever it finds, the exit status is 0."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import compute, control, host, linux, operations, round_trips, show, start_up, virtual_machines
from benchmarks.figures import Report
from benchmarks.plan import FULL, TINY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.figures import Section
    from benchmarks.plan import Plan

BENCHMARKS: Final[dict[str, Callable[[Plan], Section]]] = {
    "compute": compute.run,
    "round-trips": round_trips.run,
    "operations": operations.run,
    "start-up": start_up.run,
    "control": control.run,
    "comparison": control.run_comparisons,
    "virtual-machines": virtual_machines.run,
    "linux": linux.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="How fast simvirt is, side by side with others."
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the printed tables to a file too")
    parser.add_argument("--only", choices=BENCHMARKS, action="append", help="one benchmark; may be given several times")
    parser.add_argument(
        "--rounds", type=int, metavar="N", help=f"how often each timing is taken (default {FULL.rounds})"
    )
    parser.add_argument(
        "--guest", action="append", metavar="NAME", help="a guest for the benchmark compute; may be repeated"
    )
    parser.add_argument("--tiny", action="store_true", help="see whether everything runs; the figures mean nothing")
    options = parser.parse_args(arguments)
    plan = TINY if options.tiny else FULL
    if options.rounds is not None:
        if options.rounds < 1:
            parser.error("--rounds: at least one is needed")
        plan = replace(plan, rounds=options.rounds)
    if options.guest:
        plan = replace(plan, guests=tuple(options.guest))
    report = Report(host.describe(), plan.rounds)
    for name, benchmark in BENCHMARKS.items():
        if not options.only or name in options.only:
            report.sections.append(benchmark(plan))
    text = show.report(report)
    print(text, end="")
    if options.markdown:
        options.markdown.write_text(text, encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(report.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
