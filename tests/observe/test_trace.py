"""Traces: three formats of the same exits, the same to the byte every time."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simvirt.guests.resolve import resolve
from simvirt.observe.results import Run
from simvirt.observe.session import run
from simvirt.observe.trace import TraceFormat, exit_to_dict, trace_writer
from simvirt.vmm.exit_log import Intervention

STRATEGIES = ["trap-and-emulate", "vtx"]


def traced(guest: str, strategy: str, trace_format: TraceFormat) -> tuple[str, Run]:
    stream, image = io.StringIO(), resolve(guest)
    writer = trace_writer(trace_format, stream, image)
    result = run(image, strategy, trace=writer)
    writer.close()
    return stream.getvalue(), result


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_kvm_lines_have_the_shape_of_linux_s(strategy: str) -> None:
    """The pattern is that of the lines which ftrace prints for the event on a Linux host."""
    text, result = traced("ticker", strategy, TraceFormat.KVM)
    lines = text.splitlines()
    assert len(lines) == result.counted.interventions
    pattern = re.compile(
        r"^ +(?P<task>\S+)-(?P<pid>\d+) +\[(?P<cpu>\d{3})\] \S{4,5} +(?P<seconds>\d+)\.(?P<fraction>\d{6,9}): "
        r"kvm_exit: vcpu (?P<vcpu>\d+) reason (?P<reason>\S+) rip 0x(?P<rip>[0-9a-f]+)(?P<info> info1 0x[0-9a-f]{16})?"
    )
    reasons: dict[str, int] = {}
    for line in lines:
        match = pattern.match(line)
        assert match is not None, line
        reasons[match["reason"]] = reasons.get(match["reason"], 0) + 1
    assert reasons == dict(result.counted.vm_exits)
    assert "guest.h:" in text  # the guest's source lines


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_json_lines_tell_everything(strategy: str) -> None:
    text, result = traced("rings", strategy, TraceFormat.JSONL)
    exits = [json.loads(line) for line in text.splitlines()]
    assert [each["number"] for each in exits] == list(range(1, result.counted.interventions + 1))
    assert [each["instruction"] for each in exits] == sorted(each["instruction"] for each in exits)
    for each in exits:
        assert all(each["cause"][key] for key in ("what", "why", "source")), each
        assert each["symbol"]
        assert bytes.fromhex(each["code"])
        assert each["text"] != "?"


def test_the_manual_s_numbers_and_qualifications() -> None:
    text, _ = traced("hello", "vtx", TraceFormat.JSONL)
    exits = [json.loads(line) for line in text.splitlines()]
    io_exits = [each for each in exits if each["reason"] == "IO_INSTRUCTION"]
    assert {each["reason_number"] for each in io_exits} == {30}  # SDM Vol. 3D Appendix C
    assert any(each["qualification"]["port"] == 0x3F8 and not each["qualification"]["is_in"] for each in io_exits)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_chrome_events_are_what_perfetto_wants(strategy: str) -> None:
    text, result = traced("ticker", strategy, TraceFormat.CHROME)
    data = json.loads(text)
    events: list[dict[str, Any]] = [event for event in data["traceEvents"] if event["ph"] != "M"]
    assert {event["ph"] for event in events} <= {"X", "i"}
    for thread in (1, 2):
        at = 0.0
        for event in (each for each in events if each["tid"] == thread):
            assert event["ts"] >= at - 1e-6
            at = event["ts"] + event.get("dur", 0.0)
            assert event.get("dur", 0.0) >= 0
    vmm = [event for event in events if event["tid"] == 2]
    assert len(vmm) == result.counted.interventions
    assert sum(event["name"] == "asleep" for event in events) == 10  # the ticker sleeps between ten ticks
    names = {event["args"]["name"] for event in data["traceEvents"] if event["ph"] == "M"}
    assert {"guest", "VMM"} <= names


def test_the_guest_s_track_has_every_instruction_that_ran_directly() -> None:
    text, result = traced("rings", "vtx", TraceFormat.CHROME)
    ran = sum(
        event["args"]["instructions"] for event in json.loads(text)["traceEvents"] if event.get("name") == "running"
    )
    emulated = result.counted.by_intervention[Intervention.EMULATED]
    assert ran + emulated == result.counted.instructions  # the last exit, the debug-exit port, is the last instruction


def test_a_run_without_exits_is_a_valid_trace() -> None:
    text, _ = traced("hello", "bare-metal", TraceFormat.CHROME)
    assert all(event["ph"] == "M" for event in json.loads(text)["traceEvents"])


def test_an_exit_as_a_dictionary_can_be_encoded() -> None:
    result = run("faults", "trap-and-emulate", trace=True)
    for record in result.exits:
        json.dumps(exit_to_dict(record, result.image))


PROGRAM = """
import sys
import simvirt
from simvirt.guests.resolve import resolve
from simvirt.observe.trace import trace_writer

image = resolve("sensitive")
for name in ("kvm", "jsonl", "chrome"):
    writer = trace_writer(name, sys.stdout, image)
    simvirt.run(image, sys.argv[1], trace=writer)
    writer.close()
"""


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_write_the_same_bytes(strategy: str, repository: Path) -> None:
    first, second = (
        subprocess.run(
            [sys.executable, "-c", PROGRAM, strategy],
            cwd=repository,
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    )
    assert first
    assert first == second


def test_an_unknown_format() -> None:
    with pytest.raises(ValueError, match="xml"):
        trace_writer("xml", io.StringIO(), resolve("hello"))
