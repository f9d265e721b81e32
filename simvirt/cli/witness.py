"""`simvirt witness`: evidence again: both runs of a witness, here, or elsewhere from a bootable image."""

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
    parser.add_argument("--boot-image", metavar="FILE", help="write a disk image that makes both runs on a PC it boots")


def execute(arguments: Namespace) -> ExitStatus:
    """Run the witness again, and show both runs or write the image as well."""
    from simvirt.analyzer.probe.sweep import machine_of
    from simvirt.analyzer.session import find_witness

    isa, witness = find_witness(arguments.witness, arguments.isa)
    print_runs(witness, machine_of(isa).architecture)
    if arguments.boot_image:
        from simvirt.analyzer.replay.boot_image import write_boot_image

        write_boot_image(isa, witness, arguments.boot_image)
        print(f"\n{arguments.boot_image}: a disk that makes both runs on the PC that boots it, for example by")
        emulator = "qemu-system-x86_64 -cpu max" if isa.startswith("x86-64") else "qemu-system-i386"
        print(f"  {emulator} -drive file={arguments.boot_image},format=raw -serial stdio -display none \\")
        print("    -device isa-debug-exit,iobase=0xf4")
    return ExitStatus.OK
