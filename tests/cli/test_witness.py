from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from simvirt.analyzer.probe.sweep import machine_of, sweep

if TYPE_CHECKING:
    from tests.cli.conftest import Simvirt


def test_both_runs_again(simvirt: Simvirt) -> None:
    analysis = sweep("x86-32", forms=[machine_of("x86-32").form("popfd")])
    identifier = next(name for name in analysis.witnesses() if "/mode-sensitive/" in name)
    result = simvirt("witness", identifier)
    assert (result.status, result.err) == (0, "")
    assert f"witness {identifier}" in result.out
    assert "CPL" in result.out
    assert simvirt("witness", identifier).out == result.out


@pytest.mark.parametrize(
    ("identifier", "message"),
    [
        ("popfd", "FORM/PROPERTY/DIGITS"),
        ("pofpd/mode-sensitive/00000000", "did you mean 'popfd'"),
        ("popfd/mode-sensitive/00000000", "has no such witness in x86-32"),
    ],
)
def test_bad_input(simvirt: Simvirt, identifier: str, message: str) -> None:
    result = simvirt("witness", identifier, "--isa", "x86-32")
    assert result.status == 2
    assert message in result.err
