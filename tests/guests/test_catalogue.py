from __future__ import annotations

import hashlib
import re
import struct
from itertools import pairwise
from pathlib import Path

import pytest

from simvirt.errors import ImageError, UnknownNameError
from simvirt.guests import build as build_module
from simvirt.guests import catalogue
from simvirt.guests.build import Toolchain, build
from simvirt.guests.catalogue import CatalogueEntry, Ending
from simvirt.guests.image import BootProtocol, ImageKind
from simvirt.x86.addresses import PAGE_SIZE
from simvirt.x86.decode import disassemble, instruction_length
from simvirt.x86.instruction import Bits
from tests.guests import qemu

GUESTS = catalogue.guests()
needs_qemu = pytest.mark.skipif(not qemu.is_installed(), reason="qemu-system-i386, the reference, is not installed")
every_guest = pytest.mark.parametrize("entry", GUESTS, ids=lambda entry: entry.name)


def test_the_guests_of_the_first_course_are_there() -> None:
    names = [entry.name for entry in GUESTS]
    assert len(names) == len(set(names))
    assert set(names) >= {"hello", "popf-mask", "sensitive", "rings", "ticker", "faults", "spin", "triple-fault"}
    assert set(names) >= {"bench-sieve", "bench-sha256", "bench-dhrystone", "bench-priv"}


def test_find() -> None:
    assert catalogue.find("ticker").name == "ticker"
    with pytest.raises(UnknownNameError) as caught:
        catalogue.find("tickr")
    assert (caught.value.kind, caught.value.nearest) == ("guest", "ticker")


@every_guest
def test_files_and_words_are_complete(entry: CatalogueEntry) -> None:
    assert entry.summary
    assert entry.shows
    assert entry.tags
    assert entry.sources
    assert all(path.suffix in {*build_module.SOURCE_SUFFIXES, ".h", ".md"} for path in entry.sources)
    assert (entry.guest_status is not None) == (entry.ending is Ending.FINISHED)
    image = entry.image()
    assert (image.kind, image.boot) == (ImageKind.MULTIBOOT, BootProtocol.MULTIBOOT)


def test_nothing_lies_around() -> None:
    names = {entry.name for entry in GUESTS}
    assert {path.stem for path in catalogue.IMAGES.iterdir()} == names
    assert {path.stem for path in catalogue.EXPECTED.iterdir()} == names
    assert {path.name for path in catalogue.SOURCES.iterdir()} == {entry.source for entry in GUESTS} | {"lib"}


def test_an_image_that_is_not_the_recorded_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = catalogue.find("spin").image_path.read_bytes()
    tmp_path.joinpath("hello.elf").write_bytes(other)
    monkeypatch.setattr(catalogue, "IMAGES", tmp_path)
    with pytest.raises(ImageError, match="SHA-256 differs"):
        catalogue.find("hello").image()


@needs_qemu
@every_guest
def test_qemu_agrees_with_the_expectation(entry: CatalogueEntry) -> None:
    """The expectation is QEMU's own, so this finds images, tables and consoles that do not belong together."""
    endless = entry.ending in qemu.ENDLESS
    run = qemu.run_guest(entry, 3 if endless else 100)
    if endless and not run.console:  # a busy host: QEMU's firmware alone took that long
        run = qemu.run_guest(entry, 30)
    assert run.console == entry.console
    if entry.ending is Ending.FINISHED:
        assert run.guest_status == entry.guest_status
    else:
        assert run.status == (None if endless else 0)


@needs_qemu
@pytest.mark.parametrize("cpu", ["qemu32", "pentium", "Haswell"])
def test_what_sensitive_prints_does_not_depend_on_the_processor_model(cpu: str) -> None:
    entry = catalogue.find("sensitive")
    ours, theirs = entry.console.splitlines(), qemu.run(entry.image_path, cpu=cpu).console.splitlines()
    if cpu == "pentium":  # has neither SYSENTER nor its MSRs
        ours, theirs = [[line for line in lines if not line.startswith("sys")] for lines in (ours, theirs)]
    assert theirs == ours


