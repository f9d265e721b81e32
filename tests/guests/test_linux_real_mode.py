from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from simvirt.errors import ImageError, UnsupportedError
from simvirt.guests.image import BootModule, BootOptions, BootProtocol, GuestImage
from simvirt.guests.linux_real_mode import LEAST_HEAP_END, SETUP_CODE, entered_on
from simvirt.guests.load import load
from simvirt.guests.recognise import BootKind, recognise
from simvirt.machine.machine import Outcome
from simvirt.observe.comparison import Equivalence
from simvirt.observe.results import Run
from simvirt.observe.session import compare, run
from simvirt.x86.addresses import Gpa
from simvirt.x86.cpuid import find_cpu_model
from tests.guests.linux_maker import NEEDS, complaining_setup_code, make_bzimage

MIB = 1 << 20
KERNEL = make_bzimage(setup_code=complaining_setup_code())
LOADED = 42
"""Status of the kernel proper, entered past its setup code."""


def image(boot: BootKind | None = None, data: bytes = KERNEL, **options: object) -> GuestImage:
    return replace(recognise(data, "vmlinuz", boot), options=BootOptions(**options))  # type: ignore[arg-type]


def screen(result: Run) -> str:
    assert result.screen is not None
    return result.screen.text


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
def test_the_setup_code_is_entered_in_real_address_mode_with_the_firmwares_services(strategy: str) -> None:
    result = run(image(BootKind.LINUX_16, command_line="console=ttyS0 quiet"), strategy)
    assert (result.outcome, result.guest_status) == (Outcome.FINISHED, 7)
    assert screen(result).startswith(NEEDS.decode())
    assert result.console == "console=ttyS0 quiet"


@pytest.mark.parametrize("strategy", ["bare-metal", "vtx"])
@pytest.mark.parametrize("extended_load_flags", [0, 1], ids=["32-bit kernel", "64-bit kernel"])
def test_a_kernel_that_the_processor_cannot_run_says_so_itself(strategy: str, extended_load_flags: int) -> None:
    kernel = make_bzimage(setup_code=complaining_setup_code(), extended_load_flags=extended_load_flags)
    result = run(image(data=kernel), strategy, cpu="pentium")
    assert screen(result).startswith(NEEDS.decode())
    assert run(image(data=kernel), strategy, cpu="core2").guest_status == LOADED
    assert run(image(BootKind.LINUX_32, kernel), strategy, cpu="pentium").guest_status == LOADED


@pytest.mark.parametrize(("cpu", "flags", "boot"), [
    ("pentium", 0, BootProtocol.LINUX_16), ("pentium", 1, BootProtocol.LINUX_16),
    ("pentium4", 0, BootProtocol.LINUX_32), ("x86-64", 1, BootProtocol.LINUX_32),
])  # fmt: skip
def test_the_protocol_goes_by_the_processor(cpu: str, flags: int, boot: BootProtocol) -> None:
    kernel = make_bzimage(extended_load_flags=flags)
    assert entered_on(recognise(kernel, "vmlinuz"), find_cpu_model(cpu)).boot is boot
    wanted = recognise(kernel, "vmlinuz", BootKind.LINUX_32)
    assert entered_on(wanted, find_cpu_model(cpu)) == wanted


def test_no_processor_is_in_a_mode_that_it_does_not_have() -> None:
    with pytest.raises(ImageError, match="64-bit mode, which the CPU model pentium does not have"):
        run(image(BootKind.LINUX_64), cpu="pentium")


def test_a_comparison_takes_it_as_a_run_does() -> None:
    comparison = compare(image(), ["vtx", "trap-and-emulate"], cpu="pentium")
    assert comparison.verdicts["vtx"].equivalence is Equivalence.EQUIVALENT
    assert comparison.verdicts["trap-and-emulate"].equivalence is Equivalence.NOT_APPLICABLE
    with pytest.raises(UnsupportedError, match="real-address mode"):
        run(image(), "trap-and-emulate", cpu="pentium")


def test_a_kernel_with_setup_code_alone_is_entered_there() -> None:
    kernel = make_bzimage(setup_code=complaining_setup_code(), code32_start=0x20000)
    assert run(image(data=kernel)).guest_status == 7
    with pytest.raises(ImageError, match="real-address mode alone"):
        recognise(kernel, "vmlinuz", BootKind.LINUX_32)


def test_the_setup_header_holds_what_the_protocol_asks_for() -> None:
    memory: dict[int, bytes] = {}
    modules = (BootModule("a", b"one"), BootModule("b", b"two"))
    guest = image(BootKind.LINUX_16, command_line="quiet", modules=modules)
    load(guest, 64 * MIB, memory.__setitem__)
    setup = memory[SETUP_CODE]
    assert setup[0x202:0x210] == KERNEL[0x202:0x210]
    assert setup[0x210] == 0xFF
    assert setup[0x211] == 0x81  # loaded high, may use its heap
    ramdisk, size = struct.unpack_from("<II", setup, 0x218)
    assert memory[ramdisk][:size] == b"onetwo"
    heap_end, _, command_line = struct.unpack_from("<HHI", setup, 0x224)
    assert command_line >= SETUP_CODE + heap_end + 0x200
    assert memory[Gpa(command_line)] == b"quiet\0"
    assert memory[MIB] == recognise(KERNEL, "vmlinuz").segments[0].data


def test_what_has_no_room() -> None:
    memory: dict[int, bytes] = {}
    room = 0x9FC00 - SETUP_CODE - LEAST_HEAP_END
    for guest, message in (
        (image(BootKind.LINUX_16, command_line="x" * 2048), "command line of 2048 bytes"),
        (image(BootKind.LINUX_16, make_bzimage(command_line_size=1 << 16), command_line="x" * room), "no room"),
        (image(BootKind.LINUX_16, make_bzimage(setup_sectors=64)), "setup code of 33280 bytes"),
        (image(BootKind.LINUX_16, modules=(BootModule("initrd", bytes(64 * MIB)),)), "initial RAM disk"),
    ):
        with pytest.raises(ImageError, match=message):
            load(guest, 64 * MIB, memory.__setitem__)
    assert not memory
