"""`simvirt analyze`: an instruction set against Popek and Goldberg's definitions, with evidence."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Final

from simvirt.cli.output import print_json
from simvirt.cli.progress import ProgressLine
from simvirt.cli.status import ExitStatus
from simvirt.cli.table import Style, paint, table, wrapped
from simvirt.cli.values import positive_count

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.analyzer.model.analysis import Analysis

_FEW: Final = 12
"""So many forms are shown one by one, more of them by group."""


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt analyze`."""
    parser.add_argument("isa", metavar="ISA", help="an instruction set, see `simvirt list isas`, or a TOML file")
    parser.add_argument("--form", metavar="TEXT", help="only the forms with this mnemonic, name or text; * and ? match")
    parser.add_argument("--only", choices=["critical"], help="only the forms that are sensitive and do not trap")
    output = parser.add_argument_group("output")
    output.add_argument("--format", choices=["text", "json", "html"], default="text", help="(default: text)")
    output.add_argument("--json", action="store_true", help="the same as --format json")
    output.add_argument("--plot", metavar="FILE", help="write classes against groups as a picture: .png, .svg or .pdf")
    work = parser.add_argument_group("work")
    work.add_argument("--jobs", metavar="N", type=positive_count, help="processes (default: one for each processor)")
    work.add_argument("--executor", metavar="ADDRESS", help="do the work on a Dask cluster: dask://HOST:PORT")
    work.add_argument("--no-cache", action="store_true", help="neither take nor keep the result of an earlier sweep")


def execute(arguments: Namespace) -> ExitStatus:
    """Analyze, and print what was found."""
    from simvirt.analyzer.session import analyze

    with ProgressLine(f"analyzing {arguments.isa}", quiet=False) as line:
        analysis = analyze(
            arguments.isa,
            form=arguments.form,
            jobs=arguments.jobs,
            executor=arguments.executor,
            progress=_Estimate(line, arguments.isa).report,
            use_cache=not arguments.no_cache,
        )
    if arguments.plot:
        from simvirt.analyzer.report.plot import plot

        plot(analysis, arguments.plot)
    only_critical = arguments.only == "critical"
    chosen = "json" if arguments.json else arguments.format
    if chosen == "json":
        from simvirt.analyzer.report.as_json import as_json

        print_json(as_json(analysis, analysis.critical() if only_critical else None))
    elif chosen == "html":
        from simvirt.analyzer.report.html import page

        sys.stdout.write(page(analysis, only_critical=only_critical))
    else:
        _print(analysis, only_critical=only_critical)
    return ExitStatus.OK


class _Estimate:
    """A bar with the share that is done, and how long the rest will take."""

    _WIDTH: Final = 30

    def __init__(self, line: ProgressLine, isa: str) -> None:
        self._line = line
        self._isa = isa
        self._start = time.monotonic()

    def report(self, done: int, total: int) -> None:
        """`done` of `total` forms are classified."""
        if self._line.report is None or not total:
            return
        spent = time.monotonic() - self._start
        full = self._WIDTH * done // total
        rest = f", {spent * (total - done) / done:.0f} s left" if done else ""
        self._line.write(
            f"analyzing {self._isa} [{'#' * full}{'.' * (self._WIDTH - full)}] {done:,} of {total:,} forms{rest}"
        )


def _print(analysis: Analysis, *, only_critical: bool) -> None:
    from simvirt.analyzer.report.tally import Answer, by_group, totals

    info = analysis.info
    counts = totals(analysis)
    print(paint(f"{info.name}: {info.title}", Style.STRONG))
    print(wrapped(f"{info.summary}; observed on {analysis.engine}"))
    if only_critical:
        print()
        _print_critical(analysis)
        return
    print(", ".join(f"{count:,} {what.value}" for what, count in counts.items() if count))
    if len(analysis.classifications) <= _FEW:
        _print_forms(analysis)
    else:
        print()
        header = ("group", "forms", *(what.value for what in Answer))
        rows = [
            (tally.group, f"{tally.total}", *(f"{tally.counts[what] or '-'}" for what in Answer))
            for tally in by_group(analysis)
        ]
        print(table(header, rows, frozenset(range(1, len(header)))))
        print()
        _print_critical(analysis)
    print()
    _print_theorems(analysis)
    _print_strategies(analysis)
    _print_remarks(analysis)