@pytest.mark.skipif(
    build_module.ziglang_version() != catalogue.ziglang_version(),
    reason=f"the images were built by ziglang {catalogue.ziglang_version()}, which is not installed",
)
@every_guest
def test_images_are_built_from_their_sources(entry: CatalogueEntry, tmp_path: Path) -> None:
    image = build(entry.source_folder, tmp_path / "image.elf", Toolchain.ZIGLANG, entry.macros)
    assert image.read_bytes() == entry.image_path.read_bytes(), "stale image: run tests/guests/refresh_catalogue.py"


@every_guest
def test_images_tell_nothing_of_the_machine_that_built_them(entry: CatalogueEntry) -> None:
    data = entry.image_path.read_bytes()
    assert re.findall(rb"/(?:home|root|tmp|usr|var|Users|work)[/\w.-]*", data) == []


@every_guest
def test_code_and_written_data_share_no_page(entry: CatalogueEntry) -> None:
    """A page that holds both is slow on engines that watch code for changes."""
    segments = sorted(entry.image().segments, key=lambda segment: segment.gpa)
    for lower, upper in pairwise(segments):
        if lower.executable or upper.executable:
            assert (lower.end - 1) // PAGE_SIZE < upper.gpa // PAGE_SIZE
    assert not any(segment.executable and segment.writable for segment in segments)
    symbols = entry.image().symbols
    stack, table = symbols.address("stack_bottom"), symbols.address("gdt")
    assert stack is not None
    assert table is not None
    assert stack % PAGE_SIZE == table % PAGE_SIZE == 0


# Sensitive instructions that do not trap in ring 1, as a disassembler writes them (Robin and Irvine 2000, table 1).
SILENT = re.compile(
    r"(pushfd?|popfd?|sgdt|sidt|sldt|str|smsw|lar|lsl|verr|verw|l[defgs]s)\b"
    r"|(push|pop) [cdefgs]s\b|mov \w+, [cs]s\b|(call|jmp) (8|0x38):|(call|jmp) fword"
)


@every_guest
def test_only_guests_that_say_so_hold_sensitive_instructions_that_do_not_trap(entry: CatalogueEntry) -> None:
    image = entry.image()
    code = image.segments[0]
    found, offset = [], next(iter(image.symbols)).address - code.gpa  # behind the multiboot header
    while offset < len(code.data):
        window = code.data[offset : offset + 15]
        text = disassemble(window, code.gpa + offset, Bits.CODE_32)
        if SILENT.match(text):
            found.append(text)
        offset += instruction_length(window, Bits.CODE_32) or 1
    assert bool(found) == ("sensitive" in entry.tags), found


@needs_qemu
@pytest.mark.skipif(Toolchain.GCC not in build_module.available(), reason="no gcc that builds for the 386")
@pytest.mark.parametrize("name", ["faults", "popf-mask", "rings", "sensitive", "tutor"])
def test_what_a_guest_prints_does_not_depend_on_the_compiler(name: str, tmp_path: Path) -> None:
    """But for addresses: gcc lays the tables out elsewhere."""
    entry = catalogue.find(name)
    image = build(catalogue.SOURCES / name, tmp_path / "image.elf", Toolchain.GCC)
    run = qemu.run(image, seconds=5 if entry.ending in qemu.ENDLESS else 60)
    assert re.sub(r"base \w+", "base", run.console) == re.sub(r"base \w+", "base", entry.console)
    assert run.guest_status == entry.guest_status


# What the benchmarks print, computed another way.


def test_sieve() -> None:
    limit = 1_000_000
    is_prime = bytearray([1]) * limit
    is_prime[:2] = b"\0\0"
    for n in range(2, 1000):
        if is_prime[n]:
            is_prime[n * n :: n] = bytes(len(range(n * n, limit, n)))
    primes = [n for n in range(limit) if is_prime[n]]
    assert catalogue.find("bench-sieve").console == f"{len(primes)} primes, sum {sum(primes) & 0xFFFFFFFF:08x}\n"


def test_sha256() -> None:
    words, x = [], 1
    for _ in range(16384):
        words.append(x)
        x = (1664525 * x + 1013904223) & 0xFFFFFFFF
    message = struct.pack("<16384I", *words) * 48
    assert catalogue.find("bench-sha256").console == hashlib.sha256(message).hexdigest() + "\n"


