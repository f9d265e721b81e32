"""The options that `run` and `compare` share, and how they become the library's arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from simvirt.cli.values import escaped_bytes, file_content, positive_count, whole_number

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from simvirt.guests.image import GuestImage
    from simvirt.observe.results import RunConfig

GUEST_HELP: Final = "a guest's name, see `simvirt list guests`, or the path of an image"


def add_boot_options(parser: ArgumentParser) -> None:
    """The guest, and what its boot loader hands over; `boot_image` takes them."""
    parser.add_argument("guest", metavar="GUEST", help=GUEST_HELP)
    add_loader_options(parser)


def add_loader_options(parser: ArgumentParser) -> None:
    """What the guest's boot loader hands over."""
    from simvirt.guests.recognise import BootKind

    boot = parser.add_argument_group("boot")
    boot.add_argument("--append", metavar="TEXT", default="", help="the kernel's command line")
    boot.add_argument(
        "--initrd",
        metavar="FILE",
        action="append",
        default=[],
        help="a file to load beside the kernel: Linux's initial RAM disk, a multiboot module; more than once for more",
    )
    boot.add_argument(
        "--boot",
        choices=[kind.value for kind in BootKind],
        help="how to start the image (default: by what the file is)",
    )
    boot.add_argument(
        "--symbols", metavar="FILE", help="the guest's symbols: an ELF file, Linux's System.map, or nm's output"
    )


def boot_image(arguments: Namespace) -> GuestImage:
    """The guest that the options name.

    Raises:
        UsageError: no such guest, or a file is no usable image.
    """
    from simvirt.guests.resolve import resolve

    return resolve(
        arguments.guest,
        append=arguments.append,
        initrd=arguments.initrd,
        boot=arguments.boot,
        symbols=arguments.symbols,
    )


def add_shared_options(parser: ArgumentParser) -> None:
    """Options for the machine, the limit, and what is printed."""
    add_machine_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    output.add_argument("--quiet", action="store_true", help="no tables and no progress")


def add_machine_options(parser: ArgumentParser) -> None:
    """Options for the machine and the limit."""
    machine = parser.add_argument_group("machine")
    machine.add_argument("--memory", metavar="SIZE", help="RAM, as 64M, 16MiB or a number of bytes (default: 64M)")
    machine.add_argument("--cpu", metavar="CPU", help="CPU model, see `simvirt list cpus` (default: core2)")
    machine.add_argument(
        "--seed", metavar="N", type=whole_number, help="where the PC takes randomness from (default: 0)"
    )
    machine.add_argument(
        "--start-time",
        metavar="TIME",
        help="what the real-time clock shows at power-on, as 2026-01-01T12:30:00 (default: the start of 2026)",
    )
    machine.add_argument(
        "--max-instructions",
        metavar="N",
        type=positive_count,
        help="guest instructions after which a run is stopped, as 10_000, 1e6 or 2M (default: 1e10)",
    )
    machine.add_argument(
        "--costs", metavar="PRESET", help="what models cycles, see `simvirt list costs` (default: core2-2006)"
    )
    machine.add_argument(
        "--disk",
        metavar="FILE",
        help="raw image of a disk; what is written stays in memory, or with FILE:rw goes to the file; "
        "FILE:virtio is a virtio device",
    )
    machine.add_argument(
        "--with",
        dest="features",
        metavar="DEVICE",
        action="append",
        help="what the machine has beyond the usual: virtio-console, kvm; more than once for more",
    )
    console = parser.add_argument_group("input")
    given = console.add_mutually_exclusive_group()
    given.add_argument(
        "--input",
        metavar="TEXT",
        type=escaped_bytes,
        help=r"console input, for the serial port; \n, \r, \t, \e, \\ and \xNN are understood",
    )
    given.add_argument(
        "--input-file",
        dest="input",
        metavar="FILE",
        type=file_content,
        help="console input from a file, - for standard input",
    )
    console.add_argument(
        "--keys",
        metavar="TEXT",
        help="what is typed on the keyboard; other keys by name: <Enter>, <F1>, <Ctrl-C>, <Wait> for a second's pause",
    )


def shared_arguments(arguments: Namespace) -> dict[str, Any]:
    """What was given of the options above; for the rest the library has its defaults."""
    names = ("memory", "cpu", "seed", "start_time", "input", "keys", "disk", "features", "max_instructions", "costs")
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def run_config(arguments: Namespace) -> RunConfig:
    """The same options as the value that a trial takes.

    Raises:
        UsageError: no such CPU model, or no such amount of memory.
    """
    from simvirt.machine.disk import DiskOption
    from simvirt.observe.results import RunConfig
    from simvirt.observe.session import (
        DEFAULT_MAX_INSTRUCTIONS,
        DEFAULT_MEMORY,
        clock_time,
        machine_features,
        memory_size,
    )
    from simvirt.x86.cpuid import DEFAULT_CPU_MODEL, find_cpu_model

    return RunConfig(
        cpu=find_cpu_model(arguments.cpu or DEFAULT_CPU_MODEL).name,
        memory=memory_size(arguments.memory or DEFAULT_MEMORY),
        seed=arguments.seed or 0,
        max_instructions=arguments.max_instructions or DEFAULT_MAX_INSTRUCTIONS,
        start_time=clock_time(arguments.start_time),
        input=arguments.input or b"",
        keys=arguments.keys or "",
        disk=None if arguments.disk is None else DiskOption.parse(arguments.disk),
        features=machine_features(arguments.features or ()),
    )
