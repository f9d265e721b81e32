"""Snapshot files: a machine goes on from one as if it had never stopped; what does not fit is refused with words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from simvirt.errors import SnapshotError
from simvirt.machine import snapshot as files
from tests.support.exactness import (
    CPU_MODEL,
    STRATEGIES,
    build,
    difference,
    digest,
    features_for,
    identity,
    snapshot,
)
from tests.support.programs import Program, generate


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("seed", "pieces"), [(400, 40), (404, 40), (402, 60)])
def test_a_machine_goes_on_from_a_snapshot_as_if_it_had_not_stopped(
    seed: int, pieces: int, strategy: str, tmp_path: Path
) -> None:
    program = generate(seed, features_for(strategy), pieces)
    uninterrupted = build(program.image(), strategy).machine
    file = tmp_path / "machine"
    for share in range(1, 25):
        n = share * 83
        uninterrupted.run_to(n)
        files.dump(uninterrupted, file, identity(strategy))
        restored = build(generate(0, features_for(strategy)).image(), strategy).machine
        restored.run_to(share * 11)
        files.load(restored, file, identity(strategy))
        assert digest(restored) == digest(uninterrupted)
        reference = build(program.image(), strategy).machine
        reference.run_to(n + 400)
        restored.run_to(n + 400)
        assert not difference(snapshot(reference), snapshot(restored))
        assert digest(restored) == digest(reference)
        if uninterrupted.outcome is not None:
            break


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_new_process_goes_on_with_the_same_trace(strategy: str, tmp_path: Path, repository: Path) -> None:
    seed = 410
    program = generate(seed, features_for(strategy))
    machine = build(program.image(), strategy).machine
    machine.run_to(300)
    file = tmp_path / "machine"
    files.dump(machine, file, identity(strategy))
    expected = []
    while machine.outcome is None and machine.count < 2000:
        machine.run_to(machine.count + 25)
        expected.append([machine.count, digest(machine)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.continue_snapshot", str(file), strategy, "25", "2000"],
        capture_output=True, text=True, check=True, cwd=repository,
    )  # fmt: skip
    assert json.loads(done.stdout) == expected


@pytest.fixture
def program() -> Program:
    return generate(1)


@pytest.fixture
def saved(tmp_path: Path, program: Program) -> Path:
    machine = build(program.image(), "bare-metal").machine
    machine.run_to(100)
    file = tmp_path / "saved"
    files.dump(machine, file, identity("bare-metal"))
    return file


def test_the_header_tells_what_is_in_the_file(saved: Path) -> None:
    header = files.inspect(saved)
    assert header.identity == identity("bare-metal")
    assert header.count == 100


def test_a_file_of_another_kind_is_refused(tmp_path: Path, program: Program) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"\x7fELF and more")
    machine = build(program.image(), "bare-metal").machine
    with pytest.raises(SnapshotError, match="no snapshot"):
        files.load(machine, other, identity("bare-metal"))


def test_another_format_is_refused(saved: Path, program: Program) -> None:
    data = bytearray(saved.read_bytes())
    data[8:12] = (99).to_bytes(4, "little")
    saved.write_bytes(data)
    machine = build(program.image(), "bare-metal").machine
    with pytest.raises(SnapshotError, match="format 99"):
        files.load(machine, saved, identity("bare-metal"))


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (files.Identity("vtx", CPU_MODEL, 0x80000), "strategy bare-metal"),
        (files.Identity("bare-metal", "pentium", 0x80000), "cpu model core2"),
        (files.Identity("bare-metal", CPU_MODEL, 0x100000), "memory size 524288"),
    ],
)
def test_a_snapshot_of_another_machine_is_refused(
    other: files.Identity, word: str, saved: Path, program: Program
) -> None:
    machine = build(program.image(), "bare-metal").machine
    with pytest.raises(SnapshotError, match=word):
        files.load(machine, saved, other)


@pytest.mark.parametrize("keep", [4, 10, 15, 60, 1000])
def test_a_truncated_file_is_refused(keep: int, saved: Path, program: Program) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    machine = build(program.image(), "bare-metal").machine
    before = digest(machine)
    with pytest.raises(SnapshotError):
        files.load(machine, saved, identity("bare-metal"))
    assert digest(machine) == before


@pytest.mark.parametrize("at", [17, 40, 90, 500, -1])
def test_a_damaged_file_is_refused(at: int, saved: Path, program: Program) -> None:
    data = bytearray(saved.read_bytes())
    data[at] ^= 0x10
    saved.write_bytes(data)
    machine = build(program.image(), "bare-metal").machine
    before = digest(machine)
    with pytest.raises(SnapshotError):
        files.load(machine, saved, identity("bare-metal"))
    assert digest(machine) == before


def test_a_failed_write_leaves_the_old_file(saved: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    old = saved.read_bytes()
    machine = build(program.image(), "bare-metal").machine

    def full(*_: object) -> bytes:
        raise OSError(28, "no space left")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        files.dump(machine, saved, identity("bare-metal"))
    assert saved.read_bytes() == old