def _dhrystone_round(n: int) -> int:
    """One round, from the description of what it computes rather than step by step."""
    texts = ["A GUEST'S PROGRAM, FIRST TEXT.", "A GUEST'S PROGRAM, SECOND TEXT"]
    walked = 0
    for i in range(5):
        colour = {0: 2, 1: 0, 2: 1}[(n + i) % 3]
        number = 3 * n + i + (7 if i < 4 and texts[i % 2] < texts[(i + 1) % 2] else -3)
        walked = walked * 31 + number + colour
    at = n % 16 + 5
    arrays = 11 * n + at + 1 + 11 * n  # line[at + 1], line[at + 30], square[at][at - 1], square[at + 20][at]
    product = (n + 7) * 13
    return (walked + arrays) * 17 + (product - product // 3) * 5 + product % 7


def test_dhrystone() -> None:
    rounds, period = 120_000, 64
    total = rounds // period * sum(_dhrystone_round(n) for n in range(period))
    assert rounds % period == 0
    expected = f"{rounds} rounds, checksum {total & 0xFFFFFFFF:08x}\n"
    assert catalogue.find("bench-dhrystone").console == expected


def _rotate_right(x: int, by: int) -> int:
    return (x >> by | x << 32 - by) & 0xFFFFFFFF


def test_priv() -> None:
    x = 1
    for _ in range(20_000):
        x = _rotate_right((x * 1664525 + 1013904223) & 0xFFFFFFFF, 7) + 1
        x = (x * 69069 + 1) & 0xFFFFFFFF
        x = _rotate_right(x, 3) ^ 0x9E3779B9
        for i in range(20):
            x = (x * 5 + (x >> 13) + i) & 0xFFFFFFFF
    assert catalogue.find("bench-priv").console == f"20000 rounds, checksum {x:08x}\n"


# The list of sensitive instructions, from Robin and Irvine (2000) table 1 and section 3.2, and later additions.
SENSITIVE = {
    *("sgdt", "sidt", "sldt", "smsw", "pushf", "popf", "lar", "lsl", "verr", "verw", "pop_ss", "push_cs", "call_far"),
    *("jmp_far", "int", "ret_far", "str", "mov_from_cs", "mov_to_ss", "iret", "lds", "les", "lfs", "lgs", "lss", "cli"),
    *("sti", "in", "out", "ins", "outs", "rdtsc", "rdpmc", "cpuid", "xgetbv", "rdtscp", "rdpid", "sysenter", "sysexit"),
}


def test_sensitive_has_a_site_and_a_line_for_each_instruction_of_the_list() -> None:
    entry = catalogue.find("sensitive")
    symbols = entry.image().symbols
    printed = [line.split()[0] for line in entry.console.splitlines()]
    assert set(printed) >= SENSITIVE
    for name in printed:
        assert symbols.address(f"site_{name}") is not None, name


# Where the label's words are not the instruction's beginning as a disassembler writes it.
WRITTEN = {
    "pushf": "pushfd",
    "popf": "popfd",
    "iret": "iretd",
    "ins": "insb",
    "outs": "outsb",
    "ret_far": "retf",
    "call_far": "call 8:",
    "call_far_indirect": "call fword ptr",
    "call_gate": "call 0x38:",
    "jmp_far": "jmp 8:",
    "jmp_far_indirect": "jmp fword ptr",
    "rdtsc_again": "rdtsc",
}


def test_each_site_is_the_instruction_that_its_name_says() -> None:
    image = catalogue.find("sensitive").image()
    code = image.segments[0]
    sites = [symbol for symbol in image.symbols if symbol.name.startswith("site_")]
    assert len(sites) == len(catalogue.find("sensitive").console.splitlines()) + 1  # RDTSC has two
    for site in sites:
        name = site.name.removeprefix("site_")
        offset = site.address - code.gpa
        text = disassemble(code.data[offset : offset + 15], site.address, Bits.CODE_32)
        direction, _, segment = name.removeprefix("mov_").partition("_")
        if name.startswith("mov_"):
            assert text == (f"mov eax, {segment}" if direction == "from" else f"mov {segment}, eax")
        else:
            assert text.startswith(WRITTEN.get(name, name.replace("_", " "))), name
