"""`run` and `compare` as functions: what they accept, refuse, and report."""

from __future__ import annotations

from pathlib import Path

import pytest

from simvirt.errors import ImageError, UnknownNameError, UsageError
from simvirt.guests.resolve import resolve
from simvirt.machine.machine import Outcome
from simvirt.observe.session import compare, memory_size, run
from simvirt.vmm.exit_log import ExitRecord
from tests.observe.faulty import Faulty, fail

FOREVER = b"\xeb\xfe"


def flat(tmp_path: Path, code: bytes) -> Path:
    path = tmp_path / "guest.bin"
    path.write_bytes(code)
    return path


def test_a_guest_by_name_path_and_image(tmp_path: Path) -> None:
    image = resolve("hello")
    assert image.path is not None
    consoles = {run(guest).console for guest in ("hello", image.path, str(image.path), image)}
    assert consoles == {"Hello from ring 0.\n"}
    assert run(flat(tmp_path, b"\xf4")).outcome is Outcome.HALTED


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"guest": "helo"}, UnknownNameError, "hello"),
        ({"guest": "hello", "strategy": "vxt"}, UnknownNameError, "vtx"),
        ({"guest": "hello", "cpu": "pentium5"}, UnknownNameError, "pentium"),
        ({"guest": "hello", "costs": "haswel"}, UnknownNameError, "haswell-2013"),
        ({"guest": "hello", "memory": 1 << 20}, ImageError, "memory"),
        ({"guest": "hello", "memory": "12 potatoes"}, UsageError, "potatoes"),
        ({"guest": "hello", "memory": 5000}, UsageError, "4096"),
        ({"guest": "hello", "memory": "4G"}, UsageError, "3 GiB"),
        ({"guest": "hello", "max_instructions": 0}, UsageError, "at least one"),
        ({"guest": "./no-such-file"}, ImageError, "no such file"),
    ],
)
def test_wrong_usage_raises(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(**arguments)  # type: ignore[arg-type]  # which is the point


def test_wrong_usage_of_compare_raises() -> None:
    with pytest.raises(UsageError, match="interval"):
        compare("hello", [], interval=0)
    with pytest.raises(UnknownNameError):
        compare("hello", ["nothing"])


def test_the_limit_is_exact(tmp_path: Path) -> None:
    result = run(flat(tmp_path, FOREVER), max_instructions=123_457)
    assert (result.outcome, result.counted.instructions) == (Outcome.LIMIT, 123_457)


def test_progress_changes_nothing() -> None:
    seen: list[int] = []
    plain = run("popf-mask")
    watched = run("popf-mask", progress=lambda instructions, _seconds: seen.append(instructions))
    assert watched.counted == plain.counted
    assert watched.state == plain.state
    assert watched.console == plain.console
    assert seen[-1] == plain.counted.instructions
    assert len(seen) > 1


def test_a_monitor_that_fails_is_an_outcome_with_what_was_so_far() -> None:
    result = run("hello", Faulty(120, fail(ZeroDivisionError("a bug"))))
    assert result.outcome is Outcome.MONITOR_ERROR
    assert result.error is not None
    assert (result.error.kind, result.error.message) == ("ZeroDivisionError", "a bug")
    assert result.counted.instructions == 120
    assert result.to_dict()["error"] == {"kind": "ZeroDivisionError", "message": "a bug"}
    assert result.post_mortem is not None


def test_wrong_usage_inside_a_strategy_is_not_hidden() -> None:
    with pytest.raises(UsageError, match="asked for too much"):
        run("hello", Faulty(5, fail(UsageError("asked for too much"))))


def test_trace_keeps_or_hands_over_the_exits() -> None:
    kept = run("hello", "vtx", trace=True)
    handed: list[ExitRecord] = []
    told = run("hello", "vtx", trace=handed.append)
    assert list(kept.exits) == handed
    assert not told.exits
    assert len(handed) == kept.counted.interventions
    assert [record.number for record in handed] == list(range(1, len(handed) + 1))


def test_the_reference_is_always_run_and_only_once() -> None:
    comparison = compare("hello", ["bare-metal", "bare-metal"])
    assert [each.strategy for each in comparison.runs] == ["bare-metal"]
    assert comparison.verdicts == {}
    assert comparison.run("bare-metal") is comparison.runs[0]
    with pytest.raises(KeyError):
        comparison.run("vtx")


@pytest.mark.parametrize(
    ("text", "size"), [("64M", 64 << 20), ("16 MiB", 16 << 20), ("1g", 1 << 30), ("8192", 8192), (4096, 4096)]
)
def test_memory_sizes(text: int | str, size: int) -> None:
    assert memory_size(text) == size
