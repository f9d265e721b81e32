"""Sweeps: the same result in any order, by any number of workers, here and elsewhere; kept as long as it holds."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from simvirt.analyzer.model.form import Form
from simvirt.analyzer.probe import cache
from simvirt.analyzer.probe.executors import open_executor
from simvirt.analyzer.probe.sweep import machine_of, sweep
from simvirt.errors import UnknownNameError, UsageError

SAMPLE = 48


def _sample(seed: int = 1) -> list[str]:
    forms = [form.identifier for form in machine_of("x86-32").forms() if not form.not_executed]
    return random.Random(seed).sample([name for name in forms if not name.startswith("mov-sreg")], SAMPLE)


def _forms(names: list[str]) -> list[Form]:
    return [machine_of("x86-32").form(name) for name in names]


def test_neither_order_nor_workers_change_the_result() -> None:
    names = _sample()
    alone = sweep("x86-32", forms=_forms(names))
    shuffled = names.copy()
    random.Random(2).shuffle(shuffled)
    with open_executor(2) as executor:
        assert executor is not None
        parallel = sweep("x86-32", executor, forms=_forms(shuffled))
    by_name = {one.form.identifier: one for one in parallel.classifications}
    assert [by_name[name] for name in names] == list(alone.classifications)
    assert [one.form.identifier for one in parallel.classifications] == shuffled
    assert alone.witnesses().keys() == parallel.witnesses().keys()


def test_any_executor_will_do_and_progress_is_told() -> None:
    told: list[tuple[int, int]] = []
    names = _sample()[:40]
    with ThreadPoolExecutor(1) as executor:
        sweep("x86-32", executor, forms=_forms(names), progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 40)
    assert told[-1] == (40, 40)
    assert told == sorted(told)


def test_one_job_needs_nobody() -> None:
    with open_executor(1) as executor:
        assert executor is None


@pytest.mark.parametrize("address", ["dask:/x", "tcp://localhost:8786", "dask://", "localhost:8786", "dask://8786"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError, match="dask://HOST:PORT"), open_executor(address=address):
        pass


def test_an_unknown_instruction_set() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'x86-32'"):
        sweep("x68-32")


def test_a_result_is_kept_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    analysis = sweep("x86-32", forms=_forms(["popfd", "nopw"]))
    assert cache.load("x86-32") is None
    cache.store("x86-32", analysis)
    assert cache.load("x86-32") == analysis
    assert cache.load("x86-64") is None
    monkeypatch.setattr(cache, "fingerprint", lambda: "another")
    assert cache.load("x86-32") is None


def test_the_fingerprint_covers_what_experiments_run_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache.fingerprint()
    package = tmp_path / "simvirt"
    for name in ("machine/native/engine.c", "x86/decode.py", "analyzer/model/definitions.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("1")
    monkeypatch.setattr(cache, "_PACKAGE", package)
    digests = {before}
    for name in ("machine/native/engine.c", "x86/decode.py", "analyzer/model/definitions.py"):
        cache.fingerprint.cache_clear()
        digests.add(cache.fingerprint())
        (package / name).write_text("2")
    cache.fingerprint.cache_clear()
    digests.add(cache.fingerprint())
    assert len(digests) == 5
    cache.fingerprint.cache_clear()


def test_a_damaged_or_hostile_file_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "simvirt").mkdir()
    file = tmp_path / "simvirt" / "analysis-x86-32.pickle"
    for content in (b"", b"\x80\x05", b"cos\nsystem\n(S'touch hacked'\ntR.", b"I1\n."):
        file.write_bytes(content)
        assert cache.load("x86-32") is None


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "simvirt").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.store("x86-32", sweep("x86-32", forms=_forms(["nopw"])))
    assert cache.load("x86-32") is None
