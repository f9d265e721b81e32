from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.test_run import check_run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import FlatGuest, Simvirt


def test_json(simvirt: Simvirt) -> None:
    result = simvirt("compare", "popf-mask", "--json")
    assert (result.status, result.err) == (0, "")
    comparison = result.json()
    assert set(comparison) == {"schema", "guest", "reference", "runs", "verdicts"}
    assert comparison["schema"] == "simvirt.compare/1"
    assert (comparison["guest"], comparison["reference"]) == ("popf-mask", "bare-metal")
    for run in comparison["runs"]:
        check_run(run)
    assert [run["strategy"] for run in comparison["runs"]] == ["bare-metal", "trap-and-emulate", "vtx"]
    assert set(comparison["verdicts"]) == {"trap-and-emulate", "vtx"}
    for verdict in comparison["verdicts"].values():
        assert set(verdict) == {"equivalence", "exemptions", "first_divergence", "efficiency", "resource_control"}
        assert set(verdict["efficiency"]) == {"direct_fraction", "innocuous_interventions"}
        assert verdict["resource_control"]["violations"] == []
    diverged = comparison["verdicts"]["trap-and-emulate"]
    assert diverged["equivalence"] == "diverged"
    first = diverged["first_divergence"]
    assert set(first) == {
        "instruction",
        "address",
        "mnemonic",
        "component",
        "reference_value",
        "value",
        "explanation",
    }
    assert "popf" in first["mnemonic"]
    equivalent = comparison["verdicts"]["vtx"]
    assert (equivalent["equivalence"], equivalent["first_divergence"]) == ("equivalent", None)


def test_text(simvirt: Simvirt) -> None:
    result = simvirt("compare", "popf-mask", "--strategy", "tae")
    assert (result.status, result.err) == (0, "")
    for part in ("trap-and-emulate", "diverged", "popf", "EFLAGS", "SDM"):
        assert part in result.out
    assert "vtx" not in result.out
    assert len(result.out.splitlines()) <= 50  # one screen


def test_quiet_is_the_verdicts_alone(simvirt: Simvirt) -> None:
    assert simvirt("compare", "hello", "--strategy", "tae,vtx", "--quiet").out == (
        "trap-and-emulate: equivalent\nvtx: equivalent\n"
    )


def test_the_reference_alone_is_nothing_to_compare(simvirt: Simvirt) -> None:
    result = simvirt("compare", "hello", "--strategy", "bare-metal", "--json")
    assert result.status == 0
    assert result.json()["verdicts"] == {}
    assert "nothing to compare" in result.err
    assert "--strategy" in result.err


def test_sites(simvirt: Simvirt) -> None:
    result = simvirt("compare", "sensitive")
    assert result.status == 0
    for mnemonic in ("sgdt", "sidt", "sldt", "str", "smsw", "popf", "pushf", "lar", "lsl", "verr"):
        assert mnemonic in result.out


def test_a_guest_that_never_ends(simvirt: Simvirt, flat: FlatGuest) -> None:
    comparison = simvirt("compare", flat(b"\xeb\xfe"), "--json", "--max-instructions", "50_000").json()
    assert {run["outcome"] for run in comparison["runs"]} == {"limit"}
    assert {verdict["equivalence"] for verdict in comparison["verdicts"].values()} == {"undetermined"}


def test_one_trace_for_each_strategy(simvirt: Simvirt, tmp_path: Path) -> None:
    path = tmp_path / "trace.txt"
    comparison = simvirt("compare", "rings", "--json", "--trace", str(path)).json()
    exits = {run["strategy"]: run["counted"]["interventions"] for run in comparison["runs"]}
    assert exits.pop("bare-metal") == 0
    for strategy, number in exits.items():
        assert len((tmp_path / f"trace.{strategy}.txt").read_text().splitlines()) == number
    assert not path.exists()


@pytest.mark.parametrize("strategy", ["trap-and-emulate", "vtx"])
def test_a_single_trace_has_the_name_that_was_given(simvirt: Simvirt, tmp_path: Path, strategy: str) -> None:
    path = tmp_path / "trace.txt"
    simvirt("compare", "hello", "--strategy", strategy, "--trace", str(path), "--quiet")
    assert " kvm_exit: " in path.read_text()