def _print_critical(analysis: Analysis) -> None:
    from simvirt.analyzer.report.critical import COLUMNS, critical_lines
    from simvirt.analyzer.report.values import text

    lines = critical_lines(analysis)
    if not lines:
        print("No form is critical: what is sensitive traps.")
        return
    forms = sum(len(line.forms) for line in lines)
    counted = f"{len(lines)} instruction{'s' * (len(lines) > 1)}, {forms} form{'s' * (forms > 1)}"
    print(paint(f"Critical: sensitive, and nothing traps ({counted})", Style.STRONG))
    columns = [which for which in COLUMNS if any(line.has(which) for line in lines)]
    is_x86 = analysis.info.name.startswith("x86")
    marks = [COLUMNS[which][0] for which in columns]
    header = ("instruction", "forms", *marks, *(["R&I"] if is_x86 else []), "seen")
    rows: list[tuple[str, ...]] = []
    group = ""
    for line in lines:
        if line.group != group:
            group = line.group
            rows.append((group, *[""] * (len(header) - 1)))
        has = ["x" if line.has(which) else "" for which in columns]
        listed = [line.listed or "-"] if is_x86 else []
        rows.append((f"  {line.title}", str(len(line.forms)), *has, *listed, line.seen))
    print(table(header, rows, frozenset({1})))
    print()
    legend = "; ".join(f"{letter}, {words}" for letter, words in (COLUMNS[which] for which in columns))
    print(wrapped(f"{legend} (Popek and Goldberg 1974, Penneman et al. 2013)."))
    if configuration := analysis.architecture.vmm_configuration:
        told = ", ".join(f"{name} {text(value)}" for name, value in configuration.items())
        print(wrapped(f"Nothing traps under C0, what a VMM sets up for its guests: {told}."))
    for note in _X86_NOTES if is_x86 else ():
        print(wrapped(note))
    print(wrapped("`simvirt explain INSTRUCTION` shows the two runs of each side by side."))


_X86_NOTES: Final = (
    (
        "R&I: the requirement of Robin and Irvine (2000) that it violates, 3B about sensitive registers, 3C about "
        "storage protection; (prose), in their text and not in their count; later, listed by others; -, by nobody."
    ),
    "[0x5000] is the instruction's operand in memory, [0x67f8] and [0x67fc] the top of its stack.",
)


def _print_forms(analysis: Analysis) -> None:
    from simvirt.analyzer.model.properties import Property
    from simvirt.analyzer.report.tally import answer, shows

    for one in analysis.classifications:
        form = one.form
        print()
        title = f"{form.text}  ({form.identifier})"
        print(paint(title, Style.STRONG))
        what = answer(one)
        properties = ", ".join(which.value for which in one.properties())
        print(wrapped(f"{what.value}: {form.not_executed or properties or 'no property'}", "  "))
        coverage = one.coverage
        tried = f"; {coverage.observations:,} pairs of states" if coverage.observations else ""
        print(wrapped(f"evidence: {one.evidence.value}{tried}", "  "))
        shown = (one.claim(which) for which in Property if one.holds(which))
        for witness in (witness for claim in shown for witness in claim.witnesses):
            print(wrapped(f"{witness.identifier}: {shows(witness)}", "  "))


def _print_theorems(analysis: Analysis) -> None:
    print(paint("Theorems", Style.STRONG))
    from simvirt.analyzer.model.theorems import COUNTER_EXAMPLES, IN_PART

    verdicts = analysis.theorems().values()
    rows = [
        (
            _THEOREMS[verdict.theorem.value],
            verdict.hypothesis.value,
            str(len(verdict.critical)),
            str(len(verdict.open)),
            verdict.conclusion,
        )
        for verdict in verdicts
    ]
    print(table(("theorem", "hypothesis", "critical", "open", "what follows"), rows, frozenset({2, 3})))
    if not analysis.is_whole:
        print(wrapped(f"{IN_PART[:1].upper()}{IN_PART[1:]}."))
    if any(COUNTER_EXAMPLES in verdict.remarks for verdict in verdicts):
        print(wrapped(COUNTER_EXAMPLES))


def _print_strategies(analysis: Analysis) -> None:
    from simvirt.analyzer.coping import coping_rows

    rows = coping_rows(analysis)
    if not rows:
        return
    print()
    print(paint("What each strategy does about the critical instructions", Style.STRONG))
    told: dict[tuple[str, str], list[str]] = {}
    for number in range(len(rows[0].copings)):
        for row in rows:
            coping = row.copings[number]
            told.setdefault((coping.strategy, coping.what), []).append(row.title)
    cells = [(strategy, what, "; ".join(titles)) for (strategy, what), titles in told.items()]
    print(table(("strategy", "what it does", "about"), cells))
    print("`simvirt explain INSTRUCTION` tells more of each.")
    print()


_THEOREMS: Final = {
    "1": "1, virtual machine monitor",
    "2": "2, recursive",
    "3": "3, hybrid monitor",
    "3-penneman": "3, by Penneman's user-sensitive",
    "root-mode": "root and non-root modes",
}


def _print_remarks(analysis: Analysis) -> None:
    for obstacle in analysis.info.obstacles:
        print(wrapped(f"Obstacle that is no instruction, {obstacle.name}: {obstacle.text} [{obstacle.source}]"))
    for remark in (*analysis.architecture.assumptions, *analysis.info.remarks):
        print(wrapped(remark))
    explained = [one for one in analysis.disagreements if one.reason]
    if explained:
        print(f"Explained disagreements with what is written: {len(explained)}, see --format json")
    for one in analysis.disagreements:
        if not one.reason:
            print(wrapped(f"{one.form} is {one.observed}; {one.source} has: {one.declared}"))
