"""The self-test passes here, and refuses an engine that is not where it should be."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time

import pytest

from simvirt.errors import EngineError
from simvirt.machine import platforms, self_test
from simvirt.machine.cpu import Cpu
from simvirt.machine.memory import HostMemory


def test_every_experiment_succeeds_on_a_verified_platform() -> None:
    results = self_test.run()
    assert [result.name for result in results if not result.ok] == []
    assert len({result.name for result in results}) == len(results) >= 11
    assert all(result.detail for result in results)


def test_verify_is_silent_when_all_is_well() -> None:
    self_test.verify()


def test_it_is_quick() -> None:
    """The bound is loose: tests run on loaded machines. On an idle one it is some 10 ms."""
    start = time.perf_counter()
    self_test.run()
    assert time.perf_counter() - start < 0.5


STATE = platforms.LINUX_X86_64.state
WRONG = {
    "uc_bad_address": ({"uc_bad_address": platforms.LINUX_X86_64.uc_bad_address + 8}, {}, "refused accesses"),
    "error_code": ({}, {"error_code": STATE.error_code + 16}, "error codes"),
    "gdt and idt": ({}, {"gdt": STATE.idt, "idt": STATE.gdt}, "registers"),
    "ldt and tr": ({}, {"ldt": STATE.tr, "tr": STATE.ldt}, "registers"),
    "debug registers": ({}, {"dr": STATE.dr + 8}, "registers"),
}
"""Offsets that are off by a little: in the platform, in the state, and the experiment that notices."""


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_offset_is_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_platform, of_state, experiment = WRONG[what]
    state = dataclasses.replace(STATE, **of_state)
    platform = dataclasses.replace(platforms.LINUX_X86_64, state=state, **of_platform)  # type: ignore[arg-type]
    monkeypatch.setattr(platforms, "current", lambda: platform)
    failed = {result.name: result.detail for result in self_test.run() if not result.ok}
    assert experiment in failed
    assert "expected" in failed[experiment]
    monkeypatch.setattr(self_test, "_verified", False)
    with pytest.raises(EngineError, match=rf"self-test.*{experiment}.*install .* again"):
        self_test.verify()
    with pytest.raises(EngineError, match="self-test"):
        Cpu(HostMemory(1 << 16))
    assert not self_test._verified


def test_the_first_cpu_of_a_process_runs_it_once() -> None:
    program = """
from simvirt.machine import self_test
from simvirt.machine.cpu import Cpu
from simvirt.machine.memory import HostMemory
runs = []
real = self_test.run
self_test.run = lambda: runs.append(1) or real()
for _ in range(3):
    Cpu(HostMemory(1 << 16))
print(len(runs))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "1"


def test_another_version_of_unicorn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "UNICORN_VERSION", "9.9.9")
    with pytest.raises(EngineError, match=r"pip install unicorn==9\.9\.9"):
        self_test.run()


def test_an_unverified_platform_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platforms, "VERIFIED", {})
    with pytest.raises(EngineError, match="not verified on"):
        self_test.run()
