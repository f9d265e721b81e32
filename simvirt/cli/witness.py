"""`simvirt witness`: evidence again: both runs of a witness, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simvirt.cli.runs_view import print_runs
from simvirt.cli.status import ExitStatus

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `simvirt witness`."""
    parser.add_argument("witness", metavar="ID", help="a witness's identifier, as `simvirt analyze` prints them")
    parser.add_argument("--isa", metavar="ISA", help="the instruction set (default: the first that has this witness)")


def execute(arguments: Namespace) -> ExitStatus:
    """Run the witness again, and show both runs."""
    from simvirt.analyzer.probe.sweep import machine_of
    from simvirt.analyzer.session import find_witness

    isa, witness = find_witness(arguments.witness, arguments.isa)
    print_runs(witness, machine_of(isa).architecture)
    return ExitStatus.OK
