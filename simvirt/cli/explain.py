"""`simvirt explain`: an instruction, with its evidence and what each strategy does about it; or a VM exit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.cli.runs_view import print_runs
from simvirt.cli.status import ExitStatus
from simvirt.cli.table import Style, paint, table, wrapped
from simvirt.errors import UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.analyzer.model.classification import Classification
    from simvirt.observe.exit_words import ExitWords

_EXIT: Final = "exit"


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt explain`."""
    parser.add_argument(
        "what",
        metavar="INSTRUCTION",
        nargs="*",
        help="a mnemonic, a form's name, an operation or bytes (popf, mov-from-segment, 9d); "
        "or the word exit and a VM exit's name or number (exit 30)",
    )
    parser.add_argument("--isa", metavar="ISA", help="the instruction set (default: the first that has it)")
    parser.add_argument(
        "--paste",
        metavar="FILE",
        help="explain the VM exits in kvm_exit lines or a table of perf kvm stat (- is stdin)",
    )


def execute(arguments: Namespace) -> ExitStatus:
    """Explain one thing."""
    words = arguments.what
    if bool(words) == (arguments.paste is not None):
        raise UsageError("say what to explain: an instruction, `exit` with a reason, or --paste with a file")
    if arguments.paste is not None:
        _explain_pasted(arguments.paste)
    elif words[0].lower() == _EXIT:
        if len(words) < 2:
            raise UsageError(
                "`explain exit` wants the exit's name or number: explain exit 30, explain exit EPT_VIOLATION"
            )
        _print_exit(" ".join(words[1:]))
    elif arguments.isa is None or _is_x86(arguments.isa):
        _explain_instruction(" ".join(words), arguments.isa)
    else:
        _explain_elsewhere(" ".join(words), arguments.isa)
    return ExitStatus.OK


def _is_x86(isa: str) -> bool:
    from simvirt.analyzer.x86.instruction_sets import VARIANT_INFOS

    return isa in {info.name for info in VARIANT_INFOS}


def _explain_elsewhere(words: str, isa: str) -> None:
    """Of a machine that no strategy is for: what each form of that name is, what is declared of it, and the runs."""
    from simvirt.analyzer.model.analysis import classify_form
    from simvirt.analyzer.probe.sweep import machine_of
    from simvirt.analyzer.registry import find
    from simvirt.analyzer.report.tally import answer
    from simvirt.analyzer.session import forms_like

    row, machine = find(isa), machine_of(isa)
    for number, form in enumerate(forms_like(isa, words)):
        one = classify_form(machine, form)
        code = f": {form.encoding.hex(' ')}" if form.encoding else ""
        print(("\n" if number else "") + paint(form.text, Style.STRONG) + f"  {row.info.name}{code}")
        print(f"{answer(one).value}; form {form.identifier}")
        _print_claims(one)
        print(wrapped(f"Described in: {form.declared.source}."))
        for other in row.compare([one]):
            why = f" {other.reason[:1].upper()}{other.reason[1:]}. Right: {other.right}." if other.reason else ""
            print(wrapped(f"There it is {other.declared}; by experiment {other.observed}.{why}"))
        for witness in _best(one):
            print()
            print_runs(witness, machine.architecture)


def _explain_instruction(words: str, isa: str | None) -> None:
    from simvirt.analyzer.coping import copings
    from simvirt.analyzer.model.analysis import classify_form
    from simvirt.analyzer.probe.sweep import machine_of
    from simvirt.analyzer.report.tally import answer
    from simvirt.analyzer.x86.declared import sensitivity_of
    from simvirt.analyzer.x86.lookup import find_instruction
    from simvirt.x86.decode import disassemble

    found = find_instruction(words, isa)
    machine = machine_of(found.variant.name)
    form = machine.form(found.form.name)
    one = classify_form(machine, form)
    row = sensitivity_of(found.form, int(found.variant.bits))
    example = disassemble(form.encoding, 0, int(found.variant.bits)) if form.encoding else "no example"
    print(paint(f"{form.text}", Style.STRONG) + f"  {found.variant.name}: {found.form.opcode}, as in {example}")
    print(f"{answer(one).value}; {form.group}; form {form.identifier}")
    _print_claims(one)
    if row is not None:
        print(wrapped(f"{row.reason} [{row.source}]"))
    print()
    for witness in _best(one):
        print_runs(witness, machine.architecture)
        print()
    rows = [(coping.strategy, "yes" if coping.is_safe else "no", coping.text) for coping in copings(one, row)]
    print(table(("strategy", "copes", "how"), rows))


def _print_claims(one: Classification) -> None:
    from simvirt.analyzer.model.properties import Reading

    if one.form.not_executed:
        print(wrapped(f"Not executed here. {one.form.not_executed}."))
        return
    repaired = ", ".join(which.value for which in one.properties()) or "no property"
    letter = ", ".join(which.value for which in one.properties(Reading.LETTER)) or "no property"
    print(wrapped(f"By experiment: {repaired}. By the letter of the definitions: {letter}."))
    coverage = one.coverage
    print(wrapped(f"Evidence: {one.evidence.value}, {coverage.observations:,} pairs of states."))


def _best(one: Classification) -> list:  # type: ignore[type-arg]
    """The plainest witness of each property that makes the form sensitive."""
    from simvirt.analyzer.model.properties import SENSITIVE

    return [one.claim(which).witnesses[0] for which in SENSITIVE if one.holds(which) and one.claim(which).witnesses]


def _print_exit(name: str) -> None:
    from simvirt.observe.exit_words import explain_exit

    _print_words(explain_exit(name))


def _print_words(words: ExitWords, indent: str = "") -> None:
    reason = words.reason
    title = "" if reason.title == reason.name else f": {reason.title}"
    print(indent + paint(f"{int(reason)} {reason.name}", Style.STRONG) + title)
    print(wrapped(f"Cause: {words.cause}. [{words.section}]", indent + "  "))
    print(wrapped(f"Qualification: {words.qualification}.", indent + "  "))
    for instruction in words.instructions:
        print(wrapped(instruction, indent + "  "))


def _explain_pasted(name: str) -> None:
    from simvirt.observe.exit_words import explain_pasted

    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror})") from error
    for exits in explain_pasted(text.splitlines()):
        share = "" if exits.share is None else f", {exits.share:.2f} % of the time"
        print(f"{exits.count:,} time{'s' * (exits.count != 1)}{share}:")
        _print_words(exits.words, "  ")
        if exits.details:
            print(wrapped(f"The first: {exits.details}", "    "))
        print()
